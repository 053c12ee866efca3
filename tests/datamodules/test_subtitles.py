"""Subtitle files: read back by a player's own parser, they say what was written, when it was meant."""

from __future__ import annotations

import random
import re
from pathlib import Path

import av
import pytest

from groundzoo.datamodules.subtitles import write_srt, write_vtt

Shown = list[tuple[int, int, str]]
WRITERS = {"srt": write_srt, "vtt": write_vtt}


def shown(path: Path) -> Shown:
    """Start, end in milliseconds and text of every cue, by FFmpeg."""
    with av.open(str(path)) as container:
        stream = container.streams.subtitles[0]
        return [
            (
                round(1000 * p.pts * p.time_base),
                round(1000 * (p.pts + p.duration) * p.time_base),
                bytes(p).decode(),
            )
            for p in container.demux(stream)
            if p.size and p.pts is not None and p.duration is not None and p.time_base is not None
        ]


@pytest.mark.parametrize("kind", WRITERS)
def test_a_player_reads_what_was_written(tmp_path: Path, kind: str) -> None:
    rng = random.Random(0)
    events = []
    for k in range(200):  # many overlap, some hours into the video
        start = rng.uniform(0, 3 * 3600)
        events.append((start, start + rng.uniform(0.5, 300), f"sentence {k} ends, 3:{k % 60:02d}"))
    path = tmp_path / f"a.{kind}"
    WRITERS[kind](path, iter(events))
    expected = [(round(1000 * s), round(1000 * e), text) for s, e, text in sorted(events)]
    assert shown(path) == expected


def test_time_stamps(tmp_path: Path) -> None:
    events = [(3661.5, 360000.25, "b"), (59.9996, 3599.9994, "a"), (3661.5, 3661.5, "c")]
    write_srt(tmp_path / "a.srt", events)
    assert (tmp_path / "a.srt").read_bytes().decode() == (
        "1\n00:01:00,000 --> 00:59:59,999\na\n\n"
        "2\n01:01:01,500 --> 100:00:00,250\nb\n\n"
        "3\n01:01:01,500 --> 01:01:01,501\nc\n"
    )
    write_vtt(tmp_path / "a.vtt", events[1:2])
    assert (tmp_path / "a.vtt").read_bytes().decode() == "WEBVTT\n\n1\n00:01:00.000 --> 00:59:59.999\na\n"


@pytest.mark.parametrize("kind", WRITERS)
def test_texts_cannot_break_the_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    texts = [
        "two\n\n3\r\nlines\u2028more",
        "00:00:01,000 --> 00:00:02,000",
        "--->-->",
        "a <b>bold</b> & café 走る",
        " \n ",
        "",
    ]
    WRITERS[kind](path, [(k, k + 1.0, text) for k, text in enumerate(texts)])
    written = path.read_text(encoding="utf-8")
    assert written.count("-->") == 4  # the time lines alone
    assert re.findall(r"(?m)^\d+$", written) == ["1", "2", "3", "4"]
    cues = shown(path)
    assert [start for start, *_ in cues] == [0, 1000, 2000, 3000]
    assert cues[0][2] == "two 3 lines more"
    assert "\n00:00:01,000 → 00:00:02,000\n" in written
    assert "\n-→→\n" in written
    assert cues[3][2] == (
        "a <b>bold</b> & café 走る" if kind == "srt" else "a &lt;b&gt;bold&lt;/b&gt; &amp; café 走る"
    )


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(
    ("start", "end"), [(-0.1, 2.0), (3.0, 2.0), (0.0, float("inf")), (float("nan"), 1.0), (0.0, float("nan"))]
)
def test_impossible_times_are_named_and_the_old_file_stays(
    tmp_path: Path, kind: str, start: float, end: float
) -> None:
    path = tmp_path / f"a.{kind}"
    WRITERS[kind](path, [(0, 1, "old")])
    old = path.read_text()
    with pytest.raises(ValueError, match=rf"a\.{kind}, event 1: from {start} s to {end} s"):
        WRITERS[kind](path, [(0, 1, "x"), (start, end, "y")])
    assert path.read_text() == old
    assert list(tmp_path.iterdir()) == [path]


def test_no_events(tmp_path: Path) -> None:
    write_srt(tmp_path / "a.srt", [])
    write_vtt(tmp_path / "a.vtt", [])
    assert (tmp_path / "a.srt").read_text() == ""
    assert (tmp_path / "a.vtt").read_text() == "WEBVTT\n"
