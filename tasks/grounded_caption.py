"""One answer of every captioner: a sentence whose words or phrases are found in the frames of a video."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from ..zoo.text.grammar import tag


class GroundedPhrase(NamedTuple):
    """A word or several of a caption, and where they are in each of its F frames.

    Attributes:
        text: the phrase.
        start: where it begins in the caption, characters.
        end: where it ends, characters; ``caption.text[start:end]`` is the phrase.
        boxes: F boxes, x1, y1, x2, y2 in pixels of the original frame; None where the phrase is not seen.
        scores: F numbers in [0, 1], of the caption's measure.
    """

    text: str
    start: int
    end: int
    boxes: list[list[float] | None]
    scores: list[float]


class GroundedCaption(NamedTuple):
    """A sentence about a stretch of video.

    Attributes:
        text: the sentence.
        score: log-probability per token, <= 0; comparable between captions of one model. None: the sentence was
            given.
        phrases: its phrases in order; none overlap, and words may belong to none.
        times_s: F times in the video at which frames were looked at, seconds.
        size: (width, height) of the original frames in pixels.
        measure: what scores of phrases are. `attention`: the share of the phrase's attention that fell on each
            frame; the F of them sum to 1, phrases are single words. `visibility`: the probability that the phrase
            is to be seen in each frame.
    """

    text: str
    score: float | None
    phrases: list[GroundedPhrase]
    times_s: list[float]
    size: tuple[int, int]
    measure: Literal["attention", "visibility"]


def caption_record(caption: GroundedCaption) -> dict[str, Any]:
    """A caption, JSON-ready.

    Returns:
        `caption`, `score`, `measure`, `size`, `times_s` and `phrases`, each with the fields of `GroundedPhrase`;
        where phrases are single words (`attention`), also their part of speech, `kind`.
    """
    phrases = [phrase._asdict() for phrase in caption.phrases]
    if caption.measure == "attention":
        kinds = tag([phrase.text for phrase in caption.phrases])
        phrases = [{**phrase, "kind": kind} for phrase, kind in zip(phrases, kinds, strict=True)]
    return {
        "caption": caption.text,
        "score": caption.score,
        "measure": caption.measure,
        "size": list(caption.size),
        "times_s": caption.times_s,
        "phrases": phrases,
    }
