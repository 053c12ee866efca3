"""Parameters and memory of GROVE in its sizes, counted on the meta device: nothing is allocated or downloaded.

    python tests/benchmarks/grove_budget.py --devices 8

Frozen parts are kept in bfloat16 (2 bytes), trained ones in float32 (4), with a gradient (4) and two running means
of Adam (8). Activations, which depend on batch and checkpointing, are not in it. Strategies:

- DDP: every device has all;
- ZeRO-2 (`deepspeed_stage_2`): gradients and means are divided among the devices;
- full shard (`fsdp`, ZeRO-3): weights, too.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

from groundzoo.tasks.grove import GROVE
from groundzoo.zoo.box_decoder import BoxDecoder
from groundzoo.zoo.language import LanguageModel
from groundzoo.zoo.text.word_tokenizer import word_tokenizer_files
from groundzoo.zoo.video.adapted_clip import AdaptedCLIP
from groundzoo.zoo.video.adapted_sam import AdaptedSAM

# published configurations, as far as they matter for size
CLIP_L = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
          "image_size": 336, "patch_size": 14}  # fmt: skip
CLIP_B = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
          "image_size": 224, "patch_size": 16}  # fmt: skip
SAM_H = {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16, "mlp_dim": 5120,
         "global_attn_indexes": [7, 15, 23, 31]}  # fmt: skip
SAM_B: dict[str, Any] = {}  # the defaults of Transformers
VICUNA_7B = {"model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008,
             "num_hidden_layers": 32, "num_attention_heads": 32, "max_position_embeddings": 4096}  # fmt: skip
QWEN_05B = {"model_type": "qwen2", "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864,
            "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
            "tie_word_embeddings": True, "max_position_embeddings": 32768}  # fmt: skip
SIZES: dict[str, tuple[dict[str, Any], ...]] = {
    "grove_full": (CLIP_L, SAM_H, VICUNA_7B),
    "grove_small": (CLIP_B, SAM_B, QWEN_05B),
}
TOKENS = {"grove_full": (8, 8, 9), "grove_small": (8, 7, 7)}
WORDS = [f"w{k}" for k in range(1000)]
GIB = 2**30


def build(name: str, device: torch.device, gradient_checkpointing: bool = False) -> GROVE:
    """A task of one size; on the meta device it takes no memory."""
    clip, sam, language = SIZES[name]
    words = word_tokenizer_files(WORDS)
    again: dict[str, Any] = {"gradient_checkpointing": gradient_checkpointing}
    with device:
        return GROVE(
            AdaptedCLIP("random", dtype="bfloat16", config={"model_type": "clip_vision_model", **clip}, **again),
            AdaptedSAM("random", dtype="bfloat16", config={"model_type": "sam_vision_model", **sam}, **again),
            LanguageModel("random", words, frozen_dtype="bfloat16", config=language, **again),
            BoxDecoder("random", config={"model_type": "sam"}),
            tokens=TOKENS[name],
        )


def rows(task: GROVE) -> list[tuple[str, int, int, int]]:
    """Name, parameters, trained ones and bytes of weights of every part."""
    task.enter_stage(0)
    parts = {**{name: getattr(task, name) for name in task.encoders}, "network": task.network}
    table = []
    for name, part in parts.items():
        parameters = list(part.parameters())
        trained = sum(p.numel() for p in parameters if p.requires_grad)
        size = sum(p.numel() * p.element_size() for p in parameters)
        table.append((name, sum(p.numel() for p in parameters), trained, size))
    return table


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=8)
    given = parser.parse_args()
    for name in SIZES:
        table = rows(build(name, torch.device("meta")))
        print(f"| {name} | parameters, M | trained, M | weights, GiB |\n|---|---|---|---|")
        for part, count, trained, size in table:
            print(f"| {part} | {count / 1e6:.1f} | {trained / 1e6:.1f} | {size / GIB:.2f} |")
        count, trained, size = (sum(row[k] for row in table) for k in (1, 2, 3))
        print(f"| all | {count / 1e6:.1f} | {trained / 1e6:.1f} | {size / GIB:.2f} |\n")
        n, states = given.devices, 12 * trained
        budget = {"DDP": size + states, f"ZeRO-2, {n}": size + states / n, f"full shard, {n}": (size + states) / n}
        print("| strategy | GiB per device, without activations |\n|---|---|")
        for strategy, needed in budget.items():
            print(f"| {strategy} | {needed / GIB:.1f} |")
        print()


if __name__ == "__main__":
    main()
