"""Visual descriptions of tags: files of them, and the texts by which a tag is looked for (RAM++ 3.2).

A file is JSON Lines, ``{"id": "object:dog", "descriptions": ["...", ...]}``, one tag a line, in any order.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from taglens.errors import VocabularyError
from taglens.vocabulary import Entry, Vocabulary

SHIPPED = Path(str(files("taglens"))) / "assets" / "text" / "descriptions.jsonl"


def read_descriptions(paths: Iterable[Path]) -> dict[str, tuple[str, ...]]:
    """id -> descriptions, of several files; where two describe the same tag, the later one counts.

    Raises:
        VocabularyError: a file is missing or breaks the format; the message names file and line.
    """
    found: dict[str, tuple[str, ...]] = {}
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise VocabularyError(f"cannot read descriptions {path}: {error}") from None
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                id, texts = _row(line, f"{path}, line {number}")
                found[id] = texts
    return found


def _row(line: str, where: str) -> tuple[str, tuple[str, ...]]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise VocabularyError(f"{where}: not JSON ({error})") from None
    if not isinstance(row, dict) or not isinstance(row.get("id"), str):
        raise VocabularyError(f"{where}: expected an object with an id, found {line[:80]}")
    texts = row.get("descriptions")
    if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise VocabularyError(f"{where}: descriptions must be a list of texts, none of them empty")
    return row["id"], tuple(texts)


def describe(vocabulary: Vocabulary, described: Mapping[str, tuple[str, ...]]) -> Vocabulary:
    """The same tags, those that are in ``described`` with these descriptions in place of their own."""
    entries = [replace(e, descriptions=described.get(e.id, e.descriptions)) for e in vocabulary]
    return vocabulary.with_entries(entries)


def prompts(entry: Entry) -> tuple[str, ...]:
    """What stands for a tag in the label bank: its name first, then its descriptions."""
    return (entry.name, *entry.descriptions)
