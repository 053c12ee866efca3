"""A checkpoint is enough: encoders whose weights came from folders are rebuilt without these."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_models
import torch
from safetensors.torch import load_file

import groundzoo


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
