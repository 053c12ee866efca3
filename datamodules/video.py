"""Reading video files. Time is in seconds from the first picture; pictures are uint8 RGB.

`FrameReader` reads with decord and falls back to PyAV where decord cannot be trusted. Four habits of decord,
measured with decord2 3.4, shape the code. It returns neighbouring pictures for MPEG-TS and repeated timestamps.
After a jump it does so in avi, too, and in files with open groups of pictures (x265's default), where it counts
the leading pictures that cannot be decoded. Its `get_batch` refuses some narrow widths (96 pixels among them). One
unreadable packet makes it give up on the whole file.
"""

from __future__ import annotations

import math
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from .packets import SAME_TIME_S, FileIndex, Picture, Size, VideoError, VideoInfo, Walker, index_file

__all__ = [
    "SAME_TIME_S",
    "FrameReader",
    "Picture",
    "Size",
    "VideoError",
    "VideoInfo",
    "View",
    "probe",
    "read_frames",
]

PathLike = str | os.PathLike[str]
T = TypeVar("T")
# decord decodes ahead of a slow reader, up to the whole file: where all pictures are larger than this, PyAV reads
READ_AHEAD_BYTES = 512 * 2**20
_INHERITED: list[object] = []  # decoders of the parent process: kept, since they cannot be freed


class View(NamedTuple):
    """How one reader of a video wants it: `fps` (None: every picture) and (height, width) (None: the file's)."""

    fps: float | None
    size: Size | None


def probe(path: PathLike, timeout_s: float | None = 120.0) -> VideoInfo:
    """Facts about a video, from its packets and its first picture. Raises VideoError as `FrameReader` does."""
    with FrameReader(path, timeout_s=timeout_s) as reader:
        return reader.info


def read_frames(
    path: PathLike, seconds: Sequence[float] | Tensor, size: Size | None = None, timeout_s: float | None = 120.0
) -> Tensor:
    """Opens, reads the pictures shown at `seconds`, closes: what a data set does inside its worker.

    Returns:
        uint8 (T, 3, H, W); arguments and errors are those of `FrameReader` and `FrameReader.at_times`.
    """
    with FrameReader(path, size, timeout_s) as reader:
        return reader.at_times(seconds)


class FrameReader:
    """Random access to the pictures of one video, as a context manager.

    Open it in the process that reads: decoder threads do not survive a fork, so a reader made before the fork
    raises. Pictures come upright (rotation applied). Of several video streams the one that ffmpeg ranks best is
    read, as in players. For a picture that cannot be decoded the last readable one stands in, with a warning.
    An avi, a transport stream and the like are decoded from their start for each step back: convert them if they
    are read often.

    Args:
        path: a local file.
        size: (height, width) for the calls that give none; None keeps the file's size. The decoder itself resizes,
            which is much cheaper than resizing afterwards.
        timeout_s: longest time for opening and for each reading call; None waits for ever. A native decoder
            cannot be interrupted: after a time-out its thread stays until the process ends; the reader is shut.

    Raises:
        VideoError: the file is missing, is no video, holds no picture that can be decoded, or took too long.
    """

    def __init__(self, path: PathLike, size: Size | None = None, timeout_s: float | None = 120.0) -> None:
        self._process, self._closed = os.getpid(), ""  # else the reason why it is closed
        self._decord: tuple[Size | None, Any] | None = None
        self._walker: Walker | None = None
        self._size, self._timeout_s = size, timeout_s
        self.path = Path(os.path.abspath(path))  # an absolute path cannot be taken for a protocol ("a:b.mp4")
        self._index: FileIndex = self._within_time(lambda: index_file(self.path))
        self._trusted, self._warned = self._index.trusted, False
        for note in self._index.notes:
            warnings.warn(note, stacklevel=2)

    @property
    def info(self) -> VideoInfo:
        """Number of frames, frame rate, duration and size."""
        return self._index.info

    @property
    def times_s(self) -> Tensor:
        """float64 (num_frames,): when each picture appears; the first is 0. Exact for variable frame rates."""
        return torch.from_numpy(self._index.times_s.copy())

    def __enter__(self) -> FrameReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Frees the decoder and the file. Closing twice is fine."""
        self._closed = self._closed or "it was closed"
        if (
            self._process != os.getpid()
        ):  # freed in a forked child, a decoder crashes over threads that are not there
            _INHERITED.append((self._decord, self._walker))
        self._decord = self._walker = None

    def __del__(self) -> None:
        self.close()

    def at(self, indices: Sequence[int] | Tensor, size: Size | None = None) -> Tensor:
        """The pictures with these numbers, in this order; repeats are allowed.

        Args:
            indices: T numbers from 0 to num_frames - 1.
            size: (height, width), else the reader's own size. Changing it between calls opens the file anew.

        Returns:
            uint8 (T, 3, H, W).

        Raises:
            IndexError: a number is out of range.
            VideoError: nothing can be decoded, the call took too long, or the reader is closed.
        """
        numbers = self._checked(indices)
        frames, missing = self._within_time(lambda: self._read(numbers, size or self._size))
        self._warn_of(missing, len(set(numbers)))
        return frames

    def at_sizes(self, indices: Sequence[int] | Tensor, sizes: Sequence[Size | None]) -> list[Tensor]:
        """The pictures of `at` in several sizes, decoded once; bit-equal to `at` of each size.

        Args:
            indices: T numbers from 0 to num_frames - 1.
            sizes: (height, width) each; None keeps the file's size.

        Returns:
            per size uint8 (T, 3, H, W).

        Raises:
            IndexError, VideoError: as `at`.
        """
        shapes = [size or (self.info.height, self.info.width) for size in sizes]
        different, numbers = list(dict.fromkeys(shapes)), self._checked(indices)
        if len(different) == 1:
            return [self.at(numbers, different[0])] * len(shapes)
        if not numbers:
            return [self.at(numbers, shape) for shape in shapes]
        wanted, rows = np.unique(numbers, return_inverse=True)
        self._walker = walker = Walker(self._index)
        pieces = self._within_time(lambda: list(walker.pieces([wanted] * len(different), different, len(wanted))))
        self._warn_of(pieces[0][2], len(wanted))
        frames = {different[series]: pictures[rows] for series, pictures, _ in pieces}
        return [frames[shape] for shape in shapes]

    def at_times(
        self, seconds: Sequence[float] | Tensor | npt.NDArray[np.float64], size: Size | None = None
    ) -> Tensor:
        """The pictures shown at these T times (s); times outside the video give its first or last picture.

        Returns:
            uint8 (T, 3, H, W).

        Raises:
            ValueError: a time is not finite.
            VideoError: as `at`.
        """
        times = np.asarray(seconds, dtype=np.float64).reshape(-1)
        if not np.isfinite(times).all():
            raise ValueError(f"{self.path}: times must be finite seconds, got {times}")
        return self.at(self.numbers_at(times).tolist(), size)

    def numbers_at(self, seconds: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """Numbers of the pictures shown at these times; outside the video its first or last one."""
        return self._index.numbers_at(seconds)

    def uniform(self, count: int, size: Size | None = None) -> Tensor:
        """The pictures in the middle of `count` equal parts of the video, uint8 (count, 3, H, W)."""
        return self.at_times((np.arange(count) + 0.5) * self.info.duration_s / count, size)

    def clips(
        self,
        starts_s: Sequence[float] | Tensor | npt.NDArray[np.float64],
        length: int,
        fps: float,
        size: Size | None = None,
    ) -> Tensor:
        """Clips of `length` pictures, ``1 / fps`` seconds apart, that start at these N times.

        Returns:
            uint8 (N, length, 3, H, W); where the video ends before a clip does, its last picture is repeated.
        """
        starts = np.asarray(starts_s, dtype=np.float64).reshape(-1, 1)
        frames = self.at_times((starts + np.arange(length) / fps).ravel(), size)
        return frames.reshape(len(starts), length, *frames.shape[1:])

    def chunks(
        self, fps: float | None = None, chunk: int = 256, size: Size | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The whole video piece by piece; memory is that of one piece, `chunk * 3 * H * W` bytes.

        Args:
            fps: resample: the picture shown at k / fps for each k / fps before the end. None: every picture.
            chunk: most frames in one piece.
            size: (height, width), else the reader's own size.

        Yields:
            frames uint8 (t, 3, H, W) and their times float64 (t,) in seconds, with t <= chunk.
        """
        height, width = size or self._size or (self.info.height, self.info.width)
        self._trusted &= 3 * height * width * self.info.num_frames <= READ_AHEAD_BYTES
        for first in range(0, len(times := self._times(fps, chunk)), chunk):
            piece = torch.from_numpy(times[first : first + chunk].copy())
            yield self.at_times(piece, size), piece

    def views(self, views: Sequence[View], chunk: int = 256) -> Iterator[tuple[int, Tensor]]:
        """The whole video piece by piece as several readers want it, decoded once; bit-equal to `chunks` of each.

        Yields:
            number of the view, frames uint8 (t, 3, H, W) with t <= chunk.
        """
        if len(views) == 1:
            for frames, _ in self.chunks(views[0].fps, chunk, views[0].size):
                yield 0, frames
            return
        wanted = [self._index.numbers_at(self._times(view.fps, chunk)) for view in views]
        sizes = [view.size or (self.info.height, self.info.width) for view in views]
        self._walker = Walker(self._index)
        pieces = self._walker.pieces(wanted, sizes, chunk)
        while (piece := self._within_time(lambda: next(pieces, None))) is not None:
            number, frames, missing = piece
            self._warn_of(missing, len(frames))
            yield number, frames

    def _checked(self, indices: Sequence[int] | Tensor) -> list[int]:
        numbers = [int(index) for index in indices]
        for number in numbers:
            if not 0 <= number < self.info.num_frames:
                raise IndexError(f"{self.path}: no frame {number}; frames are 0 to {self.info.num_frames - 1}")
        return numbers

    def _times(self, fps: float | None, chunk: int) -> npt.NDArray[np.float64]:
        if chunk < 1 or (fps is not None and not (math.isfinite(fps) and fps > 0)):
            raise ValueError(f"chunk must be at least 1 and fps positive, got chunk={chunk}, fps={fps}")
        if fps is None:
            return self._index.times_s
        return np.arange(max(1, math.ceil((self.info.duration_s - SAME_TIME_S) * fps))) / fps

    def _warn_of(self, missing: int, count: int) -> None:
        if missing and not self._warned:
            self._warned = True  # once per reader: a damaged file is damaged in every chunk
            warnings.warn(
                f"{self.path}: {missing} of {count} frames asked for cannot be decoded; the last readable picture "
                "stands in. Re-encode or replace the file.",
                stacklevel=3,
            )

    def _within_time(self, work: Callable[[], T]) -> T:
        """Runs `work` in a thread of its own, since a native decoder that hangs cannot be stopped, only left."""
        if self._process != os.getpid():
            raise VideoError(f"{self.path}: this reader was opened in another process; open it where it is read.")
        if self._closed:
            raise VideoError(f"{self.path}: the reader is of no more use, {self._closed}; open the file again.")
        results: list[T] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                results.append(work())
            except BaseException as error:  # raised in the caller's thread below
                errors.append(error)

        thread = threading.Thread(target=run, name=f"decode {self.path.name}", daemon=True)
        thread.start()
        thread.join(self._timeout_s)
        if errors:
            raise errors[0]
        if not results:
            self._closed = "its decoder hangs"
            raise VideoError(
                f"{self.path}: decoding did not finish within {self._timeout_s:g} s. Re-encode the file, leave it "
                "out, or give a longer timeout_s."
            )
        return results[0]

    def _read(self, numbers: list[int], size: Size | None) -> tuple[Tensor, int]:
        """The pictures uint8 (T, 3, H, W) and how many of them are stand-ins.

        Runs in a thread of its own, maybe of a forked worker, where torch must not start threads: numpy copies.
        """
        wanted = sorted(set(numbers))
        shape = size or (self.info.height, self.info.width)
        frames = np.empty((len(wanted), *shape, 3), dtype=np.uint8)
        missing = 0
        if self._trusted:
            try:
                for row, picture in zip(frames, self._pictures(wanted, size), strict=True):
                    row[:] = picture
            except Exception:  # decord raises its own errors, RuntimeError, AssertionError and StopIteration
                self._trusted, self._decord = False, None
        if not self._trusted:
            self._walker = self._walker or Walker(self._index)
            for row, (picture, exact) in zip(frames, self._walker.pictures(wanted, shape), strict=True):
                row[:] = picture
                missing += not exact
        if wanted != numbers:
            frames = frames[np.searchsorted(wanted, numbers)]
        return torch.from_numpy(frames).permute(0, 3, 1, 2), missing

    def _pictures(self, wanted: list[int], size: Size | None) -> Iterator[Picture]:
        """The pictures (H, W, 3) by decord, one by one: as fast as its `get_batch`, and right for every width."""
        import decord

        if self._decord is None or self._decord[0] != size:
            self._decord = None  # frees the old decoder before the new one is made
            decord.logging.set_level(decord.logging.QUIET)  # our own errors name the file and the remedy
            height, width = size or (-1, -1)
            # A tolerance this small makes decord raise where it would silently repeat a neighbouring picture.
            # Workers are the parallelism where there are any: a second thread would take the encoder's core.
            threads = 0 if get_worker_info() is None else 1
            reader = decord.VideoReader(
                str(self.path), width=width, height=height, num_threads=threads, fault_tol=1e-6
            )
            if len(reader) != self.info.num_frames:
                raise RuntimeError("decord counts other frames than the file has packets")
            self._decord = (size, reader)
        reader = self._decord[1]
        for number in wanted:
            reader.seek_accurate(number)
            picture: Picture = torch.utils.dlpack.from_dlpack(reader.next().to_dlpack()).numpy()  # without a copy
            height, width, channels = picture.shape
            if channels != 3:  # rows padded for alignment pass as more channels: 96 pixels in 384 bytes as 96 x 4
                picture = picture.reshape(height, -1)[:, : 3 * width].reshape(height, width, 3)
            yield picture
