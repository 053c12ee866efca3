"""Pictures of captions whose words point at the video: a strip of frames, and pictures with the words lit."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .captions import GroundedCaption
from .drawing import BLACK, COLOURS, DARK, GREY, WHITE, Box, Colour, Picture, ink_on, letters, outline, scaled

CLOSING = tuple(".,;:!?')%")  # such tokens stand close to the word before them
WIDTH, LABELS, MARGIN, GAP = 1280, 130, 16, 8  # of the strip, in pixels
COLUMNS, CELL, ROWS_HEIGHT = 10, 200, 780  # most frames; highest cell and highest stack of rows, in pixels


def word_colours(kinds: Sequence[str]) -> dict[int, Colour]:
    """Which words are shown, the first eight nouns and verbs, and in which colour.

    Args:
        kinds: part of speech of each word of a caption, ``"NOUN"``, ``"VERB"`` or another.

    Returns:
        Number of the word -> colour, in the order of the words.
    """
    shown = [k for k, kind in enumerate(kinds) if kind in ("NOUN", "VERB")]
    return dict(zip(shown, COLOURS, strict=False))


def shown_frames(count: int) -> list[int]:
    """Numbers of the at most ten frames of `count` that a strip shows: the middles of equal parts."""
    columns = min(count, COLUMNS)
    return [(2 * k + 1) * count // (2 * columns) for k in range(columns)]


def strip(caption: GroundedCaption, colours: Mapping[int, Colour], frames: Picture) -> Image.Image:
    """Draw where the words of a caption look: one row per word, one column per frame.

    The stronger the line of a box and the clearer its frame, the more of the word's attention fell there. The
    shown frame with the largest share has a border and says how much that was.

    Args:
        caption: the caption.
        colours: the words to show, from `word_colours`; without any the frames are shown alone.
        frames: uint8 (n, H, W, 3), those of `shown_frames`, of any size in the proportion of ``caption.size``.

    Returns:
        RGB, 1280 pixels wide.
    """
    numbers = shown_frames(len(caption.times_s))
    if len(frames) != len(numbers):
        raise ValueError(f"a strip of this caption shows {len(numbers)} frames, not {len(frames)}")
    left = MARGIN + (LABELS if colours else 0)
    widest = (WIDTH - left - MARGIN) / len(numbers) - GAP
    scale = min(widest / caption.size[0], min(CELL, ROWS_HEIGHT / max(1, len(colours)) - GAP) / caption.size[1])
    size = (max(8, int(scale * caption.size[0])), max(8, int(scale * caption.size[1])))
    cells = [Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS) for frame in frames]
    sentence = _Sentence([word.text for word in caption.words], WIDTH - 2 * MARGIN, 22)
    small = letters(14)
    top = 2 * MARGIN + sentence.height
    below = top + max(1, len(colours)) * (size[1] + GAP)

    canvas = Image.new("RGB", (WIDTH, below + 14 + MARGIN), WHITE)
    draw = ImageDraw.Draw(canvas, "RGBA")  # this mode blends
    sentence.draw(draw, (MARGIN, MARGIN), BLACK, filled=colours)
    columns = [left + k * (size[0] + GAP) for k in range(len(cells))]
    for row, (index, colour) in enumerate(colours.items()):
        y = top + row * (size[1] + GAP)
        word = caption.words[index]
        label = _Sentence([word.text], LABELS - GAP, 16)
        label.draw(draw, (MARGIN, y + (size[1] - label.height) // 2), BLACK, filled={0: colour})
        shares = [word.shares[number] for number in numbers]
        peak = int(np.argmax(shares))
        for k, (x, number, cell) in enumerate(zip(columns, numbers, cells, strict=True)):
            strength = shares[k] / shares[peak] if shares[peak] > 0 else 0.0
            box = scaled(word.boxes[number], caption.size, size)
            canvas.paste(_attended(cell, box, colour, strength), (x, y))
        if shares[peak] > 0:
            x = columns[peak]
            draw.rectangle((x - 3, y - 3, x + size[0] + 2, y + size[1] + 2), outline=colour, width=3)
            share = f"{shares[peak]:.0%}"
            _tag(draw, (x, y + size[1] - _tag_size(share, small)[1]), share, small, colour)
    for x, number, cell in zip(columns, numbers, cells, strict=True):
        if not colours:
            canvas.paste(cell, (x, top))
        draw.text((x + size[0] / 2, below), f"{caption.times_s[number]:.1f} s", GREY, small, anchor="mt")
    return canvas


class LitWords:
    """Draws onto the pictures of a video what the words of its caption look at, and the caption below.

    A word is lit, and its box drawn, while the sampled frame nearest in time holds at least half as much of its
    attention as its best frame.

    Args:
        caption: the caption.
        colours: the words to show, from `word_colours`.
        size: (height, width) of the pictures, in the proportion of ``caption.size``.
    """

    def __init__(self, caption: GroundedCaption, colours: Mapping[int, Colour], size: tuple[int, int]) -> None:
        self.caption, self.colours = caption, colours
        self.height, self.width = size
        letter = max(15, self.width // 32)
        self.margin = letter // 2
        self.line = max(2, min(size) // 120)
        self.sentence = _Sentence([w.text for w in caption.words], self.width - 2 * self.margin, letter)
        self.font = letters(max(12, letter * 3 // 4))
        self.times = np.asarray(caption.times_s)

    def lit(self, time_s: float) -> tuple[int, list[int]]:
        """Number of the sampled frame nearest to a time in the video, and the words lit there."""
        frame = int(np.abs(self.times - time_s).argmin())
        words = self.caption.words
        return frame, [k for k in self.colours if words[k].shares[frame] >= max(max(words[k].shares) / 2, 1e-9)]

    def __call__(self, picture: Picture, time_s: float) -> Picture:
        """The uint8 picture (H, W, 3) with boxes and the names of the words, above the sentence: (H + h, W, 3)."""
        frame, lit = self.lit(time_s)
        upper = Image.fromarray(picture)
        self._point(ImageDraw.Draw(upper, "RGBA"), frame, lit)
        canvas = Image.new("RGB", (self.width, self.height + self.sentence.height + 2 * self.margin), DARK)
        canvas.paste(upper, (0, 0))
        filled = {index: self.colours[index] for index in lit}
        underlined = {index: colour for index, colour in self.colours.items() if index not in filled}
        corner = (self.margin, self.height + self.margin)
        self.sentence.draw(ImageDraw.Draw(canvas), corner, WHITE, filled, underlined)
        return np.asarray(canvas)

    def _point(self, draw: ImageDraw.ImageDraw, frame: int, lit: Sequence[int]) -> None:
        """Draw the boxes of words, and their names above or, where there is no room, inside."""
        boxes: list[Box] = []
        for index in lit:
            box = scaled(self.caption.words[index].boxes[frame], self.caption.size, (self.width, self.height))
            boxes.append(_beside(box, boxes, 2 * self.line))
            outline(draw, boxes[-1], self.colours[index], self.line)
        tags: list[tuple[int, int, int]] = []  # left, top, right
        for index, (x, y, _, _) in zip(lit, boxes, strict=True):  # after all boxes, so that no line crosses a name
            text = self.caption.words[index].text
            width, height = _tag_size(text, self.font)
            x, lowest = max(0, min(x, self.width - width)), self.height - height
            rows = (*range(min(y - height, lowest), -1, -1), *range(min(y, lowest), lowest))
            free = (r for r in rows if all(abs(r - b) >= height or x >= c or x + width <= a for a, b, c in tags))
            tags.append((x, next(free, lowest), x + width))
            _tag(draw, tags[-1][:2], text, self.font, self.colours[index])


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a PNG, which appears when it is complete; its folder is made where absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        picture.save(temporary, "png")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class _Sentence:
    """Words set in lines no wider than `width` pixels, with letters of a size."""

    def __init__(self, words: Sequence[str], width: int, letter: int) -> None:
        self.font, self.pad = letters(letter), max(2, letter // 6)
        self.line = letter * 8 // 5
        blank = self.font.getlength(" ") + self.pad
        self.places: list[tuple[str, float, int]] = []  # word, its left side, its line
        x, row = 0.0, 0
        for k, text in enumerate(words):
            word = text
            while self.font.getlength(word) > width - 2 * self.pad and len(word) > 1:
                word = word[:-2] + "…"
            long = self.font.getlength(word) + 2 * self.pad
            x += 0 if not x else self.pad if word.startswith(CLOSING) else blank
            if k and x + long > width:
                x, row = 0.0, row + 1
            self.places.append((word, x, row))
            x += long - 2 * self.pad
        self.height = (row + 1) * self.line

    def draw(
        self,
        draw: ImageDraw.ImageDraw,
        corner: tuple[int, int],
        ink: Colour,
        filled: Mapping[int, Colour],
        underlined: Mapping[int, Colour] | None = None,
    ) -> None:
        """Draw the words from the left top `corner` in `ink`, some on a coloured ground, some underlined."""
        for k, (word, left, row) in enumerate(self.places):
            x, y = corner[0] + self.pad + left, corner[1] + row * self.line
            middle, right = y + self.line // 2, x + self.font.getlength(word)
            if k in filled:
                box = (x - self.pad, y + 1, right + self.pad, y + self.line - 2)
                draw.rounded_rectangle(box, self.pad, filled[k])
            elif underlined and k in underlined:
                draw.rectangle((x, y + self.line - 2 - self.pad, right, y + self.line - 3), underlined[k])
            draw.text((x, middle), word, ink_on(filled[k]) if k in filled else ink, self.font, anchor="lm")


def _attended(cell: Image.Image, box: Box, colour: Colour, strength: float) -> Image.Image:
    """A frame of the strip for a word: the weaker its attention (0 to 1), the paler the frame and the box."""
    picture = cell.copy()
    draw = ImageDraw.Draw(picture, "RGBA")
    draw.rectangle((0, 0, *picture.size), (*WHITE, round(120 * (1 - strength))))
    if strength > 0:
        outline(draw, box, colour, 1 + round(2 * strength), strength)
    return picture


def _beside(box: Box, others: Sequence[Box], step: int) -> Box:
    """The box, drawn in by steps while it hides one of the others, as long as there is room."""
    x1, y1, x2, y2 = box
    while min(x2 - x1, y2 - y1) > 4 * step and any(
        max(abs(a - b) for a, b in zip((x1, y1, x2, y2), other, strict=True)) < step for other in others
    ):
        x1, y1, x2, y2 = x1 + step, y1 + step, x2 - step, y2 - step
    return x1, y1, x2, y2


def _tag_size(text: str, font: ImageFont.FreeTypeFont) -> tuple[int, int]:
    """Width and height of `_tag`."""
    return int(font.getlength(text)) + 6, int(font.size * 5 // 4)


def _tag(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], text: str, font: ImageFont.FreeTypeFont, colour: Colour
) -> None:
    """A text on a coloured ground whose left top corner is there."""
    width, height = _tag_size(text, font)
    draw.rectangle((*corner, corner[0] + width - 1, corner[1] + height - 1), colour)
    draw.text((corner[0] + 3, corner[1] + height // 2), text, ink_on(colour), font, anchor="lm")
