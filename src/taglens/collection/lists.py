"""Lists of pictures: which column of a table holds their names, and those names one after another.

Knows CSV, TSV, JSON lines, Parquet and plain lines, packed with gzip or not, read as a stream. Refuses to know what
a name means: paths, addresses and relative names are `taglens.collection.inputs`' business.

- CSV has a heading and quotes as RFC 4180 has them; TSV has a heading and no quoting; a plain list has one name a
  line, spaces included. Text is UTF-8; other bytes come as surrogates, as Python has them in file names.
- Without a column's name the first of `COLUMNS` that the table has is taken, in any case of letters.
- A row without a name is given as such. A list that breaks off gives its whole rows first.
"""

from __future__ import annotations

import base64
import binascii
import csv
import gzip
import io
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, Final, Literal

from taglens.errors import DataError, MissingExtraError, UsageError

Form = Literal["csv", "tsv", "jsonl", "parquet", "lines"]

COLUMNS: Final = ("image", "path", "file", "file_name", "source", "url", "image_path", "key")

_FORMS: Final[dict[str, Form]] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".txt": "lines",
}
_MAX_LINE: Final = 16 << 20
_BATCH: Final = 4096
_SHOWN_COLUMNS: Final = 20
_LIST_FAULTS: Final = (OSError, EOFError, zlib.error, csv.Error)


@dataclass(frozen=True, slots=True)
class Name:
    """One row of a list.

    Attributes:
        row: the line in the file (Parquet: the row, from 1).
        text: the picture's name; None: ``fault`` says why there is none.
        typed: a row that taglens itself wrote, whose name is as a person typed it, and not relative to the list.
        broken: the list itself cannot be read from here on; always the last.
    """

    row: int
    text: str | None
    fault: str = ""
    typed: bool = False
    broken: bool = False


def list_form(name: str) -> Form | None:
    """What a file's name says that it is; None: no list."""
    stem = name.lower()
    if stem.endswith(".gz") and not stem.endswith(".parquet.gz"):
        stem = stem.removesuffix(".gz")
    return next((form for suffix, form in _FORMS.items() if stem.endswith(suffix)), None)


def named_form(name: str) -> Form:
    """The form of a file that was typed as a list (``@FILE``): by its suffix, and lines where it has none.

    Raises:
        UsageError: a suffix of something else.
    """
    form = list_form(name)
    if form is not None:
        return form
    suffix = os.path.splitext(name)[1]  # noqa: PTH122 - addresses are no paths
    if suffix.lower() in ("", ".lst", ".list"):
        return "lines"
    known = ", ".join(_FORMS)
    raise UsageError(f"@{name!r}: expected a list of pictures ({known}, or no suffix), found {suffix!r}")


def read_names(file: IO[bytes], form: Form, *, shown: str, column: str | None = None) -> Iterator[Name]:
    """The names in a list; the heading is read before this returns.

    Args:
        file: open, at its beginning; Parquet must be able to seek.
        shown: the list, for messages.
        column: which column; None: the first of `COLUMNS` that is there.

    Raises:
        UsageError: no such column, or none of `COLUMNS`.
        DataError: the file is not what its name says, from its first bytes on.
        MissingExtraError: a Parquet file, and no pyarrow.
    """
    try:
        if form == "parquet":
            return _parquet(file, shown, column)
        lines = _lines(_unpacked(file), shown)
        match form:
            case "jsonl":
                return _jsonl(lines, shown, column)
            case "lines":
                if column is not None:
                    raise UsageError(f"{shown}: has lines and no columns: leave out the column {column!r}")
                return _plain(lines)
            case _:
                return _table(lines, form, shown=shown, column=column)
    except _LIST_FAULTS as fault:
        raise DataError(f"{shown}: cannot be read as {form} ({_why(fault)}); copy it anew") from fault


def _why(fault: BaseException) -> str:
    return (getattr(fault, "strerror", None) or str(fault) or type(fault).__name__)[:200]


def _unpacked(file: IO[bytes]) -> IO[bytes]:
    """What is in the file, gzip undone; by content, because names lie."""
    buffered = io.BufferedReader(_Raw(file), 1 << 16)
    if buffered.peek(2)[:2] == b"\x1f\x8b":
        return io.BufferedReader(gzip.GzipFile(fileobj=buffered), 1 << 16)
    return buffered


class _Raw(io.RawIOBase):
    """Any open file under a buffer that can look ahead; closing stays the caller's."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _lines(file: IO[bytes], shown: str) -> Iterator[tuple[int, bytes]]:
    """(number, line) without its end; a line ends at \\n only, because others may stand inside a name."""
    number = 0
    while line := file.readline(_MAX_LINE + 1):
        number += 1
        if number == 1:
            if line.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise DataError(f"{shown}: expected UTF-8, found UTF-16; save it as UTF-8")
            line = line.removeprefix(b"\xef\xbb\xbf")
        if len(line) > _MAX_LINE:
            raise OSError(0, f"line {number} has more than {_MAX_LINE:,} bytes")
        yield number, line.removesuffix(b"\n").removesuffix(b"\r")


def _ending(names: Iterator[Name]) -> Iterator[Name]:
    """The names, and where the file breaks off a last one that says so."""
    last = 0
    try:
        for name in names:
            last = name.row
            yield name
    except _LIST_FAULTS as fault:
        yield Name(last, None, f"the list breaks off after row {last}: {_why(fault)}", broken=True)


def _plain(lines: Iterator[tuple[int, bytes]]) -> Iterator[Name]:
    return _ending(Name(number, os.fsdecode(line)) for number, line in lines if line.strip())


def _table(
    lines: Iterator[tuple[int, bytes]], form: Form, *, shown: str, column: str | None
) -> Iterator[Name]:
    numbers = [0]

    def text() -> Iterator[str]:
        for number, line in lines:
            numbers[0] = number
            yield os.fsdecode(line) + "\n"

    if form == "tsv":
        rows: Iterator[list[str]] = (line.removesuffix("\n").split("\t") for line in text())
    else:
        rows = csv.reader(text())
    heading = next((row for row in rows if any(cell.strip() for cell in row)), None)
    if heading is None:
        raise DataError(f"{shown}: expected a heading and rows, found an empty file")
    wanted = heading.index(_column(heading, shown, column))

    def names() -> Iterator[Name]:
        for row in rows:
            number = numbers[0]
            if not any(row):
                continue
            if len(row) != len(heading):
                fault = f"expected {len(heading)} cells as in the heading, found {len(row)}; quote what has commas"
                yield Name(number, None, fault)
            else:
                yield _named(number, row[wanted], heading[wanted])

    return _ending(names())


def _column(found: list[str], shown: str, column: str | None) -> str:
    """The one of the columns found that holds the names."""
    if column is not None:
        if column in found:
            return column
        expected, cure = f"a column {column!r}", "name one of those (--column)"
    else:
        folded = {name.strip().lower(): name for name in reversed(found)}
        for name in COLUMNS:
            if name in found:
                return name
            if name in folded:
                return folded[name]
        expected, cure = f"a column named {', '.join(COLUMNS)}", "say which one holds the pictures (--column)"
    some = ", ".join(repr(name[:60]) for name in found[:_SHOWN_COLUMNS])
    more = f" and {len(found) - _SHOWN_COLUMNS} more" if len(found) > _SHOWN_COLUMNS else ""
    raise UsageError(f"{shown}: expected {expected}, found {some or 'none'}{more}; {cure}")


def _named(row: int, value: object, column: str) -> Name:
    """A cell as a name."""
    if isinstance(value, bytes):
        value = os.fsdecode(value)
    found = repr(value)[:60]
    if isinstance(value, str) and value.strip():
        try:
            os.fsencode(value)
        except UnicodeEncodeError:  # half of a surrogate pair, which JSON can hold and no name
            return Name(row, None, f"no file can be named {found}")
        return Name(row, value)
    return Name(row, None, f"expected a picture's name in column {column!r}, found {found}")


def _jsonl(lines: Iterator[tuple[int, bytes]], shown: str, column: str | None) -> Iterator[Name]:
    filled = ((number, line) for number, line in lines if line.strip())
    first = next(filled, None)
    if first is None:
        raise DataError(f"{shown}: expected one JSON object a line, found an empty file")
    row = _object(first[1])
    if row is None:
        raise DataError(f"{shown}, line {first[0]}: expected a JSON object in UTF-8, found {first[1][:60]!r}")
    key = _column(list(row), shown, column)

    def names() -> Iterator[Name]:
        yield _object_name(first[0], row, key)
        for number, line in filled:
            yield _object_name(number, _object(line), key)

    return _ending(names())


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _object_name(number: int, row: dict[str, Any] | None, key: str) -> Name:
    if row is None:
        return Name(number, None, "expected a JSON object in UTF-8")
    name = _named(number, row.get(key), key)
    if key != "source" or "model" not in row or name.text is None:
        return name
    raw = row.get("source_bytes")
    if raw is None:
        return Name(number, name.text, typed=True)
    try:
        return Name(number, os.fsdecode(base64.b64decode(raw, validate=True)), typed=True)
    except (binascii.Error, TypeError, ValueError):
        return Name(number, None, "expected base64 in source_bytes")


def _parquet(file: IO[bytes], shown: str, column: str | None) -> Iterator[Name]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError(
            "pyarrow", extra="parquet", purpose=f"reading the Parquet list {shown}"
        ) from error
    types = pyarrow.types
    try:
        table = pyarrow.parquet.ParquetFile(file)
        schema = table.schema_arrow
    except (pyarrow.ArrowException, OSError) as fault:
        raise DataError(f"{shown}: cannot be read as Parquet ({_why(fault)}); copy it anew") from fault
    key = _column(list(schema.names), shown, column)
    held = schema.field(key).type
    held = held.value_type if types.is_dictionary(held) else held
    tests = (
        types.is_string,
        types.is_large_string,
        types.is_string_view,
        types.is_binary,
        types.is_large_binary,
    )
    if not any(test(held) for test in tests):
        cure = "name a column of text (--column); pictures inside the table are not read: save them as files"
        raise UsageError(f"{shown}: expected names in column {key!r}, found {str(held)[:80]}; {cure}")

    def names() -> Iterator[Name]:
        row = 0
        try:
            for batch in table.iter_batches(batch_size=_BATCH, columns=[key], use_threads=False):
                for value in batch.column(0).to_pylist():
                    row += 1
                    yield _named(row, value, key)
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as fault:
            yield Name(row, None, f"the list breaks off after row {row}: {_why(fault)}", broken=True)

    return names()
