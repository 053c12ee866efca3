"""STG's attention between cells and words against outputs of the authors' own layers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_files import golden_cases, golden_folder
from torch import Tensor

from groundzoo.zoo.contrastive import contrastive_loss
from groundzoo.zoo.pair_attention import PairAttention, rollout

pytestmark = pytest.mark.golden
TRAINING = 1e-6  # there, sqrt(d) is a number in single precision


def cases(pattern: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", golden_cases("stg", pattern), ids=lambda p: p.stem)


def read(path: Path) -> list[dict[str, Any]]:
    """All cases of a file: one, or a list."""
    found = json.loads(path.read_text(encoding="utf-8"))
    return found if isinstance(found, list) else [found]


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def close(ours: Tensor, theirs: Any, rtol: float = 1e-9) -> None:
    torch.testing.assert_close(ours.detach(), tensor(theirs), rtol=rtol, atol=1e-11)


class Branch:
    """Our module with the released weights, and the input of a case."""

    def __init__(self, case: dict[str, Any], chunk: int | None = None) -> None:
        self.module = PairAttention(case["d"], chunk=chunk, scale_in_evaluation=False).double()
        names = {"vis_attn_mat": "video_attention.0", "text_attn_mat": "text_attention.0"}
        state = {}
        for name, values in case["sa_state"].items():
            part, rest = name.split(".", 1)
            state[f"{names[part]}.{rest}"] = tensor(values)
        self.module.load_state_dict(state)
        self.video, self.text = tensor(case["video_tokens"]), tensor(case["text_tokens"])
        self.text_mask = torch.tensor(case["text_mask"]).bool()

    def evaluation(self, text: int) -> tuple[Tensor, Tensor, Tensor]:
        """Every video with one text."""
        n = len(self.video)
        return self.video, self.text[text].expand(n, -1, -1), self.text_mask[text].expand(n, -1)


@cases("local_branch*.json")
@pytest.mark.parametrize("chunk", [None, 1, 2])
def test_training(path: Path, chunk: int | None) -> None:
    for case in read(path):
        expected, branch = case["train"], Branch(case, chunk)
        batch = branch.video, branch.text, branch.text_mask
        video, text = branch.module(*batch)
        close(video, expected["video_pair_pooled"], TRAINING)
        close(text, expected["text_pair_pooled"], TRAINING)
        scores = branch.module.scores(*batch)
        close(scores, expected["scores"], TRAINING)
        joint = contrastive_loss(scores, margin=0, denominator="joint")
        close(joint, expected["loss_comma_milnce"], TRAINING)
        for name in [name for name in expected if name.startswith("loss_mms_")]:
            margin = float(name.removeprefix("loss_mms_").replace("p", "."))
            close(contrastive_loss(scores, margin), expected[name], TRAINING)


@cases("local_branch*.json")
def test_attention_in_training(path: Path) -> None:
    for case in read(path):
        expected, branch = case["train"], Branch(case)
        tokens = branch.module._tokens(branch.video, branch.text, branch.text_mask, None, aligned=False)
        attention: list[Tensor] = []
        close(branch.module._run(tokens, 0, 1).weights, expected["ca1_video_to_word_attn"], TRAINING)
        branch.module._run(tokens, 0, 3, attention)
        words = branch.text_mask.expand(len(branch.video), -1, -1)  # padding looks at cells there, too
        close(attention[0][words], tensor(expected["ca1_word_to_region_attn"])[words].tolist(), TRAINING)
        close(attention[2], expected["ca2_video_to_word_attn"], TRAINING)


@cases("local_branch*.json")
def test_heat_of_the_released_evaluation(path: Path) -> None:
    for case in read(path):
        expected, branch = case["eval"], Branch(case)
        branch.module.eval()
        batch = branch.evaluation(expected["text_index"])
        close(branch.module.heat(*batch), expected["heat"])
        mask = batch[2][:, :, None]
        attention: list[Tensor] = []
        branch.module._run(branch.module._tokens(*batch, None, aligned=True), 0, 3, attention)
        # there, rows of padded words are zero; here they are never looked at
        close(attention[0][:, 0] * mask, expected["ca1_word_to_region"])
        valid = mask[0, :, 0]
        close(attention[1][:, 0][:, valid], tensor(expected["sa_text"])[:, valid].tolist())
        close(attention[2][:, 0], expected["ca2_video_to_word"])


@cases("local_branch*.json")
def test_with_gradients_in_evaluation_the_same(path: Path) -> None:
    """Without gradients torch takes another way through its attention module."""
    for case in read(path):
        branch = Branch(case)
        branch.module.eval()
        batch = branch.video, branch.text, branch.text_mask
        with torch.inference_mode():
            without = branch.module.scores(*batch)
        torch.testing.assert_close(branch.module.scores(*batch).detach(), without.clone())


@cases("attention_rollout*.json")
def test_rollout(path: Path) -> None:
    for case in read(path):
        attention = tensor(case["att"])
        close(rollout(attention), case["with_residual"])
        close(rollout(attention, residual=False), case["no_residual"])


def test_the_golden_folder_is_read() -> None:
    folder = golden_folder("stg")
    if not folder.is_dir() and "GROUNDZOO_GOLDEN" not in os.environ:
        pytest.skip(f"{folder} does not exist (set GROUNDZOO_GOLDEN or GROUNDZOO_SHARED)")
    assert list(folder.glob("local_branch*.json")), f"{folder} holds no golden file of the local branch"
