"""Event proposals: where in an untrimmed video something happens, learned by dense regression without a query.

Every location of a temporal pyramid says whether an event is centred near it, how far the event reaches to both
sides, and the IoU its own interval will have; a head on the whole video says how many events to return. The
recipe is anchor-free detection as of FCOS (Tian et al., ICCV 2019) brought to time, as DRN (Zeng et al., CVPR
2020) and ActionFormer (Zhang et al., ECCV 2022) did; the counter is PDVC's (Wang et al., ICCV 2021).

Inside, time is counted in clips: the T clips of a video cut it into equal parts, so t clips are t / T of its
duration. Padding never reaches a valid clip: every map is zero outside the video, as a convolution's own border
is, and normalisation is per location.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .losses import interval_iou_loss, sigmoid_focal_loss
from .pyramid import TemporalConv
from .temporal import nms, tiou

MAX_LOG_DISTANCE = 8.0  # exp(8) strides is longer than any video
PRIOR = 0.02  # eventness before training; keeps the focal loss of the many negatives small
MIN_DISTANCE = 0.05  # clips; targets of events that lie between two clips' centres


@dataclass(frozen=True)
class ProposalOptions:
    """Widths and rules.

    Attributes:
        dim: channels of all maps.
        levels: of the pyramid; level k has a stride of 2^k clips.
        event_strides: level k learns events of this to twice this many of its strides; the finest takes all
            shorter ones, the coarsest all longer ones.
        level_overlap: octaves by which the ranges of levels are widened on both sides, so that an event between
            two levels lives on both.
        radius: locations within this many strides of an event's middle, and inside the event, are positive.
        max_events: events returned at most; also the largest number the counter knows.
        nms_threshold: IoU above which the weaker of two proposals is dropped.
    """

    dim: int = 256
    levels: int = 7
    event_strides: float = 2.0
    level_overlap: float = 0.5
    radius: float = 1.5
    max_events: int = 10
    nms_threshold: float = 0.5


class ProposalOutput(NamedTuple):
    """Dense predictions for V videos; L = locations of all levels, finest level first, time order inside a level.

    Attributes:
        logits: ``(V, L)`` eventness.
        quality_logits: ``(V, L)``, expected IoU of the location's interval.
        distances: ``(V, L, 2)`` to start and end in clips, > 0, float32.
        count_logits: ``(V, max_events)``; column n stands for n + 1 events.
        locations: ``(V, L)`` in clips, the middle of what the location covers of the video.
        strides: ``(L,)`` in clips.
        mask: ``(V, L)`` bool, True = inside the video.
        num_clips: ``(V,)`` int64.
    """

    logits: Tensor
    quality_logits: Tensor
    distances: Tensor
    count_logits: Tensor
    locations: Tensor
    strides: Tensor
    mask: Tensor
    num_clips: Tensor

    @property
    def intervals(self) -> Tensor:
        """``(V, L, 2)`` start and end in clips, clipped to the video."""
        start, end = self.locations - self.distances[..., 0], self.locations + self.distances[..., 1]
        return torch.minimum(torch.stack([start, end], dim=-1).clamp(min=0), self.num_clips[:, None, None])


class EventProposals(NamedTuple):
    """Proposed events in the order of their starts; padding is at the end and zero.

    Attributes:
        events_s: ``(V, P, 2)`` start and end, seconds.
        scores: ``(V, P)`` in [0, 1].
        mask: ``(V, P)`` bool.
    """

    events_s: Tensor
    scores: Tensor
    mask: Tensor


class MaskedConv(nn.Module):
    """Convolution over time, layer norm per location, ReLU, zero outside the mask; ``(V, T, dim)`` to the same."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.convolution = TemporalConv(dim, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """`x` must be zero where `mask`, ``(V, T)``, is False."""
        hidden = self.norm(self.convolution(x.transpose(1, 2)).transpose(1, 2))
        return F.relu(hidden) * mask[..., None]


def halve(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of every two neighbours, of the valid ones: ``(V, T, D)``, ``(V, T)`` -> T / 2, rounded up."""
    odd = x.shape[1] % 2
    pairs = F.pad(mask, (0, odd)).unflatten(1, (-1, 2))
    total = F.pad(x, (0, 0, 0, odd)).unflatten(1, (-1, 2)).sum(2)
    return total / pairs.sum(2, keepdim=True).clamp(min=1), pairs.any(2)


class ProposalNetwork(nn.Module):
    """Proposes events from the clip features of whole videos.

    Args:
        dim: width of the clip features.
        options: widths and rules.
    """

    def __init__(self, dim: int, options: ProposalOptions | None = None) -> None:
        super().__init__()
        self.options = o = options or ProposalOptions()
        self.projection = nn.Sequential(nn.Linear(dim, o.dim), nn.LayerNorm(o.dim), nn.ReLU())
        self.stem = MaskedConv(o.dim)
        self.blocks = nn.ModuleList(MaskedConv(o.dim) for _ in range(o.levels))
        self.event_tower, self.interval_tower = MaskedConv(o.dim), MaskedConv(o.dim)
        self.eventness = TemporalConv(o.dim, 1)
        self.interval = TemporalConv(o.dim, 3)  # log distances to start and end, quality
        self.counter = nn.Sequential(nn.Linear(o.dim, o.dim), nn.ReLU(), nn.Linear(o.dim, o.max_events))
        for head, bias in ((self.eventness, math.log(PRIOR / (1 - PRIOR))), (self.interval, 0.0)):
            nn.init.normal_(head.weight, std=0.01)
            assert head.bias is not None
            nn.init.constant_(head.bias, bias)

    def forward(self, clips: Tensor, clip_mask: Tensor) -> ProposalOutput:
        """``(V, T, dim)`` features and ``(V, T)`` bool, True = a clip, all of a video's clips first."""
        mask = clip_mask
        x = self.projection(clips) * mask[..., None]
        x = x + self.stem(x, mask)
        video = x.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        maps, masks = [], []
        for k, block in enumerate(self.blocks):
            if k:
                x, mask = halve(x, mask)
            x = x + block(x, mask)
            maps.append(x)
            masks.append(mask)
        event = [self.eventness(self.event_tower(x, m).transpose(1, 2)) for x, m in zip(maps, masks, strict=True)]
        sides = []
        for x, m in zip(maps, masks, strict=True):
            seen = self.interval_tower(x, m).transpose(1, 2)
            with torch.autocast(x.device.type, enabled=False):  # exp in bf16 loses a clip in a hundred
                sides.append(self.interval(seen.float()))
        interval = torch.cat(sides, dim=2).transpose(1, 2)  # (V, L, 3)

        num_clips = clip_mask.sum(1)
        index = torch.cat([torch.arange(m.shape[1], device=clips.device) for m in masks])
        strides = torch.cat([index.new_full((m.shape[1],), 2**k) for k, m in enumerate(masks)]).float()
        starts = index * strides
        ends = torch.minimum(starts + strides, num_clips[:, None])  # the last one may cover less than a stride
        return ProposalOutput(
            logits=torch.cat(event, dim=2).squeeze(1),
            quality_logits=interval[..., 2],
            distances=interval[..., :2].clamp(max=MAX_LOG_DISTANCE).exp() * strides[:, None],
            count_logits=self.counter(video),
            locations=(starts + ends) / 2,
            strides=strides,
            mask=torch.cat(masks, dim=1),
            num_clips=num_clips,
        )

    def loss(
        self,
        output: ProposalOutput,
        truth_s: Tensor,
        truth_mask: Tensor,
        durations_s: Tensor,
        normaliser: Callable[[Tensor], Tensor] = lambda count: count.clamp(min=1),
    ) -> dict[str, Tensor]:
        """Four terms in float32, each a sum over what it applies to, divided by the number of those.

        Args:
            output: of `forward`.
            truth_s: ``(V, G, 2)`` true start and end, seconds.
            truth_mask: ``(V, G)`` bool; a video without an event is all negative.
            durations_s: ``(V,)``.
            normaliser: turns a count of this process into what a sum is divided by; a task's own makes the mean
                over processes that of the whole batch.

        Returns:
            Scalars ``eventness`` (focal), ``distance`` (-log IoU) and ``quality`` (cross-entropy with the IoU
            reached), over positive locations, and ``count`` (cross-entropy), over videos with events.
        """
        positive, target = assign_events(output, truth_s, truth_mask, durations_s, self.options)
        num_positive = normaliser(positive.sum().float())
        focal = sigmoid_focal_loss(output.logits.float(), positive) * output.mask
        sides = torch.stack([output.locations - target[..., 0], target[..., 1] - output.locations], dim=-1)
        sides = sides.clamp(min=MIN_DISTANCE)
        reached = tiou(output.intervals.detach(), target)
        quality = F.binary_cross_entropy_with_logits(output.quality_logits.float(), reached, reduction="none")
        events = truth_mask.sum(1)
        told = events > 0
        count = F.cross_entropy(
            output.count_logits.float(), events.clamp(1, self.options.max_events) - 1, reduction="none"
        )
        distance = torch.where(positive, interval_iou_loss(output.distances, sides), 0.0)
        return {
            "eventness": focal.sum() / num_positive,
            "distance": distance.sum() / num_positive,
            "quality": (quality * positive).sum() / num_positive,
            "count": (count * told).sum() / normaliser(told.sum().float()),
        }

    @torch.no_grad()
    def propose(self, output: ProposalOutput, durations_s: Tensor) -> EventProposals:
        """The best intervals after suppression, as many per video as the counter says, at least one.

        Args:
            output: of `forward`.
            durations_s: ``(V,)``.

        Returns:
            P = `max_events` columns.
        """
        o = self.options
        scores = (output.logits.float().sigmoid() * output.quality_logits.float().sigmoid()).sqrt()
        picks = nms(output.intervals, scores, o.nms_threshold, output.mask, o.max_events)
        rank = torch.arange(o.max_events, device=picks.device)
        mask = (picks >= 0) & (rank <= output.count_logits.argmax(1, keepdim=True))
        picks = picks.clamp(min=0)
        clip_s = (durations_s / output.num_clips.clamp(min=1))[:, None, None]
        events = output.intervals.gather(1, picks[..., None].expand(-1, -1, 2)) * clip_s
        order = events[..., 0].masked_fill(~mask, torch.inf).argsort(dim=1, stable=True)
        mask = mask.gather(1, order)
        events = events.gather(1, order[..., None].expand(-1, -1, 2))
        return EventProposals(events * mask[..., None], scores.gather(1, picks).gather(1, order) * mask, mask)


def assign_events(
    output: ProposalOutput, truth_s: Tensor, truth_mask: Tensor, durations_s: Tensor, options: ProposalOptions
) -> tuple[Tensor, Tensor]:
    """Which event every location learns.

    A location is positive where its level suits the event's length and it lies near the event's middle. The
    location that covers the middle always is, so that an event between two clips' centres has one. Of several
    events a location takes the shortest. Events are clipped to the video; empty ones have no location.

    Args:
        output: of the network; only its locations are read.
        truth_s: ``(V, G, 2)`` seconds.
        truth_mask: ``(V, G)`` bool.
        durations_s: ``(V,)``.
        options: the rule.

    Returns:
        ``(V, L)`` bool, True = positive, and ``(V, L, 2)`` start and end in clips of the event, 0 elsewhere.
    """
    V, L = output.mask.shape
    if truth_s.shape[1] == 0:
        return torch.zeros_like(output.mask), output.locations.new_zeros(V, L, 2)
    clips = output.num_clips[:, None, None]
    events = torch.minimum((truth_s * (clips / durations_s[:, None, None])).clamp(min=0), clips).float()
    length = events[..., 1] - events[..., 0]
    real = truth_mask & (length > 0)

    strides = output.strides[:, None]
    octave = (length.clamp(min=1e-6)[:, None] / (options.event_strides * strides)).log2()  # (V, L, G), 0 to 1 fits
    finest, coarsest = strides == strides.min(), strides == strides.max()
    fits = (finest | (octave >= -options.level_overlap)) & (coarsest | (octave < 1 + options.level_overlap))
    fits &= real[:, None] & output.mask[..., None]

    off = (output.locations[..., None] - events.mean(-1)[:, None]).abs()
    middle = off <= strides / 2  # this location covers the event's middle
    near = middle | (off < torch.minimum(options.radius * strides, length[:, None] / 2))
    shortest, chosen = length[:, None].masked_fill(~(fits & near), torch.inf).min(-1)
    positive = shortest < torch.inf
    target = events.gather(1, chosen[..., None].expand(-1, -1, 2))
    return positive, target * positive[..., None]
