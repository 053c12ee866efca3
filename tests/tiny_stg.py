"""A tiny STG on prepared features, and a batch of narrations for it."""

from __future__ import annotations

import torch
from torch import Tensor

from groundzoo.tasks.schedules import Stage
from groundzoo.tasks.stg import STG, InferenceOptions, NetworkOptions, SelectionOptions
from groundzoo.zoo.batch import MomentFeatures, NarrationBatch
from groundzoo.zoo.text.mil_nce import MILNCEText
from groundzoo.zoo.video.base import FrameSpec, VideoEncoder, VideoFeatures
from groundzoo.zoo.video.precomputed import Precomputed

B, U, H, W, D, C, DIM = 4, 9, 2, 3, 10, 7, 6
TEXTS = ["red circle grows", "a blue square", "and so the green triangle spins", "hop"]


class Ear(VideoEncoder):
    """Hears the mean of every 100 samples."""

    dim, spec = 5, FrameSpec(fps=1000, window=100, stride=100, size=None, sound=True)

    def encode(self, clips: Tensor) -> VideoFeatures:
        return VideoFeatures(clips.view(len(clips), 1, 5, 20).mean(-1))


def stg_task(dim: int = D, cells: int = C, **options: object) -> STG:
    """Random weights, the same every time; reads prepared features."""
    torch.manual_seed(0)
    words = MILNCEText("random", word_dim=8, layer_dim=12, dim=6, max_words=8, trainable=True)
    words.fit_vocabulary(TEXTS)
    given = {
        "network": NetworkOptions(dim=DIM),
        "selection": SelectionOptions(frames=3, video="frame"),
        "inference": InferenceOptions(window=4, background=0.0),
        "stages": [Stage(losses=("global", "local"), lr=1e-3, epochs=1)],
    } | options
    return STG(Precomputed(dim, grid=(H, W, cells)), words, **given)  # type: ignore[arg-type]


def narration_batch(seed: int = 0, sound: bool = False) -> NarrationBatch:
    """Random features of B clips of U moments; the second clip is shorter."""
    g = torch.Generator().manual_seed(seed)
    mask = torch.ones(B, U, dtype=torch.bool)
    mask[1, 6:] = False
    inside = torch.zeros(B, U, dtype=torch.bool)
    inside[:, 2:5] = True
    return NarrationBatch(
        features=MomentFeatures(torch.randn(B, U, D, generator=g), torch.randn(B, U, H, W, C, generator=g)),
        mask=mask,
        inside=inside,
        times_s=torch.arange(U).float().expand(B, U),
        texts=list(TEXTS),
        spans_s=torch.tensor([[2.0, 5.0]]).expand(B, 2),
        sound=torch.randint(-9999, 9999, (B, 1000), generator=g, dtype=torch.int16) if sound else None,
        video_ids=[f"v{k}" for k in range(B)],
        index=torch.arange(B),
    )
