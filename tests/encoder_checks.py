"""Properties that every video encoder with weights has; each check takes a maker of tiny ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from groundzoo.zoo.video.base import VideoEncoder
from groundzoo.zoo.weights import load_weights

Make = Callable[..., VideoEncoder]  # takes the constructor's keywords; `weights` defaults to random
WRAPS = ("bare", "module.", "backbone.", "features.", "state_dict", "model_state_dict", "model", "safetensors")


def video(frames: int, batch: int = 1, height: int = 40, width: int = 52, seed: int = 0) -> Tensor:
    """Random frames, uint8 ``(batch, frames, 3, height, width)``."""
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, frames, 3, height, width), generator=g, dtype=torch.uint8)


def varied(state: Mapping[str, Tensor], seed: int = 1) -> dict[str, Tensor]:
    """Another state dict of the same names and shapes; variances and gammas stay positive."""
    g = torch.Generator().manual_seed(seed)
    return {
        k: v * (0.8 + 0.4 * torch.rand(v.shape, generator=g)) + (0.0 if "weight" in k or "var" in k else 0.01)
        if v.is_floating_point()
        else v + 3
        for k, v in state.items()
    }


def write(state: Mapping[str, Tensor], wrap: str, folder: Path) -> Path:
    """A weight file with what training code puts around the tensors."""
    if wrap == "safetensors":
        from safetensors.torch import save_file

        save_file({k: v.contiguous() for k, v in state.items()}, folder / "weights.safetensors")
        return folder / "weights.safetensors"
    content: dict[str, Any] = dict(state)
    if wrap.endswith("."):
        content = {wrap + k: v for k, v in state.items()}
    elif wrap != "bare":
        content = {wrap: content, "epoch": 3, "optimizer": {"state": {}}}
    torch.save(content, folder / "weights.pth")
    return folder / "weights.pth"


def check_weights(
    make: Make, network: Callable[[Any], nn.Module], wrap: str, folder: Path, **extra: Tensor
) -> None:
    """A file in this wrapping gives the network exactly its tensors; `extra` are heads that it drops."""
    state = varied(network(make()).state_dict())
    path = write({**state, **extra}, wrap, folder)
    loaded = network(make(weights=path)).state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[k], state[k]) for k in state)
    assert any(not torch.equal(loaded[k], v) for k, v in network(make()).state_dict().items())


def check_wrong_files(make: Make, network: Callable[[Any], nn.Module], folder: Path) -> None:
    """Each way of not fitting is told, and nothing is loaded."""
    state = dict(network(make()).state_dict())
    name = next(iter(state))
    for change, message in (
        ({name: None}, f"1 missing \\({name}\\)"),
        ({"other.weight": torch.zeros(2)}, r"1 unknown \(other.weight\)"),
        ({name: torch.zeros(1, 2)}, rf"{name} is \(1, 2\), not"),
    ):
        wrong = {k: v for k, v in {**state, **change}.items() if v is not None}
        with pytest.raises(ValueError, match=message):
            make(weights=write(wrong, "bare", folder))
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth do not exist"):
        make(weights=folder / "nowhere.pth")
    with pytest.raises(ValueError, match="are not those of"):
        load_weights(nn.Linear(2, 2), write(state, "bare", folder))


def check_frozen(make: Make, frames: int) -> None:
    """Frozen: no gradient, evaluation mode for good. Trainable: every parameter gets a gradient."""
    frozen = make()
    frozen.train()
    assert not any(m.training for m in frozen.modules())
    assert not any(p.requires_grad for p in frozen.parameters())
    assert not frozen(video(frames)).frames.requires_grad
    trainable = make(trainable=True)
    assert all(m.training for m in trainable.modules())
    trainable(video(frames, batch=2)).frames.sum().backward()
    assert [k for k, p in trainable.named_parameters() if p.grad is None] == []
    trainable.eval()
    assert not any(m.training for m in trainable.modules())


def check_reproducible(make: Make) -> None:
    """Two encoders of the same settings start equal, whatever the caller's generator does, and leave it alone."""
    torch.manual_seed(5)
    first, drawn = make().state_dict(), torch.rand(1)
    second = make().state_dict()
    assert all(torch.equal(first[k], second[k]) for k in first)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), drawn)


def check_rows(make: Make, frames: int) -> None:
    """A video's features do not depend on the others of its batch, nor on its place there."""
    encoder, batch = make(), video(frames, batch=3)
    out, order = encoder(batch), torch.tensor([2, 0, 1])
    for other, rows in ((encoder(batch[order]), order), (encoder(batch[1:2]), torch.tensor([1]))):
        torch.testing.assert_close(other.frames, out.frames[rows], rtol=1e-4, atol=1e-5)
        if out.grid is not None and other.grid is not None:
            torch.testing.assert_close(other.grid, out.grid[rows], rtol=1e-4, atol=1e-5)
    assert (out.frames[0] - out.frames[1]).abs().max() > 1e-3


def check_windows(make: Make, units: int = 3) -> None:
    """A unit is made of its own window: alone it is the same, and it changes only with its own frames."""
    encoder = make()
    spec = encoder.spec
    whole = video(spec.num_frames(units))
    out = encoder(whole).frames
    assert out.shape == (1, units, encoder.dim)
    for k in range(units):
        start = k * spec.stride
        alone = encoder(whole[:, start : start + spec.window]).frames
        torch.testing.assert_close(alone[:, 0], out[:, k], rtol=1e-4, atol=1e-5)
    changed = whole.clone()
    changed[:, -1] = 255 - changed[:, -1]  # the last frame is in the last window only
    moved = (encoder(changed).frames - out).abs().amax((0, 2))
    assert moved[:-1].max() < 1e-5
    assert moved[-1] > 1e-5


def check_lengths(make: Make) -> None:
    """Any length gives its units; an incomplete window repeats the last frame."""
    encoder = make()
    spec = encoder.spec
    longest = 2 * spec.window + spec.stride
    for frames in sorted({1, 2, spec.window - 1, spec.window, spec.window + 1, longest - 1} - {0}):
        clip = video(frames)
        out = encoder(clip)
        units = spec.num_units(frames)
        assert out.frames.shape == (1, units, encoder.dim)
        assert torch.isfinite(out.frames).all()
        if encoder.grid is not None:
            assert out.grid is not None
            assert out.grid.shape == (1, units, *encoder.grid)
        missing = spec.num_frames(units) - frames
        if missing > 0:
            padded = torch.cat([clip, clip[:, -1:].expand(-1, missing, -1, -1, -1)], dim=1)
            torch.testing.assert_close(encoder(padded).frames, out.frames, rtol=1e-4, atol=1e-5)


def check_gradient_checkpointing(make: Make, frames: int) -> None:
    """The same outputs, gradients and running statistics with and without, in the second step too."""
    found = []
    for on in (False, True):
        encoder = make(trainable=True, gradient_checkpointing=on)
        torch.manual_seed(3)  # dropout
        for step in range(2):
            out = encoder(video(frames, batch=2, seed=step)).frames
            (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
        gradients = {f"gradient of {k}": p.grad for k, p in encoder.named_parameters()}
        found.append({"output": out.detach(), **gradients, **encoder.state_dict()})
    plain, checkpointed = found
    for name, expected in plain.items():
        assert expected is not None
        torch.testing.assert_close(checkpointed[name], expected, rtol=1e-4, atol=1e-6, msg=name)
    gradients = [v for k, v in plain.items() if k.startswith("gradient of ") and v is not None]
    assert max(float(g.abs().max()) for g in gradients) > 1e-3


def check_dropout(make: Make, frames: int) -> None:
    """Drawn anew in training, absent otherwise."""
    encoder, clip = make(trainable=True), video(frames)
    assert not torch.equal(encoder(clip).frames, encoder(clip).frames)
    encoder.eval()
    assert torch.equal(encoder(clip).frames, encoder(clip).frames)


def check_checkpointing_is_used(make: Make, frames: int) -> None:
    """Fewer values are kept for the gradient."""
    kept = []
    for on in (False, True):
        sizes: list[int] = []
        encoder = make(trainable=True, gradient_checkpointing=on)
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: (s.append(t.numel()), t)[1], lambda t: t):
            encoder(video(frames))
        kept.append(sum(sizes))
    assert kept[1] < 0.7 * kept[0], kept


def check_bfloat16(make: Make, frames: int) -> None:
    """In bfloat16 the features are of that type and about the same."""
    exact = make()(video(frames)).frames
    rough = make().bfloat16()(video(frames)).frames
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), exact, rtol=0.1, atol=0.05 * float(exact.abs().max()))


def check_channels_last(make: Make, frames: int) -> None:
    """The layout changes the speed alone."""
    last, contiguous = make(), make(channels_last=False)
    layouts = [
        all(p.is_contiguous(memory_format=torch.channels_last_3d) for p in e.parameters() if p.ndim == 5)
        for e in (last, contiguous)
    ]
    assert layouts == [True, False]
    torch.testing.assert_close(last(video(frames)).frames, contiguous(video(frames)).frames, rtol=1e-4, atol=1e-5)
