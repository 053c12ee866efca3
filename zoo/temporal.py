"""Intervals on the time axis: overlap and non-maximum suppression, batched."""

from __future__ import annotations

import torch
from torch import Tensor


def tiou(a: Tensor, b: Tensor, eps: float = 1e-6) -> Tensor:
    """Temporal IoU of intervals, broadcast over leading dimensions.

    Args:
        a: ``(..., 2)`` start and end, any unit.
        b: ``(..., 2)``, same unit.
        eps: added to the union, so that two empty intervals give 0.

    Returns:
        ``(...)`` in [0, 1]; 0 for disjoint intervals.
    """
    intersection = torch.minimum(a[..., 1], b[..., 1]) - torch.maximum(a[..., 0], b[..., 0])
    hull = torch.maximum(a[..., 1], b[..., 1]) - torch.minimum(a[..., 0], b[..., 0])
    return intersection.clamp(min=0) / (hull + eps)  # hull = union wherever the intersection is not empty


def nms(
    boxes: Tensor, scores: Tensor, threshold: float, valid: Tensor | None = None, keep: int | None = None
) -> Tensor:
    """Greedy temporal non-maximum suppression of a whole batch at once.

    The loop runs over picks, not over samples. Of equal scores the one listed last is picked first, as in
    DRN's released evaluation.

    Args:
        boxes: ``(B, L, 2)`` intervals.
        scores: ``(B, L)``.
        threshold: an interval whose IoU with a better, kept one is greater than this is suppressed.
        valid: ``(B, L)`` bool, True = a candidate; None takes all.
        keep: picks per row at most; None takes all L.

    Returns:
        ``(B, keep)`` indices into L in the order of picking, -1 where a row has no more.
    """
    B, L = scores.shape
    order = scores.argsort(dim=1, stable=True).flip(1)
    ranked = boxes.gather(1, order[..., None].expand(-1, -1, 2))
    alive = torch.ones_like(scores, dtype=torch.bool) if valid is None else valid.gather(1, order)
    position = torch.arange(L, device=scores.device)
    picks = torch.full((B, keep or L), -1, dtype=torch.int64, device=scores.device)
    for k in range(picks.shape[1]):
        first = torch.where(alive, position, L).amin(1, keepdim=True) if L else picks[:, :1]
        found = first < L
        first = first.clamp(max=L - 1)
        picks[:, k : k + 1] = torch.where(found, order.gather(1, first), -1)
        best = ranked.gather(1, first[..., None].expand(-1, -1, 2))
        alive = alive & (tiou(best, ranked, eps=0.0).nan_to_num(0.0) <= threshold) & (position != first)
    return picks


def best_constant_moment(moments: Tensor, iou: float, cells: int = 40) -> Tensor:
    """The one moment that hits the most of `moments`: what can be had without looking at the video.

    Args:
        moments: ``(N, 2)`` start and end as shares of the duration.
        iou: a hit is an IoU of at least this.
        cells: candidates start and end at multiples of 1 / `cells`.

    Returns:
        ``(2,)`` start and end.
    """
    edges = torch.arange(cells + 1, dtype=moments.dtype) / cells
    start, end = torch.triu_indices(cells + 1, cells + 1, offset=1)
    candidates = torch.stack([edges[start], edges[end]], dim=-1)
    hits = torch.zeros(len(candidates))
    for chunk in moments.split(4096):  # bounds the memory
        hits += (tiou(candidates[:, None], chunk, eps=0.0) >= iou).sum(1)
    return candidates[hits.argmax()]
