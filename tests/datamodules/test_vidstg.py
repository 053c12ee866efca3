"""VidSTG in TubeDETR's form: a sentence is given, and one object is followed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from grounded_files import HEIGHT, WIDTH, ready, write_videos
from videos import read_codes

from groundzoo.datamodules.annotations import AnnotationError
from groundzoo.datamodules.vidstg import VidSTG, parse_tube, read_tubes

TUBE = {str(k): {"bbox": [k / 2, 4, 16, 12]} for k in range(0, 60)}


def video(number: int, name: str = "a", **changes: Any) -> dict[str, Any]:
    return {
        "video_id": number,
        "original_video_id": name,
        "video_path": f"0001/{name}.mp4",
        "caption": "What does the adult hold?" if number % 2 else "An adult holds a ball.",
        "qtype": "interrogative" if number % 2 else "declarative",
        "tube_start_frame": 3,
        "tube_end_frame": 40,
        "fps": 25,
        "width": WIDTH,
        "height": HEIGHT,
        "target_id": 7,
    } | changes


def write(root: Path, videos: list[Any], trajectories: Any = None) -> Path:
    stored = {"videos": videos, "trajectories": trajectories or {name: {"7": TUBE} for name in "ab"}}
    for split in ("train", "val", "test"):
        (root / f"{split}.json").write_text(json.dumps(stored))
    return root


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_videos(tmp_path_factory.mktemp("videos"), "ab")


def data_of(tmp_path: Path, files: Path, videos: list[Any], **kwargs: Any) -> VidSTG:
    return VidSTG(write(tmp_path, videos), videos=files, num_workers=0, eval_batch_size=2, **kwargs)


def test_the_sentence_is_given_and_is_the_phrase(tmp_path: Path, files: Path) -> None:
    data = ready(data_of(tmp_path, files, [video(10), video(11, "b", tube_end_frame=22)]))
    (batch,) = data.val_dataloader()
    assert batch.given
    assert data.gives_captions
    assert [c.phrases for c in batch.captions] == [["An adult holds a ball."], ["What does the adult hold?"]]
    assert batch.clip.tolist() == [0, 1]
    assert read_codes(batch.frames[0][0]) == list(range(3, 39, 5)), "the last frame is before the end minus one"
    assert read_codes(batch.frames[0][1]) == [3, 8, 13, 18, 18, 18, 18, 18]
    assert batch.mask.sum(1).tolist() == [8, 4]
    assert batch.visible.all()
    k = torch.arange(3, 39, 5)
    torch.testing.assert_close(batch.boxes[0, :, 0], (k / 2 + 8) / WIDTH)
    assert batch.boxes[0, 0, 1:].tolist() == pytest.approx([10 / HEIGHT, 16 / WIDTH, 12 / HEIGHT])
    assert batch.truths[1][1] == [("What does the adult hold?", [4, 4, 20, 16])]
    assert batch.clip_ids == ["10", "11"]
    assert batch.video_ids == ["a", "b"]
    assert {name: row.tolist() for name, row in batch.subsets.items()} == {
        "declarative": [True, False],
        "interrogative": [False, True],
    }


def test_both_kinds_are_named_in_every_batch(tmp_path: Path, files: Path) -> None:
    data = ready(data_of(tmp_path, files, [video(10), video(12)]))
    (batch,) = data.val_dataloader()
    assert {name: row.tolist() for name, row in batch.subsets.items()} == {
        "declarative": [True, True],
        "interrogative": [False, False],
    }


def test_training(tmp_path: Path, files: Path) -> None:
    data = ready(data_of(tmp_path, files, [video(10), video(11, "b")], batch_size=2), frames=4)
    (batch,) = data.train_dataloader()
    assert batch.frames[0].shape == (2, 4, 3, HEIGHT, WIDTH)
    assert batch.given
    codes = torch.tensor([read_codes(frames) for frames in batch.frames[0]])
    torch.testing.assert_close(batch.boxes[..., 0], (codes / 2 + 8) / WIDTH)


def test_frames_without_a_box_show_nothing(tmp_path: Path, files: Path) -> None:
    tube = {k: v for k, v in TUBE.items() if k != "8"} | {"13": {"bbox": [4, 4, 0, 9]}}
    write(tmp_path, [video(1)], {"a": {"7": tube}})
    (batch,) = ready(VidSTG(tmp_path, videos=files, num_workers=0)).val_dataloader()
    assert batch.visible[0].tolist() == [True, False, False, *[True] * 5]
    assert [len(frame) for frame in batch.truths[0]] == [1, 0, 0, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("fps", "start", "end", "expected"),
    [
        (30, 18, 63, range(18, 62, 6)),
        (29.97, 0, 51, range(0, 50, 5)),
        (4, 5, 9, range(5, 8)),
    ],
)
def test_frames_of_a_tube(fps: float, start: int, end: int, expected: range) -> None:
    entry = video(1, fps=fps, tube_start_frame=start, tube_end_frame=end)
    assert list(parse_tube(entry, {"a": {"7": TUBE}}, "f").frames) == list(expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_id": 8}, "there is no '8'"),
        ({"original_video_id": "zz"}, "there is no 'zz'"),
        ({"qtype": "imperative"}, "'imperative'"),
        ({"caption": " "}, "a sentence"),
        ({"fps": 0}, "positive"),
        ({"tube_end_frame": 4}, "no frame from 3 to 3"),
        ({"tube_start_frame": -6}, "no frame"),
        ({"width": None}, "NoneType"),
        ({"video_path": "a/.."}, "path parts"),
    ],
)
def test_a_bad_entry_costs_itself_and_is_told(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write(tmp_path, [video(10), video(11, **changes), video(12)]) / "train.json"
    first, error, last = read_tubes(path)
    assert not isinstance(first, AnnotationError)
    assert not isinstance(last, AnnotationError)
    assert isinstance(error, AnnotationError)
    assert message in str(error)
    assert f"{path}, videos[1], video_id 11" in str(error)


def test_boxes_that_are_none(tmp_path: Path) -> None:
    for tube in (
        {"3": {"bbox": [1, 2, 3]}},
        {"3": {}},
        {"3": {"bbox": None}},
        [],
        {"3": {"bbox": [1, 2, "w", 4]}},
    ):
        with pytest.raises(AnnotationError, match="f, video_id 1"):
            parse_tube(video(1), {"a": {"7": tube}}, "f")


def test_other_structures(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text("[]")
    with pytest.raises(AnnotationError, match="expected `videos` and `trajectories`"):
        list(read_tubes(tmp_path / "train.json"))
    with pytest.raises(AnnotationError, match="does not exist"):
        VidSTG(tmp_path, val="none.json").clips("val")
    with pytest.raises(AnnotationError, match="an entry with `video_id`"):
        parse_tube([], {}, "f")
