"""What every video encoder is: frames in, features per unit of time out, and how it wants to be fed."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn


class VideoFeatures(NamedTuple):
    """What a video encoder returns.

    Attributes:
        frames: ``(B, T', D)``, one vector per unit of time.
        grid: ``(B, T', h, w, D)``, the same units cell by cell, or None for encoders without a grid.
    """

    frames: Tensor
    grid: Tensor | None = None


@dataclass(frozen=True)
class FrameSpec:
    """How an encoder wants to be fed. A *unit* is one output vector; it sees `window` frames.

    Attributes:
        fps: frames per second the encoder expects; None takes the file's own rate.
        window: frames per unit.
        stride: frames from the start of one unit to the start of the next.
        size: ``(height, width)`` in pixels that frames are resized to; None keeps the file's own.
    """

    fps: float | None
    window: int
    stride: int
    size: tuple[int, int] | None

    def num_units(self, num_frames: int) -> int:
        """Units of a video of `num_frames` frames; a last, incomplete window counts, an empty video has none."""
        if num_frames <= 0:
            return 0
        return 1 + max(0, -(-(num_frames - max(self.window, self.stride)) // self.stride))

    def num_frames(self, num_units: int) -> int:
        """Frames that `num_units` units cover when all windows are complete."""
        return (num_units - 1) * self.stride + self.window if num_units else 0


class VideoEncoder(nn.Module, ABC):
    """Base of all video encoders.

    A subclass sets `dim` (D of its output) and `spec` (how to feed it) and implements `forward`. Both are
    read from the instance by whoever uses the encoder, so that they are never typed twice. Frozen by
    default: eval mode, no gradient; `trainable=True` lifts both.

    Attributes:
        dim: width D of the output vectors.
        spec: frame rate, window, stride and size of the input.
        trainable: whether a task may train it.
        settings: the constructor's arguments, defaults included.
    """

    dim: int
    spec: FrameSpec

    settings: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> VideoEncoder:
        """Remember the constructor's arguments: they are part of the manifest of all features made."""
        encoder = super().__new__(cls)
        bound = inspect.signature(cls.__init__).bind_partial(encoder, *args, **kwargs)
        bound.apply_defaults()
        settings = {k: v for k, v in bound.arguments.items() if k != "self"}
        object.__setattr__(encoder, "settings", settings)
        return encoder

    def __init__(self, trainable: bool = False) -> None:
        super().__init__()
        self.trainable = trainable

    @abstractmethod
    def forward(self, frames: Tensor) -> VideoFeatures:
        """Encode one uninterrupted stretch of video.

        Args:
            frames: ``(B, T, 3, H, W)``, uint8 or float in [0, 1], RGB, at `spec.fps`.

        Returns:
            Features of ``T' = spec.num_units(T)`` units.
        """

    def freeze_unless_trainable(self) -> None:
        """Take all parameters out of training; call it at the end of a subclass's constructor."""
        self.requires_grad_(self.trainable)
        self.train(self.trainable)

    def rebuild_arguments(self) -> dict[str, Any]:
        """Constructor arguments that stand in for files: a checkpoint stores them with the weights."""
        return {}

    def train(self, mode: bool = True) -> VideoEncoder:
        """Training mode reaches a frozen encoder never (its batch norm and dropout stay off)."""
        return super().train(mode and self.trainable)


class VideoUnits(NamedTuple):
    """A whole video as an encoder sees it.

    Attributes:
        units: ``(n, D)`` on the CPU, float.
        num_frames: frames of the video at the rate the encoder reads.
        duration_s: seconds.
    """

    units: Tensor
    num_frames: int
    duration_s: float
