"""Maps and loss of CVG, Eq. 3 to 5, on hand-made boxes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from groundzoo.zoo.batch import WordLabels
from groundzoo.zoo.word_grounding import (
    CellRule,
    actions,
    entity_maps,
    kept_scores,
    rasterise,
    soft_grounding_loss,
)


def labels(
    rows: list[tuple[int, int, list[tuple[list[float], float, bool]]]], links: list[tuple[int, int, int]]
) -> WordLabels:
    """Tracks as (caption, word, [(box, score, annotated) per frame]), links as (caption, verb, entity)."""
    frames = len(rows[0][2]) if rows else 2
    link = torch.tensor(links, dtype=torch.int64).reshape(-1, 3)
    return WordLabels(
        caption=torch.tensor([r[0] for r in rows], dtype=torch.int64),
        word=torch.tensor([r[1] for r in rows], dtype=torch.int64),
        boxes=torch.tensor([[f[0] for f in r[2]] for r in rows]).reshape(-1, frames, 4),
        scores=torch.tensor([[f[1] for f in r[2]] for r in rows]).reshape(-1, frames),
        annotated=torch.tensor([[f[2] for f in r[2]] for r in rows], dtype=torch.bool).reshape(-1, frames),
        link_caption=link[:, 0],
        link_verb=link[:, 1],
        link_entity=link[:, 2],
    )


MAN = [([0.0, 0.0, 0.5, 0.5], 1.0, True), ([0.1, 0.1, 0.6, 0.6], 0.8, False), ([0.2, 0.2, 0.7, 0.7], 0.5, False)]
BALL = [([0.5, 0.5, 0.6, 0.6], 0.9, False), ([0.7, 0.5, 0.8, 0.9], 0.6, False), ([0.9, 0.9, 1.0, 1.0], 1.0, True)]


def test_which_boxes_are_kept() -> None:
    given = labels([(0, 1, MAN), (0, 4, BALL)], [])
    kept = kept_scores(given, propagate=True, threshold=0.5)
    assert torch.equal(kept, torch.tensor([[1.0, 0.8, 0.0], [0.9, 0.6, 1.0]])), "0.5 is not above 0.5"
    alone = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    assert torch.equal(kept_scores(given, propagate=False, threshold=0.0), alone)
    assert torch.equal(kept_scores(given, propagate=True, threshold=1.0), alone), "1 switches propagation off"
    everything = kept_scores(given, propagate=True, threshold=0.0)
    assert torch.equal(everything, given.scores)
    flat = labels([(0, 1, [([0.2, 0.2, 0.2, 0.6], 1.0, True), ([0.2, 0.2, 0.4, 0.6], 0.9, False)])], [])
    assert torch.equal(kept_scores(flat, True, 0.5), torch.tensor([[0.0, 0.9]])), "a box without area never counts"


def test_action_boxes() -> None:
    given = labels([(0, 1, MAN), (0, 4, BALL), (1, 0, BALL)], [(0, 2, 1), (0, 2, 4), (1, 3, 0), (1, 5, 7)])
    scores = kept_scores(given, True, 0.5)
    strict = actions(given, scores, "all")
    assert strict.caption.tolist() == [0, 1]  # the verb whose only entity has no track has no box
    assert strict.word.tolist() == [2, 3]
    assert torch.allclose(strict.boxes[0, 0], torch.tensor([0.0, 0.0, 0.6, 0.6]))
    assert torch.allclose(strict.boxes[0, 1], torch.tensor([0.1, 0.1, 0.8, 0.9]))
    assert torch.allclose(strict.scores[0], torch.tensor([0.9, 0.6, 0.0])), "the least score (Eq. 3)"
    assert torch.allclose(strict.scores[1], torch.tensor([0.9, 0.6, 1.0]))
    loose = actions(given, scores, "any")
    assert torch.allclose(loose.scores[0], torch.tensor([0.9, 0.6, 1.0]))
    assert torch.allclose(loose.boxes[0, 2], torch.tensor([0.9, 0.9, 1.0, 1.0])), "the ball alone"


def test_a_verb_that_would_lose_all_frames_goes_by_those_there_are() -> None:
    given = labels([(0, 1, MAN), (0, 4, BALL)], [(0, 2, 1), (0, 2, 4)])
    apart = kept_scores(given, propagate=False, threshold=0.5)  # annotated in different frames
    found = actions(given, apart, "all")
    assert torch.allclose(found.scores[0], torch.tensor([1.0, 0.0, 1.0]))
    assert torch.allclose(found.boxes[0, 0], torch.tensor(MAN[0][0]))


def test_an_entity_with_two_boxes_is_their_rectangle() -> None:
    given = labels([(0, 1, MAN), (0, 1, BALL)], [(0, 2, 1)])
    found = actions(given, kept_scores(given, True, 0.5))
    assert torch.allclose(found.boxes[0, 1], torch.tensor([0.1, 0.1, 0.8, 0.9]))
    assert torch.allclose(found.scores[0], torch.tensor([1.0, 0.8, 1.0])), "the greatest of its boxes"


@pytest.mark.parametrize("links", [[], [(0, 2, 1)]])
def test_nothing_to_see(links: list[tuple[int, int, int]]) -> None:
    empty = labels([], links)
    scores = kept_scores(empty, True, 0.5)
    assert len(actions(empty, scores).word) == 0
    assert entity_maps(empty, scores, (3, 3), CellRule()).scores.shape == (0, 18)


@pytest.mark.parametrize(
    ("rule", "box", "cells"),
    [
        ("center", [0.0, 0.0, 0.5, 0.5], ["11..", "11..", "....", "...."]),
        ("center", [0.125, 0.125, 0.375, 0.4], ["1...", "1...", "....", "...."]),  # [x1, x2): 0.375 is outside
        ("center", [0.30, 0.30, 0.32, 0.32], ["....", ".1..", "....", "...."]),  # a small box never vanishes
        ("center", [0.99, 0.99, 1.0, 1.0], ["....", "....", "....", "...1"]),
        ("overlap", [0.2, 0.2, 0.3, 0.5], ["11..", "11..", "....", "...."]),  # 0.5 only touches the third row
        ("overlap", [0.0, 0.0, 1.0, 1.0], ["1111", "1111", "1111", "1111"]),
        ("coverage", [0.0, 0.0, 0.3, 0.25], ["1...", "....", "....", "...."]),  # a fifth of the second cell
        ("coverage", [0.0, 0.0, 0.32, 0.25], ["11..", "....", "....", "...."]),  # more than a quarter of it
        ("coverage", [0.24, 0.0, 0.26, 0.02], ["11..", "....", "....", "...."]),  # half of a tiny box each
    ],
)
def test_cells_of_a_box(rule: str, box: list[float], cells: list[str]) -> None:
    found = rasterise(torch.tensor(box), torch.tensor(0.7), (4, 4), CellRule(rule))  # type: ignore[arg-type]
    drawn = ["".join("1" if v > 0 else "." for v in row) for row in found.tolist()]
    assert drawn == cells
    assert set(found.unique().tolist()) <= {0.0, torch.tensor(0.7).item()}


def test_cells_of_a_grid_that_is_not_square() -> None:
    found = rasterise(torch.tensor([[0.5, 0.0, 1.0, 0.5]]), torch.ones(1), (2, 6), CellRule())
    assert found[0].tolist() == [[0, 0, 0, 1, 1, 1], [0] * 6]


def test_a_cell_covered_twice_keeps_the_larger_score() -> None:
    two = labels([(0, 1, MAN), (0, 1, BALL), (2, 0, MAN)], [])
    scores = kept_scores(two, True, 0.0)
    maps = entity_maps(two, scores, (8, 8), CellRule("overlap"))
    assert list(zip(maps.caption.tolist(), maps.word.tolist(), strict=True)) == [(0, 1), (2, 0)]
    alone = [rasterise(two.boxes[k], scores[k], (8, 8), CellRule("overlap")).flatten() for k in range(2)]
    assert torch.equal(maps.scores[0], torch.maximum(*alone))
    assert torch.equal(maps.scores[1], alone[0])


def naive(logits: Tensor, maps: Tensor) -> Tensor:
    return -torch.log((maps * logits.softmax(-1)).sum(-1))


def test_the_stable_loss_is_equation_5() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(6, 40, generator=generator)
    maps = torch.rand(6, 40, generator=generator) * (torch.rand(6, 40, generator=generator) < 0.3)
    loss, there = soft_grounding_loss(logits, maps)
    assert there.all()
    assert torch.allclose(loss, naive(logits, maps), atol=1e-5)


def test_the_least_loss_is_minus_the_log_of_the_greatest_score() -> None:
    maps = torch.tensor([[0.0, 0.4, 0.8], [0.0, 0.0, 1.0]])
    sure = torch.tensor([[0.0, 0.0, 100.0]] * 2)
    loss, _ = soft_grounding_loss(sure, maps)
    assert loss.tolist() == pytest.approx([-math.log(0.8), 0.0], abs=1e-6)


def test_far_from_the_box_nothing_underflows() -> None:
    logits = torch.tensor([[200.0, 0.0]], requires_grad=True)  # the naive form gives infinity here
    loss, _ = soft_grounding_loss(logits, torch.tensor([[0.0, 0.5]]))
    assert loss.item() == pytest.approx(200.0 - math.log(0.5), rel=1e-5)
    loss.sum().backward()
    assert logits.grad is not None
    assert logits.grad.tolist()[0] == pytest.approx([1.0, -1.0])


def test_words_without_a_cell_have_neither_loss_nor_gradient() -> None:
    logits = torch.randn(2, 5, requires_grad=True)
    maps = torch.tensor([[0.0] * 5, [1.0, 0, 0, 0, 0]])
    loss, there = soft_grounding_loss(logits, maps)
    assert there.tolist() == [False, True]
    assert loss[0].item() == 0
    loss.sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[0].abs().sum() == 0
    assert logits.grad[1].abs().sum() > 0


def test_soft_scores_draw_attention_to_surer_boxes() -> None:
    logits = torch.zeros(1, 3, requires_grad=True)
    loss, _ = soft_grounding_loss(logits, torch.tensor([[0.9, 0.3, 0.0]]))
    loss.sum().backward()
    assert logits.grad is not None
    assert logits.grad[0, 0] < logits.grad[0, 1] < logits.grad[0, 2]
    hard = torch.zeros(1, 3, requires_grad=True)
    soft_grounding_loss(hard, torch.tensor([[1.0, 1.0, 0.0]]))[0].sum().backward()
    assert hard.grad is not None
    assert hard.grad[0, 0] == hard.grad[0, 1]


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_loss_is_computed_in_full_precision(precision: torch.dtype) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = soft_grounding_loss(torch.randn(3, 700).to(precision), torch.rand(3, 700))
    assert loss.dtype == torch.float32
