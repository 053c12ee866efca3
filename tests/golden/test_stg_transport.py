"""Transport and selection of frames against reference solvers: POT's Sinkhorn, SwAV's routine, plain selection."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_files import golden_cases
from torch import Tensor

from groundzoo.zoo.transport import frame_scores, mean_scores, sinkhorn, swav, top_frames

pytestmark = pytest.mark.golden
ITERATIONS = 5000  # until nothing changes in float64

files = pytest.mark.parametrize("path", golden_cases("stg", "sinkhorn*.json"), ids=lambda p: p.stem)


def load(path: Path) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads(path.read_text())
    assert cases
    return cases


def double(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def inputs(case: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Similarities and masks, as a batch of one."""
    similarity, words = double(case["similarity"])[None], torch.tensor(case["word_mask"]).bool()[None]
    assert similarity.shape == (1, case["U"], case["K"])
    return similarity, torch.ones(1, case["U"], dtype=torch.bool), words


def selected(scores: Tensor, mask: Tensor, frames: int) -> list[int]:
    index, chosen = top_frames(scores, mask, frames)
    assert chosen.all()
    return index[0].tolist()


@files
def test_converged_plan(path: Path) -> None:
    for case in load(path):
        similarity, frames, words = inputs(case)
        plan = sinkhorn(similarity, frames, words, case["eps"], ITERATIONS)[0]
        torch.testing.assert_close(plan[:, words[0]], double(case["plan_converged"]), rtol=1e-6, atol=1e-8)
        assert (plan[:, ~words[0]] == 0).all()
        torch.testing.assert_close(plan.sum(1), torch.full_like(plan[:, 0], case["row_marginal"]))
        torch.testing.assert_close(plan.sum(0)[words[0]], torch.full_like(plan[0], case["col_marginal"])[words[0]])


@files
@pytest.mark.parametrize("exact", ["words", "frames"])
def test_swav(path: Path, exact: Any) -> None:
    for case in load(path):
        similarity, frames, words = inputs(case)
        expected = case[f"swav_{exact}_as_samples"]
        assert expected
        for iterations, plan in expected.items():
            ours = swav(similarity, frames, words, case["eps"], int(iterations), exact)[0, :, words[0]]
            torch.testing.assert_close(ours, double(plan), rtol=1e-6, atol=1e-9, msg=f"{iterations} iterations")


@files
def test_weighted_selection(path: Path) -> None:
    for case in load(path):
        similarity, frames, words = inputs(case)
        scores = frame_scores(similarity, frames, words, "weighted", case["eps"], ITERATIONS)
        torch.testing.assert_close(scores[0], double(case["score_plan_weighted_sim"]), rtol=1e-6, atol=1e-8)
        assert selected(scores, frames, case["T"]) == case["select_plan_weighted_sim"]


@files
def test_selection_by_the_mass_of_a_plan_that_has_not_converged(path: Path) -> None:
    for case in load(path):
        similarity, frames, words = inputs(case)
        scores = frame_scores(similarity, frames, words, "swav_sum", case["eps"])
        torch.testing.assert_close(scores[0], double(case["score_q3_sum"]), rtol=1e-6, atol=1e-9)
        assert selected(scores, frames, case["T"]) == case["select_q3_sum"]


@files
def test_selection_without_transport(path: Path) -> None:
    for case in load(path):
        similarity, frames, words = inputs(case)
        scores = mean_scores(similarity, frames, words)
        assert selected(scores, frames, case["T"]) == case["select_no_sinkhorn"]


@files
def test_votes(path: Path) -> None:
    for case in load(path):
        similarity, frames, words = inputs(case)
        plan = sinkhorn(similarity, frames, words, case["eps"], ITERATIONS)[0]
        assert plan[:, words[0]].argmax(0).tolist() == case["argmax_frame_per_word"]
        votes = frame_scores(similarity, frames, words, "vote", case["eps"], ITERATIONS)[0].ceil()
        assert {u: int(n) for u, n in enumerate(votes.tolist()) if n} == Counter(case["argmax_frame_per_word"])


@files
def test_single_precision_and_the_default_iterations_choose_as_well(path: Path) -> None:
    """What they choose is worth what the converged plan's choice is, to a thousandth of what frames differ by."""
    for case in load(path):
        if case["eps"] < 0.05:
            continue  # needs more iterations than the default
        similarity, frames, words = inputs(case)
        scores = frame_scores(similarity.float(), frames, words, eps=case["eps"])
        assert scores.dtype == torch.float32
        worth = double(case["score_plan_weighted_sim"])
        ours = selected(scores, frames, case["T"])
        lost = worth[case["select_plan_weighted_sim"]].sum() - worth[ours].sum()
        assert lost <= 1e-3 * (worth.max() - worth.min())
