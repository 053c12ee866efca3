"""Paragraphs: from ActivityNet Captions' files and features to whole videos with their events in order."""

from __future__ import annotations

import hashlib
import json
import logging
import pickle
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch
import videos
from conftest import shared
from jsonargparse import ArgumentParser

from groundzoo.datamodules.annotations import AnnotationError
from groundzoo.datamodules.dense_captions import DenseCaptions, sentence_words
from groundzoo.datamodules.features import FeatureError
from groundzoo.datamodules.proposal_files import Proposals, match, write_proposals
from groundzoo.zoo.batch import EventBatch
from groundzoo.zoo.video.combined import Combined
from groundzoo.zoo.video.pixel_grid import PixelGrid
from groundzoo.zoo.video.precomputed import Precomputed

DIM = 3
VIDEOS = {"train": range(0, 9), "val_1": range(9, 16), "val_2": range(9, 15)}
Split = Literal["train", "val", "test"]


def name_of(k: int) -> str:
    return f"v_{k:011d}"


def times(k: int, file: str) -> list[list[float]]:
    """Events of a video: unsorted, two with the same start, their number depends on the video."""
    shift = 0.5 if file == "val_2" else 0.0
    return [[(7.0 * e + k) % 10 + shift, 15.0 + e] for e in range(1 + k % 4)] + [[2.0, 3.0], [2.0, 9.0]]


def write_world(root: Path) -> Path:
    """Three annotation files and features; unit t of video k is ``[k, t, 1]``."""
    (root / "features").mkdir(parents=True)
    for file, numbers in VIDEOS.items():
        entries = {
            name_of(k): {
                "duration": 20.0 + k,
                "timestamps": times(k, file),
                "sentences": [f" {file.title()}, video {k}: event {e}." for e in range(len(times(k, file)))],
            }
            for k in numbers
        }
        (root / f"{file}.json").write_text(json.dumps(entries))
    for k in range(16):
        np.save(root / "features" / f"{name_of(k)}.npy", units_of(k))
    return root


def units_of(k: int) -> Any:
    t = np.arange(5 + k % 5, dtype=np.float32)
    return np.stack([np.full_like(t, k), t, np.ones_like(t)], axis=1)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_world(tmp_path / "world")


def module(
    root: Path, stage: str = "fit", encoder: Any = None, subsample: int = 1, **options: Any
) -> DenseCaptions:
    options = {"features": root / "features", "num_workers": 0, "batch_size": 4, "eval_batch_size": 4} | options
    data = DenseCaptions(root, **options)
    task = SimpleNamespace(video_encoder=encoder or Precomputed(DIM, window=4, stride=4), subsample=subsample)
    data.trainer: Any = SimpleNamespace(lightning_module=task, world_size=1)
    data.prepare_data()
    data.setup(stage)
    return data


def edit(path: Path, video: str, **changes: Any) -> None:
    entries = json.loads(path.read_text())
    entries[video] |= changes
    path.write_text(json.dumps(entries))


def same(a: EventBatch, b: EventBatch) -> bool:
    return all(
        torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y
        for x, y in zip(vars(a).values(), vars(b).values(), strict=True)
    )


# ---- batches -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("subsample", [1, 2])
def test_batches_say_what_the_files_say(root: Path, split: str, subsample: int) -> None:
    data = module(root, "test" if split == "test" else "fit", test_split="val_2", subsample=subsample)
    file = {"train": "train", "val": "val_1", "test": "val_2"}[split]
    batches = list(getattr(data, f"{split}_dataloader")())
    names = [video for batch in batches for video in batch.video_ids]
    assert sorted(names) == [name_of(k) for k in VIDEOS[file]]
    assert (names == sorted(names)) == (split != "train")
    for batch in batches:
        lengths = batch.clip_mask.sum(1).tolist()
        assert batch.clips.shape == (len(batch), max(lengths), DIM)
        assert batch.events_s.shape == (len(batch), max(len(s) for s in batch.sentences), 2)
        assert torch.equal(batch.events_s, batch.truth_s)
        assert torch.equal(batch.event_mask, batch.truth_mask)
        assert batch.clips.dtype == batch.events_s.dtype == batch.durations_s.dtype == torch.float32
        for v, video in enumerate(batch.video_ids):
            k = int(video[2:])
            assert batch.durations_s[v] == 20 + k
            assert int(batch.index[v]) == k - VIDEOS[file][0]
            np.testing.assert_array_equal(batch.clips[v, : lengths[v]], units_of(k)[::subsample])
            assert not batch.clips[v, lengths[v] :].any()
            rows = sorted(enumerate(times(k, file)), key=lambda row: row[1][0])  # stable
            events = int(batch.event_mask[v].sum())
            assert batch.event_mask[v].tolist() == [e < len(rows) for e in range(batch.event_mask.shape[1])]
            np.testing.assert_allclose(batch.events_s[v, :events], [moment for _, moment in rows])
            assert not batch.events_s[v, events:].any()
            words = "val 1" if file == "val_1" else "val 2" if file == "val_2" else "train"
            assert batch.sentences[v] == [f"{words} video {k} event {e}".split() for e, _ in rows]


@pytest.mark.parametrize("proposals", [False, True])
def test_workers_change_nothing_and_epochs_differ(root: Path, proposals: bool) -> None:
    given = {"train_proposals": write_candidates(root)} if proposals else {}

    def epoch(number: int, loader: Any) -> list[EventBatch]:
        loader.order.set_epoch(number)
        return list(loader)

    alone, two = (module(root, num_workers=n, **given).train_dataloader() for n in (0, 2))
    assert two.num_workers == 2
    epochs = [epoch(n, alone) for n in (0, 1, 2)]
    for n in (0, 2, 1):  # the workers outlive epochs
        assert all(same(a, b) for a, b in zip(epoch(n, two), epochs[n], strict=True))
    assert [b.video_ids for b in epochs[0]] != [b.video_ids for b in epochs[1]]
    other = epoch(0, module(root, seed=1, **given).train_dataloader())
    assert [b.video_ids for b in other] != [b.video_ids for b in epochs[0]]
    told = [
        {v: b.events_s[i][b.event_mask[i]].tolist() for b in batches for i, v in enumerate(b.video_ids)}
        for batches in epochs
    ]
    assert (told[0] != told[1]) == (told[1] != told[2]) == proposals


@pytest.mark.parametrize("workers", [0, 2])
def test_resumes_in_the_middle_of_an_epoch(root: Path, workers: int) -> None:
    proposals = write_candidates(root)

    def loader() -> Any:
        made = module(root, train_proposals=proposals, batch_size=2, num_workers=workers).train_dataloader()
        made.order.set_epoch(3)
        return made

    whole = list(loader())
    first, second = loader(), loader()
    stopped = iter(first)
    for _ in range(2):
        next(stopped)
    second.load_state_dict(first.state_dict())
    assert all(same(a, b) for a, b in zip(second, whole[2:], strict=True))


def test_prediction_reads_the_test_split(root: Path) -> None:
    data = module(root, "predict", test_split="val_2")
    pairs = zip(data.predict_dataloader(), data.test_dataloader(), strict=True)
    assert all(same(a, b) for a, b in pairs)


def test_dataset_can_be_sent_to_workers(root: Path) -> None:
    dataset: Any = module(root, train_proposals=write_candidates(root)).train_dataloader().dataset
    assert same(pickle.loads(pickle.dumps(dataset))[0], dataset[0])


# ---- what is missing or broken -------------------------------------------------------------------------


def test_what_cannot_be_told_is_left_out_and_counted(root: Path) -> None:
    for file, video in (("train", name_of(3)), ("val_1", name_of(9))):
        moments = [[4, 2], [-1, 5], [6, 6], [25, 99], [1, 2], [2, 3], [8, 9], [0, float("nan")]]
        sentences = ["Inverted.", "before", "Empty", "behind", " ", ". ?", "fine!", "nan"]
        edit(root / f"{file}.json", video, timestamps=moments, sentences=sentences, duration=20.0)
    data = module(root)
    for split, loader, number in (("train", data.train_dataloader(), 3), ("val", data.val_dataloader(), 9)):
        report = data.reports[split]
        assert report.dropped == {
            "moment is empty or inverted": [f"{name_of(number)}#{k}" for k in (0, 2, 3)],
            "empty sentence": [f"{name_of(number)}#{k}" for k in (4, 5)],
            "times are not finite numbers": [f"{name_of(number)}#7"],
        }
        assert report.used == report.official - 6
        rows = [(b, b.video_ids.index(name_of(number))) for b in loader if name_of(number) in b.video_ids]
        ((batch, v),) = rows
        assert batch.sentences[v] == [["before"], ["fine"]]
        assert batch.events_s[v, :2].tolist() == [[0, 5], [8, 9]]
    references = data.dense_references("val")
    assert references is not None
    assert len(references[0][name_of(9)]["timestamps"]) == 8  # the official denominator
    assert data.provenance()["splits"]["train"]["dropped"]["empty sentence"] == 2


def test_videos_without_features_are_counted(root: Path) -> None:
    (root / "features" / f"{name_of(9)}.npy").unlink()
    data = module(root)
    gone = [f"{name_of(9)}#{k}" for k in range(len(times(9, "val_1")))]
    assert data.reports["val"].dropped == {"no features of the video": gone}
    assert name_of(9) not in [v for b in data.val_dataloader() for v in b.video_ids]
    for path in (root / "features").iterdir():
        path.rename(path.with_name(f"x{path.name}"))
    with pytest.raises(AnnotationError, match=r"DenseCaptions: no usable sentence. .*no features of the video"):
        module(root)


@pytest.mark.parametrize("how", ["gone", "nan", "width"])
def test_video_lost_in_the_middle_of_an_epoch(root: Path, caplog: pytest.LogCaptureFixture, how: str) -> None:
    data = module(root, eval_batch_size=2)
    for k in (9, 11, 12):
        path = root / "features" / f"{name_of(k)}.npy"
        path.unlink()
        if how != "gone":
            np.save(path, np.full((5, DIM), np.nan) if how == "nan" else np.ones((5, DIM + 1)))
    loader = data.val_dataloader()
    with caplog.at_level(logging.WARNING):
        batches = list(loader)
    # the second batch is broken as a whole: the next video takes its place
    assert [b.index.tolist() for b in batches] == [[1], [4], [4, 5], [6]]
    assert all(len(b.clips) == len(b.sentences) == len(b.durations_s) == len(b) for b in batches)
    messages = [r.getMessage() for r in caplog.records if "left out" in r.getMessage()]
    assert [name_of(k) in m for k, m in zip((9, 11, 12), messages, strict=True)] == [True] * 3
    dataset: Any = loader.dataset
    assert dataset.lost == {name_of(k) for k in (9, 11, 12)}


def test_tasks_that_do_not_fit(root: Path) -> None:
    with pytest.raises(FeatureError, match=f"dim is {DIM}, not 99"):
        module(root, encoder=Precomputed(99))
    trained = Precomputed(DIM)
    trained.trainable = True
    with pytest.raises(ValueError, match="set trainable to false"):
        module(root, encoder=trained)
    data = DenseCaptions(root, features=root / "features")
    data.trainer: Any = SimpleNamespace(lightning_module=SimpleNamespace(), world_size=1)
    with pytest.raises(TypeError, match="video_encoder"):
        data.setup("fit")
    for options, message in (
        ({"held_out": 0}, "held_out=0"),
        ({"max_proposals": 1001}, "looks at 1000 proposals"),
    ):
        with pytest.raises(ValueError, match=message):
            DenseCaptions(root, **options)


# ---- several streams, and videos -----------------------------------------------------------------------


def test_missing_streams_are_dropped_or_zeros(root: Path) -> None:
    (root / "other").mkdir()
    for k in range(16):
        if k not in (2, 10):
            np.save(root / "other" / f"{name_of(k)}.npy", np.full((4, 2), 100 + k, dtype=np.float32))
    encoder = Combined([Precomputed(DIM, window=4, stride=4), Precomputed(2, window=8, stride=8)])
    stores = [root / "features", root / "other"]
    dropped = module(root, encoder=encoder, features=stores)
    assert dropped.reports["train"].dropped == {
        "no features of the video": [f"{name_of(2)}#{k}" for k in range(len(times(2, "train")))]
    }
    filled = module(root, encoder=encoder, features=stores, missing_stream="zeros", num_workers=2)
    for split, loader, number in (("train", filled.train_dataloader(), 2), ("val", filled.val_dataloader(), 10)):
        assert filled.reports[split].dropped == {}
        assert filled.reports[split].repaired == {f"zeros for what {root / 'other'} lacks": [name_of(number)]}
        for batch in loader:
            for v, video in enumerate(batch.video_ids):
                k = int(video[2:])
                clips = batch.clips[v][batch.clip_mask[v]]
                np.testing.assert_array_equal(clips[:, :DIM], units_of(k))
                assert clips[:, DIM:].unique().tolist() == [0.0 if k == number else 100.0 + k]
    with pytest.raises(ValueError, match="missing_stream: zeros needs a list"):
        module(root, missing_stream="zeros")


def test_videos_are_encoded_once(root: Path) -> None:
    (root / "videos").mkdir()
    with pytest.raises(FeatureError, match=r"none of the 16 annotated videos is in .*videos"):
        module(root, features=None, encoder=PixelGrid())
    for k in (0, 9, 15):
        videos.coded_video(root / "videos" / f"{name_of(k)}.mp4", 30 + k)
    videos.coded_video(root / "videos" / "stranger.mp4", 30)
    data = module(root, features=None, encoder=PixelGrid(grid=2, size=16))
    assert data.store is not None
    assert data.store.ids == {name_of(k) for k in (0, 9, 15)}
    assert [b.video_ids for b in data.val_dataloader()] == [[name_of(9), name_of(15)]]


# ---- references, vocabulary, the enlarged set ----------------------------------------------------------


def test_references_are_both_files_where_they_annotate_the_same_videos(root: Path) -> None:
    stored = {file: json.loads((root / f"{file}.json").read_text()) for file in VIDEOS}
    data = DenseCaptions(root, test_split="val_2")
    assert data.dense_references("train") is None
    assert data.dense_references("val") == [stored["val_1"], stored["val_2"]]
    cut = {v: e for v, e in stored["val_1"].items() if v in stored["val_2"]}
    assert data.dense_references("test") == [stored["val_2"], cut]
    (root / "val_2.json").write_text(json.dumps({name_of(99): stored["val_1"][name_of(9)]}))
    assert data.dense_references("val") == [stored["val_1"]]  # other videos
    (root / "val_2.json").unlink()
    assert data.dense_references("val") == [stored["val_1"]]


def test_enlarged_set(root: Path) -> None:
    def ids(data: DenseCaptions, split: Split) -> set[str]:
        return {q.video_id for q in data.read(split)}

    plain = DenseCaptions(root, test_split="val_2")
    large = module(root, enlarged=True, held_out=2, test_split="val_2")
    rest = ids(large, "val")
    assert len(rest) == 2
    assert rest < ids(plain, "val")
    assert ids(large, "train") == ids(plain, "train") | (ids(plain, "val") - rest)
    assert ids(large, "test") == ids(plain, "test") & rest
    references = large.dense_references("val")
    assert references is not None
    assert set(references[0]) == rest
    assert set(references[1]) == rest & ids(plain, "test")
    moved = [q for q in large.read("train") if q.video_id not in ids(plain, "train")]
    assert moved == [q for q in plain.read("val") if q.video_id not in rest]
    assert ids(DenseCaptions(root, enlarged=True, held_out=2, seed=5), "val") == rest  # runs of an ensemble agree
    assert rest < ids(DenseCaptions(root, enlarged=True, held_out=3), "val")
    seen = [v for b in large.train_dataloader() for v in b.video_ids]
    assert set(seen) == ids(large, "train")
    assert len(seen) == len(set(seen))
    with pytest.raises(ValueError, match=r"held_out=7, but val_1\.json has 7 videos"):
        DenseCaptions(root, enlarged=True, held_out=7).read("train")


def test_vocabulary(root: Path) -> None:
    def texts(**options: Any) -> list[list[str]]:
        return list(DenseCaptions(root, **options).vocabulary_texts())

    train = texts()
    assert train[0] == ["train", "video", "0", "event", "0"]
    assert len(train) == sum(len(times(k, "train")) for k in VIDEOS["train"])
    assert texts(vocabulary_from="all") == train + [
        sentence_words(q.text) for s in ("val", "test") for q in DenseCaptions(root, test_split="val_2").read(s)
    ]
    assert len(texts(enlarged=True, held_out=2)) > len(train)
    (root / "val_2.json").unlink()
    assert {words[1] for words in texts(vocabulary_from="all")} == {"1", "video"}


def test_words_are_those_of_the_released_captioner() -> None:
    text = ' A man\'s dog -- (big), "runs";it\\jumps:up/down!  Well-known_place.\nThe end?'
    words = "a man's dog (big) runs it jumps up down well known place the end"
    assert sentence_words(text) == words.split()
    assert sentence_words(" .-! ") == []


# ---- proposals -----------------------------------------------------------------------------------------


def write_candidates(root: Path) -> Path:
    """Ten proposals around the events of every video, but none for video 4, and for video 5 only far from some."""
    rng = np.random.default_rng(0)
    found = {}
    for k in [k for k in range(16) if k != 4]:
        centres = np.array(times(k, "train"))
        rows = np.abs(centres[rng.integers(len(centres), size=10)] + rng.normal(size=(10, 2)))
        rows = np.sort(rows, 1) if k != 5 else np.array([[14.0, 18.0]])
        found[name_of(k)] = Proposals(rows, rng.uniform(size=len(rows)))
    write_proposals(root / "candidates.json", found)
    return root / "candidates.json"


def test_learnt_sequences_put_a_matching_proposal_in_the_place_of_every_event(root: Path) -> None:
    path = write_candidates(root)
    stored = json.loads(path.read_text())["results"]
    data = module(root, train_proposals=path, batch_size=9)
    loader = data.train_dataloader()
    drawn: dict[str, Counter[tuple[float, ...]]] = {}
    possible: dict[str, set[tuple[float, ...]]] = {}
    for epoch in range(60):
        loader.order.set_epoch(epoch)
        (batch,) = loader
        for v, video in enumerate(batch.video_ids):
            truth = batch.truth_s[v][batch.truth_mask[v]].double().numpy()
            told = batch.events_s[v][batch.event_mask[v]]
            number = int(video[2:])
            given = np.array([e["segment"] for e in stored.get(video[2:], [])]).reshape(-1, 2)
            given = given.clip(0, 20 + number).astype(np.float32)
            fits = match(given.astype(np.float64), truth)
            assert len(told) == len(truth) == len(batch.sentences[v])
            assert told[:, 0].tolist() == sorted(told[:, 0].tolist())
            order = sorted(range(len(truth)), key=lambda e: times(number, "train")[e][0])  # file order by start
            for segment, words in zip(told.tolist(), batch.sentences[v], strict=True):
                event = order.index(int(words[-1]))
                own = given[fits[:, event]].tolist() or [truth[event].tolist()]
                assert segment in own
                key = f"{video}#{words[-1]}"
                drawn.setdefault(key, Counter())[tuple(segment)] += 1
                possible[key] = set(map(tuple, own))
    assert all(set(counts) == possible[key] for key, counts in drawn.items() if len(possible[key]) < 4)
    assert max(map(len, possible.values())) > 3
    assert {q.partition("#")[0] for ids in data.reports["train"].repaired.values() for q in ids} >= {name_of(4)}
    # validation is not touched
    assert all(torch.equal(b.events_s, b.truth_s) for b in data.val_dataloader())


def test_events_that_no_proposal_meets_are_told_and_counted(root: Path) -> None:
    edit(root / "train.json", name_of(5), timestamps=[[15.0, 16.0], [1.0, 2.0]], sentences=["one", "two"])
    data = module(root, train_proposals=write_candidates(root))
    reason = "no proposal meets the event, which stands for itself"
    assert [q for q in data.reports["train"].repaired[reason] if q.startswith(name_of(5))] == [f"{name_of(5)}#1"]
    batch = next(b for b in data.train_dataloader() if name_of(5) in b.video_ids)
    v = batch.video_ids.index(name_of(5))
    assert batch.events_s[v, :2].tolist() == [[1, 2], [14, 18]]
    assert batch.sentences[v] == [["two"], ["one"]]


def test_learned_proposals_leave_events_empty(root: Path) -> None:
    data = module(root, proposals="learned")
    plain = module(root)
    for batch, other in zip(data.val_dataloader(), plain.val_dataloader(), strict=True):
        assert batch.events_s.shape == (len(batch), 0, 2)
        assert batch.event_mask.shape == (len(batch), 0)
        assert batch.sentences == [[] for _ in batch.video_ids]
        assert torch.equal(batch.truth_s, other.truth_s)
        assert torch.equal(batch.truth_mask, other.truth_mask)
    assert all(same(a, b) for a, b in zip(data.train_dataloader(), plain.train_dataloader(), strict=True))


@pytest.mark.parametrize("as_text", [False, True])
def test_proposals_of_a_file_are_told(root: Path, as_text: bool) -> None:
    table = {
        name_of(9): [(12, 15, 0.9), (1, 99, 0.8), (3, 4, 0.7), (0, 1, 0.1)],
        name_of(10): [(5, 6, 0.9)],
        name_of(11): [(5, 6, 0.05)],
    }
    arrays = {v: Proposals(np.array(rows, float)[:, :2], np.array(rows, float)[:, 2]) for v, rows in table.items()}
    path = root / "p.json"
    write_proposals(path, arrays)
    given: Any = str(path) if as_text else path
    data = module(root, "validate", proposals=given, max_proposals=3, min_score=0.2)
    (batch,) = data.val_dataloader()
    assert batch.video_ids == [name_of(9), name_of(10)]
    assert batch.events_s.tolist() == [[[1, 29], [3, 4], [12, 15]], [[5, 6], [0, 0], [0, 0]]]
    assert batch.event_mask.tolist() == [[True] * 3, [True, False, False]]
    assert batch.sentences == [[[], [], []], [[]]]
    assert batch.truth_mask.sum(1).tolist() == [len(times(9, "val_1")), len(times(10, "val_1"))]
    ids = {q.partition("#")[0] for q in data.reports["val"].dropped["no proposals of the video"]}
    assert ids == {name_of(k) for k in range(11, 16)}
    references = data.dense_references("val")
    assert references is not None
    assert len(references[0]) == 7
    with pytest.raises(AnnotationError, match=r"p\.json: no usable proposal for any of the 7 videos"):
        module(root, proposals=path, min_score=1.0)
    with pytest.raises(AnnotationError, match=r"proposals anotated do not exist; .*`annotated`, `learned`"):
        module(root, proposals="anotated")


@pytest.mark.parametrize(
    ("given", "expected"), [("annotated", "annotated"), ("learned", "learned"), ("a/p.json", Path("a/p.json"))]
)
def test_proposals_from_the_command_line(given: str, expected: Any) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(DenseCaptions, "data")
    made = parser.instantiate_classes(parser.parse_args(["--data.root=x", f"--data.proposals={given}"]))
    assert made.data.proposals == expected
    assert type(made.data.proposals) is type(expected)


# ---- the real files ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def anet() -> DenseCaptions:
    """The real files, and a store that says it has every video."""
    data = DenseCaptions(shared("data", "anet_captions"), vocabulary_from="all", num_workers=0)
    data.trainer: Any = SimpleNamespace(
        lightning_module=SimpleNamespace(video_encoder=Precomputed(DIM), subsample=1), world_size=1
    )
    ids = {q.video_id for split in data.files for q in data.read(split)}
    data.store: Any = SimpleNamespace(ids=ids, path="nowhere")
    data.setup("fit")
    return data


def test_activitynet_captions(anet: DenseCaptions) -> None:
    train, val = anet.reports["train"], anet.reports["val"]
    assert (train.official, train.used) == (37421, 37417)
    inverted = ["v_N7ppHQNikv8#2", "v_4rKTw99bM8g#1", "v_0bosp4-pyTM#3", "v_rhOtqArO-3Y#5"]
    assert train.dropped.keys() == {"moment is empty or inverted"}
    assert sorted(train.dropped["moment is empty or inverted"]) == sorted(inverted)
    end = "end after the video's end"  # by a hundredth of a second at most
    assert {reason: len(ids) for reason, ids in train.repaired.items()} == {end: 261}
    assert (val.official, val.used, len(val.dropped)) == (17505, 17505, 0)
    told: Any = anet.train_dataloader().dataset
    assert (len(told), len(anet.val_dataloader().dataset)) == (10009, 4917)
    assert max(len(v.truth_s) for v in told.videos) == 27
    assert all((np.diff(v.truth_s[:, 0]) >= 0).all() for v in told.videos)
    references = anet.dense_references("test")
    assert references is not None
    assert [len(file) for file in references] == [4917, 4885]
    assert [sum(len(e["sentences"]) for e in file.values()) for file in references] == [17505, 17031]


def test_vocabulary_of_the_released_captioner(anet: DenseCaptions) -> None:
    """Its 5747 entries are the words that come four times or more, and three marks: begin, end, unknown."""
    counts = Counter(word for words in anet.vocabulary_texts() for word in words)
    assert sum(n >= 4 for n in counts.values()) == 5747 - 3


def test_enlarged_set_of_activitynet_captions(anet: DenseCaptions) -> None:
    data = DenseCaptions(anet.root, enlarged=True)
    data._queries = anet._queries  # read once
    ids = {split: {q.video_id for q in data.read(split)} for split in ("train", "val")}
    assert {split: len(videos) for split, videos in ids.items()} == {"train": 10009 + 3917, "val": 1000}
    assert not ids["train"] & ids["val"]
    assert hashlib.sha256("".join(sorted(ids["val"])).encode()).hexdigest()[:8] == "764416a4"  # the same for ever
