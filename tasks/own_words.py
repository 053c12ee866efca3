"""Tasks whose words come from the training texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from ..zoo.text.vocabulary import Vocabulary


class OwnWords:
    """Mixed into a task that says or reads words of a vocabulary of its own; goes before `Task` among the bases.

    Attributes:
        words: the vocabulary, None before it is known.
        min_count: words rarer than this in the training texts are unknown.
        network: makes what depends on the number of words anew by `set_vocabulary`.
    """

    words: Vocabulary | None = None
    min_count: int = 1
    network: nn.Module

    @property
    def vocabulary(self) -> list[str] | None:
        """The words in the order of their ids."""
        return None if self.words is None else self.words.words

    def fit_vocabulary(self, texts: Iterable[Any]) -> None:
        """Take the words that occur at least `min_count` times; texts are lists of words."""
        self.set_vocabulary(Vocabulary.fitted(texts, self.min_count).words)

    def set_vocabulary(self, words: Sequence[str]) -> None:
        """Take over a vocabulary; what depends on its size is made anew."""
        self.words = Vocabulary(words)
        self.network.set_vocabulary(len(words))  # type: ignore[operator]
