"""A real training step of GROVE in one of its sizes, with random weights: seconds, memory, use of the device.

    python tests/benchmarks/grove_step.py --size grove_small
    python tests/benchmarks/grove_step.py --size grove_full --device cuda --peak 989   # bf16 TFLOP/s of an H100

Frozen parts are in bfloat16, activations are computed twice (gradient checkpointing), and the optimiser is the
task's own with its clipping of gradients, as in ``configs/tasks``. Frames are noise and in place before the clock
runs: nothing is decoded. FLOPs are those of matrix products and convolutions, as executed.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import resource
import time

import torch
from grove_budget import GIB, SIZES, WORDS, build
from torch.utils.flop_counter import FlopCounterMode

from groundzoo.tasks.grove import GROVE
from groundzoo.zoo.batch import GroundedClipBatch
from groundzoo.zoo.text.grounded_text import GroundedText


def make_batch(task: GROVE, clips: int, phrases: int, device: torch.device) -> GroundedClipBatch:
    """Clips of noise with sentences of six words per phrase; a third of the things are not visible."""
    said = " ".join(WORDS[: 6 * phrases])
    starts = [said.index(WORDS[6 * k]) for k in range(phrases)]
    text = GroundedText(
        said, tuple((s, s + len(" ".join(WORDS[6 * k : 6 * k + 2]))) for k, s in enumerate(starts))
    )
    frames = task.frames
    sizes = [encoder.spec.size or (0, 0) for encoder in task.streams]
    visible = (torch.arange(frames) % 3 != 1).expand(clips * phrases, -1)
    boxes = torch.rand(clips * phrases, frames, 4) * 0.3 + 0.2
    return GroundedClipBatch(
        frames=[torch.randint(0, 256, (clips, frames, 3, *s), dtype=torch.uint8).to(device) for s in sizes],
        mask=torch.ones(clips, frames, dtype=torch.bool, device=device),
        captions=[text] * clips,
        references=[[said]] * clips,
        given=False,
        clip=torch.arange(clips, device=device).repeat_interleave(phrases),
        boxes=(boxes * visible[..., None]).to(device),
        visible=visible.to(device),
        truths=[[[] for _ in range(frames)]] * clips,
        times_s=torch.arange(frames).expand(clips, -1) / 5,
        sizes=torch.tensor([[640.0, 360.0]] * clips),
        clip_ids=[str(b) for b in range(clips)],
        video_ids=[str(b) for b in range(clips)],
        index=torch.arange(clips),
    )


def main() -> None:
    """Print a line per step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(SIZES), default="grove_small")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--clips", type=int, default=1)
    parser.add_argument("--phrases", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--lr", type=float, default=5e-5)
    parser.add_argument("--peak", type=float, help="TFLOP/s of the machine that utilisation is a share of")
    given = parser.parse_args()
    device = torch.device(given.device)
    logging.disable(logging.WARNING)
    torch.manual_seed(0)
    began = time.perf_counter()
    task = build(given.size, torch.device("cpu"), gradient_checkpointing=True).to(device).train()
    task.stages = [dataclasses.replace(task.stages[0], lr=given.lr, schedule="constant")]
    task.enter_stage(0)
    learned = {name: p for name, p in task.named_parameters() if p.requires_grad}
    frozen = {p.dtype for p in task.parameters() if not p.requires_grad}
    print(f"built in {time.perf_counter() - began:.1f} s; {sum(p.numel() for p in learned.values()) / 1e6:.1f} M "
          f"trained in {({p.dtype for p in learned.values()})}, the rest in {frozen}")  # fmt: skip
    optimizer = task.configure_optimizers()
    optimizer = optimizer["optimizer"] if isinstance(optimizer, dict) else optimizer
    batch = make_batch(task, given.clips, given.phrases, device)
    for number in range(given.steps):
        counter = FlopCounterMode(display=False)
        if device.type == "cuda":
            torch.cuda.synchronize()
        began, cpu = time.perf_counter(), time.process_time()
        with counter:
            losses = task.step(batch, "train").losses
            torch.stack(list(losses.values())).sum().backward()
        norm = torch.nn.utils.clip_grad_norm_(learned.values(), 1.0)
        without = [name for name, p in learned.items() if p.grad is None]
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds, flops = time.perf_counter() - began, counter.get_total_flops() / 1e12
        peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 1024 * _resident()
        rate = f"{flops:.2f} TFLOP, {flops / seconds:.3f} TFLOP/s"
        used = f" = {flops / seconds / given.peak:.1%}" if given.peak else ""
        parts = ", ".join(f"{name} {value.item():.3f}" for name, value in losses.items())
        cpu = time.process_time() - cpu
        print(f"step {number + 1}: {parts}; gradient {norm.item():.2f}, {len(without)} parameters without one; "
              f"{seconds:.1f} s ({cpu:.1f} CPU-s), {rate}{used}; peak {peak / GIB:.1f} GiB")  # fmt: skip
        if not all(value.isfinite() for value in losses.values()) or without:
            raise SystemExit(f"not a step: {losses}, without gradient: {without[:5]}")


def _resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
