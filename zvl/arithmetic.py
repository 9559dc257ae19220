"""A check of the Ziya-Visual paper's arithmetic, on the numbers that the data cards hold as printed.

Printed counts are rounded ("9M" is anything from 8.5 to 9.5 million), so sums and quotients are formed as intervals:
a figure that lies outside what the roundings allow cannot be right, one inside may be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import reduce
from operator import add

from zvl.cards import Card, places

# What the paper prints by task or in the text, not by data set.
TOTALS = {"English": "13M", "Chinese": "17M"}  # section 3.3: pairs for pre-training, by language
SAMPLES = {  # Table 2, by task
    "Image Captioning": "8.8M",
    "Visual Question Answering": "4.5M",
    "Reference Grounding": "7.0M",
    "Grounded Captioning": "7.0M",  # printed "Grounded Capation"
}
BMMIC = "5M"  # section 1: "over 5 milion image-text pairs"
MADE = ("vqav2_t", "gqa_t", "llava_t", "m3it_t", "bmmic")  # what the paper translated or wrote itself

ADDS_UP, ROUNDING, WRONG, UNEXPLAINED = "adds up", "within rounding", "does not add up", "unexplained"


@dataclass(frozen=True, slots=True)
class Rounded:
    """A number as printed, and the lowest and highest that round to it."""

    value: Fraction
    low: Fraction
    high: Fraction

    def __add__(self, other: Rounded) -> Rounded:
        return Rounded(self.value + other.value, self.low + other.low, self.high + other.high)

    def percent_of(self, whole: Rounded) -> Rounded:
        """This as percent of a positive whole."""
        parts = ((self.value, whole.value), (self.low, whole.high), (self.high, whole.low))
        return Rounded(*(100 * part / of for part, of in parts))


@dataclass(frozen=True, slots=True)
class Finding:
    """Whether one printed number follows from others.

    computed: what the numbers as printed give; low, high: what they give once their rounding is undone; all in rows,
    or in percent where `printed` ends in %. verdict: "adds up" (computed, rounded as printed, is what is printed),
    "within rounding" (it is not, but some numbers that round to those printed give it), "does not add up", or
    "unexplained" (it does not, on an assumption that the paper does not make; the note says which).
    """

    place: str
    printed: str
    computed: float
    low: float
    high: float
    verdict: str
    note: str


def rounded(text: str) -> Rounded:
    """A count such as "10.5M" or "595k", or a percentage such as "85 %"; a bare number such as "34602" is exact.

    Raises ValueError for anything else.
    """
    number, unit = text.removesuffix(" %"), 1
    if number and number[-1] in "kM":
        unit = {"k": 1_000, "M": 1_000_000}[number[-1]]
        number = number[:-1]
    if not number.replace(".", "", 1).isdigit() or not number[0].isdigit():
        raise ValueError(
            f"{text!r} is neither a count such as 10.5M, 595k or 442 nor a percentage such as 85 %"
        )
    exact = unit == 1 and number == text
    half = Fraction(0) if exact else Fraction(unit, 2 * 10 ** len(number.partition(".")[2]))
    value = Fraction(number) * unit
    return Rounded(value, value - half, value + half)


def check_arithmetic(cards: Mapping[str, Card]) -> list[Finding]:
    """Every place of Tables 1 to 3 where one number should follow from others, in the paper's order."""
    return [
        *_remaining(cards),
        *_languages(cards),
        *_originals(cards),
        *_tasks(cards),
        *_translated(cards),
        _splits(cards),
        _svit(cards),
        _bmmic(cards),
    ]


def _remaining(cards: Mapping[str, Card]) -> list[Finding]:
    findings = []
    for _, row in places(cards, 1):
        share = rounded(row.cleaned).percent_of(rounded(row.original))
        share = replace(share, high=min(share.high, Fraction(100)))  # cleaning adds no rows
        place = f"Table 1, {row.dataset}, remaining"
        findings.append(_finding(place, row.remaining, share, f"{row.cleaned} of {row.original}"))
    return findings


def _languages(cards: Mapping[str, Card]) -> list[Finding]:
    findings = []
    for language, total in TOTALS.items():
        parts = [row.cleaned for _, row in places(cards, 1) if row.language == language]
        findings.append(_finding(f"Section 3.3, {language} pairs", total, _sum(parts), " + ".join(parts)))
    return findings


def _originals(cards: Mapping[str, Card]) -> list[Finding]:
    """A set cannot have more rows than its makers published."""
    findings = []
    for card, row in places(cards, 1):
        if card.published is None:
            continue
        most = rounded(card.published.rows)
        verdict = ADDS_UP if rounded(row.original).low <= most.high else WRONG
        note = f"published: {card.published.rows} {card.published.what}"
        findings.append(
            Finding(f"Table 1, {row.dataset}, original", row.original, *_numbers(most), verdict, note)
        )
    return findings


def _tasks(cards: Mapping[str, Card]) -> list[Finding]:
    findings = []
    for task, samples in SAMPLES.items():
        sizes = [_size(card) for card, row in places(cards, 2) if row.task == task]
        note = "one sample a row, sizes of Table 1 or as published: " + " + ".join(sizes)
        findings.append(_finding(f"Table 2, {task}", samples, _sum(sizes), note, otherwise=UNEXPLAINED))
    return findings


def _size(card: Card) -> str:
    """Rows of a set of Table 2: as cleaned in Table 1 where it stands there, else as published."""
    cleaned = next((row.cleaned for row in card.printed if row.table == 1), None)
    if cleaned is None and card.published is None:
        raise ValueError(f"{card.id}: field 'published' is missing; a set of Table 2 needs a size")
    return cleaned or card.published.rows


def _translated(cards: Mapping[str, Card]) -> list[Finding]:
    findings = []
    for source, translation in (("llava", "llava_t"), ("m3it", "m3it_t")):
        parts, (total,) = _samples(cards[source]), _samples(cards[translation]).values()
        place = f"Table 3, {cards[translation].name}"
        findings.append(_finding(place, total, _sum(parts.values()), " + ".join(parts.values())))
    return findings


def _splits(cards: Mapping[str, Card]) -> Finding:
    """Table 3's rows of M3IT are training, validation and test rows together."""
    parts, splits = _samples(cards["m3it"]), cards["m3it"].splits
    sums = {part: sum(rows[part] for rows in splits.values()) for part in parts}
    off = [part for part in parts if not _holds(rounded(parts[part]), Fraction(sums[part]))]
    held_out = sum(sums.values()) - sum(splits["train"][part] for part in parts)
    total = float(sum(sums.values()))
    note = (
        f"each part is train + val + test as published; {held_out:,} of the rows are validation or test rows"
    )
    if off:
        note = f"train + val + test as published do not give {', '.join(off)}"
    verdict = WRONG if off else ADDS_UP
    return Finding("Table 3, M3IT by part", f"{len(parts)} parts", total, total, total, verdict, note)


def _svit(cards: Mapping[str, Card]) -> Finding:
    parts, published = _samples(cards["svit"]).values(), cards["svit"].published
    note = " + ".join(parts) + "; the total is SVIT's own, Table 3 prints none"
    return _finding("Table 3, SVIT", published.rows, _sum(parts), note)


def _bmmic(cards: Mapping[str, Card]) -> Finding:
    sizes = [next(iter(_samples(cards[name]).values()), None) or cards[name].published.rows for name in MADE]
    most = _sum(sizes)
    verdict = ADDS_UP if most.high > rounded(BMMIC).value else UNEXPLAINED
    note = "what BMMIC is made of is not told; all that was translated or written: " + " + ".join(sizes)
    return Finding("Section 1, BMMIC, over", BMMIC, *_numbers(most), verdict, note)


def finding_rows(findings: Sequence[Finding]) -> list[dict[str, str]]:
    """Findings as rows of a table."""
    rows = []
    for finding in findings:
        show = _percent if finding.printed.endswith("%") else _rows
        spread = show(finding.low)
        if finding.high != finding.low:
            spread = f"{show(finding.low)} to {show(finding.high)}"
        rows.append(
            {
                "Place": finding.place,
                "Printed": finding.printed,
                "Computed": show(finding.computed),
                "Rounding allows": spread,
                "Verdict": finding.verdict,
                "From": finding.note,
            }
        )
    return rows


def _samples(card: Card) -> dict[str, str]:
    return next((row.samples for row in card.printed if row.table == 3), {})


def _sum(counts) -> Rounded:
    return reduce(add, map(rounded, counts))


def _holds(printed: Rounded, value: Fraction) -> bool:
    return printed.low <= value <= printed.high


def _numbers(number: Rounded) -> tuple[float, float, float]:
    return float(number.value), float(number.low), float(number.high)


def _finding(place: str, printed: str, computed: Rounded, note: str, otherwise: str = WRONG) -> Finding:
    claim = rounded(printed)
    if _holds(claim, computed.value):
        verdict = ADDS_UP
    else:
        verdict = ROUNDING if claim.low <= computed.high and computed.low <= claim.high else otherwise
    return Finding(place, printed, *_numbers(computed), verdict, note)


def _rows(count: float) -> str:
    """1967560 -> 1.968M: enough figures to tell it from what is printed."""
    return f"{count / 1e6:.4g}M" if count >= 1e6 else f"{count / 1e3:.4g}k"


def _percent(value: float) -> str:
    return f"{value:.1f} %"
