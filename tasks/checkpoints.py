"""Checkpoint files: written whole or not at all, and read without running anything."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints appear under their name only when they are complete."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write beside the target, then rename."""
        target = Path(path)
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        super().save_checkpoint(checkpoint, temporary, storage_options)
        os.replace(temporary, target)


def read_checkpoint(path: Path, what: str = "checkpoint") -> dict[str, Any]:
    """Read a checkpoint without running anything that it may hold.

    Args:
        path: the file.
        what: it is called in errors.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is incomplete, holds more than tensors and plain values, or is a folder.
    """
    if path.is_dir():
        raise ValueError(f"{what} {path} is a folder, such as DeepSpeed writes: make a file of it; see the docs")
    if not path.is_file():
        raise FileNotFoundError(f"{what} {path} does not exist")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"it asks for '{refused[1]}'" if refused else type(error).__name__
        raise ValueError(
            f"{path} is no readable checkpoint: it is incomplete, of another kind, or holds code, which is "
            f"never run ({reason})"
        ) from error
    if not isinstance(loaded, dict):
        raise ValueError(f"{path} is no checkpoint but a {type(loaded).__name__}")
    return loaded
