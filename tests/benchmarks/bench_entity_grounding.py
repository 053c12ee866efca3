"""Time of the grounding metrics of ActivityNet-Entities against loops over words and the official program.

    python tests/benchmarks/bench_entity_grounding.py SHARED/golden/captioning/anet_entities_grounding
    python tests/benchmarks/bench_entity_grounding.py FOLDER --official ActivityNet-Entities/scripts

The golden videos are repeated under other names until there are enough segments. All ways must give equal numbers.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import statistics
import sys
import time
import types
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Words = dict[str, Any]


def overlap(predicted: list[float], true: list[float]) -> np.float32:
    """IoU of two boxes whose last pixel belongs to them."""
    p, t = np.float32(predicted), np.float32(true)
    if p[0] == p[2] and p[1] == p[3]:
        return np.float32(-1)
    if t[0] == t[2] and t[1] == t[3]:
        return np.float32(0)
    one, nothing = np.float32(1), np.float32(0)
    width = max(min(p[2], t[2]) - max(p[0], t[0]) + one, nothing)
    height = max(min(p[3], t[3]) - max(p[1], t[1]) + one, nothing)
    areas = [(b[2] - b[0] + one) * (b[3] - b[1] + one) for b in (p, t)]
    return width * height / (areas[0] + areas[1] - width * height)


def found(truth: Words, word: int, boxes: list[list[float]], iou: float) -> int:
    """Whether a word's boxes hit one of those annotated for it."""
    pairs = zip(truth["process_bnd_box"], truth["frame_ind"], truth["process_idx"], strict=True)
    best = max(overlap(boxes[frame], box) if word in words else np.float32(-1) for box, frame, words in pairs)
    return int(best > np.float32(iou))


def class_of(truth: Words, word: int) -> str:
    """Class of an annotated word in the first box that has it."""
    for names, words in zip(truth["process_clss"], truth["process_idx"], strict=True):
        if word in words:
            return names[words.index(word)]
    raise KeyError(word)


def segments(
    reference: Words, submission: Words, split: list[str]
) -> Iterator[tuple[str, str, Words, Words | None]]:
    """Annotated segments with what was submitted for them."""
    for video, annotation in reference["annotations"].items():
        for key, truth in annotation["segments"].items():
            if video in split and truth["frame_ind"]:
                yield video, key, truth, submission["results"].get(video, {}).get(key)


def plain_gt(reference: Words, submission: Words, split: list[str], iou: float) -> dict[str, float]:
    """Words of true sentences, one after the other."""
    results = defaultdict(list)
    for _, _, truth, given in segments(reference, submission, split):
        for word in sorted({i for words in truth["process_idx"] for i in words}):
            if given is None or word not in given["idx_in_sent"]:
                results[class_of(truth, word)].append(0)
            else:
                boxes = given["bbox_for_all_frames"][given["idx_in_sent"].index(word)]
                results[class_of(truth, word)].append(found(truth, word, boxes, iou))
    return {"GT_localization_accuracy": mean([mean(r) for r in results.values()])}


def mean(values: list[Any]) -> float:
    return sum(values) / len(values) if values else 0.0


def plain_mode(
    reference: Words, submission: Words, split: list[str], lemma: Callable[[str], str], iou: float, mode: str
) -> dict[str, float]:
    """Words of generated sentences, one after the other, in one of the two modes."""
    precision, recall = defaultdict(list), defaultdict(list)
    names: set[str] = set()
    sentences: list[tuple[float, float]] = []
    skipped = 0
    for _, _, truth, given in segments(reference, submission, split):
        annotated = sorted({i for words in truth["process_idx"] for i in words})
        if given is None:
            for word in annotated:
                recall[class_of(truth, word)].append(0)
            continue
        first: dict[str, int] = {}
        for some, words in zip(truth["process_clss"], truth["process_idx"], strict=True):
            for name, word in zip(some, words, strict=True):
                first[name] = min(word, first.get(name, word))
        names |= set(first)
        unseen = [lemma(t) for i, t in enumerate(truth["tokens"]) if t != "" and i not in annotated]
        here: tuple[list[int], list[int]] = ([], [])
        for name, boxes in zip(given["clss"], given["bbox_for_all_frames"], strict=True):
            if name in first:
                here[0].append(found(truth, first[name], boxes, iou))
                precision[name].append(here[0][-1])
            elif lemma(name) not in unseen and mode == "all":
                here[0].append(0)
                precision[name].append(0)
        for word in annotated:
            name = class_of(truth, word)
            if name in given["clss"]:
                boxes = given["bbox_for_all_frames"][given["clss"].index(name)]
                here[1].append(found(truth, word, boxes, iou))
                recall[name].append(here[1][-1])
            elif mode == "all":
                here[1].append(0)
                recall[name].append(0)
        if here[1]:
            sentences.append((mean(here[0]), mean(here[1])))
        else:
            skipped += 1
    total = sum(map(len, submission["results"].values())) - skipped
    p, r = (sum(map(mean, x.values())) / len(names) if names else 0.0 for x in (precision, recall))
    per = [sum(x) / total if total else 0.0 for x in zip(*((a, b, f1(a, b)) for a, b in sentences), strict=True)]
    found_per = dict(zip(("prec", "recall", "f1"), per or [0.0] * 3, strict=True))
    values = {f"prec_{mode}": p, f"recall_{mode}": r, f"f1_{mode}": f1(p, r)}
    return values | {f"{name}_{mode}_per_sent": value for name, value in found_per.items()}


def f1(p: float, r: float) -> float:
    return 2 * p * r / (p + r) if p + r else 0.0


def plain_generated(
    reference: Words, submission: Words, split: list[str], lemma: Callable[[str], str], iou: float
) -> dict[str, float]:
    """Both modes."""
    modes = [plain_mode(reference, submission, split, lemma, iou, mode) for mode in ("all", "loc")]
    return modes[0] | modes[1]


def official(folder: Path, lemma: Callable[[str], str]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The data set's own program; `lemma` takes the place of its server."""

    class Server:
        def __init__(self, _: str) -> None: ...

        def annotate(self, token: str, properties: object) -> str:
            return json.dumps({"sentences": [{"tokens": [{"lemma": lemma(token)}]}]})

        def close(self) -> None: ...

    sys.path.insert(0, str(folder))
    sys.modules["stanfordcorenlp"] = types.SimpleNamespace(StanfordCoreNLP=Server)  # type: ignore[assignment]
    program = importlib.import_module("eval_grd_anet_entities")

    def evaluator(reference: Words, submission: Words, split: list[str], iou: float) -> Any:
        made = object.__new__(program.ANetGrdEval)
        wanted = set(split)
        made.ref = {k: v for k, v in reference["annotations"].items() if k in wanted}
        made.pred, made.iou_thresh, made.verbose = submission["results"], iou, False
        return made

    def gt(reference: Words, submission: Words, split: list[str], iou: float) -> dict[str, float]:
        with contextlib.redirect_stdout(io.StringIO()):
            return {"GT_localization_accuracy": evaluator(reference, submission, split, iou).gt_grd_eval()}

    def generated(
        reference: Words, submission: Words, split: list[str], _: object, iou: float
    ) -> dict[str, float]:
        values = {}
        for mode in ("all", "loc"):
            names = [f"{n}_{mode}{rest}" for rest in ("", "_per_sent") for n in ("prec", "recall", "f1")]
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                numbers = evaluator(reference, submission, split, iou).grd_eval(mode=mode)
            values |= dict(zip(names, numbers, strict=True))
        return values

    return gt, generated


def repeated(data: Words, key: str, times: int) -> Words:
    """The same videos under more names."""
    return data | {key: {f"{video}/{k}": value for k in range(times) for video, value in data[key].items()}}


def main() -> None:
    """Print a table: median seconds of each way and the ratio to ours."""
    from groundzoo.tasks.metrics.entity_grounding import evaluate_generated, evaluate_gt

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="reference.json, submission_gt.json, ...")
    parser.add_argument("--official", type=Path, help="folder of eval_grd_anet_entities.py")
    parser.add_argument("--sizes", type=int, nargs="+", default=[500, 5000], help="segments, at least")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    names = ("reference", "submission_gt", "submission_gen", "lemmas")
    reference, gt, gen, lemmas = (json.loads((options.folder / f"{n}.json").read_text()) for n in names)
    ways: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
        "ours": (evaluate_gt, evaluate_generated),
        "loops": (plain_gt, plain_generated),
    }
    if options.official:
        ways["official"] = official(options.official, lemmas.__getitem__)
    count = sum(len(a["segments"]) for a in reference["annotations"].values())
    print(f"{'segments':>8} {'':10} {'GT':>8} {'generated':>10} seconds   ratio")
    for size in options.sizes:
        times = -(-size // count)
        big = repeated(reference, "annotations", times)
        submissions = [repeated(s, "results", times) for s in (gt, gen)]
        split = dict.fromkeys(big["annotations"])
        seconds: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        values: dict[str, dict[str, float]] = {}
        for _ in range(options.rounds):
            for way, (by_gt, by_gen) in ways.items():
                began = time.perf_counter()
                first = by_gt(big, submissions[0], split, 0.5)
                middle = time.perf_counter()
                second = by_gen(big, submissions[1], split, lemmas.__getitem__, 0.5)
                seconds[way].append((middle - began, time.perf_counter() - middle))
                values[way] = first | second
        ours = [statistics.median(t) for t in zip(*seconds["ours"], strict=True)]
        for way in ways:
            for name, value in values["loops"].items():
                assert abs(values[way][name] - value) < 1e-6, (way, name, values[way][name], value)
            medians = [statistics.median(t) for t in zip(*seconds[way], strict=True)]
            ratios = " / ".join(f"{m / o:.1f}" for m, o in zip(medians, ours, strict=True))
            print(f"{count * times:8} {way:10} {medians[0]:8.3f} {medians[1]:10.3f} {'':7}   {ratios}")


if __name__ == "__main__":
    main()
