"""CLIP's ResNet image towers (RN50 and larger), with OpenAI's names.

"Learning Transferable Visual Models From Natural Language Supervision", Radford et al., ICML 2021,
arXiv:2103.00020. A ResNet with a stem of three convolutions, average pooling before every strided convolution,
and a last pooling by attention.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .options import checkpointed


class Bottleneck(nn.Module):
    """Three convolutions and a shortcut; a stride is an average pooling in both paths.

    Args:
        inputs: channels that come in.
        planes: channels inside; four times as many come out.
        stride: 1 or 2.
    """

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.avgpool = nn.AvgPool2d(stride)
        self.conv3 = nn.Conv2d(planes, 4 * planes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * planes)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or inputs != 4 * planes:
            layers = {  # "-1", since the released names count from the convolution
                "-1": nn.AvgPool2d(stride),
                "0": nn.Conv2d(inputs, 4 * planes, 1, bias=False),
                "1": nn.BatchNorm2d(4 * planes),
            }
            self.downsample = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor) -> Tensor:
        """``(N, inputs, H, W)`` to ``(N, 4 * planes, H / stride, W / stride)``."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.avgpool(F.relu(self.bn2(self.conv2(y))))
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class AttentionPool(nn.Module):
    """The mean of all cells asks, the mean and the cells answer.

    Args:
        size: cells per side that the position table is for; other sizes interpolate it.
        dim: channels of a cell.
        heads: of the attention.
        output_dim: width of the joint space.
    """

    def __init__(self, size: int, dim: int, heads: int, output_dim: int) -> None:
        super().__init__()
        self.size, self.heads = size, heads
        self.positional_embedding = nn.Parameter(torch.randn(size**2 + 1, dim) / dim**0.5)
        self.k_proj, self.q_proj, self.v_proj = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.c_proj = nn.Linear(dim, output_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pool cells.

        Args:
            x: ``(N, dim, h, w)``.

        Returns:
            One vector per image, ``(N, output_dim)``, and the cells ``(N, h, w, output_dim)`` as the attention
            takes them up: value and output projection, position included.
        """
        h, w = x.shape[-2:]
        tokens = rearrange(x, "n c h w -> n (h w) c")
        tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], dim=1) + self._positions(h, w)
        split = "n t (k d) -> n k t d"
        q = rearrange(self.q_proj(tokens[:, :1]), split, k=self.heads)
        k = rearrange(self.k_proj(tokens), split, k=self.heads)
        values = self.v_proj(tokens)
        out = F.scaled_dot_product_attention(q, k, rearrange(values, split, k=self.heads))
        vector = self.c_proj(rearrange(out, "n k 1 d -> n (k d)"))
        return vector, rearrange(self.c_proj(values[:, 1:]), "n (h w) c -> n h w c", h=h)

    def _positions(self, h: int, w: int) -> Tensor:
        table = self.positional_embedding
        if (h, w) == (self.size, self.size):
            return table
        cells = rearrange(table[1:], "(h w) c -> 1 c h w", h=self.size)
        cells = F.interpolate(cells.float(), (h, w), mode="bicubic").to(table.dtype)
        return torch.cat([table[:1], rearrange(cells, "1 c h w -> (h w) c")])


class ModifiedResNet(nn.Module):
    """The tower; its names are those behind ``visual.`` in the released files.

    Args:
        layers: blocks of the four stages.
        width: channels of the first stage, before the factor 4.
        output_dim: width of the joint space.
        heads: of the attention pooling.
        image_size: side in pixels that the position table is for.
        gradient_checkpointing: compute the activations of stages twice instead of keeping them.
    """

    def __init__(
        self,
        layers: Sequence[int] = (3, 4, 6, 3),
        width: int = 64,
        output_dim: int = 1024,
        heads: int = 32,
        image_size: int = 224,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.gradient_checkpointing = gradient_checkpointing
        self.conv1 = nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width // 2)
        self.conv3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.avgpool = nn.AvgPool2d(2)
        inputs = width
        for i, (count, stride) in enumerate(zip(layers, (1, 2, 2, 2), strict=True)):
            blocks = []
            for k in range(count):
                blocks.append(Bottleneck(inputs, width * 2**i, stride if k == 0 else 1))
                inputs = 4 * width * 2**i
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
        self.attnpool = AttentionPool(image_size // 32, 32 * width, heads, output_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Encode images.

        Args:
            x: ``(N, 3, H, W)``, normalised, sides multiples of 32.

        Returns:
            Vectors ``(N, output_dim)`` and cells ``(N, H / 32, W / 32, output_dim)``.
        """
        for convolution, norm in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            x = F.relu(norm(convolution(x)))
        x = self.avgpool(x)
        for i in (1, 2, 3, 4):
            stage = self.get_submodule(f"layer{i}")
            x = checkpointed(stage, x) if self.gradient_checkpointing else stage(x)
        out: tuple[Tensor, Tensor] = self.attnpool(x)
        return out
