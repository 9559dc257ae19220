"""Data cards and model cards: Markdown for people, with YAML front matter for programs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

REQUIRED = ("id", "name", "licence")

Text = Annotated[str, Field(min_length=1)]
Count = Annotated[str, Field(pattern=r"^\d+(\.\d+)?[kM]?$")]  # as printed: 10.5M, 595k, 442
Percent = Annotated[str, Field(pattern=r"^\d+(\.\d+)? %$")]
Stage = Literal["pretraining", "tuning", "evaluation"]
Task = Literal["captioning", "retrieval", "vqa", "grounding", "conversation", "ocr"]
TuningTask = Literal[
    "Image Captioning", "Visual Question Answering", "Reference Grounding", "Grounded Captioning"
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)


class PretrainingRow(_Strict):
    """A row of the paper's Table 1; counts and percent as printed."""

    table: Literal[1]
    row: int
    language: Literal["English", "Chinese"]
    dataset: Text
    original: Count
    cleaned: Count
    remaining: Percent


class TaskRow(_Strict):
    """A data set in a row of Table 2, whose sizes are printed by task. row: its place in that task's list."""

    table: Literal[2]
    row: int
    task: TuningTask
    dataset: Text


class InstructionRow(_Strict):
    """A data set of Table 3. samples: data description -> rows as printed, such as "595k"."""

    table: Literal[3]
    row: int
    dataset: Text
    samples: dict[str, Count] = Field(min_length=1)


class BenchmarkRow(_Strict):
    """A row of Table 4."""

    table: Literal[4]
    row: int
    task: Literal["Image Caption", "General VQA"]
    dataset: Text
    description: Text
    split: Text
    metric: Text


Printed = Annotated[PretrainingRow | TaskRow | InstructionRow | BenchmarkRow, Field(discriminator="table")]


class Published(_Strict):
    """How large a data set is by its own makers. rows: a count such as 142040 or "5.4M"; what: what is counted."""

    rows: Count
    what: Text
    source: Text


class Card(_Strict):
    """One data set; `text` is what stands below the front matter.

    chat_only: whether the paper marks the set as exclusive to Ziya-Visual-Chat, which it does in Tables 2 and 3 only,
    by colour. printed: the set's places in the paper's Tables 1 to 4. splits: split -> rows, rows by part, or words.
    reader: dotted name of the function that reads it, by kind of file where there are several, or "none".
    rows, licences, home_pages, packages: for data that zvl makes itself.
    """

    id: str = Field(pattern=r"^[a-z0-9_]+$")
    name: Text
    languages: list[Literal["en", "zh"]] = Field(min_length=1)
    licence: Text
    home_page: str = Field(pattern=r"^(https?://\S+|none)$")
    paper_reference: Text
    stage: list[Stage] = Field(min_length=1)
    task: list[Task] = Field(min_length=1)
    chat_only: Literal[True, False, "unknown", "not applicable"]
    printed: list[Printed] = []
    published: Published | None = None
    splits: dict[str, int | str | dict[str, int]] = Field(min_length=1)
    reader: str | dict[str, str]
    expected_files: list[Text] = Field(min_length=1)
    known_problems: list[Text] = Field(min_length=1)
    rows: dict | None = None
    licences: dict[str, Text] = {}
    home_pages: dict[str, Text] = {}
    packages: list[Text] = []
    text: Text

    @field_validator("reader")
    @classmethod
    def _dotted(cls, reader: str | dict[str, str]) -> str | dict[str, str]:
        for name in reader.values() if isinstance(reader, dict) else [reader]:
            parts = name.split(".")
            if name != "none" and (
                len(parts) < 3 or parts[0] != "zvl" or not all(map(str.isidentifier, parts))
            ):
                raise ValueError(
                    f"{name!r} is neither a dotted name such as zvl.data.readers.read_gqa nor none"
                )
        return reader

    @model_validator(mode="after")
    def _marked_where_the_paper_marks(self) -> Card:
        marked = any(row.table in (2, 3) for row in self.printed)
        if marked == (self.chat_only == "not applicable"):
            allowed = "true, false or unknown" if marked else "not applicable"
            where = "stands" if marked else "does not stand"
            raise ValueError(f"chat_only must be {allowed}, since the set {where} in Table 2 or 3")
        return self

    def readers(self) -> tuple[str, ...]:
        """The dotted names of the functions that read it; none where zvl has none."""
        names = self.reader.values() if isinstance(self.reader, dict) else [self.reader]
        return tuple(name for name in names if name != "none")


def read_cards(folder: str | Path) -> dict[str, Card]:
    """All data cards of a folder (`*.md`) by id.

    Raises ValueError that names every broken card with its fields, what stood there and what is allowed; also for a
    card whose id is not its file's name, and for a folder without cards.
    """
    paths = sorted(Path(folder).glob("*.md"))
    if not paths:
        raise ValueError(f"{folder}: no data cards (*.md)")
    cards: dict[str, Card] = {}
    faults: list[str] = []
    for path in paths:
        try:
            fields, text = read_card(path)
            if clash := set(fields) & {"text"}:
                raise ValueError(f"{path}: field {clash.pop()!r} is the card's text, not front matter")
            card = Card(**fields, text=text)
        except ValidationError as error:
            faults += [f"{path}: {_fault(part)}" for part in error.errors(include_url=False)]
        except ValueError as error:
            faults.append(str(error))
        else:
            if card.id != path.stem:
                faults.append(
                    f"{path}: field 'id': {card.id!r}, but the file is named {path.stem!r}; they must agree"
                )
            cards[card.id] = card
    if faults:
        raise ValueError("\n".join(faults))
    return cards


def places(cards: Mapping[str, Card], table: int) -> list[tuple[Card, Printed]]:
    """(card, row) for each row of one of the paper's tables, in its order (Table 2's within each task)."""
    found = [(card, row) for card in cards.values() for row in card.printed if row.table == table]
    return sorted(found, key=lambda pair: pair[1].row)


def _fault(part: dict) -> str:
    """One finding of pydantic in a line: field, what is allowed, and what stood there."""
    field = ".".join(str(step) for step in part["loc"]) or "front matter"
    if part["type"] == "missing":
        return f"field '{field}' is missing"
    allowed = ""
    if part["type"] == "extra_forbidden" and len(part["loc"]) == 1:
        allowed = "; allowed: " + ", ".join(name for name in Card.model_fields if name != "text")
    given = "" if isinstance(part["input"], BaseModel | dict) else f" (given: {part['input']!r})"
    return f"field '{field}': {part['msg']}{given}{allowed}"


def read_card(path: str | Path, required: tuple[str, ...] = REQUIRED) -> tuple[dict, str]:
    """The front matter and the text of one card.

    path: a Markdown file that begins with a block of YAML between two lines `---`.
    required: fields that the block must hold and that must not be empty.
    Returns (fields, text below the block). Raises ValueError that names the card and the field.
    """
    path = Path(path)
    lines = path.read_text(encoding="utf-8").split("\n")
    if lines[0].rstrip() != "---":
        raise ValueError(f"{path}: line 1 must be '---', the start of the front matter, not {lines[0]!r}")
    end = next((i for i, line in enumerate(lines[1:], start=1) if line.rstrip() == "---"), None)
    if end is None:
        raise ValueError(f"{path}: the front matter has no closing line '---'")
    try:
        fields = yaml.safe_load("\n".join(lines[1:end]))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = (
            f"line {mark.line + 2}" if mark else "front matter"
        )  # + 1 for '---', + 1 for counting from one
        raise ValueError(f"{path}: {place}: not YAML: {getattr(error, 'problem', error)}") from error
    if not isinstance(fields, dict):
        raise ValueError(
            f"{path}: the front matter must be 'field: value' lines, not {type(fields).__name__}"
        )
    for field in required:
        if fields.get(field) in (None, "", [], {}):
            raise ValueError(f"{path}: field '{field}' is missing or empty; required: {', '.join(required)}")
    return fields, "\n".join(lines[end + 1 :]).strip("\n")
