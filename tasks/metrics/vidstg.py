"""Where a described object is while it is described: the metric of VidSTG without its temporal part.

msIoU (mean spatial IoU): the moment is given, and every frame of it has one box. The frames are those of GROVE's
evaluation program (Kazakos et al., ICCV 2025): five a second of the annotated moment, without its last frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .frame_boxes import box_ious, first_boxes
from .records import Record, RecordMetric

RATE = 5  # frames a second
OVERLAPS = (0.3, 0.5)


def tube_frames(start: int, end: int, fps: float) -> list[int]:
    """Frames of a moment that are judged.

    Args:
        start: first frame.
        end: one past the last frame.
        fps: frames per second of the video, at least 5.

    Returns:
        Numbers of frames.

    Raises:
        ValueError: fewer than 5 frames per second.
    """
    if fps < RATE:
        raise ValueError(f"{fps} frames per second; at least {RATE} are needed to judge {RATE} of each second")
    return list(range(start, end - 1, int(fps / RATE)))


def vidstg_records(annotations: Mapping[str, Any], predictions: Mapping[str, Any]) -> list[Record]:
    """Records of `VidSTG` from a file of the data set and the predictions for it.

    Args:
        annotations: ``{"videos": [...], "trajectories": {video: {target: {frame: {"bbox": [x, y, w, h]}}}}}``.
        predictions: ``{video_id: {"frame_ids": [...], "boxes": [[[x1, y1, x2, y2]], ...]}}`` of all its `videos`;
            a box of four zeros overlaps with nothing.

    Returns:
        One per entry of `videos`, in their order.

    Raises:
        ValueError: an entry has no prediction, or one with fewer boxes than frames; names it.
    """
    records = []
    for video in annotations["videos"]:
        name, caption = str(video["video_id"]), video["caption"]
        if name not in predictions:
            raise ValueError(f"video {name}: there is no prediction; every entry of the annotation needs one")
        ids, boxes = (predictions[name][key] for key in ("frame_ids", "boxes"))
        if len(ids) != len(boxes):
            raise ValueError(f"video {name}: {len(boxes)} predicted boxes for {len(ids)} frames")
        pairs = list(zip(ids, boxes, strict=True))
        known = dict(reversed(pairs))  # of a frame that comes twice the first counts
        tube = annotations["trajectories"][video["original_video_id"]][str(video["target_id"])]
        frames = tube_frames(video["tube_start_frame"], video["tube_end_frame"], video["fps"])
        corners = [(x, y, x + w, y + h) for x, y, w, h in (tube[str(frame)]["bbox"] for frame in frames)]
        records.append(
            {
                "id": name,
                "group": video["qtype"],
                "truth": [[(caption, list(box))] for box in corners],
                "predicted": [[(caption, box) for box in known.get(frame, [])] for frame in frames],
            }
        )
    return records


class VidSTG(RecordMetric):
    """Boxes of described objects in a given moment, in per cent.

    A record is ``{"id": str, "group": str, "truth": frames, "predicted": frames}``: the kind of sentence
    (``declarative`` or ``interrogative``; "" or left out = all are one), and the frames of the moment as in
    `IGround`; the first box of a frame counts.

    Args:
        strict: a frame without a predicted box is an error, as in the released program; else it counts 0.

    Returns (compute):
        Per group: ``<group>/msIoU``, the mean IoU of the frames of a video that have a true box, mean over videos;
        ``<group>/msIoU@0.3`` and ``<group>/msIoU@0.5``, share of the videos whose mean is greater. A video without
        a true box counts 0.
    """

    def __init__(self, strict: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.strict = strict

    def evaluate(self, records: list[Record]) -> dict[str, float]:
        """See the class.

        Raises:
            ValueError: a record has more or fewer predicted than true frames, or, if strict, one without a box.
        """
        groups: dict[str, list[float]] = {}
        for record in records:
            groups.setdefault(record.get("group", ""), []).append(self._overlap(record))
        values = {}
        for group, overlaps in sorted(groups.items()):
            name, each = f"{group}/msIoU" if group else "msIoU", np.array(overlaps)
            values[name] = float(100 * each.mean())
            values |= {f"{name}@{least:g}": float(100 * (each > least).mean()) for least in OVERLAPS}
        return values

    def _overlap(self, record: Record) -> float:
        """Mean IoU of a video."""
        true, predicted = first_boxes(record)
        missing = np.flatnonzero(np.isnan(predicted[:, 0]))
        if self.strict and len(missing):
            raise ValueError(
                f"{record['id']}: no box is predicted in {len(missing)} of {len(true)} annotated frames, first in "
                f"number {missing[0]} of them; predict one for each, or count such frames as 0 with strict=False"
            )
        return float(box_ious(true, np.nan_to_num(predicted)).mean()) if len(true) else 0.0
