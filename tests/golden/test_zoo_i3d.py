"""I3D against outputs of the usual PyTorch port, RGB and flow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fill import case_input, filled, relative_error
from golden_files import golden_cases
from stages import TOLERANCE, check_stage, watched

from groundzoo.zoo.video.i3d import I3D, SHORTEST, I3DNetwork
from groundzoo.zoo.video.published import PUBLISHED

pytestmark = pytest.mark.golden
CASES = pytest.mark.parametrize("path", golden_cases("zoo", "i3d*.json"), ids=lambda p: p.stem)
KEYS = pytest.mark.parametrize("path", golden_cases("zoo", "keys/i3d*.json"), ids=lambda p: p.stem)


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    with np.load(path.with_suffix(".npz"), allow_pickle=False) as data:
        return json.loads(path.read_text())["cases"], dict(data)


def network(channels: int, classes: int | None) -> I3DNetwork:
    with torch.device("meta"):
        network = I3DNetwork(channels, classes)
    network.load_state_dict(filled(network), assign=True)
    return network.eval()


@CASES
def test_network(path: Path) -> None:
    """Every stage, the last maps, and where the picture is large enough the features and the logits."""
    cases, arrays = read(path)
    for name, case in cases.items():
        logits = arrays.get(f"{name}:logits")
        net = network(case["input_shape"][1], None if logits is None else logits.shape[1])
        x = case_input(name, case["input_shape"])
        with torch.no_grad(), watched(net, case["stages"]) as stages:
            maps = net.maps(x)
        errors = {stage: check_stage(f"{name} {stage}", stages[stage], case["stages"][stage]) for stage in stages}
        assert errors.keys() == case["stages"].keys()
        found = {"mixed_5c_grid": maps[:, :: case["mixed_5c_channel_step"]]}
        if logits is not None:
            net.maps = lambda _x, maps=maps: maps  # type: ignore[method-assign]  # what stands before is done
            with torch.no_grad():
                found |= {"features": net.features(x), "logits": net(x)}
        for output, value in found.items():
            expected = arrays[f"{name}:{output}"]
            assert value.shape == expected.shape
            errors[output] = relative_error(value, expected)
        print(name, max(errors.values()), errors)
        assert max(errors.values()) < TOLERANCE, errors


@CASES
def test_encoder(path: Path) -> None:
    """The vector is the mean of the port's features over time, the grid that of its maps."""
    cases, arrays = read(path)
    for name, case in cases.items():
        _, channels, window, height, _ = case["input_shape"]
        if window < SHORTEST:
            continue
        variant: Any = "i3d_rgb_kinetics" if channels == 3 else "i3d_flow_kinetics"
        with torch.device("meta"):
            encoder = I3D("random", variant, window=window, size=height)
        encoder.network.load_state_dict(filled(encoder.network), assign=True)
        x = case_input(name, case["input_shape"])
        if channels == 2:  # the blue of a flow video means nothing
            x = torch.cat([x, torch.full_like(x[:, :1], 100)], dim=1)
        with torch.no_grad():
            out = encoder.encode(x.transpose(1, 2))
        maps = torch.from_numpy(arrays[f"{name}:mixed_5c_grid"]).mean(2)
        assert out.grid is not None
        cells = out.grid[:, 0, ..., :: case["mixed_5c_channel_step"]]
        errors = {"grid": relative_error(cells, maps.permute(0, 2, 3, 1))}
        if f"{name}:features" in arrays and arrays[f"{name}:features"].shape[3:] == (1, 1):
            errors["vector"] = relative_error(out.frames[:, 0], arrays[f"{name}:features"].mean((2, 3, 4)))
        print(name, errors)
        assert max(errors.values()) < TOLERANCE, errors


@KEYS
def test_names_and_counts(path: Path) -> None:
    expected = json.loads(path.read_text())
    channels = expected["keys"]["Conv3d_1a_7x7.conv3d.weight"][1]
    classes = expected["keys"]["logits.conv3d.weight"][0]
    with torch.device("meta"):
        whole, features = I3DNetwork(channels, classes), I3DNetwork(channels)
    assert {name: list(value.shape) for name, value in whole.state_dict().items()} == expected["keys"]
    assert len(expected["keys"]) == expected["n_keys"]
    assert sum(p.numel() for p in whole.parameters()) == expected["parameters"]
    count = sum(p.numel() for p in features.parameters())
    assert count == expected["parameters_without_logits"]
    kind = "i3d_rgb" if channels == 3 else "i3d_flow"
    assert {entry.parameters for name, entry in PUBLISHED.items() if name.startswith(kind)} == {count}
