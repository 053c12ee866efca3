"""One run, one folder: predictions, metrics with their provenance, the final table, pictures."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import subprocess
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
import yaml
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import WandbLogger
from rich.console import Console
from rich.table import Table
from torchmetrics import MetricCollection

from .base import Prediction, Task

log = logging.getLogger(__name__)
NUM_PICTURES = 8


@dataclass(frozen=True)
class Reference:
    """Published values to print beside a run's own.

    Attributes:
        name: method and setting, e.g. ``DRN, C3D``.
        source: where the values stand, e.g. ``Table 1``.
        values: by the names of our metrics, e.g. ``{"test/R1@0.5": 45.4}``.
    """

    name: str
    source: str
    values: dict[str, float] = field(default_factory=dict)


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old content or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def git_revision(folder: Path) -> str | None:
    """Commit of the checkout that `folder` lies in, ``-dirty`` with local changes; None outside git."""
    try:
        command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def versions() -> dict[str, str]:
    """Versions that results may depend on."""
    from .. import __version__

    packages = ("torch", "lightning", "torchmetrics", "transformers", "decord2")
    return {
        "groundzoo": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


class RunFolder(Callback):
    """Writes ``config.yaml``, ``predictions.jsonl``, ``metrics.json`` and figures, all atomically.

    Args:
        folder: the run's.
        config: the resolved configuration as YAML.
        references: published values for the final table.
    """

    def __init__(self, folder: str | Path, config: str, references: list[Reference]) -> None:
        self.folder, self.config, self.references = Path(folder), config, references
        self._predictions: list[Prediction] = []
        self._evaluated: int | None = None  # queries that were answered, each counted once

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Write the configuration before anything can fail."""
        if trainer.is_global_zero:
            verb = getattr(stage, "value", stage)  # Lightning hands over a member of its TrainerFn
            name = "config.yaml" if verb == "fit" else f"config_{verb}.yaml"
            write_atomically(self.folder / name, self.config)
            for logger in trainer.loggers:
                if isinstance(logger, WandbLogger):
                    logger.experiment.config.update(yaml.safe_load(self.config), allow_val_change=True)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the vocabulary, where the task has one of its own."""
        words = pl_module.vocabulary if isinstance(pl_module, Task) else None
        if trainer.is_global_zero and words is not None:
            write_atomically(self.folder / "vocabulary.json", json.dumps(words, ensure_ascii=False) + "\n")

    # ---- progress ---------------------------------------------------------------------------------------

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """One line per epoch, for logs without a progress bar."""
        if trainer.is_global_zero and isinstance(pl_module, Task):
            shown = ("train/loss", pl_module.monitor)
            values = {k: v.item() for k, v in trainer.callback_metrics.items() if k in shown}
            text = ", ".join(f"{k} {v:.4g}" for k, v in values.items())
            stage = f"stage {pl_module.stage_index + 1}/{len(pl_module.stages)}"
            log.info("epoch %d/%s, %s: %s", trainer.current_epoch + 1, trainer.max_epochs, stage, text)

    # ---- predictions ------------------------------------------------------------------------------------

    def on_test_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any) -> None:
        """Collect predictions."""
        self._predictions += outputs or []

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any
    ) -> None:
        """Collect predictions."""
        self._predictions += outputs or []

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write predictions, metrics, pictures and the table."""
        self._write_predictions(trainer)
        self._write_metrics(trainer, "test")

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write predictions."""
        self._write_predictions(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the validation metrics; the final table only for `validate`."""
        if not trainer.sanity_checking:
            self._write_metrics(trainer, "val")

    def _write_predictions(self, trainer: L.Trainer) -> None:
        collected = [self._predictions]
        self._predictions = []
        if trainer.world_size > 1:
            gathered: list[Any] = [None] * trainer.world_size
            dist.all_gather_object(gathered, collected[0])
            collected = gathered
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        by_index = {record["index"]: record for part in collected for record in part}  # a repeated sample once
        records = [by_index[i] for i in sorted(by_index)]
        self._evaluated = len(records)
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        write_atomically(self.folder / "predictions.jsonl", text)
        log.info("%d predictions in %s", len(records), self.folder / "predictions.jsonl")
        task = trainer.lightning_module
        for name, content in task.submissions(records).items() if isinstance(task, Task) else ():
            write_atomically(self.folder / name, json.dumps(content, ensure_ascii=False) + "\n")
        self._draw(trainer, records[:NUM_PICTURES])

    def _draw(self, trainer: L.Trainer, records: list[Prediction]) -> None:
        drawable = [r for r in records if "moments" in r]
        if not drawable:
            columns = (
                [key for key, value in records[0].items() if isinstance(value, str | float)] if records else []
            )
            for logger in trainer.loggers:
                if isinstance(logger, WandbLogger) and columns:
                    logger.log_table("predictions", columns, [[r[key] for key in columns] for r in records])
            return
        from .pictures import save, timeline

        pictures = []
        for record in drawable:
            path = self.folder / "figures" / f"{record['query_id'].replace('#', '_')}.png"
            row = (record["query"], record["moments"], record.get("target"))
            save(timeline(record["duration_s"], [row]), path)
            pictures.append(str(path))
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                rows = [[r["query_id"], r["query"], str(r["moments"][:1]), str(r.get("target"))] for r in drawable]
                logger.log_table("predictions", ["id", "query", "best moment", "target"], rows)
                # beside the table: pictures inside one are lost in offline mode
                logger.log_image(
                    "timelines", pictures, caption=[f"{r['query_id']} {r['query']}" for r in drawable]
                )

    # ---- metrics ----------------------------------------------------------------------------------------

    @staticmethod
    def _absent(trainer: L.Trainer, stage: str) -> dict[str, str]:
        """Metrics that could not be computed, and why."""
        metric = trainer.lightning_module.metrics[stage]  # type: ignore[index]
        parts = metric.values() if isinstance(metric, MetricCollection) else [metric]
        return {name: reason for part in parts for name, reason in getattr(part, "absent", {}).items()}

    def _write_metrics(self, trainer: L.Trainer, stage: str) -> None:
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        values = {k: v.item() for k, v in trainer.callback_metrics.items() if k.startswith(f"{stage}/")}
        data: Any = getattr(trainer, "datamodule", None)
        now = {"epoch": trainer.current_epoch, "step": trainer.global_step}
        trained = now if trainer.state.fn == "fit" else getattr(trainer.lightning_module, "trained", now)
        provenance = {
            **trained,
            "checkpoint": str(trainer.ckpt_path) if trainer.ckpt_path else None,
            "config_sha256": hashlib.sha256(self.config.encode()).hexdigest(),
            "data": data.provenance() if hasattr(data, "provenance") else type(data).__name__,
            "evaluated": self._evaluated,
            "absent": self._absent(trainer, stage),
            "precision": str(trainer.precision),
            "devices": trainer.world_size,
            "versions": versions(),
            "git_revision": git_revision(Path(__file__).parent),
        }
        baselines = data.baselines() if stage == "test" and hasattr(data, "baselines") else {}
        path = self.folder / "metrics.json"
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        kept = {k: v for k, v in stored.items() if not k.startswith(f"{stage}/") and k != "provenance"}
        kept |= {"baselines": baselines} if baselines else {}
        stored = kept | values | {"provenance": stored.get("provenance", {}) | {stage: provenance}}
        write_atomically(path, json.dumps(stored, indent=2, ensure_ascii=False) + "\n")
        if trainer.state.fn != "fit":
            measured = [Reference(name, "measured", found) for name, found in baselines.items()]
            console = Console()
            if not console.is_terminal:  # a log file has no width that the table must fit into
                console.width = 200
            console.print(*metrics_tables(values, [*measured, *self.references]))


def metrics_tables(values: dict[str, float], references: list[Reference]) -> list[Table]:
    """Our values beside published ones; subsets of the data and other protocols have tables with a row each.

    Args:
        values: by names such as ``test/R1@0.5`` or, on a subset, ``test/temporal/R1@0.5``.
        references: published values.
    """
    main = Table(title="metrics")
    for column in ("metric", "this run", *(f"{r.name} ({r.source})" for r in references)):
        main.add_column(column, justify="left" if column == "metric" else "right", overflow="fold")
    subsets: dict[str, dict[str, float]] = {}
    main_names: list[str] = []
    for key, value in values.items():
        _, *subset, metric = key.split("/")
        if subset:
            subsets.setdefault("/".join(subset), {})[metric] = value
        else:
            main_names.append(metric)
            published = (r.values.get(key) for r in references)
            main.add_row(key, f"{value:.2f}", *("" if p is None else f"{p:.2f}" for p in published))
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, row in subsets.items():
        groups.setdefault(tuple(row), []).append(name)
    parts = []
    for columns, names in groups.items():  # a table for those that have the same metrics
        parts.append(Table(title="on parts of the data" if set(columns) <= set(main_names) else "by protocol"))
        for column in ("", *columns):
            parts[-1].add_column(column, justify="right" if column else "left")
        for name in names:
            rows = {name: subsets[name]}
            for r in references:  # published values under the same names
                own = {key: v for key, v in r.values.items() if key.split("/")[1:-1] == [name]}
                of_part = {key.rsplit("/", 1)[1]: v for key, v in own.items()}
                rows |= {f"{r.name} ({r.source})": of_part} if of_part else {}
            for label, row in rows.items():
                parts[-1].add_row(label, *(f"{row[c]:.1f}" if c in row else "" for c in columns))
    return [main, *parts] if main_names else parts


class RandomState(Callback):
    """Stores random generators and the training loader's position, so that a resumed run draws the same."""

    def __init__(self) -> None:
        self._loaded: dict[str, Any] | None = None
        self._position: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """States of torch (CPU and accelerators)."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return {"torch": torch.get_rng_state(), "cuda": cuda}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember the states until training starts."""
        self._loaded = state_dict

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: Any) -> None:
        """Store the position; Lightning's copy is lost where a scheduler has asked for the loader's length."""
        loader: Any = trainer.train_dataloader
        if hasattr(loader, "state_dict"):
            checkpoint["train_loader"] = loader.state_dict()

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: Any) -> None:
        """Remember the position until training starts."""
        self._position = checkpoint.get("train_loader")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restore them, after everything that draws numbers while a run is set up."""
        loader: Any = trainer.train_dataloader
        if self._position is not None and hasattr(loader, "load_state_dict"):
            loader.load_state_dict(self._position)
        self._position = None
        if self._loaded is None:
            return
        torch.set_rng_state(self._loaded["torch"].cpu())
        if torch.cuda.is_available() and len(self._loaded["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all([state.cpu() for state in self._loaded["cuda"]])
        self._loaded = None
