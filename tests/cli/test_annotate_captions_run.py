"""`groundzoo annotate grounded-captions`: the command, bad videos, mistakes, several processes, kill -9."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_annotators
import torch
import yaml

from groundzoo.datamodules.annotation_store import AnnotationStore
from groundzoo.datamodules.grounded_records import parse_record, read_records
from groundzoo.datamodules.toyworld.generate import generate

TESTS = Path(__file__).parents[1]
SHARED = Path(os.environ.get("GROUNDZOO_SHARED", TESTS.parents[1] / "shared"))
COUNT = 7
CPU = ["--trainer.accelerator", "cpu", "--trainer.devices", "1", "--num_workers", "0"]
TOY = ["-c", "annotate/grounded_toyworld.yaml", "--captioner.world", "toy", "--videos", "toy/videos"]
SMALL = ["--clips_per_shard", "3", "--clips_at_once", "2", "--frames_at_once", "5"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(
        tmp_path_factory.mktemp("grounded") / "toy", videos=COUNT, preset="grounded", format="iground", workers=1
    )


@pytest.fixture
def toy(made: Path) -> None:
    """The world, under the name `toy` in the empty folder of each test."""
    Path("toy/videos").mkdir(parents=True)
    Path("toy/truth").symlink_to(made / "truth")
    for path in (made / "videos").iterdir():
        (Path("toy/videos") / path.name).symlink_to(path)


def start(*words: str) -> subprocess.Popen[str]:
    """The command in a process of its own, as the leader of a group that its workers belong to."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "groundzoo", "annotate", "grounded-captions", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True,
    )  # fmt: skip


def contents(out: str) -> dict[str, bytes]:
    found = (path for path in Path(out).rglob("*") if path.is_file() and path.name[0] != ".")
    return {str(path.relative_to(out)): path.read_bytes() for path in found}


def test_a_world_gets_annotations(cli: Callable, toy: None) -> None:
    done = cli("annotate", "grounded-captions", *TOY, *SMALL, "--out", "one", *CPU)
    assert done.code == 0, done.err
    assert done.out.startswith(f"one: {COUNT} of {COUNT} clips annotated: ")
    clips = [
        parse_record(record, where)
        for path in sorted(Path("one/annotations").glob("shard-*.jsonl"))
        for where, record in read_records(path)
    ]
    assert [clip.video_id for clip in clips] == [f"toy{k:05d}" for k in range(COUNT)]
    assert [len(list(Path(f"one/{name}").glob("shard-*"))) for name in ("frames", "phrases")] == [3, 3]
    right = 0
    for clip in clips:
        truth = json.loads((Path("toy/truth") / f"{clip.video_id}.json").read_text())
        right += set(clip.caption.phrases) == {phrase["text"] for phrase in truth["caption"]["phrases"]}
        assert clip.size == (truth["width"], truth["height"])
        assert clip.frames[-1] < truth["num_frames"]
    assert right >= COUNT - 3
    report = json.loads(Path("one/report.json").read_text())
    assert report["annotated"]["clips"] == COUNT
    assert sum(report["captions_read_from"].values()) == COUNT
    assert report["annotated"]["boxes"] == sum(len(frame) for clip in clips for frame in clip.boxes)
    assert report["recipe"]["phrases"]["captions"]["frames"]["captioner"]["init_args"]["missed"] == 0.25
    assert "torch" in report["versions"]

    before = {path: path.stat().st_mtime_ns for path in Path("one").rglob("shard-*")}
    again = cli("annotate", "grounded-captions", *TOY, *SMALL, "--out", "one", *CPU)
    assert (again.code, again.out) == (0, done.out)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_stages_one_by_one_and_again_with_another_model(cli: Callable, toy: None) -> None:
    words = ["annotate", "grounded-captions", *TOY, *SMALL, *CPU]
    assert cli(*words, "--out", "whole").code == 0
    done = cli(*words, "--out", "parts", "--stages", "[captions]")
    assert done.code == 1
    assert "run the stage that makes frames" in done.err
    assert cli(*words, "--out", "parts", "--stages", "[frames]", "--chat", "null").out == ""
    for stage in ("captions", "tracks"):
        done = cli(*words, "--out", "parts", "--stages", f"[{stage}]", "--captioner", "null")
        assert done.code == 0, done.err
    assert contents("parts") == contents("whole")
    frames = AnnotationStore(Path("parts/frames")).shard(0).stat()
    other = [*words, "--out", "parts", "--chat.talk", "0"]
    done = cli(*other)
    assert done.code == 1
    assert "captions was made otherwise: chat.init_args.talk is 0.2, not 0.0. Choose another --out" in done.err
    for name in ("captions", "phrases", "annotations"):
        for path in Path("parts", name).iterdir():
            path.unlink()
    assert cli(*other).code == 0
    assert AnnotationStore(Path("parts/frames")).shard(0).stat() == frames
    assert "captioner.init_args.seed is 0, not 1" in cli(*other, "--captioner.seed", "1").err
    Path("clips.csv").write_text("video,start_s,end_s\ntoy00000,0,1\n")
    assert "frames was made otherwise: clips is" in cli(*other, "--clips", "clips.csv").err


def test_bad_videos_are_reported_and_tried_again(cli: Callable, toy: None, made: Path) -> None:
    words = ["annotate", "grounded-captions", *TOY, *SMALL, *CPU]
    rows = [f"toy{k:05d},0,9" for k in range(COUNT)]
    Path("clips.csv").write_text("\n".join(["video,start_s,end_s", *rows, "toy00000,80,90"]) + "\n")
    words += ["--clips", "clips.csv"]
    assert cli(*words, "--out", "whole").code == 0
    Path("toy/videos/toy00001.mp4").unlink()
    Path("toy/videos/toy00004.mp4").unlink()
    Path("toy/videos/toy00004.mp4").write_text("no video")
    done = cli(*words, "--out", "out")
    assert done.code == 0, done.err
    assert f"out: {COUNT - 2} of {COUNT + 1} clips annotated" in done.out
    assert "3 in quarantine:" in done.out
    assert "toy00001_0 (frames): there is no video file called toy00001" in done.out
    assert "toy00000_1 (frames): " in done.out
    assert "the clip begins at 80 s" in done.out
    for name in ("toy00001", "toy00004"):
        Path(f"toy/videos/{name}.mp4").unlink(missing_ok=True)
        Path(f"toy/videos/{name}.mp4").symlink_to(made / "videos" / f"{name}.mp4")
    assert f"out: {COUNT - 2} of" in cli(*words, "--out", "out").out
    done = cli(*words, "--out", "out", "--retry", "true")
    assert f"out: {COUNT} of {COUNT + 1} clips annotated" in done.out
    assert contents("out") == contents("whole"), "as if nothing had been wrong"


@pytest.mark.parametrize("name", ["grounded_toyworld", "grounded_florence"])
def test_configurations_round_trip(name: str, cli: Callable, tmp_path: Path) -> None:
    first = cli("annotate", "grounded-captions", "-c", f"annotate/{name}.yaml", "--print_config")
    assert first.code == 0, first.err
    (tmp_path / "printed.yaml").write_text(first.out)
    assert cli("annotate", "grounded-captions", "-c", "printed.yaml", "--print_config").out == first.out
    given = yaml.safe_load(first.out)
    assert given["captioner"]["class_path"].rpartition(".")[2] in ("NoisyOracle", "Florence2Captioner")
    assert given["trainer"]["precision"] == ("bf16-true" if "florence" in name else "32-true")


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        ([*TOY, "--videos", "null"], 1, "give --videos"),
        ([*TOY, "--captioner", "null"], 1, "give --config with a captioner"),
        ([*TOY, "--chat", "null"], 1, "give --config with a language model"),
        ([*TOY, "--stages", "[frmaes]"], 2, "frmaes"),
        ([*TOY, "--videos", "nowhere"], 1, "videos nowhere: no such folder"),
        ([*TOY, "--clips", "nowhere.csv"], 1, "clips nowhere.csv: no such file"),
        ([*TOY, "--frames_told", "0"], 1, "at least 1"),
        ([*TOY, "--captioner.world", "elsewhere"], 1, "`world` is the folder"),
        (["-c", "annotate/grounded_florence.yaml", "--videos", "toy/videos"], 1, "not on this machine"),
    ],
)
def test_mistakes_get_one_clear_line(words: list[str], code: int, expected: str, cli: Callable, toy: None) -> None:
    done = cli("annotate", "grounded-captions", *words, "--out", "out", *CPU)
    assert done.code == code, done.err
    assert expected in done.err
    assert "Traceback" not in done.err


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
def test_two_processes_make_what_one_makes(cli: Callable, toy: None) -> None:
    Path("toy/videos/toy00004.mp4").unlink()
    Path("toy/videos/toy00004.mp4").write_text("no video")
    alone = cli("annotate", "grounded-captions", *TOY, *SMALL, "--out", "one", *CPU)
    assert alone.code == 0, alone.err
    process = start(*TOY, *SMALL, "--out", "two", *CPU[:3], "2", "--num_workers", "2")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert out == alone.out.replace("one: ", "two: ")
    assert contents("two") == contents("one")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_kill_9_loses_nothing(cli: Callable, toy: None) -> None:
    process = start(*TOY, *SMALL, "--out", "killed", *CPU[:-1], "1")
    deadline = time.monotonic() + 300
    frames = Path("killed/frames")
    while not list(frames.glob("shard-*")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    kept = {path: path.stat().st_ino for path in frames.glob("shard-*")}
    assert kept
    assert cli("annotate", "grounded-captions", *TOY, *SMALL, "--out", "killed", *CPU).code == 0
    assert {path: path.stat().st_ino for path in kept} == kept
    assert cli("annotate", "grounded-captions", *TOY, *SMALL, "--out", "whole", *CPU).code == 0
    assert contents("killed") == contents("whole")


def test_real_clips_with_tiny_random_models(cli: Callable, tmp_path: Path) -> None:
    """The plumbing of the real models: nothing that random networks say makes an annotation, nothing breaks."""
    folder = SHARED / "data" / "videos"
    if not folder.is_dir():
        pytest.skip(f"there are no videos in {folder}")
    names = ["flipping_a_pancake.mkv", "mmaction_demo.mp4", "decord_video_90.mov", "decord_corrupted.mp4"]
    Path("list.txt").write_text("".join(f"{folder / name}\n" for name in names))
    Path("clips.csv").write_text("video,start_s,end_s\n" + "".join(f"{Path(n).stem},0,1\n" for n in names))
    florence, llama = tiny_annotators.florence(tmp_path / "florence"), tiny_annotators.llama(tmp_path / "llama")
    words = [
        "-c",
        "annotate/grounded_florence.yaml",
        "--captioner.weights",
        str(florence),
        "--chat.weights",
        str(llama),
    ]
    words += ["--captioner.max_new_tokens", "8", "--chat.max_new_tokens", "4", "--trainer.precision", "32-true"]
    done = cli(
        "annotate",
        "grounded-captions",
        *words,
        "--videos",
        "list.txt",
        "--clips",
        "clips.csv",
        "--out",
        "out",
        *CPU,
    )
    assert "Traceback" not in done.err
    told = AnnotationStore(Path("out/frames")).read(0)
    assert {"flipping_a_pancake_0", "mmaction_demo_0"} <= told.keys()
    for record in told.values():
        step = max(1, int(record["fps"] / 5))
        count = len(range(record["clip_start_frame"], record["clip_end_frame"] + 1, step))
        assert len(record["frames"]) == count > 0
    report = json.loads(Path("out/report.json").read_text())
    every = {key for found in report["quarantine"].values() for key in found}
    assert report["clips"] == len(names) == report["annotated"]["clips"] + len(every)
