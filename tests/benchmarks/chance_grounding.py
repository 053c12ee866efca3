"""What knowing everything, and knowing nothing, scores on the real GroundingYouTube and MiningYouTube annotations.

    python tests/benchmarks/chance_grounding.py --only untrimmed clip spatial temporal

No video is needed: a video lasts to its last annotated second. Predictors, per moment (1 per second):

- oracle: the true action, and a heat map that is its box;
- random: an action of the pool or the background, all equally likely; a heat map of 3 x 3 of 7 x 7 cells around a
  random one, which is its peak. In the temporal protocol, uniform noise as scores, aligned to the order;
- centre: actions as above; the heat map always in the middle. In the temporal protocol, the order cut into equal
  parts.

The oracle is compared in full resolution. The heat of the others has 7 x 7 cells: they are compared in pictures of
a quarter of the width and height, boxes likewise, which takes a sixteenth of the time.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from groundzoo.datamodules.grounding_youtube import GroundingYouTube
from groundzoo.datamodules.mining_youtube import MiningYouTube
from groundzoo.datamodules.stretches import Stretch, Truth
from groundzoo.tasks.metrics.records import Record, RecordMetric
from groundzoo.tasks.metrics.spatial_grounding import SpatialGrounding, spatial_record
from groundzoo.tasks.metrics.spatio_temporal import SpatioTemporalGrounding, untrimmed_record
from groundzoo.tasks.metrics.temporal_alignment import TemporalGrounding, temporal_record
from groundzoo.zoo.heat_maps import box_masks

SHARED = Path(os.environ.get("GROUNDZOO_SHARED", Path(__file__).resolve().parents[3] / "shared")) / "data"
CELLS = 7
THRESHOLD = 0.5
SHRINK = 4  # of pictures for predictors with heat of few cells
PREDICTORS = ("oracle", "random", "centre")


def blobs(x: Tensor, y: Tensor) -> Tensor:
    """Heat ``(n, 7, 7)``: 1 in 3 x 3 cells around (x, y), 2 in the cell itself."""
    cells = torch.arange(CELLS)
    far = torch.maximum(
        (cells[None, None] - x[:, None, None]).abs(), (cells[None, :, None] - y[:, None, None]).abs()
    )
    return (2 - far).clamp(min=0).float()


def heat_of(predictor: str, truth: Truth, size: tuple[int, int]) -> Tensor:
    """Heat maps of n moments."""
    n = len(truth.labels)
    if predictor == "oracle":
        return box_masks(truth.boxes, (size[1], size[0])).byte()
    if predictor == "random":
        return blobs(torch.randint(CELLS, (n,)), torch.randint(CELLS, (n,)))
    return blobs(torch.full((n,), CELLS // 2), torch.full((n,), CELLS // 2))


def picture_of(predictor: str, stretch: Stretch, truth: Truth) -> tuple[Truth, tuple[int, int]]:
    """The truth, and the size of the picture, in the resolution that a predictor is compared in."""
    width, height = stretch.size or (1, 1)
    if predictor == "oracle":
        return truth, (width, height)
    return truth._replace(boxes=truth.boxes / SHRINK), (width // SHRINK, height // SHRINK)


def untrimmed(predictor: str, stretch: Stretch, truth: Truth) -> Record:
    """Record of a stretch with a pool."""
    n, actions = len(truth.labels), stretch.actions
    labels = truth.labels if predictor == "oracle" else torch.randint(-1, len(actions), (n,))
    (true, boxes), size = picture_of(predictor, stretch, truth)
    heat = heat_of(predictor, truth, size)
    return untrimmed_record(actions, labels, torch.rand(n), heat, true, boxes, size, THRESHOLD)


def spatial(predictor: str, stretch: Stretch, truth: Truth) -> Record:
    """Record of a stretch with one action."""
    (_, boxes), size = picture_of(predictor, stretch, truth)
    return spatial_record(stretch.actions[0], heat_of(predictor, truth, size), boxes, size, THRESHOLD)


def temporal(predictor: str, stretch: Stretch, truth: Truth) -> Record:
    """Record of a stretch with an order."""
    order, n, A = stretch.order(truth.labels), len(truth.labels), len(stretch.actions)
    scores = torch.rand(n, A + 1)
    if predictor != "random":  # the last column is the background
        parts = torch.tensor_split(torch.arange(n), len(order))
        equal = torch.cat([torch.full((len(part),), entry) for part, entry in zip(parts, order, strict=True)])
        chosen = truth.labels if predictor == "oracle" else equal
        scores = torch.nn.functional.one_hot(chosen % (A + 1), A + 1).float()
    # the background's score is one number for all moments: what is left is the difference to it
    return temporal_record(scores[:, :A] - scores[:, A:], order, truth.labels, 0.0)


def last_second(stretches: list[Stretch]) -> dict[str, float]:
    """Per video, where its last annotation ends."""
    ends: dict[str, float] = {}
    for stretch in stretches:
        ends[stretch.video_id] = max(ends.get(stretch.video_id, 0.0), max(mark.end_s for mark in stretch.marks))
    return ends


def evaluate(
    name: str,
    stretches: list[Stretch],
    ends: dict[str, float],
    record: Callable[..., Record],
    metric: RecordMetric,
) -> bool:
    """Print a table of the predictors; is the oracle's every value 100?"""
    truths = [stretch.truth(stretch.times(1.0, ends[stretch.video_id])) for stretch in stretches]
    frames = torch.cat([t.labels for t in truths])
    shares = []
    for stretch, truth in zip(stretches, truths, strict=True):
        (x1, y1, x2, y2), (width, height) = truth.boxes.unbind(1), stretch.size or (1, 1)
        shares.append((x2 - x1) * (y2 - y1) / (width * height))
    area = torch.cat(shares).nanmean().item()
    covers = f"; a box covers {100 * area:.1f} % of the picture" if area == area else ""
    acting = int((frames >= 0).sum())
    print(f"\n{name}: {len(stretches)} stretches, {len(frames)} moments, {acting} with an action{covers}")
    rows = {}
    for predictor in PREDICTORS:
        start = time.perf_counter()
        torch.manual_seed(0)
        metric.reset()
        for k, (stretch, truth) in enumerate(zip(stretches, truths, strict=True)):
            metric.update([k], [record(predictor, stretch, truth)])
        rows[predictor] = {key: value.item() for key, value in metric.compute().items()}
        print(f"{predictor}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    print("| metric | " + " | ".join(PREDICTORS) + " |\n|---|" + "---|" * len(PREDICTORS))
    for key in rows["oracle"]:
        print(f"| {key} | " + " | ".join(f"{rows[p][key]:.2f}" for p in PREDICTORS) + " |")
    return all(abs(value - 100) < 1e-9 for value in rows["oracle"].values())


def main() -> int:
    """Evaluate the predictors; fails unless the oracle is right everywhere."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    choices = ["untrimmed", "clip", "spatial", "temporal"]
    parser.add_argument("--data", type=Path, default=SHARED, help="folder of grounding_youtube and mining_youtube")
    parser.add_argument("--only", nargs="+", choices=choices, default=choices)
    parser.add_argument("--pool", choices=["published", "annotated"], default="published")
    parser.add_argument("--videos", type=int, default=None, help="only the first ones")
    args = parser.parse_args()
    youtube = args.data / "grounding_youtube"
    lasting = last_second(GroundingYouTube(youtube, ["untrimmed"], "annotated").read("test"))
    perfect = True
    for name in args.only:
        data = MiningYouTube(args.data / "mining_youtube", num_workers=0)
        metric: RecordMetric = TemporalGrounding()
        record: Callable[..., Record] = temporal
        if name != "temporal":
            data = GroundingYouTube(youtube, [name], args.pool)
            metric = SpatialGrounding() if name == "spatial" else SpatioTemporalGrounding()
            record = spatial if name == "spatial" else untrimmed
        stretches = data.read("test")
        videos = set(list(dict.fromkeys(s.video_id for s in stretches))[: args.videos])
        stretches = [s for s in stretches if s.video_id in videos]
        ends = last_second(stretches) if name == "temporal" else lasting
        perfect &= evaluate(name, stretches, ends, record, metric)
    print("\nthe oracle is right everywhere" if perfect else "\nTHE ORACLE IS NOT RIGHT EVERYWHERE")
    return 0 if perfect else 1


if __name__ == "__main__":
    sys.exit(main())
