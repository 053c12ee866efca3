"""DRN's ablations on ToyWorld through the real command line; prints the table of docs/benchmarks.md.

    groundzoo toyworld worlds/w1 --preset w1 --videos 1250 --test_fraction 0.2
    python tests/benchmarks/ablations.py worlds/w1 --out ablation_runs --seeds 0 1 2

Finished runs are not repeated, so it can be stopped and started again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

RUNS: dict[str, list[str]] = {
    "all (DRN)": [],
    "Table 4: half": ["ablations/drn_half.yaml"],
    "Table 4: random": ["ablations/drn_random.yaml"],
    "Table 4: center": ["ablations/drn_center.yaml"],
    "Table 5: no quality head": ["ablations/drn_no_quality.yaml"],
    "Table 5: centerness": ["ablations/drn_centerness.yaml"],
    "Table 6: no MLF": ["ablations/drn_no_fusion.yaml"],
    "Table 6: no location": ["ablations/drn_no_location.yaml"],
    "Table 6: neither": ["ablations/drn_no_fusion_no_location.yaml"],
    "MLF-Same": ["ablations/drn_fusion_same.yaml"],
    "positives of the paper's text": ["ablations/drn_paper_positives.yaml"],
    "IoU loss of the released code": ["ablations/drn_released_quality.yaml"],
    "shuffled queries (control)": ["--data.init_args.shuffle_queries", "true"],
}
METRICS = ("R1@0.5", "R1@0.7", "R5@0.5", "temporal_needed/R1@0.5")


def run(name: str, words: list[str], seed: int, world: Path, out: Path) -> dict[str, float]:
    """Fit and test one configuration with one seed, unless that was done before."""
    folder = out / f"{name.replace(':', '').replace(' ', '_').replace('(', '').replace(')', '')}-{seed}"
    metrics = folder / "metrics.json"
    common = ["--config", "tasks/drn_toyworld.yaml", "--config", "logger/csv.yaml"]
    for word in words:
        common += ["--config", word] if word.endswith(".yaml") else [word]
    common += ["--data.init_args.root", str(world), "--data.init_args.subsets", str(world / "subsets.json")]
    common += ["--seed_everything", str(seed), "--data.init_args.seed", str(seed), "--run_dir", str(folder)]
    if not metrics.exists() or "test/R1@0.5" not in json.loads(metrics.read_text()):
        command = [sys.executable, "-m", "groundzoo"]
        subprocess.run([*command, "fit", *common], check=True)
        checkpoint = folder / "checkpoints" / "best.ckpt"
        subprocess.run([*command, "test", *common, "--ckpt_path", str(checkpoint)], check=True)
    stored = json.loads(metrics.read_text())
    return {name: stored[f"test/{name}"] for name in METRICS}


def main() -> None:
    """Run everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("world", type=Path)
    parser.add_argument("--out", type=Path, default=Path("ablation_runs"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="*", default=list(RUNS))
    args = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {name: [] for name in args.only}
    for seed in args.seeds:
        for name in args.only:
            found[name].append(run(name, RUNS[name], seed, args.world.resolve(), args.out.resolve()))
    print("| | " + " | ".join(METRICS) + " |\n|---|" + "---|" * len(METRICS))
    for name, rows in found.items():
        cells = []
        for metric in METRICS:
            values = [row[metric] for row in rows]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}")
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
