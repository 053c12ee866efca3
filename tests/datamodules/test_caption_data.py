"""From annotation files of captioning to batches: official files, stores, labels, broken segments."""

from __future__ import annotations

import gzip
import json
import logging
import math
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_captions import Cells

from groundzoo.cli import main
from groundzoo.datamodules.activitynet_entities import ActivityNetEntities, read_caption
from groundzoo.datamodules.annotations import AnnotationError
from groundzoo.datamodules.captions import CaptionDataModule
from groundzoo.datamodules.features import FeatureError
from groundzoo.datamodules.labels import LABELS, LabelError
from groundzoo.datamodules.msrvtt import MSRVTT
from groundzoo.datamodules.toyworld.generate import generate
from groundzoo.zoo.video.precomputed import Precomputed

SHARED = Path(os.environ.get("GROUNDZOO_SHARED", Path(__file__).resolve().parents[2].parent / "shared")) / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no {SHARED} (set GROUNDZOO_SHARED)")
F = 4


class Reader:
    """What a data module asks of a task."""

    def __init__(self, *streams: Any, frames: int = F) -> None:
        self.streams, self.frames, self.max_cells = list(streams), frames, 7


class Trainer:
    """What a data module asks of a trainer."""

    world_size = 1

    def __init__(self, *streams: Any, frames: int = F) -> None:
        self.lightning_module = Reader(*streams, frames=frames)


def ready(data: CaptionDataModule, *streams: Any, stage: str = "fit", frames: int = F) -> CaptionDataModule:
    data.trainer = Trainer(*(streams or (Precomputed(5, 1, 1, 2.0, grid=(3, 3, 5)),)), frames=frames)  # type: ignore[assignment]
    data.prepare_data()
    data.setup(stage)
    return data


# ---- official files -------------------------------------------------------------------------------------


@needs_shared
def test_real_msrvtt_in_full() -> None:
    data = MSRVTT(SHARED / "msrvtt")
    counts = {split: data.read(split) for split in ("train", "val", "test")}  # type: ignore[arg-type]
    assert {k: len(v) for k, v in counts.items()} == {"train": 6513, "val": 497, "test": 2990}
    assert all(len(s.captions) == 20 for v in counts.values() for s in v)
    assert counts["train"][0].segment_id == "video0#0"
    assert (counts["train"][0].start_s, counts["train"][0].end_s) == (0.0, None), "the file is the clip"
    words = Counter(w for s in counts["test"] for c in s.captions for w in c.tokens)
    assert words["man"] > 5000
    assert not any(w != w.lower() or not w for w in words)


@needs_shared
def test_real_activitynet_entities_in_full() -> None:
    data = ActivityNetEntities(SHARED / "anet_entities", captions=SHARED / "anet_captions")
    segments = data.read("test")
    assert len(segments) == 8731
    assert len({s.video_id for s in segments}) == 2457
    assert sum(bool(s.captions[0].entities) for s in segments) == 8429
    assert len(data.classes) == 431
    assert data.entity_reference("test") is None, "boxes of the test split are withheld"
    for split, sizes in (("val", [2460, 2441]), ("test", [2457, 2444])):
        references = data.dense_references(split)  # type: ignore[arg-type]
        assert references is not None
        assert [len(r) for r in references] == sizes
    assert all(token for s in segments for token in s.captions[0].tokens), "empty tokens are removed"
    for s in segments:
        assert all(0 <= i < len(s.captions[0].tokens) for i, _ in s.captions[0].entities)


@needs_shared
def test_real_activitynet_captions_without_boxes() -> None:
    data = ActivityNetEntities(SHARED / "anet_entities", captions=SHARED / "anet_captions", boxes=False)
    counts = {split: len(data.read(split)) for split in ("train", "val", "test")}  # type: ignore[arg-type]
    assert counts == {"train": 37421, "val": 8774, "test": 8731}
    assert data.classes == set()


@needs_shared
def test_words_of_empty_tokens_move_up() -> None:
    """On the real file: the token at a moved index is the one that the file means."""
    path = SHARED / "anet_entities" / "anet_entities_cleaned_class_thresh50_test_skeleton.json"
    annotations = json.loads(path.read_text())["annotations"]
    moved = 0
    for video in annotations.values():
        for segment in video["segments"].values():
            tokens = [t.strip() for t in segment["tokens"]]
            caption = read_caption(segment)
            meant = Counter(tokens[i] for group in segment["process_idx"] for i in set(group))
            found = {caption.tokens[i] for i, _ in caption.entities}
            assert found == set(meant)
            moved += "" in tokens and bool(meant)
    assert moved > 0, "no segment has an empty token: this test shows nothing"


def segment(**changes: Any) -> dict[str, Any]:
    base = {
        "timestamps": [1.0, 5.0],
        "tokens": ["A", "", "man", "and", "his", "dog"],
        "process_bnd_box": [[72, 36, 360, 288], [0, 0, 720, 405]],
        "frame_ind": [3, 9],
        "process_clss": [["man", "his"], ["dog"]],
        "process_idx": [[2, 4], [5]],
        "crowds": [0, 1],
    }
    return base | changes


def test_boxes_are_in_widths_of_the_frame() -> None:
    caption = read_caption(segment())
    assert caption.tokens == ("A", "man", "and", "his", "dog")
    first, second = caption.boxes
    assert (first.words, first.classes, first.frame, first.crowd) == ((1, 3), ("man", "his"), 3, False)
    assert first.box == pytest.approx((0.1, 0.05, 0.5, 0.4))
    assert second.crowd
    assert caption.entities == ((1, "man"), (3, "his"), (4, "dog"))
    assert read_caption(segment(process_bnd_box=[], frame_ind=[], crowds=[])).entities == caption.entities


@pytest.mark.parametrize(
    "wrong",
    [
        {"process_idx": [[2, 4]]},
        {"process_idx": [[2, 40], [5]]},
        {"process_idx": [[2, 1], [5]]},  # an empty token
        {"frame_ind": [3, 10]},
        {"frame_ind": [3]},
        {"process_bnd_box": [[72, 36, 360, 288], [0, 0, 720]]},
        {"timestamps": [1.0]},
        {"timestamps": ["a", 2]},
        {"tokens": None},
    ],
)
def test_errors_name_file_video_and_segment(wrong: dict[str, Any], tmp_path: Path) -> None:
    stored = {"vocab": ["man"], "annotations": {"v_1": {"segments": {"7": segment(**wrong)}}}}
    (tmp_path / "anet_entities_cleaned_class_thresh50_trainval.json").write_text(json.dumps(stored))
    (tmp_path / "split_ids_anet_entities.json").write_text(json.dumps({"training": ["v_1"]}))
    with pytest.raises(AnnotationError, match=r"trainval.json, video v_1, segment 7"):
        ActivityNetEntities(tmp_path).read("train")


def test_other_errors_of_files(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"trainval.json does not exist"):
        ActivityNetEntities(tmp_path).read("train")
    (tmp_path / "anet_entities_cleaned_class_thresh50_trainval.json").write_text("[]")
    with pytest.raises(AnnotationError, match="`vocab` and `annotations`"):
        ActivityNetEntities(tmp_path).read("train")
    (tmp_path / "train_val_videodatainfo.json.gz").write_bytes(gzip.compress(b'{"videos": []}')[:-9])
    with pytest.raises(AnnotationError, match="not a JSON file"):
        MSRVTT(tmp_path).read("train")
    (tmp_path / "train_val_videodatainfo.json").write_text('{"videos": [{"video_id": "a", "split": "train"}]}')
    with pytest.raises(AnnotationError, match="sentences"):
        MSRVTT(tmp_path).read("train")
    stored = {"videos": [{"video_id": "a", "split": "x"}], "sentences": [{"video_id": "a", "caption": "b"}]}
    (tmp_path / "train_val_videodatainfo.json").write_text(json.dumps(stored))
    with pytest.raises(AnnotationError, match="video a"):
        MSRVTT(tmp_path).read("train")


# ---- batches --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "anet"
    return generate(
        folder, videos=8, test_fraction=0.25, workers=1, preset="captions", format="activitynet_entities"
    )


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "msrvtt"
    return generate(folder, videos=8, test_fraction=0.25, workers=1, preset="clips", format="msrvtt")


def whole_video_store(folder: Path, root: Path, units: int = 40) -> Path:
    """Unit k of every video is filled with k; 2 per second."""
    folder.mkdir()
    for path in (root / "videos").glob("*.mp4"):
        grid = np.arange(units, dtype=np.float16)[:, None, None, None] * np.ones((1, 3, 3, 5), np.float16)
        np.savez(folder / f"{path.stem}.npz", units=grid, num_frames=units, duration_s=units / 2)
    return folder


def test_units_of_a_whole_video_are_the_nearest(world: Path, tmp_path: Path) -> None:
    data = ready(ActivityNetEntities(world, features=whole_video_store(tmp_path / "s", world), num_workers=0))
    for batch in data.val_dataloader():
        for v in range(len(batch.segment_ids)):
            start, end = batch.spans_s[v].tolist()
            times = start + (np.arange(F) + 0.5) * (end - start) / F
            units = batch.visual[v, :, 0, 0, 0].numpy()
            assert (np.abs((units + 0.5) / 2 - times) <= 0.25 + 1e-6).all()


def test_one_batch_from_video_and_from_stores_is_the_same(world: Path, tmp_path: Path) -> None:
    """Frozen encoders look once and are kept; a trained one gets the very frames."""
    frozen, other = Cells(5), Cells(4, context=2)
    options: dict[str, Any] = {"num_workers": 0, "eval_batch_size": 3, "cache": tmp_path}
    stored = next(iter(ready(ActivityNetEntities(world, **options), frozen, other).val_dataloader()))
    trained = Cells(5, trainable=True)
    trained.load_state_dict(frozen.state_dict())
    raw = next(iter(ready(ActivityNetEntities(world, **options), trained, other).val_dataloader()))
    assert stored.segment_ids == raw.segment_ids
    assert raw.visual.shape == (3, F, 1, 3, 6, 6)
    assert raw.motion is not None
    assert raw.motion.shape == (3, 2, 2, 3, 6, 6)
    grid = trained(raw.visual.flatten(0, 1)).grid
    assert grid is not None
    assert torch.allclose(grid.unflatten(0, (3, F))[:, :, 0], stored.visual, atol=2e-3)
    assert raw.sizes.tolist() == [[96, 96]] * 3
    assert stored.sizes.tolist() == [[96, 96]] * 3, "no labels: the files tell their sizes"


def test_captions_of_a_clip(clips: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"cache": tmp_path, "num_workers": 0, "batch_size": 6, "eval_batch_size": 6}
    data = ready(MSRVTT(clips, **options), Cells())
    train, val = data.train_dataloader(), data.val_dataloader()
    assert len(train.dataset) == 4 * 4, "every caption of a clip is a sample"
    assert len(val.dataset) == 2, "and one in evaluation"
    for batch in train:
        assert len(batch.visual) == len(set(batch.segment_ids)) <= 4, "a clip is read once per batch"
        for b, caption in enumerate(batch.captions):
            assert " ".join(caption) in batch.references[batch.segment_index[b]]
    (evaluated,) = list(val)
    assert all(len(r) == 4 for r in evaluated.references)
    fewer = ready(MSRVTT(clips, max_captions=1, **options), Cells())
    assert len(fewer.train_dataloader().dataset) == 4


def test_order_is_a_function_of_seed_and_epoch(clips: Path, tmp_path: Path) -> None:
    def order(seed: int) -> list[list[str]]:
        data = ready(MSRVTT(clips, cache=tmp_path, num_workers=0, batch_size=6, seed=seed), Cells())
        return [caption for batch in data.train_dataloader() for caption in batch.captions]

    assert order(0) == order(0) != order(1)


def test_vocabulary_texts(world: Path) -> None:
    few, more = (ActivityNetEntities(world, vocabulary_from=v) for v in ("train", "train_val"))  # type: ignore[arg-type]
    assert 0 < len(list(few.vocabulary_texts())) < len(list(more.vocabulary_texts()))
    assert next(iter(few.vocabulary_texts()))[0] == "The"


def test_broken_segments_are_told_and_left_out(
    world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = whole_video_store(tmp_path / "s", world)
    data = ActivityNetEntities(world, features=store, num_workers=0, batch_size=50)
    videos = [s.video_id for s in data.read("train")]
    (store / f"{videos[0]}.npz").write_bytes(b"no archive")
    (store / f"{videos[-1]}.npz").unlink()
    with caplog.at_level(logging.WARNING, "groundzoo"):
        ready(data)
        seen = {v for batch in data.train_dataloader() for v in batch.video_ids}
    assert seen == set(videos) - {videos[0], videos[-1]}
    assert videos[0] in caplog.text
    assert list(data.reports["train"].dropped) == ["no features of the segment"]


def test_labels_meet_their_words(world: Path, tmp_path: Path) -> None:
    """Tracks and links reach the batch row by row; another caption than the labelled one is refused."""
    labels = tmp_path / "labels"
    words = ["annotate", "propagate", "-c", "tasks/cvg_toyworld.yaml", "-c", "annotate/propagate_template.yaml"]
    words += ["--data.root", str(world), "--out", str(labels), "--num_workers", "0"]
    main([*words, "--trainer.accelerator", "cpu", "--trainer.devices", "1"])
    store = whole_video_store(tmp_path / "s", world)

    def opened(frames: int = 10) -> CaptionDataModule:
        data = ActivityNetEntities(world, features=store, labels=labels, num_workers=0, batch_size=50)
        return ready(data, frames=frames)

    for batch in opened().train_dataloader():
        made = batch.labels
        assert made is not None
        assert made.boxes.shape == (len(made.word), 10, 4)
        assert made.annotated.sum(1).tolist() == [1] * len(made.word)
        named = {(int(c), batch.captions[c][w]) for c, w in zip(made.caption, made.word, strict=True)}
        assert named == {(b, batch.captions[b][i]) for b, e in enumerate(batch.entities) for i, _ in e}
        verbs = {batch.captions[c][v] for c, v in zip(made.link_caption, made.link_verb, strict=True)}
        assert verbs <= {"moves", "grows", "shrinks", "spins", "blinks", "jumps", "rises", "sinks", "shakes"}
        assert not math.isnan(batch.sizes.sum().item())
    with pytest.raises(LabelError, match="10"):
        opened(frames=9)
    path = next((labels / LABELS).glob("*.json"))
    path.write_text(path.read_text().replace('"The"', '"A"'))
    with pytest.raises(LabelError, match="other words"):
        list(opened().train_dataloader())


@pytest.mark.parametrize(
    ("shape", "message"),
    [((40, 3, 3, 4), "shape"), ((40, 5), "not a grid")],
)
def test_wrong_features(shape: tuple[int, ...], message: str, world: Path, tmp_path: Path) -> None:
    for path in (world / "videos").glob("*.mp4"):
        np.save(tmp_path / f"{path.stem}.npy", np.zeros(shape, np.float16))
    data = ActivityNetEntities(world, features=tmp_path, num_workers=0)
    encoder = Precomputed(shape[-1], 1, 1, 2.0, grid=(3, 3, 5))
    with pytest.raises(FeatureError, match=message):
        ready(data, encoder)._datasets["train"]._read(0)


def test_a_trained_encoder_needs_videos(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs videos, not features"):
        ready(ActivityNetEntities(world, features=tmp_path, num_workers=0), Cells(trainable=True))


def test_no_videos(world: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FeatureError, match=r"data\.init_args\.videos"):
        ready(ActivityNetEntities(world, videos=tmp_path / "empty", cache=tmp_path / "c", num_workers=0), Cells())


def test_only_tasks_that_look_at_frames(world: Path) -> None:
    data = ActivityNetEntities(world)
    data.trainer = Trainer()  # type: ignore[assignment]
    data.trainer.lightning_module = object()  # type: ignore[assignment]
    with pytest.raises(TypeError, match="sampled frames"):
        data.setup("fit")
