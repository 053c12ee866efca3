"""Drawing samples: the same order in every process, resumable in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import lightning as L
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset, Sampler

Batch = TypeVar("Batch")


class EpochSampler(Sampler[int]):
    """Indices of one epoch: a function of (seed, epoch) alone, dealt out to the processes of a group.

    Every process gets the same number of indices: the last ones are filled up from the front. Whoever
    evaluates must count a repeated sample once.

    Args:
        length: samples of the split.
        shuffle: draw a new order each epoch; otherwise 0, 1, 2 ...
        seed: of the order.
    """

    def __init__(self, length: int, shuffle: bool, seed: int) -> None:
        self.length, self.shuffle, self.seed = length, shuffle, seed
        self.epoch = 0
        self.skip = 0  # indices already used of the next epoch to be iterated

    @staticmethod
    def _group() -> tuple[int, int]:
        if dist.is_available() and dist.is_initialized():
            return dist.get_rank(), dist.get_world_size()
        return 0, 1

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; Lightning calls this at the start of every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.length // self._group()[1])

    def __iter__(self) -> Iterator[int]:
        rank, world = self._group()
        if self.shuffle:
            generator = torch.Generator().manual_seed((self.seed << 20) + self.epoch)
            order = torch.randperm(self.length, generator=generator).tolist()
        else:
            order = list(range(self.length))
        total = len(self) * world
        padded = (order * -(-total // max(1, len(order))))[:total]
        mine = padded[rank::world][self.skip :]
        self.skip = 0
        return iter(mine)


class ResumableLoader(DataLoader[Batch]):
    """A DataLoader that a checkpoint can stop in mid-epoch and continue at the next batch, to the bit.

    Args:
        dataset: its ``__getitems__`` makes a whole batch.
        batch_size: samples per batch and process.
        shuffle: see `EpochSampler`.
        seed: see `EpochSampler`.
        num_workers: loading processes; 0 loads in this one.
    """

    def __init__(self, dataset: Dataset[Any], batch_size: int, shuffle: bool, seed: int, num_workers: int) -> None:
        self.position = 0
        self._resume: dict[str, int] | None = None
        self.order = EpochSampler(len(dataset), shuffle, seed)  # type: ignore[arg-type]
        super().__init__(
            dataset,
            batch_size=batch_size,
            sampler=self.order,
            num_workers=num_workers,
            collate_fn=_as_made,
            persistent_workers=num_workers > 0,
            generator=torch.Generator(),  # its own: iterating must not move the random numbers of training
        )

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        assert self.batch_size is not None
        resume, self._resume = self._resume, None
        self.position = 0
        if resume is not None and resume["epoch"] == self.order.epoch and resume["position"] < len(self):
            self.position = resume["position"]
        self.order.skip = self.position * self.batch_size
        for batch in super().__iter__():
            self.position += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The epoch, and how many of its batches were handed out."""
        return {"epoch": self.order.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue behind the batches that were handed out, once, if the same epoch comes next."""
        self._resume = dict(state)


def plain_loader(dataset: Dataset[Any], batch_size: int, num_workers: int) -> DataLoader[Any]:
    """All samples once, in order, dealt out to the processes of a group."""
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=EpochSampler(len(dataset), False, 0),  # type: ignore[arg-type]
        num_workers=num_workers,
        collate_fn=_as_made,
    )


def _as_made(batch: Any) -> Any:
    """Collate nothing: `__getitems__` made the batch."""
    return batch


def require_own_sampler(trainer: L.Trainer | None) -> None:
    """Refuse a trainer that would deal out samples a second time.

    Raises:
        ValueError: several processes, and `use_distributed_sampler` is on.
    """
    several = trainer is not None and trainer.world_size > 1
    if several and trainer._accelerator_connector.use_distributed_sampler:  # type: ignore[union-attr]
        raise ValueError("set Trainer(use_distributed_sampler=False): this data module deals out samples")
