"""Weights & Biases is a convenience: without network, credentials or luck a run still ends well."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from groundzoo.tasks import launch
from groundzoo.tasks.checkpoints import read_checkpoint

ONLINE = ["--trainer.logger=WandbLogger", "--trainer.logger.project=groundzoo"]


def shorter(options: list[str]) -> list[str]:
    return [*options, "--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--run_dir=run"]


@pytest.mark.slow
def test_offline_by_itself(trained: Any, tmp_path: Path) -> None:
    """In a process of its own: no key, no home with a .netrc, no network, nobody to answer a prompt."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "NETRC"))}
    environment |= {"HOME": str(tmp_path), "https_proxy": "http://127.0.0.1:9", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "groundzoo", "fit", *shorter(trained.options), *ONLINE],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (line,) = [text for text in done.stderr.splitlines() if text.startswith("W&B:")]
    assert "offline" in line
    assert "wandb sync run/wandb/offline-*" in line
    assert len(list(Path("run/wandb").glob("offline-run-*/*.wandb"))) == 1
    assert Path("run/checkpoints/last.ckpt").exists()
    assert not Path("wandb").exists()


def test_disabled(trained: Any, cli: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    done = cli("fit", *shorter(trained.options), *ONLINE)
    assert done.code == 0, done.err
    assert "W&B" not in done.err
    assert list(Path().rglob("*.wandb")) == []
    assert Path("run/checkpoints/last.ckpt").exists()


@pytest.mark.parametrize(
    ("key", "netrc", "reachable", "expected"),
    [
        (None, None, True, "no credentials"),
        ("k", None, False, "cannot be reached"),
        ("k", None, True, None),
        (None, "machine api.wandb.ai\n login user\n password p\n", True, None),
        (None, "machine example.org\n login user\n password p\n", True, "no credentials"),
        (None, "this is no netrc file", True, "no credentials"),
    ],
)
def test_when_it_goes_offline(
    key: str | None,
    netrc: str | None,
    reachable: bool,
    expected: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    class Connection:
        def close(self) -> None:
            pass

    def connect(address: tuple[str, int], timeout: float) -> Connection:
        asked.append(address)
        if not reachable:
            raise OSError("no network")
        return Connection()

    monkeypatch.setattr(launch.socket, "create_connection", connect)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("WANDB_API_KEY", key)
    if netrc is not None:
        (tmp_path / "netrc").write_text(netrc)
        (tmp_path / "netrc").chmod(0o600)
    reason = launch._wandb_unusable()
    assert (reason is None) if expected is None else (reason is not None and expected in reason)
    if reason is None:
        assert asked == [("api.wandb.ai", 443)]


BROKEN_LOGGER = """
from lightning.pytorch.loggers import Logger

class BrokenLogger(Logger):
    name, version = "broken", 0
    def log_hyperparams(self, *args, **kwargs): pass
    def log_metrics(self, metrics, step=None):
        if any(key.startswith("val/") for key in metrics) and step >= {step}:
            raise ConnectionError("the logging service went away")
"""


def test_crash_of_a_logger_loses_no_checkpoint(
    trained: Any, cli: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_broken_logger.py").write_text(BROKEN_LOGGER.format(step=2))
    monkeypatch.syspath_prepend(tmp_path)
    options = [
        *shorter(trained.options),
        "--trainer.max_epochs=3",
        "--trainer.logger=a_broken_logger.BrokenLogger",
    ]
    crashed = cli("fit", *options)
    assert crashed.code == 1
    assert "the logging service went away" in crashed.err
    assert read_checkpoint(Path("run/checkpoints/last.ckpt"))["epoch"] == 1
    done = cli("fit", *options, "--trainer.logger=false", "--ckpt_path=run/checkpoints/last.ckpt")
    assert done.code == 0, done.err
    assert read_checkpoint(Path("run/checkpoints/last.ckpt"))["epoch"] == 2
