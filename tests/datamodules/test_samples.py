"""Which frames encoders see of a stretch of video."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch

from groundzoo.datamodules.extraction import build_store
from groundzoo.datamodules.features import FeatureStore
from groundzoo.datamodules.samples import Sampled, pass_times, read_passes, read_samples, unit_at
from groundzoo.datamodules.segments import sample_times
from groundzoo.datamodules.video import FrameReader, VideoError
from groundzoo.zoo.video.base import VideoFeatures
from groundzoo.zoo.video.pixel_grid import PixelGrid
from groundzoo.zoo.video.spec import FrameSpec

FPS, FRAMES = 10, 80


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video whose frame k has brightness 3 k; 32 x 48."""
    path = tmp_path_factory.mktemp("samples") / "ramp.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"qp": "0", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv444p"
        for k in range(FRAMES):
            picture = np.full((32, 48, 3), 3 * k, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def numbers(frames: torch.Tensor) -> list[list[int]]:
    """Frame numbers of passes ``(P, L, 3, H, W)``."""
    return (frames.float().mean((2, 3, 4)) / 3).round().int().tolist()


def spec(window: int = 1, context: int = 1, fps: float | None = 5.0) -> FrameSpec:
    return FrameSpec(fps=fps, window=window, stride=window if context > 1 else 1, size=(16, 16), context=context)


def test_times_are_middles_of_equal_parts() -> None:
    assert sample_times(2.0, 6.0, 4).tolist() == [2.5, 3.5, 4.5, 5.5]
    assert sample_times(0.0, 10.0, 10)[6] == 6.5  # ActivityNet-Entities: start + (k + 0.5)(end - start)/10


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (spec(), [[10], [30], [50]]),  # a picture each
        (spec(window=3), [[8, 10, 12], [28, 30, 32], [48, 50, 52]]),  # windows around, at 5 frames per second
        (spec(window=3, fps=None), [[9, 10, 11], [29, 30, 31], [49, 50, 51]]),  # at the file's own rate
        (spec(context=3), [[10, 30, 50]]),  # units that see each other: the sampled frames are the video
        (spec(context=2), [[10, 30], [50, 50]]),  # the last pass repeats its last frame
        (spec(window=2, context=2), [[10, 10, 30, 30], [50, 50, 50, 50]]),  # tubelets: every frame twice
    ],
)
def test_frames_of_passes(how: FrameSpec, expected: list[list[int]], video: Path) -> None:
    with FrameReader(video) as reader:
        frames = read_passes(reader, how, [1.05, 3.05, 5.05])
    assert frames.dtype == torch.uint8
    assert frames.shape[2:] == (3, 16, 16)
    assert numbers(frames) == expected


def test_windows_stay_inside_the_video(video: Path) -> None:
    with FrameReader(video) as reader:
        frames = read_passes(reader, spec(window=5), [0.05, 7.95])
    assert numbers(frames) == [[0, 2, 4, 6, 8], [72, 74, 76, 78, 79]] or numbers(frames)[0] == [0, 2, 4, 6, 8]
    assert all(0 <= n < FRAMES for row in numbers(frames) for n in row)
    assert np.diff(numbers(frames)[1]).min() > 0, "no frame is shown twice"


def test_a_stretch_for_two_encoders(video: Path) -> None:
    found = read_samples(video, [spec(), spec(window=3)], frames=4, start_s=2.0, end_s=6.0)
    assert [p.shape[:2] for p in found.passes] == [(4, 1), (4, 3)]
    assert numbers(found.passes[0]) == [[25], [35], [45], [55]]
    assert found.times_s == [2.5, 3.5, 4.5, 5.5]
    assert (found.span_s, found.size) == ((2.0, 6.0), (48, 32))
    whole = read_samples(video, [spec()], frames=2)
    assert whole.span_s == (0.0, pytest.approx(8.0))
    assert numbers(whole.passes[0]) == [[20], [60]]


@pytest.mark.parametrize(("start", "end"), [(9.0, None), (3.0, 3.0), (5.0, 4.0), (-1.0, 3.0), (8.5, 9.0)])
def test_nothing_to_see(start: float, end: float | None, video: Path) -> None:
    with pytest.raises(ValueError, match="nothing lies between"):
        read_samples(video, [spec()], 4, start, end)


def test_missing_file_and_sound(tmp_path: Path, video: Path) -> None:
    with pytest.raises(VideoError, match="nowhere"):
        read_samples(tmp_path / "nowhere.mp4", [spec()], 4)
    sound = FrameSpec(fps=16000, window=10, stride=10, size=None, sound=True)
    with pytest.raises(ValueError, match="sound"):
        pass_times(sound, np.zeros(2), 10, 1)


def test_the_nearest_unit_of_a_whole_video() -> None:
    how = FrameSpec(fps=2.0, window=4, stride=2, size=None)  # middles at 1, 2, 3 ... seconds
    assert unit_at(how, 5, 12, 6.0, np.array([0.0, 1.4, 1.6, 9.0])).tolist() == [0, 0, 1, 4]


class Middle(PixelGrid):
    """Remembers the brightness of what it sees."""

    def encode(self, clips: torch.Tensor) -> VideoFeatures:
        """See `VideoEncoder.encode`."""
        value = clips.mean((1, 2, 3, 4))[:, None, None]
        return VideoFeatures(value.expand(-1, 1, self.dim), value[..., None, None].expand(-1, 1, *self.grid))


@pytest.mark.parametrize("workers", [0, 2])
def test_stretches_become_stores(workers: int, video: Path, tmp_path: Path) -> None:
    """What is stored of a stretch is what the encoder says about its moments, also where one video fails."""
    encoder = Middle(grid=4, fps=10.0, window_s=0.3, stride_s=0.1, size=16)
    wanted = {
        "ramp#0": Sampled(video, (1.05, 3.05, 5.05)),
        "gone#0": Sampled(tmp_path / "gone.mp4", (1.0,)),
        "ramp#1": Sampled(video, (2.05, 6.05)),
    }
    build_store(encoder, wanted, tmp_path / "store", workers, grids=True, max_cells=2)
    store = FeatureStore(tmp_path / "store")
    assert store.ids == {"ramp#0", "ramp#1"}
    for name, frames in (("ramp#0", [10, 30, 50]), ("ramp#1", [20, 60])):
        grid = store.read_grid(name)
        assert grid.shape == (len(frames), 2, 2, 9)
        np.testing.assert_allclose(grid[:, 0, 0, 0] * 255 / 3, frames, atol=0.2)
    assert store.manifest is not None
    assert store.manifest["grid"] == [2, 2, 9]
    assert (tmp_path / "store" / "quarantine").is_dir()
