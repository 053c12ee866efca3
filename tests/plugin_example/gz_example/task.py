"""A task in forty lines: every clip is scored for itself, and is a moment of its own."""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn

from groundzoo.tasks.base import Step
from groundzoo.tasks.moments import Candidates, MomentTask
from groundzoo.tasks.schedules import Stage
from groundzoo.zoo.batch import GroundingBatch
from groundzoo.zoo.text.base import TextEncoder
from groundzoo.zoo.video.base import VideoEncoder
from groundzoo.zoo.video.clips import ClipPooling


class ClipScorer(MomentTask):
    """Scores single clips with a bilinear form of clip and sentence.

    Args:
        video_encoder: what turns frames into features.
        text_encoder: what reads the query.
        clips: how a video is cut into clips.
        lr: learning rate.
    """

    def __init__(
        self,
        video_encoder: VideoEncoder,
        text_encoder: TextEncoder,
        clips: ClipPooling = ClipPooling(num_clips=8),  # noqa: B008 - frozen
        lr: float = 1e-3,
    ) -> None:
        stages = (Stage(losses=("match",), lr=lr, epochs=1),)
        super().__init__(video_encoder, text_encoder, stages, clips, nms_threshold=0.5)
        self.network = nn.Bilinear(video_encoder.dim, text_encoder.dim, 1)

    def step(self, batch: GroundingBatch, stage: str) -> Step:
        """A clip is positive where its middle lies inside the moment."""
        sentence = self.text_encoder(batch.queries).sentence
        clips, bounds = batch.clips[batch.video_index], batch.bounds[batch.video_index]
        logits = self.network(clips, sentence[:, None].expand(-1, clips.shape[1], -1).contiguous()).squeeze(-1)
        losses = {}
        if stage != "predict":
            middle, (start, end) = bounds.mean(-1), batch.moments[:, :, None].unbind(1)
            inside = (start <= middle) & (middle <= end)
            losses = {"match": F.binary_cross_entropy_with_logits(logits, inside.float())}
        return Step(losses, Candidates(bounds, logits.sigmoid(), logits == logits))
