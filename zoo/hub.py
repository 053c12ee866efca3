"""Networks of Transformers: from a local folder, the local cache of the Hub, or their configuration alone.

Nothing is downloaded unless asked for. A network that is rebuilt from a checkpoint needs no files at all: its
configuration (and a tokenizer's files) are arguments that the checkpoint keeps.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .weights import CHECKPOINT, RANDOM, reproducible

log = logging.getLogger(__name__)
FILE_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")
NOT_KEPT = ("transformers_version", "architectures", "id2label", "label2id", "_name_or_path")  # of a configuration


def is_weight_file(weights: str | Path) -> bool:
    """Whether `weights` names a single file rather than a folder or a name on the Hub."""
    return Path(weights).is_file() or Path(weights).suffix in FILE_SUFFIXES


def absent(weights: str | Path, what: str = "weights") -> str:
    """What to tell somebody whose folder or Hub name is not on this machine."""
    return (
        f"{what} '{weights}' are not on this machine: give a local folder, or set `download: true` to fetch them "
        "from the Hub"
    )


def read_config(weights: str | Path, config: Mapping[str, Any] | None, download: bool) -> Any:
    """The configuration of a network.

    Args:
        weights: a local folder or a name on the Hub; `random` and `checkpoint` need `config`.
        config: a configuration as in ``config.json``, which then needs no files.
        download: fetch it from the Hub if it is not on this machine.

    Raises:
        ValueError: neither or both are given, the type of model is unknown, or the files are not here.
    """
    import transformers

    if config is not None:
        if weights not in (RANDOM, CHECKPOINT):
            raise ValueError(f"weights '{weights}' bring their own configuration: leave `config` out")
        kind = config.get("model_type")
        if kind not in transformers.CONFIG_MAPPING:
            raise ValueError(f"config has model_type={kind!r}, which this version of Transformers does not know")
        return transformers.CONFIG_MAPPING[kind].from_dict(dict(config))
    if weights in (RANDOM, CHECKPOINT):
        raise ValueError(f"weights: {weights} needs `config`, the contents of a config.json")
    if download:
        log.info("'%s' is downloaded from the Hub unless it is here already", weights)
    try:
        return transformers.AutoConfig.from_pretrained(str(weights), local_files_only=not download)
    except OSError as error:
        raise ValueError(absent(weights)) from error
    except ValueError as error:
        if Path(weights).is_dir():
            raise ValueError(
                f"the folder {weights} holds no model of Transformers (config.json): {error}"
            ) from error
        raise


def plain_config(config: Any) -> dict[str, Any]:
    """A configuration as plain values that JSON and a checkpoint can hold."""
    plain: dict[str, Any] = json.loads(json.dumps(config.to_dict(), default=str))
    return _without(plain)


def _without(config: dict[str, Any]) -> dict[str, Any]:
    return {k: _without(v) if isinstance(v, dict) else v for k, v in config.items() if k not in NOT_KEPT}


def build(
    kind: type[Any],
    config: Any,
    weights: str | Path,
    download: bool = False,
    dtype: Any = torch.float32,
    **options: Any,
) -> Any:
    """A network with its weights.

    Args:
        kind: a class of Transformers; parts of the files that it does not have (heads, other towers) are left.
        config: its configuration.
        weights: as for `read_config`; `random` and `checkpoint` start from the same numbers in every process.
        download: fetch them from the Hub if they are not on this machine.
        dtype: torch.dtype of all its parameters, whatever the files have.
        options: further arguments of the class.

    Raises:
        ValueError: the weights are not on this machine, or do not fit.
    """
    with reproducible(), _quiet(keep_bars=download):
        if weights in (RANDOM, CHECKPOINT):
            if weights == RANDOM:
                log.warning("%s has random weights: good for a test, not for results", kind.__name__)
            with _default(dtype):
                return kind(config, **options)
        try:
            network, report = kind.from_pretrained(
                str(weights),
                config=config,
                local_files_only=not download,
                dtype=dtype,
                output_loading_info=True,
                **options,
            )
        except OSError as error:
            raise ValueError(absent(weights)) from error
        except RuntimeError as error:  # shapes
            raise ValueError(f"weights {weights} are not those of {kind.__name__}: {error}") from error
    if missing := sorted(report["missing_keys"]):
        names = f"{', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}"
        raise ValueError(f"weights {weights} are not those of {kind.__name__}: {len(missing)} missing ({names})")
    return network


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    """New parameters have this type at once: a large network is never twice as large in between."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _quiet(keep_bars: bool) -> Iterator[None]:
    """No list of the parts that are left out; what is missing is an error here."""
    from transformers.utils import logging as theirs

    level, bars = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
    theirs.set_verbosity_error()
    if not keep_bars:
        theirs.disable_progress_bar()
    try:
        yield
    finally:
        theirs.set_verbosity(level)
        if bars and not keep_bars:
            theirs.enable_progress_bar()


def read_json(weights: str | Path, names: tuple[str, ...], download: bool) -> dict[str, Any] | None:
    """The first of some JSON files beside a network's weights; None where there are none of them."""
    from transformers.utils import cached_file

    for name in names:
        path = cached_file(
            str(weights),
            name,
            local_files_only=not download,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        if path is not None:
            found: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
            return found
    return None


def checkpoint_activations(network: nn.Module, on: bool) -> None:
    """Let a network of Transformers compute its activations twice in training, instead of keeping them."""
    if on:
        new = "activation_checkpointing_enable"  # the older name is on its way out
        enable = getattr(network, new if hasattr(network, new) else "gradient_checkpointing_enable")
        enable({"use_reentrant": False})


def drop(network: nn.Module, *names: str) -> None:
    """Take out parts that the features do not depend on; parameters without gradient upset DDP."""
    for name in names:
        parent, _, last = name.rpartition(".")
        module = network.get_submodule(parent)
        if getattr(module, last, None) is not None:
            setattr(module, last, None)
