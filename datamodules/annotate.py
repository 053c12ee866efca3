"""The verb ``groundzoo annotate propagate``: labels of a whole data set, an account of them, and pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning import LightningDataModule, Trainer

from ..zoo.detection import Detector
from ..zoo.text.verb_links import RuleLinker, VerbLinker
from ..zoo.tracking.base import Tracker
from .activitynet_entities import FRAMES, ActivityNetEntities
from .captions import CaptionDataModule
from .label_pictures import draw_labels
from .labels import LABELS, LabelError, LabelStore
from .propagation import Propagation
from .segments import Segment
from .shards import quarantined
from .video_files import find_videos

THRESHOLDS = (0.0, 0.25, 0.5, 0.75, 1.0)
SHOWN = 10  # videos in quarantine that are listed one by one


def propagate(
    engine: Trainer,
    recipe: Mapping[str, Any],
    data: LightningDataModule | None = None,
    out: str | None = None,
    check: str | None = None,
    frames: int = 10,
    splits: list[Literal["train", "val", "test"]] = ["train", "val"],  # noqa: B006 (read only)
    tracker: Tracker | None = None,
    detector: Detector | None = None,
    linker: VerbLinker | None = None,
    track_fps: float | None = 5.0,
    max_side: int = 512,
    max_frames: int = 1200,
    seed_min_score: float = 0.3,
    seed_score: Literal["one", "detector"] = "one",
    seed_prompt: Literal["noun", "phrase"] = "noun",
    num_workers: int = 2,
    retry: bool = False,
    draw: int = 0,
) -> None:
    """Make the grounding labels of a data set, see `Propagation`, and print an account of them.

    Args:
        engine: runs it on its devices.
        recipe: the configuration, for the manifest.
        data: the data set: annotations and videos.
        out: the folder of labels to make, or to go on with; that of the data set's configuration unless given.
        check: only look whether the labels in this folder are sound; with a data set, also whether all are there.
        frames: frames per segment that the model sees; a task's configuration tells.
        splits: which ones get labels.
        tracker: follows boxes from frame to frame; null keeps the annotated frames alone.
        detector: finds entities in segments without annotated boxes; null for none.
        linker: finds the subject and objects of each verb; rules unless given.
        track_fps: pictures per second for the tracker, beside those of the model; null for these alone.
        max_side: longer side of the pictures that tracker and detector see, pixels.
        max_frames: most pictures of a segment for the tracker; longer segments get fewer per second.
        seed_min_score: detections below are not followed.
        seed_score: score of a detection in its own frame: one, as annotated boxes, or the detector's.
        seed_prompt: what the detector is asked for: the noun, or the phrase of its adjectives and nouns.
        num_workers: decoding processes per device.
        retry: try videos in quarantine again.
        draw: pictures of so many segments, into the folder `pictures`.

    Raises:
        ValueError: there is no data set or no folder.
        LabelError: the folder's labels were made otherwise, or not one video could be labelled; or what `check`
            looked at is not sound.
    """
    if data is not None and not isinstance(data, CaptionDataModule):
        raise ValueError(f"{type(data).__name__} is no data set of captions")
    if check is not None:
        problems = check_labels(check, data, splits)
        print("\n".join(problems or [f"{check}: {len(LabelStore(check).ids)} videos, nothing wrong"]))
        if problems:
            raise LabelError(f"{len(problems)} problem(s) in {check}")
        return
    if data is None:
        raise ValueError("give --config with a data set of captions")
    folder = data.labels if out is None else Path(out)
    if folder is None:
        raise ValueError("give --out, the folder of labels to make")
    if isinstance(data, ActivityNetEntities) and data.boxes and frames != FRAMES:
        raise ValueError(
            f"the boxes of {type(data).__name__} were drawn in {FRAMES} frames per segment, and labels are asked "
            f"for {frames}: set --frames, and the model's, to {FRAMES}"
        )
    given: dict[str, list[Segment]] = {split: data.read(split) for split in splits}
    files = find_videos(data.videos)
    propagation = Propagation(
        given,
        files,
        folder,
        frames,
        tracker,
        linker or RuleLinker(),
        detector,
        track_fps,
        max_side,
        max_frames,
        seed_min_score,
        seed_score,
        seed_prompt,
        num_workers,
        retry,
        {**recipe, "data_set": type(data).__name__},
    )
    engine.predict(propagation, return_predictions=False)
    if not engine.is_global_zero:
        return
    store = LabelStore(folder)
    segments = [segment for split in given.values() for segment in split]
    print(account(store, segments))
    if not store.ids & {segment.video_id for segment in segments}:
        raise LabelError(
            f"labels {folder}: not one of {len(propagation.segments)} videos could be labelled (see above)"
        )
    if draw:
        draw_labels(store, segments, files, draw)


def account(store: LabelStore, segments: Sequence[Segment]) -> str:
    """What became of the segments of a data set, in a few lines; broken files are told, too."""
    wanted: dict[str, list[Segment]] = {}
    for segment in segments:
        wanted.setdefault(segment.video_id, []).append(segment)
    counts: Counter[str] = Counter()
    kept = np.zeros(len(THRESHOLDS), dtype=np.int64)
    failed = {video: reason for video, reason in quarantined(store.path).items() if video in wanted}
    for video_id in sorted(store.ids & wanted.keys()):
        try:
            video = store.read(video_id)
        except LabelError as error:
            failed[video_id] = str(error)
            continue
        counts["videos"] += 1
        for segment in wanted[video_id]:
            captions = video.segments.get(segment.segment_id, ())
            tracks = {id(track.boxes): track for caption in captions for track in caption.tracks}.values()
            counts["segments"] += 1
            counts["given"] += len(tracks)
            counts["without"] += not tracks
            counts["verbs"] += sum(len(caption.links) for caption in captions)
            for track in tracks:
                kept += [int((track.annotated | (track.scores > least)).sum()) for least in THRESHOLDS]
    drawn = sum(len(caption.boxes) for segment in segments for caption in segment.captions)
    lines = [
        f"{store.path}: {counts['videos']} of {len(wanted)} videos, {counts['segments']} of {len(segments)} "
        f"segments, {counts['without']} of them without any box",
        f"boxes given: {counts['given']} ({drawn} annotated in the data set); verbs linked: {counts['verbs']}",
        "boxes in all frames, by the score above which they count: "
        + ", ".join(f"{n} at {least:g}" for n, least in zip(kept.tolist(), THRESHOLDS, strict=True)),
    ]
    if failed:
        lines.append(f"{len(failed)} in quarantine:")
        lines += [f"  {video}: {reason}" for video, reason in sorted(failed.items())[:SHOWN]]
        if len(failed) > SHOWN:
            lines.append(f"  ... and {len(failed) - SHOWN} more, see {store.path / 'quarantine'}")
    return "\n".join(lines)


def check_labels(path: str | Path, data: CaptionDataModule | None = None, splits: Sequence[Any] = ()) -> list[str]:
    """Look for anything wrong with a folder of labels.

    Args:
        path: the folder.
        data: the data set that should be in it.
        splits: of the data set.

    Returns:
        What is wrong, one line each; nothing for good labels.
    """
    try:
        store = LabelStore(path)
    except LabelError as error:
        return [str(error)]
    problems = []
    found: dict[str, set[str]] = {}
    for video_id in sorted(store.ids):
        try:
            found[video_id] = set(store.read(video_id).segments)
        except LabelError as error:
            problems.append(str(error))
    failed = quarantined(store.path)
    problems += [f"{video}: in quarantine. {reason}" for video, reason in sorted(failed.items())]
    segments = [segment for split in splits for segment in data.read(split)] if data is not None else []
    missing = Counter(s.video_id for s in segments if s.segment_id not in found.get(s.video_id, ()))
    known = failed.keys() | {file.stem for file in (store.path / LABELS).glob("[!.]*.json")} - found.keys()
    problems += [f"{video}: {n} segment(s) not there" for video, n in missing.items() if video not in known]
    return problems
