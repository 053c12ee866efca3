"""Recall of temporal grounding, "R@n, IoU=m" (Gao et al., ICCV 2017)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from ...zoo.temporal import nms, tiou


class MomentRecall(Metric):
    """Share of queries with a true moment among the best n predictions, in per cent, and mean IoU of the best.

    Results are kept per query, by its position in the split: a query that a distributed sampler repeated
    counts once, and the values do not depend on batch size, order or number of processes.

    Args:
        top: the n of R@n.
        ious: the m of IoU=m; a hit is IoU >= m.
        suppress: IoU above which the weaker prediction is suppressed. ``"m - 0.05"`` is the protocol behind
            DRN's numbers (R@5 depends on it); None suppresses nothing.

    Returns (compute):
        ``{"R1@0.5": ..., "mIoU": ..., "<subset>/R1@0.5": ...}``, 0 to 100. A subset without queries is left
        out.
    """

    full_state_update = False
    index: list[Tensor]
    results: list[Tensor]
    members: list[Tensor]

    def __init__(
        self,
        top: Sequence[int] = (1, 5),
        ious: Sequence[float] = (0.3, 0.5, 0.7),
        suppress: float | Literal["m - 0.05"] | None = "m - 0.05",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.top, self.ious, self.suppress = tuple(top), tuple(ious), suppress
        self.names = (*(f"R{n}@{m:g}" for m in self.ious for n in self.top), "mIoU")
        self.subsets: tuple[str, ...] = ()
        self.add_state("index", default=[], dist_reduce_fx="cat")
        self.add_state("results", default=[], dist_reduce_fx="cat")
        self.add_state("members", default=[], dist_reduce_fx="cat")

    def update(
        self,
        boxes: Tensor,
        scores: Tensor,
        valid: Tensor,
        targets: Tensor,
        index: Tensor,
        subsets: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Add the predictions of B queries.

        Args:
            boxes: ``(B, L, 2)`` start and end, same unit as `targets`.
            scores: ``(B, L)``, higher is better.
            valid: ``(B, L)`` bool, True = a candidate.
            targets: ``(B, 2)``; rows with NaN (no annotation) are skipped.
            index: ``(B,)`` int64, a number of its own for every query of the split.
            subsets: named groups, ``(B,)`` bool each; the same names in every call.
        """
        subsets = subsets or {}
        self.subsets = tuple(subsets)
        overlap = tiou(boxes, targets[:, None], eps=0.0).nan_to_num(0.0)
        columns: list[Tensor] = []
        best = None
        for m in self.ious:
            picks = self._pick(boxes, scores, valid, m)
            picked = torch.where(picks >= 0, overlap.gather(1, picks.clamp(min=0)), 0.0)
            columns += [(picked[:, :n] >= m).any(1).float() for n in self.top]
            best = picked[:, 0] if best is None else best  # the first pick is the same for every threshold
        columns.append(torch.zeros_like(columns[0]) if best is None else best)
        known = ~targets.isnan().any(1)
        self.index.append(index[known])
        self.results.append(torch.stack(columns, dim=1)[known])
        self.members.append(
            torch.stack([subsets[name] for name in self.subsets], dim=1)[known]
            if self.subsets
            else torch.zeros(int(known.sum()), 0, dtype=torch.bool, device=index.device)
        )

    def _pick(self, boxes: Tensor, scores: Tensor, valid: Tensor, m: float) -> Tensor:
        """``(B, max n)`` indices of the best predictions, best first, -1 where there are no more."""
        keep = max(self.top)
        if self.suppress is not None:
            threshold = m - 0.05 if isinstance(self.suppress, str) else self.suppress
            return nms(boxes, scores, threshold, valid, keep)
        ranked = scores.masked_fill(~valid, -torch.inf).argsort(dim=1, descending=True, stable=True)[:, :keep]
        return torch.where(valid.gather(1, ranked), ranked, -1)

    def compute(self) -> dict[str, Tensor]:
        """Values over all queries seen, each counted once."""
        index = dim_zero_cat(self.index)
        results, members = dim_zero_cat(self.results), dim_zero_cat(self.members)
        _, inverse = torch.unique(index, return_inverse=True)
        first = torch.full((int(inverse.max()) + 1 if len(inverse) else 0,), len(index), device=index.device)
        first.scatter_reduce_(0, inverse, torch.arange(len(index), device=index.device), reduce="amin")
        results, members = results[first] * 100, members[first]
        values = dict(zip(self.names, results.mean(0), strict=True))
        for k, name in enumerate(self.subsets):
            if members[:, k].any():
                means = results[members[:, k]].mean(0)
                values |= {f"{name}/{key}": v for key, v in zip(self.names, means, strict=True)}
        return values
