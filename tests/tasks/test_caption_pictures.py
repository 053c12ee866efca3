"""The strip of a caption: which words and frames it shows, and where the colours are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pointing_captions import pointing

from groundzoo.tasks.caption_pictures import (
    COLOURS,
    LABELS,
    MARGIN,
    save_picture,
    shown_frames,
    strip,
    word_colours,
)
from groundzoo.tasks.captions import GroundedCaption, GroundedWord

TEXT = "the dog chases a ball"
KINDS = ["DET", "NOUN", "VERB", "DET", "NOUN"]
SIZE = (200, 120)  # so wide that four fill the width
SHARES = {"dog": (0.6, 0.4, 0.0, 0.0), "chases": (0.1, 0.2, 0.4, 0.3), "ball": (0.0, 0.05, 0.05, 0.9)}
BOXES = {"dog": (16, 12, 63, 59), "chases": (40, 30, 119, 89), "ball": (100, 60, 149, 109)}
LEFT = MARGIN + LABELS  # of the first column


def grey(count: int, size: tuple[int, int] = SIZE, level: int = 90) -> np.ndarray:
    return np.full((count, size[1], size[0], 3), level, np.uint8)


def caption() -> GroundedCaption:
    return pointing(TEXT, SHARES, BOXES, SIZE, (1.0, 3.0, 5.0, 7.0))


def pixels(picture: np.ndarray, colour: tuple[int, int, int], left: int = LEFT - 4) -> tuple[int, int, int, int]:
    """x1, y1, x2, y2 around all pixels of exactly this colour, below the sentence and beside the labels."""
    y, x = np.nonzero((picture == colour).all(axis=2))
    there = (x >= left) & (y > 60)
    return x[there].min(), y[there].min(), x[there].max(), y[there].max()


def test_chosen_words() -> None:
    assert list(word_colours(KINDS)) == [1, 2, 4]
    many = word_colours(["NOUN", "DET", "VERB", "PRON", "AUX"] * 10)
    assert list(many) == [0, 2, 5, 7, 10, 12, 15, 17]
    assert len(set(many.values())) == 8
    assert word_colours(["DET", "PRON"]) == {}


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
    colours = word_colours(KINDS)
    picture = np.asarray(strip(caption(), colours, grey(4)))
    assert picture.shape[1] == 1280
    column = (1280 - LEFT - MARGIN) / 4
    below = 0
    for (index, colour), best in zip(colours.items(), (0, 2, 3), strict=True):
        word = caption().words[index]
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
    colours = word_colours(KINDS)
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
    word = GroundedWord("dog", [[10.0 * k, 20, 10.0 * k + 9, 60] for k in range(20)], [0.05] * 20)
    given = GroundedCaption("dog", -1.0, [word], [float(k) for k in range(20)], SIZE)
    picture = np.asarray(strip(given, {0: COLOURS[0]}, grey(10)))
    cell, scale = (1280 - LEFT - MARGIN) / 10, ((1280 - LEFT - MARGIN) / 10 - 8) / 200
    there = (picture[85] == COLOURS[0]).all(axis=1)  # a row of pixels through all boxes
    for column, frame in enumerate(shown_frames(20)):
        left = LEFT + column * cell + 10 * frame * scale
        assert there[round(left) - 6 : round(left) + 12].any(), f"column {column}"
    assert there.sum() < 10 * 12


def test_words_with_a_row_are_coloured_in_the_sentence() -> None:
    picture = np.asarray(strip(caption(), word_colours(KINDS), grey(4)))[: 2 * MARGIN + 30]
    places = []
    for colour in COLOURS:
        _, x = np.nonzero((picture == colour).all(axis=2))
        places += [x.mean()] if len(x) else []
    assert len(places) == 3
    assert places == sorted(places)


def test_no_attention_is_not_framed() -> None:
    blind = pointing(TEXT, dict.fromkeys(SHARES, (0.0,) * 4), BOXES, SIZE, (1, 2, 3, 4))
    picture = np.asarray(strip(blind, word_colours(KINDS), grey(4)))[60:, LEFT - 4 :]
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
    picture = np.asarray(strip(given, word_colours(["NOUN"] * words), grey(min(count, 10), small)))
    assert picture.shape[1] == 1280
    assert picture.shape[0] < 900
    assert (picture[:, -MARGIN + 4 :] == 255).all(), "something reaches over the right margin"


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
