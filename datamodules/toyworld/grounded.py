"""Grounded clips: who shares the stage without burying another, and who is away for a while."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .motion import Route
from .patches import patch_over
from .scene import ALPHA, Actor, Event, Patch, WorldConfig
from .shapes import Floats

APART = 0.6  # least distance of two actors' centres, as a share of the sum of their radii: neither hides the other
MOMENTS = 9  # at which distances are compared


def draw_windows(config: WorldConfig, num_frames: int, rng: np.random.Generator) -> list[tuple[int, int, bool]]:
    """When something happens: frames (start, end) and whether it accompanies the window before it.

    Args:
        config: the world.
        num_frames: of the video.
        rng: source of the choices.

    Returns:
        One or two windows, each of all frames.
    """
    together = rng.random() < config.overlap
    return [(0, num_frames, False), (0, num_frames, True)][: 1 + together]


def meets(
    actors: Sequence[Actor],
    places: Sequence[tuple[float, float]],
    events: Sequence[Event],
    who: int,
    route: Route,
) -> bool:
    """Whether an actor would come so close to another that one hides much of the other.

    Args:
        actors: of the video.
        places: where the actors rest who have no event.
        events: of others, at the same time.
        who: index of the actor.
        route: its way.

    Returns:
        True if so at any moment.
    """
    others = [(places[i], places[i]) for i in range(len(actors))]
    for event in events:
        others[event.actor] = (event.from_xy, event.to_xy)
    progress = np.linspace(0, 1, MOMENTS)[:, None, None]
    starts, ends = np.array(others).swapaxes(0, 1)
    ways = starts + progress * (ends - starts)  # (moments, actors, 2)
    own = np.array(route.from_xy) + progress * (np.array(route.to_xy) - route.from_xy)
    distances = np.linalg.norm(ways - own, axis=-1)
    least = APART * (np.array([actor.radius for actor in actors]) + actors[who].radius)
    close = distances < least
    close[:, who] = False
    return bool(close.any())


def hide(
    config: WorldConfig,
    actors: Sequence[Actor],
    events: Sequence[Event],
    tracks: Floats,
    rng: np.random.Generator,
) -> list[Patch]:
    """Let some acting actors be away for a while: late, gone early, or behind a grey patch.

    Args:
        config: the world.
        actors: of the video.
        events: of the video.
        tracks: (T, actors, 5), see ``Video.tracks``; opacities change in place.
        rng: source of the choices.

    Returns:
        The patches.
    """
    patches = []
    frames = len(tracks)
    for event in events:
        if rng.random() >= config.hidden:
            continue
        away = round(rng.uniform(*config.hidden_share) * frames)
        how = ("late", "gone", "patch")[int(rng.integers(3))]
        if how == "late":
            tracks[:away, event.actor, ALPHA] = 0
        elif how == "gone":
            tracks[frames - away :, event.actor, ALPHA] = 0
        elif away:
            start = int(rng.integers(0, frames - away + 1))
            patches.append(patch_over(config, actors[event.actor], tracks[:, event.actor], start, away))
    return patches
