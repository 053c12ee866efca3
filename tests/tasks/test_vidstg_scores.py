"""Boxes of a given sentence: msIoU of VidSTG and pointing, cases by hand, bad records, processes."""

from __future__ import annotations

import random
from typing import Any

import pytest

from groundzoo.tasks.metrics.pointing import PointingAccuracy
from groundzoo.tasks.metrics.records import RecordMetric
from groundzoo.tasks.metrics.vidstg import VidSTG, tube_frames, vidstg_records

Clip = dict[str, Any]
BOX = [10.0, 10.0, 30.0, 50.0]


def frames(*boxes: list[float] | None) -> list[Any]:
    return [[] if box is None else [("a man", box)] for box in boxes]


def clip(truth: list[Any], predicted: list[Any], group: str = "declarative", name: str = "v") -> Clip:
    return {"id": name, "group": group, "truth": truth, "predicted": predicted}


def random_clip(seed: int) -> Clip:
    rng = random.Random(seed)
    truth = frames(*([rng.random(), rng.random(), 5 + rng.random(), 5 + rng.random()] for _ in range(6)))
    predicted = [[(phrase, [c + rng.gauss(0, 1.6) for c in box])] for [(phrase, box)] in truth]
    return clip(truth, predicted, ("declarative", "interrogative")[seed % 2], f"v{seed}")


# ---- msIoU ------------------------------------------------------------------------------------------------


def test_an_oracle_and_an_empty_answer() -> None:
    truth = frames(BOX, [0, 0, 5, 5], None)
    names = [f"declarative/msIoU{end}" for end in ("", "@0.3", "@0.5")]
    assert VidSTG().evaluate([clip(truth, truth)]) == dict.fromkeys(names, 100.0)
    for predicted in ([], [[], [], []], frames([0, 0, 0, 0], [0, 0, 0, 0], None)):
        assert VidSTG().evaluate([clip(truth, predicted)]) == dict.fromkeys(names, 0.0)
    assert VidSTG().evaluate([clip(truth, truth), clip([], [])])[names[0]] == 50
    assert VidSTG().evaluate([]) == {}


def test_means_are_over_frames_then_over_the_videos_of_a_group() -> None:
    half = [10.0, 10.0, 30.0, 30.0]
    records = [
        clip(frames(BOX, BOX, BOX, BOX), frames(BOX, half, half, [90, 90, 99, 99])),  # (1 + .5 + .5 + 0) / 4
        clip(frames(BOX), frames(BOX)),
        clip(frames(BOX, BOX), frames([0, 0, 0, 0], BOX), "interrogative"),
    ]
    found = VidSTG().evaluate(records)
    assert found["declarative/msIoU"] == 75
    assert found["interrogative/msIoU"] == 50
    # greater, not equal: the first and the third video are at one half
    assert (found["declarative/msIoU@0.3"], found["declarative/msIoU@0.5"]) == (100, 50)
    assert (found["interrogative/msIoU@0.3"], found["interrogative/msIoU@0.5"]) == (100, 0)
    both = VidSTG().evaluate([{k: v for k, v in r.items() if k != "group"} for r in records])
    assert both["msIoU"] == pytest.approx((50 + 100 + 50) / 3)


def test_frames_without_a_true_box_do_not_count_and_the_first_box_does() -> None:
    truth = [[("a man", BOX), ("a man", [0, 0, 1, 1])], []]
    predicted = [[("a man", BOX), ("a dog", [0, 0, 1, 1])], [("a man", [0, 0, 1, 1])]]
    assert VidSTG().evaluate([clip(truth, predicted)])["declarative/msIoU"] == 100


def test_missing_frames() -> None:
    record = clip(frames(BOX, BOX, None, BOX), frames(BOX, None, None, None))
    assert VidSTG().evaluate([record])["declarative/msIoU"] == pytest.approx(100 / 3)
    with pytest.raises(ValueError, match="v: no box is predicted in 2 of 3 annotated frames, first in number 1"):
        VidSTG(strict=True).evaluate([record])
    for metric in (VidSTG(), PointingAccuracy()):
        with pytest.raises(ValueError, match="v: 1 predicted frames for 2 annotated ones"):
            metric.evaluate([clip(frames(BOX, BOX), frames(BOX))])


def test_the_frames_that_are_judged() -> None:
    """Five a second, without the last frame of the moment."""
    assert tube_frames(10, 23, 30) == [10, 16]
    assert tube_frames(10, 24, 30) == [10, 16, 22]
    assert tube_frames(0, 12, 29.97) == [0, 5, 10]
    assert tube_frames(4, 5, 25) == []
    with pytest.raises(ValueError, match="4 frames per second"):
        tube_frames(0, 10, 4)


def annotations(**changes: Any) -> dict[str, Any]:
    video = {"video_id": 7, "original_video_id": "o", "target_id": 3, "qtype": "declarative", "caption": "a man"}
    video |= {"fps": 5, "tube_start_frame": 2, "tube_end_frame": 5} | changes
    tube = {str(k): {"bbox": [k, 0, 10, 20]} for k in range(9)}
    return {"videos": [video], "trajectories": {"o": {"3": tube}}}


def test_records_from_the_files_of_the_data_set() -> None:
    boxes = [[[9, 9, 10, 10]], [[2, 0, 12, 20]], [[4, 0, 13, 20]], [[0, 0, 1, 1]]]
    predictions = {"7": {"frame_ids": [1, 2, 3, 2], "boxes": boxes}}
    (record,) = vidstg_records(annotations(), predictions)
    assert record["truth"] == [[("a man", [2, 0, 12, 20])], [("a man", [3, 0, 13, 20])]]
    assert record["predicted"] == [[("a man", boxes[1][0])], [("a man", boxes[2][0])]]  # of frame 2 the first
    assert VidSTG().evaluate([record])["declarative/msIoU"] == pytest.approx(95)
    (fewer,) = vidstg_records(annotations(tube_end_frame=6), predictions)
    assert fewer["predicted"][2] == []


@pytest.mark.parametrize(
    ("predictions", "told"),
    [
        ({}, "video 7: there is no prediction"),
        ({"7": {"frame_ids": [2, 3], "boxes": [[BOX]]}}, "video 7: 1 predicted boxes for 2 frames"),
    ],
)
def test_bad_files_are_named(predictions: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        vidstg_records(annotations(), predictions)


# ---- pointing -----------------------------------------------------------------------------------------------


def test_the_middle_of_the_box_points() -> None:
    nan = float("nan")
    cases = [
        ([0, 20, 40, 40], True),
        ([10, 10, 10, 10], True),  # borders belong to the box
        ([30, 50, 30, 50], True),
        ([29, 50, 33, 50], False),
        ([20, 48, 20, 53], False),
        ([0, 0, 19, 60], False),
        ([20, 0, 20, 19], False),
        ([20, 20, 20, nan], False),
        (None, False),
    ]
    for box, right in cases:
        found = PointingAccuracy().evaluate([clip(frames(BOX), frames(box))])
        assert found == {"pointing accuracy": 100.0 * right}, box


def test_frames_of_all_videos_count_alike() -> None:
    records = [clip(frames(BOX, None, BOX, BOX), frames(BOX, BOX, None, None)), clip(frames(BOX), frames(BOX))]
    assert PointingAccuracy().evaluate(records) == {"pointing accuracy": 50}
    assert PointingAccuracy().evaluate([records[1], clip(frames(BOX), [])]) == {"pointing accuracy": 50}
    metric = PointingAccuracy()
    assert metric.evaluate([clip(frames(None), frames(BOX))]) == metric.evaluate([]) == {}
    assert metric.absent == {"pointing accuracy": "no frame has a true box"}
    assert metric.evaluate(records) != {}
    assert metric.absent == {}


@pytest.mark.parametrize("kind", [VidSTG, PointingAccuracy])
def test_order_repetition_and_processes_change_nothing(kind: type[RecordMetric]) -> None:
    records = [random_clip(k) for k in range(7)]
    expected = kind().evaluate(records)
    assert expected != kind().evaluate([*records, records[0]])
    assert kind().evaluate(records[::-1]) == pytest.approx(expected)
    first, second = kind(), kind()
    first.update([0, 3, 4], [records[k] for k in (0, 3, 4)])
    second.update([1, 2, 5, 6, 0], [records[k] for k in (1, 2, 5, 6, 0)])
    first.merge_state(second)
    assert {name: value.item() for name, value in first.compute().items()} == pytest.approx(expected)
