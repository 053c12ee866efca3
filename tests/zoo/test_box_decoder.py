"""Boxes of phrases in frames: what is read from SAM's weights, who sees whom, and the losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from groundzoo.zoo.box_decoder import BoxDecoder, FoundBoxes
from groundzoo.zoo.box_losses import box_losses, giou_loss, iou_cxcywh, to_corners

MASKS = {"hidden_size": 32, "mlp_dim": 64, "num_attention_heads": 4}
CONFIG = {"model_type": "sam", "mask_decoder_config": MASKS}


def make(**options: Any) -> BoxDecoder:
    return BoxDecoder(**{"weights": "random", "config": CONFIG, **options})


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


QUERIES, IMAGE, CLIP = draw(5, 32), draw(3, 4, 3, 5, 32, seed=1), torch.tensor([0, 0, 1, 2, 2])


def sam(folder: Path | None = None) -> Any:
    """A tiny SAM with weights that leave traces."""
    from transformers import SamConfig, SamModel

    torch.manual_seed(3)
    vision = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64}
    vision |= {"patch_size": 8, "output_channels": 32, "num_pos_feats": 16, "global_attn_indexes": [1]}
    prompts = {"hidden_size": 32, "image_size": 64, "patch_size": 8}
    network = SamModel(SamConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=MASKS))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    if folder is not None:
        network.save_pretrained(folder)
    return network.eval()


# ---- weights -------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_what_is_read_from_a_sam_model(tmp_path: Path) -> None:
    network, decoder = sam(tmp_path), BoxDecoder(tmp_path)
    theirs = {f"mask_decoder.{k}": v for k, v in network.mask_decoder.state_dict().items()}
    mine = {f"mask_decoder.{k}": v for k, v in decoder.state_dict().items() if f"mask_decoder.{k}" in theirs}
    assert len(mine) > 80
    assert all(torch.equal(v, theirs[k]) for k, v in mine.items())
    kept = {name.split(".")[0] for name in decoder.state_dict()}
    assert kept == {
        *("transformer", "iou_token", "mask_tokens", "box_head", "objectness_head", "positions", "no_mask")
    }
    places = network.get_image_wide_positional_embeddings()
    torch.testing.assert_close(decoder.position_encoding(8, 8), places, rtol=1e-5, atol=1e-4)
    nothing = network.prompt_encoder(None, None, None, None)[1]
    assert torch.equal(decoder.no_mask, nothing[0, :, 0, 0])
    assert {m.eps for m in decoder.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-5}


@torch.no_grad()
def test_a_query_stands_last_beside_sams_own_tokens(tmp_path: Path) -> None:
    """The same through SAM's own decoder, whose blocks take queries as prompts."""
    network, decoder = sam(tmp_path), BoxDecoder(tmp_path)
    for module in network.mask_decoder.transformer.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-5
    seen: list[Tensor] = []
    network.mask_decoder.transformer.register_forward_hook(lambda m, i, o: seen.append(o[0][:, 0, -1]))
    frames = draw(5, 8, 8, 32, seed=2)
    network.mask_decoder(
        frames.permute(0, 3, 1, 2),
        network.get_image_wide_positional_embeddings(),
        QUERIES[:, None, None],
        decoder.no_mask.view(1, -1, 1, 1),
        multimask_output=False,
    )
    torch.testing.assert_close(decoder.states(QUERIES, frames), seen[0], rtol=1e-4, atol=1e-5)


def test_position_encoding_of_random_weights_is_smooth() -> None:
    """At Transformers' own size of the frequencies neighbours have nothing in common."""
    places = make().position_encoding(32, 32)[0]
    close = torch.cosine_similarity(places[:, :, :-1], places[:, :, 1:], dim=0)
    far = torch.cosine_similarity(places[:, :, 0], places[:, :, 16], dim=0)
    assert close.mean() > 0.8
    assert far.mean().abs() < 0.4


def test_a_checkpoint_needs_no_files(tmp_path: Path) -> None:
    sam(tmp_path)
    decoder = BoxDecoder(tmp_path, objectness=False, pairs=7)
    again = BoxDecoder(**{**decoder.settings, **decoder.rebuild_arguments()})
    again.load_state_dict(decoder.state_dict())
    assert torch.equal(again(QUERIES, IMAGE, CLIP).boxes, decoder(QUERIES, IMAGE, CLIP).boxes)
    assert again.pairs == 7


def test_random_ones_start_equal() -> None:
    first, second = make().state_dict(), make().state_dict()
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_other_models_are_refused() -> None:
    with pytest.raises(ValueError, match="clip_vision_model, and not SAM"):
        make(config={"model_type": "clip_vision_model"})
    with pytest.raises(ValueError, match="pairs=0"):
        make(pairs=0)


def test_without_memory() -> None:
    with torch.device("meta"):
        decoder = BoxDecoder("random", config={"model_type": "sam"})
    assert {x.device.type for x in (*decoder.parameters(), *decoder.buffers())} == {"meta"}
    assert decoder.dim == 256
    heads = 256 * 256 + 256 + 256 * 4 + 4 + 256 + 1
    assert sum(p.numel() for p in decoder.parameters()) == 3_291_264 + 5 * 256 + heads


# ---- who sees whom -------------------------------------------------------------------------------------------


def same(one: FoundBoxes, other: FoundBoxes) -> None:
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_every_phrase_looks_at_every_frame_of_its_clip_alone() -> None:
    decoder = make()
    found = decoder(QUERIES, IMAGE, CLIP)
    assert found.boxes.shape == (5, 4, 4)
    assert found.logits is not None
    assert found.logits.shape == found.visible.shape == (5, 4)
    assert found.boxes.min() > 0
    assert found.boxes.max() < 1
    for n in range(5):
        for t in range(4):
            alone = decoder(QUERIES[n : n + 1], IMAGE[CLIP[n], None, t : t + 1], torch.tensor([0]))
            same(alone, FoundBoxes(*(x[n : n + 1, t : t + 1] for x in found if x is not None)))
    assert (found.boxes[0] - found.boxes[1]).abs().max() > 1e-4
    assert (found.boxes[:, 0] - found.boxes[:, 1]).abs().amax(-1).min() > 1e-5
    order = torch.tensor([3, 0, 4, 2, 1])
    same(decoder(QUERIES[order], IMAGE, CLIP[order]), FoundBoxes(*(x[order] for x in found if x is not None)))


@torch.no_grad()
@pytest.mark.parametrize("pairs", [1, 3, 7, 20, 99])
def test_few_pairs_at_a_time(pairs: int) -> None:
    decoder, sizes = make(pairs=pairs), []
    decoder.transformer.register_forward_pre_hook(
        lambda m, a, k: sizes.append(len(k["image_embeddings"])), with_kwargs=True
    )
    same(decoder(QUERIES, IMAGE, CLIP), make()(QUERIES, IMAGE, CLIP))
    assert max(sizes) == min(pairs, 20)
    assert sum(sizes) == 20


# ---- learning ------------------------------------------------------------------------------------------------


def lost(found: FoundBoxes) -> Tensor:
    logits = found.visible if found.logits is None else found.logits
    return found.boxes.square().sum() + logits.sum()


@pytest.mark.parametrize("objectness", [True, False])
@pytest.mark.parametrize("phrases", [5, 0])
def test_everything_learns_also_without_phrases(phrases: int, objectness: bool) -> None:
    decoder = make(objectness=objectness)
    queries, image = QUERIES[:phrases].clone().requires_grad_(), IMAGE.clone().requires_grad_()
    found = decoder(queries, image, CLIP[:phrases])
    assert found.boxes.shape == (phrases, 4, 4)
    lost(found).backward()
    assert [k for k, p in decoder.named_parameters() if p.grad is None] == []
    assert queries.grad is not None
    assert image.grad is not None
    assert bool(image.grad.any()) == (phrases > 0)
    assert not any(name in ("positions", "no_mask") for name, _ in decoder.named_parameters())


def test_heads_alone() -> None:
    decoder = make(train="heads")
    learned = {k for k, p in decoder.named_parameters() if p.requires_grad}
    assert {k.split(".")[0] for k in learned} == {"box_head", "objectness_head"}
    assert len(list(decoder.learned_parameters())) == len(learned) == 6
    assert all(p.requires_grad for p in make().parameters())


def test_without_the_objectness_head() -> None:
    found = make(objectness=False)(QUERIES, IMAGE, CLIP)
    assert found.logits is None
    assert torch.equal(found.visible, torch.ones(5, 4))


def test_cells_in_another_type() -> None:
    exact, rough = make()(QUERIES, IMAGE, CLIP), make()(QUERIES.bfloat16(), IMAGE.bfloat16(), CLIP)
    assert rough.boxes.dtype == torch.float32
    torch.testing.assert_close(rough.boxes, exact.boxes, rtol=0.05, atol=0.02)
    low = make().bfloat16()(QUERIES.bfloat16(), IMAGE.bfloat16(), CLIP)
    assert low.boxes.dtype == torch.float32
    torch.testing.assert_close(low.boxes, exact.boxes, rtol=0.1, atol=0.05)


# ---- losses --------------------------------------------------------------------------------------------------


def test_giou_by_hand() -> None:
    unit = torch.tensor([0.0, 0.0, 1.0, 1.0])
    others = torch.tensor([[0, 0, 1, 1], [0.5, 0, 1.5, 1], [3, 0, 4, 1], [0.25, 0.25, 0.75, 0.75]])
    expected = torch.tensor([0, 1 - 1 / 3, 1 + 2 / 4, 1 - 1 / 4])
    torch.testing.assert_close(giou_loss(unit.expand(4, 4), others), expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(giou_loss(others, unit.expand(4, 4)), expected, atol=1e-6, rtol=1e-6)
    point = torch.tensor([0.5, 0.5, 0.5, 0.5], requires_grad=True)
    giou_loss(point, unit).backward()
    assert point.grad is not None
    assert torch.isfinite(point.grad).all()
    assert torch.isfinite(giou_loss(point, point))


def test_iou_by_hand() -> None:
    a = torch.tensor([[0.5, 0.5, 1.0, 1.0], [0.5, 0.5, 0.2, 0.2], [0.2, 0.2, 0.0, 0.0]])
    b = torch.tensor([[1.0, 0.5, 1.0, 1.0], [0.5, 0.5, 0.2, 0.2], [0.2, 0.2, 0.0, 0.0]])
    torch.testing.assert_close(iou_cxcywh(a, b), torch.tensor([1 / 3, 1.0, 0.0]))
    torch.testing.assert_close(to_corners(a[1]), torch.tensor([0.4, 0.4, 0.6, 0.6]))


def test_sums_and_counts() -> None:
    boxes, truth = draw(2, 3, 4).sigmoid(), draw(2, 3, 4, seed=1).sigmoid()
    visible = torch.tensor([[True, False, True], [False, False, True]])
    logits = draw(2, 3, seed=2)
    sums = box_losses(boxes, logits, truth, visible)
    assert (sums.boxes.item(), sums.pairs.item()) == (3, 6)
    torch.testing.assert_close(sums.l1, (boxes - truth)[visible].abs().sum())
    corners = [to_corners(x[visible]) for x in (boxes, truth)]
    torch.testing.assert_close(sums.giou, giou_loss(*corners).sum())
    chance = torch.where(visible, logits.sigmoid(), 1 - logits.sigmoid())
    assert sums.objectness is not None
    torch.testing.assert_close(sums.objectness, -chance.log().sum())
    halves = [box_losses(*(x[i : i + 1] for x in (boxes, logits, truth, visible))) for i in range(2)]
    for name in sums._fields:
        torch.testing.assert_close(sum(getattr(h, name) for h in halves), getattr(sums, name))


def test_what_stands_where_nothing_is_visible_does_not_count() -> None:
    boxes, truth = draw(1, 2, 4).sigmoid().requires_grad_(), torch.full((1, 2, 4), 0.3)
    truth[0, 1] = torch.nan
    sums = box_losses(boxes, None, truth, torch.tensor([[True, False]]))
    (sums.giou + sums.l1).backward()
    assert torch.isfinite(sums.giou + sums.l1)
    assert boxes.grad is not None
    assert boxes.grad[0, 0].any()
    assert not boxes.grad[0, 1].any()


@pytest.mark.parametrize("phrases", [5, 0])
def test_nothing_visible(phrases: int) -> None:
    """Zero, finite, and every head has a gradient."""
    decoder = make()
    found = decoder(QUERIES[:phrases], IMAGE, CLIP[:phrases])
    visible = torch.zeros(phrases, 4, dtype=torch.bool)
    sums = box_losses(found.boxes, found.logits, torch.zeros(phrases, 4, 4), visible)
    assert (sums.giou, sums.l1, sums.boxes) == (0, 0, 0)
    assert sums.pairs == 4 * phrases
    assert sums.objectness is not None
    (sums.giou + sums.l1 + sums.objectness).backward()
    gradients = {k: p.grad for k, p in decoder.named_parameters()}
    assert all(g is not None and torch.isfinite(g).all() for g in gradients.values())
    objectness = gradients["objectness_head.weight"]
    assert objectness is not None
    assert bool(objectness.any()) == (phrases > 0)


def test_losses_are_float32_in_any_type() -> None:
    boxes, truth, visible = draw(2, 3, 4).sigmoid(), draw(2, 3, 4, seed=1).sigmoid(), torch.ones(2, 3).bool()
    rough = box_losses(boxes.bfloat16(), draw(2, 3).bfloat16(), truth.bfloat16(), visible)
    assert all(x is not None and x.dtype == torch.float32 for x in rough)
    torch.testing.assert_close(rough.giou, box_losses(boxes, None, truth, visible).giou, rtol=0.02, atol=0.02)
