"""Dense captioning: its three losses by hand, what padding and rewards may not change, and what it says."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import logging
import math
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_events import (
    CLIPS,
    DURATIONS,
    EVENTS,
    NAMES,
    SENTENCES,
    TEXTS,
    WORDS,
    D,
    Events,
    StubReward,
    dense_task,
    event_batch,
    some_reward,
    trainer,
)
from tiny_satsp import Layers
from torch import Tensor

from groundzoo.tasks.base import Step
from groundzoo.tasks.dense_captioning import WORSE, DenseCaptioning, SelfCriticalOptions
from groundzoo.tasks.metrics.dense_captions import read_submission
from groundzoo.tasks.metrics.ptb import JavaError
from groundzoo.tasks.rewards import RewardOptions
from groundzoo.tasks.schedules import Stage
from groundzoo.tasks.told_events import Answers, DescribedEvent, Told
from groundzoo.zoo.batch import EventBatch
from groundzoo.zoo.text.vocabulary import Vocabulary
from groundzoo.zoo.video.base import VideoUnits

PROGRAM = Path(__file__).with_name("two_dense_processes.py")
_spec = importlib.util.spec_from_file_location("two_dense_processes", PROGRAM)
assert _spec is not None
assert _spec.loader is not None
program = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(program)

GIVEN = Stage(losses=("caption", "proposal"), lr=1e-2, epochs=1)
REWARD = Stage(losses=("reward",), train="captioner", lr=1e-2, epochs=1)
CIDER = RewardOptions(meteor_ids=0.0, cider=1.0)
BASELINES = [SelfCriticalOptions(reward=CIDER), SelfCriticalOptions("leave_one_out", 3, CIDER)]


def rewarded(options: SelfCriticalOptions, value: Callable[..., float] = some_reward, **more: Any) -> Any:
    """A task in the stage of rewards, and what rewards it."""
    task: Any = dense_task(stages=[REWARD], self_critical=options, **more)
    task.enter_stage(0)
    task.train()
    task._reward = StubReward(value)
    return task


def loss(task: DenseCaptioning, batch: EventBatch, name: str) -> Tensor:
    return task.step(batch, "train").losses[name]


def gradients(task: DenseCaptioning) -> dict[str, Tensor]:
    return {name: p.grad for name, p in task.named_parameters() if p.grad is not None}


def alone(task: DenseCaptioning, v: int, ids: list[list[int]]) -> list[Tensor]:
    """Log-probabilities of the given ids of every event of a video, by a forward pass on that video alone."""
    batch = event_batch([v])
    memory = task.network.encoder(
        batch.clips, batch.clip_mask, batch.durations_s, batch.events_s, batch.event_mask
    )
    longest = max(map(len, ids))
    table = torch.tensor([row + [0] * (longest - len(row)) for row in ids])
    logits = task.network.captioner(*memory, F.pad(table, (1, 0))[None, :, :-1])[0]
    return [logits[e, range(len(row))].log_softmax(-1)[range(len(row)), row] for e, row in enumerate(ids)]


# ---- given sentences ------------------------------------------------------------------------------------


@pytest.mark.parametrize("longest", [9, 3])
def test_caption_loss_is_the_mean_over_words_and_ends(longest: int) -> None:
    task = dense_task(max_length=longest, stages=[dataclasses.replace(GIVEN, losses=("caption",))])
    total, count = torch.zeros(()), 0
    for v, video in enumerate(SENTENCES):
        ids = [[WORDS.index(word) for word in words] + [0] for words in video]
        rows = alone(task, v, [row[: longest + 1] for row in ids])
        assert any(row[: longest + 1][-1] for row in ids) == (longest == 3 and v < 2), "none is too long"
        total, count = total - torch.cat(rows).sum(), count + sum(map(len, rows))
    found = task.step(event_batch(), "train").losses
    assert found.keys() == {"caption"}
    torch.testing.assert_close(found["caption"], total / count)
    assert count == (31 if longest == 9 else 23)


def test_words_beyond_the_vocabulary_are_one_word() -> None:
    task = dense_task([*WORDS[:3], "UNK"])
    assert task._targets(event_batch([1])).tolist() == [[[3, 2, 3, 3, 3, 1, 3, 0]]]


@pytest.mark.parametrize("name", ["caption", "proposal", "reward"])
def test_padding_changes_no_loss(name: str) -> None:
    found = []
    for more in (0, 3):
        task = rewarded(BASELINES[0]) if name == "reward" else dense_task(stages=[GIVEN])
        batch = event_batch(more=more)
        assert batch.clips.shape[1] == max(CLIPS) + more
        torch.manual_seed(5)
        value = loss(task, batch, name)
        value.backward()
        found.append((value, gradients(task)))
    torch.testing.assert_close(*found)
    assert abs(found[0][0].item()) > 1e-3


def test_the_proposal_loss_is_the_sum_of_the_terms_of_its_network() -> None:
    task, batch = dense_task(), event_batch()
    proposer: Any = task.network.proposer
    terms = proposer.loss(
        proposer(batch.clips, batch.clip_mask), batch.truth_s, batch.truth_mask, batch.durations_s
    )
    expected = sum(value.item() for value in terms.values())
    assert loss(task, batch, "proposal").item() == pytest.approx(expected)
    told = dataclasses.replace(batch, events_s=batch.events_s / 2)
    assert loss(task, told, "proposal").item() == pytest.approx(expected), "proposals stand in for events"


def test_each_stage_moves_what_it_trains_and_nothing_else() -> None:
    stages = [
        GIVEN,
        dataclasses.replace(GIVEN, losses=("proposal",), train="proposer"),
        dataclasses.replace(GIVEN, losses=("caption",), train="captioner"),
        REWARD,
    ]
    task: Any = dense_task(stages=stages, self_critical=BASELINES[1])
    task._reward = StubReward(some_reward)
    names = {name for name, _ in task.named_parameters()}
    proposer = {name for name in names if name.startswith("network.proposer.")}
    assert proposer
    for k, expected in enumerate([names, proposer, names - proposer, names - proposer]):
        task.zero_grad()
        task.train()
        task.enter_stage(k)
        torch.manual_seed(0)
        found = task.step(event_batch(), "train").losses
        assert found.keys() == set(stages[k].losses)
        torch.stack(list(found.values())).sum().backward()
        moved = gradients(task)
        assert moved.keys() == expected
        assert {name for name, grad in moved.items() if not grad.any()} == set(), "no gradient reaches it"
        assert {name for name, p in task.named_parameters() if p.requires_grad} == expected


def test_given_sentences_are_learned_by_heart() -> None:
    task = dense_task()
    optimizer = torch.optim.Adam(task.parameters(), lr=2e-2)
    for _ in range(150):
        optimizer.zero_grad()
        loss(task, event_batch(), "caption").backward()
        optimizer.step()
    told = task.eval().step(event_batch(), "val").outputs.given
    assert told.sentences == SENTENCES


# ---- rewards --------------------------------------------------------------------------------------------


def drawn(task: Any, K: int) -> list[list[list[list[int]]]]:
    """What the stub was asked of the samples: ids by video, sample and event, checked against the references."""
    pairs = task._reward.asked[0]
    expected = [tuple(words) for video in SENTENCES for _ in range(K) for words in video]
    assert [reference for _, reference in pairs] == expected
    rows = iter([list(words) for words, _ in pairs])
    return [[[next(rows) for _ in video] for _ in range(K)] for video in SENTENCES]


@pytest.mark.parametrize("limit", [9, 2])
@pytest.mark.parametrize(
    "options",
    [*BASELINES, dataclasses.replace(BASELINES[0], samples=2)],
    ids=lambda o: f"{o.baseline} {o.samples}",
)
def test_reward_loss_is_that_of_the_samples_one_by_one(options: SelfCriticalOptions, limit: int) -> None:
    K = options.samples
    task = rewarded(options, max_length=limit)
    value = loss(task, event_batch(), "reward")
    samples = drawn(task, K)
    assert len({str(s) for video in samples for s in video}) == 3 * K, "samples are equal"
    if options.baseline == "greedy":
        greedy = task.eval().step(event_batch(), "val").outputs.given.sentences
        references = [tuple(words) for video in SENTENCES for words in video]
        ids = [tuple(WORDS.index(word) for word in words) for video in greedy for words in video]
        assert task._reward.asked[1:] == [list(zip(ids, references, strict=True))]
    total, count = torch.zeros(()), 0
    for v, video in enumerate(samples):
        table = [
            [some_reward(tuple(ids), tuple(SENTENCES[v][e])) for e, ids in enumerate(sample)] for sample in video
        ]
        for k, sample in enumerate(video):
            rows = alone(task, v, [[*ids, 0][:limit] for ids in sample])
            for e, row in enumerate(rows):
                if options.baseline == "greedy":
                    words = tuple(WORDS.index(word) for word in greedy[v][e])
                    baseline = some_reward(words, tuple(SENTENCES[v][e]))
                else:
                    baseline = sum(table[j][e] for j in range(K) if j != k) / (K - 1)
                total, count = total - row.sum() * (table[k][e] - baseline), count + len(row)
    torch.testing.assert_close(value, total / count, rtol=1e-4, atol=1e-5)
    assert abs(value.item()) > 1e-2


@pytest.mark.parametrize("options", BASELINES, ids=lambda o: o.baseline)
def test_only_differences_of_rewards_count(options: SelfCriticalOptions) -> None:
    found = {}
    values: dict[str, Callable[..., float]] = {
        "constant": lambda words, reference: 0.7 + len(reference),
        "plain": some_reward,
        "shifted": lambda words, reference: some_reward(words, reference) + 3,
        "doubled": lambda words, reference: 2 * some_reward(words, reference),
    }
    for name, value in values.items():
        task = rewarded(options, value)
        torch.manual_seed(3)
        loss(task, event_batch(), "reward").backward()
        found[name] = torch.cat([grad.flatten() for grad in gradients(task).values()])
    assert found["constant"].abs().max() < 1e-5
    assert found["plain"].abs().max() > 1e-2
    torch.testing.assert_close(found["shifted"], found["plain"], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found["doubled"], 2 * found["plain"], rtol=1e-3, atol=1e-4)


def test_samples_are_drawn_and_scored_without_dropout() -> None:
    found = []
    for dropout in (0.0, 0.5):
        task = rewarded(BASELINES[0], dropout=dropout)
        torch.manual_seed(2)
        found.append(loss(task, event_batch(), "reward").item())
        assert task.network.captioner.dropout.training, "it stays off"
    assert found[0] == pytest.approx(found[1])
    assert loss(dense_task(dropout=0.5), event_batch(), "caption") != loss(dense_task(), event_batch(), "caption")


@pytest.mark.parametrize("carry", [True, False])
def test_samples_are_scored_as_they_were_drawn(carry: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without the sentence before."""
    task = rewarded(BASELINES[0])
    captioner = task.network.captioner
    captioner.options = dataclasses.replace(captioner.options, carry_decoded=carry)
    seen: dict[str, Tensor] = {}
    generate, score = captioner.generate, captioner.log_probs

    def watched(*memory: Any, **options: Any) -> Any:
        said = generate(*memory, **options)
        seen.setdefault("drawn", said.log_prob)
        return said

    def scored(*given: Any) -> Tensor:
        seen["scored"] = score(*given)
        return seen["scored"]

    monkeypatch.setattr(captioner, "generate", watched)
    monkeypatch.setattr(captioner, "log_probs", scored)
    loss(task, event_batch(), "reward")
    torch.testing.assert_close(seen["scored"], seen["drawn"])
    assert seen["drawn"].any()


def test_what_is_rewarded_becomes_likely() -> None:
    """Sentences that say a word, on their way to half of it without a hint of what it is."""
    task = rewarded(BASELINES[1], lambda words, _: float(len(words) > 0 and words[0] == 4))
    optimizer = torch.optim.Adam(task.trainable_parts()["captioner"], lr=2e-2)
    history = []
    for _ in range(40):
        optimizer.zero_grad()
        step = task.step(event_batch(), "train")
        step.losses["reward"].backward()
        optimizer.step()
        history.append(step.outputs["sample reward"].item())
    assert sum(history[:5]) / 5 < 0.5
    assert sum(history[-5:]) / 5 > 0.9


def test_what_is_logged_of_rewards() -> None:
    task = rewarded(BASELINES[0])
    step = task.step(event_batch(), "train")
    values = {name: value.item() for name, value in task.diagnostics(step).items()}
    samples, greedy = task._reward.asked
    means = [sum(some_reward(*pair) for pair in pairs) / 6 for pairs in (samples, greedy)]
    assert values == pytest.approx(
        {
            "sample reward": means[0],
            "baseline reward": means[1],
            "advantage": means[0] - means[1],
            "sample length": sum(len(words) for words, _ in samples) / 6,
        },
        abs=1e-5,
    )
    assert task.diagnostics(Step({}, None)) == {}
    run = trainer(max_epochs=1, limit_val_batches=0, log_every_n_steps=1)
    run.fit(dense_task(stages=[REWARD], self_critical=BASELINES[0]), datamodule=Events())
    assert {f"train/{name}" for name in (*values, "reward", "loss")} <= run.logged_metrics.keys()


def test_samples_that_stay_worse_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    def steps(task: DenseCaptioning, count: int, advantage: float) -> int:
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            for _ in range(count):
                task.diagnostics(Step({}, {"advantage": torch.tensor(advantage)}))
        return sum("worse than their baseline" in r.getMessage() for r in caplog.records)

    task = dense_task(self_critical=BASELINES[0])
    assert steps(task, WORSE - 1, -0.1) == 0
    assert steps(task, 1, 0.1) == 0  # starts anew
    assert steps(task, WORSE - 1, -0.1) == 0
    assert steps(task, WORSE, -0.1) == 1
    assert "leave_one_out" in caplog.text
    assert steps(dense_task(self_critical=BASELINES[1]), 2 * WORSE, -1e-9) == 0  # zero but for rounding


def test_rewards_end_with_the_fit() -> None:
    task: Any = dense_task(stages=[REWARD], self_critical=BASELINES[0])
    with pytest.raises(RuntimeError, match="rewards are made ready when training starts"):
        loss(task, event_batch(), "reward")
    task._reward = kept = StubReward(some_reward)
    trainer(max_epochs=1, limit_val_batches=0).fit(task, datamodule=Events())
    assert kept.asked
    assert kept.closed
    assert task._reward is None
    trainer().validate(task, datamodule=Events(), verbose=False)
    assert task._reward is None, "evaluation needs no rewards"


def test_meteor_without_java_ends_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    task = dense_task(stages=[GIVEN, REWARD])
    before = {name: value.clone() for name, value in task.state_dict().items()}
    with pytest.raises(JavaError, match=r"METEOR needs it; CIDEr does not: set cider: 1"):
        trainer(max_epochs=2).fit(task, datamodule=Events())
    assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items() if name in before)
    trainer(max_epochs=1, limit_val_batches=0).fit(dense_task(stages=[GIVEN]), datamodule=Events())


# ---- two processes --------------------------------------------------------------------------------------


def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    words = [sys.executable, str(PROGRAM), str(tmp_path), str(port)]
    running = [
        subprocess.Popen([*words, str(rank)], stderr=subprocess.PIPE, env=environment, text=True)
        for rank in (0, 1)
    ]
    errors = [process.communicate(timeout=120)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], errors
    expected = program.results([0, 1, 2])
    assert {name.split(" ")[0] for name in expected} == {"caption", "proposal", "reward", "val"}
    assert any(value.abs().max() > 1e-2 for name, value in expected.items() if name.startswith("reward network"))
    for rank in (0, 1):
        found = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name)


# ---- vocabulary and checkpoints -------------------------------------------------------------------------


def test_a_checkpoint_brings_its_words(tmp_path: Path) -> None:
    run = trainer(max_epochs=1, limit_val_batches=0)
    task = dense_task(None, stages=[GIVEN], min_count=2)
    texts = [words for video in SENTENCES for words in video]
    run.fit(task, datamodule=Events(texts=[["twice", "once", "twice"], *texts]))
    counts = Counter(word for words in texts for word in words)
    assert task.vocabulary == ["<end>", "twice", *(word for word in WORDS if counts[word] > 1), "UNK"]
    assert 5 < len(task.vocabulary) < len(WORDS)
    run.save_checkpoint(tmp_path / "a.ckpt")
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    loaded = dense_task(None)
    loaded.on_load_checkpoint(checkpoint)
    loaded.load_state_dict(checkpoint["state_dict"])
    assert loaded.vocabulary == task.vocabulary
    records = [model.eval().predict_step(event_batch(), 0) for model in (task, loaded)]
    assert records[0] == records[1]
    with pytest.raises(AssertionError, match="no vocabulary: fit, or load a checkpoint"):
        dense_task(None).step(event_batch(), "predict")


def test_rewards_of_a_resumed_run_know_the_words_of_the_checkpoint(tmp_path: Path) -> None:
    """Data that would now give other words change neither sentences nor rewards."""
    stages = [dataclasses.replace(REWARD, epochs=2)]
    run = trainer(max_epochs=1, limit_val_batches=0)
    run.fit(dense_task(None, stages=stages, self_critical=BASELINES[0]), datamodule=Events())
    run.save_checkpoint(tmp_path / "a.ckpt")
    task: Any = dense_task(None, stages=stages, self_critical=BASELINES[0])
    task.awaits_checkpoint = True  # as the command line says
    known: list[list[str]] = []
    ready = task.ready_rewards

    def noted(references: Any) -> None:
        ready(references)
        known.append(task._reward.vocabulary.words)

    task.ready_rewards = noted
    run = trainer(max_epochs=2, limit_val_batches=0)
    run.fit(task, datamodule=Events(texts=[["other", "words"]]), ckpt_path=tmp_path / "a.ckpt")
    assert run.global_step == 2
    assert known == [WORDS]
    assert task.vocabulary == WORDS


# ---- what it says ---------------------------------------------------------------------------------------


def answers(task: DenseCaptioning, batch: EventBatch) -> Answers:
    with torch.inference_mode():
        found: Answers = task.eval().step(batch, "test").outputs
    return found


def rows_of(told: Told) -> list[list[tuple[Any, ...]]]:
    """Events of each video: seconds, score, words and log-probability."""
    return [
        [
            (*(round(t, 3) for t in told.events_s[v, e].tolist()), round(told.scores[v, e].item(), 4), words,
             round(told.log_probs[v][e], 4))
            for e, words in enumerate(video)
        ]
        for v, video in enumerate(told.sentences)
    ]  # fmt: skip


def test_answers_do_not_depend_on_the_batch() -> None:
    task = dense_task()
    together = answers(task, event_batch(more=2))
    assert together.given is not None
    assert together.learned is not None
    assert [len(video) for video in together.given.sentences] == [3, 1, 2]
    for v in range(3):
        single = answers(task, event_batch([v]))
        for ours, theirs in zip(single, together, strict=True):
            assert ours is not None
            assert theirs is not None
            assert rows_of(ours)[0] == rows_of(theirs)[v]
    assert together.given.scores[together.given.mask].unique().tolist() == [1.0]
    counts = together.learned.mask.sum(1).tolist()
    assert [len(video) for video in together.learned.sentences] == counts
    assert all(1 <= n <= 4 for n in counts)
    for v, n in enumerate(counts):
        starts, ends = together.learned.events_s[v, :n].unbind(-1)
        assert bool((starts < ends).all())
        assert float(ends.max()) <= DURATIONS[v] + 1e-4
        assert starts.tolist() == sorted(starts.tolist())


@pytest.mark.parametrize("endless", [False, True])
def test_log_probabilities_are_means_over_words_and_the_end(endless: bool) -> None:
    task = dense_task(max_length=4 if endless else 9)
    if endless:
        torch.nn.init.constant_(task.network.captioner.head.bias[:1], -99.0)
    told = answers(task, event_batch()).given
    assert told is not None
    for v, video in enumerate(told.sentences):
        ids = [[WORDS.index(word) for word in words] for words in video]
        assert not endless or {len(row) for row in ids} == {4}
        rows = alone(task, v, [[*row, 0][: task.max_length] for row in ids])
        for value, row in zip(told.log_probs[v], rows, strict=True):
            assert value == pytest.approx(row.mean().item(), abs=1e-5)


def oracle(task: DenseCaptioning, given: bool, learned: bool) -> dict[str, float]:
    """Validation metrics of the annotated sentences, as given and as learned events."""
    task._trainer = trainer()
    task.trainer.datamodule = Events()  # type: ignore[attr-defined]
    metric = task.metric("val")
    for rows in ([2], [0, 1]):
        batch = event_batch(rows)
        right = Told(batch.events_s, batch.event_mask, batch.event_mask.float(), batch.sentences, [[0.0] * 3] * 2)
        turned = right._replace(sentences=[[["dogs"]] * len(video) for video in batch.sentences])
        task.update_metric(metric, Answers(right if given else turned, right if learned else turned), batch)
    values = {name: value.item() for name, value in metric.compute().items()}
    task._trainer = None
    return values


def test_the_annotated_sentences_score_best() -> None:
    first, second = oracle(dense_task(), True, False), oracle(dense_task(), False, True)
    for name in ("CIDEr", "BLEU1"):
        assert first[f"dense/{name}"] > 3 * first[f"learned/{name}"]
        assert second[f"learned/{name}"] == pytest.approx(first[f"dense/{name}"])
        assert second[f"dense/{name}"] == pytest.approx(first[f"learned/{name}"])
    assert first["dense/BLEU1"] == pytest.approx(100)
    assert first["dense/recall"] == first["learned/recall"] == pytest.approx(100)


@pytest.mark.parametrize("events", [True, False])
@pytest.mark.parametrize("proposals", [True, False])
def test_which_metrics_there_are(events: bool, proposals: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")  # scores that need Java take seconds
    task = dense_task(**({} if proposals else {"proposals": None}))
    data = Events(events=events)
    if not (events or proposals):
        with pytest.raises(ValueError, match=r"no events to tell.*data\.init_args\.proposals.*model\.proposals"):
            trainer().validate(task, datamodule=data, verbose=False)
        return
    (val,) = trainer().validate(task, datamodule=data, verbose=False)
    (test,) = trainer().test(task, datamodule=data, verbose=False)
    names = {name for name, there in (("dense", events), ("learned", proposals)) if there}
    assert {key.split("/")[1].split("@")[0] for key in (*val, *test)} == names
    assert task.monitor_on(data) in val
    for name in names:
        assert {f"val/{name}/CIDEr", f"val/{name}/precision", f"val/{name}@0.7/recall"} <= val.keys()
        assert {
            f"test/{name}/CIDEr_simple",
            f"test/{name}/ROUGE_L_simple",
            f"test/{name}/BLEU4_simple",
        } <= test.keys()
    if events:
        assert val["val/dense/recall"] == pytest.approx(100)
    records: Any = trainer().predict(task, datamodule=data)
    told = {record["query_id"] for batch in records for record in batch}
    if events:
        assert told == {
            f"{name}#{e}" for name, video in zip(NAMES, EVENTS, strict=True) for e in range(len(video))
        }
    assert {query.split("#")[0] for query in told} == set(NAMES)


def test_records_and_the_submission(tmp_path: Path) -> None:
    task = dense_task()
    found = answers(task, event_batch([2, 0]))
    assert found.given is not None
    records = task.predictions(found, event_batch([2, 0]))
    assert json.loads(json.dumps(records)) == records
    assert [(r["query_id"], r["start_s"], r["end_s"]) for r in records] == [
        (f"{NAMES[v]}#{e}", *EVENTS[v][e]) for v in (2, 0) for e in range(len(EVENTS[v]))
    ]
    assert len({r["index"] for r in records}) == 5
    ordered = sorted(records, key=lambda r: r["index"])
    assert [r["video"] for r in ordered] == ["v_a"] * 3 + ["v_c"] * 2, "records are in the order of the split"
    assert [r["caption"].split() for r in records] == [words for video in found.given.sentences for words in video]
    assert [r["score"] for r in records] == [round(x, 4) for row in found.given.log_probs for x in row]
    assert {r["proposal"] for r in records} == {1.0}
    ((name, content),) = task.submissions(ordered).items()
    assert content.keys() == {"version", "results", "external_data"}
    assert list(content["results"]) == ["v_a", "v_c"]
    assert content["results"]["v_c"][1] == {"sentence": records[1]["caption"], "timestamp": [9.0, 29.0]}
    (tmp_path / name).write_text(json.dumps(content))
    keys = ("video", "start_s", "end_s", "caption")
    assert read_submission(tmp_path / name) == [{key: r[key] for key in keys} for r in ordered]


# ---- a user's video -------------------------------------------------------------------------------------


def reader(v: int) -> Callable[..., VideoUnits]:
    units = event_batch([v]).clips[0].half()

    def read(encoder: Any, video: Path) -> VideoUnits:
        assert encoder.dim == D
        return VideoUnits(units, 84, DURATIONS[v])

    return read


def test_a_file_is_described_as_a_video_of_the_data() -> None:
    task = dense_task()
    task.video_reader = reader(0)
    batch = event_batch([0])
    batch.clips = batch.clips.half().float()
    expected = answers(task, batch)
    for told, events in ((expected.given, EVENTS[0]), (expected.learned, None)):
        assert told is not None
        found = task.train().describe("a/b.mp4", events)
        assert task.training
        assert all(isinstance(event, DescribedEvent) for event in found)
        ours = [(e.start_s, e.end_s, round(e.score, 4), e.sentence.split(), round(e.log_prob, 4)) for e in found]
        assert ours == rows_of(told)[0]


def test_events_of_a_file_are_sorted_and_end_with_it() -> None:
    task = dense_task()
    task.video_reader = reader(1)
    assert [(e.start_s, e.end_s) for e in task.describe("x.mp4", [(4, 99), (1, 2), (0.5, 3)])] == [
        (0.5, 3), (1, 2), (4, 10),
    ]  # fmt: skip
    for start, end in ((3, 3), (5, 2), (-1, 4), (10, 12), (math.nan, 4), (1, math.nan)):
        with pytest.raises(ValueError, match=r"x\.mp4: nothing lies between .* of 10\.00 s"):
            task.describe("x.mp4", [(0, 1), (start, end)])


def test_a_file_without_events_or_reader() -> None:
    task = dense_task(proposals=None)
    with pytest.raises(RuntimeError, match=r"groundzoo\.load"):
        task.describe("x.mp4", [(0, 1)])
    task.video_reader = reader(1)
    assert len(task.describe("x.mp4", [(0, 1)])) == 1
    for nothing in (None, []):
        with pytest.raises(ValueError, match=r"x\.mp4: this model proposes no events"):
            task.describe("x.mp4", nothing)


# ---- wrong inputs ---------------------------------------------------------------------------------------


def test_what_cannot_be_is_refused() -> None:
    for options in ({"samples": 0}, {"baseline": "leave_one_out"}):
        with pytest.raises(ValueError, match="draw more samples per event"):
            SelfCriticalOptions(**options)
    with pytest.raises(ValueError, match="set the video encoder's trainable to false"):
        DenseCaptioning(Layers())
    for options in ({"min_count": 0}, {"max_length": 0}):
        with pytest.raises(ValueError, match="each is at least 1"):
            dense_task(**options)
    with pytest.raises(ValueError, match=r"stage 2 has losses \['rewrad'\]; choose from \['caption', 'pro"):
        dense_task(stages=[GIVEN, Stage(losses=("rewrad",))])
    with pytest.raises(
        ValueError, match=r"stage 1 has losses \['proposal'\]; choose from \['caption', 'reward'\]"
    ):
        dense_task(stages=[GIVEN], proposals=None)
    with pytest.raises(ValueError, match=r"stage 1 trains 'capshuner'; choose from .*captioner"):
        dense_task(stages=[dataclasses.replace(GIVEN, train="capshuner")]).enter_stage(0)


def test_the_schedule_is_the_released_one_with_or_without_proposals() -> None:
    stages = [dense_task(proposals=None).stages, dense_task().stages]
    assert [[s.losses for s in some] for some in stages] == [
        [("caption",), ("reward",)],
        [("caption", "proposal"), ("reward",)],
    ]
    assert [[(s.lr, s.epochs) for s in some] for some in stages] == [[(1e-4, 25), (3e-5, 40)]] * 2
    words = Vocabulary.fitted([words for video in SENTENCES for words in video], 1).words
    assert words == WORDS
    assert len(TEXTS) == len(EVENTS) == len(CLIPS)
