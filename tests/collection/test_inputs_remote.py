"""Pictures behind addresses: an in-memory bucket and a web server of our own; and no secret in anything shown."""

from __future__ import annotations

import base64
import io
import logging
import pickle
import re
import sys
import tarfile
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import PurePosixPath
from threading import Thread
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from taglens.collection import web
from taglens.collection.addresses import local_path, scheme_of, shown_address
from taglens.collection.inputs import Item, open_inputs
from taglens.collection.remote import RemoteFile
from taglens.errors import ImageError, MissingExtraError, UsageError

fsspec = pytest.importorskip("fsspec", reason="no fsspec")

JPEG = b"\xff\xd8\xff\xe0" + bytes(60)
MAX = 1 << 20
SECRET = "hunter2secret"


def tar_of(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name + ".jpg")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def run(*arguments: str, **options: str) -> list[Item]:
    return list(open_inputs(arguments, storage_options=options))


def told(items: list[Item]) -> list[tuple[str, str]]:
    return [
        (item.source, item.failure.type if item.failure else "") for item in items if item.skipped is None
    ]


def passed(items: list[Item]) -> list[tuple[str, str]]:
    return [(item.source, item.skipped) for item in items if item.skipped is not None]


def error_of(item: Item, max_bytes: int = MAX) -> ImageError:
    with pytest.raises(ImageError) as caught:
        item.where.read(max_bytes)
    assert SECRET not in str(caught.value)
    return caught.value


# -- what is shown ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("s3://b/a b.jpg", "s3://b/a b.jpg"),
        (f"s3://key:{SECRET}@b/a.jpg", "s3://b/a.jpg"),
        (f"https://user:{SECRET}@h:8/a.jpg?w=640&h=480#x", "https://h:8/a.jpg?w=640&h=480"),
        (f"https://u:p@{SECRET}@h/a.jpg", "https://h/a.jpg"),
        (f"https://h/a.jpg?w=1&X-Amz-Signature={SECRET}", "https://h/a.jpg"),
        (f"https://h/a.jpg?sv=1&sig={SECRET}", "https://h/a.jpg"),
        (f"https://h/a.jpg?anything={SECRET}{SECRET}", "https://h/a.jpg"),
        (f"https://h/a.jpg?{SECRET}{SECRET}", "https://h/a.jpg"),
        (f"https://h/a.jpg#access_token={SECRET}", "https://h/a.jpg"),
        (f"az://c/a.jpg?sp=r&sig={SECRET}", "az://c/a.jpg"),
        ("s3://b/a?/*.jpg", "s3://b/a?/*.jpg"),
        ("s3://b/me@home/a.jpg", "s3://b/me@home/a.jpg"),
        ("https://h/@me/a.jpg", "https://h/@me/a.jpg"),
    ],
)
def test_addresses_are_shown_without_secrets(address: str, shown: str) -> None:
    assert shown_address(address) == shown


@given(st.text(max_size=60))
def test_showing_never_fails(text: str) -> None:
    for address in (text, f"https://{text}", f"s3://{text}"):
        assert SECRET not in shown_address(address)
        local_path(address)
        scheme_of(address)


def test_what_is_an_address() -> None:
    assert [scheme_of(name) for name in ("S3://b", "C://x", "a.jpg", "://", "pipe:cat x")] == [
        "s3",
        None,
        None,
        None,
        None,
    ]
    assert local_path("file:///a%20b") == "/a b" and local_path("s3://b") is None


# -- a bucket --------------------------------------------------------------------------------------


@pytest.fixture
def put() -> Iterator[Callable[[str, bytes], None]]:
    """Writes objects of an in-memory bucket, which is empty before and after."""
    system = fsspec.filesystem("memory")

    def clear() -> None:
        system.store.clear()
        system.pseudo_dirs[:] = [""]

    def write(path: str, content: bytes = JPEG) -> None:
        system.pipe_file(path, content)

    clear()
    yield write
    clear()


def test_objects_folders_and_patterns(put: Callable[..., None]) -> None:
    for path in ("b/z.jpg", "b/d/a.jpg", "b/d/e/b.PNG", "b/d.jpg", "b/.h/x.jpg", "b/d/.y.jpg", "b/notes.txt"):
        put(path)
    items = run("memory://b")
    assert told(items) == [(f"memory://b/{name}", "") for name in ("d/a.jpg", "d/e/b.PNG", "d.jpg", "z.jpg")]
    assert passed(items) == [
        ("memory://b/.h", "hidden"),
        ("memory://b/d/.y.jpg", "hidden"),
        ("memory://b/notes.txt", "not_image"),
    ]
    for item in items:
        if item.skipped is None:
            assert pickle.loads(pickle.dumps(item)).where.read(MAX) == JPEG
            assert item.path is None and item.signature.startswith(f"{len(JPEG)}:")
    assert told(run("memory://b/")) == told(items)
    # What is typed is given, whatever its name.
    assert told(run("memory://b/notes.txt.bin", "memory://b/d/.y.jpg", "memory://gone/x.jpg")) == [
        ("memory://b/notes.txt.bin", "not_found"),
        ("memory://b/d/.y.jpg", ""),
        ("memory://gone/x.jpg", "not_found"),
    ]
    for pattern in ("memory://b/*.gif", "memory://none/*.jpg"):
        assert told(run(pattern)) == [(pattern, "not_found")]
    assert told(run("memory://b/{d,gone}.jpg")) == [
        ("memory://b/d.jpg", ""),
        ("memory://b/gone.jpg", "not_found"),
    ]


PARTS = st.sampled_from(["a", "b", "ab", "a.jpg", "b.jpg", ".c.jpg", ".d"])
PATTERNS = st.sampled_from(["*", "**", "a*", "*.jpg", "[ab]", "?", ".*", "a", "b.jpg"])


def fits(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """The slow twin: whether a path fits a pattern, part by part."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        deeper = bool(parts) and not parts[0].startswith(".") and fits(parts[1:], pattern)
        return deeper or fits(parts, pattern[1:])
    if not parts or (parts[0].startswith(".") and not pattern[0].startswith(".")):
        return False
    return fnmatchcase(parts[0], pattern[0]) and fits(parts[1:], pattern[1:])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sets(st.lists(PARTS, min_size=1, max_size=4).map(tuple), max_size=8),
    st.lists(PATTERNS, min_size=1, max_size=3),
)
def test_patterns_give_what_fits_sorted_and_once(
    put: Callable[..., None], paths: set[tuple[str, ...]], pattern: list[str]
) -> None:
    if not any(set(part) & set("*?[") for part in pattern):
        pattern.append("*")
    # "b.jpg/**" says that b.jpg is a folder; where it is a picture nothing fits, and the twin thinks otherwise.
    assume(not any(pair == ("b.jpg", "**") for pair in pairwise(pattern)))
    fsspec.filesystem("memory").store.clear()
    fsspec.filesystem("memory").pseudo_dirs[:] = [""]
    files: set[tuple[str, ...]] = set()
    for path in sorted(paths, key=len):
        # A file cannot be a folder too.
        if not any(path[:end] in files for end in range(len(path))):
            files.add(path)
            put("/".join(("w", *path)))
    expected = []
    for path in sorted(files):
        # A folder that fits is given whole, without what is hidden below it.
        for end in range(1, len(path) + 1):
            hidden = any(part.startswith(".") for part in path[end:])
            if fits(path[:end], tuple(pattern)) and not hidden:
                expected.append(path)
                break
    found = run("memory://w/" + "/".join(pattern))
    pictures = [path for path in expected if PurePosixPath(path[-1]).suffix == ".jpg"]
    assert [item.source for item in found if item.skipped is None and item.failure is None] == [
        "/".join(("memory://w", *path)) for path in pictures
    ]


def test_reading_and_its_errors(put: Callable[..., None]) -> None:
    put("b/a.jpg")
    put("b/empty.jpg", b"")
    put("b/big.jpg", JPEG + bytes(1000))
    put("b/big.bin", bytes(2000))
    whole, big, empty = run("memory://b/*.jpg")
    assert [item.where.read(len(JPEG)) for item in [whole]] == [JPEG]
    assert error_of(empty).type == "empty" and error_of(big, 1000).type == "too_large"
    assert error_of(run("memory://b/big.bin")[0], 1000).type == "not_image"
    before = whole.signature
    put("b/a.jpg", JPEG[:-1] + b"x")
    assert run("memory://b/a.jpg")[0].signature not in ("", before)
    fsspec.filesystem("memory").rm("b/a.jpg")
    assert error_of(whole).type == "not_found"


class NoCredentialsError(Exception):
    """As packages of services have them: of no common base, and with too much in its text."""


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (PermissionError(SECRET), "permission"),
        (NoCredentialsError(SECRET), "permission"),
        (TimeoutError(SECRET), "truncated"),
        (RuntimeError(SECRET), "truncated"),
        (FileNotFoundError(SECRET), "not_found"),
        (IsADirectoryError(SECRET), "not_image"),
        (MemoryError(), "too_large"),
    ],
)
def test_whatever_a_service_raises_becomes_an_error_without_secrets(
    put: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fault: Exception,
    expected: str,
) -> None:
    put("b/d/a.jpg")
    put("b/e.jpg")
    item = run("memory://b/d/a.jpg")[0]
    system = fsspec.filesystem("memory")
    listing = system.ls

    def refuse(*_: object, **__: object) -> Any:
        raise fault

    def refuse_folder(path: str, **options: object) -> Any:
        return refuse() if path.endswith("d") else listing(path, **options)

    with caplog.at_level(logging.DEBUG):
        monkeypatch.setattr(system, "cat_file", refuse)
        error = error_of(item)
        assert error.type == expected and error.__cause__ is None and error.__suppress_context__
        monkeypatch.setattr(system, "ls", refuse_folder)
        items = run("memory://b")
        assert told(items) == [("memory://b/d", expected), ("memory://b/e.jpg", "")]
        monkeypatch.setattr(system, "info", refuse)
        assert told(run("memory://b")) == [("memory://b", expected)]
    assert SECRET not in caplog.text + repr(items)


def test_names_that_a_server_makes_up_lead_nowhere(
    put: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    put("b/a.jpg")
    system = fsspec.filesystem("memory")
    entries = [
        {"name": name, "size": 1, "type": kind}
        for name, kind in [
            ("/b/a.jpg", "file"),
            ("/b", "directory"),
            ("/b/..", "directory"),
            ("/etc/x.jpg", "file"),
            ("/b/c/d.jpg", "file"),
            ("/b/link.jpg", "link"),
            ("/b/ne\nw\udcff\ud800.jpg", "file"),
        ]
    ]
    monkeypatch.setattr(system, "ls", lambda *_, **__: entries)
    items = run("memory://b")
    assert [item.source for item in items[:2]] == ["memory://b/a.jpg", "memory://b/link.jpg"]
    assert re.fullmatch("memory://b/ne\nw\ufffd+\\.jpg", items[2].source) and items[2].source_bytes
    assert len(items) == 3


def test_folders_without_end_end(monkeypatch: pytest.MonkeyPatch, put: Callable[..., None]) -> None:
    put("b/a.jpg")
    system = fsspec.filesystem("memory")
    monkeypatch.setattr(
        system, "ls", lambda path, **_: [{"name": f"{path}/again", "size": 0, "type": "directory"}]
    )
    assert [reason for _, reason in passed(run("memory://b"))] == ["too_deep"]


def test_archives_and_lists_in_a_bucket(put: Callable[..., None]) -> None:
    for number in range(2):
        put(f"b/{number:03d}.tar", tar_of(a=JPEG, b=JPEG * 2))
    put("b/pics/a.jpg")
    put("b/pics/l.csv", b"image\na.jpg\nmemory://b/pics/a.jpg\nmemory://b/gone.jpg\nfoo://x/y.jpg\n")
    expected = [(f"memory://b/{number:03d}.tar/{name}.jpg", "") for number in range(2) for name in "ab"]
    for typed in ("memory://b/*.tar", "memory://b/{000..001}.tar"):
        items = run(typed)
        assert told(items) == expected
        assert [len(item.where.read(MAX)) for item in items] == [64, 128, 64, 128]
        assert all(item.signature for item in items)
    assert told(run("memory://b"))[0] == ("memory://b/pics/a.jpg", "")
    with pytest.raises(UsageError, match="foo://"):
        run("memory://b/pics/l.csv")
    put("b/pics/l.csv", b"image\na.jpg\nmemory://b/pics/a.jpg\nmemory://b/gone.jpg\n")
    for typed in ("memory://b/pics/l.csv", "@memory://b/pics/l.csv", "memory://b/*/*.csv"):
        items = run(typed)
        assert told(items) == [
            ("memory://b/pics/a.jpg", ""),
            ("memory://b/pics/a.jpg", ""),
            ("memory://b/gone.jpg", ""),
        ]
        assert items[0].where.read(MAX) == JPEG
        assert error_of(items[2]).type == "not_found" and items[2].signature == ""


def test_options_reach_the_service_and_nothing_shown(put: Callable[..., None]) -> None:
    put("b/a.jpg")
    items = run(f"memory://key:{SECRET}@b/a.jpg", token=SECRET)
    where = run("memory://b/a.jpg", token=SECRET)[0].where
    assert isinstance(where, RemoteFile) and where.options == (("token", SECRET),)
    assert SECRET not in repr((items, where))


def test_what_cannot_be_reached_at_all_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="foo://"):
        open_inputs(["a.jpg", "foo://x"])
    with pytest.raises(UsageError, match="chains") as caught:
        open_inputs([f"simplecache::s3://u:{SECRET}@b/x.jpg", f"zip://a.jpg::s3://u:{SECRET}@b/x.zip"])
    assert SECRET not in str(caught.value)
    for scheme in ("memory", "https"):
        with pytest.raises(UsageError, match=r"\.zip") as caught:
            open_inputs([f"@{scheme}://u:{SECRET}@b/x.zip"])
        assert SECRET not in str(caught.value)
    monkeypatch.setitem(
        sys.modules["fsspec.registry"].known_implementations,
        "nowhere",
        {"class": "no_such.Thing", "err": "Install nowherefs"},
    )
    with pytest.raises(UsageError, match="Install nowherefs"):
        open_inputs(["nowhere://b"])
    monkeypatch.setitem(sys.modules, "fsspec.registry", None)
    with pytest.raises(MissingExtraError, match=r"taglens\[remote\]"):
        open_inputs(["s3://b/a.jpg"])


# -- the web ---------------------------------------------------------------------------------------


class Server:
    """Files on this machine's own address; ``files`` may hold a function of the request too."""

    def __init__(self) -> None:
        self.files: dict[str, bytes | Callable[[BaseHTTPRequestHandler], None]] = {}
        self.ranges = True
        self.asked: list[tuple[str, dict[str, str]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append((self.path, dict(self.headers)))
                found = outer.files.get(self.path.partition("?")[0])
                if callable(found):
                    found(self)
                elif found is None:
                    self.send_error(404)
                else:
                    self.send_file(found)

            def send_file(self, content: bytes) -> None:
                match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
                body = content
                if match and outer.ranges:
                    start, end = int(match[1]), min(int(match[2]) + 1, len(content))
                    if start >= len(content):
                        self.send_error(416)
                        return
                    body = content[start:end]
                    self.send_response(206)
                    self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
                else:
                    self.send_response(200)
                self.send_header("ETag", f'"{hash(content):x}"')
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        self.host = f"127.0.0.1:{self.server.server_port}"
        self.url = f"http://{self.host}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(web, "pause", lambda _: None)
    server = Server()
    yield server
    server.close()


def test_a_web_address_is_one_picture_and_not_asked_for_before_it_is_read(served: Server) -> None:
    served.files["/a%20b.jpg"] = JPEG
    (item,) = run(f"{served.url}/a b.jpg?w=5#x")
    assert served.asked == [] and item.signature == "" and item.source == f"{served.url}/a b.jpg?w=5"
    assert pickle.loads(pickle.dumps(item)).where.read(MAX) == JPEG
    assert [path for path, _ in served.asked] == ["/a%20b.jpg?w=5"]


def test_secrets_of_web_addresses(served: Server) -> None:
    served.files["/a.jpg"] = JPEG
    other = Server()
    try:
        other.files["/b.jpg"] = JPEG

        def elsewhere(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(302)
            handler.send_header("Location", f"{other.url}/b.jpg")
            handler.end_headers()

        served.files["/moved.jpg"] = elsewhere
        first, moved, gone = run(
            *(
                f"http://me:{SECRET}%21@{served.host}/{name}.jpg?sig={SECRET}"
                for name in ("a", "moved", "gone")
            )
        )
        assert first.where.read(MAX) == moved.where.read(MAX) == JPEG
        assert error_of(gone).type == "not_found"
        authorization = "Basic " + base64.b64encode(f"me:{SECRET}!".encode()).decode()
        assert [headers.get("Authorization") for _, headers in served.asked] == [authorization] * 3
        assert [headers.get("Authorization") for _, headers in other.asked] == [None]
        assert served.asked[0][0] == f"/a.jpg?sig={SECRET}"
        for item in (first, moved, gone):
            assert SECRET not in repr(item) and item.source.startswith(f"{served.url}/")
    finally:
        other.close()


def status(code: int) -> Callable[[BaseHTTPRequestHandler], None]:
    return lambda handler: handler.send_error(code)


@pytest.mark.parametrize(
    ("code", "expected", "tries"),
    [
        (404, "not_found", 1),
        (410, "not_found", 1),
        (401, "permission", 1),
        (403, "permission", 1),
        (503, "not_found", 3),
        (429, "not_found", 3),
    ],
)
def test_what_a_status_means(served: Server, code: int, expected: str, tries: int) -> None:
    served.files["/a.jpg"] = status(code)
    error = error_of(run(f"{served.url}/a.jpg")[0])
    assert error.type == expected and str(code) in str(error)
    assert len(served.asked) == tries


def test_what_passes_is_tried_again(served: Server) -> None:
    answers = [status(503), status(429)]

    def busy(handler: BaseHTTPRequestHandler) -> None:
        if answers:
            answers.pop()(handler)
        else:
            handler.send_file(JPEG)  # type: ignore[attr-defined]

    served.files["/a.jpg"] = busy
    assert run(f"{served.url}/a.jpg")[0].where.read(MAX) == JPEG


def test_bodies_that_are_cut_empty_or_too_large(served: Server) -> None:
    def cut(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(JPEG)

    sent: list[int] = []

    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            handler.wfile.write(JPEG)
            for _ in range(100_000):
                handler.wfile.write(bytes(1 << 16))
                sent.append(1 << 16)
        except OSError:
            return

    def announced(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(1 << 40))
        handler.end_headers()
        handler.wfile.write(JPEG + bytes(2000))

    served.files |= {
        "/cut": cut,
        "/endless": endless,
        "/announced": announced,
        "/empty": b"",
        "/html": b"<html>" * 999,
    }
    kinds = {}
    for name in ("cut", "endless", "announced", "empty", "html"):
        kinds[name] = error_of(run(f"{served.url}/{name}")[0], 1000).type
    assert kinds == {
        "cut": "truncated",
        "endless": "too_large",
        "announced": "too_large",
        "empty": "empty",
        "html": "not_image",
    }
    assert sum(sent) < 64 << 20


@pytest.mark.parametrize(
    "address",
    ["http://127.0.0.1:1/a.jpg", "http://[/a.jpg", "http://h:x/a.jpg", "http:///a.jpg", "https://\ud800/a"],
)
def test_servers_that_are_not_there(served: Server, address: str) -> None:
    (item,) = run(address)
    item.source.encode("utf-8")
    assert error_of(item).type == "not_found"


def test_no_redirect_leads_to_a_file(served: Server) -> None:
    def inward(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", "file:///etc/passwd")
        handler.end_headers()

    served.files["/a.jpg"] = inward
    assert error_of(run(f"{served.url}/a.jpg")[0]).type == "not_found"


def test_archives_and_lists_on_the_web(served: Server) -> None:
    served.files |= {
        "/0.tar": tar_of(a=JPEG, b=JPEG * 2),
        "/1.tar": tar_of(c=JPEG)[:500],
        "/empty.tar": b"",
        "/l.txt": b"p/a.jpg\n" + served.url.encode() + b"/p/gone.jpg\n",
        "/p/a.jpg": JPEG,
    }
    items = run(f"{served.url}/{{0..1}}.tar?sig={SECRET}")
    assert told(items) == [
        (f"{served.url}/0.tar/a.jpg", ""),
        (f"{served.url}/0.tar/b.jpg", ""),
        (f"{served.url}/1.tar", "truncated"),
    ]
    assert [item.where.read(MAX) for item in items[:2]] == [JPEG, JPEG * 2]
    assert items[0].signature and SECRET not in repr(items)
    assert told(run(f"{served.url}/empty.tar", f"{served.url}/no.tar", f"{served.url}/no.csv")) == [
        (f"{served.url}/empty.tar", "empty"),
        (f"{served.url}/no.tar", "not_found"),
        (f"{served.url}/no.csv", "not_found"),
    ]
    listed = run(f"@{served.url}/l.txt")
    assert told(listed) == [(f"{served.url}/p/a.jpg", ""), (f"{served.url}/p/gone.jpg", "")]
    assert listed[0].where.read(MAX) == JPEG and error_of(listed[1]).type == "not_found"
    served.ranges = False
    (refused,) = run(f"{served.url}/0.tar")
    assert refused.failure is not None and refused.failure.type == "unsupported"
    assert "download" in refused.failure.message
