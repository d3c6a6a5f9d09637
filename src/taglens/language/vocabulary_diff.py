"""What happened between two vocabularies.

Knows entries and ids; refuses to know how either vocabulary was made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from taglens.vocabulary import Entry, Vocabulary, normalise


@dataclass(frozen=True, slots=True)
class Difference:
    """How one vocabulary became another.

    Attributes:
        added, removed: ids.
        renamed: (old id, new id): a removed tag whose name is now a synonym of an added one, or the reverse.
        changed: id -> the fields that differ.
        moved: the tags that both have stand in another order.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    renamed: tuple[tuple[str, str], ...]
    changed: Mapping[str, tuple[str, ...]]
    moved: bool

    def rows(self) -> list[dict[str, Any]]:
        """A row for each change: ``{"change", "id"}``, and ``to`` or ``fields`` where there are any."""
        rows: list[dict[str, Any]] = [{"change": "removed", "id": id} for id in self.removed]
        rows += [{"change": "added", "id": id} for id in self.added]
        rows += [{"change": "renamed", "id": gone, "to": come} for gone, come in self.renamed]
        rows += [
            {"change": "changed", "id": id, "fields": list(fields)} for id, fields in self.changed.items()
        ]
        if self.moved:
            rows.append({"change": "reordered"})
        return rows


def change_text(row: Mapping[str, Any]) -> str:
    """A row of `Difference.rows` as a line that a person reads; ``into`` says what a removed tag was merged into."""
    signs = {"removed": "-", "added": "+", "renamed": ">", "changed": "~", "reordered": "~"}
    what = str(row.get("id", "the order of the tags"))
    if "to" in row:
        what += f" -> {row['to']}"
    if row.get("into"):
        what += f" (merged into {row['into']})"
    if "fields" in row:
        what += f" ({', '.join(row['fields'])})"
    return f"{signs[row['change']]} {what}"


def compare(old: Vocabulary, new: Vocabulary) -> Difference:
    """What was added, removed, renamed or changed between two vocabularies."""
    before = {entry.id: entry for entry in old}
    after = {entry.id: entry for entry in new}
    added = [id for id in after if id not in before]
    removed = [id for id in before if id not in after]
    renamed: list[tuple[str, str]] = []
    for gone in removed:
        for come in added:
            if _same_meaning(before[gone], after[come]) and come not in {new_id for _, new_id in renamed}:
                renamed.append((gone, come))
                break
    away = {id for pair in renamed for id in pair}
    changed: dict[str, tuple[str, ...]] = {}
    for id in (id for id in before if id in after):
        fields = tuple(
            field
            for field in Entry.__dataclass_fields__
            if getattr(before[id], field) != getattr(after[id], field)
        )
        if fields:
            changed[id] = fields
    return Difference(
        added=tuple(id for id in added if id not in away),
        removed=tuple(id for id in removed if id not in away),
        renamed=tuple(renamed),
        changed=changed,
        moved=[id for id in before if id in after] != [id for id in after if id in before],
    )


def _same_meaning(old: Entry, new: Entry) -> bool:
    if old.kind != new.kind:
        # The same name under another kind is a decision about the same tag; a synonym across kinds is not.
        return normalise(old.name) == normalise(new.name)
    return normalise(old.name) in map(normalise, new.synonyms) or normalise(new.name) in map(
        normalise, old.synonyms
    )
