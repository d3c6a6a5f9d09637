"""Rows of ``taglens annotate`` read back: which labels a picture has, and where each of them comes from.

Knows labels.jsonl with its provenance, in the folder of an annotation or on its own. Refuses to know what becomes of
rows: exports (`taglens.collection.rows_in`), reviews (`taglens.collection.annotation_review`), figures
(`taglens.evaluation.annotation_report`).

Where a picture was done again its last row counts, in the place of the first.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from taglens.collection.annotation_store import LABELS, RUN, identity
from taglens.errors import DataError, UsageError
from taglens.results import Kind
from taglens.vocabulary import tag_id

State = Literal["given", "dropped", "unsettled", "absent"]

REVIEW = "review"  # the stage of a label that a person accepted
_KINDS = frozenset(get_args(Kind))
_LONGEST_LINE = 64 << 20


@dataclass(frozen=True, slots=True)
class Mark:
    """A tag as a row names it.

    Attributes:
        kind: None where the row does not say.
        stage: which had the last word; None for tags that are not given.
        votes: (yes, answers that could be read); None where nobody voted.
        tagger_score: what the tagger of a hybrid gave it; None elsewhere.
    """

    name: str
    kind: Kind | None = None
    stage: str | None = None
    votes: tuple[int, int] | None = None
    tagger_score: float | None = None

    @property
    def id(self) -> str:
        """As a vocabulary numbers it; of kind "typed" where the row names none."""
        return tag_id(self.kind or "typed", self.name)


@dataclass(frozen=True, slots=True)
class Annotated:
    """One picture's row.

    Attributes:
        where: file and line, for messages.
        path: the picture's file as the system spells it.
        given: None where the picture could not be used.
        state: a sum over everything that a reviewer is shown: another one, and decisions are about something else.
        raw: the row as it stood; line: its bytes.
    """

    where: str
    source: str
    path: str
    given: tuple[Mark, ...] | None
    dropped: tuple[Mark, ...]
    unsettled: tuple[Mark, ...]
    model: str
    strategy: str
    vocabulary: str
    raw: Mapping[str, Any]
    line: bytes

    @property
    def source_bytes(self) -> str | None:
        """The name's bytes in base64 where ``source`` had to replace some."""
        coded: str | None = self.raw.get("source_bytes")
        return coded

    @property
    def key(self) -> str:
        """What this picture is told from others by."""
        return identity(self.source, self.source_bytes)

    @property
    def state(self) -> str:
        provenance = self.raw["provenance"]
        shown = [
            self.raw.get("signature"),
            self.raw.get("labels"),
            self.raw.get("kind"),
            *(provenance.get(name) for name in ("stages", "dropped", "unsettled")),
        ]
        return hashlib.sha256(json.dumps(shown, ensure_ascii=True).encode()).hexdigest()[:16]

    def marks(self) -> Iterator[tuple[State, Mark]]:
        """Everything that was said of it."""
        yield from (("given", mark) for mark in self.given or ())
        yield from (("dropped", mark) for mark in self.dropped)
        yield from (("unsettled", mark) for mark in self.unsettled)


def is_annotation(folder: Path) -> bool:
    """Whether ``taglens annotate`` wrote this folder."""
    return (folder / RUN).is_file() and not (folder / "shards").is_dir()


def labels_file(source: Path) -> Path:
    """The file of rows that is meant by a folder, or by itself.

    Raises:
        UsageError: there is none.
    """
    if source.is_dir() and is_annotation(source):
        source = source / LABELS
    if not source.is_file():
        raise UsageError(f"{source} is no annotation; name the folder given to taglens annotate --out")
    return source


def read_annotated(source: Path) -> Iterator[Annotated]:
    """Rows in order, from the folder of an annotation or a labels.jsonl of its form; two passes over the file.

    Raises:
        UsageError: there is none.
        DataError: a row is none of an annotation; file and line are named.
    """
    path = labels_file(source)
    last: dict[str, int] = {}
    for number, line in _lines(path):
        row = _object(line, f"{path}, line {number}")
        last[identity(str(row.get("source")), row.get("source_bytes"))] = number
    wanted = set(last.values())
    if len(wanted) == 0:
        return
    if wanted == set(range(1, max(wanted) + 1)):
        for number, line in _lines(path):
            yield parse(line, where=f"{path}, line {number}", home=path.parent)
        return
    # Pictures that were done again stand where they stood first, which takes random access.
    offsets = _offsets(path)
    for number in last.values():
        with path.open("rb") as file:
            file.seek(offsets[number])
            yield parse(file.readline(), where=f"{path}, line {number}", home=path.parent)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(_LONGEST_LINE):
            number += 1
            if len(line) == _LONGEST_LINE:
                raise DataError(f"{path}, line {number} is longer than {_LONGEST_LINE >> 20} MiB: no row")
            # Half a line at the end is what a run that was killed, or is at work, leaves.
            if line.strip() and line.endswith(b"\n"):
                yield number, line


def _offsets(path: Path) -> dict[int, int]:
    found, place = {}, 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            found[number] = place
            place += len(line)
    return found


def _object(line: bytes | str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: expected a row in JSON, found something else ({error})") from None
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected a JSON object, found {type(row).__name__}")
    return row


def is_row(row: Mapping[str, Any]) -> bool:
    """Whether a row has the form that ``taglens annotate`` writes."""
    return "labels" in row and "image" in row and isinstance(row.get("provenance"), dict)


def parse(line: bytes | str, *, where: str, home: Path) -> Annotated:
    """A line to a row.

    Args:
        home: what its picture's name is relative to.

    Raises:
        DataError: it has not the form of an annotation's row.
    """
    row = _object(line, where)
    if not is_row(row):
        raise DataError(
            f"{where} is no row of an annotation: it needs image, labels and provenance, and has "
            f"{', '.join(map(repr, list(row)[:8])) or 'nothing'}; name a folder of taglens annotate"
        )
    provenance = row["provenance"]
    texts = [row["image"], row.get("source"), *map(provenance.get, ("model", "strategy", "vocabulary"))]
    if not all(isinstance(text, str) for text in texts):
        raise DataError(
            f"{where}: image, source, model, strategy and vocabulary must be texts, found {texts!r:.120}"
        )
    source = row["source"]
    given = None
    if row["labels"] is not None:
        given = _marks(row["labels"], row.get("kind"), where, "labels")
        given = _with_origin(given, provenance, where)
    return Annotated(
        where=where,
        source=source,
        path=_path(row, home, where),
        given=given,
        dropped=_marks(provenance.get("dropped", []), provenance.get("dropped_kind"), where, "dropped"),
        unsettled=_marks(
            provenance.get("unsettled", []), provenance.get("unsettled_kind"), where, "unsettled"
        ),
        model=provenance["model"],
        strategy=provenance["strategy"],
        vocabulary=provenance["vocabulary"],
        raw=row,
        line=line.encode() if isinstance(line, str) else line,
    )


def _path(row: Mapping[str, Any], home: Path, where: str) -> str:
    if (coded := row.get("source_bytes")) is not None:
        try:
            return os.fsdecode(base64.b64decode(coded, validate=True))
        except (binascii.Error, ValueError, TypeError):
            raise DataError(f"{where}: expected base64 in 'source_bytes', found {coded!r:.60}") from None
    image: str = row["image"]
    if "\0" in image or not image:
        raise DataError(f"{where}: {image!r:.60} is no file's name")
    place = os.path.normpath(home.absolute() / image)
    # What is no file of its own (a tar's member, an address) is called as it was typed.
    return image if image == row["source"] and not os.path.lexists(place) else place


def _marks(names: Any, kinds: Any, where: str, what: str) -> tuple[Mark, ...]:
    if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
        raise DataError(f"{where}: expected {what} to be a list of names, found {names!r:.60}")
    if kinds is None or isinstance(kinds, str):
        kinds = [kinds] * len(names)
    if not isinstance(kinds, list) or len(kinds) != len(names) or not set(kinds) <= _KINDS | {None}:
        raise DataError(
            f"{where}: expected a kind for each of {len(names)} {what} ({', '.join(sorted(_KINDS))} or null), found "
            f"{kinds!r:.60}"
        )
    return tuple(
        Mark(name, None if kind == "typed" else cast(Kind, kind))
        for name, kind in zip(names, kinds, strict=True)
    )


def _with_origin(marks: Sequence[Mark], provenance: Mapping[str, Any], where: str) -> tuple[Mark, ...]:
    empty = [None] * len(marks)
    stages, votes, scores = (
        empty if provenance.get(name) is None else provenance[name]
        for name in ("stages", "votes", "tagger_scores")
    )
    for name, values in (("stages", stages), ("votes", votes), ("tagger_scores", scores)):
        if not isinstance(values, list) or len(values) != len(marks):
            raise DataError(f"{where}: expected {len(marks)} {name}, one a label, found {values!r:.60}")
    found = []
    for mark, stage, vote, score in zip(marks, stages, votes, scores, strict=True):
        counted = (
            isinstance(vote, list) and len(vote) == 2 and all(isinstance(n, int) and n >= 0 for n in vote)
        )
        scored = isinstance(score, int | float) and math.isfinite(score)
        if not ((vote is None or counted) and (stage is None or isinstance(stage, str))):
            raise DataError(f"{where}: {mark.name!r} has the stage {stage!r:.40} and the votes {vote!r:.40}")
        if not (score is None or scored):
            raise DataError(f"{where}: {mark.name!r} has the tagger's score {score!r:.40}")
        found.append(Mark(mark.name, mark.kind, stage, None if vote is None else (vote[0], vote[1]), score))
    return tuple(found)
