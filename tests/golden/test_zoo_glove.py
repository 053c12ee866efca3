"""Word vectors from text files against a sample and its expected reading."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_files import golden_cases

from groundzoo.zoo.text.word_lstm import read_embeddings

pytestmark = pytest.mark.golden
CASES = pytest.mark.parametrize("path", golden_cases("zoo", "glove*.json"), ids=lambda p: p.stem)


def read(path: Path) -> tuple[dict[str, Any], list[str], torch.Tensor]:
    """The expectation, its words without repetitions (the first of a word counts) and their vectors."""
    content = json.loads(path.read_text(encoding="utf-8"))
    first = {token: i for i, token in reversed(list(enumerate(content["tokens"])))}
    words = sorted(first)
    return content, words, torch.tensor(content["vectors"])[[first[word] for word in words]]


@CASES
def test_all_words(path: Path) -> None:
    content, words, expected = read(path)
    vectors, found = read_embeddings(path.with_suffix(".txt"), words, content["dim"])
    assert found.all()
    assert torch.equal(vectors, expected)


@CASES
def test_one_word_at_a_time(path: Path) -> None:
    """Words that share their beginning with another one, among them."""
    content, words, expected = read(path)
    for word, vector in zip(words, expected, strict=True):
        vectors, found = read_embeddings(path.with_suffix(".txt"), [word, "no such word"], content["dim"])
        assert found.tolist() == [True, False]
        assert torch.equal(vectors, torch.stack([vector, torch.zeros_like(vector)]))


@CASES
def test_as_word2vec_with_duplicates(path: Path, tmp_path: Path) -> None:
    """A header of word2vec is no word; of lines of the same word the first counts."""
    content, words, expected = read(path)
    lines = path.with_suffix(".txt").read_text(encoding="utf-8")
    again = "".join(f"{word} {' '.join(['7'] * content['dim'])}\n" for word in words)
    count = lines.count("\n") + len(words)
    changed = tmp_path / "word2vec.txt"
    changed.write_text(f"{count} {content['dim']}\n{lines}{again}", encoding="utf-8")
    vectors, found = read_embeddings(changed, [*words, str(count)], content["dim"])
    assert found.tolist() == [True] * len(words) + [False]
    assert torch.equal(vectors[:-1], expected)
