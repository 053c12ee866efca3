"""PixelGrid: what its values are, whatever the type, length and batch of the frames."""

from __future__ import annotations

import pytest
import torch

from groundzoo.zoo.video.pixel_grid import PixelGrid
from groundzoo.zoo.video.precomputed import Precomputed

ENCODER = PixelGrid(grid=4, size=16)  # windows of 6 frames every 3


def frames(count: int, batch: int = 2, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, count, 3, 16, 16), generator=g, dtype=torch.uint8)


@pytest.mark.parametrize("count", [1, 2, 5, 6, 7, 9, 10, 40])
def test_shape(count: int) -> None:
    out = ENCODER(frames(count))
    units = ENCODER.spec.num_units(count)
    assert out.frames.shape == (2, units, ENCODER.dim) == (2, units, 144)
    assert out.grid.shape == (2, units, 4, 4, 9)
    assert torch.equal(out.grid.flatten(2), out.frames)
    assert torch.isfinite(out.frames).all()


def test_values_against_a_loop() -> None:
    clip = frames(12, batch=1)
    x = clip[0].double() / 255
    out = ENCODER(clip).grid[0]
    assert len(out) == 3
    for unit in range(3):
        window = x[3 * unit : 3 * unit + 6]
        for row in range(4):
            for column in range(4):
                cell = window[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
                halves = cell.unflatten(-1, (2, 2)).unflatten(-3, (2, 2)).mean((-1, -3))  # 2 x 2 finer cells
                colour = (cell.mean((0, 2, 3)) - 0.2) / 0.1
                change = (cell[3:].mean((0, 2, 3)) - cell[:3].mean((0, 2, 3))) / 0.03
                motion = (halves[1:] - halves[:-1]).abs().mean((0, 2, 3)) / 0.01
                expected = torch.cat([colour, change, motion]).float()
                torch.testing.assert_close(out[unit, row, column], expected, rtol=1e-4, atol=1e-4)


def test_uint8_equals_float() -> None:
    clip = frames(20)
    torch.testing.assert_close(ENCODER(clip).frames, ENCODER(clip.float() / 255).frames, rtol=1e-4, atol=1e-4)


def test_a_still_picture_has_no_change_and_no_motion() -> None:
    grid = ENCODER(torch.full((1, 9, 3, 16, 16), 51, dtype=torch.uint8)).grid
    torch.testing.assert_close(grid, torch.zeros_like(grid), rtol=0, atol=1e-5)


def test_single_frame_is_repeated() -> None:
    one = frames(1)
    torch.testing.assert_close(ENCODER(one).frames, ENCODER(one.expand(-1, 6, -1, -1, -1)).frames)


def test_motion_that_leaves_mean_colours_alone_is_seen() -> None:
    """A checkerboard of finer cells that swaps from frame to frame."""
    board = (torch.arange(16)[:, None] // 2 + torch.arange(16)[None] // 2) % 2
    clip = torch.stack([board if k % 2 else 1 - board for k in range(6)]).float()[None, :, None]
    _, change, energy = ENCODER(clip.expand(-1, -1, 3, -1, -1)).grid.split(3, dim=-1)
    assert change.abs().max() < 1e-4
    assert energy.min() > 50


def test_each_video_is_encoded_as_if_alone() -> None:
    both = frames(15)
    together = ENCODER(both).frames
    for k in range(2):
        assert torch.equal(ENCODER(both[k : k + 1]).frames[0], together[k])


def test_wrong_settings() -> None:
    with pytest.raises(ValueError, match="not a multiple of grid=5"):
        PixelGrid(grid=5, size=16)
    with pytest.raises(ValueError, match=r"holds 1 frame\(s\)"):
        PixelGrid(fps=1.0, window_s=1.0)


def test_precomputed_features_cannot_be_computed() -> None:
    with pytest.raises(ValueError, match=r"C3D.*features.*folder"):
        Precomputed(4096, name="C3D")(frames(4))
