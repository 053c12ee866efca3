"""Reading video files. Time is in seconds from the first picture; pictures are uint8 RGB.

`FrameReader` reads with decord and falls back to PyAV where decord cannot be trusted. Three habits of decord,
measured with decord2 3.4, shape the code: it returns neighbouring pictures for MPEG-TS and for repeated
timestamps, its `get_batch` refuses some narrow widths (96 pixels among them), and one unreadable packet makes it
give up on the whole file.
"""

from __future__ import annotations

import math
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Picture = npt.NDArray[np.uint8]  # (H, W, 3)
Size = tuple[int, int]  # (height, width) in pixels
PathLike = str | os.PathLike[str]
T = TypeVar("T")

SAME_TIME_S = 1e-3  # Matroska rounds times to a millisecond: a time this close before a picture means that picture
TRUSTED = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi"}  # containers that decord indexes correctly
USUAL_FPS = 25.0  # assumed where a file has neither a frame rate nor usable times
_INHERITED: list[object] = []  # decoders of the parent process: kept, since they cannot be freed


class VideoError(RuntimeError):
    """A video that cannot be read or written. The message names the file, what is wrong and what to do."""


@dataclass(frozen=True)
class VideoInfo:
    """What is known of a video before its pictures are read.

    `fps` is the average rate, `num_frames / duration_s`. `height` and `width` are pixels as displayed, i.e. after
    the rotation that the file asks for. The last picture is taken to last as long as the median one.
    """

    path: Path
    num_frames: int
    fps: float
    duration_s: float
    height: int
    width: int


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
    Damaged files and other containers than mp4, mov, mkv, webm and avi are decoded from their start for each step
    back: convert them if they are read often.

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
        self._walker: _Walker | None = None
        self._size, self._timeout_s = size, timeout_s
        self.path = Path(os.path.abspath(path))  # an absolute path cannot be taken for a protocol ("a:b.mp4")
        self._index = self._within_time(lambda: _index(self.path))
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
        numbers = [int(index) for index in indices]
        for number in numbers:
            if not 0 <= number < self.info.num_frames:
                raise IndexError(f"{self.path}: no frame {number}; frames are 0 to {self.info.num_frames - 1}")
        frames, missing = self._within_time(lambda: self._read(numbers, size or self._size))
        if missing and not self._warned:
            self._warned = True  # once per reader: a damaged file is damaged in every chunk
            warnings.warn(
                f"{self.path}: {missing} of {len(set(numbers))} frames asked for cannot be decoded; the last "
                "readable picture stands in. Re-encode or replace the file.",
                stacklevel=2,
            )
        return frames

    def at_times(self, seconds: Sequence[float] | Tensor, size: Size | None = None) -> Tensor:
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
        shown = np.searchsorted(self._index.times_s, times + SAME_TIME_S, side="right") - 1
        return self.at(shown.clip(0).tolist(), size)

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
        if chunk < 1 or (fps is not None and not (math.isfinite(fps) and fps > 0)):
            raise ValueError(f"chunk must be at least 1 and fps positive, got chunk={chunk}, fps={fps}")
        times = self._index.times_s
        if fps is not None:
            times = np.arange(max(1, math.ceil((self.info.duration_s - SAME_TIME_S) * fps))) / fps
        for first in range(0, len(times), chunk):
            piece = torch.from_numpy(times[first : first + chunk].copy())
            yield self.at_times(piece, size), piece

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
        """The pictures uint8 (T, 3, H, W) and how many of them are stand-ins."""
        wanted = sorted(set(numbers))
        shape = size or (self.info.height, self.info.width)
        frames = torch.empty((len(wanted), 3, *shape), dtype=torch.uint8)
        missing = 0
        if self._trusted:
            try:
                for row, picture in enumerate(self._pictures(wanted, size)):
                    frames[row] = torch.from_numpy(picture).permute(2, 0, 1)
            except Exception:  # decord raises its own errors, RuntimeError, AssertionError and StopIteration
                self._trusted, self._decord = False, None
        if not self._trusted:
            self._walker = self._walker or _Walker(self._index)
            for row, (picture, exact) in enumerate(self._walker.pictures(wanted, shape)):
                frames[row] = torch.from_numpy(picture).permute(2, 0, 1)
                missing += not exact
        return (frames if wanted == numbers else frames[np.searchsorted(wanted, numbers)]), missing

    def _pictures(self, wanted: list[int], size: Size | None) -> Iterator[Picture]:
        """The pictures (H, W, 3) by decord, one by one: as fast as its `get_batch`, and right for every width."""
        import decord

        if self._decord is None or self._decord[0] != size:
            self._decord = None  # frees the old decoder before the new one is made
            decord.logging.set_level(decord.logging.QUIET)  # our own errors name the file and the remedy
            height, width = size or (-1, -1)
            # A tolerance this small makes decord raise where it would silently repeat a neighbouring picture.
            reader = decord.VideoReader(str(self.path), width=width, height=height, fault_tol=1e-6)
            if len(reader) != self.info.num_frames:
                raise RuntimeError("decord counts other frames than the file has packets")
            self._decord = (size, reader)
        reader = self._decord[1]
        for number in wanted:
            reader.seek_accurate(number)
            picture: Picture = reader.next().asnumpy()
            height, width, channels = picture.shape
            if channels != 3:  # rows padded for alignment pass as more channels: 96 pixels in 384 bytes as 96 x 4
                picture = picture.reshape(height, -1)[:, : 3 * width].reshape(height, width, 3)
            yield picture


@dataclass(frozen=True)
class _Index:
    """Where each picture is, from one walk through the packets without decoding them."""

    info: VideoInfo
    times_s: npt.NDArray[np.float64]  # (num_frames,) start of each picture, ascending, the first is 0
    start_s: float | None  # the first picture's time in the file; None where the file's times are of no use
    trusted: bool  # decord may read this file
    notes: list[str]  # warnings


@dataclass
class _Walker:
    """Decodes forwards with PyAV over whatever can be decoded; going back starts again from the beginning."""

    index: _Index
    _frames: Iterator[tuple[int, Any]] = field(default_factory=lambda: iter(()))
    _shown: tuple[int, Any] | None = None  # number and picture on the screen
    _coming: tuple[int, Any] | None = None  # the one after it

    def pictures(self, wanted: list[int], size: Size) -> Iterator[tuple[Picture, bool]]:
        """Upright pictures (H, W, 3) for ascending numbers, and whether each is that very picture."""
        for number in wanted:
            if self._shown is None or number < self._shown[0]:
                self._frames = self._numbered()
                self._shown, self._coming = next(self._frames, None), next(self._frames, None)
                if self._shown is None:
                    raise VideoError(f"{self.index.info.path}: no picture can be decoded. Replace the file.")
            while self._coming is not None and self._coming[0] <= number:
                self._shown, self._coming = self._coming, next(self._frames, None)
            frame = self._shown[1]
            turns = _turns(frame)
            height, width = size if turns % 2 == 0 else size[::-1]
            picture = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="BICUBIC")
            yield np.ascontiguousarray(np.rot90(picture, turns)), self._shown[0] == number

    def _numbered(self) -> Iterator[tuple[int, Any]]:
        container, stream = _open(self.index.info.path)
        with container:
            frames = (frame for packet in _packets(container, stream) for frame in _frames_of(packet))
            for count, frame in enumerate(frames):
                number = count  # without usable times, pictures are counted
                if self.index.start_s is not None and frame.time is not None:
                    time_s = frame.time - self.index.start_s + SAME_TIME_S
                    number = int(np.searchsorted(self.index.times_s, time_s, side="right")) - 1
                yield min(max(number, 0), self.index.info.num_frames - 1), frame


def _turns(frame: Any) -> int:
    """Quarter turns counter-clockwise that bring a decoded PyAV frame upright."""
    turns: int = round(frame.rotation / 90) % 4
    return turns


def _open(path: Path) -> tuple[Any, Any]:
    """The PyAV container and its main video stream; the caller closes the container."""
    import av

    if not path.is_file():
        raise VideoError(f"{path}: no such file. Check the path, or the folder of videos in the configuration.")
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        raise VideoError(f"{path}: the file is empty. Download or copy it again.")
    if head.lstrip().startswith((b"#EXTM3U", b"ffconcat")):  # a decoder would open every file and address in it
        raise VideoError(f"{path}: this is a playlist, not a video. Give the video files themselves.")
    try:
        container = av.open(str(path), metadata_errors="ignore")
    except (av.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise VideoError(
            f"{path}: this is no readable video ({reason}). It may be cut short or be of another type; play it, "
            "then download or re-encode it again."
        ) from error
    stream = container.streams.best("video")  # the choice of players and of decord
    if stream is None:
        container.close()
        raise VideoError(f"{path}: the file has no video stream (only sound or subtitles). Leave it out.")
    return container, stream


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    """The packets up to where the container itself becomes unreadable; the last one is empty."""
    import av

    packets = container.demux(stream)
    while True:
        try:
            yield next(packets)
        except (StopIteration, av.FFmpegError):
            return


def _frames_of(packet: Any) -> list[Any]:
    import av

    try:
        return list(packet.decode())
    except av.FFmpegError:  # a damaged packet: the following ones may be good
        return []


def _index(path: Path) -> _Index:
    container, stream = _open(path)
    stamps: list[float | None] = []
    first: Any = None
    with container:
        for packet in _packets(container, stream):
            if first is None:
                first = next(iter(_frames_of(packet)), None)
            if packet.size and not packet.is_discard:  # discarded: the lead-in of a clip cut without re-encoding
                stamps.append(None if packet.pts is None else float(packet.pts * packet.time_base))
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        duration = stream.duration and stream.duration * stream.time_base
        announced_s = float(duration or Fraction(container.duration or 0, 1_000_000))
        trusted = container.format.name in TRUSTED
    if first is None or not stamps:
        raise VideoError(
            f"{path}: no picture can be decoded. The file is cut short or damaged; download it again."
        )
    notes = []
    times = np.array(sorted(stamp for stamp in stamps if stamp is not None), dtype=np.float64)
    usable = len(times) == len(stamps) and bool((np.diff(times) > 0).all())
    start_s = float(times[0]) if usable else None
    if usable and len(times) > 1:
        times -= times[0]
        last_s = float(np.median(np.diff(times)))
    else:
        if not 0.1 <= rate <= 1000:
            notes.append(f"{path}: the file has no usable frame rate; {USUAL_FPS:g} is assumed.")
            rate = USUAL_FPS
        times, last_s = np.arange(len(stamps)) / rate, 1 / rate
    duration_s = float(times[-1]) + last_s
    if announced_s > 1.1 * duration_s + 1:  # cut short, a lying header, or sound that goes on without pictures
        notes.append(f"{path}: {announced_s:.1f} s are announced, but the pictures end at {duration_s:.1f} s.")
    height, width = (first.height, first.width) if _turns(first) % 2 == 0 else (first.width, first.height)
    info = VideoInfo(path, len(times), len(times) / duration_s, duration_s, height, width)
    return _Index(info, times, start_s, trusted and usable, notes)
