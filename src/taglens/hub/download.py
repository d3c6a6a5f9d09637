"""One file over HTTP that goes on where it was cut, in this process and in the next.

Knows ranges, redirects, what is worth another try, and full disks. Refuses to know whose files they are. The token
goes to the host it is meant for and never into a message.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from taglens.errors import DownloadError

CHUNK = 1 << 20
TIMEOUT_S = 30.0
TRIES = 5
# Too busy, or out of order for a moment.
PASSING = frozenset((408, 425, 429, 500, 502, 503, 504))

Report = Callable[[int], None]


class _Again(Exception):  # noqa: N818 - never leaves this file
    """What went wrong, where another try may help."""


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def fetch(
    url: str,
    part: Path,
    *,
    size: int | None,
    token: str | None = None,
    report: Report | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Bring ``part`` to its full size, from the bytes that it already has.

    Args:
        size: bytes of the whole file; None: whatever the server says.
        token: for ``url``'s own host alone.
        report: told how many bytes are there, now and then.

    Raises:
        DownloadError: the server refuses, sends more than the file has, or fails ``TRIES`` times without a new byte;
            what came stays in ``part``.
    """
    part.parent.mkdir(parents=True, exist_ok=True)
    failures = 0
    while True:
        have = _length(part)
        if size is not None and have > size:
            part.unlink()
            have = 0
        if size is not None and have == size and part.exists():
            return
        try:
            size = _stream(url, part, have, size=size, token=token, report=report)
            if size is None or _length(part) >= size:
                return
            reason = "the connection was cut"
        except _Again as again:
            reason = str(again)
        failures = 0 if _length(part) > have else failures + 1
        if failures >= TRIES:
            raise DownloadError(
                f"{_shown(url)}: {reason}, {TRIES} times in a row; the {_length(part):,} bytes that came are kept: "
                "run the same command again to go on"
            )
        sleep(min(2.0**failures, 30.0))


def _stream(
    url: str, part: Path, have: int, *, size: int | None, token: str | None, report: Report | None
) -> int | None:
    """Append what one request gives; returns the size of the whole file if it is known by now."""
    with _open(url, have, token) as response:
        if have and not _goes_on(response, have):
            have = 0
        length = response.headers.get("Content-Length")
        if size is None and length is not None and length.isdigit():
            size = have + int(length)
        with _writing(part, have) as file:
            while chunk := _read(response):
                have += len(chunk)
                if size is not None and have > size:
                    raise DownloadError(
                        f"{_shown(url)}: the server sends more than the {size:,} bytes of the file"
                    )
                _write(file, chunk, part)
                if report is not None:
                    report(have)
    return size


def _open(url: str, have: int, token: str | None) -> Any:
    if urlsplit(url).scheme not in ("http", "https"):
        raise DownloadError(f"{_shown(url)}: only http and https are fetched")
    headers = {"User-Agent": "taglens", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - the scheme was checked
    if token:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    try:
        return _opener().open(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and have:
            raise _Again("the server knows no such range") from None
        if error.code in PASSING:
            raise _Again(f"the server answers {error.code}") from None
        raise refusal(url, error.code) from None
    except urllib.error.URLError as error:
        raise _Again(f"no answer ({error.reason})") from None
    except (OSError, http.client.HTTPException) as error:
        raise _Again(f"no answer ({type(error).__name__})") from None


def refusal(what: str, status: int) -> DownloadError:
    """What a final HTTP status means to a person."""
    if status in (401, 403):
        return DownloadError(
            f"{_shown(what)}: the server answers {status}: it wants a token that may read this; set HF_TOKEN to one"
        )
    if status == 404:
        return DownloadError(
            f"{_shown(what)}: the server answers 404: there is no such file, revision or repository"
        )
    return DownloadError(f"{_shown(what)}: the server answers {status}")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows to http and https only, never from https down to http, and shows the token to its own host alone."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        before, after = origin(req.full_url), origin(newurl)
        if after[0] not in ("http", "https") or (before[0] == "https" and after[0] == "http"):
            raise DownloadError(f"{_shown(req.full_url)}: refused to be sent on to {_shown(newurl)}")
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and before == after and req.has_header("Authorization"):
            request.add_unredirected_header("Authorization", str(req.get_header("Authorization")))
        return request


def _opener() -> urllib.request.OpenerDirector:
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
        _Redirects,
    ):
        opener.add_handler(handler())
    return opener


def _goes_on(response: Any, have: int) -> bool:
    """Whether the server answers from byte ``have`` on, and not from the beginning."""
    if response.status != 206:
        return False
    start = str(response.headers.get("Content-Range", "")).removeprefix("bytes ").partition("-")[0]
    if start != str(have):
        raise _Again("the server sends another range than was asked for")
    return True


def _read(response: Any) -> bytes:
    try:
        # What is there now, not a full chunk: a cut or a kill then loses nothing.
        return bytes(response.read1(CHUNK))
    except http.client.IncompleteRead as error:
        return bytes(error.partial)
    except (OSError, http.client.HTTPException) as error:
        raise _Again(f"the connection broke ({type(error).__name__})") from None


def _writing(part: Path, have: int) -> IO[bytes]:
    file = part.open("r+b" if part.exists() else "wb")
    file.truncate(have)
    file.seek(have)
    return file


def _write(file: IO[bytes], chunk: bytes, part: Path) -> None:
    try:
        file.write(chunk)
        file.flush()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DownloadError(
                f"{part.parent}: the disk is full; make room and run the same command again, which goes on"
            ) from None
        raise


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _shown(url: str) -> str:
    """A URL without what may be secret: signed addresses carry their signature behind the question mark."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"
