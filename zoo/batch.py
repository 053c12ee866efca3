"""The batches that data modules make and tasks consume: the contract between the two."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class GroundingBatch:
    """Queries on videos, for temporal grounding. V videos, B >= V queries, T clips per video.

    Queries of one video share its row in `clips`. Nothing is padded: every video has T clips, and texts are
    strings (the text encoder pads and masks). Samples keep the order in which the loader drew them.

    Attributes:
        clips: ``(V, T, D)`` float, features of every clip. For an encoder that is trained with the task
            ``(V, T, L, 3, H, W)`` uint8, the frames of one pass per clip; `MomentTask` encodes them before `step`.
        bounds: ``(V, T, 2)`` float, start and end of every clip as share of the video, [0, 1].
        durations_s: ``(V,)`` float, seconds.
        video_index: ``(B,)`` int64, row of `clips` that each query asks about.
        queries: B texts.
        moments: ``(B, 2)`` float, true start and end as share of the duration; NaN where unknown.
        query_ids: B identifiers ``<video id>#<k>``, k-th query of that video in its annotation file.
        video_ids: V identifiers.
        index: ``(B,)`` int64, position in the split; tells a repeated sample from a new one.
        subsets: named groups of queries to report on their own, ``(B,)`` bool each.
    """

    clips: Tensor
    bounds: Tensor
    durations_s: Tensor
    video_index: Tensor
    queries: list[str]
    moments: Tensor
    query_ids: list[str]
    video_ids: list[str]
    index: Tensor
    subsets: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.queries)
