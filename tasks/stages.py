"""Several training stages inside one fit: fresh optimiser, frozen parts, hand-over of the best weights."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy

from .base import Task, lower_is_better
from .checkpoints import read_checkpoint

log = logging.getLogger(__name__)
DIVIDING = (DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy)  # they fix at the start what is trained


class StageSchedule(Callback):
    """Walks a task through its stages.

    A stage starts from the best weights of the stage before, judged by that stage's or the task's monitor. They
    are kept as ``stage<k>.ckpt`` beside the other checkpoints, so that a run resumes exactly, in the middle of a
    stage as well as between two.

    Args:
        folder: where the best weights of each stage are kept.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.best: float | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Train for the sum of all stages, unless the trainer was told to stop earlier.

        Raises:
            ValueError: there are several, and the strategy divides parameters among devices.
        """
        task = _task(pl_module)
        if stage == "fit" and len(task.stages) > 1 and isinstance(trainer.strategy, DIVIDING):
            raise ValueError(
                f"{type(task).__name__} is trained in {len(task.stages)} stages, and "
                f"{type(trainer.strategy).__name__} divides what a single one trains: take trainer/ddp_bf16.yaml"
            )
        total = sum(s.epochs for s in task.stages)
        if stage == "fit" and (trainer.max_epochs is None or not 0 <= trainer.max_epochs < total):
            trainer.fit_loop.max_epochs = total

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Behind a checkpoint of an epoch's last batch: what Lightning leaves out, validation and a new stage."""
        loop = trainer.fit_loop
        batches = loop.epoch_loop
        ended = batches.restarted_on_train_batch_end and batches.batch_progress.is_last_batch
        if not (loop.restarted_mid_epoch and ended):
            return
        if trainer.enable_validation and trainer.current_epoch % (trainer.check_val_every_n_epoch or 1) == 0:
            trainer.validating = True
            batches.val_loop.run()
            trainer.training = True
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Enter the stage that this epoch belongs to."""
        task = _task(pl_module)
        index = self._stage_of(task, trainer.current_epoch)
        if index == task.stage_index:
            return
        source = self._path(task.stage_index)
        if source.exists():
            task.load_state_dict(read_checkpoint(source)["state_dict"])
            log.info("stage %d starts from the best weights of stage %d (%.2f)", index + 1, index, self.best)
        task.enter_stage(index)
        self.best = None
        if isinstance(trainer.strategy, DDPStrategy):  # it reduces what was trainable at its making
            trainer.strategy.model = task
            trainer.strategy.configure_ddp()
        trainer.strategy.setup_optimizers(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the weights if they are the best of this stage; another data set may lack the stage's metric."""
        task = _task(pl_module)
        last = task.stage_index == len(task.stages) - 1
        if trainer.state.fn != "fit" or trainer.sanity_checking or last or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        known, wanted = trainer.callback_metrics, task.stage.monitor
        if wanted is not None and wanted not in known:
            names = ", ".join(sorted(name for name in known if name.startswith("val/"))) or "nothing"
            log.warning("stage %d is judged by %s, not by %s, which is none of %s", task.stage_index + 1,
                        task.monitor, wanted, names)  # fmt: skip
            wanted = None
        value = known.get(wanted or task.monitor or "")
        if value is None:
            return
        sign = -1 if lower_is_better(wanted or task.monitor or "") else 1
        if self.best is None or not math.isfinite(self.best) or sign * value.item() > sign * self.best:
            self.best = value.item()
            trainer.save_checkpoint(self._path(task.stage_index), weights_only=True)

    def state_dict(self) -> dict[str, Any]:
        """The best value of the current stage."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up where the checkpoint left off."""
        self.best = state_dict["best"]

    def _path(self, index: int) -> Path:
        return self.folder / f"stage{index + 1}.ckpt"

    @staticmethod
    def _stage_of(task: Task, epoch: int) -> int:
        ends = torch.tensor([s.epochs for s in task.stages]).cumsum(0)
        return min(int((ends <= epoch).sum()), len(task.stages) - 1)


def _task(module: L.LightningModule) -> Task:
    assert isinstance(module, Task), f"{type(module).__name__} is not a groundzoo task"
    return module
