"""Triples: what sentences of captions say."""

from __future__ import annotations

import pytest

from groundzoo.zoo.text.triples import Triple, noun_phrases, third_person, triples


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "A man is stirring rice and beans in a pot with a wooden spoon.",
            [("man", "stir", "rice and beans", (("in", "pot"), ("with", "wooden spoon")))],
        ),
        ("The egg is cracked by a woman.", [("woman", "crack", "egg", ())]),
        ("A person picks up the phone", [("person", "pick up", "phone", ())]),
        (
            "a small red disc goes left above a blue box",
            [("small red disc", "go left", "", (("above", "blue box"),))],
        ),
        ("the ball gets bigger", [("ball", "get bigger", "", ())]),
        (
            "A woman wearing gloves cuts the paper next to a box of pens.",
            [("woman", "wear", "gloves", ()), ("woman", "cut", "paper", (("next to", "box of pens"),))],
        ),
        (
            "a red circle moves up while a blue square spins",
            [("red circle", "move up", "", ()), ("blue square", "spin", "", ())],
        ),
        ("A man with a hat in a kitchen.", [("man", "be", "", (("with", "hat"), ("in", "kitchen")))]),
        ("There is a bowl on the table.", [("bowl", "be", "", (("on", "table"),))]),
        ("a white cross moves left", [("white cross", "move left", "", ())]),
        ("a big red mark", [("big red mark", "be", "", ())]),
        ("a knife and a dog", [("knife", "be", "", ()), ("dog", "be", "", ())]),
        ("", []),
        ("... !", []),
    ],
)
def test_what_sentences_say(text: str, expected: list[tuple]) -> None:
    assert triples(text) == [Triple(*parts) for parts in expected]


def test_noun_phrases_are_places_in_the_text() -> None:
    text = "A woman, smiling,  cuts the thick paper of the man's red book."
    assert [text[start:end] for start, end in noun_phrases(text)] == [
        "A woman",
        "the thick paper",
        "the man",
        "red book",
    ]
    assert noun_phrases("he runs") == []


@pytest.mark.parametrize(
    ("verb", "expected"),
    [("pick up", "picks up"), ("go", "goes"), ("carry", "carries"), ("be", "is"), ("zork left", "zorks left")],
)
def test_present_tense(verb: str, expected: str) -> None:
    assert third_person(verb) == expected
