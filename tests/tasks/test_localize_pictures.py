"""Tables, records and pictures of found actions: what is shown, where, when, and in which colour."""

from __future__ import annotations

import gc
import io
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from found_actions import GRID, found_actions
from matplotlib.backends.backend_agg import FigureCanvasAgg
from rich.console import Console

from groundzoo.tasks import localize_records
from groundzoo.tasks.drawing import COLOURS
from groundzoo.tasks.localize_pictures import HeatOverlay, action_colours, action_timeline
from groundzoo.tasks.localize_records import save_maps, summary, tube_of_moments
from groundzoo.tasks.localizing import Localization
from groundzoo.tasks.tables import tubes_table

ACTIONS = ["pour oil", "stir the pan", "add salt"]
PLAN = "-00-111-0-"  # salt is never added
H, W = 200, 300


def grey(level: int = 120) -> np.ndarray:
    return np.full((H, W, 3), level, np.uint8)


def exact(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (picture == colour).all(axis=-1)


def near(picture: np.ndarray, colour: tuple[int, int, int], tolerance: int = 25) -> np.ndarray:
    return np.abs(picture.astype(int) - colour).max(axis=-1) < tolerance


# ---- records --------------------------------------------------------------------------------------------


def test_moments_belong_to_tubes() -> None:
    found = found_actions(PLAN, ACTIONS)
    assert tube_of_moments(found).tolist() == [-1, 0, 0, -1, 1, 1, 1, -1, 2, -1]
    thirds = found_actions(PLAN, ACTIONS, fps=3.0)
    rounded = [t._replace(times_s=[round(s, 3) for s in t.times_s]) for t in thirds.tubes]
    assert tube_of_moments(thirds._replace(tubes=rounded)).tolist() == [-1, 0, 0, -1, 1, 1, 1, -1, 2, -1]
    assert tube_of_moments(found_actions("0", ACTIONS)).tolist() == [0]
    assert tube_of_moments(found_actions("--", ACTIONS)).tolist() == [-1, -1]


def test_summary_says_what_each_moment_shows() -> None:
    found = found_actions(PLAN, ACTIONS)
    found.similarity[0] = torch.tensor([0.2, 0.123456, 0.3])
    record = json.loads(json.dumps(summary(found)))
    assert list(record) == ["size", "actions", "tubes", "moments"]
    assert (record["size"], record["actions"]) == ([120, 80], ACTIONS)
    assert [t["action"] for t in record["tubes"]] == ["pour oil", "stir the pan", "pour oil"]
    stirring = record["tubes"][1]
    assert (stirring["start_s"], stirring["end_s"], stirring["times_s"]) == (4, 7, [4, 5, 6])
    assert stirring["boxes"] == found.tubes[1].boxes
    assert stirring["points"] == found.tubes[1].points
    names = [m["action"] for m in record["moments"]]
    assert names == [None if sign == "-" else ACTIONS[int(sign)] for sign in PLAN]
    assert [m["time_s"] for m in record["moments"]] == found.times_s
    assert [m["score"] for m in record["moments"][:2]] == [0.3, 0.61]  # the greatest; that of the action
    found.similarity[5] = torch.tensor([0.9, 0.4, 0.1])  # the tube counts, not the greatest
    assert summary(found)["moments"][5] == {"time_s": 5.0, "action": "stir the pan", "score": 0.4}


def test_maps_come_back(tmp_path: Path) -> None:
    found = found_actions(PLAN, [*ACTIONS[:2], "Öl 狗"])
    save_maps(found, tmp_path / "new" / "a.b.npz")
    with np.load(tmp_path / "new" / "a.b.npz", allow_pickle=False) as file:
        assert sorted(file) == ["actions", "heat", "similarity", "times_s"]
        assert file["times_s"].tolist() == found.times_s
        assert np.array_equal(file["heat"], found.heat)
        assert np.array_equal(file["similarity"], found.similarity)
        assert file["actions"].tolist() == found.actions
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.b.npz"]


def test_maps_appear_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(b"old")

    def full(file: io.BytesIO, **_: object) -> None:
        file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(localize_records.np, "savez_compressed", full)
    with pytest.raises(OSError, match="space"):
        save_maps(found_actions(PLAN, ACTIONS), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def shown(found: Localization) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(tubes_table("a [b]video[/b].mp4", found))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_table() -> None:
    text = shown(found_actions(PLAN, ["[red]oil[/red]", *ACTIONS[1:]]))
    rows = [line.replace("│", " ").split() for line in text.splitlines() if " s " in line]
    assert [" ".join(row) for row in rows] == [
        "[red]oil[/red] 1.00 s 3.00 s 0.615",
        "stir the pan 4.00 s 7.00 s 0.650",
        "[red]oil[/red] 8.00 s 9.00 s 0.680",
    ]
    assert "[b]video[/b]" in text, "names are taken for markup"
    assert "none of the actions was found" in shown(found_actions("---", ACTIONS))


# ---- the time line --------------------------------------------------------------------------------------


def drawn(found: Localization, frames: int = 0, size: tuple[int, int] = (40, 60)) -> np.ndarray:
    """The time line as uint8 (H, W, 3), 100 pixels per inch; its frames are red."""
    strip = np.zeros((*size, 3), np.uint8)
    strip[..., 0] = 255
    pictures = [((k + 0.5) * found.duration_s / max(1, frames), strip) for k in range(frames)]
    figure = action_timeline(found, pictures)
    figure.set_dpi(100)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def spans(picture: np.ndarray, colour: tuple[int, int, int]) -> list[tuple[int, int]]:
    """Columns from-to that show a colour in at least three pixels."""
    there = np.concatenate([[0], exact(picture, colour).sum(0) >= 3, [0]])
    edges = np.diff(there.astype(int))
    return list(zip(np.flatnonzero(edges > 0).tolist(), np.flatnonzero(edges < 0).tolist(), strict=True))


def test_bars_stand_where_and_when_the_action_is() -> None:
    picture = drawn(found_actions(PLAN, ACTIONS))
    assert picture.shape[1] == 1000
    second = (1000 - 210 - 20) / 10
    for colour, times in ((COLOURS[0], [(1, 3), (8, 9)]), (COLOURS[1], [(4, 7)])):
        found = spans(picture, colour)
        assert len(found) == len(times)
        for (left, right), (start, end) in zip(found, times, strict=True):
            assert left == pytest.approx(210 + start * second, abs=2)
            assert right == pytest.approx(210 + end * second, abs=2)
    assert spans(picture, COLOURS[2]) == [], "a bar of an action that was not found"
    oil, pan = (np.flatnonzero(exact(picture, COLOURS[k]).any(1)) for k in (0, 1))
    assert oil.max() < pan.min(), "rows are not in the order given"


def test_frames_keep_their_proportions_and_stand_above() -> None:
    for size in ((40, 60), (60, 40)):
        picture = drawn(found_actions(PLAN, ACTIONS), frames=10, size=size)
        red = near(picture, (255, 0, 0), 60)
        y, x = np.nonzero(red)
        assert (np.ptp(x) + 1) / 10 / (np.ptp(y) + 1) == pytest.approx(size[1] / size[0], rel=0.06)
        assert x.min() == pytest.approx(210, abs=3)
        assert x.max() == pytest.approx(980, abs=3)
        assert y.max() < np.flatnonzero(exact(picture, COLOURS[0]).any(1)).min()


def test_similarity_is_drawn_behind_on_one_scale() -> None:
    found = found_actions("-" * 10, ACTIONS)
    found.similarity[:] = 0.0
    found.similarity[2, 0], found.similarity[6, 1] = 0.8, 0.4
    picture = drawn(found)
    second = 77
    grey_at = [(picture[:, 210 + round((t + 0.5) * second)] == 213).all(axis=1).sum() for t in (2, 6, 8)]
    assert grey_at[0] == pytest.approx(0.84 * 44, abs=2)
    assert grey_at[1] == pytest.approx(grey_at[0] / 2, abs=2)
    assert grey_at[2] <= 1
    rows = np.flatnonzero((picture[:, 210 + round(6.5 * second)] == 213).all(axis=1))
    assert rows.max() == pytest.approx(10 + 44 * 1.92, abs=2), "not at the foot of its row"
    assert not any(spans(picture, colour) for colour in COLOURS)


def ink_in(picture: np.ndarray, x: slice) -> int:
    return int((picture[:, x].max(axis=2) < 90).sum())


def test_scores_are_written_where_there_is_room() -> None:
    wide = found_actions("-00-------", ACTIONS)
    narrow = found_actions("-" * 98 + "0" + "-" * 101, ACTIONS)  # beside the bar
    crowded = found_actions("0-" * 100, ACTIONS)  # nowhere
    rows = slice(20, 52)
    assert ink_in(drawn(wide)[rows], slice(290, 440)) > 20
    assert ink_in(drawn(narrow)[rows], slice(594, 640)) > 20
    assert ink_in(drawn(narrow)[rows], slice(400, 580)) == 0
    assert ink_in(drawn(crowded)[rows], slice(216, 970)) == 0


@pytest.mark.parametrize(
    "actions",
    [
        ["a"],
        [f"action {k}" for k in range(40)],
        ["cut $50 of $ham_2^{$", "x" * 200, "STIR MWMWMWM SLOWLY IN WWWWWWWW", "stir and stir " * 30],
        ["Ένας άνδρας в бороде", "naïve überquert"],
    ],
)
@pytest.mark.parametrize("frames", [0, 1, 10])
def test_any_texts_fit(actions: list[str], frames: int) -> None:
    picture = drawn(found_actions("0-" * 5, actions), frames)
    assert picture.shape[1] == 1000
    assert (picture[:, :2] == 255).all(), "a label reaches over the left margin"
    assert spans(picture, COLOURS[0]) != []


@pytest.mark.parametrize("plan", ["0", "-", "00"])
def test_the_shortest_videos(plan: str) -> None:
    found = found_actions(plan, ACTIONS, duration_s=0.04)
    assert (spans(drawn(found, 10), COLOURS[0]) != []) == ("0" in plan)
    picture = HeatOverlay(found, (H, W))(grey(), 0.0)
    assert (picture[:H] == 120).all() == ("0" not in plan)


def test_a_long_video() -> None:
    found = found_actions("-0001--22-" * 1000, ACTIONS)
    assert drawn(found).shape[1] == 1000


# ---- pictures of the video ------------------------------------------------------------------------------


def centre(cell: tuple[int, int]) -> tuple[int, int]:
    """Row and column of the pixel in the middle of a cell, a little aside of the cross."""
    return round((cell[0] + 0.5) * H / GRID[0]) + 12, round((cell[1] + 0.5) * W / GRID[1]) + 14


def test_background_stays_as_it_was() -> None:
    draw = HeatOverlay(found_actions(PLAN, ACTIONS), (H, W))
    for time_s in (0.0, 0.99, 3.0, 3.5, 7.2, 9.9):
        picture = draw(grey(), time_s)
        assert draw.tube_at(time_s) is None
        assert np.array_equal(picture[:H], grey())
        label = picture[H : H + draw.margin + draw.label]
        assert not any(exact(label, colour).any() for colour in COLOURS), "a label in the background"


def test_the_hot_cell_takes_the_colour_and_the_cold_ones_darken() -> None:
    cells = [(0, 0)] * 3 + [(3, 1)] * 7
    draw = HeatOverlay(found_actions(PLAN, ACTIONS, cells), (H, W))
    for time_s, hot, cold, colour in ((1.2, (0, 0), (3, 3), COLOURS[0]), (5.0, (3, 1), (0, 2), COLOURS[1])):
        picture = draw(grey(), time_s)[:H].astype(int)
        warm, cool = picture[centre(hot)], picture[centre(cold)]
        assert np.abs(warm - colour).sum() < 0.7 * np.abs(np.array(colour) - 120).sum()
        assert cool.tolist() == [72, 72, 72]
        box = [cells[int(time_s)][k] * (H, W)[k] // GRID[k] for k in (0, 1)]
        line = picture[box[0] + H // GRID[0] // 2, max(0, box[1] - 1) : box[1] + 4]
        assert exact(line, colour).any(), "no line of the box"
        cross = picture[round((hot[0] + 0.5) * H / GRID[0]), round((hot[1] + 0.5) * W / GRID[1])]
        assert cross.tolist() == [255, 255, 255]


def test_heat_is_that_of_the_nearest_moment_of_the_same_tube() -> None:
    cells = [(0, 0), (0, 1), (0, 2), (0, 3), (3, 0), (3, 1), (3, 2), (3, 3), (1, 0), (1, 1)]
    draw = HeatOverlay(found_actions("-000111---", ACTIONS, cells), (H, W))
    expected = {1.0: 1, 1.4: 1, 1.6: 2, 2.4: 2, 2.6: 3, 3.4: 3, 3.9: 3, 4.0: 4, 4.6: 5, 6.99: 6}
    for time_s, moment in expected.items():
        draw(grey(), time_s)
        assert draw.last is not None
        warmth = draw.last[1][..., 0]
        y, x = np.unravel_index(warmth.argmax(), warmth.shape)
        assert (y * GRID[0] // H, x * GRID[1] // W) == cells[moment], f"at {time_s} s"


def test_heat_is_bilinear_and_relative_to_its_mean() -> None:
    found = found_actions("000", ACTIONS)
    found.heat[:] = torch.rand(3, *GRID, generator=torch.Generator().manual_seed(0))
    excess = found.heat - found.heat.mean((1, 2), keepdim=True)
    share = (excess / excess.max()).clamp(min=0)
    wanted = torch.nn.functional.interpolate(share[:, None], (H, W), mode="bilinear")[:, 0]
    draw = HeatOverlay(found, (H, W))
    for step in range(3):
        np.testing.assert_allclose(draw.warmth(0, step)[..., 0], wanted[step], atol=1e-5)


@pytest.mark.parametrize("shift", [-3.0, 0.0, 50.0])
def test_units_of_heat_do_not_matter(shift: float) -> None:
    found = found_actions(PLAN, ACTIONS)
    other = found._replace(heat=0.01 * found.heat + shift)
    one, two = (HeatOverlay(f, (H, W))(grey(), 2.0).astype(int) for f in (found, other))
    assert np.abs(one - two).max() <= 1


def test_even_heat_has_no_place() -> None:
    found = found_actions(PLAN, ACTIONS)
    draw = HeatOverlay(found._replace(heat=torch.ones_like(found.heat)), (H, W))
    assert not draw.warmth(0, 0).any()
    draw(grey(), 1.0)


def test_label_and_bar_have_the_colours_of_the_time_line() -> None:
    found = found_actions(PLAN, ACTIONS)
    draw, chart = HeatOverlay(found, (H, W)), drawn(found)
    lower = draw(grey(), 4.5)[H:]
    label, bar = lower[: draw.margin + draw.label + 1], lower[-draw.margin - draw.bar.height : -draw.margin]
    assert exact(label, COLOURS[1]).sum() > 500
    assert not exact(label, COLOURS[0]).any()
    for colour, share in ((COLOURS[0], 0.3), (COLOURS[1], 0.3), (COLOURS[2], 0.0)):
        width = exact(bar, colour).any(0).sum()
        assert width == pytest.approx(share * draw.bar.width, abs=8)
        assert (spans(chart, colour) != []) == (share > 0)
    early, late = (draw(grey(), t)[-draw.margin - 5] for t in (0.0, 9.99))
    assert exact(early, (255, 255, 255)).argmax() < 3 * draw.margin
    assert exact(late, (255, 255, 255)).argmax() > W - 3 * draw.margin


def test_more_actions_than_colours() -> None:
    colours = action_colours([f"action {k}" for k in range(11)])
    assert len(set(colours.values())) == 8
    assert colours["action 0"] == colours["action 8"] != colours["action 1"]


@pytest.mark.parametrize("size", [(360, 480), (480, 854), (854, 480), (42, 854), (854, 42)])
@pytest.mark.parametrize("text", ["a", "x" * 300, "stir the pan " * 20])
def test_labels_fit_pictures_of_any_size(size: tuple[int, int], text: str) -> None:
    draw = HeatOverlay(found_actions("0", [text], size=size[::-1]), size)
    picture = draw(np.full((*size, 3), 120, np.uint8), 0.5)
    assert picture.shape[1:] == (size[1], 3)
    assert size[0] + 30 < picture.shape[0] < size[0] + 120
    label = exact(picture[size[0] : -draw.margin - draw.bar.height - 4], COLOURS[0])
    clock = near(picture[size[0] : -draw.margin - draw.bar.height - 4], (170, 170, 170))
    if size[1] > 100:
        assert label.any()
        assert np.flatnonzero(label.any(0)).max() < np.flatnonzero(clock.any(0)).max() - 30, "over the time"


def test_memory_does_not_grow_with_the_video() -> None:
    found = found_actions("0" * 400, ACTIONS)
    draw = HeatOverlay(found, (60, 80))
    picture = np.full((60, 80, 3), 120, np.uint8)
    tracemalloc.start()
    try:
        used = []
        for stretch in (range(0, 20), range(20, 400)):
            for moment in stretch:
                draw(picture, moment + 0.1)
            gc.collect()
            used.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert used[1] - used[0] < 60 * 80 * 4 * 20, "maps of all moments are kept"
