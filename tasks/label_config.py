"""What ``groundzoo annotate`` reads of the configuration of a task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile

from .launch import DEVICE_OPTIONS, PackagedConfig, forget_replaced, packaged_configs

OF_A_RUN = ("model", "references", "run_dir", "seed_everything", "ckpt_path")  # nothing here is needed as such


class LabelConfig(PackagedConfig):
    """``--config`` of `groundzoo annotate`: its own, or of a task's the data set, number of frames and devices."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Read the file, keep what matters here, and hand it on as text."""
        path = Path(values)
        path = path if path.is_file() else packaged_configs() / path
        if not path.is_file():
            super().__call__(parser, cfg, values, option_string)  # says what there is
        try:
            given = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
            model = (given.get("model") or {}).get("init_args") or {}
            kept = {key: value for key, value in given.items() if key not in (*OF_A_RUN, "trainer")}
            trainer = {k: v for k, v in (given.get("trainer") or {}).items() if k in DEVICE_OPTIONS}
            kept |= {"frames": model["frames"]} if "frames" in model else {}
        except yaml.YAMLError as error:
            raise ValueError(f"{values}: {error}") from error
        except AttributeError as error:  # a list or a number where names and values should be
            raise ValueError(f"{values}: no configuration of groundzoo ({error})") from error
        kept |= {"trainer": trainer} if trainer else {}
        forget_replaced(cfg, kept)
        ActionConfigFile.__call__(self, parser, cfg, json.dumps(kept), option_string)  # no path any more
