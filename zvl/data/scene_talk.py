"""What can be asked and said about a picture of which only symbols are known, by rules: the symbolic teacher's pen.

A question is asked only where boxes leave no doubt about its answer. The sentences are those of the phrasebook.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from zvl.data import phrasebook, wordings
from zvl.data.moji import concepts
from zvl.data.phrasebook import EDGES, FROM_EDGES, RELATIONS, WAYS, ZONES, count_word, say
from zvl.data.symbols import Symbols, Thing

Turn = tuple[str, str]  # instruction, response


@dataclass(frozen=True)
class View:
    """What the symbols say, in the words of one language."""

    language: str
    things: tuple[Thing, ...]
    colour: str | None

    def listed(self, things: Sequence[Thing] | None = None) -> str:
        chosen = self.things if things is None else things
        return wordings.listing([indefinite(thing.name, self.language) for thing in chosen], self.language)


def view(symbols: Symbols) -> View:
    """Things from left to right, and the colour that a caption names as the background, where one does."""
    colours = wordings.COLOURS[symbols.language].values()
    patterns = (
        (r"\b({}) background", r"\bon (?:an? )?({})\b", r"\ban? ({}) (?:scene|ground)")
        if symbols.language == "en"
        else ("({})的?背景", "背景.{{0,3}}({})", "({})上")
    )
    found = [re.search(p.format("|".join(colours)), text) for p in patterns for text in symbols.captions]
    things = sorted(symbols.things, key=lambda thing: thing.box[0] + thing.box[2] / 2)
    return View(symbols.language, tuple(things), next((hit[1] for hit in found if hit), None))


def indefinite(name: str, language: str) -> str:
    if language != "en" or name in wordings.BARE or phrasebook.is_plural(name):
        return name
    return f"{'an' if name[:1].lower() in tuple('aeiou') else 'a'} {name}"


# --- where things are ---


def _centre(thing: Thing) -> tuple[float, float]:
    x, y, width, height = thing.box
    return x + width / 2, y + height / 2


def _zone(thing: Thing, language: str) -> str:
    x, y = _centre(thing)
    column, row = (int(v >= 1000 / 3) + int(v >= 2000 / 3) for v in (x, y))
    return ZONES[language][3 * row + column]


def _gap(a: Thing, b: Thing) -> float:
    """The space between two boxes, in thousandths."""
    apart = [max(p.box[i] - q.box[i] - q.box[i + 2] for p, q in ((a, b), (b, a))) for i in (0, 1)]
    return float(np.hypot(max(apart[0], 0), max(apart[1], 0)))


def _furthest(things: Sequence[Thing], direction: int) -> list[Thing] | None:
    """Things from the furthest in a direction (`phrasebook.DIRECTIONS`) on, None where the first is in doubt."""
    axis, sign = (0 if direction < 2 else 1), (1 if direction in (0, 2) else -1)
    order = sorted(things, key=lambda thing: sign * _centre(thing)[axis])
    if len(order) < 2 or abs(_centre(order[0])[axis] - _centre(order[1])[axis]) < 60:
        return None
    return order


def _relation(a: Thing, b: Thing) -> int | None:
    """In which of `phrasebook.DIRECTIONS` a lies, seen from b: the axis along which they are further apart."""
    across, down = (p - q for p, q in zip(_centre(a), _centre(b), strict=True))
    if max(abs(across), abs(down)) < 80 or abs(abs(across) - abs(down)) < 60:
        return None
    if abs(across) > abs(down):
        return 0 if across < 0 else 1
    return 2 if down < 0 else 3


def thing_slots(language: str, **things: Thing) -> dict[str, str]:
    """Slots for things: a=thing gives {a}, {the_a}, {is_a} and so on. In Chinese {a} is the bare name."""
    fields = {}
    for slot, thing in things.items():
        name = thing.name
        fields[slot] = indefinite(name, language)
        fields[f"the_{slot}"] = f"the {name}" if language == "en" else name
        fields[f"is_{slot}"] = "are" if phrasebook.is_plural(name) else "is"
    return fields


# --- what is asked and said: each gives one turn, or None where the symbols do not allow it ---


def _what(view: View, rng) -> Turn:
    return say("ask_what", view.language, rng), say("say_what", view.language, rng, things=view.listed())


def _count(view: View, rng) -> Turn:
    kind = "say_count" if len(view.things) > 1 else "say_count_one"
    number = count_word(len(view.things), view.language)
    told = say(kind, view.language, rng, number=number, things=view.listed())
    return say("ask_count", view.language, rng), told


def _exists(view: View, rng) -> Turn:
    lang = view.language
    if rng.random() < 0.5:
        thing = one_of(view.things, rng)
        words = thing_slots(lang, a=thing)
        asked = say("ask_exists", lang, rng, **words)
        return asked, say("say_exists_yes", lang, rng, place=_zone(thing, lang), **words)
    name = absent_name(view, rng)
    asked = say("ask_exists", lang, rng, a=indefinite(name, lang))
    return asked, say("say_exists_no", lang, rng, bare=name, things=view.listed())


def _edge(view: View, rng) -> Turn | None:
    direction = int(rng.integers(4))
    order = _furthest(view.things, direction)
    if order is None:
        return None
    lang = view.language
    words = thing_slots(lang, a=order[0]) | _directed(lang, direction)
    return say("ask_furthest", lang, rng, **words), say("say_furthest", lang, rng, **words)


def _related(view: View, rng) -> Turn | None:
    found = _pair(view, rng)
    if found is None:
        return None
    a, b, direction = found
    words = thing_slots(view.language, a=a, b=b) | {"relation": RELATIONS[view.language][direction]}
    return say("ask_relation", view.language, rng, **words), say("say_relation", view.language, rng, **words)


def _largest(view: View, rng) -> Turn | None:
    order = sorted(view.things, key=lambda thing: -thing.box[2] * thing.box[3])
    areas = [thing.box[2] * thing.box[3] for thing in order]
    if len(order) < 2 or areas[0] < 1.2 * areas[1]:
        return None
    words = thing_slots(view.language, a=order[0])
    return say("ask_largest", view.language, rng), say("say_largest", view.language, rng, **words)


def _background(view: View, rng) -> Turn | None:
    if view.colour is None:
        return None
    return (
        say("ask_background", view.language, rng),
        say("say_background", view.language, rng, colour=view.colour),
    )


def _without(view: View, rng) -> Turn | None:
    direction = int(rng.integers(4))
    order = _furthest(view.things, direction)
    if order is None or len(order) < 3 or _furthest(order[1:], direction) is None:
        return None
    words = thing_slots(view.language, a=order[0], b=order[1]) | _directed(view.language, direction)
    return say("ask_without", view.language, rng, **words), say("say_without", view.language, rng, **words)


def _nearest(view: View, rng) -> Turn | None:
    things = view.things
    gaps = sorted(((_gap(a, b), i, j) for i, a in enumerate(things) for j, b in enumerate(things[:i])))
    if len(gaps) < 2 or gaps[1][0] - gaps[0][0] < 30:
        return None
    words = thing_slots(view.language, a=things[gaps[0][2]], b=things[gaps[0][1]])
    return say("ask_nearest", view.language, rng), say("say_nearest", view.language, rng, **words)


def _way(view: View, rng) -> Turn | None:
    pairs = [(a, b) for a in view.things for b in view.things
             if min(abs(p - q) for p, q in zip(_centre(a), _centre(b), strict=True)) >= 80]  # fmt: skip
    if not pairs:
        return None
    a, b = one_of(pairs, rng)
    across = 1 if _centre(b)[0] > _centre(a)[0] else 0
    down = 3 if _centre(b)[1] > _centre(a)[1] else 2
    lang = view.language
    words = thing_slots(lang, a=a, b=b)
    words |= {"relation": RELATIONS[lang][across], "relation_2": RELATIONS[lang][down]}
    words |= {"way": WAYS[lang][across], "way_2": WAYS[lang][down]}
    return say("ask_way", lang, rng, **words), say("say_way", lang, rng, **words)


def _more(view: View, rng) -> Turn | None:
    """Compares groups that are both there. Fruit and vegetables are food to most people, so food is left out."""
    lang, group = view.language, _groups(view.language)
    counts = Counter(group[thing.name] for thing in view.things if thing.name in group)
    pairs = [
        (a, b) for a in counts for b in counts if counts[a] > counts[b] and not {"thing", "food"} & {a, b}
    ]
    if not pairs:
        return None
    words = {}
    for slot, name in zip("ab", one_of(pairs, rng), strict=True):
        words[f"groups_{slot}"] = wordings.GROUP_PLURALS[lang][name]
        words[f"number_{slot}"] = count_word(counts[name], lang)
    return say("ask_more", lang, rng, **words), say("say_more", lang, rng, **words)


def _which_of(view: View, rng) -> Turn | None:
    pairs = [(a, b) for a in view.things for b in view.things if a != b]
    for i in rng.permutation(len(pairs)):
        direction = int(rng.integers(4))
        order = _furthest(pairs[i], direction)
        if order is not None:
            words = thing_slots(view.language, a=order[0], b=order[1])
            asked_order = (order[0], order[1]) if rng.random() < 0.5 else (order[1], order[0])
            asked = thing_slots(view.language, a=asked_order[0], b=asked_order[1])
            edge = _directed(view.language, direction)
            return (
                say("ask_which_of", view.language, rng, **asked, **edge),
                say("say_which_of", view.language, rng, **words, **edge),
            )
    return None


# --- the kinds of answers ---


def _conversation(view: View, turns: list[Turn], rng) -> list[Turn]:
    """Two to four turns on different matters."""
    makers: list[Callable] = [_what, _count, _exists, _edge, _related, _largest, _background]
    found = [turn for i in rng.permutation(len(makers)) if (turn := makers[i](view, rng)) is not None]
    return found[: int(rng.integers(2, 5))]


def detail(view: View, turns: list[Turn], rng) -> list[Turn]:
    lang = view.language
    number = count_word(len(view.things), lang)
    opening = "detail_open" + ("" if view.colour else "_plain") + ("_one" if len(view.things) == 1 else "")
    told = [say(opening, lang, rng, number=number, colour=view.colour or "")]
    for i in rng.permutation(len(view.things)):
        thing = view.things[i]
        told.append(say("detail_thing", lang, rng, place=_zone(thing, lang), **thing_slots(lang, a=thing)))
    for maker in (_related, _largest):
        if (turn := maker(view, rng)) is not None:
            told.append(turn[1])
    return [(say("ask_detail", lang, rng), joined(told, lang))]


def _reasoning(view: View, turns: list[Turn], rng) -> list[Turn]:
    makers = [_without, _nearest, _way, _more]
    for i in rng.permutation(len(makers)):
        if (turn := makers[i](view, rng)) is not None:
            return [turn]
    return [_count(view, rng)]  # too little to see for an inference


def _deepening(view: View, turns: list[Turn], rng) -> list[Turn]:
    """One turn more, about one of the things in its surroundings."""
    return [*turns, *_unasked(turns, view, rng, (_deeper, _largest, _edge, _background, _count, _what))]


def _concretizing(view: View, turns: list[Turn], rng) -> list[Turn]:
    """In place of the most general question, one about named things."""
    return [*_unasked(turns, view, rng, (_which_of, _exists, _related)), *turns[1:]]


def _unasked(turns: list[Turn], view: View, rng, makers: Sequence[Callable]) -> list[Turn]:
    """The first turn that the makers give and the dialogue does not have in other words; empty where it has all."""
    known = {text for turn in turns for text in turn}
    for maker in makers:
        for _ in range(4):
            turn = maker(view, rng)
            if turn is not None and not known & set(turn):
                return [turn]
    return []


def _deeper(view: View, rng) -> Turn | None:
    found = _pair(view, rng)
    if found is None:
        return None
    a, b, direction = found
    lang = view.language
    words = thing_slots(lang, a=a, b=b) | {"relation": RELATIONS[lang][direction], "place": _zone(a, lang)}
    return say("ask_deeper", lang, rng, **words), say("say_deeper", lang, rng, **words)


def _increasing_reasoning(view: View, turns: list[Turn], rng) -> list[Turn]:
    lang, (asked, said) = view.language, turns[0]
    thing = one_of(view.things, rng)
    words = thing_slots(lang, a=thing) | {"place": _zone(thing, lang), "things": view.listed()}
    steps = say("stepwise", lang, rng, **words)
    return [
        (joined([asked, say("steps", lang, rng)], lang), joined([steps, said], lang)),
        *turns[1:],
    ]


def _adding_constraints(view: View, turns: list[Turn], rng) -> list[Turn]:
    lang, (asked, said) = view.language, turns[0]
    number = count_word(len(view.things), lang)
    choices = [
        ("with_number", "number_last", {"number": number}),
        ("with_list", "list_last", {"things": view.listed()}),
    ]
    if view.colour and view.colour not in said:
        choices.append(("with_colour", "say_background", {"colour": view.colour}))
    wish, fulfilled, words = one_of(choices, rng)
    return [
        (
            joined([asked, say(wish, lang, rng)], lang),
            joined([said, say(fulfilled, lang, rng, **words)], lang),
        ),
        *turns[1:],
    ]


WRITERS = {
    "conversation": _conversation, "detail": detail, "reasoning": _reasoning, "deepening": _deepening,
    "concretizing": _concretizing, "increasing_reasoning": _increasing_reasoning,
    "adding_constraints": _adding_constraints,
}  # fmt: skip


# --- small things ---


def joined(told: Sequence[str], language: str) -> str:
    return (" " if language == "en" else "").join(told)


def _directed(language: str, direction: int) -> dict[str, str]:
    return {"edge": EDGES[language][direction], "from_edge": FROM_EDGES[language][direction]}


def _pair(view: View, rng) -> tuple[Thing, Thing, int] | None:
    """Two things whose relation is beyond doubt, and the direction of the first, seen from the second."""
    pairs = [(a, b, _relation(a, b)) for a in view.things for b in view.things if a != b]
    pairs = [found for found in pairs if found[2] is not None]
    return one_of(pairs, rng) if pairs else None


def one_of(items: Sequence, rng):
    return items[int(rng.integers(len(items)))]


@functools.cache
def _groups(language: str) -> dict[str, str]:
    return {concept.names[language]: concept.group for concept in concepts()}


def absent_name(view: View, rng) -> str:
    present = {thing.name for thing in view.things}
    return one_of([concept.names[view.language] for concept in concepts()
                 if concept.names[view.language] not in present], rng)  # fmt: skip
