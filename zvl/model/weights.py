"""Weights in files: safetensors, in one file or in shards, or what torch can read without running code.

A checkpoint of a stranger is data, never a program: a pickle that asks for more than tensors is refused.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

PICKLES = (".bin", ".pt", ".pth")
# In this order, as transformers looks for them.
_IN_FOLDER = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"
)  # fmt: skip
_WRAPPERS = ("model", "state_dict")  # LAVIS and timm write {"model": weights, "optimizer": ...}


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Name -> tensor, on the CPU, in the dtypes of the file.

    path: a .safetensors file; an index of shards (*.index.json); a .bin, .pt or .pth file, of which LAVIS's
        {"model": ...} is unwrapped; or a folder with one of those under the names that transformers gives them.
    Raises FileNotFoundError, or ValueError that names the file, for a kind that is not read, for a damaged file, for
    a pickle that asks for anything but tensors (nothing of it is run), and for shards that disagree with their index.
    """
    path = Path(path)
    if path.is_dir():
        path = _in_folder(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of weights")
    if path.name.endswith(".index.json"):
        return _read_shards(path)
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path}: not a whole safetensors file ({error}); get it again") from error
    if path.suffix in PICKLES:
        return _read_pickle(path)
    kinds = ", ".join((".safetensors", "*.index.json", *PICKLES))
    raise ValueError(f"{path}: weights are read from {kinds} or a folder of them, not from {path.suffix!r}")


def write_weights(state: Mapping[str, Tensor], path: str | Path) -> None:
    """Write a state dict as safetensors, or as {"model": state} where the path ends in .pth, which LAVIS reads.

    The file appears under its name when it is whole. Raises FileExistsError for a file that is there already, and
    ValueError for another ending.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists; delete it or choose another name")
    if path.suffix not in (".safetensors", ".pth"):
        raise ValueError(
            f"{path}: weights are written to .safetensors, or to .pth for LAVIS, not {path.suffix!r}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.writing")
    # A copy of each: safetensors refuses tensors that share memory, as tied weights do.
    copies = {n: t.detach().cpu().clone(memory_format=torch.contiguous_format) for n, t in state.items()}
    if path.suffix == ".pth":
        torch.save({"model": copies}, unfinished)
    else:
        save_file(copies, unfinished, {"format": "pt"})  # transformers refuses files without this mark
    os.replace(unfinished, path)


def _in_folder(folder: Path) -> Path:
    for name in _IN_FOLDER:
        if (folder / name).is_file():
            return folder / name
    found = sorted(folder.glob("*.safetensors"))
    if len(found) == 1:
        return found[0]
    names = ", ".join(file.name for file in found) or "no .safetensors file"
    raise FileNotFoundError(
        f"{folder}: none of {', '.join(_IN_FOLDER)}, and {names}; name the file of weights"
    )


def _read_shards(index: Path) -> dict[str, Tensor]:
    try:
        places = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
        files = sorted(set(map(str, places.values())))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{index}: not an index of shards with a weight_map ({error!r})") from error
    state: dict[str, Tensor] = {}
    for name in files:
        if Path(name).name != name or name.endswith(".index.json"):
            raise ValueError(f"{index}: {name!r} is not a file name beside the index")
        shard = read_weights(index.parent / name)
        wanted = {key for key, file in places.items() if file == name}
        if shard.keys() != wanted:
            odd = ", ".join(sorted(shard.keys() ^ wanted)[:5])
            raise ValueError(
                f"{index.parent / name}: holds other weights than {index.name} says, such as {odd}"
            )
        state |= shard
    return state


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path}: refused, it is a pickle that asks for more than tensors, and such a pickle can run code: "
            f"{str(error).splitlines()[0]} Take the safetensors of this model; or, if you trust its author, load it "
            "on a machine where that may do no harm, and save its weights as safetensors."
        ) from error
    except Exception as error:  # torch raises nearly anything on bytes that are no checkpoint
        raise ValueError(f"{path}: not a checkpoint that torch can read ({error})") from error
    for name in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
            break
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"{path}: holds a {type(content).__name__}, not names with tensors")
    if odd := [str(name) for name, value in content.items() if not isinstance(value, Tensor)]:
        raise ValueError(
            f"{path}: these entries are no tensors: {', '.join(odd[:5])}; expected are weights by name, or "
            f"such weights under {' or '.join(map(repr, _WRAPPERS))}"
        )
    return dict(content)
