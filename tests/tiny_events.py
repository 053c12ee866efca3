"""A tiny dense captioner, and videos with events for it, without files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from groundzoo.tasks.dense_captioning import DenseCaptioning, EncoderOptions
from groundzoo.zoo.batch import EventBatch
from groundzoo.zoo.event_captioner import CaptionerOptions
from groundzoo.zoo.proposals import ProposalOptions
from groundzoo.zoo.video.precomputed import Precomputed

D = 6
CLIPS = (7, 4, 6)  # of each video
DURATIONS = (21.0, 10.0, 30.0)
EVENTS: tuple[tuple[tuple[float, float], ...], ...] = (
    ((0.0, 6.5), (5.0, 12.0), (15.0, 21.0)),
    ((1.0, 8.0),),
    ((2.0, 9.0), (9.0, 29.0)),
)
TEXTS = (
    ("the red ball jumps", "a man runs", "two dogs run over the hill"),
    ("a red dog jumps over the man",),
    ("the man runs", "dogs jump"),
)
SENTENCES = [[text.split() for text in video] for video in TEXTS]
WORDS = ["<end>", *dict.fromkeys(word for video in SENTENCES for words in video for word in words), "UNK"]
NAMES = ("v_a", "v_b", "v_c")


def dense_task(vocabulary: Sequence[str] | None = WORDS, dropout: float = 0.0, **options: Any) -> DenseCaptioning:
    """The same weights in every process; words far from equally likely."""
    torch.manual_seed(0)
    given: dict[str, Any] = {
        "encoder": EncoderOptions(dim=8, heads=2, dropout=dropout),
        "captioner": CaptionerOptions(dim=7, word_dim=5, attention_dim=4, dropout=dropout),
        "proposals": ProposalOptions(dim=6, levels=2, max_events=4),
        "min_count": 1,
        "max_length": 9,
    }
    task = DenseCaptioning(Precomputed(D, window=4, stride=4), **(given | options))
    if vocabulary is not None:
        task.set_vocabulary(vocabulary)
        torch.nn.init.normal_(task.network.captioner.head.weight, std=1.0)
    return task


def event_batch(rows: Sequence[int] = (0, 1, 2), events: bool = True, more: int = 0) -> EventBatch:
    """Some of the three videos.

    Args:
        rows: which.
        events: there are events to tell.
        more: columns of padding beyond what is needed, for clips and events alike.
    """
    random = torch.Generator().manual_seed(1)
    features = [torch.randn(n, D, generator=random) for n in CLIPS]
    clips, clip_mask = padded([features[r] for r in rows], more)
    truth, truth_mask = padded([torch.tensor(EVENTS[r]) for r in rows], more)
    nothing = torch.zeros(len(rows), 0, 2), torch.zeros(len(rows), 0, dtype=torch.bool)
    told, told_mask = (truth, truth_mask) if events else nothing
    return EventBatch(
        clips=clips,
        clip_mask=clip_mask,
        durations_s=torch.tensor([DURATIONS[r] for r in rows]),
        events_s=told,
        event_mask=told_mask,
        sentences=[SENTENCES[r] if events else [] for r in rows],
        truth_s=truth,
        truth_mask=truth_mask,
        video_ids=[NAMES[r] for r in rows],
        index=torch.tensor(rows),
    )


def padded(rows: Sequence[Tensor], more: int) -> tuple[Tensor, Tensor]:
    """Rows side by side with zeros behind, and where they are."""
    longest = max(map(len, rows)) + more
    table = torch.zeros(len(rows), longest, *rows[0].shape[1:])
    mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    for k, row in enumerate(rows):
        table[k, : len(row)], mask[k, : len(row)] = row, True
    return table, mask


class StubReward:
    """Rewards by a function of the words (up to their end) and the reference, and remembers what was asked."""

    def __init__(self, value: Callable[[tuple[int, ...], tuple[str, ...]], float]) -> None:
        self.value = value
        self.asked: list[list[tuple[tuple[int, ...], tuple[str, ...]]]] = []
        self.closed = False

    def score(
        self, sentences: Sequence[Sequence[int]], references: Sequence[Sequence[Sequence[str]]]
    ) -> list[float]:
        assert not self.closed
        pairs = []
        for ids, (reference,) in zip(sentences, references, strict=True):
            words = tuple(ids)
            pairs.append((words[: words.index(0)] if 0 in words else words, tuple(reference)))
        self.asked.append(pairs)
        return [self.value(*pair) for pair in pairs]

    def close(self) -> None:
        self.closed = True


def some_reward(words: tuple[int, ...], reference: tuple[str, ...]) -> float:
    """A number that depends on every word, its place and the reference."""
    return sum((k + 1) * word % 7 for k, word in enumerate(words)) / 5 + len(reference) * len(words) / 9


class Events(L.LightningDataModule):
    """The same three videos again and again, annotated as ActivityNet Captions is.

    Args:
        batches: of an epoch.
        events: evaluation batches hold events to tell.
        texts: what the vocabulary is made of; None: the sentences.
    """

    def __init__(
        self, batches: int = 1, events: bool = True, texts: Sequence[Sequence[str]] | None = None
    ) -> None:
        super().__init__()
        self.batches, self.gives_events, self.texts = batches, events, texts

    def vocabulary_texts(self) -> Iterator[Sequence[str]]:
        return iter(self.texts) if self.texts is not None else self.training_sentences()

    def training_sentences(self) -> Iterator[Sequence[str]]:
        return (words for video in SENTENCES for words in video)

    def dense_references(self, split: str) -> list[dict[str, Any]]:
        entries = zip(NAMES, DURATIONS, EVENTS, TEXTS, strict=True)
        return [
            {v: {"duration": d, "timestamps": list(map(list, e)), "sentences": list(t)} for v, d, e, t in entries}
        ]

    def train_dataloader(self) -> DataLoader[EventBatch]:
        return DataLoader([event_batch()] * self.batches, batch_size=None)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[EventBatch]:
        batches = [event_batch(rows, self.gives_events) for rows in ((0, 1), (2,))]
        return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]

    test_dataloader = predict_dataloader = val_dataloader


def trainer(**options: Any) -> L.Trainer:
    """Quiet, on the CPU."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return L.Trainer(accelerator="cpu", devices=1, enable_model_summary=False, **(quiet | options))
