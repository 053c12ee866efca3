"""A run that is killed goes on as if nothing had happened, to the bit; same seed, same weights."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from groundzoo.datamodules.toyworld.generate import generate
from groundzoo.tasks.checkpoints import AtomicCheckpointIO, read_checkpoint

ROOT = Path(__file__).resolve().parents[2]
CALLBACKS = '''
import json, os, signal
from lightning.pytorch.callbacks import Callback

class Recorder(Callback):
    """Writes loss and learning rate of every step; dies by SIGKILL when `kill_at` steps are done."""
    def __init__(self, path: str, kill_at: int = -1):
        self.path, self.kill_at = path, kill_at
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        row = [trainer.global_step, pl_module.stage_index, outputs["loss"].item().hex(),
               trainer.optimizers[0].param_groups[0]["lr"].hex(), batch.query_ids]
        with open(self.path, "a") as file:
            file.write(json.dumps(row) + chr(10))
'''
MODEL = {
    "class_path": "DRN",
    "init_args": {
        "video_encoder": {"class_path": "PixelGrid", "init_args": {"grid": 4, "size": 16}},
        "text_encoder": {"class_path": "WordLSTM", "init_args": {"embedding_dim": 8, "hidden_dim": 8}},
        "clips": {"num_clips": 8, "reduce": "mean"},
        "network": {
            "video_dim": 16,
            "channels": [8, 8],
            "pyramid_dim": 8,
            "location_dim": 4,
            "attention_dim": 8,
        },
        "loss": {"positives": "random"},
        "stages": [
            {
                "losses": ["match", "location"],
                "train": "grounder",
                "lr": 3e-2,
                "epochs": 2,
                "schedule": "one_cycle",
            },
            {"losses": ["quality"], "train": "quality", "lr": 1e-2, "epochs": 1},
            {"losses": ["match", "location", "quality"], "lr": 1e-3, "epochs": 1, "schedule": "one_cycle"},
        ],
    },
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("world") / "toy", videos=9, workers=1)


def command(world: Path, run: Path, workers: int, *more: str, kill_at: int = -1) -> list[str]:
    callbacks = [
        {"class_path": "recorder.Recorder", "init_args": {"path": str(run / "steps.jsonl"), "kill_at": kill_at}},
        {
            "class_path": "ModelCheckpoint",
            "init_args": {
                "dirpath": str(run / "checkpoints"),
                "filename": "{step}",
                "every_n_train_steps": 2,
                "save_top_k": -1,
            },
        },
    ]
    config = {
        "model": MODEL,
        "data": {
            "class_path": "CharadesSTA",
            "init_args": {
                "root": str(world),
                "val_fraction": 0.3,
                "batch_size": 4,
                "num_workers": workers,
                "seed": 1,
            },
        },
        "trainer": {
            "accelerator": "cpu",
            "devices": 1,
            "callbacks": callbacks,
            "gradient_clip_val": 1.0,
            "log_every_n_steps": 1,
        },
    }
    run.mkdir(exist_ok=True)
    (run / "recorder.py").write_text(CALLBACKS)
    path = run / f"config{kill_at}.json"
    path.write_text(json.dumps(config))
    return [
        sys.executable,
        "-m",
        "groundzoo",
        "fit",
        "--config",
        str(path),
        "--run_dir",
        str(run),
        "--trainer.logger=false",
        *more,
    ]


def execute(words: list[str], run: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "GROUNDZOO_RUN_DIR"}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(run)}
    return subprocess.run(words, capture_output=True, text=True, env=environment, cwd=run, timeout=240)


def steps(run: Path) -> dict[int, list[Any]]:
    rows = [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]
    return {row[0]: row[1:] for row in rows}


def same(a: Any, b: Any, where: str = "") -> None:
    """Bit-equality of nested checkpoints."""
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for k, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{where}[{k}]")
    else:
        assert a == b, where


def same_end(a: Path, b: Path) -> None:
    ours, theirs = (read_checkpoint(run / "checkpoints" / "last.ckpt") for run in (a, b))
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step"):
        same(ours[key], theirs[key], key)
    for k in (1, 2):
        first, second = (read_checkpoint(run / "checkpoints" / f"stage{k}.ckpt") for run in (a, b))
        same(first["state_dict"], second["state_dict"], f"stage{k}")
    for name in (key for key in ours["callbacks"] if "StageSchedule" in key or "RandomState" in key):
        same(ours["callbacks"][name], theirs["callbacks"][name], name)


@pytest.fixture(scope="module")
def undisturbed(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    done = execute(command(world, run, 0), run)
    assert done.returncode == 0, done.stderr
    return run


@pytest.mark.slow
def test_number_of_workers_and_process_leave_no_trace(world: Path, undisturbed: Path, tmp_path: Path) -> None:
    """Same seed in another process, loading with two workers: the same batches, losses and weights."""
    done = execute(command(world, tmp_path / "run", 2), tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert steps(tmp_path / "run") == steps(undisturbed)
    same_end(tmp_path / "run", undisturbed)


@pytest.mark.slow
def test_another_seed_is_another_run(world: Path, undisturbed: Path, tmp_path: Path) -> None:
    """The equalities of this file are no accident of a loss that never changes."""
    more = ("--seed_everything=5", "--trainer.max_epochs=1")
    done = execute(command(world, tmp_path / "run", 0, *more), tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert steps(tmp_path / "run")[1] != steps(undisturbed)[1]
    assert len({row[1] for row in steps(undisturbed).values()}) == len(steps(undisturbed))


def per_epoch(run: Path) -> int:
    total = steps(run)
    assert len(total) % 4 == 0
    return len(total) // 4


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "epoch", "offset"), [(0, 1, 2), (0, 2, 1), (2, 2, 3), (0, 3, 2)])
def test_killed_run_goes_on_exactly(
    world: Path, undisturbed: Path, tmp_path: Path, workers: int, epoch: int, offset: int
) -> None:
    """kill -9 in the middle of an epoch of every stage, and between a stage's last batch and its validation."""
    run = tmp_path / "run"
    n = per_epoch(undisturbed)
    assert n >= 4
    kill_at = epoch * n + offset
    done = execute(command(world, run, workers, kill_at=kill_at), run)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert max(steps(run)) == kill_at
    newest = max((run / "checkpoints").glob("step=*.ckpt"), key=lambda p: int(p.stem.split("=")[1]))
    resumed_from = int(newest.stem.split("=")[1])
    assert resumed_from == kill_at - kill_at % 2
    done = execute(command(world, run, workers, f"--ckpt_path={newest}"), run)
    assert done.returncode == 0, done.stderr
    assert steps(run) == steps(undisturbed)
    same_end(run, undisturbed)


def test_half_written_checkpoint_is_never_seen(tmp_path: Path) -> None:
    """The old checkpoint stands, under its name and whole, until the new one is complete."""
    folder = tmp_path / "checkpoints"
    target = folder / "last.ckpt"
    io = AtomicCheckpointIO()
    io.save_checkpoint({"state_dict": {"w": torch.ones(3)}}, target)

    class Dies:
        def __reduce__(self) -> Any:
            assert not any(f.name.endswith(".ckpt") for f in folder.iterdir() if f != target)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        io.save_checkpoint({"state_dict": {"w": torch.zeros(3)}, "x": Dies()}, target)
    assert read_checkpoint(target)["state_dict"]["w"].tolist() == [1, 1, 1]
    half = folder / ".last.ckpt.999"
    half.write_bytes(target.read_bytes()[:100])
    assert [f.name for f in folder.glob("*.ckpt")] == ["last.ckpt"]
    with pytest.raises(ValueError, match="incomplete"):
        read_checkpoint(half)


def test_a_checkpoint_with_code_is_refused(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path / 'owned'}",)

    torch.save({"state_dict": {}, "x": Payload()}, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match="never run"):
        read_checkpoint(tmp_path / "evil.ckpt")
    assert not (tmp_path / "owned").exists()
