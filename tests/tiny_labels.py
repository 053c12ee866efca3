"""Trackers, detectors and linkers that do what a test can predict; also named by class path on command lines."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
import videos
from torch import Tensor

from groundzoo.zoo.tracking.base import Tracker, Tracks


class CodeTracker(Tracker):
    """On `videos.coded_video`: the score is the number that a frame shows, in thousandths; the box stays.

    Args:
        pause_s: how long each call takes at least.
        shift: pixels by which the box moves from its start, per picture.
    """

    def __init__(self, pause_s: float = 0.0, shift: float = 0.0) -> None:
        super().__init__()
        self.pause_s, self.shift = pause_s, shift
        self.calls: list[tuple[tuple[int, ...], list[int], list[list[float]], list[int]]] = []

    def track(self, frames: Tensor, boxes: Tensor, starts: Tensor) -> Tracks:
        time.sleep(self.pause_s)
        codes = videos.read_codes(frames)
        self.calls.append((tuple(frames.shape), codes, boxes.tolist(), starts.tolist()))
        away = torch.arange(len(frames))[None] - starts[:, None]
        found = boxes[:, None] + self.shift * away[..., None]
        return Tracks(found, (torch.tensor(codes) / 1000).repeat(len(boxes), 1))


class Found(NamedTuple):
    """As `groundzoo.zoo.detection.Detections`."""

    boxes: Tensor
    scores: Tensor


class CodeDetector:
    """On `videos.coded_video`: surest of each phrase in the last of the frames, less for every further phrase."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[int], list[str]]] = []

    def detect(self, frames: Tensor, phrases: Sequence[str]) -> Found:
        self.calls.append((videos.read_codes(frames), list(phrases)))
        height, width = frames.shape[-2:]
        box = torch.tensor([0.25 * width, 0.5 * height, 0.75 * width, height])
        scores = (
            torch.linspace(0.1, 1, len(frames))[None] * torch.tensor([0.9, 0.5, 0.2, 0.8])[: len(phrases), None]
        )
        return Found(box.expand(len(phrases), len(frames), 4), scores)


class EveryVerb:
    """Links each form of `ride` to all entities, the last one first."""

    def links(self, tokens: Sequence[str], entities: Sequence[int]) -> dict[int, tuple[int, ...]]:
        verbs = [k for k, token in enumerate(tokens) if token.startswith("rid")]
        return {k: tuple(entities) for k in reversed(verbs) if entities}
