"""Attention between the cells of videos and the words of texts, for every pair of the two.

The local branch of Chen et al., "What, when, and where? Self-Supervised Spatio-Temporal Grounding in Untrimmed
Multi-Action Videos from Narrated Instructions" (CVPR 2024, arXiv 2303.16990), and of Tan et al., "Look at What I'm
Doing: Self-Supervised Spatial Grounding of Narrations in Instructional Videos" (NeurIPS 2021).

Each pair has tokens of its own, R cells and K words of d numbers. A cell that has looked at the words is a
weighted mean of K vectors, so R x K weights say what R x d numbers would. All that follows is done on weights and
vectors: the result is the same, for a twentieth of the arithmetic at R = 784, K = 20, d = 512, and no pair has
R x d numbers in memory. (Where a stack begins with ``self``, cells are not mixtures of words, and it does.)
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

MEMORY_BYTES = 2**30  # what the pairs of one chunk may take; beyond it they are computed twice


@dataclass
class _Tokens:
    """Tokens of pairs: cells ``weights @ vectors`` (the weights themselves where there are no vectors), and words.

    Leading dimensions are (videos, texts), of size 1 as long as tokens do not depend on the other side.
    """

    weights: Tensor  # (..., R, n)
    vectors: Tensor | None  # (..., n, d)
    words: Tensor  # (..., K, d)
    video_mask: Tensor | None  # (..., R), at least one True
    text_mask: Tensor  # (..., K), at least one True


class PairAttention(nn.Module):
    """A stack of attention blocks over the cells of a video and the words of a text.

    - ``cross``: cells look at words and words at cells, both at once, by dot products without parameters. What
      they see takes the tokens' place in the first block of a stack, and is added to them later on.
    - ``self``: cells look at cells and words at words, one head each, added.

    Computed in single precision under autocast: scores are dot products of long vectors that are told apart by
    small margins. A text without words, or a video without cells, counts as one zero vector.

    Args:
        dim: length d of a token.
        stack: the blocks, first to last; at least one ``cross``.
        chunk: texts whose pairs with all videos are in memory at a time; None: as many as fit into 1 GiB.
        scale_in_evaluation: False leaves out the division by sqrt(d) and the addition in the last cross block when
            the module is not training, as the released evaluation does.

    Raises:
        ValueError: the stack has no ``cross`` or another word, or a number is not positive.
    """

    def __init__(
        self,
        dim: int,
        stack: Sequence[Literal["cross", "self"]] = ("cross", "self", "cross"),
        chunk: int | None = None,
        scale_in_evaluation: bool = True,
    ) -> None:
        super().__init__()
        if unknown := sorted({*stack} - {"cross", "self"}):
            raise ValueError(f"a stack is made of 'cross' and 'self', not of {unknown}")
        if "cross" not in stack:
            raise ValueError("a stack needs a 'cross' block, or videos and texts would not meet")
        if dim < 1 or (chunk is not None and chunk < 1):
            raise ValueError(f"dim and chunk must be positive, not {dim} and {chunk}")
        self.dim, self.stack, self.chunk = dim, tuple(stack), chunk
        self.scale_in_evaluation = scale_in_evaluation
        own = self.stack.count("self")
        self.video_attention = nn.ModuleList(nn.MultiheadAttention(dim, 1, batch_first=True) for _ in range(own))
        self.text_attention = nn.ModuleList(nn.MultiheadAttention(dim, 1, batch_first=True) for _ in range(own))

    def forward(
        self, video: Tensor, text: Tensor, text_mask: Tensor, video_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Every video read with every text, and every text with every video.

        Args:
            video: ``(B, R, d)`` cells.
            text: ``(A, K, d)`` words.
            text_mask: ``(A, K)`` bool, True = a word.
            video_mask: ``(B, R)`` bool, True = a cell; None = all are.

        Returns:
            Means over cells and over words, ``(B, A, d)`` each.
        """
        tokens = self._tokens(video, text, text_mask, video_mask, aligned=False)
        first, A = self.stack.index("cross"), len(text)
        chunk = self.chunk or self._texts_in_memory(tokens)
        with full_precision(video.device):
            tokens = self._run(tokens, 0, first)  # not yet of pairs
            recompute = torch.is_grad_enabled() and chunk < A
            pooled = []
            for words, mask in zip(tokens.words.split(chunk, 1), tokens.text_mask.split(chunk, 1), strict=True):
                part = (tokens.weights, words, tokens.video_mask, mask)
                if recompute:
                    pooled.append(checkpoint(self._pool, *part, use_reentrant=False, preserve_rng_state=False))
                else:
                    pooled.append(self._pool(*part))
        return torch.cat([v for v, _ in pooled], 1), torch.cat([t for _, t in pooled], 1)

    def scores(self, video: Tensor, text: Tensor, text_mask: Tensor, video_mask: Tensor | None = None) -> Tensor:
        """How well videos and texts go together: dot products of what `forward` returns, ``(B, A)``."""
        pooled: tuple[Tensor, Tensor] = self(video, text, text_mask, video_mask)
        return (pooled[0] * pooled[1]).sum(-1)  # no matrix product, which autocast would round

    def heat(self, video: Tensor, text: Tensor, text_mask: Tensor, video_mask: Tensor | None = None) -> Tensor:
        """Attention roll-out of aligned pairs: how much each cell of a video counts when read with a text.

        Attention is followed from the last block down to the video's own cells: from the cells where the number of
        cross blocks is even, from the words where it is odd. For cross, self, cross that is the mean over cells of
        A(cells -> words) A(words -> words) A(words -> cells). Tokens that are added unchanged are not followed.

        Args:
            video: ``(N, R, d)`` cells.
            text: ``(N, K, d)`` words.
            text_mask: ``(N, K)`` bool, True = a word.
            video_mask: ``(N, R)`` bool, True = a cell; None = all are.

        Returns:
            ``(N, R)``, not negative, sums to 1 over valid cells.
        """
        tokens = self._tokens(video, text, text_mask, video_mask, aligned=True)
        path: list[Tensor] = []
        with full_precision(video.device):
            self._run(tokens, 0, len(self.stack), path)
            starts_at_words = self.stack.count("cross") % 2 == 1
            heat = _mean(path.pop(), tokens.text_mask if starts_at_words else tokens.video_mask)
            for attention in reversed(path):
                heat = torch.einsum("...m,...mn->...n", heat, attention)
        return heat[:, 0]

    def _tokens(
        self, video: Tensor, text: Tensor, text_mask: Tensor, video_mask: Tensor | None, aligned: bool
    ) -> _Tokens:
        """Checked input with zeros for padding, as videos ``(B, 1, R, d)`` and texts ``(1, A, K, d)``.

        Aligned: both ``(N, 1, ...)``.
        """
        for name, x, mask in (("video", video, video_mask), ("text", text, text_mask)):
            if x.ndim != 3 or x.shape[-1] != self.dim:
                raise ValueError(f"{name} must have the shape (number, tokens, {self.dim}), not {tuple(x.shape)}")
            if mask is not None and mask.shape != x.shape[:2]:
                raise ValueError(f"{name}_mask must have the shape {tuple(x.shape[:2])}, not {tuple(mask.shape)}")
        if aligned and len(video) != len(text):
            raise ValueError(f"aligned pairs need as many videos as texts, not {len(video)} and {len(text)}")
        video, text = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (video, text))
        across = 1 if aligned else 0
        text, text_mask = _padded(text, text_mask.bool())
        if video_mask is not None:
            video, video_mask = _padded(video, video_mask.bool())
            video_mask = video_mask.unsqueeze(1)
        return _Tokens(video.unsqueeze(1), None, text.unsqueeze(across), video_mask, text_mask.unsqueeze(across))

    def _texts_in_memory(self, tokens: _Tokens) -> int:
        """Number of texts whose pairs with all videos take `MEMORY_BYTES` in training."""
        B, (R, _), (K, d) = len(tokens.weights), tokens.weights.shape[-2:], tokens.words.shape[-2:]
        width = K if self.stack[0] == "cross" else d + K  # of the weights, at first
        numbers = 0
        for block in self.stack[self.stack.index("cross") :]:
            numbers += 2 * R * (width + K) + 4 * K * d  # measured
            width = 2 * width + 1 if block == "self" else width + K
        return max(1, MEMORY_BYTES // (B * numbers * tokens.words.element_size()))

    # ---- blocks -------------------------------------------------------------------------------------------

    def _run(self, tokens: _Tokens, start: int, stop: int, path: list[Tensor] | None = None) -> _Tokens:
        """Tokens after the blocks from `start` to before `stop`.

        `path` receives from every block the attention that leads down to the video's cells, rows look at columns.
        """
        for i in range(start, stop):
            tokens = (self._cross if self.stack[i] == "cross" else self._self)(tokens, i, path)
        return tokens

    def _ends_at_cells(self, i: int) -> bool:
        """Whether what block `i` looks at on the path are cells."""
        return self.stack[:i].count("cross") % 2 == 0

    def _cross(self, tokens: _Tokens, i: int, path: list[Tensor] | None) -> _Tokens:
        released = not (self.training or self.scale_in_evaluation)
        weights, vectors, words = tokens.weights, tokens.vectors, tokens.words
        # einsum throughout: matmul would copy what is the same for all videos or for all texts
        keys = words if vectors is None else torch.einsum("...kd,...nd->...kn", words, vectors)
        scores = torch.einsum("...rn,...kn->...rk", weights, keys)
        if not released:
            scores = scores * self.dim**-0.5
        cells_see = _softmax(scores, tokens.text_mask)  # (..., R, K)
        words_see = _softmax(scores.transpose(-1, -2), tokens.video_mask)  # (..., K, R)
        if path is not None:
            path.append(words_see if self._ends_at_cells(i) else cells_see)
        seen = torch.einsum("...kr,...rn->...kn", words_see, weights)
        if vectors is not None:
            seen = torch.einsum("...kn,...nd->...kd", seen, vectors)
        if i == 0 or (released and "cross" not in self.stack[i + 1 :]):
            return replace(tokens, weights=cells_see, vectors=words, words=seen)
        if vectors is None:
            vectors = torch.eye(self.dim, dtype=words.dtype, device=words.device)[None, None]
        weights, vectors = _cat([weights, cells_see], -1), _cat([vectors, words], -2)
        return replace(tokens, weights=weights, vectors=vectors, words=words + seen)

    def _self(self, tokens: _Tokens, i: int, path: list[Tensor] | None) -> _Tokens:
        k = self.stack[:i].count("self")
        of_video, of_text = self.video_attention[k], self.text_attention[k]
        assert isinstance(of_video, nn.MultiheadAttention)
        assert isinstance(of_text, nn.MultiheadAttention)
        cells, words = (path if self._ends_at_cells(i) is at else None for at in (True, False))
        weights, vectors = tokens.weights, tokens.vectors
        if vectors is None:
            weights = weights + _attend(of_video, weights, tokens.video_mask, cells)
        else:
            seen, new = _attend_mixtures(of_video, weights, vectors, tokens.video_mask, cells)
            weights, vectors = _cat([weights, seen], -1), _cat([vectors, new], -2)
        added = _attend(of_text, tokens.words, tokens.text_mask, words)
        return replace(tokens, weights=weights, vectors=vectors, words=tokens.words + added)

    def _pool(
        self, video: Tensor, words: Tensor, video_mask: Tensor | None, text_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Means of all pairs after the blocks from the first cross on."""
        tokens = _Tokens(video, None, words, video_mask, text_mask)
        tokens = self._run(tokens, self.stack.index("cross"), len(self.stack))
        assert tokens.vectors is not None
        weights = _mean(tokens.weights, tokens.video_mask)
        return torch.einsum("...n,...nd->...d", weights, tokens.vectors), _mean(tokens.words, tokens.text_mask)


def rollout(attention: Tensor, residual: bool = True) -> Tensor:
    """Attention roll-out of Abnar & Zuidema, "Quantifying Attention Flow in Transformers" (ACL 2020, 2005.00928).

    For stacks whose layers look at the same tokens; `PairAttention.heat` does it between videos and texts.

    Args:
        attention: ``(L, n, n)``, first layer first; rows look at columns and sum to 1.
        residual: count the unchanged token as much as what it looks at.

    Returns:
        ``(L, n, n)``, how much the input (columns) is in each layer's output (rows).
    """
    if residual:
        attention = attention + torch.eye(attention.shape[-1], dtype=attention.dtype, device=attention.device)
        attention = attention / attention.sum(-1, keepdim=True)
    layers = [attention[0]]
    for layer in attention[1:]:
        layers.append(layer @ layers[-1])
    return torch.stack(layers)


# ---- parts of blocks --------------------------------------------------------------------------------------


def full_precision(device: torch.device) -> AbstractContextManager[None]:
    """No autocast; the meta device, on which operations are counted, knows none."""
    known = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if known else nullcontext()


def _padded(tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Zeros for padding; where there is nothing but padding, the zeros count as tokens."""
    return tokens.masked_fill(~mask[..., None], 0), mask | ~mask.any(-1, keepdim=True)


def _softmax(scores: Tensor, mask: Tensor | None) -> Tensor:
    if mask is not None:
        scores = scores.masked_fill(~mask[..., None, :], -torch.inf)
    return scores.softmax(-1)


def _mean(rows: Tensor, mask: Tensor | None) -> Tensor:
    """Over valid rows: ``(..., n, c)`` and ``(..., n)`` give ``(..., c)``."""
    if mask is None:
        return rows.mean(-2)
    share = mask.to(rows.dtype) / mask.sum(-1, keepdim=True)
    return torch.einsum("...n,...nc->...c", share, rows)


def _cat(parts: list[Tensor], dim: int) -> Tensor:
    """Side by side, whatever their leading dimensions of size 1."""
    leading = torch.broadcast_shapes(*(part.shape[:-2] for part in parts))
    return torch.cat([part.expand(*leading, -1, -1) for part in parts], dim)


def _attend(
    attention: nn.MultiheadAttention, tokens: Tensor, mask: Tensor | None, path: list[Tensor] | None
) -> Tensor:
    """Self-attention ``(..., n, d)`` of tokens."""
    flat = tokens.flatten(0, -3)
    if mask is not None:
        mask = ~mask.expand(tokens.shape[:-1]).flatten(0, -2)
    seen, weights = attention(flat, flat, flat, key_padding_mask=mask, need_weights=path is not None)
    if path is not None:
        path.append(weights.unflatten(0, tokens.shape[:-2]))
    return seen.unflatten(0, tokens.shape[:-2])  # type: ignore[no-any-return]


def _attend_mixtures(
    attention: nn.MultiheadAttention,
    weights: Tensor,
    vectors: Tensor,
    mask: Tensor | None,
    path: list[Tensor] | None,
) -> tuple[Tensor, Tensor]:
    """Self-attention of tokens ``weights @ vectors``: weights ``(..., R, n + 1)``, vectors ``(..., n + 1, d)``.

    Projections of a mixture are mixtures of projections. What the keys' bias adds to scores is the same for all
    keys and drops out of the softmax; the values' bias is the vector n + 1, of which every token has one.
    """
    query, key, value = attention.in_proj_weight.chunk(3)
    query_bias, _, value_bias = attention.in_proj_bias.chunk(3)
    keys = F.linear(vectors, key)
    inner = torch.einsum("...md,...nd->...mn", F.linear(vectors, query), keys)  # vector m looks at vector n
    queries = torch.einsum("...rm,...mn->...rn", weights, inner) + (keys @ query_bias)[..., None, :]
    scale = attention.embed_dim**-0.5
    if path is not None:
        among = _softmax(scale * queries @ weights.transpose(-1, -2), mask)
        path.append(among)
        seen = among @ weights
    else:
        n = weights.shape[-1]
        queries, padded = (F.pad(x, (0, -n % 4)) for x in (queries, weights))  # fused kernels want multiples of 4
        where = None if mask is None else mask[..., None, :]
        seen = F.scaled_dot_product_attention(queries, padded, padded, where, scale=scale)[..., :n]
    values = F.linear(F.linear(vectors, value), attention.out_proj.weight)
    bias = attention.out_proj(value_bias).expand_as(values[..., :1, :])
    return F.pad(seen, (0, 1), value=1.0), torch.cat([values, bias], -2)
