"""Stretches of video with annotated actions: what is true at a moment, when and where."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .units import Times

Box = tuple[float, float, float, float]
BACKGROUND = -1
TOLERANCE_S = 1e-6  # of times that went through a division by the rate


class Mark(NamedTuple):
    """An action (its index in the stretch) from `start_s` to before `end_s`, and its box, where one is known."""

    start_s: float
    end_s: float
    action: int
    box: Box | None = None


class Truth(NamedTuple):
    """What is annotated at n moments: labels ``(n,)`` int64, -1 = no action; boxes ``(n, 4)``, NaN = unknown."""

    labels: Tensor
    boxes: Tensor


@dataclass(frozen=True)
class Stretch:
    """A stretch of video, the actions it is asked about, and the truth about them.

    Attributes:
        sample_id: ``<video>``, or ``<video>#<k>`` for the k-th stretch of a video in its annotation file.
        video_id: name of the video, without extension.
        protocol: `untrimmed`, `spatial` or `temporal`, see `ActionBatch`.
        actions: texts, all different.
        marks: by start; of two that hold at a moment, the one that began last is true.
        size: (width, height) of the picture that boxes are given in; None = the original frame.
        start_s: start in seconds.
        end_s: end in seconds, not itself a moment; None = that of the video.
    """

    sample_id: str
    video_id: str
    protocol: str
    actions: tuple[str, ...]
    marks: tuple[Mark, ...]
    size: tuple[int, int] | None = None
    start_s: float = 0.0
    end_s: float | None = None

    def times(self, fps: float, duration_s: float) -> Times:
        """Moments `start_s` + k / fps before the end of stretch and video ``(n,)``; the first is always there."""
        end = duration_s if self.end_s is None else min(self.end_s, duration_s)
        count = max(1, math.ceil((end - self.start_s) * fps - TOLERANCE_S))
        moments: Times = self.start_s + np.arange(count) / fps
        return moments

    def truth(self, times_s: Times) -> Truth:
        """Labels and boxes at n moments. In `spatial` stretches every moment shows the one action."""
        starts = np.array([mark.start_s for mark in self.marks])
        last = np.searchsorted(starts, times_s + TOLERANCE_S, side="right") - 1
        found = [self.marks[k] if k >= 0 else None for k in last]
        found = [m if m and t + TOLERANCE_S < m.end_s else None for m, t in zip(found, times_s, strict=True)]
        labels = [BACKGROUND if mark is None else mark.action for mark in found]
        boxes = [mark.box if mark and mark.box else (math.nan,) * 4 for mark in found]
        if self.protocol == "spatial":
            labels = [0] * len(labels)
        return Truth(torch.tensor(labels), torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))

    def order(self, labels: Tensor) -> list[int]:
        """The transcript of a `temporal` stretch: its labels without repetitions; else empty."""
        return [label for label, _ in groupby(labels.tolist())] if self.protocol == "temporal" else []


def action_text(name: str) -> str:
    """A class name as text: lower case, single blanks for underscores and white space."""
    return " ".join(name.replace("_", " ").lower().split())


def box_within(corners: Iterable[Any], size: tuple[int, int] | None) -> Box | None:
    """A box x1, y1, x2, y2 cut to the picture (`size`: width, height); None if nothing of it is left.

    Raises:
        ValueError: these are not four numbers.
    """
    x1, y1, x2, y2 = (float(c) for c in corners)
    width, height = size or (math.inf, math.inf)
    x1, y1, x2, y2 = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None
