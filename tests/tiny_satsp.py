"""A tiny SA-TSP, and clips without files."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from groundzoo.tasks.satsp import SATSP
from groundzoo.zoo.batch import ClipBatch
from groundzoo.zoo.video.base import FrameSpec, VideoEncoder, VideoFeatures

B, G = 6, 5
ACTIONS = ["jumping", "rowing", "baking"]
CONCEPTS = ["man", "red", "two", "boat", "jump", "ball", "snow"]
PAIRS = [("action", name) for name in ACTIONS] + [("concept", word) for word in CONCEPTS]


class Layers(VideoEncoder):
    """A linear stem and another layer, without batch statistics."""

    def __init__(self, dim: int = 4, trainable: bool = True) -> None:
        super().__init__(trainable)
        self.spec = FrameSpec(fps=4.0, window=2, stride=2, size=(3, 3))
        self.dim = dim
        self.first, self.second = nn.Linear(54, 8), nn.Linear(8, dim)
        self.freeze_unless_trainable()

    @property
    def stem(self) -> nn.Module:
        return self.first

    def encode(self, clips: Tensor) -> VideoFeatures:
        return VideoFeatures(self.second(self.first(clips.flatten(1)).tanh())[:, None])


def satsp_task(context_dim: int | None = G, vocabulary: Sequence[Any] | None = PAIRS, **options: Any) -> SATSP:
    """The same weights in every process; heads with weights that matter."""
    torch.manual_seed(0)
    encoder = options.pop("video_encoder", None) or Layers()
    task = SATSP(encoder, context_dim=context_dim, init_std=0.5, **options)
    if vocabulary is not None:
        task.set_vocabulary(vocabulary)
    return task


def clip_batch(
    clips: Tensor | None = None, actions: Sequence[int] = (0, -1, 2, 1, -1, 2), described: str = "110111"
) -> ClipBatch:
    """Six clips, two in the background, one of a video that nobody has described."""
    random = torch.Generator().manual_seed(1)
    if clips is None:
        clips = torch.randint(0, 256, (B, 2, 3, 3, 3), generator=random, dtype=torch.uint8)
    classes = torch.tensor(actions)
    return ClipBatch(
        clips=clips,
        context=torch.rand(B, G, generator=random),
        actions=classes,
        regions=(classes < 0).long(),
        concepts=torch.rand(B, len(CONCEPTS), generator=random) < 0.4,
        described=torch.tensor([c == "1" for c in described]),
        starts_s=torch.arange(B) * 1.5,
        clip_ids=[f"v_{k}#0/0" for k in range(B)],
        video_ids=[f"v_{k}" for k in range(B)],
        index=torch.arange(B),
    )


def chosen(batch: ClipBatch, rows: Sequence[int]) -> ClipBatch:
    """Some clips of a batch."""
    parts: dict[str, Any] = {}
    for field in dataclasses.fields(batch):
        value = getattr(batch, field.name)
        parts[field.name] = [value[r] for r in rows] if isinstance(value, list) else value[list(rows)]
    return ClipBatch(**parts)


class Clips(L.LightningDataModule):
    """The same batch again and again, as `fit` and `validate` want it."""

    def __init__(self, batches: int = 1, pairs: Sequence[tuple[str, str]] = PAIRS) -> None:
        super().__init__()
        self.batches, self.pairs = batches, pairs

    def vocabulary_texts(self) -> Iterator[tuple[str, str]]:
        yield from self.pairs

    def train_dataloader(self) -> DataLoader[ClipBatch]:
        return DataLoader([clip_batch()] * self.batches, batch_size=None)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[ClipBatch]:
        return DataLoader([clip_batch()], batch_size=None)  # type: ignore[arg-type]

    test_dataloader = predict_dataloader = val_dataloader


def trainer(**options: Any) -> L.Trainer:
    """Quiet, on the CPU."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return L.Trainer(accelerator="cpu", devices=1, enable_model_summary=False, **(quiet | options))
