"""SA-TSP's chain on ToyWorld through the real command line: pretraining, features, and what they are good for.

    W=worlds/described_one
    groundzoo toyworld $W --preset described_one --format activitynet --videos 900 --test_fraction 0.2
    groundzoo concepts $W/train.json --out $W/concepts.json --size 60
    python tests/benchmarks/satsp_chain.py $W --out satsp_runs --seeds 0 1 2

Every row is an encoder trained with some terms of Eq. 1 for the same number of clips, from the same random weights
per seed; "none" is these weights. Finished steps are not repeated, so it can be stopped and started again.

Columns, all on held-out videos, in percent:

- of the run itself (`fit`): accuracy of actions and of the temporal region (balanced), mAP of the concepts;
- probes: logistic regressions on frozen features of annotated events (the mean over their units), for the actor's
  colour, shape and size and for the action;
- dense captioning on the features: METEOR and CIDEr with annotated events, and with learned ones (`own`),
  precision and recall of the latter;
- DRN on the features: R1@0.5 and R1@0.7.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groundzoo.datamodules.features import FeatureStore
from groundzoo.zoo.video.r2plus1d import R2Plus1DNetwork

ROWS: dict[str, list[str] | None] = {
    "none": None,
    "action": ["ablations/satsp_action.yaml"],
    "action + temporal": ["ablations/satsp_action_temporal.yaml"],
    "all three": [],
}
FPS, WINDOW, STRIDE = 4.0, 8, 4
ATTRIBUTES = ("colour", "shape", "size", "action")
COLUMNS = {
    "actions": "fit/action accuracy",
    "region": "fit/balanced region accuracy",
    "concepts": "fit/concept mAP",
    **{name: f"probe/{name}" for name in ATTRIBUTES},
    "METEOR": "dense/dense/METEOR",
    "CIDEr": "dense/dense/CIDEr",
    "own METEOR": "dense/learned/METEOR",
    "own CIDEr": "dense/learned/CIDEr",
    "P": "dense/learned/precision",
    "R": "dense/learned/recall",
    "R1@0.5": "drn/R1@0.5",
    "R1@0.7": "drn/R1@0.7",
}


def groundzoo(*words: object) -> None:
    """The command line in a process of its own."""
    subprocess.run([sys.executable, "-m", "groundzoo", *map(str, words)], check=True)


def fit_and_test(folder: Path, config: str, words: list[object], seed: int) -> dict[str, float]:
    """Train, test the best checkpoint, and return the values of the test split."""
    if not (folder / "tested").exists():
        options = ["--config", config, "--config", "logger/csv.yaml", *words, "--data.init_args.num_workers", 1]
        options += ["--trainer.enable_model_summary", "false", "--run_dir", folder]
        groundzoo("fit", *options, "--data.init_args.seed", seed, "--seed_everything", seed)
        groundzoo("test", *options, "--ckpt_path", folder / "checkpoints" / "best.ckpt")
        (folder / "tested").touch()
    stored = json.loads((folder / "metrics.json").read_text())
    return {name.removeprefix("test/"): value for name, value in stored.items() if name.startswith("test/")}


def initial_weights(out: Path, seed: int) -> Path:
    """Random weights of the encoder in ``tasks/satsp_toyworld.yaml``."""
    path = out / f"initial-{seed}.pth"
    if not path.exists():
        torch.manual_seed(seed)
        network = R2Plus1DNetwork((1, 1, 1, 1), "torchvision", 8, 1e-5, 0.1)
        torch.save(network.state_dict(), path)
    return path


def run(row: str, seed: int, world: Path, out: Path) -> dict[str, float]:
    """All columns of one row and seed."""
    folder = out / f"{row.replace(' ', '_')}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    initial = initial_weights(out, seed)
    values: dict[str, float] = {}
    weights, overlays = initial, ROWS[row]
    if overlays is not None:
        words: list[object] = [word for overlay in overlays for word in ("--config", overlay)]
        words += ["--model.init_args.video_encoder.init_args.weights", initial]
        words += ["--data.init_args.root", world, "--data.init_args.captions", world]
        words += ["--data.init_args.concepts", world / "concepts.json", "--data.init_args.cache", out / "context"]
        found = fit_and_test(folder / "satsp", "tasks/satsp_toyworld.yaml", words, seed)
        values |= {f"fit/{name}": value for name, value in found.items()}
        weights = folder / "satsp" / "checkpoints" / "best.ckpt"
    store = folder / "features"
    if not (folder / "extracted").exists():
        options = ["--video_encoder.init_args.weights", weights, "--video_encoder.init_args.stride", STRIDE]
        options += ["--videos", world / "videos", "--out", store, "--num_workers", 1, "--batch_size", 64]
        groundzoo("extract", "--config", "tasks/satsp_toyworld.yaml", *options)
        (folder / "extracted").touch()
    values |= {f"probe/{name}": value for name, value in probe(FeatureStore(store), world).items()}
    data: list[object] = ["--data.init_args.root", world, "--data.init_args.features", store]
    found = fit_and_test(folder / "dense", "tasks/dense_toyworld.yaml", data, seed)
    values |= {f"dense/{name}": value for name, value in found.items()}
    encoder = {"dim": 64, "fps": FPS, "window": WINDOW, "stride": STRIDE}
    given = ["--model.init_args.video_encoder", json.dumps({"class_path": "Precomputed", "init_args": encoder})]
    given += ["--data", "ActivityNetCaptions", "--data.init_args.subsets", "null", *data]
    found = fit_and_test(folder / "drn", "tasks/drn_toyworld.yaml", given, seed)
    return values | {f"drn/{name}": value for name, value in found.items()}


# ---- probes ---------------------------------------------------------------------------------------------


def probe(store: FeatureStore, world: Path) -> dict[str, float]:
    """Accuracy of each attribute of the acting actor on test videos, in percent."""
    sets = {name: events_of(store, world, split) for name, split in (("train", "train"), ("test", "val_2"))}
    mean, std = sets["train"][0].mean(0), sets["train"][0].std(0) + 1e-6
    values = {}
    for attribute in ATTRIBUTES:
        names = sorted(set(sets["train"][1][attribute]))
        (x, y), (x_test, y_test) = (
            ((features - mean) / std, torch.tensor([names.index(n) for n in truth[attribute]]))
            for features, truth in (sets["train"], sets["test"])
        )
        classifier = logistic_regression(x, y, len(names))
        values[attribute] = 100 * (classifier(x_test).argmax(1) == y_test).float().mean().item()
    return values


def events_of(store: FeatureStore, world: Path, split: str) -> tuple[Tensor, dict[str, list[str]]]:
    """Mean features ``(N, D)`` of the events of a split, over the units that begin in them; and who does what."""
    features, truth = [], {name: [] for name in ATTRIBUTES}
    for video in json.loads((world / f"{split}.json").read_text()):
        facts = json.loads((world / "truth" / f"{video}.json").read_text())
        units = torch.from_numpy(store.read(video).units).float()
        for event in facts["events"]:
            first = int(event["start_s"] * FPS / STRIDE)
            last = max(first + 1, int((event["end_s"] * FPS - WINDOW) / STRIDE) + 1)
            features.append(units[first:last].mean(0))
            actor: dict[str, Any] = facts["actors"][event["actor"]]
            for name in ATTRIBUTES:
                truth[name].append(event["action"] if name == "action" else actor[name])
    return torch.stack(features), truth


def logistic_regression(x: Tensor, y: Tensor, classes: int) -> nn.Linear:
    """Fitted to the end, with a little weight decay."""
    torch.manual_seed(0)
    model = nn.Linear(x.shape[1], classes)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=100)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y) + 1e-3 * model.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return model


def check(rows: dict[str, list[dict[str, float]]]) -> str:
    """What is safe to ask of every seed, and whether it held; that a term helps is not among it."""
    asked: list[tuple[str, list[float], float, int]] = []
    for name, results in rows.items():
        if name == "action":
            asked.append((f"{name}: accuracy of actions", [r["fit/action accuracy"] for r in results], 75, 1))
            asked.append((f"{name}: probe of the action", [r["probe/action"] for r in results], 80, 1))
            asked.append((f"{name}: probe of the colour", [r["probe/colour"] for r in results], 55, -1))
            gap = [r["probe/action"] - r["probe/colour"] for r in results]
            asked.append((f"{name}: first probe - second", gap, 35, 1))
        if "fit/balanced region accuracy" in results[0]:
            asked.append((f"{name}: region", [r["fit/balanced region accuracy"] for r in results], 70, 1))
    lines = ["| asked | limit | every seed | holds |", "|---|---|---|---|"]
    for what, values, limit, sign in asked:
        holds = "yes" if all(sign * v >= sign * limit for v in values) else "no"
        bound = f"{'at least' if sign > 0 else 'at most'} {limit:g}"
        lines.append(f"| {what} | {bound} | {', '.join(f'{v:.1f}' for v in values)} | {holds} |")
    return "\n".join(lines)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    print(f"| {' | '.join(['trained with', *COLUMNS])} |\n|{'---|' * (len(COLUMNS) + 1)}")
    rows = {}
    for row in given.rows:
        rows[row] = results = [run(row, seed, given.world, given.out) for seed in given.seeds]
        cells = []
        for key in COLUMNS.values():
            numbers = [r[key] for r in results if key in r]
            spread = f" ± {statistics.stdev(numbers):.1f}" if len(numbers) > 1 else ""
            cells.append(f"{statistics.mean(numbers):.1f}{spread}" if numbers else "")
        print(f"| {' | '.join([row, *cells])} |", flush=True)
    print(f"\n{check(rows)}")


if __name__ == "__main__":
    main()
