"""Text4Vis: "Revisiting Classifier: Transferring Vision-Language Models for Video Recognition".

Wu, Sun and Ouyang, AAAI 2023, arXiv:2207.01297. Its files hold CLIP's image tower, which `ImageModel` reads, and
the transformer over the vectors of frames that is here.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn


class QuickGELU(nn.Module):
    """``x * sigmoid(1.702 x)``, element by element."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same shape."""
        return x * torch.sigmoid(1.702 * x)


class ResidualBlock(nn.Module):
    """A block of CLIP's transformers with OpenAI's names: attention, then an MLP, each behind a layer norm.

    Args:
        dim: width.
        heads: of the attention.
        eps: of the layer norms.
    """

    def __init__(self, dim: int, heads: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.ln_1 = nn.LayerNorm(dim, eps)
        layers = {"c_fc": nn.Linear(dim, 4 * dim), "gelu": QuickGELU(), "c_proj": nn.Linear(4 * dim, dim)}
        self.mlp = nn.Sequential(OrderedDict(layers))
        self.ln_2 = nn.LayerNorm(dim, eps)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, T, dim)`` to the same shape."""
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))  # type: ignore[no-any-return]


class FusionModel(nn.Module):
    """Text4Vis's temporal transformer over the image vectors of frames (its header "Transf").

    Its file has these names behind ``module.fusion_model.``.

    Args:
        dim: width of CLIP's joint space.
        heads: of the attention; the text tower's width / 64.
        layers: number of blocks.
        positions: most frames.
    """

    def __init__(self, dim: int = 512, heads: int = 8, layers: int = 6, positions: int = 77) -> None:
        super().__init__()
        self.frame_position_embeddings = nn.Embedding(positions, dim)
        blocks = nn.Sequential(*(ResidualBlock(dim, heads, eps=1e-12) for _ in range(layers)))
        self.transformer = nn.ModuleDict({"resblocks": blocks})

    def forward(self, frames: Tensor) -> Tensor:
        """Frames' vectors ``(B, T, dim)``, T <= `positions`, to one vector per video ``(B, dim)``."""
        positions = self.frame_position_embeddings.weight[: frames.shape[1]]
        out: Tensor = self.transformer["resblocks"](frames + positions) + frames
        return out.mean(1)
