"""Rows as tables: JSON lines, CSV (a row per tag, or per picture), Parquet.

Knows columns and types, and how a cell is kept from being run as a formula. Refuses to know where rows come from.

CSV cells: a text that begins with ``= + - @``, a tab or a line break (apostrophes before it aside) gets one
apostrophe in front, because spreadsheets would run it. `plain_cell` takes it away again, and nothing else.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from taglens.collection.rows_in import StoredRow
from taglens.collection.writers.choosing import Account, annotated_by, is_scored, score_of
from taglens.collection.writers.files import appearing
from taglens.errors import MissingExtraError
from taglens.results import Tag, to_line

ROWS_PER_GROUP = 8192
_SUSPECT = frozenset("'=+-@\t\r\n＝＋－＠")
_FORMULA = re.compile("'*[=+\\-@\t\r\n＝＋－＠]")

LONG = ("source", "width", "height", "rank", "id", "name", "kind", "score", "model", "vocabulary")
ANNOTATED = ("strategy", "stage", "votes")
WIDE = ("source", "width", "height", "tags", "scores", "ids", "caption", "model", "vocabulary")


def write_jsonl(rows: Iterable[StoredRow], out: Path, *, account: Account) -> None:
    """Rows as they were, error rows too, with the wanted tags only."""
    with appearing(out) as stream:
        for row in rows:
            tags = row.prediction.tags
            if row.said is None:
                value = {**row.raw, "tags": None if tags is None else [tag.to_dict() for tag in tags]}
            else:
                value = _labels(row)
            stream.write((to_line(value) + "\n").encode())
            account.tags += len(tags or ())
            account.written += 1


def _labels(row: StoredRow) -> dict[str, Any]:
    """An annotation's row with the wanted labels only; it lies elsewhere now, so its picture's name is absolute."""
    value = dict(row.raw)
    if row.raw.get("source_bytes") is None and os.path.isabs(row.path):  # noqa: PTH117
        value["image"] = row.path
    tags, said = row.prediction.tags, row.said or {}
    if tags is not None:
        marks = [said[tag.id] for tag in tags]
        value["labels"] = [tag.name for tag in tags]
        value["kind"] = [mark.kind for mark in marks]
        provenance = {
            **value["provenance"],
            "stages": [mark.stage for mark in marks],
            "votes": [None if mark.votes is None else list(mark.votes) for mark in marks],
        }
        if "tagger_scores" in provenance:
            provenance["tagger_scores"] = [mark.tagger_score for mark in marks]
        value["provenance"] = provenance
    return value


# -- CSV -------------------------------------------------------------------------------------------


def safe_cell(text: str) -> str:
    """A text that a spreadsheet shows and does not run."""
    return "'" + text if text[:1] in _SUSPECT and _FORMULA.match(text) else text


def plain_cell(text: str) -> str:
    """What `safe_cell` was given."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def write_csv(
    rows: Iterable[StoredRow], out: Path, *, account: Account, wide: bool = False, separator: str = "; "
) -> None:
    """A header and a row per tag, by falling score; a picture without tags has one row with empty tag columns.

    Args:
        wide: a row per picture instead, with the tags, scores and ids in one cell each, ``separator`` between them.

    Labels of an annotation have no rank and no score, and three columns more: strategy, stage, votes (as "2/3").
    """
    waiting = iter(rows)
    first = next(waiting, None)
    labelled = first is not None and first.said is not None and not wide
    rows = waiting if first is None else chain([first], waiting)
    with appearing(out) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
        table = csv.writer(text, lineterminator="\n")
        table.writerow(WIDE if wide else LONG + ANNOTATED if labelled else LONG)
        for row in rows:
            cells = [_wide(row, separator)] if wide else list(_long(row))
            if labelled:
                cells = [
                    cell + _origin(row, tag)
                    for cell, tag in zip(cells, row.prediction.tags or [None], strict=True)
                ]
            table.writerows(
                [safe_cell(cell) if isinstance(cell, str) else cell for cell in one] for one in cells
            )
            account.tags += len(row.prediction.tags or ())
            account.written += 1
        text.flush()
        text.detach()


def _long(row: StoredRow) -> Iterator[list[str | int | float | None]]:
    one = row.prediction
    if not one.tags:
        yield [one.source, one.width, one.height, None, None, None, None, None, one.model, one.vocabulary]
    for rank, tag in enumerate(one.tags or (), 1):
        score = score_of(tag)
        yield [
            *(one.source, one.width, one.height, None if score is None else rank),
            *(tag.id, tag.name, tag.kind, score, one.model, one.vocabulary),
        ]


def _origin(row: StoredRow, tag: Tag | None) -> list[str | int | float | None]:
    about = {} if tag is None else annotated_by(row, tag)
    votes = about.get("votes")
    return [about.get("strategy"), about.get("stage"), None if votes is None else "/".join(map(str, votes))]


def _wide(row: StoredRow, separator: str) -> list[str | int | float | None]:
    one = row.prediction
    tags = one.tags or ()
    scores = separator.join(str(score_of(tag)) for tag in tags if is_scored(tag))
    names, ids = separator.join(tag.name for tag in tags), separator.join(tag.id for tag in tags)
    return [one.source, one.width, one.height, names, scores, ids, one.caption, one.model, one.vocabulary]


# -- Parquet ---------------------------------------------------------------------------------------


def write_parquet(rows: Iterable[StoredRow], out: Path, *, account: Account) -> None:
    """A row per picture; ``tags`` is a list of structs. Written group by group.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError("pyarrow", extra="parquet", purpose="--format parquet") from None

    tag = arrow.struct(
        [
            ("id", arrow.string()),
            ("name", arrow.string()),
            ("kind", arrow.string()),
            ("score", arrow.float64()),
        ]
    )
    schema = arrow.schema(
        [
            ("source", arrow.string()),
            ("source_bytes", arrow.string()),
            ("sha256", arrow.string()),
            ("width", arrow.int32()),
            ("height", arrow.int32()),
            ("tags", arrow.list_(tag)),
            ("caption", arrow.string()),
            ("model", arrow.string()),
            ("vocabulary", arrow.string()),
            ("notes", arrow.list_(arrow.string())),
        ],
        metadata={"taglens": json.dumps({"format": 1})},
    )
    waiting = iter(rows)
    with appearing(out) as stream, parquet.ParquetWriter(stream, schema, compression="zstd") as table:
        while group := list(islice(waiting, ROWS_PER_GROUP)):
            table.write_table(arrow.Table.from_pylist([_record(row) for row in group], schema=schema))
            account.tags += sum(len(row.prediction.tags or ()) for row in group)
            account.written += len(group)


def _record(row: StoredRow) -> dict[str, Any]:
    one = row.prediction
    return {
        "source": one.source,
        "source_bytes": one.source_bytes,
        "sha256": row.sha256,
        "width": one.width,
        "height": one.height,
        "tags": [
            {"id": tag.id, "name": tag.name, "kind": tag.kind, "score": score_of(tag)}
            for tag in one.tags or ()
        ],
        "caption": one.caption,
        "model": one.model,
        "vocabulary": one.vocabulary,
        "notes": list(one.notes),
    }
