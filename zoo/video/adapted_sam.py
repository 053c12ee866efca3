"""The image encoder of Segment Anything whose frames see each other: the grounding video encoder of GROVE.

Segment Anything: Kirillov et al., ICCV 2023, arXiv:2304.02643. Adapters and the smaller input: Kazakos et al.
("GROVE"), ICCV 2025, arXiv:2503.10781.

Differs from the models' own processing: frames are resized bicubically, and what is filled up has the mean colour
rounded to bytes, where they put zeros after normalisation.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from .. import hub
from ..adapters import Adapters, FrozenType, freeze_in, mixed
from ..weights import reproducible
from .base import VideoEncoder, VideoFeatures
from .published import IMAGENET_MEAN, IMAGENET_STD
from .spec import FrameSpec


class AdaptedSAM(VideoEncoder):
    """SAM's image encoder on clips of T frames, with spatio-temporal adapters between its frozen layers.

    Frames keep their shape: the longer side becomes `size`, the rest, right and below, is filled up. Where `size`
    is not that of the weights, position tables are resized, and the resized ones learn with the adapters: the
    absolute table and those of relative positions in the layers whose attention is global. Windows keep theirs.
    The vector of a frame is the mean of its cells.

    Args:
        weights: a local folder of a SAM model, or a name on the Hub that is in the local cache; `random` and
            `checkpoint` need `config`.
        fps: frames per second.
        frames: T, frames per pass.
        size: side of the square input in pixels; None takes the weights' own.
        adapters: numbers of the layers that they follow; None takes those of global attention, an empty list is
            plain SAM.
        train: `adapters` and resized position tables, and the rest stays frozen; `all`; or `none`.
        dtype: of the frozen parts, which are computed with in it; what learns is float32.
        gradient_checkpointing: compute activations of the layers twice in training instead of keeping them.
        config: the contents of a ``config.json``, to build the network without files. For `random`, mind that
            `initializer_range` of SAM is 1e-10 where the configuration does not say otherwise.
        download: fetch `weights` from the Hub if they are not on this machine.

    Raises:
        ValueError: the weights are not on this machine, are not SAM's or do not fit; the size is no multiple of a
            patch; there are no layers where adapters should be.
    """

    def __init__(
        self,
        weights: str | Path,
        fps: float = 5.0,
        frames: int = 8,
        size: int | None = 512,
        adapters: list[int] | None = None,
        train: Literal["adapters", "all", "none"] = "adapters",
        dtype: FrozenType = "float32",
        gradient_checkpointing: bool = False,
        config: dict[str, Any] | None = None,
        download: bool = False,
    ) -> None:
        super().__init__()
        from transformers import SamVisionModel

        settings = hub.read_config(weights, config, download)
        settings = getattr(settings, "vision_config", settings)
        if settings.model_type != "sam_vision_model":
            raise ValueError(f"'{weights}' is a model of type {settings.model_type}, and not SAM")
        self.config, patch = hub.plain_config(settings), settings.patch_size
        size = settings.image_size if size is None else size
        if size % patch:
            raise ValueError(f"size={size}: sides must be multiples of {patch}, the model's patch")
        self.spec = FrameSpec(
            fps, 1, 1, (size, size), context=frames, mean=IMAGENET_MEAN, std=IMAGENET_STD, pad=True
        )
        self.network = hub.build(SamVisionModel, settings, weights, download).vision_encoder
        hub.checkpoint_activations(self.network, gradient_checkpointing)
        self.resized = [] if size == self.config["image_size"] else _resize_tables(self.network, size // patch)
        self.train_all = train == "all"
        freeze_in(self.network, dtype, self.network.parameters() if self.train_all else self._tables())
        self.dim, self.dtype = settings.output_channels, dtype
        self.grid = (size // patch, size // patch, self.dim)
        if adapters is None:
            adapters = list(settings.global_attn_indexes)
        with reproducible():
            self.adapters = Adapters(settings.hidden_size, adapters, settings.num_hidden_layers)
        self.trainable = self.train_all or (train == "adapters" and bool(self.resized or adapters))
        self.freeze_unless_trainable()

    def _tables(self) -> list[nn.Parameter]:
        return [self.network.get_parameter(name) for name in self.resized]

    def learned_parameters(self) -> Iterable[nn.Parameter]:
        """Adapters and resized position tables, or all there is."""
        if self.train_all:
            return self.parameters()
        return [*self.adapters.parameters(), *self._tables()]

    def rebuild_arguments(self) -> dict[str, Any]:
        """The configuration of the weights, before resizing; see `Encoder.rebuild_arguments`."""
        return super().rebuild_arguments() | {"config": self.config, "download": False}

    def encode(self, clips: Tensor) -> VideoFeatures:
        """See `VideoEncoder.encode`; takes any number of frames.

        Returns:
            Cells after the neck ``(N, T, h, w, D)`` in the type of what learns, and their mean ``(N, T, D)``.
        """
        N, T = clips.shape[:2]
        network = self.network
        with mixed(self.dtype, clips.device):
            cells = network.patch_embed(clips.flatten(0, 1))
            if network.pos_embed is not None:
                cells = cells + network.pos_embed.to(cells.dtype)
            for i, layer in enumerate(network.layers):
                cells = self.adapters.after(i, layer(cells), N)
            cells = network.neck(cells)
        kind = next(iter(self.learned_parameters()), cells).dtype
        grid = cells.to(kind).permute(0, 2, 3, 1).unflatten(0, (N, T))
        return VideoFeatures(grid.mean((2, 3)), grid)


def _resize_tables(network: Any, side: int) -> list[str]:
    """Make a SAM encoder see `side` x `side` patches; returns the names of the new position tables."""
    pixels = side * network.config.patch_size
    network.image_size = network.config.image_size = pixels
    network.patch_embed.image_size = (pixels, pixels)
    names = []
    if network.pos_embed is not None:
        table = network.pos_embed.detach().permute(0, 3, 1, 2)
        table = F.interpolate(table, (side, side), mode="bicubic", align_corners=False)
        network.pos_embed = nn.Parameter(table.permute(0, 2, 3, 1).contiguous())
        names.append("pos_embed")
    for i, layer in enumerate(network.layers):
        if layer.window_size or not layer.attn.use_rel_pos:
            continue
        for name in ("rel_pos_h", "rel_pos_w"):
            along = getattr(layer.attn, name).detach().T[None, :, None]  # (1, C, 1, 2 * old side - 1)
            along = F.interpolate(along, (1, 2 * side - 1), mode="bicubic", align_corners=True)
            setattr(layer.attn, name, nn.Parameter(along[0, :, 0].T.contiguous()))
            names.append(f"layers.{i}.attn.{name}")
    return names
