"""`groundzoo extract`: the command itself, its mistakes, several processes, and kill -9 in the middle."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import videos
from sounds import tone, video_with_sound

from groundzoo.datamodules.features import FeatureStore
from groundzoo.datamodules.shards import shard_files, stored_videos

PROGRAM = Path(__file__).parents[1] / "benchmarks" / "kill_extraction.py"
_spec = importlib.util.spec_from_file_location("kill_extraction", PROGRAM)
assert _spec is not None
assert _spec.loader is not None
killing = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(killing)

GRID = ["-c", "encoders/pixel_grid.yaml"]
SMALL_GRID = ["--video_encoder", "PixelGrid", "--video_encoder.grid", "4", "--video_encoder.size", "16"]
CPU = ["--trainer.accelerator", "cpu", "--trainer.devices", "1", "--num_workers", "0"]
NETWORK = """
video_encoder:
  class_path: R2Plus1D
  init_args: {weights: random, layers: [1, 1, 1, 1], width: 2, size: 32}
"""


def contents(store: Path) -> dict[str, np.ndarray]:
    opened = FeatureStore(store)
    return {name: opened.read(name).units for name in sorted(opened.ids)}


def command(*words: str | Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "groundzoo", "extract", *map(str, words)],
        capture_output=True, text=True, timeout=110, env=environment, check=False,
    )  # fmt: skip


@pytest.fixture
def toy(worlds: Callable[[str], Path]) -> Path:
    """Twelve ToyWorld videos."""
    return worlds("charades_sta") / "videos"


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """Three tiny videos."""
    folder = tmp_path / "few"
    folder.mkdir()
    for count in (7, 30, 61):
        videos.coded_video(folder / f"n{count}.mp4", count)
    return folder


# ---- the command ----------------------------------------------------------------------------------------


def test_a_folder_of_videos_becomes_a_store(cli: Callable, toy: Path) -> None:
    done = cli("extract", *GRID, "--videos", toy, "--out", "store", *CPU)
    assert done.code == 0, done.err
    assert done.out == "store: 12 of 12 videos\n"
    assert contents(Path("store")).keys() == {path.stem for path in toy.iterdir()}
    manifest = json.loads(Path("store/manifest.json").read_text())
    assert (manifest["encoder"], manifest["dim"], manifest["dtype"]) == ("PixelGrid", 1296, "float16")
    assert manifest["precision"] == "32-true"
    assert [p.name[:6] for p in sorted(Path("store").iterdir())] == ["manife", "shard-"]
    before = {p: p.stat().st_mtime_ns for p in Path("store").iterdir()}
    again = cli("extract", *GRID, "--videos", toy, "--out", "store", *CPU)
    assert (again.code, again.out) == (0, done.out)
    assert {p: p.stat().st_mtime_ns for p in Path("store").iterdir()} == before
    checked = cli("extract", "--check", "store", "--videos", toy)
    assert (checked.code, checked.out) == (0, "store: 12 videos, nothing wrong\n")


def test_lists_and_options(cli: Callable, few: Path) -> None:
    Path("list.txt").write_text("few/n7.mp4\nfew/n30.mp4\n")
    Path("v.csv").write_text("id,path\na/1,few/n7.mp4\nb,few/n61.mp4\n")
    for name, out, ids in (
        ("list.txt", "x", {"n7", "n30"}),
        ("v.csv", "y", {"a/1", "b"}),
        ("few/n7.mp4", "z", {"n7"}),
    ):
        options = ["--grid", "true", "--dtype", "float32", "--batch_size", "3"]
        done = cli("extract", *SMALL_GRID, "--videos", name, "--out", out, *options, *CPU)
        assert done.code == 0, done.err
        store = FeatureStore(out)
        assert store.ids == ids
        units = store.read(min(ids)).units
        assert units.dtype == np.float32
        np.testing.assert_array_equal(store.read_grid(min(ids)).reshape(units.shape), units)


def test_a_whole_tasks_configuration_will_do(cli: Callable, few: Path) -> None:
    """Of any configuration, the video encoder counts; a file here comes before a packaged one."""
    done = cli("extract", "-c", "tasks/drn_toyworld.yaml", "--videos", few, "--out", "a", *CPU)
    assert done.code == 0, done.err
    assert FeatureStore("a").manifest["encoder"] == "PixelGrid"
    Path("mine.yaml").write_text(
        "model: {init_args: {video_encoder: {class_path: PixelGrid, init_args: {fps: 9}}}}"
    )
    done = cli("extract", "-c", "mine.yaml", "-c", "trainer/cpu.yaml", "--videos", few, "--out", "b", *CPU)
    assert done.code == 0, done.err
    assert FeatureStore("b").manifest["fps"] == 9


def test_combined_encoders_make_a_store_each(cli: Callable, tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    video_with_sound(tmp_path / "v" / "a.mkv", 2.0, [(1.0, tone(0.5, 16000))])
    videos.coded_video(tmp_path / "v" / "silent.mp4", 50)
    Path("both.yaml").write_text(
        "video_encoder: {class_path: Combined, init_args: {encoders: [{class_path: PixelGrid}, "
        "{class_path: VGGish, init_args: {weights: random, width: 1, hidden: 4}}]}}"
    )
    done = cli("extract", "-c", "both.yaml", "--videos", "v", "--out", "store", *CPU)
    assert done.code == 0, done.err
    assert done.out == "store/0-PixelGrid: 2 of 2 videos\nstore/1-VGGish: 2 of 2 videos\n"
    assert len(contents(Path("store/1-VGGish"))["a"]) == 3  # 0.96 s each, the last one cut short
    checked = cli("extract", "--check", "store", "--videos", "v")
    assert checked.code == 0, checked.out
    assert checked.out.count("2 videos, nothing wrong") == 2
    (shard,) = shard_files(Path("store/1-VGGish"))
    shard.write_bytes(shard.read_bytes()[:-1])
    checked = cli("extract", "--check", "store")
    assert checked.code == 1
    assert "0-PixelGrid: 2 videos, nothing wrong" in checked.out
    assert "1 problem(s) in store" in checked.err


def test_bad_videos_are_reported_and_tried_again(cli: Callable, few: Path) -> None:
    (few / "text.mp4").write_text("no video")
    words = ["extract", *SMALL_GRID, "--videos", few, "--out", "store", *CPU]
    done = cli(*words)
    assert done.code == 0
    assert re.search(r"^store: 3 of 4 videos, 1 in quarantine:\n  text: .*text\.mp4: ", done.out)
    assert re.search(r"^quarantined text: .*text\.mp4: ", done.err, re.M)
    checked = cli("extract", "--check", "store", "--videos", few)
    assert checked.code == 1
    assert checked.out.startswith("text: in quarantine. ")
    (few / "text.mp4").write_bytes((few / "n7.mp4").read_bytes())
    assert "3 of 4" in cli(*words).out
    assert cli(*words, "--retry", "true").out == "store: 4 of 4 videos\n"
    assert cli("extract", "--check", "store", "--videos", few).code == 0
    (few / "new.mp4").write_bytes((few / "n7.mp4").read_bytes())
    checked = cli("extract", "--check", "store", "--videos", few)
    assert (checked.code, checked.out) == (1, "new: not there\n")
    assert cli("extract", "--check", "store").code == 0


def test_not_one_video_can_be_read(cli: Callable, tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "text.mp4").write_text("no video")
    done = cli("extract", *GRID, "--videos", "v", "--out", "store", *CPU)
    assert done.code == 1
    assert "not one of 1 videos could be encoded" in done.err
    assert "Traceback" not in done.err


def test_other_settings_are_refused(cli: Callable, few: Path) -> None:
    words = ["extract", *SMALL_GRID, "--videos", few, "--out", "store", *CPU]
    assert cli(*words).code == 0
    for more, reason in (
        (["--video_encoder.fps", "12"], "fps is 6.0, not 12.0"),
        (["--dtype", "float32"], "dtype is float16, not float32"),
        (["--trainer.precision", "bf16-mixed"], "precision is 32-true, not bf16-mixed"),
    ):
        done = cli(*words, *more)
        assert done.code == 1
        assert re.search(rf"features store were made otherwise: .*{reason}.* Choose another folder", done.err)


# ---- mistakes -------------------------------------------------------------------------------------------


FEW = ["--videos", "few", "--out", "s"]


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        ([*GRID, "--videos", "nowhere", "--out", "s"], 1, "videos nowhere: no such folder or list"),
        ([*GRID, "--videos", "empty", "--out", "s"], 1, "there are no videos in empty"),
        ([*GRID, "--videos", "v.csv", "--out", "s"], 1, "v.csv:1: a csv needs a column `path`"),
        ([*GRID, "--out", "s"], 1, "give --videos"),
        ([*GRID, "--videos", "empty"], 1, "give --out"),
        (["--videos", "empty", "--out", "s"], 1, "give --config with a video encoder"),
        (["-c", "trainer/cpu.yaml", *FEW], 1, "give --config with a video encoder"),
        (["-c", "null.yaml", *FEW], 1, "give --config with a video encoder"),
        (["-c", "encoders/pixel_gird.yaml", *FEW], 2, "Did you mean encoders/pixel_grid.yaml"),
        (["-c", "list.yaml", *FEW], 1, "list.yaml: no configuration of groundzoo"),
        (["-c", "broken.yaml", *FEW], 1, "broken.yaml: while parsing"),
        (["-c", "class.yaml", *FEW], 2, "Did you mean PixelGrid"),
        (["-c", "encoders/r2plus1d_34_tsp.yaml", *FEW], 1, "weights/"),
        ([*GRID, "--video_encoder.gird", "3", *FEW], 2, "PixelGrid has no argument 'gird'"),
        ([*GRID, *FEW, "--dtype", "float64"], 2, "dtype"),
        ([*GRID, *FEW, "--trainer.acelerator", "cpu"], 2, "Did you mean trainer.accelerator"),
        (["--video_encoder", "Precomputed", "--video_encoder.dim", "3", *FEW, *CPU], 1,
         "these are precomputed 'features' features: they cannot be made from raw video"),
        ([*GRID, "--videos", "few", "--out", "few/n7.mp4", *CPU], 1, "few/n7.mp4"),
        (["--check", "nowhere"], 1, "2 problem(s) in nowhere"),
    ],
)  # fmt: skip
def test_mistakes_get_one_clear_line(
    words: list[str], code: int, expected: str, cli: Callable, few: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "v.csv").write_text("video\nn7.mp4\n")
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "null.yaml").write_text("model: null\n")
    (tmp_path / "broken.yaml").write_text("model: [1\n")
    (tmp_path / "class.yaml").write_text("video_encoder: {class_path: PixelGird}\n")
    done = cli("extract", *words)
    assert done.code == code, done.err
    assert expected in done.err
    own = [line for line in done.err.splitlines() if line.startswith("groundzoo extract: ")]
    assert len(own) == 1
    assert "Traceback" not in done.err
    assert "Union" not in done.err
    assert "Namespace" not in done.err
    if "broken" not in expected:
        assert len(done.err.strip().splitlines()) <= 3, done.err
    assert not list(Path(tmp_path).glob("s/*.safetensors"))


def test_a_store_that_is_broken_in_many_ways(cli: Callable, few: Path) -> None:
    assert cli("extract", *SMALL_GRID, "--videos", few, "--out", "store", *CPU).code == 0
    (shard,) = shard_files(Path("store"))
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    Path("store/manifest.json").unlink()
    done = cli("extract", "--check", "store")
    assert done.code == 1
    assert "manifest.json: missing" in done.out
    assert f"{shard.name}: no shard of a feature store" in done.out
    assert "2 problem(s) in store" in done.err
    done = cli("extract", *SMALL_GRID, "--videos", few, "--out", "store", *CPU)
    assert done.code == 1
    assert "Delete the file and extract again" in done.err


# ---- processes ------------------------------------------------------------------------------------------


def test_the_command_in_a_process_of_its_own(few: Path) -> None:
    """Exit codes and streams as a shell sees them."""
    done = command(*SMALL_GRID, "--videos", few, "--out", "store", *CPU)
    assert (done.returncode, done.stdout) == (0, "store: 3 of 3 videos\n")
    assert done.stderr == ""
    done = command("--check", "nowhere")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
def test_two_processes_make_what_one_makes(toy: Path, tmp_path: Path, cli: Callable) -> None:
    (tmp_path / "network.yaml").write_text(NETWORK)
    (tmp_path / "v").mkdir()
    for path in sorted(toy.iterdir())[:7]:  # an odd number
        (tmp_path / "v" / path.name).symlink_to(path)
    (tmp_path / "v" / "text.mp4").write_text("no video")
    words = ["-c", "network.yaml", "--videos", "v", "--trainer.accelerator", "cpu", "--num_workers", "1"]
    alone = cli("extract", *words, "--out", "one", "--trainer.devices", "1")
    assert alone.code == 0, alone.err
    done = command(*words, "--out", "two", "--trainer.devices", "2", "--trainer.strategy", "ddp")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("two: 7 of 8 videos, 1 in quarantine:") == 1
    one, two = contents(Path("one")), contents(Path("two"))
    assert len(one) == 7
    assert one.keys() == two.keys()
    for name, units in one.items():
        np.testing.assert_array_equal(units, two[name], err_msg=name)
    assert len(list(shard_files(Path("two")))) == 1
    assert json.loads(Path("one/manifest.json").read_text()) == json.loads(Path("two/manifest.json").read_text())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_kill_9_in_the_middle_loses_nothing_and_repeats_nothing(tmp_path: Path, cli: Callable) -> None:
    """Two dozen videos, killed twice; `tests/benchmarks/kill_extraction.py` does it with hundreds."""
    folder = tmp_path / "v"
    folder.mkdir()
    for count in range(24):
        videos.coded_video(
            folder / f"n{count:02d}.mp4", 200 + count, size=(120, 160), options={"preset": "ultrafast"}
        )
    words = [*SMALL_GRID, "--videos", folder, *CPU[:-1], "1", "--batch_size", "4", "--out"]
    assert cli("extract", *words, "undisturbed").code == 0
    store, written, errors = tmp_path / "store", tmp_path / "written", tmp_path / "errors"
    for wanted in (3, 9):
        process = killing.start([*words, store], written, errors)
        deadline = time.monotonic() + 60
        while len(stored_videos(store)) < wanted and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.01)
        assert process.poll() is None, f"it ended before it could be killed: {errors.read_text()}"
        killing.kill(process)
        kept = {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in shard_files(store)}
        assert wanted <= len(kept) < 24
    process = killing.start([*words, store], written, errors)
    while len(stored_videos(store)) <= len(kept) and process.poll() is None:
        time.sleep(0.01)
    untouched = {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in kept if p.exists()}
    assert untouched.items() <= kept.items()
    assert process.wait(60) == 0, errors.read_text()
    assert killing.verdict(store, Path("undisturbed"), folder, written) == []
    assert set(killing.noted(written)) == {f"n{count:02d}" for count in range(24)}
