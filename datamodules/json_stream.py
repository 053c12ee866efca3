"""One large JSON object, entry by entry: files of many gigabytes in little memory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .annotations import AnnotationError

CHUNK = 4 * 2**20  # characters read at once
LONGEST = 64 * 2**20  # characters of one entry; more than that is a broken file
_skip = re.compile(r"[\s,]*").match
_colon = re.compile(r"\s*:\s*").match
_tail = re.compile(r"\s*([,}])").match


def stream_entries(path: Path) -> Iterator[tuple[str, Any]]:
    """Keys and values of one large JSON object, read piece by piece; a byte order mark is fine.

    Args:
        path: the file. Memory is that of a piece, or of the longest entry.

    Raises:
        AnnotationError: there is no such file, it is no JSON object or is cut short; says behind which key.
    """
    if not path.is_file():
        raise AnnotationError(f"{path} does not exist; see the data set's page in the docs")
    decoder = json.JSONDecoder(strict=False)
    with (
        path.open(encoding="utf-8-sig", errors="replace") as file,
        tqdm(total=path.stat().st_size, desc=f"index {path.name}", unit="B", unit_scale=True, disable=None) as bar,
    ):
        text = file.read(CHUNK)
        at, last, closing = len(text) - len(text.lstrip()) + 1, "its beginning", ","
        if text[at - 1 : at] != "{":
            raise AnnotationError(f"{path}: expected one JSON object with an entry per video")
        if (empty := _tail(text, at)) and empty[1] == "}":
            at, closing = empty.end(), "}"
        while closing != "}":
            try:
                key, value, closing, at = _entry(decoder, text, at)
            except json.JSONDecodeError as error:
                unfinished = error.pos >= len(text) - 16 or error.msg.startswith("Unterminated")
                more = file.read(max(CHUNK, len(text) - at)) if unfinished and len(text) - at < LONGEST else ""
                if not more:
                    end = "the file is cut short" if unfinished and len(text) - at < LONGEST else error.msg
                    raise AnnotationError(f"{path}: not a JSON object behind {last}: {end}") from error
                bar.update(at)
                text, at = text[at:] + more, 0
                continue
            last = f"video {key!r}"
            yield key, value
        if (text[at:] + file.read(CHUNK)).strip():
            raise AnnotationError(f"{path}: something follows the JSON object, behind {last}")
        bar.update(bar.total - bar.n)


def _entry(decoder: json.JSONDecoder, text: str, at: int) -> tuple[str, Any, str, int]:
    """Key and value of the entry at a position, the comma or brace behind it, and where that ends."""
    key, end = decoder.raw_decode(text, _skip(text, at).end())  # type: ignore[union-attr]
    colon = _colon(text, end)
    if colon is None or not isinstance(key, str):
        raise json.JSONDecodeError("Expecting a name and ':'", text, end)
    value, end = decoder.raw_decode(text, colon.end())
    tail = _tail(text, end)
    if tail is None:  # a number may go on in the next piece
        raise json.JSONDecodeError("Expecting ',' or '}'", text, end)
    return key, value, tail[1], tail.end()
