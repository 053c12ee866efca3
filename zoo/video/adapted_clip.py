"""CLIP whose frames see each other: the global video encoder of GROVE.

CLIP: Radford et al., ICML 2021, arXiv:2103.00020. Adapters: Kazakos et al. ("GROVE"), ICCV 2025, arXiv:2503.10781.

Differs from GROVE's released program: adapters learn, as the paper says; there they stand behind a `no_grad` and
stay the identity. Patches keep their places; there 24 x 24 of them are folded as 16 x 36.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .. import hub
from ..adapters import Adapters, FrozenType, freeze_in, mixed
from ..weights import reproducible
from .base import VideoEncoder, VideoFeatures
from .options import adapted
from .preprocessor import FILES, frame_spec
from .published import CLIP_MEAN, CLIP_STD


class AdaptedCLIP(VideoEncoder):
    """CLIP's vision transformer on clips of T frames, with spatio-temporal adapters between its frozen layers.

    The grid holds the patches before the last layer, as language models like to see them; what comes after is
    taken out. The class token takes part in the layers, passes the adapters by and is left out at the end. The
    vector of a frame is the mean of its patches.

    Args:
        weights: a local folder, or a name on the Hub that is in the local cache; `random` and `checkpoint` need
            `config`.
        fps: frames per second.
        frames: T, frames per pass.
        size: side of the square input in pixels; None takes the weights' own. Positions are interpolated where it
            differs from what the model was built for.
        adapters: they follow every so many layers, from the first on; or the numbers of the layers; an empty list
            is plain CLIP.
        train: `adapters`, and the rest stays frozen; `all`; or `none`.
        dtype: of the frozen parts, which are computed with in it; adapters are float32.
        gradient_checkpointing: compute activations of the layers twice in training instead of keeping them.
        config: the contents of a ``config.json``, to build the network without files.
        preprocessor: the contents of a ``preprocessor_config.json`` (size, crop, mean and std); None reads the
            folder's, and takes CLIP's own where there is none.
        download: fetch `weights` from the Hub if they are not on this machine.

    Raises:
        ValueError: the weights are not on this machine, are not CLIP's or do not fit; the size is no multiple of a
            patch; there are no layers where adapters should be.
    """

    def __init__(
        self,
        weights: str | Path,
        fps: float = 5.0,
        frames: int = 8,
        size: int | None = None,
        adapters: int | list[int] = 3,
        train: Literal["adapters", "all", "none"] = "adapters",
        dtype: FrozenType = "float32",
        gradient_checkpointing: bool = False,
        config: dict[str, Any] | None = None,
        preprocessor: dict[str, Any] | None = None,
        download: bool = False,
    ) -> None:
        super().__init__()
        from transformers import CLIPVisionModel

        settings = hub.read_config(weights, config, download)
        settings = getattr(settings, "vision_config", settings)
        if settings.model_type != "clip_vision_model":
            raise ValueError(f"'{weights}' is a model of type {settings.model_type}, and not CLIP")
        depth = settings.num_hidden_layers - 1
        if isinstance(adapters, int):
            if adapters < 1:
                raise ValueError(f"adapters={adapters}: they follow every 1, 2, ... layers; [] has none")
            adapters = list(range(0, depth, adapters))
        if preprocessor is None and config is None:
            preprocessor = hub.read_json(weights, FILES, download)
        self.config, self.preprocessor = hub.plain_config(settings), preprocessor
        own, self.patch = settings.image_size, settings.patch_size
        spec = frame_spec(preprocessor, (own, own), CLIP_MEAN, CLIP_STD, True, fps, context=frames)
        self.spec = adapted(spec, size=size)
        assert self.spec.size is not None
        if any(side % self.patch for side in self.spec.size):
            raise ValueError(f"size={self.spec.size}: sides must be multiples of {self.patch}, the model's patch")
        self.interpolate = self.spec.size != (own, own)

        self.network = hub.build(CLIPVisionModel, settings, weights, download)
        del self.network.encoder.layers[-1]
        hub.drop(self.network, "post_layernorm")
        hub.checkpoint_activations(self.network, gradient_checkpointing)
        self.train_all = train == "all"
        freeze_in(self.network, dtype, self.network.parameters() if self.train_all else ())
        self.dim, self.dtype = settings.hidden_size, dtype
        self.grid = (self.spec.size[0] // self.patch, self.spec.size[1] // self.patch, self.dim)
        with reproducible():
            self.adapters = Adapters(self.dim, adapters, depth)
        self.trainable = self.train_all or (train == "adapters" and bool(adapters))
        self.freeze_unless_trainable()

    def learned_parameters(self) -> Iterable[nn.Parameter]:
        """The adapters, or all there is."""
        return self.parameters() if self.train_all else self.adapters.parameters()

    def rebuild_arguments(self) -> dict[str, Any]:
        """Configuration and preprocessor, which stand in for the files; see `Encoder.rebuild_arguments`."""
        kept = {"config": self.config, "preprocessor": self.preprocessor, "download": False}
        return super().rebuild_arguments() | kept

    def encode(self, clips: Tensor) -> VideoFeatures:
        """See `VideoEncoder.encode`; takes any number of frames.

        Returns:
            Patches ``(N, T, h, w, D)`` in the type of the adapters, and their mean ``(N, T, D)``.
        """
        N, T = clips.shape[:2]
        network, cells = self.network, tuple(side // self.patch for side in clips.shape[-2:])
        with mixed(self.dtype, clips.device):
            tokens = network.embeddings(clips.flatten(0, 1), interpolate_pos_encoding=self.interpolate)
            tokens = network.pre_layrnorm(tokens.to(network.pre_layrnorm.weight.dtype))
            for i, layer in enumerate(network.encoder.layers):
                tokens = layer(tokens, None)
                if str(i) in self.adapters:
                    patches = self.adapters.after(i, tokens[:, 1:].unflatten(1, cells), N)
                    tokens = torch.cat([tokens[:, :1], patches.flatten(1, 2)], dim=1)
        kind = next(self.adapters.parameters(), tokens).dtype
        grid = tokens[:, 1:].to(kind).unflatten(1, cells).unflatten(0, (N, T))
        return VideoFeatures(grid.mean((2, 3)), grid)
