"""What the data sets of localised actions share: from annotated stretches of video to batches of one stretch."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset

from ..zoo.batch import ActionBatch, MomentFeatures
from ..zoo.video.base import VideoEncoder
from .annotations import AnnotationError, SplitReport, check_video_id
from .features import FeatureError
from .loader import ResumableLoader, plain_loader, require_own_sampler
from .reading import Gatherer
from .stretches import Stretch
from .units import Times, UnitSource
from .video_files import find_videos

log = logging.getLogger(__name__)
Split = Literal["val", "test"]


class ActionReader(Protocol):
    """What a data module needs to know of a task."""

    video_encoder: VideoEncoder
    max_cells: int | None


class StretchMoments(NamedTuple):
    """What was read of a stretch: its moments in seconds, features, and the size of the picture boxes are in."""

    times_s: Times
    features: MomentFeatures
    size: tuple[int, int]


class ActionDataset(Dataset[ActionBatch]):
    """Stretches of one split, a batch each. Unreadable videos are reported by name and left out from then on.

    Args:
        stretches: of the split.
        source: of the videos, opened.
        fps: moments per second.
    """

    def __init__(self, stretches: Sequence[Stretch], source: UnitSource, fps: float) -> None:
        self.stretches, self.source, self.fps = list(stretches), source, fps
        self._gatherer = Gatherer(
            len(self.stretches), lambda index: self.stretches[index].video_id, self._read, source.name
        )

    def __len__(self) -> int:
        return len(self.stretches)

    @property
    def lost(self) -> set[str]:
        """Videos that turned out unreadable."""
        return self._gatherer.lost

    def __getitem__(self, index: int) -> ActionBatch:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> ActionBatch:
        """The stretch at the one index, or the next whose video can be read."""
        (index,), read = self._gatherer.gather(indices)
        (moments,) = read.values()
        stretch = self.stretches[index]
        labels, boxes = stretch.truth(moments.times_s)
        return ActionBatch(
            features=moments.features,
            protocol=stretch.protocol,
            times_s=torch.from_numpy(moments.times_s).float(),
            actions=list(stretch.actions),
            labels=labels,
            boxes=boxes,
            size=moments.size,
            order=stretch.order(labels),
            sample_id=stretch.sample_id,
            video_id=stretch.video_id,
            index=index,
        )

    def _read(self, index: int) -> StretchMoments:
        stretch = self.stretches[index]
        read = self.source.read(stretch.video_id, partial(stretch.times, self.fps))
        times = stretch.times(self.fps, read.duration_s)
        size = stretch.size or read.size
        if size is None:
            info = self.source.info(stretch.video_id)
            if info is None:
                raise FeatureError(
                    f"video {stretch.video_id}: boxes are in pixels of the original, whose size neither the "
                    "annotation nor a video file tells; set data.init_args.videos to the folder of the files"
                )
            size = (info.width, info.height)
        return StretchMoments(times, read.features, size)


class ActionDataModule(L.LightningDataModule):
    """Base of the data sets that say when, and where, actions are; they are evaluated on, not trained on.

    Alone it serves ``validate``, ``test`` and ``predict``; inside a data module of narrated videos, as its
    `evaluation`, ``fit`` too. What encoders see comes from a `UnitSource`; which encoders: the data module asks
    the task that the trainer runs.

    Args:
        root: folder of the annotation files.
        features: store of the task's video encoder, of whole videos; a list for a `Combined`. None encodes the
            files in `videos`.
        videos: folder of video files; ``root/videos`` unless given.
        cache: where features made from videos are kept; ``root/features`` unless given.
        live: encode in every batch, and keep nothing.
        fps: moments per second.
        num_workers: loading (and encoding) processes; 0 works in the main process.
        val_videos: text file, one video id a line, of what validation reads; ``root/videos_val.txt`` if that
            exists, else the test videos.
        test_videos: the same for test and predict; ``root/videos_test.txt`` if that exists, else all videos.

    Attributes:
        protocols: those of its stretches, see `ActionBatch`.
    """

    protocols: Sequence[str]

    def __init__(
        self,
        root: str | Path,
        features: str | Path | list[str] | list[Path] | None = None,
        videos: str | Path | None = None,
        cache: str | Path | None = None,
        live: bool = False,
        fps: float = 1.0,
        num_workers: int = 4,
        val_videos: str | Path | None = None,
        test_videos: str | Path | None = None,
    ) -> None:
        super().__init__()
        if not fps > 0:
            raise ValueError(f"fps {fps:g}: there must be some moments per second")
        self.root = Path(root)
        self.features: Path | list[Path] | None = None
        if features is not None:
            self.features = [Path(p) for p in features] if isinstance(features, list) else Path(features)
        self.videos = Path(videos) if videos is not None else self.root / "videos"
        self.cache = Path(cache) if cache is not None else self.root / "features"
        self.live, self.fps, self.num_workers = live, fps, num_workers
        self.lists: dict[Split, Path | None] = {
            "val": self._list("videos_val.txt", val_videos),
            "test": self._list("videos_test.txt", test_videos),
        }
        self.source: UnitSource | None = None
        self.reports: dict[str, SplitReport] = {}
        self._datasets: dict[str, ActionDataset] = {}

    # ---- the data set's part ----------------------------------------------------------------------------

    @abstractmethod
    def annotated(self) -> list[str]:
        """Ids of all videos with annotations, in the order of the file."""

    @abstractmethod
    def of_video(self, video_id: str, report: SplitReport) -> Iterator[Stretch]:
        """Stretches of an annotated video.

        Args:
            video_id: one of `annotated`.
            report: takes what is repaired in or dropped from within stretches; the stretches themselves are
                counted by `read`.
        """

    def read(self, split: Split) -> list[Stretch]:
        """Stretches of a split, in the order of the file; one of which nothing is annotated is dropped.

        `reports` has the account.

        Raises:
            AnnotationError: a file is missing or broken; says which, and where.
        """
        report = self.reports[split] = SplitReport(split, unit="stretches")
        kept = []
        for video in self._chosen(split, report):
            for stretch in self.of_video(video, report):
                report.official += 1
                if stretch.marks:
                    kept.append(stretch)
                else:
                    report.dropped["nothing annotated"].append(stretch.sample_id)
        report.used = len(kept)
        return kept

    # ---- Lightning --------------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Encode the videos that have no features yet; one process per machine does this."""
        needed = {v for split in self.lists for v in self._chosen(split, SplitReport(split))}
        self._source().prepare(needed, self.num_workers)

    def setup(self, stage: str) -> None:
        """Open the videos' features, read the split that `stage` needs and report on it."""
        source = self._source()
        source.open()
        split: Split = "val" if stage in ("fit", "validate") else "test"
        if split in self._datasets:
            return
        if split == "val":
            self._warn_of_selection()
        known, report, kept = source.ids, self.reports, []
        for stretch in self.read(split):
            if stretch.video_id in known:
                kept.append(stretch)
            else:
                reason = "no video file" if source.live else "no features of the video"
                report[split].dropped[reason].append(stretch.sample_id)
        report[split].used = len(kept)
        if not kept:
            raise AnnotationError(
                f"{type(self).__name__}: no usable stretch in {self.root} with videos of {source.name}. "
                f"{report[split]}"
            )
        log.info("%s %s", type(self).__name__, report[split])
        self._datasets[split] = ActionDataset(kept, source, self.fps)

    def train_dataloader(self) -> Any:
        """There is nothing to train on.

        Raises:
            ValueError: always; says what to do instead.
        """
        raise ValueError(
            f"{type(self).__name__} is for evaluation: it has no narrations to train on. Train on narrated videos "
            "(`--data HowTo100M`) and name this data set under data.init_args.evaluation"
        )

    def val_dataloader(self) -> ResumableLoader[ActionBatch]:
        """Stretches of the validation videos, in the order of the file."""
        return self._loader("val")

    def test_dataloader(self) -> ResumableLoader[ActionBatch]:
        """Stretches of the test videos, in the order of the file."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[ActionBatch]:
        """The test videos; a plain loader, since Lightning rebuilds the one it predicts from."""
        data = self._datasets["test"]
        return plain_loader(data, 1, min(self.num_workers, len(data)))

    def provenance(self) -> dict[str, Any]:
        """What a metric was computed on, JSON-ready: data set, counts, features."""
        stores = [] if self.source is None else self.source.stores
        return {
            "data_set": type(self).__name__,
            "root": str(self.root),
            "fps": self.fps,
            "lists": {split: path and str(path) for split, path in self.lists.items()},
            "splits": {split: report.counts() for split, report in self.reports.items()},
            "features": [str(store.path) for store in stores],
            "manifests": [store.manifest for store in stores],
        }

    # ---- details ----------------------------------------------------------------------------------------

    def _task(self) -> ActionReader:
        task: Any = getattr(self.trainer, "lightning_module", None)
        if not all(hasattr(task, name) for name in ("video_encoder", "max_cells")):
            raise TypeError(
                f"{type(self).__name__} serves tasks with `video_encoder` and `max_cells`, not {task!r}"
            )
        reader: ActionReader = task
        return reader

    def _source(self) -> UnitSource:
        if self.source is None:
            task = self._task()
            annotated = set(self.annotated())
            wanted = self.features is None or self.videos.exists()
            files = find_videos(self.videos) if wanted else {}
            files = {name: path for name, path in files.items() if name in annotated}
            if self.features is None and not files:
                raise FeatureError(
                    f"none of the {len(annotated)} annotated videos is in {self.videos}; set "
                    "data.init_args.videos, or data.init_args.features to precomputed features"
                )
            self.source = UnitSource(
                task.video_encoder, self.features, files, self.cache, self.live, task.max_cells
            )
        return self.source

    def _list(self, name: str, given: str | Path | None) -> Path | None:
        usual = self.root / name
        return Path(given) if given is not None else usual if usual.is_file() else None

    def _listed(self, split: Split) -> list[str] | None:
        """Ids that a split's list names, without repetitions; None if there is no list."""
        path = self.lists[split]
        if path is None:
            return None
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise AnnotationError(f"list of videos {path}: {error}") from error
        return [check_video_id(line, str(path)) for line in dict.fromkeys(lines) if line]

    def _chosen(self, split: Split, report: SplitReport) -> list[str]:
        """Annotated videos of a split, in the order of the annotation."""
        annotated = self.annotated()
        listed = self._listed(split)
        if listed is None and split == "val":
            listed = self._listed("test")
        if listed is None:
            return annotated
        missing = sorted(set(listed) - set(annotated))
        if missing:
            report.dropped["listed video without annotation"] += missing
        return [video for video in annotated if video in set(listed)]

    def _warn_of_selection(self) -> None:
        """Say it where validation looks at test videos."""
        val, test = self._chosen("val", SplitReport("val")), self._chosen("test", SplitReport("test"))
        shared = len(set(val) & set(test))
        if shared:
            log.warning(
                "%s: %d of %d validation videos are test videos: a checkpoint chosen by validation is chosen on "
                "the test set",
                type(self).__name__,
                shared,
                len(val),
            )

    def _loader(self, split: Split) -> ResumableLoader[ActionBatch]:
        require_own_sampler(self.trainer)
        data = self._datasets[split]
        return ResumableLoader(data, 1, False, 0, min(self.num_workers, len(data)))
