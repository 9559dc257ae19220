"""Boxes as text: `(x1,y1),(x2,y2)` in thousandths of the picture, 0 to 999, as Qwen-VL writes them."""

from __future__ import annotations

import re

Box = tuple[float, float, float, float]  # (x, y, width, height) in pixels

_WRITTEN = re.compile(r"\(\s*(\d{1,3})\s*,\s*(\d{1,3})\s*\)\s*,\s*\(\s*(\d{1,3})\s*,\s*(\d{1,3})\s*\)")


def box_text(box: Box, width: float, height: float) -> str:
    """A box of a picture of width and height, all in pixels, as text.

    Raises ValueError for a box without area or one that leaves the picture.
    """
    x, y, w, h = box
    if not (0 <= x < x + w <= width and 0 <= y < y + h <= height):
        raise ValueError(f"box {box} does not lie within a picture of {width} by {height} pixels")
    left, right = (min(int(1000 * v / width), 999) for v in (x, x + w))
    top, bottom = (min(int(1000 * v / height), 999) for v in (y, y + h))
    return f"({left},{top}),({right},{bottom})"


def corners_text(corners: tuple[float, float, float, float]) -> str:
    """(left, top, right, bottom) as shares of the picture's sides, 0 to 1, as text.

    Raises ValueError for a box without area or one that leaves the picture.
    """
    left, top, right, bottom = corners
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise ValueError(f"box {corners} does not lie within the sides, 0 to 1")
    left, top, right, bottom = (min(int(1000 * v), 999) for v in corners)
    return f"({left},{top}),({right},{bottom})"


def boxes_in(text: str, width: float, height: float) -> list[Box]:
    """The boxes written in a text, in pixels of a picture of width and height; what has no area is left out."""
    found = []
    for match in _WRITTEN.finditer(text):
        left, top, right, bottom = map(int, match.groups())
        if left < right and top < bottom:
            scale_x, scale_y = width / 1000, height / 1000
            found.append((left * scale_x, top * scale_y, (right - left) * scale_x, (bottom - top) * scale_y))
    return found


def iou(first: Box, second: Box) -> float:
    """Intersection over union of two boxes."""
    across = min(first[0] + first[2], second[0] + second[2]) - max(first[0], second[0])
    down = min(first[1] + first[3], second[1] + second[3]) - max(first[1], second[1])
    shared = max(across, 0) * max(down, 0)
    total = first[2] * first[3] + second[2] * second[3] - shared
    return shared / total if total > 0 else 0.0
