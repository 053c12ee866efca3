"""Clips to annotate: lists of them, and their frames."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from .grounded_records import RATE
from .packets import VideoError
from .passes import outlive_crashes
from .video import SAME_TIME_S, FrameReader
from .video_files import VIDEO_SUFFIXES


class Clip(NamedTuple):
    """A stretch of a video; all of it where it has no end.

    Attributes:
        video_id: of the video.
        clip_id: of the clip, within its video.
        start_s: seconds.
        end_s: seconds, None for the end of the video.
    """

    video_id: str
    clip_id: str
    start_s: float = 0.0
    end_s: float | None = None

    @property
    def key(self) -> str:
        """What no other clip is called."""
        return f"{self.video_id}_{self.clip_id}"


def read_clips(source: str | Path | None, videos: Mapping[str, Path]) -> list[Clip]:
    """The clips of a list, or all videos as a whole.

    Args:
        source: ``.csv`` with a header or ``.jsonl``; `video` (id or file name), `start_s`, `end_s` (seconds) and
            optionally `clip_id`, else clips of a video are numbered in the order of the list. None: all videos.
        videos: files by id.

    Raises:
        ValueError: a line is wrong or two clips are called alike; says which.
    """
    if source is None:
        return [Clip(video_id, "0") for video_id in videos]
    path = Path(source)
    if not path.is_file():
        raise ValueError(f"clips {path}: no such file")
    rows = _csv_rows(path) if path.suffix.lower() == ".csv" else _json_rows(path)
    clips: list[Clip] = []
    counts: dict[str, int] = {}
    keys: set[str] = set()
    for number, row in rows:
        name = str(row.get("video") or "")
        video_id = Path(name).stem if Path(name).suffix.lower() in VIDEO_SUFFIXES else name
        try:
            start_s, end_s = float(row["start_s"]), float(row["end_s"])
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"clips {path}:{number}: give `video`, `start_s` and `end_s` in seconds") from None
        if not video_id or not 0 <= start_s < end_s < math.inf:
            raise ValueError(f"clips {path}:{number}: no clip: '{video_id}' from {start_s:g} to {end_s:g} s")
        clip = Clip(video_id, str(row.get("clip_id") or counts.get(video_id, 0)), start_s, end_s)
        counts[video_id] = counts.get(video_id, 0) + 1
        if clip.key in keys:
            raise ValueError(f"clips {path}:{number}: a second clip '{clip.key}' (video and clip_id)")
        keys.add(clip.key)
        clips.append(clip)
    return clips


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        table = csv.DictReader(file, skipinitialspace=True)
        for row in table:
            yield table.line_num, row


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise ValueError(f"clips {path}:{number}: no JSON ({error})") from error
                if not isinstance(row, dict):
                    raise ValueError(f"clips {path}:{number}: an object is expected, not {line.strip()[:40]}")
                yield number, row


# ---- frames ---------------------------------------------------------------------------------------------


class FrameJob(NamedTuple):
    """A clip and its file."""

    clip: Clip
    path: Path


class ClipFacts(NamedTuple):
    """What the annotation says of a clip's file; frames are counted from 0, the last one included."""

    video_fname: str
    fps: float
    clip_start_frame: int
    clip_end_frame: int
    width: int
    height: int


class FramePiece(NamedTuple):
    """Some frames of a clip.

    Attributes:
        job: position of the clip in the list of work.
        first: how many frames of the clip came before.
        frames: ``(T, 3, h, w)`` uint8.
        times_s: T times in the video, seconds.
        facts: of the clip.
        last: whether no frames follow.
        problem: why the clip cannot be read, else None.
    """

    job: int
    first: int = 0
    frames: Tensor = torch.empty(0, 3, 1, 1, dtype=torch.uint8)
    times_s: tuple[float, ...] = ()
    facts: ClipFacts | None = None
    last: bool = True
    problem: str | None = None


def frame_numbers(facts: ClipFacts) -> range:
    """The annotated frames of a clip: the rule of the published annotations."""
    return range(facts.clip_start_frame, facts.clip_end_frame + 1, max(1, int(facts.fps / RATE)))


def clip_facts(reader: FrameReader, clip: Clip) -> ClipFacts:
    """Where a clip is in its file.

    Raises:
        VideoError: the clip begins after the end of the video.
    """
    info, starts = reader.info, reader.times_s.numpy()
    if clip.start_s >= info.duration_s:
        raise VideoError(f"{reader.path} lasts {info.duration_s:.2f} s, and the clip begins at {clip.start_s:g} s")
    ends = (clip.start_s, info.duration_s if clip.end_s is None else clip.end_s)
    first, last = (np.searchsorted(starts, np.array(ends) + SAME_TIME_S, side="right") - 1).clip(0).tolist()
    return ClipFacts(reader.path.name, round(info.fps, 3), first, last, info.width, info.height)


class FrameDataset(IterableDataset[FramePiece]):
    """Frames of many clips, in pieces; a worker takes every n-th clip, and keeps a file open for the next one.

    Args:
        work: clips by their position.
        piece: most frames at once.
        max_side: frames with a longer side (pixels) are made this long.
        current: where each worker notes the clip at hand, so that a crash can be blamed on it.
    """

    def __init__(
        self, work: Sequence[tuple[int, FrameJob]], piece: int, max_side: int, current: Any = None
    ) -> None:
        self.work, self.piece, self.max_side, self.current = list(work), piece, max_side, current

    def __iter__(self) -> Iterator[FramePiece]:
        worker = get_worker_info()
        number, count = (worker.id, worker.num_workers) if worker else (0, 1)
        reader: FrameReader | None = None
        for position, job in self.work[number::count]:
            if self.current is not None:
                self.current[number] = position
            try:
                if reader is not None and reader.path != Path(os.path.abspath(job.path)):
                    reader.close()
                    reader = None
                reader = reader or FrameReader(job.path)
                yield from self._pieces(position, job.clip, reader)
            except Exception as error:  # whatever a decoder does to an odd file, it costs one clip
                known = isinstance(error, VideoError | OSError)
                problem = str(error) if known else f"{job.path}: {type(error).__name__}: {error}"
                yield FramePiece(position, problem=problem)
        if reader is not None:
            reader.close()

    def _pieces(self, position: int, clip: Clip, reader: FrameReader) -> Iterator[FramePiece]:
        facts = clip_facts(reader, clip)
        scale = min(1.0, self.max_side / max(facts.width, facts.height))
        size = (max(1, round(facts.height * scale)), max(1, round(facts.width * scale))) if scale < 1 else None
        numbers = list(frame_numbers(facts))
        for first in range(0, len(numbers), self.piece):
            part = numbers[first : first + self.piece]
            times = tuple(reader.times_s[part].tolist())
            last = first + self.piece >= len(numbers)
            yield FramePiece(position, first, reader.at(part, size), times, facts, last)


class FrameLoader:
    """Runs a `FrameDataset` in worker processes; a decoder that crashes costs one clip, not the run.

    Args:
        work: the clips.
        piece: see `FrameDataset`.
        max_side: see `FrameDataset`.
        num_workers: decoding processes; 0 decodes in this one.
        is_finished: tells whether a clip (its position) needs nothing more, for the work left after a crash.
    """

    def __init__(
        self,
        work: Sequence[FrameJob],
        piece: int,
        max_side: int,
        num_workers: int,
        is_finished: Callable[[int], bool],
    ) -> None:
        self.work, self.piece, self.max_side = list(enumerate(work)), piece, max_side
        self.num_workers, self.is_finished = num_workers, is_finished

    def __iter__(self) -> Iterator[FramePiece]:
        return outlive_crashes(self.work, self._dataset, self._ends, self.num_workers, self.is_finished)

    def _dataset(self, work: Sequence[tuple[int, FrameJob]], current: Any) -> FrameDataset:
        return FrameDataset(work, self.piece, self.max_side, current)

    def _ends(self, problems: dict[int, str]) -> list[FramePiece]:
        return [FramePiece(job, problem=problem) for job, problem in problems.items()]
