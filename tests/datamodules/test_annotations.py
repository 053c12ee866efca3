"""Annotation files: the official ones give the official numbers, odd ones are repaired, dropped or named."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import pytest
from tiny_grounding import write_charades

from groundzoo.datamodules.activitynet_captions import ActivityNetCaptions
from groundzoo.datamodules.annotations import (
    AnnotationError,
    Query,
    SplitReport,
    check_video_id,
    clean,
    read_moments_json,
)
from groundzoo.datamodules.charades_sta import CharadesSTA
from groundzoo.datamodules.tacos import TACoS
from groundzoo.zoo.text.word_lstm import WordLSTM

END, EMPTY = "end after the video's end", "moment is empty or inverted"


def counts(queries: list[Query], training: bool) -> SplitReport:
    report = SplitReport("x")
    report.used = len(clean(queries, report, training))
    return report


# ---- official files ------------------------------------------------------------------------------------


@pytest.fixture
def charades(shared_data: Path) -> CharadesSTA:
    return CharadesSTA(shared_data / "charades_sta", select_on_test=True, vocabulary_from="all")


def test_charades_sta(charades: CharadesSTA) -> None:
    train, test = charades.read("train"), charades.read("test")
    assert (len(train), len(test)) == (12408, 3720)
    assert len({q.video_id for q in train}) == 5338
    assert len({q.video_id for q in test}) == 1334
    assert len({q.query_id for q in train + test}) == 12408 + 3720
    assert charades.read("val") == test
    first = (charades.root / "charades_sta_train.txt").read_text().split("\n")[0]
    assert first == f"{train[0].video_id} {train[0].start_s} {train[0].end_s}##{train[0].text}"


def test_what_is_wrong_in_charades_sta(charades: CharadesSTA) -> None:
    report = counts(charades.read("train"), training=True)
    assert len(report.repaired[END]) == 1768
    assert report.repaired.keys() == {END}
    inverted = [q for q in charades.read("train") if q.end_s < q.start_s]
    assert Counter(q.video_id for q in inverted) == {"LEOL6": 1, "IOL8Q": 1, "AKKWU": 2}
    assert sum(q.start_s >= q.duration_s for q in charades.read("train")) == 3  # among the inverted ones
    assert sorted(report.dropped[EMPTY]) == sorted(q.query_id for q in inverted)
    assert report.used == 12404

    report = counts(charades.read("test"), training=False)
    assert len(report.repaired[END]) == 543
    assert report.dropped == {}
    assert report.used == 3720


def test_two_sources_of_durations(charades: CharadesSTA) -> None:
    other = CharadesSTA(charades.root, durations="csv", select_on_test=True)
    pairs = [
        (a, b) for split in ("train", "test") for a, b in zip(charades.read(split), other.read(split), strict=True)
    ]
    assert all((a.query_id, a.text, a.start_s) == (b.query_id, b.text, b.start_s) for a, b in pairs)
    differences = [abs(a.duration_s - b.duration_s) for a, b in pairs]
    assert 0.01 < sum(differences) / len(differences) < 0.5
    assert 0.9 < max(differences) < 1.1


def test_vocabulary_of_all_splits_is_the_released_one(charades: CharadesSTA) -> None:
    released = json.loads((charades.root / "Charades_word2id.json").read_text())
    for module in (charades, CharadesSTA(charades.root, vocabulary_from="all")):  # whatever is held out
        encoder = WordLSTM(2, 2)
        encoder.fit_vocabulary(module.vocabulary_texts())
        words = encoder.vocabulary
        assert len(words) == 1301
        assert {word: k for k, word in enumerate(words, start=1)} == {k: v for k, v in released.items() if v > 0}
    train = WordLSTM(2, 2)
    train.fit_vocabulary(CharadesSTA(charades.root).vocabulary_texts())
    assert 900 < len(train.vocabulary) < 1301


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.3])
def test_held_out_videos(shared_data: Path, fraction: float) -> None:
    def videos(split: str, **options: int) -> set[str]:
        module = CharadesSTA(shared_data / "charades_sta", val_fraction=fraction, **options)
        return {q.video_id for q in module.read(split)}

    train, val = videos("train"), videos("val")
    assert not train & val
    assert len(train | val) == 5338
    deviation = math.sqrt(5338 * fraction * (1 - fraction))
    assert abs(len(val) - 5338 * fraction) < 4 * deviation
    assert videos("val") == val
    assert videos("val", seed=1) != val


@pytest.mark.parametrize(
    ("split", "official", "videos", "ends"),
    [("train", 37421, 10009, 261), ("val", 17505, 4917, 134), ("test", 17031, 4885, 111)],
)
def test_activitynet_captions(shared_data: Path, split: str, official: int, videos: int, ends: int) -> None:
    queries = ActivityNetCaptions(shared_data / "anet_captions").read(split)
    assert (len(queries), len({q.video_id for q in queries})) == (official, videos)
    report = counts(queries, training=split == "train")
    assert len(report.repaired[END]) == ends
    assert all(q.text == q.text.strip() for q in queries)
    if split == "train":
        assert report.dropped == {
            EMPTY: ["v_N7ppHQNikv8#2", "v_4rKTw99bM8g#1", "v_0bosp4-pyTM#3", "v_rhOtqArO-3Y#5"]
        }
        assert report.used == official - 4
    else:
        assert report.used == official


def test_activitynet_splits_swap(shared_data: Path) -> None:
    swapped = ActivityNetCaptions(shared_data / "anet_captions", val_split="val_2", test_split="val_1")
    assert (len(swapped.read("val")), len(swapped.read("test"))) == (17031, 17505)


@pytest.mark.parametrize(
    ("split", "official", "videos", "ends"), [("train", 9790, 75, 43), ("val", 4436, 27, 0), ("test", 4001, 25, 5)]
)
def test_tacos(shared_data: Path, split: str, official: int, videos: int, ends: int) -> None:
    root = shared_data / "tacos"
    queries = TACoS(root).read(split)
    assert (len(queries), len({q.video_id for q in queries})) == (official, videos)
    assert len(counts(queries, training=False).repaired[END]) == ends
    name, video = next(iter(json.loads((root / f"{split}.json").read_text()).items()))
    q = queries[0]
    assert q.video_id + ".avi" == name
    assert [q.start_s * video["fps"], q.end_s * video["fps"]] == pytest.approx(video["timestamps"][0])
    assert q.duration_s == pytest.approx(video["num_frames"] / 29.4)
    assert all(45 < q.duration_s < 1500 for q in queries)


# ---- odd files of Charades-STA -------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_charades(tmp_path / "charades")


def read(root: Path, *lines: str | bytes) -> list[Query]:
    text = b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines)
    (root / "charades_sta_test.txt").write_bytes(text)
    return CharadesSTA(root).read("test")


@pytest.mark.parametrize(
    "line",
    [
        "VID01 1.0##a person",
        "VID01 1.0 2.0 a person",
        "VID01 1.0 2.0 3.0##a person",
        "VID01 one 2.0##a person",
        "1.0 2.0##a person",
        "##",
    ],
)
def test_malformed_line_is_named(root: Path, line: str) -> None:
    with pytest.raises(AnnotationError, match=r"charades_sta_test\.txt:2: .*is not `VID start end##sentence`"):
        read(root, "VID00 0.0 1.0##fine.", line, "VID00 0.0 1.0##fine.")


@pytest.mark.parametrize("name", ["../VID01", "/etc/passwd", "..", "a\\b", "C:x", "VI\0D", "a*"])
def test_names_that_are_paths_are_refused(root: Path, name: str) -> None:
    with pytest.raises(AnnotationError, match=r"charades_sta_test\.txt:1: .*not a plain video name"):
        read(root, f"{name} 0.0 1.0##a person.")


@pytest.mark.parametrize("name", ["", ".", "a\nb", " a", "a ", "a/b", 'a"b', "a|b"])
def test_names_that_are_no_file_names_are_refused(name: str) -> None:
    with pytest.raises(AnnotationError, match=r"here: .*not a plain video name"):
        check_video_id(name, "here")
    assert check_video_id("v_-a.b c", "here") == "v_-a.b c"


def test_unknown_video_is_named(root: Path) -> None:
    with pytest.raises(AnnotationError, match=r":2: video ZEBRA has no duration in the json file"):
        read(root, "VID00 0.0 1.0##a.", "ZEBRA 0.0 1.0##a.")


def test_byte_order_mark_windows_lines_emoji_and_odd_blanks(root: Path) -> None:
    queries = read(
        root,
        "\ufeffVID00 0.0 1.0##a person 🚪 café.\r",
        "\r",
        "VID00 2.0 3.0##one\u2028two\x0bthree\x85##four.\r",
        "VID01  4.0\t5.0##" + "very " * 20000 + "long.",
        "",
    )
    assert [q.query_id for q in queries] == ["VID00#0", "VID00#1", "VID01#0"]
    assert queries[0].text == "a person 🚪 café."
    assert queries[1].text == "one\u2028two\x0bthree\x85##four."
    assert len(queries[2].text) > 100_000


def test_other_encodings_and_missing_files(root: Path) -> None:
    with pytest.raises(AnnotationError, match=r"charades_sta_test\.txt: not UTF-8"):
        read(root, b"VID00 0.0 1.0##caf\xe9.")
    (root / "charades_sta_test.txt").unlink()
    with pytest.raises(AnnotationError, match=r"charades_sta_test\.txt does not exist"):
        CharadesSTA(root).read("test")
    with pytest.raises(AnnotationError, match=r"Charades_v1_train\.csv does not exist; use durations: json"):
        CharadesSTA(root, durations="csv").read("train")
    (root / "Charades_duration.json").write_text("{")
    with pytest.raises(AnnotationError, match=r"Charades_duration\.json: not a JSON file"):
        CharadesSTA(root).read("train")


@pytest.mark.parametrize("text", ["[1, 2]", '{"VID00": "long"}', '{"VID00": null}'])
def test_durations_that_are_none(root: Path, text: str) -> None:
    (root / "Charades_duration.json").write_text(text)
    with pytest.raises(AnnotationError, match=r"Charades_duration\.json: expected"):
        CharadesSTA(root).read("train")


@pytest.mark.parametrize("text", ["id,seconds\nVID00,3\n", "id,length\nVID00,\n", "id,length\nVID00\n"])
def test_csv_without_lengths(root: Path, text: str) -> None:
    (root / "Charades_v1_train.csv").write_text(text)
    with pytest.raises(AnnotationError, match=r"Charades_v1_train\.csv: columns"):
        CharadesSTA(root, durations="csv").read("train")


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1])
def test_val_fraction_out_of_range(root: Path, fraction: float) -> None:
    with pytest.raises(ValueError, match="must lie between 0 and 1"):
        CharadesSTA(root, val_fraction=fraction)


# ---- what becomes of odd moments -----------------------------------------------------------------------


def query(start: float, end: float, text: str = "a", duration: float = 10.0) -> Query:
    return Query("v#0", "v", text, start, end, duration)


@pytest.mark.parametrize(
    ("q", "moment", "repaired", "dropped_from_training", "dropped_from_test"),
    [
        (query(1, 2), (1, 2), [], None, None),
        (query(0, 10), (0, 10), [], None, None),
        (query(-1, 2), (0, 2), ["start before 0"], None, None),
        (query(1, 12), (1, 10), [END], None, None),
        (query(-1, 12), (0, 10), ["start before 0", END], None, None),
        (query(3, 3), (3, 3), [], EMPTY, None),
        (query(5, 3), (5, 3), [], EMPTY, None),
        (query(11, 12), (11, 10), [END], EMPTY, None),
        (query(1, 2, ""), (1, 2), [], "empty sentence", None),
        (query(math.nan, 2), None, [], "times are not finite numbers", "times are not finite numbers"),
        (query(1, math.inf), None, [], "times are not finite numbers", "times are not finite numbers"),
        (query(1, 2, duration=0.0), None, [], "times are not finite numbers", "times are not finite numbers"),
        (query(1, 2, duration=-3.0), None, [], "times are not finite numbers", "times are not finite numbers"),
    ],
)
def test_clean(
    q: Query,
    moment: tuple[float, float] | None,
    repaired: list[str],
    dropped_from_training: str | None,
    dropped_from_test: str | None,
) -> None:
    for training, reason in ((True, dropped_from_training), (False, dropped_from_test)):
        report = SplitReport("x")
        kept = clean([q], report, training)
        assert [(k.start_s, k.end_s) for k in kept] == ([] if reason else [moment])
        assert report.dropped == ({reason: ["v#0"]} if reason else {})
        told = [r for r in report.repaired if "kept for evaluation" not in r]
        assert told == repaired
        assert any("kept for evaluation" in r for r in report.repaired) == (
            not training and reason is None and dropped_from_training is not None
        )


def test_report_names_and_counts() -> None:
    report = SplitReport("train", official=5)
    report.used = len(clean([query(5, 3)] * 4 + [query(1, 12)], report, training=True))
    assert str(report) == (
        f"train: 1 of 5 queries; repaired 1 ({END}: v#0); dropped 4 ({EMPTY}: v#0, v#0, v#0, ...)"
    )
    assert json.loads(json.dumps(report.counts())) == {
        "official": 5,
        "used": 1,
        "repaired": {END: 1},
        "dropped": {EMPTY: 4},
    }


# ---- JSON ----------------------------------------------------------------------------------------------


def moments_json(tmp_path: Path, value: object) -> Path:
    path = tmp_path / "train.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


GOOD = {"duration": 10.0, "timestamps": [[1, 2]], "sentences": ["a"]}


@pytest.mark.parametrize(
    ("video", "message"),
    [
        ({"timestamps": [[1, 2]], "sentences": ["a"]}, "KeyError: 'duration'"),
        ({**GOOD, "duration": "long"}, "could not convert"),
        ({**GOOD, "sentences": ["a", "b"]}, "ValueError"),
        ({**GOOD, "timestamps": None}, "TypeError"),
        ([1], "TypeError"),
        ({**GOOD, "timestamps": [[1]]}, r"sentence 0: \[1\] is no pair of times"),
        ({**GOOD, "timestamps": [[1, 2, 3]]}, r"sentence 0: .* is no pair of times"),
        ({**GOOD, "timestamps": [["x", 2]]}, r"sentence 0: .* is no pair of times"),
        ({**GOOD, "timestamps": [3]}, "sentence 0: 3 is no pair of times"),
    ],
)
def test_odd_json_names_file_and_video(tmp_path: Path, video: object, message: str) -> None:
    path = moments_json(tmp_path, {"v_ok": GOOD, "v_bad": video})
    with pytest.raises(AnnotationError, match=rf"train\.json, video 'v_bad'.*{message}"):
        read_moments_json(path)


def test_json_that_is_none(tmp_path: Path) -> None:
    for value, message in (("[]", "expected one entry per video"), ("{", "not a JSON file"), ("\ufeff{}", None)):
        path = moments_json(tmp_path, value)
        if message is None:
            assert read_moments_json(path) == []
        else:
            with pytest.raises(AnnotationError, match=rf"train\.json: {message}"):
                read_moments_json(path)
    with pytest.raises(AnnotationError, match=r"gone\.json does not exist"):
        read_moments_json(tmp_path / "gone.json")
    (tmp_path / "train.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(AnnotationError, match=r"train\.json: not a JSON file"):
        read_moments_json(tmp_path / "train.json")


def test_json_with_odd_values(tmp_path: Path) -> None:
    odd = {
        "duration": 10,
        "timestamps": [[1, 2], [math.nan, 2], [3, math.inf]],
        "sentences": [" a \n", None, "🚪"],
    }
    queries = read_moments_json(moments_json(tmp_path, {"v": odd}))
    assert [q.text for q in queries] == ["a", "", "🚪"]
    report = counts(queries, training=True)
    assert report.dropped == {"empty sentence": ["v#1"], "times are not finite numbers": ["v#2"]}
    for name in ("../v", "/v", "v\0"):
        with pytest.raises(AnnotationError, match="not a plain video name"):
            read_moments_json(moments_json(tmp_path, {name: GOOD}))


def test_frames_become_seconds(tmp_path: Path) -> None:
    video = {"timestamps": [[50, 125]], "sentences": ["a"], "fps": 25, "num_frames": 500}
    q = read_moments_json(moments_json(tmp_path, {"s1-d2.avi": video}), frames=True)[0]
    assert q == Query("s1-d2#0", "s1-d2", "a", 2.0, 5.0, 20.0)
    for fps in (0, None, "x"):
        with pytest.raises(AnnotationError, match=r"s1-d2\.avi"):
            read_moments_json(moments_json(tmp_path, {"s1-d2.avi": {**video, "fps": fps}}), frames=True)
