"""Run by test_grove_ddp.py: what each of two processes computes; a file for each rank, and folders of runs."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tiny_grove import CAPTIONS, CLIP, LLAMA, SAM, SIDE, T, tiny_clips, tiny_grove

from groundzoo.cli import main
from groundzoo.zoo.batch import GroundedClipBatch
from groundzoo.zoo.language import LanguageModel
from groundzoo.zoo.video.adapted_clip import AdaptedCLIP
from groundzoo.zoo.video.adapted_sam import AdaptedSAM

SENTENCES = {"two and one": [0, 1], "two and none": [0, 2], "none": [2, 2]}  # phrases of the two clips
FROZEN = (False, True)  # language model and encoders in bfloat16 but for what is trained
STAGE = "[{losses: [caption, giou, l1, objectness], lr: 1.0e-3, schedule: constant, epochs: 2}]"
LARGE = {  # kinds of parameters and activations that the large configurations have
    "video_encoder": {"dtype": "bfloat16", "gradient_checkpointing": True},
    "grounding_encoder": {"dtype": "bfloat16", "gradient_checkpointing": True, "size": 32},
    "language_model": {"frozen_dtype": "bfloat16", "gradient_checkpointing": True, "train": "embeddings"},
}


def chosen(batch: GroundedClipBatch, clips: Sequence[int]) -> GroundedClipBatch:
    """Some clips of a batch."""
    index = torch.tensor(clips)
    rows = torch.isin(batch.clip, index)
    names = ("mask", "times_s", "sizes", "index")
    lists = ("captions", "references", "truths", "clip_ids", "video_ids")
    return dataclasses.replace(
        batch,
        frames=[frames[index] for frames in batch.frames],
        clip=torch.searchsorted(index, batch.clip[rows]),
        boxes=batch.boxes[rows],
        visible=batch.visible[rows],
        **{name: getattr(batch, name)[index] for name in names},
        **{name: [getattr(batch, name)[k] for k in clips] for name in lists},
    )


def parts(frozen: bool) -> dict[str, Any]:
    """Arguments of a task whose frozen parts are as in the large configurations."""
    if not frozen:
        return {}
    return {
        "video_encoder": AdaptedCLIP("random", frames=T, adapters=[0, 1], dtype="bfloat16", config=CLIP),
        "grounding_encoder": AdaptedSAM(
            "random", frames=T, size=SIDE, dtype="bfloat16", config={**SAM, "image_size": 2 * SIDE}
        ),
        "language_model": LanguageModel("random", "words", frozen_dtype="bfloat16", config=LLAMA),
    }


def gradients(
    sentences: str, frozen: bool, clips: Sequence[int]
) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Losses of a step and the gradients of their sum, means over processes; evaluation draws no questions."""
    task = tiny_grove(awake=True, **parts(frozen))
    batch = chosen(tiny_clips((T, T), [CAPTIONS[k] for k in SENTENCES[sentences]]), clips)
    losses = task.step(batch, "val").losses
    torch.stack(list(losses.values())).sum().backward()
    grads = {name: p.grad for name, p in task.named_parameters() if p.grad is not None}
    values = {name: value.detach().clone() for name, value in losses.items()}
    if dist.is_initialized():
        for tensor in (*grads.values(), *values.values()):
            dist.all_reduce(tensor)
            tensor /= dist.get_world_size()
    return {name: value.item() for name, value in values.items()}, grads


def words(world: Path, devices: int) -> list[str]:
    """Options of a tiny run."""
    said = ["-c", "tasks/grove_tiny.yaml", "-c", "logger/csv.yaml", "-c", "trainer/cpu.yaml"]
    said += [f"--model.{part}.{key}={value}" for part, given in LARGE.items() for key, value in given.items()]
    said += ["--model.init_from=null", f"--model.stages={STAGE}", f"--data.root={world}", "--data.batch_size=1"]
    return [*said, "--data.num_workers=0", "--trainer.accumulate_grad_batches=2", f"--trainer.devices={devices}"]


def runs(out: Path, world: Path) -> None:
    """Two epochs with DDP; and one, then another one from the checkpoint, with all parameters divided."""
    main(["fit", *words(world, 2), "--trainer.strategy=ddp", f"--run_dir={out / 'whole'}"])
    divided = [*words(world, 2), "-c", "trainer/fsdp.yaml", "--trainer.accelerator=cpu", "--trainer.devices=2"]
    divided += [f"--run_dir={out / 'divided'}"]
    last = f"--ckpt_path={out / 'divided' / 'checkpoints' / 'last.ckpt'}"
    main(["fit", *divided, "--trainer.max_epochs=1"])
    main(["fit", *divided, last])
    main(["test", *divided, last])


def run(rank: int, out: Path, world: Path) -> None:
    """One process: with one of two clips, then runs."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": "2", "NODE_RANK": "0", "WANDB_MODE": "disabled"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    found = {(text, frozen): gradients(text, frozen, [rank]) for text in SENTENCES for frozen in FROZEN}
    torch.save(found, out / f"rank{rank}.pt")
    runs(out, world)
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ["MASTER_PORT"] = sys.argv[3]
    mp.spawn(run, (Path(sys.argv[1]), Path(sys.argv[2])), nprocs=2)
