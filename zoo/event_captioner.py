"""CMG-HRNN: one sentence for every event of a video, told in order.

Hierarchical captioner with cross-modal gating of Dense-Captioning Events in Videos: SYSU Submission to ActivityNet
Challenge 2020. Teng Wang, Huicheng Zheng, Mingjing Yu. arXiv:2006.11693, with the authors'
github.com/ttengwang/dense-video-captioning-pytorch.

A sentence LSTM runs over the events. Its input at an event is what was said before (a, from the word LSTM's last
state in the sentence before) and what is to be seen (v, from the event), weighed against each other by a gate. Its
state begins the word LSTM, which looks at the event's clips by additive attention before every word.

Every word needs the word before, and every sentence the end of the sentence before: the steps (events x words) are
a chain, only the videos of a batch are computed side by side.

Differs from the released program, which tells one video at a time:

- It takes the sentence LSTM's *cell* for its hidden state where the word LSTM begins: `begin_from`.
- It passes the sentence before on in training, but loses it in decoding: the loop over words is left before the
  state is kept, so that zeros are passed. `carry_decoded` = False does so. Here the state that was reached at the
  last prediction (of the end or, at the greatest length, of a word) is passed on in training and decoding alike.
- It takes softmax over all clips, masks and divides by the sum + 1e-6; here the masked softmax is taken at once:
  equal within 1e-4. The bias of the attention's scores, which softmax cancels, is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .event_encoder import EventMemory


@dataclass(frozen=True)
class CaptionerOptions:
    """Widths and variants; widths are the released program's defaults.

    Attributes:
        dim: width of both LSTMs and of what the gate weighs.
        word_dim: width of word embeddings.
        attention_dim: width of the attention's hidden layer.
        dropout: before the gate and before the output layer.
        event_input: the word LSTM gets the event's vector beside the attended clip ("C+E"), not the clip alone
            ("C").
        begin_from: state of the sentence LSTM that the word LSTM begins with; the released program takes the cell.
        carry_decoded: in decoding, too, the next sentence knows the sentence before; not so in the released
            program.
    """

    dim: int = 512
    word_dim: int = 512
    attention_dim: int = 512
    dropout: float = 0.5
    event_input: bool = False
    begin_from: Literal["hidden", "cell"] = "hidden"
    carry_decoded: bool = True


class EventSentences(NamedTuple):
    """One sentence per event; V videos, E events, N steps.

    Attributes:
        words: ``(V, E, N)`` int64 ids; 0 behind the last word and at padding.
        log_prob: ``(V, E, N)`` float32, of every word and of the end where it was reached; 0 behind.
        lengths: ``(V, E)`` int64, words without the end.
    """

    words: Tensor
    log_prob: Tensor
    lengths: Tensor


class _View(NamedTuple):
    """What the word LSTM sees of one event in R videos: its L clips, their keys and mask; the event."""

    clips: Tensor
    keys: Tensor
    mask: Tensor
    event: Tensor


# Says the sentences of event k in the videos `rows`: (k, rows, view, first state) -> last states (R, dim).
Speaker = Callable[[int, Tensor, _View, Tensor], Tensor]


class EventCaptioner(nn.Module):
    """The captioner on encoded events (`EventMemory`, which the methods take field by field).

    Word ids: 0 begins, ends and fills up; words are 1 to vocabulary - 1.

    Args:
        clip_dim: width of clips.
        event_dim: width of events.
        vocabulary: number of words, the end included.
        options: widths and variants.
    """

    def __init__(
        self, clip_dim: int, event_dim: int, vocabulary: int = 2, options: CaptionerOptions | None = None
    ) -> None:
        super().__init__()
        o = self.options = options or CaptionerOptions()
        self.said = nn.Linear(o.dim, o.dim)
        self.seen = nn.Linear(event_dim, o.dim)
        self.gate = nn.Linear(3 * o.dim, o.dim)
        self.sentence_lstm = nn.LSTMCell(2 * o.dim, o.dim, bias=False)
        self.begin = nn.Linear(o.dim, o.dim)
        self.key = nn.Linear(clip_dim, o.attention_dim)
        self.query = nn.Linear(o.dim, o.attention_dim)
        self.score = nn.Linear(o.attention_dim, 1, bias=False)
        width = o.word_dim + clip_dim + (event_dim if o.event_input else 0)
        self.word_lstm = nn.LSTMCell(width, o.dim, bias=False)
        self.dropout = nn.Dropout(o.dropout)
        self.set_vocabulary(vocabulary)

    def set_vocabulary(self, size: int) -> None:
        """Make embeddings and output layer anew for a vocabulary, uniform in [-0.1, 0.1] as released."""
        device = self.gate.weight.device
        self.embedding = nn.Embedding(size, self.options.word_dim, device=device)
        self.head = nn.Linear(self.options.dim, size, device=device)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        nn.init.uniform_(self.head.weight, -0.1, 0.1)
        nn.init.zeros_(self.head.bias)

    # ---- given sentences --------------------------------------------------------------------------------

    def forward(
        self, clips: Tensor, event_clips: Tensor, events: Tensor, event_mask: Tensor, words: Tensor
    ) -> Tensor:
        """Predict every word from the words before it.

        Args:
            clips: ``(V, T, clip_dim)``.
            event_clips: ``(V, E, T)`` bool, clips of each event.
            events: ``(V, E, event_dim)``.
            event_mask: ``(V, E)`` bool.
            words: ``(V, E, N)`` int64, the words *before* each step; the first is 0, as is padding at the end.

        Returns:
            Logits ``(V, E, N, vocabulary)``; zeros behind the step after the last word, and at padding events.
        """
        hidden, real = self._follow(EventMemory(clips, event_clips, events, event_mask), words, True)
        return _placed(self.head(self.dropout(hidden)), real)

    def log_probs(
        self,
        clips: Tensor,
        event_clips: Tensor,
        events: Tensor,
        event_mask: Tensor,
        words: Tensor,
        carry: bool = True,
    ) -> Tensor:
        """Log-probabilities of given sentences, the same as `generate` gives for its own (apart from dropout).

        Needs less memory than `forward`: only words that are there are scored.

        Args:
            clips: see `forward`.
            event_clips: see `forward`.
            events: see `forward`.
            event_mask: see `forward`.
            words: ``(V, E, N)`` int64, the words *at* each step, with one end (0) and 0 behind it.
            carry: the next sentence knows the sentence before. For sentences of `generate`, the option
                `carry_decoded`.

        Returns:
            ``(V, E, N)`` float32, of the words and the end; 0 behind and at padding events.
        """
        before = F.pad(words, (1, 0))[..., :-1]
        hidden, real = self._follow(EventMemory(clips, event_clips, events, event_mask), before, carry)
        scores = self.head(self.dropout(hidden)).float().log_softmax(-1)
        return _placed(scores.gather(1, words.transpose(0, 1)[real.transpose(0, 1)][:, None]).squeeze(1), real)

    def _follow(self, memory: EventMemory, words: Tensor, carry: bool) -> tuple[Tensor, Tensor]:
        """States of the word LSTM at the n steps that predict something, by event, video and step; and which.

        Returns:
            ``(n, dim)`` and ``(V, E, N)`` bool.
        """
        last = (words > 0).sum(-1)  # step of the last prediction
        real = (torch.arange(words.shape[2], device=words.device) <= last[..., None]) & memory.event_mask[
            ..., None
        ]
        steps = real.any(0).sum(-1).tolist()
        hidden = [memory.events.new_zeros(0, self.options.dim)]

        def speak(k: int, rows: Tensor, view: _View, h: Tensor) -> Tensor:
            embedded, c, states = self.embedding(words[rows, k, : steps[k]]), h, []
            for word in embedded.unbind(1):
                h, c = self._step(view, word, h, c)
                states.append(h)
            all_states = torch.stack(states, dim=1)
            hidden.append(all_states[real[rows, k, : steps[k]]])
            final = all_states[torch.arange(len(rows), device=rows.device), last[rows, k]]
            return final if carry else torch.zeros_like(final)

        self._tell(memory, speak)
        return torch.cat(hidden), real

    # ---- sentences of its own ---------------------------------------------------------------------------

    def generate(
        self,
        clips: Tensor,
        event_clips: Tensor,
        events: Tensor,
        event_mask: Tensor,
        max_length: int,
        sample: bool = False,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> EventSentences:
        """The most probable word at each step, or a word drawn at random.

        Where gradients are enabled, log-probabilities have one.

        Args:
            clips: see `forward`.
            event_clips: see `forward`.
            events: see `forward`.
            event_mask: see `forward`.
            max_length: most words of a sentence.
            sample: draw each word from the distribution instead of taking the most probable.
            temperature: logits are divided by it before drawing; above 0.
            generator: of the draws.
        """
        memory = EventMemory(clips, event_clips, events, event_mask)
        words = torch.zeros(*event_mask.shape, max_length, dtype=torch.int64, device=clips.device)
        log_prob = torch.zeros(words.shape, device=clips.device)
        steps = 1

        def speak(k: int, rows: Tensor, view: _View, h: Tensor) -> Tensor:
            nonlocal steps
            word = rows.new_zeros(len(rows))
            done, c, final, found, scored = word > 0, h, h, [], []
            for _ in range(max_length):
                h, c = self._step(view, self.embedding(word), h, c)
                final = torch.where(done[:, None], final, h)
                scores = self.head(self.dropout(h)).float().log_softmax(-1)
                if sample:
                    drawn = (scores.detach() / temperature).softmax(-1)
                    word = torch.multinomial(drawn, 1, generator=generator).squeeze(1)
                else:
                    word = scores.argmax(-1)
                word = word.masked_fill(done, 0)
                found.append(word)
                scored.append(scores.gather(1, word[:, None]).squeeze(1).masked_fill(done, 0.0))
                done = done | (word == 0)
                if bool(done.all()):
                    break
            words[rows, k, : len(found)] = torch.stack(found, dim=1)
            log_prob[rows, k, : len(found)] = torch.stack(scored, dim=1)
            steps = max(steps, len(found))
            return final if self.options.carry_decoded else torch.zeros_like(final)

        self._tell(memory, speak)
        return EventSentences(words[..., :steps], log_prob[..., :steps], (words > 0).sum(-1))

    # ---- both -------------------------------------------------------------------------------------------

    def _tell(self, memory: EventMemory, speak: Speaker) -> None:
        """Run the sentence LSTM over the events; at each, `speak` tells it in the videos that have one."""
        clips, keys = memory.clips, self.key(memory.clips)
        # clips of an event first, so that nobody looks at the rest of the video
        inside, order = memory.event_clips.int().sort(dim=-1, descending=True, stable=True)
        longest = memory.event_clips.sum(-1).amax(0).tolist()
        state = [clips.new_zeros(len(clips), self.options.dim) for _ in range(3)]  # hidden, cell, sentence before
        for k, length in enumerate(longest):
            rows = memory.event_mask[:, k].nonzero().squeeze(1)
            if not len(rows):
                continue
            h, c, before = (x[rows] for x in state)
            event, place = memory.events[rows, k], order[rows, k, :length]
            said, seen = self.said(before).tanh(), self.seen(event).tanh()
            gate = self.gate(self.dropout(torch.cat([h, said, seen], dim=-1))).sigmoid()
            h, c = self.sentence_lstm(torch.cat([gate * said, (1 - gate) * seen], dim=-1), (h, c))
            first = self.begin(c if self.options.begin_from == "cell" else h)
            view = _View(
                clips[rows[:, None], place], keys[rows[:, None], place], inside[rows, k, :length] > 0, event
            )
            now = (h, c, speak(k, rows, view, first))
            state = [x.index_copy(0, rows, y.to(x.dtype)) for x, y in zip(state, now, strict=True)]

    def _step(self, view: _View, embedded: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """One word: look at the clips, then move on from the word before ``(R, word_dim)``."""
        logits = self.score((view.keys + self.query(h)[:, None]).tanh()).squeeze(-1).float()
        weights = logits.masked_fill(~view.mask, torch.finfo(torch.float32).min).softmax(-1)
        attended = (weights.to(view.clips.dtype)[:, None] @ view.clips).squeeze(1)
        given = [embedded, view.event, attended] if self.options.event_input else [embedded, attended]
        h, c = self.word_lstm(torch.cat(given, dim=-1), (h, c))
        return h, c


def _placed(values: Tensor, real: Tensor) -> Tensor:
    """Values ``(n, ...)`` of the True places of ``(V, E, N)``, by event, video and step, in ``(V, E, N, ...)``."""
    places = real.transpose(0, 1)
    table = values.new_zeros(*places.shape, *values.shape[1:])
    table[places] = values
    return table.transpose(0, 1)
