"""Asymmetric loss against the authors' program: values and gradients, with and without the stopped gradient."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from golden_files import golden_cases
from torch import Tensor

from groundzoo.zoo.losses import asymmetric_loss

pytestmark = pytest.mark.golden

files = pytest.mark.parametrize("path", golden_cases("satsp", "asymmetric_loss*.json"), ids=lambda p: p.stem)


class Case(NamedTuple):
    """Inputs ``(B, C)`` and what the program makes of them."""

    logits: Tensor
    labels: Tensor
    options: dict[str, Any]
    stored: dict[str, Any]
    gradient: Tensor


def fractions(name: str, shape: tuple[int, int]) -> Tensor:
    """The numbers of `fill.uniform` before they are rounded to single precision."""
    with np.errstate(over="ignore"):
        x = np.arange(shape[0] * shape[1], dtype=np.uint32) + np.uint32(zlib.crc32(name.encode()))
        x = x * np.uint32(2654435761)
        x ^= x >> np.uint32(16)
        x = x * np.uint32(2246822519)
        x ^= x >> np.uint32(13)
    return torch.from_numpy(x / 2**32).reshape(shape)


def load(path: Path) -> list[Case]:
    stored = json.loads(path.read_text())
    gradients = np.load(path.with_name(f"{path.stem}_grads.npz"))
    assert stored
    cases = []
    for k, case in enumerate(stored):
        u, v = (fractions(f"asl:{kind}:{case['name']}", (case["B"], case["C"])) for kind in ("logits", "targets"))
        options = {
            "gamma_negative": case["gamma_neg"],
            "gamma_positive": case["gamma_pos"],
            "shift": case["clip"],
            "stop_gradient": case["stop_gradient_through_focusing"],
        }
        gradient = torch.from_numpy(gradients[f"grad{k}"])
        cases.append(Case(case["logit_scale"] * (2 * u - 1), v < case["pos_rate"], options, case, gradient))
    return cases


@files
def test_inputs_are_those_of_the_program(path: Path) -> None:
    for case in load(path):
        assert case.labels.sum() == case.stored["n_pos"]
        if "logits" in case.stored:
            assert (case.logits - torch.tensor(case.stored["logits"], dtype=torch.float64)).abs().max() < 1e-12


@files
def test_sum_and_gradient(path: Path) -> None:
    for case in load(path):
        logits = case.logits.clone().requires_grad_()
        losses = asymmetric_loss(logits, case.labels, **case.options)
        assert losses.shape == logits.shape
        losses.sum().backward()
        assert losses.sum().item() == pytest.approx(case.stored["f64_sum_loss"], rel=1e-10)
        torch.testing.assert_close(logits.grad, case.gradient, rtol=1e-8, atol=1e-14)
        assert logits.grad is not None
        assert logits.grad.norm().item() == pytest.approx(case.stored["f64_grad_l2"], rel=1e-8)


@files
def test_single_precision(path: Path) -> None:
    for case in load(path):
        logits = case.logits.float().requires_grad_()
        losses = asymmetric_loss(logits, case.labels, **case.options)
        losses.sum().backward()
        assert losses.dtype == torch.float32
        assert losses.sum().item() == pytest.approx(case.stored["f32_sum_loss"], rel=1e-5)
        assert logits.grad is not None
        torch.testing.assert_close(logits.grad.double(), case.gradient, rtol=1e-4, atol=1e-6)
