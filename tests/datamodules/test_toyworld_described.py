"""Described worlds: clear events with rests between them, sentences that say who, and the files of ActivityNet."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import os
import re
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from golden_files import ROOT

from groundzoo.datamodules.toyworld.generate import VERSION, generate
from groundzoo.datamodules.toyworld.language import PHRASES
from groundzoo.datamodules.toyworld.motion import DIRECTIONS
from groundzoo.datamodules.toyworld.render import render_frames
from groundzoo.datamodules.toyworld.scene import ACTIONS, ALPHA, ANGLE, COLOURS, CX, CY, SHAPES, Event, R
from groundzoo.datamodules.toyworld.truth import SEEN
from groundzoo.datamodules.toyworld.world import PRESETS, Video, script_video, truth

DESCRIBED = ("described", "described_one")
SPLITS = {"train": range(5), "valid": range(5, 7), "test": range(7, 9)}
CAPTIONS = {"train": "train", "valid": "val_1", "test": "val_2"}
SEGMENTS = "activitynet_v1-3_{}_tsp_groundtruth.csv"
LABELS = "activitynet_v1-3_{}_label_mapping.json"
SENTENCE = re.compile(
    rf"(?P<article>The|A) ((?P<size>small|big) )?(?P<colour>{'|'.join(COLOURS)}) (?P<shape>{'|'.join(SHAPES)}) "
    rf"(?P<verb>{'|'.join(phrase for phrases in PHRASES.values() for phrase in phrases)})"
    rf"( (?P<tail>alone|beside one (?:{'|'.join(COLOURS)}) (?:{'|'.join(SHAPES)})|beside two other shapes))?\."
)


@cache
def videos(name: str, count: int = 300) -> list[Video]:
    return [script_video(PRESETS[name], 0, index) for index in range(count)]


def told(name: str) -> list[tuple[Video, Event, re.Match[str]]]:
    """Each event with the parts of its sentence."""
    parts = []
    for video in videos(name):
        for event, sentence in zip(video.events, video.descriptions, strict=True):
            match = SENTENCE.fullmatch(sentence)
            assert match, sentence
            parts.append((video, event, match))
    return parts


# ---- the script -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DESCRIBED)
def test_events_follow_one_another_with_rests(name):
    lengths = []
    for video in videos(name):
        assert 18 <= video.duration_s <= 26
        assert not video.queries
        assert not video.segments
        assert not video.narrations
        edges = [0.0, *(time for event in video.events for time in (event.start_s, event.end_s)), video.duration_s]
        rests = [end - start for start, end in zip(edges[::2], edges[1::2], strict=True)]
        assert min(rests) >= 2 - 1 / video.fps
        lengths += [event.end_s - event.start_s for event in video.events]
        assert len({(event.actor, event.action) for event in video.events}) == len(video.events)
        assert len({actor.colour for actor in video.actors}) == len(video.actors)
    assert min(lengths) >= 2.5
    assert 4.2 < max(lengths) <= 4.5
    assert 3.1 < np.mean(lengths) < 3.6
    assert set(Counter(len(video.events) for video in videos(name))) == {3, 4}
    counts = Counter(len(video.actors) for video in videos(name))
    assert set(counts) == ({1} if name == "described_one" else {1, 2, 3})
    assert min(counts.values()) > 60


@pytest.mark.parametrize("name", DESCRIBED)
def test_all_ten_actions_are_classes_of_similar_size(name):
    counts = Counter(event.action for video in videos(name) for event in video.events)
    assert set(counts) == set(ACTIONS)
    assert min(counts.values()) / counts.total() > 0.05
    assert max(counts.values()) / counts.total() < 0.16


@pytest.mark.parametrize("name", DESCRIBED)
def test_a_clip_of_eight_frames_at_four_per_second_shows_the_action(name):
    """Wherever in the event it begins."""
    stride = 2
    assert PRESETS[name].fps == 4 * stride
    for video in videos(name):
        for event in video.events:
            for first in range(event.start, event.end - 7 * stride):
                seen = video.tracks[first : first + 8 * stride : stride, event.actor]
                axis, sign = DIRECTIONS.get(event.action, (0, 1))
                shows = {
                    "grow": seen[-1, R] > 1.12 * seen[0, R],
                    "shrink": seen[-1, R] < 0.9 * seen[0, R],
                    "spin": (np.abs(np.diff(seen[:, ANGLE])) > 0.5).all(),
                    "blink": 0 < (seen[:, ALPHA] < SEEN).sum() < len(seen),
                    "jump": np.ptp(seen[:, CY]) > 6,
                    "shake": np.ptp(seen[:, CX]) > 5,
                }
                assert shows.get(event.action, sign * (seen[-1, axis] - seen[0, axis]) > 6), (video.id, event)


@pytest.mark.parametrize("name", DESCRIBED)
def test_in_rests_nobody_moves(name):
    for video in videos(name):
        busy = np.zeros(video.num_frames, bool)
        for event in video.events:
            busy[event.start : event.end + 5] = True  # half a second to return to the old size
            way = np.subtract(event.to_xy, event.from_xy)
            if event.action in DIRECTIONS:
                axis, sign = DIRECTIONS[event.action]
                assert sign * way[axis] >= 24
        rest = ~(busy[1:] | busy[:-1])
        change = np.abs(np.diff(video.tracks, axis=0))[rest]
        assert change[..., [CX, CY]].max() <= 4  # idle jitter
        assert change[..., [R, ANGLE, ALPHA]].max() == 0


@pytest.mark.parametrize("name", DESCRIBED)
def test_a_sentence_is_true_of_its_event(name):
    for video, event, said in told(name):
        actor = video.actors[event.actor]
        others = [other for other in video.actors if other is not actor]
        assert (said["colour"], said["shape"]) == (actor.colour, actor.shape)
        assert said["size"] in (None, actor.size)
        assert said["verb"] in PHRASES[event.action]
        company = "beside two other shapes" if others else "alone"
        if len(others) == 1:
            company = f"beside one {others[0].colour} {others[0].shape}"
        assert said["tail"] in (None, company)


def test_the_style_is_random():
    parts = told("described")
    assert np.mean([bool(said["size"]) for *_, said in parts]) == pytest.approx(0.6, abs=0.04)
    assert np.mean([bool(said["tail"]) for *_, said in parts]) == pytest.approx(0.5, abs=0.04)
    assert np.mean([said["article"] == "The" for *_, said in parts]) == pytest.approx(0.5, abs=0.04)
    second = [said["verb"] == PHRASES[event.action][1] for _, event, said in parts]
    assert np.mean(second) == pytest.approx(0.5, abs=0.04)
    for count, words in ((1, "alone"), (2, "beside one"), (3, "beside two other shapes")):
        tails = [said["tail"] or "" for video, _, said in parts if len(video.actors) == count]
        assert np.mean([tail.startswith(words) for tail in tails]) == pytest.approx(0.5, abs=0.08)
    words = {word for *_, said in parts for word in said[0].lower().rstrip(".").split()}
    assert len(words) == 41


def test_more_actors_are_counted_too():
    config = dataclasses.replace(PRESETS["described"], actors=(6, 6))
    sentences = [sentence for index in range(10) for sentence in script_video(config, 0, index).descriptions]
    assert any(sentence.endswith(" beside five other shapes.") for sentence in sentences)


def test_descriptions_do_not_change_the_plot():
    """The words come from a stream of their own: who else draws one does not matter."""
    for video in videos("described")[:5]:
        hidden = script_video(
            dataclasses.replace(PRESETS["described"], cuts=3.0, occlusion=1.0), 0, int(video.id[3:])
        )
        assert (hidden.events, hidden.descriptions) == (video.events, video.descriptions)
        assert hidden.patches


@pytest.mark.parametrize(("name", "pin"), zip(DESCRIBED, ("2d8ee27ec3f4f208", "750023aa1be7770c"), strict=True))
def test_the_described_worlds_are_pinned(name, pin):
    """A change must be deliberate: it raises ``generate.VERSION`` and these values."""
    plot = [
        ([(e.actor, e.action, e.start, e.end) for e in video.events], video.descriptions)
        for video in videos(name)[:20]
    ]
    assert (VERSION, hashlib.sha256(repr(plot).encode()).hexdigest()[:16]) == (1, pin)


@pytest.mark.parametrize("name", DESCRIBED)
def test_the_truth_tells_the_descriptions(name):
    for video in videos(name)[:20]:
        fact = json.loads(json.dumps(truth(video)))
        assert fact["queries"] == []
        assert [entry["id"] for entry in fact["described"]] == [
            f"{video.id}#{k}" for k in range(len(video.events))
        ]
        assert [entry["sentence"] for entry in fact["described"]] == list(video.descriptions)
        for k, entry in enumerate(fact["described"]):
            assert entry["event"] == k
            event = fact["events"][k]
            assert (entry["start_s"], entry["end_s"]) == (event["start_s"], event["end_s"])
            actor = fact["actors"][event["actor"]]
            assert f"{actor['colour']} {actor['shape']}" in entry["sentence"]
    assert "described" not in truth(script_video(PRESETS["default"], 0, 0))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"duration_s": (12.0, 18.0)}, r"3 events of 2.5 s, and pauses of 2.0 s .* do not fit into 12.0 s"),
        ({"pause_s": -1.0}, "pauses of -1.0 s"),
        ({"overlap": 0.5}, "a described video has events one after another"),
        ({"segments": True}, "a described video has events one after another"),
        ({"narrated": True}, "a described video has events one after another"),
    ],
)
def test_impossible_options_are_explained(options, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(PRESETS["described"], **options)


# ---- the files --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("described") / "toy"
    return generate(out, videos=9, preset="described", format="activitynet", test_fraction=2 / 9, workers=1)


def read(root: Path, name: str):
    return json.loads((root / name).read_text(encoding="utf-8"))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def scripted(split: str) -> list[Video]:
    return [videos("described")[index] for index in SPLITS[split]]


def test_the_folder_has_the_official_files_and_counts(folder):
    files = {path.name for path in folder.iterdir()}
    assert files == {
        "videos", "truth", "world.json", "train.json", "val_1.json", "val_2.json",
        *(SEGMENTS.format(split) for split in SPLITS), *map(LABELS.format, ("action", "temporal_region")),
    }  # fmt: skip
    world = read(folder, "world.json")
    for split, name in zip(SPLITS, ("train", "val", "test"), strict=True):
        expected = scripted(split)
        assert world["splits"][name] == [video.id for video in expected]
        events = sum(len(video.events) for video in expected)
        assert world["counts"][name] == {"videos": len(expected), "events": events}


@pytest.mark.parametrize("split", SPLITS)
def test_segments_are_the_events_and_all_the_rest(folder, split):
    table = rows(folder / SEGMENTS.format(split))
    assert list(dict.fromkeys(row["video-name"] for row in table)) == [video.id for video in scripted(split)]
    for video in scripted(split):
        own = [row for row in table if row["video-name"] == video.id]
        assert (float(own[0]["t-start"]), float(own[-1]["t-end"])) == (0.0, video.duration_s)
        assert all(one["t-end"] == other["t-start"] for one, other in pairwise(own))
        assert all(float(row["t-start"]) < float(row["t-end"]) for row in own)
        events = [row for row in own if row["temporal-region-label"] == "Action"]
        assert [(float(row["t-start"]), float(row["t-end"]), row["action-label"]) for row in events] == [
            (event.start_s, event.end_s, event.action) for event in video.events
        ]
        assert {row["temporal-region-label"] for row in own} == {"Action", "No action"}
        for row in own:
            assert (row["action-label"] == "") == (row["temporal-region-label"] == "No action")
            assert (float(row["video-duration"]), float(row["fps"])) == (video.duration_s, video.fps)
            assert row["video-frames"] == str(video.num_frames)
            assert (folder / "videos" / row["filename"]).is_file()
            assert Path(row["filename"]).stem == video.id


@pytest.mark.parametrize("split", SPLITS)
def test_captions_are_the_sentences_of_the_events(folder, split):
    captions = read(folder, f"{CAPTIONS[split]}.json")
    assert list(captions) == [video.id for video in scripted(split)]
    for video in scripted(split):
        entry = captions[video.id]
        assert set(entry) == {"duration", "timestamps", "sentences"}
        assert entry["duration"] == pytest.approx(video.duration_s, abs=0.0051)
        assert entry["sentences"] == list(video.descriptions)
        times = [(event.start_s, event.end_s) for event in video.events]
        assert np.array(entry["timestamps"]) == pytest.approx(np.array(times), abs=0.0051)


def test_an_event_that_fills_the_video_leaves_no_rest(tmp_path):
    options = {"duration_s": [4.0, 4.0], "events": [1, 1], "length_s": [4.0, 4.0], "pause_s": 0.0}
    root = generate(
        tmp_path / "toy", videos=3, preset="described", format="activitynet", overrides=options, workers=1
    )
    table = rows(root / SEGMENTS.format("train"))
    assert [(row["t-start"], row["t-end"], row["temporal-region-label"]) for row in table] == [
        ("0.0", "4.0", "Action")
    ]


def test_labels_are_those_of_the_segments(folder):
    assert read(folder, LABELS.format("temporal_region")) == ["Action", "No action"]
    labels = read(folder, LABELS.format("action"))
    assert labels == sorted(ACTIONS)


def test_the_files_look_like_the_real_ones(folder):
    """Same columns, same forms of their values, same kind of label files."""
    real = Path(os.environ.get("GROUNDZOO_SHARED", ROOT.parent / "shared")) / "data" / "anet13"
    if not real.is_dir():
        pytest.skip(f"no {real} (set GROUNDZOO_SHARED)")
    kinds = {"t-start": r"\d+\.\d+|1e-06", "t-end": r"\d+\.\d+", "video-duration": r"\d+\.\d+", "fps": r"\d+\.0",
             "video-frames": r"\d+", "filename": r"\S+\.mp4", "temporal-region-label": "Action|No action",
             "video-name": r"\S+"}  # fmt: skip
    for split in ("train", "valid"):
        ours, theirs = (rows(root / SEGMENTS.format(split)) for root in (folder, real))
        assert list(ours[0]) == list(theirs[0])
        for table in (ours, theirs):
            for row in table:
                assert (row["action-label"] == "") == (row["temporal-region-label"] == "No action")
                for column, kind in kinds.items():
                    assert re.fullmatch(kind, row[column]), (column, row)
    for name in ("action", "temporal_region"):
        theirs, ours = read(real, LABELS.format(name)), read(folder, LABELS.format(name))
        assert ours == (sorted(ours) if theirs == sorted(theirs) else theirs)
    assert read(real, LABELS.format("temporal_region")) == read(folder, LABELS.format("temporal_region"))


def test_the_pictures_show_the_colours_that_are_told(folder):
    checked = 0
    for video in scripted("valid"):
        frames = list(render_frames(video))
        for event, sentence in zip(video.events, video.descriptions, strict=True):
            picture = frames[event.start - 1].astype(int)
            for words in re.findall(rf"({'|'.join(COLOURS)}) (?:{'|'.join(SHAPES)})", sentence):
                assert (np.abs(picture - COLOURS[words]).max(-1) < 12).sum() > 30, sentence
                checked += 1
    assert checked > 5


@pytest.mark.parametrize(
    ("preset", "format", "words"),
    [
        (
            "described",
            "activitynet_captions",
            "made of queries, but preset 'described' .* or a format of activitynet$",
        ),
        ("default", "activitynet", "made of described events, .* take a preset of described, described_one"),
    ],
)
def test_other_formats_are_refused(tmp_path, preset, format, words):
    with pytest.raises(ValueError, match=words):
        generate(tmp_path / "toy", videos=4, preset=preset, format=format, workers=1)
    assert not (tmp_path / "toy").exists()


def test_the_command_line_names_the_presets():
    from groundzoo.tasks import verbs

    assert set(re.findall(r"\w+", verbs.PRESETS)) - {"or"} == set(PRESETS)
