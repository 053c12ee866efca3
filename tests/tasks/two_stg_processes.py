"""Run by test_stg_ddp.py: what each of two processes computes, written to a file for each rank."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tiny_stg import B, Ear, narration_batch, stg_task

from groundzoo.datamodules.grounding_youtube import GroundingYouTube
from groundzoo.datamodules.howto100m import HowTo100M
from groundzoo.tasks.metrics.temporal_alignment import TemporalGrounding
from groundzoo.tasks.run_folder import RunFolder
from groundzoo.tasks.schedules import Stage
from groundzoo.tasks.stages import StageSchedule
from groundzoo.tasks.stg import STG, InferenceOptions, LossOptions, NetworkOptions, SelectionOptions
from groundzoo.zoo.batch import MomentFeatures, NarrationBatch
from groundzoo.zoo.text.mil_nce import MILNCEText
from groundzoo.zoo.video.appearance_grid import AppearanceGrid

HALVES = (list(range(B // 2)), list(range(B // 2, B)))
SOUND = (False, True)


def chosen(batch: NarrationBatch, rows: Sequence[int]) -> NarrationBatch:
    """Some clips of a batch."""
    index = torch.tensor(rows)
    tensors = {name: getattr(batch, name)[index] for name in ("mask", "inside", "times_s", "spans_s", "index")}
    return dataclasses.replace(
        batch,
        features=MomentFeatures(*(x[index] for x in batch.features.encoded)),
        texts=[batch.texts[r] for r in rows],
        video_ids=[batch.video_ids[r] for r in rows],
        sound=None if batch.sound is None else batch.sound[index],
        **tensors,
    )


def gradients(
    loss: str, sound: bool, rows: Sequence[int], local_group: int | None = None
) -> tuple[float, dict[str, torch.Tensor]]:
    """One loss of a step and its gradients, means over processes."""
    stages = [Stage(losses=(loss,), epochs=1)]
    task = stg_task(
        stages=stages, loss=LossOptions(local_group=local_group), audio_encoder=Ear() if sound else None
    )
    value = task.step(chosen(narration_batch(sound=sound), rows), "train").losses[loss]
    value.backward()
    grads = {name: p.grad for name, p in task.named_parameters() if p.grad is not None}
    value = value.detach().clone()
    if dist.is_initialized():
        for tensor in (*grads.values(), value):
            dist.all_reduce(tensor)
            tensor /= dist.get_world_size()
    return value.item(), grads


def seeing_task(stages: Sequence[Stage]) -> STG:
    """Looks at the pictures themselves."""
    torch.manual_seed(1)
    words = MILNCEText("random", word_dim=8, layer_dim=12, dim=6, max_words=8, trainable=True)
    options: dict[str, Any] = {
        "network": NetworkOptions(dim=8, frame="cells"),
        "selection": SelectionOptions(frames=2),
        "inference": InferenceOptions(window=3, background=-1.0),
    }
    return STG(AppearanceGrid(), words, stages=stages, max_cells=3, **options)


def fit_and_test(root: Path, devices: int, folder: Path) -> dict[str, Any]:
    """Two epochs, then metrics and predictions of the test split by weights that are always the same."""
    task = seeing_task([Stage(losses=("global",), lr=1e-2, epochs=1), Stage(losses=("global", "local"), epochs=1)])
    evaluation = GroundingYouTube(root, live=True, fps=0.5, num_workers=0)
    data = HowTo100M(
        root,
        evaluation=evaluation,
        candidates=4,
        candidate_fps=1.0,
        batch_size=4 // devices,
        num_workers=0,
        cache=folder / "cache",
    )
    trainer = L.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp_find_unused_parameters_true" if devices > 1 else "auto",
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        callbacks=[StageSchedule(folder), RunFolder(folder, "", [])],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=-1,
    )
    first = {name: value.clone() for name, value in task.state_dict().items()}
    trainer.fit(task, datamodule=data)
    torch.manual_seed(2)  # of words that are new to it
    fixed = seeing_task(task.stages)
    (metrics,) = trainer.test(fixed, datamodule=data, verbose=False)
    return {"first": first, "last": task.state_dict(), "metrics": metrics}


def run(rank: int, root: Path, out: Path) -> None:
    """One process: all of the above."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": "2", "NODE_RANK": "0"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    found = {
        (loss, sound): gradients(loss, sound, HALVES[rank]) for loss in ("global", "local") for sound in SOUND
    }
    metric = TemporalGrounding()
    if rank == 1:
        metric.update([0], [{"bounds": [0, 2], "true": [0, 0], "order": [0]}])
    idle = metric.compute()["temporal/IoU"].item()
    torch.save(
        {"gradients": found, "idle": idle, "run": fit_and_test(root, 2, out / "two")}, out / f"rank{rank}.pt"
    )


if __name__ == "__main__":
    world, results = Path(sys.argv[1]), Path(sys.argv[2])
    os.environ["MASTER_PORT"] = sys.argv[3]
    mp.spawn(run, (world, results), nprocs=2)
