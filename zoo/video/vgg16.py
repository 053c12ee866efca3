"""VGG16: "Very Deep Convolutional Networks for Large-Scale Image Recognition", Simonyan and Zisserman, ICLR 2015.

arXiv:1409.1556. Weights in the layout of torchvision, trained on ImageNet. Features of the Caffe release (blue
first, values in [0, 255]) are others and need other weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from einops import rearrange
from torch import Tensor, nn

from ..weights import load_weights, reproducible
from .base import VideoEncoder, VideoFeatures
from .options import adapted, checkpointed
from .published import published

# convolutions of each stage, and their channels as multiples of the first one's
STAGES = ((2, 1), (2, 2), (3, 4), (3, 8), (3, 8))


class VGG16Network(nn.Module):
    """The network with torchvision's names, ending with `fc7` (``classifier.4``) or with classes.

    Args:
        num_classes: width of the head ``classifier.6``; None leaves it out.
        width: channels of the first stage; the others have 2, 4, 8 and 8 times as many.
        hidden: width of `fc6` and `fc7`.
        gradient_checkpointing: compute the activations of stages twice instead of keeping them.
    """

    def __init__(
        self,
        num_classes: int | None = None,
        width: int = 64,
        hidden: int = 4096,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.gradient_checkpointing = gradient_checkpointing
        layers: list[nn.Module] = []
        self.ends: list[int] = []  # where each stage ends in `features`
        inputs = 3
        for convolutions, multiple in STAGES:
            for _ in range(convolutions):
                layers += [nn.Conv2d(inputs, width * multiple, 3, padding=1), nn.ReLU(inplace=True)]
                inputs = width * multiple
            layers.append(nn.MaxPool2d(2))
            self.ends.append(len(layers))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        head = [nn.Dropout(0.5), nn.Linear(hidden, num_classes)] if num_classes is not None else []
        self.classifier = nn.Sequential(
            nn.Linear(inputs * 49, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            *head,
        )
        for module in self.features:
            if isinstance(module, nn.Conv2d):  # as torchvision starts: deep stacks without norms need it
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Compute features or logits.

        Args:
            x: ``(N, 3, H, W)``, normalised, sides of at least 32.

        Returns:
            `fc7` after ReLU, ``(N, hidden)``; with a head, logits ``(N, num_classes)``.
        """
        start = 0
        for end in self.ends:
            stage = self.features[start:end]
            x = checkpointed(stage, x) if self.gradient_checkpointing else stage(x)
            start = end
        out: Tensor = self.classifier(self.avgpool(x).flatten(1))
        return out


class VGG16(VideoEncoder):
    """VGG16's `fc7` after ReLU, frame by frame; no grid.

    Args:
        weights: a file of the variant; `random` starts from random numbers.
        variant: which published weights.
        stride: frames between units; None takes the variant's 8.
        fps: frames per second to read; None takes the variant's, which is the file's own rate.
        size: side of the square input in pixels, from 32 up; None takes the variant's 224.
        width: channels of the first stage.
        hidden: width of `fc6` and `fc7`, and `dim`.
        trainable: whether a task may train it.
        gradient_checkpointing: compute the activations of stages twice instead of keeping them.

    Raises:
        FileNotFoundError: `weights` does not exist.
        ValueError: `weights` are not those of this network, or `variant` is unknown.
    """

    def __init__(
        self,
        weights: str | Path,
        variant: Literal["vgg16_imagenet"] = "vgg16_imagenet",
        stride: int | None = None,
        fps: float | None = None,
        size: int | None = None,
        width: int = 64,
        hidden: int = 4096,
        trainable: bool = False,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__(trainable)
        self.spec = adapted(published(variant, "VGG16").spec, stride, fps, size)
        self.dim = hidden
        with reproducible():
            self.network = VGG16Network(width=width, hidden=hidden, gradient_checkpointing=gradient_checkpointing)
        load_weights(self.network, weights, heads=("classifier.6.",))
        self.freeze_unless_trainable()

    def encode(self, clips: Tensor) -> VideoFeatures:
        """See `VideoEncoder.encode`; one frame and one unit per pass, all values >= 0."""
        return VideoFeatures(frames=self.network(rearrange(clips, "n 1 c h w -> n c h w"))[:, None])
