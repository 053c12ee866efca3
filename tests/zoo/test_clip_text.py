"""CLIP's text encoder: words, masks, cut texts, files of both kinds, and what a checkpoint needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from tiny_models import OPENAI_IMAGE as IMAGE
from tiny_models import OPENAI_TEXT as TEXT
from tiny_models import numbers

from groundzoo.zoo.text.clip import CLIPText
from groundzoo.zoo.text.tokenizer import Tokenizer, words_first

TEXTS = ["the red door", "a person opens the red door of the box .", "", "the"]
VOCABULARY = 196
CONFIG = {
    "model_type": "clip_text_model",
    **tiny_models.TOWER,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 30,
    "projection_dim": 12,
    "eos_token_id": VOCABULARY - 1,
    "bos_token_id": VOCABULARY - 2,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    tiny_models.clip_tokenizer().save_pretrained(path)
    return path


def make(folder: Path, **options: Any) -> CLIPText:
    return CLIPText(**{"weights": "random", "config": CONFIG, "tokenizer": folder, **options})


def test_words_and_masks(folder: Path) -> None:
    encoder = make(folder)
    out = encoder(TEXTS)
    ids = encoder.tokenizer(TEXTS, torch.device("cpu"))
    assert out.words.shape == (4, int(out.mask.sum(1).max()), 12)
    assert out.mask.dtype == torch.bool
    assert out.mask.sum(1).tolist() == [ids.inputs["attention_mask"][i].sum() - 2 for i in (0, 1)] + [1, 1]
    assert (out.mask.int().diff(dim=1) <= 0).all(), "words come first, then padding"
    assert (out.words[~out.mask] == 0).all()
    assert out.sentence.shape == (4, 12)
    assert torch.equal(out.words[2, 0], out.sentence[2]), "the end token stands for a text without words"


def test_vectors_are_projected_states(folder: Path) -> None:
    encoder = make(folder)
    out = encoder(TEXTS[:2])
    for i, text in enumerate(TEXTS[:2]):  # alone, without padding
        ids = torch.tensor([tiny_models.clip_tokenizer()(text)["input_ids"]])
        hidden = encoder.network.text_model(ids).last_hidden_state
        states = encoder.network.text_projection(hidden)[0]
        assert ids[0, -1] == VOCABULARY - 1
        torch.testing.assert_close(out.sentence[i], states[-1])
        torch.testing.assert_close(out.words[i, : len(states) - 2], states[1:-1])
        torch.testing.assert_close(out.sentence[i : i + 1], encoder.network(ids).text_embeds)


def test_batches_change_nothing(folder: Path) -> None:
    encoder = make(folder)
    out = encoder(TEXTS)
    for i, text in enumerate(TEXTS):
        alone = encoder([text])
        n = alone.words.shape[1]
        torch.testing.assert_close(alone.words[0], out.words[i, :n])
        torch.testing.assert_close(alone.sentence[0], out.sentence[i])
        assert not out.mask[i, n:].any()


def test_long_texts_keep_their_end(folder: Path) -> None:
    encoder = make(folder)
    long = " ".join(["the"] * 40)
    ids = encoder.tokenizer([long], torch.device("cpu")).inputs["input_ids"]
    assert ids.shape == (1, 30)
    assert ids[0, -1] == VOCABULARY - 1
    assert encoder([long]).mask.sum() == 28
    assert make(folder, max_length=5)([long]).mask.sum() == 3
    assert make(folder, max_length=99).tokenizer.max_length == 30
    with pytest.raises(ValueError, match="max_length=2: 2 special tokens leave no room"):
        make(folder, max_length=2)


def test_words_first() -> None:
    states = torch.arange(8.0).view(2, 4, 1) + 1
    words = torch.tensor([[False, True, False, True], [True, False, False, False]])
    found, mask = words_first(states, words)
    assert found[..., 0].tolist() == [[2, 4], [5, 0]]
    assert mask.tolist() == [[True, True], [True, False]]


# ---- weights ----


def test_folders(folder: Path, tmp_path: Path) -> None:
    text = {k: v for k, v in CONFIG.items() if k not in ("model_type", "projection_dim")}
    vision = tiny_models.IMAGE["clip_vision_model"]
    tiny_models.save(tmp_path, "clip", "CLIPModel", projection_dim=12, vision_config=vision, text_config=text)
    tiny_models.clip_tokenizer().save_pretrained(tmp_path)
    encoder = CLIPText(tmp_path)
    from safetensors.torch import load_file

    stored = load_file(tmp_path / "model.safetensors")
    for name, value in encoder.network.state_dict().items():
        assert torch.equal(stored[name], value)
    assert encoder.dim == 12
    other = CLIPText(tmp_path, tokenizer=folder)
    assert torch.equal(other(TEXTS).words, encoder(TEXTS).words)


def test_openai_files(folder: Path, tmp_path: Path) -> None:
    shapes = IMAGE | TEXT | {"token_embedding.weight": [VOCABULARY, 64]}
    torch.save(numbers(shapes), tmp_path / "clip.pt")
    encoder = CLIPText(tmp_path / "clip.pt", tokenizer=folder)
    assert encoder.tokenizer.max_length == 12
    ids = encoder.tokenizer(TEXTS, torch.device("cpu")).inputs["input_ids"]
    states = encoder.network.text_projection(encoder.network.text_model(ids).last_hidden_state)
    torch.testing.assert_close(encoder(TEXTS).sentence, states[torch.arange(4), ids.argmax(1)])
    with pytest.raises(ValueError, match="come without a vocabulary: give `tokenizer`"):
        CLIPText(tmp_path / "clip.pt")
    torch.save(numbers(IMAGE), tmp_path / "image.pt")
    with pytest.raises(ValueError, match="image tower alone"):
        CLIPText(tmp_path / "image.pt", tokenizer=folder)


def test_a_checkpoint_rebuilds_it(folder: Path) -> None:
    encoder = make(folder, max_length=7)
    arguments = json.loads(json.dumps({**encoder.settings, **encoder.rebuild_arguments()}))
    assert all(isinstance(text, str) for text in arguments["tokenizer"].values())
    again = CLIPText(**arguments)
    again.load_state_dict(encoder.state_dict())
    for found, expected in zip(again(TEXTS), encoder(TEXTS), strict=True):
        assert torch.equal(found, expected)


def test_what_is_told(folder: Path, tmp_path: Path) -> None:
    vit = tiny_models.save(tmp_path / "vit", "vit", "ViTModel")
    for options, message in (
        ({"tokenizer": None}, "give `tokenizer`"),
        ({"tokenizer": "nobody/nothing"}, "the tokenizer's files 'nobody/nothing' are not on this machine"),
        ({"tokenizer": vit}, "holds no tokenizer"),
        ({"config": {**CONFIG, "vocab_size": 100}}, "196 tokens and the network 100"),
        ({"weights": vit, "config": None}, "type vit, not CLIP"),
    ):
        with pytest.raises(ValueError, match=message):
            make(folder, **options)


# ---- training ----


def test_frozen_and_trainable(folder: Path) -> None:
    frozen = make(folder).train()
    assert not any(m.training for m in frozen.modules())
    assert not any(p.requires_grad for p in frozen.parameters())
    assert not frozen(TEXTS).words.requires_grad
    trained = make(folder, trainable=True).train()
    with torch.no_grad():
        assert not trained(TEXTS).words.requires_grad
    out = trained(TEXTS)
    assert out.words.requires_grad
    (out.words.square().sum() + out.sentence.sum()).backward()
    assert [n for n, p in trained.named_parameters() if p.grad is None] == []


def test_half_precision_and_equal_starts(folder: Path) -> None:
    exact, rough = make(folder)(TEXTS), make(folder).bfloat16()(TEXTS)
    assert rough.words.dtype == torch.bfloat16
    torch.testing.assert_close(rough.words.float(), exact.words, rtol=0.1, atol=0.1)


def test_tokenizers_travel_as_text(folder: Path) -> None:
    first = Tokenizer(folder, 16, VOCABULARY)
    again = Tokenizer(first.files, 16, VOCABULARY)
    here = torch.device("cpu")
    for text in (TEXTS, ["THE red  Door!", "zzz"]):
        a, b = first(text, here), again(text, here)
        assert all(torch.equal(a.inputs[k], b.inputs[k]) for k in a.inputs)
        assert torch.equal(a.words, b.words)
