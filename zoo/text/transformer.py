"""Text encoders of Transformers: BERT and its kin, sentence models, the encoders of T5.

BERT (Devlin et al., NAACL 2019, arXiv:1810.04805), Sentence-BERT (Reimers and Gurevych, EMNLP 2019,
arXiv:1908.10084), T5 (Raffel et al., JMLR 2020, arXiv:1910.10683).

Differs from the sentence-transformers package: a folder's ``modules.json`` is not read; the pooling is an argument
here, and vectors are not brought to length one.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from .. import hub
from ..weights import CHECKPOINT, RANDOM
from .base import TextEncoder, TextFeatures
from .tokenizer import Source, Tokenizer, words_first

SHIFTED = (
    "roberta",
    "xlm-roberta",
    "xlm-roberta-xl",
    "camembert",
    "mpnet",
    "longformer",
)  # positions behind padding
UNLIMITED = 512  # tokens, where neither the network nor the tokenizer has a limit


class TransformerText(TextEncoder):
    """Any text encoder of Transformers: a word's vector is the last state of its token (a piece of a word counts).

    Args:
        weights: a local folder, or a name on the Hub that is in the local cache; `random` and `checkpoint` need
            `config` and `tokenizer`.
        sentence: `cls`, the state of the first token; `mean`, of all tokens, special ones included, as sentence
            models have it; `pooler`, the network's own pooling layer.
        tokenizer: a folder or a name on the Hub with the tokenizer's files, or these as ``{name: text}``; None
            takes them from `weights`.
        max_length: most tokens of a text, special ones included; None takes the model's.
        config: the contents of a ``config.json``, to build the network without files.
        download: fetch `weights` and `tokenizer` from the Hub if they are not on this machine.
        trainable: whether a task may train it.

    Raises:
        ValueError: weights or tokenizer are not on this machine or do not belong together, or the network has no
            pooling layer.
    """

    def __init__(
        self,
        weights: str | Path,
        sentence: Literal["cls", "mean", "pooler"] = "mean",
        tokenizer: str | Path | dict[str, str] | None = None,
        max_length: int | None = None,
        config: dict[str, Any] | None = None,
        download: bool = False,
        trainable: bool = False,
    ) -> None:
        super().__init__(trainable)
        import transformers

        if tokenizer is None and weights in (RANDOM, CHECKPOINT):
            raise ValueError(f"weights: {weights} come without a vocabulary: give `tokenizer` as well")
        settings = hub.read_config(weights, config, download)
        encoders, all_models = transformers.MODEL_FOR_TEXT_ENCODING_MAPPING, transformers.MODEL_MAPPING
        kind = encoders.get(type(settings), None) or all_models.get(type(settings), None)
        if kind is None or not hasattr(settings, "vocab_size"):
            raise ValueError(f"'{weights}' is a model of type {settings.model_type}, which encodes no text")
        has_pooler = "add_pooling_layer" in inspect.signature(kind).parameters
        if sentence == "pooler" and not has_pooler:
            raise ValueError(f"sentence: pooler: {kind.__name__} has no pooling layer; take cls or mean")
        options = {"add_pooling_layer": sentence == "pooler"} if has_pooler else {}
        self.network = hub.build(kind, settings, weights, download, **options)
        self.sentence = sentence
        self.config = hub.plain_config(settings)
        source: Source = str(weights) if tokenizer is None else tokenizer
        limit = _positions(settings)
        self.tokenizer = Tokenizer(source, min(max_length or limit, limit), settings.vocab_size, download)
        self.dim = int(settings.hidden_size)
        self._inputs = set(inspect.signature(self.network.forward).parameters)
        self.freeze_unless_trainable()

    def rebuild_arguments(self) -> dict[str, Any]:
        """Configuration and tokenizer, which stand in for the files; see `Encoder.rebuild_arguments`."""
        kept = {"config": self.config, "tokenizer": self.tokenizer.files, "download": False}
        return super().rebuild_arguments() | kept

    def forward(self, texts: Sequence[str]) -> TextFeatures:
        """Encode strings; see `TextEncoder.forward`."""
        tokens = self.tokenizer(texts, next(self.network.parameters()).device)
        with torch.set_grad_enabled(self.trainable and torch.is_grad_enabled()):
            out = self.network(**{k: v for k, v in tokens.inputs.items() if k in self._inputs})
            states = out.last_hidden_state
            if self.sentence == "pooler":
                sentence = out.pooler_output
            elif self.sentence == "cls":
                sentence = states[:, 0]
            else:
                seen = tokens.inputs["attention_mask"][..., None].to(states.dtype)
                sentence = (states * seen).sum(1) / seen.sum(1)
            words, mask = words_first(states, tokens.words)
        return TextFeatures(words, mask, sentence)


def _positions(settings: Any) -> int:
    """Most tokens that the network has positions for."""
    positions = getattr(settings, "max_position_embeddings", None) or UNLIMITED
    shift = (settings.pad_token_id or 0) + 1 if settings.model_type in SHIFTED else 0
    return int(positions) - shift
