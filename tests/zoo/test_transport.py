"""Transport and selection of frames: marginals, masks, precision, ties, and what does not depend on what."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from groundzoo.zoo.transport import (
    frame_scores,
    mean_scores,
    random_frames,
    sinkhorn,
    spread_frames,
    swav,
    top_frames,
)

B, U, K = 6, 12, 7
AGGREGATES = ["weighted", "vote", "swav_sum"]
SEEDS = range(5)


def made(seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Cosines of 16-d vectors, and masks with gaps: full, partial, a single frame, a single word."""
    g = torch.Generator().manual_seed(seed)
    frames, words = (F.normalize(torch.randn(B, n, 16, generator=g, dtype=dtype), dim=-1) for n in (U, K))
    frame_mask, word_mask = torch.rand(B, U, generator=g) < 0.7, torch.rand(B, K, generator=g) < 0.7
    frame_mask[:, 3] = word_mask[:, 2] = frame_mask[0] = word_mask[0] = True
    frame_mask[1], word_mask[2] = torch.arange(U) == 3, torch.arange(K) == 2
    return frames @ words.mT, frame_mask, word_mask


def all_scores(similarity: Tensor, frame_mask: Tensor, word_mask: Tensor) -> dict[str, Tensor]:
    found = {a: frame_scores(similarity, frame_mask, word_mask, a) for a in AGGREGATES}  # type: ignore[arg-type]
    return found | {"mean": mean_scores(similarity, frame_mask, word_mask)}


def check_plan(plan: Tensor, frame_mask: Tensor, word_mask: Tensor, tolerance: float) -> None:
    """Mass 1, even over valid rows and columns, none elsewhere."""
    assert (plan >= 0).all()
    torch.testing.assert_close(plan.sum((-1, -2)), torch.ones(plan.shape[:-2], dtype=plan.dtype))
    for sums, mask in ((plan.sum(-1), frame_mask), (plan.sum(-2), word_mask)):
        torch.testing.assert_close(sums, mask / mask.sum(-1, keepdim=True).to(plan.dtype), rtol=tolerance, atol=0)


# ---- plans ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("eps", [0.05, 0.5])
def test_marginals_of_what_is_valid(seed: int, eps: float) -> None:
    similarity, frame_mask, word_mask = made(seed)
    check_plan(sinkhorn(similarity, frame_mask, word_mask, eps, 500), frame_mask, word_mask, 1e-3)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_plan_is_the_best_one(seed: int) -> None:
    """Moving mass around a rectangle of the plan, which keeps all marginals, never helps."""
    similarity, _, _ = made(seed, torch.float64)
    eps, step = 0.1, 1e-4
    plan = sinkhorn(similarity, eps=eps, iterations=2000)

    def worth(q: Tensor) -> Tensor:
        return (q * similarity).sum((1, 2)) - eps * torch.special.xlogy(q, q).sum((1, 2))

    g = torch.Generator().manual_seed(seed)
    for _ in range(50):
        (a, b), (c, d) = torch.randperm(U, generator=g)[:2], torch.randperm(K, generator=g)[:2]
        move = torch.zeros_like(plan)
        amount = step * plan[:, [a, b]][..., [c, d]].amin((1, 2))
        for u, k, sign in ((a, c, 1), (a, d, -1), (b, c, -1), (b, d, 1)):
            move[:, u, k] = sign * amount
        assert (worth(plan + move) <= worth(plan) + 1e-13).all()
        assert (worth(plan - move) <= worth(plan) + 1e-13).all()


def test_large_eps_spreads_evenly_and_small_eps_assigns() -> None:
    even = torch.full((U, U), 1 / U**2)
    torch.testing.assert_close(sinkhorn(torch.randn(U, U), eps=1e6), even, rtol=1e-4, atol=0)
    partner = torch.randperm(U, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(sinkhorn(torch.eye(U)[partner], eps=0.01), torch.eye(U)[partner] / U)


def test_all_leading_dimensions_and_no_masks() -> None:
    similarity, _, _ = made()
    plan = sinkhorn(similarity)
    torch.testing.assert_close(sinkhorn(similarity.view(2, 3, U, K)), plan.view(2, 3, U, K))
    torch.testing.assert_close(sinkhorn(similarity[0]), plan[0])
    torch.testing.assert_close(sinkhorn(similarity, torch.ones(B, U).bool(), torch.ones(B, K).bool()), plan)
    check_plan(plan, torch.ones(B, U).bool(), torch.ones(B, K).bool(), 0.05)


@pytest.mark.parametrize("exact", ["words", "frames"])
@pytest.mark.parametrize("iterations", [1, 3, 40])
def test_swav_scales_the_samples_last(exact: Any, iterations: int) -> None:
    similarity, frame_mask, word_mask = made()
    plan = swav(similarity, frame_mask, word_mask, 0.05, iterations, exact)
    sums, mask = (plan.sum(1), word_mask) if exact == "words" else (plan.sum(2), frame_mask)
    torch.testing.assert_close(sums, mask.float())
    assert (plan[~(frame_mask[:, :, None] & word_mask[:, None])] == 0).all()
    unmasked = swav(similarity, eps=0.05, iterations=iterations, exact=exact)
    torch.testing.assert_close(unmasked[0], plan[0])


# ---- numbers of all sizes -------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1000.0, -1000.0])
def test_a_thousand_times_eps(scale: float) -> None:
    """exp(1000) is infinite, exp(-1000) is 0: neither may show."""
    similarity, frame_mask, word_mask = made()
    large = similarity / similarity.abs().max() * scale
    plan = sinkhorn(large, frame_mask, word_mask, eps=1.0, iterations=50)
    assert plan.isfinite().all()
    torch.testing.assert_close(plan.sum(1), word_mask / word_mask.sum(1, keepdim=True))
    exact = sinkhorn(large.double(), frame_mask, word_mask, eps=1.0, iterations=50)
    torch.testing.assert_close(plan.double(), exact, rtol=0, atol=1e-3 / K)
    for scores in all_scores(50 * similarity, frame_mask, word_mask).values():
        assert scores.isfinite().all()


def test_a_row_of_very_small_similarities_still_gets_its_mass() -> None:
    similarity = torch.zeros(U, K)
    similarity[4] -= 1000
    similarity[:, 2] += 1000
    torch.testing.assert_close(sinkhorn(similarity, eps=1.0), torch.full((U, K), 1 / (U * K)))


def test_single_precision_lasts_for_many_iterations() -> None:
    """Potentials that grow with every iteration lose their decimals."""
    similarity = torch.rand(64, 16, generator=torch.Generator().manual_seed(0))
    exact = sinkhorn(similarity.double(), iterations=5000)
    torch.testing.assert_close(sinkhorn(similarity, iterations=5000).double(), exact, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_single_precision_under_autocast_and_for_halves(dtype: torch.dtype) -> None:
    similarity, frame_mask, word_mask = made()
    halves = similarity.to(dtype)
    wanted = all_scores(halves.float(), frame_mask, word_mask)
    with torch.autocast("cpu", torch.bfloat16):
        plan = sinkhorn(halves, frame_mask, word_mask)
        found = all_scores(halves, frame_mask, word_mask)
    assert plan.dtype == torch.float32
    torch.testing.assert_close(plan, sinkhorn(halves.float(), frame_mask, word_mask))
    for name, scores in wanted.items():
        assert found[name].dtype == torch.float32, name
        torch.testing.assert_close(found[name], scores, msg=name)


@pytest.mark.parametrize(("eps", "iterations"), [(0.0, 50), (-1.0, 50), (float("nan"), 50), (0.05, 0)])
def test_settings_that_make_no_sense(eps: float, iterations: int) -> None:
    with pytest.raises(ValueError, match="positive"):
        sinkhorn(torch.zeros(2, 2), eps=eps, iterations=iterations)


# ---- masks and order ------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", [0.0, 1e4, float("nan"), float("inf")])
def test_padding_has_no_effect_whatever_it_holds(padding: float) -> None:
    similarity, frame_mask, word_mask = made()
    more = F.pad(similarity, (0, 3, 0, 5), value=padding)
    more[:, :U, :K].masked_fill_(~(frame_mask[:, :, None] & word_mask[:, None]), padding)
    padded = more, F.pad(frame_mask, (0, 5)), F.pad(word_mask, (0, 3))
    plan = sinkhorn(*padded)
    assert (plan[~(padded[1][:, :, None] & padded[2][:, None])] == 0).all()
    torch.testing.assert_close(plan[:, :U, :K], sinkhorn(similarity, frame_mask, word_mask))
    wanted = all_scores(similarity, frame_mask, word_mask)
    for name, scores in all_scores(*padded).items():
        torch.testing.assert_close(scores[:, :U], wanted[name], msg=name)
        assert (scores[~padded[1]] == 0).all(), name
        for T in (4, U, U + 9):
            ours, theirs = top_frames(scores, padded[1], T), top_frames(wanted[name], frame_mask, T)
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("where", ["frames", "words", "both"])
def test_a_sample_without_anything_valid_gets_nothing_and_harms_nobody(where: str) -> None:
    similarity, frame_mask, word_mask = made()
    wanted = all_scores(similarity, frame_mask, word_mask)
    if where in ("frames", "both"):
        frame_mask[4] = False
    if where in ("words", "both"):
        word_mask[4] = False
    for plan in (
        sinkhorn(similarity, frame_mask, word_mask),
        swav(similarity, frame_mask, word_mask, exact="frames"),
    ):
        assert plan.isfinite().all()
        assert (plan[4] == 0).all()
    others = torch.arange(B) != 4
    for name, scores in all_scores(similarity, frame_mask, word_mask).items():
        assert scores.isfinite().all(), name
        assert (scores[4][~frame_mask[4]] == 0).all(), name
        torch.testing.assert_close(scores[others], wanted[name][others], msg=name)
        _, chosen = top_frames(scores, frame_mask, 3)
        assert chosen[4].any() == frame_mask[4].any()


@pytest.mark.parametrize("seed", SEEDS)
def test_order_of_words_does_not_matter_and_order_of_frames_is_kept(seed: int) -> None:
    similarity, frame_mask, word_mask = made(seed)
    g = torch.Generator().manual_seed(seed + 100)
    p, q = torch.randperm(U, generator=g), torch.randperm(K, generator=g)
    moved = similarity[:, p][:, :, q], frame_mask[:, p], word_mask[:, q]
    torch.testing.assert_close(sinkhorn(*moved), sinkhorn(similarity, frame_mask, word_mask)[:, p][:, :, q])
    wanted = all_scores(similarity, frame_mask, word_mask)
    for name, scores in all_scores(*moved).items():
        torch.testing.assert_close(scores, wanted[name][:, p], msg=name)


def test_alone_and_in_a_batch() -> None:
    similarity, frame_mask, word_mask = made()
    together = all_scores(similarity, frame_mask, word_mask)
    for b in range(B):
        one = slice(b, b + 1)
        for name, scores in all_scores(similarity[one], frame_mask[one], word_mask[one]).items():
            torch.testing.assert_close(scores, together[name][one], msg=name)
            ours, theirs = top_frames(scores, frame_mask[one], 5), top_frames(together[name], frame_mask, 5)
            assert torch.equal(ours[0], theirs[0][one])


# ---- scores ---------------------------------------------------------------------------------------------


def test_weighted_is_the_similarity_that_the_plan_carries() -> None:
    similarity, frame_mask, word_mask = made()
    plan = sinkhorn(similarity, frame_mask, word_mask, 0.2, 20)
    scores = frame_scores(similarity, frame_mask, word_mask, "weighted", 0.2, 20)
    torch.testing.assert_close(scores, torch.einsum("buk,buk->bu", plan, similarity))


def test_one_word_makes_transport_the_choice_of_the_most_similar() -> None:
    similarity, frame_mask, _ = made()
    one = similarity[:, :, :1], frame_mask, torch.ones(B, 1, dtype=torch.bool)
    for T in (1, 4, U):
        wanted = top_frames(similarity[:, :, 0], frame_mask, T)
        for scores in (frame_scores(*one), mean_scores(*one)):
            assert all(torch.equal(a, b) for a, b in zip(top_frames(scores, frame_mask, T), wanted, strict=True))
    number = frame_mask.sum(1, keepdim=True)
    torch.testing.assert_close(frame_scores(*one), similarity[:, :, 0] * frame_mask / number)


def test_a_popular_word_does_not_take_all_frames() -> None:
    """All frames but the last resemble word 0 most, and more than the last resembles word 1."""
    similarity = torch.tensor([[[0.9, 0.2], [0.8, 0.2], [0.85, 0.2], [0.8, 0.2], [0.3, 0.4], [0.2, 0.35]]])
    words = torch.ones(1, 2, dtype=torch.bool)
    frames = torch.ones(1, 6, dtype=torch.bool)
    assert top_frames(mean_scores(similarity, frames, words), frames, 2)[0].tolist() == [[0, 2]]
    assert top_frames(frame_scores(similarity, frames, words, "vote"), frames, 2)[0].tolist() == [[0, 4]]
    assert sinkhorn(similarity, frames, words)[0].argmax(1).tolist()[4:] == [1, 1]


@pytest.mark.parametrize("seed", SEEDS)
def test_votes_come_first_then_the_weighted_score(seed: int) -> None:
    similarity, frame_mask, word_mask = made(seed)
    plan = sinkhorn(similarity, frame_mask, word_mask)
    weighted, vote = (frame_scores(similarity, frame_mask, word_mask, a) for a in ("weighted", "vote"))
    for b in range(B):
        votes = [0] * U
        for k in range(K):
            if word_mask[b, k]:
                shared = [u for u in range(U) if plan[b, u, k] > plan[b, :, k].max() * (1 - 1e-5)]
                votes[max(shared, key=lambda u: (similarity[b, u, k].item(), -u))] += 1
        assert vote[b].ceil().int().tolist() == votes
        valid = [u for u in range(U) if frame_mask[b, u]]
        order = sorted(valid, key=lambda u: (-votes[u], -weighted[b, u].item(), u))
        assert sorted(valid, key=lambda u: (-vote[b, u].item(), u)) == order


def test_a_word_that_cannot_decide_votes_for_the_most_similar_frame_then_for_the_first() -> None:
    similarity, frame_mask, _ = made()
    votes = frame_scores(similarity[:, :, :1], frame_mask, torch.ones(B, 1, dtype=torch.bool), "vote").ceil()
    assert torch.equal(votes.argmax(1), similarity[:, :, 0].masked_fill(~frame_mask, -2).argmax(1))
    ones = torch.ones(1, 5, dtype=torch.bool), torch.ones(1, 3, dtype=torch.bool)
    assert frame_scores(torch.zeros(1, 5, 3), *ones, "vote").ceil().tolist() == [[3, 0, 0, 0, 0]]


def test_mean_over_valid_words() -> None:
    similarity, frame_mask, word_mask = made()
    scores = mean_scores(similarity, frame_mask, word_mask)
    for b in range(B):
        wanted = similarity[b][:, word_mask[b]].mean(1)
        torch.testing.assert_close(scores[b], wanted.where(frame_mask[b], 0))


def test_no_gradient_goes_through_selection() -> None:
    similarity, frame_mask, word_mask = made()
    similarity.requires_grad_()
    for found in (
        sinkhorn(similarity),
        swav(similarity),
        swav(similarity, exact="frames"),
        *all_scores(similarity, frame_mask, word_mask).values(),
    ):
        assert not found.requires_grad
    index, _ = top_frames(mean_scores(similarity, frame_mask, word_mask), frame_mask, 4)
    similarity.gather(1, index[..., None].expand(-1, -1, K)).sum().backward()
    assert similarity.grad is not None
    assert set(similarity.grad.unique().tolist()) <= {0.0, *map(float, range(1, U))}  # the choice itself counts 0


# ---- frames ---------------------------------------------------------------------------------------------


def check_chosen(index: Tensor, chosen: Tensor, mask: Tensor, T: int) -> list[list[int]]:
    """Shapes, order, padding; returns what was chosen."""
    assert index.shape == chosen.shape == (len(mask), T)
    assert (index.dtype, chosen.dtype) == (torch.int64, torch.bool)
    rows = []
    for i, c, m in zip(index, chosen, mask, strict=True):
        number = min(T, int(m.sum()))
        assert c.tolist() == [True] * number + [False] * (T - number)
        assert (i.diff()[: max(number - 1, 0)] > 0).all()
        assert m[i].all() or not m.any()
        assert ((i >= 0) & (i < len(m))).all()
        rows.append(i[:number].tolist())
    return rows


def masks(seed: int) -> Tensor:
    mask = torch.rand(40, U, generator=torch.Generator().manual_seed(seed)) < 0.6
    mask[0], mask[1], mask[2] = True, False, torch.arange(U) == U - 1
    return mask


@pytest.mark.parametrize("T", [1, 3, U - 1, U, U + 4])
@pytest.mark.parametrize("seed", SEEDS)
def test_top_frames_against_sorting(seed: int, T: int) -> None:
    """Few different scores, so that there are ties; infinite ones too."""
    mask = masks(seed)
    scores = torch.randint(-1, 3, mask.shape, generator=torch.Generator().manual_seed(seed + 50)).float()
    scores[3:8] = scores[3:8].where(scores[3:8] > 0, -torch.inf)
    scores[~mask] = 5
    rows = check_chosen(*top_frames(scores, mask, T), mask, T)
    for row, s, m in zip(rows, scores.tolist(), mask.tolist(), strict=True):
        best = sorted((u for u in range(U) if m[u]), key=lambda u: (-s[u], u))[:T]
        assert row == sorted(best)


def test_equal_scores_of_many_frames_go_to_the_earliest() -> None:
    """Unstable sorts go wrong on long rows."""
    mask = torch.ones(2, 3000, dtype=torch.bool)
    assert top_frames(torch.zeros(2, 3000), mask, 700)[0].tolist() == [list(range(700))] * 2


@pytest.mark.parametrize("T", [1, 3, 5, U, U + 4])
@pytest.mark.parametrize("seed", SEEDS)
def test_spread_frames(seed: int, T: int) -> None:
    mask = masks(seed)
    rows = check_chosen(*spread_frames(mask, T), mask, T)
    for row, m in zip(rows, mask, strict=True):
        valid = m.nonzero()[:, 0].tolist()
        place = [valid.index(u) for u in row]
        assert len(set(place)) == len(place)
        gaps = [b - a for a, b in pairwise(place)]
        assert max(gaps, default=0) - min(gaps, default=0) <= 1
        if place:
            assert abs(place[0] - (len(valid) - 1 - place[-1])) <= 1  # as much before as behind


def test_spread_frames_by_hand() -> None:
    mask = torch.ones(1, 80, dtype=torch.bool)
    assert spread_frames(mask, 16)[0].tolist() == [list(range(2, 80, 5))]
    assert spread_frames(mask, 1)[0].tolist() == [[40]]


@pytest.mark.parametrize("T", [1, 5, U + 4])
def test_random_frames(T: int) -> None:
    mask = masks(0)
    check_chosen(*random_frames(mask, T), mask, T)
    again = [random_frames(mask, T, torch.Generator().manual_seed(4)) for _ in range(2)]
    assert torch.equal(again[0][0], again[1][0])
    torch.manual_seed(9)
    first = random_frames(mask, T)[0]
    torch.manual_seed(9)
    assert torch.equal(random_frames(mask, T)[0], first)


def test_random_frames_are_all_equally_likely() -> None:
    mask = (torch.arange(U) < 8).expand(6000, -1)
    index, chosen = random_frames(mask, 3, torch.Generator().manual_seed(0))
    assert chosen.all()
    share = F.one_hot(index, U).sum((0, 1)) / len(mask)
    torch.testing.assert_close(share[:8], torch.full((8,), 3 / 8), rtol=0, atol=0.03)
    assert len({tuple(row) for row in index.tolist()}) == 56  # every one of the sets of 3 out of 8
