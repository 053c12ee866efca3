"""Dense captioning through the command line: sentences given, then rewarded, and a user's video described."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import groundzoo
from groundzoo.tasks.checkpoints import read_checkpoint
from groundzoo.tasks.metrics.dense_captions import DenseCaptionScores, read_submission

STAGES = (
    "[{losses: [caption, proposal], lr: 1.0e-2, epochs: 20}, "
    "{losses: [reward], train: captioner, lr: 1.0e-3, epochs: 2}]"
)
STEPS_PER_EPOCH, GIVEN_STEPS = 3, 60
CIDER = {"val": "CIDEr", "test": "CIDEr_simple"}  # by tokenizer


@dataclasses.dataclass(frozen=True)
class Told:
    """A trained and tested run.

    Attributes:
        folder: of the run.
        data: its world.
        options: the words that made it, without the verb.
    """

    folder: Path
    data: Path
    options: list[str]

    @property
    def best(self) -> Path:
        return self.folder / "checkpoints" / "best.ckpt"


@pytest.fixture(scope="module", autouse=True)
def _no_java() -> Iterator[None]:
    """Scores that need Java take seconds: they are left out where it is missing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "")
        yield


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, cli: Callable, worlds: Callable, small_of: Callable) -> Told:
    """``fit`` on raw video, both stages, then ``test``."""
    home = tmp_path_factory.mktemp("told")
    data = Path(shutil.copytree(worlds("activitynet"), home / "world"))
    run = home / "run"
    steps = {"filename": "{step}", "save_top_k": -1, "dirpath": str(run / "steps"), "every_n_train_steps": 2}
    callback = {"class_path": "ModelCheckpoint", "init_args": steps}
    (home / "steps.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    options = ["-c", "tasks/dense_toyworld.yaml", "-c", "encoders/appearance_grid.yaml", "-c", "logger/csv.yaml"]
    options += [*small_of("dense"), "--data.root", str(data), "--model.stages", STAGES]
    options += ["--model.captioner.dim", "32", "--model.captioner.word_dim", "16"]
    options += ["--trainer.log_every_n_steps", "1", "--trainer.check_val_every_n_epoch", "2"]
    done = cli("fit", *options, "-c", home / "steps.yaml", "--run_dir", run)
    assert done.code == 0, done.err
    done = cli("test", *options, "--ckpt_path", run / "checkpoints" / "best.ckpt")
    assert done.code == 0, done.err
    return Told(run, data, options)


def records_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


# ---- what a run leaves ----------------------------------------------------------------------------------


def test_metrics_of_given_and_learned_events(told: Told) -> None:
    stored = json.loads((told.folder / "metrics.json").read_text())
    for split in ("val", "test"):
        for events in ("dense", "learned"):
            assert stored[f"{split}/{events}/{CIDER[split]}"] >= 0
            assert stored[f"{split}/{events}/precision"] > 0
        assert stored[f"{split}/dense/recall"] == pytest.approx(100)
    assert stored["test/dense/BLEU1_simple"] > 5
    with (told.folder / "metrics.csv").open() as file:
        header = file.readline().strip().split(",")
    assert {"train/caption", "train/proposal", "train/reward", "train/advantage", "train/sample reward"} <= set(
        header
    )


def test_records_are_the_submission_and_give_the_metrics(told: Told) -> None:
    truth = {name: json.loads((told.data / f"{name}.json").read_text()) for name in ("val_2", "val_1")}
    records = records_of(told.folder)
    for video, entry in truth["val_2"].items():
        own = [[r["start_s"], r["end_s"]] for r in records if r["video"] == video]
        assert own == sorted(own)
        assert own == [[round(t, 3) for t in pair] for pair in sorted(entry["timestamps"])]
    submitted = read_submission(told.folder / "submission_dense.json")
    keys = ("video", "start_s", "end_s", "caption")
    assert submitted == [{key: r[key] for key in keys} for r in records]
    metric = DenseCaptionScores([truth["val_2"]], scores=("CIDEr",), tokenizer="simple")
    metric.update(range(len(submitted)), submitted)
    stored = json.loads((told.folder / "metrics.json").read_text())
    assert metric.compute()["dense/CIDEr"].item() == pytest.approx(stored["test/dense/CIDEr_simple"], abs=1e-3)


def test_the_second_stage_trains_the_captioner_alone(told: Told) -> None:
    first, last = (
        read_checkpoint(told.folder / "checkpoints" / name)["state_dict"] for name in ("stage1.ckpt", "last.ckpt")
    )
    moved = {name.split(".")[1] for name, value in last.items() if not torch.equal(value, first[name])}
    assert moved == {"encoder", "captioner"}


def test_learned_events_and_proposal_files(told: Told, cli: Callable, tmp_path: Path) -> None:
    """Batches without events; and the submission itself as a proposal file has the same segments."""
    run = Path(shutil.copytree(told.folder, tmp_path / "run"))
    words = ["--ckpt_path", run / "checkpoints" / "best.ckpt"]
    before = json.loads((run / "metrics.json").read_text())
    for verb in ("validate", "test"):
        done = cli(verb, *told.options, *words, "--data.proposals", "learned")
        assert done.code == 0, done.err
    after = json.loads((run / "metrics.json").read_text())
    for split in ("val", "test"):
        assert not any(name.startswith(f"{split}/dense") for name in after)
    name = "test/learned/CIDEr_simple"  # what fit left of validation is of the last epoch
    assert after[name] == pytest.approx(before[name], abs=1e-3)
    results: dict[str, Any] = {}
    for record in (learned := records_of(run)):
        row = {"segment": [record["start_s"], record["end_s"]], "score": record["proposal"]}
        results.setdefault(record["video"], []).append(row)
    Path("p.json").write_text(json.dumps({"results": results, "version": "1", "external_data": {}}))
    done = cli("predict", *told.options, *words, "--data.proposals", "p.json")
    assert done.code == 0, done.err
    assert [(r["query_id"], r["caption"]) for r in records_of(run)] == [
        (r["query_id"], r["caption"]) for r in learned
    ]


# ---- resuming -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [GIVEN_STEPS, GIVEN_STEPS + STEPS_PER_EPOCH - 1])
def test_resumes_in_the_stage_of_rewards_to_the_bit(step: int, told: Told, cli: Callable, tmp_path: Path) -> None:
    """Where it begins and in the middle of an epoch; samples are drawn as they would have been."""
    run = Path(shutil.copytree(told.folder, tmp_path / "run"))
    (run / "checkpoints" / "last.ckpt").unlink()
    done = cli("fit", *told.options, "--ckpt_path", run / "steps" / f"step={step}.ckpt", "--run_dir", run)
    assert done.code == 0, done.err
    ours, theirs = (read_checkpoint(folder / "checkpoints" / "last.ckpt") for folder in (run, told.folder))
    assert ours["global_step"] == theirs["global_step"] == GIVEN_STEPS + 2 * STEPS_PER_EPOCH
    for name, value in theirs["state_dict"].items():
        assert torch.equal(ours["state_dict"][name], value), name


# ---- from a checkpoint and a video ----------------------------------------------------------------------


def test_a_file_is_described_as_in_the_test_set(told: Told) -> None:
    """Features of a store are float16; given events, and learned ones."""
    task: Any = groundzoo.load(told.best)
    records = records_of(told.folder)
    video = records[0]["video"]
    own = [r for r in records if r["video"] == video]
    path = told.data / "videos" / f"{video}.mp4"
    found = task.describe(path, [(r["start_s"], r["end_s"]) for r in own])
    assert [e.sentence for e in found] == [r["caption"] for r in own]
    assert [e.log_prob for e in found] == pytest.approx([r["score"] for r in own], abs=2e-2)
    assert any(e.sentence for e in found)
    learned = task.describe(path)
    assert 1 <= len(learned) <= 3
    assert all(0 <= e.start_s < e.end_s and 0 < e.score < 1 for e in learned)


# ---- mistakes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--data.root", "nowhere"], "nowhere/"),
        (["--data.proposals", "nowhere.json"], "proposals nowhere.json do not exist"),
        (["--data.max_proposals", "1001"], "the benchmark looks at 1000 proposals"),
        (["--model.video_encoder.trainable", "true"], "trainable"),
        (["--model.self_critical.samples", "1"], "draw more samples per event"),
        (["--model.proposals", "null"], "stage 1 has losses ['proposal']; choose from ['caption', 'reward']"),
    ],
)
def test_wrong_inputs(words: list[str], expected: str, told: Told, cli: Callable) -> None:
    options = [w for w in told.options if not (words[:2] == ["--model.proposals", "null"] and "proposals." in w)]
    done = cli("fit", *options, *words, "--run_dir", "run")
    assert done.code in (1, 2)
    assert expected in done.err
    assert "Traceback" not in done.err


def test_rewards_without_java(told: Told, cli: Callable) -> None:
    words = ["--model.self_critical.reward", "{meteor_ids: 1.0, cider: 0.0}", "--run_dir", "run"]
    done = cli("fit", *told.options, *words)
    assert done.code == 1
    assert "set cider: 1, meteor: 0, meteor_ids: 0" in done.err
    assert len(done.err.split("groundzoo fit: ")[1].splitlines()) == 2, f"a wall of text: {done.err}"
