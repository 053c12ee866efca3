"""Run by test_ddp.py: what two processes compute, written to a file for each rank."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from lightning.pytorch.callbacks import Callback

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tiny_grounding import STAGES, chosen, random_batch, tiny_task

from groundzoo.datamodules.charades_sta import CharadesSTA
from groundzoo.tasks.drn import RELEASED_LOSS, LossOptions
from groundzoo.tasks.metrics.grounding import MomentRecall
from groundzoo.tasks.stages import StageSchedule

LOSSES = {"paper": LossOptions(), "released": RELEASED_LOSS}
SHARES = {"even": ([0, 1, 2, 3], [4, 5, 6, 7])}


def gradients(rule: str, rows: list[int], world: int) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Losses and gradients of one step in stage 3 with batch norms in evaluation mode."""
    task = tiny_task(loss=LOSSES[rule])
    task.enter_stage(2)
    task.eval()
    losses = task.step(chosen(random_batch(8, videos=8), rows), "train").losses
    sum(losses.values()).backward()
    grads = {name: p.grad for name, p in task.named_parameters() if p.grad is not None}
    values = {name: value.detach().clone() for name, value in losses.items()}
    if world > 1:
        for tensor in (*grads.values(), *values.values()):
            dist.all_reduce(tensor)
            tensor /= world
    return {name: value.item() for name, value in values.items()}, grads


def seen(metric: MomentRecall, rows: list[int]) -> None:
    """Hand the metric some queries of a fixed split of 9."""
    g = torch.Generator().manual_seed(3)
    boxes = torch.rand(9, 6, 2, generator=g).sort(-1).values
    scores, targets = torch.rand(9, 6, generator=g), torch.rand(9, 2, generator=g).sort(-1).values
    targets[4] = torch.nan
    valid = torch.rand(9, 6, generator=g) > 0.2
    valid[:, 0] = True
    group = {"odd": torch.arange(9) % 2 == 1}
    for r in rows:
        s = slice(r, r + 1)
        index = torch.arange(9)[s]
        metric.update(boxes[s], scores[s], valid[s], targets[s], index, {k: v[s] for k, v in group.items()})


class Watch(Callback):
    """Keeps the weights at the end of every epoch, and the queries seen."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, torch.Tensor]] = []
        self.queries: list[str] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.queries += batch.query_ids

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.epochs.append({k: v.clone() for k, v in pl_module.state_dict().items()})


def fit_and_validate(root: Path, strategy: str, devices: int, folder: Path) -> dict[str, Any]:
    """All stages, then the metrics of the test split, whose size the processes do not divide."""
    task = tiny_task(stages=STAGES)
    watch = Watch()
    trainer = L.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy=strategy,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        callbacks=[StageSchedule(folder), watch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=-1,
    )
    options = {"val_fraction": 0.3, "batch_size": 4, "eval_batch_size": 2, "num_workers": 0}
    data = CharadesSTA(root, features=root / "features", **options)
    trainer.fit(task, datamodule=data)
    fixed = tiny_task(seed=7)
    values = trainer.test(fixed, datamodule=data, verbose=False)[0]
    return {"epochs": watch.epochs, "queries": watch.queries, "metrics": values}


def run(rank: int, world: int, root: Path, out: Path) -> None:
    """One process: all of the above."""
    import os

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": str(world), "NODE_RANK": "0"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    result: dict[str, Any] = {"gradients": {}}
    for rule in LOSSES:
        result["gradients"][rule] = gradients(rule, SHARES["even"][rank], world)
    metric = MomentRecall(distributed_available_fn=lambda: True)
    seen(metric, [0, 1, 2, 3, 4] if rank == 0 else [5, 6, 7, 8, 0])
    result["metric"] = metric.compute()
    result["run"] = fit_and_validate(root, "ddp_find_unused_parameters_true", world, root / "stages2")
    torch.save(result, out / f"rank{rank}.pt")


if __name__ == "__main__":
    import os

    root, out = Path(sys.argv[1]), Path(sys.argv[2])
    os.environ["MASTER_PORT"] = sys.argv[3]
    mp.spawn(run, (2, root, out), nprocs=2)
