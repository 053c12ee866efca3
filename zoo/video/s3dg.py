"""S3D-G trained on HowTo100M by MIL-NCE, with the names of the released weights.

Xie, Sun, Huang, Tu, Murphy: "Rethinking Spatiotemporal Feature Learning", ECCV 2018, arXiv:1712.04851 (network).
Miech, Alayrac, Smaira, Laptev, Sivic, Zisserman: "End-to-End Learning of Visual Representations from Uncurated
Instructional Videos", CVPR 2020, arXiv:1912.06430 (weights). `MILNCEText` is the text side.

Differs from the authors' programs:
    - One view of a clip; the mean over several clips is the business of whoever pools units.
    - An incomplete last window repeats the last frame, where the authors add black ones.
    - The grid of the joint space takes its last linear layer cell by cell: its mean over cells is the vector.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..weights import CHECKPOINT, RANDOM, load_state, load_weights, read_state_dict, reproducible
from .base import VideoEncoder, VideoFeatures
from .inception import Branches, inception_blocks
from .options import adapted, checkpointed
from .published import published

Triple = tuple[int, int, int]
STEM = "conv1.conv1.weight"


class Convolution(nn.Module):
    """Convolution, batch norm, ReLU; a kernel that spans time and space may be cut into space, then time.

    Args:
        inputs: channels in.
        outputs: channels out.
        kernel: along time, height and width.
        stride: of all three.
        padding: along time, height and width.
        separable: two convolutions, each with its batch norm and ReLU.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: Triple, stride: int, padding: Triple, separable: bool = False
    ) -> None:
        super().__init__()
        (kt, kh, kw), (pt, ph, pw) = kernel, padding
        first, pad = ((1, kh, kw), (0, ph, pw)) if separable else (kernel, padding)
        self.conv1 = nn.Conv3d(inputs, outputs, first, stride, pad, bias=False)
        self.bn1 = nn.BatchNorm3d(outputs)
        self.separable = separable
        if separable:
            self.conv2 = nn.Conv3d(outputs, outputs, (kt, 1, 1), stride, (pt, 0, 0), bias=False)
            self.bn2 = nn.BatchNorm3d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, inputs, T, h, w)`` to ``(N, outputs, T', h', w')``, >= 0."""
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(x)), inplace=True) if self.separable else x


class SelfGating(nn.Module):
    """Every channel times a gate in (0, 1) that depends on the channels' means over time and space."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, channels, T, h, w)``, shape kept."""
        gate: Tensor = self.fc(x.mean((2, 3, 4))).sigmoid()
        return x * gate[:, :, None, None, None]


class ZeroPaddedMaxPool(nn.Module):
    """Max pool after zeros: ``kernel - stride`` of them per axis, the smaller half in front; sizes round up.

    Equals TensorFlow's SAME for even sizes. The padding does not depend on the size.
    """

    def __init__(self, kernel: Triple, stride: Triple) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        total = [max(k - s, 0) for k, s in zip(kernel, stride, strict=True)]
        self.padding = [side for n in reversed(total) for side in (n // 2, n - n // 2)]  # last axis first

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, T, h, w)``, >= 0, to ``(N, C, T / stride, ...)``, rounded up."""
        return F.max_pool3d(F.pad(x, self.padding), self.kernel, self.stride, ceil_mode=True)


class InceptionBlock(nn.Module):
    """Four branches side by side, each with its gate."""

    def __init__(self, inputs: int, width: Branches) -> None:
        super().__init__()

        def pointwise(outputs: int) -> Convolution:
            return Convolution(inputs, outputs, (1, 1, 1), 1, (0, 0, 0))

        def cubic(narrow: int, outputs: int) -> Convolution:
            return Convolution(narrow, outputs, (3, 3, 3), 1, (1, 1, 1), separable=True)

        self.conv_b0 = pointwise(width.b0)
        self.conv_b1_a, self.conv_b1_b = pointwise(width.b1a), cubic(width.b1a, width.b1b)
        self.conv_b2_a, self.conv_b2_b = pointwise(width.b2a), cubic(width.b2a, width.b2b)
        self.maxpool_b3 = nn.MaxPool3d(3, stride=1, padding=1)
        self.conv_b3_b = pointwise(width.b3b)
        self.gating_b0, self.gating_b1 = SelfGating(width.b0), SelfGating(width.b1b)
        self.gating_b2, self.gating_b3 = SelfGating(width.b2b), SelfGating(width.b3b)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, inputs, T, h, w)`` to ``(N, outputs, T, h, w)``, >= 0."""
        branches = (
            self.gating_b0(self.conv_b0(x)),
            self.gating_b1(self.conv_b1_b(self.conv_b1_a(x))),
            self.gating_b2(self.conv_b2_b(self.conv_b2_a(x))),
            self.gating_b3(self.conv_b3_b(self.maxpool_b3(x))),
        )
        return torch.cat(branches, dim=1)


def space_to_depth(x: Tensor) -> Tensor:
    """Neighbours of 2 x 2 x 2 go into channels: ``(N, C, T, H, W)`` to ``(N, 8 C, T/2, H/2, W/2)``.

    The order of the channels is frame, row, column, colour, the last one fastest.

    Raises:
        ValueError: a size is odd.
    """
    if any(size % 2 for size in x.shape[2:]):
        raise ValueError(
            f"{tuple(x.shape[2:])} frames, rows and columns: this stem takes pairs, so all three are even numbers"
        )
    return rearrange(x, "n c (t dt) (h dh) (w dw) -> n (dt dh dw c) t h w", dt=2, dh=2, dw=2)


class S3DGNetwork(nn.Module):
    """The video network, with the names of ``s3d_howto100m.pth``.

    Args:
        space_to_depth: the stem of the release, which moves 2 x 2 x 2 neighbours into channels first; False is
            the plain stem of the training repository, with a kernel of 3 x 7 x 7 and stride 2.
        dim: width of `fc`, the joint space; None leaves it out.
        width: channels of the first convolution; all others are in proportion.
        gradient_checkpointing: compute the activations of blocks twice instead of keeping them.

    Raises:
        ValueError: `width` is no multiple of 8.
    """

    def __init__(
        self,
        space_to_depth: bool = True,
        dim: int | None = 512,
        width: int = 64,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.space_to_depth = space_to_depth
        self.gradient_checkpointing = gradient_checkpointing
        if space_to_depth:
            self.conv1 = Convolution(24, width, (2, 4, 4), 1, (1, 2, 2))
        else:
            self.conv1 = Convolution(3, width, (3, 7, 7), 2, (1, 3, 3))
        self.maxpool_2a = ZeroPaddedMaxPool((1, 3, 3), (1, 2, 2))
        self.conv_2b = Convolution(width, width, (1, 1, 1), 1, (0, 0, 0))
        self.conv_2c = Convolution(width, 3 * width, (3, 3, 3), 1, (1, 1, 1), separable=True)
        self.gating = SelfGating(3 * width)
        self.maxpool_3a = ZeroPaddedMaxPool((1, 3, 3), (1, 2, 2))
        self.maxpool_4a = ZeroPaddedMaxPool((3, 3, 3), (2, 2, 2))
        self.maxpool_5a = ZeroPaddedMaxPool((2, 2, 2), (2, 2, 2))
        channels = 3 * width
        self.body = ["maxpool_2a", "conv_2b", "conv_2c", "gating", "maxpool_3a"]  # in the order they run
        for name, branches in inception_blocks(width).items():
            if name in ("4b", "5b"):
                self.body.append(f"maxpool_{name[0]}a")
            self.add_module(f"mixed_{name}", InceptionBlock(channels, branches))
            self.body.append(f"mixed_{name}")
            channels = branches.outputs
        self.channels = channels
        self.fc = nn.Linear(channels, dim) if dim is not None else None
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            elif isinstance(module, SelfGating):
                nn.init.constant_(module.fc.bias, 2.0)  # begin open: ten gates of 1/2 would leave nothing

    def maps(self, x: Tensor) -> Tensor:
        """Output of the last block.

        Args:
            x: ``(N, 3, T, H, W)``, RGB in [0, 1]; T, H and W even where `space_to_depth` is.

        Returns:
            ``(N, 16 * width, T / 8, H / 32, W / 32)``, each rounded up, >= 0.

        Raises:
            ValueError: an odd size does not suit the stem.
        """
        x = self.conv1(space_to_depth(x) if self.space_to_depth else x)
        if self.space_to_depth:  # an even kernel with symmetric padding gives one too many in front
            x = x[:, :, 1:, 1:, 1:]
        for name in self.body:
            module = self.get_submodule(name)
            x = checkpointed(module, x) if self.gradient_checkpointing else module(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """The clip in the joint space ``(N, dim)``, not normalised, or ``(N, 16 * width)`` without `fc`."""
        vector = self.maps(x).mean((2, 3, 4))
        return vector if self.fc is None else self.fc(vector)


class S3DG(VideoEncoder):
    """S3D-G features of clips: one vector, and the maps averaged over time as grid.

    Args:
        weights: ``s3d_howto100m.pth`` or a checkpoint of the training repository; the text side in it is left
            out. `random` starts from random numbers.
        variant: which published weights.
        output: `embedding` is the space that `MILNCEText` shares, in which the dot product says how well video
            and text agree; `mixed_5c` the wider features before it, >= 0.
        window: frames per unit; None takes the variant's 32. The training repository has 16, at 5 fps.
        stride: frames between units; None takes the window.
        fps: frames per second to read; None takes the variant's 10.
        size: side of the square input in pixels; None takes the variant's 224.
        space_to_depth: which stem, see `S3DGNetwork`; None looks into `weights`, and is the release's otherwise.
        width: channels of the first convolution.
        joint_dim: width of the joint space.
        trainable: whether a task may train it.
        gradient_checkpointing: compute the activations of blocks twice instead of keeping them.
        channels_last: memory layout of weights and input; on most hardware the faster one.

    Raises:
        FileNotFoundError: `weights` does not exist.
        ValueError: `weights` are not those of this network, `variant` is unknown, or the stem needs an even
            window and size.
    """

    def __init__(
        self,
        weights: str | Path,
        variant: Literal["s3dg_howto100m"] = "s3dg_howto100m",
        output: Literal["embedding", "mixed_5c"] = "embedding",
        window: int | None = None,
        stride: int | None = None,
        fps: float | None = None,
        size: int | None = None,
        space_to_depth: bool | None = None,
        width: int = 64,
        joint_dim: int = 512,
        trainable: bool = False,
        gradient_checkpointing: bool = False,
        channels_last: bool = True,
    ) -> None:
        super().__init__(trainable)
        spec = adapted(published(variant, "S3DG").spec, fps=fps, size=size)
        window = spec.window if window is None else window
        self.spec = dataclasses.replace(spec, window=window, stride=window if stride is None else stride)
        assert self.spec.size is not None
        state = None if weights in (RANDOM, CHECKPOINT) else read_state_dict(weights)
        if space_to_depth is None:
            space_to_depth = state is None or _has_deep_stem(state)
        if space_to_depth and (window % 2 or self.spec.size[0] % 2):
            raise ValueError(
                f"window={window}, size={self.spec.size[0]}: this stem takes pairs of frames, rows and columns, "
                "so both are even numbers"
            )
        embedding = output == "embedding"
        with reproducible():
            self.network = S3DGNetwork(
                space_to_depth, joint_dim if embedding else None, width, gradient_checkpointing
            )
        heads = ("text_module.",) if embedding else ("text_module.", "fc.")
        if state is None:
            load_weights(self.network, weights)
        else:
            load_state(self.network, state, weights, heads)
        self.layout = torch.channels_last_3d if channels_last else torch.contiguous_format
        self.network.to(memory_format=self.layout)  # type: ignore[call-overload]
        self.dim = joint_dim if embedding else self.network.channels
        rows, columns = (-(-side // 32) for side in self.spec.size)
        self.grid = (rows, columns, self.dim)
        self.freeze_unless_trainable()

    def encode(self, clips: Tensor) -> VideoFeatures:
        """See `VideoEncoder.encode`; one unit per pass."""
        x = rearrange(clips, "n t c h w -> n c t h w").contiguous(memory_format=self.layout)
        cells = rearrange(self.network.maps(x).mean(2), "n c h w -> n 1 h w c")
        if self.network.fc is None:
            return VideoFeatures(frames=cells.mean((2, 3)), grid=cells)
        fc = self.network.fc
        return VideoFeatures(frames=fc(cells.mean((2, 3))), grid=fc(cells))

    def rebuild_arguments(self) -> dict[str, Any]:
        """See `Encoder`; the stem was perhaps read from the weights' file."""
        return {**super().rebuild_arguments(), "space_to_depth": self.network.space_to_depth}


def _has_deep_stem(state: Mapping[str, Tensor]) -> bool:
    """Whether the first kernel reads 2 x 2 x 2 neighbours in channels, as the release, and not colours alone."""
    stem = next((v for k, v in state.items() if f".{k}".endswith(f".{STEM}")), None)
    return stem is None or stem.shape[1:2] != (3,)
