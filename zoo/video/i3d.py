"""I3D: "Quo Vadis, Action Recognition? A New Model and the Kinetics Dataset", Carreira and Zisserman, CVPR 2017.

arXiv:1705.07750. Inception-v1 inflated to three dimensions, with the names of the usual PyTorch weights, which
were converted from the authors'.

Differs from the usual extraction programs:
    - A unit is one window and sees nothing else, where they run over a whole video and give one vector per 8
      frames that depends on some 100 frames around it.
    - An incomplete last window repeats the last frame.
    - Off 224 x 224 pixels the vector is the mean over all cells; theirs slides a window of 7 x 7 cells.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..weights import load_weights, reproducible
from .base import VideoEncoder, VideoFeatures
from .inception import Branches, inception_blocks
from .options import adapted, checkpointed
from .published import published

Triple = tuple[int, int, int]
SHORTEST = 9  # frames: two steps of time are left of them, and features are the mean of two neighbours


def pad_same(x: Tensor, kernel: Triple, stride: Triple) -> Tensor:
    """Zeros around ``(N, C, T, H, W)`` so that sizes shrink to ``size / stride``, rounded up.

    TensorFlow's SAME: how many depends on the size, and the smaller half stands in front.
    """
    padding: list[int] = []
    for size, k, s in zip(x.shape[2:], kernel, stride, strict=True):
        total = max(k - (size % s or s), 0)
        padding = [total // 2, total - total // 2, *padding]  # last axis first
    return F.pad(x, padding) if any(padding) else x


class Unit3D(nn.Module):
    """Convolution with SAME padding, batch norm and ReLU; the last layer has a bias and neither."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, last: bool = False) -> None:
        super().__init__()
        self.kernel, self.stride = (kernel,) * 3, (stride,) * 3
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, bias=last)
        self.bn = None if last else nn.BatchNorm3d(outputs, eps=1e-3, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, inputs, T, h, w)`` to ``(N, outputs, T / stride, h / stride, w / stride)``, rounded up."""
        x = self.conv3d(pad_same(x, self.kernel, self.stride))
        return x if self.bn is None else F.relu(self.bn(x), inplace=True)


class MaxPoolSame(nn.Module):
    """Max pool with SAME padding by zeros."""

    def __init__(self, kernel: Triple, stride: Triple) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, T, h, w)``, >= 0, to ``(N, C, T / stride, ...)``, rounded up."""
        return F.max_pool3d(pad_same(x, self.kernel, self.stride), self.kernel, self.stride)


class InceptionModule(nn.Module):
    """Four branches side by side."""

    def __init__(self, inputs: int, width: Branches) -> None:
        super().__init__()
        self.b0 = Unit3D(inputs, width.b0)
        self.b1a, self.b1b = Unit3D(inputs, width.b1a), Unit3D(width.b1a, width.b1b, 3)
        self.b2a, self.b2b = Unit3D(inputs, width.b2a), Unit3D(width.b2a, width.b2b, 3)
        self.b3a, self.b3b = MaxPoolSame((3, 3, 3), (1, 1, 1)), Unit3D(inputs, width.b3b)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, inputs, T, h, w)`` to ``(N, outputs, T, h, w)``, >= 0."""
        branches = self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))
        return torch.cat(branches, dim=1)


class I3DNetwork(nn.Module):
    """The network with the names of the usual PyTorch weights.

    Args:
        in_channels: 3 for RGB, 2 for flow.
        num_classes: width of the head `logits`; None leaves it out.
        width: channels of the first convolution; all others are in proportion.
        gradient_checkpointing: compute the activations of blocks twice instead of keeping them.

    Raises:
        ValueError: `width` is no multiple of 8.
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int | None = None,
        width: int = 64,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.gradient_checkpointing = gradient_checkpointing
        self.Conv3d_1a_7x7 = Unit3D(in_channels, width, 7, 2)
        self.MaxPool3d_2a_3x3 = MaxPoolSame((1, 3, 3), (1, 2, 2))
        self.Conv3d_2b_1x1 = Unit3D(width, width)
        self.Conv3d_2c_3x3 = Unit3D(width, 3 * width, 3)
        self.MaxPool3d_3a_3x3 = MaxPoolSame((1, 3, 3), (1, 2, 2))
        self.MaxPool3d_4a_3x3 = MaxPoolSame((3, 3, 3), (2, 2, 2))
        self.MaxPool3d_5a_2x2 = MaxPoolSame((2, 2, 2), (2, 2, 2))
        channels = 3 * width
        self.body = [  # in the order they run
            "Conv3d_1a_7x7",
            "MaxPool3d_2a_3x3",
            "Conv3d_2b_1x1",
            "Conv3d_2c_3x3",
            "MaxPool3d_3a_3x3",
        ]
        pools = {"4b": "MaxPool3d_4a_3x3", "5b": "MaxPool3d_5a_2x2"}
        for name, branches in inception_blocks(width).items():
            if name in pools:
                self.body.append(pools[name])
            self.add_module(f"Mixed_{name}", InceptionModule(channels, branches))
            self.body.append(f"Mixed_{name}")
            channels = branches.outputs
        self.channels = channels
        self.dropout = nn.Dropout(0.5)
        self.logits = Unit3D(channels, num_classes, last=True) if num_classes is not None else None
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def maps(self, x: Tensor) -> Tensor:
        """Output of the last block.

        Args:
            x: ``(N, in_channels, T, H, W)`` in [-1, 1].

        Returns:
            ``(N, 16 * width, T / 8, H / 32, W / 32)``, each rounded up, >= 0.
        """
        for name in self.body:
            module = self.get_submodule(name)
            x = checkpointed(module, x) if self.gradient_checkpointing else module(x)
        return x

    def features(self, x: Tensor) -> Tensor:
        """Features before the head: the mean over 2 steps of time and 7 x 7 cells, at all places; see `maps`.

        Returns:
            ``(N, 16 * width, T / 8 - 1, H / 32 - 6, W / 32 - 6)``, one place in space at 224 pixels.

        Raises:
            ValueError: the input has fewer than 9 frames or than 193 rows or columns.
        """
        maps = self.maps(x)
        if any(have < need for have, need in zip(maps.shape[2:], (2, 7, 7), strict=True)):
            raise ValueError(
                f"{tuple(x.shape[2:])} frames, rows and columns: I3D's last pool takes 9 x 193 x 193 or more"
            )
        return F.avg_pool3d(maps, (2, 7, 7), stride=1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, num_classes, T / 8 - 1)`` at 224 pixels, or without a head `features`.

        Larger pictures keep a last axis, or two, for the places.

        Raises:
            ValueError: the input is too small; see `features`.
        """
        features = self.features(x)
        if self.logits is None:
            return features
        logits: Tensor = self.logits(self.dropout(features))
        return logits.squeeze(3).squeeze(3)


class I3D(VideoEncoder):
    """I3D features of windows: one vector, and the maps averaged over time as grid.

    The flow variants read the first two channels of a video's frames as the x and y of optical flow. To store
    flow as video: compute TV-L1 flow between neighbouring frames (grey, 25 per second, shorter side 256), clip
    it to [-20, 20] pixels, store ``round(255 * (flow + 20) / 40)`` with x in red and y in green (blue is not
    looked at), and use a codec that is lossless in RGB (e.g. ``ffv1`` or ``libx264rgb -qp 0``): the usual ones
    halve the resolution of colours.

    Args:
        weights: a file of the variant; `random` starts from random numbers.
        variant: which published weights; the Charades ones were trained further from the Kinetics ones.
        window: frames per unit, 9 or more; the vector is the mean over its time steps of 8 frames.
        stride: frames between units; None takes the window.
        fps: frames per second to read; None takes the variant's 25.
        size: side of the square input in pixels; None takes the variant's 224.
        width: channels of the first convolution; `dim` is sixteen times that.
        trainable: whether a task may train it.
        gradient_checkpointing: compute the activations of blocks twice instead of keeping them.
        channels_last: memory layout of weights and input; on most hardware the faster one.

    Raises:
        FileNotFoundError: `weights` does not exist.
        ValueError: `weights` are not those of this network (RGB for flow, say), `variant` is unknown or the
            window is too short.
    """

    def __init__(
        self,
        weights: str | Path,
        variant: Literal[
            "i3d_rgb_kinetics", "i3d_flow_kinetics", "i3d_rgb_charades", "i3d_flow_charades"
        ] = "i3d_rgb_kinetics",
        window: int = 16,
        stride: int | None = None,
        fps: float | None = None,
        size: int | None = None,
        width: int = 64,
        trainable: bool = False,
        gradient_checkpointing: bool = False,
        channels_last: bool = True,
    ) -> None:
        super().__init__(trainable)
        if window < SHORTEST:
            raise ValueError(f"window={window}: I3D needs {SHORTEST} frames or more; usual are 16 and 64")
        spec = adapted(published(variant, "I3D").spec, fps=fps, size=size)
        self.spec = dataclasses.replace(spec, window=window, stride=window if stride is None else stride)
        assert self.spec.size is not None
        self.in_channels = 2 if variant.startswith("i3d_flow") else 3
        with reproducible():
            self.network = I3DNetwork(self.in_channels, width=width, gradient_checkpointing=gradient_checkpointing)
        load_weights(self.network, weights, ("logits.",))
        self.layout = torch.channels_last_3d if channels_last else torch.contiguous_format
        self.network.to(memory_format=self.layout)  # type: ignore[call-overload]
        self.dim = self.network.channels
        rows, columns = (-(-side // 32) for side in self.spec.size)
        self.grid = (rows, columns, self.dim)
        self.freeze_unless_trainable()

    def encode(self, clips: Tensor) -> VideoFeatures:
        """See `VideoEncoder.encode`; one unit per pass, all values >= 0."""
        x = rearrange(clips[:, :, : self.in_channels], "n t c h w -> n c t h w")
        maps = self.network.maps(x.contiguous(memory_format=self.layout))
        steps = maps.mean((3, 4))
        vector = (steps[:, :, 1:] + steps[:, :, :-1]).mean(2) / 2
        return VideoFeatures(frames=vector[:, None], grid=rearrange(maps.mean(2), "n c h w -> n 1 h w c"))
