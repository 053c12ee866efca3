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


# ---- trackers and detectors ------------------------------------------------------------------------------


def tracker_config(kind: str) -> dict[str, Any]:
    """Of SAM 2 or EdgeTAM for frames of 64 x 64; 64 is fixed in their memories' attention, and 128 = 2 * 64."""
    hiera = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 8,
        "image_size": [64, 64],
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 24, 32],
        "num_attention_heads_per_stage": [1, 1, 2, 2],
        "window_size_per_stage": [4, 4, 4, 4],
        "window_positional_embedding_background_size": [4, 4],
        "global_attention_blocks": [3],
    }
    vision = {
        "model_type": "sam2_vision_model",
        "backbone_config": hiera,
        "backbone_channel_list": [32, 24, 16, 8],
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        "fpn_hidden_size": 128,
    }
    decoder = {"hidden_size": 128, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
    common = {
        "model_type": kind,
        "image_size": 64,
        "vision_config": vision,
        "prompt_encoder_config": {"hidden_size": 128, "image_size": 64, "mask_input_channels": 4},
        "mask_decoder_config": decoder,
        "num_maskmem": 3,
        "max_object_pointers_in_encoder": 4,
        "memory_attention_hidden_size": 128,
        "memory_attention_num_layers": 1,
        "memory_attention_rope_feat_sizes": [4, 4],
        "memory_encoder_hidden_size": 128,
        "mask_downsampler_embed_dim": 128,
        "memory_fuser_embed_dim": 128,
        "memory_fuser_intermediate_dim": 32,
        "memory_fuser_num_layers": 1,
    }
    if kind == "sam2_video":
        return {**common, "memory_attention_feed_forward_hidden_size": 32}
    return {
        **common,
        "memory_attention_mlp_hidden_size": 32,
        "memory_attention_rope_k_sizes": [2, 2],
        "perceiver_resampler_num_latents": 4,
        "perceiver_resampler_num_latents_2d": 4,
        "perceiver_resampler_mlp_intermediate_size": 16,
        "perceiver_resampler_num_layers": 1,
    }


def detector_config(kind: str) -> dict[str, Any]:
    """Of Grounding DINO, its MM variant, OWL-ViT or OWLv2."""
    if kind.startswith("owl"):
        text = {**TOWER, "vocab_size": 300, "max_position_embeddings": 40, "bos_token_id": 1, "eos_token_id": 2}
        return {"model_type": kind, "projection_dim": 16, "text_config": text, "vision_config": SQUARE}
    swin = {**SWIN, "depths": [1, 1, 1], "num_heads": [2, 2, 2], "image_size": 64, "window_size": 3}
    return {
        "model_type": kind,
        "backbone_config": {"model_type": "swin", **swin, "out_indices": [1, 2, 3]},
        "text_config": {"model_type": "bert", **TOWER, "vocab_size": 1100, "max_position_embeddings": 64},
        "num_queries": 5,
        "d_model": 32,
        "encoder_layers": 1,
        "encoder_ffn_dim": 16,
        "encoder_attention_heads": 2,
        "decoder_layers": 2,
        "decoder_ffn_dim": 16,
        "decoder_attention_heads": 2,
        "num_feature_levels": 3,
        "max_text_len": 24,
    }
