"""From files of grounded clips to batches: which frames, how they look, whose boxes; and what goes wrong."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from grounded_files import CROPPED, HEIGHT, PADDED, PLAIN, SMALL, WIDTH, ready, record, write_lines, write_videos
from videos import read_codes

from groundzoo.datamodules import grounded_clips
from groundzoo.datamodules.annotations import AnnotationError
from groundzoo.datamodules.features import FeatureError
from groundzoo.datamodules.grounded_frames import TRIES, draw_frames, one_box_each
from groundzoo.datamodules.grounded_records import GroundedClip, parse_record
from groundzoo.datamodules.iground import IGround
from groundzoo.datamodules.video import FrameReader
from groundzoo.zoo.batch import GroundedClipBatch
from groundzoo.zoo.frame_windows import equal_parts
from groundzoo.zoo.text.grounded_text import GroundedText
from groundzoo.zoo.video.base import VideoEncoder, VideoFeatures
from groundzoo.zoo.video.spec import FrameSpec


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_videos(tmp_path_factory.mktemp("videos"), "abcde")


def data_of(tmp_path: Path, files: Path, train: list[Any], val: list[Any] | None = None, **kwargs: Any) -> IGround:
    write_lines(tmp_path / "train.jsonl", train)
    write_lines(tmp_path / "val.jsonl", val or train)
    write_lines(tmp_path / "test.jsonl", val or train)
    return IGround(tmp_path, videos=files, **{"num_workers": 0, "batch_size": 2, "eval_batch_size": 2} | kwargs)


def epoch(data: IGround, number: int = 0, loader: Any = None) -> Iterator[GroundedClipBatch]:
    loader = loader or data.train_dataloader()
    loader.order.set_epoch(number)
    return iter(loader)


# ---- frames ---------------------------------------------------------------------------------------------


def test_all_annotated_frames_in_evaluation(tmp_path: Path, files: Path) -> None:
    data = ready(data_of(tmp_path, files, [record("a", 0), record("b", 1, frames=6, start=12)]))
    (batch,) = data.val_dataloader()
    assert batch.frames[0].dtype == torch.uint8
    assert batch.frames[0].shape == (2, 10, 3, HEIGHT, WIDTH)
    assert read_codes(batch.frames[0][0]) == list(range(0, 50, 5))
    assert read_codes(batch.frames[0][1]) == [12, 17, 22, 27, 32, 37, 37, 37, 37, 37]
    assert batch.mask.sum(1).tolist() == [10, 6]
    assert batch.mask[1].tolist() == [True] * 6 + [False] * 4
    torch.testing.assert_close(batch.times_s[1], torch.tensor([12, 17, 22, 27, 32, *[37] * 5]) / 25)
    assert batch.clip_ids == ["a_0", "b_1"]
    assert batch.video_ids == ["a", "b"]
    assert batch.sizes.tolist() == [[WIDTH, HEIGHT]] * 2
    assert batch.captions == [GroundedText("a man throws the ball", ((0, 5), (13, 21)))] * 2
    assert batch.references == [["a man throws the ball"]] * 2
    assert batch.index.tolist() == [0, 1]
    assert not batch.given
    assert len(batch) == 2


def test_boxes_belong_to_the_frames(tmp_path: Path, files: Path) -> None:
    data = ready(data_of(tmp_path, files, [record("a", 0), record("b", 1, frames=6)]))
    (batch,) = data.val_dataloader()
    assert batch.clip.tolist() == [0, 0, 1, 1]
    assert batch.boxes.dtype == torch.float32
    for row in (0, 2):
        own = 10 if row == 0 else 6
        k = torch.arange(own)
        assert batch.visible[row].all()
        torch.testing.assert_close(batch.boxes[row, :own, 0], (k + 10) / WIDTH)
        assert batch.boxes[row, 0].tolist() == pytest.approx([10 / WIDTH, 21 / HEIGHT, 20 / WIDTH, 40 / HEIGHT])
        assert batch.visible[row + 1, :own].tolist() == [j % 3 == 0 for j in range(own)]
        assert (batch.boxes[row + 1][~batch.visible[row + 1]] == 0).all()
    assert (batch.boxes[2, 6:] == batch.boxes[2, 5]).all(), "repeated frames have the boxes of what they show"
    assert [len(frames) for frames in batch.truths] == [10, 6], "of the clip's own frames"
    assert batch.truths[0][3] == [("a man", [3, 1, 23, 41]), ("the ball", [30, 2, 40, 12])]
    assert batch.truths[0][4] == [("a man", [4, 1, 24, 41])]


def test_every_encoder_gets_what_it_asks_for(tmp_path: Path, files: Path) -> None:
    data = ready(data_of(tmp_path, files, [record("a")]), SMALL, PADDED, CROPPED, PLAIN)
    (batch,) = data.val_dataloader()
    assert [tuple(x.shape[-2:]) for x in batch.frames] == [(24, 32), (32, 32), (24, 24), (HEIGHT, WIDTH)]
    numbers = list(range(0, 50, 5))
    with FrameReader(files / "a.mp4") as reader:
        small = reader.at(numbers, (24, 32))
    assert torch.equal(batch.frames[0][0], small), "bit-equal to what a decoder gives that resizes"
    assert torch.equal(batch.frames[1][0, :, :, :24], small), "the picture is in the upper left corner"
    below = batch.frames[1][0, :, :, 24:].float() / 255
    torch.testing.assert_close(below.mean((0, 2, 3)), torch.tensor(PADDED.mean), atol=0.01, rtol=0)
    assert torch.equal(batch.frames[2][0], small[..., 4:28])
    assert read_codes(batch.frames[3][0]) == numbers


class Looking(VideoEncoder):
    """Encodes nothing."""

    def __init__(self, spec: FrameSpec) -> None:
        super().__init__()
        self.spec, self.dim = spec, 1

    def encode(self, clips: torch.Tensor) -> VideoFeatures:
        """See `VideoEncoder.encode`."""
        raise NotImplementedError


@pytest.mark.parametrize("spec", [SMALL, PADDED, CROPPED, PLAIN])
def test_encoders_have_nothing_left_to_do(tmp_path: Path, files: Path, spec: FrameSpec) -> None:
    (batch,) = ready(data_of(tmp_path, files, [record("a")]), spec).val_dataloader()
    assert Looking(spec).fit(batch.frames[0]) is batch.frames[0]


def test_a_file_is_opened_and_decoded_once(tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = ready(data_of(tmp_path, files, [record("a")]), SMALL, PADDED, CROPPED)
    calls: list[str] = []
    for name in ("__init__", "at_sizes", "_read"):
        whole = getattr(FrameReader, name)

        def noted(self: Any, *args: Any, _whole: Any = whole, _name: str = name, **kwargs: Any) -> Any:
            calls.append(_name)
            return _whole(self, *args, **kwargs)

        monkeypatch.setattr(FrameReader, name, noted)
    list(data.val_dataloader())
    assert calls == ["__init__", "at_sizes", "_read"], "of these three encoders all resize to 24 x 32"
    calls.clear()
    other = ready(data_of(tmp_path / "x", files, [record("a")]), SMALL, PLAIN)
    list(other.val_dataloader())
    assert calls == ["__init__", "at_sizes"], "one walk through the file for two sizes"


def test_sizes_of_one_walk_are_those_of_many(files: Path) -> None:
    sizes = [(24, 32), None, (30, 30), (24, 32)]
    with FrameReader(files / "a.mp4") as reader:
        for numbers in ([7, 3, 3, 59, 0], [40], []):
            for found, size in zip(reader.at_sizes(numbers, sizes), sizes, strict=True):
                assert torch.equal(found, reader.at(numbers, size))
        with pytest.raises(IndexError, match="no frame 60"):
            reader.at_sizes([60], sizes)


def test_a_file_of_another_frame_rate_is_read_by_time(tmp_path: Path) -> None:
    videos = write_videos(tmp_path / "v", "a", frames=60, fps=10)
    data = ready(data_of(tmp_path, videos, [record("a", frames=11)]))
    (batch,) = data.val_dataloader()
    assert read_codes(batch.frames[0][0]) == list(range(0, 21, 2)), "5 frames at 25 per second are 0.2 s"
    torch.testing.assert_close(batch.times_s[0], torch.arange(11) / 5)


@pytest.mark.parametrize("fps", [24.9, 25.1])
def test_rounded_frame_rates_are_the_same(tmp_path: Path, files: Path, fps: float) -> None:
    """By time, frame 55 at 25.1 frames per second is the 54th of a file with 25."""
    step = int(fps / 5)
    clip = record("a", fps=fps, clip_start_frame=55 - 9 * step, clip_end_frame=55)
    (batch,) = ready(data_of(tmp_path, files, [clip])).val_dataloader()
    assert read_codes(batch.frames[0][0])[-1] == 55


def test_frames_behind_the_end_of_the_file(tmp_path: Path, files: Path) -> None:
    data = ready(data_of(tmp_path, files, [record("a", start=40)]))
    (batch,) = data.val_dataloader()
    assert read_codes(batch.frames[0][0]) == [40, 45, 50, 55, *[59] * 6]


# ---- the draw -------------------------------------------------------------------------------------------


def test_one_frame_of_each_part_in_training(tmp_path: Path, files: Path) -> None:
    data = ready(data_of(tmp_path, files, [record("a", frames=11)], batch_size=1), frames=4)
    seen = set()
    for number in range(40):
        (batch,) = epoch(data, number)
        codes = [code // 5 for code in read_codes(batch.frames[0][0])]
        assert all(code in part for code, part in zip(codes, equal_parts(11, 4), strict=True))
        torch.testing.assert_close(batch.boxes[0, :, 0], (torch.tensor(codes) + 10) / WIDTH)
        assert batch.visible[1].tolist() == [code % 3 == 0 for code in codes]
        assert batch.mask.all()
        assert batch.times_s[0].tolist() == pytest.approx([code / 5 for code in codes])
        assert [f[0][1][0] for f in batch.truths[0]] == codes
        seen |= set(codes)
    assert seen == set(range(11)), "in time every frame; the last part has the rest"


def test_draw_is_a_function_of_seed_epoch_and_clip(tmp_path: Path, files: Path) -> None:
    records = [record(name, frames=12) for name in "abcde"]

    def drawn(number: int, **kwargs: Any) -> dict[str, list[float]]:
        data = ready(data_of(tmp_path, files, records, **kwargs), frames=3)
        batches = list(epoch(data, number))
        return {i: t for b in batches for i, t in zip(b.clip_ids, b.times_s.tolist(), strict=True)}

    first = drawn(0)
    assert len(first) == 5
    assert first == drawn(0, batch_size=5), "not of the batch"
    assert first == drawn(0, num_workers=2)
    assert first != drawn(1)
    assert first != drawn(0, seed=1)
    assert drawn(3, num_workers=1) == drawn(3)


def test_workers_hear_of_the_next_epoch(tmp_path: Path, files: Path) -> None:
    data = ready(data_of(tmp_path, files, [record("a", frames=12)], num_workers=1, batch_size=1), frames=3)
    loader = data.train_dataloader()
    times = [next(epoch(data, number, loader)).times_s.tolist() for number in range(5)]
    assert len({str(t) for t in times}) > 1


def test_goes_on_at_the_next_batch(tmp_path: Path, files: Path) -> None:
    data = ready(data_of(tmp_path, files, [record(name) for name in "abcde"], batch_size=1), frames=3)
    whole = [(b.clip_ids, b.times_s.tolist()) for b in epoch(data, 7)]
    running = data.train_dataloader()
    iterator = epoch(data, 7, running)
    assert [(b.clip_ids, b.times_s.tolist()) for b in (next(iterator), next(iterator))] == whole[:2]
    resumed = data.train_dataloader()
    resumed.load_state_dict(running.state_dict())
    assert [(b.clip_ids, b.times_s.tolist()) for b in epoch(data, 7, resumed)] == whole[2:]


def test_a_draw_shows_something() -> None:
    random = np.random.default_rng(0)
    for n, only in ((400, 3), (400, 399), (9, 8), (64, 40)):
        visible = [k == only for k in range(n)]
        for _ in range(50):
            drawn = draw_frames(visible, 8, random)
            assert only in drawn
            assert all(k in part for k, part in zip(drawn, equal_parts(n, 8), strict=True))


def test_a_draw_of_nothing_ends() -> None:
    random = np.random.default_rng(0)
    drawn = draw_frames([False] * 40, 8, random)
    assert all(k in part for k, part in zip(drawn, equal_parts(40, 8), strict=True))


def test_draws_are_even_where_everything_is_visible() -> None:
    random = np.random.default_rng(0)
    counts = np.zeros(19, dtype=int)
    for _ in range(4000):
        counts[draw_frames([True] * 19, 4, random)] += 1
    assert np.abs(counts[:12] - 1000).max() < 150
    assert np.abs(counts[12:] - 4000 / 7).max() < 120
    assert TRIES > 1


def test_a_short_clip_repeats_its_last_frame_in_training(tmp_path: Path, files: Path) -> None:
    data = ready(data_of(tmp_path, files, [record("a", frames=3)], batch_size=1))
    (batch,) = epoch(data)
    assert read_codes(batch.frames[0][0]) == [0, 5, 10, 10, 10, 10, 10, 10]
    assert batch.mask[0].tolist() == [True] * 3 + [False] * 5
    assert batch.visible.tolist() == [[True] * 8, [True] + [False] * 7]
    assert len(batch.truths[0]) == 3


# ---- boxes ----------------------------------------------------------------------------------------------


def boxes_of(boxes: list[Any], labels: list[str]) -> tuple[Any, Any]:
    clip = parse_record(record(frames=1, bboxes=[boxes], labels=[labels]), "")
    found, visible = one_box_each(clip, [0])
    scale = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT])
    return (found[:, 0] * scale).tolist(), visible[:, 0].tolist()


def test_boxes_of_one_phrase_become_their_union() -> None:
    found, visible = boxes_of([[0, 0, 4, 4], [2, 2, 10, 12], [20, 0, 30, 10]], ["a man", "a man", "the ball"])
    assert visible == [True, True]
    assert found[0] == pytest.approx([5, 6, 10, 12])
    turned, _ = boxes_of([[2, 2, 10, 12], [0, 0, 4, 4]], ["a man", "a man"])
    assert turned[0] == found[0]
    assert found[1] == pytest.approx([25, 5, 10, 10])


def test_boxes_end_at_the_picture() -> None:
    found, visible = boxes_of([[-10, -10, 10, 10], [60, 40, 90, 90]], ["a man", "the ball"])
    assert found[0] == pytest.approx([5, 5, 10, 10])
    assert found[1] == pytest.approx([62, 44, 4, 8])
    assert visible == [True, True]


@pytest.mark.parametrize("box", [[5, 5, 5, 9], [9, 5, 3, 9], [70, 5, 80, 9], [-5, 0, 0, 9]])
def test_a_box_without_area_shows_nothing(box: list[float]) -> None:
    found, visible = boxes_of([box], ["a man"])
    assert visible == [False, False]
    assert found == [[0] * 4] * 2
    assert boxes_of([box, [1, 1, 3, 3]], ["a man", "a man"])[0][0] == pytest.approx([2, 2, 2, 2])


def test_a_sentence_without_phrases(tmp_path: Path, files: Path) -> None:
    nothing = {"tagged_caption": "it rains", "phrases": [], "bboxes": [[]] * 10, "labels": [[]] * 10}
    data = ready(data_of(tmp_path, files, [record("a", **nothing), record("b")]))
    (batch,) = data.val_dataloader()
    assert batch.clip.tolist() == [1, 1]
    assert batch.boxes.shape == (2, 10, 4)
    assert batch.truths[0] == [[]] * 10
    (alone,) = ready(data_of(tmp_path / "x", files, [record("a", **nothing)])).val_dataloader()
    assert alone.boxes.shape == (0, 10, 4)
    assert alone.visible.shape == (0, 10)


# ---- what goes wrong ------------------------------------------------------------------------------------


def broken_files(tmp_path: Path, names: str, broken: str) -> Path:
    videos = write_videos(tmp_path / "v", names)
    for name in broken:
        (videos / f"{name}.mp4").write_bytes(b"this is no video")
    return videos


def test_broken_videos_are_replaced_in_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    videos = broken_files(tmp_path, "abcd", "bc")
    data = ready(data_of(tmp_path, videos, [record(name) for name in "abcd"]))
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            batches = list(epoch(data, number))
            assert [len(batch) for batch in batches] == [2, 2]
            assert all(sorted(batch.video_ids) == ["a", "d"] for batch in batches)
            assert all(
                [data._datasets["train"].clip_id(i) for i in b.index.tolist()] == b.clip_ids for b in batches
            )
    told = [r.message for r in caplog.records if "left out" in r.message and r.levelno >= logging.WARNING]
    assert len(told) == 2, "each once"
    assert any("b.mp4" in message for message in told)
    assert data._datasets["train"].lost == {"b_0", "c_0"}


def test_broken_videos_are_left_out_of_evaluation(tmp_path: Path) -> None:
    videos = broken_files(tmp_path, "abcd", "bc")
    data = ready(data_of(tmp_path, videos, [record(name) for name in "abcd"]))
    assert [batch.video_ids for batch in data.val_dataloader()] == [["a"], ["d"]]


def test_a_broken_file_is_opened_once_for_all_its_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = broken_files(tmp_path, "ab", "b")
    data = ready(data_of(tmp_path, videos, [record("a"), *(record("b", k) for k in range(5))], eval_batch_size=6))
    opened = []

    class Noting(FrameReader):
        def __init__(self, path: Path) -> None:
            opened.append(path.stem)
            super().__init__(path)

    monkeypatch.setattr(grounded_clips, "FrameReader", Noting)
    (batch,) = data.val_dataloader()
    assert batch.clip_ids == ["a_0"]
    assert opened == ["a", "b"]


def test_a_clip_behind_the_end_costs_itself_alone(
    tmp_path: Path, files: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = ready(data_of(tmp_path, files, [record("a", 0, start=300), record("a", 1), record("a", 2)]))
    with caplog.at_level(logging.WARNING):
        ids = [clip_id for batch in data.val_dataloader() for clip_id in batch.clip_ids]
    assert ids == ["a_1", "a_2"]
    assert "clip a_0 begins at frame 300 (25 per second), the file has 60 frames" in caplog.text


def test_not_one_video_can_be_read(tmp_path: Path) -> None:
    videos = broken_files(tmp_path, "ab", "ab")
    data = ready(data_of(tmp_path, videos, [record("a"), record("b")]))
    with pytest.raises(FeatureError, match="not one video"):
        list(data.val_dataloader())


def test_the_account_of_a_split(tmp_path: Path, files: Path) -> None:
    bad = record("b", fps=0)
    data = ready(data_of(tmp_path, files, [record("a"), record("zz"), bad, record("c", video_fname="x.mp4")]))
    report = data.reports["train"]
    assert (report.official, report.used) == (4, 2)
    assert {reason: len(ids) for reason, ids in report.dropped.items()} == {
        "no video file": 1,
        "record cannot be used": 1,
    }
    assert "zz_0" in str(report)
    assert f"{tmp_path / 'train.jsonl'}:3, clip b_0" in str(report)
    facts = data.provenance()
    assert facts["data_set"] == "IGround"
    assert facts["splits"]["train"]["used"] == 2
    assert facts["annotations"]["train"].endswith("train.jsonl")
    assert [text.phrases for text in data.vocabulary_texts()] == [["a man", "the ball"]] * 2
    (batch,) = epoch(data)
    assert sorted(batch.video_ids) == ["a", "c"], "found by the id where the file has another name"


def test_no_video_at_all(tmp_path: Path, files: Path) -> None:
    with pytest.raises(AnnotationError, match=r"no clip of .* has its video in .*data.init_args.videos.*zz_0"):
        ready(data_of(tmp_path, files, [record("zz")]))


def test_the_splits_that_a_stage_needs(tmp_path: Path, files: Path) -> None:
    for stage, expected in (
        ("fit", {"train", "val"}),
        ("validate", {"val"}),
        ("test", {"test"}),
        ("predict", {"test"}),
    ):
        assert ready(data_of(tmp_path, files, [record("a")]), stage=stage).reports.keys() == expected
    data = ready(data_of(tmp_path, files, [record("a")], [record("b")], test_split="val"), stage="predict")
    assert [batch.video_ids for batch in data.predict_dataloader()] == [["b"]]
    assert [batch.video_ids for batch in data.test_dataloader()] == [["b"]]
    (tmp_path / "test.jsonl").unlink()
    with pytest.raises(AnnotationError, match=r"test.jsonl does not exist"):
        ready(IGround(tmp_path, videos=files), stage="test")


def test_tasks_of_another_kind_are_refused(tmp_path: Path, files: Path) -> None:
    data = data_of(tmp_path, files, [record("a")])
    data.trainer = SimpleNamespace(lightning_module=object(), state=SimpleNamespace(fn="fit"))  # type: ignore
    data.prepare_data()
    with pytest.raises(TypeError, match="tasks with `streams` and `frames`"):
        data.setup("fit")
    with pytest.raises(ValueError, match="no fixed size of frames"):
        ready(data, FrameSpec(fps=5.0, window=1, stride=1, size=None))


def test_workers_are_handed_no_annotation(tmp_path: Path, files: Path) -> None:
    """What goes to a worker does not grow with the number of records, and reads the same there."""
    sizes = []
    for count in (1, 300):
        folder = tmp_path / str(count)
        data = ready(data_of(folder, files, [record("a", k) for k in range(count)]))
        packed = bytes(ForkingPickler.dumps(data._datasets["val"]))
        sizes.append(len(packed))
    assert sizes[1] - sizes[0] < 300 * 16, "positions alone"
    again = ForkingPickler.loads(packed)
    assert again[7].clip_ids == ["a_7"]


def test_clips_in_an_index_are_those_of_the_file(tmp_path: Path, files: Path) -> None:
    records = [record("a", k, frames=k + 1) for k in range(5)]
    clips = data_of(tmp_path, files, records).clips("train")
    assert [clips.read(k) for k in range(5)] == [parse_record(r, "") for r in records]
    assert all(isinstance(clips.read(k), GroundedClip) for k in range(5))
