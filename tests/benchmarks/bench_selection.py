"""Choosing frames by transport, against one training step of STG's local branch: seconds, and their share.

    python tests/benchmarks/bench_selection.py --batch 16 --candidates 80 --frames 16 --words 20 --clock cpu
    python tests/benchmarks/bench_selection.py --device cuda --rounds 10

Selection is what the task does without gradients: projections that selection alone needs, the similarity of
candidates and words, Sinkhorn, the choice; measured for each `model.selection.video`. The step is forward and
backward of the attention of the local branch on the cells chosen: no encoder, no other projection, no global
branch, no optimiser; all that comes on top in training makes the share smaller. Medians of rounds that take
turns.

``--limit`` fails where the shares of what is named by ``--judge`` are above it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from groundzoo.zoo.contrastive import contrastive_loss
from groundzoo.zoo.text.base import TextFeatures
from groundzoo.zoo.transport import frame_scores, mean_scores, random_frames, top_frames

STEP = "step of the local branch"


def seconds(run: Callable[[], object], args: argparse.Namespace) -> float:
    """Time of a call."""
    clock = time.process_time if args.clock == "cpu" else time.perf_counter
    began = clock()
    run()
    if args.device.startswith("cuda"):
        torch.cuda.synchronize()
    return clock() - began


def make_ways(args: argparse.Namespace) -> dict[str, Callable[[], object]]:
    """What is measured, by name; the step is last."""
    from groundzoo.tasks.stg import NetworkOptions, Projected, STGNetwork

    B, U, K, d, side = args.batch, args.candidates, args.words, args.dim, args.side
    network = STGNetwork(d, d, d, options=NetworkOptions(dim=d)).to(args.device)
    vectors, grid, words, sentences = (
        torch.randn(shape, device=args.device) for shape in ((B, U, d), (B, U, side, side, d), (B, K, d), (B, d))
    )
    frame_mask = torch.ones(B, U, dtype=torch.bool, device=args.device)
    word_mask = torch.arange(K, device=args.device) < torch.randint(3, K + 1, (B, 1), device=args.device)
    with torch.no_grad():
        p = Projected(network.f(vectors), network.g(sentences), TextFeatures(words, word_mask, sentences))

    @torch.no_grad()
    def similarity(video: str) -> Tensor:
        return network.similarity(p, grid, "words", video)[0]

    def transport(P: Tensor) -> Tensor:
        scores = frame_scores(P, frame_mask, word_mask, iterations=args.iterations)
        return top_frames(scores, frame_mask, args.frames)[0]

    def plain(P: Tensor) -> Tensor:
        return top_frames(mean_scores(P, frame_mask, word_mask), frame_mask, args.frames)[0]

    index = transport(similarity("frame"))
    cells = grid.gather(1, index[:, :, None, None, None].expand(-1, -1, side, side, d)).flatten(1, 3)
    video, text = cells.requires_grad_(), words.clone().requires_grad_()

    def step() -> None:
        contrastive_loss(network.local.scores(video, text, word_mask)).backward()

    P = similarity("frame")
    return {
        "at random": lambda: random_frames(frame_mask, args.frames),
        "frame, most similar": lambda: plain(similarity("frame")),
        "frame, transport": lambda: transport(similarity("frame")),
        "cells, transport": lambda: transport(similarity("cells")),
        "both, transport": lambda: transport(similarity("both")),
        "Sinkhorn and choice alone": lambda: transport(P),
        STEP: step,
    }


def main() -> None:
    """Print medians and shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"batch": 16, "candidates": 80, "frames": 16, "side": 7, "words": 20, "dim": 512}
    for name, default in (sizes | {"iterations": 50, "rounds": 5, "threads": 1}).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu", help="or cuda")
    parser.add_argument(
        "--clock", choices=["wall", "cpu"], default="wall", help="cpu: processor time of this process"
    )
    parser.add_argument("--limit", type=float, default=0.05, help="largest share of selection plus step")
    parser.add_argument("--judge", nargs="*", default=["frame, transport", "both, transport"])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    ways = make_ways(args)
    for run in ways.values():
        seconds(run, args)  # warms up
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.rounds):
        for name, run in ways.items():
            times[name].append(seconds(run, args))
    medians = {name: statistics.median(found) for name, found in times.items()}
    shares = {name: median / (median + medians[STEP]) for name, median in medians.items() if name != STEP}
    print(f"B={args.batch} U={args.candidates} T={args.frames} K={args.words} d={args.dim} cells={args.side}^2")
    print(f"{'':26}{'ms':>10}  {'range':>18}  share of selection + step")
    for name, found in times.items():
        share = f"{shares[name]:8.2%}" if name in shares else ""
        print(f"{name:26}{1000 * medians[name]:10.2f}  {1000 * min(found):8.2f}-{1000 * max(found):9.2f}  {share}")
    if above := [name for name in args.judge if shares[name] > args.limit]:
        raise SystemExit(f"more than {args.limit:.0%}: {', '.join(above)}")


if __name__ == "__main__":
    main()
