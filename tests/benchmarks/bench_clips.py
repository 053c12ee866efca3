"""Clips for pretraining: how fast they are read, how fast the encoder learns from them, and who waits for whom.

    python tests/benchmarks/bench_clips.py --world worlds/described_one          # two cores, no GPU
    python tests/benchmarks/bench_clips.py --device cuda --peak 989 --workers 1 4 8 16

Some H.264 files of 340 x 256, 30 frames per second and 30 s are made, with a keyframe every 12 and every 250
frames: panned pictures with the spectrum of photographs, a little noise, and things that move. ToyWorld's are of
96 pixels. Clips are drawn as for training: anywhere in a segment, decoded, resized, cropped; most clips of a batch
are of different videos. Tables:

- reading alone: clips per second with so many workers, and what a clip costs in milliseconds of CPU time, which
  other programs on the machine hardly change;
- learning alone: clips per second of whole training steps of SA-TSP (three terms, 200 actions, 1000 concepts) on
  clips in memory, of the encoder's forward pass alone, and what a step's time is spent on;
- both: the share of the time that training waits for the next batch; the first batch, before which workers start,
  does not count. Without a GPU there are one worker and one thread for learning, and beside it stands the share
  that CPU times would give on two free cores, 1 - learning / reading, or 0.

Without a GPU, R(2+1)D-34 learns from a few clips at a time. FLOPs are those of matrix products and convolutions;
utilisation is their rate over ``--peak`` (dense TFLOP/s of the precision).
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from groundzoo.datamodules.annotations import SplitReport
from groundzoo.datamodules.clip_dataset import ClipDataset, ClipLoader, Drawing, Knowledge, LabelledSegment, usable
from groundzoo.datamodules.video import FrameReader
from groundzoo.datamodules.video_files import find_videos
from groundzoo.tasks.satsp import SATSP
from groundzoo.zoo.batch import ClipBatch
from groundzoo.zoo.video.r2plus1d import R2Plus1D

ACTIONS, CONCEPTS = 200, 1000
WIDTH, HEIGHT, FPS, SECONDS = 340, 256, 30, 30
ENCODERS: dict[str, Callable[[bool], R2Plus1D]] = {
    "R(2+1)D-34": lambda last: R2Plus1D(
        "random", "r2plus1d_34_ig65m_kinetics_clip8", fps=15.0, window=16, stride=16, trainable=True,
        channels_last=last,
    ),
    "tiny": lambda last: R2Plus1D(
        "random", "r2plus1d_18_kinetics", fps=4.0, window=8, stride=8, size=44, resize=(48, 48),
        layers=(1, 1, 1, 1), width=8, trainable=True, channels_last=last,
    ),
}  # fmt: skip
PRECISIONS = {"fp32": (False, False), "bf16, channels last": (True, True)}
PARTS = ("copy", "encoder", "heads and losses", "backward", "optimiser")


# ---- videos and clips -----------------------------------------------------------------------------------


def make_videos(folder: Path, count: int, gop: int) -> None:
    """See the head of this file."""
    rng = np.random.default_rng(0)
    for k in range(count):
        size = (HEIGHT * 2, WIDTH * 2)
        frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(size[0]), np.fft.fftfreq(size[1]), indexing="ij"))
        spectrum = np.fft.fft2(rng.normal(size=(3, *size))) / np.maximum(frequency, 1 / size[1])
        scene = np.fft.ifft2(spectrum).real.transpose(1, 2, 0)
        scene = np.clip(128 + 45 * scene / scene.std(), 0, 255)
        with av.open(str(folder / f"v{k:02d}.mp4"), "w") as container:
            stream: Any = container.add_stream("libx264", rate=FPS)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            stream.options = {"crf": "26", "g": str(gop), "threads": "1"}
            for picture in _pictures(scene, rng):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())


def _pictures(scene: npt.NDArray[np.float64], rng: np.random.Generator) -> Iterator[npt.NDArray[np.uint8]]:
    grain = [rng.normal(scale=2, size=(HEIGHT, WIDTH, 3)) for _ in range(8)]
    things = rng.integers(0, 256, (4, 60, 40, 3))
    path = rng.uniform(1, 4, (4, 2))
    for t in range(FPS * SECONDS):
        top, left = round((HEIGHT - 1) * (1 + np.sin(t / 130)) / 2), round((WIDTH - 1) * (1 + np.cos(t / 170)) / 2)
        picture = scene[top : top + HEIGHT, left : left + WIDTH] + grain[t % 8]
        for thing, (a, b) in zip(things, path, strict=True):
            y, x = (round((have - 60) * (1 + np.sin(s * t / 40)) / 2) for have, s in ((HEIGHT, a), (WIDTH, b)))
            picture[y : y + 60, x : x + 40] = picture[y : y + 60, x : x + 40] / 4 + thing.mean((0, 1)) * 3 / 4
        yield np.clip(picture, 0, 255).astype(np.uint8)


def dataset(folder: Path, encoder: R2Plus1D) -> ClipDataset:
    """Clips of all videos of a folder, cut into segments of 10 s, every other one with an action."""
    rng, spec, segments = np.random.default_rng(0), encoder.spec, []
    files = find_videos(folder)
    for video, path in files.items():
        with FrameReader(path) as reader:
            duration = reader.info.duration_s
        for k, start in enumerate(np.arange(0, duration, 10.0)):
            action = int(rng.integers(ACTIONS)) if k % 2 == 0 else -1
            segments.append(
                LabelledSegment(
                    f"{video}#{k}", video, start, min(start + 10, duration), duration, action, (video,)
                )
            )
    context = rng.normal(size=(len(files), encoder.dim)).astype(np.float32)
    rows = {video: i for i, video in enumerate(files)}
    known = Knowledge(files, rows, context, {}, CONCEPTS, 0.0, "negative")
    kept = usable(segments, spec, SplitReport("train", unit="segments"))
    return ClipDataset(kept, known, spec, Drawing(5, True, True, 0))


def batches(data: ClipDataset, size: int, workers: int) -> Iterator[ClipBatch]:
    """Training batches without an end; every clip counts as described, though nothing is said of it."""
    loader = ClipLoader(data, size, True, 0, workers)
    for epoch in itertools.count():
        loader.order.set_epoch(epoch)
        for batch in loader:
            if len(batch) == size:
                yield dataclasses.replace(batch, described=torch.ones_like(batch.described))


def reading(data: ClipDataset, size: int, workers: int, seconds: float) -> float:
    """Clips per second, from the first batch on."""
    source = batches(data, size, workers)
    next(source)
    for _ in range(2 * workers):  # those that were made while the first one was
        next(source)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        count += len(next(source))
    return count / (time.perf_counter() - began)


def reading_cost(data: ClipDataset, size: int) -> float:
    """CPU milliseconds per clip, decoder threads included."""
    source = batches(data, size, 0)
    next(source)
    began, count = time.process_time(), 0
    while count < 64:
        count += len(next(source))
    return 1000 * (time.process_time() - began) / count


# ---- learning -------------------------------------------------------------------------------------------


class Learner:
    """SA-TSP as the trainer runs it, without the trainer.

    Args:
        name: of `ENCODERS`.
        precision: of `PRECISIONS`.
        device: where it learns.
    """

    def __init__(self, name: str, precision: str, device: torch.device) -> None:
        torch.manual_seed(0)
        self.half, last = PRECISIONS[precision]
        self.device = device
        self.task = SATSP(ENCODERS[name](last))
        actions = [("action", str(k)) for k in range(ACTIONS)]
        self.task.set_vocabulary([*actions, *(("concept", str(k)) for k in range(CONCEPTS))])
        self.task.enter_stage(0)
        self.task.to(device).train()
        self.optimizer = torch.optim.SGD(
            [p for p in self.task.parameters() if p.requires_grad], lr=1e-4, momentum=0.9, fused=True
        )

    def step(self, batch: ClipBatch, wait: bool = False) -> tuple[float, ...]:
        """One step; seconds of its parts, or FLOPs inside a counter; meaningful on a GPU only with `wait`."""
        times = [self._now(wait)]
        batch = move_data_to_device(batch, self.device)
        times.append(self._now(wait))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            ready = self.task.prepare(batch)
            times.append(self._now(wait))
            losses = self.task.step(ready, "train").losses
        loss: Tensor = torch.stack(list(losses.values())).sum()
        times.append(self._now(wait))
        loss.backward()
        times.append(self._now(wait))
        self.optimizer.step()
        self.optimizer.zero_grad()
        times.append(self._now(wait))
        return tuple(b - a for a, b in itertools.pairwise(times))

    def forward(self, batch: ClipBatch) -> float:
        """Seconds of the encoder's forward pass, as in extraction."""
        self.task.eval()
        clips = batch.clips.to(self.device)
        began = self._now(True)
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            self.task.video_encoder(clips)
        seconds = self._now(True) - began
        self.task.train()
        return seconds

    def _now(self, wait: bool) -> float:
        if wait and self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def waiting(learner: Learner, source: Iterator[ClipBatch], seconds: float) -> tuple[float, float]:
    """Share of the time that waits for batches, and clips per second; the first batches do not count."""
    learner.step(next(source), wait=True)
    began, waited, count = time.perf_counter(), 0.0, 0
    while time.perf_counter() - began < seconds or not count:
        before = time.perf_counter()
        batch = next(source)
        waited += time.perf_counter() - before
        learner.step(batch, wait=True)
        count += len(batch)
    total = time.perf_counter() - began
    return waited / total, count / total


# ---- tables ---------------------------------------------------------------------------------------------


def read_table(
    sources: dict[str, Path], names: Sequence[str], args: argparse.Namespace
) -> dict[tuple[str, str], float]:
    """Reading alone; returns CPU milliseconds per clip by videos and encoder."""
    costs = {}
    columns = " | ".join(f"{n} workers" for n in args.workers)
    print(f"| videos | clips for | {columns} | CPU ms per clip |\n|{'---|' * (3 + len(args.workers))}")
    for title, folder in sources.items():
        for name in names:
            data = dataset(folder, ENCODERS[name](True))
            speeds = [reading(data, args.batch, workers, args.seconds) for workers in args.workers]
            cells = " | ".join(f"{speed:.1f}" for speed in speeds)
            costs[title, name] = reading_cost(data, args.batch)
            print(f"| {title} | {name} | {cells} | {costs[title, name]:.1f} |", flush=True)
    return costs


def learn_table(folder: Path, names: Sequence[str], args: argparse.Namespace) -> dict[tuple[str, str], float]:
    """Learning alone; returns CPU milliseconds per clip by encoder and precision."""
    device, costs = torch.device(args.device), {}
    columns = ("encoder", "precision", "batch", "forward", "training", "CPU ms per clip", *PARTS)
    print(f"| {' | '.join(columns)} | TFLOP/s | utilisation |\n|{'---|' * (2 + len(columns))}")
    for name in names:
        size = args.batch if device.type == "cuda" or name == "tiny" else args.small_batch
        batch = next(batches(dataset(folder, ENCODERS[name](True)), size, 0))
        for precision in args.precisions:
            learner = Learner(name, precision, device)
            with FlopCounterMode(display=False) as counter:
                learner.step(batch)
            flops, rounds = counter.get_total_flops(), args.rounds
            if device.type == "cuda":
                for _ in range(3):
                    learner.step(batch)
            whole, parts, forward, cpu = [], [], [], []
            for _ in range(rounds):
                began, began_cpu = learner._now(True), time.process_time()
                learner.step(batch)
                whole.append(learner._now(True) - began)
                cpu.append(1000 * (time.process_time() - began_cpu) / size)
                parts.append(learner.step(batch, wait=True))
                forward.append(learner.forward(batch))
            medians = [statistics.median(column) for column in zip(*parts, strict=True)]
            shares = " | ".join(f"{part / sum(medians):.1%}" for part in medians)
            second, seen = statistics.median(whole), statistics.median(forward)
            rate, costs[name, precision] = flops / second / 1e12, statistics.median(cpu)
            used = f"{rate / args.peak:.1%}" if args.peak else ""
            print(
                f"| {name} | {precision} | {size} | {size / seen:.2f} | {size / second:.2f} | "
                f"{costs[name, precision]:.1f} | {shares} | {rate:.4f} | {used} |",
                flush=True,
            )
            if device.type == "cuda":
                print(f"peak {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB")
                torch.cuda.reset_peak_memory_stats(device)
    return costs


def wait_table(
    sources: dict[str, Path],
    names: Sequence[str],
    args: argparse.Namespace,
    read: dict[tuple[str, str], float],
    learned: dict[tuple[str, str], float],
) -> None:
    """Both at once."""
    workers = [n for n in args.workers if n] if args.device != "cpu" else [1]
    print(f"| videos | encoder | precision | workers | clips/s | waits | by CPU time |\n|{'---|' * 7}")
    for (title, folder), name in itertools.product(sources.items(), names):
        on_gpu = args.device != "cpu"
        size = args.batch if on_gpu or name == "tiny" else args.small_batch
        data = dataset(folder, ENCODERS[name](True))
        for precision, number in itertools.product(args.precisions, workers):
            share, speed = waiting(
                Learner(name, precision, torch.device(args.device)), batches(data, size, number), args.seconds
            )
            free = f"{max(0.0, 1 - learned[name, precision] / read[title, name]):.1%}" if not on_gpu else ""
            print(
                f"| {title} | {name} | {precision} | {number} | {speed:.2f} | {share:.1%} | {free} |", flush=True
            )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=Path, help="a ToyWorld, for its videos")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peak", type=float, help="TFLOP/s, for the utilisation")
    parser.add_argument("--encoders", nargs="+", choices=ENCODERS, default=list(ENCODERS))
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--small_batch", type=int, default=2, help="of R(2+1)D-34 without a GPU")
    parser.add_argument("--videos", type=int, default=6, help="files to make per distance of keyframes")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement with reading")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    if args.device == "cpu":
        torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as made:
        sources = {}
        for gop in (12, 250):
            folder = Path(made) / str(gop)
            folder.mkdir()
            make_videos(folder, args.videos, gop)
            bits = 8 * statistics.mean(p.stat().st_size for p in folder.iterdir()) / SECONDS / 1000
            sources[f"{WIDTH} x {HEIGHT}, keyframe every {gop}, {bits:.0f} kbit/s"] = folder
        if args.world:
            sources["ToyWorld, 96 x 96"] = args.world / "videos"
        read = read_table(sources, args.encoders, args)
        print()
        learned = learn_table(next(iter(sources.values())), args.encoders, args)
        print()
        wait_table(sources, args.encoders, args, read, learned)


if __name__ == "__main__":
    main()
