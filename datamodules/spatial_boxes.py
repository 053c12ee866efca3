"""Any data set of trimmed clips with boxes of one action each, such as V-HICO or Daly, as one JSON file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from .actions import ActionDataModule
from .annotations import AnnotationError, SplitReport, check_video_id, read_json
from .stretches import Mark, Stretch, action_text, box_within


class SpatialBoxes(ActionDataModule):
    """Clips of one action with boxes, in one documented JSON file; `spatial`.

    The file has the form ::

        {"videos": {"<id>": {"width": 640, "height": 360}},
         "clips": [{"video": "<id>", "start_s": 3.0, "end_s": 7.5, "action": "brush teeth",
                    "boxes": {"3": [x1, y1, x2, y2], "4.5": [...]}}]}

    Width and height are those of the picture whose pixels boxes are given in, stretched to the whole frame. A box
    stands at the second of the video it was drawn at, and holds for one second or until the next of the clip. The
    moments of a clip are `start_s` + k / fps before `end_s`.

    Args:
        root: folder of the file.
        annotations: its name.
        kwargs: see `ActionDataModule`.
    """

    protocols = ("spatial",)

    def __init__(self, root: str | Path, annotations: str = "spatial_boxes.json", **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        self.path = self.root / annotations

    def annotated(self) -> list[str]:
        """See `ActionDataModule.annotated`; the videos with clips."""
        return list(self._clips)

    def of_video(self, video_id: str, report: SplitReport) -> Iterator[Stretch]:
        """See `ActionDataModule.of_video`; boxes without area in the picture are dropped."""
        for k, (number, clip) in enumerate(self._clips[video_id]):
            where = f"{self.path}, clip {number} (video {video_id})"
            marks = []
            try:
                entry = self._file["videos"][video_id]
                size = (int(entry["width"]), int(entry["height"]))
                start, end, action = float(clip["start_s"]), float(clip["end_s"]), action_text(clip["action"])
                if not (0 <= start < end and action and min(size) > 0):
                    raise ValueError("expected 0 <= start_s < end_s, an action, and a picture with an area")
                for time_s, corners in sorted((float(t), box) for t, box in clip["boxes"].items()):
                    box = box_within(corners, size)
                    if box is None:
                        report.dropped["box without area in the picture"].append(f"{video_id}@{time_s:g}")
                    elif start - 1 < time_s < end:
                        marks.append(Mark(time_s, time_s + 1, 0, box))
                    else:
                        report.dropped["box outside of its clip"].append(f"{video_id}@{time_s:g}")
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise AnnotationError(f"{where}: {type(error).__name__}: {error}") from error
            yield Stretch(f"{video_id}#{k}", video_id, "spatial", (action,), tuple(marks), size, start, end)

    @cached_property
    def _file(self) -> dict[str, Any]:
        stored = read_json(self.path)
        if not isinstance(stored, dict) or not {"videos", "clips"} <= stored.keys():
            raise AnnotationError(f"{self.path}: expected `videos` and `clips`")
        return stored

    @cached_property
    def _clips(self) -> dict[str, list[tuple[int, dict[str, Any]]]]:
        """Clips with their number in the file, by video."""
        found: dict[str, list[tuple[int, dict[str, Any]]]] = defaultdict(list)
        for number, clip in enumerate(self._file["clips"]):
            if not isinstance(clip, dict) or clip.get("video") not in self._file["videos"]:
                raise AnnotationError(f"{self.path}, clip {number}: its `video` is not one of `videos`")
            found[check_video_id(clip["video"], str(self.path))].append((number, clip))
        return dict(found)
