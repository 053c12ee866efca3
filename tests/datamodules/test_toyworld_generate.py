"""Folders of videos: formats, determinism over processes, resuming and refusing."""

from __future__ import annotations

import csv
import hashlib
import importlib.metadata
import json
from pathlib import Path

import numpy as np
import pytest

from groundzoo.datamodules.toyworld import generate as module
from groundzoo.datamodules.toyworld.formats import CHARADES_COLUMNS, CONTENT, FORMATS, SPLITS
from groundzoo.datamodules.toyworld.generate import deal, generate, make_config, recipe
from groundzoo.datamodules.toyworld.render import render_frames
from groundzoo.datamodules.toyworld.world import PRESETS, script_video, truth

SMALL = {"duration_s": (8.0, 9.0), "length_s": (1.0, 2.0), "events": (2, 3)}


CAPTIONED = {
    "preset": "captions",
    "overrides": {"duration_s": (8.0, 9.0), "length_s": (1.5, 2.0), "events": (2, 3)},
}
CLIPS = {"preset": "clips", "overrides": {"duration_s": (2.0, 2.0), "length_s": (2.0, 2.0)}}
QUERY_FORMATS = [name for name in FORMATS if CONTENT[name] == "queries"]


def small(out: Path, **options) -> Path:
    return generate(out, **{"videos": 5, "workers": 1, "overrides": SMALL, **options})


def digest(root: Path) -> str:
    """Hash of everything but the encoded videos, whose bits depend on the encoder's version."""
    whole = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.suffix != ".mp4":
            whole.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return whole.hexdigest()


@pytest.mark.parametrize("format", QUERY_FORMATS)
def test_every_format_holds_the_truth(tmp_path, format):
    root = small(tmp_path / "toy", format=format)
    world = json.loads((root / "world.json").read_text())
    read = READERS[format](root)
    assert tuple(read) == SPLITS[format] == tuple(world["splits"])
    for split, videos in read.items():
        assert list(videos) == world["splits"][split]
        assert world["counts"][split] == {"videos": len(videos), "queries": sum(map(len, videos.values()))}
        for name, moments in videos.items():
            fact = json.loads((root / "truth" / f"{name}.json").read_text())
            assert (root / "videos" / f"{name}.mp4").is_file()
            assert [sentence for _, _, sentence in moments] == [q["text"] for q in fact["queries"]]
            for (start, end, _), query in zip(moments, fact["queries"], strict=True):
                assert (start, end) == pytest.approx((query["start_s"], query["end_s"]), abs=0.006)
    kinds = json.loads((root / "subsets.json").read_text())
    ids = sorted(key for name in ("plain", "redundant", "temporal_needed", "span") for key in kinds[name])
    assert ids == sorted(f"{n}#{k}" for part in read.values() for n, m in part.items() for k in range(len(m)))
    for name in kinds["temporal_needed"]:
        video, k = name.split("#")
        assert json.loads((root / "truth" / f"{video}.json").read_text())["queries"][int(k)]["kind"] == "needed"


def read_charades_sta(root: Path) -> dict[str, dict[str, list]]:
    out: dict[str, dict[str, list]] = {}
    durations = json.loads((root / "Charades_duration.json").read_text())
    frames = json.loads((root / "Charades_frames_info.json").read_text())
    for split in ("train", "test"):
        out[split] = {}
        for line in (root / f"charades_sta_{split}.txt").read_text().splitlines():
            head, sentence = line.split("##")
            name, start, end = head.split(" ")
            out[split].setdefault(name, []).append((float(start), float(end), sentence))
            assert float(end) <= durations[name] == pytest.approx(frames[name] / 6, abs=0.006)
        with (root / f"Charades_v1_{split}.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [row["id"] for row in rows] == list(out[split])
        assert all(float(row["length"]) == durations[row["id"]] for row in rows)
    return out


def read_activitynet_captions(root: Path) -> dict[str, dict[str, list]]:
    out = {}
    for split, name in (("train", "train"), ("val", "val_1"), ("test", "val_2")):
        out[split] = {
            video: [(*times, text) for times, text in zip(entry["timestamps"], entry["sentences"], strict=True)]
            for video, entry in json.loads((root / f"{name}.json").read_text()).items()
        }
    return out


def read_tacos(root: Path) -> dict[str, dict[str, list]]:
    out: dict[str, dict[str, list]] = {}
    for split in ("train", "val", "test"):
        out[split] = {}
        for key, entry in json.loads((root / f"{split}.json").read_text()).items():
            assert key.endswith(".avi")
            out[split][key.removesuffix(".avi")] = [
                (start / entry["fps"], end / entry["fps"], text)
                for (start, end), text in zip(entry["timestamps"], entry["sentences"], strict=True)
            ]
            assert max(end for _, end in entry["timestamps"]) <= entry["num_frames"]
    return out


READERS = {
    "charades_sta": read_charades_sta,
    "activitynet_captions": read_activitynet_captions,
    "tacos": read_tacos,
}


def test_files_are_named_and_shaped_like_the_real_ones(tmp_path, shared_data):
    for format, real in (
        ("charades_sta", "charades_sta"),
        ("activitynet_captions", "anet_captions"),
        ("tacos",) * 2,
    ):
        root = small(tmp_path / format, videos=3, format=format)
        theirs = shared_data / real
        ours = {path.name for path in root.iterdir() if path.is_file()} - {"world.json", "subsets.json"}
        assert ours == {path.name for path in theirs.iterdir()} - {"Charades_word2id.json"}
        for name in ours:
            if name.endswith(".csv"):
                assert (theirs / name).read_text().splitlines()[0] == CHARADES_COLUMNS
            if name.endswith(".json"):
                a, b = (next(iter(json.loads((at / name).read_text()).values())) for at in (root, theirs))
                assert type(a) is type(b)
                assert not isinstance(a, dict) or set(a) == set(b)


@pytest.mark.parametrize(
    "options", [{}, {**CAPTIONED, "format": "activitynet_entities"}, {**CLIPS, "format": "msrvtt"}]
)
def test_one_and_two_processes_make_the_same_world(tmp_path, options):
    try:
        importlib.metadata.version("groundzoo")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("needs groundzoo installed, its processes start afresh")
    one, two = small(tmp_path / "one", workers=1, **options), small(tmp_path / "two", workers=2, **options)
    assert digest(one) == digest(two)
    for path in (one / "videos").iterdir():
        assert path.read_bytes() == (two / "videos" / path.name).read_bytes()
    assert digest(one) != digest(small(tmp_path / "other", seed=1, **options))
    assert {path.name for path in (two / "videos").iterdir()} == {f"toy{index:05d}.mp4" for index in range(5)}


def test_the_world_is_pinned():
    """A change of the plot or the look must be deliberate: it raises ``generate.VERSION`` and these values."""
    videos = [script_video(PRESETS["w1"], 0, index) for index in range(20)]
    plot = [(v.num_frames, [(e.actor, e.action, e.start, e.end) for e in v.events], [q.text for q in v.queries])
            for v in videos]  # fmt: skip
    assert (module.VERSION, hashlib.sha256(repr(plot).encode()).hexdigest()[:16]) == (1, "324b78ed9b3f6d90")
    look = [np.mean([frame.mean() for frame in render_frames(video)]) for video in videos[:3]]
    assert look == pytest.approx([42.185, 59.037, 44.826], abs=0.01)


@pytest.mark.parametrize(
    ("name", "facts", "total", "look"),
    [
        ("default", "02c0476cfee009b4", 692812.2, [0.55039, 0.537, 0.52128]),
        ("w1", "40822c46e4f144ce", 713941.3, [0.55744, 0.26504, 0.40211]),
    ],
)
def test_worlds_of_queries_stay_what_they_were_before_there_were_captions(name, facts, total, look):
    """Numbers of the version without segments: words exactly, what comes from sines and cosines closely."""
    videos = [script_video(PRESETS[name], 0, index) for index in range(3)]
    known = [json.loads(json.dumps(truth(video))) for video in videos]
    numbers = 0.0
    for fact in known:
        for actor in fact["actors"]:
            for key, values in actor.items():
                if isinstance(values, list):
                    numbers += sum(map(sum, filter(None, values))) if key == "boxes" else sum(values)
                    actor[key] = len(values)
        for event in fact["events"]:
            event["centres_xy"] = len(event["centres_xy"])
    assert hashlib.sha256(json.dumps(known).encode()).hexdigest()[:16] == facts
    assert numbers == pytest.approx(total, abs=1)
    pattern = np.random.default_rng(0).normal(size=(96, 96, 3))
    seen = [np.mean([(frame * pattern).mean() for frame in render_frames(video)]) for video in videos]
    assert seen == pytest.approx(look, abs=2e-5)


def test_world_files_of_queries_name_the_options_that_they_always_named(tmp_path):
    """A folder made before the later options existed is the same world still, and is completed."""
    before = ("width", "height", "fps", "duration_s", "actors", "radius_px", "shared_colour", "events", "length_s",
              "length_law", "busy", "reuse_actor", "reuse_action", "repeat", "redundant", "drop_size", "occlusion",
              "cuts", "overlap", "then")  # fmt: skip
    assert tuple(recipe(PRESETS["default"])) == tuple(recipe(PRESETS["w1"])) == before
    root = small(tmp_path / "toy", videos=2)
    world = json.loads((root / "world.json").read_text())
    assert tuple(world["config"]) == before
    assert set(world["counts"]["train"]) == {"videos", "queries"}
    assert not {"segments", "poor"} & set((root / "truth" / "toy00000.json").read_text().split('"'))
    with pytest.raises(FileExistsError, match=r"config.actions is None there, \['left', 'up'\] was asked for"):
        small(root, videos=2, overrides={**SMALL, "actions": ["left", "up"]})


def test_an_interrupted_world_is_completed_and_not_rendered_again(tmp_path, monkeypatch):
    root = small(tmp_path / "toy")
    before = digest(root)
    stamps = {path: path.stat().st_mtime_ns for path in (root / "videos").iterdir()}
    (root / "videos" / "toy00001.mp4").unlink()
    (root / "truth" / "toy00003.json").unlink()
    (root / "charades_sta_test.txt").unlink()
    made = []
    real = module.make_video
    monkeypatch.setattr(module, "make_video", lambda *args: (made.append(args[-1]), real(*args)))
    small(root)
    assert made == [1, 3]
    assert digest(root) == before
    kept = {path for path, stamp in stamps.items() if path.stat().st_mtime_ns == stamp}
    assert len(kept) == 3


def test_another_world_is_refused(tmp_path):
    root = small(tmp_path / "toy", videos=2)
    before = digest(root)
    with pytest.raises(FileExistsError, match="seed is 0 there, 4 was asked for"):
        small(root, videos=2, seed=4)
    with pytest.raises(FileExistsError, match=r"config.repeat is 0.5 there, 0.1 was asked for"):
        small(root, videos=2, overrides={**SMALL, "repeat": 0.1})
    assert digest(root) == before


def test_a_folder_with_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("do not touch")
    with pytest.raises(FileExistsError, match="not empty"):
        small(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"format": "coco"}, "unknown format 'coco', known are charades_sta"),
        (
            {"format": "msrvtt"},
            "made of captioned segments, but preset 'default' .* of captions, clips, or a format",
        ),
        (
            {"format": "tacos", "preset": "clips", "overrides": {}},
            "made of queries, but preset 'clips' .* preset of default, w1, or a format of activitynet_ent",
        ),
        (
            {"format": "msrvtt", "preset": "captions", "overrides": {}},
            "captions whole videos, .* has 3 to 5 segments",
        ),
        ({"preset": "w9"}, "unknown preset 'w9', known are default"),
        ({"videos": 1}, "leave none for training"),
        ({"videos": 2, "format": "tacos"}, "leave none for training"),
        ({"test_fraction": 1.0}, "leave none for training"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"overrides": {"colour": 1}}, "unknown world option colour, known are width"),
    ],
)
def test_wrong_arguments_are_explained_before_anything_is_written(tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        small(tmp_path / "toy", **options)
    assert not (tmp_path / "toy").exists()


def test_splits_and_overrides():
    assert deal(10, ("train", "val", "test"), 0.2) == {
        "train": range(6),
        "val": range(6, 8),
        "test": range(8, 10),
    }
    assert deal(1150, ("train", "test"), 250 / 1150)["train"] == range(900)
    config = make_config("w1", {"duration_s": [30, 50], "cuts": 2.0})
    assert (config.duration_s, config.cuts, config.fps) == ((30, 50), 2.0, 6)
