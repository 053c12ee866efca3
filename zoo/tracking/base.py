"""What every tracker is: boxes in one frame each in, boxes and scores in all frames out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn


class Tracks(NamedTuple):
    """Where K things are in T frames.

    Attributes:
        boxes: ``(K, T, 4)`` float, xyxy in pixels of the frames; may reach beyond their borders.
        scores: ``(K, T)`` float in [0, 1], how sure the tracker is that the thing is there. 1 in the first frame
            of each track; 0 where it is not found.
    """

    boxes: Tensor
    scores: Tensor


class Tracker(nn.Module, ABC):
    """Base of all trackers: from the frame of its box, each thing is followed forwards and backwards."""

    @abstractmethod
    def track(self, frames: Tensor, boxes: Tensor, starts: Tensor) -> Tracks:
        """Follow K things through T frames.

        Args:
            frames: ``(T, 3, H, W)`` uint8, RGB, in the order of time.
            boxes: ``(K, 4)`` float, xyxy in pixels.
            starts: ``(K,)`` int64, the frame that each box is in.

        Returns:
            Boxes and scores in all frames, on the CPU.
        """
