"""From passes to whole videos: complete, in order, once; and a single video encoded in pieces as in one go."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
import videos
from sounds import tone, video_with_sound
from tiny_encoders import Codes, Loudness, expected_codes, tiny_r2plus1d

from groundzoo.datamodules import passes
from groundzoo.datamodules.collecting import Collector, encode_video
from groundzoo.datamodules.passes import Finished, PassBatch, PassDataset, Work
from groundzoo.datamodules.shards import Arrays
from groundzoo.datamodules.video import FrameReader, VideoError
from groundzoo.zoo.video.base import VideoEncoder
from groundzoo.zoo.video.combined import Combined
from groundzoo.zoo.video.pixel_grid import PixelGrid


@dataclass
class Kept:
    """A sink that remembers what it was given, and in which order."""

    videos: dict[str, tuple[np.ndarray, int, float]] = field(default_factory=dict)
    grids: dict[str, np.ndarray] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    refuse: frozenset[str] = frozenset()

    def add(self, video_id: str, arrays: Arrays, num_frames: int, duration_s: float) -> None:
        if video_id in self.refuse:
            raise ValueError(f"{video_id} is refused")
        assert video_id not in self.videos, "handed on twice"
        self.videos[video_id] = (arrays["frames"], num_frames, duration_s)
        if "grid" in arrays:
            self.grids[video_id] = arrays["grid"]

    def fail(self, video_id: str, reason: str) -> None:
        assert video_id not in self.failed, "failed twice"
        self.failed[video_id] = reason


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for count in (1, 7, 30, 61):
        videos.coded_video(folder / f"n{count}.mp4", count)
    return folder


def run(
    encoders: list[VideoEncoder], jobs: list[tuple[str, Work]], batch_size: int = 4, **options: object
) -> tuple[Collector, list[Kept], list[int]]:
    sinks = [Kept() for _ in encoders]
    collector = Collector(encoders, sinks, jobs, **options)
    dataset = PassDataset([e.spec for e in encoders], list(enumerate(w for _, w in jobs)), batch_size)
    return collector, sinks, [collector.encode(batch) for batch in dataset]


# ---- many videos ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 4, 50])
@pytest.mark.parametrize(("window", "stride", "context"), [(4, 4, 1), (6, 2, 1), (2, 5, 1), (1, 1, 8), (2, 2, 3)])
def test_videos_are_whole_and_in_order(
    folder: Path, batch_size: int, window: int, stride: int, context: int
) -> None:
    encoder = Codes(window, stride, context)
    jobs = [(f"id {n}", Work(folder / f"n{n}.mp4", (0,))) for n in (1, 7, 30, 61)]
    collector, (kept,), completed = run([encoder], jobs, batch_size)
    assert {k: v[0].tolist() for k, v in kept.videos.items()} == {
        f"id {n}": expected_codes(encoder, n) for n in (1, 7, 30, 61)
    }
    assert [v[1:] for v in kept.videos.values()] == [(n, pytest.approx(n / 25)) for n in (1, 7, 30, 61)]
    assert sum(completed) == 4
    assert all(collector.is_finished(video) for video in range(4))
    assert collector.failed == {}
    assert {shape[0] for shape in encoder.batches} == {batch_size}


def test_each_encoder_gets_the_videos_it_lacks(folder: Path) -> None:
    encoders = [Codes(4, 4), Codes(3, 1, fps=5.0), PixelGrid(grid=4, size=16)]
    jobs = [(f"n{n}", Work(folder / f"n{n}.mp4", e)) for n, e in ((7, (0, 1, 2)), (30, (1,)), (61, (2, 0)))]
    collector, kept, completed = run(encoders, jobs)
    assert [sorted(k.videos) for k in kept] == [["n61", "n7"], ["n30", "n7"], ["n61", "n7"]]
    assert kept[0].videos["n61"][0].tolist() == expected_codes(encoders[0], 61)
    assert kept[1].videos["n30"][0].tolist() == expected_codes(encoders[1], 30, list(range(0, 30, 5)))
    assert kept[1].videos["n7"][1] == 2
    assert sum(completed) == 3
    assert not collector._rows, "rows of whole videos are kept in memory"


def test_grids_only_if_asked_for(folder: Path) -> None:
    encoders = [PixelGrid(grid=4, size=16), Codes(4, 4)]
    jobs = [("a", Work(folder / "n61.mp4", (0, 1)))]
    _, kept, _ = run(encoders, jobs, grids=True)
    units = kept[0].videos["a"][0]
    np.testing.assert_array_equal(kept[0].grids["a"].reshape(units.shape), units)
    assert kept[0].grids["a"].shape == (len(units), 4, 4, 9)
    assert kept[1].grids == {}
    _, kept, _ = run(encoders, jobs)
    assert kept[0].grids == {}


def test_bad_and_refused_videos_fail_once_and_the_rest_goes_on(folder: Path, tmp_path: Path) -> None:
    jobs = [("gone", Work(tmp_path / "gone.mp4", (0, 1))), ("n30", Work(folder / "n30.mp4", (0, 1)))]
    jobs += [("n7", Work(folder / "n7.mp4", (0, 1)))]
    encoders = [Codes(4, 4), Codes(2, 2)]
    sinks = [Kept(), Kept(refuse=frozenset({"n30"}))]
    collector = Collector(encoders, sinks, jobs)
    dataset = PassDataset([e.spec for e in encoders], list(enumerate(w for _, w in jobs)), 4)
    completed = [collector.encode(batch) for batch in dataset]
    assert [sorted(s.videos) for s in sinks] == [["n30", "n7"], ["n7"]]
    assert [sorted(s.failed) for s in sinks] == [["gone"], ["gone", "n30"]]
    assert collector.failed.keys() == {"gone", "n30"}
    assert "gone.mp4" in collector.failed["gone"]
    assert sum(completed) == 3
    assert all(collector.is_finished(v) for v in range(3))


def test_passes_of_a_video_that_has_failed_are_dropped() -> None:
    """A decoder may give up in the middle, when some passes still wait to be encoded."""
    encoder = Codes(1, 1)
    kept = Kept()
    collector = Collector([encoder], [kept], [("a", Work(Path("a.mp4"), (0,))), ("b", Work(Path("b.mp4"), (0,)))])
    clips = torch.zeros(2, 1, 3, 48, 64, dtype=torch.uint8)
    assert collector.encode(PassBatch(0, clips, [(0, 0), (0, 1)], [])) == 0
    assert collector.encode(PassBatch(-1, torch.empty(0), [], [Finished(0, (), 0.0, "broken")])) == 1
    assert collector.encode(PassBatch(0, clips, [(0, 2), (1, 0)], [Finished(1, (1,), 0.04)])) == 1
    assert kept.failed == {"a": "broken"}
    assert sorted(kept.videos) == ["b"]
    assert not collector._rows


def test_a_video_read_again_after_a_crash_is_handed_on_once() -> None:
    """Its first reading may have been complete, but on its way when the crash was noticed."""
    encoder = Codes(1, 1)
    kept = Kept()
    collector = Collector([encoder], [kept], [("a", Work(Path("a.mp4"), (0,)))])
    clips = torch.from_numpy(np.stack([videos.coded_frame(k) for k in (3, 4)])).permute(0, 3, 1, 2)[:, None]
    first = PassBatch(0, clips, [(0, 0), (0, 1)], [Finished(0, (2,), 0.08)])
    assert collector.encode(PassBatch(0, clips[:1], [(0, 0)], [])) == 0  # before the crash
    assert [collector.encode(first), collector.encode(first)] == [1, 0]
    assert kept.videos["a"][0].tolist() == [[3], [4]]
    assert not collector._rows


def test_half_precision_encoders_are_handed_on_as_float32(folder: Path) -> None:
    class Half(Codes):
        def encode(self, clips: torch.Tensor):
            return super().encode(clips)._replace(frames=torch.ones(len(clips), 1, 4, dtype=torch.bfloat16))

    _, (kept,), _ = run([Half(4, 4)], [("a", Work(folder / "n7.mp4", (0,)))])
    assert kept.videos["a"][0].dtype == np.float32


# ---- one video ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 7, 30, 61])
@pytest.mark.parametrize(("window", "stride", "context"), [(5, 3, 1), (3, 8, 1), (16, 8, 1), (2, 2, 5)])
def test_pieces_of_any_length_give_the_same_units(
    folder: Path, monkeypatch: pytest.MonkeyPatch, count: int, window: int, stride: int, context: int
) -> None:
    encoder = Codes(window, stride, context)
    for chunk in (1, 5, 256):
        monkeypatch.setattr(passes, "CHUNK_FRAMES", chunk)
        units, frames, duration = encode_video(encoder, folder / f"n{count}.mp4")
        assert units.tolist() == expected_codes(encoder, count), chunk
        assert frames == count
        assert duration == pytest.approx(count / 25)


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
        monkeypatch.setattr(passes, "CHUNK_FRAMES", chunk)
        torch.testing.assert_close(encode_video(encoder, path).units, expected, rtol=1e-6, atol=1e-6)


def test_a_network_in_pieces_as_in_one_go(folder: Path) -> None:
    """Resized and cropped by the decoder, cut into passes, batched: as the encoder alone does it."""
    encoder = tiny_r2plus1d()
    with FrameReader(folder / "n61.mp4") as reader:
        size = encoder.spec.decoded_size(reader.info.height, reader.info.width)
        frames = torch.cat([piece for piece, _ in reader.chunks(encoder.spec.fps, 1000, size)])
    with torch.no_grad():
        whole = encoder(frames[None]).frames[0]
    units = encode_video(encoder, folder / "n61.mp4").units
    assert len(units) == encoder.spec.num_units(len(frames)) == 3
    torch.testing.assert_close(units, whole, rtol=1e-5, atol=1e-6)
    assert not units.requires_grad


def test_combined_is_its_parts_side_by_side(tmp_path: Path) -> None:
    path = video_with_sound(tmp_path / "a.mkv", 3.0, [(1.0, tone(1.0, 16000))])
    parts = [Codes(5, 5), Codes(1, 1, fps=2.0), Loudness(4000, 4000)]
    together = encode_video(Combined(parts), path)
    first, second, third = (encode_video(part, path) for part in parts)
    assert together[1:] == first[1:]
    assert together.units.shape == (15, 5 + 1 + 2)
    assert torch.equal(together.units[:, :5], first.units)
    # units of 0.2 s have their middles at 0.1, 0.3 ...; those of 0.5 s at 0.25, 0.75 ...
    nearest = [0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4, 4, 5, 5]
    assert second.units.ravel().tolist() == [0, 12, 25, 37, 50, 62]
    assert torch.equal(together.units[:, 5:6], second.units[nearest])
    assert torch.equal(together.units[:, 6:], third.units[nearest])
    assert (together.units[:, 6] > 0.1).tolist() == [2 <= k <= 3 for k in nearest]


def test_one_video_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    for encoder in (Codes(), Combined([Codes(), Loudness()])):
        for name in ("text.mp4", "gone.mp4"):
            with pytest.raises(VideoError, match=name):
                encode_video(encoder, tmp_path / name)
