"""Token layouts of Transformers' video models: which tokens stand for the clip, a time and a place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from .image_tokens import pair
from .published import HALF, IMAGENET_MEAN, IMAGENET_STD
from .spec import Triple


class Tokens(NamedTuple):
    """What one pass gives, T' = frames of the pass / frames of a tubelet.

    Attributes:
        clip: ``(N, D)``, the vector of the pass as the family has it.
        times: ``(N, T', D)``, one vector per tubelet.
        cells: ``(N, T', h, w, C)``, the patches.
    """

    clip: Tensor
    times: Tensor
    cells: Tensor


class Layout(NamedTuple):
    """How a configuration cuts its video.

    Attributes:
        frames: per pass.
        tubelet: frames of one token.
        size: height and width of the input, in pixels.
        patch: height and width of one token, in pixels.
    """

    frames: int
    tubelet: int
    size: tuple[int, int]
    patch: tuple[int, int]

    def fold(self, tokens: Tensor, x: Tensor, order: str = "t h w") -> Tensor:
        """Tokens ``(N, T' h w, C)`` in their `order` to cells ``(N, T', h, w, C)``."""
        rows, columns = x.shape[-2] // self.patch[0], x.shape[-1] // self.patch[1]
        return rearrange(tokens, f"n ({order}) c -> n t h w c", h=rows, w=columns)


Encode = Callable[[Any, Layout, Tensor], Tokens]  # network, layout, (N, L, 3, H, W)


def _videomae(network: Any, layout: Layout, x: Tensor) -> Tokens:
    """No class token; fine-tuned weights norm the mean, the others every token."""
    cells = layout.fold(network.videomae(x).last_hidden_state, x)
    norm = network.fc_norm if network.fc_norm is not None else torch.nn.Identity()
    return Tokens(norm(cells.mean((1, 2, 3))), norm(cells.mean((2, 3))), norm(cells))


def _timesformer(network: Any, layout: Layout, x: Tensor) -> Tokens:
    """Class token first, then place by place all times of it."""
    tokens = network(x).last_hidden_state
    cells = layout.fold(tokens[:, 1:], x, "h w t")
    return Tokens(tokens[:, 0], cells.mean((2, 3)), cells)


def _vivit(network: Any, layout: Layout, x: Tensor) -> Tokens:
    """Class token first, then time by time all places."""
    tokens = network(x).last_hidden_state
    cells = layout.fold(tokens[:, 1:], x)
    return Tokens(tokens[:, 0], cells.mean((2, 3)), cells)


def _xclip(network: Any, layout: Layout, x: Tensor) -> Tokens:
    """Frames go through an image tower that exchanges messages, and their class tokens through a transformer."""
    resized = tuple(x.shape[-2:]) != layout.size
    tower = network.vision_model
    tokens = tower(x.flatten(0, 1), interpolate_pos_encoding=resized).last_hidden_state
    tokens = network.visual_projection(tower.post_layernorm(tokens)).unflatten(0, x.shape[:2])
    times = network.mit(tokens[:, :, 0]).last_hidden_state
    return Tokens(times.mean(1), times, layout.fold(tokens[:, :, 1:].flatten(1, 2), x))


def _vjepa2(network: Any, layout: Layout, x: Tensor) -> Tokens:
    """No class token, normed already; the mean stands for the clip, since probes of it are trained per task."""
    cells = layout.fold(network.encoder(x).last_hidden_state, x)
    return Tokens(cells.mean((1, 2, 3)), cells.mean((2, 3)), cells)


@dataclass(frozen=True)
class Family:
    """What is special about a type of model.

    Attributes:
        network: name of the class in Transformers.
        encode: runs it and sorts its tokens.
        fps: of the frames it was trained on.
        frames: the configuration's name for frames per clip.
        size: the configuration's name for the input's size.
        mean: of RGB in [0, 1], where the weights' folder does not say.
        std: likewise.
        any_frames: positions are computed, so that another number of frames will do.
        any_size: likewise for the size, or the table is interpolated.
        unused: parts that features do not depend on.
        options: arguments of the class.
    """

    network: str
    encode: Encode
    fps: float
    frames: str = "num_frames"
    size: str = "image_size"
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    any_frames: bool = False
    any_size: bool = False
    unused: tuple[str, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()


XCLIP_TEXT = ("text_model", "text_projection", "logit_scale", "prompts_generator", "prompts_visual_layernorm")
FAMILIES = {
    "videomae": Family("VideoMAEForVideoClassification", _videomae, 7.5, any_frames=True),
    "timesformer": Family("TimesformerModel", _timesformer, 0.9375, mean=(0.45,) * 3, std=(0.225,) * 3),
    "vivit": Family("VivitModel", _vivit, 12.5, mean=HALF, std=HALF, options=(("add_pooling_layer", False),)),
    "xclip": Family("XCLIPModel", _xclip, 0.8, any_size=True, unused=(*XCLIP_TEXT, "prompts_visual_projection")),
    "vjepa2": Family(
        "VJEPA2Model",
        _vjepa2,
        4.0,
        "frames_per_clip",
        "crop_size",
        any_frames=True,
        any_size=True,
        unused=("predictor",),
    ),
}


def adapt_frames(settings: Any, family: Family, num_frames: int | None) -> Layout:
    """Change a configuration to the frames asked for, and say how it cuts its video."""
    inner = getattr(settings, "vision_config", settings)
    frames = getattr(inner, family.frames)
    if num_frames not in (None, frames):
        if not family.any_frames:
            raise ValueError(f"num_frames={num_frames}: this model was trained on {frames} and takes no others")
        setattr(inner, family.frames, num_frames)
    if getattr(inner, "attention_type", "") == "space_only":
        raise ValueError("this TimeSformer sees frames alone (attention_type: space_only), not a video")
    if settings.model_type == "videomae":
        settings.num_labels = 0  # no head
    tubelet = getattr(inner, "tubelet_size", 1)
    tubelet, patch = (
        (tubelet[0], tuple(tubelet[1:])) if not isinstance(tubelet, int) else (tubelet, inner.patch_size)
    )
    frames = getattr(inner, family.frames)
    if frames < tubelet or frames % tubelet:
        raise ValueError(f"num_frames={frames} is not a multiple of {tubelet}, the frames of one token")
    return Layout(frames, tubelet, pair(getattr(inner, family.size)), pair(patch))
