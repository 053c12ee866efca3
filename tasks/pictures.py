"""Pictures of moments on a time line."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#CC79A7")  # Okabe and Ito's, safe for the colour-blind
TARGET = "#444444"

Row = tuple[str, Sequence[Sequence[float]], Sequence[float] | None]


def timeline(
    duration_s: float, rows: Sequence[Row], frames: Sequence[tuple[float, npt.NDArray[np.uint8]]] = ()
) -> Figure:
    """Draw the answers to queries over the time of a video.

    Args:
        duration_s: length of the video.
        rows: per query its text, moments ``[start_s, end_s, score]`` best first, and the truth or None.
        frames: pictures of the video with their times, drawn above in equal widths.

    Returns:
        A figure, 10 inches wide.
    """
    bars = [max(1, len(moments)) + (target is not None) for _, moments, target in rows]
    heights = ([1.1] if frames else []) + [0.42 + 0.16 * n for n in bars]
    figure = Figure(figsize=(10, sum(heights) + 0.55), layout="constrained")
    axes = figure.subplots(len(heights), 1, gridspec_kw={"height_ratios": heights}, squeeze=False)[:, 0]
    if frames:
        film_strip(axes[0], duration_s, frames)
        axes = axes[1:]
    for axis, (query, moments, target), count in zip(axes, rows, bars, strict=True):
        labels = [f"{n}: {m[0]:.1f}-{m[1]:.1f} s ({m[2]:.2f})" for n, m in enumerate(moments, start=1)]
        spans = [(m[0], m[1], COLOURS[min(n, len(COLOURS) - 1)]) for n, m in enumerate(moments)]
        if target is not None:
            labels, spans = ["truth", *labels], [(target[0], target[1], TARGET), *spans]
        for k, ((start, end, colour), label) in enumerate(zip(spans, labels, strict=True)):
            axis.barh(count - 1 - k, end - start, left=start, height=0.8, color=colour)
            right, left = end < 0.7 * duration_s, start > 0.3 * duration_s
            axis.annotate(
                label,
                (end if right else start, count - 1 - k),
                xytext=(-4 if left and not right else 4, 0),  # beside the bar, or inside where there is no room
                textcoords="offset points",
                va="center",
                ha="right" if left and not right else "left",
                fontsize=7,
                color="black" if right or left else "white",
            )
        axis.set(xlim=(0, duration_s), ylim=(-0.6, count - 0.4), yticks=[])
        axis.set_title("\n".join(textwrap.wrap(query, 120)), loc="left", fontsize=9)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(labelsize=7)
    if len(axes):
        axes[-1].set_xlabel("seconds", fontsize=8)
    return figure


def film_strip(axis: Axes, duration_s: float, frames: Sequence[tuple[float, npt.NDArray[np.uint8]]]) -> None:
    """Fill an axis with pictures of a video and their times, side by side in equal widths."""
    width = duration_s / len(frames)
    for k, (_, image) in enumerate(frames):
        axis.imshow(image, extent=(k * width, (k + 1) * width, 0, 1), aspect="auto")
    axis.set(xlim=(0, duration_s), ylim=(0, 1), xticks=[], yticks=[])


def save(figure: Figure, path: Path) -> None:
    """Write a PNG; its folder is made where absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
