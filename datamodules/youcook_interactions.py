"""YouCook-Interactions (Tan et al., CoMMA, NeurIPS 2021, arXiv:2110.10596)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from .actions import ActionDataModule
from .annotations import AnnotationError, SplitReport, check_video_id, read_json
from .stretches import Box, Mark, Stretch, box_within

BOXES, SEGMENTS = "final_dataset_annotations", "final_dataset_segments"
SENTENCES = "youcookii_annotations_trainval.json"
CONVERT = (
    "import json, pickle; d = pickle.load(open({pickle!r}, 'rb'), encoding='latin1'); "
    "d = sorted(d) if isinstance(d, (set, list)) else {{v: {{int(s): list(map(float, b)) for s, b in f.items()}} "
    "for v, f in d.items()}}; json.dump(d, open({json!r}, 'w'))"
)


class YouCookInteractions(ActionDataModule):
    """YouCook-Interactions: 254 segments of YouCook2 with a sentence and boxes of hand and tool; `spatial`.

    Reads ``final_dataset_annotations.json`` (``{video: {second: [x1, y1, x2, y2]}}``, pixels of the original) and
    ``final_dataset_segments.json`` (``[[video, first second, last second], ...]``), which are the published
    pickles as JSON, and YouCook2's own ``youcookii_annotations_trainval.json`` for the sentences: that of the
    segment with the same start.

    Args:
        root: folder of the JSON files.
        sizes: JSON file ``{video: [width, height]}`` of the originals; None asks the video files.
        kwargs: see `ActionDataModule`.
    """

    protocols = ("spatial",)

    def __init__(self, root: str | Path, sizes: str | Path | None = None, **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        self.sizes = None if sizes is None else Path(sizes)

    def annotated(self) -> list[str]:
        """See `ActionDataModule.annotated`; the videos with segments."""
        return list(self._segments)

    def of_video(self, video_id: str, report: SplitReport) -> Iterator[Stretch]:
        """See `ActionDataModule.of_video`; segments without a sentence are dropped."""
        size = self._sizes.get(video_id)
        boxes = list(self._boxes(video_id, size, report))
        sentences = self._sentences(video_id)
        for k, (first, last) in enumerate(self._segments[video_id]):
            sample_id, sentence = f"{video_id}#{k}", sentences.get(first)
            marks = tuple(Mark(t, t + 1, 0, box) for t, box in boxes if first <= t <= last)
            if sentence is None:
                report.official += 1  # the others are counted by `read`
                report.dropped[f"no sentence in {SENTENCES} starts then"].append(sample_id)
                continue
            # the last second is part of it
            yield Stretch(sample_id, video_id, "spatial", (sentence,), marks, size, first, last + 1)

    # ---- files ------------------------------------------------------------------------------------------

    def _json(self, name: str) -> Any:
        """One of the two converted files; a pickle is refused, since loading it can run any program."""
        path, pickled = self.root / f"{name}.json", self.root / f"{name}.pkl"
        if pickled.exists() and not path.exists():
            command = CONVERT.format(pickle=str(pickled), json=str(path))
            raise AnnotationError(
                f"{pickled} is a pickle, which can run any program when it is loaded. If you trust its origin, "
                f'convert it once:\n  python -c "{command}"'
            )
        return read_json(path)

    @cached_property
    def _segments(self) -> dict[str, list[tuple[float, float]]]:
        path = self.root / f"{SEGMENTS}.json"
        found: dict[str, list[tuple[float, float]]] = {}
        try:
            for video, first, last in self._json(SEGMENTS):
                if not 0 <= float(first) <= float(last):
                    raise ValueError(f"segment {[video, first, last]}")
                found.setdefault(check_video_id(video, str(path)), []).append((float(first), float(last)))
        except (TypeError, ValueError) as error:
            raise AnnotationError(f"{path}: expected a list of [video, first, last second] ({error})") from error
        return {video: sorted(segments) for video, segments in sorted(found.items())}

    @cached_property
    def _box_file(self) -> dict[str, dict[str, Any]]:
        stored = self._json(BOXES)
        if not isinstance(stored, dict) or not all(isinstance(entry, dict) for entry in stored.values()):
            raise AnnotationError(f"{self.root / BOXES}.json: expected {{video: {{second: box}}}}")
        return stored

    def _boxes(self, video: str, size: tuple[int, int] | None, report: SplitReport) -> Iterator[tuple[float, Box]]:
        """Seconds and boxes, in the order of time."""
        for second, corners in sorted(self._box_file.get(video, {}).items(), key=lambda item: int(item[0])):
            try:
                box = box_within(corners, size)
            except (TypeError, ValueError) as error:
                where = f"{self.root / BOXES}.json, video {video}, second {second}"
                raise AnnotationError(f"{where}: {type(error).__name__}: {error}") from error
            if box is None:
                report.dropped["box without area"].append(f"{video}@{second}")
            else:
                yield float(second), box

    @cached_property
    def _youcook(self) -> dict[str, Any]:
        path = self.root / SENTENCES
        if not path.exists():
            raise AnnotationError(
                f"{path} does not exist: the sentences of YouCook-Interactions are YouCook2's; put the file "
                f"{SENTENCES} of the YouCook2 data set (youcook2.eecs.umich.edu) there"
            )
        stored = read_json(path)
        database = stored.get("database") if isinstance(stored, dict) else None
        if not isinstance(database, dict):
            raise AnnotationError(f"{path}: expected the videos under `database`")
        return database

    def _sentences(self, video: str) -> dict[float, str]:
        """Sentences of a video by the second they start at."""
        try:
            entries = self._youcook.get(video, {"annotations": []})["annotations"]
            return {float(entry["segment"][0]): str(entry["sentence"]).strip() for entry in entries}
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise AnnotationError(f"{self.root / SENTENCES}, video {video}: {error!r}") from error

    @cached_property
    def _sizes(self) -> dict[str, tuple[int, int]]:
        try:
            stored = {} if self.sizes is None else read_json(self.sizes)
            return {video: (int(width), int(height)) for video, (width, height) in stored.items()}
        except (AttributeError, TypeError, ValueError) as error:
            raise AnnotationError(f"{self.sizes}: expected {{video: [width, height]}} ({error})") from error
