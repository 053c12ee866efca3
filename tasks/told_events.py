"""What a dense captioner says: sentences about the events of videos, and records of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor


class Told(NamedTuple):
    """Events of V videos and what is said of them.

    Attributes:
        events_s: ``(V, E, 2)`` seconds.
        mask: ``(V, E)`` bool.
        scores: ``(V, E)`` of the proposal, in [0, 1]; 1 for given events.
        sentences: V lists of lists of words.
        log_probs: V lists of mean log-probabilities per word, the end counted as one.
    """

    events_s: Tensor
    mask: Tensor
    scores: Tensor
    sentences: list[list[list[str]]]
    log_probs: list[list[float]]


class Answers(NamedTuple):
    """What a model says: about the events given to it, and about those that it proposes itself; None: none."""

    given: Told | None
    learned: Told | None

    @property
    def main(self) -> Told:
        """The given events' where there are any."""
        told = self.given or self.learned
        assert told is not None
        return told


class DescribedEvent(NamedTuple):
    """One event of a video.

    Attributes:
        start_s: seconds.
        end_s: seconds.
        sentence: what happens.
        score: of the proposal, in [0, 1]; 1 for events that were given.
        log_prob: mean log-probability per word.
    """

    start_s: float
    end_s: float
    sentence: str
    score: float
    log_prob: float


def event_rows(told: Told, video_ids: Sequence[str]) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Video, event and a record of each event that was told."""
    events = told.events_s.tolist()
    for v, video in enumerate(told.sentences):
        for e, words in enumerate(video):
            start, end = (round(t, 3) for t in events[v][e])
            yield v, e, {"video": video_ids[v], "start_s": start, "end_s": end, "caption": " ".join(words)}
