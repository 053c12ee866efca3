"""ActivityNet-Entities (Zhou et al., CVPR 2019, arXiv:1812.06587) as grounded clips, for GROVE.

Differs from GROVE's program (Kazakos et al., ICCV 2025): phrases are the annotated words, all of them; there they
are the names of the first class of each box, looked for in the sentence, and segments with a class twice or of
less than half a second are left out of training. Frames are drawn among the ten that boxes were drawn in; there,
also from anywhere in between.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

from ..zoo.text.grounded_text import GroundedText
from .activitynet_entities import FILE, FRAMES, ActivityNetEntities
from .annotations import AnnotationError
from .grounded_clips import GroundedClipDataModule, Split
from .grounded_index import ClipIndex, index_clips
from .grounded_records import GroundedClip
from .segments import Segment, sample_times

TICKS = 1_000_000  # per second, for times that are no multiples of anything


class ActivityNetEntitiesClips(GroundedClipDataModule):
    """Segments of ActivityNet-Entities: ten frames each, and a sentence whose annotated words are its phrases.

    Reads the files of `ActivityNetEntities`. A box was drawn in one frame alone, so that nothing is known about
    where a thing is *not* to be seen: train with ``objectness: 0`` in the weights of the losses. Boxes of the
    test split are withheld; ``test_split: val`` is judged here, and a submission is written for either. Segments
    without a box are left out of training.

    Args:
        root: folder of the JSON files.
        kwargs: see `GroundedClipDataModule`.
    """

    protocol = "entities"

    def __init__(self, root: str | Path, **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        self.entities = ActivityNetEntities(root)

    @property
    def classes(self) -> set[str]:
        """Object classes, lemmas."""
        return self.entities.classes

    def entity_reference(self, split: Split) -> tuple[dict[str, Any], list[str]] | None:
        """See `CaptionDataModule.entity_reference`."""
        return self.entities.entity_reference(split)

    def clips(self, split: Split) -> ClipIndex:
        """See `GroundedClipDataModule.clips`."""
        annotation = FILE.format("test_skeleton" if split == "test" else "trainval")
        files = [self.root / annotation, self.root / "split_ids_anet_entities.json"]
        return index_clips(files, self.cache, lambda: self._read(split), split)

    def _read(self, split: Split) -> Iterator[GroundedClip | AnnotationError]:
        for segment in self.entities.read(split):
            try:
                clip = entity_clip(segment)
                if split == "train" and not any(clip.boxes):
                    raise AnnotationError(f"{clip.clip_id}: no word has a box")
                yield clip
            except AnnotationError as error:
                yield error


def entity_clip(segment: Segment) -> GroundedClip:
    """A segment as a clip of the frames that its boxes were drawn in.

    Raises:
        AnnotationError: the segment is empty or inverted.
    """
    start, end = segment.start_s, math.nan if segment.end_s is None else segment.end_s
    if not (start >= 0 and start + FRAMES / TICKS <= end < math.inf):
        raise AnnotationError(f"{segment.segment_id}: the segment from {start} to {end} s is empty or inverted")
    first, step = round(TICKS * sample_times(start, end, FRAMES)[0]), round(TICKS * (end - start) / FRAMES)
    (caption,) = segment.captions
    ends = [last - 1 for last in accumulate(len(token) + 1 for token in caption.tokens)]
    words = sorted({word for word, _ in caption.entities})
    boxes: list[list[tuple[int, list[float]]]] = [[] for _ in range(FRAMES)]
    for box in caption.boxes:
        boxes[box.frame] += [(words.index(word), list(box.box)) for word in dict.fromkeys(box.words)]
    return GroundedClip(
        segment.segment_id,
        segment.video_id,
        segment.video_id,
        float(TICKS),
        range(first, first + FRAMES * step, step),
        (1.0, math.nan),  # boxes are in units of the width
        GroundedText(caption.text, tuple((ends[k] - len(caption.tokens[k]), ends[k]) for k in words)),
        [sorted(frame, key=lambda pair: pair[0]) for frame in boxes],
    )
