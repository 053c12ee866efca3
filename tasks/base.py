"""What every paper's LightningModule shares: logging, metrics, predictions, stages, checkpoints."""

from __future__ import annotations

import copy
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import lightning as L
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from ..zoo.encoder import Encoder
from ..zoo.text.base import TextEncoder
from ..zoo.video.base import VideoEncoder, VideoUnits
from .schedules import SGD, AdamW, Stage, StepDecay, Warmup, WarmupSteps, one_cycle
from .sharding import shard

log = logging.getLogger(__name__)

Prediction = dict[str, Any]


def lower_is_better(monitor: str) -> bool:
    """Whether the best value of a logged metric is the lowest: it is a loss."""
    return monitor.endswith("loss")


class Step(NamedTuple):
    """What a paper's `step` returns.

    Attributes:
        losses: named scalars; their sum is minimised, so weights are already in them.
        outputs: whatever `update_metric` and `predictions` need.
    """

    losses: dict[str, Tensor]
    outputs: Any


class Task(L.LightningModule, ABC):
    """Base of all tasks. A paper implements `step`, `metric`, `update_metric` and `predictions`.

    Args:
        stages: the training schedule.
        encoders: the task's encoders by the name of its argument for each; they become attributes of that name.
            None is an encoder that the task does without.

    Attributes:
        network: the paper's nn.Module, usable without Lightning.
        video_encoder: how video is read; the data module asks it for frame rate, window and size.
        text_encoder: how text is read, where the task reads any.
        encoders: names of the encoders there are.
        monitor: key of the metric that picks the best checkpoint; of a loss the lowest value is the best, of all
            else the highest. The command line takes that of `monitor_on`.
        large: names of parts whose layers `FullShard` divides one by one; each layer runs once in every step.
        awaits_checkpoint: set by the command line where a checkpoint is loaded after `setup`: it has the words.
        video_reader: set by `groundzoo.load`; turns a video file into the encoder's units.
        window_reader: set by `groundzoo.load`; reads the frames of one pass per clip, for a trainable encoder.
        sample_reader: set by `groundzoo.load`; reads the frames of a stretch of video as encoders want them.
        moment_reader: set by `groundzoo.load`; reads those of a whole video at a fixed rate, piece by piece.
    """

    network: nn.Module
    video_encoder: VideoEncoder
    text_encoder: TextEncoder
    monitor: str | None = "val/loss"
    large: tuple[str, ...] = ()
    awaits_checkpoint = False
    video_reader: Callable[[VideoEncoder, Path], VideoUnits] | None = None
    window_reader: Callable[..., tuple[Tensor, Tensor, float]] | None = None
    sample_reader: Callable[..., Any] | None = None
    moment_reader: Callable[..., Any] | None = None

    def __init__(self, stages: Sequence[Stage], encoders: Mapping[str, Encoder | None]) -> None:
        super().__init__()
        if not stages:
            raise ValueError("stages is empty: a task needs at least one stage of training")
        for name, encoder in encoders.items():
            setattr(self, name, encoder)
        self.encoders = tuple(name for name, encoder in encoders.items() if encoder is not None)
        self.stages = tuple(stages)
        self.stage_index = 0
        self.recipe: dict[str, Any] | None = None  # class path and arguments, to be rebuilt from
        self.trained: dict[str, int] = {}  # epoch and step of the checkpoint that was loaded
        self.metrics = nn.ModuleDict()  # of the splits `val` and `test`, made in `setup`

    # ---- the paper's part -------------------------------------------------------------------------------

    @abstractmethod
    def step(self, batch: Any, stage: Literal["train", "val", "test", "predict"]) -> Step:
        """Run the network on a batch; losses may be empty in `predict`."""

    @abstractmethod
    def metric(self, stage: Literal["val", "test"]) -> Metric | MetricCollection:
        """A fresh metric of a split; its `compute` returns a dict of named scalars.

        Dear ones belong to `test` alone: `val` is computed in every epoch of a fit.
        """

    def monitor_on(self, data: Any) -> str | None:
        """What picks the best checkpoint where this data module validates; None where it has nothing to do so."""
        return self.monitor

    @abstractmethod
    def update_metric(self, metric: Any, outputs: Any, batch: Any) -> None:
        """Hand the outputs of one batch to the metric."""

    @abstractmethod
    def predictions(self, outputs: Any, batch: Any) -> list[Prediction]:
        """One JSON-ready record per query or video, in the units of annotations (seconds, pixels)."""

    def submissions(self, records: Sequence[Prediction]) -> Mapping[str, Any]:
        """Predictions of a split in the official formats of benchmarks: file names and JSON-ready contents."""
        return {}

    def diagnostics(self, step: Step) -> dict[str, Tensor]:
        """More to log of a training step, before its gradients are computed; by name."""
        return {}

    def prepare(self, batch: Any) -> Any:
        """Turn a batch as loaded into what `step` takes, e.g. frames into features; runs where gradients flow."""
        return batch

    def require_grid(self, name: str) -> None:
        """Refuse an encoder without cells; warn of one whose cells do not cover the picture.

        Raises:
            ValueError: the encoder of this name has no grid.
        """
        encoder = getattr(self, name)
        if encoder.grid is None:
            raise ValueError(
                f"model.{name} ({type(encoder).__name__}) gives vectors but no grid of cells; "
                "`groundzoo list encoders` shows those that do"
            )
        if any(part.spec.resize is not None for part in encoder.parts):
            log.warning(
                "model.%s sees the middle of every frame only, and boxes are shares of the whole: on wide "
                "video its cells lie beside them. Give it a `preprocessor` without do_center_crop.",
                name,
            )

    def trainable_parts(self) -> dict[str, list[nn.Parameter]]:
        """Groups of parameters that `Stage.train` can name; an encoder that is frozen for good is in none."""
        encoders = {name: encoder for name in self.encoders if (encoder := getattr(self, name)).trainable}
        parts = {"network": list(self.network.parameters())}
        parts |= {name: list(encoder.learned_parameters()) for name, encoder in encoders.items()}
        return {"all": [p for part in parts.values() for p in part]} | parts

    # ---- vocabulary -------------------------------------------------------------------------------------

    @property
    def vocabulary(self) -> list[str] | None:
        """The words known, in the order of their ids; None where there is none (yet)."""
        reader = getattr(self, "text_encoder", None)
        return None if reader is None else reader.vocabulary

    def fit_vocabulary(self, texts: Iterable[Any]) -> None:
        """Collect the vocabulary from the training texts; nothing to do where encoders bring their own."""
        if "text_encoder" in self.encoders:
            self.text_encoder.fit_vocabulary(texts)

    def set_vocabulary(self, words: Sequence[str]) -> None:
        """Take over a stored vocabulary; comes before the weights are loaded."""
        self.text_encoder.set_vocabulary(words)
        self.text_encoder.to(self.device)

    # ---- stages -----------------------------------------------------------------------------------------

    @property
    def stage(self) -> Stage:
        """The current stage of training."""
        return self.stages[self.stage_index]

    def enter_stage(self, index: int) -> None:
        """Make a stage current: freeze what it does not train."""
        self.stage_index = index
        parts = self.trainable_parts()
        if self.stage.train not in parts:
            raise ValueError(f"stage {index + 1} trains '{self.stage.train}'; choose from {sorted(parts)}")
        self.requires_grad_(False)
        for parameter in parts[self.stage.train]:
            parameter.requires_grad_(True)
        for name, lr in self.stage.lr_of.items():
            if lr == 0 and name in parts:
                for parameter in parts[name]:
                    parameter.requires_grad_(False)
        if self.training:
            self.train()

    def train(self, mode: bool = True) -> Task:
        """Training mode; frozen batch norms stay in evaluation mode unless the stage says otherwise."""
        super().train(mode)
        if mode and self.stage.keep_batchnorm:
            for module in self.modules():
                parameters = list(module.parameters(recurse=False))
                if parameters and not any(p.requires_grad for p in parameters):
                    module.eval()
        return self

    # ---- Lightning --------------------------------------------------------------------------------------

    @property
    def datamodule(self) -> Any:
        """The data module of the run, where there is a run that has one."""
        return None if self._trainer is None else getattr(self.trainer, "datamodule", None)

    def setup(self, stage: str) -> None:
        """Fit the vocabulary on the training texts, once; a checkpoint brings its own later. Make the metrics."""
        texts = getattr(self.datamodule, "vocabulary_texts", None)
        awaited = self.awaits_checkpoint
        if stage == "fit" and self._trainer is not None and self.trainer.strategy.restore_checkpoint_after_setup:
            awaited = False  # it is opened when parameters are divided already, and must have their sizes
        if self.vocabulary is None and texts is not None and not awaited:
            self.fit_vocabulary(texts())
        if not self.metrics:
            self.metrics = nn.ModuleDict({split: self.metric(split) for split in ("val", "test")})
        self.enter_stage(self.stage_index)

    def configure_model(self) -> None:
        """Divide the parameters among devices, where something is trained and the strategy is `FullShard`."""
        if self.device_mesh is not None and self.trainer.state.fn == "fit":
            shard(self, [getattr(self, name) for name in self.large], self.device_mesh["data_parallel"])

    def configure_optimizers(self) -> Any:
        """The optimiser of the current stage on its parameters."""
        stage = self.stage
        attached = self._trainer is not None  # a user's own loop has no trainer
        scaled = attached and "mixed" in str(self.trainer.precision)  # Lightning then clips no fused optimiser's
        fused = self.device.type in ("cpu", "cuda") and not scaled
        optimizer: torch.optim.Optimizer
        if isinstance(stage.optimizer, SGD):
            optimizer = torch.optim.SGD(
                self._parameter_groups(),
                lr=self.rates[0],
                momentum=stage.optimizer.momentum,
                weight_decay=stage.optimizer.weight_decay,
                fused=fused,
            )
        elif isinstance(stage.optimizer, AdamW):
            optimizer = torch.optim.AdamW(
                self._parameter_groups(),
                lr=self.rates[0],
                betas=stage.optimizer.betas,
                weight_decay=stage.optimizer.weight_decay,
                fused=fused,
            )
        else:
            optimizer = torch.optim.Adam(self._parameter_groups(), lr=self.rates[0], fused=fused)
        if stage.schedule == "constant":
            return optimizer
        if isinstance(stage.schedule, StepDecay):
            falling = torch.optim.lr_scheduler.LambdaLR(optimizer, stage.schedule.share)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": falling, "interval": "epoch"}}
        epochs = self.trainer.max_epochs or 1
        steps = max(1.0, self.trainer.estimated_stepping_batches * stage.epochs / epochs)
        rule = stage.schedule

        def share(step: int) -> float:
            if isinstance(rule, WarmupSteps):
                return rule.share(step * stage.epochs / steps)
            if isinstance(rule, Warmup):
                return rule.share(step, steps)
            return one_cycle(step / steps)

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """What is trained: first all that has the stage's learning rate, then each part with its own."""
        stage, parts = self.stage, self.trainable_parts()
        if unknown := stage.lr_of.keys() - parts.keys():
            raise ValueError(f"lr_of names {sorted(unknown)}; choose from {sorted(parts)}")
        owner = {id(p): name for name in stage.lr_of for p in parts[name]}
        groups: dict[str | None, dict[str, Any]] = {None: {"params": []}}
        groups |= {name: {"params": [], "lr": lr} for name, lr in zip(stage.lr_of, self.rates[1:], strict=True)}
        for parameter in self.parameters():
            if parameter.requires_grad:
                groups[owner.get(id(parameter))]["params"].append(parameter)
        return list(groups.values())

    @property
    def rates(self) -> list[float]:
        """Learning rates of the current stage: its own, then those of `lr_of`."""
        several = self.stage.scale_lr and self._trainer is not None
        factor = self.trainer.world_size if several else 1
        return [lr * factor for lr in (self.stage.lr, *self.stage.lr_of.values())]

    def on_train_start(self) -> None:
        """On resume, optimiser and scheduler come from the checkpoint; the learning rate given now counts."""
        rates = self.rates
        for optimizer in self.trainer.optimizers:
            for group, lr in zip(optimizer.param_groups, rates, strict=True):
                group.pop("initial_lr", None)
                group["lr"] = lr
        for config in self.trainer.lr_scheduler_configs:
            scheduler = config.scheduler
            if not isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR):
                continue  # a task's own schedule
            scheduler.base_lrs = list(rates)
            groups = zip(scheduler.optimizer.param_groups, rates, scheduler.lr_lambdas, strict=True)
            for group, lr, share in groups:
                group["initial_lr"] = lr
                group["lr"] = lr * share(scheduler.last_epoch)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """One optimiser step's loss."""
        step = self.step(self.prepare(batch), "train")
        losses = step.losses
        total = torch.stack([losses[name] for name in self.stage.losses]).sum()
        if not torch.isfinite(total):
            raise FloatingPointError(
                f"the loss is {total.item()} at step {self.global_step} "
                f"({', '.join(f'{k}={v.item():.4g}' for k, v in losses.items())}): lower `lr`, or look at "
                f"this batch: {getattr(batch, 'query_ids', None) or getattr(batch, 'video_ids', batch_idx)}"
            )
        values = {f"train/{name}": value.detach() for name, value in losses.items()}
        values |= {f"train/{name}": value for name, value in self.diagnostics(step).items()}
        self.log_dict(values, batch_size=len(batch))
        self.log("train/loss", total.detach(), prog_bar=True, batch_size=len(batch))
        return total

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Update the metric of the validation split."""
        self._evaluate(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> list[Prediction]:  # type: ignore[override]
        """Update the metric of the test split and return the predictions."""
        return self.predictions(self._evaluate(batch, "test"), batch)

    def predict_step(self, batch: Any, batch_idx: int) -> list[Prediction]:
        """Return the predictions."""
        return self.predictions(self.step(self.prepare(batch), "predict").outputs, batch)

    def on_validation_epoch_end(self) -> None:
        """Log the validation metric."""
        self._log_metric("val")

    def on_test_epoch_end(self) -> None:
        """Log the test metric."""
        self._log_metric("test")

    def _evaluate(self, batch: Any, stage: Literal["val", "test"]) -> Any:
        on_gpu = self.device.type == "cuda"
        with torch.random.fork_rng([self.device] if on_gpu else []):  # evaluation must not change training
            losses, outputs = self.step(self.prepare(batch), stage)
        self.update_metric(self.metrics[stage], outputs, batch)
        if losses:  # some tasks are evaluated on other data than they learn from
            total = sum(losses[name] for name in self.stage.losses)
            self.log(f"{stage}/loss", total, batch_size=len(batch), sync_dist=True)
        return outputs

    def _log_metric(self, stage: str) -> None:
        metric: Any = self.metrics[stage]
        values = {f"{stage}/{name}": value for name, value in metric.compute().items()}
        metric.reset()
        self.log_dict(values, rank_zero_only=False, sync_dist=False)

    def normaliser(self, count: Tensor) -> Tensor:
        """What a sum over this process's samples is divided by, so that the mean over processes is global.

        Gradients are averaged over processes: with a count of c_r in process r of R, this is sum(c_r) / R,
        and never less than 1 / R.
        """
        if not (dist.is_available() and dist.is_initialized()):
            return count.clamp(min=1)
        total = count.clone()
        dist.all_reduce(total)
        return total.clamp(min=1) / dist.get_world_size()

    # ---- checkpoints ------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what is needed to rebuild the task from the checkpoint alone."""
        from .. import __version__

        recipe = copy.deepcopy(self.recipe)
        if recipe is not None:
            for name in self.encoders:
                _stand_in(recipe["init_args"][name], getattr(self, name))
        checkpoint["groundzoo"] = {
            "version": __version__,
            "task": recipe,  # needs no files
            "given": self.recipe,  # as configured
            "stage": self.stage_index,
            "vocabulary": self.vocabulary,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore vocabulary and stage before the weights are loaded."""
        stored = checkpoint.get("groundzoo")
        if stored is None:
            raise ValueError("this checkpoint was not written by groundzoo; see the docs on importing weights")
        name = (stored["task"] or {"class_path": type(self).__name__})["class_path"].rpartition(".")[2]
        if name not in [base.__name__ for base in type(self).__mro__]:
            raise ValueError(f"this is a checkpoint of {name}, and not of {type(self).__name__}")
        self.trained = {"epoch": checkpoint.get("epoch", 0), "step": checkpoint.get("global_step", 0)}
        if stored["vocabulary"] is not None:
            self.set_vocabulary(stored["vocabulary"])
        self.enter_stage(min(stored["stage"], len(self.stages) - 1))


def _stand_in(recipe: dict[str, Any], encoder: Encoder) -> None:
    """Replace, in the recipe of an encoder and of its parts, files by what a checkpoint can hold."""
    recipe.setdefault("init_args", {}).update(encoder.rebuild_arguments())
    for part, inner in zip(recipe["init_args"].get("encoders", []), getattr(encoder, "parts", []), strict=False):
        _stand_in(part, inner)
