"""Arithmetic of STG's training step, counted on tensors without values: CLIP ViT-B/32, projections, local branch.

Candidates are all encoded, whichever are chosen; that is what lets choosing by transport cost what chance costs.
Counted are matrix products; what transport adds to them is elementwise, and counted by hand.
"""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from groundzoo.zoo.pair_attention import PairAttention
from groundzoo.zoo.transport import frame_scores, random_frames, top_frames

D, K, CELLS, ITERATIONS = 512, 20, 49, 50
Choice = Literal["all", "transport", "random"]


class Step:
    """One training step of B videos with U candidates each, of which T are chosen."""

    def __init__(self, B: int, U: int, T: int) -> None:
        self.B, self.U, self.T = B, U, T
        config = CLIPVisionConfig(  # ViT-B/32
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            patch_size=32,
            image_size=224,
            projection_dim=D,
        )
        self.encoder = CLIPVisionModelWithProjection(config).eval()
        self.globals, self.locals = (nn.ModuleList(nn.Linear(D, D) for _ in range(2)) for _ in range(2))
        self.attention = PairAttention(D)
        self.elementwise = 0

    def encode(self) -> Tensor:
        """Projected tokens ``(B, U, 50, D)`` of all candidates, by the frozen encoder."""
        with torch.no_grad():
            pictures = torch.empty(self.B * self.U, 3, 224, 224)
            states = self.encoder.vision_model(pictures).last_hidden_state
            tokens = self.encoder.visual_projection(self.encoder.vision_model.post_layernorm(states))
        return tokens.unflatten(0, (self.B, self.U))

    def choose(self, frames: Tensor, words: Tensor, word_mask: Tensor, choice: Choice) -> Tensor | None:
        """Indices ``(B, T)``; None for all."""
        mask = torch.ones(self.B, self.U, dtype=torch.bool)
        if choice == "transport":
            cosine = torch.einsum("bud,bkd->buk", *(nn.functional.normalize(x, dim=-1) for x in (frames, words)))
            scores = frame_scores(cosine, mask, word_mask, iterations=ITERATIONS)
            # add, subtract the greatest, exp, sum for rows and for columns; one product and sum for the scores
            self.elementwise += self.B * self.U * K * (ITERATIONS * 2 * 4 + 2)
            return top_frames(scores, mask, self.T)[0]
        return random_frames(mask, self.T)[0] if choice == "random" else None

    def run(self, choice: Choice) -> None:
        """Forward and backward."""
        tokens = self.encode()
        words, word_mask = torch.empty(self.B, K, D), torch.ones(self.B, K, dtype=torch.bool)
        frames, sentences = self.globals[0](tokens[:, :, 0]), self.globals[1](words)
        index = self.choose(frames, sentences, word_mask, choice)
        cells = tokens[:, :, 1:]
        if index is not None:
            cells = cells.gather(1, index[:, :, None, None].expand(-1, -1, CELLS, D))
        cells = self.locals[0](cells.flatten(1, 2))
        local = self.attention.scores(cells, self.locals[1](words), word_mask)
        both = frames.mean(1) @ sentences.mean(1).T
        sum((s.logsumexp(1) - s.diagonal()).mean() for s in (local, both)).backward()


def flops(B: int, U: int, T: int, choice: Choice) -> int:
    with torch.device("meta"):
        step = Step(B, U, T)
        with FlopCounterMode(display=False) as counter:
            step.run(choice)
    return counter.get_total_flops() + step.elementwise


@pytest.mark.parametrize(("B", "U", "T"), [(1, 64, 8), (16, 64, 8), (16, 80, 16), (64, 80, 16)])
def test_transport_costs_what_chance_costs(B: int, U: int, T: int) -> None:
    everything, transport, chance = (flops(B, U, T, choice) for choice in ("all", "transport", "random"))
    print(
        f"B={B} U={U} T={T}: transport/random {transport / chance:.5f}, all/transport {everything / transport:.3f}"
    )
    assert 1 < transport / chance < 1.05
    assert everything / transport > 1
    # the encoder is the larger part, or the ratios would say little
    assert chance > B * U * 2 * 4.3e9


def test_a_pair_costs_less_than_a_tenth_of_attention_on_full_tokens() -> None:
    """Self-attention of R cells of width d takes 4 R d^2 + 2 R^2 d products."""
    B, R = 8, 16 * CELLS
    with torch.device("meta"):
        attention, video, text = PairAttention(D), torch.empty(B, R, D), torch.empty(B, K, D)
        with FlopCounterMode(display=False) as counter:
            attention.scores(video, text, torch.ones(B, K, dtype=torch.bool))
    products = counter.get_total_flops() / 2 / B**2
    print(f"{products / 1e6:.0f} million products per pair")
    assert products < (4 * R * D**2 + 2 * R**2 * D) / 10
