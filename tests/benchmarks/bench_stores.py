"""Why feature stores are safetensors shards in half precision: reading times of the candidates, interleaved.

    python tests/benchmarks/bench_stores.py --videos 400 --units 120 --dim 4096

Every candidate holds the same features; each round reads the same videos, in a random order, from all of them, as
a data loader does: open what is needed, get one video as an array. Files are in the page cache.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file


def candidates(folder: Path, features: dict[str, np.ndarray], kind: str) -> dict[str, tuple[Callable, int]]:
    """Reader of one video and size in bytes of each way to store them."""
    shard, hdf5 = folder / f"{kind}.safetensors", folder / f"{kind}.h5"
    save_file(features, shard)
    with h5py.File(hdf5, "w") as file:
        for video, units in features.items():
            file[video] = units
    npz, npy = folder / f"npz-{kind}", folder / f"npy-{kind}"
    for where in (npz, npy):
        where.mkdir()
    for video, units in features.items():
        np.savez(npz / f"{video}.npz", units=units)
        np.save(npy / f"{video}.npy", units)
    mapped = safe_open(shard, framework="numpy").__enter__()
    kept = h5py.File(hdf5, "r")

    def reopened(video: str) -> np.ndarray:
        with h5py.File(hdf5, "r") as file:
            return file[video][()]

    size = sum(units.nbytes for units in features.values())
    return {
        f"safetensors shard, {kind}": (mapped.get_tensor, size),
        f"HDF5, kept open, {kind}": (lambda video: kept[video][()], size),
        f"HDF5, opened per read, {kind}": (reopened, size),
        f"npz per video, {kind}": (lambda video: np.load(npz / f"{video}.npz")["units"], size),
        f"npy per video, {kind}": (lambda video: np.load(npy / f"{video}.npy"), size),
    }


def main() -> None:
    """Print a table: median seconds per thousand videos, and the ratio to the first."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("videos", 400), ("units", 120), ("dim", 4096), ("rounds", 9)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    single = {f"v{k}": rng.random((options.units, options.dim), dtype=np.float32) for k in range(options.videos)}
    with tempfile.TemporaryDirectory() as folder:
        ways: dict[str, tuple[Callable, int]] = {}
        for kind in ("float16", "float32"):
            ways |= candidates(Path(folder), {k: v.astype(kind) for k, v in single.items()}, kind)
        names = list(single)
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(options.rounds):
            rng.shuffle(names)
            for way, (read, _) in ways.items():
                began = time.perf_counter()
                total = sum(float(read(name)[0, 0]) for name in names)
                seconds[way].append(time.perf_counter() - began)
                assert total > 0
    first = statistics.median(next(iter(seconds.values())))
    print(f"{'':36} s / 1000 videos   ratio   MB / 1000 videos")
    for way, times in seconds.items():
        median = statistics.median(times)
        size = ways[way][1] / options.videos / 1000
        print(f"{way:36} {1000 * median / options.videos:15.3f} {median / first:7.2f} {size:18.0f}")


if __name__ == "__main__":
    main()
