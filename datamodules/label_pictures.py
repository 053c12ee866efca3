"""Pictures of grounding labels, for people: the frames of a segment with the boxes of its words."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .labels import CaptionLabels, LabelError, LabelStore, WordTrack
from .marking import COLOURS
from .segments import Segment, sample_times
from .video import FrameReader

PICTURES = "pictures"
COLUMNS = 5
WIDTH = 3.0  # of a frame, inches


def draw_labels(
    store: LabelStore, segments: Sequence[Segment], videos: Mapping[str, Path], count: int
) -> list[Path]:
    """Draw the first `count` segments that have boxes, one PNG each, into the store's folder ``pictures``."""
    drawn: list[Path] = []
    for segment in segments:
        if len(drawn) == count:
            break
        try:
            captions = store.read(segment.video_id).segments[segment.segment_id]
        except (LabelError, KeyError):  # in quarantine
            continue
        if any(caption.tracks for caption in captions):
            path = store.path / PICTURES / f"{segment.segment_id.replace('#', '-')}.png"
            path.parent.mkdir(exist_ok=True)
            _strip(segment, captions, videos[segment.video_id], store.frames).savefig(path, dpi=80)
            drawn.append(path)
    return drawn


def _strip(segment: Segment, captions: Sequence[CaptionLabels], video: Path, frames: int) -> Figure:
    """Each track in a colour of its own; a dashed line where it was not annotated, the score beside the words."""
    named: dict[int, tuple[WordTrack, str]] = {}
    for caption in captions:
        for track in caption.tracks:
            text = " ".join(caption.tokens[word] for word in track.words)
            named.setdefault(id(track.boxes), (track, text))
    with FrameReader(video) as reader:
        end_s = reader.info.duration_s if segment.end_s is None else segment.end_s
        times = sample_times(segment.start_s, end_s, frames)
        ratio = reader.info.height / reader.info.width
        pictures = reader.at_times(times, (max(1, round(320 * ratio)), 320)).permute(0, 2, 3, 1).numpy()
    rows = -(-frames // COLUMNS)
    lines = textwrap.wrap(f"{segment.segment_id}: {' '.join(captions[0].tokens)}", 150)
    figure = Figure(
        figsize=(COLUMNS * WIDTH, rows * (WIDTH * ratio + 0.3) + 0.3 * len(lines)), layout="constrained"
    )
    figure.suptitle("\n".join(lines), fontsize=10, ha="left", x=0.01)
    axes = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
    for k, (axis, picture, time_s) in enumerate(zip(axes[:frames], pictures, times, strict=True)):
        axis.imshow(picture, extent=(0, 1, ratio, 0))
        axis.set_title(f"{k}: {time_s:.1f} s", fontsize=8)
        for number, (track, text) in enumerate(named.values()):
            if track.scores[k] > 0:
                x1, y1, x2, y2 = track.boxes[k] * [1, ratio, 1, ratio]
                colour = np.array(COLOURS[number % len(COLOURS)]) / 255
                line = "solid" if track.annotated[k] else "dashed"
                corner = (float(x1), float(y1))
                axis.add_patch(
                    Rectangle(corner, x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=2, linestyle=line)
                )
                place, side = (x1, "left") if x1 + x2 < 1 else (x2, "right")  # so that it stays over its picture
                label = axis.text(place, y1, f"{text} {track.scores[k]:.2f}", fontsize=7, va="bottom", ha=side)
                label.set_bbox({"facecolor": colour, "edgecolor": "none", "pad": 0.5, "alpha": 0.8})
                label.set_in_layout(False)  # long words must not shrink the picture
    return figure
