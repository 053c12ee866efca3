"""Options that many encoders offer: another rate, stride or size, and gradient checkpointing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from .spec import FrameSpec


def adapted(
    spec: FrameSpec,
    stride: int | None = None,
    fps: float | None = None,
    size: int | None = None,
    window: int | None = None,
    resize: tuple[int, int] | None = None,
) -> FrameSpec:
    """A published way to feed an encoder with some of it changed.

    Args:
        spec: the published one.
        stride: frames between units; None keeps it.
        fps: frames per second; None keeps it.
        size: side of the square that the encoder sees, in pixels; the size before the crop grows or shrinks
            with it. None keeps it.
        window: frames per unit, of networks that take any number; None keeps it.
        resize: (height, width) in pixels before the crop; None keeps what `size` makes of it.

    Raises:
        ValueError: the values contradict each other.
    """
    changes: dict[str, Any] = {"stride": stride, "fps": fps, "window": window}
    if size is not None and spec.size is not None:
        changes["size"], scale = (size, size), size / min(spec.size)
        if isinstance(spec.resize, int):
            changes["resize"] = round(spec.resize * scale)
        elif spec.resize is not None:
            changes["resize"] = tuple(round(side * scale) for side in spec.resize)
    if resize is not None:
        changes["resize"] = tuple(resize)
    return dataclasses.replace(spec, **{k: v for k, v in changes.items() if v is not None})


def checkpointed(module: nn.Module, x: Tensor) -> Tensor:
    """``module(x)`` whose activations are computed again for the gradient instead of being kept.

    Batch statistics enter the running ones once, as without checkpointing.
    """
    if not torch.is_grad_enabled():
        return module(x)  # type: ignore[no-any-return]
    contexts = lambda: (nullcontext(), _uncounted(module))  # noqa: E731
    return checkpoint(module, x, use_reentrant=False, context_fn=contexts)  # type: ignore[no-any-return]


@contextmanager
def _uncounted(module: nn.Module) -> Iterator[None]:
    """Batch norms inside normalise as before, but leave their running statistics as they are."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    try:
        for norm in norms:
            norm.momentum, norm.num_batches_tracked = 0.0, None
        yield
    finally:
        for norm, momentum, batches in before:
            norm.momentum, norm.num_batches_tracked = momentum, batches
