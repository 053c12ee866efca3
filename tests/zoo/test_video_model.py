"""Video models: where their tokens are, units of clips and frames, what they load and what a checkpoint needs."""

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

from groundzoo.zoo.video.published import PUBLISHED
from groundzoo.zoo.video.video_model import VideoModel

KINDS = sorted(tiny_models.VIDEO)
TUBELETS = {"videomae": 2, "vivit": 2, "vjepa2": 2, "timesformer": 1, "xclip": 1}
SAVED = {
    "videomae": "VideoMAEForVideoClassification",
    "timesformer": "TimesformerForVideoClassification",
    "vivit": "VivitForVideoClassification",
    "xclip": "XCLIPModel",
    "vjepa2": "VJEPA2Model",
}


def make(kind: str, weights: Any = "random", **options: Any) -> VideoModel:
    return VideoModel(weights, **{"config": tiny_models.config(kind), **options})


def loud(kind: str, **options: Any) -> VideoModel:
    """Every parameter has numbers that leave traces; some of the tables start at zero."""
    encoder = make(kind, **options)
    g = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, p in encoder.named_parameters():
            if p.ndim > 1 and "norm" not in name:
                p += 0.1 * torch.randn(p.shape, generator=g)
    return encoder


def ready(encoder: VideoModel, frames: Tensor) -> Tensor:
    return encoder.normalise(encoder.fit(frames))


# ---- tokens ----


@pytest.mark.parametrize("kind", KINDS)
def test_a_cell_is_where_and_when_the_picture_is(kind: str) -> None:
    """What changes most is the cell whose pixels changed: the order of time, rows and columns is right."""
    encoder = loud(kind, units="frame")
    tubelet = TUBELETS[kind]
    before = torch.full((1, 4, 3, 32, 32), 0.5)
    for time, row, column in ((0, 0, 1), (4 // tubelet - 1, 2, 0), (0, 3, 2), (1, 0, 0)):
        after = before.clone()
        patch = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
        after[:, time * tubelet, :, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] = patch
        with torch.no_grad():
            moved = (encoder(after).grid - encoder(before).grid).norm(dim=-1)[0]
        assert moved.shape == (4 // tubelet, 4, 4)
        assert torch.unravel_index(moved.argmax(), moved.shape) == (time, row, column)


def test_timesformer_is_space_major() -> None:
    encoder = loud("timesformer", units="frame")
    x = ready(encoder, checks.video(4))
    tokens = encoder.network(x).last_hidden_state
    grid = encoder(checks.video(4)).grid[0]
    for time, row, column in ((0, 0, 0), (3, 1, 2), (2, 3, 0)):
        torch.testing.assert_close(grid[time, row, column], tokens[0, 1 + (4 * row + column) * 4 + time])


def own_vector(kind: str, encoder: VideoModel, x: Tensor) -> Tensor:
    """The vector of a clip as the family's own model has it."""
    network = encoder.network
    if kind == "xclip":
        import transformers

        whole = transformers.XCLIPModel(transformers.XCLIPConfig(**tiny_models.VIDEO["xclip"])).eval()
        whole.load_state_dict(network.state_dict(), strict=False)
        return whole.get_video_features(x).pooler_output
    if kind == "videomae":
        return network(x).logits  # without a head
    if kind == "vjepa2":
        return network.encoder(x).last_hidden_state.mean(1)
    return network(x).last_hidden_state[:, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_and_units(kind: str) -> None:
    clips, frames = loud(kind), loud(kind, units="frame")
    video, units = checks.video(6, batch=2), 4 // TUBELETS[kind]
    whole, parts = clips(video), frames(video)
    assert (clips.spec.window, clips.spec.stride, clips.spec.context) == (4, 4, 1)
    assert (frames.spec.window, frames.spec.stride, frames.spec.context) == (TUBELETS[kind],) * 2 + (units,)
    assert whole.frames.shape == (2, 2, clips.dim)
    assert whole.grid.shape == (2, 2, *clips.grid)
    assert parts.frames.shape == (2, 6 // TUBELETS[kind], frames.dim)
    assert parts.grid.shape == (2, 6 // TUBELETS[kind], *frames.grid)
    torch.testing.assert_close(whole.grid[:, 0], parts.grid[:, :units].mean(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(whole.frames[:, 0], own_vector(kind, clips, ready(clips, video[:, :4])))
    if kind == "xclip":  # frames have their own
        torch.testing.assert_close(parts.frames[:, :units].mean(1), whole.frames[:, 0])
    elif kind != "videomae":
        torch.testing.assert_close(parts.frames, parts.grid.mean((2, 3)))


def test_videomae_norms_what_its_classifier_would() -> None:
    tuned = loud("videomae")
    tokens = tuned.network.videomae(ready(tuned, checks.video(4))).last_hidden_state
    torch.testing.assert_close(tuned(checks.video(4)).frames[0], tuned.network.fc_norm(tokens.mean(1)))
    plain = loud("videomae", config={**tiny_models.config("videomae"), "use_mean_pooling": False})
    tokens = plain.network.videomae(ready(plain, checks.video(4))).last_hidden_state
    torch.testing.assert_close(plain(checks.video(4)).frames[0], tokens.mean(1))


@pytest.mark.parametrize("kind", KINDS)
def test_passes_are_apart_and_frames_within_see_each_other(kind: str) -> None:
    encoder, video = loud(kind, units="frame"), checks.video(12)
    whole = encoder(video).frames
    pieces = torch.cat([encoder(video[:, :4]).frames, encoder(video[:, 4:]).frames], dim=1)
    torch.testing.assert_close(pieces, whole, rtol=1e-4, atol=1e-5)
    video[:, 5] = 255 - video[:, 5]
    moved = (encoder(video).frames - whole).abs().amax((0, 2)) > 1e-5
    units = 4 // TUBELETS[kind]
    assert moved.tolist() == [False] * units + [True] * units + [False] * units


# ---- how frames are fed ----


@pytest.mark.parametrize("name", sorted(known_models.VIDEO))
def test_published(name: str) -> None:
    """Parameters are counted on the meta device, from the configuration that the weights have."""
    entry, (config, preprocessor) = PUBLISHED[name], known_models.VIDEO[name]
    with torch.device("meta"):
        encoder = VideoModel("checkpoint", config=config, preprocessor=preprocessor)
    assert entry.encoder == "VideoModel"
    assert sum(p.numel() for p in encoder.parameters()) == entry.parameters
    assert (encoder.spec, encoder.dim, encoder.grid) == (entry.spec, entry.dim, entry.grid)


def test_published_names_are_known() -> None:
    assert {k for k, v in PUBLISHED.items() if v.encoder == "VideoModel"} == known_models.VIDEO.keys()


@pytest.mark.parametrize("kind", ["videomae", "vjepa2"])
def test_other_numbers_of_frames(kind: str) -> None:
    encoder = make(kind, num_frames=6)
    assert encoder.spec.window == 6
    assert encoder(checks.video(7)).frames.shape[1] == 2


@pytest.mark.parametrize("kind", ["xclip", "vjepa2"])
def test_other_sizes(kind: str) -> None:
    encoder = loud(kind, size=48)
    assert encoder.grid is not None
    assert encoder.grid[:2] == (6, 6)
    assert encoder(checks.video(4)).grid.shape[2:] == encoder.grid
    if kind == "vjepa2":  # places count from the new size
        assert encoder.network.encoder.layer[0].attention.grid_size == 6
    preprocessed = make(kind, preprocessor={"size": {"height": 40, "width": 40}})
    assert preprocessed.grid is not None
    assert preprocessed.grid[:2] == (5, 5)


def test_options_of_time() -> None:
    encoder = make("vivit", fps=3.0, stride=2)
    assert (encoder.spec.fps, encoder.spec.stride, encoder.spec.window) == (3.0, 2, 4)
    assert encoder.family.fps == make("vivit").spec.fps == 12.5


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("vivit", {"num_frames": 8}, "num_frames=8: this model was trained on 4"),
        ("timesformer", {"num_frames": 8}, "num_frames=8"),
        ("videomae", {"num_frames": 3}, "num_frames=3 is not a multiple of 2"),
        ("videomae", {"size": 48}, r"\(48, 48\): this model sees \(32, 32\)"),
        ("vivit", {"size": 48}, "nothing else"),
        ("xclip", {"size": 36}, "multiples"),
        ("vivit", {"units": "frame", "stride": 2}, "stride=2 is for units: clip"),
    ],
)
def test_what_cannot_be_had(kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(kind, **options)


def test_models_of_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match=r"type vit; VideoModel knows videomae, .*vjepa2"):
        make("vit")
    with pytest.raises(ValueError, match="space_only"):
        make("timesformer", config={**tiny_models.config("timesformer"), "attention_type": "space_only"})


# ---- weights ----


@pytest.mark.parametrize("kind", KINDS)
def test_folders(kind: str, tmp_path: Path) -> None:
    """A network read from a folder is the one written, tables that are not stored included."""
    folder = tiny_models.save(tmp_path, kind, SAVED[kind])
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.1] * 3}))
    encoder = VideoModel(folder)
    assert encoder.spec.mean == (0.1, 0.1, 0.1)
    again = make(kind, "checkpoint", preprocessor=encoder.preprocessor)
    assert not torch.allclose(again(checks.video(4)).frames, encoder(checks.video(4)).frames)
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(again(checks.video(4)).frames, encoder(checks.video(4)).frames)


def test_pretrained_videomae_has_a_decoder_that_is_left(tmp_path: Path) -> None:
    changes = {"decoder_num_attention_heads": 2, "decoder_hidden_size": 8, "decoder_num_hidden_layers": 1}
    folder = tiny_models.save(tmp_path, "videomae", "VideoMAEForPreTraining", use_mean_pooling=False, **changes)
    assert not [k for k in VideoModel(folder).state_dict() if "decoder" in k or "mask" in k]


def test_missing_weights(tmp_path: Path) -> None:
    folder = tiny_models.save(tmp_path, "vivit", "VivitModel", num_hidden_layers=1)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    with pytest.raises(ValueError, match=r"are not those of VivitModel: \d+ missing \(layers.1"):
        VideoModel(folder)
    with pytest.raises(ValueError, match="download: true"):
        VideoModel("nobody/nothing")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("units", ["clip", "frame"])
def test_a_checkpoint_rebuilds_it(kind: str, units: str) -> None:
    flexible = {"num_frames": 6, "size": 48} if kind == "vjepa2" else {}
    encoder = make(kind, units=units, preprocessor={"image_mean": [0.1] * 3}, **flexible)
    arguments = json.loads(json.dumps({**encoder.settings, **encoder.rebuild_arguments()}))
    again = VideoModel(**arguments)
    again.load_state_dict(encoder.state_dict())
    assert again.spec == encoder.spec
    assert torch.equal(again(checks.video(5)).frames, encoder(checks.video(5)).frames)


# ---- what every encoder has ----


@pytest.mark.parametrize("kind", KINDS)
def test_common_properties(kind: str) -> None:
    maker = partial(make, kind)
    checks.check_frozen(maker, 4)
    checks.check_frozen(partial(make, kind, units="frame"), 4)
    checks.check_reproducible(maker)
    noisy: Callable[..., VideoModel] = partial(loud, kind)
    checks.check_rows(noisy, 4)
    checks.check_windows(partial(loud, kind, stride=3))
    checks.check_lengths(maker)
    checks.check_bfloat16(maker, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_checkpointing(kind: str) -> None:
    maker = partial(make, kind)
    checks.check_gradient_checkpointing(maker, 4)
    checks.check_checkpointing_is_used(maker, 4)
