"""Metrics of spatio-temporal grounding against brute force by independent scripts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_files import golden_cases

from groundzoo.tasks.metrics.spatial_grounding import SpatialGrounding, spatial_record
from groundzoo.tasks.metrics.spatio_temporal import iou_point, runs, tube_ious, video_average_precision
from groundzoo.tasks.metrics.temporal_alignment import TemporalGrounding, align
from groundzoo.zoo.heat_maps import box_masks, masks, peaks, upsample

pytestmark = pytest.mark.golden


def load(path: Path) -> Any:
    return json.loads(path.read_text())


def cases(pattern: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", golden_cases("stg", pattern), ids=lambda p: p.stem)


@cases("alignment*.json")
def test_alignment_is_the_exact_optimum(path: Path) -> None:
    for case in load(path):
        scores, order = torch.tensor(case["log_probs"], dtype=torch.float64), torch.tensor(case["order"])
        labels, bounds, best = align(scores, order)
        assert best == pytest.approx(case["best_score"], abs=1e-9)
        assert labels.tolist() == case["labels"]
        if all(a != b for a, b in zip(case["order"], case["order"][1:], strict=False)):
            assert bounds.tolist() == case["boundaries"]  # between equal neighbours any cut is as good
        assert sorted(bounds.tolist()) == bounds.tolist()


@cases("alignment*.json")
def test_iou_and_iod(path: Path) -> None:
    names = {
        "per_class_%s_nobg": "%s",
        "per_class_%s_all": "%s with background",
        "per_segment_%s_nobg": "%s per segment",
    }
    for case in load(path):
        scores = torch.tensor(case["log_probs"], dtype=torch.float64)
        background = case["background"]
        ours = {label: label if label != background else -1 for label in range(scores.shape[1])}
        record = {
            "order": [ours[label] for label in case["order"]],
            "bounds": case["boundaries"],
            "true": [ours[label] for label in case["gt"]],
        }
        values = TemporalGrounding().evaluate([record])
        for theirs, name in names.items():
            for measure in ("IoU", "IoD"):
                expected = 100 * case[theirs % measure.lower()]
                assert values["temporal/" + name % measure] == pytest.approx(expected, abs=1e-9), name


def heat_of(
    case: dict[str, Any], size: tuple[int, int]
) -> Iterator[tuple[dict[str, Any], torch.Tensor, torch.Tensor]]:
    for frame in case["frames"]:
        heat = torch.tensor(frame["low"], dtype=torch.float64)[None]
        yield frame, heat, torch.tensor(frame["box"], dtype=torch.float64)[None]


@cases("pointing*.json")
def test_pointing_game_and_masks(path: Path) -> None:
    for case in load(path):
        size = (case["H"], case["W"])
        records = []
        for frame, heat, box in heat_of(case, size):
            expected = frame["argmax_xy"]
            x, y = peaks(heat, size)[0].tolist()
            picture = upsample(heat, size)[0]
            assert [x, y] == expected or picture[y, x] == pytest.approx(
                picture[expected[1], expected[0]], abs=1e-12
            )
            mask = masks(heat, size, frame["threshold"])
            assert mask.sum() == frame["mask_pixels"]
            for rule, key in (("inclusive", "iou_inclusive"), ("released", "iou_official_pixels")):
                boxed = box_masks(box, size, rule)
                iou = (mask & boxed).sum().item() / (mask | boxed).sum().item()
                assert iou == pytest.approx(frame[key], abs=1e-12), rule
            records.append(spatial_record("a", heat, box, size[::-1], frame["threshold"]))
            assert records[-1]["mask_iou"] == [pytest.approx(frame["iou_official_pixels"], abs=1e-12)]
            assert records[-1]["hit"] == [frame["hit"]]
        values = SpatialGrounding().evaluate(records)
        assert values["spatial/pointing accuracy"] == pytest.approx(100 * case["accuracy"])
        assert values["spatial/mask fraction"] == pytest.approx(100 * case["frac_iou_gt_0p3"])


def boxes_of(tubes: list[dict[str, Any]], frames: int) -> torch.Tensor:
    boxes = torch.full((len(tubes), frames, 4), torch.nan, dtype=torch.float64)
    for k, tube in enumerate(tubes):
        for frame, box in tube["tube"].items():
            boxes[k, int(frame)] = torch.tensor(box, dtype=torch.float64)
    return boxes


@cases("video_map*.json")
def test_video_map(path: Path) -> None:
    data = load(path)
    videos = []
    tubes = data["gt"] + data["det"]
    frames = 1 + max(int(frame) for tube in tubes for frame in tube["tube"])
    for video in sorted({tube["video"] for tube in tubes}):
        true, found = ([t for t in data[key] if t["video"] == video] for key in ("gt", "det"))
        ious = tube_ious(boxes_of(found, frames), boxes_of(true, frames)).tolist()
        overlaps = [
            [d, t, ious[d][t]]
            for d, det in enumerate(found)
            for t, gt in enumerate(true)
            if det["cls"] == gt["cls"] and ious[d][t] > 0
        ]
        detections = [[str(tube["cls"]), tube["score"]] for tube in found]
        videos.append({"detections": detections, "truths": [str(t["cls"]) for t in true], "overlaps": overlaps})
    means = []
    for key, expected in data["result"].items():
        if not isinstance(expected, dict):
            continue
        each = video_average_precision(videos, float(key))
        assert each == {name: pytest.approx(ap, abs=1e-12) for name, ap in expected["ap"].items()}, key
        means.append(np.mean(list(each.values())))
        assert means[-1] == pytest.approx(expected["mAP"], abs=1e-12)
    assert np.mean(means) == pytest.approx(data["result"]["mean_0.1_0.5"], abs=1e-12)


@cases("untrimmed*.json")
def test_iou_point_and_segments(path: Path) -> None:
    found = load(path)
    for case in found if isinstance(found, list) else [found]:
        assert iou_point(case["pred"], case["gt"], case["point_in_gt_box"]) == (
            pytest.approx(case["iou_point_frame_pooled"], abs=1e-12),
            pytest.approx(case["iou_point_mean_over_gt_classes"], abs=1e-12),
        )
        cosine = torch.tensor(case["cosine"], dtype=torch.float64)
        best, labels = cosine.max(1)
        labels = labels.where(best >= case["threshold"], -1)
        segments = [[label, start, end, best[start:end].mean().item()] for label, start, end in runs(labels)]
        expected = case["segments_cls_start_endexcl_meanscore"]
        assert [s[:3] for s in segments] == [s[:3] for s in expected]
        assert [s[3] for s in segments] == pytest.approx([s[3] for s in expected], abs=1e-12)
