"""A hub in this process: enough of the public one's answers for a pull, and its bad days on demand.

Speaks what the client reads: X-Repo-Commit, ETag, X-Linked-Etag and -Size with a redirect to another host for large
files, X-Error-Code for what is not there, ranges. Written from the client's documentation, not from the real hub.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "c0ffee" + "0" * 34


@dataclass
class Seen:
    """One request: the host's role, and what came with it."""

    role: str
    method: str
    path: str
    headers: dict[str, str]


@dataclass
class FakeHub:
    """Two hosts: the hub, and the one that large files are kept on.

    Attributes:
        large, small: "repository/path" -> content; small ones are also served as files of a release.
        cuts: after how many bytes of content the next answers to GET break off.
        statuses: of the next answers, to any request, before all is well.
        token: wanted for everything, if any.
        location: where large files are said to be, instead of the second host.
        slow: seconds between pieces of 4 kB.
    """

    large: dict[str, bytes] = field(default_factory=dict)
    small: dict[str, bytes] = field(default_factory=dict)
    commit: str = COMMIT
    cuts: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    token: str | None = None
    location: str | None = None
    ranges: bool = True
    slow: float = 0.0
    sent: dict[str, bytes] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    url: str = ""
    files_url: str = ""

    def gets(self, ending: str = "") -> list[Seen]:
        return [one for one in self.seen if one.method == "GET" and one.path.endswith(ending)]

    @contextmanager
    def running(self) -> Iterator[FakeHub]:
        servers = [ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, role)) for role in ("hub", "files")]
        self.url, self.files_url = (f"http://127.0.0.1:{server.server_port}" for server in servers)
        threads = [threading.Thread(target=server.serve_forever, args=(0.01,)) for server in servers]
        for server, thread in zip(servers, threads, strict=True):
            server.daemon_threads = True
            thread.start()
        try:
            yield self
        finally:
            for server, thread in zip(servers, threads, strict=True):
                server.shutdown()
                server.server_close()
                thread.join()


def _handler(hub: FakeHub, role: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def plain(self, status: int, **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            if "Content_Length" not in headers:
                self.send_header("Content-Length", "0")
            self.end_headers()

        def answer(self, *, body: bool) -> None:
            hub.seen.append(Seen(role, self.command, self.path, dict(self.headers)))
            if hub.statuses:
                self.plain(hub.statuses.pop(0))
            elif role == "files":
                self.content(hub.large[self.path.strip("/")], body=body)
            elif hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
                self.plain(401)
            else:
                self.resolve(body=body)

        def resolve(self, *, body: bool) -> None:
            repository, found, rest = self.path.strip("/").partition("/resolve/")
            if not found:  # a release: OWNER/NAME/COMMIT/PATH
                owner, name, _, path = repository.split("/", 3)
                self.content(hub.small[f"{owner}/{name}/{path}"], body=body)
                return
            revision, _, path = rest.partition("/")
            key = f"{repository}/{path}"
            if not any(known.startswith(repository + "/") for known in (*hub.large, *hub.small)):
                self.plain(401, X_Error_Code="RepoNotFound")
            elif revision not in ("main", hub.commit):
                self.plain(404, X_Error_Code="RevisionNotFound")
            elif key in hub.large:
                content = hub.large[key]
                self.plain(
                    302,
                    Location=hub.location or f"{hub.files_url}/{key}",
                    X_Repo_Commit=hub.commit,
                    X_Linked_Etag=f'"{hashlib.sha256(content).hexdigest()}"',
                    X_Linked_Size=str(len(content)),
                )
            elif key in hub.small:
                self.content(hub.small[key], body=body, X_Repo_Commit=hub.commit, ETag='"' + "a" * 40 + '"')
            else:
                self.plain(404, X_Error_Code="EntryNotFound")

        def content(self, content: bytes, *, body: bool, **headers: str) -> None:
            if body:
                content = hub.sent.get(self.path.rpartition("/")[2], content)
            start = 0
            asked = self.headers.get("Range")
            if asked and hub.ranges:
                start = int(asked.removeprefix("bytes=").partition("-")[0])
                if start >= len(content):
                    self.plain(416)
                    return
                headers["Content_Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            status = 206 if "Content_Range" in headers else 200
            self.plain(status, Content_Length=str(len(content) - start), **headers)
            if not body:
                return
            rest = content[start:]
            if hub.cuts:
                self.wfile.write(rest[: hub.cuts.pop(0)])
                self.close_connection = True
                return
            if not hub.slow:
                self.wfile.write(rest)
                return
            wait = threading.Event()
            try:
                for at in range(0, len(rest), 4096):
                    self.wfile.write(rest[at : at + 4096])
                    wait.wait(hub.slow)
            except OSError:
                self.close_connection = True

    return Handler
