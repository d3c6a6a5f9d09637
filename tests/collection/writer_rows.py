"""Rows for the writers' tests, without a model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from taglens.collection.rows_in import StoredRow, parse_row
from taglens.collection.writers.choosing import Account

MODEL, VOCABULARY = "toy@0123456789ab", "words@ba9876543210"


def tag(name: str, score: float = 0.5, kind: str = "object") -> dict[str, Any]:
    return {"id": f"{kind}:{name}", "name": name, "kind": kind, "score": score}


def row(source: str, *tags: str | Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    """A row as ``taglens tag --json`` prints it; tags given by name get falling scores."""
    given = [
        tag(one, round(0.9 - index / 100, 2)) if isinstance(one, str) else dict(one)
        for index, one in enumerate(tags)
    ]
    return {
        "source": source,
        "width": 40,
        "height": 30,
        "tags": given,
        "caption": None,
        "model": MODEL,
        "vocabulary": VOCABULARY,
        "notes": [],
        "error": None,
        **fields,
    }


def failed(source: str) -> dict[str, Any]:
    error = {"type": "not_image", "message": "no picture"}
    return row(source, tags=None, width=None, height=None, error=error)


def stored(*rows: Mapping[str, Any]) -> list[StoredRow]:
    return [
        parse_row(json.dumps(one), number=number, where=f"row {number}") for number, one in enumerate(rows)
    ]


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in rows), encoding="utf-8")
    return path


def account() -> tuple[Account, list[tuple[str, str]]]:
    """An account, and the failures that it is told of."""
    failures: list[tuple[str, str]] = []
    return Account(on_failure=lambda source, reason: failures.append((source, reason))), failures
