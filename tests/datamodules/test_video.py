"""Video files, good and odd: the right picture for each number and time, and clear words where there is none."""

from __future__ import annotations

import functools
import gc
import importlib.util
import math
import os
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from groundzoo.datamodules.marking import mark_moments, thumbnails, write_video
from groundzoo.datamodules.video import FrameReader, VideoError, probe, read_frames

_spec = importlib.util.spec_from_file_location("video_files", Path(__file__).parents[1] / "videos.py")
assert _spec is not None
assert _spec.loader is not None
videos = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(videos)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("videos")


@pytest.fixture(scope="session")
def coded(folder: Path) -> Path:
    return videos.coded_video(folder / "coded.mp4", 100)


def unequal_times(count: int) -> np.ndarray:
    times = np.cumsum(np.random.default_rng(0).uniform(0.02, 0.2, count))
    return times - times[0]


FORMATS = {
    "coded.mkv": {},
    "coded.ts": {},  # decord shows frame 8 as frame 0 here
    "coded.avi": {"codec": "mpeg4"},  # names an average rate of 600
    "coded.mov": {"container_options": {"movflags": "faststart"}},
    "open_gop.mp4": {"options": {"x264-params": "open-gop=1:bframes=4:b-pyramid=normal"}},
    "fragments.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "late.mp4": {"times_s": [5 + k / 25 for k in range(60)]},  # the first picture at 5 s
    "odd.mp4": {"size": (17, 33), "pixels": "yuv444p"},
    "narrow.mp4": {"size": (48, 32)},  # a width whose rows decord pads
    "one_key.mp4": {"gop": 1000},
}


@pytest.mark.parametrize("name", FORMATS)
def test_same_frame_by_every_way(folder: Path, name: str) -> None:
    path = videos.coded_video(folder / name, 60, **FORMATS[name])
    numbers = list(range(60))
    shuffled = np.random.default_rng(1).integers(0, 60, 40).tolist()
    with FrameReader(path) as reader:
        assert (reader.info.num_frames, reader.info.fps) == (60, pytest.approx(25, rel=1e-3))
        assert reader.info.duration_s == pytest.approx(2.4, abs=2e-3)
        torch.testing.assert_close(reader.times_s, torch.arange(60) / 25.0, atol=1e-6, rtol=0, check_dtype=False)
        whole = reader.at(numbers)
        assert (whole.dtype, whole.shape) == (torch.uint8, (60, 3, reader.info.height, reader.info.width))
        assert videos.read_codes(whole) == numbers
        assert torch.equal(reader.at(shuffled), whole[shuffled])
        for number in (0, 1, 30, 59, 7, 7):
            assert torch.equal(reader.at([number])[0], whole[number])
        assert torch.equal(reader.at_times([k / 25 for k in numbers]), whole)
        assert torch.equal(reader.at_times([k / 25 + 0.03 for k in numbers]), whole)
        pieces = list(reader.chunks(chunk=7))
        assert torch.equal(torch.cat([frames for frames, _ in pieces]), whole)
        assert max(len(frames) for frames, _ in pieces) == 7
        torch.testing.assert_close(torch.cat([times for _, times in pieces]), reader.times_s)


@pytest.mark.parametrize("size", [(24, 32), (48, 96), (96, 96), (17, 33), (120, 144), (112, 112), (3, 4)])
def test_resized_while_decoding(coded: Path, size: tuple[int, int]) -> None:
    with FrameReader(coded, size=size) as reader:
        frames = reader.at([3, 99, 3, 40])
        assert (frames.shape, videos.read_codes(frames)) == ((4, 3, *size), [3, 99, 3, 40])
        assert videos.read_codes(reader.at([5, 50], size=(60, 80))) == [5, 50]
        assert (reader.info.height, reader.info.width) == (48, 64)


def test_resampling(coded: Path) -> None:
    with FrameReader(coded) as reader:
        for fps, chunk in [(5.0, 256), (12.5, 4), (25.0, 50), (50.0, 64), (0.1, 1)]:
            pieces = list(reader.chunks(fps=fps, chunk=chunk))
            frames, times = (torch.cat(part) for part in zip(*pieces, strict=True))
            assert len(times) == max(1, math.ceil(4 * fps))
            assert times.tolist() == pytest.approx([k / fps for k in range(len(times))])
            assert videos.read_codes(frames) == [int(k / fps * 25 + 1e-6) for k in range(len(times))]
        for wrong in (0.0, -1.0, math.nan, math.inf):
            with pytest.raises(ValueError, match="fps"):
                next(reader.chunks(fps=wrong))


@pytest.mark.parametrize("name", ["unequal.mp4", "unequal.mkv", "unequal.ts"])
def test_variable_frame_rate(folder: Path, name: str) -> None:
    times = unequal_times(60)
    path = videos.coded_video(folder / name, 60, times_s=times)
    with FrameReader(path) as reader:
        assert reader.times_s.numpy() == pytest.approx(times, abs=6e-4)  # Matroska rounds to milliseconds
        asked = np.random.default_rng(2).uniform(0, times[-1], 80)
        asked = asked[np.abs(asked[:, None] - times).min(1) > 3e-3]
        expected = [int(np.searchsorted(times, t, side="right")) - 1 for t in asked]
        assert videos.read_codes(reader.at_times(asked.tolist())) == expected
        middles = (times[1:] + times[:-1]) / 2
        assert videos.read_codes(reader.at_times(torch.from_numpy(middles))) == list(range(59))
        assert reader.info.fps * reader.info.duration_s == pytest.approx(60)


def test_beyond_the_ends(coded: Path) -> None:
    with FrameReader(coded) as reader:
        assert videos.read_codes(reader.at_times([-5, 0, 3.99, 4, 1e9])) == [0, 0, 99, 99, 99]
        assert reader.at([]).shape == (0, 3, 48, 64)
        for wrong in (-1, 100):
            with pytest.raises(IndexError, match="frames are 0 to 99"):
                reader.at([wrong])
        with pytest.raises(ValueError, match="finite"):
            reader.at_times([math.nan])


@pytest.mark.parametrize("degrees", [90, 180, 270])
@pytest.mark.parametrize("name", ["coded.mp4", "damaged.mp4"])  # by decord and, where that fails, by PyAV
def test_rotated_files_come_upright(coded: Path, folder: Path, degrees: int, name: str) -> None:
    source = coded if name == "coded.mp4" else videos.damaged(coded, folder / name, 0.4, 0.5)
    path = videos.rotated(source, folder / f"turned_{degrees}_{name}", degrees)
    lying = (48, 64) if degrees == 180 else (64, 48)
    with FrameReader(path) as reader, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert (reader.info.height, reader.info.width) == lying
        for size in (None, (2 * lying[0], 2 * lying[1])):
            frames = reader.at(range(reader.info.num_frames), size)
            assert frames.shape[2:] == (size or lying)
            back = torch.rot90(frames[[0, 5, 9]], degrees // 90, dims=(2, 3))  # counter-clockwise
            assert videos.read_codes(back) == [0, 5, 9]


def test_two_video_streams(folder: Path) -> None:
    path = videos.two_streams(folder / "two.mp4")
    with FrameReader(path) as reader:
        codes = videos.read_codes(reader.at(range(10)))
        assert codes == list(range(10)) if reader.info.width == 32 else codes == list(range(1000, 1010))


def unreadable(folder: Path, coded: Path, kind: str) -> Path:
    path = folder / f"{kind}.mp4"
    fast = videos.coded_video(folder / "fast.mp4", 100, container_options={"movflags": "faststart"})
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("these are words, no pictures\n" * 50)
    elif kind == "playlist":
        path.write_text("#EXTM3U\n#EXTINF:10,\nhttp://192.0.2.1/secret.ts\n")
    elif kind == "truncated":
        videos.cut(coded, path, 0.6)  # the index of an mp4 comes last
    elif kind == "header":
        path.write_bytes(fast.read_bytes()[: fast.read_bytes().index(b"mdat") + 4])
    elif kind == "half_header":
        videos.cut(fast, path, 0.01)
    elif kind == "audio":
        videos.audio_only(path)
    elif kind == "zero_frames":
        videos.zero_frames(path)
    elif kind == "folder":
        path.mkdir(exist_ok=True)
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "no such file"),
        ("folder", "no such file"),
        ("empty", "is empty"),
        ("text", "no readable video"),
        ("playlist", "a playlist"),
        ("truncated", "no readable video"),
        ("header", "no picture can be decoded"),
        ("half_header", "no video stream"),
        ("audio", "no video stream"),
        ("zero_frames", "no picture can be decoded"),
    ],
)
def test_unreadable_files(folder: Path, coded: Path, kind: str, words: str) -> None:
    path = unreadable(folder, coded, kind)
    for read in (probe, lambda path: read_frames(path, [0.0])):
        with pytest.raises(VideoError, match=words) as raised:
            read(path)
        assert str(path) in str(raised.value)
        assert str(raised.value).endswith(".")


def test_damaged_packets_show_the_picture_before(coded: Path, folder: Path) -> None:
    path = videos.damaged(coded, folder / "damaged.mp4", 0.4, 0.5)
    with FrameReader(path) as reader:
        with pytest.warns(UserWarning, match=r"damaged.mp4: \d+ of 100 frames .* cannot be decoded"):
            codes = videos.read_codes(reader.at(range(100)))
        assert len(codes) == 100
        assert codes[:20] == list(range(20))
        assert codes[-10:] == list(range(90, 100))  # from the next key frame on
        assert all(shown <= number for number, shown in enumerate(codes))
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # said once
            assert videos.read_codes(torch.cat([frames for frames, _ in reader.chunks(chunk=9)])) == codes
            backwards = [videos.read_code(reader.at([k])[0].permute(1, 2, 0).numpy()) for k in (99, 3, 50)]
            assert backwards == [codes[k] for k in (99, 3, 50)]


def test_cut_files_give_what_is_there(coded: Path, folder: Path) -> None:
    whole = videos.coded_video(folder / "whole.mkv", 100)
    with pytest.warns(UserWarning, match="4.0 s are announced, but the pictures end at"):
        reader = FrameReader(videos.cut(whole, folder / "cut.mkv", 0.6))
    assert 20 < reader.info.num_frames < 80
    assert videos.read_codes(reader.at(range(reader.info.num_frames))) == list(range(reader.info.num_frames))
    reader.close()
    fast = videos.coded_video(folder / "fast.mp4", 100, container_options={"movflags": "faststart"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with FrameReader(videos.cut(fast, folder / "cut.mp4", 0.6)) as reader:
            assert videos.read_codes(reader.at([0, 3, 5])) == [0, 3, 5]


@pytest.mark.parametrize(
    ("box", "offset", "value"),
    [
        (b"mvhd", 16, 0x7FFFFFFF),  # a film of 24 days
        (b"mdhd", 16, 0x7FFFFFFF),
        (b"mdhd", 12, 0),  # no time unit
        (b"stts", 12, 0),  # all pictures at once: no frame rate
        (b"stts", 12, 0x7FFFFFF),  # one picture in an hour
        (b"stts", 8, 3),
    ],
)
def test_lying_headers(coded: Path, folder: Path, box: bytes, offset: int, value: int) -> None:
    path = videos.patched(coded, folder / "lying.mp4", box, offset, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        info = probe(path)
        assert 1 <= info.num_frames <= 100
        assert 0 < info.fps < math.inf
        assert 0 < info.duration_s < math.inf
        with FrameReader(path) as reader:
            assert len(reader.at([0, info.num_frames // 2, info.num_frames - 1])) == 3
            assert videos.read_codes(reader.at([0])) == [0]
            assert len(next(reader.chunks(fps=1, chunk=4))[0]) >= 1


def test_one_frame(folder: Path) -> None:
    path = videos.coded_video(folder / "one.mp4", 1)
    info = probe(path)
    assert (info.num_frames, info.fps, info.duration_s) == (1, 25, 0.04)
    assert videos.read_codes(read_frames(path, [0, 5])) == [0, 0]
    assert len(list(FrameReader(path).chunks(fps=1))) == 1


def test_clip_cut_without_encoding(coded: Path, folder: Path) -> None:
    path = videos.cut_without_encoding(coded, folder / "clip.mp4", 1.0)
    with FrameReader(path) as reader:
        assert videos.read_codes(reader.at([0, 10, 74])) == [25, 35, 99]
        assert reader.info.num_frames == 75


def test_shared_videos(shared_videos: Path) -> None:
    files = sorted(path for path in shared_videos.iterdir() if path.is_file())
    assert files
    for path in files:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with FrameReader(path) as reader:
                info = reader.info
                numbers = [0, info.num_frames // 2, info.num_frames - 1]
                frames = reader.at(numbers)
                assert frames.shape == (3, 3, info.height, info.width), path
                assert torch.equal(reader.at(numbers[1:2])[0], frames[1]), path
                assert reader.at(numbers, size=(96, 96)).shape == (3, 3, 96, 96), path
                assert torch.equal(reader.at_times(reader.times_s[numbers]), frames), path
                if "corrupt" in path.name:
                    reader.at(range(info.num_frames), size=(24, 32))
        messages = [str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)]
        assert bool(messages) == ("corrupt" in path.name), messages


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_read_the_same(coded: Path, start: str) -> None:
    seconds = [k / 25 for k in (0, 99, 50, 3, 77, 12)]
    expected = read_frames(coded, seconds)  # decord has been used in this process before the fork
    loader = DataLoader(
        seconds,  # type: ignore[arg-type]
        batch_size=2,
        num_workers=2,
        collate_fn=functools.partial(read_frames, coded),
        multiprocessing_context=start,
        timeout=60,
    )
    assert torch.equal(torch.cat(list(loader)), expected)


def test_reader_of_another_process_is_refused(coded: Path) -> None:
    with FrameReader(coded) as reader:
        reader.at([0])
        reader._process -= 1
        with pytest.raises(VideoError, match="another process"):
            reader.at([0])
        reader._process += 1
    with pytest.raises(VideoError, match="closed"):
        reader.at([0])
    reader.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_child_refuses_and_lives(coded: Path) -> None:
    code = (
        "import os, sys, warnings; warnings.simplefilter('ignore')\n"
        "from groundzoo.datamodules import video as v\n"
        f"reader = v.FrameReader({str(coded)!r}); reader.at([0, 50])\n"
        "if os.fork() == 0:\n"
        "    try:\n        reader.at([1])\n"
        "    except v.VideoError as error:\n        assert 'another process' in str(error)\n"
        "        del reader\n        os._exit(7)\n"
        "assert os.waitstatus_to_exitcode(os.wait()[1]) == 7\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_time_out(coded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    reader = FrameReader(coded, timeout_s=0.1)
    monkeypatch.setattr(reader, "_read", lambda *_: release.wait(30))
    began = time.monotonic()
    with pytest.raises(VideoError, match=r"within 0\.1 s"):
        reader.at([0])
    assert time.monotonic() - began < 5
    release.set()
    with pytest.raises(VideoError, match="no more use"):
        reader.at([0])


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts /proc/self/fd")
def test_no_file_stays_open(coded: Path, folder: Path) -> None:
    broken = videos.damaged(coded, folder / "leaky.mp4", 0.4, 0.5)
    text = folder / "leaky_text.mp4"
    text.write_text("words")

    def use(count: int) -> tuple[int, int]:
        for k in range(count):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read_frames(broken if k % 5 == 0 else coded, [k % 4, 0.1], size=(24, 32))
            if k % 5 == 1:
                with pytest.raises(VideoError):
                    probe(text)
        gc.collect()
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    assert use(10) == use(300)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc/self/statm")
def test_memory_is_flat(folder: Path) -> None:
    path = videos.coded_video(folder / "large.mp4", 60, size=(240, 320))

    def resident_mb() -> float:
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def use(count: int) -> float:
        for _ in range(count):
            with FrameReader(path) as reader:  # 14 MB of pictures
                for frames, _ in reader.chunks(chunk=16):
                    assert len(frames) <= 16
        return resident_mb()

    before = use(15)
    assert use(40) - before < 40


def test_import_is_light() -> None:
    code = (
        "import sys; import groundzoo.datamodules.video; "
        "assert not {'decord', 'av', 'PIL', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/")


@pytest.mark.parametrize("size", [(48, 64), (51, 67), (17, 33)])
@pytest.mark.parametrize("fps", [25, 30000 / 1001, 2])
def test_write_video(tmp_path: Path, size: tuple[int, int], fps: float) -> None:
    path = tmp_path / "new folder" / "a:b é.mp4"
    frames = [videos.coded_frame(k, *size) for k in range(20)]
    write_video(path, iter(frames), fps)
    info = probe(path)
    assert (info.num_frames, info.fps) == (20, pytest.approx(fps, rel=1e-4))
    assert (info.height, info.width) == (size[0] + size[0] % 2, size[1] + size[1] % 2)
    assert videos.read_codes(read_frames(path, [k / fps for k in range(20)])) == list(range(20))
    assert list(path.parent.iterdir()) == [path]


def test_write_video_is_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "kept.mp4"
    path.write_bytes(b"old")

    def failing():
        yield videos.coded_frame(0)
        raise RuntimeError("no more")

    grey = np.zeros((4, 4), dtype=np.uint8)
    for frames, error, words in [
        (failing(), RuntimeError, "no more"),
        ([], VideoError, "no frames"),
        ([grey], ValueError, "uint8"),
        ([videos.coded_frame(0), videos.coded_frame(0, 32, 32)], ValueError, "uint8"),
        ([videos.coded_frame(0) / 255.0], ValueError, "uint8"),
    ]:
        with pytest.raises(error, match=words):
            write_video(path, frames, 25)
    with pytest.raises(ValueError, match="fps"):
        write_video(path, [videos.coded_frame(0)], 0)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_thumbnails(coded: Path) -> None:
    pictures = thumbnails(coded, 4, height=36)
    assert [time_s for time_s, _ in pictures] == [0.5, 1.5, 2.5, 3.5]
    assert [videos.read_code(picture) for _, picture in pictures] == [12, 37, 62, 87]
    assert all(picture.shape == (36, 48, 3) and picture.dtype == np.uint8 for _, picture in pictures)


@pytest.mark.parametrize(("size", "width"), [((240, 320), 320), ((48, 64), 64), ((600, 1000), 854)])
def test_mark_moments(tmp_path: Path, size: tuple[int, int], width: int) -> None:
    source = tmp_path / "plain.mp4"
    write_video(source, (np.full((*size, 3), 90, np.uint8) for _ in range(50)), 25)
    target = tmp_path / "marked.mp4"
    mark_moments(
        source, target, [(0.5, 1.0, "person opens the door 0.91"), (1.5, 9, "überlanges " * 40 + "w" * 300)]
    )
    old, new = probe(source), probe(target)
    assert (new.num_frames, new.fps, new.duration_s) == (old.num_frames, pytest.approx(25), old.duration_s)
    assert new.width == width
    before, first, between, second = read_frames(target, [0.1, 0.7, 1.2, 1.8]).int()
    edge = slice(0, 2)  # left border, at half the height
    middle = new.height // 2
    for frame, colour in [(first, (230, 159, 0)), (second, (86, 180, 233))]:
        assert (frame[:, middle, edge].float().mean(1) - torch.tensor(colour)).abs().max() < 40
    for frame in (before, between):
        assert (frame[:, middle, edge] - 90).abs().max() < 25
    label = (slice(None), slice(new.height // 20, new.height // 6), slice(new.width // 20, new.width // 2))
    assert first[label].max() > 200  # white letters
    assert before[label].max() < 120
    bar = first[:, round(old.height * width / old.width) + 4]  # (3, W): a row of the timeline's first lane
    assert (bar[:, int(0.3 * width)].float() - torch.tensor((230, 159, 0))).abs().max() < 60
    assert bar[:, int(0.1 * width)].max() < 80
    assert bar[:, int(0.7 / 2 * width) - 1 : int(0.7 / 2 * width) + 2].max() > 200  # the playhead


def test_mark_moments_of_uneven_video(folder: Path, tmp_path: Path) -> None:
    source = videos.coded_video(folder / "unequal_again.mkv", 40, times_s=unequal_times(40))
    mark_moments(source, tmp_path / "out.mp4", [(1, 1, "instant"), (0, 2, "")])
    assert probe(tmp_path / "out.mp4").duration_s == pytest.approx(probe(source).duration_s, abs=0.01)
    for wrong in [(2, 1, "x"), (math.nan, 1, "x"), (0, math.inf, "x")]:
        with pytest.raises(ValueError, match="finite start"):
            mark_moments(source, tmp_path / "no.mp4", [wrong])
    assert not (tmp_path / "no.mp4").exists()
