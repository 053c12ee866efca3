"""What a linear probe reads from single cells of the weightless encoders, on scripted ToyWorld videos.

    python tests/benchmarks/bench_weightless.py
    python tests/benchmarks/bench_weightless.py --h264

Colours and shapes are read from the cell that holds the actor's centre, in random frames in which it is to be
seen; actions from the cells that hold the acting actor, at times spread evenly over the event. `--h264` encodes
and decodes the videos as the packaged generator does.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from groundzoo.datamodules.toyworld.render import encode, render_frames
from groundzoo.datamodules.toyworld.scene import ACTIONS, COLOURS, CY, PRESETS, SHAPES, Video
from groundzoo.datamodules.toyworld.truth import visibility
from groundzoo.datamodules.toyworld.world import script_video
from groundzoo.zoo.video.appearance_grid import AppearanceGrid
from groundzoo.zoo.video.base import VideoEncoder
from groundzoo.zoo.video.motion_grid import MotionGrid
from groundzoo.zoo.video.pixel_grid import PixelGrid

WORLD_SEED = 77
FRAMES = 8  # of a video, in which its actors are looked at
TIMES = 8  # of an event
ENCODERS: dict[str, VideoEncoder] = {
    "AppearanceGrid": AppearanceGrid(),
    "MotionGrid": MotionGrid(),
    "PixelGrid, 6 x 6": PixelGrid(grid=6),
    "PixelGrid, 12 x 12": PixelGrid(),
}


class Samples(NamedTuple):
    """Cells and what is true of them.

    Attributes:
        actors: per encoder, ``(A, C)``, one cell per actor and frame.
        looks: ``(A, 3)``: colour, shape, size of the actor.
        events: per encoder, ``(E, TIMES, C)``.
        actions: ``(E,)``.
    """

    actors: dict[str, Tensor]
    looks: Tensor
    events: dict[str, Tensor]
    actions: Tensor


def pixels(video: Video, h264: bool) -> Tensor:
    """All frames, ``(T, 3, H, W)`` uint8."""
    if not h264:
        return torch.from_numpy(np.stack(list(render_frames(video)))).permute(0, 3, 1, 2)
    import av

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        encode(path, render_frames(video), video.fps)
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)


def cells(encoder: VideoEncoder, frames: Tensor, times: Tensor, xy: Tensor) -> Tensor:
    """The cell at each point, from the window around each time: ``(n, C)``."""
    spec = encoder.spec
    index = times[:, None] - spec.window // 2 + torch.arange(spec.window)
    grid = encoder(frames[index.clamp(0, len(frames) - 1)]).grid
    assert grid is not None
    grid = grid[:, 0]
    sides = torch.tensor([frames.shape[-1], frames.shape[-2]])
    column, row = (xy / sides * grid.shape[1]).long().clamp(0, grid.shape[1] - 1).unbind(1)
    return grid[torch.arange(len(grid)), row, column]


@torch.inference_mode()
def sample(index: int, h264: bool) -> Samples:
    """One video."""
    torch.set_num_threads(1)
    video = script_video(PRESETS["w1"], WORLD_SEED, index)
    frames, tracks = pixels(video, h264), torch.from_numpy(video.tracks)
    rng = np.random.default_rng([WORLD_SEED, index])
    seen = np.stack([visibility(video, i) for i in range(len(video.actors))])
    chosen = [(t, i) for t in rng.choice(video.num_frames, FRAMES, replace=False) for i in range(len(seen))]
    chosen = [(int(t), i) for t, i in chosen if seen[i, t] >= 0.5]
    when, who = torch.tensor(chosen).unbind(1)
    colours = list(COLOURS)
    looks = [(colours.index(a.colour), SHAPES.index(a.shape), int(a.size == "big")) for a in video.actors]
    spread = [np.linspace(e.start, e.end - 1, 2 * TIMES + 1)[1::2].round().astype(int) for e in video.events]
    moments = torch.from_numpy(np.concatenate(spread))
    actors = torch.tensor([e.actor for e in video.events]).repeat_interleave(TIMES)
    return Samples(
        {k: cells(e, frames, when, tracks[when, who, : CY + 1]) for k, e in ENCODERS.items()},
        torch.tensor(looks)[who],
        {
            k: cells(e, frames, moments, tracks[moments, actors, : CY + 1]).unflatten(0, (-1, TIMES))
            for k, e in ENCODERS.items()
        },
        torch.tensor([ACTIONS.index(e.action) for e in video.events]),
    )


def probe(x: Tensor, y: Tensor, held_out: Tensor) -> Tensor:
    """Classes of the held-out ``(n, C)`` by logistic regression on ``(m, C)`` and their classes ``(m,)``."""
    mean, std = x.mean(0), x.std(0) + 1e-3
    x, held_out = (F.pad((v - mean) / std, (0, 1), value=1.0) for v in (x, held_out))
    weight = torch.zeros(x.shape[1], int(y.max()) + 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=150, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(x @ weight, y) + 1e-3 * weight[:-1].square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    return (held_out @ weight.detach()).argmax(1)


def accuracies(train: list[Samples], test: list[Samples], name: str) -> dict[str, float]:
    """Of one encoder's cells, per question."""
    x, held_out = (torch.cat([s.actors[name] for s in part]) for part in (train, test))
    y, truth = (torch.cat([s.looks for s in part]) for part in (train, test))
    right = torch.stack([probe(x, y[:, k], held_out) == truth[:, k] for k in range(3)], 1).float()
    big = truth[:, 2] == 1
    table = {
        "colour": right[:, 0].mean(),
        "shape, big": right[big, 1].mean(),
        "shape, small": right[~big, 1].mean(),
        "size": right[:, 2].mean(),
    }
    x, held_out = (torch.cat([s.events[name] for s in part]) for part in (train, test))
    y, truth = (torch.cat([s.actions for s in part]) for part in (train, test))
    table[f"action, {TIMES} times"] = (probe(x.mean(1), y, held_out.mean(1)) == truth).float().mean()
    single = probe(x.flatten(0, 1), y.repeat_interleave(TIMES), held_out.flatten(0, 1))
    table["action, 1 time"] = (single == truth.repeat_interleave(TIMES)).float().mean()
    return {question: float(share) for question, share in table.items()}


@torch.inference_mode()
def milliseconds(encoder: VideoEncoder, units: int = 64) -> float:
    """CPU time of a unit, the least of five rounds."""
    assert encoder.spec.size is not None
    clips = torch.rand(units, encoder.spec.window, 3, *encoder.spec.size)
    took = []
    for _ in range(6):
        began = time.process_time()
        encoder.encode(clips)
        took.append(time.process_time() - began)
    return min(took[1:]) / units * 1000


def main() -> None:
    """Print a row per encoder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=300, help="videos")
    parser.add_argument("--test", type=int, default=100, help="videos")
    parser.add_argument("--h264", action="store_true")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with ProcessPoolExecutor(options.workers) as pool:
        videos = range(options.train + options.test)
        samples = list(pool.map(partial(sample, h264=options.h264), videos, chunksize=4))
    train, test = samples[: options.train], samples[options.train :]
    counts = [sum(len(s.looks) for s in test), sum(len(s.actions) for s in test)]
    print(f"{counts[0]} held-out actors, {counts[1]} held-out events, {'H.264' if options.h264 else 'as drawn'}")
    for k, (name, encoder) in enumerate(ENCODERS.items()):
        found = accuracies(train, test, name)
        if k == 0:
            print("|".join(["", "encoder", *found, "ms per unit", ""]))
        print("|".join(["", name, *(f"{v:.3f}" for v in found.values()), f"{milliseconds(encoder):.1f}", ""]))


if __name__ == "__main__":
    main()
