"""ActivityNet 1.3 in the segments of TSP (Alwassel et al., ICCV Workshops 2021, arXiv:2011.11479)."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .annotations import AnnotationError, Query, check_video_id, read_json, read_moments_json
from .clip_dataset import BACKGROUND, LabelledSegment
from .clip_segments import ClipDataModule, Split

PREFIX = "activitynet_v1-3"
NUMBERS = ("t-start", "t-end", "video-duration")
COLUMNS = ("video-name", *NUMBERS, "action-label", "temporal-region-label")


def read_label_names(path: Path) -> list[str]:
    """A JSON list of different names.

    Raises:
        AnnotationError: the file is missing, or holds something else.
    """
    names = read_json(path)
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise AnnotationError(f"{path}: expected a list of names")
    if len(set(names)) < len(names):
        raise AnnotationError(f"{path}: {Counter(names).most_common(1)[0][0]!r} comes twice")
    return names


def read_segments(path: Path, actions: list[str], regions: list[str]) -> list[LabelledSegment]:
    """Rows of one of TSP's csv files: segments with an action, and those between them.

    Args:
        path: the file; needs the columns `COLUMNS`. `filename`, where it is there, names the video, else
            `video-name` does.
        actions: names of the classes.
        regions: what the inside and the outside of actions are called.

    Raises:
        AnnotationError: the file is missing or a row makes no sense; names file and line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file)
            if missing := [name for name in COLUMNS if name not in (table.fieldnames or [])]:
                raise AnnotationError(f"{path}:1: no column {', '.join(missing)}; found {table.fieldnames}")
            return list(_segments(table, path, {name: k for k, name in enumerate(actions)}, regions))
    except FileNotFoundError as error:
        raise AnnotationError(f"{path} does not exist; see the data set's page in the docs") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise AnnotationError(f"{path}: cannot be read ({error})") from error


def _segments(
    table: csv.DictReader[str], path: Path, classes: dict[str, int], regions: list[str]
) -> Iterator[LabelledSegment]:
    seen: Counter[str] = Counter()
    for row in table:
        where = f"{path}:{table.line_num}"
        if None in row or any(row[name] is None for name in COLUMNS):
            raise AnnotationError(f"{where}: this line has not as many values as line 1 has columns")
        name = check_video_id(row["video-name"], where)
        video_id = check_video_id(Path(row.get("filename") or name).stem, where) if row.get("filename") else name
        try:
            start, end, duration = (float(row[column]) for column in NUMBERS)
        except ValueError as error:
            raise AnnotationError(f"{where}: {error}; {', '.join(NUMBERS)} are seconds") from error
        if not (math.isfinite(start) and math.isfinite(end) and 0 < duration < math.inf):
            raise AnnotationError(f"{where}: {start:g} to {end:g} s of a video of {duration:g} s is no time")
        action, region = row["action-label"], row["temporal-region-label"]
        if action and action not in classes:
            raise AnnotationError(f"{where}: unknown action {action!r}; the label mapping lists the classes")
        if region != regions[0 if action else 1]:
            raise AnnotationError(
                f"{where}: action {action!r} in the region {region!r}; rows with an action are in {regions[0]!r}, "
                f"rows without in {regions[1]!r}"
            )
        yield LabelledSegment(
            f"{video_id}#{seen[video_id]}",
            video_id,
            start,
            end,
            duration,
            classes.get(action, BACKGROUND),
            tuple(dict.fromkeys((video_id, name))),
        )
        seen[video_id] += 1


class ActivityNetActions(ClipDataModule):
    """ActivityNet 1.3: 200 actions in untrimmed video, and what lies between them; 31366 / 15401 segments.

    Reads TSP's ``activitynet_v1-3_{train,valid}_tsp_groundtruth.csv`` and the two files
    ``activitynet_v1-3_{action,temporal_region}_label_mapping.json``; sentences are those of ActivityNet Captions,
    ``train.json`` and ``val_1.json``. The labels of the test videos are withheld: test reads the validation
    segments, unless there is a csv of `test`, whose sentences are in ``val_2.json``. Videos, captions and features
    go by the name of the video file without extension, or by `video-name`.

    Args:
        root: folder of the csv files.
        kwargs: see `ClipDataModule`.
    """

    def __init__(self, root: str | Path, **kwargs: Any) -> None:
        super().__init__(root, **kwargs)

    def actions(self) -> list[str]:
        """See `ClipDataModule.actions`."""
        return read_label_names(self.root / f"{PREFIX}_action_label_mapping.json")

    def read(self, split: Split) -> list[LabelledSegment]:
        """See `ClipDataModule.read`."""
        regions = read_label_names(path := self.root / f"{PREFIX}_temporal_region_label_mapping.json")
        if len(regions) != 2:
            raise AnnotationError(f"{path}: expected the names of two regions, inside and outside of actions")
        name = "test" if split == "test" and self._has_test else "train" if split == "train" else "valid"
        return read_segments(self._csv(name), self.actions(), regions)

    def sentences(self, split: Split) -> list[Query]:
        """See `ClipDataModule.sentences`."""
        assert self.captions is not None
        name = "val_2" if split == "test" and self._has_test else "train" if split == "train" else "val_1"
        return read_moments_json(self.captions / f"{name}.json")

    @property
    def _has_test(self) -> bool:
        return self._csv("test").exists()

    def _csv(self, name: str) -> Path:
        return self.root / f"{PREFIX}_{name}_tsp_groundtruth.csv"
