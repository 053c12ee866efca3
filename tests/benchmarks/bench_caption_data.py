"""Reading the real captions in full: one pass over each split, samples per second and memory.

    python tests/benchmarks/bench_caption_data.py --only activitynet msrvtt --workers 0 2 --labels

Features are random half-precision grids, one shard store per stream in a temporary folder, of whole videos:
``--units`` grids of 7 x 7 x ``--channels`` per video, from which the 10 (ActivityNet) or 32 (MSR-VTT) moments of a
segment are taken. Every caption must come exactly once. Memory is the proportional set size of the main process
and its workers together, looked at every ten batches: "own" is what they allocated, "files" are pages of the
memory-mapped store, which the kernel takes back when it needs them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

from groundzoo.datamodules.activitynet_entities import ActivityNetEntities
from groundzoo.datamodules.captions import CaptionDataModule, Split
from groundzoo.datamodules.labels import MANIFEST, CaptionLabels, VideoLabels, WordTrack, tidy, write_labels
from groundzoo.datamodules.msrvtt import MSRVTT
from groundzoo.datamodules.segments import Segment
from groundzoo.datamodules.shards import write_json
from groundzoo.zoo.video.precomputed import Precomputed

SHARED = Path(os.environ.get("GROUNDZOO_SHARED", Path(__file__).resolve().parents[3] / "shared")) / "data"
FRAMES = {"activitynet": 10, "msrvtt": 32}
PER_SHARD = 500  # videos


# ---- what is read ---------------------------------------------------------------------------------------


def write_store(store: Path, durations: dict[str, float], units: int, channels: int, seed: int) -> None:
    """Random grids of every video, as shards."""
    rng = np.random.default_rng(seed)
    store.mkdir()
    videos = list(durations)
    for first in range(0, len(videos), PER_SHARD):
        tensors, facts = {}, {}
        for video in videos[first : first + PER_SHARD]:
            grid = rng.integers(-2048, 2048, (units, 7, 7, channels), dtype=np.int16).astype(np.float16) / 1024
            tensors |= {f"{video}/frames": grid.mean((1, 2)), f"{video}/grid": grid}
            facts[video] = f'{{"num_frames": {units}, "duration_s": {durations[video]}}}'
        save_file(tensors, store / f"shard-{first:08}.safetensors", facts)


def write_random_labels(store: Path, segments: Iterable[Segment], frames: int) -> None:
    """One track for every fourth word, and a link to it from the word behind it."""
    rng = np.random.default_rng(0)
    videos: dict[str, dict[str, tuple[CaptionLabels, ...]]] = {}
    for segment in segments:
        found = []
        for caption in segment.captions:
            words = range(0, len(caption.tokens) - 1, 4)
            corners = np.sort(rng.random((len(words), frames, 2, 2)), axis=2).reshape(-1, frames, 4)
            scores, annotated = rng.random((len(words), frames)), np.arange(frames) == 0
            tracks = [
                WordTrack((word,), *tidy(box, score), annotated)
                for word, box, score in zip(words, corners, scores, strict=True)
            ]
            found.append(CaptionLabels(caption.tokens, tuple(tracks), {word + 1: (word,) for word in words}))
        videos.setdefault(segment.video_id, {})[segment.segment_id] = tuple(found)
    for video, labelled in videos.items():
        write_labels(store, VideoLabels(video, 640, 360, labelled))
    write_json(store / MANIFEST, {"frames": frames})


def shorten(data: CaptionDataModule, splits: Sequence[Split], videos: int | None) -> None:
    """Keep the first videos of every split."""
    for split in splits:
        segments = data.read(split)
        kept = set(list(dict.fromkeys(s.video_id for s in segments))[:videos])
        segments[:] = [s for s in segments if s.video_id in kept]


# ---- measuring ------------------------------------------------------------------------------------------


def memory_mb() -> tuple[float, float]:
    """Proportional set size of this process and its workers: allocated, and pages of files."""
    own = files = 0
    for pid in (os.getpid(), *(child.pid for child in multiprocessing.active_children())):
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8")
        sizes = {line.split(":")[0]: int(line.split()[1]) for line in rollup.splitlines()[1:]}
        own += sizes["Pss_Anon"] + sizes["Pss_Shmem"]
        files += sizes["Pss_File"]
    return own / 1024, files / 1024


def processor_s() -> float:
    """Processor time of this process and of the workers that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def one_pass(name: str, data: CaptionDataModule, split: Split, workers: int) -> None:
    """Go through a split once; print a line."""
    data.num_workers = workers
    dropped = {segment_id for ids in data.reports[split].dropped.values() for segment_id in ids}
    segments = [s for s in data.read(split) if s.segment_id not in dropped]
    wanted = Counter(
        (s.segment_id, c.tokens) for s in segments for c in (s.captions if split == "train" else s.captions[:1])
    )
    before, began, used = memory_mb()[0], time.perf_counter(), processor_s()
    peak, pages, seen = before, 0.0, Counter[tuple[str, tuple[str, ...]]]()
    loader: Any = data.train_dataloader() if split == "train" else data.test_dataloader()
    labelled = 0
    for k, batch in enumerate(loader):
        rows = batch.segment_index.tolist()
        seen.update((batch.segment_ids[v], tuple(c)) for v, c in zip(rows, batch.captions, strict=True))
        labelled += 0 if batch.labels is None else len(batch.labels.word)
        if k % 10 == 5:
            own, files = memory_mb()
            peak, pages = max(peak, own), max(pages, files)
    shape, seconds = tuple(batch.visual.shape[1:]), time.perf_counter() - began
    del loader, batch  # ends the workers, whose time counts then
    used = processor_s() - used
    if seen != wanted:
        raise SystemExit(f"{name}: {(wanted - seen).total()} captions missing, {(seen - wanted).total()} too many")
    n = seen.total()
    print(
        f"{name:28} {workers:7} {n:9} {n / seconds:13.0f} {n / used:17.0f} {peak:8.0f} {peak - before:7.0f} "
        f"{pages:8.0f}  {shape}, {labelled} labelled words",
        flush=True,
    )


def measure(name: str, data: CaptionDataModule, splits: Sequence[Split], args: argparse.Namespace) -> None:
    """Time the setup of a data set and passes over its splits."""
    began = time.process_time()
    for split in splits:
        data.read(split)
    print(f"\n{name}: {time.process_time() - began:.1f} s to read and split the sentences of {', '.join(splits)}")
    shorten(data, splits, args.videos)
    with tempfile.TemporaryDirectory() as temporary:
        folder, frames = Path(temporary), FRAMES[name]
        durations: dict[str, float] = {}
        for segment in (s for split in splits for s in data.read(split)):
            end_s = 20.0 if segment.end_s is None else max(segment.end_s, 1.0)
            durations[segment.video_id] = max(durations.get(segment.video_id, 0.0), end_s)
        for k in range(2):
            write_store(folder / f"stream{k}", durations, args.units, args.channels, seed=k)
        size = sum(f.stat().st_size for f in folder.rglob("*.safetensors")) / 2**30
        print(f"{len(durations)} videos of {args.units} x 7 x 7 x {args.channels}, two streams: {size:.1f} GiB")
        data.features, data.motion_features = folder / "stream0", folder / "stream1"
        if args.labels and name == "activitynet":
            write_random_labels(folder / "labels", data.read("train"), frames)
            data.labels = folder / "labels"
        grid = (7, 7, args.channels)
        streams = [Precomputed(args.channels, 1, 1, grid=grid) for _ in range(2)]
        task = SimpleNamespace(streams=streams, frames=frames, max_cells=7)
        data.trainer = SimpleNamespace(lightning_module=task, world_size=1)  # type: ignore[assignment]
        began = time.process_time()
        for stage in ("fit", "test") if "test" in splits else ("fit",):
            data.setup(stage)
        print(f"{time.process_time() - began:.1f} s for setup; vocabulary ", end="")
        reports = "\n".join(str(data.reports[split]) for split in splits)
        began = time.process_time()
        words = Counter(w for text in data.vocabulary_texts() for w in text)
        print(f"{time.process_time() - began:.1f} s, {sum(n >= 4 for n in words.values())} words said 4 times")
        print(reports)
        print(
            f"{'':28} workers  captions  captions / s  per processor s   own MB   grown    files  grids\n"
            f"{'(MB: peak of all processes)':28}"
        )
        for split in splits:
            for workers in args.workers if split != "val" else ():
                one_pass(f"{name} {split}{' with labels' if data.labels else ''}", data, split, workers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--anet_entities", type=Path, default=SHARED / "anet_entities")
    parser.add_argument("--anet_captions", type=Path, default=SHARED / "anet_captions")
    parser.add_argument("--msrvtt", type=Path, default=SHARED / "msrvtt")
    parser.add_argument("--only", nargs="*", default=list(FRAMES), choices=list(FRAMES))
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 2])
    parser.add_argument("--labels", action="store_true", help="also random grounding labels (ActivityNet)")
    parser.add_argument("--videos", type=int, help="of each split, the first ones; all unless given")
    for name, default in (("batch_size", 240), ("units", 20), ("channels", 64)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(1)
    sizes = {"batch_size": args.batch_size, "eval_batch_size": args.batch_size}
    if "activitynet" in args.only:
        data: CaptionDataModule = ActivityNetEntities(args.anet_entities, args.anet_captions, boxes=False, **sizes)
        measure("activitynet", data, ("train", "val"), args)
    if "msrvtt" in args.only:
        measure("msrvtt", MSRVTT(args.msrvtt, **sizes), ("train", "val", "test"), args)


if __name__ == "__main__":
    main()
