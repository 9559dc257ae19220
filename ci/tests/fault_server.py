"""A scripted server on the loopback that speaks OpenAI's chat protocol, and fails as servers do.

conftest.py shares the fixture with all tests; the behaviours are imported from here:

    def test_a_busy_server_is_asked_again(fault_server):
        server = fault_server(status(429, {"Retry-After": "0.2"}), ok("hello"))
        ... ServerTeacher("any", server.url) ...
        assert len(server.requests) == 2

The first request that arrives meets the first behaviour, and so on; after the last one all meet `then`.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

DIALOGUE = '{"turns": [{"instruction": "What is this?", "response": "A tiger. 这是老虎。"}]}'


@dataclass(frozen=True)
class Seen:
    """One request. body: its JSON; at: when it arrived, in seconds of the monotonic clock."""

    path: str
    headers: dict[str, str]
    body: dict
    at: float

    @property
    def messages(self) -> list[dict[str, str]]:
        return self.body["messages"]


Behaviour = Callable[["_Handler", Seen], None]


def ok(
    text: str | Callable[[Seen], str] = DIALOGUE,
    delay: float = 0.0,
    usage: tuple[int, int] | None = (100, 20),
) -> Behaviour:
    """A chat completion after `delay` seconds. text: the reply, or a function of the request that gives it.
    usage: (prompt, completion) tokens, None to tell none."""

    def behave(handler, seen):
        if handler.server.closing.wait(delay):
            return
        said = text(seen) if callable(text) else text
        handler.send(200, json.dumps(completion(said, usage)))

    return behave


def status(code: int, headers: dict[str, str] | None = None, message: str = "scripted fault") -> Behaviour:
    """An error with OpenAI's body. `{key}` in the message becomes the key that came with the request."""

    def behave(handler, seen):
        said = message.replace("{key}", seen.headers.get("authorization", "").removeprefix("Bearer "))
        handler.send(code, json.dumps({"error": {"message": said, "type": "scripted"}}), headers or {})

    return behave


def hang() -> Behaviour:
    """Reads the request and never says a word."""
    return lambda handler, seen: handler.server.closing.wait()


def drip(every: float = 0.05, head: bool = False) -> Behaviour:
    """A completion whose bytes come one by one, `every` so many seconds. head: the status line and headers drip too."""

    def behave(handler, seen):
        body = json.dumps(completion(DIALOGUE + " " * 100_000, None)).encode()
        start = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        start = (start + (f"X-Slow: {'x' * 50_000}\r\n" if head else "") + "\r\n").encode()
        whole, dripping = (b"", start + body) if head else (start, body)
        handler.wfile.write(whole)
        for byte in dripping:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            if handler.server.closing.wait(every):
                return

    return behave


def truncated() -> Behaviour:
    """Half of a completion; then the connection ends, short of the length that the headers promised."""

    def behave(handler, seen):
        body = json.dumps(completion(DIALOGUE, (100, 20)))
        handler.send(200, body[: len(body) // 2], {"Content-Length": str(len(body))})
        handler.close_connection = True

    return behave


def cut_json() -> Behaviour:
    """Half of a completion as if it were all of it: whole HTTP, torn JSON."""
    body = json.dumps(completion(DIALOGUE, (100, 20)))
    return lambda handler, seen: handler.send(200, body[: len(body) // 2])


def wrong_json(body: str = '{"choices": []}') -> Behaviour:
    """Valid HTTP and valid JSON that is no chat completion."""
    return lambda handler, seen: handler.send(200, body)


def html() -> Behaviour:
    """A web page with status 200, as proxies and captive portals send."""
    page = "<!DOCTYPE html><html><body><script>alert(1)</script>Please log in.</body></html>"
    return lambda handler, seen: handler.send(200, page, {"Content-Type": "text/html"})


def completion(text: str, usage: tuple[int, int] | None) -> dict:
    """A chat completion as servers write it."""
    told = {}
    if usage is not None:
        told = {"usage": dict(zip(("prompt_tokens", "completion_tokens"), usage, strict=True))}
        told["usage"]["total_tokens"] = sum(usage)
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    return {"id": "x", "object": "chat.completion", "created": 0, "model": "any", "choices": [choice], **told}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections, as real servers do

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        seen = Seen(self.path, {k.lower(): v for k, v in self.headers.items()}, body, time.monotonic())
        with self.server.guard:
            number = len(self.server.requests)
            self.server.requests.append(seen)
        script = self.server.script
        try:
            (script[number] if number < len(script) else self.server.then)(self, seen)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client gave up, which is what some tests are about

    def send(self, code: int, body: str, headers: dict[str, str] | None = None) -> None:
        data = body.encode()
        told = {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}
        self.send_response(code)
        for name, value in told.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


class FaultServer(ThreadingHTTPServer):
    """Listens from the start, in threads of its own, until `close`. url: the base_url for a client."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, script: Sequence[Behaviour] = (), then: Behaviour | None = None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script, self.then = list(script), then or ok()
        self.requests: list[Seen] = []
        self.guard, self.closing = threading.Lock(), threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()


@pytest.fixture
def fault_server():
    """A function of (*script, then=ok()) that starts a FaultServer; all are closed after the test."""
    servers = []

    def start(*script: Behaviour, then: Behaviour | None = None) -> FaultServer:
        servers.append(FaultServer(script, then))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


if __name__ == "__main__":  # for benchmarks, which must not share an interpreter with the server they time
    parser = argparse.ArgumentParser(
        description="Answer every request after a fixed delay; prints the base_url."
    )
    parser.add_argument("--delay", type=float, default=0.25, help="seconds")
    server = FaultServer(then=ok(delay=parser.parse_args().delay))
    print(server.url, flush=True)
    threading.Event().wait()
