"""The folder of an annotation: what was asked for, the rows that are done, every answer, and what it took.

Knows four files: ``annotation.json`` (the configuration), ``labels.jsonl`` (a picture a line, written when it is
done), ``queries.jsonl`` (every answer as it came: `taglens.language.chat_kept`) and ``ledger.json``. Refuses to know
pictures and questions.

A row is appended and never changed; where a picture is done again its last row counts, and `settle` leaves only that
one, in the place of the first. Half a line that a kill left is cut off when the folder is opened.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from taglens.collection.store import replace
from taglens.errors import DataError, UsageError
from taglens.language.chat import Usage
from taglens.results import to_line

FORMAT_VERSION = 1
RUN, LABELS, QUERIES, LEDGER = "annotation.json", "labels.jsonl", "queries.jsonl", "ledger.json"
GROUPS = "groups.json"
CONCEPTS = "concepts.jsonl"
REVIEWS = "reviews.jsonl"
# Of a row whose picture the server finally said nothing about.
NO_ANSWER = "no_answer"
_OURS = {RUN, LABELS, QUERIES, LEDGER, GROUPS, CONCEPTS, REVIEWS}


def identity(source: str, source_bytes: str | None) -> str:
    """What a picture is told from others by: names that are no UTF-8 are all shown alike, and their bytes differ."""
    return source if source_bytes is None else f"{source}\0{source_bytes}"


@dataclass(frozen=True, slots=True)
class Known:
    """A picture that has a row: what its content was told by, and whether it failed for want of an answer."""

    signature: str
    unanswered: bool
    labels: int
    failed: bool


@dataclass(frozen=True, slots=True)
class Paid:
    """What all answers of a folder took, over every start.

    Attributes:
        unknown_usage: queries whose server did not count tokens.
    """

    queries: int = 0
    usage: Usage = field(default_factory=Usage)
    seconds: float = 0.0
    refused: int = 0
    unknown_usage: int = 0


class AnnotationStore:
    """One such folder; made when something is first written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.queries = folder / QUERIES

    @contextlib.contextmanager
    def opened(self, configuration: Mapping[str, Any], *, parts: Mapping[str, bytes]) -> Iterator[None]:
        """Hold the folder for one run of this configuration; a killed run leaves no lock behind.

        Args:
            parts: further files that the configuration was made from, kept beside it for people to read.

        Raises:
            UsageError: the folder holds other things, another configuration's rows, or another run is at work.
        """
        self.require(configuration)
        self.folder.mkdir(parents=True, exist_ok=True)
        with _locked(self.folder):
            for left in self.folder.glob("*.part"):
                if _is_ours(left.name):
                    left.unlink(missing_ok=True)
            for name, content in parts.items():
                replace(self.folder / name, content)
            if not (self.folder / RUN).exists():
                row = {"taglens_annotation": FORMAT_VERSION, "configuration": dict(configuration)}
                replace(self.folder / RUN, (json.dumps(row, indent=2, ensure_ascii=False) + "\n").encode())
            yield

    def require(self, configuration: Mapping[str, Any]) -> None:
        """Look whether this configuration can go on here, and touch nothing.

        Raises:
            UsageError: as `opened`.
            DataError: annotation.json cannot be read.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise UsageError(f"--out {self.folder} is a file; name a folder")
        there = self.configuration()
        if there is None:
            strange = sorted(
                path.name
                for path in (self.folder.iterdir() if self.folder.is_dir() else ())
                if not _is_ours(path.name)
            )
            if strange or (self.folder / LABELS).exists():
                raise UsageError(
                    f"--out {self.folder} holds other things than an annotation ({(strange or [LABELS])[0]}); name a "
                    "new folder"
                )
            return
        wanted = json.loads(json.dumps(dict(configuration)))
        if there != wanted:
            names = sorted(key for key in there.keys() | wanted.keys() if there.get(key) != wanted.get(key))
            told = "; ".join(
                f"{name}: {_short(there.get(name))} there, {_short(wanted.get(name))} now"
                for name in names[:4]
            )
            raise UsageError(
                f"--out {self.folder} holds rows that were made otherwise ({told}); name another folder, or give the "
                "same options and the rows that are there are gone on with"
            )

    def configuration(self) -> dict[str, Any] | None:
        """What annotation.json says; None where there is none. Raises DataError for one that cannot be read."""
        path = self.folder / RUN
        try:
            row = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise DataError(f"cannot read {path}: {error}") from None
        if not isinstance(row, dict) or row.get("taglens_annotation") != FORMAT_VERSION:
            raise DataError(
                f"{path} was not written by taglens annotate of this release; name another folder"
            )
        found = row.get("configuration")
        if not isinstance(found, dict):
            raise DataError(f"{path} has no configuration; name another folder")
        return found

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold a folder that is there, for who changes its rows. Raises UsageError where a run is at work."""
        with _locked(self.folder):
            yield

    # -- rows ------------------------------------------------------------------------------------------

    def known(self) -> dict[str, Known]:
        """`identity` -> its last row, of what stands there. Half a line at the end is no row.

        Raises:
            DataError: another line is damaged.
        """
        return {key: _known(row) for key, row, _ in self._rows()}

    def mend(self) -> None:
        """Cut off half a line that a kill left. Only for who holds the folder."""
        path = self.folder / LABELS
        with contextlib.suppress(FileNotFoundError), path.open("r+b") as file:
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)

    @contextlib.contextmanager
    def rows(self) -> Iterator[RowWriter]:
        """Append rows; each is with the system when ``add`` returns."""
        with (self.folder / LABELS).open("ab") as file:
            yield RowWriter(file.fileno())

    def settle(self) -> None:
        """Of pictures with several rows keep the last, in the place of the first."""
        last: dict[str, bytes] = {}
        lines = 0
        for key, _, line in self._rows():
            last[key] = line
            lines += 1
        if lines != len(last):
            replace(self.folder / LABELS, b"".join(last.values()))

    def _rows(self) -> Iterator[tuple[str, dict[str, Any], bytes]]:
        path = self.folder / LABELS
        try:
            with path.open("rb") as lines:
                for number, line in enumerate(lines, 1):
                    if not line.endswith(b"\n"):
                        return
                    try:
                        row = json.loads(line)
                        key = identity(row["source"], row.get("source_bytes"))
                        row["provenance"], row["signature"]
                    except (ValueError, TypeError, KeyError, RecursionError):
                        raise DataError(
                            f"{path}, line {number} is no row of an annotation; remove that line, and its picture is "
                            "done again from the answers that are kept"
                        ) from None
                    yield key, row, line
        except FileNotFoundError:
            return
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror or error}") from None

    # -- what it took ----------------------------------------------------------------------------------

    def paid(self) -> Paid:
        """All answers that stand in queries.jsonl, added up: exact also after a kill."""
        return paid_in(self.queries)

    def told_cost(self, currency: str) -> float:
        """What ledger.json says was spent, in this currency; 0 where it says nothing of it."""
        try:
            row = json.loads((self.folder / LEDGER).read_bytes())
            return float(row["cost"]) if row["currency"] == currency else 0.0
        except (OSError, ValueError, TypeError, KeyError):
            return 0.0

    def write_ledger(self, row: Mapping[str, Any]) -> None:
        replace(self.folder / LEDGER, (json.dumps(row, indent=2, ensure_ascii=False) + "\n").encode())


def _is_ours(name: str) -> bool:
    """Whether a file of such a folder is an annotation's, or what a killed run left half written of one."""
    return name in _OURS or (name.endswith(".part") and any(name.startswith(f"{one}.") for one in _OURS))


def paid_in(queries: Path) -> Paid:
    """All answers of a file of kept replies, added up."""
    found = Paid()
    with contextlib.suppress(FileNotFoundError), queries.open("rb") as lines:
        for line in lines:
            try:
                reply = json.loads(line)[1]
                usage, seconds, refused = (
                    Usage(**reply["usage"]),
                    float(reply["seconds"]),
                    bool(reply["refused"]),
                )
            except (ValueError, TypeError, KeyError, IndexError):
                continue  # its first line, half a line at the end, damage; opening the file for answers judges it
            found = Paid(
                found.queries + 1,
                found.usage + usage,
                found.seconds + seconds,
                found.refused + refused,
                found.unknown_usage + (not usage.known),
            )
    return found


class RowWriter:
    """Appends whole lines to an open file."""

    def __init__(self, file: int) -> None:
        self._file = file

    def add(self, row: Mapping[str, Any]) -> None:
        rest = memoryview((to_line(row) + "\n").encode("utf-8"))
        while rest:
            rest = rest[os.write(self._file, rest) :]


def _known(row: Mapping[str, Any]) -> Known:
    error = row.get("error")
    return Known(
        str(row["signature"]),
        isinstance(error, dict) and error.get("type") == NO_ANSWER,
        len(row.get("labels") or ()),
        error is not None,
    )


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # no such lock on this system
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(
                f"another run is writing {folder}; wait for it, or name another folder"
            ) from None
        yield
    finally:
        os.close(handle)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:60] + "…"
