"""DAVEnet: its front end, both networks, passes and silence, files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from encoder_checks import varied
from torch import Tensor

from groundzoo.zoo.audio.davenet import (
    DAVEnet,
    DAVEnetNetwork,
    ResDAVEnetNetwork,
    log_mel_decibels,
    slaney_matrix,
)
from groundzoo.zoo.video.published import PUBLISHED

PASS, UNIT = 161_280, 2560
LIBROSA = [  # band, frame, decibels
    (0, 0, -31.3325), (3, 10, -54.0170), (14, 50, -47.4493), (20, 99, -41.4484), (25, 1, -68.1781),
    (32, 60, -80.0), (39, 30, -65.6740),
]  # fmt: skip
BOTH = pytest.mark.parametrize("residual", [True, False], ids=["residual", "plain"])


def tiny(weights: str | Path = "checkpoint", **options: Any) -> DAVEnet:
    return DAVEnet(weights, **{"width": 2, **options})


def sound(samples: int, batch: int = 1, seed: int = 0) -> Tensor:
    return torch.rand(batch, samples, generator=torch.Generator().manual_seed(seed)) - 0.5


# ---- front end ----


def test_bands_by_hand() -> None:
    """Corners 20 Hz = 0.3 mel and 8000 Hz = 45.245 mel; in between 1.0962 mel each, 73.08 Hz while linear."""
    bands = slaney_matrix(torch.device("cpu"))
    assert bands.shape == (201, 40)
    width = 200 / 3 * ((15 + 27 * math.log(8) / math.log(6.4)) - 0.3) / 41
    low, centre, high = 20.0, 20 + width, 20 + 2 * width
    area = 2 / (high - low)
    assert bands[1, 0].item() == pytest.approx(area * (40 - low) / (centre - low), rel=1e-5)
    assert bands[3, 0].item() == pytest.approx(area * (high - 120) / (high - centre), rel=1e-5)
    assert bands[0, 0] == bands[5, 0] == 0
    # the top band falls to 0 at 8 kHz; its corners are 6.4 ** (1 / 27) per mel apart
    per_band = 6.4 ** (width / (200 / 3) / 27)
    low, centre = 8000 / per_band**2, 8000 / per_band
    area = 2 / (8000 - low)
    assert bands[199, 39].item() == pytest.approx(area * (8000 - 7960) / (8000 - centre), rel=1e-4)
    assert bands[175, 39].item() == pytest.approx(area * (7000 - low) / (centre - low), rel=1e-3)
    assert bands[200].sum() == 0
    assert (bands * 40).sum(0).sub(1).abs().max() < 0.2  # areas of about 1, in samples 40 Hz apart


def test_values_of_librosa() -> None:
    """Values of librosa 0.11 (stft, filters.mel, power_to_db) as the released programs call it."""
    t = torch.arange(16_000, dtype=torch.float64) / 16_000
    wave = 0.3 * torch.sin(2 * math.pi * (200 + 1500 * t) * t) + 0.05 + 0.01 * torch.cos(2 * math.pi * 5000 * t)
    found = log_mel_decibels(wave)
    assert found.shape == (40, 100)
    places = torch.tensor(LIBROSA)
    values = found[places[:, 0].long(), places[:, 1].long()]
    torch.testing.assert_close(values, places[:, 2], rtol=1e-4, atol=2e-3)


@pytest.mark.parametrize("hertz", [200, 440, 1000, 3000, 7000])
def test_a_tone_lights_the_band_it_lies_in(hertz: float) -> None:
    tone = 0.5 * torch.sin(2 * math.pi * hertz * torch.arange(8000) / 16_000)
    scale = [f * 0.015 if f < 1000 else 15 + 27 * math.log(f / 1000) / math.log(6.4) for f in (20, hertz, 8000)]
    band = (scale[1] - scale[0]) / (scale[2] - scale[0]) * 41 - 1
    assert (log_mel_decibels(tone).mean(1).argmax() - band).abs() < 1


def test_decibels_are_relative_to_the_loudest_of_each() -> None:
    wave = sound(4000, batch=6).view(2, 3, 4000)
    found = log_mel_decibels(wave)
    assert found.shape == (2, 3, 40, 25)
    assert torch.equal(found.amax((-2, -1)), torch.zeros(2, 3))
    torch.testing.assert_close(log_mel_decibels(wave * 0.01 + 0.3), found, rtol=1e-3, atol=1e-2)
    wave = wave - wave.mean(-1, keepdim=True)  # else the quiet half would have one
    quiet = torch.cat([wave, wave * 1e-6], dim=-1)  # 120 dB below
    assert log_mel_decibels(quiet)[..., 27:].max() == -80
    assert torch.equal(log_mel_decibels(torch.zeros(4000)), torch.zeros(40, 25))


def test_high_frequencies_are_raised() -> None:
    t = torch.arange(8000) / 16_000
    both = log_mel_decibels(torch.sin(2 * math.pi * 300 * t) + torch.sin(2 * math.pi * 6000 * t)).mean(1)
    gain = [
        abs(1 - 0.97 * complex(math.cos(w), -math.sin(w))) for w in (2 * math.pi * f / 16_000 for f in (300, 6000))
    ]
    lower, upper = both[:20].max().item(), both[20:].max().item()
    areas = 10 * math.log10(452 / 145)  # band at 6 kHz is about that much wider than the one at 300 Hz, thus lower
    assert upper - lower == pytest.approx(20 * math.log10(gain[1] / gain[0]) - areas, abs=2.5)


def test_remembered_bands_serve_training_on_sound() -> None:
    slaney_matrix.cache_clear()
    with torch.inference_mode():
        log_mel_decibels(sound(400))
    wave = sound(400).requires_grad_()
    log_mel_decibels(wave).sum().backward()
    assert wave.grad.abs().sum() > 0


# ---- networks ----


@pytest.mark.parametrize("frames", [1, 16, 17, 1000, 1008])
@pytest.mark.parametrize("network", [DAVEnetNetwork, ResDAVEnetNetwork])
def test_sixteen_frames_make_a_vector(network: Any, frames: int) -> None:
    with torch.device("meta"):
        out = network(width=4)(torch.empty(3, 1, 40, frames))
    assert out.shape == (3, 32, -(-frames // 16))


def test_plain_layers_one_by_one() -> None:
    """Against the layers of the paper as functions: what each sees, in which order, and how it is pooled."""
    network = DAVEnetNetwork(2).eval()
    network.load_state_dict(varied(network.state_dict()))
    x = 20 * sound(40 * 50, seed=1).view(1, 1, 40, 50)
    s = network.state_dict()
    y = (x[0, 0] - s["batchnorm1.running_mean"]) / (s["batchnorm1.running_var"] + 1e-5).sqrt()
    y = y * s["batchnorm1.weight"] + s["batchnorm1.bias"]
    y = (s["conv1.weight"][:, 0, :, 0] @ y + s["conv1.bias"][:, None]).relu()  # all bands at once
    for k, size in ((2, 11), (3, 17), (4, 17), (5, 17)):
        windows = torch.nn.functional.pad(y, (size // 2, size // 2)).unfold(1, size, 1)
        y = torch.einsum("oik,itk->ot", s[f"conv{k}.weight"][:, :, 0], windows) + s[f"conv{k}.bias"][:, None]
        y = torch.nn.functional.pad(y.relu(), (1, 1), value=-math.inf)
        y = torch.stack([y[:, t : t + 3].amax(1) for t in range(0, y.shape[1] - 2, 2)], dim=1)
    torch.testing.assert_close(network(x)[0], y, rtol=1e-4, atol=1e-5)


def test_residual_blocks_one_by_one() -> None:
    network = ResDAVEnetNetwork(2).eval()
    network.load_state_dict(varied(network.state_dict()))
    s = network.state_dict()
    x = 20 * sound(40 * 50, seed=1).view(1, 1, 40, 50)

    def norm(y: Tensor, name: str) -> Tensor:
        mean, var, gain, shift = (
            s[f"{name}.{k}"][:, None] for k in ("running_mean", "running_var", "weight", "bias")
        )
        return (y - mean) / (var + 1e-5).sqrt() * gain + shift

    def conv(y: Tensor, name: str, stride: int) -> Tensor:
        size = s[name].shape[-1]
        windows = torch.nn.functional.pad(y, (size // 2, size // 2)).unfold(1, size, stride)
        return torch.einsum("oik,itk->ot", s[name][:, :, 0], windows)

    y = norm(s["conv1.weight"][:, 0, :, 0] @ x[0, 0], "bn1").relu()
    for stage in range(1, 5):
        for k, stride in enumerate((2, 1)):
            name = f"layer{stage}.{k}"
            inner = norm(conv(y, f"{name}.conv1.weight", stride), f"{name}.bn1").relu()
            inner = norm(conv(inner, f"{name}.conv2.weight", 1), f"{name}.bn2")
            if stride == 2:
                y = norm(conv(y, f"{name}.downsample.0.weight", 2), f"{name}.downsample.1")
            y = (inner + y).relu()
    torch.testing.assert_close(network(x)[0], y, rtol=1e-4, atol=1e-5)


def test_shapes_are_the_released_ones() -> None:
    with torch.device("meta"):
        plain, residual = DAVEnetNetwork().state_dict(), ResDAVEnetNetwork().state_dict()
    weights = {k: tuple(v.shape) for k, v in plain.items() if k.endswith("weight")}
    assert weights == {
        "batchnorm1.weight": (1,),
        "conv1.weight": (128, 1, 40, 1),
        "conv2.weight": (256, 128, 1, 11),
        "conv3.weight": (512, 256, 1, 17),
        "conv4.weight": (512, 512, 1, 17),
        "conv5.weight": (1024, 512, 1, 17),
    }
    assert "conv1.bias" in plain
    assert len(residual) == 2 + 4 + 4 * (2 * 2 * (1 + 5) + 6)
    assert residual["conv1.weight"].shape == (128, 1, 40, 1)
    for name, width, before in (("1", 128, 128), ("2", 256, 128), ("3", 512, 256), ("4", 1024, 512)):
        assert residual[f"layer{name}.0.conv1.weight"].shape == (width, before, 1, 9)
        assert residual[f"layer{name}.1.conv2.weight"].shape == (width, width, 1, 9)
        assert residual[f"layer{name}.0.downsample.0.weight"].shape == (width, before, 1, 1)
    assert not any("bias" in k and "bn" not in k and "downsample.1" not in k for k in residual)


def test_what_is_published_is_what_there_is() -> None:
    entry = PUBLISHED["davenet_howto100m"]
    with torch.device("meta"):
        encoder, plain = DAVEnet("checkpoint"), DAVEnet("checkpoint", residual=False)
    assert sum(p.numel() for p in encoder.parameters()) == entry.parameters
    assert sum(p.numel() for p in plain.parameters()) == 15_965_570
    assert (encoder.dim, encoder.grid, encoder.spec) == (entry.dim, entry.grid, entry.spec)
    assert encoder.spec.pass_frames == PASS


# ---- units ----


@BOTH
@pytest.mark.parametrize(("samples", "units"), [(1, 1), (UNIT, 1), (UNIT + 1, 2), (PASS, 63), (PASS + 1, 64)])
def test_an_incomplete_pass_is_filled_up_with_silence(residual: bool, samples: int, units: int) -> None:
    encoder = tiny(residual=residual)
    wave = sound(samples, batch=2)
    out = encoder(wave)
    assert out.grid is None
    assert out.frames.shape == (2, units, 16)
    assert encoder.dim == 16
    assert out.frames.isfinite().all()
    missing = -samples % PASS
    padded = torch.cat([wave, torch.zeros(2, missing)], dim=1)
    assert torch.equal(encoder(padded).frames[:, :units], out.frames)


@BOTH
def test_passes_share_nothing_and_are_whole_spectrograms(residual: bool) -> None:
    encoder = tiny(residual=residual)
    wave = sound(2 * PASS)
    wave[:, PASS:] *= 0.1
    out = encoder(wave).frames[0]
    alone = [encoder(part).frames[0] for part in wave.split(PASS, dim=1)]
    torch.testing.assert_close(out, torch.cat(alone), rtol=1e-3, atol=1e-4)
    expected = encoder.network(log_mel_decibels(wave[:, :PASS])[:, None])[0].T
    torch.testing.assert_close(out[:63], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("residual", "reach"), [(True, 420), (False, 132)], ids=["residual", "plain"])
def test_what_a_vector_sees_is_centred_where_its_time_starts(residual: bool, reach: int) -> None:
    """What vector 30 depends on: 841 frames (residual) or 265 (plain) around frame 480, where its 160 ms start."""
    network = tiny(residual=residual).network.double()
    network.load_state_dict({k: v.abs() for k, v in network.state_dict().items()})  # nothing cancels or is cut off
    spectrogram = torch.rand(1, 1, 40, 1008, dtype=torch.float64, requires_grad=True)
    if not residual:  # a maximum hides the frames that lose
        network.pool = torch.nn.AvgPool2d((1, 3), (1, 2), (0, 1))
    network(spectrogram)[0, :, 30].sum().backward()
    seen = spectrogram.grad[0, 0].abs().sum(0).nonzero()[:, 0]
    assert seen.tolist() == list(range(480 - reach, 480 + reach + 1))


def test_each_sound_is_encoded_as_if_alone() -> None:
    encoder, wave = tiny(), sound(20_000, batch=3)
    order = torch.tensor([1, 2, 0])
    together = encoder(wave).frames
    torch.testing.assert_close(encoder(wave[order]).frames, together[order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encoder(wave[2:]).frames[0], together[2], rtol=1e-4, atol=1e-5)


def test_whole_numbers_are_scaled() -> None:
    whole = (sound(UNIT) * 32_000).round().to(torch.int16)
    assert torch.equal(tiny()(whole).frames, tiny()(whole.double() / 32_768).frames)


# ---- weights ----


@BOTH
@pytest.mark.parametrize("how", ["bare", "module.", "state_dict", "DAVEnet.", "module.DAVEnet."])
def test_weights_load_however_they_are_wrapped(how: str, residual: bool, tmp_path: Path) -> None:
    state = varied(tiny(residual=residual).network.state_dict())
    saved: dict[str, Any] = dict(state)
    if residual:  # in every file, used by none
        saved |= {f"batchnorm1.{k}": torch.ones(1) for k in ("weight", "bias", "running_mean", "running_var")}
    saved = {how + k if how.endswith(".") else k: v for k, v in saved.items()}
    if "DAVEnet." in how:  # whole models
        front = how.removesuffix("DAVEnet.")
        saved |= {f"{front}{k}": torch.zeros(3) for k in ("DAVEnet_projection.weight", "GU_audio.fc.bias")}
        saved |= {f"{front}nat_DAVEnet.{k}": torch.zeros_like(v) for k, v in state.items()}
    torch.save({"epoch": 3, "state_dict": saved} if how == "state_dict" else saved, tmp_path / "w.pth")
    loaded = tiny(tmp_path / "w.pth", residual=residual).network.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[k], state[k]) for k in state)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(tiny(width=1).network.state_dict(), tmp_path / "w.pth")
    with pytest.raises(ValueError, match="of another shape"):
        tiny(tmp_path / "w.pth")
    torch.save(tiny().network.state_dict(), tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"not those of DAVEnetNetwork: \d+ missing.*unknown"):
        tiny(tmp_path / "w.pth", residual=False)
    torch.save(tiny(residual=False).network.state_dict(), tmp_path / "w.pth")
    with pytest.raises(ValueError, match="not those of ResDAVEnetNetwork"):
        tiny(tmp_path / "w.pth")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth do not exist"):
        tiny(tmp_path / "nowhere.pth")


def test_random_weights_are_the_same_everywhere() -> None:
    torch.manual_seed(5)
    first = tiny("random").state_dict()
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), drawn)
    second = tiny("random").state_dict()
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert tiny().rebuild_arguments() == {"weights": "checkpoint"}


# ---- training ----


@BOTH
def test_frozen_means_frozen(residual: bool) -> None:
    encoder = tiny(residual=residual).train()
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    assert not encoder(sound(100)).frames.requires_grad
    assert not any(p.requires_grad for p in encoder.parameters())
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())


@BOTH
def test_every_parameter_learns(residual: bool) -> None:
    encoder = tiny(trainable=True, residual=residual, width=4)
    encoder(sound(UNIT * 20, batch=4)).frames.square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_half_precision_leaves_the_front_end_alone() -> None:
    wave = sound(UNIT * 4) * 0.01
    expected = log_mel_decibels(wave)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(log_mel_decibels(wave), expected)
    encoder = tiny().bfloat16()
    heard: list[Tensor] = []
    encoder.network.register_forward_pre_hook(lambda _module, args: heard.append(args[0]))
    assert encoder(wave).frames.dtype == torch.bfloat16
    padded = torch.cat([wave, torch.zeros(1, PASS - UNIT * 4)], dim=1)
    assert torch.equal(heard[0][:, 0], log_mel_decibels(padded).bfloat16())
