"""The fill rule itself, before any network is held against it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from fill import case_input, fill_value, filled, relative_error, uniform
from golden_files import golden_cases
from torch import nn


@pytest.mark.golden
@pytest.mark.parametrize("path", golden_cases("zoo", "keys/fill_rule_spot_values.json"), ids=lambda p: p.stem)
def test_spot_values(path: Path) -> None:
    spots = json.loads(path.read_text())
    checked = 0
    for key, expected in spots.items():
        if match := re.fullmatch(r'u\("(.*)",\s*(\d+)\)', key):
            np.testing.assert_array_equal(uniform(match[1], int(match[2])), np.float32(expected))
        else:
            value = fill_value(key, expected["shape"])
            assert list(value.shape) == expected["shape"]
            first = torch.tensor(expected["first3"])
            torch.testing.assert_close(value.flatten()[: len(first)], first, rtol=1e-7, atol=0, msg=key)
            np.testing.assert_allclose(float(value.double().sum()), expected["sum"], rtol=1e-6, err_msg=key)
        checked += 1
    assert checked == len(spots) > 0


def test_a_module_is_filled_by_name_and_rank() -> None:
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Linear(3, 4))
    module.register_buffer("index", torch.arange(5))
    state = filled(module)
    module.load_state_dict(state)
    assert torch.equal(module.index, torch.arange(5))
    assert state["1.num_batches_tracked"] == 0
    assert torch.equal(state["0.weight"], fill_value("0.weight", (3, 2, 3, 3)))
    for name in ("1.weight", "1.running_var"):
        assert state[name].min() >= 0.5
    for name in ("0.bias", "1.bias", "1.running_mean"):
        assert state[name].abs().max() <= 0.2
    assert state["2.weight"].abs().max() <= 1 / 3**0.5


def test_inputs_and_errors() -> None:
    x = case_input("pub_a", (2, 3, 4))
    assert x.shape == (2, 3, 4)
    assert -1 <= x.min() < -0.5 < 0.5 < x.max() < 1
    assert not torch.equal(x, case_input("pub_b", (2, 3, 4)))
    assert relative_error(torch.tensor([1.0, -4.0, 2.0]), np.array([1.0, -4.0, 1.0])) == pytest.approx(0.25)
