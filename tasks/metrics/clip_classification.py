"""How well single clips are told: their action, whether they lie in one, and the concepts that they show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

CHUNK = 32  # concepts that are sorted at a time: 77,000 clips of them take some 200 MB
UNKNOWN = -1  # of a clip without an action, or without a head


class ClipClassification(Metric):
    """Accuracies of actions and regions and mean average precision of concepts, in per cent.

    Results are kept per clip, by its position in the split: a clip that a distributed sampler repeated counts
    once, and the values do not depend on batch size, order or number of processes. Concepts take 3 bytes each, a
    logit in half precision (it ranks as finely at 0.999 as at 0.001) and its label: 77,000 clips of 1000 concepts
    take 230 MB.

    Returns (compute):
        ``action accuracy`` of the clips in actions; ``region accuracy``, and ``balanced region accuracy``, the
        mean over the regions; ``accuracy``, the mean of the first two; ``concept mAP``, mean over the concepts
        that some described clip shows; ``concept F1`` over all pairs of described clips and concepts at a
        probability of 0.5. What has no head, or no clip to be told from, is left out.
    """

    full_state_update = False
    index: list[Tensor]
    answers: list[Tensor]
    scores: list[Tensor]
    labels: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("index", "answers", "scores", "labels"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(
        self,
        logits: Mapping[str, Tensor],
        actions: Tensor,
        regions: Tensor,
        concepts: Tensor,
        described: Tensor,
        index: Tensor,
    ) -> None:
        """Add B clips.

        Args:
            logits: of the heads there are: `action` ``(B, A)``, `temporal` ``(B, 2)``, `semantic` ``(B, N)``.
            actions: ``(B,)`` int64, true class; -1 in the background.
            regions: ``(B,)`` int64, true region.
            concepts: ``(B, N)`` bool.
            described: ``(B,)`` bool, True = `concepts` are known.
            index: ``(B,)`` int64, a number of its own for every clip of the split.
        """
        unknown = torch.full_like(actions, UNKNOWN)
        action = (logits["action"].argmax(1) == actions).long() if "action" in logits else unknown
        right = (logits["temporal"].argmax(1) == regions).long() if "temporal" in logits else unknown
        columns = [action.where(actions >= 0, UNKNOWN), right, regions, described]
        semantic = logits.get("semantic", torch.zeros(len(index), 0, device=index.device))
        self.index.append(index)
        self.answers.append(torch.stack([column.to(torch.int8) for column in columns], dim=1))
        self.scores.append(semantic.half())
        self.labels.append(concepts[:, : semantic.shape[1]])

    def compute(self) -> dict[str, Tensor]:
        """Values over all clips seen, each counted once."""
        index = dim_zero_cat(self.index)
        first = torch.from_numpy(np.unique(index.cpu().numpy(), return_index=True)[1]).to(index.device)
        action, right, regions, described = dim_zero_cat(self.answers)[first].unbind(1)
        values = {}
        if (action != UNKNOWN).any():
            values["action accuracy"] = action[action != UNKNOWN].float().mean()
        if (right != UNKNOWN).all():
            values["region accuracy"] = right.float().mean()
        if values:
            values["accuracy"] = torch.stack(list(values.values())).mean()
        if "region accuracy" in values:
            recalls = [right[regions == region].float().mean() for region in regions.unique()]
            values["balanced region accuracy"] = torch.stack(recalls).mean()
        rows = first[described > 0]
        values |= self._concepts(dim_zero_cat(self.scores), dim_zero_cat(self.labels), rows)
        return {name: 100 * value for name, value in values.items()}

    def _concepts(self, scores: Tensor, labels: Tensor, rows: Tensor) -> dict[str, Tensor]:
        """Values of the concepts, from the clips `rows`, some concepts at a time."""
        precisions, hits, pairs = [], torch.zeros_like(rows[:1]), torch.zeros_like(rows[:1])
        for some, truth in zip(scores.split(CHUNK, dim=1), labels.split(CHUNK, dim=1), strict=True):
            some, truth = some[rows].T.float(), truth[rows].T
            hits, pairs = hits + ((some > 0) & truth).sum(), pairs + (some > 0).sum() + truth.sum()
            precisions.append(average_precision(some, truth)[truth.any(1)])
        if not precisions or not (known := torch.cat(precisions)).numel():
            return {}
        return {"concept mAP": known.mean(), "concept F1": (2 * hits / pairs).squeeze()}


def average_precision(scores: Tensor, labels: Tensor) -> Tensor:
    """Area under the steps of precision over recall; equal scores are one step.

    Args:
        scores: ``(n, M)``, higher is better.
        labels: ``(n, M)`` bool.

    Returns:
        ``(n,)`` in [0, 1]; NaN for rows without a True label.
    """
    scores, order = scores.sort(dim=1, descending=True)
    labels = labels.gather(1, order)
    rank = torch.arange(scores.shape[1], device=scores.device)
    last = F.pad(scores[:, 1:] != scores[:, :-1], (0, 1), value=True)  # of those with the same score
    step = rank.where(last, len(rank)).flip(1).cummin(1).values.flip(1)
    precision = (labels.cumsum(1) / (rank + 1)).gather(1, step)
    return (precision * labels).sum(1) / labels.sum(1)
