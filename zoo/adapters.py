"""Spatio-temporal adapters between the layers of a frozen image encoder, and what they work on: grids.

The adapters are those of GROVE (Kazakos et al., ICCV 2025, arXiv:2503.10781): a(o) = o + tanh(alpha) f(o), where f
is a convolution over time, height and width. They let the frames of a clip see each other, and are the identity
until alpha leaves zero.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FrozenType = Literal["float32", "bfloat16"]


class SpatioTemporalAdapter(nn.Module):
    """One adapter, ``o + tanh(alpha) ReLU(conv(o))``.

    Args:
        dim: channels C.

    Attributes:
        conv: 3 x 3 x 3 over time, height and width, which keeps all three sizes.
        alpha: ``(1,)``, 0 at the start: the adapter is then the identity, bit by bit, and only alpha learns.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(dim, dim, kernel_size=3, padding="same")
        self.alpha = nn.Parameter(torch.zeros(1))

    def forward(self, grid: Tensor) -> Tensor:
        """Grids ``(B, T, h, w, C)`` of any T, h, w -> the same shape and dtype; clips of a batch stay apart."""
        f = F.relu(self.conv(grid.movedim(-1, 1))).movedim(1, -1)
        return grid + (self.alpha.tanh() * f).to(grid.dtype)


class Adapters(nn.ModuleDict):
    """Adapters after some layers of an encoder, by the layer's number.

    Args:
        dim: channels C.
        layers: numbers of the layers, counted from 0.
        depth: number of the encoder's layers that count.

    Raises:
        ValueError: a number is there twice or beyond the layers.
    """

    def __init__(self, dim: int, layers: Collection[int], depth: int) -> None:
        if len(set(layers)) < len(layers) or any(not 0 <= layer < depth for layer in layers):
            raise ValueError(f"adapters={list(layers)}: each follows another one of the layers 0 to {depth - 1}")
        super().__init__({str(layer): SpatioTemporalAdapter(dim) for layer in sorted(layers)})

    def after(self, layer: int, frames: Tensor, clips: int) -> Tensor:
        """Let frames see each other where an adapter follows this layer.

        Args:
            layer: its number.
            frames: ``(clips * T, h, w, C)``.
            clips: number of clips.
        """
        if str(layer) not in self:
            return frames
        adapted: Tensor = self[str(layer)](frames.unflatten(0, (clips, len(frames) // clips)))
        return adapted.flatten(0, 1)


def freeze_in(network: nn.Module, dtype: FrozenType, learned: Iterable[nn.Parameter] = ()) -> None:
    """Keep what of a network is not learned in a type of its own; the rest stays as it is."""
    kept = {id(parameter) for parameter in learned}
    for parameter in network.parameters():
        if id(parameter) not in kept:
            parameter.data = parameter.data.to(getattr(torch, dtype))


def mixed(dtype: FrozenType, device: torch.device) -> AbstractContextManager[object]:
    """Where frozen parts in bfloat16 and learned ones in float32 can compute with each other."""
    return torch.autocast(device.type, torch.bfloat16) if dtype == "bfloat16" else nullcontext()


def pool_grid(grid: Tensor, size: tuple[int, int, int]) -> Tensor:
    """Average a grid to `size`; neighbouring averages overlap where a side is no multiple of the new one.

    Args:
        grid: ``(B, T, h, w, C)``.
        size: T', h', w'; may also be larger than what there is.

    Returns:
        ``(B, T', h', w', C)``; flattened over the middle three it is ordered by time, then row, then column.
    """
    return F.adaptive_avg_pool3d(grid.movedim(-1, 1), size).movedim(1, -1)
