"""R(2+1)D: what it is fed, what it loads, and what its features depend on; outputs are in tests/golden."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import encoder_checks as checks
import pytest
import torch

from groundzoo.zoo.video.published import PUBLISHED
from groundzoo.zoo.video.r2plus1d import R2Plus1D, R2Plus1DNetwork, middle_width

FRAMES = 20
NAMES = [name for name, entry in PUBLISHED.items() if entry.encoder == "R2Plus1D"]


def make(weights: Any = "random", **options: Any) -> R2Plus1D:
    """Eight convolution layers of 4 to 32 channels on 32 pixels, windows of 16 frames."""
    return R2Plus1D(weights, **{"layers": (1, 1, 1, 1), "width": 4, "size": 32, **options})


@pytest.mark.parametrize("wrap", checks.WRAPS)
def test_weights(wrap: str, tmp_path: Path) -> None:
    heads = {"fc.weight": torch.zeros(7, 32), "fc1.bias": torch.zeros(7), "fc2.weight": torch.zeros(2, 64)}
    checks.check_weights(make, lambda e: e.network, wrap, tmp_path, **heads)


def test_files_of_tsp(tmp_path: Path) -> None:
    """The options of the training run lie beside the weights, whose heads have no prefix."""
    state = checks.varied(make().network.state_dict())
    content = {f"features.{k}": v for k, v in state.items()}
    content |= {"fc1.weight": torch.zeros(200, 32), "fc2.weight": torch.zeros(2, 64)}
    options = argparse.Namespace(backbone="r2plus1d_34", lr=0.1)
    torch.save({"model": content, "args": options, "epoch": 5}, tmp_path / "tsp.pth")
    loaded = make(weights=tmp_path / "tsp.pth").network.state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in state.items())


def test_wrong_files(tmp_path: Path) -> None:
    checks.check_wrong_files(make, lambda e: e.network, tmp_path)


def test_the_two_rules_do_not_load_each_other(tmp_path: Path) -> None:
    torch.save(make(midplanes="torchvision").network.state_dict(), tmp_path / "a.pth")
    with pytest.raises(ValueError, match="of another shape"):
        make(weights=tmp_path / "a.pth", midplanes="ig65m")


@pytest.mark.parametrize("name", NAMES)
def test_published(name: str) -> None:
    """Size, width, grid and depth are what the table of weights says."""
    entry = PUBLISHED[name]
    with torch.device("meta"):
        encoder = R2Plus1D("random", name)  # type: ignore[arg-type]
    assert sum(p.numel() for p in encoder.parameters()) == entry.parameters
    assert (encoder.spec, encoder.dim, encoder.grid) == (entry.spec, entry.dim, entry.grid)
    norms = {(m.eps, m.momentum) for m in encoder.modules() if isinstance(m, torch.nn.BatchNorm3d)}
    assert norms == ({(1e-3, 0.9)} if "_34_" in name else {(1e-5, 0.1)})


def test_the_grid_of_the_table_is_what_comes_out() -> None:
    encoder = R2Plus1D("random", "r2plus1d_34_ig65m_kinetics_clip8", layers=(1, 1, 1, 1), width=2)
    cells = encoder(checks.video(3)).grid
    assert cells is not None
    assert cells.shape[2:4] == PUBLISHED["r2plus1d_34_ig65m_kinetics_clip8"].grid[:2] == (7, 7)  # type: ignore[index]


def test_batch_norm_options() -> None:
    encoder = make(bn_eps=1e-4, bn_momentum=0.2)
    norms = {(m.eps, m.momentum) for m in encoder.modules() if isinstance(m, torch.nn.BatchNorm3d)}
    assert norms == {(1e-4, 0.2)}


@pytest.mark.parametrize(("inputs", "outputs"), [(64, 64), (64, 128), (128, 256), (256, 512), (3, 5)])
def test_middle_width_keeps_the_parameters_of_a_full_convolution(inputs: int, outputs: int) -> None:
    def halves(middle: int) -> int:
        return 9 * inputs * middle + 3 * middle * outputs

    full, middle = 27 * inputs * outputs, middle_width(inputs, outputs)
    assert halves(middle) <= full < halves(middle + 1)


def test_vector_is_the_mean_of_the_grid_and_the_feature_of_the_network() -> None:
    encoder = make()
    clips = torch.randn(2, 16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        out = encoder.encode(clips)
        feature = encoder.network(clips.transpose(1, 2))
    assert out.grid is not None
    torch.testing.assert_close(out.grid.mean((2, 3)), out.frames)
    torch.testing.assert_close(out.frames[:, 0], feature)


@pytest.mark.parametrize("size", [16, 47, 61])
def test_odd_sizes(size: int) -> None:
    encoder = make(size=size)
    cells = encoder(checks.video(5)).grid
    assert cells is not None
    assert cells.shape[2:] == encoder.grid == (-(-size // 16), -(-size // 16), 32)


def test_options_of_the_input() -> None:
    spec = make(fps=10.0, stride=4, size=56).spec
    assert (spec.fps, spec.stride, spec.window, spec.size, spec.resize) == (10.0, 4, 16, (56, 56), (64, 86))


def test_logits_come_only_with_classes() -> None:
    x = torch.zeros(1, 3, 8, 32, 32)
    assert R2Plus1DNetwork((1, 1, 1, 1), width=4, num_classes=7).eval()(x).shape == (1, 7)
    assert R2Plus1DNetwork((1, 1, 1, 1), width=4).eval()(x).shape == (1, 32)


def test_frozen_and_trainable() -> None:
    checks.check_frozen(make, FRAMES)


def test_random_weights_are_the_same_everywhere() -> None:
    checks.check_reproducible(make)


def test_rows() -> None:
    checks.check_rows(make, FRAMES)


@pytest.mark.parametrize("stride", [16, 6])
def test_windows(stride: int) -> None:
    checks.check_windows(lambda **options: make(stride=stride, **options))


def test_lengths() -> None:
    checks.check_lengths(make)


def test_gradient_checkpointing() -> None:
    checks.check_gradient_checkpointing(make, FRAMES)
    checks.check_checkpointing_is_used(make, FRAMES)


def test_bfloat16() -> None:
    checks.check_bfloat16(make, FRAMES)


def test_channels_last() -> None:
    checks.check_channels_last(make, FRAMES)


def test_unknown_variant() -> None:
    with pytest.raises(ValueError, match="no variant 'c3d_sports1m'; choose from r2plus1d_34"):
        R2Plus1D("random", "c3d_sports1m")  # type: ignore[arg-type]
