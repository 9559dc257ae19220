"""Captions whose common words are exchanged for any others, so that matching minds names and not wordings.

The Moji world speaks in five wordings a language. Whoever learns from these alone takes a word that it never met, the
"with" of another wording, for a fault of the caption. Web captions need no such noise: they have all wordings.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from zvl.data.samples import Pair
from zvl.model import chat

COMMON = 0.2  # share of a language's captions from which on a word belongs to the wording
OFTEN = 0.5  # of the common words in a noisy caption, how many are exchanged


class Exchange:
    """Exchanges words of the wordings for words that tell nothing: common ones, and those that no caption has.

    tokenizer: that of the captions; its special tokens neither go nor come, and rare words and its added ones, the
    names, in no spelling.
    """

    def __init__(self, tokenizer, pairs: Sequence[Pair]):
        seen: dict[str, Counter] = defaultdict(Counter)
        texts = Counter(pair.language for pair in pairs)
        for pair, ids in zip(pairs, chat.text_ids(tokenizer, [pair.caption for pair in pairs]), strict=True):
            seen[pair.language].update(set(ids))
        common = {
            n for lang, found in seen.items() for n, times in found.items() if times >= COMMON * texts[lang]
        }
        special, text = set(tokenizer.all_special_ids), [tokenizer.decode([n]) for n in range(len(tokenizer))]
        rare = {n for found in seen.values() for n in found} - common
        names = {text[n].strip().lower() for n in rare | set(tokenizer.get_added_vocab().values())}
        others = [
            n for n in range(len(tokenizer)) if n not in special and text[n].strip().lower() not in names
        ]
        self.common = torch.zeros(len(tokenizer), dtype=torch.bool)
        self.common[sorted(common - special)] = True
        self.others = torch.tensor(others)

    def __call__(self, input_ids: Tensor, rng: np.random.Generator) -> Tensor:
        """(rows, length) with about half of the common words exchanged."""
        drawn = self.others[torch.from_numpy(rng.integers(len(self.others), size=tuple(input_ids.shape)))]
        goes = torch.from_numpy(rng.random(tuple(input_ids.shape)) < OFTEN) & self.common[input_ids]
        return torch.where(goes, drawn, input_ids)
