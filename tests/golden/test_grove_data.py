"""Records, frames and windows of GROVE against the authors' program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from golden_files import golden_cases

from groundzoo.datamodules.grounded_records import GroundedClip, parse_record
from groundzoo.zoo.frame_windows import equal_parts, strided_windows, window_middles

pytestmark = pytest.mark.golden

records = pytest.mark.parametrize("path", golden_cases("grove", "annotation_parse*.json"), ids=lambda p: p.stem)
windows = pytest.mark.parametrize("path", golden_cases("grove", "windows*.json"), ids=lambda p: p.stem)


def load(path: Path) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads(path.read_text())
    assert cases
    return cases


@records
def test_sentence_and_phrases(path: Path) -> None:
    for case in load(path):
        clip, expected = parse_record(case["record"], path.name), case["expected"]
        assert clip.caption.text == expected["caption"]
        assert clip.caption.phrases == expected["labels"]
        assert [list(span) for span in clip.caption.spans] == expected["spans"]


@records
def test_boxes_and_objectness(path: Path) -> None:
    for case in load(path):
        clip, expected = parse_record(case["record"], path.name), case["expected"]
        numbers = [[number for number, _ in frame] for frame in clip.boxes]
        assert [[box for _, box in frame] for frame in clip.boxes] == expected["bboxes"]
        phrases = range(len(expected["labels"]))
        assert [[float(k in frame) for k in phrases] for frame in numbers] == expected["objectness"]
        assert GroundedClip.from_json(clip.to_json()) == clip, "what the index keeps"


@records
def test_frames(path: Path) -> None:
    for case in load(path):
        clip, record = parse_record(case["record"], path.name), case["record"]
        assert len(clip.frames) == len(record["bboxes"])
        assert clip.frames.step == int(record["fps"] / 5)
        assert clip.frames[0] == record["clip_start_frame"]
        assert clip.frames[-1] <= record["clip_end_frame"]


@windows
def test_windows(path: Path) -> None:
    for case in load(path):
        found = strided_windows(case["num_frames"], len(case["windows"][0]))
        assert found.index.tolist() == case["windows"]
        assert found.fresh.int().tolist() == case["masks"]
        assert found.caption == case["caption_window"]


@windows
def test_frames_of_validation(path: Path) -> None:
    for case in load(path):
        parts = len(case["val_indices"])
        assert window_middles(case["num_frames"], parts).tolist() == case["val_indices"]
        stretches = equal_parts(case["num_frames"], parts)
        assert all(k in part for k, part in zip(case["val_indices"], stretches, strict=True))
