"""From encoded passes to whole videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch

from ..zoo.video.base import VideoEncoder, VideoFeatures, VideoUnits, pool_cells
from ..zoo.video.combined import align
from .packets import VideoError
from .passes import Finished, PassBatch, PassDataset, Work
from .shards import Arrays

BATCH_SIZE = 16


class Sink(Protocol):
    """Takes whole videos."""

    def add(self, video_id: str, arrays: Arrays, num_frames: int, duration_s: float) -> None:
        """Keep one; raises ValueError where its numbers cannot be kept."""

    def fail(self, video_id: str, reason: str) -> None:
        """Note one that could not be encoded."""


@dataclass
class Collector:
    """Puts the encoded passes of many videos together, and hands each video on when it is whole.

    Attributes:
        encoders: in the order of `PassBatch.encoder`.
        sinks: one per encoder.
        videos: id and encoders of each video, in the order of `PassBatch.owners`.
        grids: keep the cells, too.
        max_cells: larger grids are averaged down to this many cells in a direction before they are kept.
        failed: ids and reasons so far.
    """

    encoders: Sequence[VideoEncoder]
    sinks: Sequence[Sink]
    videos: Sequence[tuple[str, Work]]
    grids: bool = False
    max_cells: int | None = None
    failed: dict[str, str] = field(default_factory=dict)
    _rows: dict[tuple[int, int], dict[int, VideoFeatures]] = field(default_factory=dict)
    _ends: dict[int, Finished] = field(default_factory=dict)
    _left: dict[int, set[int]] = field(default_factory=dict)  # encoders that a video still waits for

    def __post_init__(self) -> None:
        self._left = {video: set(work.encoders) for video, (_, work) in enumerate(self.videos)}

    def is_finished(self, video: int) -> bool:
        """Whether all features of a video have been handed on, or it has failed."""
        return not self._left[video]

    def encode(self, batch: PassBatch) -> int:
        """Encode a batch; returns how many videos it completed."""
        if batch.encoder >= 0:
            encoder = self.encoders[batch.encoder]
            out = encoder(batch.clips)
            frames = out.frames.float().cpu()
            grid = (
                pool_cells(out.grid.float(), self.max_cells).cpu() if self.grids and out.grid is not None else None
            )
            for row, (video, number) in enumerate(batch.owners):
                if batch.encoder not in self._left[video]:  # it failed, or is read again after a crash
                    continue
                cells = None if grid is None else grid[row]
                self._rows.setdefault((video, batch.encoder), {})[number] = VideoFeatures(frames[row], cells)
        for end in batch.finished:
            self._ends[end.video] = end
        touched = {video for video, _ in batch.owners} | {end.video for end in batch.finished}
        return sum(self._hand_on(video) for video in sorted(touched & self._ends.keys()))

    def _hand_on(self, video: int) -> bool:
        end, (video_id, _) = self._ends[video], self.videos[video]
        waiting = self._left[video]
        if not waiting:  # done before
            return False
        for number in sorted(waiting):
            if end.problem is not None:
                self._fail(video, number, end.problem)
                continue
            spec = self.encoders[number].spec
            rows = self._rows.get((video, number), {})
            units = spec.num_units(end.num_frames[number])
            if len(rows) * spec.context < units:
                continue
            ordered = [rows[k] for k in sorted(rows)]
            arrays: Arrays = {"frames": torch.cat([r.frames for r in ordered])[:units].numpy()}
            cells = [r.grid for r in ordered if r.grid is not None]
            if cells:
                arrays["grid"] = torch.cat(cells)[:units].numpy()
            try:
                self.sinks[number].add(video_id, arrays, end.num_frames[number], end.duration_s)
            except ValueError as error:
                self._fail(video, number, str(error))
            else:
                self._rows.pop((video, number), None)
                waiting.discard(number)
        return not waiting

    def _fail(self, video: int, number: int, reason: str) -> None:
        video_id = self.videos[video][0]
        self.failed[video_id] = reason
        self.sinks[number].fail(video_id, reason)
        self._rows.pop((video, number), None)
        self._left[video].discard(number)


class _Memory:
    """A sink for one video."""

    def __init__(self) -> None:
        self.units: VideoUnits | None = None
        self.problem = ""

    def add(self, video_id: str, arrays: Arrays, num_frames: int, duration_s: float) -> None:
        self.units = VideoUnits(torch.from_numpy(arrays["frames"]), num_frames, duration_s)

    def fail(self, video_id: str, reason: str) -> None:
        self.problem = reason


@torch.inference_mode()
def encode_video(encoder: VideoEncoder, path: Path) -> VideoUnits:
    """Read a video of any length in pieces and encode it; where it was cut leaves no trace in the result.

    Args:
        encoder: says how it wants to be fed; the parts of a `Combined` share one decoding.
        path: the file.

    Raises:
        VideoError: the file cannot be read.
    """
    parts = list(encoder.parts)
    sinks = [_Memory() for _ in parts]
    work = Work(path, tuple(range(len(parts))))
    collector = Collector(parts, sinks, [(path.stem, work)])
    for batch in PassDataset([p.spec for p in parts], [(0, work)], BATCH_SIZE, fill=False):
        device = next((p.device for p in parts[batch.encoder].parameters()), torch.device("cpu"))
        collector.encode(batch._replace(clips=batch.clips.to(device)))
    done = [sink.units for sink in sinks if sink.units is not None]
    if len(done) < len(parts):
        raise VideoError(next(sink.problem for sink in sinks if sink.units is None))
    if len(parts) == 1:
        return done[0]
    arrays = align([d.units.numpy() for d in done], [p.spec for p in parts], [d.num_frames for d in done])
    return VideoUnits(torch.from_numpy(arrays), done[0].num_frames, done[0].duration_s)
