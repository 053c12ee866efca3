"""Pointing with boxes: whether the middle of a predicted box lies in the true one.

The measure of YouCook-Interactions and GroundingYouTube where a model answers with boxes; `spatial_grounding` has
it for heat maps.
"""

from __future__ import annotations

import numpy as np

from .frame_boxes import first_boxes
from .records import Record, RecordMetric


class PointingAccuracy(RecordMetric):
    """Share of frames with a true box in which the middle of the predicted box lies in it, in per cent.

    A record is ``{"id": str, "truth": frames, "predicted": frames}`` with frames as in `IGround`; the first box of
    a frame counts. A frame without a true box is left out, one without a predicted box (or with NaN in it) is
    wrong. Borders belong to the box.

    Returns (compute):
        ``pointing accuracy``, over the frames of all records; left out where there is no true box.
    """

    def evaluate(self, records: list[Record]) -> dict[str, float]:
        """See the class.

        Raises:
            ValueError: a record has more or fewer predicted than true frames; names it.
        """
        boxes = [first_boxes(record) for record in records]
        self.absent = (
            {} if any(len(true) for true, _ in boxes) else {"pointing accuracy": "no frame has a true box"}
        )
        if self.absent:
            return {}
        true, predicted = (np.concatenate(column) for column in zip(*boxes, strict=True))
        middle = (predicted[:, :2] + predicted[:, 2:]) / 2
        hit = ((middle >= true[:, :2]) & (middle <= true[:, 2:])).all(1)
        return {"pointing accuracy": float(100 * hit.mean())}
