"""DAVEnet: convolutions over log-mel spectrograms of sound, trained to find what is spoken of in pictures.

Harwath et al.: "Jointly Discovering Visual Objects and Spoken Words from Raw Sensory Input", ECCV 2018,
arXiv:1804.01452, and its residual successor (Harwath, Hsu and Glass: "Learning Hierarchical Discrete Linguistic
Units from Visually-Grounded Speech", ICLR 2020, arXiv:1911.09602). What was trained on HowTo100M (AVLnet,
arXiv:2006.09199; MCN, arXiv:2104.12671) is called DAVEnet, too, and is the residual network: the default here. Key
names are those of dharwath/DAVEnet-pytorch and roudimit/AVLnet.

Differs from these programs:
    - The mean and the loudest value are those of one pass of 10 s, theirs are those of a whole file, so that a
      video can be cut between passes.
    - What lies behind the end is silence before the front end, thus 80 dB below the loudest value. Theirs is 0
      behind it, thus as loud as the loudest.
    - ResDAVEnet's files hold a normalisation of the spectrogram that its forward pass leaves out; so do we.
    - A pass has 1008 frames of the spectrogram, theirs usually 1000: that is 63 vectors either way.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..video.base import VideoEncoder, VideoFeatures
from ..video.published import published
from ..weights import load_weights, reproducible

RATE = 16_000
FRAME, HOP = 400, 160  # samples
BANDS, LOW_HZ, HIGH_HZ = 40, 20.0, 8000.0
EMPHASIS = 0.97
FLOOR = 1e-10  # power below which everything is silence
RANGE_DB = 80.0  # from the loudest value to the quietest that counts

# ---- front end ------------------------------------------------------------------------------------------

LINEAR_HZ, LINEAR_MEL, STEP = 1000.0, 15.0, math.log(6.4) / 27  # Slaney's scale turns logarithmic at 1 kHz


def _mel(hertz: Tensor) -> Tensor:
    above = LINEAR_MEL + torch.log(hertz.clamp(min=LINEAR_HZ) / LINEAR_HZ) / STEP
    return torch.where(hertz < LINEAR_HZ, hertz * (LINEAR_MEL / LINEAR_HZ), above)


def _hertz(mel: Tensor) -> Tensor:
    above = LINEAR_HZ * torch.exp(STEP * (mel - LINEAR_MEL))
    return torch.where(mel < LINEAR_MEL, mel * (LINEAR_HZ / LINEAR_MEL), above)


@lru_cache(maxsize=8)
def slaney_matrix(device: torch.device) -> Tensor:
    """Weights of the spectrum's bins in the mel bands, ``(201, 40)`` float32, as librosa makes them by default.

    Triangles, linear in Hertz, whose corners lie evenly on Slaney's mel scale (linear up to 1 kHz, logarithmic
    above) from 20 to 8000 Hz; each has area 1.
    """
    with torch.inference_mode(False):  # what is cached must serve training too
        lowest, highest = _mel(torch.tensor([LOW_HZ, HIGH_HZ], dtype=torch.float64))
        edges = _hertz(torch.linspace(lowest, highest, BANDS + 2, dtype=torch.float64))
        bins = torch.linspace(0, RATE / 2, FRAME // 2 + 1, dtype=torch.float64)[:, None]
        low, centre, high = edges[:-2], edges[1:-1], edges[2:]
        triangles = torch.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)).clamp(min=0)
        return (triangles * 2 / (high - low)).float().to(device)


def log_mel_decibels(waveform: Tensor) -> Tensor:
    """Log-mel spectrogram of sound, relative to its own loudest value.

    The mean is removed and high frequencies are raised (pre-emphasis 0.97). Powers of frames of 25 ms (symmetric
    Hamming window), centred at every 10 ms and mirrored at the ends, in 40 mel bands.

    Args:
        waveform: ``(..., S)`` float in [-1, 1] at 16 kHz, S > 200.

    Returns:
        ``(..., 40, S // 160)`` float32, decibels in [-80, 0]; 0 is the largest value of each spectrogram. Sound
        that is nothing but silence is 0 throughout.
    """
    with torch.autocast(waveform.device.type, enabled=False):  # half precision would blur quiet sounds
        wave = waveform.float().reshape(-1, waveform.shape[-1])
        wave = wave - wave.mean(-1, keepdim=True)
        wave = torch.cat([wave[:, :1], wave[:, 1:] - EMPHASIS * wave[:, :-1]], dim=-1)
        window = torch.hamming_window(FRAME, periodic=False, device=wave.device)
        spectrum = torch.stft(wave, FRAME, HOP, window=window, pad_mode="reflect", return_complex=True)
        power = torch.view_as_real(spectrum).square().sum(-1)[..., : wave.shape[-1] // HOP]
        bands = slaney_matrix(wave.device).T @ power
        loudness = 10 * torch.log10(bands.clamp(min=FLOOR))
        relative = loudness - loudness.amax((-2, -1), keepdim=True)
        return relative.clamp(min=-RANGE_DB).reshape(*waveform.shape[:-1], BANDS, -1)


# ---- networks -------------------------------------------------------------------------------------------


class DAVEnetNetwork(nn.Module):
    """Five plain convolutions, with the key names of dharwath/DAVEnet-pytorch.

    Args:
        width: channels of the first convolution; the last has eight times as many. 128 in the paper.
    """

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.batchnorm1 = nn.BatchNorm2d(1)
        self.conv1 = nn.Conv2d(1, width, (BANDS, 1))
        self.conv2 = nn.Conv2d(width, 2 * width, (1, 11), padding=(0, 5))
        self.conv3 = nn.Conv2d(2 * width, 4 * width, (1, 17), padding=(0, 8))
        self.conv4 = nn.Conv2d(4 * width, 4 * width, (1, 17), padding=(0, 8))
        self.conv5 = nn.Conv2d(4 * width, 8 * width, (1, 17), padding=(0, 8))
        self.pool = nn.MaxPool2d((1, 3), (1, 2), (0, 1))

    def forward(self, spectrograms: Tensor) -> Tensor:
        """Embed spectrograms.

        Args:
            spectrograms: ``(N, 1, 40, T)``.

        Returns:
            ``(N, 8 * width, ceil(T / 16))``.
        """
        x = self.conv1(self.batchnorm1(spectrograms)).relu()
        for conv in (self.conv2, self.conv3, self.conv4, self.conv5):
            x = self.pool(conv(x).relu())
        return x.squeeze(2)  # type: ignore[no-any-return]


class ResDAVEnetBlock(nn.Module):
    """Two convolutions over nine frames, batch norms, and a way around them; key names of ResDAVEnet.

    Args:
        channels: of the input.
        out_channels: of the output.
        stride: 2 halves the length and gives the way around a convolution of its own; 1 keeps both.
    """

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out_channels, (1, 9), stride, (0, 4), bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, (1, 9), padding=(0, 4), bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1:
            conv = nn.Conv2d(channels, out_channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """From ``(N, C, 1, T)`` to ``(N, out_channels, 1, ceil(T / stride))``."""
        inner = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return F.relu(inner + self.downsample(x))


class ResDAVEnetNetwork(nn.Module):
    """A convolution over the bands and four stages of two residual blocks, with the key names of AVLnet.

    Args:
        width: channels of the first convolution; the last stage has eight times as many. 128 in the release.
    """

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, (BANDS, 1), bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            nn.Sequential(ResDAVEnetBlock(before, after, 2), ResDAVEnetBlock(after, after, 1))
            for before, after in pairwise(widths)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, spectrograms: Tensor) -> Tensor:
        """See `DAVEnetNetwork.forward`."""
        x = self.bn1(self.conv1(spectrograms)).relu()
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
        return x.squeeze(2)  # type: ignore[no-any-return]


def _audio_side(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The audio network's tensors from a file of AVLnet, MCN or of the network alone."""
    state = {k.removeprefix("module."): v for k, v in state.items()}
    audio = {k.removeprefix("DAVEnet."): v for k, v in state.items() if k.startswith("DAVEnet.")}
    return audio or state


# ---- encoder --------------------------------------------------------------------------------------------


class DAVEnet(VideoEncoder):
    """DAVEnet on the sound track: one vector per 160 ms.

    Samples of sound take the place of frames: `forward` takes ``(B, S)`` int16 or float in [-1, 1], mono, at 16
    kHz, and gives ``ceil(S / 2560)`` vectors. Each is made of more sound than its own 160 ms (of up to 8.4 s, or
    2.7 s in the plain network), so 63 neighbours are computed in one pass of 10.08 s, the length that the
    networks were trained on. Passes share nothing; beyond their ends the convolutions see zeros. What a vector
    sees is centred where its 160 ms start.

    Args:
        weights: a file of AVLnet or MCN (all but its audio side is left out) or of the network alone; or `random`.
        variant: which set of weights it is.
        residual: the network of AVLnet and MCN (ResDAVEnet); False takes the plain one of the first paper, whose
            weights nobody publishes.
        trainable: whether a task may train it.
        width: channels of the first convolution; vectors have eight times as many numbers. 128 in the release.

    Raises:
        ValueError: a file does not fit.
    """

    def __init__(
        self,
        weights: str | Path,
        variant: Literal["davenet_howto100m"] = "davenet_howto100m",
        residual: bool = True,
        trainable: bool = False,
        width: int = 128,
    ) -> None:
        super().__init__(trainable)
        self.spec = published(variant, "DAVEnet").spec
        self.dim = 8 * width
        with reproducible():
            self.network = ResDAVEnetNetwork(width) if residual else DAVEnetNetwork(width)
        unused = ("batchnorm1.",) if residual else ()
        load_weights(self.network, weights, heads=unused, convert=_audio_side)
        self.freeze_unless_trainable()

    def encode(self, clips: Tensor) -> VideoFeatures:
        """Encode passes of sound.

        Args:
            clips: ``(N, 161280)`` float32 in [-1, 1] at 16 kHz.

        Returns:
            ``(N, 63, D)``, no grid.
        """
        spectrograms = log_mel_decibels(clips)[:, None].to(next(self.network.parameters()).dtype)
        return VideoFeatures(self.network(spectrograms).transpose(1, 2))
