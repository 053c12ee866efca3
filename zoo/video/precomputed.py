"""Features somebody else computed: an encoder that only says how they were made."""

from __future__ import annotations

from torch import Tensor

from .base import FrameSpec, VideoEncoder, VideoFeatures


class Precomputed(VideoEncoder):
    """Stands for features read from disk (C3D, I3D, VGG ...); holds their width, window and stride.

    Args:
        dim: width of the stored vectors.
        window: video frames that one stored vector was computed from.
        stride: video frames from one vector to the next.
        fps: frame rate that window and stride count in; None is the video file's own.
        name: what made them, for logs and error messages.
        grid: (h, w, C) where grids are stored, which makes C the width.
    """

    def __init__(
        self,
        dim: int,
        window: int = 16,
        stride: int = 8,
        fps: float | None = None,
        name: str = "features",
        grid: tuple[int, int, int] | None = None,
    ) -> None:
        super().__init__()
        self.dim, self.grid = dim, grid
        self.spec = FrameSpec(fps=fps, window=window, stride=stride, size=None)
        self.name = name

    def encode(self, clips: Tensor) -> VideoFeatures:
        """There is nothing to compute them with.

        Raises:
            ValueError: always; says what to do instead.
        """
        raise ValueError(
            f"these are precomputed '{self.name}' features: they cannot be made from raw video here. "
            "Give the data module a feature folder (`data.init_args.features`), or choose an encoder that "
            "reads frames (`groundzoo list encoders`)."
        )
