"""Answers of a grounded captioner about a batch of clips, as captions, as metrics want them, and as files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..zoo.batch import GroundedClipBatch
from ..zoo.text.grounded_text import GroundedText
from .base import Prediction
from .grounded_caption import GroundedCaption, GroundedPhrase
from .metrics.records import Record


class Grounded(NamedTuple):
    """Answers about B clips of F frames; N phrases of all of them.

    Attributes:
        texts: B sentences with their phrases.
        scores: B mean log-probabilities per token; NaN of sentences that were given.
        clip: ``(N,)`` int64, clip of every phrase, ascending.
        boxes: ``(N, F, 4)`` cx, cy, w, h as shares of the frame.
        visible: ``(N, F)`` probabilities that the thing is to be seen; 1 everywhere without an objectness head.
    """

    texts: list[GroundedText]
    scores: list[float]
    clip: Tensor
    boxes: Tensor
    visible: Tensor

    def captions(
        self, times_s: Sequence[Sequence[float]], sizes: Tensor, threshold: float
    ) -> list[GroundedCaption]:
        """One caption per clip, boxes in pixels.

        Args:
            times_s: B lists of the times of the frames that are the clip's own, seconds.
            sizes: ``(B, 2)`` width and height of the original frames.
            threshold: where a thing is less probably to be seen, it has no box.
        """
        scale = sizes.to(self.boxes.device)[self.clip].repeat(1, 2)[:, None]
        centre, half = self.boxes[..., :2], self.boxes[..., 2:] / 2
        corners = (torch.cat([centre - half, centre + half], dim=-1).clamp(0, 1) * scale).cpu().tolist()
        tubes = iter(zip(corners, self.visible.cpu().tolist(), strict=True))
        captions = []
        for b, (text, times) in enumerate(zip(self.texts, times_s, strict=True)):
            phrases = []
            for start, end in text.spans:
                boxes, seen = next(tubes)
                own = zip(boxes[: len(times)], seen, strict=False)
                kept = [[round(x, 2) for x in box] if p >= threshold else None for box, p in own]
                chances = [round(p, 4) for p in seen[: len(times)]]
                phrases.append(GroundedPhrase(text.text[start:end], start, end, kept, chances))
            width, height = sizes[b].tolist()
            score = None if math.isnan(self.scores[b]) else round(self.scores[b], 4)
            size, at = (int(width), int(height)), [round(t, 3) for t in times]
            captions.append(GroundedCaption(text.text, score, phrases, at, size, "visibility"))
        return captions


def own_times(batch: GroundedClipBatch) -> list[list[float]]:
    """Times of the frames that are a clip's own, seconds, clip by clip."""
    return [times[keep].tolist() for times, keep in zip(batch.times_s, batch.mask, strict=True)]


def metric_records(captions: Sequence[GroundedCaption], batch: GroundedClipBatch) -> list[Record]:
    """Records of `IGround` and `VidSTG`."""
    records = []
    for b, caption in enumerate(captions):
        frames: list[list[tuple[str, list[float]]]] = [[] for _ in caption.times_s]
        for phrase in caption.phrases:
            for frame, box in zip(frames, phrase.boxes, strict=True):
                if box is not None:
                    frame.append((phrase.text, box))
        records.append(
            {
                "id": batch.clip_ids[b],
                "video": batch.video_ids[b],
                "group": next((name for name, rows in batch.subsets.items() if rows[b]), ""),
                "caption": caption.text,
                "references": batch.references[b],
                "size": list(caption.size),
                "times_s": caption.times_s,
                "predicted": frames,
                "truth": batch.truths[b],
            }
        )
    return records


def submission(records: Sequence[Prediction]) -> dict[str, dict[str, Any]]:
    """The structure that the released evaluation of iGround reads: boxes and phrases per frame, by clip."""
    clips = {}
    for r in records:
        shown = [
            [(p["text"], p["boxes"][t]) for p in r["phrases"] if p["boxes"][t] is not None]
            for t in range(len(r["times_s"]))
        ]
        clips[r["query_id"]] = {
            "pred_text": r["caption"],
            "pred_phrases": [p["text"] for p in r["phrases"]],
            "pred_bboxes": [[box for _, box in frame] for frame in shown],
            "pred_labels": [[text for text, _ in frame] for frame in shown],
            "probs_temp_objectness": [p["scores"] for p in r["phrases"]],
        }
    return clips
