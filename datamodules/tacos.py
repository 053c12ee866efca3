"""TACoS (Regneri et al., TACL 2013) as a temporal grounding benchmark."""

from __future__ import annotations

from typing import Literal

from .annotations import Query, read_moments_json
from .grounding import GroundingDataModule


class TACoS(GroundingDataModule):
    """TACoS: many sentences on few long cooking videos; 9790 / 4436 / 4001 queries (the 2D-TAN files).

    Reads ``train.json``, ``val.json`` and ``test.json``, whose times are frame numbers; they become seconds
    by each video's ``fps``. Keys such as ``s17-d69.avi`` name the video without its extension.
    """

    def read(self, split: Literal["train", "val", "test"]) -> list[Query]:
        """See `GroundingDataModule.read`."""
        return read_moments_json(self.root / f"{split}.json", frames=True)
