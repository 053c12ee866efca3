"""Tiny models with random weights that describe frames and answer questions, written as their authors would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

BINS = [f"<loc_{k}>" for k in (0, 250, 499, 500, 750, 999)]
TEXT = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "max_position_embeddings": 600,
        "dropout": 0.0}  # fmt: skip


def letters(**options: Any) -> Any:
    """A tokenizer of letters; blanks are kept, and special tokens stand without any."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "<pad>", "</s>", "<unk>"]
    signs = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({t: i for i, t in enumerate([*special, *signs])}, [], unk_token="<unk>"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    tokens = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, **tokens, **options)


def florence(folder: Path) -> Path:
    """Florence-2 for pictures of 64 x 64, five image tokens."""
    import torch
    import transformers

    tokenizer = letters(extra_special_tokens={"image_token": "<image>"})
    tokenizer.add_tokens(BINS, special_tokens=True)
    image = transformers.CLIPImageProcessor(
        size={"height": 64, "width": 64}, crop_size={"height": 64, "width": 64}, do_center_crop=False
    )
    image.image_seq_length = 5
    rules = {"pure_text": {}, "phrase_grounding": {"banned_grounding_tokens": []}}
    transformers.Florence2Processor(image, tokenizer, post_processor_config=rules).save_pretrained(folder)
    vision = {"embed_dim": [8, 8, 8, 16], "num_heads": [1, 1, 1, 1], "num_groups": [1, 1, 1, 1], "depths": [1] * 4,
              "window_size": 2, "projection_dim": 16}  # fmt: skip
    text = {"model_type": "bart", **TEXT, "vocab_size": len(tokenizer), "decoder_start_token_id": 2,
            "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "forced_eos_token_id": None}  # fmt: skip
    config = transformers.Florence2Config(
        vision_config=vision, text_config=text, image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        bos_token_id=0, pad_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(3)
    transformers.Florence2ForConditionalGeneration(config).save_pretrained(folder)
    return folder


def blip(folder: Path) -> Path:
    """BLIP for pictures of 32 x 32."""
    import torch
    import transformers
    from tiny_models import bert_tokenizer

    size = {"height": 32, "width": 32}
    transformers.BlipProcessor(transformers.BlipImageProcessor(size=size), bert_tokenizer()).save_pretrained(
        folder
    )
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**tower, "vocab_size": 14, "encoder_hidden_size": 16, "bos_token_id": 2, "eos_token_id": 3,
            "sep_token_id": 3, "pad_token_id": 0, "max_position_embeddings": 64}  # fmt: skip
    vision = {**tower, "image_size": 32, "patch_size": 8}
    torch.manual_seed(3)
    config = transformers.BlipConfig(vision_config=vision, text_config=text)
    transformers.BlipForConditionalGeneration(config).save_pretrained(folder)
    return folder


def llama(folder: Path, template: str | None = None, positions: int = 4096) -> Path:
    """A causal language model that says random words."""
    import torch
    import transformers

    tokenizer = letters()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    torch.manual_seed(3)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=positions, bos_token_id=0, eos_token_id=2, pad_token_id=1,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder
