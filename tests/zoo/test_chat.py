"""Language models that are asked: templates, batches, prompts that are too long."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_annotators
import torch
from tiny_models import save

from groundzoo.zoo.chat import Message, TransformersChat

TURNS = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TURNS
CHATS = [
    [Message("system", "be brief"), Message("user", "who opens the door?")],
    [Message("system", "be brief"), Message("user", "a"), Message("assistant", "b"), Message("user", "c")],
    [Message("user", "x " * 40)],
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_annotators.llama(tmp_path_factory.mktemp("llama"))


def test_batches_and_company_do_not_matter(folder: Path) -> None:
    alone = TransformersChat(folder, max_new_tokens=6, batch_size=1).answer(CHATS)
    together = TransformersChat(folder, max_new_tokens=6, batch_size=8).answer(CHATS)
    assert together == alone
    assert len(set(alone)) > 1
    assert TransformersChat(folder, max_new_tokens=6, batch_size=2).answer(CHATS[::-1]) == alone[::-1]
    assert TransformersChat(folder).answer([]) == []


def test_an_answer_is_what_generate_says(folder: Path) -> None:
    model = TransformersChat(folder, max_new_tokens=5)
    ids = torch.tensor([model._written(CHATS[0])])
    for _ in range(5):
        ids = torch.cat([ids, model.network(ids).logits[:, -1:].argmax(-1)], dim=1)
        if ids[0, -1] == 2:
            break
    expected = model.tokenizer.decode(ids[0, len(model._written(CHATS[0])) :], skip_special_tokens=True).strip()
    assert model.answer(CHATS[:1]) == [expected]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (TURNS, "[system]be brief[user]a[assistant]b[user]c[assistant]"),
        (NO_SYSTEM, "[user]be brief\n\na[assistant]b[user]c[assistant]"),
        (None, "be brief\n\nUser: a\n\nAssistant: b\n\nUser: c\n\nAssistant:</s>"),
    ],
)
def test_how_conversations_are_written(template: str | None, expected: str, tmp_path: Path) -> None:
    model = TransformersChat(tiny_annotators.llama(tmp_path, template))
    assert model.tokenizer.decode(model._written(CHATS[1])) == expected


def test_a_prompt_that_is_too_long_gets_no_answer(tmp_path: Path, caplog: Any) -> None:
    model = TransformersChat(tiny_annotators.llama(tmp_path, positions=80), max_new_tokens=6)
    with caplog.at_level("WARNING", logger="groundzoo"):
        answers = model.answer(CHATS)
    assert answers[2] == ""
    assert answers[:2] == TransformersChat(tmp_path, max_new_tokens=6).answer(CHATS[:2])
    assert answers[0]
    assert "1 of 3 prompts are too long" in caplog.text


def test_frozen(folder: Path) -> None:
    model = TransformersChat(folder)
    model.train()
    assert not any(module.training for module in model.modules())
    assert not any(p.requires_grad for p in model.parameters())


def test_weights_that_are_not_here_or_no_language_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not on this machine"):
        TransformersChat(str(tmp_path / "none"))
    with pytest.raises(ValueError, match="type vit: no causal language model"):
        TransformersChat(save(tmp_path, "vit", "ViTModel"))
