"""How actors move: room for a move is found while scripting, tracks are computed afterwards.

Distances are multiples of ``unit``, the small actors' radius (7 pixels in the presets); speeds and periods are
per second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .scene import ALPHA, ANGLE, CX, CY, Actor, Event, R, WorldConfig
from .shapes import REACH

DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (1, -1), "down": (1, 1)}
"""Axis (0 = x, 1 = y) and sign of the four moves."""

LEAST_MOVE = 2.0  # units (14 px): a shorter way would hardly be a move
LONGEST_MOVE = 8.0  # units
USUAL_MOVE = 3.2  # units: what a move takes if there is room
MOVE_SPEED = 0.57  # units/s (4 px/s): long events go farther than usual
DASH_SPEED = 4.3  # units/s (30 px/s): several times faster than any move, so it is not taken for one
GROWN, SHRUNK = 1.55, 0.55  # final radius, relative
RELAX_S = 0.5  # to the old size after growing or shrinking
SPIN = 2.4  # rad/s
BLINK_S, FAINT = 2 / 3, 0.15  # period, opacity while out
JUMP_S, JUMP_HEIGHT = 1.0, 1.7  # duration of one jump, units
SHAKE_S, SHAKE_WIDTH = 2 / 3, 0.6  # period, units
ENTER_S = 0.5  # in which an actor fades in before its step, and out after it
JITTER = 0.35  # px, rounded: actors at rest also move now and then, or any difference between frames would betray


@dataclass(frozen=True)
class Route:
    """Where an event begins and ends, and the frames of the dash to its begin, if one is necessary."""

    from_xy: tuple[float, float]
    to_xy: tuple[float, float]
    dash: tuple[int, int] | None = None


def bounds(config: WorldConfig, actor: Actor) -> tuple[tuple[float, float], tuple[float, float]]:
    """Least and greatest x, least and greatest y of an actor's resting place, pixels."""
    margin = REACH * actor.radius + 2
    return (margin, config.width - margin), (margin, config.height - margin)


def find_route(
    config: WorldConfig,
    actor: Actor,
    xy: tuple[float, float],
    action: str,
    idle: tuple[int, int],
    length: int,
    rng: np.random.Generator,
) -> Route | None:
    """Plan an event of an actor who rests at ``xy``.

    Args:
        config: the world.
        actor: who.
        xy: resting place, pixels.
        action: what.
        idle: frames (start, end) in which the actor has nothing to do; the event begins at ``end``.
        length: frames of the event.
        rng: source of the small choices.

    Returns:
        The route, or None if there is no room and no time to make some.
    """
    unit = config.radius_px[0]
    limits = bounds(config, actor)
    if action == "jump" and xy[1] - limits[1][0] < unit:
        return None
    if action not in DIRECTIONS:
        return Route(xy, xy)
    axis, sign = DIRECTIONS[action]
    low, high = limits[axis]
    wanted = min(unit * min(max(MOVE_SPEED * length / config.fps, USUAL_MOVE), LONGEST_MOVE), high - low)
    start, dash = xy[axis], None
    if (high - start if sign > 0 else start - low) < LEAST_MOVE * unit:
        slack = (high - low - wanted) * rng.random()
        start = low + slack if sign > 0 else high - slack
        frames = math.ceil(abs(start - xy[axis]) / (DASH_SPEED * unit) * config.fps)
        spare = idle[1] - idle[0] - frames
        if spare < 0:
            return None
        first = idle[0] + int(rng.integers(0, spare + 1))
        dash = (first, first + frames)
    end = min(start + wanted, high) if sign > 0 else max(start - wanted, low)
    if axis == 0:
        return Route((start, xy[1]), (end, xy[1]), dash)
    return Route((xy[0], start), (xy[0], end), dash)


def tracks(
    config: WorldConfig,
    actors: Sequence[Actor],
    homes: Sequence[tuple[float, float]],
    events: Sequence[Event],
    num_frames: int,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """State of every actor in every frame.

    Args:
        config: the world.
        actors: who.
        homes: where each actor rests at first, pixels.
        events: sorted by start; those of one actor do not overlap.
        num_frames: T.
        rng: source of the jitter and of the small tilt of every actor.

    Returns:
        (T, actors, 5) float32, see ``Video.tracks``.
    """
    out = np.empty((num_frames, len(actors), 5))
    for i, (actor, home) in enumerate(zip(actors, homes, strict=True)):
        out[:, i] = (*home, actor.radius, rng.uniform(-0.2, 0.2), 1.0)
        for event in events:
            if event.actor == i:
                _act(config, actor.radius, out[:, i], event)
    out[:, :, :2] += np.round(rng.normal(0.0, JITTER, (num_frames, len(actors), 2)))
    return out.astype(np.float32)


def enter(tracks: NDArray[np.float32], events: Sequence[Event], fps: int) -> None:
    """Let the actors with events fade in before each of theirs and out after it; the others stay.

    Args:
        tracks: (T, actors, 5), see ``Video.tracks``; its opacities change in place.
        events: of the video.
        fps: frames per second.
    """
    fading = round(ENTER_S * fps)
    frames = np.arange(len(tracks))
    for actor in {event.actor for event in events}:
        away = [np.maximum(e.start - frames, frames - e.end + 1).clip(0) for e in events if e.actor == actor]
        tracks[:, actor, ALPHA] *= (1 - np.min(away, axis=0) / (fading + 1)).clip(0)


def absence(idle: tuple[int, int], fps: int) -> tuple[int, int]:
    """Frames (start, end) in which an actor who enters and leaves is not on stage; empty if the end comes first.

    Args:
        idle: frames (start, end) from its last event, or the begin of the video, to its next one.
        fps: frames per second.
    """
    fading = round(ENTER_S * fps)
    return (idle[0] + fading if idle[0] else 0, idle[1] - fading)


def _act(config: WorldConfig, radius: float, track: NDArray[np.float64], event: Event) -> None:
    """Write one event, and what follows from it, into an actor's track (T, 5)."""
    unit, fps = config.radius_px[0], config.fps
    now, after = slice(event.start, event.end), slice(event.end, None)
    frames = event.end - event.start
    seconds = np.arange(1, frames + 1) / fps
    progress = np.arange(1, frames + 1) / frames
    rest_angle = track[event.start, ANGLE]
    if event.dash is not None:
        first, last = event.dash
        way = np.arange(1, last - first + 1)[:, None] / max(last - first, 1)
        origin = track[first, :2].copy()
        track[first:last, :2] = origin + way * (np.array(event.from_xy) - origin)
        track[last:, :2] = event.from_xy
    track[now, R] = radius  # an event may cut the relaxation of an earlier one short
    if event.action in DIRECTIONS:
        start = np.array(event.from_xy)
        track[now, :2] = start + progress[:, None] * (np.array(event.to_xy) - start)
        track[after, :2] = event.to_xy
    elif event.action in ("grow", "shrink"):
        factor = GROWN if event.action == "grow" else SHRUNK
        track[now, R] *= 1 + progress * (factor - 1)
        relax = track[after][: max(round(RELAX_S * fps), 1)]
        relax[:, R] *= np.linspace(factor, 1, len(relax) + 1, endpoint=False)[1:]
    elif event.action == "spin":
        track[now, ANGLE] += event.turn * SPIN * seconds
        track[after, ANGLE] = rest_angle + event.turn * SPIN * seconds[-1]
    elif event.action == "blink":
        track[now, ALPHA] = np.where(seconds % BLINK_S < BLINK_S / 2, FAINT, 1.0)
    elif event.action == "jump":
        track[now, CY] -= JUMP_HEIGHT * unit * np.abs(np.sin(math.pi * seconds / JUMP_S))
    elif event.action == "shake":
        track[now, CX] += SHAKE_WIDTH * unit * np.sin(2 * math.pi * seconds / SHAKE_S)
