"""Contrastive losses on a square table of scores, and batches gathered over processes."""

from __future__ import annotations

import warnings
from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def contrastive_loss(
    scores: Tensor, margin: float = 0.001, denominator: Literal["separate", "joint"] = "separate"
) -> Tensor:
    """Softmax loss of pairs that belong together against all others of the batch.

    With S' = S - margin on the diagonal, l = 1..B pairs, mean over l of

    - `separate`: -log softmax of S'_ll in its row, and in its column, summed (not averaged). This is the masked
      margin softmax of AVLnet (Rouditchenko et al., Interspeech 2021) and Eq. 1 of STG (Chen et al., CVPR 2024).
    - `joint`: -log of exp S'_ll over the sum of exp S' along row and column together, S'_ll counted twice. Without
      margin this is MIL-NCE (Miech et al., CVPR 2020) with one candidate; with it the variant of MCN (Chen et al.,
      ICCV 2021).

    Args:
        scores: ``(B, B)`` dot products of any size, first modality by second; matches are on the diagonal.
        margin: m, how much better than the others a match has to be.
        denominator: see above.

    Returns:
        Scalar >= 0 in float32 (float64 for float64). For B = 1, where nothing is contrasted: 0, and log 2 for
        `joint`; constant in either case.

    Raises:
        ValueError: `scores` is not square.
    """
    if scores.ndim != 2 or scores.shape[0] != scores.shape[1]:
        raise ValueError(f"scores {tuple(scores.shape)}: needs one row and one column per pair, (B, B)")
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))  # a margin of 0.001 is lost in bfloat16
    scores = scores - margin * torch.eye(len(scores), dtype=scores.dtype, device=scores.device)
    match = torch.arange(len(scores), device=scores.device)
    if denominator == "joint":
        return F.cross_entropy(torch.cat([scores, scores.T], dim=1), match)
    return F.cross_entropy(scores, match) + F.cross_entropy(scores.T, match)


def gather(x: Tensor) -> Tensor:
    """Rows of all processes, in the order of their ranks, with gradients; `x` itself where there is one process.

    Each of W processes computes the same loss L of what is gathered. On the way back a process gets the
    gradients of all W copies of L with respect to its own rows, W dL/dx_r in sum, and hands W dL/dx_r dx_r/dw on
    to the weights w. `DistributedDataParallel` averages that: 1/W sum_r W dL/dx_r dx_r/dw = dL/dw, the gradient of
    one process with the whole batch. A loss of a process's own rows, added to L, is averaged.

    Args:
        x: ``(B, ...)``; B must be the same in all processes, and all have to call.

    Returns:
        ``(W * B, ...)``.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return x
    from torch.distributed.nn.functional import all_gather  # cannot be imported where torch has no distributed

    with warnings.catch_warnings():  # newer torch deprecates it for one that older torch does not have
        warnings.filterwarnings("ignore", category=FutureWarning, message="torch.distributed.nn.functional")
        return torch.cat(all_gather(x))
