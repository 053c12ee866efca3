"""Which frames of a clip of any length a model of T frames is shown: equal parts, and windows with strides.

The rules are those of GROVE (Kazakos et al., ICCV 2025, arXiv:2503.10781). Differs from the released program: a
clip of fewer than T frames repeats its last one, where the program fails.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Windows(NamedTuple):
    """W windows of T frames that together show every frame of a clip.

    Attributes:
        index: ``(W, T)`` int64, numbers of frames, ascending within a window.
        fresh: ``(W, T)`` bool, True = the frame was not shown before: every frame of the clip is fresh once.
        caption: the window that the sentence is made of, the middle one of the complete ones.
    """

    index: Tensor  # type: ignore[assignment]  # a tuple has a method of this name
    fresh: Tensor
    caption: int


def equal_parts(num_frames: int, parts: int) -> list[range]:
    """Frames of each of `parts` equal parts of a clip, none of them empty.

    The last part takes the frames that are left over. A clip with fewer frames than parts has one in each, and the
    last one as often as needed.

    Raises:
        ValueError: there is no frame, or no part.
    """
    if num_frames < 1 or parts < 1:
        raise ValueError(f"{num_frames} frames in {parts} parts: at least one of each")
    length = num_frames // parts
    if not length:
        return [range(k, k + 1) for k in (min(k, num_frames - 1) for k in range(parts))]
    return [range(k * length, num_frames if k == parts - 1 else (k + 1) * length) for k in range(parts)]


def window_middles(num_frames: int, length: int) -> Tensor:
    """The middle frame of each of T equal parts, ``(T,)`` int64; of two in the middle the later one."""
    return torch.tensor([(part.start + part.stop) // 2 for part in equal_parts(num_frames, length)])


def strided_windows(num_frames: int, length: int) -> Windows:
    """Windows of T frames that are far apart, so that each window spans the clip.

    With parts of n // T frames, window j has the j-th frame of every part. The frames that are left over at the
    end are each the last one of a further window, whose other frames were shown before.

    Args:
        num_frames: n of the clip.
        length: T.

    Raises:
        ValueError: there is no frame, or no place in a window.
    """
    parts, step = equal_parts(num_frames, length), num_frames // length
    if not step:
        return Windows(torch.tensor([[p.start for p in parts]]), torch.arange(length)[None] < num_frames, 0)
    starts = torch.arange(step + num_frames % length)
    index = starts[:, None] + torch.arange(length) * step
    fresh = torch.ones_like(index, dtype=torch.bool)
    fresh[step:, :-1] = False
    return Windows(index, fresh, (step - 1) // 2)
