"""What is asked about Moji scenes: questions with one right answer each, expressions that refer, and dialogues.

Every question is asked only where its answer is beyond doubt, and answers are balanced by construction. The wordings
are those of `wordings.py`; a split of wordings is "train" or "test".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from zvl.data.boxes import box_text
from zvl.data.drawing import FRAMES, SCENE_SIZE
from zvl.data.moji import CLEAR, GROUPS, Concept, Piece, Scene, concepts
from zvl.data.wordings import (
    CAPTIONS,
    COLOURS,
    DESCRIBE,
    GROUP_PLURALS,
    LEVELS,
    NO_FRAME,
    NUMBERS,
    ORDINALS,
    QUESTIONS,
    SAME,
    SIDES,
    SIZE_ANSWERS,
    YES_NO,
    absent,
    caption,
    definite,
    group_word,
    indefinite,
    mention,
)

QUESTION_TYPES = (
    "existence",
    "count",
    "category",
    "background",
    "left_right",
    "leftmost",
    "above_below",
    "size",
    "frame",
    "bigger",
    "more",
    "read",
    "refer",
    "false_premise",
)
FOLLOW_UPS = ("it_size", "it_frame", "it_side", "it_box")  # about the thing named in the answer before
PRESUMING = (
    "size",
    "frame",
    "left_right",
    "above_below",
    "bigger",
)  # questions that take a thing for granted


@dataclass(frozen=True)
class Question:
    """A question on one scene with its one right answer, in one language."""

    kind: str
    language: str
    question: str
    answer: str


def questions(
    scene: Scene, language: str, split: str, rng: np.random.Generator, kinds: Sequence[str] = QUESTION_TYPES
) -> list[Question]:
    """One question of each kind that the scene allows, answers balanced by construction, wording drawn."""
    result = []
    for kind in kinds:
        found = _ask(kind, scene, language, rng)
        if found is not None:
            wording, fields, answer = found
            result.append(_worded(kind, language, split, rng, answer, fields, wording))
    return result


def describe(scene: Scene, language: str, split: str, rng: np.random.Generator) -> Question:
    """An instruction to caption the scene, and a caption in a wording of the split."""
    wordings = DESCRIBE[language, split]
    answer = caption(scene, language, split, int(rng.integers(len(CAPTIONS[language, split]))), rng)
    return Question("describe", language, wordings[rng.integers(len(wordings))], answer)


def box_of(piece: Piece) -> str:
    return box_text(piece.box, SCENE_SIZE, SCENE_SIZE)


def grounded(scene: Scene, language: str, split: str, rng: np.random.Generator) -> Question:
    """An instruction to name everything with its box, from left to right."""
    comma, stop = (", ", ".") if language == "en" else ("，", "。")
    things = [f"{mention(piece, language)} {box_of(piece)}" for piece in scene.left_to_right()]
    return _worded("grounded", language, split, rng, comma.join(things) + stop)


def expressions(scene: Scene, piece: Piece, language: str) -> list[str]:
    """All expressions that fit this piece and no other of the scene: "the dog", "the thing in the red frame"."""
    others = [other for other in scene.pieces if other != piece]
    group, size = piece.thing.group, piece.size
    found = [definite(piece.thing, language)]
    if piece.frame and all(other.frame != piece.frame for other in others):
        colour = COLOURS[language][piece.frame]
        found.append(f"the thing in the {colour} frame" if language == "en" else f"{colour[0]}框里的东西")
    if group != "thing" and all(other.thing.group != group or other.size != size for other in others):
        word, name = SIZE_ANSWERS[language][size], group_word(group, language)
        found.append(f"the {word} {name}" if language == "en" else f"{word}{name}")
    if piece == _outermost(scene, "centre", 1):
        found.append("the leftmost thing" if language == "en" else "最左边的东西")
    if piece == _outermost(scene, "centre", -1):
        found.append("the rightmost thing" if language == "en" else "最右边的东西")
    if piece == _outermost(scene, "middle", 1):
        found.append("the highest thing" if language == "en" else "最高处的东西")
    if piece == _outermost(scene, "middle", -1):
        found.append("the lowest thing" if language == "en" else "最低处的东西")
    return found


def ground(expression: str, piece: Piece, language: str, split: str, rng: np.random.Generator) -> Question:
    """Where is what the expression refers to?"""
    return _worded("ground", language, split, rng, box_of(piece), {"ref": expression})


def follow_up(scene: Scene, language: str, split: str, rng: np.random.Generator) -> list[Question]:
    """A dialogue whose later turns speak of "it", the thing that the first answer names; empty for a single piece.

    The first turn asks what is leftmost, bigger, of some group, or in a box; then come two to three of FOLLOW_UPS.
    """
    first = questions(scene, language, split, rng, ("leftmost", "bigger", "category"))
    named = {piece.thing.names[language]: piece for piece in _things(scene)}
    first = [asked for asked in first if asked.answer in named]
    if named:
        first += questions(scene, language, split, rng, ("refer",))
    if not first or len(scene.pieces) < 2:
        return []
    opening = _draw(rng, first)
    piece, turns = named[opening.answer], [opening]
    for kind in rng.permutation(FOLLOW_UPS)[: int(rng.integers(2, 4))]:
        fields, answer = {}, None
        if kind == "it_size":
            answer = SIZE_ANSWERS[language][piece.size]
        elif kind == "it_frame":
            answer = _frame_word(piece, language)
        elif kind == "it_box":
            answer = box_of(piece)
        elif others := [o for o in scene.pieces if _apart(o, piece, "place", "centre")]:
            other = _draw(rng, others)
            fields = {"the_b": definite(other.thing, language)}
            answer = SIDES[language][0 if piece.centre < other.centre else 1]
        if answer is not None:
            turns.append(_worded(str(kind), language, split, rng, answer, fields))
    return turns


def compare_pictures(
    first: Scene, second: Scene, language: str, split: str, rng: np.random.Generator
) -> list[Question]:
    """Questions that need both of two pictures: whether their backgrounds agree, and which one shows a thing."""
    same = SAME[language][0 if first.background == second.background else 1]
    turns = [_worded("same_ground", language, split, rng, same)]
    shown = [{p.thing.id: p.thing for p in scene.pieces if p.word is None} for scene in (first, second)]
    number = int(rng.integers(2))
    only = [thing for key, thing in shown[number].items() if key not in shown[1 - number]]
    if only:
        fields = {"a": indefinite(_draw(rng, only), language)}
        turns.append(_worded("which_picture", language, split, rng, ORDINALS[language][number], fields))
    return turns


def dialogue(
    scenes: Sequence[Scene], number: int, form: int, language: str, split: str, rng: np.random.Generator
) -> tuple[list[int], list[tuple[bool, Question]]]:
    """A dialogue that begins with one scene. form, 0 to 7: questions and a description (0; 4: with boxes), "it" in
    later turns (1, 3, 5), two pictures that are compared (2, 6), three that enter one after the other (7).

    Returns the numbers of its scenes, and its turns: (whether the next picture enters, question).
    """

    def some(number: int, count: int) -> list[Question]:
        found = questions(scenes[number], language, split, rng)
        return [found[i] for i in rng.permutation(len(found))[:count]]

    def with_pictures(*parts: list[Question]):
        return [(turn == 0, asked) for part in parts for turn, asked in enumerate(part)]

    scene = scenes[number]
    if form in (1, 3, 5) and (turns := follow_up(scene, language, split, rng)):
        return [number], with_pictures(turns)
    if form in (2, 6):
        other = int(rng.integers(len(scenes)))
        wanted = rng.random() < 3 / 7  # with the one in eight by chance this makes it even
        for _ in range(200 if wanted else 0):
            if scenes[other].background == scene.background and other != number:
                break
            other = int(rng.integers(len(scenes)))
        later = some(other, 1) + compare_pictures(scene, scenes[other], language, split, rng)
        return [number, other], with_pictures(some(number, 2), later)
    if form == 7:
        others = [int(i) for i in rng.integers(len(scenes), size=2)]
        return [number, *others], with_pictures(some(number, 2), *(some(i, 1) for i in others))
    told = grounded if form == 4 else describe
    return [number], with_pictures([*some(number, 3), told(scene, language, split, rng)])


def _worded(kind, language, split, rng, answer, fields=None, wording=None) -> Question:
    """The question in a drawn wording of its kind. wording: the kind whose wordings it borrows."""
    wordings = QUESTIONS[wording or kind, language, split]
    question = wordings[int(rng.integers(len(wordings)))].format(**(fields or {}))
    return Question(kind, language, question, answer)


def _apart(p: Piece, q: Piece, bin_: str, centre: str) -> bool:
    """Whether two pieces are so far apart along one axis that their order is beyond doubt."""
    return getattr(p, bin_) != getattr(q, bin_) and abs(getattr(p, centre) - getattr(q, centre)) >= CLEAR


def _outermost(scene: Scene, centre: str, sign: int) -> Piece | None:
    """The first piece along one axis (sign 1) or the last (-1), None where it is too close to call or alone."""
    pieces = sorted(scene.pieces, key=lambda piece: sign * getattr(piece, centre))
    bin_ = "place" if centre == "centre" else "height"
    return pieces[0] if len(pieces) > 1 and _apart(pieces[0], pieces[1], bin_, centre) else None


def _frame_word(piece: Piece, language: str) -> str:
    return COLOURS[language][piece.frame] if piece.frame else NO_FRAME[language]


def _things(scene: Scene) -> list[Piece]:
    """The pieces that can be asked for by name: all but signs."""
    return [piece for piece in scene.pieces if piece.word is None]


def _draw(rng: np.random.Generator, items: Sequence):
    return items[int(rng.integers(len(items)))]


def _other_concept(scene: Scene, rng: np.random.Generator) -> Concept:
    """A concept that the scene does not show."""
    present = {piece.concept for piece in scene.pieces}
    return concepts()[int(rng.choice([c.id for c in concepts() if c.id not in present]))]


def _existence(scene, language, rng):
    yes = rng.random() < 0.5
    table, present = concepts(), {piece.concept for piece in _things(scene)}
    if yes and not present:
        return None
    pool = sorted(present) if yes else [c.id for c in table if c.id not in present]
    fields = {"a": indefinite(table[int(rng.choice(pool))], language)}
    return "existence", fields, YES_NO[language][0 if yes else 1]


def _count(scene, language, rng):
    return "count", {}, NUMBERS[language][len(scene.pieces)]


def _background(scene, language, rng):
    return "background", {}, COLOURS[language][scene.background]


def _category(scene, language, rng):
    things = [piece.thing for piece in sorted(scene.pieces, key=lambda piece: piece.concept)]
    groups = [thing.group for thing in things]
    single = [g for g in GROUPS if groups.count(g) == 1 and g != "thing"]
    if not single:
        return None
    group = str(rng.choice(single))
    name = next(thing.names[language] for thing in things if thing.group == group)
    return "category", {"group": group_word(group, language)}, name


def _left_right(scene, language, rng):
    return _order(scene, language, rng, "left_right", "place", "centre", SIDES)


def _above_below(scene, language, rng):
    return _order(scene, language, rng, "above_below", "height", "middle", LEVELS)


def _order(scene, language, rng, kind, bin_, centre, words):
    """On which side of another thing one is, along one axis: the first of the words where its centre is smaller."""
    pairs = [(p, q) for p in scene.pieces for q in scene.pieces if _apart(p, q, bin_, centre)]
    if not pairs:
        return None
    p, q = _draw(rng, pairs)
    fields = {"the_a": definite(p.thing, language), "the_b": definite(q.thing, language)}
    return kind, fields, words[language][0 if getattr(p, centre) < getattr(q, centre) else 1]


def _leftmost(scene, language, rng):
    first = _outermost(scene, "centre", 1)
    return None if first is None else ("leftmost", {}, first.thing.names[language])


def _size(scene, language, rng):
    """Big and small come equally often. A crowded scene has more small things than big ones, so it needs both."""
    things = _things(scene)
    by_size = {size: [piece for piece in things if piece.size == size] for size in ("small", "big")}
    if len(things) > 1 or len(scene.pieces) > 1:
        if not all(by_size.values()):
            return None
        things = by_size["big" if rng.random() < 0.5 else "small"]
    piece = _draw(rng, things)
    return "size", {"the_a": definite(piece.thing, language)}, SIZE_ANSWERS[language][piece.size]


def _frame(scene, language, rng):
    """The colours and "none" come equally often: a thing without a frame is asked about in one case of five."""
    wanted = rng.random() < 1 - 1 / (len(FRAMES) + 1)
    pieces = [piece for piece in scene.pieces if (piece.frame is not None) == wanted]
    if not pieces:
        return None
    piece = _draw(rng, pieces)
    return "frame", {"the_a": definite(piece.thing, language)}, _frame_word(piece, language)


def _bigger(scene, language, rng):
    sizes = {size: [p for p in _things(scene) if p.size == size] for size in ("small", "big")}
    if not all(sizes.values()):
        return None
    pair = [_draw(rng, sizes["big"]), _draw(rng, sizes["small"])]
    fields = {
        key: definite(pair[i].thing, language)
        for key, i in zip(("the_a", "the_b"), rng.permutation(2), strict=True)
    }
    return "bigger", fields, pair[0].thing.names[language]


def _more(scene, language, rng):
    counts = {group: 0 for group in GROUPS if group != "thing"}
    for piece in scene.pieces:
        if piece.thing.group in counts:
            counts[piece.thing.group] += 1
    most = [g for g in counts if counts[g]]
    if not most:
        return None
    more = str(rng.choice(most))
    # Rather a group that is there too: "more animals or more tools" is no comparison where no tool is.
    near = [g for g in counts if 0 < counts[g] < counts[more]]
    less = str(rng.choice(near or [g for g in counts if counts[g] == 0]))
    words = [GROUP_PLURALS[language][g] for g in (more, less)]
    first, second = (words[i] for i in rng.permutation(2))
    return "more", {"group_a": first, "group_b": second}, words[0]


def _read(scene, language, rng):
    words = [piece.word for piece in scene.pieces if piece.word is not None]
    return ("read", {}, words[0]) if words else None


def _refer(scene, language, rng):
    if not _things(scene):
        return None
    piece = _draw(rng, _things(scene))
    return "refer", {"box": box_of(piece)}, piece.thing.names[language]


def _false_premise(scene, language, rng):
    """A question of another kind on a thing that is not there; the right answer says so."""
    kind, missing = str(rng.choice(PRESUMING)), _other_concept(scene, rng)
    things = _things(scene)
    if not things:
        return None
    names = [definite(missing, language), definite(_draw(rng, things).thing, language)]
    order = rng.permutation(2) if kind != "size" and kind != "frame" else (0, 1)
    fields = {"the_a": names[order[0]], "the_b": names[order[1]]}
    return kind, fields, absent(missing, language)


_ASK = {
    "existence": _existence, "count": _count, "category": _category, "background": _background,
    "left_right": _left_right, "leftmost": _leftmost, "above_below": _above_below, "size": _size, "frame": _frame,
    "bigger": _bigger, "more": _more, "read": _read, "refer": _refer,
    "false_premise": _false_premise,
}  # fmt: skip


def _ask(
    kind: str, scene: Scene, language: str, rng: np.random.Generator
) -> tuple[str, dict[str, str], str] | None:
    """(kind whose wordings fit, their fields, the answer), None where the scene does not allow the question."""
    if kind not in _ASK:
        raise ValueError(f"question type {kind!r} is not one of {', '.join(QUESTION_TYPES)}")
    return _ASK[kind](scene, language, rng)
