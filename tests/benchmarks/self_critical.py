"""Self-critical training on ToyWorld through the real command line: rewards, baselines, and an ensemble.

    W=worlds/described_one
    groundzoo toyworld $W --preset described_one --format activitynet --videos 900 --test_fraction 0.2
    groundzoo concepts $W/train.json --out $W/concepts.json --size 60
    python tests/benchmarks/satsp_chain.py $W --out satsp_runs --seeds 0 --rows "all three"
    python tests/benchmarks/self_critical.py $W satsp_runs/all_three-0/features --out rewards --seeds 0 1 2

Per seed, one captioner learns from given sentences. Every row goes on from its best checkpoint, for the same
number of epochs and at the same learning rate, one of them with given sentences. All are judged after their last
epoch on `val_2`, with annotated events; `val_1` chooses the start. Finished steps are not repeated, so it can be
stopped and started again. The last table is of the ensemble of captioners that learned from given sentences alone,
one per seed of ``--members``, beside each of them.

Columns:

- reward: mean over the samples of the first, the sixth and the last epoch; CIDEr 0 to 10, METEOR 0 to 1;
- advantage: mean of reward minus baseline over the whole of self-critical training;
- CIDEr, METEOR, times 100: of all held-out events as one corpus, each with its own sentence as the reference;
- dense: CIDEr by the protocol of dense captioning, where every video is a corpus of its own;
- words per sentence; distinct sentences; sentences without an end, in percent;
- colour, shape, size: events whose sentence names the actor's, in percent; `named`: any at all (the first word of
  the kind counts).
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import statistics
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from groundzoo.tasks.metrics.captions import CaptionScores
from groundzoo.tasks.pictures import COLOURS, save

START = "{losses: [caption, proposal], lr: 4.0e-3, epochs: 15, schedule: one_cycle}"
MORE = "{{losses: [{}], train: captioner, lr: {}, epochs: {}}}"
START_EPOCHS, EPOCHS, LR = 15, 8, "5.0e-4"
MAX_LENGTH = 20
GREEDY, OTHERS = "baseline: greedy, samples: 1", "baseline: leave_one_out, samples: 4"
# all weights, or those of the configuration below stay
CIDER = "{meteor_ids: 0.0, meteor: 0.0, cider: 1.0}"
METEOR = "{meteor_ids: 0.0, meteor: 1.0, cider: 0.0}"
METEOR_IDS = "{meteor_ids: 1.0, meteor: 0.0, cider: 0.0}"
ROWS: dict[str, str | None] = {
    "given sentences": None,
    "greedy, CIDEr": f"{{{GREEDY}, reward: {CIDER}}}",
    "leave one out, CIDEr": f"{{{OTHERS}, reward: {CIDER}}}",
    "leave one out, METEOR": f"{{{OTHERS}, reward: {METEOR}}}",
    "leave one out, METEOR of ids": f"{{{OTHERS}, reward: {METEOR_IDS}}}",
}
ATTRIBUTES = ("colour", "shape", "size")
COLUMNS = (
    "reward 1", "reward 6", "reward last", "advantage", "CIDEr", "METEOR", "dense", "words", "distinct",
    "no end", *ATTRIBUTES, *(f"{name} named" for name in ATTRIBUTES),
)  # fmt: skip
Curves = dict[str, list[float]]


# ---- runs -----------------------------------------------------------------------------------------------


def groundzoo(*words: object) -> None:
    """The command line in a process of its own."""
    subprocess.run([sys.executable, "-m", "groundzoo", *map(str, words)], check=True)


def options(world: Path, store: Path, folder: Path, seed: int) -> list[object]:
    """What all runs have in common."""
    words: list[object] = ["--config", "tasks/dense_toyworld.yaml", "--config", "logger/csv.yaml"]
    words += [
        "--data.init_args.root",
        world,
        "--data.init_args.features",
        store,
        "--data.init_args.num_workers",
        0,
    ]
    words += ["--trainer.enable_model_summary", "false", "--trainer.log_every_n_steps", 1]
    return [*words, "--data.init_args.seed", seed, "--seed_everything", seed, "--run_dir", folder]


def start(world: Path, store: Path, out: Path, seed: int) -> Path:
    """Learn from given sentences, and tell the events of the test split; returns the folder."""
    folder = out / f"start-{seed}"
    if not (folder / "tested").exists():
        stages = f"[{START}, {MORE.format('caption', LR, EPOCHS)}]"  # the second one keeps the best of the first
        words = [*options(world, store, folder, seed), "--model.init_args.stages", stages]
        groundzoo("fit", *words, "--trainer.max_epochs", START_EPOCHS)
        groundzoo("test", *words, "--ckpt_path", folder / "checkpoints" / "stage1.ckpt")
        (folder / "tested").touch()
    return folder


def go_on(name: str, begun: Path, world: Path, store: Path, out: Path, seed: int) -> Path:
    """The second stage of one row, from the end of the first; returns the folder."""
    folder = out / f"{name.replace(',', '').replace(' ', '_')}-{seed}"
    if not (folder / "tested").exists():
        shutil.copytree(begun / "checkpoints", folder / "checkpoints", dirs_exist_ok=True)
        second = MORE.format("caption" if ROWS[name] is None else "reward", LR, EPOCHS)
        words = [*options(world, store, folder, seed), "--model.init_args.stages", f"[{START}, {second}]"]
        words += [] if ROWS[name] is None else ["--model.init_args.self_critical", ROWS[name]]
        groundzoo("fit", *words, "--ckpt_path", begun / "checkpoints" / "last.ckpt")
        groundzoo("test", *words, "--ckpt_path", folder / "checkpoints" / "last.ckpt")
        (folder / "tested").touch()
    return folder


# ---- numbers --------------------------------------------------------------------------------------------


def curves(folder: Path) -> Curves:
    """Means of every epoch of the second stage, by the name of what was logged."""
    found: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    with (folder / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value and row["epoch"] and name not in ("epoch", "step"):
                    found[name][int(row["epoch"])].append(float(value))
    return {
        name: [statistics.mean(values) for epoch, values in sorted(of.items()) if epoch >= START_EPOCHS]
        for name, of in found.items()
    }


def judge(predictions: Path, world: Path) -> dict[str, float]:
    """What the sentences of a ``predictions.jsonl`` are like."""
    records = [json.loads(line) for line in predictions.read_text().splitlines()]
    annotated = json.loads((world / "val_2.json").read_text())
    said = [record["caption"] for record in records]
    scored, truths = [], []
    told: Counter[str] = Counter()
    facts: dict[str, Any] = {}
    for record in records:
        video, k = record["video"], told[record["video"]]  # events are told in the order of their starts
        told[video] += 1
        order = sorted(
            range(len(annotated[video]["timestamps"])), key=lambda i: annotated[video]["timestamps"][i][0]
        )
        reference = annotated[video]["sentences"][order[k]]
        scored.append({"id": f"{video}#{k}", "caption": record["caption"], "references": [reference]})
        if video not in facts:
            facts[video] = json.loads((world / "truth" / f"{video}.json").read_text())
        events = sorted(facts[video]["events"], key=lambda event: event["start_s"])
        truths.append(facts[video]["actors"][events[k]["actor"]])
    values = CaptionScores(("CIDEr", "METEOR"), "ptb").evaluate(scored)
    lengths = [len(text.split()) for text in said]
    values |= {"words": statistics.mean(lengths), "distinct": float(len(set(said)))}
    values["no end"] = 100 * statistics.mean(n >= MAX_LENGTH for n in lengths)
    for name in ATTRIBUTES:
        known = {truth[name] for truth in truths}
        named = [next((word for word in text.lower().split() if word in known), None) for text in said]
        values[f"{name} named"] = 100 * statistics.mean(word is not None for word in named)
        right = (word == truth[name] for word, truth in zip(named, truths, strict=True))
        values[name] = 100 * statistics.mean(right)
    return values


def row(folder: Path, world: Path) -> dict[str, float]:
    """All columns of a run."""
    path = folder / "judged.json"
    if not path.exists():
        path.write_text(json.dumps(judge(folder / "predictions.jsonl", world)))
    values: dict[str, float] = json.loads(path.read_text())
    values["dense"] = json.loads((folder / "metrics.json").read_text())["test/dense/CIDEr"]
    found = curves(folder)
    if rewards := found.get("train/sample reward"):
        values |= {
            "reward 1": rewards[0],
            "reward 6": rewards[min(5, len(rewards) - 1)],
            "reward last": rewards[-1],
        }
        values["advantage"] = statistics.mean(found["train/advantage"])
    return values


def table(title: str, columns: Sequence[str], rows: dict[str, list[dict[str, float]]]) -> str:
    """Means and standard deviations over seeds, as Markdown."""
    lines = [f"| {title} | {' | '.join(columns)} |", f"|{'---|' * (len(columns) + 1)}"]
    for name, results in rows.items():
        cells = [_cell([r[c] for r in results if c in r], 3 if c in COLUMNS[:4] else 1) for c in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(values: Sequence[float], digits: int) -> str:
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def check(rows: dict[str, list[dict[str, float]]]) -> str:
    """What is safe to ask of every seed, and whether it held."""
    cider, meteor = (rows.get(f"leave one out, {name}", []) for name in ("CIDEr", "METEOR"))
    begun = rows["start"]
    Question = tuple[
        str, list[dict[str, float]], Callable[[dict[str, float], dict[str, float]], float], float, int
    ]
    questions: list[Question] = [
        ("reward CIDEr, sixth epoch - first", cider, lambda r, _: r["reward 6"] - r["reward 1"], 0.08, 1),
        ("reward CIDEr: CIDEr - start", cider, lambda r, s: r["CIDEr"] - s["CIDEr"], 5.0, 1),
        ("reward METEOR: METEOR - start", meteor, lambda r, s: r["METEOR"] - s["METEOR"], 4.0, 1),
        ("no end, percent", cider + meteor, lambda r, _: r["no end"], 2.0, -1),
        ("words, of the start's", cider + meteor, lambda r, s: r["words"] / s["words"], 1.8, -1),
    ]
    lines = ["| asked | limit | every seed | holds |", "|---|---|---|---|"]
    for name, results, measure, limit, sign in questions:
        values = [measure(r, begun[i % len(begun)]) for i, r in enumerate(results)]
        holds = "yes" if values and all(sign * v >= sign * limit for v in values) else "no"
        bound = f"{'at least' if sign > 0 else 'at most'} {limit:g}"
        lines.append(f"| {name} | {bound} | {', '.join(f'{v:.2f}' for v in values)} | {holds} |")
    return "\n".join(lines)


def picture(found: dict[str, list[Curves]], path: Path) -> None:
    """Curves of the second stage: rewards, held-out CIDEr and length; a thin line per seed, the mean thick."""
    panels = (
        ("reward CIDEr (0 to 10), samples", "train/sample reward", lambda name: name.endswith("CIDEr")),
        ("reward METEOR (0 to 1), samples", "train/sample reward", lambda name: "METEOR" in name),
        ("CIDEr of val_1, dense protocol", "val/dense/CIDEr", lambda name: True),
        ("words per sample", "train/sample length", lambda name: True),
    )
    figure = Figure(figsize=(10, 6), layout="constrained")
    for axis, (title, key, wanted) in zip(figure.subplots(2, 2).flat, panels, strict=True):
        for name, colour in zip(ROWS, COLOURS, strict=True):
            lines = [c[key] for c in found.get(name, []) if c.get(key)]
            if not lines or not wanted(name):
                continue
            for line in lines if len(lines) > 1 else []:
                axis.plot(range(1, len(line) + 1), line, color=colour, linewidth=0.6, alpha=0.5)
            mean = [statistics.mean(values) for values in zip(*lines, strict=True)]
            axis.plot(range(1, len(mean) + 1), mean, color=colour, linewidth=2, label=name)
        axis.set_title(title, loc="left", fontsize=9)
        axis.set_xlabel("epoch of the second stage", fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=7)
        if len(axis.lines) and title == panels[-2][0]:  # the one with all rows
            figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
    save(figure, path)


def ensemble(begun: dict[int, Path], world: Path, out: Path) -> dict[str, list[dict[str, float]]]:
    """The captioners of the first stage, and their ensemble by the command."""
    chosen = out / "ensemble.jsonl"
    runs = [folder / "predictions.jsonl" for folder in begun.values()]
    words = [sys.executable, "-m", "groundzoo.tasks.ensemble", *map(str, runs), "--out", str(chosen)]
    words += ["--concepts", str(world / "concepts.json"), "--captions", str(world / "train.json")]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    singles = [row(folder, world) for folder in begun.values()]
    best = {c: max(r[c] for r in singles) for c in ("CIDEr", "METEOR")}
    rows = {f"seed {seed}": [values] for seed, values in zip(begun, singles, strict=True)}
    return rows | {"mean single": singles, "best single": [best], "ensemble": [judge(chosen, world)]}


def main() -> None:
    """Run what is missing; print the tables and draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", type=Path)
    parser.add_argument("store", type=Path, help="features of the world's videos, 64 wide")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--members", type=int, nargs="+", default=[], help="seeds of the ensemble; at least 2")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    given = parser.parse_args()
    world, store, out = given.world, given.store, given.out
    begun = {seed: start(world, store, out, seed) for seed in dict.fromkeys([*given.seeds, *given.members])}
    rows = {"start": [row(begun[seed], world) for seed in given.seeds]}
    drawn: dict[str, list[Curves]] = {}
    for name in given.rows:
        folders = [go_on(name, begun[seed], world, store, out, seed) for seed in given.seeds]
        rows[name] = [row(folder, world) for folder in folders]
        drawn[name] = [curves(folder) for folder in folders]
    print(table("", COLUMNS, rows))
    print(f"\n{check(rows)}")
    if len(given.members) > 1:
        singles = ensemble({seed: begun[seed] for seed in given.members}, world, out)
        print(f"\n{table('', ('CIDEr', 'METEOR', 'words', 'distinct'), singles)}")
    picture(drawn, out / "self_critical.png")


if __name__ == "__main__":
    main()
