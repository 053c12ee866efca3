"""Heat maps as pictures: their scale, peaks, masks and boxes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from groundzoo.zoo.heat_maps import box_masks, frames_at_once, mask_boxes, masks, normalise, peaks, upsample


def random_maps(n: int, h: int, w: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, h, w, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_frame_is_normalised_whatever_its_window_was() -> None:
    heat = random_maps(16, 7, 7)
    heat /= heat.sum()
    for window in (heat, 16 * heat[:1], 1e-6 * heat):
        torch.testing.assert_close(normalise(window, "frame").mean((1, 2)), torch.ones(len(window)).double())
    torch.testing.assert_close(normalise(heat, "frame")[:1], normalise(16 * heat[:1], "frame"))
    torch.testing.assert_close(normalise(heat + 0.3, "frame"), normalise(heat, "frame"))
    assert normalise(heat, "frame").amin((1, 2)).tolist() == [0] * 16
    assert not normalise(torch.full((1, 7, 7), 0.1), "frame").any()
    assert normalise(heat, "window") is heat


def test_a_frame_of_zeros_stays_one() -> None:
    heat = torch.zeros(2, 3, 3)
    heat[1, 0, 0] = 1
    assert normalise(heat, "frame").sum((1, 2)).tolist() == [0, 9]


@pytest.mark.parametrize("cells", [(7, 7), (1, 1), (6, 9), (40, 30)])
@pytest.mark.parametrize("size", [(24, 32), (7, 7), (31, 5), (1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_upsampling_is_bilinear(cells: tuple[int, int], size: tuple[int, int], dtype: torch.dtype) -> None:
    heat = random_maps(3, *cells).to(dtype)
    expected = F.interpolate(heat[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    assert upsample(heat, size).dtype == dtype
    torch.testing.assert_close(upsample(heat, size), expected)


def test_no_frames_are_no_error() -> None:
    none = torch.zeros(0, 7, 7)
    assert upsample(none, (4, 6)).shape == (0, 4, 6)
    assert peaks(none, (4, 6)).shape == (0, 2)
    assert mask_boxes(masks(none, (4, 6), 0.5)).shape == (0, 4)


def test_equal_pixels_are_exactly_equal_and_the_first_is_the_peak() -> None:
    """Bilinear rounding errors (0.1 in two parts is not always 0.1) must not choose the peak."""
    values = torch.linspace(0.1, 0.9, 33)
    even = values[:, None, None].expand(-1, 7, 7)
    assert peaks(even, (48, 64)).tolist() == [[0, 0]] * 33
    corner = torch.zeros(33, 7, 7)
    corner[:, 6, 6] = values
    assert peaks(corner, (48, 64)).tolist() == [[59, 45]] * 33  # first pixels beyond the last cell's centre
    assert masks(corner[:1], (48, 64), values[0].item()).sum() == (64 - 59) * (48 - 45)


def test_peaks_are_x_then_y() -> None:
    heat = torch.zeros(2, 2, 4)
    heat[0, 0, 3] = heat[1, 1, 0] = 1
    assert peaks(heat, (2, 4)).tolist() == [[3, 0], [0, 1]]
    assert peaks(heat, (20, 80)).tolist() == [[70, 0], [0, 15]]


def test_the_threshold_belongs_to_the_mask() -> None:
    heat = torch.tensor([[[0.25, 0.5], [0.75, 0.5]]])
    assert masks(heat, (2, 2), 0.5).tolist() == [[[False, True], [True, True]]]


def test_the_box_of_a_mask_is_tight() -> None:
    mask = torch.zeros(3, 5, 8, dtype=torch.bool)
    mask[0, 1, 6] = mask[0, 3, 2] = True
    mask[2] = True
    found = mask_boxes(mask)
    assert found[0].tolist() == [2, 1, 6, 3]
    assert found[1].isnan().all()
    assert found[2].tolist() == [0, 0, 7, 4]


def test_boxes_and_their_pixels_go_round() -> None:
    g = torch.Generator().manual_seed(1)
    x = torch.randint(0, 30, (50, 2), generator=g).sort(1).values
    y = torch.randint(0, 20, (50, 2), generator=g).sort(1).values
    boxes = torch.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], dim=1).float()
    torch.testing.assert_close(mask_boxes(box_masks(boxes, (20, 30))), boxes)


def test_pixels_of_boxes_by_either_rule() -> None:
    box = torch.tensor([[1.0, 2.0, 3.0, 2.0]])
    assert box_masks(box, (4, 6)).nonzero()[:, 1:].tolist() == [[2, 1], [2, 2], [2, 3]]
    assert box_masks(box, (4, 6), "released").nonzero()[:, 1:].tolist() == [[2, 2], [2, 3], [2, 4]]
    between = torch.tensor([[0.5, 0.2, 2.5, 1.8]])
    assert box_masks(between, (4, 6)).nonzero()[:, 1:].tolist() == [[1, 1], [1, 2]]


def test_boxes_without_pixels() -> None:
    nan = torch.nan
    boxes = torch.tensor([[nan, nan, nan, nan], [4.0, 1.0, 2.0, 3.0], [9.0, 9.0, 12.0, 12.0], [-3, -3, 0, 0]])
    for rule, last in (("inclusive", 1), ("released", 2)):
        assert box_masks(boxes, (4, 6), rule).flatten(1).sum(1).tolist() == [0, 0, 0, last]  # type: ignore[arg-type]


def test_how_many_frames_are_taken_at_once() -> None:
    assert frames_at_once((480, 640)) == 27
    assert frames_at_once((100_000, 100_000)) == 1
