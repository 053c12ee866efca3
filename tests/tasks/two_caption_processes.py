"""Run by test_caption_ddp.py: what a pair of processes computes, and one alone; a file for each."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from lightning.pytorch.callbacks import Callback

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tiny_captions import SENTENCES, tiny_caption_batch, tiny_cvg

from groundzoo.cli import main
from groundzoo.tasks import run_folder
from groundzoo.tasks.captions import Answers, Places
from groundzoo.tasks.cvg import CVG, GroundingOptions
from groundzoo.zoo.batch import CaptionBatch

NOTHING = ["it is slow", "they go on and on and on"]  # captions without a single grounded word
TEXTS = [*SENTENCES, *NOTHING, "the ball", "a man runs"]
SHARES = {  # captions of each of two processes
    "even": ([0, 1, 2, 3], [6, 7, 4, 5]),
    "one without grounded words": ([3, 1], [4, 5]),
    "none with grounded words": ([4], [5]),
    "uneven": ([0, 1, 3, 6, 7], [2]),
}
RULES: dict[str, dict[str, Any]] = {
    "paper": {},
    "sentence_sum": {"caption_loss": "sentence_sum"},
    "entities": {"grounding": GroundingOptions(action_grounding=False, propagate_labels=False)},
}
SEGMENTS = 9
SEEN = ([0, 1, 2, 3, 4, 5], [6, 7, 8, 0])  # a repeated segment, and more in one process than in the other


def chosen(batch: CaptionBatch, rows: Sequence[int]) -> CaptionBatch:
    """Some captions of a batch with a segment for each."""
    labels, index = batch.labels, torch.tensor(rows)
    assert labels is not None
    place = torch.full((len(batch),), -1)
    place[index] = torch.arange(len(rows))
    tracks, links = place[labels.caption] >= 0, place[labels.link_caption] >= 0
    kept = {
        f.name: getattr(labels, f.name)[links if f.name.startswith("link_") else tracks]
        for f in dataclasses.fields(labels)
    }
    for name in ("caption", "link_caption"):
        kept[name] = place[kept[name]]
    lists = {
        name: [getattr(batch, name)[r] for r in rows]
        for name in ("captions", "references", "entities", "segment_ids", "video_ids")
    }
    tensors = {name: getattr(batch, name)[index] for name in ("visual", "motion", "spans_s", "sizes", "index")}
    numbers = torch.arange(len(rows))
    return CaptionBatch(**tensors, **lists, segment_index=numbers, labels=type(labels)(**kept))


def gradients(rule: str, rows: Sequence[int], world: int) -> tuple[dict[str, float], dict[str, torch.Tensor], int]:
    """Losses and gradients of one step, means over processes; and the number of boxes that this one saw."""
    task = tiny_cvg(**RULES[rule])
    batch = chosen(tiny_caption_batch(TEXTS), rows)
    losses = task.step(batch, "train").losses
    sum(losses.values()).backward()
    grads = {name: p.grad for name, p in task.named_parameters() if p.grad is not None}
    values = {name: value.detach().clone() for name, value in losses.items()}
    if world > 1:
        for tensor in (*grads.values(), *values.values()):
            dist.all_reduce(tensor)
            tensor /= world
    assert batch.labels is not None
    return {name: value.item() for name, value in values.items()}, grads, len(batch.labels.word)


# ---- metrics --------------------------------------------------------------------------------------------


def segment_place(i: int) -> tuple[str, str]:
    """Video and segment of a sample."""
    return f"v{i // 4}", str(i % 4)


def annotated_box(i: int) -> list[float]:
    """As shares of a frame."""
    return [0.05 * i, 0.1, 0.05 * i + 0.4, 0.6]


class Annotation:
    """A data module as metrics see it: every third word of a sentence is a visible class."""

    classes: ClassVar[set[str]] = {word for text in TEXTS for word in text.split()}

    def dense_references(self, split: str) -> list[dict[str, Any]]:
        files: list[dict[str, Any]] = [{}, {}]
        for i in range(SEGMENTS):
            for k, file in enumerate(files):
                entry = file.setdefault(segment_place(i)[0], {"timestamps": [], "sentences": []})
                entry["timestamps"].append([4.0 * i, 4.0 * i + 3 + k])
                entry["sentences"].append(TEXTS[(i + k) % len(TEXTS)])
        return files

    def entity_reference(self, split: str) -> tuple[dict[str, Any], list[str]]:
        videos: dict[str, Any] = {}
        for i in range(SEGMENTS):
            video, key = segment_place(i)
            tokens = TEXTS[i % len(TEXTS)].split()
            words = list(range(0, len(tokens), 3))
            x1, y1, x2, y2 = annotated_box(i)
            videos.setdefault(video, {"segments": {}})["segments"][key] = {
                "tokens": tokens,
                "process_idx": [[w] for w in words],
                "process_clss": [[tokens[w]] for w in words],
                "process_bnd_box": [[x1 * 720, y1 * 540, x2 * 720, y2 * 540]] * len(words),
                "frame_ind": [i % 10] * len(words),
            }
        return {"vocab": sorted(self.classes), "annotations": videos}, sorted(videos)


def places(words: int, seed: int, right: bool) -> Places:
    """Boxes in 10 frames: the annotated one, or any."""
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(words, 10, 2, 2, generator=generator).sort(2).values.flatten(2)
    if right:
        boxes[:] = torch.tensor(annotated_box(seed))
    return Places(boxes, torch.full((words, 10), 0.1))


def answered(rows: Sequence[int]) -> tuple[Answers, CaptionBatch]:
    """Sentences that share words with the references, and batches that they answer."""
    texts = [TEXTS[i % len(TEXTS)] for i in range(SEGMENTS)]
    batch = tiny_caption_batch(texts)
    for i in range(SEGMENTS):
        video, key = segment_place(i)
        batch.video_ids[i], batch.segment_ids[i] = video, f"{video}#{key}"
        batch.entities[i] = [(w, t) for w, t in enumerate(texts[i].split()) if w % 3 == 0]
        batch.spans_s[i] = torch.tensor([4.0 * i, 4.0 * i + 3.5])
    sentences = [(texts[i] if i % 3 else texts[i - 1]).split()[: 4 + i % 3] for i in range(SEGMENTS)]
    said = [places(len(sentences[i]), i, i % 2 == 0) for i in rows]
    given = [places(len(texts[i].split()), i, i % 4 == 0) for i in rows]
    return Answers([sentences[i] for i in rows], [-1.0] * len(rows), said, given), chosen(batch, rows)


def metrics(rows: Sequence[int]) -> tuple[dict[str, float], dict[str, str]]:
    """Values of the task's own metrics, two segments a batch, and what is absent."""
    task: CVG = tiny_cvg()
    annotation = Annotation()
    task._trainer = SimpleNamespace(datamodule=annotation)  # type: ignore[assignment]
    metric = task.metric("test")
    for k in range(0, len(rows), 2):
        task.update_metric(metric, *answered(rows[k : k + 2]))
    values = {name: value.item() for name, value in metric.compute().items()}
    absent = {name: why for part in metric.values() for name, why in part.absent.items()}
    return values, absent


def failure(rows: Sequence[int]) -> str:
    """What a process is told when an evaluation fails: references are missing in one record of one process."""
    task = tiny_cvg()
    task._trainer = SimpleNamespace(datamodule=None)  # type: ignore[assignment]
    metric = task.metric("test")
    answers, batch = answered(rows)
    if 7 in rows:
        batch.references[rows.index(7)] = []
    task.update_metric(metric, answers, batch)
    try:
        metric.compute()
    except ValueError as error:
        return str(error)
    return "no error"


# ---- a run of the program -------------------------------------------------------------------------------


class Watch(Callback):
    """Keeps the captions that were trained on, the weights behind every step, and their losses."""

    seen: ClassVar[list[list[list[str]]]] = []
    weights: ClassVar[list[dict[str, torch.Tensor]]] = []
    losses: ClassVar[list[float]] = []

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        torch.manual_seed(3)  # Lightning seeds a group of processes anew, just before embeddings of words are made

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        pairs = zip(batch.segment_index, batch.captions, strict=True)
        self.seen.append([[batch.segment_ids[v], *words] for v, words in pairs])

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.weights.append({k: v.clone() for k, v in pl_module.state_dict().items()})
        self.losses.append(outputs["loss"].item())


def fit_and_test(root: Path, folder: Path, devices: int, batch_size: int) -> dict[str, Any]:
    """``groundzoo fit`` and ``groundzoo test`` in this process."""
    written: list[str] = []
    write = run_folder.write_atomically

    def noted(path: Path, text: str) -> None:
        written.append(path.name)
        write(path, text)

    run_folder.write_atomically = noted
    model = {
        "video_encoder": {"class_path": "PixelGrid", "init_args": {"grid": 4, "size": 16}},
        "network": {"dim": 16, "word_dim": 8, "attention_dim": 8, "dropout": 0.0},
        "min_count": 1,
        "max_length": 12,
        "stages": [{"losses": ["caption", "grounding"], "lr": 5e-3, "epochs": 2, "schedule": {"first": 1}}],
    }
    data = {"root": str(root), "labels": str(root / "labels"), "cache": str(folder / "features"), "num_workers": 0}
    data |= {"batch_size": batch_size, "eval_batch_size": 2}
    trainer: dict[str, Any] = {"accelerator": "cpu", "devices": devices, "logger": False, "gradient_clip_val": 1.0}
    trainer |= {"enable_model_summary": False, "callbacks": [{"class_path": f"{__name__}.Watch"}]}
    trainer |= {"strategy": "ddp_find_unused_parameters_true"} if devices > 1 else {}
    config = {
        "model": {"class_path": "CVG", "init_args": model},
        "data": {"class_path": "ActivityNetEntities", "init_args": data},
        "trainer": trainer,
    }
    path = folder / f"config{os.environ.get('RANK', '')}.json"
    path.write_text(json.dumps(config))
    run = folder / "run"
    main(["fit", "-c", str(path), "--run_dir", str(run)])
    main(["test", "-c", str(path), "--ckpt_path", str(run / "checkpoints" / "last.ckpt"), "--run_dir", str(run)])
    return {"seen": Watch.seen, "weights": Watch.weights, "losses": Watch.losses, "written": written}


def run(number: int, root: Path, out: Path) -> None:
    """Processes 0 and 1 are a group of two; process 2 is alone."""
    torch.set_num_threads(1)
    sys.argv = ["groundzoo"]
    sys.modules["two_caption_processes"] = sys.modules[__name__]
    world = 1 if number == 2 else 2
    if world == 2:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "RANK": str(number), "LOCAL_RANK": str(number)}
        os.environ |= {"WORLD_SIZE": "2", "NODE_RANK": "0"}
        dist.init_process_group("gloo", rank=number, world_size=2)
    rows = {name: pair[number] if world == 2 else pair[0] + pair[1] for name, pair in SHARES.items()}
    seen = SEEN[number] if world == 2 else list(range(SEGMENTS))
    result: dict[str, Any] = {
        "gradients": {f"{rule}, {name}": gradients(rule, rows[name], world) for rule in RULES for name in SHARES},
        "metrics": metrics(seen),
        "failure": failure(seen),
    }
    folder = out / f"devices{world}"
    folder.mkdir(exist_ok=True)
    result["run"] = fit_and_test(root, folder, world, 6 // world)
    torch.save(result, out / f"{number}.pt")


if __name__ == "__main__":
    os.environ["MASTER_PORT"] = sys.argv[3]
    mp.spawn(run, (Path(sys.argv[1]), Path(sys.argv[2])), nprocs=3)
