"""Clips drawn from labelled segments of untrimmed video: what is read of them, and what they show."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..zoo.batch import ClipBatch
from ..zoo.video.base import VideoEncoder, crop_or_pad
from ..zoo.video.spec import FrameSpec
from .annotations import SplitReport
from .loader import ResumableLoader
from .packets import VideoError
from .reading import Gatherer
from .video import FrameReader

BACKGROUND = -1


@dataclass(frozen=True)
class LabelledSegment:
    """A stretch of video in which one action, or none, is seen from beginning to end.

    Attributes:
        segment_id: ``<video>#<k>``, the k-th segment of its video in the annotation file.
        video_id: name of the video.
        start_s: start in seconds.
        end_s: end.
        duration_s: length of the video.
        action: class of the action, -1 in the background.
        names: what files, captions and features may call the video, `video_id` first.
    """

    segment_id: str
    video_id: str
    start_s: float
    end_s: float
    duration_s: float
    action: int
    names: tuple[str, ...]

    def name_in(self, known: Collection[str]) -> str | None:
        """The name by which the video is known there; None where it is not."""
        return next((name for name in self.names if name in known), None)


def usable(segments: Sequence[LabelledSegment], spec: FrameSpec, report: SplitReport) -> list[LabelledSegment]:
    """Segments cut to their video; those shorter than a clip of the encoder are dropped, as TSP does."""
    assert spec.fps is not None
    kept = []
    for segment in segments:
        start, end = max(0.0, segment.start_s), min(segment.end_s, segment.duration_s)
        if segment.start_s < 0:
            report.repaired["start before 0"].append(segment.segment_id)
        if segment.end_s > segment.duration_s:
            report.repaired["end after the video's end"].append(segment.segment_id)
        if (end - start) * spec.fps < spec.window:
            report.dropped["shorter than a clip"].append(segment.segment_id)
        else:
            kept.append(replace(segment, start_s=start, end_s=end))
    return kept


def clip_spec(encoder: VideoEncoder) -> FrameSpec:
    """How an encoder sees one clip.

    Raises:
        ValueError: it does not look at single clips of one length and size; says why, and what to do.
    """
    spec, problem = encoder.spec, ""
    if len(encoder.parts) > 1:
        problem = "is several encoders in one; choose one of them"
    elif spec.sound:
        problem = "hears sound; choose one that looks at frames"
    elif spec.size is None:
        problem = "takes frames of any size, which make no batch; choose one with a `size`"
    elif spec.fps is None:
        problem = "takes every file's own frame rate, so that clips differ in length; set its `fps`"
    elif spec.context > 1:
        problem = f"looks at {spec.context} units at once; choose one that gives one vector per clip"
    if problem:
        raise ValueError(f"model.video_encoder ({type(encoder).__name__}) {problem}")
    return spec


@dataclass(frozen=True)
class Drawing:
    """How clips are drawn from segments.

    Attributes:
        per_segment: K clips of each segment in an epoch.
        random: anywhere in the segment, cropped anywhere; else K clips from its start to its end, cropped in the
            middle.
        flip: of random clips, show every other one in a mirror.
        seed: of what is random.
    """

    per_segment: int
    random: bool
    flip: bool
    seed: int

    def share(self, k: int, random: np.random.Generator) -> float:
        """Where in the room that a segment leaves its k-th clip starts, in [0, 1]."""
        return float(random.random() if self.random else np.linspace(0, 1, self.per_segment)[k])

    def view(self, frames: Tensor, spec: FrameSpec, random: np.random.Generator) -> Tensor:
        """``(L, 3, h, w)`` cropped to the size of the encoder, all frames in the same way."""
        height, width = frames.shape[-2:]
        if not self.random:
            return crop_or_pad(frames, spec)
        assert spec.size is not None
        top, left = (
            int(random.integers(have - want + 1)) for have, want in zip((height, width), spec.size, strict=True)
        )
        frames = frames[..., top : top + spec.size[0], left : left + spec.size[1]]
        return frames.flip(-1) if self.flip and random.random() < 0.5 else frames


class Told(NamedTuple):
    """S sentences about a video: start and end ``(S, 2)`` in seconds, their concepts ``(S, N)`` bool."""

    spans_s: npt.NDArray[np.float64]
    concepts: npt.NDArray[np.bool_]

    def within(self, start_s: float, end_s: float, min_overlap_s: float) -> tuple[npt.NDArray[np.bool_], bool]:
        """Concepts ``(N,)`` of the sentences that overlap a stretch by more than this; whether any does."""
        shared_s = np.minimum(end_s, self.spans_s[:, 1]) - np.maximum(start_s, self.spans_s[:, 0])
        heard = shared_s > min_overlap_s
        concepts: npt.NDArray[np.bool_] = np.any(self.concepts[heard], axis=0)
        return concepts, bool(heard.any())


@dataclass(frozen=True)
class Knowledge:
    """What is known of the videos of a split, beside their segments.

    Attributes:
        files: by video id.
        rows: row of each video in `context`.
        context: ``(V, G)`` float32.
        told: sentences by video id.
        num_concepts: N.
        min_overlap_s: see `ClipDataModule`.
        unlabelled: see `ClipDataModule`.
    """

    files: Mapping[str, Path]
    rows: Mapping[str, int]
    context: npt.NDArray[np.float32]
    told: Mapping[str, Told]
    num_concepts: int
    min_overlap_s: float
    unlabelled: Literal["negative", "masked"]

    def concepts(self, video_id: str, start_s: float, end_s: float) -> tuple[npt.NDArray[np.bool_], bool]:
        """Concepts ``(N,)`` of a stretch, and whether those that are absent are known to be absent."""
        if video_id not in self.told:
            return np.zeros(self.num_concepts, dtype=np.bool_), False
        concepts, any_sentence = self.told[video_id].within(start_s, end_s, self.min_overlap_s)
        return concepts, any_sentence or self.unlabelled == "negative"


class Clip(NamedTuple):
    """Frames ``(L, 3, H, W)`` uint8, and their start in seconds."""

    frames: Tensor
    start_s: float


class ClipDataset(Dataset[ClipBatch]):
    """Clips of one split: item i is the clip ``i // n`` of segment ``i % n``, n segments.

    What is random follows from (seed, epoch, item) alone, whichever process draws it. Videos that turn out
    unreadable are reported by name and left out from then on; in training, the next clips take their places.

    Args:
        segments: of the split, none shorter than a clip.
        known: what is known of their videos.
        spec: of the encoder, see `clip_spec`.
        drawing: how clips are drawn.

    Attributes:
        epoch: ``()`` int64 in shared memory, since workers outlive epochs.
    """

    def __init__(
        self, segments: Sequence[LabelledSegment], known: Knowledge, spec: FrameSpec, drawing: Drawing
    ) -> None:
        assert spec.fps is not None
        self.segments, self.known, self.spec, self.drawing = list(segments), known, spec, drawing
        self.clip_s = spec.window / spec.fps
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._wanted: dict[str, list[int]] = {}
        source = str(next(iter(known.files.values())).parent)
        self._gatherer = Gatherer(len(self), self._video_of, self._read, source)

    def __len__(self) -> int:
        return self.drawing.per_segment * len(self.segments)

    @property
    def lost(self) -> set[str]:
        """Videos that turned out unreadable."""
        return self._gatherer.lost

    def _video_of(self, index: int) -> str:
        return self.segments[index % len(self.segments)].video_id

    def __getitem__(self, index: int) -> ClipBatch:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> ClipBatch:
        """A batch of the clips at `indices`, in that order; each video is opened once."""
        self._wanted = defaultdict(list)
        for index in indices:
            self._wanted[self._video_of(index)].append(index)
        kept, read = self._gatherer.gather(indices)
        clips = {index: clip for found in read.values() for index, clip in found.items()}
        self._wanted = {}
        for step in range(1, len(self) if self.drawing.random else 1):
            if len(kept) == len(indices):
                break
            spare = (indices[-1] + step) % len(self)
            if spare not in clips and self._video_of(spare) not in self.lost:
                (found,), read = self._gatherer.gather([spare])
                kept += [] if found in clips else [found]
                clips |= read[self._video_of(found)]
        return self._batch(kept, [clips[index] for index in kept])

    def _batch(self, indices: Sequence[int], clips: Sequence[Clip]) -> ClipBatch:
        chosen = [self.segments[index % len(self.segments)] for index in indices]
        concepts, described = zip(
            *(
                self.known.concepts(s.video_id, clip.start_s, clip.start_s + self.clip_s)
                for s, clip in zip(chosen, clips, strict=True)
            ),
            strict=True,
        )
        actions = torch.tensor([s.action for s in chosen])
        return ClipBatch(
            clips=torch.stack([clip.frames for clip in clips]),
            context=torch.from_numpy(self.known.context[[self.known.rows[s.video_id] for s in chosen]]),
            actions=actions,
            regions=(actions == BACKGROUND).long(),
            concepts=torch.from_numpy(np.stack(concepts)),
            described=torch.tensor(described),
            starts_s=torch.tensor([clip.start_s for clip in clips]),
            clip_ids=[
                f"{s.segment_id}/{index // len(self.segments)}" for s, index in zip(chosen, indices, strict=True)
            ],
            video_ids=[s.video_id for s in chosen],
            index=torch.tensor(indices),
        )

    def _read(self, index: int) -> dict[int, Clip]:
        """The clip of an item, and those of all items of the batch that show the same video."""
        video_id, spec = self._video_of(index), self.spec
        indices = list(dict.fromkeys([*self._wanted.get(video_id, ()), index]))
        randoms = [np.random.default_rng((self.drawing.seed, int(self.epoch), i)) for i in indices]
        assert spec.fps is not None
        with FrameReader(self.known.files[video_id]) as reader:
            info = reader.info
            starts = [self._start(i, info.duration_s, r) for i, r in zip(indices, randoms, strict=True)]
            frames = reader.clips(starts, spec.window, spec.fps, spec.decoded_size(info.height, info.width))
        return {
            i: Clip(self.drawing.view(clip, spec, random), start)
            for i, clip, random, start in zip(indices, frames, randoms, starts, strict=True)
        }

    def _start(self, index: int, duration_s: float, random: np.random.Generator) -> float:
        """Where a clip starts, in seconds, in a file of this length."""
        k, row = divmod(index, len(self.segments))
        segment = self.segments[row]
        if segment.start_s >= duration_s:
            raise VideoError(
                f"{self.known.files[segment.video_id]}: ends at {duration_s:.1f} s, before segment "
                f"{segment.segment_id} starts ({segment.start_s:.1f} s): the file is cut short, or another video"
            )
        room = max(0.0, min(segment.end_s, duration_s) - segment.start_s - self.clip_s)
        return segment.start_s + room * self.drawing.share(k, random)


class ClipLoader(ResumableLoader[ClipBatch]):
    """Tells the dataset the epoch, wherever its workers are."""

    def __iter__(self) -> Iterator[ClipBatch]:  # type: ignore[override]
        assert isinstance(self.dataset, ClipDataset)
        self.dataset.epoch.fill_(self.order.epoch)
        yield from super().__iter__()
