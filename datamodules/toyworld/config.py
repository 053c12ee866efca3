"""What a world can be like: its options, and the presets."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 52, 48),
    "green": (56, 186, 80),
    "blue": (66, 112, 242),
    "yellow": (238, 208, 58),
    "purple": (170, 84, 220),
    "white": (236, 236, 236),
}
SHAPES = ("circle", "square", "triangle")
FIGURES = (*SHAPES, "cross")
"""All shapes; a cross is to be seen in grounded worlds only."""

SIZES = ("small", "big")
ACTIONS = ("left", "right", "up", "down", "grow", "shrink", "spin", "blink", "jump", "shake")
ACTS = (*ACTIONS, "rest")
"""All that can be said of actors; that one rests is said in grounded worlds only."""


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
        actors: number of actors of a video. Not for grounded ones, see ``bystander``.
        radius_px: radius of the small and of the big actors, pixels.
        shared_colour: share of the videos with three or more actors in which two have the same colour (their
            shapes then differ).
        events: number of events of a video's main line, where one event follows another. Not for grounded videos:
            there is one.
        length_s: length of an event in seconds, before the events are fitted into the video. Not for grounded
            videos: it takes all of the video.
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
        actions: what actors do, a selection from ``ACTIONS``; in grounded videos from ``ACTS``.
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
        shapes: of the actors, a selection from ``SHAPES``; in grounded videos from ``FIGURES``.
        grounded: whether the video is a short clip with one sentence whose noun phrases have boxes: one actor acts
            from the first frame to the last, or two do (``overlap``), and there are no queries.
        bystander: chance of one more actor in a grounded video, who rests and is not told of.
        hidden: chance of an acting actor of a grounded video to be away for a while: it appears late, vanishes
            early, or is behind a grey patch.
        hidden_share: for how much of the video that is.
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
    shapes: tuple[str, ...] = SHAPES
    grounded: bool = False
    bystander: float = 0.0
    hidden: float = 0.0
    hidden_share: tuple[float, float] = (0.25, 0.5)

    def __post_init__(self) -> None:
        if self.width % 2 or self.height % 2:
            raise ValueError(f"frames must have even sides, not {self.width}x{self.height}")
        for name in ("duration_s", "actors", "radius_px", "events", "length_s", "gap_s", "narrated_steps",
                     "hidden_share"):  # fmt: skip
            least, most = getattr(self, name)
            if not 0 < least <= most:
                raise ValueError(f"{name} must be a range (least, most) of positive numbers, not {(least, most)}")
        for name in ("shared_colour", "busy", "reuse_actor", "reuse_action", "repeat", "redundant", "drop_size",
                     "occlusion", "overlap", "then", "poor", "poor_annotated", "chatter", "drop_word",
                     "off_topic", "bystander", "hidden"):  # fmt: skip
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share, 0 to 1, not {getattr(self, name)}")
        if self.actors[1] > len(COLOURS):
            raise ValueError(f"at most {len(COLOURS)} actors, one per colour, not {self.actors[1]}")
        if self.grounded and (self.segments or self.narrated or self.described):
            raise ValueError("a grounded video has one caption: set segments, narrated and described to false")
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
        elif not self.grounded and self.events[1] * self.length_s[0] > self.busy * self.duration_s[0]:
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
        if (self.bystander or self.hidden) and not self.grounded:
            raise ValueError("bystander and hidden are for grounded videos: set grounded too, or them to 0")
        if self.hidden_share[1] >= 1:
            raise ValueError(f"hidden_share must be less than 1, not {self.hidden_share}: nobody is never seen")
        for name, known in (
            ("actions", ACTS if self.grounded else ACTIONS),
            ("shapes", FIGURES if self.grounded else SHAPES),
        ):
            chosen = getattr(self, name)
            if set(chosen) - set(known) or not chosen:
                raise ValueError(f"{name} are one or more of {', '.join(known)}, not {list(chosen)}")
        if self.shared_colour and len(set(self.shapes)) < 2:
            raise ValueError("two actors of one colour need two shapes: set shared_colour to 0, or more shapes")
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

GROUNDED = WorldConfig(
    width=64,
    height=64,
    # every second frame is one of the 5 per second of iGround: 8 to 12 of them
    fps=10,
    duration_s=(1.6, 2.4),
    radius_px=(7.0, 10.5),
    shared_colour=0.0,
    reuse_actor=0.0,
    reuse_action=0.0,
    repeat=0.0,
    overlap=0.65,
    # few of each: a network of less than a million parameters learns them in minutes
    actions=("left", "right", "up", "down", "grow", "rest"),
    shapes=("circle", "cross"),
    grounded=True,
    bystander=0.5,
    hidden=0.5,
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
    # short clips, one sentence about one or two actors, half of which are away for a while
    "grounded": GROUNDED,
    # the same, away more often and longer: two fifths of all boxes are missing
    "grounded_hidden": replace(GROUNDED, hidden=0.8, hidden_share=(0.35, 0.65)),
}
