"""Sentences some of whose phrases are grounded: plain text and where in it the phrases are."""

from __future__ import annotations

from typing import NamedTuple


class GroundedText(NamedTuple):
    """A sentence and its grounded phrases.

    Attributes:
        text: the sentence, without tags.
        spans: (start, end) of every phrase in `text`, characters, in the order of their starts; none overlap.
    """

    text: str
    spans: tuple[tuple[int, int], ...] = ()

    @property
    def phrases(self) -> list[str]:
        """The phrases in order; the same words may come twice."""
        return [self.text[start:end] for start, end in self.spans]
