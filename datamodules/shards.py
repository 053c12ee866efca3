"""Files of a feature store: safetensors shards, each complete from the moment it has its name.

A store is a folder::

    manifest.json            what made the features
    shard-<hash>.safetensors features of many videos
    loose/<hash>.safetensors features of one video, until enough are there for a shard
    quarantine/<hash>.json   a video that could not be encoded, and why

A shard holds the tensors ``<video id>/frames`` (n, D) and, if asked for, ``<video id>/grid`` (n, h, w, C). Its
header has, per video, ``{"num_frames": ..., "duration_s": ...}`` as JSON. Nothing is ever appended to or changed,
so a process may be killed at any moment, and many may write at once: a video is either there, whole, or not.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from safetensors.numpy import save_file

from .text_files import write_text

SHARD_SUFFIX = ".safetensors"
LOOSE, QUARANTINE = "loose", "quarantine"
SHARD_BYTES = 256 * 2**20
LEFT_AFTER_S = 60.0
_umask = os.umask(0)
os.umask(_umask)
MODE = 0o666 & ~_umask  # of new files, as the user wishes

Arrays = dict[str, npt.NDArray[np.floating]]


class Entry(NamedTuple):
    """Where a video is, and what the store knows of it."""

    path: Path
    num_frames: int
    duration_s: float


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the whole new one."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def file_name(video_ids: Sequence[str]) -> str:
    """A file name for these videos; ids may hold any character."""
    return hashlib.sha256("\0".join(video_ids).encode()).hexdigest()[:24]


def read_header(path: Path) -> dict[str, Entry]:
    """The videos of one shard.

    Raises:
        ValueError: the file is no shard.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            return {
                video_id: Entry(path, **json.loads(facts)) for video_id, facts in (file.metadata() or {}).items()
            }
    except Exception as error:  # safetensors raises its own errors, json and TypeError others
        raise ValueError(
            f"{path}: no shard of a feature store ({error}). Delete the file and extract again: only what it held "
            "is made anew."
        ) from error


def shard_files(store: Path) -> Iterator[Path]:
    """All shards, loose ones first, so that of a video that is in both the shard counts."""
    yield from sorted((store / LOOSE).glob(f"[!.]*{SHARD_SUFFIX}"))
    yield from sorted(store.glob(f"shard-*{SHARD_SUFFIX}"))


def stored_videos(store: Path) -> dict[str, Entry]:
    """Where each video of a store is; others may be writing meanwhile.

    Raises:
        ValueError: one of its files is no shard.
    """
    entries: dict[str, Entry] = {}
    for path in shard_files(store):
        try:
            entries |= read_header(path)
        except ValueError:
            if path.exists():  # else it has just become part of a shard, which is still to come
                raise
    return entries


def quarantined(store: Path) -> dict[str, str]:
    """Videos that could not be encoded, and why."""
    records = (json.loads(p.read_text(encoding="utf-8")) for p in sorted((store / QUARANTINE).glob("[!.]*.json")))
    return {record["video"]: record["reason"] for record in records}


def remove_leftovers(store: Path) -> None:
    """Delete what processes were writing when they were killed: temporary files untouched for a minute."""
    for folder in (store, store / LOOSE, store / QUARANTINE):
        for path in folder.glob(".*.[0-9]*"):
            if time.time() - path.stat().st_mtime > LEFT_AFTER_S:
                path.unlink(missing_ok=True)


def _save(path: Path, tensors: Arrays, facts: Mapping[str, str]) -> None:
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(tensors, temporary, dict(facts))
        temporary.chmod(MODE)  # safetensors lets only the owner read
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class ShardWriter:
    """Adds videos to a store: when `add` returns, the video is on the disk and stays there.

    Args:
        store: the folder; made where absent.
        dtype: precision of what is written. Half precision keeps three digits, which is more than training
            notices, at half the reading time; it ends at 65504.
        shard_bytes: size from which loose videos are put together.
    """

    def __init__(
        self, store: Path, dtype: Literal["float16", "float32"] = "float16", shard_bytes: int = SHARD_BYTES
    ) -> None:
        self.store, self.dtype, self.shard_bytes = store, np.dtype(dtype), shard_bytes
        store.mkdir(parents=True, exist_ok=True)
        self._loose: list[Path] = []
        self._bytes = 0

    def add(self, video_id: str, arrays: Arrays, num_frames: int, duration_s: float) -> None:
        """Store one video.

        Raises:
            ValueError: NaN, or numbers that `dtype` cannot hold; nothing is written then.
        """
        with np.errstate(over="ignore"):  # said below
            tensors = {f"{video_id}/{k}": np.ascontiguousarray(a, dtype=self.dtype) for k, a in arrays.items()}
        for name, tensor in tensors.items():
            if not np.isfinite(tensor).all():
                large = np.isfinite(arrays[name.rpartition("/")[2]]).all()
                raise ValueError(
                    f"features of {video_id} hold "
                    + ("numbers too large for float16: choose --dtype float32" if large else "NaN or infinity")
                )
        path = self.store / LOOSE / f"{file_name([video_id])}{SHARD_SUFFIX}"
        _save(path, tensors, {video_id: json.dumps({"num_frames": num_frames, "duration_s": duration_s})})
        self._loose.append(path)
        self._bytes += sum(tensor.nbytes for tensor in tensors.values())
        if self._bytes >= self.shard_bytes:
            self.compact(self._loose)
            self._loose, self._bytes = [], 0

    def fail(self, video_id: str, reason: str) -> None:
        """Put a video into quarantine."""
        path = self.store / QUARANTINE / f"{file_name([video_id])}.json"
        path.parent.mkdir(exist_ok=True)
        write_json(path, {"video": video_id, "reason": reason})

    def compact(self, loose: Sequence[Path] | None = None) -> None:
        """Put loose files (all there are unless given) together; the only writer left may do this at the end."""
        if loose is None:
            loose = sorted((self.store / LOOSE).glob(f"[!.]*{SHARD_SUFFIX}"))
        packed = {video for shard in self.store.glob(f"shard-*{SHARD_SUFFIX}") for video in read_header(shard)}
        copies = [path for path in loose if packed.issuperset(read_header(path))]  # left by a kill
        for path in copies:
            path.unlink()
        for part in _parts([path for path in loose if path not in copies], self.shard_bytes):
            tensors: Arrays = {}
            facts: dict[str, str] = {}
            for path in part:
                with safe_open(path, framework="numpy") as file:
                    tensors |= {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
                    facts |= file.metadata()
            _save(self.store / f"shard-{file_name(sorted(facts))}{SHARD_SUFFIX}", tensors, facts)
            for path in part:  # a kill before this leaves copies, which do no harm
                path.unlink(missing_ok=True)


def _parts(paths: Sequence[Path], most_bytes: int) -> Iterator[list[Path]]:
    part: list[Path] = []
    size = 0
    for path in paths:
        part.append(path)
        size += path.stat().st_size
        if size >= most_bytes:
            yield part
            part, size = [], 0
    if part:
        yield part
