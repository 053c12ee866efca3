"""What a network's stages give, beside what a golden file says they give."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

TOLERANCE = 1e-4  # of the largest value


class Stage(NamedTuple):
    """Figures of one stage, as the golden files hold them."""

    shape: list[int]
    mean: float
    std: float
    absmax: float
    first8: Tensor


@contextmanager
def watched(network: nn.Module, names: Iterable[str]) -> Iterator[dict[str, Stage]]:
    """Collect the figures of modules while the network runs, before a later layer writes over their output."""
    found: dict[str, Stage] = {}

    def watch(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            x = output.detach().double()
            std = float(x.std(correction=0))
            found[name] = Stage(list(x.shape), float(x.mean()), std, float(x.abs().max()), x.flatten()[:8])

        return hook

    handles = [network.get_submodule(name).register_forward_hook(watch(name)) for name in names]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def check_stage(name: str, found: Stage, expected: Mapping[str, Any]) -> float:
    """Compare one stage; returns the largest error of the first values over the stage's largest value."""
    assert found.shape == expected["shape"], name
    np.testing.assert_allclose(found.mean, expected["mean"], atol=TOLERANCE * found.absmax, err_msg=name)
    np.testing.assert_allclose(found.std, expected["std"], rtol=TOLERANCE, err_msg=name)
    if "absmax" in expected:
        np.testing.assert_allclose(found.absmax, expected["absmax"], rtol=TOLERANCE, err_msg=name)
    first8 = torch.tensor(expected["first8"], dtype=torch.float64)
    error = float((found.first8 - first8).abs().max()) / found.absmax
    assert error < TOLERANCE, f"{name}: {error}"
    return error
