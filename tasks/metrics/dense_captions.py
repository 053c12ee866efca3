"""Scores of dense captioning: captions with their own segments, by the protocol of ActivityNet Captions."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .caption_scorers import Score
from .captions import CaptionMetric, Tokenizer
from .records import Record

log = logging.getLogger(__name__)
MAX_PROPOSALS = 1000
UNMATCHED = "qzkxvjqwzkxvjq"
"""Reference of a caption whose segment meets no annotated one: a word that no caption holds."""


class DenseCaptionScores(CaptionMetric):
    """Caption scores at temporal overlaps (densevid_eval of Krishna et al., ICCV 2017), times 100.

    A caption is compared, one by one, with every annotated sentence of any reference file whose segment it meets
    with at least the overlap, or with a word it cannot match if there is none. Those pairs of a video are a corpus
    of their own (a video with a single pair has CIDEr 0); the value is the mean over all annotated videos, 0 for a
    video without captions. ActivityNet-Entities numbers of GVD and CVG, sentences on annotated segments, are
    of this protocol with both reference files.

    A record is ``{"video": str, "start_s": float, "end_s": float, "caption": str}``, several per video, of which
    the first 1000 count.

    Args:
        references: one mapping per reference file: video to ``{"timestamps": [[start, end], ...] in seconds,
            "sentences": [str, ...]}``.
        tious: overlaps. A caption matches from the overlap on; precision and recall of segments demand more
            than it.
        scores: see `CaptionMetric`.
        tokenizer: see `CaptionMetric`.
        prefix: of the names of values.

    Returns (compute):
        ``dense@0.5/CIDEr`` per score and overlap, ``dense/CIDEr`` the mean over the overlaps,
        ``dense/precision``, ``dense/recall``, ``dense@0.5/precision``, ... the best over reference files.

    Raises:
        ValueError: no annotated video, or numbers of segments and sentences that differ; names the video.
    """

    def __init__(
        self,
        references: Sequence[Mapping[str, Mapping[str, Any]]],
        tious: Sequence[float] = (0.3, 0.5, 0.7, 0.9),
        scores: Sequence[Score] = ("CIDEr", "BLEU"),
        tokenizer: Tokenizer = "simple",
        prefix: str = "dense",
        **kwargs: Any,
    ) -> None:
        super().__init__(scores, tokenizer, **kwargs)
        self.tious, self.prefix = tuple(tious), prefix
        self.references = [
            {
                video: (_segments(entry["timestamps"]), _ascii_all(entry["sentences"]))
                for video, entry in file.items()
            }
            for file in references
        ]
        for number, file in enumerate(self.references, 1):
            for video, (segments, sentences) in file.items():
                if len(segments) != len(sentences):
                    raise ValueError(
                        f"reference file {number}, {video}: {len(segments)} segments, {len(sentences)} sentences"
                    )
        self.videos = sorted({video for file in self.references for video in file})
        if not self.videos or not self.tious:
            raise ValueError("dense captions need at least one annotated video and one overlap")

    def evaluate(self, records: list[Record]) -> dict[str, float]:
        """Values of all records."""
        self.absent = {}
        predictions = self._predictions(records)
        corpora: dict[tuple[tuple[str, str], ...], int] = {}  # every distinct corpus is scored once
        members: dict[float, list[int]] = {tiou: [] for tiou in self.tious}
        shares: dict[str, list[list[float]]] = {"precision": [], "recall": []}
        for video, (segments, captions) in predictions.items():
            files = [file[video] for file in self.references if video in file]
            overlaps = [(_overlaps(segments, theirs), sentences) for theirs, sentences in files]
            for tiou in self.tious:
                matched = _pairs(captions, [(o >= tiou, sentences) for o, sentences in overlaps])
                members[tiou].append(corpora.setdefault(tuple(matched), len(corpora)))
            for name, axis in (("precision", 1), ("recall", 0)):
                best = [max(_share(o, tiou, axis) for o, _ in overlaps) for tiou in self.tious]
                shares[name].append(best)
        tokens = self.tokens(text for corpus in corpora for pair in corpus for text in pair)
        groups = [([tokens[c] for c, _ in corpus], [[tokens[r]] for _, r in corpus]) for corpus in corpora]
        columns = self.scored(groups)
        values = {
            name: [sum(column[i] for i in members[tiou]) / len(self.videos) for tiou in self.tious]
            for name, column in columns.items()
        }
        values |= {
            name: [100 * sum(row[k] for row in rows) / len(self.videos) for k in range(len(self.tious))]
            for name, rows in shares.items()
        }
        result = {f"{self.prefix}/{name}": sum(row) / len(row) for name, row in values.items()}
        for name, row in values.items():
            result |= {
                f"{self.prefix}@{tiou:g}/{name}": value for tiou, value in zip(self.tious, row, strict=True)
            }
        return result

    def _predictions(self, records: list[Record]) -> dict[str, tuple[NDArray[np.float64], list[str]]]:
        """Segments and captions of every annotated video that has some."""
        found: dict[str, list[Record]] = {}
        for record in records:
            found.setdefault(record["video"], []).append(record)
        unknown = sorted(found.keys() - set(self.videos))
        if unknown:
            log.warning(
                "%d of %d videos with captions are not annotated and do not count: %s ...",
                len(unknown), len(found), ", ".join(unknown[:3]),
            )  # fmt: skip
        result = {}
        for video in self.videos:
            if rows := found.get(video, [])[:MAX_PROPOSALS]:
                segments = _segments([[row["start_s"], row["end_s"]] for row in rows])
                result[video] = (segments, _ascii_all(row["caption"] for row in rows))
        return result


def _segments(pairs: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    return np.array(pairs, dtype=np.float64).reshape(len(pairs), 2)


def _ascii_all(texts: Iterable[str | None]) -> list[str]:
    return ["".join(c if c.isascii() else " " for c in text or "") for text in texts]


def _overlaps(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(P, R)`` IoU, with the protocol's union: the smaller of the hull and the sum of both lengths."""
    low, high = np.minimum(a[:, None], b), np.maximum(a[:, None], b)
    shared = np.maximum(0.0, low[..., 1] - high[..., 0])
    lengths = (a[:, 1] - a[:, 0])[:, None] + (b[:, 1] - b[:, 0])
    overlaps: NDArray[np.float64] = shared / (np.minimum(high[..., 1] - low[..., 0], lengths) + 1e-8)
    return overlaps


def _pairs(captions: list[str], files: list[tuple[NDArray[np.bool_], list[str]]]) -> list[tuple[str, str]]:
    """Every caption with every sentence it is compared with."""
    pairs: list[tuple[str, str]] = []
    for i, caption in enumerate(captions):
        met = [(caption, sentences[j]) for matches, sentences in files for j in np.flatnonzero(matches[i])]
        pairs += met or [(caption, UNMATCHED)]
    return pairs


def _share(overlaps: NDArray[np.float64], tiou: float, axis: int) -> float:
    """Share of the segments along the other axis that meet one with more than `tiou`; 0 of none."""
    found: NDArray[np.bool_] = np.any(overlaps > tiou, axis=axis)
    return float(found.mean()) if len(found) else 0.0


def read_submission(path: str | Path) -> list[Record]:
    """Records of a file in the benchmark's submission format.

    Raises:
        ValueError: not that format; names the file and the video.
    """
    try:
        results = json.loads(Path(path).read_text(encoding="utf-8"))["results"].items()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f'{path}: not a submission, a JSON object with "results" ({error!r})') from error
    records = []
    for video, rows in results:
        try:
            records += [
                {"video": video, "start_s": float(start), "end_s": float(end), "caption": row["sentence"]}
                for row in rows
                for start, end in [row["timestamp"]]
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f'{path}, {video}: each entry needs "sentence" and "timestamp" [start, end] in seconds ({error!r})'
            ) from error
    return records


def submission(records: Iterable[Record]) -> dict[str, Any]:
    """Records in the benchmark's submission format, ready for JSON."""
    results: dict[str, list[dict[str, Any]]] = {}
    for r in records:
        row = {"sentence": r["caption"], "timestamp": [r["start_s"], r["end_s"]]}
        results.setdefault(r["video"], []).append(row)
    return {"version": "VERSION 1.0", "results": results, "external_data": {"used": False, "details": ""}}
