"""The order of samples: a function of seed and epoch, dealt out fairly, and taken up where a run stopped."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from itertools import chain

import pytest
import torch
from torch.utils.data import Dataset

from groundzoo.datamodules.loader import EpochSampler, ResumableLoader


class Numbers(Dataset[list[int]]):
    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitems__(self, indices: list[int]) -> list[int]:
        return list(indices)


def loader(
    length: int = 22, batch: int = 4, shuffle: bool = True, workers: int = 0, seed: int = 3
) -> ResumableLoader:
    return ResumableLoader(Numbers(length), batch, shuffle, seed, workers)


def epoch(source: ResumableLoader, number: int, batches: int | None = None) -> list[list[int]]:
    source.order.set_epoch(number)
    got = []
    for batch in source:
        got.append(batch)
        if len(got) == batches:
            break
    return got


def test_every_epoch_has_an_order_of_its_own() -> None:
    first, second = epoch(loader(), 0), epoch(loader(), 1)
    for order in (first, second):
        assert [len(batch) for batch in order] == [4, 4, 4, 4, 4, 2]
        assert sorted(chain(*order)) == list(range(22))
    assert first != second
    assert epoch(loader(), 1) == second
    assert epoch(loader(seed=4), 1) != second
    assert list(chain(*epoch(loader(shuffle=False), 5))) == list(range(22))


def test_order_does_not_depend_on_random_numbers_nor_uses_them() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = epoch(loader(), 2)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert epoch(loader(), 2) == first


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_leave_no_trace(context: str) -> None:
    with_workers = loader(workers=2)
    with_workers.multiprocessing_context = multiprocessing.get_context(context)
    for number in range(3):
        assert epoch(with_workers, number) == epoch(loader(), number)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [1, 3, 5])
def test_goes_on_at_the_next_batch(workers: int, stop: int) -> None:
    whole = epoch(loader(), 7)
    running = loader(workers=workers)
    assert epoch(running, 7, stop) == whole[:stop]
    resumed = loader(workers=workers)
    resumed.load_state_dict(running.state_dict())
    assert epoch(resumed, 7) == whole[stop:]
    assert epoch(resumed, 8) == epoch(loader(), 8)


def test_state_counts_batches_handed_out_not_those_prepared() -> None:
    source = loader(workers=2)
    source.order.set_epoch(0)
    iterator = iter(source)
    assert source.state_dict()["position"] == 0
    for k in range(3):
        next(iterator)
        assert source.state_dict()["position"] == k + 1


def test_finished_epoch_is_followed_by_a_whole_one() -> None:
    """Stopped behind the last batch, or by a limit on batches: the next epoch starts at its beginning."""
    for stop in (None, 2):
        running = loader()
        epoch(running, 0, stop)
        resumed = loader()
        resumed.load_state_dict(running.state_dict())
        assert epoch(resumed, 1) == epoch(loader(), 1)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_left_in_the_middle_starts_anew(workers: int) -> None:
    """As with a limit on training or validation batches, or a sanity check."""
    source = loader(shuffle=False, workers=workers)
    for _ in range(3):
        assert epoch(source, 0, 2) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert len(epoch(source, 0)) == 6


@pytest.mark.parametrize("length", [1, 2, 7, 12])
@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_processes_share_all_samples(monkeypatch: pytest.MonkeyPatch, length: int, world: int) -> None:
    dealt = []
    for rank in range(world):
        monkeypatch.setattr(EpochSampler, "_group", staticmethod(lambda rank=rank: (rank, world)))
        sampler = EpochSampler(length, True, 0)
        sampler.set_epoch(4)
        dealt.append(list(sampler))
        assert len(dealt[-1]) == len(sampler) == -(-length // world)
    times = Counter(chain(*dealt))
    assert set(times) == set(range(length))
    assert sum(times.values()) - length < world  # no more repetitions than needed to make shares equal
    assert max(times.values()) - min(times.values()) <= 1
