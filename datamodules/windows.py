"""Raw frames for encoders that are trained with the task: one window per clip of a video."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..zoo.video.base import crop_or_pad
from ..zoo.video.clips import ClipPooling
from ..zoo.video.spec import FrameSpec
from .video import FrameReader


class VideoWindows(NamedTuple):
    """One video, cut into T clips, each with the frames of one pass of the encoder.

    Attributes:
        frames: ``(T, L, 3, H, W)`` uint8.
        bounds: ``(T, 2)`` float, start and end of every clip as share of the video.
        duration_s: seconds.
    """

    frames: Tensor
    bounds: Tensor
    duration_s: float


def read_windows(path: Path, spec: FrameSpec, clips: ClipPooling) -> VideoWindows:
    """Read, for every clip of a video, the frames of one pass, centred in the clip; the video is opened once.

    Raises:
        VideoError: the file cannot be read.
        ValueError: the encoder hears or keeps every video's own size: such frames make no batch.
    """
    if spec.sound or spec.size is None:
        raise ValueError("an encoder of sound, or of frames without a fixed size, cannot be trained with a task")
    with FrameReader(path) as reader:
        info = reader.info
        fps = spec.fps or info.fps
        bounds = torch.from_numpy(clips.bounds(max(1, round(info.duration_s * fps))))
        middles: npt.NDArray[np.float64] = bounds.mean(1).numpy() * info.duration_s
        starts = (middles - spec.pass_frames / fps / 2).clip(0, max(0.0, info.duration_s - spec.pass_frames / fps))
        frames = reader.clips(starts, spec.pass_frames, fps, spec.decoded_size(info.height, info.width))
        return VideoWindows(crop_or_pad(frames, spec), bounds.float(), info.duration_s)


@dataclass
class RawVideos:
    """Video files in the place of a feature store.

    Attributes:
        files: by video id.
        spec: how the encoder wants to be fed.
        clips: how a video is cut.
    """

    files: Mapping[str, Path]
    spec: FrameSpec
    clips: ClipPooling
    manifest = None

    @property
    def ids(self) -> set[str]:
        """Videos there are."""
        return set(self.files)

    @property
    def path(self) -> Path:
        """Where the files are."""
        return next(iter(self.files.values())).parent

    def windows(self, video_id: str) -> VideoWindows:
        """See `read_windows`."""
        return read_windows(self.files[video_id], self.spec, self.clips)
