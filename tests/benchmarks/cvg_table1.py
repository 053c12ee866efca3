"""CVG's Table 1 on ToyWorld through the real command line; prints the table of docs/benchmarks.md.

    groundzoo toyworld worlds/captions --preset captions --format activitynet_entities --videos 575 \\
        --test_fraction 0.174
    groundzoo annotate propagate --config tasks/cvg_toyworld.yaml --config annotate/propagate_template.yaml \\
        --data.root worlds/captions --out worlds/captions/labels
    python tests/benchmarks/cvg_table1.py worlds/captions --out cvg_runs --seeds 0 1 2

``--wrong SHARE`` spoils that share of the tracked boxes (not of the annotated ones) before training: they move
elsewhere, and their scores fall by half. Finished runs are not repeated, so it can be stopped and started again.

Words are judged with the given caption (teacher forcing), against the true boxes of all frames: whether the one
most attended cell of all frames touches the true box of the word's actor (of the acting one for verbs), and
whether it lies in a frame where the actor is covered or blurred. Captions are judged against both orders of their
actors.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from groundzoo.datamodules.activitynet_entities import ActivityNetEntities
from groundzoo.tasks.cvg import CVG
from groundzoo.tasks.launch import rebuild
from groundzoo.tasks.metrics.captions import CaptionScores

LONGER = "[{losses: [caption, grounding], lr: 5.0e-3, epochs: 24, schedule: one_cycle}]"
RUNS: dict[str, list[str]] = {
    "none": ["ablations/cvg_none.yaml"],
    "EG": ["ablations/cvg_eg.yaml"],
    "EG + DLP": ["ablations/cvg_eg_dlp.yaml"],
    "AG": ["ablations/cvg_ag.yaml"],
    "EG + AG + SGS": ["ablations/cvg_eg_ag_sgs.yaml"],
    "EG + DLP + AG": ["ablations/cvg_eg_dlp_ag.yaml"],
    "all": [],
    "all, threshold 0": ["ablations/cvg_threshold_0.yaml"],
    "all, threshold 0.25": ["ablations/cvg_threshold_025.yaml"],
    "all, threshold 0.75": ["ablations/cvg_threshold_075.yaml"],
    "all, weight 0.5": ["ablations/cvg_weight_05.yaml"],
    "all, one stream": ["ablations/cvg_one_stream.yaml"],
    "none, 24 epochs": ["ablations/cvg_none.yaml", "--model.init_args.stages", LONGER.replace(", grounding", "")],
    "all, 24 epochs": ["--model.init_args.stages", LONGER],
}
TABLE1 = list(RUNS)[:7]
COLUMNS = ("CIDEr", "BLEU4", "noun", "verb", "V noun", "V poor", "V verb", "M verb")


def spoil(labels: Path, out: Path, share: float) -> Path:
    """A copy of the labels whose tracker errs in a share of its boxes."""
    if out.exists():
        return out
    shutil.copytree(labels, out)
    rng = np.random.default_rng(0)
    for path in sorted((out / "labels").glob("*.json")):
        stored = json.loads(path.read_text())
        for track in _tracks(stored):
            for f, score in enumerate(track["scores"]):
                if f in track["annotated"] or score == 0 or rng.random() >= share:
                    continue
                x1, y1, x2, y2 = track["boxes"][f]
                x, y = rng.random(2) * (1 - x2 + x1, 1 - y2 + y1)
                track["boxes"][f] = [round(v, 4) for v in (x, y, x + x2 - x1, y + y2 - y1)]
                track["scores"][f] = round(score * rng.uniform(0.4, 0.9), 4)
        path.write_text(json.dumps(stored))
    return out


def _tracks(stored: Any) -> list[dict[str, Any]]:
    """Every dictionary with boxes and scores inside a label file."""
    if isinstance(stored, list):
        return [t for part in stored for t in _tracks(part)]
    if not isinstance(stored, dict):
        return []
    return [stored] if {"boxes", "scores"} <= stored.keys() else [t for p in stored.values() for t in _tracks(p)]


def run(name: str, seed: int, world: Path, labels: Path, out: Path) -> dict[str, float]:
    """Fit one configuration with one seed and judge it, unless that was done before."""
    folder = out / f"{name.replace(' ', '').replace(',', '-')}-{seed}"
    result = folder / "result.json"
    if not result.exists():
        words = [sys.executable, "-m", "groundzoo", "fit", "--config", "tasks/cvg_toyworld.yaml"]
        words += ["--config", "logger/csv.yaml"]
        for word in RUNS[name]:
            words += ["--config", word] if word.endswith(".yaml") else [word]
        words += ["--data.init_args.root", str(world), "--data.init_args.labels", str(labels)]
        words += ["--data.init_args.num_workers", "0", "--trainer.enable_model_summary", "false"]
        words += ["--data.init_args.seed", str(seed), "--seed_everything", str(seed), "--run_dir", str(folder)]
        subprocess.run(words, check=True)
        found = judge(folder / "checkpoints" / "last.ckpt", world)
        result.write_text(json.dumps(found))
    stored: dict[str, float] = json.loads(result.read_text())
    return stored


@torch.inference_mode()
def judge(checkpoint: Path, world: Path) -> dict[str, float]:
    """Captions against both orders of the two actors, and attention against the truth of all frames."""
    task = rebuild(checkpoint, "cpu")
    assert isinstance(task, CVG)
    data = ActivityNetEntities(world, num_workers=0, eval_batch_size=100)
    data.trainer = SimpleNamespace(lightning_module=task, world_size=1)  # type: ignore[assignment]
    data.setup("test")
    metric, counts = CaptionScores(("CIDEr", "BLEU")), dict.fromkeys(COLUMNS[2:], 0)
    mentions = 0
    for batch in data.test_dataloader():
        batch = task.prepare(batch)
        memory = task.network.remember(task.grids(batch))
        said = task._answers(memory, batch.visual.shape, task.decode(memory), looked=False).sentences
        targets, _ = task._targets(batch.captions, 40)
        attention = task.network(memory, F.pad(targets, (1, 0))[:, :-1]).attention
        truths = [_truth(world, segment_id) for segment_id in batch.segment_ids]
        records = [
            {"id": i, "caption": " ".join(words), "references": [t.rstrip(".") for t in segment["sentences"][:2]]}
            for i, words, (_, segment) in zip(batch.segment_ids, said, truths, strict=True)
        ]
        metric.update(batch.index.tolist(), records)
        for v, (actors, segment) in enumerate(truths):
            text = " ".join(said[v]).lower()
            for mention in segment["mentions"]:
                mentions += 1
                actor, words = actors[mention["actor"]], [t.lower() for t in segment["tokens"]]
                verb = " ".join(words[i] for i in mention["verb"])
                counts["noun"] += f"{actor['colour']} {actor['shape']}" in text
                shapes = ("circle", "square", "triangle")
                counts["verb"] += any(f"{actor['colour']} {shape} {verb}" in text for shape in shapes)
                noun, action = mention["words"][1], mention["verb"][0]
                inside, poor = _peak(attention[0][v, noun], batch.visual.shape, actor, segment["frames"])
                counts["V noun"] += inside
                counts["V poor"] += poor
                counts["V verb"] += _peak(attention[0][v, action], batch.visual.shape, actor, segment["frames"])[0]
                if batch.motion is not None:
                    shape = batch.motion.shape
                    counts["M verb"] += _peak(attention[1][v, action], shape, actor, segment["frames"])[0]
    scores = {name: metric.compute()[name].item() / 100 for name in COLUMNS[:2]}
    return scores | {name: count / mentions for name, count in counts.items()}


def _truth(world: Path, segment_id: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    video, _, number = segment_id.partition("#")
    stored = json.loads((world / "truth" / f"{video}.json").read_text())
    return stored["actors"], stored["segments"][int(number)]


def _peak(logits: torch.Tensor, shape: torch.Size, actor: dict[str, Any], frames: list[int]) -> tuple[bool, bool]:
    """Whether the most attended cell touches the actor's box, and whether its frame shows the actor poorly."""
    h, w = shape[2:4]
    frame, row, column = np.unravel_index(int(logits.argmax()), (shape[1], h, w))
    box, poor = actor["boxes"][frames[frame]], frames[frame] in actor["poor"]
    if box is None:
        return False, poor
    x1, y1, x2, y2 = box
    size = 96  # of ToyWorld's frames
    across = x1 < (column + 1) * size / w and x2 > column * size / w
    return across and y1 < (row + 1) * size / h and y2 > row * size / h, poor


def main() -> None:
    """Run everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", type=Path)
    parser.add_argument("--out", type=Path, default=Path("cvg_runs"))
    parser.add_argument("--labels", type=Path, default=None, help="WORLD/labels unless given")
    parser.add_argument("--wrong", type=float, default=0.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="*", default=TABLE1, choices=list(RUNS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    world, out = args.world.resolve(), args.out.resolve()
    labels = (args.labels or world / "labels").resolve()
    if args.wrong:
        labels, out = (
            spoil(labels, world / f"labels_wrong_{args.wrong:g}", args.wrong),
            out / f"wrong_{args.wrong:g}",
        )
    found: dict[str, list[dict[str, float]]] = {name: [] for name in args.only}
    for seed in args.seeds:
        for name in args.only:
            found[name].append(run(name, seed, world, labels, out))
    print("| | " + " | ".join(COLUMNS) + " |\n|---|" + "---|" * len(COLUMNS))
    for name, rows in found.items():
        cells = []
        for column in COLUMNS:
            values = [row[column] for row in rows]
            spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.2f}{spread}")
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
