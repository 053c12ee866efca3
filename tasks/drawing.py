"""Colours, letters and boxes that pictures of tasks share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import ImageDraw, ImageFont

Colour = tuple[int, int, int]
Picture = npt.NDArray[np.uint8]
Box = tuple[int, int, int, int]

COLOURS: tuple[Colour, ...] = (  # Okabe and Ito's, safe for the colour-blind, and violet
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (204, 121, 167),
    (0, 114, 178),
    (213, 94, 0),
    (154, 107, 255),
)
BLACK, WHITE, DARK, GREY = (0, 0, 0), (255, 255, 255), (24, 24, 24), (110, 110, 110)


def letters(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which has Latin, Greek and Cyrillic letters."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)


def ink_on(ground: Colour) -> Colour:
    """Black or white, whichever is easier to read there."""
    return BLACK if float(np.dot(ground, (0.299, 0.587, 0.114))) > 110 else WHITE


def scaled(box: Sequence[float], old: tuple[int, int], new: tuple[int, int]) -> Box:
    """A box in pixels of pictures of another size, both (width, height), inside the picture and not empty."""
    x1, x2 = (min(max(round(v * new[0] / old[0]), 0), new[0] - 1) for v in (box[0], box[2]))
    y1, y2 = (min(max(round(v * new[1] / old[1]), 0), new[1] - 1) for v in (box[1], box[3]))
    return x1, y1, max(x1, x2), max(y1, y2)


def outline(draw: ImageDraw.ImageDraw, box: Box, colour: Colour, width: int, opacity: float = 1.0) -> None:
    """The line of a box, with a dark edge on both sides that separates it from a picture of the same colour."""
    opaque = round(255 * opacity)
    x1, y1, x2, y2 = box
    if min(x2 - x1, y2 - y1) > 2 * width + 2:
        draw.rectangle((x1 + width, y1 + width, x2 - width, y2 - width), outline=(*BLACK, opaque // 2))
    draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=(*BLACK, opaque // 2))
    draw.rectangle(box, outline=(*colour, opaque), width=width)
