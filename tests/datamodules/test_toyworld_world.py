"""The script of the world: statistics, honest words, motion, truth."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections import Counter
from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from groundzoo.datamodules.toyworld.language import relation
from groundzoo.datamodules.toyworld.motion import DIRECTIONS
from groundzoo.datamodules.toyworld.world import PRESETS, Query, Video, WorldConfig, script_video, truth

BUSY = dataclasses.replace(PRESETS["default"], occlusion=0.7, cuts=1.5, overlap=0.5, then=0.5)
CONFIGS = {"default": PRESETS["default"], "w1": PRESETS["w1"], "busy": BUSY}


@cache
def videos(name: str, count: int = 400) -> list[Video]:
    return [script_video(CONFIGS[name], 0, index) for index in range(count)]


def queries(name: str) -> list[tuple[Video, Query]]:
    return [(video, query) for video in videos(name) for query in video.queries]


def test_import_is_light():
    code = (
        "import sys, groundzoo.datamodules.toyworld.generate\n"
        "print([m for m in ('torch', 'av', 'decord', 'lightning') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if "No module named 'groundzoo'" in done.stderr:
        pytest.skip("needs groundzoo installed")
    assert done.stdout.strip() == "[]", done.stderr


def test_a_video_depends_on_config_seed_and_index_only():
    config = PRESETS["w1"]
    first = [json.dumps(truth(script_video(config, 7, index))) for index in range(4)]
    again = [json.dumps(truth(script_video(config, 7, index))) for index in reversed(range(4))]
    assert first == again[::-1]
    assert len({*first, json.dumps(truth(script_video(config, 8, 0)))}) == 5


def test_w1_has_the_calibrated_statistics():
    asked = queries("w1")
    assert 3.8 < len(asked) / len(videos("w1")) < 4.2
    shares = {kind: n / len(asked) for kind, n in Counter(query.kind for _, query in asked).items()}
    assert shares == pytest.approx({"plain": 0.58, "redundant": 0.17, "needed": 0.25}, abs=0.04)
    lengths = [(query.end_s - query.start_s) / video.duration_s for video, query in asked]
    assert np.percentile(lengths, [5, 25, 50, 75, 95]) == pytest.approx([0.08, 0.12, 0.17, 0.22, 0.27], abs=0.015)
    words = [query.text.rstrip(".").split() for _, query in asked]
    assert len({word for sentence in words for word in sentence}) == 44
    assert (min(map(len, words)), max(map(len, words))) == (4, 17)
    assert np.mean([len(sentence) for sentence in words]) == pytest.approx(7.4, abs=0.4)
    others = [([e for i, e in enumerate(v.events) if i != q.event], q) for v, q in asked]
    assert np.mean([any(e.actor == q.actor for e in rest) for rest, q in others]) == pytest.approx(0.80, abs=0.04)
    assert np.mean([any(e.action == q.action for e in rest) for rest, q in others]) == pytest.approx(
        0.56, abs=0.05
    )
    assert np.mean([video.duration_s for video in videos("w1")]) == pytest.approx(32, abs=0.7)
    needed = [query.text for _, query in asked if query.kind == "needed"]
    for words_of_way, share in (
        (("first time", "again"), 0.11),
        (("before", "after"), 0.09),
        (("early", "late"), 0.05),
    ):
        count = sum(any(word in text for word in words_of_way) for text in needed)
        assert count / len(asked) == pytest.approx(share, abs=0.025)


def test_default_uses_all_three_pyramid_levels():
    used = np.zeros(3)
    for video, query in queries("default"):
        start, end = (32 * at / video.duration_s for at in (query.start_s, query.end_s))
        for level, (least, most) in enumerate([(-1, 6), (5.6, 11), (11, np.inf)]):
            stride = 2**level
            place = np.arange(32 // stride) * stride + stride / 2
            side = np.maximum(place - start, end - place)
            used[level] += ((start < place) & (place < end) & (least <= side) & (side <= most)).any()
    share = used / len(queries("default"))
    assert share[0] > 0.7
    assert share[1] > 0.3
    assert share[2] > 0.1


@pytest.mark.parametrize("name", CONFIGS)
def test_moments_lie_in_the_video_and_on_frames(name):
    for video, query in queries(name):
        assert 0 <= query.start_s < query.end_s <= video.duration_s
        event = video.events[query.event]
        assert (query.actor, query.action, query.start_s) == (event.actor, event.action, event.start_s)
        assert event.start_s == event.start / video.fps
        assert query.kind == "span" or query.end_s == event.end_s
        assert event.end_s - event.start_s > 0.95 * CONFIGS[name].length_s[0] * (0.6 if name == "busy" else 1)


@pytest.mark.parametrize("name", CONFIGS)
def test_only_the_temporal_words_tell_repeated_events_apart(name):
    checked = Counter()
    for video, query in queries(name):
        pair = (query.actor, query.action)
        twins = [e for e in video.events if (e.actor, e.action) == pair]
        assert len(twins) == (2 if query.kind == "needed" else 1)
        if query.kind != "needed":
            continue
        true_of = [twin for twin in twins if holds(video, query, twin)]
        assert true_of == [video.events[query.event]], query.text
        checked[query.text.split()[-1]] += 1
    assert len(checked) > 5


def holds(video: Video, query: Query, event) -> bool:
    """Whether a sentence about a repeated event is true of this one of the two, judged from its words alone."""
    twin = next(e for e in video.events if e is not event and (e.actor, e.action) == (event.actor, event.action))
    text = query.text.rstrip(".")
    if text.endswith("for the first time"):
        return event.start < twin.start
    if text.endswith("again"):
        return event.start > twin.start
    if text.endswith("in the video"):
        return ("early" in text) == (event.start_s + event.end_s < video.duration_s)
    word = next(word for word in ("before", "after", "while") if f" {word} " in text)
    clause = text.split(f" {word} ")[1]
    named = [e for e in video.events if describes(video, clause, e)]
    assert len(named) == 1, clause
    return relation(event, named[0]) == word


def describes(video: Video, clause: str, event) -> bool:
    from groundzoo.datamodules.toyworld.language import PHRASES

    actor = video.actors[event.actor]
    words = clause.split()
    return (
        actor.colour in words
        and actor.shape in words
        and not ({"small", "big"} & set(words) - {actor.size})
        and any(clause.endswith(phrase) for phrase in PHRASES[event.action])
    )


@pytest.mark.parametrize("name", ["default", "w1"])
def test_moves_move_and_rest_rests(name):
    for video in videos(name)[:150]:
        for event in video.events:
            if event.action in DIRECTIONS:
                axis, sign = DIRECTIONS[event.action]
                way = np.subtract(event.to_xy, event.from_xy)
                assert sign * way[axis] >= 14
                assert way[1 - axis] == 0
                seen = video.tracks[event.end - 1, event.actor, :2] - video.tracks[event.start, event.actor, :2]
                assert sign * seen[axis] > 9  # the first step is made already; two jitters
        busy = np.zeros((video.num_frames, len(video.actors)), bool)
        for event in video.events:
            first = event.dash[0] if event.dash else event.start
            busy[first : event.end + video.fps, event.actor] = True
        step = np.abs(np.diff(video.tracks[..., :2], axis=0)).max(-1)
        rest = ~(busy[1:] | busy[:-1])
        assert step[rest].max() <= 3
        assert 0.1 < (step[rest] > 0).mean() < 0.7  # idle jitter: differences alone betray nothing
        assert (video.tracks[1:, :, 4][rest] == 1).all()


def test_every_action_leaves_its_mark():
    marks = {"grow": 0, "shrink": 0, "spin": 0, "blink": 0, "jump": 0, "shake": 0}
    for video in videos("w1")[:150]:
        for event in video.events:
            part = video.tracks[event.start : event.end, event.actor]
            radius = video.actors[event.actor].radius
            span = np.ptp(part, axis=0)
            seen = {
                "grow": part[-1, 2] > 1.5 * radius,
                "shrink": part[-1, 2] < 0.6 * radius,
                "spin": span[3] > 4,
                "blink": span[4] > 0.8,
                "jump": span[1] > 9,
                "shake": span[0] > 6,
            }
            assert seen.get(event.action, True), event
            marks[event.action] = marks.get(event.action, 0) + 1
    assert min(marks.values()) > 10


def test_options_do_not_change_the_plot():
    plain = PRESETS["default"]
    hidden = dataclasses.replace(plain, occlusion=1.0, cuts=3.0)
    for index in range(5):
        a, b = script_video(plain, 3, index), script_video(hidden, 3, index)
        assert (a.events, a.queries) == (b.events, b.queries)
        assert np.array_equal(a.tracks, b.tracks)
        assert len(a.scenes) == 1
        assert not a.patches
        assert len(b.patches) == len(b.actors)


def test_occlusion_hides_and_cuts_change_the_background():
    facts = [truth(video) for video in videos("busy")[:60]]
    hidden = 0
    for fact, video in zip(facts, videos("busy"), strict=False):
        for patch in fact["patches"]:
            covered = [a["visibility"][patch["start"] : patch["end"]] for a in fact["actors"]]
            hidden += any(max(shares) == 0 for shares in covered)
        starts = fact["scenes"]
        assert all(b - a >= video.fps for a, b in pairwise(starts))
    assert hidden > 30
    assert sum(len(fact["scenes"]) > 1 for fact in facts) > 20


def test_overlap_and_then_queries():
    asked = queries("busy")
    spans = [(v, q) for v, q in asked if q.kind == "span"]
    whiles = [(v, q) for v, q in asked if " while " in q.text]
    assert len(spans) > 50
    assert len(whiles) > 50
    for video, query in spans:
        assert " then " in query.text
        assert query.end_s == video.events[query.event + 1].end_s
    for video in videos("busy"):
        for i, actor_events in enumerate([[e for e in video.events if e.actor == i] for i in range(4)]):
            assert all(a.end <= b.start for a, b in pairwise(actor_events)), i
    assert not any(" then " in q.text or " while " in q.text for _, q in queries("default"))


def test_truth_is_complete_and_json():
    for video in videos("busy")[:10]:
        fact = truth(video)
        assert json.loads(json.dumps(fact))["num_frames"] == video.num_frames
        for actor in fact["actors"]:
            assert {len(actor[name]) for name in ("boxes", "cx", "cy", "r", "angle", "alpha", "visibility")} == {
                video.num_frames
            }
            for box, visible in zip(actor["boxes"], actor["visibility"], strict=True):
                assert 0 <= visible <= 1
                assert (box is None) == (visible < 0.2) or abs(visible - 0.2) < 0.01
                if box:
                    assert 0 <= box[0] < box[2] <= video.width
                    assert 0 <= box[1] < box[3] <= video.height
        for event in fact["events"]:
            assert len(event["centres_xy"]) == event["end"] - event["start"]
        assert [q["id"] for q in fact["queries"]] == [f"{video.id}#{k}" for k in range(len(video.queries))]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"width": 95}, "even"),
        ({"repeat": 1.2}, "repeat is a share"),
        ({"actors": (2, 9)}, "at most 6 actors"),
        ({"length_s": (9.0, 2.5)}, "length_s must be a range"),
        ({"events": (3, 40)}, "do not fit"),
        ({"radius_px": (7.0, 30.0)}, "cannot move"),
        ({"poor": 0.2}, "poor frames are those of captioned segments"),
        ({"segments": True, "duration_s": (9.0, 9.0)}, "3 segments of 2.5 s, and pauses of 0.5 s .* do not fit"),
        ({"segments": True, "pause_s": -1.0}, "pauses of -1.0 s"),
        ({"actions": ("left", "dance")}, r"actions are one or more of left, .*, not \['left', 'dance'\]"),
        ({"actions": ()}, "one or more of"),
    ],
)
def test_impossible_worlds_say_why(change, words):
    with pytest.raises(ValueError, match=words):
        WorldConfig(**change)


def test_a_larger_world_scales():
    config = dataclasses.replace(PRESETS["w1"], width=224, height=192, radius_px=(14.0, 24.0), fps=12)
    moves = [
        np.abs(np.subtract(event.to_xy, event.from_xy)).max()
        for index in range(40)
        for event in script_video(config, 0, index).events
        if event.action in DIRECTIONS
    ]
    assert min(moves) >= 28
