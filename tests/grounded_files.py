"""Made-up files of grounded clips with the official keys, and the least that a data module asks of a trainer."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from videos import coded_video

from groundzoo.datamodules.grounded_clips import GroundedClipDataModule
from groundzoo.zoo.video.spec import FrameSpec

WIDTH, HEIGHT, FPS = 64, 48, 25
PLAIN = FrameSpec(fps=5.0, window=1, stride=1, size=(HEIGHT, WIDTH))
SMALL = FrameSpec(fps=5.0, window=1, stride=1, size=(24, 32))
PADDED = FrameSpec(fps=5.0, window=1, stride=1, size=(32, 32), mean=(0.5, 0.25, 0.125), pad=True)
CROPPED = FrameSpec(fps=5.0, window=1, stride=1, size=(24, 24), resize=24)


def record(video: str = "a", clip: int = 0, frames: int = 10, start: int = 0, **changes: Any) -> dict[str, Any]:
    """A record in whose frame k "a man" stands at (k, 1); "the ball" is there in every third frame."""
    boxes = [[[k, 1, k + 20, 41]] + [[30, 2, 40, 12]] * (k % 3 == 0) for k in range(frames)]
    labels = [["A man"] + ["the ball"] * (k % 3 == 0) for k in range(frames)]
    return {
        "video_id": video,
        "clip_id": clip,
        "video_fname": f"{video}.mp4",
        "fps": float(FPS),
        "clip_start_frame": start,
        "clip_end_frame": start + 5 * (frames - 1),
        "width": WIDTH,
        "height": HEIGHT,
        "caption": "A man throws the ball",
        "tagged_caption": "<p>A man</p> throws <p>the ball</p>",
        "phrases": ["the ball", "A man"],
        "bboxes": boxes,
        "labels": labels,
    } | changes


def write_lines(path: Path, records: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def write_videos(folder: Path, names: str = "a", frames: int = 60, fps: int = FPS) -> Path:
    """Files whose pictures show their own number."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        coded_video(folder / f"{name}.mp4", frames, fps, (HEIGHT, WIDTH))
    return folder


def ready(
    data: GroundedClipDataModule, *specs: FrameSpec, frames: int = 8, stage: str = "fit", world_size: int = 1
) -> GroundedClipDataModule:
    """The data module behind `prepare_data` and `setup`."""
    streams = [SimpleNamespace(spec=spec) for spec in specs or (PLAIN,)]
    task = SimpleNamespace(streams=streams, frames=frames)
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        lightning_module=task, world_size=world_size, state=SimpleNamespace(fn=stage)
    )
    data.prepare_data()
    data.setup(stage)
    return data
