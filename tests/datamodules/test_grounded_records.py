"""Records of grounded clips: official keys, files that are broken in every way, and pickles that are dangerous."""

from __future__ import annotations

import gzip
import json
import pickle
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grounded_files import record, write_lines

from groundzoo.datamodules.annotations import AnnotationError
from groundzoo.datamodules.grounded_records import GroundedClip, annotated_frames, parse_record, read_records
from groundzoo.datamodules.pickled_records import convert, read_pickle

# ---- one record -----------------------------------------------------------------------------------------


def test_a_record() -> None:
    clip = parse_record(record("vid", 3, frames=4, start=50), "f:1")
    assert (clip.clip_id, clip.video_id, clip.video, clip.fps, clip.size) == (
        "vid_3",
        "vid",
        "vid",
        25.0,
        (64, 48),
    )
    assert list(clip.frames) == [50, 55, 60, 65]
    assert clip.caption.text == "a man throws the ball"
    assert clip.caption.phrases == ["a man", "the ball"]
    assert clip.boxes[0] == [(0, [0, 1, 20, 41]), (1, [30, 2, 40, 12])]
    assert clip.boxes[1] == [(0, [1, 1, 21, 41])]
    assert GroundedClip.from_json(clip.to_json()) == clip
    assert isinstance(GroundedClip.from_json(clip.to_json()).frames, range)


def test_the_name_of_the_file_may_differ_from_that_of_the_video() -> None:
    assert parse_record(record(video_fname="folder/x.y.webm"), "f").video == "x.y"
    left = record()
    del left["video_fname"], left["phrases"]
    assert parse_record(left, "f").video == "a"
    assert parse_record(left, "f").caption.phrases == ["a man", "the ball"], "all that are tagged"


def test_several_boxes_of_a_phrase_stay_several() -> None:
    boxes, labels = [[[5, 5, 9, 9], [0, 0, 1, 1], [2, 2, 3, 3]]], [["the ball", "A man", "the ball"]]
    clip = parse_record(record(frames=1, bboxes=boxes, labels=labels), "f")
    assert clip.boxes == [[(0, [0, 0, 1, 1]), (1, [5, 5, 9, 9]), (1, [2, 2, 3, 3])]]


def test_words_tagged_twice_are_one_phrase() -> None:
    tagged = "<p>a man</p> and <p>a man</p> with <p>the ball</p>"
    clip = parse_record(record(tagged_caption=tagged, phrases=["a man", "the ball", "a man"]), "f")
    assert clip.caption.spans == ((0, 5), (21, 29))


@pytest.mark.parametrize(
    ("start", "end", "fps", "count", "expected"),
    [
        (60, 126, 30.0, 12, range(60, 127, 6)),
        (60, 120, 30.0, 10, range(60, 120, 6)),  # the end itself has no boxes
        (0, 24, 29.97, 5, range(0, 25, 5)),
        (10, 12, 4.0, 3, range(10, 13)),  # fewer frames per second than are annotated
        (7, 7, 25.0, 1, range(7, 8, 5)),
    ],
)
def test_annotated_frames(start: int, end: int, fps: float, count: int, expected: range) -> None:
    assert annotated_frames(start, end, fps, count) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bboxes": None}, "bboxes"),
        ({"bboxes": [[]] * 9}, "same length"),
        ({"bboxes": [[]] * 8, "labels": [[]] * 8}, "are 9 at a stride of 5, but `bboxes` has 8 entries"),
        ({"bboxes": [[]] * 11, "labels": [[]] * 11}, "11 entries"),
        ({"labels": [["a man"]] + [[]] * 9}, "frame 0 has 2 boxes, but 1 labels"),
        ({"labels": [["a dog", "the ball"], *record()["labels"][1:]]}, "'a dog' of frame 0"),
        ({"bboxes": [[[0, 1, 2], [0, 0, 1, 1]], *record()["bboxes"][1:]]}, r"box \[0, 1, 2\] of frame 0"),
        ({"bboxes": [[[0, 1, 2, float("nan")], [0, 0, 1, 1]], *record()["bboxes"][1:]]}, "of frame 0"),
        ({"bboxes": [], "labels": []}, "0 entries"),
        ({"fps": 0}, "positive"),
        ({"width": float("inf")}, "positive"),
        ({"height": "tall"}, "tall"),
        ({"clip_start_frame": -5, "clip_end_frame": 40}, "entries"),
        ({"video_fname": "../../etc/x.mp4", "video_id": "../b"}, "path parts are refused"),
        ({"tagged_caption": "a man throws"}, "'A man' of frame 0"),
    ],
)
def test_a_bad_record_says_where_and_what(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(AnnotationError, match=message) as caught:
        parse_record(record(**changes), "file.jsonl:7")
    assert "file.jsonl:7, clip " in str(caught.value)


@pytest.mark.parametrize("key", ["fps", "width", "tagged_caption", "labels", "clip_end_frame"])
def test_a_missing_key_is_named(key: str) -> None:
    left = record()
    del left[key]
    with pytest.raises(AnnotationError, match=f"file.jsonl:7, clip a_0: the record has no '{key}'"):
        parse_record(left, "file.jsonl:7")


@pytest.mark.parametrize("value", [None, [], "text", {"video_id": "a"}])
def test_what_is_no_record_at_all(value: Any) -> None:
    with pytest.raises(AnnotationError, match="f:1: expected a record"):
        parse_record(value, "f:1")


# ---- files ----------------------------------------------------------------------------------------------


def test_all_forms_hold_the_same(tmp_path: Path) -> None:
    records = [record(clip=k) for k in range(3)]
    by_key = json.dumps({f"a_{r['clip_id']}": r for r in records})
    lines = write_lines(tmp_path / "x.jsonl", records)
    (tmp_path / "z.jsonl.gz").write_bytes(gzip.compress(lines.read_bytes()))
    (tmp_path / "y.json").write_text(by_key)
    (tmp_path / "w.json.gz").write_bytes(gzip.compress(by_key.encode()))
    found = {
        name: list(read_records(tmp_path / name)) for name in ("x.jsonl", "z.jsonl.gz", "y.json", "w.json.gz")
    }
    for entries in found.values():
        assert [entry for _, entry in entries] == records
    assert [place for place, _ in found["x.jsonl"]] == [f"{lines}:{k}" for k in (1, 2, 3)]
    assert found["y.json"][1][0] == f"{tmp_path / 'y.json'}, key 'a_1'"


def test_a_broken_line_costs_one_record(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "x.jsonl", [record(clip=0)])
    with path.open("a") as file:
        file.write('{"video_id": "a", \n\n' + json.dumps(record(clip=1)) + "\n")
    (_, first), (where, second), (third, last) = read_records(path)
    assert (first["clip_id"], last["clip_id"]) == (0, 1)
    assert isinstance(second, AnnotationError)
    assert where == f"{path}:2"
    assert str(second).startswith(f"{path}:2: not a line of JSON")
    assert third == f"{path}:4", "empty lines count"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    whole = gzip.compress("".join(json.dumps(record(clip=k)) + "\n" for k in range(2000)).encode())
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AnnotationError, match=r"cut.jsonl.gz: cannot be read behind line \d+.*copy it again"):
        list(read_records(tmp_path / "cut.jsonl.gz"))
    (tmp_path / "plain.jsonl.gz").write_text("{}")
    with pytest.raises(AnnotationError, match=r"plain.jsonl.gz: cannot be read behind line 0"):
        list(read_records(tmp_path / "plain.jsonl.gz"))
    with pytest.raises(AnnotationError, match=r"none.jsonl does not exist"):
        list(read_records(tmp_path / "none.jsonl"))
    (tmp_path / "x.pkl").write_bytes(b"")
    with pytest.raises(AnnotationError, match=r"convert IN.pkl OUT.jsonl"):
        list(read_records(tmp_path / "x.pkl"))
    (tmp_path / "list.json.gz").write_bytes(gzip.compress(b"[1]"))
    with pytest.raises(AnnotationError, match="one object"):
        list(read_records(tmp_path / "list.json.gz"))


# ---- pickles --------------------------------------------------------------------------------------------


def with_arrays(clip: int = 0) -> dict[str, Any]:
    """A record as the authors' files may have it: arrays of numbers, of objects, of different lengths."""
    plain = record(clip=clip)
    words = np.empty(len(plain["labels"]), dtype=object)
    words[:] = [np.array(names, dtype=object) for names in plain["labels"]]
    return plain | {
        "fps": np.float64(25),
        "width": np.int32(64),
        "caption": np.str_(plain["caption"]),
        "phrases": np.array(plain["phrases"], dtype=object),
        "bboxes": [np.array(boxes, dtype=np.float32) for boxes in plain["bboxes"]],
        "labels": words,
    }


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_the_authors_form(tmp_path: Path, protocol: int) -> None:
    source = tmp_path / "x.pkl"
    source.write_bytes(pickle.dumps({f"a_{k}": with_arrays(k) for k in range(2)}, protocol=protocol))
    convert(source, tmp_path / "x.jsonl")
    clips = [parse_record(entry, where) for where, entry in read_records(tmp_path / "x.jsonl")]
    assert clips == [parse_record(record(clip=k), "") for k in range(2)]


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype=">i2").reshape(2, 3, 4),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array([["ab", "c"]]),
        np.array([True, False]),
        np.zeros((0, 4)),
        np.float32(0.5),
        np.array(7, dtype=np.uint8),
        np.arange(10)[::3],
    ],
    ids=str,
)
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_arrays_become_lists(tmp_path: Path, array: Any, protocol: int) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps([array], protocol=protocol))
    assert read_pickle(tmp_path / "x.pkl") == [array.tolist()]


def test_names_of_older_numpy(tmp_path: Path) -> None:
    data = pickle.dumps([np.arange(3), np.float64(1)], protocol=2).replace(b"numpy._core", b"numpy.core")
    assert b"numpy.core" in data
    (tmp_path / "x.pkl").write_bytes(data)
    assert read_pickle(tmp_path / "x.pkl") == [[0, 1, 2], 1.0]


class Calls:
    """An object whose pickle calls a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_pickles_that_run_programs_are_refused(tmp_path: Path, protocol: int) -> None:
    import os
    import subprocess

    victim, source, out = tmp_path / "victim", tmp_path / "x.pkl", tmp_path / "x.jsonl"
    attacks = [
        Calls(os.system, f"touch {victim}"),
        Calls(subprocess.check_call, ["touch", str(victim)]),
        Calls(eval, f"open({str(victim)!r}, 'w')"),
        Calls(exec, f"open({str(victim)!r}, 'w')"),
        Calls(open, str(victim), "w"),
        Calls(Path.touch, victim),
        Calls(np.save, str(victim), 1),
        Calls(np.memmap, str(victim), "u1", "w+", 0, 9),
        Calls(getattr, "", "upper"),
        Calls(bytearray, 2**40),
    ]
    for attack in attacks:
        source.write_bytes(pickle.dumps({"a_0": record(caption=attack)}, protocol=protocol))
        with pytest.raises(AnnotationError, match=r"x\.pkl: refused \(UnpicklingError: it asks for"):
            convert(source, out)
    assert not victim.exists()
    assert list(tmp_path.iterdir()) == [source], "nothing half-written is left"


def test_stand_ins_cannot_be_turned_against_us(tmp_path: Path) -> None:
    """Hand-made pickles: states of the wrong kind, types that own memory, codecs, persistent objects."""
    array, source = b"cnumpy._core.multiarray\n_reconstruct\n(tR", tmp_path / "x.pkl"
    kind = b"cnumpy\ndtype\n(V%s\ntR"
    text = b"(I1\n(I1\nt" + kind + b"I00\nS'abcdefgh'\ntb."
    attacks = [
        array + text % b"O8",  # pointers out of bytes
        array + text % b"V8",
        array + text % b"M8[s]",
        array + text % b"f4",  # another length than the shape tells
        array + b"I7\nb.",
        b"cnumpy\ndtype\nI7\nb.",
        b"cnumpy\ndtype\n.",
        b"c_codecs\nencode\n(Vx\nVzlib_codec\ntR.",
        b"Psomething\n.",
        b"(dVa\ncbuiltins\nset\n(tRs.",
        b"",
        b"\x80\x05garbage",
        b"N.trailing"[:1],
    ]
    for attack in attacks:
        source.write_bytes(attack)
        with pytest.raises(AnnotationError, match="refused"):
            read_pickle(source)


def test_a_folder_of_pickles_with_one_record_each(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for k in range(3):
        (tmp_path / "in" / f"{k}.pkl").write_bytes(pickle.dumps(with_arrays(k)))
    convert(tmp_path / "in", tmp_path / "x.jsonl")
    assert [entry["clip_id"] for _, entry in read_records(tmp_path / "x.jsonl")] == [0, 1, 2]


def test_nothing_to_convert(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(AnnotationError, match="no record"):
        convert(tmp_path / "in", tmp_path / "x.jsonl")
    with pytest.raises(AnnotationError, match=r"end in .jsonl"):
        convert(tmp_path / "in", tmp_path / "x.json")
    with pytest.raises(AnnotationError, match="does not exist"):
        convert(tmp_path / "none.pkl", tmp_path / "x.jsonl")
    (tmp_path / "x.pkl").write_bytes(pickle.dumps([1]))
    with pytest.raises(AnnotationError, match="a dictionary with a record per clip"):
        convert(tmp_path / "x.pkl", tmp_path / "x.jsonl")
    assert not (tmp_path / "x.jsonl").exists()


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_conversion_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"a_0": with_arrays()}))
    monkeypatch.setattr(sys, "argv", ["x", "convert", str(tmp_path / "x.pkl"), str(tmp_path / "x.jsonl")])
    runpy.run_module("groundzoo.datamodules.grounded_records", run_name="__main__")
    assert len(list(read_records(tmp_path / "x.jsonl"))) == 1
