"""Timed sentences as subtitle files, SubRip (``.srt``) and WebVTT (``.vtt``), which every player reads."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from .text_files import write_text

Event = tuple[float, float, str]


class _Cue(NamedTuple):
    """What is shown from `start_ms` to `end_ms`, one line of text."""

    start_ms: int
    end_ms: int
    text: str


def write_srt(path: str | Path, events: Iterable[Event]) -> None:
    """Write SubRip, atomically, UTF-8.

    Cues are sorted by start and numbered from 1; they may overlap. Line breaks in texts become blanks and ``-->``,
    which would be read as a time line, an arrow; events without text are left out.

    Args:
        path: the file.
        events: start and end in seconds, text.

    Raises:
        ValueError: a time is negative or not finite, or an end lies before its start; names the event.
    """
    blocks = [
        f"{number}\n{_stamp(cue.start_ms, ',')} --> {_stamp(cue.end_ms, ',')}\n{cue.text}\n"
        for number, cue in enumerate(_cues(path, events), start=1)
    ]
    write_text(Path(path), "\n".join(blocks))


def write_vtt(path: str | Path, events: Iterable[Event]) -> None:
    """Write WebVTT; see `write_srt`. ``&``, ``<`` and ``>`` are escaped, as the format has tags.

    Args:
        path: the file.
        events: start and end in seconds, text.

    Raises:
        ValueError: see `write_srt`.
    """
    blocks = ["WEBVTT\n"]
    for number, cue in enumerate(_cues(path, events), start=1):
        text = cue.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        blocks.append(f"{number}\n{_stamp(cue.start_ms, '.')} --> {_stamp(cue.end_ms, '.')}\n{text}\n")
    write_text(Path(path), "\n".join(blocks))


def _cues(path: str | Path, events: Iterable[Event]) -> Iterator[_Cue]:
    """Events that have a text, by start; a cue is at least a millisecond long."""
    cues = []
    for k, (start_s, end_s, text) in enumerate(events):
        if not (0 <= start_s <= end_s and math.isfinite(end_s)):
            raise ValueError(f"{path}, event {k}: from {start_s} s to {end_s} s is no stretch of a video")
        start = round(1000 * start_s)
        line = " ".join(text.split()).replace("-->", "→")
        if line:
            cues.append(_Cue(start, max(round(1000 * end_s), start + 1), line))
    yield from sorted(cues, key=lambda cue: cue.start_ms)


def _stamp(time_ms: int, separator: str) -> str:
    """``hh:mm:ss,mmm``; hours may have more than two digits."""
    seconds, ms = divmod(time_ms, 1000)
    minutes, s = divmod(seconds, 60)
    h, m = divmod(minutes, 60)
    return f"{h:02d}:{m:02d}:{s:02d}{separator}{ms:03d}"
