"""Pictures of the events of a video and their sentences: a time line, and subtitles in a video."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from .drawing import BLACK, COLOURS, DARK, WHITE, Picture, ink_on, letters
from .pictures import film_strip

Event = tuple[float, float, str, float]
"""Start and end in seconds, sentence, score."""

WIDTH, LEFT, TEXT, RIGHT, BELOW = 13.0, 0.15, 5.2, 0.2, 0.5  # of the time line: columns and margins, inches
POINTS, LINE, PAD = 10, 0.2, 0.1  # letters of sentences in points, height of a line and room around them, inches
BAR, SCORE = 0.3, 0.4  # height of a bar and width of a written score, inches
MOST, LINES = 3, 3  # sentences below a picture, and lines of each


def wrapped(text: str, font: ImageFont.FreeTypeFont, width: float, most: int | None = None) -> list[str]:
    """Lines of a text that are no wider than `width` pixels; words that are wider are cut.

    Args:
        text: any; the empty text has one line.
        font: of the letters.
        width: in pixels.
        most: lines kept, the last of them with an ellipsis where some are not; None keeps all.
    """
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        lines += [""] if lines[-1] else []
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    if most is not None and len(lines) > most:
        last = lines[most - 1]
        while last and font.getlength(last + "…") > width:
            last = last[:-1]
        lines = [*lines[: most - 1], last.rstrip() + "…"]
    return lines


def event_timeline(
    duration_s: float, events: Sequence[Event], frames: Sequence[tuple[float, Picture]] = ()
) -> Figure:
    """Draw when events happen, one row per event: at the left its times and sentence, at the right a bar.

    Args:
        duration_s: length of the video.
        events: in the order of the rows.
        frames: pictures of the video, uint8 (H, W, 3), with their times, drawn above in equal widths.

    Returns:
        A figure, 13 inches wide.
    """
    inner = WIDTH - LEFT - TEXT - RIGHT
    font = letters(4 * POINTS)  # measured large, since widths of small letters are rounded
    room = 4 * 72 * (TEXT - 0.3) * 0.97
    sentences = [wrapped(sentence or "(no words)", font, room) for _, _, sentence, _ in events] or [["no events"]]
    heights = [(len(lines) + 1) * LINE + 2 * PAD for lines in sentences]
    strip = 0.0
    if frames:
        height, width = frames[0][1].shape[:2]
        strip = min(max(inner / len(frames) * height / width, 0.3), 1.6)
    above = strip + 0.12
    total = above + sum(heights) + BELOW
    figure = Figure(figsize=(WIDTH, total))

    def place(left: float, top: float, width: float, height: float) -> tuple[float, float, float, float]:
        return left / WIDTH, 1 - (top + height) / total, width / WIDTH, height / total

    if frames:
        film_strip(figure.add_axes(place(LEFT + TEXT, 0.06, inner, strip)), duration_s, frames)
    table = figure.add_axes(place(LEFT, above, WIDTH - LEFT - RIGHT, sum(heights)))
    table.set(xlim=(0, WIDTH - LEFT - RIGHT), ylim=(sum(heights), 0))
    table.axis("off")
    axis = figure.add_axes(place(LEFT + TEXT, above, inner, sum(heights)))
    axis.patch.set_alpha(0)
    tops = np.cumsum([0.0, *heights])
    for k, (lines, top, height) in enumerate(zip(sentences, tops, heights, strict=False)):
        if k % 2 == 0:
            table.axhspan(top, top + height, color="#f2f2f2", linewidth=0)
        ink = "black" if events and events[k][2] else "#777777"
        for row, line in enumerate(lines):
            y = top + PAD + (row + 1.5) * LINE
            table.text(0.1, y, line, size=POINTS, color=ink, va="center", parse_math=False)
        if not events:
            break
        start, end, _, score = events[k]
        times = f"{start:.1f} to {end:.1f} s"
        table.text(0.1, top + PAD + 0.5 * LINE, times, size=POINTS - 2, color="#666666", va="center")
        colour = COLOURS[k % len(COLOURS)]
        middle = top + height / 2
        axis.barh(
            middle, end - start, left=start, height=BAR,
            color=_share(colour), edgecolor="#444444", linewidth=0.6, clip_on=False,
        )  # fmt: skip
        needed = SCORE / inner * duration_s
        inside = end - start >= needed
        x = (start + end) / 2 if inside else end + needed / 2 if end + needed <= duration_s else start - needed / 2
        on = _share(ink_on(colour) if inside else BLACK)
        axis.text(x, middle, f"{score:.2f}", size=8, color=on, ha="center", va="center")
    axis.set(xlim=(0, duration_s), ylim=(sum(heights), 0), yticks=[])
    axis.grid(axis="x", color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(labelsize=8)
    axis.set_xlabel("seconds", fontsize=8)
    return figure


class Subtitles:
    """Sets below the pictures of a video the sentences of the events that are going on.

    Of more than three events the last ones to begin are shown, and the number of the others. The ground has the
    same height in all pictures, as much as the video needs at most.

    Args:
        events: of the video; a mark beside each sentence has the colour of its bar in `event_timeline`.
        size: (height, width) of the pictures.
    """

    def __init__(self, events: Sequence[Event], size: tuple[int, int]) -> None:
        self.events, (self.height, self.width) = list(events), size
        self.font = letters(max(16, self.width // 34))
        self.line = int(self.font.size * 5 // 4)
        self.margin = int(self.font.size * 2 // 3)
        self.indent = int(self.font.size * 3 // 4)
        room = self.width - 2 * self.margin - self.indent
        self.lines = [wrapped(sentence, self.font, room, LINES) for _, _, sentence, _ in self.events]
        changes = [time_s for event in self.events for time_s in event[:2]]
        self.panel = max(map(self._needed, changes or [0.0]))

    def going_on(self, time_s: float) -> list[int]:
        """Numbers of the events that last at a time and have a sentence, in the order of their starts."""
        now = [k for k, (start, end, text, _) in enumerate(self.events) if start <= time_s < end and text]
        return sorted(now, key=lambda k: self.events[k][0])

    def _needed(self, time_s: float) -> int:
        """Height for what is going on at a time."""
        now = self.going_on(time_s)
        lines = sum(len(self.lines[k]) for k in now[-MOST:]) + (len(now) > MOST)
        gaps = max(0, min(len(now), MOST) - 1) * (self.margin // 2)
        return max(1, lines) * self.line + gaps + 2 * self.margin

    def __call__(self, picture: Picture, time_s: float) -> Picture:
        """The uint8 picture (H, W, 3) above the sentences: (H + h, W, 3)."""
        canvas = Image.new("RGB", (self.width, self.height + self.panel), DARK)
        canvas.paste(Image.fromarray(picture), (0, 0))
        draw = ImageDraw.Draw(canvas)
        now, y = self.going_on(time_s), self.height + self.margin
        for k in now[-MOST:]:
            bottom = y + len(self.lines[k]) * self.line
            draw.rectangle(
                (self.margin, y + 2, self.margin + self.indent // 3, bottom - 3), COLOURS[k % len(COLOURS)]
            )
            for line in self.lines[k]:
                draw.text((self.margin + self.indent, y + self.line // 2), line, WHITE, self.font, anchor="lm")
                y += self.line
            y += self.margin // 2
        if len(now) > MOST:
            text = f"and {len(now) - MOST} more"
            draw.text(
                (self.margin + self.indent, y + self.line // 3), text, (170, 170, 170), self.font, anchor="lm"
            )
        return np.asarray(canvas)


def _share(colour: tuple[int, int, int]) -> tuple[float, float, float]:
    """For matplotlib, which counts from 0 to 1."""
    red, green, blue = (value / 255 for value in colour)
    return red, green, blue
