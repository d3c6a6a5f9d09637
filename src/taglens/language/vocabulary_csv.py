"""A vocabulary as a table for spreadsheets: everything that the JSON Lines file holds, in columns.

Knows columns, cells and what a spreadsheet does to them; refuses to know which kind a bare name has (a callable is
passed in) and what makes a tag sound (`taglens.vocabulary.read_entry`).

One row a tag, in column order. Columns, of which only ``name`` must be there: ``id``, ``name``, ``kind``,
``synonyms``, ``parents``, ``threshold``, ``descriptions``, ``count``, ``hidden``, ``name:CODE`` for each language,
and, filled in the first row alone, ``vocabulary`` (``name@fingerprint``) and ``vocabulary_description``.

A list stands in one cell with `` | `` between its items, or as a JSON list where an item holds that sign, begins or
ends with white space, or begins with ``[``. A cell that a spreadsheet would take for a formula is written with an
apostrophe before it, and read without.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from taglens.errors import VocabularyError
from taglens.results import Kind
from taglens.vocabulary import Entry, Vocabulary, read_entry

LISTS = ("synonyms", "parents", "descriptions")
COLUMNS = ("id", "name", "kind", "synonyms", "parents", "threshold", "descriptions", "count", "hidden")
ABOUT = ("vocabulary", "vocabulary_description")
LANGUAGE = "name:"

_DELIMITERS = (",", ";", "\t")
# Any number of apostrophes before the sign: a cell that had one of its own gets another, and keeps its own.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_REF = re.compile(r"(?s)(.*)@([0-9a-f]{12})")
_WHOLE = re.compile(r"[0-9]{1,18}")
_BARE_ITEM = re.compile(r"(?s)(?!\[)\S(.*\S)?")


# -- writing -------------------------------------------------------------------------------------------


def to_csv(vocabulary: Vocabulary) -> str:
    """The table as text, without a byte order mark; lines end with ``\\n``."""
    columns = [*COLUMNS, *(LANGUAGE + language for language in vocabulary.languages), *ABOUT]
    about = dict(zip(ABOUT, (vocabulary.ref, vocabulary.description), strict=True))
    rows = [columns]
    for number, entry in enumerate(vocabulary):
        cells = _cells(entry) | (about if number == 0 else {})
        rows.append([_guarded(cells.get(column, "")) for column in columns])
    # The writer leaves a bare carriage return unquoted, and a reader would end the row there.
    quoted = any("\r" in cell for row in rows for cell in row)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL)
    writer.writerows(rows)
    return text.getvalue()


def _cells(entry: Entry) -> dict[str, str]:
    cells: dict[str, str] = {}
    for key, value in entry.to_dict().items():
        if key == "translations":
            cells |= {LANGUAGE + language: name for language, name in value.items()}
        elif key in LISTS:
            cells[key] = _joined(value)
        elif key == "hidden":
            cells[key] = "true"
        else:
            cells[key] = str(value)
    return cells


def _joined(items: Sequence[str]) -> str:
    if all("|" not in item and _BARE_ITEM.fullmatch(item) for item in items):
        return " | ".join(items)
    return json.dumps(items, ensure_ascii=False)


def _guarded(cell: str) -> str:
    return "'" + cell if _FORMULA.match(cell) else cell


# -- reading -------------------------------------------------------------------------------------------


def from_csv(
    text: str, *, where: str, guess: Callable[[str], Kind], name: str
) -> tuple[Vocabulary, str | None]:
    """The vocabulary of a table, and the fingerprint that it states, if any.

    Cells are divided by commas, semicolons or tabs, whichever gives a column ``name``.

    Args:
        where: the file, for messages.
        guess: the kind of a name whose row states none.
        name: the vocabulary's, where the table states none.

    Raises:
        VocabularyError: no column ``name``, a column that is none of ours, an empty row, a cell that cannot be
            meant, or a tag that stands twice; the message names file and line.
    """
    header, *rows = _records(text, where)
    columns = _columns(header[1], where)
    stated: dict[str, set[str]] = {column: set() for column in ABOUT}
    entries: list[Entry] = []
    lines: dict[str, int] = {}
    for line, cells in rows:
        here = f"{where}, line {line}"
        row = _row(cells, columns, here)
        for column in ABOUT:
            stated[column] |= {row.pop(column, "")} - {""}
        if "kind" not in row:
            row["kind"] = guess(row.get("name", ""))
        entry = read_entry(row, here)
        if entry.id in lines:
            raise VocabularyError(
                f"{here}: {entry.id!r} stands already in line {lines[entry.id]}; remove one of the two rows or give "
                "it another kind"
            )
        lines[entry.id] = line
        entries.append(entry)
    if not entries:
        raise VocabularyError(f"{where} holds a header and no tags")
    about = {column: _only(values, column, where) for column, values in stated.items()}
    ref = _REF.fullmatch(about["vocabulary"])
    vocabulary = Vocabulary(
        entries,
        name=(ref[1] if ref else about["vocabulary"]) or name,
        description=about["vocabulary_description"],
    )
    return vocabulary, ref[2] if ref else None


def _records(text: str, where: str) -> list[tuple[int, list[str]]]:
    """(line where the record begins, its cells without the empty ones at its end), the header first."""
    for delimiter in _DELIMITERS:
        with contextlib.suppress(csv.Error):
            header = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])
            if "name" in _plain(header):
                return _read(text, delimiter, where)
    shown = text.partition("\n")[0].strip()[:60]
    raise VocabularyError(
        f"{where}, line 1: expected a header with a column 'name', found {shown!r}; a list without a header is read "
        "with: --format list"
    )


def _read(text: str, delimiter: str, where: str) -> list[tuple[int, list[str]]]:
    records = []
    begins = 1
    # A cell with fifty descriptions may be longer than Python's own limit, which holds for the whole process.
    limit = csv.field_size_limit(max(len(text), 1))
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        for cells in reader:
            while cells and not cells[-1]:
                cells.pop()
            records.append((begins, cells))
            begins = reader.line_num + 1
    except csv.Error as error:
        raise VocabularyError(f"{where}, line {begins}: not CSV ({error})") from None
    finally:
        csv.field_size_limit(limit)
    return records


def _plain(header: Sequence[str]) -> list[str]:
    """Column names as they are compared: ours without case and outer white space, languages as written."""
    return [cell if cell.startswith(LANGUAGE) else cell.strip().lower() for cell in header]


def _columns(header: Sequence[str], where: str) -> list[str]:
    columns = _plain(header)
    for number, column in enumerate(columns):
        if column not in (*COLUMNS, *ABOUT) and not column.startswith(LANGUAGE):
            raise VocabularyError(
                f"{where}, line 1: unknown column {column!r}; known: {', '.join((*COLUMNS, *ABOUT))}, and "
                f"{LANGUAGE}CODE for names in a language ({LANGUAGE}zh)"
            )
        if column in columns[:number]:
            raise VocabularyError(f"{where}, line 1: two columns are called {column!r}; keep one")
    return columns


def _row(cells: Sequence[str], columns: Sequence[str], where: str) -> dict[str, Any]:
    """A row as `read_entry` takes it, with what the table says about the vocabulary; empty cells fall out."""
    if not any(cell.strip() for cell in cells):
        raise VocabularyError(f"{where} is empty; delete the row")
    if len(cells) > len(columns):
        raise VocabularyError(
            f"{where}: {len(cells)} cells for {len(columns)} columns; put quotes around a cell that holds the divider"
        )
    row: dict[str, Any] = {}
    for column, written in zip(columns, cells, strict=False):
        cell = written[1:] if written.startswith("'") and _FORMULA.match(written) else written
        if column.startswith(LANGUAGE):
            if cell.strip():
                row.setdefault("translations", {})[column.removeprefix(LANGUAGE)] = cell
        elif column in ("name", *ABOUT):
            row[column] = cell
        elif cell.strip():
            row[column] = _value(column, cell, where)
    return row


def _value(column: str, cell: str, where: str) -> Any:
    text = cell.strip()
    if column in LISTS:
        return _items(cell)
    if column == "threshold":
        return number(text, f"{where}: threshold")
    if column == "count":
        if not _WHOLE.fullmatch(text):
            raise VocabularyError(f"{where}: count must be a whole number such as 12, found {text!r}")
        return int(text)
    if column == "hidden":
        if text.lower() not in ("true", "false"):
            raise VocabularyError(f"{where}: hidden must be true, false or empty, found {text!r}")
        return text.lower() == "true"
    return text


def _items(cell: str) -> list[str]:
    if cell.lstrip().startswith("["):
        try:
            items = json.loads(cell)
        except (ValueError, RecursionError):
            items = None
        if isinstance(items, list) and all(isinstance(item, str) for item in items):
            return items
    return [item.strip() for item in cell.split("|") if item.strip()]


def number(text: str, what: str) -> float:
    """A number from 0 to 1. Raises VocabularyError, which ``what`` opens, for anything else."""
    try:
        value = float("nan" if "_" in text else text)
    except ValueError:
        value = float("nan")
    if not 0.0 <= value <= 1.0:
        raise VocabularyError(f"{what}: expected a number from 0 to 1 such as 0.65, found {text!r}")
    return value


def _only(values: set[str], column: str, where: str) -> str:
    if len(values) > 1:
        one, other, *_ = sorted(values)
        raise VocabularyError(f"{where}: column {column!r} says {one!r} and {other!r}; keep one of them")
    return next(iter(values), "")
