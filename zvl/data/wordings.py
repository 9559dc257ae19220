"""The words of the Moji world in English and Chinese: names in sentences, captions, descriptions.

The sentences stand in `sentences/{en,zh}.yaml`, written by us, those for training and others for the test apart
(paraphrase split); the names in them are CLDR's. English avoids agreement ("is the grapes") by asking what one sees;
Chinese avoids measure words, which differ from noun to noun. What is asked is in `questions.py`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml

from zvl.data.drawing import BACKGROUNDS
from zvl.data.moji import GROUP_NAMES, Concept, Piece, Scene, concepts
from zvl.data.samples import LANGUAGES

BARE = {  # English names that take no article
    "cooked rice", "spaghetti", "bread", "french fries", "sushi", "candy", "bacon", "pancakes", "grapes",
    "cherries", "broccoli", "garlic", "glasses", "jeans", "gloves", "socks", "scissors",
}  # fmt: skip
COLOURS = {
    "en": {name: name for name in (*BACKGROUNDS, "black")},
    "zh": {"red": "红色", "orange": "橙色", "yellow": "黄色", "green": "绿色", "blue": "蓝色",
           "purple": "紫色", "grey": "灰色", "white": "白色", "black": "黑色"},
}  # fmt: skip
NUMBERS = {
    "en": ("zero", "one", "two", "three", "four", "five"),
    "zh": ("零个", "一个", "两个", "三个", "四个", "五个"),
}
PLACES = {
    "en": ("at the left edge", "on the left", "in the middle", "on the right", "at the right edge"),
    "zh": ("左边缘", "左侧", "中间", "右侧", "右边缘"),
}
HEIGHTS = {"en": ("high", "halfway up", "low"), "zh": ("高处", "中部", "低处")}
SIZE_WORDS = {"en": {"small": "small", "big": "big"}, "zh": {"small": "小号的", "big": "大号的"}}
SIZE_ANSWERS = {"en": SIZE_WORDS["en"], "zh": {"small": "小的", "big": "大的"}}
GROUP_PLURALS = {  # with "more" and "which"
    "en": {"animal": "animals", "food": "food items", "fruit": "fruits", "vegetable": "vegetables",
           "vehicle": "vehicles", "clothing": "clothes", "tool": "tools", "instrument": "instruments",
           "plant": "plants"},
    "zh": {name: word for name, word in GROUP_NAMES["zh"].items() if name != "thing"},
}  # fmt: skip
YES_NO = {"en": ("yes", "no"), "zh": ("有", "没有")}
SIDES = {"en": ("left", "right"), "zh": ("左边", "右边")}
LEVELS = {"en": ("above", "below"), "zh": ("上方", "下方")}
SAME = {"en": ("yes", "no"), "zh": ("一样", "不一样")}
ORDINALS = {"en": ("the first", "the second"), "zh": ("第一张", "第二张")}
NO_FRAME = {"en": "none", "zh": "没有框"}


def _sentences() -> dict[tuple[str, str, str], tuple[str, ...]]:
    """(kind, language, split) -> wordings, from the two files."""
    table = {}
    for language in LANGUAGES:
        text = Path(__file__).with_name("sentences").joinpath(f"{language}.yaml").read_text("utf8")
        for kind, splits in yaml.safe_load(text).items():
            table |= {(kind, language, split): tuple(wordings) for split, wordings in splits.items()}
    return table


QUESTIONS = _sentences()
CAPTIONS, DESCRIBE = (
    {key[1:]: QUESTIONS.pop(key) for key in list(QUESTIONS) if key[0] == kind}
    for kind in ("captions", "describe")
)


def _a(word: str) -> str:
    """An English word behind its article: "a red", "an orange"."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def indefinite(concept: Concept, language: str) -> str:
    """The name as the language introduces it: "a dog", "an ant", "grapes", "狗"."""
    name = concept.names[language]
    if language != "en" or name in BARE:
        return name
    return _a(name)


def definite(concept: Concept, language: str) -> str:
    return f"the {concept.names[language]}" if language == "en" else concept.names[language]


def listing(parts: list[str], language: str) -> str:
    """ "a, b and c" or "a、b和c"."""
    comma, last = (", ", " and ") if language == "en" else ("、", "和")
    return last.join([comma.join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def group_word(group: str, language: str) -> str:
    return "piece of clothing" if (group, language) == ("clothing", "en") else GROUP_NAMES[language][group]


def absent(concept: Concept, language: str) -> str:
    """What one says of a thing that is not there, and was taken for granted."""
    return f"I see no {concept.names['en']}" if language == "en" else f"图里没有{concept.names['zh']}"


def framed(name: str, frame: str | None, language: str) -> str:
    """A name with its frame: "a dog in a red frame", "红框里的狗"."""
    if frame is None:
        return name
    colour = COLOURS[language][frame]
    return f"{name} in {_a(colour)} frame" if language == "en" else f"{colour[0]}框里的{name}"


def sign(word: str, language: str) -> str:
    return f'a sign that says "{word}"' if language == "en" else f"写着“{word}”的牌子"


def mention(piece: Piece, language: str, with_frame: bool = False, other: Concept | None = None) -> str:
    """A piece as a caption names it. other: what is named in its stead, to be wrong on purpose."""
    if piece.word is not None and other is None:
        name = sign(piece.word, language)
    else:
        name = indefinite(other or piece.thing, language)
    return framed(name, piece.frame if with_frame else None, language)


def caption(
    scene: Scene,
    language: str,
    split: str,
    wording: int,
    rng: np.random.Generator,
    replace: dict[int, int] | None = None,
) -> str:
    """One caption, its things in drawn order. `replace` swaps concepts by id: captions wrong on purpose.

    Frames are said of all things in a third of the captions of scenes that have any.
    """
    pieces = [scene.pieces[i] for i in rng.permutation(len(scene.pieces))]
    tell_frames = any(piece.frame for piece in pieces) and rng.random() < 1 / 3
    table, replace = concepts(), replace or {}
    names = [
        mention(p, language, tell_frames, table[replace[p.concept]] if p.concept in replace else None)
        for p in pieces
    ]
    return CAPTIONS[language, split][wording].format(
        things=listing(names, language), ground=(ground := COLOURS[language][scene.background]),
        a_ground=_a(ground) if language == "en" else ground, number=NUMBERS[language][len(names)],
    ).replace("are one things", "is one thing")  # fmt: skip


def piece_phrase(piece: Piece, language: str) -> str:
    """All about one piece: "a small dog in a red frame high at the left edge", "左边缘高处是红框里的小号的狗"."""
    place, size = PLACES[language][piece.place], SIZE_WORDS[language][piece.size]
    if piece.word is not None:
        name = sign(piece.word, language)
    elif language == "en":
        name = piece.thing.names["en"]
        name = f"{'' if name in BARE else 'a '}{size} {name}"
    else:
        name = size + piece.thing.names["zh"]
    name, height = framed(name, piece.frame, language), HEIGHTS[language][piece.height]
    return f"{name} {height} {place}" if language == "en" else f"{place}{height}是{name}"


def phrases(scene: Scene, language: str) -> list[str]:
    """Everything that can be asked about a scene, one fact a phrase: background, number, then each piece."""
    number, ground = NUMBERS[language][len(scene.pieces)], COLOURS[language][scene.background]
    if language == "zh":
        opening = [f"{ground}背景", f"有{number}东西"]
    else:
        opening = [
            f"{_a(ground)} background",
            f"{number} thing{'s' if len(scene.pieces) > 1 else ''}",
        ]
    return opening + [piece_phrase(piece, language) for piece in scene.pieces]


def description(scene: Scene, language: str, rng: np.random.Generator | None = None) -> str:
    """A detailed description with every fact, things from left to right (or, with `rng`, in any order)."""
    ground, number, *things = phrases(scene, language)
    order = sorted(range(len(things)), key=lambda i: scene.pieces[i].centre)
    if rng is not None:
        order = [int(i) for i in rng.permutation(len(things))]
    things = [things[i] for i in order]
    if language == "zh":
        return f"{ground}上{number}：{'，'.join(things)}。"
    return f"On {ground} one sees {number}: {', '.join(things)}."
