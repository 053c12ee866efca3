"""Alignment of frames to an order: against all cuts, ties, what cannot be aligned, and stretches of the truth."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from groundzoo.tasks.metrics.temporal_alignment import align, temporal_record, true_entries


def brute_force(scores: np.ndarray, order: list[int]) -> float:
    T, L = len(scores), len(order)
    best = -math.inf
    for inner in itertools.combinations(range(1, T), L - 1):
        cuts = [0, *inner, T]
        best = max(best, sum(scores[cuts[i] : cuts[i + 1], order[i]].sum() for i in range(L)))
    return best


def test_alignment_against_all_cuts() -> None:
    rng = np.random.default_rng(0)
    for _ in range(150):
        T = int(rng.integers(1, 9))
        L = int(rng.integers(1, T + 1))
        scores = rng.normal(size=(T, 4)).round(1)
        order = rng.integers(-1, 4, L).tolist()
        labels, bounds, best = align(torch.from_numpy(scores), torch.tensor(order))
        assert best == pytest.approx(brute_force(scores, order), abs=1e-9)
        assert scores[np.arange(T), labels].sum() == pytest.approx(best, abs=1e-9)
        assert bounds[0] == 0
        assert bounds[-1] == T
        assert (bounds.diff() >= 1).all()
        assert labels.tolist() == [order[i] for i in range(L) for _ in range(bounds[i], bounds[i + 1])]


def test_of_equal_cuts_the_earliest_is_taken() -> None:
    _, bounds, best = align(torch.zeros(7, 2), torch.tensor([0, 1, 0]))
    assert (bounds.tolist(), best) == ([0, 1, 2, 7], 0.0)


def test_impossible_frames_still_give_every_entry_its_frame() -> None:
    """Where every way costs minus infinity there is still an answer in order."""
    for T in (3, 5):
        labels, bounds, best = align(torch.full((T, 3), -math.inf), torch.tensor([2, 0, 1]))
        assert best == -math.inf
        assert (bounds.diff() >= 1).all()
        assert labels.tolist() == [2, 0, *[1] * (T - 2)]
    scores = torch.zeros(4, 2)
    scores[3, 0] = scores[0, 1] = -math.inf
    assert align(scores, torch.tensor([0, 1]))[2] == 0


def test_a_long_video_takes_no_time() -> None:
    labels, _, _ = align(torch.rand(5000, 60), torch.arange(60).repeat(5))
    assert len(labels) == 5000


def test_too_few_frames_are_told() -> None:
    with pytest.raises(ValueError, match=r"3 actions in order cannot be aligned to 2 frames.*frames per second"):
        align(torch.zeros(2, 4), torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match="order of actions is empty"):
        temporal_record(torch.zeros(2, 4), [], torch.zeros(2), 0.5)


@pytest.mark.parametrize(
    ("order", "true", "expected"),
    [
        ([-1, 0, 1], [-1, 0, 0, 1], [0, 1, 1, 2]),
        ([1, 1, 2], [1, 1, 1, 2], [0, 0, 1, 2]),  # an odd stretch in two: the first half is longer
        ([0, 1, 0], [0, 0, 0], [0, 0, 0]),  # the last two were too short to have a frame
        ([-1, 4, -1, 5], [4, -1, 5], [1, 2, 3]),
        ([0], [0, 3, 0], [0, -1, -1]),
        ([0, 0, 0], [0], [0]),
    ],
)
def test_stretches_of_truth_go_to_entries_in_turn(order: list[int], true: list[int], expected: list[int]) -> None:
    assert true_entries(order, np.array(true)).tolist() == expected
