"""Step 1: script a video of the toy world, from nothing but its configuration, seed and index.

Two to four coloured shapes share a dark stage. One after another they act for a while; between the events, and
while others act, they rest. Every event is asked for with one sentence. Distractors make the words necessary:
the same actor does other things, others do the same thing, and in half of the videos an actor does the same
thing twice, so that only "again", "before ...", "early in the video" decide.

In a captioned world nothing is asked; instead segments of the video are told, see :mod:`.segments`; in a narrated
world the events are steps that someone talks about, see :mod:`.narration`; in a described world each event has a
sentence that says more than its action; a grounded world is one of short clips, see :mod:`.grounded`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from . import grounded, language, motion, narration, segments
from .patches import draw_patches
from .scene import (
    ACTIONS,
    COLOURS,
    PRESETS,
    SIZES,
    Actor,
    Event,
    Patch,
    Query,
    Scene,
    Video,
    WorldConfig,
)
from .truth import truth

__all__ = ["ACTIONS", "PRESETS", "Actor", "Event", "Patch", "Query", "Scene", "Video", "WorldConfig",
           "script_video", "truth", "video_id"]  # fmt: skip

UNSEEN_S = 60  # seconds before a grounded video begins: enough to hurry anywhere
TRIES = 50  # draws of an actor and an action until one fits


def video_id(index: int) -> str:
    """``toy00012`` for 12."""
    return f"toy{index:05d}"


def script_video(config: WorldConfig, seed: int, index: int) -> Video:
    """Script one video. A pure function: no state, no order of calls, process or thread matters.

    Args:
        config: the world.
        seed: of the world, 0 or more.
        index: of the video, 0 or more.

    Returns:
        The video. Options such as cuts or patches do not change its actors and events.
    """
    streams = np.random.SeedSequence([seed, index]).spawn(12)  # a new one goes last: the others stay what they are
    cast, plot, body, words, backdrop, hiding, spoiling, marking, telling, clicking, describing, leaving = map(
        np.random.default_rng, streams
    )
    num_frames = round(cast.uniform(*config.duration_s) * config.fps)
    draw_windows = _draw_windows
    if config.segments or config.described:
        draw_windows = segments.draw_windows
    elif config.narrated:
        draw_windows = narration.draw_windows
    elif config.grounded:
        draw_windows = grounded.draw_windows
    windows = draw_windows(config, num_frames, plot)
    if config.grounded:
        count = len(windows) + (cast.random() < config.bystander)
    else:
        count = int(cast.integers(config.actors[0], config.actors[1] + 1))
    actors = _draw_actors(config, count, cast)
    for _ in range(TRIES):
        homes = _draw_homes(config, actors, cast)
        events = _draw_events(config, actors, homes, windows, plot)
        if not config.grounded or len(events) == len(windows):
            break  # a grounded clip is about as many as it promised; else other places, with more room
    tracks = motion.tracks(config, actors, homes, events, num_frames, body)
    if config.enter:
        motion.enter(tracks, events, config.fps)
    patches = draw_patches(config, actors, tracks, hiding)
    if config.grounded:
        patches += grounded.hide(config, actors, events, tracks, leaving)
    asked = not (config.segments or config.narrated or config.described or config.grounded)
    video = Video(
        id=video_id(index),
        width=config.width,
        height=config.height,
        fps=config.fps,
        num_frames=num_frames,
        duration_s=num_frames / config.fps,
        actors=tuple(actors),
        events=tuple(events),
        queries=tuple(language.ask(config, actors, events, num_frames, words)) if asked else (),
        scenes=tuple(_draw_scenes(config, num_frames, backdrop)),
        patches=tuple(patches),
        tracks=tracks,
        caption=language.ground(actors, events) if config.grounded else None,
    )
    if config.segments:
        return segments.caption(config, video, spoiling, marking)
    if config.described:
        return replace(video, descriptions=tuple(language.depict(actors, event, describing) for event in events))
    return narration.narrate(config, video, telling, clicking) if config.narrated else video


def _draw_actors(config: WorldConfig, count: int, rng: np.random.Generator) -> list[Actor]:
    colours = [str(colour) for colour in rng.permutation(list(COLOURS))[:count]]
    shapes = [str(shape) for shape in rng.choice(config.shapes, count)]
    if count >= 3 and rng.random() < config.shared_colour:
        colours[1] = colours[0]
        shapes[:2] = [str(shape) for shape in rng.permutation(config.shapes)[:2]]
    sizes = rng.integers(0, len(SIZES), count)
    actors = [
        Actor(colour, shape, SIZES[size], config.radius_px[size])
        for colour, shape, size in zip(colours, shapes, sizes, strict=True)
    ]
    return sorted(actors, key=lambda actor: -actor.radius)  # the big ones behind, or they would bury others


def _draw_homes(
    config: WorldConfig, actors: Sequence[Actor], rng: np.random.Generator
) -> list[tuple[float, float]]:
    """One of the nine places of a 3 x 3 grid for each actor, jittered, in whole pixels."""
    homes = []
    for actor, place in zip(actors, rng.permutation(9), strict=False):
        (left, right), (top, bottom) = motion.bounds(config, actor)
        x, y = (0.23 + 0.27 * np.array(divmod(int(place), 3))) * (config.width, config.height)
        x, y = np.round(np.array((x, y)) + rng.uniform(-0.6, 0.6, 2) * config.radius_px[0])
        homes.append((float(np.clip(x, left, right)), float(np.clip(y, top, bottom))))
    return homes


def _draw_windows(config: WorldConfig, num_frames: int, rng: np.random.Generator) -> list[tuple[int, int, bool]]:
    """When something happens: frames (start, end) and whether it accompanies the window before it."""
    count = int(rng.integers(config.events[0], config.events[1] + 1))
    if config.length_law == "uniform":
        lengths = rng.uniform(*config.length_s, count)
    else:
        shortest, longest = config.length_s
        lengths = np.exp(rng.uniform(math.log(shortest), math.log(longest), count))
    lengths *= config.fps
    least, room = config.length_s[0] * config.fps, config.busy * num_frames
    if lengths.sum() > room:  # shorten what exceeds the least length, so that no event becomes a mere twitch
        lengths = least + (lengths - least) * (room - count * least) / (lengths.sum() - count * least)
    gaps = rng.dirichlet(np.ones(count + 1)) * (num_frames - lengths.sum())
    windows = []
    for k in range(count):
        start = round(gaps[: k + 1].sum() + lengths[:k].sum())
        end = max(round(gaps[: k + 1].sum() + lengths[: k + 1].sum()), start + 1)
        windows.append((start, end, False))
        if rng.random() < config.overlap:
            length = max(round((end - start) * rng.uniform(0.6, 1.0)), 1)
            first = start + int(rng.integers(0, end - start - length + 1))
            windows.append((first, first + length, True))
    return windows


def _draw_events(
    config: WorldConfig,
    actors: Sequence[Actor],
    homes: Sequence[tuple[float, float]],
    windows: Sequence[tuple[int, int, bool]],
    rng: np.random.Generator,
) -> list[Event]:
    """Decide who does what in which window, in the order of time, because every move needs room."""
    events: dict[int, Event] = {}  # by window; one without a fitting event would stay empty
    places = list(homes)
    free_from = [0] * len(actors)  # frame since which each actor is at rest
    told = config.segments or config.narrated or config.described
    repeated = _draw_repeat([k for k, window in enumerate(windows) if not window[2]], config.repeat, rng)
    for k, (start, end, _) in enumerate(windows):
        idle = [i for i in range(len(actors)) if free_from[i] <= start]
        # nobody hurries about in another segment or step, whose words would be silent on it
        pause = max((end for _, end, _ in windows[:k] if end <= start), default=0) if told else 0
        for attempt in range(TRIES):
            if attempt == 0 and repeated.get(k) in events:
                who, action = events[repeated[k]].actor, events[repeated[k]].action
            else:
                who, action = _draw_deed(config, list(events.values()), idle, rng)
                if any((e.actor, e.action) == (who, action) for e in events.values()):
                    continue
            if who not in idle:
                continue
            spare = (max(free_from[who], pause), start)
            if config.grounded:  # before the clip begins, unseen
                spare = (start - UNSEEN_S * config.fps, start)
            elif config.enter:  # unseen it may hurry at any time
                spare = motion.absence((free_from[who], start), config.fps)
            route = motion.find_route(config, actors[who], places[who], action, spare, end - start, rng)
            if route is None or (told and _buries(actors, places, who, route.to_xy)):
                continue
            if config.described and route.dash is not None:  # a rest is a rest
                continue
            if config.grounded:
                if grounded.meets(actors, places, list(events.values()), who, route):
                    continue
                route = replace(route, dash=None)
            turn = 1 if rng.random() < 0.5 else -1
            times = (start / config.fps, end / config.fps)
            events[k] = Event(who, action, start, end, *times, route.from_xy, route.to_xy, route.dash, turn)
            places[who], free_from[who] = route.to_xy, end
            break
    if config.grounded:  # they are simultaneous: in the order in which the caption names them
        return sorted(events.values(), key=lambda event: actors[event.actor].colour)
    return sorted(events.values(), key=lambda event: (event.start, event.end))


def _buries(
    actors: Sequence[Actor], places: Sequence[tuple[float, float]], who: int, xy: tuple[float, float]
) -> bool:
    """Whether an actor who rests at ``xy`` would hide another one, or be hidden, for the most part."""
    return any(
        math.dist(xy, place) < max(actor.radius, actors[who].radius)
        for i, (actor, place) in enumerate(zip(actors, places, strict=True))
        if i != who
    )


def _draw_repeat(main: Sequence[int], rate: float, rng: np.random.Generator) -> dict[int, int]:
    """Which window repeats which earlier one, ``{later: earlier}``; at most one, rather not the next one."""
    if len(main) < 2 or rng.random() >= rate:
        return {}
    pairs = [(i, j) for i in range(len(main)) for j in range(i + 1, len(main))]
    apart = [(i, j) for i, j in pairs if j - i > 1] or pairs
    earlier, later = apart[int(rng.integers(len(apart)))]
    return {main[later]: main[earlier]}


def _draw_deed(
    config: WorldConfig, events: Sequence[Event], idle: Sequence[int], rng: np.random.Generator
) -> tuple[int, str]:
    """An actor at rest and an action, either possibly taken over from an earlier event."""
    who = idle[int(rng.integers(len(idle)))] if idle else 0
    action = config.actions[int(rng.integers(len(config.actions)))]
    if events and rng.random() < config.reuse_actor:
        who = events[int(rng.integers(len(events)))].actor
    if events and rng.random() < config.reuse_action:
        action = events[int(rng.integers(len(events)))].action
    return who, action


def _draw_scenes(config: WorldConfig, num_frames: int, rng: np.random.Generator) -> list[Scene]:
    """The backgrounds; cuts are at least a second from each other and from both ends."""
    starts = [0]
    for cut in sorted(rng.integers(0, num_frames, rng.poisson(config.cuts))):
        if starts[-1] + config.fps <= cut <= num_frames - config.fps:
            starts.append(int(cut))
    scenes = []
    for start in starts:
        red, green, blue = (float(value) for value in rng.uniform(14, 58, 3))
        slope = (float(rng.uniform(-22, 22)), float(rng.uniform(-22, 22)))
        scenes.append(Scene(start, (red, green, blue), slope, int(rng.integers(2**31))))
    return scenes
