"""GroundingYouTube (Chen et al., What, when, and where?, CVPR 2024, arXiv:2303.16990)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from .actions import ActionDataModule
from .annotations import AnnotationError, SplitReport, check_video_id, read_json
from .stretches import Box, Mark, Stretch, action_text, box_within

Wanted = Literal["untrimmed", "clip", "spatial"]
CANVAS = (640, 480)  # pixels; frames of any shape were stretched to it
MARGIN = 100.0  # pixels from the outermost points to the edges of the released boxes
CLIP_S = (3.0, 20.0)  # shortest and longest action of the single-action clips
NO_STEP = "background"  # stands in every pool


def points_box(points: Sequence[Sequence[float]], size: tuple[float, float], margin: float = 0.15) -> Box:
    """The box of clicked points, as the paper makes it: their extent widened on every side, cut to the picture.

    Args:
        points: pairs x, y in pixels, at least one.
        size: (width, height) of the picture.
        margin: share of width and height to widen by.

    Returns:
        x1, y1, x2, y2 in pixels.
    """
    (width, height), (xs, ys) = size, zip(*points, strict=True)
    x1, y1 = max(0.0, min(xs) - margin * width), max(0.0, min(ys) - margin * height)
    return x1, y1, min(float(width), max(xs) + margin * width), min(float(height), max(ys) + margin * height)


def context_window(segment: tuple[float, float], duration_s: float) -> tuple[float, float]:
    """An action with as much video before it, and after it, as it is long; cut to the video. All in seconds."""
    start, end = segment
    return max(0.0, start - (end - start)), min(duration_s, end + (end - start))


def repair_box(corners: Sequence[Any], canvas: tuple[int, int]) -> tuple[Box | None, str]:
    """A released box as it must have been, and what was wrong with it ("" = nothing).

    The program that wrote the boxes took the limits of x and y for each other: it cut right edges at 480 and lower
    edges at 640. A box left with no width began right of 480; boxes are at least twice `MARGIN` wide, so that its
    right edge was beyond the canvas, and is the canvas' edge.

    Raises:
        ValueError: these are not four numbers.
    """
    x1, y1, x2, y2 = (float(c) for c in corners)
    reason = ""
    if x2 <= x1 and x1 + 2 * MARGIN >= canvas[0]:
        x2, reason = float(canvas[0]), "inverted box, right edge set to the canvas"
    elif y2 > canvas[1]:
        reason = "lower edge of the box beyond the canvas, cut"
    box = box_within((x1, y1, x2, y2), canvas)
    return box, reason if box else "box without area"


class Annotated(NamedTuple):
    """The box of one second of video, and the step it belongs to."""

    second: float
    step: str
    box: Box

    def mark(self, action: int) -> Mark:
        """The box as a mark of the action with this index."""
        return Mark(self.second, self.second + 1, action, self.box)


class Segment(NamedTuple):
    """An annotated step from its first to its last second."""

    sample_id: str
    first: float
    last: float
    step: str


class GroundingYouTube(ActionDataModule):
    """GroundingYouTube: steps of 250 untrimmed cooking videos with boxes, 17,316 annotated seconds.

    Reads the official ``box_anno.json`` (a box for every annotated second), ``ground_seg.json`` (steps from first
    to last second), ``vid2step.json`` (the steps to choose from, per video) and, where it is there,
    ``id2wh_new.json`` (the canvas of every video; 640 x 480 without it).

    Protocols:

    - `untrimmed`: the whole video, and its pool of steps.
    - `spatial`: one segment, and its step.
    - `clip`: one step of 3 to 20 s with as much video before and after; the step is given. It is reported as
      `untrimmed` with a pool of one.

    Args:
        root: folder of the JSON files.
        protocols: what is asked; `untrimmed` and `clip` would mix in one metric and exclude each other.
        pool: `published` chooses among the steps of ``vid2step.json``, where those are missing that last less than
            3 s in this video; seconds that show one of them count as background. `annotated` adds them.
        kwargs: see `ActionDataModule`.
    """

    def __init__(
        self,
        root: str | Path,
        protocols: Sequence[Wanted] = ("untrimmed", "spatial"),
        pool: Literal["published", "annotated"] = "published",
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        if not protocols or {"untrimmed", "clip"} <= set(protocols):
            raise ValueError(
                f"protocols {list(protocols)}: choose `untrimmed` or `clip`, `spatial`, or two of them"
            )
        self.wanted, self.pool = tuple(dict.fromkeys(protocols)), pool
        self.protocols = ["spatial" if protocol == "spatial" else "untrimmed" for protocol in self.wanted]

    def annotated(self) -> list[str]:
        """See `ActionDataModule.annotated`."""
        return list(self._boxes)

    def of_video(self, video_id: str, report: SplitReport) -> Iterator[Stretch]:
        """See `ActionDataModule.of_video`."""
        canvas = self._canvas.get(video_id, CANVAS)
        boxes = list(self._repaired(video_id, canvas, report))
        for protocol in self.wanted:
            if protocol == "untrimmed":
                pool = self._pool(video_id, boxes)
                for box in boxes:
                    if box.step not in pool:
                        reason = "box of a step that is not in the pool, taken as background"
                        report.dropped[reason].append(f"{video_id}@{box.second:g}")
                marks = tuple(box.mark(pool.index(box.step)) for box in boxes if box.step in pool)
                yield Stretch(video_id, video_id, "untrimmed", pool, marks, canvas)
                continue
            for segment in self._segments(video_id):
                first, last = segment.first, segment.last
                if protocol == "clip":
                    if not CLIP_S[0] <= last - first <= CLIP_S[1]:
                        continue
                    first, last = context_window((first, last), math.inf)
                own = [b for b in boxes if first <= b.second <= last and b.step == segment.step]
                if not any(segment.first <= b.second <= segment.last for b in own):
                    own = []  # in its context only
                yield Stretch(
                    segment.sample_id,
                    video_id,
                    "spatial" if protocol == "spatial" else "untrimmed",
                    (segment.step,),
                    tuple(box.mark(0) for box in own),
                    canvas,
                    first,
                    last + 1,  # the last second is part of it
                )

    def provenance(self) -> dict[str, Any]:
        """See `ActionDataModule.provenance`."""
        return super().provenance() | {"protocols": list(self.wanted), "pool": self.pool}

    # ---- files ------------------------------------------------------------------------------------------

    def _per_video(self, name: str) -> dict[str, Any]:
        path = self.root / name
        stored = read_json(path)
        if not isinstance(stored, dict):
            raise AnnotationError(f"{path}: expected one entry per video, not a {type(stored).__name__}")
        return {check_video_id(video, str(path)): entry for video, entry in stored.items()}

    @cached_property
    def _boxes(self) -> dict[str, Any]:
        return self._per_video("box_anno.json")

    @cached_property
    def _canvas(self) -> dict[str, tuple[int, int]]:
        path = self.root / "id2wh_new.json"
        stored = self._per_video(path.name) if path.exists() else {}
        try:
            return {video: (int(width), int(height)) for video, (width, height) in stored.items()}
        except (TypeError, ValueError) as error:
            raise AnnotationError(f"{path}: expected [width, height] of every video ({error})") from error

    @cached_property
    def _segment_file(self) -> dict[str, Any]:
        return self._per_video("ground_seg.json")

    @cached_property
    def _pools(self) -> dict[str, Any]:
        return self._per_video("vid2step.json")

    def _repaired(self, video: str, canvas: tuple[int, int], report: SplitReport) -> Iterator[Annotated]:
        """Boxes in the order of time."""
        of_second: dict[float, list[Any]] = defaultdict(list)
        where = f"{self.root / 'box_anno.json'}, video {video}"
        for k, entry in enumerate(self._boxes[video]):
            try:
                second, step = float(entry["second"]), action_text(entry["step_name"])
                box, reason = repair_box(entry["box"], canvas)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise AnnotationError(f"{where}, entry {k}: {type(error).__name__}: {error}") from error
            if reason:
                (report.repaired if box else report.dropped)[reason].append(f"{video}@{second:g}")
            if box is not None:
                of_second[second].append(Annotated(second, step, box))
        for second, boxes in sorted(of_second.items()):
            if len(boxes) > 1:
                raise AnnotationError(f"{where}: {len(boxes)} boxes of second {second:g}; expected one")
            yield boxes[0]

    def _segments(self, video: str) -> Iterator[Segment]:
        for k, entry in enumerate(self._segment_file.get(video, [])):
            try:
                first, last = (float(t) for t in entry["segment"])
                step = action_text(entry["sentence"])
                if not 0 <= first <= last:
                    raise ValueError(f"segment {entry['segment']}")
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                where = f"{self.root / 'ground_seg.json'}, video {video}, entry {k}"
                raise AnnotationError(f"{where}: {type(error).__name__}: {error}") from error
            yield Segment(f"{video}#{k}", first, last, step)

    def _pool(self, video: str, boxes: Sequence[Annotated]) -> tuple[str, ...]:
        """Steps to choose from, all different, without background."""
        path = self.root / "vid2step.json"
        names = self._pools.get(video)
        if not isinstance(names, list):
            raise AnnotationError(f"{path}: no list of steps for video {video}")
        steps = [action_text(str(name)) for name in names]
        if self.pool == "annotated":
            steps += [box.step for box in boxes]
        return tuple(dict.fromkeys(step for step in steps if step != NO_STEP))
