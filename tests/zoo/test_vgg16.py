"""VGG16: what it is fed, what it loads, and what its features depend on; outputs are in tests/golden."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import encoder_checks as checks
import pytest
import torch

from groundzoo.zoo.video.published import PUBLISHED
from groundzoo.zoo.video.vgg16 import VGG16, VGG16Network

FRAMES = 17
HEADS = {"classifier.6.weight": torch.zeros(1000, 16), "classifier.6.bias": torch.zeros(1000)}


def make(weights: Any = "random", **options: Any) -> VGG16:
    """2 to 16 channels on 32 pixels."""
    return VGG16(weights, **{"width": 2, "hidden": 16, "size": 32, **options})


@pytest.mark.parametrize("wrap", checks.WRAPS)
def test_weights(wrap: str, tmp_path: Path) -> None:
    """With and without a prefix `features.`, which also begins names of the network itself."""
    checks.check_weights(make, lambda e: e.network, wrap, tmp_path, **HEADS)


def test_wrong_files(tmp_path: Path) -> None:
    checks.check_wrong_files(make, lambda e: e.network, tmp_path)


def test_published() -> None:
    entry = PUBLISHED["vgg16_imagenet"]
    with torch.device("meta"):
        encoder = VGG16("random")
    assert sum(p.numel() for p in encoder.parameters()) == entry.parameters
    assert (encoder.spec, encoder.dim, encoder.grid) == (entry.spec, entry.dim, entry.grid)


def test_normalisation() -> None:
    """White and black in each channel, by hand."""
    frames = torch.stack([torch.full((3, 2, 2), 255), torch.zeros(3, 2, 2)])[None].to(torch.uint8)
    white, black = make().normalise(frames)[0, :, :, 0, 0]
    torch.testing.assert_close(white, torch.tensor([0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225]))
    torch.testing.assert_close(black, torch.tensor([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225]))


def test_features_come_after_the_relu() -> None:
    encoder = make()
    before: list[torch.Tensor] = []
    encoder.network.classifier[3].register_forward_hook(lambda _m, _i, out: before.append(out.clone()))
    vectors = encoder(checks.video(1)).frames
    assert torch.equal(vectors[0], before[0].clamp(min=0))
    assert before[0].min() < 0


@pytest.mark.parametrize("shape", [(32, 32), (47, 70), (224, 224)])
def test_any_size_will_do(shape: tuple[int, int]) -> None:
    network = VGG16Network(num_classes=5, width=2, hidden=16).eval()
    assert network(torch.zeros(2, 3, *shape)).shape == (2, 5)


def test_options_of_the_input() -> None:
    spec = make(fps=10.0, stride=1, size=112).spec
    assert (spec.fps, spec.stride, spec.window, spec.size, spec.resize) == (10.0, 1, 1, (112, 112), 128)


def test_frozen_and_trainable() -> None:
    checks.check_frozen(make, FRAMES)


def test_dropout() -> None:
    checks.check_dropout(make, FRAMES)


def test_random_weights_are_the_same_everywhere() -> None:
    checks.check_reproducible(make)


def test_rows() -> None:
    checks.check_rows(make, FRAMES)


@pytest.mark.parametrize("stride", [8, 1])
def test_windows(stride: int) -> None:
    checks.check_windows(lambda **options: make(stride=stride, **options))


def test_lengths() -> None:
    checks.check_lengths(make)


def test_gradient_checkpointing() -> None:
    checks.check_gradient_checkpointing(make, FRAMES)
    checks.check_checkpointing_is_used(make, FRAMES)


def test_bfloat16() -> None:
    checks.check_bfloat16(make, FRAMES)
