"""STG's Tables 5, 6 and 8 on ToyWorld through the real command line; prints the tables of docs/papers/stg.md.

    for preset in narrations narrations_two narrations_enter; do
        groundzoo toyworld worlds/$preset --preset $preset --format howto100m --videos 800 --test_fraction 0.1
    done
    python tests/benchmarks/stg_tables.py worlds/narrations_two --out stg_runs --seeds 0 1 2

Finished runs are not repeated, so it can be stopped and started again. ``--runs`` chooses rows. ``--selection``
prints what the other ways of choosing would choose with the global branch of the runs `global loss only`.

Columns, all on held-out videos at one moment per second, in percent: IoU+Point and its mean over actions, the
share of moments with an action that get the right one (`frames`), video mAP, pointing accuracy in trimmed
steps, mean IoU of the known order (`order`); without a background, the share of moments with an action whose
right one is the most similar of the video's (`own`) and of all videos' actions (`all`); of narrations of held-
out videos the share of chosen candidates that lie in a told step (`inside`), and of told steps those with a
chosen candidate (`found`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from groundzoo.datamodules.grounding_youtube import GroundingYouTube
from groundzoo.datamodules.mining_youtube import MiningYouTube
from groundzoo.datamodules.units import UnitSource, stack
from groundzoo.datamodules.video_files import find_videos
from groundzoo.tasks.launch import rebuild
from groundzoo.tasks.stg import STG, Projected, SelectionOptions
from groundzoo.zoo.batch import NarrationBatch

WARM_UP = "{losses: [global], lr: 3.0e-3, epochs: 20, schedule: one_cycle, monitor: val/frame accuracy}"
LEARN = "{{losses: [{}], lr: 1.0e-3, epochs: {}, schedule: one_cycle}}"
STAGES = "--model.init_args.stages"
RUNS: dict[str, list[str]] = {
    "both (Sinkhorn)": [],
    "global loss only": [STAGES, f"[{WARM_UP}, {LEARN.format('global', 5)}]"],
    "local loss only": [STAGES, f"[{LEARN.format('local', 5)}]"],
    "no warm-up": [STAGES, f"[{LEARN.format('global, local', 5)}]"],
    "random frames": ["ablations/stg_random.yaml"],
    "top frames": ["ablations/stg_words_both_top.yaml"],
    "narration's frames": ["ablations/stg_narration.yaml"],
    "votes of words": ["ablations/stg_vote.yaml"],
    "sum after SwAV": ["ablations/stg_swav_sum.yaml"],
    "Global T": ["ablations/stg_sentence_frame.yaml"],
    "self + cross": ["ablations/stg_self_cross.yaml"],
    "cross + self": ["ablations/stg_cross_self.yaml"],
    "cross + cross": ["ablations/stg_cross_cross.yaml"],
    "loss of MIL-NCE": ["ablations/stg_mil_nce_loss.yaml"],
    "shuffled narrations": [],
}
METRICS = {
    "IoU+Point": "IoU+Point",
    "class": "IoU+Point class",
    "frames": "frame accuracy",
    "mAP@0.1": "mAP@0.1",
    "mAP@0.3": "mAP@0.3",
    "mAP": "mAP",
    "pointing": "spatial/pointing accuracy",
    "order": "temporal/IoU",
}
COLUMNS = (*METRICS, "own", "all", "inside", "found")


def run(name: str, seed: int, world: Path, out: Path) -> dict[str, float]:
    """Fit one configuration with one seed and judge it, unless that was done before."""
    folder = out / f"{name.replace(' ', '_')}-{seed}"
    result, fitted = folder / "result.json", folder / "fitted"
    if not fitted.exists():
        words = [sys.executable, "-m", "groundzoo", "fit", "--config", "tasks/stg_toyworld.yaml"]
        words += ["--config", "logger/csv.yaml"]
        for word in RUNS[name]:
            words += ["--config", word] if word.endswith(".yaml") else [word]
        words += ["--data.init_args.root", str(world), "--data.init_args.evaluation.init_args.root", str(world)]
        words += ["--data.init_args.num_workers", "0", "--trainer.enable_model_summary", "false"]
        words += ["--data.init_args.seed", str(seed), "--seed_everything", str(seed), "--run_dir", str(folder)]
        if name == "shuffled narrations":
            words += ["--data.init_args.captions", shuffled(world).name]
        subprocess.run(words, check=True)
        fitted.touch()
    if not result.exists():
        result.write_text(json.dumps(judge(folder / "checkpoints" / "last.ckpt", world)))
    stored: dict[str, float] = json.loads(result.read_text())
    return stored


def shuffled(world: Path) -> Path:
    """The narrations of every video are those of another one."""
    path = world / "caption_shuffled.json"
    if not path.exists():
        stored = json.loads((world / "caption.json").read_text())
        ids = sorted(stored)
        other = np.random.default_rng(0).permutation(len(ids))
        path.write_text(json.dumps({name: stored[ids[k]] for name, k in zip(ids, other, strict=True)}))
    return path


@torch.inference_mode()
def judge(checkpoint: Path, world: Path) -> dict[str, float]:
    """All columns of one checkpoint, in percent."""
    task = rebuild(checkpoint, "cpu")
    assert isinstance(task, STG)
    found: dict[str, float] = {}
    own = every = moments = 0
    sets: list[Any] = [GroundingYouTube(world, num_workers=0), MiningYouTube(world, num_workers=0)]
    for data in sets:
        data.trainer = SimpleNamespace(lightning_module=task, world_size=1)
        data.setup("test")
        metrics = {p: metric for p, metric in task.metric("test").items(keep_base=True) if p in data.protocols}
        batches = [task.prepare(batch) for batch in data.test_dataloader()]
        actions = sorted({a for batch in batches for a in batch.actions})
        texts = F.normalize(task.network.g(task.text_encoder(actions).sentence), dim=-1)
        for batch in batches:
            located = task.locate_batch(batch)
            task.update_metric(metrics, located, batch)  # type: ignore[arg-type]
            if batch.protocol == "untrimmed":
                acts = batch.labels >= 0
                true = batch.labels[acts]
                own += int((located.similarity[acts].argmax(1) == true).sum())
                frames = F.normalize(task.network.f(task._seen(batch.features)[0][acts]), dim=-1)
                named = [actions.index(batch.actions[k]) for k in true.tolist()]
                every += int(((frames @ texts.mT).argmax(1) == torch.tensor(named)).sum())
                moments += int(acts.sum())
        for metric in metrics.values():
            found |= {key: value.item() for key, value in metric.compute().items()}
    values = {column: found[key] for column, key in METRICS.items()}
    values |= {"own": 100 * own / moments, "all": 100 * every / moments}
    return values | selection(task, world, task.selection)


@torch.inference_mode()
def selection(task: STG, world: Path, options: SelectionOptions) -> dict[str, float]:
    """Where the candidates lie that are chosen for the narrations of held-out videos."""
    source = UnitSource(
        task.video_encoder, None, find_videos(world / "videos"), world / "features", False, task.max_cells
    )
    source.open()
    times = np.arange(40) / 2.5
    seen, texts, told, inside = [], [], [], []
    for video in (world / "videos_test.txt").read_text().split():
        truth = json.loads((world / "truth" / f"{video}.json").read_text())
        honest = [narration for narration in truth["narrations"] if not any(narration["off_topic"])]
        for narration in honest[:1]:
            seen.append(source.read(video, times).features)
            texts.append(narration["text"])
            inside.append((times >= narration["start_s"]) & (times <= narration["end_s"]))
            told.append([(truth["events"][k]["start_s"], truth["events"][k]["end_s"]) for k in narration["steps"]])
    features, n = task.encode(stack(seen), len(times)), len(texts)
    vectors, grid = task._seen(features)
    everything = torch.ones(n, len(times), dtype=torch.bool)
    at = torch.from_numpy(times).float().expand(n, -1)
    spans = torch.zeros(n, 2)
    said = torch.from_numpy(np.stack(inside))
    batch = NarrationBatch(features, everything, said, at, texts, spans, None, texts, torch.arange(n))
    text = task.text_encoder(batch.texts)
    before, task.selection = task.selection, options
    index, _ = task.select(Projected(task.network.f(vectors), task.network.g(text.sentence), text), grid, batch)
    task.selection = before
    moments = batch.times_s.gather(1, index)
    within = found = steps = 0
    for row, steps_told in zip(moments, told, strict=True):
        hits = torch.stack([(row >= start) & (row < end) for start, end in steps_told])
        within += int(hits.any(0).sum())
        found += int(hits.any(1).sum())
        steps += len(steps_told)
    return {"inside": 100 * within / moments.numel(), "found": 100 * found / steps}


def compare_selection(world: Path, out: Path, seeds: list[int]) -> str:
    """Share of chosen candidates inside told steps, and of told steps found, for every way of choosing."""
    lines = ["| chosen | inside, T = 4 | found, T = 4 | inside, T = 8 | found, T = 8 |", "|---|---|---|---|---|"]
    ways: dict[str, dict[str, Any]] = {
        "at random": {"method": "random"},
        "most similar": {"method": "top"},
        "Sinkhorn, epsilon 0.05": {},
        "Sinkhorn, epsilon 0.2": {"epsilon": 0.2},
        "Sinkhorn, votes": {"aggregate": "vote"},
        "Sinkhorn, sum after SwAV": {"aggregate": "swav_sum"},
    }
    tasks = []
    for seed in seeds:
        run("global loss only", seed, world, out)
        task = rebuild(out / f"global_loss_only-{seed}" / "checkpoints" / "last.ckpt", "cpu")
        assert isinstance(task, STG)
        tasks.append(task)
    for name, options in ways.items():
        cells = [name]
        for frames in (4, 8):
            chosen = SelectionOptions(frames=frames, video="frame", **options)
            found = [selection(task, world, chosen) for task in tasks]
            cells += [_spread([values[key] for values in found]) for key in ("inside", "found")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=list(RUNS))
    parser.add_argument("--selection", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.selection:
        print(compare_selection(given.world, given.out, given.seeds))
        return
    print(f"| | {' | '.join(COLUMNS)} |\n|---|{'---|' * len(COLUMNS)}")
    for name in given.runs:
        found = [run(name, seed, given.world, given.out) for seed in given.seeds]
        print(f"| {name} | {' | '.join(_spread([values[c] for values in found]) for c in COLUMNS)} |", flush=True)


if __name__ == "__main__":
    main()
