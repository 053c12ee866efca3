"""Contrastive losses by hand and by brute force; two processes compute what one computes on the whole batch."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from groundzoo.zoo.contrastive import contrastive_loss, gather

DENOMINATORS = ("separate", "joint")
SIZE, WORLD = 6, 2


def brute_force(scores: list[list[float]], margin: float, denominator: str) -> float:
    """Term by term, in the form in which the paper writes it."""
    n, total = len(scores), 0.0
    for i in range(n):
        match = math.exp(scores[i][i] - margin)
        row = sum(math.exp(scores[i][k]) for k in range(n) if k != i)
        column = sum(math.exp(scores[k][i]) for k in range(n) if k != i)
        if denominator == "separate":
            total -= math.log(match / (match + row)) + math.log(match / (match + column))
        else:
            total -= math.log(match / (2 * match + row + column))
    return total / n


def random_scores(size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("denominator", DENOMINATORS)
@pytest.mark.parametrize("margin", [0.0, 0.001, 0.7])
@pytest.mark.parametrize("size", [1, 2, 9])
def test_against_brute_force(size: int, margin: float, denominator: str) -> None:
    scores = random_scores(size)
    expected = brute_force(scores.tolist(), margin, denominator)
    found = contrastive_loss(scores, margin, denominator)  # type: ignore[arg-type]
    assert found.item() == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("denominator", DENOMINATORS)
def test_rows_and_columns_count_alike_and_order_does_not(denominator: str) -> None:
    scores, order = random_scores(8), torch.randperm(8, generator=torch.Generator().manual_seed(1))
    loss = contrastive_loss(scores, 0.1, denominator)  # type: ignore[arg-type]
    for other in (scores.T, scores[order][:, order]):
        torch.testing.assert_close(contrastive_loss(other, 0.1, denominator), loss)  # type: ignore[arg-type]


@pytest.mark.parametrize("denominator", DENOMINATORS)
def test_matches_are_pulled_and_others_pushed(denominator: str) -> None:
    scores = random_scores(6).requires_grad_()
    contrastive_loss(scores, denominator=denominator).backward()  # type: ignore[arg-type]
    assert scores.grad is not None
    assert (scores.grad.diagonal() < 0).all()
    assert (scores.grad[~torch.eye(6).bool()] > 0).all()


def test_defaults_are_those_of_the_paper() -> None:
    scores = random_scores(4)
    assert torch.equal(contrastive_loss(scores), contrastive_loss(scores, 0.001, "separate"))


@pytest.mark.parametrize(("denominator", "constant"), [("separate", 0.0), ("joint", math.log(2))])
def test_a_pair_alone_teaches_nothing(denominator: str, constant: float) -> None:
    scores = torch.tensor([[3.0]], requires_grad=True)
    loss = contrastive_loss(scores, 0.3, denominator)  # type: ignore[arg-type]
    loss.backward()
    assert loss.item() == pytest.approx(constant)
    assert scores.grad is not None
    assert scores.grad.item() == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("denominator", DENOMINATORS)
@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_large_scores(scale: float, denominator: str) -> None:
    scores = (torch.eye(4) * scale).requires_grad_()
    loss = contrastive_loss(scores, 0.001, denominator)  # type: ignore[arg-type]
    loss.backward()
    assert scores.grad is not None
    assert loss.isfinite()
    assert scores.grad.isfinite().all()
    directions = 2 if denominator == "separate" else 1
    ties = {"separate": 0.0, "joint": math.log(2)}[denominator]  # the match itself, twice in the denominator
    wrong = directions * 1e4 + {"separate": 2 * math.log(3), "joint": math.log(6)}[denominator]
    assert loss.item() == pytest.approx(ties if scale > 0 else wrong, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("denominator", DENOMINATORS)
def test_single_precision_for_halves_and_under_autocast(denominator: str) -> None:
    """Scores of 100 are a half apart in bfloat16: the margin would be lost."""
    scores = (random_scores(5) + 100).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        loss = contrastive_loss(scores, 0.01, denominator)  # type: ignore[arg-type]
    assert loss.dtype == torch.float32
    expected = brute_force((scores.double() - 100).tolist(), 0.01, denominator)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("shape", [(2, 3), (4,), (2, 2, 2)])
def test_a_table_that_is_not_square(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="one row and one column per pair"):
        contrastive_loss(torch.zeros(shape))


# ---- processes ------------------------------------------------------------------------------------------


class Towers(nn.Module):
    """Two small towers, the loss of the batch of all processes and one of each process's own rows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.video, self.text = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4)), nn.Linear(6, 4)

    def forward(self, video: Tensor, text: Tensor, denominator: str, own: bool) -> Tensor:
        v, t = self.video(video), self.text(text)
        loss = contrastive_loss(gather(v) @ gather(t).T, 0.1, denominator)  # type: ignore[arg-type]
        return loss + contrastive_loss(v @ t.T, 0.1) if own else loss


def pairs() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(4)
    return torch.randn(SIZE, 5, generator=g), torch.randn(SIZE, 6, generator=g)


def grads(module: nn.Module) -> dict[str, Tensor]:
    return {name.removeprefix("module."): p.grad for name, p in module.named_parameters() if p.grad is not None}


def run_rank(rank: int, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{out}/store", rank=rank, world_size=WORLD)
    rows = slice(rank * SIZE // WORLD, (rank + 1) * SIZE // WORLD)
    video, text = (x[rows] for x in pairs())
    found: dict[str, object] = {"gathered": gather(video)}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for name, denominator, own in (
            ("separate", "separate", False),
            ("joint", "joint", False),
            ("own", "separate", True),
        ):
            towers = DistributedDataParallel(Towers())
            loss = towers(video, text, denominator, own)
            loss.backward()
            found[name] = {"loss": loss.detach(), "grads": grads(towers)}
    found["warnings"] = [str(w.message) for w in caught if "all_gather" in str(w.message)]
    torch.save(found, f"{out}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    out = tmp_path_factory.mktemp("ranks")
    done = subprocess.run(
        [sys.executable, __file__, str(out)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [torch.load(Path(out, f"rank{k}.pt"), weights_only=True) for k in range(WORLD)]


def test_rows_of_all_processes_in_the_order_of_ranks(ranks: list[dict]) -> None:
    for rank in ranks:
        assert torch.equal(rank["gathered"], pairs()[0])
        assert rank["warnings"] == []


@pytest.mark.parametrize("denominator", DENOMINATORS)
def test_gradients_of_two_processes_are_those_of_one_with_the_whole_batch(
    ranks: list[dict], denominator: str
) -> None:
    alone = Towers()
    loss = alone(*pairs(), denominator, False)
    loss.backward()
    check(ranks, denominator, loss.detach(), grads(alone))


def test_a_loss_of_own_rows_beside_it_is_averaged(ranks: list[dict]) -> None:
    alone = Towers()
    video, text = pairs()
    loss = alone(video, text, "separate", False)
    for rows in torch.arange(SIZE).chunk(WORLD):
        loss = loss + contrastive_loss(alone.video(video[rows]) @ alone.text(text[rows]).T, 0.1) / WORLD
    loss.backward()
    check(ranks, "own", None, grads(alone))


def check(ranks: list[dict], name: str, loss: Tensor | None, expected: dict[str, Tensor]) -> None:
    assert all(grad.abs().max() > 1e-3 for grad in expected.values())
    for rank in ranks:
        if loss is not None:
            torch.testing.assert_close(rank[name]["loss"], loss)
        assert rank[name]["grads"].keys() == expected.keys()
        for key, grad in expected.items():
            torch.testing.assert_close(rank[name]["grads"][key], grad, rtol=1e-5, atol=1e-6, msg=key)


def test_alone_nothing_is_gathered() -> None:
    x = torch.randn(3, 2)
    assert gather(x) is x


if __name__ == "__main__":
    mp.spawn(run_rank, (sys.argv[1],), nprocs=WORLD)
