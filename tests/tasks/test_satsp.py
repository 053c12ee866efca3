"""SA-TSP: Eq. 1, what each term sees and moves, its classes, and what it answers about clips."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_encoders import tiny_r2plus1d
from tiny_satsp import ACTIONS, CONCEPTS, PAIRS, B, Clips, Layers, chosen, clip_batch, satsp_task, trainer
from torch import Tensor

from groundzoo.tasks.satsp import SATSP, LossOptions, SATSPNetwork
from groundzoo.tasks.schedules import Stage
from groundzoo.zoo.batch import ClipBatch
from groundzoo.zoo.losses import asymmetric_loss
from groundzoo.zoo.video.r2plus1d import R2Plus1D

PROGRAM = Path(__file__).with_name("two_satsp_processes.py")
_spec = importlib.util.spec_from_file_location("two_satsp_processes", PROGRAM)
assert _spec is not None
assert _spec.loader is not None
program = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(program)


def losses(task: SATSP, batch: ClipBatch) -> dict[str, Tensor]:
    return task.step(task.prepare(batch), "train").losses


def numbers(task: SATSP, batch: ClipBatch) -> dict[str, float]:
    return {name: value.item() for name, value in losses(task, batch).items()}


def gradients(task: SATSP, batch: ClipBatch) -> dict[str, Tensor]:
    task.zero_grad()
    torch.stack(list(losses(task, batch).values())).sum().backward()
    return {name: p.grad for name, p in task.named_parameters() if p.grad is not None}


# ---- Eq. 1 ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["clip", "sum"])
def test_losses_equal_the_equation_written_out_pair_by_pair(reduction: Any) -> None:
    options = LossOptions(alpha=0.7, beta=0.3, gamma_negative=3, gamma_positive=2, shift=0.1, reduction=reduction)
    task, batch = satsp_task(loss=options), clip_batch()
    f = task.video_encoder(batch.clips).frames[:, 0]
    W = {term: (head.weight, head.bias) for term, head in task.network.heads.items()}
    action, temporal, semantic = [], [], []
    for b in range(B):
        scores = W["action"][0] @ f[b] + W["action"][1]
        if batch.actions[b] >= 0:
            action.append(-(scores.exp()[batch.actions[b]] / scores.exp().sum()).log())
        seen = torch.cat([f[b], batch.context[b]])
        scores = W["temporal"][0] @ seen + W["temporal"][1]
        temporal.append(-(scores.exp()[int(batch.actions[b] < 0)] / scores.exp().sum()).log())
        for n in range(len(CONCEPTS)):
            p = 1 / (1 + (-(W["semantic"][0][n] @ f[b] + W["semantic"][1][n])).exp())
            lost = -((1 - p) ** 2) * p.log() if batch.concepts[b, n] else torch.zeros(())
            if not batch.concepts[b, n] and p > 0.1:
                lost = -((p - 0.1) ** 3) * (1 - p + 0.1).log()
            if batch.described[b]:
                semantic.append(lost)
    assert (len(action), len(semantic)) == (4, 5 * len(CONCEPTS))
    expected = {
        "action": torch.stack(action).mean(),
        "temporal": 0.7 * torch.stack(temporal).mean(),
        "semantic": 0.3 * torch.stack(semantic).sum() / (5 if reduction == "clip" else 1),
    }
    found = losses(task, batch)
    assert found.keys() == expected.keys()
    for term, value in expected.items():
        torch.testing.assert_close(found[term], value)


def test_weights_are_those_of_the_paper() -> None:
    batch = clip_batch()
    paper, plain = numbers(satsp_task(), batch), numbers(satsp_task(loss=LossOptions(beta=1.0)), batch)
    assert paper["semantic"] == pytest.approx(0.1 * plain["semantic"])
    assert paper["temporal"] == plain["temporal"]


def test_the_order_of_clips_changes_nothing() -> None:
    task, batch, order = satsp_task(), clip_batch(), [3, 0, 5, 2, 1, 4]
    turned = chosen(batch, order)
    assert numbers(task, turned) == pytest.approx(numbers(task, batch), rel=1e-6)
    mixed = dataclasses.replace(turned, concepts=batch.concepts)
    assert numbers(task, mixed)["semantic"] != pytest.approx(numbers(task, batch)["semantic"], rel=1e-3)


def test_each_term_sees_its_own_labels_and_the_context_only_the_region() -> None:
    task, batch = satsp_task(), clip_batch()
    before = numbers(task, batch)
    unknown = ~batch.described[:, None]
    changes: dict[str, tuple[dict[str, Any], set[str]]] = {
        "context": ({"context": batch.context + 1}, {"temporal"}),
        "regions": ({"regions": 1 - batch.regions}, {"temporal"}),
        "actions": ({"actions": torch.where(batch.actions >= 0, 1, -1)}, {"action"}),
        "concepts": ({"concepts": ~batch.concepts}, {"semantic"}),
        "concepts of what nobody described": ({"concepts": batch.concepts ^ unknown}, set()),
    }
    for name, (change, moved) in changes.items():
        after = numbers(task, dataclasses.replace(batch, **change))
        assert {term for term in before if after[term] != before[term]} == moved, name


@pytest.mark.parametrize(("batch", "term"), [
    (clip_batch(actions=(-1,) * B), "action"),
    (clip_batch(described="0" * B), "semantic"),
])  # fmt: skip
def test_a_batch_may_have_nothing_for_a_term(batch: ClipBatch, term: str) -> None:
    task = satsp_task()
    found = losses(task, batch)
    assert found[term].item() == 0
    others = {name: value for name, value in found.items() if name != term}
    grads = gradients(task, batch)
    assert all(grad.isfinite().all() for grad in grads.values())
    assert not grads[f"network.heads.{term}.weight"].any(), "processes must all take part in the exchange"
    task.zero_grad()
    torch.stack(list(others.values())).sum().backward()
    for name, p in task.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(p.grad, grads[name])


def test_heads_compute_in_single_precision_under_autocast() -> None:
    task, batch = satsp_task(), clip_batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        step = task.step(task.prepare(batch), "train")
    feature = step.outputs.feature
    assert not torch.equal(feature, task.prepare(batch).clips), "nothing ran in bfloat16"
    assert feature.dtype == torch.float32
    expected = task.network(feature, batch.context)
    for term, logits in step.outputs.logits.items():
        torch.testing.assert_close(logits, expected[term], rtol=0, atol=0)


@pytest.mark.parametrize("bad", [
    {"alpha": -1.0}, {"beta": math.nan}, {"gamma_negative": 0.5}, {"gamma_positive": -1.0}, {"shift": 1.0},
    {"reduction": "mean"},
])  # fmt: skip
def test_options_out_of_range_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        LossOptions(**bad)


# ---- asymmetric loss ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [True, False])
def test_without_focus_and_shift_it_is_the_cross_entropy(stop: bool) -> None:
    logits = torch.linspace(-9, 9, 20, requires_grad=True)
    labels = torch.arange(20) % 3 == 0
    found = asymmetric_loss(logits, labels, 0, 0, 0, stop)
    expected = F.binary_cross_entropy_with_logits(logits, labels.float(), reduction="none")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    (grad,) = torch.autograd.grad(found.sum(), logits, retain_graph=True)
    torch.testing.assert_close(grad, torch.autograd.grad(expected.sum(), logits)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stop", [True, False])
@pytest.mark.parametrize("gammas", [(4, 1), (4, 0), (0, 0), (1, 2)])
def test_extreme_logits_are_safe_and_easy_absent_classes_are_free(gammas: tuple[int, int], stop: bool) -> None:
    logits = torch.tensor([-1e4, -80.0, -3.5, 0.0, 3.0, 80.0, 1e4]).repeat(2, 1).requires_grad_()
    labels = torch.tensor([[True], [False]]).expand(2, 7)
    found = asymmetric_loss(logits, labels, *gammas, 0.05, stop)
    found.sum().backward()
    assert found.isfinite().all()
    assert (found >= 0).all()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert not found[1, :3].any(), "probabilities up to the shift cost nothing"
    assert not logits.grad[1, :3].any()
    assert (found[1, 3:] > 0).all()


# ---- training -------------------------------------------------------------------------------------------


def test_every_part_that_is_trained_gets_a_gradient_and_the_stem_none() -> None:
    encoder = R2Plus1D("random", layers=(1, 1, 1, 1), width=2, size=16, window=8, trainable=True)
    task = satsp_task(video_encoder=encoder)
    task.enter_stage(0)
    task.train()
    clips = torch.randint(0, 256, (B, 8, 3, 16, 16), dtype=torch.uint8)
    before = encoder.network.stem[1].running_mean.clone()
    grads = gradients(task, clip_batch(clips))
    stem = {name for name, _ in task.named_parameters() if ".stem." in name}
    assert stem
    assert grads.keys() == {name for name, _ in task.named_parameters()} - stem
    assert all(grad.any() for grad in grads.values())
    assert not torch.equal(encoder.network.stem[1].running_mean, before), "its statistics go on"
    parts = task.trainable_parts()
    assert {id(p) for p in parts["stem"]} == {id(p) for n, p in task.named_parameters() if n in stem}
    groups = task._parameter_groups()
    assert [group.get("lr") for group in groups] == [None, 2e-3, 0.0]
    assert {id(p) for p in groups[1]["params"]} == {id(p) for p in task.network.parameters()}
    assert groups[2]["params"] == []


@pytest.mark.parametrize("encoder", [tiny_r2plus1d, lambda: Layers(trainable=False)], ids=["frozen", "no stem"])
def test_the_default_schedule_suits_encoders_without_a_stem_to_freeze(encoder: Callable[[], Any]) -> None:
    task = satsp_task(video_encoder=encoder())
    task.enter_stage(0)
    assert task.stage.lr_of == {"network": 2e-3}
    assert {n for n, p in task.named_parameters() if p.requires_grad} == {
        n for n, _ in task.named_parameters() if n.startswith("network.")
    }
    assert task.diagnostics(task.step(task.prepare(clip_batch_of(task)), "train")) == {}


def clip_batch_of(task: SATSP) -> ClipBatch:
    spec = task.video_encoder.spec
    assert spec.size is not None
    return clip_batch(torch.randint(0, 256, (B, spec.window, 3, *spec.size), dtype=torch.uint8))


def test_a_feature_is_the_mean_over_the_units_of_a_clip_and_features_pass_as_they_are() -> None:
    task, batch = satsp_task(), clip_batch(torch.randint(0, 256, (B, 6, 3, 3, 3), dtype=torch.uint8))
    units = task.video_encoder(batch.clips).frames
    assert units.shape == (B, 3, 4)
    prepared = task.prepare(batch)
    torch.testing.assert_close(prepared.clips, units.mean(1))
    assert prepared.clips.requires_grad
    assert task.prepare(prepared) is prepared


def test_logged_gradients_are_those_at_the_features() -> None:
    """By the closed form for linear heads, as Lightning logs it."""
    batch, first = clip_batch(), {}
    run = trainer(max_steps=1, limit_val_batches=0, log_every_n_steps=1)
    task = satsp_task()
    f = task.prepare(batch).clips.detach()
    heads = {term: (head.weight.detach(), head.bias.detach()) for term, head in task.network.heads.items()}
    seen = {"action": f, "temporal": torch.cat([f, batch.context], dim=1), "semantic": f}
    logits = {term: seen[term] @ weight.T + bias for term, (weight, bias) in heads.items()}
    error = logits["action"].softmax(1) - F.one_hot(batch.actions.clamp(min=0), len(ACTIONS))
    first["action"] = (error * (batch.actions >= 0)[:, None] / 4) @ heads["action"][0]
    error = logits["temporal"].softmax(1) - F.one_hot(batch.regions, 2)
    first["temporal"] = (error / B @ heads["temporal"][0])[:, : f.shape[1]]
    scores = logits["semantic"].requires_grad_()
    (asymmetric_loss(scores, batch.concepts) * batch.described[:, None]).sum().backward()
    assert scores.grad is not None
    first["semantic"] = 0.1 * scores.grad / 5 @ heads["semantic"][0]
    fresh = satsp_task(stages=[Stage(losses=("action", "temporal", "semantic"), epochs=1)])
    run.fit(fresh, datamodule=Clips())
    for term, gradient in first.items():
        logged = run.logged_metrics[f"train/gradient/{term}"].item()  # type: ignore[union-attr]
        assert logged == pytest.approx(gradient.norm(dim=1).mean().item(), rel=1e-4)
        assert logged > 1e-4


def test_logging_gradients_leaves_those_of_the_step_alone() -> None:
    task, batch = satsp_task(), clip_batch()
    expected = gradients(task, batch)
    task.zero_grad()
    step = task.step(task.prepare(batch), "train")
    task.diagnostics(step)
    assert all(p.grad is None for p in task.parameters())
    torch.stack(list(step.losses.values())).sum().backward()
    for name, p in task.named_parameters():
        assert p.grad is not None
        torch.testing.assert_close(p.grad, expected[name])


def test_three_terms_can_be_learned() -> None:
    stages = [Stage(losses=("action", "temporal", "semantic"), lr=3e-2, epochs=40)]
    task, run = satsp_task(stages=stages, vocabulary=None), trainer(max_epochs=40, limit_val_batches=0)
    run.fit(task, datamodule=Clips(5))
    (values,) = trainer().validate(task, datamodule=Clips(), verbose=False)
    assert values["val/accuracy"] == 100
    assert values["val/concept mAP"] > 99


@pytest.mark.slow
def test_two_processes_compute_what_one_does_on_the_whole_batch(tmp_path: Path) -> None:
    """Clips in actions and described ones are not spread evenly."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, str(PROGRAM), str(tmp_path), str(port)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    both = [subprocess.Popen([*words, str(rank)], env=environment, stderr=subprocess.PIPE) for rank in range(2)]
    for process in both:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors[-4000:].decode()
    expected = program.gradients(range(B))
    for rank in range(2):
        found = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=name)


# ---- terms and classes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "terms", "context"), [
    (LossOptions(alpha=0, beta=0), ("action",), False),
    (LossOptions(beta=0), ("action", "temporal"), True),
    (LossOptions(), ("action", "temporal", "semantic"), True),
])  # fmt: skip
def test_a_weight_of_0_takes_a_term_out(options: LossOptions, terms: tuple[str, ...], context: bool) -> None:
    task = satsp_task(loss=options)
    assert (task.terms, task.uses_context) == (terms, context)
    assert tuple(task.network.heads) == terms
    assert all(stage.losses == terms for stage in task.stages)
    assert tuple(losses(task, clip_batch())) == terms


def test_the_best_epoch_is_that_of_the_mean_accuracy_or_of_concepts_where_there_is_no_other() -> None:
    assert satsp_task().monitor == "val/accuracy"
    alone = satsp_task(stages=[Stage(losses=("semantic",))], vocabulary=PAIRS[len(ACTIONS) :])
    assert alone.monitor == "val/concept mAP"
    assert alone.vocabulary == [["concept", word] for word in CONCEPTS]


def test_stages_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"actoin.*choose from.*action"):
        satsp_task(stages=[Stage(losses=("actoin",))])
    with pytest.raises(ValueError, match="alpha and beta"):
        satsp_task(stages=[Stage(losses=("action",)), Stage(losses=("semantic",))], loss=LossOptions(beta=0))


def test_without_context_the_region_is_told_from_the_clip_alone() -> None:
    task, batch = satsp_task(context_dim=0), clip_batch()
    assert not task.uses_context
    before = numbers(task, batch)
    assert numbers(task, dataclasses.replace(batch, context=torch.zeros(B, 0))) == before
    wrong = satsp_task(context_dim=None)
    assert wrong.network.context_dim == 4
    with pytest.raises(ValueError, match=r"5 wide, not 4.*context_dim"):
        losses(wrong, batch)


def test_terms_without_classes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no concepts.*groundzoo concepts.*beta"):
        satsp_task(vocabulary=PAIRS[: len(ACTIONS)])
    with pytest.raises(ValueError, match="no actions"):
        satsp_task(vocabulary=PAIRS[len(ACTIONS) :])
    with pytest.raises(ValueError, match="not known"):
        losses(satsp_task(vocabulary=None), clip_batch())
    satsp_task(vocabulary=PAIRS[: len(ACTIONS)], loss=LossOptions(beta=0))


def test_heads_start_as_those_of_tsp() -> None:
    torch.manual_seed(0)
    network = SATSPNetwork(512, 512)
    network.set_classes(200, 1000)
    assert {k: tuple(head.weight.shape) for k, head in network.heads.items()} == {
        "action": (200, 512), "temporal": (2, 1024), "semantic": (1000, 512),
    }  # fmt: skip
    for head in network.heads.values():
        assert head.weight.std().item() == pytest.approx(0.01, rel=0.1)
        assert not head.bias.any()


def test_a_checkpoint_brings_its_classes(tmp_path: Path) -> None:
    run = trainer(max_epochs=1, limit_val_batches=0)
    task = satsp_task(vocabulary=None, stages=[Stage(losses=("action", "temporal", "semantic"), lr=1e-2)])
    run.fit(task, datamodule=Clips())
    assert task.vocabulary == [list(pair) for pair in PAIRS]
    run.save_checkpoint(tmp_path / "a.ckpt")
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    loaded = satsp_task(vocabulary=None)
    loaded.on_load_checkpoint(checkpoint)
    loaded.load_state_dict(checkpoint["state_dict"])
    assert (loaded.actions, loaded.concepts) == (ACTIONS, CONCEPTS)
    for model in (task, loaded):
        model.eval()
    assert loaded.predict_step(clip_batch(), 0) == task.predict_step(clip_batch(), 0)


def test_data_with_other_classes_are_refused() -> None:
    turned = [*PAIRS[:3], PAIRS[4], PAIRS[3], *PAIRS[5:]]
    with pytest.raises(ValueError, match=r"other concepts.*concept 0 is 'red' there and 'man' here"):
        trainer().validate(satsp_task(), datamodule=Clips(pairs=turned), verbose=False)
    with pytest.raises(ValueError, match=r"other actions \(2\).*\(3\)"):
        trainer().validate(satsp_task(), datamodule=Clips(pairs=[*PAIRS[:2], *PAIRS[3:]]), verbose=False)
    trainer().validate(satsp_task(loss=LossOptions(beta=0)), datamodule=Clips(pairs=turned), verbose=False)


# ---- evaluation -----------------------------------------------------------------------------------------


def test_predictions_say_what_the_heads_say() -> None:
    task, batch = satsp_task(), clip_batch()
    step = task.step(task.prepare(batch), "predict")
    assert step.losses == {}
    records = task.predictions(step.outputs, batch)
    assert [r["index"] for r in records] == list(range(B))
    assert records[2]["clip_id"] == "v_2#0/0"
    assert (records[2]["video"], records[2]["start_s"]) == ("v_2", 3.0)
    assert records[0]["target"]["action"] == "jumping"
    shown = [CONCEPTS[k] for k in batch.concepts[1].nonzero().flatten()]
    assert records[1]["target"] == {"action": None, "foreground": False, "concepts": shown}
    assert records[2]["target"]["concepts"] is None, "nobody described this video"
    for b, record in enumerate(records):
        logits = {term: value[b] for term, value in step.outputs.logits.items()}
        assert record["action"] == ACTIONS[int(logits["action"].argmax())]
        assert record["action_score"] == pytest.approx(logits["action"].softmax(0).max().item(), abs=1e-4)
        assert record["foreground_score"] == pytest.approx(logits["temporal"].softmax(0)[0].item(), abs=1e-4)
        scores = dict(zip(CONCEPTS, logits["semantic"].sigmoid().tolist(), strict=True))
        assert len(record["concepts"]) == max(5, sum(p > 0.5 for p in scores.values()))
        ranked = sorted(scores, key=lambda word: -scores[word])
        assert [word for word, _ in record["concepts"]] == ranked[: len(record["concepts"])]
    sure = {k: v.clone() for k, v in step.outputs.logits.items()}
    sure["semantic"][0] = torch.linspace(5, 1, len(CONCEPTS))
    assert len(task.predictions(step.outputs._replace(logits=sure), batch)[0]["concepts"]) == len(CONCEPTS)
    few = satsp_task(loss=LossOptions(alpha=0, beta=0))
    assert "concepts" not in few.predict_step(batch, 0)[0]
