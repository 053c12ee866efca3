"""groundzoo: find what, when and where in video from language.

This module stays inert: no torch, no submodule is imported until it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def load(checkpoint: str | Path, device: str = "cpu") -> Any:
    """Rebuild a trained task from its checkpoint alone, ready to be asked.

    Args:
        checkpoint: a ``best.ckpt`` or ``last.ckpt`` of a run.
        device: where the network lives, ``"cpu"``, ``"cuda"``, ``"cuda:1"`` ...

    Returns:
        The task (a LightningModule in eval mode); ``task.ground(video, queries)`` answers.
    """
    from .cli import load_task  # heavy: torch, lightning

    return load_task(checkpoint, device)
