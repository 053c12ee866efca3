"""Measures the weightless tracker on ToyWorld: how often it is right, and whether its score tells.

    python tests/benchmarks/bench_trackers.py --videos 60

Each video is cut to one clip; each actor is tracked from the clip's middle: from the clean frame, from one in
which a painted patch hides about 65 % of its box, and from a strongly blurred one. Half of the actors are behind
a grey patch for some time (the world's option `occlusion`). Right means an IoU above 0.5
with the true box. AUROC: how well the score tells the right boxes of visible actors from all others.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from groundzoo.datamodules.toyworld.render import render_frames
from groundzoo.datamodules.toyworld.shapes import boxes as shape_boxes
from groundzoo.datamodules.toyworld.truth import SEEN, visibility
from groundzoo.datamodules.toyworld.world import WorldConfig, script_video
from groundzoo.zoo.tracking.template import TemplateTracker

CLIP, STEP = 30, 2  # frames of a clip, of which every second is kept
STARTS = ("clean", "covered", "blurred")
GREY = 112


class Clip(NamedTuple):
    """Frames, true boxes of all actors in all frames, and how much of them is to be seen."""

    frames: Tensor  # (T, 3, H, W) uint8
    boxes: Tensor  # (K, T, 4)
    visible: Tensor  # (K, T)


def clips(count: int, occlusion: float = 0.5, seed: int = 7, step: int = STEP) -> Iterator[Clip]:
    """Clips of scripted videos."""
    config = WorldConfig(occlusion=occlusion)
    for index in range(count):
        video = script_video(config, seed, index)
        every = slice(index % 7, index % 7 + CLIP * step, step)
        frames = torch.from_numpy(np.stack(list(render_frames(video))))[every].permute(0, 3, 1, 2).contiguous()
        actors = range(len(video.actors))
        boxes = np.stack([shape_boxes(video.actors[i].shape, video.tracks[:, i])[every] for i in actors])
        visible = np.stack([visibility(video, i)[every] for i in actors])
        frame = torch.tensor([video.width, video.height] * 2)
        yield Clip(frames, torch.from_numpy(boxes).clamp(min=0).minimum(frame), torch.from_numpy(visible))


def spoil(frame: Tensor, box: Tensor, how: str, rng: np.random.Generator) -> Tensor:
    """A frame (3, H, W) in which a thing is hard to see."""
    if how == "blurred":
        radius = 6
        line = torch.exp(-0.5 * (torch.arange(-3 * radius, 3 * radius + 1) / radius).square())
        kernel = (line[:, None] * line / line.sum().square()).expand(3, 1, -1, -1)
        padded = F.pad(frame[None].float(), (3 * radius,) * 4, mode="reflect")
        return F.conv2d(padded, kernel, groups=3)[0].round().to(torch.uint8)
    if how == "covered":
        x0, y0, x1, y1 = box.tolist()
        side, beyond = rng.integers(4), 3
        cover = {
            0: (x0 - beyond, y0 - beyond, x0 + 0.65 * (x1 - x0), y1 + beyond),
            1: (x0 + 0.35 * (x1 - x0), y0 - beyond, x1 + beyond, y1 + beyond),
            2: (x0 - beyond, y0 - beyond, x1 + beyond, y0 + 0.65 * (y1 - y0)),
            3: (x0 - beyond, y0 + 0.35 * (y1 - y0), x1 + beyond, y1 + beyond),
        }[int(side)]
        left, top, right, bottom = (max(round(v), 0) for v in cover)
        frame = frame.clone()
        frame[:, top:bottom, left:right] = GREY
    return frame


def overlaps(one: Tensor, two: Tensor) -> Tensor:
    """IoU of boxes of equal shape (..., 4)."""
    both = (torch.minimum(one[..., 2:], two[..., 2:]) - torch.maximum(one[..., :2], two[..., :2])).clamp(min=0)
    shared = both.prod(-1)
    area = (one[..., 2:] - one[..., :2]).prod(-1) + (two[..., 2:] - two[..., :2]).prod(-1)
    return shared / (area - shared).clamp(min=1e-6)


def auroc(scores: Tensor, right: Tensor) -> float:
    """Chance that a right box scores higher than a wrong one."""
    _, place, counts = scores.double().unique(return_inverse=True, return_counts=True)
    ranks = (counts.cumsum(0) - (counts - 1) / 2)[place]
    good, bad = int(right.sum()), int((~right).sum())
    return float((ranks[right].sum() - good * (good + 1) / 2) / (good * bad))


def measure(tracker: TemplateTracker, videos: list[Clip], how: str) -> dict[str, float]:
    """One row of the table."""
    rng = np.random.default_rng(0)
    ious, scores, visible = [], [], []
    seconds = 0.0
    for clip in videos:
        for k in range(len(clip.boxes)):
            fit = (clip.visible[k] > 0.95).nonzero().flatten()
            if not len(fit):
                continue
            start = int(fit[len(fit) // 2])
            frames = clip.frames.clone()
            frames[start] = spoil(frames[start], clip.boxes[k, start], how, rng)
            begin = time.process_time()
            tracks = tracker.track(frames, clip.boxes[k, start][None], torch.tensor([start]))
            seconds += time.process_time() - begin
            others = torch.arange(len(frames)) != start
            ious.append(overlaps(tracks.boxes[0], clip.boxes[k])[others])
            scores.append(tracks.scores[0][others])
            visible.append(clip.visible[k][others] >= SEEN)
    iou, score, seen = torch.cat(ious), torch.cat(scores), torch.cat(visible)
    right = (iou > 0.5) & seen
    kept = score > 0.5
    return {
        "things": len(ious),
        "visible_right": float((iou[seen] > 0.5).double().mean()),
        "hidden_right": float((iou[~seen] > 0.5).double().mean()),
        "mean_iou": float(iou[seen].mean()),
        "auroc": auroc(score, right),
        "kept_visible": float(kept[seen].double().mean()),
        "kept_hidden": float(kept[~seen].double().mean()),
        "kept_right": float(right[kept].double().mean()),
        "ms": 1000 * seconds / len(iou),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=60)
    parser.add_argument("--occlusion", type=float, default=0.5)
    parser.add_argument("--step", type=int, default=STEP)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    videos = list(clips(arguments.videos, arguments.occlusion, step=arguments.step))
    tracker = TemplateTracker()
    for number, how in enumerate(STARTS):
        row = measure(tracker, videos, how)
        if not number:
            print(" | ".join(["start", *row]))
        print(" | ".join([how, *(f"{value:.3f}" for value in row.values())]), flush=True)


if __name__ == "__main__":
    main()
