"""CLIP's image encoder (Radford et al., ICML 2021), frame by frame, through Transformers."""

from __future__ import annotations

import logging
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .base import FrameSpec, VideoEncoder, VideoFeatures

log = logging.getLogger(__name__)
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class CLIPFrames(VideoEncoder):
    """CLIP's image tower on single frames: the projected image vector, and the projected patches as grid.

    Args:
        weights: a local folder, or a name on the Hub that is already in the local cache.
        fps: frames per second to look at.
        trainable: whether a task may train it.
        download: fetch `weights` from the Hub if they are not on this machine.
        config: build the network from this configuration (as in ``config.json``'s ``vision_config``) without
            weights; they are loaded from a checkpoint afterwards.

    Raises:
        ValueError: neither weights nor a configuration, or the weights are not on this machine.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        weights: str | None = None,
        fps: float = 2.0,
        trainable: bool = False,
        download: bool = False,
        config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(trainable)
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

        if config is not None:
            self.clip = CLIPVisionModelWithProjection(CLIPVisionConfig(**config))
        elif weights is not None:
            if download:
                log.info("CLIP weights '%s' are downloaded from the Hub unless they are here already", weights)
            try:
                self.clip = CLIPVisionModelWithProjection.from_pretrained(weights, local_files_only=not download)
            except OSError as error:
                raise ValueError(
                    f"CLIP weights '{weights}' are not on this machine: give a local folder, or set "
                    "`download: true` to fetch them from the Hub"
                ) from error
        else:
            raise ValueError("CLIPFrames needs `weights` (a local folder or a Hub name)")
        side = self.clip.config.image_size
        self.dim = int(self.clip.config.projection_dim)
        self.spec = FrameSpec(fps=fps, window=1, stride=1, size=(side, side))
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)
        self.freeze_unless_trainable()

    def rebuild_arguments(self) -> dict[str, Any]:
        """Arguments that rebuild the network without its weights' files; see `VideoEncoder`."""
        return {"config": self.clip.config.to_dict()}

    def forward(self, frames: Tensor) -> VideoFeatures:
        """See `VideoEncoder.forward`; T' = T and the grid has one cell per patch."""
        B = frames.shape[0]
        x = frames.flatten(0, 1)
        x = x.float() / 255 if x.dtype == torch.uint8 else x
        if x.shape[-2:] != self.spec.size:
            x = F.interpolate(x, self.spec.size, mode="bicubic", antialias=True).clamp(0, 1)
        with torch.set_grad_enabled(self.trainable and torch.is_grad_enabled()):
            out = self.clip((x - self.mean) / self.std)
            patches = self.clip.vision_model.post_layernorm(out.last_hidden_state[:, 1:])
            cells = self.clip.visual_projection(patches)
        side = int(cells.shape[1] ** 0.5)
        grid = rearrange(cells, "(b t) (h w) d -> b t h w d", b=B, h=side)
        return VideoFeatures(rearrange(out.image_embeds, "(b t) d -> b t d", b=B), grid)
