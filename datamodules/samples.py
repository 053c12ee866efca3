"""Frames sampled from a stretch of video, as encoders want them: F moments, one unit of features each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ..zoo.video.base import crop_or_pad
from ..zoo.video.spec import FrameSpec
from .segments import sample_times
from .video import FrameReader

Times = npt.NDArray[np.float64]


class Sampled(NamedTuple):
    """F moments of a video file, in seconds."""

    path: Path
    times_s: tuple[float, ...]


class Samples(NamedTuple):
    """A stretch of video as encoders see it.

    Attributes:
        passes: per encoder ``(P, L, 3, H, W)`` uint8.
        times_s: the F moments.
        span_s: start and end of the stretch.
        size: (width, height) of the original frames in pixels.
    """

    passes: list[Tensor]
    times_s: list[float]
    span_s: tuple[float, float]
    size: tuple[int, int]


def pass_times(spec: FrameSpec, times_s: Times, fps: float, duration_s: float) -> Times:
    """When the frames of every pass are shown that give one unit per moment, ``(P, L)`` seconds.

    An encoder of single windows gets a window of its own around each moment. One whose units see each other
    (Video Swin per frame, tubelets) gets the sampled frames themselves as its video, each as often as a unit has
    frames: it then compares moments of the whole stretch, as in CVG.

    Args:
        spec: of the encoder.
        times_s: F moments.
        fps: of the file, where the encoder takes the file's own.
        duration_s: of the file; windows do not reach beyond it.

    Raises:
        ValueError: the encoder hears, or keeps each video's own size.
    """
    if spec.sound or spec.size is None:
        raise ValueError(
            "an encoder of sound, or of frames without a fixed size, gives no grid for sampled frames"
        )
    if spec.context == 1:
        rate = spec.fps or fps
        length = (spec.window - 1) / rate
        starts = (times_s - length / 2).clip(0, max(0.0, duration_s - length))
        around: Times = starts[:, None] + np.arange(spec.window) / rate
        return around
    frames = times_s.repeat(spec.window)
    missing = -len(frames) % spec.pass_frames
    return np.concatenate([frames, frames[-1:].repeat(missing)]).reshape(-1, spec.pass_frames)


def read_passes(reader: FrameReader, spec: FrameSpec, times_s: Sequence[float]) -> Tensor:
    """The frames of `pass_times`, ``(P, L, 3, H, W)`` uint8, resized and cropped as the encoder asks for.

    Raises:
        VideoError: the file cannot be read.
        ValueError: see `pass_times`.
    """
    info = reader.info
    times = pass_times(spec, np.asarray(times_s, dtype=np.float64), info.fps, info.duration_s)
    frames = reader.at_times(times.ravel(), spec.decoded_size(info.height, info.width))
    passes: Tensor = crop_or_pad(frames, spec).unflatten(0, times.shape)
    return passes


def read_samples(
    path: Path,
    specs: Sequence[FrameSpec],
    frames: int,
    start_s: float = 0.0,
    end_s: float | None = None,
    fps: float | None = None,
) -> Samples:
    """Read F moments of a stretch of a video file for several encoders.

    Args:
        path: the file.
        specs: of the encoders.
        frames: F.
        start_s: start of the stretch.
        end_s: its end; None is the end of the file.
        fps: moments per second; a stretch too short for F of them has F all the same.

    Raises:
        VideoError: the file cannot be read.
        ValueError: the stretch is empty or outside of the video.
    """
    with FrameReader(path) as reader:
        info = reader.info
        end = info.duration_s if end_s is None else min(end_s, info.duration_s)
        if not 0 <= start_s < end:
            raise ValueError(
                f"{path}: nothing lies between {start_s:g} s and {end_s if end_s is None else f'{end_s:g}'} s; "
                f"the video has {info.duration_s:.2f} s"
            )
        if fps is not None:
            frames = max(frames, round((end - start_s) * fps))
        times = sample_times(start_s, end, frames).tolist()
        passes = [read_passes(reader, spec, times) for spec in specs]
        return Samples(passes, times, (start_s, end), (info.width, info.height))


def iter_moments(path: Path, specs: Sequence[FrameSpec], fps: float, chunk: int) -> Iterator[Samples]:
    """Moments of a whole video at a fixed rate, in pieces, so that memory does not grow with its length.

    Args:
        path: the file.
        specs: of the encoders.
        fps: moments per second; the first is at 0.
        chunk: most moments of a piece.

    Yields:
        Samples in the order of time; their `span_s` is that of the whole video.

    Raises:
        VideoError: the file cannot be read.
    """
    with FrameReader(path) as reader:
        info = reader.info
        count = max(1, math.ceil(info.duration_s * fps - 1e-6))
        for first in range(0, count, chunk):
            times = [k / fps for k in range(first, min(first + chunk, count))]
            passes = [read_passes(reader, spec, times) for spec in specs]
            yield Samples(passes, times, (0.0, info.duration_s), (info.width, info.height))


def unit_at(
    spec: FrameSpec, units: int, num_frames: int, duration_s: float, times_s: Times
) -> npt.NDArray[np.int64]:
    """Of a whole video's units, the one whose window's middle is nearest to each moment, ``(F,)``."""
    middles = (np.arange(units) * spec.stride + spec.window / 2) * (duration_s / max(1, num_frames))
    nearest: npt.NDArray[np.int64] = np.abs(middles[None] - times_s[:, None]).argmin(1)
    return nearest
