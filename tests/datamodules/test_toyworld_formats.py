"""Captioned worlds as files of ActivityNet-Entities, ActivityNet Captions and MSR-VTT."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from groundzoo.datamodules.toyworld.generate import generate
from groundzoo.datamodules.toyworld.render import draw_background, render_frames
from groundzoo.datamodules.toyworld.scene import ALPHA
from groundzoo.datamodules.toyworld.world import PRESETS, Video, script_video

ENTITIES = "anet_entities_cleaned_class_thresh50_{}.json"
SPLITS = {"train": range(5), "val": range(5, 7), "test": range(7, 9)}
OTHERS = {"videos", "truth", "world.json"}


def made(out: Path, preset: str, format: str) -> Path:
    return generate(out, videos=9, preset=preset, format=format, test_fraction=0.2, workers=1)


@pytest.fixture(scope="module")
def entities(tmp_path_factory) -> Path:
    return made(tmp_path_factory.mktemp("entities") / "toy", "captions", "activitynet_entities")


@pytest.fixture(scope="module")
def msrvtt(tmp_path_factory) -> Path:
    return made(tmp_path_factory.mktemp("msrvtt") / "toy", "clips", "msrvtt")


def read(root: Path, name: str):
    return json.loads((root / name).read_text())


def scripted(preset: str, split: str) -> dict[str, Video]:
    found = (script_video(PRESETS[preset], 0, index) for index in SPLITS[split])
    return {video.id: video for video in found}


def drawn(video: Video, i: int, frame: int) -> np.ndarray:
    """(H, W) whether the actor changed the background of a frame, where it is alone and clearly seen."""
    from dataclasses import replace

    alone = replace(
        video, actors=video.actors[i : i + 1], tracks=video.tracks[:, i : i + 1], spells=(), segments=()
    )
    background = draw_background(video.scenes[0], video.width, video.height).astype(int)
    picture = next(f for k, f in enumerate(render_frames(alone)) if k == frame)
    mask: np.ndarray = np.abs(picture - background).max(-1) > 12
    return mask


def test_entities_hold_one_box_for_the_two_words_of_an_actor(entities):
    files = {path.name for path in entities.iterdir()} - OTHERS
    assert files == {ENTITIES.format("trainval"), ENTITIES.format("test_skeleton"), "split_ids_anet_entities.json",
                     "train.json", "val_1.json", "val_2.json"}  # fmt: skip
    count = 0
    for name, splits in (("trainval", ("train", "val")), ("test_skeleton", ("test",))):
        content = read(entities, ENTITIES.format(name))
        videos = {key: video for split in splits for key, video in scripted("captions", split).items()}
        assert list(content["annotations"]) == list(videos)
        assert content["vocab"] == [
            "red",
            "green",
            "blue",
            "yellow",
            "purple",
            "white",
            "circle",
            "square",
            "triangle",
        ]
        for key, entry in content["annotations"].items():
            video = videos[key]
            fact = read(entities, f"truth/{key}.json")
            assert entry["duration"] == pytest.approx(video.duration_s, abs=0.006)
            assert list(entry["segments"]) == [str(k) for k in range(len(video.segments))]
            for k, segment in entry["segments"].items():
                true = fact["segments"][int(k)]
                assert segment["timestamps"] == [true["start_s"], true["end_s"]]
                assert segment["tokens"] == true["tokens"]
                boxes = segment["process_bnd_box"]
                assert len(boxes) == len(true["mentions"])
                assert segment["crowds"] == [0] * len(boxes)
                for words, indices, mention in zip(
                    segment["process_clss"], segment["process_idx"], true["mentions"], strict=True
                ):
                    assert [segment["tokens"][index] for index in indices] == words
                    assert indices == mention["words"]
                    assert set(words) <= set(content["vocab"])
                for box, sample, mention in zip(boxes, segment["frame_ind"], true["mentions"], strict=True):
                    assert all(isinstance(value, int) and 0 <= value <= 720 for value in box)
                    # the frame that is shown at the middle of that tenth of the segment
                    start_s, end_s = segment["timestamps"]
                    frame = int((start_s + (sample + 0.5) * (end_s - start_s) / 10) * video.fps + 1e-6)
                    exact = fact["actors"][mention["actor"]]["boxes"][frame]
                    assert box == pytest.approx([value * 7.5 for value in exact], abs=1)
                    if video.tracks[frame, mention["actor"], ALPHA] == 1:
                        rows, columns = np.nonzero(drawn(video, mention["actor"], frame))
                        x0, y0, x1, y1 = (value / 7.5 for value in box)
                        assert x0 - 1 <= columns.min() <= x0 + 4
                        assert x1 - 4 <= columns.max() + 1 <= x1 + 1
                        assert y0 - 1 <= rows.min() <= y0 + 4
                        assert y1 - 4 <= rows.max() + 1 <= y1 + 1
                        count += 1
    assert count > 20


def test_captions_beside_the_entities_are_two_references_of_the_held_out_videos(entities):
    ids = {split: list(scripted("captions", split)) for split in SPLITS}
    assert read(entities, "split_ids_anet_entities.json") == {
        "training": ids["train"], "validation": ids["val"], "testing": ids["test"], "hidden_test": []
    }  # fmt: skip
    train, one, two = (read(entities, f"{name}.json") for name in ("train", "val_1", "val_2"))
    assert (list(train), list(one), list(two)) == (ids["train"], *(ids["val"] + ids["test"],) * 2)
    boxed = {**read(entities, ENTITIES.format("trainval"))["annotations"],
             **read(entities, ENTITIES.format("test_skeleton"))["annotations"]}  # fmt: skip
    for key, entry in {**train, **one}.items():
        segments = boxed[key]["segments"].values()
        assert entry["duration"] == boxed[key]["duration"]
        assert entry["timestamps"] == [segment["timestamps"] for segment in segments]
        assert entry["sentences"] == [" ".join(segment["tokens"]) + "." for segment in segments]
    turned = 0
    for key, entry in two.items():
        assert entry["timestamps"] == one[key]["timestamps"]
        for first, second in zip(one[key]["sentences"], entry["sentences"], strict=True):
            halves = [sentence.lower().rstrip(".").split(" while ") for sentence in (first, second)]
            assert halves[0] == halves[1][::-1]
            turned += len(halves[0]) == 2
    assert turned


def test_entities_are_shaped_like_the_real_ones(entities, shared_data):
    real = shared_data / "anet_entities"
    ours, theirs = (read(at, ENTITIES.format("test_skeleton")) for at in (entities, real))
    assert set(ours) == set(theirs)
    mine, other = (next(iter(content["annotations"].values())) for content in (ours, theirs))
    assert set(mine) == set(other)
    mine, other = (entry["segments"]["0"] for entry in (mine, other))
    assert {key: type(value) for key, value in mine.items()} == {key: type(value) for key, value in other.items()}
    for key in ("process_clss", "process_idx", "tokens", "timestamps"):
        assert type(mine[key][0]) is type(other[key][0])
    splits = [read(at, "split_ids_anet_entities.json") for at in (entities, real)]
    assert set(splits[0]) == set(splits[1])


def test_clips_have_four_captions(msrvtt):
    assert {path.name for path in msrvtt.iterdir()} - OTHERS == {
        "train_val_videodatainfo.json",
        "test_videodatainfo.json",
    }
    train_val, test = (read(msrvtt, f"{name}_videodatainfo.json") for name in ("train_val", "test"))
    names = {"train": "train", "val": "validate", "test": "test"}
    ids = {names[split]: list(scripted("clips", split)) for split in SPLITS}
    videos = train_val["videos"] + test["videos"]
    assert {split: [v["video_id"] for v in videos if v["split"] == split] for split in ids} == ids
    assert {video["split"] for video in test["videos"]} == {"test"}
    assert [video["id"] for video in videos] == list(range(9))
    sentences = train_val["sentences"] + test["sentences"]
    assert [sentence["sen_id"] for sentence in sentences] == list(range(36))
    wordings = set()
    for part in (train_val, test):
        assert {s["video_id"] for s in part["sentences"]} == {v["video_id"] for v in part["videos"]}
    for video in videos:
        assert (msrvtt / "videos" / f"{video['video_id']}.mp4").is_file()
        fact = read(msrvtt, f"truth/{video['video_id']}.json")
        assert (video["start time"], video["end time"]) == (0.0, fact["duration_s"])
        captions = [s["caption"] for s in sentences if s["video_id"] == video["video_id"]]
        (segment,) = fact["segments"]
        assert captions == [sentence.lower().rstrip(".") for sentence in segment["sentences"]]
        assert len(captions) == 4
        assert len(set(captions)) == 2 * len(segment["mentions"])
        wordings.add(len(segment["mentions"]))
    assert wordings == {1, 2}


def test_clips_are_shaped_like_the_real_ones(msrvtt, shared_data):
    for name in ("train_val_videodatainfo.json", "test_videodatainfo.json"):
        with gzip.open(shared_data / "msrvtt" / f"{name}.gz", "rt") as file:
            theirs = json.load(file)
        ours = read(msrvtt, name)
        assert set(ours) == set(theirs)
        assert set(ours["info"]) == set(theirs["info"])
        for key in ("videos", "sentences"):
            mine, other = ours[key][0], theirs[key][0]
            assert {k: type(v) for k, v in mine.items()} == {k: type(v) for k, v in other.items()}


def test_a_world_of_segments_counts_them_and_has_no_subsets(entities):
    world = read(entities, "world.json")
    assert world["config"]["segments"] is True
    for split in SPLITS:
        videos = scripted("captions", split)
        counts = {"videos": len(videos), "segments": sum(len(video.segments) for video in videos.values())}
        assert (world["splits"][split], world["counts"][split]) == (list(videos), counts)
    assert not (entities / "subsets.json").exists()
