"""Word classes of caption words."""

from __future__ import annotations

import random

import pytest

from groundzoo.zoo.text.grammar import Tag, noun_heads, pronouns, tag
from groundzoo.zoo.text.verb_lexicon import FORMS, verb_forms

# word/class; words without a class are nouns.
TAGGED = [
    "A/DET man is/AUX seen/VERB speaking/VERB to/PREP the/DET camera",
    "He/PRON picks/VERB up/PARTICLE the/DET ball and/CONJ throws/VERB it/PRON",
    "a/DET marching/ADJ band plays/VERB in/PREP the/DET street",
    "Several/DET people are/AUX in/PREP a/DET swimming/ADJ pool",
    "She/PRON continues/VERB to/PARTICLE jump/VERB rope",
    "the/DET man does/VERB a/DET high/ADJ jump and/CONJ jumps/VERB again/ADV",
    "his/DET hands hold/VERB her/DET hands",
    "a/DET dog watches/VERB her/PRON while/CONJ others/PRON run/VERB",
    "the/DET woman does/AUX not/ADV dance/VERB",
    "the/DET boy has/AUX thrown/VERB a/DET can",
    "the/DET boy has/VERB a/DET ball",
    "the/DET building is/AUX tall/ADJ ,/OTHER the/DET ceiling is/AUX low/ADJ",
    "the/DET woman is/AUX building/VERB a/DET castle",
    "people walk/VERB to/PREP the/DET left",
    "a/DET person who/PRON wears/VERB folded/ADJ towels laughs/VERB",
    "the/DET lady 's/OTHER hair is/AUX cut/VERB",
    "he/PRON 's/AUX talking/VERB",
    "then/ADV he/PRON quickly/ADV ties/VERB the/DET tie",
    "the/DET big/ADJ red/ADJ square spins/VERB while/CONJ the/DET blue/ADJ circle blinks/VERB",
    "she/PRON uses/VERB a/DET brush to/PARTICLE apply/VERB wax",
    "the/DET man is/AUX drinking/VERB water next/PREP to/PREP a/DET pot of/PREP boiling/ADJ water",
    "a/DET smiling/ADJ boy sees/VERB the/DET running/ADJ dogs and/CONJ the/DET crossing",
    "the/DET circle shakes/VERB ./OTHER",
]


def split(text: str) -> tuple[list[str], list[str]]:
    pairs = [word.rsplit("/", 1) if "/" in word else [word, "NOUN"] for word in text.split()]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


@pytest.mark.parametrize("text", TAGGED)
def test_words_get_the_class_a_reader_would_give(text: str) -> None:
    words, classes = split(text)
    assert tag(words) == classes
    assert tag([word.upper() for word in words]) == classes


def test_unknown_verbs_are_found_by_their_ending_and_place() -> None:
    assert tag(["a", "wrestler", "apeases", "fans"]) == ["DET", "NOUN", "VERB", "NOUN"]
    assert tag(["she", "is", "glorping", "it"])[2] == "VERB"
    assert tag(["the", "glorped", "ball", "rolls"])[1] == "ADJ"
    assert tag(["he", "snorfles", "the", "tea"])[1] == "VERB"


def test_anything_can_be_tagged() -> None:
    assert tag([]) == []
    assert tag(["", "``", ",", "-", "42"]) == ["OTHER", "OTHER", "OTHER", "OTHER", "DET"]
    rng = random.Random(0)
    words = ["", ".", "the", "man", "to", "'s", "her", "that", "then", "is", "run", "runs", "running", "cut", "of"]
    for _ in range(2000):
        tokens = rng.choices(words, k=rng.randrange(9))
        tags = tag(tokens)
        assert len(tags) == len(tokens)
        assert set(tags) <= set(Tag.__args__)
        assert {i for i, word in enumerate(tokens) if word in {"", "."}} <= {
            i for i, t in enumerate(tags) if t == "OTHER"
        }


def test_noun_heads_are_the_last_nouns_of_their_phrases() -> None:
    words = [
        "A",
        "young",
        "woman",
        "'s",
        "ice",
        "skate",
        "hits",
        "the",
        "kitchen",
        "floor",
        "of",
        "her",
        "house",
        ",",
        "then",
        "she",
        "cheers",
    ]
    assert [words[i] for i in noun_heads(words)] == ["woman", "skate", "floor", "house"]
    assert [words[i] for i in pronouns(words)] == ["her", "she"]
    assert noun_heads(["they", "run", "in", "front", "of", "him"]) == []
    assert noun_heads(["Man", "hits", "BALL"]) == [0, 2]


def test_relative_pronouns_stand_for_nothing_of_their_own() -> None:
    assert pronouns(["the", "man", "who", "runs", "sees", "himself"]) == [5]


@pytest.mark.parametrize(
    ("word", "forms"),
    [
        ("throwing", {"ing": "throw"}),
        ("carries", {"s": "carry"}),
        ("stopped", {"past": "stop", "part": "stop"}),
        ("lying", {"ing": "lie"}),
        ("cut", {"base": "cut", "past": "cut", "part": "cut"}),
        ("sewn", {"part": "sew"}),
        ("dives", {"s": "dive"}),
        ("opening", {"ing": "open"}),
        ("dyeing", {"ing": "dye"}),
        ("ceiling", {}),
        ("king", {}),
        ("speed", {"base": "speed"}),
        ("man", {}),
    ],
)
def test_verb_forms(word: str, forms: dict[str, str]) -> None:
    assert verb_forms(word) == forms


def test_every_verb_has_all_its_forms() -> None:
    bases = {base for forms in FORMS.values() for base in forms.values()}
    kinds = {
        base: {form for forms in FORMS.values() for form, b in forms.items() if b == base}
        for base in ("swim", "dance")
    }
    assert all(k == {"base", "s", "ing", "past", "part"} for k in kinds.values())
    assert all("base" in FORMS[base] for base in bases)
