"""Proposal files: written and read without a loss, ids in both spellings, and matched with annotated events."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from groundzoo.datamodules.annotations import AnnotationError, read_moments_json
from groundzoo.datamodules.proposal_files import (
    Proposals,
    match,
    proposals_of,
    read_proposals,
    write_proposals,
)


def some(*rows: tuple[float, float, float]) -> Proposals:
    table = np.array(rows, dtype=np.float64).reshape(-1, 3)
    return Proposals(table[:, :2], table[:, 2])


# ---- files ---------------------------------------------------------------------------------------------


def test_written_and_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ids = ["v_abcdefghijk", "v_v_abcdefghi", "VID01"]
    given = {
        v: Proposals(rng.uniform(0, 99, (n, 2)), rng.normal(size=n)) for v, n in zip(ids, (3, 0, 5), strict=True)
    }
    write_proposals(tmp_path / "p.json", given)
    assert list(tmp_path.iterdir()) == [tmp_path / "p.json"]
    stored = json.loads((tmp_path / "p.json").read_text())
    assert stored.keys() == {"version", "results", "external_data"}
    assert list(stored["results"]) == ["abcdefghijk", "v_abcdefghi", "VID01"]
    assert stored["results"]["VID01"][0].keys() == {"segment", "score"}
    found = read_proposals(tmp_path / "p.json")
    for video in ids:
        own = proposals_of(video, found)
        assert own is not None
        np.testing.assert_array_equal(own.segments_s, given[video].segments_s)
        np.testing.assert_array_equal(own.scores, given[video].scores)
    assert proposals_of("v_other", found) is None


@pytest.mark.parametrize("in_file", ["", "v_"])
@pytest.mark.parametrize("asked", ["", "v_"])
def test_ids_with_and_without_their_beginning(in_file: str, asked: str) -> None:
    names = ["abcdefghijk", "v_abcdefghi"]  # the second begins so of itself
    found = {in_file + name: some((0, 1, k)) for k, name in enumerate(names)}
    for k, name in enumerate(names):
        own = proposals_of(asked + name, found)
        assert own is not None
        assert own.scores.tolist() == [k]


def test_the_id_without_its_beginning_goes_first() -> None:
    found = {name: some((0, 1, k)) for k, name in enumerate(["x", "v_x"])}
    owns = [proposals_of(f"v_{name}", found) for name in found]
    assert [own.scores.tolist() for own in owns if own is not None] == [[0], [1]]


def test_ids_of_activitynet_captions_stay_apart(shared_data: Path, tmp_path: Path) -> None:
    files = [shared_data / "anet_captions" / f"{name}.json" for name in ("train", "val_1")]
    ids = sorted({q.video_id for path in files for q in read_moments_json(path)})
    write_proposals(tmp_path / "p.json", {video: some((0, 1, k)) for k, video in enumerate(ids)})
    found = read_proposals(tmp_path / "p.json")
    owns = [proposals_of(video, found) for video in ids]
    assert [own.scores.tolist() for own in owns if own is not None] == [[k] for k in range(len(ids))]
    assert any(video.startswith("v_v_") for video in ids)


def test_ids_that_would_become_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="of 2 video ids only 1 differ"):
        write_proposals(tmp_path / "p.json", {"v_a": some(), "a": some()})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ([], "not a proposal file"),
        ({"result": {}}, "not a proposal file"),
        ({"results": []}, "not a proposal file"),
        ({"results": {"a": {}}}, "video 'a': expected a list of proposals, not a dict"),
        (
            {"results": {"a": [{"segment": [0, 1], "score": 1}, {"segment": [0, 1]}]}},
            "video 'a', entry 1: .*score",
        ),
        ({"results": {"a": [{"segment": [0, 1, 2], "score": 1}]}}, "video 'a', entry 0: .*segment"),
        ({"results": {"a": [{"segment": 4, "score": 1}]}}, "video 'a', entry 0: .*segment"),
        ({"results": {"a": [{"segment": [0, "x"], "score": 1}]}}, "video 'a', entry 0"),
        ({"results": {"a": [[0, 1, 0.5]]}}, "video 'a', entry 0"),
        ({"results": {"a": [{"segment": [0, float("nan")], "score": 1}]}}, "entry 0: .* not finite"),
        ({"results": {"a": [{"segment": [0, 1], "score": float("inf")}]}}, "entry 0: .* not finite"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, stored: Any, message: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(stored))
    with pytest.raises(AnnotationError, match=rf"mine\.json.*{message}"):
        read_proposals(path)


# ---- choice --------------------------------------------------------------------------------------------


def test_best_are_the_highest_scores_in_the_order_of_their_starts() -> None:
    found = some((8, 9, 0.2), (5, 7, 0.9), (1, 4, 0.5), (0, 2, 0.5), (5, 6, 0.9))
    assert found.best(10, 3).tolist() == [[1, 4], [5, 7], [5, 6]]  # of equal scores the first of the file
    assert found.best(10, 9).tolist() == [[0, 2], [1, 4], [5, 7], [5, 6], [8, 9]]
    assert found.best(10, 9, min_score=0.5).tolist() == [[0, 2], [1, 4], [5, 7], [5, 6]]
    assert found.best(10, 9, min_score=1.0).shape == (0, 2)
    assert some().best(10, 9).shape == (0, 2)


def test_segments_are_cut_to_the_video_and_none_is_empty() -> None:
    found = some((-3, 2, 1.0), (8, 30, 1.0), (12, 14, 9.0), (5, 5, 9.0), (7, 3, 9.0), (-2, 0, 9.0))
    assert found.best(10, 2).tolist() == [[0, 2], [8, 10]]


# ---- matching ------------------------------------------------------------------------------------------


def overlap(a: list[float], b: list[float]) -> float:
    shared = min(a[1], b[1]) - max(a[0], b[0])
    return max(0.0, shared) / (max(a[1], b[1]) - min(a[0], b[0]))


def test_matching_is_the_rule_one_by_one() -> None:
    rng = np.random.default_rng(0)
    cases = np.zeros(3, dtype=int)
    for _ in range(200):
        P, E = int(rng.integers(1, 12)), int(rng.integers(1, 6))
        segments, events = (np.sort(rng.uniform(0, 20, (n, 2)), 1) for n in (P, E))
        found = match(segments, events)
        assert found.shape == (P, E)
        table = [[overlap(s, e) for e in events.tolist()] for s in segments.tolist()]
        wins = [max(range(E), key=row.__getitem__) if max(row) > 0 else -1 for row in table]
        for e in range(E):
            column = [row[e] for row in table]
            own = [p for p in range(P) if wins[p] == e]
            kind = 0 if own else 1 if max(column) > 0 else 2
            expected = own if own else [column.index(max(column))] if max(column) > 0 else []
            assert np.flatnonzero(found[:, e]).tolist() == expected
            cases[kind] += 1
    assert cases.min() > 20  # won, lent, and none


def test_matching_nothing() -> None:
    assert match(np.zeros((0, 2)), np.array([[0.0, 1.0]])).shape == (0, 1)
    assert match(np.array([[0.0, 1.0]]), np.zeros((0, 2))).shape == (1, 0)
