"""Grounding labels of captions: boxes with scores of each annotated word, in every frame that a model sees.

A store is a folder, made by ``groundzoo annotate propagate``::

    manifest.json            what made the labels
    labels/<video>.json      one file per video
    quarantine/<video>.json  a video that got no labels, and why
    pictures/                drawn on demand, for people

Nothing in it is thresholded, and actions have no boxes of their own: which scores count, whether they count
softly, and the rectangles of actions (the tightest around the entities that `CaptionLabels.links` names, with the
least of their scores) are switches of the model, computed from tracks and links when it is trained. One store
serves all of them.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .shards import write_json

MANIFEST, LABELS, QUARANTINE = "manifest.json", "labels", "quarantine"
DIGITS = 4  # a ten-thousandth of a frame is a tenth of a pixel
Floats = npt.NDArray[np.float32]


class LabelError(ValueError):
    """Labels are missing, unreadable, or made for another number of frames; names the file and what to do."""


@dataclass(frozen=True, eq=False)
class WordTrack:
    """Where the thing is that some words of a caption name, in the F frames of its segment.

    Attributes:
        words: indices of the tokens; several where one box was annotated for several words.
        boxes: ``(F, 4)`` float32, xyxy as shares of the frame's (W, H), in [0, 1]; zeros where the score is 0.
        scores: ``(F,)`` float32 in [0, 1], how sure the tracker is; 0 where the thing was not found or its box
            has no area inside the frame. 1 where a person drew the box.
        annotated: ``(F,)`` bool, True in the one frame that the track started from: the annotated box itself,
            or the detection that stands in for one.
    """

    words: tuple[int, ...]
    boxes: Floats
    scores: Floats
    annotated: npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class CaptionLabels:
    """What is known of the words of one caption.

    Attributes:
        tokens: the caption that the indices count in.
        tracks: of its entities; a word may be in several, one per box.
        links: index of each verb -> indices of the words with a track that are its subject, objects and context.
    """

    tokens: tuple[str, ...]
    tracks: tuple[WordTrack, ...] = ()
    links: dict[int, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class VideoLabels:
    """All labels of a video.

    Attributes:
        video_id: name of the video file, without extension.
        width: of the video, in pixels.
        height: likewise.
        segments: by segment id, the labels of each of its captions, in order.
    """

    video_id: str
    width: int
    height: int
    segments: dict[str, tuple[CaptionLabels, ...]]


def tidy(boxes: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Bring boxes and scores of F frames into the form that is kept.

    Args:
        boxes: ``(F, 4)``, xyxy as shares of (W, H); may reach beyond the frame.
        scores: ``(F,)``.

    Returns:
        Boxes clipped to [0, 1] and scores to [0, 1], rounded; both are 0 where the score is, where a box has no
        area inside the frame, and where a number is not finite.
    """
    corners = np.round(np.clip(np.asarray(boxes, dtype=np.float64), 0, 1), DIGITS)
    sure = np.round(np.clip(np.asarray(scores, dtype=np.float64), 0, 1), DIGITS)
    there = (corners[:, 2:] > corners[:, :2]).all(1) & (sure > 0)  # NaN is greater than nothing
    return (
        np.where(there[:, None], corners, 0).astype(np.float32),
        np.where(there, sure, 0).astype(np.float32),
    )


# ---- files ----------------------------------------------------------------------------------------------


def write_labels(store: Path, labels: VideoLabels) -> None:
    """Add a video to a store: it is there, whole, when this returns."""
    segments = {segment_id: _to_json(captions) for segment_id, captions in labels.segments.items()}
    record = {"video": labels.video_id, "width": labels.width, "height": labels.height, "segments": segments}
    path = store / LABELS / f"{labels.video_id}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_quarantine(store: Path, video_id: str, reason: str) -> None:
    """Note a video that gets no labels."""
    path = store / QUARANTINE / f"{video_id}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"video": video_id, "reason": reason})


def _to_json(captions: tuple[CaptionLabels, ...]) -> dict[str, Any]:
    """A segment; captions that share a track name it, so that its boxes are kept once."""
    tracks: dict[bytes, int] = {}
    boxes: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for caption in captions:
        words = []
        for track in caption.tracks:
            key = track.boxes.tobytes() + track.scores.tobytes() + track.annotated.tobytes()
            if key not in tracks:
                tracks[key] = len(boxes)
                boxes.append(
                    {
                        "boxes": np.round(track.boxes.astype(np.float64), DIGITS).tolist(),
                        "scores": np.round(track.scores.astype(np.float64), DIGITS).tolist(),
                        "annotated": np.flatnonzero(track.annotated).tolist(),
                    }
                )
            words.append({"track": tracks[key], "words": list(track.words)})
        links = {str(verb): list(entities) for verb, entities in caption.links.items()}
        rows.append({"tokens": list(caption.tokens), "tracks": words, "links": links})
    return {"tracks": boxes, "captions": rows}


def _from_json(segment: dict[str, Any], frames: int) -> tuple[CaptionLabels, ...]:
    """The reverse of `_to_json`; raises ValueError, KeyError, IndexError or TypeError at what is no segment."""
    arrays = []
    for record in segment["tracks"]:
        boxes = np.array(record["boxes"], dtype=np.float32)
        scores = np.array(record["scores"], dtype=np.float32)
        if boxes.shape != (frames, 4) or scores.shape != (frames,):
            raise ValueError(f"a track of {len(scores)} frames, where the manifest says {frames}")
        numbers = np.concatenate([boxes.ravel(), scores])
        if not ((numbers >= 0) & (numbers <= 1)).all():
            raise ValueError("a number is outside [0, 1]")
        annotated = np.zeros(frames, dtype=np.bool_)
        annotated[record["annotated"]] = True
        arrays.append((boxes, scores, annotated))
    captions = []
    for row in segment["captions"]:
        tracks = tuple(WordTrack(tuple(t["words"]), *arrays[t["track"]]) for t in row["tracks"])
        links = {int(verb): tuple(entities) for verb, entities in row["links"].items()}
        named = {w for t in tracks for w in t.words} | links.keys() | {w for e in links.values() for w in e}
        if not named <= set(range(len(row["tokens"]))):
            raise ValueError(f"a word is outside the caption of {len(row['tokens'])} tokens")
        captions.append(CaptionLabels(tuple(row["tokens"]), tracks, links))
    return tuple(captions)


class LabelStore:
    """Read access to grounding labels.

    Args:
        path: the store's folder.

    Raises:
        LabelError: there is no store, or its manifest is broken.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        file = self.path / MANIFEST
        try:
            self.manifest: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            self.frames = int(self.manifest["frames"])
        except FileNotFoundError as error:
            raise LabelError(
                f"labels {self.path}: no {MANIFEST} there; make labels with `groundzoo annotate propagate --out "
                f"{self.path}`"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise LabelError(f"labels {file}: no manifest of labels ({_reason(error)})") from error

    @property
    def ids(self) -> set[str]:
        """Videos that have labels."""
        return {file.stem for file in (self.path / LABELS).glob("[!.]*.json")}

    def check(self, frames: int) -> None:
        """Raises LabelError unless the labels were made for this number of frames per segment."""
        if frames != self.frames:
            raise LabelError(
                f"labels {self.path} are for {self.frames} frames per segment, the model takes {frames}: make "
                f"others with `groundzoo annotate propagate --frames {frames}` in another folder, or set the "
                "model's frames"
            )

    def read(self, video_id: str) -> VideoLabels:
        """The labels of one video.

        Raises:
            LabelError: there are none, or the file is broken or of another number of frames; names it.
        """
        file = self.path / LABELS / f"{video_id}.json"
        try:
            stored = json.loads(file.read_text(encoding="utf-8"))
            segments = {name: _from_json(segment, self.frames) for name, segment in stored["segments"].items()}
            return VideoLabels(stored["video"], int(stored["width"]), int(stored["height"]), segments)
        except FileNotFoundError as error:
            remedy = self._quarantined(video_id) or "run `groundzoo annotate propagate`"
            raise LabelError(f"labels {file}: no such file; {remedy}") from error
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise LabelError(
                f"labels {file}: broken ({_reason(error)}); run `groundzoo annotate propagate` again, which makes "
                "this file anew"
            ) from error

    def _quarantined(self, video_id: str) -> str:
        file = self.path / QUARANTINE / f"{video_id}.json"
        if not file.is_file():
            return ""
        return f"the video is in quarantine: {json.loads(file.read_text(encoding='utf-8'))['reason']}"


def _reason(error: Exception) -> str:
    return f"no {error}" if isinstance(error, KeyError) else str(error)
