"""Noise planted in Moji pairs, of each kind that the web has, to measure the cleaning on: known bad, by seed."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType

import emoji
import numpy as np
from numpy.random import Generator
from PIL import Image

from zvl.data import moji, wordings
from zvl.data.readers import read_coco_captions
from zvl.data.samples import LANGUAGES
from zvl.data.webpairs import sha1_name
from zvl.data.world import WorldConfig, draw_scenes

HTML = (
    "<p>{}</p>", '<a href="https://example.com/?a=1&amp;b=2" target=_blank>{}</a>', "<div class='c'><b>{}</b></div>",
    "{}<br />", "&lt;i&gt;{}&lt;/i&gt;", "&amp;lt;em&amp;gt;{}&amp;lt;/em&amp;gt;", "&nbsp;{}&nbsp;", "<!-- ad -->{}",
    "<script>var shown = 1 < 2;</script>{}", '{}<img src="a', "<FONT COLOR=red>{}</FONT>", "{}</s>",
)  # fmt: skip
OTHER_SCRIPTS = (
    "Красивая картинка",
    "かわいいイラスト",
    "예쁜 그림",
    "صورة جميلة",
    "ภาพสวย",
    "όμορφη εικόνα",
)
NEITHER = ("", "…", "!!!", "1234", "http://example.com/12", "DSC_0012.jpg")  # captions without a word

# kind -> the rule that is to find it; "score": none but a limit on the CLIP score can.
RULES = {
    "html": "html", "language": "language", "emoji": "emoji", "characters": "characters", "short": "length",
    "long": "length", "small": "small", "wide": "aspect", "blank": "blank", "broken": "unreadable",
    "same_file": "same_file", "near_duplicate": "near_picture", "other_scene": "score", "swap": "score",
}  # fmt: skip


def plant(
    world: Path,
    folder: Path,
    seed: int,
    shares: Mapping[str, float] = MappingProxyType(dict.fromkeys(RULES, 0.03)),
    split: str = "train",
    pairs: int | None = None,
) -> list[dict]:
    """Pairs of a Moji world, in both languages, with noise of each kind; all in mixed order.

    folder: for pictures that are changed. shares: kind of noise -> its rows among the pairs. pairs: how many are drawn
    from the world, all of them if None. Returns rows with the fields of `Pair`, `planted` (the kind, "" for a good
    pair) and `truth` (the caption before it was changed). Duplicates are further rows, beside the one that they double.
    Raises ValueError for an unknown kind, and where the shares do not fit in.
    """
    rng = np.random.default_rng([seed, 17])
    if unknown := set(shares) - set(RULES):
        raise ValueError(f"no noise of kind {sorted(unknown)[0]!r}; there are {', '.join(RULES)}")
    if sum(shares.values()) > 1:
        raise ValueError(f"noise in {sum(shares.values()):.0%} of the pairs is more than all of them")
    made = json.loads((Path(world) / "world.json").read_text("utf8"))
    scenes = draw_scenes(WorldConfig(**made | {"art_sets": tuple(made["art_sets"])}))[split]
    rows = [
        asdict(pair) | {"planted": "", "truth": pair.caption}
        for language in LANGUAGES
        for pair in read_coco_captions(
            Path(world) / f"captions_{language}_{split}.json",
            Path(world) / "images" / split,
            language,
            "moji",
        )
    ]
    rows = [rows[i] for i in rng.permutation(len(rows))[:pairs]]
    folder.mkdir(parents=True, exist_ok=True)
    start, more = 0, []
    for kind, share in shares.items():
        rest = range(start, min(start + round(share * len(rows)), len(rows)))
        start = rest.stop
        for row in rest:
            changed = _changed(rows[row], kind, rows, scenes, folder, rng)
            if kind in ("same_file", "near_duplicate"):
                more.append(changed)
            else:
                rows[row] = changed
    rows += more
    return [rows[i] for i in rng.permutation(len(rows))]


def write_crawl(rows: Iterable[dict], folder: Path) -> tuple[Path, Path, dict[tuple[str, str, str], str]]:
    """The rows as a crawl of the web would bring them: English in CC12M's format, Chinese in Wukong's.

    A picture is named by the SHA-1 of its address, as `webpairs.sha1_name` expects. Returns the two files and what was
    planted: (name of the picture, caption, language) -> kind.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    paths = folder / "cc12m.tsv", folder / "wukong_100m_0.csv"
    planted = {}
    with (
        open(paths[0], "w", encoding="utf8") as tsv,
        open(paths[1], "w", encoding="utf8", newline="") as file,
    ):
        sheet = csv.writer(file)
        sheet.writerow(["url", "caption"])
        for row in rows:
            url = _address(row["image_id"])
            picture = folder / "images" / sha1_name(url, 0)
            if not picture.exists():
                os.link(row["image"], picture)
            planted[picture.name, row["caption"], row["language"]] = row["planted"]
            if row["language"] == "en":
                tsv.write(f"{url}\t{row['caption']}\n")
            else:
                sheet.writerow([url, row["caption"]])
    return *paths, planted


def _address(image_id: str) -> str:
    """Where a picture would lie. Of two copies of one file the first by name stays, so a copy gets the later name."""
    first = f"https://pictures.example/{image_id.split('-')[0]}"
    tries = (f"https://pictures.example/{image_id}?{n}" for n in itertools.count())
    return first if "-" not in image_id else next(u for u in tries if sha1_name(u, 0) > sha1_name(first, 0))


def precision_and_recall(rows: Iterable[dict]) -> dict[str, tuple[float, float, int]]:
    """Rule -> precision, recall and number of planted rows, for the rules that are to find a planted kind.

    rows: cleaned, with `planted`, `faults` and `changes`. A rule that found nothing has precision 0.
    """
    hits: dict[str, list[int]] = {rule: [0, 0, 0] for rule in RULES.values() if rule != "score"}
    for row in rows:
        due = RULES.get(row["planted"])
        for rule, counts in hits.items():
            found = rule in row["faults"] or rule in row["changes"]
            counts[0] += found and due == rule
            counts[1] += found
            counts[2] += due == rule
    return {rule: (h / max(f, 1), h / d, d) for rule, (h, f, d) in hits.items() if d}


def _changed(
    row: dict, kind: str, rows: list[dict], scenes: list[moji.Scene], folder: Path, rng: Generator
) -> dict:
    scene, language = scenes[int(row["image_id"])], row["language"]
    if kind in PICTURES:
        data = PICTURES[kind](Path(row["image"]), rng)
        name = f"{kind}-{row['image_id']}-{rng.integers(2**32):08x}"
        path = folder / (name + (".jpg" if kind == "near_duplicate" else ".png"))
        path.write_bytes(data)
        return row | {"image_id": f"{row['image_id']}-{path.stem}", "image": str(path), "planted": kind}
    if kind == "other_scene":
        caption = _elsewhere(row, rows, scenes, rng)
    elif kind == "language":
        other = "zh" if language == "en" else "en"
        caption = wordings.caption(scene, other, "train", int(rng.integers(5)), rng)
    elif kind == "swap":
        present = [piece.concept for piece in scene.pieces]
        new = [c.id for c in moji.concepts() if c.id not in present]
        swapped = {int(rng.choice(present)): int(rng.choice(new))}
        caption = wordings.caption(scene, language, "train", int(rng.integers(5)), rng, replace=swapped)
    else:
        caption = CAPTIONS[kind](row["caption"], rng)
    return row | {"caption": caption, "planted": kind}


def _elsewhere(row: dict, rows: list[dict], scenes: list[moji.Scene], rng: Generator) -> str:
    """The caption of another scene, with other things in it."""
    own = {piece.concept for piece in scenes[int(row["image_id"])].pieces}
    while True:
        other = rows[int(rng.integers(len(rows)))]
        if other["language"] != row["language"] or not other["image_id"].isdigit():
            continue
        if {piece.concept for piece in scenes[int(other["image_id"])].pieces} != own:
            return other["truth"]


def _one(choices, rng: Generator):
    return choices[int(rng.integers(len(choices)))]


def _emoji(caption: str, rng: Generator) -> str:
    whole = [c for c, told in emoji.EMOJI_DATA.items() if told["status"] == emoji.STATUS["fully_qualified"]]
    return f"{caption} {_one(whole, rng)}"


CAPTIONS: dict[str, Callable[[str, Generator], str]] = {
    "html": lambda caption, rng: _one(HTML, rng).format(caption),
    "emoji": _emoji,
    "characters": lambda caption, rng: f"{caption} {_one(OTHER_SCRIPTS, rng)}",
    "short": lambda caption, rng: _one(NEITHER, rng),
    "long": lambda caption, rng: " ".join([caption] * 260),
}


# --- pictures: file and rng -> the bytes of the changed file ----------------------------------------------------------


def _saved(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def _resized(path: Path, width: int, height: int) -> bytes:
    return _saved(Image.open(path).convert("RGB").resize((width, height), Image.Resampling.BICUBIC))


def _near(path: Path, rng: Generator) -> bytes:
    """Scaled down, a little brighter or darker, saved as JPEG: what a second web site shows."""
    side = int(rng.integers(68, 92))
    pixels = np.asarray(
        Image.open(path).convert("RGB").resize((side, side), Image.Resampling.BICUBIC), np.float32
    )
    shown = np.clip(pixels * rng.uniform(0.92, 1.08), 0, 255).astype(np.uint8)
    return _saved(Image.fromarray(shown), "JPEG", quality=int(rng.integers(60, 90)))


def _broken(path: Path, rng: Generator) -> bytes:
    """Cut off, or a web page that says that there is no such picture."""
    data = path.read_bytes()
    return (
        data[: int(len(data) * rng.uniform(0.1, 0.8))]
        if rng.random() < 0.7
        else b"<html>404 Not Found</html>"
    )


PICTURES: dict[str, Callable[[Path, Generator], bytes]] = {
    "small": lambda path, rng: _resized(path, *([int(rng.integers(16, 60))] * 2)),
    "wide": lambda path, rng: _resized(path, *((320, 90) if rng.random() < 0.5 else (90, 320))),
    "blank": lambda path, rng: _saved(Image.new("RGB", (96, 96), tuple(rng.integers(0, 256, 3).tolist()))),
    "broken": _broken,
    "same_file": lambda path, rng: path.read_bytes(),
    "near_duplicate": _near,
}
