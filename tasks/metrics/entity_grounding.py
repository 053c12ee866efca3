"""Where words are seen: the grounding metrics of ActivityNet-Entities (Zhou et al., CVPR 2019).

The rules are those of the data set's evaluation program. A predicted word has a box in each of the F frames
sampled from its segment; only the box in the annotated frame counts, and it is right if its IoU with an annotated
box of the word exceeds the threshold. Coordinates are those of the annotation (pixels of a video 720 wide); a box
from x1 to x2 is x2 - x1 + 1 wide.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...zoo.text.lemmas import lemma as default_lemma
from .records import Record, RecordMetric

Box = Sequence[float]
Values = dict[str, Any]

NAMES = {  # the evaluation program's name -> ours
    "GT_localization_accuracy": "grounding/GT_accuracy",
    **{
        f"{theirs}_{rest}": f"grounding/{ours}_{rest}"
        for rest in ("all", "loc", "all_per_sent", "loc_per_sent")
        for theirs, ours in (("prec", "precision"), ("recall", "recall"), ("f1", "F1"))
    },
}


def evaluate_gt(
    reference: Mapping[str, Any],
    submission: Mapping[str, Any],
    split_videos: Collection[str],
    iou: float = 0.5,
    frames: int = 10,
) -> Values:
    """How well the words of the true sentences are located.

    Every annotated word is one trial; a word, segment or video that the submission lacks is a miss.

    Args:
        reference: ``{"annotations": {video: {"segments": {id: ...}}}}``, the data set's file.
        submission: ``{"results": {video: {id: {"idx_in_sent": ..., "bbox_for_all_frames": ...}}}}``.
        split_videos: the videos that count.
        iou: a box is right above this overlap.
        frames: F, boxes of a word.

    Returns:
        ``{"GT_localization_accuracy": ...}``, 0 to 1: mean over the classes of the share of right boxes; 0 where
        nothing is annotated.

    Raises:
        ValueError: the submission breaks the format; names video, segment and word.
    """
    results = _checked(reference, submission, frames)
    trials = _Trials()
    for video, key, truth in _annotated(reference, split_videos):
        given = results.get(video, {}).get(key)
        places = {} if given is None else _first(given["idx_in_sent"])
        for word, boxes in truth.boxes.items():
            place = places.get(word)
            if given is None or place is None:
                trials.add(truth.classes[word])
            else:
                trials.add(truth.classes[word], given["bbox_for_all_frames"][place], boxes)
    means = _class_means(trials, trials.hits(iou))
    return {"GT_localization_accuracy": _ratio(means.sum(), len(means))}


def evaluate_generated(
    reference: Mapping[str, Any],
    submission: Mapping[str, Any],
    split_videos: Collection[str],
    lemma: Callable[[str], str],
    iou: float = 0.5,
    frames: int = 10,
) -> Values:
    """How well the words of generated sentences are chosen and located.

    In `all`, a class that the sentence should not have lowers precision and one that it lacks lowers recall; in
    `loc` only words in both sentences count. A predicted class that the true sentence holds without a box is
    neither right nor wrong: `lemma` decides that.

    Args:
        reference: as in `evaluate_gt`.
        submission: as in `evaluate_gt`, with ``"clss"``, the class of each word.
        split_videos: the videos that count.
        lemma: word or class name -> lemma.
        iou: a box is right above this overlap.
        frames: F, boxes of a word.

    Returns:
        ``prec_all``, ``recall_all``, ``f1_all``: sums of class means over the number of classes in the true
        sentences; the same with ``_per_sent``: means over sentences; the same for ``loc``. 0 to 1, and 0 where the
        official program divides zero by zero. Un-annotated segments in the submission enlarge the denominator of
        ``_per_sent``, as officially. Also ``num_vocab_in_split``, and ``prec_per_class_all`` and
        ``recall_per_class_all``: ``{class: [1 if right else 0, ...]}``.

    Raises:
        ValueError: the submission breaks the format; names video, segment and word.
    """
    results = _checked(reference, submission, frames, need_classes=True)
    lemma = cache(lemma)
    precision, recall = _Trials(), _Trials()
    vocabulary: set[str] = set()
    sentences = 0
    for video, key, truth in _annotated(reference, split_videos):
        given = results.get(video, {}).get(key)
        if given is None:
            for word in truth.boxes:
                recall.add(truth.classes[word])
            continue
        vocabulary.update(truth.words)
        others: set[str] | None = None
        words = given["bbox_for_all_frames"]
        for name, word_boxes in zip(given["clss"], words, strict=True):
            if name in truth.words:
                precision.add(name, word_boxes, truth.boxes[truth.words[name]], sentences)
                continue
            if others is None:
                others = {lemma(t) for i, t in enumerate(truth.tokens) if t and i not in truth.boxes}
            if lemma(name) not in others:
                precision.add(name, sentence=sentences, in_both=False)
        places = _first(given["clss"])
        for word, boxes in truth.boxes.items():
            name = truth.classes[word]
            if name in places:
                recall.add(name, words[places[name]], boxes, sentences)
            else:
                recall.add(name, sentence=sentences, in_both=False)
        sentences += 1
    submitted = sum(len(segments) for segments in results.values())
    hits = precision.hits(iou), recall.hits(iou)
    values: Values = {}
    for mode in ("all", "loc"):
        chosen = [np.full(len(t), mode == "all") | np.array(t.in_both, dtype=bool) for t in (precision, recall)]
        parts = list(zip((precision, recall), hits, chosen, strict=True))
        p, r = (_ratio(_class_means(t, h, c).sum(), len(vocabulary)) for t, h, c in parts)
        values |= {f"prec_{mode}": p, f"recall_{mode}": r, f"f1_{mode}": _ratio(2 * p * r, p + r)}
        (right_p, all_p), (right_r, all_r) = (_sentence_counts(t, h, c, sentences) for t, h, c in parts)
        kept = all_r > 0  # a sentence without anything to find is left out
        ps, rs = (right_p / np.maximum(all_p, 1))[kept], right_r[kept] / all_r[kept]
        fs = 2 * ps * rs / np.where(ps + rs > 0, ps + rs, 1)
        total = submitted - int((~kept).sum())
        for name, each in (("prec", ps), ("recall", rs), ("f1", fs)):
            values[f"{name}_{mode}_per_sent"] = _ratio(each.sum(), total)
    values["num_vocab_in_split"] = len(vocabulary)
    values["prec_per_class_all"] = _per_class(precision, hits[0])
    values["recall_per_class_all"] = _per_class(recall, hits[1])
    return values


def official_submission(records: Sequence[Record], mode: Literal["GT", "gen"]) -> dict[str, Any]:
    """Records as the data set's evaluation program and server read them.

    Args:
        records: see `EntityGrounding`.
        mode: ``"GT"`` for the words of the true sentences, ``"gen"`` for those of generated ones.

    Returns:
        ``{"results": ..., "eval_mode": mode, "external_data": ...}``; segments whose record has None are left out.

    Raises:
        ValueError: two records are of the same segment.
    """
    results: dict[str, dict[str, Any]] = {}
    for record in records:
        video, key, words = record["video"], record["segment"], record["gt" if mode == "GT" else "generated"]
        if words is None:
            continue
        if key in results.setdefault(video, {}):
            raise ValueError(f"video {video}, segment {key}: two records are of this segment; give it once")
        results[video][key] = words
    return {"results": results, "eval_mode": mode, "external_data": {"used": False, "details": ""}}


class EntityGrounding(RecordMetric):
    """Where the words of true and of generated sentences are seen, in per cent.

    A record is ``{"video": str, "segment": str, "gt": words | None, "generated": words | None}`` with words =
    ``{"clss": [str], "idx_in_sent": [int], "bbox_for_all_frames": [[[x1, y1, x2, y2]] * F]}``, one entry a word
    (`gt` needs no ``clss``), in the annotation's coordinates. A segment without words has empty lists; None means
    that this segment was not tried.

    Args:
        reference: the data set's file, see `evaluate_gt`.
        split: the videos that count.
        lemma: word or class name -> lemma.
        iou: a box is right above this overlap.
        frames: F, boxes of a word.

    Returns (compute):
        ``grounding/GT_accuracy``, and ``grounding/{precision,recall,F1}_{all,loc}`` and the same with
        ``_per_sent``, see `evaluate_gt` and `evaluate_generated`. Values that nothing was recorded for are left
        out, and so are all where the split's annotation holds no box; `absent` tells.
    """

    def __init__(
        self,
        reference: Mapping[str, Any],
        split: Sequence[str],
        lemma: Callable[[str], str] = default_lemma,
        iou: float = 0.5,
        frames: int = 10,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.reference, self.split, self.lemma, self.iou, self.frames = reference, tuple(split), lemma, iou, frames
        self.annotated = any(True for _ in _annotated(reference, self.split))

    def evaluate(self, records: list[Record]) -> dict[str, float]:
        """Values of all records; runs in one process.

        Raises:
            ValueError: a record breaks the format; names video, segment and word.
        """
        found: Values = {}
        if self.annotated and any(record["gt"] is not None for record in records):
            submission = official_submission(records, "GT")
            found |= evaluate_gt(self.reference, submission, self.split, self.iou, self.frames)
        if self.annotated and any(record["generated"] is not None for record in records):
            submission = official_submission(records, "gen")
            found |= evaluate_generated(self.reference, submission, self.split, self.lemma, self.iou, self.frames)
        why = "no record has such words" if self.annotated else "the annotation of the split holds no boxes"
        self.absent = {name: why for key, name in NAMES.items() if key not in found}
        return {name: 100 * found[key] for key, name in NAMES.items() if key in found}


class _Truth(NamedTuple):
    """An annotated segment.

    Attributes:
        tokens: of its sentence.
        boxes: annotated word -> its boxes with their frame.
        classes: annotated word -> class, that of the first box that holds it.
        words: class -> its first word.
    """

    tokens: Sequence[str]
    boxes: dict[int, list[tuple[int, Box]]]
    classes: dict[int, str]
    words: dict[str, int]


class _Trials:
    """Words to be found: class, sentence, whether both sentences hold it, and the pairs of boxes to compare."""

    def __init__(self) -> None:
        self.classes: dict[str, int] = {}
        self.class_of: list[int] = []
        self.sentence: list[int] = []
        self.in_both: list[bool] = []
        self._trial: list[int] = []
        self._predicted: list[Box] = []
        self._true: list[Box] = []

    def __len__(self) -> int:
        return len(self.class_of)

    def add(
        self,
        name: str,
        word: Sequence[Box] = (),
        boxes: Sequence[tuple[int, Box]] = (),
        sentence: int = -1,
        in_both: bool = True,
    ) -> None:
        """Add a word; without boxes it is a miss."""
        for frame, box in boxes:
            if 0 <= frame < len(word):
                self._trial.append(len(self))
                self._predicted.append(word[frame])
                self._true.append(box)
        self.class_of.append(self.classes.setdefault(name, len(self.classes)))
        self.sentence.append(sentence)
        self.in_both.append(in_both)

    def hits(self, iou: float) -> NDArray[np.bool_]:
        """Whether one of the boxes of each word is right."""
        predicted, true = (np.array(b, dtype=np.float32).reshape(-1, 4) for b in (self._predicted, self._true))
        hits = np.zeros(len(self), dtype=bool)
        hits[np.array(self._trial, dtype=np.intp)[_overlap(predicted, true) > np.float32(iou)]] = True
        return hits


def _overlap(predicted: NDArray[np.float32], true: NDArray[np.float32]) -> NDArray[np.float32]:
    """IoU of ``(n, 4)`` boxes pair by pair, in float32; of a predicted point -1, of an annotated point 0."""
    sizes = [b[:, 2:] - b[:, :2] + 1 for b in (predicted, true)]
    meet = np.minimum(predicted[:, 2:], true[:, 2:]) - np.maximum(predicted[:, :2], true[:, :2]) + 1
    inter = np.maximum(meet, 0).prod(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):  # boxes that are inside out
        overlap = inter / (sizes[0].prod(axis=1) + sizes[1].prod(axis=1) - inter)
    overlap[(sizes[1] == 1).all(axis=1)] = 0
    overlap[(sizes[0] == 1).all(axis=1)] = -1
    return np.asarray(overlap, dtype=np.float32)


def _class_means(
    trials: _Trials, hits: NDArray[np.bool_], chosen: NDArray[np.bool_] | slice = slice(None)
) -> NDArray[np.float64]:
    """Share of right words of each class, of the chosen trials; 0 of a class without one."""
    classes = np.array(trials.class_of, dtype=np.intp)[chosen]
    counts = np.bincount(classes)
    return np.bincount(classes, weights=hits[chosen], minlength=len(counts)) / np.maximum(counts, 1)


def _sentence_counts(
    trials: _Trials, hits: NDArray[np.bool_], chosen: NDArray[np.bool_], sentences: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Right words and words of each sentence, of the chosen trials; -1 is no sentence."""
    where = np.array(trials.sentence, dtype=np.intp)
    chosen = chosen & (where >= 0)
    where = where[chosen]
    return np.bincount(where, weights=hits[chosen], minlength=sentences), np.bincount(where, minlength=sentences)


def _per_class(trials: _Trials, hits: NDArray[np.bool_]) -> dict[str, list[int]]:
    """Result of every word, by class."""
    lists: list[list[int]] = [[] for _ in trials.classes]
    for k, hit in zip(trials.class_of, hits.tolist(), strict=True):
        lists[k].append(int(hit))
    return dict(zip(trials.classes, lists, strict=True))


def _ratio(above: float, below: float) -> float:
    """A quotient; 0 where nothing is divided by nothing."""
    return float(above) / below if below else 0.0


def _first(names: Sequence[Any]) -> dict[Any, int]:
    """Each name's first place."""
    return {name: i for i, name in reversed(list(enumerate(names)))}


def _annotated(reference: Mapping[str, Any], split_videos: Collection[str]) -> Iterator[tuple[str, str, _Truth]]:
    """Video, segment and annotation of the split's segments with boxes."""
    wanted = set(split_videos)
    for video, annotation in reference["annotations"].items():
        if video not in wanted:
            continue
        for key, segment in annotation["segments"].items():
            if not segment["frame_ind"]:
                continue
            truth = _Truth(segment["tokens"], {}, {}, {})
            columns = (segment[f"process_{name}"] for name in ("clss", "idx", "bnd_box"))
            for names, words, box, frame in zip(*columns, segment["frame_ind"], strict=True):
                for name, word in zip(names, words, strict=True):
                    truth.boxes.setdefault(word, []).append((frame, box))
                    truth.classes.setdefault(word, name)
                    truth.words[name] = min(word, truth.words.get(name, word))
            yield video, key, truth


def _checked(
    reference: Mapping[str, Any], submission: Mapping[str, Any], frames: int, need_classes: bool = False
) -> Mapping[str, Mapping[str, Any]]:
    """The submission's results, if they keep the format."""
    results: Mapping[str, Mapping[str, Any]] = submission["results"]
    keys = ("idx_in_sent", "bbox_for_all_frames", *(("clss",) if need_classes else ()))
    for video, segments in results.items():
        if video not in reference["annotations"]:
            raise ValueError(f"video {video} of the submission is not in the annotation")
        for key, given in segments.items():
            where = f"video {video}, segment {key}"
            if missing := [name for name in keys if name not in given]:
                raise ValueError(f"{where} of the submission has no '{missing[0]}'")
            lengths = {name: len(given[name]) for name in keys}
            if len(set(lengths.values())) > 1:
                raise ValueError(f"{where} of the submission: one entry a word is needed, found {lengths}")
            for place, boxes in enumerate(given["bbox_for_all_frames"]):
                if len(boxes) == frames and all(len(box) == 4 for box in boxes):
                    continue
                name = given["clss"][place] if "clss" in given else f"at index {given['idx_in_sent'][place]}"
                wrong = [f"a box of {len(box)} numbers" for box in boxes if len(box) != 4]
                found = f"{len(boxes)} boxes" if len(boxes) != frames else wrong[0]
                raise ValueError(
                    f"{where}, word {place} ({name}) of the submission: found {found}; {frames} boxes "
                    "[x1, y1, x2, y2] are needed, one a frame"
                )
    return results
