"""Encoders, language models, trackers and detectors as small as they get, for runs through the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tiny_models

VIDEO_MODELS = {  # by what the weights' names on the Hub hold
    "videomae": ("videomae", "VideoMAEForVideoClassification"),
    "timesformer": ("timesformer", "TimesformerModel"),
    "vivit": ("vivit", "VivitModel"),
    "xclip": ("xclip", "XCLIPModel"),
    "vjepa2": ("vjepa2", "VJEPA2Model"),
}
IMAGE_MODELS = {
    "clip": ("clip_vision_model", "CLIPVisionModelWithProjection"),
    "text4vis": ("clip_vision_model", "CLIPVisionModelWithProjection"),
    "siglip2": ("siglip_vision_model", "SiglipVisionModel"),
    "dinov2": ("dinov2", "Dinov2Model"),
    "swin": ("swin", "SwinModel"),
}
SWIN = {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": [2, 3, 3]}
SAM = {
    "model_type": "sam_vision_model",
    **{"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "mlp_dim": 32, "image_size": 64},
    **{"patch_size": 8, "output_channels": 16, "window_size": 2, "global_attn_indexes": [1]},
}
DECODER = {
    "model_type": "sam",
    "mask_decoder_config": {**tiny_models.TOWER, "mlp_dim": 32, "iou_head_hidden_dim": 8},
}
LLAMA = {"model_type": "llama", **tiny_models.TOWER, "max_position_embeddings": 1024}
SMALL: dict[str, dict[str, Any]] = {
    "R2Plus1D": {"layers": [1, 1, 1, 1], "width": 2, "size": 32},
    "C3D": {"width": 2, "hidden": 8, "size": 48},
    "VGG16": {"width": 2, "hidden": 8, "size": 32},
    "I3D": {"width": 8, "size": 32, "window": 9},
    "S3DG": {"width": 8, "joint_dim": 16, "size": 32, "window": 8},
    "VideoSwin": {**SWIN, "size": 32, "num_frames": 8},
    "AdaptedCLIP": {"config": {**tiny_models.config("clip_vision_model"), "num_hidden_layers": 3}},
    "AdaptedSAM": {"config": SAM, "size": 32},
    "VGGish": {"width": 4, "hidden": 16},
    "DAVEnet": {"width": 2},
    "BoxDecoder": {"config": DECODER},
    "LanguageModel": {"tokenizer": "words", "config": LLAMA},
    "MILNCEText": {"word_dim": 5, "layer_dim": 6, "dim": 4},
}


def shrink(encoder: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Settings that make an encoder, a tracker or a detector tiny and give it random weights.

    Args:
        encoder: ``{"class_path": ..., "init_args": ...}`` of a configuration.
        folder: where files may be put that the settings name.
    """
    name, weights = encoder["class_path"].split(".")[-1], str(encoder.get("init_args", {}).get("weights", ""))
    folder.mkdir(parents=True, exist_ok=True)
    if name in ("ImageModel", "VideoModel"):
        kinds = IMAGE_MODELS if name == "ImageModel" else VIDEO_MODELS
        made = next(names for kind, names in kinds.items() if kind in weights)
        return {"weights": str(tiny_models.save(folder, *made)), "preprocessor": None}
    if name == "CLIPText":
        tiny_models.clip_tokenizer().save_pretrained(folder)
        text = {**tiny_models.TOWER, "vocab_size": 196, "eos_token_id": 195, "projection_dim": 12}
        return {"weights": str(tiny_models.save(folder, "clip_text_model", "CLIPTextModelWithProjection", **text))}
    if name == "TransformerText":
        tiny_models.bert_tokenizer().save_pretrained(folder)
        return {"weights": str(tiny_models.save(folder, "bert", "BertModel", vocab_size=30, **tiny_models.TOWER))}
    if name == "WordLSTM":
        return {"embedding_dim": 8, "hidden_dim": 8, "embeddings": None}
    if name == "Combined":
        parts = encoder["init_args"]["encoders"]
        small = [shrink(part, folder / str(k)) for k, part in enumerate(parts)]
        return {"encoders": [p | {"init_args": p["init_args"] | s} for p, s in zip(parts, small, strict=True)]}
    if name == "Sam2Tracker":
        return {"weights": "random", "config": tiny_models.tracker_config("sam2_video")}
    if name == "ZeroShotDetector":
        tiny_models.bert_tokenizer().save_pretrained(folder)
        config = tiny_models.detector_config("grounding-dino")
        return {"weights": "random", "config": config, "tokenizer": str(folder), "size": 64}
    if name not in SMALL:
        return {}
    if name == "MILNCEText":
        np.save(folder / "dict.npy", np.array(["red", "circle", "moves", "jumps", "the"]))
        return SMALL[name] | {"weights": "random", "dictionary": str(folder / "dict.npy")}
    return SMALL[name] | {"weights": "random"}
