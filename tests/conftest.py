"""Shared fixtures: the package without installing it, and the folders of reference material."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
if importlib.util.find_spec("groundzoo") is None:  # a plain checkout: map the repository root to the package
    spec = importlib.util.spec_from_file_location(
        "groundzoo", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["groundzoo"] = module
    spec.loader.exec_module(module)

SHARED = Path(os.environ.get("GROUNDZOO_SHARED", ROOT.parent / "shared"))


def shared(*parts: str) -> Path:
    """A file or folder of the reference material, or a skip that says why."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"needs {path} (set GROUNDZOO_SHARED to the folder of reference material)")
    return path


@pytest.fixture(scope="session")
def shared_data() -> Path:
    return shared("data")


@pytest.fixture(scope="session")
def shared_videos() -> Path:
    return shared("data", "videos")
