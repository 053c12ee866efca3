"""How an encoder wants to be fed. Imports no torch, so that `groundzoo list` starts fast."""

from __future__ import annotations

import math
from dataclasses import dataclass

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class FrameSpec:
    """How an encoder wants to be fed. A *unit* is one output vector.

    Unit k sees the frames ``[k * stride, k * stride + window)``. Encoders that look at several units at once
    (Video Swin per frame, tubelets of V-JEPA) compute `context` neighbouring units in one pass; passes share
    nothing, so a video can be cut between any two of them.

    Attributes:
        fps: frames per second the encoder expects; None takes the file's own rate.
        window: frames per unit.
        stride: frames from the start of one unit to the start of the next.
        size: ``(height, width)`` in pixels of what the encoder sees; None keeps what `resize` gives.
        resize: what frames are resized to before a centre crop to `size`: ``(height, width)``, or the shorter
            side in pixels with the aspect kept; None resizes to `size` itself, without a crop.
        context: units computed in one pass; more than one only where ``window == stride``.
        mean: subtracted from RGB in [0, 1].
        std: divided by afterwards. Networks for values in [0, 255] have 1/255.
        bgr: the network wants blue first (`mean` and `std` are red first all the same).
        sound: the "frames" are samples of sound, `fps` is their rate, and the size is None.
        pad: the longer side becomes that of the square `size`; the rest, right and below, is filled with the mean.

    Raises:
        ValueError: the values contradict each other.
    """

    fps: float | None
    window: int
    stride: int
    size: tuple[int, int] | None
    resize: int | tuple[int, int] | None = None
    context: int = 1
    mean: Triple = (0.0, 0.0, 0.0)
    std: Triple = (1.0, 1.0, 1.0)
    bgr: bool = False
    sound: bool = False
    pad: bool = False

    def __post_init__(self) -> None:
        if self.fps is not None and not (math.isfinite(self.fps) and self.fps > 0):
            raise ValueError(f"fps={self.fps}: frames per second are positive, or null for the file's own rate")
        if min(self.window, self.stride, self.context) < 1:
            raise ValueError(
                f"window={self.window}, stride={self.stride}, context={self.context}: each is at least 1"
            )
        if self.context > 1 and self.window != self.stride:
            raise ValueError(f"context={self.context} asks for window == stride, not {self.window}, {self.stride}")
        if self.size is not None and self.resize is not None:
            height, width = (self.resize,) * 2 if isinstance(self.resize, int) else self.resize
            if height < self.size[0] or width < self.size[1]:
                raise ValueError(f"a crop of {self.size} does not fit into resize={self.resize}")
        if self.pad and (self.size is None or self.size[0] != self.size[1] or self.resize is not None):
            raise ValueError(f"pad fills a square, without `resize`: size={self.size}, resize={self.resize}")

    # ---- time -------------------------------------------------------------------------------------------

    def num_units(self, num_frames: int) -> int:
        """Units of a video of `num_frames` frames; a last, incomplete window counts, an empty video has none."""
        if num_frames <= 0:
            return 0
        return 1 + max(0, -(-(num_frames - max(self.window, self.stride)) // self.stride))

    def num_frames(self, num_units: int) -> int:
        """Frames that `num_units` units cover when all windows are complete."""
        return (num_units - 1) * self.stride + self.window if num_units else 0

    @property
    def pass_frames(self) -> int:
        """Frames that one pass of the network sees."""
        return self.num_frames(self.context)

    @property
    def pass_stride(self) -> int:
        """Frames from the start of one pass to the start of the next."""
        return self.context * self.stride

    # ---- space ------------------------------------------------------------------------------------------

    def decoded_size(self, height: int, width: int) -> tuple[int, int] | None:
        """Size to which a decoder should resize pictures of ``(height, width)``; None leaves them as they are."""
        if self.pad and self.size is not None:
            side, longer = self.size[0], max(height, width)
            return max(1, round(height * side / longer)), max(1, round(width * side / longer))
        if isinstance(self.resize, int):
            short = min(height, width)
            return tuple(max(self.resize, round(side * self.resize / short)) for side in (height, width))  # type: ignore[return-value]
        return self.resize or self.size

    def crop(self, height: int, width: int) -> tuple[slice, slice]:
        """Rows and columns of the centre crop of a resized picture; all of them where it is padded instead."""
        if self.size is None or self.resize is None:
            return slice(None), slice(None)
        top, left = (round((have - want) / 2) for have, want in zip((height, width), self.size, strict=True))
        return slice(top, top + self.size[0]), slice(left, left + self.size[1])
