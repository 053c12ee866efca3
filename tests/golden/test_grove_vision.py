"""GROVE's adapters, pooling, box decoder, heads and box losses against the authors' program."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_files import golden_cases
from torch import Tensor

from groundzoo.zoo.adapters import SpatioTemporalAdapter, pool_grid
from groundzoo.zoo.box_decoder import BoxDecoder
from groundzoo.zoo.box_losses import box_losses, giou_loss

pytestmark = pytest.mark.golden
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def cases(pattern: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", golden_cases("grove", pattern), ids=lambda p: p.stem)


def load(path: Path) -> dict[str, Tensor]:
    with np.load(path, allow_pickle=False) as stored:
        return {name: torch.from_numpy(stored[name]) for name in stored.files}


def adapter_of(case: dict[str, Tensor]) -> SpatioTemporalAdapter:
    adapter = SpatioTemporalAdapter(len(case["bias"]))
    alpha = case["alpha"].reshape(1)
    adapter.load_state_dict({"conv.weight": case["weight"], "conv.bias": case["bias"], "alpha": alpha})
    return adapter


@torch.no_grad()
@cases("adapter_official*.npz")
def test_adapter_between_frames_of_clips(path: Path) -> None:
    case = load(path)
    frames = int(case["num_frames"])
    found = adapter_of(case)(case["x_bt_h_w_c"].unflatten(0, (-1, frames)))
    torch.testing.assert_close(found.flatten(0, 1), case["y_bt_h_w_c"], **CLOSE)


@torch.no_grad()
@cases("adapter_generic*.npz")
def test_adapter_of_any_shape(path: Path) -> None:
    case = load(path)
    found = adapter_of(case)(case["x_b_c_t_h_w"].movedim(1, -1))
    torch.testing.assert_close(found, case["y"].movedim(1, -1), **CLOSE)


@cases("pooling_*.npz")
def test_pooling(path: Path) -> None:
    case = load(path)
    times, rows, columns = (int(n) for n in re.findall(r"\d+", path.stem)[:3])
    x, y = case["x_bt_hw_c"], next(v for k, v in case.items() if k.startswith("y_"))
    side = round(x.shape[1] ** 0.5)
    grid = x.unflatten(1, (side, side)).unflatten(0, (len(y), -1))
    torch.testing.assert_close(pool_grid(grid, (times, rows, columns)).flatten(1, 3), y, **CLOSE)


def ours(name: str) -> str:
    """The name that one of SAM's parameters has here."""
    name = name.removeprefix("param.").replace("bbox_prediction_head", "box_head")
    name = name.replace("temporal_objectness_head", "objectness_head").replace("norm_final", "layer_norm_final")
    return re.sub(r"\.norm(\d)", r".layer_norm\1", name)


def decoder_of(case: dict[str, Tensor]) -> BoxDecoder:
    state = {ours(name): value for name, value in case.items() if name.startswith("param.")}
    inner, dim = state["transformer.layers.0.cross_attn_token_to_image.q_proj.weight"].shape
    config = {
        "hidden_size": dim,
        "mlp_dim": len(state["transformer.layers.0.mlp.lin1.weight"]),
        "num_hidden_layers": len({name.split(".")[2] for name in state if ".layers." in name}),
        "num_attention_heads": int(case.get("num_heads", torch.tensor(4))),
        "attention_downsample_rate": dim // inner,
        "num_multimask_outputs": len(state["mask_tokens.weight"]) - 1,
    }
    decoder = BoxDecoder("checkpoint", config={"model_type": "sam", "mask_decoder_config": config}).eval()
    state |= {"no_mask": case["no_mask_embed"], "positions": decoder.positions}
    decoder.load_state_dict(state)  # strictly: nothing is left over, nothing is missing
    return decoder


@torch.no_grad()
@cases("box_decoder*.npz")
def test_box_decoder(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every frame has objects of its own here, so each is a clip of one frame."""
    case = load(path)
    decoder = decoder_of(case)
    monkeypatch.setattr(decoder, "position_encoding", lambda h, w: case["image_pe"])
    image = case["image_embeddings"].permute(0, 2, 3, 1)
    frame = torch.arange(len(image)).repeat_interleave(case["reps"])
    queries = case["queries"][:, 0]
    torch.testing.assert_close(decoder.states(queries, image[frame]), case["token_states"][:, -1], **CLOSE)
    found = decoder(queries, image[:, None], frame)
    assert found.logits is not None
    torch.testing.assert_close(found.boxes[:, 0], case["boxes_cxcywh"], **CLOSE)
    torch.testing.assert_close(found.logits[:, 0], case["objectness_logits"], **CLOSE)


@torch.no_grad()
@cases("heads*.npz")
def test_heads(path: Path) -> None:
    case = load(path)
    config = {"hidden_size": case["o_b_t_n_d"].shape[-1], "num_attention_heads": 2}
    decoder = BoxDecoder("checkpoint", config={"model_type": "sam", "mask_decoder_config": config})
    names = {"box_head.0": ("w1", "b1"), "box_head.2": ("w2", "b2"), "objectness_head": ("wo", "bo")}
    state = {f"{k}.weight": case[weight] for k, (weight, _) in names.items()}
    state |= {f"{k}.bias": case[bias] for k, (_, bias) in names.items()}
    assert not decoder.load_state_dict(state, strict=False).unexpected_keys
    found = decoder.heads(case["o_b_t_n_d"])
    assert found.logits is not None
    torch.testing.assert_close(found.boxes, case["box"], **CLOSE)
    torch.testing.assert_close(found.logits, case["obj_logit"], **CLOSE)
    torch.testing.assert_close(found.visible, case["obj_logit"].sigmoid(), **CLOSE)


@cases("losses*.npz")
@pytest.mark.parametrize("objectness", [True, False])
def test_losses(path: Path, objectness: bool) -> None:
    case = load(path)
    parts = []
    for i in range(int(case["n_clips"])):
        pred, truth, visible, logits = (
            case[f"{name}{i}"].transpose(0, 1) for name in ("pred", "gt", "vis", "logit")
        )
        parts.append(box_losses(pred, logits if objectness else None, truth, visible > 0.5))
    giou, l1, boxes, pairs = (sum(getattr(p, k) for p in parts) for k in ("giou", "l1", "boxes", "pairs"))
    out, weight = "out" if objectness else "out_noobj", case["w_giou_l1"].float()
    losses = {"giou_loss": weight * giou / boxes, "l1_loss": weight * l1 / boxes}
    seen = [p.objectness for p in parts if p.objectness is not None]
    assert len(seen) == (len(parts) if objectness else 0)
    if objectness:
        losses["temp_objectness_loss"] = case["w_obj"].float() * sum(seen) / pairs
    for name, value in losses.items():
        torch.testing.assert_close(value, case[f"{out}.{name}"], **CLOSE)
    total = torch.stack(list(losses.values())).sum() + (case["w_ce"] * case["ce"]).float()
    torch.testing.assert_close(total, case[f"{out}.loss"], **CLOSE)


@cases("giou_*.npz")
def test_giou(path: Path) -> None:
    case = load(path)
    torch.testing.assert_close(giou_loss(case["a_xyxy"], case["b_xyxy"]), case["loss_T_N"], **CLOSE)
