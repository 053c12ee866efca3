"""VGGish against the outputs of its PyTorch port on the same sounds."""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fill import fill_value, filled, relative_error, uniform
from golden_files import golden_cases
from stages import TOLERANCE, Stage, check_stage, watched
from torch import Tensor

from groundzoo.zoo.audio.vggish import PCA, VGGish, log_mel, mel_matrix, quantise

pytestmark = pytest.mark.golden
FILES = golden_cases("zoo", "vggish*.json")
CPU = torch.device("cpu")


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    with np.load(path.with_suffix(".npz"), allow_pickle=False) as arrays:
        return json.loads(path.read_text(encoding="utf-8")), dict(arrays)


def sound(name: str, case: dict[str, Any]) -> Tensor:
    t = np.arange(case["samples"]) / 16_000
    tones = 0.5 * np.sin(2 * math.pi * case["f1"] * t) + 0.25 * np.sin(2 * math.pi * case["f2"] * t + 0.3)
    return torch.from_numpy(tones + 0.05 * (2 * uniform(f"audio:{name}", len(t)).astype(np.float64) - 1))


def summary(value: Tensor) -> Stage:
    x = value.double()
    std = float(x.std(correction=0))
    return Stage(list(x.shape), float(x.mean()), std, float(x.abs().max()), x.flatten()[:8])


@pytest.fixture(scope="module")
def encoder() -> Iterator[VGGish]:
    made = VGGish("checkpoint")
    made.network.load_state_dict(filled(made.network))
    yield made
    del made
    gc.collect()


@pytest.mark.parametrize("path", FILES)
def test_front_end(path: Path) -> None:
    cases, arrays = read(path)
    expected, matrix = cases["front_end"], mel_matrix(CPU)
    assert list(matrix.shape) == expected["mel_matrix_shape"]
    assert float(matrix.double().sum()) == pytest.approx(expected["mel_matrix_sum"], rel=1e-6)
    assert (matrix > 0).int().argmax(0).tolist() == expected["mel_first_nonzero_bin_per_band"]
    assert (matrix == 0).all(0).nonzero().flatten().tolist() == expected["all_zero_bands"]
    if "mel_matrix" in arrays:
        assert relative_error(matrix, arrays["mel_matrix"]) < 1e-6
    for name, case in cases["cases"].items():
        spectrogram = log_mel(sound(name, case))
        assert list(spectrogram.shape) == case["log_mel_shape"]
        check_stage(name, summary(spectrogram), case["log_mel_stats"])
        n = case["n_examples"]
        patches = spectrogram[: 96 * n].reshape(n, 1, 96, 64)
        assert relative_error(patches, arrays[f"{name}:examples"]) < TOLERANCE, name


@pytest.mark.parametrize("path", FILES)
def test_network_and_pca(path: Path, encoder: VGGish) -> None:
    cases, arrays = read(path)
    pca = PCA()
    pca.load_state_dict({k: fill_value(f"pproc.{k}", v.shape) for k, v in pca.state_dict().items()})
    for name, case in cases["cases"].items():
        n = case["n_examples"]
        with torch.no_grad(), watched(encoder.network, case["stages"]) as stages:
            raw = encoder.network(torch.from_numpy(arrays[f"{name}:examples"]))
        for stage, expected in case["stages"].items():
            check_stage(f"{name} {stage}", stages[stage], expected)
        embedding = raw.relu()
        found = {"embedding_pre_relu": raw, "embedding": embedding, "pca_before_clip": pca(embedding)}
        for key, value in found.items():
            assert value.shape == (n, 128)
            assert relative_error(value, arrays[f"{name}:{key}"]) < TOLERANCE, f"{name} {key}"
        for key, value in {"embedding": embedding, "pca": pca(embedding)}.items():
            check_stage(f"{name} {key}", summary(value), case["outputs"][key])
        recorded = torch.from_numpy(arrays[f"{name}:quantized"])
        assert torch.equal(quantise(torch.from_numpy(arrays[f"{name}:pca_before_clip"])), recorded)
        assert (quantise(pca(embedding)) - recorded).abs().max() <= 1  # a value at the border of two


@pytest.mark.parametrize("path", FILES)
def test_from_sound_to_embedding(path: Path, encoder: VGGish) -> None:
    cases, arrays = read(path)
    for name, case in cases["cases"].items():
        found = encoder(sound(name, case)[None]).frames[0]
        n = case["n_examples"]
        assert len(found) == encoder.spec.num_units(case["samples"]) in (n, n + 1)  # + 1: the rest, with silence
        assert relative_error(found[:n], arrays[f"{name}:embedding"]) < TOLERANCE, name
