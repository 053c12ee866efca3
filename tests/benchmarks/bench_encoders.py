"""Passes per second of full-size encoders: memory layout and precision, interleaved in one process.

    python tests/benchmarks/bench_encoders.py --encoder r2plus1d_34 --batch 2
    python tests/benchmarks/bench_encoders.py --device cuda --batch 64 --encoder r2plus1d_34 clip_b32 swin_b

Weights are random. On a GPU the share of time that it was busy is read from the driver, where it tells.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import statistics
import time
from collections.abc import Callable

import torch

from groundzoo.zoo.video.base import VideoEncoder
from groundzoo.zoo.video.image_model import ImageModel
from groundzoo.zoo.video.r2plus1d import R2Plus1D
from groundzoo.zoo.video.video_swin import VideoSwin

CLIP_B32 = {
    "model_type": "clip_vision_model",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "patch_size": 32,
    "image_size": 224,
    "projection_dim": 512,
}
ENCODERS: dict[str, dict[str, Callable[[], VideoEncoder]]] = {
    "r2plus1d_34": {
        "contiguous": lambda: R2Plus1D("random", channels_last=False),
        "channels_last": lambda: R2Plus1D("random"),
    },
    "clip_b32": {"as is": lambda: ImageModel("checkpoint", config=CLIP_B32)},
    "swin_b": {"as is": lambda: VideoSwin("random", variant="video_swin_b_kinetics400")},
}


@torch.inference_mode()
def seconds(encoder: VideoEncoder, clips: torch.Tensor, autocast: bool) -> float:
    """Of one batch."""
    with torch.autocast(clips.device.type, torch.bfloat16) if autocast else contextlib.nullcontext():
        began = time.perf_counter()
        encoder(clips)
        if clips.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began


def main() -> None:
    """Print a line per way: passes per second, and the ratio to the first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", nargs="+", choices=ENCODERS, default=list(ENCODERS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    for name in options.encoder:
        ways: dict[str, tuple[VideoEncoder, bool]] = {}
        for layout, make in ENCODERS[name].items():
            encoder = make().to(options.device)
            ways |= {f"{layout}, fp32": (encoder, False), f"{layout}, bf16 autocast": (encoder, True)}
        spec = next(iter(ways.values()))[0].spec
        assert spec.size is not None
        shape = (options.batch, spec.pass_frames, *spec.size, 3)  # as decoded: the colours of a pixel together
        clips = torch.randint(0, 256, shape, dtype=torch.uint8).permute(0, 1, 4, 2, 3).to(options.device)
        times: dict[str, list[float]] = {way: [] for way in ways}
        busy: dict[str, list[int]] = {way: [] for way in ways}
        for _ in range(options.rounds + 1):
            for way, (encoder, autocast) in ways.items():
                times[way].append(seconds(encoder, clips, autocast))
                if options.device.startswith("cuda"):
                    with contextlib.suppress(Exception):  # needs the driver's own library
                        busy[way].append(torch.cuda.utilization())
        medians = {way: statistics.median(t[1:]) for way, t in times.items()}
        first = next(iter(medians.values()))
        for way, median in medians.items():
            used = f", {statistics.median(busy[way][1:])} % busy" if busy[way] else ""
            print(f"{name:12} {way:30} {options.batch / median:8.2f} passes/s  {first / median:5.2f} x{used}")


if __name__ == "__main__":
    main()
