"""How fast videos become features: our decoding against bare decord, and decoding overlapped with encoding.

    python tests/benchmarks/bench_extraction.py [--videos FOLDER] [--rounds 7]

Without a folder some H.264 files are made. All ways run in turn, in one process, and medians are compared. The
second part uses one thread for the encoder and one worker for the decoder, so that two cores are enough; the
encoder's width is chosen so that encoding and decoding cost about the same, which is the hardest case for overlap.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import decord
import numpy as np
import torch

from groundzoo.datamodules.extraction import Extraction
from groundzoo.datamodules.marking import write_video
from groundzoo.datamodules.passes import CHUNK_FRAMES, PassLoader, Work
from groundzoo.datamodules.video import FrameReader
from groundzoo.datamodules.video_files import find_videos
from groundzoo.zoo.video.base import VideoEncoder
from groundzoo.zoo.video.r2plus1d import R2Plus1D

SIZE = (128, 171)


def timed(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each way, all run in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, run in ways.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(times[1:]) for name, times in seconds.items()}


def make_videos(folder: Path, count: int = 8, frames: int = 900) -> None:
    """Textured, moving pictures of 340 x 256 at 30 frames per second."""
    rng = np.random.default_rng(0)
    for k in range(count):
        scene = rng.integers(0, 256, (256, 512, 3), dtype=np.uint8) // 4 + 96
        pictures = (np.ascontiguousarray(np.roll(scene, 2 * t, axis=1)[:, :340]) for t in range(frames))
        write_video(folder / f"v{k:02d}.mp4", pictures, 30)


def bare(path: Path, step: int) -> None:
    """decord as a user would call it: every `step`-th frame, resized, in pieces."""
    reader = decord.VideoReader(str(path), width=SIZE[1], height=SIZE[0])
    wanted = list(range(0, len(reader), step))
    for first in range(0, len(wanted), CHUNK_FRAMES):
        reader.get_batch(wanted[first : first + CHUNK_FRAMES]).asnumpy()


def ours(path: Path, fps: float | None) -> None:
    """The same frames by our reader."""
    with FrameReader(path) as reader:
        for _ in reader.chunks(fps, CHUNK_FRAMES, SIZE):
            pass


def overlap(files: dict[str, Path], encoder: VideoEncoder, rounds: int) -> dict[str, float]:
    """Seconds of decoding alone, encoding alone and both."""
    work = [Work(path, (0,)) for path in files.values()]

    def decode() -> list[torch.Tensor]:
        return [batch.clips for batch in PassLoader([encoder.spec], work, 16, 1, lambda _: False)]

    kept = [clips.clone() for clips in decode()]

    def encode() -> None:
        with torch.inference_mode():
            for clips in kept:
                encoder(clips)

    def both() -> None:
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
            extraction = Extraction([encoder], [Path(folder)], files, num_workers=1)
            for batch in extraction.loader():
                extraction.encode(batch)
            extraction.close()
            extraction.finish()

    return timed({"decode": decode, "encode": encode, "both": both}, rounds)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--width", type=int, default=3, help="of the R(2+1)D whose speed is near the decoder's")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    decord.logging.set_level(decord.logging.QUIET)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if options.videos is None:
            make_videos(Path(folder))
        files = find_videos(options.videos or folder)
        print(f"{len(files)} videos, resized to {SIZE[0]} x {SIZE[1]}")
        first = next(iter(files.values()))
        for name, step in (("every frame", 1), ("every second frame", 2), ("every 15th frame", 15)):
            with FrameReader(first) as reader:
                fps = None if step == 1 else reader.info.fps / step
            found = timed(
                {"bare": lambda s=step: bare(first, s), "ours": lambda f=fps: ours(first, f)}, options.rounds
            )
            print(f"{name:20} {found['bare'] / found['ours']:.2f} of bare decord's frames per second")
        encoder = R2Plus1D(weights="random", layers=(1, 1, 1, 1), width=options.width)
        found = overlap(files, encoder, options.rounds)
        slower = max(found["decode"], found["encode"])
        print(", ".join(f"{name} {seconds:.2f} s" for name, seconds in found.items()))
        print(f"both take {found['both'] / slower:.2f} of the slower one alone")


if __name__ == "__main__":
    main()
