"""Raw video -> store -> training -> an answer on raw video, with one overlay file per encoder and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import groundzoo
from groundzoo.datamodules.features import FeatureStore

R2PLUS1D = """# a tiny R(2+1)D
model:
  init_args:
    video_encoder:
      class_path: R2Plus1D
      init_args: {weights: random, layers: [1, 1, 1, 1], width: 4, size: 32}
    clips: {num_clips: 32}
data:
  init_args:
    features: null
"""
STAGES = "[{losses: [match, location], train: grounder, lr: 3.0e-3, epochs: 3}]"


@pytest.mark.slow
def test_two_encoders_by_changing_one_file(
    cli: Callable, worlds: Callable, small: list[str], tmp_path: Path
) -> None:
    root = worlds("charades_sta")
    (tmp_path / "r2plus1d.yaml").write_text(R2PLUS1D)
    answers = {}
    for overlay in ("encoders/pixel_grid.yaml", "r2plus1d.yaml"):
        store, run = tmp_path / f"store-{Path(overlay).stem}", tmp_path / f"run-{Path(overlay).stem}"
        made = cli("extract", "-c", overlay, "--videos", root / "videos", "--out", store, "--num_workers", "0")
        assert made.code == 0, made.err
        assert cli("extract", "--check", store, "--videos", root / "videos").code == 0
        words = ["-c", "tasks/drn_toyworld.yaml", "-c", overlay, "-c", "logger/csv.yaml", *small]
        words += ["--data.root", root, "--data.subsets", root / "subsets.json", "--data.val_fraction", "0.4"]
        # without a threshold an untrained network answers with more than the whole video
        words += [
            "--data.features",
            store,
            "--model.stages",
            STAGES,
            "--model.score_threshold",
            "0",
            "--run_dir",
            run,
        ]
        best = run / "checkpoints" / "best.ckpt"
        for verb, more in (("fit", []), ("test", ["--ckpt_path", best])):
            done = cli(verb, *words, *more)
            assert done.code == 0, done.err
        made_by = json.loads((run / "metrics.json").read_text())
        assert json.dumps(FeatureStore(store).manifest["encoder"]) in json.dumps(made_by)

        task = groundzoo.load(best)
        records = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
        assert len(records) >= 3
        for record in records:
            (moments,) = task.ground(root / "videos" / f"{record['video']}.mp4", [record["query"]])
            # a store has half precision: moments agree within 0.02 s, scores within 0.002
            for ours, stored in zip(moments[:1], record["moments"][:1], strict=True):
                assert ours[:2] == pytest.approx(stored[:2], abs=0.02), record
                assert ours[2] == pytest.approx(stored[2], abs=2e-3)
        answers[overlay] = [record["moments"] for record in records]
    first, second = answers.values()
    assert first != second

    wrong = cli("test", *words, "--data.features", tmp_path / "store-pixel_grid", "--ckpt_path", best)
    assert wrong.code == 1
    assert "contradict model.video_encoder (R2Plus1D)" in wrong.err
    assert "dim is 1296, not 32" in wrong.err


@pytest.mark.slow
def test_an_encoder_is_trained_with_its_task(
    cli: Callable, worlds: Callable, small: list[str], tmp_path: Path
) -> None:
    root = worlds("charades_sta")
    (tmp_path / "trained.yaml").write_text(R2PLUS1D.replace("size: 32}", "size: 32, trainable: true}"))
    words = ["-c", "tasks/drn_toyworld.yaml", "-c", "trained.yaml", "-c", "logger/csv.yaml", *small]
    words += ["--data.root", root, "--data.subsets", root / "subsets.json", "--data.val_fraction", "0.4"]
    words += [
        "--model.stages",
        STAGES,
        "--model.score_threshold",
        "0",
        "--run_dir",
        "run",
        "--model.clips.num_clips",
        "8",
    ]
    words += ["--data.batch_size", "4", "--trainer.max_epochs", "1"]
    for verb, more in (("fit", []), ("test", ["--ckpt_path", "run/checkpoints/best.ckpt"])):
        done = cli(verb, *words, *more)
        assert done.code == 0, done.err
    task = groundzoo.load("run/checkpoints/best.ckpt")
    records = [json.loads(line) for line in Path("run/predictions.jsonl").read_text().splitlines()]
    for record in records[:3]:
        (moments,) = task.ground(root / "videos" / f"{record['video']}.mp4", [record["query"]])
        assert moments[0][:2] == pytest.approx(record["moments"][0][:2], abs=0.02)
    before = {k: v for k, v in groundzoo.load("run/checkpoints/best.ckpt").state_dict().items()}
    again = cli("fit", *words, "--trainer.max_epochs", "2", "--ckpt_path", "run/checkpoints/last.ckpt")
    assert again.code == 0, again.err
    after = groundzoo.load("run/checkpoints/last.ckpt").state_dict()
    moved = [k for k in before if k.startswith("video_encoder") and not before[k].equal(after[k])]
    assert any("conv" in k for k in moved)
    refused = cli("fit", *words, "--data.features", str(root))
    assert refused.code == 1
    assert "a trainable video encoder needs videos" in refused.err
