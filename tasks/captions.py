"""Tasks that answer with sentences whose words point at the video: what they share from grids to records."""

from __future__ import annotations

import dataclasses
import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torchmetrics import MetricCollection

from ..zoo.attended_boxes import attended_boxes
from ..zoo.batch import CaptionBatch
from ..zoo.decoding import Sentences
from ..zoo.text.lemmas import lemma
from ..zoo.video.base import VideoEncoder, pool_cells
from .base import Prediction, Task
from .grounded_caption import GroundedCaption, GroundedPhrase
from .metrics.caption_scorers import Score
from .metrics.captions import CaptionScores
from .metrics.dense_captions import DenseCaptionScores
from .metrics.entity_grounding import EntityGrounding, official_submission
from .metrics.records import Record
from .schedules import Stage

log = logging.getLogger(__name__)
BOX_WIDTH = 720  # of a frame, in the coordinates of ActivityNet-Entities


class Places(NamedTuple):
    """Where a model looked at each of N words, in F frames.

    Attributes:
        boxes: ``(N, F, 4)`` x1, y1, x2, y2 as shares of width and height.
        shares: ``(N, F)`` attention per frame, sums to 1.
    """

    boxes: Tensor
    shares: Tensor


class Answers(NamedTuple):
    """What a model says about V segments, and where it looked.

    Attributes:
        sentences: V lists of words.
        scores: V log-probabilities per word.
        said: places of the words of each sentence; None where nobody asked.
        given: places of the words of each of the B captions that were given; None where nobody asked.
    """

    sentences: list[list[str]]
    scores: list[float]
    said: list[Places] | None
    given: list[Places] | None


def places_of(attention: Tensor, grid: Sequence[int], lengths: Sequence[int]) -> list[Places]:
    """Boxes and shares from attention logits.

    Args:
        attention: ``(B, N, G)`` before the softmax, G = F h w.
        grid: F, h, w.
        lengths: words of each row, at most N.
    """
    maps = attention.float().softmax(-1).unflatten(-1, tuple(grid))
    boxes, shares = attended_boxes(maps).cpu(), maps.sum((-2, -1)).cpu()
    return [Places(boxes[b, :n], shares[b, :n]) for b, n in enumerate(lengths)]


def sentence_of(words: Sequence[str]) -> str:
    """Words as one text."""
    return " ".join(words)


class CaptionTask(Task):
    """A task that looks at grids of sampled frames and says one sentence; its `step` returns `Answers`.

    Args:
        video_encoder: gives a grid for every frame; words are located on it.
        motion_encoder: a second grid, or None.
        frames: F, sampled in the middle of F equal parts of a segment.
        max_cells: grids larger than this in a direction are averaged down to it.
        max_length: most words of a sentence.
        stages: see `Task`.

    Raises:
        ValueError: an encoder has no grid.
    """

    monitor = "val/CIDEr"
    motion_encoder: VideoEncoder | None

    def __init__(
        self,
        video_encoder: VideoEncoder,
        motion_encoder: VideoEncoder | None,
        frames: int,
        max_cells: int,
        max_length: int,
        stages: Sequence[Stage],
    ) -> None:
        super().__init__(stages, {"video_encoder": video_encoder, "motion_encoder": motion_encoder})
        if min(frames, max_cells, max_length) < 1:
            raise ValueError(
                f"frames={frames}, max_cells={max_cells}, max_length={max_length}: each is at least 1"
            )
        for name in self.encoders:
            self.require_grid(name)
        self.frames, self.max_cells, self.max_length = frames, max_cells, max_length

    @property
    def streams(self) -> list[VideoEncoder]:
        """The encoders of the grids: visual, then motion where there is one."""
        return [getattr(self, name) for name in self.encoders]

    @abstractmethod
    def describe(
        self,
        grids: Sequence[Tensor],
        beam_size: int = 1,
        length_penalty: float = 0.0,
        temperature: float | None = None,
    ) -> Answers:
        """Say a sentence about each of V segments, and where the model looked; arguments as for `caption`."""

    # ---- grids ------------------------------------------------------------------------------------------

    def prepare(self, batch: CaptionBatch) -> CaptionBatch:
        """Encode raw frames, and average grids down to `max_cells`."""
        given = [batch.visual] if batch.motion is None else [batch.visual, batch.motion]
        grids = [self._grid(encoder, x) for encoder, x in zip(self.streams, given, strict=True)]
        return dataclasses.replace(batch, visual=grids[0], motion=grids[1] if len(grids) > 1 else None)

    def _grid(self, encoder: VideoEncoder, given: Tensor) -> Tensor:
        if given.ndim == 6:  # (V, P, L, 3, H, W)
            cells = encoder(given.flatten(0, 1)).grid
            assert cells is not None
            given = cells.unflatten(0, given.shape[:2]).flatten(1, 2)[:, : self.frames]
        return pool_cells(given, self.max_cells)

    @staticmethod
    def grids(batch: CaptionBatch) -> list[Tensor]:
        """The grids ``(V, F, h, w, C)`` of a prepared batch."""
        return [batch.visual] if batch.motion is None else [batch.visual, batch.motion]

    # ---- metrics ----------------------------------------------------------------------------------------

    def metric(self, stage: Literal["val", "test"]) -> MetricCollection:
        """CIDEr and BLEU while training; in `test` all caption metrics, and the protocols of the data set."""
        if stage == "val":
            return MetricCollection({"captions": CaptionScores(("CIDEr", "BLEU"))}, compute_groups=False)
        every: tuple[Score, ...] = ("BLEU", "METEOR", "ROUGE_L", "CIDEr", "SPICE")
        metrics: dict[str, Any] = {"captions": CaptionScores(every, tokenizer="ptb")}
        data = self.datamodule
        split = getattr(data, "test_split", stage)
        references = data.dense_references(split) if hasattr(data, "dense_references") else None
        if references:
            metrics["dense"] = DenseCaptionScores(references, scores=every, tokenizer="ptb")
        entities = data.entity_reference(split) if hasattr(data, "entity_reference") else None
        if entities is not None:
            metrics["grounding"] = EntityGrounding(*entities)
        return MetricCollection(metrics, compute_groups=False)

    def update_metric(self, metric: MetricCollection, outputs: Answers, batch: CaptionBatch) -> None:
        """Hand each metric the records that it asks for."""
        index = batch.index.tolist()
        for name, one in metric.items(keep_base=True):
            one.update(index, self._records(name, outputs, batch))

    def _records(self, kind: str, outputs: Answers, batch: CaptionBatch) -> list[Record]:
        texts = [sentence_of(words) for words in outputs.sentences]
        if kind == "captions":
            return [
                {"id": name, "caption": text, "references": references}
                for name, text, references in zip(batch.segment_ids, texts, batch.references, strict=True)
            ]
        if kind == "dense":
            return [
                {"video": video, "start_s": start, "end_s": end, "caption": text}
                for video, (start, end), text in zip(batch.video_ids, batch.spans_s.tolist(), texts, strict=True)
            ]
        return [self._grounding_record(v, outputs, batch) for v in range(len(texts))]

    def _grounding_record(self, v: int, outputs: Answers, batch: CaptionBatch) -> Record:
        """Boxes of the words that the data set calls visible, and of the classes that the model said."""
        width, height = batch.sizes[v].tolist()
        record: Record = {"video": batch.video_ids[v], "segment": batch.segment_ids[v].partition("#")[2]}
        record |= {"gt": None, "generated": None}
        if width != width or outputs.said is None or outputs.given is None:  # boxes cannot be told without a size
            return record
        scale = torch.tensor([BOX_WIDTH, BOX_WIDTH * height / width] * 2)
        b = batch.segment_index.tolist().index(v)
        places = outputs.given[b]
        words = sorted({i for i, _ in batch.entities[b] if i < len(places.boxes)})
        record["gt"] = {
            "idx_in_sent": words,
            "bbox_for_all_frames": [(places.boxes[i] * scale).round(decimals=1).tolist() for i in words],
        }
        said = [(i, lemma(word)) for i, word in enumerate(outputs.sentences[v])]
        named = [(i, name) for i, name in said if name in self.classes]
        record["generated"] = {
            "clss": [name for _, name in named],
            "idx_in_sent": [i for i, _ in named],
            "bbox_for_all_frames": [
                (outputs.said[v].boxes[i] * scale).round(decimals=1).tolist() for i, _ in named
            ],
        }
        return record

    @property
    def classes(self) -> set[str]:
        """Object classes of the data set's grounding protocol."""
        found: set[str] = getattr(self.datamodule, "classes", set())
        return found

    # ---- predictions ------------------------------------------------------------------------------------

    def predictions(self, outputs: Answers, batch: CaptionBatch) -> list[Prediction]:
        """One record per segment: ids, seconds, sentence and references; boxes of its words in pixels."""
        records = []
        for v, words in enumerate(outputs.sentences):
            size, (start, end) = batch.sizes[v].tolist(), batch.spans_s[v].tolist()
            record: Prediction = {
                "index": int(batch.index[v]),
                "query_id": batch.segment_ids[v],
                "video": batch.video_ids[v],
                "start_s": round(start, 3),
                "end_s": None if end != end else round(end, 3),
                "caption": sentence_of(words),
                "score": round(outputs.scores[v], 4),
                "references": batch.references[v],
            }
            if outputs.said is not None and size[0] == size[0]:
                record["phrases"] = [p._asdict() for p in _grounded(words, outputs.said[v], size)]
            if self.classes:
                record["grounding"] = self._grounding_record(v, outputs, batch)
            records.append(record)
        return records

    def submissions(self, records: Sequence[Prediction]) -> Mapping[str, Any]:
        """Files in the official submission formats, by name: dense captions, and boxes of both grounding modes."""
        results: dict[str, list[dict[str, Any]]] = {}
        for r in records:
            results.setdefault(r["video"], []).append(
                {"sentence": r["caption"], "timestamp": [r["start_s"], r["end_s"]]}
            )
        used = {"used": False, "details": ""}
        files: dict[str, Any] = {
            "submission_dense.json": {"version": "VERSION 1.0", "results": results, "external_data": used}
        }
        grounded = [r["grounding"] for r in records if "grounding" in r]
        if grounded:
            files["submission_grounding_gt.json"] = official_submission(grounded, "GT")
            files["submission_grounding_gen.json"] = official_submission(grounded, "gen")
        return files

    # ---- from a user's own video ------------------------------------------------------------------------

    @torch.inference_mode()
    def caption(
        self,
        video: str | Path,
        beam_size: int = 1,
        start_s: float | None = None,
        end_s: float | None = None,
        length_penalty: float = 0.0,
        temperature: float | None = None,
    ) -> GroundedCaption:
        """Describe one video file, or a stretch of it, with one sentence.

        Args:
            video: a file of any length.
            beam_size: sentences that the search keeps; 1 takes the most probable word at every step.
            start_s: start of the stretch; None is the start of the video.
            end_s: its end; None is the end of the video.
            length_penalty: see `zoo.decoding.beam_search`.
            temperature: words are drawn at random from the distribution of logits over this; None draws nothing.

        Raises:
            VideoError: the file cannot be read.
            ValueError: the stretch is empty or outside of the video, or the search cannot be made.
        """
        if self.sample_reader is None:
            raise RuntimeError("this task cannot read video files: open it with groundzoo.load(checkpoint)")
        if beam_size < 1:
            raise ValueError(f"beam_size={beam_size}: at least one sentence is kept")
        if temperature is not None and (beam_size > 1 or not temperature > 0):
            raise ValueError(f"temperature={temperature}, beam_size={beam_size}: one beam, heat above 0")
        was_training = self.training
        self.eval()
        specs = [encoder.spec for encoder in self.streams]
        samples = self.sample_reader(Path(video), specs, self.frames, start_s or 0.0, end_s)
        grids = [
            self._grid(encoder, passes[None].to(self.device))
            for encoder, passes in zip(self.streams, samples.passes, strict=True)
        ]
        answers = self.describe(grids, beam_size, length_penalty, temperature)
        self.train(was_training)
        assert answers.said is not None
        (words,) = answers.sentences
        return GroundedCaption(
            text=sentence_of(words),
            score=answers.scores[0],
            phrases=_grounded(words, answers.said[0], samples.size),
            times_s=[round(t, 3) for t in samples.times_s],
            size=samples.size,
            measure="attention",
        )


def scores_of(said: Sentences) -> list[float]:
    """Log-probability per word of each sentence, the end counted as one."""
    return (said.log_prob / (said.lengths + 1)).tolist()


def _grounded(words: Sequence[str], places: Places, size: Sequence[float]) -> list[GroundedPhrase]:
    """Every word of a sentence as a phrase of its own."""
    ends = [end - 1 for end in accumulate(len(word) + 1 for word in words)]
    boxes = (places.boxes * torch.tensor([*size, *size])).tolist()
    return [
        GroundedPhrase(
            text=word,
            start=end - len(word),
            end=end,
            boxes=[[round(x, 1) for x in box] for box in boxes[i]],
            scores=[round(share, 4) for share in shares],
        )
        for i, (word, end, shares) in enumerate(zip(words, ends, places.shares.tolist(), strict=True))
    ]
