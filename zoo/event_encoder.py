"""TSRM: what an event of a video shows, how it relates to the other events, and where it lies.

Temporal-semantic relation module of Dense-Captioning Events in Videos: SYSU Submission to ActivityNet Challenge
2020. Teng Wang, Huicheng Zheng, Mingjing Yu. arXiv:2006.11693, with the authors'
github.com/ttengwang/dense-video-captioning-pytorch.

Differs from the released program:

- It takes softmax over everything, masks and divides by the sum + 1e-5; here the masked softmax is taken at once.
  Means over clips are divided by the number of clips, not by that + 1e-5. Both are equal within 1e-4.
- Biases that softmax cancels (of keys, and behind the position network) are left out.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDE = 1024  # wider clips are projected first
BINS = 100
SHORTEST_S, POSITION_SCALE, WAVE_LENGTH = 0.1, 100.0, 10000.0


class EventMemory(NamedTuple):
    """What a captioner knows of V videos with E events and T clips at most; padding is at the end.

    Attributes:
        clips: ``(V, T, C)``.
        event_clips: ``(V, E, T)`` bool, clips of each event; none of a padding event.
        events: ``(V, E, 2 * dim + 100)``, zero at padding.
        event_mask: ``(V, E)`` bool.
    """

    clips: Tensor
    event_clips: Tensor
    events: Tensor
    event_mask: Tensor


def clips_of_events(events_s: Tensor, durations_s: Tensor, clip_mask: Tensor) -> Tensor:
    """Which clips belong to an event: those of its first to its last moment, both included, at least one.

    A moment t lies in clip floor(n t / duration) of the n clips that cut the video into equal parts.

    Args:
        events_s: ``(V, E, 2)`` start and end in seconds.
        durations_s: ``(V,)`` seconds, above 0.
        clip_mask: ``(V, T)`` bool, True = there is such a clip; padding is at the end.

    Returns:
        ``(V, E, T)`` bool; all False in a video without clips.
    """
    n = clip_mask.sum(1)[:, None, None]
    places = (n * events_s.double() / durations_s.double()[:, None, None]).floor().clamp(min=0)
    return _between(places.minimum(n - 1), clip_mask.shape[1])


def covered_bins(events_s: Tensor, durations_s: Tensor) -> Tensor:
    """Which of 100 bins of the video an event covers: floor(99 t / duration) of start to end, both included.

    Args:
        events_s: ``(V, E, 2)`` start and end in seconds.
        durations_s: ``(V,)`` seconds, above 0.

    Returns:
        ``(V, E, 100)`` bool.
    """
    ends = events_s.double() / durations_s.double()[:, None, None] * (BINS - 1)
    return _between(ends.clamp(0, BINS - 1).floor(), BINS)


def _between(ends: Tensor, places: int) -> Tensor:
    """Which of 0 to `places` - 1 lie between the `ends` ``(..., 2)``, both included: ``(..., places)`` bool."""
    place = torch.arange(places, device=ends.device)
    return (place >= ends[..., :1]) & (place <= ends[..., 1:])


def relative_positions(events_s: Tensor, dim: int) -> Tensor:
    """Where event j lies as seen from event i, as sines and cosines.

    Distance of the centres (c_i - c_j) / l_i and relative length log(l_j / l_i), lengths at least 0.1 s, times
    100, in wave lengths 2 pi to 20000 pi. Computed in float64: the arguments are large.

    Args:
        events_s: ``(V, E, 2)`` start and end in seconds.
        dim: a multiple of 4.

    Returns:
        ``(V, E, E, dim)`` float64 in [-1, 1]; i before j; sine and cosine of the distance, then of the length.
    """
    start, end = events_s.double().unbind(-1)
    centre, length = (start + end) / 2, (end - start).clamp(min=SHORTEST_S)
    own = length[:, :, None]
    pairs = torch.stack([(centre[:, :, None] - centre[:, None]) / own, (length[:, None] / own).log()], dim=-1)
    steps = torch.arange(dim // 4, dtype=torch.float64, device=events_s.device)
    angles = POSITION_SCALE * pairs[..., None] / WAVE_LENGTH ** (4 * steps / dim)
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)


class EventEncoder(nn.Module):
    """Vectors of events: relations to the other events of the video, mean of the event's clips, bins it covers.

    Args:
        feature_dim: width of the given clips. Above 1024, Linear and ReLU make them `dim` wide first, also for
            whoever attends to clips later.
        dim: width of an event; a multiple of `heads` and of 4.
        heads: of the relations.
        dropout: on events before and after the relations are taken.

    Attributes:
        clip_dim: width of the clips given out.
        event_dim: width of the events given out, 2 dim + 100.

    Raises:
        ValueError: `dim` does not fit.
    """

    def __init__(self, feature_dim: int, dim: int = 512, heads: int = 16, dropout: float = 0.5) -> None:
        super().__init__()
        if dim % heads or dim % 4:
            raise ValueError(f"dim={dim}: must be a multiple of heads={heads} and of 4")
        self.heads = heads
        wide = feature_dim > WIDE
        self.clip_dim, self.event_dim = dim if wide else feature_dim, 2 * dim + BINS
        self.reduce = nn.Sequential(nn.Linear(feature_dim, dim), nn.ReLU()) if wide else nn.Identity()
        self.project = nn.Sequential(nn.Linear(self.clip_dim, dim), nn.ReLU(), nn.Dropout(dropout))
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim)
        self.position = nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, heads, bias=False))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, clips: Tensor, clip_mask: Tensor, durations_s: Tensor, events_s: Tensor, event_mask: Tensor
    ) -> EventMemory:
        """Encode the events of V videos; shapes are those of `EventBatch`.

        Args:
            clips: ``(V, T, feature_dim)``.
            clip_mask: ``(V, T)`` bool.
            durations_s: ``(V,)`` seconds, above 0.
            events_s: ``(V, E, 2)`` seconds.
            event_mask: ``(V, E)`` bool.
        """
        clips = self.reduce(clips)
        event_clips = clips_of_events(events_s, durations_s, clip_mask) & event_mask[..., None]
        share = event_clips.to(clips.dtype) / event_clips.sum(-1, keepdim=True).clamp(min=1)
        own = self.project(share @ clips)
        context = self._relations(own, events_s, event_mask)
        bins = covered_bins(events_s, durations_s)
        events = torch.cat([self.dropout(torch.cat([F.relu(context), own], dim=-1)), bins.to(own.dtype)], dim=-1)
        return EventMemory(clips, event_clips, events * event_mask[..., None], event_mask)

    def _relations(self, own: Tensor, events_s: Tensor, event_mask: Tensor) -> Tensor:
        """What all events of the video say to each, weighted per head: ``(V, E, dim)`` to ``(V, E, dim)``."""
        query, key, value = (
            layer(own).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        place = self.position(relative_positions(events_s, own.shape[-1]).to(own.dtype))  # (V, E, E, heads)
        logits = query @ key.transpose(-1, -2) / key.shape[-1] ** 0.5 + place.permute(0, 3, 1, 2)
        logits = logits.float().masked_fill(~event_mask[:, None, None], torch.finfo(torch.float32).min)
        context: Tensor = logits.softmax(-1).to(value.dtype) @ value  # (V, heads, E, dim / heads)
        return context.transpose(1, 2).flatten(-2)
