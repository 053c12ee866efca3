"""Step 3: write the annotations of scripted videos in the file formats of the real benchmarks.

A format is one function ``(root, splits) -> None`` and three table entries. ``splits`` maps the names in
``SPLITS`` to videos; a video's queries are written in their order and next to each other, so that the k-th line
of a video is the query ``"{video}#{k}"``; the same holds for segments, narrations and descriptions. The videos
themselves lie in ``root/videos/<id>.mp4``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..text_files import write_text
from .activitynet import write_activitynet
from .files import Splits
from .howto100m import write_howto100m
from .iground import RATE, write_iground
from .scene import COLOURS, PRESETS, SHAPES, Segment, Video, WorldConfig
from .shapes import boxes

CHARADES_COLUMNS = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length"


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


ENTITIES_WIDTH = 720
"""Width in pixels of the frames whose coordinates ActivityNet-Entities gives."""


def write_activitynet_entities(root: Path, splits: Splits) -> None:
    """ActivityNet-Entities (Zhou et al., 2019): boxes of words, and the captions of ActivityNet Captions.

    One box per acting actor, in one of ten sampled frames, that stands for two words, colour and shape. As in
    reality ``val_1`` and ``val_2`` hold the validation and the test videos, the latter with the other order of
    the actors; unlike in reality the boxes of the test videos are there, in the file named after a skeleton.

    Args:
        root: folder of the data set.
        splits: ``train``, ``val`` and ``test``.
    """
    held_out = [*splits["val"], *splits["test"]]
    for name, videos in (("trainval", [*splits["train"], *splits["val"]]), ("test_skeleton", splits["test"])):
        content = {
            "vocab": [*COLOURS, *SHAPES],
            "annotations": {
                video.id: {
                    "duration": round(video.duration_s, 2),
                    "segments": {str(k): _entities(video, segment) for k, segment in enumerate(video.segments)},
                }
                for video in videos
            },
        }
        write_text(root / f"anet_entities_cleaned_class_thresh50_{name}.json", json.dumps(content))
    names = {"training": "train", "validation": "val", "testing": "test"}
    ids = {name: [video.id for video in splits[split]] for name, split in names.items()}
    write_text(root / "split_ids_anet_entities.json", json.dumps({**ids, "hidden_test": []}))
    for name, videos, order in (("train", splits["train"], 0), ("val_1", held_out, 0), ("val_2", held_out, 1)):
        captions = {
            video.id: {
                "duration": round(video.duration_s, 2),
                "timestamps": [[segment.start_s, segment.end_s] for segment in video.segments],
                "sentences": [segment.sentences[order] for segment in video.segments],
            }
            for video in videos
        }
        write_text(root / f"{name}.json", json.dumps(captions))


def _entities(video: Video, segment: Segment) -> dict[str, Any]:
    """One segment of ActivityNet-Entities: the lists with a common index are parallel, one entry per box."""
    words = segment.tokens
    frames = segment.sampled(video.fps)
    return {
        "process_clss": [[words[index] for index in mention.words] for mention in segment.mentions],
        "tokens": words,
        "frame_ind": [mention.sample for mention in segment.mentions],
        "process_idx": [list(mention.words) for mention in segment.mentions],
        "timestamps": [segment.start_s, segment.end_s],
        "process_bnd_box": [
            _box(video, video.events[mention.event].actor, frames[mention.sample]) for mention in segment.mentions
        ],
        "crowds": [0] * len(segment.mentions),
    }


def _box(video: Video, actor: int, frame: int) -> list[int]:
    """The actor's box in a frame, xyxy, in whole pixels of a frame of ``ENTITIES_WIDTH`` pixels."""
    (box,) = boxes(video.actors[actor].shape, video.tracks[frame : frame + 1, actor])
    clipped = np.clip(box.astype(np.float64), 0, (video.width, video.height) * 2)
    return [round(value * ENTITIES_WIDTH / video.width) for value in clipped.tolist()]


def write_msrvtt(root: Path, splits: Splits) -> None:
    """MSR-VTT (Xu et al., 2016): a video is a clip with several captions, lower case, without full stop.

    Args:
        root: folder of the data set.
        splits: ``train``, ``val`` (written as ``validate``, into the file of the training clips) and ``test``,
            of videos that are one segment each.
    """
    info = {"contributor": "groundzoo", "data_created": "", "version": "1.0", "year": ""}
    info["description"] = "ToyWorld in the format of MSR-VTT"
    parts = {"train": splits["train"], "validate": splits["val"], "test": splits["test"]}
    number = 0  # counts on from file to file
    written = 0
    for file, of in (("train_val", ("train", "validate")), ("test", ("test",))):
        videos: list[dict[str, Any]] = []
        sentences: list[dict[str, Any]] = []
        for split, video in ((name, video) for name in of for video in parts[name]):
            times = {"start time": 0.0, "end time": round(video.duration_s, 2)}
            videos.append({"category": 0, "url": "", "video_id": video.id, **times, "split": split, "id": number})
            number += 1
            for sentence in (text for segment in video.segments for text in segment.sentences):
                caption = sentence.rstrip(".").lower()
                sentences.append({"caption": caption, "video_id": video.id, "sen_id": written})
                written += 1
        content = {"info": info, "videos": videos, "sentences": sentences}
        write_text(root / f"{file}_videodatainfo.json", json.dumps(content))


def check_format(format: str, preset: str, config: WorldConfig) -> None:
    """Refuse a format that this world cannot be written in.

    Args:
        format: whose annotation files are asked for.
        preset: name of the world's preset, for the message.
        config: the world.

    Raises:
        ValueError: if the format is unknown or made for another kind of world.
    """
    if format not in FORMATS:
        raise ValueError(f"unknown format {format!r}, known are {', '.join(FORMATS)}")
    needs, has = CONTENT[format], content(config)
    if needs != has:
        formats = [name for name in FORMATS if CONTENT[name] == has]
        presets = [name for name, other in PRESETS.items() if content(other) == needs]
        raise ValueError(
            f"format {format!r} is made of {needs}, but preset {preset!r} is a world of {has}: take a preset of "
            f"{', '.join(presets)}, or a format of {', '.join(formats)}"
        )
    if format == "msrvtt" and config.events != (1, 1):
        raise ValueError(
            f"format 'msrvtt' captions whole videos, but preset {preset!r} has {config.events[0]} to "
            f"{config.events[1]} segments per video: take the preset clips, or the format activitynet_entities"
        )
    if format == "iground" and config.fps < RATE:
        raise ValueError(f"format 'iground' has boxes {RATE} times per second: fps must be {RATE} or more")


def content(config: WorldConfig) -> str:
    """What a world's videos are annotated with, in the words of ``CONTENT``."""
    if config.segments:
        return "captioned segments"
    if config.described:
        return "described events"
    if config.grounded:
        return "grounded captions"
    return "narrated steps" if config.narrated else "queries"


FORMATS: dict[str, Callable[[Path, Splits], None]] = {
    "charades_sta": write_charades_sta,
    "activitynet_captions": write_activitynet_captions,
    "tacos": write_tacos,
    "activitynet_entities": write_activitynet_entities,
    "msrvtt": write_msrvtt,
    "howto100m": write_howto100m,
    "activitynet": write_activitynet,
    "iground": write_iground,
}

CONTENT = {
    "charades_sta": "queries",
    "activitynet_captions": "queries",
    "tacos": "queries",
    "activitynet_entities": "captioned segments",
    "msrvtt": "captioned segments",
    "howto100m": "narrated steps",
    "activitynet": "described events",
    "iground": "grounded captions",
}
"""What each format is made of."""

SPLITS: dict[str, tuple[str, ...]] = {
    "charades_sta": ("train", "test"),
    "activitynet_captions": ("train", "val", "test"),
    "tacos": ("train", "val", "test"),
    "activitynet_entities": ("train", "val", "test"),
    "msrvtt": ("train", "val", "test"),
    "howto100m": ("train", "val", "test"),
    "activitynet": ("train", "val", "test"),
    "iground": ("train", "val", "test"),
}
"""The splits that each format knows, in the order in which videos are dealt to them."""
