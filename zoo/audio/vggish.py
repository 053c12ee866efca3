"""VGGish: a VGG on log-mel spectrograms of sound, trained on millions of videos.

Hershey et al.: "CNN Architectures for Large-Scale Audio Classification", ICASSP 2017, arXiv:1609.09430; weights
and key names of its PyTorch port (harritaylor/torchvggish). It gives one vector of 128 numbers per 0.96 s.

Differs from the port:
    - Sound behind the last complete patch is filled up with silence and counts; the port drops it.
    - One patch gives ``(1, 128)``, not ``(128,)``.
    - Resampling to 16 kHz and mixing to mono are the reader's work.
    - ``output: pca`` gives the projection itself; `quantise` makes whole numbers of it, as in AudioSet's files.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from ..video.base import VideoEncoder, VideoFeatures
from ..video.options import adapted
from ..video.published import published
from ..weights import CHECKPOINT, load_weights, reproducible

RATE = 16_000
FRAME, HOP, FFT = 400, 160, 512  # samples
BANDS, LOW_HZ, HIGH_HZ = 64, 125.0, 7500.0
PATCH = 96  # frames
OFFSET = 0.01  # keeps the logarithm of silence finite
CLAMP = 2.0  # of the projected values, before they are quantised

# ---- front end ------------------------------------------------------------------------------------------


def _mel(hertz: Tensor) -> Tensor:
    return 1127 * torch.log1p(hertz / 700)


@lru_cache(maxsize=8)
def mel_matrix(device: torch.device) -> Tensor:
    """Weights of the spectrum's bins in the mel bands, ``(257, 64)`` float32: triangles, linear in mel."""
    with torch.inference_mode(False):  # what is cached must serve training too
        lowest, highest = _mel(torch.tensor([LOW_HZ, HIGH_HZ], dtype=torch.float64))
        edges = torch.linspace(lowest, highest, BANDS + 2, dtype=torch.float64)
        bins = _mel(torch.linspace(0, RATE / 2, FFT // 2 + 1, dtype=torch.float64))[:, None]
        low, centre, high = edges[:-2], edges[1:-1], edges[2:]
        triangles = torch.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)).clamp(min=0)
        triangles[0] = 0
        return triangles.float().to(device)


def log_mel(waveform: Tensor) -> Tensor:
    """Log-mel spectrogram of sound.

    Magnitudes (not powers) of windowed frames of 25 ms every 10 ms, in 64 mel bands from 125 to 7500 Hz.

    Args:
        waveform: ``(..., S)`` float in [-1, 1] at 16 kHz, S >= 400.

    Returns:
        ``(..., 1 + (S - 400) // 160, 64)`` float32, natural logarithm.
    """
    window = torch.hann_window(FRAME, periodic=True, device=waveform.device)
    spectrum = torch.fft.rfft(waveform.float().unfold(-1, FRAME, HOP) * window, FFT).abs()
    return torch.log(spectrum @ mel_matrix(waveform.device) + OFFSET)


# ---- network --------------------------------------------------------------------------------------------


class VGGishNetwork(nn.Module):
    """Six convolutions and three linear layers, with the key names of the port.

    Args:
        width: channels of the first convolution; the last has eight times as many.
        hidden: width of the hidden linear layers.
    """

    def __init__(self, width: int = 64, hidden: int = 4096) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        previous = 1
        for widths in ((1,), (2,), (4, 4), (8, 8)):
            for factor in widths:
                layers += [nn.Conv2d(previous, factor * width, 3, padding=1), nn.ReLU()]
                previous = factor * width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        flat = (PATCH // 16) * (BANDS // 16) * previous
        self.embeddings = nn.Sequential(
            nn.Linear(flat, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 128)
        )

    def forward(self, patches: Tensor) -> Tensor:
        """Embed log-mel patches.

        Args:
            patches: ``(N, 1, 96, 64)``, time by bands.

        Returns:
            ``(N, 128)``, before any activation.
        """
        # the weights come from TensorFlow, where channels are the innermost axis
        return self.embeddings(rearrange(self.features(patches), "n c t f -> n (t f c)"))  # type: ignore[no-any-return]


class PCA(nn.Module):
    """The published rotation of the embedding, with the key names of its file."""

    pca_eigen_vectors: Tensor
    pca_means: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("pca_eigen_vectors", torch.eye(128))
        self.register_buffer("pca_means", torch.zeros(128, 1))

    def forward(self, embedding: Tensor) -> Tensor:
        """Rotate ``(N, 128)`` embeddings (after their ReLU)."""
        return (embedding - self.pca_means.T) @ self.pca_eigen_vectors.T


def quantise(projected: Tensor) -> Tensor:
    """Projected embeddings as whole numbers from 0 to 255 (in the same dtype), as AudioSet publishes them."""
    return ((projected.clamp(-CLAMP, CLAMP) + CLAMP) * (255 / (2 * CLAMP))).round()


def _pca_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """From the PCA's own file, or from one of the whole module, to the names of `PCA`."""
    state = {k.removeprefix("module.").removeprefix("pproc."): v for k, v in state.items()}
    if "pca_means" in state:
        state["pca_means"] = state["pca_means"].reshape(-1, 1)
    return state


class VGGish(VideoEncoder):
    """VGGish on the sound track: one vector of 128 numbers per 0.96 s.

    Samples of sound take the place of frames: `forward` takes ``(B, T)`` float in [-1, 1], mono, at 16 kHz.

    Args:
        weights: file of the port (``vggish-*.pth``), bare or wrapped, with or without the PCA; or ``random``.
        variant: which set of weights it is.
        output: the embedding after its ReLU as in the port, before it as in TensorFlow's current definition,
            or its PCA projection.
        pca: file of the PCA (``vggish_pca_params-*.pth``), needed for ``output: pca``.
        stride: samples from unit to unit; None takes 15360, so that patches of 0.96 s follow one another.
        trainable: whether a task may train it.
        width: channels of the first convolution; 64 in the release.
        hidden: width of the hidden linear layers; 4096 in the release.

    Raises:
        ValueError: a file does not fit, or there is a PCA file and no use for it, or the other way round.
    """

    def __init__(
        self,
        weights: str | Path,
        variant: Literal["vggish_audioset"] = "vggish_audioset",
        output: Literal["embedding", "pre_relu", "pca"] = "embedding",
        pca: str | Path | None = None,
        stride: int | None = None,
        trainable: bool = False,
        width: int = 64,
        hidden: int = 4096,
    ) -> None:
        super().__init__(trainable)
        if (output == "pca") != (pca is not None):
            raise ValueError(
                f"VGGish with output={output} and pca={pca}: the PCA file goes with `output: pca` only"
            )
        self.output = output
        entry = published(variant, "VGGish")
        with reproducible():
            self.network = VGGishNetwork(width, hidden)
        load_weights(self.network, weights, heads=("pproc.",))
        self.pproc = None if pca is None else PCA()
        if self.pproc is not None and pca is not None:
            load_weights(self.pproc, pca, heads=("features.", "embeddings."), convert=_pca_names)
        self.spec = adapted(entry.spec, stride)
        self.dim = entry.dim
        self.freeze_unless_trainable()

    def rebuild_arguments(self) -> dict[str, Any]:
        """See `VideoEncoder.rebuild_arguments`."""
        return super().rebuild_arguments() | ({} if self.pproc is None else {"pca": CHECKPOINT})

    def encode(self, clips: Tensor) -> VideoFeatures:
        """Encode patches of sound.

        Args:
            clips: ``(N, 15600)`` float32 in [-1, 1] at 16 kHz.

        Returns:
            ``(N, 1, 128)``, no grid.
        """
        patches = log_mel(clips)[:, None].to(next(self.network.parameters()).dtype)
        embedding = self.network(patches)
        if self.output != "pre_relu":
            embedding = embedding.relu()
        if self.pproc is not None:
            embedding = self.pproc(embedding)
        return VideoFeatures(embedding[:, None])
