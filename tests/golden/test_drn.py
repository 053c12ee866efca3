"""DRN against outputs of the authors' own program: forward, losses, gradients, trajectories, evaluation."""

from __future__ import annotations

import copy
import json
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_files import golden_cases, golden_folder
from torch import Tensor

from groundzoo.tasks.drn import (
    DRN,
    PAPER_STAGES,
    RELEASED_LOSS,
    DRNOutput,
    NetworkOptions,
    assign_targets,
    decode,
    drn_losses,
)
from groundzoo.tasks.drn_released import load_released, released_name
from groundzoo.tasks.metrics.grounding import MomentRecall
from groundzoo.tasks.schedules import Stage
from groundzoo.zoo.losses import interval_iou_loss, sigmoid_focal_loss
from groundzoo.zoo.temporal import nms, tiou
from groundzoo.zoo.text.base import TextFeatures
from groundzoo.zoo.text.word_lstm import WordLSTM
from groundzoo.zoo.video.base import FrameSpec
from groundzoo.zoo.video.clips import ClipPooling
from groundzoo.zoo.video.precomputed import Precomputed

pytestmark = pytest.mark.golden
FORWARD = {"rtol": 1e-4, "atol": 1e-5}
GRADIENT = {"rtol": 1e-3, "atol": 1e-6}
RELEASED_STAGES = tuple(
    Stage(s.losses, s.train, lr, s.epochs, keep_batchnorm=False)
    for s, lr in zip(PAPER_STAGES, (1e-3, 1e-5, 1e-7), strict=True)
)

Arrays = dict[str, np.ndarray]


def cases(pattern: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", golden_cases("drn", pattern), ids=lambda p: p.stem)


def load(path: Path) -> Arrays:
    with np.load(path) as data:
        return dict(data)


def seed_of(path: Path) -> int:
    return int(json.loads((path.parent / "KEYS.json").read_text())["spec"]["seed"])


def close(ours: Tensor, theirs: np.ndarray, rtol: float, atol: float) -> None:
    expected = torch.from_numpy(np.asarray(theirs))
    torch.testing.assert_close(ours.detach().to(expected.dtype), expected, rtol=rtol, atol=atol)


def build(state: dict[str, Tensor]) -> DRN:
    """A task of the widths found in a released state dict, with its weights loaded."""
    embedding = state["query_encoder.embedding.weight"]
    text = WordLSTM(embedding.shape[1], state["query_encoder.biLSTM.weight_hh_l0"].shape[1])
    channels = tuple(state[f"backbone_net.forward_conv{i}.0.weight"].shape[0] for i in range(3))
    options = NetworkOptions(
        channels=channels,
        pyramid_dim=state["fcos.head.cls_logits.weight"].shape[1],
        location_dim=state["position_transform.weight"].shape[0],
        attention_dim=state["query_encoder.qInput.weight"].shape[0],
    )
    task = DRN(
        Precomputed(state["prop_fc.weight"].shape[0]),
        text,
        network=options,
        loss=RELEASED_LOSS,
        stages=RELEASED_STAGES,
    )
    load_released(task, state, [f"word{i}" for i in range(len(embedding) - 1)])
    return task


def small_state(data: Arrays, prefix: str = "param/") -> dict[str, Tensor]:
    return {k.removeprefix(prefix): torch.from_numpy(v) for k, v in data.items() if k.startswith(prefix)}


def linear(name: str, out: int, *rest: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, *rest), f"{name}.bias": (out,)}


def norm(name: str, dim: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.{k}": (dim,) for k in ("weight", "bias", "running_mean", "running_var")}


def full_shapes(data: Arrays) -> dict[str, tuple[int, ...]]:
    """Shapes of the released model at the widths its outputs have (the official ones)."""
    D = data["in/props_features"].shape[-1]
    C = [data[f"eval/C{i}"].shape[1] for i in (1, 2, 3)]
    P, H2 = data["eval/P1"].shape[1], data["eval/lstm_output"].shape[-1]
    H, pos = H2 // 2, data["eval/position_feature"].shape[-1]
    vocabulary = max(1301, int(data["in/query_tokens"].max()))
    shapes: dict[str, tuple[int, ...]] = {"query_encoder.embedding.weight": (vocabulary + 1, 300)}
    for suffix in ("", "_reverse"):
        lstm = {"weight_ih": (4 * H, 300), "weight_hh": (4 * H, H), "bias_ih": (4 * H,), "bias_hh": (4 * H,)}
        shapes |= {f"query_encoder.biLSTM.{k}_l0{suffix}": v for k, v in lstm.items()}
    shapes |= linear("query_encoder.qInput", H, 4 * H) | linear("query_encoder.cmd_inter2logits", 1, H2)
    shapes |= linear("prop_fc", D, D) | linear("position_transform", pos, 3)
    ins = [D, C[0], C[1]]
    for i in range(3):
        shapes |= linear(f"query_encoder.qInput{i}", H2, H) | linear(f"qInput{i}", ins[i], H2)
        shapes[f"backbone_net.forward_conv{i}.0.weight"] = (C[i], ins[i] + (pos if i == 0 else 0), 3)
        shapes |= norm(f"backbone_net.forward_conv{i}.1", C[i])
        shapes[f"fpn.fpn_inner{i + 1}.0.weight"] = (P, C[i], 1)
        shapes[f"fpn.fpn_layer{i + 1}.0.weight"] = (P, P, 3)
        shapes |= norm(f"fpn.fpn_inner{i + 1}.1", P) | norm(f"fpn.fpn_layer{i + 1}.1", P)
        shapes[f"fcos.head.scales.{i}.scale"] = (1,)
    head = "fcos.head."
    for tower in ("cls_tower", "bbox_tower"):
        shapes |= linear(f"{head}{tower}.0", P, P, 3) | norm(f"{head}{tower}.1", P)
    shapes |= linear(f"{head}cls_logits", 1, P, 3) | linear(f"{head}bbox_pred", 2, P, 3)
    shapes |= linear(f"{head}mix_fc.0", P, 2 * P, 1) | norm(f"{head}mix_fc.1", P)
    shapes |= linear(f"{head}iou_scores.0", P // 2, P, 3) | norm(f"{head}iou_scores.1", P // 2)
    shapes |= linear(f"{head}iou_scores.3", 1, P // 2, 1)
    return shapes


def seeded_state(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    """Weights by the recipe of the golden README."""
    state = {}
    for name, shape in shapes.items():
        g = np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32)
        bound = np.sqrt(3 / np.prod(shape[1:])) if len(shape) > 1 else 0
        if name.endswith("running_var"):
            low, high = 0.5, 1.5
        elif name.endswith("running_mean"):
            low, high = -0.2, 0.2
        elif "scales" in name:
            low, high = 0.7, 1.3
        elif len(shape) == 1 and name.endswith(".bias"):
            low, high = -0.3, 0.3
        elif len(shape) == 1:
            low, high = 0.6, 1.4
        elif name == "query_encoder.embedding.weight":
            low, high = -1.0, 1.0
        else:
            low, high = -bound, bound
        value = g.uniform(low, high, shape).astype(np.float32)
        if name == "query_encoder.embedding.weight":
            value[0] = 0
        if name == "fcos.head.bbox_pred.bias":
            value = value + np.float32(1.5)
        state[name] = torch.from_numpy(value)
    return state


def encode_text(task: DRN, tokens: np.ndarray, lengths: np.ndarray) -> TextFeatures:
    text = task.text_encoder
    assert isinstance(text, WordLSTM)
    return text.forward_ids(torch.from_numpy(tokens), torch.from_numpy(lengths))


def forward(task: DRN, data: Arrays, prefix: str = "in/") -> DRNOutput:
    text = encode_text(task, data[f"{prefix}query_tokens"], data[f"{prefix}query_length"])
    clips = torch.from_numpy(data[f"{prefix}props_features"])
    bounds = torch.from_numpy(data[f"{prefix}props_start_end"]).float()
    return task.network(clips, bounds, torch.arange(len(clips)), text)


def by_level(output: DRNOutput, values: Tensor) -> list[Tensor]:
    return [values[:, output.levels == k] for k in range(int(output.levels.max()) + 1)]


def check_forward(task: DRN, data: Arrays, mode: str, rtol: float, atol: float) -> DRNOutput:
    """All intermediates that the file has for `mode`, then the head's outputs."""
    task.train(mode == "train")
    probe = copy.deepcopy(task)  # train-mode forwards move the batch norm statistics
    text = encode_text(probe, data["in/query_tokens"], data["in/query_length"])
    clips, bounds = (torch.from_numpy(data[f"in/{k}"]).float() for k in ("props_features", "props_start_end"))
    network = probe.network
    ours: dict[str, Tensor] = {"lstm_output": text.words}
    for k, q in enumerate(network.attention(text.words, text.mask)):
        ours[f"query_attended_{k}"] = q
        ours[f"query_projected_{k}"] = network.query_projection[k](q)
    ours["position_input"] = torch.cat([bounds, bounds[..., 1:] - bounds[..., :1]], -1)
    ours["position_feature"] = network.location_embedding(ours["position_input"])
    ours["video_projected"] = network.video_projection(clips)
    maps = network.fused_maps(clips, bounds, torch.arange(len(clips)), text)
    ours |= {f"C{k + 1}": m for k, m in enumerate(maps)}
    ours |= {f"P{k + 1}": m for k, m in enumerate(network.pyramid(maps))}
    output = forward(task, data)
    assert output.quality_logits is not None
    for k, (match, distance, quality) in enumerate(
        zip(
            by_level(output, output.match_logits),
            by_level(output, output.distances),
            by_level(output, output.quality_logits),
            strict=True,
        )
    ):
        ours |= {f"cls_logits_{k}": match[:, None], f"distances_{k}": distance.transpose(1, 2)}
        ours[f"iou_logits_{k}"] = quality[:, None]
    stored = {k.split("/", 1)[1]: v for k, v in data.items() if k.startswith(f"{mode}/") and k.count("/") == 1}
    assert set(stored) <= set(ours)
    for name, expected in stored.items():
        close(ours[name], expected, rtol, atol)
    return output


def check_losses(output: DRNOutput, data: Arrays, mode: str, rtol: float) -> None:
    losses = drn_losses(output, torch.from_numpy(data["in/gt_start_end"]).float(), RELEASED_LOSS)
    for stage in (1, 2, 3):
        prefix = f"{mode}/stage{stage}/loss_"
        if f"{prefix}cls" not in data:
            continue
        close(losses["match"], data[f"{prefix}cls"], rtol, 1e-6)
        close(losses["location"], data[f"{prefix}reg"], rtol, 1e-6)
        if stage > 1:
            close(losses["quality"], data[f"{prefix}iou"], rtol, 1e-6)
        if f"{prefix}total" in data:
            total = torch.stack([losses[name] for name in PAPER_STAGES[stage - 1].losses]).sum()
            close(total, data[f"{prefix}total"], rtol, 1e-6)


def check_boxes(output: DRNOutput, data: Arrays, rtol: float, atol: float) -> None:
    """Boxes before NMS, then NMS picks, per training stage."""
    for stage in (1, 2, 3):
        prefix = f"eval/stage{stage}/"
        if f"{prefix}num" not in data:
            continue
        found = decode(output, use_quality=stage > 1, empty_score=1.0)
        assert found.valid.sum(1).tolist() == data[f"{prefix}num"].tolist()
        close(found.boxes[found.valid], data[f"{prefix}boxes"], rtol, atol)
        close(found.scores[found.valid], data[f"{prefix}scores"], rtol, atol)
        levels = output.levels.expand_as(found.valid)[found.valid]
        kept = data[f"{prefix}levels"]
        assert levels[torch.from_numpy(kept >= 0)].tolist() == kept[kept >= 0].tolist()
        for key in [k for k in data if k.startswith(f"{prefix}nms_iou") and k.endswith("num")]:
            iou = float(key.removeprefix(f"{prefix}nms_iou").removesuffix("/num"))
            picks = nms(found.boxes, found.scores, iou - 0.05, found.valid)
            assert (picks >= 0).sum(1).tolist() == data[key].tolist()
            picked = torch.cat([found.boxes, found.scores[..., None]], -1).gather(
                1, picks.clamp(min=0)[..., None].expand(-1, -1, 3)
            )[picks >= 0]
            close(picked, data[key.replace("num", "kept")], rtol, atol)


def stage_gradients(task: DRN, data: Arrays, stage: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Total loss of a stage and the gradient of every parameter, under the released names."""
    task.enter_stage(stage - 1)
    task.train()
    losses = drn_losses(forward(task, data), torch.from_numpy(data["in/gt_start_end"]).float(), RELEASED_LOSS)
    total = torch.stack([losses[name] for name in task.stage.losses]).sum()
    task.zero_grad()
    total.backward()
    return total, {name: p.grad for name, p in task.named_parameters() if p.grad is not None}


def ours_by_their_name(named: dict[str, Tensor], theirs: str) -> Tensor:
    ours = released_name(theirs)
    assert ours is not None
    value = named[ours]
    return value[:-1] if ours == "text_encoder.embedding.weight" else value  # without our row for unknown words


@cases("model_small*.npz")
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_small_model_forward_losses_and_boxes(path: Path, mode: str) -> None:
    data = load(path)
    task = build(small_state(data))
    output = check_forward(task, data, mode, **FORWARD)
    check_losses(output, data, mode, rtol=1e-5)
    if mode == "eval":
        check_boxes(output, data, **FORWARD)


@cases("model_small*.npz")
def test_small_model_targets(path: Path) -> None:
    data = load(path)
    task = build(small_state(data)).eval()
    output = forward(task, data)
    moments = torch.from_numpy(data["in/gt_start_end"]).float()
    positive, distances = assign_targets(moments, output.locations, output.levels, output.num_clips, RELEASED_LOSS)
    for k, (label, distance) in enumerate(
        zip(by_level(output, positive), by_level(output, distances), strict=True)
    ):
        close(label.float(), data[f"target/labels_{k}"], 0, 0)
        close(distance, data[f"target/distances_{k}"], 1e-5, 1e-5)


@cases("model_small*.npz")
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_small_model_gradients(path: Path, stage: int) -> None:
    data = load(path)
    _, gradients = stage_gradients(build(small_state(data)), data, stage)
    prefix = f"train/stage{stage}/"
    names = [str(n) for n in data[f"{prefix}grad_norm_names"]]
    norms = torch.stack([ours_by_their_name(gradients, name).norm() for name in names])
    close(norms, data[f"{prefix}grad_norms"], rtol=1e-3, atol=1e-6)
    for key, expected in data.items():
        if key.startswith(f"{prefix}grad/"):
            close(ours_by_their_name(gradients, key.removeprefix(f"{prefix}grad/")), expected, **GRADIENT)


@cases("model_small*.npz")
def test_small_model_batch_norm_sees_levels_in_order(path: Path) -> None:
    data = load(path)
    task = build(small_state(data)).train()
    forward(task, data)
    named = dict(task.named_buffers())
    prefix = "train/bn_after_one_forward/"
    for key, expected in data.items():
        if key.startswith(prefix):
            close(ours_by_their_name(named, key.removeprefix(prefix)), expected, **FORWARD)


@cases("model_full_width*.npz")
def test_full_width_model(path: Path) -> None:
    data = load(path)
    task = build(seeded_state(full_shapes(data), seed_of(path) + 20))
    for mode in ("eval", "train"):
        if not any(k.startswith(f"{mode}/") for k in data):
            continue
        output = check_forward(task, data, mode, rtol=1e-3, atol=1e-3)
        check_losses(output, data, mode, rtol=1e-3)
        if mode == "eval":
            check_boxes(output, data, rtol=1e-3, atol=1e-4)


@cases("model_full_width*.npz")
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_full_width_gradient_norms(path: Path, stage: int) -> None:
    data = load(path)
    prefix = f"train/stage{stage}/"
    if f"{prefix}grad_norms" not in data:
        pytest.skip(f"{path.name} holds no gradients of stage {stage}")
    task = build(seeded_state(full_shapes(data), seed_of(path) + 20))
    _, gradients = stage_gradients(task, data, stage)
    names = [str(n) for n in data[f"{prefix}grad_norm_names"]]
    norms = torch.stack([ours_by_their_name(gradients, name).norm() for name in names])
    expected = data[f"{prefix}grad_norms"]
    close(norms, expected, rtol=1e-3, atol=1e-5 * float(expected.max()))


def run_stage(
    task: DRN, data: Arrays, stage: int, lr: float, pile_up: bool = False
) -> tuple[np.ndarray, list[float]]:
    """Optimiser steps of one stage as the released program takes them; returns losses and gradient norms."""
    task.enter_stage(stage - 1)
    task.train()
    task.zero_grad()
    optimised = [p for p in task.parameters() if p.requires_grad]
    if pile_up:  # the released bug: parameters outside the optimiser are neither frozen nor zeroed
        for p in task.trainable_parts()["all"]:
            p.requires_grad_(True)
    clipped = [p for p in task.trainable_parts()["all"]] if pile_up else optimised
    optimizer = torch.optim.Adam(optimised, lr=lr)
    rows, norms = [], []
    steps = 1 + max(int(k.split("/")[1]) for k in data if k.startswith("in/"))
    for i in range(steps):
        truth = data[f"in/{i}/gt_start_end" if stage == 1 else f"in_stage23/{i}/gt_start_end"]
        losses = drn_losses(forward(task, data, f"in/{i}/"), torch.from_numpy(truth).float(), RELEASED_LOSS)
        total = torch.stack([losses[name] for name in task.stage.losses]).sum()
        optimizer.zero_grad()
        total.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(clipped, 0.5)))
        optimizer.step()
        iou = losses["quality"].item() if stage > 1 else 0.0
        rows.append([losses["match"].item(), losses["location"].item(), iou])
    return np.array(rows), norms


# A bias in front of a batch norm or a softmax has a gradient of exactly zero; what is computed is rounding noise,
# which Adam scales up to steps of the learning rate. Two correct programs differ by that much in these biases,
# and in the running means that follow them.
NOISY = (
    *(f"fcos.head.{m}.0.bias" for m in ("cls_tower", "bbox_tower", "mix_fc", "iou_scores")),
    *(f"fcos.head.{m}.1.running_mean" for m in ("cls_tower", "bbox_tower", "mix_fc", "iou_scores")),
    "query_encoder.cmd_inter2logits.bias",
)


def check_end(task: DRN, data: Arrays, name: str, lr: float, steps: int) -> None:
    named = dict(task.named_parameters()) | dict(task.named_buffers())
    noise = 2 * 1e-3 * steps  # gathered in stage 1 and carried on
    prefix = f"{name}/param_end/"
    for key, expected in data.items():
        if key.startswith(prefix):
            theirs = key.removeprefix(prefix)
            atol = noise if theirs in NOISY else 0.02 * lr + 1e-6
            close(ours_by_their_name(named, theirs), expected, 1e-3, atol)
    names = [str(n) for n in data[f"{name}/param_l2_names"]]
    for theirs, expected in zip(names, data[f"{name}/param_l2"], strict=True):
        if released_name(theirs) is None:
            continue  # a module that the released code builds and never uses
        value = ours_by_their_name(named, theirs)
        atol = noise * value.numel() ** 0.5 if theirs in NOISY else 1e-5
        close(value.double().norm(), expected, 1e-4, atol)


@cases("train_trajectory*.npz")
def test_training_trajectory(path: Path) -> None:
    """Six Adam steps per stage; stage 2 both truly frozen and with the released gradient pile-up."""
    data = load(path)
    task = build(small_state(data, "param_start/"))
    for stage, lr in ((1, 1e-3), (2, 1e-5), (3, 1e-7)):
        if stage == 2 and "stage2_clean/losses_cls_reg_iou" in data:
            clean = copy.deepcopy(task)
            losses, norms = run_stage(clean, data, 2, lr)
            np.testing.assert_allclose(losses, data["stage2_clean/losses_cls_reg_iou"], rtol=1e-3, atol=1e-5)
            np.testing.assert_allclose(norms, data["stage2_clean/grad_norm_before_clip"], rtol=1e-3)
            check_end(clean, data, "stage2_clean", lr, len(losses))
        losses, norms = run_stage(task, data, stage, lr, pile_up=stage == 2)
        np.testing.assert_allclose(losses, data[f"stage{stage}/losses_cls_reg_iou"], rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(norms, data[f"stage{stage}/grad_norm_before_clip"], rtol=2e-3)
        check_end(task, data, f"stage{stage}", lr, len(losses))


@cases("targets*.npz")
def test_targets(path: Path) -> None:
    data = load(path)
    locations, levels = torch.from_numpy(data["locations"]), torch.from_numpy(data["level"])
    num_clips = int((levels == 0).sum())
    positive, distances = assign_targets(torch.from_numpy(data["gt"]), locations, levels, num_clips, RELEASED_LOSS)
    close(positive.float(), data["labels"], 0, 0)
    close(distances, data["distances"], 1e-6, 1e-5)


@cases("losses*.npz")
def test_elementary_losses(path: Path) -> None:
    data = load(path)
    pred = torch.from_numpy(data["iou_loss/pred"]).requires_grad_()
    loss = interval_iou_loss(pred, torch.from_numpy(data["iou_loss/target"]))
    loss.mean().backward()
    close(loss.mean(), data["iou_loss/loss_mean"], 1e-5, 1e-6)
    close(pred.grad, data["iou_loss/grad_pred"], **GRADIENT)
    weight = torch.from_numpy(data["iou_loss/weight"])
    close((loss * weight).sum() / weight.sum(), data["iou_loss/loss_weighted"], 1e-5, 1e-6)
    logits = torch.from_numpy(data["focal/logits"]).requires_grad_()
    focal = sigmoid_focal_loss(logits, torch.from_numpy(data["focal/labels"]).reshape(logits.shape)).sum()
    focal.backward()
    close(focal, data["focal/loss_sum"], 1e-5, 1e-5)
    close(logits.grad, data["focal/grad"], **GRADIENT)
    iou = tiou(torch.from_numpy(data["tiou/a"]), torch.from_numpy(data["tiou/b"]))
    close(iou, data["tiou/iou"], 1e-6, 1e-7)


@cases("losses*.npz")
def test_losses_on_raw_head_outputs(path: Path) -> None:
    data = load(path)
    levels = sorted(int(k.rsplit("_", 1)[1]) for k in data if k.startswith("all/cls_logits_"))
    lengths = [data[f"all/cls_logits_{k}"].shape[-1] for k in levels]
    quality = [torch.from_numpy(data[f"all/iou_logits_{k}"]).requires_grad_() for k in levels]
    distances = [torch.from_numpy(data[f"all/distances_{k}"]).requires_grad_() for k in levels]
    output = DRNOutput(
        torch.cat([torch.from_numpy(data[f"all/cls_logits_{k}"])[:, 0] for k in levels], 1),
        torch.cat([d.transpose(1, 2) for d in distances], 1),
        torch.cat([q[:, 0] for q in quality], 1),
        torch.cat([2.0**k * (torch.arange(n) + 0.5) for k, n in zip(levels, lengths, strict=True)]),
        torch.cat([torch.full((n,), k) for k, n in zip(levels, lengths, strict=True)]),
        lengths[0],
    )
    losses = drn_losses(output, torch.from_numpy(data["all/gt"]), RELEASED_LOSS)
    close(losses["match"], data["all/loss_cls"], 1e-5, 1e-6)
    close(losses["location"], data["all/loss_reg"], 1e-5, 1e-6)
    close(losses["quality"], data["all/loss_iou"], 1e-5, 1e-6)
    losses["quality"].backward()
    for k, q, d in zip(levels, quality, distances, strict=True):
        close(q.grad, data[f"all/grad_of_loss_iou/iou_logits_{k}"], **GRADIENT)
        close(d.grad, data[f"all/grad_of_loss_iou/distances_{k}"], **GRADIENT)


@cases("metric*.json")
def test_nms_and_recall(path: Path) -> None:
    golden = json.loads(path.read_text())
    queries = golden["queries"]
    for query in queries:
        ordered = torch.tensor(sorted(query["predictions"], key=lambda p: -p[2]))
        assert ordered.tolist() == torch.tensor(query["sorted_predictions"]).tolist()
        for iou, expected in query["nms_picks_into_sorted"].items():
            picks = nms(ordered[None, :, :2].double(), ordered[None, :, 2], float(iou) - 0.05)[0]
            assert picks[picks >= 0].tolist() == expected
    L = max(len(q["predictions"]) for q in queries)
    boxes, scores, valid = (
        torch.zeros(len(queries), L, 2),
        torch.zeros(len(queries), L),
        torch.zeros(len(queries), L),
    )
    for b, query in enumerate(queries):
        p = torch.tensor(query["predictions"])
        boxes[b, : len(p)], scores[b, : len(p)], valid[b, : len(p)] = p[:, :2], p[:, 2], 1
    truth = torch.tensor([q["gt"] for q in queries])
    ious = sorted({float(k.split("_")[0].removeprefix("iou")) for k in golden["recall"]})
    top = sorted({int(name.removeprefix("R@")) for values in golden["recall"].values() for name in values})
    with_nms, without = MomentRecall(top, ious), MomentRecall(top, ious, suppress=None)
    for suffix, metric in (("nms", with_nms), ("nonms", without)):
        metric.update(boxes.double(), scores, valid.bool(), truth.double(), torch.arange(len(queries)))
        values = metric.compute()
        for iou in ious:
            for key, expected in golden["recall"][f"iou{iou:g}_{suffix}"].items():
                n = int(key.removeprefix("R@"))
                assert float(values[f"R{n}@{iou:g}"]) == pytest.approx(100 * expected, abs=1e-4)


@cases("pooling*.npz")
def test_pooling(path: Path) -> None:
    data = load(path)
    for case in sorted({k.split("/")[0] for k in data}, key=int):
        get = {k.split("/", 1)[1]: v for k, v in data.items() if k.startswith(f"{case}/")}
        num_frames = int(get["num_frames"])
        pooling = ClipPooling(num_clips=len(get["proposals_frames"]), reduce="max")
        assert pooling.frame_bounds(num_frames).tolist() == get["proposals_frames"].tolist()
        np.testing.assert_allclose(pooling.bounds(num_frames), get["props_start_end"], rtol=1e-12)
        spec = FrameSpec(fps=None, window=16, stride=8, size=None)
        np.testing.assert_array_equal(pooling.pool(get["clip_features"], num_frames, spec), get["props_features"])


def test_the_golden_folder_is_read() -> None:
    folder = golden_folder("drn")
    if not folder.is_dir() and "GROUNDZOO_GOLDEN" not in os.environ:
        pytest.skip(f"{folder} does not exist (set GROUNDZOO_GOLDEN or GROUNDZOO_SHARED)")
    assert list(folder.glob("*.npz")), f"{folder} holds no golden files"
