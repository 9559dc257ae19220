"""Names of things in English and Chinese: which things a text names, and which names fit what is there.

The vocabulary is Moji's concepts under their CLDR names, other names and COCO's things from `sentences/things.yaml`,
and whatever a picture's symbols name. Group words such as "animal" are no names of things.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from zvl.data.moji import SIGN, concepts
from zvl.data.samples import LANGUAGES

DETERMINERS = frozenset(
    "a an the one two three four five six seven eight nine ten several many some few this that these those another "
    "each his her its their my your no any both every".split()
)
_IRREGULAR = {"mouse": "mice", "man": "men", "woman": "women", "child": "children", "goose": "geese", "sheep": "sheep",
              "deer": "deer", "fish": "fish", "leaf": "leaves", "knife": "knives", "loaf": "loaves", "calf": "calves",
              "aircraft": "aircraft", "broccoli": "broccoli"}  # fmt: skip
_CHARACTERS = re.compile(r"\S")
_LETTER = re.compile(r"[^\W\d_]|[-'][^\W\d_](?!\b)")  # "dog's" is a dog's, "bear-shaped" is no bear
_WORDS = re.compile(r"[^\W\d_]+(?:[-'](?!s\b)[^\W\d_]+)*")


@dataclass(frozen=True, slots=True)
class Mention:
    """A name of a thing in a text, at [start, end). senses: the things that it can mean, by their English name."""

    start: int
    end: int
    name: str
    senses: frozenset[str]


@dataclass(frozen=True)
class Lexicon:
    """What names mean. All names are in lower case.

    names: language -> a name -> its senses, none for a word that only contains a name.
    kinds: a thing -> what it also is.
    nouns: English names that are things only after an article or a number.
    """

    names: Mapping[str, Mapping[str, frozenset[str]]]
    kinds: Mapping[str, frozenset[str]]
    nouns: frozenset[str] = frozenset()

    @functools.cached_property
    def _starts(self) -> dict[str, dict[str, list[str]]]:
        """language -> first word (English) or character (Chinese) -> the names that begin so, longest first."""
        found: dict[str, dict[str, list[str]]] = {language: {} for language in LANGUAGES}
        for language, names in self.names.items():
            for name in sorted(names, key=len, reverse=True):
                start = _WORDS.match(name) if language == "en" else None
                found[language].setdefault(start[0] if start else name[0], []).append(name)
        return found

    def mentions(self, text: str, language: str) -> list[Mention]:
        """The names in a text from left to right, the longest where several begin at one place; none overlap."""
        low, found, end = _plain(text.lower()), [], 0
        starts, names, english = self._starts[language], self.names.get(language, {}), language == "en"
        for match in (_WORDS if english else _CHARACTERS).finditer(low):
            known = starts.get(match[0])
            if known is None or match.start() < end:
                continue
            at = match.start()
            for name in known:
                if not low.startswith(name, at) or (english and _LETTER.match(low, at + len(name))):
                    continue
                if name in self.nouns and english and not _introduced(low[:at]):
                    continue
                end = at + len(name)
                if names[name]:
                    found.append(Mention(at, end, name, names[name]))
                break
        return found

    def meaning(self, name: str, language: str) -> frozenset[str]:
        """What a name by itself means. It ends with what it is: a "brown dog" is a dog, a "dog house" is none."""
        text = f"a {name}" if language == "en" else name
        last = self.mentions(text, language)[-1:]
        return last[0].senses if last and last[0].end == len(text) else frozenset()

    def held(self, names: Iterable[str], captions: Iterable[str], language: str) -> frozenset[str]:
        """The things that are there by these names and by what captions name, and what these also are."""
        senses = {sense for name in names for sense in self.meaning(name, language)}
        senses |= {
            s for text in captions for mention in self.mentions(text, language) for s in mention.senses
        }
        return frozenset(senses.union(*(self.kinds.get(sense, ()) for sense in senses)))

    def knows(self, name: str, language: str) -> bool:
        return _plain(name.lower()) in self.names[language]

    def with_names(self, names: Iterable[str], language: str) -> Lexicon:
        """The same lexicon with further things, known by one name each in one language."""
        more = {form: frozenset([name]) for name in names for form in _forms(name, language)}
        return Lexicon(
            {**self.names, language: {**self.names.get(language, {}), **more}}, self.kinds, self.nouns
        )


@functools.cache
def default_lexicon() -> Lexicon:
    """Moji's default concepts with their other names, and COCO's things."""
    data = yaml.safe_load(Path(__file__).with_name("sentences").joinpath("things.yaml").read_text("utf8"))
    names: dict[str, dict[str, set[str]]] = {"en": {}, "zh": {}}
    nouns, plain = set(), set()
    for concept in (*concepts(), SIGN):
        for language in LANGUAGES:
            for form in _forms(concept.names[language], language):
                names[language].setdefault(form, set()).add(concept.names["en"])
    sense_of = {_plain(concept.names["en"]): concept.names["en"] for concept in concepts()}
    for key, line in data["things"].items():
        sense, (english, _, chinese) = sense_of.get(_plain(key), key), line.partition("|")
        for word in [*([key] if f"{key}*" not in english else []), *_split(english)]:
            for form in _forms(word.rstrip("*"), "en"):
                names["en"].setdefault(form, set()).add(sense)
                (nouns if word.endswith("*") else plain).add(form)
        for word in _split(chinese):
            names["zh"].setdefault(word, set()).add(sense)
    for word in _split(data["others"]["en"]):
        names["en"].setdefault(_plain(word), set())
    for word in data["others"]["zh"].split():
        names["zh"].setdefault(word, set())
    kinds: dict[str, set[str]] = {}
    for general, members in data["kinds"].items():
        for member in members:
            kinds.setdefault(member, set()).add(general)
    return Lexicon({lang: {word: frozenset(s) for word, s in table.items()} for lang, table in names.items()},
                   {key: frozenset(general) for key, general in kinds.items()}, frozenset(nouns - plain))  # fmt: skip


def _plain(word: str) -> str:
    return word.replace("’", "'")


def _split(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _forms(name: str, language: str) -> list[str]:
    """A name and, in English, its plural."""
    name = _plain(name.lower())
    if language == "zh" or name.endswith("s"):
        return [name]
    head, _, last = name.rpartition(" ")
    if last in _IRREGULAR:
        plural = _IRREGULAR[last]
    elif last.endswith(("sh", "ch", "x", "to")):
        plural = f"{last}es"
    elif last.endswith("y") and last[-2] not in "aeiou":
        plural = f"{last[:-1]}ies"
    else:
        plural = f"{last}s"
    return [name, f"{head} {plural}".strip()]


def _introduced(before: str) -> bool:
    """Whether an article or a number stands before a word, or one word earlier."""
    return any(word in DETERMINERS for word in before[-32:].split()[-2:])
