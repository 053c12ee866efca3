"""Convolutions over time and the feature pyramid built from them."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class ConvBNReLU(nn.Sequential):
    """Conv1d, BatchNorm1d, ReLU; ``(B, in, T) -> (B, out, ceil(T / stride))``. Odd `kernel`, "same" padding."""

    def __init__(self, in_dim: int, out_dim: int, kernel: int = 3, stride: int = 1, bias: bool = False) -> None:
        super().__init__(
            nn.Conv1d(in_dim, out_dim, kernel, stride=stride, padding=kernel // 2, bias=bias),
            nn.BatchNorm1d(out_dim),
            nn.ReLU(inplace=True),
        )
        nn.init.kaiming_uniform_(self[0].weight, a=1)
        if bias:
            nn.init.zeros_(self[0].bias)


class FeaturePyramid(nn.Module):
    """Feature pyramid network (Lin et al., CVPR 2017) over time.

    Args:
        in_dims: channels of the input maps, finest first.
        dim: channels of all output maps.
    """

    def __init__(self, in_dims: Sequence[int], dim: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(ConvBNReLU(d, dim, kernel=1) for d in in_dims)
        self.output = nn.ModuleList(ConvBNReLU(dim, dim) for _ in in_dims)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Merge top-down.

        Args:
            maps: one ``(B, in_dims[k], T_k)`` per level, T_k falling.

        Returns:
            One ``(B, dim, T_k)`` per level.
        """
        merged = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        for k in range(len(merged) - 2, -1, -1):
            merged[k] = merged[k] + F.interpolate(merged[k + 1], size=merged[k].shape[-1], mode="nearest")
        return [output(x) for output, x in zip(self.output, merged, strict=True)]
