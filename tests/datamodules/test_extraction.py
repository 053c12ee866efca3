"""Extraction: the same bits whatever happens, nothing twice, bad videos set aside, wrong folders refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import videos
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from sounds import tone, video_with_sound
from tiny_encoders import Codes, Loudness, expected_codes, tiny_r2plus1d
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from groundzoo.datamodules import extraction, passes, shards
from groundzoo.datamodules.collecting import encode_video
from groundzoo.datamodules.extraction import Extraction, build_store, default_store
from groundzoo.datamodules.features import FeatureError, FeatureStore
from groundzoo.datamodules.shards import ShardWriter, quarantined, shard_files, write_json
from groundzoo.datamodules.store_check import check_store
from groundzoo.datamodules.video import VideoError
from groundzoo.datamodules.video_files import find_videos
from groundzoo.zoo.video.base import VideoEncoder
from groundzoo.zoo.video.combined import Combined
from groundzoo.zoo.video.pixel_grid import PixelGrid

COUNTS = (1, 7, 30, 61, 25, 26)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for count in COUNTS:
        videos.coded_video(folder / f"n{count}.mp4", count)
    return folder


@pytest.fixture
def files(folder: Path) -> dict[str, Path]:
    return find_videos(folder)


def contents(store: Path) -> dict[str, np.ndarray]:
    opened = FeatureStore(store)
    return {name: opened.read(name).units for name in sorted(opened.ids)}


def assert_same_bits(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name, units in one.items():
        assert units.dtype == other[name].dtype
        np.testing.assert_array_equal(units, other[name], err_msg=name)


def predict(extraction: Extraction) -> None:
    """As the command line does it."""
    quiet: dict[str, Any] = dict.fromkeys(("logger", "enable_checkpointing", "enable_model_summary"), False)
    trainer = L.Trainer(accelerator="cpu", devices=1, enable_progress_bar=False, **quiet)
    trainer.predict(extraction, return_predictions=False)


@torch.inference_mode()
def run(extraction: Extraction, rank: int = 0, world_size: int = 1) -> None:
    """One process, without tidying up."""
    for batch in extraction.loader(rank, world_size):
        extraction.encode(batch)


class Interrupt:
    """Stops after n videos have been written, as Ctrl-C or a full disk would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
        self.left, real = after, ShardWriter.add

        def add(writer: ShardWriter, *args: Any) -> None:
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            real(writer, *args)

        monkeypatch.setattr(ShardWriter, "add", add)


# ---- the same bits --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, np.ndarray]]:
    home = tmp_path_factory.mktemp("undisturbed")
    made = {}
    for name, encoder in (("grid", PixelGrid(grid=4, size=16)), ("network", tiny_r2plus1d())):
        build_store(encoder, find_videos(folder), home / name)
        made[name] = contents(home / name)
    return made


@pytest.mark.parametrize("name", ["grid", "network"])
@pytest.mark.parametrize("how", ["workers", "order", "alone", "together", "trainer", "interrupted", "shards"])
def test_the_same_bits_whatever_happens_on_the_way(
    name: str,
    how: str,
    files: dict[str, Path],
    undisturbed: dict[str, dict[str, np.ndarray]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make = {"grid": lambda: PixelGrid(grid=4, size=16), "network": tiny_r2plus1d}[name]
    out = tmp_path / "store"
    if how == "workers":
        build_store(make(), files, out, num_workers=2)
    elif how == "order":
        build_store(make(), dict(reversed(files.items())), out)
    elif how == "alone":  # other neighbours in every batch
        for video, path in files.items():
            build_store(make(), {video: path}, out)
    elif how == "together":
        out = tmp_path / "b"
        build_store(Combined([Codes(4, 4), make()]), files, [tmp_path / "a", out])
    elif how == "trainer":
        predict(Extraction([make()], [out], files, num_workers=1))
    elif how == "interrupted":
        for after in (0, 1, 2):
            with monkeypatch.context() as patch:
                Interrupt(patch, after)
                with pytest.raises(KeyboardInterrupt):
                    build_store(make(), files, out)
        assert len(contents(out)) == 3
        build_store(make(), files, out, num_workers=1)
    else:
        monkeypatch.setattr(shards, "SHARD_BYTES", 1)
        writer = ShardWriter.__init__
        monkeypatch.setattr(ShardWriter, "__init__", lambda self, store, dtype: writer(self, store, dtype, 1))
        build_store(make(), files, out)
        assert len(list(shard_files(out))) == len(files)
    assert_same_bits(contents(out), undisturbed[name])
    assert check_store(out, files) == []


def test_features_are_those_of_the_encoder(files: dict[str, Path], tmp_path: Path) -> None:
    encoder = Codes(5, 3)
    store = build_store(encoder, files, tmp_path)
    for count in COUNTS:
        stored = store.read(f"n{count}")
        assert stored.units.tolist() == expected_codes(encoder, count)
        assert stored.num_frames == count
        assert stored.duration_s == pytest.approx(count / 25)
    assert {shape[0] for shape in encoder.batches} == {16}
    store.check(encoder)


def test_the_store_agrees_with_one_video_encoded_for_itself(files: dict[str, Path], tmp_path: Path) -> None:
    encoder = tiny_r2plus1d()
    predict(Extraction([encoder], [tmp_path], files, num_workers=0, dtype="float32"))
    for name, path in files.items():
        alone = encode_video(encoder, path)
        np.testing.assert_allclose(contents(tmp_path)[name], alone.units, rtol=1e-5, atol=1e-6)


def test_a_run_leaves_the_random_numbers_alone(files: dict[str, Path], tmp_path: Path) -> None:
    """Training after it must not depend on what had been encoded before."""
    for workers in (0, 1):
        state = torch.get_rng_state()
        build_store(PixelGrid(grid=4, size=16), files, tmp_path / str(workers), num_workers=workers)
        assert torch.equal(torch.get_rng_state(), state)


# ---- nothing twice --------------------------------------------------------------------------------------


def test_encoding_goes_on_where_it_stopped(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = files | {"bad": tmp_path / "gone.mp4"}
    encoder, out = Codes(64, 64), tmp_path / "store"  # one pass per video
    seen: list[str] = []
    real = passes.FrameReader.__init__

    def opened(reader: Any, path: Path, *args: Any) -> None:
        seen.append(path.stem)
        real(reader, path, *args)

    monkeypatch.setattr(passes.FrameReader, "__init__", opened)
    with monkeypatch.context() as patch:
        Interrupt(patch, 3)
        extraction = Extraction([encoder], [out], files, num_workers=0, batch_size=1)
        with pytest.raises(KeyboardInterrupt):
            run(extraction)
    assert len(encoder.batches) == 5  # three are kept, one was about to be written, one was on its way
    done = set(contents(out))
    assert len(done) == 3
    before = {p: p.stat().st_mtime_ns for p in shard_files(out)}
    seen.clear()
    encoder.batches.clear()
    extraction = Extraction([encoder], [out], files, num_workers=0, batch_size=1)
    assert {video for video, _ in extraction.work()} == files.keys() - done
    run(extraction)
    assert sorted(seen) == sorted(p.stem for v, p in files.items() if v not in done)
    assert len(encoder.batches) == len(files) - 1 - 3
    assert {p: p.stat().st_mtime_ns for p in before} == before
    extraction.finish()
    seen.clear()
    build_store(encoder, files, out)
    assert seen == []  # neither what is there nor what is in quarantine
    assert len(list(shard_files(out))) == 1


def test_a_second_encoder_reads_only_what_it_lacks(files: dict[str, Path], tmp_path: Path) -> None:
    one, two = Codes(64, 64), Codes(32, 32)
    stores = [tmp_path / "one", tmp_path / "two"]
    build_store(one, {k: v for k, v in files.items() if k in ("n1", "n7")}, stores[0])
    build_store(two, {"n7": files["n7"]}, stores[1])
    extraction = Extraction([one, two], stores, files)
    assert {video: work.encoders for video, work in extraction.work()} == {
        name: {"n1": (1,)}.get(name, (0, 1)) for name in files if name != "n7"
    }
    store = build_store(Combined([one, two]), files, stores)
    assert store.ids == files.keys()
    assert all(set(contents(s)) == files.keys() for s in stores)


@pytest.mark.parametrize("world_size", [1, 2, 3, 10])
def test_videos_are_dealt_out_without_gaps_or_overlaps(
    files: dict[str, Path], tmp_path: Path, world_size: int
) -> None:
    """By their place in the list, so that ranks that start at different times agree."""
    extraction = Extraction([Codes(64, 64)], [tmp_path], files)
    shares = [[v for v, _ in extraction.work(rank, world_size)] for rank in range(world_size)]
    assert sorted(v for share in shares for v in share) == sorted(files)
    build_store(Codes(64, 64), {v: files[v] for v in shares[0]}, tmp_path)
    later = [[v for v, _ in extraction.work(rank, world_size)] for rank in range(world_size)]
    assert later == [[], *shares[1:]]


def test_ranks_one_after_the_other_make_what_one_process_makes(
    files: dict[str, Path], undisturbed: dict[str, dict[str, np.ndarray]], tmp_path: Path
) -> None:
    for rank in (1, 0, 2):
        extraction = Extraction([tiny_r2plus1d()], [tmp_path], files, num_workers=0)
        run(extraction, rank, 3)
    extraction.finish()
    assert_same_bits(contents(tmp_path), undisturbed["network"])
    assert len(list(shard_files(tmp_path))) == 1


# ---- another encoder's folder ---------------------------------------------------------------------------


class Other(PixelGrid):
    """Another class with the same settings."""


def test_a_folder_made_otherwise_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    some = {"n1": files["n1"]}
    build_store(PixelGrid(grid=4, size=16), some, tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    cases: list[tuple[VideoEncoder, dict[str, Any], Sequence[str]]] = [
        (PixelGrid(grid=8, size=16), {}, ("dim is 144, not 576", "grid is 4, not 8")),
        (PixelGrid(grid=4, size=32), {}, ("size is 16, not 32", r"size is \[16, 16\], not \[32, 32\]")),
        (PixelGrid(grid=4, size=16, fps=12.0, window_s=0.5, stride_s=0.25), {}, ("fps is 6.0, not 12.0",)),
        (Other(grid=4, size=16), {}, ("encoder is PixelGrid, not Other",)),
        (PixelGrid(grid=4, size=16), {"dtype": "float32"}, ("dtype is float16, not float32",)),
        (PixelGrid(grid=4, size=16), {"grids": True}, (r"grid is None, not \[4, 4, 9\]",)),
        (PixelGrid(grid=4, size=16), {"precision": "bf16-mixed"}, ("precision is 32-true, not bf16-mixed",)),
    ]
    for encoder, options, reasons in cases:
        for reason in reasons:
            with pytest.raises(FeatureError, match=rf"were made otherwise: .*{reason}.*Choose another folder"):
                Extraction([encoder], [tmp_path], some, **options)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    Extraction([PixelGrid(grid=4, size=16)], [tmp_path], some)


def test_other_weights_are_told_by_their_numbers_alone(files: dict[str, Path], tmp_path: Path) -> None:
    encoder, same, other = tiny_r2plus1d(), tiny_r2plus1d(), tiny_r2plus1d()
    with torch.no_grad():
        next(other.network.parameters())[0, 0, 0, 0, 0] += 1e-6
    same.settings["weights"] = "elsewhere/same.pth"
    same.settings["channels_last"] = False
    some = {"n7": files["n7"]}
    build_store(encoder, some, tmp_path)
    build_store(same, some, tmp_path)
    with pytest.raises(FeatureError, match=r"were made otherwise: weights_sha256 is [0-9a-f]+, not [0-9a-f]+"):
        build_store(other, some, tmp_path)


def test_a_manifest_that_cannot_be_read(files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{ half")
    with pytest.raises(FeatureError, match=r"manifest\.json: not a JSON file"):
        build_store(PixelGrid(grid=4, size=16), files, tmp_path)


def test_a_broken_shard_ends_the_run_before_it_begins(files: dict[str, Path], tmp_path: Path) -> None:
    build_store(PixelGrid(grid=4, size=16), files, tmp_path)
    (shard,) = shard_files(tmp_path)
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ValueError, match=rf"{shard.name}: no shard .*Delete the file and extract again"):
        build_store(PixelGrid(grid=4, size=16), files, tmp_path)
    shard.unlink()
    assert build_store(PixelGrid(grid=4, size=16), files, tmp_path).ids == files.keys()


def test_other_settings_get_another_folder(tmp_path: Path) -> None:
    names = {default_store(tmp_path, PixelGrid(grid=g, fps=f)) for g in (4, 12) for f in (4.0, 6.0)}
    assert len(names) == 4
    assert default_store(tmp_path, PixelGrid()) == default_store(tmp_path, PixelGrid())
    moved = tiny_r2plus1d()
    moved.settings["weights"] = "elsewhere/same.pth"
    assert default_store(tmp_path, moved) == default_store(tmp_path, tiny_r2plus1d())
    both = default_store(tmp_path, Combined([PixelGrid(), PixelGrid(grid=4)]))
    assert both == [default_store(tmp_path, PixelGrid()), default_store(tmp_path, PixelGrid(grid=4))]


# ---- bad videos -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_videos_are_set_aside_and_tried_again_if_asked(
    files: dict[str, Path], folder: Path, tmp_path: Path, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes((folder / "n61.mp4").read_bytes()[:200])
    (tmp_path / "text.mp4").write_text("no video")
    files = {**files, "b/ä d": bad, "text": tmp_path / "text.mp4", "gone": tmp_path / "gone.mp4"}
    out = tmp_path / "store"
    encoder = PixelGrid(grid=4, size=16)
    store = build_store(encoder, files, out, num_workers=workers)
    assert store.ids == {f"n{count}" for count in COUNTS}
    reasons = quarantined(out)
    assert reasons.keys() == {"b/ä d", "text", "gone"}
    for name, reason in reasons.items():
        assert f"{files[name].name}" in reason
        assert f"quarantined {name}: {reason}" in caplog.text
    assert all(f"{name}: in quarantine. " in "\n".join(check_store(out, files)) for name in reasons)
    bad.write_bytes((folder / "n61.mp4").read_bytes())  # it is repaired
    assert build_store(encoder, files, out).ids == store.ids
    predict(Extraction([encoder], [out], files, num_workers=workers, retry=True))
    assert contents(out).keys() == {*store.ids, "b/ä d"}
    np.testing.assert_array_equal(contents(out)["b/ä d"], contents(out)["n61"])
    assert quarantined(out).keys() == {"text", "gone"}
    (tmp_path / "text.mp4").write_bytes((folder / "n7.mp4").read_bytes())
    (tmp_path / "gone.mp4").write_bytes((folder / "n7.mp4").read_bytes())
    predict(Extraction([encoder], [out], files, num_workers=workers, retry=True))
    assert check_store(out, files) == []
    assert not (out / "quarantine").exists()
    assert not (out / "loose").exists()


def test_not_one_video(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"none of 1 videos could be encoded: .*gone\.mp4"):
        build_store(PixelGrid(), {"gone": tmp_path / "gone.mp4"}, tmp_path / "store")
    with pytest.raises(VideoError, match="there are no videos"):
        build_store(PixelGrid(), {}, tmp_path / "store2")


class Huge(Codes):
    """Numbers that half precision cannot hold, for long videos."""

    def encode(self, clips: torch.Tensor) -> Any:
        out = super().encode(clips)
        return out._replace(frames=out.frames.where(out.frames < 55, 1e6))


def test_numbers_that_cannot_be_stored_cost_one_video(files: dict[str, Path], tmp_path: Path) -> None:
    store = build_store(Huge(4, 4), files, tmp_path / "half")
    assert store.ids == files.keys() - {"n61"}
    assert "too large for float16: choose --dtype float32" in quarantined(tmp_path / "half")["n61"]
    predict(Extraction([Huge(4, 4)], [tmp_path / "full"], files, num_workers=0, dtype="float32"))
    assert contents(tmp_path / "full").keys() == files.keys()


def test_a_crash_under_the_trainer_costs_one_video(
    files: dict[str, Path],
    undisturbed: dict[str, dict[str, np.ndarray]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The trainer asks for a batch before it has handled the one before."""
    import os
    import signal

    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.2,))
    real = passes.FrameReader.views

    def views(reader: Any, *args: Any) -> Any:
        for piece in real(reader, *args):
            yield piece
            if reader.path.stem in ("n25", "n61"):
                os.kill(os.getpid(), signal.SIGSEGV)

    monkeypatch.setattr(passes.FrameReader, "views", views)
    monkeypatch.setattr(passes, "CHUNK_FRAMES", 8)
    predict(Extraction([PixelGrid(grid=4, size=16)], [tmp_path], files, batch_size=16, num_workers=2))
    expected = {k: v for k, v in undisturbed["grid"].items() if k not in ("n25", "n61")}
    assert_same_bits(contents(tmp_path), expected)
    assert quarantined(tmp_path).keys() == {"n25", "n61"}
    assert all("its decoder crashed (SIGSEGV)" in reason for reason in quarantined(tmp_path).values())


# ---- several encoders, sound, grids ---------------------------------------------------------------------


def test_sound_beside_pictures(folder: Path, tmp_path: Path) -> None:
    """Silent, late and short sound: there is a unit for every stretch of the pictures."""
    home = tmp_path / "videos"
    home.mkdir()
    videos.coded_video(home / "silent.mp4", 50)
    video_with_sound(home / "late.mkv", 2.0, [(1.0, tone(1.0, 16000))])
    video_with_sound(home / "short.mkv", 2.0, [(0.0, tone(0.5, 16000))])
    video_with_sound(home / "whole.mp4", 2.0, [(0.0, tone(2.0, 44100))], 44100, codec="aac")
    encoders = [Codes(25, 25), Loudness(4000, 4000)]
    stores = [tmp_path / "pictures", tmp_path / "sound"]
    build_store(Combined(encoders), find_videos(home), stores, num_workers=1)
    loud = {name: (units[:, 0] > 0.1).tolist() for name, units in contents(stores[1]).items()}
    assert loud == {
        "silent": [False] * 4,
        "late": [False, False, True, True],
        "short": [True, False, False, False],
        "whole": [True] * 4,
    }
    assert FeatureStore(stores[1]).read("late").num_frames == 16000
    assert all(units.tolist() == expected_codes(encoders[0], 50) for units in contents(stores[0]).values())
    for store in stores:
        assert check_store(store, find_videos(home)) == []


def test_grids_are_stored_if_asked_for(files: dict[str, Path], tmp_path: Path) -> None:
    encoder = PixelGrid(grid=4, size=16)
    predict(Extraction([encoder], [tmp_path / "a"], files, num_workers=0, grids=True))
    store = FeatureStore(tmp_path / "a")
    store.check(encoder)
    for name in store.ids:
        units = store.read(name).units
        np.testing.assert_array_equal(store.read_grid(name).reshape(units.shape), units)
    assert check_store(tmp_path / "a", files) == []
    predict(Extraction([Codes(4, 4)], [tmp_path / "b"], files, num_workers=0, grids=True))  # it has none
    assert check_store(tmp_path / "b", files) == []


# ---- checking a store -----------------------------------------------------------------------------------


def replace(store: Path, video_id: str, units: np.ndarray, grid: np.ndarray | None = None) -> None:
    """Make the store's shard anew with other numbers for one video, whatever they are."""
    (path,) = shard_files(store)
    with safe_open(path, framework="numpy") as file:
        facts = file.metadata()
    tensors = load_file(path) | {f"{video_id}/frames": units}
    if grid is not None:
        tensors[f"{video_id}/grid"] = grid
    save_file(tensors, path, facts)


def damage(store: Path, how: str) -> None:
    units = contents(store)["n7"]
    grid = FeatureStore(store).read_grid("n7")
    if how == "no manifest":
        (store / "manifest.json").unlink()
    elif how == "manifest is no JSON":
        (store / "manifest.json").write_text("{")
    elif how == "NaN":
        replace(store, "n7", np.full_like(units, np.nan))
    elif how == "wrong width":
        replace(store, "n7", units[:, :5].copy())
    elif how == "too few units":
        replace(store, "n30", units[:1], grid[:1])
    elif how == "NaN in a grid":
        replace(store, "n7", units, np.full_like(grid, np.inf))
    elif how == "wrong grid":
        replace(store, "n7", units, grid[:, :2].copy())
    elif how == "twice":
        writer = ShardWriter(store)
        writer.add("n7", {"frames": units, "grid": grid}, 7, 0.28)
        (loose,) = (store / "loose").iterdir()
        loose.rename(store / "shard-copy.safetensors")
    elif how == "cut short":
        (path,) = shard_files(store)
        path.write_bytes(path.read_bytes()[:-100])
    elif how == "empty":
        (path,) = shard_files(store)
        path.unlink()
    elif how == "quarantine":
        ShardWriter(store).fail("bad", "its reason")


@pytest.mark.parametrize(
    ("how", "found"),
    [
        ("nothing", []),
        ("no manifest", ["manifest.json: missing"]),
        ("manifest is no JSON", ["manifest.json: not a JSON file"]),
        ("NaN", ["[n7]: hold NaN or infinity"]),
        ("wrong width", ["n7: 5 wide, the manifest says 144"]),
        ("too few units", ["n30: 1 units, 8 frames should give 2"]),
        ("NaN in a grid", ["n7: the grid holds NaN or infinity"]),
        ("wrong grid", ["n7: a grid of (1, 2, 4, 9), expected (1, 4, 4, 9)"]),
        ("twice", ["n7 is in "]),
        ("cut short", ["no shard of a feature store"]),
        ("empty", ["no shard or"]),
        ("quarantine", ["bad: in quarantine. its reason"]),
    ],
)
def test_check_finds(files: dict[str, Path], tmp_path: Path, how: str, found: list[str]) -> None:
    encoder = PixelGrid(grid=4, size=16)
    predict(Extraction([encoder], [tmp_path], files, num_workers=0, grids=True))
    damage(tmp_path, how)
    problems = check_store(tmp_path, files)
    assert len(problems) == len(found), problems
    for problem, part in zip(problems, found, strict=True):
        assert part in problem


def test_check_misses_no_video(files: dict[str, Path], tmp_path: Path) -> None:
    build_store(Codes(4, 4), files, tmp_path)
    more = files | {"new": Path("new.mp4"), "newer": Path("newer.mp4")}
    assert check_store(tmp_path, more) == ["new: not there", "newer: not there"]
    assert check_store(tmp_path) == []
    assert len(check_store(tmp_path / "nowhere")) == 2


def test_copies_left_by_a_kill_are_no_problem(files: dict[str, Path], tmp_path: Path) -> None:
    build_store(Codes(4, 4), files, tmp_path)
    ShardWriter(tmp_path).add("n7", {"frames": contents(tmp_path)["n7"]}, 7, 0.28)
    assert check_store(tmp_path, files) == []


def test_check_takes_stores_of_others(tmp_path: Path) -> None:
    """Files of arrays with a manifest that somebody wrote by hand."""
    np.save(tmp_path / "a.npy", np.ones((3, 4)))
    write_json(tmp_path / "manifest.json", {"source": "a friend"})
    assert check_store(tmp_path) == []
    write_json(tmp_path / "manifest.json", {"source": "a friend", "dim": 5})
    assert check_store(tmp_path) == ["a: 4 wide, the manifest says 5"]


def test_a_log_file_gets_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where no bar can be drawn, a line now and then with the speed and the time left."""
    for k in range(4):
        videos.coded_video(tmp_path / f"v{k}.mp4", 40)
    monkeypatch.setattr(extraction, "LOG_EVERY_S", 0.0)
    with caplog.at_level("INFO", logger="groundzoo"):
        build_store(PixelGrid(grid=4, size=16), find_videos(tmp_path), tmp_path / "store")
    lines = [record.message for record in caplog.records if "video" in record.message]
    assert any("4/4" in line and "/s" in line.replace("s/video", "/s") for line in lines), lines
