"""Feature stores: where they are, what is in them, and what made them."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ..zoo.video.base import VideoEncoder

SUFFIXES = (".pt", ".npy", ".npz")
HDF5 = (".h5", ".hdf5")
MANIFEST = "manifest.json"
QUARANTINE = "quarantine.json"


class FeatureError(ValueError):
    """Features are missing, unreadable or contradict the configuration; says which and what to do."""


class StoredVideo(NamedTuple):
    """Features of one video.

    Attributes:
        units: ``(n, D)`` float array.
        num_frames: frames of the video at the encoder's rate, where the store knows.
        duration_s: seconds, where the store knows.
    """

    units: npt.NDArray[np.floating]
    num_frames: int | None = None
    duration_s: float | None = None


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the whole new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def describe(encoder: VideoEncoder) -> dict[str, Any]:
    """A manifest: what an encoder is, its constructor's arguments and how it was fed, JSON-ready."""
    from importlib.metadata import version

    spec = encoder.spec
    weights = hashlib.sha256()
    for name, value in sorted(encoder.state_dict().items()):
        weights.update(name.encode())
        weights.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return {
        "encoder": type(encoder).__name__,
        "settings": json.loads(json.dumps(encoder.settings, default=str)),
        "weights_sha256": weights.hexdigest() if encoder.state_dict() else None,
        "dim": encoder.dim,
        "fps": spec.fps,
        "window": spec.window,
        "stride": spec.stride,
        "size": list(spec.size) if spec.size else None,
        "resize": "by the decoder",
        "decoder": f"decord2 {version('decord2')}",
    }


class FeatureStore:
    """Read access to features of many videos: a folder with one file per video, or one HDF5 file.

    Files hold ``(n, D)`` arrays: ``.npy``, ``.pt`` (a tensor), ``.npz`` (the array `units`, else the only
    one; optionally `num_frames` and `duration_s`), or one HDF5 data set per video.

    Args:
        path: the folder or the ``.h5`` file.

    Raises:
        FeatureError: there is nothing of the kind at `path`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._hdf5 = self.path.suffix in HDF5
        if self._hdf5 and self.path.is_file():
            import h5py

            with h5py.File(self.path, "r") as file:
                self.ids = set(file)
            self._files: dict[str, Path] = {}
        elif self.path.is_dir():
            self._files = {f.stem: f for f in sorted(self.path.iterdir()) if f.suffix in SUFFIXES}
            self.ids = set(self._files)
        else:
            raise FeatureError(f"features {self.path}: no such folder or HDF5 file")
        if not self.ids:
            kind = "data set in this file" if self._hdf5 else f"{', '.join(SUFFIXES)} file in this folder"
            raise FeatureError(f"features {self.path}: no {kind}")

    @property
    def manifest(self) -> dict[str, Any] | None:
        """What made the features, where the store says so (``manifest.json``, or ``<file>.json`` for HDF5)."""
        path = self.path.with_suffix(".json") if self._hdf5 else self.path / MANIFEST
        if not path.is_file():
            return None
        try:
            loaded = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise FeatureError(f"{path}: not a JSON file ({error})") from error
        if not isinstance(loaded, dict):
            raise FeatureError(f"{path}: a manifest is an object, not a {type(loaded).__name__}")
        return loaded

    def check(self, encoder: VideoEncoder) -> None:
        """Compare the store with the encoder that a task was configured with.

        Raises:
            FeatureError: width, frame rate, window or stride differ; names each.
        """
        wanted = {
            "dim": encoder.dim,
            "fps": encoder.spec.fps,
            "window": encoder.spec.window,
            "stride": encoder.spec.stride,
        }
        manifest = self.manifest
        found: dict[str, Any] = manifest or {"dim": self._width()}
        wrong = [f"{k} is {found[k]}, not {v}" for k, v in wanted.items() if k in found and found[k] != v]
        if wrong:
            raise FeatureError(
                f"features {self.path} contradict model.video_encoder ({type(encoder).__name__}): "
                f"{'; '.join(wrong)}. Correct the encoder's arguments or take other features."
            )

    def read(self, video_id: str) -> StoredVideo:
        """Features of one video.

        Raises:
            FeatureError: the file is missing, broken, empty, of a wrong shape or holds NaN; names it.
        """
        source = f"{self.path}[{video_id}]" if self._hdf5 else str(self._files.get(video_id, self.path / video_id))
        try:
            stored = self._read(video_id)
        except Exception as error:
            raise FeatureError(f"features {source}: cannot be read ({type(error).__name__}: {error})") from error
        if stored.units.ndim != 2 or len(stored.units) == 0:
            raise FeatureError(f"features {source}: shape {stored.units.shape}, expected (n >= 1, D)")
        if stored.units.dtype.kind not in "fiu":
            raise FeatureError(f"features {source}: hold {stored.units.dtype}, expected numbers")
        if not np.isfinite(stored.units).all():
            raise FeatureError(f"features {source}: hold NaN or infinity")
        return stored

    def _width(self) -> int:
        """Width of the first features that can be read."""
        broken: FeatureError | None = None
        for video_id in sorted(self.ids):
            try:
                return int(self.read(video_id).units.shape[1])
            except FeatureError as error:
                broken = broken or error
        raise FeatureError(f"features {self.path}: none can be read. {broken}")

    def _read(self, video_id: str) -> StoredVideo:
        if self._hdf5:
            import h5py

            with h5py.File(self.path, "r") as file:  # opened per read: handles must not cross processes
                return StoredVideo(file[video_id][()])
        path = self._files[video_id]
        if path.suffix == ".npy":
            return StoredVideo(np.load(path, allow_pickle=False))
        if path.suffix == ".pt":
            return StoredVideo(torch.load(path, map_location="cpu", weights_only=True).float().numpy())
        with np.load(path, allow_pickle=False) as file:
            units = file["units"] if "units" in file else file[next(iter(file))]
            frames, duration = (file[k].item() if k in file else None for k in ("num_frames", "duration_s"))
            return StoredVideo(units, frames, duration)
