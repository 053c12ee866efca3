"""What was probably meant: nearest candidates for a mistyped file, class or key."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..zoo.text.base import TextEncoder
from ..zoo.video.base import VideoEncoder
from .base import Task

LINE = re.compile(
    r"""(?:Does not validate against|Expected a dot import path|not match any valid subclass|class)"""
)


def nearest(word: str, candidates: Iterable[str]) -> list[str]:
    """Up to four candidates that look like `word`, best first, ignoring case."""
    lowered = {c.lower(): c for c in candidates}
    return [lowered[c] for c in difflib.get_close_matches(word.lower(), lowered, n=4, cutoff=0.5)]


def subclasses(base: type[Any]) -> set[str]:
    """Names of all imported concrete subclasses."""
    found: set[str] = set()
    for child in base.__subclasses__():
        found |= {child.__name__} | subclasses(child)
    return found


def explain(message: str, configs: Path) -> str:
    """Append the nearest candidates to a parser's error message.

    Args:
        message: what the parser said.
        configs: folder of the packaged configuration files.
    """
    hints = []
    for missing in re.findall(r"""["']?([\w./-]+\.ya?ml)["']?""", message):
        packaged = [p.relative_to(configs).as_posix() for p in sorted(configs.rglob("*.yaml"))]
        if not Path(missing).exists():
            stem = missing.split("/")[-1]
            close = nearest(missing, packaged) or [p for p in packaged if nearest(stem, [p.split("/")[-1]])]
            hints.append(f"{missing} is neither a file here nor packaged. Nearest: {', '.join(close or packaged)}")
    from lightning import LightningDataModule

    names = subclasses(Task) | subclasses(VideoEncoder) | subclasses(TextEncoder) | subclasses(LightningDataModule)
    for word in set(re.findall(r"""["'](?:class_path["']?: ?["'])?([A-Za-z_][\w.]*)["']""", message)):
        if word.split(".")[-1] not in names and (close := nearest(word.split(".")[-1], names)):
            hints.append(f"'{word}': did you mean {' or '.join(close)}?")
    return "\n".join([message, *dict.fromkeys(hints)])
