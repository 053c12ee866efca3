"""Clips of labelled segments: what is drawn, what it is told to show, and what is wrong with files."""

from __future__ import annotations

import csv
import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import lightning as L
import numpy as np
import pytest
import torch
from conftest import shared
from tiny_encoders import Codes, Loudness, tiny_r2plus1d
from torch import nn
from videos import coded_video, read_codes

from groundzoo.datamodules import clip_dataset
from groundzoo.datamodules.activitynet_actions import ActivityNetActions
from groundzoo.datamodules.annotations import AnnotationError
from groundzoo.datamodules.clip_dataset import Told
from groundzoo.datamodules.features import FeatureError, FeatureStore
from groundzoo.datamodules.marking import write_video
from groundzoo.zoo.batch import ClipBatch
from groundzoo.zoo.video.combined import Combined
from groundzoo.zoo.video.precomputed import Precomputed
from groundzoo.zoo.video.r2plus1d import R2Plus1D

PREFIX = "activitynet_v1-3"
HEADER = "video-name,t-start,t-end,action-label,video-duration,filename,fps,video-frames,temporal-region-label"
FPS, SECONDS = 30, 4.0
WINDOW, RATE = 4, 15.0
CLIP_S = WINDOW / RATE
SEGMENTS = ((0.0, 1.0, ""), (1.0, 2.5, "Jump"), (2.5, 4.0, ""))
WORDS = ["man", "ball", "jumps", "red"]
SENTENCES = [((0.5, 1.5), "A man."), ((1.2, 2.0), "The man jumps."), ((3.0, 3.5), "A red ball.")]


class Task:
    def __init__(self, video_encoder: Any = None, uses_context: bool = False) -> None:
        self.video_encoder = video_encoder or Codes(WINDOW, WINDOW, fps=RATE, size=(48, 64))
        self.uses_context = uses_context


class Trainer:
    world_size = 1

    def __init__(self, task: Any) -> None:
        self.lightning_module = task


def row(name: str, start: float, end: float, action: str, duration: float = SECONDS) -> str:
    region = "Action" if action else "No action"
    frames = round(duration * FPS)
    return f"{name},{start},{end},{action},{duration},v_{name}.mp4,{FPS}.0,{frames},{region}"


def write_csv(root: Path, split: str, rows: list[str]) -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / f"{PREFIX}_{split}_tsp_groundtruth.csv").write_text(
        "\n".join([HEADER, *rows]) + "\n", encoding="utf-8"
    )


def write_captions(path: Path, names: list[str]) -> None:
    spans, texts = zip(*SENTENCES, strict=True)
    entry = {"duration": SECONDS, "timestamps": spans, "sentences": texts}
    path.write_text(json.dumps({f"v_{name}": entry for name in names}))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return coded_video(tmp_path_factory.mktemp("video") / "one.mp4", round(SECONDS * FPS), FPS)


@pytest.fixture
def root(tmp_path: Path, video: Path) -> Path:
    """Videos a, b, c to train on, the last one without sentences, and d to validate on."""
    root = tmp_path / "anet"
    for split, names in (("train", "abc"), ("valid", "d")):
        write_csv(root, split, [row(n, *segment) for n in names for segment in SEGMENTS])
    (root / f"{PREFIX}_action_label_mapping.json").write_text('["Dance", "Jump"]')
    (root / f"{PREFIX}_temporal_region_label_mapping.json").write_text('["Action", "No action"]')
    write_captions(root / "train.json", ["a", "b"])
    write_captions(root / "val_1.json", ["d"])
    (root / "words.json").write_text(json.dumps(WORDS))
    (root / "videos").mkdir()
    for name in "abcd":
        (root / "videos" / f"v_{name}.mp4").symlink_to(video)
    return root


def ready(
    root: Path, task: Any = None, stage: str = "fit", told: bool = True, **options: Any
) -> ActivityNetActions:
    texts = {"captions": root, "concepts": root / "words.json"} if told else {}
    defaults: dict[str, Any] = {"batch_size": 6, "eval_batch_size": 7, "num_workers": 0, **texts}
    data = ActivityNetActions(root, **(defaults | options))
    data.trainer = Trainer(task or Task())  # type: ignore[assignment]
    data.prepare_data()
    data.setup(stage)
    return data


def epoch(data: ActivityNetActions, number: int = 0, loader: Any = None) -> list[ClipBatch]:
    loader = loader or data.train_dataloader()
    loader.order.set_epoch(number)
    return list(loader)


def starts(batches: list[ClipBatch]) -> dict[str, float]:
    """Start of every clip by its id."""
    return {i: s for b in batches for i, s in zip(b.clip_ids, b.starts_s.tolist(), strict=True)}


def same(one: list[ClipBatch], two: list[ClipBatch]) -> bool:
    pairs = zip(one, two, strict=True)
    return all(
        a.clip_ids == b.clip_ids and a.starts_s.equal(b.starts_s) and a.clips.equal(b.clips) for a, b in pairs
    )


# ---- which clips ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 5])
def test_validation_clips_are_spread_evenly_and_show_their_time(root: Path, count: int) -> None:
    data = ready(root, clips_per_segment=count)
    batches = list(data.val_dataloader())
    assert [len(b) for b in batches] == [min(7, 3 * count - n) for n in range(0, 3 * count, 7)]
    ids = [i for b in batches for i in b.clip_ids]
    assert ids == [f"v_d#{s}/{k}" for k in range(count) for s in range(3)]
    assert torch.cat([b.index for b in batches]).tolist() == list(range(3 * count))
    shares = np.linspace(0, 1, count)
    for batch in batches:
        assert batch.clips.shape[1:] == (WINDOW, 3, 48, 64)
        assert batch.clips.dtype == torch.uint8
        for clip_id, start, clip in zip(batch.clip_ids, batch.starts_s.tolist(), batch.clips, strict=True):
            s, k = map(int, clip_id.split("#")[1].split("/"))
            first, last, _ = SEGMENTS[s]
            assert start == pytest.approx(first + shares[k] * (last - first - CLIP_S))
            times = start + np.arange(WINDOW) / RATE
            assert read_codes(clip) == np.floor((times + 1e-3) * FPS).astype(int).tolist()
    assert same(batches, list(data.val_dataloader()))


def test_an_epoch_takes_every_segment_equally_often(root: Path) -> None:
    data = ready(root)
    batches = epoch(data)
    assert [len(b) for b in batches] == [6] * 7 + [3]
    assert sorted(i for b in batches for i in b.index.tolist()) == list(range(45))
    every = Counter(i.split("/")[0] for b in batches for i in b.clip_ids)
    assert every == {f"v_{name}#{s}": 5 for name in "abc" for s in range(3)}
    for batch in batches:
        for clip_id, start, action, region in zip(
            batch.clip_ids, batch.starts_s.tolist(), batch.actions.tolist(), batch.regions.tolist(), strict=True
        ):
            first, last, name = SEGMENTS[int(clip_id.split("#")[1].split("/")[0])]
            assert first <= start <= last - CLIP_S + 1e-6
            assert (action, region) == ((1, 0) if name else (-1, 1))
        assert batch.video_ids == [i.split("#")[0] for i in batch.clip_ids]


def test_training_clips_lie_anywhere_in_their_segment(root: Path) -> None:
    drawing = ready(root)._datasets["train"].drawing
    shares = np.array([drawing.share(0, np.random.default_rng((0, 3, i))) for i in range(2000)])
    counts, _ = np.histogram(shares, bins=10, range=(0, 1))
    assert counts.min() > 150


def test_what_is_random_depends_on_seed_epoch_and_item_alone(root: Path) -> None:
    data = ready(root)
    first, second = starts(epoch(data, 0)), starts(epoch(data, 1))
    assert len(set(first.values())) == len(first), "every item has a draw of its own"
    assert all(first[i] != second[i] for i in first)
    assert starts(epoch(ready(root), 1)) == second
    assert all(first[i] != s for i, s in starts(epoch(ready(root, seed=1), 0)).items())


def test_workers_draw_the_same_clips_in_every_epoch(root: Path) -> None:
    alone, together = ready(root), ready(root, num_workers=2)
    loader = together.train_dataloader()
    assert loader.num_workers == 2
    for number in range(2):
        assert same(epoch(alone, number), epoch(together, number, loader))


def test_a_run_goes_on_in_the_middle_of_an_epoch(root: Path) -> None:
    whole = epoch(ready(root), 3)
    loader = ready(root).train_dataloader()
    loader.load_state_dict({"epoch": 3, "position": 5})
    assert same(epoch(ready(root), 3, loader), whole[5:])


def test_each_video_is_opened_once_per_batch(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    class Counting(clip_dataset.FrameReader):
        def __init__(self, path: Path) -> None:
            opened.append(path.name)
            super().__init__(path)

    monkeypatch.setattr(clip_dataset, "FrameReader", Counting)
    data = ready(root)._datasets["train"]
    batch = data.__getitems__([0, 9, 3, 18, 1])
    assert opened == ["v_a.mp4", "v_b.mp4"]
    assert batch.clip_ids == ["v_a#0/0", "v_a#0/1", "v_b#0/0", "v_a#0/2", "v_a#1/0"]
    assert data.__getitems__([18]).clips.equal(batch.clips[3:4]), "a clip does not depend on its batch"


def test_the_file_by_the_name_of_the_video(root: Path) -> None:
    for name in "abcd":
        (root / "videos" / f"v_{name}.mp4").rename(root / "videos" / f"{name}.mp4")
    assert ready(root).reports["train"].used == 9


# ---- what is cut out ------------------------------------------------------------------------------------


def ramps(path: Path) -> None:
    """A still video: red grows from left to right, green from top to bottom."""
    picture = np.zeros((64, 64, 3), dtype=np.uint8)
    picture[..., 0] = np.arange(64) * 3 + 20
    picture[..., 1] = np.arange(64)[:, None] * 3 + 20
    write_video(path, [picture] * round(SECONDS * FPS), float(FPS))


@pytest.mark.parametrize("flip", [True, False])
def test_crops_and_mirrors(root: Path, flip: bool) -> None:
    for name in "abcd":
        (root / "videos" / f"v_{name}.mp4").unlink()
        ramps(root / "videos" / f"v_{name}.mp4")
    encoder = R2Plus1D("random", layers=(1, 1, 1, 1), width=2, size=32, window=WINDOW, resize=(48, 64))
    assert encoder.spec.fps == RATE
    data = ready(root, Task(encoder), flip=flip)
    clips = torch.cat([b.clips for b in epoch(data)]).float()
    assert clips.shape[1:] == (WINDOW, 3, 32, 32)
    assert (clips - clips[:, :1]).abs().max() < 12, "all frames of a clip are cut in the same way"
    slope = clips[:, 0, 0, :, 24:].mean((1, 2)) - clips[:, 0, 0, :, :8].mean((1, 2))
    mirrored = slope < 0
    assert 0.2 < mirrored.float().mean() < 0.8 if flip else not mirrored.any()
    left = torch.where(mirrored[:, None], clips[:, 0, 0, :, -1], clips[:, 0, 0, :, 0]).mean(1)
    left, top = (left - 20) / 3, (clips[:, 0, 1, 0].mean(1) - 20) / 3 * 48 / 64
    for offset, room in ((left, 32), (top, 16)):
        assert offset.min() < 0.15 * room
        assert offset.max() > 0.85 * room
        assert offset.max() < room + 2
    (val,) = ready(root, Task(encoder), flip=flip, eval_batch_size=99).val_dataloader()
    assert ((val.clips[:, 0, 0, :, 0].float().mean(1) - 20) / 3 - 16).abs().max() < 2, "in the middle"
    assert ((val.clips[:, 0, 1, 0].float().mean(1) - 20) / 4 - 8).abs().max() < 2


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (Codes(4, 4, 2, 15.0, (48, 64)), "looks at 2 units at once"),
        (Codes(4, 4, 1, 15.0, None), "frames of any size"),
        (Codes(4, 4, 1, None, (48, 64)), "set its `fps`"),
        (Loudness(), "hears sound"),
        (Combined([Precomputed(4, 1, 1, 1.0), Precomputed(4, 1, 1, 1.0)]), "several encoders"),
    ],
)
def test_encoders_without_single_clips_are_refused(root: Path, encoder: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ready(root, Task(encoder))


# ---- videos that are not what they should be ------------------------------------------------------------


def break_video(root: Path, name: str) -> None:
    path = root / "videos" / f"v_{name}.mp4"
    path.unlink()
    path.write_bytes(b"no video at all")


def test_a_broken_video_is_told_left_out_and_replaced(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    break_video(root, "b")
    data = ready(root)
    with caplog.at_level(logging.WARNING):
        first, second = epoch(data, 0), epoch(data, 1)
    assert [len(b) for b in first + second] == 2 * ([6] * 7 + [3])
    assert sum("v_b.mp4" in message for message in caplog.messages) == 1
    assert data._datasets["train"].lost == {"v_b"}
    for batch in first + second:
        assert "v_b" not in batch.video_ids
        assert len(set(batch.index.tolist())) == len(batch), "no clip stands in for two"
        expected = [f"{data._datasets['train'].segments[i % 9].segment_id}/{i // 9}" for i in batch.index.tolist()]
        assert batch.clip_ids == expected
    assert same(first, epoch(ready(root, num_workers=2), 0))


def test_the_clip_that_stands_in_is_not_in_the_batch(root: Path) -> None:
    for name in "bc":
        break_video(root, name)
    batch = ready(root)._datasets["train"].__getitems__([9, 5])
    assert batch.index.tolist() == [9, 10], "behind b and c comes a, whose first clip is there"


def test_in_evaluation_nothing_replaces_a_broken_video(root: Path) -> None:
    write_csv(root, "valid", [row(n, *segment) for n in "ad" for segment in SEGMENTS])
    break_video(root, "d")
    batches = list(ready(root, stage="validate").val_dataloader())
    assert {v for b in batches for v in b.video_ids} == {"v_a"}
    assert len({i for b in batches for i in b.clip_ids}) == 15


def test_no_readable_video_ends_the_run(root: Path) -> None:
    break_video(root, "d")
    with pytest.raises(FeatureError, match="not one video"):
        list(ready(root).val_dataloader())


def test_a_file_shorter_than_announced(root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Clips end where the file does; a segment behind its end says that this is another video."""
    path = root / "videos" / "v_d.mp4"
    path.unlink()
    coded_video(path, 90, FPS)
    batches = list(ready(root, clips_per_segment=2).val_dataloader())
    assert starts(batches)["v_d#2/1"] == pytest.approx(3.0 - CLIP_S)
    path.unlink()
    coded_video(path, 60, FPS)
    with caplog.at_level(logging.WARNING), pytest.raises(FeatureError):
        list(ready(root).val_dataloader())
    assert any("ends at 2.0 s, before segment v_d#2 starts" in message for message in caplog.messages)


def test_segments_that_cannot_be_used_are_counted(root: Path) -> None:
    rows = [
        row("a", -1.0, 1.0, ""),
        row("a", 1.0, 1.2, "Jump"),
        row("a", 3.0, 9.0, ""),
        row("a", 3.9, 9.0, "Jump"),
    ]
    write_csv(root, "train", [*rows, row("zz", 0.0, 4.0, "Jump"), row("a", 0.0, CLIP_S, "Dance")])
    data = ready(root)
    counts = data.provenance()["splits"]["train"]
    assert (counts["official"], counts["used"]) == (6, 3)
    assert counts["repaired"] == {"start before 0": 1, "end after the video's end": 2}
    assert counts["dropped"] == {"shorter than a clip": 2, "no video file": 1}
    assert data.reports["train"].dropped["shorter than a clip"] == ["v_a#1", "v_a#3"]
    kept = data._datasets["train"].segments
    assert [(s.segment_id, s.start_s, s.end_s) for s in kept][:2] == [("v_a#0", 0.0, 1.0), ("v_a#2", 3.0, 4.0)]


def test_no_video_at_all(root: Path) -> None:
    (root / "other").mkdir()
    with pytest.raises(AnnotationError, match=r"no usable segment.*data\.init_args\.videos"):
        ready(root, videos=root / "other")
    with pytest.raises(FeatureError, match=r"none of the annotated videos is in .*other"):
        ready(root, Task(tiny_r2plus1d(), True), videos=root / "other")


# ---- what clips show ------------------------------------------------------------------------------------


def test_concepts_are_those_of_all_sentences_at_the_time(root: Path) -> None:
    batches = epoch(ready(root))
    shown = set()
    for batch in batches:
        assert batch.concepts.shape == (len(batch), 4)
        assert batch.concepts.dtype == batch.described.dtype == torch.bool
        for k, start in enumerate(batch.starts_s.tolist()):
            expected = set()
            for (first, last), text in SENTENCES:
                if max(first, start) < min(last, start + CLIP_S):
                    expected |= set(text.lower().rstrip(".").split()) & set(WORDS)
            named = {word for word, there in zip(WORDS, batch.concepts[k].tolist(), strict=True) if there}
            described = batch.video_ids[k] != "v_c"
            assert named == (expected if described else set())
            assert batch.described[k] == described
            shown.add(frozenset(named))
    assert {frozenset(), frozenset({"man"}), frozenset({"man", "jumps"})} <= shown


def test_sentences_that_hardly_touch_a_clip() -> None:
    told = Told(np.array([[0.0, 1.0], [1.0, 5.0], [4.0, 2.0]]), np.eye(3, dtype=bool))
    for start, least, expected in (
        (1.0, 0.0, [1]),
        (0.9, 0.0, [0, 1]),
        (0.9, 0.2, [1]),
        (2.5, 0.0, [1]),
        (7, 0, []),
    ):
        named, any_sentence = told.within(start, start + 1.0, least)
        assert np.flatnonzero(named).tolist() == expected, "an inverted span is at no time"
        assert any_sentence == bool(expected)


@pytest.mark.parametrize("unlabelled", ["negative", "masked"])
def test_clips_at_which_nothing_is_said(root: Path, unlabelled: str) -> None:
    data = ready(root, unlabelled=unlabelled, clips_per_segment=9, eval_batch_size=99)
    (batch,) = data.val_dataloader()
    silent = ~batch.concepts.any(1)
    assert silent.any()
    assert not silent.all()
    assert batch.described.equal(~silent if unlabelled == "masked" else torch.ones_like(silent))


def test_min_overlap_reaches_the_clips(root: Path) -> None:
    (any_at_all,), (much,) = (
        ready(root, min_overlap_s=s, eval_batch_size=99).val_dataloader() for s in (0.0, 0.9 * CLIP_S)
    )
    assert (any_at_all.concepts | ~much.concepts).all()
    assert any_at_all.concepts.sum() > much.concepts.sum() > 0


def test_without_concepts(root: Path) -> None:
    data = ready(root, told=False)
    batch = epoch(data)[0]
    assert batch.concepts.shape == (6, 0)
    assert not batch.described.any()
    assert list(data.vocabulary_texts()) == [("action", "Dance"), ("action", "Jump")]
    with pytest.raises(ValueError, match="belong together"):
        ActivityNetActions(root, captions=root)


def test_classes_and_concepts_are_told_in_order(root: Path) -> None:
    data = ready(root)
    words = [("concept", word) for word in WORDS]
    assert list(data.vocabulary_texts()) == [("action", "Dance"), ("action", "Jump"), *words]
    assert json.loads(json.dumps(data.provenance()))["concepts"] == str(root / "words.json")


def test_a_batch_of_background_alone(root: Path) -> None:
    write_csv(root, "train", [row("a", 0.0, 1.0, ""), row("a", 2.0, 3.0, "")])
    for batch in epoch(ready(root)):
        assert (batch.actions == -1).all()
        assert (batch.regions == 1).all()


def test_the_test_split_is_the_validation_split_unless_it_has_a_file(root: Path) -> None:
    (batch,) = ready(root, stage="test", eval_batch_size=99).test_dataloader()
    assert set(batch.video_ids) == {"v_d"}
    assert batch.described.all()
    write_csv(root, "test", [row("a", *segment) for segment in SEGMENTS])
    write_captions(root / "val_2.json", ["b"])
    data = ready(root, stage="test", eval_batch_size=99)
    for (batch,) in (data.test_dataloader(), data.predict_dataloader()):
        assert set(batch.video_ids) == {"v_a"}
        assert not batch.described.any()


# ---- features of whole videos ---------------------------------------------------------------------------


def test_the_context_is_the_maximum_over_units(root: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    units = {name: rng.normal(size=(4, 5)).astype(np.float32) for name in "abd"}
    (tmp_path / "store").mkdir()
    with h5py.File(tmp_path / "gvf.h5", "w") as file:
        for name, array in units.items():
            np.save(tmp_path / "store" / f"v_{name}.npy", array)
            file[name] = array[0]  # by the video's other name
    data = ready(root, Task(uses_context=True), features=[tmp_path / "store", tmp_path / "gvf.h5"])
    assert data.provenance()["splits"]["train"]["dropped"] == {"no context of the video": 3}
    for batch in [*epoch(data), *data.val_dataloader()]:
        assert batch.context.dtype == torch.float32
        for video_id, context in zip(batch.video_ids, batch.context.numpy(), strict=True):
            array = units[video_id[2:]]
            np.testing.assert_array_equal(context, np.concatenate([array.max(0), array[0]]))
    assert not (root / "features").exists()
    write_csv(root, "train", [row("c", *segment) for segment in SEGMENTS])
    with pytest.raises(AnnotationError, match="no usable segment"):
        ready(root, Task(uses_context=True), features=tmp_path / "gvf.h5")


def test_context_of_odd_shapes(root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    vectors: dict[str, Any] = {
        "v_a": np.zeros(3),
        "v_b": np.full(3, np.nan),
        "v_c": np.zeros((2, 2, 3)),
        "v_d": [1, 2],
    }
    with h5py.File(tmp_path / "gvf.h5", "w") as file:
        for name, vector in vectors.items():
            file[name] = vector
    store = FeatureStore(tmp_path / "gvf.h5")
    assert store.maximum("v_a").shape == (3,)
    with pytest.raises(FeatureError, match=r"shape \(3,\)"):
        store.read("v_a")
    with pytest.raises(FeatureError, match="NaN"):
        store.maximum("v_b")
    with pytest.raises(FeatureError, match=r"shape \(2, 2, 3\)"):
        store.maximum("v_c")
    data = ready(root, Task(uses_context=True), features=tmp_path / "gvf.h5")
    assert data.reports["train"].used == 3, "what is broken is told, and left out"
    assert any("v_b" in message for message in caplog.messages)
    with h5py.File(tmp_path / "gvf.h5", "a") as file:
        del file["v_b"]
        file["v_b"] = np.zeros(4)
    with pytest.raises(FeatureError, match="those of v_b are 4 wide, those of v_a 3"):
        ready(root, Task(uses_context=True), features=tmp_path / "gvf.h5")


def test_no_context_is_made_for_a_task_without(root: Path) -> None:
    data = ready(root, Task(tiny_r2plus1d()))
    assert epoch(data)[0].context.shape == (6, 0)
    assert not (root / "features").exists()


class Learner(L.LightningModule):
    """A task that trains its encoder a little, and keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.video_encoder = R2Plus1D("random", layers=(1, 1, 1, 1), width=2, size=16, window=4, trainable=True)
        self.head = nn.Linear(self.video_encoder.dim, 2)
        self.uses_context = True
        self.seen: dict[str, list[torch.Tensor]] = {}

    def _step(self, batch: ClipBatch, split: str) -> torch.Tensor:
        for video_id, context in zip(batch.video_ids, batch.context, strict=True):
            self.seen.setdefault(f"{split} {video_id}", []).append(context)
        return nn.functional.cross_entropy(self.head(self.video_encoder(batch.clips).frames[:, 0]), batch.regions)

    def training_step(self, batch: ClipBatch, batch_idx: int) -> torch.Tensor:
        return self._step(batch, "train")

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> None:
        self._step(batch, "val")

    def test_step(self, batch: ClipBatch, batch_idx: int) -> None:
        self._step(batch, "test")

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore")
def test_the_context_comes_from_the_encoder_before_training(root: Path) -> None:
    task = Learner()
    before = {name: value.clone() for name, value in task.video_encoder.state_dict().items()}
    data = ActivityNetActions(root, clips_per_segment=1, batch_size=5, num_workers=0)
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=root,
    )  # fmt: skip
    data.trainer = Trainer(task)  # type: ignore[assignment]
    data.prepare_data()
    assert task.video_encoder.training
    assert all(value.equal(before[name]) for name, value in task.video_encoder.state_dict().items())
    trainer.fit(task, data)
    moved = [n for n, value in task.video_encoder.state_dict().items() if not value.equal(before[n])]
    assert moved, "else this tests nothing"
    trainer.test(task, data, verbose=False)
    assert len(list((root / "features").iterdir())) == 1, "the trained encoder makes none"
    assert task.seen.keys() >= {"train v_a", "train v_b", "train v_c", "val v_d", "test v_d"}
    assert task.seen["test v_d"][0].equal(task.seen["val v_d"][0])
    store = FeatureStore(next((root / "features").iterdir()))
    for key, contexts in task.seen.items():
        expected = torch.from_numpy(store.read(key.split()[1]).units.max(0)).float()
        assert all(context.equal(expected) for context in contexts)
    again = Learner()
    resumed = ready(root, again, told=False)
    assert resumed.stores[0].path == store.path, "the same configuration finds it again"


def test_the_context_grows_with_the_splits(root: Path) -> None:
    task = Task(tiny_r2plus1d(), True)
    data = ActivityNetActions(root, cache=root / "other", num_workers=0)
    data.trainer = Trainer(task)  # type: ignore[assignment]
    data.trainer.state = type("State", (), {"fn": "validate"})  # type: ignore[union-attr]
    for verb in ("validate", "fit"):
        data.trainer.state.fn = verb  # type: ignore[union-attr]
        data.prepare_data()
        data.setup(verb)
    assert data.reports["train"].dropped.keys() == {"shorter than a clip"}
    assert data.reports["train"].used == 6


# ---- annotation files -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a,x,1,Jump,4,v_a.mp4,30,120,Action", r":2: could not convert.*'x'"),
        ("a,0,nan,Jump,4,v_a.mp4,30,120,Action", r":2: 0 to nan s"),
        ("a,0,1,Jump,0,v_a.mp4,30,120,Action", r":2: .*of a video of 0 s"),
        ("a,0,1,Fly,4,v_a.mp4,30,120,Action", r":2: unknown action 'Fly'; the label mapping"),
        ("a,0,1,,4,v_a.mp4,30,120,Action", r":2: action '' in the region 'Action'"),
        ("a,0,1,Jump,4,v_a.mp4,30,120,No action", r":2: action 'Jump' in the region 'No action'"),
        ("a,0,1,Jump,4", r":2: this line has not as many values"),
        ("a,0,1,Jump,4,v_a.mp4,30,120,Action,more", r":2: this line has not as many values"),
        ("../a,0,1,Jump,4,v_a.mp4,30,120,Action", r":2: '../a' is not a plain video name"),
        (",0,1,Jump,4,v_a.mp4,30,120,Action", r":2: '' is not a plain video name"),
    ],
)
def test_a_bad_row_is_named(root: Path, line: str, message: str) -> None:
    write_csv(root, "train", [line])
    with pytest.raises(AnnotationError, match=f"{PREFIX}_train_tsp_groundtruth.csv{message}"):
        ActivityNetActions(root).read("train")


def test_bad_files_are_named(root: Path) -> None:
    data = ActivityNetActions(root)
    path = root / f"{PREFIX}_train_tsp_groundtruth.csv"
    path.write_text("video-name,t-start\na,1\n")
    with pytest.raises(AnnotationError, match=r"train_tsp_groundtruth.csv:1: no column t-end, video-duration"):
        data.read("train")
    path.write_bytes(b"\xff\xfe\x00bad")
    with pytest.raises(AnnotationError, match="cannot be read"):
        data.read("train")
    path.unlink()
    with pytest.raises(AnnotationError, match="does not exist"):
        data.read("train")
    regions = root / f"{PREFIX}_temporal_region_label_mapping.json"
    regions.write_text('["Action"]')
    with pytest.raises(AnnotationError, match="two regions"):
        data.read("valid")  # type: ignore[arg-type]
    for text, message in (('{"a": 1}', "a list of names"), ('["a", "b", "a"]', "'a' comes twice")):
        (root / f"{PREFIX}_action_label_mapping.json").write_text(text)
        with pytest.raises(AnnotationError, match=message):
            data.actions()


def test_a_csv_without_file_names(root: Path) -> None:
    path = root / f"{PREFIX}_train_tsp_groundtruth.csv"
    with path.open(newline="") as file:
        table = list(csv.DictReader(file))
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, [name for name in table[0] if name != "filename"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows({**line, "video-name": f"v_{line['video-name']}"} for line in table)
    assert {s.video_id for s in ActivityNetActions(root).read("train")} == {"v_a", "v_b", "v_c"}
    assert ready(root).reports["train"].used == 9


def test_options_out_of_range(root: Path) -> None:
    for wrong in ({"clips_per_segment": 0}, {"min_overlap_s": -1.0}):
        with pytest.raises(ValueError, match="at least one, not negative"):
            ActivityNetActions(root, **wrong)
    with pytest.raises(TypeError, match="serves tasks with `video_encoder` and `uses_context`"):
        ready(root, object())


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> ActivityNetActions:
    """ActivityNet's own files; of the videos there are the names alone."""
    folder, captions = shared("data", "anet13"), shared("data", "anet_captions")
    videos = tmp_path_factory.mktemp("videos")
    (videos / "words.json").write_text('["man"]')
    task = Task(Codes(16, 16, fps=15.0, size=(112, 112)))
    data = ActivityNetActions(folder, videos=videos, captions=captions, concepts=videos / "words.json")
    for split in ("train", "val"):
        for video_id in {s.video_id for s in data.read(split)}:  # type: ignore[arg-type]
            (videos / f"{video_id}.mp4").touch()
    data.trainer = Trainer(task)  # type: ignore[assignment]
    data.setup("fit")
    return data


@pytest.mark.parametrize(
    ("split", "rows", "actions", "short", "videos", "described"),
    [("train", 31366, 15410, 179, 10024, 10009), ("val", 15401, 7654, 96, 4926, 4917)],
)
def test_activitynet_itself(
    real: ActivityNetActions, split: Any, rows: int, actions: int, short: int, videos: int, described: int
) -> None:
    segments = real.read(split)
    assert len(segments) == rows
    assert sum(s.action >= 0 for s in segments) == actions
    assert {s.action for s in segments} == set(range(-1, 200))
    counts = real.provenance()["splits"][split]
    assert counts["official"] == rows
    assert counts["dropped"] == {"shorter than a clip": short}
    assert counts["used"] == rows - short
    data = real._datasets[split]
    assert len(data) == 5 * (rows - short)
    assert len({s.video_id for s in segments}) == videos
    there = {s.video_id for s in data.segments}
    assert len(data.known.told) == sum(video_id in data.known.told for video_id in there)
    known = {q.video_id for q in real.sentences(split)}
    assert len({s.video_id for s in segments} & known) == described == len(known)
    assert set(data.known.told) == there & known
