"""Pre-training of GROVE's vision on single frames: a stand-in for the weights that GROVE starts from.

GROVE begins with CLIP, SAM and GLaMM, which know what things look like, where they are and how a phrase asks for
one. From random weights its boxes do not begin to move within any short training. Where these weights are not at
hand, this task makes a small substitute of frames whose phrases have boxes, in two stages:

1. Encoders: a linear head on every cell says which words are said of the thing that covers it, and where that
   thing lies in the frame (dense detection). The heads are thrown away.
2. Decoder: encoders rest. The mean of word embeddings is the query for a phrase; phrases that are not in the clip
   must be told to be invisible. The embeddings are thrown away.

``--model.init_from`` of GROVE takes the checkpoint. It is ours, and not of the paper. The heads have an output per
word, so it is for small vocabularies.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MetricCollection

from ..zoo.batch import GroundedClipBatch
from ..zoo.box_decoder import BoxDecoder
from ..zoo.box_losses import box_losses
from ..zoo.text.grounded_text import GroundedText
from ..zoo.video.base import VideoEncoder
from ..zoo.video.spec import FrameSpec
from .base import Prediction, Step, Task
from .metrics.cell_words import CellWords, cell_records
from .metrics.given_phrases import GivenPhrases, given_records
from .own_words import OwnWords
from .schedules import Stage, Warmup

STAGES = (
    Stage(losses=("words", "places"), lr=3e-3, epochs=10, schedule=Warmup(30, "linear"), monitor="val/words"),
    Stage(losses=("giou", "l1", "objectness"), train="decoder", lr=3e-3, epochs=10, schedule=Warmup(30, "linear")),
)


@dataclass(frozen=True)
class PhraseOptions:
    """Settings of both stages.

    Attributes:
        absent: share of the phrases that are asked of a clip they are not in.
        words: weight of the cross-entropies of words, summed over words.
        places: weight of the differences of boxes, summed over the four numbers.
        box: weight of gIoU, L1 and objectness in the second stage.
    """

    absent: float = 0.2
    words: float = 1.0
    places: float = 2.0
    box: float = 2.0


class CellTruth(NamedTuple):
    """What is true of the cells of a grid.

    Attributes:
        words: ``(B, T, h, w, V)`` bool, words of all things that cover the middle of a cell.
        box: ``(B, T, h, w, 4)`` cx, cy, w, h of the smallest of them, as shares of the frame.
        covered: ``(B, T, h, w)`` bool, whether there is one.
    """

    words: Tensor
    box: Tensor
    covered: Tensor


class Outputs(NamedTuple):
    """What `step` hands to metrics.

    Attributes:
        words: per encoder logits ``(B, T, h, w, V)`` and what is true.
        found: boxes ``(N, T, 4)`` and visibility ``(N, T)`` of given phrases.
    """

    words: list[tuple[Tensor, CellTruth]]
    found: tuple[Tensor, Tensor] | None


class PhraseNetwork(nn.Module):
    """Heads on cells, and queries of phrases; both are thrown away.

    Args:
        dims: widths of the cells of each encoder.
        query_dim: width of the decoder's queries.
        vocabulary: V.
    """

    def __init__(self, dims: Sequence[int], query_dim: int, vocabulary: int) -> None:
        super().__init__()
        self.dims, self.query_dim = tuple(dims), query_dim
        self.set_vocabulary(vocabulary)

    def set_vocabulary(self, size: int) -> None:
        """Make heads and embeddings anew for V words."""
        known = next(self.parameters(), None)
        self.heads = nn.ModuleList(nn.Sequential(nn.LayerNorm(d), nn.Linear(d, size + 4)) for d in self.dims)
        self.embedding = nn.EmbeddingBag(size, self.query_dim, mode="mean")
        self.to(None if known is None else known.device)

    def ask(self, hot: Tensor) -> Tensor:
        """Words of phrases ``(N, V)`` bool -> queries ``(N, query_dim)``."""
        offsets = torch.cat([hot.new_zeros(1, dtype=torch.int64), hot.sum(1).cumsum(0)[:-1]])
        queries: Tensor = self.embedding(hot.nonzero()[:, 1], offsets)
        return queries


class PhrasePretraining(OwnWords, Task):
    """Dense words and boxes on frames, then boxes of phrases.

    Args:
        video_encoder: GROVE's, without adapters, all of it trained.
        grounding_encoder: the same.
        box_decoder: GROVE's.
        frames: frames of a clip; they do not see each other.
        options: weights and the like.
        stages: the two stages.
    """

    monitor = "val/mIoU"
    grounding_encoder: VideoEncoder
    box_decoder: BoxDecoder

    def __init__(
        self,
        video_encoder: VideoEncoder,
        grounding_encoder: VideoEncoder,
        box_decoder: BoxDecoder,
        frames: int = 8,
        options: PhraseOptions | None = None,
        stages: Sequence[Stage] = STAGES,
    ) -> None:
        encoders = {"video_encoder": video_encoder, "grounding_encoder": grounding_encoder}
        super().__init__(stages, {**encoders, "box_decoder": box_decoder})
        self.frames, self.options = frames, options or PhraseOptions()
        dims = []
        for name, encoder in encoders.items():
            if encoder.grid is None:
                raise ValueError(f"model.{name} ({type(encoder).__name__}) gives vectors but no grid of cells")
            dims.append(encoder.grid[2])
        self.network: PhraseNetwork = PhraseNetwork(dims, box_decoder.dim, 2)

    @property
    def streams(self) -> list[VideoEncoder]:
        """The encoders that look at frames."""
        return [self.video_encoder, self.grounding_encoder]

    def trainable_parts(self) -> dict[str, list[nn.Parameter]]:
        """Also `decoder`: the decoder and the queries."""
        parts = super().trainable_parts()
        return parts | {"decoder": parts["box_decoder"] + list(self.network.embedding.parameters())}

    def fit_vocabulary(self, texts: Iterable[GroundedText]) -> None:
        """Take all words of the phrases."""
        super().fit_vocabulary([*dict.fromkeys(p.split())] for text in texts for p in text.phrases)

    # ---- training ---------------------------------------------------------------------------------------

    def step(self, batch: GroundedClipBatch, stage: Literal["train", "val", "test", "predict"]) -> Step:
        """Losses of the current stage; in evaluation of both."""
        wanted = self.stage.losses if stage == "train" else [name for s in self.stages for name in s.losses]
        hot = self._hot(batch)
        grids = [encoder(x).grid for encoder, x in zip(self.streams, batch.frames, strict=True)]
        losses: dict[str, Tensor] = {}
        told: list[tuple[Tensor, CellTruth]] = []
        if "words" in wanted or "places" in wanted:
            for encoder, grid, head in zip(self.streams, grids, self.network.heads, strict=True):
                assert grid is not None
                true = cells(batch, hot, encoder.spec, (grid.shape[2], grid.shape[3]))
                out = head(grid)
                told.append((out[..., :-4], true))
                for name, value in self._dense(out, true, batch.mask).items():
                    losses[name] = losses.get(name, value.new_zeros(())) + value
        found = None
        if "giou" in wanted:
            assert grids[1] is not None
            hot, seen = self._with_absent(hot, batch, stage)
            answer = self.box_decoder(self.network.ask(hot), grids[1], batch.clip)
            parts, w = box_losses(answer.boxes, answer.logits, batch.boxes, seen), self.options.box
            losses["giou"] = w * parts.giou / self.normaliser(parts.boxes)
            losses["l1"] = w * parts.l1 / self.normaliser(parts.boxes)
            assert parts.objectness is not None
            losses["objectness"] = w * parts.objectness / self.normaliser(parts.pairs)
            found = (answer.boxes.detach(), answer.visible.detach())
        return Step(losses, Outputs(told, found))

    def _hot(self, batch: GroundedClipBatch) -> Tensor:
        """Words of every phrase, ``(N, V)`` bool; a phrase of unknown words alone has the last id."""
        assert self.words is not None
        phrases = [phrase for text in batch.captions for phrase in text.phrases]
        ids = [self.words.encode(phrase.split(), 100)[:-1] for phrase in phrases]
        hot = torch.zeros(len(ids), len(self.words), dtype=torch.bool)
        for row, words in zip(hot, ids, strict=True):
            row[words] = True
        return hot.to(self.device)

    def _dense(self, out: Tensor, true: CellTruth, mask: Tensor) -> dict[str, Tensor]:
        """Losses of the heads of one encoder: cross-entropies over all cells, differences over covered ones."""
        o, real = self.options, mask[:, :, None, None].expand_as(true.covered)
        words = F.binary_cross_entropy_with_logits(out[..., :-4], true.words.to(out.dtype), reduction="none")
        places = (out[..., -4:].sigmoid() - true.box).abs().sum(-1)
        covered = true.covered & real
        return {
            "words": o.words * (words.sum(-1) * real).sum() / self.normaliser(real.sum()),
            "places": o.places * (places * covered).sum() / self.normaliser(covered.sum()),
        }

    def _with_absent(self, hot: Tensor, batch: GroundedClipBatch, stage: str) -> tuple[Tensor, Tensor]:
        """Ask some clips for the phrase of another clip that they do not show; it is visible nowhere."""
        seen = batch.visible
        if stage != "train" or len(hot) < 2:
            return hot, seen
        other = torch.roll(torch.arange(len(hot), device=hot.device), int(torch.randint(1, len(hot), ()).item()))
        same = (hot[other][:, None] == hot[None]).all(-1)  # (N, N): phrases that are said alike
        shown = (same & (batch.clip[:, None] == batch.clip[None])).any(1)
        swap = (torch.rand(len(hot), device=hot.device) < self.options.absent) & ~shown
        return torch.where(swap[:, None], hot[other], hot), seen & ~swap[:, None]

    # ---- metrics ----------------------------------------------------------------------------------------

    def metric(self, stage: Literal["val", "test"]) -> MetricCollection:
        """Words of cells, and boxes of given phrases."""
        return MetricCollection({"cells": CellWords(), "given": GivenPhrases()}, compute_groups=False)

    def update_metric(self, metric: MetricCollection, outputs: Outputs, batch: GroundedClipBatch) -> None:
        """Add the clips of a batch."""
        index = batch.index.tolist()
        metric["cells"].update(index, cell_records(outputs.words))
        assert outputs.found is not None
        records = given_records(*outputs.found, batch.boxes, batch.visible, batch.clip, len(batch))
        metric["given"].update(index, records)

    def predictions(self, outputs: Outputs, batch: GroundedClipBatch) -> list[Prediction]:
        """None: nobody needs them."""
        return []


# ---- what is true of cells ------------------------------------------------------------------------------


def cell_middles(spec: FrameSpec, sizes: Tensor, grid: tuple[int, int]) -> Tensor:
    """Where the middles of an encoder's cells lie in frames of some sizes.

    Args:
        spec: how the encoder sees frames: padded, cut out of the middle, or squeezed.
        sizes: ``(B, 2)`` width and height of the original frames.
        grid: h, w.

    Returns:
        ``(B, h, w, 2)`` x and y as shares of the frame; beyond 1 in what was padded.
    """
    h, w = grid
    y, x = ((torch.arange(n, device=sizes.device) + 0.5) / n for n in (h, w))
    middles = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)  # shares of what the encoder sees
    if spec.pad:
        part = sizes.amax(1, keepdim=True) / sizes
        return middles * part[:, None, None]
    if spec.resize is not None and spec.size is not None:
        seen = torch.tensor([spec.size[1], spec.size[0]], device=sizes.device)
        if isinstance(spec.resize, int):
            whole = sizes * spec.resize / sizes.amin(1, keepdim=True)
        else:
            whole = torch.tensor([spec.resize[1], spec.resize[0]], device=sizes.device).expand_as(sizes)
        part = (seen / whole)[:, None, None]
        return (1 - part) / 2 + middles * part
    return middles.expand(len(sizes), -1, -1, -1)


def cells(batch: GroundedClipBatch, hot: Tensor, spec: FrameSpec, grid: tuple[int, int]) -> CellTruth:
    """What is true of the cells of one encoder; `hot` are the words ``(N, V)`` of the phrases."""
    (B, T), device = batch.mask.shape, hot.device
    middles = cell_middles(spec, batch.sizes.to(device), grid)[batch.clip]  # (N, h, w, 2)
    place = torch.arange(len(batch.clip), device=device) - torch.searchsorted(batch.clip, batch.clip)
    most = int(place.max()) + 1 if len(place) else 1
    away = (middles[:, None] - batch.boxes[:, :, None, None, :2]).abs()  # (N, T, h, w, 2)
    inside = (away <= batch.boxes[:, :, None, None, 2:] / 2).all(-1) & batch.visible[:, :, None, None]
    padded = torch.zeros(B, most, T, *grid, dtype=torch.bool, device=device)
    padded[batch.clip, place] = inside
    boxes = torch.zeros(B, most, T, 4, device=device)
    boxes[batch.clip, place] = batch.boxes
    said = torch.zeros(B, most, hot.shape[1], device=device)
    said[batch.clip, place] = hot.float()
    words = torch.einsum("bpthw,bpv->bthwv", padded.float(), said) > 0
    area = boxes[..., 2:].prod(-1)[..., None, None].expand_as(padded).masked_fill(~padded, float("inf"))
    smallest = area.argmin(1)  # (B, T, h, w)
    b, t = (torch.arange(n, device=device) for n in (B, T))
    box = boxes[b[:, None, None, None], smallest, t[:, None, None]]
    return CellTruth(words, box, padded.any(1))
