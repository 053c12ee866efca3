"""Files from elsewhere are data: neither a checkpoint nor a configuration gets to run a command."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import groundzoo
from groundzoo.tasks.checkpoints import read_checkpoint


class Payload:
    """Unpickling this makes a file."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch payload_has_run",)


@pytest.fixture
def poisoned(trained: Any, tmp_path: Path) -> Path:
    """A good checkpoint with a payload added."""
    checkpoint = torch.load(trained.best, weights_only=True)
    checkpoint["extra"] = Payload()
    torch.save(checkpoint, tmp_path / "poisoned.ckpt")
    return tmp_path / "poisoned.ckpt"


def test_the_payload_works(poisoned: Path) -> None:
    """Otherwise the tests below could not fail."""
    torch.load(poisoned, weights_only=False)
    assert Path("payload_has_run").exists()


def test_payload_is_refused_by_python_api(poisoned: Path) -> None:
    with pytest.raises(ValueError, match="holds code, which is never run") as caught:
        groundzoo.load(poisoned)
    assert "system" in str(caught.value)
    assert "weights_only" not in str(caught.value), "the message tells how to run the payload"
    with pytest.raises(ValueError, match="poisoned"):
        read_checkpoint(poisoned)
    assert not Path("payload_has_run").exists()


def test_payload_is_refused_by_ground(poisoned: Path, trained: Any, cli: Callable) -> None:
    video = next((trained.data / "videos").glob("*.mp4"))
    done = cli("ground", video, "a circle moves", "--ckpt", poisoned)
    assert done.code == 1
    assert "holds code" in done.err
    assert not Path("payload_has_run").exists()


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
def test_payload_is_refused_by_training_verbs(verb: str, poisoned: Path, trained: Any, cli: Callable) -> None:
    done = cli(verb, *trained.options, "--ckpt_path", poisoned, "--run_dir", "mine")
    assert done.code == 1
    assert "holds code, which is never run" in done.err
    assert "weights_only" not in done.err, "the message tells how to run the payload"
    assert not Path("payload_has_run").exists()


@pytest.mark.parametrize("cut", [0, 100, 0.5, 0.99])
def test_incomplete_checkpoint(cut: float, trained: Any, tmp_path: Path) -> None:
    whole = trained.best.read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(whole[: int(cut * len(whole)) if cut < 1 else int(cut)])
    with pytest.raises(ValueError, match=r"cut\.ckpt is no readable checkpoint"):
        read_checkpoint(tmp_path / "cut.ckpt")


def test_checkpoint_of_another_program(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="does not say how its task is built"):
        groundzoo.load(tmp_path / "other.ckpt")
    torch.save(torch.zeros(3), tmp_path / "tensor.ckpt")
    with pytest.raises(ValueError, match="is no checkpoint but a Tensor"):
        groundzoo.load(tmp_path / "tensor.ckpt")


def test_recipe_in_a_checkpoint_cannot_name_a_command(trained: Any, tmp_path: Path) -> None:
    for class_path in ("os.system", "subprocess.Popen"):
        checkpoint = torch.load(trained.best, weights_only=True)
        checkpoint["groundzoo"]["task"]["init_args"]["video_encoder"] = {
            "class_path": class_path,
            "init_args": {"command": "touch payload_has_run", "args": ["touch", "payload_has_run"]},
        }
        torch.save(checkpoint, tmp_path / "recipe.ckpt")
        with pytest.raises(Exception, match=class_path.split(".")[0]):
            groundzoo.load(tmp_path / "recipe.ckpt")
    assert not Path("payload_has_run").exists()


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ("model", "model: {class_path: CLASS, init_args: ARGS}"),
        ("model", "model: {init_args: {video_encoder: {class_path: CLASS, init_args: ARGS}}}"),
        ("data", "data: {class_path: CLASS, init_args: ARGS}"),
        ("logger", "trainer: {logger: {class_path: CLASS, init_args: ARGS}}"),
        ("callbacks", "trainer: {callbacks: [{class_path: CLASS, init_args: ARGS}]}"),
        ("plugins", "trainer: {plugins: [{class_path: CLASS, init_args: ARGS}]}"),
    ],
)
@pytest.mark.parametrize(
    ("class_path", "arguments"),
    [
        ("os.system", "{command: touch payload_has_run}"),
        ("subprocess.Popen", "{args: [touch, payload_has_run]}"),
        ("builtins.exec", "{source: import os}"),
    ],
)
def test_configuration_cannot_name_a_command(
    class_path: str, arguments: str, where: str, text: str, cli: Callable, tmp_path: Path
) -> None:
    (tmp_path / "evil.yaml").write_text(text.replace("CLASS", class_path).replace("ARGS", arguments))
    done = cli("fit", "-c", "tasks/drn_toyworld.yaml", "-c", "evil.yaml", "--data.root", tmp_path)
    assert done.code == 2
    assert where in done.err
    assert class_path.split(".")[-1] in done.err
    assert {p.name for p in tmp_path.iterdir()} == {"evil.yaml"}


def test_yaml_tags_build_no_objects(cli: Callable, tmp_path: Path) -> None:
    (tmp_path / "evil.yaml").write_text("model: !!python/object/apply:os.system ['touch payload_has_run']\n")
    assert cli("fit", "-c", "tasks/drn_toyworld.yaml", "-c", "evil.yaml").code == 2
    assert {p.name for p in tmp_path.iterdir()} == {"evil.yaml"}
