"""``groundzoo concepts``: from caption files to a vocabulary of concepts."""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from groundzoo.datamodules.concepts import STOP, ConceptVocabulary

RULES = ("--tagger", "rules")


def write_captions(path: Path, *sentences: str) -> Path:
    times = [[k, k + 1] for k in range(len(sentences))]
    path.write_text(json.dumps({"v_one": {"duration": 9, "timestamps": times, "sentences": sentences}}))
    return path


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    return write_captions(tmp_path / "train.json", " A man is holding a red ball.", "The men hold balls quickly.")


def made(path: str = "concepts.json") -> dict:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def test_a_vocabulary_is_made_and_told(cli: Callable, captions: Path) -> None:
    more = write_captions(captions.with_name("more.json"), "He has seen the man,the dog and a café.")
    done = cli("concepts", captions, more, "--out", "new/words.json", "--size", 3, *RULES)
    assert done.code == 0, done.err
    assert done.out.splitlines() == [
        "3 concepts from 3 sentences: 1 nouns, 1 verbs, 1 adjectives; the rarest, 'red', occurs 1 times",
        "man holding red",
        "new/words.json",
    ]
    found = made("new/words.json")
    assert list(found) == ["version", "words", "sentences", "provenance"]
    assert found["words"][:2] == [
        {"word": "man", "count": 2, "kind": "noun"},
        {"word": "holding", "count": 1, "kind": "verb"},
    ]
    assert found["sentences"] == 3
    files = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in (captions, more)}
    assert found["provenance"]["files"] == files
    assert found["provenance"]["size"] == 3
    assert ConceptVocabulary.read("new/words.json").labels(["A man."]).tolist() == [True, False, False]


def test_the_same_again_is_the_same_file(cli: Callable, captions: Path) -> None:
    for name in ("a.json", "b.json"):
        assert cli("concepts", captions, "--out", name, *RULES).code == 0
    assert Path("a.json").read_bytes() == Path("b.json").read_bytes()


def test_textblob_is_the_default(cli: Callable, captions: Path) -> None:
    pytest.importorskip("textblob.en.taggers", reason="textblob is not installed (pip install textblob)")
    done = cli("concepts", captions)
    assert done.code == 0, done.err
    assert done.out.splitlines()[1] == "man holding red ball men hold balls quickly"
    assert made()["provenance"]["tagger"] == "pattern"


def test_a_missing_textblob_is_told(cli: Callable, captions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "textblob.en.taggers", None)
    done = cli("concepts", captions)
    assert done.code == 1
    assert "`pip install textblob`" in done.err
    assert not Path("concepts.json").exists()


def test_stop_lists(cli: Callable, captions: Path, tmp_path: Path) -> None:
    def words(*options: str) -> list[str]:
        done = cli("concepts", captions, *RULES, *options)
        assert done.code == 0, done.err
        return [entry["word"] for entry in made()["words"]]

    write_captions(captions, "The man has a ball.", "A dog does a trick.")
    assert words() == ["man", "ball", "dog", "trick"]
    assert words("--stop", "none") == ["man", "has", "ball", "dog", "does", "trick"]
    assert words("--stop", "do, Man") == ["has", "ball", "dog", "trick"]
    assert made()["provenance"]["stop"] == ["do", "man"]
    (tmp_path / "stop.txt").write_text("Ball dog\ntrick\n")
    assert words("--stop", "stop.txt") == ["man", "has", "does"]


def test_the_help_names_the_default_stop_list(cli: Callable) -> None:
    assert ",".join(STOP) in cli("concepts", "--help").out


def test_kinds_and_lemmas(cli: Callable, captions: Path) -> None:
    assert cli("concepts", captions, *RULES, "--kinds", "noun", "verb", "--lemmas", "true").code == 0
    assert made()["words"] == [
        {"word": "man", "count": 2, "kind": "noun", "forms": ["man", "men"]},
        {"word": "hold", "count": 2, "kind": "verb", "forms": ["holding", "hold"]},
        {"word": "ball", "count": 2, "kind": "noun", "forms": ["ball", "balls"]},
    ]
    assert made()["provenance"]["kinds"] == ["noun", "verb"]


def test_packed_captions(cli: Callable, captions: Path) -> None:
    packed = captions.with_name("train.json.gz")
    packed.write_bytes(gzip.compress(captions.read_bytes()))
    captions.unlink()
    assert cli("concepts", captions, *RULES).code == 0
    assert made()["provenance"]["files"] == {str(captions): hashlib.sha256(packed.read_bytes()).hexdigest()}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        ("{", "not a JSON file"),
        ("[1]", "expected one entry per video"),
        ('{"v_bad": ["a man"]}', "video 'v_bad'"),
        ('{"v_bad": {"duration": 1, "sentences": ["a man"]}}', "video 'v_bad': KeyError: 'timestamps'"),
        ("{}", "there are no sentences in"),
        ('{"v_1": {"duration": 1, "timestamps": [[0, 1]], "sentences": [" "]}}', "there are no sentences in"),
        ('{"v_1": {"duration": 1, "timestamps": [[0, 1]], "sentences": ["the"]}}', "1 sentences have no noun"),
    ],
)
def test_what_is_no_captions(cli: Callable, tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "wrong.json"
    if content is not None:
        path.write_text(content)
    Path("concepts.json").write_text("old")
    done = cli("concepts", path, *RULES)
    assert done.code == 1
    assert message in done.err
    assert "sentences have" in message or str(path) in done.err
    assert "Traceback" not in done.err
    assert Path("concepts.json").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["concepts.json", *["wrong.json"] * path.exists()])


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--size", "0"], 2, "size"),
        (["--size", "many"], 2, "size"),
        (["--tagger", "best"], 2, "tagger"),
        (["--kinds", "noun", "pronoun"], 2, "pronoun"),
        (["--stop", "lists/stop.txt"], 1, "'lists/stop.txt' is neither words separated by commas, nor a file"),
        (["--stop", "be,,do"], 1, "'be,,do' is neither"),
        (["--stop", "man,hold,ball,red,quickly"], 1, "2 sentences have no noun"),
        (["--out", "."], 1, ". is a folder; name the JSON file"),
    ],
)
def test_wrong_options(cli: Callable, captions: Path, options: list[str], code: int, message: str) -> None:
    done = cli("concepts", captions, *RULES, *options)
    assert done.code == code
    assert message in done.err
    assert "Traceback" not in done.err
    assert not Path("concepts.json").exists()


def test_captions_must_be_named(cli: Callable) -> None:
    done = cli("concepts")
    assert done.code == 2
    assert "captions" in done.err
