"""Adapters: the identity at first, then a look at neighbours in space and time, and at nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from groundzoo.zoo.adapters import Adapters, SpatioTemporalAdapter, freeze_in, pool_grid

SHAPES = [(2, 5, 3, 4, 6), (1, 1, 1, 1, 2), (1, 8, 2, 7, 3), (3, 2, 4, 4, 4)]


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def awake(dim: int) -> SpatioTemporalAdapter:
    torch.manual_seed(0)
    adapter = SpatioTemporalAdapter(dim)
    nn.init.constant_(adapter.alpha, 0.7)
    return adapter


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_identity_at_first(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    grid = draw(*shape).to(dtype)
    out = SpatioTemporalAdapter(shape[-1]).to(dtype)(grid)
    assert out.dtype == dtype
    assert torch.equal(out, grid)


def test_only_alpha_learns_at_first() -> None:
    adapter = SpatioTemporalAdapter(6)
    adapter(draw(2, 5, 3, 4, 6)).square().sum().backward()
    assert adapter.alpha.grad is not None
    assert adapter.alpha.grad.abs() > 1e-3
    assert adapter.conv.weight.grad is not None
    assert not adapter.conv.weight.grad.any()
    adapter = awake(6)
    adapter(draw(2, 5, 3, 4, 6)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 1e-4 for p in adapter.parameters())


@pytest.mark.parametrize("shape", SHAPES)
def test_shape_stays(shape: tuple[int, ...]) -> None:
    assert awake(shape[-1])(draw(*shape)).shape == shape


def test_only_neighbours_are_seen() -> None:
    """Of the own clip, one step away in time, rows and columns."""
    adapter, before = awake(6), draw(2, 5, 6, 9, 6)
    after = before.clone()
    after[1, 2, 3, 4] += 5
    moved = (adapter(after) - adapter(before)).abs().amax(-1) > 1e-6
    near = torch.zeros_like(moved)
    near[1, 1:4, 2:5, 3:6] = True
    assert (moved <= near).all()
    assert moved[1, 1].any()
    assert moved[1, 3].any()
    assert moved.sum() > 20
    corner = before.clone()
    corner[0, 0, 0, 0] += 5  # nothing is wrapped around
    moved = (adapter(corner) - adapter(before)).abs().amax(-1) > 1e-6
    assert not moved[:, 2:].any()
    assert not moved[:, :, 2:].any()
    assert not moved[:, :, :, 2:].any()


def test_what_is_added_is_bounded_by_alpha() -> None:
    """tanh(alpha) times something that is not negative."""
    adapter, grid = awake(6), draw(1, 4, 3, 3, 6)
    added = adapter(grid) - grid
    assert added.min() >= -1e-6
    nn.init.constant_(adapter.alpha, 1e4)
    torch.testing.assert_close(adapter(grid) - grid, added / torch.tensor(0.7).tanh(), rtol=1e-4, atol=1e-5)
    nn.init.constant_(adapter.alpha, -0.7)
    torch.testing.assert_close(adapter(grid) - grid, -added, rtol=1e-4, atol=1e-6)


def test_after_some_layers() -> None:
    adapters = Adapters(6, [3, 0], 4)
    assert list(adapters) == ["0", "3"]
    for adapter in adapters.values():
        nn.init.constant_(adapter.alpha, 0.5)
    frames = draw(6, 2, 2, 6)
    assert adapters.after(1, frames, 2) is frames
    two, one = (adapters.after(3, frames, clips) for clips in (2, 1))
    assert two.shape == frames.shape
    torch.testing.assert_close(two[:3], adapters.after(3, frames[:3], 1))
    assert (two[2] - one[2]).abs().max() > 1e-3  # of one clip, it sees the fourth


@pytest.mark.parametrize("layers", [[4], [-1], [0, 0]])
def test_layers_that_there_are_not(layers: list[int]) -> None:
    with pytest.raises(ValueError, match="layers 0 to 3"):
        Adapters(6, layers, 4)


def test_learned_parts_keep_their_type() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    freeze_in(network, "bfloat16", network[1].parameters())
    assert [p.dtype for p in network.parameters()] == [torch.bfloat16] * 2 + [torch.float32] * 2


def test_pooling() -> None:
    grid = draw(2, 4, 6, 8, 3)
    pooled = pool_grid(grid, (2, 3, 4))
    assert pooled.shape == (2, 2, 3, 4, 3)
    torch.testing.assert_close(pooled[1, 1, 0, 2], grid[1, 2:4, 0:2, 4:6].mean((0, 1, 2)))
    assert torch.equal(pool_grid(grid, (4, 6, 8)), grid)
    torch.testing.assert_close(pool_grid(grid[:, :1], (3, 6, 8)), grid[:, :1].expand(-1, 3, -1, -1, -1))
    torch.testing.assert_close(pool_grid(torch.ones(1, 8, 24, 24, 1), (8, 8, 9)), torch.ones(1, 8, 8, 9, 1))
