"""Video Swin against the outputs of the authors' network on the same numbers."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from einops import rearrange
from fill import case_input, fill_value, filled, relative_error
from golden_files import golden_cases
from torch import Tensor

from groundzoo.zoo.video.video_swin import (
    BLOCKED,
    VideoSwinNetwork,
    inflate,
    relative_position_index,
    shift_mask,
)

pytestmark = pytest.mark.golden
FILES = golden_cases("zoo", "video_swin*.json")
TOLERANCE = 3e-5  # of the largest value; the tanh form of GELU is off by 1e-4


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    with np.load(path.with_suffix(".npz"), allow_pickle=False) as arrays:
        return json.loads(path.read_text(encoding="utf-8")), dict(arrays)


def check_summary(found: Tensor, expected: dict[str, Any], where: str) -> None:
    assert list(found.shape) == expected["shape"], where
    x = found.double()
    summary = [x.mean(), x.std(correction=0), x.abs().max(), *x.flatten()[:8]]
    wanted = [expected["mean"], expected["std"], expected["absmax"], *expected["first8"]]
    assert float((torch.stack(summary) - torch.tensor(wanted)).abs().max()) < TOLERANCE * expected["absmax"], where


def keep(seen: dict[str, Tensor], stage: str) -> Callable[..., None]:
    def hook(_module: torch.nn.Module, _inputs: object, output: Tensor) -> None:
        seen[stage] = output

    return hook


@pytest.mark.parametrize("path", FILES)
def test_every_stage(path: Path) -> None:
    cases, arrays = read(path)
    for name, case in cases["cases"].items():
        network = VideoSwinNetwork(**case["config"]).eval()
        network.load_state_dict(filled(network))
        assert len(network.state_dict()) == case["n_keys"]
        assert sum(p.numel() for p in network.parameters()) == case["parameters"]
        seen: dict[str, Tensor] = {}
        for stage in case["stages"]:
            network.get_submodule(stage).register_forward_hook(keep(seen, stage))
        with torch.no_grad():
            seen["grid"] = network(case_input(name, case["input_shape"]))
        for stage, out in seen.items():  # blocks were recorded with channels last
            seen[stage] = out if ".blocks." in stage else rearrange(out, "b t h w c -> b c t h w")
            check_summary(
                seen[stage], case["grid"] if stage == "grid" else case["stages"][stage], f"{name} {stage}"
            )
        steps = {"grid": case["grid_channel_step"], "patch_embed": 8, "layer0": 8}
        compared = [key for key in steps if f"{name}:{key}" in arrays]
        assert "grid" in compared
        for key in compared:
            found = seen["layers.0" if key == "layer0" else key][:, :: steps[key]]
            assert relative_error(found, arrays[f"{name}:{key}"]) < TOLERANCE, f"{name} {key}"


@pytest.mark.parametrize("path", FILES)
def test_masks(path: Path) -> None:
    cases, arrays = read(path)
    for i, case in enumerate(cases["shift_masks"]):
        masks, which = shift_mask(*(tuple(case[k]) for k in ("size", "window", "shift")))
        blocked = masks[which]
        assert list(blocked.shape) == case["shape"]
        assert blocked.sum((1, 2)).tolist() == case["blocked_per_window"]
        assert int(blocked.sum()) == case["blocked_total"]
        assert {BLOCKED * x for x in blocked.unique().tolist()} == set(case["values"])
        if f"mask{i}_blocked" in arrays:
            assert np.array_equal(blocked.numpy(), arrays[f"mask{i}_blocked"])


@pytest.mark.parametrize("path", FILES)
def test_relative_positions(path: Path) -> None:
    cases, arrays = read(path)
    for case in cases["relative_position_index"]:
        index = relative_position_index(tuple(case["window"]))
        assert list(index.shape) == case["shape"]
        assert int(index.sum()) == case["sum"]
        assert index[0, :16].tolist() == case["first_row_first16"]
        assert index[-1, -16:].tolist() == case["last_row_last16"]
        assert int(index.max()) + 1 == math.prod(2 * n - 1 for n in case["window"]) == case["table_rows"]
        assert hashlib.sha256(index.numpy().tobytes()).hexdigest() == case["sha256_int64_bytes"]
        name = "rpi_" + "_".join(map(str, case["window"]))
        assert name not in arrays or np.array_equal(index.numpy(), arrays[name])


@pytest.mark.parametrize("path", FILES)
def test_inflation(path: Path) -> None:
    cases, arrays = read(path)
    config = cases["inflate"]["config"]
    network = VideoSwinNetwork(**config)
    compared = 0
    for tag, window in cases["inflate"]["window_2d"].items():
        flat: dict[str, Tensor] = {}
        for key, value in network.state_dict().items():
            if key == "patch_embed.proj.weight":
                flat[key] = fill_value(f"2d:{tag}:{key}", (*value.shape[:2], *value.shape[3:]))
            elif key.endswith("relative_position_bias_table"):
                flat[key] = fill_value(f"2d:{tag}:{key}", ((2 * window - 1) ** 2, value.shape[1]))
        found = inflate(flat, network.patch_embed.patch_size[0], tuple(config["window_size"]))
        for key in (k for k in flat if f"inflate_{tag}:{k}" in arrays):
            expected = arrays[f"inflate_{tag}:{key}"]
            assert found[key].shape == expected.shape == network.state_dict()[key].shape
            assert relative_error(found[key], expected) < TOLERANCE, f"{tag} {key}"
            compared += 1
    assert compared == sum(name.startswith("inflate_") for name in arrays) > 0
