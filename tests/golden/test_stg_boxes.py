"""Boxes from clicked points and windows of single-action clips, against hand-made reference values."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from golden_files import golden_cases

from groundzoo.datamodules.grounding_youtube import context_window, points_box

pytestmark = pytest.mark.golden
FILES = golden_cases("stg", "boxes_windows.json")


@pytest.mark.parametrize("path", FILES)
def test_boxes_of_points(path: Path) -> None:
    cases = json.loads(path.read_text())["boxes_from_points"]
    assert cases
    for case in cases:
        box = points_box(case["points"], (case["width"], case["height"]))
        assert box == pytest.approx(case["box"], abs=1e-9)


@pytest.mark.parametrize("path", FILES)
def test_windows_of_single_actions(path: Path) -> None:
    cases = json.loads(path.read_text())["single_action_windows"]
    assert cases
    for case in cases:
        start, end = case["segment"]
        window = context_window((start, end), case["duration"])
        assert window == pytest.approx(case["window"], abs=1e-9)
        assert (end - start) / (window[1] - window[0]) == pytest.approx(case["action_fraction"], abs=1e-9)
