"""Tiny models of Transformers with random weights, and tokenizers of a few made words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

WORDS = ["a", "person", "opens", "the", "red", "door", "box", "of", "."]
TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SQUARE = {**TOWER, "image_size": 32, "patch_size": 8}
SWIN = {"embed_dim": 8, "depths": [1, 2], "num_heads": [2, 2], "image_size": 32, "patch_size": 4}
DINO = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
IMAGE: dict[str, dict[str, Any]] = {
    "clip_vision_model": {**SQUARE, "projection_dim": 12},
    "siglip_vision_model": SQUARE,
    "siglip2_vision_model": {**TOWER, "num_patches": 16, "patch_size": 8},
    "dinov2": DINO,
    "dinov2_with_registers": {**DINO, "num_register_tokens": 3},
    "dinov3_vit": {**SQUARE, "num_register_tokens": 3},
    "vit": SQUARE,
    "swin": {**SWIN, "window_size": 3},
    "swinv2": {**SWIN, "window_size": 4},
    "deit": SQUARE,
    "resnet": {"hidden_sizes": [8, 16], "depths": [1, 1], "embedding_size": 8, "image_size": 32},
    "openai_clip_resnet": {"layers": [1, 1, 1, 1], "width": 8, "output_dim": 12, "heads": 4, "image_size": 64},
}
CLIP_WORDS = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
VIDEO: dict[str, dict[str, Any]] = {
    "videomae": {**SQUARE, "num_frames": 4},
    "timesformer": {**SQUARE, "num_frames": 4},
    "vivit": {**TOWER, "image_size": 32, "tubelet_size": [2, 8, 8], "num_frames": 4},
    "xclip": {
        "projection_dim": 12,
        "prompt_num_attention_heads": 2,
        "text_config": {**CLIP_WORDS, "vocab_size": 50},
        "vision_config": {
            **SQUARE,
            "num_frames": 4,
            "mit_hidden_size": 12,
            "mit_intermediate_size": 24,
            "mit_num_attention_heads": 2,
        },
    },
    "vjepa2": {
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "crop_size": 32,
        "patch_size": 8,
        "frames_per_clip": 4,
        "pred_hidden_size": 12,
        "pred_num_attention_heads": 2,
        "pred_num_hidden_layers": 1,
    },
}


def config(kind: str) -> dict[str, Any]:
    """The contents of a ``config.json``."""
    return {"model_type": kind, **(IMAGE | VIDEO)[kind]}


def save(folder: Path, kind: str, name: str, **changes: Any) -> Path:
    """Write a model of the class `name` into a folder, as its authors would."""
    import torch
    import transformers

    torch.manual_seed(3)
    settings = transformers.CONFIG_MAPPING[kind](**{**(IMAGE | VIDEO).get(kind, {}), **changes})
    getattr(transformers, name)(settings).save_pretrained(folder)
    return folder


# ---- text -----------------------------------------------------------------------------------------------


def clip_tokenizer() -> Any:
    """CLIP's, with the letters and a few merges; start and end are the last two tokens."""
    from transformers import CLIPTokenizer

    letters = [chr(c) for c in range(33, 127)]
    pieces = ["th", "the</w>", "re", "red</w>", "do", "or</w>"]
    tokens = [*letters, *(c + "</w>" for c in letters), *pieces, "<|startoftext|>", "<|endoftext|>"]
    merges = [("t", "h"), ("th", "e</w>"), ("r", "e"), ("re", "d</w>"), ("d", "o"), ("o", "r</w>")]
    return CLIPTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=merges, model_max_length=77)


def bert_tokenizer() -> Any:
    """BERT's, with `WORDS`."""
    from transformers import BertTokenizer

    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    return BertTokenizer(vocab={t: i for i, t in enumerate(tokens)}, model_max_length=20)


def t5_tokenizer() -> Any:
    """One end token and no start, as T5 has it; no limit of its own."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {t: i for i, t in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


# ---- OpenAI's names ----------------------------------------------------------------------------------------

WIDTH = 64


def blocks(head: str) -> dict[str, list[int]]:
    """Two blocks of a tower."""
    shapes: dict[str, list[int]] = {}
    for i in range(2):
        name = f"{head}transformer.resblocks.{i}."
        for part, rows, columns in (
            ("attn.in_proj_", 3 * WIDTH, WIDTH),
            ("attn.out_proj.", WIDTH, WIDTH),
            ("mlp.c_fc.", 4 * WIDTH, WIDTH),
            ("mlp.c_proj.", WIDTH, 4 * WIDTH),
        ):
            shapes |= {f"{name}{part}weight": [rows, columns], f"{name}{part}bias": [rows]}
        shapes |= {f"{name}{n}.{p}": [WIDTH] for n in ("ln_1", "ln_2") for p in ("weight", "bias")}
    return shapes


OPENAI_IMAGE = {
    "visual.class_embedding": [WIDTH],
    "visual.positional_embedding": [17, WIDTH],
    "visual.proj": [WIDTH, 12],
    "visual.conv1.weight": [WIDTH, 3, 8, 8],
    **{f"visual.{n}.{p}": [WIDTH] for n in ("ln_pre", "ln_post") for p in ("weight", "bias")},
    **blocks("visual."),
}
OPENAI_TEXT = {
    "positional_embedding": [12, WIDTH],
    "text_projection": [WIDTH, 12],
    "token_embedding.weight": [60, WIDTH],
    "ln_final.weight": [WIDTH],
    "ln_final.bias": [WIDTH],
    "logit_scale": [],
    **blocks(""),
}


def numbers(shapes: dict[str, list[int]], seed: int = 0) -> dict[str, Any]:
    """Random tensors."""
    import torch

    g = torch.Generator().manual_seed(seed)
    return {k: 0.1 * torch.randn(v, generator=g) for k, v in shapes.items()}
