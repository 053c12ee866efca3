"""The training verbs: configuration files and the command line, turned into one run in one folder."""

from __future__ import annotations

import contextlib
import json
import logging
import netrc
import os
import socket
import sys
import warnings
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any, NoReturn

import lightning as L
import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelCheckpoint, RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning_utilities.core.rank_zero import rank_zero_only

from .base import Task, lower_is_better
from .checkpoints import AtomicCheckpointIO, read_checkpoint
from .hints import explain
from .run_folder import RandomState, Reference, RunFolder
from .stages import StageSchedule

log = logging.getLogger(__name__)
NO_NEWS = (  # warnings of Lightning's about what is meant to be so
    "Experiment logs directory .* exists and is not empty",  # an old metrics.csv was moved out of the way
    "Checkpoint directory .* exists and is not empty",  # a run is resumed in its own folder
    "The dirpath has changed",
    "Be aware that when using `ckpt_path`, callbacks",
    r"Found \d+ module\(s\) in eval mode",  # frozen encoders and stages
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    "Total length of `list` across ranks is zero",  # narrations without annotated actions to validate on
)


def packaged_configs() -> Path:
    """Folder of the YAML files that come with the package."""
    return Path(str(resources.files("groundzoo"))) / "configs"


def config_file(given: Any) -> Path | None:
    """The file that a word behind ``--config`` names: one here first, else a packaged one; None for no file."""
    for path in (Path(given), packaged_configs() / given) if isinstance(given, str) and given != "-" else ():
        with contextlib.suppress(OSError, ValueError):  # a configuration given as text is too long for a name
            if path.is_file():
                return path
    return None


class PackagedConfig(ActionConfigFile):
    """``--config``: a local file first, else one of the packaged ``configs/``."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Resolve the path, then read the file as usual."""
        path = config_file(values)
        if path is not None:
            values = str(path)
            with contextlib.suppress(yaml.YAMLError):  # a syntax error is told below
                forget_replaced(cfg, yaml.safe_load(path.read_text(encoding="utf-8")))
        try:
            super().__call__(parser, cfg, values, option_string)
        except (TypeError, ValueError) as error:
            if "Problems parsing config" in str(error):  # a syntax error, which does not name its file
                raise type(error)(f"{values}: {error}") from error
            raise


def forget_replaced(cfg: Any, given: Any) -> None:
    """Drop the arguments of classes that a configuration laid over `cfg` replaces by others.

    The parser keeps those that the new class has, too, by name: an encoder would silently get the stride of the
    one it replaces.
    """
    if not isinstance(given, dict) or not isinstance(cfg, Namespace):
        return
    old, new = cfg.get("class_path"), given.get("class_path")
    if isinstance(old, str) and isinstance(new, str) and old.split(".")[-1] != new.split(".")[-1]:
        cfg.pop("init_args", None)
    for key, value in given.items():
        forget_replaced(cfg.get(key), value)


class HelpfulParser(LightningArgumentParser):
    """Says in few words what is wrong with the command line or a configuration, and what was probably meant."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the message and exit with status 2; parsers inside this one only hand it on."""
        if not self.exit_on_error:
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self
        prog = parser.prog.replace(" [options]", "")
        options = {action.dest.split(".")[0] for action in parser._actions}
        print(f"{prog}: {explain(message, packaged_configs(), options)}", file=sys.stderr)
        print(f"({prog} --help lists all options)", file=sys.stderr)
        sys.exit(2)


class GroundZooCLI(LightningCLI):
    """LightningCLI for tasks and data modules, with run folders, references and honest resuming."""

    def __init__(self, args: list[str] | None) -> None:
        super().__init__(
            Task,
            L.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,  # RunFolder writes the configuration
            seed_everything_default=0,
            trainer_defaults={"max_epochs": -1, "use_distributed_sampler": False, "num_sanity_val_steps": 0},
            parser_class=HelpfulParser,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=args,
        )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """See `LightningCLI`; every verb's parser is made here."""
        defaults: dict[str, Any] = {"dump_header": ["groundzoo"], "prog": "groundzoo", "allow_abbrev": False}
        parser = self.parser_class(**(defaults | kwargs))
        parser.add_argument(
            "-c", "--config", action=PackagedConfig, help="YAML file, here or in the package; later ones win."
        )
        return parser

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand in ("validate", "test"):
            parser.set_defaults(verbose=False)  # the run folder prints its own table
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The arguments of a run."""
        parser.add_argument(
            "--run_dir",
            type=str | None,
            default=None,
            help="Folder of the run; runs/<config name>/<date-time>, or the folder of --ckpt_path's run.",
        )
        parser.add_argument(
            "--references", type=list[Reference], default=[], help="Published values for the final table."
        )

    def _parse_ckpt_path(self) -> None:
        """Take nothing from the checkpoint: the configuration given now is the truth, also on resume."""

    # ---- one run ----------------------------------------------------------------------------------------

    @property
    def _own(self) -> Namespace:
        own: Namespace = self.config[self.subcommand]
        return own

    def before_instantiate_classes(self) -> None:
        """Choose the run folder, send W&B offline where it could only fail."""
        self.run_dir = self._run_dir()
        self.config_yaml = self._parser(self.subcommand).dump(self._own, skip_none=False)
        self._own.trainer.default_root_dir = str(self.run_dir)
        loggers = self._own.trainer.logger
        for logger in loggers if isinstance(loggers, list) else [loggers]:
            if isinstance(logger, Namespace) and logger.class_path.endswith("WandbLogger"):
                self._prepare_wandb(logger)
        self._report_changes()

    def _run_dir(self) -> Path:
        if self._own.run_dir is None and "GROUNDZOO_RUN_DIR" in os.environ and "LOCAL_RANK" in os.environ:
            return Path(os.environ["GROUNDZOO_RUN_DIR"])  # a further process of a run that has its folder
        folder = self._own.run_dir
        checkpoint = self._own.get("ckpt_path")
        if folder is None and checkpoint and Path(checkpoint).parent.name == "checkpoints":
            folder = Path(checkpoint).parent.parent
        if folder is None:
            configs = self._own.config or []
            name = Path(str(configs[0])).stem if configs else "run"
            folder = Path("runs") / name / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        os.environ["GROUNDZOO_RUN_DIR"] = str(folder)
        return Path(folder)

    def _prepare_wandb(self, logger: Namespace) -> None:
        logger.init_args.save_dir = str(self.run_dir)
        self.run_dir.mkdir(parents=True, exist_ok=True)
        if logger.init_args.offline or os.environ.get("WANDB_MODE"):
            return
        if (reason := _wandb_unusable()) is not None:
            logger.init_args.offline = True
            _say(f"W&B: {reason}, so this run is logged offline; later: wandb sync {self.run_dir}/wandb/offline-*")

    def _report_changes(self) -> None:
        checkpoint = self._own.get("ckpt_path")
        if not checkpoint or checkpoint in ("best", "last", "hpc") or "://" in checkpoint:  # Lightning finds these
            return
        if Path(checkpoint).is_dir() and "deepspeed" in str(self._own.trainer.strategy).lower():
            return  # a folder that DeepSpeed wrote and reads
        own = read_checkpoint(Path(checkpoint)).get("groundzoo", {})  # a bad file ends it here
        stored = own.get("given", own.get("task"))
        if self.subcommand != "fit":
            return
        changed = _differences(stored, self._recipe()) if stored is not None else {}
        for key, (old, new) in changed.items():
            _say(
                f"model.{key} is {new!r} now; the checkpoint was trained with {old!r}. The value given now counts."
            )

    def _recipe(self) -> dict[str, Any]:
        dumped = self._parser(self.subcommand).dump(self._own, skip_none=False, format="json")
        recipe: dict[str, Any] = json.loads(dumped)["model"]
        return recipe

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Add the callbacks and loggers that every run has."""
        task = self.model
        assert isinstance(task, Task)
        task.recipe = self._recipe()
        task.awaits_checkpoint = bool(self._own.get("ckpt_path"))
        task.monitor = task.monitor_on(self.datamodule)
        for message in NO_NEWS:
            warnings.filterwarnings("ignore", message=message)
        given = self._get(self.config_init, "trainer")
        loggers = given.logger if isinstance(given.logger, list) else [given.logger]
        chosen: list[Logger] = [x for x in loggers if isinstance(x, Logger)]
        callbacks: list[Callback] = [
            *(given.callbacks or []),
            RunFolder(self.run_dir, self.config_yaml, self._get(self.config_init, "references")),
            RandomState(),
        ]
        progress_bar = given.enable_progress_bar is not False and sys.stderr.isatty()
        if progress_bar:
            callbacks.append(RichProgressBar())
        if self.subcommand == "fit":
            checkpoints = self.run_dir / "checkpoints"
            callbacks.append(StageSchedule(checkpoints))
            if given.enable_checkpointing is not False:
                common: dict[str, Any] = {"dirpath": checkpoints, "enable_version_counter": False}
                if task.monitor is None:
                    _say("nothing to validate on: the weights of the last epoch are kept, there is no best.ckpt")
                else:
                    best: dict[str, Any] = {"mode": "min" if lower_is_better(task.monitor) else "max", **common}
                    callbacks.append(ModelCheckpoint(filename="best", monitor=task.monitor, **best))
                callbacks.append(ModelCheckpoint(filename="last", save_on_train_epoch_end=True, **common))
            if not given.fast_dev_run:
                _keep_old(self.run_dir / "metrics.csv")
                chosen.append(CSVLogger(self.run_dir, name="", version=""))
                callbacks.append(LearningRateMonitor())
        plugins = given.plugins if isinstance(given.plugins, list) else [given.plugins] if given.plugins else []
        settings = {
            "callbacks": callbacks,
            "logger": chosen or False,
            "plugins": [*plugins, AtomicCheckpointIO()],
            "enable_progress_bar": progress_bar,
        }
        return self._instantiate_trainer({**given, **settings, **kwargs}, [])

    def after_instantiate_classes(self) -> None:
        """Say where everything goes."""
        _say(f"run folder: {self.run_dir}")


@rank_zero_only
def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _keep_old(path: Path) -> None:
    """Move an earlier log of the same run out of the way instead of losing it."""
    if path.exists() and "LOCAL_RANK" not in os.environ:
        number = 1
        while (kept := path.with_name(f"{path.stem}-{number}{path.suffix}")).exists():
            number += 1
        path.rename(kept)


def _wandb_unusable() -> str | None:
    """Why W&B cannot be used online now, or None."""
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].split("/")[0].split(":")[0]
    if not os.environ.get("WANDB_API_KEY") and not _in_netrc(host):
        return "no credentials (`wandb login`)"
    try:
        socket.create_connection((host, 443), timeout=3).close()
    except OSError:
        return f"{host} cannot be reached"
    return None


def _in_netrc(host: str) -> bool:
    given = os.environ.get("NETRC")
    for path in [Path(given)] if given else [Path.home() / ".netrc", Path.home() / "_netrc"]:
        try:
            if netrc.netrc(path).authenticators(host) is not None:
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False


def _differences(old: Any, new: Any, key: str = "") -> dict[str, tuple[Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        found: dict[str, tuple[Any, Any]] = {}
        for k in old.keys() | new.keys():
            found |= _differences(old.get(k), new.get(k), f"{key}.{k}" if key else k)
        return dict(sorted(found.items()))
    return {} if old == new else {key: (old, new)}


# ---- checkpoints ----------------------------------------------------------------------------------------


def rebuild(path: Path, device: str) -> Task:
    """Make a task from its checkpoint alone, in evaluation mode.

    Raises:
        ValueError: the checkpoint does not say how its task is built.
    """
    checkpoint = read_checkpoint(path)
    recipe = checkpoint.get("groundzoo", {}).get("task")
    if recipe is None:
        raise ValueError(
            f"{path} does not say how its task is built: it was not made by `groundzoo fit`. Build the task "
            "yourself and use its load_from_checkpoint or load_state_dict."
        )
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Task, "task")
    task = parser.instantiate_classes(parser.parse_object({"task": recipe})).task
    assert isinstance(task, Task)
    task.on_load_checkpoint(checkpoint)
    task.load_state_dict(checkpoint["state_dict"])
    return task.to(device).eval()
