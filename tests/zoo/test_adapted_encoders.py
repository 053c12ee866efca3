"""CLIP and SAM with adapters: what they are without, who sees whom, what learns, and how frames are padded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import encoder_checks as checks
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groundzoo.tasks.base import Step, Task
from groundzoo.tasks.schedules import Stage
from groundzoo.zoo.video.adapted_clip import AdaptedCLIP
from groundzoo.zoo.video.adapted_sam import AdaptedSAM
from groundzoo.zoo.video.base import FrameSpec, VideoEncoder, crop_or_pad
from groundzoo.zoo.video.pixel_grid import PixelGrid
from groundzoo.zoo.video.published import IMAGENET_MEAN

T = 4
TOWER = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
CLIP = {**TOWER, "model_type": "clip_vision_model", "intermediate_size": 64, "image_size": 32, "patch_size": 8}
SAM = {
    **TOWER,
    **{"model_type": "sam_vision_model", "mlp_dim": 64, "image_size": 64, "patch_size": 8, "window_size": 4},
    **{"output_channels": 16, "global_attn_indexes": [1, 3], "num_pos_feats": 8, "initializer_range": 0.1},
}
KINDS = ["clip", "sam"]


def make(kind: str, trainable: bool = True, awake: bool = False, **options: Any) -> Any:
    """A tiny encoder; `awake` opens its adapters and fills tables that start at zero."""
    train = "adapters" if trainable else "none"
    options = {"weights": "random", "frames": T, "train": train, **options}
    if kind == "clip":
        encoder: Any = AdaptedCLIP(**{"config": CLIP, **options})
    else:
        encoder = AdaptedSAM(**{"config": SAM, "size": 48, **options})
    if awake:
        g = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, p in encoder.named_parameters():
                if "alpha" in name:
                    p.fill_(0.5)
                elif "pos" in name:
                    p += (0.5 * torch.randn(p.shape, generator=g)).to(p.dtype)
    return encoder


def each(kind: str) -> Callable[..., VideoEncoder]:
    return lambda **options: make(kind, **{"trainable": False, "awake": True, **options})


def learned(encoder: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in encoder.named_parameters() if p.requires_grad}


def backward(encoder: VideoEncoder, clip: Tensor) -> Tensor:
    grid = encoder(clip).grid
    assert grid is not None
    weights = torch.linspace(-1, 1, grid.numel()).view_as(grid)
    (grid * weights).sum().backward()
    return grid.detach()


# ---- without adapters, and with adapters at the start ----------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("adapters", [[], 1])
def test_clip_is_the_image_model_at_first(adapters: Any, tmp_path: Path) -> None:
    """Patches of the layer before the last, from a folder of both towers."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(3)
    words = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    whole = CLIPModel(CLIPConfig(vision_config=CLIP, text_config={**words, "vocab_size": 50})).eval()
    whole.save_pretrained(tmp_path)
    encoder = make("clip", weights=tmp_path, config=None, adapters=adapters)
    clip = checks.video(T, batch=2, height=32, width=32)
    pixels = encoder.normalise(clip).flatten(0, 1)
    states = whole.vision_model(pixels, output_hidden_states=True).hidden_states
    out = encoder(clip)
    torch.testing.assert_close(out.grid.flatten(0, 1).flatten(1, 2), states[-2][:, 1:], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out.frames, out.grid.mean((2, 3)))
    assert encoder.spec.resize == 32  # the shorter side, before the middle is cut out
    assert (encoder.dim, encoder.grid) == (32, (4, 4, 32))


@torch.no_grad()
@pytest.mark.parametrize("adapters", [[], None])
def test_sam_is_the_image_encoder_at_first(adapters: Any, tmp_path: Path) -> None:
    from transformers import SamConfig, SamModel

    torch.manual_seed(3)
    parts = {"mask_decoder_config": {"hidden_size": 16, "mlp_dim": 16, "num_attention_heads": 2}}
    prompts = {"hidden_size": 16, "image_size": 64, "patch_size": 8}
    whole = SamModel(SamConfig(vision_config=SAM, prompt_encoder_config=prompts, **parts)).eval()
    for name, p in whole.vision_encoder.named_parameters():
        if "pos" in name:
            p.copy_(torch.randn(p.shape))
    whole.save_pretrained(tmp_path)
    encoder = make("sam", weights=tmp_path, config=None, size=None, adapters=adapters)
    clip = checks.video(T, batch=2, height=64, width=64)
    expected = whole.get_image_embeddings(encoder.normalise(clip).flatten(0, 1)).permute(0, 2, 3, 1)
    torch.testing.assert_close(encoder(clip).grid.flatten(0, 1), expected, rtol=1e-5, atol=1e-5)
    assert encoder.grid == (8, 8, 16)
    assert encoder.resized == []


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapters_are_the_identity_at_first(kind: str, dtype: str) -> None:
    clip = checks.video(T, batch=2)
    plain, adapted = (make(kind, dtype=dtype, adapters=a) for a in ([], [0, 1, 2]))
    assert torch.equal(plain(clip).grid.float(), adapted(clip).grid.float())
    nn.init.constant_(adapted.adapters["1"].alpha, 0.5)
    assert not torch.equal(plain(clip).grid.float(), adapted(clip).grid.float())


# ---- where adapters are ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "wanted", "found"),
    [
        *(("clip", 3, "0"), ("clip", 2, "02"), ("clip", 1, "012"), ("clip", [2], "2"), ("clip", [], "")),
        *(("sam", None, "13"), ("sam", [0], "0"), ("sam", [], "")),
    ],
)
def test_places(kind: str, wanted: Any, found: str) -> None:
    encoder = make(kind, adapters=wanted)
    assert "".join(encoder.adapters) == found
    assert encoder.trainable == bool(found or kind == "sam")  # SAM's resized tables learn in any case


@pytest.mark.parametrize(("kind", "wanted"), [("clip", [3]), ("clip", [0, 0]), ("clip", 0), ("sam", [4])])
def test_places_that_there_are_not(kind: str, wanted: Any) -> None:
    """CLIP's last layer is taken out: nothing of it is read."""
    with pytest.raises(ValueError, match="adapters="):
        make(kind, adapters=wanted)


@torch.no_grad()
def test_cells_keep_their_places_in_adapters() -> None:
    """Also of pictures that are no squares; the class token passes by."""
    shape = {"size": {"height": 24, "width": 40}, "do_center_crop": False}
    encoder = make("clip", adapters=[0], preprocessor=shape)
    assert encoder.grid == (3, 5, 32)
    seen: list[Tensor] = []
    encoder.adapters["0"].register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0]))
    clip = checks.video(T, batch=2, height=24, width=40)
    grid = encoder(clip).grid
    assert grid.shape == (2, T, 3, 5, 32)
    tokens = encoder.network.embeddings(encoder.normalise(clip).flatten(0, 1), interpolate_pos_encoding=True)
    tokens = encoder.network.encoder.layers[0](encoder.network.pre_layrnorm(tokens), None)
    for n, t, row, column in ((0, 0, 0, 0), (1, 2, 2, 3), (0, 3, 1, 4)):
        expected = tokens[n * T + t, 1 + 5 * row + column]
        torch.testing.assert_close(seen[0][n, t, row, column], expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_frames_see_the_others_of_their_clip(kind: str) -> None:
    clip = checks.video(T, batch=2)
    changed = clip.clone()
    changed[0, 1] = 255 - changed[0, 1]
    for awake in (False, True):
        encoder = make(kind, awake=awake)
        moved = (encoder(changed).grid - encoder(clip).grid).abs().amax((2, 3, 4))
        assert moved[0, 1] > 1e-3
        assert bool(moved[0, 0] > 1e-4) == awake
        assert bool(moved[0, 2] > 1e-4) == awake
        assert moved[1].max() < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_a_batch_are_independent(kind: str) -> None:
    checks.check_rows(each(kind), 2 * T)


@pytest.mark.parametrize("kind", KINDS)
def test_any_length(kind: str) -> None:
    """A pass has T frames; the last one repeats its last frame, and passes share nothing."""
    encoder = each(kind)()
    assert encoder.spec.context == encoder.spec.pass_frames == T
    for frames in (1, T - 1, T, T + 2, 2 * T):
        clip = checks.video(frames)
        out = encoder(clip).grid
        assert encoder.grid is not None
        assert out is not None
        assert out.shape == (1, frames, *encoder.grid)
        missing = -frames % T
        filled = torch.cat([clip, clip[:, -1:].expand(-1, missing, -1, -1, -1)], dim=1)
        whole = torch.cat([encoder(part).grid for part in filled.split(T, dim=1)], dim=1)
        torch.testing.assert_close(out, whole[:, :frames], rtol=1e-4, atol=1e-5)
    short = encoder.encode(encoder.normalise(encoder.fit(checks.video(3))))
    assert short.frames.shape == (1, 3, encoder.dim)


@pytest.mark.parametrize("kind", KINDS)
def test_random_ones_start_equal(kind: str) -> None:
    checks.check_reproducible(each(kind))


# ---- learning --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_everything_that_learns_has_a_gradient(kind: str, dtype: str) -> None:
    """Through frozen layers, which have none; at the start every alpha, later every convolution too."""
    for awake in (False, True):
        encoder = make(kind, awake=awake, dtype=dtype, **({"adapters": 1} if kind == "clip" else {}))
        parts = learned(encoder)
        assert {name.split(".")[0] for name in parts} == {"adapters"} | ({"network"} if kind == "sam" else set())
        assert {p.dtype for p in parts.values()} == {torch.float32}
        frozen = {name: p for name, p in encoder.named_parameters() if name not in parts}
        assert {p.dtype for p in frozen.values()} == {getattr(torch, dtype)}
        grid = backward(encoder, checks.video(T, batch=2))
        assert grid.dtype == torch.float32
        assert not [name for name, p in frozen.items() if p.grad is not None]
        for name, p in parts.items():
            assert p.grad is not None, name
            assert torch.isfinite(p.grad).all(), name
            assert p.grad.any() or not (awake or "alpha" in name), name


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_is_about_the_same(kind: str) -> None:
    checks.check_bfloat16(each(kind), T)
    exact, rough = (backward(make(kind, awake=True, dtype=d), checks.video(T)) for d in ("float32", "bfloat16"))
    torch.testing.assert_close(rough, exact, rtol=0.1, atol=0.05 * float(exact.abs().max()))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_learns(kind: str) -> None:
    encoder = make(kind, trainable=False)
    encoder.train()
    assert not encoder.trainable
    assert not learned(encoder)
    assert not any(m.training for m in encoder.modules())
    assert not encoder(checks.video(T)).frames.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_checkpointing(kind: str) -> None:
    """The same gradients from fewer values that are kept."""
    checks.check_checkpointing_is_used(lambda **o: make(kind, awake=True, **o), T)
    found = []
    for on in (False, True):
        encoder = make(kind, awake=True, gradient_checkpointing=on)
        grid = backward(encoder, checks.video(T, batch=2))
        found.append((grid, {name: p.grad for name, p in learned(encoder).items()}))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


class Bare(Task):
    """A task that does nothing with its encoders."""

    def step(self, batch: Any, stage: Literal["train", "val", "test", "predict"]) -> Step:
        return Step({}, None)

    def metric(self, stage: Literal["val", "test"]) -> Any:
        raise NotImplementedError

    def update_metric(self, metric: Any, outputs: Any, batch: Any) -> None:
        raise NotImplementedError

    def predictions(self, outputs: Any, batch: Any) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize("kind", KINDS)
def test_stages_leave_frozen_parts_frozen(kind: str) -> None:
    encoder, stages = make(kind), (Stage(losses=()), Stage(losses=(), train="network"))
    names = set(learned(encoder))
    task = Bare(stages, {"video_encoder": encoder})
    task.network = nn.Linear(2, 2)
    for index, expected in ((0, names), (1, set()), (0, names)):
        task.enter_stage(index)
        assert set(learned(encoder)) == expected
        assert all(p.requires_grad for p in task.network.parameters())
    groups = task._parameter_groups()
    assert sum(len(group["params"]) for group in groups) == len(names) + 2
    whole = Bare(stages, {"video_encoder": PixelGrid(4)})
    whole.network = nn.Linear(2, 2)
    assert whole.trainable_parts().keys() == {"all", "network"}


# ---- position tables -------------------------------------------------------------------------------------


@torch.no_grad()
def test_position_tables_are_resized(tmp_path: Path) -> None:
    from transformers import SamVisionConfig, SamVisionModel

    own = SamVisionModel(SamVisionConfig(**{k: v for k, v in SAM.items() if k != "model_type"}))
    for name, p in own.named_parameters():
        if "pos" in name:
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name))))
    own.save_pretrained(tmp_path)
    encoder = make("sam", weights=tmp_path, config=None, size=40)
    before, after = own.vision_encoder, encoder.network
    table = before.pos_embed.movedim(-1, 1)
    smaller = F.interpolate(table, (5, 5), mode="bicubic", align_corners=False).movedim(1, -1)
    torch.testing.assert_close(after.pos_embed, smaller)
    for i in range(4):
        for name in ("rel_pos_h", "rel_pos_w"):
            old, new = (getattr(network.layers[i].attn, name) for network in (before, after))
            if i in (0, 2):  # windows keep their size
                assert torch.equal(old, new)
                continue
            assert new.shape == (9, 8)
            torch.testing.assert_close(new[[0, 4, 8]], old[[0, 7, 14]])  # corners lie on corners
            line = F.interpolate(old.T[None, :, None], (1, 9), mode="bicubic", align_corners=True)
            torch.testing.assert_close(new, line[0, :, 0].T)
    tables = {"pos_embed", *(f"layers.{i}.attn.rel_pos_{x}" for i in (1, 3) for x in "hw")}
    assert set(encoder.resized) == tables
    assert {name for name in learned(encoder) if "pos" in name} == {f"network.{name}" for name in tables}
    assert encoder(checks.video(T)).grid.shape == (1, T, 5, 5, 16)


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_needs_no_files(kind: str) -> None:
    """And learns the same parts, in the same types."""
    encoder = make(kind, awake=True, size=48, dtype="bfloat16")
    again = type(encoder)(**{**encoder.settings, **encoder.rebuild_arguments()})
    again.load_state_dict(encoder.state_dict())
    clip = checks.video(T)
    assert torch.equal(again(clip).grid, encoder(clip).grid)
    assert learned(again).keys() == learned(encoder).keys()
    assert [p.dtype for p in again.parameters()] == [p.dtype for p in encoder.parameters()]
    assert again.spec == encoder.spec


def test_without_memory() -> None:
    """The encoders of the paper: 8 and 4 adapters, and as many parameters as it takes."""
    big = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    huge = {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16, "mlp_dim": 5120}
    with torch.device("meta"):
        clip = make("clip", config={**CLIP, **big, "image_size": 336, "patch_size": 14}, dtype="bfloat16")
        config = {"model_type": "sam_vision_model", **huge, "global_attn_indexes": [7, 15, 23, 31]}
        sam = make("sam", config=config, size=512)
    assert {p.device.type for e in (clip, sam) for p in e.parameters()} == {"meta"}
    assert (clip.grid, sam.grid) == ((24, 24, 1024), (32, 32, 256))
    conv = {dim: 27 * dim * dim + dim + 1 for dim in (1024, 1280)}
    assert list(clip.adapters) == ["0", "3", "6", "9", "12", "15", "18", "21"]
    assert sum(p.numel() for p in clip.learned_parameters()) == 8 * conv[1024]
    assert list(sam.adapters) == ["7", "15", "23", "31"]
    tables = 32 * 32 * 1280 + 8 * 63 * 80
    assert sum(p.numel() for p in sam.learned_parameters()) == 4 * conv[1280] + tables


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("clip", {"config": SAM}, "sam_vision_model, and not CLIP"),
        ("sam", {"config": CLIP}, "clip_vision_model, and not SAM"),
        ("clip", {"size": 30}, "multiples of 8"),
        ("sam", {"size": 30}, "multiples of 8"),
        ("sam", {"weights": "nobody/nothing", "config": None}, "are not on this machine"),
    ],
)
def test_mistakes(kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(kind, **options)


# ---- padding ---------------------------------------------------------------------------------------------

PADDED = FrameSpec(5.0, 1, 1, (48, 48), mean=IMAGENET_MEAN, std=(0.229, 0.224, 0.225), pad=True)


@pytest.mark.parametrize(
    ("height", "width", "resized"),
    [(360, 640, (27, 48)), (640, 360, (48, 27)), (24, 24, (48, 48)), (48, 1, (48, 1)), (1, 4000, (1, 48))],
)
def test_the_longer_side_becomes_that_of_the_square(height: int, width: int, resized: tuple[int, int]) -> None:
    assert PADDED.decoded_size(height, width) == resized
    assert PADDED.crop(*resized) == (slice(None), slice(None))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("size", [(27, 48), (48, 20), (48, 48)])
def test_the_rest_is_about_zero_to_the_network(size: tuple[int, int], dtype: torch.dtype) -> None:
    frames = torch.full((2, 3, 3, *size), 200, dtype=torch.uint8)
    frames = frames if dtype == torch.uint8 else frames / 255
    padded = crop_or_pad(frames, PADDED)
    assert padded.dtype == dtype
    assert padded.shape == (2, 3, 3, 48, 48)
    assert torch.equal(padded[..., : size[0], : size[1]], frames)
    encoder = make("sam")
    seen = encoder.normalise(padded)
    rest = torch.ones(48, 48, dtype=torch.bool)
    rest[: size[0], : size[1]] = False
    assert seen[..., rest].abs().sum() <= (0.01 if dtype == torch.uint8 else 1e-6) * seen[..., rest].numel()
    assert seen[..., ~rest].min() > 1


def test_frames_are_fitted_once() -> None:
    """As a decoder gives them and as files have them, the same picture; cells lie where things are."""
    encoder = make("sam", awake=True)
    assert encoder.spec == FrameSpec(**{**vars(PADDED), "context": T})
    wide = torch.full((1, T, 3, 60, 120), 90, dtype=torch.uint8)
    wide[..., 40:, 100:] = 255
    fitted = encoder.fit(wide)
    assert fitted.shape == (1, T, 3, 48, 48)
    assert torch.equal(fitted, encoder.fit(fitted))
    assert torch.equal(fitted, encoder.fit(fitted[..., :24, :]))
    assert (fitted[..., 17:24, 41:] > 240).all()
    assert (fitted[..., :15, :] < 100).all()
    assert torch.equal(encoder(wide).grid, encoder(fitted).grid)


@pytest.mark.parametrize(
    "wrong",
    [{"size": (48, 40)}, {"size": None}, {"size": (48, 48), "resize": 48}, {"size": (48, 48), "resize": (50, 50)}],
)
def test_only_squares_are_filled_up(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="pad fills a square"):
        FrameSpec(5.0, 1, 1, pad=True, **wrong)


def test_crops_stay_crops() -> None:
    spec = FrameSpec(5.0, 1, 1, (4, 6), resize=(8, 10))
    frames = torch.arange(80.0).view(1, 8, 10).expand(3, -1, -1)
    assert torch.equal(crop_or_pad(frames, spec), frames[:, 2:6, 2:8])
