"""Tar archives as a list of places: which bytes of the archive are which member.

Knows the ustar, GNU and pax headers, where each member's content lies, and what a cut archive still holds. Refuses
to know pixels and to write anything: a member is bytes, its name is a label that no file system ever sees.

Own headers and not `tarfile`: that keeps every member in memory, takes a damaged header for the end, and reads
headers of any size.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

from taglens.collection.items import (
    Item,
    LocalFile,
    Unreadable,
    has_picture_suffix,
    is_picture,
    refusal,
    safe_name,
    skipped,
    too_large,
)
from taglens.containers import SNIFFED_BYTES
from taglens.errors import ImageError, ImageErrorType
from taglens.inference.sources import SkipReason
from taglens.results import Failure

COMPRESSED: Final = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tar.lz4")
# gzip, bzip2, xz, zstd, lz4: names say less than first bytes.
_PACKED: Final = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18")

_BLOCK: Final = 512
# Longer ones would hold a name of a million letters.
_MAX_HEADER: Final = 1 << 20
# Archives joined end to end are read on across their end marks; nobody pads with more than this.
_MAX_PADDING: Final = 4 << 20
# What is asked for at once: a little where asking is cheap, much where it is a request.
_LOCAL_WINDOW: Final = 16 << 10
_REMOTE_WINDOW: Final = 8 << 20
_COPY_ANEW: Final = "copy or download it anew"

_OCTAL = re.compile(rb" *([0-7]*)[ \0]*", re.DOTALL)

EntryKind = Literal["file", "folder", "link", "special", "sparse"]


class Ranged(Protocol):
    """Something of which any part can be read; picklable."""

    @property
    def name(self) -> str:
        """As shown in messages and rows."""
        ...

    def size(self) -> int: ...
    def signature(self) -> str: ...
    def read_range(self, start: int, length: int) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Entry:
    """One member.

    Attributes:
        name: as stored; undecodable bytes as surrogates.
        offset, size: of its content, in bytes.
        check: CRC-32 of the block in front of the content.
    """

    name: str
    kind: EntryKind
    offset: int
    size: int
    check: int


@dataclass(frozen=True, slots=True)
class Rest:
    """From here on the archive cannot be read; always the last."""

    type: ImageErrorType
    found: str


class _DamagedError(Exception):
    """A header that says what cannot be; never leaves this file."""


@dataclass(frozen=True, slots=True)
class TarMember:
    """The bytes of one member.

    Attributes:
        archive: where they lie.
        name: the row's source.
        offset, size, check: see `Entry`.
    """

    archive: Ranged
    name: str
    offset: int
    size: int
    check: int

    def read(self, max_bytes: int) -> bytes:
        """See `taglens.collection.items.Where`. An archive that was replaced meanwhile is not_found."""
        if not self.size:
            raise refusal("empty", self.name, "has no content (0 bytes)", "pack the archive anew")
        wanted = self.size if self.size <= max_bytes else SNIFFED_BYTES
        data = self.archive.read_range(self.offset - _BLOCK, _BLOCK + wanted)
        if zlib.crc32(data[:_BLOCK]) != self.check:
            raise refusal(
                "not_found", self.name, "the archive was replaced meanwhile", "run the command again"
            )
        if self.size > max_bytes:
            raise too_large(self.name, data[_BLOCK:], size=self.size, max_bytes=max_bytes)
        if len(data) < _BLOCK + self.size:
            raise refusal("truncated", self.name, "the archive was cut meanwhile", _COPY_ANEW)
        return data[_BLOCK:]


class _Window:
    """The part of an archive that was read last."""

    def __init__(self, archive: Ranged, *, size: int, at_once: int) -> None:
        self.archive = archive
        self.size = size
        self.at_once = at_once
        self.start = 0
        self.data = b""

    def read(self, start: int, length: int) -> bytes:
        """Fewer bytes only at the archive's end."""
        length = max(0, min(length, self.size - start))
        if not self.start <= start or start + length > self.start + len(self.data):
            ahead = min(max(length, self.at_once), self.size - start)
            self.start, self.data = start, self.archive.read_range(start, ahead) if ahead > 0 else b""
        at = start - self.start
        return self.data[at : at + length]


def members(archive: Ranged) -> Iterator[Item]:
    """An archive's pictures, by content or by name, in its order; the rest as skipped; what is lost as one failure.

    Folders are passed over; a name that stands twice is given twice, the second as ``name#2``.
    """
    try:
        size = archive.size()
        signature = archive.signature()
        at_once = _LOCAL_WINDOW if isinstance(archive, LocalFile) else _REMOTE_WINDOW
        window = _Window(archive, size=size, at_once=at_once)
        head = window.read(0, _BLOCK)
        if head.startswith(_PACKED) and not _sums_up(head):
            yield lost(archive, compressed(archive.name))
            return
        given: set[str] = set()
        repeats: dict[str, int] = {}
        for entry in read_entries(window):
            if isinstance(entry, Rest):
                yield lost(archive, refusal(entry.type, archive.name, entry.found, _COPY_ANEW))
                return
            if entry.kind == "folder":
                continue
            reason = _reason(entry, window)
            if reason is not None:
                yield skipped(safe_name(f"{archive.name}/{entry.name}")[0], reason)
                continue
            name = entry.name
            if name in given:
                number = repeats.get(name, 1) + 1
                while f"{name}#{number}" in given:
                    number += 1
                repeats[name] = number
                name = f"{name}#{number}"
            given.add(name)
            yield _member(archive, name, entry, signature)
    except ImageError as error:
        yield lost(archive, error)


def _reason(entry: Entry, window: _Window) -> SkipReason | None:
    """Why a member is passed over, by the rules for what is found in a folder; None: it is given."""
    if any(part.startswith(".") and part not in (".", "..") for part in entry.name.split("/")):
        return "hidden"
    if entry.kind == "link":
        return "linked"
    if entry.kind == "special":
        return "not_image"
    if has_picture_suffix(entry.name):
        return None
    if entry.kind == "sparse" or not is_picture(window.read(entry.offset, min(entry.size, SNIFFED_BYTES))):
        return "not_image"
    return None


def _member(archive: Ranged, name: str, entry: Entry, signature: str) -> Item:
    whole = f"{archive.name}/{name}"
    source, raw = safe_name(whole)
    if entry.kind == "sparse":
        error = refusal(
            "unsupported", whole, "is stored with holes", "pack the archive anew, without --sparse"
        )
        where = Unreadable(error.type, str(error), source)
        return Item(source, raw, "", where, failure=Failure.of(error))
    own = f"{signature}:{entry.offset}:{entry.size}" if signature else ""
    return Item(source, raw, own, TarMember(archive, whole, entry.offset, entry.size, entry.check))


def lost(archive: Ranged, error: ImageError) -> Item:
    """The item for a file, or for what is lost of it, where pictures were to be found inside."""
    source, raw = safe_name(archive.name)
    path = Path(archive.path) if isinstance(archive, LocalFile) else None
    where = Unreadable(error.type, str(error), source)
    return Item(source, raw, "", where, failure=Failure.of(error), path=path)


def compressed(archive: str) -> ImageError:
    """The refusal of an archive that can only be read from its beginning."""
    cure = "unpack it to a plain .tar first (gunzip, bunzip2, unxz, unzstd)"
    return refusal("unsupported", archive, "members of a compressed archive cannot be read one by one", cure)


# -- headers ---------------------------------------------------------------------------------------


def read_entries(window: _Window) -> Iterator[Entry | Rest]:
    """Every member in order; a `Rest` where the archive is cut or damaged, or lacks its end mark.

    Raises:
        ImageError: the archive itself cannot be read.
    """
    position = found = 0
    try:
        while True:
            block = window.read(position, _BLOCK)
            if len(block) < _BLOCK:
                yield _stopped(window, found)
                return
            if not block.strip(b"\0"):
                behind = _behind_mark(window, position + _BLOCK)
                if behind is None:
                    return
                if behind - position > _MAX_PADDING:
                    yield Rest("truncated", f"holds only zeros after {found} members, as after a crash")
                    return
                position = behind
                continue
            entry, position = _entry(window, position)
            if entry is None:
                continue
            if entry.offset + entry.size > window.size:
                yield Rest("truncated", f"is cut inside member {found + 1} ({entry.name!r})")
                return
            found += 1
            yield entry
    except _DamagedError as error:
        if found or position:
            yield Rest("truncated", f"is damaged after {found} members, at byte {position:,}: {error}")
        else:
            yield Rest("not_image", f"is no tar archive ({error})")


def _stopped(window: _Window, found: int) -> Rest:
    if not window.size:
        return Rest("empty", "has no content (0 bytes)")
    return Rest("truncated", f"ends after {found} members without its end mark")


def _behind_mark(window: _Window, position: int) -> int | None:
    """Where another archive begins behind an end mark, or the first place beyond any padding; None: the end."""
    limit = position + _MAX_PADDING
    while position + _BLOCK <= window.size:
        if position >= limit:
            return position
        block = window.read(position, _BLOCK)
        if block.strip(b"\0"):
            return position if _sums_up(block) else None
        position += _BLOCK
    return None


def _entry(window: _Window, position: int) -> tuple[Entry | None, int]:
    """The member whose headers begin here (None: the headers describe none), and where the next ones do."""
    start = position
    long_name: bytes | None = None
    pax: dict[bytes, bytes] = {}
    while True:
        block = window.read(position, _BLOCK)
        if len(block) < _BLOCK:
            # Headers and no member: nothing that could be named.
            raise _DamagedError("it ends inside a header")
        if not _sums_up(block):
            raise _DamagedError("a header's checksum is wrong")
        kind = block[156:157]
        size = _number(block[124:136])
        content = position + _BLOCK
        position = content + _padded(size)
        if kind == b"L":
            long_name = _header(window, content, size).split(b"\0", 1)[0]
        elif kind in (b"x", b"X"):
            pax |= _records(_header(window, content, size))
        elif kind == b"g" or kind == b"K":
            if position > window.size:
                raise _DamagedError("it ends inside a header")
        else:
            break
        if position - start > 4 * _MAX_HEADER:
            raise _DamagedError("headers without end")
    if b"size" in pax:
        size = _decimal(pax[b"size"])
        position = content + _padded(size)
    name = pax.get(b"GNU.sparse.name", pax.get(b"path", long_name)) or _short_name(block)
    check = zlib.crc32(block)
    holes = any(key.startswith(b"GNU.sparse.") for key in pax)
    if kind == b"S":
        holes = True
        more = block[482]
        while more:
            extension = window.read(content, _BLOCK)
            if len(extension) < _BLOCK:
                raise _DamagedError("it ends inside a header")
            more, content, position = extension[504], content + _BLOCK, position + _BLOCK
    what: EntryKind
    match kind:
        case b"5" | b"D":
            what = "folder"
        case b"1" | b"2":
            # A hard link's size is that of the file that it names, of which nothing is stored here.
            what, position, size = "link", content, 0
        case b"3" | b"4" | b"6":
            what, position, size = "special", content, 0
        case b"V" | b"M" | b"N":
            what = "special"
        case b"\0" if name.endswith(b"/"):
            what = "folder"
        case _:
            what = "sparse" if holes else "file"
    if what == "folder" and kind != b"D":
        position, size = content, 0
    return Entry(os.fsdecode(name), what, content, size, check), position


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _sums_up(block: bytes) -> bool:
    """Whether a block is a header, by its checksum."""
    if len(block) < _BLOCK:
        return False
    try:
        stated = _number(block[148:156])
    except _DamagedError:
        return False
    unsigned = sum(block) - sum(block[148:156]) + 8 * ord(" ")
    if stated == unsigned:
        return True
    # Old writers added bytes above 127 as negative numbers.
    return stated == unsigned - 256 * sum(byte > 127 for byte in block[:148] + block[156:])


def _number(field: bytes) -> int:
    """Octal digits, or GNU's base 256 for what they cannot hold."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    if field[0] & 0x80:
        raise _DamagedError("a number below zero, or beyond any size")
    octal = _OCTAL.match(field)
    if octal is None or (octal.end() != len(field) and field[octal.end() - 1 : octal.end()] != b"\0"):
        raise _DamagedError(f"expected an octal number, found {field!r}")
    return int(octal[1] or b"0", 8)


def _decimal(text: bytes) -> int:
    if not re.fullmatch(rb"[0-9]{1,19}", text):
        raise _DamagedError(f"expected a size, found {text[:20]!r}")
    return int(text)


def _short_name(block: bytes) -> bytes:
    name = block[:100].split(b"\0", 1)[0]
    if block[257:263] == b"ustar\0":  # GNU's own form keeps times in the prefix's place
        prefix = block[345:500].split(b"\0", 1)[0]
        if prefix:
            return prefix + b"/" + name
    return name


def _header(window: _Window, content: int, size: int) -> bytes:
    if size > _MAX_HEADER:
        raise _DamagedError(f"a header of {size:,} bytes")
    data = window.read(content, size)
    if len(data) < size:
        raise _DamagedError("it ends inside a header")
    return data


def _records(data: bytes) -> dict[bytes, bytes]:
    """pax: ``LENGTH KEY=VALUE\\n``, one after another; the length counts the whole record."""
    records: dict[bytes, bytes] = {}
    at = 0
    while at < len(data) and data[at] != 0:
        space = data.find(b" ", at, at + 20)
        length = _decimal(data[at:space]) if space > at else 0
        record = data[space + 1 : at + length]
        key, equals, value = record.partition(b"=")
        if length < 5 or at + length > len(data) or not equals or not value.endswith(b"\n"):
            raise _DamagedError("a pax record that does not add up")
        records[key] = value[:-1]
        at += length
    return records
