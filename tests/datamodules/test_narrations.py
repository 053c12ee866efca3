"""Narrated videos: what is drawn from them, the index of a large file, what is wrong with files and videos."""

from __future__ import annotations

import csv
import json
import logging
import pickle
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from sounds import tone, video_with_sound
from tiny_captions import Cells
from tiny_encoders import Loudness
from torch import nn

from groundzoo.datamodules import json_stream
from groundzoo.datamodules.annotations import AnnotationError
from groundzoo.datamodules.features import FeatureError
from groundzoo.datamodules.howto100m import HowTo100M, NarrationFolder, read_video_list
from groundzoo.datamodules.json_stream import stream_entries
from groundzoo.datamodules.loader import EpochSampler
from groundzoo.datamodules.marking import write_video
from groundzoo.datamodules.narration_dataset import Candidates, NarrationLoader
from groundzoo.datamodules.narration_index import NarrationIndex, index_narrations
from groundzoo.datamodules.packed import FileTable, Strings
from groundzoo.datamodules.sound import read_sound
from groundzoo.zoo.batch import NarrationBatch
from groundzoo.zoo.video.precomputed import Precomputed

Captions = dict[str, Any]
FPS = 2.0  # of the small videos, and of units in stores
SECONDS = 10.0


class Task:
    """What a data module asks of a task."""

    def __init__(self, video_encoder: Any = None, audio_encoder: Any = None, max_cells: int | None = None) -> None:
        self.video_encoder = video_encoder or Precomputed(5, 1, 1, FPS, grid=(3, 3, 5))
        self.audio_encoder, self.max_cells = audio_encoder, max_cells


class Trainer:
    """What a data module asks of a trainer."""

    world_size = 1

    def __init__(self, *encoders: Any) -> None:
        self.lightning_module = Task(*encoders)


def captions(names: Iterable[str], each: int = 4) -> Captions:
    """`each` narrations per video, 2 s apart and 1 s long; texts name video and number."""
    starts = [2.0 * k + 0.5 for k in range(each)]
    entry = {"start": starts, "end": [s + 1 for s in starts]}
    return {name: {**entry, "text": [f"{name} says {k}" for k in range(each)]} for name in names}


def write_json(root: Path, stored: Any, name: str = "caption.json") -> Path:
    root.mkdir(exist_ok=True)
    (root / name).write_text(json.dumps(stored), encoding="utf-8")
    return root / name


def write_csv(root: Path, stored: Captions, bom: bool = False) -> Path:
    folder = root / "csv"
    folder.mkdir(parents=True)
    for name, entry in stored.items():
        encoding = "utf-8-sig" if bom else "utf-8"
        with (folder / f"{name}.csv").open("w", encoding=encoding, newline="") as file:
            csv.writer(file).writerows([entry, *zip(*entry.values(), strict=True)])
    return folder


def store(folder: Path, lengths_s: dict[str, float]) -> Path:
    """Unit k of every video is filled with k; 2 per second."""
    folder.mkdir(parents=True)
    for name, seconds in lengths_s.items():
        units = round(seconds * FPS)
        grid = np.arange(units, dtype=np.float32)[:, None, None, None] * np.ones((1, 3, 3, 5), np.float32)
        np.savez(folder / f"{name}.npz", units=grid, num_frames=units, duration_s=seconds)
    return folder


def videos(folder: Path, names: Iterable[str], seconds: float = 3.0) -> Path:
    """Small mp4s; every video has a brightness of its own."""
    for k, name in enumerate(names):
        pictures = [np.full((32, 32, 3), 20 * k + 20, dtype=np.uint8)] * round(seconds * 4)
        write_video(folder / f"{name}.mp4", pictures, 4.0)
    return folder


def ready(data: HowTo100M, *encoders: Any, stage: str = "fit") -> HowTo100M:
    data.trainer = Trainer(*encoders)  # type: ignore[assignment]
    data.prepare_data()
    data.setup(stage)
    return data


def tiny(root: Path, count: int = 7, stored: Captions | None = None, **options: Any) -> HowTo100M:
    """Videos a, b, ... of 10 s with features."""
    names = [chr(ord("a") + k) for k in range(count)]
    if not (root / "caption.json").exists():
        write_json(root, captions(names) if stored is None else stored)
        store(root / "store", dict.fromkeys(names, SECONDS))
    defaults: dict[str, Any] = {"candidates": 8, "candidate_fps": 2.0, "min_time_s": 3.0}
    defaults |= {"batch_size": 3, "num_workers": 0}
    return ready(HowTo100M(root, features=root / "store", **(defaults | options)))


def epoch(data: HowTo100M, number: int = 0, loader: Any = None) -> list[NarrationBatch]:
    loader = loader or data.train_dataloader()
    loader.order.set_epoch(number)
    return list(loader)


def told(batches: Iterable[NarrationBatch]) -> list[tuple[Any, ...]]:
    """All that a batch holds, comparable."""
    return [(b.video_ids, b.texts, b.times_s.tolist(), b.inside.tolist(), b.index.tolist()) for b in batches]


# ---- where the stretch lies -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("span", "duration_s", "expected"),
    [
        ((50.0, 54.0), 100.0, 44.0),  # 16 s around 52
        ((1.0, 3.0), 100.0, 0.0),  # shifted into the video
        ((97.0, 99.0), 100.0, 84.0),
        ((97.0, 9999.0), 100.0, 84.0),  # the end counts as that of the video
        ((-50.0, 20.0), 100.0, 2.0),
        ((3.0, 5.0), 9.0, 0.0),  # a short video
    ],
)
def test_stretch_is_around_the_middle(span: tuple[float, float], duration_s: float, expected: float) -> None:
    moments = Candidates(80, 5.0, min_time_s=5.0)
    shares = (0.0, 0.5, 0.999) if span[1] - span[0] < 16 else (0.5,)
    assert [moments.start(*span, duration_s, share) for share in shares] == pytest.approx([expected] * len(shares))
    times = moments.times(expected)
    assert len(times) == 80
    np.testing.assert_allclose(np.diff(times), 0.2)
    assert times.mean() == pytest.approx(expected + 8)


def test_short_stretch_lies_anywhere_in_the_widened_narration() -> None:
    """Two seconds of moments; a narration of one second counts as five, one of ten as ten."""
    moments = Candidates(8, 4.0, min_time_s=5.0)
    for span, whole in (((50.0, 51.0), (48.0, 53.0)), ((50.0, 60.0), (50.0, 60.0))):
        starts = [moments.start(*span, 100.0, share) for share in np.linspace(0, 1, 101)]
        assert (min(starts), max(starts) + 2.0) == pytest.approx(whole)
    narrow = Candidates(8, 4.0, min_time_s=0.0)
    assert {narrow.start(50.0, 51.0, 100.0, share) for share in (0.0, 0.9)} == {49.5}


def test_moments_of_batches(tmp_path: Path) -> None:
    data = tiny(tmp_path)
    for batch in epoch(data):
        assert len(batch) == 3
        assert batch.features.vectors is not None
        assert batch.features.vectors.shape == (3, 8, 5)
        assert batch.features.grid is not None
        assert batch.features.grid.shape == (3, 8, 3, 3, 5)
        assert batch.sound is None
        assert batch.mask.all()
        assert torch.allclose(batch.times_s.diff(), torch.tensor(0.5))
        for b, (start, end) in enumerate(batch.spans_s.tolist()):
            video, k = batch.texts[b][0], int(batch.texts[b][-1])
            assert batch.video_ids[b] == video
            assert (start, end) == (2 * k + 0.5, 2 * k + 1.5)
            times = batch.times_s[b]
            assert batch.inside[b].tolist() == [start <= t <= end for t in times.tolist()]
            assert batch.inside[b].sum() >= 2, "as annotated, not as widened"
            assert batch.inside[b].sum() <= 3
            middle = min(max((start + end) / 2, 2.0), SECONDS - 2.0)
            assert times.mean().item() == pytest.approx(middle)
            units = batch.features.vectors[b, :, 0]
            assert ((units + 0.5) / FPS - times).abs().max() <= 0.25 + 1e-5, "the nearest units"


def test_short_videos_are_padded_at_the_end(tmp_path: Path) -> None:
    write_json(tmp_path, captions("abc", each=1) | {"c": {"start": [1.0], "end": [9.0], "text": ["c"]}})
    store(tmp_path / "store", {"a": 2.5, "b": 4.0, "c": 1.5})
    (batch,) = epoch(tiny(tmp_path, candidates=16, candidate_fps=4.0))
    for b, name in enumerate(batch.video_ids):
        whole = {"a": 10, "b": 16, "c": 6}[name]
        assert batch.mask[b].tolist() == [True] * whole + [False] * (16 - whole)
        assert batch.times_s[b, 0] == 0.125
        assert not batch.inside[b][~batch.mask[b]].any()
        assert batch.inside[b].any()
        assert batch.features.vectors is not None
        assert batch.features.vectors[b, -1, 0] == {"a": 4, "b": 7, "c": 2}[name], "the last unit"


def test_the_shortest_video_has_a_moment(tmp_path: Path) -> None:
    entry = {"start": [0.0], "end": [5.0], "text": ["very short"]}
    write_json(tmp_path, {"a": entry, "b": entry})
    folder = store(tmp_path / "store", {})
    for name in "ab":
        np.savez(folder / f"{name}.npz", units=np.ones((1, 3, 3, 5)), num_frames=1, duration_s=0.01)
    (batch,) = epoch(tiny(tmp_path, batch_size=2))
    assert batch.mask.sum(1).tolist() == [1, 1]


# ---- the draw -------------------------------------------------------------------------------------------


def test_draw_is_a_function_of_seed_epoch_and_video(tmp_path: Path) -> None:
    data = tiny(tmp_path)
    first, second = told(epoch(data, 0)), told(epoch(data, 1))
    assert first != second
    assert told(epoch(tiny(tmp_path), 0)) == first
    assert told(epoch(tiny(tmp_path), 1)) == second
    assert told(epoch(tiny(tmp_path, seed=1), 0)) != first
    drawn = {(text[0], text[-1]) for number in range(30) for b in epoch(data, number) for text in b.texts}
    assert drawn == {(name, str(k)) for name in "abcdefg" for k in range(4)}, "in time every narration"
    same_order = {b: {tuple(batch.texts) for batch in epoch(data, b)} for b in range(5)}
    assert len(set(map(frozenset, same_order.values()))) == 5


def test_choice_of_a_video_does_not_depend_on_its_batch(tmp_path: Path) -> None:
    (whole,) = epoch(tiny(tmp_path, batch_size=7), 3)
    together = dict(zip(whole.video_ids, whole.texts, strict=True))
    for batch in epoch(tiny(tmp_path, batch_size=2), 3):
        for video, text in zip(batch.video_ids, batch.texts, strict=True):
            assert together[video] == text
    (other,) = epoch(tiny(tmp_path, batch_size=7, seed=1), 3)
    assert together != dict(zip(other.video_ids, other.texts, strict=True))


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_leave_no_trace(tmp_path: Path, context: str) -> None:
    workers = 2 if context == "fork" else 1  # to spawn one takes seconds
    alone, shared = tiny(tmp_path), tiny(tmp_path, num_workers=workers)
    loader = shared.train_dataloader()
    loader.multiprocessing_context = context
    assert loader.num_workers == workers
    for number in (0, 1, 4):  # the same workers, another epoch
        assert told(epoch(shared, number, loader)) == told(epoch(alone, number))


@pytest.mark.parametrize("workers", [0, 2])
def test_goes_on_at_the_next_batch(tmp_path: Path, workers: int) -> None:
    data = tiny(tmp_path, count=10, num_workers=workers)
    whole = told(epoch(data, 5))
    assert len(whole) == 3
    running = data.train_dataloader()
    running.order.set_epoch(5)
    iterator = iter(running)
    assert told([next(iterator)]) == whole[:1]
    resumed = tiny(tmp_path, num_workers=workers).train_dataloader()
    resumed.load_state_dict(running.state_dict())
    assert told(epoch(data, 5, resumed)) == whole[1:]
    finished = tiny(tmp_path, num_workers=workers).train_dataloader()
    finished.load_state_dict(resumed.state_dict())
    assert told(epoch(data, 6, finished)) == told(epoch(data, 6)), "an epoch that ended is not continued"


@pytest.mark.parametrize("world", [1, 2, 3])
def test_whole_batches_of_different_videos_over_all_processes(
    tmp_path: Path, world: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tiny(tmp_path, count=13, batch_size=2)
    connector = type("Connector", (), {"use_distributed_sampler": False})
    data.trainer.world_size, data.trainer._accelerator_connector = world, connector  # type: ignore
    for number in range(4):
        dealt = []
        for rank in range(world):
            monkeypatch.setattr(EpochSampler, "_group", staticmethod(lambda rank=rank: (rank, world)))
            loader = data.train_dataloader()
            dealt.append(epoch(data, number, loader))
            assert len(dealt[-1]) == len(loader) == 13 // (2 * world)
        for batches in zip(*dealt, strict=True):
            assert all(len(batch) == 2 for batch in batches)
            assert len({v for batch in batches for v in batch.video_ids}) == 2 * world
        seen = [v for batches in dealt for batch in batches for v in batch.video_ids]
        assert len(seen) == len(set(seen)), "no video twice in an epoch"
    if world > 1:
        connector.use_distributed_sampler = True
        with pytest.raises(ValueError, match="use_distributed_sampler"):
            data.train_dataloader()


def test_too_few_videos_for_a_batch(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"7 videos.*batch_size"):
        tiny(tmp_path, batch_size=8).train_dataloader()


# ---- files ----------------------------------------------------------------------------------------------


def same(one: Any, other: Any) -> bool:
    """Whether two sources hold the same narrations of the same videos."""
    rows = {name: k for k, name in enumerate(other.ids)}
    equal = set(one.ids) == set(rows)
    for k, name in enumerate(one.ids):
        a, b = one.read(k), other.read(rows[name])
        equal &= np.array_equal(a.starts_s, b.starts_s) and np.array_equal(a.ends_s, b.ends_s)
        equal &= list(a.texts) == list(b.texts)
    return equal


ODD = {
    "a": {
        "start": [0.08, 3, 5.5],
        "end": [2.5, 4.75, 9],
        "text": [' pour, the "oil"\n', "häckseln 切る", "ok 👍"],
    },
    "-b_1": {
        "start": [0, 1, 2, 3, 4, 5],
        "end": [1, 2, 3, 4, 5, 3],
        "text": ["", "  ", "♪ ...", "x", "yes", "no"],
    },
}


@pytest.mark.parametrize("bom", [False, True])
@pytest.mark.parametrize("chunk", [7, 64, 2**20])
def test_json_and_csv_agree(tmp_path: Path, bom: bool, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    path = tmp_path / "caption.json"
    path.write_text(json.dumps(ODD, indent=chunk % 3, ensure_ascii=bom), "utf-8-sig" if bom else "utf-8")
    index, folder = index_narrations(path, tmp_path), NarrationFolder(write_csv(tmp_path, ODD, bom))
    assert same(index, folder)
    assert list(index.ids) == ["a", "-b_1"], "in the order of the file"
    assert list(index.read(0).texts) == ['pour, the "oil"', "häckseln 切る", "ok 👍"]
    assert index.read(0).starts_s.tolist() == pytest.approx([0.08, 3, 5.5])
    assert list(index.read(1).texts) == ["x", "yes"]
    assert index.facts == {"videos": 2, "narrations": 5, "left out": {"end before start": 1, "no words": 3}}


def test_batches_from_json_and_csv_agree(tmp_path: Path) -> None:
    data = tiny(tmp_path)
    write_csv(tmp_path, captions("abcdefg"))
    assert told(epoch(tiny(tmp_path, captions="csv"), 2)) == told(epoch(data, 2))
    assert list(tiny(tmp_path, captions="csv").vocabulary_texts()) == list(data.vocabulary_texts())
    assert next(data.vocabulary_texts()) == "a says 0"
    assert len(list(data.vocabulary_texts())) == 28


GOOD = {"start": [1.0, 3.0], "end": [2.0, 4.0], "text": ["one", "two"]}
BROKEN = {
    "unequal": (GOOD | {"end": [2.0]}, "2 starts, 1 ends and 2 texts"),
    "keyless": ({"start": [1.0], "text": ["one"]}, "lists `start`, `end` and `text`"),
    "no list": (GOOD | {"start": "1.0"}, "lists `start`"),
    "no entry": (None, "lists `start`"),
    "inverted": (GOOD | {"end": [0.5, 1.0]}, "end before start"),
    "endless": (GOOD | {"end": [float("nan"), float("inf")]}, "not finite"),
    "no numbers": (GOOD | {"start": [[1.0], {}]}, "not finite"),
    "silent": (GOOD | {"text": ["", None]}, "no words"),
    "empty": ({"start": [], "end": [], "text": []}, "it is empty"),
    "../up": (GOOD, "plain video name"),
}


def test_broken_entries_are_named_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stored = {"a": GOOD} | {name: entry for name, (entry, _) in BROKEN.items()} | {"b": GOOD, "c": GOOD}
    write_json(tmp_path, stored)
    store(tmp_path / "store", dict.fromkeys("abc", SECONDS))
    with caplog.at_level(logging.INFO, "groundzoo"):
        data = tiny(tmp_path)
    for name, (_, message) in BROKEN.items():
        assert any(repr(name) in r.message and "caption.json" in r.message and message in r.message
                   for r in caplog.records), name  # fmt: skip
    report = data.reports["train"]
    assert (report.official, report.used, report.unit) == (3 + len(BROKEN), 3, "videos")
    assert dict(report.dropped) == {"narrations cannot be used": list(BROKEN)}
    assert {v for batch in epoch(data) for v in batch.video_ids} == set("abc")


def test_one_bad_narration_does_not_cost_its_video(tmp_path: Path) -> None:
    entry = {
        "start": [0, None, "2.5", 1e300, 4, "x", float("nan"), 7],
        "end": [1, 2, "3", 2e300, 3, 6, 7, 8],
        "text": list("abcdefgh"),
    }
    index = index_narrations(write_json(tmp_path, {"a": entry}), tmp_path)
    assert list(index.read(0).texts) == ["a", "c", "h"]
    assert index.facts["left out"] == {"times are not finite numbers": 4, "end before start": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "one JSON object"),
        ("", "one JSON object"),
        ("{}", "not one video"),
        ('{"a": ', "cut short"),
        ('{"a": GOOD, "b": {"start": [1.0, 2', "behind video 'a'.*cut short"),
        ('{"a": GOOD', "cut short"),
        ('{"a": GOOD, "b": {start: 1}, "filler": "............................"}', "behind video 'a'"),
        ('{"a": GOOD "b": 1, "filler": ".............................."}', "its beginning"),
        ('{"a": GOOD} {"b": 1}', "follows"),
    ],
)
@pytest.mark.parametrize("chunk", [5, 2**20])
def test_files_that_are_no_json(
    tmp_path: Path, text: str, message: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    (tmp_path / "caption.json").write_text(text.replace("GOOD", json.dumps(GOOD)))
    with pytest.raises(AnnotationError, match=f"caption.json.*{message}"):
        index_narrations(tmp_path / "caption.json", tmp_path / "cache")
    assert list((tmp_path / "cache").glob("*")) == [], "no half index is left"
    with pytest.raises(AnnotationError, match="does not exist"):
        index_narrations(tmp_path / "captions.json", tmp_path / "cache")


def test_a_string_without_end_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a download that was given its whole length before it began."""
    monkeypatch.setattr(json_stream, "CHUNK", 1000)
    monkeypatch.setattr(json_stream, "LONGEST", 10_000)
    (tmp_path / "a.json").write_text('{"a": "' + "\0" * 5_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(AnnotationError, match="Unterminated string"):
            list(stream_entries(tmp_path / "a.json"))
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()


def test_index_is_made_once_and_again_for_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_json(tmp_path, captions("ab"))
    index_narrations(path, tmp_path / "cache")
    monkeypatch.setattr("groundzoo.datamodules.narration_index.stream_entries", None)
    assert list(index_narrations(path, tmp_path / "cache").ids) == ["a", "b"]
    monkeypatch.undo()
    write_json(tmp_path, captions("abc"))
    assert list(index_narrations(path, tmp_path / "cache").ids) == ["a", "b", "c"]


def test_index_travels_as_its_path(tmp_path: Path) -> None:
    index = index_narrations(write_json(tmp_path, captions([f"v{k}" for k in range(2000)])), tmp_path)
    sent = pickle.dumps(index)
    assert len(sent) < 1000
    assert same(pickle.loads(sent), index)
    assert isinstance(index, NarrationIndex)


def test_memory_does_not_grow_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """200000 narrations, 20 MB of JSON. Python objects of them all would take five times as much."""
    monkeypatch.setattr(json_stream, "CHUNK", 2**18)
    words = "then you take the onion and chop it into very small pieces like this"
    each = 100
    starts = [k * 3.01 for k in range(each)]
    path = tmp_path / "caption.json"
    with path.open("w") as file:
        for v in range(2000):
            texts = [f"{words} {v} {k}" for k in range(each)]
            entry = {"start": starts, "end": [start + 2 for start in starts], "text": texts}
            file.write(("{" if v == 0 else ", ") + f'"video{v:06d}": ' + json.dumps(entry))
        file.write("}")
    assert path.stat().st_size > 20e6
    tracemalloc.start()
    try:
        index = index_narrations(path, tmp_path / "cache")
        assert index.facts["narrations"] == 200_000
        assert sum(len(index.read(k).texts[99]) for k in range(2000)) > 100_000
        assert tracemalloc.get_traced_memory()[1] < 12e6  # of which files are buffered in 7
    finally:
        tracemalloc.stop()


def test_files_by_id_without_objects() -> None:
    files = {f"v{k:03d}": Path(f"/some/where/v{k:03d}.mp4") for k in range(0, 300, 3)} | {"ä": Path("ä.webm")}
    table = FileTable(files)
    assert dict(table) == files
    assert len(table) == len(files)
    assert "v003" in table
    assert all(name not in table for name in ("v004", "", "zzz", "z" * 50))
    assert len(pickle.dumps(table)) < 60 * len(files)
    assert list(Strings.of(["", "a", "\ud800", ""])) == ["", "a", "?", ""]
    with pytest.raises(IndexError):
        Strings.of(["a"])[1]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cooking.csv", "video_id,task_id,category_1\na,1,Food\nno.1,2,Food\n"),
        ("cooking.csv", "\ufeffvideo_path\nfolder/a.mp4\nno.1.webm\n"),
        ("cooking.txt", "\ufeffa\n\n no.1 \n"),
    ],
)
def test_lists_of_videos(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_video_list(tmp_path / name) == ["a", "no.1"]


def test_wrong_lists_of_videos(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("path\na\n")
    with pytest.raises(AnnotationError, match=r"a.csv:1.*video_id"):
        read_video_list(tmp_path / "a.csv")
    with pytest.raises(AnnotationError, match=r"b.txt"):
        read_video_list(tmp_path / "b.txt")


def test_missing_videos_are_counted(tmp_path: Path) -> None:
    write_json(tmp_path, captions("abcdxy") | {"z": None})
    store(tmp_path / "store", dict.fromkeys("abcq", SECONDS))
    report = tiny(tmp_path).reports["train"]
    assert report.counts()["dropped"] == {"no features of the video": 3, "narrations cannot be used": 1}
    assert (report.official, report.used) == (7, 3)
    (tmp_path / "some.txt").write_text("a\nb\nx\nz\nq\nunknown\n")
    data = tiny(tmp_path, video_list="some.txt", batch_size=2)
    dropped = {
        "no features of the video": ["x"],
        "narrations cannot be used": ["z"],
        "no narrations": ["q", "unknown"],
    }
    assert dict(data.reports["train"].dropped) == dropped
    assert data.reports["train"].official == 6
    assert {v for batch in epoch(data) for v in batch.video_ids} == {"a", "b"}
    assert data.provenance()["splits"]["train"]["used"] == 2
    (tmp_path / "some.txt").write_text("x\n")
    with pytest.raises(AnnotationError, match="no narrated video"):
        tiny(tmp_path, video_list="some.txt")


def test_a_video_named_twice_counts_once(tmp_path: Path) -> None:
    first, second, third = map(json.dumps, (GOOD, GOOD, GOOD | {"text": ["x", "y"]}))
    (tmp_path / "caption.json").write_text(f'{{"a": {first}, "b": {second}, "a": {third}}}')
    store(tmp_path / "store", dict.fromkeys("ab", SECONDS))
    data = tiny(tmp_path, batch_size=2)
    assert dict(data.reports["train"].dropped) == {"video comes twice": ["a"]}
    assert sorted(data.vocabulary_texts()) == ["one", "one", "two", "two"]


# ---- videos ---------------------------------------------------------------------------------------------


def test_broken_csv_is_left_out_when_its_turn_comes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_csv(tmp_path, captions("abcdef"))
    (tmp_path / "csv" / "b.csv").write_text("start,stop,text\n1,2,x\n")
    (tmp_path / "csv" / "d.csv").write_text("start,end,text\n1\nx,2,y\n3,4,...\n")
    write_json(tmp_path, {})
    store(tmp_path / "store", dict.fromkeys("abcdef", SECONDS))
    with caplog.at_level(logging.WARNING, "groundzoo"):
        batches = epoch(tiny(tmp_path, captions="csv"))
        assert len(list(tiny(tmp_path, captions="csv").vocabulary_texts())) == 16
    assert [len(batch) for batch in batches] == [3, 3], "others take their places"
    assert all(len(set(batch.video_ids)) == 3 for batch in batches)
    assert {v for batch in batches for v in batch.video_ids} <= set("acef")
    assert "b.csv: no column end" in caplog.text
    assert "d.csv" in caplog.text


def test_narrations_behind_the_end_of_the_video(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One that begins there is not drawn; a video with no other is left out."""
    late = {"start": [SECONDS, 20.0], "end": [11.0, 21.0], "text": ["behind", "far behind"]}
    some = {"start": [9.0, *late["start"]], "end": [30.0, *late["end"]], "text": ["within", *late["text"]]}
    write_json(tmp_path, {"a": some, "b": late, "c": some})
    store(tmp_path / "store", dict.fromkeys("abc", SECONDS))
    data = tiny(tmp_path, batch_size=2)
    with caplog.at_level(logging.WARNING, "groundzoo"):
        texts = [
            (v, t) for k in range(6) for b in epoch(data, k) for v, t in zip(b.video_ids, b.texts, strict=True)
        ]
    assert set(texts) == {("a", "within"), ("c", "within")}
    assert "video b: no narration begins before" in caplog.text


def test_broken_videos_are_replaced_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Live, from real files: batches keep their size, and no video comes twice in one."""
    write_json(tmp_path, captions("abcdef", each=1))
    videos(tmp_path / "videos", "abcdef")
    for name in "be":
        path = tmp_path / "videos" / f"{name}.mp4"
        path.write_bytes(path.read_bytes()[:200])
    options: dict[str, Any] = {"candidates": 4, "candidate_fps": 2.0, "num_workers": 0, "batch_size": 3}
    data = ready(HowTo100M(tmp_path, **options), Cells())
    with caplog.at_level(logging.WARNING, "groundzoo"):
        batches = [batch for number in range(3) for batch in epoch(data, number)]
    assert [len(b) for b in batches] == [3] * 6
    for batch in batches:
        assert len(set(batch.video_ids)) == 3
        assert set(batch.video_ids) <= set("acdf")
        assert [text[0] for text in batch.texts] == batch.video_ids
        assert [sorted("abcdef")[k] for k in batch.index.tolist()] == batch.video_ids
    assert caplog.text.count("b.mp4") == caplog.text.count("e.mp4") == 1, "named once"
    again = ready(HowTo100M(tmp_path, **options), Cells())
    assert [told(epoch(again, 2)), told(epoch(again, 0))] == [told(batches[4:]), told(batches[:2])], (
        "who steps in does not depend on what is known to be broken"
    )
    dataset = ready(HowTo100M(tmp_path, **options), Cells()).train_dataloader().dataset
    assert dataset.__getitems__([5, 1, 3]).index.tolist() == [5, 3, 0], "not 4, which is broken, nor 5 again"
    for name in "acdf":
        (tmp_path / "videos" / f"{name}.mp4").write_bytes(b"nothing")
    with pytest.raises(FeatureError, match="not one video"):
        epoch(ready(HowTo100M(tmp_path, **options), Cells()))


def test_live_frames_and_a_store_show_the_same(tmp_path: Path) -> None:
    write_json(tmp_path, captions("abc", each=1) | {"gone": GOOD})
    videos(tmp_path / "videos", ["a", "b", "c", "unnarrated"])
    options: dict[str, Any] = {"candidates": 4, "candidate_fps": 2.0, "num_workers": 0, "batch_size": 3}
    frozen = Cells(5)
    data = ready(HowTo100M(tmp_path, **options), frozen)
    (live,) = epoch(data)
    assert dict(data.reports["train"].dropped) == {"no video file": ["gone"]}
    assert live.features.vectors is None
    (passes,) = live.features.passes
    assert passes.shape == (3, 4, 1, 3, 6, 6)
    assert passes.dtype == torch.uint8
    stored = ready(HowTo100M(tmp_path, live=False, **options), frozen)
    (kept,) = epoch(stored)
    assert kept.video_ids == live.video_ids
    assert kept.features.grid is not None
    found = frozen(passes.flatten(0, 1)).grid.unflatten(0, (3, 4))[:, :, 0]
    assert kept.features.grid.dtype == torch.float16, "as stored"
    assert torch.allclose(found, kept.features.grid.float(), atol=2e-3)
    assert len(set(kept.features.grid[:, 0, 0, 0, 0].tolist())) == 3, "videos differ"
    (path,) = stored.provenance()["features"]
    assert not any("unnarrated" in text for text in map(str, stored._source.ids)), "only what is needed"  # type: ignore
    trained = ready(HowTo100M(tmp_path, live=False, **options), Cells(5, trainable=True))
    assert epoch(trained)[0].features.passes[0].shape == passes.shape, "a trained encoder is always live"
    assert Path(path).is_dir()


def test_no_videos_or_features(tmp_path: Path) -> None:
    write_json(tmp_path, captions("ab"))
    (tmp_path / "videos").mkdir()
    with pytest.raises(FeatureError, match=r"data.init_args.videos"):
        ready(HowTo100M(tmp_path), Cells())
    data = HowTo100M(tmp_path)
    data.trainer = type("T", (), {"lightning_module": nn.Linear(1, 1)})()
    with pytest.raises(TypeError, match="video_encoder"):
        data.setup("fit")
    with pytest.raises(ValueError, match="candidates=0"):
        HowTo100M(tmp_path, candidates=0)


# ---- sound ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "codec"), [("mkv", "pcm_s16le"), ("mp4", "aac")])
@pytest.mark.parametrize("start_s", [0.0, 0.7, 3.3, 7.9])
def test_sound_of_a_stretch_is_that_of_the_whole(tmp_path: Path, suffix: str, codec: str, start_s: float) -> None:
    """Of a tone that rises, so that every stretch sounds different."""
    rate = 16000
    seconds = np.arange(9 * rate) / rate
    rising = (0.5 * np.sin(2 * np.pi * (200 + 40 * seconds) * seconds)).astype(np.float32)
    path = video_with_sound(tmp_path / f"a.{suffix}", 9.0, [(0.0, rising)], rate, codec=codec)
    whole = torch.cat(list(read_sound(path, rate, 9.0))).float()
    part = torch.cat(list(read_sound(path, rate, 1.5, start_s=start_s))).float()
    first = round(start_s * rate)
    expected = torch.zeros(round(1.5 * rate))
    expected[: len(whole) - first] = whole[first : first + len(part)]
    assert part.shape == expected.shape
    assert (part - expected).abs().mean() < 0.02 * expected.abs().mean()


def test_sound_of_batches(tmp_path: Path) -> None:
    rate = 8000
    write_json(tmp_path, {name: {"start": [5.0], "end": [7.0], "text": ["listen"]} for name in "abc"})
    short = {"d": {"start": [1.0], "end": [2.0], "text": ["listen"]}}
    write_json(tmp_path, json.loads((tmp_path / "caption.json").read_text()) | short)
    (tmp_path / "videos").mkdir()
    loud = tone(2.0, 16000)
    video_with_sound(tmp_path / "videos" / "a.mkv", 10.0, [(5.0, loud)], 16000)
    video_with_sound(tmp_path / "videos" / "b.mkv", 6.0, [(5.0, loud)], 16000)
    videos(tmp_path / "videos", "c", seconds=8.0)
    video_with_sound(tmp_path / "videos" / "d.mkv", 3.0, [(2.0, loud)], 16000)
    options: dict[str, Any] = {"candidates": 8, "candidate_fps": 2.0, "min_time_s": 0.0}
    options |= {"num_workers": 0, "batch_size": 4}
    (batch,) = epoch(ready(HowTo100M(tmp_path, sound=True, **options), Cells(), Loudness(rate=float(rate))))
    assert batch.sound is not None
    assert batch.sound.shape == (4, 4 * rate)
    assert batch.sound.dtype == torch.int16
    loudness = {
        name: batch.sound[b].float().abs().unflatten(0, (8, -1)).mean(1) > 1000
        for b, name in enumerate(batch.video_ids)
    }
    starts = {name: batch.times_s[b, 0].item() - 0.25 for b, name in enumerate(batch.video_ids)}
    assert starts == {"a": 4.0, "b": 2.0, "c": 4.0, "d": 0.0}
    assert loudness["a"].tolist() == [False, False, True, True, True, True, False, False]
    assert loudness["b"].tolist() == [False] * 6 + [True] * 2
    assert not loudness["c"].any(), "no sound is silence"
    assert loudness["d"].tolist() == [False] * 4 + [True] * 2 + [False] * 2, "nothing behind the last picture"
    with pytest.raises(ValueError, match="audio_encoder"):
        ready(HowTo100M(tmp_path, sound=True, **options), Cells())


def test_features_without_files_are_silent(tmp_path: Path) -> None:
    write_json(tmp_path, captions("abc"))
    store(tmp_path / "store", dict.fromkeys("abc", SECONDS))
    options: dict[str, Any] = {"candidates": 8, "num_workers": 0, "batch_size": 3, "features": tmp_path / "store"}
    (batch,) = epoch(ready(HowTo100M(tmp_path, sound=True, **options), None, Loudness(rate=1000.0)))
    assert batch.sound is not None
    assert batch.sound.shape == (3, 1600)
    assert not batch.sound.any()


# ---- evaluation -----------------------------------------------------------------------------------------


class Evaluation(L.LightningDataModule):
    """Notes what is asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def prepare_data(self) -> None:
        assert self.trainer is not None
        self.asked.append("prepare")

    def setup(self, stage: str) -> None:
        assert self.trainer is not None
        self.asked.append(stage)

    def val_dataloader(self) -> Any:
        return ["val"]

    def test_dataloader(self) -> Any:
        return ["test"]

    def predict_dataloader(self) -> Any:
        return ["predict"]

    def provenance(self) -> dict[str, Any]:
        return {"data_set": "Other"}


def test_evaluation_is_another_data_set(tmp_path: Path) -> None:
    other = Evaluation()
    data = tiny(tmp_path, evaluation=other)
    assert other.asked == ["prepare", "fit"]
    assert (data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()) == (
        ["val"],
        ["test"],
        ["predict"],
    )
    assert data.provenance()["evaluation"] == {"data_set": "Other"}
    assert data.provenance()["narrations"]["narrations"] == 28
    json.dumps(data.provenance())


def test_evaluation_needs_no_narrations(tmp_path: Path) -> None:
    """Nobody should have to download a million narrations to test a model."""
    other = Evaluation()
    data = HowTo100M(tmp_path / "nowhere", evaluation=other)
    data.trainer = Trainer()  # type: ignore[assignment]
    data.trainer.state = type("State", (), {"fn": "test"})  # type: ignore[misc, assignment]
    data.prepare_data()
    data.setup("test")
    assert other.asked == ["prepare", "test"]
    assert data.provenance()["splits"] == {}
    with pytest.raises(ValueError, match=r"init_args\.evaluation"):
        HowTo100M(tmp_path).setup("test")


class Learner(L.LightningModule):
    """Sees narrations in a real trainer."""

    def __init__(self) -> None:
        super().__init__()
        self.video_encoder, self.audio_encoder, self.max_cells = Precomputed(5, 1, 1, FPS, grid=(3, 3, 5)), None, 2
        self.scale = nn.Parameter(torch.zeros(1))
        self.seen: list[tuple[int, list[str]]] = []

    def training_step(self, batch: NarrationBatch) -> Any:
        assert batch.features.grid is not None
        assert batch.features.grid.shape == (3, 8, 2, 2, 5)
        self.seen.append((self.current_epoch, batch.texts))
        return (self.scale * batch.features.grid.mean()).sum()

    def on_train_batch_end(self, *_: Any) -> None:
        self.trainer.save_checkpoint(Path(self.trainer.default_root_dir) / f"{self.global_step}.ckpt")

    def validation_step(self, batch: Any) -> None:
        raise AssertionError("there is no validation")

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder: Path, ckpt: Path | None = None) -> Learner:
    data = HowTo100M(folder, features=folder / "store", candidates=8, batch_size=3, num_workers=0)
    trainer = L.Trainer(max_epochs=3, accelerator="cpu", logger=False, enable_progress_bar=False,
                        enable_model_summary=False, default_root_dir=folder, use_distributed_sampler=False,
                        enable_checkpointing=False)  # fmt: skip
    task = Learner()
    trainer.fit(task, data, ckpt_path=ckpt, weights_only=True)
    return task


def test_a_real_trainer_draws_anew_in_every_epoch_and_resumes(tmp_path: Path) -> None:
    write_json(tmp_path, captions("abcdefg"))
    store(tmp_path / "store", dict.fromkeys("abcdefg", SECONDS))
    whole = fit(tmp_path).seen
    assert [number for number, _ in whole] == [0, 0, 1, 1, 2, 2]
    assert len({tuple(texts) for _, texts in whole}) == 6
    assert fit(tmp_path, tmp_path / "3.ckpt").seen == whole[3:], "in the middle of an epoch, to the narration"


def test_processes_do_not_wait_for_a_batch_that_cannot_be_filled(tmp_path: Path) -> None:
    """One process goes on with what there is; with two, the other would wait for gathered negatives for ever."""
    write_json(tmp_path, captions("abcd", each=1))
    videos(tmp_path / "videos", ["a", "b", "c", "d"])
    (tmp_path / "videos" / "d.mp4").write_bytes(b"broken")
    data = ready(HowTo100M(tmp_path, candidates=4, candidate_fps=2.0, num_workers=0, batch_size=4), Cells(5))
    assert [len(batch) for batch in epoch(data)] == [3]
    loader = NarrationLoader(data._training(), 2, 0, 0, processes=2)
    assert [len(batch) for batch in loader] == [2]
    data._training().whole_batches = True
    with pytest.raises(FeatureError, match="only 3 readable videos for a batch of 4"):
        data._training().__getitems__([0, 1, 2, 3])


def test_one_video_is_no_batch(tmp_path: Path) -> None:
    write_json(tmp_path, captions("ab", each=1))
    videos(tmp_path / "videos", ["a", "b"])
    data = ready(HowTo100M(tmp_path, num_workers=0, batch_size=1), Cells(5))
    with pytest.raises(ValueError, match=r"nothing to be told from: raise data\.init_args\.batch_size"):
        data.train_dataloader()
