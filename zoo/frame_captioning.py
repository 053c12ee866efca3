"""Grounded captions of single images: a sentence, its phrases, and the boxes of each phrase.

The frame level of the automatic annotation of Kazakos et al. (Large-scale Pre-training for Grounded Video Caption
Generation, ICCV 2025, section 3.1).

Differs from the paper: it takes GLaMM, whose masks become boxes. Here Florence-2 (Xiao et al., CVPR 2024,
arXiv:2311.06242), which captions an image and then finds the phrases of its caption, or any image captioner of
Transformers with a detector of this package.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from . import hub
from .detection import Detector
from .text.grounded_text import GroundedText
from .text.triples import noun_phrases

Box = tuple[float, float, float, float]
BINS = 1000  # in which Florence-2 counts places


class FrameCaption(NamedTuple):
    """A sentence about an image.

    Attributes:
        caption: the sentence and its phrases.
        boxes: per phrase, in order, its boxes: one or more, xyxy in pixels, inside the image and with an area.
    """

    caption: GroundedText
    boxes: tuple[tuple[Box, ...], ...]


class FrameCaptioner(nn.Module, ABC):
    """Base of all frame captioners; frozen."""

    @abstractmethod
    def describe(self, frames: Tensor, video_id: str, times_s: Sequence[float]) -> list[FrameCaption]:
        """Describe each frame by itself.

        Args:
            frames: ``(T, 3, H, W)`` uint8, RGB; as many as are wanted in one pass.
            video_id: whose they are; nothing for models, but for whoever knows the video's truth.
            times_s: T times in the video, seconds.

        Returns:
            T captions; an empty text where nothing is said.
        """

    def train(self, mode: bool = True) -> FrameCaptioner:
        """Always in evaluation mode."""
        return super().train(False)


def plain_text(answer: str) -> str:
    """An answer without special tokens and needless blanks."""
    return " ".join(re.sub(r"<[^<>]*>", " ", answer).split())


def ground(
    text: str, found: Iterable[tuple[str, Iterable[Sequence[float]]]], size: tuple[int, int]
) -> FrameCaption:
    """Put phrases with boxes into their sentence.

    Args:
        text: the sentence.
        found: phrases and their boxes, xyxy in pixels. A phrase is taken for its first place in the sentence that
            is still free, whatever its case; without one, or without a box of some area, it is left out.
        size: (width, height) of the image; boxes are cut to it.

    Returns:
        The caption, its phrases in the order of the sentence.
    """
    width, height = size
    placed: dict[tuple[int, int], tuple[Box, ...]] = {}
    lower = text.lower()
    for phrase, boxes in found:
        limits = (width, height, width, height)
        cut = [tuple(min(max(float(v), 0.0), end) for v, end in zip(b, limits, strict=True)) for b in boxes]
        kept = tuple((x1, y1, x2, y2) for x1, y1, x2, y2 in cut if x2 > x1 and y2 > y1)
        words = phrase.strip().lower()
        start = lower.find(words) if words and kept else -1
        while start >= 0 and any(start < end and begin < start + len(words) for begin, end in placed):
            start = lower.find(words, start + 1)
        if start >= 0:
            placed[start, start + len(words)] = kept
    spans = sorted(placed)
    return FrameCaption(GroundedText(text, tuple(spans)), tuple(placed[span] for span in spans))


class _ImageModel(FrameCaptioner):
    """A generating network of Transformers and its processor."""

    def __init__(
        self, weights: str | Path, kinds: Any, max_new_tokens: int, num_beams: int, download: bool
    ) -> None:
        super().__init__()
        import transformers

        settings = hub.read_config(weights, None, download)
        kind = kinds.get(type(settings), None)
        if kind is None:
            raise ValueError(
                f"'{weights}' is a model of type {settings.model_type}: not one for {type(self).__name__}"
            )
        self.network = hub.build(kind, settings, weights, download).eval().requires_grad_(False)
        try:
            self.processor: Any = transformers.AutoProcessor.from_pretrained(
                str(weights), local_files_only=not download
            )
        except OSError as error:
            raise ValueError(hub.absent(weights, "processor of")) from error
        self.generation = {"max_new_tokens": max_new_tokens, "num_beams": num_beams, "do_sample": False}

    def _generate(self, inputs: Any) -> Tensor:
        """Token ids of the answers; inputs go to where the network is, in its precision."""
        weight = next(self.network.parameters())
        moved = {
            name: value.to(weight.device, weight.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
        }
        answer: Tensor = self.network.generate(**moved, **self.generation)
        return answer


class Florence2Captioner(_ImageModel):
    """Florence-2 of Transformers: a caption, then the phrases of that caption with their boxes.

    Args:
        weights: a local folder or a name on the Hub of the Transformers format, ``florence-community/...``.
        detail: how much the caption says.
        max_new_tokens: longest answer, tokens; a box takes four of them.
        num_beams: of the search.
        download: fetch them from the Hub if they are not on this machine.

    Raises:
        ValueError: the weights are not on this machine or are of another type of model.
    """

    def __init__(
        self,
        weights: str | Path = "florence-community/Florence-2-base",
        detail: Literal["short", "detailed", "paragraph"] = "short",
        max_new_tokens: int = 256,
        num_beams: int = 1,
        download: bool = False,
    ) -> None:
        import transformers

        kinds = {transformers.Florence2Config: transformers.Florence2ForConditionalGeneration}
        super().__init__(weights, kinds, max_new_tokens, num_beams, download)
        self.task = {"short": "<CAPTION>", "detailed": "<DETAILED_CAPTION>"}.get(detail, "<MORE_DETAILED_CAPTION>")

    @torch.no_grad()
    def describe(self, frames: Tensor, video_id: str, times_s: Sequence[float]) -> list[FrameCaption]:
        """See `FrameCaptioner.describe`."""
        width, height = frames.shape[3], frames.shape[2]
        told = [plain_text(answer) for answer in self._ask(frames, self.task, [""] * len(frames))]
        seen = [number for number, text in enumerate(told) if text]
        found = self._ask(frames[seen], "<CAPTION_TO_PHRASE_GROUNDING>", [told[n] for n in seen]) if seen else []
        boxes: list[dict[str, list[list[float]]]] = [{} for _ in told]
        for number, answer in zip(seen, found, strict=True):
            for label, bins in zip(answer["labels"], answer["bboxes"], strict=True):  # once per box
                scale = [side / BINS for side in (width, height, width, height)]
                box = [(value + 0.5) * side for value, side in zip(bins, scale, strict=True)]
                boxes[number].setdefault(label, []).append(box)
        return [ground(text, own.items(), (width, height)) for text, own in zip(told, boxes, strict=True)]

    def _ask(self, frames: Tensor, task: str, texts: Sequence[str]) -> list[Any]:
        """The answers to one task, as Florence-2's own processor reads them; places in bins, which it cuts to."""
        prompts = [task + text for text in texts]
        inputs = self.processor(images=list(frames.cpu()), text=prompts, return_tensors="pt", padding=True)
        answers = self.processor.batch_decode(self._generate(inputs), skip_special_tokens=False)
        read = self.processor.post_process_generation
        plain = [answer.replace("<pad>", "") for answer in answers]
        return [read(text=answer, task=task, image_size=(BINS, BINS))[task] for answer in plain]


class DetectingCaptioner(_ImageModel):
    """An image captioner of Transformers (BLIP, GIT), and a detector that looks for the phrases of its caption.

    Args:
        weights: a local folder or a name on the Hub of a captioner that needs no prompt.
        detector: finds the noun phrases.
        min_score: least score of a box that is kept.
        max_new_tokens: longest caption, tokens.
        num_beams: of the search.
        download: fetch the captioner from the Hub if it is not on this machine.

    Raises:
        ValueError: the weights are not on this machine or are no captioner's.
    """

    def __init__(
        self,
        weights: str | Path,
        detector: Detector,
        min_score: float = 0.3,
        max_new_tokens: int = 40,
        num_beams: int = 1,
        download: bool = False,
    ) -> None:
        import transformers

        kinds = transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
        super().__init__(weights, kinds, max_new_tokens, num_beams, download)
        self.detector, self.min_score = detector, min_score

    @torch.no_grad()
    def describe(self, frames: Tensor, video_id: str, times_s: Sequence[float]) -> list[FrameCaption]:
        """See `FrameCaptioner.describe`."""
        inputs = self.processor(images=list(frames.cpu()), return_tensors="pt")
        answers = self.processor.batch_decode(self._generate(inputs), skip_special_tokens=True)
        return [self._look(frame, plain_text(answer)) for frame, answer in zip(frames, answers, strict=True)]

    def _look(self, frame: Tensor, text: str) -> FrameCaption:
        phrases = [text[start:end] for start, end in noun_phrases(text)]
        found = []
        for phrase in phrases:  # one by one: what one phrase lacks must not cost the others
            try:
                boxes, scores = self.detector.detect(frame[None], [phrase])
            except ValueError:  # nothing that this detector can look for
                continue
            if scores[0, 0] > 0 and scores[0, 0] >= self.min_score:
                found.append((phrase, [boxes[0, 0].tolist()]))
        return ground(text, found, (frame.shape[2], frame.shape[1]))
