"""Two processes compute what one computes on the doubled batch."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_grounding import write_charades

from groundzoo.tasks.metrics.grounding import MomentRecall

PROGRAM = Path(__file__).with_name("two_processes.py")
_spec = importlib.util.spec_from_file_location("two_processes", PROGRAM)
assert _spec is not None
assert _spec.loader is not None
program = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(program)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_charades(tmp_path_factory.mktemp("data") / "charades", videos=13, test=3)


@pytest.fixture(scope="module")
def ranks(root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    out = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(root), str(out), str(port)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [torch.load(out / f"rank{k}.pt", weights_only=True) for k in range(2)]


@pytest.fixture(scope="module")
def alone(root: Path) -> dict[str, Any]:
    return program.fit_and_validate(root, "auto", 1, root / "stages1")


@pytest.mark.parametrize("rule", ["paper", "released"])
def test_losses_and_gradients_are_those_of_the_doubled_batch(ranks: list[dict[str, Any]], rule: str) -> None:
    values, grads = program.gradients(rule, program.SHARES["even"][0] + program.SHARES["even"][1], 1)
    assert all(value > 1e-4 for name, value in values.items() if rule == "paper" or name != "quality")
    for rank in ranks:
        theirs, their_grads = rank["gradients"][rule]
        assert theirs == pytest.approx(values, rel=1e-6, abs=1e-6)
        assert their_grads.keys() == grads.keys()
        for name, grad in grads.items():
            torch.testing.assert_close(their_grads[name], grad, rtol=1e-5, atol=1e-6, msg=name)


def test_metric_of_uneven_shares_with_a_repeated_query(ranks: list[dict[str, Any]]) -> None:
    metric = MomentRecall()
    program.seen(metric, list(range(9)))
    expected = metric.compute()
    assert 0 < expected["mIoU"] < 100
    for rank in ranks:
        assert rank["metric"].keys() == expected.keys()
        for name, value in expected.items():
            assert rank["metric"][name].item() == pytest.approx(value.item(), rel=1e-6), name


def test_all_stages_run_and_ranks_stay_equal(ranks: list[dict[str, Any]]) -> None:
    first, second = (rank["run"]["epochs"] for rank in ranks)
    assert len(first) == 3
    for epoch, (a, b) in enumerate(zip(first, second, strict=True)):
        for name in a:
            if "running_" not in name and "num_batches" not in name:  # statistics are each rank's own until synced
                assert torch.equal(a[name], b[name]), (epoch, name)
    moved = {k: {name for name in first[0] if not torch.equal(first[k - 1][name], first[k][name])} for k in (1, 2)}
    assert any(name.startswith("network.head.quality.") for name in moved[1])
    assert all(name.startswith("network.head.quality.") for name in moved[1]), moved[1]
    assert any(name.startswith("text_encoder.lstm") for name in moved[2])


def test_ranks_share_the_samples(ranks: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    shares = [rank["run"]["queries"] for rank in ranks]
    assert len(shares[0]) == len(shares[1])
    n = len(alone["queries"]) // 3
    assert set(shares[0]) | set(shares[1]) == set(alone["queries"])
    per_epoch = len(shares[0]) // 3
    for epoch in range(3):
        part = slice(epoch * per_epoch, (epoch + 1) * per_epoch)
        repeated = 2 * per_epoch - n
        assert repeated in (0, 1)
        assert len(set(shares[0][part]) & set(shares[1][part])) <= repeated
        assert set(shares[0][part]) | set(shares[1][part]) == set(alone["queries"])


def test_metrics_of_an_uneven_split_are_exact(ranks: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    """9 test queries on two processes, batches of 2: one query is computed twice and counted once."""
    names = [name for name in alone["metrics"] if name != "test/loss"]
    assert len(names) >= 7
    for rank in ranks:
        for name in names:
            assert rank["run"]["metrics"][name] == pytest.approx(alone["metrics"][name], rel=1e-6), name
