"""Choosing frames for a sentence: optimal transport between frames and words, and plainer ways to compare with.

Of U candidate frames and K words with similarities P_uk, the plan Q maximises <Q, P> + eps H(Q) among all Q >= 0
whose rows (frames) hold 1/U and whose columns (words) hold 1/K each: frames cannot all go to one popular word, and
no word is left out. Such a Q is Diag(x) exp(P / eps) Diag(y), found by scaling rows and columns in turn (Cuturi,
NeurIPS 2013; for selecting frames STG, Chen et al., CVPR 2024, Sec. 3.2, Eq. 2 and 3). Scaling happens on
logarithms, where similarities a thousand times eps do not overflow.

Everything here chooses, and nothing is learned through it: no gradient is recorded. Masks are bool, True = valid.
Batches have no loop; what a sample gets depends neither on its neighbours nor on its padding.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


def _scaled(logits: Tensor, frame_mask: Tensor, word_mask: Tensor, iterations: int) -> Tensor:
    """`iterations` times all rows, then all columns, scaled to their share of a total mass of 1.

    Args:
        logits: ``(..., U, K)`` float32 or float64.
        frame_mask: ``(..., U)`` bool.
        word_mask: ``(..., K)`` bool.
        iterations: >= 1.

    Returns:
        ``(..., U, K)``, exact for the columns, which come last.
    """
    valid = frame_mask[..., :, None] & word_mask[..., None, :]
    rows, columns = valid.any(-1, keepdim=True), valid.any(-2, keepdim=True)
    logits = logits.masked_fill(~valid, -torch.inf)
    num_rows, num_columns = (n.clamp(min=1).to(logits.dtype) for n in (rows.sum(-2, True), columns.sum(-1, True)))
    x, y = torch.zeros_like(logits[..., :1]), torch.zeros_like(logits[..., :1, :])
    for k in range(iterations):
        # where all is masked the sum is log 0; any finite number will do there
        x = -((logits + y).logsumexp(-1, keepdim=True) + num_rows.log()).masked_fill(~rows, 0)
        if k < iterations - 1:
            y = -((logits + x).logsumexp(-2, keepdim=True) + num_columns.log()).masked_fill(~columns, 0)
    # the last columns by a softmax: their sums are then free of the rounding of large potentials
    return ((logits + x).softmax(-2) / num_columns).masked_fill(~valid, 0)


@torch.no_grad()
def sinkhorn(
    similarity: Tensor,
    frame_mask: Tensor | None = None,
    word_mask: Tensor | None = None,
    eps: float = 0.05,
    iterations: int = 50,
) -> Tensor:
    """Entropic optimal transport between frames and words, all with the same weight.

    Args:
        similarity: ``(..., U, K)``, frames by words, usually cosines.
        frame_mask: ``(..., U)`` bool; None: all are valid.
        word_mask: ``(..., K)`` bool; None: all are valid.
        eps: smoothness, in the unit of `similarity`; towards 0 the plan becomes an assignment, and more iterations
            are needed.
        iterations: of rows and columns; >= 1. The last step, of the columns, is exact; with the defaults, rows of
            80 frames come within 1 % of it for cosines of random vectors (4 dimensions or more).

    Returns:
        ``(..., U, K)`` plan Q in float32 (float64 for float64), mass 1: columns of valid words hold 1 / (number of
        them), rows of valid frames 1 / (number of them), the rest 0. All 0 without any valid frame or word.

    Raises:
        ValueError: `eps` or `iterations` is not positive.
    """
    if not eps > 0 or iterations < 1:
        raise ValueError(f"eps={eps}, iterations={iterations}: both must be positive")
    similarity = similarity.to(torch.promote_types(similarity.dtype, torch.float32))
    if frame_mask is None:
        frame_mask = torch.ones_like(similarity[..., 0], dtype=torch.bool)
    if word_mask is None:
        word_mask = torch.ones_like(similarity[..., 0, :], dtype=torch.bool)
    return _scaled(similarity / eps, frame_mask, word_mask, iterations)


def swav(
    similarity: Tensor,
    frame_mask: Tensor | None = None,
    word_mask: Tensor | None = None,
    eps: float = 0.05,
    iterations: int = 3,
    exact: Literal["words", "frames"] = "words",
) -> Tensor:
    """Transport as SwAV assigns codes (Caron et al., NeurIPS 2020): few iterations, samples last, sums of 1.

    Stopped this early only the samples' sums are what they should be; those of the other side still tell how much
    a frame (or word) attracts.

    Args:
        similarity: ``(..., U, K)``.
        frame_mask: see `sinkhorn`.
        word_mask: see `sinkhorn`.
        eps: see `sinkhorn`.
        iterations: see `sinkhorn`.
        exact: which side takes the place of SwAV's samples.

    Returns:
        ``(..., U, K)``; every valid word (or frame) holds 1 in all, what is masked 0.

    Raises:
        ValueError: see `sinkhorn`.
    """
    if exact == "frames":
        return swav(similarity.mT, word_mask, frame_mask, eps, iterations).mT
    plan = sinkhorn(similarity, frame_mask, word_mask, eps, iterations)
    return plan * (plan.shape[-1] if word_mask is None else word_mask.sum(-1)[..., None, None])


# ---- scores of frames -----------------------------------------------------------------------------------


@torch.no_grad()
def frame_scores(
    similarity: Tensor,
    frame_mask: Tensor,
    word_mask: Tensor,
    aggregate: Literal["weighted", "vote", "swav_sum"] = "weighted",
    eps: float = 0.05,
    iterations: int = 50,
) -> Tensor:
    """How much a frame is worth to a sentence, by transport.

    All frames of a converged plan hold the same mass, so mass alone ranks nothing. `weighted` is the similarity
    that a frame's mass carries, sum_k Q_uk P_uk. `vote` counts the words whose largest share of Q is at the frame
    (of several the most similar, of these the first); frames of equally many votes rank by `weighted`: the score
    is the votes less the frame's rank, from 0, over the number of valid frames, so that rounding up gives the
    votes. `swav_sum` is the mass after three iterations of `swav`, not yet converged; `iterations` has no effect,
    and with a single word all frames are equal.

    Args:
        similarity: ``(B, U, K)``.
        frame_mask: ``(B, U)`` bool.
        word_mask: ``(B, K)`` bool.
        aggregate: see above.
        eps: see `sinkhorn`.
        iterations: see `sinkhorn`.

    Returns:
        ``(B, U)`` float, greater is better; 0 for masked frames.

    Raises:
        ValueError: see `sinkhorn`.
    """
    if aggregate == "swav_sum":
        return swav(similarity, frame_mask, word_mask, eps).sum(-1)
    plan = sinkhorn(similarity, frame_mask, word_mask, eps, iterations)
    weighted = (plan * similarity).masked_fill(plan == 0, 0).sum(-1)  # padding may hold anything
    if aggregate == "weighted":
        return weighted
    # frames that a word has to itself hold 1/U of it each: equal but for rounding, which must not decide
    most = plan.amax(1, keepdim=True) * (1 - 100 * torch.finfo(plan.dtype).eps)
    best = similarity.masked_fill(plan < most, -torch.inf).argmax(1)  # of equal ones the first
    votes = torch.zeros_like(weighted).scatter_add_(1, best, word_mask.to(weighted.dtype))
    rank = _best_first(weighted, frame_mask).argsort(1)
    return (votes - rank / frame_mask.sum(1, keepdim=True)).masked_fill(~frame_mask, 0)


@torch.no_grad()
def mean_scores(similarity: Tensor, frame_mask: Tensor, word_mask: Tensor) -> Tensor:
    """How similar a frame is to the words on average: selection without transport.

    Args:
        similarity: ``(B, U, K)``.
        frame_mask: ``(B, U)`` bool.
        word_mask: ``(B, K)`` bool.

    Returns:
        ``(B, U)`` float; 0 for masked frames, and without any valid word.
    """
    similarity = similarity.to(torch.promote_types(similarity.dtype, torch.float32))
    total = similarity.masked_fill(~(frame_mask[:, :, None] & word_mask[:, None]), 0).sum(-1)
    return total / word_mask.sum(1, keepdim=True).clamp(min=1)


# ---- frames from scores ---------------------------------------------------------------------------------


def _best_first(scores: Tensor, mask: Tensor) -> Tensor:
    """Indices ``(B, U)`` by falling score, the lower of equal ones first, masked ones last."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    return order.gather(1, mask.gather(1, order).int().argsort(dim=1, descending=True, stable=True))


@torch.no_grad()
def top_frames(scores: Tensor, mask: Tensor, frames: int) -> tuple[Tensor, Tensor]:
    """The valid frames of the highest scores, in the order of time; of equal ones the earlier.

    Args:
        scores: ``(B, U)``.
        mask: ``(B, U)`` bool.
        frames: T, how many to choose; may be more than there are.

    Returns:
        index: ``(B, T)`` int64, rising. Where fewer than T are valid the last of them is repeated (0 if none is).
        chosen: ``(B, T)`` bool, False for what is repeated.
    """
    best = torch.zeros_like(mask).scatter(1, _best_first(scores, mask)[:, :frames], True)
    return spread_frames(best & mask, frames)


def random_frames(mask: Tensor, frames: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Valid frames at random, each set of T as likely as any other; see `top_frames`.

    Args:
        mask: ``(B, U)`` bool.
        frames: T.
        generator: source of random numbers; None is torch's own for the device of `mask`.
    """
    device = mask.device if generator is None else generator.device
    scores = torch.rand(mask.shape, generator=generator, device=device)
    return top_frames(scores.to(mask.device), mask, frames)


@torch.no_grad()
def spread_frames(mask: Tensor, frames: int) -> tuple[Tensor, Tensor]:
    """Valid frames at even distances: the middle ones of T equal parts; all if there are no more than T.

    Args:
        mask: ``(B, U)`` bool.
        frames: T.

    Returns:
        See `top_frames`.
    """
    valid = mask.sum(1, keepdim=True)
    number = valid.clamp(max=frames)
    place = torch.arange(frames, device=mask.device).expand(len(mask), -1)
    middle = (2 * place + 1) * valid // (2 * number).clamp(min=1)
    in_time = mask.int().argsort(dim=1, descending=True, stable=True)
    return in_time.gather(1, torch.minimum(middle, valid - 1).clamp(min=0)), place < number
