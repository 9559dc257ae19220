"""The numbers that an English or a Chinese text speaks of, whether in digits or in words: "two dozen", 3, 三百二十一.

Made to compare a translation with its source, so each number says how surely it is meant as one: English "one" and
Chinese 一 and 两 often stand where the other language has no number ("which one", 两张图 for "the pictures"), and
words hold numerals that count nothing (三明治, 四周, 十分).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from decimal import Decimal

_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
).split()
_ORDINALS = (
    "zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth "
    "fifteenth sixteenth seventeenth eighteenth nineteenth"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_WORTH = {
    **{word: value for value, word in enumerate(_SMALL)},
    **{word: value for value, word in enumerate(_ORDINALS)},
    **{word: 10 * value for value, word in enumerate(_TENS, start=2)},
    **{word[:-1] + "ieth": 10 * value for value, word in enumerate(_TENS, start=2)},
}
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
_ANY = "|".join(sorted((*_WORTH, *_SCALES), key=len, reverse=True))
# Runs are bounded: no text may cost more time than its length allows.
_EN_RUN = re.compile(rf"\b(?:{_ANY})(?:(?:[\s-]+|\s+and\s+)(?:{_ANY})){{0,12}}\b")
# A time, "another", or 其次 at the head of a sentence.
_MOMENT = re.compile(r"\b(?:a|per|split|each|every)\s+second\b|(?:^|[.!?]\s+)second(?=,)")
# What may become a number in Chinese, and need not.
_EN_HINTS = {
    "a": (1,), "an": (1,), "once": (1,), "single": (1,), "another": (1,), "same": (1,), "both": (2,), "pair": (2,),
    "pairs": (2,), "couple": (2,), "twice": (2,), "double": (2,), "either": (2,), "neither": (2,), "half": (1, 2),
    "triple": (3,), "triangle": (3,), "seconds": (2,),
    "thirds": (3,), "fifths": (5,), "quarter": (4, 15), "quarters": (4,),
    "dozen": (12,), "noon": (12,), "midnight": (12, 0),
    "decade": (10,), "hundreds": (100,), "thousands": (1000,), "monday": (1,), "tuesday": (2,), "wednesday": (3,),
    "thursday": (4,), "friday": (5,), "saturday": (6,), "january": (1,), "february": (2,), "march": (3,),
    "april": (4,), "may": (5,), "june": (6,), "july": (7,), "august": (8,), "september": (9,), "october": (10,),
    "november": (11,), "december": (12,),
}  # fmt: skip

_ZH_DIGITS = dict(zip("〇零一二两三四五六七八九", (0, 0, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9), strict=True))
_ZH_UNITS = {"十": 10, "百": 100, "千": 1000, "万": 10**4, "亿": 10**8}
_ZH_RUN = re.compile(r"[〇零一二两三四五六七八九十百千万亿]{1,20}")
# Only before a word that counts is a Chinese numeral beyond doubt; 周, 面, 边, 处, 角 are left out (四周 is "around").
_COUNTED = re.compile(
    r"[多余来]?[个只张条辆把件位名本块颗朵棵幅匹片种样架座栋层间台部根支枝瓶杯碗盘份套副串双对次岁年月日号点分秒米厘公里斤克吨升"
    r"人头口家项顿道首段篇句组排行步页元]"
)
_ZH_PAIRS = re.compile(r"[双俩]")
_FIXED = re.compile(r"十分(?![之钟])|百分之|千万(?=别|不|要|注)")

_WRITTEN = re.compile(
    r"(?<![0-9.])([0-9]{1,3}(?:,[0-9]{3}){1,8}(?![0-9])|[0-9]{1,25})(\.[0-9]+)?"
    r"(?:(st|nd|rd|th)\b|\s*(hundred|thousand|million|billion)\b|\s*([百千万亿]))?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Numbers:
    """sure: meant as numbers. weak: numerals that the other language may leave unsaid. hinted: may be numbers."""

    sure: set[Decimal] = field(default_factory=set)
    weak: set[Decimal] = field(default_factory=set)
    hinted: set[Decimal] = field(default_factory=set)

    @property
    def all(self) -> set[Decimal]:
        return self.sure | self.weak | self.hinted


def digit_numbers(text: str) -> list[Decimal]:
    """The numbers in digits, in order: "1,000" and "1000" are one number, and so are "5 million" and "500万".

    "2nd" is none: in Chinese it is 第二 or 第2.
    """
    return [value for value, ordinal in _in_digits(text) if not ordinal]


def english_numbers(text: str) -> Numbers:
    text = text.lower()
    found = Numbers(sure={value for value, _ in _in_digits(text)})
    text = _MOMENT.sub(" seconds ", _WRITTEN.sub(" ", text))
    for run in _EN_RUN.findall(text):
        for value in _english_values(re.split(r"[\s-]+", run)):
            (found.weak if value == 1 else found.hinted if value == 0 else found.sure).add(Decimal(value))
    for word in re.findall(r"[a-z]+", text):
        found.hinted.update(map(Decimal, _EN_HINTS.get(word, ())))
    return found


def chinese_numbers(text: str) -> Numbers:
    found = Numbers(sure={value for value, _ in _in_digits(text)})
    text = _FIXED.sub(" ", _WRITTEN.sub(" ", text))
    if _ZH_PAIRS.search(text):
        found.hinted.add(Decimal(2))
    for match in _ZH_RUN.finditer(text):
        run, before, after = match[0], text[: match.start()], text[match.end() :]
        alone = not re.search(r"\w", before + after)
        plain = not set(run) & set(_ZH_UNITS)
        if plain and len(run) == 2:  # 两三个: about so many
            found.hinted.update(Decimal(_ZH_DIGITS[char]) for char in run)
            continue
        value = Decimal("".join(str(_ZH_DIGITS[char]) for char in run)) if plain else _chinese_value(run)
        counts = before.endswith("第") or alone or _COUNTED.match(after)
        vague = before.endswith(("数", "几", "上", "星期", "周", "礼拜")) or run[0] in "百千万亿"
        if not counts or vague or value <= 1:
            found.hinted.add(value)
        else:
            (found.weak if run == "两" else found.sure).add(value)
    return found


def _in_digits(text: str) -> list[tuple[Decimal, bool]]:
    """(value, whether it is an ordinal)."""
    found = []
    for whole, part, ordinal, english, chinese in _WRITTEN.findall(text):
        scale = _SCALES.get(english.lower(), 1) * _ZH_UNITS.get(chinese, 1)
        found.append((Decimal(whole.replace(",", "") + part) * scale, bool(ordinal)))
    return [(value.normalize(), ordinal) for value, ordinal in found]


def _english_values(words: list[str]) -> list[int]:
    """["two", "hundred", "and", "five"] is 205; ["two", "three"] are two numbers."""
    values, total, current, fresh = [], 0, 0, True
    for word in words:
        if word in _SCALES:
            current = max(current, 1) * _SCALES[word]
            if word != "hundred":
                total, current = total + current, 0
        elif word in _WORTH:
            value = _WORTH[word]
            fits = fresh or (current % 100 == 0 if value >= 10 else current % 10 == 0 and current % 100 != 10)
            if not fits:
                values.append(total + current)
                total, current = 0, 0
            current += value
        else:
            continue  # "and"
        fresh = False
    return [*values, total + current]


def _chinese_value(run: str) -> Decimal:
    """一万二千三百 -> 12300; 十二 -> 12."""
    total, section, digit = 0, 0, 0
    for char in run:
        if char in _ZH_DIGITS:
            digit = _ZH_DIGITS[char]
        elif _ZH_UNITS[char] < 10**4:
            section += (digit or (1 if char == "十" else 0)) * _ZH_UNITS[char]
            digit = 0
        else:
            total = (total + section + digit) * _ZH_UNITS[char]
            section, digit = 0, 0
    return Decimal(total + section + digit)
