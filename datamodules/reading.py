"""Samples of videos of which some turn out to be broken: reported, left out, and never the end of a run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from .features import FeatureError
from .packets import VideoError

log = logging.getLogger(__name__)
Video = TypeVar("Video")


class Gatherer(Generic[Video]):
    """Reads each video of a batch once. One that cannot be read is reported by name and left out from then on.

    Args:
        num_samples: of the split.
        key_of: name of the video (or stretch of it) that a sample is about.
        read: reads it for the sample.
        source: what the videos are read from, for messages.

    Attributes:
        lost: names of what cannot be read.
    """

    def __init__(
        self, num_samples: int, key_of: Callable[[int], str], read: Callable[[int], Video], source: str
    ) -> None:
        self.num_samples, self.key_of, self.read, self.source = num_samples, key_of, read, source
        self.lost: set[str] = set()

    def gather(self, indices: Sequence[int]) -> tuple[list[int], dict[str, Video]]:
        """Samples of a batch that can be had, and their videos by name, in the order of first appearance.

        A batch that would be empty takes the next readable sample instead.

        Raises:
            FeatureError: not one video of the split can be read.
        """
        videos: dict[str, Video] = {}
        kept: list[int] = []
        waiting = list(indices)
        spare = indices[-1]
        while waiting:
            index = waiting.pop(0)
            key = self.key_of(index)
            if key not in videos and key not in self.lost:
                try:
                    videos[key] = self.read(index)
                except (FeatureError, VideoError) as error:
                    self.lost.add(key)
                    log.warning("left out from here on: %s", error)
            if key in videos:
                kept.append(index)
            if not waiting and not kept:  # every video of this batch is broken
                spare = (spare + 1) % self.num_samples
                if spare == indices[-1]:
                    raise FeatureError(f"{self.source}: not one video of this split can be read")
                waiting = [spare]
        return kept, videos
