"""Event proposals: what locations learn, padding, and a small world in which events are found."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from groundzoo.zoo.proposals import (
    EventProposals,
    ProposalNetwork,
    ProposalOptions,
    ProposalOutput,
    assign_events,
    halve,
)
from groundzoo.zoo.temporal import tiou

SMALL = ProposalOptions(dim=32, levels=4)
DIM = 12


def lengths(*clips: int, to: int | None = None) -> Tensor:
    return torch.arange(to or max(clips)) < torch.tensor(clips)[:, None]


def network(options: ProposalOptions = SMALL, sharp: bool = True) -> ProposalNetwork:
    """With heads away from their start, where all locations say nearly the same."""
    torch.manual_seed(0)
    net = ProposalNetwork(DIM, options)
    if sharp:
        for head in (net.eventness, net.interval):
            torch.nn.init.normal_(head.weight, std=0.2)
            torch.nn.init.zeros_(head.bias)
    return net


def features(mask: Tensor, dim: int = DIM) -> Tensor:
    return torch.randn(*mask.shape, dim, generator=torch.Generator().manual_seed(1)) * mask[..., None]


def truth_of(*videos: list[tuple[float, float]]) -> tuple[Tensor, Tensor]:
    truth, mask = torch.zeros(len(videos), max(map(len, videos)), 2), lengths(*map(len, videos))
    for row, events in zip(truth, videos, strict=True):
        row[: len(events)] = torch.tensor(events).reshape(-1, 2)
    return truth, mask


@cache
def geometry(clips: int) -> ProposalOutput:
    mask = lengths(clips)
    return network()(features(mask), mask)  # type: ignore[no-any-return]


def assigned(events: list[tuple[float, float]], clips: int = 32, **options: float) -> list[list[list[float]]]:
    """Per level the positive locations as [middle, start, end], for one clip a second."""
    chosen, output = replace(SMALL, **options), geometry(clips)  # type: ignore[arg-type]
    positive, target = assign_events(output, *truth_of(events), torch.tensor([float(clips)]), chosen)
    rows = torch.cat([output.locations[..., None], target], -1)[0]
    return [rows[positive[0] & (output.strides == 2**k)].tolist() for k in range(chosen.levels)]


# ---- geometry and targets -------------------------------------------------------------------------------


def test_halve_is_the_mean_of_what_is_there() -> None:
    x, mask = torch.tensor([[1.0, 3, 5, 0, 0], [2, 0, 0, 0, 0]])[..., None], lengths(3, 1, to=5)
    halved, left = halve(x, mask)
    assert halved.squeeze(-1).tolist() == [[2, 5, 0], [2, 0, 0]]
    assert left.tolist() == [[True, True, False], [True, False, False]]


def test_locations_are_the_middles_of_what_they_cover() -> None:
    mask = lengths(5, 2)
    output = network()(features(mask), mask)
    first = [output.locations[0, output.mask[0] & (output.strides == 2**k)].tolist() for k in range(4)]
    assert first == [[0.5, 1.5, 2.5, 3.5, 4.5], [1, 3, 4.5], [2, 4.5], [2.5]]
    assert output.locations[1, output.mask[1]].tolist() == [0.5, 1.5, 1, 1, 1]


def test_an_event_lives_on_the_level_of_its_length() -> None:
    per_level = assigned([(4.0, 14.0)], level_overlap=0.0)  # 10 clips: 2.5 strides of 4
    assert per_level[2] == [[6, 4, 14], [10, 4, 14]]
    assert not any(per_level[:2] + per_level[3:])
    assert list(map(bool, assigned([(4.0, 8.5)], level_overlap=0.0))) == [False, True, False, False]
    wider = assigned([(4.0, 14.0)], level_overlap=0.5)  # 1.25 strides of 8 are too few, 5 of 2 are within half
    assert wider[1:] == [[[7, 4, 14], [9, 4, 14], [11, 4, 14]], per_level[2], []]


def test_nested_events_of_different_length_live_on_different_levels() -> None:
    per_level = assigned([(4.0, 8.0), (5.0, 7.5), (0.0, 32.0)], level_overlap=0.0)
    assert per_level[0] == [[5.5, 5, 7.5], [6.5, 5, 7.5]]  # the finest level; 4 to 8 is one coarser
    assert per_level[1] == [[5, 4, 8], [7, 4, 8]]
    assert {tuple(row[1:]) for row in per_level[3]} == {(0, 32)}  # the whole video is another level's


def test_of_two_events_on_one_level_the_shorter_wins_in_any_order() -> None:
    nested = [(4.0, 7.9), (4.6, 7.4)]
    for events in (nested, nested[::-1]):
        level = assigned(events, level_overlap=0.0)[0]
        assert {tuple(round(v, 4) for v in row[1:]) for row in level if 4.6 < row[0] < 7.4} == {(4.6, 7.4)}


@pytest.mark.parametrize("start", [3.0, 3.2, 3.5, 3.9, 31.7])
@pytest.mark.parametrize("length", [0.01, 0.2, 0.3])
def test_the_shortest_event_has_a_location(start: float, length: float) -> None:
    finest = assigned([(start, start + length)])[0]
    assert 1 <= len(finest) <= 2
    assert abs(finest[0][0] - start - length / 2) <= 0.5


@pytest.mark.parametrize("clips", [1, 2, 7, 9, 33])
def test_every_event_of_any_length_has_a_location(clips: int) -> None:
    """Alone; none is lost between two levels or at the tail of a level."""
    edges = torch.linspace(0, clips, 9).tolist()
    for i, start in enumerate(edges):
        for end in edges[i + 1 :]:
            for overlap in (0.0, 0.5):
                assert any(assigned([(start, end)], clips, level_overlap=overlap)), (start, end, overlap)


def test_events_outside_the_video_or_empty_are_no_events() -> None:
    assert not any(assigned([(5.0, 5.0), (40.0, 50.0), (9.0, 4.0)]))
    (row,) = {tuple(row[1:]) for level in assigned([(28.0, 50.0)]) for row in level}
    assert row == (28, 32)


# ---- network --------------------------------------------------------------------------------------------


def compare(a: ProposalOutput, b: ProposalOutput, row: int) -> None:
    """Row `row` of `a` is the only row of `b`, whatever the padding."""
    for name in ("logits", "quality_logits", "distances", "locations"):
        ours, theirs = getattr(a, name)[row][a.mask[row]], getattr(b, name)[0][b.mask[0]]
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(a.count_logits[row], b.count_logits[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_neither_padding_nor_the_rest_of_the_batch_matters(mode: str) -> None:
    net = network().train(mode == "train")
    clips = (13, 1, 8, 5, 30)
    mask = lengths(*clips, to=37)
    x = features(mask)
    together = net(x, mask)
    for row, count in enumerate(clips):
        compare(together, net(x[row : row + 1, :count], mask[row : row + 1, :count]), row)
    dirty = torch.where(mask[..., None], x, 100.0)  # padding is zero by contract, and nothing relies on it
    compare(net(dirty, mask), net(x[:1], mask[:1]), 0)


def test_loss_of_a_batch_is_that_of_its_videos() -> None:
    """With sums, which is what a mean over processes is made of."""
    net, clips = network(), (13, 7, 20)
    mask, durations = lengths(*clips), torch.tensor([30.0, 9.0, 41.0])
    truth, truth_mask = truth_of([(1.0, 6.0), (3.0, 4.5)], [], [(0.0, 41.0), (2.0, 20.0), (30.0, 35.0)])
    dirty = torch.where(truth_mask[..., None], truth, torch.tensor([2.0, 3.0]))

    def losses(rows: slice, to: int) -> dict[str, Tensor]:
        seen = features(mask)[rows, :to], mask[rows, :to]
        return net.loss(net(*seen), truth[rows], truth_mask[rows], durations[rows], torch.ones_like)

    whole, alone = losses(slice(None), 20), [losses(slice(i, i + 1), n) for i, n in enumerate(clips)]
    assert set(whole) == {"eventness", "distance", "quality", "count"}
    for name, value in whole.items():
        torch.testing.assert_close(value, torch.stack([part[name] for part in alone]).sum(), rtol=1e-4, atol=1e-5)
    for name, value in net.loss(net(features(mask), mask), dirty, truth_mask, durations, torch.ones_like).items():
        torch.testing.assert_close(value, whole[name])  # what the mask hides is not read
    mean = net.loss(net(features(mask), mask), truth, truth_mask, durations)
    torch.testing.assert_close(mean["count"], whole["count"] / 2)


def test_every_parameter_learns() -> None:
    net, mask = network(sharp=False), lengths(20, 9)
    truth, truth_mask = truth_of([(1.0, 6.0), (3.0, 4.5)], [(0.0, 9.0)])
    loss = net.loss(net(features(mask), mask), truth, truth_mask, torch.tensor([20.0, 9.0]))
    torch.stack(list(loss.values())).sum().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("columns", [0, 3])
def test_a_batch_without_events_teaches_only_that(columns: int) -> None:
    net, mask = network(), lengths(6, 1)
    truth, truth_mask = torch.zeros(2, columns, 2), torch.zeros(2, columns, dtype=torch.bool)
    loss = net.loss(net(features(mask), mask), truth, truth_mask, torch.tensor([6.0, 1.0]))
    assert loss["eventness"] > 0
    assert [loss[k].item() for k in ("distance", "quality", "count")] == [0, 0, 0]
    torch.stack(list(loss.values())).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


def test_more_events_than_the_counter_knows() -> None:
    net, mask = network(replace(SMALL, max_events=2)), lengths(8)
    truth, truth_mask = truth_of([(i, i + 1.0) for i in range(8)])
    loss = net.loss(net(features(mask), mask), truth, truth_mask, torch.tensor([8.0]))
    expected = -net(features(mask), mask).count_logits.log_softmax(1)[0, 1]
    torch.testing.assert_close(loss["count"], expected)


def test_loss_falls_to_zero_for_the_right_intervals() -> None:
    net, mask, durations = network(), lengths(16), torch.tensor([32.0])
    truth, truth_mask = truth_of([(4.0, 9.0), (20.0, 30.0)])
    output = net(features(mask), mask)
    positive, target = assign_events(output, truth, truth_mask, durations, SMALL)
    assert {tuple(row) for row in target[positive].tolist()} == {(2.0, 4.5), (10.0, 15.0)}  # clips of 2 s
    middle = output.locations[..., None]
    exact = torch.cat([middle - target[..., :1], target[..., 1:] - middle], -1).clamp(min=0.05)
    right, sure = torch.where(positive, 20.0, -20.0), torch.full_like(output.logits, 20.0)
    output = output._replace(distances=exact, logits=right, quality_logits=sure)
    loss = net.loss(output, truth, truth_mask, durations)
    assert max(loss[k].item() for k in ("eventness", "distance", "quality")) < 1e-3


def test_bf16_stays_close() -> None:
    net, mask = network(), lengths(20, 9)
    exact = net(features(mask), mask)
    with torch.autocast("cpu", torch.bfloat16):
        rough = net(features(mask), mask)
    in_strides = rough.distances / rough.strides[:, None]
    for value in (in_strides, in_strides.log()):  # neither the distances nor what they are made of are bf16
        assert (value.bfloat16().float() - value).abs().max() > 1e-3
    torch.testing.assert_close(rough.distances[rough.mask], exact.distances[exact.mask], rtol=0.1, atol=0.05)


# ---- proposing ------------------------------------------------------------------------------------------


def ramps(mask: Tensor) -> Tensor:
    """Features that depend on the clip alone, so that a video is the same in any batch."""
    g = torch.Generator().manual_seed(1)
    return torch.randn(64, DIM, generator=g)[: mask.shape[1]] * mask[..., None]


def proposing(clips: tuple[int, ...], durations: Tensor, counts: list[int]) -> EventProposals:
    net, mask = network(), lengths(*clips)
    output = net(ramps(mask), mask)
    logits = torch.nn.functional.one_hot(torch.tensor(counts) - 1, SMALL.max_events).float()
    return net.propose(output._replace(count_logits=logits), durations)


def test_proposals_are_sorted_apart_inside_and_as_many_as_told() -> None:
    durations, counts = torch.tensor([60.0, 3.0, 25.0]), [6, 1, 3]
    events, scores, mask = proposing((40, 1, 17), durations, counts)
    assert events.shape == (3, 10, 2)
    assert torch.equal(mask, lengths(*counts, to=10))
    for row, duration, kept in zip(events, durations, mask, strict=True):
        found = row[kept]
        assert (found[:, 0] <= found[:, 1]).all()
        assert found.min() >= 0
        assert found.max() <= duration + 1e-4
        assert torch.equal(found[:, 0], found[:, 0].sort().values)
        assert tiou(found[:, None], found).fill_diagonal_(0).max() <= SMALL.nms_threshold
    assert not events[~mask].any()
    assert not scores[~mask].any()
    assert ((scores[mask] > 0) & (scores[mask] <= 1)).all()


def test_scores_belong_to_their_events_and_the_best_stay() -> None:
    durations = torch.tensor([40.0])
    few, many = (proposing((40,), durations, [n]) for n in (2, 6))
    table = {tuple(e): s for e, s in zip(many.events_s[0].tolist(), many.scores[0].tolist(), strict=True)}
    kept = [table[tuple(e)] for e in few.events_s[0, :2].tolist()]
    assert few.scores[0, :2].tolist() == kept
    assert sorted(kept, reverse=True) == sorted(table.values(), reverse=True)[:2]


def test_neither_padding_nor_the_rest_of_the_batch_is_proposed() -> None:
    durations = torch.tensor([60.0, 6.0, 25.0])
    together = proposing((40, 3, 17), durations, [10, 10, 10])
    for row, clips in enumerate((40, 3, 17)):
        alone = proposing((clips,), durations[row : row + 1], [10])
        for ours, theirs in zip(together, alone, strict=True):
            torch.testing.assert_close(ours[row : row + 1], theirs, rtol=1e-4, atol=1e-4)


def test_the_score_is_eventness_times_quality() -> None:
    net, mask = network(), lengths(2)
    output = net(features(mask), mask)
    inside = output.strides == 1
    middle = torch.full_like(output.logits, -30.0)
    output = output._replace(
        logits=torch.where(inside, torch.tensor([2.0, 1.0]).repeat(len(inside))[: len(inside)], middle),
        quality_logits=torch.tensor([-1.0, 1.0]).repeat(len(inside))[: len(inside)][None],
        distances=torch.full_like(output.distances, 0.5),
        count_logits=torch.nn.functional.one_hot(torch.tensor([0]), 10).float(),
    )
    found = net.propose(output, torch.tensor([8.0]))
    assert found.events_s[0, 0].tolist() == [4, 8]
    torch.testing.assert_close(found.scores[0, 0], torch.tensor(1.0).sigmoid())


def test_seconds_scale_with_the_duration() -> None:
    short, long = (proposing((17,), torch.tensor([d]), [4]) for d in (20.0, 200.0))
    torch.testing.assert_close(short.events_s * 10, long.events_s)
    torch.testing.assert_close(short.scores, long.scores)


# ---- learning -------------------------------------------------------------------------------------------


def world(videos: int, seed: int, dim: int = 32) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Videos of 18 to 26 s in clips of 2 s with 2 to 4 events of 2.5 to 4.5 s; clips know their action."""
    g = torch.Generator().manual_seed(seed)
    code = torch.randn(dim, generator=torch.Generator().manual_seed(0))
    durations = 18 + 8 * torch.rand(videos, generator=g)
    clips = (durations / 2).long()
    count = torch.randint(2, 5, (videos,), generator=g)
    truth_mask, mask = lengths(*count.tolist(), to=4), lengths(*clips.tolist(), to=13)
    length = (2.5 + 2 * torch.rand(videos, 4, generator=g)).masked_fill(~truth_mask, 0)
    gaps = (0.1 + torch.rand(videos, 5, generator=g)) * torch.cat([torch.ones(videos, 1), truth_mask], 1)
    gaps = gaps / gaps.sum(1, keepdim=True) * (durations - length.sum(1)).clamp(min=0.5)[:, None]
    start = gaps[:, :4].cumsum(1) + length.cumsum(1) - length
    truth = torch.stack([start, start + length], -1) * truth_mask[..., None]
    width = (durations / clips)[:, None]
    low = torch.arange(13) * width
    overlap = torch.minimum(low[..., None] + width[..., None], truth[:, None, :, 1])
    overlap = (overlap - torch.maximum(low[..., None], truth[:, None, :, 0])).clamp(min=0).sum(-1) / width
    x = overlap[..., None] * code + 0.5 * torch.randn(videos, 13, dim, generator=g)
    return x * mask[..., None], mask, truth, truth_mask, durations


def shares(found: EventProposals, truth: Tensor, truth_mask: Tensor, iou: float) -> tuple[float, float]:
    """Precision and recall, means over videos."""
    hits = tiou(found.events_s[:, :, None], truth[:, None]) >= iou
    hits &= found.mask[:, :, None] & truth_mask[:, None]
    precision = hits.any(2).sum(1) / found.mask.sum(1)
    return precision.mean().item(), (hits.any(1).sum(1) / truth_mask.sum(1)).mean().item()


def uniform(durations: Tensor) -> EventProposals:
    """Five equal parts of every video."""
    edges = torch.arange(6) / 5
    parts = torch.stack([edges[:-1], edges[1:]], -1)[None] * durations[:, None, None]
    return EventProposals(parts, torch.ones(parts.shape[:2]), torch.ones(parts.shape[:2], dtype=torch.bool))


def test_short_videos_are_learned() -> None:
    torch.manual_seed(0)
    net = ProposalNetwork(32, ProposalOptions(dim=48, levels=4))
    x, mask, truth, truth_mask, durations = world(400, seed=0)
    optimiser = torch.optim.AdamW(net.parameters(), 2e-3)
    steps = 150
    decay = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    for _ in range(steps):
        rows = torch.randperm(len(x))[:16]
        loss = net.loss(net(x[rows], mask[rows]), truth[rows], truth_mask[rows], durations[rows])
        optimiser.zero_grad()
        torch.stack(list(loss.values())).sum().backward()
        optimiser.step()
        decay.step()
    x, mask, truth, truth_mask, durations = world(150, seed=1)
    net.eval()
    with torch.no_grad():
        found = net.propose(net(x, mask), durations)
    assert (found.mask.sum(1) - truth_mask.sum(1)).abs().float().mean() <= 0.7
    # tIoU: at least this precision and recall, and this many times those of five equal parts
    for iou, least, times in ((0.3, 0.85, 1), (0.5, 0.8, 1.5), (0.7, 0.6, 3), (0.9, 0.1, 3)):
        ours, theirs = (shares(p, truth, truth_mask, iou) for p in (found, uniform(durations)))
        assert min(ours) >= max(least, times * min(theirs)), (iou, ours, theirs)
