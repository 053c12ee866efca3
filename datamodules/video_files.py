"""Which videos there are: folders and lists."""

from __future__ import annotations

import csv
from pathlib import Path

from .packets import VideoError

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv", ".ts")


def find_videos(source: str | Path) -> dict[str, Path]:
    """Video files by id.

    Args:
        source: a folder (ids are names without extension; of equal names the first suffix above wins); a text
            file with one path per line; or a ``.csv`` with a column `path` and optionally `id`. Paths in a
            file are relative to it.

    Raises:
        VideoError: there is no such folder or file, or it names two files alike; says which.
    """
    source = Path(source)
    if source.is_file():
        return _listed_videos(source)
    if not source.is_dir():
        raise VideoError(f"videos {source}: no such folder or list")
    found = [f for f in sorted(source.iterdir()) if f.suffix.lower() in VIDEO_SUFFIXES]
    found.sort(key=lambda f: VIDEO_SUFFIXES.index(f.suffix.lower()), reverse=True)
    return {f.stem: f for f in found}


def _listed_videos(source: Path) -> dict[str, Path]:
    if source.suffix.lower() in VIDEO_SUFFIXES:
        return {source.stem: source}
    text = source.read_text(encoding="utf-8-sig")
    rows: list[tuple[int, str, str]] = []
    if source.suffix == ".csv":
        table = csv.DictReader(text.splitlines())
        if "path" not in (table.fieldnames or []):
            raise VideoError(f"videos {source}:1: a csv needs a column `path`, this has {table.fieldnames}")
        rows = [(table.line_num, row["path"], row.get("id") or Path(row["path"]).stem) for row in table]
    else:
        lines = enumerate(text.splitlines(), start=1)
        rows = [(n, line.strip(), Path(line.strip()).stem) for n, line in lines if line.strip()]
    videos: dict[str, Path] = {}
    for number, path, video_id in rows:
        if video_id in videos:
            raise VideoError(f"videos {source}:{number}: a second '{video_id}'; give a csv with a column `id`")
        videos[video_id] = source.parent / path
    return videos
