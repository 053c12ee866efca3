"""Attention between cells and words: all pairs against one at a time on full tokens, and what may not matter."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from groundzoo.zoo import pair_attention
from groundzoo.zoo.pair_attention import PairAttention, rollout

Stack = tuple[Literal["cross", "self"], ...]
STACKS: list[Stack] = [
    ("cross",),
    ("cross", "cross"),
    ("cross", "self"),
    ("self", "cross"),
    ("cross", "self", "cross"),
    ("self", "cross", "self", "cross"),
    ("cross", "self", "self", "cross", "self", "cross"),
]
B, A, R, K, D = 3, 4, 7, 5, 8

stacks = pytest.mark.parametrize("stack", STACKS, ids="-".join)


def make(stack: Stack = ("cross", "self", "cross"), **options: object) -> PairAttention:
    torch.manual_seed(0)
    module = PairAttention(D, stack, **options).double()  # type: ignore[arg-type]
    for parameter in module.parameters():  # torch starts biases at 0
        nn.init.normal_(parameter, std=0.4)
    return module


def batch(videos: int = B, texts: int = A) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cells, words, and masks with padding at the end (words) and anywhere (cells)."""
    torch.manual_seed(1)
    text_mask = torch.arange(K) < torch.tensor([3, 5, 1, 4])[:texts, None]
    video_mask = torch.rand(videos, R) < 0.7
    video_mask[0] = True
    video_mask[:, 2] = True
    video, text = torch.randn(videos, R, D), torch.randn(texts, K, D)
    return video.double(), text.double(), text_mask, video_mask


def of_one_pair(
    module: PairAttention, cells: Tensor, words: Tensor, released: bool = False
) -> tuple[Tensor, Tensor, list[dict[str, Tensor]]]:
    """Tokens ``(R, d)`` and ``(K, d)`` after the stack, and all of its attention, as the formulas say."""
    attention = []
    k = 0
    for i, block in enumerate(module.stack):
        if block == "cross":
            scores = cells @ words.T / (1 if released else D**0.5)
            a = {"vt": scores.softmax(1), "tv": scores.T.softmax(1)}
            replaced = i == 0 or (released and "cross" not in module.stack[i + 1 :])
            keep = 0 if replaced else 1
            cells, words = keep * cells + a["vt"] @ words, keep * words + a["tv"] @ cells
        else:
            seen, a = [], {}
            of = {"vv": (module.video_attention[k], cells), "tt": (module.text_attention[k], words)}
            for name, (layer, tokens) in of.items():
                q, key, v = nn.functional.linear(tokens, layer.in_proj_weight, layer.in_proj_bias).chunk(3, -1)
                a[name] = (q @ key.T / D**0.5).softmax(1)
                seen.append(tokens + layer.out_proj(a[name] @ v))
            (cells, words), k = seen, k + 1
        attention.append(a)
    return cells, words, attention


def heat_of_one_pair(module: PairAttention, cells: Tensor, words: Tensor, released: bool = False) -> Tensor:
    _, _, attention = of_one_pair(module, cells, words, released)
    at = "v"
    below = []
    for a in attention:  # from the video's cells upwards
        name = next(name for name in a if name[1] == at)
        below.append(a[name])
        at = name[0]
    product = below[0]
    for a in below[1:]:
        product = a @ product
    return product.mean(0)


def padded(x: Tensor, number: int) -> Tensor:
    return torch.cat([x, torch.full((len(x), number, D), torch.nan, dtype=x.dtype)], 1)


def longer(mask: Tensor, number: int) -> Tensor:
    return torch.cat([mask, torch.zeros(len(mask), number, dtype=torch.bool)], 1)


# ---- the same as pair by pair ----------------------------------------------------------------------------


@stacks
@pytest.mark.parametrize("released", [False, True])
def test_equals_pair_by_pair(stack: Stack, released: bool) -> None:
    module = make(stack, scale_in_evaluation=not released).train(not released)
    video, text, text_mask, video_mask = batch()
    pooled = module(video, text, text_mask, video_mask)
    assert pooled[0].shape == pooled[1].shape == (B, A, D)
    scores = module.scores(video, text, text_mask, video_mask)
    for i in range(B):
        for j in range(A):
            cells, words, _ = of_one_pair(module, video[i, video_mask[i]], text[j, text_mask[j]], released)
            torch.testing.assert_close(pooled[0][i, j], cells.mean(0))
            torch.testing.assert_close(pooled[1][i, j], words.mean(0))
            torch.testing.assert_close(scores[i, j], cells.mean(0) @ words.mean(0))


@stacks
@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_heat_is_the_product_of_attention(stack: Stack, released: bool, masked: bool) -> None:
    module = make(stack, scale_in_evaluation=not released).eval()
    video, text, text_mask, video_mask = batch(videos=A)
    heat = module.heat(video, text, text_mask, video_mask if masked else None)
    if not masked:
        video_mask = torch.ones_like(video_mask)
    torch.testing.assert_close(heat.sum(1), torch.ones(A).double())
    assert (heat >= 0).all()
    assert (heat[~video_mask] == 0).all()
    for i in range(A):
        expected = heat_of_one_pair(module, video[i, video_mask[i]], text[i, text_mask[i]], released)
        torch.testing.assert_close(heat[i, video_mask[i]], expected)


def test_the_switch_changes_evaluation_alone() -> None:
    ours, released = make(), make(scale_in_evaluation=False)
    inputs = batch()
    torch.testing.assert_close(released.train().scores(*inputs), ours.train().scores(*inputs))
    torch.testing.assert_close(ours.eval().scores(*inputs), ours.train().scores(*inputs))
    assert not torch.allclose(released.eval().scores(*inputs), ours.scores(*inputs))


def test_the_stack_matters() -> None:
    inputs = batch()
    scores = [make(stack).scores(*inputs) for stack in STACKS]
    assert all(not torch.allclose(a, b) for k, a in enumerate(scores) for b in scores[:k])


def test_rollout_of_equal_layers() -> None:
    """Two tokens that look at each other alone: with the residual half of each remains, for ever."""
    swap = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).expand(3, -1, -1)
    torch.testing.assert_close(rollout(swap), torch.full((3, 2, 2), 0.5))
    torch.testing.assert_close(rollout(swap, residual=False), torch.stack([swap[0], torch.eye(2), swap[0]]))


# ---- what may not matter ---------------------------------------------------------------------------------


@stacks
def test_other_pairs_their_order_and_padding_do_not_matter(stack: Stack) -> None:
    module = make(stack)
    video, text, text_mask, video_mask = batch()
    scores = module.scores(video, text, text_mask, video_mask)
    one = module.scores(video[1:2], text[3:], text_mask[3:], video_mask[1:2])
    torch.testing.assert_close(one[0, 0], scores[1, 3])
    turned = module.scores(video.flip(0), text.flip(0), text_mask.flip(0), video_mask.flip(0))
    torch.testing.assert_close(turned, scores.flip(0, 1))
    with_padding = (padded(video, 3), padded(text, 2), longer(text_mask, 2), longer(video_mask, 3))
    torch.testing.assert_close(module.scores(*with_padding), scores)
    moved = torch.randperm(R)
    torch.testing.assert_close(module.scores(video[:, moved], text, text_mask, video_mask[:, moved]), scores)
    every = torch.ones_like(video_mask)
    torch.testing.assert_close(module.scores(video, text, text_mask), module.scores(video, text, text_mask, every))


@stacks
def test_padding_does_not_change_heat(stack: Stack) -> None:
    module = make(stack)
    video, text, text_mask, video_mask = batch(videos=A)
    heat = module.heat(video, text, text_mask, video_mask)
    more = module.heat(padded(video, 3), padded(text, 2), longer(text_mask, 2), longer(video_mask, 3))
    torch.testing.assert_close(more[:, :R], heat)
    assert (more[:, R:] == 0).all()
    torch.testing.assert_close(module.heat(video[1:2], text[1:2], text_mask[1:2], video_mask[1:2]), heat[1:2])


@stacks
def test_chunks_give_the_same_values_and_gradients(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    recomputed = []
    through = pair_attention.checkpoint
    monkeypatch.setattr(pair_attention, "checkpoint", lambda *a, **k: recomputed.append(1) or through(*a, **k))
    for chunk, parts in ((None, 0), (1, 4), (3, 2), (4, 0), (9, 0)):
        module = make(stack, chunk=chunk)
        video, text, text_mask, video_mask = batch()
        video.requires_grad_()
        text.requires_grad_()
        recomputed.clear()
        scores = module.scores(video, text, text_mask, video_mask)
        assert len(recomputed) == parts  # only what does not fit is computed twice
        scores.logsumexp(1).sum().backward()
        gradients = [video.grad, text.grad, *(p.grad for p in module.parameters())]
        assert all(g is not None and g.abs().max() > 1e-9 for g in gradients)
        found.append((scores.detach(), gradients))
    for scores, gradients in found[1:]:
        torch.testing.assert_close(scores, found[0][0])
        torch.testing.assert_close(gradients, found[0][1])


def test_no_chunk_is_recomputed_without_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_attention, "checkpoint", None)
    with torch.no_grad():
        torch.testing.assert_close(make(chunk=1).scores(*batch()), make().scores(*batch()))


def test_chunks_are_chosen_to_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    module = PairAttention(512)

    def texts(videos: int, cells: int) -> int:
        video, text = torch.empty(videos, cells, 512, device="meta"), torch.empty(9, 20, 512, device="meta")
        mask = torch.ones(9, 20, dtype=torch.bool, device="meta")
        return module._texts_in_memory(module._tokens(video, text, mask, None, aligned=False))

    assert texts(64, 784) > texts(64, 1568) > 1
    assert texts(32, 784) == pytest.approx(2 * texts(64, 784), abs=1)
    monkeypatch.setattr(pair_attention, "MEMORY_BYTES", 1)
    assert texts(64, 784) == 1
    monkeypatch.undo()


def test_gradients_are_those_of_differences() -> None:
    module = make(chunk=2)
    video, text, text_mask, video_mask = batch()
    weight = torch.randn(B, A).double()

    def loss(v: Tensor, t: Tensor) -> Tensor:
        return (weight * module.scores(v, t, text_mask, video_mask)).sum()

    assert torch.autograd.gradcheck(loss, (video.requires_grad_(), text.requires_grad_()), atol=1e-6)


# ---- precision, memory, empty rows -----------------------------------------------------------------------


def test_scores_are_not_rounded_under_autocast() -> None:
    video, text, text_mask, video_mask = (x.float() if x.is_floating_point() else x for x in batch())
    module = make().float()
    expected = module.scores(video, text, text_mask, video_mask)
    with torch.autocast("cpu", torch.bfloat16):
        found = module.scores(video, text, text_mask, video_mask)
        heat = module.heat(video, text[:B], text_mask[:B], video_mask)
    assert found.dtype == heat.dtype == torch.float32
    torch.testing.assert_close(found, expected)
    half = module.scores(video.bfloat16(), text.half(), text_mask, video_mask)
    rounded = module.scores(video.bfloat16().float(), text.half().float(), text_mask, video_mask)
    torch.testing.assert_close(half, rounded)


@stacks
@pytest.mark.parametrize("training", [True, False])
def test_rows_of_padding_alone_stay_finite(stack: Stack, training: bool) -> None:
    module = make(stack).train(training)
    video, text, text_mask, video_mask = batch(videos=A)
    before = module.scores(video, text, text_mask, video_mask)
    text_mask[2], video_mask[1] = False, False
    text[2], video[1] = torch.nan, torch.inf
    video.requires_grad_()
    scores = module.scores(video, text, text_mask, video_mask)
    heat = module.heat(video, text, text_mask, video_mask)
    (scores.sum() + heat.sum()).backward()
    gradients = [video.grad, *(p.grad for p in module.parameters())]
    assert all(x is not None and x.isfinite().all() for x in [scores, heat, *gradients])
    rest = torch.tensor([0, 3])
    torch.testing.assert_close(scores[rest][:, rest], before[rest][:, rest])
    torch.testing.assert_close(heat.sum(1), torch.ones(A).double())


def test_long_tokens_do_not_overflow() -> None:
    module = make().float()
    video, text, text_mask, video_mask = (x.float() if x.is_floating_point() else x for x in batch())
    scores = module.scores(1e4 * video, 1e4 * text, text_mask, video_mask)
    assert scores.isfinite().all()


def test_no_tensor_has_all_cells_of_all_pairs_at_full_width() -> None:
    """Largest tensor that autograd keeps, at sizes where R x d, and R x K x d, would stand out."""
    module = PairAttention(128)
    video, text = torch.randn(4, 64, 128, requires_grad=True), torch.randn(6, 4, 128)
    sizes: list[int] = []

    def note(x: Tensor) -> Tensor:
        sizes.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        module.scores(video, text, torch.ones(6, 4, dtype=torch.bool))
    assert max(sizes) < 4 * 6 * 64 * 128 / 2


# ---- mistakes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stack": ("self", "self")}, "needs a 'cross'"),
        ({"stack": ()}, "needs a 'cross'"),
        ({"stack": ("cross", "ffn")}, r"not of \['ffn'\]"),
        ({"chunk": 0}, "must be positive"),
        ({"dim": 0}, "must be positive"),
    ],
)
def test_a_wrong_stack_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PairAttention(**{"dim": D, **options})  # type: ignore[arg-type]


def test_wrong_shapes_are_refused() -> None:
    module = make()
    video, text, text_mask, video_mask = batch()
    with pytest.raises(ValueError, match=r"video must have the shape \(number, tokens, 8\), not \(3, 7, 5\)"):
        module(video[..., :5], text, text_mask)
    with pytest.raises(ValueError, match=r"text must have the shape .* not \(4, 8\)"):
        module(video, text[:, 0], text_mask)
    with pytest.raises(ValueError, match=r"text_mask must have the shape \(4, 5\), not \(5, 4\)"):
        module(video, text, text_mask.T)
    with pytest.raises(ValueError, match=r"video_mask must have the shape \(3, 7\), not \(3, 6\)"):
        module(video, text, text_mask, video_mask[:, 1:])
    with pytest.raises(ValueError, match="as many videos as texts, not 3 and 4"):
        module.heat(video, text, text_mask)
