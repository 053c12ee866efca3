"""Image models: what they are fed, what they load, where their tokens are, and what a checkpoint needs."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import encoder_checks as checks
import known_models
import pytest
import tiny_models
import torch
from torch import Tensor

from groundzoo.zoo.video.image_model import ImageModel
from groundzoo.zoo.video.preprocessor import frame_spec
from groundzoo.zoo.video.published import CLIP_MEAN, CLIP_STD, HALF, PUBLISHED

KINDS = sorted(tiny_models.IMAGE)
SAVED = {  # folders as they are on the Hub, and the classes that wrote them
    "clip_vision_model": "CLIPVisionModelWithProjection",
    "siglip_vision_model": "SiglipVisionModel",
    "siglip2_vision_model": "Siglip2VisionModel",
    "dinov2": "Dinov2Model",
    "dinov3_vit": "DINOv3ViTModel",
    "vit": "ViTForImageClassification",
    "swin": "SwinForImageClassification",
    "resnet": "ResNetForImageClassification",
}


def make(kind: str, weights: Any = "random", **options: Any) -> ImageModel:
    return ImageModel(weights, **{"config": tiny_models.config(kind), **options})


def loud(encoder: ImageModel) -> ImageModel:
    """Give every parameter numbers that leave traces; released initialisations start close to zero."""
    g = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, p in encoder.named_parameters():
            if p.ndim > 1 and "norm" not in name:
                p += 0.1 * torch.randn(p.shape, generator=g)
    return encoder


# ---- tokens ----


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [None, 64])
def test_shapes(kind: str, size: int | None) -> None:
    encoder = make(kind, size=size)
    out = encoder(checks.video(3, batch=2))
    assert (encoder.spec.window, encoder.spec.stride, encoder.spec.fps) == (1, 1, 2.0)
    assert out.frames.shape == (2, 3, encoder.dim)
    assert out.grid is not None
    assert encoder.grid is not None
    assert out.grid.shape == (2, 3, *encoder.grid)
    own = 64 if kind == "openai_clip_resnet" else 32
    assert encoder.spec.size == (size or own,) * 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_cell_is_where_the_picture_is(kind: str) -> None:
    """What changes most is the cell whose pixels changed: no axes are swapped, no register is a patch."""
    encoder = loud(make(kind, size=64))
    assert encoder.grid is not None
    side = 64 // encoder.grid[0]
    before = torch.full((1, 1, 3, 64, 64), 0.5)
    for row, column in ((0, 0), (1, 0), (0, encoder.grid[1] - 1), (encoder.grid[0] - 1, 0)):
        after = before.clone()
        g = torch.Generator().manual_seed(0)
        patch = torch.rand(3, side, side, generator=g)
        after[..., row * side : (row + 1) * side, column * side : (column + 1) * side] = patch
        with torch.no_grad():
            moved = (encoder(after).grid - encoder(before).grid).norm(dim=-1)[0, 0]
        assert divmod(int(moved.argmax()), encoder.grid[1]) == (row, column)


def test_clip_patches_are_projected_like_its_image() -> None:
    encoder = make("clip_vision_model")
    x = encoder.normalise(encoder.fit(checks.video(1)))[:, 0]
    out = encoder.network(x)
    states = encoder.network.vision_model.post_layernorm(out.last_hidden_state)
    projected = encoder.network.visual_projection(states)
    torch.testing.assert_close(projected[:, 0], out.image_embeds)
    found = encoder(checks.video(1))
    torch.testing.assert_close(found.frames[:, 0], out.image_embeds)
    torch.testing.assert_close(found.grid[0, 0].flatten(0, 1), projected[0, 1:])


@pytest.mark.parametrize(
    ("kind", "vector", "cells"),
    [
        ("siglip_vision_model", lambda out: out.pooler_output, lambda out: out.last_hidden_state),
        ("dinov2", lambda out: out.pooler_output, lambda out: out.last_hidden_state[:, 1:]),
        ("dinov3_vit", lambda out: out.pooler_output, lambda out: out.last_hidden_state[:, 4:]),
        ("vit", lambda out: out.last_hidden_state[:, 0], lambda out: out.last_hidden_state[:, 1:]),
        ("swin", lambda out: out.last_hidden_state.mean(1), lambda out: out.last_hidden_state),
        ("resnet", lambda out: out.pooler_output[..., 0, 0], lambda out: out.last_hidden_state.flatten(2).mT),
    ],
)
def test_vectors_are_the_familys_own(kind: str, vector: Callable, cells: Callable) -> None:
    encoder = make(kind)
    out = encoder.network(encoder.normalise(encoder.fit(checks.video(1)))[:, 0])
    found = encoder(checks.video(1))
    torch.testing.assert_close(found.frames[:, 0], vector(out))
    torch.testing.assert_close(found.grid[:, 0].flatten(1, 2), cells(out))


def test_siglip2_takes_patches_as_its_own_processor_cuts_them() -> None:
    """Pixel by pixel: patches row by row, and rows, columns, colours within one."""
    encoder = make("siglip2_vision_model")
    seen: list[dict[str, Any]] = []
    encoder.network.register_forward_pre_hook(
        lambda _m, args, kwargs: seen.append({"x": args[0], **kwargs}), with_kwargs=True
    )
    clips = torch.rand(2, 1, 3, 32, 32)
    encoder.encode(clips)
    patches = seen[0]["x"]
    assert patches.shape == (2, 16, 192)
    for n, row, column, y, x, colour in ((0, 0, 0, 0, 0, 0), (1, 2, 3, 5, 1, 2), (0, 3, 0, 7, 6, 1)):
        value = clips[n, 0, colour, 8 * row + y, 8 * column + x]
        assert patches[n, 4 * row + column, (8 * y + x) * 3 + colour] == value
    assert seen[0]["spatial_shapes"].tolist() == [[4, 4], [4, 4]]
    assert seen[0]["pixel_attention_mask"].all()


@pytest.mark.parametrize("kind", ["clip_vision_model", "siglip_vision_model", "vit"])
def test_position_tables_are_interpolated_only_where_the_size_differs(kind: str) -> None:
    calls: list[int] = []
    for size in (None, 64):
        encoder = make(kind, size=size)
        embeddings = getattr(encoder.network, "vision_model", encoder.network).embeddings
        inner = embeddings.interpolate_pos_encoding
        embeddings.interpolate_pos_encoding = lambda *a, inner=inner: (calls.append(1), inner(*a))[1]
        encoder(checks.video(1))
        assert len(calls) == (size is not None)


# ---- how frames are fed ----


@pytest.mark.parametrize("name", sorted(known_models.IMAGE))
def test_published(name: str) -> None:
    """Parameters are counted on the meta device, from the configuration that the weights have."""
    entry, (config, preprocessor) = PUBLISHED[name], known_models.IMAGE[name]
    with torch.device("meta"):
        encoder = ImageModel("checkpoint", config=config, preprocessor=preprocessor)
    assert entry.encoder == "ImageModel"
    assert sum(p.numel() for p in encoder.parameters()) == entry.parameters
    assert (encoder.spec, encoder.dim, encoder.grid) == (entry.spec, entry.dim, entry.grid)


def test_published_names_are_known() -> None:
    assert {k for k, v in PUBLISHED.items() if v.encoder == "ImageModel"} == known_models.IMAGE.keys()


@pytest.mark.parametrize(
    ("values", "size", "resize"),
    [
        (None, (32, 32), None),
        ({"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 24}}, (32, 24), 40),
        ({"size": 40, "crop_size": 32, "do_center_crop": True}, (32, 32), 40),
        ({"size": 40, "do_center_crop": False, "crop_size": 32}, (40, 40), None),
        ({"size": {"height": 40, "width": 48}}, (40, 48), None),
        ({"size": [40, 48], "crop_size": [32, 32]}, (32, 32), (40, 48)),
        ({"size": {"shortest_edge": 40}}, (40, 40), 40),
        ({"do_resize": False, "size": {"height": 40, "width": 48}}, (32, 32), None),
        ({"image_processor": {"size": {"height": 40, "width": 48}}}, (40, 48), None),
        ({"video_processor": {"size": {"shortest_edge": 40}, "crop_size": 32}}, (32, 32), 40),
    ],
)
def test_sizes_of_preprocessors(values: Any, size: tuple[int, int], resize: Any) -> None:
    spec = frame_spec(values, (32, 32), HALF, HALF, False, 2.0)
    assert (spec.size, spec.resize) == (size, resize)


def test_families_that_crop_do_so_without_a_preprocessor() -> None:
    assert make("clip_vision_model").spec.resize == 32
    assert make("vit").spec.resize is None


@pytest.mark.parametrize(
    ("values", "white", "black"),
    [
        (None, 1.0, -1.0),
        ({"image_mean": [0.25] * 3, "image_std": 0.5}, 1.5, -0.5),
        ({"do_normalize": False}, 1.0, 0.0),
        ({"do_normalize": False, "do_rescale": False}, 255.0, 0.0),
        ({"rescale_factor": 1 / 127.5, "offset": True, "image_mean": [0.5] * 3}, 1.0, -1.0),
        ({"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3}, 1.0, -1.0),
    ],
)
def test_values_of_preprocessors(values: Any, white: float, black: float) -> None:
    encoder = make("vit", preprocessor=values)
    frames = torch.stack([torch.full((3, 2, 2), 255), torch.zeros(3, 2, 2)])[None].to(torch.uint8)
    found = encoder.normalise(frames)[0, :, 0, 0, 0]
    torch.testing.assert_close(found, torch.tensor([white, black]))


def test_sizes_that_cannot_be_had() -> None:
    with pytest.raises(ValueError, match=r"\(60, 60\): sides must be multiples of 8"):
        make("clip_vision_model", size=60)
    with pytest.raises(ValueError, match="neither height and width nor shortest_edge"):
        make("vit", preprocessor={"size": {"longest_edge": 32}})


# ---- weights ----


@pytest.mark.parametrize("kind", sorted(SAVED))
def test_folders(kind: str, tmp_path: Path) -> None:
    folder = tiny_models.save(tmp_path, kind, SAVED[kind])
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": {"height": 64, "width": 64}}))
    encoder = ImageModel(folder)
    assert encoder.spec.size == (64, 64)
    again = make(kind, "checkpoint", preprocessor=encoder.preprocessor)
    assert again.state_dict().keys() == encoder.state_dict().keys()
    assert not torch.allclose(again(checks.video(1)).frames, encoder(checks.video(1)).frames)
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(again(checks.video(1)).frames, encoder(checks.video(1)).frames)


def test_a_folder_with_both_towers(tmp_path: Path) -> None:
    vision = tiny_models.IMAGE["clip_vision_model"]
    text = {**tiny_models.TOWER, "vocab_size": 50}
    tiny_models.save(tmp_path, "clip", "CLIPModel", projection_dim=12, vision_config=vision, text_config=text)
    encoder = ImageModel(tmp_path)
    assert encoder.dim == 12
    from safetensors.torch import load_file

    stored = load_file(tmp_path / "model.safetensors")
    for name, value in encoder.network.state_dict().items():
        assert torch.equal(stored[name], value)


def test_half_precision_files_become_float32(tmp_path: Path) -> None:
    import transformers

    config = transformers.ViTConfig(**tiny_models.IMAGE["vit"])
    transformers.ViTModel(config).half().save_pretrained(tmp_path)
    assert {p.dtype for p in ImageModel(tmp_path).parameters()} == {torch.float32}


def test_what_is_told_about_wrong_weights(tmp_path: Path) -> None:
    bert = {"vocab_size": 30, **tiny_models.TOWER}
    text = tiny_models.save(tmp_path / "text", "bert", "BertModel", **bert)
    other = tiny_models.save(tmp_path / "other", "vit", "ViTModel")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    wide = tiny_models.save(tmp_path / "wide", "vit", "ViTModel")
    (wide / "config.json").write_text(json.dumps({**config, "hidden_size": 32}))
    (tmp_path / "empty").mkdir()
    for weights, options, message in (
        ("nobody/nothing", {}, "not on this machine: give a local folder, or set `download: true`"),
        (tmp_path / "empty", {}, "holds no model of Transformers"),
        (text, {}, "type bert, which encodes no pictures"),
        (other, {}, "missing.*layers.2"),
        (wide, {}, "are not those of ViTModel"),
        ("random", {}, "random needs `config`"),
        (other, {"config": tiny_models.config("vit")}, "leave `config` out"),
        ("random", {"config": {"model_type": "vlt"}}, "model_type='vlt', which this version"),
    ):
        with pytest.raises(ValueError, match=f"(?s){message}"):
            ImageModel(weights, **options)
    with pytest.raises(FileNotFoundError, match=r"clip\.pt do not exist"):
        ImageModel(tmp_path / "clip.pt")


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_rebuilds_it(kind: str) -> None:
    encoder = make(kind, size=64, preprocessor={"image_mean": [0.1] * 3})
    arguments = json.loads(json.dumps({**encoder.settings, **encoder.rebuild_arguments()}))
    again = ImageModel(**arguments)
    again.load_state_dict(encoder.state_dict())
    assert again.spec == encoder.spec
    assert torch.equal(again(checks.video(2)).frames, encoder(checks.video(2)).frames)


def test_clip_is_normalised_as_clip() -> None:
    spec = make("clip_vision_model").spec
    assert (spec.mean, spec.std) == (CLIP_MEAN, CLIP_STD)


# ---- what every encoder has ----


@pytest.mark.parametrize("kind", KINDS)
def test_common_properties(kind: str) -> None:
    maker = partial(make, kind)
    checks.check_frozen(maker, 2)
    checks.check_reproducible(maker)
    noisy: Callable[..., ImageModel] = lambda **options: loud(make(kind, **options))  # noqa: E731
    checks.check_rows(noisy, 2)
    checks.check_windows(noisy)
    checks.check_lengths(maker)
    checks.check_bfloat16(maker, 2)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"resnet"}))
def test_gradient_checkpointing(kind: str) -> None:
    maker = partial(make, kind)
    checks.check_gradient_checkpointing(maker, 2)
    checks.check_checkpointing_is_used(maker, 2)


def test_weights_of_heads_and_masks_are_not_kept() -> None:
    for kind in ("dinov2", "dinov3_vit", "vit"):
        names: list[str] = list(make(kind).state_dict())
        assert not [n for n in names if "mask_token" in n or "pooler" in n or "classifier" in n]


def test_any_dtype_of_frames() -> None:
    encoder = make("clip_vision_model")
    frames = checks.video(2)
    floats: Tensor = frames.float() / 255
    torch.testing.assert_close(encoder(floats).frames, encoder(frames).frames, rtol=0.02, atol=0.02)
