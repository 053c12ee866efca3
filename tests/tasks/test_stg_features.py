"""Pictures encoded as they come, and features of a store, are the same to STG."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from videos import coded_video

from groundzoo.datamodules.samples import iter_moments
from groundzoo.datamodules.units import UnitSource
from groundzoo.tasks.stg import STG, NetworkOptions, SelectionOptions
from groundzoo.zoo.batch import MomentFeatures
from groundzoo.zoo.text.mil_nce import MILNCEText
from groundzoo.zoo.video.appearance_grid import AppearanceGrid
from groundzoo.zoo.video.base import VideoEncoder
from groundzoo.zoo.video.combined import Combined
from groundzoo.zoo.video.motion_grid import MotionGrid

FPS, FRAMES, STRIDE = 12, 72, 3  # of the file; STRIDE at the encoders' 6 frames per second


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Six seconds in which every frame differs from its neighbours."""
    return coded_video(tmp_path / "coded.mp4", FRAMES, FPS, size=(96, 96), options={"crf": "10"})


def stg(encoder: VideoEncoder, max_cells: int) -> STG:
    words = MILNCEText("random", word_dim=8, layer_dim=12, dim=6, max_words=8)
    network = NetworkOptions(dim=6, frame="cells")
    return STG(encoder, words, max_cells=max_cells, network=network, selection=SelectionOptions(frames=2))


def seen(task: STG, video: Path, live: bool, times_s: np.ndarray) -> tuple[Tensor, Tensor]:
    """Vectors and cells of moments of a file, encoded there and then, or from a store made of it."""
    cells, cache = task.max_cells, video.parent / "cache"
    source = UnitSource(task.video_encoder, None, {"coded": video}, cache, live, cells)
    source.prepare({"coded"}, 0)
    source.open()
    return task.encode(source.read("coded", times_s).features, len(times_s)).encoded


@pytest.mark.parametrize("max_cells", [6, 3])
@pytest.mark.parametrize("encoder", [AppearanceGrid(), Combined([AppearanceGrid(), MotionGrid()])])
def test_a_store_shows_what_the_file_shows(encoder: VideoEncoder, max_cells: int, video: Path) -> None:
    """At a moment that is the middle of a unit; the store has half precision."""
    task = stg(encoder, max_cells)
    whole = np.arange(6, dtype=np.float64)  # a unit of one frame begins at every half second
    middles = (np.arange(5) * 2 * STRIDE + 2) / 6  # of MotionGrid's windows of five frames
    for k, (part, times) in enumerate(zip(encoder.parts, (whole, middles), strict=False)):
        width = slice(0, 77) if k == 0 else slice(77, 110)
        (_, fresh), (_, stored) = (seen(task, video, live, times) for live in (True, False))
        assert fresh.shape == (len(times), max_cells, max_cells, encoder.grid[2])  # type: ignore[index]
        fresh, stored = fresh[..., width], stored[..., width]
        torch.testing.assert_close(fresh, stored, atol=5e-3, rtol=2e-3, msg=type(part).__name__)
        assert (fresh[1:] - fresh[:-1]).abs().amax((1, 2, 3)).min() > 0.1, "all moments look alike"


def test_between_units_the_store_has_the_nearest(video: Path) -> None:
    """Windows of a store lie where they lie: at a whole second the nearest is one frame off."""
    task = stg(Combined([AppearanceGrid(), MotionGrid()]), 6)
    whole = np.arange(1, 5, dtype=np.float64)
    motion = slice(77, 110)
    stored = seen(task, video, False, whole)[1][..., motion]
    fresh = seen(task, video, True, whole)[1][..., motion]
    shifted = seen(task, video, True, whole - 1 / 6)[1][..., motion]
    torch.testing.assert_close(shifted, stored, atol=5e-3, rtol=2e-3)
    assert (fresh - stored).abs().max() > 0.1


def test_pieces_of_a_video_are_the_whole(video: Path) -> None:
    """What `localize` reads piece by piece."""
    task = stg(Combined([AppearanceGrid(), MotionGrid()]), 3)
    specs = [part.spec for part in task.video_encoder.parts]
    times = np.arange(12) / 2
    whole = seen(task, video, True, times)
    pieces = [
        task.encode(MomentFeatures(None, None, list(some.passes)), len(some.times_s)).encoded
        for some in iter_moments(video, specs, 2.0, 5)
    ]
    assert [len(vectors) for vectors, _ in pieces] == [5, 5, 2]
    for k in (0, 1):
        torch.testing.assert_close(torch.cat([piece[k] for piece in pieces]), whole[k])
