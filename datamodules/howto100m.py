"""HowTo100M (Miech et al., ICCV 2019): narrated instruction videos."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .annotations import AnnotationError
from .narration_index import Narrations, NarrationSource, index_narrations, usable
from .narrations import NarrationDataModule
from .packed import Strings
from .video_files import VIDEO_SUFFIXES

COLUMNS = ("start", "end", "text")


class HowTo100M(NarrationDataModule):
    """HowTo100M: 1.2 million videos with what is said in them, mostly found by speech recognition.

    Args:
        root: folder of the narrations.
        captions: in `root`: a JSON file ``{video: {start: [...], end: [...], text: [...]}}``, seconds
            (``caption.json``; ``raw_caption.json`` has the stop words, too), or a folder with a file
            ``<video>.csv`` for each, with columns `start`, `end`, `text`.
        video_list: in `root`: the videos to train on, a ``.csv`` with a column `video_id` or `video_path`, or a
            text file with an id per line; None takes all.
        kwargs: see `NarrationDataModule`.
    """

    def __init__(
        self,
        root: str | Path,
        captions: str | Path = "caption.json",
        video_list: str | Path | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        self.captions = self.root / captions
        self.video_list = None if video_list is None else self.root / video_list

    def narrations(self) -> NarrationSource:
        """See `NarrationDataModule.narrations`."""
        if self.captions.is_dir():
            return NarrationFolder(self.captions)
        return index_narrations(self.captions, self.cache)

    def wanted(self) -> Iterable[str] | None:
        """See `NarrationDataModule.wanted`."""
        return None if self.video_list is None else read_video_list(self.video_list)

    def provenance(self) -> dict[str, Any]:
        """See `NarrationDataModule.provenance`."""
        listed = None if self.video_list is None else str(self.video_list)
        return super().provenance() | {"captions": str(self.captions), "video_list": listed}


class NarrationFolder:
    """Narrations of a folder with a ``.csv`` for each video, read when the turn of the video comes.

    Args:
        folder: with at least one file.

    Raises:
        AnnotationError: there is none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, str(folder)
        self.ids = Strings.of(sorted(file.stem for file in folder.iterdir() if file.suffix == ".csv"))
        self.broken: Mapping[str, str] = {}  # not known before they are read
        self.facts: Mapping[str, Any] = {"videos": len(self.ids)}
        if not len(self.ids):
            raise AnnotationError(f"{folder}: no .csv file in this folder; one per video is expected")

    def read(self, row: int) -> Narrations:
        """See `NarrationSource.read`."""
        path = self.folder / f"{self.ids[row]}.csv"
        try:
            with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
                table = csv.DictReader(file)
                missing = sorted(set(COLUMNS) - set(table.fieldnames or []))
                lines = [] if missing else [[line[name] for name in COLUMNS] for line in table]
        except (OSError, csv.Error) as error:
            raise AnnotationError(f"{path}: cannot be read ({error})") from error
        if missing:
            raise AnnotationError(f"{path}: no column {', '.join(missing)}; expected start, end, text")
        starts, ends, texts = ([line[k] for line in lines] for k in range(3))
        return usable(starts, ends, texts, str(path))[0]


def read_video_list(path: Path) -> list[str]:
    """Ids of a list: a ``.csv`` with a column `video_id` or `video_path`, or a text file with an id per line.

    Raises:
        AnnotationError: there is no such file, or no such column.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() != ".csv":
                return [line.strip() for line in file if line.strip()]
            table = csv.DictReader(file)
            column = next((name for name in ("video_id", "video_path") if name in (table.fieldnames or [])), None)
            if column is None:
                raise AnnotationError(
                    f"{path}:1: expected a column `video_id` or `video_path`, found {table.fieldnames}"
                )
            names = [(line[column] or "").strip() for line in table]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise AnnotationError(f"list of videos {path}: {error}") from error
    if column == "video_path":  # an id may hold a dot, so only known endings go
        paths = (Path(name) for name in names)
        names = [file.stem if file.suffix.lower() in VIDEO_SUFFIXES else file.name for file in paths]
    return [name for name in names if name]
