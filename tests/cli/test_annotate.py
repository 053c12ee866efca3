"""`groundzoo annotate propagate`: the command, its mistakes, several processes, and kill -9 in the middle."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import videos
import yaml

import groundzoo
from groundzoo.datamodules.labels import LabelStore
from groundzoo.datamodules.toyworld.generate import generate

TESTS = Path(__file__).parents[1]
OVERLAYS = sorted((Path(groundzoo.__file__).parent / "configs" / "annotate").glob("propagate_*.yaml"))
CPU = ["--trainer.accelerator", "cpu", "--trainer.devices", "1", "--num_workers", "0"]
CODES = ["-c", "task.yaml", "--tracker", "tiny_labels.CodeTracker", "--linker", "RuleLinker"]
TASK = """
seed_everything: 1
model: {class_path: CVG, init_args: {frames: 10, hidden_dim: 3}}
data: {class_path: ActivityNetEntities, init_args: {root: data, batch_size: 3}}
trainer: {max_epochs: 3, devices: 1, accelerator: cpu, gradient_clip_val: 0.1}
references: [{name: a, source: b, values: {c: 1}}]
"""
COUNT = 8  # videos


def annotation() -> dict:
    """Two segments per video, with a box that is twice as wide as high in pixels, and one without."""
    boxed = {
        "tokens": ["A", "man", "rides", "", "his", "horse", "."],
        "timestamps": [0.2, 2.2],
        "process_bnd_box": [[180, 90, 360, 180], [0, 0, 720, 300]],
        "frame_ind": [4, 9],
        "process_idx": [[1], [5, 4]],
        "process_clss": [["man"], ["horse", "man"]],
        "crowds": [0, 0],
    }
    empty: dict[str, list] = {key: [] for key in ("process_bnd_box", "frame_ind", "process_idx", "process_clss")}
    plain = {"tokens": ["It", "ends"], "timestamps": [2.0, 3.0], "crowds": [], **empty}
    names = [f"v_{k}" for k in range(COUNT)]
    segments = {"0": boxed, "1": plain}
    return {"vocab": ["man", "horse"], "annotations": {n: {"duration": 3, "segments": segments} for n in names}}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Eight short videos with ActivityNet-Entities' files, six for training, and a task's configuration."""
    root = tmp_path / "data"
    (root / "videos").mkdir(parents=True)
    for k in range(COUNT):
        videos.coded_video(root / "videos" / f"v_{k}.mp4", 75 + k, size=(48, 96), options={"preset": "ultrafast"})
    (root / "anet_entities_cleaned_class_thresh50_trainval.json").write_text(json.dumps(annotation()))
    ids = {
        "training": [f"v_{k}" for k in range(6)],
        "validation": ["v_6", "v_7"],
        "testing": [],
        "hidden_test": [],
    }
    (root / "split_ids_anet_entities.json").write_text(json.dumps(ids))
    (tmp_path / "task.yaml").write_text(TASK)
    return root


def contents(store: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (Path(store) / "labels").iterdir()}


def start(*words: str) -> subprocess.Popen[str]:
    """The command in a process of its own, as the leader of a group that its workers belong to."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS)}
    return subprocess.Popen(
        [sys.executable, "-m", "groundzoo", "annotate", "propagate", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True,
    )  # fmt: skip


# ---- the command ----------------------------------------------------------------------------------------


def test_a_data_set_gets_labels(cli: Callable, data: Path) -> None:
    done = cli("annotate", "propagate", *CODES, "--out", "labels", "--draw", "1", *CPU)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0] == "labels: 8 of 8 videos, 16 of 16 segments, 8 of them without any box"
    assert lines[1] == "boxes given: 16 (16 annotated in the data set); verbs linked: 8"
    assert lines[2].endswith(": 160 at 0, 16 at 0.25, 16 at 0.5, 16 at 0.75, 16 at 1")
    assert len(lines) == 3
    labels = LabelStore("labels").read("v_7")
    assert (labels.width, labels.height, list(labels.segments)) == (96, 48, ["v_7#0", "v_7#1"])
    (caption,) = labels.segments["v_7#0"]
    assert caption.tokens == ("A", "man", "rides", "his", "horse", "."), "an empty token counts as nothing"
    assert [track.words for track in caption.tracks] == [(1,), (4, 3)]
    assert caption.links == {2: (1, 3, 4)}
    np.testing.assert_allclose(caption.tracks[0].boxes[4], [0.25, 0.25, 0.5, 0.5])
    np.testing.assert_allclose(caption.tracks[1].boxes[9], [0, 0, 1, 300 / 360], atol=1e-4)
    middles = 0.2 + (np.arange(10) + 0.5) * 0.2  # seconds, of 25 frames each
    expected = np.floor((middles + 1e-3) * 25) / 1000
    expected[4] = 1
    np.testing.assert_allclose(caption.tracks[0].scores, expected, atol=1e-6)
    (picture,) = Path("labels/pictures").iterdir()
    assert picture.name == "v_0-0.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    manifest = LabelStore("labels").manifest
    assert manifest["tracker"]["class_path"] == "tiny_labels.CodeTracker"
    assert manifest["tracker"]["init_args"] == {"pause_s": 0.0, "shift": 0.0}
    assert (manifest["frames"], manifest["data_set"]) == (10, "ActivityNetEntities")
    assert manifest["annotations"].keys() == {"train", "val"}

    before = {p: p.stat().st_mtime_ns for p in Path("labels").rglob("*.json")}
    again = cli("annotate", "propagate", *CODES, "--out", "labels", *CPU)
    assert (again.code, again.out) == (0, done.out)
    assert {p: p.stat().st_mtime_ns for p in Path("labels").rglob("*.json")} == before
    assert cli("annotate", "propagate", "--check", "labels").out == "labels: 8 videos, nothing wrong\n"
    assert cli("annotate", "propagate", "-c", "task.yaml", "--check", "labels").code == 0


def test_splits_one_after_the_other(cli: Callable, data: Path) -> None:
    words = ["annotate", "propagate", *CODES, *CPU, "--out", "labels", "--splits"]
    assert cli(*words, "[val]").out.startswith("labels: 2 of 2 videos, 4 of 4 segments")
    assert LabelStore("labels").ids == {"v_6", "v_7"}
    checked = cli("annotate", "propagate", "-c", "task.yaml", "--check", "labels")
    assert checked.code == 1
    assert checked.out.splitlines() == [f"v_{k}: 2 segment(s) not there" for k in range(6)]
    assert "6 problem(s) in labels" in checked.err
    assert cli(*words, "[train, val]").out.startswith("labels: 8 of 8 videos")
    assert LabelStore("labels").manifest["annotations"].keys() == {"train", "val"}


def test_bad_videos_are_reported_and_tried_again(cli: Callable, data: Path) -> None:
    good = (data / "videos" / "v_0.mp4").read_bytes()
    (data / "videos" / "v_1.mp4").unlink()
    (data / "videos" / "v_2.mp4").write_bytes(good[: len(good) // 3])
    words = ["annotate", "propagate", *CODES, *CPU, "--out", "labels"]
    done = cli(*words)
    assert done.code == 0, done.err
    assert done.out.startswith("labels: 6 of 8 videos, 12 of 16 segments")
    told = re.search(r"^2 in quarantine:\n  v_1: there is no video file .*\n  v_2: .*v_2\.mp4: .*", done.out, re.M)
    assert told, done.out
    checked = cli("annotate", "propagate", "--check", "labels")
    assert checked.code == 1
    assert [line[:19] for line in checked.out.splitlines()] == ["v_1: in quarantine.", "v_2: in quarantine."]
    for name in ("v_1", "v_2"):
        (data / "videos" / f"{name}.mp4").write_bytes(good)
    assert "6 of 8 videos" in cli(*words).out
    done = cli(*words, "--retry", "true")
    assert "8 of 8 videos" in done.out
    assert "quarantine" not in done.out
    assert not Path("labels/quarantine").exists()
    Path("labels/labels/v_3.json").write_text("{")
    checked = cli("annotate", "propagate", "-c", "task.yaml", "--check", "labels")
    assert len(checked.out.splitlines()) == 1
    assert "v_3.json: broken" in checked.out
    assert "8 of 8 videos" in cli(*words).out


def test_nothing_could_be_done(cli: Callable, data: Path) -> None:
    for path in (data / "videos").iterdir():
        path.unlink()
    done = cli("annotate", "propagate", *CODES, *CPU, "--out", "labels")
    assert done.code == 1
    assert "not one of 8 videos could be labelled" in done.err
    assert "0 of 8 videos" in done.out
    assert "Traceback" not in done.err


def test_the_annotated_frames_alone(cli: Callable, data: Path) -> None:
    """Also: the folder that the task's configuration reads labels from is the one that is made."""
    done = cli("annotate", "propagate", "-c", "task.yaml", *CPU, "--data.labels", "data/labels")
    assert done.out.startswith("data/labels: 8 of 8 videos")
    assert done.out.splitlines()[2].endswith("16 at 0, 16 at 0.25, 16 at 0.5, 16 at 0.75, 16 at 1")


# ---- configuration --------------------------------------------------------------------------------------


def printed(cli: Callable, *words: str) -> dict:
    done = cli("annotate", "propagate", *words, "--print_config")
    assert done.code == 0, done.err
    loaded = yaml.safe_load(re.sub(r"\x1b\[[0-9;]*m", "", done.out))
    assert isinstance(loaded, dict)
    return loaded


def test_of_a_tasks_configuration_what_matters(cli: Callable, data: Path) -> None:
    found = printed(cli, "-c", "task.yaml", "-c", "annotate/propagate_template.yaml", "--data.root", "elsewhere")
    assert found["frames"] == 10
    assert found["data"]["init_args"]["root"] == "elsewhere"
    assert found["trainer"]["devices"] == 1
    assert found["tracker"]["class_path"].endswith(".TemplateTracker")
    Path("more.yaml").write_text("model: {init_args: {frames: 32}}\ntracker: null")
    found = printed(cli, "-c", "task.yaml", "-c", "annotate/propagate_template.yaml", "-c", "more.yaml")
    assert (found["frames"], found["tracker"]) == (32, None)
    assert printed(cli, "-c", "task.yaml", "--frames", "16")["frames"] == 16


@pytest.mark.parametrize("path", OVERLAYS, ids=lambda p: p.stem)
def test_every_overlay_round_trips(path: Path, cli: Callable, data: Path) -> None:
    first = printed(cli, "-c", "task.yaml", "-c", f"annotate/{path.name}")
    assert first["tracker"]["class_path"].startswith("groundzoo.zoo.tracking.")
    Path("printed.yaml").write_text(yaml.safe_dump(first))
    assert printed(cli, "-c", "printed.yaml") == first


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys, atexit; from groundzoo.cli import main\n"
        "atexit.register(lambda: print('HEAVY', sorted({'torch', 'lightning', 'numpy'} & sys.modules.keys())))\n"
        "main(['annotate', '--help'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "HEAVY []" in done.stdout
    assert re.search(r"^\s+propagate\s+\w", done.stdout, re.M)


# ---- mistakes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["--out", "s"], 1, "give --config with a data set of captions"),
        (["-c", "task.yaml"], 1, "give --out"),
        (["-c", "task.yml", "--out", "s"], 2, "task.yml"),
        (["-c", "list.yaml", "--out", "s"], 1, "list.yaml: no configuration of groundzoo"),
        (["-c", "broken.yaml", "--out", "s"], 1, "broken.yaml: while parsing"),
        (["-c", "task.yaml", "-c", "unknown.yaml", "--out", "s"], 2, "trakcer"),
        (["-c", "tasks/drn_charades.yaml", "--out", "s"], 1, "CharadesSTA is no data set of captions"),
        (["-c", "task.yaml", "--tracker", "TemplatTracker", "--out", "s"], 2, "TemplatTracker"),
        (["-c", "task.yaml", "--frames", "12", "--out", "s"], 1, "drawn in 10 frames per segment"),
        (["-c", "task.yaml", "--splits", "[trian]", "--out", "s"], 2, "trian"),
        (["-c", "task.yaml", "--data.root", "nowhere", "--out", "s"], 1, "does not exist"),
        (["-c", "task.yaml", "--data.videos", "nowhere", "--out", "s"], 1, "videos nowhere: no such folder"),
        (["--check", "nowhere"], 1, "1 problem(s) in nowhere"),
    ],
)  # fmt: skip
def test_mistakes_get_one_clear_line(
    words: list[str], code: int, expected: str, cli: Callable, data: Path
) -> None:
    Path("list.yaml").write_text("- 1\n")
    Path("broken.yaml").write_text("model: [1\n")
    Path("unknown.yaml").write_text("trakcer: null\n")
    done = cli("annotate", "propagate", *words, *CPU)
    assert done.code == code, done.err
    assert expected in done.err
    assert "Traceback" not in done.err
    assert "Namespace" not in done.err
    assert not Path("s/labels").exists()


def test_labels_that_were_made_otherwise_are_refused(cli: Callable, data: Path) -> None:
    words = ["annotate", "propagate", *CODES, *CPU, "--out", "labels"]
    assert cli(*words).code == 0
    before = contents("labels")
    for more, reason in (
        (["--track_fps", "null"], "track_fps is 5.0, not None"),
        (["--trainer.precision", "bf16-mixed"], "precision is 32-true, not bf16-mixed"),
        (["--tracker.shift", "2"], "tracker.init_args.shift is 0.0, not 2.0"),
        (["--tracker", "TemplateTracker"], "tracker is CodeTracker, not TemplateTracker"),
    ):
        done = cli(*words, *more)
        assert done.code == 1
        assert f"labels labels were made otherwise: {reason}. Choose another folder" in done.err
    text = (data / "anet_entities_cleaned_class_thresh50_trainval.json").read_text().replace("180]", "181]")
    (data / "anet_entities_cleaned_class_thresh50_trainval.json").write_text(text)
    assert "annotations.train is" in cli(*words).err
    assert contents("labels") == before


# ---- processes ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
def test_two_processes_make_what_one_makes(cli: Callable, data: Path) -> None:
    (data / "videos" / "v_1.mp4").write_text("no video")
    (data / "videos" / "v_4.mp4").unlink()
    alone = cli("annotate", "propagate", *CODES, "--out", "one", *CPU)
    assert alone.code == 0, alone.err
    process = start(*CODES, "--out", "two", *CPU[:3], "2", "--num_workers", "1")
    out, err = process.communicate(timeout=110)
    assert process.returncode == 0, err
    assert out == alone.out.replace("one: ", "two: ")
    assert contents("two") == contents("one")
    assert Path("two/manifest.json").read_bytes() == Path("one/manifest.json").read_bytes()
    names = {path.name for path in Path("two/quarantine").iterdir()}
    assert names == {"v_1.json", "v_4.json"}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_kill_9_in_the_middle_loses_nothing_and_repeats_nothing(cli: Callable, data: Path) -> None:
    words = [*CODES, "--tracker.pause_s", "0.3", *CPU[:-1], "1"]
    process = start(*words, "--out", "killed")
    labels = Path("killed/labels")
    deadline = time.monotonic() + 60
    while len(list(labels.glob("v_*.json"))) < 3 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    assert process.poll() is None, "it ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    kept = {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in labels.glob("v_*.json")}
    assert 3 <= len(kept) < COUNT
    done = cli("annotate", "propagate", *words, "--out", "killed")
    assert done.code == 0, done.err
    assert {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in kept} == kept
    whole = cli("annotate", "propagate", *words, "--out", "whole")
    assert whole.out == done.out.replace("killed: ", "whole: ")
    kept_now = {name: text for name, text in contents("killed").items() if not name.startswith(".")}
    assert kept_now == contents("whole")
    assert Path("killed/manifest.json").read_bytes() == Path("whole/manifest.json").read_bytes()


# ---- ToyWorld -------------------------------------------------------------------------------------------


def test_clips_without_boxes_with_the_colour_detector(cli: Callable, tmp_path: Path) -> None:
    """MSR-VTT's way: an entity of each caption is found in the video, and followed."""
    generate(tmp_path / "data", videos=4, preset="clips", format="msrvtt", workers=1)
    (tmp_path / "task.yaml").write_text(TASK.replace("ActivityNetEntities", "MSRVTT"))
    words = ["-c", "task.yaml", "-c", "annotate/propagate_colour.yaml", "--track_fps", "null", "--splits", "[val]"]
    done = cli("annotate", "propagate", *words, "--out", "labels", *CPU)
    assert done.code == 0, done.err
    store = LabelStore("labels")
    assert store.ids
    for video_id in store.ids:
        truth = json.loads((tmp_path / "data" / "truth" / f"{video_id}.json").read_text())
        ((name, captions),) = store.read(video_id).segments.items()
        assert name.startswith(f"{video_id}#")
        assert len(captions) > 1
        for caption in captions:
            words = [caption.tokens[word] for track in caption.tracks for word in track.words]
            assert set(words) == {actor["shape"] for actor in truth["actors"]} & set(caption.tokens), (
                caption.tokens
            )
            assert caption.links
        assert captions[0].tracks[0].boxes is captions[1].tracks[0].boxes, "followed once, for all captions"


def test_toyworld_with_the_template_tracker(cli: Callable, tmp_path: Path) -> None:
    """The real path, from rendered files to labels; boxes are held against the world's truth."""
    generate(tmp_path / "data", videos=4, preset="captions", format="activitynet_entities", workers=1, seed=3)
    (tmp_path / "task.yaml").write_text(TASK)
    words = [
        "-c",
        "task.yaml",
        "-c",
        "annotate/propagate_template.yaml",
        "--track_fps",
        "null",
        "--splits",
        "[val]",
    ]
    done = cli("annotate", "propagate", *words, "--out", "labels", *CPU)
    assert done.code == 0, done.err
    store = LabelStore("labels")
    overlaps: list[float] = []
    for video_id in store.ids:
        truth = json.loads((tmp_path / "data" / "truth" / f"{video_id}.json").read_text())
        file = json.loads((tmp_path / "data" / "anet_entities_cleaned_class_thresh50_trainval.json").read_text())
        for name, captions in store.read(video_id).segments.items():
            start_s, end_s = file["annotations"][video_id]["segments"][name.split("#")[1]]["timestamps"]
            for track in captions[0].tracks:
                assert captions[0].links, "every sentence of ToyWorld has a verb with a subject"
                words = [captions[0].tokens[word] for word in track.words]
                (actor,) = [a for a in truth["actors"] if {a["colour"], a["shape"]} <= set(words)]
                for k in np.flatnonzero(track.scores > 0.5):
                    seen = actor["boxes"][
                        int((start_s + (k + 0.5) * (end_s - start_s) / 10) * truth["fps"] + 0.02)
                    ]
                    if seen is not None:
                        mine = track.boxes[k] * ([truth["width"], truth["height"]] * 2)
                        overlaps.append(iou(mine, np.array(seen)))
    assert len(overlaps) >= 10
    assert np.mean(overlaps) > 0.7, overlaps


def iou(one: np.ndarray, other: np.ndarray) -> float:
    sides = (np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])).clip(0)
    areas = [float(np.prod(box[2:] - box[:2])) for box in (one, other)]
    return float(np.prod(sides)) / (sum(areas) - float(np.prod(sides)))
