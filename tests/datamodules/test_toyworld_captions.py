"""Captioned worlds: segments, their sentences, and frames that are poor in earnest."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from functools import cache
from itertools import combinations, pairwise

import numpy as np
import pytest

from groundzoo.datamodules.toyworld.generate import VERSION
from groundzoo.datamodules.toyworld.language import PHRASES
from groundzoo.datamodules.toyworld.motion import DIRECTIONS
from groundzoo.datamodules.toyworld.poor import poor_frames
from groundzoo.datamodules.toyworld.render import render_frames
from groundzoo.datamodules.toyworld.scene import ALPHA, ANGLE, COLOURS, CX, CY, R, Segment, Spell
from groundzoo.datamodules.toyworld.shapes import boxes
from groundzoo.datamodules.toyworld.truth import SEEN, visibility
from groundzoo.datamodules.toyworld.world import PRESETS, Video, script_video, truth

CAPTIONED = ("captions", "clips")


@cache
def videos(name: str, count: int = 200) -> list[Video]:
    return [script_video(PRESETS[name], 0, index) for index in range(count)]


def told(name: str) -> list[tuple[Video, Segment]]:
    return [(video, segment) for video in videos(name) for segment in video.segments]


def solo(video: Video, i: int) -> Video:
    """The video with one actor and its own spells."""
    spells = tuple(dataclasses.replace(spell, actor=0) for spell in video.spells if spell.actor == i)
    return dataclasses.replace(
        video, actors=video.actors[i : i + 1], tracks=video.tracks[:, i : i + 1], spells=spells, segments=()
    )


def event_of(video: Video, spell: Spell):
    (event,) = (
        e for e in video.events if e.actor == spell.actor and e.start <= spell.start and spell.end <= e.end
    )
    return event


def test_captions_are_several_segments_with_pauses():
    counts = Counter(len(video.segments) for video in videos("captions"))
    assert set(counts) == {3, 4, 5}
    assert min(counts.values()) > 20
    for video in videos("captions"):
        assert 14 <= video.duration_s <= 22
        assert 2 <= len(video.actors) <= 4
        assert len({actor.colour for actor in video.actors}) == len(video.actors)
        edges = [0, *(edge for s in video.segments for edge in (s.start, s.end)), video.num_frames]
        assert all(later - sooner >= 2 for sooner, later in zip(edges[::2], edges[1::2], strict=True))
        for segment in video.segments:
            assert 2.9 <= segment.end_s - segment.start_s <= 5.1
            assert (segment.start_s, segment.end_s) == (round(segment.start / 6, 2), round(segment.end / 6, 2))


def test_clips_are_one_segment_from_begin_to_end():
    for video in videos("clips"):
        (segment,) = video.segments
        assert (segment.start, segment.end, segment.end_s) == (0, video.num_frames, video.duration_s)


@pytest.mark.parametrize("name", CAPTIONED)
def test_only_the_mentioned_actors_act_and_all_the_time(name):
    pairs = 0
    for video, segment in told(name):
        events = [video.events[mention.event] for mention in segment.mentions]
        assert all((event.start, event.end) == (segment.start, segment.end) for event in events)
        assert len({event.actor for event in events}) == len(events) <= 2
        pairs += len(events) == 2
        for event in video.events:
            if event not in events:
                first = event.dash[0] if event.dash else event.start
                assert event.end <= segment.start or first >= segment.end
    assert pairs / len(told(name)) == pytest.approx(0.6, abs=0.1)
    assert sum(len(s.mentions) for _, s in told(name)) == sum(len(video.events) for video in videos(name))
    assert not any(video.queries for video in videos(name))


def test_nobody_comes_to_rest_upon_another():
    for video, segment in told("captions"):
        places = video.tracks[segment.end - 1, :, :2]
        for i, j in combinations(range(len(video.actors)), 2):
            if video.tracks[segment.end - 1, [i, j], ALPHA].min() == 1 and not jumping(video, segment):
                radius = max(video.actors[i].radius, video.actors[j].radius)
                assert np.linalg.norm(places[i] - places[j]) > radius - 3  # jitter


def jumping(video: Video, segment: Segment) -> bool:
    return any(video.events[mention.event].action == "jump" for mention in segment.mentions)


@pytest.mark.parametrize("name", CAPTIONED)
def test_sentences_say_who_does_what_and_mentions_point_at_the_words(name):
    for video, segment in told(name):
        tokens = segment.tokens
        assert segment.sentences[0] == " ".join(tokens) + "."
        assert tokens[0] == "The"
        assert {word for word in tokens[1:] if not word.islower()} == set()
        clauses = []
        for mention in segment.mentions:
            event = video.events[mention.event]
            actor = video.actors[event.actor]
            assert [tokens[index] for index in mention.words] == [actor.colour, actor.shape]
            assert " ".join(tokens[index] for index in mention.verb) == PHRASES[event.action][0]
            clauses.append([f"the {actor.colour} {actor.shape} {phrase}" for phrase in PHRASES[event.action]])
        colours = [video.actors[video.events[mention.event].actor].colour for mention in segment.mentions]
        assert colours == sorted(colours)
        for k, sentence in enumerate(segment.sentences):  # both orders in one wording, then in the other
            order = clauses[:: -1 if k % 2 else 1]
            assert sentence.lower() == " while ".join(clause[k // 2] for clause in order) + "."
    vocabulary = {word.lower() for _, segment in told(name) for word in segment.tokens}
    assert len(vocabulary) == 2 + len(COLOURS) + 3 + 8 + 3  # the, while; nouns; verbs (one of four moves); ways


@pytest.mark.parametrize("name", CAPTIONED)
def test_what_is_told_shows_in_the_ten_sampled_frames(name):
    for video, segment in told(name):
        frames = segment.sampled(video.fps)
        assert frames == sorted(set(frames))
        assert segment.start <= frames[0] < segment.start + 3
        assert segment.end - 3 <= frames[-1] < segment.end
        for mention in segment.mentions:
            event = video.events[mention.event]
            seen = video.tracks[frames, event.actor]
            span = np.ptp(seen, axis=0)
            axis, sign = DIRECTIONS.get(event.action, (0, 1))
            shows = {
                "grow": seen[-1, R] > 1.35 * seen[0, R],
                "shrink": seen[-1, R] < 0.75 * seen[0, R],
                "spin": np.abs(np.diff(seen[:, ANGLE])).min() > 0.35,
                "blink": 3 <= (seen[:, ALPHA] < 1).sum() <= 7,
                "jump": span[CY] > 4,
            }
            assert shows.get(event.action, sign * (seen[-1, axis] - seen[0, axis]) > 10), (video.id, event)


def test_a_shake_may_not_show_in_them():
    """Why it is no action of the captioned worlds."""
    assert "shake" not in PRESETS["captions"].actions
    shaking = dataclasses.replace(PRESETS["captions"], actions=("shake",), length_s=(20 / 6, 20 / 6))
    unseen = 0
    for video in (script_video(shaking, 0, index) for index in range(20)):
        for segment in video.segments:
            x = video.tracks[:, video.events[segment.mentions[0].event].actor, CX]
            assert np.ptp(x[segment.start : segment.end]) > 6
            unseen += np.ptp(x[segment.sampled(video.fps)]) <= 3  # no more than the jitter of rest
    assert unseen > 3


@pytest.mark.parametrize("name", CAPTIONED)
def test_a_quarter_of_an_acting_actors_frames_is_poor(name):
    spells = [(video, spell) for video in videos(name) for spell in video.spells]
    acting = sum(event.end - event.start for video in videos(name) for event in video.events)
    assert sum(spell.end - spell.start for _, spell in spells) / acting == pytest.approx(0.25, abs=0.01)
    parts = Counter((video.id, event_of(video, spell)) for video, spell in spells)
    assert set(parts.values()) == {1, 2}
    assert len(parts) == sum(len(video.events) for video in videos(name))
    assert np.mean([count == 2 for count in parts.values()]) == pytest.approx(0.5, abs=0.08)
    causes = {(video.id, event_of(video, spell)): spell.cause for video, spell in spells}
    assert np.mean([cause == "covered" for cause in causes.values()]) == pytest.approx(0.5, abs=0.08)
    for (video, one), (same, two) in pairwise(spells):
        assert len(one.regions) == one.end - one.start > 0
        if video is same and event_of(video, one) == event_of(video, two):
            assert one.cause == two.cause
            assert one.end < two.start


@pytest.mark.parametrize("index", range(6))
def test_a_covered_actor_keeps_a_sliver_and_a_blurred_one_its_place(index):
    video = videos("captions")[index]
    assert video.spells
    for i in {spell.actor for spell in video.spells}:
        mine = solo(video, i)
        colour = np.array(COLOURS[mine.actors[0].colour])
        poor, good = render_frames(mine), render_frames(dataclasses.replace(mine, spells=()))
        around = np.clip(np.round(boxes(mine.actors[0].shape, mine.tracks[:, 0])), 0, 96).astype(int)
        shares = visibility(mine, 0)
        causes = {f: spell.cause for spell in mine.spells for f in range(spell.start, spell.end)}
        for f, (spoiled, clear) in enumerate(zip(poor, good, strict=True)):
            if f not in causes:
                assert np.array_equal(spoiled, clear)
                continue
            if mine.tracks[f, 0, ALPHA] < 1:
                continue
            x0, y0, x1, y1 = around[f]
            inner, whole = (frame[y0:y1, x0:x1].astype(float) for frame in (spoiled, clear))
            own = [(np.abs(frame - colour).max(-1) < 30).sum() for frame in (inner, whole)]
            if causes[f] == "covered":
                assert 0.2 <= shares[f] <= 0.35
                assert own[0] / own[1] == pytest.approx(shares[f], abs=0.15)
            else:
                assert shares[f] > 0.9
                assert own[0] < 0.2 * own[1]
                energy = [sum((np.diff(frame, axis=a) ** 2).sum() for a in (0, 1)) for frame in (inner, whole)]
                assert energy[0] < 0.15 * energy[1]
                near = np.abs(spoiled.astype(int) - clear).max(-1) > 3  # colour spreads beyond the actor
                assert near.sum() > (x1 - x0) * (y1 - y0)


def test_spells_poor_frames_and_visibility_agree_with_a_world_made_by_hand():
    video = dataclasses.replace(videos("clips")[0], spells=())
    moved = video.tracks.copy()
    moved[:, :, ALPHA] = 1
    moved[:, 0, :2], moved[:, 1, :2] = (20, 20), (70, 70)
    region = (0.0, 0.0, 40.0, 40.0)
    spells = (Spell(0, "covered", 3, 5, (region,) * 2), Spell(1, "blurred", 4, 7, ((0.0, 0.0, 96.0, 96.0),) * 3))
    video = dataclasses.replace(video, tracks=moved, spells=spells)
    assert [np.flatnonzero(flags).tolist() for flags in poor_frames(video, 0)] == [[3, 4, 5, 6], [4, 5, 6]]
    assert [np.flatnonzero(flags).tolist() for flags in poor_frames(video, 1)] == [[4, 5, 6], [4, 5, 6]]
    assert np.flatnonzero(visibility(video, 0) < 0.5).tolist() == [3, 4]
    assert visibility(video, 1).min() > 0.9
    fact = truth(video)
    assert (fact["actors"][0]["poor"], fact["actors"][0]["blurred"]) == ([3, 4, 5, 6], [4, 5, 6])
    assert fact["actors"][0]["boxes"][3] is None


@pytest.mark.parametrize("name", CAPTIONED)
def test_annotated_frames_are_poor_in_half_of_the_cases_and_show_the_actor(name):
    poor, possible = [], []
    for video, segment in told(name):
        frames = segment.sampled(video.fps)
        for mention in segment.mentions:
            actor = video.events[mention.event].actor
            flags, seen = poor_frames(video, actor)[0][frames], visibility(video, actor)[frames] >= SEEN
            assert seen[mention.sample]
            possible.append((flags & seen).any())
            poor.append(flags[mention.sample])
            assert possible[-1] or not poor[-1]
    assert np.mean(possible) > 0.95
    assert np.mean(poor) == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize(("share", "poor"), [(0.0, False), (1.0, True)])
def test_poor_annotations_can_be_had_always_or_never(share, poor):
    config = dataclasses.replace(PRESETS["captions"], poor_annotated=share)
    for index in range(15):
        video = script_video(config, 0, index)
        for segment in video.segments:
            frames = segment.sampled(video.fps)
            for mention in segment.mentions:
                actor = video.events[mention.event].actor
                flags = poor_frames(video, actor)[0][frames] & (visibility(video, actor)[frames] >= SEEN)
                assert flags[mention.sample] == (poor and flags.any())


def test_poor_frames_do_not_change_the_plot():
    for index in range(10):
        one, other = (
            script_video(dataclasses.replace(PRESETS["captions"], poor=poor), 4, index) for poor in (0.0, 0.4)
        )
        assert (one.events, one.actors, one.scenes) == (other.events, other.actors, other.scenes)
        assert np.array_equal(one.tracks, other.tracks)
        assert [s.sentences for s in one.segments] == [s.sentences for s in other.segments]
        assert not one.spells
        assert other.spells


@pytest.mark.parametrize(("name", "pin"), [("captions", "b737e194e1c7ce69"), ("clips", "d75777a7fa1e23bd")])
def test_the_captioned_worlds_are_pinned(name, pin):
    """A change must be deliberate: it raises ``generate.VERSION`` and these values."""
    plot = [
        (
            video.num_frames,
            [(s.start, s.end, s.sentences, s.mentions) for s in video.segments],
            [(spell.actor, spell.cause, spell.start, spell.end) for spell in video.spells],
        )
        for video in videos(name)[:20]
    ]
    assert (VERSION, hashlib.sha256(repr(plot).encode()).hexdigest()[:16]) == (1, pin)


@pytest.mark.parametrize("name", CAPTIONED)
def test_the_truth_tells_segments_and_poor_frames(name):
    for video in videos(name)[:20]:
        fact = json.loads(json.dumps(truth(video)))
        assert fact["queries"] == []
        for i, actor in enumerate(fact["actors"]):
            poor, blurred = poor_frames(video, i)
            assert actor["poor"] == np.flatnonzero(poor).tolist()
            assert actor["blurred"] == np.flatnonzero(blurred).tolist()
        assert [segment["id"] for segment in fact["segments"]] == [
            f"{video.id}#{k}" for k in range(len(video.segments))
        ]
        for segment in fact["segments"]:
            assert len(segment["frames"]) == 10
            assert segment["start"] <= segment["frames"][0] < segment["frames"][-1] < segment["end"]
            assert segment["sentences"][0] == " ".join(segment["tokens"]) + "."
            for mention in segment["mentions"]:
                actor = fact["actors"][mention["actor"]]
                assert fact["events"][mention["event"]]["actor"] == mention["actor"]
                assert [segment["tokens"][index] for index in mention["words"]] == [
                    actor["colour"],
                    actor["shape"],
                ]
                assert segment["tokens"][mention["verb"][0]] in {
                    phrase[0].split()[0] for phrase in PHRASES.values()
                }
                assert actor["boxes"][segment["frames"][mention["sample"]]] is not None
