"""Which parameters each stage trains, LoRA for Chat's second stage, and results kept by what they depend on.

Source: Ziya-Visual, section 3.3, Figure 3 (Base) and Figure 8 (Chat).

| | stage 1 | stage 2 |
|---|---|---|
| Base | projection | projection, Q-Former |
| Chat | projection, Q-Former (a switch freezes it) | the same, and LoRA in ViT and language model |
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from accelerate import PartialState
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import save_file
from torch import nn

PARTS = (
    "vision_model",
    "query_tokens",
    "qformer",
    "pretraining heads",
    "language_projection",
    "language_model",
)
PRETRAINING_HEADS = ("vision_projection", "text_projection", "itm_head", "lm_head", "temperature")
MARKER = "complete.json"


def configure_stage(
    model: nn.Module,
    kind: str,
    stage: int,
    freeze_qformer: bool = False,
    lora_rank: int = 8,
    llm_targets: tuple[str, ...] = ("q_proj", "v_proj"),
    seed: int = 0,
) -> nn.Module:
    """Set requires_grad throughout a ZiyaVisualForConditionalGeneration for one stage; returns the model.

    kind: "base" or "chat"; it must agree with config.instruction_aware. stage: 1 or 2.
    freeze_qformer: leave the Q-Former and its queries frozen where this stage would train them.
    lora_rank: of the adapters (alpha is twice the rank) put into the ViT's `qkv` and the language model's
        `llm_targets` for Chat's second stage; `seed` initialises them, at first they change nothing.

    The Q-Former's heads of ITC, ITM and ITG stay frozen. So do the weights that no query can feel, or they
    would wait for a gradient that never comes: the text side in Base, the last layer's text feed-forward in
    Chat. Raises ValueError for an unknown stage, a kind that is not the model's, or absent LoRA targets.
    """
    if kind not in ("base", "chat") or stage not in (1, 2):
        raise ValueError(f"no stage {kind!r} {stage!r}: kinds are 'base' and 'chat', stages 1 and 2")
    if model.config.instruction_aware != (kind == "chat"):
        raise ValueError(
            f"kind is {kind!r}, but the model's instruction_aware is {model.config.instruction_aware}"
        )
    if kind == "chat" and stage == 2:
        _inject_lora(model, lora_rank, llm_targets, seed)
    opens_qformer = not freeze_qformer and not (kind == "base" and stage == 1)
    unfelt = unfelt_by_queries(model, reads_text=kind == "chat")
    for name, p in model.named_parameters():
        p.requires_grad_(
            name.startswith("language_projection.")
            or ".lora_" in name
            or (opens_qformer and re.match(r"query_tokens$|qformer\.", name) is not None and not unfelt(name))
        )
    return model


def unfelt_by_queries(model: nn.Module, reads_text: bool) -> Callable[[str], bool]:
    """Tells the Q-Former's weights that leave its queries' last states as they are."""
    if reads_text:
        last = model.config.qformer_config.num_hidden_layers - 1
        pattern = rf"qformer\.encoder\.layer\.{last}\.(intermediate|output)\."
    else:
        pattern = (
            r"qformer\.(embeddings\.(word|position)_embeddings|encoder\.layer\.\d+\.(intermediate|output))\."
        )
    return lambda name: re.match(pattern, name) is not None


def _inject_lora(model: nn.Module, rank: int, llm_targets: tuple[str, ...], seed: int) -> None:
    if any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        return  # the stage is being resumed: the adapters are there
    pattern = rf"vision_model\..*\.qkv|language_model\..*\.({'|'.join(map(re.escape, llm_targets))})"
    names = [name for name, _ in model.named_modules() if re.fullmatch(pattern, name)]
    for part in ("vision_model", "language_model"):
        if not any(name.startswith(part) for name in names):
            raise ValueError(f"LoRA: {part} has no module that matches {pattern!r}")
    config = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=pattern)
    on_meta = any(p.is_meta for p in model.parameters())  # only counting parameters
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model, low_cpu_mem_usage=on_meta)
    for name, p in model.named_parameters():
        if ".lora_" in name:
            p.data = p.data.float()  # small steps would be lost in a half-precision adapter


def merge_lora(model: nn.Module) -> nn.Module:
    """Add the adapters to the weights they adapt and remove them; the model then saves under plain names."""
    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config
    return model


def parameter_table(model: nn.Module) -> list[tuple[str, int, int]]:
    """Rows (part, trainable parameters, frozen parameters), the same parts in the same order for every stage.

    Works on the meta device too, so that the full preset can be counted without its weights.
    """
    counts = {part: [0, 0] for part in PARTS}
    for name, p in model.named_parameters():
        part = name.split(".")[0]
        part = "pretraining heads" if part in PRETRAINING_HEADS else part
        counts.setdefault(part, [0, 0])[0 if p.requires_grad else 1] += p.numel()
    return [(part, trainable, frozen) for part, (trainable, frozen) in counts.items()]


def code_version(*modules: ModuleType) -> str:
    """Hash of the modules' source; for a package, of every file of code or sentences in it."""
    digest = hashlib.sha256()
    for module in modules:
        if hasattr(module, "__path__"):
            found = (file for folder in module.__path__ for file in Path(folder).rglob("*"))
            files = sorted(file for file in found if file.suffix in (".py", ".yaml", ".txt"))
        else:
            files = [Path(module.__file__)]
        for file in files:
            digest.update(f"{module.__name__}/{file.name}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()


def cached(stage: str, inputs: Mapping[str, Any], folder: str | Path, build: Callable[[Path], Any]) -> Path:
    """The folder with the result of `stage` for these inputs; `build(path)` fills it unless it is complete.

    inputs: all the result depends on: configuration, data, code_version. Values are numbers, strings, None,
        lists, tuples, dicts, dataclasses, or paths, which count by content (a folder made by `cached`: by its
        key). Raises TypeError for others.
    The folder is `folder/<stage>-<key>`. Its marker is written last: after an interruption `build` is called
    again on the same folder, so that a training resumes from its checkpoints.
    """
    plain = {name: _plain(value, f"inputs[{name!r}]") for name, value in inputs.items()}
    text = json.dumps({"stage": stage, "inputs": plain}, sort_keys=True, ensure_ascii=False)
    key = hashlib.sha256(text.encode()).hexdigest()
    result = Path(folder) / f"{stage}-{key[:12]}"
    if _key_of(result) == key:
        return result
    result.mkdir(parents=True, exist_ok=True)
    build(result)
    if not PartialState().is_main_process:  # several processes train together, one says that it is done
        return result
    unfinished = result / f".{MARKER}"
    marker = {"key": key, "stage": stage, "inputs": plain}
    unfinished.write_text(json.dumps(marker, ensure_ascii=False, indent=1), encoding="utf-8")
    os.replace(unfinished, result / MARKER)
    return result


def _key_of(folder: Path) -> str | None:
    """The key of a complete result folder, None for anything else."""
    try:
        return json.loads((folder / MARKER).read_text(encoding="utf-8"))["key"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _plain(value: Any, where: str) -> Any:
    """The value as JSON that stands for its content."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return {"content": _content(value, where)}
    if is_dataclass(value) and not isinstance(value, type):
        return {type(value).__name__: _plain(asdict(value), where)}
    if isinstance(value, Mapping):
        return {str(name): _plain(item, f"{where}[{name!r}]") for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    raise TypeError(
        f"{where} is a {type(value).__name__}: give numbers, strings, None, lists, dicts, dataclasses, paths"
    )


def _content(path: Path, where: str) -> str:
    if path.is_file():
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    if not path.is_dir():
        raise FileNotFoundError(f"{where}: {path} does not exist")
    if (key := _key_of(path)) is not None:
        return key
    digest = hashlib.sha256()
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()}\0{_content(file, where)}\0".encode())
    return digest.hexdigest()


def save_trained(model: torch.nn.Module, history: list[dict], path: Path) -> None:
    """What this stage has trained (the whole Q-Former for pre-training), and how it went; one process writes."""
    if not PartialState().is_main_process:
        return PartialState().wait_for_everyone()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    weights = {
        name: value.detach().contiguous() for name, value in model.state_dict().items() if name in trained
    }
    save_file(weights, str(path / "model.safetensors"))
    (path / "history.json").write_text(json.dumps(history), encoding="utf8")
    PartialState().wait_for_everyone()


def read_history(path: Path) -> list[dict]:
    """The history of a training that `save_trained` kept in this folder."""
    return json.loads((path / "history.json").read_text(encoding="utf8"))
