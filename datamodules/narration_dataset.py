"""One narration per video and epoch, and the moments around it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..zoo.batch import MomentFeatures, NarrationBatch
from .annotations import AnnotationError
from .features import FeatureError
from .loader import ResumableLoader
from .narration_index import NarrationSource
from .packets import VideoError
from .reading import Gatherer
from .sound import read_sound
from .units import UnitSource, stack

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidates:
    """Which moments of a video are looked at.

    Attributes:
        number: U.
        fps: moments per second; they stand for a stretch of ``number / fps`` seconds.
        min_time_s: a shorter narration is widened to this, symmetrically, before a stretch is drawn from it.
    """

    number: int = 80
    fps: float = 5.0
    min_time_s: float = 5.0

    @property
    def length_s(self) -> float:
        """Length of the stretch in seconds."""
        return self.number / self.fps

    def start(self, start_s: float, end_s: float, duration_s: float, share: float) -> float:
        """Where the stretch begins, in seconds.

        Its middle is that of the narration, as far as the video has room. A stretch shorter than the (widened)
        narration lies anywhere within it.

        Args:
            start_s: of the narration, before the end of the video.
            end_s: of the narration; what lies behind the video's end is cut.
            duration_s: of the video.
            share: in [0, 1), drawn evenly; where in the narration a shorter stretch lies.
        """
        start_s, end_s = max(0.0, start_s), min(end_s, duration_s)
        room = max(0.0, max(end_s - start_s, self.min_time_s) - self.length_s)
        begin = (start_s + end_s - self.length_s) / 2 + (share - 0.5) * room
        return min(max(0.0, begin), max(0.0, duration_s - self.length_s))

    def times(self, start_s: float) -> npt.NDArray[np.float64]:
        """Middles of U equal parts of the stretch that begins at `start_s`, ``(U,)`` seconds."""
        return start_s + (np.arange(self.number, dtype=np.float64) + 0.5) / self.fps


class Drawn(NamedTuple):
    """A narration and the start of the stretch around it, seconds."""

    text: str
    span_s: tuple[float, float]
    start_s: float


class NarratedStretch(NamedTuple):
    """What was read of a stretch: see `NarrationBatch`."""

    drawn: Drawn
    features: MomentFeatures
    duration_s: float
    sound: Tensor | None


class NarrationDataset(Dataset[NarrationBatch]):
    """Narrated videos; each gives one narration, chosen by (seed, epoch, position of the video) alone.

    Videos that turn out unreadable are reported by name and left out from then on; the next one that is not in the
    batch takes the place, so that batches keep their size.

    Args:
        narrations: of many videos.
        rows: of those that are used, ``(n,)``.
        videos: what they look like, opened.
        candidates: which moments are looked at.
        seed: of the choice of narrations.
        sound_rate: samples per second of the sound that is read, too; None reads none.

    Attributes:
        epoch: ``()`` int64 in shared memory, since workers outlive epochs.
        whole_batches: a batch that cannot be filled is an error, and not a smaller batch: other processes, whose
            batches are whole, would wait for ever.
    """

    def __init__(
        self,
        narrations: NarrationSource,
        rows: npt.NDArray[np.int64],
        videos: UnitSource,
        candidates: Candidates,
        seed: int,
        sound_rate: int | None,
    ) -> None:
        self.narrations, self.rows, self.videos = narrations, rows, videos
        self.candidates, self.seed, self.sound_rate = candidates, seed, sound_rate
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self.whole_batches = False
        self._gatherer = Gatherer(len(rows), self.video_id, self._read, videos.name)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lost(self) -> set[str]:
        """Videos that turned out unreadable."""
        return self._gatherer.lost

    def video_id(self, index: int) -> str:
        """Name of the video at a position."""
        return self.narrations.ids[int(self.rows[index])]

    def texts(self) -> Iterator[str]:
        """All narrations of the videos, one by one."""
        for row in self.rows.tolist():
            try:
                yield from self.narrations.read(row).texts
            except AnnotationError as error:
                log.warning("left out: %s", error)

    def __getitem__(self, index: int) -> NarrationBatch:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> NarrationBatch:
        """A batch of the videos at `indices`, in that order; those that cannot be read are replaced."""
        kept, stretches = self._gatherer.gather(indices)
        for step in range(1, len(self)):
            if len(kept) == len(indices):
                break
            spare = (indices[-1] + step) % len(self)
            if self.video_id(spare) not in stretches.keys() | self.lost:
                (found,), read = self._gatherer.gather([spare])
                kept += [] if found in kept else [found]
                stretches |= read
        if self.whole_batches and len(kept) < len(indices):
            raise FeatureError(
                f"{self.videos.name}: only {len(kept)} readable videos for a batch of {len(indices)}, and "
                "processes must have batches of equal size: lower data.init_args.batch_size, or add videos"
            )
        chosen = list(stretches.values())
        starts = np.array([s.drawn.start_s for s in chosen])
        times = torch.from_numpy(np.stack([self.candidates.times(start) for start in starts]))
        durations = torch.tensor([s.duration_s for s in chosen], dtype=torch.float64)
        spans = torch.tensor([s.drawn.span_s for s in chosen], dtype=torch.float64)
        mask = times < durations[:, None]
        mask[:, 0] = True  # however short a video is, its first picture is one
        sounds = [s.sound for s in chosen if s.sound is not None]
        return NarrationBatch(
            features=stack([s.features for s in chosen]),
            mask=mask,
            inside=mask & (times >= spans[:, :1]) & (times <= spans[:, 1:]),
            times_s=times.float(),
            texts=[s.drawn.text for s in chosen],
            spans_s=spans.float(),
            sound=torch.stack(sounds) if sounds else None,
            video_ids=list(stretches),
            index=torch.tensor(kept),
        )

    def _read(self, index: int) -> NarratedStretch:
        video_id = self.video_id(index)
        drawn: list[Drawn] = []

        def times(duration_s: float) -> npt.NDArray[np.float64]:
            drawn.append(self._draw(index, duration_s))
            return self.candidates.times(drawn[0].start_s)

        features, duration_s, _ = self.videos.read(video_id, times)
        return NarratedStretch(drawn[0], features, duration_s, self._sound(video_id, drawn[0].start_s, duration_s))

    def _draw(self, index: int, duration_s: float) -> Drawn:
        """One of the narrations that begin within the video, and a stretch around it."""
        video_id = self.video_id(index)
        try:
            starts, ends, texts = self.narrations.read(int(self.rows[index]))
        except AnnotationError as error:
            raise VideoError(str(error)) from error  # the gatherer leaves the video out
        usable = np.flatnonzero(starts < duration_s)
        if not len(usable):
            raise VideoError(
                f"{self.narrations.name}, video {video_id}: no narration begins before the end of the video in "
                f"{self.videos.name}, {duration_s:.1f} s"
            )
        random = np.random.default_rng((self.seed, int(self.epoch), index))
        k = int(usable[random.integers(len(usable))])
        span = float(starts[k]), float(ends[k])
        return Drawn(texts[k], span, self.candidates.start(*span, duration_s, random.random()))

    def _sound(self, video_id: str, start_s: float, duration_s: float) -> Tensor | None:
        """Sound of the stretch ``(S,)`` int16; silence behind the video's end, or where there is no file."""
        if self.sound_rate is None:
            return None
        length_s = self.candidates.length_s
        sound = torch.zeros(round(length_s * self.sound_rate), dtype=torch.int16)
        if video_id in self.videos.videos:
            within_s = min(length_s, duration_s - start_s)
            pieces = read_sound(self.videos.videos[video_id], self.sound_rate, within_s, within_s, start_s)
            heard = torch.cat([sound[:0], *pieces])[: len(sound)]
            sound[: len(heard)] = heard
        return sound


class NarrationLoader(ResumableLoader[NarrationBatch]):
    """Whole batches of a training epoch, each video at most once over all processes; tells the dataset the epoch.

    The stand-in for a broken video may be in the batch of another process, too.

    Args:
        dataset: of narrated videos.
        batch_size: videos per batch and process. Fewer that are left at the end of an epoch wait for the next.
        seed: of the order.
        num_workers: loading processes.
        processes: of the group, each with a loader of its own.

    Raises:
        ValueError: there are not enough videos for one batch, or a batch is one video, with nothing to compare.
    """

    def __init__(
        self, dataset: NarrationDataset, batch_size: int, seed: int, num_workers: int, processes: int
    ) -> None:
        if batch_size * processes < 2:
            raise ValueError("one video alone has nothing to be told from: raise data.init_args.batch_size")
        self._whole = len(dataset) // (batch_size * processes)
        dataset.whole_batches = processes > 1
        if not self._whole:
            raise ValueError(
                f"{len(dataset)} videos are too few for {processes} x {batch_size} in a batch, all different; "
                "lower data.init_args.batch_size"
            )
        self._epoch = dataset.epoch
        super().__init__(dataset, batch_size, True, seed, min(num_workers, self._whole))

    def __len__(self) -> int:
        return self._whole

    def __iter__(self) -> Iterator[NarrationBatch]:  # type: ignore[override]
        self._epoch.fill_(self.order.epoch)
        for batch in super().__iter__():
            yield batch
            if self.position == self._whole:
                return
