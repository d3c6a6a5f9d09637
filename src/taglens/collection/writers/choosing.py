"""Which tags of a row are written, under which names, and what is counted on the way.

Knows thresholds, kinds, exclusions and how names are spelled. Refuses to know files and formats.
"""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from taglens.collection.rows_in import StoredRow
from taglens.errors import UsageError
from taglens.results import Kind, Tag, significant
from taglens.vocabulary import normalise


@dataclass(frozen=True, slots=True)
class Choice:
    """What is wanted of each row's tags: threshold first, then kinds and exclusions, then top.

    Attributes:
        threshold: lowest score; None: whatever the row has.
        top: at most so many; None or 0: no limit.
        kinds: only these; empty: all.
        exclude: names (spelling, case and underscores aside) or ids that are left out.
        underscores: names with ``_`` for each space.
    """

    threshold: float | None = None
    top: int | None = None
    kinds: frozenset[Kind] = frozenset()
    exclude: frozenset[str] = frozenset()
    underscores: bool = False

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0.0 <= self.threshold <= 1.0:
            raise UsageError(f"--threshold must lie between 0 and 1, found {self.threshold:g}")
        if self.top is not None and self.top < 0:
            raise UsageError(f"--top must be 0 (no limit) or more, found {self.top}")

    def of(self, tags: Iterable[Tag]) -> tuple[Tag, ...]:
        """The wanted ones, by falling score, each id once."""
        left: dict[str, Tag] = {}
        # Labels without scores stay in their order.
        for tag in sorted(tags, key=lambda tag: -tag.score if is_scored(tag) else 0.0):
            if self.threshold is not None and tag.score < self.threshold:
                continue
            if self.kinds and tag.kind not in self.kinds:
                continue
            if self.exclude and (tag.id in self.exclude or key(tag.name) in self.exclude):
                continue
            named = replace(tag, name=tag.name.replace(" ", "_")) if self.underscores else tag
            left.setdefault(tag.id, named)
        chosen = tuple(left.values())
        return chosen[: self.top] if self.top else chosen


def is_scored(tag: Tag) -> bool:
    """Whether a tag has a score: labels of an annotation have none."""
    return not math.isnan(tag.score)


def score_of(tag: Tag) -> float | None:
    """As files state it."""
    return significant(tag.score) if is_scored(tag) else None


def annotated_by(row: StoredRow, tag: Tag) -> dict[str, Any]:
    """Strategy, stage and votes of an annotation's label; nothing for a scored tag."""
    if row.said is None:
        return {}
    mark = row.said[tag.id]
    votes = None if mark.votes is None else list(mark.votes)
    return {"strategy": row.raw["provenance"]["strategy"], "stage": mark.stage, "votes": votes}


def key(name: str) -> str:
    """A name as it is compared: case, spacing and underscores aside."""
    return normalise(name.replace("_", " "))


def exclusions(names: Iterable[str]) -> frozenset[str]:
    """Names or ids for `Choice.exclude`."""
    return frozenset(spelled for name in names if name for spelled in (name, key(name)))


def is_plain(name: str) -> bool:
    """Whether a name holds only what text files and XML can hold on one line."""
    return bool(name.strip()) and not any(
        character in "\ufffe\uffff" or unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
        for character in name
    )


@dataclass(slots=True)
class Account:
    """What happened so far.

    Attributes:
        written: pictures whose tags are where they were wanted, among them ``unchanged`` ones that had them already.
        left_out: error rows.
        failed: pictures that could not be done; ``on_failure`` is told each one's source and the reason.
        skipped: reason -> pictures passed over on purpose.
        dropped: reason -> tags that the format cannot hold.
    """

    written: int = 0
    unchanged: int = 0
    left_out: int = 0
    failed: int = 0
    tags: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    on_failure: Callable[[str, str], None] = lambda source, reason: None
    on_row: Callable[[], None] = lambda: None

    def fail(self, source: str, reason: str) -> None:
        self.failed += 1
        self.on_failure(source, reason)

    def text(self) -> str:
        """``"12 pictures, 80 tags; left out: 1 error row"``."""
        parts = [f"{_count(self.written, 'picture')}, {_count(self.tags, 'tag')}"]
        if self.unchanged:
            parts.append(f"{self.unchanged} already so")
        if self.failed:
            parts.append(f"{self.failed} failed")
        text = ", ".join(parts)
        if self.left_out:
            text += f"; left out: {_count(self.left_out, 'error row')}"
        for reason, count in self.skipped.most_common():
            text += f"; skipped: {count} {reason}"
        for reason, count in self.dropped.most_common():
            text += f"; {_count(count, 'tag')} not written: {reason}"
        return text


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def chosen(
    rows: Iterable[StoredRow], choice: Choice, account: Account, *, keep_errors: bool = False
) -> Iterator[StoredRow]:
    """Rows with the wanted tags only; error rows are counted, and left out unless ``keep_errors``."""
    for row in rows:
        account.on_row()
        prediction = row.prediction
        if row.said is not None and (choice.threshold is not None or choice.top):
            raise UsageError(
                "--threshold and --top go by scores, and labels of taglens annotate have none; choose by --kinds and "
                "--exclude, or with taglens annotate review"
            )
        if prediction.error is not None or prediction.tags is None:
            account.left_out += not keep_errors
            if keep_errors:
                yield row
            continue
        yield replace(row, prediction=replace(prediction, tags=choice.of(prediction.tags)))
