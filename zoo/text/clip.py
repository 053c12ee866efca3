"""CLIP's text encoder: "Learning Transferable Visual Models From Natural Language Supervision".

Radford et al., ICML 2021, arXiv:2103.00020. Through Transformers, or from OpenAI's own files.

Differs from the release: texts are padded to the longest of the batch, not to 77 tokens. The attention is causal,
so that no token sees the padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .. import hub
from ..openai_clip import read_openai, text_config, text_state
from ..weights import CHECKPOINT, RANDOM, load_state
from .base import TextEncoder, TextFeatures
from .tokenizer import Source, Tokenizer, words_first


class CLIPText(TextEncoder):
    """CLIP's text tower in the joint space with images.

    A word's vector is the projected state of its token, which has seen the tokens before it; the sentence's is
    that of the end token. Start and end tokens are no words. Longer texts are cut, the end token stays.

    Args:
        weights: a local folder, a name on the Hub that is in the local cache, or a file of OpenAI's; `random` and
            `checkpoint` need `config` and `tokenizer`.
        tokenizer: a folder or a name on the Hub with the tokenizer's files, or these as ``{name: text}``; None
            takes them from `weights`. OpenAI's files have none.
        max_length: most tokens of a text, start and end included; None takes the model's (77).
        config: the contents of a ``config.json``'s ``text_config``, to build the network without files.
        download: fetch `weights` and `tokenizer` from the Hub if they are not on this machine.
        trainable: whether a task may train it.

    Raises:
        FileNotFoundError: a file that does not exist.
        ValueError: weights or tokenizer are not on this machine or do not belong together, or are not CLIP's.
    """

    def __init__(
        self,
        weights: str | Path,
        tokenizer: str | Path | dict[str, str] | None = None,
        max_length: int | None = None,
        config: dict[str, Any] | None = None,
        download: bool = False,
        trainable: bool = False,
    ) -> None:
        super().__init__(trainable)
        from transformers import CLIPTextConfig, CLIPTextModelWithProjection

        from_file = config is None and hub.is_weight_file(weights)
        if tokenizer is None and (from_file or weights in (RANDOM, CHECKPOINT)):
            raise ValueError(
                f"weights '{weights}' come without a vocabulary: give `tokenizer`, a folder with CLIP's tokenizer "
                "files (vocab.json, merges.txt, tokenizer_config.json) or openai/clip-vit-base-patch32"
            )
        if from_file:
            state = read_openai(weights)
            self.network = hub.build(
                CLIPTextModelWithProjection, CLIPTextConfig.from_dict(text_config(state)), CHECKPOINT
            )
            load_state(self.network, text_state(state), weights)
        else:
            settings = hub.read_config(weights, config, download)
            if settings.model_type == "clip":  # both towers
                joint, settings = settings.projection_dim, settings.text_config
                settings.projection_dim = joint
            if settings.model_type != "clip_text_model":
                raise ValueError(f"'{weights}' is a model of type {settings.model_type}, not CLIP")
            self.network = hub.build(CLIPTextModelWithProjection, settings, weights, download)
        settings = self.network.config
        source: Source = str(weights) if tokenizer is None else tokenizer
        limit = min(max_length or settings.max_position_embeddings, settings.max_position_embeddings)
        self.tokenizer = Tokenizer(source, limit, settings.vocab_size, download)
        self.dim = int(settings.projection_dim)
        self.freeze_unless_trainable()

    def rebuild_arguments(self) -> dict[str, Any]:
        """Configuration and tokenizer, which stand in for the files; see `Encoder.rebuild_arguments`."""
        kept = {"config": hub.plain_config(self.network.config), "tokenizer": self.tokenizer.files}
        return super().rebuild_arguments() | kept | {"download": False}

    def forward(self, texts: Sequence[str]) -> TextFeatures:
        """Encode strings; see `TextEncoder.forward`."""
        tokens = self.tokenizer(texts, self.network.text_projection.weight.device)
        inputs = {k: tokens.inputs[k] for k in ("input_ids", "attention_mask")}
        with torch.set_grad_enabled(self.trainable and torch.is_grad_enabled()):
            out = self.network(**inputs)
            states = self.network.text_projection(out.last_hidden_state)
            words, mask = words_first(states, tokens.words)
        return TextFeatures(words, mask, out.text_embeds)
