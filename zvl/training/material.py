"""What readers gave, with the frozen ViT's features of its pictures: the form in which data reaches the trainings."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from zvl.data.pixels import read_image, to_pixels
from zvl.data.samples import Pair, Sample
from zvl.model import backbones
from zvl.training import loop


def bar(items, label):
    return tqdm(items, desc=label, disable=not loop._show_progress(None), leave=False)


@dataclass(frozen=True)
class Data:
    """What the readers gave for one split, with the frozen ViT's features of its images.

    features: (images, 65, 192) half precision. row: image path -> row of `features`.
    """

    pairs: tuple[Pair, ...]
    regions: tuple[Pair, ...]
    swapped: tuple[Pair, ...]
    questions: tuple[Sample, ...]
    dialogues: tuple[Sample, ...]
    bmmic: tuple[Sample, ...]
    images: tuple[str, ...]
    features: Tensor

    @functools.cached_property
    def row(self) -> dict[str, int]:
        return {image: number for number, image in enumerate(self.images)}


@torch.no_grad()
def vision_features(paths: tuple[str, ...], batch_size: int = 128) -> Tensor:
    """The frozen ViT's output for picture files: (images, 65, 192) in bfloat16's precision, stored as float16."""
    vit = backbones.load_clip().vision_model
    features = []
    for start in bar(range(0, len(paths), batch_size), "ViT features"):
        pixels = to_pixels([read_image(path) for path in paths[start : start + batch_size]])
        with torch.autocast("cpu", torch.bfloat16):
            features.append(vit(pixels).last_hidden_state.half())
    return torch.cat(features)
