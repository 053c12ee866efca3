"""Writing video files: plain ones, ones with moments marked or redrawn, and thumbnails for pictures."""

from __future__ import annotations

import math
import os
import textwrap
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from .video import SAME_TIME_S, FrameReader, PathLike, Picture, Size, VideoError, VideoInfo

COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (204, 121, 167))  # Okabe and Ito's


def write_video(path: PathLike, frames: Iterable[Picture], fps: float, crf: int = 20) -> None:
    """Writes an H.264 mp4. It appears only when it is complete; its folder is made where absent.

    Args:
        path: the new file; an old one is replaced.
        frames: uint8 RGB (H, W, 3), all of one size. An odd height or width is padded by repeating the last row or
            column, since players expect even sizes.
        fps: frame rate, positive.
        crf: x264's constant rate factor, 0 (lossless) to 51.

    Raises:
        ValueError: the frame rate or the shape or type of a frame is wrong.
        VideoError: there are no frames.
    """
    import av

    target = Path(os.path.abspath(path))
    if not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"{target}: fps must be positive, got {fps}")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem}.{os.getpid()}.{threading.get_ident()}.mp4")
    shape: tuple[int, ...] | None = None
    try:
        with av.open(str(temporary), "w") as container:
            stream: Any = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
            stream.pix_fmt, stream.options = "yuv420p", {"crf": str(crf)}
            for frame in frames:
                if shape is None:
                    shape = frame.shape
                    stream.height, stream.width = (side + side % 2 for side in shape[:2])
                if frame.dtype != np.uint8 or frame.shape != shape or frame.ndim != 3 or shape[2] != 3:
                    raise ValueError(f"{target}: frames must be uint8 (H, W, 3), got {frame.dtype} {frame.shape}")
                even = np.pad(frame, ((0, shape[0] % 2), (0, shape[1] % 2), (0, 0)), mode="edge")
                container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
            if shape is None:
                raise VideoError(f"{target}: there are no frames to write.")
            container.mux(stream.encode())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def thumbnails(path: PathLike, n: int, height: int = 72) -> list[tuple[float, Picture]]:
    """`n` small pictures from the middles of `n` equal parts of the video, for drawing a timeline.

    Returns:
        (time in seconds, uint8 (height, W, 3)) in order of time; W keeps the video's proportions.
    """
    with FrameReader(path) as reader:
        times = [(k + 0.5) / n * reader.info.duration_s for k in range(n)]
        frames = reader.at_times(times, (height, max(1, round(height * reader.info.width / reader.info.height))))
    return list(zip(times, frames.permute(0, 2, 3, 1).contiguous().numpy(), strict=True))


def mark_moments(
    src: PathLike,
    dst: PathLike,
    moments: Sequence[tuple[float, float, str]],
    max_width: int = 854,
    font: PathLike | None = None,
    timeout_s: float | None = 120.0,
) -> None:
    """Copies a video with its moments marked; memory does not grow with its length.

    While a moment lasts, the picture has a coloured border and the label; a bar below the picture shows the
    timeline with each moment's span and a playhead. The copy is an H.264 mp4 without sound, of the same duration
    and average frame rate.

    Args:
        src: the video to copy.
        dst: the new .mp4 file.
        moments: (start_s, end_s, label), most important first: the first active moment colours the border. Labels
            are cut after three lines, so a score is best put before the query.
        max_width: wider videos are made this wide (pixels).
        font: TrueType file for the labels; None is DejaVu Sans, which has Latin, Greek and Cyrillic letters.
        timeout_s: as in `FrameReader`.

    Raises:
        ValueError: a moment's times are not finite or end before they start.
        VideoError: the video cannot be read.
    """
    for start_s, end_s, label in moments:
        if not (math.isfinite(start_s) and math.isfinite(end_s) and start_s <= end_s):
            raise ValueError(f"the moment {label!r} must have finite start <= end, got {start_s} to {end_s} s")
    with FrameReader(src, timeout_s=timeout_s) as reader:
        info = reader.info
        share = min(1.0, max_width / info.width)
        size = (max(2, 2 * round(info.height * share / 2)), max(2, 2 * round(info.width * share / 2)))
        marker = _Marker(size, info, moments, font)
        write_video(dst, (marker.mark(picture, time_s) for picture, time_s in _pictures(reader, size)), info.fps)


def mark_words(
    src: PathLike,
    dst: PathLike,
    painter: Callable[[Size], Callable[[Picture, float], Picture]],
    start_s: float = 0.0,
    end_s: float | None = None,
    min_side: int = 360,
    max_side: int = 854,
    timeout_s: float | None = 120.0,
) -> None:
    """Copies a stretch of a video and draws on each of its pictures; memory does not grow with its length.

    The copy is an H.264 mp4 without sound, of the same duration and average frame rate.

    Args:
        src: the video to copy.
        dst: the new .mp4 file.
        painter: is given the pictures' (height, width) and returns what draws: it gets each picture, uint8 RGB
            (height, width, 3), and its time in the video (s), and returns one of any size, the same for all.
        start_s: begin of the stretch.
        end_s: end of the stretch; None is the end of the video.
        min_side: smaller videos are enlarged to this shorter side (pixels), so that letters are legible.
        max_side: larger videos are made smaller to this longer side (pixels).
        timeout_s: as in `FrameReader`.

    Raises:
        VideoError: the video cannot be read, or has no picture in the stretch.
    """
    with FrameReader(src, timeout_s=timeout_s) as reader:
        info = reader.info
        sides = (info.height, info.width)
        scale = min(max_side / max(sides), max(1.0, min_side / min(sides)))
        size = (max(2, 2 * round(sides[0] * scale / 2)), max(2, 2 * round(sides[1] * scale / 2)))
        draw = painter(size)
        pictures = _pictures(reader, size, start_s, math.inf if end_s is None else end_s)
        write_video(dst, (draw(picture, time_s) for picture, time_s in pictures), info.fps)


def _pictures(
    reader: FrameReader, size: Size, start_s: float = 0.0, end_s: float = math.inf
) -> Iterator[tuple[Picture, float]]:
    """The pictures (H, W, 3) shown from `start_s` until `end_s` at the average frame rate, and their times (s)."""
    first_s = start_s - 1 / reader.info.fps + SAME_TIME_S  # the picture shown at the start may have come before
    for frames, times in reader.chunks(reader.info.fps, chunk=32, size=size):
        for frame, time_s in zip(frames, times.tolist(), strict=True):
            if time_s >= end_s - SAME_TIME_S:
                return
            if time_s > first_s:
                yield frame.permute(1, 2, 0).numpy(), time_s


class _Marker:
    """Draws moments onto the pictures of one video."""

    def __init__(
        self, size: Size, info: VideoInfo, moments: Sequence[tuple[float, float, str]], font: PathLike | None
    ) -> None:
        import matplotlib
        from PIL import ImageFont

        self.height, self.width = size
        self.duration_s = info.duration_s
        # A moment shorter than a picture is still seen in the picture during which it happens.
        self.spans = [(start_s, max(end_s, start_s + 1 / info.fps)) for start_s, end_s, _ in moments]
        letter = max(12, min(self.height // 16, self.width // 20))
        font = font or Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
        self.font = ImageFont.truetype(str(font), letter)
        self.line = letter * 5 // 4
        self.border = max(3, min(size) // 50)
        self.bar = 2 * max(6, self.height // 24)
        room = self.width - 2 * self.border - 2 * self.line
        self.labels: list[list[str]] = []
        for _, _, label in moments:  # wrapped by the mean width of the label's letters
            letters = int(room * len(label) / max(1.0, self.font.getlength(" ".join(label.split()))))
            self.labels.append(textwrap.wrap(label, max(2, letters), max_lines=3, placeholder="…"))

    def mark(self, picture: Picture, time_s: float) -> Picture:
        """The picture (H, W, 3) with border and labels, above the timeline: (H + bar, W, 3)."""
        from PIL import Image, ImageDraw

        canvas = Image.new("RGB", (self.width, self.height + self.bar), (24, 24, 24))
        canvas.paste(Image.fromarray(picture), (0, 0))
        active = [k for k, (start, end) in enumerate(self.spans) if start <= time_s + SAME_TIME_S < end]
        lines = [(line, k) for k in active for line in self.labels[k]][: max(1, self.height // 2 // self.line)]
        draw = ImageDraw.Draw(canvas, "RGBA")  # this mode blends: a dark veil makes letters legible on any picture
        for row, (line, k) in enumerate(lines):
            x, y = self.border, self.border + row * self.line
            draw.rectangle((x, y, x + self.line + self.font.getlength(line), y + self.line - 1), (0, 0, 0, 170))
            draw.rectangle((x, y, x + self.line // 4, y + self.line - 1), COLOURS[k % len(COLOURS)])
            draw.text((x + self.line // 2, y), line, (255, 255, 255), self.font)
        if active:
            colour = COLOURS[active[0] % len(COLOURS)]
            draw.rectangle((0, 0, self.width - 1, self.height - 1), outline=colour, width=self.border)
        lane = (self.bar - 4) / max(1, len(self.spans))
        for k, (start, end) in enumerate(self.spans):
            y = self.height + 2 + int(k * lane)
            box = (self._x(start), y, max(self._x(start) + 1, self._x(end)), max(y, y + int(lane) - 1))
            draw.rectangle(box, COLOURS[k % len(COLOURS)])
        playhead = self._x(time_s)
        draw.rectangle((playhead - 1, self.height, playhead + 1, self.height + self.bar), (255, 255, 255))
        return np.asarray(canvas)

    def _x(self, time_s: float) -> int:
        return round(min(max(time_s / self.duration_s, 0.0), 1.0) * (self.width - 1))
