"""Mistakes on purpose, of the kinds that language models make when they write data, to measure the detector on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from zvl.data import phrasebook
from zvl.data.phrasebook import ZONES, say
from zvl.data.scene_talk import Turn, View, absent_name, detail, joined, one_of, thing_slots
from zvl.data.symbols import Thing

LEAKS = {
    "en": ("According to the captions, ", "Going by the bounding boxes, ", "The caption says it: "),
    "zh": ("根据描述，", "从边界框来看，", "标注里写着："),
}
REFUSALS = {
    "en": ("I'm sorry, but as an AI language model I cannot see images.",
           "Sorry, I am not able to answer questions about pictures."),
    "zh": ("很抱歉，作为人工智能语言模型，我无法查看图片。", "对不起，我不能回答关于图片的问题。"),
}  # fmt: skip


def _with_absent(view: View, turns: list[Turn], rng) -> list[Turn]:
    """One more thing than there is, said as if it were seen."""
    words = thing_slots(view.language, a=Thing(absent_name(view, rng), (0, 0, 1, 1)))
    more = say("detail_thing", view.language, rng, place=one_of(ZONES[view.language], rng), **words)
    return _changed(turns, rng, lambda asked, said: (asked, joined([said, more], view.language)))


def _in_wrong_language(view: View, turns: list[Turn], rng) -> list[Turn]:
    """One response in the other language."""
    other = "zh" if view.language == "en" else "en"
    known = phrasebook.names(view.language, other)
    things = tuple(replace(thing, name=known.get(thing.name, thing.name)) for thing in view.things)
    said = detail(View(other, things, None), [], rng)[0][1]
    return _changed(turns, rng, lambda asked, _: (asked, said))


def _truncated(view: View, turns: list[Turn], rng) -> list[Turn]:
    """The last response is a long one that breaks off, as at a limit on tokens."""
    asked, said = detail(view, [], rng)[0]
    return [*turns[:-1], (asked, said[: int(len(said) * rng.uniform(0.5, 0.9))].rstrip("。.，, "))]


def _leaked(view: View, turns: list[Turn], rng) -> list[Turn]:
    lead = one_of(LEAKS[view.language], rng)

    def leak(asked: str, said: str) -> Turn:
        return asked, lead + (said[:1].lower() + said[1:] if view.language == "en" else said)

    return _changed(turns, rng, leak)


def _duplicated(view: View, turns: list[Turn], rng) -> list[Turn]:
    return [*turns, turns[int(rng.integers(len(turns)))]]


def _refused(view: View, turns: list[Turn], rng) -> list[Turn]:
    no = one_of(REFUSALS[view.language], rng)
    return _changed(turns, rng, lambda asked, _: (asked, no))


FAULTS = {
    "absent": _with_absent, "language": _in_wrong_language, "truncated": _truncated, "leaked": _leaked,
    "duplicate": _duplicated, "refusal": _refused,
}  # fmt: skip


def _changed(turns: list[Turn], rng, change: Callable[[str, str], Turn]) -> list[Turn]:
    """The turns with one of them changed."""
    chosen = int(rng.integers(len(turns)))
    return [change(*turn) if number == chosen else turn for number, turn in enumerate(turns)]
