"""Files of one step of the automatic annotation: JSON lines in shards, each whole from the moment it has its name.

A store is a folder::

    manifest.json             what made the records
    shard-00000.jsonl         records of the first clips of the list, in its order
    loose/00001-<hash>.jsonl  records of a shard that is not complete yet
    quarantine/<hash>.json    a clip without a record, and why

Which clips a shard has is told by the list alone, whoever works on it: a run that was killed, or has more
processes, leaves the same bytes. Nothing is ever appended to.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .annotation_clips import Clip
from .annotations import AnnotationError
from .label_manifest import differences
from .shards import LOOSE, QUARANTINE, file_name, quarantined, remove_leftovers, write_json
from .text_files import write_text

log = logging.getLogger(__name__)
Record = dict[str, Any]
MANIFEST = "manifest.json"


def key_of(record: Mapping[str, Any]) -> str:
    """Which clip a record is of, see `Clip.key`."""
    return f"{record['video_id']}_{record['clip_id']}"


def clips_fingerprint(clips: Iterable[Clip]) -> str:
    """sha256 of a list of clips."""
    digest = hashlib.sha256()
    for clip in clips:
        digest.update(repr(tuple(clip)).encode())
    return digest.hexdigest()


class AnnotationStore:
    """The records of one step.

    Args:
        path: the folder; made by `claim`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    # ---- what made it -----------------------------------------------------------------------------------

    @property
    def manifest(self) -> dict[str, Any]:
        """What made the records.

        Raises:
            AnnotationError: there is no readable manifest.
        """
        path = self.path / MANIFEST
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise AnnotationError(
                f"{path}: no manifest ({error}): run the stage that makes {self.path.name}"
            ) from error
        return found

    def claim(self, manifest: Mapping[str, Any]) -> None:
        """Write the manifest of a new folder; compare with that of an old one.

        Raises:
            AnnotationError: the folder was made otherwise; says what differs.
        """
        wanted = json.loads(json.dumps(manifest, default=str))
        if (self.path / MANIFEST).exists():
            if wrong := differences(self.manifest, wanted):
                raise AnnotationError(
                    f"{self.path} was made otherwise: {'; '.join(wrong)}. Choose another --out, or delete this "
                    "folder and those made of it to make them anew."
                )
            return
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / MANIFEST, wanted)

    # ---- records ----------------------------------------------------------------------------------------

    def shard(self, number: int) -> Path:
        """The file of a shard."""
        return self.path / f"shard-{number:05d}.jsonl"

    def read(self, number: int) -> dict[str, Record]:
        """The records of a shard by clip, loose ones included; a broken file counts as not there."""
        found: dict[str, Record] = {}
        for path in (*self._loose(number), self.shard(number)):
            try:
                records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
                found |= {key_of(record): record for record in records}
            except FileNotFoundError:
                continue
            except (ValueError, KeyError, TypeError) as error:
                log.warning("%s is broken and made anew (%s)", path, error)
        return found

    def add(self, number: int, records: Sequence[Record]) -> None:
        """Keep records of a shard: when this returns they are on the disk."""
        if records:
            keys = [key_of(record) for record in records]
            path = self.path / LOOSE / f"{number:05d}-{file_name(keys)}.jsonl"
            path.parent.mkdir(exist_ok=True)
            write_text(path, _lines(records))
            for key in keys:
                (self.path / QUARANTINE / f"{file_name([key])}.json").unlink(missing_ok=True)

    def finish(self, number: int, keys: Sequence[str]) -> None:
        """Put the loose records of a shard into its file, in the order of the list of clips."""
        loose = self._loose(number)
        if loose:
            found = self.read(number)
            write_text(self.shard(number), _lines([found[key] for key in keys if key in found]))
            for path in loose:  # a kill before this leaves copies, which do no harm
                path.unlink(missing_ok=True)

    def fail(self, key: str, reason: str) -> None:
        """Put a clip into quarantine."""
        path = self.path / QUARANTINE / f"{file_name([key])}.json"
        path.parent.mkdir(exist_ok=True)
        write_json(path, {"video": key, "reason": reason})

    def failed(self) -> dict[str, str]:
        """Clips in quarantine, and why."""
        return quarantined(self.path)

    def tidy(self) -> None:
        """Drop what killed processes left, and empty folders; the only process left may do this at the end."""
        remove_leftovers(self.path)
        for folder in (self.path / LOOSE, self.path / QUARANTINE):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def _loose(self, number: int) -> list[Path]:
        return sorted((self.path / LOOSE).glob(f"{number:05d}-*.jsonl"))


def _lines(records: Sequence[Record]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
