"""STG in two processes computes what one computes on the doubled batch; in bfloat16 nearly the same."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from tiny_stg import B, narration_batch, stg_task

from groundzoo.datamodules.toyworld.generate import generate

PROGRAM = Path(__file__).with_name("two_stg_processes.py")
_spec = importlib.util.spec_from_file_location("two_stg_processes", PROGRAM)
assert _spec is not None
assert _spec.loader is not None
program = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(program)


class Results(NamedTuple):
    """Of both processes, of one alone, and the folders of their runs."""

    ranks: list[dict[str, Any]]
    alone: dict[str, Any]
    two: Path
    one: Path


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Two processes on 4 narrated videos and an annotated one with an odd number of stretches."""
    home = tmp_path_factory.mktemp("stg_ddp")
    options: dict[str, Any] = {"format": "howto100m", "preset": "narrations", "videos": 6, "test_fraction": 0.17}
    world = generate(home / "world", workers=1, **options)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, str(PROGRAM), str(world), str(home), str(port)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr[-4000:]
    ranks = [torch.load(home / f"rank{k}.pt", weights_only=True) for k in range(2)]
    return Results(ranks, program.fit_and_test(world, 1, home / "one"), home / "two", home / "one")


@pytest.mark.slow
@pytest.mark.parametrize("sound", program.SOUND)
@pytest.mark.parametrize(("loss", "group"), [("global", None), ("local", B // 2)])
def test_gradients_are_those_of_the_doubled_batch(
    loss: str, group: int | None, sound: bool, results: Results
) -> None:
    """The global branch contrasts with the texts of all processes, the local one within each."""
    value, grads = program.gradients(loss, sound, range(B), group)
    assert value > 1e-2
    assert any(grad.abs().max() > 1e-3 for grad in grads.values())
    if loss == "local":
        assert program.gradients(loss, sound, range(B))[0] != pytest.approx(value, rel=1e-3), (
            "groups do not matter"
        )
    for rank in results.ranks:
        theirs, their_grads = rank["gradients"][loss, sound]
        assert theirs == pytest.approx(value, rel=1e-5)
        assert their_grads.keys() == grads.keys()
        for name, grad in grads.items():
            torch.testing.assert_close(their_grads[name], grad, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.slow
def test_weights_stay_equal_and_move(results: Results) -> None:
    first, second = (rank["run"]["last"] for rank in results.ranks)
    before = results.alone["first"]
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    moved = {name.split(".")[1] for name, value in first.items() if not torch.equal(value, before[name])}
    assert {"f", "g", "f_local", "g_local", "local"} <= moved


@pytest.mark.slow
def test_a_repeated_stretch_counts_once(results: Results) -> None:
    records = [json.loads(line) for line in (results.two / "predictions.jsonl").read_text().splitlines()]
    expected = [json.loads(line) for line in (results.one / "predictions.jsonl").read_text().splitlines()]
    assert len(records) % 2 == 1, "no stretch is computed twice"
    assert [r["query_id"] for r in records] == [r["query_id"] for r in expected]
    assert {r["protocol"] for r in records} == {"untrimmed", "spatial"}
    for rank in results.ranks:
        assert rank["run"]["metrics"] == pytest.approx(results.alone["metrics"], abs=1e-6)
    assert [r["tubes"] for r in records] == [r["tubes"] for r in expected]
    assert results.alone["metrics"]["test/frame accuracy"] > 0, "compared with nothing"


@pytest.mark.slow
def test_a_process_may_have_nothing_to_say(results: Results) -> None:
    """So it is with few stretches of several protocols."""
    assert [rank["idle"] for rank in results.ranks] == [100.0, 100.0]


@pytest.mark.parametrize("sound", program.SOUND)
def test_bfloat16_gives_nearly_the_same(sound: bool) -> None:
    """Losses, and the direction of every part's gradient."""
    found = []
    for enabled in (False, True):
        task = stg_task(audio_encoder=program.Ear() if sound else None)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            losses = task.step(narration_batch(sound=sound), "train").losses
        torch.stack(list(losses.values())).sum().backward()
        grads = {name: p.grad for name, p in task.named_parameters() if p.grad is not None}
        found.append(({name: value.item() for name, value in losses.items()}, grads))
    (full, grads), (half, half_grads) = found
    assert half != full, "nothing ran in bfloat16"
    assert half == pytest.approx(full, rel=0.02)
    assert half_grads.keys() == grads.keys()
    for name, grad in grads.items():
        assert half_grads[name].isfinite().all(), name
        if grad.abs().max() > 1e-3:  # the gradient of a key's bias is noise: it moves all scores of a query alike
            assert torch.cosine_similarity(grad.flatten(), half_grads[name].flatten(), dim=0) > 0.99, name
