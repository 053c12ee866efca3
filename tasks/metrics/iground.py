"""Captions whose phrases have boxes in every frame of a clip: the metrics of iGround (Kazakos et al., ICCV 2025).

The captions are scored as elsewhere (`CaptionScores`), the boxes frame by frame, then per clip, then over clips:
AP50 (which phrase a box is for does not matter), mIoU, and recall, for which the phrase has to be right as well.
Boxes are cut at the borders of the picture and at whole pixels, as in the released program.

Differs from the paper: in mIoU and recall its program takes x, y, width and height of a box for two corners, the
last pixel belonging to the box; its matching for recall ends with the first pair that overlaps but disagrees in
the phrase; it leaves out clips without an answer. The defaults here do none of it, `RELEASED` does it all. The
program goes on after an error in a frame, which then has truths and no hit; here a bad record is an error. The
paper's protocol of one frame per clip has no published program; here it is the same metric on the middle frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .caption_scorers import Score
from .captions import CaptionScores, Tokenizer
from .frame_boxes import Boxes, Flags, box_ious, coco_hits, coco_precision, frames_of, matched_pairs
from .phrase_similarity import Similarity, token_jaccard
from .records import Record

IOU = 0.5  # of AP50 and recall
ALIKE = 0.5  # phrases are, from this similarity on
OVERLAPS = np.linspace(0.5, 0.95, 10)  # COCO's


@dataclass(frozen=True)
class IGroundRules:
    """What the paper leaves open about scoring the boxes.

    Attributes:
        box_format: ``"xyxy"``, or ``"coco_compat"``: in mIoU and recall the numbers x, y, width and height are
            taken for two corners, and a box from x1 to x2 is x2 - x1 + 1 wide.
        early_stop: matching for recall goes from the largest overlap of a frame downwards; True = it ends at a
            pair whose phrases are not alike, False = such pairs are passed over.
        clips: whose values are averaged. ``"annotated"``: all with a true box; one without an answer counts 0.
            ``"answered"``: all with an answer, of captions also; one without a true box counts -1 in AP, else 0.
        pooled: the frames of all clips are taken for one clip, instead of averaging over clips.
    """

    box_format: Literal["xyxy", "coco_compat"] = "xyxy"
    early_stop: bool = False
    clips: Literal["annotated", "answered"] = "annotated"
    pooled: bool = False


RELEASED = IGroundRules(box_format="coco_compat", early_stop=True, clips="answered")


def grounding_scores(
    records: Sequence[Record], similarity: Similarity = token_jaccard, rules: IGroundRules = IGroundRules()
) -> dict[str, float]:
    """How well the phrases of clips are located.

    Args:
        records: as in `IGround`.
        similarity: P predicted and G true phrases -> ``(P, G)``; alike from 0.5 on.
        rules: see there.

    Returns:
        In [0, 1], means over clips. ``AP50``: COCO's average precision of all boxes at an IoU of at least 0.5,
        with equal scores; frames in the order of their names "clip_number" as strings, as COCO has them; its limit
        of 100 boxes a frame does not apply. ``mIoU``: of all pairs of a predicted and a true box of a frame, mean
        over the frames that have both (below 1 even for perfect boxes, if there are several). ``recall``: share of
        true boxes with a predicted one of an IoU of at least 0.5 and an alike phrase, each used once. If `pooled`,
        also ``AP``, the mean over an IoU of 0.5 to 0.95. Empty if no clip counts.

    Raises:
        ValueError: predicted and true frames differ in number, or a box is not four numbers; names the clip.
    """
    kept = [record for record in records if _counts(record, rules)]
    clips = [_judged(record, similarity, rules, OVERLAPS if rules.pooled else OVERLAPS[:1]) for record in kept]
    if rules.clips == "annotated":
        clips = [clip for clip in clips if clip.truths]
    if not clips:
        return {}
    if rules.pooled:
        clips = [_joined(clips)]
    precision = np.array([_precision(clip) for clip in clips])
    values = {
        "AP50": precision[:, 0].mean(),
        "mIoU": np.mean([clip.ious.mean() if len(clip.ious) else 0.0 for clip in clips]),
        "recall": np.mean([clip.found / max(clip.truths, 1) for clip in clips]),
    }
    if rules.pooled:
        values["AP"] = precision.mean()
    return {name: float(value) for name, value in values.items()}


class IGround(CaptionScores):
    """Grounded captions of clips: their words, and where the phrases are; in per cent.

    A record is that of `CaptionScores` and ``{"size": [width, height], "predicted": frames, "truth": frames}``,
    where frames are those of the clip, in order, and each is a list of ``(phrase, [x1, y1, x2, y2])`` in pixels.
    An empty list of predicted frames means that the clip has no answer.

    Args:
        scores: of the captions, see `CaptionMetric`.
        tokenizer: see there.
        similarity: P predicted and G true phrases -> ``(P, G)``; alike from 0.5 on. The paper's is
            `EncodedSimilarity` with BERT.
        rules: of the boxes.

    Returns (compute):
        What `CaptionScores` returns; and ``AP50``, ``mIoU`` and ``recall`` of `grounding_scores`, behind ``all/``
        of all frames and behind ``centre/`` of one frame of each clip, number n // 2 of n. Values that no clip
        counts for are left out; `absent` tells.
    """

    def __init__(
        self,
        scores: Sequence[Score] = ("METEOR", "CIDEr", "BLEU", "ROUGE_L"),
        tokenizer: Tokenizer = "ptb",
        similarity: Similarity = token_jaccard,
        rules: IGroundRules = IGroundRules(),
        **kwargs: Any,
    ) -> None:
        super().__init__(scores, tokenizer, **kwargs)
        self.similarity, self.rules = similarity, rules

    def evaluate(self, records: list[Record]) -> dict[str, float]:
        """Values of all records.

        Raises:
            ValueError: as in `CaptionScores` and `grounding_scores`.
        """
        values = super().evaluate([record for record in records if _counts(record, self.rules)])
        for name, part in (("all", records), ("centre", [_centre(record) for record in records])):
            found = grounding_scores(part, self.similarity, self.rules)
            values |= {f"{name}/{key}": 100 * value for key, value in found.items()}
            if not found:
                self.leave_out(f"{name}/AP50, mIoU, recall", "no clip has a true box there")
        return values


class _Frames(NamedTuple):
    """The F frames of a clip, each filled up to N boxes.

    Attributes:
        boxes: ``(F, N, 4)`` at whole pixels.
        phrases: ``(F, N)`` position in `names`.
        mask: ``(F, N)`` bool, False = only filled up.
        names: distinct phrases.
    """

    boxes: Boxes
    phrases: NDArray[np.intp]
    mask: Flags
    names: list[str]


class _Clip(NamedTuple):
    """What is counted in a clip; n predicted boxes, T overlaps.

    Attributes:
        hits: ``(T, n)`` bool, the box found a true one.
        names: ``(n,)`` name of its frame.
        truths: number of true boxes.
        found: of these, those that count for recall.
        ious: mean IoU of each frame with boxes of both kinds.
    """

    hits: Flags
    names: NDArray[np.str_]
    truths: int
    found: int
    ious: Boxes


def _counts(record: Record, rules: IGroundRules) -> bool:
    """Whether the clip is looked at, whatever its truth."""
    return rules.clips == "annotated" or bool(record["predicted"])


def _centre(record: Record) -> Record:
    """The record with its middle frame alone."""
    one = slice(len(record["truth"]) // 2, len(record["truth"]) // 2 + 1)
    return record | {"truth": record["truth"][one], "predicted": record["predicted"][one]}


def _frames(record: Record, key: Literal["predicted", "truth"], frames: list[Any]) -> _Frames:
    """Boxes of a clip in arrays."""
    pairs = [pair for frame in frames for pair in frame]
    counts = np.array([len(frame) for frame in frames], dtype=np.intp)
    mask = np.arange(counts.max(initial=0)) < counts[:, None]
    boxes, phrases = np.zeros((*mask.shape, 4)), np.zeros(mask.shape, dtype=np.intp)
    places = {phrase: i for i, phrase in enumerate(dict.fromkeys(phrase for phrase, _ in pairs))}
    wrong = [box for _, box in pairs if len(box) != 4 or not all(map(isfinite, box))]
    if wrong:
        raise ValueError(f"{record['id']}: a box in '{key}' is {wrong[0]}; [x1, y1, x2, y2] is needed")
    if pairs:
        boxes[mask] = [box for _, box in pairs]
        phrases[mask] = [places[phrase] for phrase, _ in pairs]
    if key == "predicted":
        boxes = boxes.clip(0, np.tile(record["size"], 2))
    return _Frames(np.trunc(boxes), phrases, mask, list(places))


def _judged(record: Record, similarity: Similarity, rules: IGroundRules, overlaps: Boxes) -> _Clip:
    """Compare the boxes of a clip."""
    frames = frames_of(record)
    true, predicted = _frames(record, "truth", frames[0]), _frames(record, "predicted", frames[1])
    pairs = true.mask[:, :, None] & predicted.mask[:, None]
    ious = box_ious(true.boxes[:, :, None], predicted.boxes[:, None]) * pairs
    hits = coco_hits(ious, overlaps)[:, predicted.mask]
    names = np.array([f"{record['id']}_{k}" for k in range(len(frames[0]))], dtype=str).repeat(
        predicted.mask.sum(1)
    )
    if rules.box_format == "coco_compat":
        for boxes in (true.boxes, predicted.boxes):
            boxes[..., 2:] -= boxes[..., :2]
        ious = box_ious(true.boxes[:, :, None], predicted.boxes[:, None], border=1) * pairs
    alike = pairs
    if pairs.any():
        table = similarity(predicted.names, true.names).cpu().numpy().T >= ALIKE
        alike = table[true.phrases[:, :, None], predicted.phrases[:, None]]
    sizes = pairs.sum((1, 2))
    means = ious.sum((1, 2))[sizes > 0] / sizes[sizes > 0]
    return _Clip(hits, names, int(true.mask.sum()), matched_pairs(ious, alike, IOU, rules.early_stop), means)


def _joined(clips: Sequence[_Clip]) -> _Clip:
    """Several clips as if they were one."""
    hits, names, truths, found, ious = zip(*clips, strict=True)
    boxes = np.concatenate(hits, axis=1), np.concatenate(names)
    return _Clip(*boxes, sum(truths), sum(found), np.concatenate(ious))


def _precision(clip: _Clip) -> Boxes:
    """Average precision ``(T,)`` of a clip; scores are equal, the order is that of the frames' names."""
    return coco_precision(clip.hits[:, np.argsort(clip.names, kind="stable")], clip.truths)
