"""What the data modules of captioning share: from annotation files to batches of sampled frames and sentences."""

from __future__ import annotations

import contextlib
import logging
import math
import re
import sys
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..zoo.batch import CaptionBatch, WordLabels
from ..zoo.text.word_lstm import tokenize
from ..zoo.video.base import VideoEncoder, pool_cells
from .annotations import AnnotationError, SplitReport
from .extraction import build_store, default_store
from .features import FeatureError, FeatureStore
from .labels import LabelError, LabelStore, VideoLabels, WordTrack
from .loader import ResumableLoader, plain_loader, require_own_sampler
from .packets import VideoError
from .reading import Gatherer
from .samples import Sampled, read_passes, unit_at
from .segments import Segment, sample_times
from .video import FrameReader, probe
from .video_files import find_videos

log = logging.getLogger(__name__)
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
# what Treebank's rules do more with than split at blanks, in lower-cased text without full stops
NOT_PLAIN = re.compile(r"[^a-z0-9 -]|--|\b(?:cannot|gimme|gonna|gotta|lemme|wanna)\b")


def words_of(text: str) -> tuple[str, ...]:
    """Lower-cased Treebank words: those of `tokenize`, whose many rules only sentences get that need them."""
    plain = text.lower().replace(".", "")
    return tuple(map(sys.intern, tokenize(text) if NOT_PLAIN.search(plain) else plain.split()))


class SampleReader(Protocol):
    """What a data module needs to know of a task: how it looks at a segment."""

    streams: Sequence[VideoEncoder]
    frames: int
    max_cells: int


class SegmentFeatures(NamedTuple):
    """One segment: per stream grids ``(F, h, w, C)`` or frames of passes ``(P, L, 3, H, W)``; seconds; pixels."""

    streams: list[Tensor]
    span_s: tuple[float, float]
    size: tuple[float, float]


class CaptionSample(NamedTuple):
    """One caption of one segment."""

    segment: Segment
    caption: int


class CaptionDataset(Dataset[CaptionBatch]):
    """Captions of one split; reads each segment once per batch, however many captions it has.

    Segments that turn out unreadable are reported by name and left out from then on.

    Args:
        samples: of the split.
        reader: how the task looks at a segment.
        stores: features of every stream; empty where frames are read from `files`.
        files: video files by id; of samples with features, only for the size of the original.
        labels: boxes of words, or None.
    """

    def __init__(
        self,
        samples: Sequence[CaptionSample],
        reader: SampleReader,
        stores: Sequence[FeatureStore],
        files: Mapping[str, Path],
        labels: LabelStore | None,
    ) -> None:
        self.samples, self.stores, self.files, self.labels = list(samples), list(stores), files, labels
        self.specs = [encoder.spec for encoder in reader.streams]
        self.grids = [encoder.grid for encoder in reader.streams]
        self.frames, self.max_cells = reader.frames, reader.max_cells
        self._labelled = set() if labels is None else labels.ids  # a look into the folder
        self._kept: dict[str, VideoLabels] = {}
        self._sizes: dict[str, tuple[float, float]] = {}
        source = str(stores[0].path if stores else next(iter(files.values())).parent)
        self._gatherer = Gatherer(len(samples), self._segment_of, self._read, source)

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def lost(self) -> set[str]:
        """Segments that turned out unreadable."""
        return self._gatherer.lost

    def __getitem__(self, index: int) -> CaptionBatch:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> CaptionBatch:
        """A batch of the captions at `indices`, in that order."""
        self._kept.clear()  # labels are read once per batch, not kept for ever
        kept, read = self._gatherer.gather(indices)
        samples = [self.samples[i] for i in kept]
        row = {segment_id: k for k, segment_id in enumerate(read)}
        of_row = {s.segment.segment_id: (i, s.segment) for i, s in reversed(list(zip(kept, samples, strict=True)))}
        index, segments = zip(*(of_row[segment_id] for segment_id in read), strict=True)
        captions = [s.segment.captions[s.caption] for s in samples]
        streams = [torch.stack(list(grids)) for grids in zip(*(r.streams for r in read.values()), strict=True)]
        return CaptionBatch(
            visual=streams[0],
            motion=streams[1] if len(streams) > 1 else None,
            segment_index=torch.tensor([row[s.segment.segment_id] for s in samples]),
            captions=[list(caption.tokens) for caption in captions],
            references=[[caption.text for caption in segment.captions] for segment in segments],
            entities=[list(caption.entities) for caption in captions],
            labels=self._word_labels(samples),
            segment_ids=list(read),
            video_ids=[segment.video_id for segment in segments],
            spans_s=torch.tensor([r.span_s for r in read.values()]),
            sizes=torch.tensor([r.size for r in read.values()]),
            index=torch.tensor(index),
        )

    def _segment_of(self, index: int) -> str:
        return self.samples[index].segment.segment_id

    # ---- video ------------------------------------------------------------------------------------------

    def _read(self, index: int) -> SegmentFeatures:
        segment = self.samples[index].segment
        end = math.nan if segment.end_s is None else segment.end_s
        if self.stores:
            grids = [self._grid(k, segment) for k in range(len(self.stores))]
            return SegmentFeatures(grids, (segment.start_s, end), self._size(segment.video_id))
        with FrameReader(self.files[segment.video_id]) as reader:
            info = reader.info
            end = info.duration_s if segment.end_s is None else segment.end_s
            times = sample_times(segment.start_s, end, self.frames).tolist()  # behind the end: the last picture
            passes = [read_passes(reader, spec, times) for spec in self.specs]
        return SegmentFeatures(passes, (segment.start_s, end), (float(info.width), float(info.height)))

    def _size(self, video_id: str) -> tuple[float, float]:
        """Width and height of the original, as its labels or its file tell; NaN where neither does."""
        labels = self._video_labels(video_id)
        if labels is not None:
            return float(labels.width), float(labels.height)
        if video_id not in self._sizes:
            self._sizes[video_id] = (math.nan, math.nan)
            if video_id in self.files:
                with contextlib.suppress(VideoError):  # its features are there: nothing else is lost
                    info = probe(self.files[video_id])
                    self._sizes[video_id] = (float(info.width), float(info.height))
        return self._sizes[video_id]

    def _grid(self, stream: int, segment: Segment) -> Tensor:
        """Grids of the sampled frames ``(F, h, w, C)``: stored as such, or the nearest of a whole video's."""
        store, spec, expected = self.stores[stream], self.specs[stream], self.grids[stream]
        assert expected is not None
        name = segment.segment_id if segment.segment_id in store.ids else segment.video_id
        grid = store.read_grid(name)
        if name == segment.video_id:
            stored = store.read(name)
            frames = stored.num_frames or spec.num_frames(len(grid))
            duration_s = stored.duration_s or (frames / spec.fps if spec.fps else segment.end_s)
            if duration_s is None:
                raise FeatureError(f"features {store.path}[{name}]: the duration of the video is unknown")
            end_s = duration_s if segment.end_s is None else segment.end_s
            times = sample_times(segment.start_s, end_s, self.frames)
            grid = grid[unit_at(spec, len(grid), frames, duration_s, times)]
        if grid.ndim != 4 or len(grid) != self.frames or grid.shape[-1] != expected[2]:
            raise FeatureError(
                f"features {store.path}[{name}]: grids of shape {grid.shape}, expected "
                f"({self.frames}, h, w, {expected[2]})"
            )
        return pool_cells(torch.from_numpy(np.ascontiguousarray(grid)).float(), self.max_cells)

    # ---- labels -----------------------------------------------------------------------------------------

    def _video_labels(self, video_id: str) -> VideoLabels | None:
        if self.labels is None or video_id not in self._labelled:
            return None
        if video_id not in self._kept:
            self._kept[video_id] = self.labels.read(video_id)
        return self._kept[video_id]

    def _word_labels(self, samples: Sequence[CaptionSample]) -> WordLabels | None:
        """Tracks and links of the captions of a batch, flat."""
        if self.labels is None:
            return None
        rows: list[tuple[int, int, WordTrack]] = []
        links: list[tuple[int, int, int]] = []
        for b, (segment, k) in enumerate(samples):
            video = self._video_labels(segment.video_id)
            found = None if video is None else video.segments.get(segment.segment_id)
            if found is None:
                continue
            if k >= len(found) or found[k].tokens != segment.captions[k].tokens:
                raise LabelError(
                    f"labels {self.labels.path}: {segment.segment_id} was labelled with other words than its "
                    "caption has now; make the labels anew with `groundzoo annotate propagate`"
                )
            rows += [(b, word, track) for track in found[k].tracks for word in track.words]
            links += [(b, verb, e) for verb, entities in found[k].links.items() for e in entities]
        places = torch.tensor([row[:2] for row in rows], dtype=torch.int64).reshape(-1, 2)
        linked = torch.tensor(links, dtype=torch.int64).reshape(-1, 3)
        boxes, scores, annotated = (
            torch.from_numpy(np.stack([getattr(row[2], name) for row in rows]) if rows else np.zeros(shape, dtype))
            for name, shape, dtype in (
                ("boxes", (0, self.frames, 4), np.float32),
                ("scores", (0, self.frames), np.float32),
                ("annotated", (0, self.frames), np.bool_),
            )
        )
        return WordLabels(places[:, 0], places[:, 1], boxes, scores, annotated, *linked.unbind(1))


class CaptionDataModule(L.LightningDataModule):
    """Base of the data modules for captioning.

    Grids of frames come from `features` (and `motion_features`), or from the files in `videos`: the encoders then
    look once at the sampled frames of every segment, and what they make is kept below `cache`. Encoders of which
    one is trained with the task get raw frames in every batch. How many frames, and what encoders: the data module
    asks the task that the trainer runs.

    Args:
        root: folder of the annotation files.
        features: store of the task's video encoder, with grids: of whole videos, or of the sampled frames of each
            segment under the segment's id. None encodes the videos.
        motion_features: the same for the motion encoder.
        videos: folder of video files; ``root/videos`` unless given.
        cache: where features made from videos are kept; ``root/features`` unless given.
        labels: boxes of words, made by ``groundzoo annotate propagate``; None: no word is grounded.
        batch_size: captions per training batch and process.
        eval_batch_size: segments per batch in evaluation.
        num_workers: loading (and encoding) processes; 0 works in the main process.
        vocabulary_from: captions that give the vocabulary.
        max_captions: captions of a segment that are trained on, the first ones; None takes all.
        test_split: what `test` and `predict` read; `val` for tables on it, such as Table 1 of CVG.
        seed: of the order of training samples.
    """

    def __init__(
        self,
        root: str | Path,
        features: str | Path | None = None,
        motion_features: str | Path | None = None,
        videos: str | Path | None = None,
        cache: str | Path | None = None,
        labels: str | Path | None = None,
        batch_size: int = 32,
        eval_batch_size: int = 32,
        num_workers: int = 4,
        vocabulary_from: Literal["train", "train_val"] = "train",
        max_captions: int | None = None,
        test_split: Literal["val", "test"] = "test",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.root = Path(root)
        self.features = None if features is None else Path(features)
        self.motion_features = None if motion_features is None else Path(motion_features)
        self.videos = Path(videos) if videos is not None else self.root / "videos"
        self.cache = Path(cache) if cache is not None else self.root / "features"
        self.labels = None if labels is None else Path(labels)
        self.batch_size, self.eval_batch_size, self.num_workers = batch_size, eval_batch_size, num_workers
        self.vocabulary_from, self.max_captions, self.seed = vocabulary_from, max_captions, seed
        self.test_split = test_split
        self.stores: list[FeatureStore] = []
        self.reports: dict[str, SplitReport] = {}
        self._datasets: dict[str, CaptionDataset] = {}

    # ---- the data set's part ----------------------------------------------------------------------------

    @abstractmethod
    def read(self, split: Split) -> list[Segment]:
        """All segments of a split that have captions, in the order of the file."""

    def dense_references(self, split: Split) -> list[dict[str, Any]] | None:
        """Reference files of the dense captioning protocol, ``{video: {timestamps, sentences}}`` each, or None."""
        return None

    def entity_reference(self, split: Split) -> tuple[dict[str, Any], list[str]] | None:
        """Annotation in ActivityNet-Entities' official structure and the videos of the split, or None."""
        return None

    def vocabulary_texts(self) -> Iterator[Sequence[str]]:
        """Words of the captions that the vocabulary is made of, in order."""
        splits: tuple[Split, ...] = ("train",) if self.vocabulary_from == "train" else ("train", "val")
        return (c.tokens for split in splits for segment in self.read(split) for c in segment.captions)

    # ---- Lightning --------------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Encode the segments that have no features yet; one process per machine does this."""
        task = self._task()
        if self.labels is not None:
            LabelStore(self.labels).check(task.frames)  # encoding takes long: wrong labels are told before
        if any(encoder.trainable for encoder in task.streams):
            return
        for encoder, given, store in zip(task.streams, self._given(task), self._caches(task), strict=True):
            if given is None:
                build_store(
                    encoder, self._moments(task), store, self.num_workers, grids=True, max_cells=task.max_cells
                )

    def setup(self, stage: str) -> None:
        """Open features and labels, read the splits that `stage` needs and report on them."""
        task = self._task()
        raw = any(encoder.trainable for encoder in task.streams)
        if raw and self.features is not None:
            raise ValueError(
                "a trainable video encoder needs videos, not features: set data.init_args.features to null, or "
                "trainable to false in model.init_args.video_encoder and motion_encoder"
            )
        if not raw and not self.stores:
            for encoder, given, made in zip(task.streams, self._given(task), self._caches(task), strict=True):
                self.stores.append(FeatureStore(given or made))
                self.stores[-1].check(encoder)
        needed: dict[str, tuple[Split, ...]] = {"fit": ("train", "val"), "validate": ("val",)}
        for split in needed.get(stage, (self.test_split,)):
            if split not in self._datasets:
                self._datasets[split] = self._dataset(split, task)
                log.info("%s %s", type(self).__name__, self.reports[split])

    def train_dataloader(self) -> ResumableLoader[CaptionBatch]:
        """Captions of the training split, in an order that depends on seed and epoch alone."""
        return self._loader("train", self.batch_size)

    def val_dataloader(self) -> ResumableLoader[CaptionBatch]:
        """Segments of the validation split with their first caption, in the order of the file."""
        return self._loader("val", self.eval_batch_size)

    def test_dataloader(self) -> ResumableLoader[CaptionBatch]:
        """Segments of the test split with their first caption, in the order of the file."""
        return self._loader(self.test_split, self.eval_batch_size)

    def predict_dataloader(self) -> DataLoader[CaptionBatch]:
        """The test split; a plain loader, since Lightning rebuilds the one it predicts from."""
        return plain_loader(self._datasets[self.test_split], self.eval_batch_size, self.num_workers)

    def provenance(self) -> dict[str, Any]:
        """What a metric was computed on, JSON-ready: data set, counts, features, labels."""
        data = next(iter(self._datasets.values()), None)
        return {
            "data_set": type(self).__name__,
            "root": str(self.root),
            "splits": {split: report.counts() for split, report in self.reports.items()},
            "features": [str(store.path) for store in self.stores],
            "manifests": [store.manifest for store in self.stores],
            "labels": None if data is None or data.labels is None else data.labels.manifest,
        }

    # ---- details ----------------------------------------------------------------------------------------

    def _task(self) -> SampleReader:
        task: Any = getattr(self.trainer, "lightning_module", None)
        if not all(hasattr(task, name) for name in ("streams", "frames", "max_cells")):
            raise TypeError(f"{type(self).__name__} serves tasks that look at sampled frames, not {task!r}")
        reader: SampleReader = task
        return reader

    def _given(self, task: SampleReader) -> tuple[Path | None, ...]:
        return (self.features, self.motion_features)[: len(task.streams)]

    def _caches(self, task: SampleReader) -> list[Path]:
        stores = [default_store(self.cache, e, f"-{task.frames}x{task.max_cells}") for e in task.streams]
        if any(not isinstance(store, Path) for store in stores):
            raise ValueError("a Combined encoder gives no grid; captions need one")
        return [store for store in stores if isinstance(store, Path)]

    def _files(self) -> dict[str, Path]:
        """Files of the annotated videos."""
        needed = {s.video_id for split in SPLITS for s in self.read(split)}
        files = {k: v for k, v in find_videos(self.videos).items() if k in needed}
        if not files:
            raise FeatureError(
                f"none of the {len(needed)} annotated videos is in {self.videos}; set data.init_args.videos, "
                "or data.init_args.features to precomputed features with grids"
            )
        return files

    def _moments(self, task: SampleReader) -> dict[str, Sampled]:
        """The sampled moments of every segment whose video is there, those of one video next to each other."""
        files = self._files()
        segments = {s.segment_id: s for split in SPLITS for s in self.read(split) if s.video_id in files}
        moments = {}
        for segment in sorted(segments.values(), key=lambda s: s.video_id):
            path = files[segment.video_id]
            end_s = segment.end_s
            if end_s is None:
                try:
                    end_s = probe(path).duration_s
                except VideoError as error:
                    log.warning("left out: %s", error)
                    continue
            times = sample_times(segment.start_s, end_s, task.frames)
            moments[segment.segment_id] = Sampled(path, tuple(times.tolist()))
        return moments

    def _dataset(self, split: Split, task: SampleReader) -> CaptionDataset:
        report = self.reports[split] = SplitReport(split, unit="captions")
        segments = self.read(split)
        files = {} if self.stores else self._files()
        if self.stores and split != "train" and self.videos.exists():
            files = find_videos(self.videos)  # boxes of answers are in pixels of the file
        samples, seen = [], set()
        for segment in segments:
            wanted = [segment.captions[0]] if split != "train" else segment.captions[: self.max_captions]
            report.official += len(wanted)
            ids = [store.ids for store in self.stores] or [set(files)]
            reason = ""
            if not all(segment.segment_id in known or segment.video_id in known for known in ids):
                reason = "no features of the segment" if self.stores else "no video file"
            elif segment.end_s is not None and not segment.end_s > segment.start_s:
                reason = "segment is empty or inverted"
            elif segment.segment_id in seen:
                reason = "segment comes twice"
            if reason:
                report.dropped[reason].append(segment.segment_id)
                continue
            seen.add(segment.segment_id)
            samples += [CaptionSample(segment, k) for k in range(len(wanted))]
        report.used = len(samples)
        if not samples:
            raise AnnotationError(f"{type(self).__name__}: no usable caption. {report}")
        labels = None
        if self.labels is not None:
            labels = LabelStore(self.labels)
            labels.check(task.frames)
            videos = {s.segment.video_id for s in samples}
            log.info("%s: labels of %d of %d videos", split, len(videos & labels.ids), len(videos))
        return CaptionDataset(samples, task, self.stores, files, labels)

    def _loader(self, split: Split, batch_size: int) -> ResumableLoader[CaptionBatch]:
        require_own_sampler(self.trainer)
        data = self._datasets[split]
        workers = min(self.num_workers, len(data) // batch_size + 1)
        return ResumableLoader(data, batch_size, split == "train", self.seed, workers)
