"""Every packaged configuration: parses, prints itself faithfully, and runs all four verbs on a tiny world."""

from __future__ import annotations

import gc
import inspect
import json
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import yaml
from jsonargparse import ArgumentParser
from small_encoders import shrink

import groundzoo
from groundzoo.datamodules.labels import LabelStore
from groundzoo.tasks.listing import ROOMS, classes_in
from groundzoo.zoo.video.base import VideoEncoder

CONFIGS = Path(groundzoo.__file__).parent / "configs"
EVERY = sorted(p.relative_to(CONFIGS).as_posix() for p in CONFIGS.rglob("*.yaml"))
ALL = [c for c in EVERY if not c.startswith("annotate/")]  # those of runs
FORMATS = {
    "CharadesSTA": "charades_sta",
    "ActivityNetCaptions": "activitynet_captions",
    "TACoS": "tacos",
    "ActivityNetEntities": "activitynet_entities",
    "MSRVTT": "msrvtt",
    "HowTo100M": "howto100m",
    "ActivityNetActions": "activitynet",
    "DenseCaptions": "activitynet",
    "HowToGround1M": "iground",  # of the same form
    "IGround": "iground",
}
FRAMES = {"activitynet_entities": 10, "msrvtt": 4}  # the boxes of the first were drawn in ten
NO_GRID = {"C3D", "VGG16", "VGGish", "DAVEnet", "Precomputed"}  # encoders of vectors alone
GRIDS = {"cvg", "stg"}  # papers that look at cells
VERBS = ("fit", "validate", "test", "predict")
TASKS = [c for c in ALL if c.startswith("tasks/")]
LABELS = [c for c in EVERY if c.startswith("annotate/propagate")]
PAPERS = sorted({Path(c).stem.split("_")[0] for c in TASKS})


def task_of(paper: str) -> str:
    """The configuration of a paper that overlays are laid over."""
    own = [c for c in TASKS if Path(c).stem.split("_")[0] == paper]
    return next((c for c in own if c.endswith("_charades.yaml")), own[0])


READERS = [paper for paper in PAPERS if "text_encoder:" in (CONFIGS / task_of(paper)).read_text()]
ANY_ENCODER = [paper for paper in PAPERS if paper != "grove"]  # its encoders go together with its other parts


DIVIDING = ("trainer/fsdp.yaml", "trainer/deepspeed_zero2.yaml")  # for large models of one stage


def of_paper(name: str) -> str:
    """The paper that a configuration belongs to; DRN for those that go with any."""
    if name in DIVIDING:
        return "grove"
    return Path(name).stem.split("_")[0] if name.split("/")[0] in ("tasks", "ablations") else "drn"


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
        tasks = [c for c in TASKS if c == f"tasks/{paper}_msrvtt.yaml"] or [task_of(paper)]  # the least to encode
    else:
        tasks = [c for c in TASKS if c in (f"tasks/{paper}_toyworld.yaml", f"tasks/{paper}_tiny.yaml")]
    assert tasks, f"no task configuration that {name} could belong to"
    return ["-c", tasks[0], "-c", name]


def runs() -> list[tuple[str, str]]:
    """Every configuration and the paper it is run with: what goes with any, with all; others with their own."""
    any_paper = {"encoders": ANY_ENCODER, "trainer": PAPERS, "text": READERS}
    of = {name: [of_paper(name)] for name in ALL}
    of |= {name: any_paper[g] for name in ALL if (g := name.split("/")[0]) in any_paper and name not in DIVIDING}
    return [(name, paper) for name, papers in of.items() for paper in papers]


@pytest.mark.parametrize("room", ["video encoders", "text encoders"])
def test_every_encoder_has_an_overlay(room: str) -> None:
    """So that the matrix of encoders and tasks below is complete."""
    classes = {name for name, parents, _ in classes_in(CONFIGS.parent / "zoo") if parents & ROOMS[room]}
    used = "".join((CONFIGS / name).read_text() for name in ALL)
    assert len(classes) >= 4
    assert {name for name in classes if f"class_path: {name}" not in used} == set()


def test_configs_are_found() -> None:
    assert len(ALL) >= 25
    assert len(LABELS) >= 4
    assert len(READERS) < len(PAPERS)
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
    own = [c for c in TASKS if name.split("/")[0] != "ablations" or of_paper(c) == of_paper(name)]
    tasks = [words[:2], *(["-c", c] for c in own)]
    for base in [*tasks, [*words[:2], "-c", "logger/csv.yaml"]]:  # W&B is every task's default
        if resolve(*base, *words[2:]) != below(*base):
            return
    pytest.fail(f"{name} says nothing that the task configurations do not say already")


@pytest.fixture(scope="module")
def shrunk(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """A part of a configuration (as JSON), tiny; equal parts are made once, so that features can be kept, too."""

    def made(part: str) -> dict[str, Any]:
        given = json.loads(part)
        return {"class_path": given["class_path"], "init_args": shrink(given, tmp_path_factory.mktemp("tiny"))}

    return cache(made)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of all tests; a store is told by its encoder."""
    return tmp_path_factory.mktemp("features")


def built(encoder: dict[str, Any]) -> VideoEncoder:
    """An encoder of a configuration."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(VideoEncoder, "encoder")
    made: VideoEncoder = parser.instantiate_classes(parser.parse_object({"encoder": encoder})).encoder
    return made


def refusal(encoder: VideoEncoder) -> str | None:
    """Why SA-TSP refuses an encoder; None: it takes it.

    It encodes batches of single clips: frames, of one number and size, one vector each. Sound is not pretrained,
    several encoders are pretrained one by one, frames of any size or of every file's own rate make no batch, and
    an encoder that looks at several units at once would see more than the clip.
    """
    spec = encoder.spec
    reasons = {
        "is several encoders in one": len(encoder.parts) > 1,
        "hears sound": spec.sound,
        "takes frames of any size": spec.size is None,
        "takes every file's own frame rate": spec.fps is None,
        "units at once": spec.context > 1,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


@pytest.mark.parametrize(("name", "paper"), runs())
def test_runs_all_verbs(
    name: str,
    paper: str,
    cli: Callable,
    below: Callable,
    worlds: Callable,
    features: Callable,
    labels: Callable,
    small_of: Callable,
    shrunk: Callable,
    kept: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")  # scores that need Java take seconds: they are left out where it is missing
    words = composition(name, paper)
    asked = below(*words)
    model, data = asked["model"]["init_args"], asked["data"]["init_args"]
    format = FORMATS[asked["data"]["class_path"].split(".")[-1]]
    root = worlds(format)
    words += [word for word in small_of(paper) if not word.startswith("--model.text_encoder.")]
    words += ["--data.root", str(root), "--data.cache", str(kept / format)]
    if format == "howto100m":
        for key, value in (("root", root), ("cache", kept / format)):
            words += [f"--data.evaluation.init_args.{key}", str(value)]
    if format == "charades_sta":
        words += ["--data.val_fraction", "0.4"]
    if data.get("subsets") is not None:
        words += ["--data.subsets", str(root / "subsets.json")]
    encoder: dict[str, Any] = model["video_encoder"]
    seeing = [encoder, *encoder["init_args"].get("encoders", [])]
    blind = paper in GRIDS and any(e["class_path"].split(".")[-1] in NO_GRID for e in seeing)
    if paper == "stg" and name.startswith("encoders/"):  # their frames need not be as wide as their cells
        words += ["--model.selection.video", "frame"]
    if data.get("labels") is not None and not blind:
        frames = FRAMES[format]
        words += ["--model.frames", str(frames), "--data.labels", str(labels(format, frames))]
    given = encoder["init_args"].get("encoders", [encoder])
    if all(e["class_path"].endswith(".Precomputed") for e in given):
        stores = [str(features(format, e["init_args"]["dim"], e["init_args"]["stride"])) for e in given]
        words += ["--data.features", stores[0] if len(stores) == 1 else json.dumps(stores)]
    if model.get("init_from") is not None:
        words += ["--model.init_from", "null"]
    if paper == "satsp":
        words += ["--data.captions", str(root), "--data.concepts", str(root / "concepts.json")]
    parts = [key for key, value in model.items() if isinstance(value, dict) and "class_path" in value]
    tiny = {part: shrunk(json.dumps(model[part])) for part in parts}
    refused = "gives vectors but no grid" if blind else None
    if "deepspeed" in name and find_spec("deepspeed") is None:
        refused = "must have DeepSpeed installed"
    elif "deepspeed" in name and not torch.cuda.is_available():
        refused = "only supported on CUDA GPUs"
    if paper == "satsp":
        settings = encoder["init_args"] | tiny["video_encoder"]["init_args"]
        made = built({"class_path": encoder["class_path"], "init_args": settings})
        refused = refusal(made)
        if "trainable" in inspect.signature(type(made)).parameters:  # else it has no weights: heads are trained
            part = tiny["video_encoder"]
            tiny["video_encoder"] = part | {"init_args": part["init_args"] | {"trainable": True}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({"model": {"init_args": tiny}}))
    words += ["-c", str(tmp_path / "tiny.yaml")]
    try:
        for verb in VERBS:
            done = cli(verb, *words, "--trainer.fast_dev_run", "true", "--run_dir", "run")
            if refused is not None:
                assert done.code == 1
                assert refused in done.err
                return
            assert done.code == 0, f"{verb}: {done.err}"
    finally:
        if dist.is_initialized():  # a `ddp` configuration leaves its group of one process
            dist.destroy_process_group()
            gc.collect()


def test_several_stages_are_not_divided(cli: Callable, worlds: Callable, small: list[str]) -> None:
    words = ["-c", "tasks/drn_toyworld.yaml", "-c", "trainer/fsdp.yaml", *small, "--data.val_fraction", "0.4"]
    root = worlds("charades_sta")
    words += ["--data.root", str(root), "--data.subsets", str(root / "subsets.json")]
    try:
        done = cli("fit", *words, "--trainer.fast_dev_run", "true")
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    assert done.code == 1
    assert "FullShard divides what a single one trains: take trainer/ddp_bf16.yaml" in done.err


@pytest.mark.parametrize("part", ["video_encoder", "motion_encoder"])
def test_captioners_refuse_features_without_grid(part: str, cli: Callable) -> None:
    words = ["-c", "tasks/cvg_toyworld.yaml", f"--model.{part}", "Precomputed", f"--model.{part}.dim", "8"]
    done = cli("fit", *words)
    assert done.code == 1
    assert f"model.{part} (Precomputed) gives vectors but no grid" in done.err


@pytest.mark.parametrize("name", LABELS)
def test_labels_are_made(name: str, cli: Callable, worlds: Callable, shrunk: Callable, tmp_path: Path) -> None:
    """Every way of `groundzoo annotate`, on the data of the task that it is for, with tiny random models."""
    given = yaml.safe_load((CONFIGS / name).read_text())
    task, format = ("msrvtt", "msrvtt") if "detector" in given else ("anet", "activitynet_entities")
    words = ["annotate", "propagate", "-c", f"tasks/cvg_{task}.yaml", "-c", name]
    printed = yaml.safe_load(cli(*words, "--print_config").out)
    for key, value in given.items():
        found = printed[key]["class_path"].split(".")[-1] if isinstance(value, dict) else printed[key]
        assert found == (value["class_path"] if isinstance(value, dict) else value)
    tiny = {key: shrunk(json.dumps(value)) for key, value in given.items() if isinstance(value, dict)}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny))
    frames = FRAMES[format]
    words += ["-c", "tiny.yaml", "--data.root", worlds(format), "--splits", "[val]", "--frames", frames]
    words += ["--track_fps", "null", "--max_side", "32", "--num_workers", "0", "--trainer.accelerator", "cpu"]
    words += ["--out", "labels"] + (["--seed_min_score", "0"] if "detector" in given else [])
    done = cli(*words)
    assert done.code == 0, done.err
    store = LabelStore("labels")
    segments = [captions for video in sorted(store.ids) for captions in store.read(video).segments.values()]
    tracks = [track for captions in segments for caption in captions for track in caption.tracks]
    assert tracks
    assert all(track.boxes.shape == (frames, 4) for track in tracks)
    assert any((track.scores[~track.annotated] > 0).any() for track in tracks), "nothing was followed"


def test_a_long_configuration_is_no_file_name(cli: Callable, tmp_path: Path) -> None:
    """What is read of a configuration goes on as text, which may be longer than a file's name can be."""
    folder = "a_long_way_down" * 40
    encoder = {"class_path": "ImageModel", "init_args": {"weights": folder}}
    data = {"class_path": "MSRVTT", "init_args": {"root": folder}}
    given = {"model": {"class_path": "CVG", "init_args": {"video_encoder": encoder}}, "data": data}
    (tmp_path / "long.yaml").write_text(yaml.safe_dump(given))
    for words, part in (
        (["extract", "-c", "long.yaml"], "video_encoder"),
        (["extract", "-c", json.dumps({"video_encoder": encoder})], "video_encoder"),
        (["annotate", "propagate", "-c", "long.yaml"], "data"),
        (["annotate", "propagate", "-c", json.dumps({"data": data})], "data"),
        (["fit", "-c", "long.yaml"], "data"),
        (["fit", "-c", json.dumps(given)], "data"),
    ):
        done = cli(*words, "--print_config")
        assert done.code == 0, done.err
        assert folder in yaml.safe_load(done.out)[part]["init_args"].values()
    refused = cli("fit", "-c", f"{folder}.yaml")
    assert refused.code == 2
    assert f"{folder}.yaml is neither a file here nor a packaged configuration" in refused.err


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


def test_words_count_from_left_to_right(resolve: Callable) -> None:
    task, option, other = (
        ["-c", "tasks/drn_charades.yaml"],
        ["--data.batch_size", "16"],
        ["-c", "tasks/drn_tacos.yaml"],
    )
    assert resolve(*task, *option)["data"]["init_args"]["batch_size"] == 16
    assert resolve(*task, *other, *option)["data"]["init_args"]["batch_size"] == 16
    assert resolve(*task, *option, *other)["data"]["init_args"]["batch_size"] == 32


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
