"""VGG16 against reference outputs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from fill import case_input, filled, relative_error
from golden_files import golden_cases
from stages import TOLERANCE, check_stage, watched

from groundzoo.zoo.video.published import PUBLISHED
from groundzoo.zoo.video.vgg16 import VGG16, VGG16Network

pytestmark = pytest.mark.golden
STAGES = {  # by what the files call them
    "pool5": "features.30",
    "avg7": "avgpool",
    "fc6_relu": "classifier.1",
    "fc7_pre": "classifier.3",
    "fc7_relu": "classifier.4",
    "logits": "classifier.6",
}


@pytest.mark.parametrize("path", golden_cases("zoo", "vgg16*.json"), ids=lambda p: p.stem)
def test_forward(path: Path) -> None:
    cases = json.loads(path.read_text())["cases"]
    with np.load(path.with_suffix(".npz"), allow_pickle=False) as data:
        arrays = dict(data)
    with torch.device("meta"):
        network, encoder = VGG16Network(num_classes=1000), VGG16("random")
    network.load_state_dict(filled(network), assign=True)
    network.eval()
    body = {k: v for k, v in network.state_dict().items() if not k.startswith("classifier.6.")}
    encoder.network.load_state_dict(body, assign=True)
    assert cases
    for name, case in cases.items():
        x = case_input(name, case["input_shape"])
        fc6: list[torch.Tensor] = []
        handle = network.classifier[1].register_forward_hook(lambda _m, _i, out, fc6=fc6: fc6.append(out))
        modules = {STAGES.get(stage, stage) for stage in case["stages"]}
        with torch.no_grad(), watched(network, modules) as stages:
            logits = network(x)
        handle.remove()
        with torch.no_grad():
            out = encoder.encode(x[:, None])
        assert out.grid is None
        assert out.frames.shape == (x.shape[0], 1, encoder.dim)
        for stage, expected in case["stages"].items():
            check_stage(f"{name} {stage}", stages[STAGES.get(stage, stage)], expected)
        errors = {
            "fc6_relu": relative_error(fc6[0], arrays[f"{name}:fc6_relu"]),
            "fc7_relu": relative_error(out.frames[:, 0], arrays[f"{name}:fc7_relu"]),
            "logits": relative_error(logits, arrays[f"{name}:logits"]),
        }
        print(name, errors)
        assert max(errors.values()) < TOLERANCE, errors


@pytest.mark.parametrize("path", golden_cases("zoo", "keys/vgg16.json"), ids=lambda p: p.stem)
def test_names_and_counts(path: Path) -> None:
    expected = json.loads(path.read_text())
    with torch.device("meta"):
        network, feature = VGG16Network(num_classes=1000), VGG16Network()
    assert {name: list(value.shape) for name, value in network.state_dict().items()} == expected["keys"]
    assert len(expected["keys"]) == expected["n_keys"]
    assert sum(p.numel() for p in network.parameters()) == expected["parameters"]
    assert sum(p.numel() for p in feature.parameters()) == PUBLISHED["vgg16_imagenet"].parameters
