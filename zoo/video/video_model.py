"""Video models of Transformers: VideoMAE, TimeSformer, ViViT, X-CLIP and V-JEPA 2.

VideoMAE (Tong et al., NeurIPS 2022, arXiv:2203.12602), TimeSformer (Bertasius et al., ICML 2021,
arXiv:2102.05095), ViViT (Arnab et al., ICCV 2021, arXiv:2103.15691), X-CLIP (Ni et al., ECCV 2022,
arXiv:2208.02816), V-JEPA 2 (Assran et al., arXiv:2506.09985).

Differs from the models' processors: every resize is bicubic; ViViT's frames come to [-1, 1] as its authors have
it, and are not centred twice. Differs from the papers' evaluation: clips lie side by side over the whole video at
a fixed frame rate instead of being drawn from it; a last incomplete clip repeats the last frame.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from .. import hub
from .base import VideoEncoder, VideoFeatures
from .options import adapted
from .preprocessor import FILES, frame_spec
from .video_tokens import FAMILIES, adapt_frames


class VideoModel(VideoEncoder):
    """A video model of Transformers, a vector per clip or per frame, and its patches as grid.

    The vector of a clip is the family's own: the class token (TimeSformer, ViViT), the mean over frames after the
    frame transformer (X-CLIP, in the joint space with text), the mean of all tokens, normed where the fine-tuned
    model norms it (VideoMAE), the plain mean (V-JEPA 2). The grid of a clip is the mean over its times.

    Args:
        weights: a local folder, or a name on the Hub that is in the local cache; `random` and `checkpoint` need
            `config`.
        units: `clip`, one unit per pass of the network; or `frame`, one per tubelet (two frames in VideoMAE, ViViT
            and V-JEPA 2, one in TimeSformer and X-CLIP), which sees the other frames of its pass: its vector is
            the mean of its patches, in X-CLIP the frame's own.
        fps: frames per second; None takes the rate that the family was trained at.
        stride: frames between clips; None puts them side by side. Of units of frames it cannot be chosen.
        num_frames: frames per pass; None takes the weights' own. VideoMAE and V-JEPA 2 take others.
        size: side of the square input in pixels; None takes the weights' own. X-CLIP and V-JEPA 2 take others.
        config: the contents of a ``config.json``, to build the network without files.
        preprocessor: the contents of a ``preprocessor_config.json``; None reads the folder's, and takes what is
            usual for the family where there is none.
        download: fetch `weights` from the Hub if they are not on this machine.
        trainable: whether a task may train it.
        gradient_checkpointing: compute activations twice in training instead of keeping them.

    Raises:
        ValueError: the weights are not on this machine, are those of no video model, or do not fit; or
            `num_frames`, `size` or `stride` cannot be had.
    """

    def __init__(
        self,
        weights: str | Path,
        units: Literal["clip", "frame"] = "clip",
        fps: float | None = None,
        stride: int | None = None,
        num_frames: int | None = None,
        size: int | None = None,
        config: dict[str, Any] | None = None,
        preprocessor: dict[str, Any] | None = None,
        download: bool = False,
        trainable: bool = False,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__(trainable)
        import transformers

        settings = hub.read_config(weights, config, download)
        if settings.model_type not in FAMILIES:
            raise ValueError(
                f"'{weights}' is a model of type {settings.model_type}; VideoModel knows {', '.join(FAMILIES)}"
            )
        if preprocessor is None and config is None:
            preprocessor = hub.read_json(weights, FILES, download)
        self.family = family = FAMILIES[settings.model_type]
        self.units, self.preprocessor = units, preprocessor
        self.config = hub.plain_config(settings)
        self.layout = layout = adapt_frames(settings, family, num_frames)
        window, context = layout.frames, 1
        if units == "frame":
            window, context = layout.tubelet, layout.frames // layout.tubelet
            if stride is not None:
                raise ValueError(f"stride={stride} is for units: clip; of frames, each is a unit or part of one")
        fps = family.fps if fps is None else fps
        spec = frame_spec(
            preprocessor, layout.size, family.mean, family.std, True, fps, window, stride or window, context
        )
        self.spec = adapted(spec, size=size)
        self._check_size()
        if family.size == "crop_size":  # rotary positions count from it
            assert self.spec.size is not None
            settings.crop_size = self.spec.size[0]
        self.network = hub.build(
            getattr(transformers, family.network), settings, weights, download, **dict(family.options)
        )
        hub.drop(self.network, *family.unused)
        hub.checkpoint_activations(self.network, gradient_checkpointing)
        self._measure()
        self.freeze_unless_trainable()

    def _check_size(self) -> None:
        assert self.spec.size is not None
        if self.spec.size != self.layout.size and not self.family.any_size:
            raise ValueError(f"size={self.spec.size}: this model sees {self.layout.size} pixels and nothing else")
        if any(side % patch for side, patch in zip(self.spec.size, self.layout.patch, strict=True)):
            raise ValueError(f"size={self.spec.size}: sides must be multiples of the model's {self.layout.patch}")

    def _measure(self) -> None:
        """Find width and grid by a look at nothing."""
        assert self.spec.size is not None
        self.network.eval()
        device = next(self.network.parameters()).device
        with torch.no_grad():
            empty = torch.zeros(1, self.layout.frames, 3, *self.spec.size, device=device)
            out = self.family.encode(self.network, self.layout, empty)
        self.dim = out.clip.shape[1]
        self.grid = (out.cells.shape[2], out.cells.shape[3], out.cells.shape[4])

    def rebuild_arguments(self) -> dict[str, Any]:
        """Configuration and preprocessor, which stand in for the files; see `Encoder.rebuild_arguments`."""
        kept = {"config": self.config, "preprocessor": self.preprocessor, "download": False}
        return super().rebuild_arguments() | kept

    def encode(self, clips: Tensor) -> VideoFeatures:
        """See `VideoEncoder.encode`."""
        out = self.family.encode(self.network, self.layout, clips)
        if self.units == "frame":
            return VideoFeatures(out.times, out.cells)
        return VideoFeatures(out.clip[:, None], out.cells.mean(1, keepdim=True))
