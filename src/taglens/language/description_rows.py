"""Rows of descriptions: what one says, the file of them, and how they enter a vocabulary.

A row says where its texts come from: a model and the wording of its questions, or templates, which know nothing but
the tag's name, kind, parents and synonyms. The same rows give the same bytes. The file is JSON Lines, one tag a line,
and is read by `taglens.language.descriptions`. Refuses to know how texts are had (`taglens.language.describe`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from taglens.errors import VocabularyError
from taglens.language.description_text import Reason
from taglens.language.descriptions import describe
from taglens.results import to_line
from taglens.vocabulary import Vocabulary

Source = Literal["llm", "template"]


@dataclass(frozen=True, slots=True)
class Described:
    """A row of the file: one tag and how it is described.

    Attributes:
        source: who wrote the descriptions.
        model: which language model, by its own words; "" for templates.
        prompts: fingerprint of the questions' wording; "" for templates.
        intents: per description the intent that it answers; empty for templates.
        asked: questions put about it.
        dropped: reason -> texts that were answered and not kept.
        shortened: descriptions that lost sentences at their end.
        error: why there are fewer than wanted, where it is not what was dropped alone: type and message.
    """

    id: str
    name: str
    descriptions: tuple[str, ...]
    source: Source
    model: str = ""
    prompts: str = ""
    intents: tuple[str, ...] = ()
    asked: int = 0
    dropped: Mapping[Reason, int] | None = None
    shortened: int = 0
    error: Mapping[str, str] | None = None

    @property
    def is_short(self) -> bool:
        """Whether something failed for it that asking again, or another model, may mend."""
        return self.error is not None and not (self.source == "template" and self.error["type"] == "unusable")

    def to_dict(self) -> dict[str, Any]:
        row: dict[str, Any] = {"id": self.id, "name": self.name, "source": self.source}
        if self.asked:
            row |= {"model": self.model, "prompts": self.prompts, "asked": self.asked}
        row["descriptions"] = list(self.descriptions)
        if self.intents:
            row["intents"] = list(self.intents)
        if self.dropped:
            row["dropped"] = {reason: self.dropped[reason] for reason in sorted(self.dropped)}
        if self.shortened:
            row["shortened"] = self.shortened
        if self.error:
            row["error"] = dict(self.error)
        return row


def write_rows(
    rows: Iterable[Described],
    path: Path,
    *,
    others: Mapping[str, str] | None = None,
    order: Sequence[str] = (),
) -> None:
    """Write the file, beside and renamed.

    Args:
        others: id -> line (`read_lines`) of tags that were not described now; these lines stay as they are.
        order: ids of the whole vocabulary, by which rows and other lines are put in order.
    """
    lines = {row.id: to_line(row.to_dict()) for row in rows}
    if others:
        lines = {id: line for id in order if (line := lines.get(id, others.get(id))) is not None}
    beside = path.with_name(path.name + ".part")
    beside.write_text("".join(line + "\n" for line in lines.values()), encoding="utf-8", newline="\n")
    beside.replace(path)


def read_lines(path: Path) -> dict[str, str]:
    """id -> line of a file of descriptions.

    Raises:
        VocabularyError: it cannot be read, or is something else, which must not be written over.
    """
    found: dict[str, str] = {}
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise VocabularyError(f"cannot read the descriptions {path}: {error}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            found[row["id"]] = line
            is_row = isinstance(row["descriptions"], list)
        except (ValueError, RecursionError, TypeError, KeyError):
            is_row = False
        if not is_row:
            raise VocabularyError(
                f"{path}, line {number}: expected a row of descriptions with an id, found {line[:80]!r}; name "
                "another file, which is made if it is not there"
            )
    return found


def merge(vocabulary: Vocabulary, rows: Iterable[Described]) -> tuple[Vocabulary, tuple[str, ...]]:
    """The vocabulary with these descriptions in place of its own, and the ids of tags that kept their own.

    A model's descriptions replace what a tag had. Templates say less than anything that was there, and only stand in
    where there is nothing; a row without descriptions changes nothing.
    """
    found: dict[str, tuple[str, ...]] = {}
    own: list[str] = []
    for row in rows:
        had = row.id in vocabulary and vocabulary[vocabulary.position(row.id)].descriptions
        if row.descriptions and not (had and row.source == "template"):
            found[row.id] = row.descriptions
        elif had:
            own.append(row.id)
    return describe(vocabulary, found), tuple(own)
