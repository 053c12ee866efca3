"""Narrated worlds in the files of HowTo100M (for training), GroundingYouTube and MiningYouTube (for testing)."""

from __future__ import annotations

import csv
import io
import json
from itertools import product
from pathlib import Path

import numpy as np

from ..text_files import write_text
from .files import Splits
from .language import PHRASES, name_step, step_phrase
from .narration import step_seconds
from .scene import COLOURS, SHAPES, Clicks, Video

CANVAS = (640, 480)
"""Width and height of the picture, stretched to it, in whose pixels GroundingYouTube gives its boxes."""

MARGIN = 0.15
"""Of the canvas' width and height, on each side of the clicks that a box surrounds (STG, appendix)."""

BACKGROUND = "background"


def write_howto100m(root: Path, splits: Splits) -> None:
    """HowTo100M (Miech et al., 2019) for training, and the two annotations of one set of videos for testing.

    Training videos have narrations only: ``caption.json`` and ``csv/<video>.csv``. The others have their steps, as
    GroundingYouTube (Chen et al., 2024) gives them, with boxes, in ``box_anno.json``, ``ground_seg.json``,
    ``vid2step.json`` and ``id2wh.json``, and as MiningYouTube (Kuehne et al., 2019) does, with exact times, in
    ``annotations/<video>.srt``, ``videos_val.txt``, ``videos_test.txt`` and ``weakYouTube_dict.txt``. Unlike in
    reality no video is in both of the latter splits.

    Args:
        root: folder of the data set.
        splits: ``train``, ``val`` and ``test``.
    """
    for folder in ("csv", "annotations"):
        (root / folder).mkdir(exist_ok=True)
    captions = {video.id: _captions(video) for video in splits["train"]}
    write_text(root / "caption.json", json.dumps(captions))
    for name, caption in captions.items():
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerows([tuple(caption), *zip(*caption.values(), strict=True)])
        write_text(root / "csv" / f"{name}.csv", table.getvalue())

    held_out = [*splits["val"], *splits["test"]]
    entries = {
        "box_anno": {video.id: [_box(video, clicks) for clicks in video.clicks] for video in held_out},
        "ground_seg": {video.id: _segments(video) for video in held_out},
        "vid2step": {
            video.id: [*dict.fromkeys(step_phrase(video.actors, event) for event in video.events), BACKGROUND]
            for video in held_out
        },
        "id2wh": {video.id: [video.width, video.height] for video in held_out},
    }
    for file, content in entries.items():
        write_text(root / f"{file}.json", json.dumps(content))
    for video in held_out:
        write_text(root / "annotations" / f"{video.id}.srt", _subtitles(video))
    for split in ("val", "test"):
        write_text(root / f"videos_{split}.txt", "".join(f"{video.id}\n" for video in splits[split]))
    labels = sorted(_label(name_step(*words)) for words in product(COLOURS, SHAPES, PHRASES))
    write_text(root / "weakYouTube_dict.txt", "".join(f"{label}\n" for label in [*labels, BACKGROUND]))


def _captions(video: Video) -> dict[str, list[float] | list[str]]:
    return {
        "start": [narration.start_s for narration in video.narrations],
        "end": [narration.end_s for narration in video.narrations],
        "text": [narration.text for narration in video.narrations],
    }


def _box(video: Video, clicks: Clicks) -> dict[str, object]:
    """The box around all clicks with a margin, within the canvas, xyxy in whole pixels."""
    points = np.array(clicks.points) * CANVAS / (video.width, video.height)
    margin = MARGIN * np.array(CANVAS)
    corners = np.clip([points.min(0) - margin, points.max(0) + margin], 0, CANVAS)
    step = step_phrase(video.actors, video.events[clicks.step])
    return {"second": clicks.second, "box": np.round(corners).astype(int).ravel().tolist(), "step_name": step}


def _segments(video: Video) -> list[dict[str, object]]:
    """The steps with their first and last full second."""
    return [
        {"segment": [seconds[0], seconds[-1]], "id": k, "sentence": step_phrase(video.actors, event)}
        for k, event in enumerate(video.events)
        if (seconds := step_seconds(event, video.fps))
    ]


def _subtitles(video: Video) -> str:
    """SubRip with the byte order mark that the real files begin with."""
    blocks = [
        f"{k}\n{_clock(event.start_s)} --> {_clock(event.end_s)}\n{_label(step_phrase(video.actors, event))}\n"
        for k, event in enumerate(video.events, 1)
    ]
    return "\ufeff" + "\n".join(blocks)


def _label(phrase: str) -> str:
    return phrase.replace(" ", "_")


def _clock(seconds: float) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d},{rest % 1000:03d}"
