"""Rows about pictures, whatever they say: their order, their count, and what goes to which stream.

Knows sources that cannot be opened, interruptions and the exit status. Refuses to know how a row is made
(`taglens.inference.tagger`) or laid out for a person (`taglens.cli.listing`).
"""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from taglens.cli.console import OK, SOME_FAILED, ProgressLine, is_terminal, say
from taglens.errors import UsageError
from taglens.inference.sources import Found, Skipped, Source, Unopened
from taglens.results import Failure

SKIPPED_WORDS = {
    "not_image": "no image",
    "hidden": "hidden",
    "linked": "a link to a folder visited elsewhere",
    "too_deep": "too deep",
}


class Row(Protocol):
    """What a picture's row must have to be delivered."""

    @property
    def error(self) -> Failure | None: ...

    def to_json(self) -> str: ...


R = TypeVar("R", bound=Row)


@dataclass(slots=True)
class Tally:
    """What happened so far."""

    pictures: int = 0
    failed: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    interrupted: bool = False

    def skipped_text(self) -> str:
        """``"skipped: 2 no image, 1 hidden"``, or nothing."""
        if not self.skipped:
            return ""
        reasons = (f"{count} {SKIPPED_WORDS[reason]}" for reason, count in self.skipped.most_common())
        return "skipped: " + ", ".join(reasons)

    def text(self) -> str:
        parts = [f"{self.pictures} picture{'' if self.pictures == 1 else 's'}"]
        if self.failed:
            parts.append(f"{self.failed} failed")
        text = ", ".join(parts)
        return f"{text}; {self.skipped_text()}" if self.skipped else text


def watched(found: Iterable[Found], *, quiet: bool) -> tuple[Iterable[Found], ProgressLine]:
    """What was found, and a progress line; with a known end where someone is watching.

    Otherwise work begins with the first name, before the last is known.
    """
    total = 0
    if not quiet and is_terminal(sys.stderr):
        found = list(found)
        total = sum(isinstance(item, Source) for item in found)
    return found, ProgressLine(total)


def rows(
    found: Iterable[Found],
    make: Callable[[Iterator[Source]], Iterator[R]],
    barred_row: Callable[[Unopened], R],
    *,
    tally: Tally,
    purpose: str = "tag",
) -> Iterator[tuple[R, Path]]:
    """One row per picture, with its path, in order; a folder that cannot be listed is an error row.

    Args:
        make: pictures to their rows, in order and lazily.
        barred_row: the row of a source that no model need see.
        tally: what is skipped is counted there as the names go by.
        purpose: what was to be done, for the message that says that nothing was.

    Raises:
        UsageError: nothing was there to look at.
    """
    paths: deque[Path] = deque()
    # Error rows that need no model, each with the number of pictures that come before it.
    barred: deque[tuple[int, Unopened]] = deque()
    asked = 0

    def pictures() -> Iterator[Source]:
        nonlocal asked
        for item in found:
            if isinstance(item, Skipped):
                tally.skipped[item.reason] += 1
            elif isinstance(item, Unopened):
                barred.append((asked, item))
            else:
                asked += 1
                paths.append(item.path)
                yield item

    given = 0
    for row in make(pictures()):
        while barred and barred[0][0] <= given:
            item = barred.popleft()[1]
            yield barred_row(item), item.source.path
        yield row, paths.popleft()
        given += 1
    if not given and all(item.failure.type == "not_found" for _, item in barred):
        reasons = [item.failure.message for _, item in barred] or ["no picture in the given folders"]
        if tally.skipped:
            reasons.append(tally.skipped_text())
        raise UsageError(f"nothing to {purpose}: {'; '.join(reasons)}")
    for _, item in barred:
        yield barred_row(item), item.source.path


def deliver(
    stream: Iterable[tuple[R, Path]], show: Callable[[R], None], *, tally: Tally, progress: ProgressLine
) -> Iterator[tuple[R, Path]]:
    """Show and count each row as it passes. An interruption ends the stream; the tally notes it."""
    try:
        for row, path in stream:
            progress.clear()
            show(row)
            failed = int(row.error is not None)
            tally.pictures += 1
            tally.failed += failed
            progress.advance(failed=failed)
            yield row, path
    except KeyboardInterrupt:
        tally.interrupted = True
    finally:
        progress.clear()


def show_json(row: Row) -> None:
    """One line on standard output, on its way before the next picture is read."""
    sys.stdout.write(row.to_json() + "\n")
    sys.stdout.flush()


def conclude(tally: Tally, *, quiet: bool, more: str = "") -> int:
    """Say what was done, with ``more`` behind it, and return the exit status.

    Raises:
        KeyboardInterrupt: one ended the work.
    """
    if not quiet and (tally.pictures > 1 or tally.failed or tally.skipped):
        say(tally.text() + more)
    if tally.interrupted:
        raise KeyboardInterrupt
    return SOME_FAILED if tally.failed else OK
