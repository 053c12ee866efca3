"""Inside a video file: where each picture is, and decoding forwards with PyAV."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Picture = npt.NDArray[np.uint8]  # (H, W, 3)
Size = tuple[int, int]  # (height, width) in pixels

SAME_TIME_S = 1e-3  # Matroska rounds times to a millisecond: a time this close before a picture means that picture
TRUSTED = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}  # containers that decord indexes correctly
USUAL_FPS = 25.0  # assumed where a file has neither a frame rate nor usable times

# PyAV's filter graphs are freed by the garbage collector. In a forked process that crashes or hangs, since decoder
# threads do not survive a fork: what a child inherits is never collected there.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=gc.freeze)


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


@dataclass(frozen=True)
class FileIndex:
    """Where each picture is, from one walk through the packets without decoding them."""

    info: VideoInfo
    times_s: npt.NDArray[np.float64]  # (num_frames,) start of each picture, ascending, the first is 0
    keys: npt.NDArray[np.int64]  # ascending numbers of pictures that decoding can start at; may be empty
    start_s: float | None  # the first picture's time in the file; None where the file's times are of no use
    trusted: bool  # decord may read this file
    notes: list[str]  # warnings

    def numbers_at(self, seconds: npt.NDArray[np.float64] | float) -> npt.NDArray[np.int64]:
        """The pictures shown at these times; times outside the video give its first or last picture."""
        shown: npt.NDArray[np.int64] = np.searchsorted(self.times_s, seconds + SAME_TIME_S, side="right") - 1
        return shown.clip(0)


@dataclass
class Walker:
    """Decodes forwards with PyAV over whatever can be decoded; going back starts again from the beginning.

    Pictures are bit-equal to decord's: turned upright, then scaled, then converted to RGB, by the same filters.
    """

    index: FileIndex
    _frames: Iterator[tuple[int, Any]] = field(default_factory=lambda: iter(()))
    _shown: tuple[int, Any] | None = None  # number and picture on the screen
    _coming: tuple[int, Any] | None = None  # the one after it
    _filters: dict[tuple[Any, ...], Any] = field(default_factory=dict)

    def pictures(self, wanted: Sequence[int], size: Size) -> Iterator[tuple[Picture, bool]]:
        """Upright pictures (H, W, 3) for ascending numbers, and whether each is that very picture."""
        for number in wanted:
            self._show(number)
            assert self._shown is not None
            yield self._picture(self._shown[1], size), self._shown[0] == number

    def pieces(
        self, wanted: Sequence[npt.NDArray[np.int64]], sizes: Sequence[Size], chunk: int
    ) -> Iterator[tuple[int, Tensor, int]]:
        """Several series of pictures, each of its own size, from one walk through the file.

        Args:
            wanted: ascending numbers of each series.
            sizes: ``(height, width)`` of each series.
            chunk: most pictures in one piece.

        Yields:
            series, frames uint8 (t, 3, H, W), and how many of them stand in for one that cannot be decoded.
        """
        waiting: list[list[Picture]] = [[] for _ in wanted]
        missing = [0] * len(wanted)
        order = sorted((int(number), series) for series, numbers in enumerate(wanted) for number in numbers)
        last: tuple[int, Size, Picture] | None = None
        for number, series in order:
            self._show(number)
            assert self._shown is not None
            key = (self._shown[0], sizes[series])
            if last is None or last[:2] != key:
                last = (*key, self._picture(self._shown[1], sizes[series]))
            waiting[series].append(last[2])
            missing[series] += self._shown[0] != number
            if len(waiting[series]) == chunk:
                yield series, stack(waiting[series]), missing[series]
                waiting[series], missing[series] = [], 0
        for series, pictures in enumerate(waiting):
            if pictures:
                yield series, stack(pictures), missing[series]

    def _show(self, number: int) -> None:
        """Get picture `number`, or the last readable one before it, on the screen."""
        keys = self.index.keys
        key = int(keys[before - 1]) if (before := np.searchsorted(keys, number, side="right")) else 0
        reached = -1 if self._shown is None else (self._coming or self._shown)[0]
        if self._shown is None or number < self._shown[0] or key > reached:
            self._start(key)
            if key and (self._shown is None or self._shown[0] > number):  # the container seeks badly
                self._start(0)
            if self._shown is None:
                raise VideoError(f"{self.index.info.path}: no picture can be decoded. Replace the file.")
        while self._coming is not None and self._coming[0] <= number:
            self._shown, self._coming = self._coming, next(self._frames, None)

    def _start(self, key: int) -> None:
        self._frames = self._numbered(key)
        self._shown, self._coming = next(self._frames, None), next(self._frames, None)

    def _picture(self, frame: Any, size: Size) -> Picture:
        key = (size, frame.width, frame.height, frame.format.name, turns(frame))
        graph = self._filters.get(key) or self._filters.setdefault(key, _filters(*key))
        graph.push(frame)
        picture: Picture = graph.pull().to_ndarray()
        return picture

    def _numbered(self, key: int) -> Iterator[tuple[int, Any]]:
        """Numbers and pictures from a key picture on."""
        container, stream = open_video(self.index.info.path)
        with container:
            if key:
                assert self.index.start_s is not None
                second = Fraction(self.index.start_s + float(self.index.times_s[key]))
                container.seek(round(second / stream.time_base), stream=stream)
            frames = (frame for packet in packets_of(container, stream) for frame in frames_of(packet))
            for count, frame in enumerate(frames):
                number = count  # without usable times, pictures are counted
                if self.index.start_s is not None and frame.time is not None:
                    number = int(self.index.numbers_at(frame.time - self.index.start_s))
                yield min(number, self.index.info.num_frames - 1), frame


def stack(pictures: Sequence[Picture]) -> Tensor:
    """(T, 3, H, W) of T pictures; in memory the colours of a pixel stay together."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def _filters(size: Size, width: int, height: int, pixels: str, quarters: int) -> Any:
    """A chain that turns, scales and converts pictures of one kind."""
    from av.filter import Graph

    graph: Any = Graph()
    graph.threads = 1  # a picture is small, and threads do not survive a fork
    links = [graph.add_buffer(width=width, height=height, format=pixels, time_base=Fraction(1, 1000))]
    links += [graph.add("transpose", "2") for _ in range(quarters)]  # a quarter turn counter-clockwise
    links += [graph.add("scale", f"{size[1]}:{size[0]}"), graph.add("format", "rgb24"), graph.add("buffersink")]
    for one, after in pairwise(links):
        one.link_to(after)
    graph.configure()
    return graph


def turns(frame: Any) -> int:
    """Quarter turns counter-clockwise that bring a decoded PyAV frame upright."""
    quarters: int = round(frame.rotation / 90) % 4
    return quarters


def open_file(path: Path) -> Any:
    """The PyAV container of a local file; the caller closes it. Raises VideoError: it is none."""
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
        return av.open(str(path.absolute()), metadata_errors="ignore")  # absolute: "a:b.mp4" is no protocol
    except (av.FFmpegError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise VideoError(
            f"{path}: this is no readable video ({reason}). It may be cut short or be of another type; play it, "
            "then download or re-encode it again."
        ) from error


def open_video(path: Path) -> tuple[Any, Any]:
    """The PyAV container and its main video stream; the caller closes the container."""
    container = open_file(path)
    stream = container.streams.best("video")  # the choice of players and of decord
    if stream is None:
        container.close()
        raise VideoError(f"{path}: the file has no video stream (only sound or subtitles). Leave it out.")
    return container, stream


def packets_of(container: Any, stream: Any) -> Iterator[Any]:
    """The packets up to where the container itself becomes unreadable; the last one is empty."""
    import av

    packets = container.demux(stream)
    while True:
        try:
            yield next(packets)
        except (StopIteration, av.FFmpegError):
            return


def frames_of(packet: Any) -> list[Any]:
    """What a packet completes; nothing where it is damaged."""
    import av

    try:
        return list(packet.decode())
    except av.FFmpegError:  # a damaged packet: the following ones may be good
        return []


def index_file(path: Path) -> FileIndex:
    """Walk through the packets of a file, decoding only the first picture."""
    container, stream = open_video(path)
    stamps: list[int | None] = []  # in the stream's own unit of time
    keys: list[int] = []
    leads = False  # pictures that are coded after a key picture but shown before it (open groups of pictures)
    first: Any = None
    with container:
        for packet in packets_of(container, stream):
            if first is None:
                first = next(iter(frames_of(packet)), None)
            if packet.size and not packet.is_discard:  # discarded: the lead-in of a clip cut without re-encoding
                stamp = packet.pts
                stamps.append(stamp)
                if stamp is not None:
                    leads = leads or (bool(keys) and stamp < keys[-1])
                    if packet.is_keyframe:
                        keys.append(stamp)
        tick_s = float(stream.time_base or 1)
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        duration = stream.duration and stream.duration * stream.time_base
        announced_s = float(duration or Fraction(container.duration or 0, 1_000_000))
        trusted = container.format.name in TRUSTED
        stamped = container.format.name != "avi"  # an avi has an order, but no times of its own
    if first is None or not stamps:
        raise VideoError(
            f"{path}: no picture can be decoded. The file is cut short or damaged; download it again."
        )
    notes = []
    times = tick_s * np.array(sorted(stamp for stamp in stamps if stamp is not None), dtype=np.float64)
    usable = len(times) == len(stamps) and bool((np.diff(times) > 0).all())
    start_s = float(times[0]) if usable and stamped else None
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
    height, width = (first.height, first.width) if turns(first) % 2 == 0 else (first.width, first.height)
    info = VideoInfo(path, len(times), len(times) / duration_s, duration_s, height, width)
    starts = (
        np.searchsorted(
            times, tick_s * np.array(sorted(keys), dtype=np.float64) - (start_s or 0) + SAME_TIME_S, side="right"
        )
        - 1
    )
    if start_s is None:
        starts = starts[:0]
    return FileIndex(info, times, starts, start_s, trusted and usable and not leads, notes)
