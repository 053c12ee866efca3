"""Encoders of other checkpoints take the place of precomputed features, if they are those that made them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from groundzoo.datamodules.collecting import encode_video
from groundzoo.datamodules.marking import write_video
from groundzoo.tasks.dense_captioning import DenseCaptioning, EncoderOptions
from groundzoo.tasks.real_encoders import replace_stored, stored_features
from groundzoo.tasks.satsp import SATSP
from groundzoo.zoo.event_captioner import CaptionerOptions
from groundzoo.zoo.video.base import VideoEncoder
from groundzoo.zoo.video.combined import Combined
from groundzoo.zoo.video.pixel_grid import PixelGrid
from groundzoo.zoo.video.precomputed import Precomputed
from groundzoo.zoo.video.r2plus1d import R2Plus1D

SETTINGS = {
    "weights": "random",
    "fps": 4.0,
    "window": 8,
    "stride": 8,
    "size": 16,
    "layers": [1, 1, 1, 1],
    "width": 2,
}
CLIPS = {"dim": 16, "fps": 4.0, "window": 8, "stride": 8}
PIXELS = {"dim": 36, "fps": 6.0, "window": 6, "stride": 3}


def captioner(encoder: VideoEncoder) -> DenseCaptioning:
    small = CaptionerOptions(dim=8, word_dim=6, attention_dim=4)
    return DenseCaptioning(encoder, EncoderOptions(dim=8, heads=2), small, proposals=None)


def pretrained(folder: Path, encoder: VideoEncoder, recipe: dict[str, Any]) -> Path:
    """A checkpoint of a task that has trained this encoder."""
    task = SATSP(encoder)
    task.set_vocabulary([("action", "running"), ("concept", "man")])
    task.recipe = {"class_path": "SATSP", "init_args": {"video_encoder": recipe}}
    checkpoint: dict[str, Any] = {"state_dict": task.state_dict()}
    task.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, folder / "satsp.ckpt")
    return folder / "satsp.ckpt"


@pytest.fixture(scope="module")
def trained() -> R2Plus1D:
    """Weights as nobody else has them."""
    encoder = R2Plus1D(**SETTINGS, trainable=True)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return encoder


@pytest.fixture(scope="module")
def checkpoint(trained: R2Plus1D, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = {"class_path": "R2Plus1D", "init_args": {**SETTINGS, "trainable": True}}
    return pretrained(tmp_path_factory.mktemp("satsp"), trained, recipe)


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    encoder = {"class_path": "PixelGrid", "init_args": {"grid": 2, "size": 8}}
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump({"model": {"init_args": {"video_encoder": encoder}}}))
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    frames = np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3)).astype(np.uint8)
    path = tmp_path_factory.mktemp("video") / "noise.mp4"
    write_video(path, frames, 10)
    return path


def test_a_trained_encoder_takes_the_place(checkpoint: Path, trained: R2Plus1D, video: Path) -> None:
    task = captioner(Precomputed(**CLIPS))
    assert len(stored_features(task)) == 1
    replace_stored(task, [checkpoint])
    assert stored_features(task) == []
    own = task.video_encoder
    assert not own.trainable
    assert not own.training
    assert not any(p.requires_grad for p in own.parameters())
    expected = encode_video(trained.eval(), video)
    assert torch.equal(encode_video(own, video).units, expected.units)
    assert not torch.equal(encode_video(R2Plus1D(**SETTINGS), video).units, expected.units)


def test_stores_may_be_denser_than_the_encoder_was_trained(
    checkpoint: Path, trained: R2Plus1D, video: Path
) -> None:
    task = captioner(Precomputed(**CLIPS | {"stride": 4}))
    replace_stored(task, [checkpoint])
    dense, sparse = encode_video(task.video_encoder, video).units, encode_video(trained.eval(), video).units
    assert len(dense) > len(sparse)
    assert torch.allclose(dense[::2], sparse[: len(dense[::2])], atol=1e-5)


def test_several_features(checkpoint: Path, trained: R2Plus1D, grid: Path, video: Path) -> None:
    """Of a checkpoint and of a configuration, in the order of the features; what sees video itself stays."""
    own = PixelGrid(4, size=8)
    task = captioner(Combined([Precomputed(**PIXELS), own, Precomputed(**CLIPS)]))
    replace_stored(task, [grid, checkpoint])
    found = encode_video(task.video_encoder, video)
    trained.trainable = False
    try:
        expected = encode_video(Combined([PixelGrid(2, size=8), own, trained]), video)
    finally:
        trained.trainable = True
    assert found.units.shape == expected.units.shape
    assert torch.equal(found.units, expected.units)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (CLIPS | {"dim": 8}, "dim is 16, not 8"),
        (CLIPS | {"fps": 15.0}, "fps is 4.0, not 15.0"),
        (CLIPS | {"fps": None}, "fps is 4.0, not None"),
        (CLIPS | {"window": 16, "dim": 8}, "dim is 16, not 8; window is 8, not 16"),
    ],
)
def test_another_encoder_is_refused(facts: dict[str, Any], expected: str, checkpoint: Path) -> None:
    task = captioner(Precomputed(**facts, name="the store"))
    before = task.video_encoder
    with pytest.raises(ValueError, match=expected) as caught:
        replace_stored(task, [checkpoint])
    assert "R2Plus1D" in str(caught.value)
    assert str(checkpoint) in str(caught.value)
    assert "'the store'" in str(caught.value)
    assert task.video_encoder is before


def test_a_stride_that_belongs_to_the_network_must_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder that sees several units at once cannot leave some out."""
    from groundzoo.tasks import real_encoders
    from groundzoo.zoo.video.base import FrameSpec

    encoder = PixelGrid(2, size=8)
    encoder.spec = FrameSpec(fps=6.0, window=6, stride=6, size=(8, 8), context=2)
    monkeypatch.setattr(real_encoders, "_parts", lambda source: [encoder])
    with pytest.raises(ValueError, match="stride is 6, not 3"):
        replace_stored(captioner(Precomputed(**PIXELS)), ["x.ckpt"])
    replace_stored(captioner(Precomputed(**PIXELS | {"stride": 6})), ["x.ckpt"])


def test_the_number_of_encoders_must_be_that_of_features(checkpoint: Path, grid: Path) -> None:
    task = captioner(Combined([Precomputed(**CLIPS), Precomputed(**PIXELS)]))
    for sources in ([checkpoint], [checkpoint, grid, grid]):
        with pytest.raises(ValueError, match=rf"2 kinds of precomputed features, and {len(sources)} encoders"):
            replace_stored(task, sources)


def test_who_sees_video_needs_nobody(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="reads video itself, with PixelGrid"):
        replace_stored(captioner(PixelGrid(2, size=8)), [checkpoint])


def test_precomputed_features_replace_none(tmp_path: Path) -> None:
    path = tmp_path / "stored.yaml"
    path.write_text(yaml.safe_dump({"video_encoder": {"class_path": "Precomputed", "init_args": CLIPS}}))
    with pytest.raises(ValueError, match=r"stored\.yaml: its video encoder is precomputed features, too"):
        replace_stored(captioner(Precomputed(**CLIPS)), [path])


@pytest.mark.parametrize(
    "content", [None, "trainer: {max_epochs: 1}", "[1, 2]", "a: b: c", "video_encoder: {class_path: Nothing}"]
)
def test_bad_configurations(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises((ValueError, OSError), match=r"odd\.yaml"):
        replace_stored(captioner(Precomputed(**CLIPS)), [path])


def test_bad_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.ckpt does not exist"):
        replace_stored(captioner(Precomputed(**CLIPS)), [tmp_path / "nowhere.ckpt"])
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    with pytest.raises(ValueError, match=r"foreign\.ckpt does not say how its task is built"):
        replace_stored(captioner(Precomputed(**CLIPS)), [tmp_path / "foreign.ckpt"])
