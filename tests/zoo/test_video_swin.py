"""Video Swin: loading, units of clips and frames, image weights, training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from golden_files import golden_cases
from torch import Tensor

from groundzoo.zoo.video import video_swin
from groundzoo.zoo.video.published import PUBLISHED
from groundzoo.zoo.video.video_swin import ARCHITECTURES, SwinBlock, VideoSwin, VideoSwinNetwork

TINY: dict[str, Any] = {
    "embed_dim": 8,
    "depths": (2, 2),
    "num_heads": (2, 2),
    "window_size": (2, 3, 3),
    "size": 32,
}
KEYS = {
    "tiny": "video_swin_t_kinetics400",
    "small": "video_swin_s_kinetics400",
    "base": "video_swin_b_kinetics400",
}


def tiny(weights: str | Path = "checkpoint", **options: Any) -> VideoSwin:
    return VideoSwin(weights, **{**TINY, "num_frames": 8, "drop_path": 0.0, **options})


def frames(count: int, batch: int = 1, height: int = 32, width: int = 32, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, count, 3, height, width), generator=g, dtype=torch.uint8)


def other_numbers(module: torch.nn.Module) -> dict[str, Tensor]:
    """A state dict that differs from the one the module was built with."""
    g = torch.Generator().manual_seed(1)
    return {
        k: v + 0.1 * torch.rand(v.shape, generator=g) if v.is_floating_point() else v
        for k, v in module.state_dict().items()
    }


# ---- weights ----


@pytest.mark.golden
@pytest.mark.parametrize("path", golden_cases("zoo", "keys/video_swin_*.json"))
def test_names_shapes_and_counts_are_the_released_ones(path: Path) -> None:
    expected = json.loads(path.read_text(encoding="utf-8"))
    with torch.device("meta"):
        network = VideoSwinNetwork(**expected["config"])
        encoder = VideoSwin("checkpoint", KEYS[path.stem.removeprefix("video_swin_")])
    for found in (network, encoder.network):
        assert {k: list(v.shape) for k, v in found.state_dict().items()} == expected["keys"]
        assert sum(p.numel() for p in found.parameters()) == expected["parameters"]
        integers = [k for k, v in found.state_dict().items() if not v.is_floating_point()]
        assert integers == expected["integer_buffers"]


@pytest.mark.parametrize("variant", [k for k, v in PUBLISHED.items() if v.encoder == "VideoSwin"])
def test_what_is_published_is_what_there_is(variant: str) -> None:
    entry = PUBLISHED[variant]
    with torch.device("meta"):
        encoder = VideoSwin("checkpoint", variant)
    assert sum(p.numel() for p in encoder.parameters()) == entry.parameters
    assert (encoder.dim, encoder.grid, encoder.spec) == (entry.dim, entry.grid, entry.spec)
    assert variant in ARCHITECTURES


def wrapped(state: dict[str, Tensor], how: str) -> Any:
    head = {"cls_head.fc_cls.weight": torch.zeros(4, 16), "cls_head.fc_cls.bias": torch.zeros(4)}
    if how == "bare":
        return state
    if how == "release":
        return {"state_dict": {f"backbone.{k}": v for k, v in state.items()} | head, "meta": {"epoch": 30}}
    if how == "mmaction2":  # its last norm has another name
        renamed = {f"norm3{k[4:]}" if k.startswith("norm.") else k: v for k, v in state.items()}
        return {"state_dict": {f"backbone.{k}": v for k, v in renamed.items()} | head}
    both = {f"backbone.{k}": v for k, v in state.items()} | head
    return {"model_state_dict": {f"module.{k}": v for k, v in both.items()}}


@pytest.mark.parametrize("how", ["bare", "release", "mmaction2", "distributed"])
def test_weights_load_however_they_are_wrapped(how: str, tmp_path: Path) -> None:
    source = tiny()
    state = other_numbers(source.network)
    source.network.load_state_dict(state)
    torch.save(wrapped(state, how), tmp_path / "w.pth")
    loaded = tiny(tmp_path / "w.pth")
    assert torch.equal(loaded(frames(8)).frames, source(frames(8)).frames)
    assert not torch.equal(loaded(frames(8)).frames, tiny()(frames(8)).frames)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window_size": (4, 3, 3)}, "of another shape"),
        ({"depths": (2, 4)}, "missing"),
        ({"depths": (2, 1)}, r"unknown \(layers.1.blocks.1"),
        ({"embed_dim": 16}, "of another shape"),
    ],
)
def test_weights_of_another_network_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    torch.save(tiny().network.state_dict(), tmp_path / "w.pth")
    with pytest.raises(ValueError, match=message):
        tiny(tmp_path / "w.pth", **change)


def image_swin(window: int = 3) -> dict[str, Tensor]:
    """An image network's weights as the official release stores them."""
    g = torch.Generator().manual_seed(2)
    state = {}
    for name, value in tiny().network.state_dict().items():
        if name == "patch_embed.proj.weight":
            value = torch.rand(8, 3, 4, 4, generator=g) - 0.5
        elif name.endswith("bias_table"):
            value = torch.rand((2 * window - 1) ** 2, 2, generator=g)
        elif name.endswith("index"):
            state[name.replace("attn.relative_position_index", "attn_mask")] = torch.zeros(4, 9, 9)
            value = torch.zeros(window**2, window**2, dtype=torch.int64)
        state[name] = value
    return state | {"head.weight": torch.zeros(10, 16), "head.bias": torch.zeros(10)}


@pytest.mark.parametrize("window", [3, 5])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_image_weights_are_inflated(window: int, prefix: str, tmp_path: Path) -> None:
    image = image_swin(window)
    torch.save({"model": {prefix + k: v for k, v in image.items()}}, tmp_path / "w.pth")
    network = tiny(tmp_path / "w.pth", pretrained_2d=True).network
    still = torch.rand(1, 3, 1, 32, 32)
    patches = F.conv2d(still[:, :, 0], image["patch_embed.proj.weight"], image["patch_embed.proj.bias"], stride=4)
    found = network.patch_embed.proj(still.expand(-1, -1, 2, -1, -1))[:, :, 0]
    torch.testing.assert_close(found, patches, rtol=1e-4, atol=1e-5)
    attention = network.layers[0].blocks[0].attn
    for table in attention.relative_position_bias_table.unflatten(0, (3, 25)):  # all offsets in time are alike
        flat = image["layers.0.blocks.0.attn.relative_position_bias_table"]
        assert table.shape == (25, 2)
        assert torch.equal(table, flat) == (window == 3)
        assert flat.min() - 0.2 < table.min() < table.max() < flat.max() + 0.2
    assert torch.equal(
        attention.relative_position_index, tiny().network.layers[0].blocks[0].attn.relative_position_index
    )


def test_image_weights_must_be_announced(tmp_path: Path) -> None:
    torch.save({"model": image_swin()}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"unknown.*of another shape"):
        tiny(tmp_path / "w.pth")


# ---- units ----


@pytest.mark.parametrize("count", [1, 7, 8, 9, 20])
def test_clips(count: int) -> None:
    encoder = tiny()
    clip = frames(count, batch=2)
    out = encoder(clip)
    units = -(-count // 8)
    assert out.frames.shape == (2, units, 16)
    assert encoder.grid == (4, 4, 16)
    assert out.grid.shape == (2, units, *encoder.grid)
    torch.testing.assert_close(out.grid.mean((2, 3)), out.frames)
    filled_up = torch.cat([clip, clip[:, -1:].expand(-1, 8 * units - count, -1, -1, -1)], dim=1)
    assert torch.equal(encoder(filled_up).frames, out.frames)
    tokens = encoder.network(encoder.normalise(filled_up[:, :8]).transpose(1, 2))
    torch.testing.assert_close(out.frames[:, 0], tokens.mean((1, 2, 3)))
    torch.testing.assert_close(out.grid[:, 0], tokens.mean(1))


def test_a_clip_sees_its_own_frames_only() -> None:
    encoder = tiny(stride=5)
    clip = frames(23)
    out = encoder(clip).frames[0]
    assert len(out) == 4
    for k in range(4):
        torch.testing.assert_close(encoder(clip[:, 5 * k : 5 * k + 8]).frames[0, 0], out[k], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("undo", ["repeat_frames", "share_tokens"])
@pytest.mark.parametrize("count", [1, 6, 16])
def test_a_unit_per_frame(undo: str, count: int) -> None:
    encoder = tiny(units="frame", num_frames=6, undo_stride=undo)
    clip = frames(count, batch=2)
    out = encoder(clip)
    assert out.frames.shape == (2, count, 16)
    assert out.grid.shape == (2, count, 4, 4, 16)
    torch.testing.assert_close(out.grid.mean((2, 3)), out.frames)
    padded = torch.cat([clip, clip[:, -1:].expand(-1, -count % 6, -1, -1, -1)], dim=1)
    x = encoder.normalise(padded).transpose(1, 2)
    for start in range(0, count, 6):
        for k in range(min(6, count - start)):
            piece = x[:, :, start : start + 6]
            if undo == "repeat_frames":
                expected = encoder.network(piece[:, :, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]])[:, k]
            else:
                expected = encoder.network(piece)[:, k // 2]
            torch.testing.assert_close(out.grid[:, start + k], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("undo", ["repeat_frames", "share_tokens"])
def test_passes_can_be_cut_apart_and_frames_within_see_each_other(undo: str) -> None:
    encoder = tiny(units="frame", num_frames=4, undo_stride=undo)
    clip = frames(12)
    whole = encoder(clip).frames
    pieces = torch.cat([encoder(clip[:, :4]).frames, encoder(clip[:, 4:]).frames], dim=1)
    torch.testing.assert_close(pieces, whole, rtol=1e-4, atol=1e-5)
    clip[:, 5] = 255 - clip[:, 5]
    moved = (encoder(clip).frames - whole).abs().amax((0, 2)) > 1e-4
    assert moved.tolist() == [False] * 4 + [True] * 4 + [False] * 4


def test_frames_of_a_pass_by_default() -> None:
    defaults = {"num_frames": None, "units": "frame"}
    assert tiny(**defaults).spec.pass_frames == 16
    assert tiny(**defaults, undo_stride="share_tokens").spec.pass_frames == 32
    assert tiny(num_frames=None).spec.pass_frames == 32
    assert tiny(fps=4.0).spec.fps == 4.0


def test_frames_keep_their_margins_and_clips_are_cropped() -> None:
    wide = frames(2, width=64)
    other = wide.clone()
    other[..., :8] = 255 - other[..., :8]  # left of the centre crop
    cropped, squeezed = tiny(), tiny(units="frame", num_frames=2)
    assert torch.equal(cropped(wide).frames, cropped(other).frames)
    assert not torch.allclose(squeezed(wide).frames, squeezed(other).frames)


@pytest.mark.parametrize("size", [32, 36, 44, 60])
@pytest.mark.parametrize("stages", [2, 3])
def test_the_grid_is_as_announced(size: int, stages: int) -> None:
    encoder = tiny(size=size, depths=(1,) * stages, num_heads=(2,) * stages)
    assert encoder(frames(8, height=size, width=size)).grid.shape[2:] == encoder.grid


def test_each_video_is_encoded_as_if_alone() -> None:
    encoder, clip = tiny(), frames(9, batch=3)
    order = torch.tensor([2, 0, 1])
    together = encoder(clip)
    permuted = encoder(clip[order])
    torch.testing.assert_close(permuted.frames, together.frames[order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(permuted.grid, together.grid[order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encoder(clip[1:2]).frames[0], together.frames[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "video_swin_x"}, "choose from video_swin_t_kinetics400"),
        ({"units": "frame", "stride": 2}, "stride=2 .*units=frame"),
        ({"units": "frame", "num_frames": 5, "undo_stride": "share_tokens"}, "num_frames=5.*even"),
        ({"num_frames": 0}, "window=0"),
        ({"stride": 0}, "stride=0"),
    ],
)
def test_wrong_settings(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**options)


# ---- training ----


def test_frozen_means_frozen() -> None:
    encoder = tiny(drop_path=0.9).train()
    assert not any(m.training for m in encoder.modules())
    assert not any(p.requires_grad for p in encoder.parameters())
    assert not encoder(frames(8)).frames.requires_grad


@pytest.mark.parametrize("units", ["clip", "frame"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_parameter_learns(units: str, checkpointing: bool) -> None:
    plain = tiny(units=units, trainable=True)
    encoder = tiny(units=units, trainable=True, gradient_checkpointing=checkpointing)
    runs: list[int] = []
    encoder.network.layers[0].blocks[0].register_forward_pre_hook(lambda *_: runs.append(1))
    for model in (plain, encoder):
        model(frames(8)).frames.square().sum().backward()
    assert len(runs) == 1 + checkpointing
    for (name, expected), found in zip(plain.named_parameters(), encoder.parameters(), strict=True):
        assert expected.grad is not None, name
        assert expected.grad.abs().sum() > 0, name
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-4, atol=1e-5)


def test_windows_remembered_without_gradients_serve_training() -> None:
    video_swin.window_groups.cache_clear()
    encoder = tiny(trainable=True)
    with torch.inference_mode():
        encoder(frames(8))
    assert video_swin.window_groups.cache_info().currsize > 0
    encoder(frames(8)).frames.sum().backward()


def test_stochastic_depth() -> None:
    encoder = tiny(trainable=True, drop_path=0.6)
    blocks = [m for m in encoder.modules() if isinstance(m, SwinBlock)]
    assert [b.drop_path for b in blocks] == pytest.approx([0.0, 0.2, 0.4, 0.6])
    ones = torch.ones(4000, 1, 1, 1, 2)
    dropped = blocks[-1].dropped(ones)
    assert torch.equal(dropped[..., 0], dropped[..., 1])
    assert sorted(dropped.unique().tolist()) == pytest.approx([0.0, 2.5])
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.1)
    encoder.eval()
    assert torch.equal(blocks[-1].dropped(ones), ones)
    torch.testing.assert_close(encoder(frames(8)).frames, tiny()(frames(8)).frames)


def test_half_precision() -> None:
    encoder = tiny()
    expected = encoder(frames(8)).frames
    with torch.autocast("cpu", torch.bfloat16):
        mixed = encoder(frames(8)).frames
    found = tiny().bfloat16()(frames(8))
    assert found.frames.dtype == found.grid.dtype == torch.bfloat16
    for out in (found.frames, mixed):
        assert (out.float() - expected).abs().max() < 0.05 * expected.abs().max()
