"""ActivityNet-Entities (Zhou et al., Grounded Video Description, CVPR 2019, arXiv:1812.06587)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

from .annotations import AnnotationError, check_video_id, read_json, read_moments_json
from .captions import CaptionDataModule, Split, words_of
from .segments import Caption, EntityBox, Segment

BOX_WIDTH = 720.0  # pixels of a frame, in the coordinates of the files
FRAMES = 10  # in which boxes were drawn
IDS = {"train": "training", "val": "validation", "test": "testing"}
FILE = "anet_entities_cleaned_class_thresh50_{}.json"


class ActivityNetEntities(CaptionDataModule):
    """ActivityNet-Entities: ActivityNet Captions with boxes of noun phrases; 37421 / 8774 / 8731 segments.

    Reads the official ``anet_entities_cleaned_class_thresh50_trainval.json`` (boxes of train and val),
    ``..._test_skeleton.json`` (words without boxes: those of the test split are withheld) and
    ``split_ids_anet_entities.json``; and, where they are there, ``val_1.json`` and ``val_2.json`` of ActivityNet
    Captions, the two reference files of the dense captioning protocol. Every box was drawn in one of 10 frames,
    the middles of 10 equal parts of the segment.

    Args:
        root: folder of the JSON files.
        captions: folder of ActivityNet Captions' files; `root` unless given.
        boxes: False reads segments and sentences from ActivityNet Captions alone (``train.json``, ``val_1.json``),
            for captioning without any grounding.
        kwargs: see `CaptionDataModule`.
    """

    def __init__(
        self, root: str | Path, captions: str | Path | None = None, boxes: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(root, **kwargs)
        self.captions = self.root if captions is None else Path(captions)
        self.boxes = boxes
        self._read: dict[str, list[Segment]] = {}

    @cached_property
    def classes(self) -> set[str]:
        """Object classes, where the annotation is read."""
        return set(self._annotation("test")["vocab"]) if self.boxes else set()

    def read(self, split: Split) -> list[Segment]:
        """See `CaptionDataModule.read`; segments without words are left out."""
        if split not in self._read:
            self._read[split] = list(self._segments(split))
        return self._read[split]

    def dense_references(self, split: Split) -> list[dict[str, Any]] | None:
        """``val_1.json`` and ``val_2.json``, restricted to the videos of the split."""
        paths = [self.captions / f"{name}.json" for name in ("val_1", "val_2")]
        if split == "train" or not all(path.exists() for path in paths):
            return None
        ids = set(self._ids(split))
        return [{k: v for k, v in read_json(path).items() if k in ids} for path in paths]

    def entity_reference(self, split: Split) -> tuple[dict[str, Any], list[str]] | None:
        """The official annotation, where it has boxes."""
        if not self.boxes:
            return None
        annotation, ids = self._annotation(split), self._ids(split)
        videos = (annotation["annotations"].get(video, {"segments": {}}) for video in ids)
        if not any(segment["process_bnd_box"] for video in videos for segment in video["segments"].values()):
            return None
        return annotation, ids

    # ---- files ------------------------------------------------------------------------------------------

    def _ids(self, split: Split) -> list[str]:
        path = self.root / "split_ids_anet_entities.json"
        stored = read_json(path)
        try:
            return [check_video_id(name, str(path)) for name in stored[IDS[split]]]
        except (KeyError, TypeError) as error:
            raise AnnotationError(f"{path}: expected a list under {IDS[split]!r} ({error!r})") from error

    def _annotation(self, split: Split) -> dict[str, Any]:
        path = self.root / FILE.format("test_skeleton" if split == "test" else "trainval")
        stored = read_json(path)
        if not isinstance(stored, dict) or not {"vocab", "annotations"} <= stored.keys():
            raise AnnotationError(f"{path}: expected `vocab` and `annotations`")
        return stored

    def _segments(self, split: Split) -> Iterator[Segment]:
        if not self.boxes:
            yield from self._from_captions(split)
            return
        path = self.root / FILE.format("test_skeleton" if split == "test" else "trainval")
        annotations: Mapping[str, Any] = self._annotation(split)["annotations"]
        for video in self._ids(split):
            for name, segment in (annotations.get(video) or {"segments": {}})["segments"].items():
                where = f"{path}, video {video}, segment {name}"
                try:
                    caption = read_caption(segment)
                    start, end = (float(t) for t in segment["timestamps"])
                except (KeyError, TypeError, ValueError, IndexError) as error:
                    raise AnnotationError(f"{where}: {type(error).__name__}: {error}") from error
                if caption.tokens:
                    yield Segment(f"{video}#{name}", video, start, end, (caption,))

    def _from_captions(self, split: Split) -> Iterator[Segment]:
        ids = set(self._ids(split))
        for query in read_moments_json(self.captions / ("train.json" if split == "train" else "val_1.json")):
            tokens = words_of(query.text)
            if query.video_id in ids and tokens:
                caption = Caption(query.text, tokens)
                yield Segment(query.query_id, query.video_id, query.start_s, query.end_s, (caption,))


def read_caption(segment: Mapping[str, Any]) -> Caption:
    """Words and boxes of one annotated segment.

    Empty tokens, which the files have, are removed, and the indices of the others move up.

    Raises:
        KeyError: a key is missing.
        ValueError: the lists of boxes, frames and words differ in length, or a value is out of range.
    """
    tokens = [str(token).strip() for token in segment["tokens"]]
    before = list(accumulate((bool(token) for token in tokens), initial=0))
    words: list[list[tuple[int, str]]] = []
    for group, names in zip(segment["process_idx"], segment["process_clss"], strict=True):
        pairs: list[tuple[int, str]] = []
        for index, name in zip(group, names, strict=True):
            if not 0 <= int(index) < len(tokens) or not tokens[int(index)]:
                raise ValueError(f"there is no word {index} in {tokens}")
            pairs.append((before[int(index)], str(name)))
        words.append(pairs)
    boxes = []
    if segment["process_bnd_box"]:
        crowds = segment.get("crowds") or [0] * len(words)
        parts = zip(words, segment["process_bnd_box"], segment["frame_ind"], crowds, strict=True)
        for pairs, corners, frame, crowd in parts:
            if not 0 <= int(frame) < FRAMES:
                raise ValueError(f"frame {frame} is not one of {FRAMES}")
            x1, y1, x2, y2 = (float(c) / BOX_WIDTH for c in corners)
            shown, classes = tuple(i for i, _ in pairs), tuple(name for _, name in pairs)
            boxes.append(EntityBox(shown, classes, int(frame), (x1, y1, x2, y2), bool(crowd)))
    kept = tuple(token for token in tokens if token)
    entities = tuple(sorted({pair for pairs in words for pair in pairs}))
    return Caption(" ".join(kept), kept, tuple(boxes), entities)
