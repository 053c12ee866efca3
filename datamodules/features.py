"""Feature stores: where they are, what is in them, and what made them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open

from ..zoo.video.base import VideoEncoder
from ..zoo.video.combined import align
from ..zoo.video.precomputed import Precomputed
from ..zoo.video.spec import FrameSpec
from .shards import Entry, stored_videos

SUFFIXES = (".pt", ".npy", ".npz")
HDF5 = (".h5", ".hdf5")
MANIFEST = "manifest.json"
# settings that leave features as they are; weights are compared by their hash
NOT_IN_FEATURES = {"weights", "pca", "download", "trainable", "train", "channels_last", "gradient_checkpointing"}


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


def describe(encoder: VideoEncoder) -> dict[str, Any]:
    """A manifest: what an encoder is, its constructor's arguments and how it was fed, JSON-ready."""
    from importlib.metadata import version

    spec = encoder.spec
    weights = hashlib.sha256()
    for name, value in sorted(encoder.state_dict().items()):
        weights.update(name.encode())
        weights.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return {
        "encoder": type(encoder).__name__,
        "settings": json.loads(json.dumps(encoder.settings, default=str)),
        "weights_sha256": weights.hexdigest() if encoder.state_dict() else None,
        "dim": encoder.dim,
        "grid": list(encoder.grid) if encoder.grid else None,
        **json.loads(json.dumps(dataclasses.asdict(spec))),
        "decoder": f"decord2 {version('decord2')}, av {version('av')}",
    }


def read_manifest(path: Path) -> dict[str, Any] | None:
    """A manifest from its file; None where there is none.

    Raises:
        FeatureError: the file is no manifest.
    """
    if not path.is_file():
        return None
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FeatureError(f"{path}: not a JSON file ({error})") from error
    if not isinstance(loaded, dict):
        raise FeatureError(f"{path}: a manifest is an object, not a {type(loaded).__name__}")
    return loaded


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """What a manifest says otherwise than `wanted`, in words.

    Only what both have is compared; the decoder's version and settings that leave features as they are do not
    count.
    """
    old, new = found.get("settings", {}), wanted.get("settings", {})
    pairs = [(k, found[k], wanted[k]) for k in wanted.keys() & found.keys() - {"settings", "decoder"}]
    pairs += [(k, old[k], new[k]) for k in old.keys() & new.keys() - NOT_IN_FEATURES]  # some bear the same names
    return sorted({f"{k} is {was}, not {now}" for k, was, now in pairs if was != now})


class FeatureStore:
    """Read access to features of many videos: shards, a folder with one file per video, or one HDF5 file.

    Shards are what `groundzoo extract` writes, see `groundzoo.datamodules.shards`. Other files hold ``(n, D)``
    arrays, or grids ``(n, h, w, D)`` whose mean over cells is the vector: ``.npy``, ``.pt`` (a tensor), ``.npz``
    (the array `units`, else the only one; optionally `num_frames` and `duration_s`), or one HDF5 data set per
    video.

    Args:
        path: the folder or the ``.h5`` file.

    Raises:
        FeatureError: there is nothing of the kind at `path`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._hdf5 = self.path.suffix in HDF5
        self._entries: dict[str, Entry] = {}
        self._open: dict[Path, Any] = {}  # memory-mapped shards of this process
        if self._hdf5 and self.path.is_file():
            import h5py

            with h5py.File(self.path, "r") as file:
                self.ids = set(file)
            self._files: dict[str, Path] = {}
        elif self.path.is_dir():
            self._files = {f.stem: f for f in sorted(self.path.iterdir()) if f.suffix in SUFFIXES}
            try:
                self._entries = stored_videos(self.path)
            except ValueError as error:
                raise FeatureError(f"features {error}") from error
            self.ids = set(self._files) | set(self._entries)
        else:
            raise FeatureError(f"features {self.path}: no such folder or HDF5 file")
        if not self.ids:
            kind = "data set in this file" if self._hdf5 else f"shard or {', '.join(SUFFIXES)} file in this folder"
            raise FeatureError(f"features {self.path}: no {kind}")

    def __getstate__(self) -> dict[str, Any]:
        """Open shards stay in their process."""
        return self.__dict__ | {"_open": {}}

    @property
    def manifest(self) -> dict[str, Any] | None:
        """What made the features, where the store says so (``manifest.json``, or ``<file>.json`` for HDF5)."""
        return read_manifest(self.path.with_suffix(".json") if self._hdf5 else self.path / MANIFEST)

    def check(self, encoder: VideoEncoder) -> None:
        """Compare the store with the encoder that a task was configured with.

        Raises:
            FeatureError: width, frame rate, window or stride differ, or, where the encoder is more than
                `Precomputed`, its class, weights or settings; names each.
        """
        manifest = self.manifest
        found: dict[str, Any] = manifest or {"dim": self._width()}
        wanted: dict[str, Any] = {k: getattr(encoder.spec, k) for k in ("fps", "window", "stride")}
        wanted["dim"] = encoder.dim
        if not isinstance(encoder, Precomputed) and "weights_sha256" in found:
            wanted = {
                k: v for k, v in describe(encoder).items() if k != "grid"
            }  # cells are stored only if asked for
        wrong = differences(found, wanted)
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
        return self._checked(video_id, flat=False)

    def maximum(self, video_id: str) -> npt.NDArray[np.floating]:
        """Largest value of every channel over time, ``(D,)``; where one such vector is stored, that itself.

        Raises:
            FeatureError: see `read`.
        """
        maximum: npt.NDArray[np.floating] = self._checked(video_id, flat=True).units.max(0)
        return maximum

    def _checked(self, video_id: str, flat: bool) -> StoredVideo:
        """See `read`; `flat` also takes ``(D,)`` for a single unit."""
        source = str(self._files.get(video_id, f"{self.path}[{video_id}]"))
        try:
            stored = self._read(video_id)
        except Exception as error:
            raise FeatureError(f"features {source}: cannot be read ({type(error).__name__}: {error})") from error
        if flat and stored.units.ndim == 1:
            stored = stored._replace(units=stored.units[None])
        if stored.units.ndim != 2 or len(stored.units) == 0:
            raise FeatureError(f"features {source}: shape {stored.units.shape}, expected (n >= 1, D)")
        if stored.units.dtype.kind not in "fiu":
            raise FeatureError(f"features {source}: hold {stored.units.dtype}, expected numbers")
        if not np.isfinite(stored.units).all():
            raise FeatureError(f"features {source}: hold NaN or infinity")
        return stored

    def read_grid(self, video_id: str) -> npt.NDArray[np.floating]:
        """The cells of every unit of one video, ``(n, h, w, C)``.

        Raises:
            FeatureError: the store has no grids; says how to make them.
        """
        try:
            grid = self._tensor(video_id, "grid") if video_id in self._entries else self._array(video_id)
        except Exception as error:
            raise FeatureError(
                f"features {self.path}[{video_id}]: no grid can be read ({error}); extract with --grid true"
            ) from error
        if grid.ndim != 4:
            raise FeatureError(f"features {self.path}[{video_id}]: shape {grid.shape}, not a grid (n, h, w, C)")
        return grid

    def _tensor(self, video_id: str, name: str) -> npt.NDArray[np.floating]:
        path = self._entries[video_id].path
        if path not in self._open:
            self._open[path] = safe_open(path, framework="numpy").__enter__()
        tensor: npt.NDArray[np.floating] = self._open[path].get_tensor(f"{video_id}/{name}")
        return tensor

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
        if video_id in self._entries:
            entry = self._entries[video_id]
            return StoredVideo(self._tensor(video_id, "frames"), entry.num_frames, entry.duration_s)
        units = self._array(video_id)
        units = units.mean((1, 2)) if units.ndim == 4 else units
        path = self._files.get(video_id)
        if path is None or path.suffix != ".npz":
            return StoredVideo(units)
        with np.load(path, allow_pickle=False) as file:
            frames, duration = (file[k].item() if k in file else None for k in ("num_frames", "duration_s"))
            return StoredVideo(units, frames, duration)

    def _array(self, video_id: str) -> npt.NDArray[np.floating]:
        """What a file other than a shard holds of a video."""
        array: npt.NDArray[np.floating]
        if self._hdf5:
            import h5py

            with h5py.File(self.path, "r") as file:  # opened per read: handles must not cross processes
                array = file[video_id][()]
                return array
        path = self._files[video_id]
        if path.suffix == ".npy":
            array = np.load(path, allow_pickle=False)
            return array
        if path.suffix == ".pt":
            return torch.load(path, map_location="cpu", weights_only=True).float().numpy()  # type: ignore[no-any-return]
        with np.load(path, allow_pickle=False) as file:
            array = file["units"] if "units" in file else file[next(iter(file))]
            return array


class StackedStore:
    """Several stores of the same videos as one: units on the time line of the first, side by side.

    Args:
        stores: in the order of the encoders.
        specs: how each was made.

    Raises:
        FeatureError: no video is in all of them.
    """

    def __init__(self, stores: Sequence[FeatureStore], specs: Sequence[FrameSpec]) -> None:
        self.stores, self.specs = list(stores), list(specs)
        self.path = Path(" + ".join(str(store.path) for store in stores))
        self.ids = set.intersection(*(store.ids for store in stores))
        if not self.ids:
            raise FeatureError(f"features {self.path}: no video is in all of these stores")

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifests of all, by path."""
        return {str(store.path): store.manifest for store in self.stores}

    def check(self, encoder: VideoEncoder) -> None:
        """See `FeatureStore.check`; every store against its encoder."""
        parts = encoder.parts
        if len(parts) != len(self.stores):
            raise FeatureError(
                f"{len(self.stores)} feature stores need model.video_encoder to be Combined with as many encoders "
                f"in their order; it is {type(encoder).__name__} with {len(parts)}"
            )
        for store, part in zip(self.stores, parts, strict=True):
            store.check(part)

    def read(self, video_id: str) -> StoredVideo:
        """See `FeatureStore.read`."""
        stored = [store.read(video_id) for store in self.stores]
        frames = [
            v.num_frames or spec.num_frames(len(v.units)) for v, spec in zip(stored, self.specs, strict=True)
        ]
        units = align([v.units for v in stored], self.specs, frames)
        return StoredVideo(units, stored[0].num_frames, stored[0].duration_s)


def open_store(path: Path | Sequence[Path], encoder: VideoEncoder) -> FeatureStore | StackedStore:
    """One store, or several for the parts of a `Combined` encoder, checked against the encoder.

    Raises:
        FeatureError: there is nothing at `path`, or it contradicts the encoder.
    """
    store: FeatureStore | StackedStore
    if isinstance(path, Path):
        store = FeatureStore(path)
        if len(encoder.parts) > 1:
            raise FeatureError(f"features {path}: a Combined encoder needs a list with one store per encoder")
    else:
        parts = encoder.parts
        stores = [FeatureStore(p) for p in path]
        store = StackedStore(stores, [part.spec for part in parts][: len(stores)])
    store.check(encoder)
    return store
