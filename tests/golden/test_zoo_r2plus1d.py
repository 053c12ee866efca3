"""R(2+1)D against outputs of torchvision's network with the changes of the IG-65M port."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fill import case_input, filled, relative_error
from golden_files import golden_cases
from stages import TOLERANCE, check_stage, watched
from torch import nn

from groundzoo.zoo.video.r2plus1d import BasicBlock, Layers, R2Plus1D, R2Plus1DNetwork, Rule

pytestmark = pytest.mark.golden
DEPTHS: dict[str, Layers] = {"18": (2, 2, 2, 2), "34": (3, 4, 6, 3)}
STATISTICS_TOLERANCE = 1e-3
BATCH_NORM = {"ig65m": (1e-3, 0.9), "torchvision": (1e-5, 0.1)}


def cases(pattern: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", golden_cases("satsp", pattern), ids=lambda p: p.stem)


def kind(name: str) -> tuple[Layers, Rule]:
    """Depth and rule of ``r2plus1d_34_ig65m...`` or ``r2plus1d_34/ig65m``."""
    match = re.match(r"r2plus1d_(18|34)[_/](ig65m|torchvision)", name)
    assert match is not None, name
    return DEPTHS[match[1]], match[2]  # type: ignore[return-value]


def build(name: str, num_classes: int = 400, momentum: float | None = None) -> R2Plus1DNetwork:
    """A network of the golden weights, in eval mode."""
    layers, rule = kind(name)
    eps, usual = BATCH_NORM[rule]
    with torch.device("meta"):
        network = R2Plus1DNetwork(layers, rule, 64, eps, usual if momentum is None else momentum, num_classes)
    network.load_state_dict(filled(network), assign=True)
    return network.eval()


def middle_widths(network: R2Plus1DNetwork) -> dict[str, int]:
    return {
        f"{name}.{half}": block.get_submodule(f"{half}.0.0").out_channels
        for name, block in network.named_modules()
        if isinstance(block, BasicBlock)
        for half in ("conv1", "conv2")
    }


@cases("r2plus1d_*.npz")
def test_forward(path: Path) -> None:
    content = json.loads(path.with_suffix(".json").read_text())
    probes = content.get("probe_weights_first4", {})
    found_cases = {name: case for name, case in content.items() if "input_shape" in case}
    with np.load(path, allow_pickle=False) as data:
        arrays = dict(data)
    classes = next(v.shape[1] for k, v in arrays.items() if k.endswith("/logits"))
    network = build(path.stem, classes)
    state = network.state_dict()
    for name, values in probes.items():
        torch.testing.assert_close(state[name].flatten()[: len(values)], torch.tensor(values), rtol=1e-6, atol=0)
    layers, rule = kind(path.stem)
    variant = "r2plus1d_34_tsp" if rule == "ig65m" else "r2plus1d_18_kinetics"
    with torch.device("meta"):
        encoder = R2Plus1D("random", variant, layers=layers)
    body = {k: v for k, v in state.items() if not k.startswith("fc.")}
    encoder.network.load_state_dict(body, assign=True)
    assert found_cases
    for name, case in found_cases.items():
        x = case_input(name, case["input_shape"])
        with torch.no_grad(), watched(network, case["stages"]) as stages:
            logits = network(x)
        for stage, expected in case["stages"].items():
            check_stage(f"{name} {stage}", stages[stage], expected)
        with torch.no_grad():
            out = encoder.encode(x.transpose(1, 2))
        assert out.grid is not None
        vector, cells = out.frames[:, 0], out.grid
        last = case["stages"]["layer4"]["shape"]
        assert list(cells.shape) == [last[0], 1, *last[3:], last[1]]
        errors = {
            "logits": relative_error(logits, arrays[f"{name}/logits"]),
            "feature": relative_error(vector, arrays[f"{name}/feature"]),
            "grid": relative_error(cells.mean((1, 2, 3)), arrays[f"{name}/feature"]),
        }
        for precise in ("logits64", "feature64"):
            if f"{name}/{precise}" in arrays:
                found = logits if precise == "logits64" else vector
                errors[precise] = relative_error(found, arrays[f"{name}/{precise}"])
        print(path.stem, name, errors)
        assert max(errors.values()) < TOLERANCE, errors
        np.testing.assert_allclose(vector.norm(dim=1), case["feature_l2"], rtol=TOLERANCE)
        assert relative_error(logits[:, :8], case["logits_first8"]) < TOLERANCE
        assert logits.argmax(1).tolist() == case["logits_argmax"]


@cases("r2plus1d_*_grad*.json")
def test_gradient_and_training_statistics(path: Path) -> None:
    """In double precision: in single, one ReLU that rounds to the other side moves the gradient by 1e-3.

    The statistics of the last layers rest on eight values per channel, which lifts the rounding of the reference
    (in single precision) to 3e-4.
    """
    case: dict[str, Any] = json.loads(path.read_text())
    mode = case["train_mode"]
    network = build(path.stem, momentum=mode["momentum"]).double()
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm3d):
            assert norm.eps == mode["eps"]

    x = case_input(case["input"].removeprefix("input:"), case["shape"]).double().requires_grad_()
    network(x).sum().backward()
    assert x.grad is not None
    error = float((x.grad.flatten()[:8] - torch.tensor(case["grad_first8"])).abs().max() / x.grad.abs().max())
    np.testing.assert_allclose(float(x.grad.double().norm()), case["grad_l2"], rtol=TOLERANCE)

    network.zero_grad(set_to_none=True)
    with torch.no_grad():
        logits = network.train()(case_input(mode["input"].removeprefix("input:"), mode["shape"]).double())
    errors = {"gradient": error, "logits": relative_error(logits[:, :8], mode["logits_first8"])}
    state = network.state_dict()
    for key, expected in mode.items():
        if key.startswith(("stem.", "layer")):
            name = key.removesuffix("_first8")
            errors[name] = relative_error(state[name][: len(expected)], expected)
    print(path.stem, errors)
    assert max(errors.values()) < STATISTICS_TOLERANCE, errors
    assert errors["gradient"] < TOLERANCE
    assert len(errors) > 2


@cases("r2plus1d_*_state_dict_shapes*.json")
def test_state_dict_names_and_shapes(path: Path) -> None:
    layers, rule = kind(path.stem)
    with torch.device("meta"):
        network = R2Plus1DNetwork(layers, rule, num_classes=400)
    found = {name: list(value.shape) for name, value in network.state_dict().items()}
    assert found == json.loads(path.read_text())


@cases("r2plus1d_arch*.json")
def test_architecture(path: Path) -> None:
    for name, expected in json.loads(path.read_text()).items():
        layers, rule = kind(name)
        with torch.device("meta"):
            network = R2Plus1DNetwork(layers, rule, num_classes=400)
            bare = R2Plus1DNetwork(layers, rule)
        assert sum(p.numel() for p in network.parameters()) == expected["params_total_fc400"], name
        assert sum(p.numel() for p in bare.parameters()) == expected["params_backbone_no_fc"], name
        assert len(network.state_dict()) == expected["n_state_dict_entries"], name
        assert middle_widths(network) == expected["midplanes"], name
