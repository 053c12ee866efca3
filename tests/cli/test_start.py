"""Starting the command: fast, without torch, and telling what there is."""

from __future__ import annotations

import ast
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import groundzoo
from groundzoo.tasks.verbs import TRAINING_VERBS
from groundzoo.zoo.video.published import PUBLISHED

PACKAGE = Path(groundzoo.__file__).parent
HEAVY = ("torch", "lightning", "transformers", "numpy", "matplotlib", "wandb", "decord", "av")


def cpu_of(*words: str) -> tuple[float, subprocess.CompletedProcess[str]]:
    """CPU seconds (not wall: the machine may be busy) of a command of its own, and the command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        [],
        ["list"],
        ["list", "tasks"],
        ["--version"],
        *([verb, "--help"] for verb in ("ground", "caption", "localize", "describe", "concepts", "annotate")),
    ],
)
def test_light_verbs_are_fast_and_import_nothing_heavy(words: list[str]) -> None:
    probe = (
        "import sys, atexit; from groundzoo.cli import main\n"
        f"atexit.register(lambda: print('HEAVY', [m for m in {HEAVY} if m in sys.modules]))\n"
        f"main({words})"
    )
    seconds, done = cpu_of("-c", probe)
    assert done.returncode == 0, done.stderr
    assert "HEAVY []" in done.stdout
    assert seconds < 1.0


def test_help_names_every_verb() -> None:
    _, done = cpu_of("-m", "groundzoo", "--help")
    answering = ("ground", "caption", "localize", "describe")
    for verb in (*TRAINING_VERBS, *answering, "list", "toyworld", "extract", "annotate", "concepts"):
        assert re.search(rf"^\s+{verb}\s+\w", done.stdout, re.MULTILINE), f"{verb} has no line of help"


def test_version(cli: Callable) -> None:
    assert cli("--version").out.split()[-1] == groundzoo.__version__


def rows(text: str) -> dict[str, dict[str, str]]:
    """Sections of ``list``, each name -> description."""
    sections: dict[str, dict[str, str]] = {}
    title = ""
    for line in text.splitlines():
        if not line.startswith(" "):
            title = line
            sections[title] = {}
        else:
            name, _, description = line.strip().partition(" ")
            sections[title][name] = description.strip()
    return sections


def test_list_describes_everything(cli: Callable) -> None:
    found = rows(cli("list").out)
    assert list(found) == [
        "tasks",
        "video encoders",
        "text encoders",
        "trackers",
        "detectors",
        "verb linkers",
        "data modules",
        "frame captioners",
        "chat models",
        "weights for encoders",
        "configs",
        "plug-ins",
    ]
    for title, entries in found.items():
        if title != "plug-ins":
            assert entries
            assert all(len(text) > 10 for text in entries.values()), f"a bare name under {title}: {entries}"
    packaged = {p.relative_to(PACKAGE / "configs").as_posix() for p in (PACKAGE / "configs").rglob("*.yaml")}
    assert set(found["configs"]) == packaged


def test_list_misses_no_class_that_a_configuration_can_name(cli: Callable) -> None:
    import lightning as L

    from groundzoo.cli import import_everything
    from groundzoo.tasks.base import Task
    from groundzoo.tasks.hints import subclasses
    from groundzoo.zoo.chat import ChatModel
    from groundzoo.zoo.detection import Detector
    from groundzoo.zoo.frame_captioning import FrameCaptioner
    from groundzoo.zoo.text.base import TextEncoder
    from groundzoo.zoo.text.verb_links import VerbLinker
    from groundzoo.zoo.tracking.base import Tracker
    from groundzoo.zoo.video.base import VideoEncoder

    import_everything()
    found = rows(cli("list").out)
    own = {
        node.name
        for room in ("tasks", "zoo", "datamodules")
        for path in (PACKAGE / room).rglob("*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    }
    bases = {
        "tasks": Task,
        "video encoders": VideoEncoder,
        "text encoders": TextEncoder,
        "trackers": Tracker,
        "detectors": Detector,
        "verb linkers": VerbLinker,
        "data modules": L.LightningDataModule,
        "frame captioners": FrameCaptioner,
        "chat models": ChatModel,
    }
    for title, base in bases.items():
        assert set(found[title]) == subclasses(base) & own, title
        assert found[title], title


def test_list_of_a_part(cli: Callable) -> None:
    assert list(rows(cli("list", "tasks").out)) == ["tasks"]
    assert list(rows(cli("list", "encoders").out)) == ["video encoders", "text encoders", "weights for encoders"]


def test_list_of_weights(cli: Callable) -> None:
    """How to feed each, what it gives, whose it is and where it comes from."""
    shown = rows(cli("list", "weights").out)["weights for encoders"]
    assert shown.keys() >= PUBLISHED.keys()
    for name, entry in PUBLISHED.items():
        cells = re.split(r"\s{2,}", shown[name])
        assert cells[:2] == [entry.encoder, str(entry.dim)]
        assert cells[-2:] == [entry.licence, entry.source]
        assert cells[3] == ("file's" if entry.spec.fps is None else f"{entry.spec.fps:g}")


def test_list_of_nothing_says_what_there_is(cli: Callable) -> None:
    done = cli("list", "nonsense")
    assert done.code == 1
    assert done.out == ""
    assert "'nonsense'" in done.err
    for title in ("tasks", "video encoders", "configs"):
        assert title in done.err


def test_unknown_verb(cli: Callable) -> None:
    done = cli("fot")
    assert done.code == 2
    assert "'fot'" in done.err
    assert "fit" in done.err


def test_works_from_any_folder_and_as_a_module(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "groundzoo", "list", "configs"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "tasks/drn_charades.yaml" in done.stdout
    assert list(tmp_path.iterdir()) == []
