"""GROVE in two processes computes what one computes on both clips, and divided what it computes undivided."""

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

import groundzoo
from groundzoo.cli import main
from groundzoo.datamodules.toyworld.generate import generate

PROGRAM = Path(__file__).with_name("two_grove_processes.py")
_spec = importlib.util.spec_from_file_location("two_grove_processes", PROGRAM)
assert _spec is not None
assert _spec.loader is not None
program = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(program)

pytestmark = pytest.mark.slow


class Results(NamedTuple):
    """What each of two processes found, the folder of their runs and the world these are of."""

    ranks: list[dict[Any, Any]]
    folder: Path
    world: Path


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Two processes, on a world with an odd number of clips to test on."""
    home = tmp_path_factory.mktemp("grove_ddp")
    options: dict[str, Any] = {"preset": "grounded", "format": "iground", "videos": 12, "test_fraction": 0.25}
    world = generate(home / "world", workers=1, **options)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, str(PROGRAM), str(home), str(world), str(port)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PATH": ""}  # without Java and the scores that need it
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=500)
    assert done.returncode == 0, done.stderr[-4000:]
    return Results([torch.load(home / f"rank{k}.pt", weights_only=True) for k in range(2)], home, world)


# ---- gradients ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sentences", program.SENTENCES)
def test_losses_and_gradients_are_those_of_both_clips(results: Results, sentences: str) -> None:
    """Whatever the numbers of words and phrases in each process; also where nothing has a box."""
    values, grads = program.gradients(sentences, False, [0, 1])
    assert values["caption"] > 1
    assert all((value > 0.01) == (sentences != "none") for name, value in values.items() if name != "caption")
    for rank in results.ranks:
        theirs, their_grads = rank[sentences, False]
        assert theirs == pytest.approx(values, rel=1e-5)
        assert their_grads.keys() == grads.keys()
        for name, grad in grads.items():
            torch.testing.assert_close(their_grads[name], grad, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("sentences", program.SENTENCES)
def test_frozen_parts_have_no_gradients_and_others_nearly_the_same(results: Results, sentences: str) -> None:
    values, grads = program.gradients(sentences, True, [0, 1])
    task = program.tiny_grove(**program.parts(True))
    assert grads.keys() == {name for name, p in task.named_parameters() if p.requires_grad}
    frozen = [name for name, p in task.named_parameters() if p.dtype == torch.bfloat16]
    assert {name.split(".")[0] for name in frozen} == {"video_encoder", "grounding_encoder", "language_model"}
    assert not grads.keys() & set(frozen)
    for rank in results.ranks:
        theirs, their_grads = rank[sentences, True]
        assert theirs == pytest.approx(values, rel=0.02)
        assert their_grads.keys() == grads.keys()
        both = [torch.cat([g[name].flatten() for name in grads]) for g in (grads, their_grads)]
        assert torch.cosine_similarity(*both, dim=0) > 0.999


# ---- runs -----------------------------------------------------------------------------------------------


def weights(folder: Path) -> dict[str, torch.Tensor]:
    stored = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert stored["epoch"] == 1
    found: dict[str, torch.Tensor] = stored["state_dict"]
    return found


def test_divided_and_resumed_is_whole_and_uninterrupted(results: Results) -> None:
    """With frozen parts in bfloat16, activations computed twice, clipped and accumulated gradients."""
    expected, found = weights(results.folder / "whole"), weights(results.folder / "divided")
    assert found.keys() == expected.keys()
    assert all(found[name].dtype == value.dtype for name, value in expected.items())
    apart = torch.cat([(found[name] - value).float().abs().flatten() for name, value in expected.items()])
    assert apart.max() < 1e-3, "of four steps of 1e-3; Adam makes much of the rounding of small gradients"
    assert apart.mean() < 1e-6
    start = groundzoo.load(results.folder / "divided" / "checkpoints" / "last.ckpt").state_dict()
    assert start.keys() == found.keys()
    assert all(torch.equal(start[name], value) for name, value in found.items())
    tables = [value for name, value in found.items() if "rel_pos" in name]
    assert {value.dtype for value in tables} == {torch.bfloat16, torch.float32}, "layers with both kinds"


def test_each_device_answers_with_all_weights(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    """And one that knows nothing of dividing opens the checkpoint."""
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("GROUNDZOO_RUN_DIR", raising=False)
    alone, divided = results.folder / "alone", results.folder / "divided"
    checkpoint = divided / "checkpoints" / "last.ckpt"
    main(["test", *program.words(results.world, 1), f"--run_dir={alone}", f"--ckpt_path={checkpoint}"])
    found, expected = (
        [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
        for folder in (divided, alone)
    )
    assert [r["query_id"] for r in found] == [r["query_id"] for r in expected]
    assert [r["caption"] for r in found] == [r["caption"] for r in expected]
    assert len(found) == 3, "an odd number for two devices"
    scores, own = (json.loads((f / "metrics.json").read_text()) for f in (divided, alone))
    names = [name for name in own if name.startswith("test/") and name != "test/loss"]  # a repeated clip twice
    assert {name: scores[name] for name in names} == pytest.approx({name: own[name] for name in names}, abs=1e-4)
