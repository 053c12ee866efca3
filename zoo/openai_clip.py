"""OpenAI's CLIP files: "Learning Transferable Visual Models From Natural Language Supervision".

Radford et al., ICML 2021, arXiv:2103.00020. The released ``.pt`` files (TorchScript archives or state dicts) and
files of Text4Vis ("Revisiting Classifier: Transferring Vision-Language Models for Video Recognition", Wu, Sun and
Ouyang, AAAI 2023, arXiv:2207.01297) become state dicts of Transformers' CLIP models, which do the computing; the
configuration follows from the tensors' shapes. The ResNet towers, which Transformers lacks, keep their names and
are in `zoo.video.clip_resnet`.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .weights import read_state_dict

SCALARS = ("input_resolution", "context_length", "vocab_size")  # beside the weights in TorchScript archives
RESNET = "openai_clip_resnet"  # the `model_type` that the configuration of a ResNet tower gets here

TOP = {  # names outside the blocks
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.": "text_model.final_layer_norm.",
    "text_projection": "text_projection.weight",
    "logit_scale": "logit_scale",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.": "vision_model.pre_layrnorm.",
    "visual.ln_post.": "vision_model.post_layernorm.",
    "visual.proj": "visual_projection.weight",
}
BLOCK = {
    "attn.out_proj.": "self_attn.out_proj.",
    "ln_1.": "layer_norm1.",
    "ln_2.": "layer_norm2.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
}
TRANSPOSED = ("text_projection", "visual.proj")


def read_openai(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file of OpenAI's CLIP or of Text4Vis, in float32, with OpenAI's names.

    Args:
        path: a TorchScript archive, a state dict, or a training checkpoint with a `model_state_dict`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it holds neither an image nor a text tower of CLIP.
    """
    if _is_torchscript(Path(path)):
        state = dict(torch.jit.load(str(path), map_location="cpu").state_dict())
    else:
        state = read_state_dict(path)
    state = {k.removeprefix("module."): v for k, v in state.items()}
    state = {k: v.float() if v.is_floating_point() else v for k, v in state.items() if k not in SCALARS}
    if not {"visual.conv1.weight", "token_embedding.weight"} & state.keys():
        raise ValueError(
            f"{path} is no file of OpenAI's CLIP: it has neither visual.conv1.weight nor token_embedding.weight, "
            f"but {', '.join(sorted(state)[:3])}"
        )
    return state


def _is_torchscript(path: Path) -> bool:
    if not (path.is_file() and zipfile.is_zipfile(path)):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


# ---- configurations -------------------------------------------------------------------------------------


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    return len({m[1] for k in state if (m := re.match(pattern, k))})


def vision_config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Configuration of the image tower that a file holds, from the shapes of its tensors.

    Returns:
        Arguments of `CLIPVisionConfig`, or of `ModifiedResNet`; `model_type` tells them apart.

    Raises:
        ValueError: there is no image tower.
    """
    if "visual.conv1.weight" not in state:
        raise ValueError("this file holds CLIP's text tower alone, no image tower (visual.conv1.weight)")
    if "visual.layer1.0.conv1.weight" in state:
        width, positions = (
            state["visual.layer1.0.conv1.weight"].shape[0],
            state["visual.attnpool.positional_embedding"],
        )
        layers = [_count(state, rf"visual\.layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4)]
        return {
            "model_type": RESNET,
            "layers": layers,
            "width": width,
            "output_dim": state["visual.attnpool.c_proj.weight"].shape[0],
            "heads": width * 32 // 64,
            "image_size": 32 * round((positions.shape[0] - 1) ** 0.5),
        }
    width, _, patch, _ = state["visual.conv1.weight"].shape
    return {
        "model_type": "clip_vision_model",
        "hidden_size": width,
        "intermediate_size": state["visual.transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
        "num_hidden_layers": _count(state, r"visual\.transformer\.resblocks\.(\d+)\."),
        "num_attention_heads": width // 64,
        "patch_size": patch,
        "image_size": patch * round((state["visual.positional_embedding"].shape[0] - 1) ** 0.5),
        "projection_dim": state["visual.proj"].shape[1],
        "hidden_act": "quick_gelu",
    }


def text_config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of `CLIPTextConfig` for the text tower that a file holds, from the shapes of its tensors.

    Raises:
        ValueError: there is no text tower, as in files of Text4Vis.
    """
    if "token_embedding.weight" not in state:
        raise ValueError("this file holds CLIP's image tower alone, no text tower (token_embedding.weight)")
    vocabulary, width = state["token_embedding.weight"].shape
    return {
        "model_type": "clip_text_model",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": state["transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
        "num_hidden_layers": _count(state, r"transformer\.resblocks\.(\d+)\."),
        "num_attention_heads": width // 64,
        "max_position_embeddings": state["positional_embedding"].shape[0],
        "projection_dim": state["text_projection"].shape[1],
        "hidden_act": "quick_gelu",
        "bos_token_id": vocabulary - 2,  # the two last words of the vocabulary
        "eos_token_id": vocabulary - 1,
        "pad_token_id": 0,
    }


# ---- names ----------------------------------------------------------------------------------------------


def to_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From OpenAI's names to those of Transformers' `CLIPModel`.

    Names below ``fusion_model.`` (Text4Vis) are dropped, those of a ResNet tower stay as they are.

    Raises:
        ValueError: there are names of neither; lists them.
    """
    result: dict[str, Tensor] = {}
    unknown = []
    for key, value in state.items():
        block = re.fullmatch(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)", key)
        resnet = re.match(r"visual\.(attnpool|layer\d|conv[23]|bn\d)\.", key)
        if key.startswith("fusion_model."):
            continue
        if resnet or (key == "visual.conv1.weight" and "visual.layer1.0.conv1.weight" in state):
            result[key] = value
        elif block and (names := _block_names(block[3])):
            head = f"{'vision_model' if block[1] else 'text_model'}.encoder.layers.{block[2]}."
            result |= {head + name: part for name, part in zip(names, value.chunk(len(names)), strict=True)}
        elif old := next((k for k in TOP if key == k or (k.endswith(".") and key.startswith(k))), None):
            result[TOP[old] + key.removeprefix(old)] = value.T.contiguous() if key in TRANSPOSED else value
        else:
            unknown.append(key)
    if unknown:
        raise ValueError(
            f"{len(unknown)} names are not those of OpenAI's CLIP ({', '.join(sorted(unknown)[:3])}"
            f"{', ...' if len(unknown) > 3 else ''})"
        )
    return result


def _block_names(name: str) -> list[str]:
    """Names in Transformers of what one tensor of a block holds; the three input projections lie in one."""
    if name.startswith("attn.in_proj_"):
        return [f"self_attn.{part}_proj.{name.removeprefix('attn.in_proj_')}" for part in "qkv"]
    return [new + name.removeprefix(old) for old, new in BLOCK.items() if name.startswith(old)]


def vision_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The image tower alone, as `CLIPVisionModelWithProjection` or `ModifiedResNet` names it."""
    named = to_transformers(state)
    tower = {k: v for k, v in named.items() if k.startswith(("vision_model.", "visual_projection."))}
    return tower | {k.removeprefix("visual."): v for k, v in named.items() if k.startswith("visual.")}


def text_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The text tower alone, as `CLIPTextModelWithProjection` names it."""
    named = to_transformers(state)
    return {k: v for k, v in named.items() if k.startswith(("text_model.", "text_projection."))}
