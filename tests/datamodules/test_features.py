"""Feature stores: all formats give the same, and what is broken is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from tiny_encoders import tiny_r2plus1d

from groundzoo.datamodules.features import (
    FeatureError,
    FeatureStore,
    StackedStore,
    describe,
    differences,
    open_store,
)
from groundzoo.datamodules.shards import ShardWriter, write_json
from groundzoo.zoo.audio.vggish import VGGish
from groundzoo.zoo.video.base import FrameSpec, VideoEncoder, VideoFeatures
from groundzoo.zoo.video.combined import Combined, align
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
    if kind == "shards":
        writer = ShardWriter(folder, "float32", shard_bytes=150)
        for name, units in UNITS.items():
            writer.add(name, {"frames": units}, 8 * len(units) + 8, 2.5)
        assert len(list(folder.rglob("*.safetensors"))) == 3, "both loose and put together"
        return folder
    for name, units in UNITS.items():
        path = folder / f"{name}.{kind}"
        if kind == "npy":
            np.save(path, units)
        elif kind == "npz":
            np.savez(path, units=units)
        else:
            torch.save(torch.from_numpy(units), path)
    return folder


@pytest.mark.parametrize("kind", ["pt", "npy", "npz", "h5", "shards"])
def test_all_formats_give_the_same(tmp_path: Path, kind: str) -> None:
    store = FeatureStore(write(tmp_path, kind))
    assert store.ids == {"a", "b", "c"}
    for name, units in UNITS.items():
        stored = store.read(name)
        assert stored.units.dtype == np.float32
        np.testing.assert_array_equal(stored.units, units)
        assert stored[1:] == ((8 * len(units) + 8, 2.5) if kind == "shards" else (None, None))
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
    with pytest.raises(FeatureError, match=r"no shard or \.pt, \.npy, \.npz file in this folder"):
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

    def encode(self, clips: torch.Tensor) -> VideoFeatures:
        return VideoFeatures(clips.flatten(2)[:, :1, :1])


def test_description_tells_encoders_apart() -> None:
    grid = describe(PixelGrid())
    assert (grid["dim"], grid["window"], grid["stride"], grid["size"]) == (1296, 6, 3, [48, 48])
    assert json.loads(json.dumps(grid)) == grid
    assert describe(PixelGrid(fps=4)) != describe(PixelGrid(fps=6))
    assert describe(Weighted(1.0)) == describe(Weighted(1.0))
    assert describe(Weighted(1.0)) != describe(Weighted(2.0))


# ---- stores and the encoder that a task asks for --------------------------------------------------------


def made_by(encoder: VideoEncoder, folder: Path, names: str = "abc", dim: int | None = None) -> Path:
    """A store with the encoder's manifest and one unit per video."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, name in enumerate(names):
        np.save(folder / f"{name}.npy", np.full((1, dim or encoder.dim), k, dtype=np.float32))
    write_json(folder / "manifest.json", describe(encoder))
    return folder


def test_a_store_fits_the_encoder_that_made_it(tmp_path: Path) -> None:
    for number, encoder in enumerate((PixelGrid(), tiny_r2plus1d(), Weighted(1.0), ENCODER)):
        assert open_store(made_by(encoder, tmp_path / str(number)), encoder).ids == set("abc")


def contradictions() -> dict[str, tuple[VideoEncoder, VideoEncoder, str]]:
    """Made by, asked for, what is said."""
    network = tiny_r2plus1d()
    other_weights = tiny_r2plus1d()
    with torch.no_grad():
        other_weights.network.layer4[0].conv2[1].running_mean += 1e-3  # a buffer, not a parameter
    respecified = tiny_r2plus1d()
    respecified.spec = FrameSpec(**(vars(respecified.spec) | {"mean": (0.5, 0.5, 0.5)}))
    r2plus1d = {"layers": (1, 1, 1, 1), "width": 2, "size": 32}
    return {
        "class": (PixelGrid(), network, "encoder is PixelGrid, not R2Plus1D"),
        "setting": (PixelGrid(grid=12), PixelGrid(grid=6), "grid is 12, not 6"),
        "size": (PixelGrid(size=48), PixelGrid(size=96), "size is 48, not 96"),
        "rate": (PixelGrid(fps=6.0), PixelGrid(fps=12.0, window_s=0.5, stride_s=0.25), "fps is 6.0, not 12.0"),
        "weights": (network, other_weights, "weights_sha256 is [0-9a-f]{64}, not [0-9a-f]{64}"),
        "published facts": (network, respecified, r"mean is \[0\.43\d+, .*\], not \[0\.5, 0\.5, 0\.5\]"),
        "variant": (
            type(network)(weights="random", variant="r2plus1d_18_kinetics", **r2plus1d),
            type(network)(weights="random", variant="r2plus1d_18_tsp", **r2plus1d),
            "variant is r2plus1d_18_kinetics, not r2plus1d_18_tsp",
        ),
    }


@pytest.mark.parametrize("name", contradictions())
def test_a_store_that_contradicts_the_encoder_is_refused(tmp_path: Path, name: str) -> None:
    made, wanted, reason = contradictions()[name]
    made_by(made, tmp_path)
    with pytest.raises(
        FeatureError, match=rf"contradict model\.video_encoder \({type(wanted).__name__}\): .*{reason}"
    ):
        open_store(tmp_path, wanted)


def test_what_leaves_features_alone_does_not_count(tmp_path: Path) -> None:
    encoder, other = tiny_r2plus1d(), tiny_r2plus1d()
    other.settings |= {"weights": "elsewhere.pth", "trainable": True, "channels_last": False}
    other.settings |= {"gradient_checkpointing": True}
    made_by(encoder, tmp_path)
    open_store(tmp_path, other)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    write_json(tmp_path / "manifest.json", manifest | {"decoder": "decord2 1.0, av 1.0", "dtype": "float32"})
    open_store(tmp_path, encoder)
    manifest["settings"]["size"] = 64
    write_json(tmp_path / "manifest.json", manifest)
    with pytest.raises(FeatureError, match="size is 64, not 32"):
        open_store(tmp_path, other)


def test_where_a_pca_lies_does_not_count_but_its_numbers_do(tmp_path: Path) -> None:
    eye = {"pca_eigen_vectors": torch.eye(128), "pca_means": torch.zeros(128, 1)}
    for name, scale in (("one", 1.0), ("copy", 1.0), ("other", 2.0)):
        torch.save({k: v * scale for k, v in eye.items()}, tmp_path / f"{name}.pth")
    one, copy, other = (
        VGGish("random", output="pca", pca=tmp_path / f"{name}.pth", width=1, hidden=4)
        for name in ("one", "copy", "other")
    )
    made_by(one, tmp_path / "store")
    open_store(tmp_path / "store", copy)
    with pytest.raises(FeatureError, match="weights_sha256 is"):
        open_store(tmp_path / "store", other)


def test_precomputed_asks_for_no_more_than_it_says(tmp_path: Path) -> None:
    """Whoever takes a store as it is need not have its encoder."""
    made_by(tiny_r2plus1d(), tmp_path)
    open_store(tmp_path, Precomputed(16, window=16, stride=16, fps=15.0))
    with pytest.raises(FeatureError, match=r"\(Precomputed\): fps is 15.0, not None; stride is 16, not 8\."):
        open_store(tmp_path, Precomputed(16, window=16, stride=8))


def test_settings_do_not_hide_what_bears_the_same_name() -> None:
    """Settings may say `fps: null`, the variant's, in both, while the variant's has been corrected."""
    found = {"fps": 15.0, "size": [112, 112], "settings": {"fps": None, "size": None}}
    wanted = {"fps": 16.0, "size": [112, 112], "settings": {"fps": None, "size": 112}}
    assert differences(found, wanted) == ["fps is 15.0, not 16.0", "size is None, not 112"]
    assert differences({}, wanted) == []


# ---- several stores as one --------------------------------------------------------------------------------


def column(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)[:, None]


@pytest.mark.parametrize(
    ("first", "second", "frames", "expected"),
    [
        # middles at .5 1.5 2.5 3.5 of 4 s; at 1 3 of 4 s
        (FrameSpec(1.0, 1, 1, None), FrameSpec(1.0, 2, 2, None), (4, 4), [0, 0, 1, 1]),
        # twice the rate: middles at .25 .75 1.25 1.75 against 1 (of 2 s): only one there is
        (FrameSpec(2.0, 1, 1, None), FrameSpec(1.0, 2, 2, None), (4, 2), [0, 0, 0, 0]),
        # middles at 1 3 5 7 of 8 s against .5 1.5 ... 7.5: all are equally near to two, the earlier one counts
        (FrameSpec(1.0, 2, 2, None), FrameSpec(1.0, 1, 1, None), (8, 8), [0, 2, 4, 6]),
        # overlapping windows: middles at 2 3 4 5 against 1 3 5
        (FrameSpec(1.0, 4, 1, None), FrameSpec(1.0, 2, 2, None), (7, 7), [0, 1, 1, 2]),
        # 30 fps against sound at 100 Hz in pieces of 0.96 s: middles .267 .8 1.333 1.867 against .48 1.44
        (FrameSpec(30.0, 16, 16, None), FrameSpec(100.0, 96, 96, None, sound=True), (64, 213), [0, 0, 1, 1]),
    ],
)  # fmt: skip
def test_align_takes_the_unit_nearest_in_time(
    first: FrameSpec, second: FrameSpec, frames: tuple[int, int], expected: list[int]
) -> None:
    counts = [4, 1 + max(expected) + (1 if max(expected) == 6 else 0)]
    units = [column(*range(10, 10 + counts[0])), column(*range(counts[1]))]
    got = align(units, [first, second], frames)
    assert got[:, 0].tolist() == [10, 11, 12, 13]
    assert got[:, 1].tolist() == expected


def test_align_keeps_ties_to_the_earlier_whatever_the_rounding() -> None:
    fine, coarse = FrameSpec(None, 5, 5, None), FrameSpec(2.0, 1, 1, None)
    for seconds in (3, 7, 11):
        n, m = 5 * seconds, 2 * seconds
        got = align([np.zeros((n, 1)), np.arange(m)[:, None]], [fine, coarse], (25 * seconds, m))[:, 1]
        # middles at (2k + 1) / 10 and (2j + 1) / 4: in quarters of a tenth 4 (2k + 1) and 10 (2j + 1)
        distances = np.abs(4 * (2 * np.arange(n) + 1)[:, None] - 10 * (2 * np.arange(m) + 1))
        assert got.tolist() == distances.argmin(axis=1).tolist()


def test_align_keeps_the_first_ones_precision_and_takes_single_units() -> None:
    units = [
        np.ones((3, 2), dtype=np.float16),
        np.ones((1, 3), dtype=np.float64),
        np.ones((5, 1), dtype=np.float32),
    ]
    spec = FrameSpec(None, 4, 4, None)
    got = align(units, [spec] * 3, (12, 4, 20))
    assert got.shape == (3, 6)
    assert got.dtype == np.float16


def stacked(tmp_path: Path) -> tuple[Combined, list[Path]]:
    first, second = Precomputed(2, 4, 4, name="one"), Precomputed(3, 8, 8, name="two")
    paths = [tmp_path / "one", tmp_path / "two.h5"]
    paths[0].mkdir()
    for name in "ab":
        np.savez(paths[0] / f"{name}.npz", units=np.arange(8.0).reshape(4, 2), num_frames=15, duration_s=0.6)
    with h5py.File(paths[1], "w") as file:
        for name in "bc":
            file[name] = 100 + np.arange(6.0).reshape(2, 3)
    return Combined([first, second]), paths


def test_stacked_stores_are_read_as_one(tmp_path: Path) -> None:
    encoder, paths = stacked(tmp_path)
    store = open_store(paths, encoder)
    assert isinstance(store, StackedStore)
    assert store.ids == {"b"}  # in both
    units, num_frames, duration_s = store.read("b")
    assert (num_frames, duration_s) == (15, 0.6)
    np.testing.assert_array_equal(units[:, :2], np.arange(8).reshape(4, 2))
    np.testing.assert_array_equal(units[:, 2:], [[100, 101, 102]] * 2 + [[103, 104, 105]] * 2)
    assert store.manifest == {str(path): None for path in paths}
    assert str(store.path) == f"{paths[0]} + {paths[1]}"
    with pytest.raises(FeatureError, match="zebra"):
        store.read("zebra")


def test_stacked_stores_that_do_not_fit(tmp_path: Path) -> None:
    encoder, paths = stacked(tmp_path)
    with pytest.raises(FeatureError, match="a Combined encoder needs a list with one store per encoder"):
        open_store(paths[0], encoder)
    with pytest.raises(FeatureError, match=r"2 feature stores need .* Combined .*; it is Precomputed with 1"):
        open_store(paths, encoder.parts[0])
    with pytest.raises(FeatureError, match="1 feature stores need"):
        open_store(paths[:1], encoder)
    with pytest.raises(FeatureError, match=r"features .*two\.h5 contradict .*dim is 3, not 2"):
        open_store(paths[::-1], encoder)
    write_json(paths[0] / "manifest.json", {"stride": 2})
    with pytest.raises(FeatureError, match=r"features .*one contradict .*stride is 2, not 4"):
        open_store(paths, encoder)
    (tmp_path / "three").mkdir()
    np.save(tmp_path / "three" / "z.npy", np.ones((1, 3)))
    with pytest.raises(FeatureError, match="no video is in all of these stores"):
        open_store([paths[0], tmp_path / "three"], encoder)
