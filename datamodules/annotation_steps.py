"""Steps from clips to annotations, each run with ``Trainer.predict`` and resumable for itself; the first of them.

Shards of clips are dealt out to processes by their number, whatever is done already, so that processes that start
at different times agree.
"""

from __future__ import annotations

import logging
import math
import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from tqdm import tqdm

from ..zoo.frame_captioning import FrameCaptioner
from .annotation_clips import Clip, FrameJob, FrameLoader, FramePiece
from .annotation_store import AnnotationStore, Record, key_of
from .shards import remove_leftovers

log = logging.getLogger(__name__)
LOG_EVERY_S = 30.0


class Part(NamedTuple):
    """Some clips of one shard that are worked on together, in the order of the list."""

    shard: int
    clips: tuple[Clip, ...]


class Step(L.LightningModule):
    """Base of all steps.

    Args:
        clips: all clips.
        out: where records go; claimed.
        title: of the progress bar.
        clips_per_shard: of the files.
        clips_at_once: of a part; parts are told by the list, so that a run that was killed goes on with the same.
        num_workers: processes that read and prepare, per process of the trainer.
        retry: try clips again that are in quarantine.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        out: AnnotationStore,
        title: str,
        clips_per_shard: int,
        clips_at_once: int,
        num_workers: int,
        retry: bool,
    ) -> None:
        super().__init__()
        self.clips, self.out, self.title, self.num_workers, self.retry = clips, out, title, num_workers, retry
        self.clips_per_shard, self.clips_at_once = clips_per_shard, clips_at_once
        self._left: dict[int, set[str]] = {}  # clips of unfinished shards of this process that have no record yet
        self._bar: Any = None
        self._told = math.inf  # when the log was last told of progress

    def available(self, shard: int) -> set[str] | None:
        """Clips of a shard that the steps before have a record of; None for all."""
        return None

    def work(self, rank: int = 0, world_size: int = 1) -> Iterator[Part]:
        """What is left to do for one process; shards that only have to be put together are, here."""
        failed = set() if self.retry else set(self.out.failed())
        for shard in self.shards(rank, world_size):
            done, available = self.out.read(shard).keys(), self.available(shard)
            own = self.shard_clips(shard)
            wanted = {clip.key for clip in own if available is None or clip.key in available}
            left = wanted - done - failed
            if not left:
                self.out.finish(shard, [clip.key for clip in own])
                continue
            self._left[shard] = set(left)
            for start in range(0, len(own), self.clips_at_once):
                part = tuple(clip for clip in own[start : start + self.clips_at_once] if clip.key in left)
                if part:
                    yield Part(shard, part)

    def shards(self, rank: int, world_size: int) -> range:
        """Numbers of the shards of one process."""
        return range(rank, math.ceil(len(self.clips) / self.clips_per_shard), world_size)

    def shard_clips(self, shard: int) -> Sequence[Clip]:
        """The clips of a shard."""
        return self.clips[shard * self.clips_per_shard : (shard + 1) * self.clips_per_shard]

    def keep(self, shard: int, records: Sequence[Record], failed: Mapping[str, str]) -> None:
        """Write what became of some clips of a shard; the last ones complete it."""
        self.out.add(shard, records)
        for key, reason in failed.items():
            log.warning("quarantined %s: %s", key, reason)
            self.out.fail(key, reason)
        done = {key_of(record) for record in records} | failed.keys()
        self._left[shard] -= done
        if not self._left[shard]:
            self.out.finish(shard, [clip.key for clip in self.shard_clips(shard)])
        self._bar.update(len(done))
        now = time.monotonic()
        if self._bar.disable and now - self._told > LOG_EVERY_S:  # a log file wants a line now and then
            self._told = now
            log.info("%s: %d of %d clips of this process", self.title, self._bar.n, self._bar.total)

    # ---- Lightning --------------------------------------------------------------------------------------

    @abstractmethod
    def loader(self, parts: Sequence[Part]) -> Any:
        """What `predict_step` gets of this work."""

    def predict_dataloader(self) -> Any:
        """The share of this process; also starts its progress bar."""
        rank, world_size = self.trainer.global_rank, self.trainer.world_size
        remove_leftovers(self.out.path)
        self._left = {}
        parts = list(self.work(rank, world_size))
        total = sum(len(self.shard_clips(shard)) for shard in self.shards(rank, world_size))
        done = total - sum(len(part.clips) for part in parts)
        self._bar = tqdm(total=total, initial=done, desc=self.title, unit="clip", disable=None)
        self._told = time.monotonic() if rank == 0 else math.inf
        return self.loader(parts)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Everything stays where it is: models take what they need."""
        return batch

    def on_predict_end(self) -> None:
        """All processes have written their clips when this returns."""
        self._bar.close()
        self.trainer.strategy.barrier(f"{self.title}: written")
        if self.trainer.is_global_zero:
            self.out.tidy()
        self.trainer.strategy.barrier(f"{self.title}: tidy")


# ---- frames ---------------------------------------------------------------------------------------------


class CaptionFrames(Step):
    """Grounded captions of the frames of each clip.

    A record has the facts of its clip (see `ClipFacts`) and `frames`: per frame `caption`, `spans` (start, end of
    each phrase) and `boxes` (per phrase, xyxy in pixels of the file).

    Args:
        videos: files by id.
        captioner: describes them.
        frames_at_once: frames per pass.
        max_side: frames with a longer side (pixels) are made this long first.
        options: see `Step`.
    """

    def __init__(
        self,
        videos: Mapping[str, Path],
        captioner: FrameCaptioner,
        frames_at_once: int,
        max_side: int,
        **options: Any,
    ) -> None:
        super().__init__(title="caption frames", clips_at_once=1, **options)
        self.videos, self.captioner = videos, captioner
        self.frames_at_once, self.max_side = frames_at_once, max_side
        self._jobs: list[tuple[Part, FrameJob]] = []
        self._told_of: dict[int, list[Record]] = {}  # frames so far, by clip

    def loader(self, parts: Sequence[Part]) -> FrameLoader:
        """See `Step.loader`; clips without a file go into quarantine here."""
        self._jobs = []
        for part in parts:
            (clip,) = part.clips
            if clip.video_id in self.videos:
                self._jobs.append((part, FrameJob(clip, self.videos[clip.video_id])))
            else:
                self.keep(part.shard, [], {clip.key: f"there is no video file called {clip.video_id}"})
        jobs = [job for _, job in self._jobs]
        return FrameLoader(jobs, self.frames_at_once, self.max_side, self.num_workers, self._is_done)

    def _is_done(self, job: int) -> bool:
        part, own = self._jobs[job]
        return own.clip.key not in self._left[part.shard]

    def predict_step(self, batch: Any, batch_idx: int) -> None:
        """Describe some frames; write the clip if they were the last ones."""
        piece: FramePiece = batch
        part, job = self._jobs[piece.job]
        clip, problem = job.clip, piece.problem
        if self._is_done(piece.job):
            return
        told = self._told_of.setdefault(piece.job, [])
        del told[piece.first :]  # read again, after a crash
        if problem is None:
            try:
                told += self._describe(piece, clip)
            except torch.OutOfMemoryError:
                problem = "out of memory; give a smaller --frames_at_once or --max_side, and --retry true"
        if problem is not None:
            self.keep(part.shard, [], {clip.key: problem})
        elif piece.last and piece.facts is not None:
            record = {"video_id": clip.video_id, "clip_id": clip.clip_id, **piece.facts._asdict(), "frames": told}
            self.keep(part.shard, [record], {})
        else:
            return
        del self._told_of[piece.job]

    def _describe(self, piece: FramePiece, clip: Clip) -> list[Record]:
        assert piece.facts is not None
        height, width = piece.frames.shape[2:]
        scale = np.array([piece.facts.width / width, piece.facts.height / height] * 2)
        found = self.captioner.describe(piece.frames, clip.video_id, piece.times_s)
        return [
            {
                "caption": told.caption.text,
                "spans": [list(span) for span in told.caption.spans],
                "boxes": [[np.round(np.array(box) * scale, 2).tolist() for box in boxes] for boxes in told.boxes],
            }
            for told in found
        ]
