"""Learning rates of all parts in every step of a fit, against TSP's program."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from golden_files import golden_cases
from tiny_satsp import Clips, satsp_task, trainer

from groundzoo.tasks.satsp import PAPER_STAGES

pytestmark = pytest.mark.golden
GROUP = {"backbone": 0, "fc": 1, "stem": 2}  # the stage's own rate, then those of `lr_of`

files = pytest.mark.parametrize("path", golden_cases("satsp", "tsp_lr_schedule*.json"), ids=lambda p: p.stem)


class Watch(L.Callback):
    """Notes the rates that every step is made with."""

    def __init__(self) -> None:
        self.rates: list[list[float]] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.rates.append([group["lr"] for group in optimizer.param_groups])


@files
def test_every_step_of_a_fit(path: Path) -> None:
    given = json.loads(path.read_text())
    expected, per_epoch = given["lr_per_iteration"], given["iters_per_epoch"]
    peak = {name: max(row[k] for row in expected) for k, name in enumerate(given["groups"])}
    (paper,) = PAPER_STAGES
    epochs = len(expected) // per_epoch
    stage = dataclasses.replace(
        paper, lr=peak["backbone"], lr_of={"network": peak["fc"], "stem": peak["stem"]}, epochs=epochs
    )
    watch = Watch()
    fit = trainer(max_epochs=epochs, callbacks=[watch], limit_val_batches=0)
    fit.fit(satsp_task(stages=[stage], vocabulary=None), datamodule=Clips(per_epoch))
    assert len(watch.rates) == len(expected)
    for found, row in zip(watch.rates, expected, strict=True):
        assert [found[GROUP[name]] for name in given["groups"]] == pytest.approx(row, rel=1e-9, abs=0)


@files
def test_the_default_is_what_the_program_ran(path: Path) -> None:
    given = json.loads(path.read_text())
    (stage,) = PAPER_STAGES
    assert stage.epochs * given["iters_per_epoch"] == len(given["lr_per_iteration"])
    top = dict(zip(given["groups"], map(max, zip(*given["lr_per_iteration"], strict=True)), strict=True))
    assert {"backbone": stage.lr, "fc": stage.lr_of["network"], "stem": stage.lr_of["stem"]} == pytest.approx(top)
