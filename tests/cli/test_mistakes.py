"""Mistakes on the command line: status 2 before anything runs, and a short message that helps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from groundzoo.tasks.hints import explain

TASK = ["-c", "tasks/drn_toyworld.yaml"]


def refused(cli: Callable, *words: str) -> str:
    """The message of a call that must be refused before it makes any file."""
    before = set(Path.cwd().iterdir())
    done = cli(*words)
    assert done.code == 2, f"not refused: {done.err}"
    assert set(Path.cwd().iterdir()) == before
    assert len(done.err.strip().splitlines()) <= 4, f"a wall of text:\n{done.err}"
    assert "Union" not in done.err
    assert "NestedArg" not in done.err
    return str(done.err)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("tasks/drn_toywrld.yaml", "tasks/drn_toyworld.yaml"),
        ("tasks/drn_toyworld", "tasks/drn_toyworld.yaml"),
        ("drn_toyworld.yaml", "tasks/drn_toyworld.yaml"),
        ("charades_i3d.yaml", "features/charades_i3d.yaml"),
        ("ablation/drn_center.yaml", "ablations/drn_center.yaml"),
    ],
)
def test_missing_configuration(given: str, meant: str, cli: Callable) -> None:
    message = refused(cli, "fit", "-c", given)
    assert f"{given} is neither a file here nor a packaged configuration" in message
    assert f"Did you mean {meant}" in message


def test_second_missing_configuration_is_the_one_named(cli: Callable) -> None:
    message = refused(cli, "fit", *TASK, "--config", "trainer/gpu.yaml")
    assert "trainer/gpu.yaml is neither" in message
    assert "trainer/cpu.yaml" in message


@pytest.mark.parametrize(
    ("words", "where", "meant"),
    [
        (["--model", "DRM"], "model: 'DRM'", "Did you mean DRN?"),
        (["--model.class_path", "DRM"], "model: 'DRM'", "Did you mean DRN?"),
        (["--data", "CharadesSAT"], "data: 'CharadesSAT'", "Did you mean CharadesSTA?"),
        (["--model.video_encoder", "PixelGird"], "model.video_encoder: 'PixelGird'", "Did you mean PixelGrid"),
        (["--model", "CVG", "--model.motion_encoder", "MotionGird"], "motion_encoder: 'MotionGird'", "MotionGrid"),
        (["--model.text_encoder", "WordLTSM"], "model.text_encoder: 'WordLTSM'", "Did you mean WordLSTM?"),
        (["--model.video_encoder", "zzzz"], "model.video_encoder: 'zzzz'", "ImageModel, "),
        (["--model", "groundzoo.tasks.drn.DRM"], "model: 'groundzoo.tasks.drn.DRM'", "Did you mean DRN?"),
    ],
)
def test_unknown_class(words: list[str], where: str, meant: str, cli: Callable) -> None:
    message = refused(cli, "fit", *TASK, *words)
    assert where in message
    assert meant in message
    assert "TACoS or MomentTask" not in message


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("annotate propagate --tracker TemplatTracker", "tracker: 'TemplatTracker' is no class|TemplateTracker"),
        ("annotate propagate --detector ColorDetector", "detector: 'ColorDetector' is no class|ColourDetector"),
        ("annotate propagate --linker groundzoo.zoo.text.RulLinker", "linker: |RuleLinker"),
        ("annotate propagate --max_fraems 3", "there is no option 'max_fraems'|max_frames"),
        ("annotate propagate --trainer.devicez 3", "there is no option 'trainer.devicez'|trainer.devices"),
        ("extract --vidoes x", "there is no option 'vidoes'|videos"),
    ],
)
def test_mistakes_of_the_verbs_that_predict(words: str, said: str, cli: Callable) -> None:
    message = refused(cli, *words.split())
    where, meant = said.split("|")
    assert where in message
    assert f"Did you mean {meant}" in message


@pytest.mark.parametrize(
    ("words", "where", "meant"),
    [
        (["--model.nms_treshold", "0.5"], "DRN has no argument 'nms_treshold'", "nms_threshold"),
        (["--model.network", "{fusoin: same}"], "DRN's 'network' has no argument 'fusoin'", "fusion"),
        (["--model.video_encoder.gird", "3"], "PixelGrid has no argument 'gird'", "grid"),
        (["--model.stages", "[{losses: [match], lrr: 1}]"], "Stage has no argument 'lrr'", "lr"),
        (["--data.batch_sise", "3"], "CharadesSTA has no argument 'batch_sise'", "batch_size"),
        (["--data.val_fractoin", "0.3"], "CharadesSTA has no argument 'val_fractoin'", "val_fraction"),
        (["--trainer.max_epochz", "3"], "no option 'trainer.max_epochz'", "trainer.max_epochs"),
        (["--trainer.max_epoch", "3"], "no option 'trainer.max_epoch'", "trainer.max_epochs"),
        (["--modle.nms_threshold", "0.5"], "no option 'modle.nms_threshold'", "model.nms_threshold"),
        (["--ckpt_pth", "x.ckpt"], "no option 'ckpt_pth'", "ckpt_path"),
        (["--run-dir", "x"], "no option 'run", "run_dir"),
    ],
)
def test_unknown_key(words: list[str], where: str, meant: str, cli: Callable) -> None:
    message = refused(cli, "fit", *TASK, *words)
    assert where in message
    assert f"Did you mean {meant}" in message


@pytest.mark.parametrize(
    ("text", "where", "meant"),
    [
        ("model: {init_args: {nms_treshold: 1}}", "DRN has no argument 'nms_treshold'", "nms_threshold"),
        ("model: {init_args: {loss: {positivs: all}}}", "DRN's 'loss' has no argument 'positivs'", "positives"),
        ("model: {class_path: DRM}", "'DRM'", "DRN"),
        ("trainer: {max_epoch: 3}", "no option 'trainer.max_epoch'", "trainer.max_epochs"),
        ("trainr: {max_epochs: 3}", "no option 'trainr.max_epochs'", "trainer.max_epochs"),
        ("references: [{nme: x, source: y}]", "Reference has no argument 'nme'", "name"),
    ],
)
def test_mistakes_in_a_file(text: str, where: str, meant: str, cli: Callable, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    message = refused(cli, "fit", *TASK, "-c", "mine.yaml")
    assert where in message
    assert f"Did you mean {meant}" in message


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--model.nms_threshold", "high"], ["model.nms_threshold", "float", "high"]),
        (["--trainer.max_epochs", "three"], ["trainer.max_epochs", "int", "three"]),
        (["--model.network", "{fusion: mult}"], ["network.fusion", "mult", "'multi', 'same', 'first'"]),
        (["--data.durations", "yaml"], ["durations", "yaml", "'json', 'csv'"]),
    ],
)
def test_wrong_type(words: list[str], expected: list[str], cli: Callable) -> None:
    message = refused(cli, "fit", *TASK, *words)
    for part in expected:
        assert part in message


def test_broken_yaml_says_where(cli: Callable, tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("model:\n  class_path: DRN\n :: [\n")
    done = cli("fit", "-c", "broken.yaml")
    assert done.code == 2
    assert "line 3" in done.err


def test_nothing_given(cli: Callable) -> None:
    message = refused(cli, "fit")
    assert "model" in message
    assert "data" in message


def test_what_is_not_understood_is_passed_on_unchanged(tmp_path: Path) -> None:
    assert explain("something new went wrong", tmp_path) == "something new went wrong"
    assert explain("", tmp_path) == ""


def test_local_file_beats_packaged(resolve: Callable, tmp_path: Path) -> None:
    packaged = resolve("-c", "tasks/drn_toyworld.yaml", "-c", "trainer/cpu.yaml")
    assert packaged["trainer"]["precision"] == "32-true"
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer" / "cpu.yaml").write_text("trainer: {precision: 64-true}\n")
    local = resolve("-c", "tasks/drn_toyworld.yaml", "-c", "trainer/cpu.yaml")
    assert local["trainer"]["precision"] == "64-true"


def test_folder_of_the_same_name_hides_nothing(resolve: Callable, tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "drn.py").write_text("raise SystemExit('a stray module was imported')\n")
    assert resolve("-c", "tasks/drn_toyworld.yaml")["model"]["class_path"] == "groundzoo.tasks.drn.DRN"
