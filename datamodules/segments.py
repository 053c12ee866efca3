"""Segments of video that sentences describe, and the boxes of their words: what caption data sets hold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class EntityBox:
    """One annotated box.

    Attributes:
        words: indices of the caption's tokens that the box shows; one box may have several words, and one word
            several boxes.
        classes: object class of each of these words.
        frame: k, the frame in which the box was drawn, one of the F frames of `sample_times`.
        box: x1, y1, x2, y2 in units of the frame's *width*, in both directions: annotations fix the width in
            pixels (720 in ActivityNet-Entities), not the height.
        crowd: the box holds a group.
    """

    words: tuple[int, ...]
    classes: tuple[str, ...]
    frame: int
    box: tuple[float, float, float, float]
    crowd: bool = False


@dataclass(frozen=True)
class Caption:
    """One sentence.

    Attributes:
        text: as published.
        tokens: its words, none of them empty; what models read, and what indices of words refer to.
        boxes: where its words are, where that was annotated.
        entities: index and class of the words that the data set calls visible, with or without a box.
    """

    text: str
    tokens: tuple[str, ...]
    boxes: tuple[EntityBox, ...] = ()
    entities: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True)
class Segment:
    """A stretch of video and the sentences that describe it.

    Attributes:
        segment_id: ``<video>#<name of the segment in its file>``.
        video_id: name of the video file, without extension.
        start_s: start in seconds.
        end_s: end in seconds; None is the end of the video, whose length the file did not tell.
        captions: at least one.
    """

    segment_id: str
    video_id: str
    start_s: float
    end_s: float | None
    captions: tuple[Caption, ...]


def sample_times(start_s: float, end_s: float, frames: int) -> npt.NDArray[np.float64]:
    """Middles of `frames` equal parts of a segment, seconds: frame k is at start + (k + 0.5)(end - start)/F."""
    return start_s + (np.arange(frames) + 0.5) * (end_s - start_s) / frames
