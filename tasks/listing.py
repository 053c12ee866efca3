"""What there is: the content of `groundzoo list`, found without importing anything heavy."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

from ..zoo.video.published import PUBLISHED

ROOMS = {  # what stands in a section of `list`: classes with one of these bases
    "tasks": {"Task", "MomentTask", "CaptionTask", "LocalizationTask"},
    "video encoders": {"VideoEncoder"},
    "text encoders": {"TextEncoder"},
    "trackers": {"Tracker"},
    "detectors": {"Detector"},
    "verb linkers": {"VerbLinker"},
    "data modules": {
        "LightningDataModule",
        "GroundingDataModule",
        "CaptionDataModule",
        "NarrationDataModule",
        "ActionDataModule",
        "ClipDataModule",
        "GroundedClipDataModule",
        "PointingClips",
    },
    "frame captioners": {"FrameCaptioner", "_ImageModel"},
    "chat models": {"ChatModel"},
}


def inventory() -> dict[str, list[tuple[str, str]]]:
    """Sections of the list: names of what there is, each with a line about it."""
    root = Path(__file__).parents[1]
    sections: dict[str, list[tuple[str, str]]] = {}
    classes = [c for folder in ("tasks", "zoo", "datamodules") for c in classes_in(root / folder)]
    for title, bases in ROOMS.items():
        sections[title] = [
            (name, text) for name, parents, text in classes if parents & bases and name not in bases
        ]
    sections["weights for encoders"] = weights()
    configs = root / "configs"
    sections["configs"] = [
        (p.relative_to(configs).as_posix(), p.read_text(encoding="utf-8").split("\n")[0].lstrip("# "))
        for p in sorted(configs.rglob("*.yaml"))
    ]
    sections["plug-ins"] = [(p.name, p.value) for p in entry_points(group="groundzoo.plugins")]
    return sections


def classes_in(folder: Path) -> Iterator[tuple[str, set[str], str]]:
    """Name, bases and first docstring line of all classes below `folder`, without importing them."""
    for path in sorted(folder.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                bases = {b.attr if isinstance(b, ast.Attribute) else getattr(b, "id", "") for b in node.bases}
                yield node.name, bases, (ast.get_docstring(node) or "").split("\n")[0]


def weights() -> list[tuple[str, str]]:
    """What is known of published weights: how they are fed, what they give, whose they are."""
    table = [["encoder", "dim", "grid", "fps", "window/stride", "M par.", "licence", "where to get them"]]
    for entry in PUBLISHED.values():
        spec = entry.spec
        grid = "-" if entry.grid is None else "x".join(map(str, entry.grid))
        rate = "file's" if spec.fps is None else f"{spec.fps:g}"
        numbers = [str(entry.dim), grid, rate, f"{spec.window}/{spec.stride}", f"{entry.parameters / 1e6:.1f}"]
        table.append([entry.encoder, *numbers, entry.licence, entry.source])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in table]
    return list(zip(["", *PUBLISHED], lines, strict=True))
