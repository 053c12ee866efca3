"""MiningYouTube (Kuehne et al., Mining YouTube, ICCV workshops 2019, arXiv:1906.01012)."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath

from .actions import ActionDataModule
from .annotations import AnnotationError, SplitReport, check_video_id
from .stretches import Mark, Stretch, action_text

TIMES = re.compile(r"(\d+):(\d+):(\d+),(\d{3})\s*-->\s*(\d+):(\d+):(\d+),(\d{3})")
# how words of the subtitles are written in the dictionary of classes, where taking off an ending does not do
SPELLINGS = {"omellete": "omelette", "them": "it"}


def read_srt(text: str, where: str) -> list[tuple[float, float, str]]:
    """Start, end (seconds) and label of every entry of a subtitle file, as they stand there.

    Raises:
        AnnotationError: an entry is not a number, a line of times and a label; names it.
    """
    entries = []
    for block in re.split(r"\n\s*\n", text.replace("\r\n", "\n").strip()):
        lines = block.split("\n")
        times = TIMES.fullmatch(lines[1].strip()) if len(lines) == 3 else None
        if times is None or not lines[2].strip():
            raise AnnotationError(f"{where}: expected number, times and label, found {lines}")
        h1, m1, s1, ms1, h2, m2, s2, ms2 = map(int, times.groups())
        start, end = h1 * 3600 + m1 * 60 + s1 + ms1 / 1000, h2 * 3600 + m2 * 60 + s2 + ms2 / 1000
        entries.append((start, end, lines[2].strip()))
    return entries


def class_of(label: str, classes: Mapping[str, int]) -> str:
    """The class of the dictionary that a label belongs to; the label itself if there is none.

    Classes are verb_object in the dictionary's own singular (``add_asparagu``). Labels are inflected
    (``tilting_pan``, ``crack_eggs``) and may say more about the object (``add_seeds_cummin``,
    ``pour_egg_whites``), which the classes leave out.
    """
    name = label.strip().lower()
    verb, _, rest = name.partition("_")
    first = rest.partition("_")[0]
    first = SPELLINGS.get(first, first)
    verbs = dict.fromkeys((verb, verb.removesuffix("ing"), verb.removesuffix("ing") + "e"))
    objects = dict.fromkeys((first, *(first.removesuffix(ending) for ending in ("s", "es", "ing", "ings"))))
    candidates = (name, *(f"{v}_{o}" for v in verbs for o in objects))
    return next((candidate for candidate in candidates if candidate in classes), name)


class MiningYouTube(ActionDataModule):
    """MiningYouTube: 250 cooking videos, labelled densely with 512 classes, for alignment with a known order.

    Reads the official annotations, ``.srt`` files in ``annotations.tar.gz`` or in the folder ``annotations``, the
    dictionary ``weakYouTube_dict.txt`` and the lists ``videos_test.txt`` and ``videos_val.txt``. The protocol is
    `temporal`; what is not labelled is background, and background is part of the order.

    Args:
        root: folder of these files.
        kwargs: see `ActionDataModule`.
    """

    protocols = ("temporal",)

    def annotated(self) -> list[str]:
        """See `ActionDataModule.annotated`; by name."""
        return sorted(self._subtitles)

    def of_video(self, video_id: str, report: SplitReport) -> Iterator[Stretch]:
        """See `ActionDataModule.of_video`; entries without length are dropped."""
        segments = []
        for start, end, label in read_srt(self._subtitles[video_id], f"annotation of video {video_id}"):
            if end > start:
                segments.append((start, end, action_text(class_of(label, self.classes))))
            else:
                report.dropped["label of no length"].append(f"{video_id}@{start:g}")
        actions = tuple(dict.fromkeys(action for _, _, action in segments))
        marks = tuple(Mark(start, end, actions.index(action)) for start, end, action in sorted(segments))
        yield Stretch(video_id, video_id, "temporal", actions, marks, (1, 1))  # no boxes, so no size

    @cached_property
    def classes(self) -> dict[str, int]:
        """Names of the dictionary, with their numbers."""
        path = self.root / "weakYouTube_dict.txt"
        try:
            names = path.read_text(encoding="utf-8-sig").split()
        except (OSError, UnicodeDecodeError) as error:
            raise AnnotationError(f"{path}: the names of the classes cannot be read ({error})") from error
        return {name: k for k, name in enumerate(names)}

    @cached_property
    def _subtitles(self) -> dict[str, str]:
        """Subtitle files by video id."""
        folder, archive = self.root / "annotations", self.root / "annotations.tar.gz"
        try:
            if folder.is_dir():
                stored = {file.name: file.read_bytes() for file in folder.glob("*.srt")}
            elif archive.is_file():
                stored = dict(_members(archive))
            else:
                raise AnnotationError(
                    f"neither {archive} nor {folder} exists; see the data set's page in the docs"
                )
        except (OSError, EOFError, tarfile.TarError) as error:
            raise AnnotationError(f"{archive if not folder.is_dir() else folder}: {error}") from error
        if not stored:
            raise AnnotationError(f"{folder if folder.is_dir() else archive}: no .srt file in it")
        texts = {}
        for name, content in stored.items():
            video = check_video_id(name.removesuffix(".srt"), str(self.root))
            try:
                texts[video] = content.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                raise AnnotationError(f"annotation of video {video}: not UTF-8 ({error})") from error
        return texts


def _members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of every ``.srt`` file of an archive; nothing is unpacked to disk."""
    with tarfile.open(archive) as tar:
        for member in tar:
            name = PurePosixPath(member.name).name
            if member.isfile() and name.endswith(".srt") and not name.startswith("."):
                file = tar.extractfile(member)
                assert file is not None
                yield name, file.read()
