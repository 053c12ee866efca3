"""A tiny captioner and hand-made batches for it."""

from __future__ import annotations

from typing import Any

import torch

from groundzoo.tasks.cvg import CVG, GroundingOptions, NetworkOptions
from groundzoo.zoo.batch import CaptionBatch, WordLabels
from groundzoo.zoo.video.base import FrameSpec, VideoEncoder, VideoFeatures

FRAMES, SIDE = 4, 3
SMALL = NetworkOptions(dim=16, word_dim=8, attention_dim=12, dropout=0.0)
SENTENCES = [
    "the man throws a ball",
    "a woman sits on the couch while the dog runs",
    "the dog runs",
    "the man and the woman throw the ball to the dog again and again and again",
]


class Cells(VideoEncoder):
    """A grid encoder whose cells are mean colours; trainable through one matrix."""

    def __init__(self, channels: int = 5, trainable: bool = False, window: int = 1, context: int = 1) -> None:
        super().__init__(trainable)
        self.dim, self.grid = channels, (SIDE, SIDE, channels)
        self.spec = FrameSpec(fps=2.0, window=window, stride=window, size=(6, 6), context=context)
        self.mix = torch.nn.Linear(3, channels)
        self.freeze_unless_trainable()

    def encode(self, clips: torch.Tensor) -> VideoFeatures:
        """See `VideoEncoder.encode`."""
        N, L = clips.shape[:2]
        pooled = torch.nn.functional.avg_pool2d(clips.flatten(0, 1), 2).unflatten(0, (N, L))
        cells = pooled.unflatten(1, (self.spec.context, -1)).mean(2).permute(0, 1, 3, 4, 2)
        grid = self.mix(cells)
        return VideoFeatures(grid.mean((2, 3)), grid)


def tiny_cvg(motion: bool = True, seed: int = 0, grounding: GroundingOptions | None = None, **kwargs: Any) -> CVG:
    """A captioner with a vocabulary, in evaluation mode."""
    torch.manual_seed(seed)
    streams = (Cells(5), Cells(4) if motion else None)
    defaults: dict[str, Any] = {"frames": FRAMES, "network": SMALL, "min_count": 1, "max_length": 12}
    task = CVG(*streams, grounding=grounding, **(defaults | kwargs))
    task.fit_vocabulary([s.split() for s in SENTENCES])
    return task.eval()


def labels_for(captions: list[list[str]], frames: int = FRAMES, seed: int = 0) -> WordLabels:
    """Boxes for every noun, and links from every verb to all nouns of its caption."""
    generator = torch.Generator().manual_seed(seed)
    nouns, verbs = {"man", "ball", "woman", "couch", "dog"}, {"throws", "sits", "runs", "throw"}
    words = [(b, i) for b, c in enumerate(captions) for i, w in enumerate(c) if w in nouns]
    said = [(b, i) for b, c in enumerate(captions) for i, w in enumerate(c) if w in verbs]
    links = [(b, i, e) for b, i in said for d, e in words if d == b]
    n = len(words)
    corners = torch.rand(n, frames, 2, 2, generator=generator).sort(2).values
    scores = torch.rand(n, frames, generator=generator)
    annotated = torch.zeros(n, frames, dtype=torch.bool)
    annotated[torch.arange(n), torch.randint(frames, (n,), generator=generator)] = True
    place, link = torch.tensor(words).reshape(-1, 2), torch.tensor(links).reshape(-1, 3)
    return WordLabels(place[:, 0], place[:, 1], corners.flatten(2), scores, annotated, *link.unbind(1))


def tiny_caption_batch(
    sentences: list[str] | None = None, motion: bool = True, seed: int = 0, shared: bool = False
) -> CaptionBatch:
    """One segment per sentence, or one for all of them."""
    captions = [s.split() for s in (SENTENCES if sentences is None else sentences)]
    segments = 1 if shared else len(captions)
    generator = torch.Generator().manual_seed(seed)
    visual, other = (torch.randn(segments, FRAMES, SIDE, SIDE, c, generator=generator) for c in (5, 4))
    return CaptionBatch(
        visual=visual,
        motion=other if motion else None,
        segment_index=torch.zeros(len(captions), dtype=torch.int64) if shared else torch.arange(segments),
        captions=captions,
        references=[[" ".join(c)] for c in captions[:segments]],
        entities=[[(1, "man")] for _ in captions],
        labels=labels_for(captions),
        segment_ids=[f"v{i}#0" for i in range(segments)],
        video_ids=[f"v{i}" for i in range(segments)],
        spans_s=torch.tensor([[0.0, 4.0]] * segments),
        sizes=torch.tensor([[64.0, 48.0]] * segments),
        index=torch.arange(segments),
    )
