"""Which videos are in which split of a world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .scene import Video

Splits = Mapping[str, Sequence[Video]]
