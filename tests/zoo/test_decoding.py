"""Greedy, sampled and beam search on decoders whose best sentence is known."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from groundzoo.zoo.decoding import State, beam_search, generate

VOCABULARY, LENGTH = 5, 4


class Markov:
    """Logits depend on the video, the place and the word before: a table ``(videos, place, before, word)``."""

    def __init__(self, videos: int, seed: int, sharp: float = 1.5) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.table = sharp * torch.randn(videos, LENGTH, VOCABULARY, VOCABULARY, generator=generator)

    @property
    def begin(self) -> State:
        return (torch.arange(len(self.table)), torch.zeros(len(self.table), dtype=torch.int64))

    def step(self, word: Tensor, state: State) -> tuple[Tensor, State]:
        video, place = state
        return self.table[video, place, word], (video, place + 1)

    def log_prob(self, video: int, words: tuple[int, ...]) -> float:
        total, before = 0.0, 0
        for place, word in enumerate(words):
            total += self.table[video, place, before].log_softmax(-1)[word].item()
            before = word
            if word == 0:
                break
        return total


def sentences() -> set[tuple[int, ...]]:
    """All sentences: an end, then ends; or none within the limit."""
    every = set()
    for words in itertools.product(range(VOCABULARY), repeat=LENGTH):
        cut = words.index(0) if 0 in words else LENGTH
        every.add((*words[:cut], *([0] * (LENGTH - cut))))
    return every


def padded(words: Tensor) -> list[tuple[int, ...]]:
    return [tuple(row + [0] * (LENGTH - len(row))) for row in words.tolist()]


def test_greedy_takes_the_best_word_at_each_step() -> None:
    model = Markov(6, seed=0)
    found = generate(model.step, model.begin, LENGTH)
    for video, words in enumerate(padded(found.words)):
        before = 0
        for place, word in enumerate(words):
            assert word == model.table[video, place, before].argmax().item()
            before = word
            if word == 0:
                break
        assert found.log_prob[video].item() == pytest.approx(model.log_prob(video, words), abs=1e-5)
        assert found.lengths[video].item() == (words.index(0) if 0 in words else LENGTH)


@pytest.mark.parametrize("seed", range(5))
def test_a_wide_beam_finds_the_best_of_all_sentences(seed: int) -> None:
    model = Markov(4, seed)
    found = beam_search(model.step, model.begin, LENGTH, beam_size=VOCABULARY**LENGTH)
    for video, words in enumerate(padded(found.words)):
        best = max(sentences(), key=lambda s: model.log_prob(video, s))
        assert words == best
        assert found.log_prob[video].item() == pytest.approx(model.log_prob(video, best), abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_length_normalisation(seed: int) -> None:
    model = Markov(4, seed)
    found = beam_search(model.step, model.begin, LENGTH, VOCABULARY**LENGTH, length_penalty=1.0)

    def value(video: int, words: tuple[int, ...]) -> float:
        return model.log_prob(video, words) / ((words.index(0) if 0 in words else LENGTH) + 1)

    for video, words in enumerate(padded(found.words)):
        assert words == max(sentences(), key=lambda s: value(video, s))


def test_beam_search_is_never_worse_than_its_own_greedy_start_on_average() -> None:
    model = Markov(60, seed=3)
    greedy = generate(model.step, model.begin, LENGTH).log_prob
    narrow, wide = (beam_search(model.step, model.begin, LENGTH, k).log_prob for k in (1, 4))
    assert torch.allclose(narrow, greedy, atol=1e-5), "a beam of one is greedy"
    assert wide.mean() > greedy.mean()


@pytest.mark.parametrize("beam", [2, 3, 7])
def test_videos_do_not_see_each_other(beam: int) -> None:
    model = Markov(5, seed=1)
    together = beam_search(model.step, model.begin, LENGTH, beam)
    for video in range(5):
        alone = Markov(5, seed=1)
        state = tuple(x[video : video + 1] for x in alone.begin)
        found = beam_search(alone.step, state, LENGTH, beam)
        assert padded(found.words)[0] == padded(together.words)[video]
        assert found.log_prob[0].item() == pytest.approx(together.log_prob[video].item(), abs=1e-5)


def test_samples_follow_the_distribution() -> None:
    model = Markov(1, seed=2)
    model.table = model.table.expand(20_000, -1, -1, -1)
    found = generate(model.step, model.begin, LENGTH, sample=True, generator=torch.Generator().manual_seed(0))
    counts: dict[tuple[int, ...], int] = {}
    for words in padded(found.words):
        counts[words] = counts.get(words, 0) + 1
    for words in sentences():
        p = math.exp(model.log_prob(0, words))
        assert abs(counts.get(words, 0) / 20_000 - p) < 5 * math.sqrt(p * (1 - p) / 20_000) + 1e-4
    sharp = generate(model.step, model.begin, LENGTH, True, 1e-4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(sharp.words, generate(model.step, model.begin, LENGTH).words)


def test_log_probability_of_a_sample_is_that_of_its_words() -> None:
    model = Markov(30, seed=4)
    found = generate(model.step, model.begin, LENGTH, sample=True, generator=torch.Generator().manual_seed(1))
    for video, words in enumerate(padded(found.words)):
        assert found.log_prob[video].item() == pytest.approx(model.log_prob(video, words), abs=1e-4)
