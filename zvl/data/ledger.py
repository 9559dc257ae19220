"""What a teacher was paid and said, on disk, so that nothing is paid twice."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

_FIELDS = {"key": str, "text": str, "prompt_tokens": int, "completion_tokens": int}


class LedgerError(RuntimeError):
    """A ledger that cannot be used: another process holds it, or a line of it is damaged."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One reply of a teacher, and what it is billed in tokens."""

    text: str
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Account:
    """calls: rows of the ledger, of all runs. cached: replies that this run took from it. cost: in the prices' unit."""

    calls: int
    cached: int
    prompt_tokens: int
    completion_tokens: int
    cost: float


def request_key(name: str, messages: Sequence[Mapping[str, str]], parameters: Mapping[str, object]) -> str:
    """SHA-256 of the canonical JSON of a request to the teacher of that name."""
    request = [name, list(messages), dict(parameters)]
    text = json.dumps(request, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


class Ledger:
    """An append-only file of JSON lines, one for each completed call: key, text, prompt_tokens, completion_tokens.

    One process holds it at a time (`<path>.lock`); its threads may share it. A last line that a kill tore moves to
    `<path>.torn`; `torn` is how many bytes this opening moved. Close it, or use it in a `with`.
    Raises LedgerError where another process, or an earlier cell of a notebook, still holds it, or a line is damaged.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(f"{self.path}.lock", timeout=0)
        try:
            self._lock.acquire()
        except Timeout:
            told = "is in use: close it where it is open (`ledger.close()`), or wait for the other run"
            raise LedgerError(f"{self.path} {told}") from None
        try:
            self._found, self.torn = _opened(self.path)
        except BaseException:
            self._lock.release()
            raise
        self._calls = len(self._found)
        self._cached = 0
        self._prompt = sum(row.prompt_tokens for row in self._found.values())
        self._completion = sum(row.completion_tokens for row in self._found.values())
        self._file = self.path.open("ab")
        self._guard = threading.Lock()

    def get(self, key: str) -> Completion | None:
        """The reply that was paid for already, None where the call has yet to be made."""
        with self._guard:
            self._cached += key in self._found
            return self._found.get(key)

    def add(self, key: str, completion: Completion) -> None:
        """Write a reply down, out of this process's hands before it returns. Raises ValueError for a key it has."""
        line = json.dumps({"key": key, **asdict(completion)}, ensure_ascii=False) + "\n"
        with self._guard:
            if key in self._found:
                raise ValueError(f"{self.path}: key {key} is there already")
            self._file.write(line.encode("utf8"))
            self._file.flush()
            self._found[key] = completion
            self._calls += 1
            self._prompt += completion.prompt_tokens
            self._completion += completion.completion_tokens

    def account(self, prompt_price: float = 0.0, completion_price: float = 0.0) -> Account:
        """What stands in the ledger. Prices are per million tokens."""
        with self._guard:
            cost = (self._prompt * prompt_price + self._completion * completion_price) / 1e6
            return Account(self._calls, self._cached, self._prompt, self._completion, cost)

    def close(self) -> None:
        """Let others open it."""
        self._file.close()
        self._lock.release()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _opened(path: Path) -> tuple[dict[str, Completion], int]:
    """The rows by key, and how many bytes of a torn last line were moved to `<path>.torn`."""
    data = path.read_bytes() if path.exists() else b""
    *lines, tail = data.split(b"\n")
    rows = {}
    for number, line in enumerate(lines, 1):
        row = _row(line)
        if row is None:
            names = ", ".join(_FIELDS)
            raise LedgerError(f"{path}, line {number}: not a row of a ledger ({names}); repair or remove it")
        rows[row[0]] = row[1]
    if not tail:
        return rows, 0
    if (row := _row(tail)) is not None:  # only its line break is missing
        with path.open("ab") as file:
            file.write(b"\n")
        return rows | {row[0]: row[1]}, 0
    with Path(f"{path}.torn").open("ab") as kept:
        kept.write(tail + b"\n")
        kept.flush()
        os.fsync(kept.fileno())
    os.truncate(path, len(data) - len(tail))
    return rows, len(tail)


def _row(line: bytes) -> tuple[str, Completion] | None:
    """(key, completion) of one line, None where it is not a row."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or row.keys() != _FIELDS.keys():
        return None
    if any(type(row[name]) is not kind for name, kind in _FIELDS.items()):
        return None
    return row.pop("key"), Completion(**row)
