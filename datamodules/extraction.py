"""Features of many videos: decoding in workers, encoding in batches, writing each video when it is whole."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from torch import nn
from tqdm import tqdm

from ..zoo.video.base import VideoEncoder
from .collecting import BATCH_SIZE, Collector
from .features import (
    MANIFEST,
    NOT_IN_FEATURES,
    FeatureError,
    FeatureStore,
    StackedStore,
    describe,
    differences,
    open_store,
    read_manifest,
)
from .packets import VideoError
from .passes import PassBatch, PassLoader, Work
from .samples import Sampled
from .shards import (
    LOOSE,
    QUARANTINE,
    ShardWriter,
    quarantined,
    remove_leftovers,
    shard_files,
    stored_videos,
    write_json,
)

log = logging.getLogger(__name__)
LOG_EVERY_S = 30.0
DType = Literal["float16", "float32"]


def default_store(root: Path, encoder: VideoEncoder, suffix: str = "") -> Path | list[Path]:
    """Folder of an encoder's features under `root`; another encoder or setting gets another folder.

    A `Combined` encoder has a folder for each part.
    """
    if len(encoder.parts) > 1:
        return [root / (_folder(part) + suffix) for part in encoder.parts]
    return root / (_folder(encoder) + suffix)


def _folder(encoder: VideoEncoder) -> str:
    made = describe(encoder)
    made["settings"] = {k: v for k, v in made["settings"].items() if k not in NOT_IN_FEATURES}
    digest = hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()
    return f"{type(encoder).__name__}-{digest[:8]}"


class Extraction(L.LightningModule):
    """Encodes many videos with one or more encoders, each into its store; run it with ``Trainer.predict``.

    Videos are dealt out to processes by their place in the list, whatever is done already, so that processes
    that start at different times agree. Each video is decoded once for all encoders that lack it.

    Args:
        encoders: frozen encoders.
        stores: a folder per encoder.
        videos: files by video id, or moments of files by the id of their stretch.
        batch_size: passes per batch.
        num_workers: decoding processes, per process of the trainer.
        grids: also store the cells of encoders that have a grid.
        max_cells: larger grids are averaged down to this many cells in a direction.
        dtype: precision of the stores.
        retry: try videos again that are in quarantine.
        precision: in which the trainer computes; kept in the manifest.

    Raises:
        FeatureError: a store was made by another encoder or with other settings; says what differs.
    """

    def __init__(
        self,
        encoders: Sequence[VideoEncoder],
        stores: Sequence[Path],
        videos: Mapping[str, Path] | Mapping[str, Sampled],
        batch_size: int = BATCH_SIZE,
        num_workers: int = 2,
        grids: bool = False,
        max_cells: int | None = None,
        dtype: DType = "float16",
        retry: bool = False,
        precision: str = "32-true",
    ) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(encoders)
        self.parts, self.stores, self.videos = list(encoders), list(stores), dict[str, Path | Sampled](videos)
        self.batch_size, self.num_workers, self.grids, self.retry = batch_size, num_workers, grids, retry
        self.max_cells = max_cells
        for encoder, store in zip(self.parts, self.stores, strict=True):
            cells = [min(n, max_cells or n) for n in encoder.grid[:2]] if encoder.grid else []
            grid = [*cells, encoder.grid[2]] if grids and encoder.grid else None
            _claim(store, describe(encoder) | {"grid": grid, "dtype": dtype, "precision": precision})
        self.writers = [ShardWriter(store, dtype) for store in self.stores]
        self.collector: Collector | None = None
        self._bar: Any = None

    def work(self, rank: int = 0, world_size: int = 1) -> list[tuple[str, Work]]:
        """What is left to do for one process."""
        done: list[set[str]] = []
        for store in self.stores:
            known = set(stored_videos(store))
            done.append(known if self.retry else known | set(quarantined(store)))
        left = []
        for video_id, source in list(self.videos.items())[rank::world_size]:
            missing = tuple(k for k, known in enumerate(done) if video_id not in known)
            if missing:
                if isinstance(source, Sampled):
                    left.append((video_id, Work(source.path, missing, source.times_s)))
                else:
                    left.append((video_id, Work(source, missing)))
        return left

    def loader(self, rank: int = 0, world_size: int = 1, pin_memory: bool = False) -> PassLoader:
        """Batches of one process; also starts its progress bar."""
        work = self.work(rank, world_size)
        self.collector = Collector(self.parts, self.writers, work, self.grids, self.max_cells)
        names = ", ".join(type(e).__name__ for e in self.parts)
        share = len(list(self.videos)[rank::world_size])
        title = f"encode videos ({names})"
        self._bar = tqdm(total=share, initial=share - len(work), desc=title, unit="video", disable=None)
        self._count, self._left, self._began = 0, len(work), time.monotonic()
        self._told = self._began if rank == 0 else math.inf
        specs = [encoder.spec for encoder in self.parts]
        return PassLoader(
            specs, [w for _, w in work], self.batch_size, self.num_workers, self.collector.is_finished, pin_memory
        )

    def encode(self, batch: PassBatch) -> None:
        """Encode a batch and write the videos that it completes."""
        assert self.collector is not None
        before = set(self.collector.failed)
        completed = self.collector.encode(batch)
        self._bar.update(completed)
        self._count += completed
        now = time.monotonic()
        if self._bar.disable and now - self._told > LOG_EVERY_S:  # a log file wants a line now and then
            self._told = now
            log.info("%s", tqdm.format_meter(self._count, self._left, now - self._began, unit="video", ncols=0))
        for video_id in self.collector.failed.keys() - before:
            log.warning("quarantined %s: %s", video_id, self.collector.failed[video_id])

    def close(self) -> None:
        """End the progress bar."""
        self._bar.close()

    def finish(self) -> None:
        """Put loose files together and drop quarantine records of videos that succeeded."""
        for writer in self.writers:
            writer.compact()
            known = stored_videos(writer.store)
            for record in (writer.store / QUARANTINE).glob("[!.]*.json"):
                if json.loads(record.read_text(encoding="utf-8"))["video"] in known:
                    record.unlink()
            remove_leftovers(writer.store)
            for folder in (writer.store / LOOSE, writer.store / QUARANTINE):
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()

    # ---- Lightning --------------------------------------------------------------------------------------

    def predict_dataloader(self) -> Any:
        """The share of this process."""
        return self.loader(self.trainer.global_rank, self.trainer.world_size, self.device.type == "cuda")

    def predict_step(self, batch: Any, batch_idx: int) -> None:
        """Encode one batch."""
        self.encode(batch)

    def on_predict_end(self) -> None:
        """One process tidies up when all are done."""
        self.close()
        self.trainer.strategy.barrier("features are written")
        if self.trainer.is_global_zero:
            self.finish()
        self.trainer.strategy.barrier("shards are complete")


def _claim(store: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest of a new store; compare with that of an old one."""
    path = store / MANIFEST
    found = read_manifest(path)
    if found is not None:
        wrong = differences(found, manifest)
        if wrong:
            raise FeatureError(
                f"features {store} were made otherwise: {'; '.join(wrong)}. Choose another folder, or delete "
                "this one."
            )
        return
    store.mkdir(parents=True, exist_ok=True)
    write_json(path, manifest)


def build_store(
    encoder: VideoEncoder,
    videos: Mapping[str, Path] | Mapping[str, Sampled],
    out: Path | list[Path],
    num_workers: int = 0,
    grids: bool = False,
    max_cells: int | None = None,
) -> FeatureStore | StackedStore:
    """Encode the videos that are not in the store yet, in this process and its workers.

    Videos that cannot be read are kept in quarantine with the reason and left out; delete the store's folder
    ``quarantine`` to try them again.

    Args:
        encoder: a frozen encoder; on the GPU while it works, where there is one.
        videos: files by video id.
        out: the store; one per part of a `Combined` encoder.
        num_workers: processes that decode, 0 = this one.
        grids: see `Extraction`.
        max_cells: see `Extraction`.

    Raises:
        VideoError: not a single video could be read.
    """
    parts = list(encoder.parts)
    stores = [out] if isinstance(out, Path) else out
    extraction = Extraction(parts, stores, videos, num_workers=num_workers, grids=grids, max_cells=max_cells)
    if extraction.work():
        home = next((p.device for p in encoder.parameters()), torch.device("cpu"))
        device = torch.device("cuda") if torch.cuda.is_available() else home
        extraction.encoders.to(device)
        with torch.inference_mode():
            for batch in extraction.loader():
                extraction.encode(batch._replace(clips=batch.clips.to(device)))
        extraction.close()
        extraction.encoders.to(home)
    extraction.finish()
    if not any(True for store in stores for _ in shard_files(store)):
        reasons = [reason for store in stores for reason in quarantined(store).values()]
        raise VideoError(
            f"none of {len(videos)} videos could be encoded: {'; '.join(reasons[:3]) or 'there are no videos'}"
        )
    return open_store(out, encoder)
