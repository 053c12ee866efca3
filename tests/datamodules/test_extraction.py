"""Encoding videos: in pieces as in one go, once per video, whole files only, bad videos set aside."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import videos

from groundzoo.datamodules import extraction
from groundzoo.datamodules.extraction import build_store, default_store, encode_video, find_videos
from groundzoo.datamodules.video import FrameReader, VideoError
from groundzoo.zoo.video.base import FrameSpec, VideoEncoder, VideoFeatures
from groundzoo.zoo.video.pixel_grid import PixelGrid


class FirstPixel(VideoEncoder):
    """A unit is the first pixel of each of its frames: shows which frames it saw."""

    def __init__(self, window: int, stride: int) -> None:
        super().__init__()
        self.spec = FrameSpec(fps=None, window=window, stride=stride, size=None)
        self.dim = window

    def forward(self, frames: torch.Tensor) -> VideoFeatures:
        spec, T = self.spec, frames.shape[1]
        rows = [
            [
                videos.read_code(frames[0, min(k * spec.stride + i, T - 1)].permute(1, 2, 0).numpy())
                for i in range(spec.window)
            ]
            for k in range(spec.num_units(T))
        ]
        return VideoFeatures(torch.tensor(rows, dtype=torch.float32)[None])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for count in (1, 7, 30, 61):
        videos.coded_video(folder / f"n{count}.mp4", count)
    return folder


@pytest.mark.parametrize("count", [1, 7, 30, 61])
@pytest.mark.parametrize(("window", "stride"), [(1, 1), (5, 3), (4, 4), (7, 1), (3, 8), (2, 5), (1, 30), (16, 8)])
def test_units_see_the_frames_they_should(
    folder: Path, monkeypatch: pytest.MonkeyPatch, count: int, window: int, stride: int
) -> None:
    """Windows that overlap, touch or leave gaps, in pieces of any length."""
    encoder = FirstPixel(window, stride)
    n = encoder.spec.num_units(count)
    expected = [[min(k * stride + i, count - 1) for i in range(window)] for k in range(n)]
    for chunk in (1, 2, 5, 13, 256):
        monkeypatch.setattr(extraction, "CHUNK_FRAMES", chunk)
        units, frames, duration = encode_video(encoder, folder / f"n{count}.mp4")
        assert units.tolist() == expected, chunk
        assert frames == count
        assert duration == pytest.approx(count / 25, abs=0.05)


@pytest.mark.parametrize(("window_s", "stride_s"), [(1.0, 0.5), (0.3, 0.1), (0.2, 0.5)])
def test_pieces_leave_no_trace_in_pixel_grid(
    folder: Path, monkeypatch: pytest.MonkeyPatch, window_s: float, stride_s: float
) -> None:
    encoder = PixelGrid(grid=4, size=16, fps=20, window_s=window_s, stride_s=stride_s)
    path = folder / "n61.mp4"
    with FrameReader(path) as reader:
        whole = torch.cat([piece for piece, _ in reader.chunks(fps=20.0, chunk=1000, size=(16, 16))])
    expected = encoder(whole[None]).frames[0]
    for chunk in (1, 7, 30, 256):
        monkeypatch.setattr(extraction, "CHUNK_FRAMES", chunk)
        assert torch.equal(encode_video(encoder, path).units, expected), chunk


def test_find_videos(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.avi", "b.MKV", "c.txt", ".d.mp4.part"):
        (tmp_path / name).touch()
    assert find_videos(tmp_path) == {"a": tmp_path / "a.mp4", "b": tmp_path / "b.MKV"}
    with pytest.raises(VideoError, match="nowhere does not exist"):
        find_videos(tmp_path / "nowhere")


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_videos_are_set_aside_and_named(folder: Path, tmp_path: Path, workers: int) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes((folder / "n61.mp4").read_bytes()[:200])
    (tmp_path / "text.mp4").write_text("no video")
    files = {**find_videos(folder), "bad": bad, "text": tmp_path / "text.mp4", "gone": tmp_path / "gone.mp4"}
    out = tmp_path / "store"
    encoder = PixelGrid(grid=4, size=16)
    state = torch.get_rng_state()
    store = build_store(encoder, files, out, num_workers=workers)
    assert torch.equal(torch.get_rng_state(), state)  # a run does not depend on what was encoded already
    assert store.ids == {"n1", "n7", "n30", "n61"}
    quarantine = json.loads((out / "quarantine.json").read_text())
    assert set(quarantine) == {"bad", "text", "gone"}
    assert all(f"{name}.mp4" in reason for name, reason in quarantine.items())
    stored = store.read("n61")
    exact = encode_video(encoder, folder / "n61.mp4")
    np.testing.assert_allclose(stored.units, exact.units.numpy(), rtol=2e-3, atol=1e-2)
    assert stored.num_frames == exact.num_frames
    assert stored.duration_s == pytest.approx(exact.duration_s)
    store.check(encoder)
    assert not [f for f in out.iterdir() if f.name.startswith(".")]


def test_encoding_goes_on_where_it_stopped(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, files = PixelGrid(grid=4, size=16), find_videos(folder)
    files = files | {"bad": tmp_path / "gone.mp4"}
    seen: list[str] = []
    real = encode_video

    def counted(encoder: VideoEncoder, path: Path) -> object:
        seen.append(path.stem)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return real(encoder, path)

    monkeypatch.setattr(extraction, "encode_video", counted)
    with pytest.raises(KeyboardInterrupt):
        build_store(encoder, files, tmp_path / "store")
    done = {f.stem for f in (tmp_path / "store").glob("*.npz")}
    assert done == set(seen[:2])
    build_store(encoder, files, tmp_path / "store")
    assert sorted(seen) == sorted([*(f.stem for f in files.values()), seen[2]])  # the one it stopped at, again
    seen.clear()
    build_store(encoder, files, tmp_path / "store")
    assert seen == []  # neither what is there nor what is in quarantine
    (tmp_path / "store" / "quarantine.json").unlink()
    build_store(encoder, files, tmp_path / "store")
    assert seen == ["gone"]


def test_an_interrupted_file_is_never_seen(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(file: object, **arrays: object) -> None:
        file.write(b"PK half of it")
        raise KeyboardInterrupt

    encoder, out = PixelGrid(grid=4, size=16), tmp_path / "store"
    with monkeypatch.context() as patch:
        patch.setattr(extraction.np, "savez", half)
        with pytest.raises(KeyboardInterrupt):
            build_store(encoder, find_videos(folder), out)
    assert not list(out.glob("*.npz"))
    assert build_store(encoder, find_videos(folder), out).ids == {"n1", "n7", "n30", "n61"}


def test_not_one_video(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"none of 1 videos could be encoded: .*gone\.mp4"):
        build_store(PixelGrid(), {"gone": tmp_path / "gone.mp4"}, tmp_path / "store")
    with pytest.raises(VideoError, match="there are no videos"):
        build_store(PixelGrid(), {}, tmp_path / "store2")


def test_other_settings_get_another_folder(tmp_path: Path) -> None:
    names = {default_store(tmp_path, PixelGrid(grid=g, fps=f)) for g in (4, 12) for f in (4.0, 6.0)}
    assert len(names) == 4
    assert default_store(tmp_path, PixelGrid()) == default_store(tmp_path, PixelGrid())
