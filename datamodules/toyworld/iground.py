"""Grounded worlds in the files of iGround, and in those of VidSTG as TubeDETR arranges them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from ...zoo.text.grounded_text import GroundedText
from ..text_files import write_text
from .files import Splits
from .language import SHORT
from .scene import Video
from .truth import seen_boxes, visibility

RATE = 5
"""Frames per second that iGround has boxes in."""

LEAST_TUBE_S = 0.5
"""A shorter tube of VidSTG is not worth a sentence."""

Boxes = list[list[float] | None]


def write_iground(root: Path, splits: Splits) -> None:
    """Write ``<split>.jsonl``, as in iGround (Kazakos et al., 2025), and ``vidstg_<split>.json``.

    A line of iGround is a record with the keys of the authors' files: the sentence, its phrases, and per frame, at
    5 per second, the boxes (xyxy pixels) of the actors that are to be seen, and the phrases that name them. Here a
    clip is a whole video.

    VidSTG (Zhang et al., 2020) has up to two sentences per acting actor, "a red circle moves left" and, if only
    one actor does so, "what moves left?". Their tube is the longest stretch of frames (first, and one past the
    last) in which the actor is to be seen without a break, if that lasts half a second. ``trajectories`` has the
    boxes of all actors (x, y, width, height in pixels) in all frames in which they are to be seen.

    Args:
        root: folder of the data set.
        splits: ``train``, ``val`` and ``test``.
    """
    number = 0  # counts on from file to file
    for split, videos in splits.items():
        records, sentences = [], []
        trajectories: dict[str, Any] = {}
        for video in videos:
            boxes = [seen_boxes(video, i, visibility(video, i)) for i in range(len(video.actors))]
            records.append(json.dumps(_record(video, boxes)) + "\n")
            for sentence in _sentences(video, boxes):
                sentences.append({"video_id": number, **sentence})
                number += 1
            trajectories[video.id] = {str(i): _trajectory(own) for i, own in enumerate(boxes)}
        write_text(root / f"{split}.jsonl", "".join(records))
        content = {"videos": sentences, "trajectories": trajectories}
        write_text(root / f"vidstg_{split}.json", json.dumps(content))


def _record(video: Video, boxes: Sequence[Boxes]) -> dict[str, Any]:
    """One clip of iGround."""
    caption = video.caption or GroundedText("")
    named = list(zip(caption.phrases, video.events, strict=True))
    shown = [
        [(phrase, box) for phrase, event in named if (box := boxes[event.actor][frame])]
        for frame in range(0, video.num_frames, video.fps // RATE)
    ]
    return {
        "video_id": video.id,
        "clip_id": 0,
        "video_fname": f"{video.id}.mp4",
        "fps": float(video.fps),
        "clip_start_frame": 0,
        "clip_end_frame": video.num_frames - 1,
        "width": video.width,
        "height": video.height,
        "caption": caption.text,
        "tagged_caption": _tagged(caption),
        "phrases": caption.phrases,
        "bboxes": [[box for _, box in frame] for frame in shown],
        "labels": [[phrase for phrase, _ in frame] for frame in shown],
    }


def _tagged(caption: GroundedText) -> str:
    """The sentence with its phrases between ``<p>`` and ``</p>``."""
    text = caption.text
    for start, end in reversed(caption.spans):
        text = f"{text[:start]}<p>{text[start:end]}</p>{text[end:]}"
    return text


def _sentences(video: Video, boxes: Sequence[Boxes]) -> Iterator[dict[str, Any]]:
    """The sentences of VidSTG about a video, without their number."""
    acting = [event.actor for event in video.events]
    done = [event.action for event in video.events]
    done += ["rest"] * (len(video.actors) - len(acting))  # so does who is not told of
    for event, phrase in zip(video.events, (video.caption or GroundedText("")).phrases, strict=True):
        first, end = _longest(boxes[event.actor])
        if end - first < LEAST_TUBE_S * video.fps:
            continue
        verb = SHORT[event.action]
        said = {"declarative": f"{phrase} {verb}"}
        if done.count(event.action) == 1:
            said["interrogative"] = f"what {verb}?"
        for kind, sentence in said.items():
            yield {
                "original_video_id": video.id,
                "video_path": f"{video.id}.mp4",
                "caption": sentence,
                "qtype": kind,
                "tube_start_frame": first,
                "tube_end_frame": end,
                "fps": float(video.fps),
                "width": video.width,
                "height": video.height,
                "target_id": event.actor,
            }


def _longest(boxes: Boxes) -> tuple[int, int]:
    """The longest stretch of boxes: first frame, and one past the last."""
    runs = (list(run) for seen, run in groupby(range(len(boxes)), key=lambda f: boxes[f] is not None) if seen)
    longest = max(runs, key=len, default=[])
    return (longest[0], longest[-1] + 1) if longest else (0, 0)


def _trajectory(boxes: Boxes) -> dict[str, Any]:
    return {
        str(frame): {"bbox": [x0, y0, round(x1 - x0, 1), round(y1 - y0, 1)]}
        for frame, (x0, y0, x1, y1) in ((f, box) for f, box in enumerate(boxes) if box)
    }
