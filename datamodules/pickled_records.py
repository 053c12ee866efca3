"""Pickled annotation as JSON lines, without running what a pickle asks for.

Opening a pickle runs whatever it names. Here it can name nothing but NumPy's arrays and numbers, and even those
are stood in for by plain Python; everything else is refused.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .annotations import AnnotationError

KINDS = "biufSU"  # numbers and text


class _Type:
    """Stands in for `numpy.dtype`."""

    def __init__(self, code: Any = "V", *_: Any) -> None:
        self.code, self.order = str(code), "="

    def __setstate__(self, state: Any) -> None:
        self.order = str(state[1])

    def numbers(self, data: Any) -> list[Any]:
        """Values of a block of memory."""
        made = np.dtype(self.code)
        if made.kind not in KINDS:
            raise pickle.UnpicklingError(f"an array of type {self.code!r}")
        order: Any = self.order
        values: list[Any] = np.frombuffer(bytes(data), made.newbyteorder(order)).tolist()
        return values


class _Array:
    """Stands in for `numpy.ndarray`."""

    values: Any = ()

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, by_column, data = state
        self.values = _shaped(data if isinstance(data, list) else kind.numbers(data), shape, by_column)


def _shaped(values: list[Any], shape: Any, by_column: Any) -> Any:
    """Nested lists of flat values."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array.reshape(tuple(shape), order="F" if by_column else "C").tolist()


def _scalar(kind: Any, data: Any) -> Any:
    return kind.numbers(data)[0]


def _from_buffer(data: Any, kind: Any, shape: Any, order: Any) -> _Array:
    array = _Array()
    array.values = _shaped(kind.numbers(data), shape, order == "F")
    return array


def _encode(text: str, coding: str = "latin1") -> bytes:
    """Bytes of old pickles."""
    if coding != "latin1":
        raise pickle.UnpicklingError(f"text in {coding!r}")
    return text.encode("latin1")


_STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _encode,
    **{(module, "bytes"): lambda: b"" for module in ("builtins", "__builtin__")},
    **{(f"numpy.{c}.multiarray", "_reconstruct"): lambda *_: _Array() for c in ("core", "_core")},
    **{(f"numpy.{c}.multiarray", "scalar"): _scalar for c in ("core", "_core")},
    **{(f"numpy.{c}.numeric", "_frombuffer"): _from_buffer for c in ("core", "_core")},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _STAND_INS[module, name]


def read_pickle(path: Path) -> Any:
    """Containers, text and numbers of a pickle; arrays become lists.

    Raises:
        AnnotationError: it holds anything else, or is no pickle.
    """
    try:
        with path.open("rb") as file:
            return _plain(_Unpickler(file).load())
    except FileNotFoundError as error:
        raise AnnotationError(f"{path} does not exist") from error
    except Exception as error:  # whatever a broken pickle does to the stand-ins
        raise AnnotationError(
            f"{path}: refused ({type(error).__name__}: {error}); only dictionaries, lists, text, numbers and "
            "arrays of them are read"
        ) from error


def _plain(value: Any) -> Any:
    """What JSON can hold."""
    if isinstance(value, _Array):
        return _plain(value.values)
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, bytes):
        return value.decode()
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"a {type(value).__name__}")


def _records(source: Path) -> Iterator[Any]:
    for path in sorted(source.glob("*.pkl")) if source.is_dir() else [source]:
        stored = read_pickle(path)
        if not isinstance(stored, dict):
            raise AnnotationError(f"{path}: expected a dictionary with a record per clip, or one record")
        yield from [stored] if "tagged_caption" in stored else stored.values()


def convert(source: Path, out: Path) -> None:
    """Write pickled records as JSON lines, whole or not at all.

    Args:
        source: a pickle ``{clip: record}``, or of one record; or a folder with such files: it needs less memory.
        out: a ``.jsonl`` file.

    Raises:
        AnnotationError: a pickle asks for more than containers, text and numbers; or there is no record.
    """
    if out.suffix != ".jsonl":
        raise AnnotationError(f"{out}: the name has to end in .jsonl")
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    count = 0
    try:
        with temporary.open("w", encoding="utf-8") as file:
            for record in _records(source):
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
                count += 1
        if not count:
            raise AnnotationError(f"{source}: there is no record")
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
