"""Tokenizers of Transformers that a checkpoint can hold: their files travel as text."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import hub

Source = str | Path | dict[str, str]  # a folder, a name on the Hub, or files as {name: text}


class Tokens(NamedTuple):
    """A batch of tokenized texts; N tokens in the longest.

    Attributes:
        inputs: what a network of Transformers takes, each ``(B, N)``; `attention_mask` is among them.
        words: ``(B, N)`` bool, True = neither padding nor a special token. Of a text without any, its last token.
    """

    inputs: dict[str, Tensor]
    words: Tensor


class Tokenizer:
    """A tokenizer of Transformers with a length limit; special tokens at both ends survive the cut.

    Args:
        source: a local folder, a name on the Hub that is in the local cache, or the files themselves.
        max_length: most tokens of a text, special ones included.
        vocab_size: tokens that the network knows.
        download: fetch it from the Hub if it is not on this machine.

    Raises:
        ValueError: the tokenizer is not on this machine, is not the network's, or `max_length` is too short.
    """

    def __init__(self, source: Source, max_length: int, vocab_size: int, download: bool = False) -> None:
        self._tokenizer = _load(source, download)
        if len(self._tokenizer) > vocab_size:
            raise ValueError(
                f"the tokenizer has {len(self._tokenizer)} tokens and the network {vocab_size}: they do not "
                "belong together"
            )
        special = self._tokenizer.num_special_tokens_to_add()
        limit = min(max_length, self._tokenizer.model_max_length)
        if limit <= special:
            raise ValueError(f"max_length={limit}: {special} special tokens leave no room for a word")
        self.max_length = limit

    @property
    def files(self) -> dict[str, str]:
        """The tokenizer's files, ``{name: text}``; another of the same kind can be made of them."""
        with tempfile.TemporaryDirectory() as folder:
            self._tokenizer.save_pretrained(folder)
            return {path.name: path.read_text(encoding="utf-8") for path in sorted(Path(folder).iterdir())}

    def __call__(self, texts: Sequence[str], device: torch.device) -> Tokens:
        """Tokenize texts; padding is on the right."""
        batch = self._tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=self.max_length,
            padding_side="right",
            return_special_tokens_mask=True,
            return_attention_mask=True,
            return_tensors="pt",
        )
        inputs: dict[str, Tensor] = {k: v.to(device) for k, v in batch.items()}
        seen = inputs["attention_mask"].bool()
        words = seen & ~inputs.pop("special_tokens_mask").bool()
        last = torch.arange(seen.shape[1], device=device) == seen.sum(1, keepdim=True) - 1
        return Tokens(inputs, torch.where(words.any(1, keepdim=True), words, last))


def words_first(states: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
    """Leave out what is no word.

    Args:
        states: ``(B, N, D)``.
        words: ``(B, N)`` bool.

    Returns:
        ``(B, M, D)`` states of words in their order, zero behind them, and ``(B, M)`` bool; M is the most words.
    """
    counts = words.sum(1)
    order = (~words).int().argsort(dim=1, stable=True)[:, : int(counts.max())]
    mask = torch.arange(order.shape[1], device=states.device) < counts[:, None]
    picked = states.gather(1, order[..., None].expand(-1, -1, states.shape[-1]))
    return picked.masked_fill(~mask[..., None], 0), mask


def _load(source: Source, download: bool) -> Any:
    from transformers import AutoTokenizer

    if isinstance(source, Mapping):
        with tempfile.TemporaryDirectory() as folder:
            for name, text in source.items():
                Path(folder, Path(name).name).write_text(text, encoding="utf-8")
            return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    try:
        return AutoTokenizer.from_pretrained(str(source), local_files_only=not download)
    except (OSError, ValueError) as error:
        if Path(source).is_dir():
            raise ValueError(f"the folder {source} holds no tokenizer (tokenizer.json): {error}") from error
        raise ValueError(hub.absent(source, "the tokenizer's files")) from error
