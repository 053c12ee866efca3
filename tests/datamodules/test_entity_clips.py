"""ActivityNet-Entities as grounded clips: which frames, which phrases, whose boxes; the official files in full."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from grounded_files import HEIGHT, WIDTH, ready, write_videos
from videos import coded_video, read_codes

from groundzoo.datamodules.annotations import AnnotationError
from groundzoo.datamodules.entity_clips import ActivityNetEntitiesClips, entity_clip
from groundzoo.datamodules.segments import Caption, EntityBox, Segment, sample_times

SHARED = Path(os.environ.get("GROUNDZOO_SHARED", Path(__file__).resolve().parents[2].parent / "shared"))
REAL = SHARED / "data" / "anet_entities"
TOKENS = ["A", "", "man", "throws", "the", "ball", "to", "him"]


def segment(**changes: Any) -> dict[str, Any]:
    """From 0.4 to 2 s; boxes in pixels of a picture 720 wide; an empty word shifts all indices."""
    return {
        "tokens": TOKENS,
        "timestamps": [0.4, 2.0],
        "process_clss": [["man"], ["ball"], ["man", "he"]],
        "process_idx": [[2], [5], [2, 7]],
        "process_bnd_box": [[90, 45, 360, 450], [450, 90, 540, 180], [0, 0, 180, 270]],
        "frame_ind": [3, 3, 7],
        "crowds": [0, 0, 0],
    } | changes


BARE = {"process_clss": [], "process_idx": [], "process_bnd_box": [], "frame_ind": [], "crowds": []}


def write(root: Path, train: dict[str, Any], val: dict[str, Any], test: dict[str, Any] | None = None) -> Path:
    """Files in the official form; segments by video and name."""
    root.mkdir(exist_ok=True)
    hidden = {v: {k: s | {"process_bnd_box": [], "frame_ind": []} for k, s in x.items()} for v, x in val.items()}
    test = hidden if test is None else test
    for name, videos in (("trainval", train | val), ("test_skeleton", test)):
        stored = {
            "vocab": ["man", "ball", "he"],
            "annotations": {v: {"duration": 2.4, "segments": x} for v, x in videos.items()},
        }
        (root / f"anet_entities_cleaned_class_thresh50_{name}.json").write_text(json.dumps(stored))
    ids = {"training": list(train), "validation": list(val), "testing": list(test)}
    (root / "split_ids_anet_entities.json").write_text(json.dumps(ids))
    return root


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_videos(tmp_path_factory.mktemp("videos"), "abcd")


def data_of(root: Path, files: Path, **kwargs: Any) -> ActivityNetEntitiesClips:
    return ActivityNetEntitiesClips(root, videos=files, **{"num_workers": 0, "eval_batch_size": 4} | kwargs)


def test_ten_middles_and_the_words_of_boxes(tmp_path: Path, files: Path) -> None:
    write(tmp_path, {"a": {"0": segment()}}, {"b": {"0": segment(), "1": segment(timestamps=[0.0, 1.0])}})
    (batch,) = ready(data_of(tmp_path, files)).val_dataloader()
    assert batch.clip_ids == ["b#0", "b#1"]
    assert read_codes(batch.frames[0][0]) == list(range(12, 50, 4)), "0.48, 0.64, ... s at 25 frames a second"
    assert read_codes(batch.frames[0][1]) == [1, 3, 6, 8, 11, 13, 16, 18, 21, 23]
    assert batch.mask.all()
    assert not batch.given
    assert batch.captions[0].text == "A man throws the ball to him"
    assert batch.captions[0].phrases == ["man", "ball", "him"]
    assert batch.clip.tolist() == [0, 0, 0, 1, 1, 1]
    assert batch.sizes.tolist() == [[WIDTH, HEIGHT]] * 2
    shown = [row.nonzero().squeeze(1).tolist() for row in batch.visible[:3]]
    assert shown == [[3, 7], [3], [7]]
    assert torch.equal(batch.boxes[0, 7], batch.boxes[2, 7]), "a box of two words"
    assert batch.boxes[0, 3].tolist() == pytest.approx(
        [225 / 720, (247.5 / 720) * WIDTH / HEIGHT, 270 / 720, (405 / 720) * WIDTH / HEIGHT]
    )
    assert batch.truths[0][3] == [("man", [8, 4, 32, 40]), ("ball", [40, 8, 48, 16])], "in pixels of the file"
    assert batch.truths[0][4] == []


def test_train_and_val_are_parts_of_one_file(tmp_path: Path, files: Path) -> None:
    train = {"a": {"0": segment(), "1": segment(**BARE), "2": segment(timestamps=[2.0, 2.0])}}
    data = ready(data_of(write(tmp_path, train, {"b": {"0": segment()}, "c": {"0": segment(**BARE)}}), files))
    assert [b.clip_ids for b in data.val_dataloader()] == [["b#0", "c#0"]], "without a box, but to be described"
    data.train_dataloader().order.set_epoch(0)
    (batch,) = data.train_dataloader()
    assert batch.clip_ids == ["a#0"]
    assert batch.frames[0].shape[:2] == (1, 8)
    assert batch.visible.any()
    told = str(data.reports["train"])
    assert "a#1: no word has a box" in told
    assert "a#2: the segment from 2.0 to 2.0 s is empty or inverted" in told
    assert data.reports["train"].counts()["official"] == 3
    assert [text.phrases for text in data.vocabulary_texts()] == [["man", "ball", "him"]]


def test_boxes_of_the_test_split_are_withheld(tmp_path: Path, files: Path) -> None:
    root = write(tmp_path, {"a": {"0": segment()}}, {"b": {"0": segment()}}, {"c": {"0": segment(**BARE)}})
    data = ready(data_of(root, files), stage="test")
    (batch,) = data.test_dataloader()
    assert batch.clip_ids == ["c#0"]
    assert batch.truths == [[[]] * 10]
    assert data.entity_reference("test") is None
    reference = data.entity_reference("val")
    assert reference is not None
    assert reference[1] == ["b"]
    assert data.classes == {"man", "ball", "he"}
    assert data.protocol == "entities"


def test_proportions_are_those_of_the_file(tmp_path: Path) -> None:
    """The same box in units of the width, in pictures of different heights."""
    for name, height in (("low", 32), ("high", 64)):
        (tmp_path / name).mkdir()
        coded_video(tmp_path / name / "b.mp4", 60, 25, (height, 64))
        root = write(tmp_path / name, {"a": {"0": segment()}}, {"b": {"0": segment()}})
        (batch,) = ready(data_of(root, tmp_path / name), stage="validate").val_dataloader()
        assert batch.sizes.tolist() == [[64, height]]
        x, y, w, h = batch.boxes[1, 3].tolist()
        assert (x, y, w, h) == pytest.approx((495 / 720, 12 / height, 90 / 720, 8 / height))


@pytest.mark.parametrize(
    "span", [(0.0, 8.34), (10.6, 39.84), (173.333333, 174.1), (0.001, 0.0021), (3000.0, 3600.0)]
)
def test_times_are_kept(span: tuple[float, float]) -> None:
    box = EntityBox((0,), ("man",), 9, (0.1, 0.1, 0.2, 0.2))
    clip = entity_clip(Segment("v#0", "v", *span, (Caption("man", ("man",), (box,), ((0, "man"),)),)))
    times = [k / clip.fps for k in clip.frames]
    assert len(times) == 10
    assert times == pytest.approx(sample_times(*span, 10), abs=1e-5)
    assert clip.boxes[9] == [(0, [0.1, 0.1, 0.2, 0.2])]


@pytest.mark.parametrize("span", [(1.0, 0.5), (1.0, None), (-1.0, 2.0), (0.0, float("inf")), (float("nan"), 2.0)])
def test_segments_that_are_none(span: tuple[float, float | None]) -> None:
    with pytest.raises(AnnotationError, match="v#0: the segment from"):
        entity_clip(Segment("v#0", "v", *span, (Caption("man", ("man",)),)))


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no {REAL} (set GROUNDZOO_SHARED)")
def test_the_official_test_split_in_full(tmp_path: Path) -> None:
    data = ActivityNetEntitiesClips(REAL, videos=tmp_path, cache=tmp_path)
    index = data.clips("test")
    segments = {s.segment_id: s for s in data.entities.read("test")}
    assert len(index) + len(index.broken) == len(segments) == 8731
    assert len(index.broken) < 20
    assert len(data.classes) == 431
    phrases = 0
    for row in range(len(index)):
        clip = index.read(row)
        entities = segments[clip.clip_id].captions[0].entities
        tokens = segments[clip.clip_id].captions[0].tokens
        assert clip.caption.phrases == [tokens[k] for k in sorted({k for k, _ in entities})]
        assert len(clip.frames) == 10
        phrases += len(clip.caption.spans)
    assert phrases > 15_000
