"""Which videos a folder or a list names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from groundzoo.datamodules.video import VideoError
from groundzoo.datamodules.video_files import VIDEO_SUFFIXES, find_videos


def test_files_of_one_name_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.mp4", "a.avi", "b.mp4"):
        (tmp_path / name).touch()
    with caplog.at_level("WARNING", logger="groundzoo"):
        assert find_videos(tmp_path) == {"a": tmp_path / "a.mp4", "b": tmp_path / "b.mp4"}
    (told,) = [record.message for record in caplog.records]
    assert "a.avi is left out: a.mp4 has the same name" in told


def test_folder(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.avi", "b.MKV", "c.txt", ".d.mp4.part", "e f.webm", "ü.mov", "x.y.mp4"):
        (tmp_path / name).touch()
    found = find_videos(tmp_path)
    assert found == {n: tmp_path / f for n, f in (
        ("a", "a.mp4"), ("b", "b.MKV"), ("e f", "e f.webm"), ("ü", "ü.mov"), ("x.y", "x.y.mp4"),
    )}  # fmt: skip
    assert find_videos(str(tmp_path)) == found


def test_of_equal_names_the_first_suffix_wins(tmp_path: Path) -> None:
    for suffix in VIDEO_SUFFIXES:
        (tmp_path / f"a{suffix}").touch()
    for suffix in VIDEO_SUFFIXES:
        assert find_videos(tmp_path) == {"a": tmp_path / f"a{suffix}"}
        (tmp_path / f"a{suffix}").unlink()
    assert find_videos(tmp_path) == {}


def test_one_video(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    assert find_videos(tmp_path / "a.mp4") == {"a": tmp_path / "a.mp4"}


@pytest.mark.parametrize(
    "text", ["x/a.mp4\n/data/b.mkv\n", "\ufeffx/a.mp4\r\n\r\n  /data/b.mkv  \r\n", "x/a.mp4\n/data/b.mkv"]
)
def test_list_of_paths(tmp_path: Path, text: str) -> None:
    (tmp_path / "list.txt").write_bytes(text.encode())
    assert find_videos(tmp_path / "list.txt") == {"a": tmp_path / "x/a.mp4", "b": Path("/data/b.mkv")}


@pytest.mark.parametrize(
    ("name", "text", "ids"),
    [
        ("v.csv", "path\nx/a.mp4\nx/b.mp4\n", ["a", "b"]),
        ("v.csv", "id,path\n1,x/a.mp4\n2,x/b.mp4\n", ["1", "2"]),
        ("v.csv", "id, path\n1, x/a.mp4\n,x/b.mp4\n", ["1", "b"]),
        ("v.CSV", '\ufeffpath,id,length\n"x/a.mp4","a, b",1\n\nx/b.mp4,ü/ö,2\n', ["a, b", "ü/ö"]),
    ],
)
def test_csv(tmp_path: Path, name: str, text: str, ids: list[str]) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert find_videos(tmp_path / name) == dict(
        zip(ids, (tmp_path / "x/a.mp4", tmp_path / "x/b.mp4"), strict=True)
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("v.csv", b"video,id\na.mp4,1\n", r"v\.csv:1: a csv needs a column `path`, this has \['video', 'id'\]"),
        ("v.csv", b"", r"v\.csv:1: a csv needs a column `path`"),
        ("v.csv", b"id,path\n1,a.mp4\n2\n", r"v\.csv:3: no path"),
        ("v.csv", b"id,path\n1,a.mp4\n2,\n", r"v\.csv:3: no path"),
        ("v.csv", b"id,path\n1,a.mp4\n1,b.mp4\n", r"v\.csv:3: a second '1'; give a csv with a column `id`"),
        ("v.txt", b"x/a.mp4\n\ny/a.mkv\n", r"v\.txt:3: a second 'a'"),
        ("v.3gp", b"\x00\x00\x00\x18ftyp\xff\xfe\xd0", r"v\.3gp: neither a video \(\.mp4, .*\) nor a list"),
    ],
)
def test_lists_that_cannot_be_read(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(VideoError, match=message):
        find_videos(tmp_path / name)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="nowhere: no such folder or list"):
        find_videos(tmp_path / "nowhere")


def test_a_name_that_no_store_can_hold(tmp_path: Path) -> None:
    try:
        Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9.mp4")).touch()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(VideoError, match=r"the name 'caf\\udce9\.mp4' is not UTF-8; rename"):
        find_videos(tmp_path)
