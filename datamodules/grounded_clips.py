"""What the data modules of grounded clips share: from an index to batches of frames, sentences and boxes."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import lightning as L
import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from ..zoo.batch import GroundedClipBatch
from ..zoo.text.grounded_text import GroundedText
from ..zoo.video.base import VideoEncoder
from ..zoo.video.spec import FrameSpec
from .annotations import AnnotationError, SplitReport
from .grounded_frames import ClipFrames, draw_frames, one_box_each, read_frames_of
from .grounded_index import ClipIndex
from .grounded_records import GroundedClip
from .loader import ResumableLoader, plain_loader, require_own_sampler
from .packed import FileTable
from .packets import VideoError
from .reading import Gatherer
from .video import FrameReader
from .video_files import find_videos

log = logging.getLogger(__name__)
Split = Literal["train", "val", "test"]
Judge = Literal["iground", "vidstg", "entities", "pointing"]


class ClipReader(Protocol):
    """What a data module needs to know of a task: its encoders, and how many frames they see at once."""

    streams: Sequence[VideoEncoder]
    frames: int


class ReadClip(NamedTuple):
    """A clip and the frames of it that were read; `own` of them are different."""

    clip: GroundedClip
    chosen: list[int]
    own: int
    seen: ClipFrames


class GroundedClipDataset(Dataset[GroundedClipBatch]):
    """Clips of one split.

    Clips that turn out unreadable are reported by name and left out from then on, and so are all clips of a file
    that cannot be opened. In training the next one that is not in the batch takes the place, so that batches keep
    their size.

    Args:
        clips: of the data set.
        rows: of those that are used, ``(n,)``.
        files: their video files, by the name of the file or of the video.
        specs: what the encoders ask for.
        frames: in training, T frames are drawn of every clip, by (seed, epoch, position) alone; None reads all.
        given: sentences are given in evaluation, too.
        groups: see `GroundedClipDataModule`.
        seed: of the choice of frames.

    Attributes:
        epoch: ``()`` int64 in shared memory, since workers outlive epochs.
    """

    def __init__(
        self,
        clips: ClipIndex,
        rows: npt.NDArray[np.int64],
        files: Mapping[str, Path],
        specs: Sequence[FrameSpec],
        frames: int | None,
        given: bool,
        groups: Sequence[str],
        seed: int,
    ) -> None:
        self.clips, self.rows, self.files, self.specs = clips, rows, files, list(specs)
        self.frames, self.given, self.groups, self.seed = frames, given, groups, seed
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._shut: set[Path] = set()  # files that cannot be opened
        self._gatherer = Gatherer(len(rows), self.clip_id, self._read, clips.name)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lost(self) -> set[str]:
        """Clips that turned out unreadable."""
        return self._gatherer.lost

    def clip_id(self, index: int) -> str:
        """Name of the clip at a position."""
        return self.clips.clip_ids[int(self.rows[index])]

    def captions(self) -> Iterator[GroundedText]:
        """The sentences, one by one."""
        return (self.clips.read(row).caption for row in self.rows.tolist())

    def __getitem__(self, index: int) -> GroundedClipBatch:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> GroundedClipBatch:
        """A batch of the clips at `indices`, in that order."""
        kept, read = self._gatherer.gather(indices)
        if self.frames is not None:
            self._fill(indices, kept, read)
        first = {self.clip_id(index): index for index in reversed(kept)}
        return collate(list(read.values()), [first[clip_id] for clip_id in read], self.given, self.groups)

    def _fill(self, indices: list[int], kept: list[int], read: dict[str, ReadClip]) -> None:
        """Replace clips that cannot be read."""
        for step in range(1, len(self)):
            if len(kept) >= len(indices):
                break
            spare = (indices[-1] + step) % len(self)
            if self.clip_id(spare) not in read.keys() | self.lost:
                (found,), more = self._gatherer.gather([spare])
                kept += [] if found in kept else [found]
                read |= more

    def _read(self, index: int) -> ReadClip:
        clip = self.clips.read(int(self.rows[index]))
        path = self.files[clip.video] if clip.video in self.files else self.files[clip.video_id]
        if path in self._shut:
            raise VideoError(f"{path}: clip {clip.clip_id} is of a file that could not be opened before")
        own = len(clip.frames)
        chosen = list(range(own))
        if self.frames is not None:
            random = np.random.default_rng((self.seed, int(self.epoch), index))
            chosen, own = draw_frames([bool(b) for b in clip.boxes], self.frames, random), min(own, self.frames)
        try:
            reader = FrameReader(path)
        except VideoError:
            self._shut.add(path)
            raise
        with reader:
            clip = clip.in_file(reader.info.width, reader.info.height)
            return ReadClip(clip, chosen, own, read_frames_of(reader, clip, chosen, self.specs))


def collate(
    read: Sequence[ReadClip], index: Sequence[int], given: bool, groups: Sequence[str]
) -> GroundedClipBatch:
    """A batch of clips; those with fewer frames than the longest repeat their last one.

    Args:
        read: B clips.
        index: their positions in the split.
        given: see `GroundedClipBatch`.
        groups: names of the groups of clips.
    """
    longest = max(len(r.chosen) for r in read)
    places = [torch.arange(longest).clamp(max=len(r.chosen) - 1) for r in read]
    labels = [one_box_each(r.clip, [r.chosen[k] for k in p.tolist()]) for r, p in zip(read, places, strict=True)]
    captions = [r.clip.caption for r in read]
    return GroundedClipBatch(
        frames=[
            torch.stack([frames[p] for frames, p in zip(stream, places, strict=True)])
            for stream in zip(*(r.seen.frames for r in read), strict=True)
        ],
        mask=torch.stack([torch.arange(longest) < r.own for r in read]),
        captions=captions,
        references=[[caption.text] for caption in captions],
        given=given,
        clip=torch.arange(len(read)).repeat_interleave(torch.tensor([len(c.spans) for c in captions])),
        boxes=torch.from_numpy(np.concatenate([boxes for boxes, _ in labels])),
        visible=torch.from_numpy(np.concatenate([visible for _, visible in labels])),
        truths=[
            [[(phrases[number], box) for number, box in r.clip.boxes[k]] for k in r.chosen[: r.own]]
            for r, phrases in zip(read, (c.phrases for c in captions), strict=True)
        ],
        times_s=torch.stack([r.seen.times_s[p] for r, p in zip(read, places, strict=True)]).float(),
        sizes=torch.tensor([r.clip.size for r in read]),
        clip_ids=[r.clip.clip_id for r in read],
        video_ids=[r.clip.video_id for r in read],
        index=torch.tensor(index),
        subsets={group: torch.tensor([r.clip.group == group for r in read]) for group in groups},
    )


class GroundedClipLoader(ResumableLoader[GroundedClipBatch]):
    """Batches of a training epoch; tells the dataset the epoch, on which the choice of frames depends."""

    def __iter__(self) -> Iterator[GroundedClipBatch]:  # type: ignore[override]
        self.dataset.epoch.fill_(self.order.epoch)  # type: ignore[attr-defined]
        yield from super().__iter__()


class GroundedClipDataModule(L.LightningDataModule):
    """Base of the data modules of grounded clips.

    In training T frames of every clip are drawn, one of each of T equal parts; in evaluation all annotated frames,
    about five per second, are read. How many frames, and how large: the data module asks the task that the trainer
    runs. A file is decoded once, whatever the number of encoders.

    Args:
        root: folder of the annotation files.
        videos: folder of video files; ``root/videos`` unless given.
        cache: where indices of the annotation files are kept; ``root/index`` unless given.
        batch_size: clips per training batch and process.
        eval_batch_size: clips per batch in evaluation, which has all their frames: some 40 of a clip of 8 s.
        num_workers: loading processes; 0 works in the main process.
        test_split: what `test` and `predict` read.
        seed: of the order of training clips and the choice of their frames.

    Attributes:
        gives_captions: sentences are given in evaluation, too, and only their boxes are asked for.
        protocol: which metric judges answers: `IGround`, `VidSTG`, `EntityGrounding` or `PointingAccuracy`.
        groups: groups of clips that are reported on their own.
    """

    gives_captions = False
    protocol: Judge = "iground"
    groups: tuple[str, ...] = ()

    def __init__(
        self,
        root: str | Path,
        videos: str | Path | None = None,
        cache: str | Path | None = None,
        batch_size: int = 1,
        eval_batch_size: int = 1,
        num_workers: int = 4,
        test_split: Split = "test",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.root = Path(root)
        self.videos = Path(videos) if videos is not None else self.root / "videos"
        self.cache = Path(cache) if cache is not None else self.root / "index"
        self.batch_size, self.eval_batch_size, self.num_workers = batch_size, eval_batch_size, num_workers
        self.test_split, self.seed = test_split, seed
        self.reports: dict[str, SplitReport] = {}
        self._datasets: dict[str, GroundedClipDataset] = {}
        self._files: dict[str, Path] | None = None

    # ---- the data set's part ----------------------------------------------------------------------------

    @abstractmethod
    def clips(self, split: Split) -> ClipIndex | None:
        """The clips of a split, indexed below `cache`; None where the data set has no such split."""

    @property
    def validates(self) -> bool:
        """Whether there is a validation split."""
        return True

    def vocabulary_texts(self) -> Iterator[GroundedText]:
        """The sentences that are trained on, one by one."""
        self._open("train", needed=True)  # an untrained model is evaluated without it
        return self._datasets["train"].captions()

    # ---- Lightning --------------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Index annotation files; one process per machine does this."""
        state = getattr(self.trainer, "state", None)
        for split in self._needed("fit" if state is None else state.fn):
            self.clips(split)

    def setup(self, stage: str) -> None:
        """Open the splits that `stage` needs and report on them."""
        for split in self._needed(stage):
            self._open(split, needed=split != "val" or stage != "fit")

    def train_dataloader(self) -> GroundedClipLoader:
        """Clips of the training split, in an order that depends on seed and epoch alone."""
        require_own_sampler(self.trainer)
        data = self._datasets["train"]
        return GroundedClipLoader(data, self.batch_size, True, self.seed, self._workers(data, self.batch_size))

    def val_dataloader(self) -> ResumableLoader[GroundedClipBatch] | list[Any]:
        """Clips of the validation split, in the order of the file; nothing where there is none."""
        return self._evaluation("val") if "val" in self._datasets else []

    def test_dataloader(self) -> ResumableLoader[GroundedClipBatch]:
        """Clips of the test split, in the order of the file."""
        return self._evaluation(self.test_split)

    def predict_dataloader(self) -> DataLoader[GroundedClipBatch]:
        """The test split; a plain loader, since Lightning rebuilds the one it predicts from."""
        return plain_loader(self._datasets[self.test_split], self.eval_batch_size, self.num_workers)

    def provenance(self) -> dict[str, Any]:
        """What was trained and evaluated on, JSON-ready: data set, files, counts."""
        return {
            "data_set": type(self).__name__,
            "root": str(self.root),
            "videos": str(self.videos),
            "annotations": {split: data.clips.name for split, data in self._datasets.items()},
            "splits": {split: report.counts() for split, report in self.reports.items()},
        }

    # ---- details ----------------------------------------------------------------------------------------

    def _needed(self, stage: str) -> tuple[Split, ...]:
        needed: dict[str, tuple[Split, ...]] = {"fit": ("train", "val"), "validate": ("val",)}
        return needed.get(getattr(stage, "value", stage), (self.test_split,))  # Lightning has a TrainerFn

    def _task(self) -> ClipReader:
        task: Any = getattr(self.trainer, "lightning_module", None)
        if not all(hasattr(task, name) for name in ("streams", "frames")):
            raise TypeError(f"{type(self).__name__} serves tasks with `streams` and `frames`, not {task!r}")
        reader: ClipReader = task
        for encoder in reader.streams:
            if encoder.spec.size is None:
                raise ValueError(f"{type(encoder).__name__} asks for no fixed size of frames, but clips need one")
        return reader

    def _open(self, split: Split, needed: bool) -> None:
        """Read a split that was not read yet."""
        if split in self._datasets:
            return
        clips = self.clips(split)
        if clips is not None:
            self._datasets[split] = self._dataset(split, clips)
            log.info("%s %s", type(self).__name__, self.reports[split])
        elif needed:
            raise AnnotationError(f"{type(self).__name__}: there is no annotation of the split {split!r}")

    def _dataset(self, split: Split, clips: ClipIndex) -> GroundedClipDataset:
        task = self._task()
        if self._files is None:
            self._files = find_videos(self.videos)
        files, report = self._files, SplitReport(split, unit="clips")
        rows, there = [], set()
        for row, names in enumerate(zip(clips.videos, clips.video_ids, strict=True)):
            name = next((name for name in names if name in files), None)
            if name is None:
                report.dropped["no video file"].append(clips.clip_ids[row])
            else:
                rows.append(row)
                there.add(name)
        if clips.broken:
            report.dropped["record cannot be used"] += clips.broken
        report.used, report.official = len(rows), len(clips) + len(clips.broken)
        self.reports[split] = report
        if not rows:
            raise AnnotationError(
                f"{type(self).__name__}: no clip of {clips.name} has its video in {self.videos}; set "
                f"data.init_args.videos. {report}"
            )
        return GroundedClipDataset(
            clips,
            np.array(rows, dtype=np.int64),
            FileTable({name: files[name] for name in there}),
            [encoder.spec for encoder in task.streams],
            task.frames if split == "train" else None,
            self.gives_captions,
            self.groups,
            self.seed,
        )

    def _evaluation(self, split: Split) -> ResumableLoader[GroundedClipBatch]:
        require_own_sampler(self.trainer)
        data, size = self._datasets[split], self.eval_batch_size
        return ResumableLoader(data, size, False, self.seed, self._workers(data, size))

    def _workers(self, data: GroundedClipDataset, batch_size: int) -> int:
        return min(self.num_workers, len(data) // batch_size + 1)
