"""ActivityNet Captions as paragraphs: whole videos, all their events in order, and a sentence for each."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import lightning as L
import numpy as np
from torch.utils.data import DataLoader

from ..zoo.batch import EventBatch
from ..zoo.video.base import VideoEncoder
from .annotations import AnnotationError, Query, SplitReport, clean, read_json, read_moments_json
from .event_dataset import EventDataset, EventLoader, EventVideo
from .extraction import build_store, default_store
from .features import FeatureError, FeatureStore, StackedStore, StoredVideo, open_store
from .loader import plain_loader, require_own_sampler
from .proposal_files import Array, match, proposals_of, read_proposals
from .video_files import find_videos

log = logging.getLogger(__name__)
Split = Literal["train", "val", "test"]
ValFile = Literal["val_1", "val_2"]
FILES = ("train", "val_1", "val_2")
MOST_PROPOSALS = 1000
TO_BLANK = str.maketrans(dict.fromkeys(',:!_;-.?/"\n\\', " "))  # as the released event captioner does


def sentence_words(text: str) -> list[str]:
    """Lower-cased words, cut at blanks and most punctuation; apostrophes and brackets stay."""
    return text.translate(TO_BLANK).lower().split()


class FeatureReader(Protocol):
    """What the data module needs to know of a task: what made the features."""

    video_encoder: VideoEncoder
    subsample: int


class DenseCaptions(L.LightningDataModule):
    """ActivityNet Captions for dense captioning: 10009 / 4917 videos with 37421 / 17505 sentences.

    Reads ``train.json``, ``val_1.json`` and ``val_2.json`` (``{video: {duration, timestamps, sentences}}``,
    seconds). The last two are two annotations of the same validation videos, and references of the benchmark both
    (`dense_references`); the events of one of them are those to tell. Sentences that are empty and events that are
    empty or inverted are left out and counted; references keep them.

    Features come from `features`, or from the files in `videos`, which the task's frozen encoder then reads once.

    Args:
        root: folder of the JSON files.
        features: feature folder or HDF5 file, or a list of them for a `Combined` encoder; None encodes the videos.
        videos: folder of video files; ``root/videos`` unless given.
        cache: where features made from videos are kept; ``root/features`` unless given.
        val_split: file that checkpoints are chosen on.
        test_split: file that is reported.
        proposals: what is told in evaluation: the `annotated` events, those that the task proposes itself
            (`learned`: batches hold none), or the segments of a proposal file in ActivityNet's format.
        train_proposals: proposal file to train with: each annotated event is replaced by one of the proposals
            that match it best, drawn anew in every epoch (the "learnt sequences" of the released captioner).
        max_proposals: proposals per video that are used of a file, those with the highest scores; up to 1000.
        min_score: proposals of a file that score lower are not used; None uses all.
        enlarged: train also on the videos of `val_split`, except for `held_out` of them, which are then what
            validation and test read.
        held_out: see `enlarged`; chosen by a hash of the video's id alone, so that runs of all seeds agree.
        missing_stream: videos that only the first of several `features` has: left out, or the others are zeros, as
            in the released captioner.
        batch_size: videos per training batch and process.
        eval_batch_size: videos per batch in evaluation.
        num_workers: loading (and encoding) processes; 0 works in the main process.
        vocabulary_from: sentences that give the vocabulary: those trained on, or `all` three files.
        seed: of the order of training samples and the choice of proposals.
    """

    def __init__(
        self,
        root: str | Path,
        features: str | Path | list[str] | list[Path] | None = None,
        videos: str | Path | None = None,
        cache: str | Path | None = None,
        val_split: ValFile = "val_1",
        test_split: ValFile = "val_1",
        proposals: Literal["annotated", "learned"] | Path = "annotated",
        train_proposals: str | Path | None = None,
        max_proposals: int = 100,
        min_score: float | None = None,
        enlarged: bool = False,
        held_out: int = 1000,
        missing_stream: Literal["drop", "zeros"] = "drop",
        batch_size: int = 1,
        eval_batch_size: int = 16,
        num_workers: int = 4,
        vocabulary_from: Literal["train", "all"] = "train",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if min(max_proposals, held_out) < 1 or max_proposals > MOST_PROPOSALS:
            raise ValueError(
                f"max_proposals={max_proposals}, held_out={held_out}: each is at least 1, "
                f"and the benchmark looks at {MOST_PROPOSALS} proposals of a video"
            )
        self.root = Path(root)
        self.features: Path | list[Path] | None = None
        if features is not None:  # lists of paths do not survive a configuration that is printed and read again
            self.features = [Path(p) for p in features] if isinstance(features, list) else Path(features)
        self.videos = Path(videos) if videos is not None else self.root / "videos"
        self.cache = Path(cache) if cache is not None else self.root / "features"
        self.files: dict[Split, str] = {"train": "train", "val": val_split, "test": test_split}
        self.proposals = proposals if proposals in ("annotated", "learned") else Path(proposals)
        self.max_proposals, self.min_score = max_proposals, min_score
        self.train_proposals = None if train_proposals is None else Path(train_proposals)
        self.enlarged, self.held_out = enlarged, held_out
        self.missing_stream = missing_stream
        self.batch_size, self.eval_batch_size, self.num_workers = batch_size, eval_batch_size, num_workers
        self.vocabulary_from, self.seed = vocabulary_from, seed
        self.store: FeatureStore | StackedStore | None = None
        self.reports: dict[str, SplitReport] = {}
        self._datasets: dict[Split, EventDataset] = {}
        self._queries: dict[str, list[Query]] = {}

    # ---- annotations ------------------------------------------------------------------------------------

    def read(self, split: Split) -> list[Query]:
        """All sentences of a split as annotated, unrepaired, in the order of the files."""
        moved = self._moved()
        if split != "train":
            return [q for q in self._file(self.files[split]) if q.video_id not in moved]
        return self._file("train") + [q for q in self._file(self.files["val"]) if q.video_id in moved]

    def dense_references(self, split: Split) -> list[dict[str, Any]] | None:
        """Reference files of the benchmark for a split, unrepaired: its own, then the other if it has its videos.

        Returns:
            One or two mappings ``{video: {"duration", "timestamps", "sentences"}}``; None for training.
        """
        if split == "train":
            return None
        first, moved = self.files[split], self._moved()
        own = {v: entry for v, entry in read_json(self.root / f"{first}.json").items() if v not in moved}
        second = "val_2" if first == "val_1" else "val_1"
        stored = read_json(self.root / f"{second}.json") if self._exists(second) else {}
        other = {v: entry for v, entry in stored.items() if v in own}
        return [own, other] if other else [own]

    def vocabulary_texts(self) -> Iterator[list[str]]:
        """Words of the sentences that the vocabulary is made of, in order."""
        if self.vocabulary_from == "all":
            names = filter(self._exists, FILES)
            return (sentence_words(q.text) for name in names for q in self._file(name))
        return self.training_sentences()

    def training_sentences(self) -> Iterator[list[str]]:
        """Words of every sentence that is trained on."""
        return (sentence_words(q.text) for q in self.read("train"))

    @property
    def gives_events(self) -> bool:
        """Whether evaluation batches hold events to tell."""
        return self.proposals != "learned"

    def _file(self, name: str) -> list[Query]:
        if name not in self._queries:
            self._queries[name] = read_moments_json(self.root / f"{name}.json")
        return self._queries[name]

    def _exists(self, name: str) -> bool:
        return _is_file(self.root / f"{name}.json")

    def _moved(self) -> set[str]:
        """Validation videos that are trained on."""
        if not self.enlarged:
            return set()
        names = {q.video_id for q in self._file(self.files["val"])}
        if len(names) <= self.held_out:
            raise ValueError(
                f"held_out={self.held_out}, but {self.files['val']}.json has {len(names)} videos: nothing is left "
                "to enlarge the training set with; lower data.init_args.held_out"
            )
        return set(sorted(names, key=lambda v: hashlib.sha256(v.encode()).digest())[self.held_out :])

    # ---- Lightning --------------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Encode the videos that have no features yet; one process per machine does this."""
        encoder = self._task().video_encoder
        if self.features is None:
            needed = {q.video_id for name in filter(self._exists, FILES) for q in self._file(name)}
            files = {k: v for k, v in find_videos(self.videos).items() if k in needed}
            if not files:
                raise FeatureError(
                    f"none of the {len(needed)} annotated videos is in {self.videos}; set data.init_args.videos, "
                    "or data.init_args.features to precomputed features"
                )
            build_store(encoder, files, default_store(self.cache, encoder), num_workers=self.num_workers)

    def setup(self, stage: str) -> None:
        """Open the features, read the splits that `stage` needs and report on them."""
        encoder = self._task().video_encoder
        if self.store is None:
            self.store = self._open(encoder)
        needed: dict[str, tuple[Split, ...]] = {"fit": ("train", "val"), "validate": ("val",)}
        for split in needed.get(stage, ("test",)):
            if split not in self._datasets:
                self._datasets[split] = self._dataset(split, self.store, encoder.dim)
                log.info("%s %s", type(self).__name__, self.reports[split])

    def train_dataloader(self) -> EventLoader:
        """Videos of the training split, in an order that depends on seed and epoch alone."""
        return self._loader("train", self.batch_size)

    def val_dataloader(self) -> EventLoader:
        """Videos of the validation split, in the order of the file."""
        return self._loader("val", self.eval_batch_size)

    def test_dataloader(self) -> EventLoader:
        """Videos of the test split, in the order of the file."""
        return self._loader("test", self.eval_batch_size)

    def predict_dataloader(self) -> DataLoader[EventBatch]:
        """The test split; a plain loader, since Lightning rebuilds the one it predicts from."""
        return plain_loader(self._datasets["test"], self.eval_batch_size, self.num_workers)

    def provenance(self) -> dict[str, Any]:
        """What a metric was computed on, JSON-ready: data set, files, counts, features, proposals."""
        return {
            "data_set": type(self).__name__,
            "root": str(self.root),
            "files": dict(self.files),
            "enlarged": self.enlarged and {"held_out": self.held_out},
            "splits": {split: report.counts() for split, report in self.reports.items()},
            "features": str(self.store.path) if self.store else None,
            "manifest": self.store.manifest if self.store else None,
            "proposals": str(self.proposals),
            "train_proposals": None if self.train_proposals is None else str(self.train_proposals),
        }

    # ---- details ----------------------------------------------------------------------------------------

    def _task(self) -> FeatureReader:
        task: Any = getattr(self.trainer, "lightning_module", None)
        if not all(hasattr(task, name) for name in ("video_encoder", "subsample")):
            raise TypeError(
                f"{type(self).__name__} serves tasks with `video_encoder` and `subsample`, not {task!r}"
            )
        reader: FeatureReader = task
        if reader.video_encoder.trainable:
            raise ValueError(
                "dense captioning reads whole videos as features: set trainable to false in "
                "model.init_args.video_encoder"
            )
        return reader

    def _open(self, encoder: VideoEncoder) -> FeatureStore | StackedStore:
        store = open_store(self.features or default_store(self.cache, encoder), encoder)
        if self.missing_stream == "drop":
            return store
        if not isinstance(store, StackedStore):
            raise ValueError("missing_stream: zeros needs a list of stores in data.init_args.features")
        first, *others = store.stores
        filled = [
            _ZeroFilled(other, first.ids, part.dim) for other, part in zip(others, encoder.parts[1:], strict=True)
        ]
        return StackedStore([first, *filled], store.specs)

    def _loader(self, split: Split, batch_size: int) -> EventLoader:
        require_own_sampler(self.trainer)
        data = self._datasets[split]
        workers = min(self.num_workers, len(data) // batch_size + 1)
        return EventLoader(data, batch_size, split == "train", self.seed, workers)

    def _dataset(self, split: Split, store: FeatureStore | StackedStore, dim: int) -> EventDataset:
        report = self.reports[split] = SplitReport(split, unit="sentences")
        annotated = self.read(split)
        report.official = len(annotated)
        path = self.train_proposals if split == "train" else self.proposals
        proposed = self._proposed(path, annotated) if isinstance(path, Path) else None
        present: dict[str, list[Query]] = {}
        # an event that is nowhere cannot be told in evaluation either; references keep it
        for query in clean(annotated, report, training=True):
            if query.video_id not in store.ids:
                report.dropped["no features of the video"].append(query.query_id)
            elif not sentence_words(query.text):
                report.dropped["empty sentence"].append(query.query_id)
            elif proposed is not None and split != "train" and not len(proposed[query.video_id]):
                report.dropped["no proposals of the video"].append(query.query_id)
            else:
                present.setdefault(query.video_id, []).append(query)
        report.used = sum(map(len, present.values()))
        if not present:
            raise AnnotationError(f"{type(self).__name__}: no usable sentence. {report}")
        for part in store.stores if isinstance(store, StackedStore) else ():
            if isinstance(part, _ZeroFilled) and (absent := [v for v in present if v not in part.there]):
                report.repaired[f"zeros for what {part.path} lacks"] += absent
        videos = [self._video(split, queries, proposed, report) for queries in present.values()]
        return EventDataset(videos, store, dim, self._task().subsample, self.seed)

    def _proposed(self, path: Path, annotated: Sequence[Query]) -> dict[str, Array]:
        """The proposals of a file that are used, of every video; none where the file has none."""
        if not _is_file(path):
            raise AnnotationError(
                f"proposals {path} do not exist; data.init_args.proposals is `annotated`, `learned` or a JSON "
                "file, data.init_args.train_proposals null or a JSON file"
            )
        found = read_proposals(path)
        best = {}
        for query in annotated:
            if query.video_id not in best:
                own = proposals_of(query.video_id, found)
                best[query.video_id] = (
                    np.zeros((0, 2))
                    if own is None
                    else own.best(query.duration_s, self.max_proposals, self.min_score)
                )
        if not any(map(len, best.values())):
            raise AnnotationError(f"{path}: no usable proposal for any of the {len(best)} videos of the split")
        return best

    def _video(
        self, split: Split, queries: Sequence[Query], proposed: dict[str, Array] | None, report: SplitReport
    ) -> EventVideo:
        """The usable events of one video, sorted, and what stands for them."""
        queries = sorted(queries, key=lambda q: q.start_s)  # stable
        truth = np.array([(q.start_s, q.end_s) for q in queries], dtype=np.float64)
        words = [sentence_words(q.text) for q in queries]
        video = EventVideo(queries[0].video_id, queries[0].duration_s, truth, truth, words)
        if split != "train" and self.proposals != "annotated":
            told = np.zeros((0, 2)) if proposed is None else proposed[video.video_id]
            return video._replace(events_s=told, sentences=[[] for _ in told])
        if proposed is None:
            return video
        segments = proposed[video.video_id]
        chosen = match(segments, truth).T
        for query, own in zip(queries, chosen, strict=True):
            if not own.any():
                report.repaired["no proposal meets the event, which stands for itself"].append(query.query_id)
        stand_ins = [segments[own] if own.any() else truth[k : k + 1] for k, own in enumerate(chosen)]
        return video._replace(stand_ins=tuple(stand_ins))


def _is_file(path: Path) -> bool:
    """Whether `read_json` finds it."""
    return any(path.with_name(path.name + packed).is_file() for packed in ("", ".gz"))


class _ZeroFilled(FeatureStore):
    """A store that gives zeros for videos that it lacks; `there` are those it has."""

    def __init__(self, store: FeatureStore, ids: set[str], dim: int) -> None:
        super().__init__(store.path)
        self.there, self.ids, self.dim = self.ids, self.ids | ids, dim

    def read(self, video_id: str) -> StoredVideo:
        """See `FeatureStore.read`."""
        if video_id in self.there:
            return super().read(video_id)
        return StoredVideo(np.zeros((1, self.dim), dtype=np.float32))
