"""Described worlds in the files of ActivityNet: the segments of TSP's csv, and ActivityNet Captions."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from ..text_files import write_text
from .files import Splits
from .scene import ACTIONS, Video

PREFIX = "activitynet_v1-3"
COLUMNS = ("video-name", "t-start", "t-end", "action-label", "video-duration", "filename", "fps", "video-frames",
           "temporal-region-label")  # fmt: skip
REGIONS = ("Action", "No action")


def write_activitynet(root: Path, splits: Splits) -> None:
    """ActivityNet 1.3 as TSP (Alwassel et al., 2021) cuts it into segments, and ActivityNet Captions.

    ``activitynet_v1-3_<split>_tsp_groundtruth.csv`` has one row per event, and one for each part of the video in
    which nobody acts; ``activitynet_v1-3_action_label_mapping.json`` and
    ``activitynet_v1-3_temporal_region_label_mapping.json`` list the labels in the order of their numbers. Unlike
    in reality the rows of a video stand together, in the order of time, a rest may be shorter than 5.3 s, there is
    a csv of the test videos, and ``val_1.json`` and ``val_2.json`` caption different videos.

    Args:
        root: folder of the data set.
        splits: ``train``, ``val`` (written as ``valid`` and ``val_1``) and ``test`` (``test`` and ``val_2``).
    """
    for split, rows, captions in (
        ("train", "train", "train"),
        ("val", "valid", "val_1"),
        ("test", "test", "val_2"),
    ):
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(row for video in splits[split] for row in _rows(video))
        write_text(root / f"{PREFIX}_{rows}_tsp_groundtruth.csv", table.getvalue())
        entries = {video.id: _captions(video) for video in splits[split]}
        write_text(root / f"{captions}.json", json.dumps(entries))
    write_text(root / f"{PREFIX}_action_label_mapping.json", json.dumps(sorted(ACTIONS)))
    write_text(root / f"{PREFIX}_temporal_region_label_mapping.json", json.dumps(REGIONS))


def _rows(video: Video) -> Iterator[tuple[str | float, ...]]:
    """The rows of a video's events, and of the rests before, between and after them."""
    facts = (video.duration_s, f"{video.id}.mp4", float(video.fps), video.num_frames)
    edges = [0.0, *(time for event in video.events for time in (event.start_s, event.end_s)), video.duration_s]
    for k, (start, end) in enumerate(pairwise(edges)):
        if k % 2:
            yield video.id, start, end, video.events[k // 2].action, *facts, REGIONS[0]
        elif start < end:
            yield video.id, start, end, "", *facts, REGIONS[1]


def _captions(video: Video) -> dict[str, object]:
    return {
        "duration": round(video.duration_s, 2),
        "timestamps": [[round(event.start_s, 2), round(event.end_s, 2)] for event in video.events],
        "sentences": list(video.descriptions),
    }
