"""Convolutions over time and the feature pyramid built from them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TemporalConv(nn.Conv1d):
    """Conv1d with "same" padding that computes in channels-last order, which CPUs do faster.

    Takes and returns ``(B, C, T)``; a transposed ``(B, T, C)`` is the layout it likes best. Parameters are
    those of `nn.Conv1d`, the weight stored channels-last so that no call has to convert it.
    """

    def __init__(self, in_dim: int, out_dim: int, kernel: int = 3, stride: int = 1, bias: bool = True) -> None:
        super().__init__(in_dim, out_dim, kernel, stride=stride, padding=kernel // 2, bias=bias)
        self.stride_2d, self.padding_2d = (1, stride), (0, kernel // 2)
        self.weight = nn.Parameter(self.weight.detach().transpose(1, 2).contiguous().transpose(1, 2))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in, T) -> (B, out, ceil(T / stride))``."""
        image = x.unsqueeze(2).contiguous(memory_format=torch.channels_last)
        weight = self.weight.unsqueeze(2)
        return F.conv2d(image, weight, self.bias, self.stride_2d, self.padding_2d).squeeze(2)


class ConvBNReLU(nn.Sequential):
    """Convolution over time, batch norm, ReLU; ``(B, in, T) -> (B, out, ceil(T / stride))``. Odd `kernel`."""

    def __init__(self, in_dim: int, out_dim: int, kernel: int = 3, stride: int = 1, bias: bool = False) -> None:
        convolution = TemporalConv(in_dim, out_dim, kernel, stride, bias)
        nn.init.kaiming_uniform_(convolution.weight, a=1)
        if convolution.bias is not None:
            nn.init.zeros_(convolution.bias)
        super().__init__(
            convolution,
            nn.BatchNorm2d(out_dim),  # over (B, 1, T): keeps the channels-last order, which BatchNorm1d does not
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        convolution, norm, relu = self
        activated: Tensor = relu(norm(convolution(x).unsqueeze(2))).squeeze(2)
        return activated


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
