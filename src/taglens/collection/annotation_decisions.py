"""What a person decided about labels of an annotation, put into its rows; and taken out again.

Knows the file that the page of review gives, when a decision is stale, and the journal that lets it be undone.
Refuses to know pages (`taglens.collection.annotation_review`).

Decisions about a picture are made in view of its row: where the row says something else by now, all of them are
refused. Before rows are changed in place, the journal (``reviews.jsonl`` of the folder) holds them as they were.
"""

from __future__ import annotations

import json
import os
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

from taglens.collection.annotated import REVIEW, Annotated, Mark, labels_file, parse, read_annotated
from taglens.collection.annotation_store import LABELS, REVIEWS, AnnotationStore, identity
from taglens.collection.store import replace
from taglens.errors import DataError, UsageError
from taglens.results import Kind, to_line

FORMAT_VERSION = 1
_FORM = (
    '{"taglens_review": 1, "decisions": [{"source", "state", "accept": [{"name", "kind"}], "reject": […]}]}'
)
_VERDICTS = ("accept", "reject")


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided about one picture whose row was in this state."""

    source: str
    state: str
    accept: tuple[Mark, ...]
    reject: tuple[Mark, ...]
    source_bytes: str | None = None

    @property
    def key(self) -> str:
        """Of the picture, as `Annotated.key`."""
        return identity(self.source, self.source_bytes)


@dataclass(slots=True)
class Applied:
    """What became of decisions; a picture's stale ones are all of its.

    Attributes:
        unknown: pictures that the annotation does not have, or that it could not use.
    """

    pictures: int = 0
    accepted: int = 0
    rejected: int = 0
    added: int = 0
    removed: int = 0
    stale: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def read_decisions(paths: Iterable[Path]) -> dict[str, Decision]:
    """A picture's key -> decision, of one or more files.

    Raises:
        DataError: a file is none, or two of them speak of one picture (the later page was made before the first was
            applied: one of the two would be stale).
    """
    found: dict[str, Decision] = {}
    for path in paths:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"cannot read decisions from {path}: {error}; expected {_FORM}") from None
        rows = content.get("decisions") if isinstance(content, dict) else None
        if not isinstance(rows, list) or content.get("taglens_review") != FORMAT_VERSION:
            raise DataError(f"{path} is no file of a review; expected {_FORM}")
        for number, row in enumerate(rows, 1):
            decision = _decision(row, f"{path}, decision {number}")
            if decision.key in found:
                raise DataError(
                    f"{path}, decision {number}: {decision.source} was decided about before; apply one file, then "
                    "make the page anew"
                )
            found[decision.key] = decision
    return found


def _decision(row: Any, where: str) -> Decision:
    if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in ("source", "state")):
        raise DataError(f"{where}: expected source and state, found {row!r:.80}")
    if not isinstance(row.get("source_bytes"), str | None):
        raise DataError(f"{where}: expected source_bytes in base64, found {row['source_bytes']!r:.60}")
    accept, reject = (_marks(row.get(name, []), f"{where}, {name}") for name in _VERDICTS)
    if both := {mark.id for mark in accept} & {mark.id for mark in reject}:
        raise DataError(f"{where}: {min(both)} is accepted and rejected")
    return Decision(row["source"], row["state"], accept, reject, row.get("source_bytes"))


def _marks(rows: Any, where: str) -> tuple[Mark, ...]:
    if not isinstance(rows, list):
        raise DataError(f"{where}: expected a list, found {rows!r:.60}")
    found: dict[str, Mark] = {}
    for row in rows:
        name, kind = (row.get("name"), row.get("kind")) if isinstance(row, dict) else (None, None)
        if not isinstance(name, str) or not name.strip() or kind not in (*get_args(Kind), None):
            raise DataError(f"{where}: expected a name and a kind or null, found {row!r:.60}")
        mark = Mark(name, cast("Kind | None", kind))
        found[mark.id] = mark
    return tuple(found.values())


# -- one row ---------------------------------------------------------------------------------------


def decided(row: Annotated, decision: Decision) -> dict[str, Any]:
    """A row with decisions in it: accepted labels have the stage "review" and no votes, rejected ones are dropped."""
    given = list(row.given or ())
    accept = {mark.id: mark for mark in decision.accept}
    reject = {mark.id: mark for mark in decision.reject}
    confirmed = [Mark(m.name, m.kind, REVIEW, None, m.tagger_score) if m.id in accept else m for m in given]
    have = {mark.id for mark in given}
    labels = [mark for mark in confirmed if mark.id not in reject]
    labels += [Mark(mark.name, mark.kind, REVIEW) for id, mark in accept.items() if id not in have]
    dropped = [mark for mark in row.dropped if mark.id not in accept]
    dropped += [mark for id, mark in reject.items() if id not in {one.id for one in dropped}]
    unsettled = [mark for mark in row.unsettled if mark.id not in accept and mark.id not in reject]
    provenance = dict(row.raw["provenance"])
    provenance |= {
        "stages": [mark.stage for mark in labels],
        "votes": [None if mark.votes is None else list(mark.votes) for mark in labels],
        "dropped": [mark.name for mark in dropped],
        "dropped_kind": [mark.kind for mark in dropped],
        "unsettled": [mark.name for mark in unsettled],
        "unsettled_kind": [mark.kind for mark in unsettled],
    }
    if "tagger_scores" in provenance:
        provenance["tagger_scores"] = [mark.tagger_score for mark in labels]
    earlier = provenance.get("reviewed", {})
    said = {**earlier, **dict.fromkeys(accept, "accepted"), **dict.fromkeys(reject, "rejected")}
    provenance["reviewed"] = said
    return {
        **row.raw,
        "labels": [mark.name for mark in labels],
        "kind": [mark.kind for mark in labels],
        "provenance": provenance,
    }


@dataclass(frozen=True, slots=True)
class _Change:
    row: Annotated
    line: bytes
    changed: bool


def _carried_out(
    rows: Iterable[Annotated], decisions: Mapping[str, Decision], applied: Applied
) -> Iterator[_Change]:
    left = dict(decisions)
    for row in rows:
        decision = left.pop(row.key, None)
        if decision is None:
            yield _Change(row, row.line, False)
        elif row.given is None:
            applied.unknown.append(row.source)
            yield _Change(row, row.line, False)
        elif row.state != decision.state:
            applied.stale.append(row.source)
            yield _Change(row, row.line, False)
        else:
            new = decided(row, decision)
            have = Counter(mark.id for mark in row.given)
            applied.pictures += 1
            applied.accepted += len(decision.accept)
            applied.rejected += len(decision.reject)
            applied.added += sum(mark.id not in have for mark in decision.accept)
            applied.removed += sum(have[mark.id] for mark in decision.reject)
            yield _Change(row, (to_line(new) + "\n").encode(), True)
    applied.unknown += [decision.source for decision in left.values()]


# -- files -----------------------------------------------------------------------------------------


def apply_to(source: Path, decisions: Mapping[str, Decision], out: Path) -> Applied:
    """Rows with decisions as another file; pictures' names are relative to where it lies.

    Raises:
        UsageError: ``out`` is the file that is read, or lies in no folder.
        DataError: a row is damaged.
    """
    path = labels_file(source)
    if out.is_dir() or not out.parent.is_dir():
        raise UsageError(f"--out {out}: expected a file name in a folder that exists")
    if out.exists() and out.samefile(path):
        raise UsageError(f"--out {out} is the file that is read; leave --out out to change it in place")
    applied = Applied()
    lines = []
    for change in _carried_out(read_annotated(source), decisions, applied):
        lines.append(_moved(change, path.parent, out.parent))
    replace(out, b"".join(lines))
    return applied


def _moved(change: _Change, home: Path, there: Path) -> bytes:
    row = json.loads(change.line)
    path = change.row.path
    if row.get("source_bytes") is None and os.path.isabs(path):  # noqa: PTH117
        if home.resolve() == there.resolve():
            return change.line
        row["image"] = Path(os.path.relpath(path, os.path.realpath(there))).as_posix()
    return (to_line(row) + "\n").encode()


def apply_in_place(folder: Path, decisions: Mapping[str, Decision]) -> Applied:
    """Rows of a folder with decisions; what they were stands in its journal first (`undo`).

    Raises:
        UsageError: this is no folder of an annotation, or a run is at work on it.
        DataError: a row is damaged.
    """
    store = AnnotationStore(_folder(folder))
    applied = Applied()
    with store.held():
        changes = list(_carried_out(read_annotated(folder), decisions, applied))
        entries = [
            {
                "source": change.row.key,
                "before": change.row.line.decode(),
                "after": change.line.decode(),
            }
            for change in changes
            if change.changed
        ]
        if entries:
            _note(folder, {"review": secrets.token_hex(8), "rows": entries})
            replace(folder / LABELS, b"".join(change.line for change in changes))
    return applied


@dataclass(frozen=True, slots=True)
class Undone:
    """What became of the last review that was not undone: rows as before it, and rows that have changed since."""

    restored: int
    changed_since: tuple[str, ...]


def undo(folder: Path) -> Undone:
    """Take the last review of a folder out of its rows, byte by byte; rows that were changed since stay.

    Raises:
        UsageError: there is none, or a run is at work on the folder.
        DataError: the journal is damaged.
    """
    store = AnnotationStore(_folder(folder))
    with store.held():
        entry = _last(folder)
        wanted = {row["source"]: row for row in entry["rows"]}
        lines, strange, restored = [], [], 0
        for row in read_annotated(folder):
            known = wanted.pop(row.key, None)
            line = row.line
            if known is not None and line == known["after"].encode():
                line, restored = known["before"].encode(), restored + 1
            elif known is not None and line != known["before"].encode():
                strange.append(row.source)
            lines.append(line)
        if restored:
            replace(folder / LABELS, b"".join(lines))
        _note(folder, {"undone": entry["review"]})
    return Undone(restored, (*strange, *(key.partition("\0")[0] for key in wanted)))


def _folder(folder: Path) -> Path:
    if not folder.is_dir():
        raise UsageError(
            f"{folder} is no folder of taglens annotate; name a file to write: --out labels.jsonl"
        )
    labels_file(folder)
    return folder


def _note(folder: Path, entry: Mapping[str, Any]) -> None:
    """A line at the journal's end, on the disk when this returns; half a line that a kill left goes first."""
    with (folder / REVIEWS).open("a+b") as file:
        file.seek(0)
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)
        file.write((to_line(entry) + "\n").encode())
        file.flush()
        os.fsync(file.fileno())


def _last(folder: Path) -> dict[str, Any]:
    path = folder / REVIEWS
    reviews: list[dict[str, Any]] = []
    undone: set[str] = set()
    content = path.read_bytes() if path.is_file() else b""
    for number, line in enumerate(content.splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            continue
        try:
            entry = json.loads(line)
            if "undone" in entry:
                undone.add(entry["undone"])
            else:
                _require_rows(entry["rows"], folder)
                reviews.append({"review": str(entry["review"]), "rows": entry["rows"]})
        except (ValueError, TypeError, KeyError, AttributeError):
            raise DataError(f"{path}, line {number} is damaged; the rows before it cannot be told") from None
    left = [entry for entry in reviews if entry["review"] not in undone]
    if not left:
        raise UsageError(f"{folder} has no review that could be undone")
    return left[-1]


def _require_rows(rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
    for row in rows:
        for line in (row["before"], row["after"]):
            parse(line, where=str(folder / REVIEWS), home=folder)
        row["source"]
