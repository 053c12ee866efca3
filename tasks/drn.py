"""DRN: dense regression from every clip of a video to the start and end of the moment a sentence describes.

Dense Regression Network for Video Grounding. Runhao Zeng, Haoming Xu, Wenbing Huang, Peihao Chen, Mingkui
Tan, Chuang Gan. CVPR 2020. arXiv:2004.03545. Released code: github.com/Alvin-Zeng/DRN.

Every location t of a three-level pyramid predicts its distances to the start and end of the moment (Eq. 1),
how well it matches the query, and the IoU its own box will have. Distances are in clips, T of them per video;
boxes leave the network as shares of the duration.

Differs from the paper (``released`` = what the authors' code does instead, a switch of this file):

- Eq. 5 to 7 count every location inside the moment, on every level; released: a level takes the locations
  whose larger distance falls in its range (`LossOptions.level_ranges`), and the normaliser of Eq. 6 is
  N_pos + batch size (`match_normaliser`).
- Eq. 7 is summed over t and averaged over the batch; released: the mean over locations whose IoU exceeds
  0.9 (`quality_min_iou`, `quality_reduction`).
- The IoU target is a constant on boxes clipped to the video, as at test time; released: its gradient reaches
  the distances, and only the first location is clipped (`detach_quality_target`, `clip_quality_boxes`).
- Frozen parts keep their batch norm statistics; released: they drift (`Stage.keep_batchnorm`). The released
  second step lets gradients of frozen parts pile up and enter the clip norm: a bug, not offered.
- The paper multiplies each map with its query feature; like the released code, this is done to the *input*
  of each backbone stage. l_t is computed from the clips' frame numbers, which rounds ((t - 0.5)/T, ...).
- Scores are sqrt(m u), which ranks as m u does. Locations with m <= 0.05 are dropped, as released; where
  nothing is left the answer is the whole video with score 0 (released: 1).
- Clips pool the maximum of features that are never negative (behind a ReLU, as all of the paper's), the mean of
  others; released: always the maximum (`clips.reduce`).
- DRN-Half, -Random and -Center (Table 4): the locations not chosen become negatives of Eq. 6.
- Stage 3 uses the paper's learning rate 1e-6 (released: 1e-7). Checkpoints are chosen on held-out training
  videos where a data set has no validation split (released: on the test split).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..zoo.batch import GroundingBatch
from ..zoo.losses import interval_iou_loss, sigmoid_focal_loss
from ..zoo.pyramid import ConvBNReLU, FeaturePyramid, TemporalConv
from ..zoo.temporal import tiou
from ..zoo.text.base import TextEncoder, TextFeatures
from ..zoo.video.base import VideoEncoder
from ..zoo.video.clips import ClipPooling
from .base import Step
from .moments import Candidates, MomentTask
from .schedules import Stage

MAX_LOG_DISTANCE = 12.0  # exp(12) clips is longer than any video and far from overflow


@dataclass(frozen=True)
class NetworkOptions:
    """Widths and variants of the network; the defaults are the paper's.

    Attributes:
        video_dim: width of the projected clip features; None keeps the encoder's.
        channels: C_i, channels of the backbone stages; their number is the number of levels.
        pyramid_dim: channels of P_i and of the heads.
        location_dim: width of the location embedding.
        attention_dim: width of W_3 g in Eq. 3.
        fusion: where the query enters (Table 6): `multi` attends to words anew at every level, `same` uses
            one query feature for all levels (MLF-Same), `first` fuses at the first level only (no MLF).
        location: whether the location embedding is used (Table 6).
        quality: what ranks boxes beside the matching score (Table 5). With `none` the quality loss and the
            stages that train nothing else are left out of the schedule.
    """

    video_dim: int | None = None
    channels: tuple[int, ...] = (256, 512, 1024)
    pyramid_dim: int = 512
    location_dim: int = 256
    attention_dim: int = 512
    fusion: Literal["multi", "same", "first"] = "multi"
    location: bool = True
    quality: Literal["iou", "centerness", "none"] = "iou"


@dataclass(frozen=True)
class LossOptions:
    """Which locations the losses see; the defaults follow the paper's text.

    Attributes:
        positives: locations inside the moment that count as positive (Table 4).
        level_ranges: per level, the range in clips that the larger of a location's two distances must fall
            in; None takes every location inside the moment on every level.
        match_normaliser: what Eq. 6 is divided by.
        quality_min_iou: only boxes with an IoU above this train the IoU head; None takes all.
        quality_reduction: Eq. 7 summed over locations and averaged over queries, or averaged over both.
        detach_quality_target: the IoU target is a constant.
        clip_quality_boxes: boxes are clipped to the video before their IoU: all, or the first location's.
    """

    positives: Literal["all", "half", "random", "center"] = "all"
    level_ranges: tuple[tuple[float, float], ...] | None = None
    match_normaliser: Literal["positives", "positives_and_batch"] = "positives"
    quality_min_iou: float | None = None
    quality_reduction: Literal["sum", "mean"] = "sum"
    detach_quality_target: bool = True
    clip_quality_boxes: Literal["all", "first"] = "all"


RELEASED_LOSS = LossOptions(
    level_ranges=((-1, 6), (5.6, 11), (11, 1e8)),
    match_normaliser="positives_and_batch",
    quality_min_iou=0.9,
    quality_reduction="mean",
    detach_quality_target=False,
    clip_quality_boxes="first",
)

PAPER_STAGES = (
    Stage(losses=("match", "location"), train="grounder", lr=1e-3, epochs=10),
    Stage(losses=("quality",), train="quality", lr=1e-5, epochs=40),
    Stage(losses=("match", "location", "quality"), train="all", lr=1e-6, epochs=10),
)


def without_quality(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """The stages without the quality loss; those that train nothing else are left out."""
    kept = [replace(s, losses=tuple(name for name in s.losses if name != "quality")) for s in stages]
    return tuple(s for s in kept if s.losses)


class DRNOutput(NamedTuple):
    """Dense predictions; L = sum of T_k over levels, finest level first, time order inside a level.

    Attributes:
        match_logits: ``(B, L)``.
        distances: ``(B, L, 2)`` to start and end, in clips, > 0, float32.
        quality_logits: ``(B, L)``, or None without a quality head.
        locations: ``(L,)`` centre of every location in clips, 0 to T.
        levels: ``(L,)`` int64.
        num_clips: T.
    """

    match_logits: Tensor
    distances: Tensor
    quality_logits: Tensor | None
    locations: Tensor
    levels: Tensor
    num_clips: int

    @property
    def boxes(self) -> Tensor:
        """Eq. 1 as shares of the video, ``(B, L, 2)``, not clipped."""
        start = self.locations - self.distances[..., 0]
        end = self.locations + self.distances[..., 1]
        return torch.stack([start, end], dim=-1) / self.num_clips


# ---- network (Sec. 3.2 to 3.5) --------------------------------------------------------------------------


class TextualAttention(nn.Module):
    """Eq. 3: one attended query feature q_i per level; W_1 and W_3 are shared, W_2 is the level's own."""

    def __init__(self, word_dim: int, attention_dim: int, levels: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(word_dim, 1)
        self.w2 = nn.ModuleList(nn.Linear(attention_dim, word_dim) for _ in range(levels))
        self.w3 = nn.Linear(2 * word_dim, attention_dim)
        for linear in (self.w1, *self.w2, self.w3):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, words: Tensor, mask: Tensor) -> list[Tensor]:
        """``(B, N, D)`` words and ``(B, N)`` mask -> per level ``(B, D)``."""
        last = mask.sum(1) - 1
        g = torch.cat([words[:, 0], words[torch.arange(len(words), device=words.device), last]], dim=-1)
        hidden = F.relu(self.w3(g))
        attended = []
        for w2 in self.w2:
            scores = self.w1(words * w2(hidden)[:, None]).squeeze(-1).float()
            alpha = scores.masked_fill(~mask, -1e30).softmax(-1).to(words.dtype)
            attended.append(torch.einsum("bn,bnd->bd", alpha, words))
        return attended


class GroundingHead(nn.Module):
    """The location, matching and quality heads, shared by all levels."""

    def __init__(self, dim: int, levels: int, quality: Literal["iou", "centerness", "none"]) -> None:
        super().__init__()
        self.match_tower = ConvBNReLU(dim, dim, bias=True)
        self.location_tower = ConvBNReLU(dim, dim, bias=True)
        self.match = TemporalConv(dim, 1)
        self.distance = TemporalConv(dim, 2)
        self.scales = nn.ParameterList(torch.ones(1) for _ in range(levels))
        self.quality: nn.Module | None = None
        if quality == "iou":  # three layers (Sec. 3.5)
            self.quality = nn.Sequential(
                ConvBNReLU(2 * dim, dim, kernel=1, bias=True),
                ConvBNReLU(dim, dim // 2, bias=True),
                TemporalConv(dim // 2, 1, kernel=1),
            )
        elif quality == "centerness":
            self.quality = TemporalConv(dim, 1)
        self.kind = quality
        for module in self.modules():
            if isinstance(module, nn.Conv1d):
                nn.init.normal_(module.weight, std=0.01)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        assert self.match.bias is not None
        nn.init.constant_(self.match.bias, -4.595)  # a prior of 0.01 for the focal loss

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Per level ``(B, dim, T_k)`` -> match ``(B, L)``, distances ``(B, L, 2)``, quality ``(B, L)``."""
        match, distance, quality = [], [], []
        for k, x in enumerate(maps):
            matching, locating = self.match_tower(x), self.location_tower(x)
            match.append(self.match(matching).squeeze(1))
            with torch.autocast(x.device.type, enabled=False):  # exp in bf16 loses a clip in a hundred
                log_distance = self.scales[k] * self.distance(locating.float())
                distance.append(log_distance.clamp(max=MAX_LOG_DISTANCE).exp().transpose(1, 2))
            if self.quality is not None:
                seen = torch.cat([matching, locating], dim=1) if self.kind == "iou" else matching
                quality.append(self.quality(seen).squeeze(1))
        return torch.cat(match, 1), torch.cat(distance, 1), torch.cat(quality, 1) if quality else None


class DRNNetwork(nn.Module):
    """The dense regression network, on clip features and word features.

    Args:
        clip_dim: width of the clip features.
        word_dim: width of the word features.
        options: widths and variants.
    """

    def __init__(self, clip_dim: int, word_dim: int, options: NetworkOptions | None = None) -> None:
        super().__init__()
        o = options or NetworkOptions()
        levels, video_dim = len(o.channels), o.video_dim or clip_dim
        fused = levels if o.fusion != "first" else 1
        location_dim = o.location_dim if o.location else 0
        in_dims = (video_dim, *o.channels[:-1])
        self.fusion = o.fusion
        self.video_projection = nn.Linear(clip_dim, video_dim)
        self.location_embedding = nn.Linear(3, location_dim) if o.location else None
        self.attention = TextualAttention(word_dim, o.attention_dim, fused if o.fusion == "multi" else 1)
        self.query_projection = nn.ModuleList(nn.Linear(word_dim, d) for d in in_dims[:fused])
        self.backbone = nn.ModuleList(
            ConvBNReLU(d + (location_dim if k == 0 else 0), c, stride=1 if k == 0 else 2)
            for k, (d, c) in enumerate(zip(in_dims, o.channels, strict=True))
        )
        self.pyramid = FeaturePyramid(o.channels, o.pyramid_dim)
        self.head = GroundingHead(o.pyramid_dim, levels, o.quality)

    def fused_maps(self, clips: Tensor, bounds: Tensor, video_index: Tensor, text: TextFeatures) -> list[Tensor]:
        """C_i: the backbone's maps, ``(B, channels[i], T_i)`` each; arguments as in `forward`."""
        queries = self.attention(text.words, text.mask)
        queries = queries if self.fusion == "multi" else queries * len(self.query_projection)
        gates = [project(q) for project, q in zip(self.query_projection, queries, strict=True)]
        x, gate = self.video_projection(clips), gates[0]
        if self.location_embedding is not None:  # l_t = (start, end, end - start), not gated by the query
            place = torch.cat([bounds, bounds[..., 1:] - bounds[..., :1]], dim=-1).to(clips.dtype)
            location = self.location_embedding(place).to(x.dtype)
            x, gate = torch.cat([x, location], dim=-1), F.pad(gate, (0, location.shape[-1]), value=1.0)
        x = x if len(x) == 1 else x[video_index]  # one video is broadcast to all its queries
        x = (x * gate[:, None]).transpose(1, 2)
        maps = []
        for k, stage in enumerate(self.backbone):
            if 0 < k < len(gates):
                x = x * gates[k][:, :, None]
            x = stage(x)
            maps.append(x)
        return maps

    def forward(self, clips: Tensor, bounds: Tensor, video_index: Tensor, text: TextFeatures) -> DRNOutput:
        """Predict densely. V videos with T clips each, B queries.

        Args:
            clips: ``(V, T, clip_dim)`` float.
            bounds: ``(V, T, 2)`` start and end of each clip, as share of the video.
            video_index: ``(B,)`` int64, the video each query asks about.
            text: words ``(B, N, word_dim)`` and their mask ``(B, N)``.

        Returns:
            Predictions at all L locations of the pyramid, ``(B, L)``.
        """
        maps = self.pyramid(self.fused_maps(clips, bounds, video_index, text))
        match, distances, quality = self.head(maps)
        lengths = [x.shape[-1] for x in maps]
        locations = [2.0**k * (torch.arange(n, device=match.device) + 0.5) for k, n in enumerate(lengths)]
        levels = [torch.full((n,), k, device=match.device) for k, n in enumerate(lengths)]
        return DRNOutput(match, distances, quality, torch.cat(locations), torch.cat(levels), clips.shape[1])


# ---- targets and losses (Sec. 3.3 to 3.6) ---------------------------------------------------------------


def assign_targets(
    moments: Tensor,
    locations: Tensor,
    levels: Tensor,
    num_clips: int,
    options: LossOptions,
) -> tuple[Tensor, Tensor]:
    """Which locations are positive, and their distances to the moment (Eq. 4).

    Args:
        moments: ``(B, 2)`` true start and end as shares of the video.
        locations: ``(L,)`` in clips.
        levels: ``(L,)`` int64.
        num_clips: T.
        options: the rule.

    Returns:
        ``(B, L)`` bool, and ``(B, L, 2)`` distances in clips, negative outside the moment.
    """
    scaled = (moments * num_clips).to(locations.dtype)
    distances = torch.stack([locations - scaled[:, :1], scaled[:, 1:] - locations], dim=-1)
    positive = distances.amin(-1) > 0
    if options.level_ranges is not None:
        if len(options.level_ranges) <= int(levels.max()):
            raise ValueError(
                f"level_ranges names {len(options.level_ranges)} levels, the network has {int(levels.max()) + 1}"
            )
        low, high = torch.tensor(options.level_ranges, device=levels.device)[levels].unbind(-1)
        larger = distances.amax(-1)
        positive &= (low <= larger) & (larger <= high)
    if options.positives != "all":
        if options.positives == "center":  # the nearest to the middle, the finest level on a tie
            key = (distances[..., 0] - distances[..., 1]).abs() + 1e-3 * levels
        else:
            key = torch.rand(positive.shape, device=positive.device)
        rank = key.masked_fill(~positive, torch.inf).argsort(1).argsort(1)
        inside = positive.sum(1, keepdim=True)
        positive &= rank < ((inside + 1) // 2 if options.positives == "half" else 1)
    return positive, distances


def drn_losses(
    output: DRNOutput,
    moments: Tensor,
    options: LossOptions,
    quality: Literal["iou", "centerness", "none"] = "iou",
    normaliser: Callable[[Tensor], Tensor] = lambda count: count.clamp(min=1),
) -> dict[str, Tensor]:
    """Eq. 5, 6 and 7, in float32 and without a loop over samples.

    Args:
        output: predictions for B queries.
        moments: ``(B, 2)`` truth, as shares of the video.
        options: which locations count.
        quality: the kind of quality head.
        normaliser: turns a count of this process into what a sum is divided by; see `Task.normaliser`.

    Returns:
        Scalars ``match``, ``location`` and, with a quality head, ``quality``.
    """
    positive, targets = assign_targets(moments, output.locations, output.levels, output.num_clips, options)
    B = moments.shape[0]
    num_positive = normaliser(positive.sum().float())
    extra = B if options.match_normaliser == "positives_and_batch" else 0
    focal = sigmoid_focal_loss(output.match_logits.float(), positive)  # Eq. 6
    targets = torch.where(positive[..., None], targets, 1.0)  # keeps the log finite outside
    regression = torch.where(positive, interval_iou_loss(output.distances, targets), 0.0)  # Eq. 5
    losses = {
        "match": focal.sum() / normaliser(positive.sum().float() + extra),
        "location": regression.sum() / num_positive,
    }
    if output.quality_logits is None:
        return losses
    logits = output.quality_logits.float()
    if quality == "centerness":  # FCOS: sqrt(min / max) inside the moment
        centre = (targets.amin(-1) / targets.amax(-1)).clamp(min=0).sqrt()
        entropy = F.binary_cross_entropy_with_logits(logits, centre, reduction="none")
        losses["quality"] = (entropy * positive).sum() / num_positive
        return losses
    boxes = output.boxes
    if options.clip_quality_boxes == "all":
        boxes = boxes.clamp(0, 1)
    else:
        boxes = torch.cat([boxes[:, :1].clamp(0, 1), boxes[:, 1:]], dim=1)
    iou = tiou(boxes, moments[:, None].to(boxes.dtype))
    iou = iou.detach() if options.detach_quality_target else iou
    counted = torch.ones_like(positive) if options.quality_min_iou is None else iou > options.quality_min_iou
    smooth = F.smooth_l1_loss(logits.sigmoid(), iou, reduction="none") * counted  # Eq. 7
    if options.quality_reduction == "mean":
        losses["quality"] = smooth.sum() / normaliser(counted.sum().float())
    else:
        losses["quality"] = smooth.sum() / B
    return losses


# ---- inference ------------------------------------------------------------------------------------------


def decode(output: DRNOutput, use_quality: bool, threshold: float = 0.05, empty_score: float = 0.0) -> Candidates:
    """Boxes and scores of all locations.

    Args:
        output: the network's.
        use_quality: rank by sqrt(m u), else by sqrt(m).
        threshold: locations with a matching score m of at most this are dropped.
        empty_score: score of the whole video, the answer where no location is left.
    """
    match = output.match_logits.float().sigmoid()
    valid = match > threshold
    score = match
    if use_quality and output.quality_logits is not None:
        score = match * output.quality_logits.float().sigmoid()
    boxes, scores = output.boxes.clamp(0, 1), score.sqrt()
    empty = ~valid.any(1)
    first = empty[:, None] & (torch.arange(match.shape[1], device=match.device) == 0)
    boxes = torch.where(first[..., None], boxes.new_tensor([0.0, 1.0]), boxes)
    return Candidates(boxes, torch.where(first, empty_score, scores), valid | first)


class DRN(MomentTask):
    """Dense Regression Network (CVPR 2020): finds the moment of a video that a sentence describes.

    Args:
        video_encoder: what turns frames into features; `Precomputed` for features on disk.
        text_encoder: what reads the query; the paper's is `WordLSTM` on GloVe.
        clips: how a video is cut into T clips.
        network: widths and variants (Tables 5 and 6).
        loss: which locations train what (Table 4, and the released code's rules).
        stages: None is the paper's three steps (Sec. 3.6).
        score_threshold: locations with a lower matching score are dropped at inference.
        nms_threshold: IoU above which the weaker of two moments is dropped, in `predict` and `ground`; the
            metric has the protocol of the benchmark.
    """

    def __init__(
        self,
        video_encoder: VideoEncoder,
        text_encoder: TextEncoder,
        clips: ClipPooling = ClipPooling(),  # noqa: B008 - frozen
        network: NetworkOptions = NetworkOptions(),
        loss: LossOptions = LossOptions(),
        stages: Sequence[Stage] | None = None,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.45,
    ) -> None:
        stages = PAPER_STAGES if stages is None else stages
        if network.quality == "none":
            stages = without_quality(stages)
        super().__init__(video_encoder, text_encoder, stages, clips, nms_threshold)
        self.loss, self.quality, self.score_threshold = loss, network.quality, score_threshold
        self.network = DRNNetwork(video_encoder.dim, text_encoder.dim, network)

    def trainable_parts(self) -> dict[str, list[nn.Parameter]]:
        """`grounder` is everything but the quality head, `quality` the head alone."""
        assert isinstance(self.network, DRNNetwork)
        parts = super().trainable_parts()
        head = self.network.head.quality
        quality = [] if head is None else list(head.parameters())
        chosen = set(quality)
        return parts | {"quality": quality, "grounder": [p for p in parts["all"] if p not in chosen]}

    @property
    def ranks_by_quality(self) -> bool:
        """The quality head ranks from the first stage on that trains it."""
        return any("quality" in stage.losses for stage in self.stages[: self.stage_index + 1])

    def step(self, batch: GroundingBatch, stage: str) -> Step:
        """Losses of Eq. 5 to 7 and scored boxes."""
        text = self.text_encoder(batch.queries)
        output: DRNOutput = self.network(batch.clips, batch.bounds, batch.video_index, text)
        losses = {}
        if stage != "predict":
            losses = drn_losses(output, batch.moments, self.loss, self.quality, self.normaliser)
        use_quality = self.ranks_by_quality
        return Step(losses, None if stage == "train" else decode(output, use_quality, self.score_threshold))
