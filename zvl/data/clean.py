"""Cleaning of image-text pairs: what Qwen-VL's appendix A.1 names, as small rules over captions and pictures.

A rule is a pure function (what was measured, limits) -> why the pair is to be dropped, "" where it is not. The
functions over batches (dicts of lists, as `datasets.map` and Ray Data hand them out) depend on nothing but their
arguments. A row that already broke a rule is not measured further: text costs microseconds, decoding a picture
milliseconds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

from zvl.data.caption_rules import TEXT_RULES, count
from zvl.data.limits import DEFAULT, Limits, of_source
from zvl.data.markup import clean_caption
from zvl.data.picture_rules import IMAGE_RULES, Picture, measure

Batch = dict[str, list]


def clean_text(batch: Batch, limits: Limits | Mapping[str, Limits] = DEFAULT) -> Batch:
    """Captions freed of markup and irregular patterns, then judged.

    batch: columns caption, language, source; faults and reasons where it was judged before. Returns the batch with
    `caption` cleaned, `original` (the caption as it was read), `changes` (what was cleaned, by name), `faults` (names
    of the rules that the row breaks) and `reasons` (one for each).
    """
    batch = started(batch)
    batch["original"], captions, changes = batch["caption"], [], []
    rows = zip(
        batch["caption"], batch["language"], batch["source"], batch["faults"], batch["reasons"], strict=True
    )
    faults, reasons = [], []
    for raw, language, source, known, why in rows:
        chosen = of_source(limits, source)
        text, changed = clean_caption(raw if isinstance(raw, str) else "")
        found = _broken(TEXT_RULES, count(text, language), chosen)
        captions.append(text)
        changes.append(changed)
        faults.append([*known, *found])
        reasons.append([*why, *found.values()])
    return batch | {"caption": captions, "changes": changes, "faults": faults, "reasons": reasons}


def clean_images(batch: Batch, limits: Limits | Mapping[str, Limits] = DEFAULT) -> Batch:
    """Pictures measured and judged, each file once a batch.

    batch: columns image (a path), source; faults and reasons where it was judged before, whose rows are passed over.
    Returns the batch with `width`, `height`, `sha256`, `phash` and faults and reasons.
    """
    batch = started(batch)
    measured = functools.cache(measure)
    columns: Batch = {name: [] for name in ("width", "height", "sha256", "phash", "faults", "reasons")}
    for path, source, known, why in zip(
        batch["image"], batch["source"], batch["faults"], batch["reasons"], strict=True
    ):
        chosen = of_source(limits, source)
        picture = Picture() if known else measured(path, chosen)
        found = {} if known else _broken(IMAGE_RULES, picture, chosen)
        told = (
            picture.width,
            picture.height,
            picture.sha256,
            picture.phash,
            [*known, *found],
            [*why, *found.values()],
        )
        for name, value in zip(columns, told, strict=True):
            columns[name].append(value)
    return batch | columns


def clean_scores(batch: Batch, limits: Limits | Mapping[str, Limits] = DEFAULT) -> Batch:
    """Pairs whose `clip_score` lies below their data set's limit; rows without a score are passed over."""
    batch = started(batch)
    for row, (score, source) in enumerate(zip(batch["clip_score"], batch["source"], strict=True)):
        least = of_source(limits, source).score
        if score is not None and least is not None and not score >= least:  # NaN is too low
            batch["faults"][row] = [*batch["faults"][row], "score"]
            batch["reasons"][row] = [*batch["reasons"][row], f"CLIP score {score:.3f}, not {least:.3f}"]
    return batch


def started(batch: Mapping[str, list]) -> Batch:
    """A copy of a batch that has faults and reasons, none where it had no such columns."""
    batch = dict(batch)
    rows = len(next(iter(batch.values()), []))
    for name in ("faults", "reasons"):
        batch[name] = list(batch.get(name) or [[] for _ in range(rows)])
    return batch


def _broken(rules: Mapping[str, Callable], measured, limits: Limits) -> dict[str, str]:
    return {name: reason for name, rule in rules.items() if (reason := rule(measured, limits))}
