"""Causal language models that read a video as tokens and answer with a sentence whose phrases can be found in it.

Any causal language model of Transformers, such as LLaMA (Touvron et al., arXiv:2302.13971) and Vicuna (Chiang et
al., 2023), Qwen2 (Yang et al., arXiv:2407.10671) or GPT-NeoX (Black et al., arXiv:2204.06745). Its use here is
that of GROVE (Kazakos et al., ICCV 2025, arXiv:2503.10781), which follows LISA (Lai et al., CVPR 2024): the state
that predicts a detection token asks a detector for the phrase before it. Low-rank updates: Hu et al., ICLR 2022.

Differs from the released program of GROVE: prompts are in our own words (`Prompt`); the number of visual tokens is
that of the input; a text that is too long loses the end of its answer, never of its question.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import hub
from .encoder import Encoder
from .text.chat import ChatTokenizer, Prompt
from .text.grounded_text import GroundedText
from .text.word_tokenizer import word_tokenizer_files, words_of
from .weights import CHECKPOINT, RANDOM, reproducible

WORDS = "words"
UNSEEN = -100  # label of a token that is not learned

DetState = Literal["predicts", "self"]


class Forced(NamedTuple):
    """A model's view of B given sentences with N phrases; M of these kept their detection token.

    Attributes:
        loss_sum: cross-entropy, summed over the tokens of all answers.
        tokens: () int64, how many these are.
        states: ``(M, D)`` float, one per detection token; clips in their order, phrases in theirs.
        kept: ``(N,)`` bool, False = the phrase was cut off with the end of a long answer. M are True.
    """

    loss_sum: Tensor
    tokens: Tensor
    states: Tensor
    kept: Tensor


class Answers(NamedTuple):
    """What a model says about B clips; M phrases of all of them.

    Attributes:
        texts: sentences with those phrases that have a detection token of their own.
        raw: what was said, with tags.
        scores: mean log-probability per token, the end included.
        states: ``(M, D)`` float, one per phrase; clips in their order, phrases in theirs.
    """

    texts: list[GroundedText]
    raw: list[str]
    scores: list[float]
    states: Tensor


class LanguageModel(Encoder):
    """A causal language model with tokens for grounded sentences.

    An input is ``... <vid_start> visual tokens <vid_end> question`` and the answer of `write_answer`, closed by
    the model's own end of text. The words around a video are `prompt`'s, in the tokenizer's chat template, or in
    Vicuna's form where it has none.

    Args:
        weights: a local folder, or a name on the Hub that is in the local cache; `random` and `checkpoint` need
            `config` and `tokenizer`.
        tokenizer: a folder or a name on the Hub with the tokenizer's files, or these as ``{name: text}``; `words`
            makes one of the words of the training captions. None takes it from `weights`.
        train: what is trained. `embeddings`: of tokens, and the output layer, with all other layers frozen (the
            paper); `lora`: these, and low-rank updates of the layers (needs peft); `all`; `none`.
        det_state: which state belongs to a detection token: the one that predicts it (the paper), or its own.
        max_length: most tokens of prompt, video and answer together; never more than the model has positions.
        frozen_dtype: of parameters that are not trained; trained ones are always float32.
        gradient_checkpointing: compute activations twice in training instead of keeping them.
        lora_rank: rank of the updates.
        lora_alpha: they are scaled by ``lora_alpha / lora_rank``.
        lora_dropout: on what they read.
        prompt: the words around a video; None takes ours.
        config: the contents of a ``config.json``, to build the network without files.
        download: fetch `weights` and `tokenizer` from the Hub if they are not on this machine.

    Attributes:
        dim: width D of visual tokens and of states.
        max_length: as above.

    Raises:
        ImportError: `lora` without peft.
        ValueError: weights or tokenizer are not on this machine or do not belong together, or the model writes no
            text.
    """

    def __init__(
        self,
        weights: str | Path,
        tokenizer: str | Path | dict[str, str] | None = None,
        train: Literal["embeddings", "lora", "all", "none"] = "embeddings",
        det_state: DetState = "predicts",
        max_length: int = 1536,
        frozen_dtype: Literal["float32", "bfloat16"] = "float32",
        gradient_checkpointing: bool = False,
        lora_rank: int = 8,
        lora_alpha: float = 16.0,
        lora_dropout: float = 0.05,
        prompt: Prompt | None = None,
        config: dict[str, Any] | None = None,
        download: bool = False,
    ) -> None:
        super().__init__(train != "none")
        import transformers

        if tokenizer is None and weights in (RANDOM, CHECKPOINT):
            raise ValueError(f"weights: {weights} come without a vocabulary: give `tokenizer` as well")
        settings = hub.read_config(weights, config, download)
        kind = transformers.MODEL_FOR_CAUSAL_LM_MAPPING.get(type(settings), None)
        if kind is None:
            raise ValueError(f"'{weights}' is a model of type {settings.model_type}, which writes no text")
        self._dtype = torch.float32 if train == "all" else getattr(torch, frozen_dtype)
        self.network = hub.build(kind, settings, weights, download, self._dtype)
        self.trains, self.det_state, self.prompt = train, det_state, prompt or Prompt()
        self.dim: int = self.network.get_input_embeddings().embedding_dim
        self.max_length = min(max_length, getattr(settings, "max_position_embeddings", None) or max_length)
        if train == "lora":
            _add_lora(self.network, lora_rank, lora_alpha, lora_dropout)
        hub.checkpoint_activations(self.network, gradient_checkpointing)
        self._words: list[str] | None = None
        self._tokenizer: ChatTokenizer | None = None
        self._casts: list[Any] = []
        self._own_words = tokenizer == WORDS
        if not self._own_words:
            source = str(weights) if tokenizer is None else tokenizer
            self._take(ChatTokenizer(source, settings.vocab_size, self.prompt, download))
        self.freeze_unless_trainable()

    # ---- words ------------------------------------------------------------------------------------------

    @property
    def tokenizer(self) -> ChatTokenizer:
        """The tokenizer.

        Raises:
            RuntimeError: it is made of training captions, and has not seen them yet.
        """
        if self._tokenizer is None:
            raise RuntimeError("this model has no words yet: fit_vocabulary or load a checkpoint first")
        return self._tokenizer

    @property
    def vocabulary(self) -> list[str] | None:
        """Words that were fitted; None before, and where the model brings its own tokenizer."""
        return self._words

    def fit_vocabulary(self, texts: Iterable[GroundedText]) -> None:
        """Collect the words of training captions; nothing to do where the model brings its own tokenizer."""
        if self._own_words:
            self.set_vocabulary(words_of([*self.prompt.texts, *(caption.text for caption in texts)]))

    def set_vocabulary(self, words: Sequence[str]) -> None:
        """Take over stored words; must come before loading weights."""
        files = word_tokenizer_files(words)
        self._words = list(words)
        self._take(ChatTokenizer(files, len(words) + 3, self.prompt))
        self.freeze_unless_trainable()

    def _take(self, tokenizer: ChatTokenizer) -> None:
        """Fit the tables of embeddings to a tokenizer, and make the model speak greedily."""
        from transformers import GenerationConfig

        self._tokenizer, network = tokenizer, self.network
        rows = network.get_input_embeddings().num_embeddings
        if len(tokenizer) > rows or (self._own_words and len(tokenizer) != rows):
            with reproducible():
                network.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        network.generation_config = GenerationConfig(
            do_sample=False, use_cache=True, eos_token_id=tokenizer.end, pad_token_id=tokenizer.pad
        )
        for parameter in self.learned_parameters():
            parameter.data = parameter.data.float()
        for handle in self._casts:
            handle.remove()
        self._casts = []
        if self.trainable and self._dtype != torch.float32:  # tables in float32 around layers that are not
            table, head = network.get_input_embeddings(), network.get_output_embeddings()
            self._casts = [
                table.register_forward_hook(partial(_cast_output, self._dtype)),
                head.register_forward_pre_hook(_cast_input),
            ]

    # ---- what is trained --------------------------------------------------------------------------------

    def learned_parameters(self) -> list[nn.Parameter]:
        """The parameters that `train` names; see `Encoder.learned_parameters`."""
        if self.trains == "none":
            return []
        if self.trains == "all":
            return list(self.network.parameters())
        tables = (self.network.get_input_embeddings(), self.network.get_output_embeddings())
        learned = [p for table in tables for p in table.parameters()]
        learned += [p for name, p in self.network.named_parameters() if "lora_" in name]
        return list({id(p): p for p in learned}.values())  # tables may be tied

    def rebuild_arguments(self) -> dict[str, Any]:
        """Configuration and tokenizer, which stand in for the files; see `Encoder.rebuild_arguments`."""
        kept: dict[str, Any] = {"config": hub.plain_config(self.network.config), "download": False}
        kept["tokenizer"] = WORDS if self._own_words else self.tokenizer.files
        return super().rebuild_arguments() | kept

    # ---- given sentences --------------------------------------------------------------------------------

    def teacher_forced(
        self, visual: Tensor, captions: Sequence[GroundedText], draw_question: bool = False, given: bool = False
    ) -> Forced:
        """How likely given sentences are, and the states of their detection tokens.

        Args:
            visual: ``(B, V, D)`` visual tokens.
            captions: B sentences; those without phrases, and empty ones, are answers as well.
            draw_question: draw one of the questions for each clip, by PyTorch's own generator; else the first.
            given: ask for the boxes of a sentence that is given.

        Raises:
            ValueError: the question and the video leave no room for an answer.
        """
        tokenizer = self.tokenizer
        wordings = len(self.prompt.given_questions if given else self.prompt.questions)
        drawn = torch.randint(wordings, (len(captions),)).tolist() if draw_question else [0] * len(captions)
        prompts = [tokenizer.question(number, given) for number in drawn]
        answers = [
            tokenizer.answer(caption)[: self._room(ids, visual)]
            for caption, (ids, _) in zip(captions, prompts, strict=True)
        ]
        kept = [
            k < answer.count(tokenizer.detection)
            for caption, answer in zip(captions, answers, strict=True)
            for k in range(len(caption.spans))
        ]
        loss_sum, tokens, states = self._forced(visual, prompts, answers)
        return Forced(loss_sum, tokens, states, torch.tensor(kept, dtype=torch.bool, device=states.device))

    def _room(self, question: list[int], visual: Tensor) -> int:
        """Most tokens of an answer."""
        taken = len(question) + visual.shape[1]
        if taken >= self.max_length:
            raise ValueError(
                f"the question has {len(question)} tokens and the video {visual.shape[1]}: with max_length="
                f"{self.max_length} there is no room for an answer; raise it, or give fewer visual tokens"
            )
        return self.max_length - taken

    def _forced(
        self, visual: Tensor, prompts: Sequence[tuple[list[int], int]], answers: Sequence[list[int]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Cross-entropy, number of tokens and states of the detection tokens of answers."""
        texts = [ids + answer for (ids, _), answer in zip(prompts, answers, strict=True)]
        asked = torch.tensor([len(ids) for ids, _ in prompts], device=visual.device)
        ids, mask = self._padded(texts, visual.device)
        inputs, seen = self._spliced(visual, ids, mask, prompts[0][1])
        place = torch.arange(ids.shape[1], device=ids.device)
        labels = ids.masked_fill(~mask | (place < asked[:, None]), UNSEEN)
        last = ids.shape[1] - min(len(ids) for ids, _ in prompts) + 1  # from the first that predicts an answer
        with self._final_states() as states:
            out = self.network(inputs_embeds=inputs, attention_mask=seen, logits_to_keep=last, use_cache=False)
        logits, labels = out.logits[:, -last:], labels[:, -last:]
        told = labels[:, 1:].flatten()
        loss_sum = F.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(), told, ignore_index=UNSEEN, reduction="sum"
        )
        found = det_states(states[0][:, -last:].float(), labels == self.tokenizer.detection, self.det_state)
        return loss_sum, (told != UNSEEN).sum(), found

    def _padded(self, texts: Sequence[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
        """Ids ``(B, L)`` and which of them are not padding; that is on the right."""
        longest = max(map(len, texts))
        ids = [text + [self.tokenizer.pad] * (longest - len(text)) for text in texts]
        lengths = torch.tensor([len(text) for text in texts], device=device)
        return torch.tensor(ids, device=device), torch.arange(longest, device=device) < lengths[:, None]

    def _spliced(self, visual: Tensor, ids: Tensor, mask: Tensor, before: int) -> tuple[Tensor, Tensor]:
        """Embeddings ``(B, L + V, D)`` with the video behind the first `before` tokens, and their mask."""
        if visual.shape[0] != len(ids) or visual.shape[2] != self.dim:
            raise ValueError(f"visual tokens {tuple(visual.shape)} should be ({len(ids)}, V, {self.dim})")
        words = self.network.get_input_embeddings()(ids)
        inputs = torch.cat([words[:, :before], visual.to(words.dtype), words[:, before:]], dim=1)
        return inputs, F.pad(mask, (visual.shape[1], 0), value=True).long()

    @contextmanager
    def _final_states(self) -> Iterator[list[Tensor]]:
        """What the output layer reads meanwhile, call by call: the last states, after the last norm."""
        states: list[Tensor] = []

        def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            states.append(inputs[0])

        handle = self.network.get_output_embeddings().register_forward_pre_hook(keep)
        try:
            yield states
        finally:
            handle.remove()

    # ---- sentences of its own ---------------------------------------------------------------------------

    @torch.no_grad()
    def answer(self, visual: Tensor, max_new_tokens: int = 64) -> Answers:
        """Say what is to be seen, word by word the likeliest; for evaluation mode.

        All prompts are equally long, so that there is no padding before answers; those that end early are filled
        up behind their end. With `det_state` `self`, a detection token that is the very last of `max_new_tokens`
        has no state, and its phrase is dropped.

        Args:
            visual: ``(B, V, D)`` visual tokens.
            max_new_tokens: most tokens of an answer.

        Raises:
            ValueError: the question and the video leave no room for an answer.
        """
        tokenizer = self.tokenizer
        question, before = tokenizer.question()
        most = min(max_new_tokens, self._room(question, visual))
        inputs, mask = self._spliced(visual, *self._padded([question] * len(visual), visual.device), before)
        with self._final_states() as steps:
            out = self.network.generate(
                inputs_embeds=inputs,
                attention_mask=mask,
                max_new_tokens=most + (self.det_state == "self"),  # also the last token is to be read once
                output_logits=True,
                return_dict_in_generate=True,
            )
        ids = out.sequences[:, :most]
        ended = ids == tokenizer.end
        said = ended.cumsum(1) - ended.long() == 0  # up to the end and with it
        logits = torch.stack(out.logits[:most], dim=1).float()
        chances = logits.log_softmax(-1).gather(-1, ids[..., None]).squeeze(-1)
        scores = (chances * said).sum(1) / said.sum(1)
        rows = [row[keep].tolist() for row, keep in zip(ids, said & ~ended, strict=True)]
        texts, own = zip(*(self._read(row) for row in rows), strict=True)
        states = F.pad(torch.stack([step[:, -1] for step in steps], dim=1).float(), (0, 0, 0, 1))
        is_det = F.pad(said & (ids == tokenizer.detection), (1, 0))  # states begin before the first token
        found = det_states(states[:, : is_det.shape[1]], is_det, self.det_state)
        paired = torch.tensor([keep for row in own for keep in row], dtype=torch.bool, device=found.device)
        return Answers(list(texts), [tokenizer.text(row) for row in rows], scores.tolist(), found[paired])

    def _read(self, ids: list[int]) -> tuple[GroundedText, list[bool]]:
        """A sentence, and for each of its detection tokens whether it has a phrase."""
        read, count = self.tokenizer.read(ids), ids.count(self.tokenizer.detection)
        if read.detections != count:  # spelt out in letters, which leaves it open what belongs to what
            return GroundedText(read.text.text), [False] * count
        return read.text, [k in read.tokens for k in range(count)]


def det_states(states: Tensor, is_det: Tensor, which: DetState) -> Tensor:
    """The states that belong to detection tokens; row by row, in their order.

    Args:
        states: ``(B, L, D)``.
        is_det: ``(B, L)`` bool, True = a detection token, whose own state stands there.
        which: `predicts`, the state one position before; `self`, its own.
    """
    return states[F.pad(is_det[:, 1:], (0, 1)) if which == "predicts" else is_det]


def _cast_output(dtype: torch.dtype, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return output.to(dtype)


def _cast_input(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    dtype: Any = module.weight.dtype
    return (inputs[0].to(dtype), *inputs[1:])


def _add_lora(network: nn.Module, rank: int, alpha: float, dropout: float) -> None:
    """Low-rank updates of the layers that are usual for the type of model: of LLaMA, queries and values."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ImportError("train: lora needs the package peft: pip install 'groundzoo[lora]'") from error
    with reproducible():
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout), network)
