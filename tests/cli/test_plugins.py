"""Somebody else's package adds a task and an encoder; a broken one is named and harms nobody."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from groundzoo.tasks.launch import rebuild

EXAMPLE = Path(__file__).parents[1] / "plugin_example"

CONFIG = {
    "model": {
        "class_path": "ClipScorer",
        "init_args": {
            "video_encoder": {"class_path": "MeanColour", "init_args": {"fps": 3.0}},
            "text_encoder": {"class_path": "WordLSTM", "init_args": {"embedding_dim": 8, "hidden_dim": 8}},
        },
    },
    "data": {"class_path": "CharadesSTA", "init_args": {"val_fraction": 0.4, "num_workers": 0}},
    "trainer": {"accelerator": "cpu", "logger": False, "enable_model_summary": False},
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example and a broken plug-in, installed as pip does it, without a network."""
    folder = tmp_path_factory.mktemp("plugins")
    source, target = folder / "source", folder / "site"
    shutil.copytree(EXAMPLE, source)  # building leaves files beside the sources
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--target", str(target)]
    command = [sys.executable, "-m", "pip", "install", *options, str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    information = target / "gz_broken-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: gz-broken\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[groundzoo.plugins]\nshattered = gz_broken\n")
    (target / "gz_broken.py").write_text("raise ImportError('libshatter.so.3 is missing')\n")
    return target


@pytest.fixture
def command(installed: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The real command in a process of its own, with the plug-ins installed."""

    def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
        line = [sys.executable, "-m", "groundzoo", *map(str, words)]
        return subprocess.run(line, capture_output=True, text=True, env=environment, check=False)

    return run


def test_list_shows_plugins_without_importing_them(command: Callable) -> None:
    done = command("list", "plug-ins")
    assert done.returncode == 0, done.stderr
    assert [line.split() for line in done.stdout.splitlines()[1:]] == [
        ["example", "gz_example"],
        ["shattered", "gz_broken"],
    ]
    assert done.stderr == ""


@pytest.mark.slow
def test_plugin_by_short_names_from_training_to_an_answer(command: Callable, worlds: Callable) -> None:
    world = worlds("charades_sta")
    Path("mine.yaml").write_text(yaml.safe_dump(CONFIG))
    fitted = command("fit", "-c", "mine.yaml", "--data.root", world, "--run_dir", "run")
    assert fitted.returncode == 0, fitted.stderr
    (warning,) = [line for line in fitted.stderr.splitlines() if "plug-in" in line]
    for part in ("'shattered'", "gz_broken", "ImportError", "libshatter.so.3 is missing"):
        assert part in warning
    assert "Traceback" not in fitted.stderr
    written = yaml.safe_load(Path("run/config.yaml").read_text())
    assert written["model"]["class_path"].startswith("gz_example.")
    assert written["model"]["init_args"]["video_encoder"]["init_args"] == {"fps": 3.0}

    video = sorted((world / "videos").glob("*.mp4"))[-1]
    asked = command("ground", video, "a circle moves", "--ckpt", "run/checkpoints/last.ckpt", "--mark", "false")
    assert asked.returncode == 0, asked.stderr
    record = json.loads((Path("grounded") / f"{video.stem}.json").read_text())
    assert len(record["answers"][0]["moments"]) == 5


def test_checkpoint_of_a_missing_plugin_says_so(trained: Any, tmp_path: Path) -> None:
    checkpoint = torch.load(trained.best, weights_only=True)
    checkpoint["groundzoo"]["task"]["class_path"] = "gz_missing.task.ClipScorer"
    torch.save(checkpoint, tmp_path / "theirs.ckpt")
    with pytest.raises(Exception, match="gz_missing"):
        rebuild(tmp_path / "theirs.ckpt", "cpu")
