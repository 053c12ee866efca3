"""What workers hand to encoders: batches of passes, cut from many videos, each decoded once."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, groupby
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from torch.utils.data._utils.signal_handling import _remove_worker_pids  # type: ignore[attr-defined]

from ..zoo.video.base import crop_or_pad
from ..zoo.video.spec import FrameSpec
from .packets import VideoError
from .samples import read_passes
from .sound import read_sound
from .video import FrameReader, View

log = logging.getLogger(__name__)
CHUNK_FRAMES = 64


class Finished(NamedTuple):
    """The end of one video.

    Attributes:
        video: position in the list of work.
        num_frames: frames at the rate of each encoder; empty where there is a problem.
        duration_s: seconds.
        problem: why it could not be read, else None.
    """

    video: int
    num_frames: tuple[int, ...]
    duration_s: float
    problem: str | None = None


class PassBatch(NamedTuple):
    """Passes of one encoder, from one or more videos.

    Attributes:
        encoder: which one; -1 where the batch only brings ends of videos.
        clips: ``(B, L, 3, H, W)`` uint8 (sound: ``(B, L)`` int16). B is the same in all batches, so that the
            numbers of a row do not depend on its neighbours: rows without an owner repeat the last one.
        owners: video and number of the pass, for the first rows.
        finished: videos whose last pass is in this or an earlier batch.
    """

    encoder: int
    clips: Tensor
    owners: list[tuple[int, int]]
    finished: list[Finished]


class Work(NamedTuple):
    """A video, and the encoders that have not seen it yet.

    Attributes:
        path: the file.
        encoders: which ones.
        times_s: moments, in seconds, of which each gives one unit; None for the whole video.
    """

    path: Path
    encoders: tuple[int, ...]
    times_s: tuple[float, ...] | None = None


class _Cutter:
    """Cuts the frames of one video, as they come, into the passes of one encoder."""

    def __init__(self, spec: FrameSpec) -> None:
        self.spec = spec
        self.frames = self.passes = 0
        self._waiting: Tensor | None = None  # from the start of the next pass on
        self._skip = 0  # frames between two passes that nobody sees

    def feed(self, piece: Tensor) -> Iterator[Tensor]:
        """Complete passes ``(L, ...)`` that `piece` brings."""
        self.frames += len(piece)
        self._skip, piece = max(0, self._skip - len(piece)), piece[self._skip :]
        waiting = piece if self._waiting is None else torch.cat([self._waiting, piece])
        length, stride = self.spec.pass_frames, self.spec.pass_stride
        while len(waiting) >= length:
            # where passes leave gaps, a view would keep many times its own size
            yield waiting[:length] if stride <= length else waiting[:length].clone()
            self.passes += 1
            self._skip = max(0, stride - len(waiting))
            waiting = waiting[stride:]
        self._waiting = waiting

    def end(self) -> Iterator[Tensor]:
        """The last, incomplete pass, where there is one: its last frame is repeated, sound ends in silence."""
        passes = -(-self.spec.num_units(self.frames) // self.spec.context)
        if self.passes < passes and self._waiting is not None:
            missing = self.spec.pass_frames - len(self._waiting)
            filling = torch.zeros_like if self.spec.sound else torch.clone
            yield torch.cat([self._waiting, *([filling(self._waiting[-1:])] * missing)])
            self.passes += 1


class PassDataset(IterableDataset[PassBatch]):
    """Batches of passes; a worker takes every n-th file and fills its batches over their borders.

    Stretches of one file stand next to each other in the list, and the file stays open from one to the next.

    Args:
        specs: how each encoder wants to be fed.
        work: the videos.
        batch_size: passes per batch, B.
        fill: make all batches full by repeating the last row.
        current: where each worker notes the video at hand, so that a crash can be blamed on it.
    """

    def __init__(
        self,
        specs: Sequence[FrameSpec],
        work: Sequence[tuple[int, Work]],
        batch_size: int,
        fill: bool = True,
        current: Any = None,
    ) -> None:
        self.specs, self.work, self.batch_size, self.fill = list(specs), list(work), batch_size, fill
        self.current = current
        self._open: FrameReader | None = None

    def __iter__(self) -> Iterator[PassBatch]:
        worker = get_worker_info()
        number, count = (worker.id, worker.num_workers) if worker else (0, 1)
        rows: list[list[tuple[Tensor, tuple[int, int]]]] = [[] for _ in self.specs]
        finished: list[Finished] = []
        files = [list(group) for _, group in groupby(self.work, key=lambda item: item[1].path)]
        for video, work in chain.from_iterable(files[number::count]):
            if self.current is not None:
                self.current[number] = video
            cutters = {e: _Cutter(self.specs[e]) for e in work.encoders}
            duration_s, problem = 0.0, None
            try:
                for encoder, clip, seconds in self._clips(work, cutters):
                    duration_s = seconds
                    waiting = rows[encoder]
                    if waiting and waiting[0][0].shape != clip.shape:  # videos keep their own size here
                        yield self._batch(encoder, rows, finished)
                        waiting, finished = rows[encoder], []
                    waiting.append((clip, (video, cutters[encoder].passes)))
                    if len(waiting) == self.batch_size:
                        yield self._batch(encoder, rows, finished)
                        finished = []
            except Exception as error:  # whatever a decoder does to an odd file, it costs one video
                self._close()
                known = isinstance(error, VideoError | OSError)
                problem = str(error) if known else f"{work.path}: {type(error).__name__}: {error}"
            frames = tuple(cutters[e].frames if e in cutters else 0 for e in range(len(self.specs)))
            finished.append(Finished(video, () if problem else frames, duration_s, problem))
        for encoder, waiting in enumerate(rows):
            if waiting:
                yield self._batch(encoder, rows, finished)
                finished = []
        if finished:
            yield PassBatch(-1, torch.empty(0), [], finished)
        self._close()

    def _close(self) -> None:
        if self._open is not None:
            self._open.close()
        self._open = None

    def _moments(
        self, path: Path, times_s: tuple[float, ...], cutters: dict[int, _Cutter]
    ) -> Iterator[tuple[int, Tensor, float]]:
        """Encoder, one pass and the duration, of single moments."""
        if self._open is None or self._open.path != Path(os.path.abspath(path)):
            self._close()
            self._open = FrameReader(path)
        reader = self._open
        for encoder, cutter in cutters.items():
            for clip in read_passes(reader, cutter.spec, times_s):
                yield encoder, clip, reader.info.duration_s
                cutter.passes += 1
            cutter.frames = cutter.spec.num_frames(len(times_s))

    def _clips(self, work: Work, cutters: dict[int, _Cutter]) -> Iterator[tuple[int, Tensor, float]]:
        """Encoder, one pass and the duration, as the video goes by."""
        if work.times_s is not None:
            yield from self._moments(work.path, work.times_s, cutters)
            return
        self._close()
        seeing = [e for e in work.encoders if not self.specs[e].sound]
        with FrameReader(work.path) as reader:
            info = reader.info
            views = [View(s.fps, s.decoded_size(info.height, info.width)) for s in (self.specs[e] for e in seeing)]
            for view, frames in reader.views(views, CHUNK_FRAMES) if views else ():
                encoder = seeing[view]
                for clip in cutters[encoder].feed(crop_or_pad(frames, self.specs[encoder])):
                    yield encoder, clip, info.duration_s
        for encoder in set(work.encoders) - set(seeing):
            rate = self.specs[encoder].fps
            assert rate is not None
            for samples in read_sound(work.path, round(rate), info.duration_s):
                for clip in cutters[encoder].feed(samples):
                    yield encoder, clip, info.duration_s
        for encoder, cutter in cutters.items():
            if cutter.frames == 0:
                raise VideoError(f"{work.path}: no frame could be read")
            for clip in cutter.end():
                yield encoder, clip, info.duration_s

    def _batch(
        self, encoder: int, rows: list[list[tuple[Tensor, tuple[int, int]]]], finished: list[Finished]
    ) -> PassBatch:
        clips, owners = map(list, zip(*rows[encoder], strict=True))
        rows[encoder] = []
        if self.fill:
            clips += [clips[-1]] * (self.batch_size - len(clips))
        return PassBatch(encoder, torch.stack(clips), owners, finished)


class PassLoader:
    """Runs a `PassDataset` in worker processes; a decoder that crashes costs one video, not the run.

    Args:
        specs: see `PassDataset`.
        work: see `PassDataset`.
        batch_size: see `PassDataset`.
        num_workers: decoding processes; 0 decodes in this one.
        is_finished: tells whether a video needs no more batches, for the work left after a crash.
        pin_memory: for faster copies to a GPU.
    """

    def __init__(
        self,
        specs: Sequence[FrameSpec],
        work: Sequence[Work],
        batch_size: int,
        num_workers: int,
        is_finished: Callable[[int], bool],
        pin_memory: bool = False,
    ) -> None:
        self.specs, self.work, self.batch_size = specs, list(enumerate(work)), batch_size
        self.num_workers, self.is_finished, self.pin_memory = num_workers, is_finished, pin_memory

    def __iter__(self) -> Iterator[PassBatch]:
        return outlive_crashes(
            self.work, self._dataset, self._ends, self.num_workers, self.is_finished, pin_memory=self.pin_memory
        )

    def _dataset(self, work: Sequence[tuple[int, Work]], current: Any) -> PassDataset:
        return PassDataset(self.specs, work, self.batch_size, current=current)

    def _ends(self, problems: dict[int, str]) -> list[PassBatch]:
        ends = [Finished(video, (), 0.0, problem) for video, problem in problems.items()]
        return [PassBatch(-1, torch.empty(0), [], ends)]


class HasPath(Protocol):
    """Something to do with a file."""

    @property
    def path(self) -> Path:
        """The file."""


JobT = TypeVar("JobT", bound=HasPath)
ItemT = TypeVar("ItemT")


def outlive_crashes(
    work: Sequence[tuple[int, JobT]],
    dataset: Callable[[Sequence[tuple[int, JobT]], Any], IterableDataset[ItemT]],
    ends: Callable[[dict[int, str]], Iterable[ItemT]],
    num_workers: int,
    is_finished: Callable[[int], bool],
    **options: Any,
) -> Iterator[ItemT]:
    """Read a data set in worker processes; a decoder that crashes costs the file at hand, not the run.

    After a crash, new workers go on with what is left.

    Args:
        work: files by their number in the list of work.
        dataset: of such a list; its workers note the number of the file at hand in the array that it is given.
        ends: what the consumer gets instead of the rest of files that crashed, by number and reason.
        num_workers: decoding processes; 0 decodes in this one.
        is_finished: tells whether a file (its number) needs nothing more, for the work left after a crash.
        options: of the `DataLoader`.

    Raises:
        RuntimeError, OSError, EOFError: anything else that goes wrong in a worker, as the `DataLoader` raises it.
    """
    left = list(work)
    while left:
        workers = min(num_workers, len(left))
        current = multiprocessing.Array("q", [-1] * max(1, workers), lock=False)
        loader = DataLoader(
            dataset(left, current),
            batch_size=None,
            num_workers=workers,
            generator=torch.Generator(),  # a run's random numbers do not depend on what is done already
            **options,
        )
        items: Any = iter(loader)
        if workers:
            _report_crashes_here(items)
        try:
            yield from items
            return
        except (RuntimeError, OSError, EOFError):  # also of an item whose worker died while it was handed over
            dead = _crashed(items) if workers else {}
            guilty = {current[n]: code for n, code in dead.items()}
            problems = {
                number: f"{job.path}: its decoder crashed ({guilty[number]}). Re-encode it or leave it out."
                for number, job in left
                if number in guilty
            }
            if not problems:
                raise
            yield from ends(problems)
            # the consumer may not have seen the last items yet
            left = [(n, job) for n, job in left if n not in guilty and not is_finished(n)]
            del items  # ends the other workers before new ones start


def _report_crashes_here(items: Any) -> None:
    """Let the loader itself tell of dead workers; by default torch raises in whatever the main thread is doing."""
    _remove_worker_pids(id(items))
    items._worker_pids_set = False


def _crashed(items: Any) -> dict[int, str]:
    """Workers that died, and of what; a dying process needs a moment."""
    for _ in range(20):
        dead = {n: p.exitcode for n, p in enumerate(items._workers) if p.exitcode not in (None, 0)}
        if dead:
            return {n: signal.Signals(-code).name if code < 0 else f"status {code}" for n, code in dead.items()}
        time.sleep(0.05)
    return {}
