"""Scores of single clips: accuracies by hand, average precision against torchmetrics, each clip once."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from tiny_satsp import ACTIONS, CONCEPTS, B, chosen, clip_batch
from torch import Tensor
from torchmetrics.functional.classification import multilabel_average_precision

from groundzoo.tasks.metrics.clip_classification import ClipClassification, average_precision
from groundzoo.zoo.batch import ClipBatch


def feed(metric: ClipClassification, batch: ClipBatch, logits: dict[str, Tensor]) -> None:
    metric.update(logits, batch.actions, batch.regions, batch.concepts, batch.described, batch.index)


def random_logits() -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(3)
    sizes = {"action": len(ACTIONS), "temporal": 2, "semantic": len(CONCEPTS)}
    return {term: torch.randn(B, size, generator=random) for term, size in sizes.items()}


def test_accuracies_by_hand() -> None:
    batch, metric = clip_batch(), ClipClassification()
    logits = random_logits()
    logits["action"] = 9.0 * F.one_hot(torch.tensor([0, 1, 1, 1, 1, 2]), 3)  # of four actions, three
    logits["temporal"] = 9.0 * F.one_hot(torch.tensor([0, 1, 1, 0, 0, 0]), 2)  # 3 of 4 and 1 of 2
    feed(metric, batch, logits)
    values = {name: value.item() for name, value in metric.compute().items()}
    assert values["action accuracy"] == 75
    assert values["region accuracy"] == pytest.approx(400 / 6)
    assert values["balanced region accuracy"] == pytest.approx((75 + 50) / 2)
    assert values["accuracy"] == pytest.approx((75 + 400 / 6) / 2)


def test_concepts_are_scored_on_described_clips_and_on_concepts_that_occur(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("groundzoo.tasks.metrics.clip_classification.CHUNK", 3)
    batch, metric, logits = clip_batch(), ClipClassification(), random_logits()
    concepts = batch.concepts.clone()
    concepts[:, 1] = torch.tensor([0, 0, 1, 0, 0, 0])  # only where nobody looked
    batch = dataclasses.replace(batch, concepts=concepts)
    feed(metric, batch, logits)
    values = metric.compute()
    kept = batch.described
    scores, truth = logits["semantic"].half().float()[kept], concepts[kept]
    each = multilabel_average_precision(scores.sigmoid(), truth.long(), len(CONCEPTS), average=None)
    assert each is not None
    assert truth.any(0).tolist().count(False) >= 1
    assert values["concept mAP"].item() == pytest.approx(100 * each[truth.any(0)].mean().item(), rel=1e-5)
    found = scores > 0
    hits = (found & truth).sum()
    precision, recall = hits / found.sum(), hits / truth.sum()
    assert values["concept F1"].item() == pytest.approx(200 * (precision * recall / (precision + recall)).item())


def test_equal_scores_are_one_step_of_precision() -> None:
    scores = torch.tensor([[0.5, 0.5, 0.5, 0.5], [3.0, 1.0, 1.0, 0.0], [2.0, 1.0, 0.0, -1.0]])
    labels = torch.tensor([[1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]]).bool()
    found = average_precision(scores, labels)
    assert found[:2].tolist() == pytest.approx([0.25, (1 / 3 + 1 / 2) / 2])
    assert found[2].isnan()
    random = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 12, (200, 5), generator=random) / 12  # many ties
    labels = torch.rand(200, 5, generator=random) < 0.3
    expected = multilabel_average_precision(scores, labels.long(), 5, average=None)
    torch.testing.assert_close(average_precision(scores.T, labels.T), expected)


def test_repeated_clips_count_once_and_batches_do_not_matter() -> None:
    batch, logits, whole, parts = clip_batch(), random_logits(), ClipClassification(), ClipClassification()
    feed(whole, batch, logits)
    for rows in ([5, 2], [0, 1, 2], [4, 3, 5]):
        feed(parts, chosen(batch, rows), {term: value[rows] for term, value in logits.items()})
    expected = whole.compute()
    found = parts.compute()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value.item(), rel=1e-6), name


def test_what_is_not_there_is_not_scored() -> None:
    batch, logits = clip_batch(actions=(-1,) * B, described="0" * B), random_logits()
    metric = ClipClassification()
    feed(metric, batch, logits)
    values = metric.compute()
    assert values.keys() == {"region accuracy", "accuracy", "balanced region accuracy"}
    assert values["accuracy"] == values["region accuracy"] == values["balanced region accuracy"]
    metric = ClipClassification()
    feed(metric, clip_batch(), {"action": logits["action"]})
    assert metric.compute().keys() == {"action accuracy", "accuracy"}
    metric = ClipClassification()
    feed(metric, clip_batch(), {"semantic": logits["semantic"]})
    assert metric.compute().keys() == {"concept mAP", "concept F1"}
