"""``groundzoo ground`` and ``groundzoo.load``: from a checkpoint and a video file to moments."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import groundzoo
from groundzoo.datamodules.video import probe

QUERIES = ["the purple triangle trembles.", "the big white circle moves to the left."]


@pytest.fixture
def video(trained: Any) -> Path:
    """A video of the test split."""
    found = sorted((trained.data / "videos").glob("*.mp4"))[-1]
    assert isinstance(found, Path)
    return found


@pytest.fixture
def moved(trained: Any, video: Path, tmp_path: Path) -> Iterator[Path]:
    """The video elsewhere, while the training data are gone."""
    target = tmp_path / "my holiday.mp4"
    target.write_bytes(video.read_bytes())
    gone = trained.data.with_name("gone")
    trained.data.rename(gone)
    try:
        yield target
    finally:
        gone.rename(trained.data)


def test_checkpoint_alone_suffices(trained: Any, cli: Callable, moved: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "only.ckpt"
    checkpoint.write_bytes(trained.best.read_bytes())
    done = cli("ground", moved, *QUERIES, "--ckpt", checkpoint, "--top_k", "3", "--out", "answers")
    assert done.code == 0, done.err
    record = json.loads(Path("answers/my holiday.json").read_text())
    duration = probe(moved).duration_s
    assert record["video"] == str(moved)
    assert record["duration_s"] == pytest.approx(duration)
    assert [a["query"] for a in record["answers"]] == QUERIES
    for answer in record["answers"]:
        assert 1 <= len(answer["moments"]) <= 3
        assert set(answer["moments"][0]) == {"start_s", "end_s", "score"}
        assert all(0 <= m["start_s"] <= m["end_s"] <= duration + 1e-3 for m in answer["moments"])
        scores = [m["score"] for m in answer["moments"]]
        assert scores == sorted(scores, reverse=True)
    picture = Image.open("answers/my holiday.png")
    assert picture.width >= 1000
    assert len(picture.convert("L").getcolors()) > 50
    marked = probe("answers/my holiday.mp4")
    assert marked.duration_s == pytest.approx(duration, abs=0.5)
    assert marked.height > probe(moved).height, "the timeline below the picture is missing"
    best = record["answers"][0]["moments"][0]
    for shown in (
        QUERIES[0][:10],
        f"{best['start_s']:.2f} s",
        f"{best['score']:.3f}",
        "my holiday.{json,png,mp4}",
    ):
        assert shown in done.out


def test_no_marked_video_if_not_wanted(trained: Any, cli: Callable, video: Path) -> None:
    done = cli("ground", video, QUERIES[0], "--ckpt", trained.best, "--mark", "false")
    assert done.code == 0, done.err
    assert {p.suffix for p in Path("grounded").iterdir()} == {".json", ".png"}


def test_one_bad_video_does_not_end_the_others(trained: Any, cli: Callable, video: Path, tmp_path: Path) -> None:
    (tmp_path / "letter.mp4").write_text("Dear video reader,\n" * 100)
    options = ["--ckpt", trained.best, "--mark", "false"]
    done = cli("ground", "letter.mp4", "nowhere.mp4", video, QUERIES[0], *options)
    assert done.code == 1
    assert f"grounded/{video.stem}" in done.out
    assert {p.name for p in Path("grounded").iterdir()} == {f"{video.stem}.json", f"{video.stem}.png"}
    for name in ("letter.mp4", "nowhere.mp4"):
        assert any(line.startswith(f"{name}: not grounded. ") for line in done.err.splitlines())
    assert "2 of 3 videos could not be grounded" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["VIDEO"], "at least one sentence"),
        (["a circle moves"], "at least one video file"),
        (["VIDEO", "a circle moves", "--ckpt", "nowhere.ckpt"], "nowhere.ckpt does not exist"),
        (["VIDEO", "a circle moves", "--ckpt", "VIDEO"], "no readable checkpoint"),
        (["VIDEO", "a circle moves", "--ckpt", "."], "is a folder"),
    ],
)
def test_wrong_inputs(words: list[str], expected: str, trained: Any, cli: Callable, video: Path) -> None:
    words = [str(video) if word == "VIDEO" else word for word in words]
    if "--ckpt" not in words:
        words += ["--ckpt", str(trained.best)]
    done = cli("ground", *words)
    assert done.code == 1
    assert expected in done.err
    assert len(done.err.strip().splitlines()) <= 2, f"a wall of text: {done.err}"
    assert not Path("grounded").exists()


def test_no_checkpoint_given(cli: Callable, video: Path) -> None:
    done = cli("ground", video, QUERIES[0])
    assert done.code == 2
    assert "ckpt" in done.err


def test_wrong_device(trained: Any, cli: Callable, video: Path) -> None:
    done = cli("ground", video, QUERIES[0], "--ckpt", trained.best, "--device", "toaster")
    assert done.code == 1
    assert "toaster" in done.err
    assert "Traceback" not in done.err


def test_three_lines_of_python(trained: Any, moved: Path) -> None:
    task = groundzoo.load(trained.best)
    answers = task.ground(moved, QUERIES, top_k=2)
    start, end, score = answers[0][0]

    assert len(answers) == len(QUERIES)
    assert all(len(moments) <= 2 for moments in answers)
    assert 0 <= start <= end <= probe(moved).duration_s + 1e-3
    assert math.isfinite(score)


def test_answers_do_not_depend_on_company(trained: Any, video: Path) -> None:
    task = groundzoo.load(trained.best)
    together = task.ground(video, [*QUERIES, "a very much longer sentence about a square that blinks and grows"])
    for query, answer in zip(QUERIES, together, strict=False):
        (alone,) = task.ground(video, [query])
        assert len(alone) == len(answer)
        for one, other in zip(alone, answer, strict=True):
            assert one == pytest.approx(other, abs=1e-4)


def test_ground_agrees_with_the_test_set(trained: Any) -> None:
    record = json.loads((trained.folder / "predictions.jsonl").read_text().splitlines()[0])
    task = groundzoo.load(trained.best)
    (answer,) = task.ground(trained.data / "videos" / f"{record['video']}.mp4", [record["query"]])
    start, end, score = record["moments"][0]
    assert answer[0].start_s == pytest.approx(start, abs=0.15)
    assert answer[0].end_s == pytest.approx(end, abs=0.15)
    assert answer[0].score == pytest.approx(score, abs=0.01)


def test_many_queries_encode_the_video_once(
    trained: Any, cli: Callable, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from groundzoo.datamodules import collecting

    calls = []
    original = collecting.encode_video

    def counted(encoder: Any, path: Path) -> Any:
        calls.append(path)
        return original(encoder, path)

    monkeypatch.setattr(collecting, "encode_video", counted)
    queries = [f"the circle moves {k} times" for k in range(20)]
    done = cli("ground", video, *queries, "--ckpt", trained.best, "--mark", "false")
    assert done.code == 0, done.err
    assert calls == [video]
    assert len(json.loads((Path("grounded") / f"{video.stem}.json").read_text())["answers"]) == 20


def test_no_query_in_python(trained: Any, video: Path) -> None:
    with pytest.raises(ValueError, match="at least one sentence"):
        groundzoo.load(trained.best).ground(video, [])
