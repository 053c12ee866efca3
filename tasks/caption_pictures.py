"""Pictures of captions whose phrases point at the video: a strip of frames, and pictures with the phrases lit."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..zoo.text.grammar import tag
from .drawing import BLACK, COLOURS, DARK, GREY, WHITE, Box, Colour, Picture, ink_on, letters, outline, scaled
from .grounded_caption import GroundedCaption, GroundedPhrase

CLOSING = tuple(".,;:!?')%")  # such tokens stand close to the word before them
WIDTH, LABELS, MARGIN, GAP = 1280, 130, 16, 8  # of the strip, in pixels
COLUMNS, CELL, ROWS_HEIGHT = 10, 200, 780  # most frames; highest cell and highest stack of rows, in pixels
LABEL_LINES = 3  # of a phrase beside its row; the rest is cut
BAR, GROUND = 12, (225, 225, 225)  # height of the bar below a row, in pixels, and the colour behind it


def phrase_colours(caption: GroundedCaption) -> dict[int, Colour]:
    """The first eight phrases, which are shown, and their colours; of words with attention only nouns and verbs.

    Returns:
        Number of the phrase -> colour, in the order of the phrases.
    """
    shown = list(range(len(caption.phrases)))
    if caption.measure == "attention":
        kinds = tag([phrase.text for phrase in caption.phrases])
        shown = [k for k in shown if kinds[k] in ("NOUN", "VERB")]
    return dict(zip(shown, COLOURS, strict=False))


def shown_frames(count: int) -> list[int]:
    """Numbers of the at most ten frames of `count` that a strip shows: the middles of equal parts."""
    columns = min(count, COLUMNS)
    return [(2 * k + 1) * count // (2 * columns) for k in range(columns)]


def strip(caption: GroundedCaption, colours: Mapping[int, Colour], frames: Picture) -> Image.Image:
    """Draw where the phrases of a caption are: one row per phrase, one column per frame.

    Attention: the stronger the line of a box and the clearer its frame, the more of the word's attention fell
    there. The shown frame with the largest share has a border and says how much that was.

    Visibility: frames in which the phrase is not seen are pale and have no box. The bar below a row has a column
    for every frame, also of those between the shown ones, as high as its probability, pale where there is no box.

    Args:
        caption: the caption.
        colours: the phrases to show, from `phrase_colours`; without any the frames are shown alone.
        frames: uint8 (n, H, W, 3), those of `shown_frames`, of any size in the proportion of ``caption.size``.

    Returns:
        RGB, 1280 pixels wide.
    """
    numbers = shown_frames(len(caption.times_s))
    if len(frames) != len(numbers):
        raise ValueError(f"a strip of this caption shows {len(numbers)} frames, not {len(frames)}")
    left = MARGIN + (LABELS if colours else 0)
    widest = (WIDTH - left - MARGIN) / len(numbers) - GAP
    under = GAP + (BAR if caption.measure == "visibility" else 0)
    highest = min(CELL, ROWS_HEIGHT / max(1, len(colours)) - under)
    scale = min(widest / caption.size[0], highest / caption.size[1])
    size = (max(8, int(scale * caption.size[0])), max(8, int(scale * caption.size[1])))
    cells = [Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS) for frame in frames]
    sentence = _Sentence(caption.text, _spans(caption), WIDTH - 2 * MARGIN, 22)
    texts = {index: caption.phrases[index].text for index in colours}
    labels = {k: _Sentence(t, [(0, len(t))], LABELS - GAP, 16, LABEL_LINES) for k, t in texts.items()}
    inner = max(
        [size[1], *(label.height for label in labels.values())]
    )  # height of a row without what is under it
    small = letters(14)
    top = 2 * MARGIN + sentence.height
    below = top + max(1, len(colours)) * (inner + under)

    canvas = Image.new("RGB", (WIDTH, below + 14 + MARGIN), WHITE)
    draw = ImageDraw.Draw(canvas, "RGBA")  # this mode blends
    sentence.draw(draw, (MARGIN, MARGIN), BLACK, filled=colours)
    columns = [left + k * (size[0] + GAP) for k in range(len(cells))]
    for row, (index, colour) in enumerate(colours.items()):
        y = top + row * (inner + under)
        phrase, label = caption.phrases[index], labels[index]
        label.draw(draw, (MARGIN, y + (inner - label.height) // 2), BLACK, filled={0: colour})
        strengths = _strengths(caption, phrase, numbers)
        for x, number, cell, strength in zip(columns, numbers, cells, strengths, strict=True):
            box = phrase.boxes[number]
            place = None if box is None else scaled(box, caption.size, size)
            canvas.paste(_clear(cell, place, colour, strength), (x, y))
        if caption.measure == "visibility":
            _bar(draw, (left, y + size[1] + 2, columns[-1] + size[0] - 1, y + size[1] + BAR), phrase, colour)
        elif max(strengths) > 0:
            peak = int(np.argmax(strengths))
            x = columns[peak]
            draw.rectangle((x - 3, y - 3, x + size[0] + 2, y + size[1] + 2), outline=colour, width=3)
            share = f"{phrase.scores[numbers[peak]]:.0%}"
            _tag(draw, (x, y + size[1] - _tag_size(share, small)[1]), share, small, colour)
    for x, number, cell in zip(columns, numbers, cells, strict=True):
        if not colours:
            canvas.paste(cell, (x, top))
        draw.text((x + size[0] / 2, below), f"{caption.times_s[number]:.1f} s", GREY, small, anchor="mt")
    return canvas


class LitPhrases:
    """Draws onto the pictures of a video where the phrases of its caption are, and the caption below.

    The sampled frame nearest in time counts. A phrase is lit, and its box drawn, while it is seen there; a word
    with attention, while the frame holds at least half as much of it as the word's best frame.

    Args:
        caption: the caption.
        colours: the phrases to show, from `phrase_colours`.
        size: (height, width) of the pictures, in the proportion of ``caption.size``.
    """

    def __init__(self, caption: GroundedCaption, colours: Mapping[int, Colour], size: tuple[int, int]) -> None:
        self.caption, self.colours = caption, colours
        self.height, self.width = size
        letter = max(15, self.width // 32)
        self.margin = letter // 2
        self.line = max(2, min(size) // 120)
        self.sentence = _Sentence(caption.text, _spans(caption), self.width - 2 * self.margin, letter)
        self.font = letters(max(12, letter * 3 // 4))
        self.times = np.asarray(caption.times_s)

    def lit(self, time_s: float) -> tuple[int, list[int]]:
        """Number of the sampled frame nearest to a time in the video, and the phrases lit there."""
        frame = int(np.abs(self.times - time_s).argmin())
        return frame, [k for k in self.colours if self._seen(self.caption.phrases[k], frame)]

    def _seen(self, phrase: GroundedPhrase, frame: int) -> bool:
        least = max(max(phrase.scores) / 2, 1e-9) if self.caption.measure == "attention" else 0.0
        return phrase.boxes[frame] is not None and phrase.scores[frame] >= least

    def __call__(self, picture: Picture, time_s: float) -> Picture:
        """The uint8 picture (H, W, 3) with boxes and names, above the sentence: (H + h, W, 3)."""
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
        """Draw the boxes of phrases, and their names above or, where there is no room, inside."""
        boxes: list[Box] = []
        for index in lit:
            given = self.caption.phrases[index].boxes[frame]
            assert given is not None, "lit without a box"
            box = scaled(given, self.caption.size, (self.width, self.height))
            boxes.append(_beside(box, boxes, 2 * self.line))
            outline(draw, boxes[-1], self.colours[index], self.line)
        tags: list[tuple[int, int, int]] = []  # left, top, right
        for index, (x, y, _, _) in zip(lit, boxes, strict=True):  # after all boxes, so that no line crosses a name
            text = _fitted(self.caption.phrases[index].text, self.font, self.width - 6)
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
    """A text set in lines no wider than `width` pixels, with letters of a size.

    Args:
        text: words, with blanks between them.
        spans: begin and end of its phrases, characters.
        width: of the lines, in pixels.
        letter: size of the letters.
        lines: the text is cut after so many.
    """

    def __init__(
        self, text: str, spans: Sequence[tuple[int, int]], width: int, letter: int, lines: int | None = None
    ) -> None:
        self.font, self.pad = letters(letter), max(2, letter // 6)
        self.line = letter * 8 // 5
        blank = self.font.getlength(" ") + self.pad
        self.places: list[tuple[str, float, int, int | None]] = []  # word, its left side, its line, its phrase
        x, row, apart = 0.0, 0, False
        for piece, phrase, blank_piece in _pieces(text, spans):
            if blank_piece:
                apart = True
                continue
            word = _fitted(piece, self.font, width - 2 * self.pad)
            long = self.font.getlength(word) + 2 * self.pad
            x += 0 if not x else blank if apart and not word.startswith(CLOSING) else self.pad
            if self.places and x + long > width:
                x, row = 0.0, row + 1
            if row == lines:
                last, left, row, owner = self.places[-1]
                self.places[-1] = (_fitted(f"{last} …", self.font, width - 2 * self.pad - left), left, row, owner)
                break
            self.places.append((word, x, row, phrase))
            x, apart = x + long - 2 * self.pad, False
        self.height = (row + 1) * self.line

    def draw(
        self,
        draw: ImageDraw.ImageDraw,
        corner: tuple[int, int],
        ink: Colour,
        filled: Mapping[int, Colour],
        underlined: Mapping[int, Colour] | None = None,
    ) -> None:
        """Draw the text from the left top `corner` in `ink`, phrases on a coloured ground or underlined."""
        for (phrase, row), group in groupby(self.places, key=lambda place: (place[3], place[2])):
            words = [(word, corner[0] + self.pad + x) for word, x, *_ in group]
            y, left, right = (
                corner[1] + row * self.line,
                words[0][1],
                words[-1][1] + self.font.getlength(words[-1][0]),
            )
            ground = None if phrase is None else filled.get(phrase)
            if ground is not None:
                draw.rounded_rectangle(
                    (left - self.pad, y + 1, right + self.pad, y + self.line - 2), self.pad, ground
                )
            elif phrase is not None and underlined and phrase in underlined:
                draw.rectangle((left, y + self.line - 2 - self.pad, right, y + self.line - 3), underlined[phrase])
            for word, x in words:
                colour = ink if ground is None else ink_on(ground)
                draw.text((x, y + self.line // 2), word, colour, self.font, anchor="lm")


def _spans(caption: GroundedCaption) -> list[tuple[int, int]]:
    """Where its phrases are in a caption, characters."""
    return [(phrase.start, phrase.end) for phrase in caption.phrases]


def _pieces(text: str, spans: Sequence[tuple[int, int]]) -> Iterator[tuple[str, int | None, bool]]:
    """Words and blanks, cut also where phrases begin and end: text, number of its phrase, whether it is blank."""
    owner: list[int | None] = [None] * len(text)
    for number, (start, end) in enumerate(spans):
        owner[start:end] = [number] * (end - start)
    for (phrase, blank), run in groupby(range(len(text)), key=lambda i: (owner[i], text[i].isspace())):
        numbers = list(run)
        yield text[numbers[0] : numbers[-1] + 1], phrase, blank


def _fitted(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """The text, its end cut off where it is wider than so many pixels."""
    while font.getlength(text) > width and len(text) > 1:
        text = text[:-2] + "…"
    return text


def _strengths(caption: GroundedCaption, phrase: GroundedPhrase, numbers: Sequence[int]) -> list[float]:
    """How clearly the shown frames of a phrase are drawn, 0 to 1."""
    if caption.measure == "visibility":
        return [float(phrase.boxes[number] is not None) for number in numbers]
    most = max(phrase.scores[number] for number in numbers)
    return [phrase.scores[number] / most if most > 0 else 0.0 for number in numbers]


def _bar(draw: ImageDraw.ImageDraw, place: Box, phrase: GroundedPhrase, colour: Colour) -> None:
    """A column for every frame, as high as its score, pale where the phrase has no box."""
    left, top, right, bottom = place
    draw.rectangle(place, GROUND)
    edges = [left + round(k * (right + 1 - left) / len(phrase.scores)) for k in range(len(phrase.scores) + 1)]
    for x1, x2, score, box in zip(edges, edges[1:], phrase.scores, phrase.boxes, strict=False):
        y = bottom + 1 - round(score * (bottom + 1 - top))
        if x2 > x1 and y <= bottom:
            draw.rectangle((x1, y, x2 - 1, bottom), (*colour, 90) if box is None else colour)


def _clear(cell: Image.Image, box: Box | None, colour: Colour, strength: float) -> Image.Image:
    """A frame of the strip for a phrase: the weaker (0 to 1), the paler the frame and the box, if there is one."""
    picture = cell.copy()
    draw = ImageDraw.Draw(picture, "RGBA")
    draw.rectangle((0, 0, *picture.size), (*WHITE, round(120 * (1 - strength))))
    if box is not None:
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
