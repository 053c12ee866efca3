"""Overlap, suppression, losses and pooling, each against a plain loop on random input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from groundzoo.zoo.losses import interval_iou_loss, sigmoid_focal_loss
from groundzoo.zoo.temporal import nms, tiou
from groundzoo.zoo.video.base import FrameSpec
from groundzoo.zoo.video.clips import ClipPooling

SEEDS = range(25)


def overlap(a: list[float], b: list[float]) -> float:
    inter = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    union = (a[1] - a[0]) + (b[1] - b[0]) - inter
    return inter / union if union > 0 else 0.0


def random_boxes(g: torch.Generator, *shape: int) -> torch.Tensor:
    """Coarse, so that ties, touching and empty intervals occur."""
    return (torch.rand(*shape, 2, generator=g) * 8).round().sort(-1).values / 8


@pytest.mark.parametrize("seed", SEEDS)
def test_tiou_against_lengths(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    a, b = random_boxes(g, 20), random_boxes(g, 20)
    expected = [overlap(x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    np.testing.assert_allclose(tiou(a, b, eps=0.0).nan_to_num(0.0), expected, rtol=1e-6)
    table = tiou(a[:, None], b[None])
    assert table.shape == (20, 20)
    assert torch.equal(table, tiou(b[:, None], a[None]).T)
    assert ((table >= 0) & (table <= 1)).all()


def test_tiou_of_empty_intervals_is_zero_with_eps() -> None:
    empty = torch.tensor([0.3, 0.3])
    assert tiou(empty, empty).item() == 0.0


def naive_nms(boxes: list[list[float]], scores: list[float], threshold: float, valid: list[bool]) -> list[int]:
    """Greedy, one by one; of equal scores the one listed last comes first."""
    left = [i for i in range(len(scores)) if valid[i]]
    left.sort(key=lambda i: (scores[i], i), reverse=True)
    picked = []
    while left:
        best = left.pop(0)
        picked.append(best)
        left = [i for i in left if overlap(boxes[best], boxes[i]) <= threshold]
    return picked


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("threshold", [0.0, 0.25, 0.45, 0.7, 1.0])
def test_nms_against_a_loop(seed: int, threshold: float) -> None:
    g = torch.Generator().manual_seed(seed)
    B, L = 4, 1 + seed
    boxes = random_boxes(g, B, L).double()
    scores = (torch.rand(B, L, generator=g) * 6).round() / 6
    valid = torch.rand(B, L, generator=g) > 0.3
    picks = nms(boxes, scores, threshold, valid)
    assert picks.shape == (B, L)
    for b in range(B):
        expected = naive_nms(boxes[b].tolist(), scores[b].tolist(), threshold, valid[b].tolist())
        assert picks[b].tolist() == expected + [-1] * (L - len(expected))
    assert torch.equal(nms(boxes, scores, threshold, valid, keep=3)[:, : min(3, L)], picks[:, :3])
    everything = nms(boxes, scores, threshold)
    assert torch.equal(everything, nms(boxes, scores, threshold, torch.ones_like(valid)))


@pytest.mark.parametrize("seed", SEEDS)
def test_focal_loss_against_the_formula(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    logits = (torch.randn(40, generator=g) * 4).double()
    labels = torch.rand(40, generator=g) > 0.5
    expected = []
    for x, y in zip(logits.tolist(), labels.tolist(), strict=True):
        p = 1 / (1 + math.exp(-x))
        expected.append(-0.25 * (1 - p) ** 2 * math.log(p) if y else -0.75 * p**2 * math.log(1 - p))
    np.testing.assert_allclose(sigmoid_focal_loss(logits, labels), expected, rtol=1e-9)


@pytest.mark.parametrize("label", [0, 1])
def test_focal_loss_of_huge_logits_is_finite_with_gradient(label: int) -> None:
    logits = torch.tensor([-3e4, -200.0, -88.0, 0.0, 88.0, 200.0, 3e4], requires_grad=True)
    loss = sigmoid_focal_loss(logits, torch.full((7,), label))
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(logits.grad).all()
    wrong, right = (loss[-1], loss[0]) if label == 0 else (loss[0], loss[-1])
    assert right.item() == 0
    assert wrong.item() == pytest.approx(3e4 * (0.75 if label == 0 else 0.25), rel=1e-4)


@pytest.mark.parametrize("seed", SEEDS)
def test_interval_loss_is_minus_log_of_the_overlap(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    pred, target = (torch.rand(30, 2, generator=g).double() * 9 + 0.05 for _ in range(2))
    pairs = zip(pred.tolist(), target.tolist(), strict=True)
    expected = [-math.log(overlap([-p[0], p[1]], [-t[0], t[1]])) for p, t in pairs]
    np.testing.assert_allclose(interval_iou_loss(pred, target), expected, rtol=1e-6, atol=1e-7)


# ---- units to clips ------------------------------------------------------------------------------------


def naive_pool(units: np.ndarray, frames: int, clips: int, spec: FrameSpec, reduce: str) -> np.ndarray:
    """The released rule, clip by clip and unit by unit."""
    step = (frames - 1) / clips
    starts = [int(1 + k * step) for k in range(clips)]
    ends = [*starts[1:], frames]
    rows = []
    for start, end in zip(starts, ends, strict=True):
        first = start // spec.stride
        if end - start <= spec.window:
            chosen = [first]
        else:
            chosen = [i // spec.stride for i in range(first * spec.stride, end, spec.stride)]
        chosen = sorted({min(i, len(units) - 1) for i in chosen})
        part = units[chosen]
        rows.append(part.max(0) if reduce == "max" else part.astype(np.float64).mean(0))
    return np.stack(rows)


@pytest.mark.parametrize("reduce", ["max", "mean"])
@pytest.mark.parametrize("seed", SEEDS)
def test_pooling_against_a_loop(seed: int, reduce: str) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(8):
        clips, frames = int(rng.integers(1, 50)), int(rng.integers(1, 1500))
        spec = FrameSpec(None, int(rng.integers(1, 70)), int(rng.integers(1, 20)), None)
        units = rng.normal(size=(int(rng.integers(1, 200)), 3)).astype(np.float32)
        ours = ClipPooling(clips, reduce).pool(units, frames, spec)
        assert ours.dtype == units.dtype
        assert ours.shape == (clips, 3)
        np.testing.assert_allclose(ours, naive_pool(units, frames, clips, spec, reduce), rtol=1e-5, atol=1e-6)


def test_pooling_chosen_by_the_features() -> None:
    spec = FrameSpec(None, 4, 2, None)
    units = np.abs(np.random.default_rng(0).normal(size=(60, 3))).astype(np.float32)
    for given, expected in ((units, "max"), (units - 0.01, "mean")):
        np.testing.assert_array_equal(
            ClipPooling(5).pool(given, 120, spec), ClipPooling(5, expected).pool(given, 120, spec)
        )


@pytest.mark.parametrize("frames", [1, 2, 31, 33, 800, 12345])
def test_bounds_cover_the_video_in_order(frames: int) -> None:
    bounds = ClipPooling(32).bounds(frames)
    assert bounds.shape == (32, 2)
    assert (bounds[1:, 0] == bounds[:-1, 1]).all()
    assert bounds[0, 0] == pytest.approx(1 / frames)
    assert bounds[-1, 1] == 1.0
    assert (bounds[:, 1] >= bounds[:, 0]).all()


def test_pooling_refuses_what_it_cannot_pool() -> None:
    with pytest.raises(ValueError, match="num_clips=0"):
        ClipPooling(0)
    with pytest.raises(ValueError, match="empty"):
        ClipPooling(4).pool(np.zeros((0, 3), np.float32), 10, FrameSpec(None, 4, 2, None))


@pytest.mark.parametrize("window", [1, 2, 5, 16])
@pytest.mark.parametrize("stride", [1, 3, 5, 8, 20])
def test_number_of_units(window: int, stride: int) -> None:
    """Units start at every multiple of the stride, until the first whose window reaches the end."""
    spec = FrameSpec(None, window, stride, None)
    assert spec.num_units(0) == 0
    for frames in range(1, 90):
        expected = 1
        while (expected - 1) * stride + window < frames and expected * stride < frames:
            expected += 1
        assert spec.num_units(frames) == expected
    for n in range(1, 6):
        assert spec.num_units(spec.num_frames(n)) == n
