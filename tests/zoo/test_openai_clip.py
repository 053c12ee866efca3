"""Files of OpenAI's CLIP and of Text4Vis: how they are wrapped, what they hold, and the towers of their own."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import encoder_checks as checks
import pytest
import torch
from tiny_models import OPENAI_IMAGE as IMAGE
from tiny_models import OPENAI_TEXT as TEXT
from tiny_models import numbers
from torch import Tensor, nn

from groundzoo.zoo.openai_clip import read_openai, text_config, text_state, to_transformers, vision_config
from groundzoo.zoo.video.clip_resnet import AttentionPool, ModifiedResNet
from groundzoo.zoo.video.image_model import ImageModel
from groundzoo.zoo.video.published import CLIP_MEAN
from groundzoo.zoo.video.text4vis import FusionModel

EMBED = 12


class Holder(nn.Module):
    """Makes TorchScript archives with any names."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def archive(state: dict[str, Tensor], path: Path) -> Path:
    root = Holder()
    for name, value in state.items():
        *parents, last = name.split(".")
        module: nn.Module = root
        for parent in parents:
            if parent not in dict(module.named_children()):
                module.add_module(parent, Holder())
            module = module.get_submodule(parent)
        module.register_parameter(last, nn.Parameter(value, requires_grad=False))
    for name, scalar in (("input_resolution", 32), ("context_length", 12), ("vocab_size", 60)):
        root.register_buffer(name, torch.tensor(scalar))
    torch.jit.save(torch.jit.script(root), str(path))
    return path


# ---- files ----


@pytest.mark.parametrize(
    "wrap", ["bare", "half", "module.", "state_dict", "model_state_dict", "jit", "safetensors"]
)
def test_files(wrap: str, tmp_path: Path) -> None:
    state = numbers(IMAGE | TEXT)
    if wrap == "jit":
        path = archive({k: v.half() for k, v in state.items()}, tmp_path / "ViT-B-32.pt")
    elif wrap == "half":
        path = checks.write({k: v.half() for k, v in state.items()}, "bare", tmp_path)
    else:
        path = checks.write(state, wrap, tmp_path)
    if wrap in ("jit", "half"):
        state = {k: v.half().float() for k, v in state.items()}
    found = read_openai(path)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[k], state[k]) for k in state)
    encoder = ImageModel(path)
    assert (encoder.dim, encoder.grid) == (EMBED, (4, 4, EMBED))
    assert (encoder.spec.size, encoder.spec.resize, encoder.spec.mean) == ((32, 32), 32, CLIP_MEAN)
    layer = encoder.network.vision_model.encoder.layers[1]
    assert torch.equal(
        layer.self_attn.k_proj.weight, state["visual.transformer.resblocks.1.attn.in_proj_weight"][64:128]
    )
    assert torch.equal(layer.mlp.fc2.bias, state["visual.transformer.resblocks.1.mlp.c_proj.bias"])
    assert torch.equal(encoder.network.visual_projection.weight, state["visual.proj"].T)


def test_text4vis_has_no_text_tower(tmp_path: Path) -> None:
    fusion = {f"fusion_model.{k}": v for k, v in FusionModel(EMBED, heads=2, layers=1).state_dict().items()}
    state = {f"module.{k}": v for k, v in {**numbers(IMAGE), **fusion, "logit_scale": torch.ones(())}.items()}
    path = tmp_path / "text4vis.pt"
    torch.save({"epoch": 1, "model_state_dict": state, "optimizer_state_dict": {"lr": 0.1}}, path)
    found = read_openai(path)
    assert not [k for k in to_transformers(found) if "fusion" in k]
    assert torch.equal(ImageModel(path).network.visual_projection.weight, found["visual.proj"].T)
    with pytest.raises(ValueError, match="image tower alone"):
        text_config(found)


def test_what_is_told_about_wrong_files(tmp_path: Path) -> None:
    state = numbers(IMAGE | TEXT)
    write = partial(checks.write, wrap="bare", folder=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"clip\.pt do not exist"):
        read_openai(tmp_path / "clip.pt")
    with pytest.raises(ValueError, match=r"no file of OpenAI's CLIP.*but 0\.bias, 0\.weight"):
        read_openai(write(nn.Sequential(nn.Linear(2, 2)).state_dict()))
    with pytest.raises(ValueError, match=r"1 names are not those.*visual\.time_embedding"):
        ImageModel(write({**state, "visual.time_embedding": torch.zeros(8, 64)}))
    with pytest.raises(ValueError, match="1 names are not those of OpenAI's CLIP"):
        ImageModel(write({**state, "visual.transformer.resblocks.0.net.weight": torch.zeros(2)}))
    with pytest.raises(
        ValueError, match=r"not those of CLIPVision.*1 missing \(vision_model\.post_layernorm\.bias\)"
    ):
        ImageModel(write({k: v for k, v in state.items() if k != "visual.ln_post.bias"}))
    with pytest.raises(ValueError, match="of another shape"):
        ImageModel(write({**state, "visual.class_embedding": torch.zeros(3)}))
    with pytest.raises(ValueError, match="text tower alone"):
        ImageModel(write(numbers(TEXT)))


def test_configurations_follow_from_shapes() -> None:
    state = numbers(IMAGE | TEXT)
    vision, text = vision_config(state), text_config(state)
    assert vision | {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1} == vision
    assert vision | {"patch_size": 8, "image_size": 32, "hidden_act": "quick_gelu"} == vision
    assert text | {"vocab_size": 60, "max_position_embeddings": 12, "eos_token_id": 59} == text
    assert (
        len(text_state(state)) == len(TEXT) - 1 + 2 * 2 * 2
    )  # no scale; three tensors of one, twice in two blocks


# ---- ResNet towers ----

RESNET: dict[str, Any] = {
    "model_type": "openai_clip_resnet",
    "layers": [1, 2, 1, 1],
    "width": 8,
    "output_dim": EMBED,
    "heads": 4,
    "image_size": 64,
}


def test_a_resnet_from_its_file(tmp_path: Path) -> None:
    network = ModifiedResNet(**{k: v for k, v in RESNET.items() if k != "model_type"})
    state = checks.varied(network.state_dict())
    state = {k: v for k, v in state.items()} | {"attnpool.positional_embedding": torch.randn(5, 256)}
    path = checks.write({**{f"visual.{k}": v for k, v in state.items()}, **numbers(TEXT)}, "bare", tmp_path)
    encoder = ImageModel(path)
    assert encoder.config == RESNET
    assert encoder.grid == (2, 2, EMBED)
    network.load_state_dict(state)
    x = torch.rand(2, 1, 3, 64, 64)
    vectors, cells = network.eval()(x[:, 0])
    found = encoder.encode(x)
    torch.testing.assert_close(found.frames[:, 0], vectors)
    torch.testing.assert_close(found.grid[:, 0], cells)
    arguments = json.loads(json.dumps(encoder.rebuild_arguments()))
    again = ImageModel(**arguments)
    again.load_state_dict(encoder.state_dict())
    assert again.spec == encoder.spec
    assert torch.equal(again.encode(x).frames, found.frames)
    with pytest.raises(ValueError, match="multiples of 32"):
        ImageModel("random", config=RESNET, size=48)


def test_cells_are_what_the_pooling_takes_up() -> None:
    """With attention alike everywhere, the vector is the mean of the cells and of the mean's own."""
    pool = AttentionPool(3, 16, 4, 5)
    with torch.no_grad():
        pool.q_proj.weight.zero_()
        pool.q_proj.bias.zero_()
        x = torch.rand(2, 16, 3, 3)
        vector, cells = pool(x)
        own = pool.c_proj(pool.v_proj(x.mean((2, 3)) + pool.positional_embedding[0]))
    torch.testing.assert_close(vector, (cells.sum((1, 2)) + own) / 10)
    assert cells.shape == (2, 3, 3, 5)


def test_a_resnets_positions_are_interpolated() -> None:
    pool = AttentionPool(2, 4, 2, 3)
    with torch.no_grad():
        pool.positional_embedding.copy_(torch.tensor([[9.0], [0], [0], [1], [1]]).expand(5, 4))
    assert pool._positions(2, 2) is pool.positional_embedding
    table = pool._positions(4, 2)
    assert table.shape == (9, 4)
    assert (table[0] == 9).all()
    rows = table[1:, 0].view(4, 2)
    assert (rows[1:] > rows[:-1]).all()
    torch.testing.assert_close(rows[:, 0], rows[:, 1])


# ---- Text4Vis ----


def test_fusion() -> None:
    network = FusionModel(8, heads=2, layers=2, positions=5).eval()
    frames = torch.randn(3, 4, 8)
    out = network(frames)
    assert out.shape == (3, 8)
    torch.testing.assert_close(network(frames[:1])[0], out[0])
    assert (network(frames.flip(1)) - out).abs().max() > 1e-3  # order counts
    for block in network.transformer["resblocks"]:
        for layer in (block.attn.out_proj, block.mlp.c_proj):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
    positions = network.frame_position_embeddings.weight[:4].mean(0)
    torch.testing.assert_close(network(frames), 2 * frames.mean(1) + positions)
