"""The deterministic numbers that the reference outputs of `golden/zoo` and `golden/satsp` were made with."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn


def uniform(name: str, n: int) -> np.ndarray:
    """n numbers in [0, 1), float32, that depend on `name` alone."""
    with np.errstate(over="ignore"):
        x = np.arange(n, dtype=np.uint32) + np.uint32(zlib.crc32(name.encode()))
        x = x * np.uint32(2654435761)
        x ^= x >> np.uint32(16)
        x = x * np.uint32(2246822519)
        x ^= x >> np.uint32(13)
    return (x.astype(np.float64) / 2**32).astype(np.float32)


def fill_value(key: str, shape: Sequence[int]) -> Tensor:
    """The value of one entry of a state dict."""
    shape = tuple(shape)
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    u = uniform(key, math.prod(shape)).astype(np.float64)
    last = key.rpartition(".")[2]
    if len(shape) >= 3:
        value = math.sqrt(6 / math.prod(shape[1:])) * (2 * u - 1)
    elif len(shape) == 2:
        value = (2 * u - 1) / math.sqrt(shape[1])
    elif len(shape) == 1:
        value = 0.5 + u if last in ("weight", "running_var") else 0.2 * (2 * u - 1)
    else:
        value = 1 + u
    return torch.from_numpy(value.astype(np.float32)).reshape(shape)


def filled(module: nn.Module) -> dict[str, Tensor]:
    """A state dict for `module`; integer buffers keep the module's own values."""
    return {
        k: v if not v.is_floating_point() and not k.endswith("num_batches_tracked") else fill_value(k, v.shape)
        for k, v in module.state_dict().items()
    }


def case_input(case: str, shape: Sequence[int]) -> Tensor:
    """The input of a golden case, in [-1, 1)."""
    return torch.from_numpy(2 * uniform(f"input:{case}", math.prod(shape)) - 1).reshape(tuple(shape))


def relative_error(found: Tensor, expected: Tensor | np.ndarray) -> float:
    """Largest absolute error over the largest absolute value."""
    expected = torch.as_tensor(np.asarray(expected), dtype=torch.float64)
    return float((found.double().reshape(expected.shape) - expected).abs().max() / expected.abs().max())
