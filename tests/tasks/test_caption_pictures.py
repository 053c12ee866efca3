"""The strip of a caption: which words, phrases and frames it shows, and where the colours are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pointing_captions import pointing, seen

from groundzoo.tasks.caption_pictures import (
    BAR,
    COLOURS,
    GROUND,
    LABELS,
    MARGIN,
    phrase_colours,
    save_picture,
    shown_frames,
    strip,
)
from groundzoo.tasks.grounded_caption import GroundedCaption, GroundedPhrase

TEXT = "the dog chases a ball"
SIZE = (200, 120)  # so wide that four fill the width
SHARES = {"dog": (0.6, 0.4, 0.0, 0.0), "chases": (0.1, 0.2, 0.4, 0.3), "ball": (0.0, 0.05, 0.05, 0.9)}
BOXES = {"dog": (16, 12, 63, 59), "chases": (40, 30, 119, 89), "ball": (100, 60, 149, 109)}
LEFT = MARGIN + LABELS  # of the first column
PHRASES = "a small red ball rolls behind the green wall."
VISIBLE = {"a small red ball": (0.9, 0.4, 0.1, 0.8), "the green wall": (0.7, 0.7, 0.7, 0.7)}
PLACES = {"a small red ball": [(20, 40, 79, 99)], "the green wall": [(120, 10, 189, 109)]}


def grey(count: int, size: tuple[int, int] = SIZE, level: int = 90) -> np.ndarray:
    return np.full((count, size[1], size[0], 3), level, np.uint8)


def caption() -> GroundedCaption:
    return pointing(TEXT, SHARES, BOXES, SIZE, (1.0, 3.0, 5.0, 7.0))


def visible() -> GroundedCaption:
    """A ball that is hidden in the second and third frame, and a wall."""
    return seen(PHRASES, VISIBLE, PLACES, SIZE, (0.2, 0.4, 0.6, 0.8))


def pixels(picture: np.ndarray, colour: tuple[int, int, int], left: int = LEFT - 4) -> tuple[int, int, int, int]:
    """x1, y1, x2, y2 around all pixels of exactly this colour, below the sentence and beside the labels."""
    y, x = np.nonzero((picture == colour).all(axis=2))
    there = (x >= left) & (y > 60)
    return x[there].min(), y[there].min(), x[there].max(), y[there].max()


def test_chosen_words() -> None:
    assert list(phrase_colours(caption())) == [1, 2, 4], "not the nouns and verbs"
    many = phrase_colours(pointing("the dog chases a ball and " * 10, {}, {}, SIZE, (1.0,)))
    assert list(many) == [1, 2, 4, 7, 8, 10, 13, 14]
    assert len(set(many.values())) == 8
    assert phrase_colours(pointing("and so on", {}, {}, SIZE, (1.0,))) == {}


@pytest.mark.parametrize("count", [1, 2, 9, 10, 11, 12, 19, 20, 32, 64, 257])
def test_shown_frames(count: int) -> None:
    shown = shown_frames(count)
    assert len(shown) == min(10, count)
    assert min(shown) >= 0
    assert max(shown) < count
    steps = np.diff(shown)
    assert (steps >= 1).all()
    assert np.ptp(steps) <= 1 if len(steps) else True, "not uniform"
    assert abs(shown[0] - (count - 1 - shown[-1])) <= 1, "not in the middle"


def test_every_word_is_framed_where_it_looks_most() -> None:
    colours = phrase_colours(caption())
    picture = np.asarray(strip(caption(), colours, grey(4)))
    assert picture.shape[1] == 1280
    column = (1280 - LEFT - MARGIN) / 4
    below = 0
    for (index, colour), best in zip(colours.items(), (0, 2, 3), strict=True):
        word = caption().phrases[index]
        assert word.boxes[0] is not None
        strong = (picture == colour).all(axis=2)
        strong[: 2 * MARGIN + 30] = False
        strong[:, : LEFT - 4] = False
        y, x = np.nonzero(strong)
        assert (x.mean() - LEFT) // column == best
        assert np.ptp(x) < column, "the colour at its full strength elsewhere"
        x1, y1, x2, y2 = x.min() + 3, y.min() + 3, x.max() - 3, y.max() - 3  # the cell inside its frame
        assert (x2 - x1 + 1) / (y2 - y1 + 1) == pytest.approx(200 / 120, rel=0.02)
        assert y1 > below, "rows are not in the order of the words"
        below = y2
        scale = (x2 - x1 + 1) / 200
        middle = y1 + round((word.boxes[0][1] + word.boxes[0][3]) / 2 * scale)
        edges = [x1 + round(word.boxes[0][k] * scale) for k in (0, 2)]
        assert strong[middle, edges[0] : edges[0] + 3].all()
        assert strong[middle, edges[1] - 2 : edges[1] + 1].all()
        assert not strong[middle, edges[0] + 4 : edges[1] - 4].any(), "the box is filled"


def test_the_less_attention_the_fainter() -> None:
    colours = phrase_colours(caption())
    picture = np.asarray(strip(caption(), colours, grey(4))).astype(int)
    x1, y1, x2, _ = pixels(picture, colours[1])  # the dog's: 0.6, 0.4, 0, 0
    cell = (x2 - x1 + 1 - 6) + 8
    scale = (x2 - x1 - 5) / 200
    y = y1 + 3 + round(35 * scale)
    line = [x1 + 3 + k * cell + round(16 * scale) for k in range(4)]
    ground = [x1 + 3 + k * cell + round(150 * scale) for k in range(4)]
    contrast = [np.abs(picture[y, a] - picture[y, b]).sum() for a, b in zip(line, ground, strict=True)]
    assert contrast[0] > 1.3 * contrast[1] > 0
    assert contrast[2] == contrast[3] == 0, "a box in a frame without attention"
    levels = picture[y, ground, 0]
    assert levels[0] == 90, "the frame with the most attention is changed"
    assert levels[0] < levels[1] < levels[2] == levels[3]


def test_boxes_are_those_of_the_frame() -> None:
    """Of 20 frames every second is shown; the box moves with the frames."""
    word = GroundedPhrase("dog", 0, 3, [[10.0 * k, 20, 10.0 * k + 9, 60] for k in range(20)], [0.05] * 20)
    given = GroundedCaption("dog", -1.0, [word], [float(k) for k in range(20)], SIZE, "attention")
    picture = np.asarray(strip(given, {0: COLOURS[0]}, grey(10)))
    cell, scale = (1280 - LEFT - MARGIN) / 10, ((1280 - LEFT - MARGIN) / 10 - 8) / 200
    there = (picture[85] == COLOURS[0]).all(axis=1)  # a row of pixels through all boxes
    for column, frame in enumerate(shown_frames(20)):
        left = LEFT + column * cell + 10 * frame * scale
        assert there[round(left) - 6 : round(left) + 12].any(), f"column {column}"
    assert there.sum() < 10 * 12


def test_words_with_a_row_are_coloured_in_the_sentence() -> None:
    picture = np.asarray(strip(caption(), phrase_colours(caption()), grey(4)))[: 2 * MARGIN + 30]
    places = []
    for colour in COLOURS:
        _, x = np.nonzero((picture == colour).all(axis=2))
        places += [x.mean()] if len(x) else []
    assert len(places) == 3
    assert places == sorted(places)


def test_no_attention_is_not_framed() -> None:
    blind = pointing(TEXT, dict.fromkeys(SHARES, (0.0,) * 4), BOXES, SIZE, (1, 2, 3, 4))
    picture = np.asarray(strip(blind, phrase_colours(blind), grey(4)))[60:, LEFT - 4 :]
    assert not any((picture == colour).all(axis=2).any() for colour in COLOURS)


def test_without_nouns_and_verbs_the_frames_stand_alone() -> None:
    frames = grey(4)
    frames[2] = (10, 200, 30)
    picture = np.asarray(strip(caption(), {}, frames))
    assert not any((picture == colour).all(axis=2).any() for colour in COLOURS)
    y, x = np.nonzero((picture == (10, 200, 30)).all(axis=2))
    assert 1280 / 2 < x.mean() < 1280 * 3 / 4
    assert len(y) == (np.ptp(y) + 1) * (np.ptp(x) + 1) > 10_000, "the frame is covered or tiny"


@pytest.mark.parametrize("size", [(320, 240), (1920, 1080), (1080, 1920), (96, 96), (2000, 40), (40, 2000)])
@pytest.mark.parametrize("count", [1, 10, 32])
@pytest.mark.parametrize("words", [1, 8])
def test_fits_a_screen(size: tuple[int, int], count: int, words: int) -> None:
    text = " ".join(f"n{k}" for k in range(words))
    given = pointing(text, {}, {}, size, [0.5 + k for k in range(count)])
    small = (max(1, size[0] // 10), max(1, size[1] // 10))
    picture = np.asarray(strip(given, phrase_colours(given), grey(min(count, 10), small)))
    assert picture.shape[1] == 1280
    assert picture.shape[0] < 900
    assert (picture[:, -MARGIN + 4 :] == 255).all(), "something reaches over the right margin"


# ---- phrases with visibility ------------------------------------------------------------------------------


def test_every_phrase_has_a_colour_whatever_its_words_are() -> None:
    assert list(phrase_colours(visible())) == [0, 1]
    many = seen("the and " * 20, {}, {}, SIZE, (1.0,))
    many = many._replace(phrases=[GroundedPhrase("the", 8 * k, 8 * k + 3, [None], [0.0]) for k in range(20)])
    assert list(phrase_colours(many)) == list(range(8))


def test_a_phrase_is_boxed_where_it_is_seen_and_pale_where_not() -> None:
    picture = np.asarray(strip(visible(), phrase_colours(visible()), grey(4)))
    column = (1280 - LEFT - MARGIN) / 4
    width, height = int(column - 8), int((column - 8) / 200 * 120)
    top = 2 * MARGIN + 22 * 8 // 5
    for row, (phrase, colour) in enumerate(zip(visible().phrases, COLOURS, strict=False)):
        for k, box in enumerate(phrase.boxes):
            x, y = LEFT + k * (width + 8), top + row * (height + 8 + BAR)
            cell = picture[y : y + height, x : x + width]
            drawn = np.nonzero((cell == colour).all(axis=2))
            if box is None:
                assert not len(drawn[0]), "a box where the phrase is hidden"
                assert (cell > 120).all(), "not pale"
            else:
                found = (drawn[1].min(), drawn[0].min(), drawn[1].max(), drawn[0].max())
                assert found == pytest.approx([v * width / 200 for v in box], abs=1.5)
                assert (cell[4, 4] == 90).all(), "the frame is changed"
            assert (picture[y : y + height, x + width + 1 : x + width + 6] == 255).all(), "a border"


def test_the_bar_shows_the_probability_of_all_frames() -> None:
    chances = tuple(k / 39 for k in range(40))  # ten of the forty frames are shown
    given = seen("a dog", {"a dog": chances}, {"a dog": [(20, 20, 80, 80)]}, SIZE, [k / 5 for k in range(40)])
    picture = np.asarray(strip(given, {0: COLOURS[0]}, grey(10)))
    widest = (1280 - LEFT - MARGIN) / 10 - 8
    top = 2 * MARGIN + 22 * 8 // 5 + int(widest / 200 * 120) + 2
    bar = picture[top : top + BAR - 1, LEFT : LEFT + 10 * (int(widest) + 8) - 8].astype(int)
    strong, ground = (bar == COLOURS[0]).all(axis=2), (bar == GROUND).all(axis=2)
    for k, chance in enumerate(chances):
        x = round((k + 0.5) * bar.shape[1] / 40)
        high = (~ground[:, x]).sum()
        assert high == pytest.approx(chance * (BAR - 1), abs=0.6), f"frame {k}"
        assert strong[:, x].sum() == (high if chance > 0.5 else 0), "pale exactly where there is no box"
        assert not strong[:, x].any() or strong[-1, x], "the column does not stand on the ground"


def grounds(text: str, phrases: tuple[str, ...]) -> list[list[tuple[int, int]]]:
    """Of the ground of each phrase in the sentence: first and last x in every line that has some."""
    given = seen(text, dict.fromkeys(phrases, (0.9,)), {p: [(0, 0, 9, 9)] for p in phrases}, SIZE, (1.0,))
    picture = np.asarray(strip(given, phrase_colours(given), grey(1)))[:, : 1280 - MARGIN]
    letter, found = 22 * 8 // 5, []
    for colour in COLOURS[: len(phrases)]:
        lines = (picture[MARGIN + k * letter + 3] == colour for k in range(4))
        found.append([(x.min(), x.max()) for x in (np.nonzero(line.all(axis=1))[0] for line in lines) if len(x)])
    return found


def test_a_phrase_stands_on_one_ground() -> None:
    """Its words and the blanks between them, and not the full stop behind it."""
    (ball,), (wall,) = grounds(PHRASES, ("a small red ball", "the green wall"))
    (small,), (last,) = grounds(PHRASES, ("small", "wall."))
    assert ball[0] < small[0] < small[1] < ball[1] < wall[0] < last[0]
    assert wall[1] < last[1], "the full stop is taken in"
    given = seen(PHRASES, VISIBLE, PLACES, SIZE, (0.2, 0.4, 0.6, 0.8))
    row = np.asarray(strip(given, phrase_colours(given), grey(4)))[MARGIN + 3]
    assert (row[ball[0] : ball[1] + 1] == COLOURS[0]).all(), "the ground is broken between words"


def test_a_phrase_is_coloured_in_every_line_it_stands_in() -> None:
    text = "and " * 20 + "the very long red and green and blue and yellow and purple snake sleeps"
    (lines,) = grounds(text, (text[80:-7],))
    assert len(lines) == 2
    assert lines[1][0] < MARGIN + 10 < 700 < lines[0][0] < lines[0][1]


@pytest.mark.parametrize("size", [(320, 240), (1080, 1920), (2000, 40), (40, 2000)])
@pytest.mark.parametrize("count", [1, 41, 3000])
@pytest.mark.parametrize("phrases", [0, 1, 12])
def test_visibility_fits_a_screen(size: tuple[int, int], count: int, phrases: int) -> None:
    names = [f"the person with the number {k} and gloves" for k in range(phrases)]
    chances = dict.fromkeys(names, tuple(k % 7 / 6 for k in range(count)))
    boxes = {name: [(0.0, 0.0, size[0] / 2, size[1] / 2)] for name in names}
    given = seen(", ".join(names) or "none", chances, boxes, size, [k / 5 for k in range(count)])
    assert len(given.phrases) == phrases
    small = (max(1, size[0] // 10), max(1, size[1] // 10))
    picture = np.asarray(strip(given, phrase_colours(given), grey(min(count, 10), small)))
    assert picture.shape[1] == 1280
    assert picture.shape[0] < 900 + 4 * 35, "more than a screen and four more lines of the sentence"
    assert (picture[:, -MARGIN + 4 :] == 255).all(), "something reaches over the right margin"
    beside = picture[MARGIN * 2 + 35 * 8 : -MARGIN - 14, LEFT - 7 : LEFT - 3]
    assert not phrases or (beside == 255).all(), "a label reaches into the frames"


def test_long_and_foreign_sentences_are_wrapped() -> None:
    text = "Ένας άνδρας в бороде überquert naïve 狗 [UNK] " + "w" * 500 + " dog" * 60
    given = pointing(text, {}, {}, SIZE, (1.0,))
    long = np.asarray(strip(given, {1: COLOURS[0]}, grey(1)))
    short = np.asarray(strip(pointing("a dog", {}, {}, SIZE, (1.0,)), {1: COLOURS[0]}, grey(1)))
    assert long.shape[0] > short.shape[0] + 100
    assert (long[:, -MARGIN + 4 :] == 255).all()


def test_wrong_number_of_frames() -> None:
    with pytest.raises(ValueError, match="shows 4 frames, not 3"):
        strip(caption(), {}, grey(3))


def test_a_picture_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "a.png"
    save_picture(Image.new("RGB", (4, 4)), path)
    assert Image.open(path).size == (4, 4)

    def full(_: Image.Image, target: Path, *__: object) -> None:
        Path(target).write_bytes(b"half a pic")
        raise OSError("no space left")

    before = path.read_bytes()
    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="space"):
        save_picture(Image.new("RGB", (8, 8)), path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
