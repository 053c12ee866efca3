"""Tasks that answer with moments of a video: what they share from candidate boxes to seconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from ..zoo.batch import GroundingBatch
from ..zoo.temporal import nms
from ..zoo.text.base import TextEncoder
from ..zoo.video.base import VideoEncoder
from ..zoo.video.clips import ClipPooling
from .base import Prediction, Task
from .metrics.grounding import MomentRecall
from .schedules import Stage


class Candidates(NamedTuple):
    """Scored boxes of B queries.

    Attributes:
        boxes: ``(B, L, 2)`` shares of the video, in [0, 1].
        scores: ``(B, L)``.
        valid: ``(B, L)`` bool, at least one per row.
    """

    boxes: Tensor
    scores: Tensor
    valid: Tensor


class Moment(NamedTuple):
    """One answer: seconds and a score in [0, 1]."""

    start_s: float
    end_s: float
    score: float


def best_moments(candidates: Candidates, durations_s: Tensor, top_k: int, threshold: float) -> list[list[Moment]]:
    """The best `top_k` boxes of every query after NMS at IoU `threshold`, in seconds, best first."""
    picks = nms(candidates.boxes, candidates.scores, threshold, candidates.valid, keep=top_k).cpu()
    seconds = (candidates.boxes * durations_s[:, None, None]).tolist()
    scores = candidates.scores.tolist()
    return [
        [Moment(seconds[b][i][0], seconds[b][i][1], scores[b][i]) for i in row if i >= 0]
        for b, row in enumerate(picks.tolist())
    ]


class MomentTask(Task):
    """A task whose `step` returns `Candidates` as outputs.

    Args:
        video_encoder: see `Task`.
        text_encoder: see `Task`.
        stages: see `Task`.
        clips: how a video is cut into T clips.
        nms_threshold: IoU above which the weaker of two moments is dropped, in `predict` and `ground`; the
            metric has the protocol of the benchmark.
    """

    monitor = "val/R1@0.5"

    def __init__(
        self,
        video_encoder: VideoEncoder,
        text_encoder: TextEncoder,
        stages: Sequence[Stage],
        clips: ClipPooling,
        nms_threshold: float,
    ) -> None:
        super().__init__(stages, {"video_encoder": video_encoder, "text_encoder": text_encoder})
        self.clips, self.nms_threshold = clips, nms_threshold

    def metric(self, stage: Literal["val", "test"]) -> Metric:
        """R@1 and R@5 at IoU 0.3, 0.5 and 0.7."""
        return MomentRecall()

    def update_metric(self, metric: Metric, outputs: Candidates, batch: GroundingBatch) -> None:
        """See `MomentRecall.update`."""
        metric.update(*outputs, batch.moments, batch.index, batch.subsets)

    def prepare(self, batch: GroundingBatch) -> GroundingBatch:
        """Encode raw frames; a clip's features are the mean over the units of its pass."""
        if batch.clips.ndim == 3:
            return batch
        V, T = batch.clips.shape[:2]
        features = self.video_encoder(batch.clips.flatten(0, 1)).frames.mean(1)
        return dataclasses.replace(batch, clips=features.unflatten(0, (V, T)))

    def predictions(self, outputs: Candidates, batch: GroundingBatch) -> list[Prediction]:
        """One record per query: position in the split, ids, text, moments [start_s, end_s, score], known truth."""
        durations = batch.durations_s[batch.video_index]
        answers = best_moments(outputs, durations, top_k=5, threshold=self.nms_threshold)
        index = batch.index.tolist()
        truth = (batch.moments * durations[:, None]).tolist()
        return [
            {
                "index": index[b],
                "query_id": batch.query_ids[b],
                "video": batch.video_ids[video],
                "query": batch.queries[b],
                "duration_s": round(durations[b].item(), 3),
                "moments": [[round(x, 4) for x in moment] for moment in answers[b]],
                "target": None if truth[b][0] != truth[b][0] else [round(x, 3) for x in truth[b]],
            }
            for b, video in enumerate(batch.video_index.tolist())
        ]

    @torch.inference_mode()
    def ground(self, video: str | Path, queries: Sequence[str], top_k: int = 5) -> list[list[Moment]]:
        """Find the moments that sentences describe in one video file; the video is encoded once.

        Args:
            video: a file of any length.
            queries: sentences.
            top_k: answers per sentence.

        Returns:
            For every query, up to `top_k` moments, best first, in seconds.
        """
        if self.video_reader is None:
            raise RuntimeError("this task cannot read video files: open it with groundzoo.load(checkpoint)")
        if not queries:
            raise ValueError("no query: give at least one sentence")
        was_training = self.training
        self.eval()
        clips, bounds, duration_s = self._read(Path(video))
        batch = GroundingBatch(
            clips=clips[None].to(self.device),
            bounds=bounds.float()[None].to(self.device),
            durations_s=torch.tensor([duration_s], device=self.device),
            video_index=torch.zeros(len(queries), dtype=torch.int64, device=self.device),
            queries=list(queries),
            moments=torch.full((len(queries), 2), torch.nan, device=self.device),
            query_ids=[str(k) for k in range(len(queries))],
            video_ids=[Path(video).stem],
            index=torch.arange(len(queries), device=self.device),
        )
        candidates = self.step(self.prepare(batch), "predict").outputs
        self.train(was_training)
        return best_moments(candidates, batch.durations_s[batch.video_index], top_k, self.nms_threshold)

    def _read(self, video: Path) -> tuple[Tensor, Tensor, float]:
        """Clips (features or frames), bounds and duration of one file, as the data modules make them."""
        assert self.video_reader is not None
        assert self.window_reader is not None
        if self.video_encoder.trainable:
            return self.window_reader(video, self.video_encoder.spec, self.clips)
        units, num_frames, duration_s = self.video_reader(self.video_encoder, video)
        pooled = torch.from_numpy(self.clips.pool(units.numpy(), num_frames, self.video_encoder.spec))
        return pooled.float(), torch.from_numpy(self.clips.bounds(num_frames)), duration_s
