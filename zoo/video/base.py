"""What every video encoder is: frames in, features per unit of time out, and how it wants to be fed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..encoder import Encoder
from .spec import FrameSpec

__all__ = ["FrameSpec", "VideoEncoder", "VideoFeatures", "VideoUnits", "crop_or_pad", "pool_cells"]


class VideoFeatures(NamedTuple):
    """What a video encoder returns.

    Attributes:
        frames: ``(B, T', D)``, one vector per unit of time.
        grid: ``(B, T', h, w, C)``, the same units cell by cell, or None for encoders without a grid.
    """

    frames: Tensor
    grid: Tensor | None = None


class VideoEncoder(Encoder, ABC):
    """Base of all video encoders.

    A subclass sets `dim`, `grid` and `spec` (how to feed it) and implements `encode`; all are read from the
    instance by whoever uses the encoder, so that they are never typed twice. Frozen by default: eval mode, no
    gradient, no optimiser state; `trainable=True` lifts all three.

    Attributes:
        dim: width D of the output vectors.
        grid: ``(h, w, C)``, cells of one unit and the width of a cell's vector; None where there is no grid.
        spec: frame rate, window, stride, size and normalisation of the input.
        trainable: whether a task may train it.
        settings: the constructor's arguments, defaults included.
    """

    dim: int
    grid: tuple[int, int, int] | None = None
    spec: FrameSpec

    def __init__(self, trainable: bool = False) -> None:
        super().__init__(trainable)

    @property
    def parts(self) -> Sequence[VideoEncoder]:
        """The encoders that look at video: this one, unless it is made of several."""
        return [self]

    @property
    def stem(self) -> nn.Module | None:
        """The first layers, which some recipes train at another rate; None where nothing is singled out."""
        return None

    @abstractmethod
    def encode(self, clips: Tensor) -> VideoFeatures:
        """Encode passes that have nothing to do with each other.

        Args:
            clips: ``(N, L, 3, H, W)`` float, normalised as `spec` says, L = `spec.pass_frames`.

        Returns:
            Features of ``T' = spec.context`` units of every pass, ``(N, context, D)``.
        """

    def forward(self, frames: Tensor) -> VideoFeatures:
        """Encode one uninterrupted stretch of video.

        Args:
            frames: ``(B, T, 3, H, W)``, T >= 1, uint8 or float in [0, 1], RGB, at `spec.fps`. Sizes other than
                the encoder's are resized and cropped or padded. Sound is ``(B, T)``, int16 or float in [-1, 1].

        Returns:
            Features of ``T' = spec.num_units(T)`` units; an incomplete last window repeats the last frame, one
            of sound is filled up with silence.
        """
        spec, (B, T) = self.spec, frames.shape[:2]
        units = spec.num_units(T)
        passes = -(-units // spec.context)
        starts = torch.arange(passes, device=frames.device)[:, None] * spec.pass_stride
        index = starts + torch.arange(spec.pass_frames, device=frames.device)
        clips = self.normalise(self.fit(frames))
        if passes > 1 or spec.pass_frames != T:  # else frames are one pass already, and need no copy
            clips = clips[:, index.clamp(max=T - 1)]
            if spec.sound:
                clips = clips.masked_fill(index >= T, 0)
            clips = clips.flatten(0, 1)
        with torch.set_grad_enabled(self.trainable and torch.is_grad_enabled()):
            out = self.encode(clips)
        vectors, cells = (None if x is None else x.unflatten(0, (B, passes)).flatten(1, 2)[:, :units] for x in out)
        assert vectors is not None
        return VideoFeatures(vectors, cells)

    def fit(self, frames: Tensor) -> Tensor:
        """Resize and crop or pad ``(..., H, W)`` frames where the decoder has not; dtype and range stay."""
        size = self.spec.size
        if size is None or frames.shape[-2:] == size:
            return frames
        decoded = self.spec.decoded_size(*frames.shape[-2:])
        if decoded is not None and frames.shape[-2:] != decoded:
            flat = frames.flatten(0, -4)
            resized = F.interpolate(flat.float(), decoded, mode="bicubic", antialias=True)
            if frames.dtype == torch.uint8:
                resized = resized.round().clamp(0, 255).to(torch.uint8)
            else:
                resized = resized.clamp(0, 1).to(frames.dtype)
            frames = resized.unflatten(0, frames.shape[:-3])
        return crop_or_pad(frames, self.spec)

    def normalise(self, frames: Tensor) -> Tensor:
        """From uint8 or [0, 1] to what the network was trained on, in the dtype of its weights."""
        spec = self.spec
        if spec.sound:  # front ends need its full precision
            return frames.float() / 32768 if frames.dtype == torch.int16 else frames.float()
        x = frames.float() / 255 if frames.dtype == torch.uint8 else frames.float()
        if any(spec.mean) or spec.std != (1.0, 1.0, 1.0):
            mean, std = (torch.tensor(v, device=x.device).view(3, 1, 1) for v in (spec.mean, spec.std))
            x = (x - mean) / std
        if spec.bgr:
            x = x.flip(-3)
        weight = next((p for p in self.parameters() if p.is_floating_point()), None)
        return x if weight is None else x.to(weight.dtype)


def crop_or_pad(frames: Tensor, spec: FrameSpec) -> Tensor:
    """The last step of fitting frames to an encoder, after they were resized to `spec.decoded_size`.

    Args:
        frames: ``(..., 3, H, W)``, uint8 or float in [0, 1].
        spec: the encoder's.

    Returns:
        The middle of the frames; with `spec.pad` the frames in the upper left corner of `spec.size`, on the mean
        colour, which normalisation brings to about 0 (exactly in float; uint8 rounds it).
    """
    rows, columns = spec.crop(*frames.shape[-2:])
    if not spec.pad or spec.size is None or frames.shape[-2:] == spec.size:
        return frames[..., rows, columns]
    colour = torch.tensor(spec.mean, device=frames.device).view(3, 1, 1)
    if frames.dtype == torch.uint8:
        colour = (255 * colour).round()
    padded = colour.to(frames.dtype).expand(*frames.shape[:-2], *spec.size).clone()
    padded[..., : frames.shape[-2], : frames.shape[-1]] = frames
    return padded


def pool_cells(grid: Tensor, most: int | None) -> Tensor:
    """Average a grid ``(..., h, w, C)`` down to at most `most` cells in each direction; None leaves it."""
    h, w, channels = grid.shape[-3:]
    size = (min(h, most or h), min(w, most or w))
    if size == (h, w):
        return grid
    flat = grid.reshape(-1, h, w, channels).permute(0, 3, 1, 2)
    pooled = F.adaptive_avg_pool2d(flat, size).permute(0, 2, 3, 1)
    return pooled.reshape(*grid.shape[:-3], *size, channels)


class VideoUnits(NamedTuple):
    """A whole video as an encoder sees it.

    Attributes:
        units: ``(n, D)`` on the CPU, float.
        num_frames: frames of the video at the rate the encoder reads.
        duration_s: seconds.
    """

    units: Tensor
    num_frames: int
    duration_s: float
