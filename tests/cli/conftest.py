"""The command line in this process, a tiny world in every format, and one tiny trained run."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import yaml

from groundzoo.cli import main
from groundzoo.datamodules.concepts import count_concepts
from groundzoo.datamodules.toyworld.generate import generate

torch.set_num_threads(1)


@dataclass(frozen=True)
class Result:
    """What a call of the command line left behind."""

    code: int
    out: str
    err: str


def run(*words: str | Path) -> Result:
    """``groundzoo WORDS`` in this process, as its own process would see and leave the world."""
    out, err = io.StringIO(), io.StringIO()
    code: int | str | None = 0
    with mock.patch.dict(os.environ), _as_command(out, err):
        for name in ("GROUNDZOO_RUN_DIR", "LOCAL_RANK", "PL_GLOBAL_SEED"):
            os.environ.pop(name, None)
        try:
            main([str(word) for word in words])
        except SystemExit as stop:
            code = stop.code
            if isinstance(code, str):  # as the interpreter does it
                print(code, file=sys.stderr)
                code = 1
    return Result(int(code or 0), out.getvalue(), err.getvalue())


@contextmanager
def _as_command(out: io.StringIO, err: io.StringIO) -> Iterator[None]:
    """Own streams and arguments; and what the command line does to the package's logger ends with it."""
    logger = logging.getLogger("groundzoo")
    before = logger.handlers[:], logger.propagate, logger.level
    logger.handlers = []
    try:
        with redirect_stdout(out), redirect_stderr(err), mock.patch.object(sys, "argv", ["groundzoo"]):
            yield
    finally:
        logger.handlers, logger.propagate, logger.level = before


@pytest.fixture(scope="session")
def cli() -> Callable[..., Result]:
    """Calls the command line."""
    return run


@pytest.fixture(autouse=True)
def somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs in an empty folder of its own, without W&B."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")


@pytest.fixture(scope="session")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes the tiny world in a benchmark's own format, once."""
    made: dict[str, Path] = {}
    folder = tmp_path_factory.mktemp("worlds")

    def world(name: str) -> Path:
        if name not in made:
            presets = {"activitynet_entities": "captions", "msrvtt": "clips", "howto100m": "narrations"}
            preset = (presets | {"activitynet": "described", "iground": "grounded"}).get(name, "default")
            options: dict[str, Any] = {"videos": 12, "test_fraction": 0.25, "workers": 1, "preset": preset}
            made[name] = root = generate(folder / name, format=name, **options)
            if name == "activitynet":
                count_concepts([str(root / "train.json")], str(root / "concepts.json"), size=20, tagger="rules")
        return made[name]

    return world


@pytest.fixture(scope="session")
def features(worlds: Callable[[str], Path]) -> Callable[[str, int, int], Path]:
    """Makes random features of a width for the videos of a world, once."""

    def store(name: str, dim: int, stride: int) -> Path:
        root = worlds(name)
        folder = root / f"random_{dim}_{stride}"
        if not folder.exists():
            folder.mkdir()
            generator = np.random.default_rng(0)
            for video in sorted((root / "truth").glob("*.json")):
                frames = round(json.loads(video.read_text())["duration_s"] * 6)
                units = generator.standard_normal((max(1, frames // stride), dim), dtype=np.float32)
                np.save(folder / f"{video.stem}.npy", units.astype(np.float16))
        return folder

    return store


COMMON = {
    "data.num_workers": 0,
    "trainer.accelerator": "cpu",
    "trainer.devices": 1,
    "trainer.enable_model_summary": "false",
}
SMALL = {
    "drn": {
        "model.network.video_dim": 8,
        "model.network.channels": "[8, 8, 8]",
        "model.network.pyramid_dim": 8,
        "model.network.location_dim": 4,
        "model.network.attention_dim": 8,
        "model.text_encoder.init_args.embedding_dim": 8,
        "model.text_encoder.init_args.hidden_dim": 8,
        "data.batch_size": 8,
        "data.eval_batch_size": 8,
    },
    "cvg": {
        "model.network.dim": 8,
        "model.network.word_dim": 6,
        "model.network.attention_dim": 4,
        "model.min_count": 1,
        "data.batch_size": 8,
        "data.eval_batch_size": 8,
    },
    "stg": {
        "model.network.dim": 12,
        "data.batch_size": 2,
        "data.candidates": 6,
        "data.candidate_fps": 1.0,
        "data.evaluation.init_args.fps": 0.5,
        "data.evaluation.init_args.num_workers": 0,
    },
    "satsp": {
        "data.clips_per_segment": 1,
        "data.batch_size": 4,
        "data.eval_batch_size": 4,
    },
    "grove": {
        "data.train": "train.jsonl",
        "data.val": "val.jsonl",
        "data.test": "test.jsonl",
        "data.batch_size": 2,
    },
    "dense": {
        "model.encoder.dim": 8,
        "model.encoder.heads": 2,
        "model.captioner.dim": 8,
        "model.captioner.word_dim": 6,
        "model.captioner.attention_dim": 4,
        "model.proposals.dim": 8,
        "model.proposals.levels": 2,
        "model.proposals.max_events": 3,
        "model.self_critical.reward": "{meteor_ids: 0.0, cider: 1.0}",  # without Java
        "model.min_count": 1,
        "model.max_length": 8,
        "data.batch_size": 2,
        "data.eval_batch_size": 4,
    },
}


@pytest.fixture(scope="session")
def small_of() -> Callable[[str], list[str]]:
    """Options that make any run of a paper tiny."""
    return lambda paper: [f"--{name}={value}" for name, value in (SMALL[paper] | COMMON).items()]


@pytest.fixture(scope="session")
def small(small_of: Callable[[str], list[str]]) -> list[str]:
    """Options that make any run of DRN tiny."""
    return small_of("drn")


@pytest.fixture(scope="session")
def labels(worlds: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Path]:
    """Makes labels of the words of a world's captions, once for each number of frames."""
    made: dict[tuple[str, int], Path] = {}

    def store(name: str, frames: int) -> Path:
        if (name, frames) not in made:
            out = tmp_path_factory.mktemp("labels") / "store"
            # where no box is annotated, colours are looked for; nothing is tracked between the model's frames
            task, way = ("msrvtt", "colour") if name == "msrvtt" else ("anet", "template")
            words = ["-c", f"tasks/cvg_{task}.yaml", "-c", f"annotate/propagate_{way}.yaml", "--out", out]
            words += ["--data.root", worlds(name), "--splits", "[train, val, test]", "--frames", frames]
            words += ["--track_fps", "null", "--num_workers", 0, "--trainer.accelerator", "cpu"]
            done = run("annotate", "propagate", *words)
            assert done.code == 0, done.err
            made[name, frames] = out
        return made[name, frames]

    return store


STAGES = (
    "[{losses: [match, location], train: grounder, lr: 1.0e-3, epochs: 2}, "
    "{losses: [quality], train: quality, lr: 1.0e-3, epochs: 1}]"
)


@dataclass(frozen=True)
class Run:
    """A trained and tested run.

    Attributes:
        folder: of the run.
        data: the world it was trained on, which nothing else uses.
        options: the words that made it, without the verb.
        fit: the result of ``fit``.
        test: the result of ``test``.
    """

    folder: Path
    data: Path
    options: list[str]
    fit: Result
    test: Result

    @property
    def best(self) -> Path:
        return self.folder / "checkpoints" / "best.ckpt"

    @property
    def last(self) -> Path:
        return self.folder / "checkpoints" / "last.ckpt"

    def copy(self, target: Path) -> Run:
        """The same run, for a test that writes into its folder."""
        shutil.copytree(self.folder, target)
        return Run(target, self.data, self.options, self.fit, self.test)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, worlds: Callable[[str], Path], small: list[str]) -> Run:
    """One tiny run on raw video: ``fit``, then ``test``, in a folder chosen by the program itself."""
    home = tmp_path_factory.mktemp("trained")
    data = Path(shutil.copytree(worlds("charades_sta"), home / "data"))
    options = ["-c", "tasks/drn_toyworld.yaml", "-c", "logger/csv.yaml", *small]
    options += [
        "--data.root",
        str(data),
        "--data.subsets",
        str(data / "subsets.json"),
        "--data.val_fraction",
        "0.4",
    ]
    options += ["--model.stages", STAGES, "--trainer.log_every_n_steps", "1"]
    before = Path.cwd()
    os.chdir(home)
    try:
        fit = run("fit", *options)
        assert fit.code == 0, fit.err
        (found,) = (home / "runs" / "drn_toyworld").iterdir()
        tested = run("test", *options, "--ckpt_path", found.relative_to(home) / "checkpoints" / "best.ckpt")
    finally:
        os.chdir(before)
    return Run(found, data, options, fit, tested)


def resolved(*words: str | Path) -> dict:
    """The configuration that ``fit WORDS`` would run with."""
    printed = run("fit", *words, "--print_config")
    assert printed.code == 0, printed.err
    loaded = yaml.safe_load(re.sub(r"\x1b\[[0-9;]*m", "", printed.out))
    assert isinstance(loaded, dict)
    return loaded


@pytest.fixture(scope="session")
def resolve() -> Callable[..., dict]:
    """Prints the configuration of a run without running it."""
    return resolved
