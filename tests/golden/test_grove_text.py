"""Tagged sentences and the places of detection states against the authors' program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_files import golden_cases

from groundzoo.zoo.language import det_states
from groundzoo.zoo.text.tagged_text import read_answer, read_tagged, write_answer

pytestmark = pytest.mark.golden


def load(path: Path) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    assert cases
    return cases


@pytest.mark.parametrize("path", golden_cases("grove", "annotation_parse*.json"), ids=lambda p: p.stem)
def test_annotations_and_what_is_to_be_said(path: Path) -> None:
    for case in load(path):
        record, expected = case["record"], case["expected"]
        found = read_tagged(record["tagged_caption"], record["phrases"])
        assert found.text == expected["caption"]
        assert found.phrases == expected["labels"]
        assert [list(span) for span in found.spans] == expected["spans"]
        assert write_answer(found) == expected["answer"]


@pytest.mark.parametrize("path", golden_cases("grove", "answer_parse*.json"), ids=lambda p: p.stem)
def test_answers(path: Path) -> None:
    for case in load(path):
        found = read_answer(case["raw"])
        assert found.text.text == case["text"]
        assert found.tagged == case["text_tagged"]
        assert found.closed == case["phrases"]
        assert found.detections == case["n_det"]
        paired = min(case["n_det"], len(case["phrases"]))
        assert found.text.phrases == [phrase for phrase in case["phrases"][:paired] if phrase]


@pytest.mark.parametrize("path", golden_cases("grove", "det_embeddings*.npz"), ids=lambda p: p.stem)
def test_states_that_predict_detection_tokens(path: Path) -> None:
    case = np.load(path, allow_pickle=False)
    ids, states = torch.from_numpy(case["input_ids"]), torch.from_numpy(case["hidden"]).float()
    is_det = F.pad(ids == int(case["det_id"]), (int(case["n_extra"]), 0))  # all stand behind the video
    found = det_states(states, is_det, "predicts")
    rows, places = torch.from_numpy(case["mask_pos"]).unbind(1)
    assert torch.equal(found, states[rows, places])
    assert torch.equal(det_states(states, is_det, "self"), states[rows, places + 1])
    frames, counts = int(case["n_frames"]), is_det.sum(1)
    assert counts.repeat_interleave(frames).tolist() == case["counts_per_frame"].tolist()
    clips = [part.repeat(frames, 1) for part in found.split(counts.tolist())]
    torch.testing.assert_close(torch.cat(clips), torch.from_numpy(case["emb_concat"]).float())
