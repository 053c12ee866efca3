"""What encoders see at moments of a video: units from feature stores, or frames to encode."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..zoo.batch import MomentFeatures
from ..zoo.video.base import VideoEncoder, pool_cells
from .extraction import build_store, default_store
from .features import FeatureError, FeatureStore, StoredVideo
from .samples import read_passes, unit_at
from .video import FrameReader, VideoError, VideoInfo, probe

log = logging.getLogger(__name__)
Times = npt.NDArray[np.float64]


class VideoMoments(NamedTuple):
    """N moments of one video.

    Attributes:
        features: without leading dimension.
        duration_s: of the video.
        size: (width, height) of the original in pixels, where it is known.
    """

    features: MomentFeatures
    duration_s: float
    size: tuple[int, int] | None


class UnitSource:
    """Where a data module has its videos from: stores of whole videos with grids, or the files themselves.

    Features are, in this order: those in `features`; those kept below `cache`, made once by a frozen encoder from
    the files; or, `live`, frames from the files for the encoder to look at in every batch. A trainable encoder is
    always live.

    Args:
        encoder: of the task.
        features: a store, or one per encoder of a `Combined`; None makes features from the files.
        videos: video files by id.
        cache: folder of the features made here.
        live: encode in every batch.
        max_cells: larger grids are averaged down to this many cells in a direction.

    Raises:
        ValueError: a trainable encoder is given features.
    """

    def __init__(
        self,
        encoder: VideoEncoder,
        features: Path | Sequence[Path] | None,
        videos: Mapping[str, Path],
        cache: Path,
        live: bool = False,
        max_cells: int | None = None,
    ) -> None:
        if encoder.trainable and features is not None:
            raise ValueError(
                "a trainable video encoder needs videos, not features: set data.init_args.features to null, or "
                "trainable to false in model.init_args.video_encoder"
            )
        self.specs = [part.spec for part in encoder.parts]
        self.grids = [part.grid for part in encoder.parts]
        self.videos, self.max_cells = videos, max_cells
        self.live = features is None and (live or encoder.trainable)
        self._encoder: VideoEncoder | None = encoder
        self._made = features is None and not self.live
        if self._made:  # to name the store its weights are hashed: not for nothing
            features = default_store(cache, encoder, "" if max_cells is None else f"-{max_cells}")
        self.paths = [features] if isinstance(features, Path) else list(features or [])
        self.stores: list[FeatureStore] = []

    def prepare(self, needed: set[str], num_workers: int) -> None:
        """Encode the videos that have no features yet; one process per machine does this."""
        if self._made and self._encoder is not None:
            files = {name: path for name, path in self.videos.items() if name in needed}
            if files:
                out = self.paths[0] if len(self.paths) == 1 else self.paths
                build_store(self._encoder, files, out, num_workers, grids=True, max_cells=self.max_cells)

    def open(self) -> None:
        """Open the stores and compare them with the encoder; the encoder itself is not kept for workers.

        Raises:
            FeatureError: there are none, or they contradict the encoder.
        """
        if self._encoder is None:
            return
        if not self.live:
            parts = self._encoder.parts
            if len(parts) != len(self.paths):
                raise FeatureError(
                    f"{len(self.paths)} feature stores for a video encoder of {len(parts)} parts: one for each"
                )
            self.stores = [FeatureStore(path) for path in self.paths]
            for store, part in zip(self.stores, parts, strict=True):
                store.check(part)
        self._encoder = None

    @property
    def ids(self) -> set[str]:
        """Videos that can be read."""
        return set.intersection(*(store.ids for store in self.stores)) if self.stores else set(self.videos)

    @property
    def name(self) -> str:
        """Where videos come from, for messages."""
        return " + ".join(map(str, self.paths)) or str(next(iter(self.videos.values()), Path("videos")).parent)

    def info(self, video_id: str) -> VideoInfo | None:
        """Facts about the file of a video; None where there is none that can be read."""
        try:
            return probe(self.videos[video_id]) if video_id in self.videos else None
        except VideoError as error:
            log.warning("%s", error)
            return None

    def duration_s(self, video_id: str) -> float:
        """Length of a video in seconds, from its features or its file.

        Raises:
            FeatureError: neither tells.
            VideoError: the file cannot be read.
        """
        if self.stores:
            return self._duration_s(video_id, self.stores[0].read(video_id))
        if video_id not in self.videos:
            raise FeatureError(f"{self.name}: there is no video {video_id}")
        return probe(self.videos[video_id]).duration_s

    def _duration_s(self, video_id: str, stored: StoredVideo) -> float:
        """Length of a video with features in the first store."""
        fps = self.specs[0].fps
        if stored.duration_s is not None:
            return stored.duration_s
        if stored.num_frames is not None and fps:
            return stored.num_frames / fps
        if video_id in self.videos:
            return probe(self.videos[video_id]).duration_s
        if fps:
            return self.specs[0].num_frames(len(stored.units)) / fps
        raise FeatureError(f"features {self.name}[{video_id}]: the duration of the video is unknown")

    def read(self, video_id: str, times_s: Times | Callable[[float], Times]) -> VideoMoments:
        """What the encoders see at N moments; one behind the end gives the last unit or picture.

        Args:
            video_id: the video.
            times_s: N moments, or what chooses them when it is told the length of the video in seconds: files are
                large, and opened once.

        Raises:
            FeatureError: features are missing, broken or of another shape.
            VideoError: the file cannot be read.
        """
        if not self.stores:
            with FrameReader(self.videos[video_id]) as reader:
                info = reader.info
                times = times_s(info.duration_s) if callable(times_s) else times_s
                passes = [read_passes(reader, spec, times.tolist()) for spec in self.specs]
            return VideoMoments(MomentFeatures(None, None, passes), info.duration_s, (info.width, info.height))
        read = [store.read(video_id) for store in self.stores]
        duration_s = self._duration_s(video_id, read[0])
        times = times_s(duration_s) if callable(times_s) else times_s
        parts = [self._stored(k, video_id, stored, times, duration_s) for k, stored in enumerate(read)]
        vectors, cells = zip(*parts, strict=True)
        grid = None if any(c is None for c in cells) else torch.cat([c for c in cells if c is not None], dim=-1)
        return VideoMoments(MomentFeatures(torch.cat(vectors, dim=-1), grid), duration_s, None)

    def _stored(
        self, k: int, video_id: str, stored: StoredVideo, times_s: Times, duration_s: float
    ) -> tuple[Tensor, Tensor | None]:
        """Units ``(N, D)`` and cells ``(N, h, w, C)`` of one store."""
        store, spec, expected = self.stores[k], self.specs[k], self.grids[k]
        frames = stored.num_frames or spec.num_frames(len(stored.units))
        chosen = unit_at(spec, len(stored.units), frames, duration_s, times_s)
        vectors = torch.from_numpy(np.ascontiguousarray(stored.units[chosen]))
        if expected is None:
            return vectors, None
        grid = store.read_grid(video_id)
        if len(grid) != len(stored.units) or grid.shape[-1] != expected[2]:
            raise FeatureError(
                f"features {store.path}[{video_id}]: grids of shape {grid.shape}, expected "
                f"({len(stored.units)}, h, w, {expected[2]})"
            )
        cells = torch.from_numpy(np.ascontiguousarray(grid[chosen]))
        if self.max_cells is not None and max(cells.shape[1:3]) > self.max_cells:
            cells = pool_cells(cells.float(), self.max_cells)
        return vectors, cells


def stack(features: Sequence[MomentFeatures]) -> MomentFeatures:
    """Features of several stretches with a leading dimension."""
    vectors = [f.vectors for f in features if f.vectors is not None]
    grids = [f.grid for f in features if f.grid is not None]
    return MomentFeatures(
        torch.stack(vectors) if vectors else None,
        torch.stack(grids) if grids else None,
        [torch.stack(passes) for passes in zip(*(f.passes for f in features), strict=True)],
    )
