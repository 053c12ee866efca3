"""Geometry of the actors: which share of a pixel a shape covers, and the box around it.

Everything is vectorised over T frames and confined to square windows of S pixels around the actor; distance
maps of whole frames would cost ten times as much.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .scene import ANGLE, CX, CY, Box, R

Floats = NDArray[np.float32]

# Sizes relative to the radius, so that the shapes look equally big.
SQUARE = 0.88  # half the side
TRIANGLE = 1.3  # centre to corner
REACH = 1.3  # the farthest any shape extends from its centre
CROSS, BAR = 1.1, 0.38  # half the length and half the width of its two bars
SPOKE = 0.17  # half the width of the circle's dark spoke


def window_origins(track: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp], int]:
    """Windows that hold an actor with its antialiased rim.

    Args:
        track: (T, 5) states of one actor.

    Returns:
        Left and top pixel of the windows, (T,) each, possibly outside the frame, and their common side S.
    """
    reach = math.ceil(float(track[:, R].max()) * REACH) + 1
    left = np.floor(track[:, CX]).astype(np.intp) - reach
    top = np.floor(track[:, CY]).astype(np.intp) - reach
    return left, top, 2 * reach + 1


def offsets(track: Floats, left: NDArray[np.intp], top: NDArray[np.intp], side: int) -> tuple[Floats, Floats]:
    """Pixel centres of the windows relative to the actor, in the actor's rotated frame.

    Args:
        track: (T, 5) states of the actor.
        left: (T,) left pixel of each window.
        top: (T,) top pixel of each window.
        side: S.

    Returns:
        (u, v), each (T, S, S), pixels: u along the actor's own axis (its "forward"), v across.
    """
    steps = np.arange(side, dtype=np.float32) + 0.5
    x = (left[:, None] + steps - track[:, CX, None]).astype(np.float32)[:, None, :]
    y = (top[:, None] + steps - track[:, CY, None]).astype(np.float32)[:, :, None]
    cos, sin = np.cos(track[:, ANGLE])[:, None, None], np.sin(track[:, ANGLE])[:, None, None]
    return x * cos + y * sin, y * cos - x * sin


def inside(left: NDArray[np.intp], top: NDArray[np.intp], side: int, width: int, height: int) -> NDArray[np.bool_]:
    """Which pixels of the windows lie in the frame, (T, S, S)."""
    columns, rows = left[:, None] + np.arange(side), top[:, None] + np.arange(side)
    within: NDArray[np.bool_] = ((columns >= 0) & (columns < width))[:, None, :] & ((rows >= 0) & (rows < height))[
        :, :, None
    ]
    return within


def rectangle(box: Box, left: int, top: int, width: int, height: int) -> Floats:
    """Share of each pixel that a rectangle covers.

    Args:
        box: xyxy pixels.
        left: left pixel of the window that is asked about.
        top: its top pixel.
        width: its width.
        height: its height.

    Returns:
        (height, width) float32 in [0, 1].
    """
    x, y = left + np.arange(width, dtype=np.float32), top + np.arange(height, dtype=np.float32)
    across = np.clip(np.minimum(x + 1, box[2]) - np.maximum(x, box[0]), 0, 1)
    down = np.clip(np.minimum(y + 1, box[3]) - np.maximum(y, box[1]), 0, 1)
    share: Floats = (down[:, None] * across).astype(np.float32)
    return share


def coverage(shape: str, radius: Floats, u: Floats, v: Floats) -> Floats:
    """Antialiased coverage: half a pixel of linear ramp on both sides of the outline.

    Args:
        shape: one of ``FIGURES``.
        radius: (T,) pixels.
        u: (T, S, S) offsets along the actor's axis.
        v: (T, S, S) offsets across.

    Returns:
        (T, S, S) float32 in [0, 1].
    """
    r = radius[:, None, None]
    if shape == "circle":
        distance = np.sqrt(u * u + v * v) - r
    elif shape == "square":
        distance = np.maximum(np.abs(u), np.abs(v)) - SQUARE * r
    elif shape == "cross":
        long, wide = np.float32(CROSS) * r, np.float32(BAR) * r
        lying = np.maximum(np.abs(u) - long, np.abs(v) - wide)
        distance = np.minimum(lying, np.maximum(np.abs(u) - wide, np.abs(v) - long))
    else:  # a triangle with a corner at v = -TRIANGLE * r: its base and its two mirrored sides
        side = np.float32(math.sqrt(0.75)) * np.abs(u) - np.float32(0.5) * v
        distance = np.maximum(v, side) - TRIANGLE / 2 * r
    result: Floats = np.clip(np.float32(0.5) - distance, 0, 1)
    return result


def spoke(radius: Floats, u: Floats, v: Floats) -> Floats:
    """The dark spoke from a circle's centre to its rim, without which no spin would be seen.

    Args:
        radius: (T,) pixels.
        u: (T, S, S) offsets along the actor's axis.
        v: (T, S, S) offsets across.

    Returns:
        (T, S, S) float32 in [0, 1].
    """
    across = np.clip(SPOKE * radius[:, None, None] + np.float32(0.5) - np.abs(v), 0, 1)
    result: Floats = across * (u > 0)
    return result


def boxes(shape: str, track: Floats) -> Floats:
    """Boxes around an actor with its rim, not clipped to the frame.

    Args:
        shape: one of ``FIGURES``.
        track: (T, 5) states.

    Returns:
        (T, 4) xyxy pixels.
    """
    r, angle = track[:, R], track[:, ANGLE]
    if shape == "circle":
        low_x = low_y = -r
        high_x = high_y = r
    else:
        reach: float
        if shape == "cross":
            outer = math.atan2(BAR, CROSS)
            corners = (np.arange(4)[:, None] * math.pi / 2 + np.array([-outer, outer])).ravel()
            reach = math.hypot(CROSS, BAR)
        elif shape == "square":
            corners, reach = np.arange(4) * math.pi / 2 + math.pi / 4, SQUARE * math.sqrt(2)
        else:
            corners, reach = np.arange(3) * 2 * math.pi / 3 - math.pi / 2, TRIANGLE
        x = reach * r[:, None] * np.cos(angle[:, None] + corners)
        y = reach * r[:, None] * np.sin(angle[:, None] + corners)
        low_x, high_x, low_y, high_y = x.min(1), x.max(1), y.min(1), y.max(1)
    cx, cy = track[:, CX], track[:, CY]
    xyxy = (cx + low_x - 0.5, cy + low_y - 0.5, cx + high_x + 0.5, cy + high_y + 0.5)
    return np.stack(xyxy, axis=1).astype(np.float32)
