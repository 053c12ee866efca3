"""Event proposals in ActivityNet's file format, and which of them belong to which annotated event."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ..zoo.temporal import tiou
from .annotations import AnnotationError, read_json
from .packets import VideoError
from .shards import write_json

Array = npt.NDArray[np.float64]
PREFIX = "v_"
"""In front of the ids in ActivityNet Captions and of file names; ActivityNet's own files are without."""


class Proposals(NamedTuple):
    """Proposed events of one video, in the order of the file.

    Attributes:
        segments_s: ``(P, 2)``, start and end in seconds, as they are in the file.
        scores: ``(P,)``, any range; higher is better.
    """

    segments_s: Array
    scores: Array

    def best(self, duration_s: float, most: int, min_score: float | None = None) -> Array:
        """Segments of the best proposals, cut to the video, in the order of their starts.

        Args:
            duration_s: of the video; what lies behind it is cut, and empty segments are left out.
            most: at most so many.
            min_score: of those with at least this score; None takes all.

        Returns:
            ``(K, 2)``, K <= `most`; of equal scores the earlier ones of the file.
        """
        segments = self.segments_s.clip(0.0, duration_s)
        usable = segments[:, 1] > segments[:, 0]
        if min_score is not None:
            usable &= self.scores >= min_score
        rows = np.flatnonzero(usable)
        chosen: Array = segments[rows[np.argsort(-self.scores[rows], kind="stable")[:most]]]
        return chosen[np.argsort(chosen[:, 0], kind="stable")]


def read_proposals(path: str | Path) -> dict[str, Proposals]:
    """Read ``{"results": {video: [{"segment": [start, end], "score": x}]}}``, times in seconds.

    Args:
        path: the JSON file; video ids with or without ``v_``, see `proposals_of`.

    Raises:
        AnnotationError: not that format; names file, video and entry.
    """
    path = Path(path)
    stored = read_json(path)
    if not isinstance(stored, dict) or not isinstance(stored.get("results"), dict):
        raise AnnotationError(f'{path}: not a proposal file, a JSON object with an object under "results"')
    return {video: _parsed(entries, f"{path}, video {video!r}") for video, entries in stored["results"].items()}


def _parsed(entries: Any, where: str) -> Proposals:
    if not isinstance(entries, list):
        raise AnnotationError(f"{where}: expected a list of proposals, not a {type(entries).__name__}")
    rows = []
    for k, entry in enumerate(entries):
        try:
            start, end = entry["segment"]
            row = (float(start), float(end), float(entry["score"]))
        except (KeyError, TypeError, ValueError) as error:
            raise AnnotationError(
                f'{where}, entry {k}: each needs "segment" [start, end] in seconds and "score" ({error!r})'
            ) from error
        if not all(map(math.isfinite, row)):
            raise AnnotationError(f"{where}, entry {k}: {entry} holds a number that is not finite")
        rows.append(row)
    table = np.array(rows, dtype=np.float64).reshape(-1, 3)
    return Proposals(table[:, :2], table[:, 2])


def write_proposals(path: str | Path, proposals: Mapping[str, Proposals]) -> None:
    """Write proposals, atomically; ids lose their ``v_`` as in ActivityNet's own files.

    Args:
        path: the JSON file.
        proposals: by video id.

    Raises:
        ValueError: two ids differ in their ``v_`` alone.
    """
    results = {
        video.removeprefix(PREFIX): [
            {"segment": segment, "score": score}
            for segment, score in zip(found.segments_s.tolist(), found.scores.tolist(), strict=True)
        ]
        for video, found in proposals.items()
    }
    if len(results) < len(proposals):
        raise ValueError(f"{path}: of {len(proposals)} video ids only {len(results)} differ without their v_")
    value = {"version": "VERSION 1.3", "results": results, "external_data": {"used": False, "details": ""}}
    write_json(Path(path), value)


def proposals_of(video_id: str, proposals: Mapping[str, Proposals]) -> Proposals | None:
    """Proposals of a video, whether ids have a ``v_`` here, there, in both places or in none; None = no entry.

    ``v_`` is also how a few of YouTube's ids begin, so at most one is taken off, and the id without goes first.
    """
    names = (video_id.removeprefix(PREFIX), video_id, PREFIX + video_id)
    return next((proposals[name] for name in names if name in proposals), None)


def best_events(
    video_id: str, proposals: Mapping[str, Proposals], duration_s: float, most: int
) -> list[list[float]]:
    """Start and end of the best proposals of a video, see `Proposals.best`.

    Raises:
        VideoError: there are none, or they lie behind the end of the video.
    """
    own = proposals_of(video_id, proposals)
    if own is None or not len(own.scores):
        raise VideoError(
            f"The proposals have no events for '{video_id}' (nor with or without {PREFIX} before it)."
        )
    events: list[list[float]] = own.best(duration_s, most).tolist()
    if not events:
        raise VideoError(f"None of the events proposed for '{video_id}' lies in its {duration_s:.2f} s.")
    return events


def match(segments_s: Array, events_s: Array) -> npt.NDArray[np.bool_]:
    """Which proposals may stand for which annotated event: each for the one that it overlaps best, by IoU.

    An event that is no proposal's best takes the proposal with the highest IoU with it; then two events may share
    one. Only where nothing overlaps an event it gets none.

    Args:
        segments_s: ``(P, 2)`` proposals in seconds.
        events_s: ``(E, 2)`` annotated events in seconds.

    Returns:
        ``(P, E)``, True = the proposal stands for the event.
    """
    P, E = len(segments_s), len(events_s)
    matched = np.zeros((P, E), dtype=np.bool_)
    if P and E:
        overlap = tiou(torch.from_numpy(segments_s)[:, None], torch.from_numpy(events_s)).numpy()
        matched[np.arange(P), overlap.argmax(1)] = True
        left = np.flatnonzero(~(matched & (overlap > 0)).any(0))
        matched[overlap[:, left].argmax(0), left] = True
        matched &= overlap > 0
    return matched
