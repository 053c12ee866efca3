"""Grounded clips of a million records on disk: read once, then mapped into memory."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .annotations import AnnotationError
from .grounded_records import GroundedClip
from .packed import Strings

log = logging.getLogger(__name__)

COLUMNS = ("clip_ids", "video_ids", "videos", "records")
TOLD = 10  # broken records that the log names; the index keeps all
VERSION = 1  # of the index


class ClipIndex:
    """Grounded clips, one at a time; memory does not grow with their number.

    Args:
        folder: made by `index_clips`.

    Attributes:
        name: what was indexed, for messages.
        clip_ids: clips, row by row.
        video_ids: their videos.
        videos: names of their video files, without extension.
        broken: what is wrong with the records that have no row.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        stored = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        self.name: str = stored["source"]
        self.broken: list[str] = stored["broken"]
        self.clip_ids, self.video_ids, self.videos, self._records = (_mapped(folder, name) for name in COLUMNS)

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process maps the files itself."""
        return ClipIndex, (self.folder,)

    def __len__(self) -> int:
        return len(self.clip_ids)

    def read(self, row: int) -> GroundedClip:
        """The clip of a row."""
        return GroundedClip.from_json(self._records[row])


def _mapped(folder: Path, column: str) -> Strings:
    ends, data = (
        np.asarray(np.memmap(folder / f"{column}{suffix}.bin", kind, mode="r"))
        for suffix, kind in (("_ends", np.int64), ("", np.uint8))
    )
    return Strings(ends, data)


def index_clips(
    files: Sequence[Path],
    cache: Path,
    clips: Callable[[], Iterator[GroundedClip | AnnotationError]],
    part: str = "",
) -> ClipIndex:
    """The index of some files; made once, and again when name, size or time of a file have changed.

    Records that cannot be used are named in the log and in `ClipIndex.broken`, and left out; so are those whose
    clip came before.

    Args:
        files: what the clips are read from.
        cache: folder in which the index is kept, complete or not at all.
        clips: reads them, one by one, with an error in place of each that cannot be used.
        part: which part of the files that is, where there are several.

    Raises:
        AnnotationError: a file does not exist, or not one clip can be used.
    """
    for path in files:
        if not path.is_file():
            raise AnnotationError(f"{path} does not exist; see the data set's page in the docs")
    source = f"{files[0]}" + (f" and {len(files) - 1} more" if len(files) > 1 else "")
    source += f" ({part})" if part else ""
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    made_of = hashlib.sha256(repr((VERSION, stats, part)).encode()).hexdigest()[:8]
    folder = cache / f"clips-{files[0].name.split('.')[0]}-{made_of}"
    if not folder.is_dir():
        log.info("indexing %s (%.2f GB), once", source, sum(size for _, size, _ in stats) / 1e9)
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".clips-", dir=cache) as temporary:
            made = Path(temporary) / "index"
            made.mkdir()
            _write(made, source, clips())
            try:
                made.rename(folder)
            except OSError:  # another process was faster
                if not folder.is_dir():
                    raise
    return ClipIndex(folder)


def _write(folder: Path, source: str, clips: Iterator[GroundedClip | AnnotationError]) -> None:
    broken: list[str] = []
    seen: set[int] = set()  # hashes: a million names would be many megabytes
    columns = [_Column(folder, name) for name in COLUMNS]
    try:
        for clip in clips:
            if not isinstance(clip, GroundedClip):
                broken.append(str(clip))
            elif hash(clip.clip_id) in seen:
                broken.append(f"{source}: clip {clip.clip_id} comes twice")
            else:
                seen.add(hash(clip.clip_id))
                for column, value in zip(columns, (*clip[:3], clip.to_json()), strict=True):
                    column.append(value)
                continue
            if len(broken) <= TOLD:
                log.warning("left out: %s", broken[-1])
    finally:
        for column in columns:
            column.close()
    if not seen:
        raise AnnotationError(f"{source}: not one clip. {broken[0] if broken else 'The file is empty.'}")
    log.info("%s: %d clips, %d records left out", source, len(seen), len(broken))
    (folder / "facts.json").write_text(json.dumps({"source": source, "broken": broken}), encoding="utf-8")


class _Column:
    """Writes what `_mapped` reads."""

    def __init__(self, folder: Path, name: str) -> None:
        self._data: BinaryIO = (folder / f"{name}.bin").open("wb", buffering=2**18)
        self._ends: BinaryIO = (folder / f"{name}_ends.bin").open("wb", buffering=2**18)
        self._length = 0
        self._ends.write(np.int64(0).tobytes())

    def append(self, value: str) -> None:
        data = value.encode("utf-8", "replace")
        self._length += len(data)
        self._data.write(data)
        self._ends.write(np.int64(self._length).tobytes())

    def close(self) -> None:
        self._data.close()
        self._ends.close()
