"""Rows of tags from where they were left: the store of a run, the folder of an annotation, or a file of JSON lines.

Knows these places and what a row must hold; a row is checked before anyone writes it elsewhere. Refuses to know what
becomes of it (`taglens.collection.writers`). Rows come one at a time, so that memory does not grow with the pictures.

Labels of ``taglens annotate`` have no scores, and none is invented: the score is NaN, which writers leave out.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from taglens.collection.annotated import Annotated, Mark, is_annotation, is_row, parse, read_annotated
from taglens.collection.store import RUN, open_store
from taglens.errors import DataError, ImageErrorType, UsageError
from taglens.results import Failure, Kind, Prediction, Tag

LONGEST_LINE = 64 << 20
_KINDS = frozenset(get_args(Kind))
_ERRORS = frozenset(get_args(ImageErrorType))
_SURROGATE = re.compile("[\ud800-\udfff]")
_AGAIN = "write it anew: taglens tag … --json > rows.jsonl, or taglens run"


@dataclass(frozen=True, slots=True)
class StoredRow:
    """One picture's row.

    Attributes:
        number: its place among the rows read, from 0.
        path: the picture's file name as the system spells it (undecodable bytes as surrogates); relative to where the
            pictures were tagged from, if it is relative.
        sha256: of the picture's file, where the row says it.
        raw: the row as it stood, with whatever else it holds.
        said: where labels of an annotation come from, by tag id; None where the row is of scored tags.
    """

    number: int
    path: str
    prediction: Prediction
    sha256: str | None
    raw: Mapping[str, Any]
    said: Mapping[str, Mark] | None = None


def read_rows(source: Path, *, partial: bool = False) -> Iterator[StoredRow]:
    """Rows in order, from a store's folder, an annotation's, or a file of rows of either kind.

    Args:
        partial: take the finished shards of a store whose run is not at its end.

    Raises:
        UsageError: there is nothing at ``source``, or a store is unfinished and ``partial`` was not asked for.
        DataError: a row that is none (the message says file and line), or a shard that its receipt does not fit.
    """
    if source.is_dir() and is_annotation(source):
        for number, row in enumerate(read_annotated(source)):
            yield _from_annotation(row, number)
        return
    if source.is_dir():
        lines = _store_lines(source, partial)
    elif source.is_file():
        lines = _file_lines(source)
    else:
        raise UsageError(
            f"{source} does not exist; expected a folder of taglens run or taglens annotate, or a file of rows"
        )
    for number, (where, line) in enumerate(lines):
        yield parse_row(line, number=number, where=where, home=source.parent)


def _file_lines(path: Path) -> Iterator[tuple[str, bytes]]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LONGEST_LINE):
            number += 1
            if len(line) == LONGEST_LINE:
                raise DataError(
                    f"{path}, line {number} is longer than {LONGEST_LINE >> 20} MiB: no file of rows"
                )
            if line.strip():
                yield f"{path}, line {number}", line


def _store_lines(folder: Path, partial: bool) -> Iterator[tuple[str, bytes]]:
    if not (folder / RUN).is_file():
        raise UsageError(
            f"{folder} is no store: {RUN} is missing; name the folder given to taglens run or annotate --out, or a "
            "file of rows"
        )
    store = open_store(folder)
    run = store.run()
    receipts = list(store.receipts().values())
    if not partial:
        missing = next((n for n, one in enumerate(receipts) if one.shard != n), None)
        unfinished = run is None or run.totals is None
        stray = sorted(
            path.name
            for path in (folder / "shards").glob("*.jsonl")
            if path.stem.isdecimal() and int(path.stem) not in {one.shard for one in receipts}
        )
        if missing is not None or unfinished or stray:
            what = "its run is not at its end" if missing is None else f"shard {missing:06d} is missing"
            what = f"shard {stray[0]} has no receipt" if stray else what
            raise UsageError(
                f"{folder} is incomplete: {what}; run the same taglens run again until it ends, or export what is "
                f"there: --partial ({len(receipts)} finished shards)"
            )
    for receipt in receipts:
        path = store.rows_path(receipt.shard)
        for number, line in enumerate(store.lines(receipt), 1):
            yield f"{path}, line {number}", line


# -- one row ---------------------------------------------------------------------------------------


def parse_row(line: bytes | str, *, number: int, where: str, home: Path = Path()) -> StoredRow:
    """A line to a row.

    Args:
        home: what an annotation's pictures are relative to.

    Raises:
        DataError: it is no JSON object, lacks a field, holds one of a wrong kind, or text that is not Unicode.
    """
    try:
        text = line if isinstance(line, str) else line.decode("utf-8")
        raw = json.loads(text)
    except ValueError as error:
        raise DataError(
            f"{where}: expected a row in JSON, found something else ({error}); {_AGAIN}"
        ) from None
    if not isinstance(raw, dict):
        raise DataError(f"{where}: expected a JSON object, found {type(raw).__name__}; {_AGAIN}")
    # In UTF-8 half a character can only stand as an escape, which few rows have at all.
    if "\\u" in text and _SURROGATE.search(json.dumps(raw, ensure_ascii=False)):
        raise DataError(
            f"{where}: holds half a character (a lone surrogate), which no file can hold; {_AGAIN}"
        )
    if is_row(raw):
        return _from_annotation(parse(line, where=where, home=home), number)
    try:
        prediction = _prediction(raw)
        sha256 = _optional(raw, "sha256", str)
        return StoredRow(number, _path(prediction), prediction, sha256, raw)
    except _FieldError as wrong:
        raise DataError(f"{where}: {wrong}; {_AGAIN}") from None


def _from_annotation(row: Annotated, number: int) -> StoredRow:
    """An annotation's row as writers take rows."""
    error = row.raw.get("error")
    failed = error if isinstance(error, dict) else {"type": "no_answer", "message": "it has no labels"}
    try:
        prediction = Prediction(
            source=row.source,
            width=_size(row.raw, "width"),
            height=_size(row.raw, "height"),
            tags=None
            if row.given is None
            else tuple(Tag(mark.id, mark.name, mark.kind or "typed", math.nan) for mark in row.given),
            model=row.model,
            vocabulary=row.vocabulary,
            # Its kinds are more than a picture's: a server that did not answer is one.
            error=None
            if row.given is not None
            else Failure(cast(ImageErrorType, str(failed.get("type"))), str(failed.get("message"))),
            source_bytes=row.raw.get("source_bytes"),
        )
    except _FieldError as wrong:
        raise DataError(f"{row.where}: {wrong}") from None
    said = {mark.id: mark for mark in row.given or ()}
    return StoredRow(number, row.path, prediction, None, row.raw, said)


class _FieldError(Exception):
    """A field that is not what it should be."""


def _field(row: Mapping[str, Any], name: str, kind: type) -> Any:
    if name not in row:
        raise _FieldError(
            f"expected the field {name!r}, found {', '.join(map(repr, list(row)[:8])) or 'none'}"
        )
    value = row[name]
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise _FieldError(f"expected {name!r} to be {kind.__name__}, found {value!r:.60}")
    return value


def _optional(row: Mapping[str, Any], name: str, kind: type) -> Any:
    return None if row.get(name) is None else _field(row, name, kind)


def _prediction(row: Mapping[str, Any]) -> Prediction:
    error = _optional(row, "error", dict)
    tags = _optional(row, "tags", list)
    if error is None and tags is None:
        raise _FieldError("expected 'tags' to be a list where 'error' is null, found null")
    return Prediction(
        source=_field(row, "source", str),
        width=_size(row, "width"),
        height=_size(row, "height"),
        tags=None if tags is None else tuple(_tag(tag) for tag in tags),
        model=_field(row, "model", str),
        vocabulary=_field(row, "vocabulary", str),
        caption=_optional(row, "caption", str),
        notes=tuple(str(note) for note in _optional(row, "notes", list) or ()),
        error=None if error is None else _failure(error),
        source_bytes=_optional(row, "source_bytes", str),
    )


def _size(row: Mapping[str, Any], name: str) -> int | None:
    value = _optional(row, name, int)
    if value is not None and not 0 < value < 1 << 31:
        raise _FieldError(f"expected {name!r} in pixels, found {value}")
    return None if value is None else int(value)


def _tag(tag: Any) -> Tag:
    if not isinstance(tag, dict):
        raise _FieldError(f"expected each tag to be an object, found {tag!r:.60}")
    kind, score = _field(tag, "kind", str), tag.get("score")
    if kind not in _KINDS:
        raise _FieldError(
            f"expected a tag's kind to be one of {', '.join(sorted(_KINDS))}, found {kind!r:.60}"
        )
    if not isinstance(score, int | float) or isinstance(score, bool) or not math.isfinite(score):
        raise _FieldError(f"expected a tag's score to be a number, found {score!r:.60}")
    return Tag(_field(tag, "id", str), _field(tag, "name", str), kind, float(score))


def _failure(error: Mapping[str, Any]) -> Failure:
    kind = _field(error, "type", str)
    if kind not in _ERRORS:
        raise _FieldError(
            f"expected an error's type to be one of {', '.join(sorted(_ERRORS))}, found {kind!r:.60}"
        )
    return Failure(kind, _field(error, "message", str))


def _path(prediction: Prediction) -> str:
    if prediction.source_bytes is None:
        name = prediction.source
    else:
        try:
            name = os.fsdecode(base64.b64decode(prediction.source_bytes, validate=True))
        except (binascii.Error, ValueError):
            raise _FieldError(
                f"expected base64 in 'source_bytes', found {prediction.source_bytes!r:.60}"
            ) from None
    if prediction.error is None and (not name or "\0" in name):
        raise _FieldError(f"expected a file name in 'source', found {name!r:.60}")
    return name
