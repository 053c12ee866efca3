"""Answers of a grounded captioner about a batch of clips, as captions, as metrics want them, and as files.

A data module names the protocol that answers are judged by. `iground`: sentences, and boxes where a thing is to
be seen; `vidstg` and `pointing`: boxes of a given sentence; `entities`: boxes of a sentence's words, those of
ActivityNet-Entities. In all but the first a box counts whatever the probability of being visible, as in the
released program of GROVE (Kazakos et al., ICCV 2025).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from ..zoo.batch import GroundedClipBatch
from ..zoo.text.grounded_text import GroundedText
from ..zoo.text.lemmas import lemma
from ..zoo.text.triples import noun_phrases
from .base import Prediction
from .captions import BOX_WIDTH
from .grounded_caption import GroundedCaption, GroundedPhrase
from .metrics.entity_grounding import EntityGrounding
from .metrics.iground import IGround
from .metrics.pointing import PointingAccuracy
from .metrics.records import Record
from .metrics.vidstg import VidSTG

Protocol = Literal["iground", "vidstg", "entities", "pointing"]


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


def protocol_of(data: Any) -> Protocol:
    """The protocol of a data module; that of iGround where it names none, or where there is no data module."""
    name: Protocol = getattr(data, "protocol", "iground")
    return name


def judge(data: Any) -> Metric | None:
    """The metric of a data module's protocol; None where the annotation of its `test_split` is withheld."""
    protocol = protocol_of(data)
    if protocol == "entities":
        reference = data.entity_reference(data.test_split)
        return None if reference is None else EntityGrounding(*reference)
    return {"iground": IGround, "vidstg": VidSTG, "pointing": PointingAccuracy}[protocol]()


def protocol_records(data: Any, said: Grounded, batch: GroundedClipBatch, threshold: float) -> list[Record]:
    """Records of the metric of `judge`.

    Args:
        data: the data module.
        said: answers about the batch.
        batch: of clips.
        threshold: see `Grounded.captions`; for iGround alone.
    """
    protocol = protocol_of(data)
    least = threshold if protocol == "iground" else 0.0
    captions = said.captions(own_times(batch), batch.sizes, least)
    if protocol == "entities":
        return entity_records(captions, batch, data.classes)
    return metric_records(captions, batch)


def entity_records(
    captions: Sequence[GroundedCaption], batch: GroundedClipBatch, classes: set[str]
) -> list[Record]:
    """Records of `EntityGrounding` about generated sentences: the phrases whose head noun is one of the classes.

    Args:
        captions: with a box in every frame; one per clip.
        batch: clips named ``<video>#<segment>``.
        classes: of the data set, lemmas.
    """
    records: list[Record] = []
    for clip, video, caption in zip(batch.clip_ids, batch.video_ids, captions, strict=True):
        said: dict[str, list[Any]] = {"clss": [], "idx_in_sent": [], "bbox_for_all_frames": []}
        scale = BOX_WIDTH / caption.size[0]
        for phrase in caption.phrases:
            until_head = phrase.text[: _head_end(phrase.text)].split()
            name = lemma(until_head[-1])
            if name in classes:
                said["clss"].append(name)
                said["idx_in_sent"].append(len(caption.text[: phrase.start].split()) + len(until_head) - 1)
                said["bbox_for_all_frames"].append(
                    [[round(scale * x, 1) for x in box] for box in phrase.boxes if box is not None]
                )
        records.append({"video": video, "segment": clip.partition("#")[2], "gt": None, "generated": said})
    return records


def _head_end(phrase: str) -> int:
    """Where the head noun ends: the first noun phrase that is no possessor; without one, the whole phrase."""
    found = noun_phrases(phrase) or [(0, len(phrase))]
    owners = (phrase[a[1] : b[0]].strip() in ("'s", "'") for a, b in pairwise(found))
    return next((end for (_, end), owns in zip(found, owners, strict=False) if not owns), found[-1][1])


def metric_records(captions: Sequence[GroundedCaption], batch: GroundedClipBatch) -> list[Record]:
    """Records of `IGround`, `VidSTG` and `PointingAccuracy`."""
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
