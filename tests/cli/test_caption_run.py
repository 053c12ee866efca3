"""CVG through the command line: a world, labels, training, scores, and captions of a user's own video."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from small_encoders import SMALL

import groundzoo
from groundzoo.datamodules.activitynet_entities import ActivityNetEntities
from groundzoo.datamodules.video import probe
from groundzoo.tasks.checkpoints import read_checkpoint
from groundzoo.tasks.metrics.dense_captions import DenseCaptionScores, read_submission
from groundzoo.tasks.metrics.entity_grounding import NAMES, EntityGrounding, evaluate_generated, evaluate_gt
from groundzoo.zoo.text.lemmas import lemma

STAGES = "[{losses: [caption, grounding], lr: 1.0e-2, epochs: 8, schedule: {factor: 0.5, every: 3, first: 3}}]"
STEPS = {"class_path": "ModelCheckpoint", "init_args": {"filename": "{step}", "save_top_k": -1}}
FRAMES, STEPS_PER_EPOCH = 10, 11


@dataclasses.dataclass(frozen=True)
class Captioner:
    """A trained, validated and tested run.

    Attributes:
        folder: of the run.
        data: its world.
        options: the words that made it, without the verb.
        tested: the result of ``test``.
        records: its predictions.
    """

    folder: Path
    data: Path
    options: list[str]
    tested: Any
    records: list[dict[str, Any]]

    @property
    def best(self) -> Path:
        return self.folder / "checkpoints" / "best.ckpt"

    @property
    def metrics(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.folder / "metrics.json").read_text())
        return loaded


@pytest.fixture(scope="session")
def captioner(
    tmp_path_factory: pytest.TempPathFactory, cli: Callable, worlds: Callable, labels: Callable, small_of: Callable
) -> Captioner:
    """Labels made by the program, then ``fit``, ``validate`` and ``test`` in one folder."""
    home = tmp_path_factory.mktemp("captioner")
    data = Path(shutil.copytree(worlds("activitynet_entities"), home / "world"))
    shutil.copytree(labels("activitynet_entities", FRAMES), data / "labels")
    run = home / "run"
    steps = {**STEPS, "init_args": {**STEPS["init_args"], "dirpath": str(run / "steps"), "every_n_train_steps": 4}}
    (home / "steps.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [steps]}}))
    options = ["-c", "tasks/cvg_toyworld.yaml", "-c", "logger/csv.yaml", *small_of("cvg")]
    options += ["--model.network.dim", "48", "--data.batch_size", "2", "--model.network.dropout", "0.1"]
    options += ["--data.root", str(data), "--data.labels", str(data / "labels"), "--model.stages", STAGES]
    options += ["--trainer.log_every_n_steps", "1"]
    done = cli("fit", *options, "-c", home / "steps.yaml", "--run_dir", run)
    assert done.code == 0, done.err
    for verb in ("validate", "test"):
        done = cli(verb, *options, "--ckpt_path", run / "checkpoints" / "best.ckpt")
        assert done.code == 0, done.err
    records = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    return Captioner(run, data, options, done, records)


@pytest.fixture
def video(captioner: Captioner, tmp_path: Path) -> Path:
    """A copy of a video of the test split, under another name."""
    found = captioner.data / "videos" / f"{captioner.records[0]['video']}.mp4"
    return Path(shutil.copy(found, tmp_path / "my holiday.mp4"))


# ---- what a run leaves ----------------------------------------------------------------------------------


def test_all_metrics_are_there(captioner: Captioner) -> None:
    values = captioner.metrics
    suffix = "" if shutil.which("java") else "_simple"
    names = [f"BLEU{n}" for n in (1, 2, 3, 4)] + ["ROUGE_L", "CIDEr"] + (["METEOR"] if not suffix else [])
    overlaps = ["dense", *(f"dense@{t}" for t in (0.3, 0.5, 0.7, 0.9))]
    expected = {f"test/{name}{suffix}" for name in names} | {"test/loss", "val/loss", "val/CIDEr", "val/BLEU4"}
    expected |= {f"test/{part}/{name}{suffix}" for part in overlaps for name in names}
    expected |= {f"test/{part}/{name}" for part in overlaps for name in ("precision", "recall")}
    expected |= {f"test/{name}" for name in NAMES.values()}
    assert expected <= values.keys()
    scored = [k for k in values if k != "provenance" and not k.endswith("loss")]
    assert all(0 <= values[k] <= (1000 if "CIDEr" in k else 100) for k in scored)
    assert values["test/dense/precision"] == values["test/dense/recall"] == 100, "segments are the annotated ones"
    assert values[f"test/BLEU1{suffix}"] > 1
    for shown in ("test/CIDEr", "dense@0.5", "GT_accuracy", "by protocol"):
        assert shown in captioner.tested.out


def test_what_is_absent_is_named_with_its_reason(captioner: Captioner) -> None:
    tested = captioner.metrics["provenance"]["test"]
    if "test/SPICE" not in captioner.metrics:
        assert "SPICE needs" in tested["absent"]["SPICE"] or "Java" in tested["absent"]["SPICE"]
    assert not {name for name in tested["absent"] if f"test/{name}" in captioner.metrics}
    assert captioner.metrics["provenance"]["val"]["absent"] == {}
    assert tested["evaluated"] == len(captioner.records)
    assert tested["data"]["labels"]["frames"] == FRAMES
    assert [m["encoder"] for m in tested["data"]["manifests"]] == ["AppearanceGrid", "MotionGrid"]


def test_every_segment_has_one_record(captioner: Captioner) -> None:
    segments = ActivityNetEntities(captioner.data).read("test")
    assert [r["query_id"] for r in captioner.records] == [s.segment_id for s in segments]
    spoken = 0
    for record, segment in zip(captioner.records, segments, strict=True):
        assert record["video"] == segment.video_id
        assert (record["start_s"], record["end_s"]) == pytest.approx((segment.start_s, segment.end_s), abs=1e-3)
        assert record["references"] == [c.text for c in segment.captions]
        assert record["score"] <= 0
        assert record["caption"] == " ".join(word["text"] for word in record["phrases"])
        for word in record["phrases"]:
            spoken += 1
            assert len(word["boxes"]) == len(word["scores"]) == FRAMES
            assert sum(word["scores"]) == pytest.approx(1, abs=1e-2)
            assert all(0 <= x1 < x2 <= 96 and 0 <= y1 < y2 <= 96 for x1, y1, x2, y2 in word["boxes"])
        given = record["grounding"]["gt"]
        assert given["idx_in_sent"] == [i for i, _ in segment.captions[0].entities]
        assert all(len(boxes) == FRAMES for boxes in given["bbox_for_all_frames"])
    assert spoken > len(captioner.records)


def test_submissions_give_the_numbers_of_the_run(captioner: Captioner) -> None:
    """The files, evaluated as their benchmarks do it."""
    found = ActivityNetEntities(captioner.data).entity_reference("test")
    assert found is not None
    reference, split = found
    files = [captioner.folder / f"submission_grounding_{mode}.json" for mode in ("gt", "gen")]
    gt, gen = (json.loads(file.read_text()) for file in files)
    assert (gt["eval_mode"], gen["eval_mode"]) == ("GT", "gen")
    assert sum(map(len, gt["results"].values())) == len(captioner.records)
    for iou in (0.5, -0.5):  # so few steps teach little: most boxes miss
        values = evaluate_gt(reference, gt, split, iou) | evaluate_generated(reference, gen, split, lemma, iou)
        metric = EntityGrounding(reference, split, iou=iou)
        metric.update(range(len(captioner.records)), [r["grounding"] for r in captioner.records])
        ours = {name: value.item() for name, value in metric.compute().items()}
        for key, name in NAMES.items():
            assert 100 * values[key] == pytest.approx(ours[name], abs=1e-9), name
            assert iou != 0.5 or ours[name] == pytest.approx(captioner.metrics[f"test/{name}"], abs=1e-9), name
    assert min(ours["grounding/GT_accuracy"], ours["grounding/F1_all"]) > 0, "compared with nothing"
    dense = ActivityNetEntities(captioner.data).dense_references("test")
    assert dense is not None
    assert len(dense) == 2
    scores = DenseCaptionScores(dense, scores=("CIDEr", "BLEU"), tokenizer="ptb")
    rows = read_submission(captioner.folder / "submission_dense.json")
    assert len(rows) == len(captioner.records)
    scores.update(list(range(len(rows))), rows)
    for name, value in scores.compute().items():
        assert value.item() == pytest.approx(captioner.metrics[f"test/{name}"], abs=1e-6), name


def test_predict_says_the_same_and_keeps_the_submissions(
    captioner: Captioner, cli: Callable, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(captioner.folder, tmp_path / "run"))
    done = cli("predict", *captioner.options, "--ckpt_path", run / "checkpoints" / "best.ckpt")
    assert done.code == 0, done.err
    names = ["predictions.jsonl", *(p.name for p in captioner.folder.glob("submission_*.json"))]
    assert len(names) == 4
    for name in names:
        assert (run / name).read_text() == (captioner.folder / name).read_text(), name


# ---- from a checkpoint and a video ----------------------------------------------------------------------


def test_the_checkpoint_alone_suffices(captioner: Captioner, cli: Callable, video: Path, tmp_path: Path) -> None:
    checkpoint = Path(shutil.copy(captioner.best, tmp_path / "only.ckpt"))
    gone = captioner.data.with_name("gone")
    captioner.data.rename(gone)
    try:
        done = cli("caption", video, "--ckpt", checkpoint, "--beam_size", "3", "--start", "0.5", "--end", "3")
        answer = groundzoo.load(checkpoint).caption(video, beam_size=3, start_s=0.5, end_s=3.0)
    finally:
        gone.rename(captioner.data)
    assert done.code == 0, done.err
    assert {p.name for p in Path("captioned").iterdir()} == {f"my holiday.{k}" for k in ("json", "png", "mp4")}
    record = json.loads(Path("captioned/my holiday.json").read_text())
    assert (record["caption"], record["score"]) == (answer.text, pytest.approx(answer.score))
    assert [w["text"] for w in record["phrases"]] == answer.text.split() == [w.text for w in answer.phrases]
    assert record["times_s"] == answer.times_s == pytest.approx([0.5 + 0.25 * (k + 0.5) for k in range(FRAMES)])
    assert record["size"] == [96, 96]
    for word, same in zip(record["phrases"], answer.phrases, strict=True):
        assert (word["boxes"], word["scores"]) == (same.boxes, same.scores)
        assert len(word["boxes"]) == FRAMES
        assert all(0 <= x1 < x2 <= 96 and 0 <= y1 < y2 <= 96 for x1, y1, x2, y2 in word["boxes"])
    assert probe("captioned/my holiday.mp4").duration_s == pytest.approx(2.5, abs=0.3)


def test_a_wider_beam_finds_no_less_probable_sentence(captioner: Captioner, video: Path) -> None:
    task = groundzoo.load(captioner.best)

    def total(beam: int) -> float:
        answer = task.caption(video, beam_size=beam)
        return float(answer.score * (len(answer.phrases) + 1))

    assert total(3) >= total(1) - 1e-4


def test_answers_agree_with_the_test_set(captioner: Captioner) -> None:
    """Stored features are halves, a video file's are not: hence the tolerances."""
    task = groundzoo.load(captioner.best)
    for record in captioner.records[:4]:
        path = captioner.data / "videos" / f"{record['video']}.mp4"
        answer = task.caption(path, start_s=record["start_s"], end_s=record["end_s"])
        assert answer.text == record["caption"]
        assert answer.score == pytest.approx(record["score"], abs=2e-3)
        for word, stored in zip(answer.phrases, record["phrases"], strict=True):
            assert word.scores == pytest.approx(stored["scores"], abs=5e-3)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["nowhere.mp4"], "nowhere.mp4: not captioned."),
        (["letter.mp4"], "letter.mp4: not captioned."),
        (["VIDEO", "--start", "99"], "--start 99 is not before its end"),
        (["VIDEO", "--ckpt", "nowhere.ckpt"], "nowhere.ckpt does not exist"),
        (["VIDEO", "--ckpt", "VIDEO"], "no readable checkpoint"),
        (["VIDEO", "--device", "toaster"], "toaster"),
    ],
)
def test_wrong_inputs(
    words: list[str], expected: str, captioner: Captioner, cli: Callable, video: Path, tmp_path: Path
) -> None:
    (tmp_path / "letter.mp4").write_text("Dear video reader,\n" * 100)
    words = [str(video) if word == "VIDEO" else word for word in words]
    done = cli("caption", *words, *([] if "--ckpt" in words else ["--ckpt", captioner.best]))
    assert done.code == 1
    assert expected in done.err
    assert len(done.err.strip().splitlines()) <= 2, f"a wall of text: {done.err}"
    assert "Traceback" not in done.err
    assert not Path("captioned").exists()


@pytest.mark.parametrize(("start", "end"), [(99.0, None), (2.0, 1.0)])
def test_an_empty_stretch_in_python(captioner: Captioner, video: Path, start: float, end: float | None) -> None:
    with pytest.raises(ValueError, match="nothing lies between"):
        groundzoo.load(captioner.best).caption(video, start_s=start, end_s=end)


def test_a_task_that_finds_moments_does_not_caption(trained: Any, cli: Callable, video: Path) -> None:
    done = cli("caption", video, "--ckpt", trained.best)
    assert done.code == 1
    assert "DRN" in done.err
    assert "does not describe videos with sentences" in done.err
    assert len(done.err.strip().splitlines()) <= 2


def test_a_task_that_captions_does_not_find_moments(captioner: Captioner, cli: Callable, video: Path) -> None:
    done = cli("ground", video, "a circle moves", "--ckpt", captioner.best)
    assert done.code == 1
    assert "CVG" in done.err
    assert "does not answer sentences with moments" in done.err


# ---- resuming -------------------------------------------------------------------------------------------


def same(a: Any, b: Any, where: str = "") -> None:
    """Bit-equality of nested checkpoints."""
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for k, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{where}[{k}]")
    else:
        assert a == b, where


def check_same_end(folder: Path, captioner: Captioner) -> dict[str, Any]:
    """The last checkpoint of a run is that of the undisturbed one, to the bit."""
    ours, theirs = (read_checkpoint(run / "checkpoints" / "last.ckpt") for run in (folder, captioner.folder))
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step"):
        same(ours[key], theirs[key], key)
    return theirs


@pytest.mark.parametrize(("middle", "share"), [(60, 0.5), (80, 0.25)])
def test_resumes_in_mid_epoch_to_the_bit(captioner: Captioner, cli: Callable, middle: int, share: float) -> None:
    """Weights, optimiser and falling learning rate; dropout and the order of captions go on, too."""
    assert middle % STEPS_PER_EPOCH
    checkpoint = captioner.folder / f"steps/step={middle}.ckpt"
    done = cli("fit", *captioner.options, "--ckpt_path", checkpoint, "--run_dir", "run")
    assert done.code == 0, done.err
    check_same_end(Path("run"), captioner)
    rate = read_checkpoint(checkpoint)["optimizer_states"][0]["param_groups"][0]["lr"]
    assert rate == pytest.approx(1e-2 * share), "the schedule did not step"


def test_resumes_from_the_last_checkpoint_to_the_bit(captioner: Captioner, cli: Callable) -> None:
    done = cli("fit", *captioner.options, "--trainer.max_epochs", "6", "--run_dir", "run")
    assert done.code == 0, done.err
    assert read_checkpoint(Path("run/checkpoints/last.ckpt"))["global_step"] == 6 * STEPS_PER_EPOCH
    done = cli("fit", *captioner.options, "--ckpt_path", "run/checkpoints/last.ckpt")
    assert done.code == 0, done.err
    end = check_same_end(Path("run"), captioner)
    assert end["global_step"] == 8 * STEPS_PER_EPOCH


# ---- other ways to run ----------------------------------------------------------------------------------


def test_without_java(
    captioner: Captioner, cli: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training and testing work; what is missing is named, and other tokens have other names."""
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    done = cli("fit", *captioner.options, "--trainer.max_epochs", "1", "--run_dir", "run")
    assert done.code == 0, done.err
    done = cli("test", *captioner.options, "--ckpt_path", "run/checkpoints/best.ckpt")
    assert done.code == 0, done.err
    values = json.loads(Path("run/metrics.json").read_text())
    absent = values["provenance"]["test"]["absent"]
    for name in ("METEOR", "SPICE", "PTB tokenizer"):
        assert "Java is not installed" in absent[name]
    assert "METEOR is left out" in done.err
    assert {"test/CIDEr_simple", "test/dense/CIDEr_simple", "test/grounding/F1_all"} <= values.keys()
    assert not {name for name in values if "METEOR" in name or name in ("test/CIDEr", "test/dense/CIDEr")}


def losses(folder: Path) -> list[float]:
    """Training losses of every step."""
    with (folder / "metrics.csv").open() as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


def test_bfloat16(captioner: Captioner, cli: Callable) -> None:
    words = ["--trainer.precision", "bf16-mixed", "--trainer.max_epochs", "1", "--run_dir", "run"]
    done = cli("fit", *captioner.options, *words)
    assert done.code == 0, done.err
    ours, theirs = losses(Path("run")), losses(captioner.folder)[:STEPS_PER_EPOCH]
    assert ours != theirs, "nothing ran in bfloat16"
    assert ours == pytest.approx(theirs, rel=0.02)
    stored = read_checkpoint(Path("run/checkpoints/last.ckpt"))
    assert all(value.dtype == torch.float32 for value in stored["state_dict"].values())
    provenance = json.loads(Path("run/metrics.json").read_text())["provenance"]
    assert provenance["val"]["precision"] == "bf16-mixed"


def test_an_encoder_is_trained_from_raw_frames(
    captioner: Captioner, cli: Callable, video: Path, tmp_path: Path
) -> None:
    encoder = {"class_path": "VideoSwin"}
    encoder["init_args"] = {**SMALL["VideoSwin"], "weights": "random", "trainable": True}
    overlay = {"model": {"init_args": {"video_encoder": encoder, "motion_encoder": None}}}
    (tmp_path / "swin.yaml").write_text(yaml.safe_dump(overlay))
    options = [*captioner.options, "-c", tmp_path / "swin.yaml", "--data.cache", tmp_path / "features"]
    options += ["--trainer.limit_val_batches", "1", "--trainer.limit_train_batches", "2"]
    done = cli("fit", *options, "--trainer.max_epochs", "1", "--run_dir", "run")
    assert done.code == 0, done.err
    assert not (tmp_path / "features").exists(), "raw frames need no features"
    stored = read_checkpoint(Path("run/checkpoints/last.ckpt"))
    task = groundzoo.load("run/checkpoints/last.ckpt")
    names = [name for name, _ in task.named_parameters()]
    moments = stored["optimizer_states"][0]["state"]
    assert len(moments) == len(names), "the optimiser does not train all parts"
    moved = {name for k, name in enumerate(names) if moments[k]["exp_avg"].abs().max() > 0}
    own = {name for name in names if name.startswith("video_encoder.")}
    assert len(own) > 20
    still = own - moved
    assert not {name for name in still if "relative_position" not in name}, still
    assert task.caption(video).size == (96, 96)
    done = cli(
        "predict", *options, "--ckpt_path", "run/checkpoints/last.ckpt", "--trainer.limit_predict_batches", "1"
    )
    assert done.code == 0, done.err


# ---- mistakes -------------------------------------------------------------------------------------------


def test_labels_of_other_frames_are_refused_before_encoding(captioner: Captioner, cli: Callable) -> None:
    options = [*captioner.options, "--data.cache", "features", "--run_dir", "run"]
    done = cli("fit", *options, "--model.frames", "4")
    assert done.code == 1
    assert f"are for {FRAMES} frames per segment, the model takes 4" in done.err
    assert "groundzoo annotate propagate --frames 4" in done.err
    assert "Traceback" not in done.err
    assert not Path("features").exists(), "an hour of encoding, then this message"


def test_grounding_without_labels_says_how_to_make_them(captioner: Captioner, cli: Callable) -> None:
    done = cli("fit", *captioner.options, "--data.labels", "null", "--run_dir", "run")
    assert done.code == 1
    for part in ("groundzoo annotate propagate", "data.init_args.labels", "entity_grounding"):
        assert part in done.err
    assert "Traceback" not in done.err
    gone = cli("fit", *captioner.options, "--data.labels", "nowhere", "--run_dir", "run")
    assert gone.code == 1
    assert "labels nowhere: no manifest.json there; make labels with `groundzoo annotate propagate" in gone.err


def test_without_grounding_no_labels_are_needed(captioner: Captioner, cli: Callable) -> None:
    words = ["--data.labels", "null", "--model.grounding.entity_grounding", "false"]
    words += ["--model.grounding.action_grounding", "false", "--trainer.max_epochs", "1", "--run_dir", "run"]
    done = cli("fit", *captioner.options, *words)
    assert done.code == 0, done.err
    assert "train/grounding" not in Path("run/metrics.csv").read_text()
