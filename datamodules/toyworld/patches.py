"""Grey patches in front of everything, each large enough to hide what its actor does behind it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .scene import Actor, Patch, WorldConfig
from .shapes import Floats, boxes


def draw_patches(
    config: WorldConfig, actors: Sequence[Actor], tracks: Floats, rng: np.random.Generator
) -> list[Patch]:
    """Patches over some actors, for one to four seconds, unrelated to the events.

    Args:
        config: the world.
        actors: of the video.
        tracks: (T, actors, 5), see ``Video.tracks``.
        rng: source of the choices.

    Returns:
        At most one patch per actor.
    """
    patches = []
    num_frames = len(tracks)
    for i, actor in enumerate(actors):
        if rng.random() >= config.occlusion:
            continue
        length = min(round(rng.uniform(1, 4) * config.fps), num_frames)
        start = int(rng.integers(0, num_frames - length + 1))
        patches.append(patch_over(config, actor, tracks[:, i], start, length))
    return patches


def patch_over(config: WorldConfig, actor: Actor, track: Floats, start: int, length: int) -> Patch:
    """The patch that hides an actor from frame ``start`` on.

    Args:
        config: the world.
        actor: who is hidden.
        track: (T, 5) states of the actor.
        start: first frame.
        length: frames, 1 or more.

    Returns:
        The patch, cut to the frame.
    """
    hidden = boxes(actor.shape, track[start : start + length])
    low, high = np.floor(hidden[:, :2].min(0)) - 1, np.ceil(hidden[:, 2:].max(0)) + 1
    x0, y0 = (max(int(value), 0) for value in low)
    x1, y1 = min(int(high[0]), config.width), min(int(high[1]), config.height)
    return Patch((x0, y0, x1, y1), start, start + length)
