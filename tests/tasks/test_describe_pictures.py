"""Pictures and tables of described events: what is shown, where and when, without overlaps."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console

from groundzoo.tasks.describe_pictures import Event, Subtitles, event_timeline, wrapped
from groundzoo.tasks.describing import ToldEvent
from groundzoo.tasks.drawing import COLOURS, DARK, letters
from groundzoo.tasks.tables import events_table

LONG = "the man continues to cook the pancake on the stove and then he puts it on a plate next to some butter " * 2
SENTENCES = ["a man pours batter", LONG, "", "she waves $x^2$ <b>", "x" * 150, "they run"]
DURATION = 60.0


def events(count: int) -> list[Event]:
    starts = [DURATION * k / (count + 1) for k in range(count)]
    lengths = itertools.cycle([20.0, 1.0, 0.05, 40.0])
    return [
        (start, min(start + length, DURATION), SENTENCES[k % len(SENTENCES)], 0.9 - 0.05 * k)
        for k, (start, length) in enumerate(zip(starts, lengths, strict=False))
    ]


# ---- lines ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [LONG, "x" * 150, "a b", "", "word " + "y" * 90 + " z"])
def test_lines_fit_and_keep_all_words(text: str) -> None:
    font = letters(20)
    lines = wrapped(text, font, 300)
    assert all(font.getlength(line) <= 300 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    if "xx" not in text and "yy" not in text:
        assert " ".join(lines) == " ".join(text.split())
    for line, after in itertools.pairwise(lines):  # no line could have taken the next word, or letter
        assert font.getlength(f"{line} {after.split()[0]}") > 300


def test_what_is_cut_ends_in_an_ellipsis() -> None:
    font = letters(20)
    full, cut = wrapped(LONG, font, 300), wrapped(LONG, font, 300, most=2)
    assert len(full) > 2
    assert cut[0] == full[0]
    assert cut[1].endswith("…")
    assert full[1].startswith(cut[1][:-3])
    assert font.getlength(cut[1]) <= 300
    assert wrapped("a b", font, 300, most=2) == ["a b"]


# ---- time line ------------------------------------------------------------------------------------------


def texts(figure: Figure) -> dict[str, list[tuple[float, float, float, float]]]:
    """Texts other than ticks, and where they are in pixels (left, bottom, right, top)."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.canvas.draw()
    found: dict[str, list[tuple[float, float, float, float]]] = {}
    for axis in figure.axes:
        for text in axis.texts:
            box = text.get_window_extent(renderer)
            found.setdefault(text.get_text(), []).append((box.x0, box.y0, box.x1, box.y1))
    return found


@pytest.mark.parametrize("count", [1, 2, 5, 12])
def test_no_text_overlaps_another_or_leaves_the_picture(count: int) -> None:
    picture = np.full((72, 96, 3), 90, np.uint8)
    figure = event_timeline(DURATION, events(count), [(6.0 * k, picture) for k in range(10)])
    boxes = [box for boxes in texts(figure).values() for box in boxes]
    assert len(boxes) >= 3 * count
    width, height = figure.get_size_inches() * figure.dpi
    bars = figure.axes[-1].get_window_extent()
    for a in boxes:
        assert 0 <= a[0] < a[2] <= width
        assert 0 <= a[1] < a[3] <= height
        assert a[2] < bars.x0 or a[0] > bars.x0 - 1, "a sentence reaches into the bars"
    for a, b in itertools.combinations(boxes, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] + 1 or b[3] <= a[1] + 1


def test_every_event_has_its_times_sentence_score_and_bar() -> None:
    told = events(6)
    figure = event_timeline(DURATION, told)
    shown = texts(figure)
    bars = figure.axes[-1].patches
    assert len(bars) == 6
    for k, (bar, (start, end, _, score)) in enumerate(zip(bars, told, strict=True)):
        assert (bar.get_x(), bar.get_x() + bar.get_width()) == pytest.approx((start, end))
        assert bar.get_facecolor()[:3] == pytest.approx([c / 255 for c in COLOURS[k % 8]])
        assert f"{start:.1f} to {end:.1f} s" in shown
        extent = bar.get_window_extent()
        ((left, bottom, right, top),) = shown[f"{score:.2f}"]
        assert extent.y0 < (bottom + top) / 2 < extent.y1
        assert (extent.x0 <= left and right <= extent.x1) or right < extent.x0 or left > extent.x1
    for sentence in ("a man pours batter", "(no words)", "she waves $x^2$ <b>"):
        assert sentence in shown
    assert not any(text.get_parse_math() for axis in figure.axes for text in axis.texts if "$" in text.get_text())
    words = " ".join(shown).split()
    assert set(LONG.split()) <= set(words)


def test_the_score_of_a_short_last_event_stays_in_the_picture() -> None:
    figure = event_timeline(DURATION, [(DURATION - 0.1, DURATION, "the end", 0.33)])
    ((left, _, right, _),) = texts(figure)["0.33"]
    axis = figure.axes[-1]
    assert axis.get_window_extent().x0 < left < right < axis.patches[0].get_window_extent().x0


def test_a_video_without_events() -> None:
    figure = event_timeline(DURATION, [])
    assert list(texts(figure)) == ["no events"]


# ---- subtitles ------------------------------------------------------------------------------------------


def picture(size: tuple[int, int]) -> np.ndarray:
    return np.full((*size, 3), 120, np.uint8)


def test_sentences_come_and_go_with_their_events() -> None:
    told: list[Event] = [(1.0, 3.0, "a man runs", 0.9), (2.0, 4.0, "a dog barks", 0.8)]
    subtitles = Subtitles(told, (360, 480))
    assert [subtitles.going_on(t) for t in (0.9, 1.0, 2.5, 3.0, 4.0)] == [[], [0], [0, 1], [1], []]
    lit = {}
    for time_s in (0.0, 1.5, 2.5, 3.5):
        shown = subtitles(picture((360, 480)), time_s)
        assert shown.shape == (360 + subtitles.panel, 480, 3)
        assert (shown[:360] == 120).all(), "the picture itself is touched"
        lit[time_s] = [(shown[360:] == colour).all(-1).any() for colour in COLOURS[:2]]
        assert (shown[360:] == DARK).all() == (time_s == 0.0)
    assert lit == {0.0: [False, False], 1.5: [True, False], 2.5: [True, True], 3.5: [False, True]}


@pytest.mark.parametrize("size", [(360, 360), (480, 854), (854, 480)])
def test_everything_fits_below_the_picture(size: tuple[int, int]) -> None:
    """Also when a long sentence comes back after a later event has ended."""
    others = [(1.0, 3.0, "one", 0.8), (1.0, 9.0, "two", 0.8), (1.0, 9.0, "x", 0.7)]
    told: list[Event] = [(0.0, 9.0, LONG, 0.9), *others]
    subtitles = Subtitles(told, size)
    letter = subtitles.font.size
    assert letter >= 16
    lowest = []
    for time_s in (0.5, 1.2, 2.5, 4.0):
        rows = np.flatnonzero((subtitles(picture(size), time_s)[size[0] :] != DARK).any((1, 2)))
        lowest.append(rows[-1])
        assert rows[0] > 2
        assert rows[-1] < subtitles.panel - letter // 3
    assert max(lowest) > subtitles.panel - 3 * letter, "more room than any moment needs"
    for line in itertools.chain(*subtitles.lines):
        assert subtitles.font.getlength(line) < size[1] - 2 * subtitles.margin


def test_of_many_events_the_last_to_begin_are_shown() -> None:
    told: list[Event] = [(float(k), 20.0, f"event {k}", 0.5) for k in range(5)]
    subtitles = Subtitles(told, (360, 480))
    shown = subtitles(picture((360, 480)), 10.0)[360:]
    assert [(shown == colour).all(-1).any() for colour in COLOURS[:5]] == [False, False, True, True, True]


def test_no_events_and_no_words() -> None:
    for told in ([], [(0.0, 1.0, "", 0.9)]):
        shown = Subtitles(told, (360, 480))(picture((360, 480)), 0.5)
        assert (shown[360:] == DARK).all()


# ---- tables ---------------------------------------------------------------------------------------------


def printed(*rows: ToldEvent) -> str:
    out = io.StringIO()
    Console(file=out, width=120).print(events_table("a [red].mp4", rows))
    return out.getvalue()


def test_tables() -> None:
    event = ToldEvent(1.0, 2.5, "[red] dog", 0.75, -0.5, "a.ckpt", ["[red] dog"])
    text = printed(event, event._replace(sentence=""))
    for shown in ("a [red].mp4", "1.00 s", "2.50 s", "[red] dog", "0.750", "(no words)"):
        assert shown in text
    assert "a.ckpt" not in text
    assert "a.ckpt" in printed(event._replace(candidates=["[red] dog", "a cat"]))
    assert "no events" in printed()


def test_the_page_shows_the_picture() -> None:
    docs = Path(__file__).resolve().parents[2] / "docs"
    assert (docs / "images" / "described.png").is_file()
    assert "images/described.png" in (docs / "describe.md").read_text(encoding="utf-8")
