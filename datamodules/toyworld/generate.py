"""Step 4: all of it for a folder of videos: on all cores, resumable, refusing to mix worlds.

The folder::

    OUT/videos/toy00000.mp4 ...   H.264
    OUT/truth/toy00000.json ...   everything that is true of a video, see truth.py
    OUT/<annotation files>        of the chosen format, see formats.py
    OUT/subsets.json              {subset: [query ids]}, a query id is "toy00012#3"; for queries only
    OUT/world.json                how the folder was made, its splits and its counts
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..text_files import write_text
from .formats import FORMATS, SPLITS, check_format, content
from .render import encode, render_frames
from .scene import PRESETS, Video, WorldConfig
from .truth import truth
from .world import script_video, video_id

VERSION = 1
"""Raised whenever the same seed would no longer give the same frames and annotations."""

LATER_OPTIONS = ("actions", "segments", "pause_s", "poor", "poor_annotated", "narrated", "gap_s", "narrated_steps",
                 "chatter", "drop_word", "off_topic", "drift_s", "enter", "described", "shapes", "grounded",
                 "bystander", "hidden", "hidden_share")  # fmt: skip
"""Options of the world that world.json names only where they differ from their defaults, so that a folder made
before they existed is still known as the same world."""

COUNTED = {
    "queries": ("queries",),
    "captioned segments": ("segments",),
    "narrated steps": ("events", "narrations"),
    "described events": ("events",),
    "grounded captions": ("events",),
}
"""What world.json counts besides videos, by what the world is annotated with."""

RESULTS = ("splits", "counts")  # entries of world.json that follow from the others


def generate(
    out: str | Path,
    *,
    videos: int = 1150,
    seed: int = 0,
    preset: str = "default",
    format: str = "charades_sta",
    test_fraction: float = 0.2,
    workers: int | None = None,
    overrides: Mapping[str, object] | None = None,
) -> Path:
    """Generate a world, or complete one that was interrupted.

    Args:
        out: folder to write; new, empty, or begun by the same call before.
        videos: number of videos over all splits.
        seed: of the world, 0 or more; a video depends on the configuration, the seed and its index only.
        preset: a key of ``PRESETS``.
        format: a key of ``FORMATS``.
        test_fraction: share of the videos for ``test``, and again for ``val`` where the format has one.
        workers: processes; None for one per available core.
        overrides: fields of :class:`WorldConfig` that replace those of the preset.

    Returns:
        The folder.

    Raises:
        ValueError: if an argument is out of range or unknown.
        FileExistsError: if the folder holds something else.
    """
    if seed < 0:
        raise ValueError(f"the seed must be 0 or more, not {seed}")
    config = make_config(preset, overrides or {})
    check_format(format, preset, config)
    splits = deal(videos, SPLITS[format], test_fraction)
    root = Path(out)
    world = {
        "version": VERSION,
        "preset": preset,
        "seed": seed,
        "videos": videos,
        "format": format,
        "test_fraction": test_fraction,
        "config": recipe(config),
        "splits": {split: [video_id(index) for index in indices] for split, indices in splits.items()},
    }
    claim(root, world)
    render_missing(root, config, seed, videos, workers)

    scripted = {
        split: [script_video(config, seed, index) for index in indices] for split, indices in splits.items()
    }
    FORMATS[format](root, scripted)
    if content(config) == "queries":
        write_text(root / "subsets.json", json.dumps(subsets([v for part in scripted.values() for v in part])))
    counts = {
        split: {"videos": len(part)}
        | {what: sum(len(getattr(video, what)) for video in part) for what in COUNTED[content(config)]}
        for split, part in scripted.items()
    }
    write_text(root / "world.json", json.dumps({**world, "counts": counts}, indent=1) + "\n")
    return root


def recipe(config: WorldConfig) -> dict[str, Any]:
    """The configuration as world.json holds it, see ``LATER_OPTIONS``."""
    usual = asdict(WorldConfig())
    return {
        name: value for name, value in asdict(config).items() if name not in LATER_OPTIONS or value != usual[name]
    }


def make_config(preset: str, overrides: Mapping[str, object]) -> WorldConfig:
    """A preset with some fields replaced; unknown names are errors that list the known ones."""
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}, known are {', '.join(PRESETS)}")
    known = [entry.name for entry in fields(WorldConfig)]
    unknown = [name for name in overrides if name not in known]
    if unknown:
        raise ValueError(f"unknown world option {', '.join(unknown)}, known are {', '.join(known)}")
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in overrides.items()
    }
    return replace(PRESETS[preset], **values)


def deal(videos: int, splits: Sequence[str], test_fraction: float) -> dict[str, range]:
    """Deal video indices to splits: the last ones are for testing, those before for validation, if any."""
    held_out = max(round(videos * test_fraction), 1)
    first = videos - held_out * (len(splits) - 1)
    if not 0 < test_fraction < 1 or first < 1:
        raise ValueError(
            f"{videos} videos with a test fraction of {test_fraction} leave none for training: "
            f"{' + '.join(splits[1:])} take {held_out} each"
        )
    starts = [0, *range(first, videos, held_out)]
    ends = [*starts[1:], videos]
    return {split: range(start, end) for split, start, end in zip(splits, starts, ends, strict=True)}


def claim(root: Path, world: Mapping[str, object]) -> None:
    """Make sure that a folder is, or becomes, the home of this world and of no other."""
    path = root / "world.json"
    asked = json.loads(json.dumps(world))  # as it would be read: tuples become lists
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        differing = differences(found, asked)
        if differing:
            raise FileExistsError(
                f"{root} holds another world: {'; '.join(differing)}. Choose another folder, or delete this one."
            )
        return
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise FileExistsError(
            f"{root} is not empty and holds no toy world (no world.json). Choose another folder."
        )
    for folder in (root / "videos", root / "truth"):
        folder.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(world, indent=1) + "\n")


def differences(found: Mapping[str, Any], asked: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What differs between two recipes, as ``"seed is 0 there, 1 was asked for"``."""
    lines = []
    for name in {**asked, **found}:
        if prefix + name in RESULTS:
            continue
        there, here = found.get(name), asked.get(name)
        if isinstance(there, dict) and isinstance(here, dict):
            lines += differences(there, here, f"{prefix}{name}.")
        elif there != here:
            lines.append(f"{prefix}{name} is {there} there, {here} was asked for")
    return lines


def render_missing(root: Path, config: WorldConfig, seed: int, videos: int, workers: int | None) -> None:
    """Render every video that is not there yet, several at a time, with a progress bar on a terminal.

    Args:
        root: of the data set; ``videos`` and ``truth`` exist.
        config: the world.
        seed: of the world.
        videos: number of videos of the world.
        workers: processes; None for one per available core, 1 for no other process at all.
    """
    missing = [index for index in range(videos) if not all(path.exists() for path in _files(root, index))]
    processes = min(_cores() if workers is None else max(workers, 1), max(len(missing), 1))
    make = partial(make_video, root, config, seed)
    with tqdm(total=len(missing), desc=f"ToyWorld {root}", unit="video", disable=None) as bar:
        if processes == 1:
            for index in missing:
                make(index)
                bar.update()
            return
        context = multiprocessing.get_context("spawn")  # no inherited threads or locks, the same on every system
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            for _ in pool.map(make, missing, chunksize=max(1, min(8, len(missing) // (4 * processes)))):
                bar.update()


def make_video(root: Path, config: WorldConfig, seed: int, index: int) -> None:
    """Script, render and encode one video, then write its truth, whose presence says that all is done."""
    video = script_video(config, seed, index)
    clip, facts = _files(root, index)
    encode(clip, render_frames(video), video.fps)
    write_text(facts, json.dumps(truth(video), separators=(",", ":")))


def subsets(videos: Sequence[Video]) -> dict[str, list[str]]:
    """Ids of the queries by what they ask of a model.

    Args:
        videos: of all splits.

    Returns:
        ``plain``, ``redundant``, ``temporal_needed`` and ``span`` (kinds, see :class:`Query`; disjoint), and
        ``same_actor`` and ``same_action``: another event of the video has the query's actor, or its action.
    """
    names = ("plain", "redundant", "temporal_needed", "span", "same_actor", "same_action")
    out: dict[str, list[str]] = {name: [] for name in names}
    for video in videos:
        for k, query in enumerate(video.queries):
            key = f"{video.id}#{k}"
            out["temporal_needed" if query.kind == "needed" else query.kind].append(key)
            others = [event for i, event in enumerate(video.events) if i != query.event]
            if any(event.actor == query.actor for event in others):
                out["same_actor"].append(key)
            if any(event.action == query.action for event in others):
                out["same_action"].append(key)
    return out


def _files(root: Path, index: int) -> tuple[Path, Path]:
    name = video_id(index)
    return root / "videos" / f"{name}.mp4", root / "truth" / f"{name}.json"


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # respects containers and job schedulers; not on every system
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
