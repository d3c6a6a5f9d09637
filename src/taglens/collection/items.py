"""One thing that a run must account for, and how a local file's bytes are read.

Knows what a source is called, when its content may have changed, and how to read a file without waiting for a
pipe, following a device or filling the memory. Refuses to know where sources come from (`taglens.collection.inputs`)
and pixels.
"""

from __future__ import annotations

import base64
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from taglens.containers import SNIFFED_BYTES, sniff
from taglens.errors import ImageError, ImageErrorType
from taglens.images import IMAGE_SUFFIXES
from taglens.inference.sources import SkipReason, Source, shown_name
from taglens.results import Failure

_CHUNK: Final = 8 << 20
_MISSING: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
# Without O_NONBLOCK, opening a pipe that took a file's place would wait for a writer. Not all exist everywhere.
_FLAGS: Final = os.O_RDONLY | sum(
    getattr(os, name, 0) for name in ("O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY", "O_BINARY")
)
# What `sniff` knows by name and no picture of pixels is: passed over where found, like any text.
_DRAWINGS: Final = frozenset({"SVG", "PostScript", "icon"})


class Where(Protocol):
    """How the bytes of one picture are read, in whatever process; picklable."""

    def read(self, max_bytes: int) -> bytes:
        """The content, whole: 1 to ``max_bytes`` bytes.

        Raises:
            ImageError: with the contract's type; too_large is known before everything is read.
        """
        ...


@dataclass(frozen=True, slots=True)
class Item:
    """One picture to be read, one thing that cannot be, or one that is passed over.

    Attributes:
        source: the row's ``source``: as typed, joined with what was found inside.
        source_bytes: the name's bytes in base64 where ``source`` had to replace some, else None.
        signature: another one whenever the content may be another one; "" where only reading can tell.
        where: how to read it.
        failure: known before reading; the item is a row with this error.
        skipped: found and no picture; counted, and never a row.
        path: of a local file, else None.
    """

    source: str
    source_bytes: str | None
    signature: str
    where: Where
    failure: Failure | None = None
    skipped: SkipReason | None = None
    path: Path | None = None


def refusal(type: ImageErrorType, name: str, found: str, cure: str) -> ImageError:
    """An error as `taglens.images` words it; ``repr`` keeps line breaks and stray bytes out of messages."""
    return ImageError(type, f"{name!r}: {found}; {cure}", source=name)


def is_picture(head: bytes) -> bool:
    """`taglens.images.is_image_file` for a file's first `SNIFFED_BYTES`."""
    kind = sniff(head)
    return kind is not None and kind not in _DRAWINGS


def too_large(name: str, head: bytes, *, size: int, max_bytes: int) -> ImageError:
    """The error for more bytes than may be read, which is not_image where they are none anyway."""
    if head and sniff(head) is None:
        return refusal("not_image", name, f"starts like no picture ({head[:8]!r})", "leave it out")
    found = f"its {size:,} bytes are more than the limit of {max_bytes:,}"
    return refusal("too_large", name, found, "scale it down or raise the limit")


def signature_of(path: str | os.PathLike[str]) -> str:
    """``size:mtime_ns`` of a file, links followed; "" where that cannot be known."""
    try:
        return _signature(os.stat(path))  # noqa: PTH116
    except (OSError, ValueError):
        return ""


def _signature(status: os.stat_result) -> str:
    return f"{status.st_size}:{status.st_mtime_ns}"


@contextmanager
def file_faults(name: str) -> Iterator[None]:
    """Turn what the system raises about a file into the contract's errors."""
    try:
        yield
    except MemoryError as fault:
        raise refusal("too_large", name, "the file does not fit into memory", "scale it down") from fault
    except ValueError as fault:  # a name with a zero byte
        raise refusal("not_found", name, "no file can have this name", "check the spelling") from fault
    except PermissionError as fault:
        raise refusal("permission", name, "may not be read by this user", "change its permissions") from fault
    except OSError as fault:
        if fault.errno in _MISSING:
            raise refusal("not_found", name, "there is no such file", "check the spelling") from fault
        found = f"reading broke off ({fault.strerror or type(fault).__name__})"
        raise refusal("truncated", name, found, "copy or download it anew") from fault


def _check_kind(name: str, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise refusal("not_image", name, "is a directory", "name the pictures inside it")
    if not stat.S_ISREG(mode):
        raise refusal("not_image", name, "is a pipe or a device, not a file", "save it to a file first")


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file of this machine; ``path`` may hold undecodable bytes as surrogates."""

    path: str

    @property
    def name(self) -> str:
        return self.path

    def read(self, max_bytes: int) -> bytes:
        """See `Where`. Of a file that changes meanwhile, whatever bytes were read."""
        with file_faults(self.path):
            descriptor, size = self._open()
            try:
                if size > max_bytes:
                    head = os.read(descriptor, SNIFFED_BYTES)
                    raise too_large(self.path, head, size=size, max_bytes=max_bytes)
                # One byte more than announced tells whether it grew.
                data = _read(descriptor, min(size, max_bytes) + 1)
                if len(data) > size:
                    data += _read(descriptor, max_bytes + 1 - len(data))
            finally:
                os.close(descriptor)
        if not data:
            raise refusal("empty", self.path, "has no content (0 bytes)", "copy or download it anew")
        if len(data) > max_bytes:
            raise too_large(self.path, data[:SNIFFED_BYTES], size=len(data), max_bytes=max_bytes)
        return data

    def size(self) -> int:
        """Its length in bytes.

        Raises:
            ImageError: as `read`.
        """
        with file_faults(self.path):
            status = os.stat(self.path)  # noqa: PTH116
            _check_kind(self.path, status.st_mode)
            return status.st_size

    def signature(self) -> str:
        return signature_of(self.path)

    def read_range(self, start: int, length: int) -> bytes:
        """Up to ``length`` bytes from ``start``; fewer where the file ends.

        Raises:
            ImageError: as `read`.
        """
        with file_faults(self.path):
            descriptor, _ = self._open()
            try:
                os.lseek(descriptor, start, os.SEEK_SET)
                return _read(descriptor, length)
            finally:
                os.close(descriptor)

    def _open(self) -> tuple[int, int]:
        """A descriptor and the size. Asked twice: a device must not be opened, nor what took the file's place."""
        _check_kind(self.path, os.stat(self.path).st_mode)  # noqa: PTH116
        descriptor = os.open(self.path, _FLAGS)
        status = os.fstat(descriptor)
        try:
            _check_kind(self.path, status.st_mode)
        except ImageError:
            os.close(descriptor)
            raise
        return descriptor, status.st_size


def _read(descriptor: int, length: int) -> bytes:
    """Up to ``length`` bytes, in pieces: memory follows what comes and not what was asked for."""
    parts: list[bytes] = []
    while length > 0 and (part := os.read(descriptor, min(length, _CHUNK))):
        parts.append(part)
        length -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Something known to give no bytes."""

    type: ImageErrorType
    message: str
    source: str = ""

    def read(self, max_bytes: int) -> bytes:
        """See `Where`; always raises."""
        del max_bytes
        raise ImageError(self.type, self.message, source=self.source)


def failed(source: Source, failure: Failure) -> Item:
    """The item for a local name that is known to fail."""
    where = Unreadable(failure.type, failure.message, source.shown)
    return Item(source.shown, source.source_bytes, "", where, failure=failure, path=source.path)


def local_item(source: Source, status: os.stat_result | None = None) -> Item:
    """The item for a file; ``status`` of a regular one, as the system gave it a moment ago, if it did."""
    path = os.fspath(source.path)
    if status is None:
        try:
            with file_faults(path):
                status = os.stat(path)  # noqa: PTH116
                _check_kind(path, status.st_mode)
        except ImageError as error:
            return failed(source, Failure.of(error))
    return Item(source.shown, source.source_bytes, _signature(status), LocalFile(path), path=source.path)


def safe_name(name: str) -> tuple[str, str | None]:
    """`shown_name` of any text, also of one that no file of this machine could have."""
    try:
        return shown_name(name)
    except UnicodeEncodeError:
        raw = name.encode("utf-8", errors="surrogatepass")
        return raw.decode("utf-8", errors="replace"), base64.b64encode(raw).decode("ascii")


def skipped(source: str, reason: SkipReason, *, path: Path | None = None) -> Item:
    """The item for what is passed over."""
    where = Unreadable("not_image", f"{source!r} was passed over ({reason})", source)
    return Item(source, None, "", where, skipped=reason, path=path)


class Look:
    """Whether a found file is a picture, by its content: `is_image_file` that remembers what it saw.

    Opening a file tells its size and times as well, so that nothing is asked for twice.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._status: os.stat_result | None = None

    def __call__(self, path: Path) -> bool:
        self._path = None
        try:
            descriptor = os.open(path, _FLAGS)
            try:
                status = os.fstat(descriptor)
                head = os.read(descriptor, SNIFFED_BYTES) if stat.S_ISREG(status.st_mode) else b""
            finally:
                os.close(descriptor)
        except PermissionError:
            return has_picture_suffix(path.name)
        except (OSError, ValueError):
            return False
        if not stat.S_ISREG(status.st_mode):  # it took the file's place a moment ago
            return False
        self._path, self._status = path, status
        return is_picture(head)

    def item(self, source: Source) -> Item:
        """The item for what was looked at last, or for another file."""
        return local_item(source, self._status if self._path == source.path else None)


def has_picture_suffix(name: str) -> bool:
    """Whether a name ends like a picture's."""
    _, dot, suffix = name.rpartition(".")
    return f"{dot}{suffix}".lower() in IMAGE_SUFFIXES
