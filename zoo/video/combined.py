"""Several encoders of one video, side by side: "SA-TSP + I3D + VGGish"."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from .base import VideoEncoder, VideoFeatures
from .spec import FrameSpec

Array = npt.NDArray[np.floating]


def align(units: Sequence[Array], specs: Sequence[FrameSpec], num_frames: Sequence[int]) -> Array:
    """Units of several encoders on the time line of the first, next to each other.

    To every unit of the first belongs, of each other, the unit whose middle is nearest; of two equally near
    the earlier one. Encoders may read other frame rates: times are shares of the video.

    Args:
        units: ``(n_k, D_k)`` of each encoder, n_k >= 1.
        specs: how each was fed.
        num_frames: frames of the video at the rate of each.

    Returns:
        ``(n_0, sum of D_k)``, the dtype of the first.
    """
    middles = [
        (np.arange(len(u)) * s.stride + s.window / 2) / f for u, s, f in zip(units, specs, num_frames, strict=True)
    ]
    aligned = [units[0]]
    for other, middle in zip(units[1:], middles[1:], strict=True):
        after = np.searchsorted(middle, middles[0]).clip(1, max(1, len(middle) - 1))
        before = after - 1
        after = after.clip(max=len(middle) - 1)
        closer_by = np.abs(middle[before] - middles[0]) - np.abs(middle[after] - middles[0])
        nearer = closer_by > 1e-9  # not by rounding alone
        aligned.append(other[np.where(nearer, after, before)].astype(units[0].dtype))
    return np.concatenate(aligned, axis=1)


class Combined(VideoEncoder):
    """Several encoders whose vectors are put side by side, on the time line of the first.

    Each reads the video in its own way (frame rate, size, sound); from files, the video is decoded once for
    all. Cells are put side by side, too, where all have a grid of the same size. From feature stores, give one
    store per encoder in `data.init_args.features`, with `Precomputed` as encoders.

    Args:
        encoders: two or more frozen encoders.

    Raises:
        ValueError: fewer than two, or one is trainable.
    """

    def __init__(self, encoders: list[VideoEncoder]) -> None:
        super().__init__()
        if len(encoders) < 2:
            raise ValueError(f"encoders has {len(encoders)} entry: there is nothing to combine")
        if any(encoder.trainable for encoder in encoders):
            raise ValueError("a combined encoder cannot be trained: set trainable to false in each")
        self.encoders = nn.ModuleList(encoders)
        self.dim = sum(encoder.dim for encoder in encoders)
        grids = [encoder.grid for encoder in encoders if encoder.grid is not None]
        if len(grids) == len(encoders) and len({grid[:2] for grid in grids}) == 1:
            self.grid = (*grids[0][:2], sum(grid[2] for grid in grids))
        self.spec = encoders[0].spec
        self.freeze_unless_trainable()

    @property
    def parts(self) -> Sequence[VideoEncoder]:
        """See `VideoEncoder.parts`."""
        return [encoder for encoder in self.encoders if isinstance(encoder, VideoEncoder)]

    def encode(self, clips: Tensor) -> VideoFeatures:
        """There is no clip that all encoders could see.

        Raises:
            ValueError: always; says what to do instead.
        """
        raise ValueError(
            "a combined encoder has no single way to see frames: hand it files (`encode_video`) or stores"
        )
