"""Which frames of a grounded clip are looked at, and how they look to the encoders of a task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..zoo.frame_windows import equal_parts
from ..zoo.video.base import crop_or_pad
from ..zoo.video.spec import FrameSpec
from .grounded_records import GroundedClip
from .packets import VideoError
from .video import FrameReader

TRIES = 10  # draws that may show nothing before one is made to show something
SAME_RATE = 0.01  # largest relative difference of frame rates that are the same


class ClipFrames(NamedTuple):
    """F frames of a clip.

    Attributes:
        frames: per encoder ``(F, 3, H, W)`` uint8.
        times_s: ``(F,)`` float64, seconds from the beginning of the file.
    """

    frames: list[Tensor]
    times_s: Tensor


def draw_frames(visible: Sequence[bool], parts: int, random: np.random.Generator) -> list[int]:
    """A frame from each of some equal parts of a clip, with something to be seen in at least one of them.

    Args:
        visible: for each of the n frames, whether anything of the sentence is to be seen.
        parts: how many parts; with fewer frames than parts, all frames, and the last one as often as needed.
        random: source of the choice.

    Returns:
        Numbers of the frames, ascending. Where nothing is seen in any frame, as they were drawn.
    """
    stretches = equal_parts(len(visible), parts)
    drawn: list[int] = []
    for _ in range(TRIES):
        drawn = [int(random.integers(part.start, part.stop)) for part in stretches]
        if any(visible[k] for k in drawn):
            return drawn
    seen = [k for k, there in enumerate(visible) if there]
    if seen:
        chosen = seen[int(random.integers(len(seen)))]
        place = next(k for k, part in enumerate(stretches) if chosen in part)
        drawn[place] = chosen
    return drawn


def read_frames_of(
    reader: FrameReader, clip: GroundedClip, chosen: Sequence[int], specs: Sequence[FrameSpec]
) -> ClipFrames:
    """Read frames of a clip for several encoders, decoding them once.

    Annotation counts the frames of the file. In a file with another frame rate than was annotated (one that was
    encoded anew, or whose rate varies) a frame is looked for at its time instead. Behind the end of the file, its
    last frame stands in.

    Args:
        reader: of the file.
        clip: the clip.
        chosen: which of its frames, F numbers from 0.
        specs: what the encoders ask for.

    Raises:
        VideoError: the file cannot be read, or ends before the clip begins.
    """
    info, times = reader.info, reader.times_s
    if abs(info.fps / clip.fps - 1) <= SAME_RATE:
        numbers = np.array([clip.frames[k] for k in chosen])
        behind = clip.frames[0] >= info.num_frames
    else:
        seconds = np.array([clip.frames[k] / clip.fps for k in chosen])
        numbers = reader.numbers_at(seconds)
        behind = clip.frames[0] / clip.fps >= info.duration_s
    if behind:
        raise VideoError(
            f"{reader.path}: clip {clip.clip_id} begins at frame {clip.frames[0]} ({clip.fps:g} per second), the "
            f"file has {info.num_frames} frames, {info.duration_s:.2f} s; is it the right one?"
        )
    numbers = numbers.clip(0, info.num_frames - 1)
    read = reader.at_sizes(numbers.tolist(), [spec.decoded_size(info.height, info.width) for spec in specs])
    frames = [crop_or_pad(pictures, spec) for pictures, spec in zip(read, specs, strict=True)]
    return ClipFrames(frames, times[torch.from_numpy(numbers)])


def one_box_each(
    clip: GroundedClip, chosen: Sequence[int]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """One box per phrase and frame: several of a phrase become their smallest common one.

    Args:
        clip: the clip, with P phrases.
        chosen: which of its frames, F numbers from 0.

    Returns:
        ``(P, F, 4)`` cx, cy, w, h as shares of width and height, of the part inside of the picture, 0 where there
        is no such box; ``(P, F)`` whether there is one.
    """
    phrases = len(clip.caption.spans)
    corners = np.tile(np.array([np.inf, np.inf, -np.inf, -np.inf]), (phrases, len(chosen), 1))
    width, height = clip.size
    for place, frame in enumerate(chosen):
        for phrase, box in clip.boxes[frame]:
            x1, y1, x2, y2 = np.array(box).clip(0, [width, height] * 2)
            if x1 < x2 and y1 < y2:
                row = corners[phrase, place]
                row[:2], row[2:] = np.minimum(row[:2], (x1, y1)), np.maximum(row[2:], (x2, y2))
    visible = np.isfinite(corners).all(-1)
    corners = np.where(visible[..., None], corners, 0) / [width, height, width, height]
    first, last = corners[..., :2], corners[..., 2:]
    boxes = np.concatenate([(first + last) / 2, last - first], axis=-1)
    return boxes.astype(np.float32), visible
