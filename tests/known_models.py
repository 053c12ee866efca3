"""Configurations and preprocessors of well-known weights on the Hub, from their model cards and papers."""

from __future__ import annotations

from typing import Any

CLIP = {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True}
SQUARE = {"size": {"height": 224, "width": 224}}
B = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
L = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}

IMAGE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "openai/clip-vit-base-patch32": ({"model_type": "clip_vision_model", **B, "patch_size": 32}, CLIP),
    "openai/clip-vit-base-patch16": ({"model_type": "clip_vision_model", **B, "patch_size": 16}, CLIP),
    "openai/clip-vit-large-patch14": (
        {"model_type": "clip_vision_model", **L, "patch_size": 14, "projection_dim": 768},
        CLIP,
    ),
    "google/siglip2-base-patch16-224": ({"model_type": "siglip_vision_model", **B, "patch_size": 16}, SQUARE),
    "facebook/dinov2-base": (
        {"model_type": "dinov2", "hidden_size": 768, "num_hidden_layers": 12, "image_size": 518, "patch_size": 14},
        {**CLIP, "size": {"shortest_edge": 256}},
    ),
    "facebook/dinov3-vitb16-pretrain-lvd1689m": (
        {"model_type": "dinov3_vit", **B, "patch_size": 16, "num_register_tokens": 4},
        SQUARE,
    ),
    "microsoft/swin-base-patch4-window7-224": (
        {"model_type": "swin", "embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32]},
        SQUARE,
    ),
}
VIDEO: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "MCG-NJU/videomae-base": ({"model_type": "videomae", **B, "use_mean_pooling": False}, CLIP),
    "facebook/timesformer-base-finetuned-k400": ({"model_type": "timesformer", **B, "num_frames": 8}, CLIP),
    "google/vivit-b-16x2-kinetics400": (
        {"model_type": "vivit", **B, "num_frames": 32, "tubelet_size": [2, 16, 16]},
        {**CLIP, "size": {"shortest_edge": 256}, "offset": True, "rescale_factor": 1 / 127.5},
    ),
    "microsoft/xclip-base-patch32": (
        {"model_type": "xclip", "projection_dim": 512, "vision_config": {**B, "patch_size": 32, "num_frames": 8}},
        CLIP,
    ),
    "facebook/vjepa2-vitl-fpc64-256": (
        {"model_type": "vjepa2", "frames_per_clip": 64, "crop_size": 256},
        {"size": {"shortest_edge": 292}, "crop_size": {"height": 256, "width": 256}, "do_center_crop": True},
    ),
}
