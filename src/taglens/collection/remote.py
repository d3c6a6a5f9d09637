"""Pictures in buckets and on servers, through fsspec: one object, any part of one, folders and patterns.

Knows listings, and the same rules for them as for local folders (`taglens.inference.sources`), except that what is
found is judged by its name: looking inside would be a request each. Refuses to know any one service. Credentials
come from the environment or from the options given, and reach no message, row or signature; neither does what a
service says about an error, which may quote them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import TracebackType
from typing import Any, Final, Literal

from taglens.collection.addresses import scheme_of, shown_address
from taglens.collection.items import (
    Item,
    Unreadable,
    has_picture_suffix,
    refusal,
    safe_name,
    skipped,
    too_large,
)
from taglens.containers import SNIFFED_BYTES
from taglens.errors import ImageError, MissingExtraError, TaglensError, UsageError
from taglens.results import Failure

_MAGIC = re.compile(r"[*?\[]")
# What services call the mark that changes with an object, the surest first.
# fmt: off
_MARKS: Final = (
    "ETag", "etag", "version_id", "VersionId", "generation", "md5Hash", "md5", "content_md5", "mtime",
    "LastModified", "last_modified", "updated", "modified", "created",
)
# fmt: on
# A link on a server may lead back to a folder above it, and listings do not say so.
_MAX_DEPTH: Final = 100
_LATER: Final = "check the connection and try again"

Options = tuple[tuple[str, str], ...]


class _Faults:
    """Turns whatever a service's package raises into the contract's errors.

    Their errors have no base in common, and no text that is safe to show: only the type's name is.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        if isinstance(fault, Exception) and not isinstance(fault, TaglensError):
            raise self.error(fault) from None
        return False

    def error(self, fault: Exception) -> ImageError:
        kind = type(fault).__name__
        status = getattr(fault, "status", None) or getattr(fault, "code", None)
        if isinstance(fault, FileNotFoundError | NotADirectoryError) or str(status) in ("404", "410"):
            return refusal("not_found", self.name, "there is no such object", "check the spelling")
        if isinstance(fault, IsADirectoryError):
            return refusal("not_image", self.name, "is a directory", "name the pictures inside it")
        refused = str(status) in ("401", "403") or "Credential" in kind or "Auth" in kind
        if refused or isinstance(fault, PermissionError):
            found = f"may not be read with the credentials at hand ({kind})"
            return refusal(
                "permission", self.name, found, "set those of the environment, or the storage options"
            )
        if isinstance(fault, MemoryError):
            return refusal("too_large", self.name, "does not fit into memory", "scale it down")
        return refusal("truncated", self.name, f"reading broke off ({kind})", _LATER)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One object.

    Attributes:
        address: what the connection is made from; may hold secrets.
        path: the object, as its file system names it.
        name: as shown.
        options: for the file system; may hold secrets.
    """

    address: str = field(repr=False)
    path: str = field(repr=False)
    name: str
    options: Options = field(default=(), repr=False)

    def read(self, max_bytes: int) -> bytes:
        """See `taglens.collection.items.Where`."""
        try:
            data = self.read_range(0, max_bytes + 1)
        except ImageError as error:
            # Of an empty object some services have no part to give.
            if error.type != "truncated" or self._info().get("size") != 0:
                raise
            data = b""
        if not data:
            raise refusal("empty", self.name, "has no content (0 bytes)", "upload it anew")
        if len(data) > max_bytes:
            raise too_large(self.name, data[:SNIFFED_BYTES], size=len(data), max_bytes=max_bytes)
        return data

    def beside(self, name: str) -> RemoteFile:
        """Another object in the same folder."""
        path, shown = (own.rpartition("/")[0] + "/" + name for own in (self.path, self.name))
        return RemoteFile(self.address, path, shown, self.options)

    def _info(self) -> dict[str, Any]:
        with _Faults(self.name):
            info = connect(self.address, self.options)[0].info(self.path)
            if info.get("type") == "directory":
                raise IsADirectoryError
            return dict(info)

    def size(self) -> int:
        """Raises ImageError: as `read`, and unsupported where the service does not say."""
        size = self._info().get("size")
        if not isinstance(size, int):
            raise refusal(
                "unsupported", self.name, "the service does not say how long it is", "download it first"
            )
        return size

    def signature(self) -> str:
        return _signature(self._info())

    def read_range(self, start: int, length: int) -> bytes:
        """Up to ``length`` bytes from ``start``; fewer where the object ends.

        Raises:
            ImageError: as `read`.
        """
        if length <= 0:
            return b""
        with _Faults(self.name):
            system = connect(self.address, self.options)[0]
            return bytes(system.cat_file(self.path, start=start, end=start + length))


def require(address: str) -> None:
    """Make sure that what an address needs is installed; asks no service.

    Raises:
        MissingExtraError: no fsspec.
        UsageError: a scheme that fsspec does not know, or whose own package is missing; a chain of addresses.
    """
    scheme = scheme_of(address) or ""
    try:
        from fsspec.registry import get_filesystem_class, known_implementations
    except ImportError as error:
        raise MissingExtraError("fsspec", extra="remote", purpose=f"reading {scheme}:// addresses") from error
    if "::" in address:
        shown = shown_address(address.partition("::")[0])
        raise UsageError(f"{shown!r}: chains of addresses (::) are not read; name the place itself")
    try:
        get_filesystem_class(scheme)
    except ValueError as error:
        known = "s3://, gs://, az://, http:// and what else fsspec knows"
        raise UsageError(f"{shown_address(address)!r}: expected {known}, found {scheme}://") from error
    except ImportError as error:
        hint = str(known_implementations.get(scheme, {}).get("err", "")) or str(error)
        raise UsageError(f"reading {scheme}:// needs a package that is not installed: {hint}") from error


def connect(address: str, options: Options) -> tuple[Any, str]:
    """The fsspec file system of an address (fsspec keeps them), and the path on it.

    Raises:
        MissingExtraError, UsageError: as `require`. And whatever the service's package raises.
    """
    require(address)
    from fsspec.core import url_to_fs

    system, path = url_to_fs(address, **dict(options))
    return system, str(path)


def remote_file(address: str, options: Mapping[str, str]) -> RemoteFile:
    """An address taken for an object, unseen.

    Raises:
        ImageError: nothing can be at such an address.
        MissingExtraError, UsageError: as `connect`.
    """
    name = shown_address(address)
    given = tuple(options.items())
    with _Faults(name):
        return RemoteFile(address, connect(address, given)[1], name, given)


# -- listings --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Found:
    """An object in a listing; ``typed``: named by the user and not found."""

    file: RemoteFile
    signature: str
    typed: bool = False


def item_of(found: Found) -> Item:
    source, raw = safe_name(found.file.name)
    return Item(source, raw, found.signature, found.file)


def failed_item(name: str, error: ImageError) -> Item:
    source, raw = safe_name(name)
    return Item(
        source, raw, "", Unreadable(error.type, str(error), source), failure=Failure(error.type, str(error))
    )


def _signature(info: Mapping[str, Any]) -> str:
    size = info.get("size")
    mark = next((info[key] for key in _MARKS if info.get(key) not in (None, "")), None)
    if not isinstance(size, int) or mark is None:
        return ""
    return f"{size}:{str(mark).strip(chr(34))}"


def expand_address(address: str, options: Mapping[str, str]) -> Iterator[Found | Item]:
    """What an address names: one object, a folder or a pattern (``*``, ``?``, ``[…]``, ``**``).

    In order as `taglens.inference.sources.expand` has it. Folders are read one after another, so that what is held
    is the listing of those on the way to one object. Failures and what is passed over come as items.

    Raises:
        MissingExtraError, UsageError: as `connect`.
    """
    name = shown_address(address)
    given = tuple(options.items())
    try:
        with _Faults(name):
            system, path = connect(address, given)
            try:
                info = system.info(path)
            except FileNotFoundError:
                if not _MAGIC.search(path):
                    raise
                info = None
        if info is not None and info.get("type") != "directory":
            yield Found(RemoteFile(address, path, name, given), _signature(info), typed=True)
            return
    except ImageError as error:
        yield failed_item(name, error)
        return
    if info is not None:
        yield from _Search(address, given, system).walk(path, name.rstrip("/"))
        return
    fixed, wanted = _split(path)
    shown = shown_address("/".join(address.rstrip("/").split("/")[: -len(wanted)]))
    nothing = True
    for found in _Search(address, given, system, tuple(wanted)).walk(fixed, shown, states=frozenset({0})):
        nothing = False
        yield found
    if nothing:
        yield failed_item(name, refusal("not_found", name, "no object fits the pattern", "check the folder"))


def _split(path: str) -> tuple[str, list[str]]:
    """The folder that a pattern begins in, and the parts from the first magic one on."""
    parts = path.rstrip("/").split("/")
    first = next(index for index, part in enumerate(parts) if _MAGIC.search(part))
    return "/".join(parts[:first]), parts[first:]


# Which parts of a pattern may come next, by index; None: everything fits.
_States = frozenset[int] | None


@dataclass(frozen=True, slots=True)
class _Search:
    """What is looked for on one file system; ``pattern`` by parts."""

    address: str = field(repr=False)
    options: Options = field(repr=False)
    system: Any
    pattern: tuple[str, ...] = ()

    def walk(
        self, folder: str, shown: str, *, states: _States = None, depth: int = 1
    ) -> Iterator[Found | Item]:
        """Everything below a folder that fits, sorted by path parts."""
        try:
            with _Faults(shown):
                entries = self._listing(folder)
        except ImageError as error:
            # Where a pattern begins in no folder, the pattern is what fits nothing.
            if depth > 1 or states is None or error.type != "not_found":
                yield failed_item(shown, error)
            return
        for name, kind, path, signature in entries:
            own = f"{shown}/{name}"
            if states is None and name.startswith("."):
                yield skipped(safe_name(own)[0], "hidden")
                continue
            below, fits = (None, True) if states is None else self._step(states, name)
            if kind != "directory":
                if fits:
                    yield Found(RemoteFile(self.address, path, own, self.options), signature)
            elif fits or below:
                if depth == _MAX_DEPTH:
                    yield skipped(safe_name(own)[0], "too_deep")
                else:
                    yield from self.walk(path, own, states=None if fits else below, depth=depth + 1)

    def _listing(self, folder: str) -> list[tuple[str, str, str, str]]:
        """(name, type, path, signature) of everything in a folder, by name."""
        entries = self.system.ls(folder, detail=True)
        # fsspec would keep every listing for as long as the process lives.
        self.system.invalidate_cache(folder)
        inside = []
        for entry in entries:
            path = str(entry["name"]).rstrip("/")
            above, _, name = path.rpartition("/")
            # Not the folder's own marker, nor a name by which a server would lead elsewhere.
            if name not in ("", ".", "..") and above.strip("/") == folder.strip("/"):
                inside.append((name, str(entry.get("type")), path, _signature(entry)))
        return sorted(inside)

    def _step(self, states: frozenset[int], name: str) -> tuple[frozenset[int], bool]:
        """What may come below a name, and whether the name itself fits the whole pattern."""
        after: set[int] = set()
        for state in self._closed(states) - {len(self.pattern)}:
            part = self.pattern[state]
            if name.startswith(".") and not part.startswith("."):
                continue
            if part == "**":
                after.add(state)
            elif fnmatchcase(name, part):
                after.add(state + 1)
        closed = self._closed(after)
        return closed, len(self.pattern) in closed

    def _closed(self, states: Set[int]) -> frozenset[int]:
        """The states with those behind each ``**``, which may stand for no folder at all."""
        closed = set(states)
        for state in states:
            while state < len(self.pattern) and self.pattern[state] == "**":
                state += 1  # noqa: PLW2901
                closed.add(state)
        return frozenset(closed)


def judged(found: Found) -> Item:
    """A found object as an item: a picture by its name, or passed over; what was typed is always given."""
    if found.typed or has_picture_suffix(found.file.name):
        return item_of(found)
    return skipped(safe_name(found.file.name)[0], "not_image")
