"""The grounding metrics' rules one by one, against loops on random data, and what a bad submission is told."""

from __future__ import annotations

import json
import random
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from groundzoo.tasks.metrics.entity_grounding import (
    EntityGrounding,
    evaluate_generated,
    evaluate_gt,
    official_submission,
)

LOOPS = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "bench_entity_grounding.py"))
NAMES = ["man", "dog", "ball", "they", "hat", "cup"]
EVERY = [f"{n}_{m}{r}" for m in ("all", "loc") for r in ("", "_per_sent") for n in ("prec", "recall", "f1")]


def stem(word: str) -> str:
    return word.lower().rstrip("s")


def numbers(values: dict[str, Any]) -> dict[str, float]:
    return {name: values[name] for name in EVERY}


def submission(results: dict[str, Any]) -> dict[str, Any]:
    return {"results": results}


def words(*named: tuple[str, int, list[list[float]]]) -> dict[str, Any]:
    """What is submitted for a segment: class, index and boxes of each word."""
    return {
        "clss": [n for n, _, _ in named],
        "idx_in_sent": [i for _, i, _ in named],
        "bbox_for_all_frames": [b for _, _, b in named],
    }


def segment(tokens: str, *boxes: tuple[list[str], list[int], int, list[float]]) -> dict[str, Any]:
    """An annotated segment: classes, words, frame and place of each box."""
    names = ("process_clss", "process_idx", "frame_ind", "process_bnd_box")
    columns = {name: [box[k] for box in boxes] for k, name in enumerate(names)}
    return {"tokens": tokens.split(), "timestamps": [0.0, 1.0], "crowds": [0] * len(boxes), **columns}


def world(**segments: dict[str, Any]) -> dict[str, Any]:
    return {"annotations": {"v": {"segments": segments}}}


def random_box(rng: random.Random) -> list[float]:
    """On a coarse grid, so that an IoU is often exactly one half, and sometimes without a size."""
    x, y = (float(rng.choice((0, 10, 20))) for _ in "xy")
    w, h = (float(rng.choice((9, 19, 39))) for _ in "xy")
    return [x, y, x, y] if rng.random() < 0.08 else [x, y, x + w, y + h]


def random_case(seed: int) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], list[str]]:
    """Reference, submission on true sentences, on generated ones, and the split."""
    rng = random.Random(seed)
    reference: dict[str, Any] = {"annotations": {}}
    gt: dict[str, Any] = {}
    gen: dict[str, Any] = {}
    for v in range(6):
        segments, by_gt, by_gen = {}, {}, {}
        for s in range(rng.randint(1, 5)):
            tokens = [rng.choice([*NAMES, "dogs", "The", "runs", ""]) for _ in range(8)]
            boxes = []
            for _ in range(rng.choice((0, 1, 2, 4))):
                several = rng.sample(range(8), rng.choice((0, 1, 1, 1, 2)))
                boxes.append(([rng.choice(NAMES) for _ in several], several, rng.randrange(10), random_box(rng)))
            segments[str(s)] = segment("", *boxes) | {"tokens": tokens}
            for given in (by_gt, by_gen):
                if rng.random() < 0.85:
                    many = [(rng.choice(NAMES), rng.randrange(8)) for _ in range(rng.choice((0, 2, 5, 9)))]
                    given[str(s)] = words(*((n, i, [random_box(rng) for _ in range(10)]) for n, i in many))
        reference["annotations"][f"v{v}"] = {"segments": segments}
        if rng.random() < 0.85:
            gt[f"v{v}"] = by_gt
        if rng.random() < 0.85:
            gen[f"v{v}"] = by_gen
    return reference, submission(gt), submission(gen), [f"v{v}" for v in range(5)]


@pytest.mark.parametrize("iou", [0.3, 0.5])
@pytest.mark.parametrize("seed", range(40))
def test_against_loops(seed: int, iou: float) -> None:
    reference, gt, gen, split = random_case(seed)
    expected = LOOPS["plain_gt"](reference, gt, split, iou)
    assert evaluate_gt(reference, gt, split, iou) == pytest.approx(expected, abs=1e-12)
    expected = LOOPS["plain_generated"](reference, gen, split, stem, iou)
    assert numbers(evaluate_generated(reference, gen, split, stem, iou)) == pytest.approx(expected, abs=1e-12)


def shuffled(results: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    videos = [(v, [*s.items()]) for v, s in results.items()]
    rng.shuffle(videos)
    for _, items in videos:
        rng.shuffle(items)
    return {v: dict(items) for v, items in videos}


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_videos_and_segments_does_not_matter(seed: int) -> None:
    reference, gt, gen, split = random_case(seed)
    rng = random.Random(seed)
    for data in (gt, gen):
        other = submission(shuffled(data["results"], rng))
        mixed = {"annotations": dict(rng.sample([*reference["annotations"].items()], 6))}
        first, second = (evaluate_gt(r, d, split) for r, d in ((reference, data), (mixed, other)))
        assert first == pytest.approx(second, abs=1e-12)
        first, second = (
            numbers(evaluate_generated(r, d, split, stem)) for r, d in ((reference, data), (mixed, other))
        )
        assert first == pytest.approx(second, abs=1e-12)


WHOLE = [0.0, 0.0, 99.0, 99.0]
AWAY = [200.0, 200.0, 299.0, 299.0]
SEEN = [WHOLE] * 10
LOST = [AWAY] * 10
SENTENCE = segment("The man throws balls and a hat", (["man"], [1], 2, WHOLE), (["ball"], [3], 4, WHOLE))


def generated(*named: tuple[str, int, list[list[float]]], **more: dict[str, Any]) -> dict[str, Any]:
    return evaluate_generated(world(a=SENTENCE), submission({"v": {"a": words(*named), **more}}), ["v"], stem)


def test_all_found() -> None:
    assert numbers(generated(("man", 0, SEEN), ("ball", 5, SEEN))) == dict.fromkeys(EVERY, 1.0)


def test_a_class_that_is_not_in_the_sentence_counts_in_all_only() -> None:
    good = generated(("man", 0, SEEN), ("ball", 5, SEEN))
    worse = generated(("man", 0, SEEN), ("ball", 5, SEEN), ("dog", 7, SEEN))
    for name in EVERY:
        lower = name.endswith("all_per_sent") and not name.startswith("recall")
        assert (worse[name] < good[name]) == lower, name
    assert worse["prec_per_class_all"]["dog"] == [0]
    # class means are summed over the classes of true sentences: it takes effect where the class is among them
    two = world(a=SENTENCE, b=segment("A dog", (["dog"], [1], 0, WHOLE)))
    found = {"b": words(("dog", 1, SEEN))}
    values = [
        evaluate_generated(two, submission({"v": found | {"a": words(*named)}}), ["v"], stem)
        for named in (
            [("man", 0, SEEN), ("ball", 5, SEEN)],
            [("man", 0, SEEN), ("ball", 5, SEEN), ("dog", 7, SEEN)],
        )
    ]
    assert values[1]["f1_all"] < values[0]["f1_all"] == values[0]["f1_loc"] == values[1]["f1_loc"] == 1


def test_a_class_of_the_sentence_without_a_box_is_ignored() -> None:
    with_hat = generated(("man", 0, SEEN), ("ball", 5, SEEN), ("hat", 7, LOST))
    assert numbers(with_hat) == dict.fromkeys(EVERY, 1.0)


def test_the_lemma_decides_which_class_is_of_the_sentence() -> None:
    truth = world(a=segment("The man has dogs", (["man"], [1], 0, WHOLE)))
    given = submission({"v": {"a": words(("man", 1, SEEN), ("dog", 3, SEEN))}})
    assert evaluate_generated(truth, given, ["v"], stem)["prec_all_per_sent"] == 1
    assert evaluate_generated(truth, given, ["v"], str)["prec_all_per_sent"] == 0.5
    given = submission({"v": {"a": words(("man", 1, SEEN), ("dogs", 3, SEEN))}})  # the class has a lemma, too
    truth["annotations"]["v"]["segments"]["a"]["tokens"][3] = "dog"
    assert evaluate_generated(truth, given, ["v"], stem)["prec_all_per_sent"] == 1


def test_a_word_that_is_annotated_does_not_excuse_another_class() -> None:
    """The class of an annotated word may differ from its lemma: only words without a box excuse."""
    truth = world(a=segment("The dog", (["man"], [1], 0, WHOLE)))
    given = submission({"v": {"a": words(("dog", 1, SEEN))}})
    assert evaluate_generated(truth, given, ["v"], stem)["prec_per_class_all"] == {"dog": [0]}


def test_a_missing_word_counts_in_all_only() -> None:
    values = generated(("man", 0, SEEN))
    assert (values["recall_all_per_sent"], values["recall_loc_per_sent"]) == (0.5, 1.0)
    assert (values["recall_all"], values["prec_all"]) == (0.5, 0.5)
    assert values["recall_per_class_all"] == {"man": [1], "ball": [0]}


def test_repeated_classes_are_repeated_trials_of_precision_and_the_first_is_that_of_recall() -> None:
    values = generated(("man", 0, SEEN), ("man", 2, LOST), ("man", 3, LOST), ("ball", 5, SEEN))
    assert values["prec_per_class_all"] == {"man": [1, 0, 0], "ball": [1]}
    assert values["recall_per_class_all"] == {"man": [1], "ball": [1]}
    swapped = generated(("man", 0, LOST), ("man", 2, SEEN), ("ball", 5, SEEN))
    assert swapped["recall_per_class_all"]["man"] == [0]


def test_precision_looks_at_the_first_word_of_a_class() -> None:
    truth = world(a=segment("a man and a man", (["man"], [4], 0, AWAY), (["man"], [1], 0, WHOLE)))
    for boxes, precise, recalled in ((SEEN, [1], [0, 1]), (LOST, [0], [0, 1])):
        values = evaluate_generated(truth, submission({"v": {"a": words(("man", 0, boxes))}}), ["v"], stem)
        assert values["prec_per_class_all"]["man"] == precise
        assert sorted(values["recall_per_class_all"]["man"]) == recalled


@pytest.mark.parametrize("results", [{}, {"v": {}}, {"v": {"b": words()}}])
def test_a_missing_segment_is_a_miss(results: dict[str, Any]) -> None:
    truth = world(a=SENTENCE, b=segment("nothing"))
    assert evaluate_gt(truth, submission(results), ["v"]) == {"GT_localization_accuracy": 0}
    values = evaluate_generated(truth, submission(results), ["v"], stem)
    assert numbers(values) == dict.fromkeys(EVERY, 0.0)  # the original divides by zero here
    assert values["recall_per_class_all"] == {"man": [0], "ball": [0]}
    assert values["num_vocab_in_split"] == 0


def test_a_missing_segment_lowers_recall_only() -> None:
    truth = world(a=SENTENCE, b=SENTENCE)
    full = words(("man", 0, SEEN), ("ball", 5, SEEN))
    values = evaluate_generated(truth, submission({"v": {"a": full}}), ["v"], stem)
    for mode in ("all", "loc"):
        assert (values[f"prec_{mode}"], values[f"recall_{mode}"]) == (1, 0.5)
        assert values[f"f1_{mode}_per_sent"] == 1


def test_segments_without_boxes_enlarge_the_denominator() -> None:
    truth = world(a=SENTENCE, b=segment("nothing to see"))
    full = words(("man", 0, SEEN), ("ball", 5, SEEN))
    for more, expected in (({}, 1.0), ({"b": words()}, 0.5)):
        values = evaluate_generated(truth, submission({"v": {"a": full, **more}}), ["v"], stem)
        assert (values["f1_all_per_sent"], values["f1_all"]) == (expected, 1)


def test_a_sentence_without_common_words_is_left_out_of_loc() -> None:
    truth = world(a=SENTENCE, b=SENTENCE)
    full, other = words(("man", 0, SEEN), ("ball", 5, SEEN)), words(("cup", 0, SEEN))
    values = evaluate_generated(truth, submission({"v": {"a": full, "b": other}}), ["v"], stem)
    assert (values["f1_all_per_sent"], values["f1_loc_per_sent"]) == (0.5, 1)


def accuracy(box: list[float], *true: tuple[int, list[float]], frame: int = 3, iou: float = 0.5) -> float:
    """Of one word whose box is `box` in one frame and away in the others."""
    boxes = [list(AWAY) for _ in range(10)]
    boxes[frame] = box
    truth = world(a=segment("x", *((["man"], [0], f, b) for f, b in true)))
    given = submission({"v": {"a": {"idx_in_sent": [0], "bbox_for_all_frames": [boxes]}}})
    return evaluate_gt(truth, given, ["v"], iou)["GT_localization_accuracy"]


def test_several_boxes_of_a_word_take_the_best() -> None:
    assert accuracy(WHOLE, (0, WHOLE), (3, AWAY), (3, WHOLE)) == 1
    assert accuracy(WHOLE, (3, AWAY), (0, WHOLE)) == 0


def test_only_the_annotated_frame_counts() -> None:
    assert [accuracy(WHOLE, (f, WHOLE)) for f in range(10)] == [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]


def test_an_overlap_of_exactly_the_threshold_is_none() -> None:
    """100 of 200 pixels with the last pixel counted; without it the overlap would be more than one half."""
    half, more = [0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 9.0, 10.0]
    true = [0.0, 0.0, 9.0, 19.0]
    assert accuracy(half, (3, true)) == 0
    assert accuracy(half, (3, true), iou=0.49) == 1
    assert accuracy(more, (3, true)) == 1
    assert accuracy([0.0, 0.0, 6.0, 0.0], (3, [0.0, 0.0, 9.0, 0.0]), iou=0.7) == 0  # in float32, too


def test_the_last_pixel_belongs_to_a_box() -> None:
    """Boxes that share one column of pixels: 1 of 3, not 0."""
    assert accuracy([0.0, 0.0, 1.0, 0.0], (3, [1.0, 0.0, 2.0, 0.0]), iou=0.3) == 1
    assert accuracy([0.0, 0.0, 1.0, 0.0], (3, [1.0, 0.0, 2.0, 0.0]), iou=0.34) == 0


@pytest.mark.parametrize("point", [[5.0, 5.0, 5.0, 5.0]])
def test_points_overlap_with_nothing(point: list[float]) -> None:
    for predicted, true in ((point, point), (point, [5.0, 5.0, 6.0, 5.0]), ([5.0, 5.0, 6.0, 5.0], point)):
        assert accuracy(predicted, (3, true), iou=0.0) == 0
    assert accuracy([5.0, 5.0, 6.0, 5.0], (3, [5.0, 5.0, 6.0, 5.0]), iou=0.0) == 1  # a line is no point


def test_boxes_inside_out_are_wrong() -> None:
    assert accuracy([99.0, 99.0, 0.0, 0.0], (3, WHOLE)) == 0
    assert accuracy([float("nan")] * 4, (3, WHOLE)) == 0


def test_classes_weigh_the_same() -> None:
    truth = world(a=SENTENCE, b=segment("a man", (["man"], [1], 0, WHOLE)))
    given = submission({"v": {"a": words(("", 3, SEEN)), "b": words(("", 1, SEEN))}})
    assert evaluate_gt(truth, given, ["v"])["GT_localization_accuracy"] == pytest.approx((1 / 2 + 1) / 2)


def test_the_class_of_a_word_is_that_of_its_first_box() -> None:
    truth = world(a=segment("x", (["man", "dog"], [0, 1], 0, WHOLE), (["dog"], [0], 0, WHOLE)))
    values = evaluate_generated(truth, submission({}), ["v"], stem)
    assert values["recall_per_class_all"] == {"man": [0], "dog": [0]}


def test_videos_outside_the_split_do_not_count_but_for_the_denominator() -> None:
    truth = world(a=SENTENCE)
    truth["annotations"]["other"] = {"segments": {"a": SENTENCE}}
    full = {"a": words(("man", 1, SEEN), ("ball", 3, SEEN))}
    given = submission({"v": full, "other": {"a": words(("man", 1, LOST))}})
    assert evaluate_gt(truth, given, ["v"])["GT_localization_accuracy"] == 1
    values = evaluate_generated(truth, given, ["v"], stem)
    assert (values["f1_all"], values["f1_all_per_sent"]) == (1, 0.5)


def spoiled(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    given = submission({"v": {"a": words(("man", 1, SEEN), ("ball", 3, SEEN))}})
    given = json.loads(json.dumps(given))  # words share no boxes
    change(given["results"])
    return given


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda r: r["v"]["a"]["bbox_for_all_frames"][1].pop(), ["v", "a", "word 1 (ball)", "9 boxes", "10"]),
        (lambda r: r["v"]["a"]["bbox_for_all_frames"][0][4].pop(), ["v", "a", "word 0 (man)", "3 numbers"]),
        (lambda r: r["v"]["a"]["bbox_for_all_frames"][0].clear(), ["v", "a", "word 0 (man)", "0 boxes"]),
        (lambda r: r["v"]["a"]["bbox_for_all_frames"].pop(), ["v", "a", "one entry a word", "1"]),
        (lambda r: r["v"]["a"]["idx_in_sent"].pop(), ["v", "a", "one entry a word", "'idx_in_sent': 1"]),
        (lambda r: r["v"]["a"].pop("bbox_for_all_frames"), ["v", "a", "no 'bbox_for_all_frames'"]),
        (lambda r: r.update(w=r["v"]), ["video w", "not in the annotation"]),
    ],
)
def test_a_bad_submission_is_told_where(change: Callable[[dict[str, Any]], Any], told: list[str]) -> None:
    given = spoiled(change)
    for call in (
        lambda: evaluate_gt(world(a=SENTENCE), given, ["v"]),
        lambda: evaluate_generated(world(a=SENTENCE), given, ["v"], stem),
    ):
        with pytest.raises(ValueError, match="submission") as error:
            call()
        assert [part for part in told if part not in str(error.value)] == []


def test_without_classes_true_sentences_only() -> None:
    given = spoiled(lambda r: r["v"]["a"].pop("clss"))
    assert evaluate_gt(world(a=SENTENCE), given, ["v"]) == {"GT_localization_accuracy": 1}
    with pytest.raises(ValueError, match=r"segment a .*no 'clss'"):
        evaluate_generated(world(a=SENTENCE), given, ["v"], stem)
    given["results"]["v"]["a"]["bbox_for_all_frames"][1].pop()
    with pytest.raises(ValueError, match=r"word 1 \(at index 3\)"):
        evaluate_gt(world(a=SENTENCE), given, ["v"])


def records_of(seed: int) -> tuple[EntityGrounding, list[dict[str, Any]], dict[str, float]]:
    reference, gt, gen, split = random_case(seed)
    records = [
        {
            "video": video,
            "segment": key,
            "gt": gt["results"].get(video, {}).get(key),
            "generated": gen["results"].get(video, {}).get(key),
        }
        for video in split
        for key in reference["annotations"][video]["segments"]
    ]
    results = [submission({v: d["results"][v] for v in split if v in d["results"]}) for d in (gt, gen)]
    values = evaluate_generated(reference, results[1], split, stem)
    expected = {
        "grounding/GT_accuracy": 100 * evaluate_gt(reference, results[0], split)["GT_localization_accuracy"]
    }
    ours = {"prec": "precision", "recall": "recall", "f1": "F1"}
    for name in EVERY:
        first, rest = name.split("_", 1)
        expected[f"grounding/{ours[first]}_{rest}"] = 100 * values[name]
    return EntityGrounding(reference, split, stem), records, expected


@pytest.mark.parametrize("size", [1, 4, 100])
def test_batches_order_and_repetitions_do_not_matter(size: int) -> None:
    metric, records, expected = records_of(3)
    order = torch.randperm(len(records), generator=torch.Generator().manual_seed(0)).tolist()
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        metric.update(rows, [records[i] for i in rows])
    metric.update([2, 0], [records[2], records[0]])  # repeated by a sampler
    assert {name: v.item() for name, v in metric.compute().items()} == pytest.approx(expected, abs=1e-9)
    assert metric.absent == {}


def test_what_was_not_tried_is_absent() -> None:
    metric, records, expected = records_of(3)
    for part, left in (("gt", "grounding/GT_accuracy"), ("generated", "grounding/F1_all")):
        metric.reset()
        metric.update(range(len(records)), [r | {part: None} for r in records])
        values = metric.compute()
        assert left in metric.absent
        assert left not in values
        assert {*values, *metric.absent} == {*expected}
        assert all(value.item() == pytest.approx(expected[name], abs=1e-9) for name, value in values.items())


def test_a_split_without_boxes_has_no_values() -> None:
    metric = EntityGrounding(world(a=segment("a man")), ["v"], stem)
    metric.update([0], [{"video": "v", "segment": "a", "gt": words(), "generated": words()}])
    assert metric.compute() == {}
    assert len(metric.absent) == 13
    assert "no boxes" in metric.absent["grounding/GT_accuracy"]


def test_fewer_frames() -> None:
    metric = EntityGrounding(world(a=SENTENCE), ["v"], stem, frames=5)
    full = words(("man", 1, SEEN[:5]), ("ball", 3, SEEN[:5]))
    metric.update([0], [{"video": "v", "segment": "a", "gt": full, "generated": full}])
    assert [value.item() for value in metric.compute().values()] == [100] * 13
    metric.update([1], [{"video": "v", "segment": "b", "gt": words(("man", 1, SEEN)), "generated": None}])
    with pytest.raises(ValueError, match=r"segment b, word 0 .*10 boxes; 5 boxes"):
        metric.compute()


def test_the_submission_has_the_official_form() -> None:
    full = words(("man", 1, SEEN))
    records: list[dict[str, Any]] = [
        {"video": "v", "segment": "0", "gt": full, "generated": None},
        {"video": "v", "segment": "1", "gt": None, "generated": full},
        {"video": "w", "segment": "0", "gt": full, "generated": None},
    ]
    gt, gen = (json.loads(json.dumps(official_submission(records, mode))) for mode in ("GT", "gen"))
    assert gt["results"] == {"v": {"0": full}, "w": {"0": full}}
    assert gen["results"] == {"v": {"1": full}}
    assert (gt["eval_mode"], gen["eval_mode"]) == ("GT", "gen")
    assert gt["external_data"] == {"used": False, "details": ""}


def test_a_segment_is_submitted_once() -> None:
    record = {"video": "v", "segment": "0", "gt": words(), "generated": None}
    with pytest.raises(ValueError, match="video v, segment 0"):
        official_submission([record, record], "GT")
