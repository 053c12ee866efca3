"""The nouns of ToyWorld: its options and presets (from config.py), and what a scripted video consists of.

Units, everywhere: time in seconds where the name ends in ``_s``, otherwise frames; lengths in pixels of the
frame, origin at the top left corner, y pointing down, the centre of the first pixel at (0.5, 0.5).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...zoo.text.grounded_text import GroundedText
from .config import ACTIONS, ACTS, COLOURS, FIGURES, PRESETS, SHAPES, SIZES, WorldConfig

__all__ = ["ACTIONS", "ACTS", "ALPHA", "ANGLE", "COLOURS", "CX", "CY", "FIGURES", "PRESETS", "SAMPLES", "SHAPES",
           "SIZES", "Actor", "Box", "Cause", "Clicks", "Event", "Kind", "Mention", "Narration", "Patch", "Query",
           "R", "Scene", "Segment", "Spell", "Video", "WorldConfig"]  # fmt: skip

Kind = Literal["plain", "redundant", "needed", "span"]
Cause = Literal["covered", "blurred"]
Box = tuple[float, float, float, float]

SAMPLES = 10
"""Frames that are sampled from a segment, as ActivityNet-Entities was annotated on ten."""

CX, CY, R, ANGLE, ALPHA = range(5)
"""Columns of :attr:`Video.tracks`."""


@dataclass(frozen=True)
class Actor:
    """Someone on stage.

    Attributes:
        colour: a key of ``COLOURS``.
        shape: one of ``FIGURES``; (colour, shape) is unique within a video.
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
        action: one of ``ACTS``.
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
class Spell:
    """Successive frames ``start <= f < end`` in which an acting actor is poorly seen.

    Attributes:
        actor: index into ``Video.actors``.
        cause: ``covered``: a grey rectangle moves along with the actor and leaves a sliver of it. ``blurred``:
            the actor and its surroundings are out of focus.
        start: first frame.
        end: one past the last frame.
        regions: per frame, what is covered or blurred, xyxy pixels, possibly beyond the frame.
    """

    actor: int
    cause: Cause
    start: int
    end: int
    regions: tuple[Box, ...]


@dataclass(frozen=True)
class Mention:
    """An actor in a segment's sentence. Word indices count the words of ``Segment.sentences[0]`` from 0.

    Attributes:
        event: index into ``Video.events``; it knows the actor.
        words: indices of the colour and of the shape.
        verb: indices of the words of the verb phrase, the verb itself first.
        sample: which of the segment's ten sampled frames holds the annotated box, 0 to 9.
    """

    event: int
    words: tuple[int, int]
    verb: tuple[int, ...]
    sample: int


@dataclass(frozen=True)
class Segment:
    """A captioned part of a video: one actor acts in the frames ``start <= f < end``, or two at the same time.

    Attributes:
        start: first frame.
        end: one past the last frame.
        start_s: begin in seconds as the annotation files have it, two decimals.
        end_s: end in seconds, likewise.
        sentences: four of them: actors in the order of their colours' names (the canonical sentence), the other
            order, and both again with the other verb phrases. With one actor the orders are the same.
        mentions: the actors in the order of the canonical sentence.
    """

    start: int
    end: int
    start_s: float
    end_s: float
    sentences: tuple[str, str, str, str]
    mentions: tuple[Mention, ...]

    @property
    def tokens(self) -> list[str]:
        """Words of the canonical sentence, without the full stop."""
        return self.sentences[0].rstrip(".").split()

    def sampled(self, fps: int) -> list[int]:
        """The frames of the video that are shown at the middles of ten equal parts of the segment."""
        step_s = (self.end_s - self.start_s) / SAMPLES
        # a middle may fall exactly on a frame's first moment: the small number spares it the rounding of floats
        return [math.floor((self.start_s + (k + 0.5) * step_s) * fps + 1e-6) for k in range(SAMPLES)]


@dataclass(frozen=True)
class Narration:
    """What is said at some time about one or more successive steps.

    Attributes:
        start_s: begin in seconds, two decimals; neither time is exactly that of the steps.
        end_s: end in seconds, likewise.
        text: lower-case words, some of them fillers.
        steps: indices into ``Video.events``, in the order of time.
        off_topic: for each of them, whether something else is said in its place.
    """

    start_s: float
    end_s: float
    text: str
    steps: tuple[int, ...]
    off_topic: tuple[bool, ...]


@dataclass(frozen=True)
class Clicks:
    """Where annotators clicked when they were asked for the centre of a step, at one full second of the video.

    Attributes:
        second: of the video; the frame is the one shown at that moment.
        step: index into ``Video.events``.
        points: (x, y) of each click, pixels of the frame.
    """

    second: int
    step: int
    points: tuple[tuple[float, float], ...]


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
        spells: poor frames, in captioned worlds.
        segments: captioned parts, in the order of time; none in a world of queries.
        narrations: in the order of their starts, in narrated worlds.
        clicks: in the order of time, in narrated worlds: for every full second at which a step is going on and
            its actor is to be seen.
        descriptions: one sentence per event, in the order of the events, in described worlds.
        caption: in grounded worlds: what happens, in lower case without a full stop; its k-th phrase names the
            actor of the k-th event.
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
    spells: tuple[Spell, ...] = ()
    segments: tuple[Segment, ...] = ()
    narrations: tuple[Narration, ...] = ()
    clicks: tuple[Clicks, ...] = ()
    descriptions: tuple[str, ...] = ()
    caption: GroundedText | None = None
