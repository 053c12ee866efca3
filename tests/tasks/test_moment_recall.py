"""R@n, IoU=m against a plain loop, and independent of batches, order, repetitions and processes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from groundzoo.tasks.metrics.grounding import MomentRecall

Case = dict[str, Tensor]


def case(seed: int, n: int = 23, L: int = 7) -> Case:
    g = torch.Generator().manual_seed(seed)
    boxes = (torch.rand(n, L, 2, generator=g) * 20).round().sort(-1).values / 20
    scores = (torch.rand(n, L, generator=g) * 8).round() / 8
    valid = torch.rand(n, L, generator=g) > 0.25
    valid[:, 2] = True
    targets = (torch.rand(n, 2, generator=g) * 20).round().sort(-1).values / 20
    targets[3] = torch.tensor([0.8, 0.2])  # inverted: nothing can hit it
    targets[4] = torch.tensor([0.5, 0.5])
    group = torch.rand(n, generator=g) > 0.6
    group[0] = True
    return {
        "boxes": boxes.double(),  # on a grid of 1 / 20: in float32 an IoU of exactly m would be luck
        "scores": scores,
        "valid": valid,
        "targets": targets.double(),
        "index": torch.arange(n),
        "g": group,
    }


def feed(metric: MomentRecall, data: Case, rows: Tensor) -> None:
    subsets = {"g": data["g"][rows], "none": torch.zeros(len(rows), dtype=torch.bool)}
    metric.update(*(data[k][rows] for k in ("boxes", "scores", "valid", "targets", "index")), subsets)


def overlap(a: list[float], b: list[float]) -> float:
    inter = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    hull = max(a[1], b[1]) - min(a[0], b[0])
    return inter / hull if hull > 0 else 0.0


def naive(data: Case, rows: list[int], suppress: float | str | None) -> dict[str, float]:
    values: dict[str, float] = {}
    for m in (0.3, 0.5, 0.7):
        hits = {1: 0, 5: 0}
        total = 0.0
        for r in rows:
            boxes, scores = data["boxes"][r].tolist(), data["scores"][r].tolist()
            left = [i for i in range(len(scores)) if data["valid"][r, i]]
            if suppress is None:
                kept = sorted(left, key=lambda i: -scores[i])
            else:
                threshold = m - 0.05 if isinstance(suppress, str) else suppress
                left.sort(key=lambda i: (scores[i], i), reverse=True)
                kept = []
                while left:
                    kept.append(left.pop(0))
                    left = [i for i in left if overlap(boxes[kept[-1]], boxes[i]) <= threshold]
            ious = [overlap(boxes[i], data["targets"][r].tolist()) for i in kept]
            for n in hits:
                hits[n] += any(iou >= m for iou in ious[:n])
            total += ious[0]
        values |= {f"R{n}@{m:g}": 100 * count / len(rows) for n, count in hits.items()}
        values["mIoU"] = 100 * total / len(rows)
    return values


@pytest.mark.parametrize("seed", range(15))
@pytest.mark.parametrize("suppress", ["m - 0.05", 0.45, None])
def test_against_a_loop(seed: int, suppress: float | str | None) -> None:
    data = case(seed)
    metric = MomentRecall(suppress=suppress)
    feed(metric, data, torch.arange(23))
    values = {k: v.item() for k, v in metric.compute().items()}
    expected = naive(data, list(range(23)), suppress)
    rows = torch.nonzero(data["g"]).flatten().tolist()
    expected |= {f"g/{k}": v for k, v in naive(data, rows, suppress).items()}
    assert values == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("size", [1, 4, 23])
def test_batches_order_and_repetitions_do_not_matter(size: int) -> None:
    data = case(1)
    whole = MomentRecall()
    feed(whole, data, torch.arange(23))
    expected = {k: v.item() for k, v in whole.compute().items()}
    metric = MomentRecall()
    for rows in torch.randperm(23, generator=torch.Generator().manual_seed(0)).split(size):
        feed(metric, data, rows)
    feed(metric, data, torch.tensor([5, 5, 0]))  # repeated by a sampler
    assert {k: v.item() for k, v in metric.compute().items()} == pytest.approx(expected, rel=1e-6)


def test_of_a_repeated_query_the_first_counts() -> None:
    metric = MomentRecall(top=(1,), ious=(0.5,))
    right, wrong = torch.tensor([[[0.0, 1.0]]]), torch.tensor([[[0.9, 1.0]]])
    target, index = torch.tensor([[0.0, 1.0]]), torch.tensor([7])
    for boxes in (right, wrong):
        metric.update(boxes, torch.ones(1, 1), torch.ones(1, 1, dtype=torch.bool), target, index)
    assert metric.compute() == {"R1@0.5": 100.0, "mIoU": 100.0}


def test_unknown_targets_are_skipped() -> None:
    data = case(2)
    data["targets"][[1, 7, 20]] = torch.nan
    metric = MomentRecall()
    feed(metric, data, torch.arange(23))
    rows = [r for r in range(23) if r not in (1, 7, 20)]
    values = metric.compute()
    for name, value in naive(data, rows, "m - 0.05").items():
        assert values[name].item() == pytest.approx(value, rel=1e-4)


def test_boundary_counts_as_a_hit() -> None:
    """R@1, IoU=0.5 of a box that overlaps by exactly one half."""
    metric = MomentRecall(top=(1,), ious=(0.5, 0.75))
    metric.update(
        torch.tensor([[[0.0, 0.5]]]),
        torch.ones(1, 1),
        torch.ones(1, 1, dtype=torch.bool),
        torch.tensor([[0.0, 1.0]]),
        torch.tensor([0]),
    )
    assert metric.compute() == {"R1@0.5": 100.0, "R1@0.75": 0.0, "mIoU": 50.0}


def test_five_answers_need_the_suppression_to_reach_the_sixth_box() -> None:
    """Five near-copies of a wrong box come first: only NMS lets R@5 see the right one."""
    wrong = torch.tensor([[0.0, 0.30 + 0.001 * k] for k in range(5)])
    boxes = torch.cat([wrong, torch.tensor([[0.5, 1.0]])])[None]
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.6, 0.5, 0.1]])
    rest = (torch.ones(1, 6, dtype=torch.bool), torch.tensor([[0.5, 1.0]]), torch.tensor([0]))
    values = {}
    for suppress in ("m - 0.05", None):
        metric = MomentRecall(suppress=suppress)
        metric.update(boxes, scores, *rest)
        values[suppress] = metric.compute()["R5@0.5"].item()
    assert values == {"m - 0.05": 100.0, None: 0.0}


def test_reset_forgets() -> None:
    data, metric = case(3), MomentRecall()
    feed(metric, data, torch.arange(10))
    metric.reset()
    feed(metric, data, torch.arange(10, 23))
    values = metric.compute()
    for name, value in naive(data, list(range(10, 23)), "m - 0.05").items():
        assert values[name].item() == pytest.approx(value, rel=1e-4)
