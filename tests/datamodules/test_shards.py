"""Files of a feature store: whole or not there at all, at whatever moment a process ends."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from groundzoo.datamodules import shards
from groundzoo.datamodules.features import FeatureError, FeatureStore
from groundzoo.datamodules.shards import (
    ShardWriter,
    file_name,
    quarantined,
    read_header,
    remove_leftovers,
    shard_files,
    stored_videos,
    write_json,
)
from groundzoo.datamodules.store_check import check_store

UNITS = {f"v{k}": np.random.default_rng(k).normal(size=(3 + k, 4)).astype(np.float32) for k in range(8)}


class KilledError(BaseException):
    """Nothing in the package catches it, as nothing catches SIGKILL."""


def fill(writer: ShardWriter, names: list[str] | None = None) -> None:
    for name in UNITS if names is None else names:
        writer.add(name, {"frames": UNITS[name]}, len(UNITS[name]) * 2, 1.5)


def contents(store: Path) -> dict[str, np.ndarray]:
    opened = FeatureStore(store)
    return {name: opened.read(name).units for name in sorted(opened.ids)}


def assert_whole(store: Path, dtype: type = np.float32) -> None:
    assert contents(store).keys() == UNITS.keys()
    for name, units in contents(store).items():
        assert units.dtype == dtype
        np.testing.assert_array_equal(units, UNITS[name].astype(dtype))


def copies(store: Path) -> Counter[str]:
    return Counter(video for path in shard_files(store) for video in read_header(path))


# ---- what is written is read ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("compacted", [False, True])
def test_what_is_written_is_read(tmp_path: Path, dtype: str, compacted: bool) -> None:
    writer = ShardWriter(tmp_path / "deep" / "store", dtype)
    fill(writer)
    if compacted:
        writer.compact()
        assert len(list(shard_files(writer.store))) == 1
    assert_whole(writer.store, np.dtype(dtype).type)
    stored = FeatureStore(writer.store).read("v2")
    assert stored[1:] == (10, 1.5)


def test_grids(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path)
    grid = np.arange(2 * 3 * 4 * 5, dtype=np.float64).reshape(2, 3, 4, 5)
    writer.add("a", {"frames": UNITS["v0"], "grid": grid.transpose(0, 2, 1, 3)}, 9, 1.0)  # not contiguous
    writer.add("b", {"frames": UNITS["v1"]}, 9, 1.0)
    for _ in range(2):
        store = FeatureStore(tmp_path)
        np.testing.assert_array_equal(store.read_grid("a"), grid.transpose(0, 2, 1, 3))
        np.testing.assert_array_equal(store.read("a").units, UNITS["v0"].astype(np.float16))
        with pytest.raises(FeatureError, match=r"\[b\]: no grid can be read .*--grid true"):
            store.read_grid("b")
        writer.compact()


ODD_IDS = [
    "a/b/c", "../../up", "/abs", "ünïcödé 視頻 🎬", "with space", "new\nline", 'quote"s', "x" * 5000, ".hidden",
    "", "__metadata__", "format", "a/frames", "a", "NUL\0byte", "CON", "a\\b",
]  # fmt: skip


def test_ids_may_be_anything(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path / "store", "float32")
    units = {name: np.full((2, 3), k, dtype=np.float32) for k, name in enumerate(ODD_IDS)}
    for name in ODD_IDS:
        writer.add(name, {"frames": units[name]}, 4, 2.0)
        writer.fail(f"bad {name}", "no reason")
    for _ in range(2):
        assert {k: v.tolist() for k, v in contents(tmp_path / "store").items()} == {
            k: v.tolist() for k, v in units.items()
        }
        writer.compact()
    assert quarantined(tmp_path / "store").keys() == {f"bad {name}" for name in ODD_IDS}
    assert [p.name for p in tmp_path.iterdir()] == ["store"], "an id led out of the store"


def test_names_are_told_apart() -> None:
    names = {file_name(ids) for ids in (["a"], ["b"], ["a", "b"], ["b", "a"], ["ab"], ["a\n", "b"], [])}
    assert len(names) == 7
    assert all(len(name) < 50 for name in names)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["frames", "grid"])
def test_what_is_no_number_is_refused(tmp_path: Path, value: float, name: str) -> None:
    arrays = {"frames": np.ones((3, 4)), "grid": np.ones((3, 2, 2, 4))}
    arrays[name].flat[5] = value
    for dtype in ("float16", "float32"):
        with pytest.raises(ValueError, match="features of a/b hold NaN or infinity"):
            ShardWriter(tmp_path, dtype).add("a/b", arrays, 3, 1.0)
    assert list(shard_files(tmp_path)) == []


def test_numbers_too_large_are_refused_with_the_remedy(tmp_path: Path) -> None:
    units = np.full((2, 2), 65504.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the words are enough
        ShardWriter(tmp_path).add("largest", {"frames": units}, 2, 1.0)
        with pytest.raises(
            ValueError, match="features of v hold numbers too large for float16: choose --dtype float32"
        ):
            ShardWriter(tmp_path).add("v", {"frames": units * 1.01}, 2, 1.0)
    ShardWriter(tmp_path, "float32").add("v", {"frames": units * 1.01}, 2, 1.0)
    assert FeatureStore(tmp_path).ids == {"largest", "v"}


# ---- a writer ends at any moment ------------------------------------------------------------------------


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """From the n-th on, nothing that touches the disk happens, tidying up included."""
    count = 0

    def wrapped(real: Callable) -> Callable:
        def call(*args: object, **kwargs: object) -> object:
            nonlocal count
            count += 1
            if count >= step:
                raise KilledError
            return real(*args, **kwargs)

        return call

    monkeypatch.setattr(shards, "save_file", wrapped(shards.save_file))
    monkeypatch.setattr(shards.os, "fsync", wrapped(os.fsync))
    monkeypatch.setattr(shards.os, "replace", wrapped(os.replace))
    monkeypatch.setattr(Path, "unlink", wrapped(Path.unlink))


@pytest.mark.parametrize("shard_bytes", [1, 700, 10**9])
def test_every_video_is_there_once_wherever_writing_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard_bytes: int
) -> None:
    """Add until it stops, start again with what is missing, put together, and see."""
    step, stopped = 0, True
    while stopped:
        step += 1
        store = tmp_path / str(step)
        with monkeypatch.context() as patch:
            stop_at(patch, step)
            writer = ShardWriter(store, "float32", shard_bytes)
            try:
                fill(writer)
                writer.compact()
                stopped = False
            except KilledError:
                pass
        for path in shard_files(store):  # what is visible is whole
            for name in read_header(path):
                np.testing.assert_array_equal(FeatureStore(store).read(name).units, UNITS[name])
        again = ShardWriter(store, "float32", shard_bytes)
        fill(again, [name for name in UNITS if name not in copies(store)])
        assert_whole(store)
        again.compact()
        assert_whole(store)
        assert set(copies(store).values()) == {1}, f"stopped at step {step}"
        write_json(store / "manifest.json", {"dim": 4})
        assert check_store(store) == []
        assert not list((store / "loose").glob("[!.]*"))
    assert step > 30


def test_a_half_written_file_is_never_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"\x80\0\0\0\0\0\0\0{half of it")
        raise OSError("No space left on device")

    writer = ShardWriter(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shards, "save_file", half)
        with pytest.raises(OSError, match="No space left"):
            fill(writer)
    assert list(shard_files(tmp_path)) == []
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
    fill(writer)
    with monkeypatch.context() as patch:
        patch.setattr(shards, "save_file", half)
        with pytest.raises(OSError, match="No space left"):
            writer.compact()
    assert_whole(tmp_path, np.float16)


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX modes")
def test_others_may_read_what_the_user_lets_them(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    writer = ShardWriter(tmp_path / "store")
    fill(writer)
    modes = {path.stat().st_mode for path in shard_files(tmp_path / "store")}
    writer.compact()
    modes |= {path.stat().st_mode for path in shard_files(tmp_path / "store")}
    assert modes == {(tmp_path / "plain").stat().st_mode}


def _write_for_ever(store: Path) -> None:
    writer = ShardWriter(store, "float32", shard_bytes=20_000)
    for k in range(100_000):
        writer.add(f"w{k:05d}", {"frames": np.full((50, 20), k, dtype=np.float32)}, 50, float(k))


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_sigkill(tmp_path: Path) -> None:
    """The same with a real kill, five times in the same store."""
    for round_ in range(5):
        process = multiprocessing.get_context("fork").Process(target=_write_for_ever, args=(tmp_path,))
        process.start()
        deadline = time.monotonic() + 20
        wanted = 3 + 20 * round_
        try:
            while len(stored_videos(tmp_path)) < wanted and time.monotonic() < deadline:
                time.sleep(0.01)
        finally:
            process.kill()
            process.join()
        found = contents(tmp_path)
        assert len(found) >= wanted
        for name, units in found.items():
            assert units.shape == (50, 20)
            assert (units == int(name[1:])).all()
    ShardWriter(tmp_path, "float32").compact()
    assert contents(tmp_path).keys() == found.keys()


def test_leftovers_of_a_kill_go_when_they_are_old(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path)
    fill(writer)
    writer.fail("bad", "reason")
    write_json(tmp_path / "manifest.json", {})
    kept = {p for p in tmp_path.rglob("*") if p.is_file()}
    left = [
        tmp_path / ".shard-0123.safetensors.4711",
        tmp_path / ".manifest.json.4711",
        tmp_path / "loose" / ".0123.safetensors.4711",
        tmp_path / "quarantine" / ".0123.json.4711",
    ]
    young = tmp_path / "loose" / ".4567.safetensors.4711"  # another process may be writing it
    other = tmp_path / ".gitignore"
    for path in (*left, young, other):
        path.write_text("half")
    for path in (*left, other):
        os.utime(path, (time.time() - 3600,) * 2)
    remove_leftovers(tmp_path)
    assert {p for p in tmp_path.rglob("*") if p.is_file()} == {*kept, young, other}
    remove_leftovers(tmp_path / "nowhere")


# ---- putting together -------------------------------------------------------------------------------------


def test_shards_are_about_as_large_as_asked(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, "float32", shard_bytes=5_000)
    big = np.ones((10, 25), dtype=np.float32)  # 1000 bytes and a header
    for k in range(23):
        writer.add(f"{k:02d}", {"frames": big}, 10, 1.0)
        assert len(list((tmp_path / "loose").glob("*.safetensors"))) < 6
    writer.compact()
    sizes = [p.stat().st_size for p in tmp_path.glob("shard-*")]
    assert len(sizes) == 5
    assert max(sizes) < 7_000
    assert set(copies(tmp_path).values()) == {1}
    assert len(copies(tmp_path)) == 23


def test_several_writers_in_one_store(tmp_path: Path) -> None:
    """Each puts its own videos together while it works; the last one tidies up."""
    writers = [ShardWriter(tmp_path, "float32", shard_bytes=150) for _ in range(3)]
    for k, name in enumerate(UNITS):
        fill(writers[k % 3], [name])
        assert len(contents(tmp_path)) == k + 1
    writers[0].compact()
    assert_whole(tmp_path)
    assert set(copies(tmp_path).values()) == {1}


def test_the_same_videos_make_files_of_the_same_name(tmp_path: Path) -> None:
    for name, order in (("a", list(UNITS)), ("b", list(UNITS)[::-1])):
        writer = ShardWriter(tmp_path / name)
        fill(writer, order)
        writer.compact()
    (one,), (two,) = shard_files(tmp_path / "a"), shard_files(tmp_path / "b")
    assert one.name == two.name
    assert_whole(tmp_path / "a", np.float16)
    assert_whole(tmp_path / "b", np.float16)


@pytest.mark.parametrize("how", ["cut", "empty", "text", "foreign"])
def test_a_broken_shard_is_named_with_the_remedy(tmp_path: Path, how: str) -> None:
    from safetensors.numpy import save_file

    writer = ShardWriter(tmp_path)
    fill(writer)
    writer.compact()
    (path,) = shard_files(tmp_path)
    if how == "foreign":  # weights that somebody put there
        save_file({"w": np.ones(3)}, path, {"format": "pt"})
    else:
        path.write_bytes({"cut": path.read_bytes()[:-7], "empty": b"", "text": b"not found"}[how])
    with pytest.raises(ValueError, match=rf"{path.name}: no shard .* Delete the file and extract again"):
        read_header(path)
    with pytest.raises(FeatureError, match=rf"{path.name}: no shard .* Delete the file and extract again"):
        FeatureStore(tmp_path)


def test_json_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "manifest.json"
    write_json(path, {"name": "ü"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"name": "ü"}
    with monkeypatch.context() as patch:
        stop_at(patch, 1)
        with pytest.raises(KilledError):
            write_json(path, {"name": "other"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"name": "ü"}


# ---- reading in other processes ---------------------------------------------------------------------------


def _read_in(store: FeatureStore, queue: multiprocessing.Queue) -> None:
    queue.put({name: store.read(name).units for name in sorted(store.ids)})


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_an_open_store_goes_to_workers(tmp_path: Path, method: str) -> None:
    writer = ShardWriter(tmp_path, "float32")
    fill(writer, list(UNITS)[:4])
    writer.compact()
    fill(writer, list(UNITS)[4:])
    store = FeatureStore(tmp_path)
    here = {name: store.read(name).units for name in sorted(store.ids)}  # its files are open now
    assert store._open
    assert not pickle.loads(pickle.dumps(store))._open
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=_read_in, args=(store, queue))
    process.start()
    there = queue.get(timeout=60)
    process.join()
    assert here.keys() == there.keys() == UNITS.keys()
    for name in here:
        np.testing.assert_array_equal(here[name], there[name])
