"""Step 3: write the annotations of scripted videos in the file formats of the real benchmarks.

A format is one function ``(root, splits) -> None`` and two table entries. ``splits`` maps the names in
``SPLITS`` to videos; a video's queries are written in their order and next to each other, so that the k-th line
of a video is the query ``"{video}#{k}"``. The videos themselves lie in ``root/videos/<id>.mp4``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from .scene import Video

Splits = Mapping[str, Sequence[Video]]

CHARADES_COLUMNS = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length"


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file atomically: readers see the old content or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def write_charades_sta(root: Path, splits: Splits) -> None:
    """Charades-STA (Gao et al., 2017): ``ID start end##sentence`` in seconds, and the files of Charades itself.

    Args:
        root: folder of the data set.
        splits: ``train`` and ``test``.
    """
    for split, videos in splits.items():
        moments = [
            f"{video.id} {query.start_s:.2f} {query.end_s:.2f}##{query.text}\n"
            for video in videos
            for query in video.queries
        ]
        write_text(root / f"charades_sta_{split}.txt", "".join(moments))
        rows = [f"{video.id}{',' * CHARADES_COLUMNS.count(',')}{video.duration_s:.2f}\n" for video in videos]
        write_text(root / f"Charades_v1_{split}.csv", f"{CHARADES_COLUMNS}\n{''.join(rows)}")
    every = [video for videos in splits.values() for video in videos]
    durations = {video.id: round(video.duration_s, 2) for video in every}
    write_text(root / "Charades_duration.json", json.dumps(durations, indent=4) + "\n")
    frames = {video.id: video.num_frames for video in every}
    write_text(root / "Charades_frames_info.json", json.dumps(frames, indent=4) + "\n")


def write_activitynet_captions(root: Path, splits: Splits) -> None:
    """ActivityNet Captions (Krishna et al., 2017): timestamps in seconds, ``train``, ``val_1``, ``val_2``.

    The real ``val_1`` and ``val_2`` are two annotations of the same videos, of which papers validate on one and
    test on the other; here they are different videos.

    Args:
        root: folder of the data set.
        splits: ``train``, ``val`` (written as ``val_1``) and ``test`` (written as ``val_2``).
    """
    for split, name in (("train", "train"), ("val", "val_1"), ("test", "val_2")):
        entries = {
            video.id: {
                "duration": round(video.duration_s, 2),
                "timestamps": [[round(query.start_s, 2), round(query.end_s, 2)] for query in video.queries],
                "sentences": [query.text for query in video.queries],
            }
            for video in splits[split]
        }
        write_text(root / f"{name}.json", json.dumps(entries))


def write_tacos(root: Path, splits: Splits) -> None:
    """TACoS (Regneri et al., 2013) as distributed with 2D-TAN: timestamps in frames, keys with ``.avi``.

    Args:
        root: folder of the data set.
        splits: ``train``, ``val`` and ``test``.
    """
    for split, videos in splits.items():
        entries = {
            f"{video.id}.avi": {
                "timestamps": [
                    [round(query.start_s * video.fps), round(query.end_s * video.fps)] for query in video.queries
                ],
                "sentences": [query.text for query in video.queries],
                "fps": float(video.fps),
                "num_frames": video.num_frames,
            }
            for video in videos
        }
        write_text(root / f"{split}.json", json.dumps(entries))


FORMATS: dict[str, Callable[[Path, Splits], None]] = {
    "charades_sta": write_charades_sta,
    "activitynet_captions": write_activitynet_captions,
    "tacos": write_tacos,
}

SPLITS: dict[str, tuple[str, ...]] = {
    "charades_sta": ("train", "test"),
    "activitynet_captions": ("train", "val", "test"),
    "tacos": ("train", "val", "test"),
}
"""The splits that each format knows, in the order in which videos are dealt to them."""
