"""Captioned segments: when they are, who is poorly seen in them, what is said of them, and what is annotated."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import groupby

import numpy as np

from .language import PHRASES, tell
from .poor import draw_spells, poor_frames
from .scene import Mention, Segment, Video, WorldConfig
from .truth import SEEN, visibility


def draw_windows(config: WorldConfig, num_frames: int, rng: np.random.Generator) -> list[tuple[int, int, bool]]:
    """When something happens: frames (start, end) and whether it accompanies the window before it.

    Args:
        config: the world.
        num_frames: of the video.
        rng: source of the choices.

    Returns:
        The windows in the order of time; an accompanying window has the times of the one before.
    """
    least, most = (seconds * config.fps for seconds in config.length_s)
    pause = config.pause_s * config.fps
    fitting = math.floor((num_frames - pause) / (least + pause))
    count = int(rng.integers(config.events[0], min(config.events[1], max(fitting, config.events[0])) + 1))
    lengths = rng.uniform(least, most, count)
    room = num_frames - (count + 1) * pause
    excess = max(lengths.sum() - count * least, 1e-9)
    lengths = least + (lengths - least) * np.clip((room - count * least) / excess, 0, 1)
    pauses = pause + rng.dirichlet(np.ones(count + 1)) * max(room - lengths.sum(), 0)
    windows = []
    for k in range(count):
        start = round(pauses[: k + 1].sum() + lengths[:k].sum())
        end = min(start + round(lengths[k]), num_frames)
        windows.append((start, end, False))
        if rng.random() < config.overlap:
            windows.append((start, end, True))
    return windows


def caption(
    config: WorldConfig, video: Video, spoiling: np.random.Generator, marking: np.random.Generator
) -> Video:
    """Add the spells and the segments to a video.

    Args:
        config: the world.
        video: with its events; those of one segment have the same start.
        spoiling: source of the spells.
        marking: source of the annotated frames.

    Returns:
        The video with ``spells`` and ``segments``.
    """
    spells = draw_spells(config, video.actors, video.events, video.tracks, spoiling)
    video = replace(video, spells=tuple(spells))
    seen = [visibility(video, i) for i in range(len(video.actors))]
    poor = [poor_frames(video, i)[0] for i in range(len(video.actors))]

    def annotate(actor: int, frames: list[int]) -> int:
        """Which of the sampled frames gets the box: a poor or a good one in which the actor is to be seen."""
        wanted = marking.random() < config.poor_annotated
        visible = seen[actor][frames] >= SEEN
        choice = np.flatnonzero(visible & (poor[actor][frames] == wanted))
        if not len(choice):
            choice = np.flatnonzero(visible)
        if not len(choice):  # hidden throughout: where it is hidden least
            choice = np.flatnonzero(seen[actor][frames] == seen[actor][frames].max())
        return int(choice[int(marking.integers(len(choice)))])

    segments = []
    for _, together in groupby(enumerate(video.events), key=lambda pair: pair[1].start):
        told = sorted(together, key=lambda pair: video.actors[pair[1].actor].colour)
        events = [event for _, event in told]
        orders = (events, events[::-1])
        first, second, third, fourth = (
            tell(video.actors, order, wording) for wording in (0, 1) for order in orders
        )
        times = (round(events[0].start_s, 2), round(events[0].end_s, 2))
        segment = Segment(events[0].start, events[0].end, *times, (first, second, third, fourth), ())
        frames = segment.sampled(video.fps)
        mentions, begin = [], 0
        for index, event in told:
            verb = begin + 3  # the, colour, shape, then the verb phrase
            end = verb + len(PHRASES[event.action][0].split())
            sample = annotate(event.actor, frames)
            mentions.append(Mention(index, (begin + 1, begin + 2), tuple(range(verb, end)), sample))
            begin = end + 1  # behind "while"
        segments.append(replace(segment, mentions=tuple(mentions)))
    return replace(video, segments=tuple(segments))
