"""XMP sidecars: which file belongs to a picture, and the same tags inside a picture through exiftool.

Knows the two names that sidecars have and how a file is replaced. Refuses to know XMP
(`taglens.collection.writers.xmp`). A picture is opened only where embedding was asked for.

``photo.jpg.xmp`` is that picture's sidecar. ``photo.xmp`` is, if no other file of the folder is called ``photo.``
too (beside ``photo.cr2`` it is likelier the raw file's). Where both exist the full name, which cannot be mistaken, is
used.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from taglens.collection.rows_in import StoredRow
from taglens.collection.writers.choosing import Account, is_plain
from taglens.collection.writers.files import (
    Pictures,
    RowError,
    Taken,
    for_one,
    put,
    read_sidecar,
    require_folder,
    shown,
)
from taglens.collection.writers.text import Undone, is_model, sidecar_place
from taglens.collection.writers.xml_places import LONGEST, XmlError
from taglens.collection.writers.xmp import XmpForm, XmpTag, merged, models, unmerged
from taglens.errors import DataError, UsageError

XmpName = Literal["full", "stem"]
SUFFIX = ".xmp"
_PATIENCE = 120  # seconds for one picture


@dataclass(slots=True)
class Folder:
    """The names of the folder last looked at, so that a folder of many pictures is listed once."""

    path: Path | None = None
    stems: dict[str, int] = field(default_factory=dict)
    sidecars: dict[str, str] = field(default_factory=dict)

    def look(self, path: Path) -> None:
        """List a folder, unless it was the last one. One that cannot be listed counts as empty."""
        if path == self.path:
            return
        self.path, self.stems, self.sidecars = path, {}, {}
        try:
            names = [entry.name for entry in path.iterdir()]
        except OSError:
            names = []
        for name in names:
            self.add(name)

    def add(self, name: str) -> None:
        if name.lower().endswith(SUFFIX):
            self.sidecars.setdefault(name.casefold(), name)
        else:
            stem = Path(name).stem.casefold()
            if not name.lower().endswith(".txt"):
                self.stems[stem] = self.stems.get(stem, 0) + 1

    def is_shared(self, picture: Path) -> bool:
        """Whether another file of the folder has the same name before its suffix."""
        return self.stems.get(picture.stem.casefold(), 0) > 1

    def find(self, picture: Path) -> Path | None:
        """The sidecar that a picture has, by the rules at the top of this file."""
        self.look(picture.parent)
        full = self.sidecars.get((picture.name + SUFFIX).casefold())
        if full is not None:
            return picture.with_name(full)
        short = self.sidecars.get((picture.stem + SUFFIX).casefold())
        if short is not None and not self.is_shared(picture):
            return picture.with_name(short)
        return None

    def place(self, picture: Path, name: XmpName) -> Path:
        """The sidecar that a picture has or should get. Raises RowError where a new name would be another's."""
        there = self.find(picture)
        if there is not None:
            return there
        if name == "full":
            return picture.with_name(picture.name + SUFFIX)
        if self.is_shared(picture):
            raise RowError(f"would share {picture.stem}{SUFFIX} with another file; use --xmp-name full")
        return picture.with_name(picture.stem + SUFFIX)


def tags_of(row: StoredRow, account: Account) -> list[XmpTag]:
    """A row's tags as XMP takes them."""
    one = row.prediction
    tags = []
    for tag in one.tags or ():
        if is_plain(tag.name) and is_plain(tag.id):
            tags.append(XmpTag(tag.id, tag.name, tag.score, one.model, one.vocabulary))
        else:
            account.dropped["XML cannot hold its name"] += 1
    return tags


def write_xmp(
    rows: Iterable[StoredRow],
    out: Path | None,
    *,
    form: XmpForm,
    pictures: Pictures,
    account: Account,
    name: XmpName = "full",
) -> None:
    """Merge each row's tags into its picture's sidecar, beside it, or below ``out`` in the same folders.

    A sidecar that has them already is not touched. One that cannot be read is a failure, and left alone.
    """
    if name not in ("full", "stem"):
        raise UsageError(f"--xmp-name is {name!r}; expected full (photo.jpg.xmp) or stem (photo.xmp)")
    folder = Folder()
    with contextlib.closing(Taken()) as taken:
        for row in rows:
            source = row.prediction.source
            try:
                picture = sidecar_place(row, out, pictures=pictures)
                if out is not None:
                    require_folder(out, picture)
                place = folder.place(picture, name)
                if place == picture:
                    raise RowError(f"is called {shown(picture)} itself; it is left alone")
                if out is not None and name == "stem" and taken.claim(place, source) != source:
                    raise RowError(f"would share {shown(place)} with another picture; use --xmp-name full")
                changed = merge_file(place, tags_of(row, account), form)
            except RowError as error:
                account.fail(source, str(error))
                continue
            if place.name.casefold() not in folder.sidecars:
                folder.add(place.name)
            account.written += 1
            account.tags += len(row.prediction.tags or ())
            account.unchanged += not changed


def merge_file(place: Path, tags: list[XmpTag], form: XmpForm) -> bool:
    """Bring a sidecar up to date; whether it had to be written. Raises RowError."""
    before = read_sidecar(place, limit=LONGEST)
    if not tags:
        return False
    try:
        after = merged(before, tags, form)
    except XmlError as error:
        raise RowError(f"its sidecar {shown(place)} {error}; it is left alone") from None
    if after is None:
        return False
    try:
        put(place, after)
    except OSError as error:
        raise for_one(error, place) from None
    return True


def untag_xmp(place: Path, undone: Undone, *, model: str | None = None) -> None:
    """Take back what was added to one sidecar. A file that is no XMP, or has nothing of ours, is left alone.

    Raises:
        DataError: it cannot be read or written.
    """
    try:
        data = read_sidecar(place, limit=LONGEST)
        if data is None or b"taglens" not in data:
            return
        after, count = unmerged(data, _wanted(data, model))
        if not count:
            return
        if after is None:
            place.unlink()
            undone.removed += 1
        else:
            put(place, after)
            undone.restored += 1
    except (RowError, XmlError, OSError) as error:
        raise DataError(f"cannot take tags out of {shown(place)}: {error}") from None


def _wanted(data: bytes, model: str | None) -> list[str] | None:
    return None if model is None else [ref for ref in models(data) if is_model(ref, model)]


# -- inside pictures -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ExifTool:
    """The program exiftool, which changes metadata inside pictures and leaves their pixels and times alone."""

    program: str

    @classmethod
    def find(cls) -> ExifTool:
        """The installed one. Raises UsageError where there is none."""
        program = shutil.which("exiftool")
        if program is None:
            raise UsageError(
                "--embed writes into pictures through exiftool, which is not on the PATH; install it (package "
                "libimage-exiftool-perl, perl-image-exiftool or exiftool), or leave --embed out for sidecars"
            )
        return cls(program)

    def read(self, picture: Path) -> bytes | None:
        """The picture's XMP packet. Raises RowError."""
        return self._run(picture, ["-b", "-XMP"]) or None

    def write(self, picture: Path, packet: bytes | None) -> None:
        """Replace the packet (None: remove it), with the file's times kept. Raises RowError."""
        change = ["-XMP:all="] if packet is None else ["-XMP<=-"]
        self._run(picture, ["-P", "-overwrite_original", "-q", *change], given=packet)

    def _run(self, picture: Path, arguments: list[str], *, given: bytes | None = None) -> bytes:
        # No shell, and an absolute name: neither spaces nor a leading "-" mean anything. The empty -config keeps a
        # user's own configuration, which is a program, from being run.
        command = [self.program, "-config", "", *arguments, os.fspath(picture.absolute())]
        try:
            done = subprocess.run(  # noqa: S603
                command, input=given or b"", capture_output=True, timeout=_PATIENCE, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RowError(f"exiftool did not work on {shown(picture)}: {error}") from None
        if done.returncode:
            why = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no reason given"]
            raise RowError(f"exiftool refused {shown(picture)}: {why[0]}")
        return done.stdout


def embed_xmp(
    rows: Iterable[StoredRow], *, form: XmpForm, pictures: Pictures, account: Account, tool: ExifTool
) -> None:
    """Merge each row's tags into the XMP inside its picture."""
    for row in rows:
        try:
            picture = sidecar_place(row, None, pictures=pictures)
            if picture.is_symlink():
                raise RowError("is a link; it is left alone")
            tags = tags_of(row, account)
            try:
                after = merged(tool.read(picture), tags, form) if tags else None
            except XmlError as error:
                raise RowError(f"the XMP inside {error}; it is left alone") from None
            if after is not None:
                tool.write(picture, after)
        except RowError as error:
            account.fail(row.prediction.source, str(error))
            continue
        account.written += 1
        account.tags += len(row.prediction.tags or ())
        account.unchanged += after is None


def untag_embedded(picture: Path, undone: Undone, *, tool: ExifTool, model: str | None = None) -> None:
    """Take back what `embed_xmp` added to one picture. Raises DataError."""
    try:
        data = tool.read(picture)
        if data is None or b"taglens" not in data:
            return
        after, count = unmerged(data, _wanted(data, model))
        if count:
            tool.write(picture, after)
            undone.restored += after is not None
            undone.removed += after is None
    except (RowError, XmlError) as error:
        raise DataError(f"cannot take tags out of {shown(picture)}: {error}") from None
