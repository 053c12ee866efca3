"""Which clips and bins belong to an event, and what an event's vector depends on."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from groundzoo.zoo.event_encoder import (
    EventEncoder,
    EventMemory,
    clips_of_events,
    covered_bins,
    relative_positions,
)

DIM, HEADS, FEATURES = 16, 4, 6
CLIPS, EVENTS = [9, 5, 7], [3, 1, 4]  # of three videos

Video = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def videos(seed: int = 0, features: int = FEATURES) -> Video:
    generator = torch.Generator().manual_seed(seed)
    clip_mask = torch.arange(max(CLIPS)) < torch.tensor(CLIPS)[:, None]
    event_mask = torch.arange(max(EVENTS)) < torch.tensor(EVENTS)[:, None]
    durations = torch.tensor([30.0, 12.5, 81.0])
    starts = torch.rand(3, max(EVENTS), generator=generator).sort(1).values * 0.6
    ends = starts + 0.1 + 0.3 * torch.rand(starts.shape, generator=generator)
    events = torch.stack([starts, ends], -1) * durations[:, None, None] * event_mask[..., None]
    clips = torch.randn(3, max(CLIPS), features, generator=generator) * clip_mask[..., None]
    return clips, clip_mask, durations, events, event_mask


def encoder(features: int = FEATURES, dropout: float = 0.5) -> EventEncoder:
    torch.manual_seed(1)
    return EventEncoder(features, DIM, HEADS, dropout).eval()


def encode(model: EventEncoder, video: Video) -> EventMemory:
    memory = model(*video)
    assert isinstance(memory, EventMemory)
    return memory


def alone(video: Video, v: int) -> Video:
    clips, clip_mask, durations, events, event_mask = (x[v : v + 1] for x in video)
    t, e = CLIPS[v], EVENTS[v]
    return clips[:, :t], clip_mask[:, :t], durations, events[:, :e], event_mask[:, :e]


# ---- clips and bins -------------------------------------------------------------------------------------


def test_clips_of_events() -> None:
    _, clip_mask, durations, events, _ = videos()
    found = clips_of_events(events, durations, clip_mask)
    for v, n in enumerate(CLIPS):
        for e, (start, end) in enumerate(events[v].tolist()):
            first, last = (min(int(n * t / durations[v].item()), n - 1) for t in (start, end))
            assert found[v, e].nonzero().squeeze(1).tolist() == list(range(first, last + 1))


@pytest.mark.parametrize(
    ("event", "clips"),
    [
        ((0.0, 20.0), [0, 1, 2, 3]),
        ((5.0, 10.0), [1, 2]),  # the clip that begins at the end counts
        ((5.0, 9.99), [1]),
        ((20.0, 20.0), [3]),
        ((7.0, 7.0), [1]),
        ((-3.0, 1.0), [0]),
        ((18.0, 25.0), [3]),
    ],
)
def test_clips_at_the_edges(event: tuple[float, float], clips: list[int]) -> None:
    """Four clips of 5 s; the other two places are padding."""
    mask = torch.tensor([[True] * 4 + [False] * 2])
    found = clips_of_events(torch.tensor([[event]]), torch.tensor([20.0]), mask)
    assert found.shape == (1, 1, 6)
    assert found[0, 0].nonzero().squeeze(1).tolist() == clips


@pytest.mark.parametrize(
    ("event", "first", "last"),
    [
        ((0.0, 99.0), 0, 99),
        ((0.0, 0.5), 0, 0),
        ((10.0, 20.99), 10, 20),
        ((98.9, 120.0), 98, 99),
        ((-5.0, 1), 0, 1),
        ((130.0, 140.0), 99, 99),
    ],
)
def test_covered_bins(event: tuple[float, float], first: int, last: int) -> None:
    found = covered_bins(torch.tensor([[event]]), torch.tensor([99.0]))
    assert found[0, 0].nonzero().squeeze(1).tolist() == list(range(first, last + 1))


def test_relative_positions() -> None:
    events = torch.tensor([[[0.0, 10.0], [4.0, 8.0], [30.0, 30.0]]])
    found = relative_positions(events, 8)[0]
    centres, lengths = [5.0, 6.0, 30.0], [10.0, 4.0, 0.1]  # lengths are at least 0.1 s
    for i in range(3):
        for j in range(3):
            distance = 100 * (centres[i] - centres[j]) / lengths[i]
            size = 100 * math.log(lengths[j] / lengths[i])
            expected = [f(x / w) for x in (distance, size) for f in (math.sin, math.cos) for w in (1, 100)]
            assert found[i, j].tolist() == pytest.approx(expected, abs=1e-3 if i == 2 else 1e-9)


# ---- encoder --------------------------------------------------------------------------------------------


def test_an_event_is_the_mean_of_its_clips_beside_its_bins() -> None:
    model, video = encoder(), videos()
    memory = encode(model, video)
    assert memory.events.shape == (3, 4, model.event_dim) == (3, 4, 2 * DIM + 100)
    own = model.project(video[0][2][memory.event_clips[2, 1]].mean(0))
    torch.testing.assert_close(memory.events[2, 1, DIM : 2 * DIM], own)
    bins = covered_bins(video[3], video[2])[2, 1]
    assert torch.equal(memory.events[2, 1, 2 * DIM :], bins.float())


def test_a_batch_is_its_videos() -> None:
    """Padding, and the other videos, change nothing."""
    model, video = encoder(), videos()
    memory = encode(model, video)
    for v in range(3):
        one = encode(model, alone(video, v))
        torch.testing.assert_close(memory.events[v, : EVENTS[v]], one.events[0])
        assert torch.equal(memory.event_clips[v, : EVENTS[v], : CLIPS[v]], one.event_clips[0])
        assert not memory.event_clips[v, EVENTS[v] :].any()
        assert not memory.event_clips[v, :, CLIPS[v] :].any()
        assert not memory.events[v, EVENTS[v] :].any()


def test_padding_is_never_read() -> None:
    model, video = encoder(), videos()
    expected = encode(model, video)
    clips, clip_mask, durations, events, event_mask = video
    dirty = torch.where(clip_mask[..., None], clips, 7.0)
    elsewhere = torch.where(event_mask[..., None], events, torch.tensor([3.0, 9.0]))
    found = encode(model, (dirty, clip_mask, durations, elsewhere, event_mask))
    torch.testing.assert_close(found.events, expected.events)


def test_the_order_of_events_does_not_matter() -> None:
    model, video = encoder(), videos()
    order = torch.tensor([2, 0, 3, 1])
    clips, clip_mask, durations, events, event_mask = (x[2:] for x in video)
    found = encode(model, (clips, clip_mask, durations, events[:, order], event_mask))
    torch.testing.assert_close(found.events, encode(model, video).events[2:, order])


def test_context_is_taken_from_all_events_of_the_video() -> None:
    """Each of the four events tells the others of what it shows."""
    model, video = encoder(), videos()
    clips = video[0].clone().requires_grad_()
    inside = encode(model, video).event_clips[2].any(0).tolist()
    for e in range(4):
        context = encode(model, (clips, *video[1:])).events[2, e, :DIM]
        (grad,) = torch.autograd.grad(context.sum(), clips)
        assert grad[2].any(-1).tolist() == inside
        assert not grad[:2].any()


def test_relations_know_where_events_lie_and_not_how_long_a_second_is() -> None:
    model, (clips, clip_mask, durations, events, event_mask) = encoder(), videos()
    expected = encode(model, (clips, clip_mask, durations, events, event_mask)).events
    slow = encode(model, (clips, clip_mask, 4 * durations, 4 * events, event_mask)).events
    torch.testing.assert_close(slow, expected, rtol=1e-4, atol=1e-5)
    before = relative_positions(events, DIM)
    later = events.clone()
    later[2, 1] += 0.01  # the same clips and bins
    after = encode(model, (clips, clip_mask, durations, later, event_mask)).events[2]
    assert not torch.equal(relative_positions(later, DIM), before)
    assert torch.equal(after[:, DIM:], expected[2, :, DIM:])
    assert (after[:, :DIM] - expected[2, :, :DIM]).abs().amax() > 1e-6


def test_wide_clips_are_projected_for_all_who_look_at_them() -> None:
    model, video = encoder(1025), videos(features=1025)
    memory = encode(model, video)
    assert model.clip_dim == DIM
    assert memory.clips.shape == (3, 9, DIM)
    assert (memory.clips >= 0).all()
    narrow = encoder(1024)
    assert narrow.clip_dim == 1024
    clips = videos(features=1024)
    assert encode(narrow, clips).clips is clips[0]


def test_every_parameter_learns() -> None:
    model = encoder(1030).train()
    memory = encode(model, videos(features=1030))
    (memory.events * torch.linspace(-1, 1, memory.events.shape[-1])).sum().backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().amax() > 1e-7]
    assert still == []


def test_dropout_spares_the_bins() -> None:
    model, video = encoder(dropout=0.5).train(), videos()
    events = encode(model, video).events
    assert torch.equal(events[..., 2 * DIM :], encode(model.eval(), video).events[..., 2 * DIM :])
    assert not torch.equal(events, encode(model, video).events)


def test_a_video_without_clips_is_finite() -> None:
    clips, clip_mask, durations, events, event_mask = videos()
    memory = encode(encoder(), (clips, torch.zeros_like(clip_mask), durations, events, event_mask))
    assert memory.events.isfinite().all()
    assert not memory.event_clips.any()


@pytest.mark.parametrize(("dim", "heads"), [(18, 4), (18, 3), (16, 5)])
def test_widths_that_do_not_fit(dim: int, heads: int) -> None:
    with pytest.raises(ValueError, match=f"dim={dim}: must be a multiple of heads={heads} and of 4"):
        EventEncoder(8, dim, heads)
