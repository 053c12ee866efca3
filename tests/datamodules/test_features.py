"""Feature stores: all formats give the same, and what is broken is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from groundzoo.datamodules.features import FeatureError, FeatureStore, describe, write_json
from groundzoo.zoo.video.base import VideoEncoder, VideoFeatures
from groundzoo.zoo.video.pixel_grid import PixelGrid
from groundzoo.zoo.video.precomputed import Precomputed

UNITS = {name: np.random.default_rng(k).normal(size=(5 + k, 4)).astype(np.float32) for k, name in enumerate("abc")}
ENCODER = Precomputed(4, window=16, stride=8, name="C3D")


def write(folder: Path, kind: str) -> Path:
    if kind == "h5":
        with h5py.File(folder / "all.h5", "w") as file:
            for name, units in UNITS.items():
                file[name] = units
        return folder / "all.h5"
    for name, units in UNITS.items():
        path = folder / f"{name}.{kind}"
        if kind == "npy":
            np.save(path, units)
        elif kind == "npz":
            np.savez(path, units=units)
        else:
            torch.save(torch.from_numpy(units), path)
    return folder


@pytest.mark.parametrize("kind", ["pt", "npy", "npz", "h5"])
def test_all_formats_give_the_same(tmp_path: Path, kind: str) -> None:
    store = FeatureStore(write(tmp_path, kind))
    assert store.ids == {"a", "b", "c"}
    for name, units in UNITS.items():
        stored = store.read(name)
        assert stored.units.dtype == np.float32
        np.testing.assert_array_equal(stored.units, units)
        assert stored[1:] == (None, None)
    store.check(ENCODER)
    assert store.manifest is None


def test_npz_brings_frames_and_duration(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", units=UNITS["a"], num_frames=70, duration_s=2.5)
    np.savez(tmp_path / "b.npz", UNITS["b"])  # the only array, under any name
    store = FeatureStore(tmp_path)
    assert store.read("a")[1:] == (70, 2.5)
    np.testing.assert_array_equal(store.read("b").units, UNITS["b"])


def test_half_precision_is_fine(tmp_path: Path) -> None:
    torch.save(torch.from_numpy(UNITS["a"]).bfloat16(), tmp_path / "a.pt")
    np.save(tmp_path / "b.npy", UNITS["b"].astype(np.float16))
    store = FeatureStore(tmp_path)
    np.testing.assert_allclose(store.read("a").units, UNITS["a"], rtol=0.01)
    np.testing.assert_allclose(store.read("b").units, UNITS["b"], rtol=0.001)


class Payload:
    ran = False

    def __reduce__(self) -> Any:
        return exec, ("import builtins; builtins.owned = True",)


def break_file(path: Path, how: str) -> None:
    whole = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif how == "zero bytes":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("not found")
    elif how == "object":
        np.save(path, np.array([[1, None]], dtype=object), allow_pickle=True)
    elif how == "code":
        np.save(path, np.array([Payload()], dtype=object), allow_pickle=True)
    else:
        arrays = {
            "nan": np.full((3, 4), np.nan),
            "inf": np.full((3, 4), np.inf),
            "flat": np.ones(4),
            "cube": np.ones((2, 3, 4)),
            "empty": np.ones((0, 4)),
            "strings": np.array([["a", "b"]]),
            "complex": np.ones((2, 4), dtype=complex),
        }
        np.save(path, arrays[how])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", "cannot be read"),
        ("truncated", "cannot be read"),
        ("zero bytes", "cannot be read"),
        ("text", "cannot be read"),
        ("object", "cannot be read"),
        ("code", "cannot be read"),
        ("nan", "NaN or infinity"),
        ("inf", "NaN or infinity"),
        ("flat", r"shape \(4,\)"),
        ("cube", r"shape \(2, 3, 4\)"),
        ("empty", r"shape \(0, 4\)"),
        ("strings", "expected numbers"),
        ("complex", "expected numbers"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, how: str, message: str) -> None:
    import builtins

    store = FeatureStore(write(tmp_path, "npy"))
    break_file(tmp_path / "b.npy", how)
    with pytest.raises(FeatureError, match=rf"b\.npy.*{message}"):
        store.read("b")
    assert not hasattr(builtins, "owned")
    assert len(store.read("a").units) == 5


@pytest.mark.parametrize("kind", ["pt", "npz", "h5"])
def test_other_formats_broken(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, kind)
    store = FeatureStore(path)
    if kind == "pt":
        torch.save({"features": torch.ones(3, 4)}, tmp_path / "a.pt")
        torch.save(Payload(), tmp_path / "b.pt")
    elif kind == "npz":
        np.savez(tmp_path / "a.npz")
        np.savez(tmp_path / "b.npz", units=np.array([[None]], dtype=object))
    else:
        with h5py.File(path, "a") as file:
            del file["a"], file["b"]
            file.create_group("a")
            file["b"] = np.full((2, 4), np.nan)
    import builtins

    for name in "ab":
        with pytest.raises(FeatureError, match=rf"{name}[.\]]"):
            store.read(name)
    assert not hasattr(builtins, "owned")
    assert len(store.read("c").units) == 7
    with pytest.raises(FeatureError, match="zebra"):
        store.read("zebra")


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(FeatureError, match="nowhere: no such folder"):
        FeatureStore(tmp_path / "nowhere")
    with pytest.raises(FeatureError, match=r"all\.h5: no such folder or HDF5 file"):
        FeatureStore(tmp_path / "all.h5")
    (tmp_path / "readme.txt").write_text("hello")
    with pytest.raises(FeatureError, match=r"no \.pt, \.npy, \.npz file in this folder"):
        FeatureStore(tmp_path)
    h5py.File(tmp_path / "none.h5", "w").close()
    with pytest.raises(FeatureError, match="no data set in this file"):
        FeatureStore(tmp_path / "none.h5")


def test_wrong_width_is_told_without_a_manifest(tmp_path: Path) -> None:
    store = FeatureStore(write(tmp_path, "npy"))
    with pytest.raises(FeatureError, match=r"contradict .*\(Precomputed\): dim is 4, not 4096"):
        store.check(Precomputed(4096))
    break_file(tmp_path / "a.npy", "truncated")  # the next one says how wide they are
    store.check(ENCODER)
    for name in "bc":
        break_file(tmp_path / f"{name}.npy", "truncated")
    with pytest.raises(FeatureError, match=r"none can be read.*a\.npy"):
        store.check(ENCODER)


@pytest.mark.parametrize("kind", ["npy", "h5"])
@pytest.mark.parametrize(
    ("key", "value"), [("dim", 5), ("fps", 12.0), ("window", 64), ("stride", 4)], ids=lambda x: str(x)
)
def test_contradicting_manifest_names_what(tmp_path: Path, kind: str, key: str, value: float) -> None:
    path = write(tmp_path, kind)
    manifest = path.with_suffix(".json") if kind == "h5" else path / "manifest.json"
    stored = describe(ENCODER)
    write_json(manifest, stored)
    store = FeatureStore(path)
    store.check(ENCODER)
    write_json(manifest, stored | {key: value})
    with pytest.raises(FeatureError, match=rf"{key} is {value}, not") as error:
        store.check(ENCODER)
    assert all(
        f"{other} is" not in str(error.value) for other in ("dim", "fps", "window", "stride") if other != key
    )


def test_manifest_that_is_none(tmp_path: Path) -> None:
    store = FeatureStore(write(tmp_path, "npy"))
    for text, message in (("{", "not a JSON file"), ("[1]", "not a list")):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(FeatureError, match=rf"manifest\.json: .*{message}"):
            store.check(ENCODER)


class Weighted(VideoEncoder):
    """One weight, to be told apart by."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.spec, self.dim = ENCODER.spec, 1
        self.w = torch.nn.Parameter(torch.tensor([value]))

    def forward(self, frames: torch.Tensor) -> VideoFeatures:
        return VideoFeatures(frames.flatten(2)[..., :1])


def test_description_tells_encoders_apart() -> None:
    grid = describe(PixelGrid())
    assert (grid["dim"], grid["window"], grid["stride"], grid["size"]) == (1296, 6, 3, [48, 48])
    assert json.loads(json.dumps(grid)) == grid
    assert describe(PixelGrid(fps=4)) != describe(PixelGrid(fps=6))
    assert describe(Weighted(1.0)) == describe(Weighted(1.0))
    assert describe(Weighted(1.0)) != describe(Weighted(2.0))
