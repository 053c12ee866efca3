"""The nouns of ToyWorld: its configuration, and what a scripted video consists of.

Units, everywhere: time in seconds where the name ends in ``_s``, otherwise frames; lengths in pixels of the
frame, origin at the top left corner, y pointing down, the centre of the first pixel at (0.5, 0.5).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["plain", "redundant", "needed", "span"]

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 52, 48),
    "green": (56, 186, 80),
    "blue": (66, 112, 242),
    "yellow": (238, 208, 58),
    "purple": (170, 84, 220),
    "white": (236, 236, 236),
}
SHAPES = ("circle", "square", "triangle")
SIZES = ("small", "big")
ACTIONS = ("left", "right", "up", "down", "grow", "shrink", "spin", "blink", "jump", "shake")

CX, CY, R, ANGLE, ALPHA = range(5)
"""Columns of :attr:`Video.tracks`."""


@dataclass(frozen=True)
class WorldConfig:
    """What a world is like. Rates and shares lie in [0, 1]; pairs are inclusive (least, most) ranges.

    All movements are multiples of the small radius, so a world twice as large needs only a larger frame and
    larger radii.

    Attributes:
        width: frame width in pixels, even (the videos are yuv420p).
        height: frame height in pixels, even.
        fps: frames per second.
        duration_s: length of a video in seconds, uniform.
        actors: number of actors of a video.
        radius_px: radius of the small and of the big actors, pixels.
        shared_colour: share of the videos with three or more actors in which two have the same colour (their
            shapes then differ).
        events: number of events of a video's main line, where one event follows another.
        length_s: length of an event in seconds, before the events are fitted into the video.
        length_law: how ``length_s`` is drawn.
        busy: the greatest share of a video that the main line may fill; longer lines are scaled down.
        reuse_actor: share of events whose actor is taken from an earlier event.
        reuse_action: share of events whose action is taken from an earlier event.
        repeat: share of videos in which one actor does the same action twice, so that only a temporal
            expression tells the two moments apart.
        redundant: share of the other queries that relate to a second event although nothing hangs on it.
        drop_size: share of descriptions without a size word, among actors whose colour is unique.
        occlusion: chance of an actor to be hidden behind a grey patch for one to four seconds.
        cuts: expected number of hard cuts to another background per video.
        overlap: chance of a main event to be accompanied by another actor's event ("while").
        then: share of the plain queries that name two successive events ("then") and span both.
    """

    width: int = 96
    height: int = 96
    fps: int = 6
    duration_s: tuple[float, float] = (24.0, 40.0)
    actors: tuple[int, int] = (2, 4)
    radius_px: tuple[float, float] = (7.0, 11.0)
    shared_colour: float = 0.25
    events: tuple[int, int] = (3, 5)
    length_s: tuple[float, float] = (2.5, 9.0)
    length_law: Literal["uniform", "loguniform"] = "uniform"
    busy: float = 0.88
    reuse_actor: float = 0.35
    reuse_action: float = 0.35
    repeat: float = 0.5
    redundant: float = 0.24
    drop_size: float = 0.4
    occlusion: float = 0.0
    cuts: float = 0.0
    overlap: float = 0.0
    then: float = 0.0

    def __post_init__(self) -> None:
        if self.width % 2 or self.height % 2:
            raise ValueError(f"frames must have even sides, not {self.width}x{self.height}")
        for name in ("duration_s", "actors", "radius_px", "events", "length_s"):
            least, most = getattr(self, name)
            if not 0 < least <= most:
                raise ValueError(f"{name} must be a range (least, most) of positive numbers, not {(least, most)}")
        for name in ("shared_colour", "busy", "reuse_actor", "reuse_action", "repeat", "redundant", "drop_size",
                     "occlusion", "overlap", "then"):  # fmt: skip
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share, 0 to 1, not {getattr(self, name)}")
        if self.actors[1] > len(COLOURS):
            raise ValueError(f"at most {len(COLOURS)} actors, one per colour, not {self.actors[1]}")
        if self.events[1] * self.length_s[0] > self.busy * self.duration_s[0]:
            raise ValueError(
                f"{self.events[1]} events of {self.length_s[0]} s do not fit into {self.duration_s[0]} s"
            )
        if 6 * self.radius_px[1] > min(self.width, self.height):
            raise ValueError(
                f"actors of radius {self.radius_px[1]} cannot move in {self.width}x{self.height} pixels"
            )
        if self.fps < 1 or self.cuts < 0 or self.length_law not in ("uniform", "loguniform"):
            raise ValueError("fps must be 1 or more, cuts 0 or more, length_law 'uniform' or 'loguniform'")


PRESETS: dict[str, WorldConfig] = {
    # moments from a twentieth to two thirds of the video: all scales of a temporal pyramid have work to do
    "default": WorldConfig(events=(2, 5), length_s=(2.0, 28.0), length_law="loguniform"),
    # the calibrated world: short moments of similar length, four queries per video
    "w1": WorldConfig(),
}


@dataclass(frozen=True)
class Actor:
    """Someone on stage.

    Attributes:
        colour: a key of ``COLOURS``.
        shape: one of ``SHAPES``; (colour, shape) is unique within a video.
        size: one of ``SIZES``.
        radius: pixels at rest.
    """

    colour: str
    shape: str
    size: str
    radius: float


@dataclass(frozen=True)
class Event:
    """One actor does one action for a while, in the frames ``start <= frame < end``.

    Attributes:
        actor: index into ``Video.actors``.
        action: one of ``ACTIONS``.
        start: first frame.
        end: one past the last frame.
        start_s: ``start`` in seconds.
        end_s: ``end`` in seconds.
        from_xy: where the actor rests when the event begins.
        to_xy: where it rests afterwards; differs for the four moves only.
        dash: frames (start, end) before the event in which the actor hurries to ``from_xy``, because it had no
            room for the move. Too fast for a move, never asked for. None for most events.
        turn: +1 or -1, the sense of rotation of a spin.
    """

    actor: int
    action: str
    start: int
    end: int
    start_s: float
    end_s: float
    from_xy: tuple[float, float]
    to_xy: tuple[float, float]
    dash: tuple[int, int] | None = None
    turn: int = 1


@dataclass(frozen=True)
class Query:
    """A sentence and the moment it means.

    Attributes:
        text: lower-case sentence with a full stop.
        start_s: begin of the moment in seconds.
        end_s: end of the moment in seconds.
        actor: index of the main clause's actor.
        action: the main clause's action.
        event: index of the main clause's event.
        kind: ``plain``: no temporal words. ``redundant``: with before/after/while, but unique without.
            ``needed``: actor and action occur twice, only the temporal words decide. ``span``: two successive
            events joined by "then", the moment covers both (only with ``WorldConfig.then`` > 0).
    """

    text: str
    start_s: float
    end_s: float
    actor: int
    action: str
    event: int
    kind: Kind


@dataclass(frozen=True)
class Patch:
    """A grey rectangle in front of everything, ``box`` = xyxy whole pixels, in frames ``start <= f < end``."""

    box: tuple[int, int, int, int]
    start: int
    end: int


@dataclass(frozen=True)
class Scene:
    """A background, from frame ``start`` to the next scene: a dark colour, a linear ramp, and static noise.

    Attributes:
        start: first frame.
        rgb: mean colour, 0 to 255.
        slope: brightness added from one side of the frame to the other, along x and along y.
        noise_seed: seed of the pixel noise.
    """

    start: int
    rgb: tuple[float, float, float]
    slope: tuple[float, float]
    noise_seed: int


@dataclass(frozen=True, eq=False)
class Video:
    """A scripted video: everything that is to be seen and everything that is true of it.

    Attributes:
        id: file stem, ``toy00012``.
        width: pixels.
        height: pixels.
        fps: frames per second.
        num_frames: number of frames, T.
        duration_s: ``num_frames / fps``.
        actors: in painter's order, the last one is in front.
        events: sorted by start.
        queries: in the order of the annotation files.
        scenes: backgrounds, the first starts at frame 0.
        patches: occluders.
        tracks: (T, actors, 5) float32: centre x, centre y, radius (pixels), angle (radians, clockwise on the
            screen), alpha (opacity, 0 to 1).
    """

    id: str
    width: int
    height: int
    fps: int
    num_frames: int
    duration_s: float
    actors: tuple[Actor, ...]
    events: tuple[Event, ...]
    queries: tuple[Query, ...]
    scenes: tuple[Scene, ...]
    patches: tuple[Patch, ...]
    tracks: NDArray[np.float32] = field(repr=False)
