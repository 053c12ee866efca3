"""Verbs that only predict: what they read of a configuration, and their trainer."""

from __future__ import annotations

import json
import logging
import warnings
from abc import abstractmethod
from typing import Any

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace
from lightning import Trainer

from .launch import NO_NEWS, PackagedConfig, config_file, forget_replaced

DEVICE_OPTIONS = ("accelerator", "devices", "num_nodes", "precision", "strategy")
OF_A_RUN = ("model", "trainer", "references", "run_dir", "seed_everything", "ckpt_path")


class PartialConfig(PackagedConfig):
    """``--config`` of a verb that runs no task: takes any configuration and reads what matters to the verb."""

    @abstractmethod
    def keep(self, given: dict[str, Any], model: dict[str, Any]) -> dict[str, Any]:
        """What matters, beside the devices.

        Args:
            given: contents of the file.
            model: settings of the task in it; empty without a task.
        """

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Read the file, keep what matters, and hand it on as text.

        Raises:
            ValueError: the file is no configuration.
        """
        path = config_file(values)
        if path is None:
            super().__call__(parser, cfg, values, option_string)  # text is taken as it is; else says what there is
            return
        try:
            given = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
            kept = self.keep(given, (given.get("model") or {}).get("init_args") or {})
            trainer = {k: v for k, v in (given.get("trainer") or {}).items() if k in DEVICE_OPTIONS}
        except yaml.YAMLError as error:
            raise ValueError(f"{values}: {error}") from error
        except AttributeError as error:  # a list or a number where names and values should be
            raise ValueError(f"{values}: no configuration of groundzoo ({error})") from error
        kept |= {"trainer": trainer} if trainer else {}
        forget_replaced(cfg, kept)
        ActionConfigFile.__call__(self, parser, cfg, json.dumps(kept), option_string)  # no path any more


class EncoderConfig(PartialConfig):
    """``--config`` of `groundzoo extract`: of any configuration, the video encoder and the devices."""

    def keep(self, given: dict[str, Any], model: dict[str, Any]) -> dict[str, Any]:
        """See `PartialConfig.keep`; an encoder stands alone or in a task."""
        encoder = given.get("video_encoder", model.get("video_encoder"))
        return {} if encoder is None else {"video_encoder": encoder}


class LabelConfig(PartialConfig):
    """``--config`` of `groundzoo annotate`: its own, or of a task's the data set, number of frames and devices."""

    def keep(self, given: dict[str, Any], model: dict[str, Any]) -> dict[str, Any]:
        """See `PartialConfig.keep`."""
        kept = {key: value for key, value in given.items() if key not in OF_A_RUN}
        return kept | ({"frames": model["frames"]} if "frames" in model else {})


def add_devices(parser: ArgumentParser) -> None:
    """Add the options of a trainer that only predicts, ``--trainer.devices`` and the like."""
    trainer: dict[str, Any] = {"accelerator": "auto", "devices": "auto", "strategy": "auto"}
    trainer |= {"num_nodes": 1, "precision": "32-true"}
    for name in DEVICE_OPTIONS:
        parser.add_argument(f"--trainer.{name}", type=Any, default=trainer[name], help="see Lightning's Trainer")


def predictor(options: Namespace) -> Trainer:
    """The trainer of these options; it leaves progress, sharing out and reports to the module that it runs."""
    quiet: dict[str, Any] = dict.fromkeys(("logger", "enable_checkpointing", "enable_model_summary"), False)
    quiet |= {"enable_progress_bar": False, "use_distributed_sampler": False}
    warnings.formatwarning = lambda message, *_: f"{message}\n"  # what users see is the sentence alone
    for message in (*NO_NEWS, "predict returned None"):
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # of the hardware that is not used
    return Trainer(**vars(options), **quiet)
