"""Reading the sound of video files: mono, int16, at the rate that an encoder asks for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .packets import VideoError, frames_of, open_file, packets_of

Samples = npt.NDArray[np.int16]
GAP_S = 0.05  # less than this between two pieces of sound is rounding
LEAD_S = 1.0  # decoded before a stretch: what a decoder gives first after a jump is not yet right


def read_sound(
    path: Path, rate: int, duration_s: float, chunk_s: float = 30.0, start_s: float = 0.0
) -> Iterator[Tensor]:
    """The sound of a file, or of a stretch of it; silence where there is none.

    Args:
        path: a video or sound file. Several channels are mixed down.
        rate: samples per second.
        duration_s: of the pictures, or of the stretch: sound that goes on is cut, missing sound is silence.
        chunk_s: most seconds in one piece.
        start_s: of the stretch, on the clock of the pictures.

    Yields:
        int16 (t,).

    Raises:
        VideoError: the file cannot be read.
    """
    total, given, chunk = round(duration_s * rate), 0, max(1, int(chunk_s * rate))
    waiting: list[Samples] = []
    with open_file(path) as container:
        for samples in _decoded(path, container, rate, total, start_s):
            waiting.append(samples)
            while given < total and sum(map(len, waiting)) >= chunk:
                whole = np.concatenate(waiting)
                piece, waiting = whole[: min(chunk, total - given)], [whole[chunk:]]
                given += len(piece)
                yield torch.from_numpy(piece)
            if given >= total:
                return
    rest = np.concatenate([*waiting, np.zeros(0, dtype=np.int16)])[: total - given]
    rest = np.concatenate([rest, np.zeros(total - given - len(rest), dtype=np.int16)])
    for first in range(0, len(rest), chunk):
        yield torch.from_numpy(rest[first : first + chunk])


def _decoded(path: Path, container: Any, rate: int, total: int, start_s: float) -> Iterator[Samples]:
    """Sound from `start_s` after the first picture on, as it is decoded; silence where the file has a gap."""
    import av

    stream = next(iter(container.streams.audio), None)
    if stream is None:
        return
    video = container.streams.best("video")
    first_s = float((video.start_time or 0) * video.time_base) if video is not None else 0.0
    first_s += start_s
    if start_s > LEAD_S and stream.start_time is not None:  # without times, sound is counted from the start
        with contextlib.suppress(av.FFmpegError):  # a container that cannot jump is decoded from its start
            container.seek(max(0, round((first_s - LEAD_S) / stream.time_base)), stream=stream)
    resampler: Any = None
    kind: tuple[Any, ...] = ()
    at: int | None = None  # samples since the first picture, or since the start of the stretch
    damaged = False
    for packet in packets_of(container, stream):
        frames = frames_of(packet)
        damaged |= not frames and packet.size > 0
        for frame in frames:
            new_kind = (frame.format.name, frame.layout.name, frame.sample_rate)
            if new_kind != kind:  # a broadcast may change from mono to stereo
                resampler, kind = av.AudioResampler(format="s16", layout="mono", rate=rate), new_kind
            begin = -round(start_s * rate) if at is None else at  # where nothing else is known
            due = round((float(frame.time) - first_s) * rate) if frame.time is not None else begin
            at, least = (min(0, due), 0.0) if at is None else (at, GAP_S * rate)
            if due - at > least:
                yield np.zeros(max(0, min(due, total) - max(at, 0)), dtype=np.int16)
                at = due
            for part in resampler.resample(frame):
                samples = part.to_ndarray()[0]
                yield samples[max(0, -at) :]
                at += len(samples)
    if resampler is not None:
        yield from (part.to_ndarray()[0] for part in resampler.resample(None))
    elif damaged:
        raise VideoError(f"{path}: its sound cannot be decoded. Re-encode the file.")
