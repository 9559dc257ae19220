"""A tokenizer and models of a few thousand random weights, made in a moment, for the tests."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

from zvl.model.visual import ZiyaVisualConfig, ZiyaVisualForConditionalGeneration

SPECIAL = ["<pad>", "<s>", "</s>", "[CLS]", "[DEC]", "<image>"]
QUERIES, PATCHES = 4, 5  # per image
WORDS = [
    "What is this? A red apple.",
    "How many cats are there?",
    "这是什么？红苹果。",
    "图中有几只猫？",
    "two 两只",
]


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with the special tokens of the nano tokenizer, in its order."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        WORDS,
        trainers.BpeTrainer(
            vocab_size=320, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        cls_token="[CLS]",
        additional_special_tokens=["[DEC]", "<image>"],
    )


def tiny_config(instruction_aware: bool = False, text_config=None, **options) -> ZiyaVisualConfig:
    """A configuration of all parts at a width of 16 to 24."""
    if text_config is None:
        text_config = LlamaConfig(
            vocab_size=320, hidden_size=24, intermediate_size=32, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=256, bos_token_id=1, eos_token_id=2,
            pad_token_id=0, initializer_range=0.2,
        )  # fmt: skip
    return ZiyaVisualConfig(
        vision_config=InstructBlipVisionConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            image_size=8, patch_size=4, initializer_range=0.2,
        ),
        qformer_config=InstructBlipQFormerConfig(
            vocab_size=320, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            encoder_hidden_size=16, max_position_embeddings=64, initializer_range=0.2,
        ),
        text_config=text_config,
        **dict(
            num_query_tokens=QUERIES, projection_dim=8, decoder_start_id=4,
            instruction_aware=instruction_aware, image_token_id=5, initializer_range=0.2,
        ) | options,
    )  # fmt: skip


def tiny_model(
    instruction_aware: bool = False, seed: int = 0, **options
) -> ZiyaVisualForConditionalGeneration:
    """A random model in evaluation mode; its pixels are (3, 8, 8)."""
    torch.manual_seed(seed)
    return ZiyaVisualForConditionalGeneration(tiny_config(instruction_aware, **options)).eval()
