"""Rewards of sentences: weights, ends, words beyond the vocabulary, files, failures and speed."""

from __future__ import annotations

import json
import shutil
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from groundzoo.tasks import rewards
from groundzoo.tasks.metrics import ptb
from groundzoo.tasks.metrics.caption_scorers import Meteor
from groundzoo.tasks.metrics.ptb import JavaError
from groundzoo.tasks.rewards import (
    Reward,
    RewardOptions,
    read_frequencies,
    training_frequencies,
    write_frequencies,
)
from groundzoo.zoo.text.vocabulary import Vocabulary

SENTENCES = [
    "a man plays the guitar on a stage",
    "a man rides a bike down the hill",
    "two dogs run over the green field",
    "a woman plays the violin",
    "a girl cuts a red apple",
    "the dogs play with a red ball",
]
TRAINING = [[text.split()] for text in SENTENCES]
CIDER = RewardOptions(meteor_ids=0, cider=1)
needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="Java is not installed")


@pytest.fixture
def vocabulary() -> Vocabulary:
    return Vocabulary.fitted([words for event in TRAINING for words in event], 1)


@pytest.fixture
def cider(vocabulary: Vocabulary) -> Reward:
    return Reward(CIDER, vocabulary, training_frequencies(TRAINING))


def ids(vocabulary: Vocabulary, text: str) -> list[int]:
    return vocabulary.encode(text.split(), 99)


def test_the_best_sentence_is_the_reference(cider: Reward, vocabulary: Vocabulary) -> None:
    said = ["a man plays the guitar on a stage", "a man plays the guitar", "two dogs", ""]
    values = cider.score([ids(vocabulary, text) for text in said], [TRAINING[0]] * 4)
    assert values[0] == pytest.approx(10)
    assert values == sorted(values, reverse=True)
    assert values[2] == pytest.approx(0, abs=0.05)  # they share the end alone


def test_what_stands_behind_the_end_does_not_count(cider: Reward, vocabulary: Vocabulary) -> None:
    whole = ids(vocabulary, SENTENCES[1])
    padded, unended = [*whole, 5, 0, 0], whole[:-1]
    first, second, third = cider.score([whole, padded, unended], [TRAINING[1]] * 3)
    assert first == second == pytest.approx(10)
    assert third < first, "a sentence without an end is not the reference"


def test_references_are_ids_or_words(cider: Reward, vocabulary: Vocabulary) -> None:
    said = [ids(vocabulary, "a woman rides a bike")]
    words = cider.score(said, [TRAINING[1]])
    assert words == cider.score(said, [[ids(vocabulary, SENTENCES[1])]])
    assert words[0] > 0.5


def test_a_word_beyond_the_vocabulary_earns_nothing(cider: Reward, vocabulary: Vocabulary) -> None:
    unknown = len(vocabulary) - 1
    said = [[*ids(vocabulary, "two dogs")[:2], unknown, 0]]
    ((hit,), (miss,)) = (cider.score(said, [[["two", "dogs", word]]]) for word in ("UNK", "yodel"))
    assert miss < hit


def test_references_need_words(cider: Reward) -> None:
    for event in ([], [[]], [[0]], [["a"], []], [[0, 3, 0]]):
        with pytest.raises(ValueError, match="sentence 1: needs references"):
            cider.score([[1, 0], [1, 0]], [[["a"]], event])
    with pytest.raises(ValueError, match="2 sentences but references for 1"):
        cider.score([[1], [1]], [[["a"]]])
    assert cider.score([], []) == []


def test_weights_add_up(vocabulary: Vocabulary) -> None:
    frequencies = training_frequencies(TRAINING)
    said, references = [ids(vocabulary, "a man rides")], [TRAINING[1]]
    (one,) = Reward(CIDER, vocabulary, frequencies).score(said, references)
    (other,) = Reward(RewardOptions(meteor_ids=0, cider=-2.5), vocabulary, frequencies).score(said, references)
    assert one > 0.1
    assert other == pytest.approx(-2.5 * one)


@pytest.mark.parametrize("weights", [(0.0, 0.0, 0.0), (float("nan"), 0.0, 0.0), (0.0, float("inf"), 1.0)])
def test_some_reward_is_needed(weights: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="finite weight"):
        RewardOptions(*weights)


def test_cider_needs_frequencies(vocabulary: Vocabulary) -> None:
    with pytest.raises(ValueError, match="training_frequencies"):
        Reward(CIDER, vocabulary)


def test_without_java_another_reward_is_named(vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ptb.shutil, "which", lambda _: None)
    for options in (RewardOptions(), RewardOptions(meteor_ids=0, meteor=1)):
        with pytest.raises(JavaError, match=r"(?s)Java is not installed.*cider: 1"):
            Reward(options, vocabulary)
    Reward(CIDER, vocabulary, training_frequencies(TRAINING)).close()


def test_a_closed_reward_says_so(cider: Reward) -> None:
    with cider:
        pass
    cider.close()
    with pytest.raises(ValueError, match="closed"):
        cider.score([[1, 0]], [TRAINING[0]])


# ---- METEOR ---------------------------------------------------------------------------------------------


@needs_java
def test_meteor_of_words_knows_stems_and_ids_do_not(
    vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    vocabulary = Vocabulary([*vocabulary.words[:-1], "playing", "UNK"])
    said = [ids(vocabulary, text) for text in ("a woman playing the violin", "", "a woman plays the violin")]
    values: list[list[float]] = []
    with Meteor() as process:  # one for all: it takes seconds to start
        monkeypatch.setattr(rewards, "Meteor", lambda: nullcontext(process))
        for weights in ((1, 0, 0), (0, 1, 0), (2, 3, 0)):
            with Reward(RewardOptions(*weights), vocabulary) as reward:
                values.append(reward.score(said, [TRAINING[3]] * 3))
    of_ids, of_words, of_both = values
    assert of_words[0] > of_ids[0] + 0.01
    assert of_words[1] == 0, "the end is no word of METEOR's"
    assert of_ids[1] > 0, "but it is an id"
    assert of_ids[2] == of_words[2] == pytest.approx(1)
    assert of_both == pytest.approx([2 * i + 3 * w for i, w in zip(of_ids, of_words, strict=True)])


@needs_java
def test_the_process_ends_with_the_block(vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    class Watched(rewards.Meteor):
        def __init__(self) -> None:
            super().__init__()
            started.append(self._process)

    monkeypatch.setattr(rewards, "Meteor", Watched)

    def fail() -> None:
        with Reward(RewardOptions(), vocabulary):
            assert started[0].poll() is None
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert len(started) == 1
    assert started[0].poll() is not None


# ---- memory and speed -----------------------------------------------------------------------------------


def test_a_pair_is_scored_once(cider: Reward, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    score = rewards.Cider.score

    def watched(self: Any, candidates: list[str]) -> list[float]:
        asked.extend(candidates)
        return score(self, candidates)

    monkeypatch.setattr(rewards.Cider, "score", watched)
    said = [ids(vocabulary, text) for text in ("two dogs run", "a girl", "two dogs run")]
    first = cider.score(said, [TRAINING[2]] * 3)
    assert len(asked) == 2
    assert cider.score(said, [TRAINING[2]] * 3) == first
    assert len(asked) == 2
    other = cider.score(said, [TRAINING[4]] * 3)  # other references are another pair
    assert len(asked) == 4
    assert other != first
    monkeypatch.setattr(rewards, "REMEMBERED", 3)
    assert cider.score(said, [TRAINING[2]] * 3) == first, "what was forgotten is scored anew"
    assert len(asked) == 6


def test_cider_is_quick(vocabulary: Vocabulary) -> None:
    """Thousands of sentences a second; the table of all n-grams, large for a real split, is not weighed anew."""
    counts = {(f"w{i}", f"w{j}"): 2 for i in range(400) for j in range(500)}
    frequencies = training_frequencies(TRAINING)._replace(documents=10_000)
    reward = Reward(CIDER, vocabulary, frequencies._replace(counts={**counts, **frequencies.counts}))
    names = list(range(1, len(vocabulary) - 1))
    said = [[*(names[(k * i + i) % len(names)] for i in range(1, 13)), 0] for k in range(1, 5)]
    begin = time.perf_counter()
    for _ in range(100):
        reward.score(said, [TRAINING[0]] * 4)
        reward._cider._known.clear()  # type: ignore[union-attr]
    assert time.perf_counter() - begin < 2, "400 sentences take tens of milliseconds, weighing the table 5 s"


# ---- frequencies ----------------------------------------------------------------------------------------


def test_frequencies_survive_a_file(cider: Reward, vocabulary: Vocabulary, tmp_path: Path) -> None:
    path = tmp_path / "new" / "frequencies.json"
    write_frequencies(path, training_frequencies(TRAINING))
    read = read_frequencies(path)
    assert read.documents == len(TRAINING)
    assert read.counts["a", "man"] == 2
    assert [p.name for p in path.parent.iterdir()] == [path.name], "no temporary file is left"
    said = [ids(vocabulary, text) for text in ("a man plays the violin", "the dogs run", "a red ball")]
    references = [TRAINING[0], TRAINING[2], TRAINING[5]]
    assert Reward(CIDER, vocabulary, read).score(said, references) == cider.score(said, references)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"documents": 3}',
        '{"documents": "x", "counts": {}}',
        '{"documents": 0, "counts": {}}',
        '{"documents": 3, "counts": {"a": 4}}',
    ],
)
def test_other_files_are_refused_by_name(content: str, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"other\.json: "):
        read_frequencies(path)


def test_the_file_is_plain_json(tmp_path: Path) -> None:
    write_frequencies(tmp_path / "f.json", training_frequencies([[["a", "é"]], [["a", "é"]], [["b"]]]))
    stored = json.loads((tmp_path / "f.json").read_text(encoding="utf-8"))
    assert stored["documents"] == 3
    assert stored["counts"]["a é"] == 2
    assert "b" not in stored["counts"]
