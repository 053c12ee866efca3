"""Files of grounding labels: what is written is read again, and what is broken is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from groundzoo.datamodules.labels import (
    CaptionLabels,
    LabelError,
    LabelStore,
    VideoLabels,
    WordTrack,
    tidy,
    write_labels,
    write_quarantine,
)

FRAMES = 4


def track(words: tuple[int, ...], seed: int, frame: int = 1) -> WordTrack:
    draw = np.random.default_rng(seed)
    corners = np.sort(draw.random((FRAMES, 2, 2)), axis=1).reshape(FRAMES, 4)
    return WordTrack(words, *tidy(corners, draw.random(FRAMES)), np.arange(FRAMES) == frame)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A folder with a manifest and no videos."""
    folder = tmp_path / "store"
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({"frames": FRAMES}))
    return folder


def same(one: WordTrack, other: WordTrack) -> bool:
    pairs = ((one.boxes, other.boxes), (one.scores, other.scores), (one.annotated, other.annotated))
    return one.words == other.words and all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)


def test_what_is_written_is_read(store: Path) -> None:
    shared = track((2,), 1)
    captions = (
        CaptionLabels(("a", "red", "dög", "runs", "\u2028"), (shared, track((0, 1), 2, 3)), {3: (0, 2)}),
        CaptionLabels(("dog", "x", "dog"), (WordTrack((0, 2), shared.boxes, shared.scores, shared.annotated),)),
    )
    labels = VideoLabels("v_a", 640, 360, {"v_a#0": captions, "v_a#1": (CaptionLabels(("nothing",)),)})
    write_labels(store, labels)
    opened = LabelStore(store)
    assert (opened.frames, opened.ids, opened.manifest) == (FRAMES, {"v_a"}, {"frames": FRAMES})
    found = opened.read("v_a")
    assert (found.video_id, found.width, found.height) == ("v_a", 640, 360)
    assert list(found.segments) == ["v_a#0", "v_a#1"]
    for old, new in zip(captions, found.segments["v_a#0"], strict=True):
        assert (old.tokens, old.links) == (new.tokens, new.links)
        assert all(same(a, b) for a, b in zip(old.tracks, new.tracks, strict=True))
    (empty,) = found.segments["v_a#1"]
    assert (empty.tokens, empty.tracks, empty.links) == (("nothing",), (), {})
    before = (store / "labels" / "v_a.json").read_bytes()
    write_labels(store, found)
    assert (store / "labels" / "v_a.json").read_bytes() == before
    assert [path.name for path in (store / "labels").iterdir()] == ["v_a.json"]


def test_captions_share_the_boxes_that_they_name(store: Path) -> None:
    shared = track((0,), 1)
    captions = tuple(CaptionLabels((str(n),), (shared,)) for n in range(20))
    write_labels(store, VideoLabels("v", 4, 4, {"v#0": captions}))
    segment = json.loads((store / "labels" / "v.json").read_text())["segments"]["v#0"]
    assert len(segment["tracks"]) == 1
    found = LabelStore(store).read("v").segments["v#0"]
    assert len({id(caption.tracks[0].boxes) for caption in found}) == 1


def test_tidy() -> None:
    boxes, scores = tidy(
        [[-0.5, 0.1, 0.25, 2], [0.2, 0.2, 0.2, 0.4], [0.5, 0.5, 0.50003, 0.6], [1.2, 0, 1.5, 1], [0, 0, 1, 1]],
        [1.7, 0.9, 0.9, 0.9, -0.1],
    )
    assert boxes.dtype == scores.dtype == np.float32
    np.testing.assert_allclose(boxes[0], [0, 0.1, 0.25, 1])
    assert scores.tolist() == [1, 0, 0, 0, 0]  # no width, none once rounded, outside, not there
    assert (boxes[1:] == 0).all()
    boxes, scores = tidy([[0, 0, np.nan, 1], [0, 0, 1, 1], [0, 0, 1, 1]], [1, np.nan, 0.123456])
    assert scores.tolist() == [0, 0, np.float32(0.1235)]
    assert (boxes[:2] == 0).all()


def test_another_number_of_frames(store: Path) -> None:
    LabelStore(store).check(FRAMES)
    with pytest.raises(
        LabelError, match=r"labels .*store are for 4 frames per segment, the model takes 10: .*--frames"
    ):
        LabelStore(store).check(10)
    write_labels(store, VideoLabels("v", 4, 4, {"v#0": (CaptionLabels(("a",), (track((0,), 1),)),)}))
    (store / "manifest.json").write_text(json.dumps({"frames": 5}))
    with pytest.raises(LabelError, match=r"v\.json: broken \(a track of 4 frames, where the manifest says 5\)"):
        LabelStore(store).read("v")


@pytest.mark.parametrize("text", [None, "", "[1]", "{}", '{"frames": "x"}', '{"frames": null}'])
def test_no_store(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(
        LabelError, match=r"manifest.*" if text is not None else "groundzoo annotate propagate --out"
    ):
        LabelStore(tmp_path)


def test_a_video_without_labels(store: Path) -> None:
    with pytest.raises(LabelError, match=r"v\.json: no such file; run"):
        LabelStore(store).read("v")
    write_quarantine(store, "v", "its decoder crashed")
    with pytest.raises(LabelError, match=r"no such file; the video is in quarantine: its decoder crashed"):
        LabelStore(store).read("v")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"scores":[', '"scores":[2,'),
        ('"boxes":[[', '"boxes":[[0.5],['),
        ('"width":8', '"width":"x"'),
        ('"words":[0]', '"words":[1]'),
        ('"words":[0]', '"words":["a"]'),
        ('"words":[0]', '"words":0'),
        ('"track":0', '"track":1'),
        ('"annotated":[1]', '"annotated":[4]'),
        ('"links":{"0":[0]}', '"links":{"0":[7]}'),
        ('"links":{"0":[0]}', '"links":{"x":[0]}'),
        ('"links":{"0":[0]}', '"links":[]'),
        ('"captions"', '"sentences"'),
        ("}]}}}", "}]}"),
        ("{", "\0"),
        ('"segments":{', '"segments":7,"rest":{'),
    ],
)
def test_broken_files_are_named(old: str, new: str, store: Path) -> None:
    caption = CaptionLabels(("a",), (track((0,), 1),), {0: (0,)})
    write_labels(store, VideoLabels("v", 8, 4, {"v#0": (caption,)}))
    path = store / "labels" / "v.json"
    text = path.read_text()
    assert LabelStore(store).read("v").width == 8
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(
        LabelError, match=r"labels .*v\.json: broken \(.+\); run `groundzoo annotate propagate` again"
    ):
        LabelStore(store).read("v")


@pytest.mark.parametrize("value", ["-0.1", "1.0001", "NaN", "Infinity"])
def test_numbers_outside_are_refused(value: str, store: Path) -> None:
    write_labels(store, VideoLabels("v", 8, 4, {"v#0": (CaptionLabels(("a",), (track((0,), 1),)),)}))
    path = store / "labels" / "v.json"
    record = json.loads(path.read_text())
    record["segments"]["v#0"]["tracks"][0]["scores"][2] = "HERE"
    path.write_text(json.dumps(record).replace('"HERE"', value))
    with pytest.raises(LabelError, match=r"outside \[0, 1\]"):
        LabelStore(store).read("v")
