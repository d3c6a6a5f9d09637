"""A `Chat` that asks a server which speaks OpenAI's chat format: vLLM, Ollama, llama.cpp, or a hosted one.

Knows addresses, keys, what can go wrong on the way, and what of it is worth another attempt. Refuses to know what is
asked, to send a key to anybody it was not named for, and to follow a server to another address.
"""

from __future__ import annotations

import http
import json
import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from taglens.errors import ChatError, MissingExtraError, UsageError
from taglens.language.chat import Ask, Reply, prompt_tokens_at_most
from taglens.language.chat_connections import Connections
from taglens.language.chat_pace import Limits, Pace, Patience, asked_wait
from taglens.language.chat_wire import (
    MalformedAnswerError,
    error_code,
    error_message,
    filtered,
    model_label,
    quoted,
    read_completion,
    request_body,
)

if TYPE_CHECKING:
    import openai

_OPENAI = "api.openai.com"
_OPENAI_KEY = "OPENAI_API_KEY"
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
# Worth another attempt, besides every status from 500 on.
_PASSING = {http.HTTPStatus.REQUEST_TIMEOUT, http.HTTPStatus.CONFLICT, http.HTTPStatus.TOO_MANY_REQUESTS}
_NO_ENTRY = {http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN}
# Too many requests in words, but no wait will help: the account is empty.
_NO_MONEY = {"insufficient_quota", "billing_hard_limit_reached"}
# Local servers are told "x" or "none" for a key; taken out of answers, that would change words.
_SHORTEST_KEY = 8
# Which models there are is known at once where a server is well; seconds.
_LISTING = 20.0
# How many of a server's models an error names.
_NAMED = 10


class _FaultError(Exception):
    """One attempt that brought no answer.

    Attributes:
        again: whether another one may.
        wait: seconds that the server asks for before it.
        answer: the JSON that came with the status.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        again: bool = False,
        wait: float | None = None,
        answer: object = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.again = again
        self.wait = wait
        self.answer = answer


@dataclass(frozen=True, slots=True)
class _Dialect:
    """What of the format a server takes; found out by what it refuses."""

    structured: bool = True
    token_limit: str = "max_tokens"  # noqa: S105 - the name of a field, no password


class ServerChat:
    """Asks a server; called from many threads at once.

    Args:
        base_url: where the format begins, such as ``http://127.0.0.1:8000/v1``.
        model: its name there.
        key_variable: the environment variable that holds the key. None: ``OPENAI_API_KEY`` for api.openai.com, and no
            key for any other server, so that a key goes nowhere it was not meant for.
        patience: timeouts and further attempts.
        limits: how many requests and tokens a minute, all threads together.
        extra: fields of every request that are added or replaced, such as ``{"reasoning_effort": "low"}``; None as a
            value leaves the field out, for models that take no temperature. They become part of `model`.

    Raises:
        UsageError: for an address that cannot be asked, and for a key that is not there.
        MissingExtraError: without the package `openai`.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        key_variable: str | None = None,
        patience: Patience | None = None,
        limits: Limits | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        host = _checked_host(base_url)
        if not model.strip():
            raise UsageError("the server needs the name of a model, got none; `models()` lists what it has")
        if key_variable is None and host == _OPENAI:
            key_variable = _OPENAI_KEY
        self._key = _key_from(key_variable)
        self._key_variable = key_variable
        self._base_url = base_url
        self._name = model
        self._extra = dict(extra or {})
        self._label = model_label(model, self._extra)
        self._patience = patience or Patience()
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._in_flight = 0
        self._connections = Connections()
        self._closed = threading.Event()
        self._pace = Pace(limits or Limits(), sleep=self._closed.wait)
        self._dialect = _Dialect()
        self._client = self._made_client(host)

    @property
    def model(self) -> str:
        """The model's name, with the extra settings behind it where there are any."""
        return self._label

    @property
    def structured(self) -> bool:
        """Whether the server takes schemas, as far as is known: True until it refused one."""
        return self._dialect.structured

    def __repr__(self) -> str:
        return f"ServerChat({self._base_url!r}, {self._label!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End what waits for an attempt, and the connections once the attempts in flight are through."""
        with self._lock:
            self._closed.set()
            if not self._in_flight:
                self._client.close()

    def cut(self, *, after: float) -> None:
        """Close, and end the attempts that are still in flight when so many seconds have passed.

        Each of them then ends in ChatError, though the server may have charged for it.
        """
        self.close()
        with self._idle:
            idle = self._idle.wait_for(lambda: not self._in_flight, after)
        if not idle:
            self._connections.cut()

    def __call__(self, ask: Ask) -> Reply:
        """The answer, after as many attempts as `Patience` allows.

        A schema that the server refuses is left out from then on, if it answers without.

        Raises:
            ChatError: with what came and the cure.
        """
        tokens = prompt_tokens_at_most(ask) + ask.max_tokens
        known = dialect = self._dialect
        attempts = failed = 0
        while True:
            self._pace.turn(tokens)
            try:
                reply = self._asked(ask, dialect)
            except _FaultError as fault:
                attempts += 1
                other = _other_dialect(fault, ask, dialect)
                if other is not None:
                    dialect = other
                elif filtered(fault.answer):
                    return Reply(error_message(fault.answer), self._name, refused=True, retries=attempts - 1)
                elif not fault.again or failed == self._patience.retries:
                    raise self._given_up(fault, retries=attempts - 1) from None
                else:
                    self._wait_after(fault, failed, retries=attempts - 1)
                    failed += 1
            else:
                if dialect is not known:  # otherwise another thread may know more by now
                    self._dialect = dialect
                return replace(reply, retries=attempts)

    def models(self) -> tuple[str, ...]:
        """The names of the server's models, sorted.

        Raises:
            ChatError: when it does not say; there is one attempt.
        """
        try:
            return self._listed()
        except _FaultError as fault:
            raise self._given_up(fault, retries=0) from None

    def check(self) -> None:
        """Ask whether the model is there, before a long run.

        Raises:
            ChatError: when the server cannot be asked, and when it lists other models only, naming some.
        """
        names = self.models()
        if self._name not in names:
            raise ChatError(f"{self._base_url} has no model {self._name!r}; {_some_of(names)}")

    def _asked(self, ask: Ask, dialect: _Dialect) -> Reply:
        body = request_body(
            ask,
            self._name,
            structured=dialect.structured,
            token_limit=dialect.token_limit,
            extra=self._extra,
        )
        model, messages = body.pop("model"), body.pop("messages")
        began = time.perf_counter()
        content = self._content(
            lambda: self._client.chat.completions.with_raw_response.create(
                model=model, messages=messages, extra_body=body, extra_headers=self._headers()
            )
        )
        seconds = time.perf_counter() - began
        try:
            return replace(read_completion(content, model=self._name), seconds=seconds)
        except MalformedAnswerError as error:
            raise _FaultError(
                f"answered with {error}; check that the address is that of the chat format (it mostly ends in /v1)",
                again=True,
            ) from None

    def _listed(self) -> tuple[str, ...]:
        import openai

        list_them = self._client.models.with_raw_response.list
        read = min(self._patience.read, _LISTING)
        timeout = openai.Timeout(read, connect=self._patience.connect)
        content = self._content(lambda: list_them(extra_headers=self._headers(), timeout=timeout), read=read)
        try:
            return tuple(sorted({str(entry["id"]) for entry in json.loads(content)["data"]}))
        except (ValueError, TypeError, KeyError, RecursionError):
            raise _FaultError(
                f"answered with no list of models: {quoted(content)}; the address mostly ends in /v1"
            ) from None

    def _headers(self) -> dict[str, Any]:
        """Who asks; said with every request, so that nothing of the environment takes its place."""
        import openai

        return {"Authorization": f"Bearer {self._key}" if self._key else openai.omit}

    def _content(self, send: Callable[[], Any], *, read: float | None = None) -> bytes:
        """The bytes of an answer with status 200.

        Args:
            read: seconds that ``send`` waits for an answer; None: as `Patience` says.

        Raises:
            _FaultError: for everything else.
        """
        import openai

        read = self._patience.read if read is None else read
        with self._lock:
            if self._closed.is_set():
                raise _FaultError("was closed before a question was answered")
            self._in_flight += 1
        try:
            content: bytes = send().http_response.content
        except openai.APITimeoutError:
            raise _FaultError(
                f"gave no answer in time (connect {self._patience.connect:g} s, read {read:g} s); "
                "allow more (Patience), or ask fewer questions at once",
                again=True,
            ) from None
        except openai.APIConnectionError as error:
            cause = error.__cause__
            reason = f"{type(cause).__name__}: {cause}" if cause is not None else str(error)
            raise _FaultError(
                f"could not be reached, or cut the connection ({reason}); check that it runs at this address",
                again=True,
            ) from None
        except openai.APIStatusError as error:
            raise self._fault_of(error) from None
        except openai.OpenAIError as error:
            raise _FaultError(f"could not be asked: {quoted(str(error))}") from None
        finally:
            with self._lock:
                self._in_flight -= 1
                self._idle.notify_all()
                # A connection that is taken from under a thread which is opening it stays open for ever.
                if self._closed.is_set() and not self._in_flight:
                    self._client.close()
        return self._without_key(content)

    def _fault_of(self, error: openai.APIStatusError) -> _FaultError:
        status = error.status_code
        content = self._without_key(error.response.content)
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError):
            answer = None
        said = quoted(content if answer is None else error_message(answer))
        code = error_code(answer)
        again = (
            status in _PASSING or status >= http.HTTPStatus.INTERNAL_SERVER_ERROR
        ) and code not in _NO_MONEY
        wait = asked_wait(error.response.headers)
        if again and wait is not None and wait > self._patience.longest_wait:
            message = (
                f"answered {status} and asks to be left alone for {wait:,.0f} s, longer than longest_wait="
                f"{self._patience.longest_wait:g}; come back later, or allow it (Patience)"
            )
            return _FaultError(message, status=status, answer=answer)
        if status in _NO_ENTRY:
            said = "no entry"  # servers repeat parts of the key in what they say
        message = f"answered {status} ({said}){self._cure(status, code, error.response.headers)}"
        return _FaultError(message, status=status, again=again, wait=wait, answer=answer)

    def _cure(self, status: int, code: str | None, headers: Mapping[str, str]) -> str:
        if status in _NO_ENTRY:
            if self._key_variable:
                return f"; check the key in the environment variable {self._key_variable}"
            return "; name the environment variable that holds its key (key_variable=...)"
        if code in _NO_MONEY:
            return "; the account has no money left"
        if status == http.HTTPStatus.TOO_MANY_REQUESTS:
            return "; ask fewer questions at once, or give the server's Limits"
        if http.HTTPStatus.MULTIPLE_CHOICES <= status < http.HTTPStatus.BAD_REQUEST:
            place = self._without_key(headers.get("location", "the new place").encode())
            return f"; if {quoted(place)} is meant, give it as the address"
        if status == http.HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return "; send smaller pictures"
        return ""

    def _given_up(self, fault: _FaultError, *, retries: int) -> ChatError:
        times = f" after {retries + 1} attempts" if retries else ""
        message = f"{self._base_url}{times} {fault}"
        if fault.status == http.HTTPStatus.NOT_FOUND:
            message += f"; {self._what_there_is()}"
        return ChatError(message, status=fault.status, retries=retries)

    def _what_there_is(self) -> str:
        try:
            names = self._listed()
        except _FaultError:
            return "it lists no models either: check the address (it mostly ends in /v1)"
        return _some_of(names)

    def _wait_after(self, fault: _FaultError, failed: int, *, retries: int) -> None:
        seconds = self._patience.wait(failed)
        if fault.wait is not None:
            # Everybody else is as unwelcome; the addition is for not coming back all at once.
            self._pace.hold(fault.wait)
            seconds = fault.wait + random.uniform(0, self._patience.first_wait) / 10
        if self._closed.wait(seconds):
            raise self._given_up(_FaultError("was closed before a question was answered"), retries=retries)

    def _without_key(self, content: bytes) -> bytes:
        """What a server said, without the key if it repeats that: errors and kept answers are read by others."""
        if len(self._key) < _SHORTEST_KEY:
            return content
        return content.replace(self._key.encode(), b"[key]")

    def _made_client(self, host: str) -> openai.OpenAI:
        try:
            import openai
        except ImportError:
            raise MissingExtraError(
                "openai", extra="llm", purpose="asking a language model's server"
            ) from None
        timeout = openai.Timeout(self._patience.read, connect=self._patience.connect)
        client = openai.OpenAI(
            base_url=self._base_url,
            api_key=self._key or "none",
            timeout=timeout,
            max_retries=0,  # attempts are counted here, where the ledger sees them
            http_client=openai.DefaultHttpxClient(
                timeout=timeout,
                event_hooks={"request": [self._connections.watch]},
                follow_redirects=False,  # pictures go to the address that was given, and to no other
                trust_env=host not in _LOOPBACK,  # a proxy cannot reach this machine's own servers
            ),
        )
        # What the environment holds for OpenAI stays with OpenAI.
        if host != _OPENAI:
            client.organization = None
            client.project = None
        return client


def _checked_host(base_url: str) -> str:
    try:
        parts = urlsplit(base_url)
        host, _ = parts.hostname, parts.port
        if any(mark.isspace() or not mark.isprintable() for mark in base_url):
            raise ValueError("blanks")
        (host or "").encode("idna")  # which names of servers have to survive
    except ValueError:
        # The address is not quoted: it may hold a password.
        raise UsageError(
            "the server's address cannot be read; give one such as http://127.0.0.1:8000/v1"
        ) from None
    if parts.username is not None or parts.password is not None:
        raise UsageError(
            "the server's address holds a user name or a password, which would end in logs: put the key into an "
            "environment variable and name that (key_variable=...)"
        )
    if parts.query or parts.fragment:
        raise UsageError(
            f"the server's address ends before ? and #, got {parts.scheme}://{host}{parts.path} with more behind it; "
            "a key belongs into an environment variable (key_variable=...)"
        )
    if parts.scheme not in ("http", "https") or not host:
        raise UsageError(
            f"the server's address begins with http:// or https://, got {base_url!r}; give one such as "
            "http://127.0.0.1:8000/v1"
        )
    return host


def _key_from(variable: str | None) -> str:
    if variable is None:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UsageError(
            f"the environment variable {variable} holds no key: export {variable}=... before the start"
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UsageError(
            f"what the environment variable {variable} holds is no key: it has blanks or other marks in it"
        )
    return key


def _some_of(names: tuple[str, ...]) -> str:
    if not names:
        return "it has none"
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return f"it has {', '.join(names[:_NAMED])}{more}"


def _other_dialect(fault: _FaultError, ask: Ask, dialect: _Dialect) -> _Dialect | None:
    """What to speak after a refusal; None where there is nothing left to change."""
    if fault.status not in (http.HTTPStatus.BAD_REQUEST, http.HTTPStatus.UNPROCESSABLE_ENTITY):
        return None
    if filtered(fault.answer):
        return None
    if dialect.token_limit == "max_tokens" and "max_completion_tokens" in str(fault):  # noqa: S105 - a field
        return replace(dialect, token_limit="max_completion_tokens")  # noqa: S106 - a field
    if ask.schema is not None and dialect.structured:
        return replace(dialect, structured=False)
    return None
