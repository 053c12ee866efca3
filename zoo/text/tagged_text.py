"""Sentences with tagged phrases: how annotations write them, and how a language model says them.

An annotation is ``<p>A hand</p> stirs <p>food</p>``. An answer is the same in lower case, with a detection token
behind every phrase that has boxes: ``<p> a hand </p> [DET] stirs <p> food </p> [DET]``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from .grounded_text import GroundedText

OPEN, CLOSE, DETECTION = "<p>", "</p>", "[DET]"
QUOTES = " \"'"
_OURS = re.compile(r"<p>|</p>|\[DET\]")
_MARKS = re.compile(r"<[^<>]*>|\[DET\]")  # also other special tokens, such as an end


class TaggedAnswer(NamedTuple):
    """An answer of a language model, read.

    Attributes:
        text: the sentence without tags, and those of its phrases that have a detection token.
        tokens: per phrase of `text`, which detection token of the answer is its own; ascending.
        closed: all closed phrases, with or without a detection token; also empty ones.
        tagged: the sentence with its tags, without detection tokens.
        detections: how many detection tokens there are.
    """

    text: GroundedText
    tokens: list[int]
    closed: list[str]
    tagged: str
    detections: int


def read_tagged(tagged: str, phrases: Iterable[str] | None = None) -> GroundedText:
    """A tagged sentence of an annotation, in lower case, without blanks and double quotes around it.

    Where the same words are tagged twice, the first counts: annotated boxes know their phrase by its words alone.

    Args:
        tagged: ``<p>A hand</p> stirs <p>food</p> in <p>a bowl</p>``. Tags that do not fit together are no phrase.
        phrases: those that have boxes, in any order and case; phrases that are not tagged are left out. None takes
            all that are tagged.
    """
    wanted = None if phrases is None else {" ".join(_bare(phrase).split()) for phrase in phrases}
    plain, spans, _ = _phrases(tagged, lower=True)
    known: dict[str, tuple[int, int]] = {}
    for start, end in spans:
        phrase = " ".join(plain[start:end].split())
        if phrase and (wanted is None or phrase in wanted):
            known.setdefault(phrase, (start, end))
    text = plain.strip().strip('"').strip()
    first, n = plain.index(text), len(text)
    inside = ((max(start - first, 0), min(end - first, n)) for start, end in known.values())
    return GroundedText(text, tuple((start, end) for start, end in inside if start < end))


def write_answer(caption: GroundedText) -> str:
    """What a language model is to say: in lower case, every phrase tagged and followed by a detection token."""
    parts, last = [], 0
    for start, end in caption.spans:
        phrase = _bare(caption.text[start:end])
        parts += [_bare(caption.text[last:start]), f"{OPEN} {phrase} {CLOSE} {DETECTION}"]
        last = end
    return "".join([*parts, _bare(caption.text[last:])])


def read_answer(raw: str) -> TaggedAnswer:
    """What a language model said; any text can be read.

    The k-th detection token belongs to the k-th closed phrase. Detection tokens and phrases that are left over are
    dropped, as are phrases without words. A second opening tag makes the first one void. Blanks are brought to one
    between words, and quotes around the sentence are taken off.
    """
    plain, spans, detections = _phrases(raw, lower=False)
    text, places = _tidy(plain)
    kept: list[tuple[int, int]] = []
    tokens = []
    for k, (start, end) in enumerate(spans[:detections]):
        inside = [places[i] for i in range(start, end) if i in places]
        if inside:
            kept.append((inside[0], inside[-1] + 1))
            tokens.append(k)
    closed = [" ".join(plain[start:end].split()) for start, end in spans]
    tagged = " ".join(raw.replace(DETECTION, "").split()).strip(QUOTES)
    return TaggedAnswer(GroundedText(text, tuple(kept)), tokens, closed, tagged, detections)


def _bare(text: str) -> str:
    """Lower case; tags that stand in a text by accident are no tags of ours."""
    return _OURS.sub("", text).lower()


def _phrases(tagged: str, lower: bool) -> tuple[str, list[tuple[int, int]], int]:
    """Text without marks, (start, end) in it of what stands between tags, and the number of detection tokens."""
    parts: list[str] = []
    spans: list[tuple[int, int]] = []
    length, last, detections = 0, 0, 0
    opened: int | None = None
    for mark in [*_MARKS.finditer(tagged), None]:
        piece = tagged[last:] if mark is None else tagged[last : mark.start()]
        parts.append(piece.lower() if lower else piece)  # piece by piece: a few letters change their length
        length += len(parts[-1])
        if mark is None:
            break
        last = mark.end()
        if mark[0] == OPEN:
            opened = length
        elif mark[0] == CLOSE and opened is not None:
            spans.append((opened, length))
            opened = None
        elif mark[0] == DETECTION:
            detections += 1
    plain = "".join(parts)
    return plain, [_trimmed(plain, *span) for span in spans], detections


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """A span without blanks at its ends."""
    inside = text[start:end]
    return start + len(inside) - len(inside.lstrip()), max(start, end - len(inside) + len(inside.rstrip()))


def _tidy(plain: str) -> tuple[str, dict[int, int]]:
    """The text with single blanks and without quotes around it, and where in it each letter went."""
    text = ""
    places: dict[int, int] = {}
    for word in re.finditer(r"\S+", plain):
        text += " " if text else ""
        places |= {i: len(text) + i - word.start() for i in range(word.start(), word.end())}
        text += word[0]
    shown = text.strip(QUOTES)
    first = text.index(shown) if shown else len(text)
    moved = {i: place - first for i, place in places.items()}
    return shown, {i: place for i, place in moved.items() if 0 <= place < len(shown)}
