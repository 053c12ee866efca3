"""What tasks answer that find actions in untrimmed video: when each one is, and where."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torchmetrics import MetricCollection

from ..zoo.batch import ActionBatch, MomentFeatures
from ..zoo.encoder import Encoder
from ..zoo.heat_maps import mask_boxes, masks, peaks
from ..zoo.text.base import TextFeatures
from ..zoo.video.base import VideoEncoder, pool_cells
from .base import Prediction, Task
from .metrics.spatial_grounding import SpatialGrounding, spatial_record
from .metrics.spatio_temporal import SpatioTemporalGrounding, runs, untrimmed_record
from .metrics.temporal_alignment import TemporalGrounding, align, temporal_record
from .schedules import Stage

ENCODED = 256  # passes of a frozen encoder at a time
RASTER = 320  # longest side in pixels of the raster that boxes are drawn on
JUDGED = {  # by protocol: the metric, and which of its values picks checkpoints
    "untrimmed": (SpatioTemporalGrounding, "IoU+Point"),
    "spatial": (SpatialGrounding, "spatial/pointing accuracy"),
    "temporal": (TemporalGrounding, "temporal/IoU"),
}


class Tube(NamedTuple):
    """One action from its start to its end; n moments.

    Attributes:
        action: its text.
        start_s: start in seconds.
        end_s: end in seconds.
        score: mean similarity of its moments, a cosine.
        times_s: n seconds of the video.
        points: n pairs x, y in pixels of the original frame: where the heat is greatest.
        boxes: n boxes x1, y1, x2, y2 in pixels of the original frame, around what the heat map marks.
    """

    action: str
    start_s: float
    end_s: float
    score: float
    times_s: list[float]
    points: list[list[float]]
    boxes: list[list[float]]


class Localization(NamedTuple):
    """Which of A actions is when and where in a video; n moments.

    Attributes:
        actions: the texts that were looked for.
        tubes: what was found, in the order of time; at every moment at most one action.
        times_s: n seconds of the video, evenly spaced.
        similarity: ``(n, A)`` cosine of every moment and action.
        heat: ``(n, h, w)`` heat map of the action chosen at each moment; zero in the background.
        size: (width, height) of the original frames in pixels.
        duration_s: length of the video.
    """

    actions: list[str]
    tubes: list[Tube]
    times_s: list[float]
    similarity: Tensor
    heat: Tensor
    size: tuple[int, int]
    duration_s: float


class Located(NamedTuple):
    """What a task says about n moments and A actions.

    Attributes:
        similarity: ``(n, A)`` cosines.
        labels: ``(n,)`` int64, the action of each moment, -1 = background.
        heat: ``(n, h, w)`` float32, heat map of that action; zero in the background.
    """

    similarity: Tensor
    labels: Tensor
    heat: Tensor


class LocalizationTask(Task):
    """A task that finds actions in video by their texts; its `step` returns `Located` for an `ActionBatch`.

    Args:
        encoders: see `Task`; there is a `video_encoder` with a grid, and a `text_encoder`.
        max_cells: grids larger than this in a direction are averaged down to it; None leaves them.
        background: least similarity of a moment and its action.
        mask_threshold: from this heat on, a cell belongs to the action.
        window: moments that are looked at together.
        stages: see `Task`.

    Raises:
        ValueError: the video encoder has no grid.
    """

    monitor = "val/IoU+Point"

    def __init__(
        self,
        encoders: Mapping[str, Encoder | None],
        max_cells: int | None,
        background: float,
        mask_threshold: float,
        window: int,
        stages: Sequence[Stage],
    ) -> None:
        super().__init__(stages, encoders)
        if window < 1:
            raise ValueError(f"window={window}: at least one moment is looked at")
        self.require_grid("video_encoder")
        self.max_cells, self.background, self.mask_threshold, self.window = (
            max_cells,
            background,
            mask_threshold,
            window,
        )

    @abstractmethod
    def locate(
        self,
        features: MomentFeatures,
        text: TextFeatures,
        given: int | None = None,
        background: float | None = None,
    ) -> Located:
        """Which action is when, and where.

        Args:
            features: encoded, of n moments; the first is the first of a window.
            text: of A actions.
            given: the action that all moments are known to show.
            background: least similarity, if other than the task's own.
        """

    def locate_batch(self, batch: ActionBatch) -> Located:
        """`locate` for a prepared batch: in trimmed video the action is known."""
        given = 0 if batch.protocol == "spatial" else None
        return self.locate(batch.features, self.text_encoder(batch.actions), given)

    # ---- encoders ---------------------------------------------------------------------------------------

    def prepare(self, batch: Any) -> Any:
        """Encode raw frames, and average grids down to `max_cells`."""
        return dataclasses.replace(batch, features=self.encode(batch.features, batch.times_s.shape[-1]))

    def encode(self, features: MomentFeatures, moments: int) -> MomentFeatures:
        """Vectors and grids of `moments` moments, from frames where there are frames."""
        if features.passes:
            parts = zip(self.video_encoder.parts, features.passes, strict=True)
            seen = [self._look(part, passes, moments) for part, passes in parts]
            vectors, grid = (torch.cat(of_parts, dim=-1) for of_parts in zip(*seen, strict=True))
        else:  # stores hold half precision, which is what travels
            vectors, grid = (x.float() for x in features.encoded)
            grid = pool_cells(grid, self.max_cells)
        return MomentFeatures(vectors, grid)

    def _look(self, encoder: VideoEncoder, passes: Tensor, moments: int) -> tuple[Tensor, Tensor]:
        """Units of passes ``(..., P, L, 3, H, W)``: ``(..., moments, D)`` and ``(..., moments, h, w, C)``."""
        *lead, count = passes.shape[:-4]
        flat = passes.flatten(0, len(lead))
        learning = encoder.trainable and torch.is_grad_enabled()
        out = [encoder(some) for some in flat.split(len(flat) if learning else ENCODED)]
        cells = [pool_cells(o.grid, self.max_cells) for o in out if o.grid is not None]
        vectors, grids = (
            x.unflatten(0, (*lead, count)).flatten(len(lead), len(lead) + 1).narrow(len(lead), 0, moments)
            for x in (torch.cat([o.frames for o in out]), torch.cat(cells))
        )
        return vectors, grids

    # ---- metrics ----------------------------------------------------------------------------------------

    def metric(self, stage: Literal["val", "test"]) -> MetricCollection:
        """Metrics of the protocols that the data module serves; all of them where it does not say."""
        served = protocols(self.datamodule)
        return MetricCollection({name: JUDGED[name][0]() for name in served}, compute_groups=False)

    def monitor_on(self, data: Any) -> str | None:
        """That of the first protocol in `JUDGED` that the data module serves; None where it serves none."""
        served = protocols(data)
        return f"val/{JUDGED[served[0]][1]}" if served else None

    def update_metric(self, metric: MetricCollection, outputs: Located, batch: ActionBatch) -> None:
        """Hand a stretch to the metric of its protocol."""
        similarity, labels, heat = (x.cpu() for x in outputs)
        labelled, boxes, size = batch.labels.cpu(), batch.boxes.cpu(), batch.size
        if batch.protocol == "untrimmed":
            scores = similarity.gather(1, labels.clamp(min=0)[:, None])[:, 0]
            record = untrimmed_record(
                batch.actions, labels, scores, heat, labelled, boxes, size, self.mask_threshold
            )
        elif batch.protocol == "spatial":
            record = spatial_record(batch.actions[0], heat, boxes, size, self.mask_threshold)
        else:
            record = temporal_record(similarity, batch.order, labelled, self.background)
        metric[batch.protocol].update([batch.index], [record])

    # ---- predictions ------------------------------------------------------------------------------------

    def predictions(self, outputs: Located, batch: ActionBatch) -> list[Prediction]:
        """One record per stretch: tubes in seconds and pixels, or segments in their known order."""
        times = batch.times_s.cpu()
        labels = outputs.labels
        record: Prediction = {
            "index": batch.index,
            "query_id": batch.sample_id,
            "video": batch.video_id,
            "protocol": batch.protocol,
        }
        if batch.protocol == "temporal":
            scores = torch.cat(
                [outputs.similarity, outputs.similarity.new_full((len(times), 1), self.background)], 1
            )
            order = [k if k >= 0 else len(batch.actions) for k in batch.order]
            labels, *_ = align(scores.cpu(), torch.tensor(order))
            labels = torch.where(labels == len(batch.actions), -1, labels)
        found = tubes(outputs._replace(labels=labels), batch.actions, times, batch.size, self.mask_threshold)
        where = batch.protocol != "temporal"
        record["tubes"] = [
            {k: v for k, v in tube._asdict().items() if where or k not in ("times_s", "points", "boxes")}
            for tube in found
        ]
        return [record]

    # ---- from a user's own video ------------------------------------------------------------------------

    @torch.inference_mode()
    def localize(
        self, video: str | Path, actions: Sequence[str], threshold: float | None = None, fps: float = 1.0
    ) -> Localization:
        """Find when and where actions happen in a video of any length.

        Args:
            video: a file.
            actions: texts, all different; at every moment at most one is found.
            threshold: least similarity of a moment and its action; None is the task's own.
            fps: moments per second that are looked at; the benchmarks' is 1.

        Raises:
            VideoError: the file cannot be read.
            ValueError: there are no actions, one is empty or comes twice, or `fps` is not positive.
        """
        if self.moment_reader is None:
            raise RuntimeError("this task cannot read video files: open it with groundzoo.load(checkpoint)")
        actions = [action.strip() for action in actions]
        if not actions or not all(actions) or len(set(actions)) < len(actions):
            raise ValueError(f"actions are one or more texts, all different, not {actions}")
        if not fps > 0:
            raise ValueError(f"fps={fps}: moments per second are positive")
        was_training = self.training
        self.eval()
        try:
            pieces, times, size, duration_s = self._located(Path(video), actions, threshold, fps)
        finally:
            self.train(was_training)
        located = Located(*(torch.cat(of_pieces) for of_pieces in zip(*pieces, strict=True)))
        found = tubes(located, actions, torch.tensor(times), size, self.mask_threshold)
        found = [tube._replace(end_s=min(tube.end_s, round(duration_s, 3))) for tube in found]
        return Localization(actions, found, times, located.similarity, located.heat, size, duration_s)

    def _located(
        self, video: Path, actions: Sequence[str], threshold: float | None, fps: float
    ) -> tuple[list[Located], list[float], tuple[int, int], float]:
        """Answers on pieces of a video, the times of their moments, its size and its length in seconds."""
        assert self.moment_reader is not None
        text = self.text_encoder(actions)
        pieces: list[Located] = []
        times: list[float] = []
        size, duration_s = (0, 0), 0.0
        specs = [part.spec for part in self.video_encoder.parts]
        for samples in self.moment_reader(video, specs, fps, 4 * self.window):
            frames = MomentFeatures(None, None, [passes.to(self.device) for passes in samples.passes])
            located = self.locate(self.encode(frames, len(samples.times_s)), text, background=threshold)
            pieces.append(Located(*(x.cpu() for x in located)))
            times += samples.times_s
            size, duration_s = samples.size, samples.span_s[1]
        return pieces, times, size, duration_s


def protocols(data: Any) -> list[str]:
    """What a data module, or its `evaluation`, asks for, in the order of `JUDGED`; all if it does not say."""
    if hasattr(data, "evaluation"):
        return [] if data.evaluation is None else protocols(data.evaluation)
    asked = getattr(data, "protocols", JUDGED)
    return [name for name in JUDGED if name in asked]


def tubes(
    located: Located, actions: Sequence[str], times_s: Tensor, size: tuple[int, int], threshold: float
) -> list[Tube]:
    """Neighbouring moments of one action as tubes.

    Args:
        located: of n moments.
        actions: A texts.
        times_s: ``(n,)``, evenly spaced; each moment stands for the time until the next.
        size: (width, height) that points and boxes are told in.
        threshold: see `LocalizationTask`. Where no cell reaches it, a box is a point.
    """
    labels, heat = located.labels.cpu(), located.heat.cpu()
    step = float(times_s[1] - times_s[0]) if len(times_s) > 1 else 1.0
    scale = max(1.0, max(size) / RASTER)
    raster = (max(1, round(size[1] / scale)), max(1, round(size[0] / scale)))
    found = []
    for label, start, end in runs(labels):
        maps = heat[start:end]
        points = (peaks(maps, raster).float() + 0.5) * scale
        boxes = mask_boxes(masks(maps, raster, threshold)) * scale
        boxes[:, 2:] += scale  # the last pixel's far side
        boxes = torch.where(boxes.isnan(), points.repeat(1, 2), boxes)
        limit = torch.tensor(size, dtype=torch.float32)
        times = times_s[start:end].tolist()
        found.append(
            Tube(
                action=actions[label],
                start_s=round(times[0], 3),
                end_s=round(times[-1] + step, 3),
                score=round(float(located.similarity[start:end, label].mean()), 4),
                times_s=[round(t, 3) for t in times],
                points=[[round(v, 1) for v in xy] for xy in torch.minimum(points, limit).tolist()],
                boxes=[[round(v, 1) for v in box] for box in torch.minimum(boxes, limit.repeat(2)).tolist()],
            )
        )
    return found
