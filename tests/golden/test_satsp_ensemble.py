"""The choice among captions of an ensemble against worked cases."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from golden_files import golden_cases

from groundzoo.tasks.ensemble import EnsembleRule

pytestmark = pytest.mark.golden


@pytest.mark.parametrize("path", golden_cases("satsp", "ensemble_selection*.json"), ids=lambda p: p.stem)
def test_every_case(path: Path) -> None:
    given = json.loads(path.read_text(encoding="utf-8"))
    rule = EnsembleRule(given["concepts"], given["idf_documents"])
    assert given["cases"]
    for case in given["cases"]:
        for candidate, (concepts, idf) in zip(
            case["candidates"], case["unique_concepts_and_max_idf"], strict=True
        ):
            assert rule.scores(candidate) == (concepts, pytest.approx(idf, abs=1e-12)), candidate
        assert rule.choose(case["candidates"]) == case["selected_index"], case["candidates"]
