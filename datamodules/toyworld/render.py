"""Step 2: draw a scripted video, and encode its frames as H.264."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .scene import ALPHA, COLOURS, Actor, Box, R, Scene, Video
from .shapes import Floats, coverage, offsets, rectangle, spoke, window_origins

Frames = NDArray[np.uint8]

NOISE = 3.0  # standard deviation of the static pixel noise, grey levels
SPOKE_DARK = 0.78  # share of the colour that the circle's spoke takes away
PATCH_GREY = 112
BLUR = 0.9  # standard deviation of the blur, radii of the actor: no shape is left
CHUNK = 64  # frames drawn at once: long enough for numpy, short enough for memory


def render_frames(video: Video) -> Iterator[Frames]:
    """Draw a video, frame by frame, in painter's order: background, actors, covers, blurs, patches.

    Args:
        video: as scripted.

    Yields:
        ``num_frames`` times (height, width, 3) uint8 RGB; each frame is the caller's own.
    """
    ends = [scene.start for scene in video.scenes[1:]] + [video.num_frames]
    for scene, end in zip(video.scenes, ends, strict=True):
        background = draw_background(scene, video.width, video.height)
        for start in range(scene.start, end, CHUNK):
            stop = min(start + CHUNK, end)
            frames = np.repeat(background[None], stop - start, axis=0)
            for i, actor in enumerate(video.actors):
                _draw_actor(frames, actor, video.tracks[start:stop, i])
            _spoil(frames, video, start)
            for patch in video.patches:
                x0, y0, x1, y1 = patch.box
                frames[max(patch.start - start, 0) : max(patch.end - start, 0), y0:y1, x0:x1] = PATCH_GREY
            yield from frames


def draw_background(scene: Scene, width: int, height: int) -> Frames:
    """A dark colour with a linear ramp and static noise, (height, width, 3) uint8."""
    x = np.linspace(-0.5, 0.5, width)[None, :, None]
    y = np.linspace(-0.5, 0.5, height)[:, None, None]
    noise = np.random.default_rng(scene.noise_seed).normal(0.0, NOISE, (height, width, 3))
    values = np.array(scene.rgb) + scene.slope[0] * x + scene.slope[1] * y + noise
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def _draw_actor(frames: Frames, actor: Actor, track: Floats) -> None:
    """Blend one actor into (T, H, W, 3) frames, in place; opacities are integers of 256ths."""
    height, width = frames.shape[1:3]
    left, top, side = window_origins(track)
    u, v = offsets(track, left, top, side)
    opacity = coverage(actor.shape, track[:, R], u, v) * track[:, ALPHA, None, None]
    light = opacity * (1 - SPOKE_DARK * spoke(track[:, R], u, v)) if actor.shape == "circle" else opacity
    through = np.round(256 * (1 - opacity)).astype(np.uint16)[..., None]
    paint = np.round(light[..., None] * (256 * np.array(COLOURS[actor.colour], np.float32))).astype(np.uint16)
    for t, (x, y) in enumerate(zip(left.tolist(), top.tolist(), strict=True)):
        x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + side, width), min(y + side, height)
        here = np.s_[t, y0 - y : y1 - y, x0 - x : x1 - x]
        canvas = frames[t, y0:y1, x0:x1]
        canvas[:] = (canvas * through[here] + paint[here]) >> 8


def _spoil(frames: Frames, video: Video, start: int) -> None:
    """Draw the covers, then the blurs, into (T, H, W, 3) frames of which the first is ``start``, in place."""
    for spell in sorted(video.spells, key=lambda spell: spell.cause != "covered"):
        for f in range(max(spell.start, start), min(spell.end, start + len(frames))):
            region = spell.regions[f - spell.start]
            if spell.cause == "covered":
                _cover(frames[f - start], region)
            else:
                _defocus(frames[f - start], region, BLUR * float(video.tracks[f, spell.actor, R]))


def _cover(frame: Frames, region: Box) -> None:
    share = rectangle(region, 0, 0, frame.shape[1], frame.shape[0])[..., None]
    frame[:] = np.round(frame + share * (np.float32(PATCH_GREY) - frame)).astype(np.uint8)


def _defocus(frame: Frames, region: Box, sigma: float) -> None:
    """Gaussian blur of a region, fading out towards its border over ``sigma`` pixels."""
    height, width = frame.shape[:2]
    columns, across = _fade(region[0], region[2], width, sigma)
    rows, down = _fade(region[1], region[3], height, sigma)
    # in double precision: single would round differently with the number of threads
    mixed = _gaussian(rows, height, sigma) @ frame.reshape(height, -1).astype(np.float64)
    mixed = _gaussian(columns, width, sigma) @ mixed.reshape(len(rows), width, 3)
    part = frame[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    part[:] = np.round(part + (down[:, None] * across)[..., None] * (mixed - part)).astype(np.uint8)


def _fade(low: float, high: float, size: int, ramp: float) -> tuple[NDArray[np.intp], Floats]:
    """Pixels of one axis of the frame between ``low`` and ``high``, and their weights: 1, falling to 0 there."""
    places = np.arange(max(math.floor(low), 0), min(math.ceil(high), size))
    weights: Floats = np.clip(np.minimum(places + 0.5 - low, high - places - 0.5) / ramp, 0, 1).astype(np.float32)
    return places, weights


def _gaussian(places: NDArray[np.intp], size: int, sigma: float) -> NDArray[np.float64]:
    """Weights (places, size) of the pixels around each place, rows of sum 1."""
    weights = np.exp(-0.5 * ((places[:, None] - np.arange(size)) / sigma) ** 2)
    normal: NDArray[np.float64] = weights / weights.sum(1, keepdims=True)
    return normal


def encode(path: Path, frames: Iterable[Frames], fps: int) -> None:
    """Write an H.264 mp4 file, atomically: a file of this name is always complete.

    Args:
        path: of the file, its folder exists.
        frames: (H, W, 3) uint8 RGB each, all of one even size, at least one.
        fps: frames per second.
    """
    import av  # here, so that scripting and listing need no codec

    temporary = path.with_name(f".{path.name}.part")
    with av.open(str(temporary), "w", format="mp4") as container:
        stream = None
        for frame in frames:
            if stream is None:
                # without mbtree: for small pictures x264's macroblock tree differs from run to run
                settings = {"preset": "veryfast", "crf": "23", "g": "16", "x264-params": "mbtree=0"}
                stream = container.add_stream("libx264", rate=fps, options=settings)
                stream.height, stream.width = frame.shape[:2]
                stream.pix_fmt = "yuv420p"
                stream.codec_context.thread_count = 1  # the cores are busy with other videos
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                container.mux(packet)
        if stream is None:
            raise ValueError(f"no frames to encode for {path}")
        for packet in stream.encode():
            container.mux(packet)
    os.replace(temporary, path)
