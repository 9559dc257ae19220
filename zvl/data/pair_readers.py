"""Readers of image-text pairs by name, for the command line: those that yield `Pair`s, as the data cards call them."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from zvl.data import readers
from zvl.data.rows import DataError, Quarantine
from zvl.data.samples import LANGUAGES, Pair
from zvl.data.webpairs import row_name, sha1_name

Reader = Callable[..., Iterator[Pair]]
IMAGE_NAMES = {"sha1_name": sha1_name, "row_name": row_name}


def pair_readers() -> dict[str, Reader]:
    """All readers that yield pairs, by the dotted name that stands in a data card's field `reader`."""
    found = {name: getattr(readers, name) for name in readers.__all__ if name.startswith("read_")}
    return {
        f"zvl.data.readers.{name}": reader
        for name, reader in found.items()
        if inspect.signature(reader).return_annotation == "Iterator[Pair]"
    }


def read_pairs(
    name: str,
    annotations: Sequence[Path],
    images: Path,
    languages: Sequence[str] = (),
    options: Mapping[str, object] | None = None,
    quarantine: Quarantine | None = None,
) -> Iterator[Pair]:
    """The pairs of one or more annotation files by a reader's name, `zvl.data.readers.read_cc3m` or just `read_cc3m`.

    annotations: files that are read one after another; for a reader of several files a row (SBU), those, in its order.
    languages: of the captions: one, one for each file, or none where the reader knows. options: further arguments of
    the reader, such as splits; image_name is sha1_name or row_name for pairs from the web. Raises DataError for an
    unknown name, option or language, and where the numbers of files or languages do not fit.
    """
    known = pair_readers()
    dotted = name if "." in name else f"zvl.data.readers.{name}"
    if dotted not in known:
        raise DataError(f"no reader of pairs {name!r}; there are {', '.join(known)}")
    reader, options = known[dotted], dict(options or {})
    parameters = inspect.signature(reader).parameters
    files = list(itertools.takewhile(lambda parameter: parameter != "images", parameters))
    taken = (*files, "images", "language", "quarantine")
    if odd := [option for option in options if option not in parameters or option in taken]:
        allowed = ", ".join(parameter for parameter in parameters if parameter not in taken)
        raise DataError(f"{dotted} has no option {odd[0]!r}; it has {allowed}")
    if odd := [language for language in languages if language not in LANGUAGES]:
        raise DataError(f"language: {odd[0]!r} is not one of {', '.join(LANGUAGES)}")
    if "image_name" in options and parameters["image_name"].annotation == "ImageName":
        if options["image_name"] not in IMAGE_NAMES:
            raise DataError(f"image_name: {options['image_name']!r} is not one of {', '.join(IMAGE_NAMES)}")
        options["image_name"] = IMAGE_NAMES[options["image_name"]]
    if not annotations or (len(files) > 1 and len(annotations) != len(files)):
        raise DataError(f"{dotted} reads {', '.join(files)}; {len(annotations)} annotation files are given")
    parts = [tuple(annotations)] if len(files) > 1 else [(file,) for file in annotations]
    if not languages and parameters["language"].default is inspect.Parameter.empty:
        raise DataError(f"{dotted} needs the language of the captions: {' or '.join(LANGUAGES)}")
    if len(languages) not in (0, 1, len(parts)):
        raise DataError(
            f"{len(languages)} languages for {len(parts)} annotation files; give one, or one for each"
        )
    own = [{"language": language} for language in languages] or [{}]
    own = own * len(parts) if len(own) == 1 else own
    return itertools.chain.from_iterable(
        reader(*part, images=images, quarantine=quarantine, **options, **spoken)
        for part, spoken in zip(parts, own, strict=True)
    )
