"""What a run leaves in its folder, and what a second run there does not destroy."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

import groundzoo
from groundzoo.datamodules.charades_sta import CharadesSTA
from groundzoo.tasks.checkpoints import read_checkpoint
from groundzoo.tasks.run_folder import metrics_tables


@pytest.fixture
def metrics(trained: Any) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((trained.folder / "metrics.json").read_text())
    return loaded


def test_folder_is_named_by_configuration_and_time(trained: Any) -> None:
    assert trained.folder.parts[-3:-1] == ("runs", "drn_toyworld")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", trained.folder.name)
    assert f"run folder: runs/drn_toyworld/{trained.folder.name}" in trained.fit.err


def test_test_writes_into_the_run_of_its_checkpoint(trained: Any) -> None:
    assert trained.test.code == 0, trained.test.err
    assert len(list(trained.folder.parent.iterdir())) == 1
    assert (trained.folder / "predictions.jsonl").exists()


def test_configuration_runs_again(trained: Any, resolve: Callable) -> None:
    written = yaml.safe_load((trained.folder / "config.yaml").read_text())
    again = resolve("-c", trained.folder / "config.yaml")
    for key in ("model", "data", "seed_everything"):
        assert again[key] == written[key]
    assert {p.name for p in trained.folder.glob("config*")} == {"config.yaml", "config_test.yaml"}


def test_checkpoints(trained: Any) -> None:
    names = {p.name for p in (trained.folder / "checkpoints").iterdir()}
    assert names == {"best.ckpt", "last.ckpt", "stage1.ckpt"}
    last = read_checkpoint(trained.last)
    assert last["epoch"] == 2
    assert last["groundzoo"]["stage"] == 1
    assert last["groundzoo"]["task"]["class_path"] == "groundzoo.tasks.drn.DRN"
    assert "purple" in last["groundzoo"]["vocabulary"]
    assert read_checkpoint(trained.folder / "checkpoints" / "stage1.ckpt")["groundzoo"]["stage"] == 0


def test_metrics(metrics: dict[str, Any]) -> None:
    expected = {f"test/R{k}@{iou}" for k in (1, 5) for iou in (0.3, 0.5, 0.7)} | {"test/mIoU", "test/loss"}
    assert expected <= metrics.keys()
    assert {k.replace("test/", "val/") for k in expected} <= metrics.keys()
    assert all(0 <= metrics[k] <= 100 for k in metrics if "R1@" in k or "R5@" in k)
    assert metrics["test/R5@0.3"] >= metrics["test/R1@0.3"] >= metrics["test/R1@0.7"]


def test_provenance(trained: Any, metrics: dict[str, Any]) -> None:
    tested = metrics["provenance"]["test"]
    assert Path(tested["checkpoint"]).name == "best.ckpt"
    config = (trained.folder / "config_test.yaml").read_bytes()
    assert tested["config_sha256"] == hashlib.sha256(config).hexdigest()
    assert tested["versions"]["groundzoo"] == groundzoo.__version__
    assert tested["versions"]["torch"] == torch.__version__
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", tested["git_revision"] or "0" * 40)
    data = tested["data"]
    assert (data["data_set"], data["root"]) == ("CharadesSTA", str(trained.data))
    lines = (trained.data / "charades_sta_test.txt").read_text().splitlines()
    assert data["splits"]["test"]["official"] == data["splits"]["test"]["used"] == len(lines)
    assert data["manifest"]["encoder"] == "PixelGrid"
    assert data["manifest"]["dim"] == 9 * 12 * 12
    assert metrics["provenance"]["val"]["data"]["splits"]["val"]["used"] > 0


def test_predictions_are_in_the_order_of_the_file(trained: Any) -> None:
    records = [json.loads(line) for line in (trained.folder / "predictions.jsonl").read_text().splitlines()]
    queries = CharadesSTA(trained.data).read("test")
    assert [r["query_id"] for r in records] == [q.query_id for q in queries]
    assert [r["video"] for r in records] == [q.video_id for q in queries]
    assert [r["query"] for r in records] == [q.text for q in queries]
    for record, query in zip(records, queries, strict=True):
        assert record["target"] == pytest.approx([query.start_s, query.end_s], abs=0.01)
        assert 1 <= len(record["moments"]) <= 5
        scores = [score for _, _, score in record["moments"]]
        assert scores == sorted(scores, reverse=True)
        assert all(0 <= start <= end <= record["duration_s"] + 0.01 for start, end, _ in record["moments"])


def test_curves_and_pictures(trained: Any) -> None:
    with (trained.folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {r["epoch"] for r in rows if r["val/R1@0.5"]} == {"0", "1", "2"}
    assert any(r["train/loss"] for r in rows)
    pictures = sorted((trained.folder / "figures").glob("*.png"))
    assert 0 < len(pictures) <= 8
    assert Image.open(pictures[0]).width > 500


def test_table_stands_beside_the_published_values(trained: Any, metrics: dict[str, Any]) -> None:
    printed = trained.test.out
    assert "test/R1@0.5" in printed
    assert f"{metrics['test/mIoU']:.2f}" in printed
    config = yaml.safe_load((trained.folder / "config.yaml").read_text())
    published = config["references"][0]["values"]["test/R1@0.5"]
    assert f"{published:.2f}" in printed, "the reference of the configuration is not in the table"


def test_no_half_written_files(trained: Any) -> None:
    assert [p.name for p in trained.folder.rglob(".*")] == []


def test_run_dir_is_obeyed(trained: Any, cli: Callable, tmp_path: Path) -> None:
    done = cli("validate", *trained.options, "--ckpt_path", trained.best, "--run_dir", tmp_path / "mine")
    assert done.code == 0, done.err
    written = json.loads((tmp_path / "mine" / "metrics.json").read_text())
    assert "val/R1@0.5" in written
    assert "test/R1@0.5" not in written
    assert {p.name for p in (tmp_path / "mine").iterdir()} == {"metrics.json", "config_validate.yaml"}


def test_validate_equals_what_fit_saw(
    trained: Any, cli: Callable, metrics: dict[str, Any], tmp_path: Path
) -> None:
    done = cli("validate", *trained.options, "--ckpt_path", trained.last, "--run_dir", tmp_path / "mine")
    assert done.code == 0, done.err
    written = json.loads((tmp_path / "mine" / "metrics.json").read_text())
    for name in ("val/mIoU", "val/R1@0.3", "val/loss"):
        assert written[name] == pytest.approx(metrics[name], rel=1e-4)


def test_predict_writes_predictions_and_no_metrics(trained: Any, cli: Callable, tmp_path: Path) -> None:
    done = cli("predict", *trained.options, "--ckpt_path", trained.best, "--run_dir", tmp_path / "mine")
    assert done.code == 0, done.err
    assert not (tmp_path / "mine" / "metrics.json").exists()
    predicted = (tmp_path / "mine" / "predictions.jsonl").read_text()
    assert predicted == (trained.folder / "predictions.jsonl").read_text()


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
def test_missing_checkpoint_is_noticed_first(verb: str, trained: Any, cli: Callable) -> None:
    done = cli(verb, *trained.options, "--ckpt_path", "nowhere.ckpt", "--run_dir", "mine")
    assert done.code == 1
    assert "nowhere.ckpt does not exist" in done.err
    assert "Traceback" not in done.err
    assert not Path("mine").exists()


def test_missing_data_are_named_without_a_traceback(trained: Any, cli: Callable) -> None:
    done = cli("fit", *trained.options, "--data.root", "nowhere", "--run_dir", "mine")
    assert done.code == 1
    assert "nowhere/Charades_duration.json does not exist" in done.err
    assert "Traceback" not in done.err


# ---- resuming -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def resumed(trained: Any, cli: Callable, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """A copy of the run, continued for an epoch with another learning rate; and what it said."""
    run = trained.copy(tmp_path_factory.mktemp("resumed") / "run")
    stages = run.options.index("--model.stages") + 1
    options = [*run.options]
    options[stages] = options[stages].replace("1.0e-3, epochs: 1", "2.0e-5, epochs: 2")
    done = cli("fit", *options, "--ckpt_path", run.last)
    assert done.code == 0, done.err
    return run, done


def test_resume_stays_in_the_folder_and_loses_nothing(resumed: tuple[Any, Any], trained: Any) -> None:
    run, done = resumed
    assert f"run folder: {run.folder}" in done.err
    old = (trained.folder / "metrics.csv").read_text()
    assert (run.folder / "metrics-1.csv").read_text() == old
    assert "will be deleted" not in done.err
    with (run.folder / "metrics.csv").open() as file:
        assert {r["epoch"] for r in csv.DictReader(file) if r["val/R1@0.5"]} == {"3"}
    before = json.loads((trained.folder / "metrics.json").read_text())
    after = json.loads((run.folder / "metrics.json").read_text())
    assert after["test/R1@0.5"] == before["test/R1@0.5"]
    assert after["provenance"]["test"] == before["provenance"]["test"]
    assert after["provenance"]["val"]["epoch"] > before["provenance"]["val"]["epoch"]


def test_learning_rate_given_now_wins(resumed: tuple[Any, Any], trained: Any) -> None:
    run, _ = resumed
    before, after = (read_checkpoint(r.last)["optimizer_states"][0] for r in (trained, run))
    assert before["param_groups"][0]["lr"] == pytest.approx(1e-3)
    assert after["param_groups"][0]["lr"] == pytest.approx(2e-5)
    steps = [max(float(s["step"]) for s in state["state"].values()) for state in (before, after)]
    assert steps[1] > steps[0] > 0, "the optimiser's state was not carried over"
    with (run.folder / "metrics.csv").open() as file:
        rates = {float(r["lr-Adam"]) for r in csv.DictReader(file) if r["lr-Adam"]}
    assert rates == {2e-5}


def test_difference_to_the_checkpoint_is_printed(resumed: tuple[Any, Any], trained: Any) -> None:
    _, done = resumed
    (line,) = [text for text in done.err.splitlines() if "the checkpoint was trained with" in text]
    assert "stages" in line
    assert "2e-05" in line
    assert "0.001" in line
    assert "the checkpoint was trained with" not in trained.test.err


def test_network_of_other_widths_is_refused(trained: Any, cli: Callable, tmp_path: Path) -> None:
    options = [*trained.options, "--model.network.pyramid_dim=16"]
    done = cli("test", *options, "--ckpt_path", trained.best, "--run_dir", tmp_path / "mine")
    assert done.code == 1
    assert "size mismatch" in done.err
    assert not (tmp_path / "mine" / "metrics.json").exists()


def test_metrics_of_a_protocol_alone_have_one_table() -> None:
    (table,) = metrics_tables({"test/temporal/IoU": 69.4}, [])
    assert table.title == "by protocol"
    assert [column.header for column in table.columns] == ["", "IoU"]
    assert [len(t.columns) for t in metrics_tables({"test/IoU": 1.0, "test/easy/IoU": 2.0}, [])] == [2, 2]
