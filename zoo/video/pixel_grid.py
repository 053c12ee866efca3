"""A weightless encoder: colours and motion on a coarse grid. The default of ToyWorld and of tests."""

from __future__ import annotations

import torch
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
        self.grid = grid
        self.dim = 9 * grid * grid
        self.spec = FrameSpec(fps=fps, window=window, stride=stride, size=(size, size))

    def forward(self, frames: Tensor) -> VideoFeatures:
        """See `VideoEncoder.forward`; the grid's cells hold 9 values, `frames` is the grid flattened."""
        B, T = frames.shape[:2]
        spec = self.spec
        length = spec.num_frames(spec.num_units(T))
        scale = 1 / 255 if frames.dtype == torch.uint8 else 1.0
        fine = F.adaptive_avg_pool2d(frames.flatten(0, 1).float() * scale, 2 * self.grid)
        fine = fine.unflatten(0, (B, T))
        fine = fine[:, torch.arange(length, device=frames.device).clamp(max=T - 1)]  # repeat the last frame
        motion = (fine[:, 1:] - fine[:, :-1]).abs()
        fine, motion = (F.avg_pool2d(m.flatten(0, 1), 2).unflatten(0, (B, -1)) for m in (fine, motion))

        windows = fine.unfold(1, spec.window, spec.stride)
        half = spec.window // 2
        colour = (windows.mean(-1) - 0.2) / 0.1
        change = (windows[..., -half:].mean(-1) - windows[..., :half].mean(-1)) / 0.03
        energy = motion.unfold(1, spec.window - 1, spec.stride).mean(-1) / 0.01
        grid = rearrange([colour, change, energy], "k b t c h w -> b t h w (k c)")
        return VideoFeatures(frames=grid.flatten(2), grid=grid)
