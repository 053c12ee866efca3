"""STG: when and where actions happen in untrimmed video, learned from narrations alone.

What, When, and Where? Self-Supervised Spatio-Temporal Grounding in Untrimmed Multi-Action Videos from Narrated
Instructions. Brian Chen, Nina Shvetsova, Andrew Rouditchenko, Daniel Kondermann, Samuel Thomas, Shih-Fu Chang,
Rogerio Feris, James Glass, Hilde Kuehne. CVPR 2024, arXiv:2303.16990. Released, without the selection of frames,
the losses and all temporal evaluation: github.com/brian7685/GroundingYouTube. The local branch is that of CoMMA
(Tan et al., NeurIPS 2021, arXiv:2110.10596).

A narration is about something that is to be seen somewhere around it. Of U candidate frames the T are chosen whose
optimal transport to the words is worth most (Eq. 2 and 3, `zoo.transport`). The global branch contrasts whole
stretches with sentences, f(V) with g(S); the local branch lets the cells of the chosen frames and the words attend
to each other, f'(v) with g'(s), and contrasts what comes out (Eq. 1 for both). In an untrimmed video the global
branch says which action is when, frame by frame, and the attention of the local branch where.

Differs from the paper (where the text is silent, contradicts itself or leaves a choice):

- With exact marginals every frame is assigned the same mass, so "top aggregated assignment" is a tie: frames are
  chosen by the similarity that their mass carries, sum_k Q_uk P_uk (`aggregate`). Ties go to the earlier frame,
  chosen frames are in the order of time; with a sentence for words the transport changes nothing.
- P is a cosine and `epsilon` counts in cosines; the released code divides by 0.1 first, so its 0.05 is 0.005 here.
- Similarity to cells (Table 5) is that of their sum, as f sees it; cells must be as wide as the frames' vectors.
- Eq. 1: margin 0.001, dot products without norm or temperature, the sum of both directions. The released training
  runs the form of MIL-NCE (`denominator: joint`, `margin: 0`), and, distributed, loses the local loss.
- Under DDP the global branch contrasts with the texts of all processes, the local one with its own.
  `local_group` caps the pairs further.
- A clip's global vector is the mean over all candidates, not over the chosen ones (released code, too).
- The released evaluation of the local branch drops the scale of the attention and one residual, and lets a last,
  incomplete window attend to zeros: a mismatch to training that `NetworkOptions.released_evaluation` restores in
  the first two points.
- Heat maps: see `InferenceOptions`. A window's map tells frames apart by how much attention they get; which frames
  show the action is the global branch's to say, so every frame's map is put on the same scale here.
- Adam as in the text (the code has AdamW); CoMMA's learning rate, 1e-4 (the paper's is not known); the code's
  linear warm-up and cosine.
- CLIP reads whole frames with its own normalisation (the released code forgot it); no random crops and flips.
- Candidates lie around the middle of the narration, not anywhere in it.
- S3D's words are MIL-NCE's words in its joint space (512 wide), then g and g'; the code projects 2048 wide ones.
- Temporal alignment sums cosines, the background having that of the threshold; the reference decoder sums
  logarithms of probabilities, of which there are none here.
- Audio: each pair of the three modalities is contrasted in both branches with weight 1; locally cells and sound
  attend to the same words, and the pair's vectors are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..zoo.batch import ActionBatch, MomentFeatures, NarrationBatch
from ..zoo.contrastive import contrastive_loss, gather
from ..zoo.heat_maps import normalise
from ..zoo.pair_attention import PairAttention, full_precision
from ..zoo.text.base import TextEncoder, TextFeatures
from ..zoo.transport import frame_scores, mean_scores, random_frames, spread_frames, top_frames
from ..zoo.video.base import VideoEncoder
from .base import Step
from .localizing import LocalizationTask, Located
from .schedules import Stage, Warmup

PAPER_STAGES = (Stage(losses=("global", "local"), lr=1e-4, epochs=10, schedule=Warmup(5000)),)
PAIRS = 64  # windows and texts whose attention is rolled out at a time


@dataclass(frozen=True)
class NetworkOptions:
    """The network; the defaults are the paper's.

    Attributes:
        dim: d, width of the joint spaces.
        stack: blocks of the local branch (Table 8).
        projection: of frames, sentences, cells and words: trained, or none, for encoders that share a space
            already (CLIP, MIL-NCE without training).
        frame: vector of a frame: the encoder's own (CLIP's class token), or the mean of its cells (Table 13).
        pool: of the candidates' f(V): mean, or the maximum, normalised (released option).
        released_evaluation: see the module.
    """

    dim: int = 512
    stack: tuple[Literal["cross", "self"], ...] = ("cross", "self", "cross")
    projection: Literal["linear", "identity"] = "linear"
    frame: Literal["encoder", "cells"] = "encoder"
    pool: Literal["mean", "max"] = "mean"
    released_evaluation: bool = False


@dataclass(frozen=True)
class SelectionOptions:
    """Which of the U candidates the local branch sees; the defaults are the paper's best (Table 5 and 10).

    Attributes:
        frames: T.
        method: transport to the words; the most similar frames; at random; spread over the narration's own time
            ("None" in Table 5); or all.
        text: similarity to words ("Local T") or to the sentence ("Global T").
        video: of the frame's vector ("Global V"), of the sum of its cells ("Local V"), or the mean of both.
        aggregate: how transport becomes a score per frame, see `zoo.transport.frame_scores`.
        epsilon: smoothness of the transport, in cosines.
        iterations: of Sinkhorn and Knopp's algorithm.
    """

    frames: int = 16
    method: Literal["sinkhorn", "top", "random", "narration", "all"] = "sinkhorn"
    text: Literal["words", "sentence"] = "words"
    video: Literal["frame", "cells", "both"] = "both"
    aggregate: Literal["weighted", "vote", "swav_sum"] = "weighted"
    epsilon: float = 0.05
    iterations: int = 50

    def __post_init__(self) -> None:
        if self.frames < 1 or self.iterations < 1 or not self.epsilon > 0:
            raise ValueError(
                f"frames={self.frames}, iterations={self.iterations}, epsilon={self.epsilon}: each is positive"
            )


@dataclass(frozen=True)
class LossOptions:
    """Eq. 1, for both branches.

    Attributes:
        margin: m.
        denominator: of the two directions, see `zoo.contrastive.contrastive_loss`.
        local_group: most clips that are contrasted with each other in the local branch; None takes the batch. A
            last clip that has a group to itself is left out.
    """

    margin: float = 0.001
    denominator: Literal["separate", "joint"] = "separate"
    local_group: int | None = None

    def __post_init__(self) -> None:
        if self.local_group is not None and self.local_group < 2:
            raise ValueError(f"local_group={self.local_group}: one clip alone has nothing to be told from")


@dataclass(frozen=True)
class InferenceOptions:
    """From similarities and attention to answers.

    Attributes:
        background: least cosine of a frame and its action; below, the frame is background. The paper's 0.5 suits
            trained projections.
        window: frames that the local branch sees together.
        heat: attention rolled out (the paper), or the cosine of sentence and cells (CLIP and MIL-NCE baselines).
        normalise: scale of rolled-out maps. `frame`: the least of a frame is 0, the mean 1. `window`: shares of
            the attention of a window (released), which depend on the window's length.
        threshold: from here on a cell belongs to the action. None: 1.5 by frame, 0.01 by window (the paper's; the
            code's default is 0.0001), 0.5 for cosines (the paper's).
    """

    background: float = 0.5
    window: int = 16
    heat: Literal["rollout", "similarity"] = "rollout"
    normalise: Literal["frame", "window"] = "frame"
    threshold: float | None = None

    @property
    def mask_threshold(self) -> float:
        """The threshold that counts."""
        if self.threshold is not None:
            return self.threshold
        return 0.5 if self.heat == "similarity" else 1.5 if self.normalise == "frame" else 0.01


class Projected(NamedTuple):
    """A batch in the joint spaces; B clips, U candidates.

    Attributes:
        frames: ``(B, U, d)`` f of every candidate.
        sentences: ``(B, d)`` g of the narrations.
        text: words and sentences as encoded.
    """

    frames: Tensor
    sentences: Tensor
    text: TextFeatures


def dot_products(a: Tensor, b: Tensor) -> Tensor:
    """``(..., n, d)`` and ``(..., m, d)`` give ``(..., n, m)``, in single precision under autocast, too.

    In bfloat16 a product of 188 is told from 187 only, far above any margin, and cosines tie.
    """
    wide = torch.promote_types(a.dtype, torch.float32)
    with full_precision(a.device):
        return a.to(wide) @ b.to(wide).mT


# ---- network (Sec. 3.2 to 3.4) --------------------------------------------------------------------------


class STGNetwork(nn.Module):
    """Projections of both branches and the attention of the local one.

    Args:
        frame_dim: width of a frame's vector.
        cell_dim: width of a cell.
        text_dim: width of words and sentences.
        sound_dim: width of a moment of sound; None: no audio branch.
        options: see `NetworkOptions`.

    Raises:
        ValueError: widths differ where nothing projects them.
    """

    def __init__(
        self,
        frame_dim: int,
        cell_dim: int,
        text_dim: int,
        sound_dim: int | None = None,
        options: NetworkOptions | None = None,
    ) -> None:
        super().__init__()
        o = self.options = options or NetworkOptions()
        widths = {"frames": frame_dim, "cells": cell_dim, "text": text_dim}
        if o.projection == "identity" and set(widths.values()) != {o.dim}:
            raise ValueError(f"projection: identity needs frames, cells and text of width {o.dim}, not {widths}")
        self.widths = widths

        def project(width: int) -> nn.Module:
            return nn.Identity() if o.projection == "identity" else nn.Linear(width, o.dim)

        self.f, self.g = project(frame_dim), project(text_dim)
        self.f_local, self.g_local = project(cell_dim), project(text_dim)
        self.local = PairAttention(o.dim, o.stack, scale_in_evaluation=not o.released_evaluation)
        if sound_dim is not None:
            self.h, self.h_local = nn.Linear(sound_dim, o.dim), nn.Linear(sound_dim, o.dim)
            self.local_sound = PairAttention(o.dim, o.stack)

    def pool(self, frames: Tensor, mask: Tensor) -> Tensor:
        """One vector per clip from those of its moments, ``(B, U, d)`` -> ``(B, d)``."""
        if self.options.pool == "max":
            return F.normalize(frames.masked_fill(~mask[..., None], -torch.inf).amax(1), dim=-1)
        return (frames * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)

    def similarity(
        self, p: Projected, grid: Tensor, text: Literal["words", "sentence"], video: str
    ) -> tuple[Tensor, Tensor]:
        """P, ``(B, U, K)`` cosines of candidates and words, and the words' mask ``(B, K)`` (Sec. 3.2).

        Args:
            p: frames and texts.
            grid: ``(B, U, h, w, C)``.
            text: `words`, or `sentence` for K = 1.
            video: `frame`, `cells` or `both`.
        """
        if text == "words":
            words, mask = self.g(p.text.words), p.text.mask
        else:
            words, mask = p.sentences[:, None], p.text.mask[:, :1]
        words = F.normalize(words.float(), dim=-1)
        found = []
        if video in ("frame", "both"):
            found.append(dot_products(F.normalize(p.frames.float(), dim=-1), words))
        if video in ("cells", "both"):
            cells = self.f(grid.mean((2, 3)))  # dot products add up: no need to project each cell
            found.append(dot_products(F.normalize(cells.float(), dim=-1), words))
        return torch.stack(found).mean(0), mask


# ---- the task -------------------------------------------------------------------------------------------


class STG(LocalizationTask):
    """Spatio-temporal grounding learned from narrated video.

    Args:
        video_encoder: gives a vector and a grid of cells per moment; the paper's are CLIP and S3D-G.
        text_encoder: gives words and sentences; CLIP's text tower, or MIL-NCE's on word2vec.
        audio_encoder: hears the stretch; None: no audio branch.
        max_cells: grids larger than this in a direction are averaged down to it.
        network: see `NetworkOptions`.
        selection: see `SelectionOptions`.
        loss: see `LossOptions`.
        inference: see `InferenceOptions`.
        stages: training schedule; None is the paper's. Losses are `global` and `local`; a stage of `global` alone
            warms the selection up.

    Raises:
        ValueError: the encoder has no grid, or widths do not fit.
    """

    network: STGNetwork
    audio_encoder: VideoEncoder | None

    def __init__(
        self,
        video_encoder: VideoEncoder,
        text_encoder: TextEncoder,
        audio_encoder: VideoEncoder | None = None,
        max_cells: int | None = 7,
        network: NetworkOptions | None = None,
        selection: SelectionOptions | None = None,
        loss: LossOptions | None = None,
        inference: InferenceOptions | None = None,
        stages: Sequence[Stage] | None = None,
    ) -> None:
        self.inference = inference or InferenceOptions()
        super().__init__(
            {"video_encoder": video_encoder, "text_encoder": text_encoder, "audio_encoder": audio_encoder},
            max_cells,
            self.inference.background,
            self.inference.mask_threshold,
            self.inference.window,
            PAPER_STAGES if stages is None else stages,
        )
        assert video_encoder.grid is not None
        self.selection, self.loss = selection or SelectionOptions(), loss or LossOptions()
        if audio_encoder is not None and not audio_encoder.spec.sound:
            raise ValueError(f"model.audio_encoder ({type(audio_encoder).__name__}) looks, it does not listen")
        sound_dim = None if audio_encoder is None else audio_encoder.dim
        cell_dim = video_encoder.grid[2]
        frame_dim = cell_dim if network is not None and network.frame == "cells" else video_encoder.dim
        self.network = STGNetwork(frame_dim, cell_dim, text_encoder.dim, sound_dim, network)
        by_cells = self.selection.method in ("sinkhorn", "top") and self.selection.video != "frame"
        if (by_cells or self.inference.heat == "similarity") and frame_dim != cell_dim:
            raise ValueError(
                f"frames are {frame_dim} wide, cells {cell_dim}: f reads frames only. Set model.selection.video "
                "to frame and model.inference.heat to rollout, or model.network.frame to cells"
            )

    # ---- training ---------------------------------------------------------------------------------------

    def step(self, batch: NarrationBatch | ActionBatch, stage: Literal["train", "val", "test", "predict"]) -> Step:
        """Losses of narrations, or where the actions of a stretch are."""
        if isinstance(batch, ActionBatch):
            return Step({}, self.locate_batch(batch))
        vectors, grid = self._seen(batch.features)
        text = self.text_encoder(batch.texts)
        p = Projected(self.network.f(vectors), self.network.g(text.sentence), text)
        sound = None if batch.sound is None else self._hear(batch.sound)
        losses = {}
        if "global" in self.stage.losses:
            losses["global"] = self._global_loss(p, batch.mask, sound)
        if "local" in self.stage.losses:
            losses["local"] = self._local_loss(p, grid, batch, sound)
        return Step(losses, None)

    def _seen(self, features: MomentFeatures) -> tuple[Tensor, Tensor]:
        """Vectors of frames ``(..., D)`` and their cells ``(..., h, w, C)``."""
        vectors, grid = features.encoded
        return grid.mean((-3, -2)) if self.network.options.frame == "cells" else vectors, grid

    def _hear(self, sound: Tensor) -> Tensor:
        """Units of sound ``(B, A, D)``."""
        assert self.audio_encoder is not None
        heard: Tensor = self.audio_encoder(sound).frames
        return heard

    def _contrast(self, scores: Tensor) -> Tensor:
        return contrastive_loss(scores, self.loss.margin, self.loss.denominator)

    def _global_loss(self, p: Projected, mask: Tensor, sound: Tensor | None) -> Tensor:
        """Sec. 3.4: stretches with sentences of all processes; with sound, all three pairs."""
        v, s = gather(self.network.pool(p.frames, mask)), gather(p.sentences)
        total = self._contrast(dot_products(v, s))
        if sound is not None:
            a = gather(self.network.h(sound).mean(1))
            total = total + self._contrast(dot_products(v, a)) + self._contrast(dot_products(a, s))
        return total

    def _local_loss(self, p: Projected, grid: Tensor, batch: NarrationBatch, sound: Tensor | None) -> Tensor:
        """Sec. 3.3: chosen frames with words, within groups of this process."""
        index, chosen = self.select(p, grid, batch)
        cells = grid.gather(1, index[:, :, None, None, None].expand(-1, -1, *grid.shape[2:]))
        regions = self.network.f_local(cells.flatten(1, 3))
        region_mask = chosen.repeat_interleave(grid.shape[2] * grid.shape[3], dim=1)
        words, mask = self.network.g_local(p.text.words), p.text.mask
        heard = None if sound is None else self.network.h_local(sound)
        size = self.loss.local_group or len(words)
        losses = []
        groups = zip(*(x.split(size) for x in (regions, region_mask, words, mask)), strict=True)
        for k, (cells, seen, said_words, known) in enumerate(groups):
            if len(cells) > 1 or k == 0:  # a last clip alone has nothing to be told from
                video, text = self.network.local(cells, said_words, known, seen)
                losses.append(self._contrast((video * text).sum(-1)))
                if heard is not None:
                    audio, said = self.network.local_sound(heard.split(size)[k], said_words, known)
                    losses[-1] = losses[-1] + self._contrast((audio * said).sum(-1))
                    losses[-1] = losses[-1] + self._contrast((video * audio).sum(-1))
        return torch.stack(losses).mean()

    @torch.no_grad()
    def select(self, p: Projected, grid: Tensor, batch: NarrationBatch) -> tuple[Tensor, Tensor]:
        """Sec. 3.2: which candidates the local branch sees.

        Returns:
            ``(B, T)`` int64 in the order of time, and ``(B, T)`` bool, False = padding.
        """
        s, mask = self.selection, batch.mask
        if s.method == "all":
            return top_frames(torch.zeros_like(batch.times_s), mask, mask.shape[1])
        if s.method == "random":
            return random_frames(mask, s.frames)
        if s.method == "narration":
            told = mask & batch.inside
            return spread_frames(torch.where(told.any(1, keepdim=True), told, mask), s.frames)
        similarity, words = self.network.similarity(p, grid, s.text, s.video)
        if s.method == "top":
            scores = mean_scores(similarity, mask, words)
        else:
            scores = frame_scores(similarity, mask, words, s.aggregate, s.epsilon, s.iterations)
        return top_frames(scores, mask, s.frames)

    # ---- inference (Sec. 3.5) ---------------------------------------------------------------------------

    def locate(
        self,
        features: MomentFeatures,
        text: TextFeatures,
        given: int | None = None,
        background: float | None = None,
    ) -> Located:
        """See `LocalizationTask.locate`: the class of each frame by f and g, its place by the local branch."""
        vectors, grid = self._seen(features)
        frames = F.normalize(self.network.f(vectors).float(), dim=-1)
        similarity = dot_products(frames, F.normalize(self.network.g(text.sentence).float(), dim=-1))
        best = similarity.max(-1)
        least = self.inference.background if background is None else background
        labels = torch.where(best.values >= least, best.indices, -1)
        if given is not None:
            labels = torch.full_like(labels, given)
        heat = self._similar_cells if self.inference.heat == "similarity" else self._rolled_out
        return Located(similarity, labels, heat(grid, text, labels))

    def _similar_cells(self, grid: Tensor, text: TextFeatures, labels: Tensor) -> Tensor:
        """Cosines of every frame's cells and the sentence of its action, ``(n, h, w)``; 0 in the background."""
        cells = F.normalize(self.network.f(grid).float(), dim=-1)
        sentences = F.normalize(self.network.g(text.sentence).float(), dim=-1)[labels.clamp(min=0)]
        cosines = dot_products(cells.flatten(1, 2), sentences[:, None])
        return cosines.view(cells.shape[:3]) * (labels >= 0)[:, None, None]

    def _rolled_out(self, grid: Tensor, text: TextFeatures, labels: Tensor) -> Tensor:
        """Attention that every frame's cells get from its action, ``(n, h, w)``; 0 in the background.

        Windows of frames are looked at together, once for each action that one of their frames shows.
        """
        (n, h, w), size = grid.shape[:3], self.inference.window
        windows = -(-n // size)
        regions = F.pad(self.network.f_local(grid.flatten(1, 2)), (0, 0, 0, 0, 0, windows * size - n))
        regions = regions.unflatten(0, (windows, size)).flatten(1, 2)  # (windows, size h w, d)
        shown = torch.arange(windows * size, device=grid.device) < n
        mask = shown.view(windows, size).repeat_interleave(h * w, dim=1)
        words = self.network.g_local(text.words)
        at = torch.arange(n, device=grid.device)
        pairs = torch.stack([at // size, labels], dim=1)[labels >= 0].unique(dim=0)
        heat = grid.new_zeros(n, h, w, dtype=torch.float32)
        for some in pairs.split(PAIRS) if len(pairs) else ():
            window, action = some.unbind(1)
            rolled = self.network.local.heat(regions[window], words[action], text.mask[action], mask[window])
            maps = rolled.float().view(len(some), size, h, w)
            frame = window[:, None] * size + torch.arange(size, device=grid.device)
            inside = frame < n
            own = inside & (labels[frame.clamp(max=n - 1)] == action[:, None])
            heat[frame[own]] = maps[own]
        return normalise(heat, self.inference.normalise)
