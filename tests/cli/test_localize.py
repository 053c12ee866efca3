"""``groundzoo localize``: from a checkpoint, video files and texts to tubes, pictures and marked videos."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from found_actions import found_actions
from PIL import Image

from groundzoo import cli as command
from groundzoo.datamodules.marking import write_video
from groundzoo.datamodules.samples import iter_moments
from groundzoo.datamodules.video import probe, read_frames
from groundzoo.tasks.drawing import COLOURS
from groundzoo.tasks.localizing import Localization
from groundzoo.tasks.stg import STG, InferenceOptions, NetworkOptions, SelectionOptions
from groundzoo.zoo.text.mil_nce import MILNCEText
from groundzoo.zoo.video.appearance_grid import AppearanceGrid

ACTIONS = ["pour oil", "stir the pan"]
PLAN = "-00-11"


class Localizer:
    """A task that finds the same in every readable video, and notes how it was asked."""

    def __init__(self) -> None:
        self.plan = PLAN
        self.asked: list[tuple[Path, list[str], float | None, float]] = []

    def localize(
        self, video: str | Path, actions: Sequence[str], threshold: float | None = None, fps: float = 1.0
    ) -> Localization:
        self.asked.append((Path(video), list(actions), threshold, fps))
        info = probe(video)
        cells = [(0, 0)] * len(self.plan)
        found = found_actions(self.plan, list(actions), cells, (info.width, info.height), len(self.plan))
        return found._replace(duration_s=info.duration_s)


class Grounder:
    """A task that does not localize."""

    def ground(self) -> None: ...


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> Localizer:
    """A task in place of the checkpoint's."""
    made = Localizer()
    monkeypatch.setattr(command, "load_task", lambda checkpoint, device: made)
    return made


def grey_video(path: Path, seconds: float = 1.0, fps: float = 12) -> Path:
    write_video(path, (np.full((90, 120, 3), 90, np.uint8) for _ in range(round(seconds * fps))), fps)
    return path


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return grey_video(tmp_path / "my holiday.mp4")


def names(folder: str = "localized") -> set[str]:
    return {p.name for p in Path(folder).iterdir()}


def test_everything_is_written(task: Localizer, cli: Callable, video: Path) -> None:
    done = cli("localize", video, "--actions", *ACTIONS, "--ckpt", "a.ckpt")
    assert done.code == 0, done.err
    assert names() == {f"my holiday.{kind}" for kind in ("json", "npz", "png", "mp4")}
    assert task.asked == [(video, ACTIONS, None, 1.0)]
    record = json.loads(Path("localized/my holiday.json").read_text(encoding="utf-8"))
    expected = Localizer().localize(video, ACTIONS)
    assert list(record) == ["video", "duration_s", "checkpoint", "size", "actions", "tubes", "moments"]
    assert (record["video"], record["checkpoint"], record["actions"]) == (str(video), "a.ckpt", ACTIONS)
    assert (record["duration_s"], record["size"]) == (pytest.approx(1.0), [120, 90])
    assert record["tubes"] == [tube._asdict() for tube in expected.tubes]
    assert [m["action"] for m in record["moments"]] == [None, *ACTIONS[:1] * 2, None, *ACTIONS[1:] * 2]
    with np.load("localized/my holiday.npz", allow_pickle=False) as maps:
        assert np.array_equal(maps["heat"], expected.heat)
        assert np.array_equal(maps["similarity"], expected.similarity)
        assert maps["actions"].tolist() == ACTIONS
        assert maps["times_s"].tolist() == expected.times_s
    for shown in ("pour oil", "0.17 s", "0.615", "my holiday.mp4", "localized/my holiday.{json,npz,png,mp4}"):
        assert shown in done.out


def test_colours_of_both_pictures_agree(task: Localizer, cli: Callable, video: Path) -> None:
    assert cli("localize", video, "--actions", *ACTIONS, "--ckpt", "a.ckpt").code == 0
    picture = np.asarray(Image.open("localized/my holiday.png").convert("RGB"))
    assert (np.abs(picture.astype(int) - 90).max(axis=2) < 4).sum() > 3000, "no pictures of the video"
    new = probe("localized/my holiday.mp4")
    assert (new.num_frames, new.width) == (12, 480)
    assert new.duration_s == pytest.approx(1.0)
    frames = (
        read_frames("localized/my holiday.mp4", [0.02, 0.25, 0.55, 0.75]).permute(0, 2, 3, 1).numpy().astype(int)
    )
    upper, lower = frames[:, :355], frames[:, 362:390]
    assert np.abs(upper[[0, 2]] - 90).max() < 12, "the background is changed"
    for k, colour in ((1, COLOURS[0]), (3, COLOURS[1])):
        assert (picture == colour).all(axis=2).sum() > 1000, "no bar"
        assert (np.abs(lower[k] - colour).max(axis=-1) < 40).sum() > 500, "no label"
        hot, cold = upper[k, 60, 60], upper[k, 280, 380]  # beside the cross, and far away
        assert np.abs(hot - colour).sum() < 0.75 * np.abs(np.array(colour) - 90).sum()
        assert cold.max() < 66


def tiny_stg() -> STG:
    """Random, but sure of something in every frame."""
    torch.manual_seed(0)
    words = MILNCEText("random", word_dim=8, layer_dim=12, dim=6, max_words=8, trainable=True)
    words.fit_vocabulary(ACTIONS)
    network, selection = NetworkOptions(dim=6), SelectionOptions(frames=3, video="frame")
    return STG(AppearanceGrid(), words, network=network, selection=selection, inference=InferenceOptions(window=4))


def test_a_real_task(cli: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("groundzoo.tasks.launch.rebuild", lambda checkpoint, device: tiny_stg())
    one, noise = tmp_path / "noise.mp4", np.random.default_rng(0)
    write_video(one, (noise.integers(0, 256, (90, 120, 3), np.uint8) for _ in range(35)), 10)
    done = cli("localize", one, "--actions", *ACTIONS, "--ckpt", "a.ckpt", "--threshold", "-1", "--fps", "2")
    assert done.code == 0, done.err
    real = tiny_stg()
    real.moment_reader = iter_moments
    found = real.localize(one, ACTIONS, threshold=-1.0, fps=2.0)
    record = json.loads(Path(f"localized/{one.stem}.json").read_text(encoding="utf-8"))
    assert record["tubes"] == [tube._asdict() for tube in found.tubes]
    assert len(record["moments"]) == len(found.times_s) == 7
    assert all(moment["action"] in ACTIONS for moment in record["moments"])
    new, old = probe(f"localized/{one.stem}.mp4"), probe(one)
    assert (new.num_frames, new.fps) == (old.num_frames, pytest.approx(old.fps))


def test_nothing_found(task: Localizer, cli: Callable, video: Path) -> None:
    task.plan = "------"
    done = cli("localize", video, "--actions", *ACTIONS, "--ckpt", "a.ckpt")
    assert done.code == 0, done.err
    assert "none of the actions was found" in " ".join(done.out.split())
    record = json.loads(Path("localized/my holiday.json").read_text(encoding="utf-8"))
    assert record["tubes"] == []
    assert {m["action"] for m in record["moments"]} == {None}
    frames = read_frames("localized/my holiday.mp4", [0.5]).numpy().astype(int)
    assert np.abs(frames[0, :, :355] - 90).max() < 12


def test_options_arrive(task: Localizer, cli: Callable, video: Path) -> None:
    words = ["--threshold", "-0.25", "--fps", "2.5", "--mark", "false", "--out", "there/deep"]
    task.plan = "0"
    done = cli("localize", video, "--actions", " pour  oil ", "--ckpt", "a.ckpt", *words)
    assert done.code == 0, done.err
    assert task.asked == [(video, ["pour oil"], -0.25, 2.5)]
    assert names("there/deep") == {"my holiday.json", "my holiday.npz", "my holiday.png"}
    assert "there/deep/my holiday.{json,npz,png}" in done.out


def test_one_bad_video_does_not_end_the_others(
    task: Localizer, cli: Callable, video: Path, tmp_path: Path
) -> None:
    (tmp_path / "letter.mp4").write_text("Dear video reader,\n" * 100)
    (tmp_path / "b").mkdir()
    twin = grey_video(tmp_path / "b" / video.name, 0.5)
    videos = ["letter.mp4", "nowhere.mp4", video, twin]
    done = cli("localize", *videos, "--actions", *ACTIONS, "--ckpt", "a.ckpt", "--mark", "false")
    assert done.code == 1
    assert names() == {f"my holiday{n}.{kind}" for n in ("", "-2") for kind in ("json", "npz", "png")}
    for name in ("letter.mp4", "nowhere.mp4"):
        assert any(line.startswith(f"{name}: not localized. ") for line in done.err.splitlines()), done.err
    assert "groundzoo localize: 2 of 4 videos could not be localized" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    "actions",
    [
        ["[red]oil[/red]", "$x_{$ and $y", "Ένας άνδρας в бороде", "x" * 300],
        ["1", "true", "null", "{a: 1}", "a: b", "# no comment", "'", "2024-01-01"],
        [f"action {k}" for k in range(60)],
    ],
)
def test_odd_actions(actions: list[str], task: Localizer, cli: Callable, video: Path) -> None:
    done = cli("localize", video, "--actions", *actions, "--ckpt", "a.ckpt")
    assert done.code == 0, done.err
    assert done.err == ""
    assert task.asked[0][1] == actions
    assert actions[0] in done.out
    record = json.loads(Path("localized/my holiday.json").read_text(encoding="utf-8"))
    assert record["actions"] == actions


def test_a_task_that_does_not_localize(cli: Callable, video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "load_task", lambda checkpoint, device: Grounder())
    done = cli("localize", video, "--actions", "stir", "--ckpt", "a.ckpt")
    assert done.code == 1
    assert "Grounder (a.ckpt) does not find actions in videos" in done.err
    assert len(done.err.strip().splitlines()) <= 2
    assert not Path("localized").exists()


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["VIDEO", "--ckpt", "a.ckpt"], 2, "actions"),
        (["VIDEO", "--ckpt", "a.ckpt", "--actions"], 2, "actions"),
        (["--ckpt", "a.ckpt", "--actions", "VIDEO"], 2, "videos"),
        (["VIDEO", "--actions", "stir"], 2, "ckpt"),
        (["VIDEO", "--ckpt", "a.ckpt", "--actions", "stir", ""], 1, "an action behind --actions is empty"),
        (["VIDEO", "--ckpt", "a.ckpt", "--actions", "  "], 1, "an action behind --actions is empty"),
        (["VIDEO", "--ckpt", "a.ckpt", "--actions", "stir", "fry", "Stir "], 1, "more than once: Stir, stir"),
        (["VIDEO", "--ckpt", "a.ckpt", "--actions", "stir", "--threshold", "1.5"], 1, "from -1 to 1, not 1.5"),
        (["VIDEO", "--ckpt", "a.ckpt", "--actions", "stir", "--threshold", "nan"], 2, "threshold"),
        (["VIDEO", "--ckpt", "a.ckpt", "--actions", "stir", "--threshold", "high"], 2, "threshold"),
        (["VIDEO", "--ckpt", "a.ckpt", "--actions", "stir", "--fps", "0"], 2, "fps"),
        (["VIDEO", "--ckpt", "a.ckpt", "--actions", "stir", "--fps", "nan"], 2, "fps"),
    ],
)
def test_wrong_words(
    words: list[str], code: int, expected: str, task: Localizer, cli: Callable, video: Path
) -> None:
    done = cli("localize", *[str(video) if word == "VIDEO" else word for word in words])
    assert done.code == code
    assert expected in done.err
    assert task.asked == []
    assert not Path("localized").exists()


def test_a_missing_checkpoint(cli: Callable, video: Path) -> None:
    done = cli("localize", video, "--actions", "stir", "--ckpt", "nowhere.ckpt")
    assert done.code == 1
    assert "nowhere.ckpt does not exist" in done.err


def test_a_failed_mark_keeps_the_old_video(
    task: Localizer, cli: Callable, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("localized").mkdir()
    Path("localized/my holiday.mp4").write_bytes(b"old")

    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("groundzoo.tasks.localize_pictures.HeatOverlay.__call__", full)
    done = cli("localize", video, "--actions", *ACTIONS, "--ckpt", "a.ckpt")
    assert done.code == 1
    assert "not localized. no space left" in done.err
    assert Path("localized/my holiday.mp4").read_bytes() == b"old"
    assert names() == {f"my holiday.{kind}" for kind in ("json", "npz", "png", "mp4")}
