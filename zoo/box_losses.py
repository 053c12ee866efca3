"""Losses of boxes that may be hidden: generalised IoU, L1 and being visible.

Generalised IoU: Rezatofighi et al., CVPR 2019, arXiv:1902.09630. The three together: Kazakos et al. ("GROVE"),
ICCV 2025, arXiv:2503.10781.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-7  # keeps boxes without area finite


class BoxLosses(NamedTuple):
    """Sums over a batch, unweighted, and what they are to be divided by; scalars in float32.

    Attributes:
        giou: sum of 1 - gIoU of the visible boxes.
        l1: sum of the four absolute differences of the visible boxes, as shares of the frame.
        objectness: binary cross-entropy of being visible, summed over all pairs; None without logits.
        boxes: number of visible boxes, of `giou` and `l1`.
        pairs: number of pairs of a phrase and a frame, of `objectness`.
    """

    giou: Tensor
    l1: Tensor
    objectness: Tensor | None
    boxes: Tensor
    pairs: Tensor


def box_losses(boxes: Tensor, logits: Tensor | None, truth: Tensor, visible: Tensor) -> BoxLosses:
    """Compare the boxes of phrases in frames with the annotated ones; phrase n belongs to annotation n.

    Args:
        boxes: ``(N, T, 4)`` predicted cx, cy, w, h as shares of the frame.
        logits: ``(N, T)`` of being visible; None leaves that out.
        truth: ``(N, T, 4)`` annotated; what stands where nothing is visible does not count.
        visible: ``(N, T)`` bool, True = there is a box.

    Returns:
        Sums and counts. Where nothing is visible, and without any phrase, sums are zero but depend on the
        predictions, so that every process of a run has gradients.
    """
    boxes, truth = boxes.float(), torch.where(visible[..., None], truth.float(), 0.5)
    giou = giou_loss(to_corners(boxes), to_corners(truth))
    objectness = None
    if logits is not None:
        objectness = F.binary_cross_entropy_with_logits(logits.float(), visible.float(), reduction="sum")
    return BoxLosses(
        giou=(giou * visible).sum(),
        l1=((boxes - truth).abs().sum(-1) * visible).sum(),
        objectness=objectness,
        boxes=visible.sum().float(),
        pairs=torch.tensor(float(visible.numel()), device=visible.device),
    )


def giou_loss(a: Tensor, b: Tensor) -> Tensor:
    """1 - generalised IoU, pair by pair.

    Args:
        a: ``(..., 4)`` x1, y1, x2, y2; computed in float32 at least.
        b: ``(..., 4)``.

    Returns:
        ``(...)`` in [0, 2]; finite for boxes without area.
    """
    if not (a.dtype == b.dtype == torch.float64):
        a, b = a.float(), b.float()
    both, union = _overlap(a, b)
    around = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(-1)
    return 1 - both / (union + EPS) + (around - union) / (around + EPS)


def iou_cxcywh(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union, pair by pair, of ``(..., 4)`` cx, cy, w, h; 0 where neither has an area."""
    both, union = _overlap(to_corners(a), to_corners(b))
    return both / union.clamp(min=EPS)


def _overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Areas of intersection and union of boxes x1, y1, x2, y2."""
    both = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    return both, (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - both


def to_corners(boxes: Tensor) -> Tensor:
    """``(..., 4)`` cx, cy, w, h -> x1, y1, x2, y2."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)
