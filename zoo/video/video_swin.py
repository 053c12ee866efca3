"""Video Swin Transformer: attention inside shifted windows of space and time.

Liu, Ning, Cao, Wei, Zhang, Lin, Hu: "Video Swin Transformer", CVPR 2022, arXiv:2106.13230.

`VideoSwinNetwork` has the key names of the official release. A unit of `VideoSwin` is a clip, as in the paper,
or a single frame, as captioning with a grid per frame asks for.

Differs from the official code:
    - One view of a clip instead of the mean over 4 x 3; a last, incomplete clip repeats the last frame.
    - ``units: frame`` undoes the temporal stride of 2 and squeezes the whole frame into the square instead of
      cropping it, so that a box in a frame keeps its cells.
    - The Something-Something set takes 32 frames spread evenly over a whole video; here they come at a fixed 8
      per second, which is the same for the four seconds of a typical video.
Its one oddity that shows in the numbers is kept: where a picture is smaller than a window, the window shrinks,
but looks its position biases up as if it had not (the leading rows of the full window's index).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..weights import load_weights, reproducible, strip_prefixes
from .base import VideoEncoder, VideoFeatures
from .options import adapted
from .published import published

Size = tuple[int, int, int]  # along time, height, width
Index = Tensor | slice
BLOCKED = -100.0  # added to the attention between regions that are no neighbours

Variant = Literal[
    "video_swin_t_kinetics400",
    "video_swin_s_kinetics400",
    "video_swin_b_kinetics400",
    "video_swin_b_kinetics400_22k",
    "video_swin_b_kinetics600",
    "video_swin_b_ssv2",
]


class Architecture(NamedTuple):
    """What tells the variants apart; see `VideoSwinNetwork`."""

    embed_dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    window_size: Size
    drop_path: float


_BASE = Architecture(128, (2, 2, 18, 2), (4, 8, 16, 32), (8, 7, 7), 0.3)
ARCHITECTURES: dict[str, Architecture] = {
    "video_swin_t_kinetics400": Architecture(96, (2, 2, 6, 2), (3, 6, 12, 24), (8, 7, 7), 0.1),
    "video_swin_s_kinetics400": Architecture(96, (2, 2, 18, 2), (3, 6, 12, 24), (8, 7, 7), 0.1),
    "video_swin_b_kinetics400": _BASE,
    "video_swin_b_kinetics400_22k": _BASE._replace(drop_path=0.2),
    "video_swin_b_kinetics600": _BASE._replace(drop_path=0.2),
    "video_swin_b_ssv2": _BASE._replace(window_size=(16, 7, 7), drop_path=0.4),
}

# ---- windows: where they lie and who sees whom -----------------------------------------------------------


def relative_position_index(window: Size) -> Tensor:
    """Row of the bias table for every pair of tokens of a window.

    Returns:
        ``(N, N)`` int64 in [0, (2t - 1)(2h - 1)(2w - 1)) for a window of N = t x h x w tokens.
    """
    _, h, w = window
    places = torch.cartesian_prod(*(torch.arange(n) for n in window)).reshape(-1, 3)
    offsets = places[:, None] - places[None] + torch.tensor(window) - 1
    return (offsets * torch.tensor([(2 * h - 1) * (2 * w - 1), 2 * w - 1, 1])).sum(-1)


def clip_window(size: Size, window: Size, shift: Size) -> tuple[Size, Size]:
    """Window and shift for tokens of `size`: a window no larger than they are, unshifted where it covers them."""
    fits = [n <= w for n, w in zip(size, window, strict=True)]
    clipped = tuple(n if fit else w for n, w, fit in zip(size, window, fits, strict=True))
    shifted = tuple(0 if fit else s for s, fit in zip(shift, fits, strict=True))
    return clipped, shifted  # type: ignore[return-value]


def shift_mask(size: Size, window: Size, shift: Size) -> tuple[Tensor, Tensor]:
    """Which tokens of a window must not see each other after a cyclic shift.

    Few windows differ: those at the end of an axis hold both ends of the picture, all others are alike.

    Args:
        size: tokens, a multiple of the window.
        window: tokens per window.
        shift: tokens that the picture was rolled by.

    Returns:
        ``(P, N, N)`` bool, the P different masks, True = blocked; and ``(windows,)`` int64, which is whose.
    """
    axes = []
    for n, w, s in zip(size, window, shift, strict=True):
        i = torch.arange(n)
        axes.append((i >= n - w).long() + (i >= n - s).long() if s else torch.zeros_like(i))
    regions = 9 * axes[0][:, None, None] + 3 * axes[1][:, None] + axes[2]
    wt, wh, ww = window
    regions = rearrange(regions, "(t wt) (h wh) (w ww) -> (t h w) (wt wh ww)", wt=wt, wh=wh, ww=ww)
    distinct, which = regions.unique(dim=0, return_inverse=True)
    return distinct[:, :, None] != distinct[:, None, :], which


@lru_cache(maxsize=128)
def window_groups(size: Size, window: Size, shift: Size, device: torch.device) -> list[tuple[Index, Tensor]]:
    """Windows that share a mask, ``(which, (N, N) bool)`` per group; see `shift_mask`."""
    with torch.inference_mode(False):  # what is cached must serve training too
        masks, which = (x.to(device) for x in shift_mask(size, window, shift))
        if len(masks) == 1:
            return [(slice(None), masks[0])]
        return [((which == i).nonzero().flatten(), mask) for i, mask in enumerate(masks)]


# ---- network --------------------------------------------------------------------------------------------


class PatchEmbed(nn.Module):
    """Non-overlapping patches of a clip, projected; zeros fill up incomplete ones at the end of each axis."""

    def __init__(self, patch_size: Size, dim: int, norm: bool) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv3d(3, dim, patch_size, patch_size)
        self.norm = nn.LayerNorm(dim) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """From ``(B, 3, T, H, W)`` to ``(B, T / pt, H / ph, W / pw, dim)``, sizes rounded up."""
        missing = [-n % p for n, p in zip(x.shape[2:], self.patch_size, strict=True)]
        x = self.proj(F.pad(x, (0, missing[2], 0, missing[1], 0, missing[0])))
        return self.norm(rearrange(x, "b c t h w -> b t h w c"))  # type: ignore[no-any-return]


class WindowAttention(nn.Module):
    """Self-attention inside windows, with a learned bias per head for every offset between two tokens."""

    relative_position_index: Tensor

    def __init__(self, dim: int, num_heads: int, window_size: Size, qkv_bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        rows = math.prod(2 * n - 1 for n in window_size)
        self.relative_position_bias_table = nn.Parameter(torch.empty(rows, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", relative_position_index(window_size))
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, groups: Sequence[tuple[Index, Tensor]]) -> Tensor:
        """Attend within each window.

        Args:
            x: ``(B, windows, N, dim)``.
            groups: windows that share a mask, see `window_groups`.

        Returns:
            Of the same shape.
        """
        N = x.shape[2]
        index = self.relative_position_index[:N, :N]
        bias = rearrange(self.relative_position_bias_table[index], "n m heads -> heads n m")
        q, k, v = rearrange(self.qkv(x), "b w n (qkv heads d) -> qkv b w heads n d", qkv=3, heads=self.num_heads)
        out = torch.empty_like(q)
        for windows, blocked in groups:
            mask = (bias + BLOCKED * blocked).to(q.dtype)[None]
            q_, k_, v_ = (part[:, windows].flatten(0, 1) for part in (q, k, v))
            attended = F.scaled_dot_product_attention(q_, k_, v_, attn_mask=mask)
            out[:, windows] = attended.unflatten(0, (len(x), -1))
        return self.proj(rearrange(out, "b w heads n d -> b w n (heads d)"))  # type: ignore[no-any-return]


class MLP(nn.Sequential):
    """Two linear layers around a GELU (the exact one)."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, dim)


class SwinBlock(nn.Module):
    """Windowed attention and MLP, each behind a layer norm and beside a shortcut."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: Size,
        shifted: bool,
        mlp_ratio: float,
        qkv_bias: bool,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.window_size = window_size
        self.shift: Size = tuple(n // 2 if shifted else 0 for n in window_size)  # type: ignore[assignment]
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, num_heads, window_size, qkv_bias)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        """Of shape ``(B, T, H, W, dim)``, in and out."""
        x = x + self.dropped(self.attend(self.norm1(x)))
        return x + self.dropped(self.mlp(self.norm2(x)))

    def attend(self, x: Tensor) -> Tensor:
        """Pad to whole windows, roll, attend, roll back, cut."""
        T, H, W = x.shape[1:4]
        window, shift = clip_window((T, H, W), self.window_size, self.shift)
        missing = [-n % w for n, w in zip((T, H, W), window, strict=True)]
        x = F.pad(x, (0, 0, 0, missing[2], 0, missing[1], 0, missing[0]))  # zeros, and they are attended to
        size: Size = tuple(x.shape[1:4])  # type: ignore[assignment]
        wt, wh, ww = window
        t, h, w = (n // m for n, m in zip(size, window, strict=True))
        if any(shift):
            x = x.roll([-s for s in shift], (1, 2, 3))
        x = rearrange(x, "b (t wt) (h wh) (w ww) c -> b (t h w) (wt wh ww) c", wt=wt, wh=wh, ww=ww)
        x = self.attn(x, window_groups(size, window, shift, x.device))
        x = rearrange(x, "b (t h w) (wt wh ww) c -> b (t wt) (h wh) (w ww) c", t=t, h=h, w=w, wt=wt, wh=wh, ww=ww)
        if any(shift):
            x = x.roll(shift, (1, 2, 3))
        return x[:, :T, :H, :W]

    def dropped(self, x: Tensor) -> Tensor:
        """Leave a whole clip's branch out at random, in training only (stochastic depth)."""
        if not self.training or self.drop_path == 0:
            return x
        keep = torch.rand(len(x), 1, 1, 1, 1, device=x.device) >= self.drop_path
        return x * keep / (1 - self.drop_path)


class PatchMerging(nn.Module):
    """Four neighbours in space become one token of twice the width; time stays."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """From ``(B, T, H, W, dim)`` to ``(B, T, H / 2, W / 2, 2 dim)``, sizes rounded up with zeros."""
        x = F.pad(x, (0, 0, 0, x.shape[3] % 2, 0, x.shape[2] % 2))
        x = rearrange(x, "b t (h dh) (w dw) c -> b t h w (dw dh c)", dh=2, dw=2)
        return self.reduction(self.norm(x))  # type: ignore[no-any-return]


class Stage(nn.Module):
    """Blocks at one resolution, every other one shifted, then the merging of patches (not in the last stage)."""

    def __init__(self, blocks: Sequence[SwinBlock], downsample: nn.Module, gradient_checkpointing: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample
        self.gradient_checkpointing = gradient_checkpointing

    def forward(self, x: Tensor) -> Tensor:
        """From ``(B, T, H, W, dim)`` to ``(B, T, H / 2, W / 2, 2 dim)``."""
        for block in self.blocks:
            remembers = self.gradient_checkpointing and torch.is_grad_enabled()
            x = checkpoint(block, x, use_reentrant=False) if remembers else block(x)
        return self.downsample(x)  # type: ignore[no-any-return]


class VideoSwinNetwork(nn.Module):
    """The backbone, with the key names of the official release.

    Args:
        embed_dim: width of the first stage; every further stage doubles it.
        depths: blocks per stage.
        num_heads: attention heads per stage.
        window_size: tokens per window along time, height and width.
        patch_size: frames and pixels per token.
        mlp_ratio: width of the MLP's hidden layer over that of the stage.
        qkv_bias: whether queries, keys and values have a bias.
        patch_norm: whether a layer norm follows the patch embedding.
        drop_path: share of residual branches left out in training at the last block, growing from zero.
        gradient_checkpointing: recompute blocks in the backward pass instead of remembering them.
    """

    def __init__(
        self,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: Sequence[int] = (8, 7, 7),
        patch_size: Sequence[int] = (2, 4, 4),
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        patch_norm: bool = True,
        drop_path: float = 0.0,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.dim = embed_dim * 2 ** (len(depths) - 1)
        window: Size = tuple(window_size)  # type: ignore[assignment]
        self.patch_embed = PatchEmbed(tuple(patch_size), embed_dim, patch_norm)  # type: ignore[arg-type]
        rates = iter(drop_path * k / max(1, sum(depths) - 1) for k in range(sum(depths)))
        self.layers = nn.ModuleList()
        for i, (depth, heads) in enumerate(zip(depths, num_heads, strict=True)):
            dim = embed_dim * 2**i
            blocks = [
                SwinBlock(dim, heads, window, k % 2 == 1, mlp_ratio, qkv_bias, next(rates)) for k in range(depth)
            ]
            downsample = PatchMerging(dim) if i < len(depths) - 1 else nn.Identity()
            self.layers.append(Stage(blocks, downsample, gradient_checkpointing))
        self.norm = nn.LayerNorm(self.dim)

    def forward(self, x: Tensor) -> Tensor:
        """Encode clips.

        Args:
            x: ``(B, 3, T, H, W)`` of any size, normalised.

        Returns:
            ``(B, T / 2, H / 32, W / 32, dim)`` for the usual patches and four stages, sizes rounded up.
        """
        x = self.patch_embed(x)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)  # type: ignore[no-any-return]


# ---- weights --------------------------------------------------------------------------------------------


def inflate(state: Mapping[str, Tensor], patch_frames: int, window_size: Size) -> dict[str, Tensor]:
    """Turn the weights of an image Swin into those of a video Swin.

    The patch projection is spread evenly over the patch's frames, and every offset in time gets the position
    biases of the picture, resized (bicubic) where the windows differ.

    Args:
        state: of an image Swin, under its official names.
        patch_frames: frames per patch.
        window_size: of the video network.

    Returns:
        Tensors without the buffers (position indices, masks), which depend on the window alone.
    """
    t, h, w = window_size
    inflated = {k: v for k, v in state.items() if not k.endswith(("relative_position_index", "attn_mask"))}
    for name, value in inflated.items():
        if name.endswith("patch_embed.proj.weight") and value.ndim == 4:
            inflated[name] = value[:, :, None].repeat(1, 1, patch_frames, 1, 1) / patch_frames
        elif name.endswith("relative_position_bias_table"):
            side = math.isqrt(len(value))
            table = rearrange(value, "(h w) heads -> 1 heads h w", h=side)
            if (side, side) != (2 * h - 1, 2 * w - 1):
                table = F.interpolate(table, (2 * h - 1, 2 * w - 1), mode="bicubic")
            inflated[name] = rearrange(table, "1 heads h w -> (h w) heads").repeat(2 * t - 1, 1)
    return inflated


def _official_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """MMAction2 1.x calls the last norm `norm3`."""
    return {re.sub(r"(^|\.)norm3\.", r"\1norm.", k): v for k, v in state.items()}


def _from_image(state: dict[str, Tensor], network: VideoSwinNetwork) -> dict[str, Tensor]:
    """Inflate an image network's weights for `network`; its own indices complete them."""
    own = network.state_dict()
    state = strip_prefixes(state, list(own), ("head.",))
    block = next(m for m in network.modules() if isinstance(m, SwinBlock))
    indices = {k: v for k, v in own.items() if k.endswith("relative_position_index")}
    return inflate(state, network.patch_embed.patch_size[0], block.window_size) | indices


# ---- encoder --------------------------------------------------------------------------------------------


class VideoSwin(VideoEncoder):
    """Video Swin: one vector and grid per clip of 32 frames, or per frame.

    A cell of the grid is 32 x 32 pixels. ``units: clip`` averages the network's output over time (and, for the
    vector, over space). ``units: frame`` keeps time: frames of one pass see each other, a unit is one frame,
    its vector the mean of its cells. An incomplete last pass repeats the last frame, and the others see that
    too: give `num_frames` so that it divides what is encoded.

    Args:
        weights: file of the release (``.pth``), bare or as training code stores it; or ``random``.
        variant: which set of weights it is.
        units: what one vector stands for.
        num_frames: frames per clip, or per pass with ``units: frame``. None takes what gives the network the
            frames it was trained on: 32 per clip, 16 per pass with ``repeat_frames``, 32 with ``share_tokens``.
        undo_stride: how ``units: frame`` gets a token for every frame from a network that makes one of two:
            feed every frame twice, or give token t to frames 2t and 2t + 1.
        stride: frames from clip to clip; None takes as many as a clip has.
        fps: frames per second; None takes the variant's.
        size: side in pixels; None takes the variant's.
        pretrained_2d: `weights` are those of an image Swin of the same width and depth (the official release),
            to be inflated.
        drop_path: stochastic depth in training; None takes the variant's.
        gradient_checkpointing: recompute blocks in the backward pass instead of remembering them.
        trainable: whether a task may train it.
        embed_dim: width, where it is not the variant's.
        depths: blocks per stage, where they are not the variant's.
        num_heads: heads per stage, where they are not the variant's.
        window_size: tokens per window, where they are not the variant's.

    Raises:
        ValueError: the weights do not fit, or the arguments contradict each other.
    """

    def __init__(
        self,
        weights: str | Path,
        variant: Variant = "video_swin_t_kinetics400",
        units: Literal["clip", "frame"] = "clip",
        num_frames: int | None = None,
        undo_stride: Literal["repeat_frames", "share_tokens"] = "repeat_frames",
        stride: int | None = None,
        fps: float | None = None,
        size: int | None = None,
        pretrained_2d: bool = False,
        drop_path: float | None = None,
        gradient_checkpointing: bool = False,
        trainable: bool = False,
        embed_dim: int | None = None,
        depths: tuple[int, ...] | None = None,
        num_heads: tuple[int, ...] | None = None,
        window_size: tuple[int, int, int] | None = None,
    ) -> None:
        super().__init__(trainable)
        self.units, self.undo_stride = units, undo_stride
        spec = adapted(published(variant, "VideoSwin").spec, fps=fps, size=size)
        changes: dict[str, Any] = {"embed_dim": embed_dim, "depths": depths, "num_heads": num_heads}
        changes |= {"window_size": window_size, "drop_path": drop_path}
        chosen = ARCHITECTURES[variant]._replace(**{k: v for k, v in changes.items() if v is not None})
        with reproducible():
            self.network = VideoSwinNetwork(**chosen._asdict(), gradient_checkpointing=gradient_checkpointing)
        convert = partial(_from_image, network=self.network) if pretrained_2d else _official_names
        load_weights(self.network, weights, heads=("cls_head.",), convert=convert)

        if units == "clip":
            window = spec.window if num_frames is None else num_frames
            self.spec = replace(spec, window=window, stride=window if stride is None else stride)
        else:
            if stride is not None:
                raise ValueError(f"stride={stride} has no meaning with units=frame, every frame is one; set `fps`")
            if undo_stride == "share_tokens" and num_frames is not None and num_frames % 2:
                raise ValueError(f"num_frames={num_frames}: share_tokens needs an even number, it takes pairs")
            usual = spec.window // 2 if undo_stride == "repeat_frames" else spec.window
            context = usual if num_frames is None else num_frames
            self.spec = replace(spec, window=1, stride=1, context=context, resize=None)

        assert spec.size is not None
        cells = [-(-n // p) for n, p in zip(spec.size, self.network.patch_embed.patch_size[1:], strict=True)]
        h, w = (-(-n // 2 ** (len(chosen.depths) - 1)) for n in cells)
        self.dim = self.network.dim
        self.grid = (h, w, self.dim)
        self.freeze_unless_trainable()

    def encode(self, clips: Tensor) -> VideoFeatures:
        """See `VideoEncoder.encode`."""
        if self.units == "frame" and self.undo_stride == "repeat_frames":
            clips = clips.repeat_interleave(2, dim=1)
        tokens = self.network(rearrange(clips, "n t c h w -> n c t h w"))
        if self.units == "clip":
            tokens = tokens.mean(1, keepdim=True)
        elif self.undo_stride == "share_tokens":
            tokens = tokens.repeat_interleave(2, dim=1)
        return VideoFeatures(tokens.mean((2, 3)), tokens)
