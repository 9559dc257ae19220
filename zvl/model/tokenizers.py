"""The text tokenizer of the Q-Former, by name, and how much of a data set's text it does not know.

The paper does not say which vocabulary its Q-Former has (section 3.2). BLIP-2's is that of the English bert-base, which
knows few Chinese characters; at full size take a multilingual or a Chinese BERT and look at `unknown_rates` first.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from zvl.model import backbones, chat

NANO = "nano"
DECODER_START = "[DEC]"
FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt")  # of a BERT; the first two suffice
_PART = 1000  # texts that are tokenised in one call


def text_tokenizer(name_or_path: str | Path = NANO, download: bool = False):
    """A tokenizer for the Q-Former's text side, with all that `caption_ids` and the objectives ask of one.

    name_or_path: "nano", the repository's own; a folder with tokenizer files; or a name on the hub, such as
        "google-bert/bert-base-multilingual-cased" or "hfl/chinese-macbert-base".
    download: whether files may be fetched that are not on this machine. No code of the hub is ever run.

    `[DEC]`, which starts a text that is to be generated, becomes the beginning token as in BLIP-2. A tokenizer
    without an end token ends with `sep_token`, one without `cls_token` starts with its beginning token. The Q-Former's
    vocab_size is `len()` of the result.
    Raises FileNotFoundError that says which files are absent and where they go, and ValueError for a tokenizer that
    the Q-Former cannot use.
    """
    if str(name_or_path) == NANO:
        return backbones.load_tokenizer()
    tokenizer = _load(name_or_path, download)
    if not tokenizer.is_fast:
        raise ValueError(
            f"{name_or_path}: has no fast tokenizer (tokenizer.json), which says what it knows of a text"
        )
    if tokenizer.cls_token is None and tokenizer.bos_token is not None:
        tokenizer.cls_token = tokenizer.bos_token
    if tokenizer.eos_token is None and tokenizer.sep_token is not None:
        tokenizer.eos_token = tokenizer.sep_token
    if lacking := [
        name for name in ("cls_token", "eos_token", "pad_token") if getattr(tokenizer, name) is None
    ]:
        raise ValueError(
            f"{name_or_path}: has no {', '.join(lacking)}; the Q-Former reads `cls, text, end, padding`: set them in "
            "special_tokens_map.json, or take a tokenizer of the BERT family"
        )
    if DECODER_START not in tokenizer.all_special_tokens:
        tokenizer.add_special_tokens({"bos_token": DECODER_START})
    # transformers 5 makes a tokenizer of special tokens alone, without a word, where a vocabulary is missing.
    if unknown_rate(tokenizer, ["a picture of a dog", "一张狗的照片"]).rate == 1:
        raise ValueError(
            f"{name_or_path}: knows neither a simple English nor a simple Chinese sentence among its {len(tokenizer)} "
            f"tokens; is its vocabulary missing? Wanted are {' or '.join(FILES[::2])} beside {FILES[1]}"
        )
    return tokenizer


def _load(name: str | Path, download: bool):
    from transformers import AutoTokenizer

    if Path(name).is_dir():
        if not any((Path(name) / file).is_file() for file in FILES[:2]):
            raise FileNotFoundError(f"{name}: no tokenizer here; wanted are {', '.join(FILES)}")
        download = False
    try:
        return AutoTokenizer.from_pretrained(str(name), local_files_only=not download)
    except json.JSONDecodeError as error:
        raise ValueError(f"{name}: a tokenizer file is not JSON ({error})") from error
    except OSError as error:
        raise FileNotFoundError(
            f"the tokenizer {str(name)!r} is neither a folder nor on this machine. Where there is a network, run\n"
            f"    hf download {name} {' '.join(FILES)}\n"
            "which puts it into the folder that HF_HOME names (~/.cache/huggingface by default); copy that folder, or "
            "put these files into any folder and give its path"
        ) from error
    except ValueError as error:  # transformers' own message is about sentencepiece, whatever is wrong
        raise ValueError(
            f"{name}: transformers makes no tokenizer of these files ({' '.join(str(error).split())})"
        ) from error


def caption_ids(tokenizer, captions: Sequence[str], max_length: int | None = None) -> tuple[Tensor, Tensor]:
    """Captions for the Q-Former's text side: ids and mask (batch, length), the class token first, the end token last.

    max_length: tokens of a row, both included; a longer caption loses its end (32 in BLIP-2).
    """
    rows = chat.text_ids(tokenizer, list(captions))
    if max_length is not None:
        rows = [ids[: max_length - 2] for ids in rows]
    rows = [[tokenizer.cls_token_id, *ids, tokenizer.eos_token_id] for ids in rows]
    length = -(-max(map(len, rows)) // 8) * 8  # few different shapes keep the memory of a long training small
    ids = torch.tensor([line + [tokenizer.pad_token_id] * (length - len(line)) for line in rows])
    return ids, torch.arange(length) < torch.tensor([len(line) for line in rows])[:, None]


def word_level(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer that knows the words of these texts, and no others: a measure of what a language loses to another's.

    Chinese characters are words of one character, as in BERT.
    """
    words = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    words.normalizer, words.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    words.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=["[UNK]"], show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")


@dataclass(frozen=True)
class UnknownRate:
    """What a tokenizer makes of texts: how many tokens, how many of them stand for "unknown", what is lost.

    characters: those of the texts that are not white space. lost: those of them that no known token covers.
    examples: (what was unknown, how often), the most frequent first.
    """

    texts: int
    tokens: int
    unknown: int
    characters: int
    lost: int
    examples: tuple[tuple[str, int], ...]

    @property
    def rate(self) -> float:
        """The share of the tokens that are unknown, 0 where there are none."""
        return self.unknown / max(1, self.tokens)

    @property
    def lost_rate(self) -> float:
        """The share of the characters that are lost. An unknown word is one token, however long it is."""
        return self.lost / max(1, self.characters)


def unknown_rate(tokenizer, texts: Iterable[str], examples: int = 10) -> UnknownRate:
    """How much of the texts the tokenizer does not know; texts are read one after another, never all held."""
    tally, texts = _Tally(), iter(texts)
    while part := list(islice(texts, _PART)):
        tally.add(tokenizer, part)
    return tally.result(examples)


def unknown_rates(pairs: Iterable, tokenizer, examples: int = 5) -> list[dict[str, str]]:
    """`unknown_rate` of each data set and language, as rows of a table, in the order in which they first occur.

    pairs: records with `source`, `language` and `caption`, such as the data's Pair; read one after another.
    """
    tallies: dict[tuple[str, str], _Tally] = {}
    waiting: dict[tuple[str, str], list[str]] = defaultdict(list)
    for pair in pairs:
        key = pair.source, pair.language
        tally, part = tallies.setdefault(key, _Tally()), waiting[key]
        part.append(pair.caption)
        if len(part) == _PART:
            tally.add(tokenizer, waiting.pop(key))
    for key, part in waiting.items():
        tallies[key].add(tokenizer, part)
    rows = []
    for (source, language), tally in tallies.items():
        found = tally.result(examples)
        rows.append(
            {
                "Dataset": source,
                "Language": language,
                "Captions": f"{found.texts:,}",
                "Tokens a caption": f"{found.tokens / found.texts:.1f}",
                "Unknown tokens": f"{found.rate:.2%}",
                "Characters lost": f"{found.lost_rate:.2%}",
                "Unknown, most frequent": " ".join(piece for piece, _ in found.examples),
            }
        )
    return rows


@dataclass
class _Tally:
    """The counts of an UnknownRate while they grow."""

    counts: Counter[str] = field(default_factory=Counter)
    pieces: Counter[str] = field(default_factory=Counter)

    def add(self, tokenizer, texts: list[str]) -> None:
        found = tokenizer(
            texts, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True,
            return_attention_mask=False,
        )  # fmt: skip
        for text, ids, spans in zip(texts, found["input_ids"], found["offset_mapping"], strict=True):
            covered = bytearray(len(text))
            for token, (start, end) in zip(ids, spans, strict=True):
                if token == tokenizer.unk_token_id:
                    self.pieces[text[start:end]] += 1
                else:
                    covered[start:end] = b"\1" * (end - start)
            seen = [known for character, known in zip(text, covered, strict=True) if not character.isspace()]
            self.counts.update(texts=1, tokens=len(ids), characters=len(seen), lost=len(seen) - sum(seen))

    def result(self, examples: int) -> UnknownRate:
        return UnknownRate(
            self.counts["texts"], self.counts["tokens"], self.pieces.total(), self.counts["characters"],
            self.counts["lost"], tuple(self.pieces.most_common(examples)),
        )  # fmt: skip
