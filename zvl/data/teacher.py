"""The teacher in GPT-4's role (paper section 3.1): messages go out, a dialogue comes back, and no call is paid twice.

`ServerTeacher` asks a model behind a server, `SymbolicTeacher` needs none; `ask` treats them alike.
"""

from __future__ import annotations

import math
import os
import re
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Annotated, Protocol

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential
from tqdm.auto import tqdm

from zvl.data.budget import Budget, Purse
from zvl.data.ledger import Completion, Ledger, request_key

LONGEST_WAIT = 300.0  # seconds; a server that asks for more has closed for now
REPAIR = "The reply above is not the JSON that was asked for"  # how a message that asks for a repair begins

_Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
_FENCE = re.compile(r"```json\s*\n(.*)\n\s*```", re.DOTALL)


class Exchange(BaseModel):
    """One instruction and its response."""

    model_config = ConfigDict(extra="forbid")
    instruction: _Text
    response: _Text


class Dialogue(BaseModel):
    """What every answer of a teacher holds: `{"turns": [{"instruction": ..., "response": ...}]}`, 1 to 12 turns."""

    model_config = ConfigDict(extra="forbid")
    turns: list[Exchange] = Field(min_length=1, max_length=12)


class Teacher(Protocol):
    """name: the model, and whatever else changes its answers. A teacher may also have `parameters`, a mapping of more
    such settings, and `max_tokens`, the most that one reply can take, which a budget needs.
    """

    name: str

    def complete(self, messages: Sequence[dict[str, str]]) -> Completion:
        """One try at one reply. messages: dicts of role and content. Raises TeacherError where none came."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a teacher is asked under an id of the caller's."""

    id: str
    messages: tuple[dict[str, str], ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """text: the teacher's last reply. dialogue: what it says, or None with the reason."""

    id: str
    dialogue: Dialogue | None
    reason: str
    text: str


class TeacherError(RuntimeError):
    """A try without a reply. again: another one may succeed, after `wait` seconds where the server said so.
    in_doubt: the server may bill it all the same.
    """

    def __init__(self, message: str, again: bool = False, wait: float | None = None, in_doubt: bool = False):
        super().__init__(message)
        self.again, self.wait, self.in_doubt = again, wait, in_doubt


def parse(text: str) -> tuple[Dialogue | None, str]:
    """The dialogue that a reply holds, bare or in a ```json fence, and "" or what is wrong with it."""
    fenced = _FENCE.fullmatch(text.strip())
    try:
        return Dialogue.model_validate_json(fenced[1] if fenced else text), ""
    except ValidationError as err:
        return None, f"no dialogue: {faults(err)}"


def repair_message(reason: str) -> str:
    """What a teacher is told whose reply does not parse; in both languages, as the reply may be in either."""
    form = '{"turns": [{"instruction": "...", "response": "..."}]}'
    return (
        f"{REPAIR} ({reason}). Answer again in the same language, with nothing but this JSON: {form}\n"
        f"以上回复不是所要求的 JSON。请用原来的语言重新回答，只输出如下格式的 JSON：{form}"
    )


def ask(
    teacher: Teacher,
    requests: Sequence[Request],
    ledger: Ledger,
    *,
    in_flight: int = 16,
    repairs: int = 1,
    tries: int = 5,
    per_minute: float = math.inf,
    budget: Budget | None = None,
    progress: bool | None = None,
) -> list[Answer]:
    """The answers, in the order of the requests. What the ledger holds is taken from it; the rest is asked and paid.

    in_flight: how many calls run at a time. repairs: how often a reply that does not parse is sent back with the error.
    tries: how often a call is made until a reply comes. per_minute: calls a minute at most, failed tries included.
    progress: a bar, None: where someone can see it (ZVL_PROGRESS=0 or 1 decides).

    A request that fails becomes an answer without a dialogue. Raises BudgetSpent before the first call that could pass
    the budget, ValueError where a budget cannot know what a call may take, and whatever a teacher raises that is no
    TeacherError; the calls in flight end and are written down first.
    """
    budget = Budget() if budget is None else budget
    longest = getattr(teacher, "max_tokens", 0)
    if budget.capped and longest < 1:
        raise ValueError(f"a budget needs a teacher with max_tokens, which {teacher.name} does not have")
    if in_flight < 1 or repairs < 0 or tries < 1 or not per_minute > 0:
        raise ValueError("in_flight, tries and per_minute must be over 0, and repairs at least 0")
    purse, stop, guard = Purse(budget, ledger), threading.Event(), threading.Lock()
    due, asking, failed = [time.monotonic()], defaultdict(threading.Lock), []

    def take_turn():
        """Waits until the rate limit allows one call more."""
        with guard:
            due[0] = max(due[0], time.monotonic())
            turn, due[0] = due[0], due[0] + 60 / per_minute
        if stop.wait(turn - time.monotonic()):
            raise CancelledError

    def call(key, messages):
        need, in_doubt = (most_tokens(messages), longest), False
        purse.take(*need)
        try:
            take_turn()
            completion = teacher.complete(messages)
            ledger.add(key, completion)
            return completion
        except TeacherError as err:
            in_doubt = err.in_doubt
            raise
        finally:
            purse.give_back(*need, in_doubt)

    def reply(messages):
        key = request_key(teacher.name, messages, getattr(teacher, "parameters", {}))
        with guard:
            alone = asking[key]
        with alone:  # of two equal requests the second waits for the first one's row
            found = ledger.get(key)
            if found is None:
                retrying = Retrying(
                    retry=retry_if_exception(_may_retry),
                    wait=_wait,
                    stop=stop_after_attempt(tries),
                    sleep=stop.wait,
                    reraise=True,
                )
                found = retrying(call, key, messages)
            return found.text

    def answer(request):
        messages, text, reason = list(request.messages), "", ""
        for _ in range(repairs + 1):
            if reason:
                messages += [
                    {"role": "assistant", "content": text},
                    {"role": "user", "content": repair_message(reason)},
                ]
            try:
                text = reply(messages)
            except TeacherError as err:
                return Answer(request.id, None, str(err), text)
            dialogue, reason = parse(text)
            if dialogue is not None:
                return Answer(request.id, dialogue, "", text)
        return Answer(request.id, None, reason, text)

    def work(request):
        try:
            return answer(request)
        except BaseException as err:
            failed.append(err)  # the first one is the cause: others are cancelled after it
            stop.set()
            raise

    with ThreadPoolExecutor(in_flight, "ask") as pool:
        answers = [pool.submit(work, request) for request in requests]
        bar = tqdm(as_completed(answers), teacher.name, len(answers), disable=not _visible(progress))
        try:
            for _ in bar:
                if failed:
                    break
        finally:
            stop.set()
            bar.close()
            pool.shutdown(cancel_futures=True)
    if failed:
        raise failed[0]
    return [done.result() for done in answers]


def most_tokens(messages: Sequence[Mapping[str, str]]) -> int:
    """More tokens than these messages can have: byte-level vocabularies take a byte a token at worst, and chat
    templates add a few to each message, and perhaps a system message of their own."""
    return 64 + sum(len(message["content"].encode("utf8", "replace")) + 16 for message in messages)


def faults(err: ValidationError) -> str:
    """The first three faults of a reply, by place."""
    found = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}".lstrip(": ") for fault in err.errors()[:3]]
    return "; ".join(found)[:300]


_backing_off = wait_random_exponential(multiplier=0.5, max=60)


def _wait(state) -> float:
    """Seconds until the next try: what the server asked for, else a random time that doubles with each try."""
    asked = state.outcome.exception().wait
    return _backing_off(state) if asked is None else asked


def _may_retry(err: BaseException) -> bool:
    return isinstance(err, TeacherError) and err.again and (err.wait or 0) <= LONGEST_WAIT


def _visible(progress: bool | None) -> bool:
    wish = os.environ.get("ZVL_PROGRESS", "") if progress is None else str(int(progress))
    return wish == "1" or (wish != "0" and sys.stderr.isatty())
