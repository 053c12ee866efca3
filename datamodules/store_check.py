"""Is a feature store complete and sound? And what a command prints of it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..zoo.video.spec import FrameSpec
from .features import MANIFEST, FeatureError, FeatureStore, read_manifest
from .shards import quarantined, read_header, shard_files
from .video_files import find_videos


def check_store(store: Path, videos: Mapping[str, Path] | None = None) -> list[str]:
    """Look for anything wrong with a store.

    Args:
        store: the folder.
        videos: that should be in it.

    Returns:
        What is wrong, one line each; nothing for a good store.
    """
    problems = []
    manifest: dict[str, Any] = {}
    try:
        manifest = read_manifest(store / MANIFEST) or {}
        if not manifest:
            problems.append(f"{store / MANIFEST}: missing, nobody knows what made these features")
    except FeatureError as error:
        problems.append(str(error))
    try:
        features = FeatureStore(store)
    except FeatureError as error:
        return [*problems, str(error)]
    seen: dict[str, Path] = {}
    for path in shard_files(store):
        for video_id in read_header(path):
            if video_id in seen and seen[video_id].parent == path.parent:
                problems.append(f"{path}: {video_id} is in {seen[video_id]}, too")
            seen[video_id] = path
    for video_id in sorted(features.ids):
        try:
            stored = features.read(video_id)
            cells = features.read_grid(video_id) if manifest.get("grid") else None
        except FeatureError as error:
            problems.append(str(error))
            continue
        shape: tuple[Any, ...] = stored.units.shape
        if shape[1] != manifest.get("dim", shape[1]):
            problems.append(f"{video_id}: {shape[1]} wide, the manifest says {manifest['dim']}")
        if {"window", "stride"} <= manifest.keys() and stored.num_frames is not None:
            units = _units(manifest, stored.num_frames)
            if units != shape[0]:
                problems.append(f"{video_id}: {shape[0]} units, {stored.num_frames} frames should give {units}")
        if cells is not None and cells.shape != (shape[0], *manifest["grid"]):
            problems.append(f"{video_id}: a grid of {cells.shape}, expected {(shape[0], *manifest['grid'])}")
        if cells is not None and not np.isfinite(cells).all():
            problems.append(f"{video_id}: the grid holds NaN or infinity")
    failed = quarantined(store)
    problems += [f"{video}: in quarantine. {reason}" for video, reason in sorted(failed.items())]
    problems += [f"{video}: not there" for video in sorted((videos or {}).keys() - features.ids - failed.keys())]
    return problems


def report_stores(stores: Sequence[Path], wanted: int) -> None:
    """Print how many of the `wanted` videos each store has, and what is in quarantine; exit if one has none."""
    for store in stores:
        failed = quarantined(store)
        try:
            count = len(FeatureStore(store).ids)
        except FeatureError:
            count = 0
        print(f"{store}: {count} of {wanted} videos" + (f", {len(failed)} in quarantine:" if failed else ""))
        for video, reason in sorted(failed.items()):
            print(f"  {video}: {reason}")
        if count == 0:
            sys.exit(f"groundzoo extract: not one of {wanted} videos could be encoded (see above)")


def report_problems(store: Path, videos: str | None) -> None:
    """Print what is wrong with a store, or those of a `Combined`, and exit with 1 if anything is.

    Args:
        store: the folder, or the one above those of a `Combined`.
        videos: folder, list or csv of the videos that should be in it.
    """
    wanted = find_videos(videos) if videos is not None else None
    parts = [] if (store / MANIFEST).is_file() else [path.parent for path in sorted(store.glob(f"*/{MANIFEST}"))]
    count = 0
    for part in parts or [store]:
        problems = check_store(part, wanted)
        count += len(problems)
        print("\n".join(problems or [f"{part}: {len(FeatureStore(part).ids)} videos, nothing wrong"]))
    if count:
        sys.exit(f"groundzoo extract: {count} problem(s) in {store}")


def _units(manifest: Mapping[str, Any], num_frames: int) -> int:
    return FrameSpec(None, manifest["window"], manifest["stride"], None).num_units(num_frames)
