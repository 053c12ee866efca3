"""The words that a caption decoder can say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

END, UNKNOWN = "<end>", "UNK"


class Vocabulary:
    """Words and their ids. Id 0 begins and ends every sentence, and fills up; the last id is any other word.

    Args:
        words: in the order of their ids, the two special ones included.

    Raises:
        ValueError: the special words are not where they should be, or a word comes twice.
    """

    def __init__(self, words: Sequence[str]) -> None:
        if len(words) < 2 or words[0] != END or words[-1] != UNKNOWN or len(set(words)) != len(words):
            raise ValueError(f"a vocabulary is [{END!r}, words ..., {UNKNOWN!r}], each word once")
        self.words = list(words)
        self._ids = {word: i for i, word in enumerate(self.words)}

    @classmethod
    def fitted(cls, captions: Iterable[Sequence[str]], min_count: int) -> Vocabulary:
        """The words that occur at least `min_count` times, in the order of their first appearance."""
        counts = Counter(word for caption in captions for word in caption)
        known = (word for word, n in counts.items() if n >= min_count and word not in ("", END, UNKNOWN))
        return cls([END, *known, UNKNOWN])

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, caption: Sequence[str], max_length: int) -> list[int]:
        """Ids of a caption and its end, cut to `max_length`: a longer caption has no end."""
        unknown = len(self.words) - 1
        return [*(self._ids.get(word, unknown) for word in caption), 0][:max_length]

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Words up to the first end."""
        words = []
        for i in ids:
            if i == 0:
                break
            words.append(self.words[i])
        return words
