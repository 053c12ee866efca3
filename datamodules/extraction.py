"""From video files to features, once per video."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..zoo.video.base import VideoEncoder, VideoUnits
from .features import MANIFEST, QUARANTINE, FeatureStore, describe, write_json
from .video import FrameReader, VideoError

log = logging.getLogger(__name__)
VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv", ".ts")
CHUNK_FRAMES = 256


def find_videos(folder: str | Path) -> dict[str, Path]:
    """Video files of a folder by name without extension; of equal names the first suffix above wins."""
    folder = Path(folder)
    if not folder.is_dir():
        raise VideoError(f"video folder {folder} does not exist")
    found = [f for f in sorted(folder.iterdir()) if f.suffix.lower() in VIDEO_SUFFIXES]
    found.sort(key=lambda f: VIDEO_SUFFIXES.index(f.suffix.lower()), reverse=True)
    return {f.stem: f for f in found}


@torch.inference_mode()
def encode_video(encoder: VideoEncoder, path: Path) -> VideoUnits:
    """Read a video of any length in pieces and encode it; the pieces leave no trace in the result.

    Args:
        encoder: says how it wants to be fed.
        path: the file.

    Raises:
        VideoError: the file cannot be read.
    """
    spec = encoder.spec
    device = next((p.device for p in encoder.parameters()), torch.device("cpu"))
    waiting = torch.empty(0)
    done: list[Tensor] = []
    units = frames = ahead = 0  # ahead: frames between the last unit and the next, where windows leave gaps

    def encode(piece: Tensor) -> None:
        nonlocal units
        out = encoder(piece[None].to(device)).frames[0]
        done.append(out.float().cpu())
        units += len(out)

    with FrameReader(path) as reader:
        duration_s = reader.info.duration_s
        for piece, _ in reader.chunks(fps=spec.fps, chunk=max(CHUNK_FRAMES, spec.window), size=spec.size):
            frames += len(piece)
            ahead, piece = max(0, ahead - len(piece)), piece[ahead:]
            waiting = torch.cat([waiting, piece]) if len(waiting) else piece
            complete = (len(waiting) - spec.window) // spec.stride + 1
            if complete > 0:
                encode(waiting[: (complete - 1) * spec.stride + spec.window])
                ahead = max(0, complete * spec.stride - len(waiting))
                waiting = waiting[complete * spec.stride :]
    if frames == 0:
        raise VideoError(f"{path}: no frame could be read")
    if units < spec.num_units(frames):  # the last window is incomplete
        encode(waiting)
    return VideoUnits(torch.cat(done), frames, duration_s)


class _Encoding(Dataset[tuple[str, str | None]]):
    """Item i encodes and stores video i; the loader's workers are the parallelism."""

    def __init__(self, encoder: VideoEncoder, videos: list[tuple[str, Path]], out: Path) -> None:
        self.encoder, self.videos, self.out = encoder, videos, out

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, i: int) -> tuple[str, str | None]:
        video_id, path = self.videos[i]
        try:
            encoded = encode_video(self.encoder, path)
        except VideoError as error:
            return video_id, str(error)
        temporary = self.out / f".{video_id}.{os.getpid()}"
        with temporary.open("wb") as file:
            np.savez(
                file,
                units=encoded.units.numpy().astype(np.float16),
                num_frames=encoded.num_frames,
                duration_s=encoded.duration_s,
            )
        os.replace(temporary, self.out / f"{video_id}.npz")
        return video_id, None


def default_store(root: Path, encoder: VideoEncoder) -> Path:
    """Folder of an encoder's features under `root`; another encoder or setting gets another folder."""
    digest = hashlib.sha256(json.dumps(describe(encoder), sort_keys=True).encode()).hexdigest()
    return root / f"{type(encoder).__name__}-{digest[:8]}"


def build_store(
    encoder: VideoEncoder,
    videos: Mapping[str, Path],
    out: Path,
    num_workers: int = 0,
) -> FeatureStore:
    """Encode the videos that `out` lacks; every video file is written whole or not at all.

    Videos that cannot be read are listed with the reason in ``quarantine.json`` and left out; delete that
    file to try them again.

    Args:
        encoder: a frozen encoder.
        videos: files by video id.
        out: folder of the store.
        num_workers: processes that decode and encode, 0 = this one. An encoder with weights runs in this
            process on the accelerator where there is one.

    Raises:
        VideoError: not a single video could be read.
    """
    out.mkdir(parents=True, exist_ok=True)
    manifest = out / MANIFEST
    if not manifest.exists():
        write_json(manifest, describe(encoder))
    quarantine: dict[str, str] = {}
    if (out / QUARANTINE).exists():
        quarantine = json.loads((out / QUARANTINE).read_text(encoding="utf-8"))
    missing = [(k, v) for k, v in videos.items() if k not in quarantine and not (out / f"{k}.npz").exists()]
    if missing:
        on_gpu = torch.cuda.is_available() and any(True for _ in encoder.parameters())
        loader = DataLoader(
            _Encoding(encoder.cuda() if on_gpu else encoder, missing, out),
            batch_size=None,
            num_workers=0 if on_gpu else min(num_workers, len(missing)),
            generator=torch.Generator(),  # a run's random numbers do not depend on what is encoded already
        )
        threads = torch.get_num_threads()
        title = f"encode videos ({type(encoder).__name__})"
        for video_id, problem in tqdm(loader, desc=title, unit="video", disable=None):
            if problem is not None:
                quarantine[video_id] = problem
                log.warning("quarantined %s", problem)
                write_json(out / QUARANTINE, quarantine)
        torch.set_num_threads(threads)
    if not any(out.glob("*.npz")):
        reasons = "; ".join(list(quarantine.values())[:3]) or "there are no videos"
        raise VideoError(f"none of {len(videos)} videos could be encoded: {reasons}")
    return FeatureStore(out)
