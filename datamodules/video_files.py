"""Which videos there are: folders and lists."""

from __future__ import annotations

import csv
import logging
from pathlib import Path

from .packets import VideoError

log = logging.getLogger(__name__)
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
    for file in found:
        if not _is_text(file.stem):  # a store's header is UTF-8
            raise VideoError(f"videos {source}: the name {file.name!r} is not UTF-8; rename the file")
    videos = {f.stem: f for f in found}
    for file in found:
        if videos[file.stem] != file:
            log.warning(
                "%s is left out: %s has the same name; list both in a csv with a column `id`",
                file,
                videos[file.stem].name,
            )
    return videos


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _listed_videos(source: Path) -> dict[str, Path]:
    if source.suffix.lower() in VIDEO_SUFFIXES:
        return {source.stem: source}
    try:
        text = source.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise VideoError(
            f"videos {source}: neither a video ({', '.join(VIDEO_SUFFIXES)}) nor a list in UTF-8"
        ) from error
    rows: list[tuple[int, str, str]] = []
    if source.suffix.lower() == ".csv":
        table = csv.DictReader(text.splitlines(), skipinitialspace=True)
        if "path" not in (table.fieldnames or []):
            raise VideoError(f"videos {source}:1: a csv needs a column `path`, this has {table.fieldnames}")
        for row in table:
            if not row["path"]:
                raise VideoError(f"videos {source}:{table.line_num}: no path in this line")
            rows.append((table.line_num, row["path"], row.get("id") or Path(row["path"]).stem))
    else:
        lines = enumerate(text.splitlines(), start=1)
        rows = [(n, line.strip(), Path(line.strip()).stem) for n, line in lines if line.strip()]
    videos: dict[str, Path] = {}
    for number, path, video_id in rows:
        if video_id in videos:
            raise VideoError(f"videos {source}:{number}: a second '{video_id}'; give a csv with a column `id`")
        videos[video_id] = source.parent / path
    return videos
