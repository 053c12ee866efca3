"""The stand-in for GROVE's weights: what is true of cells, what learns when, and that it learns."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny_grove import CAPTIONS, T, tiny_clips, tiny_pretraining

from groundzoo.tasks.metrics.cell_words import CellWords, cell_records
from groundzoo.tasks.metrics.given_phrases import GivenPhrases, given_records
from groundzoo.tasks.phrase_pretraining import CellTruth, cell_middles, cells
from groundzoo.zoo.text.grounded_text import GroundedText
from groundzoo.zoo.video.spec import FrameSpec

SQUARE = FrameSpec(fps=5.0, window=1, stride=1, size=(32, 32))

# ---- cells ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "first", "last"),
    [
        (SQUARE, (0.125, 0.125), (0.875, 0.875)),  # squeezed: shares stay shares
        (dataclasses.replace(SQUARE, pad=True), (0.125, 0.25), (0.875, 1.75)),  # the lower half was filled up
        (dataclasses.replace(SQUARE, resize=32), (0.3125, 0.125), (0.6875, 0.875)),  # the middle was cut out
        (dataclasses.replace(SQUARE, size=(16, 16), resize=(32, 64)), (0.40625, 0.3125), (0.59375, 0.6875)),
    ],
    ids=["squeezed", "padded", "cut", "both"],
)
def test_cells_of_wide_frames(spec: FrameSpec, first: tuple[float, float], last: tuple[float, float]) -> None:
    middles = cell_middles(spec, torch.tensor([[128.0, 64.0]]), (4, 4))
    assert middles.shape == (1, 4, 4, 2)
    assert middles[0, 0, 0].tolist() == pytest.approx(first)
    assert middles[0, -1, -1].tolist() == pytest.approx(last)


def test_a_cell_has_the_words_of_all_and_the_box_of_the_smallest() -> None:
    captions = [GroundedText("a red circle and a blue cross", ((0, 12), (17, 29)))]
    batch = tiny_clips((T,), captions)
    boxes = torch.zeros(2, T, 4)
    boxes[0] = torch.tensor([0.5, 0.5, 1.0, 1.0])  # everywhere
    boxes[1] = torch.tensor([0.25, 0.25, 0.5, 0.5])  # left, above
    visible = torch.ones(2, T, dtype=torch.bool)
    visible[:, 1] = False
    visible[0, 2] = False
    batch = dataclasses.replace(batch, boxes=boxes * visible[..., None], visible=visible)
    hot = torch.tensor([[True, False, True], [False, True, True]])
    true = cells(batch, hot, SQUARE, (4, 4))
    assert true.words[0, 0, 0, 0].tolist() == [True, True, True]
    assert true.words[0, 0, 3, 3].tolist() == [True, False, True]
    assert true.box[0, 0, 0, 0].tolist() == [0.25, 0.25, 0.5, 0.5]
    assert true.box[0, 0, 3, 3].tolist() == [0.5, 0.5, 1.0, 1.0]
    assert not true.covered[0, 1].any()
    assert not true.words[0, 1].any()
    assert true.covered[0, 2].sum() == 4
    assert true.words[0, 2, 0, 0].tolist() == [False, True, True]


# ---- learning -------------------------------------------------------------------------------------------


def test_the_first_stage_trains_encoders_and_the_second_the_decoder() -> None:
    task, batch = tiny_pretraining(), tiny_clips()
    task.train()
    sum(task.step(batch, "train").losses.values()).backward()
    touched = {name.split(".")[0] for name, p in task.named_parameters() if p.grad is not None and p.grad.any()}
    assert touched == {"video_encoder", "grounding_encoder", "network"}
    task.zero_grad()
    task.enter_stage(1)
    task.train()
    sum(task.step(batch, "train").losses.values()).backward()
    touched = {name.split(".")[0] for name, p in task.named_parameters() if p.grad is not None}
    assert touched == {"box_decoder", "network"}
    assert set(task.step(batch, "val").losses) == {"words", "places", "giou", "l1", "objectness"}


def test_it_learns_what_is_said_of_cells_and_then_where_phrases_are() -> None:
    torch.manual_seed(0)
    task = tiny_pretraining()
    batch = tiny_clips()
    g = torch.Generator().manual_seed(3)
    frames = torch.zeros(2, T, 3, 32, 32, dtype=torch.uint8)
    for row, clip in enumerate(batch.clip.tolist()):
        for t in range(T):
            if batch.visible[row, t]:
                x, y, w, h = (batch.boxes[row, t] * 32).round().int().tolist()
                colour = torch.randint(100, 255, (3, 1, 1), generator=torch.Generator().manual_seed(row))
                frames[clip, t, :, y - h // 2 : y + h // 2, x - w // 2 : x + w // 2] = colour.to(torch.uint8)
    frames += torch.randint(0, 20, frames.shape, generator=g, dtype=torch.uint8)
    batch = dataclasses.replace(batch, frames=[frames, frames])
    before = {k: v.item() for k, v in task.step(batch, "val").losses.items()}
    for stage, steps in ((0, 60), (1, 100)):
        task.enter_stage(stage)
        task.train()
        optimizer = torch.optim.Adam([p for p in task.parameters() if p.requires_grad], lr=3e-3)
        for _ in range(steps):
            optimizer.zero_grad()
            sum(task.step(batch, "train").losses.values()).backward()
            optimizer.step()
    task.eval()
    after = {k: v.item() for k, v in task.step(batch, "val").losses.items()}
    assert after["words"] < before["words"] / 3
    assert after["places"] < before["places"] / 2
    assert after["l1"] < before["l1"] / 2
    assert after["giou"] < before["giou"]


def test_phrases_that_are_not_there_are_asked_for_and_seen_nowhere() -> None:
    task = tiny_pretraining()
    task.options = dataclasses.replace(task.options, absent=1.0)
    batch = tiny_clips((T, T), CAPTIONS[:2])
    hot = task._hot(batch)
    torch.manual_seed(0)
    drawn = [task._with_absent(hot, batch, "train") for _ in range(20)]
    swapped = 0
    for asked, seen in drawn:
        for row in range(len(hot)):
            if torch.equal(asked[row], hot[row]):
                assert torch.equal(seen[row], batch.visible[row])
                continue
            swapped += 1
            own = hot[batch.clip == batch.clip[row]]
            assert not seen[row].any()
            assert not (own == asked[row]).all(-1).any()
    assert swapped > 5
    same, seen = task._with_absent(hot, batch, "val")
    assert torch.equal(same, hot)
    assert torch.equal(seen, batch.visible)


# ---- metrics --------------------------------------------------------------------------------------------


def test_given_phrases_by_hand() -> None:
    true = torch.tensor([[[0.5, 0.5, 0.2, 0.2]] * 3])
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.5, 0.5, 0.09, 0.2], [0.9, 0.9, 0.1, 0.1]]])
    seen = torch.tensor([[True, True, False]])
    visible = torch.tensor([[0.9, 0.2, 0.7]])
    metric = GivenPhrases()
    metric.update([0, 1], given_records(boxes, visible, true, seen, torch.tensor([1]), 2))
    metric.update([1], given_records(boxes, visible, true, seen, torch.tensor([0]), 1))  # repeated: counts once
    values = {name: value.item() for name, value in metric.compute().items()}
    assert values["mIoU"] == pytest.approx(72.5)
    assert values["found"] == pytest.approx(50)
    assert values["objectness accuracy"] == pytest.approx(100 / 3)
    assert values["visible"] == pytest.approx(200 / 3)


def test_cell_words_by_hand() -> None:
    words = torch.tensor([True, True, False, False]).expand(1, 1, 1, 2, 4)
    logits = torch.tensor([[[[[3.0, 2.0, 1.0, 0.0], [3.0, 0.0, 2.0, 1.0]]]]])
    for covered, expected in (([True, True], 75), ([True, False], 100), ([False, True], 50)):
        true = CellTruth(words, torch.zeros(1, 1, 1, 2, 4), torch.tensor(covered).view(1, 1, 1, 2))
        metric = CellWords()
        metric.update([0], cell_records([(logits, true)]))
        assert metric.compute()["words"].item() == pytest.approx(expected)
