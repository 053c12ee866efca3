"""From annotation files of localised actions to batches: official files, protocols, stores, broken videos."""

from __future__ import annotations

import io
import json
import logging
import math
import os
import pickle
import tarfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_captions import Cells
from videos import coded_video

from groundzoo.datamodules.actions import ActionDataModule
from groundzoo.datamodules.annotations import AnnotationError, SplitReport
from groundzoo.datamodules.features import FeatureError
from groundzoo.datamodules.grounding_youtube import GroundingYouTube, context_window, points_box, repair_box
from groundzoo.datamodules.mining_youtube import MiningYouTube, class_of, read_srt
from groundzoo.datamodules.spatial_boxes import SpatialBoxes
from groundzoo.datamodules.stretches import Mark, Stretch, action_text, box_within
from groundzoo.datamodules.youcook_interactions import YouCookInteractions
from groundzoo.zoo.batch import ActionBatch
from groundzoo.zoo.video.precomputed import Precomputed

SHARED = Path(os.environ.get("GROUNDZOO_SHARED", Path(__file__).resolve().parents[2].parent / "shared")) / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no {SHARED} (set GROUNDZOO_SHARED)")


class Task:
    """What a data module asks of a task."""

    def __init__(self, encoder: Any) -> None:
        self.video_encoder, self.max_cells = encoder, None


class Trainer:
    """What a data module asks of a trainer."""

    world_size = 1

    def __init__(self, encoder: Any) -> None:
        self.lightning_module = Task(encoder)


def ready(data: ActionDataModule, stage: str = "test", encoder: Any = None) -> ActionDataModule:
    data.trainer = Trainer(encoder or Precomputed(5, 1, 1, 2.0, grid=(3, 3, 5)))  # type: ignore[assignment]
    data.prepare_data()
    data.setup(stage)
    return data


def batches(data: ActionDataModule) -> list[ActionBatch]:
    return list(data.test_dataloader())


def write(path: Path, content: Any) -> None:
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def store(folder: Path, durations: dict[str, float]) -> Path:
    """Two units per second; unit k is filled with k."""
    folder.mkdir()
    for video, duration in durations.items():
        n = int(duration * 2)
        grid = np.broadcast_to(np.arange(n, dtype=np.float32)[:, None, None, None], (n, 3, 3, 5))
        np.savez(folder / f"{video}.npz", units=grid, num_frames=n, duration_s=duration)
    return folder


# ---- official files -------------------------------------------------------------------------------------


@needs_shared
def test_real_grounding_youtube_untrimmed() -> None:
    data = GroundingYouTube(SHARED / "grounding_youtube", ["untrimmed"], "annotated")
    stretches = data.read("test")
    report = data.reports["test"]
    assert len(stretches) == report.official == report.used == 250
    assert sum(len(s.marks) for s in stretches) == 17_316, "not one box is lost"
    assert {reason: len(ids) for reason, ids in report.repaired.items()} == {
        "inverted box, right edge set to the canvas": 18,
        "lower edge of the box beyond the canvas, cut": 2103,
    }
    assert not report.dropped
    assert "repaired 18 (inverted box" in str(report)
    assert {s.size for s in stretches} == {(640, 480), (480, 640)}
    for s in stretches:
        assert s.size is not None
        assert len(set(s.actions)) == len(s.actions)
        assert "background" not in s.actions
        for mark in s.marks:
            assert mark.box is not None
            x1, y1, x2, y2 = mark.box
            assert 0 <= x1 < x2 <= s.size[0]
            assert 0 <= y1 < y2 <= s.size[1]
    stored = json.loads((SHARED / "grounding_youtube" / "box_anno.json").read_text())
    for s in stretches[::50]:  # the truth at whole seconds is the file
        times = s.times(1.0, 1200.0)
        labels, boxes = s.truth(times)
        named = {int(t): s.actions[k] for t, k in zip(times, labels.tolist(), strict=True) if k >= 0}
        assert named == {b["second"]: b["step_name"] for b in stored[s.video_id]}
        assert (torch.isnan(boxes).all(1) == (labels < 0)).all()


@needs_shared
def test_real_published_pools() -> None:
    data = GroundingYouTube(SHARED / "grounding_youtube", ["untrimmed"])
    stretches = data.read("test")
    pools = json.loads((SHARED / "grounding_youtube" / "vid2step.json").read_text())
    assert all([*s.actions, "background"] == pools[s.video_id] for s in stretches)
    missing = data.reports["test"].dropped["box of a step that is not in the pool, taken as background"]
    assert len(missing) == 2660
    assert sum(len(s.marks) for s in stretches) == 17_316 - 2660


@needs_shared
def test_real_segments_and_clips() -> None:
    data = GroundingYouTube(SHARED / "grounding_youtube", ["spatial", "clip"])
    stretches = data.read("test")
    spatial = [s for s in stretches if s.protocol == "spatial"]
    clips = [s for s in stretches if s.protocol == "untrimmed"]
    assert data.reports["test"].official == 5018 + 2869
    assert (len(spatial), len(clips)) == (4507, 2739)
    assert len(data.reports["test"].dropped["nothing annotated"]) == 511 + 130
    assert all(len(s.actions) == 1 for s in stretches)
    for s in clips:
        assert s.end_s is not None
        assert s.end_s - s.start_s <= 3 * 20 + 1
        assert s.start_s >= 0
    assert (data.reports["test"].used, len(data.read("val"))) == (len(stretches), len(stretches))


@needs_shared
def test_real_mining_youtube() -> None:
    data = MiningYouTube(SHARED / "mining_youtube")
    assert len(data.annotated()) == 250
    assert len(data.classes) == 513
    labels = [
        class_of(label, data.classes) for v in data.annotated() for *_, label in read_srt(data._subtitles[v], v)
    ]
    assert len(labels) == 5132
    assert sum(label in data.classes for label in labels) > 5080
    stretches = data.read("test")
    assert (len(stretches), len(data.read("val"))) == (249, 25), "the published lists"
    assert len(data.reports["test"].dropped["label of no length"]) == 3
    for s in stretches:
        times = s.times(1.0, s.marks[-1].end_s + 5)
        order = s.order(s.truth(times).labels)
        assert all(a != b for a, b in pairwise(order))
        assert order[-1] == -1
        assert set(order) <= {-1, *range(len(s.actions))}


@needs_shared
def test_real_sample_transcript(tmp_path: Path) -> None:
    """Labels of every frame of one video, and their order, as the authors wrote them out."""
    folder = SHARED / "mining_youtube"
    (tmp_path / "all.txt").write_text("-1okAudsnAc\n")
    (stretch,) = MiningYouTube(folder, test_videos=tmp_path / "all.txt").read("test")
    frames = (folder / "-1okAudsnAc.gt").read_text().split()
    fps = 30000 / 1001
    labels = stretch.truth((np.arange(len(frames)) + 0.5) / fps).labels
    named = [stretch.actions[k].replace(" ", "_") if k >= 0 else "background" for k in labels.tolist()]
    wrong = [k for k, (a, b) in enumerate(zip(named, frames, strict=True)) if a != b]
    assert len(wrong) <= 5, "one frame at each of five starts: they round to the frame before"
    order = [stretch.actions[k].replace(" ", "_") if k >= 0 else "background" for k in stretch.order(labels)]
    assert order == (folder / "-1okAudsnAc.grammar").read_text().split()


def youcook(folder: Path, source: Path) -> Path:
    """The real boxes and segments, with made-up sentences; two segments have none."""
    database: dict[str, Any] = {}
    segments = sorted(json.loads((source / "final_dataset_segments.json").read_text()))
    for video, start, end in segments[2:]:
        entry = {"id": 0, "segment": [start, end], "sentence": f" cut {start} \n"}
        database.setdefault(video, {"annotations": []})["annotations"].append(entry)
    for name in ("final_dataset_segments.json", "final_dataset_annotations.json"):
        write(folder / name, (source / name).read_text())
    write(folder / "youcookii_annotations_trainval.json", {"database": database})
    return folder


@needs_shared
def test_real_youcook_interactions(tmp_path: Path) -> None:
    data = YouCookInteractions(youcook(tmp_path, SHARED / "youcook_interactions"))
    stretches = data.read("test")
    assert len(stretches) == 252
    report = data.reports["test"]
    assert len(report.dropped["no sentence in youcookii_annotations_trainval.json starts then"]) == 2
    assert report.official == 254
    assert len(report.dropped["box without area"]) == 1
    assert 2400 < sum(len(s.marks) for s in stretches) <= 2 + 2488, "boxes of seconds inside of segments"
    assert all(s.actions == (f"cut {s.start_s:.0f}",) and s.marks for s in stretches)
    assert all(s.size is None for s in stretches), "boxes are in pixels of the original"


# ---- moments and truth ----------------------------------------------------------------------------------


def test_moments_end_with_stretch_and_video() -> None:
    stretch = Stretch("v", "v", "untrimmed", ("a",), (), start_s=2.0, end_s=5.0)
    assert stretch.times(1.0, 100.0).tolist() == [2, 3, 4]
    assert stretch.times(2.0, 3.2).tolist() == [2, 2.5, 3]
    assert stretch.times(1.0, 1.0).tolist() == [2], "behind the video's end: one moment, never none"
    assert Stretch("v", "v", "untrimmed", ("a",), ()).times(1.0, 3.4).tolist() == [0, 1, 2, 3]
    assert len(Stretch("v", "v", "untrimmed", ("a",), ()).times(1 / 3, 30.0)) == 10


def test_truth_of_marks() -> None:
    marks = (Mark(1, 3, 0, (0, 0, 1, 1)), Mark(2.5, 4, 1), Mark(6, 7, 0, (2, 2, 3, 3)))
    stretch = Stretch("v", "v", "temporal", ("a", "b"), marks)
    labels, boxes = stretch.truth(np.array([0.0, 1.0, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 6.9999, 7.0]))
    assert labels.tolist() == [-1, 0, 0, 1, 1, -1, -1, 0, 0, -1]
    assert labels.dtype == torch.int64
    assert boxes[1].tolist() == [0, 0, 1, 1]
    assert torch.isnan(boxes[[0, 3, 4, 5, 9]]).all()
    assert stretch.order(labels) == [-1, 0, 1, -1, 0, -1]
    spatial = Stretch("v", "v", "spatial", ("a",), marks[:1])
    labels, boxes = spatial.truth(np.array([0.0, 1.0, 5.0]))
    assert labels.tolist() == [0, 0, 0], "all moments show the action"
    assert torch.isnan(boxes).all(1).tolist() == [True, False, True]
    assert spatial.order(labels) == []


def test_seconds_survive_division_by_the_rate() -> None:
    marks = tuple(Mark(s, s + 1, s % 2) for s in range(300))
    stretch = Stretch("v", "v", "untrimmed", ("a", "b"), marks)
    times = stretch.times(3.0, 300.0)
    assert len(times) == 900
    assert stretch.truth(times).labels.tolist() == [k // 3 % 2 for k in range(900)]


def test_texts_and_boxes() -> None:
    assert action_text(" Crack_eggs  well\n") == "crack eggs well"
    assert box_within([-5, 2, 700, 30], (640, 480)) == (0, 2, 640, 30)
    assert box_within([10, 500, 20, 600], (640, 480)) is None
    assert box_within([10, 5, 10, 6], None) is None
    with pytest.raises(ValueError, match="unpack"):
        box_within([1, 2, 3], None)


@pytest.mark.parametrize(
    ("box", "canvas", "expected", "reason"),
    [
        ([508, 288, 480, 504], (640, 480), (508, 288, 640, 480), "inverted"),
        ([440, 0, 440, 10], (640, 480), (440, 0, 640, 10), "inverted"),
        ([439, 0, 439, 10], (640, 480), None, "without area"),  # it would have ended before the canvas does
        ([10, 20, 210, 520], (640, 480), (10, 20, 210, 480), "lower edge"),
        ([10, 20, 210, 520], (480, 640), (10, 20, 210, 520), ""),
        ([10, 490, 210, 520], (640, 480), None, "without area"),
        ([1, 2, 3, 4], (640, 480), (1, 2, 3, 4), ""),
    ],
)
def test_repaired_boxes(box: list[int], canvas: tuple[int, int], expected: Any, reason: str) -> None:
    found, why = repair_box(box, canvas)
    assert found == expected
    assert reason in why
    assert bool(reason) == bool(why)


def test_rules_of_the_paper() -> None:
    assert points_box([(100, 100), (200, 400)], (640, 480)) == pytest.approx((4, 28, 296, 472))
    assert points_box([(100, 100)], (640, 480), margin=0.25) == (0, 0, 260, 220)
    assert context_window((10, 13), math.inf) == (7, 16)
    assert context_window((2, 12), 20) == (0, 20)


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("crack_eggs", "crack_egg"),
        ("Add_seeds_cummin ", "add_seed"),
        ("tilting_pan", "tilt_pan"),
        ("using_spatula", "use_spatula"),
        ("add_tomatoes", "add_tomato"),
        ("flip_omellete", "flip_omelette"),
        ("mix_them", "mix_it"),
        ("add_asparagus", "add_asparagu"),
        ("wipe_table", "wipe_table"),
    ],
)
def test_classes_of_labels(label: str, expected: str) -> None:
    names = ("add_asparagu", "add_seed", "add_tomato", "crack_egg", "flip_omelette", "mix_it", "tilt_pan",
             "use_spatula")  # fmt: skip
    assert class_of(label, dict.fromkeys(names, 0)) == expected


# ---- GroundingYouTube in small --------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Two videos of 20 s; `pour` is too short for the pool."""
    root = tmp_path / "gyt"
    root.mkdir()
    boxes = [
        {"second": s, "box": [10 * s, 20, 10 * s + 200, 300], "step_name": name}
        for s, name in [(4, "cut it"), (5, "cut it"), (6, "Cut_It"), (7, "pour"), (12, "cut it")]
    ]
    segments = [
        {"segment": [4, 7], "id": 0, "sentence": "cut_it"},
        {"segment": [7, 7], "id": 1, "sentence": "pour"},
        {"segment": [15, 16], "id": 2, "sentence": "cut it"},
    ]
    write(root / "box_anno.json", {"b": boxes, "a": boxes[:1]})
    write(root / "ground_seg.json", {"b": segments, "a": segments[:1]})
    write(root / "vid2step.json", {"b": ["stir", "cut it", "background"], "a": ["cut it", "background"]})
    return root


def test_untrimmed_batches(small: Path) -> None:
    data = ready(GroundingYouTube(small, ["untrimmed"], features=store(small / "f", {"a": 20, "b": 20.5}),
                                  num_workers=0))  # fmt: skip
    b, a = batches(data)
    assert (b.sample_id, b.video_id, b.index, b.protocol, b.order) == ("b", "b", 0, "untrimmed", [])
    assert b.actions == ["stir", "cut it"]
    assert b.times_s.tolist() == list(range(21))
    expected = [1 if t in (4, 5, 6, 12) else -1 for t in range(21)]
    assert b.labels.tolist() == expected, "pour is not in the pool"
    assert b.boxes[4].tolist() == [40, 20, 240, 300]
    assert torch.isnan(b.boxes).all(1).tolist() == [k < 0 for k in expected]
    assert b.size == (640, 480)
    assert b.features.vectors is not None
    assert b.features.grid is not None
    assert b.features.grid.shape == (21, 3, 3, 5)
    assert ((b.features.vectors[:, 0] / 2 - b.times_s).abs() <= 0.75).all(), "features of these moments"
    assert (a.sample_id, a.index) == ("a", 1)
    counts = data.provenance()["splits"]["test"]
    assert counts["dropped"] == {"box of a step that is not in the pool, taken as background": 1}
    json.dumps(data.provenance())


def test_pool_with_all_annotated_steps(small: Path) -> None:
    b, _ = GroundingYouTube(small, ["untrimmed"], "annotated").read("test")
    assert b.actions == ("stir", "cut it", "pour")
    assert b.truth(np.array([6.0, 7.0])).labels.tolist() == [1, 2]


def test_spatial_stretches(small: Path) -> None:
    data = GroundingYouTube(small, ["spatial"])
    first, second, other = data.read("test")
    assert [s.sample_id for s in (first, second, other)] == ["b#0", "b#1", "a#0"]
    assert (first.actions, second.actions) == (("cut it",), ("pour",))
    times = first.times(1.0, 20.5)
    assert times.tolist() == [4, 5, 6, 7], "the last second is part of the segment"
    labels, boxes = first.truth(times)
    assert labels.tolist() == [0] * 4
    assert torch.isnan(boxes).all(1).tolist() == [False, False, False, True], "second 7 shows another step"
    assert data.reports["test"].dropped["nothing annotated"] == ["b#2"]
    assert (data.reports["test"].official, data.reports["test"].used) == (4, 3)


def test_clips_with_context(small: Path) -> None:
    first, other = GroundingYouTube(small, ["clip"]).read("test")
    assert (first.sample_id, first.protocol, first.actions) == ("b#0", "untrimmed", ("cut it",))
    times = first.times(1.0, 20.5)
    assert times.tolist() == list(range(1, 11))
    assert first.truth(times).labels.tolist() == [-1, -1, -1, 0, 0, 0, -1, -1, -1, -1]
    assert other.sample_id == "a#0"


def test_protocols_that_would_mix(small: Path) -> None:
    with pytest.raises(ValueError, match="`untrimmed` or `clip`"):
        GroundingYouTube(small, ["untrimmed", "clip"])
    with pytest.raises(ValueError, match="protocols"):
        GroundingYouTube(small, [])
    with pytest.raises(ValueError, match="fps"):
        GroundingYouTube(small, fps=0)


def test_portrait_canvas(small: Path) -> None:
    write(small / "id2wh_new.json", {"b": [480, 640]})
    b, a = GroundingYouTube(small, ["untrimmed"]).read("test")
    assert (b.size, a.size) == ((480, 640), (640, 480))


# ---- splits, missing and broken videos ------------------------------------------------------------------


def test_lists_choose_videos(small: Path, caplog: pytest.LogCaptureFixture) -> None:
    features = store(small / "f", {"a": 20, "b": 20})
    (small / "videos_test.txt").write_text("a\nnowhere\n")
    data = GroundingYouTube(small, ["untrimmed"], features=features, num_workers=0)
    with caplog.at_level(logging.WARNING):
        ready(data, "validate")
    assert [s.video_id for s in data.read("val")] == ["a"]
    assert "chosen on the test set" in caplog.text
    caplog.clear()
    (small / "my.txt").write_text("b\n")
    data = GroundingYouTube(small, ["untrimmed"], features=features, num_workers=0, val_videos=small / "my.txt")
    with caplog.at_level(logging.WARNING):
        ready(data, "fit")
    assert [batch.video_id for batch in data.val_dataloader()] == ["b"]
    assert not caplog.text
    data.setup("test")
    assert [batch.video_id for batch in batches(data)] == ["a"]
    assert [batch.video_id for batch in data.predict_dataloader()] == ["a"]
    assert data.reports["test"].dropped["listed video without annotation"] == ["nowhere"]
    (small / "both.txt").write_text("a\nb\na\n")
    both = GroundingYouTube(small, ["untrimmed"], test_videos=small / "both.txt").read("test")
    assert [s.video_id for s in both] == ["b", "a"], "the order of the annotation, each once"
    with pytest.raises(AnnotationError, match=r"gone\.txt"):
        GroundingYouTube(small, test_videos=small / "gone.txt").read("test")
    with pytest.raises(ValueError, match="HowTo100M"):
        data.train_dataloader()


def test_missing_videos_are_counted(small: Path) -> None:
    features = store(small / "f", {"a": 20})
    data = ready(GroundingYouTube(small, features=features, num_workers=0))
    assert {b.video_id for b in batches(data)} == {"a"}
    report = data.reports["test"]
    assert report.dropped["no features of the video"] == ["b", "b#0", "b#1"]
    assert (report.official, report.used) == (6, 2)
    (features / "a.npz").rename(features / "z.npz")
    with pytest.raises(AnnotationError, match="no usable stretch"):
        ready(GroundingYouTube(small, features=features))


def test_broken_videos_are_left_out(small: Path, caplog: pytest.LogCaptureFixture) -> None:
    features = store(small / "f", {"a": 20, "b": 20})
    (features / "b.npz").write_bytes(b"broken")
    data = ready(GroundingYouTube(small, ["untrimmed"], features=features, num_workers=0))
    assert {b.index for b in batches(data)} == {1}
    assert data._datasets["test"].lost == {"b"}
    assert "b" in caplog.text
    (features / "a.npz").write_bytes(b"broken")
    with pytest.raises(FeatureError, match="not one video"):
        batches(data)


@pytest.mark.parametrize("live", [False, True])
def test_from_video_files(small: Path, live: bool) -> None:
    videos = small / "videos"
    videos.mkdir()
    coded_video(videos / "a.mp4", 60, fps=10)
    (videos / "b.mp4").write_bytes(b"no video")
    data = ready(GroundingYouTube(small, ["spatial"], live=live, num_workers=0), encoder=Cells())
    found = {b.sample_id: b for b in batches(data)}
    assert set(found) == {"a#0"}
    batch = found["a#0"]
    assert batch.times_s.tolist() == [4, 5], "the file has 6 s"
    assert batch.size == (640, 480), "the canvas of the boxes, not the file's size"
    if live:
        assert [tuple(p.shape) for p in batch.features.passes] == [(2, 1, 3, 6, 6)]
        assert not (small / "features").exists()
    else:
        assert batch.features.grid is not None
        assert batch.features.grid.shape == (2, 3, 3, 5)
        assert (small / "features").exists()


def test_no_videos_at_all(small: Path) -> None:
    (small / "videos").mkdir()
    with pytest.raises(FeatureError, match="none of the 2 annotated videos"):
        ready(GroundingYouTube(small), encoder=Cells())
    data = GroundingYouTube(small)
    data.trainer = None  # type: ignore[assignment]
    with pytest.raises(TypeError, match="video_encoder"):
        data.setup("test")


# ---- the other sets in small ----------------------------------------------------------------------------


def srt(*entries: tuple[str, str, str]) -> bytes:
    text = "\r\n\r\n".join(f"{k}\r\n{a} --> {b}\r\n{label}" for k, (a, b, label) in enumerate(entries, 1))
    return ("\ufeff" + text + "\r\n\r\n").encode()


@pytest.mark.parametrize("packed", [True, False])
def test_mining_youtube_in_small(packed: bool, tmp_path: Path) -> None:
    (tmp_path / "weakYouTube_dict.txt").write_text("crack_egg \nstir_it \nbackground\n")
    content = srt(
        ("00:00:01,000", "00:00:03,000", "crack_eggs"),
        ("00:00:03,000", "00:00:03,000", "stir_it"),
        ("00:00:03,000", "00:00:05,500", "stir_it"),
        ("00:01:07,250", "00:01:09,000", "wipe_table_top"),
        ("00:01:10,000", "00:01:12,000", "crack_egg_white "),
    )
    if packed:
        with tarfile.open(tmp_path / "annotations.tar.gz", "w:gz") as tar:
            for name, data in (("./annotations/v.srt", content), ("./annotations/._v.srt", b"\x00")):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    else:
        (tmp_path / "annotations").mkdir()
        (tmp_path / "annotations" / "v.srt").write_bytes(content)
    features = store(tmp_path / "f", {"v": 75})
    data = ready(MiningYouTube(tmp_path, features=features, num_workers=0))
    (batch,) = batches(data)
    assert batch.protocol == "temporal"
    assert batch.actions == ["crack egg", "stir it", "wipe table top"]
    expected = [-1, 0, 0, 1, 1, 1] + [-1] * 62 + [2, -1, 0, 0] + [-1] * 3
    assert batch.labels.tolist() == expected
    assert batch.order == [-1, 0, 1, -1, 2, -1, 0, -1]
    assert torch.isnan(batch.boxes).all()
    assert data.reports["test"].dropped["label of no length"] == ["v@3"]


def test_youcook_in_small(tmp_path: Path) -> None:
    root = tmp_path / "yc"
    root.mkdir()
    write(root / "final_dataset_segments.json", [["v", 2, 4], ["v", 8, 10]])
    boxes = {"3": [1, 2, 30, 40], "10": [0, 0, 9, 9], "8": [0, 0, 999, 9]}
    write(root / "final_dataset_annotations.json", {"v": boxes, "w": {}})
    write(
        root / "youcookii_annotations_trainval.json",
        {"database": {"v": {"annotations": [{"segment": [2, 4], "sentence": "cut"},
                                            {"segment": [8, 9], "sentence": "stir"}]}}},
    )  # fmt: skip
    features = store(root / "f", {"v": 20})
    data = ready(YouCookInteractions(root, features=features, num_workers=0))
    with pytest.raises(FeatureError, match="not one video"):
        batches(data)  # nobody knows the size of the original
    write(tmp_path / "sizes.json", {"v": [320, 240]})
    first, second = batches(ready(YouCookInteractions(root, tmp_path / "sizes.json", features=features,
                                                      num_workers=0)))  # fmt: skip
    assert (first.sample_id, first.protocol, first.actions, first.size) == ("v#0", "spatial", ["cut"], (320, 240))
    assert first.times_s.tolist() == [2, 3, 4]
    assert torch.isnan(first.boxes).all(1).tolist() == [True, False, True]
    assert first.boxes[1].tolist() == [1, 2, 30, 40]
    assert second.boxes[0].tolist() == [0, 0, 320, 9]
    assert torch.isnan(second.boxes).all(1).tolist() == [False, True, False], "second 10 comes after second 8"
    (root / "videos").mkdir()
    coded_video(root / "videos" / "v.mp4", 20)
    sized = batches(ready(YouCookInteractions(root, features=features, num_workers=0)))
    assert {b.size for b in sized} == {(64, 48)}, "the size of the file"


def test_spatial_boxes_in_small(tmp_path: Path) -> None:
    clips = [
        {"video": "v", "start_s": 3, "end_s": 7.5, "action": "Brush_teeth",
         "boxes": {"10.5": [0, 0, 1, 1], "4.5": [-3, 5, 400, 60], "3": [1, 2, 3, 4], "5": [7, 7, 7, 9]}},
        {"video": "v", "start_s": 0, "end_s": 2, "action": "wave", "boxes": {}},
    ]  # fmt: skip
    write(tmp_path / "spatial_boxes.json", {"videos": {"v": {"width": 320, "height": 240}}, "clips": clips})
    data = ready(SpatialBoxes(tmp_path, features=store(tmp_path / "f", {"v": 20}), num_workers=0))
    (batch,) = batches(data)
    assert (batch.sample_id, batch.protocol, batch.actions) == ("v#0", "spatial", ["brush teeth"])
    assert batch.times_s.tolist() == [3, 4, 5, 6, 7]
    assert batch.boxes[0].tolist() == [1, 2, 3, 4]
    assert batch.boxes[2].tolist() == [0, 5, 320, 60], "drawn at 4.5 s, holds for a second"
    assert torch.isnan(batch.boxes).all(1).tolist() == [False, True, False, True, True]
    assert data.reports["test"].counts()["dropped"] == {
        "box without area in the picture": 1,
        "box outside of its clip": 1,
        "nothing annotated": 1,
    }


# ---- messages -------------------------------------------------------------------------------------------

ENTRY = {"second": 1, "box": [1, 2, 3, 4], "step_name": "x"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("box_anno.json", {"b": [ENTRY | {"box": [1, 2, 3]}]}, "box_anno.json, video b, entry 0: ValueError"),
        ("box_anno.json", {"b": [{"second": 1, "box": [1, 2, 3, 4]}]}, "video b, entry 0: KeyError"),
        ("box_anno.json", {"b": [ENTRY] * 2}, "2 boxes of second 1"),
        ("box_anno.json", {"../b": []}, "plain video name"),
        ("box_anno.json", [], "one entry per video"),
        ("ground_seg.json", {"b": [{"segment": [4, 2], "sentence": "x"}]}, "ground_seg.json, video b, entry 0"),
        ("vid2step.json", {"a": ["x"]}, "vid2step.json: no list of steps for video b"),
        ("id2wh_new.json", {"b": 640}, "id2wh_new.json: expected"),
    ],
)  # fmt: skip
def test_errors_of_grounding_youtube(name: str, content: Any, message: str, small: Path) -> None:
    write(small / name, content)
    with pytest.raises(AnnotationError, match=message.replace(".", r"\.").replace("[", r"\[")):
        GroundingYouTube(small).read("test")


def test_errors_of_mining_youtube(tmp_path: Path) -> None:
    data = MiningYouTube(tmp_path)
    with pytest.raises(AnnotationError, match=r"neither .*annotations\.tar\.gz nor"):
        data.annotated()
    (tmp_path / "annotations.tar.gz").write_bytes(b"no archive")
    with pytest.raises(AnnotationError, match=r"annotations\.tar\.gz"):
        MiningYouTube(tmp_path).annotated()
    (tmp_path / "annotations").mkdir()
    with pytest.raises(AnnotationError, match=r"no \.srt"):
        MiningYouTube(tmp_path).annotated()
    (tmp_path / "annotations" / "v.srt").write_bytes(srt(("00:00:01,000", "soon", "stir_it")))
    (tmp_path / "annotations" / "w.srt").write_bytes(b"\xff\xfe")
    with pytest.raises(AnnotationError, match="video w: not UTF-8"):
        MiningYouTube(tmp_path).annotated()
    (tmp_path / "annotations" / "w.srt").unlink()
    with pytest.raises(AnnotationError, match="video v: expected number"):
        MiningYouTube(tmp_path).read("test")
    (tmp_path / "annotations" / "v.srt").write_bytes(srt(("00:00:01,000", "00:00:02,000", "stir_it")))
    with pytest.raises(AnnotationError, match=r"weakYouTube_dict\.txt"):
        MiningYouTube(tmp_path).read("test")


class Danger:
    """What a pickle may do."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("loaded"),))


def test_pickles_are_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "final_dataset_segments.pkl").write_bytes(pickle.dumps(Danger()))
    with pytest.raises(AnnotationError, match="convert it once") as caught:
        YouCookInteractions(tmp_path).read("test")
    assert not (tmp_path / "loaded").exists()
    segments = {("v", 2, 4), ("v", 8, 9)}
    (tmp_path / "final_dataset_segments.pkl").write_bytes(pickle.dumps(segments))
    (tmp_path / "final_dataset_annotations.pkl").write_bytes(pickle.dumps({"v": {3: (1, 2, 30, 40)}}))
    exec(str(caught.value).split('"')[1])  # the command of the message does what it says
    (tmp_path / "youcookii_annotations_trainval.json").write_text('{"database": {}}')
    with pytest.raises(AnnotationError, match=r"final_dataset_annotations\.pkl") as caught:
        YouCookInteractions(tmp_path).read("test")
    exec(str(caught.value).split('"')[1])
    data = YouCookInteractions(tmp_path)
    assert data.annotated() == ["v"]
    assert list(data._boxes("v", None, SplitReport("test"))) == [(3.0, (1.0, 2.0, 30.0, 40.0))]


def test_errors_of_youcook(tmp_path: Path) -> None:
    write(tmp_path / "final_dataset_segments.json", [["v", 2, 4]])
    write(tmp_path / "final_dataset_annotations.json", {"v": {"3": [1, 2, 3]}})
    with pytest.raises(AnnotationError, match="second 3"):
        YouCookInteractions(tmp_path).read("test")
    write(tmp_path / "final_dataset_annotations.json", {"v": {"3": [1, 2, 30, 40]}})
    with pytest.raises(AnnotationError, match=r"youcookii_annotations_trainval\.json does not exist: .*YouCook2"):
        YouCookInteractions(tmp_path).read("test")
    write(tmp_path / "youcookii_annotations_trainval.json", {"database": {"v": {"annotations": [{"id": 0}]}}})
    with pytest.raises(AnnotationError, match="video v: KeyError"):
        YouCookInteractions(tmp_path).read("test")
    write(tmp_path / "youcookii_annotations_trainval.json", [])
    with pytest.raises(AnnotationError, match="`database`"):
        YouCookInteractions(tmp_path).read("test")
    write(tmp_path / "sizes.json", {"v": 3})
    with pytest.raises(AnnotationError, match=r"sizes\.json"):
        YouCookInteractions(tmp_path, tmp_path / "sizes.json").read("test")
    write(tmp_path / "final_dataset_segments.json", [["v", 4, 2]])
    with pytest.raises(AnnotationError, match="last second"):
        YouCookInteractions(tmp_path).read("test")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"video": "w"}, "clip 0: its `video`"),
        ({"end_s": 3}, r"clip 0 \(video v\): ValueError"),
        ({"action": " "}, r"clip 0 \(video v\): ValueError"),
        ({"boxes": {"soon": [1, 2, 3, 4]}}, r"clip 0 \(video v\): ValueError"),
        ({"boxes": [[1, 2, 3, 4]]}, r"clip 0 \(video v\): AttributeError"),
        ({"boxes": {"3": [1, 2, 3]}}, r"clip 0 \(video v\): ValueError"),
    ],
)
def test_errors_of_spatial_boxes(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    clip = {"video": "v", "start_s": 3, "end_s": 7, "action": "wave", "boxes": {"3": [1, 2, 3, 4]}} | change
    write(tmp_path / "spatial_boxes.json", {"videos": {"v": {"width": 320, "height": 240}}, "clips": [clip]})
    with pytest.raises(AnnotationError, match=message):
        SpatialBoxes(tmp_path).read("test")
