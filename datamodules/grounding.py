"""What the data modules of temporal grounding share: from annotation files to batches."""

from __future__ import annotations

import hashlib
import logging
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..zoo.batch import GroundingBatch
from ..zoo.temporal import best_constant_moment, tiou
from ..zoo.video.base import VideoEncoder
from ..zoo.video.clips import ClipPooling
from .annotations import AnnotationError, Query, SplitReport, clean, read_json
from .extraction import build_store, default_store
from .features import FeatureError, FeatureStore, StackedStore, open_store
from .loader import ResumableLoader, plain_loader, require_own_sampler
from .reading import Gatherer
from .video_files import find_videos
from .windows import RawVideos

log = logging.getLogger(__name__)
TEMPORAL_WORDS = {"before", "after", "while", "then"}  # DRN, Sec. 5.4


class MomentReader(Protocol):
    """What a data module needs to know of a task: how it reads video."""

    video_encoder: VideoEncoder
    clips: ClipPooling


class VideoClips(NamedTuple):
    """One video: ``(T, D)`` pooled features or ``(T, L, 3, H, W)`` frames; ``(T, 2)`` bounds as shares of it."""

    clips: Tensor
    bounds: Tensor


class GroundingDataset(Dataset[GroundingBatch]):
    """Queries of one split; asks for each video once per batch, however many queries it has.

    A video that turns out unreadable is reported by name and its queries are left out of the batch from
    then on (`lost` lists them); a batch that would be empty takes the next readable queries instead.

    Args:
        queries: of the split.
        store: features of their videos, or the videos themselves.
        encoder: that made them.
        pooling: how units become clips.
        num_frames: frames per video where the data set says; else the store or the number of units tells.
        keep_in_memory: keep pooled clips after their first use.
        subsets: query ids of named groups.
    """

    def __init__(
        self,
        queries: Sequence[Query],
        store: FeatureStore | StackedStore | RawVideos,
        encoder: VideoEncoder,
        pooling: ClipPooling,
        num_frames: Mapping[str, int],
        keep_in_memory: bool,
        subsets: Mapping[str, set[str]],
    ) -> None:
        self.queries, self.store, self.pooling = list(queries), store, pooling
        self.spec, self.dim, self.num_frames = encoder.spec, encoder.dim, num_frames
        self.keep_in_memory, self.subsets = keep_in_memory, subsets
        self._kept: dict[str, VideoClips] = {}
        self._gatherer = Gatherer(len(queries), self._video_of, self._video_for, str(store.path))

    def __len__(self) -> int:
        return len(self.queries)

    @property
    def lost(self) -> set[str]:
        """Videos that turned out unreadable."""
        return self._gatherer.lost

    def _video_of(self, index: int) -> str:
        return self.queries[index].video_id

    def _video_for(self, index: int) -> VideoClips:
        return self.video(self._video_of(index))

    def video(self, video_id: str) -> VideoClips:
        """Clips of one video."""
        if video_id in self._kept:
            return self._kept[video_id]
        clips = self._windows(video_id) if isinstance(self.store, RawVideos) else self._pooled(video_id)
        if self.keep_in_memory:
            self._kept[video_id] = clips
        return clips

    def _windows(self, video_id: str) -> VideoClips:
        assert isinstance(self.store, RawVideos)
        frames, bounds, _ = self.store.windows(video_id)
        return VideoClips(frames, bounds)

    def _pooled(self, video_id: str) -> VideoClips:
        assert not isinstance(self.store, RawVideos)
        stored = self.store.read(video_id)
        if (width := stored.units.shape[1]) != self.dim:
            raise FeatureError(f"features {self.store.path}: those of {video_id} are {width} wide, not {self.dim}")
        frames = stored.num_frames or self.num_frames.get(video_id) or self.spec.num_frames(len(stored.units))
        pooled = self.pooling.pool(stored.units, frames, self.spec)
        return VideoClips(torch.from_numpy(pooled).float(), torch.from_numpy(self.pooling.bounds(frames)).float())

    def __getitem__(self, index: int) -> GroundingBatch:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> GroundingBatch:
        """A batch of the queries at `indices`, in that order."""
        kept, videos = self._gatherer.gather(indices)
        queries = [self.queries[i] for i in kept]
        row = {video_id: i for i, video_id in enumerate(videos)}
        length = {q.video_id: q.duration_s for q in queries}
        moments = torch.tensor([[q.start_s / q.duration_s, q.end_s / q.duration_s] for q in queries])
        return GroundingBatch(
            clips=torch.stack([v.clips for v in videos.values()]),
            bounds=torch.stack([v.bounds for v in videos.values()]),
            durations_s=torch.tensor([length[v] for v in videos]),
            video_index=torch.tensor([row[q.video_id] for q in queries]),
            queries=[q.text for q in queries],
            moments=moments,
            query_ids=[q.query_id for q in queries],
            video_ids=list(videos),
            index=torch.tensor(kept),
            subsets={
                name: torch.tensor([q.query_id in members for q in queries])
                for name, members in self.subsets.items()
            },
        )


class GroundingDataModule(L.LightningDataModule):
    """Base of the data modules for temporal grounding.

    Video comes from precomputed `features`, or from the files in `videos`, which the task's video encoder
    then reads once; what it makes is kept below `cache`. An encoder that is trained with the task gets raw frames
    in every batch, one window per clip. How video is read (encoder, number of clips) is
    the task's business: the data module asks the task that the trainer runs.

    Args:
        root: folder of the annotation files.
        features: feature folder or HDF5 file, or a list of them for a `Combined` encoder; None encodes the videos.
        videos: folder of video files; ``root/videos`` unless given.
        cache: where features made from videos are kept; ``root/features`` unless given.
        batch_size: queries per training batch and process.
        eval_batch_size: queries per batch in evaluation.
        num_workers: loading (and encoding) processes; 0 works in the main process.
        keep_in_memory: keep the pooled clips of every video after their first use.
        vocabulary_from: which queries give the vocabulary: `train`, or `all` splits as the released DRN does.
        subsets: JSON file ``{name: [query ids]}``; metrics are also reported for each group. The group
            `temporal` (queries with before, after, while or then) is always there.
        seed: of the order of training samples and of a held-out validation split.
        shuffle_queries: give every training query the sentence of another one: a control that shows how much
            of the result comes from the videos alone.
    """

    splits: Mapping[str, str]
    num_frames: Mapping[str, int]

    def __init__(
        self,
        root: str | Path,
        features: str | Path | list[Path] | None = None,
        videos: str | Path | None = None,
        cache: str | Path | None = None,
        batch_size: int = 32,
        eval_batch_size: int = 32,
        num_workers: int = 4,
        keep_in_memory: bool = False,
        vocabulary_from: Literal["train", "all"] = "train",
        subsets: str | Path | None = None,
        seed: int = 0,
        shuffle_queries: bool = False,
    ) -> None:
        super().__init__()
        self.root = Path(root)
        self.features = Path(features) if isinstance(features, str) else features
        self.videos = Path(videos) if videos is not None else self.root / "videos"
        self.cache = Path(cache) if cache is not None else self.root / "features"
        self.batch_size, self.eval_batch_size, self.num_workers = batch_size, eval_batch_size, num_workers
        self.keep_in_memory, self.vocabulary_from, self.seed = keep_in_memory, vocabulary_from, seed
        self.subsets_file, self.shuffle_queries = subsets, shuffle_queries
        self.store: FeatureStore | StackedStore | RawVideos | None = None
        self.num_frames = {}
        self.reports: dict[str, SplitReport] = {}
        self._datasets: dict[str, GroundingDataset] = {}

    # ---- the data set's part ----------------------------------------------------------------------------

    @abstractmethod
    def read(self, split: Literal["train", "val", "test"]) -> list[Query]:
        """All queries of a split as annotated, unrepaired, in the order of the file."""

    def vocabulary_texts(self) -> Iterable[str]:
        """Texts that the vocabulary is built from, in order."""
        splits: Sequence[Literal["train", "val", "test"]] = (
            ("train",) if self.vocabulary_from == "train" else ("train", "val", "test")
        )
        return (query.text for split in splits for query in self.read(split))

    # ---- Lightning --------------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Encode the videos that have no features yet; one process per machine does this."""
        task = self._task()
        if self.features is None and not task.video_encoder.trainable:
            out = default_store(self.cache, task.video_encoder)
            build_store(task.video_encoder, self._files(), out, num_workers=self.num_workers)

    def setup(self, stage: str) -> None:
        """Open the features, read the splits that `stage` needs and report on them."""
        task = self._task()
        if self.store is None:
            self.store = self._open(task)
        needed: dict[str, tuple[Literal["train", "val", "test"], ...]] = {
            "fit": ("train", "val"),
            "validate": ("val",),
        }
        for split in needed.get(stage, ("test",)):
            if split not in self._datasets:
                self._datasets[split] = self._dataset(split, task)
                log.info("%s %s", type(self).__name__, self.reports[split])

    def train_dataloader(self) -> ResumableLoader[GroundingBatch]:
        """Batches of the training split, in an order that depends on seed and epoch alone."""
        return self._loader("train", self.batch_size)

    def val_dataloader(self) -> ResumableLoader[GroundingBatch]:
        """Batches of the validation split, in the order of the file."""
        return self._loader("val", self.eval_batch_size)

    def test_dataloader(self) -> ResumableLoader[GroundingBatch]:
        """Batches of the test split, in the order of the file."""
        return self._loader("test", self.eval_batch_size)

    def predict_dataloader(self) -> DataLoader[GroundingBatch]:
        """The test split; a plain loader, since Lightning rebuilds the one it predicts from."""
        return plain_loader(self._datasets["test"], self.eval_batch_size, self.num_workers)

    def provenance(self) -> dict[str, Any]:
        """What a metric was computed on, JSON-ready: data set, counts, features."""
        return {
            "data_set": type(self).__name__,
            "root": str(self.root),
            "splits": {split: report.counts() for split, report in self.reports.items()},
            "features": str(self.store.path) if self.store else None,
            "manifest": self.store.manifest if self.store else None,
        }

    def baselines(self) -> dict[str, dict[str, float]]:
        """Results on the test split that need no video: the best constant moment of the training split."""
        train, test = (
            torch.tensor([[q.start_s / q.duration_s, q.end_s / q.duration_s] for q in queries])
            for queries in (
                clean(self.read("train"), SplitReport("train"), training=True),
                clean(self.read("test"), SplitReport("test"), training=False),
            )
        )
        values = {}
        for m in (0.3, 0.5, 0.7):
            constant = best_constant_moment(train, m)
            values[f"test/R1@{m:g}"] = 100 * (tiou(constant, test, eps=0.0) >= m).float().mean().item()
        return {"best constant moment": values}

    # ---- details ----------------------------------------------------------------------------------------

    def _task(self) -> MomentReader:
        task: Any = getattr(self.trainer, "lightning_module", None)
        if not hasattr(task, "video_encoder") or not hasattr(task, "clips"):
            raise TypeError(f"{type(self).__name__} serves tasks with `video_encoder` and `clips`, not {task!r}")
        reader: MomentReader = task
        return reader

    def _files(self) -> dict[str, Path]:
        """Files of the annotated videos."""
        needed = {q.video_id for split in ("train", "val", "test") for q in self.read(split)}
        files = {k: v for k, v in find_videos(self.videos).items() if k in needed}
        if not files:
            raise FeatureError(
                f"none of the {len(needed)} annotated videos is in {self.videos}; set data.init_args.videos, "
                "or data.init_args.features to precomputed features"
            )
        return files

    def _open(self, task: MomentReader) -> FeatureStore | StackedStore | RawVideos:
        encoder = task.video_encoder
        if not encoder.trainable:
            return open_store(self.features or default_store(self.cache, encoder), encoder)
        if self.features is not None:
            raise ValueError(
                "a trainable video encoder needs videos, not features: set data.init_args.features to null, or "
                "model.init_args.video_encoder.init_args.trainable to false"
            )
        return RawVideos(self._files(), encoder.spec, task.clips)

    def _loader(self, split: str, batch_size: int) -> ResumableLoader[GroundingBatch]:
        require_own_sampler(self.trainer)
        workers = min(self.num_workers, len(self._datasets[split]) // batch_size + 1)
        return ResumableLoader(self._datasets[split], batch_size, split == "train", self.seed, workers)

    def _dataset(self, split: Literal["train", "val", "test"], task: MomentReader) -> GroundingDataset:
        assert self.store is not None
        report = SplitReport(split)
        queries = self.read(split)
        report.official = len(queries)
        queries = clean(queries, report, training=split == "train")
        present = []
        for query in queries:
            if query.video_id in self.store.ids:
                present.append(query)
            else:
                report.dropped["no features of the video"].append(query.query_id)
        report.used = len(present)
        if not present:
            raise AnnotationError(f"{type(self).__name__}: no usable query. {report}")
        self.reports[split] = report
        if self.shuffle_queries and split == "train":
            present = _shuffled(present, self.seed)
        return GroundingDataset(
            present,
            self.store,
            task.video_encoder,
            task.clips,
            self.num_frames,
            self.keep_in_memory,
            self._subsets(present),
        )

    def _subsets(self, queries: Sequence[Query]) -> dict[str, set[str]]:
        temporal = {q.query_id for q in queries if TEMPORAL_WORDS & set(q.text.lower().rstrip(".").split())}
        listed = read_json(Path(self.subsets_file)) if self.subsets_file is not None else {}
        return {"temporal": temporal} | {name: set(ids) for name, ids in listed.items()}


def _shuffled(queries: Sequence[Query], seed: int) -> list[Query]:
    """The same moments under each other's sentences."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(queries), generator=generator).tolist()
    return [
        Query(q.query_id, q.video_id, queries[i].text, q.start_s, q.end_s, q.duration_s)
        for q, i in zip(queries, order, strict=True)
    ]


def held_out(video_ids: Iterable[str], fraction: float, seed: int) -> set[str]:
    """The training videos that make the validation share: a hash of (seed, id) below `fraction`, at least one."""
    share = {
        video: int.from_bytes(hashlib.sha256(f"{seed}:{video}".encode()).digest()[:8], "big") / 2**64
        for video in video_ids
    }
    return {video for video, value in share.items() if value < fraction} or {min(share, key=share.__getitem__)}
