"""Where a given action is: pointing game, masks and boxes against the annotated box, frame by frame.

The paper (Chen et al., CVPR 2024, arXiv 2303.16990, section 4.2) reports pointing accuracy and "mAP". Its
program's mAP is the share of frames whose mask overlaps enough, without any ranking: here ``mask fraction``. Its
text speaks of mean average precision over classes as for V-HICO (Li et al., ICCV 2021), which needs ranked boxes:
here ``mAP``, with the box around each mask and the peak of its heat as confidence (the choice of these two is
ours).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...zoo.heat_maps import box_masks, frames_at_once, mask_boxes, masks, peaks, upsample
from .records import Record, RecordMetric
from .spatio_temporal import average_precision

OVERLAP = 0.3  # a mask or box is right above it
WIDESPREAD = 50_000 / (640 * 480)  # a box is that covers a larger share; the paper's 50,000 of 640 x 480 pixels


def spatial_record(action: str, heat: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float) -> Record:
    """What `SpatialGrounding` needs to know of one stretch of video, of which an action is given; n moments.

    Args:
        action: its text; equal texts are one class.
        heat: ``(n, h, w)`` heat maps of the action over the whole picture.
        boxes: ``(n, 4)`` x1, y1, x2, y2 of the action in pixels of `size`; moments without one (NaN) do not count.
        size: (width, height) of the picture.
        threshold: of the masks, in the unit of `heat`.

    Returns:
        ``action``, and per moment with a box ``hit`` (is the peak of the heat in the box, borders included),
        ``mask_iou`` (with the pixels of the box by the released rule), ``box_iou`` (of the box around the mask,
        pixels at both borders included; None where nothing is marked), ``score`` (the peak of the heat) and
        ``area`` (of the box, as share of the picture).
    """
    picture = (size[1], size[0])
    columns = []
    for part in (~boxes.isnan().any(1)).nonzero()[:, 0].split(frames_at_once(picture)):
        maps, true = upsample(heat[part], picture), boxes[part].double()
        marked, boxed = masks(maps, picture, threshold), box_masks(true, picture, "released")
        x, y = peaks(maps, picture).unbind(1)
        x1, y1, x2, y2 = true.unbind(1)
        hit = (x >= x1) & (x <= x2) & (y >= y1) & (y <= y2)
        shared, either = (m.sum((1, 2), dtype=torch.int32) for m in (marked & boxed, marked | boxed))
        mask_iou = shared / either.clamp(min=1).double()
        box_iou = _ious(mask_boxes(marked).double(), true)
        area = (x2 - x1).clamp(min=0) * (y2 - y1).clamp(min=0) / (size[0] * size[1])
        columns.append(torch.stack([hit.double(), mask_iou, box_iou, maps.amax((1, 2)).double(), area]))
    rows = torch.cat(columns, dim=1).tolist()
    return {
        "action": action,
        "hit": [bool(hit) for hit in rows[0]],
        "mask_iou": rows[1],
        "box_iou": [None if np.isnan(iou) else iou for iou in rows[2]],
        "score": rows[3],
        "area": rows[4],
    }


def _ious(a: Tensor, b: Tensor) -> Tensor:
    """IoU ``(n,)`` of boxes ``(n, 4)`` that hold the pixels at both ends; NaN where one is unknown."""

    def area(boxes: Tensor) -> Tensor:
        return (boxes[:, 2:] - boxes[:, :2] + 1).clamp(min=0).prod(1)

    both = torch.cat([torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])], dim=1)
    return area(both) / (area(a) + area(b) - area(both))


class SpatialGrounding(RecordMetric):
    """Where given actions are, in per cent; records of `spatial_record`.

    Returns (compute):
        Names begin with ``spatial/``.

        Over all frames with a box: ``pointing accuracy``, the share in which the peak of the heat lies in the box,
        and, where there are such frames, ``pointing accuracy widespread`` (boxes above 50,000 of 640 x 480 pixels,
        or the same share of another picture) and ``pointing accuracy saturated`` (the others); ``mask fraction``,
        the share whose mask has an IoU above 0.3 (the released "mAP"), and ``mask fraction class``, its mean over
        actions; ``mAP``, the mean over actions of the AP of the boxes around the masks, right above an IoU of 0.3,
        ranked by the peak of the heat. All are 0 without frames.
    """

    def evaluate(self, records: list[Record]) -> dict[str, float]:
        """See the class."""
        actions = np.array([r["action"] for r in records for _ in r["hit"]], dtype=str)
        hit, mask, box, score, area = (
            np.array([value for record in records for value in record[key]], dtype=float)  # None becomes NaN
            for key in ("hit", "mask_iou", "box_iou", "score", "area")
        )
        values = dict.fromkeys(("pointing accuracy", "mask fraction", "mask fraction class", "mAP"), 0.0)
        if len(actions):
            values["pointing accuracy"] = float(hit.mean())
            for name, group in (("widespread", area > WIDESPREAD), ("saturated", area <= WIDESPREAD)):
                if group.any():
                    values[f"pointing accuracy {name}"] = float(hit[group].mean())
            right, found = mask > OVERLAP, ~np.isnan(box)
            groups = [actions == action for action in np.unique(actions)]
            values["mask fraction"] = float(right.mean())
            values["mask fraction class"] = float(np.mean([right[g].mean() for g in groups]))
            each = [average_precision(score[g & found], box[g & found] > OVERLAP, g.sum()) for g in groups]
            values["mAP"] = float(np.mean(each))
        return {f"spatial/{name}": 100 * value for name, value in values.items()}
