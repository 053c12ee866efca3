"""Sentences from a decoder that predicts word after word: greedy, sampled or by beam search, many at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

# state of a decoder: tensors whose first dimension is (videos x beams)
State = tuple[Tensor, ...]
StepFunction = Callable[[Tensor, State], tuple[Tensor, State]]


class Sentences(NamedTuple):
    """One sentence per video.

    Attributes:
        words: ``(V, N)`` int64 ids, `end` after the last word.
        log_prob: ``(V,)`` float32, of the words and of the end where it was reached.
        lengths: ``(V,)`` int64, words without the end.
    """

    words: Tensor
    log_prob: Tensor
    lengths: Tensor


def _sentences(words: Tensor, log_prob: Tensor, end: int) -> Sentences:
    ended = (words == end).cumsum(1) > 0
    return Sentences(words.masked_fill(ended, end), log_prob, (~ended).sum(1))


def generate(
    step: StepFunction,
    state: State,
    max_length: int,
    sample: bool = False,
    temperature: float = 1.0,
    end: int = 0,
    generator: torch.Generator | None = None,
) -> Sentences:
    """The most probable word at each step, or a word drawn at random.

    Args:
        step: ``(words (V,), state)`` to logits ``(V, vocabulary)`` and the next state.
        state: of V videos before the first word.
        max_length: most words of a sentence.
        sample: draw each word from the distribution instead of taking the most probable.
        temperature: logits are divided by it before drawing.
        end: id that begins and ends every sentence.
        generator: of the draws.
    """
    rows, device = len(state[0]), state[0].device
    word = torch.full((rows,), end, dtype=torch.int64, device=device)
    done = torch.zeros(rows, dtype=torch.bool, device=device)
    log_prob = torch.zeros(rows, device=device)
    words = []
    for _ in range(max_length):
        logits, state = step(word, state)
        scores = logits.float().log_softmax(-1)
        if sample:
            drawn = (scores / temperature).softmax(-1)
            word = torch.multinomial(drawn, 1, generator=generator).squeeze(1)
        else:
            word = scores.argmax(-1)
        word = word.masked_fill(done, end)
        log_prob = log_prob + scores.gather(1, word[:, None]).squeeze(1).masked_fill(done, 0.0)
        words.append(word)
        done = done | (word == end)
        if bool(done.all()):
            break
    return _sentences(torch.stack(words, dim=1), log_prob, end)


def beam_search(
    step: StepFunction,
    state: State,
    max_length: int,
    beam_size: int,
    length_penalty: float = 0.0,
    end: int = 0,
    keep: Callable[[Tensor], None] | None = None,
) -> Sentences:
    """The best of `beam_size` sentences that are kept at every step, for all videos at once.

    A finished sentence stays in its beam with its log-probability. A video is settled when none of its unfinished
    sentences can become better than its best finished one.

    Args:
        step: as for `generate`, with V x beam_size rows; rows of one video are next to each other.
        state: of V videos before the first word.
        max_length: most words of a sentence.
        beam_size: sentences kept per video.
        length_penalty: the best sentence is the one with the greatest log-probability divided by its length (the
            end counts) to this power; 0 compares log-probabilities, as GVD does.
        end: id that begins and ends every sentence.
        keep: told, whenever half of the videos are settled, which of them go on, ``(v,)`` int64 of those before;
            `step` gets the rows of these alone from then on. None: all rows stay to the end.
    """
    rows, device = len(state[0]), state[0].device
    state = tuple(x.repeat_interleave(beam_size, 0) for x in state)
    answers = torch.full((rows, max_length), end, dtype=torch.int64, device=device)
    totals = torch.zeros(rows, device=device)
    video = torch.arange(rows, device=device)  # those that are searched
    words = torch.zeros(rows, beam_size, 0, dtype=torch.int64, device=device)
    word = torch.full((rows, beam_size), end, dtype=torch.int64, device=device)
    done = torch.zeros(rows, beam_size, dtype=torch.bool, device=device)
    log_prob = torch.full((rows, beam_size), -torch.inf, device=device)
    log_prob[:, 0] = 0.0  # all beams begin alike: only one of them may go on
    settled = torch.zeros(rows, dtype=torch.bool, device=device)
    for place in range(max_length):
        logits, state = step(word.flatten(), state)
        scores = logits.float().log_softmax(-1).unflatten(0, (-1, beam_size))
        vocabulary = scores.shape[-1]
        scores = scores.masked_fill(done[..., None], -torch.inf)
        scores[..., end] = scores[..., end].masked_fill(done, 0.0)
        total = (log_prob[..., None] + scores).flatten(1)
        log_prob, best = total.topk(beam_size)
        parent, word = best // vocabulary, best % vocabulary
        words = torch.cat([words.gather(1, parent[..., None].expand_as(words)), word[..., None]], dim=2)
        done = done.gather(1, parent) | (word == end)
        first_row = torch.arange(len(video), device=device)[:, None] * beam_size
        state = tuple(x[(first_row + parent).flatten()] for x in state)

        lengths = ((words == end).cumsum(2) == 0).sum(2) + 1
        value, best = (log_prob / lengths.float() ** length_penalty).max(1)
        hope = (log_prob / float(max_length + 1) ** length_penalty).masked_fill(done, -torch.inf).amax(1)
        now = (value > hope) & ~settled if place + 1 < max_length else ~settled
        answers[video[now], : place + 1] = words[now, best[now]]
        totals[video[now]] = log_prob[now, best[now]]
        settled = settled | now
        if bool(settled.all()):
            break
        if keep is not None and 2 * int(settled.sum()) >= len(settled):
            stay = (~settled).nonzero().squeeze(1)
            keep(stay)
            state = tuple(x.unflatten(0, (-1, beam_size))[stay].flatten(0, 1) for x in state)
            video, words, word, done, log_prob, settled = (
                x[stay] for x in (video, words, word, done, log_prob, settled)
            )
    return _sentences(answers, totals, end)
