"""Sentences of a captioner that tells the events of a video in order."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from groundzoo.zoo.event_captioner import CaptionerOptions, EventCaptioner, EventSentences
from groundzoo.zoo.event_encoder import EventMemory

CLIP, EVENT, VOCABULARY, LENGTH = 5, 11, 6, 7
CLIPS, EVENTS = [8, 4, 6], [2, 4, 3]
OPTIONS = CaptionerOptions(dim=12, word_dim=6, attention_dim=10)


def memory(seed: int = 0) -> EventMemory:
    """Three videos; events are runs of clips, some of one clip."""
    generator = torch.Generator().manual_seed(seed)
    n = torch.tensor(CLIPS)[:, None]
    clip_mask = torch.arange(max(CLIPS)) < n
    event_mask = torch.arange(max(EVENTS)) < torch.tensor(EVENTS)[:, None]
    ends = (torch.rand(3, max(EVENTS), 2, generator=generator).sort(-1).values * n[..., None]).long()
    place = torch.arange(max(CLIPS))
    inside = (place >= ends[..., :1]) & (place <= ends[..., 1:]) & event_mask[..., None]
    clips = torch.randn(3, max(CLIPS), CLIP, generator=generator) * clip_mask[..., None]
    events = torch.randn(3, max(EVENTS), EVENT, generator=generator) * event_mask[..., None]
    return EventMemory(clips, inside, events, event_mask)


def captioner(**changes: object) -> EventCaptioner:
    """In evaluation; weights are large, so that what matters is seen."""
    torch.manual_seed(3)
    options = dataclasses.replace(OPTIONS, **changes)  # type: ignore[arg-type]
    model = EventCaptioner(CLIP, EVENT, VOCABULARY, options).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2.5)
        model.embedding.weight.mul_(4)
        model.head.weight.mul_(4)
    return model


def alone(m: EventMemory, v: int) -> EventMemory:
    t, e = CLIPS[v], EVENTS[v]
    return EventMemory(
        m.clips[v : v + 1, :t],
        m.event_clips[v : v + 1, :e, :t],
        m.events[v : v + 1, :e],
        m.event_mask[v : v + 1, :e],
    )


def given(seed: int = 5) -> Tensor:
    """Targets ``(3, 4, LENGTH)``: sentences of 0 to LENGTH words, the longest without an end."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(1, VOCABULARY, (3, max(EVENTS), LENGTH), generator=generator)
    lengths = torch.randint(1, LENGTH, (3, max(EVENTS), 1), generator=generator)
    lengths[0, 0], lengths[2, 1] = LENGTH, 0
    return words.masked_fill(torch.arange(LENGTH) >= lengths, 0)


def before(words: Tensor) -> Tensor:
    return F.pad(words, (1, 0))[..., :-1]


def predicted(words: Tensor, event_mask: Tensor) -> Tensor:
    """Places with something to predict: words and one end."""
    return (before(words) > 0).long().cumsum(-1).eq(torch.arange(words.shape[-1])) & event_mask[..., None]


def said(
    model: EventCaptioner, m: EventMemory, sample: bool = False, seed: int = 0, **more: float
) -> EventSentences:
    generator = torch.Generator().manual_seed(seed)
    return model.generate(*m, LENGTH, sample=sample, generator=generator, **more)


# ---- a batch is its videos ------------------------------------------------------------------------------


@pytest.mark.parametrize("event_input", [False, True])
def test_a_batch_is_its_videos(event_input: bool) -> None:
    """Neither other videos nor padding of clips, events and words change anything."""
    model, m, words = captioner(event_input=event_input), memory(), given()
    logits, own = model(*m, before(words)), said(model, m)
    scores = model.log_probs(*m, words)
    assert logits.shape == (3, 4, LENGTH, VOCABULARY)
    for v in range(3):
        one, its = alone(m, v), words[v : v + 1, : EVENTS[v]]
        longest = min(int((its > 0).sum(-1).max()) + 1, LENGTH)
        its = its[..., :longest]
        torch.testing.assert_close(logits[v, : EVENTS[v], :longest], model(*one, before(its))[0])
        torch.testing.assert_close(scores[v, : EVENTS[v], :longest], model.log_probs(*one, its)[0])
        single = said(model, one)
        steps = single.words.shape[2]
        assert torch.equal(own.words[v, : EVENTS[v], :steps], single.words[0])
        torch.testing.assert_close(own.log_prob[v, : EVENTS[v], :steps], single.log_prob[0])
        assert torch.equal(own.lengths[v, : EVENTS[v]], single.lengths[0])
        assert not own.words[v, EVENTS[v] :].any()
        assert not own.log_prob[v, EVENTS[v] :].any()
        assert not own.words[v, :, steps:].any()


def test_padding_is_never_read() -> None:
    model, m, words = captioner(event_input=True), memory(), given()
    lit = m.event_clips.any(1)
    dirty = EventMemory(
        torch.where(lit[..., None], m.clips, 9.0),
        m.event_clips,
        torch.where(m.event_mask[..., None], m.events, 9.0),
        m.event_mask,
    )
    noisy = torch.where(m.event_mask[..., None], words, 3)
    torch.testing.assert_close(model(*dirty, before(noisy)), model(*m, before(words)))
    found, expected = said(model, dirty), said(model, m)
    assert torch.equal(found.words, expected.words)
    torch.testing.assert_close(found.log_prob, expected.log_prob)


def test_no_events_at_all() -> None:
    model, m = captioner(), memory()
    empty = m._replace(event_mask=torch.zeros_like(m.event_mask))
    assert not model.log_probs(*empty, given()).any()
    assert not said(model, empty).words.any()


def test_an_event_without_clips_is_finite() -> None:
    model, m = captioner(), memory()
    blind = m._replace(event_clips=torch.zeros_like(m.event_clips))
    assert model(*blind, before(given())).isfinite().all()
    assert said(model, blind).log_prob.isfinite().all()


# ---- given sentences ------------------------------------------------------------------------------------


def test_log_probs_are_those_of_the_logits() -> None:
    model, m, words = captioner(), memory(), given()
    scores, logits = model.log_probs(*m, words), model(*m, before(words))
    real = predicted(words, m.event_mask)
    expected = logits.log_softmax(-1).gather(-1, words[..., None]).squeeze(-1)
    torch.testing.assert_close(scores, expected * real)
    assert torch.equal(scores != 0, real)
    assert torch.equal(logits.any(-1), real)


@pytest.mark.parametrize("sample", [False, True])
@pytest.mark.parametrize("carry", [False, True])
@pytest.mark.parametrize("begin_from", ["hidden", "cell"])
def test_own_sentences_have_the_log_probs_they_were_told_with(sample: bool, carry: bool, begin_from: str) -> None:
    model, m = captioner(carry_decoded=carry, begin_from=begin_from), memory()
    ended = cut = 0
    for seed in range(4):
        own = said(model, m, sample, seed)
        torch.testing.assert_close(model.log_probs(*m, own.words, carry=carry), own.log_prob)
        assert torch.equal(own.log_prob != 0, predicted(own.words, m.event_mask))
        cut += int((own.lengths == LENGTH).sum())
        ended += int((own.lengths[m.event_mask] < LENGTH).sum())
    assert ended, "no sentence ended"
    assert cut or not sample, "no sentence was cut"


def test_a_word_knows_what_was_said_before_it_and_nothing_later() -> None:
    model, m, words = captioner(), memory(), given()
    words[1] = words[1].clamp(min=1)  # no ends
    expected = model(*m, before(words))[1]
    changed = words.clone()
    changed[1, 1, 3] = changed[1, 1, 3] % (VOCABULARY - 1) + 1
    found = model(*m, before(changed))[1]
    torch.testing.assert_close(found[0], expected[0])
    torch.testing.assert_close(found[1, :4], expected[1, :4])
    differs = (found - expected).abs().amax(-1)
    assert (differs[1, 4:] > 1e-6).all()
    assert (differs[2:] > 1e-6).all()


def test_words_behind_the_end_are_never_read() -> None:
    """Neither by the sentence nor by the next one, which knows the state at the end."""
    model, m, words = captioner(), memory(), given()
    assert ((words > 0).sum(-1) < LENGTH)[1].all(), "sentences of video 1 all end"
    found, expected = model.log_probs(*m, F.pad(words, (0, 3))), model.log_probs(*m, words)
    torch.testing.assert_close(found[1, :, :LENGTH], expected[1])
    assert not found[1, :, LENGTH:].any()


def test_only_the_clips_of_the_event_are_looked_at() -> None:
    model, m, words = captioner(), memory(), given()
    clips = m.clips.clone().requires_grad_()
    for e in range(EVENTS[1]):
        logits = model(*m._replace(clips=clips), before(words))[1]
        (grad,) = torch.autograd.grad(logits[e].pow(2).sum(), clips)
        seen = m.event_clips[1, : e + 1].any(0)  # and those of the events before
        assert torch.equal(grad[1].any(-1), seen)
        assert not grad[0].any()


@pytest.mark.parametrize("event_input", [False, True])
def test_the_word_lstm_may_get_the_event(event_input: bool) -> None:
    model, m, words = captioner(event_input=event_input), memory(), given()
    with torch.no_grad():
        model.begin.weight.zero_()  # the other way from an event to words
    other = m._replace(events=m.events + 1)
    same = torch.allclose(model(*other, before(words)), model(*m, before(words)))
    assert same is not event_input
    if event_input:  # between the word and the clip
        with torch.no_grad():
            model.word_lstm.weight_ih[:, OPTIONS.word_dim : OPTIONS.word_dim + EVENT] = 0
        torch.testing.assert_close(model(*other, before(words)), model(*m, before(words)))


# ---- sentences of its own -------------------------------------------------------------------------------


def test_greedy_takes_the_best_word_at_each_step() -> None:
    model, m = captioner(), memory()
    own = said(model, m)
    best = model(*m, before(own.words)).argmax(-1)
    assert torch.equal(best[predicted(own.words, m.event_mask)], own.words[predicted(own.words, m.event_mask)])
    assert torch.equal(own.lengths, (own.words > 0).sum(-1))
    cold = said(model, m, sample=True, temperature=1e-4)
    assert torch.equal(cold.words, own.words)
    torch.testing.assert_close(cold.log_prob, own.log_prob)


def test_words_are_drawn_as_often_as_they_are_probable() -> None:
    model, m = captioner(), alone(memory(), 0)
    many = EventMemory(*(x.expand(4000, *x.shape[1:]) for x in m))
    first = said(model, many, sample=True).words[:, 0, 0].bincount(minlength=VOCABULARY) / 4000
    expected = model(*m, torch.zeros(1, EVENTS[0], 1, dtype=torch.int64))[0, 0, 0].softmax(-1)
    torch.testing.assert_close(first, expected, rtol=0, atol=0.03)
    warm = said(model, many, sample=True, temperature=3.0).words[:, 0, 0].bincount(minlength=VOCABULARY) / 4000
    torch.testing.assert_close(warm, (expected.log() / 3).softmax(-1), rtol=0, atol=0.03)


def test_draws_repeat_with_the_generator() -> None:
    model, m = captioner(), memory()
    one, again, other = (said(model, m, sample=True, seed=seed).words for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert one.shape != other.shape or not torch.equal(one, other)


def test_stops_when_all_sentences_have_ended() -> None:
    model, m = captioner(), memory()
    with torch.no_grad():
        model.head.bias[0] = 1e3
    own = said(model, m)
    assert own.words.shape == (3, 4, 1)
    assert not own.lengths.any()


# ---- variants -------------------------------------------------------------------------------------------


def test_the_state_that_words_begin_with() -> None:
    m, words = memory(), given()
    hidden, cell = (captioner(begin_from=b)(*m, before(words)) for b in ("hidden", "cell"))
    real = predicted(words, m.event_mask)
    assert ((hidden - cell)[real].abs().amax(-1) > 1e-6).all()


def test_the_released_program_forgets_in_decoding_what_it_said() -> None:
    m, words = memory(), given()
    ours, theirs = captioner(), captioner(carry_decoded=False)
    torch.testing.assert_close(ours(*m, before(words)), theirs(*m, before(words)))
    a, b = said(ours, m), said(theirs, m)
    torch.testing.assert_close(a.log_prob[:, 0], b.log_prob[:, 0])
    later = m.event_mask[:, 1:]
    assert ((a.log_prob - b.log_prob)[:, 1:, 0].abs() > 1e-6)[later].all()


# ---- training -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event_input", [False, True])
@pytest.mark.parametrize("sample", [False, True])
def test_every_parameter_learns(event_input: bool, sample: bool) -> None:
    """From given sentences and, with gradients, from its own."""
    model, m = captioner(event_input=event_input).train(), memory()
    scores = said(model, m, sample=True).log_prob if sample else model.log_probs(*m, given())
    assert scores.dtype == torch.float32
    scores.sum().backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().amax() > 1e-7]
    assert still == []


def test_gradients_of_own_sentences_are_those_of_given_ones() -> None:
    model, m = captioner(), memory()
    own = said(model, m, sample=True)
    weights = torch.linspace(-1, 1, own.words.numel()).view(own.words.shape)
    parameters = list(model.parameters())
    found = torch.autograd.grad((own.log_prob * weights).sum(), parameters)
    expected = torch.autograd.grad((model.log_probs(*m, own.words) * weights).sum(), parameters)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_learns_to_tell_its_events() -> None:
    torch.manual_seed(0)
    options = dataclasses.replace(OPTIONS, dim=24, dropout=0.0)
    model, m, words = EventCaptioner(CLIP, EVENT, VOCABULARY, options), memory(), given()[..., :4]
    words = words * m.event_mask[..., None]
    optimiser = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(80):
        optimiser.zero_grad()
        (-model.log_probs(*m, words).sum()).backward()
        optimiser.step()
    own = model.eval().generate(*m, 4)
    assert torch.equal(own.words, words)


def test_half_precision() -> None:
    model, m, words = captioner().train(), memory(), given()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = model.log_probs(*m, words)
        own = said(model, m, sample=True)
        logits = model(*m, before(words))
    assert scores.dtype == own.log_prob.dtype == torch.float32
    assert scores.isfinite().all()
    assert logits.isfinite().all()
    scores.sum().backward()


def test_a_vocabulary_makes_words_anew() -> None:
    model = EventCaptioner(CLIP, EVENT, options=OPTIONS)
    model.set_vocabulary(40)
    assert model(*memory(), before(given())).shape[-1] == 40
    assert model.embedding.weight.abs().max() <= 0.1
    assert model.head.weight.abs().max() <= 0.1
    assert not model.head.bias.any()
