"""What a pair must keep to, for each data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What a pair of one data set must keep to.

    Sides of 200 pixels and an aspect ratio of 3 are Wukong's (arXiv 2202.06767), 3 to 256 words CC12M's
    (arXiv 2102.08981); the others are ours. Sides and pixels in pixels; words are English words, or Chinese
    characters and the Latin words among them. `accents`: accented letters a caption may have, so that "café" passes and
    French does not. `foreign`: the share of words in the other language, by language; Chinese captions hold brand
    names. `spread`: standard deviation of the grey values (0 to 255) below which a picture is blank.
    `score`: the lowest CLIP score, for each data set its own: see `zvl.evaluation.clip_score.choose_threshold`.
    """

    side: int = 200
    aspect: float = 3.0
    pixels: int = 50_000_000
    spread: float = 2.0
    words: tuple[int, int] = (3, 256)
    accents: int = 2
    foreign_en: float = 0.2
    foreign_zh: float = 0.5
    score: float | None = None


DEFAULT = Limits()
# Scenes are 96 pixels wide, and "老虎。" is a whole caption.
MOJI = Limits(side=64, words=(1, 256))


def of_source(limits: Limits | Mapping[str, Limits], source: str) -> Limits:
    """The limits of one data set: the same for all, or by name with "" for those that are not named."""
    if isinstance(limits, Limits):
        return limits
    if source not in limits and "" not in limits:
        raise KeyError(f"no limits for data set {source!r}, and none under '' for the others")
    return limits.get(source, limits.get(""))
