"""Image models of Transformers, frame by frame: CLIP, SigLIP, SigLIP 2, DINOv2, DINOv3, Swin, ViT and others.

CLIP (Radford et al., ICML 2021, arXiv:2103.00020), SigLIP (Zhai et al., ICCV 2023, arXiv:2303.15343), SigLIP 2
(Tschannen et al., arXiv:2502.14786), DINOv2 (Oquab et al., TMLR 2024, arXiv:2304.07193), DINOv3 (Simeoni et al.,
arXiv:2508.10104), Swin (Liu et al., ICCV 2021, arXiv:2103.14030), ViT (Dosovitskiy et al., ICLR 2021,
arXiv:2010.11929). Also files of OpenAI's CLIP, ResNet towers among them, and of Text4Vis.

Differs from the models' processors: every resize is bicubic. SigLIP 2 with native aspect ratios ("naflex") sees
squares, without padding.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import hub
from ..openai_clip import RESNET, read_openai, vision_config, vision_state
from ..weights import CHECKPOINT, load_state, load_weights, reproducible
from .base import VideoEncoder, VideoFeatures
from .clip_resnet import ModifiedResNet
from .image_tokens import FAMILIES, OTHER, Family, pair
from .options import adapted
from .preprocessor import FILES, frame_spec


class ImageModel(VideoEncoder):
    """Any image model of Transformers on single frames: one vector per frame, and its patches as grid.

    The vector is what the family itself takes for the picture: CLIP's projected class token, SigLIP's attention
    pooling, the class token after the last norm (DINOv2, DINOv3, ViT), the mean (Swin). Patches pass through the
    same norm and projection; registers are left out.

    Args:
        weights: a local folder, a name on the Hub that is in the local cache, or a file of OpenAI's CLIP or of
            Text4Vis; `random` and `checkpoint` need `config`.
        fps: frames per second to look at.
        size: side of the square input in pixels; None takes the weights' own. Position tables are interpolated
            where it differs from what the model was built for.
        config: the contents of a ``config.json``, to build the network without files.
        preprocessor: the contents of a ``preprocessor_config.json`` (size, crop, mean and std); None reads the
            folder's, and takes what is usual for the type of model where there is none.
        download: fetch `weights` from the Hub if they are not on this machine.
        trainable: whether a task may train it.
        gradient_checkpointing: compute activations twice in training instead of keeping them.

    Raises:
        FileNotFoundError: a file that does not exist.
        ValueError: the weights are not on this machine or do not fit, or the size is no multiple of a patch.
    """

    def __init__(
        self,
        weights: str | Path,
        fps: float = 2.0,
        size: int | None = None,
        config: dict[str, Any] | None = None,
        preprocessor: dict[str, Any] | None = None,
        download: bool = False,
        trainable: bool = False,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__(trainable)
        if config is None and hub.is_weight_file(weights):
            state = read_openai(weights)
            config = vision_config(state)
            self.family, self.network, own_size = _build(config, CHECKPOINT, False, gradient_checkpointing)
            load_state(self.network, vision_state(state), weights)
        else:
            self.family, self.network, own_size = _build(config, weights, download, gradient_checkpointing)
            if preprocessor is None and config is None:
                preprocessor = hub.read_json(weights, FILES, download)
        self.config = config if self.family.network == "ModifiedResNet" else hub.plain_config(self.network.config)
        self.preprocessor = preprocessor
        spec = frame_spec(preprocessor, own_size, self.family.mean, self.family.std, self.family.crop, fps)
        self.spec = adapted(spec, size=size)
        self._measure()
        self.freeze_unless_trainable()

    def _measure(self) -> None:
        """Find width and grid by a look at nothing."""
        assert self.spec.size is not None
        patch = self.family.multiple or pair(getattr(self.network.config, "patch_size", 1))[0]
        if any(side % patch for side in self.spec.size):
            raise ValueError(f"size={self.spec.size}: sides must be multiples of {patch}, the model's patch")
        self.network.eval()
        first = next(self.network.parameters())
        with torch.no_grad():
            vectors, cells = self.family.encode(
                self.network, torch.zeros(1, 3, *self.spec.size, device=first.device)
            )
        self.dim = vectors.shape[1]
        self.grid = (cells.shape[1], cells.shape[2], cells.shape[3])

    def rebuild_arguments(self) -> dict[str, Any]:
        """Configuration and preprocessor, which stand in for the files; see `Encoder.rebuild_arguments`."""
        kept = {"config": self.config, "preprocessor": self.preprocessor, "download": False}
        return super().rebuild_arguments() | kept

    def encode(self, clips: Tensor) -> VideoFeatures:
        """See `VideoEncoder.encode`; one frame and one unit per pass."""
        vectors, cells = self.family.encode(self.network, clips[:, 0])
        return VideoFeatures(vectors[:, None], cells[:, None])


def _build(
    config: dict[str, Any] | None, weights: str | Path, download: bool, checkpointing: bool
) -> tuple[Family, Any, tuple[int, int]]:
    """Family, network and its own input size."""
    if config is not None and config.get("model_type") == RESNET:
        arguments = {k: v for k, v in config.items() if k != "model_type"}
        with reproducible():
            resnet = ModifiedResNet(**arguments, gradient_checkpointing=checkpointing)
        load_weights(resnet, weights)
        return FAMILIES[RESNET], resnet, pair(config["image_size"])

    import transformers

    settings = hub.read_config(weights, config, download)
    if hasattr(settings, "vision_config"):  # the image tower of a model of two
        joint = getattr(settings, "projection_dim", None)
        settings = settings.vision_config
        if joint is not None:
            settings.projection_dim = joint
    family = FAMILIES.get(settings.model_type, OTHER)
    kind = getattr(transformers, family.network)
    if family is OTHER:
        kind = transformers.MODEL_MAPPING.get(type(settings), None)
        if kind is None or hasattr(settings, "vocab_size"):
            raise ValueError(f"'{weights}' is a model of type {settings.model_type}, which encodes no pictures")
    options = {}
    if not family.pooled and "add_pooling_layer" in inspect.signature(kind).parameters:
        options["add_pooling_layer"] = False
    network = hub.build(kind, settings, weights, download, **options)
    hub.checkpoint_activations(network, checkpointing)
    if hasattr(network, "embeddings"):
        hub.drop(network, "embeddings.mask_token")  # of pre-training
    if not hasattr(settings, "image_size") and hasattr(settings, "num_patches"):  # SigLIP 2
        side = round(settings.num_patches**0.5) * settings.patch_size
        return family, network, (side, side)
    return family, network, pair(getattr(settings, "image_size", 224))
