"""Boxes of grounded captions: against loops and pycocotools on random clips, the rules one by one, bad records."""

from __future__ import annotations

import contextlib
import io
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from torch import Tensor

from groundzoo.tasks.metrics.iground import RELEASED, IGround, IGroundRules, grounding_scores
from groundzoo.tasks.metrics.phrase_similarity import EncodedSimilarity, exact_match, token_jaccard
from groundzoo.zoo.text.base import TextEncoder, TextFeatures
from groundzoo.zoo.text.transformer import TransformerText

Clip = dict[str, Any]
PHRASES = ["a man", "the man", "a red bowl", "a bowl", "a knife", "food"]
SIZE = [160, 120]
BASIC = ("AP50", "mIoU", "recall")


def clip(truth: list[Any], predicted: list[Any], name: str = "v_0") -> Clip:
    record = {"id": name, "video": "v", "caption": "a man cuts food", "references": ["a man cuts food"]}
    return {**record, "size": SIZE, "times_s": [], "truth": truth, "predicted": predicted}


def random_clip(seed: int, frames: int = 14) -> Clip:
    """A predictor that jitters, forgets, invents and confuses."""
    rng = random.Random(seed)

    def box() -> list[float]:
        x, y = rng.randrange(100), rng.randrange(70)
        return [x, y, x + rng.randrange(15, 55), y + rng.randrange(15, 45)]

    truth, predicted = [], []
    for _ in range(frames):
        true = [(rng.choice(PHRASES), box()) for _ in range(rng.randrange(5))]
        found = [
            (phrase if rng.random() < 0.7 else rng.choice(PHRASES), [c + rng.gauss(0, 4) for c in place])
            for phrase, place in true
            if rng.random() < 0.8
        ]
        found += [(rng.choice(PHRASES), box()) for _ in range(rng.randrange(2))]
        rng.shuffle(found)
        truth.append(true)
        predicted.append(found)
    return clip(truth, predicted, f"v_{seed}")


# ---- the same in loops ------------------------------------------------------------------------------------


def whole(box: Sequence[float], cut: bool) -> list[int]:
    return [int(min(max(c, 0), SIZE[i % 2])) if cut else int(c) for i, c in enumerate(box)]


def iou(a: list[int], b: list[int]) -> float:
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(w, 0) * max(h, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if union else 0.0


def looped_recall(record: Clip, early_stop: bool) -> float:
    found = count = 0
    for truth, predicted in zip(record["truth"], record["predicted"], strict=True):
        pairs = [
            (iou(whole(t, False), whole(p, True)), token_jaccard([name], [phrase]).item() >= 0.5, i, j)
            for i, (phrase, t) in enumerate(truth)
            for j, (name, p) in enumerate(predicted)
        ]
        used: set[str] = set()
        for overlap, alike, i, j in sorted(pairs, key=lambda pair: -pair[0]):
            if {f"t{i}", f"p{j}"} & used:
                continue
            if overlap < 0.5 or (not alike and early_stop):
                break
            if alike:
                used |= {f"t{i}", f"p{j}"}
                found += 1
        count += len(truth)
    return found / count


def looped_miou(record: Clip) -> float:
    means = []
    for truth, predicted in zip(record["truth"], record["predicted"], strict=True):
        if truth and predicted:
            pairs = [iou(whole(t, False), whole(p, True)) for _, t in truth for _, p in predicted]
            means.append(sum(pairs) / len(pairs))
    return sum(means) / len(means)


def coco(records: list[Clip]) -> list[float]:
    """AP over IoUs and AP50 of pycocotools, all frames of the clips together."""
    api = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    images: list[Any] = []
    true: list[Any] = []
    found: list[Any] = []
    for record in records:
        for k, (truth, predicted) in enumerate(zip(record["truth"], record["predicted"], strict=True)):
            name = f"{record['id']}_{k}"
            images.append({"id": name})
            for kept, boxes, cut in ((true, truth, False), (found, predicted, True)):
                for _, place in boxes:
                    x, y, right, bottom = whole(place, cut)
                    box = {"bbox": [x, y, right - x, bottom - y], "area": (right - x) * (bottom - y)}
                    kept.append({"image_id": name, "category_id": 1, "iscrowd": 0, "id": len(kept) + 1, **box})
    with contextlib.redirect_stdout(io.StringIO()):
        truths = api.COCO()
        truths.dataset = {"images": images, "annotations": true, "categories": [{"id": 1}]}
        truths.createIndex()
        run = evaluation.COCOeval(truths, truths.loadRes([{**box, "score": 1.0} for box in found]), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return [float(value) for value in run.stats[:2]]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("early_stop", [False, True])
def test_recall_and_miou_against_loops(seed: int, early_stop: bool) -> None:
    records = [random_clip(10 * seed + k, frames=9 + k) for k in range(3)]
    found = grounding_scores(records, rules=IGroundRules(early_stop=early_stop))
    recalls = [looped_recall(record, early_stop) for record in records]
    assert found["recall"] == pytest.approx(sum(recalls) / 3, abs=1e-12)
    assert found["mIoU"] == pytest.approx(sum(looped_miou(record) for record in records) / 3, abs=1e-12)


def test_the_early_stop_matters_on_random_clips() -> None:
    records = [random_clip(k) for k in range(4)]
    both = [grounding_scores(records, rules=IGroundRules(early_stop=stop))["recall"] for stop in (False, True)]
    assert both[0] > both[1] + 0.02


@pytest.mark.parametrize("seed", range(4))
def test_precision_against_pycocotools(seed: int) -> None:
    """More than ten frames, so that their order as strings is not that of time."""
    records = [random_clip(10 * seed + k, frames=12 + k) for k in range(3)]
    expected = sum(coco([record])[1] for record in records) / 3
    assert grounding_scores(records)["AP50"] == pytest.approx(expected, abs=1e-9)
    pooled = grounding_scores(records, rules=IGroundRules(pooled=True))
    assert [pooled["AP"], pooled["AP50"]] == pytest.approx(coco(records), abs=1e-9)


def test_of_equal_overlaps_the_last_truth_is_taken() -> None:
    """Then the second box finds none: its own is gone. (pycocotools says 0.5 as well.)"""
    truth = [[("a", [0, 0, 40, 20]), ("a", [20, 0, 60, 20])]]
    records = [clip(truth, [[("a", [10, 0, 50, 20]), ("a", [22, 0, 62, 20])]])]
    assert coco(records)[1] == pytest.approx(grounding_scores(records)["AP50"])
    assert grounding_scores(records)["AP50"] < 0.6


# ---- oracles and empty answers ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rules", [IGroundRules(), replace(RELEASED, box_format="xyxy"), IGroundRules(pooled=True)]
)
def test_a_perfect_answer_has_everything(rules: IGroundRules) -> None:
    records = [random_clip(k) for k in range(4)]
    perfect = [record | {"predicted": record["truth"]} for record in records]
    found = grounding_scores(perfect, exact_match, rules)
    assert (found["AP50"], found["recall"]) == (1, 1)
    assert 0 < found["mIoU"] < 1  # of all pairs, also of different things
    one = [clip([[("a", [0, 0, 9, 9])], [], [("b", [3, 3, 50, 60])]], [[("a", [0, 0, 9, 9])], [], []])]
    assert grounding_scores(one, rules=rules)["mIoU"] == 1
    two = [("a", [0, 0, 9, 9]), ("a", [50, 50, 60, 60])]
    assert grounding_scores([clip([two], [two])], rules=rules)["mIoU"] == 0.5


@pytest.mark.parametrize("predicted", [[], [[]] * 14])
def test_an_empty_answer_has_nothing(predicted: list[Any]) -> None:
    record = random_clip(0) | {"predicted": predicted}
    assert grounding_scores([record]) == dict.fromkeys(BASIC, 0.0)
    perfect = random_clip(1)
    perfect["predicted"] = perfect["truth"]
    found = grounding_scores([record, perfect])
    assert (found["AP50"], found["recall"]) == (0.5, 0.5)
    released = grounding_scores([record, perfect], rules=replace(RELEASED, box_format="xyxy"))
    assert released["AP50"] == (0.5 if predicted else 1)


def test_clips_without_truth() -> None:
    right, bare = [("a", [0, 0, 9, 9])], clip([[], []], [[("a", [0, 0, 9, 9])], []], "bare")
    records = [clip([right, []], [right, right]), bare]
    assert grounding_scores(records) == grounding_scores(records[:1]) != {}
    assert grounding_scores([bare]) == grounding_scores([]) == {}
    found = grounding_scores(records, rules=RELEASED)
    assert (found["AP50"], found["recall"]) == (0, 0.5)  # (1 - 1) / 2
    metric = IGround(("BLEU",), "simple")
    assert set(metric.evaluate([bare])) == {f"BLEU{n}" for n in range(1, 5)}
    assert all(
        "no clip has a true box" in metric.absent[f"{name}/AP50, mIoU, recall"] for name in ("all", "centre")
    )


# ---- rules --------------------------------------------------------------------------------------------------


def test_the_order_of_boxes_in_a_frame_does_not_matter() -> None:
    """But for AP: with equal scores it is the ranking."""
    record, rng = random_clip(5), random.Random(0)
    other = record | {key: [rng.sample(f, len(f)) for f in record[key]] for key in ("truth", "predicted")}
    first, second = grounding_scores([record]), grounding_scores([other])
    assert (second["mIoU"], second["recall"]) == (pytest.approx(first["mIoU"]), first["recall"])


def test_a_pair_that_disagrees_is_passed_over_or_ends_the_frame() -> None:
    truth = [[("a man", [0, 0, 40, 40]), ("a bowl", [50, 50, 90, 90])]]
    predicted = [[("food", [0, 0, 40, 40]), ("a bowl", [50, 50, 90, 88])]]
    assert grounding_scores([clip(truth, predicted)])["recall"] == 0.5
    assert grounding_scores([clip(truth, predicted)], rules=IGroundRules(early_stop=True))["recall"] == 0


def test_each_box_is_used_once() -> None:
    right = ("a man", [0, 0, 40, 40])
    assert grounding_scores([clip([[right, right]], [[right]])])["recall"] == 0.5
    assert grounding_scores([clip([[right]], [[right, right]])])["recall"] == 1


def test_phrases_decide_recall_alone() -> None:
    record = clip([[("a red bowl", [0, 0, 40, 40])]], [[("a bowl", [0, 0, 40, 40])]])
    assert grounding_scores([record]) == dict.fromkeys(BASIC, 1.0)
    assert grounding_scores([record], exact_match) == {"AP50": 1, "mIoU": 1, "recall": 0}


def test_thresholds_belong_to_a_hit() -> None:
    """An overlap of exactly one half, and a similarity of exactly one half."""
    truth = [[("a man", [0, 0, 40, 40])]]
    half = grounding_scores([clip(truth, [[("a", [0, 0, 40, 20])]])])
    assert half == {"AP50": 1, "mIoU": 0.5, "recall": 1}
    less = grounding_scores([clip(truth, [[("a", [0, 0, 40, 19])]])])
    assert (less["AP50"], less["recall"]) == (0, 0)


def test_the_released_geometry() -> None:
    """[20, 10, 30, 40] and [20, 10, 30, 20] as x, y, w, h are [20, 10, 10, 30] and [20, 10, 10, 10]."""
    record = clip([[("a", [20, 10, 30, 40])]], [[("a", [20, 10, 30, 20])]])
    assert grounding_scores([record])["mIoU"] == pytest.approx(1 / 3)
    wrong = [(10 - 20 + 1) * (30 - 10 + 1), (10 - 20 + 1) * (10 - 10 + 1)]
    assert grounding_scores([record], rules=RELEASED)["mIoU"] == 0 / (wrong[0] + wrong[1])
    record = clip([[("a", [2, 3, 12, 23])]], [[("a", [2, 3, 12, 18])]])  # as corners: 9 x 18 and 9 x 13 pixels
    found = grounding_scores([record], rules=RELEASED)
    assert found == {"AP50": 1, "mIoU": pytest.approx(9 * 13 / (9 * 18)), "recall": 1}


def test_boxes_are_cut_at_the_borders_and_at_whole_pixels() -> None:
    record = clip([[("a", [0, 100, 160, 120])]], [[("a", [-9.5, 100.9, 200, 300])]])
    assert grounding_scores([record])["mIoU"] == 1


def test_the_centre_is_the_middle_frame() -> None:
    right, wrong = [("a man", [0, 0, 40, 40])], [("a man", [50, 50, 60, 60])]
    for middle, count in ((2, 4), (2, 5), (0, 1)):
        truth = [right] * count
        predicted = [right if k == middle else wrong for k in range(count)]
        found = IGround(("BLEU",), "simple").evaluate([clip(truth, predicted)])
        assert (found["centre/AP50"], found["centre/mIoU"], found["centre/recall"]) == (100, 100, 100)
        assert found["all/recall"] == pytest.approx(100 / count)
    hidden = clip([right, [], right], [right] * 3)
    assert "centre/AP50" not in IGround(("BLEU",), "simple").evaluate([hidden])


def test_released_captions_are_those_of_answers() -> None:
    records = [random_clip(0), random_clip(1) | {"predicted": [], "caption": ""}]
    default = IGround(("BLEU",), "simple").evaluate(records)
    assert IGround(("BLEU",), "simple", rules=RELEASED).evaluate(records)["BLEU1"] == pytest.approx(100)
    assert default["BLEU1"] < 90


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"predicted": [[]]}, "v_0: 1 predicted frames for 14 annotated ones"),
        ({"predicted": [[("a", [1.0, 2.0, 3.0])]] + [[]] * 13}, r"v_0: a box in 'predicted' is \[1.0, 2.0, 3.0\]"),
        ({"truth": [[("a", [1.0, 2.0, 3.0, float("nan")])]] + [[]] * 13}, "v_0: a box in 'truth' is .* needed"),
    ],
)
def test_bad_records_are_named(change: Clip, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        grounding_scores([random_clip(0) | change])


def test_order_repetition_and_processes_change_nothing() -> None:
    records = [random_clip(k, frames=11 + k) for k in range(6)]

    def metric() -> IGround:
        return IGround(("CIDEr", "BLEU"), "simple")

    expected = metric().evaluate(records)
    assert {f"{part}/{name}" for part in ("all", "centre") for name in BASIC} < set(expected)
    assert metric().evaluate(records[::-1]) == pytest.approx(expected)
    first, second = metric(), metric()
    first.update([0, 4, 5], [records[k] for k in (0, 4, 5)])
    second.update([1, 2, 3, 0], [records[k] for k in (1, 2, 3, 0)])
    first.merge_state(second)
    assert {name: value.item() for name, value in first.compute().items()} == pytest.approx(expected)


# ---- phrases --------------------------------------------------------------------------------------------------


def test_similarity_of_words() -> None:
    one, two = ["A  man", "a red bowl", ""], ["a man", "bowl a red", "a bowl", ""]
    assert exact_match(one, two).tolist() == [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]
    shares = [[1, 1 / 4, 1 / 3, 0], [1 / 4, 1, 2 / 3, 0], [0, 0, 0, 1]]
    assert torch.allclose(token_jaccard(one, two), torch.tensor(shares, dtype=torch.float64))
    for similarity in (exact_match, token_jaccard):
        assert similarity([], two).shape == (0, 4)
        assert similarity(one, []).shape == (3, 0)


class Letters(TextEncoder):
    """Counts of the letters a to d; remembers what it was asked."""

    dim = 4

    def __init__(self) -> None:
        super().__init__(trainable=True)
        self.asked: list[list[str]] = []

    def forward(self, texts: Sequence[str]) -> TextFeatures:
        self.asked.append(list(texts))
        counts = torch.tensor([[float(text.count(c)) for c in "abcd"] for text in texts])
        return TextFeatures(counts[:, None], torch.ones(len(texts), 1, dtype=torch.bool), counts)


def test_encoded_similarity_is_a_cosine_and_encodes_once() -> None:
    encoder = Letters()
    similarity = EncodedSimilarity(encoder, batch_size=2)
    assert not encoder.training
    found = similarity(["ab", "aaabbb", "c"], ["a", "ab"])
    half = 2**-0.5
    assert torch.allclose(found, torch.tensor([[half, 1], [half, 1], [0, 0]], dtype=torch.float64))
    assert encoder.asked == [["ab", "aaabbb"], ["c", "a"]]
    assert similarity(["a", "d"], ["c"]).tolist() == [[0], [0]]
    assert encoder.asked[2:] == [["d"]]
    assert similarity([], ["a"]).shape == (0, 1)


def test_encoded_similarity_as_in_the_paper(tmp_path: Path) -> None:
    """Mean over all tokens of BERT, special ones included; batches with padding change nothing."""
    tiny_models.bert_tokenizer().save_pretrained(tmp_path)
    tiny_models.save(tmp_path, "bert", "BertModel", vocab_size=30, **tiny_models.TOWER)
    encoder = TransformerText(tmp_path)
    phrases = [" ".join(tiny_models.WORDS[:n]) for n in (1, 3, 2)]

    def mean(phrase: str) -> Tensor:
        tokens = encoder.tokenizer([phrase], "cpu").inputs
        with torch.no_grad():
            return encoder.network(tokens["input_ids"]).last_hidden_state[0].mean(0)

    expected = torch.stack([mean(phrase) for phrase in phrases])
    found = EncodedSimilarity(encoder)(phrases, phrases[::-1])
    cosines = torch.nn.functional.cosine_similarity(expected[:, None], expected.flip(0)[None], dim=-1)
    assert torch.allclose(found.float(), cosines, atol=1e-5)
    record = clip([[("a", [0, 0, 40, 40])]], [[("a", [0, 0, 40, 40])]])
    assert grounding_scores([record], EncodedSimilarity(encoder))["recall"] == 1
