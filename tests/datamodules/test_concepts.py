"""Vocabularies of semantic concepts: what is counted, and which concepts sentences name."""

from __future__ import annotations

import json
import os
import random
import socket
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from golden_files import ROOT

from groundzoo.datamodules.annotations import AnnotationError, read_moments_json
from groundzoo.datamodules.concepts import KINDS, Concept, ConceptVocabulary
from groundzoo.zoo.text.word_lstm import tokenize

SHARED = Path(os.environ.get("GROUNDZOO_SHARED", ROOT.parent / "shared"))
CAPTIONS = SHARED / "data" / "anet_captions" / "train.json"
SENTENCES = [
    "A man is holding a red ball.",
    " The men hold balls quickly!",
    "",
    "He holds the ball,and a dog has seen the man 42 times.",
]


def fitted(sentences: list[str] = SENTENCES, **settings) -> ConceptVocabulary:
    return ConceptVocabulary.fitted(sentences, **{"tagger": "rules", **settings})


def triples(found: ConceptVocabulary) -> list[tuple[str, int, str | None]]:
    return [(c.word, c.count, c.kind) for c in found.concepts]


@pytest.fixture
def textblob() -> None:
    pytest.importorskip("textblob.en.taggers", reason="textblob is not installed (pip install textblob)")


@pytest.fixture(scope="module")
def real() -> list[str]:
    if not CAPTIONS.exists():
        pytest.skip(f"no {CAPTIONS} (set GROUNDZOO_SHARED)")
    return [query.text for query in read_moments_json(CAPTIONS)]


# ---- counting -------------------------------------------------------------------------------------------


def test_content_words_by_frequency_then_first_appearance() -> None:
    found = fitted()
    assert triples(found) == [
        ("man", 2, "noun"),
        ("ball", 2, "noun"),
        ("holding", 1, "verb"),
        ("red", 1, "adjective"),
        ("men", 1, "noun"),
        ("hold", 1, "verb"),
        ("balls", 1, "noun"),
        ("quickly", 1, "adverb"),
        ("holds", 1, "verb"),
        ("dog", 1, "noun"),
        ("seen", 1, "verb"),
        ("times", 1, "noun"),
    ]
    assert found.sentences == 3
    assert found.words == [c.word for c in found.concepts]


def test_size_keeps_the_most_frequent() -> None:
    assert fitted(size=3).words == fitted().words[:3]
    assert fitted(size=99).words == fitted().words


def test_kinds_are_chosen() -> None:
    assert fitted(kinds=["adjective", "adverb"]).words == ["red", "quickly"]
    assert {c.kind for c in fitted(kinds=["verb"]).concepts} == {"verb"}


def test_forms_of_nouns_and_verbs_are_one_concept() -> None:
    found = {c.word: c for c in fitted(lemmas=True).concepts}
    assert found["hold"] == Concept("hold", 3, "verb", ("holding", "hold", "holds"))
    assert found["man"] == Concept("man", 3, "noun", ("man", "men"))
    assert found["see"].forms == ("seen",)
    assert list(found)[:3] == ["man", "hold", "ball"]
    hands = ["His hand is red.", "He is handing it to her.", "She is handing it back."]
    assert triples(fitted(hands, lemmas=True))[0] == ("hand", 3, "verb")


def test_a_word_has_the_kind_of_its_most_frequent_tag() -> None:
    noun, verb = "The building is tall.", "The woman is building a castle."
    assert ("building", 3, "verb") in triples(fitted([noun, verb, verb]))
    assert ("building", 3, "noun") in triples(fitted([verb, noun, noun]))
    assert ("building", 2, "verb") in triples(fitted([verb, noun]))  # the first of two
    adverb, other = "He is outside.", "A dog sits outside the house."
    assert "outside" in fitted([adverb, adverb, other]).words
    assert "outside" not in fitted([adverb, other, other]).words
    assert ("outside", 3, "adverb") in triples(fitted([other, adverb, adverb]))


def test_stop_words_go_in_all_their_forms(textblob: None) -> None:
    sentences = ["He's been there, she was, they are being had: having a dog, doing it; does not, isn't done."]
    for tagger in ("pattern", "rules"):
        assert set(fitted(sentences, tagger=tagger).words) <= {"dog", "there"}
    kept = set(fitted(sentences, tagger="pattern", stop=()).words)
    assert kept > {"been", "was", "are", "being", "had", "having", "doing", "does", "done", "not", "n't"}
    assert fitted(stop=["hold", "man"], lemmas=True).words == ["ball", "red", "quickly", "dog", "see", "time"]
    left = set(fitted(stop=["holds"]).words)
    assert left & {"hold", "holds"} == {"hold"}, "a form in the list stands for itself alone"


def test_punctuation_and_numbers_are_no_concepts(textblob: None) -> None:
    odd = ["\u2019 `` -- ... 5'9 42 ' \" “a dog” 2-on-1", "café piñata t-shirt"]
    for tagger in ("pattern", "rules"):
        words = fitted(odd, tagger=tagger).words
        assert {"dog", "piñata", "t-shirt"} <= set(words)
        assert all(any(map(str.isalpha, word)) for word in words)


def test_textblob_needs_neither_data_nor_network(textblob: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import nltk

    monkeypatch.setattr(nltk.data, "path", [])
    monkeypatch.setattr(socket, "socket", None)
    found = fitted(tagger="pattern")
    assert found.concepts[:3] == [*fitted().concepts[:2], Concept("holding", 1, "verb", ("holding",))]
    assert found.provenance["textblob"]


def test_a_missing_textblob_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "textblob.en.taggers", None)
    with pytest.raises(ValueError, match=r"`pip install textblob`, or take the tagger 'rules'"):
        fitted(tagger="pattern")
    assert fitted().words


@pytest.mark.parametrize(
    ("sentences", "settings", "message"),
    [
        (SENTENCES, {"size": 0}, "must be positive, not 0"),
        (["the of and", "42 !"], {}, "2 sentences have no noun, verb, adjective, adverb that is not stopped"),
        ([], {}, "0 sentences have no noun"),
        (["a man"], {"stop": ["man"]}, "not stopped"),
        (["a man"], {"kinds": ["verb"]}, "1 sentences have no verb"),
    ],
)
def test_nothing_to_count(sentences: list[str], settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fitted(sentences, **settings)


# ---- labels ---------------------------------------------------------------------------------------------


def test_labels_are_the_concepts_of_all_sentences() -> None:
    found = fitted()

    def named(*sentences: str) -> list[str]:
        labels = found.labels(sentences)
        assert labels.dtype == np.bool_
        assert labels.shape == (12,)
        return [word for word, there in zip(found.words, labels, strict=True) if there]

    assert named("A DOG.", "dogs, a red dog,and a man-made hill") == ["red", "dog"]
    assert named("") == named() == named("nothing of it") == []
    assert named(*SENTENCES) == found.words


def test_labels_of_lemmas() -> None:
    found = fitted(lemmas=True)
    assert found.labels(["the MEN held it"]).tolist() == found.labels(["man"]).tolist()  # held was never seen
    assert found.labels(["the man is seen holding it"]).sum() == 3
    assert fitted().labels(["the man is seen holding it"]).sum() == 3
    assert fitted().labels(["sees"]).sum() == 0


def test_every_word_finds_itself_among_random_words() -> None:
    rng = random.Random(0)
    words = [
        "man",
        "men",
        "dog",
        "dogs",
        "walks",
        "walking",
        "red",
        "is",
        "the",
        "in",
        "n't",
        "holds",
        "held",
        ".",
    ]
    for _ in range(200):
        sentences = [" ".join(rng.choices(words, k=rng.randrange(12))) for _ in range(rng.randrange(1, 6))]
        for lemmas in (False, True):
            try:
                found = fitted(sentences, lemmas=lemmas)
            except ValueError:
                continue
            counts = Counter(word for sentence in sentences for word in tokenize(sentence))
            assert found.labels(sentences).all()
            for place, concept in enumerate(found.concepts):
                assert concept.count == sum(counts[form] for form in concept.forms)
                assert found.labels(concept.forms).nonzero()[0].tolist() == [place]
            assert [c.count for c in found.concepts] == sorted((c.count for c in found.concepts), reverse=True)


# ---- files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lemmas", [False, True])
def test_a_written_vocabulary_is_read_back(tmp_path: Path, lemmas: bool) -> None:
    found = fitted([*SENTENCES, "le café piñata"], lemmas=lemmas)
    found.write(tmp_path / "new" / "concepts.json")
    again = ConceptVocabulary.read(str(tmp_path / "new" / "concepts.json"))
    assert again.concepts == found.concepts
    assert (again.sentences, again.provenance) == (4, found.provenance)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["concepts.json"]
    settings = {k: again.provenance[k] for k in ("tagger", "stop", "kinds", "lemmas", "size")}
    stop = ["be", "do", "have", "n't", "not"]
    assert settings == {"tagger": "rules", "stop": stop, "kinds": list(KINDS), "lemmas": lemmas, "size": 1000}


def test_a_bare_list_of_words(tmp_path: Path) -> None:
    path = tmp_path / "words.json"
    path.write_text('["dog", "red", "t-shirt"]')
    found = ConceptVocabulary.read(path)
    assert found.words == ["dog", "red", "t-shirt"]
    assert found.labels(["A red T-shirt."]).tolist() == [False, True, True]
    found.write(path)
    assert ConceptVocabulary.read(path).concepts == found.concepts


GOOD = {"version": 1, "words": [{"word": "dog", "count": 2, "kind": "noun"}], "sentences": 2, "provenance": {}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist; `groundzoo concepts` makes such a file"),
        ("{", "not a JSON file"),
        ("3", "it holds a int"),
        ("[]", "there is not one concept"),
        ('["dog", 3]', "is no word"),
        ('["dog", "red", "dog"]', "'dog' names two concepts"),
        ('["hot dog"]', "'hot dog' names no concept: one word in lower case is expected"),
        ('["Dog"]', "'Dog' names no concept"),
        ('[""]', "'' names no concept"),
        ('{"v_1": {"duration": 1, "timestamps": [], "sentences": []}}', "'version' is missing"),
        (json.dumps(GOOD | {"version": 2}), "version 2, this program reads 1"),
        (json.dumps(GOOD | {"words": [{"count": 1}]}), "'word' is missing"),
        (json.dumps(GOOD | {"words": [{"word": "do", "forms": ["dog", 1]}]}), "is no word"),
        (json.dumps(GOOD | {"words": [*GOOD["words"], {"word": "a", "forms": ["dog"]}]}), "'dog' and 'a'"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "mine.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(AnnotationError, match=message) as raised:
        ConceptVocabulary.read(path)
    assert str(path) in str(raised.value)


# ---- ActivityNet Captions -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def full(real: list[str]) -> ConceptVocabulary:
    """All content words of 37,421 training sentences."""
    pytest.importorskip("textblob.en.taggers", reason="textblob is not installed (pip install textblob)")
    return ConceptVocabulary.fitted(real, size=10**6, stop=())


def test_numbers_of_activitynet_captions(real: list[str], full: ConceptVocabulary) -> None:
    top = ConceptVocabulary(full.concepts[:1000])
    total = sum(c.count for c in full.concepts)
    mix = Counter(c.kind for c in top.concepts)
    mean = np.mean([top.labels([sentence]).sum() for sentence in real])
    covered = sum(c.count for c in top.concepts) / total
    print(f"{len(full.concepts)} words, {total} tokens, {covered:.4f} covered, {mix}, {mean:.3f} per sentence")
    assert full.sentences == 37421
    assert total == pytest.approx(280_000, rel=0.02)
    assert covered == pytest.approx(0.82, abs=0.01)
    assert top.concepts[-1].count == pytest.approx(41, abs=1)
    assert [mix[kind] for kind in KINDS] == pytest.approx([590, 293, 85, 32], abs=5)
    assert mean == pytest.approx(5.9, abs=0.15)
    assert top.words[:6] == ["is", "man", "are", "then", "people", "woman"]


def test_our_rules_choose_nearly_the_same_words(real: list[str], full: ConceptVocabulary) -> None:
    pattern = {c.word: c.kind for c in full.concepts[:1000]}
    rules = {c.word: c.kind for c in ConceptVocabulary.fitted(real, tagger="rules", stop=()).concepts}
    shared, kinds = pattern.keys() & rules.keys(), pattern.items() & rules.items()
    print(f"{len(shared)} words of 1000 are shared, {len(kinds)} with the same kind")
    assert len(shared) > 950
    assert len(kinds) > 750
