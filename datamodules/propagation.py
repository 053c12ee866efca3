"""Dynamic label propagation: sparse boxes become boxes with scores in every frame that a model sees.

Jiang et al., Comprehensive Visual Grounding for Video Description, AAAI 2024. Each annotated box is followed
forwards and backwards through its segment ("detection by tracking"). Where a data set has no boxes, an
open-vocabulary detector gives one to each entity: the box it is surest of.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import lightning as L
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..zoo.detection import Detector
from ..zoo.text.grammar import noun_heads, tag
from ..zoo.text.lemmas import lemma
from ..zoo.text.verb_links import VerbLinker
from ..zoo.tracking.base import Tracker
from .label_manifest import claim, described, fingerprint
from .labels import (
    LABELS,
    QUARANTINE,
    CaptionLabels,
    Floats,
    LabelError,
    LabelStore,
    VideoLabels,
    WordTrack,
    tidy,
    write_labels,
    write_quarantine,
)
from .segment_frames import Job, Sampling, SegmentFrames, SegmentLoader
from .segments import Segment
from .shards import quarantined, remove_leftovers

log = logging.getLogger(__name__)
LOG_EVERY_S = 30.0
Prompt = Literal["noun", "phrase"]


def entity_phrases(tokens: Sequence[str], prompt: Prompt) -> list[tuple[int, str]]:
    """The entities of a caption: index of each head noun, and what a detector is asked for.

    Args:
        tokens: the caption.
        prompt: `noun`, the lemma of the head noun alone; `phrase`, with the adjectives and nouns before it.
    """
    words, tags = [token.lower() for token in tokens], tag(tokens)
    found = []
    for head in noun_heads(tokens, tags):
        first = head
        while prompt == "phrase" and first and tags[first - 1] in ("ADJ", "NOUN"):
            first -= 1
        found.append((head, " ".join([*words[first:head], lemma(words[head])])))
    return found


class Seed(NamedTuple):
    """A box to start from.

    Attributes:
        words: by position of the caption, the indices of the words that the box shows.
        frame: which of the F frames it is in.
        box: ``(4,)``, xyxy as shares of (W, H).
        score: that it keeps in this frame.
    """

    words: dict[int, tuple[int, ...]]
    frame: int
    box: Floats
    score: float


class Propagation(L.LightningModule):
    """Makes grounding labels of many videos; run it with ``Trainer.predict``.

    Videos are dealt out to processes by their place in the list, whatever is done already, so that processes that
    start at different times agree. Each video has a file of its own, written when all its segments are tracked.

    Args:
        splits: segments by the name of their split. Segments without an annotated box get seeds from the
            `detector`, or none.
        videos: files by video id.
        out: folder of the labels, see `groundzoo.datamodules.labels`.
        frames: F, how many frames of a segment a model sees.
        tracker: follows the boxes; None keeps the annotated frames alone.
        linker: finds the entities of each verb.
        detector: finds entities where no box is annotated.
        track_fps: pictures per second for the tracker, beside the F frames; None for these alone.
        max_side: longer side of the pictures for tracker and detector, pixels.
        max_frames: most pictures of a segment beside the F frames; longer segments get fewer per second.
        seed_min_score: detections below are no seeds.
        seed_score: score that a seed keeps in its own frame: `one`, as annotated boxes, or the `detector`'s.
        seed_prompt: what the detector is asked for, see `entity_phrases`.
        num_workers: decoding processes, per process of the trainer.
        retry: try videos again that are in quarantine.
        recipe: what tracker, detector and linker were built from, and the data set, for the manifest.

    Raises:
        LabelError: the folder's labels were made otherwise; says what differs.
        ValueError: a box is in a frame that there is not.
    """

    def __init__(
        self,
        splits: Mapping[str, Sequence[Segment]],
        videos: Mapping[str, Path],
        out: Path,
        frames: int,
        tracker: Tracker | None,
        linker: VerbLinker,
        detector: Detector | None = None,
        track_fps: float | None = 5.0,
        max_side: int = 512,
        max_frames: int = 1200,
        seed_min_score: float = 0.3,
        seed_score: Literal["one", "detector"] = "one",
        seed_prompt: Prompt = "noun",
        num_workers: int = 2,
        retry: bool = False,
        recipe: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.videos, self.out, self.retry, self.num_workers = dict(videos), out, retry, num_workers
        self.tracker, self.detector, self.linker = tracker, detector, linker
        self.seed_min_score, self.seed_score, self.seed_prompt = seed_min_score, seed_score, seed_prompt
        self.how = Sampling(frames, None if tracker is None else track_fps, max_side, max_frames)
        by_video: dict[str, dict[str, Segment]] = {}
        for segment in (s for split in splits.values() for s in split):
            self._check(segment)
            by_video.setdefault(segment.video_id, {})[segment.segment_id] = segment
        self.segments = {video_id: tuple(segments.values()) for video_id, segments in by_video.items()}
        made = dict(recipe or {}) | self.how._asdict() | {"track_fps": track_fps}
        del made["fps"]
        if detector is not None:
            made |= {"seed_min_score": seed_min_score, "seed_score": seed_score, "seed_prompt": seed_prompt}
        for name, part in (("tracker", tracker), ("detector", detector), ("linker", linker)):
            made[name] = described(part, made.get(name))
        claim(out, made | {"annotations": {name: fingerprint(split) for name, split in splits.items()}})
        self._jobs: list[Job] = []
        self._parts: dict[int, dict[int, tuple[CaptionLabels, ...]]] = {}  # segments done, by unfinished video
        self._closed: set[int] = set()  # videos written or in quarantine
        self._refused: set[str] = set()  # phrases that the detector cannot look for
        self._bar: Any = None

    def _check(self, segment: Segment) -> None:
        for box in (box for caption in segment.captions for box in caption.boxes):
            if not 0 <= box.frame < self.how.frames:
                raise ValueError(
                    f"segment {segment.segment_id}: a box is in frame {box.frame}, and there are "
                    f"{self.how.frames} frames per segment (numbered from 0); give the number that the boxes were "
                    "annotated with"
                )

    # ---- which videos -----------------------------------------------------------------------------------

    def work(self, rank: int = 0, world_size: int = 1) -> list[Job]:
        """What is left to do for one process; videos without a file go into quarantine here."""
        store = LabelStore(self.out)
        failed = set() if self.retry else set(quarantined(self.out))
        jobs, missing = [], []
        for video_id, segments in list(self.segments.items())[rank::world_size]:
            if video_id in failed or self._is_done(store, video_id):
                continue
            if video_id not in self.videos:
                missing.append(video_id)
                write_quarantine(self.out, video_id, "there is no video file of this name")
                continue
            jobs.append(Job(video_id, self.videos[video_id], segments, tuple(map(self._is_looked_at, segments))))
        if missing:
            names = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
            log.warning("quarantined %d videos without a file: %s", len(missing), names)
        return jobs

    def _is_done(self, store: LabelStore, video_id: str) -> bool:
        try:
            return {s.segment_id for s in self.segments[video_id]} <= store.read(video_id).segments.keys()
        except LabelError:  # not there; what is broken is made anew
            return False

    def _is_looked_at(self, segment: Segment) -> bool:
        """Whether anybody needs the pictures of a segment."""
        annotated = any(caption.boxes for caption in segment.captions)
        return self.tracker is not None if annotated else self.detector is not None

    # ---- one segment ------------------------------------------------------------------------------------

    def label(self, segment: Segment, piece: SegmentFrames) -> tuple[CaptionLabels, ...]:
        """The labels of each caption of a segment."""
        seeds = self._annotated(segment, piece) or self._detected(segment, piece)
        tracks = self._track(seeds, piece)
        labels = []
        for number, caption in enumerate(segment.captions):
            own = tuple(
                WordTrack(seed.words[number], *track)
                for seed, track in zip(seeds, tracks, strict=True)
                if number in seed.words
            )
            entities = sorted({word for track in own for word in track.words})
            links = self.linker.links(caption.tokens, entities) if entities else {}
            labels.append(CaptionLabels(caption.tokens, own, {verb: tuple(links[verb]) for verb in sorted(links)}))
        return tuple(labels)

    def _annotated(self, segment: Segment, piece: SegmentFrames) -> list[Seed]:
        """Annotated boxes; those without area inside the frame are none."""
        height, width = piece.size
        seeds = []
        for number, caption in enumerate(segment.captions):
            for entity in caption.boxes:
                shares = np.array([entity.box]) * [1, width / height, 1, width / height]  # heights in widths there
                boxes, scores = tidy(shares, [1])
                if scores[0]:
                    seeds.append(Seed({number: entity.words}, entity.frame, boxes[0], 1.0))
        return seeds

    def _detected(self, segment: Segment, piece: SegmentFrames) -> list[Seed]:
        """The most confident box of each entity over the F frames; captions share those of equal lemmas."""
        if self.detector is None or not len(piece.frames):
            return []
        phrases: dict[str, dict[int, tuple[int, ...]]] = {}
        for number, caption in enumerate(segment.captions):
            for word, phrase in entity_phrases(caption.tokens, self.seed_prompt):
                words = phrases.setdefault(phrase, {})
                words[number] = (*words.get(number, ()), word)
        frames = piece.frames[piece.sampled]
        height, width = frames.shape[-2:]
        seeds = []
        for phrase, boxes, scores in self._look(frames, list(phrases)):
            words = phrases[phrase]
            shares, sure = tidy(boxes.numpy() / [width, height, width, height], scores.numpy())
            best = int(sure.argmax())
            if sure[best] > 0 and sure[best] >= self.seed_min_score:
                score = 1.0 if self.seed_score == "one" else float(sure[best])
                seeds.append(Seed(words, best, shares[best], score))
        return seeds

    def _look(self, frames: Tensor, phrases: list[str]) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Boxes (F, 4) and scores (F,) of each phrase that the detector can look for.

        It refuses phrases that mean nothing to it, and more at a time than it can read: then halves are tried.
        """
        assert self.detector is not None
        if not phrases:
            return
        try:
            found = self.detector.detect(frames, phrases)
        except ValueError as error:
            if len(phrases) > 1:
                half = len(phrases) // 2
                yield from self._look(frames, phrases[:half])
                yield from self._look(frames, phrases[half:])
            elif phrases[0] not in self._refused:
                self._refused.add(phrases[0])
                log.warning("nothing is looked for: %s", error)
            return
        yield from zip(phrases, found.boxes.cpu(), found.scores.cpu(), strict=True)

    def _track(self, seeds: Sequence[Seed], piece: SegmentFrames) -> list[tuple[Floats, Floats, Any]]:
        """Boxes (F, 4), scores (F,) and annotated (F,) of each seed."""
        boxes = np.zeros((len(seeds), self.how.frames, 4))
        scores = np.zeros((len(seeds), self.how.frames))
        if self.tracker is not None and seeds:
            height, width = piece.frames.shape[-2:]
            pixels = torch.from_numpy(np.stack([seed.box for seed in seeds])) * torch.tensor([width, height] * 2)
            starts = piece.sampled[[seed.frame for seed in seeds]]
            found = self.tracker.track(piece.frames, pixels, starts)
            boxes = found.boxes[:, piece.sampled].double().cpu().numpy() / [width, height, width, height]
            scores = found.scores[:, piece.sampled].double().cpu().numpy()
        tracks = []
        for number, seed in enumerate(seeds):
            boxes[number, seed.frame], scores[number, seed.frame] = seed.box, seed.score
            annotated = np.arange(self.how.frames) == seed.frame
            tracks.append((*tidy(boxes[number], scores[number]), annotated))
        return tracks

    # ---- Lightning --------------------------------------------------------------------------------------

    def predict_dataloader(self) -> Any:
        """The share of this process; also starts its progress bar."""
        rank, world_size = self.trainer.global_rank, self.trainer.world_size
        remove_leftovers(self.out / LABELS)
        self._jobs = self.work(rank, world_size)
        share = len(list(self.segments)[rank::world_size])
        done = share - len(self._jobs)
        self._bar = tqdm(total=share, initial=done, desc="propagate labels", unit="video", disable=None)
        self._told = self._began = time.monotonic() if rank == 0 else math.inf
        return SegmentLoader(self._jobs, self.how, self.num_workers, self._closed.__contains__)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """A long segment stays where it is: tracker and detector take from it what they need at a time."""
        return batch

    def predict_step(self, batch: Any, batch_idx: int) -> None:
        """Label one segment; write the video if it was the last one."""
        piece: SegmentFrames = batch
        if piece.job in self._closed:
            return
        job = self._jobs[piece.job]
        problem = piece.problem
        if problem is None:
            try:
                captions = self.label(job.segments[piece.segment], piece)
            except torch.OutOfMemoryError:
                problem = f"{job.path}: out of memory; give a smaller --max_side or --max_frames, and --retry true"
        if problem is not None:
            log.warning("quarantined %s: %s", job.video_id, problem)
            write_quarantine(self.out, job.video_id, problem)
        else:
            parts = self._parts.setdefault(piece.job, {})
            parts[piece.segment] = captions
            if len(parts) < len(job.segments):
                return
            segments = {segment.segment_id: parts[k] for k, segment in enumerate(job.segments)}
            write_labels(self.out, VideoLabels(job.video_id, piece.size[1], piece.size[0], segments))
            (self.out / QUARANTINE / f"{job.video_id}.json").unlink(missing_ok=True)
        self._parts.pop(piece.job, None)
        self._closed.add(piece.job)
        self._bar.update()
        now = time.monotonic()
        if self._bar.disable and now - self._told > LOG_EVERY_S:  # a log file wants a line now and then
            self._told = now
            left = len(self._jobs)
            log.info("%s", tqdm.format_meter(len(self._closed), left, now - self._began, unit="video", ncols=0))

    def on_predict_end(self) -> None:
        """All processes have written their videos when this returns."""
        self._bar.close()
        self.trainer.strategy.barrier("labels are written")
        if self.trainer.is_global_zero:
            remove_leftovers(self.out)
            folder = self.out / QUARANTINE
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
