"""A training step of STG with CLIP ViT-B/32 from raw frames: where its time goes, and how busy the machine is.

    python tests/benchmarks/bench_stg_gpu.py --peak 989                             # dense bf16 TFLOP/s of an H100
    python tests/benchmarks/bench_stg_gpu.py --batch 4 --candidates 16 --frames 4   # the sizes without a GPU

Weights are random, frames are noise, and both are in place before the clock runs: nothing is decoded or copied.
Parts are timed one by one, with a wait for the device around each; ``step`` is timed without these waits. FLOPs
are those of matrix products and convolutions, as executed (what is computed twice to save memory counts twice),
and utilisation is their rate over ``--peak``. The local branch computes in single precision whatever the rest
does.
"""

from __future__ import annotations

import argparse
import logging
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from groundzoo.tasks.stg import STG, LossOptions, SelectionOptions
from groundzoo.zoo.batch import MomentFeatures, NarrationBatch
from groundzoo.zoo.text.clip import CLIPText
from groundzoo.zoo.video.image_model import ImageModel

PARTS = ("frames", "text", "select", "global", "local", "backward", "optimiser")
LETTERS = [chr(c) for c in range(ord("a"), ord("z") + 1)]


# ---- what is timed --------------------------------------------------------------------------------------


def make_task(frames: int, local_group: int | None) -> STG:
    """STG as in the paper, both towers of the size of CLIP ViT-B/32 (Transformers' default configurations)."""
    from transformers import CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

    tokens = [*LETTERS, *(letter + "</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    text = CLIPTextConfig(vocab_size=len(tokens), bos_token_id=len(tokens) - 2, eos_token_id=len(tokens) - 1)
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = {token: i for i, token in enumerate(tokens)}
        CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77).save_pretrained(folder)
        text_encoder = CLIPText("random", tokenizer=folder, config=text.to_dict())
    video_encoder = ImageModel("random", config=CLIPVisionConfig().to_dict())
    selection, loss = SelectionOptions(frames=frames), LossOptions(local_group=local_group)
    return STG(video_encoder, text_encoder, selection=selection, loss=loss)


def make_batch(videos: int, candidates: int, words: int, device: torch.device) -> NarrationBatch:
    """Noise, and narrations of `words` one-letter words."""
    size = (videos, candidates, 1, 3, 224, 224)
    frames = torch.randint(0, 256, size, dtype=torch.uint8, device=device)
    there = torch.ones(videos, candidates, dtype=torch.bool, device=device)
    times = torch.arange(candidates, device=device).expand(videos, -1) / 5
    return NarrationBatch(
        features=MomentFeatures(None, None, [frames]),
        mask=there,
        inside=there,
        times_s=times,
        texts=[" ".join(LETTERS[(i + k) % len(LETTERS)] for k in range(words)) for i in range(videos)],
        spans_s=times[:, [0, -1]],
        sound=None,
        video_ids=[str(i) for i in range(videos)],
        index=torch.arange(videos),
    )


# ---- the clock ------------------------------------------------------------------------------------------


class Stopwatch:
    """Seconds, or FLOPs, of parts of a step that are calls of its objects' methods.

    Args:
        device: that is waited for before a part starts and after it ends.
        flops: a counter in use, to be read in place of the clock.
    """

    def __init__(self, device: torch.device, flops: FlopCounterMode | None = None) -> None:
        self.device, self.flops = device, flops
        self.spent = dict.fromkeys(PARTS, 0.0)

    def read(self) -> float:
        """Now, or FLOPs so far."""
        if self.flops is not None:
            return float(self.flops.get_total_flops())
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def around(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same call, measured; parts called inside are not counted twice."""

        def measured(*args: Any, **kwargs: Any) -> Any:
            before, others = self.read(), sum(self.spent.values())
            result = call(*args, **kwargs)
            inside = sum(self.spent.values()) - others
            self.spent[part] += self.read() - before - inside
            return result

        return measured


def train_step(
    task: STG, batch: NarrationBatch, optimizer: torch.optim.Optimizer, half: bool, watch: Stopwatch | None = None
) -> Tensor:
    """One step, as the trainer runs it; returns the loss."""

    def around(part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        return call if watch is None else watch.around(part, call)

    methods = {"text": (task.text_encoder, "forward"), "select": (task, "select")}
    methods |= {"global": (task, "_global_loss"), "local": (task, "_local_loss")}
    for part, (owner, name) in methods.items():
        setattr(owner, name, around(part, getattr(owner, name)))
    try:
        with torch.autocast(batch.mask.device.type, torch.bfloat16, enabled=half):
            ready = around("frames", task.prepare)(batch)
            losses = task.step(ready, "train").losses
        loss = torch.stack(list(losses.values())).sum()
        around("backward", loss.backward)()
        around("optimiser", optimizer.step)()
        optimizer.zero_grad()
    finally:
        for owner, name in methods.values():
            delattr(owner, name)  # the class's own is underneath
    return loss.detach()


def main() -> None:
    """Print a table of parts, and a line about the whole step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, help="videos; 64, or 4 without a GPU")
    parser.add_argument("--candidates", type=int, help="U; 64, or 16 without a GPU")
    parser.add_argument("--frames", type=int, help="T; 16, or 4 without a GPU")
    parser.add_argument("--words", type=int, default=20)
    parser.add_argument(
        "--local_group", type=int, help="most videos contrasted in the local branch; all by default"
    )
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--tf32", action="store_true", help="single precision products in TensorFloat-32 on a GPU")
    parser.add_argument("--peak", type=float, help="TFLOP/s of the machine that utilisation is a share of")
    parser.add_argument("--warm_up", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    device = torch.device(args.device)
    on_gpu = device.type == "cuda"
    for name, large, small in (("batch", 64, 4), ("candidates", 64, 16), ("frames", 16, 4)):
        setattr(args, name, getattr(args, name) or (large if on_gpu else small))
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision("high" if args.tf32 else "highest")
    logging.disable(logging.WARNING)
    torch.manual_seed(0)
    task = make_task(args.frames, args.local_group).to(device).train()
    optimizer = torch.optim.Adam([p for p in task.parameters() if p.requires_grad], lr=1e-4, fused=True)
    batch = make_batch(args.batch, args.candidates, args.words, device)

    def step(watch: Stopwatch | None = None) -> Tensor:
        return train_step(task, batch, optimizer, args.precision == "bf16", watch)

    with FlopCounterMode(display=False) as counter:
        counted = Stopwatch(device, counter)
        step(counted)
        total = float(counter.get_total_flops())
    parts: list[Stopwatch] = []
    whole: list[float] = []
    for i in range(args.warm_up + args.steps):
        clock = Stopwatch(device)
        began = clock.read()
        loss = step()
        seconds = clock.read() - began
        assert loss.isfinite()
        step(clock)
        if i >= args.warm_up:
            parts.append(clock)
            whole.append(seconds)

    name = torch.cuda.get_device_name(device) if on_gpu else f"CPU, {torch.get_num_threads()} threads"
    print(
        f"{name}; {args.precision}, B = {args.batch}, U = {args.candidates}, T = {args.frames}, K = {args.words}"
    )
    print("| part | ms | share | TFLOP | TFLOP/s | utilisation |\n|---|---|---|---|---|---|")
    medians = {part: statistics.median(clock.spent[part] for clock in parts) for part in PARTS}
    rows = [(part, medians[part], counted.spent[part]) for part in PARTS]
    for title, seconds, flops in [*rows, ("step", statistics.median(whole), total)]:
        share, rate = seconds / sum(medians.values()), flops / seconds / 1e12
        used = f"{rate / args.peak:.1%}" if args.peak else ""
        print(f"| {title} | {1000 * seconds:.2f} | {share:.1%} | {flops / 1e12:.4f} | {rate:.3f} | {used} |")
    peak = (
        torch.cuda.max_memory_allocated(device)
        if on_gpu
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    spread = f"{1000 * min(whole):.0f}-{1000 * max(whole):.0f} ms"
    print(f"{args.batch / statistics.median(whole):.2f} videos/s; steps {spread}; peak {peak / 2**30:.2f} GiB")


if __name__ == "__main__":
    main()
