"""Widths of the nine blocks of Inception-v1 (Szegedy et al., CVPR 2015, arXiv:1409.4842), in I3D and S3D-G."""

from __future__ import annotations

from typing import NamedTuple


class Branches(NamedTuple):
    """Channels of the convolutions of one block; its output has ``b0 + b1b + b2b + b3b``.

    Attributes:
        b0: the 1 x 1 x 1 convolution.
        b1a: the narrow layer before the first 3 x 3 x 3 convolution.
        b1b: that convolution.
        b2a: the narrow layer before the second one.
        b2b: that convolution.
        b3b: the 1 x 1 x 1 convolution behind the pool.
    """

    b0: int
    b1a: int
    b1b: int
    b2a: int
    b2b: int
    b3b: int

    @property
    def outputs(self) -> int:
        """Channels of the block's output."""
        return self.b0 + self.b1b + self.b2b + self.b3b


_BLOCKS = {
    "3b": Branches(64, 96, 128, 16, 32, 32),
    "3c": Branches(128, 128, 192, 32, 96, 64),
    "4b": Branches(192, 96, 208, 16, 48, 64),
    "4c": Branches(160, 112, 224, 24, 64, 64),
    "4d": Branches(128, 128, 256, 24, 64, 64),
    "4e": Branches(112, 144, 288, 32, 64, 64),
    "4f": Branches(256, 160, 320, 32, 128, 128),
    "5b": Branches(256, 160, 320, 32, 128, 128),
    "5c": Branches(384, 192, 384, 48, 128, 128),
}


def inception_blocks(width: int = 64) -> dict[str, Branches]:
    """The blocks by name, in order.

    Args:
        width: channels of the first convolution of the network; all widths are in proportion.

    Raises:
        ValueError: `width` is no positive multiple of 8.
    """
    if width < 8 or width % 8:
        raise ValueError(f"width={width}: the first convolution has a multiple of 8 channels, 64 as published")
    return {name: Branches(*(n * width // 64 for n in branches)) for name, branches in _BLOCKS.items()}
