"""Grounded captions of frames: phrases found in their sentence; Florence-2 and captioner with detector, tiny."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_annotators
import torch
from tiny_models import save
from torch import Tensor

from groundzoo.zoo.detection import ColourDetector, Detections, Detector
from groundzoo.zoo.frame_captioning import DetectingCaptioner, Florence2Captioner, ground, plain_text

FRAMES = torch.randint(0, 256, (3, 3, 40, 80), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
TIMES = (0.0, 0.2, 0.4)


@pytest.fixture(scope="module")
def florence(tmp_path_factory: pytest.TempPathFactory) -> Florence2Captioner:
    return Florence2Captioner(tiny_annotators.florence(tmp_path_factory.mktemp("florence")), max_new_tokens=12)


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_annotators.blip(tmp_path_factory.mktemp("blip"))


def say(captioner: Any, monkeypatch: pytest.MonkeyPatch, *rounds: list[str]) -> list[Any]:
    """The network answers with these texts, one list per pass; what it is given is kept."""
    given: list[Any] = []
    answers = iter(rounds)
    tokenizer = captioner.processor.tokenizer

    def generate(**inputs: Any) -> Tensor:
        given.append(inputs)
        rows = [[2, *tokenizer(text, add_special_tokens=False)["input_ids"], 2] for text in next(answers)]
        longest = max(map(len, rows))
        return torch.tensor([row + [1] * (longest - len(row)) for row in rows])

    monkeypatch.setattr(captioner.network, "generate", generate)
    return given


# ---- phrases in their sentence ---------------------------------------------------------------------------


def test_phrases_are_found_in_the_order_of_the_sentence() -> None:
    found = [("door", [[0, 0, 10, 10]]), ("A Man", [[5, 5, 20, 20], [1, 1, 2, 2]])]
    told = ground("a man at the door", found, (80, 40))
    assert told.caption.phrases == ["a man", "door"]
    assert told.boxes == (((5, 5, 20, 20), (1, 1, 2, 2)), ((0, 0, 10, 10),))


def test_equal_phrases_take_the_next_free_place() -> None:
    found = [
        ("a man", [[0, 0, 5, 5]]),
        ("a man", [[6, 6, 9, 9]]),
        ("a man", [[1, 1, 2, 2]]),
        ("man", [[3, 3, 4, 4]]),
    ]
    told = ground("a man sees a man", found, (80, 40))
    assert told.caption.spans == ((0, 5), (11, 16)), "what overlaps is left out"
    assert told.boxes == (((0, 0, 5, 5),), ((6, 6, 9, 9),))


def test_what_is_no_use_is_left_out() -> None:
    found = [
        ("a dog", [[0, 0, 5, 5]]),
        ("a man", [[80, 0, 99, 5], [7, 7, 7, 9]]),
        ("", [[0, 0, 5, 5]]),
        ("hat", []),
    ]
    assert ground("a man in a hat", found, (80, 40)).caption.spans == ()
    cut = ground("a man", [("a man", [[-4, 3, 200, 90]])], (80, 40))
    assert cut.boxes == (((0, 3, 80, 40),),)


def test_special_tokens_are_no_text() -> None:
    assert plain_text(" a <loc_3><loc_4> man\n</s>") == "a man"


# ---- Florence-2 ------------------------------------------------------------------------------------------


def test_florence_asks_for_a_caption_and_then_for_its_phrases(
    florence: Florence2Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    grounded = "A man<loc_0><loc_0><loc_499><loc_999>the door<loc_500><loc_0><loc_999><loc_999>"
    given = say(florence, monkeypatch, ["A man at the door", "", "nothing"], [grounded, "nothing"])
    one, two, three = florence.describe(FRAMES, "v", TIMES)
    assert one.caption.text == "A man at the door"
    assert one.caption.phrases == ["A man", "the door"]
    assert one.boxes[1][0] == pytest.approx((40.04, 0.02, 79.96, 39.98)), "middles of thousandths"
    assert (two.caption.text, two.boxes) == ("", ())
    assert (three.caption.text, three.caption.spans) == ("nothing", ())
    asked = [florence.processor.batch_decode(inputs["input_ids"], skip_special_tokens=True) for inputs in given]
    assert asked[0] == ["What does the image describe?"] * 3
    assert asked[1] == ["Locate the phrases in the caption: " + t for t in ("A man at the door", "nothing")]
    assert len(given[1]["pixel_values"]) == 2, "an empty caption has no phrases"
    assert torch.equal(given[1]["pixel_values"], given[0]["pixel_values"][[0, 2]])


def test_several_boxes_of_one_phrase_are_kept(
    florence: Florence2Captioner, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes = "<loc_0><loc_0><loc_250><loc_500><loc_500><loc_500><loc_750><loc_999>"
    say(florence, monkeypatch, ["two doors"], [f"two doors{boxes}"])
    (told,) = florence.describe(FRAMES[:1], "v", TIMES[:1])
    assert told.caption.phrases == ["two doors"]
    assert len(told.boxes[0]) == 2


def test_florence_itself(florence: Florence2Captioner) -> None:
    told = florence.describe(FRAMES, "v", TIMES)
    assert len(told) == 3
    assert not any("<" in caption.caption.text for caption in told)
    florence.train()
    assert not any(module.training for module in florence.modules())
    assert not any(p.requires_grad for p in florence.parameters())


def test_precision_follows_the_network(florence: Florence2Captioner, monkeypatch: pytest.MonkeyPatch) -> None:
    florence.to(torch.bfloat16)
    try:
        given = say(florence, monkeypatch, [""])
        florence.describe(FRAMES[:1], "v", TIMES[:1])
        assert given[0]["pixel_values"].dtype == torch.bfloat16
        assert given[0]["input_ids"].dtype == torch.int64
    finally:
        florence.to(torch.float32)


# ---- captioner and detector ------------------------------------------------------------------------------


class Halves(Detector):
    """Finds the left half, less surely the longer the phrase."""

    def detect(self, frames: Tensor, phrases: Any) -> Detections:
        if any("box" in phrase for phrase in phrases):
            raise ValueError("no boxes, please")
        width, height = frames.shape[3], frames.shape[2]
        boxes = torch.tensor([0.0, 0.0, width / 2, height]).expand(len(phrases), len(frames), 4)
        return Detections(boxes, torch.tensor([[1 / len(p.split())] * len(frames) for p in phrases]))


def test_phrases_of_a_caption_are_looked_for(blip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captioner = DetectingCaptioner(blip, Halves(), min_score=0.5)
    monkeypatch.setattr(
        captioner.processor, "batch_decode", lambda *_, **__: ["a person opens the red door of a box ."] * 2
    )
    monkeypatch.setattr(captioner.network, "generate", lambda **_: torch.zeros(2, 3))
    told = captioner.describe(FRAMES[:2], "v", TIMES[:2])
    assert told[0].caption.phrases == ["a person"], "three words are not sure enough, and boxes are refused"
    assert told[0].boxes == (((0, 0, 40, 40),),)
    assert told[1] == told[0]


def test_captioner_and_detector_themselves(blip: Path) -> None:
    captioner = DetectingCaptioner(blip, ColourDetector(), max_new_tokens=8)
    told = captioner.describe(FRAMES, "v", TIMES)
    assert len(told) == 3
    assert all(caption.caption.text for caption in told)


# ---- mistakes --------------------------------------------------------------------------------------------


def test_weights_that_are_not_here_or_no_captioner(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not on this machine"):
        Florence2Captioner(str(tmp_path / "none"))
    folder = save(tmp_path, "vit", "ViTModel")
    with pytest.raises(ValueError, match="type vit: not one for Florence2Captioner"):
        Florence2Captioner(folder)
    with pytest.raises(ValueError, match="type vit: not one for DetectingCaptioner"):
        DetectingCaptioner(folder, ColourDetector())
