"""Loads checkpoints of DRN's released code (github.com/Alvin-Zeng/DRN) by their own parameter names.

As a command it turns one into a checkpoint for `groundzoo test` and `groundzoo.load`::

    python -m groundzoo.tasks.drn_released THEIRS.pth Charades_word2id.json OURS.ckpt
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from ..zoo.text.word_lstm import WordLSTM
from ..zoo.video.precomputed import Precomputed
from .drn import DRN, RELEASED_LOSS

PREFIXES = {
    "query_encoder.embedding.": "text_encoder.embedding.",
    "query_encoder.biLSTM.": "text_encoder.lstm.",
    "query_encoder.qInput.": "network.attention.w3.",
    "query_encoder.cmd_inter2logits.": "network.attention.w1.",
    "prop_fc.": "network.video_projection.",
    "position_transform.": "network.location_embedding.",
    "fcos.head.cls_tower.": "network.head.match_tower.",
    "fcos.head.bbox_tower.": "network.head.location_tower.",
    "fcos.head.cls_logits.": "network.head.match.",
    "fcos.head.bbox_pred.": "network.head.distance.",
    "fcos.head.mix_fc.": "network.head.quality.0.",
    "fcos.head.iou_scores.0.": "network.head.quality.1.0.",
    "fcos.head.iou_scores.1.": "network.head.quality.1.1.",
    "fcos.head.iou_scores.3.": "network.head.quality.2.",
    **{f"query_encoder.qInput{i}.": f"network.attention.w2.{i}." for i in range(3)},
    **{f"qInput{i}.": f"network.query_projection.{i}." for i in range(3)},
    **{f"backbone_net.forward_conv{i}.": f"network.backbone.{i}." for i in range(3)},
    **{f"fpn.fpn_inner{i + 1}.": f"network.pyramid.lateral.{i}." for i in range(3)},
    **{f"fcos.head.scales.{i}.scale": f"network.head.scales.{i}" for i in range(3)},
    **{f"fpn.fpn_layer{i + 1}.": f"network.pyramid.output.{i}." for i in range(3)},
}
UNUSED = ("query_encoder.textualAttention.", "fcos.head.centerness.")


def released_name(name: str) -> str | None:
    """This package's name of a parameter of the released code; None for the two modules it never uses.

    Raises:
        KeyError: no such parameter in the released code.
    """
    name = name.removeprefix("module.")
    if name.startswith(UNUSED):
        return None
    for theirs, ours in PREFIXES.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    raise KeyError(f"'{name}' is not a parameter of the released DRN")


def load_released(task: DRN, state_dict: dict[str, Tensor], vocabulary: Sequence[str]) -> None:
    """Load a checkpoint of the released code, strictly.

    Args:
        task: a DRN of the same widths with a `WordLSTM`.
        state_dict: the authors' names, with or without ``module.``.
        vocabulary: words in the order of their ids from 1 on (``Charades_word2id.json``). The released table
            has no row for unknown words: theirs becomes zero.
    """
    renamed = {ours: value for name, value in state_dict.items() if (ours := released_name(name)) is not None}
    table = renamed["text_encoder.embedding.weight"]
    if len(table) != len(vocabulary) + 1:
        raise ValueError(f"the checkpoint has {len(table) - 1} words, the vocabulary {len(vocabulary)}")
    renamed["text_encoder.embedding.weight"] = torch.cat([table, torch.zeros_like(table[:1])])
    task.text_encoder.set_vocabulary(vocabulary)
    counters = {k: v for k, v in task.state_dict().items() if k.endswith("num_batches_tracked")}
    others = {k: v for k, v in task.state_dict().items() if k.startswith(("video_encoder.", "metrics."))}
    task.load_state_dict(counters | others | renamed)
    task.enter_stage(len(task.stages) - 1)


def convert(theirs: Path, vocabulary: Path, out: Path, window: int = 16, stride: int = 8) -> None:
    """Turn a checkpoint of the released code into one of this package.

    Args:
        theirs: the authors' file: a state dict, bare or under ``state_dict``.
        vocabulary: their JSON file of words and ids.
        out: the new checkpoint.
        window: frames per feature vector, 16 for their C3D and 64 for their I3D features.
        stride: frames between feature vectors.
    """
    loaded: dict[str, Any] = torch.load(theirs, map_location="cpu", weights_only=True)
    state = {k.removeprefix("module."): v for k, v in loaded.get("state_dict", loaded).items()}
    ids: dict[str, int] = json.loads(vocabulary.read_text(encoding="utf-8"))
    dim, text = len(state["prop_fc.weight"]), state["query_encoder.embedding.weight"].shape[1]
    task = DRN(Precomputed(dim, window, stride), WordLSTM(text), loss=RELEASED_LOSS)
    load_released(task, state, sorted(ids, key=ids.__getitem__))
    video = {"class_path": "groundzoo.zoo.video.precomputed.Precomputed"}
    task.recipe = {
        "class_path": "groundzoo.tasks.drn.DRN",
        "init_args": {
            "video_encoder": video | {"init_args": {"dim": dim, "window": window, "stride": stride}},
            "text_encoder": {
                "class_path": "groundzoo.zoo.text.word_lstm.WordLSTM",
                "init_args": {"embedding_dim": text},
            },
        },
    }
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(task)
    trainer.save_checkpoint(out, weights_only=True)


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(convert, as_positional=True)
