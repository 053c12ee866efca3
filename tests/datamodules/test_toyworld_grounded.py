"""Grounded worlds: captions true of what is to be seen, boxes where it is, and the files of iGround and VidSTG."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from grounded_files import ready

from groundzoo.datamodules.grounded_records import parse_record, read_records
from groundzoo.datamodules.iground import IGround
from groundzoo.datamodules.toyworld.generate import VERSION, generate
from groundzoo.datamodules.toyworld.iground import write_iground
from groundzoo.datamodules.toyworld.language import SHORT
from groundzoo.datamodules.toyworld.motion import DIRECTIONS
from groundzoo.datamodules.toyworld.render import draw_background, render_frames
from groundzoo.datamodules.toyworld.scene import ALPHA, ANGLE, COLOURS, CX, CY, R
from groundzoo.datamodules.toyworld.truth import SEEN, seen_boxes, visibility
from groundzoo.datamodules.toyworld.world import PRESETS, Video, script_video, truth
from groundzoo.datamodules.video import FrameReader
from groundzoo.datamodules.vidstg import VidSTG
from groundzoo.tasks import verbs
from groundzoo.zoo.video.spec import FrameSpec

GROUNDED = ("grounded", "grounded_hidden")
SPLITS = {"train": range(6), "val": range(6, 9), "test": range(9, 12)}
VISIBLE = {"grounded": 0.81, "grounded_hidden": 0.6}
CLAUSE = re.compile(rf"a (?P<colour>{'|'.join(COLOURS)}) (?P<shape>circle|cross) (?P<verb>[a-z ]+)")


@cache
def videos(name: str = "grounded", count: int = 400) -> list[Video]:
    return [script_video(PRESETS[name], 0, index) for index in range(count)]


def boxes_of(video: Video, actor: int) -> list[list[float] | None]:
    return seen_boxes(video, actor, visibility(video, actor))


# ---- the script -------------------------------------------------------------------------------------------


def test_clips_are_short_and_about_one_or_two_of_the_actors():
    found = videos()
    assert {len(range(0, video.num_frames, 2)) for video in found} == {8, 9, 10, 11, 12}
    assert all((video.width, video.height, video.fps) == (64, 64, 10) for video in found)
    assert np.mean([len(video.events) == 2 for video in found]) == pytest.approx(0.65, abs=0.07)
    assert {len(video.events) for video in found} == {1, 2}
    bystanders = [len(video.actors) - len(video.events) for video in found]
    assert set(bystanders) == {0, 1}
    assert np.mean(bystanders) == pytest.approx(0.5, abs=0.07)
    for video in found:
        assert len({actor.colour for actor in video.actors}) == len(video.actors)
        assert all(7 <= actor.radius <= 10.5 for actor in video.actors)
        assert len({event.actor for event in video.events}) == len(video.events)
        assert all((event.start, event.end, event.dash) == (0, video.num_frames, None) for event in video.events)
        assert [video.queries, video.segments, video.narrations, video.descriptions] == [()] * 4
    actions = Counter(event.action for video in found for event in video.events)
    assert set(actions) == {"left", "right", "up", "down", "grow", "rest"}
    assert min(actions.values()) > 0.11 * actions.total()
    assert max(actions.values()) < 0.25 * actions.total()
    assert {actor.shape for video in found for actor in video.actors} == {"circle", "cross"}


@pytest.mark.parametrize("name", GROUNDED)
def test_the_share_of_boxes_that_there_are_is_as_documented(name):
    shares = [(visibility(video, event.actor) >= SEEN)[::2] for video in videos(name) for event in video.events]
    assert np.concatenate(shares).mean() == pytest.approx(VISIBLE[name], abs=0.025)
    assert min(share.sum() for share in shares) >= 2, "every phrase has boxes"
    away = np.mean([not share.all() for share in shares])
    assert away == pytest.approx({"grounded": 0.5, "grounded_hidden": 0.8}[name], abs=0.06)


def test_the_share_can_be_chosen():
    never = dataclasses.replace(PRESETS["grounded"], hidden=0.0)
    always = dataclasses.replace(PRESETS["grounded"], hidden=1.0, hidden_share=(0.5, 0.5))
    for config, share in ((never, 1.0), (always, 0.5)):
        found = [script_video(config, 1, index) for index in range(40)]
        seen = [visibility(video, event.actor) >= SEEN for video in found for event in video.events]
        assert np.concatenate(seen).mean() == pytest.approx(share, abs=0.02)


def test_actors_are_away_in_three_ways():
    ways = Counter()
    for video in videos():
        for event in video.events:
            alpha = video.tracks[:, event.actor, ALPHA]
            if alpha.min() == 0:
                assert np.abs(np.diff(alpha)).sum() == 1, "it comes once or goes once"
                ways["late" if alpha[0] == 0 else "gone"] += 1
        ways["patch"] += len(video.patches)
        for patch in video.patches:
            assert 0 <= patch.start < patch.end <= video.num_frames
    assert min(ways.values()) > 0.25 * ways.total()


def test_who_is_away_and_how_long_does_not_change_the_plot():
    for ours, theirs in zip(*map(videos, GROUNDED), strict=True):
        assert (ours.events, ours.caption, ours.actors) == (theirs.events, theirs.caption, theirs.actors)
        assert np.array_equal(ours.tracks[..., :ALPHA], theirs.tracks[..., :ALPHA])


@pytest.mark.parametrize("name", GROUNDED)
def test_nobody_hides_another(name):
    for video in videos(name)[:150]:
        bare = dataclasses.replace(video, patches=())
        for i in range(len(video.actors)):
            there = video.tracks[:, i, ALPHA] == 1
            # who grows may cover a third more of a neighbour
            assert visibility(bare, i)[there].min() > 0.35


def test_a_caption_is_true_of_what_happens():
    told = set()
    for video in videos():
        assert video.caption is not None
        clauses = video.caption.text.split(" while ")
        assert len(clauses) == len(video.events) == len(video.caption.spans)
        names = []
        for event, clause, phrase in zip(video.events, clauses, video.caption.phrases, strict=True):
            said = CLAUSE.fullmatch(clause)
            assert said, clause
            actor, track = video.actors[event.actor], video.tracks[:, event.actor]
            assert (said["colour"], said["shape"]) == (actor.colour, actor.shape)
            assert phrase == f"a {actor.colour} {actor.shape}"
            assert clause == f"{phrase} {said['verb']}"
            way = track[-3:, :2].mean(0) - track[:3, :2].mean(0)
            grown = track[-1, R] / track[0, R]
            assert np.ptp(track[:, ANGLE]) == 0
            # what the words mean, told apart by the motion alone
            if grown > 1.3:
                verb = "grows"
            elif np.abs(way).max() < 3:
                verb = "rests"
            else:
                across = abs(way[0]) > abs(way[1])
                verb = ("moves right" if way[0] > 0 else "moves left") if across else ""
                verb = verb or ("moves down" if way[1] > 0 else "moves up")
                assert np.abs(way).max() > 9
                assert grown == 1
            assert verb == said["verb"]
            told.add(verb)
            names.append(actor.colour)
        assert names == sorted(names)
    assert len(told) == 6


def test_moves_show_in_the_frames_in_which_the_actor_is_to_be_seen():
    for video in videos("grounded_hidden"):
        for event in video.events:
            if event.action in DIRECTIONS:
                axis, sign = DIRECTIONS[event.action]
                seen = np.flatnonzero(visibility(video, event.actor)[::2] >= SEEN) * 2
                centres = video.tracks[seen, event.actor, axis]
                assert sign * (centres[-1] - centres[0]) > 0


def test_bystanders_rest_and_are_not_told_of():
    for video in videos():
        acting = {event.actor for event in video.events}
        for i, actor in enumerate(video.actors):
            if i not in acting:
                assert actor.colour not in video.caption.text
                track = video.tracks[:, i]
                assert np.ptp(track[:, [CX, CY]], axis=0).max() <= 4  # idle jitter
                assert np.ptp(track[:, [R, ANGLE, ALPHA]], axis=0).max() == 0


@pytest.mark.parametrize("actions", [("left",), ("jump",), ("rest",), ("left", "right")])
def test_there_is_room_for_any_choice_of_actions(actions):
    config = dataclasses.replace(PRESETS["grounded"], actions=actions, overlap=1.0, bystander=1.0)
    for index in range(40):
        video = script_video(config, 2, index)
        assert len(video.events) == 2
        assert {event.action for event in video.events} <= set(actions)
        assert all(SHORT[event.action] in video.caption.text for event in video.events)


def test_a_clip_depends_on_config_seed_and_index_only():
    for index in (3, 0, 3):
        assert truth(script_video(PRESETS["grounded"], 0, index)) == truth(videos()[index])
    assert truth(script_video(PRESETS["grounded"], 1, 3)) != truth(videos()[3])


@pytest.mark.parametrize(("name", "pin"), zip(GROUNDED, ("b8b73459c02b2836", "2d7f1b4c38c3a7e9"), strict=True))
def test_the_grounded_worlds_are_pinned(name, pin):
    """A change must be deliberate: it raises ``generate.VERSION`` and these values."""
    plot = [
        (
            [(e.actor, e.action, e.end) for e in video.events],
            video.caption.text,
            video.tracks[..., ALPHA].sum(0).tolist(),
            [(patch.start, patch.end) for patch in video.patches],
        )
        for video in videos(name)[:20]
    ]
    assert (VERSION, hashlib.sha256(repr(plot).encode()).hexdigest()[:16]) == (1, pin)


# ---- the pictures -----------------------------------------------------------------------------------------


def test_boxes_enclose_the_drawn_actor_tightly():
    shapes = Counter()
    for video in videos()[:30]:
        background = draw_background(video.scenes[0], 64, 64).astype(int)
        for i, actor in enumerate(video.actors):
            alone = dataclasses.replace(
                video, actors=(actor,), tracks=video.tracks[:, i : i + 1], patches=(), events=(), caption=None
            )
            for frame, box in zip(render_frames(alone), boxes_of(alone, 0), strict=True):
                ys, xs = np.nonzero(np.abs(frame - background).max(-1) > 12)
                if box is None:
                    assert not len(xs)
                    continue
                found = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
                assert (np.abs(found - box) <= 1.6).all()
                assert (found[:2] >= np.array(box[:2]) - 1).all()
                assert (found[2:] <= np.array(box[2:]) + 1).all()
                shapes[actor.shape] += 1
    assert min(shapes["circle"], shapes["cross"]) > 100


@pytest.mark.parametrize("name", GROUNDED)
def test_the_colour_of_an_actor_is_in_its_box_and_nowhere_without_one(name):
    missing = 0
    for video in videos(name)[:60]:
        frames = np.stack(list(render_frames(video))).astype(int)
        for event in video.events:
            actor = video.actors[event.actor]
            mine = (np.abs(frames - COLOURS[actor.colour]) < 12).all(-1)
            for t, box in enumerate(boxes_of(video, event.actor)):
                area = video.tracks[t, event.actor, R] ** 2
                if box is None:
                    missing += 1
                    assert mine[t].sum() < 0.6 * area  # a fifth of the actor
                    continue
                ys, xs = np.nonzero(mine[t])
                assert len(xs) > 0.3 * area
                inside = (xs >= box[0] - 1) & (xs < box[2] + 1) & (ys >= box[1] - 1) & (ys < box[3] + 1)
                assert inside.all()
    assert missing > 100


# ---- the files --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("grounded") / "toy"
    return generate(out, videos=12, preset="grounded", format="iground", test_fraction=0.25, workers=1)


def read(root: Path, name: str):
    return json.loads((root / name).read_text(encoding="utf-8"))


def records(root: Path, split: str) -> list[dict]:
    return [json.loads(line) for line in (root / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_folder_has_the_official_files_and_counts(folder):
    files = {f"{split}.jsonl" for split in SPLITS} | {f"vidstg_{split}.json" for split in SPLITS}
    assert {path.name for path in folder.iterdir()} - {"index"} == {"videos", "truth", "world.json"} | files
    world = read(folder, "world.json")
    for split, indices in SPLITS.items():
        expected = [videos()[index] for index in indices]
        assert world["splits"][split] == [video.id for video in expected]
        events = sum(len(video.events) for video in expected)
        assert world["counts"][split] == {"videos": len(expected), "events": events}
    assert world["config"]["grounded"] is True
    assert world["config"]["shapes"] == ["circle", "cross"]


@pytest.mark.parametrize("split", SPLITS)
def test_records_tell_the_truth(folder, split):
    found = records(folder, split)
    assert [record["video_id"] for record in found] == [videos()[index].id for index in SPLITS[split]]
    for record in found:
        assert list(record) == [
            "video_id", "clip_id", "video_fname", "fps", "clip_start_frame", "clip_end_frame", "width", "height",
            "caption", "tagged_caption", "phrases", "bboxes", "labels",
        ]  # fmt: skip
        fact = read(folder, f"truth/{record['video_id']}.json")
        assert record["caption"] == fact["caption"]["text"]
        assert re.sub("</?p>", "", record["tagged_caption"]) == record["caption"]
        assert re.findall("<p>(.*?)</p>", record["tagged_caption"]) == record["phrases"]
        assert (folder / "videos" / record["video_fname"]).is_file()
        frames = range(record["clip_start_frame"], record["clip_end_frame"] + 1, int(record["fps"] / 5))
        assert 8 <= len(record["bboxes"]) == len(record["labels"]) == len(frames) <= 12
        for frame, boxes, labels in zip(frames, record["bboxes"], record["labels"], strict=True):
            expected = {
                phrase["text"]: box
                for phrase in fact["caption"]["phrases"]
                if (box := fact["actors"][phrase["actor"]]["boxes"][frame])
            }
            assert dict(zip(labels, boxes, strict=True)) == expected
            assert len(labels) == len(expected)


def test_the_truth_tells_the_caption(folder):
    for index in range(12):
        fact = read(folder, f"truth/{videos()[index].id}.json")
        for phrase in fact["caption"]["phrases"]:
            assert fact["caption"]["text"][phrase["start"] : phrase["end"]] == phrase["text"]
            actor = fact["actors"][phrase["actor"]]
            assert phrase["text"] == f"a {actor['colour']} {actor['shape']}"
            assert fact["events"][phrase["event"]]["actor"] == phrase["actor"]
    assert "caption" not in truth(script_video(PRESETS["default"], 0, 0))


def test_records_are_read_as_grounded_clips(folder):
    for split, indices in SPLITS.items():
        clips = [parse_record(record, where) for where, record in read_records(folder / f"{split}.jsonl")]
        for clip, video in zip(clips, (videos()[index] for index in indices), strict=True):
            assert (clip.clip_id, clip.video, clip.fps) == (f"{video.id}_0", video.id, 10)
            assert clip.caption == video.caption
            assert (clip.frames, clip.size) == (range(0, video.num_frames, 2), (64, 64))
            for frame, found in zip(clip.frames, clip.boxes, strict=True):
                expected = [(k, boxes_of(video, e.actor)[frame]) for k, e in enumerate(video.events)]
                assert found == [(k, box) for k, box in expected if box]


def test_encoded_frames_show_each_phrase_in_its_box(folder):
    """Numbers of frames, pixels and boxes fit the video file itself."""
    checked = 0
    for record in records(folder, "train"):
        path = folder / "videos" / record["video_fname"]
        with FrameReader(path) as reader:
            assert reader.info.fps == pytest.approx(record["fps"])
            assert (reader.info.width, reader.info.height) == (record["width"], record["height"])
            assert reader.info.num_frames == record["clip_end_frame"] + 1
            pictures = reader.at(range(0, record["clip_end_frame"] + 1, 2)).permute(0, 2, 3, 1).numpy()
        for picture, boxes, labels in zip(pictures, record["bboxes"], record["labels"], strict=True):
            for box, label in zip(boxes, labels, strict=True):
                x0, y0, x1, y1 = (round(value) for value in box)
                colour = np.array(COLOURS[label.split()[1]])
                mine = (np.abs(picture.astype(int) - colour) < 60).all(-1)
                assert mine[y0:y1, x0:x1].sum() > 25, label
                checked += 1
    assert checked > 50


@pytest.mark.parametrize("split", SPLITS)
def test_tubes_are_of_actors_who_are_seen_throughout(folder, split):
    content = read(folder, f"vidstg_{split}.json")
    assert set(content["trajectories"]) == {videos()[index].id for index in SPLITS[split]}
    for entry in content["videos"]:
        video = videos()[int(entry["original_video_id"][3:])]
        assert entry["video_path"] == f"{video.id}.mp4"
        assert (entry["fps"], entry["width"], entry["height"]) == (10, 64, 64)
        event = next(event for event in video.events if event.actor == entry["target_id"])
        actor = video.actors[event.actor]
        verb = SHORT[event.action]
        who = "what" if entry["qtype"] == "interrogative" else f"a {actor.colour} {actor.shape}"
        assert entry["caption"] == f"{who} {verb}" + "?" * (entry["qtype"] == "interrogative")
        if entry["qtype"] == "interrogative":  # nobody else does so
            resting = len(video.actors) - len(video.events) if event.action == "rest" else 0
            assert [other.action for other in video.events].count(event.action) + resting == 1
        boxes = boxes_of(video, event.actor)
        tube = range(entry["tube_start_frame"], entry["tube_end_frame"])
        assert len(tube) >= 5
        runs = "".join("x" if box else " " for box in boxes).split()
        assert len(tube) == max(map(len, runs))
        own = content["trajectories"][video.id][str(event.actor)]
        assert {int(frame) for frame in own} == {frame for frame, box in enumerate(boxes) if box}
        for frame in tube:
            x, y, width, height = own[str(frame)]["bbox"]
            assert [x, y, x + width, y + height] == pytest.approx(boxes[frame], abs=0.051)


def test_sentences_of_tubes_are_all_there_and_numbered(folder):
    every = [entry for split in SPLITS for entry in read(folder, f"vidstg_{split}.json")["videos"]]
    assert [entry["video_id"] for entry in every] == list(range(len(every)))
    kinds = Counter(entry["qtype"] for entry in every)
    events = sum(len(videos()[index].events) for index in range(12))
    assert events - 2 <= kinds["declarative"] <= events
    assert 0 < kinds["interrogative"] < kinds["declarative"]


def loaded(data, stage: str):
    """Batches of one clip each, and their clips' videos."""
    data = ready(data, FrameSpec(fps=5.0, window=1, stride=1, size=(64, 64)), stage=stage)
    loader = {"fit": data.train_dataloader, "test": data.test_dataloader}[stage]()
    for batch in loader:
        assert len(batch) == 1
        yield batch, videos()[int(batch.video_ids[0][3:])]


@pytest.mark.parametrize("stage", ["fit", "test"])
def test_the_data_module_of_iground_shows_each_phrase_in_its_box(folder, stage):
    seen = Counter()
    for batch, video in loaded(IGround(folder, num_workers=0), stage):
        assert batch.captions == [video.caption]
        assert batch.clip_ids == [f"{video.id}_0"]
        frames = batch.frames[0][0].permute(0, 2, 3, 1).numpy().astype(int)
        numbers = (batch.times_s[0] * video.fps).round().int().tolist()
        expected = sorted(set(range(0, video.num_frames, 2)))
        assert (numbers == expected) if stage == "test" else (len(numbers) == 8 and set(numbers) <= set(expected))
        for k, event in enumerate(video.events):
            boxes = boxes_of(video, event.actor)
            colour = COLOURS[video.actors[event.actor].colour]
            for t, number in enumerate(numbers):
                assert bool(batch.visible[k, t]) == (boxes[number] is not None)
                seen[bool(batch.visible[k, t])] += 1
                if boxes[number] is not None:
                    x, y, width, height = (batch.boxes[k, t] * 64).tolist()
                    corners = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
                    assert corners == pytest.approx(boxes[number], abs=1e-3)
                    x0, y0, x1, y1 = map(round, corners)
                    assert (np.abs(frames[t] - colour) < 60).all(-1)[y0:y1, x0:x1].sum() > 25
    assert min(seen[True], seen[False]) >= 3


def test_the_data_module_of_vidstg_reads_the_tubes(folder):
    files = {split: f"vidstg_{split}.json" for split in SPLITS}
    kinds = Counter()
    for batch, video in loaded(VidSTG(folder, num_workers=0, **files), "test"):
        assert batch.given
        assert batch.visible.all(), "the actor is to be seen in the whole tube"
        kinds.update(kind for kind, member in batch.subsets.items() if member.any())
        (caption,) = batch.captions
        assert caption.phrases == [caption.text]
        verb = re.sub(r"^(what|a \w+ \w+) |\?$", "", caption.text)
        events = [event for event in video.events if SHORT[event.action] == verb]
        numbers = (batch.times_s[0] * video.fps).round().int().tolist()
        assert (np.diff(numbers) == 2).all()
        found = (batch.boxes[0, 0, :2] * 64).numpy()
        centres = [video.tracks[numbers[0], event.actor, :2] for event in events]
        assert min(np.abs(found - centre).max() for centre in centres) < 2
    assert min(kinds["declarative"], kinds["interrogative"]) > 0


def test_there_is_no_sentence_about_a_moment(tmp_path):
    config = dataclasses.replace(PRESETS["grounded"], hidden=1.0, hidden_share=(0.7, 0.9))
    found = [script_video(config, 0, index) for index in range(40)]
    write_iground(tmp_path, {"train": found})
    entries = read(tmp_path, "vidstg_train.json")["videos"]
    lengths = [entry["tube_end_frame"] - entry["tube_start_frame"] for entry in entries]
    assert min(lengths) == 5  # half a second
    told = Counter(entry["qtype"] for entry in entries)["declarative"]
    assert 5 < told < sum(len(video.events) for video in found) - 5


def test_every_frame_has_boxes_where_the_video_is_slow(tmp_path):
    root = generate(
        tmp_path / "toy", videos=3, preset="grounded", format="iground", overrides={"fps": 6}, workers=1
    )
    for record in records(root, "train"):
        assert len(record["bboxes"]) == record["clip_end_frame"] + 1


# ---- mistakes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "options", "words"),
    [
        ("grounded", {"segments": True}, "set segments, narrated and"),
        ("grounded", {"described": True}, "a grounded video has one caption"),
        ("grounded", {"narrated": True}, "a grounded video has one caption"),
        ("grounded", {"hidden_share": (0.5, 1.0)}, "hidden_share must be less than 1"),
        ("grounded", {"hidden": 1.5}, "hidden is a share"),
        ("default", {"bystander": 0.5}, "are for grounded videos"),
        ("default", {"hidden": 0.5}, "are for grounded videos"),
        ("default", {"actions": ("rest",)}, "actions are one or more of left.*shake, not"),
        ("default", {"shapes": ("cross",), "shared_colour": 0.0}, "shapes are one or more of circle.*gle, not"),
        ("default", {"shapes": ("circle",)}, "two actors of one colour need two shapes"),
        ("grounded", {"shapes": ()}, "shapes are one or more of .*cross, not"),
    ],
)  # fmt: skip
def test_impossible_options_are_explained(preset, options, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(PRESETS[preset], **options)


@pytest.mark.parametrize(
    ("preset", "format", "overrides", "words"),
    [
        ("grounded", "msrvtt", {}, "preset 'grounded' is a world of grounded captions.* format of iground$"),
        ("clips", "iground", {}, "made of grounded captions.*take a preset of grounded, grounded_hidden"),
        ("grounded", "iground", {"fps": 4}, "fps must be 5 or more"),
    ],
)
def test_other_formats_are_refused(tmp_path, preset, format, overrides, words):
    with pytest.raises(ValueError, match=words):
        generate(tmp_path / "toy", videos=4, preset=preset, format=format, overrides=overrides, workers=1)
    assert not (tmp_path / "toy").exists()


def test_the_command_line_names_presets_and_formats():
    assert set(re.findall(r"\w+", verbs.PRESETS)) - {"or"} == set(PRESETS)
    assert "iground" in verbs.FORMATS
