"""VidSTG (Zhang et al., Where Does It Exist, CVPR 2020, arXiv:2001.06891): where a sentence's object is, and when.

Read in the form of TubeDETR (Yang et al., CVPR 2022, arXiv:2203.16434).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..zoo.text.grounded_text import GroundedText
from .annotations import AnnotationError, check_video_id, read_json
from .grounded_clips import GroundedClipDataModule, Split
from .grounded_index import ClipIndex, index_clips
from .grounded_records import RATE, GroundedClip, file_stem


class VidSTG(GroundedClipDataModule):
    """VidSTG: sentences and questions about one object of a video, with its boxes.

    As in GROVE the time in which the sentence holds is given, and so is the sentence; its boxes are asked for, in
    about five frames per second of that time. The whole sentence is the phrase.

    Args:
        root: folder of the files, ``{"videos": [...], "trajectories": {...}}``.
        train: file in `root`.
        val: file in `root`.
        test: file in `root`.
        kwargs: see `GroundedClipDataModule`.
    """

    gives_captions = True
    protocol = "vidstg"
    groups = ("declarative", "interrogative")

    def __init__(
        self,
        root: str | Path,
        train: str = "train.json",
        val: str = "val.json",
        test: str = "test.json",
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
        path = self.annotations[split]
        return index_clips([path], self.cache, lambda: read_tubes(path))


def read_tubes(path: Path) -> Iterator[GroundedClip | AnnotationError]:
    """Clips of a file; an error in place of each entry that cannot be used.

    Raises:
        AnnotationError: the file is missing or has another structure.
    """
    stored = read_json(path)
    if not isinstance(stored, Mapping) or not {"videos", "trajectories"} <= stored.keys():
        raise AnnotationError(f"{path}: expected `videos` and `trajectories`")
    for k, entry in enumerate(stored["videos"]):
        try:
            yield parse_tube(entry, stored["trajectories"], f"{path}, videos[{k}]")
        except AnnotationError as error:
            yield error


def parse_tube(entry: Any, trajectories: Mapping[str, Any], where: str) -> GroundedClip:
    """Read one sentence and the boxes of its object, ``[x, y, w, h]`` by number of the frame.

    The frames are ``range(tube_start_frame, tube_end_frame - 1, int(fps / 5))``. A frame without a box, or with
    one that has no area, shows nothing.

    Raises:
        AnnotationError: a key is missing or its value is of no use; names place, video and key.
    """
    if not isinstance(entry, dict) or "video_id" not in entry:
        raise AnnotationError(f"{where}: expected an entry with `video_id`")
    where = f"{where}, video_id {entry['video_id']}"
    try:
        video_id = check_video_id(str(entry["original_video_id"]), where)
        video = check_video_id(file_stem(str(entry.get("video_path") or video_id)), where)
        fps, size = float(entry["fps"]), (float(entry["width"]), float(entry["height"]))
        sentence, kind = str(entry["caption"]).strip(), str(entry["qtype"])
        if kind not in VidSTG.groups or not sentence or not min(fps, *size) > 0:
            raise ValueError(
                f"qtype {kind!r}, caption {sentence!r}, fps {fps:g}, size {size}: expected {VidSTG.groups}, a "
                "sentence, and positive numbers"
            )
        frames = range(int(entry["tube_start_frame"]), int(entry["tube_end_frame"]) - 1, max(1, int(fps / RATE)))
        if not frames or frames[0] < 0:
            raise ValueError(f"there is no frame from {frames.start} to {frames.stop}")
        tube = trajectories[entry["original_video_id"]][str(entry["target_id"])]
        boxes = []
        for number in frames:
            x, y, width, height = tube.get(str(number), {"bbox": (0, 0, 0, 0)})["bbox"]
            box = [float(x), float(y), float(x) + float(width), float(y) + float(height)]
            boxes.append([(0, box)] if width > 0 and height > 0 else [])
    except KeyError as error:
        raise AnnotationError(f"{where}: there is no {error}") from error
    except (TypeError, ValueError, AttributeError) as error:
        if isinstance(error, AnnotationError):
            raise
        raise AnnotationError(f"{where}: {error}") from error
    caption = GroundedText(sentence, ((0, len(sentence)),))
    return GroundedClip(str(entry["video_id"]), video_id, video, fps, frames, size, caption, boxes, kind)
