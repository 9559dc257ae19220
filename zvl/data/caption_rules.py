"""Rules over captions, of Qwen-VL's appendix A.1: language, characters, emoji, length."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import NamedTuple

import emoji

from zvl.data.limits import Limits
from zvl.data.samples import LANGUAGES

_HAN = re.compile(r"[\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]+")
_WORD = re.compile(r"[A-Za-zÀ-ÖØ-öø-ÿ]['’A-Za-zÀ-ÖØ-öø-ÿ-]*")
_ACCENT = re.compile(r"[À-ÖØ-öø-ÿ]")
_QUOTED = re.compile('["“][^"“”]*["”]|「[^」]*」|《[^》]*》')
# ASCII, Latin-1 with its letters and signs, punctuation, currency, letter-like and number signs, Han and full width.
_STRANGE = re.compile(
    r"[^\x20-\x7e\xa1-\xff\u2010-\u2027\u2030-\u205e\u20ac\u2103\u2109\u2116\u2122\u2150-\u218b\u2190-\u2193"
    r"\u2212\u2460-\u2473\u3000-\u303f\u30fb\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\ufe30-\ufe4f\uff01-\uff5e\uffe0-\uffe6"
    r"\U00020000-\U000323af]"
)


@functools.cache
def _emoji_pattern() -> re.Pattern:
    """Characters that show as emoji by themselves, flags, skin tones, and the marks that turn a sign into one.

    ©, ™ and the like are text unless such a mark follows. Only strange characters are looked at.
    """
    shown = {emoji.STATUS["fully_qualified"], emoji.STATUS["component"]}
    codes = sorted(ord(c) for c, told in emoji.EMOJI_DATA.items() if len(c) == 1 and told["status"] in shown)
    ranges: list[list[int]] = []
    for code in codes:  # Python walks through single characters beyond U+FFFF one by one, a thousand of them
        if ranges and code == ranges[-1][1] + 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    inside = "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)
    return re.compile(
        f".[\ufe0f\U0001f3fb-\U0001f3ff]|[{inside}\u200d\ufe0f\u20e3\U0001f1e6-\U0001f1ff\U000e0020-\U000e007f]"
    )


class Caption(NamedTuple):
    """A cleaned caption with its counts.

    han, words: Chinese characters and Latin words; said_han, said_words: those outside quotation marks, for what stands
    on a sign is quoted as it stands there. strange: the first character that neither language is written with, or "".
    """

    text: str
    language: str
    han: int
    words: int
    said_han: int
    said_words: int
    strange: str = ""


def _han(text: str) -> int:
    return sum(map(len, _HAN.findall(text)))


def count(text: str, language: str) -> Caption:
    words = len(_WORD.findall(text))
    if text.isascii():
        return Caption(text, language, 0, words, 0, words)
    han, strange = _han(text), _STRANGE.search(text)
    said_han, said_words = han, words
    if han and words and (said := _QUOTED.sub("", text)) != text:
        said_han, said_words = _han(said), len(_WORD.findall(said))
    return Caption(text, language, han, words, said_han, said_words, strange[0] if strange else "")


def spoken(text: str) -> str:
    """The language of a text by its script, "en" or "zh"; quoted words count only where there are no others.

    A Chinese character weighs as much as a Latin word: 一件T恤 is Chinese, "a bowl of 拉面" English.
    """
    found = count(text, "")
    han, words = (found.said_han, found.said_words) if found.said_han + found.said_words else found[2:4]
    return "zh" if han and han >= words else "en"


def wrong_language(caption: Caption, limits: Limits) -> str:
    """The row says one language, the caption is in the other. Languages of one script are not told apart."""
    if caption.language not in LANGUAGES:
        return f"language {caption.language!r} is not one of {', '.join(LANGUAGES)}"
    total = caption.said_han + caption.said_words
    if not total:
        return ""
    if caption.language == "en":
        return "Chinese under English" if caption.said_han > limits.foreign_en * total else ""
    return "English under Chinese" if caption.said_words > limits.foreign_zh * total else ""


def strange_characters(caption: Caption, limits: Limits) -> str:
    """Characters that neither English nor Chinese is written with, but for emoji, which have a rule of their own."""
    if caption.strange and (found := _STRANGE.search(_emoji_pattern().sub("", caption.text))):
        return f"U+{ord(found[0]):04X}"
    accents = 0 if caption.text.isascii() else len(_ACCENT.findall(caption.text))
    return f"{accents} accented letters" if accents > limits.accents else ""


def has_emoji(caption: Caption, limits: Limits) -> str:
    found = _emoji_pattern().search(caption.text) if caption.strange else None
    return f"U+{ord(found[0][0]):04X}" if found else ""


def wrong_length(caption: Caption, limits: Limits) -> str:
    words, (least, most) = caption.han + caption.words, limits.words
    return "" if least <= words <= most else f"{words} words, not {least} to {most}"


TEXT_RULES: dict[str, Callable[[Caption, Limits], str]] = {
    "language": wrong_language, "characters": strange_characters, "emoji": has_emoji, "length": wrong_length,
}  # fmt: skip
