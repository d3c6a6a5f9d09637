"""Files of captions and labels, as rows: what vocabularies are counted from.

Knows the forms (plain text, captions.jsonl, labels.jsonl, each plain or gzip) and where a malformed line stands.
Refuses to know pictures, vocabularies and what a text means. A *row* is a picture of captions.jsonl, or one line of
plain text, which speaks of no picture that one could count.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from taglens.errors import DataError
from taglens.language.word_lists import PARSED_KINDS
from taglens.results import Kind
from taglens.vocabulary import normalise

Label: TypeAlias = tuple[Kind | None, str]
Texts: TypeAlias = tuple[str, ...]
_GZIP_MAGIC = b"\x1f\x8b"


class Parsed(Protocol):
    """What the parser says of one caption; see `taglens.language.parser.ParsedCaption`."""

    @property
    def objects(self) -> tuple[str, ...]: ...
    @property
    def attributes(self) -> tuple[str, ...]: ...
    @property
    def actions(self) -> tuple[str, ...]: ...
    @property
    def scenes(self) -> tuple[str, ...]: ...
    @property
    def pairs(self) -> tuple[tuple[str, str], ...]: ...


Parse: TypeAlias = Callable[[Iterable[str]], Iterable[Parsed]]


def has_pictures(path: Path) -> bool:
    """Whether the file's rows are pictures (captions.jsonl), by its name."""
    return path.name.removesuffix(".gz").endswith(".jsonl")


def caption_rows(path: Path, *, split: str | None = None) -> Iterator[tuple[int, Texts | None]]:
    """(line number, captions) of every row; None where nobody wrote any (``null``).

    Args:
        split: of a jsonl file whose rows name a split only the rows of this one; None: all rows.

    Raises:
        DataError: the file cannot be read, or a row is not a row of captions.
    """
    rows = has_pictures(path)
    for number, line in text_lines(path):
        if not rows:
            if number == 1 and line.startswith(("{", "[{")):
                raise DataError(
                    f"{path}: expected captions, one a line, found JSON. Name JSON Lines *.jsonl."
                )
            yield number, (line,)
            continue
        row = json_object(path, number, line)
        captions = row.get("captions", ...)
        if captions is not None and not (
            isinstance(captions, list) and all(isinstance(text, str) for text in captions)
        ):
            raise DataError(f"{path}, line {number}: expected a list of texts under 'captions'")
        if split is None or row.get("split", split) == split:
            yield number, None if captions is None else tuple(captions)


def label_rows(path: Path) -> Iterator[list[Label]]:
    """Each row's labels, with the kinds that the row states; rows without labels (``null``) are left out.

    Raises:
        DataError: the file cannot be read, or a row is not a row of labels.
    """
    for number, line in text_lines(path):
        row = json_object(path, number, line)
        names = row.get("labels", ...)
        if names is None:
            continue
        if not isinstance(names, list) or not all(
            isinstance(name, str) and normalise(name) for name in names
        ):
            raise DataError(f"{path}, line {number}: expected a list of names, or null, under 'labels'")
        stated = row.get("kind")
        kinds = stated if isinstance(stated, list) else [stated] * len(names)
        if len(kinds) != len(names) or any(kind not in (None, *PARSED_KINDS) for kind in kinds):
            raise DataError(
                f"{path}, line {number}: kind {stated!r}; expected one of {', '.join(PARSED_KINDS)}, "
                f"or a list of {len(names)} of them, one a label"
            )
        yield list(zip(kinds, names, strict=True))


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number, stripped text) of every line that is not blank; gzip by name or by content.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        # Opened once: what is read of a pipe cannot be read again.
        with path.open("rb") as raw:
            packed = path.name.endswith(".gz") or raw.peek(2)[:2] == _GZIP_MAGIC
            plain = gzip.GzipFile(fileobj=raw) if packed else raw
            with io.TextIOWrapper(plain, encoding="utf-8-sig") as lines:
                for number, line in enumerate(lines, 1):
                    if line.strip():
                        yield number, line.strip()
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}") from None


def json_object(path: Path, number: int, line: str) -> dict[str, Any]:
    """The object on a line. Raises DataError, naming the line, where there is none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise DataError(f"{path}, line {number}: not JSON ({reason})") from None
    if not isinstance(row, dict):
        raise DataError(f"{path}, line {number}: expected an object, found {line[:60]!r}")
    return row


def parsed_rows(rows: Iterable[Texts], parse: Parse) -> Iterator[tuple[Texts, list[Parsed]]]:
    """Each row with what the parser says of its texts, in order; all texts go through one call of ``parse``.

    ``parse`` may read ahead (processes do); what it has read and not yet answered is held here.
    """
    waiting: deque[Texts] = deque()

    def texts() -> Iterator[str]:
        for row in rows:
            waiting.append(row)
            yield from row

    answers: list[Parsed] = []
    for parsed in parse(texts()):
        while not waiting[0]:
            yield waiting.popleft(), []
        answers.append(parsed)
        if len(answers) == len(waiting[0]):
            yield waiting.popleft(), answers
            answers = []
    while waiting:
        yield waiting.popleft(), []
