"""groundzoo: find what, when and where in video from language.

This module stays inert: no torch, no submodule is imported until it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def load(
    checkpoint: str | Path, device: str = "cpu", encoder: str | Path | Sequence[str | Path] | None = None
) -> Any:
    """Rebuild a trained task from its checkpoint alone, ready to be asked.

    Args:
        checkpoint: a ``best.ckpt`` or ``last.ckpt`` of a run.
        device: where the network lives, ``"cpu"``, ``"cuda"``, ``"cuda:1"`` ...
        encoder: of a task that was trained on precomputed features: a checkpoint whose video encoder made them, or
            its YAML file with weights; one for each kind of features. With it, the task can read video.

    Returns:
        The task (a LightningModule in eval mode); ``task.ground(video, queries)`` answers.
    """
    from .cli import load_task  # heavy: torch, lightning

    return load_task(checkpoint, device, encoder)
