"""The units of features that a video gets against the clips that TSP's own program extracts.

All of TSP's clips are there, in their order, starting at the same pictures. Two things differ:

- the last unit may be incomplete, its last picture repeated, where TSP drops what does not fill a clip;
- TSP steps through each clip from its first picture, ours shows what is to be seen at every 1/15 s of the video.
  At 30 fps, to which TSP converts all videos, these are the same pictures; at 25 fps, ours is at most one later.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_files import golden_cases
from tiny_encoders import Codes
from videos import COLUMNS, ROWS, coded_video

from groundzoo.datamodules.collecting import encode_video

pytestmark = pytest.mark.golden
RATE = 15.0
CODES = 2 ** (ROWS * COLUMNS)  # a longer video shows its numbers again from 0


def cases() -> list[Any]:
    found = []
    for path in golden_cases("satsp", "tsp_feature_clips*.json"):
        if not isinstance(path, Path):
            found.append(path)
            continue
        for k, case in enumerate(json.loads(path.read_text())):
            found.append(pytest.param(case, id=f"{path.stem}-{k}"))
    return found


def units_of(case: dict[str, Any], folder: Path) -> tuple[np.ndarray, int]:
    """Numbers of the source pictures that every unit sees ``(n, window)``, and pictures at 15 per second."""
    count, fps = case["video_frames"], case["fps"]
    path = coded_video(folder / "video.mp4", count, math.ceil(fps), times_s=[n / fps for n in range(count)])
    encoder = Codes(len(case["within_clip_source_offsets"]), case["stride"], fps=RATE, size=(48, 64))
    found = encode_video(encoder, path)
    shown = found.units.numpy().astype(int)
    turns = np.diff(shown[:, 0], prepend=0) < -CODES // 2
    shown = shown + CODES * np.cumsum(turns)[:, None]
    return np.where(shown < shown[:, :1], shown + CODES, shown), found.num_frames


@pytest.mark.parametrize("case", cases())
def test_units_are_tsps_clips(case: dict[str, Any], tmp_path: Path) -> None:
    shown, num_frames = units_of(case, tmp_path)
    fps, clips, stride = case["fps"], case["n_clips"], case["stride"]
    offsets = np.array(case["within_clip_source_offsets"])
    window = len(offsets)

    starts = shown[:, 0] / fps
    first = case["first5_start_s"]
    assert starts[: len(first)] == pytest.approx(first)
    assert starts[clips - 1] == pytest.approx(case["last_start_s"])
    assert clips == (num_frames - window) // stride + 1, "all full windows, and no others"

    tsp = shown[:clips, :1] + offsets
    late = shown[:clips] - tsp
    assert late.min() >= 0
    assert late.max() <= 1
    exact = np.isclose(np.arange(clips) * stride * fps / RATE % 1, 0)
    assert exact[0]
    assert (late[exact] == 0).all(), "where a clip starts exactly at a picture, all its pictures are TSP's"
    if fps % RATE == 0:
        assert exact.all()

    tail = shown[clips:]
    assert len(tail) == (0 if (num_frames - window) % stride == 0 else 1)
    if len(tail):
        whole = num_frames - clips * stride
        assert 0 < whole < window or stride < window
        assert (tail[0, whole:] == tail[0, whole - 1]).all(), "what is missing repeats the last picture"
        assert tail[0, 0] > shown[clips - 1, 0]


def test_a_whole_number_of_clips_has_no_tail(tmp_path: Path) -> None:
    case = {"video_frames": 320, "fps": 30.0, "stride": 16, "within_clip_source_offsets": list(range(0, 32, 2))}
    shown, num_frames = units_of(case, tmp_path)
    assert num_frames == 160
    assert shown.tolist() == np.arange(0, 320, 2).reshape(10, 16).tolist()
