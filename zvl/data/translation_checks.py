"""What a translation from English to Chinese must keep, and the signs that something went wrong in it.

Each check is a pure function of (source, target) that returns the reason, "" where it finds nothing. Reasons are
few and fixed, so that they can be counted.
"""

from __future__ import annotations

import re
from collections import Counter

from zvl.data.numerals import chinese_numbers, digit_numbers, english_numbers

# As `zvl.data.boxes` reads them: with full-width brackets or commas a box is a box no more.
_BOX = re.compile(r"\(\s*\d{1,3}\s*,\s*\d{1,3}\s*\)\s*,\s*\(\s*\d{1,3}\s*,\s*\d{1,3}\s*\)", re.ASCII)
_MARKER = re.compile(r"<[^<>\s][^<>]{0,60}>|\{[^{}\s][^{}]{0,60}\}")
_INITIALS = re.compile(r"\b(?:[A-Za-z]\.){2,}")  # U.S., P.M.: no choices
# A to H alone; "A dog" is no choice, "A or B", "A." and "(A) red" are.
_CHOICE = re.compile(
    r"(?<![A-Za-z0-9'’\-°])(?:[B-H]|A(?!\s+(?!(?:or|and|is)\b)[A-Za-z]))(?![A-Za-z0-9'’\-])", re.ASCII
)
_QUOTED = re.compile(r"“[^”]{0,200}”|\"[^\"]{0,200}\"|「[^」]{0,200}」|《[^》]{0,200}》|‘[^’]{0,200}’")
_LATIN = re.compile(r"[A-Za-z][A-Za-z'’\-]*")
_CAPITALS = re.compile(r"(?<=[a-z0-9,;’'] )[A-Z][A-Za-z'’\-]*(?: [A-Z][A-Za-z'’\-]*)*")
_LOCATOR = re.compile(r"(?:https?://|www\.)[!-~]+|[A-Za-z0-9._+-]{1,64}@[A-Za-z0-9.-]{1,255}")
_HAN = re.compile(r"[\u3400-\u9fff]")
# Chinese itself writes these in Latin letters.
_AT_HOME = {"logo", "app", "wifi", "emoji", "vs"}

LETTERS_A_CHARACTER = (
    3.2  # English letters for one Chinese character, in the Moji wordings and in MS COCO captions
)
SLACK = 2.5  # characters by which a short text may miss the bounds: 没有 for "no", 河马 for "hippopotamus"
SHORTEST, LONGEST = 0.5, 2.0


def survivors(text: str) -> Counter[tuple[str, str]]:
    """What a translation must keep, as (kind, text): boxes, markers (<image>), numbers in digits, choices' letters."""
    found: Counter[tuple[str, str]] = Counter()
    for kind, pattern in (("box", _BOX), ("marker", _MARKER)):
        for match in pattern.findall(text):
            found[kind, re.sub(r"\s", "", match) if kind == "box" else match] += 1
        text = pattern.sub(" ", text)
    for value in digit_numbers(text):
        found["number", f"{value:f}"] += 1
    if "Q:" in text:
        text = text.replace("A:", " ")  # question and answer
    for letter in _CHOICE.findall(_INITIALS.sub(" ", text)):
        found["choice letter", letter] += 1
    return found


def lost(source: str, target: str) -> str:
    """A survivor is missing or new: "a box is lost", "a marker is added".

    A number word may become digits, digits must stay digits.
    """
    before, after = survivors(source), survivors(target)
    for kind, _ in before - after:
        return f"a {kind} is lost"
    said = {f"{value:f}" for value in english_numbers(unmarked(source)).all}
    for kind, text in after - before:
        if kind != "number" or text not in said:
            return f"a {kind} is added"
    return ""


def length_ratio(source: str, target: str) -> str:
    """The translation is far shorter or longer than Chinese is for so much English."""
    expected, given = _size(source), _size(target)
    if given < SHORTEST * expected - SLACK or (expected and not given):
        return "far too short"
    return "far too long" if given > LONGEST * expected + SLACK else ""


def untranslated(source: str, target: str) -> str:
    """English words in the Chinese that are no names, quotations, markers or units.

    A name is what the source writes with a capital letter within a sentence, or what has capitals or digits within
    the word (NASA, iPhone). A word read from a picture counts as English unless it is quoted.
    """
    names = _names(source)
    text = _QUOTED.sub(" ", _LOCATOR.sub(" ", unmarked(target)))
    for word in map(_stem, _LATIN.findall(text)):
        # two letters and fewer are units (cm) and letters themselves
        if len(word) > 2 and word[1:].islower() and word.lower() not in _AT_HOME and word not in names:
            return "words are left in English"
    return ""


def number_mismatch(source: str, target: str) -> str:
    """The texts speak of different numbers, in digits or in words of both languages ("three", 三, 3)."""
    if source == target:
        return ""
    english, chinese = english_numbers(unmarked(source)), chinese_numbers(unmarked(target))
    if english.sure - chinese.all:
        return "a number of the source is missing"
    # "one" and 两 may go unsaid in the other language, yet not both at once: then one became two
    weak = english.weak - chinese.all and chinese.weak - english.all
    return "a number is not in the source" if chinese.sure - english.all or weak else ""


CHECKS = (lost, length_ratio, untranslated, number_mismatch)


def unmarked(text: str) -> str:
    """The text without boxes and markers."""
    return _MARKER.sub(" ", _BOX.sub(" ", text))


def _size(text: str) -> float:
    """How long a text is, in Chinese characters. Digits and punctuation have no length."""
    text = unmarked(text)
    return len(_HAN.findall(text)) + sum(map(len, _LATIN.findall(text))) / LETTERS_A_CHARACTER


def _names(source: str) -> set[str]:
    """Words with a capital letter that begin no sentence, no line, nothing after a colon or a choice's letter."""
    return {_stem(word) for run in _CAPITALS.findall(source) for word in run.split()}


def _stem(word: str) -> str:
    """The word without its possessive and the quotation marks around it."""
    return word.strip("'’-").removesuffix("'s").removesuffix("’s")
