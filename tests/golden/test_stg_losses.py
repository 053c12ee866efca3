"""Contrastive losses against the authors' programs: AVLnet, MIL-NCE, CoMMA, MCN and STG's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_files import golden_cases
from torch import Tensor

from groundzoo.zoo.contrastive import contrastive_loss

pytestmark = pytest.mark.golden
CLOSE = {"rtol": 1e-10, "atol": 1e-10}

files = pytest.mark.parametrize("path", golden_cases("stg", "losses*.json"), ids=lambda p: p.stem)


def load(path: Path) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads(path.read_text())
    assert cases
    return cases


def double(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@files
def test_margin_softmax_and_its_gradient(path: Path) -> None:
    for case in load(path):
        scores = double(case["S"]).requires_grad_()
        loss = contrastive_loss(scores, case["margin"], "separate")
        loss.backward()
        torch.testing.assert_close(loss.detach(), double(case["mms_avlnet"]), **CLOSE)
        torch.testing.assert_close(loss.detach(), double(case["excl_margin_form"]), **CLOSE)
        torch.testing.assert_close(scores.grad, double(case["mms_grad"]), **CLOSE)


@files
def test_joint_denominator(path: Path) -> None:
    for case in load(path):
        loss = contrastive_loss(double(case["video"]) @ double(case["text"]).T, 0.0, "joint")
        torch.testing.assert_close(loss, double(case["milnce_1cand"]), **CLOSE)
        torch.testing.assert_close(loss, double(case["stg_nce"]), **CLOSE)


@files
def test_joint_denominator_with_margin(path: Path) -> None:
    for case in load(path):
        loss = contrastive_loss(double(case["S"]), case["margin"], "joint")
        torch.testing.assert_close(loss, double(case["mcn_loss_sink"]), **CLOSE)


@files
def test_pair_scores(path: Path) -> None:
    """Scores of the local branch: one vector of each side per pair."""
    found = 0
    for case in load(path):
        if "pair_video" in case:
            scores = (double(case["pair_video"]) * double(case["pair_text"])).sum(-1)
            torch.testing.assert_close(scores, double(case["pair_scores"]), **CLOSE)
            loss = contrastive_loss(scores, 0.0, "joint")
            torch.testing.assert_close(loss, double(case["comma_pair_milnce"]), **CLOSE)
            found += 1
    if not found:
        pytest.skip(f"{path.name} holds no pairs")


@files
def test_single_precision(path: Path) -> None:
    for case in load(path):
        loss = contrastive_loss(double(case["S"]).float(), case["margin"])
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(case["mms_avlnet"], rel=1e-5, abs=1e-5)
