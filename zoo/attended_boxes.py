"""From attention over the cells of frames to one box per frame."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attended_boxes(attention: Tensor, level: float = 0.5) -> Tensor:
    """Around the largest connected region of cells that are attended to at least `level` times the frame's most.

    Cells are connected through their sides. Of equally large regions the one with the most attended cell counts.

    Args:
        attention: ``(..., h, w)``, not negative; each frame is looked at by itself.
        level: in (0, 1]; 1 takes the most attended cell alone.

    Returns:
        ``(..., 4)`` x1, y1, x2, y2 as shares of width and height.
    """
    h, w = attention.shape[-2:]
    maps = attention.reshape(-1, 1, h, w).float()
    peak = maps.flatten(1).argmax(1)
    inside = maps >= level * maps.amax((-2, -1), keepdim=True)
    numbers = torch.arange(1, h * w + 1, device=maps.device, dtype=maps.dtype).view(1, 1, h, w)
    region = numbers * inside
    while True:  # the greatest number of a region spreads to all of its cells
        across = F.max_pool2d(region, (1, 3), stride=1, padding=(0, 1))
        down = F.max_pool2d(region, (3, 1), stride=1, padding=(1, 0))
        spread = torch.maximum(across, down) * inside
        if torch.equal(spread, region):
            break
        region = spread
    names = region.flatten(1).long()
    sizes = torch.zeros(len(names), h * w + 1, device=maps.device)
    sizes.scatter_add_(1, names, (names > 0).to(sizes.dtype))
    of_peak = names.gather(1, peak[:, None])
    sizes.scatter_add_(1, of_peak, torch.full_like(of_peak, 0.5, dtype=sizes.dtype))
    sizes[:, 0] = 0
    chosen = (names == sizes.argmax(1)[:, None]).unflatten(1, (h, w))
    columns, rows = chosen.any(1), chosen.any(2)
    x1, y1 = columns.float().argmax(1) / w, rows.float().argmax(1) / h
    x2, y2 = 1 - columns.flip(1).float().argmax(1) / w, 1 - rows.flip(1).float().argmax(1) / h
    return torch.stack([x1, y1, x2, y2], dim=1).reshape(*attention.shape[:-2], 4)
