"""How alike two phrases are: what decides whether a predicted box is about the same thing as a true one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ...zoo.text.base import TextEncoder

Similarity = Callable[[Sequence[str], Sequence[str]], Tensor]  # P and G phrases -> (P, G), 1 = the same


def exact_match(predicted: Sequence[str], true: Sequence[str]) -> Tensor:
    """1 where two phrases have the same words in the same order, upper and lower case alike; else 0.

    Args:
        predicted: P phrases.
        true: G phrases.

    Returns:
        ``(P, G)`` float64.
    """
    words = [[phrase.lower().split() for phrase in phrases] for phrases in (predicted, true)]
    same = [[float(p == t) for t in words[1]] for p in words[0]]
    return torch.tensor(same, dtype=torch.float64).reshape(len(predicted), len(true))


def token_jaccard(predicted: Sequence[str], true: Sequence[str]) -> Tensor:
    """Words that two phrases share over words in either, upper and lower case alike.

    Args:
        predicted: P phrases.
        true: G phrases.

    Returns:
        ``(P, G)`` float64 in [0, 1]; two phrases without words are the same.
    """
    words = [[frozenset(phrase.lower().split()) for phrase in phrases] for phrases in (predicted, true)]
    shares = [[len(p & t) / len(p | t) if p | t else 1.0 for t in words[1]] for p in words[0]]
    return torch.tensor(shares, dtype=torch.float64).reshape(len(predicted), len(true))


class EncodedSimilarity:
    """Cosine of the vectors that a text encoder gives phrases as sentences.

    GROVE's evaluation (Kazakos et al., ICCV 2025) has that of `TransformerText`, ``bert-base-uncased``, the mean
    of all tokens. Such cosines are mostly above 0.5, also of phrases that have nothing in common. Every distinct
    phrase is encoded once.

    Args:
        text_encoder: goes into evaluation mode; its weights must not change afterwards.
        batch_size: phrases encoded at a time.
    """

    def __init__(self, text_encoder: TextEncoder, batch_size: int = 256) -> None:
        self.text_encoder, self.batch_size = text_encoder.eval(), batch_size
        self._known: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(self, predicted: Sequence[str], true: Sequence[str]) -> Tensor:
        """Similarities ``(P, G)`` in [-1, 1], float64 on the CPU, of P and G phrases."""
        new = [phrase for phrase in dict.fromkeys([*predicted, *true]) if phrase not in self._known]
        for start in range(0, len(new), self.batch_size):
            part = new[start : start + self.batch_size]
            vectors = normalize(self.text_encoder(part).sentence.double(), dim=-1)
            self._known |= dict(zip(part, vectors.cpu(), strict=True))
        if not predicted or not true:
            return torch.zeros(len(predicted), len(true), dtype=torch.float64)
        p, t = (torch.stack([self._known[phrase] for phrase in phrases]) for phrases in (predicted, true))
        return p @ t.T
