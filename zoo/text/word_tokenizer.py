"""A tokenizer of whole words, for language models that start from nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

UNKNOWN, BEGIN, END = "<unk>", "<s>", "</s>"
PATTERN = r"\w+(?:['-]\w+)*|[^\w\s]"  # a word, or one sign


def words_of(texts: Iterable[str]) -> list[str]:
    """The words of texts in lower case, in the order of their first appearance; signs are words, too."""
    backend = _backend([])
    return list(
        dict.fromkeys(
            word
            for text in texts
            for word, _ in backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(text))
        )
    )


def word_tokenizer_files(words: Sequence[str]) -> dict[str, str]:
    """The files of a tokenizer of Transformers that knows `words`, ``{name: text}``.

    Ids are those of an unknown word, begin and end, then the words in their order.

    Raises:
        ValueError: there are no words, or one comes twice.
    """
    from transformers import PreTrainedTokenizerFast

    if not words or len({UNKNOWN, BEGIN, END, *words}) != len(words) + 3:
        raise ValueError("a vocabulary has at least one word, each once, and none of <unk>, <s>, </s>")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_backend(words),
        unk_token=UNKNOWN,
        bos_token=BEGIN,
        eos_token=END,
        clean_up_tokenization_spaces=False,
    )
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return {path.name: path.read_text(encoding="utf-8") for path in sorted(Path(folder).iterdir())}


def _backend(words: Sequence[str]) -> Any:
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    ids = {word: i for i, word in enumerate([UNKNOWN, BEGIN, END, *words])}
    tokenizer: Any = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(PATTERN), behavior="removed", invert=True)
    return tokenizer
