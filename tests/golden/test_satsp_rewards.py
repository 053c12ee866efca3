"""Rewards and loss of self-critical training against the released programs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_files import golden_cases

from groundzoo.tasks.metrics.caption_scorers import Cider
from groundzoo.tasks.rewards import Reward, RewardOptions, training_frequencies
from groundzoo.zoo.self_critical import policy_loss
from groundzoo.zoo.text.vocabulary import END, UNKNOWN, Vocabulary

pytestmark = pytest.mark.golden
CIDER = RewardOptions(meteor_ids=0, cider=1)
EOS = "<eos>"

cider_files = pytest.mark.parametrize("path", golden_cases("satsp", "scst_ciderd*.json"), ids=lambda p: p.stem)
meteor_files = pytest.mark.parametrize(
    "path", golden_cases("satsp", "scst_meteor_ids*.json"), ids=lambda p: p.stem
)


def load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def words_of(text: str) -> list[str]:
    *words, end = text.split()
    assert end == EOS, f"{text!r} does not end"
    return words


def all_words(documents: list[list[str]]) -> list[list[list[str]]]:
    return [[words_of(text) for text in document] for document in documents]


@cider_files
def test_cider_rewards(path: Path) -> None:
    given = load(path)
    corpus, references = all_words(given["df_corpus"]), all_words(given["refs"])
    said = {kind: [words_of(text) for text in given[kind]] for kind in ("greedy", "sample")}
    vocabulary = Vocabulary.fitted([*said["greedy"], *said["sample"]], 1)  # not the words of the references
    frequencies = training_frequencies(corpus)
    assert frequencies.documents == given["n_docs"]
    for gram, count in given["df_examples"].items():
        assert frequencies.counts[tuple(gram.replace(EOS, END).split())] == count, gram
    assert torch.tensor(float(frequencies.documents)).log().item() == pytest.approx(given["log_ref_len"])
    with Reward(CIDER, vocabulary, frequencies) as reward:
        found = {
            kind: reward.score([[*vocabulary.encode(words, 99), 0, 0] for words in sentences], references)
            for kind, sentences in said.items()
        }
    for kind in said:
        assert found[kind] == pytest.approx(given[f"{kind}_ciderD"], rel=1e-9, abs=1e-9), kind
    advantage = [s - g for s, g in zip(found["sample"], found["greedy"], strict=True)]
    assert advantage == pytest.approx(given["advantage"], rel=1e-9, abs=1e-9)
    means = [sum(found[kind]) / len(found[kind]) for kind in ("greedy", "sample")]
    assert means == pytest.approx(given["mean"], rel=1e-9)


@cider_files
def test_frequencies_of_the_scored_references(path: Path) -> None:
    given = load(path)
    kinds = [key for key in given if key.startswith("corpus_mode_")]
    assert kinds
    for kind in kinds:
        found = Cider(given["refs"]).score(given[kind.removeprefix("corpus_mode_")])
        assert found == pytest.approx(given[kind], rel=1e-9, abs=1e-9), kind


@cider_files
def test_policy_loss(path: Path) -> None:
    given = load(path)
    example = given["policy_loss"]
    log_probs = torch.tensor(example["logprobs"], dtype=torch.float64, requires_grad=True)
    words = torch.tensor(example["seq_0_is_eos"])
    advantage = torch.tensor(given["advantage"], dtype=torch.float64)
    loss = policy_loss(log_probs, words, advantage)
    assert loss.item() == pytest.approx(example["loss_mean_over_mask"], rel=1e-9)
    (slope,) = torch.autograd.grad(loss, log_probs)
    mask = torch.tensor(example["mask"], dtype=torch.float64)
    torch.testing.assert_close(slope, -mask * advantage[:, None] / mask.sum())


@meteor_files
def test_meteor_of_ids(path: Path) -> None:
    if shutil.which("java") is None:
        pytest.skip("Java is not installed")
    given = load(path)
    size = 1 + max(i for kind in ("gt", "sample", "greedy") for ids in given[kind] for i in ids)
    vocabulary = Vocabulary([END, *(f"w{i}" for i in range(1, size)), UNKNOWN])
    as_words = [[vocabulary.decode(ids)] for ids in given["gt"]]
    with Reward(RewardOptions(), vocabulary) as reward:
        found = {kind: reward.score(given[kind], [[ids] for ids in given["gt"]]) for kind in ("sample", "greedy")}
        for kind, values in found.items():
            assert values == pytest.approx(given[f"{kind}_meteor"], abs=1e-9), kind
            assert reward.score(given[kind], as_words) == values, "references as words say the same"
    advantage = [s - g for s, g in zip(found["sample"], found["greedy"], strict=True)]
    assert advantage == pytest.approx(given["advantage"], abs=1e-9)
