"""OpenAI's CLIP against reference outputs: towers, logits, names, and the names of Text4Vis."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fill import case_input, fill_value, filled, relative_error
from golden_files import golden_cases
from stages import TOLERANCE, check_stage, watched
from torch import Tensor, nn

from groundzoo.zoo.openai_clip import (
    RESNET,
    text_config,
    text_state,
    to_transformers,
    vision_config,
    vision_state,
)
from groundzoo.zoo.video.clip_resnet import ModifiedResNet
from groundzoo.zoo.video.image_model import ImageModel
from groundzoo.zoo.video.text4vis import FusionModel
from groundzoo.zoo.weights import load_state

pytestmark = pytest.mark.golden


def cases_of(path: Path) -> list[tuple[str, dict[str, Any]]]:
    return list(json.loads(path.read_text(encoding="utf-8"))["cases"].items())


def filled_keys(keys: dict[str, list[int]]) -> dict[str, Tensor]:
    return {k: fill_value(k, shape) for k, shape in keys.items()}


def meta(keys: dict[str, list[int]]) -> dict[str, Tensor]:
    return {k: torch.empty(shape, device="meta") for k, shape in keys.items()}


def text_tower(state: dict[str, Tensor]) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    network = CLIPTextModelWithProjection(CLIPTextConfig(**text_config(state)))
    load_state(network, text_state(state), "golden")
    return network.eval()


def keep(module: nn.Module) -> list[Tensor]:
    """Collects the module's outputs."""
    found: list[Tensor] = []
    module.register_forward_hook(lambda _m, _i, out: found.append(out[0] if isinstance(out, tuple) else out))
    return found


def stage_name(name: str) -> str | None:
    """Where a stage of the files is in our networks; None for those compared by themselves."""
    if name.startswith("visual.transformer.resblocks."):
        return f"network.vision_model.encoder.layers.{name.split('.')[3]}"
    if name == "visual.conv1":
        return "network.conv1"
    return f"network.{name.removeprefix('visual.')}" if name.startswith("visual.layer") else None


@pytest.mark.parametrize("path", golden_cases("zoo", "clip*.json"), ids=lambda p: p.stem)
def test_forward(path: Path, tmp_path: Path) -> None:
    cases = cases_of(path)
    with np.load(path.with_suffix(".npz"), allow_pickle=False) as data:
        arrays = dict(data)
    assert cases
    for name, case in cases:
        state = filled_keys(case["keys"])
        torch.save(state, tmp_path / f"{name}.pt")
        encoder, text = ImageModel(tmp_path / f"{name}.pt"), text_tower(state)
        x = case_input(name, case["input_shape"])
        ours = {s: found for s in case["stages"] if (found := stage_name(s)) is not None}
        if "network.conv1" in ours.values() and encoder.config["model_type"] != RESNET:
            ours["visual.conv1"] = "network.vision_model.embeddings.patch_embedding"
        blocks = {s for s in ours if "resblocks" in s}
        kept = {s: keep(encoder.get_submodule(ours[s])) for s in blocks}
        plain = {s: n for s, n in ours.items() if s not in blocks}
        with torch.no_grad(), watched(encoder, plain.values()) as stages:
            image = encoder.encode(x[:, None])
        with torch.no_grad():
            words = text(torch.tensor(case["token_ids"]))
        for stage, where in plain.items():
            check_stage(f"{name} {stage}", stages[where], case["stages"][stage])
        # (batch, tokens, width) here, (tokens, batch, width) there
        values = {stage: value[0].transpose(0, 1) for stage, value in kept.items()}
        values |= {"visual": image.frames[:, 0], "ln_final": words.last_hidden_state}
        for stage, value in values.items():
            if stage in case["stages"]:
                identity = nn.Identity()
                holder = nn.ModuleDict({"x": identity})
                with watched(holder, ["x"]) as one:
                    identity(value)
                check_stage(f"{name} {stage}", one["x"], case["stages"][stage])
        assert case["stages"].keys() <= plain.keys() | values.keys()
        scale = state["logit_scale"].exp()
        logits = scale * F.normalize(image.frames[:, 0], dim=-1) @ F.normalize(words.text_embeds, dim=-1).T
        errors = {
            "image_embeds": relative_error(image.frames, arrays[f"{name}:image_embeds"]),
            "text_embeds": relative_error(words.text_embeds, arrays[f"{name}:text_embeds"]),
            "logits_per_image": relative_error(logits, arrays[f"{name}:logits_per_image"]),
        }
        print(name, errors)
        assert max(errors.values()) < TOLERANCE, errors


@pytest.mark.parametrize("path", golden_cases("zoo", "clip*.json"), ids=lambda p: p.stem)
def test_names_after_conversion(path: Path) -> None:
    from transformers import CLIPConfig, CLIPModel

    seen = 0
    for name, case in cases_of(path):
        assert len(case["keys"]) == case["n_keys"]
        if "hf_keys" not in case:
            continue
        seen += 1
        state = filled_keys(case["keys"])
        found = to_transformers(state)
        assert {k: list(v.shape) for k, v in found.items()} == case["hf_keys"], name
        towers = {"vision_config": vision_config(state), "text_config": text_config(state)}
        model = CLIPModel(CLIPConfig(**towers, projection_dim=case["config"]["embed_dim"]))
        model.load_state_dict(found, strict=True)
        assert sum(p.numel() for p in model.parameters()) == case["parameters"]
    assert seen


@pytest.mark.parametrize("path", golden_cases("zoo", "keys/clip_openai.json"), ids=lambda p: p.stem)
def test_released_models(path: Path) -> None:
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    models = json.loads(path.read_text(encoding="utf-8"))["models"]
    assert models
    for name, model in models.items():
        state, config = meta(model["keys"]), model["config"]
        assert len(state) == model["n_keys"]
        vision, text = vision_config(state), text_config(state)
        with torch.device("meta"):
            encoder = ImageModel("checkpoint", config=vision)
            words = CLIPTextModelWithProjection(CLIPTextConfig(**text))
        for network, tensors in ((encoder.network, vision_state(state)), (words, text_state(state))):
            shapes = {k: v.shape for k, v in network.state_dict().items()}
            assert {k: v.shape for k, v in tensors.items()} == shapes, name
        parameters = [sum(p.numel() for p in module.parameters()) for module in (encoder, words)]
        assert parameters[0] == model["parameters_visual"]
        assert sum(parameters) + 1 == model["parameters"]  # logit_scale
        assert encoder.dim == config["embed_dim"]
        assert encoder.spec.size == (config["image_resolution"],) * 2
        assert (text["max_position_embeddings"], text["vocab_size"]) == (
            config["context_length"],
            config["vocab_size"],
        )
        assert text["num_attention_heads"] == config["transformer_heads"]


@pytest.mark.parametrize("path", golden_cases("zoo", "keys/text4vis*.json"), ids=lambda p: p.stem)
def test_text4vis(path: Path, tmp_path: Path) -> None:
    """Its image tower is read by `ImageModel`, the rest is the temporal transformer and one scale."""
    keys = json.loads(path.read_text(encoding="utf-8"))["keys"]
    state = filled_keys(keys)
    torch.save({"epoch": 3, "model_state_dict": state, "optimizer_state_dict": {}}, tmp_path / "text4vis.pt")
    encoder = ImageModel(tmp_path / "text4vis.pt")
    bare = {k.removeprefix("module."): v for k, v in state.items()}
    assert torch.equal(encoder.network.visual_projection.weight, bare["visual.proj"].T)
    assert {k: v.shape for k, v in vision_state(bare).items()} == {
        k: v.shape for k, v in encoder.network.state_dict().items()
    }
    fusion = {k.removeprefix("fusion_model."): v for k, v in bare.items() if k.startswith("fusion_model.")}
    positions, dim = fusion["frame_position_embeddings.weight"].shape
    layers = len({k.split(".")[2] for k in fusion if "resblocks" in k})
    network = FusionModel(dim, heads=dim // 64, layers=layers, positions=positions)
    network.load_state_dict(fusion, strict=True)
    rest = {k for k in bare if not k.startswith(("visual.", "fusion_model."))}
    assert rest == {"logit_scale"}
    with torch.no_grad():
        out = network.eval()(encoder(torch.zeros(1, 3, 3, 224, 224)).frames)
    assert out.shape == (1, encoder.dim)
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("path", golden_cases("zoo", "clip*.json"), ids=lambda p: p.stem)
def test_resnet_keeps_its_names(path: Path) -> None:
    for _, case in cases_of(path):
        config = vision_config(meta(case["keys"]))
        if config.pop("model_type") == RESNET:
            network = ModifiedResNet(**config)
            own = {f"visual.{k}": list(v.shape) for k, v in network.state_dict().items()}
            assert own == {k: v for k, v in case["keys"].items() if k.startswith("visual.")}
            network.load_state_dict(filled(network), strict=True)
