"""Reading published weights: plain tensors only, keys unwrapped, every name accounted for."""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)
RANDOM = "random"
CHECKPOINT = "checkpoint"
WRAPPERS = ("state_dict", "model_state_dict", "model")  # keys under which training code stores the weights
PREFIXES = ("module.", "backbone.", "features.", "network.")  # added by DDP, mmaction, TSP and our encoders
OWN = "video_encoder."  # of our checkpoints, the part that can be handed on


@contextmanager
def reproducible() -> Iterator[None]:
    """Networks built inside start from the same numbers in every process, and the caller's are untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # torch.manual_seed would reach the accelerators' generators too
        yield


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a weight file, unwrapped from what training code puts around them.

    Args:
        path: ``.safetensors``, or a file of ``torch.save``, never executed; of a checkpoint of ours, the encoder.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file holds no named tensors, or more than tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"weights {path} do not exist; `groundzoo list encoders` says where the usual ones come from"
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            stored: dict[str, Tensor] = load_file(path)
            return stored
        with torch.serialization.safe_globals([argparse.Namespace]):  # TSP's files also hold its options
            loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise ValueError(
            f"weights {path} cannot be read ({f'the file asks to run {refused[1]}' if refused else error}); "
            "nothing in a weight file is executed: save its state dict alone with torch.save, or as safetensors"
        ) from error
    own = OWN if _is_dict(loaded) and "groundzoo" in loaded else ""
    while isinstance(loaded, Mapping) and (inner := next((k for k in WRAPPERS if _is_dict(loaded.get(k))), None)):
        loaded = loaded[inner]
    items = loaded.items() if isinstance(loaded, Mapping) else ()
    tensors = {k.removeprefix(own): v for k, v in items if isinstance(v, Tensor) and k.startswith(own)}
    if not tensors:
        other = f"named tensors but a {type(loaded).__name__}"
        raise ValueError(f"weights {path} hold no {'weights of a video encoder' if own else other}")
    return tensors


def _is_dict(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value)


def strip_prefixes(state: Mapping[str, Tensor], known: Sequence[str], heads: Sequence[str]) -> dict[str, Tensor]:
    """Remove leading `PREFIXES` as long as that makes more keys known, then drop keys of `heads`.

    Args:
        state: tensors by name.
        known: names that the network has.
        heads: beginnings of names that belong to parts the network does not have (classifiers).
    """
    wanted = set(known)
    result = dict(state)
    changed = True
    while changed:
        changed = False
        for prefix in PREFIXES:
            stripped = {k.removeprefix(prefix): v for k, v in result.items()}  # a leading one only
            if len(stripped) == len(result) and len(wanted & stripped.keys()) > len(wanted & result.keys()):
                result, changed = stripped, True
            elif prefix == PREFIXES[0] and stripped.keys() != result.keys() and len(stripped) == len(result):
                result, changed = stripped, True  # `module.` may stand before another prefix
    return {k: v for k, v in result.items() if k in wanted or not k.startswith(tuple(heads))}


def load_weights(
    network: nn.Module,
    weights: str | Path,
    heads: Sequence[str] = (),
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
) -> None:
    """Give a network its weights; strictly: no name may be missing, left over or of another shape.

    Args:
        network: to be filled.
        weights: a file; `random` leaves the network as it was built (and says so); `checkpoint` does so silently,
            since a checkpoint's weights follow.
        heads: beginnings of names that the file may hold beside the network's own, e.g. ``fc.``.
        convert: from the file's names to the network's, after unwrapping and before prefixes are stripped.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file does not fit the network; says how.
    """
    if weights in (RANDOM, CHECKPOINT):
        if weights == RANDOM:
            log.warning("%s has random weights: good for a test, not for results", type(network).__name__)
        return
    state = read_state_dict(weights)
    load_state(network, convert(state) if convert is not None else state, weights, heads)


def load_state(
    network: nn.Module, state: Mapping[str, Tensor], source: str | Path, heads: Sequence[str] = ()
) -> None:
    """As `load_weights`, from tensors in memory; `source` is the file that an error names.

    Raises:
        ValueError: the tensors do not fit the network; says how.
    """
    own = network.state_dict()
    state = strip_prefixes(state, list(own), heads)
    # files older than batch norm's counter lack it; torch starts it at zero
    missing = sorted(k for k in own.keys() - state.keys() if not k.endswith("num_batches_tracked"))
    extra = sorted(state.keys() - own.keys())
    shapes = [
        f"{k} is {tuple(state[k].shape)}, not {tuple(own[k].shape)}"
        for k in own.keys() & state.keys()
        if state[k].shape != own[k].shape
    ]
    if missing or extra or shapes:
        problems = [
            f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for what, names in (("missing", missing), ("unknown", extra), ("of another shape", sorted(shapes)))
            if names
        ]
        raise ValueError(f"weights {source} are not those of {type(network).__name__}: {'; '.join(problems)}")
    network.load_state_dict(state, strict=False)
