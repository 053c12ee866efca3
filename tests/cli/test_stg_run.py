"""STG through the command line: a world of narrations, training, all protocols, and actions in a user's video."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import groundzoo
from groundzoo.datamodules.features import FeatureStore
from groundzoo.tasks.checkpoints import read_checkpoint

STAGES = (
    "[{losses: [global], lr: 1.0e-2, epochs: 3, schedule: one_cycle, monitor: val/frame accuracy}, "
    "{losses: [global, local], lr: 1.0e-2, epochs: 3, schedule: one_cycle}]"
)
STEPS_PER_EPOCH = 3
UNTRIMMED = {"IoU+Point", "IoU+Point class", "frame accuracy", "mAP", *(f"mAP@0.{k}" for k in range(1, 6))}
SPATIAL = {f"spatial/{name}" for name in ("pointing accuracy", "mask fraction", "mask fraction class", "mAP")}
TEMPORAL = {f"temporal/{v}{k}" for v in ("IoU", "IoD") for k in ("", " with background", " per segment")}


@dataclasses.dataclass(frozen=True)
class Grounded:
    """A trained and tested run.

    Attributes:
        folder: of the run.
        data: its world.
        model: the words that made its model, without the verb.
        options: the words that made it, without the verb.
    """

    folder: Path
    data: Path
    model: list[str]
    options: list[str]

    @property
    def best(self) -> Path:
        return self.folder / "checkpoints" / "best.ckpt"

    def copy(self, target: Path) -> Path:
        """The run's folder, for a test that writes into it."""
        return Path(shutil.copytree(self.folder, target))


def values_of(folder: Path, split: str) -> dict[str, float]:
    """Metrics of a run on a split, without the prefix."""
    stored = json.loads((folder / "metrics.json").read_text())
    return {key.removeprefix(f"{split}/"): v for key, v in stored.items() if key.startswith(f"{split}/")}


def records_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


@pytest.fixture(scope="session")
def grounded(
    tmp_path_factory: pytest.TempPathFactory, cli: Callable, worlds: Callable, small_of: Callable
) -> Grounded:
    """``fit``, then ``test``, in one folder; every video is encoded once."""
    home = tmp_path_factory.mktemp("grounded")
    data = Path(shutil.copytree(worlds("howto100m"), home / "world"))
    run = home / "run"
    steps = {"filename": "{step}", "save_top_k": -1, "dirpath": str(run / "steps"), "every_n_train_steps": 4}
    callback = {"class_path": "ModelCheckpoint", "init_args": steps}
    (home / "steps.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    small = [word for word in small_of("stg") if not word.startswith("--data")]
    model = ["-c", "tasks/stg_toyworld.yaml", "-c", "logger/csv.yaml", "--model.video_encoder", "AppearanceGrid"]
    model += [*small, "--model.inference.background", "0.0", "--model.stages", STAGES]
    options = [*model, *(word for word in small_of("stg") if word.startswith("--data"))]
    options += ["--data.root", str(data), "--data.evaluation.init_args.root", str(data)]
    options += ["--trainer.check_val_every_n_epoch", "1"]
    done = cli("fit", *options, "-c", home / "steps.yaml", "--run_dir", run)
    assert done.code == 0, done.err
    done = cli("test", *options, "--ckpt_path", run / "checkpoints" / "best.ckpt")
    assert done.code == 0, done.err
    return Grounded(run, data, model, options)


# ---- what a run leaves ----------------------------------------------------------------------------------


def test_all_metrics_are_there(grounded: Grounded) -> None:
    for split in ("val", "test"):
        values = values_of(grounded.folder, split)
        assert values.keys() - {"spatial/pointing accuracy widespread", "spatial/pointing accuracy saturated"} == (
            UNTRIMMED | SPATIAL
        )
        assert all(0 <= value <= 100 for value in values.values())
        assert values["frame accuracy"] > 0
    provenance = json.loads((grounded.folder / "metrics.json").read_text())["provenance"]
    assert provenance["test"]["evaluated"] == len(records_of(grounded.folder))
    assert provenance["test"]["data"]["evaluation"]["protocols"] == ["untrimmed", "spatial"]


def test_the_best_checkpoint_is_that_of_the_monitor(grounded: Grounded) -> None:
    states = read_checkpoint(grounded.best)["callbacks"]
    (state,) = (state for name, state in states.items() if "val/IoU+Point" in name)
    assert state["monitor"] == "val/IoU+Point"
    assert 0 <= state["best_model_score"] <= 100


def test_every_stretch_has_one_record(grounded: Grounded) -> None:
    steps = json.loads((grounded.data / "ground_seg.json").read_text())
    pools = json.loads((grounded.data / "vid2step.json").read_text())
    records = records_of(grounded.folder)
    videos = (grounded.data / "videos_test.txt").read_text().split()
    assert [r["query_id"] for r in records if r["protocol"] == "untrimmed"] == videos
    spatial = [f"{video}#{k}" for video in videos for k in range(len(steps[video]))]
    assert [r["query_id"] for r in records if r["protocol"] == "spatial"] == spatial
    assert sum(len(r["tubes"]) for r in records) > len(spatial)
    for record in records:
        for tube in record["tubes"]:
            assert tube["action"] in pools[record["video"]]
            assert tube["start_s"] < tube["end_s"]
            assert len(tube["times_s"]) == len(tube["points"]) == len(tube["boxes"])
            for (x, y), (x1, y1, x2, y2) in zip(tube["points"], tube["boxes"], strict=True):
                assert 0 <= x1 <= x2 <= 640
                assert 0 <= y1 <= y2 <= 480
                assert (0 <= x <= 640) & (0 <= y <= 480)
        if record["protocol"] == "spatial":
            segment = steps[record["video"]][int(record["query_id"].split("#")[1])]
            assert [tube["action"] for tube in record["tubes"]] == [segment["sentence"]]
            assert record["tubes"][0]["start_s"] == segment["segment"][0]


def test_known_order(grounded: Grounded, cli: Callable, tmp_path: Path) -> None:
    """MiningYouTube: only metrics of the protocol that it has, and every action once, in order."""
    run = grounded.copy(tmp_path / "run")
    words = ["--data", "MiningYouTube", "--data.root", grounded.data, "--data.num_workers", "0"]
    for verb in ("validate", "test"):
        done = cli(verb, *grounded.model, *words, "--ckpt_path", run / "checkpoints" / "best.ckpt")
        assert done.code == 0, done.err
        assert "UserWarning" not in done.err
    assert values_of(run, "test").keys() == values_of(run, "val").keys() == TEMPORAL
    steps = json.loads((grounded.data / "ground_seg.json").read_text())
    for record in records_of(run):
        told = [segment["sentence"] for segment in steps[record["video"]]]
        assert [tube["action"] for tube in record["tubes"]] == told
        assert not {"boxes", "points"} & record["tubes"][0].keys()


def test_boxes_of_any_data_set(grounded: Grounded, cli: Callable, tmp_path: Path) -> None:
    run = grounded.copy(tmp_path / "run")
    clip = {"video": "toy00000", "start_s": 3.0, "end_s": 7.0, "action": "red circle grows"}
    clip["boxes"] = {"3": [0, 0, 90, 90], "5": [20, 10, 60, 80]}
    content = {"videos": {"toy00000": {"width": 96, "height": 96}}, "clips": [clip]}
    (tmp_path / "spatial_boxes.json").write_text(json.dumps(content))
    words = ["--data", "SpatialBoxes", "--data.root", tmp_path, "--data.videos", grounded.data / "videos"]
    words += ["--data.num_workers", "0"]
    done = cli("test", *grounded.model, *words, "--ckpt_path", run / "checkpoints" / "best.ckpt")
    assert done.code == 0, done.err
    assert values_of(run, "test").keys() >= SPATIAL
    assert not UNTRIMMED & values_of(run, "test").keys()
    (record,) = records_of(run)
    (tube,) = record["tubes"]
    assert (record["query_id"], tube["times_s"]) == ("toy00000#0", [3.0, 4.0, 5.0, 6.0])


# ---- from a checkpoint and a video ----------------------------------------------------------------------


def test_answers_about_a_file_are_those_of_the_test_set(grounded: Grounded, cli: Callable, tmp_path: Path) -> None:
    run = grounded.copy(tmp_path / "run")
    words = ["--data.evaluation.init_args.fps", "1", "--data.evaluation.init_args.live", "true"]
    best = run / "checkpoints" / "best.ckpt"
    done = cli("test", *grounded.options, *words, "--ckpt_path", best)
    assert done.code == 0, done.err
    pools = json.loads((grounded.data / "vid2step.json").read_text())
    compared = 0
    for record in (r for r in records_of(run) if r["protocol"] == "untrimmed"):
        video = record["video"]
        actions = [action for action in pools[video] if action != "background"]
        found = groundzoo.load(best).localize(grounded.data / "videos" / f"{video}.mp4", actions)
        assert found.size == (96, 96)
        assert len(found.tubes) == len(record["tubes"])
        for ours, stored in zip(found.tubes, record["tubes"], strict=True):
            assert (ours.action, ours.start_s, ours.times_s) == tuple(
                stored[key] for key in ("action", "start_s", "times_s")
            )
            assert ours.end_s == min(stored["end_s"], round(found.duration_s, 3))
            assert ours.score == pytest.approx(stored["score"], abs=2e-4)
            shares = np.array(stored["points"]) / [640, 480], np.array(ours.points) / 96
            assert np.abs(shares[0] - shares[1]).max() < 0.02  # the rasters differ
            compared += len(ours.points)
    assert compared > 10
    words = ["--actions", *actions, "--ckpt", best, "--mark", "false"]
    done = cli("localize", grounded.data / "videos" / f"{video}.mp4", *words)
    assert done.code == 0, done.err
    written = json.loads(Path(f"localized/{video}.json").read_text())
    assert written["tubes"] == [tube._asdict() for tube in found.tubes]
    with np.load(f"localized/{video}.npz", allow_pickle=False) as maps:
        assert np.array_equal(maps["similarity"], found.similarity)
        assert np.array_equal(maps["heat"], found.heat)


# ---- resuming -------------------------------------------------------------------------------------------


def check_same_end(folder: Path, grounded: Grounded) -> None:
    """The last checkpoint of a run is that of the undisturbed one, to the bit."""
    ours, theirs = (read_checkpoint(run / "checkpoints" / "last.ckpt") for run in (folder, grounded.folder))
    assert ours["global_step"] == theirs["global_step"] == 6 * STEPS_PER_EPOCH
    for name, value in theirs["state_dict"].items():
        assert torch.equal(ours["state_dict"][name], value), name
    for k, state in theirs["optimizer_states"][0]["state"].items():
        assert torch.equal(ours["optimizer_states"][0]["state"][k]["exp_avg"], state["exp_avg"]), k


def test_resumes_between_epochs_to_the_bit(grounded: Grounded, cli: Callable) -> None:
    done = cli("fit", *grounded.options, "--trainer.max_epochs", "2", "--run_dir", "run")
    assert done.code == 0, done.err
    assert read_checkpoint(Path("run/checkpoints/last.ckpt"))["global_step"] == 2 * STEPS_PER_EPOCH
    done = cli("fit", *grounded.options, "--ckpt_path", "run/checkpoints/last.ckpt")
    assert done.code == 0, done.err
    check_same_end(Path("run"), grounded)


def test_resumes_in_mid_epoch_to_the_bit(grounded: Grounded, cli: Callable, tmp_path: Path) -> None:
    """In the second stage: narrations, moments and the order of videos go on."""
    run = grounded.copy(tmp_path / "run")
    (run / "checkpoints" / "last.ckpt").unlink()
    done = cli("fit", *grounded.options, "--ckpt_path", run / "steps" / "step=16.ckpt", "--run_dir", run)
    assert done.code == 0, done.err
    check_same_end(run, grounded)


# ---- other ways to run ----------------------------------------------------------------------------------


def test_without_anything_to_validate_on(grounded: Grounded, cli: Callable) -> None:
    """Training works, says that there is no best checkpoint, and ends with the same weights per stage."""
    words = ["-c", "null.yaml", "--trainer.max_epochs", "4", "--run_dir", "run"]
    Path("null.yaml").write_text("data: {init_args: {evaluation: null}}\n")
    done = cli("fit", *without_evaluation(grounded.options), *words)
    assert done.code == 0, done.err
    assert "there is no best.ckpt" in done.err
    assert "across ranks" not in done.err
    assert "ModelCheckpoint" not in done.err
    assert [p.name for p in Path("run/checkpoints").iterdir()] == ["last.ckpt"]
    video = grounded.data / "videos" / "toy00000.mp4"
    assert groundzoo.load("run/checkpoints/last.ckpt").localize(video, ["red circle grows"]).size == (96, 96)
    done = cli(
        "test", *without_evaluation(grounded.options), *words[:2], "--ckpt_path", "run/checkpoints/last.ckpt"
    )
    assert done.code == 1
    assert "no annotated actions to test on; set data.init_args.evaluation" in done.err


def without_evaluation(options: list[str]) -> list[str]:
    """The words of a run but for those about its evaluation."""
    kept, skip = [], False
    for word in options:
        if not skip and not word.startswith("--data.evaluation"):
            kept.append(word)
        skip = word.startswith("--data.evaluation") and "=" not in word
    return kept


def test_another_evaluation_has_another_monitor(grounded: Grounded, cli: Callable) -> None:
    words = ["--data.evaluation", "MiningYouTube", "--data.evaluation.init_args.root", str(grounded.data)]
    words += ["--data.evaluation.init_args.num_workers", "0", "--trainer.max_epochs", "1", "--run_dir", "run"]
    done = cli("fit", *without_evaluation(grounded.options), *words)
    assert done.code == 0, done.err
    assert "val/temporal/IoU" in done.err
    assert Path("run/checkpoints/best.ckpt").exists()


def test_stores_of_several_encoders(grounded: Grounded, cli: Callable) -> None:
    """Made by ``extract`` from the task's configuration, read as a list; without cells they are refused."""
    videos = grounded.data / "videos"
    Path("few.txt").write_text("".join(f"{videos}/toy0000{k}.mp4\n" for k in range(2)))
    words = ["extract", "-c", "tasks/stg_toyworld.yaml", "--num_workers", "0"]
    for out, grid, some in (("stores", "true", videos), ("flat", "false", "few.txt")):
        done = cli(*words, "--out", out, "--grid", grid, "--videos", some)
        assert done.code == 0, done.err
    stores = ["0-AppearanceGrid", "1-MotionGrid"]
    assert sorted(p.name for p in Path("stores").iterdir()) == stores
    assert [FeatureStore(Path("stores") / s).read_grid("toy00000").shape[-1] for s in stores] == [77, 33]
    both = {folder: json.dumps([f"{folder}/{store}" for store in stores]) for folder in ("stores", "flat")}
    model = {"class_path": "Combined", "init_args": {"encoders": [{"class_path": s[2:]} for s in stores]}}
    Path("both.yaml").write_text(yaml.safe_dump({"model": {"init_args": {"video_encoder": model}}}))
    options = [*grounded.options, "-c", "both.yaml", "--trainer.max_epochs", "1", "--data.videos", "nowhere"]
    options += ["--data.evaluation.init_args.videos", "nowhere", "--run_dir", "run"]
    for folder, code in (("stores", 0), ("flat", 1)):
        given = ["--data.features", both[folder], "--data.evaluation.init_args.features", both["stores"]]
        done = cli("fit", *options, *given)
        assert done.code == code, done.err
    assert "--grid true" in done.err
    assert "Traceback" not in done.err
    assert len(done.err.split("groundzoo fit: ")[1].splitlines()) == 2


# ---- mistakes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--data.captions", "nowhere.json"], "nowhere.json does not exist"),
        (["--data.root", "nowhere"], "nowhere/caption.json does not exist"),
        (["--data.videos", "."], "there is no video in ."),
        (["--data.evaluation.init_args.root", "nowhere"], "nowhere/box_anno.json does not exist"),
        (["--data.evaluation.init_args.videos", "."], "annotated videos is in ."),
        (["--data.features", "nowhere"], "nowhere"),
        (["--data.batch_size", "7"], "6 videos are too few for 1 x 7 in a batch, all different; lower"),
        (["--model.video_encoder", "VGG16", "--model.video_encoder.weights", "random"], "no grid of cells"),
    ],
)
def test_wrong_inputs(words: list[str], expected: str, grounded: Grounded, cli: Callable) -> None:
    done = cli("fit", *grounded.options, *words, "--run_dir", "run")
    assert done.code == 1
    assert expected in done.err
    assert len(done.err.split("groundzoo fit: ")[1].splitlines()) == 2, f"a wall of text: {done.err}"
    assert "Traceback" not in done.err


def test_a_checkpoint_of_another_task(grounded: Grounded, trained: Any, cli: Callable) -> None:
    video = grounded.data / "videos" / "toy00000.mp4"
    done = cli("localize", video, "--actions", "red circle grows", "--ckpt", trained.best)
    assert done.code == 1
    assert "DRN" in done.err
    assert "does not find actions in videos" in done.err
    done = cli("ground", video, "a circle moves", "--ckpt", grounded.best)
    assert done.code == 1
    assert "does not answer sentences with moments" in done.err
    done = cli("test", *grounded.options, "--ckpt_path", trained.best, "--run_dir", "run")
    assert done.code == 1
    assert "Traceback" not in done.err
    assert "this is a checkpoint of DRN, and not of STG" in done.err
    assert len(done.err.split("groundzoo test: ")[1].splitlines()) == 2, f"a wall of text: {done.err}"
