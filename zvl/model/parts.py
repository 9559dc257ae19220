"""The parts that a preset names: ViT, Q-Former, language model and the Q-Former's tokenizer, nano or full size.

Every part is built in the same four ways: with the weights that its name brings, with those of a checkpoint's folder,
with random ones, or on the meta device, where it has shapes and no weights. Source: Ziya-Visual, section 3.2.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
    InstructBlipVisionModel,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import cached_file

from zvl.model import backbones, tokenizers
from zvl.model.objectives import QFormerForPretraining

if TYPE_CHECKING:
    from zvl.config import PartsConfig

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
INITIALIZER_RANGE = 0.02
ALLOWED_WEIGHTS = "'random', or the folder of a checkpoint in transformers' format (of BLIP-2, for one)"
VOCABULARIES = {  # with `[DEC]`, which BLIP-2 adds
    "google-bert/bert-base-uncased": 30523,
    "google-bert/bert-base-chinese": 21129,
    "google-bert/bert-base-multilingual-cased": 119548,
}


def vision_config(parts: PartsConfig) -> PreTrainedConfig:
    """The ViT's configuration; `eva-clip-g`: 1408 wide, 39 layers, patches of 14 pixels, 224 pixels a side."""
    if parts.vision == "nano":
        config = backbones.vision_config()
    elif parts.vision == "eva-clip-g":
        # The class's own initializer_range of 1e-10 would leave a random ViT blind.
        config = InstructBlipVisionConfig(initializer_range=INITIALIZER_RANGE)
    else:
        config = _local(AutoConfig, "vision", parts.vision, "'nano', 'eva-clip-g'")
        config = getattr(config, "vision_config", config)
        if config.model_type == "blip_2_vision_model":  # the same ViT under another name
            config = InstructBlipVisionConfig.from_dict(
                config.to_dict() | {"model_type": "instructblip_vision_model"}
            )
    return _shortened(config, parts.layers)


def image_size(parts: PartsConfig) -> int:
    """Pixels a side of the pictures that the ViT reads."""
    return vision_config(parts).image_size


def qformer_config(parts: PartsConfig) -> InstructBlipQFormerConfig:
    """The Q-Former's configuration, over the preset's vocabulary and ViT. `bert-base`: BLIP-2, section 3.1."""
    vocabulary, vision = vocabulary_size(parts), vision_config(parts)
    if parts.qformer == "nano":
        config = backbones.qformer_config(vocabulary)
    else:
        config = InstructBlipQFormerConfig(
            vocab_size=vocabulary, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
            initializer_range=INITIALIZER_RANGE,
        )  # fmt: skip
    config.encoder_hidden_size = vision.hidden_size
    return _shortened(config, parts.layers)


def llm_config(parts: PartsConfig) -> PreTrainedConfig:
    """The language model's configuration. `ziya-llama-13b`: LLaMA-13B with a vocabulary that knows Chinese."""
    if parts.llm == "nano":
        return backbones.llm_config(len(backbones.load_tokenizer()))
    if parts.llm == "ziya-llama-13b":
        return LlamaConfig(
            vocab_size=39424, hidden_size=5120, num_hidden_layers=40, num_attention_heads=40,
            intermediate_size=13824, max_position_embeddings=2048,
        )  # fmt: skip
    return _local(AutoConfig, "llm", parts.llm, "'nano', 'ziya-llama-13b'")


def new_vision(parts: PartsConfig, device: str = "cpu") -> PreTrainedModel:
    """The frozen ViT in evaluation mode, in the preset's precision.

    With weights "random" it is drawn from torch's default generator; on the meta device no weight is touched. A folder
    may hold the ViT alone, or a BLIP-2 or InstructBLIP checkpoint. Raises ValueError where there are no weights.
    """
    config, dtype = vision_config(parts), DTYPES[parts.precision]
    kind = InstructBlipVisionModel if isinstance(config, InstructBlipVisionConfig) else AutoModel
    if device == "meta" or parts.weights == "random":
        model = _new(kind, config, dtype, device)
    elif parts.weights == "shipped" and parts.vision == "nano":
        model = backbones.load_clip().vision_model
    else:
        source, mapping = _source(parts, "vision", parts.vision, "eva-clip-g"), {r"^vision_model\.": ""}
        model = _loaded(kind, source, config, dtype, key_mapping=mapping)
    return model.to(device).eval().requires_grad_(False)


def new_qformer(
    parts: PartsConfig, num_queries: int, projection_dim: int, device: str = "cpu"
) -> QFormerForPretraining:
    """An untrained Q-Former, float32: what is trained stays so, whatever precision computes.

    Drawn from torch's default generator, queries too: zeros, transformers' default, would make all queries one.
    """
    with torch.device(device):
        return QFormerForPretraining(
            qformer_config(parts),
            num_queries,
            projection_dim,
            decoder_start_id=_decoder_start_id(parts, device),
        )


def new_llm(parts: PartsConfig, device: str = "cpu") -> PreTrainedModel:
    """The language model in evaluation mode, as `new_vision` gives the ViT."""
    config, dtype = llm_config(parts), DTYPES[parts.precision]
    if device == "meta" or parts.weights == "random":
        model = _new(AutoModelForCausalLM, config, dtype, device)
    elif parts.weights == "shipped" and parts.llm == "nano":
        model = backbones.load_llm()
    else:
        source = _source(parts, "llm", parts.llm, "ziya-llama-13b")
        model = _loaded(AutoModelForCausalLM, source, config, dtype)
    return model.to(device).eval()


def text_tokenizer(parts: PartsConfig) -> PreTrainedTokenizerBase:
    """The Q-Former's tokenizer; see `zvl.model.tokenizers`."""
    if parts.tokenizer == "nano":
        return backbones.load_tokenizer()
    return tokenizers.text_tokenizer(parts.tokenizer)


def vocabulary_size(parts: PartsConfig) -> int:
    """How many rows the Q-Former's word embeddings have; known by name for the plan of a run, without a file."""
    return VOCABULARIES.get(parts.tokenizer) or len(text_tokenizer(parts))


def weight_files(parts: PartsConfig) -> list[Path]:
    """The files that the ViT's weights come from, for the key of what is made of them; none for random ones."""
    if parts.weights == "random":
        return []
    if parts.weights == "shipped" and parts.vision == "nano":
        return [backbones.NANO / "clip" / "model.safetensors"]
    folder = Path(_source(parts, "vision", parts.vision, "eva-clip-g"))
    return sorted([*folder.glob("*.json"), *folder.glob("*.safetensors")])


def made_of(parts: PartsConfig) -> dict:
    """What a training depends on of the parts, for its key: files by their contents, wherever they lie.

    How many processes read makes no difference.
    """
    vit, start, tokenizer = weight_files(parts), start_path(parts), Path(parts.tokenizer)
    named = {
        "workers": 0,
        "data": "" if Path(parts.data).is_dir() else parts.data,
        "start": parts.start if start is None else "",
        "weights": "" if Path(parts.weights).exists() else parts.weights,
        "vision": "" if Path(parts.vision).exists() else parts.vision,
        "tokenizer": "" if tokenizer.is_dir() else parts.tokenizer,
    }
    files = [tokenizer / name for name in tokenizers.FILES if (tokenizer / name).is_file()]
    return {"parts": replace(parts, **named), "vit": vit, "start": start, "tokenizer": files}


def start_path(parts: PartsConfig) -> Path | None:
    """The folder or file that the Q-Former starts from, None for the nano text tower and for nothing.

    Raises ValueError that says what is allowed where there is none on this machine.
    """
    if parts.start in ("text tower", "aligned", "nothing"):
        return None
    if Path(parts.start).exists():
        return Path(parts.start)
    try:
        return Path(cached_file(parts.start, "config.json", local_files_only=True)).parent
    except OSError as error:
        raise ValueError(
            f"parts.start {parts.start!r} is not on this machine; allowed are 'nothing', a file that `zvl convert` "
            "wrote, or a folder with the weights of BERT or of a BLIP-2 Q-Former, which this machine may keep under "
            "such a name"
        ) from error


def _decoder_start_id(parts: PartsConfig, device: str) -> int:
    if device == "meta" and parts.tokenizer in VOCABULARIES:
        return VOCABULARIES[parts.tokenizer] - 1  # a plan needs no tokenizer's files: `[DEC]` is added last
    return text_tokenizer(parts).convert_tokens_to_ids("[DEC]")


def _shortened(config: PreTrainedConfig, layers: int) -> PreTrainedConfig:
    if layers:
        config.num_hidden_layers = min(layers, config.num_hidden_layers)
    return config


def _new(kind: Any, config: PreTrainedConfig, dtype: torch.dtype, device: str) -> PreTrainedModel:
    with torch.device(device):
        return (kind.from_config if hasattr(kind, "from_config") else kind._from_config)(config, dtype=dtype)


def _source(parts: PartsConfig, field: str, name: str, architecture: str) -> str:
    """Where a part's weights are: the folder given as weights, or the one that is the part's own name."""
    if parts.weights != "shipped":
        return parts.weights
    if name == architecture:
        raise ValueError(
            f"parts.weights: the repository ships none of {field} {name!r}; allowed are {ALLOWED_WEIGHTS}"
        )
    return name


def _loaded(
    kind: Any, source: str, config: PreTrainedConfig, dtype: torch.dtype, **options
) -> PreTrainedModel:
    """A model with weights from a folder, all of them: transformers alone would draw what it does not find."""
    options |= {"config": config, "dtype": dtype, "use_safetensors": True, "output_loading_info": True}
    model, found = _local(kind, "weights", source, ALLOWED_WEIGHTS, **options)
    if lacking := sorted(found["missing_keys"]):
        raise ValueError(
            f"parts.weights {source!r} lacks {len(lacking)} tensors of {type(model).__name__}, such as {lacking[0]!r}; "
            "is it a checkpoint of another model?"
        )
    return model


def _local(kind: Any, field: str, source: str, allowed: str, **options) -> Any:
    """from_pretrained of files on this machine alone. Raises ValueError that names the field and what is allowed."""
    try:
        return kind.from_pretrained(source, local_files_only=True, **options)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"parts.{field} {source!r} is not in transformers' format on this machine; allowed are {allowed}, or a "
            f"folder ({str(error).splitlines()[0]})"
        ) from error
