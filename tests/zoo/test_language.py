"""Language models: what is learned, what a state is, and that given and generated answers agree."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from groundzoo.zoo.language import LanguageModel
from groundzoo.zoo.text.chat import Prompt
from groundzoo.zoo.text.grounded_text import GroundedText
from groundzoo.zoo.text.word_tokenizer import word_tokenizer_files, words_of

SIZE = {
    "vocab_size": 30,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
LLAMA: dict[str, Any] = {"model_type": "llama", **SIZE}
NEOX: dict[str, Any] = {"model_type": "gpt_neox", **SIZE}
QWEN: dict[str, Any] = {"model_type": "qwen2", **SIZE, "num_key_value_heads": 2, "tie_word_embeddings": True}
KINDS = pytest.mark.parametrize("config", [LLAMA, NEOX, QWEN], ids=lambda c: c["model_type"])
CAPTIONS = [
    GroundedText("A red circle moves while a blue cross rests", ((0, 12), (25, 37))),
    GroundedText("the green cross grows", ((0, 15),)),
]
NONE = GroundedText("nothing moves")
EMPTY = GroundedText("")


def make(config: dict[str, Any] = LLAMA, **options: Any) -> LanguageModel:
    model = LanguageModel(**{"weights": "random", "tokenizer": "words", "config": config, **options})
    model.fit_vocabulary([*CAPTIONS, NONE])
    return model


def visual(clips: int = 2, tokens: int = 5) -> Tensor:
    return torch.randn(clips, tokens, 32, generator=torch.Generator().manual_seed(0))


def learn(model: LanguageModel, captions: Sequence[GroundedText], steps: int) -> list[float]:
    """Mean loss per token, step by step."""
    optimizer = torch.optim.AdamW(list(model.learned_parameters()), lr=1e-2)
    losses, tokens = [], visual(len(captions))
    model.train()
    for _ in range(steps):
        told = model.teacher_forced(tokens, captions)
        loss = told.loss_sum / told.tokens
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    return losses


def by_hand(model: LanguageModel, tokens: Tensor, caption: GroundedText) -> tuple[Tensor, Tensor, list[int]]:
    """Loss, last states and places of [DET] of one clip, by Transformers' own means."""
    ids, before = model.tokenizer.question()
    answer = model.tokenizer.answer(caption)
    table = model.network.get_input_embeddings()
    head, tail = table(torch.tensor([ids[:before]])), table(torch.tensor([ids[before:] + answer]))
    labels = torch.tensor([[-100] * (len(ids) + tokens.shape[1]) + answer])
    out = model.network(inputs_embeds=torch.cat([head, tokens, tail], 1), labels=labels, output_hidden_states=True)
    places = [i for i, label in enumerate(labels[0].tolist()) if label == model.tokenizer.detection]
    return out.loss * len(answer), out.hidden_states[-1][0], places


# ---- given sentences ------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("det_state", ["predicts", "self"])
def test_loss_and_states_of_every_clip(config: dict[str, Any], det_state: Any) -> None:
    """A batch of answers of unlike lengths is what Transformers computes of each alone."""
    model = make(config, det_state=det_state).eval()
    captions, tokens = [EMPTY, *CAPTIONS, NONE], visual(4)
    told = model.teacher_forced(tokens, captions)
    losses, states = [], []
    for clip, caption in zip(tokens, captions, strict=True):
        loss, last, places = by_hand(model, clip[None], caption)
        losses.append(loss)
        states.append(last[[p - (det_state == "predicts") for p in places]])
    torch.testing.assert_close(told.loss_sum, torch.stack(losses).sum(), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(told.states, torch.cat(states), rtol=1e-5, atol=1e-5)
    assert told.states.shape == (3, model.dim)
    assert told.tokens == sum(len(model.tokenizer.answer(c)) for c in captions)
    assert told.kept.tolist() == [True] * 3


def test_the_video_is_read() -> None:
    model = make().eval()
    for count in (1, 5, 9):
        first, other = visual(2, count), visual(2, count).flip(0)
        states = [model.teacher_forced(v, CAPTIONS).states for v in (first, other)]
        assert (states[0] - states[1]).abs().max() > 1e-4


def test_long_answers_lose_their_end() -> None:
    whole = make().eval()
    question, answer = whole.tokenizer.question()[0], whole.tokenizer.answer(CAPTIONS[0])
    second = [i for i, token in enumerate(answer) if token == whole.tokenizer.detection][1]
    full = whole.teacher_forced(visual(1), CAPTIONS[:1])
    for kept, phrases in ((second + 1, 2), (second, 1), (1, 0)):
        model = make(max_length=len(question) + 5 + kept).eval()
        told = model.teacher_forced(visual(), CAPTIONS)
        alone = model.teacher_forced(visual(1), CAPTIONS[:1])
        assert alone.tokens == kept
        assert alone.kept.tolist() == [i < phrases for i in range(2)]
        torch.testing.assert_close(alone.states, full.states[:phrases], rtol=1e-5, atol=1e-5)
        assert told.states.shape[0] == told.kept.sum()
    with pytest.raises(ValueError, match=rf"question has {len(question)} tokens and the video 5"):
        make(max_length=len(question) + 5).teacher_forced(visual(), CAPTIONS)
    assert make(max_length=9999).max_length == 256, "no more than the model has positions"


def test_questions_are_drawn_by_the_runs_generator() -> None:
    model = make().eval()
    tokens = visual(1).expand(24, -1, -1)

    def states(seed: int, **options: Any) -> Tensor:
        torch.manual_seed(seed)
        return model.teacher_forced(tokens, CAPTIONS[1:] * 24, **options).states

    drawn = states(0, draw_question=True)
    assert len(drawn.round(decimals=4).unique(dim=0)) == 6
    torch.testing.assert_close(states(0, draw_question=True), drawn)
    assert not torch.allclose(states(1, draw_question=True), drawn)
    first = states(0)
    assert len(first.round(decimals=4).unique(dim=0)) == 1
    assert (states(0, given=True) - first).abs().max() > 1e-4
    assert len(states(0, given=True, draw_question=True).round(decimals=4).unique(dim=0)) == 6


# ---- what is learned ------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("train", ["embeddings", "all"])
def test_the_loss_falls(config: dict[str, Any], train: Any) -> None:
    losses = learn(make(config, train=train), CAPTIONS, 30)
    assert losses[-1] < 0.4 * losses[0]


@KINDS
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("train", ["embeddings", "all", "none"])
def test_gradients_reach_what_is_learned_and_the_video(config: dict[str, Any], train: Any, dtype: Any) -> None:
    model = make(config, train=train, frozen_dtype=dtype, gradient_checkpointing=True).train()
    tokens = visual().requires_grad_()
    told = model.teacher_forced(tokens, CAPTIONS)
    (told.loss_sum / told.tokens + told.states.square().mean()).backward()
    assert tokens.grad is not None
    assert (tokens.grad != 0).any(-1).all()
    learned = {id(p) for p in model.learned_parameters()}
    for name, parameter in model.named_parameters():
        assert (id(parameter) in learned) == parameter.requires_grad == (parameter.grad is not None), name
        assert parameter.dtype == (torch.float32 if id(parameter) in learned else getattr(torch, dtype)), name
    tied = config.get("tie_word_embeddings", False)
    words = len(model.tokenizer)
    tables = {n for n, p in model.network.named_parameters() if id(p) in learned and p.shape[0] == words}
    assert len(learned) == {"none": 0, "embeddings": len(tables), "all": len(list(model.parameters()))}[train]
    assert len(tables) == (0 if train == "none" else 1 if tied else 2)
    assert model.trainable == model.training == (train != "none")


def test_half_precision_of_frozen_layers_is_near() -> None:
    exact, rough = make().eval(), make(frozen_dtype="bfloat16").eval()
    found, expected = (m.teacher_forced(visual(), CAPTIONS) for m in (rough, exact))
    torch.testing.assert_close(found.states, expected.states, rtol=0.1, atol=0.1)
    assert found.loss_sum.item() == pytest.approx(expected.loss_sum.item(), rel=0.02)
    assert found.loss_sum.dtype == found.states.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        mixed = rough.teacher_forced(visual(), CAPTIONS)
        assert len(rough.answer(visual(), 4).texts) == 2
    torch.testing.assert_close(mixed.states.float(), expected.states, rtol=0.1, atol=0.1)
    assert len(rough.answer(visual(), 4).texts) == 2


def test_gradient_checkpointing_changes_nothing() -> None:
    grads = []
    for on in (False, True):
        model = make(train="all", gradient_checkpointing=on).train()
        model.teacher_forced(visual(), CAPTIONS).loss_sum.backward()
        grads.append([p.grad for p in model.parameters()])
    for found, expected in zip(*grads, strict=True):
        torch.testing.assert_close(found, expected)


def test_low_rank_updates() -> None:
    pytest.importorskip("peft", reason="low-rank updates need groundzoo[lora]")
    plain = make().eval()
    for config in (LLAMA, NEOX):
        model = make(config, train="lora", frozen_dtype="bfloat16")
        names = [n for n, p in model.network.named_parameters() if p.requires_grad]
        assert len([n for n in names if "lora_" in n]) == len(names) - 2 > 0
        assert {p.dtype for p in model.learned_parameters()} == {torch.float32}
        assert learn(model, CAPTIONS, 30)[-1] < 2
        assert model.answer(visual(), 8).states.isfinite().all()
        arguments = {**model.settings, **json.loads(json.dumps(model.rebuild_arguments()))}
        again = LanguageModel(**arguments)
        again.set_vocabulary(model.vocabulary or [])
        again.load_state_dict(model.state_dict())
        expected = model.teacher_forced(visual(), CAPTIONS)
        assert torch.equal(again.eval().teacher_forced(visual(), CAPTIONS).loss_sum, expected.loss_sum)
    start = make(train="lora").eval()  # the updates are zero at first
    torch.testing.assert_close(
        start.teacher_forced(visual(), CAPTIONS).states, plain.teacher_forced(visual(), CAPTIONS).states
    )


def test_low_rank_updates_need_peft(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ImportError, match=r"groundzoo\[lora\]"):
        make(train="lora")


# ---- sentences of its own -------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("det_state", ["predicts", "self"])
def test_generated_and_given_states_agree(config: dict[str, Any], det_state: Any) -> None:
    """Answers of unlike lengths, one of them empty, one without phrases."""
    model = make(config, train="all", det_state=det_state)
    captions, tokens = [EMPTY, *CAPTIONS, NONE], visual(4)
    learn(model, captions, 90)
    said = model.answer(tokens)
    assert [t.text for t in said.texts] == [c.text.lower() for c in captions]
    assert [t.spans for t in said.texts] == [c.spans for c in captions]
    told = model.teacher_forced(tokens, said.texts)
    torch.testing.assert_close(said.states, told.states, rtol=1e-5, atol=1e-5)
    for i, caption in enumerate(captions):
        alone = model.answer(tokens[i : i + 1])
        forced = model.teacher_forced(tokens[i : i + 1], [caption])
        assert alone.raw[0] == said.raw[i]
        assert said.scores[i] == pytest.approx(alone.scores[0], abs=1e-5)
        assert said.scores[i] == pytest.approx(-forced.loss_sum.item() / forced.tokens.item(), abs=1e-5)
        torch.testing.assert_close(alone.states, forced.states, rtol=1e-5, atol=1e-5)
    cut = model.answer(tokens[1:2], said.raw[1].split().index("[DET]") + 1)
    assert cut.texts == [GroundedText("a red circle", ((0, 12),))]
    torch.testing.assert_close(cut.states, told.states[:1], rtol=1e-5, atol=1e-5)


def test_malformed_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four detection tokens those of the first and third phrase count; the second has no words."""
    model = make(train="all")
    mine = "[DET] <p> <p> a red circle </p> <p> </p> [DET] moves </p> [DET] <p> a cross </p> rests"
    answer = [*model.tokenizer._ids(mine), model.tokenizer.end]
    with monkeypatch.context() as patched:
        patched.setattr(model.tokenizer, "answer", lambda caption: answer)
        learn(model, CAPTIONS, 60)
        told = model.teacher_forced(visual(), CAPTIONS)
    said = model.answer(visual())
    assert said.raw == [mine] * 2
    assert [t.phrases for t in said.texts] == [["a red circle", "a cross"]] * 2
    torch.testing.assert_close(said.states, told.states[[0, 2, 3, 5]], rtol=1e-5, atol=1e-5)


def test_answers_stay_within_the_length() -> None:
    question = make().tokenizer.question()[0]
    model = make(max_length=len(question) + 5 + 7).eval()
    said = model.answer(visual(), 64)
    assert all(len(model.tokenizer._ids(raw)) <= 7 for raw in said.raw)
    assert all(len(model.tokenizer._ids(raw)) <= 3 for raw in model.answer(visual(), 3).raw)
    assert all(score < 0 for score in said.scores)
    with pytest.raises(ValueError, match="no room for an answer"):
        model.answer(visual(1, 12))
    with pytest.raises(ValueError, match=r"should be \(2, V, 32\)"):
        model.teacher_forced(visual(2)[..., :8], CAPTIONS)


def test_tags_spelt_out_are_no_tags(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make()
    monkeypatch.setattr(model.tokenizer, "text", lambda ids: "<p> a cross </p> [DET] <p> a circle </p> [DET]")
    assert model._read([model.tokenizer.detection]) == (GroundedText("a cross a circle"), [False])


# ---- files, words, checkpoints --------------------------------------------------------------------------


def test_words_come_from_captions() -> None:
    model = LanguageModel("random", "words", config=LLAMA)
    assert model.vocabulary is None
    with pytest.raises(RuntimeError, match="no words yet"):
        model.teacher_forced(visual(), CAPTIONS)
    model.fit_vocabulary(CAPTIONS)
    words = model.vocabulary
    assert words is not None
    assert set(words) == set(words_of([*Prompt().texts, *(c.text for c in CAPTIONS)]))
    assert model.network.get_input_embeddings().num_embeddings == len(words) + 3 + 5
    short = make(prompt=Prompt(system="", lead="{video}", questions=("",), given_questions=("",)))
    assert len(short.vocabulary or []) == 15
    assert len(short.tokenizer.question()[0]) < 10
    assert short.eval().teacher_forced(visual(), CAPTIONS).loss_sum.isfinite()


@KINDS
def test_a_checkpoint_rebuilds_it(config: dict[str, Any]) -> None:
    tokenizer = word_tokenizer_files(words_of(["a red circle"]))
    for source in ("words", tokenizer):
        model = make(config, tokenizer=source, frozen_dtype="bfloat16", max_length=200, det_state="self")
        learn(model, CAPTIONS, 2)
        arguments = json.loads(json.dumps({**model.settings, **model.rebuild_arguments()}))
        again = LanguageModel(**arguments)
        if model.vocabulary is not None:
            again.set_vocabulary(model.vocabulary)
        again.load_state_dict(model.state_dict())
        assert again.eval().answer(visual(), 8).raw == model.answer(visual(), 8).raw
        found, expected = (m.teacher_forced(visual(), CAPTIONS) for m in (again, model))
        assert torch.equal(found.loss_sum, expected.loss_sum)
        assert torch.equal(found.states, expected.states)
        assert (model.vocabulary is None) == (source != "words")


def test_equal_starts() -> None:
    torch.manual_seed(5)
    first = make().state_dict()
    drawn = torch.rand(1)
    second = make().state_dict()
    assert all(torch.equal(first[k], second[k]) for k in first)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), drawn), "the caller's generator is left alone"


@pytest.mark.parametrize("config", [LLAMA, NEOX], ids=lambda c: c["model_type"])
def test_folders(config: dict[str, Any], tmp_path: Path) -> None:
    """Weights in half precision, a table of embeddings that grows by the tags, and settings of generation."""
    import transformers

    for name, text in word_tokenizer_files(words_of(["a red circle moves"])).items():
        (tmp_path / name).write_text(text)
    settings = transformers.CONFIG_MAPPING[config["model_type"]](**{**config, "vocab_size": 7})
    torch.manual_seed(1)
    saved = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(settings)](settings).bfloat16()
    saved.generation_config.update(do_sample=True, temperature=9.0, repetition_penalty=3.0, max_length=3)
    saved.save_pretrained(tmp_path)
    rough = LanguageModel(tmp_path, frozen_dtype="bfloat16")
    table = rough.network.get_input_embeddings().weight
    assert table.shape == (12, 32)
    assert table.dtype == torch.float32
    assert torch.equal(table[:7].bfloat16(), saved.get_input_embeddings().weight)
    frozen = {n: p for n, p in rough.network.named_parameters() if not p.requires_grad}
    assert {p.dtype for p in frozen.values()} == {torch.bfloat16}
    assert all(torch.equal(p, saved.get_parameter(n)) for n, p in frozen.items())
    model = LanguageModel(tmp_path, train="all", frozen_dtype="bfloat16").eval()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    with torch.no_grad():
        model.network.get_output_embeddings().weight[model.tokenizer.end] = 0  # it never ends
    said = model.answer(visual(), 12)
    for tokens, raw in zip(visual(), said.raw, strict=True):
        ids, before = model.tokenizer.question()
        answer = model.tokenizer._ids(raw)
        table = model.network.get_input_embeddings()
        inputs = torch.cat([table(torch.tensor(ids[:before])), tokens, table(torch.tensor(ids[before:] + answer))])
        likeliest = model.network(inputs_embeds=inputs[None]).logits[0].argmax(-1)[-len(answer) - 1 :].tolist()
        assert answer == likeliest[:-1], "greedy, whatever the folder says"
        assert len(answer) == 12, "more tokens than there are words: some come twice"


def test_the_embeddings_of_a_padded_table_stay() -> None:
    """Tables often have more rows than the tokenizer has tokens."""
    files = word_tokenizer_files(words_of(["a red circle moves"]))
    model = LanguageModel("random", files, config={**LLAMA, "vocab_size": 40})
    assert model.network.get_input_embeddings().num_embeddings == 40
    assert model.vocabulary is None
    model.fit_vocabulary(CAPTIONS)
    assert model.vocabulary is None
    assert model.eval().teacher_forced(visual(), CAPTIONS).loss_sum.isfinite()


def test_nothing_is_computed_on_the_meta_device() -> None:
    """Plans for large models need no memory."""
    size = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
    with torch.device("meta"):
        model = LanguageModel("random", "words", config={**LLAMA, **size}, frozen_dtype="bfloat16")
    frozen = [p for p in model.parameters() if not p.requires_grad]
    assert sum(p.numel() for p in frozen) == 6_476_271_616
    assert {p.dtype for p in frozen} == {torch.bfloat16}
    assert {p.device.type for p in model.parameters()} == {"meta"}


def test_what_is_told() -> None:
    bert = {"model_type": "vit", "hidden_size": 16, "num_attention_heads": 2}
    for options, message in (
        ({"tokenizer": None}, "give `tokenizer`"),
        ({"config": bert}, "type vit, which writes no text"),
        ({"weights": "nobody/nothing", "config": None}, "download: true"),
        ({"config": {**LLAMA, "vocab_size": 3}, "tokenizer": word_tokenizer_files(["a"])}, "do not belong"),
    ):
        with pytest.raises(ValueError, match=message):
            LanguageModel(**{"weights": "random", "tokenizer": "words", "config": LLAMA, **options})
