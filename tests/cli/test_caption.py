"""``groundzoo caption``: from a checkpoint and video files to sentences, pictures and marked videos."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pointing_captions import pointing, seen
from tiny_captions import FRAMES, tiny_cvg

from groundzoo import cli as command
from groundzoo.datamodules.marking import write_video
from groundzoo.datamodules.samples import read_samples
from groundzoo.datamodules.video import probe, read_frames
from groundzoo.tasks.caption_pictures import COLOURS
from groundzoo.tasks.grounded_caption import GroundedCaption

TEXT = "the dog chases a ball"


class Describer:
    """A task that says the same of every readable video, and notes how it was asked."""

    def __init__(self, text: str = TEXT) -> None:
        self.text = text
        self.asked: list[tuple[Path, int, float | None, float | None]] = []

    def caption(
        self, video: str | Path, beam_size: int = 1, start_s: float | None = None, end_s: float | None = None
    ) -> GroundedCaption:
        self.asked.append((Path(video), beam_size, start_s, end_s))
        info = probe(video)
        first, last = start_s or 0.0, end_s or info.duration_s
        times = [first + (k + 0.5) * (last - first) / 4 for k in range(4)]
        size = (info.width, info.height)
        box = (0.25 * size[0], 0.25 * size[1], 0.75 * size[0], 0.75 * size[1])
        return pointing(self.text, {"dog": (0.7, 0.1, 0.1, 0.1)}, {"dog": box}, size, times)


class Watcher:
    """A task that tells whether phrases are seen, and takes a threshold but no beam."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def caption(self, video: str | Path, start_s: float | None = None, threshold: float = 0.5) -> GroundedCaption:
        self.asked.append({"start_s": start_s, "threshold": threshold})
        chances, times = {"the dog": (0.9, 0.8, 0.3, 0.2), "a ball": (0.1,) * 4}, (0.25, 0.75, 1.25, 1.75)
        boxes = {"the dog": [(30.0, 22, 90, 68)], "a ball": [(0.0, 0, 9, 9)]}
        return seen(TEXT, chances, boxes, (120, 90), times)


class Grounder:
    """A task that does not describe."""

    def ground(self) -> None: ...


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> Describer:
    """A task in place of the checkpoint's."""
    made = Describer()
    monkeypatch.setattr(command, "load_task", lambda checkpoint, device: made)
    return made


def grey_video(path: Path, seconds: float = 2.0, fps: float = 10) -> Path:
    write_video(path, (np.full((90, 120, 3), 90, np.uint8) for _ in range(round(seconds * fps))), fps)
    return path


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return grey_video(tmp_path / "my holiday.mp4")


def names(folder: str = "captioned") -> set[str]:
    return {p.name for p in Path(folder).iterdir()}


def test_everything_is_written(task: Describer, cli: Callable, video: Path) -> None:
    done = cli("caption", video, "--ckpt", "a.ckpt")
    assert done.code == 0, done.err
    assert names() == {"my holiday.json", "my holiday.png", "my holiday.mp4"}
    assert task.asked == [(video, 1, None, None)]
    text = Path("captioned/my holiday.json").read_text(encoding="utf-8")
    record = json.loads(text)
    answer = Describer().caption(video)
    assert list(record) == [
        "video", "duration_s", "checkpoint", "caption", "score", "measure", "size", "times_s", "phrases"
    ]  # fmt: skip
    assert (record["video"], record["checkpoint"]) == (str(video), "a.ckpt")
    assert record["duration_s"] == pytest.approx(2.0)
    assert (record["caption"], record["score"], record["size"]) == (TEXT, -0.5, [120, 90])
    assert record["times_s"] == pytest.approx([0.25, 0.75, 1.25, 1.75])
    assert record["measure"] == "attention"
    assert [word.pop("kind") for word in record["phrases"]] == ["DET", "NOUN", "VERB", "DET", "NOUN"]
    assert record["phrases"] == [phrase._asdict() for phrase in answer.phrases]
    assert [TEXT[word["start"] : word["end"]] for word in record["phrases"]] == TEXT.split()
    for shown in (TEXT, "-0.500", "my holiday.mp4", "captioned/my holiday.{json,png,mp4}"):
        assert shown in done.out
    picture = np.asarray(Image.open("captioned/my holiday.png").convert("RGB"))
    marked = probe("captioned/my holiday.mp4")
    assert (marked.num_frames, marked.duration_s) == (20, pytest.approx(2.0))
    first, last = read_frames("captioned/my holiday.mp4", [0.25, 1.75]).permute(0, 2, 3, 1).numpy()
    left = (slice(150, 210), slice(116, 128))  # the left line of the dog's box; pictures are 360 x 480
    difference = np.abs(first[left].astype(int) - COLOURS[0]).max(axis=2)
    assert (difference < 60).sum() > 100, "no box at the first moment"
    assert np.abs(last[left].astype(int) - 90).max() < 30, "the box outlasts the attention"
    for colour in COLOURS[:3]:
        assert (picture == colour).all(axis=2).sum() > 1000, "a word without a row"


@pytest.mark.parametrize("seed", [0, 1])
def test_a_real_task(seed: int, cli: Callable, video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = tiny_cvg(seed=seed)
    real.sample_reader = read_samples
    monkeypatch.setattr(command, "load_task", lambda checkpoint, device: real)
    done = cli("caption", video, "--ckpt", "a.ckpt", "--start", "0.5", "--beam_size", "1")
    assert done.code == 0, done.err
    record = json.loads(Path("captioned/my holiday.json").read_text(encoding="utf-8"))
    answer = real.caption(video, beam_size=1, start_s=0.5)
    assert record["caption"] == answer.text
    assert len(record["times_s"]) == FRAMES
    assert [word["text"] for word in record["phrases"]] == [word.text for word in answer.phrases]
    assert all(len(word["boxes"]) == len(word["scores"]) == FRAMES for word in record["phrases"])
    assert probe("captioned/my holiday.mp4").num_frames == 15


def test_phrases_that_are_hidden(cli: Callable, video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = Watcher()
    monkeypatch.setattr(command, "load_task", lambda checkpoint, device: task)
    done = cli("caption", video, "--ckpt", "a.ckpt", "--threshold", "0.25")
    assert done.code == 0, done.err
    assert task.asked == [{"start_s": None, "threshold": 0.25}]
    record = json.loads(Path("captioned/my holiday.json").read_text(encoding="utf-8"))
    box = [30, 22, 90, 68]
    assert (record["measure"], record["caption"]) == ("visibility", TEXT)
    assert record["phrases"] == [
        {"text": "the dog", "start": 0, "end": 7, "boxes": [box, box, None, None], "scores": [0.9, 0.8, 0.3, 0.2]},
        {"text": "a ball", "start": 15, "end": 21, "boxes": [None] * 4, "scores": [0.1] * 4},
    ]
    first, last = read_frames("captioned/my holiday.mp4", [0.25, 1.75]).permute(0, 2, 3, 1).numpy()
    left = (slice(150, 210), slice(116, 128))  # the left line of the dog's box; pictures are 360 x 480
    assert (np.abs(first[left].astype(int) - COLOURS[0]).max(axis=2) < 60).sum() > 100, "no box where it is seen"
    assert np.abs(last[left].astype(int) - 90).max() < 30, "a box where it is hidden"
    picture = np.asarray(Image.open("captioned/my holiday.png").convert("RGB"))
    assert all((picture == colour).all(axis=2).sum() > 300 for colour in COLOURS[:2]), "a phrase without a row"


@pytest.mark.parametrize(
    ("task", "words", "option"),
    [
        (Watcher(), ["--beam_size", "2", "--threshold", "0.3"], "beam_size"),
        (Watcher(), ["--end", "1"], "end"),
        (Describer(), ["--beam_size", "2", "--threshold", "0.3"], "threshold"),
    ],
)
def test_options_that_a_task_does_not_have(
    task: Watcher | Describer,
    words: list[str],
    option: str,
    cli: Callable,
    video: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(command, "load_task", lambda checkpoint, device: task)
    done = cli("caption", video, "--ckpt", "a.ckpt", *words)
    assert done.code == 1
    assert f"{type(task).__name__} (a.ckpt) has no use for --{option}: leave it out" in done.err
    assert task.asked == []
    assert not Path("captioned").exists()


def test_a_stretch_is_described(task: Describer, cli: Callable, video: Path) -> None:
    done = cli("caption", video, "--ckpt", "a.ckpt", "--start", "0.5", "--end", "1.5", "--beam_size", "2")
    assert done.code == 0, done.err
    assert task.asked == [(video, 2, 0.5, 1.5)]
    assert probe("captioned/my holiday.mp4").num_frames == 10
    done = cli("caption", video, "--ckpt", "a.ckpt", "--start", "1", "--end", "99", "--mark", "false")
    assert done.code == 0, done.err
    assert task.asked[1][2:] == (1.0, pytest.approx(2.0)), "the end is not that of the video"


def test_other_folder_and_no_marked_video(task: Describer, cli: Callable, video: Path) -> None:
    done = cli("caption", video, "--ckpt", "a.ckpt", "--mark", "false", "--out", "there/deep")
    assert done.code == 0, done.err
    assert names("there/deep") == {"my holiday.json", "my holiday.png"}
    assert "there/deep/my holiday.{json,png}" in done.out


def test_videos_of_a_world(task: Describer, cli: Callable, worlds: Callable[[str], Path]) -> None:
    found = sorted((worlds("charades_sta") / "videos").glob("*.mp4"))[:2]
    done = cli("caption", *found, "--ckpt", "a.ckpt")
    assert done.code == 0, done.err
    for one in found:
        old, new = probe(one), probe(f"captioned/{one.stem}.mp4")
        assert (new.num_frames, new.fps) == (old.num_frames, pytest.approx(old.fps))
        assert new.width >= 360


def test_equal_names_are_numbered(task: Describer, cli: Callable, video: Path, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    other = grey_video(tmp_path / "b" / video.name, 1.0)
    done = cli("caption", video, other, "--ckpt", "a.ckpt", "--mark", "false")
    assert done.code == 0, done.err
    assert names() == {f"my holiday{n}.{kind}" for n in ("", "-2") for kind in ("json", "png")}
    assert json.loads(Path("captioned/my holiday-2.json").read_text())["video"] == str(other)


def test_one_bad_video_does_not_end_the_others(
    task: Describer, cli: Callable, video: Path, tmp_path: Path
) -> None:
    (tmp_path / "letter.mp4").write_text("Dear video reader,\n" * 100)
    short = grey_video(tmp_path / "short.mp4", 0.5)
    done = cli("caption", "letter.mp4", "nowhere.mp4", short, video, "--ckpt", "a.ckpt", "--start", "1")
    assert done.code == 1
    assert names() == {"my holiday.json", "my holiday.png", "my holiday.mp4"}
    lines = done.err.splitlines()
    for name in ("letter.mp4", "nowhere.mp4", str(short)):
        assert any(line.startswith(f"{name}: not captioned. ") for line in lines), done.err
    assert "It lasts 0.50 s; --start 1 is not before its end." in done.err
    assert "groundzoo caption: 3 of 4 videos could not be captioned" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("text", ["and so on", "Ένας 狗 [red]naïve[/red] [UNK] " + "x" * 300 + " dog" * 40, "dog"])
def test_odd_sentences(text: str, task: Describer, cli: Callable, video: Path) -> None:
    task.text = text
    done = cli("caption", video, "--ckpt", "a.ckpt")
    assert done.code == 0, done.err
    assert text[:5] in done.out
    assert ("[red]" in done.out) == ("[red]" in text), "the table takes words for markup"
    assert text in Path("captioned/my holiday.json").read_text(encoding="utf-8")
    assert probe("captioned/my holiday.mp4").num_frames == 20


def test_a_task_that_does_not_describe(cli: Callable, video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "load_task", lambda checkpoint, device: Grounder())
    done = cli("caption", video, "--ckpt", "a.ckpt")
    assert done.code == 1
    assert "Grounder (a.ckpt) does not describe videos with sentences" in done.err
    assert len(done.err.strip().splitlines()) <= 2
    assert not Path("captioned").exists()


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["VIDEO", "--ckpt", "a.ckpt", "--start", "2", "--end", "1"], 1, "--end must be later than --start"),
        (["VIDEO", "--ckpt", "a.ckpt", "--end", "0"], 1, "--end must be later than --start"),
        (["VIDEO", "--ckpt", "a.ckpt", "--start", "-1"], 2, "start"),
        (["VIDEO", "--ckpt", "a.ckpt", "--start", "nan"], 2, "start"),
        (["VIDEO", "--ckpt", "a.ckpt", "--beam_size", "0"], 2, "beam_size"),
        (["VIDEO", "--ckpt", "a.ckpt", "--threshold", "1.5"], 2, "threshold"),
        (["VIDEO", "--ckpt", "a.ckpt", "--threshold", "nan"], 2, "threshold"),
        (["VIDEO"], 2, "ckpt"),
        (["--ckpt", "a.ckpt"], 2, "videos"),
    ],
)
def test_wrong_words(
    words: list[str], code: int, expected: str, task: Describer, cli: Callable, video: Path
) -> None:
    done = cli("caption", *[str(video) if word == "VIDEO" else word for word in words])
    assert done.code == code
    assert expected in done.err
    assert task.asked == []
    assert not Path("captioned").exists()


def test_a_missing_checkpoint(cli: Callable, video: Path) -> None:
    done = cli("caption", video, "--ckpt", "nowhere.ckpt")
    assert done.code == 1
    assert "nowhere.ckpt does not exist" in done.err


def test_a_failed_mark_keeps_the_old_video(
    task: Describer, cli: Callable, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("captioned").mkdir()
    Path("captioned/my holiday.mp4").write_bytes(b"old")

    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("groundzoo.tasks.caption_pictures.LitPhrases.__call__", full)
    done = cli("caption", video, "--ckpt", "a.ckpt")
    assert done.code == 1
    assert "not captioned. no space left" in done.err
    assert "{json" not in done.out
    assert Path("captioned/my holiday.mp4").read_bytes() == b"old"
    assert names() == {"my holiday.json", "my holiday.png", "my holiday.mp4"}
