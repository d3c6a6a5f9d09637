"""A server that speaks OpenAI's chat format on the loopback, and misbehaves as told.

It counts what reaches it, answers with what `answer` makes of a request, and spends one of `faults` on each request
for as long as it has some.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

Fault = Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]


def completion(
    text: str | None, *, model: str = "fake", finish: str = "stop", usage: object = "count", **message: Any
) -> dict[str, Any]:
    """A chat completion; its usage counts words unless one is given."""
    words = len((text or "").split())
    counted = {"prompt_tokens": 100, "completion_tokens": words, "total_tokens": 100 + words}
    return {
        "id": "c-1",
        "object": "chat.completion",
        "model": model,
        "choices": [
            {
                "index": 0,
                "finish_reason": finish,
                "message": {"role": "assistant", "content": text, **message},
            }
        ],
        "usage": counted if usage == "count" else usage,
    }


def send(
    handler: BaseHTTPRequestHandler,
    content: bytes,
    *,
    status: int = 200,
    kind: str = "application/json",
    headers: Mapping[str, str] | None = None,
) -> None:
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(content)))
    for name, value in (headers or {}).items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(content)


def status(code: int, message: str = "no", *, error_code: str | None = None, **headers: str) -> Fault:
    """An answer with this status; `retry_after="1"` becomes a header."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    def fault(handler: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
        error = {"error": {"message": message, "code": error_code}}
        send(handler, json.dumps(error).encode(), status=code, headers=named)

    return fault


def raw(content: bytes, *, kind: str = "application/json", code: int = 200) -> Fault:
    """Any bytes at all."""
    return lambda handler, _: send(handler, content, status=code, kind=kind)


def whole(answer: Mapping[str, Any], *, kind: str = "application/json") -> Fault:
    """This JSON."""
    return raw(json.dumps(answer).encode(), kind=kind)


def cut(handler: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
    """Promise an answer, give half of it, and hang up."""
    content = json.dumps(completion("never whole")).encode()
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content[: len(content) // 2])
    handler.close_connection = True


def silent(handler: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
    """Hang up without a word."""
    handler.close_connection = True


class FakeChat:
    """The server, for a ``with`` block.

    Args:
        answer: the text, or the whole completion, for the JSON of a request.
        faults: what happens to the first requests instead.
        always: what happens to every request instead.
        names: of the models it lists.
        seconds: that every answer takes.

    Attributes:
        requests: the JSON of every question that arrived, in order; `headers` goes with it.
        most_at_once: how many questions were being answered together at most.
    """

    def __init__(
        self,
        answer: Callable[[dict[str, Any]], str | dict[str, Any]] = lambda body: "yes",
        *,
        faults: list[Fault] | None = None,
        always: Fault | None = None,
        names: tuple[str, ...] = ("fake",),
        seconds: float = 0.0,
    ) -> None:
        self.faults = deque(faults or [])
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.most_at_once = 0
        self.ending = threading.Event()
        self._now = 0
        self._lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Headers and body leave in two pieces; without this the second waits for the first to be confirmed.
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                listed = {"object": "list", "data": [{"id": name, "object": "model"} for name in names]}
                send(self, json.dumps(listed).encode())

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with fake._lock:
                    fake.requests.append(body)
                    fake.headers.append({name.lower(): value for name, value in self.headers.items()})
                    fault = fake.faults.popleft() if fake.faults else always
                    fake._now += 1
                    fake.most_at_once = max(fake.most_at_once, fake._now)
                try:
                    if seconds:
                        time.sleep(seconds)
                    if fault is not None:
                        fault(self, body)
                        return
                    said = answer(body)
                    send(self, json.dumps(completion(said) if isinstance(said, str) else said).encode())
                finally:
                    with fake._lock:
                        fake._now -= 1

            def log_message(self, format: str, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:  # a client that hung up is part of the play
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self._thread = threading.Thread(target=lambda: self._server.serve_forever(poll_interval=0.02))

    @property
    def count(self) -> int:
        return len(self.requests)

    def hang(self, handler: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
        """A fault: say nothing until the server ends."""
        self.ending.wait(30)
        handler.close_connection = True

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextmanager
def interrupted(fake: FakeChat) -> Iterator[None]:
    """Ctrl-C, once, when the server has a question; the block is the main thread's."""
    over = threading.Event()

    def press() -> None:
        while not fake.count:
            if over.wait(0.01):
                return
        # To the main thread, which may be waiting for others: a signal to another would not wake it.
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def question(body: Mapping[str, Any]) -> str:
    """The text of the question in a request."""
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else content[-1]["text"]
