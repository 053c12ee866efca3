"""Narrated worlds: steps, loose and chatty narrations, clicks, actors who enter, and the official files."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from groundzoo.datamodules.toyworld.generate import VERSION, generate
from groundzoo.datamodules.toyworld.language import PHRASES
from groundzoo.datamodules.toyworld.motion import DIRECTIONS
from groundzoo.datamodules.toyworld.narration import FILLERS, step_seconds
from groundzoo.datamodules.toyworld.render import draw_background, render_frames
from groundzoo.datamodules.toyworld.scene import ALPHA, ANGLE, COLOURS, CX, CY, SHAPES, Event, Narration, R
from groundzoo.datamodules.toyworld.truth import SEEN, visibility
from groundzoo.datamodules.toyworld.world import PRESETS, Video, WorldConfig, script_video, truth

NARRATED = ("narrations", "narrations_two", "narrations_enter")
SIZES = {"train": 5, "val": 2, "test": 2}
EXACT = {"chatter": 0.0, "drop_word": 0.0, "off_topic": 0.0, "drift_s": 0.0}
CANVAS = np.array([640, 480])


@cache
def videos(name: str, count: int = 200) -> list[Video]:
    return [script_video(PRESETS[name], 0, index) for index in range(count)]


def scripts(name: str, count: int = 60, **options) -> list[Video]:
    config = dataclasses.replace(PRESETS[name], **options)
    return [script_video(config, 0, index) for index in range(count)]


def told(name: str) -> list[tuple[Video, Narration]]:
    return [(video, narration) for video in videos(name) for narration in video.narrations]


def phrase(video: Video, event: Event) -> str:
    actor = video.actors[event.actor]
    return f"{actor.colour} {actor.shape} {PHRASES[event.action][0]}"


@pytest.mark.parametrize("name", NARRATED)
def test_steps_follow_one_another_with_pauses(name):
    for video in videos(name):
        assert (video.duration_s, video.num_frames, len(video.actors)) == (16, 96, 3)
        assert len({actor.colour for actor in video.actors}) == 3
        assert not video.queries
        assert not video.segments
        for event in video.events:
            assert 3 <= event.end_s - event.start_s + 1e-9 <= 5.5 + 2e-9
        for one, other in pairwise(video.events):
            assert 0.3 <= other.start_s - one.end_s <= 2.0
        phrases = [phrase(video, event) for event in video.events]
        assert len(set(phrases)) == len(phrases)
    counts = Counter(len(video.events) for video in videos(name))
    assert set(counts) == {2, 3, 4}
    assert min(counts.values()) > 50
    starts = [video.events[0].start for video in videos(name)]
    assert min(starts) == 0
    assert max(starts) > 30
    assert max(video.events[-1].end for video in videos(name)) == 96
    assert {event.actor for video in videos(name) for event in video.events} == {0, 1, 2}


@pytest.mark.parametrize("name", NARRATED)
@pytest.mark.parametrize("rate", [1, 3])
def test_every_action_shows_at_one_and_at_three_moments_per_second(name, rate):
    """Why there is no jump and no shake: with moments at equal distances they may look like rest."""
    assert set(PRESETS[name].actions) == set(PHRASES) - {"jump", "shake"}
    for video in videos(name):
        for event in video.events:
            frames = [f for f in range(0, video.num_frames, video.fps // rate) if event.start <= f < event.end]
            seen = video.tracks[frames, event.actor]
            axis, sign = DIRECTIONS.get(event.action, (0, 1))
            shows = {
                "grow": seen[-1, R] > 1.2 * seen[0, R],
                "shrink": seen[-1, R] < 0.85 * seen[0, R],
                "spin": np.abs(np.diff(seen[:, ANGLE])).min() > 0.35,
                "blink": 0 < (seen[:, ALPHA] < SEEN).sum() < len(seen),
            }
            assert shows.get(event.action, sign * (seen[-1, axis] - seen[0, axis]) > 6), (video.id, event)


def test_nobody_hurries_about_while_another_acts():
    dashes = 0
    for video in videos("narrations"):
        for event in video.events:
            if event.dash is not None:
                dashes += 1
                assert not any(e.start < event.dash[1] and event.dash[0] < e.end for e in video.events)
    assert dashes > 5


@pytest.mark.parametrize("name", NARRATED)
def test_every_step_is_told(name):
    size = 2 if name == "narrations_two" else 1
    for video in videos(name):
        assert {k for narration in video.narrations for k in narration.steps} == set(range(len(video.events)))
        starts = [narration.start_s for narration in video.narrations]
        assert starts == sorted(starts)
        for narration in video.narrations:
            assert len(narration.off_topic) == len(narration.steps) == size
            assert narration.steps == tuple(range(narration.steps[0], narration.steps[0] + size))


def test_a_narration_may_tell_one_step_or_two():
    sizes = Counter(
        len(n.steps) for video in scripts("narrations", narrated_steps=(1, 2)) for n in video.narrations
    )
    assert set(sizes) == {1, 2}
    assert min(sizes.values()) > 20


def test_without_looseness_a_narration_is_the_phrase_of_its_steps_at_their_time():
    for size in (1, 2):
        for video in scripts("narrations", narrated_steps=(size, size), **EXACT):
            for narration in video.narrations:
                steps = [video.events[k] for k in narration.steps]
                assert narration.text == " ".join(phrase(video, step) for step in steps)
                times = (narration.start_s, narration.end_s)
                assert times == pytest.approx((steps[0].start_s, steps[-1].end_s), abs=0.006)


@pytest.mark.parametrize("name", NARRATED)
def test_narrations_are_loose_in_time(name):
    shifts, stretches = [], []
    for video, narration in told(name):
        begin, end = video.events[narration.steps[0]].start_s, video.events[narration.steps[-1]].end_s
        assert 0 <= narration.start_s <= narration.end_s - 0.99
        assert narration.end_s <= video.duration_s
        assert {type(narration.start_s), type(narration.end_s)} == {float}
        if narration.start_s > 0 and narration.end_s < video.duration_s:
            shifts.append((narration.start_s + narration.end_s - begin - end) / 2)
            stretches.append(narration.end_s - narration.start_s - (end - begin))
    for values in (shifts, stretches):
        assert -2.01 <= min(values) < -1.5
        assert 1.5 < max(values) <= 2.01
        assert abs(np.mean(values)) < 0.25


def test_words_are_dropped_and_fillers_put_in():
    content = {*COLOURS, *SHAPES, *(word for phrases in PHRASES.values() for word in phrases[0].split())}
    assert len(set(FILLERS)) == len(FILLERS) == 26
    assert not content & set(FILLERS)
    for size in (1, 2):
        kept, full, fillers, gaps = 0, 0, 0, 0
        options = {"narrated_steps": (size, size), "off_topic": 0.0}
        for video in scripts("narrations", 200, **options):
            for narration in video.narrations:
                words = narration.text.split()
                assert 1 <= len(words) <= 12 * size
                real = [word for word in words if word in content]
                assert set(words) <= content | set(FILLERS)
                whole = " ".join(phrase(video, video.events[k]) for k in narration.steps).split()
                rest = iter(whole)
                assert all(word in rest for word in real)  # in their order
                kept, full = kept + len(real), full + len(whole)
                if len(words) < 12 * size:
                    fillers, gaps = fillers + len(words) - len(real), gaps + len(real) + 1
        assert kept / full == pytest.approx(0.8, abs=0.03)
        assert 0.75 < fillers / gaps < 1.05  # one per gap, less what the limit cuts off


def test_a_tenth_is_about_something_else():
    for name in NARRATED:
        flags = [off for _, narration in told(name) for off in narration.off_topic]
        assert np.mean(flags) == pytest.approx(0.1, abs=0.03)
    present = []
    for video in scripts("narrations", 200, **{**EXACT, "off_topic": 0.5}):
        phrases = [phrase(video, event) for event in video.events]
        for narration in video.narrations:
            (k,), (off,) = narration.steps, narration.off_topic
            if not off:
                assert narration.text == phrases[k]
            else:
                present.append(narration.text in phrases)
                colour, shape, *verb = narration.text.split()
                assert colour in COLOURS
                assert shape in SHAPES
                assert " ".join(verb) in {PHRASES[action][0] for action in PRESETS["narrations"].actions}
    assert len(present) > 200
    assert np.mean(present) < 0.08


@pytest.mark.parametrize("name", NARRATED)
def test_clicks_are_on_visible_actors_at_full_seconds_of_their_steps(name):
    distances = []
    for video in videos(name)[:80]:
        seen = [visibility(video, i) for i in range(3)]
        expected = [
            (second, k)
            for second in range(16)
            for k, event in enumerate(video.events)
            if event.start_s <= second < event.end_s and seen[event.actor][second * 6] >= SEEN
        ]
        assert [(clicks.second, clicks.step) for clicks in video.clicks] == expected
        for clicks in video.clicks:
            assert len(clicks.points) == 5
            state = video.tracks[clicks.second * 6, video.events[clicks.step].actor]
            distances += (np.linalg.norm(np.array(clicks.points) - state[[CX, CY]], axis=1) / state[R]).tolist()
    assert np.mean(np.array(distances) < 1) > 0.98
    assert np.mean(distances) == pytest.approx(0.3 * np.sqrt(np.pi / 2), abs=0.02)  # of a Rayleigh distribution


def test_actors_with_steps_are_there_only_around_them_and_the_others_always():
    stayed = 0
    for video in videos("narrations_enter"):
        for i in range(3):
            alpha = video.tracks[:, i, ALPHA]
            steps = [event for event in video.events if event.actor == i]
            stayed += not steps
            if not steps:
                assert (alpha == 1).all()
                continue
            near, acting = np.zeros((2, 96), bool)
            for event in steps:
                near[max(event.start - 3, 0) : event.end + 3] = True
                acting[event.start : event.end] = True
                assert event.action == "blink" or (alpha[event.start : event.end] == 1).all()
                assert event.action != "blink" or alpha[event.start : event.end].max() == 1
                if event.dash is not None:
                    assert (alpha[slice(*event.dash)] == 0).all()  # it takes its place unseen
            fading = alpha[near & ~acting]
            assert ((fading > 0) & (fading < 1)).all()
            assert (alpha[~near] == 0).all()
    assert stayed > 100


def test_who_fades_in_gets_clearer_and_is_not_drawn_before():
    video = videos("narrations_enter")[0]
    start, i = next((e.start, e.actor) for e in video.events if e.start > 6 and e.action != "blink")
    alpha = video.tracks[:, i, ALPHA]
    alone = dataclasses.replace(video, actors=video.actors[i : i + 1], tracks=video.tracks[:, i : i + 1])
    background = draw_background(video.scenes[0], 96, 96).astype(int)
    contrast = np.array([np.abs(frame - background).sum() for frame in render_frames(alone)])
    assert (contrast[alpha == 0] == 0).all()
    assert (contrast[alpha > 0.2] > 0).all()
    assert np.all(np.diff(contrast[start - 4 : start + 1]) > 0)


def test_narrations_do_not_change_the_plot():
    for one, two, other in zip(
        videos("narrations")[:20], videos("narrations_two"), scripts("narrations", 20, chatter=0.0), strict=False
    ):
        assert one.events == two.events == other.events
        assert one.clicks == two.clicks == other.clicks
        assert np.array_equal(one.tracks, two.tracks)
        assert one.narrations != two.narrations


@pytest.mark.parametrize(
    ("name", "pin"), zip(NARRATED, ("3b0615c0f159dd5f", "93189130b567c9f6", "bfabddbdcb4875b7"), strict=True)
)
def test_the_narrated_worlds_are_pinned(name, pin):
    """A change must be deliberate: it raises ``generate.VERSION`` and these values."""
    plot = [
        (
            [(e.actor, e.action, e.start, e.end, e.dash) for e in video.events],
            [(n.text, n.steps, n.off_topic) for n in video.narrations],
            [(c.second, c.step) for c in video.clicks],
        )
        for video in videos(name)[:20]
    ]
    assert (VERSION, hashlib.sha256(repr(plot).encode()).hexdigest()[:16]) == (1, pin)


@pytest.mark.parametrize("name", NARRATED)
def test_the_truth_tells_steps_narrations_and_clicks(name):
    for video in videos(name)[:20]:
        fact = json.loads(json.dumps(truth(video)))
        assert fact["queries"] == []
        assert [event["phrase"] for event in fact["events"]] == [phrase(video, event) for event in video.events]
        assert [n["id"] for n in fact["narrations"]] == [f"{video.id}#{k}" for k in range(len(video.narrations))]
        for told_there, narration in zip(fact["narrations"], video.narrations, strict=True):
            expected = dataclasses.asdict(narration) | {"id": told_there["id"]}
            assert told_there == json.loads(json.dumps(expected))
        for there, clicks in zip(fact["clicks"], video.clicks, strict=True):
            assert (there["second"], there["step"]) == (clicks.second, clicks.step)
            assert np.allclose(there["points"], clicks.points, atol=0.006)
            box = fact["actors"][fact["events"][there["step"]]["actor"]]["boxes"][there["second"] * fact["fps"]]
            assert box is not None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"events": (2, 6)}, r"6 steps of 3.0 s with pauses of 0.3 s do not fit into 16.0 s"),
        ({"overlap": 0.5}, "steps one after another"),
        ({"segments": True}, "steps one after another"),
        ({"narrated": False, "enter": True}, "only the actors of narrated videos enter"),
        ({"chatter": 1.0}, "chatter must be less than 1"),
        ({"drift_s": -1.0}, "drift_s 0 or more"),
        ({"drop_word": 1.5}, "drop_word is a share"),
        ({"narrated_steps": (0, 1)}, "narrated_steps must be a range"),
        ({"gap_s": (2.0, 1.0)}, "gap_s must be a range"),
    ],
)
def test_impossible_options_are_explained(options, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(PRESETS["narrations"], **options)


def test_tight_videos_hold_their_steps():
    """Lengths and pauses shrink to the least ones before anything falls off the end."""
    options = {"duration_s": (13.0, 13.0), "events": (4, 4)}
    config: WorldConfig = dataclasses.replace(PRESETS["narrations"], **options)
    for video in (script_video(config, 0, index) for index in range(30)):
        assert [event.end - event.start for event in video.events] == [18] * 4
        assert [b.start - a.end for a, b in pairwise(video.events)] == [2] * 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return generate(
        tmp_path_factory.mktemp("narrated") / "toy",
        videos=9,
        preset="narrations",
        format="howto100m",
        test_fraction=2 / 9,
        workers=1,
    )


def read(root: Path, name: str):
    return json.loads((root / name).read_text(encoding="utf-8"))


def split_videos(split: str) -> list[Video]:
    first = {"train": 0, "val": 5, "test": 7}[split]
    return videos("narrations")[first : first + SIZES[split]]


HELD_OUT = ("val", "test")


def held_out() -> list[Video]:
    return [video for split in HELD_OUT for video in split_videos(split)]


def test_the_folder_has_the_official_files_and_counts(folder):
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    names = {split: [video.id for video in split_videos(split)] for split in SIZES}
    everything = [name for part in names.values() for name in part]
    assert files == {
        "world.json", "caption.json", "box_anno.json", "ground_seg.json", "vid2step.json", "id2wh.json",
        "videos_val.txt", "videos_test.txt", "weakYouTube_dict.txt",
        *(f"videos/{name}.mp4" for name in everything), *(f"truth/{name}.json" for name in everything),
        *(f"csv/{name}.csv" for name in names["train"]),
        *(f"annotations/{name}.srt" for name in names["val"] + names["test"]),
    }  # fmt: skip
    world = read(folder, "world.json")
    assert world["splits"] == names
    for split, counts in world["counts"].items():
        part = split_videos(split)
        assert counts == {
            "videos": len(part),
            "events": sum(len(video.events) for video in part),
            "narrations": sum(len(video.narrations) for video in part),
        }
    for split in HELD_OUT:
        assert (folder / f"videos_{split}.txt").read_text().split() == names[split]


def test_training_videos_have_narrations_only(folder):
    captions = read(folder, "caption.json")
    assert list(captions) == [video.id for video in split_videos("train")]
    for video in split_videos("train"):
        caption = captions[video.id]
        assert set(caption) == {"start", "end", "text"}
        rows = list(zip(caption["start"], caption["end"], caption["text"], strict=True))
        assert rows == [(n.start_s, n.end_s, n.text) for n in video.narrations]
        with (folder / "csv" / f"{video.id}.csv").open(newline="") as file:
            table = list(csv.DictReader(file))
        assert [(float(row["start"]), float(row["end"]), row["text"]) for row in table] == rows


def test_boxes_surround_the_clicks_by_the_rule_of_the_paper(folder):
    boxes, sizes = read(folder, "box_anno.json"), read(folder, "id2wh.json")
    assert list(boxes) == list(sizes) == [video.id for video in held_out()]
    clipped = 0
    for video in held_out():
        assert sizes[video.id] == [96, 96]
        assert [entry["second"] for entry in boxes[video.id]] == [clicks.second for clicks in video.clicks]
        for entry, clicks in zip(boxes[video.id], video.clicks, strict=True):
            event = video.events[clicks.step]
            assert entry["step_name"] == phrase(video, event)
            x1, y1, x2, y2 = entry["box"]
            assert all(type(value) is int for value in entry["box"])
            points = np.array(clicks.points) / 96 * CANVAS
            free = np.concatenate([points.min(0), points.max(0)]) + np.array([-96, -72, 96, 72])
            assert entry["box"] == pytest.approx(np.clip(free, 0, [640, 480, 640, 480]), abs=0.51)
            clipped += not np.allclose(entry["box"], free, atol=0.51)
            # the actor is in the middle of it, in the picture that is shown at that second
            x, y = video.tracks[clicks.second * 6, event.actor, :2] / 96 * CANVAS
            assert x1 + 48 < x < x2 - 48 or x1 == 0 or x2 == 640
            assert x1 < x < x2
            assert y1 < y < y2
    assert clipped


def test_boxes_are_where_the_actors_colour_is_in_the_picture(folder):
    checked = 0
    for video in held_out():
        frames = list(render_frames(video))
        for entry in read(folder, "box_anno.json")[video.id]:
            colour = np.array(COLOURS[entry["step_name"].split()[0]])
            match = np.abs(frames[entry["second"] * 6].astype(int) - colour).max(-1) < 8
            if match.sum() > 20:
                rows, columns = np.nonzero(match)
                x1, y1, x2, y2 = entry["box"]
                inside = (columns * 640 / 96 >= x1) & (columns * 640 / 96 <= x2)
                inside &= (rows * 5 >= y1) & (rows * 5 <= y2)
                assert inside.mean() > 0.9
                checked += 1
    assert checked > 20


def test_segments_pools_and_subtitles_agree(folder):
    segments, pools = read(folder, "ground_seg.json"), read(folder, "vid2step.json")
    labels = (folder / "weakYouTube_dict.txt").read_text().splitlines()
    assert labels[-1] == "background"
    assert labels[:-1] == sorted(set(labels[:-1]))
    assert list(segments) == list(pools) == [video.id for video in held_out()]
    for video in held_out():
        phrases = [phrase(video, event) for event in video.events]
        assert pools[video.id] == [*dict.fromkeys(phrases), "background"]
        for k, (segment, event) in enumerate(zip(segments[video.id], video.events, strict=True)):
            assert (segment["id"], segment["sentence"]) == (k, phrases[k])
            first, last = segment["segment"]
            assert first - 1 < event.start_s <= first <= last < event.end_s <= last + 1
            assert list(step_seconds(event, 6)) == list(range(first, last + 1))
        text = (folder / "annotations" / f"{video.id}.srt").read_bytes().decode("utf-8")
        assert text[0] == "\ufeff"
        blocks = [block.splitlines() for block in text[1:].split("\n\n")]
        assert [block[0] for block in blocks] == [str(k + 1) for k in range(len(blocks))]
        for (_, times, label), event, words in zip(blocks, video.events, phrases, strict=True):
            assert label in labels
            assert label == words.replace(" ", "_")
            for moment, exact in zip(times.split(" --> "), (event.start_s, event.end_s), strict=True):
                assert moment[8] == ","
                hours, minutes, seconds = moment.replace(",", ".").split(":")
                assert int(hours) * 3600 + int(minutes) * 60 + float(seconds) == pytest.approx(exact, abs=6e-4)
    known = {step["step_name"] for entries in read(folder, "box_anno.json").values() for step in entries}
    assert {name.replace(" ", "_") for name in known} <= set(labels)


def test_a_pair_that_happens_twice_is_once_in_the_pool(tmp_path):
    root = generate(tmp_path / "toy", videos=3, preset="narrations", format="howto100m", test_fraction=0.3,
                    workers=1, overrides={"repeat": 1.0, "events": (4, 4)})  # fmt: skip
    segments, pools = read(root, "ground_seg.json"), read(root, "vid2step.json")
    for name, steps in pools.items():
        assert len(steps) == len(set(steps))
        assert set(steps) - {"background"} == {segment["sentence"] for segment in segments[name]}
    assert any(len(steps) == 4 for steps in pools.values())


def test_files_are_shaped_like_the_real_ones(folder, shared_data):
    for name in ("box_anno.json", "ground_seg.json", "vid2step.json", "id2wh.json"):
        ours, theirs = (next(iter(read(at, name).values())) for at in (folder, shared_data / "grounding_youtube"))
        assert type(ours) is type(theirs)
        if isinstance(ours[0], dict):
            assert {k: type(v) for k, v in ours[0].items()} == {k: type(v) for k, v in theirs[0].items()}
        else:
            assert type(ours[0]) is type(theirs[0])
        assert (name != "vid2step.json") or ours[-1] == theirs[-1] == "background"
    for name in ("videos_val.txt", "videos_test.txt", "weakYouTube_dict.txt"):
        assert (shared_data / "mining_youtube" / name).is_file()


def test_another_kind_of_world_is_refused(tmp_path):
    words = (
        "made of narrated steps, but preset 'w1' .* take a preset of narrations, narrations_two, narrations_enter"
    )
    with pytest.raises(ValueError, match=words):
        generate(tmp_path / "toy", preset="w1", format="howto100m", videos=9)
    with pytest.raises(ValueError, match=r"is a world of narrated steps: .* or a format of howto100m$"):
        generate(tmp_path / "toy", preset="narrations", format="charades_sta", videos=9)
