"""Annotated queries on videos, and the account of what was wrong with them."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class AnnotationError(ValueError):
    """An annotation file is not what it should be; the message names file, line or key."""


@dataclass(frozen=True)
class Query:
    """One sentence about one moment of one video.

    Attributes:
        query_id: ``<video id>#<k>``, the k-th query of its video in the annotation file.
        video_id: name of the video, without extension.
        text: the sentence.
        start_s: start of the moment in seconds.
        end_s: its end.
        duration_s: length of the video in seconds.
    """

    query_id: str
    video_id: str
    text: str
    start_s: float
    end_s: float
    duration_s: float


@dataclass
class SplitReport:
    """What a split held and what became of it; reasons map to the ids concerned.

    Attributes:
        split: its name.
        official: queries in the annotation file (or chosen from it).
        used: queries left.
        repaired: e.g. ends beyond the video, set to its end.
        dropped: e.g. queries of missing videos.
        unit: what is counted.
    """

    split: str
    official: int = 0
    used: int = 0
    repaired: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    dropped: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    unit: str = "queries"

    def __str__(self) -> str:
        text = f"{self.split}: {self.used} of {self.official} {self.unit}"
        for verb, reasons in (("repaired", self.repaired), ("dropped", self.dropped)):
            for reason, ids in reasons.items():
                names = ", ".join(ids[:3]) + (", ..." if len(ids) > 3 else "")
                text += f"; {verb} {len(ids)} ({reason}: {names})"
        return text

    def counts(self) -> dict[str, Any]:
        """The numbers alone, JSON-ready."""
        return {
            "official": self.official,
            "used": self.used,
            "repaired": {reason: len(ids) for reason, ids in self.repaired.items()},
            "dropped": {reason: len(ids) for reason, ids in self.dropped.items()},
        }


def check_video_id(video_id: str, where: str) -> str:
    """Refuse a name that would leave the video or feature folder.

    Raises:
        AnnotationError: the name holds a path, a drive, or a character that no file name may have.
    """
    bad = not video_id or video_id in (".", "..") or any(c in video_id for c in '/\\:*?"<>|\0\n')
    if bad or video_id != video_id.strip():
        raise AnnotationError(f"{where}: {video_id!r} is not a plain video name; path parts are refused")
    return video_id


def read_json(path: Path) -> Any:
    """Read a JSON annotation file (a byte order mark is fine); ``<name>.gz`` stands in for a missing file.

    Raises:
        AnnotationError: the file is missing or no JSON; says where.
    """
    packed = path.with_name(f"{path.name}.gz")
    try:
        if packed.exists() and not path.exists():
            return json.loads(gzip.decompress(packed.read_bytes()).decode("utf-8-sig"))
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise AnnotationError(f"{path} does not exist; see the data set's page in the docs") from error
    except (json.JSONDecodeError, UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise AnnotationError(f"{path}: not a JSON file ({error})") from error


def read_moments_json(path: Path, frames: bool = False) -> list[Query]:
    """Read ``{video: {duration, timestamps, sentences}}``, the format of ActivityNet Captions and TACoS.

    Args:
        path: the file.
        frames: times are frame numbers, to be divided by the video's ``fps``; its length is ``num_frames``.

    Raises:
        AnnotationError: a key is missing or a value is no number; names file, video and sentence.
    """
    queries = []
    stored = read_json(path)
    if not isinstance(stored, dict):
        raise AnnotationError(f"{path}: expected one entry per video, not a {type(stored).__name__}")
    for name, video in stored.items():
        where = f"{path}, video {name!r}"
        video_id = check_video_id(name.rpartition(".")[0] if frames and "." in name else name, where)
        try:
            scale = 1.0 / float(video["fps"]) if frames else 1.0
            duration = float(video["num_frames"]) * scale if frames else float(video["duration"])
            pairs = list(zip(video["timestamps"], video["sentences"], strict=True))
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise AnnotationError(f"{where}: {type(error).__name__}: {error}") from error
        for k, (moment, text) in enumerate(pairs):
            try:
                start, end = (float(t) * scale for t in moment)
            except (TypeError, ValueError) as error:
                raise AnnotationError(f"{where}, sentence {k}: {moment!r} is no pair of times") from error
            sentence = "" if text is None else str(text).strip()
            queries.append(Query(f"{video_id}#{k}", video_id, sentence, start, end, duration))
    return queries


def clean(queries: list[Query], report: SplitReport, training: bool) -> list[Query]:
    """Repair what can be repaired; drop the rest from training and keep it for evaluation.

    Times are cut to [0, duration]. A query whose moment is then empty or inverted, or whose times are not
    numbers, cannot be trained on. For evaluation it stays, so that the official number of queries is the
    denominator: nothing can hit it.
    """
    kept = []
    for q in queries:
        numbers = (q.start_s, q.end_s, q.duration_s)
        finite = all(math.isfinite(t) for t in numbers) and q.duration_s > 0
        start, end = max(q.start_s, 0.0), min(q.end_s, q.duration_s)
        if finite and q.start_s < 0:
            report.repaired["start before 0"].append(q.query_id)
        if finite and q.end_s > q.duration_s:
            report.repaired["end after the video's end"].append(q.query_id)
        if not q.text:
            reason = "empty sentence"
        elif not finite:
            reason = "times are not finite numbers"
        elif end <= start:
            reason = "moment is empty or inverted"
        else:
            reason = ""
        if reason and (training or not finite):
            report.dropped[reason].append(q.query_id)
            continue
        if reason:
            report.repaired[f"{reason}, kept for evaluation"].append(q.query_id)
        kept.append(Query(q.query_id, q.video_id, q.text, start, end, q.duration_s))
    return kept
