"""HowToGround1M (Kazakos et al., ICCV 2025, arXiv:2503.10781): clips of HowTo100M, annotated by models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .annotations import AnnotationError
from .grounded_clips import GroundedClipDataModule, Split
from .grounded_index import ClipIndex, index_clips
from .iground import read_clips


class HowToGround1M(GroundedClipDataModule):
    """HowToGround1M: 1 million clips of HowTo100M with sentences and boxes made by models; for pre-training.

    The files, with a record per line, are read once and indexed on disk: memory does not grow with them. Clips
    whose video is not there are counted. `groundzoo annotate grounded-captions` writes the same format.

    Args:
        root: folder of the files.
        train: pattern of the files in `root` that are trained on, such as ``part-*.jsonl.gz``.
        val: pattern of those of the validation split; None: there is none.
        test: pattern of those of the test split; None: there is none.
        kwargs: see `GroundedClipDataModule`.
    """

    def __init__(
        self,
        root: str | Path,
        train: str = "*.jsonl*",
        val: str | None = None,
        test: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        self.patterns: dict[Split, str | None] = {"train": train, "val": val, "test": test}

    @property
    def validates(self) -> bool:
        """Whether there is a validation split."""
        return self.patterns["val"] is not None

    def clips(self, split: Split) -> ClipIndex | None:
        """See `GroundedClipDataModule.clips`."""
        pattern = self.patterns[split]
        if pattern is None:
            return None
        files = sorted(path for path in self.root.glob(pattern) if path.is_file())
        if not files:
            raise AnnotationError(f"{self.root}: no file {pattern}; see the data set's page in the docs")
        return index_clips(files, self.cache, lambda: read_clips(files))
