"""Captions made by hand, whose words look where a test wants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from groundzoo.tasks.captions import GroundedCaption, GroundedWord


def pointing(
    text: str,
    shares: Mapping[str, Sequence[float]],
    boxes: Mapping[str, Sequence[float]],
    size: tuple[int, int],
    times_s: Sequence[float],
) -> GroundedCaption:
    """A caption; words that are not in `shares` and `boxes` look everywhere, at the whole picture."""
    even = [1 / len(times_s)] * len(times_s)
    whole = [0.0, 0.0, size[0] - 1.0, size[1] - 1.0]
    words = [
        GroundedWord(word, [list(boxes.get(word, whole)) for _ in times_s], list(shares.get(word, even)))
        for word in text.split()
    ]
    return GroundedCaption(text, -0.5, words, list(times_s), size)
