"""Detectors: prompts, boxes and scores of each family with tiny random networks; the one by colour on ToyWorld."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import bert_tokenizer, clip_tokenizer, detector_config
from torch import Tensor, nn

from groundzoo.datamodules.toyworld.render import render_frames
from groundzoo.datamodules.toyworld.shapes import boxes as shape_boxes
from groundzoo.datamodules.toyworld.truth import visibility
from groundzoo.datamodules.toyworld.world import WorldConfig, script_video
from groundzoo.zoo import detection
from groundzoo.zoo.detection import ColourDetector, ZeroShotDetector

GROUNDING, OWL = ("grounding-dino", "mm-grounding-dino"), ("owlvit", "owlv2")
PHRASES = ["The red door", "door", "a box of the person"]
FRAMES = torch.randint(0, 256, (5, 3, 40, 60), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def build(kind: str, folder: Path, **options: Any) -> ZeroShotDetector:
    (bert_tokenizer() if kind in GROUNDING else clip_tokenizer()).save_pretrained(folder)
    if kind in GROUNDING:
        options = {"size": 64, **options}
    return ZeroShotDetector("random", config=detector_config(kind), tokenizer=folder, **options)


@pytest.fixture(scope="module", params=GROUNDING + OWL)
def detector(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ZeroShotDetector:
    return build(request.param, tmp_path_factory.mktemp("tokenizer"))


def stub(detector: ZeroShotDetector, monkeypatch: pytest.MonkeyPatch, boxes: Tensor, logits: Tensor) -> list[Any]:
    """The network answers the same to every frame; what it was asked is kept."""
    asked: list[Any] = []

    class Stub(nn.Module):
        config = detector.network.config

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, *inputs: Tensor, **named: Tensor) -> SimpleNamespace:
            asked.append((inputs, named))
            count = len(inputs[0] if inputs else named["pixel_values"])
            return SimpleNamespace(pred_boxes=boxes.expand(count, -1, -1), logits=logits.expand(count, -1, -1))

    monkeypatch.setattr(detector, "network", Stub())
    return asked


def test_one_box_per_phrase_and_frame(detector: ZeroShotDetector) -> None:
    boxes, scores = detector.detect(FRAMES, PHRASES)
    assert boxes.shape == (3, 5, 4)
    assert scores.shape == (3, 5)
    assert boxes.min() >= 0
    assert boxes[..., 2].max() <= 60
    assert boxes[..., 3].max() <= 40
    assert (boxes[..., 2:] >= boxes[..., :2]).all()
    assert ((scores >= 0) & (scores <= 1)).all()
    assert torch.equal(scores == 0, (boxes == 0).all(-1))


def test_batches_do_not_matter(detector: ZeroShotDetector, monkeypatch: pytest.MonkeyPatch) -> None:
    boxes, scores = detector.detect(FRAMES, PHRASES)
    monkeypatch.setattr(detector, "batch_size", 1)
    alone = detector.detect(FRAMES, PHRASES)
    assert torch.allclose(alone.scores, scores, atol=1e-5)
    assert torch.allclose(alone.boxes, boxes, atol=1e-2)


def test_a_phrase_scores_the_same_wherever_it_stands(detector: ZeroShotDetector) -> None:
    """For OWL only: Grounding DINO's image features depend on all that is asked."""
    if detector.kind in OWL:
        turned = detector.detect(FRAMES, PHRASES[::-1])
        assert torch.allclose(turned.scores.flip(0), detector.detect(FRAMES, PHRASES).scores, atol=1e-5)


def test_no_phrases(detector: ZeroShotDetector) -> None:
    assert detector.detect(FRAMES, []).boxes.shape == (0, 5, 4)


@pytest.mark.parametrize("phrase", ["", "  "])
def test_an_empty_phrase_is_refused(phrase: str, detector: ZeroShotDetector) -> None:
    with pytest.raises(ValueError, match="has no words to look for"):
        detector.detect(FRAMES, ["door", phrase])


def test_frozen_and_in_evaluation_mode(detector: ZeroShotDetector) -> None:
    detector.train()
    assert not any(module.training for module in detector.modules())
    assert not any(p.requires_grad for p in detector.parameters())


@pytest.mark.parametrize("kind", GROUNDING)
class TestGrounding:
    def test_prompt(self, kind: str, tmp_path: Path) -> None:
        detector = build(kind, tmp_path)
        ids, spans = detector._prompt(["The red door", "door", "Box of the person."])
        assert ids.tolist() == [bert_tokenizer()("the red door . door . box of the person .")["input_ids"]]
        texts = [bert_tokenizer().decode(ids[0][span]) for span in spans]
        assert texts == ["the red door", "door", "box of the person"]

    def test_a_phrase_within_another(self, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """[CLS] the red door . door . [SEP]: each phrase's probability is the mean of its own tokens'."""
        detector = build(kind, tmp_path)
        boxes = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.25, 0.25, 0.5, 0.5], [0.75, 0.5, 0.1, 0.2]])
        chances = torch.full((3, 24), 1e-4)
        chances[0, 1:4] = torch.tensor([0.6, 0.6, 0.6])  # the red door
        chances[1, 3] = 0.99  # its last word alone
        chances[2, 5] = 0.7  # door
        chances[2, 4], chances[0, 6] = 0.999, 0.999  # full stops
        stub(detector, monkeypatch, boxes, chances.logit())
        found, scores = detector.detect(FRAMES[:1], ["the red door", "door"])
        assert scores[:, 0].tolist() == pytest.approx([0.6, 0.7], abs=1e-3)
        assert found[0, 0].tolist() == pytest.approx([15, 10, 45, 30])
        assert found[1, 0].tolist() == pytest.approx([42, 16, 48, 24])

    def test_too_many_phrases(self, kind: str, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"12 phrases have 26 tokens, .*reads 24: ask for fewer"):
            build(kind, tmp_path).detect(FRAMES, ["door"] * 12)

    def test_frames_as_the_processor_makes_them(
        self, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from transformers import GroundingDinoImageProcessorPil

        detector = build(kind, tmp_path, size=None)
        asked = stub(detector, monkeypatch, torch.rand(1, 4), torch.zeros(1, 24))
        detector.detect(FRAMES[:1, :, :12], ["door"])  # 12 x 60: the longer side decides
        theirs = GroundingDinoImageProcessorPil()(FRAMES[0, :, :12].permute(1, 2, 0).numpy(), return_tensors="pt")
        ours = asked[0][0][0]
        assert ours.shape == theirs["pixel_values"].shape
        assert (ours - theirs["pixel_values"]).abs().max() < 0.02

    def test_from_a_folder(self, kind: str, tmp_path: Path) -> None:
        first = build(kind, tmp_path)
        first.network.save_pretrained(tmp_path)
        again = ZeroShotDetector(tmp_path, size=64).detect(FRAMES[:2], PHRASES)
        assert torch.allclose(again.scores, first.detect(FRAMES[:2], PHRASES).scores, atol=1e-5)


@pytest.mark.parametrize("kind", OWL)
class TestOwl:
    def test_prompt(self, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        detector = build(kind, tmp_path)
        asked = stub(detector, monkeypatch, torch.rand(4, 4), torch.zeros(4, 2))
        detector.detect(FRAMES[:3], ["red door", "door"])
        ids = asked[0][1]["input_ids"]
        assert ids.shape[0] == 3 * 2, "every frame has its own copy of the texts"
        texts = clip_tokenizer().batch_decode(ids, skip_special_tokens=True)
        assert [text.replace(" ", "") for text in texts] == ["aphotoofareddoor", "aphotoofadoor"] * 3

    def test_boxes(self, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """OWLv2's are relative to the square that the frame was padded to; what lies in the padding is none."""
        detector = build(kind, tmp_path)
        boxes = torch.tensor([[0.5, 0.25, 0.5, 0.5], [0.5, 0.9, 0.2, 0.1]])
        stub(detector, monkeypatch, boxes, torch.tensor([[0.0, -9], [3.0, 9]]))
        found, scores = detector.detect(FRAMES[:1], ["red door", "door"])
        if kind == "owlvit":
            assert found[0, 0].tolist() == pytest.approx([24, 34, 36, 38])
        else:
            assert found[0, 0].tolist() == pytest.approx([15, 0, 45, 30])
            assert scores[:, 0].tolist() == pytest.approx([0.5, torch.tensor(-9.0).sigmoid().item()])

    def test_frames(self, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """OWL-ViT's are squeezed into a square, OWLv2's padded with black, at the right or below."""
        from transformers import OwlViTImageProcessorPil

        smooth = torch.nn.functional.interpolate(FRAMES[:1, :, ::10, ::10].float(), (40, 60), mode="bilinear")
        frames = smooth.to(torch.uint8)
        detector = build(kind, tmp_path)
        asked = stub(detector, monkeypatch, torch.rand(1, 4), torch.zeros(1, 1))
        detector.detect(frames, ["door"])
        if kind == "owlv2":
            square = torch.zeros(1, 3, 60, 60, dtype=torch.uint8)
            square[:, :, :40] = frames
            frames = square
        processor = OwlViTImageProcessorPil(size={"height": 32, "width": 32}, do_center_crop=False)
        theirs = processor(frames[0].permute(1, 2, 0).numpy(), return_tensors="pt")["pixel_values"]
        assert (asked[0][1]["pixel_values"] - theirs).abs().mean() < 0.03

    def test_size_is_the_network_s(self, kind: str, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="leave `size` out"):
            build(kind, tmp_path, size=64)


def test_other_models_are_refused() -> None:
    with pytest.raises(ValueError, match="of type vit; a detector is one of grounding-dino"):
        ZeroShotDetector("random", config={"model_type": "vit"})
    with pytest.raises(ValueError, match="without a vocabulary"):
        ZeroShotDetector("random", config=detector_config("owlvit"))
    with pytest.raises(ValueError, match=r"not on this machine.*download: true"):
        ZeroShotDetector("nobody/dino-nowhere")


# ---- by colour ---------------------------------------------------------------------------------------------


def test_colours_of_toyworld() -> None:
    overlaps, absent = [], []
    for index in range(5):
        video = script_video(WorldConfig(shared_colour=0), 5, index)
        frames = torch.from_numpy(np.stack(list(render_frames(video))[:40:8])).permute(0, 3, 1, 2)
        colours = [actor.colour for actor in video.actors]
        boxes, scores = ColourDetector().detect(frames, [f"the {colour} shape" for colour in colours])
        for i, actor in enumerate(video.actors):
            truth = torch.from_numpy(shape_boxes(actor.shape, video.tracks[:40:8, i]))
            clear = torch.from_numpy(visibility(video, i)[:40:8]) > 0.9
            low, high = torch.maximum(truth[:, :2], boxes[i, :, :2]), torch.minimum(truth[:, 2:], boxes[i, :, 2:])
            both = (high - low).clamp(min=0).prod(1)
            whole = (truth[:, 2:] - truth[:, :2]).prod(1) + (boxes[i, :, 2:] - boxes[i, :, :2]).prod(1) - both
            overlaps.append((both / whole)[clear])
            assert scores[i][clear].min() > 0.8
        others = [colour for colour in detection.COLOURS if colour not in colours]
        absent.append(ColourDetector().detect(frames, others).scores.flatten())
    assert torch.cat(overlaps).min() > 0.6
    assert torch.cat(overlaps).mean() > 0.8
    assert torch.cat(absent).max() < 0.3


def test_the_largest_region_is_taken() -> None:
    frames = torch.full((1, 3, 20, 30), 30, dtype=torch.uint8)
    red = torch.tensor(detection.COLOURS["red"], dtype=torch.uint8)[:, None, None]
    frames[0, :, 2:5, 2:5] = red
    frames[0, :, 8:14, 10:20] = red
    frames[0, :, 14, 20] = red[:, 0, 0]  # touches at a corner
    boxes, scores = ColourDetector().detect(frames, ["a red square"])
    assert boxes[0, 0].tolist() == [10, 8, 21, 15]
    assert scores[0, 0] == 1
    assert ColourDetector().detect(frames, ["blue"]).scores.tolist() == [[0]]


def test_a_phrase_without_a_colour() -> None:
    with pytest.raises(ValueError, match="'a triangle' names none of the colours red, "):
        ColourDetector().detect(FRAMES, ["red", "a triangle"])
