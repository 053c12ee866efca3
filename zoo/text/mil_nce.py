"""The text side of MIL-NCE: word2vec vectors, a layer, the maximum over words, a layer.

Miech, Alayrac, Smaira, Laptev, Sivic, Zisserman: "End-to-End Learning of Visual Representations from Uncurated
Instructional Videos", CVPR 2020, arXiv:1912.06430. `S3DG` is the video side; the dot product of the two says how
well a video and a sentence agree.

Differs from the authors' programs:
    - They give a sentence vector only. A word's vector here is what the sentence's would be if that word stood at
      all 16 places: it lies in the same space.
    - Rows of the table that no word of the dictionary points to are not kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..weights import CHECKPOINT, RANDOM, load_weights, reproducible
from .base import TextEncoder, TextFeatures

TABLE = "word_embd.weight"
_OURS = re.compile(r"(?:^|\.)text_module\.(.+)$")
_WORD = re.compile(r"[\w']+")


def read_dictionary(path: str | Path) -> list[str]:
    """The words of ``s3d_dict.npy`` in the order of their ids, from 1 on.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file holds something other than a list of strings.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"dictionary {path} does not exist; `s3d_dict.npy` is published with the weights")
    try:
        words = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(
            f"dictionary {path} cannot be read ({error}); it is a NumPy file with a list of strings, and nothing "
            "in it is executed"
        ) from error
    if not isinstance(words, np.ndarray) or words.ndim != 1 or words.dtype.kind != "U" or not len(words):
        what = f"{words.dtype} of shape {words.shape}" if isinstance(words, np.ndarray) else "several arrays"
        raise ValueError(f"dictionary {path} holds {what}, not a list of strings as `s3d_dict.npy`")
    return [str(word) for word in words]


class MILNCETextNetwork(nn.Module):
    """The text module with the names of ``s3d_howto100m.pth``, less their ``text_module.``.

    Args:
        rows: of the table: words of the dictionary, and one for padding.
        word_dim: width of the word vectors.
        layer_dim: width of the layer over which the maximum is taken.
        dim: width of the joint space.
    """

    def __init__(self, rows: int = 66_250, word_dim: int = 300, layer_dim: int = 2048, dim: int = 512) -> None:
        super().__init__()
        self.word_embd = nn.Embedding(rows, word_dim)
        self.fc1 = nn.Linear(word_dim, layer_dim)
        self.fc2 = nn.Linear(layer_dim, dim)

    def hidden(self, ids: Tensor) -> Tensor:
        """``(..., N)`` ids to ``(..., N, layer_dim)``, >= 0, each word by itself."""
        return F.relu(self.fc1(self.word_embd(ids)))

    def forward(self, ids: Tensor) -> Tensor:
        """``(B, N)`` int64 ids to ``(B, dim)``; padding, id 0, takes part in the maximum as any other word."""
        sentence: Tensor = self.fc2(self.hidden(ids).amax(1))
        return sentence


class MILNCEText(TextEncoder):
    """MIL-NCE's sentence vectors, and vectors of their words in the same space.

    Words are runs of letters, digits, underscores and apostrophes; unknown ones are dropped, and those behind the
    `max_words`-th known one. The released network sees every text filled up to `max_words` with padding, which
    has a vector of its own and takes part in the maximum: `sentence` does the same. `words` are the known words
    alone; a text without any has one, the padding.

    Args:
        weights: ``s3d_howto100m.pth``, or a checkpoint of the training repository; the video side in it is left
            out. `random` starts from random numbers.
        dictionary: ``s3d_dict.npy`` or ``dict.npy``, which belongs to the weights' file. None, with random weights
            only, collects the words of the training texts.
        max_words: places that a text has; 16 in the release, 20 in the training repository.
        lower_case: lower-case texts first, as the release does and the training repository does not.
        word_dim: width of the word vectors.
        layer_dim: width of the layer over which the maximum is taken.
        dim: width D of the joint space.
        trainable: whether a task may train it, the word vectors included.

    Raises:
        FileNotFoundError: `weights` or `dictionary` does not exist.
        ValueError: `weights` or `dictionary` are not what they should be, or do not belong together.
    """

    def __init__(
        self,
        weights: str | Path,
        dictionary: str | Path | None = None,
        max_words: int = 16,
        lower_case: bool = True,
        word_dim: int = 300,
        layer_dim: int = 2048,
        dim: int = 512,
        trainable: bool = False,
    ) -> None:
        super().__init__(trainable)
        if max_words < 1:
            raise ValueError(f"max_words={max_words}: a text has at least one word")
        if dictionary is None and weights not in (RANDOM, CHECKPOINT):
            raise ValueError(
                f"weights {weights} need their `dictionary` (s3d_dict.npy), which says whose row is whose"
            )
        self.dim = dim
        self.max_words, self.lower_case = max_words, lower_case
        self._words = read_dictionary(dictionary) if dictionary is not None else []
        self._ids = {word: i for i, word in enumerate(self._words, start=1)}
        with reproducible():
            self.network = MILNCETextNetwork(len(self._words) + 1, word_dim, layer_dim, dim)
        load_weights(self.network, weights, convert=self._own_part)
        self.freeze_unless_trainable()

    def _own_part(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The text side of a file, its table cut to the dictionary's rows."""
        own = {match[1]: tensor for name, tensor in state.items() if (match := _OURS.search(name))} or dict(state)
        rows = len(self._words) + 1
        for name, table in own.items():
            if f".{name}".endswith(f".{TABLE}") and table.ndim == 2:
                if len(table) < rows:
                    raise ValueError(
                        f"the dictionary has {rows - 1} words, the weights' table has rows for {len(table) - 1}: "
                        "they do not belong together"
                    )
                own[name] = table[:rows]
        return own

    def rebuild_arguments(self) -> dict[str, Any]:
        """See `Encoder`; a checkpoint stores the dictionary as vocabulary."""
        return {**super().rebuild_arguments(), "dictionary": None}

    @property
    def vocabulary(self) -> list[str] | None:
        """The words in the order of their ids, from 1 on; None where there was no dictionary yet."""
        return list(self._words) or None

    def fit_vocabulary(self, texts: Iterable[str]) -> None:
        """Number the words of `texts` in order of first appearance; nothing to do where there is a dictionary.

        Raises:
            ValueError: the texts hold no word.
        """
        if self._words:
            return
        words = list(dict.fromkeys(word for text in texts for word in self.tokenize(text)))
        if not words:
            raise ValueError("no words to build a vocabulary from: the training texts are empty")
        self.set_vocabulary(words)

    def set_vocabulary(self, words: Sequence[str]) -> None:
        """Take over a stored vocabulary; a table of another size starts anew."""
        self._words = list(words)
        self._ids = {word: i for i, word in enumerate(self._words, start=1)}
        old = self.network.word_embd.weight
        if len(old) != len(words) + 1:
            with reproducible():
                table = nn.Embedding(len(words) + 1, old.shape[1], device=old.device, dtype=old.dtype)
            self.network.word_embd = table.requires_grad_(self.trainable)

    def tokenize(self, text: str) -> list[str]:
        """All words of a text, known or not."""
        return _WORD.findall(text.lower() if self.lower_case else text)

    def encode_ids(self, texts: Sequence[str]) -> Tensor:
        """``(B, max_words)`` int64 ids, on the CPU; 0 is padding.

        Raises:
            RuntimeError: there is no vocabulary yet.
        """
        if not self._ids:
            raise RuntimeError("this encoder has no vocabulary yet: give a dictionary, or load a checkpoint first")
        ids = torch.zeros(len(texts), self.max_words, dtype=torch.int64)
        for row, text in zip(ids, texts, strict=True):
            known = [self._ids[word] for word in self.tokenize(text) if word in self._ids][: self.max_words]
            row[: len(known)] = torch.tensor(known, dtype=torch.int64)
        return ids

    def forward(self, texts: Sequence[str]) -> TextFeatures:
        """Encode strings; see `TextEncoder.forward`."""
        return self.forward_ids(self.encode_ids(texts))

    def forward_ids(self, ids: Tensor) -> TextFeatures:
        """Encode ids of `encode_ids`; `words` are as many as the longest text has, at least one."""
        ids = ids.to(self.network.word_embd.weight.device)
        lengths = (ids > 0).sum(1).clamp(min=1)
        with torch.set_grad_enabled(self.trainable and torch.is_grad_enabled()):
            hidden = self.network.hidden(ids)
            N = int(lengths.max())
            mask = torch.arange(N, device=ids.device) < lengths[:, None]
            words = self.network.fc2(hidden[:, :N]) * mask[..., None]
            return TextFeatures(words, mask, self.network.fc2(hidden.amax(1)))
