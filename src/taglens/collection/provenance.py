"""What an export added to text files, so that it can be taken back: one hidden journal per folder.

Knows the journal's lines and how a file goes back to what it was. Refuses to know how tags become text
(`taglens.collection.writers.text`) and XMP, which carries its own provenance.

    FOLDER/.taglens-export.jsonl    a line per file written, before it is written; oldest first

A line holds what the file was before, the sum of what it became, and which pieces were added by which model.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from taglens.collection.writers.files import put
from taglens.errors import DataError
from taglens.inference.sources import shown_name
from taglens.results import to_line

JOURNAL = ".taglens-export.jsonl"
SUFFIX = ".txt"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True, slots=True)
class Entry:
    """One writing of one file.

    Attributes:
        name: the file's name in its folder, as the system spells it.
        before: its content before; None: there was no file.
        after: sha256 of its content after.
        added: the pieces that were not there before.
        separator: what stands between pieces.
        model, vocabulary: ``name@fingerprint`` of what gave the tags.
        tags: ``{"id", "name", "score"}`` of each added tag.
        replaced: what was there before is not part of what came after.
    """

    name: str
    before: bytes | None
    after: str
    added: tuple[str, ...]
    separator: str
    model: str
    vocabulary: str
    tags: tuple[Mapping[str, Any], ...] = ()
    replaced: bool = False

    def to_line(self) -> str:
        shown, raw = shown_name(self.name)
        row: dict[str, Any] = {"file": shown}
        if raw is not None:
            row["file_bytes"] = raw
        row |= {
            **_content(self.before),
            "replaced": self.replaced,
            "after_sha256": self.after,
            "added": list(self.added),
            "separator": self.separator,
            "model": self.model,
            "vocabulary": self.vocabulary,
            "tags": [dict(tag) for tag in self.tags],
            "taglens_export": 1,  # last: by it a line is known to be whole
        }
        return to_line(row)

    @classmethod
    def of(cls, line: bytes) -> Entry:
        """Raises ValueError, KeyError or TypeError for a line that is none."""
        row = json.loads(line)
        if row["taglens_export"] != 1:
            raise ValueError(f"of another release ({row['taglens_export']})")
        raw = row.get("file_bytes")
        name = row["file"] if raw is None else os.fsdecode(base64.b64decode(raw))
        if (
            not name
            or name in (".", "..")
            or any(mark in name for mark in ("/", "\0", os.sep, os.altsep or "/"))
        ):
            raise ValueError(f"names {name!r}, which is no file of this folder")
        if not name.lower().endswith(SUFFIX):
            # Taking back may delete: a journal from elsewhere must not reach what no export writes.
            raise ValueError(f"names {name!r}, which is no {SUFFIX} file")
        before = row["before"]
        if before is None and "before_bytes" in row:
            content: bytes | None = base64.b64decode(row["before_bytes"])
        else:
            content = None if before is None else before.encode()
        return cls(
            name=name,
            before=content,
            after=str(row["after_sha256"]),
            added=tuple(map(str, row["added"])),
            separator=str(row["separator"]),
            model=str(row["model"]),
            vocabulary=str(row["vocabulary"]),
            tags=tuple(row["tags"]),
            replaced=bool(row["replaced"]),
        )


def _content(before: bytes | None) -> dict[str, Any]:
    if before is None:
        return {"before": None}
    try:
        return {"before": before.decode()}
    except UnicodeDecodeError:
        return {"before": None, "before_bytes": base64.b64encode(before).decode("ascii")}


def note(folder: Path, entry: Entry) -> None:
    """Add a line, before the file is written. What a kill left of an earlier line is closed first. Raises OSError."""
    if (folder / JOURNAL).is_symlink():
        raise OSError(errno.ELOOP, f"{JOURNAL} is a link, and links are not followed; remove it")
    with (folder / JOURNAL).open("ab+") as journal:
        line = (entry.to_line() + "\n").encode()
        if journal.tell():
            journal.seek(-1, os.SEEK_END)
            if journal.read(1) != b"\n":
                line = b"\n" + line
        journal.write(line)
        journal.flush()
        if entry.before is not None:
            os.fsync(journal.fileno())


@dataclass(slots=True)
class Journal:
    """A folder's lines, found by file; only where they stand is held in memory."""

    folder: Path
    _places: dict[str, list[int]] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path) -> Journal:
        """The journal of a folder; empty where there is none.

        Raises:
            DataError: a line that is none. One that a kill cut is passed over: its file was never written.
        """
        journal = cls(folder)
        for place, line in journal._lines():
            try:
                journal._places.setdefault(Entry.of(line).name, []).append(place)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                if _is_cut(line):
                    continue
                raise DataError(
                    f"{folder / JOURNAL}, byte {place}: expected a line of taglens export, found another ({error})"
                ) from None
        return journal

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        path = self.folder / JOURNAL
        if not path.is_file() or path.is_symlink():
            return
        place = 0
        with path.open("rb") as file:
            for line in file:
                if line.strip():
                    yield place, line
                place += len(line)

    @property
    def names(self) -> list[str]:
        return list(self._places)

    def entries(self, name: str) -> list[Entry]:
        """What was done to a file, oldest first."""
        found = []
        with (self.folder / JOURNAL).open("rb") as file:
            for place in self._places.get(name, ()):
                file.seek(place)
                found.append(Entry.of(file.readline()))
        return found

    def change(self, changes: Mapping[str, Mapping[int, Entry | None]]) -> None:
        """Replace or forget (None) lines: file -> which of its `entries` -> what it becomes.

        The journal goes with its last line. Raises OSError.
        """
        changed = {
            self._places[name][index]: entry
            for name, entries in changes.items()
            for index, entry in entries.items()
        }
        kept = []
        for place, line in self._lines():
            entry = changed.get(place)
            if entry is not None:
                kept.append((entry.to_line() + "\n").encode())
            elif place not in changed and not _is_cut(line):
                kept.append(line)
        if kept:
            put(self.folder / JOURNAL, b"".join(kept))
        else:
            (self.folder / JOURNAL).unlink(missing_ok=True)
        self._places = Journal.open(self.folder)._places


def _is_cut(line: bytes) -> bool:
    """Whether a line lacks its end, because its writing was killed; inside a string the quotes would be escaped."""
    return not line.rstrip().endswith(b'"taglens_export": 1}')
