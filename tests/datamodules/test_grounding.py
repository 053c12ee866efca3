"""From annotation and feature files to batches: each video once, lost ones told, clear words before training."""

from __future__ import annotations

import json
import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import videos
from tiny_grounding import DIM, write_charades

from groundzoo.datamodules.annotations import AnnotationError, Query
from groundzoo.datamodules.charades_sta import CharadesSTA
from groundzoo.datamodules.features import FeatureError, FeatureStore, StoredVideo
from groundzoo.datamodules.grounding import GroundingDataset
from groundzoo.datamodules.shards import write_json
from groundzoo.datamodules.video import VideoError
from groundzoo.zoo.video.clips import ClipPooling
from groundzoo.zoo.video.combined import Combined
from groundzoo.zoo.video.pixel_grid import PixelGrid
from groundzoo.zoo.video.precomputed import Precomputed

SPLITS = {"train": 27, "test": 9}


class Trainer(SimpleNamespace):
    """What a data module asks of a trainer."""

    def __init__(self, encoder: Any = None, world_size: int = 1) -> None:
        encoder = encoder or Precomputed(DIM, window=4, stride=2)
        super().__init__(
            lightning_module=SimpleNamespace(video_encoder=encoder, clips=ClipPooling(8)), world_size=world_size
        )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_charades(tmp_path / "charades")


def module(root: Path, stage: str = "fit", encoder: Any = None, **options: Any) -> CharadesSTA:
    options = {"features": root / "features", "val_fraction": 0.3, "num_workers": 0, "batch_size": 5} | options
    data = CharadesSTA(root, **options)
    data.trainer = Trainer(encoder)
    data.prepare_data()
    data.setup(stage)
    return data


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    reads: list[str] = []
    real = FeatureStore.read

    def read(self: FeatureStore, video_id: str) -> StoredVideo:
        reads.append(video_id)
        return real(self, video_id)

    monkeypatch.setattr(FeatureStore, "read", read)
    return reads


def test_batches_say_what_the_files_say(root: Path) -> None:
    data = module(root, "test", eval_batch_size=4)
    queries = data.read("test")
    durations = json.loads((root / "Charades_duration.json").read_text())
    frames = json.loads((root / "Charades_frames_info.json").read_text())
    pooling, spec = ClipPooling(8), Precomputed(DIM, 4, 2).spec
    batches = list(data.test_dataloader())
    assert [len(batch) for batch in batches] == [4, 4, 1]
    assert torch.cat([b.index for b in batches]).tolist() == list(range(9))
    rows = iter(queries)
    for batch in batches:
        assert batch.clips.dtype == batch.bounds.dtype == batch.moments.dtype == torch.float32
        assert batch.clips.shape == (len(batch.video_ids), 8, DIM)
        assert len(set(batch.video_ids)) == len(batch.video_ids)
        for b, q in zip(range(len(batch)), rows, strict=False):
            v = int(batch.video_index[b])
            assert (batch.video_ids[v], batch.query_ids[b], batch.queries[b]) == (q.video_id, q.query_id, q.text)
            duration = durations[q.video_id]
            assert batch.durations_s[v].item() == pytest.approx(duration)
            assert batch.moments[b].tolist() == pytest.approx([q.start_s / duration, q.end_s / duration])
            units = np.load(root / "features" / f"{q.video_id}.npy")
            expected = pooling.pool(units, frames[q.video_id], spec)
            np.testing.assert_array_equal(batch.clips[v], expected)
            np.testing.assert_allclose(batch.bounds[v], pooling.bounds(frames[q.video_id]), rtol=1e-6)


def test_number_of_frames_from_the_store_then_the_data_set_then_the_units(root: Path) -> None:
    def bounds() -> dict[str, float]:
        batches = list(module(root, "test").test_dataloader())
        return {v: float(b.bounds[k, 0, 0]) for b in batches for k, v in enumerate(b.video_ids)}

    assert 1 / bounds()["VID10"] == pytest.approx(90)  # Charades_frames_info.json
    units = np.load(root / "features" / "VID10.npy")
    (root / "features" / "VID10.npy").unlink()
    np.savez(root / "features" / "VID10.npz", units=units, num_frames=77)
    assert 1 / bounds()["VID10"] == pytest.approx(77)
    (root / "Charades_frames_info.json").unlink()
    assert 1 / bounds()["VID11"] == pytest.approx(39 * 2 + 4)  # 40 units of 4 frames every 2


def test_each_video_is_read_once_per_batch(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = module(root, "test", eval_batch_size=6)
    reads = counted(monkeypatch)
    batches = list(data.test_dataloader())
    assert reads == [video for batch in batches for video in batch.video_ids]
    assert all(len(set(b.video_ids)) == len(b.video_ids) < len(b) for b in batches)
    list(data.test_dataloader())
    assert len(reads) == 2 * sum(len(b.video_ids) for b in batches)


def test_kept_in_memory_is_read_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = module(root, keep_in_memory=True)
    plain = module(root)
    reads = counted(monkeypatch)
    for _ in range(3):
        kept = list(data.train_dataloader())
    assert max(Counter(reads).values()) == 1
    for a, b in zip(kept, plain.train_dataloader(), strict=True):
        assert torch.equal(a.clips, b.clips)


def test_training_order_depends_on_seed_and_epoch_alone(root: Path) -> None:
    def order(epoch: int, **options: Any) -> list[str]:
        loader = module(root, **options).train_dataloader()
        loader.order.set_epoch(epoch)
        return [q for batch in loader for q in batch.query_ids]

    first = order(0)
    assert order(0) == order(0, num_workers=2) == first
    assert order(1) != first
    assert sorted(order(1)) == sorted(first)


def test_splits_share_nothing_and_lose_nothing(root: Path) -> None:
    data = module(root)
    data.setup("test")
    seen = {
        split: [q for batch in loader for q in batch.query_ids]
        for split, loader in (
            ("train", data.train_dataloader()),
            ("val", data.val_dataloader()),
            ("test", data.test_dataloader()),
        )
    }
    assert len(seen["train"]) + len(seen["val"]) == SPLITS["train"]
    assert len(seen["test"]) == SPLITS["test"]
    assert len({q for ids in seen.values() for q in ids}) == sum(SPLITS.values())
    assert seen["val"]


# ---- what is missing or broken -------------------------------------------------------------------------


def test_videos_without_features_are_reported(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "features" / "VID10.npy").unlink()
    with caplog.at_level(logging.INFO, logger="groundzoo"):
        data = module(root, "test")
    report = data.reports["test"]
    assert (report.official, report.used) == (9, 6)
    assert report.dropped == {"no features of the video": ["VID10#0", "VID10#1", "VID10#2"]}
    assert data.provenance()["splits"]["test"]["dropped"] == {"no features of the video": 3}
    assert "VID10" not in {v for batch in data.test_dataloader() for v in batch.video_ids}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("how", ["gone", "truncated", "nan", "width"])
def test_video_lost_in_the_middle_of_an_epoch(
    root: Path, caplog: pytest.LogCaptureFixture, how: str, workers: int
) -> None:
    data = module(root, "test", num_workers=workers, eval_batch_size=4)
    path = root / "features" / "VID10.npy"
    if how == "gone":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[:200])
    else:
        np.save(path, np.full((9, DIM), np.nan) if how == "nan" else np.ones((9, DIM + 1)))
    with caplog.at_level(logging.WARNING):
        batches = list(data.test_dataloader())
    assert len(batches) == 3
    got = [q for batch in batches for q in batch.query_ids]
    assert {q[:5] for q in got} == {"VID09", "VID11"}
    assert set(got) == {f"{v}#{k}" for v in ("VID09", "VID11") for k in range(3)}
    if workers == 0:
        messages = [r.getMessage() for r in caplog.records if "left out" in r.getMessage()]
        assert len(messages) == 1
        assert "VID10" in messages[0]


def test_batch_without_a_readable_video_takes_the_next_queries(root: Path) -> None:
    data = module(root, "test", eval_batch_size=3)
    (root / "features" / "VID11.npy").unlink()
    batches = list(data.test_dataloader())
    assert [b.video_ids for b in batches] == [["VID09"], ["VID10"], ["VID09"]]
    for name in ("VID09", "VID10"):
        (root / "features" / f"{name}.npy").unlink()
    with pytest.raises(FeatureError, match="not one video of this split can be read"):
        list(data.test_dataloader())


@pytest.mark.parametrize("what", ["file", "invalid", "features"])
def test_nothing_to_train_on_is_said_before_training(root: Path, what: str) -> None:
    train = root / "charades_sta_train.txt"
    if what == "file":
        train.write_text("\n")
    elif what == "invalid":
        train.write_text("".join(f"VID0{k} 9.0 2.0##a person.\n" for k in range(9)))
    else:
        for path in (root / "features").iterdir():
            path.rename(path.with_name(f"other_{path.name}"))
    reason = {"file": "0 of 0 queries", "invalid": "inverted", "features": "no features of the video"}[what]
    with pytest.raises(AnnotationError, match=f"CharadesSTA: no usable query. .*{reason}"):
        module(root)


def test_one_query_and_a_batch_of_two(root: Path) -> None:
    (root / "charades_sta_test.txt").write_text("VID01 1.0 2.0##a person.")
    batches = list(module(root, "test", eval_batch_size=2, num_workers=2).test_dataloader())
    assert [len(b) for b in batches] == [1]


def test_features_that_contradict_the_encoder(root: Path) -> None:
    with pytest.raises(FeatureError, match=f"dim is {DIM}, not 99"):
        module(root, encoder=Precomputed(99))
    write_json(root / "features" / "manifest.json", {"dim": DIM, "window": 64, "stride": 2})
    with pytest.raises(FeatureError, match="window is 64, not 4"):
        module(root)


def test_several_stores_side_by_side(root: Path) -> None:
    """A list of features goes with a `Combined` encoder, in its order."""
    (root / "other").mkdir()
    for path in (root / "features").glob("*.npy"):
        np.save(root / "other" / path.name, np.full((20, 3), int(path.stem[3:]), dtype=np.float32))
    parts = [Precomputed(DIM, window=4, stride=2), Precomputed(3, window=8, stride=4)]
    stores = [root / "features", root / "other"]
    both = module(root, "test", encoder=Combined(parts), features=stores, num_workers=2)
    alone = module(root, "test", encoder=parts[0])
    for one, two in zip(both.test_dataloader(), alone.test_dataloader(), strict=True):
        assert one.query_ids == two.query_ids
        assert torch.equal(one.clips[..., :DIM], two.clips)
        for video, clips in zip(one.video_ids, one.clips, strict=True):
            assert (clips[:, DIM:] == int(video[3:])).all()
    assert set(both.provenance()["manifest"]) == {str(path) for path in stores}
    with pytest.raises(FeatureError, match="dim is 3, not 6"):
        module(root, "test", encoder=Combined(parts), features=stores[::-1])
    with pytest.raises(FeatureError, match="needs a list with one store per encoder"):
        module(root, "test", encoder=Combined(parts))


def test_combined_encoders_read_videos_once_and_keep_a_store_each(root: Path) -> None:
    (root / "videos").mkdir()
    for k in range(12):
        videos.coded_video(root / "videos" / f"VID{k:02d}.mp4", 30 + k)
    parts = [PixelGrid(grid=4, size=16), PixelGrid(grid=2, size=16, fps=10.0)]
    data = module(root, "test", encoder=Combined(parts), features=None, num_workers=2)
    assert {path.name.split("-")[0] for path in (root / "features").glob("PixelGrid-*")} == {"PixelGrid"}
    assert len(list((root / "features").glob("PixelGrid-*/manifest.json"))) == 2
    first = module(root, "test", encoder=parts[0], features=None)
    for one, two in zip(data.test_dataloader(), first.test_dataloader(), strict=True):
        assert one.clips.shape[-1] == 9 * 16 + 9 * 4
        assert torch.equal(one.clips[..., : 9 * 16], two.clips)


def test_no_videos_no_features(root: Path) -> None:
    (root / "videos").mkdir()
    with pytest.raises(FeatureError, match=r"none of the 12 annotated videos is in .*videos"):
        module(root, features=None, encoder=PixelGrid())
    (root / "videos" / "VID01.mp4").write_text("no video")
    with pytest.raises(VideoError, match=r"none of 1 videos could be encoded: .*VID01\.mp4"):
        module(root, features=None, encoder=PixelGrid())


def test_a_task_that_reads_no_video_is_refused(root: Path) -> None:
    data = CharadesSTA(root, features=root / "features")
    data.trainer = SimpleNamespace(lightning_module=SimpleNamespace(), world_size=1)
    with pytest.raises(TypeError, match="video_encoder"):
        data.setup("fit")


def test_hdf5_gives_the_same_batches(root: Path) -> None:
    with h5py.File(root / "all.h5", "w") as file:
        for path in (root / "features").glob("*.npy"):
            file[path.stem] = np.load(path)
    plain = list(module(root).train_dataloader())
    for workers in (0, 2):
        batches = list(module(root, features=root / "all.h5", num_workers=workers).train_dataloader())
        assert [b.query_ids for b in batches] == [b.query_ids for b in plain]
        assert all(torch.equal(a.clips, b.clips) for a, b in zip(batches, plain, strict=True))


# ---- groups and controls -------------------------------------------------------------------------------


def test_groups_of_queries(root: Path) -> None:
    (root / "charades_sta_test.txt").write_text(
        "VID01 1.0 2.0##she sits, then stands.\nVID01 1.0 2.0##strengthen it.\nVID02 1.0 2.0##He ran BEFORE.\n"
    )
    (root / "groups.json").write_text(json.dumps({"mine": ["VID01#1", "VID02#0", "zebra#0"]}))
    batch = next(iter(module(root, "test", subsets=root / "groups.json").test_dataloader()))
    assert {name: member.tolist() for name, member in batch.subsets.items()} == {
        "temporal": [True, False, True],
        "mine": [False, True, True],
    }


def test_shuffled_queries_are_a_control(root: Path) -> None:
    def queries(stage: str, shuffle: bool) -> list[Query]:
        data = module(root, stage, shuffle_queries=shuffle)
        loader = data.train_dataloader() if stage == "fit" else data.test_dataloader()
        assert isinstance(loader.dataset, GroundingDataset)
        return loader.dataset.queries

    plain, mixed = queries("fit", False), queries("fit", True)
    assert sorted(q.text for q in mixed) == sorted(q.text for q in plain)
    assert [q.text for q in mixed] != [q.text for q in plain]
    assert [replace(q, text="") for q in mixed] == [replace(q, text="") for q in plain]
    assert queries("test", True) == queries("test", False)


def test_dataset_can_be_sent_to_workers(root: Path) -> None:
    import pickle

    data = module(root, "test")
    copy: GroundingDataset = pickle.loads(pickle.dumps(data.test_dataloader().dataset))
    assert torch.equal(copy[0].clips, data.test_dataloader().dataset[0].clips)
