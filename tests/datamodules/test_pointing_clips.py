"""YouCook-Interactions and GroundingYouTube as grounded clips: five frames a second, judged at whole seconds."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from grounded_files import HEIGHT, WIDTH, ready, write_videos
from videos import read_codes

from groundzoo.datamodules.annotations import AnnotationError
from groundzoo.datamodules.pointing_clips import GroundingYouTubeClips, YouCookInteractionsClips

SHARED = Path(os.environ.get("GROUNDZOO_SHARED", Path(__file__).resolve().parents[2].parent / "shared")) / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no {SHARED} (set GROUNDZOO_SHARED)")
SECONDS = 6
OPTIONS: dict[str, Any] = {"num_workers": 0, "eval_batch_size": 4}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_videos(tmp_path_factory.mktemp("videos"), "ab", frames=25 * SECONDS)


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def youcook(root: Path, sentence: str = " Cut the onion\n") -> Path:
    """Two segments with boxes, one of which has no sentence."""
    boxes = {"1": [8, 6, 24, 30], "3": [10, 6, 26, 30], "5": [0, 0, 9, 9]}
    write(root / "final_dataset_annotations.json", {"a": boxes, "b": boxes})
    write(root / "final_dataset_segments.json", [["a", 1, 3], ["b", 5, 5]])
    annotations = [{"id": 0, "segment": [1, 4], "sentence": sentence}]
    write(root / "youcookii_annotations_trainval.json", {"database": {"a": {"annotations": annotations}}})
    return root


def gyt(root: Path) -> Path:
    """A step with two boxes, one without any; boxes on a canvas of 640 x 480."""
    boxes = [{"second": s, "box": [10 * s, 48, 10 * s + 320, 240], "step_name": "Cut_it"} for s in (2, 4)]
    segments = [
        {"segment": [2, 4], "id": 0, "sentence": "cut_it"},
        {"segment": [5, 5], "id": 1, "sentence": "stir"},
    ]
    write(root / "box_anno.json", {"b": boxes})
    write(root / "ground_seg.json", {"b": segments})
    write(root / "vid2step.json", {"b": ["cut it", "background"]})
    return root


def test_youcook_interactions(tmp_path: Path, files: Path) -> None:
    data = ready(YouCookInteractionsClips(youcook(tmp_path), videos=files, **OPTIONS), stage="test")
    (batch,) = data.test_dataloader()
    assert batch.given
    assert data.protocol == "pointing"
    assert batch.clip_ids == ["a#0"]
    assert read_codes(batch.frames[0][0]) == list(range(25, 100, 5)), "the last second is part of it"
    assert batch.captions[0].phrases == [batch.captions[0].text] == ["Cut the onion"]
    assert [k for k, frame in enumerate(batch.truths[0]) if frame] == [0, 10], "judged are the annotated seconds"
    assert batch.truths[0][10] == [("Cut the onion", [10, 6, 26, 30])]
    assert batch.visible[0].nonzero().squeeze(1).tolist() == [0, 10]
    assert batch.sizes.tolist() == [[WIDTH, HEIGHT]], "of the file"
    assert batch.boxes[0, 10].tolist() == pytest.approx([18 / WIDTH, 18 / HEIGHT, 16 / WIDTH, 24 / HEIGHT])
    told = str(data.reports["test"])
    assert "b#0: no sentence in youcookii_annotations_trainval.json starts then" in told
    assert data.reports["test"].counts()["official"] == 2


def test_sizes_of_the_originals(tmp_path: Path, files: Path) -> None:
    write(tmp_path / "sizes.json", {"a": [2 * WIDTH, 2 * HEIGHT]})
    data = YouCookInteractionsClips(youcook(tmp_path), tmp_path / "sizes.json", videos=files, **OPTIONS)
    (batch,) = ready(data, stage="test").test_dataloader()
    assert batch.sizes.tolist() == [[2 * WIDTH, 2 * HEIGHT]]
    assert batch.boxes[0, 10].tolist() == pytest.approx([9 / WIDTH, 9 / HEIGHT, 8 / WIDTH, 12 / HEIGHT])


def test_grounding_youtube(tmp_path: Path, files: Path) -> None:
    data = ready(GroundingYouTubeClips(gyt(tmp_path), videos=files, **OPTIONS), stage="test")
    (batch,) = data.test_dataloader()
    assert batch.clip_ids == ["b#0"]
    assert read_codes(batch.frames[0][0]) == list(range(50, 125, 5))
    assert batch.captions[0].text == "cut it"
    assert [k for k, frame in enumerate(batch.truths[0]) if frame] == [0, 10]
    assert batch.sizes.tolist() == [[640, 480]], "the canvas, to which frames of any shape were stretched"
    assert batch.boxes[0, 0].tolist() == pytest.approx([180 / 640, 144 / 480, 0.5, 0.4])
    assert "b#1: nothing annotated" in str(data.reports["test"])


def test_lists_of_videos_choose(tmp_path: Path, files: Path) -> None:
    root = youcook(tmp_path)
    database = {v: {"annotations": [{"segment": [t, 9], "sentence": "cut"}]} for v, t in (("a", 1), ("b", 5))}
    write(root / "youcookii_annotations_trainval.json", {"database": database})
    everything = ready(YouCookInteractionsClips(root, videos=files, **OPTIONS), stage="test")
    assert [b.video_ids for b in everything.test_dataloader()] == [["a", "b"]]
    (root / "videos_val.txt").write_text("b\n")
    (root / "videos_test.txt").write_text("a\n")
    for stage, expected in (("test", "a"), ("validate", "b")):
        data = ready(YouCookInteractionsClips(root, videos=files, **OPTIONS), stage=stage)
        loader = data.test_dataloader() if stage == "test" else data.val_dataloader()
        assert [b.video_ids for b in loader] == [[expected]]


def test_nothing_to_train_on(tmp_path: Path, files: Path) -> None:
    with pytest.raises(AnnotationError, match="no annotation of the split 'train'"):
        ready(YouCookInteractionsClips(youcook(tmp_path), videos=files, **OPTIONS))


def test_files_that_are_missing(tmp_path: Path, files: Path) -> None:
    """The readers' own messages, which say where the files come from."""
    (youcook(tmp_path / "s") / "youcookii_annotations_trainval.json").unlink()
    with pytest.raises(AnnotationError, match="sentences of YouCook-Interactions are YouCook2's"):
        ready(YouCookInteractionsClips(tmp_path / "s", videos=files), stage="test")
    (youcook(tmp_path / "p") / "final_dataset_annotations.json").rename(
        tmp_path / "p" / "final_dataset_annotations.pkl"
    )
    with pytest.raises(AnnotationError, match="is a pickle"):
        ready(YouCookInteractionsClips(tmp_path / "p", videos=files), stage="test")
    with pytest.raises(AnnotationError, match=r"final_dataset_annotations\.json does not exist"):
        ready(YouCookInteractionsClips(tmp_path / "none", videos=files), stage="test")
    with pytest.raises(AnnotationError, match=r"a#0: there is no sentence"):
        ready(YouCookInteractionsClips(youcook(tmp_path / "e", " "), videos=files), stage="test")


@needs_shared
def test_real_grounding_youtube(tmp_path: Path) -> None:
    data = GroundingYouTubeClips(SHARED / "grounding_youtube", videos=tmp_path, cache=tmp_path)
    index = data.clips("test")
    assert index is not None
    assert (len(index), len(index.broken)) == (4507, 511)
    stored = json.loads((SHARED / "grounding_youtube" / "box_anno.json").read_text())
    seconds = {video: {b["second"] for b in boxes} for video, boxes in stored.items()}
    judged = 0
    for row in range(len(index)):
        clip = index.read(row)
        times = [k / clip.fps for k, frame in zip(clip.frames, clip.boxes, strict=True) if frame]
        assert times
        assert set(times) <= seconds[clip.video_id]
        assert len(clip.frames) <= 31 * 5
        assert clip.size in ((640, 480), (480, 640))
        judged += len(times)
    assert judged > 16_000


@needs_shared
def test_real_youcook_interactions(tmp_path: Path) -> None:
    """The real boxes and segments, with made-up sentences."""
    source = SHARED / "youcook_interactions"
    segments = json.loads((source / "final_dataset_segments.json").read_text())
    database: dict[str, Any] = {}
    for video, start, end in segments:
        entry = {"segment": [start, end], "sentence": f"cut {start}"}
        database.setdefault(video, {"annotations": []})["annotations"].append(entry)
    for name in ("final_dataset_segments.json", "final_dataset_annotations.json"):
        (tmp_path / name).write_text((source / name).read_text())
    write(tmp_path / "youcookii_annotations_trainval.json", {"database": database})
    index = YouCookInteractionsClips(tmp_path, videos=tmp_path).clips("test")
    assert index is not None
    assert (len(index), len(index.broken)) == (254, 0)
    clips = [index.read(row) for row in range(254)]
    boxes = json.loads((source / "final_dataset_annotations.json").read_text())
    inside = [start <= int(t) <= end for video, start, end in segments for t in boxes.get(video, {})]
    assert sum(len(frame) for clip in clips for frame in clip.boxes) == sum(inside) - 1, "one has no area"
    assert all(k % 5 == 0 for clip in clips for k, frame in zip(clip.frames, clip.boxes, strict=True) if frame)
