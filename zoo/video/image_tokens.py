"""Token layouts of Transformers' image models: which tokens are the picture and which are its patches."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ..openai_clip import RESNET
from .published import CLIP_MEAN, CLIP_STD, HALF, IMAGENET_MEAN, IMAGENET_STD
from .spec import Triple

Encode = Callable[[Any, Tensor], tuple[Tensor, Tensor]]  # network, (N, 3, H, W) -> (N, D), (N, h, w, C)


def pair(value: Any) -> tuple[int, int]:
    """A size that configurations give as one number or as two."""
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _run(network: Any, x: Tensor) -> Any:
    """The network's output; its position table is interpolated only where the size is not its own."""
    wanted: dict[str, bool] = {}
    if "interpolate_pos_encoding" in inspect.signature(network.forward).parameters:
        wanted = {"interpolate_pos_encoding": pair(network.config.image_size) != tuple(x.shape[-2:])}
    return network(x, **wanted)


def _folded(tokens: Tensor, network: Any, x: Tensor) -> Tensor:
    rows = x.shape[-2] // pair(network.config.patch_size)[0]
    return rearrange(tokens, "n (h w) c -> n h w c", h=rows)


def _clip(network: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    out = _run(network, x)
    patches = network.vision_model.post_layernorm(
        out.last_hidden_state[:, 1:]
    )  # the model norms its class token only
    return out.image_embeds, _folded(network.visual_projection(patches), network, x)


def _pooled(out: Any) -> Tensor:
    vector: Tensor = out.last_hidden_state.mean(1) if out.pooler_output is None else out.pooler_output
    return vector


def _siglip(network: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    out = _run(network, x)
    return _pooled(out), _folded(out.last_hidden_state, network, x)


def _siglip2(network: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """The network takes patches that are cut already, row by row, colour fastest."""
    size = network.config.patch_size
    patches = rearrange(x, "n c (h p) (w q) -> n (h w) (p q c)", p=size, q=size)
    h, w = (side // size for side in x.shape[-2:])
    shapes = torch.tensor([[h, w]], device="cpu").expand(len(x), 2)  # read one by one: never from an accelerator
    mask = torch.ones(patches.shape[:2], dtype=torch.int64, device=x.device)
    out = network(patches, pixel_attention_mask=mask, spatial_shapes=shapes)
    return _pooled(out), _folded(out.last_hidden_state, network, x)


def _class_token(network: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """A class token first, then registers, then the patches."""
    tokens = _run(network, x).last_hidden_state
    first = 1 + getattr(network.config, "num_register_tokens", 0)
    return tokens[:, 0], _folded(tokens[:, first:], network, x)


def _swin(network: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    out = _run(network, x)
    rows = -(-x.shape[-2] // pair(network.config.patch_size)[0])
    for _ in network.config.depths[1:]:  # merging fills up to even numbers
        rows = -(-rows // 2)
    return out.pooler_output, rearrange(out.last_hidden_state, "n (h w) c -> n h w c", h=rows)


def _any(network: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Maps ``(N, C, h, w)``, or tokens of which the last are the patches."""
    out = _run(network, x)
    tokens = out.last_hidden_state
    if tokens.ndim == 4:
        pooled = getattr(out, "pooler_output", None)
        vector = tokens.mean((2, 3)) if pooled is None else pooled.flatten(1)
        return vector, rearrange(tokens, "n c h w -> n h w c")
    patch = pair(network.config.patch_size)
    first = tokens.shape[1] - (x.shape[-2] // patch[0]) * (x.shape[-1] // patch[1])
    vector = tokens[:, 0] if first else tokens.mean(1)
    return vector, _folded(tokens[:, first:], network, x)


def _resnet(network: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    out: tuple[Tensor, Tensor] = network(x)
    return out


@dataclass(frozen=True)
class Family:
    """What is special about a type of model.

    Attributes:
        network: name of the class in Transformers.
        encode: runs it and sorts its tokens.
        mean: of RGB in [0, 1], where the weights' folder does not say.
        std: likewise.
        crop: where the folder does not say, the shorter side is resized and the middle cut out.
        multiple: what the sides of the input are multiples of; None takes the configuration's `patch_size`.
        pooled: keep the class's pooling layer; the poolers of the others belong to a task of pre-training.
    """

    network: str
    encode: Encode
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    crop: bool = False
    multiple: int | None = None
    pooled: bool = False


FAMILIES = {
    "clip_vision_model": Family("CLIPVisionModelWithProjection", _clip, CLIP_MEAN, CLIP_STD, crop=True),
    "siglip_vision_model": Family("SiglipVisionModel", _siglip, HALF, HALF),
    "siglip2_vision_model": Family("Siglip2VisionModel", _siglip2, HALF, HALF),
    "dinov2": Family("Dinov2Model", _class_token, crop=True),
    "dinov2_with_registers": Family("Dinov2WithRegistersModel", _class_token, crop=True),
    "dinov3_vit": Family("DINOv3ViTModel", _class_token),
    "vit": Family("ViTModel", _class_token, HALF, HALF),
    "swin": Family("SwinModel", _swin, multiple=1, pooled=True),
    "swinv2": Family("Swinv2Model", _swin, multiple=1, pooled=True),
    RESNET: Family("ModifiedResNet", _resnet, CLIP_MEAN, CLIP_STD, crop=True, multiple=32),
}
OTHER = Family("AutoModel", _any)
