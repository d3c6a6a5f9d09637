"""The simulated annotator as a server: enough of OpenAI's chat protocol for a client to annotate pictures with.

Knows HTTP, the protocol's requests, answers and errors, and counts. Refuses to know how an answer comes about
(`taglens.server.simulated_answers`). It is a stand-in for tests: no model runs in it, and its figures say nothing
about one.

``POST /v1/chat/completions`` takes one picture as a data URL and one question of
`taglens.language.annotation_prompts`; ``response_format`` of type ``json_schema`` is followed. ``GET /v1/models``
names the one model, ``GET /counts`` what was asked. What is refused gets a status and an error object as that
protocol has them.

Tokens are counted by rule: a picture takes one for each begun square of 28 x 28 pixels, a text four for three words
(rounded up). A beginning (system text and pictures) that was seen among the last 256 counts as cached.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import itertools
import json
import re
import socketserver
import sys
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from taglens.errors import ImageError, UsageError
from taglens.language.annotation_prompts import AskedFor, asked
from taglens.server.simulated_answers import Annotator, Answer
from taglens.server.simulated_truth import Known, UnknownPictureError

MODEL = "simulated-annotator"
MAX_BYTES = 20_000_000
PATCH = 28
_BEGINNINGS = 256
_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,(.*)", re.DOTALL)
_PATHS = {"/v1/chat/completions": "POST", "/v1/models": "GET", "/counts": "GET"}


class RefusedError(Exception):
    """A request that is answered with an error: its status, and the protocol's code."""

    def __init__(self, message: str, *, status: int = 400, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code

    def to_dict(self) -> dict[str, Any]:
        told = {"message": str(self), "type": "invalid_request_error", "param": None, "code": self.code}
        return {"error": told}


@dataclass(frozen=True, slots=True)
class Request:
    """What of a request decides its answer."""

    system: str
    pictures: tuple[bytes, ...]
    text: str
    schema: Mapping[str, Any] | None
    max_tokens: int | None
    temperature: float
    seed: int | None


@dataclass(slots=True)
class Counts:
    """What was asked and answered so far; one lock for all of it."""

    requests: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    names: int = 0
    pictures: set[int] = field(default_factory=set)
    beginnings: OrderedDict[bytes, None] = field(default_factory=OrderedDict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def to_dict(self) -> dict[str, Any]:
        with self.lock:
            kinds = {kind: self.requests[kind] for kind in ("open", "several", "yes_no", "rejected")}
            return {
                "requests": {"total": sum(kinds.values()), **kinds},
                "answers": {kind: self.answers[kind] for kind in ("refused", "off_list", "broken", "cut")},
                "names": self.names,
                "pictures": len(self.pictures),
                "tokens": {kind: self.tokens[kind] for kind in ("prompt", "cached", "completion")},
            }


class SimulatedServer(ThreadingHTTPServer):
    """Serves one annotator; loopback unless told otherwise. ``port`` 0 takes a free one: see ``url``.

    Args:
        delay: seconds that every answer takes, as if something thought about it; requests wait side by side.
        max_bytes: of a request's body.
        structured: whether ``response_format`` is followed; otherwise it is refused, as older servers do.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        annotator: Annotator,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        delay: float = 0.0,
        max_bytes: int = MAX_BYTES,
        structured: bool = True,
    ) -> None:
        if not 0 <= port <= 65535:
            raise UsageError(f"--port {port}: expected 0 (any free one) to 65535")
        if not 0.0 <= delay <= 600.0:
            raise UsageError(f"--delay {delay}: expected 0 to 600 seconds")
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            cure = "name another with --port, or 0 for any free one"
            raise UsageError(f"cannot listen on {host}:{port}: {error.strerror or error}; {cure}") from None
        self.annotator = annotator
        self.delay = delay
        self.max_bytes = max_bytes
        self.structured = structured
        self.counts = Counts()
        self._nth = itertools.count()

    def server_bind(self) -> None:
        # HTTPServer's own asks the resolver for this machine's name, which may take seconds and serves nothing here.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Who asked went away; that is no fault of this program.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    @property
    def url(self) -> str:
        """What a client calls its base URL."""
        return f"http://{self.server_address[0]!s}:{self.server_address[1]}/v1"

    def models(self) -> dict[str, Any]:
        model = {"id": MODEL, "object": "model", "created": 0, "owned_by": "taglens (simulated, no model)"}
        return {"object": "list", "data": [model]}

    def told(self) -> dict[str, Any]:
        """The counts, and whose truth they were answered from."""
        truth = self.annotator.truth
        known = {"pictures": len(truth), "names": len(truth.vocabulary), "complete": truth.complete}
        return {"model": MODEL, "simulated": True, "truth": known, **self.counts.to_dict()}

    def complete(self, body: bytes) -> dict[str, Any]:
        """A chat completion.

        Raises:
            RefusedError: with the status that says why there is none.
        """
        request = read_request(body)
        if request.schema is not None and not self.structured:
            raise RefusedError("response_format is not supported here", code="unsupported_parameter")
        try:
            question = asked(request.text)
        except UsageError as error:
            raise RefusedError(f"{error}; the simulated annotator knows no other") from None
        if len(request.pictures) != 1:
            raise RefusedError(f"expected one picture to a question, found {len(request.pictures)}")
        try:
            known = self.annotator.truth.recognise(request.pictures[0])
        except UnknownPictureError as error:
            raise RefusedError(str(error), code="unknown_picture") from None
        except ImageError as error:
            raise RefusedError(f"cannot read the picture: {error}", code="invalid_image") from None
        # At temperature 0 the question alone decides; above it, its seed, and without one no answer comes twice.
        draw = (
            ""
            if request.temperature == 0
            else str(request.seed if request.seed is not None else next(self._nth))
        )
        try:
            answer = self.annotator.answer(known.row, question, schema=request.schema, draw=draw)
        except UsageError as error:
            raise RefusedError(str(error), code="invalid_schema") from None
        except (AttributeError, TypeError, RecursionError):
            message = "expected a JSON schema, found what is none"
            raise RefusedError(message, code="invalid_schema") from None
        time.sleep(self.delay)
        return self._completion(request, question, known, answer)

    def _completion(
        self, request: Request, question: AskedFor, known: Known, answer: Answer
    ) -> dict[str, Any]:
        text, was_cut = cut(answer.text, request.max_tokens)
        beginning = text_tokens(request.system) + picture_tokens(known.width, known.height)
        digest = hashlib.sha256(
            b"\0".join((request.system.encode("utf-8", "surrogatepass"), *request.pictures))
        ).digest()
        counts = self.counts
        with counts.lock:
            cached = beginning if digest in counts.beginnings else 0
            counts.beginnings[digest] = None
            counts.beginnings.move_to_end(digest)
            while len(counts.beginnings) > _BEGINNINGS:
                counts.beginnings.popitem(last=False)
            prompt, completion = beginning + text_tokens(request.text), text_tokens(answer.refusal or text)
            counts.tokens.update(prompt=prompt, cached=cached, completion=completion)
            counts.requests[question.kind] += 1
            counts.names += len(question.names)
            counts.pictures.add(known.row)
            faults = ("refused", answer.refused), ("off_list", answer.off_list), ("broken", answer.broken)
            counts.answers.update(fault for fault, has in (*faults, ("cut", was_cut)) if has)
            number = sum(counts.requests.values())
        message = {
            "role": "assistant",
            "content": None if answer.refusal else text,
            "refusal": answer.refusal,
        }
        choice = {
            "index": 0,
            "message": message,
            "finish_reason": "length" if was_cut else "stop",
            "logprobs": None,
        }
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": cached},
        }
        about = {"id": f"simulated-{number}", "object": "chat.completion", "created": int(time.time())}
        return {**about, "model": MODEL, "choices": [choice], "usage": usage}


def read_request(body: bytes) -> Request:
    """A request's body.

    Raises:
        RefusedError: what is no request, or asks for what is not done here.
    """
    try:
        row = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RefusedError(f"expected JSON, found none ({error})") from None
    if not isinstance(row, dict) or not isinstance(row.get("messages"), list) or not row["messages"]:
        raise RefusedError("expected an object with messages, a list that is not empty")
    if row.get("model") != MODEL:
        message = f"there is no model {str(row.get('model'))[:80]!r} here; there is {MODEL!r}"
        raise RefusedError(message, status=404, code="model_not_found")
    if row.get("stream") or row.get("tools") or row.get("n", 1) not in (1, None):
        raise RefusedError("stream, tools and n other than 1 are not supported")
    system: list[str] = []
    texts: list[str] = []
    pictures: list[bytes] = []
    for message in row["messages"]:
        role = message.get("role") if isinstance(message, dict) else None
        if role not in ("system", "developer", "user"):
            raise RefusedError(f"expected messages of the system and the user, found role {role!r}")
        for part in _parts(message.get("content")):
            if isinstance(part, bytes):
                pictures.append(part)
            else:
                (texts if role == "user" else system).append(part)
    return Request(
        "\n".join(system),
        tuple(pictures),
        "\n".join(texts),
        _schema(row.get("response_format")),
        _number(row, "max_completion_tokens", _number(row, "max_tokens", None)),
        _number(row, "temperature", 1) or 0,
        _number(row, "seed", None),
    )


def _parts(content: Any) -> list[str | bytes]:
    """The texts and pictures of a message."""
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list):
        raise RefusedError("expected a message's content to be text or a list of parts")
    parts: list[str | bytes] = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            parts.append(part["text"])
        elif kind == "image_url" and isinstance(part.get("image_url"), dict):
            url = part["image_url"].get("url")
            found = _DATA_URL.fullmatch(url) if isinstance(url, str) else None
            if found is None:
                raise RefusedError(
                    "expected image_url to be a data URL in base64; nothing is fetched from here"
                )
            try:
                parts.append(base64.b64decode(found[1], validate=True))
            except (binascii.Error, ValueError):
                raise RefusedError("the data URL holds no base64") from None
        else:
            raise RefusedError(f"expected parts of type text or image_url, found {kind!r}")
    return parts


def _schema(wanted: Any) -> Mapping[str, Any] | None:
    if wanted is None or wanted == {"type": "text"}:
        return None
    inner = (
        wanted.get("json_schema")
        if isinstance(wanted, dict) and wanted.get("type") == "json_schema"
        else None
    )
    schema = inner.get("schema") if isinstance(inner, dict) else None
    if not isinstance(schema, dict):
        raise RefusedError('expected response_format {"type": "json_schema", "json_schema": {"schema": ...}}')
    return schema


def _number(row: Mapping[str, Any], key: str, default: Any) -> Any:
    value = row.get(key)
    if value is None:
        return default
    whole = key != "temperature"
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not value >= 0:
        raise RefusedError(f"expected {key} to be a number from 0 on, found {str(value)[:40]!r}")
    return value


def picture_tokens(width: int, height: int) -> int:
    """One for each begun square of 28 x 28 pixels."""
    return -(-width // PATCH) * -(-height // PATCH)


def text_tokens(text: str) -> int:
    """Four for three words, rounded up."""
    return -(-4 * len(text.split()) // 3)


def cut(text: str, max_tokens: int | None) -> tuple[str, bool]:
    """The text within a number of tokens, whole words of it, and whether it was cut."""
    if max_tokens is None or text_tokens(text) <= max_tokens:
        return text, False
    words = list(re.finditer(r"\S+", text))[: max_tokens * 3 // 4]
    return (text[: words[-1].end()] if words else ""), True


class _Handler(BaseHTTPRequestHandler):
    """One connection; the protocol's paths, bodies in JSON either way."""

    server: SimulatedServer
    protocol_version = "HTTP/1.1"
    server_version = "taglens-simulated-annotator"
    sys_version = ""
    timeout = 120
    # An answer leaves in one piece: waiting for more would cost a fiftieth of a second each.
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def _answer(self, method: str) -> None:
        try:
            self._send(200, self._found(method))
        except RefusedError as error:
            with self.server.counts.lock:
                self.server.counts.requests["rejected"] += 1
            self._send(error.status, error.to_dict())

    def _found(self, method: str) -> dict[str, Any]:
        body = self._body() if method == "POST" else b""
        path = self.path.partition("?")[0]
        if path not in _PATHS:
            raise RefusedError(f"there is no {path[:80]!r} here; there are {', '.join(_PATHS)}", status=404)
        if _PATHS[path] != method:
            raise RefusedError(f"{path} takes {_PATHS[path]}, not {method}", status=405)
        if path == "/v1/models":
            return self.server.models()
        return self.server.told() if path == "/counts" else self.server.complete(body)

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        # What is not read would be taken for the next request.
        if not length.isascii() or not length.isdigit():
            self.close_connection = True
            raise RefusedError("expected a body with its Content-Length", status=411)
        # A number of thousands of digits is not even read as one.
        if len(length) > 15 or int(length) > self.server.max_bytes:
            self.close_connection = True
            raise RefusedError(
                f"the body has {length[:16]} bytes; expected at most {self.server.max_bytes:,}", status=413
            )
        return self.rfile.read(int(length))

    def _send(self, status: int, row: Mapping[str, Any]) -> None:
        content = json.dumps(row).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class refuses, other methods and broken request lines, in the protocol's form too."""
        self.close_connection = True
        self._send(int(code), RefusedError(message or "this is no request", status=int(code)).to_dict())

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is written for each request: /counts tells."""
