"""Pictures of segments for whoever follows things through them: at a steady rate, and at the F sampled times."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from .packets import Size, VideoError
from .passes import outlive_crashes
from .segments import Segment, sample_times
from .video import SAME_TIME_S, FrameReader


class Job(NamedTuple):
    """A video, its segments, and of which of them somebody looks at the pictures."""

    video_id: str
    path: Path
    segments: tuple[Segment, ...]
    wanted: tuple[bool, ...]


class Sampling(NamedTuple):
    """Which pictures are read of a segment.

    Attributes:
        frames: F, how many a model sees; all of these are read.
        fps: further ones per second in between; None for none.
        max_side: pictures with a longer side (pixels) are made this long.
        max_frames: longer segments get fewer pictures per second, so that memory is bounded by
            ``(max_frames + F) * 3 * max_side ** 2`` bytes.
    """

    frames: int
    fps: float | None
    max_side: int
    max_frames: int


class SegmentFrames(NamedTuple):
    """One segment of one video.

    Attributes:
        job: position of the video in the list of work.
        segment: position of the segment in its job.
        size: height and width of the file's pictures.
        frames: ``(T, 3, h, w)`` uint8, different pictures in the order of time; T is 0 where nobody asked.
        sampled: ``(F,)`` int64, the rows of `frames` that a model sees.
        problem: why the video cannot be read, else None.
    """

    job: int
    segment: int
    size: Size
    frames: Tensor
    sampled: Tensor
    problem: str | None = None


def no_frames(how: Sampling) -> tuple[Tensor, Tensor]:
    """`frames` and `sampled` where there is no picture."""
    return torch.empty(0, 3, 1, 1, dtype=torch.uint8), torch.zeros(how.frames, dtype=torch.int64)


def read_segment(reader: FrameReader, segment: Segment, how: Sampling) -> tuple[Tensor, Tensor]:
    """The pictures of a segment, each once, and where those of `sample_times` are among them.

    Returns:
        frames uint8 (T, 3, h, w) in the order of time; rows (F,) int64. Times outside the video show its first
        or last picture, as in `FrameReader.at_times`.

    Raises:
        ValueError: the segment's times are no finite numbers.
        VideoError: the video cannot be read.
    """
    info = reader.info
    end_s = info.duration_s if segment.end_s is None else segment.end_s
    moments = sample_times(segment.start_s, end_s, how.frames)
    if not np.isfinite(moments).all():
        raise ValueError(f"segment {segment.segment_id} lasts from {segment.start_s} to {end_s} s")
    times = moments
    if how.fps is not None and segment.start_s < end_s:
        step = max(1 / how.fps, (end_s - segment.start_s) / how.max_frames)
        times = np.concatenate([times, np.arange(segment.start_s, end_s, step)])
    starts = reader.times_s.numpy()

    def shown(at: Any) -> Any:
        return (np.searchsorted(starts, at + SAME_TIME_S, side="right") - 1).clip(0)

    numbers = np.unique(shown(times))
    scale = min(1.0, how.max_side / max(info.height, info.width))
    size = (max(1, round(info.height * scale)), max(1, round(info.width * scale))) if scale < 1 else None
    return reader.at(numbers.tolist(), size), torch.from_numpy(np.searchsorted(numbers, shown(moments)))


class SegmentDataset(IterableDataset[SegmentFrames]):
    """Segments of many videos; a worker takes every n-th video.

    Args:
        work: videos by their position.
        how: which pictures are read.
        current: where each worker notes the video at hand, so that a crash can be blamed on it.
    """

    def __init__(self, work: Sequence[tuple[int, Job]], how: Sampling, current: Any = None) -> None:
        self.work, self.how, self.current = list(work), how, current

    def __iter__(self) -> Iterator[SegmentFrames]:
        worker = get_worker_info()
        number, count = (worker.id, worker.num_workers) if worker else (0, 1)
        nothing = no_frames(self.how)
        for position, job in self.work[number::count]:
            if self.current is not None:
                self.current[number] = position
            try:
                with FrameReader(job.path) as reader:
                    size = reader.info.height, reader.info.width
                    for k, (segment, wanted) in enumerate(zip(job.segments, job.wanted, strict=True)):
                        read = read_segment(reader, segment, self.how) if wanted else nothing
                        yield SegmentFrames(position, k, size, *read)
            except Exception as error:  # whatever a decoder does to an odd file, it costs one video
                known = isinstance(error, VideoError | OSError)
                problem = str(error) if known else f"{job.path}: {type(error).__name__}: {error}"
                yield SegmentFrames(position, 0, (0, 0), *nothing, problem)


class SegmentLoader:
    """Runs a `SegmentDataset` in worker processes; a decoder that crashes costs one video, not the run.

    Args:
        work: the videos.
        how: see `SegmentDataset`.
        num_workers: decoding processes; 0 decodes in this one.
        is_finished: tells whether a video (its position) needs nothing more, for the work left after a crash.
    """

    def __init__(
        self, work: Sequence[Job], how: Sampling, num_workers: int, is_finished: Callable[[int], bool]
    ) -> None:
        self.work, self.how = list(enumerate(work)), how
        self.num_workers, self.is_finished = num_workers, is_finished

    def __iter__(self) -> Iterator[SegmentFrames]:
        return outlive_crashes(
            self.work,
            self._dataset,
            self._ends,
            self.num_workers,
            self.is_finished,
            prefetch_factor=1 if self.num_workers else None,  # a segment may have hundreds of megabytes
        )

    def _dataset(self, work: Sequence[tuple[int, Job]], current: Any) -> SegmentDataset:
        return SegmentDataset(work, self.how, current)

    def _ends(self, problems: dict[int, str]) -> list[SegmentFrames]:
        nothing = no_frames(self.how)
        return [SegmentFrames(job, 0, (0, 0), *nothing, problem) for job, problem in problems.items()]
