"""Reading sound: where it is in time, silence where there is none, in pieces of bounded size."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import videos
from sounds import tone, video_with_sound

from groundzoo.datamodules.sound import read_sound
from groundzoo.datamodules.video import VideoError

RATE = 16000


def heard(path: Path, seconds: float, rate: int = RATE, chunk_s: float = 30.0) -> torch.Tensor:
    pieces = list(read_sound(path, rate, seconds, chunk_s))
    assert all(0 < len(piece) <= chunk_s * rate for piece in pieces)
    assert all(piece.dtype == torch.int16 for piece in pieces)
    return torch.cat(pieces)


def expected(seconds: float, pieces: Sequence[tuple[float, np.ndarray]], rate: int = RATE) -> torch.Tensor:
    """The sound of a file without loss, cut and filled up to `seconds`."""
    whole = np.zeros(round(seconds * rate), dtype=np.int16)
    for start_s, samples in pieces:
        first = round(start_s * rate)
        part = (samples * 32767).round().astype(np.int16)[max(0, -first) :]
        first = max(0, first)
        whole[first : first + len(part)] = part[: max(0, len(whole) - first)]
    return torch.from_numpy(whole)


SECOND = tone(1.0, RATE)
CASES = {
    "whole": ([(0.0, tone(2.0, RATE))], 0.0),
    "sets in late": ([(0.52, SECOND)], 0.0),
    "ends early": ([(0.0, tone(0.3, RATE))], 0.0),
    "goes on after the pictures": ([(0.0, tone(4.0, RATE))], 0.0),
    "begins before the pictures": ([(0.0, tone(2.0, RATE))], 0.6),
    "both begin late": ([(0.8, SECOND)], 0.4),
    "has a gap": ([(0.0, tone(0.5, RATE)), (1.2, tone(0.4, RATE))], 0.0),
    "begins before the pictures, has a gap there": ([(0.0, tone(0.2, RATE)), (0.5, SECOND)], 0.8),
    "ends before the pictures begin": ([(0.0, tone(0.2, RATE))], 0.4),
    "only after the pictures": ([(2.5, SECOND)], 0.0),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("chunk_s", [30.0, 0.1])
def test_sound_is_where_the_file_has_it(tmp_path: Path, name: str, chunk_s: float) -> None:
    pieces, video_start_s = CASES[name]
    path = video_with_sound(tmp_path / "a.mkv", 2.0, pieces, RATE, video_start_s=video_start_s)
    moved = [(start_s - video_start_s, samples) for start_s, samples in pieces]
    got = heard(path, 2.0, chunk_s=chunk_s)
    assert len(got) == 2 * RATE
    assert torch.equal(got, expected(2.0, moved))


def test_no_sound_track_is_silence(tmp_path: Path) -> None:
    path = videos.coded_video(tmp_path / "a.mp4", 50)
    assert torch.equal(heard(path, 2.0), torch.zeros(2 * RATE, dtype=torch.int16))


def test_of_several_tracks_the_first_is_heard(tmp_path: Path) -> None:
    path = video_with_sound(tmp_path / "a.mkv", 1.0, [(0.0, SECOND)], RATE, tracks=2)
    assert torch.equal(heard(path, 1.0), expected(1.0, [(0.0, SECOND)]))


def test_channels_are_mixed_down(tmp_path: Path) -> None:
    one = np.stack([SECOND, np.zeros_like(SECOND)], axis=1)
    against = np.stack([SECOND, -SECOND], axis=1)
    half = heard(video_with_sound(tmp_path / "a.mkv", 1.0, [(0.0, one)], RATE), 1.0)
    np.testing.assert_allclose(half, expected(1.0, [(0.0, SECOND / 2)]), atol=2)
    assert heard(video_with_sound(tmp_path / "b.mkv", 1.0, [(0.0, against)], RATE), 1.0).abs().max() <= 1


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_other_rates_keep_time_and_pitch(tmp_path: Path, rate: int) -> None:
    path = video_with_sound(tmp_path / "a.mkv", 2.0, [(0.5, tone(1.0, rate))], rate)
    got = heard(path, 2.0).double()
    edges = got.abs().gt(3000).nonzero().ravel()
    assert edges[0] / RATE == pytest.approx(0.5, abs=0.005)
    assert edges[-1] / RATE == pytest.approx(1.5, abs=0.005)
    spectrum = torch.fft.rfft(got[RATE * 6 // 10 : RATE * 14 // 10]).abs()
    assert spectrum.argmax() / 0.8 == pytest.approx(440, abs=2)


def test_lossy_sound_in_mp4(tmp_path: Path) -> None:
    path = video_with_sound(tmp_path / "a.mp4", 3.0, [(1.0, tone(1.0, 44100))], 44100, codec="aac")
    loud = heard(path, 3.0).abs().gt(3000).nonzero().ravel()
    assert loud[0] / RATE == pytest.approx(1.0, abs=0.03)
    assert loud[-1] / RATE == pytest.approx(2.0, abs=0.03)


def test_from_mono_to_stereo_in_the_middle(tmp_path: Path) -> None:
    """Transport streams do that where the programme changes."""
    both = np.stack([tone(1.0, 48000)] * 2, axis=1)
    files = [
        video_with_sound(tmp_path / "a.ts", 1.0, [(0.0, tone(1.0, 48000))], 48000, codec="mp2"),
        video_with_sound(tmp_path / "b.ts", 1.0, [(0.0, both)], 48000, codec="mp2", video_start_s=0.0),
    ]
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(f.read_bytes() for f in files))
    got = heard(joined, 2.0)
    assert len(got) == 2 * RATE
    assert got[RATE // 10 : RATE * 8 // 10].abs().max() > 10000


def test_a_damaged_stretch_does_not_silence_the_rest(tmp_path: Path) -> None:
    whole = video_with_sound(tmp_path / "a.mp4", 4.0, [(0.0, tone(4.0, RATE))], RATE, codec="aac")
    data = bytearray(whole.read_bytes())
    import av

    with av.open(str(whole)) as file:
        packets = [(p.pos, p.size) for p in file.demux(file.streams.audio[0]) if p.size]
    for position, size in packets[20:26]:
        data[position : position + size] = b"\xff" * size
    path = tmp_path / "b.mp4"
    path.write_bytes(bytes(data))
    got = heard(path, 4.0)
    assert got[2 * RATE :].abs().max() > 10000
    quiet = got.abs().gt(3000).nonzero().ravel()
    assert quiet[-1] / RATE == pytest.approx(4.0, abs=0.1), "what follows has moved"


def test_a_track_of_which_nothing_decodes_is_named(tmp_path: Path) -> None:
    whole = video_with_sound(tmp_path / "a.mp4", 1.0, [(0.0, SECOND)], RATE, codec="aac")
    data = bytearray(whole.read_bytes())
    import av

    with av.open(str(whole)) as file:
        packets = [(p.pos, p.size) for p in file.demux(file.streams.audio[0]) if p.size]
    for position, size in packets:
        data[position : position + size] = b"\xff" * size
    (tmp_path / "b.mp4").write_bytes(bytes(data))
    with pytest.raises(VideoError, match=r"b\.mp4: its sound cannot be decoded"):
        heard(tmp_path / "b.mp4", 1.0)
    with pytest.raises(VideoError, match=r"gone\.mp4"):
        heard(tmp_path / "gone.mp4", 1.0)


def test_memory_is_that_of_a_piece(tmp_path: Path) -> None:
    """Ten minutes of sound at 48 kHz, 58 MB: behind one second of pictures, then in full."""
    path = tmp_path / "a.mkv"
    video_with_sound(path, 1.0, [(0.0, np.zeros(48000 * 600, dtype=np.float16))], 48000)
    program = f"""
import resource
from pathlib import Path
from groundzoo.datamodules.sound import read_sound
path = Path({str(path)!r})
next(read_sound(path, 48000, 1.0))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(sum(map(len, read_sound(path, 48000, 1.0))), sum(map(len, read_sound(path, 48000, 600.0, 1.0))))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    counts, grown_mib = out.stdout.strip().splitlines()[-2:]
    assert counts == f"{48000} {48000 * 600}"
    assert float(grown_mib) < 30
