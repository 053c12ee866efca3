"""A GROVE of random weights that runs in milliseconds, and made-up clips for it."""

from __future__ import annotations

from typing import Any

import torch

from groundzoo.tasks.grove import GROVE
from groundzoo.tasks.phrase_pretraining import PhrasePretraining
from groundzoo.zoo.batch import GroundedClipBatch
from groundzoo.zoo.box_decoder import BoxDecoder
from groundzoo.zoo.language import LanguageModel
from groundzoo.zoo.text.grounded_text import GroundedText
from groundzoo.zoo.video.adapted_clip import AdaptedCLIP
from groundzoo.zoo.video.adapted_sam import AdaptedSAM

T, SIDE = 4, 32
TOWER = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
CLIP = {**TOWER, "model_type": "clip_vision_model", "intermediate_size": 64, "image_size": SIDE, "patch_size": 8}
SAM = {
    **{**TOWER, "num_hidden_layers": 2},
    **{"model_type": "sam_vision_model", "mlp_dim": 64, "image_size": SIDE, "patch_size": 8, "window_size": 2},
    **{"output_channels": 32, "global_attn_indexes": [1], "num_pos_feats": 16, "initializer_range": 0.1},
}
DECODER = {
    "model_type": "sam",
    "vision_config": {"hidden_size": 32, "num_pos_feats": 16, "image_size": SIDE, "patch_size": 8},
    "prompt_encoder_config": {"hidden_size": 32, "image_size": SIDE, "patch_size": 8},
    "mask_decoder_config": {
        **{"hidden_size": 32, "mlp_dim": 64, "num_attention_heads": 2, "num_hidden_layers": 2},
        "iou_head_hidden_dim": 16,
    },
}
LLAMA = {
    **{"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "max_position_embeddings": 256},
}
CAPTIONS = [
    GroundedText("a red circle moves while a blue cross rests", ((0, 12), (25, 37))),
    GroundedText("a green cross grows", ((0, 13),)),
    GroundedText("nothing is there"),
]


def tiny_grove(awake: bool = False, **options: Any) -> GROVE:
    """A task that knows the words of `CAPTIONS`; `awake` opens the adapters."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        given: dict[str, Any] = {
            "video_encoder": AdaptedCLIP("random", frames=T, adapters=[0, 1], config=CLIP),
            "grounding_encoder": AdaptedSAM("random", frames=T, size=SIDE, config=SAM),
            "language_model": LanguageModel("random", "words", train="all", config=LLAMA),
            "box_decoder": BoxDecoder("random", config=DECODER),
            **{"frames": T, "tokens": (2, 2, 2), "max_new_tokens": 24},
        }
        task = GROVE(**{**given, **options})
    if task.init_from is None:
        task.fit_vocabulary(CAPTIONS)
    task.enter_stage(0)
    if awake:
        with torch.no_grad():
            for name, parameter in task.named_parameters():
                if "alpha" in name:
                    parameter.fill_(0.5)
    return task


def tiny_pretraining(**options: Any) -> PhrasePretraining:
    """The stand-in for GROVE's weights, of the same encoders without adapters."""
    task = PhrasePretraining(
        AdaptedCLIP("random", frames=T, adapters=[], train="all", config=CLIP),
        AdaptedSAM("random", frames=T, size=SIDE, adapters=[], train="all", config=SAM),
        BoxDecoder("random", config=DECODER),
        frames=T,
        **options,
    )
    task.fit_vocabulary(CAPTIONS)
    task.enter_stage(0)
    return task


def tiny_clips(lengths: tuple[int, ...] = (T, T), captions: list[GroundedText] | None = None) -> GroundedClipBatch:
    """Clips of so many frames; every phrase is a square that moves, and is hidden in each third frame."""
    g = torch.Generator().manual_seed(len(lengths))
    captions = CAPTIONS[: len(lengths)] if captions is None else captions
    B, F = len(lengths), max(lengths)
    frames = torch.randint(0, 256, (B, F, 3, SIDE, SIDE), generator=g, dtype=torch.uint8)
    mask = torch.arange(F) < torch.tensor(lengths)[:, None]
    for b, n in enumerate(lengths):
        frames[b, n:] = frames[b, n - 1]
    clip = torch.tensor([b for b, text in enumerate(captions) for _ in text.spans], dtype=torch.int64)
    centre = torch.rand(len(clip), 1, 2, generator=g) * 0.4 + 0.2 + torch.arange(F)[None, :, None] * 0.05
    boxes = torch.cat([centre.clamp(max=0.8), torch.full_like(centre, 0.3)], dim=-1)
    visible = (torch.arange(F) % 3 != 1).expand(len(clip), -1).clone()
    truths: list[list[list[tuple[str, list[float]]]]] = []
    for b, n in enumerate(lengths):
        rows = (clip == b).nonzero().squeeze(1).tolist()
        named = list(zip(captions[b].phrases, rows, strict=True))
        pixels = 64 * boxes
        truths.append(
            [[(name, corners(pixels[r, t]).tolist()) for name, r in named if visible[r, t]] for t in range(n)]
        )
    return GroundedClipBatch(
        frames=[frames, frames.flip(-3)],
        mask=mask,
        captions=captions,
        references=[[text.text] for text in captions],
        given=False,
        clip=clip,
        boxes=boxes * visible[..., None],
        visible=visible,
        truths=truths,
        times_s=torch.arange(F).expand(B, -1) / 5,
        sizes=torch.tensor([[64.0, 64.0]] * B),
        clip_ids=[f"v{b}_0" for b in range(B)],
        video_ids=[f"v{b}" for b in range(B)],
        index=torch.arange(B),
    )


def corners(box: torch.Tensor) -> torch.Tensor:
    """cx, cy, w, h -> x1, y1, x2, y2."""
    return torch.cat([box[:2] - box[2:] / 2, box[:2] + box[2:] / 2])
