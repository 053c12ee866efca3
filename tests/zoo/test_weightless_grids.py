"""AppearanceGrid and MotionGrid: which channels drawn shapes and movements excite, and where."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from encoder_checks import check_lengths, check_rows, check_windows
from torch import Tensor

from groundzoo.zoo.video.appearance_grid import APPEARANCE, LIMIT, AppearanceGrid, soften
from groundzoo.zoo.video.base import VideoEncoder
from groundzoo.zoo.video.motion_grid import MOTION, MotionGrid, follow

LOOKS = AppearanceGrid()
MOVES = MotionGrid()
GRIDS = {"appearance": AppearanceGrid, "motion": MotionGrid}
RGB = {
    "red": (222, 52, 48),
    "yellow": (238, 208, 58),
    "green": (56, 186, 80),
    "blue": (66, 112, 242),
    "purple": (170, 84, 220),
    "white": (236, 236, 236),
}
MIDDLE = (56.0, 56.0)  # of cell (3, 3)
FINE = 8  # drawn with so many points per pixel and side, so that edges are smooth


def disc(u: Tensor, v: Tensor) -> Tensor:
    return u.square() + v.square() < 1


def square(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(u.abs(), v.abs()) < 0.88


def triangle(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(v, math.sqrt(0.75) * u.abs() - 0.5 * v) < 0.65


def draw(
    shape: Callable[[Tensor, Tensor], Tensor] = square,
    xy: tuple[float, float] = MIDDLE,
    radius: float = 11.0,
    angle: float = 0.0,
    rgb: Sequence[float] = RGB["red"],
    opacity: float = 1.0,
) -> Tensor:
    """A shape on black, ``(3, 96, 96)`` in [0, 1]; the angle is clockwise on the screen."""
    steps = (torch.arange(96 * FINE) + 0.5) / FINE
    x, y = steps - xy[0], steps[:, None] - xy[1]
    u = (x * math.cos(angle) + y * math.sin(angle)) / radius
    v = (y * math.cos(angle) - x * math.sin(angle)) / radius
    mask = F.avg_pool2d(shape(u, v).float()[None], FINE)
    return mask * opacity * torch.tensor(rgb).view(3, 1, 1) / 255


def cell(encoder: VideoEncoder, frames: Sequence[Tensor], row: int = 3, column: int = 3) -> dict[str, Tensor]:
    """Channels of one cell of the first unit, by name, not divided."""
    grid = encoder(torch.stack(list(frames))[None]).grid
    assert grid is not None
    channels = APPEARANCE if isinstance(encoder, AppearanceGrid) else MOTION
    parts = grid[0, 0, row, column].split([count for count, _ in channels.values()])
    return {name: part * channels[name][1] for name, part in zip(channels, parts, strict=True)}


def movement(**settings: Sequence[Any]) -> dict[str, Tensor]:
    """What the middle cell sees while a square's settings take five values."""
    moments = zip(*settings.values(), strict=True)
    return cell(MOVES, [draw(**dict(zip(settings, values, strict=True))) for values in moments])


# ---- every encoder -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", GRIDS)
def test_an_encoder_like_any_other(kind: str) -> None:
    make = GRIDS[kind]
    check_rows(make, 7)
    check_windows(make)
    check_lengths(make)


@pytest.mark.parametrize(("kind", "channels", "window"), [("appearance", 77, 1), ("motion", 33, 5)])
def test_what_they_say_of_themselves(kind: str, channels: int, window: int) -> None:
    encoder = GRIDS[kind](grid=3, fps=4.0, size=48)
    assert encoder.grid == (3, 3, channels)
    assert encoder.dim == 9 * channels
    assert (encoder.spec.fps, encoder.spec.window, encoder.spec.stride) == (4.0, window, 3)
    assert encoder.spec.size == (48, 48)
    assert encoder.spec.context == 1
    out = encoder(torch.rand(2, 11, 3, 48, 48))
    assert out.grid is not None
    assert torch.equal(out.grid.flatten(2), out.frames)
    assert not encoder.trainable
    assert list(encoder.state_dict()) == []


@pytest.mark.parametrize("kind", GRIDS)
def test_each_video_is_encoded_as_if_alone(kind: str) -> None:
    clips = torch.rand(3, 8, 3, 96, 96)
    together = GRIDS[kind]()(clips).frames
    for k in range(3):
        torch.testing.assert_close(GRIDS[kind]()(clips[k : k + 1]).frames[0], together[k])


@pytest.mark.parametrize("kind", GRIDS)
def test_types_and_sizes_of_the_input(kind: str) -> None:
    encoder = GRIDS[kind]()
    clip = torch.stack([draw(xy=(44.0 + 2 * k, 50.0)) for k in range(5)])[None]
    exact = encoder(clip).frames
    whole = (clip * 255).round().to(torch.uint8)
    for other, tolerance in ((whole, 0.1), (clip.bfloat16(), 0.3), (whole.repeat_interleave(2, -1), 0.5)):
        out = encoder(other).frames
        assert out.dtype == torch.float32
        assert (out - exact).abs().mean() < tolerance / 10
        assert (out - exact).abs().max() < tolerance
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(encoder(clip).frames, exact)


@pytest.mark.parametrize("kind", GRIDS)
def test_values_are_finite_and_limited(kind: str) -> None:
    g = torch.Generator().manual_seed(0)
    encoder = GRIDS[kind]()
    for clip in (torch.rand(1, 5, 3, 96, 96, generator=g), torch.ones(1, 5, 3, 96, 96)):
        out = encoder(clip).frames
        assert torch.isfinite(out).all()
        assert out.abs().max() <= LIMIT
    board = (torch.arange(96) // 4 % 2).float().expand(1, 5, 3, 96, 96)
    flashing = board * (torch.arange(5) % 2).view(5, 1, 1, 1)
    assert encoder(flashing).frames.abs().max() <= LIMIT


@pytest.mark.parametrize("kind", GRIDS)
def test_a_shift_by_a_cell_shifts_the_grid(kind: str) -> None:
    encoder = GRIDS[kind]()
    clips = [[draw(triangle, (xy[0] + k, xy[1]), 7.0) for k in range(5)] for xy in ((37.0, 45.0), (53.0, 61.0))]
    first, second = (encoder(torch.stack(c)[None]).grid[0, 0] for c in clips)  # type: ignore[index]
    torch.testing.assert_close(second[1:, 1:], first[:-1, :-1], rtol=1e-3, atol=1e-3)
    assert (second - first).abs().max() > 1


def test_wrong_settings() -> None:
    with pytest.raises(ValueError, match=r"size=90 is not a multiple of 2 \* grid=12"):
        AppearanceGrid(size=90)
    with pytest.raises(ValueError, match=r"size=36 is not a multiple of 4 \* grid=24"):
        MotionGrid(size=36)
    with pytest.raises(ValueError, match="window=2: movement to and fro takes three frames"):
        MotionGrid(window=2)


# ---- appearance --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.0, 0.2, 1.0])
def test_an_even_picture_has_no_outlines(level: float) -> None:
    found = cell(LOOKS, [torch.full((3, 96, 96), level)])
    assert found["outline"].abs().max() < 1e-5
    assert found["harmonics"].abs().max() < 1e-4
    assert float(found["area"]) == (0.5 if level == 1 else 0)  # as much as the limit allows
    torch.testing.assert_close(found["pixels"], torch.full((48,), level - 0.2))


def test_a_dark_stage_with_noise_is_empty() -> None:
    g = torch.Generator().manual_seed(0)
    stage = (torch.tensor([58.0, 30, 14]) + 22).view(3, 1, 1) + 3 * torch.randn(3, 96, 96, generator=g)
    found = cell(LOOKS, [stage / 255])
    assert {name: float(part.abs().max()) for name, part in found.items() if name != "pixels" and part.any()} == {}


@pytest.mark.parametrize("radius", [7.0, 11.0])
def test_colours(radius: float) -> None:
    """Each of ToyWorld's colours has a palette of its own, whatever the size; the area is that of the shape."""
    found = {name: cell(LOOKS, [draw(disc, radius=radius, rgb=rgb)]) for name, rgb in RGB.items()}
    palettes = torch.stack([found[name]["palette"] for name in RGB])
    assert torch.cdist(palettes, palettes).fill_diagonal_(9).min() > 0.4
    strongest = {name: int(found[name]["palette"].argmax()) for name in RGB}
    assert strongest == {"red": 0, "yellow": 1, "green": 3, "blue": 5, "purple": 6, "white": 8}
    for channels in found.values():
        share = math.pi * radius**2 / 32**2
        assert float(channels["area"]) == pytest.approx(share, rel=0.1)
        assert float(channels["colours"].sum()) == pytest.approx(share, rel=0.1)
        assert float(channels["grey"]) < 0.02


def test_a_grey_patch_is_grey_and_dark() -> None:
    found = cell(LOOKS, [draw(rgb=(112, 112, 112), radius=14)])
    assert float(found["grey"]) > 0.4
    assert float(found["area"]) == 0
    assert float(cell(LOOKS, [draw(rgb=RGB["white"])])["grey"]) < 0.05


def test_outside_the_frame_is_nothing() -> None:
    """A corner's window lies inside by three quarters of each side."""
    everywhere = [torch.full((3, 96, 96), 0.42)]
    assert float(cell(LOOKS, everywhere)["grey"]) == pytest.approx(1)
    assert float(cell(LOOKS, everywhere, 0, 0)["grey"]) == pytest.approx(9 / 16)


@pytest.mark.parametrize("shape", [square, triangle])
@pytest.mark.parametrize("angle", [0.1, 0.4, 1.0, 2.0])
def test_a_turned_shape_keeps_its_cues(shape: Callable[[Tensor, Tensor], Tensor], angle: float) -> None:
    straight, turned = (cell(LOOKS, [draw(shape, angle=a)]) for a in (0.0, angle))
    torch.testing.assert_close(turned["harmonics"], straight["harmonics"], rtol=0, atol=0.2)
    torch.testing.assert_close(turned["roughness"], straight["roughness"], rtol=0, atol=0.01)
    torch.testing.assert_close(turned["palette"], straight["palette"], rtol=0, atol=0.02)


@pytest.mark.parametrize("radius", [7.0, 11.0])
def test_shapes_have_different_cues(radius: float) -> None:
    found = {s.__name__: cell(LOOKS, [draw(s, radius=radius, angle=0.15)]) for s in (disc, square, triangle)}
    third, fourth = ({name: float(f["harmonics"][k]) for name, f in found.items()} for k in (2, 3))
    assert third["triangle"] > 0.5 > 0.1 > max(third["disc"], third["square"])
    assert fourth["square"] > 0.5 > 0.2 > max(fourth["disc"], fourth["triangle"])
    rough = {name: float(f["roughness"]) for name, f in found.items()}
    assert rough["disc"] < rough["square"] < rough["triangle"]
    assert min(rough["square"] - rough["disc"], rough["triangle"] - rough["square"]) > 0.005


def test_where_the_pixels_are() -> None:
    """4 x 4 parts of a window of 32 pixels, plane by plane."""
    picture = torch.rand(3, 96, 96, generator=torch.Generator().manual_seed(1))
    window = picture[:, 40:72, 40:72].unflatten(1, (4, 8)).unflatten(3, (4, 8))
    torch.testing.assert_close(cell(LOOKS, [picture])["pixels"], (window.mean((2, 4)) - 0.2).flatten())


# ---- motion ------------------------------------------------------------------------------------------------

MOTIONLESS = ("shift", "growth", "gain", "turn", "sway", "wobble", "flicker", "energy", "moving")


def test_nothing_moves_in_a_still_picture() -> None:
    for picture in (draw(triangle), torch.full((3, 96, 96), 0.9), torch.zeros(3, 96, 96)):
        found = cell(MOVES, [picture] * 5)
        assert max(float(found[name].abs().max()) for name in MOTIONLESS) < 1e-5


@pytest.mark.parametrize(("direction", "step"), [(0, (1, 0)), (1, (-1, 0)), (2, (0, 1)), (3, (0, -1))])
@pytest.mark.parametrize("speed", [0.7, 1.5])
def test_shifts(direction: int, step: tuple[int, int], speed: float) -> None:
    way = [speed * (k - 2) for k in range(5)]
    found = movement(xy=[(MIDDLE[0] + step[0] * w, MIDDLE[1] + step[1] * w) for w in way])
    expected = torch.zeros(4)
    expected[direction] = speed
    torch.testing.assert_close(found["shift"], expected, rtol=0, atol=0.15 * speed)
    assert float(found["turn"]) < 0.01
    assert float(found["growth"].max()) < 0.01
    assert float(found["sway"].max()) < 0.1 * speed


@pytest.mark.parametrize("rate", [0.02, -0.02])
def test_growth(rate: float) -> None:
    found = cell(MOVES, [draw(disc, radius=10 * (1 + rate) ** k) for k in range(5)])
    one, other = (0, 1) if rate > 0 else (1, 0)
    assert float(found["growth"][one]) == pytest.approx(0.02, rel=0.4)
    assert float(found["growth"][other]) == 0
    assert float(found["gain"][one]) == pytest.approx(0.04, rel=0.3)  # of the area
    assert float(found["gain"][other]) == 0
    assert float(found["shift"].max()) < 0.1


@pytest.mark.parametrize("sense", [1, -1])
def test_turns(sense: int) -> None:
    found = movement(angle=[sense * 0.15 * k for k in range(5)])
    assert float(found["turn"]) == pytest.approx(0.15, rel=0.3)
    assert float(found["shift"].max()) < 0.1
    assert float(found["wobble"]) < 0.02
    assert float(movement(angle=[0.0, 0.15, 0.0, 0.15, 0.0])["turn"]) < 0.01


def test_the_sense_of_a_turn_and_of_growth() -> None:
    """The fit itself is signed: clockwise on the screen is positive, around the shape wherever it stands."""
    for xy in (MIDDLE, (62.0, 50.0)):
        light = torch.stack([draw(xy=xy, radius=9, angle=a, rgb=(255,) * 3)[0] for a in (0.0, 0.1)])
        x, y, growth, turn = follow(light[None], 16)
        assert float(turn[0, 0, 3, 3]) == pytest.approx(0.1, rel=0.3)
        assert max(abs(float(v[0, 0, 3, 3])) for v in (x, y)) < 0.05
        assert abs(float(growth[0, 0, 3, 3])) < 0.01
        assert float(follow(light[None].flip(1), 16)[3][0, 0, 3, 3]) == pytest.approx(-0.1, rel=0.3)


@pytest.mark.parametrize(("axis", "amplitude"), [(0, 4.0), (1, 6.0)])
def test_to_and_fro(axis: int, amplitude: float) -> None:
    """A shake sways along x, a jump along y; neither is a steady movement."""
    way = [0.0, amplitude, 0.0, -amplitude, 0.0]
    found = movement(xy=[(MIDDLE[0] + w * (axis == 0), MIDDLE[1] + w * (axis == 1)) for w in way])
    assert float(found["sway"][axis]) > 1.5
    assert float(found["sway"][1 - axis]) < 0.1
    assert float(found["shift"].max()) < 0.1
    steady = movement(xy=[(MIDDLE[0] + k, MIDDLE[1]) for k in range(5)])
    assert float(found["energy"]) > 2 * float(steady["energy"])


def test_blinking() -> None:
    found = movement(opacity=[1.0, 0.15, 0.15, 1.0, 1.0])
    assert float(found["flicker"]) > 0.5
    assert float(found["sway"].max()) < 0.3
    gone = movement(opacity=[1.0, 1.0, 0.15, 0.15, 0.15])
    assert float(gone["flicker"]) < 1e-5
    assert float(gone["gain"][1]) > 0.09


def test_the_colour_of_what_moves() -> None:
    still = draw(disc, (48.0, 62.0), 6.0, rgb=RGB["green"])
    found = cell(MOVES, [still + draw(square, (60.0 + k, 48.0), 6.0, rgb=RGB["blue"]) for k in range(5)])
    assert int(found["moving"].argmax()) == 5
    assert float(found["moving"][3]) < 1e-5
    assert float(found["colours"][3]) > 0.05


def test_softening_is_a_mean() -> None:
    maps = torch.rand(2, 3, 9, 7)
    torch.testing.assert_close(soften(maps), F.avg_pool2d(maps, 3, 1, 1))
