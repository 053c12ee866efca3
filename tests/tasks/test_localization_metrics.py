"""Localisation metrics: oracles, empty answers, cases by hand, order of videos, repeated samples, processes."""

from __future__ import annotations

import itertools
import json
import math
import random
from typing import Any

import pytest
import torch
from torch import Tensor

from groundzoo.tasks.metrics import spatial_grounding, spatio_temporal
from groundzoo.tasks.metrics.records import Record, RecordMetric
from groundzoo.tasks.metrics.spatial_grounding import SpatialGrounding, spatial_record
from groundzoo.tasks.metrics.spatio_temporal import (
    SpatioTemporalGrounding,
    average_precision,
    iou_point,
    runs,
    tube_ious,
    untrimmed_record,
    video_average_precision,
)
from groundzoo.tasks.metrics.temporal_alignment import TemporalGrounding, temporal_record
from groundzoo.zoo.heat_maps import box_masks

SIZE = (32, 24)
ACTIONS = ["pour oil", "stir pan", "cut onion", "add salt"]
NAN = math.nan


def truth(seed: int, n: int = 40) -> tuple[Tensor, Tensor]:
    """Labels in runs, and integer boxes where there is an action; every seventh box is unknown."""
    rng = random.Random(seed)
    labels: list[int] = []
    while len(labels) < n:
        labels += [rng.randrange(-1, len(ACTIONS))] * rng.randint(1, 6)
    boxes = []
    for _ in range(n):
        x, y = (sorted(rng.sample(range(side), 2)) for side in SIZE)
        boxes.append([x[0], y[0], x[1], y[1]] if rng.random() > 1 / 7 else [NAN] * 4)
    true = torch.tensor(labels[:n])
    return true, torch.tensor(boxes).masked_fill(true[:, None] < 0, NAN).float()


def oracle_heat(boxes: Tensor) -> Tensor:
    return box_masks(boxes, (SIZE[1], SIZE[0])).float()


def noisy(seed: int, n: int = 40) -> Record:
    """A record of a predictor that is right now and then."""
    g = torch.Generator().manual_seed(seed)
    true, boxes = truth(seed, n)
    labels = true.where(torch.rand(n, generator=g) > 0.3, torch.randint(-1, len(ACTIONS), (n,), generator=g))
    heat = torch.rand(n, 6, 8, generator=g) + 0.7 * oracle_heat(boxes).unfold(1, 4, 4).unfold(2, 4, 4).mean((3, 4))
    return untrimmed_record(ACTIONS, labels, torch.rand(n, generator=g), heat, true, boxes, SIZE, 0.7)


def values(metric: RecordMetric) -> dict[str, float]:
    return {name: value.item() for name, value in metric.compute().items()}


# ---- untrimmed --------------------------------------------------------------------------------------------


def test_runs_leave_out_the_background_and_keep_neighbours_apart() -> None:
    assert runs(torch.tensor([2, 2, -1, 2, 0, 0, -1])) == [(2, 0, 2), (2, 3, 4), (0, 4, 6)]
    assert runs(torch.tensor([-1, -1])) == []
    assert runs(torch.tensor([], dtype=torch.int64)) == []


def test_an_oracle_reaches_100() -> None:
    metric = SpatioTemporalGrounding()
    for seed in range(6):
        true, boxes = truth(seed)
        record = untrimmed_record(ACTIONS, true, torch.rand(40), oracle_heat(boxes), true, boxes, SIZE, 0.5)
        metric.update([seed], [record])
    assert values(metric) == pytest.approx(dict.fromkeys(values(metric), 100.0))
    assert {"IoU+Point", "IoU+Point class", "frame accuracy", "mAP", *(f"mAP@0.{k}" for k in range(1, 6))} == set(
        values(metric)
    )


def test_predicting_nothing_gives_0() -> None:
    true, boxes = truth(0)
    nothing = untrimmed_record(
        ACTIONS, torch.full((40,), -1), torch.zeros(40), torch.zeros(40, 7, 7), true, boxes, SIZE, 0.5
    )
    empty = untrimmed_record(
        [], *(torch.zeros(0, dtype=torch.int64), torch.zeros(0), torch.zeros(0, 7, 7)),
        *(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4)), SIZE, 0.5,
    )  # fmt: skip
    for records in ([], [nothing], [empty], [nothing, empty]):
        found = SpatioTemporalGrounding().evaluate(records)
        assert found == dict.fromkeys(found, 0.0)


def test_actions_where_nothing_is_true_are_false_alarms_alone() -> None:
    labels, none = torch.zeros(3, dtype=torch.int64), torch.full((3, 4), NAN)
    record = untrimmed_record(
        ["a"], labels, torch.ones(3), torch.ones(3, 2, 2), torch.full((3,), -1), none, SIZE, 0.5
    )
    assert record["detections"] == [["a", 1.0]]
    found = SpatioTemporalGrounding().evaluate([record])
    assert found == dict.fromkeys(found, 0.0)


def test_a_video_by_hand() -> None:
    """One frame each: hit, miss beside the box, wrong action, false alarm, unknown box, background."""
    true = torch.tensor([0, 0, 1, -1, 0, -1])
    labels = torch.tensor([0, 0, 0, 0, 0, -1])
    boxes = torch.tensor([[0, 0, 1, 1], [2, 2, 3, 3], [0, 0, 1, 1], [NAN] * 4, [NAN] * 4, [NAN] * 4])
    heat = torch.zeros(6, 4, 4)
    heat[:5, 0, 0] = 1  # one pixel
    scores = torch.tensor([0.9, 0.5, 0.7, 0.7, 0.7, 0.1])
    record = untrimmed_record(["a", "b"], labels, scores, heat, true, boxes, (4, 4), 1.0)
    assert record["hit"] == [True, False, True, False, None, False]
    assert record["detections"] == [["a", pytest.approx(0.7)]]
    assert record["truths"] == ["a", "b"], "a run of frames without any known box is no tube"
    assert record["overlaps"] == [[0, 0, pytest.approx(1 / (4 + 8 - 1))]]
    found = SpatioTemporalGrounding().evaluate([record])
    assert found["IoU+Point"] == pytest.approx(100 / 4)
    assert found["IoU+Point class"] == pytest.approx((100 / 4 + 0) / 2)
    assert found["frame accuracy"] == pytest.approx(100 * 3 / 4)
    assert found["mAP@0.1"] == 0, "1/11 is below 0.1"


def test_a_tube_goes_on_over_frames_without_a_box() -> None:
    """A hole in the annotation must neither cut the truth in two nor count as background."""
    true = torch.zeros(5, dtype=torch.int64)
    boxes = torch.tensor([[1.0, 1, 5, 5]] * 5)
    boxes[2] = NAN
    heat = oracle_heat(boxes)
    heat[2] = 1
    record = untrimmed_record(["a"], true, torch.ones(5), heat, true, boxes, SIZE, 0.5)
    assert record["truths"] == ["a"]
    assert record["overlaps"] == [[0, 0, 1.0]]


def test_an_answer_that_cannot_be_judged_is_no_false_alarm() -> None:
    true, labels = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 0, 1])
    boxes = torch.tensor([[1.0, 1, 5, 5], [NAN] * 4, [NAN] * 4, [1, 1, 5, 5]])
    scores = torch.tensor([0.1, 0.9, 0.9, 0.1])
    record = untrimmed_record(["a", "b"], labels, scores, oracle_heat(boxes), true, boxes, SIZE, 0.5)
    assert record["detections"] == [["a", pytest.approx(1.9 / 3)], ["b", pytest.approx(0.1)]]
    alone = torch.tensor([-1, 1, -1, 1])
    record = untrimmed_record(["a", "b"], alone, scores, oracle_heat(boxes), true, boxes, SIZE, 0.5)
    assert record["detections"] == [["b", pytest.approx(0.1)]]


def test_boxes_in_the_background_mean_nothing() -> None:
    true, labels = torch.tensor([0, -1, -1]), torch.tensor([0, 0, -1])
    boxes = torch.tensor([[0.0, 0, 1, 1]] * 3)
    heat = torch.zeros(3, 4, 4)
    heat[0, :2, :2] = heat[1, :2, :3] = 1
    record = untrimmed_record(["a"], labels, torch.ones(3), heat, true, boxes, (4, 4), 0.5)
    assert record["hit"] == [True, False, False]
    assert record["overlaps"] == [[0, 0, pytest.approx(4 / 10)]]


def test_volumes_are_sums_of_pixels() -> None:
    """3-D IoU from cumulative sums against whole volumes of pixels."""
    for seed in range(5):
        g = torch.Generator().manual_seed(seed)
        true, boxes = truth(seed)
        labels = true.roll(2)
        heat = torch.rand(40, SIZE[1], SIZE[0], generator=g)
        record = untrimmed_record(ACTIONS, labels, torch.rand(40), heat, true, boxes, SIZE, 0.4)
        judged = (true < 0) | ~boxes.isnan().any(1)
        known = (true >= 0) & judged
        marked, boxed = (heat >= 0.4) & judged[:, None, None], oracle_heat(boxes).bool() & known[:, None, None]
        frames = torch.arange(40)[:, None, None]
        expected = []
        found = [r for r in runs(labels) if judged[r[1] : r[2]].any()]
        truths = [r for r in runs(true) if known[r[1] : r[2]].any()]
        for (d, (a, s, e)), (t, (b, s2, e2)) in itertools.product(enumerate(found), enumerate(truths)):
            one, two = marked & (frames >= s) & (frames < e), boxed & (frames >= s2) & (frames < e2)
            if a == b and (one & two).any():
                expected.append([d, t, pytest.approx(((one & two).sum() / (one | two).sum()).item())])
        assert record["overlaps"] == expected
        assert expected


def test_memory_is_bounded_by_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = noisy(3), spatial_of(3)
    for module in (spatio_temporal, spatial_grounding):
        monkeypatch.setattr(module, "frames_at_once", lambda size: 3)
    assert (noisy(3), spatial_of(3)) == whole


def test_records_are_json() -> None:
    for record in (noisy(1), spatial_of(1), temporal_of(1)):
        assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_iou_point_counts_actions_of_either_side() -> None:
    assert iou_point([0, 0, 1, -1], [0, 1, 1, -1], [1, 1, 1, 1]) == (2 / 3, (1 / 2 + 1 / 2) / 2)
    assert iou_point([5, 0], [-1, 0], [1, 1]) == (1 / 2, 1.0), "a class that is never true has no part in the mean"
    assert iou_point([-1], [-1], [1]) == (0.0, 0.0)


def test_each_truth_is_found_once_and_the_better_score_chooses_first() -> None:
    video = {
        "detections": [["a", 0.5], ["a", 0.9], ["a", 0.7]],
        "truths": ["a", "a"],
        "overlaps": [[0, 0, 0.9], [1, 0, 0.5], [1, 1, 0.3], [2, 0, 0.6]],
    }
    # 0.9 takes truth 0, 0.7 finds nothing left, 0.5 neither
    assert video_average_precision([video], 0.2) == {"a": pytest.approx(1 / 2)}
    video["overlaps"] = [*video["overlaps"], [2, 1, 0.2]]
    assert video_average_precision([video], 0.2) == {"a": 1.0}
    assert video_average_precision([video], 0.55) == {"a": pytest.approx(1 / 2 * 1 / 2)}, "0.7 has it, 0.9 has not"


@pytest.mark.parametrize("overlap", spatio_temporal.OVERLAPS)
def test_an_overlap_at_the_threshold_counts(overlap: float) -> None:
    video = {"detections": [["a", 1.0]], "truths": ["a"], "overlaps": [[0, 0, overlap]]}
    assert video_average_precision([video], overlap) == {"a": 1.0}
    assert video_average_precision([video], overlap + 1e-9) == {"a": 0.0}


def test_average_precision_against_its_definition() -> None:
    rng = random.Random(0)
    for _ in range(200):
        n = rng.randint(0, 12)
        scores, hits = (
            [rng.choice((0.1, 0.2, 0.3, 0.4, 0.5)) for _ in range(n)],
            [rng.random() < 0.5 for _ in range(n)],
        )
        truths = max(1, sum(hits) + rng.randint(0, 3))
        points = []
        for level in sorted(set(scores), reverse=True):
            kept = [hit for score, hit in zip(scores, hits, strict=True) if score >= level]
            points.append((sum(kept) / truths, sum(kept) / len(kept)))
        area = before = 0.0
        for recall, _ in points:
            area += (recall - before) * max(p for r, p in points if r >= recall)
            before = recall
        assert average_precision(scores, hits, truths) == pytest.approx(area, abs=1e-12)


def test_equal_scores_have_no_order() -> None:
    assert average_precision([1, 1], [True, False], 1) == average_precision([1, 1], [False, True], 1) == 0.5


def test_tubes_of_boxes() -> None:
    """Continuous areas; frames without a box add nothing."""
    a = torch.tensor([[[0.0, 0, 2, 2], [0, 0, 2, 2], [NAN] * 4]])
    b = torch.tensor([[[1.0, 0, 3, 2], [NAN] * 4, [0, 0, 2, 2]], [[5.0, 5, 6, 6], [NAN] * 4, [NAN] * 4]])
    assert tube_ious(a, b).tolist() == [[pytest.approx(2 / (4 + 4 + 4 + 4 - 2)), 0.0]]
    assert tube_ious(a, a).tolist() == [[1.0]]
    assert tube_ious(a, torch.full((1, 3, 4), NAN)).tolist() == [[0.0]]
    assert tube_ious(a[:0], b).shape == (0, 2)


# ---- one given action -------------------------------------------------------------------------------------


def spatial_of(seed: int, action: str = "pour oil") -> Record:
    _, boxes = truth(seed)
    heat = torch.rand(40, 6, 8, generator=torch.Generator().manual_seed(seed))
    return spatial_record(action, heat, boxes, SIZE, 0.6)


def test_a_spatial_oracle_reaches_100() -> None:
    """By the released pixels a mask may be one column off: boxes here are wide enough for that."""
    boxes = torch.tensor([[2.0, 3, 20, 15], [NAN] * 4, [5, 5, 15, 12], [0, 0, 31, 23]])
    heat = oracle_heat(boxes)
    record = spatial_record("a", heat, boxes, SIZE, 0.5)
    assert len(record["hit"]) == 3
    found = SpatialGrounding().evaluate([record, record | {"action": "b"}])
    assert found == pytest.approx(dict.fromkeys(found, 100.0))
    assert {
        "spatial/pointing accuracy",
        "spatial/mask fraction",
        "spatial/mask fraction class",
        "spatial/mAP",
    } < set(found)


def test_nothing_marked_and_no_frames_give_0() -> None:
    boxes = torch.tensor([[2.0, 3, 20, 15]])
    unmarked = spatial_record("a", torch.zeros(1, 7, 7), boxes, SIZE, 0.5)
    assert unmarked["box_iou"] == [None]
    without = spatial_record("a", torch.ones(1, 7, 7), torch.full((1, 4), NAN), SIZE, 0.5)
    for records in ([], [unmarked], [without]):
        found = SpatialGrounding().evaluate(records)
        assert found == dict.fromkeys(found, 0.0)


@pytest.mark.parametrize(
    ("point", "hit"), [((2, 3), 1), ((6, 5), 1), ((1, 3), 0), ((7, 3), 0), ((2, 2), 0), ((6, 6), 0)]
)
def test_the_border_belongs_to_the_box(point: tuple[int, int], hit: bool) -> None:
    heat = torch.zeros(1, 24, 32)
    heat[0, point[1], point[0]] = 1
    boxes = torch.tensor([[2.0, 3, 6, 5]])
    assert spatial_record("a", heat, boxes, SIZE, 0.5)["hit"] == [hit]
    zero = torch.zeros(1, dtype=torch.int64)
    assert untrimmed_record(["a"], zero, torch.ones(1), heat, zero, boxes, SIZE, 0.5)["hit"] == [hit]


def test_an_iou_must_exceed_the_threshold() -> None:
    """Three of ten pixels are an IoU of 0.3, which is not above 0.3 (in float32 it would be)."""
    heat = torch.zeros(1, 24, 32)
    heat[0, 5, 2:12] = 1
    record = spatial_record("a", heat, torch.tensor([[1.0, 5, 4, 5]]), SIZE, 0.5)  # released: pixels 2, 3, 4, 5
    assert record["mask_iou"] == [0.4]
    record = spatial_record("a", heat, torch.tensor([[2.0, 5, 4, 5]]), SIZE, 0.5)
    assert record["mask_iou"] == record["box_iou"] == [0.3]
    found = SpatialGrounding().evaluate([record])
    assert (found["spatial/mask fraction"], found["spatial/mAP"], found["spatial/pointing accuracy"]) == (
        0,
        0,
        100,
    )


def test_map_is_ranked_and_fraction_is_not() -> None:
    """One good and one bad box of an action: what counts is which of them has the greater peak."""
    heat = torch.zeros(2, 24, 32)
    heat[0, 2:10, 2:10], heat[1, 20:22, 20:22] = 1.0, 2.0
    boxes = torch.tensor([[2.0, 2, 9, 9], [2, 2, 9, 9]])
    for scale, expected in ((1.0, 25.0), (0.3, 50.0)):
        heat[1] = heat[1] * scale
        record = spatial_record("a", heat, boxes, SIZE, 0.5)
        found = SpatialGrounding().evaluate([record])
        assert found["spatial/mask fraction"] == 50
        assert found["spatial/mAP"] == pytest.approx(expected)


def test_frames_where_nothing_is_marked_are_missed() -> None:
    heat = torch.zeros(2, 24, 32)
    heat[0, 2:10, 2:10] = 1
    record = spatial_record("a", heat, torch.tensor([[2.0, 2, 9, 9]] * 2), SIZE, 0.5)
    assert record["box_iou"] == [1.0, None]
    assert SpatialGrounding().evaluate([record])["spatial/mAP"] == 50


def test_the_box_around_a_mask_and_the_mask_itself_differ() -> None:
    heat = torch.zeros(1, 24, 32)
    heat[0, 2, 2] = heat[0, 9, 9] = 1
    record = spatial_record("a", heat, torch.tensor([[2.0, 2, 9, 9]]), SIZE, 0.5)
    assert record["box_iou"] == [1.0]
    assert record["mask_iou"] == [pytest.approx(1 / 65)]


def test_classes_count_alike() -> None:
    good, bad = (
        {
            "action": a,
            "hit": [h] * n,
            "mask_iou": [h] * n,
            "box_iou": [h] * n,
            "score": [1.0] * n,
            "area": [0.1] * n,
        }
        for a, h, n in (("a", 1.0, 3), ("b", 0.0, 1))
    )
    found = SpatialGrounding().evaluate([good, bad])
    assert (found["spatial/mask fraction"], found["spatial/mask fraction class"], found["spatial/mAP"]) == (
        75,
        50,
        50,
    )


def test_widespread_boxes_are_above_50000_pixels_of_a_large_picture() -> None:
    boxes = torch.tensor([[0.0, 0, 250, 200], [0, 0, 251, 200]])
    heat = torch.zeros(2, 7, 7)
    heat[0, 3, 3] = heat[1, 0, 0] = 1
    record = spatial_record("a", heat, boxes, (640, 480), 0.5)
    found = SpatialGrounding().evaluate([record])
    assert (found["spatial/pointing accuracy widespread"], found["spatial/pointing accuracy saturated"]) == (
        100,
        0,
    )
    small = spatial_record("a", heat[1:], boxes[1:] / 10, (64, 48), 0.5)
    assert "spatial/pointing accuracy saturated" not in SpatialGrounding().evaluate([small])


# ---- a given order ----------------------------------------------------------------------------------------


def temporal_of(seed: int) -> Record:
    g = torch.Generator().manual_seed(seed)
    true, _ = truth(seed)
    order = torch.unique_consecutive(true).tolist()
    return temporal_record(torch.rand(40, 4, generator=g), order, true, 0.5)


def test_a_temporal_oracle_reaches_100() -> None:
    records = []
    for seed in range(5):
        true, _ = truth(seed)
        scores = torch.nn.functional.one_hot(true + 1, 5)[:, 1:].float()
        records.append(temporal_record(scores, torch.unique_consecutive(true).tolist(), true, 0.5))
    found = TemporalGrounding().evaluate(records)
    assert found == pytest.approx(dict.fromkeys(found, 100.0))
    assert set(found) == {
        f"temporal/{m}{s}" for m in ("IoU", "IoD") for s in ("", " with background", " per segment")
    }


def test_the_background_score_is_a_bar() -> None:
    true, scores = torch.tensor([-1, -1, 0, 0]), torch.tensor([[0.1], [0.4], [0.6], [0.2]])
    for bar, bounds in ((0.5, [0, 2, 4]), (0.3, [0, 1, 4]), (0.7, [0, 3, 4])):
        assert temporal_record(scores, [-1, 0], true, bar)["bounds"] == bounds


def test_two_videos_by_hand() -> None:
    one = {"order": [-1, 0, 1], "bounds": [0, 1, 3, 6], "true": [-1, -1, 0, 0, 1, 1]}
    # 0: {1,2} and {2,3}; 1: {3,4,5} and {4,5}; background: {0} and {0,1}
    two = {"order": [0], "bounds": [0, 2], "true": [0, 0]}
    found = TemporalGrounding().evaluate([one, two])
    iou, iod = (1 / 3 + 2 / 3) / 2, (1 / 2 + 2 / 3) / 2
    assert found["temporal/IoU"] == pytest.approx(50 * (iou + 1))
    assert found["temporal/IoD"] == pytest.approx(50 * (iod + 1))
    assert found["temporal/IoU with background"] == pytest.approx(50 * ((1 / 2 + 1 / 3 + 2 / 3) / 3 + 1))
    assert found["temporal/IoD with background"] == pytest.approx(50 * ((1 + 1 / 2 + 2 / 3) / 3 + 1))


def test_videos_without_actions_have_no_part() -> None:
    background = {"order": [-1], "bounds": [0, 3], "true": [-1, -1, -1]}
    right = {"order": [0], "bounds": [0, 2], "true": [0, 0]}
    assert TemporalGrounding().evaluate([background, right])["temporal/IoU"] == 100
    for records in ([], [background]):
        found = TemporalGrounding().evaluate(records)
        assert (found["temporal/IoU"], found["temporal/IoD"], found["temporal/IoU per segment"]) == (0, 0, 0)
    missed = {"order": [1], "bounds": [0, 2], "true": [0, 0]}
    assert TemporalGrounding().evaluate([missed]) == dict.fromkeys(TemporalGrounding().evaluate([]), 0.0)


# ---- all of them ------------------------------------------------------------------------------------------

KINDS: list[Any] = [
    pytest.param(SpatioTemporalGrounding, noisy, id="untrimmed"),
    pytest.param(SpatialGrounding, lambda k: spatial_of(k, ACTIONS[k % 3]), id="spatial"),
    pytest.param(TemporalGrounding, temporal_of, id="temporal"),
]


@pytest.mark.parametrize(("kind", "record"), KINDS)
def test_order_repetition_and_processes_change_nothing(kind: type[RecordMetric], record: Any) -> None:
    records = [record(k) for k in range(7)]
    expected = kind().evaluate(records)
    assert all(0 < expected[name] < 100 for name in expected), expected
    assert kind().evaluate(records[::-1]) == pytest.approx(expected)
    assert kind().evaluate([*records, records[0]]) != pytest.approx(expected), "counting twice would show"
    first, second = kind(), kind()
    first.update([0, 3, 4], [records[k] for k in (0, 3, 4)])
    second.update([1, 2, 5, 6, 0], [records[k] for k in (1, 2, 5, 6, 0)])
    first.merge_state(second)
    assert values(first) == pytest.approx(expected)
    assert all(value.dtype == torch.float64 for value in first.compute().values())


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@pytest.mark.parametrize(("kind", "record"), KINDS)
def test_no_samples_give_numbers(kind: type[RecordMetric], record: Any) -> None:
    found = values(kind())
    assert found == dict.fromkeys(found, 0.0)
    assert set(found) <= set(kind().evaluate([record(0)]))
