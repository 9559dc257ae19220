"""The teacher: nothing is paid twice, no fault of a server hangs or kills a run, and no key gets out."""

import asyncio
import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
from fault_server import DIALOGUE, cut_json, drip, hang, html, ok, status, truncated, wrong_json

import zvl.data.teacher
from zvl.data.budget import Budget, BudgetSpent
from zvl.data.ledger import Completion, Ledger, LedgerError, request_key
from zvl.data.server_teacher import ServerTeacher
from zvl.data.teacher import REPAIR, Dialogue, Request, TeacherError, ask, parse

KEY = "sk-tiger-" + "0123456789abcdef" * 3


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.jsonl") as opened:
        yield opened


@pytest.fixture(autouse=True)
def no_key_of_the_machine(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def impatient(monkeypatch):
    """Tries follow each other at once, where a server asks for no wait."""
    monkeypatch.setattr(zvl.data.teacher, "_backing_off", lambda state: 0.0)


def requests(count, seed=0):
    """Requests that differ, in an order of no meaning."""
    rng = random.Random(seed)
    numbers = rng.sample(range(10 * count), count)
    return [Request(f"r{n}", ({"role": "user", "content": f"Picture {n}. 图片{n}。"},)) for n in numbers]


def said(number):
    return json.dumps(
        {"turns": [{"instruction": f"{number}?", "response": f"第{number}张"}]}, ensure_ascii=False
    )


def echo(seen):
    """A dialogue that tells which request it answers."""
    return said(seen.messages[0]["content"].split(".")[0].split()[1])


@dataclass
class Local:
    """A teacher in the process. replies: what it says in turn, an exception is raised; then DIALOGUE."""

    replies: list = field(default_factory=list)
    name: str = "local"
    parameters: dict = field(default_factory=dict)
    max_tokens: int = 50
    seen: list = field(default_factory=list)

    def complete(self, messages):
        self.seen.append(list(messages))
        reply = self.replies.pop(0) if self.replies else DIALOGUE
        if isinstance(reply, Exception):
            raise reply
        return Completion(reply, 100, 20)


# What a server does


def test_answers_come_in_the_order_of_the_requests(fault_server, ledger):
    rng = random.Random(1)
    delays = [rng.uniform(0, 0.1) for _ in range(40)]
    server = fault_server(*(ok(echo, delay=delay) for delay in delays))
    asked = requests(40)
    answers = ask(ServerTeacher("m", server.url), asked, ledger, in_flight=8)
    assert [answer.id for answer in answers] == [request.id for request in asked]
    assert [answer.dialogue.turns[0].instruction for answer in answers] == [f"{r.id[1:]}?" for r in asked]
    assert ledger.account(1.0, 10.0).cost == pytest.approx(40 * (100 * 1 + 20 * 10) / 1e6)


def test_a_server_gets_model_messages_and_parameters(fault_server, ledger):
    server = fault_server()
    teacher = ServerTeacher("some-model", server.url, temperature=0.25, max_tokens=77)
    (request,) = requests(1)
    ask(teacher, [request], ledger)
    (seen,) = server.requests
    assert seen.path == "/v1/chat/completions"
    assert seen.body == {
        "model": "some-model",
        "messages": list(request.messages),
        "temperature": 0.25,
        "max_tokens": 77,
    }


def test_retry_after_is_honoured(fault_server, ledger):
    server = fault_server(status(429, {"Retry-After": "1.2"}))
    (answer,) = ask(ServerTeacher("m", server.url), requests(1), ledger)
    first, second = (seen.at for seen in server.requests)
    assert answer.dialogue and 1.2 <= second - first < 2.5


def test_without_a_wish_of_the_server_the_waits_double():
    class State:
        outcome = Future()

    State.outcome.set_exception(TeacherError("busy", again=True))
    for State.attempt_number in range(1, 9):
        waits = [zvl.data.teacher._wait(State) for _ in range(300)]
        longest = min(0.5 * 2 ** (State.attempt_number - 1), 60)
        assert 0.8 * longest < max(waits) <= longest and min(waits) < 0.2 * longest


def test_a_retry_after_of_a_day_ends_the_request_at_once(fault_server, ledger):
    server = fault_server(then=status(429, {"Retry-After": "86400"}))
    (answer,) = ask(ServerTeacher("m", server.url), requests(1), ledger)
    assert "86400 s" in answer.reason and len(server.requests) == 1


def test_a_retry_after_may_be_a_date_or_nonsense(impatient, fault_server, ledger):
    past = status(503, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})
    server = fault_server(past, status(503, {"Retry-After": "soon"}), status(503, {"Retry-After": "nan"}))
    (answer,) = ask(ServerTeacher("m", server.url), requests(1), ledger)
    assert answer.dialogue and len(server.requests) == 4


@pytest.mark.parametrize(
    "fault, told",
    [
        (status(500), "status 500"),
        (truncated(), "the connection failed"),
        (cut_json(), "no chat completion"),
        (wrong_json(), "no chat completion (choices"),
        (wrong_json('{"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": -5}}'), "usage"),
        (wrong_json("[]"), "no chat completion"),
        (html(), "no chat completion"),
    ],
)
def test_a_faulty_reply_is_asked_for_again_and_in_the_end_told(fault, told, impatient, fault_server, ledger):
    server = fault_server(fault)
    (answer,) = ask(ServerTeacher("m", server.url), requests(1), ledger)
    assert answer.dialogue and len(server.requests) == 2

    server = fault_server(then=fault)
    (answer,) = ask(ServerTeacher("n", server.url), requests(1), ledger, tries=3)
    assert answer.dialogue is None and told in answer.reason and len(server.requests) == 3
    assert ledger.account().calls == 1


@pytest.mark.parametrize("code", [400, 401, 403, 404, 422])
def test_what_is_our_fault_is_not_asked_twice(code, fault_server, ledger):
    server = fault_server(status(code))
    wrong, right = ask(ServerTeacher("m", server.url), requests(2), ledger, in_flight=1)
    assert f"status {code}" in wrong.reason and wrong.text == "" and right.dialogue
    assert len(server.requests) == 2


@pytest.mark.parametrize("fault", [hang(), drip(), drip(head=True)])
def test_a_server_that_hangs_or_drips_costs_its_time_out_and_no_more(fault, fault_server, ledger):
    server = fault_server(then=fault)
    start = time.monotonic()
    answers = ask(ServerTeacher("m", server.url, timeout=0.4), requests(4), ledger, in_flight=4, tries=1)
    assert time.monotonic() - start < 2
    assert all("no whole reply within 0.4 s" in answer.reason for answer in answers)


def test_a_server_that_is_not_there_is_told(impatient, ledger, fault_server):
    server = fault_server()
    server.close()
    (answer,) = ask(ServerTeacher("m", server.url), requests(1), ledger, tries=2)
    assert "the connection failed (ConnectError)" in answer.reason and server.url in answer.reason


def test_a_server_that_tells_no_usage_is_counted_too_high_rather_than_too_low(fault_server, ledger):
    server = fault_server(then=ok("老虎", usage=None))
    found = ServerTeacher("m", server.url).complete([{"role": "user", "content": "图片"}])
    assert found.text == "老虎" and found.prompt_tokens > 6 and found.completion_tokens == 6


def test_half_a_character_in_a_reply_reaches_the_ledger(fault_server, ledger):
    body = '{"choices": [{"message": {"content": "a \\ud83d b"}}]}'
    server = fault_server(then=wrong_json(body))
    answer = ask(ServerTeacher("m", server.url), requests(1), ledger, repairs=0, tries=1)[0]
    assert answer.dialogue is None and answer.reason


def test_teaching_works_where_a_loop_runs_already(fault_server):
    """As in a notebook, whose cells run inside a loop."""

    async def cell():
        return ServerTeacher("m", fault_server().url).complete([{"role": "user", "content": "hello"}])

    assert asyncio.run(cell()).text == DIALOGUE


@pytest.mark.parametrize(
    "url", ["ftp://x/v1", "127.0.0.1:80", "http://", f"http://me:{KEY}@x/v1", f"http://x?k={KEY}"]
)
def test_an_address_that_is_none_or_holds_a_key_is_refused_without_quoting_it(url):
    with pytest.raises(ValueError, match="base_url must be") as found:
        ServerTeacher("m", url)
    assert KEY not in str(found.value)


# The key


def test_the_key_is_sent_and_gets_nowhere_else(impatient, fault_server, tmp_path, monkeypatch, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    faults = [status(code, message="bad key {key}") for code in (400, 401, 403, 429, 500)]
    quoting = wrong_json(json.dumps({"error": KEY}))
    server = fault_server(*faults[:3], then=ok(f"My key is {KEY}"))
    teacher = ServerTeacher("m", server.url)
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        answers = ask(teacher, requests(6), ledger, in_flight=2, tries=2)
    told = [repr(teacher), str(teacher), repr(answers)]
    assert any("[key]" in answer.text for answer in answers), "the server's quotation was not seen"

    for fault in [*faults, quoting, truncated(), hang()]:
        server = fault_server(then=fault)
        with pytest.raises(TeacherError) as found:
            ServerTeacher("m", server.url, timeout=0.3).complete([{"role": "user", "content": "hello"}])
        error = found.value
        while error is not None:
            lines = traceback.TracebackException.from_exception(error, capture_locals=True).format()
            told += [repr(error), repr(vars(error)), *lines]
            error = error.__cause__ or error.__context__
        assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
    told += [record.getMessage() for record in caplog.records] + [caplog.text, *capfd.readouterr()]
    told += [path.read_text() for path in tmp_path.iterdir()]
    assert "m at http://127" in "".join(told) and caplog.records
    # The test's own frames hold it as `KEY` alone, which is global; no part of it over half may show either.
    assert [text for text in told if KEY[: len(KEY) // 2] in text] == []


def test_the_key_is_read_at_each_call_and_a_local_server_needs_none(fault_server, monkeypatch):
    server = fault_server()
    teacher = ServerTeacher("m", server.url, key_variable="MY_KEY")
    for key in (None, "first-key", " second-key\n"):
        monkeypatch.delenv("MY_KEY", raising=False) if key is None else monkeypatch.setenv("MY_KEY", key)
        teacher.complete([{"role": "user", "content": "hello"}])
    sent = [seen.headers["authorization"] for seen in server.requests]
    assert sent == ["Bearer no-key", "Bearer first-key", "Bearer second-key"]


@pytest.mark.parametrize("key", [KEY + "\n" + KEY, KEY + "钥匙"])
def test_a_key_that_no_header_can_hold_is_refused_without_quoting_it(key, fault_server, ledger, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ValueError, match="OPENAI_API_KEY holds characters") as found:
        ask(ServerTeacher("m", fault_server().url), requests(3), ledger)
    assert KEY not in "".join(traceback.format_exception(found.value))


# Parsing and repair


@pytest.mark.parametrize("text", [DIALOGUE, f"```json\n{DIALOGUE}\n```", f"\n ```json\n{DIALOGUE}\n```\n"])
def test_a_dialogue_is_read_bare_or_fenced(text):
    dialogue, reason = parse(text)
    assert reason == "" and dialogue == Dialogue.model_validate_json(DIALOGUE)


@pytest.mark.parametrize(
    "text, told",
    [
        ("", "JSON"),
        (f"Here you are: {DIALOGUE}", "JSON"),
        (f"```\n{DIALOGUE}\n```", "JSON"),
        (DIALOGUE[:-3], "JSON"),
        ('{"turns": []}', "turns"),
        ('{"turns": [{"instruction": "a", "response": " "}]}', "turns.0.response"),
        ('{"turns": [{"instruction": "a", "response": 3}]}', "turns.0.response"),
        ('{"turns": [{"instruction": "a", "response": "b", "box": 1}]}', "turns.0.box"),
        ('{"turns": [{"instruction": "a"}]}', "turns.0.response"),
        (json.dumps({"turns": [{"instruction": "a", "response": "b"}] * 13}), "turns"),
        (DIALOGUE.replace("A tiger", "\\ud83d"), "JSON"),
    ],
)
def test_nothing_else_is_guessed(text, told):
    dialogue, reason = parse(text)
    assert dialogue is None and told in reason


def test_a_reply_that_does_not_parse_goes_back_with_the_error_and_is_paid_as_a_call(ledger):
    teacher = Local(['{"turns": []}'])
    (request,) = requests(1)
    (answer,) = ask(teacher, [request], ledger)
    assert answer.dialogue and ledger.account().calls == 2
    first, second = teacher.seen
    assert second[: len(first)] == first == list(request.messages)
    assert second[-2] == {"role": "assistant", "content": '{"turns": []}'}
    assert (
        second[-1]["role"] == "user"
        and second[-1]["content"].startswith(REPAIR)
        and "turns: List" in second[-1]["content"]
    )


@pytest.mark.parametrize("repairs", [0, 1, 3])
def test_repairs_are_bounded(repairs, ledger):
    teacher = Local(["nonsense"] * 10)
    (answer,) = ask(teacher, requests(1), ledger, repairs=repairs)
    assert answer.dialogue is None and "JSON" in answer.reason and answer.text == "nonsense"
    assert len(teacher.seen) == repairs + 1 == ledger.account().calls


def test_a_request_that_fails_leaves_the_others_alone_and_a_programming_error_does_not(ledger):
    failing = Local([TeacherError("gone"), DIALOGUE, TeacherError("gone too")])
    answers = ask(failing, requests(4), ledger, in_flight=1)
    assert [answer.reason for answer in answers] == ["gone", "", "gone too", ""]
    broken = Local([DIALOGUE, KeyError("a bug"), *[DIALOGUE] * 100], name="broken")
    with pytest.raises(KeyError, match="a bug"):
        ask(broken, requests(100), ledger, in_flight=1)
    assert len(broken.seen) == 2, "a run with a bug must stop"
    assert ledger.account().calls == 2 + len(broken.seen) - 1, "what was paid is written down"


# Concurrency, rate and budget


def test_as_many_calls_are_in_flight_as_allowed_and_no_more(ledger):
    together, most, guard = 0, 0, threading.Lock()

    class Counting(Local):
        def complete(self, messages):
            nonlocal together, most
            with guard:
                together += 1
                most = max(most, together)
            time.sleep(0.05)
            with guard:
                together -= 1
            return Completion(DIALOGUE, 1, 1)

    ask(Counting(), requests(20), ledger, in_flight=5)
    assert most == 5


def test_the_rate_limit_counts_failed_tries_too(fault_server, ledger):
    server = fault_server(*[status(500, {"Retry-After": "0"})] * 3)
    ask(ServerTeacher("m", server.url), requests(5), ledger, per_minute=600)
    times = [seen.at for seen in server.requests]
    assert len(times) == 8 and 0.7 * 0.9 < times[-1] - times[0] < 2


def test_equal_requests_of_one_run_are_paid_once(ledger):
    class Slow(Local):
        def complete(self, messages):
            time.sleep(0.02)
            return super().complete(messages)

    teacher = Slow()
    answers = ask(teacher, requests(3) * 5, ledger)
    assert len(teacher.seen) == 3 and all(answer.dialogue for answer in answers)
    assert ledger.account().cached == 12


@pytest.mark.parametrize("in_flight", [1, 16])
@pytest.mark.parametrize("by_cost", [False, True])
def test_a_budget_is_spent_to_its_cap_and_never_beyond(by_cost, in_flight, ledger):
    asked, teacher = requests(40), Local()
    need = 64 + 16 + max(len(r.messages[0]["content"].encode()) for r in asked) + teacher.max_tokens
    cap = 7 * 120 + need  # seven calls, and room for what an eighth could take
    budget = Budget(cost=2e-6 * cap, prompt_price=2, completion_price=2) if by_cost else Budget(tokens=cap)
    with pytest.raises(BudgetSpent, match="stays in") as found:
        ask(teacher, asked, ledger, in_flight=in_flight, budget=budget)
    account = ledger.account(2, 2)
    spent = account.prompt_tokens + account.completion_tokens
    assert spent <= cap and len(teacher.seen) == account.calls >= 8
    assert found.value.tokens == spent and found.value.cost in (0, pytest.approx(account.cost))
    # The next run takes what was paid from the ledger, even without a token left.
    paid, answers = account.calls, ask(teacher, asked, ledger)
    assert all(answer.dialogue for answer in answers) and len(teacher.seen) == 40
    assert ledger.account().cached == paid


def test_calls_in_flight_are_counted_before_they_are_answered(fault_server, ledger):
    server = fault_server(then=ok(delay=0.3, usage=(60, 900)))
    with pytest.raises(BudgetSpent):
        ask(ServerTeacher("m", server.url, max_tokens=1000), requests(30), ledger, budget=Budget(tokens=3500))
    # Three reservations of over 1,000 tokens fit at a time, though sixteen threads ask.
    assert sum(seen.at < server.requests[0].at + 0.25 for seen in server.requests) == 3
    assert ledger.account().prompt_tokens + ledger.account().completion_tokens <= 3500


def test_a_call_that_may_be_billed_unseen_counts_as_spent(fault_server, ledger):
    lost = fault_server(then=hang())
    teacher = ServerTeacher("m", lost.url, timeout=0.2, max_tokens=1000)
    with pytest.raises(BudgetSpent) as found:
        ask(teacher, requests(9), ledger, in_flight=1, tries=1, budget=Budget(tokens=3500))
    assert len(lost.requests) == 3 and found.value.tokens > 3000 and ledger.account().calls == 0


@pytest.mark.parametrize(
    "wrong", [{"tokens": 0}, {"cost": -1}, {"cost": 1}, {"tokens": 1, "prompt_price": -1}]
)
def test_a_budget_that_caps_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match=r"caps must be|needs prompt_price"):
        Budget(**wrong)


def test_a_budget_needs_to_know_what_a_call_may_take(ledger):
    with pytest.raises(ValueError, match="max_tokens"):
        ask(Local(max_tokens=0), requests(1), ledger, budget=Budget(tokens=1000))


# The ledger


def test_a_second_run_pays_nothing_twice(tmp_path):
    asked, answers = requests(12), []
    for run in range(2):
        teacher = Local(["nonsense"])
        with Ledger(tmp_path / "ledger.jsonl") as ledger:
            answers.append(ask(teacher, asked, ledger, in_flight=1))
        assert len(teacher.seen) == (13 if run == 0 else 0)
    assert answers[0] == answers[1] and ledger.account().cached == 13


def test_the_key_of_a_request_tells_teacher_messages_and_parameters_apart():
    hello, bye = ({"role": "user", "content": "hello"},), ({"role": "user", "content": "再见"},)
    keys = {
        request_key(name, messages, parameters)
        for name in ("a", "b")
        for messages in (hello, bye, hello + bye, bye + hello)
        for parameters in ({}, {"temperature": 0.5}, {"temperature": 0.7})
    }
    assert len(keys) == 2 * 4 * 3
    swapped = ({"content": "hello", "role": "user"},)
    assert request_key("a", swapped, {"x": 1, "y": 2}) == request_key("a", hello, {"y": 2, "x": 1})


def test_a_torn_last_line_is_set_aside_and_no_whole_row_is_lost(tmp_path):
    path, rng = tmp_path / "ledger.jsonl", random.Random(2)
    with Ledger(path) as ledger:
        for number in range(20):
            ledger.add(f"k{number}", Completion(f"第{number}张图\n", rng.randrange(99), rng.randrange(99)))
    whole = path.read_bytes()
    start = whole.rindex(b"\n", 0, -1) + 1
    for cut in range(start, len(whole) + 1):
        path.write_bytes(whole[:cut])
        beside = tmp_path / "ledger.jsonl.torn"
        beside.unlink(missing_ok=True)
        with Ledger(path) as ledger:
            torn = 0 if cut in (start, len(whole) - 1, len(whole)) else cut - start
            assert ledger.torn == torn
            assert ledger.account().calls == (20 if cut >= len(whole) - 1 else 19)
            assert not torn or beside.read_bytes() == whole[start:cut] + b"\n"
            ledger.add("next", Completion("后", 1, 1))
        with Ledger(path) as ledger:
            assert (
                ledger.torn == 0
                and ledger.get("next").text == "后"
                and ledger.get("k18").text == "第18张图\n"
            )


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense",
        b'{"key": "k"}',
        b"",
        b'{"key": 1, "text": "", "prompt_tokens": 1, "completion_tokens": 1}',
    ],
)
def test_a_damaged_line_in_the_middle_is_named(line, tmp_path):
    path = tmp_path / "ledger.jsonl"
    with Ledger(path) as ledger:
        ledger.add("a", Completion("x", 1, 1))
    whole = path.read_bytes()
    path.write_bytes(whole + line + b"\n" + whole.replace(b'"a"', b'"b"'))
    with pytest.raises(LedgerError, match=r"ledger\.jsonl, line 2"):
        Ledger(path)
    path.write_bytes(whole)  # the refusal did not keep the lock
    Ledger(path).close()


def test_threads_share_a_ledger(tmp_path):
    def add(number):
        ledger.add(str(number), Completion("字" * 5000, 1, 1))

    with Ledger(tmp_path / "ledger.jsonl") as ledger, ThreadPoolExecutor(16) as pool:
        list(pool.map(add, range(300)))
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        assert ledger.torn == 0 and ledger.account().calls == 300 == ledger.account().prompt_tokens


def test_two_processes_cannot_hold_one_ledger(tmp_path):
    path = tmp_path / "ledger.jsonl"
    code = f"from zvl.data.ledger import Ledger; ledger = Ledger({str(path)!r}); print('opened', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1) as other:
        assert other.stdout.readline() == b"opened\n"
        with pytest.raises(LedgerError, match=r"ledger\.jsonl is in use"):
            Ledger(path)
        other.kill()
    with Ledger(path) as ledger, pytest.raises(LedgerError, match="is in use"):
        Ledger(path)
    assert ledger.torn == 0


RUN = """
import sys
from zvl.data.ledger import Ledger
from zvl.data.server_teacher import ServerTeacher
from zvl.data.teacher import Request, ask
url, path, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
asked = [Request(str(n), ({"role": "user", "content": f"Picture {n}."},)) for n in range(count)]
with Ledger(path) as ledger:
    answers = ask(ServerTeacher("m", url), asked, ledger, in_flight=4)
print(sum(answer.dialogue is not None for answer in answers), ledger.account().cached)
"""


def test_a_killed_run_pays_nothing_twice(fault_server, tmp_path):
    server, path = fault_server(*[ok()] * 17, *[hang()] * 4), tmp_path / "ledger.jsonl"
    run = [sys.executable, "-c", RUN, server.url, str(path), "40"]
    with subprocess.Popen(run) as first:
        deadline = time.monotonic() + 60
        while len(server.requests) < 21 and time.monotonic() < deadline:  # 17 are answered, 4 wait
            time.sleep(0.02)
        os.kill(first.pid, signal.SIGKILL)
    with path.open("ab") as file:  # and, at the worst moment, in the middle of a row
        file.write(b'{"key": "0123", "text": "\xe8\x80')
    second = subprocess.run(run, capture_output=True, text=True, check=True, timeout=60)
    assert second.stdout.split() == ["40", "17"]
    answered = [seen.body["messages"][0]["content"] for seen in server.requests[:17] + server.requests[21:]]
    assert sorted(answered) == sorted(f"Picture {n}." for n in range(40)), "each request is answered once"
