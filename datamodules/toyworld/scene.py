"""The nouns of ToyWorld: its configuration, and what a scripted video consists of.

Units, everywhere: time in seconds where the name ends in ``_s``, otherwise frames; lengths in pixels of the
frame, origin at the top left corner, y pointing down, the centre of the first pixel at (0.5, 0.5).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["plain", "redundant", "needed", "span"]
Cause = Literal["covered", "blurred"]
Box = tuple[float, float, float, float]

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

SAMPLES = 10
"""Frames that are sampled from a segment, as ActivityNet-Entities was annotated on ten."""

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
        busy: the greatest share of a video that the main line may fill; longer lines are scaled down. Not for
            segments, see ``pause_s``.
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
        actions: what actors do, a selection from ``ACTIONS``.
        segments: whether the video is captioned: every main event is a segment with its sentences, an event
            that accompanies it takes the same time, and there are no queries.
        pause_s: least pause before, between and after segments or described events, seconds.
        poor: share of its segment's frames in which an acting actor is poorly seen, see :class:`Spell`.
        poor_annotated: chance of an actor's one annotated frame to be a poor one.
        narrated: whether the video is narrated: its events are steps, one after another with pauses, narrations
            are spoken about them, and there are no queries.
        gap_s: pause between two steps of a narrated video, seconds.
        narrated_steps: number of successive steps that one narration tells.
        chatter: chance of a filler word in each gap between the words of a narration, of a second one after it,
            and so on; less than 1.
        drop_word: chance of each word of a step's phrase to be left out.
        off_topic: chance of a step's phrase to be replaced by that of any actor and action, mostly not to be seen.
        drift_s: greatest shift of a narration from its steps, and greatest difference of their lengths, seconds.
        enter: whether an actor with steps is on stage only from shortly before each of them until shortly after;
            the others stay. For narrated videos.
        described: whether each event is told by a sentence that says more than its action: events follow one
            another with pauses in which nobody acts, and there are no queries.
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
    actions: tuple[str, ...] = ACTIONS
    segments: bool = False
    pause_s: float = 0.5
    poor: float = 0.0
    poor_annotated: float = 0.5
    narrated: bool = False
    gap_s: tuple[float, float] = (0.3, 2.0)
    narrated_steps: tuple[int, int] = (1, 1)
    chatter: float = 0.5
    drop_word: float = 0.2
    off_topic: float = 0.1
    drift_s: float = 2.0
    enter: bool = False
    described: bool = False

    def __post_init__(self) -> None:
        if self.width % 2 or self.height % 2:
            raise ValueError(f"frames must have even sides, not {self.width}x{self.height}")
        for name in ("duration_s", "actors", "radius_px", "events", "length_s", "gap_s", "narrated_steps"):
            least, most = getattr(self, name)
            if not 0 < least <= most:
                raise ValueError(f"{name} must be a range (least, most) of positive numbers, not {(least, most)}")
        for name in ("shared_colour", "busy", "reuse_actor", "reuse_action", "repeat", "redundant", "drop_size",
                     "occlusion", "overlap", "then", "poor", "poor_annotated", "chatter", "drop_word",
                     "off_topic"):  # fmt: skip
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share, 0 to 1, not {getattr(self, name)}")
        if self.actors[1] > len(COLOURS):
            raise ValueError(f"at most {len(COLOURS)} actors, one per colour, not {self.actors[1]}")
        if self.segments or self.described:
            least_s = self.events[0] * (self.length_s[0] + self.pause_s) + self.pause_s
            if self.pause_s < 0 or least_s > self.duration_s[0]:
                parts = "segments" if self.segments else "events"
                raise ValueError(
                    f"{self.events[0]} {parts} of {self.length_s[0]} s, and pauses of {self.pause_s} s (0 or "
                    f"more), do not fit into {self.duration_s[0]} s"
                )
        elif self.narrated:
            step, gap = (math.ceil(least * self.fps) for least in (self.length_s[0], self.gap_s[0]))
            if self.events[1] * (step + gap) - gap > round(self.duration_s[0] * self.fps):
                raise ValueError(
                    f"{self.events[1]} steps of {self.length_s[0]} s with pauses of {self.gap_s[0]} s do not fit "
                    f"into {self.duration_s[0]} s"
                )
        elif self.events[1] * self.length_s[0] > self.busy * self.duration_s[0]:
            raise ValueError(
                f"{self.events[1]} events of {self.length_s[0]} s do not fit into {self.duration_s[0]} s"
            )
        if self.poor and not self.segments:
            raise ValueError("poor frames are those of captioned segments: set segments too, or poor to 0")
        if self.narrated and (self.segments or self.overlap):
            raise ValueError("a narrated video has steps one after another: set segments to false, overlap to 0")
        if self.described and (self.segments or self.narrated or self.overlap):
            raise ValueError(
                "a described video has events one after another: set segments and narrated to false, overlap to 0"
            )
        if self.enter and not self.narrated:
            raise ValueError("only the actors of narrated videos enter and leave: set narrated too, or not enter")
        if self.chatter == 1 or self.drift_s < 0:
            raise ValueError(
                f"chatter must be less than 1, not {self.chatter}; drift_s 0 or more, not {self.drift_s}"
            )
        unknown = set(self.actions) - set(ACTIONS)
        if unknown or not self.actions:
            raise ValueError(f"actions are one or more of {', '.join(ACTIONS)}, not {list(self.actions)}")
        if 6 * self.radius_px[1] > min(self.width, self.height):
            raise ValueError(
                f"actors of radius {self.radius_px[1]} cannot move in {self.width}x{self.height} pixels"
            )
        if self.fps < 1 or self.cuts < 0 or self.length_law not in ("uniform", "loguniform"):
            raise ValueError("fps must be 1 or more, cuts 0 or more, length_law 'uniform' or 'loguniform'")


CAPTIONS = WorldConfig(
    duration_s=(14.0, 22.0),
    radius_px=(8.0, 12.0),
    shared_colour=0.0,
    events=(3, 5),
    length_s=(3.0, 5.0),
    reuse_actor=0.0,
    reuse_action=0.0,
    repeat=0.0,
    overlap=0.6,
    # no shake: the ten frames sampled from a segment of 20 frames show it at its zero crossings only
    actions=tuple(action for action in ACTIONS if action != "shake"),
    segments=True,
    poor=0.25,
)

NARRATIONS = WorldConfig(
    duration_s=(16.0, 16.0),
    actors=(3, 3),
    radius_px=(8.0, 12.0),
    shared_colour=0.0,
    events=(2, 4),
    length_s=(3.0, 5.5),
    reuse_actor=0.0,
    reuse_action=0.0,
    repeat=0.0,
    # no jump and no shake: at one moment per second a jump is always at the same height, and at three moments per
    # second a shake always at its zero crossings
    actions=tuple(action for action in ACTIONS if action not in ("jump", "shake")),
    narrated=True,
)

DESCRIBED = WorldConfig(
    # read at 4 frames per second, an even divisor, no action looks like rest
    fps=8,
    duration_s=(18.0, 26.0),
    actors=(1, 3),
    radius_px=(8.0, 13.0),
    shared_colour=0.0,
    events=(3, 4),
    length_s=(2.5, 4.5),
    reuse_actor=0.0,
    reuse_action=0.0,
    repeat=0.0,
    pause_s=2.0,  # each is long enough for a clip of eight frames
    described=True,
)

PRESETS: dict[str, WorldConfig] = {
    # moments from a twentieth to two thirds of the video: all scales of a temporal pyramid have work to do
    "default": WorldConfig(events=(2, 5), length_s=(2.0, 28.0), length_law="loguniform"),
    # the calibrated world: short moments of similar length, four queries per video
    "w1": WorldConfig(),
    # several captioned segments per video
    "captions": CAPTIONS,
    # the whole video is one captioned segment
    "clips": replace(CAPTIONS, duration_s=(4.0, 4.0), events=(1, 1), length_s=(4.0, 4.0), pause_s=0.0),
    # loosely timed, chatty narrations, each of one step
    "narrations": NARRATIONS,
    # the same, each of two successive steps
    "narrations_two": replace(NARRATIONS, narrated_steps=(2, 2)),
    # actors come and go with their steps
    "narrations_enter": replace(NARRATIONS, enter=True),
    # events and rest, told with size, colour, shape and number
    "described": DESCRIBED,
    # the same, nobody else there
    "described_one": replace(DESCRIBED, actors=(1, 1)),
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
