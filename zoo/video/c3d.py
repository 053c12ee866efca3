"""C3D: "Learning Spatiotemporal Features with 3D Convolutional Networks", Tran et al., ICCV 2015.

arXiv:1412.0767. Weights trained on Sports-1M, converted from Caffe.

Differs from the authors' program:
- the mean is one number per colour, not a volume of 16 frames;
- `pool5` pads by one on both sides, as the converted networks do; `pool5="caffe"` has the original rule;
- an incomplete last window repeats the last frame.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from ..weights import load_weights, reproducible
from .base import VideoEncoder, VideoFeatures
from .options import adapted, checkpointed
from .published import published

Feature = Literal["fc6", "fc7"]
Pool5 = Literal["port", "caffe"]
# names of the convolutions of each stage, and their channels as multiples of the first one's
STAGES = (
    (("conv1",), 1),
    (("conv2",), 2),
    (("conv3a", "conv3b"), 4),
    (("conv4a", "conv4b"), 8),
    (("conv5a", "conv5b"), 8),
)


def usual_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename mmaction2's ``conv1a.conv.weight`` to ``conv1.weight``; other names stay."""
    return {
        re.sub(r"(^|\.)conv([12](?=a)|[345][ab])a?\.conv\.", r"\1conv\2.", name): tensor
        for name, tensor in state.items()
    }


class C3DNetwork(nn.Module):
    """The network with the names of the usual Sports-1M conversions.

    Args:
        last: layer to end with when there are no classes; the network has nothing beyond it.
        num_classes: width of the head `fc8`, which needs ``last="fc7"``; None leaves it out.
        pool5: `port` pads by one on both sides, so that windows begin one cell outside; `caffe` lets the last
            window hang over instead. The shapes are equal, the values differ.
        width: channels of the first stage; the others have 2, 4, 8 and 8 times as many.
        hidden: width of `fc6` and `fc7`.
        size: side of the square input in pixels, 16 times an odd number.
        gradient_checkpointing: compute the activations of stages twice instead of keeping them.

    Raises:
        ValueError: `size` does not suit, or there are classes without `fc7`.
    """

    def __init__(
        self,
        last: Feature = "fc6",
        num_classes: int | None = None,
        pool5: Pool5 = "port",
        width: int = 64,
        hidden: int = 4096,
        size: int = 112,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if size % 32 != 16:
            raise ValueError(f"size={size}: the side in pixels is 16 times an odd number, e.g. 48 or 112")
        if num_classes is not None and last != "fc7":
            raise ValueError(f"num_classes={num_classes} needs last='fc7', not '{last}': classes stand behind it")
        self.gradient_checkpointing = gradient_checkpointing
        inputs = 3
        for names, multiple in STAGES:
            for name in names:
                convolution = nn.Conv3d(inputs, width * multiple, 3, padding=1)
                nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")  # nothing else keeps the scale
                self.add_module(name, convolution)
                inputs = width * multiple
        self.pool1 = nn.MaxPool3d((1, 2, 2))
        self.pool2, self.pool3, self.pool4 = (nn.MaxPool3d(2) for _ in range(3))
        self.pool5 = nn.MaxPool3d(2, padding=(0, 1, 1)) if pool5 == "port" else nn.MaxPool3d(2, ceil_mode=True)
        self.relu, self.dropout = nn.ReLU(inplace=True), nn.Dropout(0.5)
        self.fc6 = nn.Linear(inputs * (size // 32 + 1) ** 2, hidden)
        self.fc7 = nn.Linear(hidden, hidden) if last == "fc7" else None
        self.fc8 = nn.Linear(hidden, num_classes) if num_classes is not None else None

    def maps(self, x: Tensor) -> Tensor:
        """Output of `pool5`.

        Args:
            x: ``(N, 3, 16, size, size)``, blue first, in [0, 255] less the mean (`C3D` has both variants).

        Returns:
            ``(N, 8 * width, 1, s, s)``, 4 x 4 cells for 112 pixels, >= 0.
        """
        for number, (names, _) in enumerate(STAGES, start=1):
            convolutions = (layer for name in names for layer in (self.get_submodule(name), self.relu))
            stage = nn.Sequential(*convolutions, self.get_submodule(f"pool{number}"))
            x = checkpointed(stage, x) if self.gradient_checkpointing else stage(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, num_classes)``, or without a head the last layer ``(N, hidden)``, >= 0; see `maps`."""
        x = self.relu(self.fc6(self.maps(x).flatten(1)))
        if self.fc7 is not None:
            x = self.relu(self.fc7(self.dropout(x)))
        return x if self.fc8 is None else self.fc8(self.dropout(x))


class C3D(VideoEncoder):
    """C3D features of windows of 16 frames, after ReLU; no grid.

    Args:
        weights: a file of the variant, with the names of either conversion; `random` starts from random numbers.
        variant: which published weights. `c3d_sports1m` reads BGR, resized to 128 x 171, less the colours' mean
            over Sports-1M; `c3d_sports1m_mmaction2` reads RGB, shorter side 128, less ImageNet's mean.
        output: which layer is the feature; `fc6` is what the field means by "C3D features".
        pool5: see `C3DNetwork`; `port` is what the converted weights were published with.
        stride: frames between units; None takes the variant's 8.
        fps: frames per second to read; None takes the variant's, which is the file's own rate.
        size: side of the square input in pixels, 16 times an odd number; None takes the variant's 112, the only
            one that the published `fc6` fits.
        width: channels of the first stage.
        hidden: width of `fc6` and `fc7`, and `dim`.
        trainable: whether a task may train it.
        gradient_checkpointing: compute the activations of stages twice instead of keeping them.
        channels_last: memory layout of weights and input; on most hardware the faster one.

    Raises:
        FileNotFoundError: `weights` does not exist.
        ValueError: `weights` are not those of this network, `variant` is unknown or `size` does not suit.
    """

    def __init__(
        self,
        weights: str | Path,
        variant: Literal["c3d_sports1m", "c3d_sports1m_mmaction2"] = "c3d_sports1m",
        output: Feature = "fc6",
        pool5: Pool5 = "port",
        stride: int | None = None,
        fps: float | None = None,
        size: int | None = None,
        width: int = 64,
        hidden: int = 4096,
        trainable: bool = False,
        gradient_checkpointing: bool = False,
        channels_last: bool = True,
    ) -> None:
        super().__init__(trainable)
        self.spec = adapted(published(variant, "C3D").spec, stride, fps, size)
        self.dim = hidden
        assert self.spec.size is not None
        with reproducible():
            self.network = C3DNetwork(
                output,
                pool5=pool5,
                width=width,
                hidden=hidden,
                size=self.spec.size[0],
                gradient_checkpointing=gradient_checkpointing,
            )
        beyond = ("fc8.", "cls_head.") if output == "fc7" else ("fc7.", "fc8.", "cls_head.")
        load_weights(self.network, weights, beyond, convert=usual_names)
        self.layout = torch.channels_last_3d if channels_last else torch.contiguous_format
        self.network.to(memory_format=self.layout)  # type: ignore[call-overload]
        self.freeze_unless_trainable()

    def encode(self, clips: Tensor) -> VideoFeatures:
        """See `VideoEncoder.encode`; one unit per pass, all values >= 0."""
        x = rearrange(clips, "n t c h w -> n c t h w").contiguous(memory_format=self.layout)
        return VideoFeatures(frames=self.network(x)[:, None])
