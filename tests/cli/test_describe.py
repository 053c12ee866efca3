"""``groundzoo describe``: from checkpoints and video files to timed sentences, subtitles, pictures and videos."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

import groundzoo
from groundzoo import cli as command
from groundzoo.datamodules.marking import write_video
from groundzoo.datamodules.video import probe
from groundzoo.tasks.drawing import DARK
from groundzoo.tasks.metrics.dense_captions import read_submission
from groundzoo.tasks.told_events import DescribedEvent

R2PLUS1D = {"weights": "random", "variant": "r2plus1d_18_kinetics", "fps": 4.0, "window": 8, "stride": 8,
            "size": 16, "layers": [1, 1, 1, 1], "width": 2}  # fmt: skip
KINDS = (".json", ".png", ".srt", ".vtt", ".mp4")


class Trained(NamedTuple):
    """Runs on one tiny world: one sees video, the other was trained on the features that the first has made."""

    root: Path
    seeing: Path
    stored: Path


@pytest.fixture(scope="module")
def trained(cli: Callable, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    home = tmp_path_factory.mktemp("described")
    root = home / "world"
    words = ["--preset", "described", "--format", "activitynet", "--videos", "8", "--workers", "1"]
    assert (done := cli("toyworld", root, *words)).code == 0, done.err
    words = ["-c", "tasks/dense_toyworld.yaml", "-c", "logger/csv.yaml", "--data.root", root]
    words += ["--model.encoder.dim", "8", "--model.encoder.heads", "2", "--model.proposals.dim", "8"]
    words += ["--model.captioner", '{"dim": 8, "word_dim": 6, "attention_dim": 4}', "--data.num_workers", "0"]
    words += ["--model.proposals.levels", "2", "--trainer.enable_model_summary", "false"]
    words += ["--model.max_length", "6"]
    words += ["--model.stages", "[{losses: [caption, proposal], lr: 1.0e-2, epochs: 1}]"]

    def fit(name: str, encoder: dict, features: str | Path) -> Path:
        own = ["--model.video_encoder", json.dumps(encoder), "--data.features", features]
        assert (done := cli("fit", *words, *own, "--run_dir", home / name)).code == 0, done.err
        return home / name / "checkpoints" / "best.ckpt"

    seeing = fit("seeing", {"class_path": "R2Plus1D", "init_args": R2PLUS1D}, "null")
    (store,) = (root / "features").iterdir()
    facts = {"dim": 16, "window": 8, "stride": 8, "fps": 4.0, "name": "clips"}
    return Trained(root, seeing, fit("stored", {"class_path": "Precomputed", "init_args": facts}, store))


def videos_of(root: Path, count: int = 1) -> list[Path]:
    return sorted((root / "videos").glob("*.mp4"))[:count]


class Teller:
    """A model that says the same of every readable video, and notes which events it was given."""

    video_encoder = SimpleNamespace(parts=[])

    def __init__(self, *sentences: str, proposes: bool = True) -> None:
        self.sentences, self.network = sentences, SimpleNamespace(proposer=proposes or None)
        self.asked: list[Any] = []

    def describe(
        self, video: str | Path, events_s: Sequence[Sequence[float]] | None = None
    ) -> list[DescribedEvent]:
        duration_s = probe(video).duration_s
        self.asked.append(events_s)
        step = duration_s / 4
        times = [(k * step, (k + 2) * step) for k in range(len(self.sentences))] if events_s is None else events_s
        score = 0.75 if events_s is None else 1.0
        said = zip(times, self.sentences, strict=False)
        return [DescribedEvent(s, e, text, score, -float(len(text))) for (s, e), text in said]


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Models in place of those of checkpoints."""
    made = {"a.ckpt": Teller("a man runs", "a dog barks"), "b.ckpt": Teller("a man sings a song", "it rains")}
    monkeypatch.setattr(command, "load_task", lambda checkpoint, *options: made[checkpoint])
    return made


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return grey_video(tmp_path / "v_holiday.mp4")


def grey_video(path: Path, seconds: float = 4.0) -> Path:
    write_video(path, (np.full((96, 96, 3), 90, np.uint8) for _ in range(round(seconds * 5))), 5)
    return path


def proposals(path: Path, **events: list[list[float]]) -> Path:
    rows = {v: [{"segment": e[:2], "score": e[2]} for e in found] for v, found in events.items()}
    path.write_text(json.dumps({"results": rows}))
    return path


def names() -> set[str]:
    return {p.name for p in Path("described").iterdir()}


# ---- a trained model --------------------------------------------------------------------------------------


def test_everything_is_written(trained: Trained, cli: Callable) -> None:
    videos = videos_of(trained.root, 2)
    done = cli("describe", *videos, "--ckpt", trained.seeing)
    assert done.code == 0, done.err
    assert names() == {f"{v.stem}{kind}" for v in videos for kind in KINDS} | {"submission.json"}
    task = groundzoo.load(trained.seeing)
    expected = []
    for one in videos:
        answer = sorted(task.describe(one), key=lambda e: e[:2])
        assert answer
        record = json.loads(Path(f"described/{one.stem}.json").read_text(encoding="utf-8"))
        assert list(record) == ["video", "duration_s", "checkpoints", "encoders", "proposals", "events"]
        assert (record["video"], record["checkpoints"]) == (str(one), [str(trained.seeing)])
        assert (record["encoders"], record["proposals"]) == (None, None)
        for event, own in zip(record["events"], answer, strict=True):
            assert [event[key] for key in own._fields] == pytest.approx(list(own))
            assert (event["checkpoint"], event["candidates"]) == (str(trained.seeing), [own.sentence])
            expected.append(
                {"video": one.stem, "start_s": own.start_s, "end_s": own.end_s, "caption": own.sentence}
            )
            assert f"{own.start_s:.2f} s" in done.out
        cues = sum(bool(event.sentence) for event in answer)
        assert Path(f"described/{one.stem}.srt").read_text().count(" --> ") == cues
        vtt = Path(f"described/{one.stem}.vtt").read_text()
        assert vtt.startswith("WEBVTT")
        assert vtt.count(" --> ") == cues
        assert Image.open(f"described/{one.stem}.png").width > 1000
        old, new = probe(one), probe(f"described/{one.stem}.mp4")
        assert (new.num_frames, new.width) == (old.num_frames, 360)
        assert new.height > 360
        assert f"described/{one.stem}.{{json,png,srt,vtt,mp4}}" in done.out
    assert read_submission("described/submission.json") == expected


def test_events_of_a_file(trained: Trained, cli: Callable) -> None:
    one = videos_of(trained.root)[0]
    given = proposals(
        Path("p.json"), **{f"v_{one.stem}": [[1, 3, 0.5], [2, 900, 0.9], [0, 1, 0.1], [800, 900, 1]]}
    )
    words = ["--ckpt", trained.seeing, "--proposals", given, "--max_proposals", "2", "--mark", "false"]
    done = cli("describe", one, *words)
    assert done.code == 0, done.err
    record = json.loads(Path(f"described/{one.stem}.json").read_text())
    times = [(event["start_s"], event["end_s"]) for event in record["events"]]
    assert times == [(1, 3), (2, pytest.approx(record["duration_s"], abs=1e-3))]
    assert record["proposals"] == "p.json"
    assert names() == {f"{one.stem}{kind}" for kind in KINDS[:-1]} | {"submission.json"}


def test_the_encoder_of_another_run(trained: Trained, cli: Callable) -> None:
    """Both runs learned from the same features, so they say the same."""
    one = videos_of(trained.root)[0]
    done = cli("describe", one, "--ckpt", trained.stored, "--mark", "false")
    assert done.code == 1
    for part in (str(trained.stored), "clips: 16 wide, windows of 8 frames every 8 at 4 per second", "--encoder"):
        assert part in done.err
    assert not Path("described").exists()
    own = groundzoo.load(trained.seeing).describe(one)
    task = groundzoo.load(trained.stored, encoder=trained.seeing)
    assert not task.video_encoder.trainable
    lent = task.describe(one)
    assert [e[:3] for e in lent] == [e[:3] for e in own]
    assert [e[3:] for e in lent] == [pytest.approx(e[3:], abs=1e-3) for e in own]
    done = cli("describe", one, "--ckpt", trained.stored, "--encoder", trained.seeing, "--mark", "false")
    assert done.code == 0, done.err
    record = json.loads(Path(f"described/{one.stem}.json").read_text())
    assert record["encoders"] == [str(trained.seeing)]
    assert [e["sentence"] for e in record["events"]] == [e.sentence for e in own]
    done = cli("describe", one, "--ckpt", trained.seeing, "--encoder", trained.seeing)
    assert done.code == 1
    assert f"{trained.seeing}: the model reads video itself, with R2Plus1D: leave out" in done.err


def test_an_ensemble_of_real_models(trained: Trained, cli: Callable, tmp_path: Path) -> None:
    """The second is the first with another word preferred; both are told the same events."""
    other = torch.load(trained.seeing, weights_only=True)
    bias = next(v for k, v in other["state_dict"].items() if k.endswith("bias") and len(v) > 20)
    bias += torch.arange(len(bias)) % 7
    torch.save(other, tmp_path / "other.ckpt")
    one = videos_of(trained.root)[0]
    Path("concepts.json").write_text('["square", "triangle", "circle", "star", "hops", "spins"]')
    words = ["--concepts", "concepts.json", "--captions", trained.root / "train.json", "--mark", "false"]
    done = cli("describe", one, "--ckpt", trained.seeing, "other.ckpt", *words)
    assert done.code == 0, done.err
    events = json.loads(Path(f"described/{one.stem}.json").read_text())["events"]
    first = groundzoo.load(trained.seeing).describe(one)
    times = [[e["start_s"], e["end_s"]] for e in events]
    assert times == [list(e[:2]) for e in sorted(first)]
    second = groundzoo.load("other.ckpt").describe(one, times)
    assert [e["candidates"][1] for e in events] == [e.sentence for e in second]
    assert [e["candidates"][0] for e in events] != [e.sentence for e in second]
    assert all(e["sentence"] in e["candidates"] for e in events)


# ---- several models ---------------------------------------------------------------------------------------


@pytest.fixture
def rule() -> list[str]:
    """Words behind which sentences are chosen by: "man" and "dog" count."""
    Path("concepts.json").write_text('["man", "dog"]')
    sentences = ["A man runs.", "A dog barks.", "A man sings.", "It rains."]
    Path("train.json").write_text(
        json.dumps({"v_x": {"duration": 9, "timestamps": [[0, 1]] * 4, "sentences": sentences}})
    )
    return ["--concepts", "concepts.json", "--captions", "train.json"]


def test_an_ensemble_chooses_for_each_event(
    models: dict[str, Any], rule: list[str], cli: Callable, video: Path
) -> None:
    models["b.ckpt"].sentences = ("a man sings a song", "the rain")
    models["c.ckpt"] = Teller("nothing", "a man, a dog")
    done = cli("describe", video, "--ckpt", "a.ckpt", "b.ckpt", "c.ckpt", *rule)
    assert done.code == 0, done.err
    assert models["a.ckpt"].asked == [None]
    assert models["b.ckpt"].asked == models["c.ckpt"].asked == [[(0.0, 2.0), (1.0, 3.0)]]
    events = json.loads(Path("described/v_holiday.json").read_text())["events"]
    kept = [(e["sentence"], e["checkpoint"], e["score"], e["log_prob"]) for e in events]
    # of the first event's, "runs" and "sings" are as rare; of the second's, one has both concepts
    assert kept == [("a man runs", "a.ckpt", 0.75, -10), ("a man, a dog", "c.ckpt", 0.75, -12)]
    assert events[0]["candidates"] == ["a man runs", "a man sings a song", "nothing"]
    assert [r["caption"] for r in read_submission("described/submission.json")] == ["a man runs", "a man, a dog"]
    assert "c.ckpt" in done.out


def test_an_ensemble_of_given_events(models: dict[str, Any], rule: list[str], cli: Callable, video: Path) -> None:
    models["a.ckpt"].network.proposer = None
    given = proposals(Path("p.json"), holiday=[[0.5, 1, 0.5], [0.25, 3, 0.4]])
    words = ["--proposals", given, *rule, "--mark", "false"]
    done = cli("describe", video, "--ckpt", "a.ckpt", "b.ckpt", *words)
    assert done.code == 0, done.err
    assert models["a.ckpt"].asked == [[[0.25, 3.0], [0.5, 1.0]]]
    assert models["b.ckpt"].asked == [[(0.25, 3.0), (0.5, 1.0)]]


@pytest.mark.parametrize("left", [[], ["--concepts", "concepts.json"], ["--captions", "train.json"]])
def test_several_models_need_a_rule(
    left: list[str], models: dict[str, Any], rule: list[str], cli: Callable, video: Path
) -> None:
    done = cli("describe", video, "--ckpt", "a.ckpt", "b.ckpt", *left)
    assert done.code == 1
    assert "several models need --concepts and --captions" in done.err
    assert not Path("described").exists()


# ---- videos -----------------------------------------------------------------------------------------------


def test_subtitles_are_in_the_video(models: dict[str, Any], cli: Callable, video: Path) -> None:
    from groundzoo.datamodules.video import read_frames

    assert (done := cli("describe", video, "--ckpt", "a.ckpt")).code == 0, done.err
    shown = read_frames("described/v_holiday.mp4", [0.5, 3.5]).permute(0, 2, 3, 1).numpy().astype(int)
    first, last = (np.abs(frame[362:] - DARK).max(-1) for frame in shown)
    assert (first > 100).sum() > 200, "no letters"
    assert (last < 40).all(), "letters of an event that is over"
    assert np.abs(shown[:, :358] - 90).max() < 30, "something hides the picture"
    srt = Path("described/v_holiday.srt").read_text()
    assert re.findall(r"(\S+) --> (\S+)\n(.+)", srt) == [
        ("00:00:00,000", "00:00:02,000", "a man runs"),
        ("00:00:01,000", "00:00:03,000", "a dog barks"),
    ]


def test_one_bad_video_does_not_end_the_others(models: dict[str, Any], cli: Callable, tmp_path: Path) -> None:
    (tmp_path / "letter.mp4").write_text("Dear video reader,\n" * 100)
    for name in ("good", "unknown", "late"):
        grey_video(tmp_path / f"{name}.mp4")
    given = proposals(tmp_path / "p.json", good=[[0, 1, 1]], letter=[[0, 1, 1]], nowhere=[], late=[[70, 80, 1]])
    order = ["letter.mp4", "nowhere.mp4", "unknown.mp4", "late.mp4", "good.mp4"]
    done = cli("describe", *order, "--ckpt", "a.ckpt", "--proposals", given, "--mark", "false")
    assert done.code == 1
    for name in order[:-1]:
        assert f"{name}: not described. " in done.err
    assert "The proposals have no events for 'unknown'" in done.err
    assert "None of the events proposed for 'late' lies in its 4.00 s" in done.err
    assert "groundzoo describe: 4 of 5 videos could not be described" in done.err
    assert "Traceback" not in done.err
    assert names() == {"submission.json", *(f"good{kind}" for kind in KINDS[:-1])}
    assert list(json.loads(Path("described/submission.json").read_text())["results"]) == ["good"]


def test_nothing_that_failed_is_submitted(
    models: dict[str, Any], cli: Callable, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("groundzoo.tasks.describe_pictures.Subtitles.__call__", full)
    done = cli("describe", video, "--ckpt", "a.ckpt")
    assert done.code == 1
    assert "not described. no space left" in done.err
    assert "submission.json" not in names()


def test_what_came_before_an_end_is_submitted(models: dict[str, Any], cli: Callable, tmp_path: Path) -> None:
    videos = [grey_video(tmp_path / f"{name}.mp4") for name in ("one", "two")]
    teller, tell = models["a.ckpt"], models["a.ckpt"].describe

    def stop(video: Path, events_s: Any = None) -> list[DescribedEvent]:
        if video.stem == "two":
            raise ValueError("the end of the world")
        return tell(video, events_s)

    teller.describe = stop
    done = cli("describe", *videos, "--ckpt", "a.ckpt", "--mark", "false")
    assert done.code == 1
    assert "the end of the world" in done.err
    assert {r["video"] for r in read_submission("described/submission.json")} == {"one"}


def test_names_do_not_clash(models: dict[str, Any], cli: Callable, tmp_path: Path) -> None:
    """Neither with each other nor with the submission."""
    (tmp_path / "b").mkdir()
    videos = [grey_video(tmp_path / name) for name in ("a-2.mp4", "a.mp4", "b/a.mp4", "submission.mp4")]
    done = cli("describe", *videos, "--ckpt", "a.ckpt", "--mark", "false")
    assert done.code == 0, done.err
    expected = {"a-2", "a", "a-3", "submission-2"}
    assert {p.stem for p in Path("described").glob("*.png")} == expected
    assert {r["video"] for r in read_submission("described/submission.json")} == expected


# ---- mistakes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["VIDEO", "--ckpt", "a.ckpt", "--proposals", "nowhere.json"], 1, "nowhere.json"),
        (["VIDEO", "--ckpt", "a.ckpt", "--proposals", "list.json"], 1, "list.json: not a proposal file"),
        (["VIDEO", "--ckpt", "a.ckpt", "--proposals", "bad.json"], 1, "bad.json, video 'x', entry 0"),
        (["VIDEO", "--ckpt", "a.ckpt", "--max_proposals", "0"], 2, "max_proposals"),
        (
            ["VIDEO", "--ckpt", "a.ckpt", "b.ckpt", "--concepts", "no.json", "--captions", "list.json"],
            1,
            "list.json",
        ),
        (["VIDEO"], 2, "ckpt"),
        (["--ckpt", "a.ckpt"], 2, "videos"),
    ],
)
def test_wrong_words(
    words: list[str], code: int, expected: str, models: dict[str, Any], cli: Callable, video: Path
) -> None:
    Path("list.json").write_text("[1]")
    Path("bad.json").write_text('{"results": {"x": [{"segment": [1], "score": 1}]}}')
    done = cli("describe", *[str(video) if word == "VIDEO" else word for word in words])
    assert done.code == code
    assert expected in done.err
    assert "Traceback" not in done.err
    assert models["a.ckpt"].asked == []
    assert not Path("described").exists()


def test_a_missing_checkpoint(cli: Callable, video: Path) -> None:
    done = cli("describe", video, "--ckpt", "nowhere.ckpt")
    assert done.code == 1
    assert "nowhere.ckpt does not exist" in done.err


def test_a_task_that_does_not_describe(cli: Callable, video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class DRN:
        """Has no `describe`, as the real one."""

    from groundzoo.tasks.drn import DRN as REAL

    assert not hasattr(REAL, "describe")
    monkeypatch.setattr(command, "load_task", lambda checkpoint, *options: DRN())
    done = cli("describe", video, "--ckpt", "a.ckpt")
    assert done.code == 1
    assert "DRN (a.ckpt) does not describe the events of videos" in done.err


def test_a_model_that_proposes_nothing(models: dict[str, Any], cli: Callable, video: Path) -> None:
    models["a.ckpt"].network.proposer = None
    done = cli("describe", video, "--ckpt", "a.ckpt")
    assert done.code == 1
    assert "a.ckpt cannot propose events" in done.err
    assert "--proposals" in done.err
    given = proposals(Path("p.json"), v_holiday=[[0, 1, 1]])
    assert cli("describe", video, "--ckpt", "a.ckpt", "--proposals", given, "--mark", "false").code == 0


def test_a_file_of_no_proposals_is_not_taken_for_none(models: dict[str, Any], cli: Callable, video: Path) -> None:
    done = cli("describe", video, "--ckpt", "a.ckpt", "--proposals", proposals(Path("p.json")))
    assert done.code == 1
    assert "The proposals have no events for 'v_holiday'" in done.err
    assert models["a.ckpt"].asked == []
