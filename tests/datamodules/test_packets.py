"""Decoding forwards with PyAV: the same pictures as decord's, for one reader or for several at once."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from videos import coded_video, damaged, read_codes, rotated

from groundzoo.datamodules import video
from groundzoo.datamodules.packets import Walker
from groundzoo.datamodules.video import FrameReader, View


@pytest.fixture(scope="module")
def coded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return coded_video(tmp_path_factory.mktemp("videos") / "coded.mp4", 100)


def test_both_decoders_agree(shared_videos: Path) -> None:
    """Bit for bit: turned, resized and converted alike, in 10 bits, in full range and upside down."""
    compared = 0
    for path in sorted(shared_videos.iterdir()):
        with FrameReader(path) as reader:
            if not reader._trusted or "corrupt" in path.name:
                continue
            last = min(reader.info.num_frames, 60) - 1
            numbers = sorted({0, last // 2, last})
            for size in ((reader.info.height, reader.info.width), (112, 112), (128, 171), (97, 60)):
                ours = reader.at(numbers, size)
                for frame, (picture, exact) in zip(
                    ours, Walker(reader._index).pictures(numbers, size), strict=True
                ):
                    assert exact
                    assert torch.equal(frame, torch.from_numpy(picture).permute(2, 0, 1)), (path, size)
                    compared += 1
    assert compared > 100


KINDS = {
    "plain": lambda coded, path: coded,
    "damaged": lambda coded, path: damaged(coded, path, 0.4, 0.5),
    "turned": lambda coded, path: rotated(coded, path, 90),
    "unequal": lambda coded, path: coded_video(path, 40, times_s=[0.03 * k + 0.01 * (k % 3) for k in range(40)]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_one_decode_serves_several_views(tmp_path: Path, coded: Path, kind: str) -> None:
    path = KINDS[kind](coded, tmp_path / f"{kind}.mp4")
    views = [View(None, None), View(4.0, (24, 32)), View(12.5, (48, 64)), View(4.0, (24, 32)), View(100.0, None)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with FrameReader(path) as reader:
            got: list[list[torch.Tensor]] = [[] for _ in views]
            for number, frames in reader.views(views, chunk=7):
                assert len(frames) <= 7
                got[number].append(frames)
            for view, pieces in zip(views, got, strict=True):
                alone = torch.cat([frames for frames, _ in reader.chunks(view.fps, 7, view.size)])
                assert torch.equal(torch.cat(pieces), alone), view


def test_large_videos_are_not_decoded_ahead(coded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyAV reads them, to the same pictures; it holds no more than a piece."""
    with FrameReader(coded) as reader:
        expected = torch.cat([frames for frames, _ in reader.chunks(fps=10, chunk=8)])
        assert reader._decord is not None
        large = 3 * reader.info.height * reader.info.width * reader.info.num_frames
    monkeypatch.setattr(video, "READ_AHEAD_BYTES", large - 1)
    with FrameReader(coded) as reader:
        assert torch.equal(torch.cat([frames for frames, _ in reader.chunks(fps=10, chunk=8)]), expected)
        assert reader._decord is None


def test_uniform_frames_and_clips(coded: Path) -> None:
    with FrameReader(coded) as reader:
        every = reader.at(range(reader.info.num_frames))
        n = reader.info.num_frames
        middle = [int((k + 0.5) * n / 5 + 1e-6) for k in range(5)]
        assert torch.equal(reader.uniform(5), every[middle])
        clips = reader.clips([0.0, 1.0, reader.info.duration_s - 0.1], length=4, fps=12.5)
        assert clips.shape == (3, 4, *every.shape[1:])
        first = round(reader.info.fps)
        assert torch.equal(clips[1], every[[first, first + 2, first + 4, first + 6]])
        assert torch.equal(clips[2, -1], every[-1])


CODINGS = {
    "x265.mp4": {"codec": "libx265"},
    "x265.mkv": {"codec": "libx265"},
    "open_gop.mp4": {"options": {"x264-params": "open-gop=1:bframes=4:b-pyramid=normal"}},
    "mpeg4.mp4": {"codec": "mpeg4", "options": {"bf": "2"}},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"bf": "2"}},
    "x264.avi": {},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "x264.mp4": {},
}


@pytest.mark.parametrize("name", CODINGS)
def test_any_frame_as_the_first(tmp_path: Path, name: str) -> None:
    """A jump into the middle of a file, whatever its codec makes of the pictures around a key picture."""
    path = coded_video(tmp_path / name, 60, gop=12, **CODINGS[name])
    for number in (0, 11, 12, 13, 22, 23, 24, 25, 35, 36, 59):
        with FrameReader(path) as reader:
            assert read_codes(reader.at([number])) == [number]
    with FrameReader(path) as reader:
        order = [40, 3, 23, 24, 59, 12, 11, 0, 36, 35]
        assert [read_codes(reader.at([number]))[0] for number in order] == order
        assert read_codes(reader.at(range(60))) == list(range(60))
