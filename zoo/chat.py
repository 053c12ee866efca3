"""Answers of instructed language models, many at a time."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from . import hub

log = logging.getLogger(__name__)


class Message(NamedTuple):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    text: str


Chat = Sequence[Message]


class ChatModel(nn.Module, ABC):
    """Base of all language models that are asked; frozen."""

    @abstractmethod
    def answer(self, chats: Sequence[Chat]) -> list[str]:
        """What the model says next in each of some conversations, which do not know of each other.

        Args:
            chats: conversations that end with a user's turn.

        Returns:
            One text each; empty where a conversation is too long for the model.
        """

    def train(self, mode: bool = True) -> ChatModel:
        """Always in evaluation mode."""
        return super().train(False)


class TransformersChat(ChatModel):
    """A causal language model of Transformers; answers are greedy.

    Conversations are written with the tokenizer's chat template; a template without a system's turn gets it at the
    head of the first user's turn, and without any template turns are written as "User: ...". They are answered in
    the order of their lengths, so that little is padded.

    Args:
        weights: a local folder or a name on the Hub, with the tokenizer. `--trainer.precision bf16-true` halves
            the memory.
        max_new_tokens: longest answer.
        batch_size: conversations per pass.
        download: fetch them from the Hub if they are not on this machine.

    Raises:
        ValueError: the weights are not on this machine or are no causal language model.
    """

    def __init__(
        self, weights: str | Path, max_new_tokens: int = 96, batch_size: int = 8, download: bool = False
    ) -> None:
        super().__init__()
        import transformers

        settings = hub.read_config(weights, None, download)
        kind = transformers.MODEL_FOR_CAUSAL_LM_MAPPING.get(type(settings), None)
        if kind is None:
            raise ValueError(f"'{weights}' is a model of type {settings.model_type}: no causal language model")
        self.network = hub.build(kind, settings, weights, download).eval().requires_grad_(False)
        try:
            self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
                str(weights), local_files_only=not download, padding_side="left"
            )
        except OSError as error:
            raise ValueError(hub.absent(weights, "tokenizer of")) from error
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.max_new_tokens, self.batch_size = max_new_tokens, batch_size
        self.most_tokens = getattr(settings.get_text_config(), "max_position_embeddings", None)

    @torch.no_grad()
    def answer(self, chats: Sequence[Chat]) -> list[str]:
        """See `ChatModel.answer`."""
        answers = [""] * len(chats)
        written = [self._written(chat) for chat in chats]
        fitting = [k for k, ids in enumerate(written) if self._fits(len(ids))]
        if len(fitting) < len(chats):
            log.warning("%d of %d prompts are too long for the model", len(chats) - len(fitting), len(chats))
        order = sorted(fitting, key=lambda k: (len(written[k]), k))
        device = next(self.network.parameters()).device
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            inputs = self.tokenizer.pad({"input_ids": [written[k] for k in rows]}, return_tensors="pt").to(device)
            ids = self.network.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=self.max_new_tokens,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=self.tokenizer.pad_token_id,
            )
            new = self.tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            for k, text in zip(rows, new, strict=True):
                answers[k] = text.strip()
        return answers

    def _fits(self, tokens: int) -> bool:
        return self.most_tokens is None or tokens + self.max_new_tokens <= self.most_tokens

    def _written(self, chat: Chat) -> list[int]:
        """The token ids of a conversation, up to where the answer begins."""
        if self.tokenizer.chat_template is None:
            lines = [f"{m.role.capitalize()}: {m.text}" if m.role != "system" else m.text for m in chat]
            ids: list[int] = self.tokenizer("\n\n".join([*lines, "Assistant:"]))["input_ids"]
            return ids
        text = self._templated(chat)
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _templated(self, chat: Chat) -> str:
        from jinja2 import TemplateError

        def apply(turns: Sequence[Message]) -> str:
            messages = [{"role": turn.role, "content": turn.text} for turn in turns]
            text: str = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            return text

        try:
            return apply(chat)
        except TemplateError:  # how templates say that they know no system
            if chat[0].role != "system":
                raise
            first = Message("user", f"{chat[0].text}\n\n{chat[1].text}")
            return apply([first, *chat[2:]])
