"""One training step of STG's local branch alone: seconds and peak memory, for chunks of texts.

    python tests/benchmarks/bench_pair_attention.py --batch 64 --frames 16 --cells 49 --dim 512 --words 20
    python tests/benchmarks/bench_pair_attention.py --batch 16 --chunk 1 4 16 --device cuda

Every chunk has a process of its own, as the peak of a process never falls. It holds features of cells and words
that need gradients, the module and its gradients; no encoder and no optimiser. A peak above ``--limit_gib`` is a
failure. Seconds are of the clock, and of the processor where others use the machine as well.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from multiprocessing.connection import Connection

import torch

from groundzoo.zoo.pair_attention import PairAttention


def step(args: argparse.Namespace, chunk: int | None, answer: Connection) -> None:
    """Send seconds by clock and by processor of the last of `args.steps` steps, bytes at the peak and before."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    cuda = args.device.startswith("cuda")
    module = PairAttention(args.dim, args.stack, chunk).to(args.device)
    shapes = [(args.batch, n, args.dim) for n in (args.frames * args.cells, args.words)]
    video, text = (torch.randn(shape, device=args.device, requires_grad=True) for shape in shapes)
    lengths = torch.randint(3, args.words + 1, (args.batch, 1))
    mask = (torch.arange(args.words) < lengths).to(args.device)

    def peak() -> int:
        if cuda:
            return int(torch.cuda.max_memory_allocated())
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    before, seconds = peak(), (0.0, 0.0)
    for _ in range(args.steps):
        began, busy = time.perf_counter(), time.process_time()
        scores = module.scores(video, text, mask)
        (scores.logsumexp(1) - scores.diagonal()).mean().backward()
        if cuda:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began, time.process_time() - busy
        assert video.grad is not None
        assert video.grad.isfinite().all()
        module.zero_grad()
        video.grad = text.grad = None
    answer.send((*seconds, peak(), before))


def main() -> None:
    """Print a line per chunk."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"batch": 64, "frames": 16, "cells": 49, "dim": 512, "words": 20, "threads": 1, "steps": 1}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument(
        "--chunk", type=int, nargs="*", default=[0], help="texts at a time; 0: the module's choice"
    )
    parser.add_argument("--stack", nargs="+", default=["cross", "self", "cross"], choices=["cross", "self"])
    parser.add_argument("--device", default="cpu", help="or cuda")
    parser.add_argument("--limit_gib", type=float, default=20)
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    worst = 0.0
    for chunk in args.chunk:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=step, args=(args, chunk or None, theirs))
        process.start()
        theirs.close()
        seconds, busy, peak, before = ours.recv()  # EOFError: the process ended without an answer
        process.join()
        worst = max(worst, peak / 2**30)
        print(f"chunk {chunk or 'chosen':>6}  {seconds:7.1f} s ({busy:.1f} s of processor)", end="  ")
        print(f"peak {peak / 2**30:.2f} GiB ({before / 2**30:.2f} before the step)", flush=True)
    if worst > args.limit_gib:
        raise SystemExit(f"peak {worst:.1f} GiB is above {args.limit_gib:g} GiB")


if __name__ == "__main__":
    main()
