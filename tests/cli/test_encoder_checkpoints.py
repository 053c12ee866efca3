"""A checkpoint is enough: encoders whose weights came from folders are rebuilt without these."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_models
import torch
import yaml
from safetensors.torch import load_file

import groundzoo
from groundzoo.zoo.video.r2plus1d import R2Plus1D


@pytest.mark.parametrize("trainable", ["false", "true"])
def test_folders_may_go(trainable: str, cli: Callable, worlds: Callable, small: list[str], tmp_path: Path) -> None:
    image = tiny_models.save(tmp_path / "image", "vit", "ViTModel")
    text = tmp_path / "text"
    tiny_models.clip_tokenizer().save_pretrained(text)
    tower = {**tiny_models.TOWER, "vocab_size": 196, "eos_token_id": 195, "projection_dim": 12}
    tiny_models.save(text, "clip_text_model", "CLIPTextModelWithProjection", **tower)
    words = ["-c", "tasks/drn_charades.yaml", "-c", "encoders/dinov2_b.yaml", "-c", "text/clip_text.yaml"]
    words += [word for word in small if not word.startswith("--model.text_encoder.")]
    words += ["--data.root", str(worlds("charades_sta")), "--data.val_fraction", "0.4"]
    for part, folder in (("video_encoder", image), ("text_encoder", text)):
        words += [f"--model.{part}.init_args.weights", str(folder)]
    words += ["--model.text_encoder.init_args.trainable", trainable]
    done = cli(
        "fit", *words, "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1", "--run_dir", "run"
    )
    assert done.code == 0, done.err
    before = load_file(text / "model.safetensors")
    shutil.rmtree(image)
    shutil.rmtree(text)

    checkpoint = next(Path("run/checkpoints").rglob("*.ckpt"))
    stored = torch.load(checkpoint, weights_only=True)
    recipe = stored["groundzoo"]["task"]["init_args"]
    assert recipe["text_encoder"]["init_args"]["weights"] == "checkpoint"
    assert recipe["text_encoder"]["init_args"]["tokenizer"].keys() >= {"tokenizer.json"}
    assert recipe["video_encoder"]["init_args"]["config"]["model_type"] == "vit"
    task = groundzoo.load(checkpoint)
    for name, value in task.text_encoder.state_dict().items():
        assert torch.equal(value, stored["state_dict"][f"text_encoder.{name}"])
    assert task.text_encoder(["a person opens the door", ""]).mask.sum(1).min() == 1
    in_training = {id(p) for p in task.trainable_parts()["all"]}
    own = [id(p) in in_training for p in task.text_encoder.parameters()]
    assert all(own) if trainable == "true" else not any(own)
    assert not [p for p in task.video_encoder.parameters() if id(p) in in_training]
    moved = [k for k, v in before.items() if not torch.equal(v, stored["state_dict"][f"text_encoder.network.{k}"])]
    assert bool(moved) == (trainable == "true")


def test_parts_of_a_combined_encoder_are_rebuilt(
    cli: Callable, worlds: Callable, small: list[str], tmp_path: Path
) -> None:
    """Weights of the parts come from a file, gone when the checkpoint is opened; resuming says nothing."""
    root = worlds("charades_sta")
    size = {"layers": (1, 1, 1, 1), "width": 2, "size": 32}
    weights = tmp_path / "r2plus1d.pt"
    torch.save(R2Plus1D("random", **size).network.state_dict(), weights)
    part = {"class_path": "R2Plus1D", "init_args": {"weights": str(weights), **size, "layers": [1, 1, 1, 1]}}
    encoder = {"class_path": "Combined", "init_args": {"encoders": [part, {"class_path": "PixelGrid"}]}}
    overlay = tmp_path / "both.yaml"
    overlay.write_text(yaml.safe_dump({"model": {"init_args": {"video_encoder": encoder}}}))
    words = ["-c", "tasks/drn_toyworld.yaml", "-c", overlay, "-c", "logger/csv.yaml", *small]
    words += ["--data.root", root, "--data.subsets", root / "subsets.json", "--data.val_fraction", "0.4"]
    words += ["--run_dir", "run", "--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1"]
    last = Path("run/checkpoints/last.ckpt")
    assert (done := cli("fit", *words, "--trainer.max_epochs", "1")).code == 0, done.err
    again = cli("fit", *words, "--trainer.max_epochs", "2", "--ckpt_path", last)
    assert again.code == 0, again.err
    assert "was trained with" not in again.err
    tested = cli("test", *words, "--ckpt_path", last)
    assert tested.code == 0, tested.err
    weights.unlink()
    task = groundzoo.load(last)
    assert task.video_encoder.dim == 16 + 1296
    video = next((root / "videos").glob("*.mp4"))
    assert len(task.ground(video, ["a red circle jumps"])[0]) >= 1
