"""Files that appear whole or not at all, and names that stay where they belong.

Knows temporary names, renaming, and how a row's file name is kept inside a folder. Refuses to know what is written.

A file is written beside its place and renamed into it, so that a kill leaves the old file or the new one. What
replaces a file of the user's reaches the disk before the rename.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from taglens.errors import UsageError
from taglens.inference.sources import shown_name

# What an export has written into a folder of its own.
INDEX = "taglens-export.json"


class RowError(Exception):
    """One row that cannot be written as asked; the others can."""


# Of these every row would suffer, so that going on is no use.
_FOR_ALL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})


def for_one(error: OSError, path: Path) -> RowError:
    """What kept one file from being written, as its row's failure; a full disk is raised again."""
    if error.errno in _FOR_ALL:
        raise error
    return RowError(f"cannot write {shown(path)}: {error.strerror or error}")


def is_there(path: Path) -> bool:
    """Whether there is a file; a name that the system cannot hold is none."""
    try:
        return path.is_file()
    except OSError:
        return False


def inside_file(path: Path) -> Path | None:
    """The file that a name treats as a folder, as the names of a tar's members do."""
    return next((each for each in path.parents if is_there(each)), None)


def in_archive(archive: Path) -> str:
    """What to tell of a picture in such a file."""
    return (
        f"is a member of {shown(archive)}, and members of tars are not read here; unpack it and tag the files"
    )


@contextlib.contextmanager
def appearing(path: Path) -> Iterator[BinaryIO]:
    """A stream whose content is at ``path`` once the block ends well, and nowhere if it does not.

    Raises:
        UsageError: ``path`` is a folder or a device, or lies in one that does not exist or cannot be written to.
    """
    if (path.exists() and not path.is_file()) or not path.parent.is_dir():
        raise UsageError(f"cannot write {path}: expected a file name in a folder that exists")
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        try:
            stream = beside.open("wb")
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror}; name another place") from None
        with stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        _keep_mode(path, beside)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def require_new(path: Path, *, overwrite: bool) -> None:
    """Raises UsageError where a file is there and was not to be replaced: it may be somebody's own."""
    if not overwrite and (path.is_file() or path.is_symlink()):
        raise UsageError(f"{path} is there already; name another file, or replace it: --overwrite")


@contextlib.contextmanager
def spill(beside: Path) -> Iterator[BinaryIO]:
    """A nameless file, on the disk of ``beside``, for what is written now and needed last."""
    with tempfile.TemporaryFile(dir=beside.parent) as stream:
        yield stream


def put(path: Path, content: bytes) -> None:
    """Put a small file in place at once. Raises OSError.

    The name beside it is always the same, so that what a kill leaves goes with the next file written there.
    """
    beside = path.with_name(".taglens.part")
    existed = path.exists()
    try:
        beside.unlink(missing_ok=True)
        with beside.open("xb") as stream:
            stream.write(content)
            if existed:
                stream.flush()
                os.fsync(stream.fileno())
        _keep_mode(path, beside)
        beside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


def _keep_mode(old: Path, new: Path) -> None:
    with contextlib.suppress(OSError):
        new.chmod(stat.S_IMODE(old.stat().st_mode))


def read_sidecar(path: Path, *, limit: int) -> bytes | None:
    """A sidecar's content, or None where there is none.

    Raises:
        RowError: what is there is a link, no plain file, too long or not readable.
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RowError(f"cannot look at {shown(path)}: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        raise RowError(f"{shown(path)} is a link or no plain file; it is left alone")
    if status.st_size > limit:
        raise RowError(f"{shown(path)} has {status.st_size} bytes, more than {limit}; it is left alone")
    try:
        return path.read_bytes()
    except OSError as error:
        raise RowError(f"cannot read {shown(path)}: {error.strerror}") from None


def shown(path: str | os.PathLike[str]) -> str:
    """A file name that can be printed and written in UTF-8."""
    return shown_name(os.fspath(path))[0]


# -- names -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pictures:
    """Where the pictures of rows are.

    Attributes:
        folder: what relative names of rows are relative to; None: the current folder. Where it is given, rows that
            lead out of it are refused.
    """

    folder: Path | None = None

    def find(self, path: str) -> Path:
        """The picture's file, as far as the name says. Raises RowError for one outside the given folder."""
        if self.folder is None:
            return Path(path)
        return self.folder / self.within(path)

    def within(self, path: str) -> str:
        """The name relative to the folder, with nothing that leads out of it; ``/`` between parts on every system.

        Raises:
            RowError: it lies elsewhere.
        """
        base = os.path.abspath(self.folder or Path())  # noqa: PTH100 - resolving links would change the names
        whole = os.path.normpath(os.path.join(base, path))  # noqa: PTH118
        try:
            inside = os.path.relpath(whole, base)
        except ValueError:  # another drive
            inside = os.pardir
        parts = Path(inside).parts
        if not parts or parts[0] in (os.pardir, os.curdir) or Path(inside).is_absolute():
            raise RowError(
                f"lies outside {shown(base)}; name the folder that holds all pictures: --pictures FOLDER"
            )
        return "/".join(parts)


class Taken:
    """Which picture got which file, in one export.

    Held in a file without a name that the system clears away, so that memory does not grow with the pictures. Raises
    OSError where that file cannot be written.
    """

    def __init__(self) -> None:
        import sqlite3  # here, because few exports need it

        self._full = sqlite3.Error
        self._names = sqlite3.connect("")
        self._names.execute("PRAGMA journal_mode = OFF")
        self._names.execute("CREATE TABLE taken (place BLOB PRIMARY KEY, source TEXT) WITHOUT ROWID")

    def claim(self, place: Path, source: str) -> str:
        """The source of the picture that had this file first: the given one, if none had."""
        name = os.fsencode(place)
        try:
            done = self._names.execute("INSERT OR IGNORE INTO taken VALUES (?, ?)", (name, source))
            if done.rowcount:
                return source
            (first,) = self._names.execute("SELECT source FROM taken WHERE place = ?", (name,)).fetchone()
        except self._full as error:
            raise OSError(
                errno.ENOSPC, f"cannot keep account of files in {tempfile.gettempdir()}: {error}"
            ) from None
        return str(first)

    def close(self) -> None:
        self._names.close()


def require_folder(folder: Path, path: Path) -> None:
    """Make the folders between ``folder`` and a file in it; none of them may be a link that leads elsewhere.

    Raises:
        RowError: one is, or a file is in the way.
    """
    try:
        # Looked at first: a link leads to where nothing may be made either.
        if path.parent.resolve().is_relative_to(folder.resolve()):
            path.parent.mkdir(parents=True, exist_ok=True)
            return
    except OSError as error:
        raise for_one(error, path.parent) from None
    raise RowError(f"{shown(path.parent)} leads out of {shown(folder)} through a link")
