"""C3D against outputs of the usual Sports-1M conversions, in the names of both."""

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
from torch import Tensor

from groundzoo.zoo.video.c3d import C3D, C3DNetwork, usual_names
from groundzoo.zoo.video.published import PUBLISHED

pytestmark = pytest.mark.golden
CASES = pytest.mark.parametrize("path", golden_cases("zoo", "c3d*.json"), ids=lambda p: p.stem)
KEYS = golden_cases("zoo", "keys/c3d_davidea.json")


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    with np.load(path.with_suffix(".npz"), allow_pickle=False) as data:
        return json.loads(path.read_text())["cases"], dict(data)


@pytest.fixture(scope="module")
def network() -> C3DNetwork:
    """The whole network with the golden weights."""
    with torch.device("meta"):
        network = C3DNetwork("fc7", num_classes=487)
    network.load_state_dict(filled(network), assign=True)
    return network.eval()


def encoder(network: C3DNetwork, **options: Any) -> C3D:
    """The encoder around the same tensors."""
    with torch.device("meta"):
        encoder = C3D("random", **options)
    names = encoder.network.state_dict().keys()
    encoder.network.load_state_dict({k: v for k, v in network.state_dict().items() if k in names}, assign=True)
    return encoder


@CASES
def test_network(path: Path, network: C3DNetwork) -> None:
    cases, arrays = read(path)
    for name, case in cases.items():
        x = case_input(name, case["input_shape"])
        pools: list[Tensor] = []
        handle = network.pool5.register_forward_hook(lambda _m, _i, out, pools=pools: pools.append(out))
        with torch.no_grad(), watched(network, case["stages"]) as stages:
            logits = network(x)
        handle.remove()
        for stage, expected in case["stages"].items():
            check_stage(f"{name} {stage}", stages[stage], expected)
        step = round(pools[0].shape[1] / arrays[f"{name}:pool5"].shape[1])
        errors = {
            "fc8": relative_error(logits, arrays[f"{name}:fc8"]),
            "probs": relative_error(logits.softmax(1), arrays[f"{name}:probs"]),
            "pool5": relative_error(pools[0][:, ::step], arrays[f"{name}:pool5"]),
        }
        print(name, errors)
        assert max(errors.values()) < TOLERANCE, errors


@CASES
@pytest.mark.parametrize("output", ["fc6", "fc7"])
def test_encoder(path: Path, output: Any, network: C3DNetwork) -> None:
    cases, arrays = read(path)
    encode = encoder(network, output=output).encode
    for name, case in cases.items():
        x = case_input(name, case["input_shape"])
        with torch.no_grad():
            out = encode(x.transpose(1, 2))
        assert out.grid is None
        error = relative_error(out.frames[:, 0], arrays[f"{name}:{output}_relu"])
        print(name, output, error)
        assert error < TOLERANCE


@CASES
def test_caffe_rule_of_the_last_pool_is_another_one(path: Path, network: C3DNetwork) -> None:
    """The authors of the files measured 0.4 of the largest value between the two."""
    cases, arrays = read(path)
    encode = encoder(network, pool5="caffe").encode
    name, case = next(iter(cases.items()))
    with torch.no_grad():
        out = encode(case_input(name, case["input_shape"]).transpose(1, 2))
    assert 0.2 < relative_error(out.frames[:, 0], arrays[f"{name}:fc6_relu"]) < 0.6


@pytest.mark.parametrize("path", KEYS, ids=lambda p: p.stem)
def test_names_and_counts(path: Path) -> None:
    expected = json.loads(path.read_text())
    with torch.device("meta"):
        network, feature = C3DNetwork("fc7", num_classes=487), C3DNetwork("fc6")
    assert {name: list(value.shape) for name, value in network.state_dict().items()} == expected["keys"]
    assert len(expected["keys"]) == expected["n_keys"]
    assert sum(p.numel() for p in network.parameters()) == expected["parameters"]
    count = sum(p.numel() for p in feature.parameters())
    assert count == expected["parameters_to_fc6"]
    assert {entry.parameters for entry in PUBLISHED.values() if entry.encoder == "C3D"} == {count}


@pytest.mark.parametrize("path", golden_cases("zoo", "keys/c3d_mmaction2.json"), ids=lambda p: p.stem)
def test_names_of_mmaction2(path: Path) -> None:
    expected = json.loads(path.read_text())
    with torch.device("meta"):
        theirs = {name: torch.empty(shape) for name, shape in expected["keys"].items()}
        network = C3DNetwork("fc7")
    assert sum(p.numel() for p in network.parameters()) == expected["parameters"]
    renamed = usual_names(theirs)
    assert {k: v.shape for k, v in renamed.items()} == {k: v.shape for k, v in network.state_dict().items()}
    for ours, name in expected["rename_from_davidea"].items():
        assert renamed[ours] is theirs[name]
    prefixed = usual_names({f"backbone.{name}": value for name, value in theirs.items()})
    assert prefixed.keys() == {f"backbone.{name}" for name in renamed}
    assert usual_names(renamed) == renamed
