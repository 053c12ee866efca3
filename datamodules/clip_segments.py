"""What data modules of clips share: from labelled segments of untrimmed video to batches of single clips."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import lightning as L
import numpy as np
import numpy.typing as npt
from torch.utils.data import DataLoader

from ..zoo.batch import ClipBatch
from ..zoo.video.base import VideoEncoder
from ..zoo.video.spec import FrameSpec
from .annotations import AnnotationError, Query, SplitReport
from .clip_dataset import ClipDataset, ClipLoader, Drawing, Knowledge, LabelledSegment, Told, clip_spec, usable
from .concepts import ConceptVocabulary
from .extraction import build_store, default_store
from .features import FeatureError, FeatureStore
from .loader import ResumableLoader, plain_loader, require_own_sampler
from .packed import FileTable
from .video_files import find_videos

log = logging.getLogger(__name__)
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


class ClipReader(Protocol):
    """What a data module needs to know of a task."""

    video_encoder: VideoEncoder
    uses_context: bool


class ClipDataModule(L.LightningDataModule):
    """Base of the data modules of clips: single clips of labelled segments, and what they show.

    Segments count alike, however long they are. What a clip is (frames, rate, size) says the encoder of the task
    that the trainer runs. A clip's concepts are those of all sentences whose time overlaps it.

    Args:
        root: folder of the annotation files.
        videos: folder of video files; ``root/videos`` unless given.
        captions: folder of the sentences about the videos; None: nothing is told about them.
        concepts: JSON file of the concepts, made by ``groundzoo concepts``; needs `captions`, as they need it.
        features: of whole videos: a store, an HDF5 file (TSP's global video features have one vector per
            video), or a list of them, put side by side. Of units the maximum over time is taken. None makes them
            with the task's encoder as it is before training. Any encoder may have made them.
        cache: where features made from videos are kept; ``root/features`` unless given.
        clips_per_segment: clips of each segment in an epoch.
        batch_size: clips per training batch and process.
        eval_batch_size: clips per batch in evaluation.
        num_workers: loading (and encoding) processes; 0 works in the main process.
        min_overlap_s: a sentence tells about a clip if they have more than this in common.
        unlabelled: clips of described videos at which no sentence is said show no concept (`negative`), or nobody
            knows (`masked`).
        flip: show every other training clip in a mirror; not where left and right matter.
        seed: of the order and the drawing of training clips.

    Raises:
        ValueError: a number is out of range, or one of `captions` and `concepts` is missing.
    """

    def __init__(
        self,
        root: str | Path,
        videos: str | Path | None = None,
        captions: str | Path | None = None,
        concepts: str | Path | None = None,
        features: str | Path | list[str] | list[Path] | None = None,
        cache: str | Path | None = None,
        clips_per_segment: int = 5,
        batch_size: int = 32,
        eval_batch_size: int = 64,
        num_workers: int = 4,
        min_overlap_s: float = 0.0,
        unlabelled: Literal["negative", "masked"] = "negative",
        flip: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if clips_per_segment < 1 or not min_overlap_s >= 0:
            raise ValueError(
                f"clips_per_segment={clips_per_segment}, min_overlap_s={min_overlap_s}: at least one, not negative"
            )
        if (captions is None) != (concepts is None):
            raise ValueError(
                "data.init_args.captions and data.init_args.concepts belong together: concepts (a JSON file by "
                "`groundzoo concepts`) are looked for in captions; set both or none"
            )
        self.root = Path(root)
        self.videos = Path(videos) if videos is not None else self.root / "videos"
        self.captions = None if captions is None else Path(captions)
        self.concepts = None if concepts is None else Path(concepts)
        self.features: list[Path] | None = None
        if features is not None:
            self.features = [Path(p) for p in features] if isinstance(features, list) else [Path(features)]
        self.cache = Path(cache) if cache is not None else self.root / "features"
        self.clips_per_segment, self.flip, self.seed = clips_per_segment, flip, seed
        self.batch_size, self.eval_batch_size, self.num_workers = batch_size, eval_batch_size, num_workers
        self.min_overlap_s, self.unlabelled = min_overlap_s, unlabelled
        self.stores: list[FeatureStore] = []
        self.reports: dict[str, SplitReport] = {}
        self._datasets: dict[str, ClipDataset] = {}
        self._made: Path | None = None  # the context store of this run
        self._prepared: set[Split] = set()

    # ---- the data set's part ----------------------------------------------------------------------------

    @abstractmethod
    def actions(self) -> list[str]:
        """Names of the action classes, in their order."""

    @abstractmethod
    def read(self, split: Split) -> list[LabelledSegment]:
        """All segments of a split as annotated, in the order of the file."""

    @abstractmethod
    def sentences(self, split: Split) -> list[Query]:
        """All sentences about the videos of a split as annotated; asked for only if there are `captions`."""

    @cached_property
    def vocabulary(self) -> ConceptVocabulary | None:
        """The concepts; None where none are looked for."""
        return None if self.concepts is None else ConceptVocabulary.read(self.concepts)

    def vocabulary_texts(self) -> Iterator[tuple[Literal["action", "concept"], str]]:
        """Names of all classes: actions, then concepts, each in their order."""
        yield from (("action", name) for name in self.actions())
        if self.vocabulary is not None:
            yield from (("concept", word) for word in self.vocabulary.words)

    # ---- Lightning --------------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Make the context of videos that have none yet; one process per machine does this."""
        task = self._task()
        spec = clip_spec(task.video_encoder)
        if not task.uses_context or self.features is not None:
            return
        state = getattr(self.trainer, "state", None)
        needed = _needed("fit" if state is None else state.fn)
        if "train" in needed:  # after training, the encoder is not what it was
            needed = SPLITS
        left = set(needed) - self._prepared
        if not left:
            return
        segments = [s for split in left for s in usable(self.read(split), spec, SplitReport(split))]
        files = self._files_of(segments)
        if not files:
            raise FeatureError(
                f"none of the annotated videos is in {self.videos}; data.init_args.videos names their folder"
            )
        encoder = task.video_encoder
        training = encoder.training
        build_store(encoder.eval(), files, self._store_of(encoder), self.num_workers)
        encoder.train(training)
        self._prepared |= left

    def setup(self, stage: str) -> None:
        """Read the splits that `stage` needs, and what is known of their videos, and report on them."""
        task = self._task()
        spec = clip_spec(task.video_encoder)
        new = [split for split in _needed(stage) if split not in self._datasets]
        if task.uses_context and new:  # opened anew: videos may have come to it
            self.stores = [FeatureStore(p) for p in self.features or [self._store_of(task.video_encoder)]]
        for split in new:
            self._datasets[split] = self._dataset(split, spec)
            log.info("%s %s", type(self).__name__, self.reports[split])

    def train_dataloader(self) -> ClipLoader:
        """Clips of the training split, in an order that depends on seed and epoch alone."""
        require_own_sampler(self.trainer)
        data = self._datasets["train"]
        return ClipLoader(data, self.batch_size, True, self.seed, self._workers(data, self.batch_size))

    def val_dataloader(self) -> ResumableLoader[ClipBatch]:
        """Clips of the validation split: the first of every segment, the second of every segment, ..."""
        return self._loader("val")

    def test_dataloader(self) -> ResumableLoader[ClipBatch]:
        """Clips of the test split, likewise."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[ClipBatch]:
        """The test split; a plain loader, since Lightning rebuilds the one it predicts from."""
        data = self._datasets["test"]
        return plain_loader(data, self.eval_batch_size, self._workers(data, self.eval_batch_size))

    def provenance(self) -> dict[str, Any]:
        """What a metric was computed on, JSON-ready: data set, counts, concepts, features of whole videos."""
        return {
            "data_set": type(self).__name__,
            "root": str(self.root),
            "splits": {split: report.counts() for split, report in self.reports.items()},
            "clips_per_segment": self.clips_per_segment,
            "captions": self.captions and str(self.captions),
            "concepts": self.concepts and str(self.concepts),
            "context": [str(store.path) for store in self.stores],
            "manifests": [store.manifest for store in self.stores],
        }

    # ---- details ----------------------------------------------------------------------------------------

    def _task(self) -> ClipReader:
        task: Any = getattr(self.trainer, "lightning_module", None)
        if not all(hasattr(task, name) for name in ("video_encoder", "uses_context")):
            raise TypeError(
                f"{type(self).__name__} serves tasks with `video_encoder` and `uses_context`, not {task!r}"
            )
        reader: ClipReader = task
        return reader

    def _files_of(self, segments: Sequence[LabelledSegment]) -> dict[str, Path]:
        """Video files of segments, by video id."""
        files = find_videos(self.videos)
        return {s.video_id: files[name] for s in segments if (name := s.name_in(files)) is not None}

    def _store_of(self, encoder: VideoEncoder) -> Path:
        """Where the untrained encoder puts the context; named once, since training changes its weights."""
        if self._made is None:
            store = default_store(self.cache, encoder)
            assert isinstance(store, Path)
            self._made = store
        return self._made

    def _workers(self, data: ClipDataset, batch_size: int) -> int:
        return min(self.num_workers, len(data) // batch_size + 1)

    def _loader(self, split: Split) -> ResumableLoader[ClipBatch]:
        require_own_sampler(self.trainer)
        data, size = self._datasets[split], self.eval_batch_size
        return ResumableLoader(data, size, False, self.seed, self._workers(data, size))

    def _dataset(self, split: Split, spec: FrameSpec) -> ClipDataset:
        report = self.reports[split] = SplitReport(split, unit="segments")
        annotated = self.read(split)
        report.official = len(annotated)
        segments = usable(annotated, spec, report)
        files = self._files_of(segments)
        segments = _of(files, segments, "no video file", report)
        rows, context = self._contexts(segments)
        segments = _of(rows, segments, "no context of the video", report)
        report.used = len(segments)
        if not segments:
            raise AnnotationError(
                f"{type(self).__name__}: no usable segment in {self.root} with videos of {self.videos}; "
                f"data.init_args.videos names the folder of the files. {report}"
            )
        known = Knowledge(
            FileTable({s.video_id: files[s.video_id] for s in segments}),
            rows,
            context,
            self._told(split, segments),
            0 if self.vocabulary is None else len(self.vocabulary.words),
            self.min_overlap_s,
            self.unlabelled,
        )
        drawing = Drawing(self.clips_per_segment, split == "train", self.flip, self.seed)
        return ClipDataset(segments, known, spec, drawing)

    def _contexts(self, segments: Sequence[LabelledSegment]) -> tuple[dict[str, int], npt.NDArray[np.float32]]:
        """Features of whole videos ``(V, G)``, and the row of each video that has some."""
        videos = {s.video_id: s for s in segments}
        if not self.stores:
            return dict.fromkeys(videos, 0), np.zeros((1, 0), dtype=np.float32)
        rows: dict[str, int] = {}
        vectors: list[npt.NDArray[np.float32]] = []
        for video_id, segment in videos.items():
            names = [segment.name_in(store.ids) for store in self.stores]
            try:
                parts = [store.maximum(name) for store, name in zip(self.stores, names, strict=True) if name]
            except FeatureError as error:
                log.warning("left out: %s", error)
                continue
            if len(parts) < len(self.stores):
                continue
            vector = np.concatenate(parts).astype(np.float32)
            if vectors and len(vector) != len(vectors[0]):
                raise FeatureError(
                    f"features {' + '.join(str(s.path) for s in self.stores)}: those of {video_id} are "
                    f"{len(vector)} wide, those of {next(iter(rows))} {len(vectors[0])}"
                )
            rows[video_id] = len(vectors)
            vectors.append(vector)
        return rows, np.stack(vectors) if vectors else np.zeros((0, 0), dtype=np.float32)

    def _told(self, split: Split, segments: Sequence[LabelledSegment]) -> dict[str, Told]:
        """Sentences by video, and which concepts each names."""
        vocabulary = self.vocabulary
        if vocabulary is None:
            return {}
        sentences: dict[str, list[Query]] = defaultdict(list)
        for sentence in self.sentences(split):
            sentences[sentence.video_id].append(sentence)
        names = {s.video_id: name for s in segments if (name := s.name_in(sentences)) is not None}
        videos = {s.video_id for s in segments}
        log.info("%s: %d of %d videos are described", split, len(names), len(videos))
        return {
            video_id: Told(
                np.array([[q.start_s, q.end_s] for q in sentences[name]]),
                np.stack([vocabulary.labels([q.text]) for q in sentences[name]]),
            )
            for video_id, name in names.items()
        }


def _needed(stage: str) -> tuple[Split, ...]:
    """Splits that a stage of Lightning reads."""
    needed: dict[str, tuple[Split, ...]] = {"fit": ("train", "val"), "validate": ("val",)}
    return needed.get(stage, ("test",))


def _of(
    known: Collection[str], segments: Sequence[LabelledSegment], reason: str, report: SplitReport
) -> list[LabelledSegment]:
    """Segments of videos that are known; the others are dropped for this reason."""
    for segment in segments:
        if segment.video_id not in known:
            report.dropped[reason].append(segment.segment_id)
    return [segment for segment in segments if segment.video_id in known]
