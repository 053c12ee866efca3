"""Open-vocabulary detection: where in each frame is what a phrase names.

Grounding DINO (Liu et al., ECCV 2024, arXiv:2303.05499), MM Grounding DINO (Zhao et al., 2024, arXiv:2401.02361),
OWL-ViT (Minderer et al., ECCV 2022, arXiv:2205.06230), OWLv2 (Minderer et al., NeurIPS 2023, arXiv:2306.09683).
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import hub
from .text.tokenizer import Tokenizer
from .weights import CHECKPOINT, RANDOM

GROUNDING = ("grounding-dino", "mm-grounding-dino")
OWL = ("owlvit", "owlv2")
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
SHORT_SIDE, LONG_SIDE = 800, 1333  # pixels, of Grounding DINO's input
COLOURS = {
    "red": (222, 52, 48),
    "green": (56, 186, 80),
    "blue": (66, 112, 242),
    "yellow": (238, 208, 58),
    "purple": (170, 84, 220),
    "white": (236, 236, 236),
}


class Detections(NamedTuple):
    """The most confident box of each of P phrases in each of T frames.

    Attributes:
        boxes: ``(P, T, 4)`` float, xyxy in pixels, inside the frame; zeros where there is none.
        scores: ``(P, T)`` float in [0, 1]; 0 where there is none.
    """

    boxes: Tensor
    scores: Tensor


class Detector(nn.Module, ABC):
    """Base of all detectors; frozen."""

    @abstractmethod
    def detect(self, frames: Tensor, phrases: Sequence[str]) -> Detections:
        """Look for each phrase in each frame.

        Args:
            frames: ``(T, 3, H, W)`` uint8, RGB.
            phrases: P descriptions of things ("a red circle").

        Returns:
            One box per phrase and frame, on the CPU.

        Raises:
            ValueError: a phrase without a word that the detector can look for.
        """


class ZeroShotDetector(Detector):
    """Grounding DINO, MM Grounding DINO, OWL-ViT or OWLv2 of Transformers.

    Prompts are those that the models were trained with. Grounding DINO reads all phrases as one lower-case
    text, each followed by a full stop, and gives every box a probability per token: a phrase's score is the mean
    over its own tokens, which are known by their place, so that equal words of other phrases do not count. OWL
    reads "a photo of a ...", one text per phrase.

    Args:
        weights: a local folder or a name on the Hub; `random` needs `config` and `tokenizer`.
        size: side in pixels at which frames are looked at: Grounding DINO's shorter side (None = 800; less is
            faster); OWL's is fixed by its weights.
        batch_size: frames per pass.
        tokenizer: a folder or a name on the Hub with the tokenizer's files, or these as ``{name: text}``; None
            takes them from `weights`.
        config: the contents of a ``config.json``, to build the network without files.
        download: fetch `weights` and `tokenizer` from the Hub if they are not on this machine.

    Raises:
        ValueError: the weights are not on this machine or do not fit, or are of another type of model.
    """

    def __init__(
        self,
        weights: str | Path,
        size: int | None = None,
        batch_size: int = 4,
        tokenizer: str | Path | dict[str, str] | None = None,
        config: dict[str, Any] | None = None,
        download: bool = False,
    ) -> None:
        super().__init__()
        import transformers

        settings = hub.read_config(weights, config, download)
        kind = transformers.MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING.get(type(settings), None)
        if settings.model_type not in (*GROUNDING, *OWL) or kind is None:
            known = ", ".join((*GROUNDING, *OWL))
            raise ValueError(f"'{weights}' is a model of type {settings.model_type}; a detector is one of {known}")
        if tokenizer is None and weights in (RANDOM, CHECKPOINT):
            raise ValueError(f"weights: {weights} come without a vocabulary: give `tokenizer` as well")
        self.kind = str(settings.model_type)
        if self.kind in OWL and size is not None:
            raise ValueError(f"size={size}: {self.kind} has positions for one size only; leave `size` out")
        self.size, self.batch_size = size, batch_size
        self.network = hub.build(kind, settings, weights, download).eval().requires_grad_(False)
        text = settings.text_config
        limit = text.max_position_embeddings
        source = str(weights) if tokenizer is None else tokenizer
        self.tokenizer = Tokenizer(source, limit, text.vocab_size, download)

    def train(self, mode: bool = True) -> ZeroShotDetector:
        """Always in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def detect(self, frames: Tensor, phrases: Sequence[str]) -> Detections:
        """See `Detector.detect`."""
        boxes, scores = torch.zeros(len(phrases), len(frames), 4), torch.zeros(len(phrases), len(frames))
        if not len(phrases):
            return Detections(boxes, scores)
        height, width = frames.shape[2:]
        look = self._grounding if self.kind in GROUNDING else self._owl
        device = next(self.network.parameters()).device
        extent = torch.tensor([width, height, width, height], dtype=torch.float32)
        # OWLv2's boxes are relative to the square that the frame was padded to
        whole = extent.amax().expand(4) if self.kind == "owlv2" else extent
        for start in range(0, len(frames), self.batch_size):
            part = slice(start, start + self.batch_size)
            found, certain = look(frames[part].to(device), phrases)  # (B, Q, 4) cxcywh in 0..1, (B, Q, P)
            centre, side = found.float().cpu().split(2, dim=-1)
            pixels = torch.cat([centre - side / 2, centre + side / 2], dim=-1) * whole
            pixels = pixels.clamp(min=0).minimum(extent)
            inside = (pixels[..., 2:] > pixels[..., :2]).all(-1, keepdim=True)  # not all of it in the padding
            score, best = (certain.float().cpu() * inside).max(1)  # (B, P)
            chosen = pixels.gather(1, best[..., None].expand(-1, -1, 4)) * (score > 0)[..., None]
            boxes[:, part], scores[:, part] = chosen.transpose(0, 1), score.T
        return Detections(boxes, scores)

    def _grounding(self, frames: Tensor, phrases: Sequence[str]) -> tuple[Tensor, Tensor]:
        """All boxes of Grounding DINO, and each phrase's probabilities."""
        ids, spans = self._prompt(phrases)
        height, width = frames.shape[2:]
        rate = (self.size or SHORT_SIDE) / min(height, width)
        rate = min(rate, LONG_SIDE / max(height, width))
        pixels = _prepare(frames, (round(height * rate), round(width * rate)), "bilinear", *IMAGENET)
        out = self.network(pixels, input_ids=ids.to(pixels.device).expand(len(frames), -1))
        tokens = out.logits.sigmoid()
        return out.pred_boxes, torch.stack([tokens[..., span].mean(-1) for span in spans], dim=-1)

    def _prompt(self, phrases: Sequence[str]) -> tuple[Tensor, list[slice]]:
        """One text of all phrases, ``(1, N)``, and where in it each one's tokens are."""
        clean = [" ".join(re.sub(r"[.?]", " ", phrase.lower()).split()) for phrase in phrases]  # . and ? end one
        tokens = self.tokenizer([*clean, "."], torch.device("cpu"))
        ids, words = tokens.inputs["input_ids"], tokens.words
        first, last = ids[0, :1], ids[0, tokens.inputs["attention_mask"][0].sum() - 1][None]
        stop = ids[-1][words[-1]]
        pieces, spans, length = [first], [], 1
        for phrase, text, row, word in zip(phrases, clean, ids, words, strict=False):
            if not text:
                raise ValueError(f"phrase {phrase!r} has no words to look for")
            pieces += [row[word], stop]
            spans.append(slice(length, length + int(word.sum())))
            length += int(word.sum()) + 1
        most = self.network.config.max_text_len
        if length + 1 > most:
            raise ValueError(
                f"{len(phrases)} phrases have {length + 1} tokens, {self.kind} reads {most}: ask for fewer at once"
            )
        return torch.cat([*pieces, last])[None], spans

    def _owl(self, frames: Tensor, phrases: Sequence[str]) -> tuple[Tensor, Tensor]:
        """All boxes of OWL, and each phrase's probabilities."""
        if blank := [phrase for phrase in phrases if not phrase.strip()]:
            raise ValueError(f"phrase {blank[0]!r} has no words to look for")
        side = self.network.config.vision_config.image_size
        if self.kind == "owlv2":  # keeps its shape: padded to a square, at the right and below
            height, width = frames.shape[2:]
            frames = F.pad(frames, (0, max(height - width, 0), 0, max(width - height, 0)))
        pixels = _prepare(frames, (side, side), "bilinear" if self.kind == "owlv2" else "bicubic", *CLIP)
        inputs = self.tokenizer([f"a photo of a {phrase}" for phrase in phrases], pixels.device).inputs
        texts = {k: inputs[k].repeat(len(frames), 1) for k in ("input_ids", "attention_mask")}
        out = self.network(pixel_values=pixels, **texts)
        return out.pred_boxes, out.logits.sigmoid()


def _prepare(
    frames: Tensor, size: tuple[int, int], mode: str, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """Frames as a network wants them, ``(B, 3, height, width)``."""
    pixels = F.interpolate(frames.float() / 255, size=size, mode=mode, antialias=True).clamp(0, 1)
    shift, scale = (torch.tensor(v, device=pixels.device).view(3, 1, 1) for v in (mean, std))
    return (pixels - shift) / scale


class ColourDetector(Detector):
    """A stand-in without weights for ToyWorld: the largest region in the colour that a phrase names.

    Knows the words red, green, blue, yellow, purple and white; of everything else in the phrase it takes no
    notice. The score is the share of the region's box that it fills, as far as one expects (a triangle fills
    half), times how large it is (16 pixels are enough).
    """

    @torch.no_grad()
    def detect(self, frames: Tensor, phrases: Sequence[str]) -> Detections:
        """See `Detector.detect`."""
        median = frames.float().flatten(2).median(dim=2).values[:, :, None, None]
        boxes, scores = torch.zeros(len(phrases), len(frames), 4), torch.zeros(len(phrases), len(frames))
        for k, phrase in enumerate(phrases):
            word = next((w for w in re.findall(r"[a-z]+", phrase.lower()) if w in COLOURS), None)
            if word is None:
                raise ValueError(f"phrase {phrase!r} names none of the colours {', '.join(COLOURS)}")
            seen = frames.float() - median  # fading and blur change the length of this difference only
            wanted = torch.tensor(COLOURS[word], device=frames.device).view(1, 3, 1, 1) - median
            alike = F.cosine_similarity(seen, wanted, dim=1) > 0.95
            region = _largest_region(alike & (seen.norm(dim=1) > 0.5 * wanted.norm(dim=1)))
            for t in range(len(frames)):
                y, x = region[t].nonzero(as_tuple=True)
                if len(y):
                    box = torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1]).float()
                    fill = len(y) / float((box[2] - box[0]) * (box[3] - box[1]))
                    boxes[k, t], scores[k, t] = box.cpu(), min(2 * fill, 1.0) * min(len(y) / 16, 1.0)
        return Detections(boxes, scores)


def _largest_region(mask: Tensor) -> Tensor:
    """The largest 8-connected region of each mask, (T, H, W) bool; the largest label spreads within a region."""
    labels = (
        torch.arange(1, mask[0].numel() + 1, device=mask.device, dtype=torch.float32).view(mask[0].shape) * mask
    )
    while True:
        spread = F.max_pool2d(labels[:, None], 3, stride=1, padding=1)[:, 0] * mask
        if torch.equal(spread, labels):
            break
        labels = spread
    flat = labels.long().flatten(1)
    sizes = torch.zeros(len(flat), mask[0].numel() + 1, device=mask.device)
    sizes.scatter_add_(1, flat, torch.ones_like(flat, dtype=torch.float32))
    sizes[:, 0] = 0
    return mask & (flat == sizes.argmax(1, keepdim=True)).view(mask.shape)
