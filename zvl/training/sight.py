"""The frozen ViT at work: features of pictures computed when they are asked for, and not kept.

Kept features make training 2.6 times as fast, but a picture takes 724 kB at full size: 30 million take 22 TB.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import PartialState
from torch import Tensor, nn

from zvl.data.pixels import read_image, to_pixels

AT_ONCE = 128  # pictures that the ViT sees together


@torch.no_grad()
def see(vision: nn.Module, pixel_values: Tensor) -> Tensor:
    """The frozen ViT's output for (images, 3, size, size): (images, patches, width), on the pixels' device.

    A ViT held in bfloat16 computes in it throughout and gives it; one held in float32 runs under autocast and gives
    float32. No autograd state is kept.
    """
    vision.to(pixel_values.device)
    full = vision.dtype == torch.float32
    with torch.autocast(pixel_values.device.type, torch.bfloat16, enabled=full):
        features = vision(pixel_values=pixel_values.to(vision.dtype)).last_hidden_state
    return features.float() if full else features


class LiveFeatures:
    """Looks like the tensor (images, patches, width) of the features of picture files, but computes the rows asked for.

    vision: the frozen ViT. paths: picture files. It runs on this process's device; rows come back on the CPU.
    """

    def __init__(self, vision: nn.Module, paths: Sequence[str]):
        self.vision, self.paths = vision, paths
        config = vision.config
        self.shape = (len(paths), 1 + (config.image_size // config.patch_size) ** 2, config.hidden_size)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: slice | Sequence[int] | Tensor) -> Tensor:
        """rows: a slice, numbers, or a long tensor (n,). Returns (n, patches, width)."""
        rows = range(len(self))[rows] if isinstance(rows, slice) else torch.as_tensor(rows).tolist()
        seen = [
            see(self.vision, self.pixels(rows[start : start + AT_ONCE]).to(PartialState().device)).cpu()
            for start in range(0, len(rows), AT_ONCE)
        ]
        features = torch.cat(seen) if seen else torch.empty(0, *self.shape[1:])
        # It has but bfloat16's precision.
        return features.half() if features.dtype == torch.float32 else features

    def pixels(self, rows: Sequence[int]) -> Tensor:
        """The pictures themselves: (n, 3, size, size) float32."""
        return to_pixels([read_image(self.paths[row]) for row in rows], self.vision.config.image_size)


def look(
    vision: nn.Module, paths: Sequence[str], progress=lambda items, label: items, batch_size: int = AT_ONCE
) -> Tensor:
    """The features of all these pictures at once, in memory: (images, patches, width) in half precision."""
    live = LiveFeatures(vision, paths)
    starts = progress(range(0, len(paths), batch_size), "ViT features")
    return torch.cat([live[start : start + batch_size] for start in starts])
