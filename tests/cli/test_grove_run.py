"""GROVE through the command line: the stand-in for weights, a training that starts from it, and what comes of it.

The world is small and the trainings are short: thresholds are far below what the documentation's runs reach, and
far above what random encoders and a decoder that answers with one box for all do.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import groundzoo
from groundzoo.datamodules.toyworld.generate import generate

CLIPS = 1200


@dataclass(frozen=True)
class Trained:
    """Folders of a world, a stand-in and a run that began with it."""

    world: Path
    stand_in: Path
    run: Path

    def metrics(self, folder: Path) -> dict[str, float]:
        found: dict[str, float] = json.loads((folder / "metrics.json").read_text())
        return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, cli: Callable) -> Trained:
    home = tmp_path_factory.mktemp("grove")
    world = generate(
        home / "world", preset="grounded", format="iground", videos=CLIPS, test_fraction=0.06, workers=1
    )
    folders = Trained(world, home / "stand_in", home / "run")
    quiet = ["--config", "logger/csv.yaml", "--trainer.enable_model_summary", "false", "--data.root", str(world)]
    quiet += ["--data.num_workers", "0"]
    done = cli("fit", "--config", "tasks/grove_stand_in.yaml", *quiet, "--run_dir", folders.stand_in)
    assert done.code == 0, done.err
    own = ["--config", "tasks/grove_tiny.yaml", *quiet, "--run_dir", folders.run]
    start = ["--model.init_from", str(folders.stand_in / "checkpoints" / "last.ckpt"), "--model.stages.epochs=2"]
    done = cli("fit", *own, *start)
    assert done.code == 0, done.err
    done = cli("test", *own, "--ckpt_path", folders.run / "checkpoints" / "best.ckpt")
    assert done.code == 0, done.err
    return folders


def test_the_stand_in_knows_things_and_finds_phrases(trained: Trained) -> None:
    found = trained.metrics(trained.stand_in)
    assert found["val/words"] > 75
    assert found["val/mIoU"] > 40
    assert found["val/objectness accuracy"] > found["val/visible"]


def test_grove_starts_from_it_and_keeps_finding(trained: Trained) -> None:
    found = trained.metrics(trained.run)
    assert found["test/mIoU"] > 22
    assert found["test/all/AP50"] > 15
    assert found["test/CIDEr"] > 50


def test_adapters_have_opened(trained: Trained) -> None:
    state = torch.load(trained.run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    alphas = [value for name, value in state.items() if name.endswith("alpha")]
    assert len(alphas) == 2
    assert all(value.abs() > 1e-3 for value in alphas)


def test_a_checkpoint_describes_a_file(trained: Trained, cli: Callable, tmp_path: Path) -> None:
    video, best = trained.world / "videos" / f"toy{CLIPS - 1:05}.mp4", trained.run / "checkpoints" / "best.ckpt"
    done = cli("caption", video, "--ckpt", best, "--out", tmp_path / "told", "--threshold", "0.2")
    assert done.code == 0, done.err
    stored = json.loads((tmp_path / "told" / f"{video.stem}.json").read_text())
    assert {path.suffix for path in (tmp_path / "told").iterdir()} == {".json", ".png", ".mp4"}
    task = groundzoo.load(best)
    caption = task.caption(video, threshold=0.2)
    assert caption.text == stored["caption"]
    assert [phrase.text for phrase in caption.phrases] == [phrase["text"] for phrase in stored["phrases"]]
    assert caption.phrases, "the sentence names nothing"
    scores = torch.tensor([phrase.scores for phrase in caption.phrases])
    assert ((scores >= 0) & (scores <= 1)).all()
    for phrase in caption.phrases:
        assert [box is not None for box in phrase.boxes] == [score >= 0.2 for score in phrase.scores]
