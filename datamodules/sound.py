"""Reading the sound of video files: mono, int16, at the rate that an encoder asks for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .packets import VideoError, open_file


def read_sound(path: Path, rate: int, duration_s: float, chunk_s: float = 30.0) -> Iterator[Tensor]:
    """The sound of a file from its start to `duration_s`; silence where there is none.

    Args:
        path: a video or sound file. Several channels are mixed down.
        rate: samples per second.
        duration_s: of the pictures: sound that goes on is cut, missing sound is silence.
        chunk_s: most seconds in one piece.

    Yields:
        int16 (t,).

    Raises:
        VideoError: the file cannot be read.
    """
    import av

    total, given, chunk = round(duration_s * rate), 0, max(1, int(chunk_s * rate))
    waiting: list[np.ndarray] = []
    with open_file(path) as container:
        stream = next(iter(container.streams.audio), None)
        if stream is not None:
            resampler = av.AudioResampler(format="s16", layout="mono", rate=rate)
            start_s: float | None = None
            try:
                for frame in container.decode(stream):
                    if start_s is None:  # sound that sets in late stays late
                        start_s = max(0.0, float(frame.time or 0.0) - _first_picture_s(container))
                        waiting.append(np.zeros(min(total, round(start_s * rate)), dtype=np.int16))
                    waiting += [part.to_ndarray()[0] for part in resampler.resample(frame)]
                    while sum(map(len, waiting)) >= chunk and given < total:
                        samples = np.concatenate(waiting)
                        piece, waiting = samples[: min(chunk, total - given)], [samples[chunk:]]
                        given += len(piece)
                        yield torch.from_numpy(piece)
                waiting += [part.to_ndarray()[0] for part in resampler.resample(None)]
            except av.FFmpegError as error:  # what was read before stays
                if given == 0 and not waiting:
                    raise VideoError(
                        f"{path}: its sound cannot be decoded ({error}). Re-encode the file."
                    ) from error
    rest = np.concatenate([*waiting, np.zeros(0, dtype=np.int16)])[: total - given]
    rest = np.concatenate([rest, np.zeros(total - given - len(rest), dtype=np.int16)])
    for first in range(0, len(rest), chunk):
        yield torch.from_numpy(rest[first : first + chunk])


def _first_picture_s(container: object) -> float:
    """When the pictures begin on the file's own clock."""
    video = next(iter(getattr(container, "streams").video), None)  # noqa: B009 (PyAV has no types)
    return float((video.start_time or 0) * video.time_base) if video is not None else 0.0
