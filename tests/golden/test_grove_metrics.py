"""Metrics of grounded captions against GROVE's evaluation programs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from golden_files import golden_cases

from groundzoo.tasks.metrics.entity_grounding import evaluate_generated
from groundzoo.tasks.metrics.iground import RELEASED, IGround, IGroundRules, grounding_scores
from groundzoo.tasks.metrics.pointing import PointingAccuracy
from groundzoo.tasks.metrics.vidstg import VidSTG, vidstg_records

pytestmark = pytest.mark.golden
PRINTED = 5.01e-4  # rounded to three digits
CAPTIONS = {f"Bleu_{n}": f"BLEU{n}" for n in range(1, 5)} | {name: name for name in ("METEOR", "ROUGE_L", "CIDEr")}


def cases(pattern: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", golden_cases("grove", pattern), ids=lambda path: path.stem)


def load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def frames(labels: list[Any], boxes: list[Any], count: int) -> list[Any]:
    """Frames of a record; the program drops a last predicted frame that is one too many."""
    return [list(zip(names, place, strict=True)) for names, place in zip(labels, boxes, strict=True)][:count]


def clips(case: Any) -> list[dict[str, Any]]:
    records = []
    for name, true in case["gt"].items():
        found = case["pred"].get(name, {"pred_bboxes": [], "pred_labels": [], "pred_text": ""})
        count = len(true["bboxes"])
        records.append(
            {
                "id": name,
                "video": name,
                "caption": found["pred_text"],
                "references": [true["caption"]],
                "size": [true["width"], true["height"]],
                "predicted": frames(found["pred_labels"], found["pred_bboxes"], count),
                "truth": frames(true["labels"], true["bboxes"], count),
            }
        )
    return records


@cases("iground_eval*.json")
def test_iground_as_released(path: Path) -> None:
    case = load(path)
    records, expected = clips(case), case["expected"]
    for mode, rules, precision in (
        ("per_video", RELEASED, "AP50"),
        ("flattening", replace(RELEASED, pooled=True), "AP"),
    ):
        found = grounding_scores(records, rules=rules)
        assert found[precision] == pytest.approx(expected[mode]["AP_script"], abs=1e-6)
        assert found["mIoU"] == pytest.approx(expected[mode]["mIoU_printed"], abs=PRINTED)
        assert found["recall"] == pytest.approx(expected[mode]["Recall_printed"], abs=PRINTED)
    assert [found["AP"], found["AP50"]] == pytest.approx(expected["flattening"]["stats12"][:2], abs=1e-6)


@cases("iground_eval*.json")
def test_iground_with_the_right_geometry(path: Path) -> None:
    case = load(path)
    records, expected = clips(case), case["expected"]["corrected_geometry"]
    found = grounding_scores(records, rules=replace(RELEASED, box_format="xyxy"))
    assert found["recall"] == pytest.approx(expected["recall_xyxy_per_video"], abs=1e-6)
    assert found["mIoU"] == pytest.approx(expected["mIoU_xyxy_per_video"], abs=1e-6)
    if all(r["predicted"] and any(r["truth"]) for r in records):  # else the default averages over other clips
        default = grounding_scores(records)
        assert default["mIoU"] == pytest.approx(expected["mIoU_xyxy_per_video"], abs=1e-6)
        assert default["AP50"] == pytest.approx(case["expected"]["per_video"]["AP_script"], abs=1e-6)
        same = grounding_scores(records, rules=IGroundRules(early_stop=True))
        assert same["recall"] == pytest.approx(expected["recall_xyxy_per_video"], abs=1e-6)
        assert default["recall"] >= same["recall"]


@cases("iground_eval*.json")
def test_iground_captions(path: Path) -> None:
    case = load(path)
    java = shutil.which("java") is not None
    scores = [name for name in ("METEOR", "CIDEr", "BLEU", "ROUGE_L") if java or name != "METEOR"]
    metric = IGround(scores, "ptb" if java else "simple", rules=RELEASED)
    records = clips(case)
    metric.update(range(len(records)), records)
    found = {name: value.item() for name, value in metric.compute().items()}
    for theirs, ours in CAPTIONS.items():
        if ours in found or java:
            assert found[ours] == pytest.approx(100 * case["expected"]["caption"][theirs], abs=1e-4)
    assert found["all/AP50"] == pytest.approx(100 * case["expected"]["per_video"]["AP_script"], abs=1e-4)


@cases("vidstg_eval*.json")
def test_vidstg(path: Path) -> None:
    case = load(path)
    records = vidstg_records(case["annotations"], case["pred"])
    found = {}
    for name, value in VidSTG(strict=True).evaluate(records).items():
        group, rest = name.split("/")
        found[f"{group}_{rest.replace('msIoU', 'gt_viou')}"] = value / 100
    assert found == pytest.approx(case["expected"], abs=1e-6)
    for record in records:
        alone = VidSTG(strict=True).evaluate([record])
        assert alone[f"{record['group']}/msIoU"] / 100 == pytest.approx(case["per_video"][record["id"]], abs=1e-6)


@cases("anet_entities_eval*.json")
def test_anet_entities(path: Path) -> None:
    """GROVE's program counts as that of the data set, which `evaluate_generated` is."""
    case = load(path)
    reference, submission = {"annotations": case["reference"]}, {"results": case["submission"]}
    found = evaluate_generated(reference, submission, list(case["reference"]), lambda w: w.lower().rstrip("s"))
    ours = {"prec": "prec", "rec": "recall", "f1": "f1"}
    ends = {"cls": "", "sent": "_per_sent"}
    for mode, expected in case["expected"].items():
        for name, value in expected.items():
            first, last = name.split("_")
            assert found[f"{ours[first]}_{mode}{ends[last]}"] == pytest.approx(value, abs=1e-6), (mode, name)


@cases("pointing_eval*.json")
def test_pointing(path: Path) -> None:
    case = load(path)
    records = []
    for clip in case["gt"]:
        number = next(value for key, value in clip.items() if key.startswith("segment_") and key.endswith("_idx"))
        name = f"{clip['video_id']}_{number}"
        truth = [[("", box)] if box else [] for box in clip["segment_bboxes"]]
        predicted = [[("", box) for box in boxes or []] for boxes in case["pred"][name]]
        records.append({"id": name, "truth": truth, "predicted": predicted})
    assert sum(bool(frame) for r in records for frame in r["truth"]) == case["expected"]["valid"]
    found = PointingAccuracy().evaluate(records)
    assert found == {"pointing accuracy": pytest.approx(case["expected"]["accuracy_percent"], abs=1e-6)}
