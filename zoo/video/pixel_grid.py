"""A weightless encoder: colours and motion on a coarse grid. The default of ToyWorld and of tests."""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .base import FrameSpec, VideoEncoder, VideoFeatures


class PixelGrid(VideoEncoder):
    """Mean colour, colour change and motion energy of every cell of a grid; no weights at all.

    Each unit gives three maps over a `grid` x `grid` raster of the frame, three colour channels each: the
    mean colour, second half minus first half, and the mean absolute difference of neighbouring frames. The
    absolute value is taken *before* pooling over space: a blink or a shake leaves no trace in mean colours.
    The three are brought to a like scale by fixed factors (ToyWorld's standard deviations are about 0.1,
    0.03 and 0.01), so the encoder needs no data to be fitted to.

    Args:
        grid: cells per side.
        fps: frames per second to read.
        window_s: seconds per unit.
        stride_s: seconds between units.
        size: side in pixels that frames are resized to; a multiple of `grid`.

    Raises:
        ValueError: `size` is no multiple of `grid`, or the window is shorter than two frames.
    """

    def __init__(
        self, grid: int = 12, fps: float = 6.0, window_s: float = 1.0, stride_s: float = 0.5, size: int = 48
    ) -> None:
        super().__init__()
        if size % grid:
            raise ValueError(f"size={size} is not a multiple of grid={grid}: cells would differ in size")
        window, stride = round(window_s * fps), max(1, round(stride_s * fps))
        if window < 2:
            raise ValueError(f"window_s={window_s} at fps={fps} holds {window} frame(s); motion needs two")
        self.side = grid
        self.grid = (grid, grid, 9)
        self.dim = 9 * grid * grid
        self.spec = FrameSpec(fps=fps, window=window, stride=stride, size=(size, size))

    def encode(self, clips: Tensor) -> VideoFeatures:
        """See `VideoEncoder.encode`; the vector holds the grid's cells, 9 values each."""
        N, L = clips.shape[:2]
        fine = F.adaptive_avg_pool2d(clips.flatten(0, 1), 2 * self.side)
        fine = fine.unflatten(0, (N, L))
        motion = (fine[:, 1:] - fine[:, :-1]).abs()
        fine, motion = (F.avg_pool2d(m.flatten(0, 1), 2).unflatten(0, (N, -1)) for m in (fine, motion))
        half = L // 2
        colour = (fine.mean(1) - 0.2) / 0.1
        change = (fine[:, -half:].mean(1) - fine[:, :half].mean(1)) / 0.03
        energy = motion.mean(1) / 0.01
        cells = rearrange([colour, change, energy], "k n c h w -> n 1 h w (k c)")
        return VideoFeatures(frames=cells.flatten(2), grid=cells)
