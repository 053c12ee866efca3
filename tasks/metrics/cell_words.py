"""Words that heads on the cells of frames say of the things that cover them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .records import Record, RecordMetric


def cell_records(told: Sequence[tuple[Tensor, Any]]) -> list[Record]:
    """Sums over the covered cells of each of B clips, for `CellWords`.

    Args:
        told: per encoder logits ``(B, T, h, w, V)`` and what is true: `words` of the same shape, bool, and
            `covered` ``(B, T, h, w)``.
    """
    right = cells = torch.zeros(len(told[0][0]), dtype=torch.float64, device=told[0][0].device)
    for logits, true in told:
        wanted = true.words.sum(-1, keepdim=True)
        rank = logits.argsort(dim=-1, descending=True).argsort(dim=-1)
        share = ((rank < wanted) & true.words).sum(-1) / wanted.squeeze(-1).clamp(min=1)
        covered = true.covered.flatten(1)
        right = right + (share.flatten(1) * covered).double().sum(1)
        cells = cells + covered.double().sum(1)
    return [{"right": r, "cells": n} for r, n in zip(right.tolist(), cells.tolist(), strict=True)]


class CellWords(RecordMetric):
    """Share of the k words said of a covered cell that are among its k most probable ones, in per cent."""

    def evaluate(self, records: list[Record]) -> dict[str, float]:
        """``words``, the mean over all covered cells of all encoders."""
        cells = sum(record["cells"] for record in records)
        return {"words": 100 * sum(record["right"] for record in records) / max(1.0, cells)}
