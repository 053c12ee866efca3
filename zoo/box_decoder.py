"""SAM's mask decoder turned into one of boxes, as in GROVE.

Segment Anything: Kirillov et al., ICCV 2023, arXiv:2304.02643. Box and objectness heads: Kazakos et al. ("GROVE"),
ICCV 2025, arXiv:2503.10781.

Each phrase looks at each frame on its own: its query stands beside SAM's own output tokens (which take part,
though nothing is read from them), and the two-way transformer lets these tokens and the cells of the frame look at
each other. What becomes of the query goes to the heads. Parts that masks are made with are taken out.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from . import hub
from .encoder import Encoder
from .weights import CHECKPOINT, reproducible

EPS = 1e-5  # of the layer norms in SAM's own program; Transformers has 1e-6


class FoundBoxes(NamedTuple):
    """What the decoder answers about N phrases in T frames.

    Attributes:
        boxes: ``(N, T, 4)`` float32, cx, cy, w, h in [0, 1], shares of the frame as it was before padding.
        logits: ``(N, T)`` float32, of being visible; None without that head.
        visible: ``(N, T)`` float32, probabilities of being visible; 1 without that head.
    """

    boxes: Tensor
    logits: Tensor | None
    visible: Tensor


class BoxDecoder(Encoder):
    """A box for every phrase in every frame, and whether it is to be seen there.

    Args:
        weights: a local folder of a SAM model, or a name on the Hub that is in the local cache; `random` and
            `checkpoint` need `config`. The heads start from random numbers.
        objectness: whether there is a head for being visible.
        train: `all`; or `heads`, and what is SAM's stays frozen. Position encoding and the "no mask" embedding
            never learn.
        pairs: most pairs of a phrase and a frame that are computed together; each needs a copy of its frame.
        config: the contents of a SAM model's ``config.json``, to build the network without files; only its
            `mask_decoder_config` matters.
        download: fetch `weights` from the Hub if they are not on this machine.

    Attributes:
        dim: width C of queries and cells.
        positions: ``(2, C / 2)`` frequencies of the position encoding.
        no_mask: ``(C,)`` what SAM adds to every cell where no mask is given.

    Raises:
        ValueError: the weights are not on this machine, are not SAM's or do not fit.
    """

    positions: Tensor
    no_mask: Tensor

    def __init__(
        self,
        weights: str | Path,
        objectness: bool = True,
        train: Literal["all", "heads"] = "all",
        pairs: int = 256,
        config: dict[str, Any] | None = None,
        download: bool = False,
    ) -> None:
        super().__init__(trainable=True)
        settings = hub.read_config(weights, config, download)
        if settings.model_type != "sam":
            raise ValueError(f"'{weights}' is a model of type {settings.model_type}, and not SAM")
        if pairs < 1:
            raise ValueError(f"pairs={pairs}: at least one pair is computed at a time")
        self.config = {"model_type": "sam", "mask_decoder_config": hub.plain_config(settings.mask_decoder_config)}
        self.dim: int = settings.mask_decoder_config.hidden_size
        self.train_only, self.pairs = train, pairs
        network = _without_encoder(settings, weights, download)
        self.transformer = network.mask_decoder.transformer
        self.iou_token, self.mask_tokens = network.mask_decoder.iou_token, network.mask_decoder.mask_tokens
        frequencies = network.shared_image_embedding.positional_embedding
        self.register_buffer("positions", frequencies.detach().clone())
        self.register_buffer("no_mask", network.prompt_encoder.no_mask_embed.weight.detach()[0].clone())
        with reproducible():
            self.box_head = nn.Sequential(nn.Linear(self.dim, self.dim), nn.ReLU(), nn.Linear(self.dim, 4))
            self.objectness_head = nn.Linear(self.dim, 1) if objectness else None
        self.freeze_unless_trainable()

    def learned_parameters(self) -> Iterable[nn.Parameter]:
        """All, or those of the heads."""
        if self.train_only == "all":
            return self.parameters()
        return [p for name, p in self.named_parameters() if "_head." in name]

    def rebuild_arguments(self) -> dict[str, Any]:
        """The configuration, which stands in for the files; see `Encoder.rebuild_arguments`."""
        return {"weights": CHECKPOINT, "config": self.config, "download": False}

    def position_encoding(self, height: int, width: int) -> Tensor:
        """Where each cell is, ``(1, C, height, width)``: sine and cosine of random directions over the frame."""
        places = [(torch.arange(n, device=self.positions.device) + 0.5) / n for n in (height, width)]
        y, x = torch.meshgrid(*places, indexing="ij")
        angles = 2 * torch.pi * ((2 * torch.stack([x, y], dim=-1) - 1) @ self.positions.float())
        return torch.cat([angles.sin(), angles.cos()], dim=-1).permute(2, 0, 1)[None]

    def forward(self, queries: Tensor, image: Tensor, clip: Tensor) -> FoundBoxes:
        """Look for N phrases in the frames of their clips.

        Args:
            queries: ``(N, C)``.
            image: ``(B, T, h, w, C)`` cells of B clips.
            clip: ``(N,)`` int64, clip of each phrase. A phrase's answer does not depend on the others.
        """
        N, T = len(queries), image.shape[1]
        if N == 0:  # one that nobody asked for, taken out below: every parameter has a gradient in every step
            queries, clip = torch.cat([queries, queries.new_zeros(1, self.dim)]), clip.new_zeros(1)
        cells = image.flatten(0, 1)
        phrase = torch.arange(len(queries), device=clip.device).repeat_interleave(T)
        frame = (clip[:, None] * T + torch.arange(T, device=clip.device)).flatten()
        states = [
            self.states(queries[one], cells[other])
            for one, other in zip(phrase.split(self.pairs), frame.split(self.pairs), strict=True)
        ]
        return self.heads(torch.cat(states).unflatten(0, (-1, T))[:N])

    def states(self, queries: Tensor, frames: Tensor) -> Tensor:
        """What becomes of queries ``(P, C)`` that each look at a frame ``(P, h, w, C)``: ``(P, C)``."""
        dtype = self.iou_token.weight.dtype
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([own.expand(len(queries), -1, -1), queries[:, None].to(dtype)], dim=1)
        cells = (frames.to(dtype) + self.no_mask).permute(0, 3, 1, 2)
        out, _ = self.transformer(
            point_embeddings=tokens[:, None],
            image_embeddings=cells,
            image_positional_embeddings=self.position_encoding(*frames.shape[1:3]).to(dtype),
            attention_similarity=None,
        )
        states: Tensor = out[:, 0, -1]
        return states

    def heads(self, states: Tensor) -> FoundBoxes:
        """Read boxes and visibility from states ``(N, T, C)``."""
        boxes = self.box_head(states).float().sigmoid()
        if self.objectness_head is None:
            return FoundBoxes(boxes, None, torch.ones_like(boxes[..., 0]))
        logits = self.objectness_head(states).squeeze(-1).float()
        return FoundBoxes(boxes, logits, logits.sigmoid())


def _without_encoder(settings: Any, weights: str | Path, download: bool) -> Any:
    """A SAM model without the layers of its image encoder, whose weights then are not read."""
    from transformers import SamModel

    dim = settings.mask_decoder_config.hidden_size
    settings.mask_decoder_config.layer_norm_eps = EPS
    settings.prompt_encoder_config.hidden_size = dim
    settings.vision_config.num_hidden_layers = 0
    settings.vision_config.num_pos_feats = dim // 2
    # random frequencies of size 1, as SAM's authors have them: at Transformers' size positions are noise
    settings.vision_config.scale = 1.0
    return hub.build(SamModel, settings, weights, download)
