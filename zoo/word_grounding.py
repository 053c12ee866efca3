"""From boxes of words to maps on a grid, and the loss that pulls attention there (CVG, Eq. 3 to 5).

A track is one box per sampled frame with a score. Maps live on F x h x w cells, flattened to G = F h w.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .batch import WordLabels


@dataclass(frozen=True)
class CellRule:
    """Which cells of a grid belong to a box. A box that would get none has the cell its centre is in.

    Attributes:
        rule: `center`: cells whose centre is inside, borders half open; `overlap`: cells that share any area with
            it; `coverage`: cells that share at least `min_coverage` of the smaller of cell and box.
        min_coverage: for `coverage`.
    """

    rule: Literal["center", "overlap", "coverage"] = "center"
    min_coverage: float = 0.25


class Words(NamedTuple):
    """P words with one track each.

    Attributes:
        caption: ``(P,)`` int64.
        word: ``(P,)`` int64, index in the caption.
        boxes: ``(P, F, 4)`` shares of width and height; meaningless where the score is 0.
        scores: ``(P, F)``, 0 = not there.
    """

    caption: Tensor
    word: Tensor
    boxes: Tensor
    scores: Tensor


def kept_scores(labels: WordLabels, propagate: bool, threshold: float) -> Tensor:
    """Scores of the boxes that count, ``(N, F)``; 0 where a box does not.

    Annotated boxes count with 1. Others count if labels are propagated and their score is *above* the threshold:
    with a threshold of 1 none does.
    """
    known = labels.scores * (labels.scores > threshold)
    scores = torch.where(labels.annotated, 1.0, known if propagate else torch.zeros_like(known))
    sides = labels.boxes[..., 2:] - labels.boxes[..., :2]
    return scores * (sides > 0).all(-1)


def _least(values: Tensor, row: Tensor, rows: int) -> Tensor:
    """Least of the values ``(N, ...)`` that belong to each row; infinity where none does."""
    out = torch.full((rows, *values.shape[1:]), torch.inf, device=values.device)
    index = row.view(-1, *[1] * (values.ndim - 1)).expand_as(values)
    return out.scatter_reduce(0, index, values, "amin")


def _merged(key: Tensor, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of equal key as one: the tightest rectangle of the boxes there are, and the greatest score.

    Returns:
        The keys ``(P,)`` in ascending order, boxes ``(P, F, 4)``, scores ``(P, F)``.
    """
    keys, row = torch.unique(key, return_inverse=True)
    there = (scores > 0)[..., None]
    low = boxes[..., :2].masked_fill(~there, torch.inf)
    high = boxes[..., 2:].masked_fill(~there, -torch.inf)
    hull = torch.cat([_least(low, row, len(keys)), -_least(-high, row, len(keys))], dim=-1)
    best = -_least(-scores, row, len(keys))
    return keys, torch.where((best > 0)[..., None], hull, 0.0), best


def actions(labels: WordLabels, scores: Tensor, missing: Literal["all", "any"] = "all") -> Words:
    """Boxes of verbs: the tightest rectangle around their entities, with the least of their scores (Eq. 3).

    An entity with several boxes in a frame counts as their rectangle, with the greatest score.

    Args:
        labels: entities and links.
        scores: ``(N, F)`` of `kept_scores`.
        missing: frames in which some entity has no box: `all` asks for all of them, so the frame does not
            count; `any` goes by those there are. A verb that `all` would leave without a frame goes by `any`.

    Returns:
        The verbs with at least one frame.
    """
    span = 1 + max(
        (int(x.max()) for x in (labels.word, labels.link_verb, labels.link_entity) if len(x)), default=0
    )
    entities, hulls, best = _merged(labels.caption * span + labels.word, labels.boxes, scores)
    wanted = labels.link_caption * span + labels.link_entity
    row = torch.searchsorted(entities, wanted).clamp(max=max(0, len(entities) - 1))
    if len(entities) == 0 or len(wanted) == 0:
        none = labels.caption[:0]
        return Words(none, none, labels.boxes[:0], scores[:0])
    found = (entities[row] == wanted)[:, None]
    theirs = torch.where(found, best[row], 0.0)  # (A, F)
    verbs, hull, _ = _merged(labels.link_caption * span + labels.link_verb, hulls[row], theirs)
    _, verb = torch.unique(labels.link_caption * span + labels.link_verb, return_inverse=True)
    every = _least(theirs, verb, len(verbs))
    present = _least(theirs.masked_fill(theirs == 0, torch.inf), verb, len(verbs))
    present = torch.where(present.isinf(), 0.0, present)
    alone = (every > 0).any(1, keepdim=True)
    score = torch.where(alone, every, present) if missing == "all" else present
    kept = (score > 0).any(1)
    return Words(verbs[kept] // span, verbs[kept] % span, hull[kept], score[kept])


def rasterise(boxes: Tensor, scores: Tensor, grid: tuple[int, int], rule: CellRule) -> Tensor:
    """Eq. 4: a box's score in the cells that belong to it, 0 elsewhere.

    Args:
        boxes: ``(..., 4)`` x1, y1, x2, y2 as shares of width and height.
        scores: ``(...)``.
        grid: (h, w).
        rule: which cells belong to a box.

    Returns:
        ``(..., h, w)``.
    """
    x, y = (_along(boxes[..., k], boxes[..., k + 2], size, rule) for k, size in ((0, grid[1]), (1, grid[0])))
    share = y.share[..., :, None] * x.share[..., None, :]
    inside = share > 0
    if rule.rule == "coverage":
        box = (y.length * x.length)[..., None, None].clamp(max=1.0)
        inside = inside & (share >= rule.min_coverage * box)
    centre = y.centre[..., :, None] & x.centre[..., None, :]
    nothing = ~inside.flatten(-2).any(-1)[..., None, None]
    return scores[..., None, None] * (inside | (nothing & centre))


class _Along(NamedTuple):
    """Boxes along one direction, in cells: what each cell has of them, their centre's cell, their length."""

    share: Tensor
    centre: Tensor
    length: Tensor


def _along(low: Tensor, high: Tensor, size: int, rule: CellRule) -> _Along:
    cells = torch.arange(size, device=low.device)
    low, high = low[..., None] * size, high[..., None] * size
    if rule.rule == "center":
        share = ((cells + 0.5 >= low) & (cells + 0.5 < high)).to(low.dtype)
    else:
        share = (torch.minimum(high, cells + 1) - torch.maximum(low, cells)).clamp(min=0)
    centre = ((low + high) / 2).floor().clamp(0, size - 1) == cells
    return _Along(share, centre, (high - low).clamp(min=0)[..., 0])


def entity_maps(labels: WordLabels, scores: Tensor, grid: tuple[int, int], rule: CellRule) -> Words:
    """Maps of entity words: the greatest value of their tracks in every cell.

    Returns:
        As `Words`, with maps ``(P, F h w)`` in the place of scores, and no boxes.
    """
    span = 1 + (int(labels.word.max()) if len(labels.word) else 0)
    keys, row = torch.unique(labels.caption * span + labels.word, return_inverse=True)
    maps = rasterise(labels.boxes, scores, grid, rule).flatten(1)
    return Words(keys // span, keys % span, labels.boxes[:0], -_least(-maps, row, len(keys)))


def soft_grounding_loss(attention_logits: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    """One stream's term of Eq. 5, -log sum_j gamma_j alpha_j, word by word, without underflow.

    Args:
        attention_logits: ``(P, G)``, before the softmax.
        maps: ``(P, G)`` gamma, in [0, 1].

    Returns:
        Loss of each word ``(P,)`` float32, 0 for words without a cell; and which words have one ``(P,)`` bool.
    """
    with torch.autocast(attention_logits.device.type, enabled=False):
        log_attention = attention_logits.float().log_softmax(-1)
        there = maps.amax(-1) > 0
        weighted = log_attention + maps.float().clamp(min=torch.finfo(torch.float32).tiny).log()
        weighted = weighted.masked_fill(maps == 0, -torch.inf)
        weighted = weighted.masked_fill(~there[:, None], 0.0)  # else the gradient of nothing would be NaN
        return -weighted.logsumexp(-1) * there, there
