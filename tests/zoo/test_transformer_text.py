"""Text encoders of Transformers: pooling, masks, lengths, and what a checkpoint needs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch

from groundzoo.zoo.text.transformer import TransformerText

TEXTS = ["the red door", "a person opens the red door of the box .", "", "zebra"]
BERT = {"model_type": "bert", "vocab_size": 30, "max_position_embeddings": 24, **tiny_models.TOWER}
T5 = {"model_type": "t5", "vocab_size": 30, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
ROBERTA = {**BERT, "model_type": "roberta", "max_position_embeddings": 12, "pad_token_id": 1}
DISTIL = {
    "model_type": "distilbert",
    "vocab_size": 30,
    "dim": 16,
    "hidden_dim": 32,
    "n_layers": 2,
    "n_heads": 2,
    "max_position_embeddings": 24,
}
KINDS: dict[str, tuple[dict[str, Any], Callable[[], Any]]] = {
    "bert": (BERT, tiny_models.bert_tokenizer),
    "t5": (T5, tiny_models.t5_tokenizer),
    "distilbert": (DISTIL, tiny_models.bert_tokenizer),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("tokenizers")
    for name, (_, tokenizer) in KINDS.items():
        tokenizer().save_pretrained(root / name)
    return {name: root / name for name in KINDS}


def make(folders: dict[str, Path], kind: str = "bert", **options: Any) -> TransformerText:
    defaults = {"weights": "random", "config": KINDS[kind][0], "tokenizer": folders[kind]}
    return TransformerText(**{**defaults, **options})


@pytest.mark.parametrize("kind", KINDS)
def test_words_and_masks(kind: str, folders: dict[str, Path]) -> None:
    encoder = make(folders, kind)
    out = encoder(TEXTS)
    assert out.mask.sum(1).tolist() == [3, 10, 1, 1]
    assert out.words.shape == (4, 10, encoder.dim) == (4, 10, 16)
    assert (out.mask.int().diff(dim=1) <= 0).all(), "words come first, then padding"
    assert (out.words[~out.mask] == 0).all()
    assert (out.words[out.mask].abs().sum(1) > 0).all()
    for i, text in enumerate(TEXTS):
        alone = encoder([text])
        n = alone.words.shape[1]
        torch.testing.assert_close(alone.words[0], out.words[i, :n], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(alone.sentence[0], out.sentence[i], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_words_are_last_states_and_sentences_pooled(kind: str, folders: dict[str, Path]) -> None:
    text = TEXTS[1]
    ids = torch.tensor([KINDS[kind][1]()(text)["input_ids"]])
    encoder = make(folders, kind)
    states = encoder.network(ids).last_hidden_state[0]
    first = 0 if kind == "t5" else 1
    torch.testing.assert_close(encoder([text]).words[0], states[first:-1])
    torch.testing.assert_close(encoder(TEXTS).sentence[1], states.mean(0))
    start = make(folders, kind, sentence="cls")(TEXTS).sentence
    torch.testing.assert_close(start[1], states[0])


def test_pooler(folders: dict[str, Path]) -> None:
    encoder = make(folders, sentence="pooler")
    ids = torch.tensor([tiny_models.bert_tokenizer()(TEXTS[0])["input_ids"]])
    torch.testing.assert_close(encoder([TEXTS[0]]).sentence, encoder.network(ids).pooler_output)
    assert not [n for n, _ in make(folders).named_parameters() if "pooler" in n]
    with pytest.raises(ValueError, match="T5EncoderModel has no pooling layer"):
        make(folders, "t5", sentence="pooler")


def test_lengths(folders: dict[str, Path]) -> None:
    long = " ".join(["door"] * 60)
    assert make(folders).tokenizer.max_length == 20  # the tokenizer's
    assert make(folders)([long]).mask.sum() == 18
    assert make(folders, max_length=6)([long]).mask.sum() == 4
    assert make(folders, config={**BERT, "max_position_embeddings": 9})([long]).mask.sum() == 7
    assert make(folders, "t5")([" ".join(["door"] * 600)]).mask.sum() == 511
    shifted = make(folders, config=ROBERTA)
    assert shifted.tokenizer.max_length == 10  # positions begin behind that of padding
    assert torch.isfinite(shifted([long]).words).all()


def test_folders(folders: dict[str, Path], tmp_path: Path) -> None:
    changes = {k: v for k, v in BERT.items() if k != "model_type"}
    tiny_models.save(tmp_path, "bert", "BertForMaskedLM", **changes)
    tiny_models.bert_tokenizer().save_pretrained(tmp_path)
    encoder = TransformerText(tmp_path)
    other = make(folders)
    assert not torch.allclose(other(TEXTS).words, encoder(TEXTS).words)
    other.load_state_dict(encoder.state_dict())
    assert torch.equal(other(TEXTS).words, encoder(TEXTS).words)
    with pytest.raises(ValueError, match=r"2 missing \(pooler\.dense\.bias"):
        TransformerText(tmp_path, sentence="pooler")


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_rebuilds_it(kind: str, folders: dict[str, Path]) -> None:
    encoder = make(folders, kind, sentence="cls", max_length=9)
    arguments = json.loads(json.dumps({**encoder.settings, **encoder.rebuild_arguments()}))
    again = TransformerText(**arguments)
    again.load_state_dict(encoder.state_dict())
    for found, expected in zip(again(TEXTS), encoder(TEXTS), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_frozen_and_trainable(kind: str, folders: dict[str, Path]) -> None:
    frozen = make(folders, kind).train()
    assert not any(m.training for m in frozen.modules())
    assert not any(p.requires_grad for p in frozen.parameters())
    assert not frozen(TEXTS).words.requires_grad
    assert torch.equal(frozen(TEXTS).words, make(folders, kind)(TEXTS).words), "equal starts, no dropout"
    trained = make(folders, kind, trainable=True).train()
    with torch.no_grad():
        assert not trained(TEXTS).words.requires_grad
    trained(TEXTS).words.square().sum().backward()
    assert [n for n, p in trained.named_parameters() if p.grad is None] == []


def test_half_precision(folders: dict[str, Path]) -> None:
    exact, rough = make(folders)(TEXTS), make(folders).bfloat16()(TEXTS)
    assert rough.words.dtype == rough.sentence.dtype == torch.bfloat16
    torch.testing.assert_close(rough.words.float(), exact.words, rtol=0.1, atol=0.1)


def test_what_is_told(folders: dict[str, Path], tmp_path: Path) -> None:
    vit = tiny_models.save(tmp_path, "vit", "ViTModel")
    for options, message in (
        ({"tokenizer": None}, "give `tokenizer`"),
        ({"config": {**BERT, "vocab_size": 5}}, "tokens and the network 5"),
        ({"weights": vit, "config": None}, "type vit, which encodes no text"),
        ({"weights": "nobody/nothing", "config": None}, "download: true"),
        ({"config": None}, "random needs `config`"),
    ):
        with pytest.raises(ValueError, match=message):
            make(folders, **options)
