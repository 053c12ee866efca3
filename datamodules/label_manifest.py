"""What made grounding labels: written beside them, and compared before more are added."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .features import NOT_IN_FEATURES
from .labels import LABELS, MANIFEST, LabelError, LabelStore
from .segments import Segment
from .shards import write_json

NOT_COMPARED = {"groundzoo"}


def fingerprint(segments: Sequence[Segment]) -> str:
    """sha256 of what was read of the annotations: whatever file it came from."""
    digest = hashlib.sha256()
    for segment in segments:
        digest.update(repr(segment).encode())
    return digest.hexdigest()


def described(part: Any, settings: Any) -> dict[str, Any] | None:
    """Class, settings and weights of a tracker, detector or linker."""
    if part is None:
        return None
    described = {"class_path": f"{type(part).__module__}.{type(part).__qualname__}", **(settings or {})}
    state = part.state_dict() if isinstance(part, nn.Module) else {}
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return described | {"weights_sha256": digest.hexdigest() if state else None}


def claim(store: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest of a new folder of labels; compare with that of an old one. Splits may be added.

    Raises:
        LabelError: the folder's labels were made otherwise; says what differs.
    """
    from .. import __version__

    manifest = {"groundzoo": __version__, **json.loads(json.dumps(manifest, default=str))}
    path = store / MANIFEST
    if path.is_file():
        found = LabelStore(store).manifest
        if wrong := differences(found, manifest):
            raise LabelError(
                f"labels {store} were made otherwise: {'; '.join(wrong)}. Choose another folder, or delete this "
                "one."
            )
        known = found.get("annotations", {})
        if manifest["annotations"].keys() <= known.keys():
            return
        manifest = found | {"annotations": known | manifest["annotations"]}
    (store / LABELS).mkdir(parents=True, exist_ok=True)
    write_json(path, manifest)


def differences(old: Any, new: Any, key: str = "") -> list[str]:
    """What one manifest says otherwise than another, in words; only what both have is compared."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [] if old == new else [f"{key} is {_short(old)}, not {_short(new)}"]
    if old.get("class_path") != new.get("class_path"):
        return [f"{key} is {_short(old)}, not {_short(new)}"]
    unlike = NOT_IN_FEATURES if key.endswith("init_args") else NOT_COMPARED  # a split may be named as a setting
    both = [name for name in new if name in old and name not in unlike]
    return [text for name in both for text in differences(old[name], new[name], f"{key}.{name}".strip("."))]


def _short(value: Any) -> str:
    if isinstance(value, dict) and "class_path" in value:
        return str(value["class_path"]).rpartition(".")[2]
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
