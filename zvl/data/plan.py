"""What the data factory is to write: for which pictures, in which languages, of which kinds."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass

from zvl.data import prompting
from zvl.data.samples import LANGUAGES
from zvl.data.symbols import Symbols, symbols_text


@dataclass(frozen=True)
class FactoryConfig:
    """How much is made. A picture gives one dialogue in each language."""

    pictures: int = 2200  # the first ones of the symbols
    rewritten: float = 0.5  # share of the clean dialogues that are rewritten, once each
    translated: float = 0.25  # share of the clean English dialogues that are translated
    mistakes: float = 0.15  # share of the symbolic teacher's dialogues that it spoils on purpose
    teacher_url: str = ""  # of an OpenAI-compatible server; empty: the symbolic teacher
    teacher_model: str = ""  # the server's name of its model
    shard_size: int = 200  # pictures a shard, the unit of resume
    seed: int = 0


def plan(symbols: Iterable[Symbols], config: FactoryConfig) -> list[dict]:
    """A row for each picture and language, its kind drawn by seed and id.

    symbols: of both languages; only pictures that have both are planned, in the order of their first appearance.
    """
    by_picture: dict[str, dict[str, Symbols]] = {}
    for told in symbols:
        by_picture.setdefault(told.image_id, {})[told.language] = told
    whole = [both for both in by_picture.values() if len(both) == len(LANGUAGES)]
    rows = []
    for both in whole[: config.pictures]:
        for language in LANGUAGES:
            name = f"bmmic-{language}-{both[language].image_id}"
            rows.append({
                "id": name,
                "image": os.path.basename(both[language].image),
                "language": language,
                "kind": prompting.KINDS[draw(config.seed, name) % len(prompting.KINDS)],
                "symbols": symbols_text(both[language]),
                "symbols_zh": symbols_text(both["zh"]),
            })  # fmt: skip
    return rows


def draw(seed: int, text: str) -> int:
    """A number from a seed and a name, the same in every order and every process."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{text}".encode()).digest()[:6], "big")
