"""Heat maps over the cells of frames as pictures: their scale, their peaks, the masks and boxes that they mark.

Pixels are counted from 0 at the top left, and pixel x is the point x: a box from x1 to x2 holds both. Sizes are
``(H, W)``, as those of tensors. Upsampled maps are large: callers take `frames_at_once` frames at a time.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

PIXELS_AT_ONCE = 2**23  # 32 MiB of float32 for each tensor of the size of the upsampled maps


def frames_at_once(size: tuple[int, int]) -> int:
    """Number of frames of (H, W) pixels whose upsampled maps fit in memory together; at least 1."""
    return max(1, PIXELS_AT_ONCE // (size[0] * size[1]))


def normalise(heat: Tensor, by: Literal["frame", "window"]) -> Tensor:
    """Put heat maps on a scale on which a threshold means the same for all of them.

    Attention of a text to all cells of a window of frames sums to 1, so that a value of 0.01 is eight times an
    even spread in a window of sixteen frames of 7 x 7 cells, and half of it in a single frame.

    Args:
        heat: ``(n, h, w)`` float, not negative.
        by: `frame` takes the least value of every frame away, and makes the mean of its cells 1: attention that
            all cells get tells nothing, however much it is, and a window's length does not matter. A frame whose
            cells are all alike becomes zero. `window` leaves the maps as they are: the scale of the paper's
            threshold of 0.01 (its code has 0.0001).

    Returns:
        ``(n, h, w)``.
    """
    if by == "window":
        return heat
    heat = heat - heat.amin((1, 2), keepdim=True)
    mean = heat.mean((1, 2), keepdim=True)
    return heat / mean.where(mean > 0, 1.0)


def upsample(heat: Tensor, size: tuple[int, int]) -> Tensor:
    """Stretch heat maps over the whole picture, bilinear between the centres of cells.

    As `torch.nn.functional.interpolate` with `align_corners` off, but exactly flat from the outermost centres to
    the border: there, interpolate's rounding decides which of many equal pixels is the peak.

    Args:
        heat: ``(n, h, w)`` float.
        size: H, W in pixels.

    Returns:
        ``(n, H, W)``; `heat` itself where it has that size.
    """
    for dim, length in ((2, size[1]), (1, size[0])):  # columns first: then rows are copied whole
        cells = heat.shape[dim]
        if cells == length:
            continue
        place = (torch.arange(length, dtype=torch.float64) + 0.5) * cells / length - 0.5
        place = place.clamp(0, cells - 1)
        before = place.long()
        after = (before + 1).clamp(max=cells - 1)
        share = (place - before).to(heat).view((-1, 1) if dim == 1 else (-1,))
        before, after = before.to(heat.device), after.to(heat.device)
        heat = torch.lerp(heat.index_select(dim, before), heat.index_select(dim, after), share)
    return heat


def peaks(heat: Tensor, size: tuple[int, int]) -> Tensor:
    """Where each upsampled map is greatest.

    Args:
        heat: ``(n, h, w)`` float.
        size: H, W in pixels.

    Returns:
        ``(n, 2)`` int64, x and y in pixels; of equal ones the first, row by row.
    """
    flat = upsample(heat, size).flatten(1).argmax(1)
    return torch.stack([flat % size[1], flat // size[1]], dim=1)


def masks(heat: Tensor, size: tuple[int, int], threshold: float) -> Tensor:
    """Pixels whose upsampled heat is at least `threshold`.

    Args:
        heat: ``(n, h, w)`` float.
        size: H, W in pixels.
        threshold: in the unit of `heat`.

    Returns:
        ``(n, H, W)`` bool.
    """
    return upsample(heat, size) >= threshold


def mask_boxes(masks: Tensor) -> Tensor:
    """The tight box of each mask; in the corners are the outermost pixels themselves.

    Args:
        masks: ``(n, H, W)`` bool.

    Returns:
        ``(n, 4)`` float, x1, y1, x2, y2 in pixels; NaN where a mask is empty.
    """
    ends = []
    for along in (masks.any(1), masks.any(2)):  # columns, rows
        first = along.int().argmax(1)
        last = along.shape[1] - 1 - along.flip(1).int().argmax(1)
        ends.append(torch.stack([first, last], dim=1))
    boxes = torch.stack(ends, dim=2).flatten(1).float()
    return boxes.masked_fill(~masks.flatten(1).any(1, keepdim=True), torch.nan)


def box_masks(
    boxes: Tensor, size: tuple[int, int], rule: Literal["inclusive", "released"] = "inclusive"
) -> Tensor:
    """Pixels of boxes.

    Args:
        boxes: ``(n, 4)`` float, x1, y1, x2, y2 in pixels; NaN = no box. Pixels outside the picture are cut off.
        size: H, W in pixels.
        rule: `inclusive` takes x1 <= x <= x2 and y1 <= y <= y2; `released`, of the STG paper's evaluation program,
            is one pixel to the right of it: x1 < x <= x2 + 1.

    Returns:
        ``(n, H, W)`` bool; no pixel where there is no box, or an inverted one.
    """
    x1, y1, x2, y2 = boxes[:, :, None].unbind(1)
    x, y = (torch.arange(length, device=boxes.device) for length in reversed(size))
    columns = (x > x1) & (x <= x2 + 1) if rule == "released" else (x >= x1) & (x <= x2)
    rows = (y >= y1) & (y <= y2)
    return rows[:, :, None] & columns[:, None, :]
