"""Captions made by hand, whose words or phrases are where a test wants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from groundzoo.tasks.grounded_caption import GroundedCaption, GroundedPhrase


def pointing(
    text: str,
    shares: Mapping[str, Sequence[float]],
    boxes: Mapping[str, Sequence[float]],
    size: tuple[int, int],
    times_s: Sequence[float],
) -> GroundedCaption:
    """A caption with attention; words not in `shares` and `boxes` look everywhere, at the whole picture."""
    even = [1 / len(times_s)] * len(times_s)
    whole = [0.0, 0.0, size[0] - 1.0, size[1] - 1.0]
    phrases, end = [], 0
    for word in text.split():
        start = text.index(word, end)
        end = start + len(word)
        everywhere: list[list[float] | None] = [list(boxes.get(word, whole)) for _ in times_s]
        phrases.append(GroundedPhrase(word, start, end, everywhere, list(shares.get(word, even))))
    return GroundedCaption(text, -0.5, phrases, list(times_s), size, "attention")


def seen(
    text: str,
    probabilities: Mapping[str, Sequence[float]],
    boxes: Mapping[str, Sequence[Sequence[float]]],
    size: tuple[int, int],
    times_s: Sequence[float],
    threshold: float = 0.5,
) -> GroundedCaption:
    """A caption with visibility: its phrases, in the order of the text, with a box where one is seen so probably.

    `boxes` has one for every frame, or one for all.
    """
    phrases, end = [], 0
    for phrase, chances in probabilities.items():
        start = text.index(phrase, end)
        end = start + len(phrase)
        places = boxes[phrase] if len(boxes[phrase]) > 1 else [*boxes[phrase]] * len(times_s)
        kept = [list(box) if chance >= threshold else None for box, chance in zip(places, chances, strict=True)]
        phrases.append(GroundedPhrase(phrase, start, end, kept, list(chances)))
    return GroundedCaption(text, -0.5, phrases, list(times_s), size, "visibility")
