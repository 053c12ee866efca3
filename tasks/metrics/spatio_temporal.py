"""Which action is when and where in untrimmed video: IoU+Point and video mAP (Chen et al., CVPR 2024).

The paper describes both in words (arXiv 2303.16990, section 4.2) and its program for them is unpublished. What is
ours: how IoU+Point is aggregated (over the frames of all videos; the mean over actions stands beside it), the
score of a detected tube (mean similarity), and what becomes of frames whose action has no known box.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ...zoo.heat_maps import box_masks, frames_at_once, masks, peaks, upsample
from .records import Record, RecordMetric

OVERLAPS = (0.1, 0.2, 0.3, 0.4, 0.5)


def runs(labels: Tensor) -> list[tuple[int, int, int]]:
    """Stretches of equal neighbouring labels.

    Args:
        labels: ``(n,)`` integers; negative = background.

    Returns:
        (label, start, end) of each in the order of time, positions with the end excluded; background is left out.
    """
    values, counts = torch.unique_consecutive(labels, return_counts=True)
    ends = counts.cumsum(0)
    found = zip(values.tolist(), (ends - counts).tolist(), ends.tolist(), strict=True)
    return [(label, start, end) for label, start, end in found if label >= 0]


def untrimmed_record(
    actions: Sequence[str],
    labels: Tensor,
    scores: Tensor,
    heat: Tensor,
    true_labels: Tensor,
    boxes: Tensor,
    size: tuple[int, int],
    threshold: float,
) -> Record:
    """What `SpatioTemporalGrounding` needs to know of one video; n moments at equal distances, A actions.

    A detected tube is a run of moments with one label: its score is their mean similarity, its volume the pixels
    whose heat is at least `threshold`. A true tube is a run of moments with one true label: its volume are the
    pixels of its boxes (borders included). Where the true action has no known box, a frame says nothing about
    places: it belongs to no volume, and a tube without any other frame is left out.

    Args:
        actions: A texts; equal texts of different videos are one class.
        labels: ``(n,)`` predicted actions, -1 = background.
        scores: ``(n,)`` similarity of the predicted action.
        heat: ``(n, h, w)`` heat maps of the predicted actions over the whole picture.
        true_labels: ``(n,)`` true actions, -1 = background.
        boxes: ``(n, 4)`` x1, y1, x2, y2 of the true action in pixels of `size`; NaN = unknown.
        size: (width, height) of the picture.
        threshold: of the masks, in the unit of `heat`.

    Returns:
        ``actions``; per frame ``predicted`` and ``true`` (positions in them, -1 = background) and ``hit`` (is the
        peak of the heat in the true box; None = there is an action and no known box); ``detections`` ``[[action,
        score]]``, ``truths`` ``[action]`` and their ``overlaps`` ``[[detection, truth, 3-D IoU]]`` above 0 in
        equal actions.
    """
    picture = (size[1], size[0])
    known = (true_labels >= 0) & ~boxes.isnan().any(1)
    judged = known | (true_labels < 0)
    hits = torch.zeros_like(known)
    volumes = torch.zeros(len(labels), 3, dtype=torch.int64, device=labels.device)  # mask, box, both; in pixels
    for part in ((judged & (labels >= 0)) | known).nonzero()[:, 0].split(frames_at_once(picture)):
        maps = upsample(heat[part], picture)
        marked, boxed = masks(maps, picture, threshold), box_masks(boxes[part], picture)
        x, y = peaks(maps, picture).to(boxes).unbind(1)
        x1, y1, x2, y2 = boxes[part].unbind(1)
        hits[part] = known[part] & (labels[part] >= 0) & (x >= x1) & (x <= x2) & (y >= y1) & (y <= y2)
        pixels = [m.sum((1, 2), dtype=torch.int32) for m in (marked, boxed, marked & boxed)]
        volumes[part] = torch.stack(pixels, dim=1).to(volumes)
    sums = torch.cat([volumes.new_zeros(1, 3), volumes.cumsum(0)]).cpu().numpy()
    judged, known, scores = judged.cpu(), known.cpu(), scores.double().cpu()
    detections = [run for run in runs(labels.cpu()) if judged[run[1] : run[2]].any()]
    truths = [run for run in runs(true_labels.cpu()) if known[run[1] : run[2]].any()]
    return {
        "actions": list(actions),
        "predicted": labels.tolist(),
        "true": true_labels.tolist(),
        "hit": [hit if j else None for hit, j in zip(hits.tolist(), judged.tolist(), strict=True)],
        "detections": [[actions[label], scores[start:end].mean().item()] for label, start, end in detections],
        "truths": [actions[label] for label, _, _ in truths],
        "overlaps": _overlaps(detections, truths, sums),
    }


def _overlaps(
    detections: list[tuple[int, int, int]], truths: list[tuple[int, int, int]], sums: NDArray[np.int64]
) -> list[list[float]]:
    """3-D IoU of tubes with one label, from sums over the frames before each of mask, box and both."""
    d, t = (np.array(tubes, dtype=np.int64).reshape(-1, 3) for tubes in (detections, truths))
    start = np.maximum(d[:, None, 1], t[:, 1])
    end = np.maximum(np.minimum(d[:, None, 2], t[:, 2]), start)
    both = (sums[end, 2] - sums[start, 2]) * (d[:, None, 0] == t[:, 0])
    marked, boxed = sums[d[:, 2], 0] - sums[d[:, 1], 0], sums[t[:, 2], 1] - sums[t[:, 1], 1]
    iou = both / np.maximum(marked[:, None] + boxed - both, 1)
    return [[int(i), int(j), float(iou[i, j])] for i, j in np.argwhere(both > 0)]


def tube_ious(found: Tensor, true: Tensor) -> Tensor:
    """3-D IoU of tubes of boxes, for predictions that are boxes rather than masks; areas are continuous.

    Args:
        found: ``(D, n, 4)`` x1, y1, x2, y2 of D tubes in the n frames of a video; NaN = not there.
        true: ``(G, n, 4)`` the same of G others.

    Returns:
        ``(D, G)`` in [0, 1]: shared area summed over frames, over area in either; 0 for empty tubes.
    """

    def volume(boxes: Tensor) -> Tensor:
        return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1).nan_to_num(0).sum(-1)

    a, b = found[:, None], true[None]
    corners = [torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])]
    shared = volume(torch.cat(corners, dim=-1))
    union = volume(found)[:, None] + volume(true) - shared
    return shared / union.where(union > 0, 1)


def iou_point(predicted: ArrayLike, true: ArrayLike, hits: ArrayLike) -> tuple[float, float]:
    """IoU+Point of frames: right action and right place, over all frames with an action, predicted or true.

    Args:
        predicted: ``(n,)`` predicted actions, negative = background.
        true: ``(n,)`` true actions, negative = background.
        hits: ``(n,)`` bool, True = the heat of the predicted action is greatest in the true box.

    Returns:
        Over all frames; and the mean over the actions that are among the true ones, each over the frames that have
        it. Both in [0, 1], 0 where nothing is true.
    """
    predicted, true, hits = np.asarray(predicted), np.asarray(true), np.asarray(hits, dtype=bool)
    right = (predicted == true) & (true >= 0) & hits
    pooled = right.sum() / max(((predicted >= 0) | (true >= 0)).sum(), 1)
    each = [
        (right & (true == c)).sum() / ((predicted == c) | (true == c)).sum() for c in np.unique(true[true >= 0])
    ]
    return float(pooled), float(np.mean(each)) if each else 0.0


def average_precision(scores: ArrayLike, hits: ArrayLike, truths: int) -> float:
    """Area under the precision-recall curve, interpolated at all points.

    Args:
        scores: ``(n,)`` of detections, higher is better. Equal ones enter the ranking together, so that the value
            does not depend on their order.
        hits: ``(n,)`` bool, True = the detection found a truth of its own.
        truths: number of truths, at least 1.

    Returns:
        In [0, 1].
    """
    scores, hits = np.asarray(scores, dtype=float), np.asarray(hits, dtype=bool)
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], hits[order]
    last = np.searchsorted(-scores, -scores, side="right")  # rank of the last detection with the same score
    precision = np.cumsum(hits)[last - 1] / last
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float(best[hits].sum() / truths)


def video_average_precision(videos: Sequence[Mapping[str, Any]], overlap: float) -> dict[str, float]:
    """Average precision of each action's tubes over all videos.

    In every video, detections choose a truth of their action in the order of their scores: of those that overlap
    by at least `overlap` and are still free, the one that overlaps most. What is left without one is a false
    alarm.

    Args:
        videos: with ``detections``, ``truths`` and ``overlaps`` as in `untrimmed_record`.
        overlap: least 3-D IoU.

    Returns:
        ``{action: AP}``, in [0, 1], of the actions with a truth.
    """
    found: dict[str, list[tuple[float, bool]]] = {}
    for video in videos:
        found |= {action: [] for action in video["truths"] if action not in found}
    truths = dict.fromkeys(found, 0)
    for video in videos:
        detections, free, hits = video["detections"], set(range(len(video["truths"]))), set()
        for d, t, iou in sorted(video["overlaps"], key=lambda o: (-detections[o[0]][1], o[0], -o[2])):
            if iou >= overlap and d not in hits and t in free:
                hits.add(d)
                free.remove(t)
        for action in video["truths"]:
            truths[action] += 1
        for d, (action, score) in enumerate(detections):
            if action in found:
                found[action].append((score, d in hits))
    return {
        action: average_precision([s for s, _ in rows], [hit for _, hit in rows], truths[action])
        for action, rows in found.items()
    }


class SpatioTemporalGrounding(RecordMetric):
    """Which action is when and where in untrimmed videos, in per cent; records of `untrimmed_record`.

    Returns (compute):
        ``IoU+Point`` over the frames of all videos (without those whose action has no known box) and ``IoU+Point
        class``, the mean over true actions; ``frame accuracy``, the share of frames with an action for which it is
        predicted; ``mAP@0.1`` to ``mAP@0.5``, mean over true actions of the AP of tubes at a 3-D IoU of at least
        that, and ``mAP``, the mean of the five. All are 0 where nothing is true.
    """

    def evaluate(self, records: list[Record]) -> dict[str, float]:
        """See the class."""
        names = sorted({action for record in records for action in record["actions"]})
        place = {action: i for i, action in enumerate(names)}
        columns: dict[str, list[Any]] = {"predicted": [], "true": [], "hit": []}
        for record in records:
            ids = [*(place[action] for action in record["actions"]), -1]  # -1 stays -1
            for key in ("predicted", "true"):
                columns[key] += [ids[k] for k in record[key]]
            columns["hit"] += record["hit"]
        predicted, true = (np.array(columns[key], dtype=np.int64) for key in ("predicted", "true"))
        judged = np.array([hit is not None for hit in columns["hit"]], dtype=bool)
        hits = np.array([bool(hit) for hit in columns["hit"]], dtype=bool)
        pooled, mean = iou_point(predicted[judged], true[judged], hits[judged])
        right = (predicted == true)[true >= 0]
        values = {"IoU+Point": pooled, "IoU+Point class": mean, "frame accuracy": _mean(right)}
        for overlap in OVERLAPS:
            values[f"mAP@{overlap:g}"] = _mean(list(video_average_precision(records, overlap).values()))
        values["mAP"] = _mean([values[f"mAP@{overlap:g}"] for overlap in OVERLAPS])
        return {name: 100 * value for name, value in values.items()}


def _mean(values: ArrayLike) -> float:
    """Mean; 0 of nothing."""
    values = np.asarray(values, dtype=float)
    return float(values.mean()) if values.size else 0.0
