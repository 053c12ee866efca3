"""Annotation of grounded clips: a sentence, its phrases, and their boxes in the frames of a clip.

The records of iGround and HowToGround1M (Kazakos et al., ICCV 2025, arXiv:2503.10781) are read from JSON lines or
JSON. The authors publish pickles, too, which can run any program when they are opened; they are converted once, by
`pickled_records`, ::

    python -m groundzoo.datamodules.grounded_records convert iGround_test_set_raw.pkl test.jsonl
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ..zoo.text.grounded_text import GroundedText
from ..zoo.text.tagged_text import read_tagged
from .annotations import AnnotationError, check_video_id, read_json
from .json_stream import stream_entries
from .pickled_records import convert

RATE = 5  # annotated frames per second
Box = list[float]


class GroundedClip(NamedTuple):
    """A clip, a sentence about it, and where its phrases are.

    Attributes:
        clip_id: identifier, unique in its file.
        video_id: name of the video that the clip is from.
        video: name of the video file, without extension; the same as `video_id` unless the annotation tells.
        fps: frames per second of the file, as annotated; where annotation is in seconds, any rate to count at.
        frames: numbers of the n annotated frames at that rate, from 0.
        size: (width, height) in pixels of the picture that boxes are given in; NaN where only the file tells, see
            `in_file`.
        caption: the sentence and its phrases.
        boxes: per frame ``(phrase, [x1, y1, x2, y2])`` in pixels, ordered by the number of the phrase; a phrase
            may have several boxes in a frame.
        group: part of the data set that is reported on its own, or "".
    """

    clip_id: str
    video_id: str
    video: str
    fps: float
    frames: range
    size: tuple[float, float]
    caption: GroundedText
    boxes: list[list[tuple[int, Box]]]
    group: str = ""

    def in_file(self, width: int, height: int) -> GroundedClip:
        """The clip with the file's size, and boxes in its pixels, where annotation leaves the size open.

        A width without a height is that of a picture with the proportions of the file.
        """
        if not math.isnan(self.size[1]):
            return self
        scale = 1.0 if math.isnan(self.size[0]) else width / self.size[0]
        boxes = [[(phrase, [scale * x for x in box]) for phrase, box in frame] for frame in self.boxes]
        return self._replace(size=(float(width), float(height)), boxes=boxes)

    def to_json(self) -> str:
        """One line of JSON for `from_json`."""
        frames: Any = (self.frames.start, self.frames.stop, self.frames.step)  # JSON knows no range
        return json.dumps(self._replace(frames=frames), ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> GroundedClip:
        """The clip of `to_json`."""
        clip = cls(*json.loads(line))
        text, spans = clip.caption
        return clip._replace(
            frames=range(*clip.frames),
            size=(clip.size[0], clip.size[1]),
            caption=GroundedText(text, tuple((start, end) for start, end in spans)),
            boxes=[[(phrase, box) for phrase, box in frame] for frame in clip.boxes],
        )


# ---- one record -----------------------------------------------------------------------------------------


def parse_record(record: Any, where: str) -> GroundedClip:
    """Read a record with the keys of iGround and HowToGround1M.

    The sentence is lower-cased, without quotation marks around it; a phrase stands where it is first tagged. The
    k-th entry of `bboxes` and `labels` belongs to the frame ``clip_start_frame + k * int(fps / 5)``; the end
    itself is a frame where there is an entry for it.

    Args:
        record: `video_id`, `clip_id`, `fps`, `clip_start_frame`, `clip_end_frame`, `width`, `height`,
            `tagged_caption`, `bboxes`, `labels`, and possibly `video_fname` and `phrases` (else all tagged ones).
        where: file and line, for messages.

    Raises:
        AnnotationError: a key is missing or its value is of no use; names the place, the clip and the key.
    """
    if not isinstance(record, dict) or not {"video_id", "clip_id"} <= record.keys():
        raise AnnotationError(f"{where}: expected a record with `video_id` and `clip_id`")
    clip_id = f"{record['video_id']}_{record['clip_id']}"
    where = f"{where}, clip {clip_id}"
    try:
        video_id = check_video_id(str(record["video_id"]), where)
        video = check_video_id(file_stem(str(record.get("video_fname") or video_id)), where)
        fps, size = float(record["fps"]), (float(record["width"]), float(record["height"]))
        if not (math.isfinite(fps) and fps > 0 and all(math.isfinite(side) and side > 0 for side in size)):
            raise ValueError(f"fps={fps}, size={size}: expected positive numbers")
        caption = read_tagged(str(record["tagged_caption"]), record.get("phrases"))
        boxes = _frame_boxes(record["bboxes"], record["labels"], caption.phrases)
        start, end = int(record["clip_start_frame"]), int(record["clip_end_frame"])
        frames = annotated_frames(start, end, fps, len(boxes))
    except KeyError as error:
        raise AnnotationError(f"{where}: the record has no {error}") from error
    except (TypeError, ValueError) as error:
        if isinstance(error, AnnotationError):
            raise
        raise AnnotationError(f"{where}: {error}") from error
    return GroundedClip(clip_id, video_id, video, fps, frames, size, caption, boxes)


def file_stem(path: str) -> str:
    """Name of a file without folders and extension."""
    return PurePosixPath(path.replace("\\", "/")).stem


def annotated_frames(start: int, end: int, fps: float, count: int) -> range:
    """Numbers of the annotated frames of a clip.

    Args:
        start: first frame.
        end: last frame, itself one of the annotated ones if there are that many.
        fps: of the file.
        count: how many there are.

    Raises:
        ValueError: there are not that many frames, or none.
    """
    step = max(1, int(fps / RATE))
    frames = range(start, end + 1, step)
    if len(frames) > count:
        frames = range(start, end, step)
    if start < 0 or not count or len(frames) != count:
        raise ValueError(
            f"frames {start} to {end} are {len(frames)} at a stride of {step}, but `bboxes` has {count} entries"
        )
    return frames


def _frame_boxes(bboxes: Any, labels: Any, phrases: Sequence[str]) -> list[list[tuple[int, Box]]]:
    """Boxes per frame with the numbers of their phrases, in that order."""
    if not (isinstance(bboxes, list) and isinstance(labels, list) and len(bboxes) == len(labels)):
        raise ValueError("`bboxes` and `labels` have to be lists of the same length, with an entry per frame")
    number = {_words(phrase): k for k, phrase in enumerate(phrases)}
    frames = []
    for k, (corners, names) in enumerate(zip(bboxes, labels, strict=True)):
        if len(corners) != len(names):
            raise ValueError(f"frame {k} has {len(corners)} boxes, but {len(names)} labels")
        found: list[tuple[int, Box]] = []
        for box, name in zip(corners, names, strict=True):
            phrase = _words(str(name))
            if phrase not in number:
                raise ValueError(f"the label {name!r} of frame {k} is none of the tagged phrases {list(phrases)}")
            found.append((number[phrase], _corners(box, k)))
        frames.append(sorted(found, key=lambda pair: pair[0]))
    return frames


def _words(phrase: str) -> str:
    return " ".join(phrase.lower().split())


def _corners(box: Any, frame: int) -> Box:
    corners = [float(value) for value in box]
    if len(corners) != 4 or not all(map(math.isfinite, corners)):
        raise ValueError(f"the box {box!r} of frame {frame} is not x1, y1, x2, y2")
    return corners


# ---- files ----------------------------------------------------------------------------------------------


def read_records(path: Path) -> Iterator[tuple[str, Any]]:
    """Places and records of a file, one by one.

    Args:
        path: ``.jsonl`` with a record per line, or ``.json`` with one object ``{clip: record}``; each also with
            ``.gz`` behind.

    Yields:
        file and line (or key), for messages; the record, or an `AnnotationError` in place of a line that is none.

    Raises:
        AnnotationError: the file is missing, cut short or of another kind.
    """
    name = path.name.removesuffix(".gz")
    if not path.is_file():
        raise AnnotationError(f"{path} does not exist; see the data set's page in the docs")
    if name.endswith(".jsonl"):
        yield from _lines(path)
    elif name.endswith(".json"):
        entries = stream_entries(path) if name == path.name else _object(path.with_name(name))
        yield from ((f"{path}, key {key!r}", record) for key, record in entries)
    else:
        raise AnnotationError(
            f"{path}: expected .jsonl, .json, .jsonl.gz or .json.gz; pickles are converted with `python -m "
            "groundzoo.datamodules.grounded_records convert IN.pkl OUT.jsonl`"
        )


def _object(path: Path) -> Iterator[tuple[str, Any]]:
    stored = read_json(path)
    if not isinstance(stored, Mapping):
        raise AnnotationError(f"{path}.gz: expected one object with a record per clip")
    yield from stored.items()


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opener(path, "rt", encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                where = f"{path}:{number}"
                if line.strip():
                    try:
                        yield where, json.loads(line)
                    except json.JSONDecodeError as error:
                        yield where, AnnotationError(f"{where}: not a line of JSON ({error})")
    except (EOFError, OSError, UnicodeDecodeError, zlib.error) as error:
        raise AnnotationError(f"{path}: cannot be read behind line {number} ({error}); copy it again") from error


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli({"convert": convert}, as_positional=True)
