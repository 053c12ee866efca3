"""Pictures of actions that were found in a video: a time line of all actions, and pictures with heat maps."""

from __future__ import annotations

import textwrap
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from ..zoo.heat_maps import upsample
from .drawing import BLACK, COLOURS, DARK, WHITE, Colour, Picture, ink_on, letters, outline, scaled
from .localize_records import tube_of_moments
from .localizing import Localization
from .pictures import film_strip

WIDTH, LEFT, RIGHT, BELOW = 10.0, 2.1, 0.2, 0.5  # of the time line and of its margins, in inches
ROW, SCORE = 0.44, 0.34  # height of an action's row and width of a written score, in inches
ROOM = 65 * (LEFT - 0.2)  # for a line of an action's text, in points, with some to spare
FAINT, LANE, PALE = "#d5d5d5", (70, 70, 70), (170, 170, 170)
COVER, SHADE = 0.65, 0.4  # of the action's colour where the heat is greatest, and of black where there is none


def action_colours(actions: Sequence[str]) -> dict[str, Colour]:
    """The colour of each action in all pictures; after eight actions colours come again."""
    return {action: COLOURS[k % len(COLOURS)] for k, action in enumerate(actions)}


def action_timeline(found: Localization, frames: Sequence[tuple[float, Picture]] = ()) -> Figure:
    """Draw when each action was found: one row per action, in the order given.

    A bar is a tube, with its score where there is room. Behind, the action's similarity to every moment; all rows
    share the scale.

    Args:
        found: the actions and where they are.
        frames: pictures of the video, uint8 (H, W, 3), with their times, drawn above in equal widths.

    Returns:
        A figure, 10 inches wide.
    """
    rows, inner = len(found.actions), WIDTH - LEFT - RIGHT
    strip = 0.0
    if frames:
        height, width = frames[0][1].shape[:2]
        strip = min(max(inner / len(frames) * height / width, 0.2), 1.6)
    total = strip + 0.12 + ROW * rows + BELOW
    figure = Figure(figsize=(WIDTH, total))

    def place(top: float, height: float) -> tuple[float, float, float, float]:
        return LEFT / WIDTH, 1 - (top + height) / total, inner / WIDTH, height / total

    if frames:
        film_strip(figure.add_axes(place(0.06, strip)), found.duration_s, frames)
    axis = figure.add_axes(place(strip + 0.1, ROW * rows))
    low, high = float(found.similarity.min()), float(found.similarity.max())
    heights = 0.84 * (found.similarity.numpy() - low) / max(high - low, 1e-6)
    times, small = [*found.times_s, found.duration_s], letters(9)
    for k, (action, colour) in enumerate(action_colours(found.actions).items()):
        floor = k + 0.42
        curve = floor - np.append(heights[:, k], heights[-1:, k])
        axis.fill_between(times, floor, curve, step="post", color=FAINT, linewidth=0)
        tubes = [tube for tube in found.tubes if tube.action == action]
        lasts = [(tube.start_s, tube.end_s - tube.start_s) for tube in tubes]
        axis.broken_barh(lasts, (k + 0.06, 0.36), color=_hex(colour))
        for n, tube in enumerate(tubes):
            free_until = tubes[n + 1].start_s if n + 1 < len(tubes) else found.duration_s
            room = SCORE / inner * found.duration_s
            inside = tube.end_s - tube.start_s >= room
            if inside or free_until - tube.end_s >= room:
                x = (tube.start_s + tube.end_s) / 2 if inside else tube.end_s + room / 2
                ink = _hex(ink_on(colour) if inside else BLACK)
                axis.text(x, k + 0.25, f"{tube.score:.2f}", size=8, color=ink, ha="center", va="center")
        signs = int(ROOM * len(action) / small.getlength(action))  # per line, by the mean width of the letters
        label = "\n".join(textwrap.wrap(action, max(2, signs), max_lines=2, placeholder="…"))
        ink = "black" if tubes else "#777777"
        figure.text(
            (LEFT - 0.12) / WIDTH, 1 - (strip + 0.1 + (k + 0.5) * ROW) / total, label,
            size=9, color=ink, ha="right", va="center", parse_math=False, linespacing=1.0,
        )  # fmt: skip
    axis.set(xlim=(0, found.duration_s), ylim=(rows - 0.5, -0.5), yticks=[])
    axis.hlines(np.arange(1, rows) - 0.5, 0, found.duration_s, color="#eeeeee", linewidth=0.8, zorder=0)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)
    axis.set_xlabel("seconds", fontsize=8)
    figure.text(0.12 / WIDTH, 0.12 / total, f"grey: similarity, {low:.2f} to {high:.2f}", size=7, color="#777777")
    return figure


class HeatOverlay:
    """Draws onto the pictures of a video what action is going on, where, and how the video is divided.

    While a tube lasts, the picture takes on the action's colour where it is hot and is darkened where it is not;
    point and box are drawn, too. The heat map is that of the tube's moment nearest in time, bilinear between its
    cells; from the mean of a map to the strongest heat of the tube the colour grows. Below the picture are the
    action, the score of the tube, and a bar of all tubes with the present time.

    Args:
        found: what was found in the video.
        size: (height, width) of the pictures, in the proportion of ``found.size``.
    """

    def __init__(self, found: Localization, size: tuple[int, int]) -> None:
        self.found, self.colours = found, action_colours(found.actions)
        self.height, self.width = size
        self.letters = letters(max(14, self.width // 34))
        self.line, self.margin = max(2, min(size) // 150), int(self.letters.size) // 2
        self.label = int(self.letters.size * 3 // 2)
        self.panel = 3 * self.margin + self.label + max(10, self.height // 32)
        self.bar = self._bar(self.width - 2 * self.margin, max(10, self.height // 32))
        self.starts = [tube.start_s for tube in found.tubes]
        owner = tube_of_moments(found)
        self.moments = [np.flatnonzero(owner == number) for number in range(len(found.tubes))]
        self.last: tuple[int, npt.NDArray[np.float32]] | None = None  # the last moment and its `warmth`

    def tube_at(self, time_s: float) -> int | None:
        """Number of the tube that lasts at a time in the video."""
        number = bisect_right(self.starts, time_s) - 1
        return number if number >= 0 and time_s < self.found.tubes[number].end_s else None

    def warmth(self, number: int, step: int) -> npt.NDArray[np.float32]:
        """Heat of every pixel at a moment of a tube, (H, W, 1): 0 up to the map's mean, 1 the tube's greatest."""
        moments = self.moments[number]
        if self.last is None or self.last[0] != moments[step]:
            maps = self.found.heat[moments].float()
            excess = maps - maps.mean((1, 2), keepdim=True)
            share = (excess[step] / excess.max().clamp(min=1e-6)).clamp(min=0)
            pixels = upsample(share[None], (self.height, self.width))[0, :, :, None]
            self.last = int(moments[step]), pixels.numpy()
        return self.last[1]

    def __call__(self, picture: Picture, time_s: float) -> Picture:
        """The uint8 picture (H, W, 3) with heat, point and box, above the panel: (H + h, W, 3)."""
        canvas = Image.new("RGB", (self.width, self.height + self.panel), DARK)
        draw = ImageDraw.Draw(canvas, "RGBA")
        number = self.tube_at(time_s)
        if number is None:
            canvas.paste(Image.fromarray(picture), (0, 0))
        else:
            tube = self.found.tubes[number]
            step = int(np.abs(np.asarray(tube.times_s) - time_s).argmin())
            warmth, colour = self.warmth(number, step), self.colours[tube.action]
            shaded = picture * (1 - SHADE * (1 - warmth))
            heated = shaded + COVER * warmth * (np.asarray(colour, np.float32) - shaded)
            canvas.paste(Image.fromarray(heated.round().astype(np.uint8)), (0, 0))
            box = scaled(tube.boxes[step], self.found.size, (self.width, self.height))
            outline(draw, box, colour, self.line)
            self._point(draw, *scaled(tube.points[step] * 2, self.found.size, (self.width, self.height))[:2])
        self._label(draw, number, time_s)
        top = self.height + self.panel - self.margin - self.bar.height
        canvas.paste(self.bar, (self.margin, top))
        now, bottom = self.margin + self._place(time_s, self.bar.width), top + self.bar.height - 1
        draw.rectangle((now - 2, top - 3, now + 2, bottom + 3), BLACK)
        draw.rectangle((now - 1, top - 3, now + 1, bottom + 3), WHITE)
        return np.asarray(canvas)

    def _point(self, draw: ImageDraw.ImageDraw, x: int, y: int) -> None:
        """A white cross with dark edges."""
        arm = 4 * self.line
        for grow, ink in ((self.line // 2 + 1, BLACK), (0, WHITE)):
            half = self.line // 2 + grow
            draw.rectangle((x - arm - grow, y - half, x + arm + grow, y + half), ink)
            draw.rectangle((x - half, y - arm - grow, x + half, y + arm + grow), ink)

    def _label(self, draw: ImageDraw.ImageDraw, number: int | None, time_s: float) -> None:
        """The action on a ground of its colour, its score beside it, the time at the right."""
        top = self.height + self.margin
        y = top + self.label // 2
        clock = f"{time_s:.1f} s"
        draw.text((self.width - self.margin, y), clock, PALE, self.letters, anchor="rm")
        if number is None:
            return
        tube = self.found.tubes[number]
        score = f"{tube.score:.2f}"
        pad = self.margin // 2
        room = self.width - 5 * self.margin - self.letters.getlength(clock + score)
        text = _shortened(tube.action, self.letters, room)
        right = self.margin + 2 * pad + self.letters.getlength(text)
        draw.rounded_rectangle((self.margin, top, right, top + self.label), pad, self.colours[tube.action])
        draw.text((self.margin + pad, y), text, ink_on(self.colours[tube.action]), self.letters, anchor="lm")
        draw.text((right + pad, y), score, WHITE, self.letters, anchor="lm")

    def _bar(self, width: int, height: int) -> Image.Image:
        """All tubes in their colours."""
        bar = Image.new("RGB", (width, height), LANE)
        draw = ImageDraw.Draw(bar)
        for tube in self.found.tubes:
            start, end = (self._place(at_s, width) for at_s in (tube.start_s, tube.end_s))
            draw.rectangle((start, 0, max(start, end - 1), height), self.colours[tube.action])
        return bar

    def _place(self, time_s: float, width: int) -> int:
        return min(round(time_s / self.found.duration_s * width), width - 1)


def _shortened(text: str, font: ImageFont.FreeTypeFont, room: float) -> str:
    """The text, its end left out where it is wider than `room` pixels."""
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(text + "…") > room:
        text = text[:-1]
    return text.rstrip() + "…"


def _hex(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
