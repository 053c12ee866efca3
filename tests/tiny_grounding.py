"""A tiny DRN, random batches for it, and a small data set in the format of Charades-STA."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from groundzoo.tasks.drn import DRN, LossOptions, NetworkOptions
from groundzoo.tasks.schedules import Stage
from groundzoo.zoo.batch import GroundingBatch
from groundzoo.zoo.text.word_lstm import WordLSTM
from groundzoo.zoo.video.clips import ClipPooling
from groundzoo.zoo.video.precomputed import Precomputed

DIM = 6
WORDS = (  # noqa: SIM905
    "a person opens the door then sits down on red chair while another one walks away from it"
).split()
STAGES = (
    Stage(("match", "location"), "grounder", 1e-2, 1),
    Stage(("quality",), "quality", 1e-2, 1),
    Stage(("match", "location", "quality"), "all", 1e-3, 1),
)


def tiny_task(
    levels: int = 3,
    clips: int = 16,
    loss: LossOptions | None = None,
    stages: tuple[Stage, ...] = STAGES,
    hidden: int = 4,
    seed: int = 0,
    dim: int = DIM,
    width: int = 1,
    loud: bool = True,
    kind: type[DRN] = DRN,
    **network: Any,
) -> DRN:
    """A DRN of a few thousand weights with a fitted vocabulary; `loud` makes its predictions vary more."""
    torch.manual_seed(seed)
    text = WordLSTM(embedding_dim=5, hidden_dim=hidden)
    text.fit_vocabulary([" ".join(WORDS)])
    options = NetworkOptions(
        channels=tuple(width * c for c in (8, 10, 12, 14)[:levels]),
        pyramid_dim=8 * width,
        location_dim=4,
        attention_dim=6,
        **network,
    )
    encoder = Precomputed(dim, window=4, stride=2, fps=None)
    task = kind(encoder, text, ClipPooling(clips), options, loss or LossOptions(), stages)
    head = task.network.head
    with torch.no_grad():
        for convolution, bias in ((head.match, -1.0), (head.distance, 1.0)):
            convolution.weight.mul_(30 if loud else 1)
            convolution.bias.fill_(bias)
    task.enter_stage(0)
    return task


def random_batch(size: int = 5, clips: int = 16, videos: int = 3, seed: int = 0, dim: int = DIM) -> GroundingBatch:
    """`size` queries on `videos` random videos; texts of 1 to 9 words."""
    g = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(seed)
    edges = torch.linspace(0, 1, clips + 1)
    texts = [" ".join(rng.choice(WORDS, rng.integers(1, 10))) for _ in range(size)]
    index = torch.arange(size) % min(videos, size)
    moments = torch.rand(size, 2, generator=g).sort(dim=1).values
    moments[:, 1] = (moments[:, 1] + 0.1).clamp(max=1.0)
    n = int(index.max()) + 1
    return GroundingBatch(
        clips=torch.randn(n, clips, dim, generator=g),
        bounds=torch.stack([edges[:-1], edges[1:]], 1).expand(n, -1, -1).clone(),
        durations_s=10 + 20 * torch.rand(n, generator=g),
        video_index=index,
        queries=texts,
        moments=moments,
        query_ids=[f"v{int(v)}#{k}" for k, v in enumerate(index)],
        video_ids=[f"v{k}" for k in range(n)],
        index=torch.arange(size),
        subsets={"even": torch.arange(size) % 2 == 0},
    )


def chosen(batch: GroundingBatch, rows: list[int]) -> GroundingBatch:
    """The queries `rows` of a batch, with the videos they ask about and no others."""
    old = [int(batch.video_index[r]) for r in rows]
    keep = list(dict.fromkeys(old))
    return GroundingBatch(
        clips=batch.clips[keep],
        bounds=batch.bounds[keep],
        durations_s=batch.durations_s[keep],
        video_index=torch.tensor([keep.index(v) for v in old]),
        queries=[batch.queries[r] for r in rows],
        moments=batch.moments[rows],
        query_ids=[batch.query_ids[r] for r in rows],
        video_ids=[batch.video_ids[v] for v in keep],
        index=batch.index[rows],
        subsets={name: member[rows] for name, member in batch.subsets.items()},
    )


def write_charades(root: Path, videos: int = 12, per_video: int = 3, test: int = 3, dim: int = DIM) -> Path:
    """Annotations and features (``root/features``) of random videos; the last `test` ones are the test split."""
    rng = np.random.default_rng(1)
    (root / "features").mkdir(parents=True)
    lines: dict[str, list[str]] = {"train": [], "test": []}
    durations, frames = {}, {}
    for k in range(videos):
        name = f"VID{k:02d}"
        frames[name], durations[name] = 80 + k, 20.0 + k
        np.save(root / "features" / f"{name}.npy", rng.normal(size=(40, dim)).astype(np.float32))
        for _ in range(per_video):
            start = rng.uniform(0, 12)
            words = " ".join(rng.choice(WORDS, rng.integers(2, 8)))
            lines["test" if k >= videos - test else "train"].append(
                f"{name} {start:.1f} {start + rng.uniform(2, 7):.1f}##{words}."
            )
    for split, rows in lines.items():
        (root / f"charades_sta_{split}.txt").write_text("\n".join(rows) + "\n")
    (root / "Charades_duration.json").write_text(json.dumps(durations))
    (root / "Charades_frames_info.json").write_text(json.dumps(frames))
    return root
