"""A million records: read once, kept on disk, resumable; broken ones and missing videos are counted."""

from __future__ import annotations

import gzip
import json
import logging
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from grounded_files import ready, record, write_lines, write_videos

from groundzoo.datamodules import howtoground
from groundzoo.datamodules.annotations import AnnotationError
from groundzoo.datamodules.grounded_index import TOLD, ClipIndex
from groundzoo.datamodules.howtoground import HowToGround1M


def shards(folder: Path, *parts: list[Any]) -> Path:
    for k, records in enumerate(parts):
        path = write_lines(folder / f"part-{k:05}.jsonl", records)
        if k % 2:
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    return folder


def test_shards_packed_or_not(tmp_path: Path) -> None:
    shards(tmp_path, [record("a"), record("b")], [record("c")], [record("d")])
    clips = HowToGround1M(tmp_path).clips("train")
    assert clips is not None
    assert list(clips.clip_ids) == ["a_0", "b_0", "c_0", "d_0"]
    assert clips.read(2).clip_id == "c_0"
    assert clips.read(2).boxes[3] == [(0, [3, 1, 23, 41]), (1, [30, 2, 40, 12])]
    assert clips.name == f"{tmp_path / 'part-00000.jsonl'} and 2 more"


def test_files_are_chosen_by_their_names(tmp_path: Path) -> None:
    shards(tmp_path, [record("a")], [record("b")], [record("c")])
    data = HowToGround1M(tmp_path, train="part-0000[01].jsonl*", val="part-00002.jsonl")
    train, val = data.clips("train"), data.clips("val")
    assert train is not None
    assert val is not None
    assert (list(train.video_ids), list(val.video_ids)) == (["a", "b"], ["c"])
    assert data.clips("test") is None
    with pytest.raises(AnnotationError, match=r"no file none\*"):
        HowToGround1M(tmp_path, train="none*").clips("train")


def test_what_cannot_be_used_is_told_with_its_place(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shards(tmp_path, [record("a"), record("b", fps=-1), record("a")], [record("c", height=0)])
    with (tmp_path / "part-00000.jsonl").open("a") as file:
        file.write("not json\n")
    with caplog.at_level(logging.WARNING):
        clips = HowToGround1M(tmp_path).clips("train")
    assert clips is not None
    assert list(clips.clip_ids) == ["a_0"]
    places = [
        r"part-00000.jsonl:2, clip b_0",
        "clip a_0 comes twice",
        "part-00000.jsonl:4",
        "jsonl.gz:1, clip c_0",
    ]
    for place, message, told in zip(places, clips.broken, caplog.messages, strict=True):
        assert place in message
        assert told == f"left out: {message}"
    caplog.clear()
    shards(tmp_path / "many", [record("a"), *(record("b", fps=-1) for _ in range(3 * TOLD))])
    with caplog.at_level(logging.WARNING):
        clips = HowToGround1M(tmp_path / "many").clips("train")
    assert clips is not None
    assert len(clips.broken) == 3 * TOLD
    assert len(caplog.messages) == TOLD, "the log is not flooded"


def test_nothing_to_use(tmp_path: Path) -> None:
    shards(tmp_path, [record("b", fps=-1)])
    with pytest.raises(AnnotationError, match=r"not one clip\. .*clip b_0"):
        HowToGround1M(tmp_path).clips("train")
    shards(tmp_path / "x", [])
    with pytest.raises(AnnotationError, match="The file is empty"):
        HowToGround1M(tmp_path / "x").clips("train")
    assert not list((tmp_path / "x" / "index").glob("clips-*")), "no index is left behind"
    assert not list((tmp_path / "x" / "index").glob(".clips-*"))


def test_files_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards(tmp_path, [record("a")], [record("b")])
    read: list[str] = []
    whole = howtoground.read_clips

    def noting(files: list[Path]) -> Any:
        read.append(" ".join(path.name for path in files))
        return whole(files)

    monkeypatch.setattr(howtoground, "read_clips", noting)
    for _ in range(3):
        HowToGround1M(tmp_path).clips("train")
    assert len(read) == 1
    write_lines(tmp_path / "part-00000.jsonl", [record("a"), record("e")])
    clips = HowToGround1M(tmp_path).clips("train")
    assert clips is not None
    assert list(clips.video_ids) == ["a", "e", "b"], "a file that changed is read anew"
    os.utime(tmp_path / "part-00001.jsonl.gz", (1, 1))
    HowToGround1M(tmp_path).clips("train")
    write_lines(tmp_path / "part-00003.jsonl", [record("g")])
    HowToGround1M(tmp_path).clips("train")
    assert len(read) == 4


def test_a_run_that_is_stopped_leaves_no_half_an_index(tmp_path: Path) -> None:
    shards(tmp_path, [record("a", k) for k in range(300)])
    whole = (tmp_path / "part-00000.jsonl").read_bytes()
    packed = tmp_path / "part-00009.jsonl.gz"
    packed.write_bytes(gzip.compress(whole)[:-500])
    with pytest.raises(AnnotationError, match="cannot be read behind line"):
        HowToGround1M(tmp_path).clips("train")
    assert not list((tmp_path / "index").iterdir())
    packed.unlink()
    clips = HowToGround1M(tmp_path).clips("train")
    assert clips is not None
    assert len(clips) == 300


def test_memory_does_not_grow_with_the_records(tmp_path: Path) -> None:
    """Five times as many records are indexed, opened and read in the same memory."""
    peaks = []
    long = record(frames=30)
    for name, count in (("warm", 5), ("few", 60), ("many", 300)):
        path = write_lines(tmp_path / f"{name}.jsonl", [long | {"clip_id": k} for k in range(count)])
        tracemalloc.start()
        clips = HowToGround1M(tmp_path, train=path.name).clips("train")
        assert clips is not None
        assert sum(len(clips.read(k).boxes) for k in range(len(clips))) == count * 30
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert path.stat().st_size > 0.4e6
    assert peaks[2] - peaks[1] < 0.15e6, "a hash of every name, but no records"


def test_an_index_can_be_handed_to_another_process(tmp_path: Path) -> None:
    shards(tmp_path, [record("a"), record("b")])
    clips = HowToGround1M(tmp_path).clips("train")
    assert clips is not None
    function, arguments = clips.__reduce__()
    assert function is ClipIndex
    assert function(*arguments).read(1) == clips.read(1)


def test_training_on_what_videos_there_are(tmp_path: Path) -> None:
    videos = write_videos(tmp_path / "videos", "abc")
    (videos / "b.mp4").write_bytes(b"broken")
    shards(tmp_path, [record(name, k) for name in "abxyz" for k in range(2)], [record("c")])
    data = ready(HowToGround1M(tmp_path, num_workers=0, batch_size=2), frames=3)
    assert data.reports["train"].counts()["dropped"] == {"no video file": 6}
    assert data.val_dataloader() == []
    loader = data.train_dataloader()
    loader.order.set_epoch(0)
    batches = [batch.clip_ids for batch in loader]
    assert [len(ids) for ids in batches] == [2, 2, 1]
    assert all(len(set(ids)) == len(ids) for ids in batches)
    assert {name for ids in batches for name in ids} == {"a_0", "a_1", "c_0"}
    with pytest.raises(AnnotationError, match="no annotation of the split 'test'"):
        data.setup("test")
    with pytest.raises(AnnotationError, match="no annotation of the split 'val'"):
        data.setup("validate")


def test_training_goes_on_where_it_stopped(tmp_path: Path) -> None:
    write_videos(tmp_path / "videos", "abcdef")
    shards(tmp_path, [record(name) for name in "abc"], [record(name) for name in "def"])

    def loader() -> Any:
        made = ready(HowToGround1M(tmp_path, num_workers=0), frames=3).train_dataloader()
        made.order.set_epoch(2)
        return made

    whole = [(b.clip_ids, b.times_s.tolist()) for b in loader()]
    running = loader()
    iterator = iter(running)
    for _ in range(4):
        next(iterator)
    resumed = loader()
    resumed.load_state_dict(json.loads(json.dumps(running.state_dict())))
    assert [(b.clip_ids, b.times_s.tolist()) for b in resumed] == whole[4:]
