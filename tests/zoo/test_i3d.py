"""I3D: what it is fed, what it loads, and what its features depend on; outputs are in tests/golden."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import encoder_checks as checks
import pytest
import torch
from torch import nn

from groundzoo.zoo.video.i3d import I3D, I3DNetwork, pad_same
from groundzoo.zoo.video.published import PUBLISHED

FRAMES = 20
NAMES = [name for name, entry in PUBLISHED.items() if entry.encoder == "I3D"]
HEADS = {"logits.conv3d.weight": torch.zeros(157, 128, 1, 1, 1), "logits.conv3d.bias": torch.zeros(157)}


def make(weights: Any = "random", **options: Any) -> I3D:
    """An eighth of the width, 32 pixels, windows of 9 frames."""
    return I3D(weights, **{"width": 8, "size": 32, "window": 9, **options})


@pytest.mark.parametrize("variant", NAMES)
@pytest.mark.parametrize("wrap", checks.WRAPS)
def test_weights(wrap: str, variant: Any, tmp_path: Path) -> None:
    checks.check_weights(lambda **o: make(variant=variant, **o), lambda e: e.network, wrap, tmp_path, **HEADS)


def test_old_files_without_counters(tmp_path: Path) -> None:
    state = checks.varied(make().network.state_dict())
    old = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    assert len(old) < len(state)
    loaded = make(checks.write(old, "bare", tmp_path)).network.state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in old.items())


def test_wrong_files(tmp_path: Path) -> None:
    checks.check_wrong_files(make, lambda e: e.network, tmp_path)
    path = checks.write(make(variant="i3d_flow_kinetics").network.state_dict(), "bare", tmp_path)
    with pytest.raises(
        ValueError, match=r"Conv3d_1a_7x7.conv3d.weight is \(8, 2, 7, 7, 7\), not \(8, 3, 7, 7, 7\)"
    ):
        make(path)


@pytest.mark.parametrize("name", NAMES)
def test_published(name: Any) -> None:
    entry = PUBLISHED[name]
    with torch.device("meta"):
        encoder = I3D("random", name)
    assert sum(p.numel() for p in encoder.parameters()) == entry.parameters
    assert (encoder.spec, encoder.dim, encoder.grid) == (entry.spec, entry.dim, entry.grid)
    assert encoder.in_channels == (2 if "flow" in name else 3)


def test_options_of_the_input() -> None:
    spec = make(window=64, fps=24.0, size=112).spec
    assert (spec.window, spec.stride, spec.fps, spec.size, spec.resize) == (64, 64, 24.0, (112, 112), 128)
    assert make(stride=8).spec.stride == 8
    with pytest.raises(ValueError, match="window=8: I3D needs 9 frames or more"):
        make(window=8)
    with pytest.raises(ValueError, match="no variant 'x'"):
        make(variant="x")
    with pytest.raises(ValueError, match="width=12: "):
        make(width=12)


def test_values_are_between_minus_one_and_one() -> None:
    levels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 3, 1, 1)
    found = make().normalise(levels).flatten()
    torch.testing.assert_close(found, torch.tensor([-1.0, -0.6, 1.0]))


def test_batch_norm_has_the_rule_of_tensorflow() -> None:
    norms = {(m.eps, m.momentum) for m in make().modules() if isinstance(m, nn.BatchNorm3d)}
    assert norms == {(1e-3, 0.01)}


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "front", "behind"),
    [(224, 7, 2, 2, 3), (17, 7, 2, 3, 3), (5, 3, 2, 1, 1), (6, 3, 2, 0, 1), (6, 3, 1, 1, 1), (4, 2, 2, 0, 0)],
)
def test_padding_depends_on_the_size(size: int, kernel: int, stride: int, front: int, behind: int) -> None:
    """Along each axis by itself, as TensorFlow's SAME."""
    for axis in range(3):
        sizes, kernels, strides = [1, 1, 1], [1, 1, 1], [1, 1, 1]
        sizes[axis], kernels[axis], strides[axis] = size, kernel, stride
        padded = pad_same(torch.ones(1, 1, *sizes), tuple(kernels), tuple(strides))  # type: ignore[arg-type]
        expected = [0.0] * front + [1.0] * size + [0.0] * behind
        assert padded.flatten().tolist() == expected
        assert padded.shape[2 + axis] == len(expected)


@pytest.mark.parametrize(("window", "size"), [(9, 40), (16, 64), (25, 100)])
def test_grid_of_any_size(window: int, size: int) -> None:
    encoder = make(window=window, size=size)
    assert encoder.grid == (-(-size // 32), -(-size // 32), 128)
    out = encoder(checks.video(window, height=size, width=size))
    assert out.grid.shape == (1, 1, *encoder.grid)
    assert out.grid.min() >= 0
    assert out.frames.min() >= 0


def test_vector_is_the_mean_of_the_features_before_the_head() -> None:
    encoder = make(window=33, size=224)
    x = encoder.normalise(checks.video(33, height=224, width=224)).transpose(1, 2)
    with torch.no_grad():
        features, maps = encoder.network.features(x), encoder.network.maps(x)
    out = encoder.encode(x.transpose(1, 2))
    assert features.shape == (1, 128, 4, 1, 1)
    torch.testing.assert_close(out.frames[:, 0], features.mean((2, 3, 4)), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(out.grid[0, 0].permute(2, 0, 1), maps[0].mean(1), rtol=1e-4, atol=1e-6)


def test_head() -> None:
    network = I3DNetwork(num_classes=5, width=8).eval()
    with torch.no_grad():
        assert network(torch.zeros(2, 3, 17, 224, 224)).shape == (2, 5, 2)
        for wrong in ((8, 224, 224), (9, 192, 224)):
            with pytest.raises(ValueError, match="9 x 193 x 193"):
                network(torch.zeros(1, 3, *wrong))
        assert network(torch.zeros(1, 3, 9, 193, 193)).shape == (1, 5, 1)


def test_flow_is_red_and_green() -> None:
    encoder, clip = make(variant="i3d_flow_charades"), checks.video(9)
    out = encoder(clip).frames
    for channel, matters in enumerate((True, True, False)):
        changed = clip.clone()
        changed[:, :, channel] = 255 - changed[:, :, channel]
        assert torch.equal(encoder(changed).frames, out) is not matters
    swapped = encoder(clip[:, :, [1, 0, 2]]).frames
    assert not torch.allclose(swapped, out)


@pytest.mark.parametrize("variant", ["i3d_rgb_kinetics", "i3d_flow_kinetics"])
def test_properties_of_all_encoders(variant: str) -> None:
    def of(**options: Any) -> I3D:
        return make(variant=variant, **options)

    checks.check_frozen(of, FRAMES)
    checks.check_reproducible(of)
    checks.check_rows(of, FRAMES)
    checks.check_windows(of)
    checks.check_windows(lambda **o: of(stride=4, **o))
    checks.check_lengths(of)


def test_layout_and_types() -> None:
    checks.check_bfloat16(make, FRAMES)
    checks.check_channels_last(make, FRAMES)


def test_gradient_checkpointing() -> None:
    checks.check_gradient_checkpointing(lambda **o: make(size=64, **o), FRAMES)
    checks.check_checkpointing_is_used(make, FRAMES)
