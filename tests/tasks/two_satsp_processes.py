"""Run by test_satsp.py, twice: losses and gradients of one of two processes, written to a file for each rank."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tiny_satsp import B, chosen, clip_batch, satsp_task

HALVES = ([0, 1, 2, 4], [3, 5])  # three and two clips in actions, three and two described ones


def gradients(rows: Sequence[int]) -> dict[str, torch.Tensor]:
    """Losses of a step and the gradients of their sum, means over processes."""
    task = satsp_task()
    losses = task.step(task.prepare(chosen(clip_batch(), rows)), "train").losses
    torch.stack(list(losses.values())).sum().backward()
    found = {f"loss {name}": value.detach().clone() for name, value in losses.items()}
    found |= {name: p.grad for name, p in task.named_parameters() if p.grad is not None}
    if dist.is_initialized():
        for tensor in found.values():
            dist.all_reduce(tensor)
            tensor /= dist.get_world_size()
    return found


def run(out: Path, port: str, rank: int) -> None:
    """One process."""
    assert sorted([*HALVES[0], *HALVES[1]]) == list(range(B))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.save(gradients(HALVES[rank]), out / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    run(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
