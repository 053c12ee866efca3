"""Grounding metrics of ActivityNet-Entities against the data set's own evaluation program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from golden_files import golden_cases

from groundzoo.tasks.metrics.entity_grounding import (
    EntityGrounding,
    evaluate_generated,
    evaluate_gt,
    official_submission,
)

pytestmark = pytest.mark.golden
CASES = golden_cases("captioning", "anet_entities_grounding*")


class Case:
    """The files of a folder."""

    def __init__(self, folder: Path) -> None:
        def read(name: str) -> Any:
            return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))

        self.reference, self.expected, self.lemmas = read("reference"), read("expected"), read("lemmas")
        self.split: list[str] = read("split")["validation"]
        self.gt, self.gen = read("submission_gt"), read("submission_gen")
        self.thresholds = [float(key[4:]) for key in self.expected if key.startswith("iou_0")]
        assert self.thresholds

    def lemma(self, word: str) -> str:
        return self.lemmas[word]

    def scalars(self, iou: float) -> dict[str, float]:
        return self.expected[f"iou_{iou:g}"]

    def records(self) -> list[dict[str, Any]]:
        def words(submission: dict[str, Any], video: str, key: str) -> Any:
            return submission["results"].get(video, {}).get(key)

        return [
            {"video": v, "segment": k, "gt": words(self.gt, v, k), "generated": words(self.gen, v, k)}
            for v, annotation in self.reference["annotations"].items()
            for k in annotation["segments"]
        ]


def fold(lists: dict[str, list[int]]) -> dict[str, list[int]]:
    return {name: sorted(values) for name, values in lists.items()}


@pytest.fixture(params=CASES, ids=lambda folder: folder.name)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


def test_every_number(case: Case) -> None:
    for iou in case.thresholds:
        found = evaluate_gt(case.reference, case.gt, case.split, iou)
        found |= evaluate_generated(case.reference, case.gen, case.split, case.lemma, iou)
        expected = case.scalars(iou)
        assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_every_class(case: Case) -> None:
    """The lists stand in the file for one threshold only."""
    found = evaluate_generated(case.reference, case.gen, case.split, case.lemma, case.expected["iou_thresh"])
    assert found["num_vocab_in_split"] == case.expected["num_vocab_in_split"]
    for name in ("prec_per_class_all", "recall_per_class_all"):
        assert fold(found[name]) == fold(case.expected[name])


def test_the_metric_gives_them_in_per_cent(case: Case) -> None:
    iou = case.expected["iou_thresh"]
    metric = EntityGrounding(case.reference, case.split, case.lemma, iou)
    records = case.records()
    for start in range(0, len(records), 5):
        batch = records[start : start + 5]
        metric.update(range(start, start + len(batch)), batch)
    found = {name: value.item() for name, value in metric.compute().items()}
    words = {"prec": "precision", "recall": "recall", "f1": "F1", "GT": "GT"}
    expected = {}
    for name, value in case.scalars(iou).items():
        first, rest = name.split("_", 1)
        rest = "accuracy" if first == "GT" else rest
        expected[f"grounding/{words[first]}_{rest}"] = 100 * value
    assert found == pytest.approx(expected, abs=1e-4)
    assert metric.absent == {}


def test_the_submissions_come_back(case: Case) -> None:
    for mode, official in (("GT", case.gt), ("gen", case.gen)):
        written = json.loads(json.dumps(official_submission(case.records(), mode)))
        assert written["results"] == official["results"]
        assert written["eval_mode"] == official["eval_mode"]
        assert written.keys() == official.keys()
        assert {k: type(v) for k, v in written["external_data"].items()} == {
            k: type(v) for k, v in official["external_data"].items()
        }
