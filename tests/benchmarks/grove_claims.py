"""What GROVE's paper claims, on ToyWorld through the real command line.

    groundzoo toyworld W/clean --preset grounded --format iground --videos 2000 --test_fraction 0.1
    groundzoo toyworld W/hidden --preset grounded_hidden --format iground --videos 600 --seed 9 \\
        --test_fraction 0.3
    groundzoo toyworld W/wild --preset grounded --format iground --videos 6600 --seed 5
    groundzoo annotate grounded-captions -c annotate/grounded_toyworld.yaml --captioner.world W/wild \\
        --videos W/wild/videos --out W/wild/annotated
    groundzoo fit --config tasks/grove_stand_in.yaml --data.init_args.root W/clean --run_dir W/stand_in
    python tests/benchmarks/grove_claims.py W --out grove_runs --seeds 0 1

All rows begin with the same stand-in for CLIP's and SAM's weights. Pre-training ("PT") has the same number of
steps whatever the number of annotated clips; fine-tuning ("FT") has few clean ones. Finished steps are not
repeated, so it can be stopped and started again. Columns, on the clean test split, in percent but for CIDEr:

- AP50 and recall of all frames, above a probability of 0.5 of being visible; recall asks for the very phrase;
- mIoU and objectness accuracy (visible or not) with the true sentence given;
- METEOR and CIDEr; share of the true phrases that are said (`phrase`), of the true phrases whose colour is said
  (`colour`), and of these colours whose action is right (`action`).

Then AP50 and recall by threshold, on the clean test split and on that of the world in which much is hidden.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundzoo.datamodules.grounded_records import parse_record, read_records
from groundzoo.tasks.metrics.iground import grounding_scores
from groundzoo.tasks.metrics.phrase_similarity import exact_match

BATCH = 16
GENTLE = 3e-4
THRESHOLDS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
NO_ADAPTERS: list[object] = [
    word
    for part in ("video", "grounding")
    for word in (f"--model.init_args.{part}_encoder.init_args.adapters", "[]")
]


@dataclass(frozen=True)
class Row:
    """A way to train.

    Attributes:
        annotated: annotated clips of the pre-training; 0: there is none.
        tuned: it is fine-tuned.
        long: fine-tuning has as many steps as pre-training and fine-tuning have together.
        lr: rate of the fine-tuning.
        options: of the model.
    """

    annotated: int
    tuned: bool = True
    long: bool = False
    lr: float = 3e-3
    options: Sequence[object] = ()


def rows(sizes: Sequence[int]) -> dict[str, Row]:
    """All of them, by name."""
    most = sizes[-1]
    return {
        "FT": Row(0),
        "FT, as many steps as PT + FT": Row(0, long=True),
        **{f"PT {n}": Row(n, tuned=False) for n in sizes},
        # with less to learn from than before, what was learned should not be shaken off
        **{f"PT {n} + FT": Row(n, lr=1.5e-3) for n in sizes},
        f"PT {most} + FT, gently": Row(most, lr=GENTLE),
        f"PT {most}, no adapters": Row(most, tuned=False, options=NO_ADAPTERS),
        f"PT {most} + FT, no adapters": Row(most, lr=1.5e-3, options=NO_ADAPTERS),
    }


# ---- running --------------------------------------------------------------------------------------------


def groundzoo(*words: object) -> None:
    """The command line in a process of its own."""
    subprocess.run([sys.executable, "-m", "groundzoo", *map(str, words)], check=True)


def options(folder: Path, extra: Sequence[object]) -> list[object]:
    """What all runs share."""
    quiet = ["--trainer.enable_model_summary", "false", "--data.init_args.num_workers", 1]
    return [
        "--config",
        "tasks/grove_tiny.yaml",
        "--config",
        "logger/csv.yaml",
        *quiet,
        "--run_dir",
        folder,
        *extra,
    ]


def some_clips(files: Sequence[Path], count: int, folder: Path) -> Path:
    """A folder with the first records of some files."""
    if not folder.exists():
        lines = [line for path in files for line in path.read_text().splitlines()][:count]
        if len(lines) < count:
            raise SystemExit(f"{files[0].parent} has {len(lines)} clips, {count} are asked for")
        folder.mkdir(parents=True)
        (folder / "clips.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def fit(folder: Path, data: Path, videos: Path, epochs: int, start: Path, lr: float, row: Row, seed: int) -> Path:
    """Train on a folder of clips, and return the last checkpoint."""
    last = folder / "checkpoints" / "last.ckpt"
    if not (folder / "done").exists():
        words: list[object] = ["--data", "HowToGround1M", "--data.init_args.root", data]
        words += ["--data.init_args.videos", videos, "--data.init_args.seed", seed, "--seed_everything", seed]
        words += ["--model.init_args.init_from", start, *row.options]
        words += [f"--model.init_args.stages.{k}={v}" for k, v in (("epochs", epochs), ("lr", lr))]
        groundzoo("fit", *options(folder, words))
        (folder / "done").touch()
    return last


def test(folder: Path, world: Path, checkpoint: Path, row: Row) -> dict[str, Any]:
    """Metrics of a checkpoint on a world's test split, with all boxes, however improbable."""
    if not (folder / "done").exists():
        words = ["--data.init_args.root", world, "--ckpt_path", checkpoint, "--model.init_args.threshold", 0]
        groundzoo("test", *options(folder, [*words, *row.options]))
        (folder / "done").touch()
    answers = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    truths = {}
    for where, record in read_records(world / "test.jsonl"):
        clip = parse_record(record, where)
        truths[clip.clip_id] = [[(clip.caption.phrases[i], box) for i, box in frame] for frame in clip.boxes]
    values = {k.removeprefix("test/"): v for k, v in json.loads((folder / "metrics.json").read_text()).items()}
    curve = {}
    for threshold in THRESHOLDS:
        records = [
            {
                "id": a["query_id"],
                "size": a["size"],
                "truth": truths[a["query_id"]],
                "predicted": kept(a, threshold),
            }
            for a in answers
        ]
        scores = grounding_scores(records, similarity=exact_match)
        curve[threshold] = {name: 100 * value for name, value in scores.items()}
    return values | said(answers) | {"curve": curve}


def kept(answer: dict[str, Any], threshold: float) -> list[list[tuple[str, list[float]]]]:
    """Boxes that are probably enough visible."""
    return [
        [(p["text"], p["boxes"][t]) for p in answer["phrases"] if p["scores"][t] >= threshold]
        for t in range(len(answer["times_s"]))
    ]


def said(answers: Sequence[dict[str, Any]]) -> dict[str, float]:
    """What of the sentences is right: whole phrases, colours, and the actions of these."""
    true = phrases = colours = actions = 0
    for answer in answers:
        told, wanted = (
            [words for part in text.split(" while ") if len(words := part.split()) > 3]
            for text in (answer["caption"], answer["references"][0])
        )
        for words in wanted:
            same = [other for other in told if other[1] == words[1]]
            true += 1
            phrases += any(other[:3] == words[:3] for other in same)
            colours += bool(same)
            actions += any(other[3:] == words[3:] for other in same)
    return {
        "phrase": 100 * phrases / true,
        "colour": 100 * colours / true,
        "action": 100 * actions / max(1, colours),
    }


def run(name: str, row: Row, seed: int, given: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Train by one row, and measure: on the clean world, and on that in which much is hidden."""
    world, out = given.world, given.out / str(seed)
    start = world / "stand_in" / "checkpoints" / "best.ckpt"
    suffix = "_no_adapters" if row.options else ""
    if row.annotated:
        files = sorted((world / "wild" / "annotated" / "annotations").glob("*.jsonl*"))
        data = some_clips(files, row.annotated, given.out / "data" / f"annotated-{row.annotated}")
        epochs = max(1, round(given.steps * BATCH / row.annotated))
        folder = out / f"pt{row.annotated}{suffix}"
        start = fit(folder, data, world / "wild" / "videos", epochs, start, 3e-3, row, seed)
    if row.tuned:
        data = some_clips([world / "clean" / "train.jsonl"], given.clean, given.out / "data" / "clean")
        steps = given.tuning_steps + (given.steps if row.long else 0)
        epochs = max(1, round(steps * BATCH / given.clean))
        how = "_long" if row.long else "_gently" if row.lr == GENTLE else ""
        folder = out / f"pt{row.annotated}_ft{how}{suffix}"
        start = fit(folder, data, world / "clean" / "videos", epochs, start, row.lr, row, seed)
    found = {}
    for split in ("clean", "hidden"):
        found[split] = test(folder / f"test_{split}", world / split, start, row)
    print(f"{name}, seed {seed}: {found['clean']['curve'][0.5]}", file=sys.stderr, flush=True)
    return found


# ---- tables ---------------------------------------------------------------------------------------------


def values_of(found: dict[str, Any]) -> dict[str, float]:
    """The columns of one run."""
    at = found["curve"][0.5]
    return {
        "AP50": at["AP50"],
        "recall": at["recall"],
        "mIoU (given)": found["mIoU"],
        "objectness (given)": found["objectness accuracy"],
        "METEOR": found["METEOR"],
        "CIDEr": found["CIDEr"],
        **{name: found[name] for name in ("phrase", "colour", "action")},
    }


def cell(numbers: Sequence[float]) -> str:
    """Mean, and how far the runs are apart."""
    spread = f" ± {statistics.stdev(numbers):.1f}" if len(numbers) > 1 else ""
    return f"{statistics.mean(numbers):.1f}{spread}"


def difference(results: dict[str, list[dict[str, Any]]], more: str, less: str) -> str:
    """Row of differences, seed by seed."""
    pairs = [
        (values_of(a["clean"]), values_of(b["clean"])) for a, b in zip(results[more], results[less], strict=True)
    ]
    cells = [", ".join(f"{a[key] - b[key]:+.1f}" for a, b in pairs) for key in pairs[0][0]]
    return f"| {more} - {less} | {' | '.join(cells)} |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[320, 1600, 6400], help="annotated clips")
    parser.add_argument("--steps", type=int, default=800, help="of pre-training")
    parser.add_argument("--clean", type=int, default=96, help="clean clips")
    parser.add_argument("--tuning_steps", type=int, default=150)
    given = parser.parse_args()
    results: dict[str, list[dict[str, Any]]] = {}
    for name, row in rows(given.sizes).items():
        results[name] = [run(name, row, seed, given) for seed in given.seeds]
    columns = list(values_of(results["FT"][0]["clean"]))
    print(f"| trained with | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    for name, runs in results.items():
        numbers = [values_of(r["clean"]) for r in runs]
        print(f"| {name} | {' | '.join(cell([n[key] for n in numbers]) for key in columns)} |")
    print(f"\n| difference, seed by seed | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    most = given.sizes[-1]
    for more, less in (
        (f"PT {most} + FT", "FT"),
        (f"PT {most} + FT", "FT, as many steps as PT + FT"),
        (f"PT {most} + FT", f"PT {most}"),
        (f"PT {most} + FT, gently", f"PT {most}"),
        (f"PT {most} + FT", f"PT {most} + FT, no adapters"),
    ):
        print(difference(results, more, less))
    print(f"\n| AP50 / recall from a threshold of | {' | '.join(map(str, THRESHOLDS))} |")
    print(f"|{'---|' * (len(THRESHOLDS) + 1)}")
    for name in (f"PT {most}", f"PT {most} + FT, gently", "FT, as many steps as PT + FT"):
        for split in ("clean", "hidden"):
            curves = [r[split]["curve"] for r in results[name]]
            cells = [
                " / ".join(f"{statistics.mean(c[t][key] for c in curves):.1f}" for key in ("AP50", "recall"))
                for t in THRESHOLDS
            ]
            print(f"| {name}, {split} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
