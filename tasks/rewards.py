"""Rewards of sentences, to train a decoder by."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import astuple, dataclass
from pathlib import Path
from types import TracebackType

from ..zoo.text.vocabulary import END, Vocabulary
from .metrics.caption_scorers import Cider, DocumentFrequencies, Meteor, document_frequencies
from .metrics.ptb import JavaError
from .run_folder import write_atomically

Words = Sequence[str]
Sentence = Sequence[int] | Sequence[str]
Pair = tuple[str, tuple[str, ...]]
Scorer = Callable[[Sequence[str], Sequence[Sequence[str]]], list[float]]

REMEMBERED = 50_000
"""Pairs of a sentence and its references whose value is kept, per scorer."""


@dataclass(frozen=True)
class RewardOptions:
    """How much each named reward counts; 0 leaves it out. The default is what SA-TSP's captioner was trained with.

    Attributes:
        meteor_ids: METEOR of the ids of words, 0 to 1, the end of a sentence being one: only equal words match, no
            stems or synonyms, and words beyond the vocabulary are equal (released code). Needs Java.
        meteor: METEOR of words, 0 to 1. Needs Java.
        cider: CIDEr-D, 0 to 10, with the document frequencies of the training split; the end is a word (Rennie et
            al., CVPR 2017), without which sentences learn to stop early.

    Raises:
        ValueError: a weight is not finite, or all are 0.
    """

    meteor_ids: float = 1.0
    meteor: float = 0.0
    cider: float = 0.0

    def __post_init__(self) -> None:
        if not any(astuple(self)) or not all(map(math.isfinite, astuple(self))):
            raise ValueError(f"{self}: give at least one reward a finite weight other than 0")


# ---- document frequencies -------------------------------------------------------------------------------


def training_frequencies(references: Sequence[Sequence[Words]]) -> DocumentFrequencies:
    """Document frequencies for the reward "cider".

    Args:
        references: of the training split; per event its sentences, each a list of words. The end is added.
    """
    return document_frequencies([[" ".join([*words, END]) for words in event] for event in references])


def write_frequencies(path: Path, frequencies: DocumentFrequencies) -> None:
    """Write document frequencies as JSON, atomically.

    N-grams of one document are left out (four of five): CIDEr weighs them as it weighs n-grams never seen.
    """
    counts = {" ".join(gram): n for gram, n in frequencies.counts.items() if n > 1}
    content = {"documents": frequencies.documents, "counts": counts}
    write_atomically(path, json.dumps(content, ensure_ascii=False) + "\n")


def read_frequencies(path: Path) -> DocumentFrequencies:
    """Read what `write_frequencies` wrote.

    Raises:
        ValueError: the file is something else, or an n-gram is in more documents than there are; names the file.
    """
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
        counts = {tuple(gram.split(" ")): int(n) for gram, n in given["counts"].items()}
        documents = int(given["documents"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f'{path}: not document frequencies, a JSON object of "documents" and "counts" ({error!r})'
        ) from error
    if documents < max(counts.values(), default=1):
        raise ValueError(f"{path}: {documents} documents, but an n-gram is in {max(counts.values(), default=1)}")
    return DocumentFrequencies(counts, documents)


# ---- the reward -----------------------------------------------------------------------------------------


class Reward:
    """The weighted sum of rewards of sentences; to be used in a ``with`` block, or closed by hand.

    METEOR's Java process starts here and runs until the end of the block. A pair that was scored before costs
    nothing.

    Args:
        options: the weights.
        vocabulary: of the decoder.
        frequencies: of the training split (`training_frequencies`, `read_frequencies`); "cider" needs them.

    Raises:
        JavaError: METEOR is asked for and there is no Java.
        ValueError: CIDEr is asked for without frequencies.
    """

    def __init__(
        self, options: RewardOptions, vocabulary: Vocabulary, frequencies: DocumentFrequencies | None = None
    ) -> None:
        self.options, self.vocabulary = options, vocabulary
        self._cider: _Remembering | None = None
        self._meteor: _Remembering | None = None
        self._stack = ExitStack()
        if options.cider:
            if frequencies is None:
                raise ValueError("the reward cider needs document frequencies: training_frequencies(references)")
            self._cider = _Remembering(_cider_scorer(frequencies))
        if options.meteor or options.meteor_ids:
            try:
                process = self._stack.enter_context(Meteor())
            except JavaError as error:
                raise JavaError(
                    f"{error}. The reward METEOR needs it; CIDEr does not: set cider: 1, meteor: 0, meteor_ids: 0"
                ) from error
            self._meteor = _Remembering(lambda texts, references: process.score(texts, references)[1])

    def __enter__(self) -> Reward:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the Java process; nothing can be scored from then on."""
        self._cider = self._meteor = None
        self._stack.close()

    def score(self, sentences: Sequence[Sequence[int]], references: Sequence[Sequence[Sentence]]) -> list[float]:
        """Rewards of sentences.

        Args:
            sentences: R lists of word ids. What stands behind the first end (0) does not count; a sentence may
                have no end.
            references: R lists of at least one sentence: ids, without a 0 that begins them and with the 0 that
                ends them, or words. Words tell more: `cider` and `meteor` see those beyond the vocabulary.

        Returns:
            R numbers.

        Raises:
            ValueError: an event without a reference, a reference without words, lists of different lengths, or
                the reward is closed.
            JavaError: METEOR failed.
        """
        if len(sentences) != len(references):
            raise ValueError(f"{len(sentences)} sentences but references for {len(references)}")
        for number, event in enumerate(references):
            if not event or not all(len(words) and words[0] != 0 for words in event):
                raise ValueError(f"sentence {number}: needs references of at least one word, not {list(event)}")
        weights = self.options
        totals = [0.0] * len(sentences)
        for weight, scorer, text in (
            (weights.meteor_ids, self._meteor, self._ids),
            (weights.meteor, self._meteor, self._words),
            (weights.cider, self._cider, self._words_and_end),
        ):
            if weight:
                if scorer is None:
                    raise ValueError("this reward is closed")
                pairs = [
                    (text(sentence), tuple(map(text, event)))
                    for sentence, event in zip(sentences, references, strict=True)
                ]
                totals = [total + weight * value for total, value in zip(totals, scorer(pairs), strict=True)]
        return totals

    def _ids(self, sentence: Sentence) -> str:
        return " ".join(map(str, self._until_end(sentence)))

    def _words(self, sentence: Sentence) -> str:
        return self._words_and_end(sentence).removesuffix(END).rstrip()

    def _words_and_end(self, sentence: Sentence) -> str:
        if sentence and isinstance(sentence[0], str):
            return " ".join([*map(str, sentence), END])
        return " ".join(self.vocabulary.words[i] for i in self._until_end(sentence))

    def _until_end(self, sentence: Sentence) -> list[int]:
        """Ids up to the first end, that included."""
        if sentence and isinstance(sentence[0], str):
            return self.vocabulary.encode([str(word) for word in sentence], len(sentence) + 1)
        ids = [int(i) for i in sentence]
        return ids[: ids.index(0) + 1] if 0 in ids else ids


class _Remembering:
    """Scores pairs, each distinct one once while it is remembered."""

    def __init__(self, score: Scorer) -> None:
        self._score = score
        self._known: dict[Pair, float] = {}

    def __call__(self, pairs: Sequence[Pair]) -> list[float]:
        if len(self._known) > REMEMBERED:
            self._known.clear()
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._known]
        if new:
            values = self._score([text for text, _ in new], [references for _, references in new])
            self._known.update(zip(new, values, strict=True))
        return [self._known[pair] for pair in pairs]


def _cider_scorer(frequencies: DocumentFrequencies) -> Scorer:
    """CIDEr-D against changing references: per call only the n-grams that occur in it are weighed."""
    counts, documents = frequencies

    def score(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
        found = document_frequencies([[text] for text in candidates] + [list(texts) for texts in references])
        known = {gram: counts[gram] for gram in found.counts if gram in counts}
        return Cider(references, DocumentFrequencies(known, documents)).score(candidates)

    return score
