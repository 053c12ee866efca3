"""Windows of any clip: they cover it, each frame is fresh once, and short clips need no special care."""

from __future__ import annotations

import pytest
import torch

from groundzoo.zoo.frame_windows import equal_parts, strided_windows, window_middles

CASES = [(n, t) for t in (1, 2, 3, 8) for n in range(1, 50)]


@pytest.mark.parametrize("length", [1, 2, 3, 8])
def test_every_frame_is_fresh_exactly_once(length: int) -> None:
    for n in range(1, 60):
        windows = strided_windows(n, length)
        assert windows.index.shape == windows.fresh.shape == (len(windows.index), length)
        assert windows.index.dtype == torch.int64
        assert windows.fresh.dtype == torch.bool
        assert sorted(windows.index[windows.fresh].tolist()) == list(range(n))
        assert windows.fresh.any(1).all(), "no window is for nothing"
        assert (windows.index.diff(dim=1) >= 0).all()
        seen: set[int] = set()
        for row, fresh in zip(windows.index.tolist(), windows.fresh.tolist(), strict=True):
            for k, new in zip(row, fresh, strict=True):
                assert new == (k not in seen)
                seen.add(k)


@pytest.mark.parametrize("length", [1, 3, 8])
def test_the_sentence_is_made_of_a_complete_window(length: int) -> None:
    for n in range(length, 60):
        windows = strided_windows(n, length)
        complete = int(windows.fresh.all(1).sum())
        assert windows.caption == (complete - 1) // 2
        assert windows.fresh[windows.caption].all()


def test_a_short_clip_repeats_its_last_frame() -> None:
    windows = strided_windows(3, 8)
    assert windows.index.tolist() == [[0, 1, 2, 2, 2, 2, 2, 2]]
    assert windows.fresh.tolist() == [[True] * 3 + [False] * 5]
    assert windows.caption == 0
    assert window_middles(3, 8).tolist() == [0, 1, 2, 2, 2, 2, 2, 2]


def test_parts_are_equal_and_the_last_takes_the_rest() -> None:
    for n, parts in CASES:
        found = equal_parts(n, parts)
        assert len(found) == parts
        assert all(len(part) >= 1 and part.start >= 0 and part.stop <= n for part in found)
        if n >= parts:
            assert [k for part in found for k in part] == list(range(n))
            assert {len(part) for part in found[:-1]} <= {n // parts}
        middles = window_middles(n, parts).tolist()
        assert all(k in part for k, part in zip(middles, found, strict=True))
    assert [len(part) for part in equal_parts(11, 4)] == [2, 2, 2, 5]


@pytest.mark.parametrize(("n", "length"), [(0, 8), (5, 0), (-1, 2)])
def test_nothing_has_no_windows(n: int, length: int) -> None:
    with pytest.raises(ValueError, match="at least one"):
        strided_windows(n, length)
