"""Sentences that stand in both languages side by side: filled with words, or recognised in English and said in Chinese.

Those of the symbolic teacher (`sentences/teacher.yaml`) and those of the Moji world (`wordings.py`). The names are
CLDR's, so a translation here is idiomatic where CLDR is.
"""

from __future__ import annotations

import functools
import re
from importlib.resources import files

import numpy as np
import yaml

from zvl.data import wordings
from zvl.data.moji import SIGN, concepts

ZONES = {  # where a thing stands, row by row from the top left
    "en": ("at the top left", "at the top", "at the top right", "on the left", "in the middle", "on the right",
           "at the bottom left", "at the bottom", "at the bottom right"),
    "zh": ("左上角", "上方", "右上角", "左侧", "中间", "右侧", "左下角", "下方", "右下角"),
}  # fmt: skip
DIRECTIONS = ("left", "right", "up", "down")
EDGES = {"en": ("to the left", "to the right", "up", "down"), "zh": ("左", "右", "上", "下")}
FROM_EDGES = {
    "en": ("from the left", "from the right", "from the top", "from the bottom"),
    "zh": EDGES["zh"],
}
RELATIONS = {
    "en": ("to the left of", "to the right of", "above", "below"),
    "zh": ("左边", "右边", "上面", "下面"),
}
WAYS = {"en": DIRECTIONS, "zh": EDGES["zh"]}
COUNTS = {
    "en": "zero one two three four five six seven eight nine ten eleven twelve".split(),
    "zh": [f"{word}个" for word in "零 一 两 三 四 五 六 七 八 九 十 十一 十二".split()],
}
_SLOT = re.compile(r"\{(\w+)\}")


@functools.cache
def sentences() -> dict[str, dict[str, tuple[str, ...]]]:
    """kind -> language -> what the symbolic teacher can say; the k-th of both languages mean the same."""
    text = files("zvl.data").joinpath("sentences", "teacher.yaml").read_text("utf8")
    return {
        kind: {lang: tuple(said) for lang, said in both.items()}
        for kind, both in yaml.safe_load(text).items()
    }


def say(kind: str, language: str, rng: np.random.Generator, **fields: str) -> str:
    """One of the sentences of a kind, its slots filled; `The_a` is `the_a` with a capital letter."""
    chosen = sentences()[kind][language]
    sentence = chosen[int(rng.integers(len(chosen)))]
    fields |= {name.capitalize(): text[:1].upper() + text[1:] for name, text in fields.items()}
    return sentence.format(**fields)


def count_word(number: int, language: str) -> str:
    """three, 三个; above twelve in digits."""
    if number < len(COUNTS[language]):
        return COUNTS[language][number]
    return str(number) if language == "en" else f"{number}个"


def is_plural(name: str) -> bool:
    """Whether an English name of the Moji world takes "are"."""
    return name in wordings.BARE and name.endswith("s")


@functools.cache
def names(source: str, target: str) -> dict[str, str]:
    """Names of the Moji world from one language to another."""
    return {concept.names[source]: concept.names[target] for concept in (*concepts(), SIGN)}


def translate(text: str) -> str:
    """English to Chinese, sentence by sentence as the phrasebook has them. What it does not have stays as it is."""
    rest, told = text.strip(), []
    known = _answers().get(rest.lower())
    if known is not None:
        return known
    while rest:
        small = rest.lower()
        for start, pattern, counterpart in _patterns():
            if small.startswith(start) and (found := pattern.match(rest)):
                told.append(_filled(counterpart, found.groupdict()))
                rest = rest[found.end() :].lstrip(" ")
                break
        else:
            sentence = re.match(r"\s*.*?(?:[.?!:](?=\s|$)|$)\n?", rest, re.DOTALL)[0] or rest
            told.append(sentence)
            rest = rest[len(sentence) :].lstrip(" ")
    return "".join(told)


@functools.cache
def _answers() -> dict[str, str]:
    """Bare answers of the Moji world: a name, a colour, a number, yes."""
    table = dict(names("en", "zh"))
    for words in (wordings.NUMBERS, wordings.SIDES, wordings.LEVELS, wordings.ORDINALS, wordings.YES_NO):
        table |= dict(zip(words["en"], words["zh"], strict=True))
    for words in (wordings.COLOURS, wordings.SIZE_ANSWERS, wordings.GROUP_PLURALS):
        table |= {words["en"][key]: words["zh"][key] for key in words["en"]}
    return table | {wordings.NO_FRAME["en"]: wordings.NO_FRAME["zh"]}


def _alternatives(words) -> str:
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))


@functools.cache
def _slots() -> dict[str, tuple[str, object]]:
    """Slot -> (its pattern in English, how to say what it found in Chinese)."""
    table = names("en", "zh")
    name = rf"(?:the |an? )?(?:{_alternatives(table)})"
    sign = r'a sign that says "[^"]*"'
    item = rf"(?:{sign}|{name})(?: in a \w+ frame)?"

    def bare(text: str) -> str:
        text, _, frame = text.partition(" in a ")
        if text.startswith("a sign that says "):
            said = wordings.sign(text.split('"')[1], "zh")
        else:
            said = table[re.sub(r"^(?:the|an?) ", "", text, flags=re.IGNORECASE)]
        return wordings.framed(said, frame.removesuffix(" frame") or None, "zh")

    def listed(text: str) -> str:
        return wordings.listing([bare(part) for part in re.split(r", (?=\S)| and (?=\S)", text)], "zh")

    def words(*tables: dict) -> tuple[str, object]:
        known = {}
        for both in tables:
            if isinstance(both["en"], dict):
                known |= {both["en"][key]: both["zh"][key] for key in both["en"]}
            else:
                known |= dict(zip(both["en"], both["zh"], strict=True))
        return _alternatives(known), lambda text: known[text.lower()]

    one = (name, bare)
    groups = words(wordings.GROUP_PLURALS)
    group = {wordings.group_word(g, "en"): wordings.group_word(g, "zh") for g in wordings.GROUP_NAMES["en"]}
    number, colours = words(COUNTS, wordings.NUMBERS), words(wordings.COLOURS)
    found = {
        **dict.fromkeys(("a", "the_a", "the_b", "the_c", "bare"), one),
        "things": (rf"{item}(?:, {item})*(?: and {item})?", listed),
        "is": (r"is|are", lambda text: ""),
        "place": words(ZONES),
        "edge": words(EDGES),
        "from_edge": words(FROM_EDGES),
        "relation": words(RELATIONS),
        "way": words(WAYS),
        "colour": colours,
        "ground": colours,
        "a_ground": (rf"an? (?:{colours[0]})", lambda text: colours[1](text.split()[1])),
        "number": (rf"{number[0]}|\d+", lambda t: number[1](t) if not t.isdigit() else f"{t}个"),
        "groups": groups,
        "group": (_alternatives(group), group.__getitem__),
        "ref": (r"[^?.]+?", lambda text: _reference(text, bare)),
        "box": (r"\(\d+,\d+\),\(\d+,\d+\)", str),
    }
    return found


def _reference(text: str, bare) -> str:
    """An expression that refers: "the thing in the red frame", "the small animal", "the leftmost thing", "the dog"."""
    fixed = {"the leftmost thing": "最左边的东西", "the rightmost thing": "最右边的东西",
             "the highest thing": "最高处的东西", "the lowest thing": "最低处的东西"}  # fmt: skip
    if text in fixed:
        return fixed[text]
    if found := re.fullmatch(r"the thing in the (\w+) frame", text):
        return f"{wordings.COLOURS['zh'][found[1]][0]}框里的东西"
    if found := re.fullmatch(r"the (small|big) (.+)", text):
        group = {
            wordings.group_word(g, "en"): wordings.group_word(g, "zh") for g in wordings.GROUP_NAMES["en"]
        }
        if found[2] in group:
            return wordings.SIZE_ANSWERS["zh"][found[1]] + group[found[2]]
    try:
        return bare(text)
    except KeyError:
        return text


def _kind_of_slot(name: str) -> str:
    """The_a -> the_a, is_b -> is, number_a -> number, relation_2 -> relation; groups_a and group_a -> groups."""
    name = name.lower()
    if name in _slots():
        return name
    return {"group_a": "groups", "group_b": "groups"}.get(name, name.rsplit("_", 1)[0])


@functools.cache
def _patterns() -> list[tuple[str, re.Pattern, str]]:
    """(text before the first slot, pattern, Chinese counterpart) of all sentences, those with most text of their own
    first.
    """
    both = [pair for said in sentences().values() for pair in zip(said["en"], said["zh"], strict=True)]
    tables = [wordings.QUESTIONS]
    tables += [{("", *key): value for key, value in table.items()}
               for table in (wordings.DESCRIBE, wordings.CAPTIONS)]  # fmt: skip
    for table in tables:
        for (kind, language, split), english in table.items():
            if language == "en":
                both += list(zip(english, table[kind, "zh", split], strict=True))
    both.append(("I see no {bare}", "图里没有{bare}"))
    both = {english: chinese for english, chinese in both}
    order = sorted(both, key=lambda text: -len(_SLOT.sub("", text)))
    return [
        (
            english.partition("{")[0].lower(),
            re.compile(_pattern(english) + r"(?=\s|$)", re.IGNORECASE),
            both[english],
        )
        for english in order
    ]


def _pattern(english: str) -> str:
    parts, seen, end = [], set(), 0
    for slot in _SLOT.finditer(english):
        parts.append(re.escape(english[end : slot.start()]))
        name = slot[1].lower()
        parts.append(f"(?P={name})" if name in seen else f"(?P<{name}>{_slots()[_kind_of_slot(name)][0]})")
        seen.add(name)
        end = slot.end()
    return "".join([*parts, re.escape(english[end:])])


def _filled(chinese: str, found: dict[str, str]) -> str:
    """The counterpart with what was found. Its slot {a} may stand where the English has {the_a}."""
    said = {}
    for name, text in found.items():
        said[name] = _slots()[_kind_of_slot(name)][1](text if name in ("ref", "box") else text.lower())
    aliases = {name.removeprefix("the_"): text for name, text in said.items()}
    return chinese.format(**aliases, **{k: v for k, v in said.items() if k not in aliases})
