"""Narrated videos: when the steps are, what is said about them and when, and where annotators see them.

Narrations are as loose as those of instructional videos: they come too early or too late, most of their words mean
nothing that is to be seen, and some are about something else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .language import name_step, step_phrase
from .scene import COLOURS, CX, CY, SHAPES, Clicks, Event, Narration, R, Video, WorldConfig
from .truth import SEEN, visibility

FILLERS = ("so", "okay", "now", "well", "you", "know", "just", "really", "guys", "actually", "basically", "like",
           "um", "today", "going", "want", "nice", "great", "maybe", "always", "thanks", "welcome", "let", "us",
           "see", "good")  # fmt: skip
"""Words that mean nothing in this world."""

MOST_WORDS = 12
"""Per step that a narration tells."""

LEAST_S = 1.0  # shortest narration
CLICKS = 5  # annotators of a picture
SPREAD = 0.3  # standard deviation of their clicks, radii of the actor


def draw_windows(config: WorldConfig, num_frames: int, rng: np.random.Generator) -> list[tuple[int, int, bool]]:
    """When the steps are: one after another with pauses, somewhere in the video.

    Args:
        config: the world.
        num_frames: of the video.
        rng: source of the choices.

    Returns:
        Frames (start, end) of each step, and False: none accompanies another.
    """
    count = int(rng.integers(config.events[0], config.events[1] + 1))
    # lengths of step, pause, step, ... step; what exceeds the least ones is shortened until all fit into the video
    ranges = [config.gap_s if k % 2 else config.length_s for k in range(2 * count - 1)]
    least = np.array([math.ceil(low * config.fps) for low, _ in ranges])
    excess = np.array([rng.uniform(*bounds) for bounds in ranges]) * config.fps - least
    excess *= min(1, (num_frames - least.sum()) / max(excess.sum(), 1e-9))
    lengths = least + np.clip(np.floor(excess), 0, None).astype(int)
    first = int(rng.integers(0, num_frames - lengths.sum() + 1))
    frames = (first + np.concatenate([[0], np.cumsum(lengths)])).tolist()
    return [(start, end, False) for start, end in zip(frames[::2], frames[1::2], strict=True)]


def narrate(
    config: WorldConfig, video: Video, telling: np.random.Generator, clicking: np.random.Generator
) -> Video:
    """Add the narrations and the clicks to a video.

    Args:
        config: the world.
        video: with its events, which follow one another.
        telling: source of the narrations.
        clicking: source of the clicks.

    Returns:
        The video with ``narrations`` and ``clicks``.
    """
    narrations = []
    for steps in _groups(len(video.events), config.narrated_steps, telling):
        off_topic = tuple(bool(telling.random() < config.off_topic) for _ in steps)
        phrases = [
            _any_phrase(config, telling) if off else step_phrase(video.actors, video.events[k])
            for k, off in zip(steps, off_topic, strict=True)
        ]
        text = _chat(config, phrases, telling)
        start, end = _drift(config, video, steps, telling)
        narrations.append(Narration(start, end, text, steps, off_topic))
    narrations.sort(key=lambda narration: (narration.start_s, narration.end_s))
    return replace(video, narrations=tuple(narrations), clicks=tuple(_draw_clicks(video, clicking)))


def step_seconds(event: Event, fps: int) -> range:
    """The full seconds of the video at which a step is going on."""
    return range(-(-event.start // fps), -(-event.end // fps))


def _groups(count: int, sizes: tuple[int, int], rng: np.random.Generator) -> list[tuple[int, ...]]:
    """Successive steps that are told together, so that every step is told; the last group may reach back."""
    groups: list[tuple[int, ...]] = []
    told = 0
    while told < count:
        size = min(int(rng.integers(sizes[0], sizes[1] + 1)), count)
        first = min(told, count - size)
        groups.append(tuple(range(first, first + size)))
        told = first + size
    return groups


def _any_phrase(config: WorldConfig, rng: np.random.Generator) -> str:
    colour, shape, action = (str(rng.choice(words)) for words in (list(COLOURS), SHAPES, config.actions))
    return name_step(colour, shape, action)


def _chat(config: WorldConfig, phrases: Sequence[str], rng: np.random.Generator) -> str:
    """The words of the phrases, some of them dropped, with fillers before, between and after."""
    words = " ".join(phrases).split()
    kept = [word for word in words if rng.random() >= config.drop_word] or [words[int(rng.integers(len(words)))]]
    fillers = rng.geometric(1 - config.chatter, len(kept) + 1) - 1  # in each gap
    while len(kept) + fillers.sum() > MOST_WORDS * len(phrases):
        fillers[rng.choice(np.flatnonzero(fillers))] -= 1
    said: list[str] = []
    for word, number in zip(["", *kept], fillers, strict=True):
        said += [word] if word else []
        said += [str(filler) for filler in rng.choice(FILLERS, number)]
    return " ".join(said)


def _drift(
    config: WorldConfig, video: Video, steps: Sequence[int], rng: np.random.Generator
) -> tuple[float, float]:
    """Start and end of a narration of these steps, seconds: elsewhere and of its own length, within the video."""
    start, end = video.events[steps[0]].start_s, video.events[steps[-1]].end_s
    middle = (start + end) / 2 + rng.uniform(-config.drift_s, config.drift_s)
    length = max(end - start + rng.uniform(-config.drift_s, config.drift_s), LEAST_S)
    begin = min(max(middle - length / 2, 0.0), video.duration_s - LEAST_S)
    return round(begin, 2), round(max(min(middle + length / 2, video.duration_s), begin + LEAST_S), 2)


def _draw_clicks(video: Video, rng: np.random.Generator) -> list[Clicks]:
    clicks = []
    seen: dict[int, NDArray[np.float32]] = {
        actor: visibility(video, actor) for actor in {event.actor for event in video.events}
    }
    for k, event in enumerate(video.events):
        for second in step_seconds(event, video.fps):
            frame = second * video.fps
            if seen[event.actor][frame] >= SEEN:
                state = video.tracks[frame, event.actor].astype(np.float64)
                points = rng.normal(state[[CX, CY]], SPREAD * state[R], (CLICKS, 2))
                points = np.clip(points, 0, (video.width, video.height))
                clicks.append(Clicks(second, k, tuple((x, y) for x, y in points.tolist())))
    return clicks
