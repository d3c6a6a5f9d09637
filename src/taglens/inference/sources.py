"""From what a person types to single pictures: files, folders, patterns.

Knows file names, folders, links and patterns, and how a name that is not UTF-8 is shown. Refuses to know what
is inside a picture (`taglens.images` says whether a file is one) and never opens a picture itself.

The rules, each of which a caller may rely on:

- What is typed is kept as typed: ``./a.jpg`` stays ``./a.jpg``; a picture found in a folder is shown as the
  folder as typed, joined with the relative path.
- A name that exists is that file, even if it looks like a pattern (``photo[1].jpg``).
- Arguments keep their order. Inside a folder or a pattern, pictures come sorted by path, part by part.
- A file that is typed is always given, whatever it holds. A file that is *found* (in a folder, by a pattern)
  is given if it is an image, and reported as skipped if not.
- Names that begin with a dot are hidden: folders skip and report them (previews, ``._`` twins, bins),
  patterns pass over them unless the pattern begins with a dot too. Typing such a name gives it.
- Links to files are followed. A link to a folder is followed once, and not at all if it leads back into the
  folder that is being walked: its pictures are given at their own place. So links that form a circle end.
- A folder that cannot be listed, and a pattern that fits nothing, are reported as `Unopened`.
"""

from __future__ import annotations

import base64
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

from taglens.errors import UsageError
from taglens.images import IMAGE_SUFFIXES, is_image_file
from taglens.results import Failure

SkipReason = Literal["not_image", "hidden", "linked", "too_deep"]
IsImage = Callable[[Path], bool]

_MAGIC = re.compile(r"[*?\[]")
_SEPARATORS = re.compile("[" + re.escape(os.sep + (os.altsep or "")) + "]+")


def shown_name(name: str) -> tuple[str, str | None]:
    """A file name fit for a JSON line, and its bytes in base64 where that loses something.

    Bytes that are not UTF-8 (surrogates in Python's file names) become U+FFFD, and only then is the second
    value not None.
    """
    raw = os.fsencode(name)
    shown = raw.decode("utf-8", errors="replace")
    if os.fsencode(shown) == raw:
        return shown, None
    return shown, base64.b64encode(raw).decode("ascii")


@dataclass(frozen=True, slots=True)
class Source:
    """One picture to be read.

    Attributes:
        path: for opening; may hold undecodable bytes as surrogates.
        shown: the row's ``source``.
        source_bytes: the typed name's bytes in base64 where ``shown`` had to replace some, else None.
        explicit: named by the user, rather than found in a folder or by a pattern.
    """

    path: Path
    shown: str
    source_bytes: str | None = None
    explicit: bool = True

    @classmethod
    def of(cls, name: str | os.PathLike[str], *, explicit: bool = True) -> Source:
        """A name as typed."""
        typed = os.fsdecode(name)
        shown, raw = shown_name(typed)
        return cls(Path(typed), shown, raw, explicit)


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something found that is passed over; ``shown`` as in `Source`."""

    path: Path
    shown: str
    reason: SkipReason


@dataclass(frozen=True, slots=True)
class Unopened:
    """A folder that cannot be listed (``permission``) or a name that leads to nothing (``not_found``)."""

    source: Source
    failure: Failure


Found = Source | Skipped | Unopened


def expand(
    arguments: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    max_depth: int | None = None,
    is_image: IsImage = is_image_file,
) -> Iterator[Found]:
    """What the arguments name, lazily and in order, by the rules at the top of this file.

    Args:
        arguments: files, folders, patterns (``*``, ``?``, ``[…]``, and ``**`` for any number of folders).
        max_depth: how many folders deep to go (1: only the folder itself); None: no limit.
        is_image: decides about found files.

    Raises:
        UsageError: ``max_depth`` is less than 1.
    """
    if max_depth is not None and max_depth < 1:
        raise UsageError(f"max_depth must be 1 or more, or None for no limit; found {max_depth}")
    if isinstance(arguments, str | os.PathLike):
        arguments = [arguments]
    for argument in arguments:
        typed = os.fsdecode(argument)
        if not typed:
            # An empty name would be read as the current folder: never tag that by accident.
            yield Unopened(Source(Path(), ""), Failure("not_found", "an empty file name (check the quoting)"))
        elif os.path.isdir(typed):  # noqa: PTH112 - Path would drop a leading "./"
            yield from _folder(typed, max_depth, is_image)
        elif os.path.lexists(typed) or not _MAGIC.search(typed):
            yield Source.of(typed)
        else:
            yield from _pattern(typed, max_depth, is_image)


# -- folders ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Place:
    """One step of a walk: a folder about to be entered, a file, or something to report."""

    path: str
    kind: Literal["folder", "file", "report"]
    report: Skipped | Unopened | None = None


def _skipped(path: str, reason: SkipReason) -> Skipped:
    return Skipped(Path(path), shown_name(path)[0], reason)


def _locked(path: str, error: OSError) -> Unopened:
    name = Source.of(path, explicit=False)
    why = error.strerror or type(error).__name__
    message = f"cannot list folder {name.shown}: {why}; check its permissions (reading and entering)"
    return Unopened(name, Failure("permission", message))


def _listing(folder: str) -> list[tuple[str, bool, bool]]:
    """(name, is a folder, is a link) of everything in a folder, by name. Raises OSError."""
    found: list[tuple[str, bool, bool]] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                found.append((entry.name, entry.is_dir(), entry.is_symlink()))
            except OSError:
                # A link whose end cannot be reached: a file as far as can be known.
                found.append((entry.name, False, True))
    return sorted(found)


def _leads_back(link: str, root: str) -> bool:
    """Whether a linked folder lies, not hidden, inside the folder that is being walked."""
    inside = os.path.relpath(os.path.realpath(link), root)
    parts = Path(inside).parts
    if os.pardir in parts:
        return False
    return inside == os.curdir or not any(part.startswith(".") for part in parts)


def _walk(top: str, max_depth: int | None) -> Iterator[_Place]:
    """Everything below a folder, itself first; sorted by path parts; each real folder at most once."""
    root = os.path.realpath(top)
    entered: set[tuple[int, int]] = set()
    waiting: list[tuple[_Place, int]] = [(_Place(top, "folder"), 1)]
    while waiting:
        place, depth = waiting.pop()
        if place.kind != "folder":
            yield place
            continue
        if max_depth is not None and depth > max_depth:
            yield _Place(place.path, "report", _skipped(place.path, "too_deep"))
            continue
        try:
            status = os.stat(place.path)  # noqa: PTH116
            identity = (status.st_dev, status.st_ino)
            if identity in entered:
                yield _Place(place.path, "report", _skipped(place.path, "linked"))
                continue
            listing = _listing(place.path)
        except OSError as error:
            yield _Place(place.path, "report", _locked(place.path, error))
            continue
        entered.add(identity)
        yield place
        inside: list[tuple[_Place, int]] = []
        for name, is_folder, is_link in listing:
            path = os.path.join(place.path, name)  # noqa: PTH118
            if name.startswith("."):
                step = _Place(path, "report", _skipped(path, "hidden"))
            elif is_folder and is_link and _leads_back(path, root):
                step = _Place(path, "report", _skipped(path, "linked"))
            else:
                step = _Place(path, "folder" if is_folder else "file")
            inside.append((step, depth + 1))
        waiting.extend(reversed(inside))


def _folder(top: str, max_depth: int | None, is_image: IsImage) -> Iterator[Found]:
    for place in _walk(top, max_depth):
        if place.report is not None:
            yield place.report
        elif place.kind == "file":
            yield _found(place.path, is_image)


def _found(path: str, is_image: IsImage) -> Source | Skipped:
    """A file that nobody named: an image, or passed over."""
    file = Path(path)
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        # A link to nothing, which its owner wants to know if a picture got lost.
        image = file.suffix.lower() in IMAGE_SUFFIXES
    else:
        # Pipes and devices are never opened: reading one would wait for ever. An empty file has no content to
        # tell.
        image = stat.S_ISREG(status.st_mode) and (
            is_image(file) if status.st_size else file.suffix.lower() in IMAGE_SUFFIXES
        )
    return Source(file, *shown_name(path), explicit=False) if image else _skipped(path, "not_image")


# -- patterns --------------------------------------------------------------------------------------


def _pattern(typed: str, max_depth: int | None, is_image: IsImage) -> Iterator[Found]:
    """What a pattern fits; each path once, though both a folder and its files may fit."""
    drive, rest = os.path.splitdrive(typed)
    parts = [part for part in _SEPARATORS.split(rest) if part]
    anchor = drive + (os.sep if _SEPARATORS.match(rest) else "")
    fits: list[str] = []
    nothing = True
    for match in _fitting(anchor, parts):
        if isinstance(match, Unopened):
            nothing = False
            yield match
        else:
            fits.append(match)
    if not fits and nothing:
        name = Source.of(typed)
        message = f"no file fits the pattern {name.shown}; check the folder and the quoting"
        yield Unopened(name, Failure("not_found", message))
        return
    given: set[Path] = set()
    for match in sorted(fits, key=_SEPARATORS.split):
        is_folder = os.path.isdir(match)  # noqa: PTH112
        items: Iterable[Found] = (
            _folder(match, max_depth, is_image) if is_folder else [_found(match, is_image)]
        )
        for item in items:
            path = item.source.path if isinstance(item, Unopened) else item.path
            if path not in given:
                given.add(path)
                yield item


def _fitting(base: str, parts: list[str]) -> Iterator[str | Unopened]:
    """Paths below ``base`` that fit the remaining parts of a pattern."""
    if not parts:
        yield base
        return
    head, rest = parts[0], parts[1:]
    if not _MAGIC.search(head):
        path = os.path.join(base, head)  # noqa: PTH118
        if os.path.lexists(path):
            yield from _fitting(path, rest)
        return
    folder = base or os.curdir
    if not os.path.isdir(folder):  # noqa: PTH112
        return
    if head == "**":
        if not rest:
            yield folder
            return
        for place in _walk(folder, None):
            if isinstance(place.report, Unopened):
                yield place.report
            elif place.kind == "folder":
                # The current folder has no name of its own in what is shown.
                below = place.path if base else os.path.relpath(place.path, folder)
                yield from _fitting("" if below == os.curdir else below, rest)
        return
    try:
        listing = _listing(folder)
    except OSError as error:
        yield _locked(folder, error)
        return
    for name, is_folder, _ in listing:
        hidden = name.startswith(".") and not head.startswith(".")
        if not hidden and fnmatch(name, head) and (is_folder or not rest):
            yield from _fitting(os.path.join(base, name), rest)  # noqa: PTH118
