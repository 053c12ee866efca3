"""C3D: what it is fed, what it loads, and what its features depend on; outputs are in tests/golden."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import encoder_checks as checks
import pytest
import torch

from groundzoo.zoo.video.c3d import C3D, C3DNetwork
from groundzoo.zoo.video.published import PUBLISHED

FRAMES = 20
NAMES = [name for name, entry in PUBLISHED.items() if entry.encoder == "C3D"]
HEADS = {"fc7.weight": torch.zeros(16, 16), "fc7.bias": torch.zeros(16), "fc8.weight": torch.zeros(487, 16)}


def make(weights: Any = "random", **options: Any) -> C3D:
    """2 to 16 channels on 48 pixels."""
    return C3D(weights, **{"width": 2, "hidden": 16, "size": 48, **options})


def mmaction2(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The other conversion's names, as its repository lists them."""

    def rename(name: str) -> str:
        layer, _, rest = name.partition(".")
        if not layer.startswith("conv"):
            return name
        return f"{layer}{'' if layer[-1] in 'ab' else 'a'}.conv.{rest}"

    return {rename(k): v for k, v in state.items()}


@pytest.mark.parametrize("wrap", checks.WRAPS)
def test_weights(wrap: str, tmp_path: Path) -> None:
    checks.check_weights(make, lambda e: e.network, wrap, tmp_path, **HEADS)


@pytest.mark.parametrize("output", ["fc6", "fc7"])
@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_weights_of_mmaction2(output: str, prefix: str, tmp_path: Path) -> None:
    state = checks.varied(make(output=output).network.state_dict())
    theirs = mmaction2({**HEADS, **state})
    assert "conv1a.conv.weight" in theirs
    assert "conv5b.conv.bias" in theirs
    del theirs["fc8.weight"]
    content = {prefix + k: v for k, v in theirs.items()}
    if prefix:
        content["cls_head.fc_cls.weight"] = torch.zeros(101, 16)
    path = checks.write(content, "state_dict", tmp_path)
    loaded = make(path, output=output).network.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[k], v) for k, v in state.items())


def test_fc7_needs_its_weights(tmp_path: Path) -> None:
    path = checks.write(make().network.state_dict(), "bare", tmp_path)
    with pytest.raises(ValueError, match=r"2 missing \(fc7.bias, fc7.weight\)"):
        make(path, output="fc7")


def test_wrong_files(tmp_path: Path) -> None:
    checks.check_wrong_files(make, lambda e: e.network, tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_published(name: str) -> None:
    entry = PUBLISHED[name]
    with torch.device("meta"):
        encoder = C3D("random", name)  # type: ignore[arg-type]
    assert sum(p.numel() for p in encoder.parameters()) == entry.parameters
    assert (encoder.spec, encoder.dim, encoder.grid) == (entry.spec, entry.dim, entry.grid)
    assert (encoder.spec.window, encoder.spec.stride, encoder.spec.fps) == (16, 8, None)


def test_colours_of_the_two_variants() -> None:
    """The value that a pure red picture has in each channel of the input."""
    red = torch.zeros(1, 1, 3, 4, 4, dtype=torch.uint8)
    red[:, :, 0] = 255
    sports1m, mmaction = (make(variant=name).normalise(red)[0, 0, :, 0, 0] for name in NAMES)
    torch.testing.assert_close(sports1m, torch.tensor([-90.25, -97.66, 255 - 101.41]), rtol=0, atol=1e-3)
    torch.testing.assert_close(mmaction, torch.tensor([255 - 104.0, -117.0, -128.0]), rtol=0, atol=1e-3)


def test_sizes_of_the_two_variants() -> None:
    """One squeezes the picture, the other keeps its shape."""
    sports1m, mmaction = (PUBLISHED[name].spec for name in NAMES)
    assert sports1m.decoded_size(480, 640) == (128, 171)
    assert sports1m.decoded_size(360, 640) == (128, 171)
    assert mmaction.decoded_size(360, 640) == (128, 228)
    assert sports1m.size == mmaction.size == (112, 112)


@pytest.mark.parametrize(("pool5", "begin"), [("port", -1), ("caffe", 0)])
def test_where_the_windows_of_the_last_pool_begin(pool5: Any, begin: int) -> None:
    pool = C3DNetwork(pool5=pool5, width=1, hidden=1).pool5
    x = torch.randn(1, 2, 2, 7, 7, generator=torch.Generator().manual_seed(0))
    found = pool(x)
    assert found.shape == (1, 2, 1, 4, 4)
    for row in range(4):
        for column in range(4):
            top, left = 2 * row + begin, 2 * column + begin
            window = x[..., max(top, 0) : top + 2, max(left, 0) : left + 2]
            assert torch.equal(found[0, :, 0, row, column], window.amax((0, 2, 3, 4)))


def test_features_come_after_the_relu() -> None:
    for output in ("fc6", "fc7"):
        encoder = make(output=output)
        layer = getattr(encoder.network, output)
        before: list[torch.Tensor] = []
        layer.register_forward_hook(lambda _m, _i, out, before=before: before.append(out.clone()))
        vectors = encoder(checks.video(16)).frames
        assert torch.equal(vectors[0], before[0].clamp(min=0))
        assert before[0].min() < 0


def test_pools_give_different_features() -> None:
    clip = checks.video(16)
    assert not torch.allclose(make(pool5="port")(clip).frames, make(pool5="caffe")(clip).frames)


@pytest.mark.parametrize("size", [32, 64, 100, 111])
def test_wrong_sizes(size: int) -> None:
    with pytest.raises(ValueError, match="16 times an odd number"):
        make(size=size)


def test_classes_stand_behind_fc7() -> None:
    with pytest.raises(ValueError, match="needs last='fc7'"):
        C3DNetwork("fc6", num_classes=3)


def test_options_of_the_input() -> None:
    spec = make(fps=10.0, stride=4).spec
    assert (spec.fps, spec.stride, spec.window, spec.size, spec.resize) == (10.0, 4, 16, (48, 48), (55, 73))


@pytest.mark.parametrize("output", ["fc6", "fc7"])
def test_frozen_and_trainable(output: str) -> None:
    checks.check_frozen(lambda **options: make(output=output, **options), FRAMES)


def test_dropout_stands_before_fc7() -> None:
    checks.check_dropout(lambda **options: make(output="fc7", **options), FRAMES)
    encoder, clip = make(output="fc6", trainable=True), checks.video(FRAMES)
    assert torch.equal(encoder(clip).frames, encoder(clip).frames)


def test_random_weights_are_the_same_everywhere() -> None:
    checks.check_reproducible(make)


def test_rows() -> None:
    checks.check_rows(make, FRAMES)


@pytest.mark.parametrize("stride", [8, 16])
def test_windows(stride: int) -> None:
    checks.check_windows(lambda **options: make(stride=stride, **options))


def test_lengths() -> None:
    checks.check_lengths(make)


@pytest.mark.parametrize("output", ["fc6", "fc7"])
def test_gradient_checkpointing(output: str) -> None:
    checks.check_gradient_checkpointing(lambda **options: make(output=output, **options), FRAMES)
    checks.check_checkpointing_is_used(make, FRAMES)


def test_bfloat16() -> None:
    checks.check_bfloat16(make, FRAMES)


def test_channels_last() -> None:
    checks.check_channels_last(make, FRAMES)
