"""S3D-G: what it is fed, what it loads, and what its features depend on; outputs are in tests/golden."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import encoder_checks as checks
import pytest
import torch
from torch import nn

from groundzoo.zoo.video.published import PUBLISHED
from groundzoo.zoo.video.s3dg import S3DG, S3DGNetwork, ZeroPaddedMaxPool, space_to_depth

FRAMES = 20
TEXT = {"text_module.fc1.weight": torch.zeros(3, 2), "text_module.word_embd.weight": torch.zeros(9, 2)}


def make(weights: Any = "random", **options: Any) -> S3DG:
    """An eighth of the width, 32 pixels, windows of 8 frames."""
    return S3DG(weights, **{"width": 8, "joint_dim": 16, "size": 32, "window": 8, **options})


@pytest.mark.parametrize("output", ["embedding", "mixed_5c"])
@pytest.mark.parametrize("wrap", checks.WRAPS)
def test_weights(wrap: str, output: Any, tmp_path: Path) -> None:
    heads = TEXT if output == "embedding" else {**TEXT, "fc.weight": torch.zeros(16, 128)}
    checks.check_weights(lambda **o: make(output=output, **o), lambda e: e.network, wrap, tmp_path, **heads)


@pytest.mark.parametrize("wrap", ["bare", "module.", "training"])
@pytest.mark.parametrize("deep_stem", [True, False])
def test_the_file_says_which_stem(deep_stem: bool, wrap: str, tmp_path: Path) -> None:
    state = checks.varied({**make(space_to_depth=deep_stem).network.state_dict(), **TEXT})
    if wrap == "training":  # both at once, as the training repository writes them
        state = {f"module.{k}": v for k, v in state.items()}
    path = checks.write(state, "state_dict" if wrap == "training" else wrap, tmp_path)
    encoder = make(path)
    assert encoder.network.space_to_depth is deep_stem
    loaded = encoder.network.state_dict()
    assert all(torch.equal(v, state.get(k, state.get(f"module.{k}"))) for k, v in loaded.items())
    again = S3DG(**{**encoder.settings, **encoder.rebuild_arguments()})  # as from a checkpoint
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(again(checks.video(8)).frames, encoder(checks.video(8)).frames)
    with pytest.raises(ValueError, match=r"conv1\.conv1\.weight is"):
        make(path, space_to_depth=not deep_stem)


def test_wrong_files(tmp_path: Path) -> None:
    checks.check_wrong_files(make, lambda e: e.network, tmp_path)


def test_published() -> None:
    entry = PUBLISHED["s3dg_howto100m"]
    with torch.device("meta"):
        encoder = S3DG("random")
    assert sum(p.numel() for p in encoder.parameters()) == entry.parameters
    assert (encoder.spec, encoder.dim, encoder.grid) == (entry.spec, entry.dim, entry.grid)
    assert encoder.spec.mean == (0, 0, 0)
    assert encoder.spec.std == (1, 1, 1)
    with torch.device("meta"):
        wide = S3DG("random", output="mixed_5c")
    assert (wide.dim, wide.grid) == (1024, (7, 7, 1024))


def test_options_of_the_input() -> None:
    spec = make(window=16, fps=5.0).spec
    assert (spec.window, spec.stride, spec.fps, spec.size, spec.resize) == (16, 16, 5.0, (32, 32), 32)
    assert make(stride=4).spec.stride == 4
    for wrong in ({"window": 9}, {"size": 33}):
        with pytest.raises(ValueError, match="both are even numbers"):
            make(**wrong)
        make(**wrong, space_to_depth=False)
    with pytest.raises(ValueError, match="no variant 'x'"):
        make(variant="x")
    with pytest.raises(ValueError, match="width=12: "):
        make(width=12)
    with pytest.raises(ValueError, match="all three are even"):
        S3DGNetwork(width=8)(torch.zeros(1, 3, 7, 32, 32))


def test_batch_norm_has_the_defaults_of_torch() -> None:
    norms = {(m.eps, m.momentum) for m in make().modules() if isinstance(m, nn.BatchNorm3d)}
    assert norms == {(1e-5, 0.1)}


def test_space_to_depth_against_a_loop() -> None:
    x = torch.randn(2, 3, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    out = space_to_depth(x)
    assert out.shape == (2, 24, 2, 3, 4)
    for dt in range(2):
        for dh in range(2):
            for dw in range(2):
                channel = 3 * (4 * dt + 2 * dh + dw)
                assert torch.equal(out[:, channel : channel + 3], x[:, :, dt::2, dh::2, dw::2])


@pytest.mark.parametrize("size", [5, 6, 7, 8])
def test_pools_pad_behind_and_round_up(size: int) -> None:
    x = torch.rand(1, 2, size, size, size, generator=torch.Generator().manual_seed(0))
    out = ZeroPaddedMaxPool((3, 3, 3), (2, 2, 2))(x)
    count = -(-size // 2)
    assert out.shape == (1, 2, count, count, count)
    for t in range(count):
        for h in range(count):
            for w in range(count):
                window = x[..., 2 * t : 2 * t + 3, 2 * h : 2 * h + 3, 2 * w : 2 * w + 3]
                assert torch.equal(out[..., t, h, w], window.amax((2, 3, 4)))


@pytest.mark.parametrize("deep_stem", [True, False])
@pytest.mark.parametrize(("window", "size"), [(2, 32), (8, 40), (12, 64), (18, 100)])
def test_grid_of_any_size(window: int, size: int, deep_stem: bool) -> None:
    encoder = make(window=window, size=size, space_to_depth=deep_stem)
    assert encoder.grid == (-(-size // 32), -(-size // 32), 16)
    out = encoder(checks.video(window, height=size, width=size))
    assert out.grid.shape == (1, 1, *encoder.grid)
    torch.testing.assert_close(out.grid.mean((2, 3)), out.frames, rtol=1e-4, atol=1e-5)


def test_embedding_is_the_layer_on_the_wide_features() -> None:
    encoder, clip = make(), checks.video(8)
    wide = make(output="mixed_5c")
    names = wide.network.state_dict().keys()
    wide.network.load_state_dict({k: v for k, v in encoder.network.state_dict().items() if k in names})
    assert wide(clip).frames.min() >= 0
    torch.testing.assert_close(encoder.network.fc(wide(clip).frames), encoder(clip).frames)
    x = encoder.normalise(encoder.fit(clip)).transpose(1, 2)
    torch.testing.assert_close(encoder.network(x), encoder(clip).frames[:, 0])


def test_properties_of_all_encoders() -> None:
    checks.check_frozen(make, FRAMES)
    checks.check_frozen(lambda **o: make(output="mixed_5c", **o), FRAMES)
    checks.check_reproducible(make)
    checks.check_rows(make, FRAMES)
    checks.check_windows(make)
    checks.check_windows(lambda **o: make(stride=4, **o))
    checks.check_lengths(make)


def test_layout_and_types() -> None:
    checks.check_bfloat16(make, FRAMES)
    checks.check_channels_last(make, FRAMES)


@pytest.mark.parametrize("deep_stem", [True, False])
def test_gradient_checkpointing(deep_stem: bool) -> None:
    checks.check_gradient_checkpointing(lambda **o: make(size=64, space_to_depth=deep_stem, **o), FRAMES)
    checks.check_checkpointing_is_used(lambda **o: make(space_to_depth=deep_stem, **o), FRAMES)
