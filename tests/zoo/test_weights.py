"""Reading weight files: what is unwrapped, what is dropped, what is refused, and in which words."""

from __future__ import annotations

import argparse
import logging
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from groundzoo.zoo.weights import load_weights, read_state_dict, reproducible, strip_prefixes


class TwoTowers(nn.Module):
    """Names like S3D's: one of them holds ``module.`` in its middle."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 3, 1)
        self.norm = nn.BatchNorm1d(3)
        self.text_module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def state_of(seed: int = 1) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    state = TwoTowers().state_dict()
    return {k: torch.rand(v.shape) if v.is_floating_point() else torch.tensor(7) for k, v in state.items()}


def save(content: Any, folder: Path) -> Path:
    torch.save(content, folder / "weights.pth")
    return folder / "weights.pth"


def loads(path: Path, **options: Any) -> bool:
    """Whether the file gives the network exactly the numbers of `state_of`."""
    network, expected = TwoTowers(), state_of()
    load_weights(network, path, **options)
    return all(torch.equal(v, expected[k]) for k, v in network.state_dict().items())


def prefixed(prefix: str) -> dict[str, Tensor]:
    return {prefix + k: v for k, v in state_of().items()}


@pytest.mark.parametrize(
    "prefix", ["", "module.", "backbone.", "features.", "module.backbone.", "module.features.", "module.module."]
)
@pytest.mark.parametrize(
    "wrappers", [(), ("state_dict",), ("model_state_dict",), ("model",), ("model", "state_dict")]
)
def test_wrappers_and_prefixes(prefix: str, wrappers: tuple[str, ...], tmp_path: Path) -> None:
    content: Any = OrderedDict(prefixed(prefix))
    for wrapper in wrappers:
        content = {"epoch": 3, wrapper: content, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}}
    assert loads(save(content, tmp_path))


def test_only_a_leading_prefix_goes() -> None:
    names = list(TwoTowers().state_dict())
    assert "text_module.0.weight" in names
    stripped = strip_prefixes(prefixed("module."), names, heads=())
    assert list(stripped) == names
    odd = {"text_module.0.weight": torch.zeros(1), "a.module.b": torch.zeros(1), "my_backbone.c": torch.zeros(1)}
    assert strip_prefixes(odd, names, heads=()) == odd


def test_a_prefix_that_is_part_of_the_name_stays() -> None:
    """VGG's names begin with `features.` themselves."""
    names = ["features.0.weight", "classifier.0.weight"]
    state = {name: torch.zeros(1) for name in names}
    assert list(strip_prefixes(state, names, heads=())) == names
    wrapped = {f"module.{name}": value for name, value in state.items()}
    assert list(strip_prefixes(wrapped, names, heads=())) == names


def test_names_that_would_become_one_are_left_alone() -> None:
    state = {"module.a": torch.zeros(1), "a": torch.ones(1)}
    assert strip_prefixes(state, ["a"], heads=()) == state


def test_heads_are_dropped_but_never_a_name_of_the_network(tmp_path: Path) -> None:
    heads = {"fc.weight": torch.zeros(5, 3), "cls_head.fc_cls.bias": torch.zeros(5)}
    path = save({**prefixed("backbone."), **heads}, tmp_path)
    assert loads(path, heads=("fc.", "cls_head.", "text_module."))
    with pytest.raises(ValueError, match=r"2 unknown \(cls_head\.fc_cls\.bias, fc\.weight\)"):
        loads(path)
    with pytest.raises(ValueError, match=r"1 unknown \(cls_head\.fc_cls\.bias\)"):
        loads(path, heads=("fc.",))


def test_names_are_converted_before_prefixes_go(tmp_path: Path) -> None:
    path = save({k.replace("conv", "stem"): v for k, v in prefixed("module.").items()}, tmp_path)
    seen: list[str] = []

    def convert(state: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.extend(state)
        return {k.replace("stem", "conv"): v for k, v in state.items()}

    assert loads(path, convert=convert)
    assert "module.stem.weight" in seen


def test_safetensors(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(prefixed("module."), tmp_path / "weights.safetensors")
    assert loads(tmp_path / "weights.safetensors")


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
@pytest.mark.parametrize("content", [b"", b"not weights at all, but a page that says 404"])
def test_files_that_are_no_weights(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} cannot be read"):
        read_state_dict(tmp_path / name)


def test_a_file_cut_off(tmp_path: Path) -> None:
    path = save(state_of(), tmp_path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"weights\.pth cannot be read"):
        read_state_dict(path)


class Touch:
    """A pickle that makes a file when it is opened carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_nothing_in_a_file_runs(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    path = save({"state_dict": state_of(), "extra": Touch(trap)}, tmp_path)
    with pytest.raises(
        ValueError, match=r"the file asks to run \w+\.mkdir\); nothing in a weight file is executed"
    ):
        read_state_dict(path)
    assert not trap.exists()


def test_a_whole_pickled_network_is_refused(tmp_path: Path) -> None:
    path = save(TwoTowers(), tmp_path)
    with pytest.raises(ValueError, match=r"asks to run .*TwoTowers.*save its state dict alone"):
        read_state_dict(path)


def test_options_beside_the_weights_are_harmless(tmp_path: Path) -> None:
    """TSP's files hold the parsed command line."""
    assert loads(save({"model": state_of(), "args": argparse.Namespace(lr=0.1), "epoch": 5}, tmp_path))


@pytest.mark.parametrize(
    ("content", "kind"), [([1, 2], "list"), ({"epoch": 1}, "dict"), ({"state_dict": {}}, "dict"), (3, "int")]
)
def test_files_without_tensors(content: Any, kind: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"hold no named tensors but a {kind}"):
        read_state_dict(save(content, tmp_path))


def test_numbers_beside_the_tensors_do_not_matter(tmp_path: Path) -> None:
    assert loads(save({**state_of(), "iteration": 12, "version": "1.0"}, tmp_path))


@pytest.mark.parametrize("name", ["missing.pth", "missing.safetensors", "."])
def test_missing_file(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="do not exist; `groundzoo list encoders` says where"):
        load_weights(TwoTowers(), tmp_path / name)


def test_what_does_not_fit_is_told_at_once(tmp_path: Path) -> None:
    state = state_of()
    state["text_module.1.weight"] = torch.zeros(9, 4)
    for name in ("conv.bias", "conv.weight", "norm.bias", "norm.weight"):
        del state[name]
    state["more"] = torch.zeros(1)
    network = TwoTowers()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with pytest.raises(ValueError, match="are not those of TwoTowers") as raised:
        load_weights(network, save(state, tmp_path))
    for part in (
        "4 missing (conv.bias, conv.weight, norm.bias, ...)",
        "1 unknown (more)",
        "1 of another shape (text_module.1.weight is (9, 4), not (2, 4))",
        str(tmp_path / "weights.pth"),
    ):
        assert part in str(raised.value)
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


def test_the_counter_of_batch_norm_may_be_missing(tmp_path: Path) -> None:
    """Files older than it."""
    state = state_of()
    del state["norm.num_batches_tracked"]
    network = TwoTowers()
    load_weights(network, save(state, tmp_path))
    assert network.norm.num_batches_tracked == 0
    assert torch.equal(network.norm.running_mean, state["norm.running_mean"])


def test_half_precision_files_fill_a_single_precision_network(tmp_path: Path) -> None:
    network = TwoTowers()
    load_weights(
        network, save({k: v.half() if v.is_floating_point() else v for k, v in state_of().items()}, tmp_path)
    )
    assert network.conv.weight.dtype == torch.float32
    torch.testing.assert_close(network.conv.weight.data, state_of()["conv.weight"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("word", "warnings"), [("random", 1), ("checkpoint", 0)])
def test_words_instead_of_a_file(word: str, warnings: int, caplog: pytest.LogCaptureFixture) -> None:
    network = TwoTowers()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with caplog.at_level(logging.WARNING):
        load_weights(network, word)
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    assert sum("TwoTowers has random weights" in r.getMessage() for r in caplog.records) == warnings


def test_reproducible_starts_equal_and_leaves_the_callers_numbers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def seeded(_seed: int) -> None:
        raise AssertionError("the accelerators' generators are the caller's too")

    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded)
    with reproducible():
        first = torch.rand(5)
    assert torch.equal(torch.rand(3), expected)
    torch.rand(100)
    with reproducible():
        assert torch.equal(torch.rand(5), first)


def test_reproducible_gives_the_numbers_back_after_an_error() -> None:
    def build() -> None:
        with reproducible():
            torch.rand(5)
            raise KeyError

    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    with pytest.raises(KeyError):
        build()
    assert torch.equal(torch.rand(3), expected)


def test_a_checkpoint_of_ours_hands_on_its_video_encoder(tmp_path: Path) -> None:
    """Whatever else the task has trained stays behind."""
    state = state_of()
    content = {f"video_encoder.network.{k}": v for k, v in state.items()} | {"network.head.weight": torch.ones(2)}
    path = save({"groundzoo": {"version": "1"}, "state_dict": content, "epoch": 3}, tmp_path)
    network = TwoTowers()
    load_weights(network, path)
    assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())
    bare = save({"groundzoo": {"version": "1"}, "state_dict": {"network.head.weight": torch.ones(2)}}, tmp_path)
    with pytest.raises(ValueError, match="no weights of a video encoder"):
        load_weights(network, bare)
