"""Charades-STA (Gao et al., ICCV 2017)."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from .annotations import AnnotationError, Query, check_video_id, read_json
from .grounding import GroundingDataModule, held_out


class CharadesSTA(GroundingDataModule):
    """Charades-STA: short sentences on indoor videos; 12408 training and 3720 test queries.

    Reads ``charades_sta_{train,test}.txt`` (``VID start end##sentence.``, seconds) and the durations. The
    data set has no validation split: some training videos are held out to choose checkpoints.

    Args:
        root: folder of the text files.
        durations: `json` reads ``Charades_duration.json`` (the released DRN's), `csv` the ``length`` column
            of ``Charades_v1_{train,test}.csv``; the two differ by up to a second.
        val_fraction: share of training videos held out, chosen by a hash of (seed, video).
        select_on_test: validate on the test split and train on all of `train`, as the authors did.
        kwargs: see `GroundingDataModule`.
    """

    def __init__(
        self,
        root: str | Path,
        durations: Literal["json", "csv"] = "json",
        val_fraction: float = 0.1,
        select_on_test: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        if not 0 < val_fraction < 1:
            raise ValueError(f"val_fraction={val_fraction} must lie between 0 and 1")
        self.durations, self.val_fraction, self.select_on_test = durations, val_fraction, select_on_test

    def setup(self, stage: str) -> None:
        """Also read the number of frames of each video, where the file is there."""
        info = self.root / "Charades_frames_info.json"
        if info.exists() and not self.num_frames:
            self.num_frames = {video: int(frames) for video, frames in read_json(info).items()}
        super().setup(stage)

    def read(self, split: Literal["train", "val", "test"]) -> list[Query]:
        """See `GroundingDataModule.read`."""
        if split == "test" or (split == "val" and self.select_on_test):
            return self._read_file("test")
        queries = self._read_file("train")
        if self.select_on_test:
            return queries
        chosen = held_out({q.video_id for q in queries}, self.val_fraction, self.seed) if queries else set()
        return [q for q in queries if (q.video_id in chosen) == (split == "val")]

    def vocabulary_texts(self) -> Iterable[str]:
        """Texts that the vocabulary is built from; `all` is train, then test, in the order of the files."""
        if self.vocabulary_from == "train":
            return super().vocabulary_texts()
        return [query.text for query in (*self._read_file("train"), *self._read_file("test"))]

    def _read_file(self, split: Literal["train", "test"]) -> list[Query]:
        path = self.root / f"charades_sta_{split}.txt"
        durations = self._read_durations(split)
        seen: Counter[str] = Counter()
        queries = []
        try:
            lines = path.read_text(encoding="utf-8-sig").split("\n")
        except FileNotFoundError as error:
            raise AnnotationError(f"{path} does not exist; see docs on Charades-STA") from error
        except UnicodeDecodeError as error:
            raise AnnotationError(f"{path}: not UTF-8 ({error})") from error
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                moment, text = line.split("##", 1)
                name, start, end = moment.split()
                start_s, end_s = float(start), float(end)
            except ValueError as error:
                raise AnnotationError(f"{where}: {line!r} is not `VID start end##sentence`") from error
            video = check_video_id(name, where)
            if video not in durations:
                raise AnnotationError(f"{where}: video {video} has no duration in the {self.durations} file")
            query_id = f"{video}#{seen[video]}"
            seen[video] += 1
            queries.append(Query(query_id, video, text.strip(), start_s, end_s, durations[video]))
        return queries

    def _read_durations(self, split: str) -> dict[str, float]:
        if self.durations == "json":
            path = self.root / "Charades_duration.json"
            try:
                return {k: float(v) for k, v in read_json(path).items()}
            except (AttributeError, TypeError, ValueError) as error:
                if isinstance(error, AnnotationError):
                    raise
                raise AnnotationError(f"{path}: expected {{video: seconds}} ({error})") from error
        path = self.root / f"Charades_v1_{split}.csv"
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                return {row["id"]: float(row["length"]) for row in csv.DictReader(file)}
        except FileNotFoundError as error:
            raise AnnotationError(f"{path} does not exist; use durations: json, or add the file") from error
        except (KeyError, TypeError, ValueError) as error:
            raise AnnotationError(f"{path}: columns `id` and `length` (seconds) are needed ({error!r})") from error
