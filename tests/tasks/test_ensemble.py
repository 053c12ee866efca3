"""The choice of one sentence per event among those of several captioners."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from groundzoo.tasks.ensemble import EnsembleRule, combine, ensemble, main, read_concepts, read_predictions
from groundzoo.tasks.metrics.dense_captions import read_submission

DOCUMENTS = ["A man runs.", "A man sings.", "The dog runs!", "Two men play a zither."]
CONCEPTS = ["man", "dog", "runs"]


@pytest.fixture
def rule() -> EnsembleRule:
    return EnsembleRule(CONCEPTS, DOCUMENTS)


def record(caption: str, start: float = 0.0, video: str = "v_a", **more: Any) -> dict[str, Any]:
    return {"video": video, "start_s": start, "end_s": start + 5, "caption": caption, **more}


def test_more_concepts_win_before_rarer_words(rule: EnsembleRule) -> None:
    assert rule.scores("The MAN, the man runs.") == (2, pytest.approx(math.log(4)))  # "the": 1 of 4
    assert rule.choose(["A zither.", "A man.", "A dog runs."]) == 2


def test_the_rarest_word_decides_among_equals(rule: EnsembleRule) -> None:
    assert rule.choose(["A man runs.", "A dog runs.", "The dog runs."]) == 1


def test_one_criterion_alone() -> None:
    candidates = ["A zither.", "A man.", "A man runs."]
    assert EnsembleRule(CONCEPTS, DOCUMENTS, by_idf=False).choose(candidates) == 2
    assert EnsembleRule(CONCEPTS, DOCUMENTS, by_concepts=False).choose(candidates) == 0
    assert EnsembleRule(CONCEPTS, DOCUMENTS, by_idf=False).choose(["A man.", "A dog."]) == 0
    assert EnsembleRule([], DOCUMENTS, by_concepts=False).choose(["A man.", "A zither."]) == 1
    assert EnsembleRule(CONCEPTS, [], by_idf=False).choose(["A zither.", "A man."]) == 1


def test_forms_of_one_concept_count_once() -> None:
    rule = EnsembleRule({"man": "man", "men": "man", "runs": "run"}, DOCUMENTS)
    assert rule.scores("Two men and a man")[0] == 1
    assert rule.scores("A man runs")[0] == 2


def test_a_rule_needs_something_to_go_by(rule: EnsembleRule) -> None:
    with pytest.raises(ValueError, match="both off"):
        EnsembleRule(CONCEPTS, DOCUMENTS, False, False)
    with pytest.raises(ValueError, match="concepts is empty"):
        EnsembleRule([], DOCUMENTS)
    with pytest.raises(ValueError, match="documents hold no words"):
        EnsembleRule(CONCEPTS, ["", "."])
    with pytest.raises(ValueError, match="no sentence"):
        rule.choose([])


def test_one_record_of_each_event_is_kept(rule: EnsembleRule) -> None:
    first = [record("a", 0), record("a man runs", 3), record("a dog", 0, "v_b")]
    second = [record("a dog runs", 0, "v_b", score=-1), record("a man", 3), record("a man", 0)]  # another order
    chosen = combine([first, second], rule)
    assert [r["caption"] for r in chosen] == ["a man", "a man runs", "a dog runs"]
    assert [r["run"] for r in chosen] == [1, 0, 1]
    assert [(r["video"], r["start_s"]) for r in chosen] == [("v_a", 0), ("v_a", 3), ("v_b", 0)]
    assert chosen[2]["score"] == -1
    assert "run" not in first[0]


def test_events_of_the_same_times_stay_apart(rule: EnsembleRule) -> None:
    first = [record("a man"), record("a man runs")]
    second = [record("a dog runs"), record("a dog")]
    assert [r["caption"] for r in combine([first, second], rule)] == ["a dog runs", "a man runs"]


def test_one_run_is_itself(rule: EnsembleRule) -> None:
    assert [r["caption"] for r in combine([[record("x"), record("y", 9)]], rule)] == ["x", "y"]
    with pytest.raises(ValueError, match="no predictions"):
        combine([], rule)


@pytest.mark.parametrize("other", [[], [record("x", 1)], [record("x", 1), record("x", 2), record("x", 2)]])
def test_different_events_are_refused(rule: EnsembleRule, other: list[dict[str, Any]]) -> None:
    ours = [record("x", 1), record("x", 2)]
    for runs in ([ours, ours, other], [other, ours]):
        with pytest.raises(ValueError, match=r"v_a, [12] to [67] s: run 0 tells this event \d times, run \d"):
            combine(runs, rule)


# ---- files ----------------------------------------------------------------------------------------------


def test_concepts_are_read_in_both_forms(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text('["man", "dog"]')
    assert read_concepts(path) == {"man": "man", "dog": "dog"}
    path.write_text('{"version": 1, "words": [{"word": "man", "forms": ["man", "men"]}, {"word": "dog"}]}')
    assert read_concepts(path) == {"man": "man", "men": "man", "dog": "dog"}
    for wrong in ("3", "", '{"words": 3}', '{"words": ["man"]}', '{"words": [{"wort": "man"}]}'):
        path.write_text(wrong)
        with pytest.raises(ValueError, match=r"c\.json: not concepts"):
            read_concepts(path)


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    for wrong in ("{", "3", '{"video": "v", "start_s": 0, "end_s": 1}'):
        path.write_text(json.dumps(record("x")) + "\n" + wrong + "\n")
        with pytest.raises(ValueError, match=r"p\.jsonl, line 2: needs"):
            read_predictions(path)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Two runs of which each tells one of two events as the annotators do."""
    truth = ["a man runs in the park", "a dog plays a zither"]
    names = {name: tmp_path / f"{name}.json" for name in ("concepts", "captions", "references", "a", "b")}
    names["concepts"].write_text(json.dumps(["man", "dog", "park", "zither"]))
    names["captions"].write_text(json.dumps({"v_t": {"timestamps": [], "sentences": DOCUMENTS}}))
    entry = {"duration": 20, "timestamps": [[0, 5], [10, 15]], "sentences": truth}
    names["references"].write_text(json.dumps({"v_a": entry}))
    for name, said in {"a": [truth[0], "someone"], "b": ["someone", truth[1]]}.items():
        names[name].write_text(
            "".join(json.dumps(record(s, t)) + "\n" for s, t in zip(said, (0, 10), strict=True))
        )
    return names


def test_the_best_of_two_runs_scores_higher_than_either(files: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "new" / "ensemble.jsonl"
    table = ensemble(
        [files["a"], files["b"]], files["concepts"], files["captions"], out, [files["references"]], ["CIDEr"]
    )
    columns = {str(column.header): list(column.cells) for column in table.columns}
    values = zip(*(columns[c] for c in ("run 0", "run 1", "ensemble")), strict=True)
    rows = dict(zip(columns[""], values, strict=True))
    assert rows["chosen"] == ("1", "1", "")
    assert rows["words"] == ("3.50", "3.00", "5.50")
    (name,) = (name for name in rows if "CIDEr" in name)
    first, second, both = map(float, rows[name])
    assert both > max(first, second) + 1
    assert [r["caption"] for r in read_predictions(out)] == ["a man runs in the park", "a dog plays a zither"]
    told = read_submission(out.with_name("ensemble_submission.json"))
    assert [(r["video"], r["start_s"], r["end_s"]) for r in told] == [("v_a", 0, 5), ("v_a", 10, 15)]
    assert sorted(p.name for p in out.parent.iterdir()) == ["ensemble.jsonl", "ensemble_submission.json"]


def test_the_command(files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "e.jsonl"
    given = [str(files["a"]), str(files["b"]), "--concepts", str(files["concepts"])]
    given += ["--captions", str(files["captions"]), "--out", str(out)]
    main(given)
    printed = capsys.readouterr().out
    assert "ensemble" in printed
    assert "CIDEr" not in printed, "nothing is scored without references"
    assert [r["run"] for r in read_predictions(out)] == [0, 1]
    main([*given, "--by_concepts", "false"])
    assert [r["run"] for r in read_predictions(out)] == [0, 1]


def test_mistakes_end_with_a_sentence(files: dict[str, Path], tmp_path: Path) -> None:
    files["b"].write_text(json.dumps(record("x", 0)) + "\n")
    given = ["--concepts", str(files["concepts"]), "--captions", str(files["captions"])]
    given += ["--out", str(tmp_path / "e.jsonl")]
    with pytest.raises(SystemExit, match="v_a, 10 to 15 s"):
        main([str(files["a"]), str(files["b"]), *given])
    with pytest.raises(SystemExit, match="nowhere"):
        main([str(tmp_path / "nowhere.jsonl"), *given])
    assert not (tmp_path / "e.jsonl").exists()
    given[3] = str(files["concepts"])
    with pytest.raises(SystemExit, match="not ActivityNet Captions"):
        main([str(files["a"]), *given])
