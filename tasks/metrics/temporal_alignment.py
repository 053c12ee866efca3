"""When actions happen whose order is known: exact alignment, and IoU and IoD of the result.

The protocol of MiningYouTube (Kuehne et al., 2019) as the STG paper uses it (Chen et al., CVPR 2024, section 4.2):
a video's actions are given in their order, with the background, and every frame gets one of them. The paper names
the formulas, IoU = |G & D| / |G | D| and IoD = |G & D| / |D|, but not what they are averaged over. Ours is the
custom of alignment papers: per action that is among the true ones, mean within the video, then mean over videos,
without the background; other readings stand beside it. The decoder of MiningYouTube is not reproduced: it has a
prior on lengths (a constant one) and scores the first frame of a segment with the label before.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .records import Record, RecordMetric


def align(scores: Tensor, order: Tensor) -> tuple[Tensor, Tensor, float]:
    """Cut a video into given labels in their order so that the sum of the frames' scores is greatest.

    Exact: a dynamic programme over all cuts, O(T L). Of equally good cuts it takes the earliest (compared from the
    last to the first), so that later entries get the frames in question.

    Args:
        scores: ``(T, C)`` of every frame and label, such as log-probabilities; finite or -inf.
        order: ``(L,)`` columns of `scores`, counted from the end if negative; every entry gets at least one frame.

    Returns:
        Label of every frame ``(T,)``, as in `order`; frames at which the entries begin, and T, ``(L + 1,)``; the
        sum.

    Raises:
        ValueError: there are fewer frames than entries, or no entry at all.
    """
    T, L = len(scores), len(order)
    if L == 0:
        raise ValueError("the order of actions is empty: give at least one entry (-1 for the background)")
    if T < L:
        raise ValueError(
            f"{L} actions in order cannot be aligned to {T} frames: each needs a frame of its own; "
            "use more frames per second"
        )
    emission = scores.double().cpu().numpy()[:, order.cpu().numpy()]
    best = np.full(L, -np.inf)
    best[0] = emission[0, 0]
    entries = np.arange(L)
    entered = np.zeros((T, L), dtype=bool)  # entry l begins at frame t, on the best way there
    for t in range(1, T):
        before = np.concatenate([[-np.inf], best[:-1]])
        entered[t] = (before > best) | (entries == t)  # at frame t, entry t can only have begun
        best = np.where(entered[t], before, best) + emission[t]
    bounds, entry = [T], L - 1
    for t in range(T - 1, -1, -1):
        if entered[t, entry]:
            bounds.append(t)
            entry -= 1
    cuts = torch.tensor([0, *reversed(bounds)])
    return order.cpu().repeat_interleave(cuts.diff()), cuts, float(best[-1])


def temporal_record(scores: Tensor, order: Sequence[int], true_labels: Tensor, background_score: float) -> Record:
    """What `TemporalGrounding` needs to know of one video; n moments, A actions.

    Args:
        scores: ``(n, A)`` of moments and actions, higher is better; the best sum decides.
        order: actions in the order in which they occur, -1 = background.
        true_labels: ``(n,)`` true actions, -1 = background.
        background_score: of the background at every moment, in the unit of `scores`.

    Returns:
        ``order``; ``bounds``, the moments at which its entries begin, and n; ``true``, the true labels.

    Raises:
        ValueError: see `align`.
    """
    background = scores.new_full((len(scores), 1), background_score)
    _, bounds, _ = align(torch.cat([scores, background], dim=1), torch.tensor(list(order), dtype=torch.int64))
    return {"order": list(order), "bounds": bounds.tolist(), "true": true_labels.tolist()}


class TemporalGrounding(RecordMetric):
    """When actions happen whose order is known, in per cent; records of `temporal_record`.

    Returns (compute):
        Names begin with ``temporal/``.

        ``IoU`` and ``IoD``: mean over the true actions of a video, then over videos that have any. With ``with
        background`` it is one of the actions. With ``per segment`` every entry of the order but the background is
        compared with the stretch of truth that it stands for, instead of each action as a whole. An action that is
        not detected has an IoD of 0. All are 0 without videos.
    """

    def evaluate(self, records: list[Record]) -> dict[str, float]:
        """See the class."""
        tables: dict[str, list[NDArray[np.float64]]] = {"": [], " with background": [], " per segment": []}
        for record in records:
            bounds, true = np.array(record["bounds"]), np.array(record["true"], dtype=np.int64)
            order = np.array(record["order"], dtype=np.int64)
            predicted = np.repeat(order, np.diff(bounds))
            classes = np.unique(true)[:, None]
            each = _overlaps(true == classes, predicted == classes)
            entry = np.repeat(np.arange(len(order)), np.diff(bounds))
            entries = np.arange(len(order))[:, None]
            segments = _overlaps(true_entries(order, true) == entries, entry == entries)
            tables[""].append(each[classes[:, 0] >= 0])
            tables[" with background"].append(each)
            tables[" per segment"].append(segments[order >= 0])
        values: dict[str, float] = {}
        for name, videos in tables.items():
            means = [video.mean(0) for video in videos if len(video)]
            iou, iod = np.mean(means, axis=0) if means else (0.0, 0.0)
            values |= {f"temporal/IoU{name}": 100 * float(iou), f"temporal/IoD{name}": 100 * float(iod)}
        return values


def true_entries(order: Sequence[int] | NDArray[np.int64], true: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which entry of the order every frame truly belongs to.

    Stretches of the truth go to the entries in turn (our reading, for want of a published one). Neighbouring
    entries with the same label are one stretch in frame labels: it is cut into equal parts, longer ones first. An
    entry may have no frame (too short for the frame rate).

    Args:
        order: ``(L,)`` labels.
        true: ``(n,)`` true labels.

    Returns:
        ``(n,)`` position in the order; -1 for stretches that no entry is left for.
    """
    groups = [
        (label, [i for i, _ in group]) for label, group in groupby(enumerate(order), key=lambda pair: pair[1])
    ]
    found, start, at = np.full(len(true), -1), 0, 0
    for label, stretch in groupby(true.tolist()):
        end = start + len(list(stretch))
        following = next((k for k in range(at, len(groups)) if groups[k][0] == label), None)
        if following is not None:
            parts = np.array_split(np.arange(start, end), len(groups[following][1]))
            for i, part in zip(groups[following][1], parts, strict=True):
                found[part] = i
            at = following + 1
        start = end
    return found


def _overlaps(true: NDArray[np.bool_], found: NDArray[np.bool_]) -> NDArray[np.float64]:
    """IoU and IoD ``(K, 2)`` of K sets of frames ``(K, n)``."""
    shared = (true & found).sum(1)
    return np.stack([shared / np.maximum((true | found).sum(1), 1), shared / np.maximum(found.sum(1), 1)], axis=1)
