"""From the units of an encoder to a fixed number of clips per video."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from .base import FrameSpec

Array = npt.NDArray[np.floating]


@dataclass(frozen=True)
class ClipPooling:
    """Cuts a video of any length into `num_clips` equal, non-overlapping clips and pools units over each.

    The rule is DRN's: clip k runs over frames ``int(linspace(1, F, num_clips, endpoint=False))`` to the
    next start, the last one to F; a clip not longer than one window takes the single unit it starts in, a
    longer one all units whose first frame lies before its end, counted from the unit it starts in.

    Attributes:
        num_clips: clips per video, T.
        reduce: how units of one clip become one vector. DRN takes the maximum, which suits features behind a ReLU:
            `auto` takes it where no number of the video is negative, and the mean elsewhere.
    """

    num_clips: int = 32
    reduce: Literal["auto", "max", "mean"] = "auto"

    def __post_init__(self) -> None:
        if self.num_clips < 1:
            raise ValueError(f"num_clips={self.num_clips}: a video has at least one clip")

    def frame_bounds(self, num_frames: int) -> npt.NDArray[np.int64]:
        """First and end frame of every clip, ``(T, 2)``, frames counted from 1 as in the released files."""
        starts = np.linspace(1, num_frames, self.num_clips, endpoint=False).astype(np.int64)
        return np.stack([starts, np.append(starts[1:], num_frames)], axis=1)

    def bounds(self, num_frames: int) -> Array:
        """`frame_bounds` as shares of the video in [0, 1], ``(T, 2)`` float64."""
        return self.frame_bounds(num_frames) / num_frames

    def pool(self, units: Array, num_frames: int, spec: FrameSpec) -> Array:
        """Pool an encoder's units into clips.

        Args:
            units: ``(n, D)``, n >= 1; when fewer than the video has, the last stands for the missing ones.
            num_frames: F, frames of the video at the rate that `spec` counts in.
            spec: window and stride of the units.

        Returns:
            ``(T, D)``, dtype of `units`.

        Raises:
            ValueError: there are no units.
        """
        if len(units) == 0:
            raise ValueError("no feature vectors: the feature file of this video is empty")
        start, end = self.frame_bounds(num_frames).T
        first = start // spec.stride
        last = np.where(end - start <= spec.window, first, np.maximum(first, -(-end // spec.stride) - 1))
        first, last = (np.minimum(i, len(units) - 1) for i in (first, last))
        if self.reduce == "max" or (self.reduce == "auto" and units.min() >= 0):
            segments = np.stack([first, last + 1], axis=1).ravel()
            padded = np.concatenate([units, units[-1:]])  # reduceat needs every index inside the array
            pooled: Array = np.maximum.reduceat(padded, segments, axis=0)[::2]
            return pooled
        total = np.concatenate([np.zeros_like(units[:1], dtype=np.float64), units.cumsum(0, dtype=np.float64)])
        mean: Array = (total[last + 1] - total[first]) / (last + 1 - first)[:, None]
        return mean.astype(units.dtype)
