"""Steps from captions of frames to annotations: a sentence per clip, its phrases in frames, and their tracks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ..zoo.chat import Chat, ChatModel, Message
from ..zoo.text.grounded_text import GroundedText
from ..zoo.text.triples import Triple, triples
from .annotation_clips import Clip
from .annotation_prompts import (
    NONE,
    caption_again,
    caption_chat,
    caption_from,
    category_again,
    category_chat,
    category_from,
    read_caption,
    read_category,
)
from .annotation_steps import Part, Step
from .annotation_store import AnnotationStore, Record

Notes = Literal["triples", "captions"]
Source = Literal["first", "second", "fallback"]
T = TypeVar("T")
Inputs = dict[str, Record]  # records of one step by clip


def ask(
    model: ChatModel,
    chats: Sequence[Chat],
    readers: Sequence[Callable[[str], T | None]],
    again: Callable[[Chat, str], list[Message]],
) -> list[tuple[T | None, Source]]:
    """Ask; and once more, more strictly, where the answer cannot be read.

    Args:
        model: is asked.
        chats: the questions.
        readers: per question, what makes sense of the answer; None where it cannot.
        again: the second question, from the first and its answer.

    Returns:
        Per question what was read, and from which answer; None and `fallback` where neither could be read.
    """
    answers = model.answer(chats) if chats else []
    found: list[tuple[T | None, Source]] = [
        (read(answer), "first") for read, answer in zip(readers, answers, strict=True)
    ]
    lost = [k for k, (value, _) in enumerate(found) if value is None]
    seconds = model.answer([again(chats[k], answers[k]) for k in lost]) if lost else []
    for k, answer in zip(lost, seconds, strict=True):
        value = readers[k](answer)
        found[k] = value, "fallback" if value is None else "second"
    return found


class _PartRecords(IterableDataset[tuple[Part, list[Inputs]]]):
    """Parts of shards with the records of the steps before; a worker takes every n-th shard."""

    def __init__(self, parts: Sequence[Part], stores: Sequence[AnnotationStore]) -> None:
        self.shards = [(shard, list(own)) for shard, own in groupby(parts, lambda part: part.shard)]
        self.stores = stores

    def __iter__(self) -> Iterator[tuple[Part, list[Inputs]]]:
        worker = get_worker_info()
        number, count = (worker.id, worker.num_workers) if worker else (0, 1)
        for shard, parts in self.shards[number::count]:
            found = [store.read(shard) for store in self.stores]
            for part in parts:
                yield part, [{clip.key: records[clip.key] for clip in part.clips} for records in found]


class TextStep(Step):
    """A step that reads the records of steps before.

    Args:
        inputs: their stores.
        options: see `Step`.
    """

    def __init__(self, inputs: Sequence[AnnotationStore], **options: Any) -> None:
        super().__init__(**options)
        self.inputs = inputs

    def available(self, shard: int) -> set[str]:
        """See `Step.available`."""
        return set.intersection(*(set(store.read(shard)) for store in self.inputs))

    def loader(self, parts: Sequence[Part]) -> Any:
        """See `Step.loader`."""
        data = _PartRecords(parts, self.inputs)
        workers = min(self.num_workers, len(data.shards))
        generator = torch.Generator()  # a run's random numbers do not depend on what is done already
        return DataLoader(data, batch_size=None, num_workers=workers, generator=generator)

    def predict_step(self, batch: Any, batch_idx: int) -> None:
        """Make and write the records of a part."""
        part, inputs = batch
        self.keep(part.shard, *self.make(part.clips, *inputs))

    @abstractmethod
    def make(self, clips: Sequence[Clip], *inputs: Inputs) -> tuple[list[Record], dict[str, str]]:
        """The records of some clips, and why others have none; `inputs` in the order of the stores."""


class CaptionClips(TextStep):
    """One sentence about each clip, from the captions of its frames.

    A record has `caption`, `spans`, and `source`: the answer that it was read from, or `fallback`, see
    `caption_from`.

    Args:
        chat: writes it.
        notes: what it gets to know of each frame.
        frames_told: most frames that it gets to know of, evenly spread.
        options: see `TextStep`.
    """

    def __init__(self, chat: ChatModel, notes: Notes, frames_told: int, **options: Any) -> None:
        super().__init__(title="caption clips", **options)
        self.chat, self.notes, self.frames_told = chat, notes, frames_told

    def make(self, clips: Sequence[Clip], *inputs: Inputs) -> tuple[list[Record], dict[str, str]]:
        """See `TextStep.make`."""
        (frames,) = inputs
        told: list[tuple[Clip, list[list[Triple]], Chat]] = []
        failed = {}
        for clip in clips:
            texts = [frame["caption"] for frame in frames[clip.key]["frames"] if frame["caption"]]
            if len(texts) > self.frames_told:
                texts = [texts[k] for k in np.linspace(0, len(texts) - 1, self.frames_told).round().astype(int)]
            facts = [triples(text) for text in texts]
            if any(facts):
                told.append((clip, facts, caption_chat(facts if self.notes == "triples" else texts)))
            else:
                failed[clip.key] = "nothing is said of its frames"
        answers = ask(self.chat, [chat for *_, chat in told], [read_caption] * len(told), caption_again)
        records = []
        for (clip, facts, _), (answer, source) in zip(told, answers, strict=True):
            caption = caption_from(facts) if answer is None else answer
            if caption is None:
                failed[clip.key] = "no sentence can be made of the captions of its frames"
                continue
            record = {"video_id": clip.video_id, "clip_id": clip.clip_id, "caption": caption.text}
            records.append(record | {"spans": [list(span) for span in caption.spans], "source": source})
        return records, failed


class ClassifyPhrases(TextStep):
    """Which phrase of a clip's sentence each phrase of its frames means.

    A record has `classes`: per phrase of a frame the phrase of the sentence, or None; and `sources`: how many of
    them were read from the `first` answer, from the `second`, or are a `fallback`, see `category_from`.

    Args:
        chat: knows it.
        options: see `TextStep`.
    """

    def __init__(self, chat: ChatModel, **options: Any) -> None:
        super().__init__(title="classify phrases", **options)
        self.chat = chat

    def make(self, clips: Sequence[Clip], *inputs: Inputs) -> tuple[list[Record], dict[str, str]]:
        """See `TextStep.make`."""
        frames, captions = inputs
        asked: list[tuple[str, str, list[str]]] = []
        for clip in clips:
            categories = text_of(captions[clip.key]).phrases
            seen = dict.fromkeys(p for frame in frames[clip.key]["frames"] for p in frame_phrases(frame))
            asked += [(clip.key, phrase, categories) for phrase in seen]
        chats = [category_chat(phrase, categories) for _, phrase, categories in asked]
        readers = [_Category(categories) for *_, categories in asked]
        answers = ask(self.chat, chats, readers, category_again)
        classes: dict[str, dict[str, str | None]] = {clip.key: {} for clip in clips}
        sources = {clip.key: {"first": 0, "second": 0, "fallback": 0} for clip in clips}
        for (key, phrase, categories), (answer, source) in zip(asked, answers, strict=True):
            category = category_from(phrase, categories) if answer is None else answer
            classes[key][phrase] = None if category == NONE else category
            sources[key][source] += 1
        return [
            {"video_id": c.video_id, "clip_id": c.clip_id, "classes": classes[c.key], "sources": sources[c.key]}
            for c in clips
        ], {}


class _Category:
    """Reads answers about one phrase."""

    def __init__(self, categories: Sequence[str]) -> None:
        self.categories = categories

    def __call__(self, answer: str) -> str | None:
        return read_category(answer, self.categories)


class JoinTracks(TextStep):
    """The annotation of each clip, with the keys of HowToGround1M.

    Boxes of one phrase in a frame are joined to the least box around them. Phrases of the sentence that no frame
    shows lose their tags, and clips without any other are left out.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(title="join tracks", **options)

    def make(self, clips: Sequence[Clip], *inputs: Inputs) -> tuple[list[Record], dict[str, str]]:
        """See `TextStep.make`."""
        made = {clip.key: annotation(*(records[clip.key] for records in inputs)) for clip in clips}
        failed = {key: "no phrase of its sentence has a box" for key, record in made.items() if record is None}
        return [record for record in made.values() if record is not None], failed


def annotation(frames: Record, caption: Record, classified: Record) -> Record | None:
    """The record of a clip as HowToGround1M has it, from those of the steps; None without any box.

    `bboxes` and `labels` have an entry per annotated frame, ordered by the phrases of the sentence; boxes are x1,
    y1, x2, y2 in pixels of the file.
    """
    text, classes = text_of(caption), classified["classes"]
    boxes, labels = [], []
    for frame in frames["frames"]:
        joined: dict[str, list[float]] = {}
        for phrase, own in zip(frame_phrases(frame), frame["boxes"], strict=True):
            name = classes[phrase]
            if name is not None:
                every = np.array([*own, *([joined[name]] if name in joined else [])])
                joined[name] = [*every[:, :2].min(0).tolist(), *every[:, 2:].max(0).tolist()]
        shown = [phrase for phrase in text.phrases if phrase in joined]
        labels.append(shown)
        boxes.append([joined[phrase] for phrase in shown])
    seen = {phrase for shown in labels for phrase in shown}
    if not seen:
        return None
    spans = [span for span, phrase in zip(text.spans, text.phrases, strict=True) if phrase in seen]
    facts = {key: value for key, value in frames.items() if key != "frames"}
    return facts | {
        "caption": text.text,
        "tagged_caption": _tagged(GroundedText(text.text, tuple(spans))),
        "phrases": [text.text[start:end] for start, end in spans],
        "bboxes": boxes,
        "labels": labels,
    }


def text_of(record: Record) -> GroundedText:
    """The caption of a record."""
    return GroundedText(record["caption"], tuple((start, end) for start, end in record["spans"]))


def frame_phrases(frame: Record) -> list[str]:
    """The phrases of a frame's caption, in lower case."""
    return [phrase.lower() for phrase in text_of(frame).phrases]


def _tagged(caption: GroundedText) -> str:
    text, end = "", 0
    for start, stop in caption.spans:
        text += f"{caption.text[end:start]}<p>{caption.text[start:stop]}</p>"
        end = stop
    return text + caption.text[end:]
