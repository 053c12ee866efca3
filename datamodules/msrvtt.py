"""MSR-VTT (Xu et al., CVPR 2016)."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from .annotations import AnnotationError, check_video_id, read_json
from .captions import CaptionDataModule, Split, words_of
from .segments import Caption, Segment

NAMES = {"train": "train", "val": "validate", "test": "test"}


class MSRVTT(CaptionDataModule):
    """MSR-VTT: 10-30 s clips with 20 captions each; 6513 / 497 / 2990 clips, a clip is one segment.

    Reads the official ``train_val_videodatainfo.json`` and ``test_videodatainfo.json`` (or ``.json.gz``). Words
    are lower-cased Treebank tokens. There are no boxes: `groundzoo annotate propagate` finds some with a detector.

    Args:
        root: folder of the JSON files.
        kwargs: see `CaptionDataModule`.
    """

    def __init__(self, root: str | Path, **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        self._read: dict[str, list[Segment]] = {}

    def read(self, split: Split) -> list[Segment]:
        """See `CaptionDataModule.read`; captions are in the order of the file, empty ones are left out."""
        if split not in self._read:
            name = "test" if split == "test" else "train_val"
            self._read |= read_clips(self.root / f"{name}_videodatainfo.json")
        return self._read[split]


def read_clips(path: Path) -> dict[str, list[Segment]]:
    """Clips of every split of one official file.

    Raises:
        AnnotationError: a key is missing, or a clip has no caption; names it.
    """
    stored = read_json(path)
    captions: dict[str, list[Caption]] = defaultdict(list)
    clips: dict[str, list[Segment]] = {
        split: [] for split in (["test"] if "test" in path.name else ["train", "val"])
    }
    try:
        for sentence in stored["sentences"]:
            text = str(sentence["caption"]).strip()
            tokens = words_of(text)
            if tokens:
                captions[sentence["video_id"]].append(Caption(text, tokens))
        for clip in stored["videos"]:
            video = check_video_id(clip["video_id"], str(path))
            split = next((s for s, name in NAMES.items() if name == clip["split"]), None)
            if split not in clips or video not in captions:
                raise AnnotationError(f"{path}, video {video}: no caption, or an unknown split {clip['split']!r}")
            clips[split].append(Segment(f"{video}#0", video, 0.0, None, tuple(captions[video])))
    except (KeyError, TypeError) as error:
        raise AnnotationError(f"{path}: expected `videos` and `sentences` ({error!r})") from error
    return clips
