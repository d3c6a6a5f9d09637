"""Pictures behind http and https, without any package: one file, or any part of one.

Knows requests, redirects, ranges, what is worth another try, and what a status means for a picture. Refuses to know
folders: a web server has none that could be listed. Neither passwords nor signatures reach a message.
"""

from __future__ import annotations

import http.client
import re
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from taglens.collection.addresses import shown_address
from taglens.collection.items import refusal, too_large
from taglens.containers import SNIFFED_BYTES
from taglens.errors import ImageError

TIMEOUT_S: Final = 30.0
# A server that sends a byte now and then never runs into the timeout.
LIMIT_S: Final = 600.0
TRIES: Final = 3
# Too busy, or out of order for a moment.
_PASSING: Final = frozenset((408, 425, 429, 500, 502, 503, 504))
_CHUNK: Final = 1 << 20
_LATER: Final = "try again later"
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")

_T = TypeVar("_T")
pause = time.sleep


class _AgainError(Exception):
    """What went wrong, where another try may help; never leaves this file."""

    def __init__(self, error: ImageError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True, slots=True)
class WebFile:
    """One address. ``address`` may hold secrets, ``name`` holds none."""

    address: str = field(repr=False)

    @property
    def name(self) -> str:
        return shown_address(self.address)

    def read(self, max_bytes: int) -> bytes:
        """See `taglens.collection.items.Where`."""
        data = self._tried(lambda: self._whole(max_bytes))
        if not data:
            raise refusal("empty", self.name, "has no content (0 bytes)", "ask whoever serves it")
        return data

    def beside(self, name: str) -> WebFile:
        """Another file in the same folder."""
        bare = self.address.partition("#")[0].partition("?")[0]
        return WebFile(bare.rpartition("/")[0] + "/" + name.lstrip("/"))

    def size(self) -> int:
        """Raises ImageError: also where the server gives no parts of a file."""
        return self._tried(self._probe)[0]

    def signature(self) -> str:
        size, mark = self._tried(self._probe)
        return f"{size}:{mark}" if mark else ""

    def read_range(self, start: int, length: int) -> bytes:
        """Up to ``length`` bytes from ``start``; fewer where the file ends.

        Raises:
            ImageError: as `read`, and unsupported where the server gives no parts of a file.
        """
        return self._tried(lambda: self._part(start, length)) if length > 0 else b""

    def _tried(self, attempt: Callable[[], _T]) -> _T:
        for number in range(1, TRIES + 1):
            try:
                return attempt()
            except _AgainError as again:
                if number == TRIES:
                    raise again.error from None
                pause(0.5 * 2.0 ** (number - 1))
        raise AssertionError("every try returns or raises")

    def _whole(self, max_bytes: int) -> bytes:
        with self._answer({}) as response:
            stated = _length(response)
            if stated is not None and stated > max_bytes:
                raise too_large(self.name, response.read(SNIFFED_BYTES), size=stated, max_bytes=max_bytes)
            data = self._body(response, max_bytes + 1)
            if len(data) > max_bytes:
                raise too_large(self.name, data[:SNIFFED_BYTES], size=len(data), max_bytes=max_bytes)
            if stated is not None and len(data) < stated:
                raise _AgainError(self._cut(len(data), stated))
        return data

    def _probe(self) -> tuple[int, str]:
        """Size and mark of the content."""
        with self._answer({"Range": "bytes=0-0"}) as response:
            headers = response.headers
            mark = headers.get("ETag") or headers.get("Last-Modified") or ""
            return self._range(response)[1], mark.strip('W/"')

    def _part(self, start: int, length: int) -> bytes:
        with self._answer({"Range": f"bytes={start}-{start + length - 1}"}) as response:
            begins, size = self._range(response)
            if begins != start:
                raise _AgainError(refusal("truncated", self.name, "the server sent another part", _LATER))
            data = self._body(response, length)
            if len(data) < min(length, size - start):
                raise _AgainError(self._cut(len(data), min(length, size - start)))
        return data

    def _range(self, response: Any) -> tuple[int, int]:
        """Where the part begins that a server sends, and the size of the whole."""
        match = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if response.status != 206 or match is None:
            found = "the server gives files only whole, and members are read one by one"
            raise refusal("unsupported", self.name, found, "download it first")
        return int(match[1]), int(match[3])

    def _cut(self, came: int, expected: int) -> ImageError:
        found = f"the connection was cut after {came:,} of {expected:,} bytes"
        return refusal("truncated", self.name, found, _LATER)

    def _body(self, response: Any, limit: int) -> bytes:
        """Up to ``limit`` bytes, in pieces: memory follows what comes."""
        ends = time.monotonic() + LIMIT_S
        parts: list[bytes] = []
        while limit > 0 and (part := response.read1(min(limit, _CHUNK))):
            parts.append(part)
            limit -= len(part)
            if time.monotonic() > ends:
                raise refusal("truncated", self.name, f"takes longer than {LIMIT_S:.0f} seconds", _LATER)
        return b"".join(parts)

    @contextmanager
    def _answer(self, headers: dict[str, str]) -> Iterator[Any]:
        """The response to one request; faults while it is read are the contract's errors too."""
        answered = False
        try:
            request = _request(self.address, headers)
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:  # noqa: S310 - http or https
                answered = True
                yield response
        except urllib.error.HTTPError as fault:
            fault.close()
            error = self._status(fault.code)
            if fault.code in _PASSING:
                raise _AgainError(error) from None
            raise error from None
        except http.client.InvalidURL:
            raise refusal("not_found", self.name, "is no address", "check the spelling") from None
        except (OSError, http.client.HTTPException) as fault:
            why = type(getattr(fault, "reason", None) or fault).__name__
            if answered:
                raise _AgainError(
                    refusal("truncated", self.name, f"reading broke off ({why})", _LATER)
                ) from None
            error = refusal("not_found", self.name, f"the server cannot be reached ({why})", _LATER)
            raise _AgainError(error) from None
        except (ValueError, UnicodeError):
            raise refusal("not_found", self.name, "is no address", "check the spelling") from None

    def _status(self, code: int) -> ImageError:
        if code in (401, 403, 407):
            return refusal(
                "permission", self.name, f"the server answers {code}", "get access, or a fresh address"
            )
        if code == 416:  # of an empty file there is no part
            return refusal("empty", self.name, "has no content (0 bytes)", "ask whoever serves it")
        return refusal("not_found", self.name, f"the server answers {code}", "check the address")


def _length(response: Any) -> int | None:
    stated = response.headers.get("Content-Length", "")
    return int(stated) if stated.isdecimal() else None


def _request(address: str, headers: dict[str, str]) -> urllib.request.Request:
    """Raises ValueError: an address that cannot be asked for."""
    parts = urlsplit(address)
    user, at, host = parts.netloc.rpartition("@")
    # Names and paths as people write them, in letters that a request can hold.
    host = host if host.isascii() else host.encode("idna").decode()
    safe = "%/:=&?~+!$,;'@()*[]"
    bare = (parts.scheme, host, quote(parts.path, safe=safe), quote(parts.query, safe=safe), "")
    plain = {"User-Agent": "taglens", "Accept-Encoding": "identity"}
    request = urllib.request.Request(urlunsplit(bare), headers=plain | headers)  # noqa: S310
    if at:
        token = b64encode(unquote(user).encode()).decode()
        # Not sent on to where a redirect leads.
        request.add_unredirected_header("Authorization", f"Basic {token}")
    return request
