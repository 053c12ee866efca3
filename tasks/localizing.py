"""What tasks answer that find actions in untrimmed video: when each one is, and where."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Tube(NamedTuple):
    """One action from its start to its end; n moments.

    Attributes:
        action: its text.
        start_s: start in seconds.
        end_s: end in seconds.
        score: mean similarity of its moments, a cosine.
        times_s: n seconds of the video.
        points: n pairs x, y in pixels of the original frame: where the heat is greatest.
        boxes: n boxes x1, y1, x2, y2 in pixels of the original frame, around what the heat map marks.
    """

    action: str
    start_s: float
    end_s: float
    score: float
    times_s: list[float]
    points: list[list[float]]
    boxes: list[list[float]]


class Localization(NamedTuple):
    """Which of A actions is when and where in a video; n moments.

    Attributes:
        actions: the texts that were looked for.
        tubes: what was found, in the order of time; at every moment at most one action.
        times_s: n seconds of the video, evenly spaced.
        similarity: ``(n, A)`` cosine of every moment and action.
        heat: ``(n, h, w)`` heat map of the action chosen at each moment in multiples of an even spread; zero in
            the background.
        size: (width, height) of the original frames in pixels.
        duration_s: length of the video.
    """

    actions: list[str]
    tubes: list[Tube]
    times_s: list[float]
    similarity: Tensor
    heat: Tensor
    size: tuple[int, int]
    duration_s: float
