"""Helpers that make video files with sound tracks of many kinds."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import videos


def tone(seconds: float, rate: int, hertz: float = 440.0) -> np.ndarray:
    """float32 (samples,) in [-0.5, 0.5]."""
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def video_with_sound(
    path: Path,
    seconds: float,
    pieces: Sequence[tuple[float, np.ndarray]] = (),
    rate: int = 16000,
    codec: str = "pcm_s16le",
    video_start_s: float = 0.0,
    tracks: int = 1,
) -> Path:
    """25 frames per second that show their numbers, and pieces of sound that begin at given times.

    Args:
        path: the suffix chooses the container; pcm wants ``.mkv``.
        seconds: of pictures.
        pieces: start (s) on the file's clock, and float samples in [-1, 1], (n,) mono or (n, channels).
        rate: samples per second.
        codec: of the sound.
        video_start_s: time of the first picture on the file's clock.
        tracks: sound tracks; all but the first are silent.
    """
    with av.open(str(path), "w") as file:
        picture = file.add_stream("libx264", rate=25)
        picture.height, picture.width, picture.pix_fmt = 48, 64, "yuv420p"
        picture.time_base = picture.codec_context.time_base = Fraction(1, 25)
        channels = pieces[0][1].shape[1] if pieces and pieces[0][1].ndim > 1 else 1
        sounds = [file.add_stream(codec, rate=rate) for _ in range(tracks)] if pieces else []
        for sound in sounds:
            sound.layout = {1: "mono", 2: "stereo"}[channels]
        packets = []
        for number in range(round(seconds * 25)):
            frame = av.VideoFrame.from_ndarray(videos.coded_frame(number), format="rgb24")
            frame.time_base, frame.pts = Fraction(1, 25), number + round(video_start_s * 25)
            packets += picture.encode(frame)
        packets += picture.encode()
        for track, sound in enumerate(sounds):
            planar = sound.codec_context.format.is_planar
            for start_s, samples in pieces:
                values = samples.reshape(len(samples), -1) * (0 if track else 1)
                for first in range(0, len(values), 1024):
                    part = values[first : first + 1024]
                    if sound.codec_context.format.name.startswith("s16"):
                        part = (part * 32767).round().astype(np.int16)
                    array = part.T if planar else part.reshape(1, -1)
                    frame = av.AudioFrame.from_ndarray(
                        np.ascontiguousarray(array),
                        format=sound.codec_context.format.name,
                        layout=sound.layout.name,
                    )
                    frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
                    frame.pts = round(start_s * rate) + first
                    packets += sound.encode(frame)
            packets += sound.encode()
        file.mux(sorted(packets, key=lambda p: float((p.dts or 0) * p.time_base)))
    return path
