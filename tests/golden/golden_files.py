"""Finds the reference outputs of the authors' programs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def golden_folder(paper: str) -> Path:
    """Folder of a paper's golden files; ``$GROUNDZOO_GOLDEN`` points the whole root elsewhere."""
    shared = Path(os.environ.get("GROUNDZOO_SHARED", ROOT.parent / "shared"))
    return Path(os.environ.get("GROUNDZOO_GOLDEN", shared / "golden")) / paper


def golden_cases(paper: str, pattern: str) -> list[object]:
    """All files of a paper that match `pattern`, or one skipped case that says where they were expected."""
    folder = golden_folder(paper)
    found: list[object] = list(sorted(folder.glob(pattern)))
    reason = f"no {pattern} in {folder} (set GROUNDZOO_GOLDEN or GROUNDZOO_SHARED)"
    return found or [pytest.param(folder / pattern, marks=pytest.mark.skip(reason=reason))]
