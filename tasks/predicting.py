"""A trainer that only predicts: its options on a command line, and how it is kept quiet."""

from __future__ import annotations

import logging
import warnings
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from lightning import Trainer

from .launch import DEVICE_OPTIONS, NO_NEWS


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
