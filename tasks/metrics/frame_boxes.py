"""Boxes frame by frame: overlaps, and how predicted boxes are matched with true ones.

F frames of a clip are handled together, filled up to G true and P predicted boxes each.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .records import Record

Boxes = NDArray[np.float64]
Flags = NDArray[np.bool_]
RECALLS = np.linspace(0, 1, 101)  # where COCO reads its precision-recall curve


def frames_of(record: Record) -> tuple[list[Any], list[Any]]:
    """True and predicted frames of a clip; none predicted are as many empty ones.

    Raises:
        ValueError: they differ in number.
    """
    truth, predicted = record["truth"], record["predicted"]
    if predicted and len(predicted) != len(truth):
        raise ValueError(f"{record['id']}: {len(predicted)} predicted frames for {len(truth)} annotated ones")
    return truth, predicted or [[]] * len(truth)


def first_boxes(record: Record) -> tuple[Boxes, Boxes]:
    """First true and predicted boxes ``(n, 4)`` of the n frames with a true one; NaN = none is predicted."""
    pairs = [(t[0][1], p[0][1] if p else [np.nan] * 4) for t, p in zip(*frames_of(record), strict=True) if t]
    boxes = np.array(pairs, dtype=float).reshape(-1, 2, 4)
    return boxes[:, 0], boxes[:, 1]


def box_ious(a: Boxes, b: Boxes, border: int = 0) -> Boxes:
    """IoU of boxes x1, y1, x2, y2, broadcast against each other; 0 where the union is empty.

    Args:
        a: ``(..., 4)``.
        b: ``(..., 4)``.
        border: 1 = a box from x1 to x2 is x2 - x1 + 1 wide.

    Returns:
        ``(...)`` float.
    """
    meet = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]) + border
    shared: Boxes = np.maximum(meet, 0).prod(-1)
    union: Boxes = (
        (a[..., 2:] - a[..., :2] + border).prod(-1) + (b[..., 2:] - b[..., :2] + border).prod(-1) - shared
    )
    return shared / np.where(union != 0, union, 1)


def coco_hits(ious: Boxes, overlaps: Boxes) -> Flags:
    """COCO's matching: boxes, in their order, take the free true box of their frame that overlaps most.

    Args:
        ious: ``(F, G, P)`` of true and predicted boxes; 0 = only filled up.
        overlaps: ``(T,)`` least IoUs, above 0.

    Returns:
        ``(T, F, P)`` whether a box found a true one. Of equal overlaps the last is taken.
    """
    frames, truths, boxes = ious.shape
    hits = np.zeros((len(overlaps), frames, boxes), dtype=bool)
    free = np.ones((len(overlaps), frames, truths), dtype=bool)
    for k in range(boxes if truths else 0):
        left = ious[:, :, k] * free
        best = truths - 1 - left[..., ::-1].argmax(-1)
        hits[..., k] = left.max(-1) >= overlaps[:, None]
        t, f = hits[..., k].nonzero()
        free[t, f, best[t, f]] = False
    return hits


def coco_precision(hits: Flags, truths: int) -> Boxes:
    """COCO's average precision, the curve read at 101 recalls.

    Args:
        hits: ``(T, n)``, for T overlaps whether each of n boxes found a true one; best score first.
        truths: number of true boxes.

    Returns:
        ``(T,)`` in [0, 1]; -1 without true boxes.
    """
    if not truths:
        return np.full(len(hits), -1.0)
    right = hits.cumsum(1)
    precision = right / np.arange(1, hits.shape[1] + 1)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    best = np.concatenate([best, np.zeros((len(hits), 1))], axis=1)  # beyond the greatest recall
    read = [row[np.searchsorted(r / truths, RECALLS)] for row, r in zip(best, right, strict=True)]
    return np.array([row.mean() for row in read])


def matched_pairs(ious: Boxes, alike: Flags, overlap: float, early_stop: bool = False) -> int:
    """Pairs of a true and a predicted box that match one to one, from the largest IoU of each frame downwards.

    Args:
        ious: ``(F, G, P)``; 0 = only filled up.
        alike: ``(F, G, P)``, whether the boxes are of the same thing.
        overlap: least IoU, above 0.
        early_stop: what becomes of a frame when its largest IoU is of boxes that are not alike: True = it is done,
            False = that pair is passed over.

    Returns:
        Number of pairs in all frames.
    """
    ious = ious.copy() if early_stop else ious * alike
    shape, size = ious.shape[1:], ious[:1].size
    frames, found = np.arange(len(ious)), 0
    for _ in range(min(shape)):
        g, p = np.unravel_index(ious[frames].reshape(len(frames), size).argmax(1), shape)
        good = (ious[frames, g, p] >= overlap) & alike[frames, g, p]
        frames, g, p = frames[good], g[good], p[good]
        ious[frames, g], ious[frames, :, p] = 0, 0
        found += len(frames)
    return found
