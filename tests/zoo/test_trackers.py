"""Trackers: the weightless one on drawn scenes, SAM 2 and EdgeTAM with tiny random networks."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import tracker_config
from torch import Tensor
from torch.nn import functional as F

from groundzoo.datamodules.toyworld.render import render_frames
from groundzoo.datamodules.toyworld.shapes import boxes as shape_boxes
from groundzoo.datamodules.toyworld.truth import visibility
from groundzoo.datamodules.toyworld.world import WorldConfig, script_video
from groundzoo.zoo.tracking import sam
from groundzoo.zoo.tracking.base import Tracker
from groundzoo.zoo.tracking.sam import Sam2Tracker, mask_boxes
from groundzoo.zoo.tracking.template import TemplateTracker

RED, BLUE, GREY = (222, 52, 48), (66, 112, 242), (112, 112, 112)


def scene(num_frames: int = 12, height: int = 72, width: int = 96) -> Tensor:
    """A dark stage with noise, (T, 3, H, W)."""
    noise = torch.randn(3, height, width, generator=torch.Generator().manual_seed(0)) * 3
    return (noise + 35).round().clamp(0, 255).to(torch.uint8)[None].repeat(num_frames, 1, 1, 1)


def paint(frames: Tensor, boxes: Tensor, colour: tuple[int, int, int]) -> Tensor:
    """Rectangles, one per frame; in place."""
    for frame, (x0, y0, x1, y1) in zip(frames, boxes.long().tolist(), strict=True):
        frame[:, max(y0, 0) : y1, max(x0, 0) : x1] = torch.tensor(colour, dtype=torch.uint8)[:, None, None]
    return frames


def path(*places: tuple[int, int], side: int = 14) -> Tensor:
    """Boxes (T, 4) with these top left corners."""
    corner = torch.tensor(places, dtype=torch.float32)
    return torch.cat([corner, corner + side], 1)


def walk(num_frames: int = 12, speed: int = 4, side: int = 14) -> Tensor:
    return path(*[(10 + speed * t, 20 + t) for t in range(num_frames)], side=side)


def iou(one: Tensor, two: Tensor) -> Tensor:
    both = (torch.minimum(one[..., 2:], two[..., 2:]) - torch.maximum(one[..., :2], two[..., :2])).clamp(min=0)
    areas = (one[..., 2:] - one[..., :2]).prod(-1) + (two[..., 2:] - two[..., :2]).prod(-1)
    return both.prod(-1) / (areas - both.prod(-1))


def follow(tracker: Tracker, frames: Tensor, truth: Tensor, start: int) -> tuple[Tensor, Tensor]:
    tracks = tracker.track(frames, truth[start][None], torch.tensor([start]))
    return tracks.boxes[0], tracks.scores[0]


@pytest.fixture(scope="module")
def template() -> TemplateTracker:
    return TemplateTracker()


class TestTemplate:
    def test_a_moving_thing_in_both_directions(self, template: TemplateTracker) -> None:
        truth = walk()
        boxes, scores = follow(template, paint(scene(), truth, RED), truth, 5)
        assert torch.equal(boxes[5], truth[5])
        assert scores[5] == 1
        assert iou(boxes, truth).min() > 0.85
        assert scores.min() > 0.85

    def test_it_grows_and_changes_its_shape(self, template: TemplateTracker) -> None:
        truth = torch.stack([torch.tensor([30.0 - t, 30 - t / 2, 42 + t, 42 + t / 2]).round() for t in range(12)])
        boxes, scores = follow(template, paint(scene(), truth, BLUE), truth, 0)
        assert iou(boxes, truth).min() > 0.8
        assert scores.min() > 0.7

    def test_hidden_then_found_again_elsewhere(self, template: TemplateTracker) -> None:
        truth = walk()
        frames = paint(scene(), truth, RED)
        frames[5:9, :, 15:50, 25:75] = GREY[0]
        boxes, scores = follow(template, frames, truth, 1)
        assert scores[5:9].max() < 0.1
        assert torch.equal(boxes[6], boxes[5]), "a lost thing's box stays where it was"
        assert iou(boxes, truth)[9:].min() > 0.85
        assert scores[9:].min() > 0.85

    def test_a_cut_away_scores_zero(self, template: TemplateTracker) -> None:
        truth = walk()
        frames = paint(scene(), truth, RED)
        frames[6:] = scene(6)
        _, scores = follow(template, frames, truth, 0)
        assert scores[6:].max() < 0.05

    def test_the_search_widens_with_time(self, template: TemplateTracker) -> None:
        truth = path(*[(8, 8)] * 4, *[(72, 48)] * 8)
        frames = paint(scene(), truth, RED)
        frames[4:9] = scene(5)
        boxes, scores = follow(template, frames, truth, 0)
        assert iou(boxes, truth)[9:].min() > 0.85
        assert scores[9:].min() > 0.85

    @pytest.mark.parametrize("side", ["left", "right", "top", "bottom"])
    @pytest.mark.parametrize("colour", [RED, BLUE, (236, 236, 236)])
    def test_a_mostly_covered_first_frame(
        self, side: str, colour: tuple[int, int, int], template: TemplateTracker
    ) -> None:
        truth = walk()
        frames = paint(scene(), truth, colour)
        x0, y0, x1, y1 = truth[4].long().tolist()
        cover = {
            "left": (x0 - 3, y0 - 3, x0 + 10, y1 + 3),
            "right": (x0 + 4, y0 - 3, x1 + 3, y1 + 3),
            "top": (x0 - 3, y0 - 3, x1 + 3, y0 + 10),
            "bottom": (x0 - 3, y0 + 4, x1 + 3, y1 + 3),
        }[side]
        paint(frames[4:5], torch.tensor([cover]), GREY)
        boxes, scores = follow(template, frames, truth, 4)
        assert iou(boxes, truth).min() > 0.8
        assert scores.min() > 0.8

    def test_a_blurred_first_frame(self, template: TemplateTracker) -> None:
        truth = walk()
        frames = paint(paint(scene(), truth, RED), path(*[(60, 50)] * 12), BLUE)
        line = torch.exp(-0.5 * (torch.arange(-12, 13) / 4.0).square())
        kernel = (line[:, None] * line / line.sum().square()).expand(3, 1, -1, -1)
        padded = F.pad(frames[4:5].float(), (12,) * 4, mode="reflect")
        frames[4] = F.conv2d(padded, kernel, groups=3)[0].to(torch.uint8)
        boxes, scores = follow(template, frames, truth, 4)
        assert iou(boxes, truth).min() > 0.7
        assert scores.min() > 0.5

    def test_another_of_the_same_colour_is_not_taken_for_it(self, template: TemplateTracker) -> None:
        truth = path(*[(10, 10)] * 12)
        frames = paint(paint(scene(), truth, RED), path(*[(60, 45)] * 12, side=16), RED)
        frames[5:] = paint(frames[5:], truth[5:] + torch.tensor([-2, -2, 2, 2]), GREY)
        boxes, scores = follow(template, frames, truth, 0)
        assert scores[5:].max() < 0.1
        assert iou(boxes, truth).min() > 0.8

    def test_things_do_not_disturb_each_other(self, template: TemplateTracker) -> None:
        red, blue = walk(), path(*[(70 - 2 * t, 50) for t in range(12)])
        frames = paint(paint(scene(), red, RED), blue, BLUE)
        both = template.track(frames, torch.stack([blue[7], red[2]]), torch.tensor([7, 2]))
        for k, (truth, start) in enumerate([(blue, 7), (red, 2)]):
            boxes, scores = follow(template, frames, truth, start)
            assert torch.allclose(both.boxes[k], boxes)
            assert torch.allclose(both.scores[k], scores, atol=1e-5)

    def test_backwards_is_forwards_in_the_reversed_video(self, template: TemplateTracker) -> None:
        truth = walk()
        frames = paint(scene(), truth, RED)
        boxes, scores = follow(template, frames, truth, 3)
        back, certain = follow(template, frames.flip(0), truth.flip(0), 8)
        assert torch.allclose(back.flip(0), boxes)
        assert torch.allclose(certain.flip(0), scores, atol=1e-5)

    def test_larger_frames_are_scaled_down(self, template: TemplateTracker) -> None:
        truth = walk()
        frames = paint(scene(), truth, RED)
        big = frames.repeat_interleave(5, 2).repeat_interleave(5, 3)
        boxes, scores = follow(template, big, 5 * truth, 3)
        assert boxes[8].max() > 96
        assert iou(boxes, 5 * truth).min() > 0.8
        assert scores.min() > 0.8

    def test_toyworld(self, template: TemplateTracker) -> None:
        """Few videos; the benchmark has more."""
        right, scores = [], []
        for index in range(4):
            video = script_video(WorldConfig(occlusion=0.5), 3, index)
            frames = torch.from_numpy(np.stack(list(render_frames(video))))[:60:2].permute(0, 3, 1, 2)
            for i, actor in enumerate(video.actors):
                truth = torch.from_numpy(shape_boxes(actor.shape, video.tracks[:60:2, i]))
                visible = torch.from_numpy(visibility(video, i)[:60:2])
                start = int(visible.argmax())
                boxes, score = follow(template, frames, truth, start)
                right.append((iou(boxes, truth) > 0.5) & (visible >= 0.2))
                scores.append(score)
        good, score = torch.cat(right), torch.cat(scores)
        assert 0.5 < good.float().mean() < 1, "hidden frames are part of the test"
        assert good[score > 0.5].float().mean() > 0.95, "what scores high is right"
        assert (score > 0.5)[good].float().mean() > 0.95, "what is right scores high"

    def test_nothing_and_a_single_frame(self, template: TemplateTracker) -> None:
        none = template.track(scene(), torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
        assert none.boxes.shape == (0, 12, 4)
        assert none.scores.shape == (0, 12)
        boxes, scores = follow(template, paint(scene(1), walk(1), RED), walk(1), 0)
        assert torch.equal(boxes, walk(1))
        assert scores.tolist() == [1]

    def test_a_box_without_anything_in_it(self, template: TemplateTracker) -> None:
        boxes, scores = follow(template, scene(), walk(), 3)
        assert boxes.isfinite().all()
        assert scores.isfinite().all()
        assert scores[torch.arange(12) != 3].max() < 0.5


# ---- SAM 2 and EdgeTAM -----------------------------------------------------------------------------------

KINDS = ("sam2_video", "edgetam_video")
BOXES = torch.tensor([[5.0, 6, 30, 40], [10, 10, 50, 30], [20, 3, 44, 21]])
STARTS = torch.tensor([2, 7, 2])


@pytest.fixture(scope="module", params=KINDS)
def tracker(request: pytest.FixtureRequest) -> Sam2Tracker:
    """Random weights that are large enough for masks to depend on what is seen."""
    made = Sam2Tracker("random", config=tracker_config(request.param))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in made.network.named_parameters():
        if parameter.ndim > 1 or "memory_temporal" in name:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 1.5 / parameter[0].numel() ** 0.5)
    return made


@pytest.fixture(scope="module")
def video() -> Tensor:
    frames = paint(paint(scene(10, 48, 60), walk(10), RED), path(*[(30, 4)] * 10), BLUE)
    frames[6] = 255 - frames[6]
    return frames


def test_sam_results(tracker: Sam2Tracker, video: Tensor) -> None:
    tracks = tracker.track(video, BOXES, STARTS)
    assert tracks.boxes.shape == (3, 10, 4)
    assert tracks.scores.shape == (3, 10)
    assert torch.equal(tracks.boxes[torch.arange(3), STARTS], BOXES)
    assert tracks.scores[torch.arange(3), STARTS].tolist() == [1, 1, 1]
    assert tracks.scores.min() >= 0
    assert tracks.scores.max() <= 1
    assert tracks.boxes[..., 2].max() <= 60
    assert tracks.boxes[..., 3].max() <= 48
    assert tracks.scores[:, 3:6].std() > 0.001, "the random network must not say the same of all frames"


def test_sam_follows_each_thing_as_if_alone(tracker: Sam2Tracker, video: Tensor) -> None:
    together = tracker.track(video, BOXES, STARTS)
    for k in (2, 0, 1):
        alone = tracker.track(video, BOXES[k : k + 1], STARTS[k : k + 1])
        assert torch.equal(alone.boxes[0], together.boxes[k])
        assert torch.allclose(alone.scores[0], together.scores[k], atol=1e-5)


def test_sam_backwards_is_forwards_in_the_reversed_video(tracker: Sam2Tracker, video: Tensor) -> None:
    tracks = tracker.track(video, BOXES, STARTS)
    back = tracker.track(video.flip(0), BOXES, 9 - STARTS)
    assert torch.allclose(back.scores.flip(1), tracks.scores, atol=1e-5)
    assert torch.equal(back.boxes.flip(1), tracks.boxes)


def test_sam_is_what_transformers_propagates(tracker: Sam2Tracker, video: Tensor) -> None:
    """Its own loop over a whole video in memory, with nothing forgotten."""
    prepared = sam._Frames(video, tracker.size, torch.device("cpu"), torch.float32)
    session = tracker._sessions(prepared, BOXES[:1], [0])[0]
    session.processed_frames = {t: prepared[t] for t in range(len(video))}
    out = list(tracker.network.propagate_in_video_iterator(session, start_frame_idx=0))
    masks = torch.cat([o.pred_masks[:, 0] for o in out])
    boxes, there = mask_boxes(masks, (48, 60))
    scores = torch.cat([o.object_score_logits for o in out]).flatten().sigmoid() * there
    tracks = tracker.track(video, BOXES[:1], torch.tensor([0]))
    assert torch.allclose(tracks.scores[0, 1:], scores[1:], atol=1e-5)
    assert torch.equal(tracks.boxes[0, 1:], boxes[1:])


def test_sam_box_prompt_in_the_network_s_pixels(tracker: Sam2Tracker, video: Tensor) -> None:
    prepared = sam._Frames(video, tracker.size, torch.device("cpu"), torch.float32)
    session = tracker._sessions(prepared, torch.tensor([[15.0, 12, 30, 36]]), [4])[0]
    prompt = session.point_inputs_per_obj[0][4]
    assert prompt["point_coords"].tolist() == [[[[16, 16], [32, 48]]]]  # 60 x 48 to 64 x 64
    assert prompt["point_labels"].tolist() == [[[2, 3]]]


def test_sam_encodes_each_frame_once_per_direction(tracker: Sam2Tracker, video: Tensor) -> None:
    seen = []
    hook = tracker.network.vision_encoder.register_forward_hook(lambda *_: seen.append(1))
    tracker.track(video, BOXES, STARTS)  # from frames 2 and 7: 2 to 9, then 7 to 0
    hook.remove()
    assert len(seen) == 8 + 8


def test_sam_frames_are_normalised() -> None:
    frames = torch.full((2, 3, 10, 20), 51, dtype=torch.uint8)
    frame = sam._Frames(frames, (8, 8), torch.device("cpu"), torch.float32)[1]
    expected = [(0.2 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    assert frame.shape == (3, 8, 8)
    assert torch.allclose(frame.amax((1, 2)), torch.tensor(expected), atol=1e-5)


def test_sam_frees_its_memory(tracker: Sam2Tracker, video: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    forget = sam._forget

    def counting(session: object, *arguments: object) -> None:
        forget(session, *arguments)  # type: ignore[arg-type]
        outputs = session.output_dict_per_obj[0]  # type: ignore[attr-defined]
        kept.append(len(outputs["non_cond_frame_outputs"]))
        stored = [*outputs["cond_frame_outputs"].values(), *outputs["non_cond_frame_outputs"].values()]
        assert not any("high_res_masks" in values for values in stored)

    monkeypatch.setattr(sam, "_forget", counting)
    tracker.track(video, BOXES[:1], torch.tensor([0]))
    assert len(kept) == 10 + 1
    assert max(kept) == tracker._horizon() == 4
    gc.collect()
    assert not [o for o in gc.get_objects() if type(o).__name__.endswith("VideoInferenceSession")]


def test_sam_is_frozen_and_in_evaluation_mode(tracker: Sam2Tracker) -> None:
    tracker.train()
    assert not any(module.training for module in tracker.modules())
    assert not any(p.requires_grad for p in tracker.parameters())


def test_sam_in_half_precision(video: Tensor) -> None:
    made = Sam2Tracker("random", config=tracker_config("sam2_video"), dtype="bfloat16")
    assert {p.dtype for p in made.parameters()} == {torch.bfloat16}
    tracks = made.track(video[:4], BOXES[:2], torch.tensor([1, 2]))
    assert tracks.boxes.dtype == tracks.scores.dtype == torch.float32
    assert tracks.scores.isfinite().all()


def test_sam_without_things(tracker: Sam2Tracker, video: Tensor) -> None:
    assert tracker.track(video, torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)).scores.shape == (0, 10)


def test_sam_from_a_folder(tracker: Sam2Tracker, video: Tensor, tmp_path: Path) -> None:
    tracker.network.save_pretrained(tmp_path)
    again = Sam2Tracker(tmp_path).track(video[:4], BOXES[:1], torch.tensor([1]))
    first = tracker.track(video[:4], BOXES[:1], torch.tensor([1]))
    assert torch.allclose(again.scores, first.scores, atol=1e-5)


def test_sam_refuses_other_models() -> None:
    with pytest.raises(ValueError, match="of type vit; a tracker is one of sam2_video, edgetam_video"):
        Sam2Tracker("random", config={"model_type": "vit"})
    with pytest.raises(ValueError, match=r"not on this machine.*download: true"):
        Sam2Tracker("nobody/sam2-nowhere")


def test_boxes_around_masks() -> None:
    logits = torch.full((4, 6, 8), -1.0)
    logits[0, 2:4, 3:7] = 1  # a rectangle
    logits[1, 0, 0] = logits[1, 5, 7] = 2  # two corners
    logits[2, 3, 3] = 0.5  # one pixel; the fourth is empty
    boxes, there = mask_boxes(logits, (6, 8))
    assert boxes.tolist() == [[3, 2, 7, 4], [0, 0, 8, 6], [3, 3, 4, 4], [0, 0, 0, 0]]
    assert there.tolist() == [True, True, True, False]


def test_masks_are_resized_before_the_threshold() -> None:
    logits = torch.full((1, 6, 8), -1.0)
    logits[0, 2:4, 3:7] = 1
    boxes, _ = mask_boxes(logits, (60, 80))
    assert boxes.tolist() == [[30, 20, 70, 40]]
    logits[0, 2:4, 3:7] = 3  # the edge is where the interpolated logits cross 0, farther out
    boxes, _ = mask_boxes(logits, (60, 80))
    assert boxes[0, 0] in (27, 28)
    assert boxes[0, 2] in (72, 73)
