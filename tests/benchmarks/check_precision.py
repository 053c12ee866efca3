"""Losses of CVG's first steps on ToyWorld in float32, in bfloat16 and in two processes, side by side.

    groundzoo toyworld worlds/captions --preset captions --format activitynet_entities --videos 575 \\
        --test_fraction 0.174
    groundzoo annotate propagate --config tasks/cvg_toyworld.yaml --config annotate/propagate_template.yaml \\
        --data.root worlds/captions --out worlds/captions/labels
    python tests/benchmarks/check_precision.py worlds/captions --steps 50

All three train the configuration ``tasks/cvg_toyworld.yaml`` through the real command line, from the same weights,
on the same captions, without dropout (whose random numbers depend on precision and share); each of the two
processes takes half of a batch. Prints the losses of every step, and the largest relative difference to float32.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback

BATCH = 50
LOSSES = ("caption", "grounding")
RUNS: dict[str, list[str]] = {
    "float32": ["--data.batch_size", str(BATCH)],
    "bf16-mixed": ["--data.batch_size", str(BATCH), "--trainer.precision", "bf16-mixed"],
    "two processes": [
        *("--data.batch_size", str(BATCH // 2), "--trainer.devices", "2"),
        *("--trainer.strategy", "ddp_find_unused_parameters_true"),
    ],
}


class Recorder(Callback):
    """Writes the losses of every step, one file per process."""

    def __init__(self, path: str) -> None:
        self.path = path

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Lightning seeds a group of processes anew before embeddings of words are made: here everyone does."""
        torch.manual_seed(0)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Append one line."""
        row = [trainer.callback_metrics[f"train/{name}"].item() for name in LOSSES]
        with open(f"{self.path}.{trainer.global_rank}", "a") as file:
            file.write(json.dumps(row) + "\n")


def losses(name: str, world: Path, steps: int, folder: Path) -> list[list[float]]:
    """Losses of every step, means over processes."""
    path = folder / name.replace(" ", "_")
    callbacks = [{"class_path": "check_precision.Recorder", "init_args": {"path": str(path)}}]
    config = path.with_suffix(".json")
    config.write_text(json.dumps({"trainer": {"callbacks": callbacks}}))
    words = ["fit", "-c", "tasks/cvg_toyworld.yaml", "-c", str(config), "--run_dir", f"{path}-run", *RUNS[name]]
    words += ["--data.root", str(world), "--data.labels", str(world / "labels"), "--data.num_workers", "0"]
    words += ["--model.network.dropout", "0", "--trainer.max_steps", str(steps), "--trainer.logger", "false"]
    words += ["--trainer.limit_val_batches", "0", "--trainer.enable_checkpointing", "false"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parent)}
    subprocess.run([sys.executable, "-m", "groundzoo", *words], check=True, env=environment, stdout=sys.stderr)
    ranks = [
        [json.loads(line) for line in file.read_text().splitlines()] for file in folder.glob(f"{path.name}.[0-9]")
    ]
    return [[sum(column) / len(ranks) for column in zip(*rows, strict=True)] for rows in zip(*ranks, strict=True)]


def main() -> None:
    """Run all three and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", type=Path)
    parser.add_argument("--steps", type=int, default=50)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = {name: losses(name, args.world.resolve(), args.steps, Path(folder)) for name in RUNS}
    print(f"{'step':>4}" + "".join(f"  {f'{name}, {run}':>24}" for name in LOSSES for run in RUNS))
    for step in range(args.steps):
        print(f"{step:4}" + "".join(f"  {found[run][step][k]:24.6f}" for k in range(len(LOSSES)) for run in RUNS))
    for run in list(RUNS)[1:]:
        for k, name in enumerate(LOSSES):
            pairs = zip(found["float32"], found[run], strict=True)
            worst = max(abs(ours[k] - theirs[k]) / ours[k] for ours, theirs in pairs)
            print(f"largest difference to float32, {run}, {name}: {100 * worst:.4f} %")


if __name__ == "__main__":
    main()
