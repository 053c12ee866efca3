"""Whole videos with their events: features from a store, padded side by side to batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from ..zoo.batch import EventBatch
from .features import FeatureError, FeatureStore, StackedStore
from .loader import ResumableLoader
from .proposal_files import Array
from .reading import Gatherer


class EventVideo(NamedTuple):
    """One video and its events, in the order of their starts.

    Attributes:
        video_id: its name.
        duration_s: seconds.
        truth_s: ``(G, 2)``, annotated events in seconds.
        events_s: ``(E, 2)``, events to tell.
        sentences: words of each event to tell, empty where they are unknown.
        stand_ins: proposals ``(K, 2)`` for each event to tell, K >= 1, of which every epoch draws one; or empty.
    """

    video_id: str
    duration_s: float
    truth_s: Array
    events_s: Array
    sentences: list[list[str]]
    stand_ins: tuple[Array, ...] = ()


class EventDataset(Dataset[EventBatch]):
    """Videos of one split with their events.

    Videos that turn out unreadable are reported by name and left out from then on (`lost`).

    Args:
        videos: of the split.
        store: their features.
        dim: width that these must have.
        subsample: keep every n-th clip.
        seed: of the choice of proposals.

    Attributes:
        epoch: ``()`` int64 in shared memory, since workers outlive epochs.
    """

    def __init__(
        self,
        videos: Sequence[EventVideo],
        store: FeatureStore | StackedStore,
        dim: int,
        subsample: int,
        seed: int,
    ) -> None:
        self.videos, self.store, self.dim = list(videos), store, dim
        self.subsample, self.seed = subsample, seed
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._gatherer = Gatherer(len(videos), self._video_id, self._read, str(store.path))

    def __len__(self) -> int:
        return len(self.videos)

    @property
    def lost(self) -> set[str]:
        """Videos that turned out unreadable."""
        return self._gatherer.lost

    def __getitem__(self, index: int) -> EventBatch:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> EventBatch:
        """A batch of the videos at `indices`, in that order."""
        kept, read = self._gatherer.gather(indices)
        videos = [self.videos[i] for i in kept]
        told = [self._told(i) for i in kept]
        clips, clip_mask = _padded([read[v.video_id] for v in videos])
        events, event_mask = _padded([torch.from_numpy(events_s).float() for events_s, _ in told])
        truth, truth_mask = _padded([torch.from_numpy(v.truth_s).float() for v in videos])
        return EventBatch(
            clips=clips,
            clip_mask=clip_mask,
            durations_s=torch.tensor([v.duration_s for v in videos]),
            events_s=events,
            event_mask=event_mask,
            sentences=[sentences for _, sentences in told],
            truth_s=truth,
            truth_mask=truth_mask,
            video_ids=[v.video_id for v in videos],
            index=torch.tensor(kept),
        )

    def _video_id(self, index: int) -> str:
        return self.videos[index].video_id

    def _read(self, index: int) -> Tensor:
        """Clips ``(T, D)`` of one video."""
        units = self.store.read(self._video_id(index)).units
        if units.shape[1] != self.dim:
            raise FeatureError(
                f"features {self.store.path}: those of {self._video_id(index)} are {units.shape[1]} wide, not "
                f"{self.dim}"
            )
        return torch.from_numpy(np.ascontiguousarray(units[:: self.subsample])).float()

    def _told(self, index: int) -> tuple[Array, list[list[str]]]:
        """Events ``(E, 2)`` and their sentences, of this epoch."""
        video = self.videos[index]
        if not video.stand_ins:
            return video.events_s, video.sentences
        random = np.random.default_rng((self.seed, int(self.epoch), index))
        drawn = np.stack([segments[random.integers(len(segments))] for segments in video.stand_ins])
        order = np.argsort(drawn[:, 0], kind="stable")
        return drawn[order], [video.sentences[k] for k in order]


def _padded(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows ``(n_v, ...)`` of V videos as ``(V, N, ...)``, zeros at the end, and ``(V, N)`` bool."""
    lengths = torch.tensor([len(row) for row in rows])
    return pad_sequence(list(rows), batch_first=True), torch.arange(int(lengths.max())) < lengths[:, None]


class EventLoader(ResumableLoader[EventBatch]):
    """Tells its dataset the epoch; see `ResumableLoader`."""

    def __iter__(self) -> Iterator[EventBatch]:  # type: ignore[override]
        assert isinstance(self.dataset, EventDataset)
        self.dataset.epoch.fill_(self.order.epoch)
        yield from super().__iter__()
