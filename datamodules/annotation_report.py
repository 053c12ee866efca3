"""What became of clips that were annotated automatically, from the files of all steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from .annotation_store import AnnotationStore

PACKAGES = ("torch", "lightning", "transformers", "tokenizers", "decord2", "av", "numpy")
SHOWN = 10  # clips in quarantine that are told one by one


def make_report(stores: Mapping[str, AnnotationStore], shards: int, clips: int) -> dict[str, Any]:
    """Counts over all clips, where the others are, and what it was made with; the same however it was run.

    Args:
        stores: `frames`, `captions`, `phrases` and `annotations`.
        shards: how many there are.
        clips: how many were asked for.
    """
    counts: Counter[str] = Counter()
    sources: dict[str, Counter[str]] = {"captions": Counter(), "phrases": Counter()}
    tracks: list[int] = []
    for shard in range(shards):
        for record in stores["captions"].read(shard).values():
            sources["captions"][record["source"]] += 1
        for record in stores["phrases"].read(shard).values():
            sources["phrases"].update(record["sources"])
            counts["phrases without a class"] += sum(name is None for name in record["classes"].values())
        for record in stores["annotations"].read(shard).values():
            counts["clips"] += 1
            counts["frames"] += len(record["bboxes"])
            counts["boxes"] += sum(map(len, record["bboxes"]))
            counts["phrases"] += len(record["phrases"])
            counts["words"] += len(record["caption"].split())
            tracks += Counter(label for labels in record["labels"] for label in labels).values()
    return {
        "clips": clips,
        "annotated": {name: counts[name] for name in ("clips", "frames", "boxes", "phrases")},
        "words_per_caption": round(counts["words"] / max(1, counts["clips"]), 2),
        "frames_per_phrase": round(float(np.mean(tracks)), 2) if tracks else 0.0,
        "captions_read_from": _sources(sources["captions"]),
        "frame_phrases_read_from": _sources(sources["phrases"]),
        "frame_phrases_without_class": counts["phrases without a class"],
        "quarantine": {name: dict(sorted(store.failed().items())) for name, store in stores.items()},
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "recipe": stores["annotations"].manifest,
    }


def account(report: Mapping[str, Any]) -> str:
    """A report in a few lines."""
    made, captions, phrases = (report[k] for k in ("annotated", "captions_read_from", "frame_phrases_read_from"))
    failed = [(name, key, why) for name, found in report["quarantine"].items() for key, why in found.items()]
    lines = [
        f"{made['clips']} of {report['clips']} clips annotated: {made['phrases']} phrases, {made['boxes']} boxes "
        f"in {made['frames']} frames; {report['words_per_caption']:g} words per sentence",
        f"sentences: {_told(captions)}",
        f"phrases of frames: {_told(phrases)}; {report['frame_phrases_without_class']} mean nothing in a sentence",
    ]
    if failed:
        lines.append(f"{len(failed)} in quarantine:")
        lines += [f"  {key} ({name}): {why}" for name, key, why in failed[:SHOWN]]
        lines += [f"  ... and {len(failed) - SHOWN} more, see report.json"] if len(failed) > SHOWN else []
    return "\n".join(lines)


def _told(sources: Mapping[str, int]) -> str:
    first, second, fallback = (sources[name] for name in ("first", "second", "fallback"))
    return f"{first} from the first answer, {second} from a second one, {fallback} by rule"


def _sources(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: counts.get(name, 0) for name in ("first", "second", "fallback")}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
