"""ActivityNet Captions (Krishna et al., ICCV 2017) as a temporal grounding benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from .annotations import Query, read_moments_json
from .grounding import GroundingDataModule

Split = Literal["train", "val_1", "val_2"]


class ActivityNetCaptions(GroundingDataModule):
    """ActivityNet Captions: long sentences on open-domain videos; 37421 / 17505 / 17031 queries.

    Reads ``train.json``, ``val_1.json`` and ``val_2.json`` (``{video: {duration, timestamps, sentences}}``,
    seconds). The test split of the challenge is withheld, so papers report on `val_1` or on `val_2`.

    Args:
        root: folder of the JSON files.
        val_split: file that checkpoints are chosen on.
        test_split: file that is reported.
        kwargs: see `GroundingDataModule`.
    """

    def __init__(
        self, root: str | Path, val_split: Split = "val_1", test_split: Split = "val_2", **kwargs: Any
    ) -> None:
        super().__init__(root, **kwargs)
        self.files = {"train": "train", "val": val_split, "test": test_split}

    def read(self, split: Literal["train", "val", "test"]) -> list[Query]:
        """See `GroundingDataModule.read`."""
        return read_moments_json(self.root / f"{self.files[split]}.json")
