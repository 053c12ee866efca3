"""What the data modules of narrated videos share: training on narrations, evaluation on another data set."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import lightning as L
import numpy as np
import numpy.typing as npt
from torch.utils.data import DataLoader

from ..zoo.batch import ActionBatch
from ..zoo.video.base import VideoEncoder
from .annotations import AnnotationError, SplitReport
from .features import FeatureError
from .loader import require_own_sampler
from .narration_dataset import Candidates, NarrationDataset, NarrationLoader
from .narration_index import NarrationSource
from .packed import FileTable
from .units import UnitSource
from .video_files import find_videos

log = logging.getLogger(__name__)


class NarrationReader(Protocol):
    """What a data module needs to know of a task."""

    video_encoder: VideoEncoder
    audio_encoder: VideoEncoder | None
    max_cells: int | None


class NarrationDataModule(L.LightningDataModule):
    """Base of the data modules of narrated videos: training on narrations, evaluation on another data set.

    Args:
        root: folder of the narrations.
        features: store of the task's video encoder with grids of whole videos; a list for a `Combined`.
        videos: folder of video files; ``root/videos`` unless given.
        cache: where indices, and features made from videos, are kept; ``root/features`` unless given.
        live: without `features`, encode in every batch; False makes a store of all videos once.
        candidates: moments per video, U.
        candidate_fps: moments per second.
        min_time_s: see `Candidates`.
        sound: also read the sound of the stretch, for the task's audio encoder.
        batch_size: videos per batch and process.
        num_workers: loading (and encoding) processes; 0 works in the main process.
        seed: of the order of videos and the choice of narrations.
        evaluation: what validation, test and prediction read: a data module of annotated actions. None: there is
            no validation.
    """

    def __init__(
        self,
        root: str | Path,
        features: str | Path | list[str] | list[Path] | None = None,
        videos: str | Path | None = None,
        cache: str | Path | None = None,
        live: bool = True,
        candidates: int = 80,
        candidate_fps: float = 5.0,
        min_time_s: float = 5.0,
        sound: bool = False,
        batch_size: int = 64,
        num_workers: int = 4,
        seed: int = 0,
        evaluation: L.LightningDataModule | None = None,
    ) -> None:
        super().__init__()
        if candidates < 1 or not candidate_fps > 0 or not min_time_s >= 0:
            raise ValueError(
                f"candidates={candidates}, candidate_fps={candidate_fps}, min_time_s={min_time_s}: at least one, "
                "positive, and not negative"
            )
        self.root = Path(root)
        self.features: Path | list[Path] | None = None
        if features is not None:
            self.features = [Path(p) for p in features] if isinstance(features, list) else Path(features)
        self.videos = Path(videos) if videos is not None else self.root / "videos"
        self.cache = Path(cache) if cache is not None else self.root / "features"
        self.candidates = Candidates(candidates, candidate_fps, min_time_s)
        self.live, self.sound, self.seed, self.evaluation = live, sound, seed, evaluation
        self.batch_size, self.num_workers = batch_size, num_workers
        self.reports: dict[str, SplitReport] = {}
        self._dataset: NarrationDataset | None = None
        self._source: UnitSource | None = None

    # ---- the data set's part ----------------------------------------------------------------------------

    @abstractmethod
    def narrations(self) -> NarrationSource:
        """Narrations of all videos; what takes long is kept below `cache`."""

    def wanted(self) -> Iterable[str] | None:
        """Videos to train on; None takes all that have narrations."""
        return None

    def vocabulary_texts(self) -> Iterator[str]:
        """All narrations that are trained on, one by one."""
        yield from self._training().texts()

    # ---- Lightning --------------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Index narrations and encode videos, where that is needed; one process per machine does this."""
        state = getattr(self.trainer, "state", None)
        if state is None or state.fn == "fit":
            narrations, videos = self.narrations(), self._videos()
            if self.features is None and not videos.live:
                videos.prepare({narrations.ids[k] for k in self._rows(narrations, videos)}, self.num_workers)
        if self.evaluation is not None:
            self.evaluation.trainer = self.trainer
            self.evaluation.prepare_data()

    def setup(self, stage: str) -> None:
        """Open narrations and videos for `fit`, and report on them; the rest is the evaluation's."""
        if stage == "fit":
            self._training()
        elif self.evaluation is None:
            verb = getattr(stage, "value", stage)  # Lightning hands over a member of its TrainerFn
            raise ValueError(
                f"{type(self).__name__} has narrations, but no annotated actions to {verb} on; set "
                "data.init_args.evaluation to a data set that has them, such as GroundingYouTube"
            )
        if self.evaluation is not None:
            self.evaluation.trainer = self.trainer
            self.evaluation.setup(stage)

    def train_dataloader(self) -> NarrationLoader:
        """Videos in an order that depends on seed and epoch alone, one narration of each."""
        require_own_sampler(self.trainer)
        processes = 1 if self.trainer is None else self.trainer.world_size
        return NarrationLoader(self._training(), self.batch_size, self.seed, self.num_workers, processes)

    def val_dataloader(self) -> DataLoader[ActionBatch] | list[Any]:
        """Validation of `evaluation`; nothing without one."""
        return [] if self.evaluation is None else self.evaluation.val_dataloader()

    def test_dataloader(self) -> DataLoader[ActionBatch]:
        """Test of `evaluation`."""
        assert self.evaluation is not None
        return self.evaluation.test_dataloader()  # type: ignore[no-any-return]

    def predict_dataloader(self) -> DataLoader[ActionBatch]:
        """Prediction of `evaluation`."""
        assert self.evaluation is not None
        return self.evaluation.predict_dataloader()  # type: ignore[no-any-return]

    def provenance(self) -> dict[str, Any]:
        """What was trained and evaluated on, JSON-ready: data sets, counts, features."""
        stores = [] if self._source is None else self._source.stores
        evaluation: Any = self.evaluation
        return {
            "data_set": type(self).__name__,
            "root": str(self.root),
            "splits": {split: report.counts() for split, report in self.reports.items()},
            "narrations": None if self._dataset is None else dict(self._dataset.narrations.facts),
            "features": [str(store.path) for store in stores],
            "manifests": [store.manifest for store in stores],
            "evaluation": evaluation.provenance() if hasattr(evaluation, "provenance") else None,
        }

    # ---- details ----------------------------------------------------------------------------------------

    def _task(self) -> NarrationReader:
        task: Any = getattr(self.trainer, "lightning_module", None)
        if not all(hasattr(task, name) for name in ("video_encoder", "audio_encoder", "max_cells")):
            raise TypeError(
                f"{type(self).__name__} serves tasks with `video_encoder`, `audio_encoder` and `max_cells`, not "
                f"{task!r}"
            )
        reader: NarrationReader = task
        return reader

    def _videos(self) -> UnitSource:
        """Where videos come from."""
        if self._source is None:
            task = self._task()
            files = find_videos(self.videos) if self.features is None or self.videos.exists() else {}
            if self.features is None and not files:
                raise FeatureError(
                    f"there is no video in {self.videos}; set data.init_args.videos, or data.init_args.features "
                    "to precomputed features with grids"
                )
            self._source = UnitSource(
                task.video_encoder, self.features, FileTable(files), self.cache, self.live, task.max_cells
            )
        return self._source

    def _training(self) -> NarrationDataset:
        if self._dataset is None:
            heard = self._task().audio_encoder
            if self.sound and (heard is None or heard.spec.fps is None):
                raise ValueError("data.init_args.sound is true, but the task has no model.init_args.audio_encoder")
            rate = round(heard.spec.fps) if self.sound and heard is not None and heard.spec.fps else None
            narrations, videos = self.narrations(), self._videos()
            videos.open()
            rows = self._rows(narrations, videos)
            log.info("%s %s", type(self).__name__, self.reports["train"])
            self._dataset = NarrationDataset(narrations, rows, videos, self.candidates, self.seed, rate)
        return self._dataset

    def _rows(self, narrations: NarrationSource, videos: UnitSource) -> npt.NDArray[np.int64]:
        """Rows of the narrations whose videos are wanted and there; `reports` has the account."""
        report = self.reports["train"] = SplitReport("train", unit="videos")
        listed, there = self.wanted(), videos.ids
        wanted = None if listed is None else set(listed)
        rows, seen = [], set()
        for row, video_id in enumerate(narrations.ids):
            if wanted is not None and video_id not in wanted:
                continue
            if video_id in seen:
                report.dropped["video comes twice"].append(video_id)
            elif video_id in there:
                rows.append(row)
            else:
                report.dropped["no features of the video" if videos.stores else "no video file"].append(video_id)
            seen.add(video_id)
        broken = [video_id for video_id in narrations.broken if wanted is None or video_id in wanted]
        absent = sorted((wanted or set()) - seen - narrations.broken.keys())
        for reason, ids in (("narrations cannot be used", broken), ("no narrations", absent)):
            if ids:
                report.dropped[reason] += ids
        report.used = len(rows)
        report.official = report.used + sum(map(len, report.dropped.values()))
        if not rows:
            raise AnnotationError(
                f"{type(self).__name__}: no narrated video of {narrations.name} is in {videos.name}. {report}"
            )
        return np.array(rows, dtype=np.int64)
