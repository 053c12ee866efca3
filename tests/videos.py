"""Helpers that make odd videos. Each frame shows its own number as 3 x 4 big black or white cells (12 bits), so
that a test reads the number back from the pixels, whatever the codec and the size did to them."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

ROWS, COLUMNS = 3, 4


def coded_frame(number: int, height: int = 48, width: int = 64) -> np.ndarray:
    """uint8 (height, width, 3) that shows `number` (0 to 4095), most significant bit at the top left."""
    bits = np.array([number >> (ROWS * COLUMNS - 1 - k) & 1 for k in range(ROWS * COLUMNS)], dtype=np.uint8)
    rows = np.arange(height) * ROWS // height
    columns = np.arange(width) * COLUMNS // width
    grey = bits.reshape(ROWS, COLUMNS)[rows][:, columns] * 255
    return np.repeat(grey[:, :, None], 3, axis=2)


def read_code(frame: np.ndarray) -> int:
    """The number shown by one (H, W, 3) picture, read from the middle of each cell."""
    height, width = frame.shape[:2]
    number = 0
    for row in range(ROWS):
        for column in range(COLUMNS):
            y = slice(int((row + 0.3) * height / ROWS), math.ceil((row + 0.7) * height / ROWS))
            x = slice(int((column + 0.3) * width / COLUMNS), math.ceil((column + 0.7) * width / COLUMNS))
            number = number * 2 + int(frame[y, x].mean() > 127)
    return number


def read_codes(frames) -> list[int]:
    """The numbers shown by a (T, 3, H, W) tensor."""
    return [read_code(frame) for frame in frames.permute(0, 2, 3, 1).numpy()]


def coded_video(
    path: Path,
    count: int,
    fps: int = 25,
    size: tuple[int, int] = (48, 64),
    codec: str = "libx264",
    times_s: Sequence[float] | None = None,
    gop: int = 12,
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Frames 0 to count - 1; `times_s` (s) makes the frame rate variable."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = size
        stream.pix_fmt = pixels
        stream.options = {"g": str(gop), **(options or {})}
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000 * fps)
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(coded_frame(number, *size), format="rgb24")
            frame.time_base = Fraction(1, 1000 * fps)
            frame.pts = number * 1000 if times_s is None else round(times_s[number] * 1000 * fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def two_streams(path: Path, count: int = 10) -> Path:
    """A video file with a small stream first and a larger one after it, which shows number + 1000."""
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=25) for _ in range(2)]
        for stream, (height, width) in zip(streams, [(24, 32), (48, 64)], strict=True):
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for number in range(count):
            for stream, shift in zip(streams, (0, 1000), strict=True):
                picture = coded_frame(number + shift, stream.height, stream.width)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        for stream in streams:
            container.mux(stream.encode())
    return path


def audio_only(path: Path) -> Path:
    """One second of silence."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def zero_frames(path: Path) -> Path:
    """A video track without any picture (its header is complete)."""
    with av.open(str(path), "w", options={"movflags": "empty_moov+default_base_moof"}) as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        container.start_encoding()
    return path


def cut(source: Path, path: Path, share: float) -> Path:
    """The first `share` of the bytes of `source`."""
    data = source.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def damaged(source: Path, path: Path, start: float, end: float) -> Path:
    """`source` with the bytes between two shares of its length overwritten."""
    data = bytearray(source.read_bytes())
    first, last = int(len(data) * start), int(len(data) * end)
    data[first:last] = b"\xa5" * (last - first)
    path.write_bytes(bytes(data))
    return path


def rotated(source: Path, path: Path, degrees: int) -> Path:
    """An mp4 whose header asks the player to turn the pictures clockwise by 90, 180 or 270 degrees."""
    one, minus = 1 << 16, (-1 << 16) & 0xFFFFFFFF
    a, b, c, d = {90: (0, one, minus, 0), 180: (minus, 0, 0, minus), 270: (0, minus, one, 0)}[degrees]
    data = bytearray(source.read_bytes())
    start = data.index(b"tkhd") + 4 + 40  # version and flags, times, id, duration, layer and volume come first
    data[start : start + 36] = struct.pack(">9I", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(bytes(data))
    return path


def patched(source: Path, path: Path, box: bytes, offset: int, value: int) -> Path:
    """An mp4 with one 32-bit field, `offset` bytes after the name of each box called `box`, overwritten."""
    data = bytearray(source.read_bytes())
    start = data.find(box)
    while start >= 0:
        data[start + 4 + offset : start + 8 + offset] = struct.pack(">I", value)
        start = data.find(box, start + 4)
    path.write_bytes(bytes(data))
    return path


def cut_without_encoding(source: Path, path: Path, start_s: float) -> Path:
    """`ffmpeg -ss start -c copy`: an mp4 that begins at the key frame before `start_s` and hides the lead-in."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        shift = round(start_s / stream.time_base)
        old.seek(shift, stream=stream)
        for packet in old.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
                new.mux(packet)
    return path
