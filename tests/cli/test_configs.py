"""Every packaged configuration: parses, prints itself faithfully, and runs all four verbs on a tiny world."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
import yaml
from small_encoders import shrink

import groundzoo
from groundzoo.cli import ROOMS, _classes

CONFIGS = Path(groundzoo.__file__).parent / "configs"
EVERY = sorted(p.relative_to(CONFIGS).as_posix() for p in CONFIGS.rglob("*.yaml"))
ALL = [c for c in EVERY if not c.startswith("annotate/")]  # those of runs
FORMATS = {
    "CharadesSTA": "charades_sta",
    "ActivityNetCaptions": "activitynet_captions",
    "TACoS": "tacos",
    "ActivityNetEntities": "activitynet_entities",
    "MSRVTT": "msrvtt",
}
NO_GRID = {"C3D", "VGG16", "VGGish", "Combined"}  # encoders of vectors alone
VERBS = ("fit", "validate", "test", "predict")


TASKS = [c for c in ALL if c.startswith("tasks/")]
CAPTIONERS = {"cvg"}
PAPERS = sorted({Path(c).stem.split("_")[0] for c in TASKS})


def task_of(paper: str) -> str:
    """The configuration of a paper that overlays are laid over."""
    own = [c for c in TASKS if Path(c).stem.split("_")[0] == paper]
    return next((c for c in own if c.endswith("_charades.yaml")), own[0])


def of_paper(name: str) -> str:
    """The paper that a configuration belongs to; DRN for those that go with any."""
    paper = Path(name).stem.split("_")[0]
    return paper if name.split("/")[0] in ("tasks", "ablations") else "drn"


def composition(name: str, paper: str = "drn") -> list[str]:
    """The task configuration that `name` is laid over, and `name`."""
    group, stem = name.split("/")[0], Path(name).stem
    if group == "tasks":
        return ["-c", name]
    if group == "ablations":  # drn_center: an ablation of the paper `drn`, on the benchmark of its tables
        tasks = [task_of(stem.split("_")[0])]
    elif group == "features":  # charades_i3d: features of that benchmark
        tasks = [t for t in TASKS if Path(t).stem.split("_")[1] == stem.split("_")[0]]
    elif group in ("encoders", "text"):
        tasks = [task_of(paper)]
    else:
        tasks = [f"tasks/{paper}_toyworld.yaml"]
    assert tasks, f"no task configuration that {name} could belong to"
    return ["-c", tasks[0], "-c", name]


def runs() -> list[tuple[str, str]]:
    """Every configuration with the paper it is run with: what goes with any is run with all, others with their own.

    Captioners read no text, so text encoders go with the others.
    """
    any_paper = {"encoders": PAPERS, "trainer": PAPERS, "text": [p for p in PAPERS if p not in CAPTIONERS]}
    return [(name, paper) for name in ALL for paper in any_paper.get(name.split("/")[0], [of_paper(name)])]


@pytest.mark.parametrize("room", ["video encoders", "text encoders"])
def test_every_encoder_has_an_overlay(room: str) -> None:
    """So that the matrix of encoders and tasks below is complete."""
    folders, bases = ROOMS[room]
    root = CONFIGS.parent
    classes = {name for folder in folders for name, parents, _ in _classes(root / folder) if parents & bases}
    used = "".join((CONFIGS / name).read_text() for name in ALL)
    assert len(classes) >= 4
    assert {name for name in classes if f"class_path: {name}" not in used} == set()


def test_configs_are_found() -> None:
    assert len(ALL) >= 25
    assert {"tasks", "encoders", "text", "features", "trainer", "logger", "ablations"} == {
        c.split("/")[0] for c in ALL
    }


@pytest.mark.parametrize("name", ALL)
def test_print_config_round_trip(name: str, cli: Callable, tmp_path: Path) -> None:
    words = composition(name)
    first = cli("fit", *words, "--print_config")
    assert first.code == 0, first.err
    assert "class_path: groundzoo." in first.out
    printed = tmp_path / "printed.yaml"
    printed.write_text(first.out)
    assert cli("fit", "-c", printed, "--print_config").out == first.out


@pytest.fixture(scope="module")
def below(resolve: Callable) -> Callable[..., dict[str, Any]]:
    """The configuration of a composition that many tests ask for, resolved once."""
    return cache(lambda *words: resolve(*words))


@pytest.mark.parametrize("name", [c for c in ALL if not c.startswith("tasks/")])
def test_every_overlay_changes_something(name: str, resolve: Callable, below: Callable) -> None:
    words = composition(name)
    tasks = [words[:2], *(["-c", c] for c in ALL if c.startswith("tasks/"))]
    for base in [*tasks, [*words[:2], "-c", "logger/csv.yaml"]]:  # W&B is every task's default
        if resolve(*base, *words[2:]) != below(*base):
            return
    pytest.fail(f"{name} says nothing that the task configurations do not say already")


@pytest.mark.parametrize(("name", "paper"), runs())
def test_runs_all_verbs(
    name: str,
    paper: str,
    cli: Callable,
    resolve: Callable,
    worlds: Callable,
    features: Callable,
    labels: Callable,
    small_of: Callable,
    tmp_path: Path,
) -> None:
    words = composition(name, paper)
    asked = resolve(*words)
    model, data = asked["model"]["init_args"], asked["data"]["init_args"]
    format = FORMATS[asked["data"]["class_path"].split(".")[-1]]
    root = worlds(format)
    words += [word for word in small_of(paper) if not word.startswith("--model.text_encoder.")]
    words += ["--data.root", str(root), "--data.cache", str(tmp_path / "features")]
    if format == "charades_sta":
        words += ["--data.val_fraction", "0.4"]
    if data.get("subsets") is not None:
        words += ["--data.subsets", str(root / "subsets.json")]
    if data.get("labels") is not None:
        words += ["--model.frames", "4", "--data.labels", str(labels(format, 4))]
    encoder: dict[str, Any] = model["video_encoder"]
    if encoder["class_path"].endswith(".Precomputed"):
        store = features(format, encoder["init_args"]["dim"], encoder["init_args"]["stride"])
        words += ["--data.features", str(store)]
    overlay: dict[str, Any] = {"model": {"init_args": {}}}
    for part in ("video_encoder", "motion_encoder", "text_encoder"):
        chosen = model.get(part)
        if chosen is not None and (settings := shrink(chosen, tmp_path / part)):
            overlay["model"]["init_args"][part] = {"class_path": chosen["class_path"], "init_args": settings}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(overlay))
    words += ["-c", str(tmp_path / "tiny.yaml")]
    blind = paper in CAPTIONERS and encoder["class_path"].split(".")[-1] in NO_GRID
    try:
        for verb in VERBS:
            done = cli(verb, *words, "--trainer.fast_dev_run", "true", "--run_dir", "run")
            if blind:
                assert done.code != 0
                assert "gives vectors but no grid" in done.err
                return
            assert done.code == 0, f"{verb}: {done.err}"
    finally:
        if dist.is_initialized():  # a `ddp` configuration leaves its group of one process
            dist.destroy_process_group()
            gc.collect()


def test_four_configurations_resolve_from_left_to_right(resolve: Callable) -> None:
    names = ("tasks/drn_charades", "encoders/clip_vit_b32", "trainer/ddp_bf16", "ablations/drn_center")
    words = [word for name in names for word in ("--config", f"{name}.yaml")]
    found = resolve(*words)
    model, data, trainer = found["model"]["init_args"], found["data"]["init_args"], found["trainer"]
    assert found["model"]["class_path"] == "groundzoo.tasks.drn.DRN"
    assert model["video_encoder"]["class_path"] == "groundzoo.zoo.video.image_model.ImageModel"
    assert model["video_encoder"]["init_args"]["weights"] == "openai/clip-vit-base-patch32"
    assert "dim" not in model["video_encoder"]["init_args"], "arguments of the replaced encoder are left over"
    assert model["clips"] == {"num_clips": 32, "reduce": "auto"}
    assert data["features"] is None
    assert data["root"] == "data/charades_sta"
    assert trainer["strategy"] == "ddp_find_unused_parameters_true"
    assert (trainer["devices"], trainer["precision"]) == ("auto", "bf16-mixed")  # the third's; the first says 1
    assert trainer["gradient_clip_val"] == 0.5  # still the first's
    assert model["loss"]["positives"] == "center"
    assert [r["name"] for r in found["references"]] == ["DRN-Center"]

    swapped = resolve(*words[:2], *words[4:], *words[2:4], "--config", "trainer/cpu.yaml")
    assert swapped["trainer"]["devices"] == 1
    assert swapped["trainer"]["precision"] == "32-true"


def test_command_line_beats_configuration_wherever_it_stands(resolve: Callable) -> None:
    options = ["--model.clips.num_clips", "16", "-c", "encoders/pixel_grid.yaml"]
    before = resolve("-c", "tasks/drn_charades.yaml", *options)
    after = resolve("-c", "tasks/drn_charades.yaml", *options[2:], *options[:2])
    assert after["model"]["init_args"]["clips"]["num_clips"] == 16
    assert before["model"]["init_args"]["clips"]["num_clips"] == 32, "words count from left to right"


def test_a_replaced_class_leaves_no_arguments(resolve: Callable, cli: Callable, tmp_path: Path) -> None:
    """Window and stride of the features that a task is made for must not reach the encoder laid over it."""
    (tmp_path / "swin.yaml").write_text(
        "model: {init_args: {video_encoder: {class_path: groundzoo.zoo.video.video_swin.VideoSwin, init_args: "
        "{weights: random, stride: 4}}}}"
    )
    (tmp_path / "more.yaml").write_text("model: {init_args: {video_encoder: {class_path: R2Plus1D}}}")
    (tmp_path / "same.yaml").write_text(
        "model: {init_args: {video_encoder: {class_path: R2Plus1D, init_args: {fps: 10}}}}"
    )
    task, r2plus1d = ["-c", "tasks/drn_charades.yaml"], ["-c", "encoders/r2plus1d_34_tsp.yaml"]
    for words in ([*task, *r2plus1d], [*task, "-c", tmp_path / "swin.yaml", *r2plus1d]):
        found = resolve(*words)["model"]["init_args"]["video_encoder"]["init_args"]
        assert found["stride"] is None
        assert found["weights"] != "random"
    same = resolve(*task, *r2plus1d, "-c", tmp_path / "same.yaml")["model"]["init_args"]["video_encoder"]
    assert same["init_args"]["fps"] == 10
    assert same["init_args"]["weights"] == found["weights"]  # the same class goes on
    printed = yaml.safe_load(cli("extract", *task, *r2plus1d, "--print_config").out)
    assert printed["video_encoder"]["class_path"].endswith(".R2Plus1D")
    assert printed["video_encoder"]["init_args"]["stride"] is None
