"""Captions as JSON and as a table on the console."""

from __future__ import annotations

import io
import json

import pytest
from pointing_captions import pointing, seen
from rich.console import Console

from groundzoo.tasks.caption_pictures import COLOURS
from groundzoo.tasks.grounded_caption import GroundedCaption, caption_record
from groundzoo.tasks.tables import caption_table

WORDS = pointing("the dog runs", {"dog": (0.75, 0.25)}, {"dog": (1, 2, 3, 4)}, (64, 48), (0.5, 1.5))
PHRASES = seen("a dog runs to a dog", {"a dog": (0.9, 0.2)}, {"a dog": [(1.0, 2, 3, 4)]}, (64, 48), (0.2, 0.4))


def test_words_with_attention_are_told_with_their_kind() -> None:
    record = json.loads(json.dumps(caption_record(WORDS)))
    assert list(record) == ["caption", "score", "measure", "size", "times_s", "phrases"]
    assert record["measure"] == "attention"
    assert [phrase["kind"] for phrase in record["phrases"]] == ["DET", "NOUN", "VERB"]
    dog = {"text": "dog", "start": 4, "end": 7, "boxes": [[1, 2, 3, 4]] * 2, "scores": [0.75, 0.25]}
    assert record["phrases"][1] == dog | {"kind": "NOUN"}


def test_phrases_with_visibility_have_no_kind_and_no_box_where_they_are_hidden() -> None:
    record = json.loads(json.dumps(caption_record(PHRASES)))
    assert (record["caption"], record["measure"], record["size"]) == (
        "a dog runs to a dog",
        "visibility",
        [64, 48],
    )
    expected = {"text": "a dog", "start": 0, "end": 5, "boxes": [[1, 2, 3, 4], None], "scores": [0.9, 0.2]}
    assert record["phrases"] == [expected]


@pytest.mark.parametrize(("caption", "coloured"), [(WORDS, ["dog", "runs"]), (PHRASES, ["a dog"])])
def test_the_table_colours_the_phrases_as_the_pictures_do(caption: GroundedCaption, coloured: list[str]) -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, color_system="truecolor", width=120)
    console.print(caption_table("a.mp4", caption))
    shown = written.getvalue()
    assert shown.count("38;2;") == len(coloured)
    for text, (red, green, blue) in zip(coloured, COLOURS, strict=False):
        assert f"\x1b[1;38;2;{red};{green};{blue}m{text}\x1b[0m" in shown
    assert "-0.500" in shown
