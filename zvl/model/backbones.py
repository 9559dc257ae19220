"""The nano backbones: a small ViT with its bilingual text tower, a small LLaMA, and the tokenizer they share.

They stand where the paper puts a pre-trained ViT-G/14 and Ziya-LLaMA-13B (section 3.2). The repository ships them in
`zvl/model/nano/`, one folder and one card each; `zvl.training.backbones` rebuilds them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertModel,
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
    InstructBlipVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

NANO = Path(__file__).parent / "nano"
IMAGE_SIZE = 96
WIDTH = 192
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "[CLS]", "[DEC]", "<image>")


def train_tokenizer(
    texts: Iterable[str], names: Iterable[str] = (), vocab_size: int = 3000
) -> PreTrainedTokenizerFast:
    """Byte-level BPE for English and Chinese. `names` become entries of their own, as frequent nouns are in a large
    vocabulary; Chinese characters are split before the merges, so that a name is never fused with its neighbours.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    names = sorted(set(names))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{Han}"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(names), special_tokens=list(SPECIAL_TOKENS), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in names])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", cls_token="[CLS]",
        additional_special_tokens=["[DEC]", "<image>"], padding_side="right", clean_up_tokenization_spaces=False,
    )  # fmt: skip


def vision_config() -> InstructBlipVisionConfig:
    """5 layers, 192 wide, 12-pixel patches: 64 patch vectors and one class vector an image."""
    return InstructBlipVisionConfig(
        hidden_size=WIDTH, num_hidden_layers=5, num_attention_heads=6, intermediate_size=768, image_size=IMAGE_SIZE,
        patch_size=12, initializer_range=0.02,  # the class's own default of 1e-10 cannot be trained from
    )  # fmt: skip


def text_config(vocab_size: int) -> BertConfig:
    """The text tower has the Q-Former's width and depth, so that it can initialise the Q-Former's text side."""
    return BertConfig(
        vocab_size=vocab_size, hidden_size=WIDTH, num_hidden_layers=3, num_attention_heads=6, intermediate_size=768,
        max_position_embeddings=80, type_vocab_size=1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        pad_token_id=0,
    )  # fmt: skip


def qformer_config(vocab_size: int) -> InstructBlipQFormerConfig:
    """The nano Q-Former: BERT's layout of `text_config` with cross-attention in every layer."""
    return InstructBlipQFormerConfig(
        vocab_size=vocab_size, hidden_size=WIDTH, num_hidden_layers=3, num_attention_heads=6, intermediate_size=768,
        max_position_embeddings=80, cross_attention_frequency=1, encoder_hidden_size=WIDTH, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, pad_token_id=0,
        initializer_range=0.07,  # 1 / sqrt(192): new cross-attention must be heard beside what the text tower brings
    )  # fmt: skip


def llm_config(vocab_size: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocab_size, hidden_size=WIDTH, num_hidden_layers=4, num_attention_heads=6, num_key_value_heads=6,
        intermediate_size=640, max_position_embeddings=512, tie_word_embeddings=True,
        initializer_range=0.1,  # 0.02 suits widths of thousands; at 192 looking things up did not begin with it
        pad_token_id=0, bos_token_id=1,
        eos_token_id=2,
    )  # fmt: skip


@torch.no_grad()
def new_llm(vocab_size: int) -> LlamaForCausalLM:
    """An untrained nano LLaMA whose attention starts near the identity: a token attends to its like, and what is
    attended to is passed on as it is. Answering from a description is mostly looking up and copying, and a tiny model
    finds that much sooner from here (mimetic initialisation, Trockman and Kolter 2023).
    """
    model = LlamaForCausalLM(llm_config(vocab_size))
    for layer in model.model.layers:
        attention, eye = layer.self_attn, torch.eye(WIDTH)
        for linear, size, noise in (
            (attention.q_proj, 0.5, 0.05), (attention.k_proj, 0.5, 0.05),
            (attention.v_proj, 1.0, 0.02), (attention.o_proj, 0.5, 0.02),
        ):  # fmt: skip
            linear.weight.copy_(size * eye + noise * torch.randn(WIDTH, WIDTH))
    model.set_attn_implementation("eager")
    return model


class BilingualClip(nn.Module):
    """ViT and bilingual text tower in one space: the tutorial's CLIP (the paper's is its own CLIP-v2, section 3.3)."""

    def __init__(self, vocab_size: int, projection_dim: int = 128):
        super().__init__()
        self.vision_model = InstructBlipVisionModel(vision_config())
        self.text_model = BertModel(text_config(vocab_size), add_pooling_layer=False)
        self.vision_projection = nn.Linear(WIDTH, projection_dim, bias=False)
        self.region_projection = nn.Linear(WIDTH, projection_dim, bias=False)
        self.text_projection = nn.Linear(WIDTH, projection_dim, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(2.7))
        self.region_log_scale = nn.Parameter(torch.tensor(2.7))

    def image_embeds(self, pixel_values: Tensor) -> Tensor:
        """(batch, 3, 96, 96) -> (batch, 65, 192): the class vector, then the patches row by row."""
        return self.vision_model(pixel_values).last_hidden_state

    def image_features(self, image_embeds: Tensor) -> Tensor:
        """(batch, 65, 192) -> (batch, 128), unit length, from the class vector."""
        return nn.functional.normalize(self.vision_projection(image_embeds[:, 0]), dim=-1)

    def region_features(self, image_embeds: Tensor, weights: Tensor) -> Tensor:
        """Patches averaged by weights (batch, regions, 64) -> (batch, regions, 128), unit length."""
        return nn.functional.normalize(self.region_projection(weights @ image_embeds[:, 1:]), dim=-1)

    def text_features(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(batch, length), first token [CLS] -> (batch, 128), unit length."""
        hidden = self.text_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return nn.functional.normalize(self.text_projection(hidden[:, 0]), dim=-1)


def save_weights(module: nn.Module, path: Path) -> None:
    """Half-precision safetensors; computing happens in float32 after loading."""
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().half().contiguous() for name, value in module.state_dict().items()}
    weights.pop("lm_head.weight", None)  # tied to the word embeddings
    save_file(weights, str(path))


def _load_weights(module: nn.Module, path: Path) -> nn.Module:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: rebuild it with notebooks/appendix/nano_backbones.ipynb")
    module.load_state_dict({name: value.float() for name, value in load_file(str(path)).items()})
    return module.eval()


def load_tokenizer(folder: Path = NANO) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")


def load_clip(folder: Path = NANO) -> BilingualClip:
    """The nano ViT with its text tower, float32, in evaluation mode."""
    model = BilingualClip(len(load_tokenizer(folder)))
    # On short sequences plain products go backwards several times faster on a CPU than torch's fused attention.
    model.vision_model.set_attn_implementation("eager")
    model.text_model.set_attn_implementation("eager")
    return _load_weights(model, folder / "clip" / "model.safetensors")


def load_llm(folder: Path = NANO) -> LlamaForCausalLM:
    """The nano LLaMA, float32, in evaluation mode."""
    model = LlamaForCausalLM(llm_config(len(load_tokenizer(folder))))
    model.set_attn_implementation("eager")
    path = folder / "llm" / "model.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: rebuild it with notebooks/appendix/nano_backbones.ipynb")
    weights = {name: value.float() for name, value in load_file(str(path)).items()}
    model.load_state_dict(weights, strict=False)
    model.tie_weights()
    return model.eval()
