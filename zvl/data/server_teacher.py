"""A teacher behind any server that speaks OpenAI's chat protocol, of which no key, no hang and no nonsense gets out."""

from __future__ import annotations

import asyncio
import email.utils
import math
import os
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import openai
from pydantic import BaseModel, Field, NonNegativeInt, ValidationError

from zvl.data.ledger import Completion
from zvl.data.teacher import TeacherError, faults, most_tokens


class _Message(BaseModel):
    content: str | None


class _Choice(BaseModel):
    message: _Message


class _Usage(BaseModel):
    prompt_tokens: NonNegativeInt
    completion_tokens: NonNegativeInt


class _Reply(BaseModel):
    """What is read of a server's JSON."""

    choices: list[_Choice] = Field(min_length=1)
    usage: _Usage | None = None


@dataclass(frozen=True)
class ServerTeacher:
    """A model behind an OpenAI-compatible server.

    base_url: up to `/v1`, without a key in it. key_variable: the environment variable whose value is the key, read at
    each call and written nowhere; where it is not set, a placeholder is sent. timeout: seconds for a whole try, however
    slowly the server drips. Raises ValueError for another kind of address.
    """

    model: str
    base_url: str
    key_variable: str = "OPENAI_API_KEY"
    timeout: float = 60.0
    temperature: float = 0.7
    max_tokens: int = 1024
    _client: openai.AsyncOpenAI = field(init=False, repr=False, compare=False)
    _loop: asyncio.AbstractEventLoop = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.query:
            raise ValueError("base_url must be http(s)://host[:port]/path, without user, password or query")

        async def key() -> str:
            return _key(self.key_variable) or "no-key"

        client = openai.AsyncOpenAI(api_key=key, base_url=self.base_url, timeout=None, max_retries=0)
        # A blocking client's time-out starts anew with each byte that arrives; a task can be ended from outside. So
        # the client is asynchronous, in a loop that has a thread of its own until the process ends.
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, name="teacher", daemon=True).start()
        object.__setattr__(self, "_client", client)
        object.__setattr__(self, "_loop", loop)

    @property
    def name(self) -> str:
        return self.model

    @property
    def parameters(self) -> Mapping[str, object]:
        return {"temperature": self.temperature, "max_tokens": self.max_tokens}

    def complete(self, messages: Sequence[dict[str, str]]) -> Completion:
        """One try at one reply, within `timeout` seconds.

        Where the server tells no usage, each byte of text counts as a token, which is never too few.
        Raises TeacherError where no reply came, and ValueError for a key that no header can hold.
        """
        if not re.fullmatch("[!-~]*", _key(self.key_variable)):
            raise ValueError(f"the environment variable {self.key_variable} holds characters that no key has")
        found = asyncio.run_coroutine_threadsafe(self._try(list(messages)), self._loop).result()
        # Raised here, so that neither chain nor frames of it lead to the request with its headers.
        if isinstance(found, TeacherError):
            raise found
        return found

    async def _try(self, messages: list[dict[str, str]]) -> Completion | TeacherError:
        try:
            async with asyncio.timeout(self.timeout):
                raw = await self._client.chat.completions.with_raw_response.create(
                    model=self.model, messages=messages, **self.parameters
                )
            reply = _Reply.model_validate_json(raw.content)
        except TimeoutError:
            return self._failed(f"no whole reply within {self.timeout:g} s", again=True, in_doubt=True)
        except openai.APIStatusError as err:
            again, wait = err.status_code == 429 or err.status_code >= 500, _retry_after(err.response.headers)
            # What a server says of a wrong key may quote a part of it, which `_without_key` would not find.
            said = "" if err.status_code in (401, 403) else f", {err.message}"
            wish = "" if wait is None else f", to be asked again after {wait:g} s"
            return self._failed(f"status {err.status_code}{wish}{said}", again=again, wait=wait)
        except openai.APIConnectionError as err:
            cause = type(err.__cause__).__name__
            # httpx2's names, on which openai stands, for what failed before anything was sent.
            sent = cause not in ("ConnectError", "ConnectTimeout")
            return self._failed(f"the connection failed ({cause})", again=True, in_doubt=sent)
        except ValidationError as err:
            return self._failed(f"no chat completion ({faults(err)}): {raw.text}", again=True, in_doubt=True)
        # A lone surrogate, which JSON can spell, fits in no file.
        text = (
            self._without_key(reply.choices[0].message.content or "").encode("utf8", "replace").decode("utf8")
        )
        usage = reply.usage or _Usage(
            prompt_tokens=most_tokens(messages), completion_tokens=len(text.encode("utf8"))
        )
        return Completion(text, usage.prompt_tokens, usage.completion_tokens)

    def _failed(self, said: str, **more) -> TeacherError:
        said = " ".join(self._without_key(f"{self.model} at {self.base_url}: {said}").split())
        return TeacherError(said[:400], **more)

    def _without_key(self, text: str) -> str:
        key = _key(self.key_variable)
        # A short one is no secret but "EMPTY" or "test", set for a server that wants none, and a word of the language.
        return text.replace(key, "[key]") if len(key) >= 12 else text


def _key(variable: str) -> str:
    return os.environ.get(variable, "").strip()


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds of a Retry-After header, which holds seconds or a date; None where there is none or it says neither."""
    said = headers.get("retry-after", "")
    try:
        seconds = float(said)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(said).timestamp() - time.time()
        except ValueError:
            return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None
