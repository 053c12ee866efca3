"""Encoders that show what they were fed, and how often; small enough for any test."""

from __future__ import annotations

import torch
import videos
from torch import Tensor

from groundzoo.zoo.video.base import FrameSpec, VideoEncoder, VideoFeatures
from groundzoo.zoo.video.r2plus1d import R2Plus1D


class Codes(VideoEncoder):
    """A unit holds the numbers that its frames show (see `videos.coded_frame`).

    Attributes:
        batches: shape of every batch encoded.
    """

    def __init__(
        self,
        window: int = 4,
        stride: int = 4,
        context: int = 1,
        fps: float | None = None,
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.spec = FrameSpec(fps=fps, window=window, stride=stride, size=size, context=context)
        self.dim = window
        self.batches: list[tuple[int, ...]] = []

    def encode(self, clips: Tensor) -> VideoFeatures:
        self.batches.append(tuple(clips.shape))
        rows = [videos.read_codes((clip * 255).round().to(torch.uint8)) for clip in clips]
        units = torch.tensor(rows, dtype=torch.float32).reshape(len(clips), self.spec.context, -1)
        return VideoFeatures(units)


class Loudness(VideoEncoder):
    """A unit is the mean absolute sample of a stretch of sound, and how many samples are exactly zero."""

    def __init__(self, window: int = 800, stride: int = 800, rate: float = 8000.0) -> None:
        super().__init__()
        self.spec = FrameSpec(fps=rate, window=window, stride=stride, size=None, sound=True)
        self.dim = 2

    def encode(self, clips: Tensor) -> VideoFeatures:
        units = torch.stack([clips.abs().mean(1), (clips == 0).float().sum(1)], dim=1)
        return VideoFeatures(units[:, None])


def expected_codes(encoder: VideoEncoder, count: int, shown: list[int] | None = None) -> list[list[int]]:
    """The units that `Codes` should give for a video of `count` frames, or for the frames `shown`.

    A pass that is cut short repeats its last frame, so do all units in it.
    """
    spec = encoder.spec
    shown = shown or list(range(count))
    return [
        [shown[min(k * spec.stride + i, len(shown) - 1)] for i in range(spec.window)]
        for k in range(spec.num_units(len(shown)))
    ]


def tiny_r2plus1d() -> R2Plus1D:
    """A network of a few thousand random weights, the same in every process."""
    return R2Plus1D(weights="random", layers=(1, 1, 1, 1), width=2, size=32)
