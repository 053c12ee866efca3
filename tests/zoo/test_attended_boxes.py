"""Boxes around what attention is on."""

from __future__ import annotations

import pytest
import torch

from groundzoo.zoo.attended_boxes import attended_boxes


def boxes(rows: list[str], level: float = 0.5) -> list[float]:
    grid = torch.tensor([[float(c) if c != "." else 0.0 for c in row] for row in rows])
    return attended_boxes(grid, level).tolist()


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (["9...", "....", "....", "...."], [0, 0, 0.25, 0.25]),
        (["....", ".98.", ".7..", "...."], [0.25, 0.25, 0.75, 0.75]),
        (["9...", "....", "..88", "..88"], [0.5, 0.5, 1, 1]),  # the larger region, not the peak
        (["9..8", "....", "....", "...."], [0, 0, 0.25, 0.25]),  # equally large: the peak's
        (["8..9", "....", "....", "...."], [0.75, 0, 1, 0.25]),
        (["9...", ".8..", "....", "...."], [0, 0, 0.25, 0.25]),  # corners do not connect
        (["9999", "9..9", "9..9", "9999"], [0, 0, 1, 1]),
        (["94..", "....", "....", "...."], [0, 0, 0.25, 0.25]),  # below half of the peak
    ],
)
def test_the_region(rows: list[str], expected: list[float]) -> None:
    assert boxes(rows) == pytest.approx(expected)


def test_level_one_is_the_most_attended_cell() -> None:
    assert boxes(["88.", "889", "..."], level=1.0) == pytest.approx([2 / 3, 1 / 3, 1, 2 / 3])


def test_a_snake_is_one_region() -> None:
    """The longest way through a grid: spreading must not stop early."""
    rows = ["9999999", "......9", "9999999", "9......", "9999999", "......9", "9999999"]
    assert boxes(rows) == pytest.approx([0, 0, 1, 1])


def test_frames_are_independent_of_their_batch() -> None:
    maps = torch.rand(3, 5, 6, 7, generator=torch.Generator().manual_seed(0))
    together = attended_boxes(maps)
    assert together.shape == (3, 5, 4)
    for i in range(3):
        for k in range(5):
            assert torch.equal(together[i, k], attended_boxes(maps[i, k]))
    assert ((together[..., 2:] > together[..., :2]) & (together >= 0).all() & (together <= 1).all()).all()


def test_scale_does_not_matter() -> None:
    maps = torch.rand(4, 6, 6, generator=torch.Generator().manual_seed(1))
    assert torch.equal(attended_boxes(maps), attended_boxes(maps * 1e-4))
