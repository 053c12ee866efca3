"""YouCook-Interactions and GroundingYouTube as grounded clips, for GROVE: where is what a given sentence says?

As in GROVE's program (Kazakos et al., ICCV 2025) the whole sentence is the phrase, a segment is looked at in five
frames per second, and the boxes of those frames are judged that show an annotated second.
"""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from ..zoo.text.grounded_text import GroundedText
from .actions import ActionDataModule
from .annotations import AnnotationError
from .grounded_clips import GroundedClipDataModule, Split
from .grounded_index import ClipIndex, index_clips
from .grounded_records import RATE, GroundedClip
from .grounding_youtube import GroundingYouTube
from .stretches import Stretch
from .youcook_interactions import BOXES, SEGMENTS, SENTENCES, YouCookInteractions

log = logging.getLogger(__name__)


class PointingClips(GroundedClipDataModule):
    """Base of both: segments with a sentence each, for evaluation alone.

    Attributes:
        reader: reads the annotation; also its lists of videos, ``videos_val.txt`` and ``videos_test.txt``.
        files: the annotation files.
    """

    gives_captions = True
    protocol = "pointing"
    reader: ActionDataModule
    files: list[Path]

    @abstractmethod
    def __init__(self, root: str | Path, **kwargs: Any) -> None:
        super().__init__(root, **kwargs)

    def clips(self, split: Split) -> ClipIndex | None:
        """See `GroundedClipDataModule.clips`; there is nothing to train on."""
        if split == "train":
            return None
        files = self.files + [path for path in self.reader.lists.values() if path is not None]
        there = [path for path in files if path.is_file()] or files  # the reader tells best what else it needs
        return index_clips(there, self.cache, lambda: self._read(split), split)

    def _read(self, split: Literal["val", "test"]) -> Iterator[GroundedClip | AnnotationError]:
        yield from map(pointing_clip, self.reader.read(split))
        report = self.reader.reports[split]
        log.info("%s %s", type(self).__name__, report)
        for reason, names in report.dropped.items():  # of stretches; boxes are named <video>@<second>
            yield from (AnnotationError(f"{name}: {reason}") for name in names if "#" in name)


class YouCookInteractionsClips(PointingClips):
    """Segments of YouCook-Interactions with their sentences.

    Args:
        root: folder of the files of `YouCookInteractions`.
        sizes: JSON file ``{video: [width, height]}`` of the originals, where the video files have other sizes.
        kwargs: see `GroundedClipDataModule`.
    """

    def __init__(self, root: str | Path, sizes: str | Path | None = None, **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        self.reader = YouCookInteractions(root, sizes)
        self.files = [self.root / name for name in (f"{BOXES}.json", f"{SEGMENTS}.json", SENTENCES)]
        self.files += [] if sizes is None else [Path(sizes)]


class GroundingYouTubeClips(PointingClips):
    """Segments of GroundingYouTube with their steps.

    Args:
        root: folder of the files of `GroundingYouTube`.
        kwargs: see `GroundedClipDataModule`.
    """

    def __init__(self, root: str | Path, **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        self.reader = GroundingYouTube(root, protocols=("spatial",))
        self.files = [self.root / name for name in ("box_anno.json", "ground_seg.json", "id2wh_new.json")]


def pointing_clip(stretch: Stretch) -> GroundedClip | AnnotationError:
    """A `spatial` stretch as a clip of all its frames at `RATE`; those at the start of a mark have its box."""
    (sentence,) = stretch.actions
    if not sentence or stretch.end_s is None:
        return AnnotationError(f"{stretch.sample_id}: there is no sentence, or no end")
    frames = range(round(RATE * stretch.start_s), round(RATE * stretch.end_s))
    boxes: list[list[tuple[int, list[float]]]] = [[] for _ in frames]
    for mark in stretch.marks:
        if mark.box is not None:
            boxes[frames.index(round(RATE * mark.start_s))] = [(0, list(mark.box))]
    width, height = stretch.size or (math.nan, math.nan)
    caption = GroundedText(sentence, ((0, len(sentence)),))
    names = (stretch.sample_id, stretch.video_id, stretch.video_id)
    return GroundedClip(*names, float(RATE), frames, (float(width), float(height)), caption, boxes)
