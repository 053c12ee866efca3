"""Times CIDEr beside pycocoevalcap on real captions, in turns in one process, after comparing their values.

    python tests/benchmarks/bench_caption_metrics.py

Reads the captions of ActivityNet Captions (one reference) and MSR-VTT (nineteen references) from
``$GROUNDZOO_SHARED/data``. "again" is `Cider` with its references already counted, as rewards use it.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pycocoevalcap.cider.cider import Cider as TheirCider

from groundzoo.tasks.metrics.caption_scorers import Cider, cider
from groundzoo.tasks.metrics.ptb import simple_tokens

SHARED = Path(os.environ.get("GROUNDZOO_SHARED", Path(__file__).resolve().parents[3] / "shared"))
Corpus = tuple[list[str], list[list[str]]]


def perturbed(text: str, others: list[str], rng: random.Random) -> str:
    """The caption without some words, and now and then another caption."""
    if rng.random() < 0.3:
        return rng.choice(others)
    return " ".join(word for word in text.split() if rng.random() > 0.2)


def activitynet(captions: int, rng: random.Random) -> Corpus:
    """One reference each."""
    entries = json.loads((SHARED / "data" / "anet_captions" / "val_1.json").read_text()).values()
    texts = [simple_tokens(text) for entry in entries for text in entry["sentences"]][:captions]
    return [perturbed(text, texts, rng) for text in texts], [[text] for text in texts]


def msrvtt(captions: int, rng: random.Random) -> Corpus:
    """Nineteen references each; the twentieth makes the candidate."""
    with gzip.open(SHARED / "data" / "msrvtt" / "test_videodatainfo.json.gz") as file:
        rows = json.load(file)["sentences"]
    videos: dict[str, list[str]] = {}
    for row in rows:
        videos.setdefault(row["video_id"], []).append(simple_tokens(row["caption"]))
    groups = [texts for texts in videos.values() if len(texts) == 20][:captions]
    return [perturbed(texts[0], groups[0], rng) for texts in groups], [texts[1:] for texts in groups]


def seconds(work: Callable[[], Any]) -> float:
    """Time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Compare, time, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--captions", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    rng = random.Random(0)
    for name, corpus in {"1 reference": activitynet, "19 references": msrvtt}.items():
        candidates, references = corpus(args.captions, rng)
        gts, res = dict(enumerate(references)), {i: [text] for i, text in enumerate(candidates)}
        theirs, each = TheirCider().compute_score(gts, res)
        ours, ours_each = cider(candidates, references)
        apart = max(abs(a - b) for a, b in zip(each, ours_each, strict=True))
        assert abs(theirs - ours) < 1e-9, (theirs, ours)
        assert apart < 1e-9, apart
        scorer = Cider(references)
        works: dict[str, Callable[[], Any]] = {
            "pycocoevalcap": lambda gts=gts, res=res: TheirCider().compute_score(gts, res),
            "ours": lambda c=candidates, r=references: cider(c, r),
            "again": lambda c=candidates, s=scorer: s.score(c),
        }
        times: dict[str, list[float]] = {key: [] for key in works}
        for _ in range(args.rounds):
            for key, work in works.items():
                times[key].append(seconds(work))
        base = statistics.median(times["pycocoevalcap"])
        print(f"{len(candidates)} captions, {name}: CIDEr {ours:.6f}, largest difference {apart:.1e}")
        for key, values in times.items():
            ratios = [a / b for a, b in zip(times["pycocoevalcap"], values, strict=True)]
            middle = statistics.median(values)
            spread = f"rounds {min(ratios):.2f} to {max(ratios):.2f}"
            print(f"  {key:14s} {middle:7.3f} s   {base / middle:5.2f} x ({spread})")


if __name__ == "__main__":
    main()
