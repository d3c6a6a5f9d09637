"""From what a person types to everything that a run must account for: one lazy, ordered stream of items.

Knows the kinds of argument and which part of the package reads each. Refuses to know pixels and what becomes of an
item. Nothing is held but the way to the item at hand: the listing of one folder, the names in one archive.

- Files, folders and patterns follow the rules of `taglens.inference.sources`.
- ``X.tar`` that is typed, or fits a pattern that ends in ``.tar``, gives its members as ``X.tar/MEMBER``: those
  that are pictures by content or by suffix. Found in a folder it is no picture, and passed over.
- A list (``@FILE``, or a name that ends like one: `taglens.collection.lists`) gives a picture a row. A relative
  name is relative to the list; in rows that taglens wrote it is as it was typed there. The rules for patterns are
  those for archives.
- ``scheme://…`` goes through `taglens.collection.remote`, and http and https through `taglens.collection.web`;
  ``file://`` is a path. Addresses stand in sources and messages without passwords and signatures.
- ``{000..009}`` and ``{a,b}`` stand for each of their names, in order, unless a file is named so.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from taglens.collection import remote
from taglens.collection.addresses import WEB, file_part, local_path, scheme_of, shown_address
from taglens.collection.items import (
    Item,
    LocalFile,
    Look,
    Unreadable,
    Where,
    failed,
    local_item,
    refusal,
    safe_name,
    signature_of,
    skipped,
)
from taglens.collection.lists import Form, Name, list_form, named_form, read_names
from taglens.collection.tars import COMPRESSED, Ranged, TarMember, compressed, lost, members
from taglens.collection.web import WebFile
from taglens.errors import ImageError, UsageError
from taglens.images import IMAGE_SUFFIXES
from taglens.inference.sources import Skipped, Source, Unopened, expand, shown_name
from taglens.results import Failure

__all__ = ["Item", "Where", "braces", "open_inputs", "signature_of"]

_MAGIC = re.compile(r"[*?\[]")
_RANGE = re.compile(r"(-?\d{1,18})\.\.(-?\d{1,18})(?:\.\.(\d{1,18}))?", re.ASCII)
_INTO_TAR = re.compile(r"\.tar/", re.IGNORECASE)
_LIST_BUFFER = 1 << 20


def open_inputs(
    arguments: Sequence[str],
    *,
    column: str | None = None,
    storage_options: Mapping[str, str] | None = None,
) -> Iterator[Item]:
    """Everything that the arguments name, in order, one after another.

    Args:
        column: which column of every list holds the pictures; None: see `taglens.collection.lists.COLUMNS`.
        storage_options: for fsspec's file systems, beside what the environment says.

    Raises:
        UsageError: at once: a list that was typed has no such column, or ``column`` and no list; a scheme that
            nothing installed reads. Later: the same of a list that only a pattern names.
        DataError: a list is not what its name says; when, as before.
        MissingExtraError: an address and no fsspec, a Parquet list and no pyarrow; when, as before.
    """
    if isinstance(arguments, str):
        arguments = [arguments]
    inputs = _Inputs(column, dict(storage_options or {}))
    if column is not None and not any(_list_of(argument) for argument in arguments):
        raise UsageError(f"column {column!r} is for lists of pictures, and none is given: name one (@FILE)")
    for argument in arguments:
        inputs.check(argument)
    return (item for argument in arguments for item in inputs.of(argument))


def braces(name: str) -> Iterator[str]:
    """Every name that ``{000..009}`` (zeros kept, ``..STEP``) and ``{a,b}`` stand for; others stay as they are.

    As in shells: the leftmost varies slowest, and braces may stand inside braces.
    """
    for start in (match.start() for match in re.finditer(r"\{", name)):
        end = _closing(name, start)
        choices = None if end is None else _choices(name[start + 1 : end])
        if end is not None and choices is not None:
            for choice in choices:
                for rest in braces(name[end + 1 :]):
                    yield name[:start] + choice + rest
            return
    yield name


def _closing(name: str, start: int) -> int | None:
    """Where the brace that opens at ``start`` is closed."""
    depth = 0
    for match in re.finditer(r"[{}]", name[start:]):
        depth += 1 if match[0] == "{" else -1
        if not depth:
            return start + match.start()
    return None


def _choices(inside: str) -> Iterator[str] | None:
    """What the inside of a pair of braces stands for; None: for nothing but itself."""
    depth, ends = 0, []
    for match in re.finditer(r"[{},]", inside):
        depth += {"{": 1, "}": -1, ",": 0}[match[0]]
        if match[0] == "," and not depth:
            ends.append(match.start())
    if ends:
        starts = [0, *(end + 1 for end in ends)]
        parts = (inside[start:end] for start, end in zip(starts, [*ends, len(inside)], strict=True))
        return (name for part in parts for name in braces(part))
    bounds = _RANGE.fullmatch(inside)
    if bounds is None:
        return None
    first, last, step = int(bounds[1]), int(bounds[2]), int(bounds[3] or 1) or 1
    padded = any(
        text.lstrip("-").startswith("0") and len(text.lstrip("-")) > 1 for text in bounds.group(1, 2)
    )
    width = max(len(bounds[1]), len(bounds[2])) if padded else 0
    numbers = range(first, last + 1, step) if first <= last else range(first, last - 1, -step)
    return (f"{number:0{width}d}" for number in numbers)


@dataclass(frozen=True, slots=True)
class _List:
    """A list as typed: its name without the ``@``."""

    name: str
    form: Form


def _list_of(argument: str) -> _List | None:
    """The list that an argument names, by its letters alone.

    Raises:
        UsageError: ``@FILE`` that ends like something else.
    """
    if argument.startswith("@") and len(argument) > 1 and not os.path.lexists(argument):
        name = argument[1:]
        return _List(name, named_form(file_part(shown_address(name) if scheme_of(name) else name)))
    form = list_form(file_part(argument))
    return _List(argument, form) if form is not None else None


def _is_sidecar(name: str, form: Form) -> bool:
    """Whether a text stands beside the picture it tells of: ``photos/*`` names both, and means the pictures."""
    if form != "lines":
        return False
    stem = Path(name).with_suffix("")
    return stem.suffix.lower() in IMAGE_SUFFIXES or any(
        stem.with_name(stem.name + suffix).is_file() for suffix in IMAGE_SUFFIXES
    )


def _is_pattern(name: str) -> bool:
    """Whether a local name is one: nothing that exists is."""
    return bool(_MAGIC.search(name)) and not os.path.lexists(name)


@dataclass(frozen=True, slots=True)
class _Inputs:
    column: str | None
    options: dict[str, str] = field(repr=False)

    def check(self, argument: str) -> None:
        """Refuse at once what can be known to be meant in no way."""
        scheme = scheme_of(argument.removeprefix("@"))
        if scheme not in WEB and scheme is not None and local_path(argument.removeprefix("@")) is None:
            remote.require(argument.removeprefix("@"))
        wanted = _list_of(argument)
        if wanted is None:
            return
        # The first of several tells what the others are like.
        first = next(self._names(wanted.name))
        local = first if scheme is None else local_path(first)
        # What cannot be opened becomes an item in its place.
        if local is not None and Path(local).is_file():
            with suppress(ImageError), _opened(LocalFile(local)) as file:
                read_names(file, wanted.form, shown=repr(local), column=self.column)

    def of(self, argument: str) -> Iterator[Item]:
        """The items of one argument."""
        wanted = _list_of(argument)
        typed = argument if wanted is None else wanted.name
        for name in self._names(typed):
            path = local_path(name)
            if wanted is not None and not argument.startswith("@") and _is_sidecar(name, wanted.form):
                yield skipped(shown_name(name)[0], "not_image", path=Path(name))
            elif path is None and scheme_of(name) is not None:
                yield from self._remote(name, wanted.form if wanted else None)
            else:
                yield from self._local(name if path is None else path, wanted.form if wanted else None)

    def _names(self, typed: str) -> Iterator[str]:
        return iter([typed]) if os.path.lexists(typed) else braces(typed)

    # -- on this machine ---------------------------------------------------------------------------

    def _local(self, name: str, form: Form | None) -> Iterator[Item]:
        opener = self._opener(name, form)
        if os.path.isdir(name):  # noqa: PTH112
            opener = None
        if opener is not None and name and not _is_pattern(name):
            yield from opener(LocalFile(name))
            return
        look = Look()
        for found in expand([name], is_image=look):
            if isinstance(found, Unopened):
                yield failed(found.source, found.failure)
            elif opener is not None and _opens(name, found):
                yield from opener(LocalFile(os.fspath(found.path)))
            elif isinstance(found, Source):
                yield look.item(found)
            else:
                yield skipped(found.shown, found.reason, path=found.path)

    def _opener(self, name: str, form: Form | None) -> Callable[[Ranged], Iterator[Item]] | None:
        """What reads a file whose name ends like this, where it is no picture."""
        if form is not None:
            return lambda file: self._listed(file, form)
        lower = file_part(name).lower()
        if lower.endswith(COMPRESSED):
            return lambda file: iter([lost(file, compressed(file.name))])
        return members if lower.endswith(".tar") else None

    # -- elsewhere ---------------------------------------------------------------------------------

    def _remote(self, address: str, form: Form | None) -> Iterator[Item]:
        opener = self._opener(address, form)
        if scheme_of(address) in WEB:
            web = WebFile(address)
            if opener is not None:
                yield from opener(web)
            else:
                yield _on_the_web(web)
            return
        for found in remote.expand_address(address, self.options):
            if isinstance(found, Item):
                yield found
            elif opener is not None and (found.typed or found.file.name.lower().endswith(_ending(address))):
                yield from opener(found.file)
            else:
                yield remote.judged(found)

    # -- lists -------------------------------------------------------------------------------------

    def _listed(self, file: Ranged, form: Form) -> Iterator[Item]:
        try:
            with _opened(file) as opened:
                archives = _Archives()
                for name in read_names(opened, form, shown=repr(file.name), column=self.column):
                    if name.text is None:
                        yield _faulty(file, name)
                    else:
                        yield self._row(file, name.text, archives, typed=name.typed)
        except ImageError as error:
            yield lost(file, error)

    def _row(self, file: Ranged, name: str, archives: _Archives, *, typed: bool) -> Item:
        """A row's picture; ``typed``: its name is not relative to the list."""
        path = local_path(name)
        if path is None and scheme_of(name) is not None:
            return self._elsewhere(name)
        if isinstance(file, remote.RemoteFile) and not typed:
            return remote.item_of(remote.Found(file.beside(name), ""))
        if isinstance(file, WebFile) and not typed:
            return _on_the_web(file.beside(name))
        if path is None:
            folder = "" if typed else os.path.dirname(file.name)  # noqa: PTH120
            path = os.path.join(folder, name)  # noqa: PTH118
        return archives.member(path) or local_item(Source.of(path))

    def _elsewhere(self, address: str) -> Item:
        """A picture elsewhere, without asking whether it is there."""
        if scheme_of(address) in WEB:
            return _on_the_web(WebFile(address))
        try:
            return remote.item_of(remote.Found(remote.remote_file(address, self.options), ""))
        except ImageError as error:
            return remote.failed_item(shown_address(address), error)


def _on_the_web(file: WebFile) -> Item:
    source, raw = safe_name(file.name)
    return Item(source, raw, "", file)


def _faulty(file: Ranged, name: Name) -> Item:
    """The item for a row without a name, and for what is lost of a list that breaks off."""
    source, raw = safe_name(f"{file.name}#{name.row}")
    message = f"{file.name!r}, row {name.row}: {name.fault}; correct the list"
    failure = Failure("truncated" if name.broken else "not_found", message)
    return Item(source, raw, "", Unreadable(failure.type, message, source), failure=failure)


class _Archives:
    """Members named in a list as ``X.tar/MEMBER``; knows the archive that was asked for last."""

    def __init__(self) -> None:
        self._name = ""
        self._items: dict[str, Item] = {}

    def member(self, path: str) -> Item | None:
        """The item, maybe a failure; None: the path leads into no archive."""
        for match in _INTO_TAR.finditer(path):
            name = path[: match.end() - 1]
            if not os.path.isfile(name):  # noqa: PTH113 - a name with a zero byte is none
                continue
            if name != self._name:
                found = members(LocalFile(name))
                self._items = {item.where.name: item for item in found if isinstance(item.where, TarMember)}
                self._name = name
            if path in self._items:
                return self._items[path]
            error = refusal("not_found", path, "the archive has no such picture", "check the spelling")
            return failed(Source.of(path), Failure.of(error))
        return None


class _RangedFile(io.RawIOBase):
    """Anything whose parts can be read, as a file to be read from the front."""

    def __init__(self, file: Ranged) -> None:
        self._file = file
        self._size = file.size()
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._file.read_range(self._at, min(len(buffer), max(0, self._size - self._at)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


@contextmanager
def _opened(file: Ranged) -> Iterator[IO[bytes]]:
    """Raises ImageError: it cannot be read."""
    with io.BufferedReader(_RangedFile(file), _LIST_BUFFER) as opened:
        yield opened


def _opens(pattern: str, found: Source | Skipped) -> bool:
    """Whether a file that fits a pattern is of the kind that the pattern ends like."""
    if isinstance(found, Skipped) and found.reason != "not_image":
        return False
    return found.path.name.lower().endswith(_ending(pattern))


def _ending(pattern: str) -> str:
    """``.tar`` of ``shards/*.tar``; of ``*.csv.gz`` both suffixes."""
    name = pattern.lower().rpartition("/")[2]
    return next((end for end in (*COMPRESSED, ".tar") if name.endswith(end)), None) or _list_ending(name)


def _list_ending(name: str) -> str:
    packed = ".gz" if name.endswith(".gz") else ""
    return os.path.splitext(name.removesuffix(packed))[1] + packed  # noqa: PTH122
