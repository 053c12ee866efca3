"""Run by test_dense_captioning.py, twice: losses, gradients and metrics of one of two processes, in files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tiny_events import Events, StubReward, dense_task, event_batch, some_reward, trainer

from groundzoo.tasks.dense_captioning import SelfCriticalOptions
from groundzoo.tasks.rewards import RewardOptions
from groundzoo.tasks.schedules import Stage

SHARES = ([0, 1], [2])  # four events and two


def second_best(probabilities: Tensor, count: int, generator: Any = None) -> Tensor:
    """Draws without chance, so that a video's samples are the same in any batch."""
    return probabilities.topk(2).indices[:, 1:]


def results(rows: Sequence[int]) -> dict[str, Tensor]:
    """Losses of a step on some videos and their gradients, means over processes; metrics of those videos."""
    found: dict[str, Tensor] = {}
    options = SelfCriticalOptions(reward=RewardOptions(meteor_ids=0.0, cider=1.0))
    for name in ("caption", "proposal", "reward"):
        task: Any = dense_task(stages=[Stage(losses=(name,))], self_critical=options, max_length=5)
        task._reward = StubReward(some_reward)
        with mock.patch("torch.multinomial", second_best):
            loss = task.step(event_batch(rows), "train").losses[name]
        loss.backward()
        found[f"{name} loss"] = loss.detach().clone()
        found |= {f"{name} {key}": p.grad for key, p in task.named_parameters() if p.grad is not None}
    if dist.is_initialized():
        for tensor in found.values():
            dist.all_reduce(tensor)
            tensor /= dist.get_world_size()
    task = dense_task()
    task._trainer = trainer()
    task.trainer.datamodule = Events()
    metric = task.metric("val")
    with torch.inference_mode():
        task.update_metric(metric, task.eval().step(event_batch(rows), "val").outputs, event_batch(rows))
    return found | {f"val {key}": value for key, value in metric.compute().items()}


def run(out: Path, port: str, rank: int) -> None:
    """One process."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.save(results(SHARES[rank]), out / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    run(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
