"""What is said about Moji scenes in English and Chinese: captions, descriptions, questions and answers.

Every kind of sentence has wordings for training and others for the test split (paraphrase split). The
sentences are templates, written by us; the names in them are CLDR's. English avoids agreement ("is the
grapes") by asking what one sees; Chinese avoids measure words, which differ from noun to noun.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zvl.data.moji import BACKGROUNDS, GROUP_NAMES, GROUPS, Concept, Piece, Scene, concepts

QUESTION_TYPES = ("existence", "count", "category", "background", "left_right", "leftmost")

BARE = {  # English names that take no article
    "cooked rice", "spaghetti", "bread", "french fries", "sushi", "candy", "bacon", "pancakes", "grapes",
    "cherries", "broccoli", "garlic", "glasses", "jeans", "gloves", "socks", "scissors",
}  # fmt: skip
COLOURS = {
    "en": {name: name for name in BACKGROUNDS},
    "zh": {"red": "红色", "orange": "橙色", "yellow": "黄色", "green": "绿色", "blue": "蓝色",
           "purple": "紫色", "grey": "灰色", "white": "白色"},
}  # fmt: skip
NUMBERS = {
    "en": ("zero", "one", "two", "three", "four", "five"),
    "zh": ("零个", "一个", "两个", "三个", "四个", "五个"),
}
PLACES = {
    "en": ("at the left edge", "on the left", "in the middle", "on the right", "at the right edge"),
    "zh": ("左边缘", "左侧", "中间", "右侧", "右边缘"),
}
SIZE_WORDS = {"en": {"small": "small", "big": "big"}, "zh": {"small": "小号的", "big": "大号的"}}
YES_NO = {"en": ("yes", "no"), "zh": ("有", "没有")}
SIDES = {"en": ("left", "right"), "zh": ("左边", "右边")}

# {things}: the names in a list; {ground}: the colour of the background; {number}: how many things.
CAPTIONS = {
    ("en", "train"): (
        "{things}.",
        "a picture of {things}.",
        "{things} on a {ground} background.",
        "this picture shows {things}.",
        "there are {number} things here: {things}.",
    ),
    ("en", "test"): (
        "an image with {things}.",
        "{things} in one picture.",
        "on {ground}, one sees {things}.",
        "a {ground} scene with {things}.",
        "here we see {things}.",
    ),
    ("zh", "train"): (
        "{things}。",
        "图片里有{things}。",
        "{ground}背景上的{things}。",
        "这张图展示了{things}。",
        "这里有{number}东西：{things}。",
    ),
    ("zh", "test"): (
        "画面中有{things}。",
        "{things}在同一张图里。",
        "在{ground}的背景上能看到{things}。",
        "{ground}的画面，上面是{things}。",
        "我们看到{things}。",
    ),
}
DESCRIBE = {
    ("en", "train"): (
        "Describe the picture.",
        "What does the picture show?",
        "Write a caption for this image.",
        "Tell me what you see.",
        "Give a short description.",
        "Caption this image in one sentence.",
        "What can you see here?",
        "Say what the picture shows.",
    ),
    ("en", "test"): ("Caption this picture.", "What can be seen here?", "Say what is in the image."),
    ("zh", "train"): (
        "描述这张图片。",
        "图片展示了什么？",
        "给这张图写一句说明。",
        "说说你看到了什么。",
        "简单描述一下。",
        "请为这张图写一句话。",
        "图中能看到什么？",
        "讲讲这张图片的内容。",
    ),
    ("zh", "test"): ("为图片配一句说明。", "这里能看到什么？", "讲一讲图中的内容。"),
}
# {a}: a name as the language introduces it ("a dog"); {the_a}, {the_b}: a name already known; {group}: a
# group of things.
QUESTIONS: dict[tuple[str, str, str], tuple[str, ...]] = {
    ("existence", "en", "train"): (
        "Does the picture show {a}?",
        "Can you see {a}?",
        "Do you see {a} in the picture?",
        "Does this scene have {a} in it?",
        "Would you find {a} here?",
        "Is there {a} in this image?",
        "Does the image show {a} anywhere?",
        "Does this picture contain {a}?",
        "Can {a} be found in the scene?",
        "Do we find {a} in this image?",
    ),
    ("existence", "en", "test"): (
        "Does this image contain {a}?",
        "Can one find {a} in this picture?",
        "Do we see {a} in this scene?",
    ),
    ("existence", "zh", "train"): (
        "图片里有{a}吗？",
        "你能看到{a}吗？",
        "这张图中有没有{a}？",
        "画面上有{a}吗？",
        "这里有没有{a}？",
        "图里能找到{a}吗？",
        "这幅画上是否画了{a}？",
        "图上有没有{a}？",
        "在画面里看得到{a}吗？",
        "这张图片是不是有{a}？",
    ),
    ("existence", "zh", "test"): ("图中是否有{a}？", "这幅画里有{a}吗？", "能在图上找到{a}吗？"),
    ("count", "en", "train"): (
        "How many things are in the picture?",
        "How many things do you see?",
        "Count the things in this scene.",
        "What is the number of things shown?",
        "How many objects does the picture show?",
        "How many things does this image contain?",
        "Tell me the number of things in the picture.",
        "What number of objects do you count?",
        "How many objects can be seen here?",
        "Say how many things there are.",
    ),
    ("count", "en", "test"): (
        "How many things can be counted here?",
        "What number of things does the image have?",
        "Tell me how many objects you see.",
    ),
    ("count", "zh", "train"): (
        "图片里有几个东西？",
        "你看到了几个东西？",
        "数一数图中的东西。",
        "这里一共有几个东西？",
        "画面上有多少个东西？",
        "图上能看到多少个东西？",
        "请数出这幅画里的东西。",
        "说说图中有几个东西。",
        "这张图共有多少个东西？",
        "这幅画里有几个东西？",
    ),
    ("count", "zh", "test"): ("图中共有几个东西？", "这幅画里能数出几个东西？", "说说有多少个东西。"),
    ("category", "en", "train"): (
        "Which {group} does the picture show?",
        "Which {group} do you see?",
        "What is the {group} in the picture?",
        "Name the {group} in this scene.",
        "There is one {group} here; what is it?",
        "What {group} do you find here?",
        "Tell me the {group} in this picture.",
        "Which {group} can be seen in the image?",
        "What is the one {group} in this scene?",
        "Say which {group} is shown.",
    ),
    ("category", "en", "test"): (
        "Which {group} is in this image?",
        "Tell me which {group} you see.",
        "What {group} can be found here?",
    ),
    ("category", "zh", "train"): (
        "图片里的{group}是什么？",
        "你看到了哪种{group}？",
        "图中有哪种{group}？",
        "说出画面上的{group}。",
        "这里有一种{group}，是什么？",
        "请说出图上的{group}是什么。",
        "这幅画里的{group}是哪一种？",
        "画面上能看到什么{group}？",
        "这里有哪种{group}？",
        "图片中的那种{group}叫什么？",
    ),
    ("category", "zh", "test"): ("图上的{group}是哪种？", "这幅画里有什么{group}？", "请说出这里的{group}。"),
    ("background", "en", "train"): (
        "What colour is the background?",
        "What is the colour of the background?",
        "Which colour does the background have?",
        "Name the background colour.",
        "On what colour do the things stand?",
        "What colour is behind the things?",
        "Tell me which colour the background is.",
        "The things are in front of what colour?",
        "Say what colour the background has.",
        "Which colour do you see behind everything?",
    ),
    ("background", "en", "test"): (
        "Which colour is behind the things?",
        "Tell me the colour of the background.",
        "The background has what colour?",
    ),
    ("background", "zh", "train"): (
        "背景是什么颜色？",
        "图片的背景是什么颜色的？",
        "说出背景的颜色。",
        "这张图的底色是什么？",
        "东西后面是什么颜色？",
        "请说出画面的底色。",
        "这幅画的背景用的是哪种颜色？",
        "画面背景是哪种颜色？",
        "图上的背景是什么色？",
        "请问图片的背景颜色是什么？",
    ),
    ("background", "zh", "test"): ("背景的颜色是哪种？", "画面的背景是什么色？", "请问背景用了什么颜色？"),
    ("left_right", "en", "train"): (
        "Do you see {the_a} left or right of {the_b}?",
        "On which side of {the_b} do you find {the_a}, left or right?",
        "From {the_b}, do we look left or right to see {the_a}?",
        "Did the artist put {the_a} to the left or to the right of {the_b}?",
        "Where do you see {the_a} compared with {the_b}, left or right?",
        "Can you find {the_a} to the left or to the right of {the_b}?",
        "Seen from {the_b}, what side do we find {the_a} on, left or right?",
        "Do you find {the_a} on the left or on the right of {the_b}?",
        "Left or right of {the_b}: where can you see {the_a}?",
        "To find {the_a}, do you go left or right from {the_b}?",
    ),
    ("left_right", "en", "test"): (
        "Do we find {the_a} to the left or to the right of {the_b}?",
        "On what side of {the_b} can you see {the_a}, left or right?",
        "Do you look left or right from {the_b} to find {the_a}?",
    ),
    ("left_right", "zh", "train"): (
        "{the_a}在{the_b}的左边还是右边？",
        "{the_a}位于{the_b}的哪一边，左边还是右边？",
        "从{the_b}看，{the_a}在左边还是右边？",
        "和{the_b}相比，{the_a}在左边还是右边？",
        "图中{the_a}是在{the_b}的左边还是右边？",
        "请问{the_a}在{the_b}的哪一侧，左边还是右边？",
        "以{the_b}来看，{the_a}是在左边还是右边？",
        "{the_a}是在{the_b}的右边还是左边？",
        "找{the_a}要往{the_b}的左边还是右边看？",
        "{the_a}和{the_b}，前者在后者的左边还是右边？",
    ),
    ("left_right", "zh", "test"): (
        "{the_a}是在{the_b}左边还是在它右边？",
        "以{the_b}为准，{the_a}在左边还是右边？",
        "请问{the_a}在{the_b}的左边还是右边？",
    ),
    ("leftmost", "en", "train"): (
        "What is furthest to the left?",
        "Which thing is furthest left?",
        "What do you see first from the left?",
        "Name the leftmost thing.",
        "What is the leftmost thing in the picture?",
        "Which one of the things is furthest left?",
        "Tell me the thing that comes first from the left.",
        "What thing do you find at the far left?",
        "Starting from the left, what comes first?",
        "Say which thing is leftmost.",
    ),
    ("leftmost", "en", "test"): (
        "Which thing is the leftmost one?",
        "What comes first from the left?",
        "Tell me what is furthest to the left.",
    ),
    ("leftmost", "zh", "train"): (
        "最左边是什么？",
        "图中最靠左的是什么？",
        "从左边数第一个是什么？",
        "说出最左边的东西。",
        "最左边的东西是什么？",
        "请问最左边的是哪个东西？",
        "从左往右看，最先看到什么？",
        "图上最靠左边的东西是什么？",
        "最靠左的一个是什么？",
        "请说出从左数的第一个东西。",
    ),
    ("leftmost", "zh", "test"): ("最靠左边的是什么东西？", "从左往右第一个是什么？", "请说出最左边是什么。"),
}


@dataclass(frozen=True)
class Question:
    """A question on one scene with its one right answer, in one language."""

    kind: str
    language: str
    question: str
    answer: str


def indefinite(concept: Concept, language: str) -> str:
    """The name as the language introduces it: "a dog", "an ant", "grapes", "狗"."""
    name = concept.names[language]
    if language != "en" or name in BARE:
        return name
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def definite(concept: Concept, language: str) -> str:
    return f"the {concept.names[language]}" if language == "en" else concept.names[language]


def listing(parts: list[str], language: str) -> str:
    """ "a, b and c" or "a、b和c"."""
    comma, last = (", ", " and ") if language == "en" else ("、", "和")
    return last.join([comma.join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def group_word(group: str, language: str) -> str:
    return "piece of clothing" if (group, language) == ("clothing", "en") else GROUP_NAMES[language][group]


def caption(
    scene: Scene,
    language: str,
    split: str,
    wording: int,
    rng: np.random.Generator,
    replace: dict[int, int] | None = None,
) -> str:
    """One caption, its things in drawn order. `replace` swaps concepts by id: captions wrong on purpose."""
    order = rng.permutation(len(scene.pieces))
    ids = [scene.pieces[i].concept for i in order]
    names = [indefinite(concepts()[(replace or {}).get(i, i)], language) for i in ids]
    return CAPTIONS[language, split][wording].format(
        things=listing(names, language), ground=COLOURS[language][scene.background],
        number=NUMBERS[language][len(names)],
    ).replace("are one things", "is one thing")  # fmt: skip


def piece_phrase(piece: Piece, language: str) -> str:
    """Name, size and place of one piece: "a small dog at the left edge", "左边缘是小号的狗"."""
    name, place = concepts()[piece.concept].names[language], PLACES[language][piece.place]
    size = SIZE_WORDS[language][piece.size]
    if language == "zh":
        return f"{place}是{size}{name}"
    return f"{'' if name in BARE else 'a '}{size} {name} {place}"


def phrases(scene: Scene, language: str) -> list[str]:
    """Everything that can be asked about a scene, one fact a phrase: background, number, then each piece."""
    number, ground = NUMBERS[language][len(scene.pieces)], COLOURS[language][scene.background]
    if language == "zh":
        opening = [f"{ground}背景", f"有{number}东西"]
    else:
        opening = [f"a {ground} background", f"{number} thing{'s' if len(scene.pieces) > 1 else ''}"]
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


def questions(
    scene: Scene, language: str, split: str, rng: np.random.Generator, kinds: tuple[str, ...] = QUESTION_TYPES
) -> list[Question]:
    """One question of each kind that the scene allows, answers balanced by construction, wording drawn."""
    table = concepts()
    result = []
    for kind in kinds:
        fields, answer = _ask(kind, scene, language, rng, table)
        if answer is not None:
            wordings = QUESTIONS[kind, language, split]
            result.append(
                Question(kind, language, wordings[rng.integers(len(wordings))].format(**fields), answer)
            )
    return result


def describe(scene: Scene, language: str, split: str, rng: np.random.Generator) -> Question:
    """An instruction to caption the scene, and a caption in a wording of the split."""
    wordings = DESCRIBE[language, split]
    answer = caption(scene, language, split, int(rng.integers(len(CAPTIONS[language, split]))), rng)
    return Question("describe", language, wordings[rng.integers(len(wordings))], answer)


def _ask(kind, scene, language, rng, table) -> tuple[dict[str, str], str | None]:
    pieces = scene.pieces
    present = {piece.concept for piece in pieces}
    if kind == "existence":
        yes = rng.random() < 0.5
        pool = sorted(present) if yes else [c.id for c in table if c.id not in present]
        return {"a": indefinite(table[int(rng.choice(pool))], language)}, YES_NO[language][0 if yes else 1]
    if kind == "count":
        return {}, NUMBERS[language][len(pieces)]
    if kind == "background":
        return {}, COLOURS[language][scene.background]
    if kind == "category":
        groups = [table[i].group for i in sorted(present)]
        single = [g for g in GROUPS if groups.count(g) == 1 and g != "thing"]
        if not single:
            return {}, None
        group = str(rng.choice(single))
        name = next(table[i].names[language] for i in present if table[i].group == group)
        return {"group": group_word(group, language)}, name
    if kind == "left_right":
        pairs = [
            (p, q) for p in pieces for q in pieces if p.place != q.place and abs(p.centre - q.centre) >= 8
        ]
        if not pairs:
            return {}, None
        p, q = pairs[int(rng.integers(len(pairs)))]
        fields = {
            "the_a": definite(table[p.concept], language),
            "the_b": definite(table[q.concept], language),
        }
        return fields, SIDES[language][0 if p.centre < q.centre else 1]
    if kind == "leftmost":
        first, *rest = scene.left_to_right()
        if not rest or rest[0].place == first.place or rest[0].centre - first.centre < 8:
            return {}, None  # one piece, or too close to call
        return {}, table[first.concept].names[language]
    raise ValueError(f"question type {kind!r} is not one of {', '.join(QUESTION_TYPES)}")
