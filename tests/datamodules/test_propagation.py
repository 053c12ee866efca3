"""From sparse boxes to labels: which frames are read, what is made of them, and what becomes of odd videos."""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import videos
from tiny_labels import CodeDetector, CodeTracker, EveryVerb

from groundzoo.datamodules.labels import LabelError, LabelStore
from groundzoo.datamodules.propagation import Propagation, entity_phrases
from groundzoo.datamodules.segment_frames import SegmentLoader
from groundzoo.datamodules.segments import Caption, EntityBox, Segment, sample_times
from groundzoo.datamodules.video import read_frames
from groundzoo.zoo.tracking.base import Tracker, Tracks

F = 10
FPS = 25
SENTENCE = ("A", "man", "rides", "his", "horse")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A video of 200 frames, twice as wide as high."""
    made = tmp_path / "videos"
    made.mkdir()
    videos.coded_video(made / "v.mp4", 200, FPS, size=(48, 96))
    return made


def boxed(*boxes: EntityBox, name: str = "v#0", start_s: float = 0.5, end_s: float | None = 6.5) -> Segment:
    caption = Caption("A man rides his horse", SENTENCE, boxes)
    return Segment(name, name.split("#")[0], start_s, end_s, (caption,))


def box(frame: int = 3, words: tuple[int, ...] = (1,), xyxy: Any = (0.25, 0.125, 0.5, 0.25)) -> EntityBox:
    return EntityBox(words, ("person",) * len(words), frame, xyxy)


def make(segments: list[Segment], folder: Path, out: Path, **options: Any) -> Propagation:
    options = {"frames": F, "tracker": CodeTracker(), "linker": EveryVerb(), "num_workers": 0} | options
    files = {path.stem: path for path in folder.iterdir()}
    return Propagation({"train": segments}, files, out, **options)


def run(*words: Any, **options: Any) -> LabelStore:
    """Make labels, with Lightning's Trainer."""
    made = make(*words, **options)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(accelerator="cpu", devices=1, use_distributed_sampler=False, **quiet)
    trainer.predict(made, return_predictions=False)
    return LabelStore(made.out)


def contents(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (store / "labels").iterdir()}


# ---- which frames ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("track_fps", [None, 3.0, 5.0, 7.3, 100.0])
@pytest.mark.parametrize(("start_s", "end_s"), [(0.5, 6.5), (0.0, None), (1.04, 1.1), (3, 30), (90, 95), (-2, 4)])
def test_the_frames_of_a_model_are_read_exactly(
    track_fps: float | None, start_s: float, end_s: float | None, folder: Path, tmp_path: Path
) -> None:
    """Whatever the tracker's rate, boxes are those of the pictures that a model sees."""
    tracker = CodeTracker()
    store = run(
        [boxed(box(3), start_s=start_s, end_s=end_s)], folder, tmp_path / "s", tracker=tracker, track_fps=track_fps
    )
    (caption,) = store.read("v").segments["v#0"]
    times = sample_times(start_s, 8.0 if end_s is None else end_s, F)
    seen = videos.read_codes(read_frames(folder / "v.mp4", times))
    expected = np.array(seen) / 1000
    expected[3] = 1
    np.testing.assert_allclose(caption.tracks[0].scores, expected, atol=1e-6)
    ((shape, codes, _, starts),) = tracker.calls
    assert codes == sorted(set(codes)), "pictures in the order of time, each once"
    assert codes[starts[0]] == seen[3]
    if track_fps is None:
        assert set(codes) == set(seen)
    elif end_s == 6.5:
        grid = 0.5 + np.arange(int(np.ceil(6 * track_fps))) / track_fps
        assert set(codes) == set(seen) | {int((t + 1e-3) * FPS) for t in grid}
    assert shape[1:] == (3, 48, 96)


def test_long_segments_need_bounded_memory(folder: Path, tmp_path: Path) -> None:
    tracker = CodeTracker()
    run([boxed(box())], folder, tmp_path / "s", tracker=tracker, track_fps=25.0, max_frames=20, max_side=32)
    ((shape, codes, boxes, _),) = tracker.calls
    assert 20 <= shape[0] <= 20 + F
    assert shape[2:] == (16, 32)
    assert boxes == [[8, 4, 16, 8]]
    steady = {int((0.5 + 0.3 * k + 1e-3) * FPS) for k in range(20)}
    assert steady <= set(codes), "a slower steady rate, not the beginning alone"


# ---- boxes ----------------------------------------------------------------------------------------------


def test_boxes_from_units_of_the_width_to_shares_and_back(folder: Path, tmp_path: Path) -> None:
    tracker = CodeTracker(shift=1.0)
    store = run([boxed(box())], folder, tmp_path / "s", tracker=tracker, track_fps=None)
    ((_, _, pixels, starts),) = tracker.calls
    assert (pixels, starts) == ([[24, 12, 48, 24]], [3])  # y counts in widths: 0.125 * 96 pixels
    labels = store.read("v")
    assert (labels.width, labels.height) == (96, 48)
    (track,) = labels.segments["v#0"][0].tracks
    assert track.words == (1,)
    for k in range(F):
        expected = np.array([24, 12, 48, 24]) + (k - 3)
        np.testing.assert_allclose(track.boxes[k], expected / [96, 48, 96, 48], atol=5e-5)
    assert track.annotated.tolist() == [k == 3 for k in range(F)]


def test_the_annotated_frame_keeps_its_box(folder: Path, tmp_path: Path) -> None:
    """Whatever the tracker says of it; boxes are clipped; several boxes are followed in one call."""

    class Stubborn(Tracker):
        calls = 0

        def track(self, frames: torch.Tensor, boxes: torch.Tensor, starts: torch.Tensor) -> Tracks:
            Stubborn.calls += 1
            where = torch.tensor([[-9.0, -9, 300, 20], [200, 0, 300, 9]]).repeat(5, 1).repeat(len(boxes), 1, 1)
            return Tracks(where, torch.tensor([0.5, 0.9] * 5).repeat(len(boxes), 1) * 1.5)

    boxes = (box(3), box(8, (1, 4), (-0.5, 0.1, 0.2, 4.0)), box(0, (3,)))
    store = run([boxed(*boxes)], folder, tmp_path / "s", tracker=Stubborn(), track_fps=None)
    (caption,) = store.read("v").segments["v#0"]
    assert Stubborn.calls == 1
    assert [track.words for track in caption.tracks] == [(1,), (1, 4), (3,)]
    first, second, _ = caption.tracks
    assert first.scores.tolist() == [0.75, 0, 0.75, 1, 0.75, 0, 0.75, 0, 0.75, 0]  # outside the picture: not there
    np.testing.assert_allclose(first.boxes[0], [0, 0, 1, 20 / 48], atol=1e-4)
    np.testing.assert_allclose(second.boxes[8], [0, 0.2, 0.2, 1], atol=1e-6)
    assert second.scores[8] == 1
    assert caption.links == {2: (1, 3, 4)}  # the verb, and the words that have a track


def test_boxes_without_area_are_no_labels(folder: Path, tmp_path: Path) -> None:
    flat = [
        box(2, (1,), (0.3, 0.1, 0.3, 0.2)),
        box(2, (4,), (1.1, 0, 1.5, 0.2)),
        box(2, (3,), (0.5, 0.6, 0.7, 0.8)),
    ]
    store = run([boxed(*flat), boxed(*flat, box(2, (4,)), name="v#1")], folder, tmp_path / "s")
    labels = store.read("v")
    assert (labels.segments["v#0"][0].tracks, labels.segments["v#0"][0].links) == ((), {})
    assert [track.words for track in labels.segments["v#1"][0].tracks] == [(4,)]
    assert labels.segments["v#1"][0].links == {2: (4,)}


def test_without_a_tracker_the_annotated_frames_alone(folder: Path, tmp_path: Path) -> None:
    store = run([boxed(box(3), box(5, (4,)))], folder, tmp_path / "s", tracker=None)
    first, second = store.read("v").segments["v#0"][0].tracks
    assert np.flatnonzero(first.scores).tolist() == [3]
    assert np.flatnonzero(second.scores).tolist() == [5]
    np.testing.assert_allclose(first.boxes[3], [0.25, 0.25, 0.5, 0.5])
    assert store.manifest["tracker"] is None


def test_segments_without_boxes_have_entries(folder: Path, tmp_path: Path) -> None:
    tracker = CodeTracker()
    segments = [boxed(name="v#0"), boxed(box(), name="v#1"), boxed(name="v#2")]
    store = run(segments, folder, tmp_path / "s", tracker=tracker)
    labels = store.read("v")
    assert list(labels.segments) == ["v#0", "v#1", "v#2"]
    assert [len(captions[0].tracks) for captions in labels.segments.values()] == [0, 1, 0]
    assert labels.segments["v#0"][0].tokens == SENTENCE
    assert len(tracker.calls) == 1


def test_a_box_in_a_frame_that_there_is_not(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"segment v#0: a box is in frame 9, and there are 8 frames"):
        make([boxed(box(9))], folder, tmp_path / "s", frames=8)


# ---- seeds of a detector --------------------------------------------------------------------------------


def sentences(*texts: str) -> Segment:
    return Segment("v#0", "v", 0.0, None, tuple(Caption(text, tuple(text.split())) for text in texts))


def test_entity_phrases() -> None:
    tokens = ("The", "small", "brown", "dogs", "chase", "a", "baseball", "player")
    assert entity_phrases(tokens, "noun") == [(3, "dog"), (7, "player")]
    assert entity_phrases(tokens, "phrase") == [(3, "small brown dog"), (7, "baseball player")]
    assert entity_phrases(("runs",), "phrase") == []


def test_phrases_that_the_detector_refuses(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One that means nothing to it costs that entity; too many are asked for in parts."""

    class Choosy(CodeDetector):
        def detect(self, frames: torch.Tensor, phrases: Any) -> Any:
            if len(phrases) > 2 or "horse" in phrases:
                raise ValueError(f"cannot look for {phrases}")
            return super().detect(frames, phrases)

    detector = Choosy()
    clip = sentences("a man rides a horse", "a horse on a table near a tree with a ball")
    with caplog.at_level(logging.WARNING, "groundzoo"):
        store = run([clip], folder, tmp_path / "s", tracker=None, detector=detector, seed_min_score=0.1)
    one, two = store.read("v").segments["v#0"]
    assert [track.words for track in one.tracks] == [(1,)]
    assert [track.words for track in two.tracks] == [(4,), (7,), (10,)]
    assert caplog.text.count("nothing is looked for: cannot look for ['horse']") == 1


@pytest.mark.parametrize("score", ["one", "detector"])
def test_detections_stand_in_for_boxes(score: Any, folder: Path, tmp_path: Path) -> None:
    detector, tracker = CodeDetector(), CodeTracker()
    clip = sentences("a man rides a horse", "two men ride", "a man and a man on a table")
    store = run(
        [clip], folder, tmp_path / "s", tracker=tracker, detector=detector, seed_score=score, track_fps=2.0
    )
    ((codes, phrases),) = detector.calls
    assert codes == videos.read_codes(read_frames(folder / "v.mp4", sample_times(0, 8, F))), "the F frames"
    assert phrases == ["man", "horse", "table"]
    ((_, _, boxes, starts),) = tracker.calls
    assert boxes == [[24, 24, 72, 48]] * 2, "the table's 0.2 is below 0.3"
    one, two, three = store.read("v").segments["v#0"]
    assert [track.words for track in one.tracks] == [(1,), (4,)]
    assert [track.words for track in two.tracks] == [(1,)]
    assert [track.words for track in three.tracks] == [(1, 4)]
    man, horse = one.tracks
    assert man.annotated.tolist() == [False] * 9 + [True], "the surest frame"
    np.testing.assert_allclose(
        [man.scores[9], horse.scores[9]], [1, 1] if score == "one" else [0.9, 0.5], atol=1e-4
    )
    np.testing.assert_allclose(man.scores[:9], np.array(codes[:9]) / 1000, atol=1e-6)
    assert man.boxes is three.tracks[0].boxes
    assert (one.links, two.links, three.links) == ({2: (1, 4)}, {2: (1,)}, {})
    assert starts == [tracker.calls[0][1].index(codes[9])] * 2


def test_annotated_boxes_come_before_detections(folder: Path, tmp_path: Path) -> None:
    detector = CodeDetector()
    segments = [boxed(box(), name="v#0"), boxed(name="v#1")]
    store = run(segments, folder, tmp_path / "s", detector=detector, tracker=None)
    assert len(detector.calls) == 1
    labels = store.read("v")
    assert [track.words for track in labels.segments["v#0"][0].tracks] == [(1,)]
    assert [track.words for track in labels.segments["v#1"][0].tracks] == [(1,), (4,)]
    assert np.flatnonzero(labels.segments["v#1"][0].tracks[0].scores).tolist() == [9]


# ---- odd videos -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [0, 2])
def test_bad_videos_do_not_end_the_run(
    num_workers: int, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "text.mp4").write_text("no video")
    segments = [boxed(box(), name=f"{name}#{k}") for name in ("text", "v", "gone", "gone2") for k in (0, 1)]
    segments.append(boxed(box(), name="v#nan", start_s=0.0, end_s=float("nan")))
    videos.coded_video(folder / "w.mp4", 50)
    segments.append(boxed(box(), name="w#0"))
    with caplog.at_level(logging.WARNING, "groundzoo"):
        store = run(segments, folder, tmp_path / "s", num_workers=num_workers)
    assert store.ids == {"w"}
    reasons = {p.stem: json.loads(p.read_text())["reason"] for p in (tmp_path / "s" / "quarantine").iterdir()}
    assert reasons.keys() == {"text", "gone", "gone2", "v"}
    assert "text.mp4" in reasons["text"]
    assert reasons["gone"] == "there is no video file of this name"
    assert "segment v#nan lasts from 0.0 to nan s" in reasons["v"]
    assert "quarantined 2 videos without a file: gone, gone2" in caplog.text
    assert "quarantined text: " in caplog.text
    tracker = CodeTracker()
    run(segments, folder, tmp_path / "s", tracker=tracker)
    assert not tracker.calls, "neither done videos nor those in quarantine are looked at again"
    for name in ("text", "gone", "gone2"):
        videos.coded_video(folder / f"{name}.mp4", 50)
    store = run(segments[:-2] + segments[-1:], folder, tmp_path / "t", num_workers=num_workers)
    assert store.ids == {"v", "w", "text", "gone", "gone2"}
    os.replace(tmp_path / "t" / "manifest.json", tmp_path / "s" / "manifest.json")
    store = run(segments[:-2] + segments[-1:], folder, tmp_path / "s", retry=True)
    assert store.ids == {"v", "w", "text", "gone", "gone2"}
    assert not (tmp_path / "s" / "quarantine").exists()


def test_a_crashing_decoder_costs_one_video(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from groundzoo.datamodules import segment_frames

    for name in "abcdef":
        videos.coded_video(folder / f"{name}.mp4", 30)
    read = segment_frames.read_segment

    def crash(reader: Any, segment: Segment, how: Any) -> Any:
        if segment.segment_id == "c#1":
            os.abort()
        return read(reader, segment, how)

    monkeypatch.setattr(segment_frames, "read_segment", crash)
    segments = [boxed(box(), name=f"{name}#{k}", end_s=1.0) for name in "abcdef" for k in (0, 1)]
    store = run(segments, folder, tmp_path / "s", num_workers=2)
    assert store.ids == set("abdef")
    reasons = {p.stem: json.loads(p.read_text())["reason"] for p in (tmp_path / "s" / "quarantine").iterdir()}
    assert reasons.keys() == {"c"}
    assert "c.mp4: its decoder crashed (SIGABRT)" in reasons["c"]


def test_out_of_memory_costs_one_video(folder: Path, tmp_path: Path) -> None:
    class Greedy(CodeTracker):
        def track(self, frames: torch.Tensor, boxes: torch.Tensor, starts: torch.Tensor) -> Tracks:
            if len(frames) > 20:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().track(frames, boxes, starts)

    videos.coded_video(folder / "w.mp4", 30)
    segments = [boxed(box(), name="v#0"), boxed(box(), name="v#1", end_s=1), boxed(box(), name="w#0", end_s=1)]
    store = run(segments, folder, tmp_path / "s", tracker=Greedy())
    assert store.ids == {"w"}
    record = json.loads((tmp_path / "s" / "quarantine" / "v.json").read_text())
    assert "out of memory; give a smaller --max_side or --max_frames" in record["reason"]


def test_an_error_of_the_tracker_ends_the_run(folder: Path, tmp_path: Path) -> None:
    """It would spoil every video."""

    class Wrong(Tracker):
        def track(self, frames: torch.Tensor, boxes: torch.Tensor, starts: torch.Tensor) -> Tracks:
            raise KeyError("no such layer")

    with pytest.raises(KeyError, match="no such layer"):
        run([boxed(box())], folder, tmp_path / "s", tracker=Wrong())


# ---- going on -------------------------------------------------------------------------------------------


def test_going_on_makes_only_what_is_not_there(folder: Path, tmp_path: Path) -> None:
    for name in "abc":
        videos.coded_video(folder / f"{name}.mp4", 30)
    segments = [boxed(box(), name=f"{name}#{k}", end_s=1.0) for name in "abc" for k in (0, 1)]
    whole = contents(run(segments, folder, tmp_path / "whole").path)
    store = tmp_path / "s"
    run(segments[:2], folder, tmp_path / "other")
    run(segments, folder, store)
    (store / "labels" / "b.json").write_text((store / "labels" / "b.json").read_text()[:99])  # a disk was full
    (store / "labels" / "c.json").write_bytes((tmp_path / "other" / "labels" / "a.json").read_bytes())
    old = store / "labels" / ".c.json.123"
    new = store / "labels" / ".b.json.124"
    for leftover in (old, new):
        leftover.write_text("{")
    os.utime(old, (time.time() - 99, time.time() - 99))
    untouched = (store / "labels" / "a.json").stat()
    tracker = CodeTracker()
    run(segments, folder, store, tracker=tracker)
    assert len(tracker.calls) == 4, "the broken file, and the one that lacks segments"
    after = (store / "labels" / "a.json").stat()
    assert (after.st_ino, after.st_mtime_ns) == (untouched.st_ino, untouched.st_mtime_ns)
    assert not old.exists()
    assert new.exists(), "maybe another process is writing it"
    new.unlink()
    assert contents(store) == whole


@pytest.mark.parametrize("num_workers", [0, 3])
def test_each_segment_is_read_once(num_workers: int, folder: Path, tmp_path: Path) -> None:
    for name in "abcde":
        videos.coded_video(folder / f"{name}.mp4", 10)
    made = make([boxed(box(), name=f"{name}#{k}") for name in "abcdev" for k in (0, 1)], folder, tmp_path / "s")
    loader = SegmentLoader(made.work(), made.how, num_workers, lambda job: False)
    assert sorted((piece.job, piece.segment) for piece in loader) == [(job, k) for job in range(6) for k in (0, 1)]


def test_decoding_processes_change_nothing(folder: Path, tmp_path: Path) -> None:
    for k, name in enumerate("abcde"):
        videos.coded_video(folder / f"{name}.mp4", 30 + k, size=(48, 64 + 2 * k))
    segments = [boxed(box(k), name=f"{name}#{k}", end_s=1.0 + k) for k in (0, 1, 2) for name in "abcdev"]
    one = contents(run(segments, folder, tmp_path / "one", num_workers=0).path)
    assert len(one) == 6
    assert contents(run(segments, folder, tmp_path / "many", num_workers=3).path) == one


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"frames": 12}, "frames is 10, not 12"),
        ({"track_fps": None}, r"track_fps is 5\.0, not None"),
        ({"max_side": 99}, "max_side is 512, not 99"),
        ({"tracker": None}, "tracker is CodeTracker, not None"),
        ({"linker": CodeDetector()}, "linker is EveryVerb, not CodeDetector"),
        ({"detector": CodeDetector()}, "detector is None, not CodeDetector"),
        ({"recipe": {"data_set": "Other"}}, "data_set is Mine, not Other"),
        ({"recipe": {"tracker": {"init_args": {"size": 3}}}}, r"tracker\.init_args\.size is 2, not 3"),
    ],
)
def test_labels_that_were_made_otherwise(
    changed: dict[str, Any], reason: str, folder: Path, tmp_path: Path
) -> None:
    recipe = {"data_set": "Mine", "tracker": {"init_args": {"size": 2, "weights": "a"}}}
    segments = [boxed(box())]
    make(segments, folder, tmp_path / "s", recipe=recipe)
    before = (tmp_path / "s" / "manifest.json").read_bytes()
    make(segments, folder, tmp_path / "s", recipe={"tracker": {"init_args": {"weights": "moved/elsewhere"}}})
    with pytest.raises(LabelError, match=rf"labels .* were made otherwise: {reason}.* Choose another folder"):
        make(segments, folder, tmp_path / "s", **({"recipe": recipe} | changed))
    assert (tmp_path / "s" / "manifest.json").read_bytes() == before


def test_weights_and_annotations_are_part_of_the_manifest(folder: Path, tmp_path: Path) -> None:
    class Weighted(CodeTracker):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.layer = torch.nn.Parameter(torch.tensor([value]))

    out = tmp_path / "s"
    make([boxed(box())], folder, out, tracker=Weighted(1.0))
    make([boxed(box())], folder, out, tracker=Weighted(1.0))
    with pytest.raises(LabelError, match=r"tracker\.weights_sha256 is \w+\.\.\., not "):
        make([boxed(box())], folder, out, tracker=Weighted(2.0))
    with pytest.raises(LabelError, match=r"annotations\.train is \w+\.\.\., not "):
        make([boxed(box(4))], folder, out, tracker=Weighted(1.0))
    files = {"v": folder / "v.mp4"}
    options: dict[str, Any] = {"frames": F, "tracker": Weighted(1.0), "linker": EveryVerb()}
    Propagation({"val": [boxed(box(5), name="w#0")]}, files, out, **options)  # another split may join
    assert LabelStore(out).manifest["annotations"].keys() == {"train", "val"}
    make([boxed(box())], folder, out, tracker=Weighted(1.0))
    assert LabelStore(out).manifest["annotations"].keys() == {"train", "val"}
    assert len(LabelStore(out).manifest["tracker"]["weights_sha256"]) == 64


def test_processes_share_the_videos_out(folder: Path, tmp_path: Path) -> None:
    for name in "abcde":
        videos.coded_video(folder / f"{name}.mp4", 10)
    made = make([boxed(box(), name=f"{name}#0") for name in "abcdev"], folder, tmp_path / "s")
    shares = [[job.video_id for job in made.work(rank, 2)] for rank in (0, 1)]
    assert shares == [["a", "c", "e"], ["b", "d", "v"]]
