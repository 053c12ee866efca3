"""Copies of videos with boxes drawn and words lit: what stays as it was, what is drawn, where and when."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import videos
from pointing_captions import pointing, seen

from groundzoo.datamodules.marking import mark_words, write_video
from groundzoo.datamodules.video import Picture, Size, VideoError, probe, read_frames
from groundzoo.tasks.caption_pictures import COLOURS, LitPhrases
from groundzoo.tasks.grounded_caption import GroundedCaption, GroundedPhrase

TEXT = "the dog chases a ball"
TIMES = (0.25, 0.75, 1.25, 1.75)
SHARES = {"dog": (0.6, 0.3, 0.05, 0.05), "ball": (0.0, 0.1, 0.29, 0.61)}
COLOUR_OF = {1: COLOURS[0], 4: COLOURS[1]}  # of dog and ball


def caption(size: tuple[int, int], boxes: dict[str, Sequence[float]] | None = None) -> GroundedCaption:
    """The dog is at the left, the ball at the right, in a picture of any size (width, height)."""
    w, h = size
    places = {"dog": (0.1 * w, 0.3 * h, 0.4 * w, 0.8 * h), "ball": (0.6 * w, 0.4 * h, 0.8 * w, 0.7 * h)}
    return pointing(TEXT, SHARES, boxes or places, size, TIMES)


def grey_video(path: Path, height: int, width: int, count: int = 50, fps: float = 25) -> Path:
    write_video(path, (np.full((height, width, 3), 90, np.uint8) for _ in range(count)), fps)
    return path


def marked(source: Path, given: GroundedCaption, colours: dict | None = None, **options: float) -> Path:
    target = source.with_name("marked.mp4")
    colours = COLOUR_OF if colours is None else colours
    mark_words(source, target, partial(LitPhrases, given, colours), **options)
    return target


def near(frame: torch.Tensor, colour: tuple[int, int, int], tolerance: int = 60) -> np.ndarray:
    """bool (H, W): where a decoded picture (3, H, W) shows this colour."""
    return (frame.int() - torch.tensor(colour)[:, None, None]).abs().amax(0).numpy() < tolerance


def own(draw: LitPhrases, height: int, width: int, time_s: float) -> np.ndarray:
    """A grey picture as it is drawn, not yet encoded."""
    return draw(np.full((height, width, 3), 90, np.uint8), time_s)


def exact(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (picture == colour).all(axis=2)


# ---- the copy ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ((96, 96), (360, 360)),
        ((48, 64), (360, 480)),
        ((240, 320), (360, 480)),
        ((480, 640), (480, 640)),
        ((1080, 1920), (480, 854)),
        ((1920, 1080), (854, 480)),
        ((20, 400), (42, 854)),
    ],
)
def test_size_is_made_legible(size: Size, shown: Size, tmp_path: Path) -> None:
    source = grey_video(tmp_path / "plain.mp4", *size, count=3)
    target = marked(source, caption(size[::-1]))
    new = probe(target)
    assert new.width == shown[1]
    assert shown[0] + 30 <= new.height <= shown[0] + 120, "no room for the sentence, or too much"
    (frame,) = read_frames(target, [0.0])
    assert (frame[:, shown[0] + 2 :].amax(0) > 200).sum() > 50, "no white letters below the picture"
    assert (frame[:, : shown[0]].float().mean((1, 2)) - 90).abs().max() < 40


@pytest.mark.parametrize("fps", [6, 25, 30000 / 1001])
def test_duration_and_frame_count_are_kept(fps: float, tmp_path: Path) -> None:
    source = grey_video(tmp_path / "plain.mp4", 48, 64, 61, fps)
    old, new = probe(source), probe(marked(source, caption((64, 48))))
    assert (new.num_frames, new.fps) == (old.num_frames, pytest.approx(old.fps))
    assert new.duration_s == pytest.approx(old.duration_s, abs=1e-3)


def plain(times: list[float]) -> Callable[[Size], Callable[[Picture, float], Picture]]:
    """A painter that draws nothing, and notes the times."""

    def painter(size: Size) -> Callable[[Picture, float], Picture]:
        def draw(picture: Picture, time_s: float) -> Picture:
            assert picture.shape == (*size, 3)
            times.append(time_s)
            return picture

        return draw

    return painter


@pytest.mark.parametrize(
    ("start_s", "end_s", "first", "count"),
    [(0.0, None, 0, 100), (1.0, 2.0, 25, 25), (3.6, None, 90, 10), (3.6, 99.0, 90, 10), (1.01, 1.02, 25, 1)],
)
def test_a_stretch(start_s: float, end_s: float | None, first: int, count: int, tmp_path: Path) -> None:
    source = videos.coded_video(tmp_path / "coded.mp4", 100)
    times: list[float] = []
    mark_words(source, tmp_path / "stretch.mp4", plain(times), start_s, end_s)
    assert probe(tmp_path / "stretch.mp4").num_frames == count
    codes = videos.read_codes(read_frames(tmp_path / "stretch.mp4", np.arange(count) / 25))
    assert codes == [*range(first, first + count)]
    assert times == pytest.approx([k / 25 for k in codes]), "times are not those in the video"


def test_an_empty_stretch_and_an_unreadable_file_leave_the_old_copy(tmp_path: Path) -> None:
    source = grey_video(tmp_path / "plain.mp4", 48, 64)
    (tmp_path / "letter.mp4").write_text("Dear video reader,\n" * 100)
    (tmp_path / "old.mp4").write_bytes(b"old")
    with pytest.raises(VideoError):
        mark_words(source, tmp_path / "old.mp4", plain([]), 5.0)
    with pytest.raises(VideoError, match=r"letter\.mp4"):
        mark_words(tmp_path / "letter.mp4", tmp_path / "old.mp4", plain([]))
    assert (tmp_path / "old.mp4").read_bytes() == b"old"
    assert {p.name for p in tmp_path.iterdir()} == {"plain.mp4", "letter.mp4", "old.mp4"}


# ---- the words --------------------------------------------------------------------------------------------


def test_boxes_and_words_are_lit_while_they_hold_the_attention(tmp_path: Path) -> None:
    source = grey_video(tmp_path / "plain.mp4", 360, 480)
    frames = read_frames(marked(source, caption((480, 360))), TIMES)
    seen = [[near(frame, colour) for colour in COLOUR_OF.values()] for frame in frames]
    # dog 0.6, 0.3 and ball 0.61 reach half of the word's greatest share; ball 0.29 does not
    boxed = [[bool(there[:360].any()) for there in pair] for pair in seen]
    assert boxed == [[True, False], [True, False], [False, False], [False, True]]
    lit = [[int(there[360:].sum()) for there in pair] for pair in seen]
    for moment, pair in zip(boxed, lit, strict=True):
        for on, count in zip(moment, pair, strict=True):
            assert count > 400 if on else count < 200, "the ground of a lit word, else its line"
    for frame, pair, place in [(0, 0, (48, 108, 192, 288)), (3, 1, (288, 144, 384, 252))]:
        y, x = np.nonzero(seen[frame][pair][:360])
        drawn = (x.min(), y.max(), x.max())
        assert drawn == pytest.approx((place[0], place[3], place[2]), abs=2)
        middle = (place[1] + place[3]) // 2
        assert not seen[frame][pair][middle, place[0] + 6 : place[2] - 6].any(), "the box is filled"


def test_the_nearest_sampled_frame_counts() -> None:
    draw = LitPhrases(caption((480, 360)), COLOUR_OF, (360, 480))
    assert [draw.lit(t) for t in (0.0, 0.49, 0.51, 1.01, 1.51, 99.0)] == [
        (0, [1]),
        (0, [1]),
        (1, [1]),
        (2, []),
        (3, [4]),
        (3, [4]),
    ]


def test_boxes_follow_the_frames() -> None:
    boxes = [[100.0 * k, 50, 100.0 * k + 60, 200] for k in range(4)]
    dog = GroundedPhrase("dog", 0, 3, list(boxes), [0.25] * 4)
    given = GroundedCaption("dog", -1.0, [dog], list(TIMES), (480, 360), "attention")
    draw = LitPhrases(given, {0: COLOURS[0]}, (360, 480))
    for box, time_s in zip(boxes, TIMES, strict=True):
        _, x = np.nonzero(exact(own(draw, 360, 480, time_s)[:360], COLOURS[0]))
        assert (x.min(), x.max()) == pytest.approx((box[0], box[2]), abs=1)


def test_phrases_with_visibility_are_lit_while_they_are_seen() -> None:
    """However much surer other frames are; the ground reaches over the blanks between its words."""
    text = "a small dog chases the big ball"
    chances = {"a small dog": (0.41, 0.39, 0.99, 0.0), "the big ball": (0.1, 0.2, 0.3, 0.3)}
    boxes = {"a small dog": [(100.0 * k, 150, 100.0 * k + 60, 250) for k in range(4)]}
    given = seen(text, chances, boxes | {"the big ball": [(0, 0, 50, 50)]}, (480, 360), TIMES, threshold=0.4)
    draw = LitPhrases(given, dict(enumerate(COLOURS[:2])), (360, 480))
    for frame, time_s in enumerate(TIMES):
        picture = own(draw, 360, 480, time_s)
        there, ground = exact(picture, COLOURS[0]), exact(picture, COLOURS[1])
        assert not ground[:360].any(), "a box of what is never seen"
        assert 0 < ground[360:].sum() < 500, "not underlined"
        rows = there[360:].sum(axis=1)
        if frame in (0, 2):
            y, x = np.nonzero(there[150:360])
            assert x.min() == pytest.approx(100 * frame, abs=1)
            assert y.max() + 150 == pytest.approx(250, abs=1)
            assert rows.max() == np.ptp(np.nonzero(there[360 + rows.argmax()])[0]) + 1 > 80, "blanks are left out"
        else:
            assert not there[:360].any(), "a box where the phrase is hidden"
            assert 0 < (rows > 0).sum() < 6, "not just underlined"


def test_a_long_name_is_cut_to_the_picture() -> None:
    text = "a man who wears a red shirt and brown gloves and who looks at everybody"
    given = seen(text, {text: (0.9,)}, {text: [(100, 100, 200, 200)]}, (480, 360), (0.0,))
    picture = own(LitPhrases(given, {0: COLOURS[0]}, (360, 480)), 360, 480, 0.0)
    for edge in (picture[:360, :1], picture[:360, -1:]):
        assert (edge == 90).all() or exact(edge, COLOURS[0]).any(), "letters are cut"
    name = np.nonzero(exact(picture[:360], COLOURS[0]).sum(axis=1) > 200)[0]
    assert len(name) >= 10, "no ground of the name"


def test_no_attention_no_box() -> None:
    blind = pointing(TEXT, {"dog": (0.0,) * 4, "ball": (0.0,) * 4}, {}, (480, 360), TIMES)
    draw = LitPhrases(blind, COLOUR_OF, (360, 480))
    for time_s in TIMES:
        assert (own(draw, 360, 480, time_s)[:360] == 90).all()


def test_boxes_are_in_pixels_of_the_original() -> None:
    """The same place in a 96 x 96 and in a 1080p video is drawn at the same share of the picture."""
    for original, shown in [((96, 96), (360, 360)), ((1920, 1080), (480, 854)), ((1080, 1920), (854, 480))]:
        picture = own(LitPhrases(caption(original), COLOUR_OF, shown), *shown, 1.75)[: shown[0]]
        y, x = np.nonzero(exact(picture, COLOURS[1]))
        assert x.min() / shown[1] == pytest.approx(0.6, abs=0.01)
        assert x.max() / shown[1] == pytest.approx(0.8, abs=0.07)  # a long name may reach over a narrow box
        assert y.max() / shown[0] == pytest.approx(0.7, abs=0.01)


def test_two_words_at_one_place_are_both_seen() -> None:
    text = "dog cat cow ball man"
    given = pointing(text, {}, dict.fromkeys(text.split(), (100, 100, 300, 250)), (480, 360), TIMES)
    picture = own(LitPhrases(given, dict(enumerate(COLOURS[:5])), (360, 480)), 360, 480, 0.0)[:360]
    for colour in COLOURS[:5]:
        there = exact(picture, colour)
        assert there[100:251, 100:301].any(axis=0).sum() > 100, "a box is hidden"
        rows = np.nonzero(there.sum(axis=1) > 15)[0]
        assert len(rows) >= 10, "a name is hidden"


@pytest.mark.parametrize("top", [100, 0, 340])
def test_no_name_covers_another(top: int) -> None:
    given = pointing("dog cat", {}, {"dog": (100, top, 300, 359), "cat": (100, top, 200, 350)}, (480, 360), TIMES)
    picture = own(LitPhrases(given, dict(enumerate(COLOURS[:2])), (360, 480)), 360, 480, 0.0)[:360]
    for colour in COLOURS[:2]:
        rows = exact(picture[:, 100:118], colour)
        assert (rows.sum(axis=1) >= 8).sum() >= 11, "a name is hidden"


@pytest.mark.parametrize(
    "box",
    [
        (0, 0, 479, 359),
        (-50, -50, 20, 20),
        (470, 350, 900, 900),
        (200, 200, 200, 200),
        (900, 900, 950, 950),
        (300, 300, 100, 100),
    ],
)
def test_boxes_at_and_beyond_the_edge(box: tuple[float, ...]) -> None:
    given = caption((480, 360), {"dog": box, "ball": box})
    picture = own(LitPhrases(given, COLOUR_OF, (360, 480)), 360, 480, 0.0)
    assert exact(picture[:360], COLOURS[0]).sum() > 100


def test_names_stand_inside_the_picture() -> None:
    """A name whose box is at the top or at the right is moved, not cut."""
    words = "Großmutter"
    for box in [(0, 0, 30, 30), (440, 100, 479, 200), (440, 340, 479, 359)]:
        given = pointing(words, {}, {words: box}, (480, 360), TIMES)
        picture = own(LitPhrases(given, {0: COLOURS[0]}, (360, 480)), 360, 480, 0.0)[:360]
        there = [np.nonzero(row)[0] for row in exact(picture, COLOURS[0])]
        assert sum(len(x) > 0 and np.ptp(x) > 70 for x in there) >= 14, "both ends of all rows of the name"


def test_long_and_foreign_sentences() -> None:
    text = "Ένας άνδρας в бороде überquert naïve 狗 [UNK] " + "w" * 500 + " dog" * 60
    given = pointing(text, {}, {}, (480, 360), TIMES)
    picture = own(LitPhrases(given, {1: COLOURS[0], 60: COLOURS[1]}, (360, 480)), 360, 480, 0.0)
    below = picture[360:]
    assert below.shape[0] > 150
    assert exact(below, COLOURS[0]).any()
    assert exact(below, COLOURS[1]).any()
    for edge in (below[:3], below[-3:], below[:, :3], below[:, -3:]):
        assert (edge == 24).all(), "letters are cut"


@pytest.mark.parametrize("text", ["and so on", "", "."])
def test_nothing_to_point_at(text: str, tmp_path: Path) -> None:
    source = grey_video(tmp_path / "plain.mp4", 96, 96, 5)
    target = marked(source, pointing(text, {}, {}, (96, 96), (0.1,)), {})
    (frame,) = read_frames(target, [0.0])
    assert (frame[:, :360].int() - 90).abs().max() < 8
    assert probe(target).num_frames == 5


# ---- real files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotated_video(degrees: int, tmp_path: Path) -> None:
    upright = grey_video(tmp_path / "plain.mp4", 240, 320, 50)
    source = videos.rotated(upright, tmp_path / "rotated.mp4", degrees)
    info = probe(source)
    assert (info.height > info.width) == (degrees != 180)
    target = marked(source, caption((info.width, info.height)))
    new = probe(target)
    height = new.width * info.height // info.width
    assert new.num_frames == 50
    frame = read_frames(target, [1.9])[0][:, :height]
    y, x = np.nonzero(near(frame, COLOURS[1]))
    assert x.min() / new.width == pytest.approx(0.6, abs=0.02)
    assert y.max() / height == pytest.approx(0.7, abs=0.02)


@pytest.mark.parametrize(
    "name", ["decord_video_90.mov", "decord_video_180.mov", "h265_10bits.mp4", "av1_video.mkv"]
)
def test_files_of_other_people(name: str, shared_videos: Path, tmp_path: Path) -> None:
    if not (shared_videos / name).exists():
        pytest.skip(f"needs {shared_videos / name}")
    old = probe(shared_videos / name)
    end_s = min(old.duration_s, 1.0)
    given = caption((old.width, old.height))
    mark_words(shared_videos / name, tmp_path / "marked.mp4", partial(LitPhrases, given, COLOUR_OF), end_s=end_s)
    new = probe(tmp_path / "marked.mp4")
    assert new.duration_s == pytest.approx(end_s, abs=1.01 / old.fps)
    height = round(new.width * old.height / old.width)
    (frame,) = read_frames(tmp_path / "marked.mp4", [0.0])
    y, x = np.nonzero(near(frame[:, :height], COLOURS[0], 40))
    there = (x > 0.09 * new.width) & (x < 0.12 * new.width) & (y > 0.35 * height) & (y < 0.75 * height)
    assert there.sum() > 0.3 * height, "the left line of the dog's box"
