"""Poor frames: spells in which an acting actor is covered or out of focus.

A detector or a tracker fails in such frames, and so does what is learnt from a box in one of them: the case that
annotations of a single frame per object have to live with.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .scene import Actor, Box, Cause, Event, R, Spell, Video, WorldConfig
from .shapes import Floats, boxes, coverage, inside, offsets, window_origins

Flags = NDArray[np.bool_]

SLIVER = (0.22, 0.32)  # least and greatest share of a covered actor that remains to be seen
TWO_SPELLS = 0.5  # share of the actors whose poor frames fall into two spells
SURROUNDINGS = 1.0  # radii around a blurred actor's box that are blurred too
POOR = 0.75  # share of its box in a region that makes the frame poor for another actor too: blurs fade out


def draw_spells(
    config: WorldConfig,
    actors: Sequence[Actor],
    events: Sequence[Event],
    tracks: Floats,
    rng: np.random.Generator,
) -> list[Spell]:
    """One or two spells for each event, of one cause, ``config.poor`` of the event's frames in all.

    Args:
        config: the world.
        actors: of the video.
        events: of the video.
        tracks: of the video, see ``Video.tracks``.
        rng: source of the choices.

    Returns:
        The spells, those of one event next to each other.
    """
    spells = []
    for event in events:
        frames = event.end - event.start
        total = round(config.poor * frames)
        if not total:
            continue
        cause: Cause = "covered" if rng.random() < 0.5 else "blurred"
        from_left, sliver = bool(rng.random() < 0.5), float(rng.uniform(*SLIVER))
        parts = [total // 2, total - total // 2] if total > 1 and rng.random() < TWO_SPELLS else [total]
        spare = max(frames - total - (len(parts) - 1), 0)  # at least one good frame between two spells
        waits = np.sort(rng.integers(0, spare + 1, len(parts)))
        for k, part in enumerate(parts):
            start = min(event.start + int(waits[k]) + sum(parts[:k]) + k, event.end - part)
            track = tracks[start : start + part, event.actor]
            if cause == "covered":
                regions = _covers(config, actors[event.actor], track, sliver, from_left)
            else:
                regions = _surroundings(actors[event.actor], track)
            spells.append(Spell(event.actor, cause, start, start + part, regions))
    return spells


def poor_frames(video: Video, i: int) -> tuple[Flags, Flags]:
    """Frames in which actor ``i`` is poorly seen, by its own spells or by another actor's that reach it.

    Args:
        video: as scripted.
        i: index of the actor.

    Returns:
        (T,) whether it is covered or blurred, and (T,) whether it is blurred.
    """
    poor, blurred = np.zeros((2, video.num_frames), bool)
    own = np.clip(boxes(video.actors[i].shape, video.tracks[:, i]), 0, (video.width, video.height) * 2)
    for spell in video.spells:
        now = slice(spell.start, spell.end)
        mine, theirs = own[now], np.array(spell.regions)
        sides = np.minimum(mine[:, 2:], theirs[:, 2:]) - np.maximum(mine[:, :2], theirs[:, :2])
        area = (mine[:, 2:] - mine[:, :2]).prod(1)
        reached = np.clip(sides, 0, None).prod(1) >= POOR * area
        poor[now] |= reached | (spell.actor == i)
        if spell.cause == "blurred":
            blurred[now] |= reached | (spell.actor == i)
    return poor, blurred


def _covers(config: WorldConfig, actor: Actor, track: Floats, sliver: float, from_left: bool) -> tuple[Box, ...]:
    """Rectangles that leave ``sliver`` of the actor's area to be seen, at its left or right side."""
    left, top, side = window_origins(track)
    own = coverage(actor.shape, track[:, R], *offsets(track, left, top, side))
    seen = (own * inside(left, top, side, config.width, config.height)).sum(1)  # (T, S) by column
    if not from_left:
        seen = seen[:, ::-1]
    covers: list[Box] = []
    for t, box in enumerate(boxes(actor.shape, track).tolist()):
        # the edge between seen and covered, in columns from the seen side; a column's area is spread evenly
        areas = np.concatenate([[0.0], np.cumsum(seen[t])])
        edge = float(np.interp(sliver * own[t].sum(), areas, np.arange(side + 1)))
        x0, y0, x1, y1 = box[0] - 2, box[1] - 2, box[2] + 2, box[3] + 2
        covers.append((left[t] + edge, y0, x1, y1) if from_left else (x0, y0, float(left[t] + side) - edge, y1))
    return tuple(covers)


def _surroundings(actor: Actor, track: Floats) -> tuple[Box, ...]:
    """The actor's boxes with a margin."""
    margin = SURROUNDINGS * track[:, R, None]
    around = boxes(actor.shape, track) + np.concatenate([-margin, -margin, margin, margin], 1)
    return tuple((x0, y0, x1, y1) for x0, y0, x1, y1 in around.tolist())
