"""A weightless encoder of single frames: which colours and shapes stand in every cell of a coarse grid."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .base import FrameSpec, VideoEncoder, VideoFeatures

HUES = (0, 1, 2, 3, -4, -3, -2, -1)
"""Middles of the soft bins of hue in steps of 45 degrees, from red over green and blue: no difference of an angle
in [-4, 4] to any of them exceeds a full turn."""

HARMONICS = (1, 2, 3, 4, 5, 6, 8)
LIMIT = 5.0  # of all values

APPEARANCE: dict[str, tuple[int, float]] = {
    "colours": (len(HUES) + 1, 0.1),
    "palette": (len(HUES) + 1, 0.3),
    "area": (1, 0.1),
    "grey": (1, 0.2),
    "outline": (1, 0.05),
    "roughness": (1, 0.02),
    "harmonics": (len(HARMONICS), 0.15),
    "pixels": (48, 0.2),
}
"""Channels of a cell, in order: how many, and what they are divided by: rounded standard deviations over the cells
of ToyWorld that hold an actor (a guess for grey, which only some worlds have)."""


class AppearanceGrid(VideoEncoder):
    """Colours and shapes in every cell of a grid, made for bright things on a dark stage; no weights at all.

    A cell sees a window twice as wide as itself around its middle, so windows overlap; outside the frame all is
    black. Its channels, in the order of `APPEARANCE`:

    - colours (9): share of the window that each of 8 hues, and last white, fills; weighted by saturation;
    - palette (9): the same divided by their sum: the colour of what is there, however small;
    - area (1): share of the window that is bright;
    - grey (1): share that is colourless, neither dark nor bright;
    - outline (1): gradient energy of what is bright, the length of its outlines;
    - roughness (1): that length by the root of the area, less a square's: negative for discs, positive for
      triangles;
    - harmonics (7): magnitudes of the Fourier coefficients 1 to 6 and 8 of the histogram of gradient angles,
      relative to the coefficient 0. A turned shape keeps them; a triangle excites the third, a square the fourth;
    - pixels (48): mean RGB, less 0.2, of the 4 x 4 parts of the window.

    All but the pixels are zero where nothing is to be seen. Values are divided by fixed numbers and clamped to
    [-5, 5], so the encoder needs no data to be fitted to.

    Args:
        grid: cells per side.
        fps: frames per second to read.
        stride: frames from one unit to the next; a unit sees one frame.
        size: side in pixels that frames are resized to; a multiple of twice `grid`.

    Raises:
        ValueError: `size` is no multiple of twice `grid`.
    """

    def __init__(self, grid: int = 6, fps: float = 6.0, stride: int = 3, size: int = 96) -> None:
        super().__init__()
        if size % (2 * grid):
            raise ValueError(f"size={size} is not a multiple of 2 * grid={2 * grid}: windows would differ in size")
        self.side = grid
        self.grid = (grid, grid, sum(count for count, _ in APPEARANCE.values()))
        self.dim = math.prod(self.grid)
        self.spec = FrameSpec(fps=fps, window=1, stride=stride, size=(size, size))

    def encode(self, clips: Tensor) -> VideoFeatures:
        """See `VideoEncoder.encode`; the vector holds the grid's cells."""
        frames = clips[:, 0]
        cell = frames.shape[-1] // self.side
        light, colours, grey = paint(frames)
        gx, gy = gradients(soften(light))  # differences of hard edges would favour some angles
        length = (gx.square() + gy.square()).sqrt()
        colours = windows(colours, cell)
        area, grey, outline = windows(torch.stack([light, grey, length], 1), cell).split(1, dim=1)
        blocks = F.pad(F.avg_pool2d(frames, cell // 2), (1, 1, 1, 1))
        pixels = F.unfold(blocks, 4, stride=2).view(len(frames), -1, self.side, self.side)
        there = area / (area + 0.01)
        values = {
            "colours": colours,
            "palette": colours / (colours.sum(1, keepdim=True) + 0.01),
            "area": area,
            "grey": grey,
            "outline": outline,
            "roughness": there * (outline / (area + 0.001).sqrt() - 4 / (2 * cell)),
            "harmonics": harmonics(gx, gy, length, cell) / (outline + 0.01),
            "pixels": pixels - 0.2,
        }
        return features(values, APPEARANCE)


def paint(frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What of a picture is bright, in which colours, and what is grey.

    The thresholds lie between ToyWorld's brightest background (0.35, the largest of the three colours), its
    patches (0.44), and its darkest actor (0.73, with a saturation of 0.6).

    Args:
        frames: ``(..., 3, H, W)`` RGB in [0, 1].

    Returns:
        light: ``(..., H, W)`` in [0, 1], 1 where there is something bright.
        colours: ``(..., 9, H, W)``, `light` divided among the `HUES` and, last, white.
        grey: ``(..., H, W)`` in [0, 1], 1 where there is something colourless of medium brightness.
    """
    red, green, blue = frames.unbind(-3)
    value = frames.amax(-3)
    saturation = 1 - frames.amin(-3) / value.clamp(min=1e-3)
    light = ((value - 0.45) / 0.2).clamp(0, 1)
    colourful = (saturation / 0.5).clamp(max=1)
    hue = torch.atan2(math.sqrt(0.75) * (green - blue), red - 0.5 * (green + blue)) * (len(HUES) / math.tau)
    middles = torch.tensor(HUES, device=frames.device).view(-1, 1, 1)
    away = (hue.unsqueeze(-3) - middles).abs()
    near = (1 - torch.minimum(away, len(HUES) - away)).clamp(min=0)
    hued = light * colourful
    colours = torch.cat([near * hued.unsqueeze(-3), (light - hued).unsqueeze(-3)], -3)
    medium = ((value - 0.36) / 0.05).clamp(0, 1) * (1 - light)
    return light, colours, medium * (1 - saturation / 0.2).clamp(min=0)


def soften(maps: Tensor) -> Tensor:
    """Means of ``(..., H, W)`` over 3 x 3 pixels; outside is zero. Shifted sums are faster than pooling."""
    H, W = maps.shape[-2:]
    padded = F.pad(maps, (1, 1, 1, 1))
    lines = padded[..., :W] + padded[..., 1 : W + 1] + padded[..., 2:]
    return (lines[..., :H, :] + lines[..., 1 : H + 1, :] + lines[..., 2:, :]) / 9


def gradients(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences of ``(N, ..., H, W)`` maps along x and y, per pixel; the border repeats itself."""
    padded = F.pad(maps.flatten(0, -3)[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    gx = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / 2
    gy = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / 2
    return gx.view(maps.shape), gy.view(maps.shape)


def harmonics(gx: Tensor, gy: Tensor, length: Tensor, cell: int) -> Tensor:
    """Magnitudes of the Fourier coefficients `HARMONICS` of the windows' histograms of gradient angles.

    Args:
        gx: ``(N, H, W)`` gradient along x.
        gy: the same along y.
        length: ``(N, H, W)`` the gradient's length, the weight of its angle.
        cell: pixels.

    Returns:
        ``(N, 7, h, w)``, at most the mean length.
    """
    direction = torch.complex(gx, gy) / length.clamp(min=1e-6)
    power = torch.complex(length, torch.zeros_like(length))
    turned = []
    for m in range(1, max(HARMONICS) + 1):
        power = power * direction
        if m in HARMONICS:
            turned.append(power)
    parts = torch.view_as_real(torch.stack(turned, 1)).movedim(-1, 1).flatten(1, 2)
    real, imaginary = windows(parts, cell).chunk(2, dim=1)
    return (real.square() + imaginary.square()).sqrt()


def windows(maps: Tensor, cell: int) -> Tensor:
    """Means of ``(N, C, H, W)`` over windows of two by two cells around every cell; outside is zero."""
    return F.avg_pool2d(F.avg_pool2d(maps, cell // 2), 4, stride=2, padding=1)


def features(values: dict[str, Tensor], channels: dict[str, tuple[int, float]]) -> VideoFeatures:
    """Scale, clamp and line up the ``(N, c, h, w)`` channels of one unit each; the vector holds the cells."""
    scaled = [values[name] / scale for name, (_, scale) in channels.items()]
    cells = rearrange(torch.cat(scaled, 1).clamp(-LIMIT, LIMIT), "n c h w -> n 1 h w c")
    return VideoFeatures(frames=cells.flatten(2), grid=cells)
