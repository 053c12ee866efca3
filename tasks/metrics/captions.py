"""Scores of generated captions as the captioning benchmarks print them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

from .caption_scorers import Group, Score, corpus_scores
from .ptb import JavaError, ptb_tokens, simple_tokens
from .records import Record, RecordMetric

log = logging.getLogger(__name__)
Tokenizer = Literal["ptb", "simple"]


class CaptionMetric(RecordMetric):
    """What metrics on captions share: the choice of scores and tokens, and what to do where Java is missing.

    A score that cannot be computed here is left out, never 0, never an error: `absent` holds the reason, which is
    logged once.

    Args:
        scores: which; METEOR and SPICE run Java programs (METEOR about 20 s per 5,000 captions).
        tokenizer: ``"ptb"`` is what papers use and runs Java; ``"simple"`` is its copy in Python (see `ptb`).
            "ptb" without Java becomes "simple", and every name ends in ``_simple`` then, so that numbers made
            with different tokenizers never share a name.

    Raises:
        ValueError: an unknown score or tokenizer.
    """

    def __init__(
        self, scores: Sequence[Score] = ("CIDEr", "BLEU"), tokenizer: Tokenizer = "simple", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        unknown = [name for name in scores if name not in get_args(Score)]
        if unknown or not scores:
            raise ValueError(f"scores {list(scores)}: choose from {', '.join(get_args(Score))}")
        if tokenizer not in get_args(Tokenizer):
            raise ValueError(f"tokenizer {tokenizer!r}: choose from {', '.join(get_args(Tokenizer))}")
        self.scores, self.tokenizer = tuple(dict.fromkeys(scores)), tokenizer
        self.suffix = ""
        self._told: set[str] = set()

    def tokens(self, texts: Iterable[str | None]) -> dict[str | None, str]:
        """Tokens of every distinct text; sets the suffix of the names."""
        distinct = list(dict.fromkeys(texts))
        self.suffix = ""
        if self.tokenizer == "ptb":
            try:
                return dict(zip(distinct, ptb_tokens(distinct), strict=True))
            except JavaError as error:
                self.suffix = "_simple"
                self.leave_out("PTB tokenizer", f"{error}. The simple tokenizer is used and names end in _simple.")
        return {text: simple_tokens(text) for text in distinct}

    def scored(self, groups: Sequence[Group]) -> dict[str, list[float]]:
        """Scores of tokenised corpora, times 100, one per corpus, by their final names."""
        values, absent = corpus_scores(groups, self.scores)
        for name, reason in absent.items():
            self.leave_out(name, reason)
        return {f"{name}{self.suffix}": [100 * v for v in column] for name, column in values.items()}

    def leave_out(self, name: str, reason: str) -> None:
        """Remember why a name is missing from the values, and say it once."""
        self.absent[name] = reason
        if name not in self._told:
            self._told.add(name)
            log.warning("%s is left out: %s", name, reason)


class CaptionScores(CaptionMetric):
    """BLEU, METEOR, ROUGE-L, CIDEr and SPICE of one caption per video or clip, against all its references.

    The corpus values of pycocoevalcap times 100, as papers print them. (Dense captioning has another protocol, see
    `DenseCaptionScores`; numbers of the two must not be compared.)

    A record is ``{"id": str, "caption": str, "references": [str, ...]}``, texts as people write them; a caption
    may be empty or None.

    Returns (compute):
        ``BLEU1`` to ``BLEU4``, ``METEOR``, ``ROUGE_L``, ``CIDEr`` (up to 1000), ``SPICE``: those chosen.
    """

    def evaluate(self, records: list[Record]) -> dict[str, float]:
        """Values of all records.

        Raises:
            ValueError: a record without references; names it.
        """
        self.absent = {}
        for record in records:
            if isinstance(record["references"], str) or not record["references"]:
                raise ValueError(f"{record['id']}: needs a list of at least one reference caption")
        if not records:
            self.leave_out("captions", "no caption was given")
            return {}
        texts = [text for record in records for text in (record["caption"], *record["references"])]
        tokens = self.tokens(texts)
        candidates = [tokens[record["caption"]] for record in records]
        references = [[tokens[text] for text in record["references"]] for record in records]
        return {name: column[0] for name, column in self.scored([(candidates, references)]).items()}
