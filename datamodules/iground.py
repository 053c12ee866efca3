"""iGround (Kazakos et al., ICCV 2025, arXiv:2503.10781): clips of HowTo100M, captioned and grounded by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .annotations import AnnotationError
from .grounded_clips import GroundedClipDataModule, Split
from .grounded_index import ClipIndex, index_clips
from .grounded_records import GroundedClip, parse_record, read_records


class IGround(GroundedClipDataModule):
    """iGround: 3513 clips of about 8 s with a sentence each, 2013 / 500 / 1000 for training, validation, test.

    Reads files with the official records, one per line (``.jsonl``) or by clip (``.json``), possibly with ``.gz``;
    the published pickles are converted once with ``python -m groundzoo.datamodules.grounded_records convert``.
    The `raw` ones are right for all splits: scores are of all boxes of a phrase, and training merges them (which
    makes what is published as `processed`).

    Args:
        root: folder of the files.
        train: file in `root`.
        val: file in `root`.
        test: file in `root`.
        kwargs: see `GroundedClipDataModule`.
    """

    def __init__(
        self,
        root: str | Path,
        train: str = "train.jsonl",
        val: str = "val.jsonl",
        test: str = "test.jsonl",
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        self.annotations: dict[Split, Path] = {
            "train": self.root / train,
            "val": self.root / val,
            "test": self.root / test,
        }

    def clips(self, split: Split) -> ClipIndex:
        """See `GroundedClipDataModule.clips`."""
        files = [self.annotations[split]]
        return index_clips(files, self.cache, lambda: read_clips(files))


def read_clips(files: Sequence[Path]) -> Iterator[GroundedClip | AnnotationError]:
    """Clips of files with official records; an error in place of each record that cannot be used.

    Raises:
        AnnotationError: a file is missing, cut short or of another kind.
    """
    for path in files:
        for where, record in read_records(path):
            try:
                yield record if isinstance(record, AnnotationError) else parse_record(record, where)
            except AnnotationError as error:
                yield error
