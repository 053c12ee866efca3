"""Automatic annotation of a ToyWorld against its truth: frames one by one, and the tracks made of them.

    groundzoo toyworld WORLD --preset grounded --format iground --videos 200
    groundzoo annotate grounded-captions -c annotate/grounded_toyworld.yaml --captioner.world WORLD \\
        --videos WORLD/videos --out ANNOTATED
    python tests/benchmarks/annotation_quality.py WORLD ANNOTATED

Prints AP50, mIoU and recall (a hit needs the very phrase) of the captions of frames and of the annotations;
consistency, how alike the phrases are that one thing gets in the frames of a clip (share of the most frequent one
among the frames that found it); and how many sentences have all the true phrases, or are the true sentence.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from groundzoo.datamodules.annotation_store import AnnotationStore, key_of
from groundzoo.datamodules.annotation_text_steps import frame_phrases
from groundzoo.datamodules.grounded_records import parse_record, read_records
from groundzoo.tasks.metrics.frame_boxes import box_ious
from groundzoo.tasks.metrics.iground import grounding_scores

Frames = list[list[tuple[str, list[float]]]]


def annotated(paths: Sequence[Path]) -> dict[str, tuple[str, Frames, list[float]]]:
    """Sentence, frames and size of each clip."""
    found = {}
    for path in paths:
        for where, record in read_records(path):
            clip = parse_record(record, where)
            phrases = clip.caption.phrases
            frames = [[(phrases[number], box) for number, box in frame] for frame in clip.boxes]
            found[clip.clip_id] = (clip.caption.text, frames, list(clip.size))
    return found


def of_frames(out: Path) -> dict[str, Frames]:
    """What the captions of frames say, before anything is joined."""
    store, found = AnnotationStore(out / "frames"), {}
    for number in range(len(list((out / "frames").glob("shard-*.jsonl")))):
        for record in store.read(number).values():
            found[key_of(record)] = [
                [(p, box) for p, boxes in zip(frame_phrases(f), f["boxes"], strict=True) for box in boxes]
                for f in record["frames"]
            ]
    return found


def names(predicted: Frames, truth: Frames) -> Iterator[Counter[str]]:
    """Per true phrase: what its boxes are called where they were found."""
    for phrase in {name for frame in truth for name, _ in frame}:
        called: Counter[str] = Counter()
        for own, frame in zip(predicted, truth, strict=True):
            boxes = [box for name, box in frame if name == phrase]
            if own and boxes:
                overlaps = box_ious(np.array([box for _, box in own]), np.array(boxes[:1]))
                if overlaps.max() >= 0.5:
                    called[own[int(overlaps.argmax())][0]] += 1
        if called:
            yield called


def exactly(predicted: Sequence[str], truth: Sequence[str]) -> Tensor:
    """1 for equal phrases, else 0."""
    return torch.tensor([[float(p == t) for t in truth] for p in predicted]).reshape(len(predicted), len(truth))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", type=Path)
    parser.add_argument("annotated", type=Path)
    args = parser.parse_args()
    truth = annotated(sorted(args.world.glob("*.jsonl")))
    after = annotated(sorted((args.annotated / "annotations").glob("shard-*.jsonl")))
    before = of_frames(args.annotated)
    print(f"{'':12} {'AP50':>6} {'mIoU':>6} {'recall':>6} {'consistency':>11}")
    for name, found in (
        ("frames", before),
        ("annotations", {key: frames for key, (_, frames, _) in after.items()}),
    ):
        records = [
            {"id": key, "size": size, "predicted": found.get(key, [[]] * len(frames)), "truth": frames}
            for key, (_, frames, size) in truth.items()
        ]
        scores = grounding_scores(records, exactly)
        called = [c for r in records for c in names(r["predicted"], r["truth"])]
        share = np.mean([max(c.values()) / sum(c.values()) for c in called])
        print(f"{name:12} {scores['AP50']:6.3f} {scores['mIoU']:6.3f} {scores['recall']:6.3f} {share:11.3f}")
    phrases = [{n for f in frames for n, _ in f} == {n for f in after[k][1] for n, _ in f}
               for k, (_, frames, _) in truth.items() if k in after]  # fmt: skip
    same = [text == after[key][0] for key, (text, _, _) in truth.items() if key in after]
    right, equal = np.mean(phrases), np.mean(same)
    print(f"{len(after)} of {len(truth)} clips; phrases all right {right:.3f}, sentence {equal:.3f}")


if __name__ == "__main__":
    main()
