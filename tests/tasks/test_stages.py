"""The training schedule: which epoch belongs to which stage, at which rate, from which weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from tiny_grounding import tiny_task, write_charades

from groundzoo.datamodules.charades_sta import CharadesSTA
from groundzoo.tasks.drn import DRN, LossOptions
from groundzoo.tasks.schedules import Stage, Warmup
from groundzoo.tasks.stages import StageSchedule

STAGES = (
    Stage(("match", "location"), "grounder", 1e-2, 3),
    Stage(("quality",), "quality", 2e-3, 2),
    Stage(("match", "location", "quality"), "all", 5e-4, 1),
)
SCORES = [5.0, 9.0, 2.0, 1.0, 0.5, 0.0]


class Scripted(DRN):
    """A DRN whose validation gives the values of `scores`, one per epoch."""

    monitor = "val/score"
    scores = SCORES

    def on_validation_epoch_end(self) -> None:
        self.log("val/score", self.scores[self.trainer.current_epoch])
        self.log("val/other", -self.scores[self.trainer.current_epoch])


class Watch(Callback):
    """Notes what every step is like."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []
        self.starts: dict[int, dict[str, torch.Tensor]] = {}
        self.ends: dict[int, dict[str, torch.Tensor]] = {}

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        group = trainer.optimizers[0].param_groups[0]
        trained = {id(p) for p in group["params"]}
        self.steps.append(
            {
                "epoch": trainer.current_epoch,
                "stage": pl_module.stage_index,
                "lr": group["lr"],
                "rates": [g["lr"] for g in trainer.optimizers[0].param_groups],
                "trained": {name for name, p in pl_module.named_parameters() if id(p) in trained},
                "age": max((int(s["step"]) for s in trainer.optimizers[0].state.values()), default=0),
            }
        )
        if batch_idx == 0:
            self.starts[trainer.current_epoch] = weights(pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.ends[trainer.current_epoch] = weights(pl_module)


def weights(task: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in task.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_charades(tmp_path / "charades", videos=9, per_video=2, test=2)


def fit(
    root: Path, stages: tuple[Stage, ...] = STAGES, loss: LossOptions | None = None, **options: Any
) -> tuple[Watch, L.Trainer, Any]:
    task, watch = tiny_task(kind=Scripted, stages=stages, loss=loss), Watch()
    data = CharadesSTA(root, features=root / "features", val_fraction=0.3, batch_size=4, num_workers=0)
    settings = {"max_epochs": -1, "num_sanity_val_steps": 0} | options
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[StageSchedule(root / "stages"), watch],
        **settings,
    )
    trainer.fit(task, datamodule=data)
    return watch, trainer, task


def test_every_epoch_has_its_stage_and_rate(root: Path) -> None:
    watch, trainer, _ = fit(root)
    assert trainer.max_epochs == 6
    stage_of = {step["epoch"]: step["stage"] for step in watch.steps}
    assert stage_of == {0: 0, 1: 0, 2: 0, 3: 1, 4: 1, 5: 2}
    assert {(step["stage"], step["lr"]) for step in watch.steps} == {(0, 1e-2), (1, 2e-3), (2, 5e-4)}
    heads = {name for name in watch.ends[0] if ".head.quality." in name}
    trained = {step["stage"]: step["trained"] for step in watch.steps}
    assert trained[1] <= heads
    assert not trained[0] & heads
    assert trained[2] == trained[0] | trained[1]


def test_a_stage_starts_with_a_fresh_optimiser(root: Path) -> None:
    watch, _, _ = fit(root)
    ages = [step["age"] for step in watch.steps]
    firsts = [k for k, step in enumerate(watch.steps) if k == 0 or step["stage"] != watch.steps[k - 1]["stage"]]
    assert len(firsts) == 3
    assert [ages[k] for k in firsts] == [0, 0, 0]
    assert all(ages[k] == ages[k - 1] + 1 for k in range(len(ages)) if k not in firsts)


def test_a_stage_starts_from_the_best_weights_of_the_one_before(root: Path) -> None:
    """Scores 5, 9, 2: the second epoch's weights are handed over, not the third's."""
    watch, _, _ = fit(root)
    assert same(watch.starts[3], watch.ends[1])
    assert not same(watch.starts[3], watch.ends[2])
    assert same(watch.starts[5], watch.ends[3])  # scores 1, 0.5: judged anew in every stage
    assert not same(watch.ends[3], watch.ends[4])


@pytest.mark.parametrize("scores", [[math.nan, 1.0, 0.5, 0.0, 0.0, 0.0], [1.0, 3.0, math.nan, 0.0, 0.0, 0.0]])
def test_scores_that_are_no_numbers_are_never_best(
    root: Path, monkeypatch: pytest.MonkeyPatch, scores: list[float]
) -> None:
    monkeypatch.setattr(Scripted, "scores", scores)
    watch, _, _ = fit(root)
    assert same(watch.starts[3], watch.ends[1])


def test_an_earlier_end_is_respected(root: Path) -> None:
    watch, trainer, task = fit(root, max_epochs=4)
    assert trainer.max_epochs == 4
    assert sorted(watch.ends) == [0, 1, 2, 3]
    assert task.stage_index == 1
    watch, trainer, task = fit(root, max_steps=2)
    assert len(watch.steps) == 2
    assert fit(root, max_epochs=99)[1].max_epochs == 6


def test_one_cycle_rises_and_falls_within_its_stage(root: Path) -> None:
    stages = (
        Stage(("match", "location"), "grounder", 1e-2, 3, schedule="one_cycle"),
        Stage(("quality",), "quality", 1e-3, 1),
        Stage(("match",), "all", 1e-2, 2, schedule="one_cycle"),
    )
    watch, _, _ = fit(root, stages)
    for stage in (0, 2):
        rates = [step["lr"] for step in watch.steps if step["stage"] == stage]
        peak = rates.index(max(rates))
        assert 0.7e-2 < max(rates) <= 1e-2
        assert rates[:peak] == sorted(rates[:peak])
        assert rates[peak:] == sorted(rates[peak:], reverse=True)
        assert rates[-1] < 0.2e-2
        assert 0 < peak < len(rates) / 2
    assert {step["lr"] for step in watch.steps if step["stage"] == 1} == {1e-3}


def test_warm_up_and_cosine_step_by_step(root: Path) -> None:
    stage = Stage(("match", "location"), "grounder", 1e-2, 2, Warmup(2))
    watch, _, _ = fit(root, (stage,))
    total = len(watch.steps)
    rates = [1e-2 / 3, 2e-2 / 3]
    rates += [1e-2 * (1 + math.cos(math.pi * (k - 2) / (total - 2))) / 2 for k in range(2, total)]
    assert [step["lr"] for step in watch.steps] == pytest.approx(rates)
    assert Warmup(5000).share(0, 10) == pytest.approx(1 / 6)  # a short stage still reaches its rate
    assert Warmup(5000).share(5, 10) == 1.0


@pytest.mark.parametrize("schedule", ["constant", "one_cycle"])
def test_parts_may_have_a_rate_of_their_own(root: Path, schedule: Any) -> None:
    stage = Stage(("match", "location"), "all", 1e-2, 2, schedule, lr_of={"text_encoder": 1e-4})
    watch, trainer, task = fit(root, (stage,))
    assert all(step["rates"][1] == pytest.approx(step["rates"][0] / 100) for step in watch.steps)
    own = {id(p) for p in trainer.optimizers[0].param_groups[1]["params"]}
    assert own == {id(p) for p in task.text_encoder.parameters()}
    ids = [id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in task.parameters() if p.requires_grad)


def test_a_stage_may_be_judged_by_a_metric_of_its_own(root: Path) -> None:
    """By the other metric, the first epoch (score 5 of 5, 9, 2) is second best and the third is best."""
    first = Stage(("match", "location"), "grounder", 1e-2, 3, monitor="val/other")
    watch, _, _ = fit(root, (first, *STAGES[1:]))
    assert same(watch.starts[3], watch.ends[2])


def test_a_metric_that_is_not_there_is_told(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The task's own metric judges in its place: the second epoch is best."""
    first = Stage(("match", "location"), "grounder", 1e-2, 3, monitor="val/othr")
    watch, _, _ = fit(root, (first, *STAGES[1:]))
    assert "stage 1 is judged by val/score, not by val/othr" in caplog.text
    assert "val/other" in caplog.text
    assert same(watch.starts[3], watch.ends[1])


def test_limits_on_batches_start_at_the_front_every_epoch(root: Path) -> None:
    """A validation that is cut short sees the same queries each time."""
    task = tiny_task(stages=STAGES[:1])
    seen: list[list[str]] = []

    class Note(Callback):
        def on_validation_batch_start(self, trainer: Any, pl_module: Any, batch: Any, *_: Any) -> None:
            seen.append(batch.query_ids)

    data = CharadesSTA(
        root, features=root / "features", val_fraction=0.4, batch_size=4, eval_batch_size=1, num_workers=0
    )
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=2,
        limit_val_batches=1,
        limit_train_batches=1,
        num_sanity_val_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Note()],
    )
    trainer.fit(task, datamodule=data)
    assert len(seen) == 3
    assert seen[0] == seen[1] == seen[2]
    assert data.read("val")[0].query_id == seen[0][0]


def test_evaluation_leaves_the_random_numbers_of_training_alone(root: Path) -> None:
    """With or without validation in between, training draws the same numbers."""
    ends = []
    for every in (1, 3):
        torch.manual_seed(0)
        watch, _, _ = fit(root, STAGES[:1], LossOptions(positives="random"), check_val_every_n_epoch=every)
        ends.append(watch.ends[2])
    assert same(*ends)
