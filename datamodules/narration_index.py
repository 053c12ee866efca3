"""Narrations of a million videos on disk: a JSON file read once, then flat arrays mapped into memory."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from .annotations import AnnotationError, check_video_id
from .json_stream import stream_entries
from .packed import Strings

log = logging.getLogger(__name__)

Times = npt.NDArray[np.float32]
TOLD = 10  # broken entries that the log names; the index keeps all
VERSION = 1  # of the index
ARRAYS = {  # files of an index, and what is in them
    "ids": np.uint8,  # names of the videos, UTF-8, one behind the other
    "id_ends": np.int64,  # 0, then where each name ends
    "first": np.int64,  # 0, then how many narrations there are up to the end of each video
    "starts": np.float32,  # seconds
    "ends": np.float32,  # seconds
    "texts": np.uint8,
    "text_ends": np.int64,
}
has_word = re.compile(r"[^\W_]").search


class Narrations(NamedTuple):
    """The narrations of one video that can be used, in the order of the file.

    Attributes:
        starts_s: ``(n,)`` seconds, finite.
        ends_s: ``(n,)`` seconds, none before its start.
        texts: n strings, each with a word in it.
    """

    starts_s: Times
    ends_s: Times
    texts: Strings


class NarrationSource(Protocol):
    """Narrations of many videos, one video at a time.

    Attributes:
        name: where they come from, for messages.
        ids: the videos, row by row.
        broken: videos without a row, and what is wrong with their entries.
        facts: counts, JSON-ready.
    """

    name: str
    ids: Strings
    broken: Mapping[str, str]
    facts: Mapping[str, Any]

    def read(self, row: int) -> Narrations:
        """Narrations of one video. Raises AnnotationError: there is none that can be used."""


def usable(
    starts: Sequence[Any], ends: Sequence[Any], texts: Sequence[Any], where: str
) -> tuple[Narrations, Counter[str]]:
    """Leave out narrations that nobody can learn from.

    Args:
        starts: seconds, as they stand in a file.
        ends: seconds.
        texts: what was said.
        where: file and video, for messages.

    Returns:
        The others, and how many were left out for which reason.

    Raises:
        AnnotationError: the lists are of unequal length, or nothing is left.
    """
    if not len(starts) == len(ends) == len(texts):
        raise AnnotationError(
            f"{where}: {len(starts)} starts, {len(ends)} ends and {len(texts)} texts; one of each is a narration"
        )
    begin, end = _times(starts), _times(ends)
    finite = np.isfinite(begin) & np.isfinite(end)
    ordered = ~finite | (end >= begin)
    said = np.array([isinstance(text, str) and has_word(text) is not None for text in texts], dtype=np.bool_)
    kept = finite & ordered & said
    skipped = Counter(
        {
            "times are not finite numbers": int((~finite).sum()),
            "end before start": int((~ordered).sum()),
            "no words": int((finite & ordered & ~said).sum()),
        }
    )
    if not kept.any():
        reasons = ", ".join(f"{reason} ({count})" for reason, count in (+skipped).items())
        raise AnnotationError(f"{where}: none of {len(texts)} narrations can be used; {reasons or 'it is empty'}")
    return (
        Narrations(begin[kept], end[kept], Strings.of(texts[k].strip() for k in np.flatnonzero(kept).tolist())),
        +skipped,
    )


def _times(values: Sequence[Any]) -> Times:
    """Seconds; NaN for what is no number."""
    with np.errstate(over="ignore"):  # 1e300 s becomes infinite, which is left out
        try:
            array = np.asarray(values, dtype=np.float32)
        except (TypeError, ValueError, OverflowError):
            array = np.zeros((0, 0), dtype=np.float32)
        if array.ndim != 1:
            array = np.array([_number(value) for value in values], dtype=np.float32)
    return array


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return np.nan


def _narrations_of(entry: Any, where: str) -> tuple[Narrations, Counter[str]]:
    names = ("start", "end", "text")
    if not isinstance(entry, dict) or not all(isinstance(entry.get(name), list) for name in names):
        raise AnnotationError(f"{where}: expected lists `start`, `end` and `text`")
    return usable(entry["start"], entry["end"], entry["text"], where)


# ---- the index ------------------------------------------------------------------------------------------


class NarrationIndex:
    """Narrations of a JSON file ``{video: {start: [...], end: [...], text: [...]}}`` as flat arrays on disk.

    Memory does not grow with the file: arrays are mapped, and what a process has read the system may forget.

    Args:
        folder: made by `index_narrations`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, str(folder)
        stored = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        self.name, self.broken, self.facts = stored["source"], stored["broken"], stored["facts"]
        arrays = {k: np.asarray(np.memmap(folder / f"{k}.bin", t, mode="r")) for k, t in ARRAYS.items()}
        self.ids = Strings(arrays["id_ends"], arrays["ids"])
        self._first, self._starts, self._ends = arrays["first"], arrays["starts"], arrays["ends"]
        self._texts, self._text_ends = arrays["texts"], arrays["text_ends"]

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process maps the files itself."""
        return NarrationIndex, (self.folder,)

    def read(self, row: int) -> Narrations:
        """See `NarrationSource.read`."""
        first, last = self._first[row : row + 2]
        texts = Strings(self._text_ends[first : last + 1], self._texts)
        return Narrations(self._starts[first:last], self._ends[first:last], texts)


def index_narrations(path: Path, cache: Path) -> NarrationIndex:
    """The index of a JSON file; made once, and again when size or time of the file have changed.

    Entries that are no narrations are named in the log and in `NarrationIndex.broken`, and left out; so are
    narrations as in `usable`, which are counted.

    Args:
        path: the file.
        cache: folder in which the index is kept, complete or not at all.

    Raises:
        AnnotationError: see `stream_entries`; or not one entry can be used.
    """
    if not path.is_file():
        raise AnnotationError(f"{path} does not exist; see the data set's page in the docs")
    stat = path.stat()
    made_of = f"{VERSION} {path.name} {stat.st_size} {stat.st_mtime_ns}"
    folder = cache / f"narrations-{path.stem}-{hashlib.sha256(made_of.encode()).hexdigest()[:8]}"
    if not folder.is_dir():
        log.info("indexing %s (%.2f GB), once", path, stat.st_size / 1e9)
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".narrations-", dir=cache) as temporary:
            made = Path(temporary) / "index"
            made.mkdir()
            _write(path, made)
            try:
                made.rename(folder)
            except OSError:  # another process was faster
                if not folder.is_dir():
                    raise
    return NarrationIndex(folder)


def _write(path: Path, folder: Path) -> None:
    """Write the files of an index, video by video."""
    files = {name: (folder / f"{name}.bin").open("wb", buffering=2**20) for name in ARRAYS}
    count = {name: 0 for name in ("videos", "id_ends", "first", "text_ends")}
    skipped: Counter[str] = Counter()
    broken: dict[str, str] = {}
    try:
        for name in ("id_ends", "first", "text_ends"):
            files[name].write(np.zeros(1, dtype=np.int64).tobytes())
        for video_id, entry in stream_entries(path):
            where = f"{path}, video {video_id!r}"
            try:
                check_video_id(video_id, where)
                (starts, ends, texts), left_out = _narrations_of(entry, where)
            except AnnotationError as error:
                broken[video_id] = str(error)
                if len(broken) <= TOLD:
                    log.warning("left out: %s", error)
                continue
            skipped += left_out
            ids = Strings.of([video_id])
            for name, array in (("ids", ids.data), ("starts", starts), ("ends", ends), ("texts", texts.data)):
                files[name].write(array.tobytes())
            files["id_ends"].write((ids.ends[1:] + count["id_ends"]).tobytes())
            files["text_ends"].write((texts.ends[1:] + count["text_ends"]).tobytes())
            count["videos"] += 1
            count["id_ends"] += len(ids.data)
            count["first"] += len(starts)
            count["text_ends"] += len(texts.data)
            files["first"].write(np.array([count["first"]], dtype=np.int64).tobytes())
    finally:
        for file in files.values():
            file.close()
    if not count["videos"]:
        raise AnnotationError(
            f"{path}: not one video has narrations. {next(iter(broken.values()), 'The file is empty.')}"
        )
    facts = {"videos": count["videos"], "narrations": count["first"], "left out": dict(skipped)}
    log.info("%s: %s, %d videos left out", path, facts, len(broken))
    stored = {"source": str(path), "facts": facts, "broken": broken}
    (folder / "facts.json").write_text(json.dumps(stored), encoding="utf-8")
