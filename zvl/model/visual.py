"""The visual language model: a vision model, the Q-Former, one Linear, and a causal language model.

Source: Ziya-Visual, sections 3.2 to 3.3, Figures 3 and 8. Base and Chat are one class: in Chat the
instruction enters the Q-Former too (`instruction_aware`).
"""

import copy
import inspect
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
    InstructBlipVisionModel,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers import initialization as init
from transformers.utils import ModelOutput

from zvl.model import chat as dialogue
from zvl.model.objectives import LanguageHead, QFormerForPretraining
from zvl.model.qformer import bidirectional_mask, select_kv

# What QFormerForPretraining is made of. The parts stand in the model itself, so that checkpoints have the
# names `query_tokens` and `qformer.*` of transformers' BLIP-2 and InstructBLIP.
QFORMER_PARTS = (
    "query_tokens", "qformer", "vision_projection", "text_projection", "itm_head", "lm_head", "temperature"
)  # fmt: skip

IMAGE_INPUTS = (
    "pixel_values", "image_embeds", "query_states",
    "image_index", "qformer_input_ids", "qformer_attention_mask",
)  # fmt: skip

# Language models whose logits are their output embeddings times the decoder's last state and nothing else (no
# scale, no soft cap): for them the logits of chosen positions can be computed alone.
PLAIN_HEADS = frozenset({"gpt_neox", "llama", "mistral", "qwen2", "qwen3"})


class ZiyaVisualConfig(PreTrainedConfig):
    """Configuration of ZiyaVisualForConditionalGeneration.

    vision_config: of any vision model of transformers (by default InstructBlipVisionConfig, EVA-CLIP-g).
    qformer_config: InstructBlipQFormerConfig; its encoder_hidden_size is the vision model's hidden_size.
    text_config: of any causal language model of transformers.
    num_query_tokens: queries, and so placeholders, per image (64 in the paper).
    projection_dim: width of ITC's space. decoder_start_id: the Q-Former's `[DEC]`, as in pre-training.
    instruction_aware: Chat, where the Q-Former reads the instruction; Base is False.
    image_token_id: the placeholder's id in `input_ids`; it needs no row in the language model's embeddings.
    """

    model_type = "ziya_visual"
    sub_configs: ClassVar = {
        "vision_config": AutoConfig,
        "qformer_config": InstructBlipQFormerConfig,
        "text_config": AutoConfig,
    }

    def __init__(
        self,
        vision_config: dict | PreTrainedConfig | None = None,
        qformer_config: dict | PreTrainedConfig | None = None,
        text_config: dict | PreTrainedConfig | None = None,
        num_query_tokens: int = 64,
        projection_dim: int = 256,
        decoder_start_id: int = 0,
        instruction_aware: bool = False,
        image_token_id: int | None = None,
        initializer_range: float = 0.02,
        **kwargs,
    ):
        self.vision_config = _sub_config(vision_config, InstructBlipVisionConfig)
        self.qformer_config = _sub_config(qformer_config, InstructBlipQFormerConfig)
        self.text_config = _sub_config(text_config, LlamaConfig)
        self.num_query_tokens = num_query_tokens
        self.projection_dim = projection_dim
        self.decoder_start_id = decoder_start_id
        self.instruction_aware = instruction_aware
        self.image_token_id = image_token_id
        self.initializer_range = initializer_range
        super().__init__(**kwargs)


def _sub_config(config: dict | PreTrainedConfig | None, default: type[PreTrainedConfig]) -> PreTrainedConfig:
    if isinstance(config, PreTrainedConfig):
        return config
    values = dict(config or {})
    model_type = values.pop("model_type", default.model_type)
    if model_type == default.model_type:
        return default(**values)
    return AutoConfig.for_model(model_type, **values)


@dataclass
class ZiyaVisualOutput(ModelOutput):
    """What forward returns.

    loss: mean cross-entropy of the labelled tokens, if labels were given.
    logits: (labelled tokens, vocabulary) with labels, in the order of `targets`; else (batch, length,
        vocabulary).
    targets: (labelled tokens,), the labels that count, if labels were given.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    targets: Tensor | None = None


class ZiyaVisualForConditionalGeneration(PreTrainedModel):
    """An image becomes `num_query_tokens` soft tokens in the place of its placeholders in the dialogue.

    Parts: vision_model, query_tokens and qformer (with the heads of its pre-training, so that retrieval works
    after tuning too: `qformer_model`), language_projection, language_model. Source: Ziya-Visual, Figure 3.

    The inputs of all methods that take images:
        pixel_values: (images, 3, height, width); or image_embeds: (images, patches, vision width), the vision
            model's features, computed once where it is frozen; or query_states: (images, queries, Q-Former
            width), the result of `encode_queries`, where the Q-Former is frozen too.
        image_index: (placed,) long, the row of these for each run of placeholders, in their order; by default
            0, 1, 2, ... A picture with several questions is so encoded once.
        qformer_input_ids, qformer_attention_mask: (placed, length), the instruction that goes with each run
            of placeholders, `[CLS]` first. Required where config.instruction_aware, ignored otherwise.
    """

    config_class = ZiyaVisualConfig
    config: ZiyaVisualConfig
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _no_split_modules: ClassVar = ["InstructBlipEncoderLayer", "Layer", "LlamaDecoderLayer"]

    def __init__(
        self,
        config: ZiyaVisualConfig,
        vision_model: nn.Module | None = None,
        qformer_model: QFormerForPretraining | None = None,
        language_model: nn.Module | None = None,
    ):
        """Parts that are given keep their weights (`from_parts` is the convenient way); others start anew."""
        super().__init__(config)
        expected, width = config.qformer_config.encoder_hidden_size, config.vision_config.hidden_size
        if expected != width:
            raise ValueError(
                f"ZiyaVisualConfig: qformer_config.encoder_hidden_size is {expected}, the vision model's "
                f"hidden_size {width}; they must be equal"
            )
        for part in (vision_model, qformer_model, language_model):
            if part is not None:
                _keep_weights(part)
        self.vision_model = _new_vision_model(config.vision_config) if vision_model is None else vision_model
        if qformer_model is None:
            qformer_model = QFormerForPretraining(
                config.qformer_config,
                config.num_query_tokens,
                config.projection_dim,
                decoder_start_id=config.decoder_start_id,
            )
        for name in QFORMER_PARTS:
            setattr(self, name, getattr(qformer_model, name))
        width = config.qformer_config.hidden_size
        self.language_projection = nn.Linear(width, config.text_config.hidden_size)
        if language_model is None:
            language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.language_model = language_model
        accepted = inspect.signature(language_model.forward).parameters  # here, as LoRA may wrap it later
        self._takes_positions = "position_ids" in accepted
        self._takes_kept_positions = "logits_to_keep" in accepted
        self.post_init()

    @classmethod
    def from_parts(
        cls,
        vision_model: PreTrainedModel,
        qformer_model: QFormerForPretraining,
        language_model: PreTrainedModel,
        image_token_id: int,
        instruction_aware: bool = False,
    ) -> "ZiyaVisualForConditionalGeneration":
        """Put trained parts together, without copying them; only language_projection starts anew."""
        config = ZiyaVisualConfig(
            vision_config=copy.deepcopy(vision_model.config),
            qformer_config=copy.deepcopy(qformer_model.qformer.config),
            text_config=copy.deepcopy(language_model.config),
            num_query_tokens=qformer_model.query_tokens.shape[1],
            projection_dim=qformer_model.vision_projection.out_features,
            decoder_start_id=qformer_model.decoder_start_id,
            instruction_aware=instruction_aware,
            image_token_id=image_token_id,
        )
        return cls(config, vision_model, qformer_model, language_model)

    @property
    def qformer_model(self) -> QFormerForPretraining:
        """The Q-Former with its pre-training heads, sharing this model's weights: for retrieval and matching.

        It is put together anew on each access; use it, do not train, move or keep it.
        """
        view = QFormerForPretraining.__new__(QFormerForPretraining)
        nn.Module.__init__(view)
        view.training = self.training
        view.decoder_start_id = self.config.decoder_start_id
        for name in QFORMER_PARTS:
            setattr(view, name, getattr(self, name))
        return view

    def vision_features(self, pixel_values: Tensor) -> Tensor:
        """The vision model's features, (images, patches, width): the `image_embeds` of the other methods."""
        return self.vision_model(pixel_values=pixel_values.to(self.vision_model.dtype)).last_hidden_state

    def encode_queries(
        self,
        pixel_values: Tensor | None = None,
        image_embeds: Tensor | None = None,
        qformer_input_ids: Tensor | None = None,
        qformer_attention_mask: Tensor | None = None,
        image_index: Tensor | None = None,
    ) -> Tensor:
        """The Q-Former's reading of each placed image: (placed, queries, Q-Former width)."""
        if (pixel_values is None) == (image_embeds is None):
            raise ValueError("give pixel_values or image_embeds, and not both")
        if image_embeds is None:
            image_embeds = self.vision_features(pixel_values)
        image_kv = self.qformer.keys_values(image_embeds)  # once an image, however many questions it has
        if not self.config.instruction_aware:
            queries = self.query_tokens.expand(len(image_embeds), -1, -1)
            hidden = self.qformer(query_embeds=queries, image_kv=image_kv, queries_only=True)
            return hidden if image_index is None else hidden[image_index]

        placed = len(image_embeds) if image_index is None else len(image_index)
        if qformer_input_ids is None or len(qformer_input_ids) != placed:
            rows = "none" if qformer_input_ids is None else len(qformer_input_ids)
            raise ValueError(
                f"an instruction-aware model needs qformer_input_ids for {placed} images, got {rows}"
            )
        if qformer_attention_mask is None:
            qformer_attention_mask = torch.ones_like(qformer_input_ids)
        return self.qformer(
            query_embeds=self.query_tokens.expand(placed, -1, -1),
            input_ids=qformer_input_ids,
            attention_mask=bidirectional_mask(qformer_attention_mask, self.config.num_query_tokens),
            image_kv=image_kv if image_index is None else select_kv(image_kv, image_index),
            queries_only=True,
        )

    def encode_images(
        self,
        pixel_values: Tensor | None = None,
        image_embeds: Tensor | None = None,
        qformer_input_ids: Tensor | None = None,
        qformer_attention_mask: Tensor | None = None,
        image_index: Tensor | None = None,
        query_states: Tensor | None = None,
    ) -> Tensor:
        """Soft tokens of each placed image: (placed, queries, language model's width)."""
        if query_states is None:
            query_states = self.encode_queries(
                pixel_values, image_embeds, qformer_input_ids, qformer_attention_mask, image_index
            )
        elif pixel_values is not None or image_embeds is not None:
            raise ValueError("give query_states, pixel_values or image_embeds: one of them alone")
        elif image_index is not None:
            query_states = query_states[image_index]
        return self.language_projection(query_states)

    def embed(self, input_ids: Tensor, **images: Tensor | None) -> Tensor:
        """Word embeddings with the images' soft tokens in the placeholders' place: (batch, length, width).

        images: the image inputs of the class. Raises ValueError unless placeholders and queries of all images
            are equal in number.
        """
        holes = input_ids == (-1 if self.config.image_token_id is None else self.config.image_token_id)
        words = self.language_model.get_input_embeddings()(input_ids.masked_fill(holes, 0))
        has_images = any(images.get(name) is not None for name in IMAGE_INPUTS[:3])
        soft = self.encode_images(**images) if has_images else words[:0, : self.config.num_query_tokens]
        wanted, found = len(soft) * self.config.num_query_tokens, int(holes.sum())
        if wanted != found:
            raise ValueError(
                f"input_ids holds {found} image placeholders (id {self.config.image_token_id}), but "
                f"{len(soft)} images of {self.config.num_query_tokens} queries need {wanted}"
            )
        return words.masked_scatter(holes[..., None], soft.to(words.dtype)) if has_images else words

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_embeds: Tensor | None = None,
        qformer_input_ids: Tensor | None = None,
        qformer_attention_mask: Tensor | None = None,
        image_index: Tensor | None = None,
        query_states: Tensor | None = None,
    ) -> ZiyaVisualOutput:
        """Loss and logits of dialogues with any number of images each.

        input_ids: (batch, length), num_query_tokens placeholders in a row for each image; images come in the
            order of their placeholders over the whole batch.
        attention_mask: (batch, length), 1 for real tokens; padding may be on either side.
        labels: (batch, length), input_ids where the loss counts, -100 elsewhere.
        Raises ValueError if images and placeholders differ in number, or if no label counts.
        """
        inputs_embeds = self.embed(
            input_ids,
            pixel_values=pixel_values,
            image_embeds=image_embeds,
            qformer_input_ids=qformer_input_ids,
            qformer_attention_mask=qformer_attention_mask,
            image_index=image_index,
            query_states=query_states,
        )
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        inputs = {"inputs_embeds": inputs_embeds, "attention_mask": attention_mask, "use_cache": False}
        if self._takes_positions:
            # Counted from the first real token, so that padding on the left changes nothing.
            inputs["position_ids"] = (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)
        if labels is None:
            return ZiyaVisualOutput(logits=self.language_model(**inputs).logits)

        shifted = labels[:, 1:]
        counted = shifted != dialogue.IGNORED
        targets = shifted[counted]
        if not len(targets):
            raise ValueError("labels: none counts, all are -100 or stand in the first column")
        logits = self._logits(inputs, counted)
        return ZiyaVisualOutput(loss=F.cross_entropy(logits.float(), targets), logits=logits, targets=targets)

    def _logits(self, inputs: dict, counted: Tensor) -> Tensor:
        # One row for each True of `counted`, (batch, length - 1): the vocabulary is wide, labels are few.
        if self.config.text_config.model_type in PLAIN_HEADS:
            hidden = self.language_model.get_decoder()(**inputs).last_hidden_state
            return self.language_model.get_output_embeddings()(hidden[:, :-1][counted])
        if self._takes_kept_positions:
            columns = counted.any(dim=0).nonzero().squeeze(1)
            return self.language_model(**inputs, logits_to_keep=columns).logits[counted[:, columns]]
        return self.language_model(**inputs).logits[:, :-1][counted]

    @torch.no_grad()
    def generate(self, input_ids: Tensor, attention_mask: Tensor | None = None, **inputs) -> Tensor:
        """New token ids alone, (batch, new length); greedy by default.

        input_ids and attention_mask: padded on the left. inputs: the image inputs of the class, and whatever
        generate() of transformers takes.
        """
        images = {name: inputs.pop(name) for name in IMAGE_INPUTS if name in inputs}
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        elif not attention_mask[:, -1].all():
            raise ValueError("generate: some row ends in padding; pad prompts on the left")
        inputs = {"do_sample": False, "num_beams": 1} | inputs
        image_token = self.config.image_token_id
        if image_token is not None and image_token < self.config.text_config.vocab_size:
            inputs["suppress_tokens"] = [*(inputs.get("suppress_tokens") or ()), image_token]
        inputs["inputs_embeds"] = self.embed(input_ids, **images)
        return self.language_model.generate(attention_mask=attention_mask, **inputs)

    def chat(self, tokenizer, images, question: str, history=(), **options) -> str:
        """The answer to `question` as the next turn after `history`; see zvl.model.chat.chat."""
        return dialogue.chat(self, tokenizer, images, question, history, **options)

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, embeddings: nn.Module) -> None:
        self.language_model.set_input_embeddings(embeddings)

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, embeddings: nn.Module) -> None:
        self.language_model.set_output_embeddings(embeddings)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:
            init.normal_(module.query_tokens, std=self.config.initializer_range)
            init.constant_(module.temperature, 0.07)
        elif isinstance(module, LanguageHead):
            init.zeros_(module.bias)


def _new_vision_model(config: PreTrainedConfig) -> PreTrainedModel:
    # AutoModel refuses the configuration of BLIP-2's ViT, as it belongs to no model of its own there.
    if isinstance(config, InstructBlipVisionConfig):
        return InstructBlipVisionModel._from_config(config)
    return AutoModel.from_config(config)


def _keep_weights(part: nn.Module) -> None:
    # transformers initialises all that does not carry this mark when the model around it is complete.
    for module in part.modules():
        module._is_hf_initialized = True
    for tensor in (*part.parameters(), *part.buffers()):
        tensor._is_hf_initialized = True


AutoConfig.register(ZiyaVisualConfig.model_type, ZiyaVisualConfig, exist_ok=True)
AutoModel.register(ZiyaVisualConfig, ZiyaVisualForConditionalGeneration, exist_ok=True)
AutoModelForImageTextToText.register(ZiyaVisualConfig, ZiyaVisualForConditionalGeneration, exist_ok=True)
