"""Cutting videos into passes: every frame where it belongs, batches always full, a crash costs one video."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch
import videos
from sounds import tone, video_with_sound
from tiny_encoders import Codes, Loudness, expected_codes
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from groundzoo.datamodules import passes
from groundzoo.datamodules.packets import VideoError, VideoInfo
from groundzoo.datamodules.passes import Finished, PassBatch, PassDataset, PassLoader, Work
from groundzoo.datamodules.video import View
from groundzoo.zoo.video.base import FrameSpec

COUNTS = (1, 7, 30, 61)
WINDOWS = [
    (1, 1, 1),
    (5, 3, 1),
    (4, 4, 1),
    (7, 1, 1),
    (3, 8, 1),
    (2, 5, 1),
    (1, 30, 1),
    (16, 8, 1),
    (1, 1, 8),
    (4, 4, 3),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for count in COUNTS:
        videos.coded_video(folder / f"n{count}.mp4", count)
    videos.coded_video(folder / "wide.mp4", 20, size=(48, 96))
    videos.coded_video(folder / "high.mp4", 20, size=(96, 64))
    return folder


def work(*paths: Path, encoders: tuple[int, ...] = (0,)) -> list[tuple[int, Work]]:
    return [(number, Work(path, encoders)) for number, path in enumerate(paths)]


def collected(
    batches: Iterable[PassBatch], batch_size: int, shapes: dict[int, tuple[int, ...]] | None = None
) -> tuple[dict[tuple[int, int], list[torch.Tensor]], dict[int, Finished]]:
    """Passes by (encoder, video) in the order of their numbers, and the ends; checks what all batches must be."""
    found: dict[tuple[int, int], dict[int, torch.Tensor]] = defaultdict(dict)
    ends: dict[int, Finished] = {}
    for batch in batches:
        if batch.encoder == -1:
            assert batch.owners == []
            assert batch.finished
        else:
            assert len(batch.clips) == batch_size
            assert 1 <= len(batch.owners) <= batch_size
            for row in batch.clips[len(batch.owners) :]:
                assert torch.equal(row, batch.clips[len(batch.owners) - 1])
            if shapes is not None:
                assert batch.clips.shape[1:] == shapes[batch.encoder]
        for row, (video, number) in enumerate(batch.owners):
            assert number not in found[batch.encoder, video], "a pass comes twice"
            found[batch.encoder, video][number] = batch.clips[row]
        for end in batch.finished:
            assert end.video not in ends, "a video ends twice"
            ends[end.video] = Finished(*end)
    for numbers in found.values():
        assert sorted(numbers) == list(range(len(numbers)))
    return {key: [numbers[k] for k in sorted(numbers)] for key, numbers in found.items()}, ends


def codes(passes: list[torch.Tensor]) -> list[list[int]]:
    return [videos.read_codes(clip) for clip in passes]


def expected_passes(spec: FrameSpec, shown: list[int]) -> list[list[int]]:
    """Frames of every pass by the definition of a unit: pass p begins at p * context * stride."""
    passes = -(-spec.num_units(len(shown)) // spec.context)
    length = (spec.context - 1) * spec.stride + spec.window
    return [
        [shown[min(p * spec.context * spec.stride + i, len(shown) - 1)] for i in range(length)]
        for p in range(passes)
    ]


# ---- which frames ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("window", "stride", "context"), WINDOWS)
def test_passes_see_the_frames_they_should(
    folder: Path, monkeypatch: pytest.MonkeyPatch, window: int, stride: int, context: int
) -> None:
    """Windows that overlap, touch or leave gaps, in pieces of any length, from videos of any length."""
    spec = FrameSpec(None, window, stride, None, context=context)
    files = [folder / f"n{count}.mp4" for count in COUNTS]
    for chunk in (1, 5, 13, 256):
        monkeypatch.setattr(passes, "CHUNK_FRAMES", chunk)
        found, ends = collected(PassDataset([spec], work(*files), 5), 5)
        for video, count in enumerate(COUNTS):
            assert codes(found[0, video]) == expected_passes(spec, list(range(count))), (count, chunk)
            assert ends[video][1] == (count,)
            assert ends[video].duration_s == pytest.approx(count / 25)
            assert ends[video].problem is None


def test_the_definition_of_the_tests_themselves() -> None:
    assert expected_passes(FrameSpec(None, 3, 2, None), [0, 1, 2, 3]) == [[0, 1, 2], [2, 3, 3]]
    assert expected_passes(FrameSpec(None, 2, 2, None, context=2), [0, 1, 2, 3, 4]) == [[0, 1, 2, 3], [4, 4, 4, 4]]
    assert expected_passes(FrameSpec(None, 1, 3, None), [0, 1, 2, 3]) == [[0], [3]]
    assert expected_codes(Codes(3, 2), 4) == [[0, 1, 2], [2, 3, 3]]


@pytest.mark.parametrize("count", [5, 11, 29])
@pytest.mark.parametrize(("fps", "window", "stride"), [(5.0, 4, 2), (10.0, 3, 3), (50.0, 8, 8)])
def test_other_rates(tmp_path: Path, count: int, fps: float, window: int, stride: int) -> None:
    path = videos.coded_video(tmp_path / "a.mp4", count)
    spec = FrameSpec(fps, window, stride, None)
    found, ends = collected(PassDataset([spec], work(path), 4), 4)
    times = [k / fps for k in range(1000) if k / fps < count / 25 - 1e-6]
    shown = [int(t * 25 + 1e-6) for t in times]
    assert codes(found[0, 0]) == expected_passes(spec, shown)
    assert ends[0].num_frames == (len(shown),)


def test_resize_and_crop(folder: Path) -> None:
    """Crops and sizes are applied before passes are cut, so that a worker hands over no more than needed."""
    plain = FrameSpec(None, 4, 4, (24, 32))
    cropped = FrameSpec(None, 4, 4, (24, 24), resize=24)
    stretched = FrameSpec(None, 4, 4, (20, 28), resize=(24, 32))
    specs = [plain, cropped, stretched]
    found, _ = collected(
        PassDataset(specs, work(folder / "n7.mp4", folder / "high.mp4", encoders=(0, 1, 2)), 3),
        3,
        {0: (4, 3, 24, 32), 1: (4, 3, 24, 24), 2: (4, 3, 20, 28)},
    )
    for video in range(2):
        whole = torch.stack(found[0, video])
        assert codes(found[0, video]) == expected_passes(plain, list(range((7, 20)[video])))
        assert torch.equal(torch.stack(found[2, video]), whole[..., 2:22, 2:30])
    whole = torch.stack(found[0, 0])  # 48 x 64 has the shape of 24 x 32
    assert torch.equal(torch.stack(found[1, 0]), whole[..., 4:28])


# ---- batches ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3, 16, 100])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_are_full_and_every_pass_comes_once(folder: Path, batch_size: int, workers: int) -> None:
    specs = [FrameSpec(None, 4, 2, (24, 32)), FrameSpec(5.0, 1, 1, (30, 40))]
    jobs = [Work(folder / f"n{c}.mp4", e) for c, e in zip(COUNTS, [(0, 1), (0,), (1,), (1, 0)], strict=True)]
    loader = PassLoader(specs, jobs, batch_size, workers, lambda video: False)
    found, ends = collected(loader, batch_size, {0: (4, 3, 24, 32), 1: (1, 3, 30, 40)})
    assert sorted(found) == [(0, 0), (0, 1), (0, 3), (1, 0), (1, 2), (1, 3)]
    for (encoder, video), clips in found.items():
        count = COUNTS[video]
        shown = [list(range(count)), list(range(0, count, 5))][encoder]
        assert codes(clips) == expected_passes(specs[encoder], shown)
    assert {video: end.problem for video, end in ends.items()} == dict.fromkeys(range(4))
    assert list(ends[0].num_frames) == [1, 1]
    assert list(ends[1].num_frames) == [7, 0]
    assert list(ends[3].num_frames) == [61, 13]


def test_an_end_never_comes_before_the_last_pass_of_its_last_encoder_unless_that_is_on_its_way(
    folder: Path,
) -> None:
    """Whoever counts passes can tell when a video is whole: its end says how many there are."""
    spec = FrameSpec(None, 4, 4, (24, 32))
    seen: dict[int, int] = defaultdict(int)
    announced: dict[int, int] = {}
    for batch in PassDataset([spec], work(*(folder / f"n{c}.mp4" for c in COUNTS)), 4):
        for video, _ in batch.owners:
            seen[video] += 1
        for end in batch.finished:
            announced[end.video] = spec.num_units(end.num_frames[0])
    assert announced == dict(seen) == {v: spec.num_units(c) for v, c in enumerate(COUNTS)}


def test_several_encoders_from_one_decode_are_as_each_alone(folder: Path, tmp_path: Path) -> None:
    sound = video_with_sound(tmp_path / "a.mkv", 2.0, [(0.3, tone(1.0, 16000))])
    specs = [
        FrameSpec(None, 4, 2, None),
        FrameSpec(10.0, 2, 2, (24, 32), context=3),
        FrameSpec(7.0, 1, 1, (30, 30), resize=32),
        Loudness().spec,
    ]
    jobs = work(sound, folder / "n61.mp4", encoders=(0, 1, 2, 3))
    together, ends = collected(PassDataset(specs, jobs, 6), 6)
    for encoder, spec in enumerate(specs):
        alone, alone_ends = collected(PassDataset([spec], work(sound, folder / "n61.mp4"), 6), 6)
        for video in range(2):
            assert torch.equal(torch.stack(together[encoder, video]), torch.stack(alone[0, video])), encoder
            assert ends[video].num_frames[encoder] == alone_ends[video].num_frames[0]


def test_videos_of_different_sizes_do_not_share_batches(folder: Path) -> None:
    spec = FrameSpec(None, 4, 4, None)
    files = [folder / f"{name}.mp4" for name in ("n30", "wide", "n7", "high", "wide")]
    batches = list(PassDataset([spec], work(*files), 16))
    shapes = {0: (48, 64), 1: (48, 96), 2: (48, 64), 3: (96, 64), 4: (48, 96)}
    for batch in batches:
        assert {shapes[video] for video, _ in batch.owners} == {tuple(batch.clips.shape[-2:])}
    found, ends = collected(batches, 16)
    assert sorted(ends) == [0, 1, 2, 3, 4]
    for video, count in enumerate((30, 20, 7, 20, 20)):
        assert codes(found[0, video]) == expected_passes(spec, list(range(count)))


def test_sound_is_cut_like_pictures_and_ends_in_silence(tmp_path: Path) -> None:
    path = video_with_sound(tmp_path / "a.mkv", 1.0, [(0.0, tone(1.0, 8000))], 8000)
    spec = FrameSpec(8000.0, 3000, 2700, None, sound=True)
    found, ends = collected(PassDataset([spec], work(path), 4), 4, {0: (3000,)})
    assert ends[0].num_frames == (8000,)
    whole = torch.from_numpy((tone(1.0, 8000) * 32767).round()).to(torch.int16)
    padded = torch.cat([whole, torch.zeros(400, dtype=torch.int16)])
    assert whole[-1] != 0
    assert torch.equal(torch.stack(found[0, 0]), padded.unfold(0, 3000, 2700))


def test_sound_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = video_with_sound(tmp_path / "a.mkv", 2.0, [(0.5, tone(1.0, 8000))], 8000)
    spec = Loudness(1000, 300).spec
    whole, _ = collected(PassDataset([spec], work(path), 8), 8)
    real = passes.read_sound
    monkeypatch.setattr(passes, "read_sound", lambda path, rate, seconds: real(path, rate, seconds, 0.07))
    cut, _ = collected(PassDataset([spec], work(path), 8), 8)
    assert torch.equal(torch.stack(whole[0, 0]), torch.stack(cut[0, 0]))


# ---- what cannot be read ------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_videos_end_with_their_reason(folder: Path, tmp_path: Path, workers: int) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    names = [
        folder / "n7.mp4",
        tmp_path / "text.mp4",
        folder / "n30.mp4",
        tmp_path / "gone.mp4",
        folder / "n61.mp4",
    ]
    spec = FrameSpec(None, 4, 4, None)
    found, ends = collected(PassLoader([spec], [Work(p, (0,)) for p in names], 4, workers, lambda v: False), 4)
    assert sorted(ends) == [0, 1, 2, 3, 4]
    assert "text.mp4" in str(ends[1].problem)
    assert "gone.mp4" in str(ends[3].problem)
    for video, count in ((0, 7), (2, 30), (4, 61)):
        assert codes(found[0, video]) == expected_passes(spec, list(range(count)))


@pytest.mark.parametrize(
    "error", [VideoError("n30.mp4: odd"), OSError("n30.mp4: odd"), KeyError("odd"), MemoryError()]
)
def test_whatever_a_decoder_raises_costs_one_video(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    real = passes.FrameReader.views

    def views(self, *args):
        for number, piece in enumerate(real(self, *args)):
            if self.path.stem == "n30" and number == 2:
                raise error
            yield piece

    monkeypatch.setattr(passes.FrameReader, "views", views)
    monkeypatch.setattr(passes, "CHUNK_FRAMES", 8)
    spec = FrameSpec(None, 4, 4, None)
    files = [folder / f"n{c}.mp4" for c in COUNTS]
    batches = list(PassDataset([spec], work(*files), 4))
    ends = {end.video: end for batch in batches for end in batch.finished}
    assert [ends[v].problem is None for v in range(4)] == [True, True, False, True]
    assert "n30.mp4" in ends[2].problem
    assert type(error).__name__ in ends[2].problem or "odd" in ends[2].problem
    assert ends[2].num_frames == ()
    last = {
        number: batch.clips[row] for batch in batches for row, (v, number) in enumerate(batch.owners) if v == 3
    }
    assert codes([last[k] for k in sorted(last)]) == expected_passes(spec, list(range(61)))


class Dies:
    """Stands in for `FrameReader.views`: the process ends where a decoder would crash."""

    def __init__(self, names: set[str], how: str, real) -> None:
        self.names, self.how, self.real = names, how, real

    def __get__(self, reader, kind=None):
        return lambda *args: self.run(reader, *args)

    def run(self, reader, *args):
        for number, piece in enumerate(self.real(reader, *args)):
            if reader.path.stem in self.names and number == 1:
                if self.how == "exit":
                    os._exit(3)
                os.kill(os.getpid(), getattr(signal, self.how))
                time.sleep(10)
            yield piece


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch looks after its workers every 0.2 s instead of every 5 s."""
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.2,))


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("consumer", "workers", "how"),
    [
        ("fast", 1, "exit"),
        ("fast", 2, "SIGSEGV"),
        ("slow", 1, "SIGSEGV"),
        ("slow", 2, "SIGKILL"),
        ("late", 1, "SIGSEGV"),
        ("late", 2, "exit"),
    ],
)
def test_a_crash_costs_one_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, workers: int, consumer: str
) -> None:
    """Whether the encoder waits for decoders, or decoders for the encoder, or a batch is always on its way."""
    files = [videos.coded_video(tmp_path / f"v{k}.mp4", 20 + k) for k in range(6)]
    monkeypatch.setattr(passes.FrameReader, "views", Dies({"v1", "v4"}, how, passes.FrameReader.views))
    monkeypatch.setattr(passes, "CHUNK_FRAMES", 8)
    spec = FrameSpec(None, 4, 4, None)
    done: set[int] = set()
    found: dict[int, dict[int, torch.Tensor]] = defaultdict(dict)
    problems: dict[int, str] = {}
    frames: dict[int, int] = {}

    def take(batch: PassBatch) -> None:
        for row, (video, number) in enumerate(batch.owners):
            assert video not in done or consumer == "late", "what is finished is read again"
            found[video][number] = batch.clips[row]
        for end in batch.finished:
            if end.problem:
                assert end.video not in problems, "what has crashed is tried again"
                problems[end.video] = end.problem
                done.add(end.video)
            else:
                frames[end.video] = end.num_frames[0]
        done.update(v for v, n in frames.items() if len(found[v]) == spec.num_units(n))
        if consumer == "slow":
            time.sleep(0.15)

    loader = PassLoader([spec], [Work(f, (0,)) for f in files], 3, workers, done.__contains__)
    waiting: list[PassBatch] = []
    for batch in loader:
        waiting.append(batch)
        if consumer != "late" or len(waiting) > 1:  # as Lightning does: the next batch is asked for first
            take(waiting.pop(0))
    for batch in waiting:
        take(batch)
    assert sorted(problems) == [1, 4]
    reason = "status 3" if how == "exit" else how
    assert all(f"v{v}.mp4: its decoder crashed ({reason})" in problems[v] for v in (1, 4))
    for video in (0, 2, 3, 5):
        clips = [found[video][k] for k in sorted(found[video])]
        assert codes(clips) == expected_passes(spec, list(range(20 + video)))
    assert done == set(range(6))


@pytest.mark.usefixtures("impatient")
def test_workers_that_die_before_any_video_end_the_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing could be blamed, and trying again would go on for ever."""
    monkeypatch.setattr(PassDataset, "__iter__", lambda self: os._exit(1))
    loader = PassLoader([FrameSpec(None, 4, 4, None)], [Work(folder / "n7.mp4", (0,))], 3, 1, lambda v: False)
    with pytest.raises(RuntimeError, match="exited unexpectedly"):
        list(loader)


# ---- memory ----------------------------------------------------------------------------------------------------


class Endless:
    """Stands in for `FrameReader`: a video of 3000 frames of 30 kB that nobody has to decode."""

    def __init__(self, path: Path) -> None:
        self.info = VideoInfo(path, 3000, 25.0, 120.0, 100, 100)

    def __enter__(self) -> Endless:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def views(self, views: list[View], chunk: int) -> Iterator[tuple[int, torch.Tensor]]:
        for first in range(0, 3000, chunk):
            yield 0, torch.full((min(chunk, 3000 - first), 3, 100, 100), first % 251, dtype=torch.uint8)


def held_bytes() -> int:
    """Memory behind all tensors that are alive."""
    storages = {
        t.data_ptr(): t.nbytes()
        for o in gc.get_objects()
        if type(o) is torch.Tensor
        for t in [o.untyped_storage()]
    }
    return sum(storages.values())


@pytest.mark.parametrize(
    ("window", "stride", "context"), [(16, 8, 1), (1, 64, 1), (32, 32, 1), (1, 1, 8), (1, 200, 1)]
)
def test_memory_does_not_grow_with_the_video(
    monkeypatch: pytest.MonkeyPatch, window: int, stride: int, context: int
) -> None:
    monkeypatch.setattr(passes, "FrameReader", Endless)
    spec = FrameSpec(None, window, stride, None, context=context)
    before = held_bytes()
    most = count = 0
    for number, batch in enumerate(PassDataset([spec], work(Path("a.mp4"), Path("b.mp4")), 4)):
        count += len(batch.owners)
        if number % 7 == 3:  # looking at all objects takes long
            most = max(most, held_bytes() - before)
    assert count == 2 * -(-spec.num_units(3000) // context)
    # a batch is stacked from its rows, which are views of pieces and of what was left before them
    rows, piece = 4 * spec.pass_frames, passes.CHUNK_FRAMES + spec.pass_frames
    assert most <= 30_000 * (3 * rows + 4 * piece)
