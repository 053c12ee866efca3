"""Word embeddings and a bidirectional LSTM, with a vocabulary of their own."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from .base import TextEncoder, TextFeatures

log = logging.getLogger(__name__)

PAD, UNKNOWN = "<pad>", "<unk>"


@lru_cache(maxsize=200_000)
def tokenize(text: str) -> tuple[str, ...]:
    """Lower-cased Penn Treebank words of a text, full stops removed (the rule of DRN's released data)."""
    from nltk.tokenize.destructive import NLTKWordTokenizer  # pure regular expressions, downloads nothing

    return tuple(NLTKWordTokenizer().tokenize(text.lower().replace(".", "")))


def read_embeddings(path: str | Path, words: Sequence[str], dim: int) -> tuple[Tensor, Tensor]:
    """Read the vectors of `words` from a GloVe-style text file (``word v1 v2 ... vD`` per line).

    The last D fields of a line are the vector, all before them is the word: GloVe 840B has words with blanks. Of
    words that stand there twice the first counts.

    Args:
        path: the file, e.g. ``glove.6B.300d.txt``; a word2vec header line is skipped.
        words: the words wanted.
        dim: expected width D.

    Returns:
        ``(len(words), D)`` vectors, zero where the file lacks the word, and ``(len(words),)`` bool, found.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the line of a wanted word is not ``dim`` numbers wide; names file and line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"word embeddings {path} do not exist; give a local GloVe text file, or leave `embeddings` out"
        )
    row = {word: i for i, word in enumerate(words)}
    beginnings = {word.partition(" ")[0] for word in words}
    vectors, found = torch.zeros(len(words), dim), torch.zeros(len(words), dtype=torch.bool)
    with path.open(encoding="utf-8", newline="\n") as lines:
        for number, line in enumerate(lines, start=1):
            if line.partition(" ")[0].rstrip() not in beginnings:
                continue
            fields = line.rstrip().split(" ")
            if number == 1 and len(fields) == 2:
                continue
            word, values = " ".join(fields[:-dim]), _numbers(fields[-dim:])
            if word in row and values is not None:
                if not found[row[word]]:
                    vectors[row[word]] = torch.tensor(values)
                    found[row[word]] = True
            elif fields[0] in row and (len(fields) <= dim + 1 or _numbers(fields[1:]) is not None):
                raise ValueError(
                    f"{path}:{number}: behind '{fields[0]}' stand {len(fields) - 1} fields, not the {dim} numbers "
                    "of `embedding_dim`"
                )
    return vectors, found


def _numbers(fields: Sequence[str]) -> list[float] | None:
    try:
        return [float(field) for field in fields]
    except ValueError:
        return None


class WordLSTM(TextEncoder):
    """Embedding table and one bidirectional LSTM layer; a word's vector is ``[forward; backward]``.

    Ids: 0 is padding, 1 to V the words in order of first appearance, V + 1 any unknown word. The sentence
    vector is ``[last forward state; first backward state]``.

    Args:
        embedding_dim: width of the word embeddings.
        hidden_dim: LSTM units per direction; ``dim`` is twice that.
        embeddings: a GloVe-style text file to start from; words it lacks start at zero as in DRN. None
            starts from random vectors.
    """

    def __init__(
        self, embedding_dim: int = 300, hidden_dim: int = 512, embeddings: str | Path | None = None
    ) -> None:
        super().__init__()
        self.dim = 2 * hidden_dim
        self.embeddings = embeddings
        self.embedding = nn.Embedding(2, embedding_dim, padding_idx=0)
        self.lstm = nn.LSTM(embedding_dim, hidden_dim, batch_first=True, bidirectional=True)
        self._ids: dict[str, int] = {}

    @property
    def vocabulary(self) -> list[str] | None:
        """The words in the order of their ids, from 1 on; None before a vocabulary was fitted."""
        return list(self._ids) or None

    def fit_vocabulary(self, texts: Iterable[str]) -> None:
        """Number the words of `texts` in order of first appearance and load or draw their vectors."""
        words = list(dict.fromkeys(word for text in texts for word in tokenize(text)))
        if not words:
            raise ValueError("no words to build a vocabulary from: the training texts are empty")
        self.set_vocabulary(words)
        if self.embeddings is None:
            log.info("vocabulary of %d words, embeddings start random", len(words))
            return
        vectors, found = read_embeddings(self.embeddings, words, self.embedding.embedding_dim)
        with torch.no_grad():
            self.embedding.weight[1:-1] = vectors.to(self.embedding.weight)
            self.embedding.weight[-1] = 0  # unknown words, like words that the file lacks
        log.info("vocabulary of %d words, %d of them in %s", len(words), int(found.sum()), self.embeddings)

    def set_vocabulary(self, words: Sequence[str]) -> None:
        """Take over a stored vocabulary; a table of another size starts anew."""
        ids = {word: i for i, word in enumerate(words, start=1)}
        if len(ids) != len(words):
            raise ValueError("the vocabulary names a word twice")
        self._ids = ids
        if self.embedding.num_embeddings != len(words) + 2:
            old = self.embedding.weight
            self.embedding = nn.Embedding(
                len(words) + 2, old.shape[1], padding_idx=0, device=old.device, dtype=old.dtype
            )

    def encode_ids(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids ``(B, N)`` and lengths ``(B,)`` of `texts`; an empty text becomes one unknown word."""
        if not self._ids:
            raise RuntimeError("this encoder has no vocabulary yet: fit_vocabulary or load a checkpoint first")
        unknown = len(self._ids) + 1
        rows = [[self._ids.get(word, unknown) for word in tokenize(text)] or [unknown] for text in texts]
        lengths = torch.tensor([len(row) for row in rows])
        ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.int64)
        for row, out in zip(rows, ids, strict=True):
            out[: len(row)] = torch.tensor(row)
        return ids, lengths

    def forward(self, texts: Sequence[str]) -> TextFeatures:
        """Encode strings; see `TextEncoder.forward`."""
        return self.forward_ids(*self.encode_ids(texts))

    def forward_ids(self, ids: Tensor, lengths: Tensor) -> TextFeatures:
        """Encode token ids.

        Args:
            ids: ``(B, N)`` int64, 0 = padding behind the words.
            lengths: ``(B,)`` int64 on the CPU, 1 to N.

        Returns:
            Features with D = 2 x `hidden_dim`.
        """
        ids = ids.to(self.embedding.weight.device)
        packed = pack_padded_sequence(self.embedding(ids), lengths, batch_first=True, enforce_sorted=False)
        output, (last, _) = self.lstm(packed)
        words, _ = pad_packed_sequence(output, batch_first=True, total_length=ids.shape[1])
        mask = torch.arange(ids.shape[1]) < lengths[:, None]
        return TextFeatures(words, mask.to(words.device), torch.cat([last[0], last[1]], dim=-1))
