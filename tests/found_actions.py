"""Answers of a localizing task made by hand: which action is when, and a heat map with one hot cell."""

from __future__ import annotations

from itertools import groupby

import torch

from groundzoo.tasks.localizing import Localization, Tube

GRID = (4, 4)


def found_actions(
    plan: str,
    actions: list[str],
    cells: list[tuple[int, int]] | None = None,
    size: tuple[int, int] = (120, 80),
    fps: float = 1.0,
    duration_s: float | None = None,
) -> Localization:
    """A localization.

    Args:
        plan: one sign per moment, number of its action or ``-``.
        actions: their texts.
        cells: hot cell (row, column) of each moment; by default it wanders.
        size: (width, height) of the video.
        fps: moments per second.
        duration_s: of the video; the moments' unless given.
    """
    n, (rows, columns) = len(plan), GRID
    cells = cells or [(k % rows, (2 * k) % columns) for k in range(n)]
    similarity = torch.full((n, len(actions)), 0.1)
    heat = torch.zeros(n, rows, columns)
    boxes, points = [], []
    for k, (sign, (row, column)) in enumerate(zip(plan, cells, strict=True)):
        w, h = size[0] / columns, size[1] / rows
        boxes.append([column * w, row * h, (column + 1) * w, (row + 1) * h])
        points.append([(column + 0.5) * w, (row + 0.5) * h])
        if sign != "-":
            similarity[k, int(sign)] = 0.6 + 0.01 * k
            heat[k] = 0.5
            heat[k, row, column] = 0.5 + rows * columns / 2
    tubes, start = [], 0
    for sign, group in groupby(plan):
        end = start + len(list(group))
        if sign != "-":
            span = slice(start, end)
            score = round(float(similarity[span, int(sign)].mean()), 4)
            times = [k / fps for k in range(start, end)]
            tubes.append(Tube(actions[int(sign)], start / fps, end / fps, score, times, points[span], boxes[span]))
        start = end
    times_s = [k / fps for k in range(n)]
    return Localization(actions, tubes, times_s, similarity, heat, size, duration_s or n / fps)
