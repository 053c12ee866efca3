"""VGGish: its front end, patches and silence, files and outputs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_files import golden_cases
from torch import Tensor

from groundzoo.zoo.audio.vggish import PCA, VGGish, VGGishNetwork, log_mel, mel_matrix, quantise
from groundzoo.zoo.video.published import PUBLISHED


def tiny(weights: str | Path = "checkpoint", **options: Any) -> VGGish:
    return VGGish(weights, **{"width": 4, "hidden": 16, **options})


def sound(samples: int, batch: int = 1, seed: int = 0) -> Tensor:
    return 2 * torch.rand(batch, samples, generator=torch.Generator().manual_seed(seed)) - 1


def rotation() -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(3)
    return {"pca_eigen_vectors": torch.rand(128, 128, generator=g), "pca_means": torch.rand(128, generator=g)}


# ---- front end ----


@pytest.mark.parametrize("hertz", [200, 440, 1000, 3000, 7000])
def test_a_tone_lights_the_band_it_lies_in(hertz: float) -> None:
    tone = 0.5 * torch.sin(2 * math.pi * hertz * torch.arange(4000) / 16_000)
    mel = [1127 * math.log(1 + f / 700) for f in (125, hertz, 7500)]
    band = (mel[1] - mel[0]) / (mel[2] - mel[0]) * 65 - 1
    assert (log_mel(tone).mean(0).argmax() - band).abs() < 1


def test_silence_and_shapes() -> None:
    torch.testing.assert_close(log_mel(torch.zeros(2, 3, 15_600)), torch.full((2, 3, 96, 64), math.log(0.01)))
    assert log_mel(torch.zeros(559)).shape == (1, 64)
    assert log_mel(torch.zeros(560)).shape == (2, 64)


def test_remembered_bands_serve_training_on_sound() -> None:
    mel_matrix.cache_clear()
    with torch.inference_mode():
        log_mel(sound(400))
    wave = sound(400).requires_grad_()
    log_mel(wave).sum().backward()
    assert wave.grad.abs().sum() > 0


# ---- units ----


@pytest.mark.parametrize(("samples", "units"), [(1, 1), (15_600, 1), (15_601, 2), (30_960, 2), (40_000, 3)])
def test_an_incomplete_patch_is_filled_up_with_silence(samples: int, units: int) -> None:
    encoder = tiny()
    wave = sound(samples, batch=2)
    wave[:, -1] = 1.0  # would be heard if it were repeated
    out = encoder(wave)
    assert out.grid is None
    assert out.frames.shape == (2, units, 128)
    missing = encoder.spec.num_frames(units) - samples
    padded = torch.cat([wave, torch.zeros(2, missing)], dim=1)
    assert torch.equal(encoder(padded).frames, out.frames)
    if missing:
        repeated = torch.cat([wave, torch.ones(2, missing)], dim=1)
        assert not torch.allclose(encoder(repeated).frames[:, -1], out.frames[:, -1])


def test_units_are_patches_of_one_long_spectrogram() -> None:
    encoder = tiny()
    wave = sound(15_360 * 3 + 240)
    patches = log_mel(wave).reshape(3, 1, 96, 64)
    out = encoder(wave).frames[0]
    torch.testing.assert_close(out, encoder.network(patches).relu(), rtol=1e-4, atol=1e-5)
    for k in range(3):  # a video can be cut between any two
        own = wave[:, 15_360 * k : 15_360 * k + 15_600]
        torch.testing.assert_close(encoder(own).frames[0, 0], out[k], rtol=1e-4, atol=1e-5)


def test_stride() -> None:
    encoder = tiny(stride=8000)
    wave = sound(31_600)
    out = encoder(wave).frames
    assert out.shape == (1, 3, 128)
    torch.testing.assert_close(out[:, 1], encoder(wave[:, 8000:23_600]).frames[:, 0], rtol=1e-4, atol=1e-5)


def test_each_sound_is_encoded_as_if_alone() -> None:
    encoder, wave = tiny(), sound(20_000, batch=3)
    order = torch.tensor([1, 2, 0])
    together = encoder(wave).frames
    torch.testing.assert_close(encoder(wave[order]).frames, together[order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encoder(wave[2:]).frames[0], together[2], rtol=1e-4, atol=1e-5)


def test_whole_numbers_are_scaled() -> None:
    whole = (sound(15_600) * 32_000).round().to(torch.int16)
    assert torch.equal(tiny()(whole).frames, tiny()(whole.double() / 32_768).frames)


# ---- weights ----


@pytest.mark.golden
@pytest.mark.parametrize("path", golden_cases("zoo", "keys/vggish.json"))
def test_names_shapes_and_counts_are_the_released_ones(path: Path) -> None:
    expected = json.loads(path.read_text(encoding="utf-8"))
    with torch.device("meta"):
        network, pca = VGGishNetwork(), PCA()
    shapes = {k: list(v.shape) for k, v in network.state_dict().items()}
    assert shapes == expected["network_file_keys"]
    rotated = {f"pproc.{k}": list(v.shape) for k, v in pca.state_dict().items()}
    assert shapes | rotated == expected["whole_module_keys_with_postprocess"]
    assert pca.state_dict().keys() == expected["pca_file_keys"].keys()
    assert sum(p.numel() for p in network.parameters()) == expected["parameters_network"]


def test_what_is_published_is_what_there_is() -> None:
    entry = PUBLISHED["vggish_audioset"]
    with torch.device("meta"):
        encoder = VGGish("checkpoint")
    assert sum(p.numel() for p in encoder.parameters()) == entry.parameters
    assert (encoder.dim, encoder.grid, encoder.spec) == (entry.dim, entry.grid, entry.spec)


@pytest.mark.parametrize("how", ["bare", "state_dict", "model_state_dict", "module", "with the PCA"])
def test_weights_load_however_they_are_wrapped(how: str, tmp_path: Path) -> None:
    source = tiny()
    state = {k: v + 0.01 for k, v in source.network.state_dict().items()}
    source.network.load_state_dict(state)
    if how == "module":
        saved: Any = {f"module.{k}": v for k, v in state.items()}
    elif how == "with the PCA":
        saved = state | {f"pproc.{k}": v for k, v in rotation().items()}
    else:
        saved = state if how == "bare" else {how: state}
    torch.save(saved, tmp_path / "w.pth")
    loaded = tiny(tmp_path / "w.pth", output="pre_relu")
    raw = source.network(log_mel(sound(15_600))[:, None])
    torch.testing.assert_close(loaded(sound(15_600)).frames[0], raw, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(tiny(output="pre_relu")(sound(15_600)).frames[0], raw)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(tiny(hidden=8).network.state_dict(), tmp_path / "w.pth")
    with pytest.raises(ValueError, match="of another shape"):
        tiny(tmp_path / "w.pth")
    torch.save(rotation(), tmp_path / "pca.pth")
    with pytest.raises(ValueError, match=r"not those of VGGishNetwork: 18 missing.*2 unknown"):
        tiny(tmp_path / "pca.pth")
    with pytest.raises(ValueError, match="not those of PCA: 2 missing"):
        tiny(output="pca", pca=tmp_path / "w.pth")


# ---- outputs ----


@pytest.mark.parametrize("how", ["flat means", "column of means", "whole module"])
def test_outputs_follow_from_one_another(how: str, tmp_path: Path) -> None:
    parts = rotation()
    saved = dict(parts)
    if how == "column of means":
        saved["pca_means"] = parts["pca_means"][:, None]
    elif how == "whole module":
        saved = {f"pproc.{k}": v for k, v in parts.items()} | tiny().network.state_dict()
    torch.save(saved, tmp_path / "pca.pth")
    wave = sound(40_000)
    raw, embedding = tiny(output="pre_relu")(wave).frames, tiny()(wave).frames
    projected = tiny(output="pca", pca=tmp_path / "pca.pth")(wave).frames
    assert (raw < 0).any()
    assert torch.equal(embedding, raw.relu())
    expected = torch.stack([parts["pca_eigen_vectors"] @ (y - parts["pca_means"]) for y in embedding[0]])
    torch.testing.assert_close(projected[0], expected, rtol=1e-4, atol=1e-4)


def test_pca_and_output_belong_together(tmp_path: Path) -> None:
    torch.save(rotation(), tmp_path / "pca.pth")
    with pytest.raises(ValueError, match="pca=None"):
        tiny(output="pca")
    with pytest.raises(ValueError, match="output=embedding"):
        tiny(pca=tmp_path / "pca.pth")


def test_a_checkpoint_stands_in_for_both_files(tmp_path: Path) -> None:
    torch.save(rotation(), tmp_path / "pca.pth")
    torch.save(tiny().network.state_dict(), tmp_path / "w.pth")
    made = tiny(tmp_path / "w.pth", output="pca", pca=tmp_path / "pca.pth")
    (tmp_path / "pca.pth").unlink()
    (tmp_path / "w.pth").unlink()
    again = VGGish(**{**made.settings, **made.rebuild_arguments()})
    again.load_state_dict(made.state_dict())
    assert torch.equal(again(sound(15_600)).frames, made(sound(15_600)).frames)
    assert tiny().rebuild_arguments() == {"weights": "checkpoint"}


def test_quantised_values() -> None:
    values = quantise(torch.tensor([-9.0, -2.0, 0.01, 1.0, 2.0, 9.0]))
    assert values.tolist() == [0, 0, 128, 191, 255, 255]


# ---- training ----


def test_frozen_means_frozen() -> None:
    encoder = tiny().train()
    assert not any(m.training for m in encoder.modules())
    assert not any(p.requires_grad for p in encoder.parameters())
    assert not encoder(sound(100)).frames.requires_grad


def test_every_parameter_learns() -> None:
    encoder = tiny(trainable=True, output="pre_relu")
    encoder(sound(15_600, batch=4)).frames.square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_half_precision_leaves_the_front_end_alone() -> None:
    wave = sound(15_600) * 0.01
    expected = tiny(output="pre_relu")(wave).frames
    encoder = tiny(output="pre_relu").bfloat16()
    heard: list[Tensor] = []
    encoder.network.register_forward_pre_hook(lambda _module, args: heard.append(args[0]))
    found = encoder(wave).frames
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).abs().max() < 0.05 * expected.abs().max()
    assert torch.equal(heard[0][:, 0], log_mel(wave).bfloat16())
