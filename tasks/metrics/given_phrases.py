"""Boxes of phrases that are given: how well things are found, apart from how well they are named."""

from __future__ import annotations

import torch
from torch import Tensor

from ...zoo.box_losses import iou_cxcywh
from .records import Record, RecordMetric

COLUMNS = ("iou", "found", "boxes", "right", "pairs")


def given_records(
    boxes: Tensor, visible: Tensor, true: Tensor, seen: Tensor, clip: Tensor, clips: int, threshold: float = 0.5
) -> list[Record]:
    """Sums over the N phrases of each clip, for `GivenPhrases`.

    Args:
        boxes: ``(N, T, 4)`` cx, cy, w, h, in any unit.
        visible: ``(N, T)`` probability that the thing is to be seen.
        true: ``(N, T, 4)`` true boxes.
        seen: ``(N, T)`` bool, whether there are any.
        clip: ``(N,)`` clip of every phrase.
        clips: number of clips.
        threshold: of the probability.
    """
    ious = iou_cxcywh(boxes.float(), true.float()) * seen
    columns = [ious, (ious > 0.5) * seen, seen, (visible >= threshold) == seen, torch.ones_like(seen)]
    sums = torch.zeros(clips, len(COLUMNS), dtype=torch.float64, device=boxes.device)
    sums.index_add_(0, clip, torch.stack([column.double().sum(1) for column in columns], dim=1))
    return [dict(zip(COLUMNS, row, strict=True)) for row in sums.tolist()]


class GivenPhrases(RecordMetric):
    """Mean IoU and the like of boxes for given sentences, in per cent, over all pairs of phrase and frame.

    Returns (evaluate):
        ``mIoU`` and ``found`` (share with an IoU above 0.5) of the pairs in which the thing is to be seen;
        ``objectness accuracy``, of all pairs; ``visible``, the share in which it is to be seen, which is what
        always saying "visible" would be right in.
    """

    def evaluate(self, records: list[Record]) -> dict[str, float]:
        """See the class."""
        sums = {name: sum(record[name] for record in records) for name in COLUMNS}
        boxes, pairs = max(1.0, sums["boxes"]), max(1.0, sums["pairs"])
        return {
            "mIoU": 100 * sums["iou"] / boxes,
            "found": 100 * sums["found"] / boxes,
            "objectness accuracy": 100 * sums["right"] / pairs,
            "visible": 100 * sums["boxes"] / pairs,
        }
