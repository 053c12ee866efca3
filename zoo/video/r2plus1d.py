"""R(2+1)D: "A Closer Look at Spatiotemporal Convolutions for Action Recognition", Tran et al., CVPR 2018.

arXiv:1711.11248. Weights in the layout of torchvision: Kinetics-400, IG-65M (Ghadiyaram et al., CVPR 2019,
arXiv:1905.00561) and TSP (Alwassel et al., ICCV Workshops 2021, arXiv:2011.11479).

Differs from the authors' programs:
- the grid is the last stage averaged over time, the vector that grid averaged over space;
- an incomplete last window repeats the last frame, where TSP drops it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from ..weights import load_weights, reproducible
from .base import VideoEncoder, VideoFeatures
from .options import adapted, checkpointed
from .published import published

Rule = Literal["torchvision", "ig65m"]
Layers = tuple[int, int, int, int]
STEM_WIDTH = 45
HEADS = ("fc.", "fc1.", "fc2.")


def middle_width(inputs: int, outputs: int) -> int:
    """Channels between the two halves that keep the parameter count of a full 3 x 3 x 3 convolution."""
    return 27 * inputs * outputs // (9 * inputs + 3 * outputs)


class BasicBlock(nn.Module):
    """Two (2+1)D convolutions around a shortcut.

    Args:
        inputs: channels in.
        outputs: channels out.
        stride: of the first convolution, in time and space.
        rule: which width stands between the halves of the second one; see `R2Plus1DNetwork`.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, rule: Rule) -> None:
        super().__init__()
        first = middle_width(inputs, outputs)
        second = first if rule == "torchvision" else middle_width(outputs, outputs)
        self.conv1 = nn.Sequential(
            _factorised(inputs, first, outputs, stride), nn.BatchNorm3d(outputs), nn.ReLU(inplace=True)
        )
        self.conv2 = nn.Sequential(_factorised(outputs, second, outputs, 1), nn.BatchNorm3d(outputs))
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            shortcut = nn.Conv3d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm3d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """``(N, inputs, T, h, w)`` to ``(N, outputs, T / stride, h / stride, w / stride)``, rounded up."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out: Tensor = self.relu(self.conv2(self.conv1(x)) + shortcut)
        return out


def _factorised(inputs: int, middle: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(inputs, middle, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False),
        nn.BatchNorm3d(middle),
        nn.ReLU(inplace=True),
        nn.Conv3d(middle, outputs, (3, 1, 1), (stride, 1, 1), (1, 0, 0), bias=False),
    )


class Stage(nn.Sequential):
    """Blocks one after the other.

    Args:
        blocks: the blocks.
        gradient_checkpointing: compute their activations twice instead of keeping them.
    """

    def __init__(self, *blocks: nn.Module, gradient_checkpointing: bool) -> None:
        super().__init__(*blocks)
        self.gradient_checkpointing = gradient_checkpointing

    def forward(self, x: Tensor) -> Tensor:
        """See `BasicBlock.forward`."""
        for block in self:
            x = checkpointed(block, x) if self.gradient_checkpointing else block(x)
        return x


class R2Plus1DNetwork(nn.Module):
    """The network with torchvision's names.

    Args:
        layers: blocks of the four stages; 2, 2, 2, 2 for 18 and 3, 4, 6, 3 for 34 layers.
        midplanes: width between the halves of a block's second convolution: `torchvision` takes the one of the
            first, `ig65m` (Caffe2) computes it anew. They differ where a stage begins.
        width: channels of the first stage; the others have 2, 4 and 8 times as many.
        bn_eps: of all batch norms.
        bn_momentum: of all batch norms, the share of the newest batch in the running statistics.
        num_classes: width of the head `fc`; None leaves it out.
        gradient_checkpointing: compute the activations of blocks twice instead of keeping them.
    """

    def __init__(
        self,
        layers: Layers = (3, 4, 6, 3),
        midplanes: Rule = "ig65m",
        width: int = 64,
        bn_eps: float = 1e-3,
        bn_momentum: float = 0.9,
        num_classes: int | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv3d(3, STEM_WIDTH, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False),
            nn.BatchNorm3d(STEM_WIDTH),
            nn.ReLU(inplace=True),
            nn.Conv3d(STEM_WIDTH, width, (3, 1, 1), 1, (1, 0, 0), bias=False),
            nn.BatchNorm3d(width),
            nn.ReLU(inplace=True),
        )
        stages, inputs = [], width
        for stage, blocks in enumerate(layers):
            outputs, stride = width * 2**stage, 1 if stage == 0 else 2
            first = BasicBlock(inputs, outputs, stride, midplanes)
            rest = (BasicBlock(outputs, outputs, 1, midplanes) for _ in range(blocks - 1))
            stages.append(Stage(first, *rest, gradient_checkpointing=gradient_checkpointing))
            inputs = outputs
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool3d(1)
        self.fc = nn.Linear(inputs, num_classes) if num_classes is not None else None
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm3d):
                module.eps, module.momentum = bn_eps, bn_momentum

    def maps(self, x: Tensor) -> Tensor:
        """Output of the last stage.

        Args:
            x: ``(N, 3, T, H, W)``, normalised.

        Returns:
            ``(N, 8 * width, T / 8, H / 16, W / 16)``, each rounded up, >= 0.
        """
        out: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x)))))
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, num_classes)``, or without a head the feature ``(N, 8 * width)``; see `maps`."""
        feature: Tensor = self.avgpool(self.maps(x)).flatten(1)
        return feature if self.fc is None else self.fc(feature)


class R2Plus1D(VideoEncoder):
    """R(2+1)D features of clips: one vector, and a grid that is its maps averaged over time.

    Args:
        weights: a file of the variant; `random` starts from random numbers.
        variant: which published weights; brings depth, rate, window, normalisation and the defaults below.
        stride: frames between units; None takes the variant's.
        fps: frames per second to read; None takes the variant's.
        size: side of the square input in pixels, any from 16 up; None takes the variant's 112.
        window: frames per unit, any number; None takes the variant's.
        resize: (height, width) of frames before the crop to `size`; None takes the variant's, which squeezes wide
            video and grows and shrinks with `size`.
        layers: blocks of the four stages; None takes the variant's.
        width: channels of the first stage; `dim` is eight times that.
        midplanes: see `R2Plus1DNetwork`; None takes the variant's.
        bn_eps: of batch norm; None takes the variant's, 1e-3 for 34 layers and 1e-5 for 18.
        bn_momentum: of batch norm when trained; None takes the variant's. The 34-layer networks were trained with
            0.9, which leaves the running statistics 90 % to the newest batch; 0.1 is the usual value.
        trainable: whether a task may train it.
        gradient_checkpointing: compute the activations of blocks twice instead of keeping them.
        channels_last: memory layout of weights and input; on most hardware the faster one.

    Raises:
        FileNotFoundError: `weights` does not exist.
        ValueError: `weights` are not those of this network, or `variant` is unknown.
    """

    def __init__(
        self,
        weights: str | Path,
        variant: Literal[
            "r2plus1d_34_ig65m_kinetics_clip8",
            "r2plus1d_34_ig65m_kinetics_clip32",
            "r2plus1d_34_tsp",
            "r2plus1d_18_tsp",
            "r2plus1d_18_kinetics",
        ] = "r2plus1d_34_tsp",
        stride: int | None = None,
        fps: float | None = None,
        size: int | None = None,
        window: int | None = None,
        resize: tuple[int, int] | None = None,
        layers: Layers | None = None,
        width: int = 64,
        midplanes: Rule | None = None,
        bn_eps: float | None = None,
        bn_momentum: float | None = None,
        trainable: bool = False,
        gradient_checkpointing: bool = False,
        channels_last: bool = True,
    ) -> None:
        super().__init__(trainable)
        self.spec = adapted(published(variant, "R2Plus1D").spec, stride, fps, size, window, resize)
        deep = variant.startswith("r2plus1d_34")
        with reproducible():
            self.network = R2Plus1DNetwork(
                layers=layers or ((3, 4, 6, 3) if deep else (2, 2, 2, 2)),
                midplanes=midplanes or ("ig65m" if deep else "torchvision"),
                width=width,
                bn_eps=bn_eps if bn_eps is not None else (1e-3 if deep else 1e-5),
                bn_momentum=bn_momentum if bn_momentum is not None else (0.9 if deep else 0.1),
                gradient_checkpointing=gradient_checkpointing,
            )
        load_weights(self.network, weights, HEADS)
        self.layout = torch.channels_last_3d if channels_last else torch.contiguous_format
        self.network.to(memory_format=self.layout)  # type: ignore[call-overload]
        self.dim = 8 * width
        assert self.spec.size is not None
        rows, columns = (-(-side // 16) for side in self.spec.size)
        self.grid = (rows, columns, self.dim)
        self.freeze_unless_trainable()

    @property
    def stem(self) -> nn.Module:
        """See `VideoEncoder.stem`."""
        return self.network.stem

    def encode(self, clips: Tensor) -> VideoFeatures:
        """See `VideoEncoder.encode`; one unit per pass, all values >= 0."""
        x = rearrange(clips, "n t c h w -> n c t h w").contiguous(memory_format=self.layout)
        cells = rearrange(self.network.maps(x).mean(2), "n c h w -> n 1 h w c")
        return VideoFeatures(frames=cells.mean((2, 3)), grid=cells)
