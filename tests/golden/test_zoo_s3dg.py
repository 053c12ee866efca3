"""S3D-G and the text side of MIL-NCE against outputs of the authors' own program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fill import case_input, fill_value, filled, relative_error
from golden_files import golden_cases
from stages import TOLERANCE, check_stage, watched

from groundzoo.zoo.text.mil_nce import MILNCEText, MILNCETextNetwork, read_dictionary
from groundzoo.zoo.video.published import PUBLISHED
from groundzoo.zoo.video.s3dg import S3DG, S3DGNetwork, space_to_depth

pytestmark = pytest.mark.golden
CASES = pytest.mark.parametrize("path", golden_cases("zoo", "s3dg*.json"), ids=lambda p: p.stem)
KEYS = pytest.mark.parametrize("path", golden_cases("zoo", "keys/s3dg*.json"), ids=lambda p: p.stem)
TEXT = "text_module."


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    with np.load(path.with_suffix(".npz"), allow_pickle=False) as data:
        return json.loads(path.read_text(encoding="utf-8")), dict(data)


def network(deep_stem: bool) -> S3DGNetwork:
    with torch.device("meta"):
        network = S3DGNetwork(deep_stem)
    network.load_state_dict(filled(network), assign=True)
    return network.eval()


@CASES
def test_network(path: Path) -> None:
    content, arrays = read(path)
    for name, case in content["cases"].items():
        net = network(case["space_to_depth"])
        x = case_input(name, case["input_shape"])
        inner = [stage for stage in case["stages"] if stage in dict(net.named_modules())]
        assert len(inner) == len(case["stages"])
        grids: list[torch.Tensor] = []
        handle = net.mixed_5c.register_forward_hook(lambda _m, _i, out, grids=grids: grids.append(out))
        with torch.no_grad(), watched(net, inner) as stages:
            vector = net(x)
        handle.remove()
        errors = {stage: check_stage(f"{name} {stage}", stages[stage], case["stages"][stage]) for stage in inner}
        step = case["mixed_5c_channel_step"]
        errors["video_embedding"] = relative_error(vector, arrays[f"{name}:video_embedding"])
        errors["mixed_5c_grid"] = relative_error(grids[0][:, ::step], arrays[f"{name}:mixed_5c_grid"])
        errors["mixed_5c"] = relative_error(grids[0].mean((2, 3, 4)), arrays[f"{name}:mixed_5c"])
        print(name, max(errors.values()), errors)
        assert max(errors.values()) < TOLERANCE, errors


@CASES
@pytest.mark.parametrize("output", ["embedding", "mixed_5c"])
def test_encoder(path: Path, output: Any) -> None:
    """The vector is the authors', the grid agrees with theirs averaged over time."""
    content, arrays = read(path)
    expected = {"embedding": "video_embedding", "mixed_5c": "mixed_5c"}[output]
    for name, case in content["cases"].items():
        _, _, frames, height, width = case["input_shape"]
        with torch.device("meta"):
            options = {"window": frames, "size": height, "space_to_depth": case["space_to_depth"]}
            encoder = S3DG("random", output=output, **options)
        encoder.network.load_state_dict(filled(encoder.network), assign=True)
        with torch.no_grad():
            out = encoder.encode(case_input(name, case["input_shape"]).transpose(1, 2))
        error = relative_error(out.frames[:, 0], arrays[f"{name}:{expected}"])
        grid = out.grid
        assert grid is not None
        if height == width:
            assert grid.shape[1:] == (1, *encoder.grid)
        maps = torch.from_numpy(arrays[f"{name}:mixed_5c_grid"]).mean(2)
        if output == "mixed_5c":
            step = case["mixed_5c_channel_step"]
            wanted = maps.permute(0, 2, 3, 1)
            error = max(error, relative_error(grid[:, 0, :, :, ::step], wanted))
        elif case["mixed_5c_channel_step"] == 1:
            wanted = encoder.network.fc(maps.permute(0, 2, 3, 1)).detach()
            error = max(error, relative_error(grid[:, 0], wanted))
        print(name, output, error)
        assert error < TOLERANCE
        torch.testing.assert_close(grid.mean((2, 3)), out.frames, rtol=1e-4, atol=1e-5)


@CASES
def test_space_to_depth(path: Path) -> None:
    _, arrays = read(path)
    if "s2d_demo_out" not in arrays:
        pytest.skip(f"no s2d_demo_out beside {path}")
    expected = torch.from_numpy(arrays["s2d_demo_out"])
    n, c, t, h, w = expected.shape
    x = case_input("s2d_demo", (n, c // 8, 2 * t, 2 * h, 2 * w))
    assert torch.equal(space_to_depth(x), expected)


@CASES
def test_text(path: Path, tmp_path: Path) -> None:
    content, arrays = read(path)
    if "text" not in content:
        pytest.skip(f"no text in {path}")
    np.save(tmp_path / "dict.npy", np.array(content["dictionary"]))
    with torch.device("meta"):
        full = MILNCETextNetwork()
    weights = {TEXT + name: fill_value(TEXT + name, value.shape) for name, value in full.state_dict().items()}
    torch.save({**weights, "fc.weight": torch.zeros(512, 1024)}, tmp_path / "s3d.pth")
    encoder = MILNCEText(tmp_path / "s3d.pth", tmp_path / "dict.npy")
    assert encoder.encode_ids(content["text"]["sentences"]).tolist() == content["text"]["token_ids"]
    out = encoder(content["text"]["sentences"])
    error = relative_error(out.sentence, arrays["text_embedding"])
    print(error)
    assert error < TOLERANCE
    known = (torch.tensor(content["text"]["token_ids"]) > 0).sum(1).clamp(min=1)
    assert torch.equal(out.mask.sum(1), known)
    assert out.words.shape == (len(known), int(known.max()), encoder.dim)


@CASES
def test_dictionary(path: Path) -> None:
    sample = path.with_name("s3d_dict_sample.npy")
    expected = json.loads(path.read_text(encoding="utf-8")).get("dictionary")
    if expected is None or not sample.exists():
        pytest.skip(f"no dictionary in {path} or no {sample}")
    assert read_dictionary(sample) == expected


@KEYS
def test_names_and_counts(path: Path) -> None:
    expected = json.loads(path.read_text(encoding="utf-8"))
    keys = expected["keys"]
    with torch.device("meta"):
        video = S3DGNetwork(space_to_depth=keys["conv1.conv1.weight"][1] != 3)
        text = MILNCETextNetwork(rows=keys["text_module.word_embd.weight"][0])
    state = {**video.state_dict(), **{TEXT + name: value for name, value in text.state_dict().items()}}
    assert {name: list(value.shape) for name, value in state.items()} == keys
    assert len(keys) == expected["n_keys"]
    count = sum(p.numel() for p in video.parameters())
    assert count + sum(p.numel() for p in text.parameters()) == expected["parameters"]
    if "parameters_video" in expected:
        assert count == expected["parameters_video"]
    if video.space_to_depth:
        assert {entry.parameters for entry in PUBLISHED.values() if entry.encoder == "S3DG"} == {count}
