"""Data cards and model cards: Markdown for people, with YAML front matter for programs."""

from pathlib import Path

import yaml

REQUIRED = ("id", "name", "licence")


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
