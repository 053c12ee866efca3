"""A weightless encoder of short windows: what moves, and how, in every cell of a coarse grid."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .appearance_grid import HUES, features, gradients, paint, soften, windows
from .base import FrameSpec, VideoEncoder, VideoFeatures

MOTION: dict[str, tuple[int, float]] = {
    "shift": (4, 0.5),
    "growth": (2, 0.01),
    "gain": (2, 0.02),
    "turn": (1, 0.1),
    "sway": (2, 1.0),
    "wobble": (1, 0.05),
    "flicker": (1, 0.2),
    "energy": (1, 0.03),
    "area": (1, 0.1),
    "moving": (len(HUES) + 1, 0.015),
    "colours": (len(HUES) + 1, 0.1),
}
"""Channels of a cell, in order: how many, and what they are divided by: rounded standard deviations over the cells
of ToyWorld that hold an acting actor."""


class MotionGrid(VideoEncoder):
    """Movement in every cell of a grid, made for bright things on a dark stage; no weights at all.

    A cell sees a window twice as wide as itself around its middle, so windows overlap. Brightness is followed from
    frame to frame: a shift, a growth and a turn are fitted to each window and pair of neighbouring frames. Their
    means over time tell steady movement; what their mean magnitude exceeds the magnitude of the mean tells
    movement to and fro. Everything is rectified within its window, so that nothing cancels where cells are pooled
    later. The channels, in the order of `MOTION`:

    - shift (4): to the right, left, down, up; pixels per frame;
    - growth (2): growing, shrinking; share of the radius per frame;
    - gain (2): brightness added, lost; share of its mean per frame;
    - turn (1): either way; radians per frame;
    - sway (2): to and fro along x (shaking) and along y (jumping); pixels per frame;
    - wobble (1): turns to and fro; radians per frame;
    - flicker (1): gain and loss by turns (blinking); share per frame;
    - energy (1): mean absolute change of brightness from frame to frame;
    - area (1): share of the window that is bright;
    - moving (9): mean absolute change of each of 8 hues, and last white: the colour of what moves;
    - colours (9): share of the window that each of them fills.

    All are zero where nothing bright is. Values are divided by fixed numbers and clamped to 5, so the encoder
    needs no data to be fitted to.

    Args:
        grid: cells per side.
        fps: frames per second to read.
        window: frames per unit; their middle is the moment that a unit describes.
        stride: frames from one unit to the next.
        size: side in pixels that frames are resized to; a multiple of four times `grid`.

    Raises:
        ValueError: `size` is no multiple of four times `grid`, or the window is shorter than three frames.
    """

    def __init__(self, grid: int = 6, fps: float = 6.0, window: int = 5, stride: int = 3, size: int = 96) -> None:
        super().__init__()
        if size % (4 * grid):
            raise ValueError(f"size={size} is not a multiple of 4 * grid={4 * grid}: windows would differ in size")
        if window < 3:
            raise ValueError(f"window={window}: movement to and fro takes three frames")
        self.side = grid
        self.grid = (grid, grid, sum(count for count, _ in MOTION.values()))
        self.dim = math.prod(self.grid)
        self.spec = FrameSpec(fps=fps, window=window, stride=stride, size=(size, size))

    def encode(self, clips: Tensor) -> VideoFeatures:
        """See `VideoEncoder.encode`; the vector holds the grid's cells."""
        half = F.avg_pool2d(clips.flatten(0, 1), 2).unflatten(0, clips.shape[:2])  # twice the reach of the fit
        cell = half.shape[-1] // self.side
        light, colours, _ = paint(half)
        areas = windows(light, cell)
        area = areas.mean(1, keepdim=True)
        with torch.autocast(clips.device.type, enabled=False):  # small linear systems need every digit
            x, y, growth, turn = follow(light, cell)
        x, y = 2 * x, 2 * y  # pixels of the whole frame
        gain = areas.diff(dim=1) / (area + 0.01)
        values = {
            "shift": torch.cat([*both(x), *both(y)], 1),
            "growth": torch.cat(both(growth), 1),
            "gain": torch.cat(both(gain), 1),
            "turn": turn.mean(1, keepdim=True).abs(),
            "sway": torch.cat([to_and_fro(x), to_and_fro(y)], 1),
            "wobble": to_and_fro(turn),
            "flicker": to_and_fro(gain),
            "energy": windows(light.diff(dim=1).abs().mean(1, keepdim=True), cell),
            "area": area,
            "moving": windows(colours.diff(dim=1).abs().mean(1), cell),
            "colours": windows(colours.mean(1), cell),
        }
        return features(values, MOTION)


def both(change: Tensor) -> tuple[Tensor, Tensor]:
    """Half-wave rectified means over time: ``(N, T, h, w)`` to the positive and the negative ``(N, 1, h, w)``."""
    mean = change.mean(1, keepdim=True)
    return mean.clamp(min=0), (-mean).clamp(min=0)


def to_and_fro(change: Tensor) -> Tensor:
    """By how much the mean magnitude of ``(N, T, h, w)`` exceeds the magnitude of the mean: ``(N, 1, h, w)``."""
    return change.abs().mean(1, keepdim=True) - change.mean(1, keepdim=True).abs()


def follow(light: Tensor, cell: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Fit a movement to every window and pair of neighbouring frames, by least squares.

    Brightness moves along (Lucas and Kanade 1981): at each pixel ``v . gradient = -change in time``, where v is a
    shift, a growth and a turn around the middle of the window's edges. A ridge keeps windows without edges still.

    Args:
        light: ``(N, L, H, W)`` brightness.
        cell: pixels.

    Returns:
        Shift along x and along y (pixels), growth (share) and turn (radians, clockwise on the screen), each
        ``(N, L - 1, h, w)``, per frame.
    """
    soft = soften(soften(light))
    gx, gy = gradients((soft[:, 1:] + soft[:, :-1]) / 2)
    change = soft.diff(dim=1)
    H, W = light.shape[-2:]
    x = (torch.arange(W, device=light.device) - (W - 1) / 2) / cell
    y = (torch.arange(H, device=light.device)[:, None] - (H - 1) / 2) / cell
    basis = torch.stack([gx, gy, gx * x + gy * y, gy * x - gx * y], 2)  # what each unknown does to brightness
    rows, columns = torch.triu_indices(4, 4, device=light.device)
    edges = basis[:, :, :2].square().sum(2, keepdim=True)
    maps = [basis[:, :, rows] * basis[:, :, columns], -basis * change.unsqueeze(2), edges * x, edges * y]
    pooled = [rearrange(windows(m.flatten(0, 1), cell), "n c h w -> n h w c") for m in maps]
    upper, right, first_x, first_y = pooled
    system = upper.new_zeros(*upper.shape[:-1], 4, 4)
    system[..., rows, columns] = system[..., columns, rows] = upper

    strength = (system[..., 0, 0] + system[..., 1, 1]).clamp(min=1e-9)
    cx, cy = first_x[..., 0] / strength, first_y[..., 0] / strength
    to_middle = torch.eye(4, device=light.device).expand(system.shape).clone()  # growth and turn around (cx, cy)
    to_middle[..., 2, 0], to_middle[..., 2, 1] = -cx, -cy
    to_middle[..., 3, 0], to_middle[..., 3, 1] = cy, -cx
    system = to_middle @ system @ to_middle.mT + torch.diag(system.new_tensor([1e-4, 1e-4, 1e-5, 1e-5]))
    found = torch.linalg.solve(system, to_middle @ right.unsqueeze(-1)).squeeze(-1)
    found = found * found.new_tensor([1, 1, 1 / cell, 1 / cell])  # lengths were cells in x and y
    shift_x, shift_y, growth, turn = rearrange(found, "(n t) h w c -> c n t h w", n=len(light))
    return shift_x, shift_y, growth, turn
