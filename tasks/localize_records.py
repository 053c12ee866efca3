"""Actions that were found in a video as JSON and as arrays."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .localizing import Localization


def tube_of_moments(found: Localization) -> npt.NDArray[np.int64]:
    """Number of the tube that each moment belongs to, ``(n,)``; -1 in the background."""
    times = np.asarray(found.times_s)
    middles = (times[1:] + times[:-1]) / 2
    owner = np.full(len(times), -1)
    for number, tube in enumerate(found.tubes):
        owner[np.searchsorted(middles, tube.times_s)] = number
    return owner


def summary(found: Localization) -> dict[str, Any]:
    """Everything but the arrays of `save_maps`, JSON-ready.

    Returns:
        `size`, `actions`, `tubes` with their times, points and boxes, and `moments`: of each its second, its
        action and their similarity; in the background the action is None and the similarity the greatest.
    """
    names = [None if number < 0 else found.tubes[number].action for number in tube_of_moments(found)]
    columns = {action: k for k, action in enumerate(found.actions)}
    moments = [
        {
            "time_s": round(time_s, 3),
            "action": name,
            "score": round(float(row.max() if name is None else row[columns[name]]), 4),
        }
        for time_s, name, row in zip(found.times_s, names, found.similarity, strict=True)
    ]
    tubes = [tube._asdict() for tube in found.tubes]
    return {"size": list(found.size), "actions": found.actions, "tubes": tubes, "moments": moments}


def save_maps(found: Localization, path: Path) -> None:
    """Write times, heat maps and similarities as a compressed .npz, which appears when it is complete.

    It holds `times_s` (n,), `heat` (n, h, w), `similarity` (n, A) and `actions` (A,). Its folder is made where
    absent.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            np.savez_compressed(
                file,
                times_s=np.asarray(found.times_s),
                heat=found.heat.float().numpy(),
                similarity=found.similarity.float().numpy(),
                actions=np.asarray(found.actions),
            )
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
