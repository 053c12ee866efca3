"""What every text encoder is: strings in, features per word and per sentence out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from torch import Tensor

from ..encoder import Encoder


class TextFeatures(NamedTuple):
    """What a text encoder returns; N is the longest text of the batch.

    Attributes:
        words: ``(B, N, D)``, padding is zero.
        mask: ``(B, N)`` bool, True = a word. Every row holds at least one.
        sentence: ``(B, D)``, one vector per text.
    """

    words: Tensor
    mask: Tensor
    sentence: Tensor


class TextEncoder(Encoder, ABC):
    """Base of all text encoders; a subclass sets `dim`, the width D of word and sentence vectors.

    Encoders that own a vocabulary also override `fit_vocabulary`, `vocabulary` and `set_vocabulary`; a task
    fits it on the training texts, stores it in the checkpoint and restores it from there.

    Attributes:
        dim: width D of word and sentence vectors.
        trainable: whether a task may train it.
        settings: the constructor's arguments, defaults included.
    """

    dim: int

    def __init__(self, trainable: bool = True) -> None:
        super().__init__(trainable)

    @abstractmethod
    def forward(self, texts: Sequence[str]) -> TextFeatures:
        """Encode `texts`, in their order."""

    @property
    def vocabulary(self) -> list[str] | None:
        """The words known, in the order of their ids; None where the encoder brings its own tokenizer."""
        return None

    def fit_vocabulary(self, texts: Iterable[str]) -> None:
        """Collect the vocabulary from `texts`; nothing to do where the encoder brings its own."""

    def set_vocabulary(self, words: Sequence[str]) -> None:
        """Take over a stored vocabulary; must come before loading weights."""
