"""Captions to their parts, one or millions.

Knows batches, processes and the shipped files; what a labelled caption means is ``reading``'s business. The
words come out as the caption has them, a few qualities in one spelling, lemmas where the contract says so.
Deterministic, no torch, total over strings, linear in the text's length.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib.resources import files
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar

from taglens.errors import DataError
from taglens.language.parsed import ParsedCaption
from taglens.language.reading import Reading, Word
from taglens.language.tagger import Tagger, WordTable, default_tagger
from taglens.language.tokens import tokenize

__all__ = ["CaptionParser", "ParsedCaption", "parse", "parse_lines", "shipped_names"]

_Done = TypeVar("_Done")

# Captions that are split, labelled and read together: each of the three goes faster for many in a row.
_TOGETHER = 512
# Captions that a process takes at a time; a shorter list is read before another process has started.
_PER_TASK = 4096


class CaptionParser:
    """Parses captions with one tagger; safe to share between threads."""

    def __init__(self, tagger: Tagger | None = None, names: Mapping[str, str] | None = None) -> None:
        """Args:
        tagger: the labels' source; the shipped one when None.
        names: object as captions write it -> its name ("cell phone" -> "cellphone"); the shipped list when
            None.
        """
        self._tagger = default_tagger() if tagger is None else tagger
        self._names = shipped_names() if names is None else names
        self._table = self._tagger.table(self._describe)

    def parse(self, text: str) -> ParsedCaption:
        """The caption's parts; an empty caption has none. Raises nothing for any string."""
        return next(self.parse_many((text,)))

    def parse_many(self, texts: Iterable[str]) -> Iterator[ParsedCaption]:
        """What ``parse`` gives for each text, in order, many times faster."""
        texts, names = iter(texts), self._names
        while batch := list(islice(texts, _TOGETHER)):
            if self._table.full:
                self._table = self._tagger.table(self._describe)
            table = self._table  # another thread may start a new one meanwhile
            rows = [_rows_of(text, table) for text in batch]
            said = table.said.__getitem__
            for text, here, labels in zip(batch, rows, self._tagger.label(rows, table), strict=True):
                yield Reading(text, names).read(list(map(said, here)), labels)

    def _describe(self, word: str) -> Word:
        return Word.of(word, self._tagger.verbs)


def _rows_of(text: str, table: WordTable[Word]) -> list[int]:
    # Entities may hold spaces and clitics may follow one: such captions are split as a whole.
    whole = "'" in text or "&" in text or "’" in text
    known = table.known
    rows: list[int] = []
    for part in tokenize(text) if whole else text.lower().split():
        rows += known[part]
    return rows


def read_names(path: Path) -> Mapping[str, str]:
    """Lines of ``written = name``; what follows # is a remark.

    Raises:
        DataError: a line is neither.
    """
    names = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        written, equals, name = line.partition("#")[0].partition("=")
        if equals and written.strip() and name.strip():
            names[written.strip()] = name.strip()
        elif line.partition("#")[0].strip():
            raise DataError(f"{path}, line {number}: expected 'written = name', found {line!r}.")
    return names


def shipped_names() -> Mapping[str, str]:
    """The reviewed list of objects that captions write in several ways (assets/words/names.txt)."""
    return read_names(Path(str(files("taglens") / "assets" / "words" / "names.txt")))


@lru_cache(maxsize=1)
def _default_parser() -> CaptionParser:
    return CaptionParser()


def parse(text: str) -> ParsedCaption:
    """``text``'s parts, by the shared default parser."""
    return _default_parser().parse(text)


def parse_lines(lines: Iterable[str], *, workers: int = 1) -> Iterator[ParsedCaption]:
    """Each line's parts, in order.

    Args:
        workers: processes that share the work; 0 for one per processor.
    """
    if workers == 1:
        return _default_parser().parse_many(lines)
    return chain.from_iterable(in_processes(_parse_task, lines, workers=workers))


def in_processes(
    task: Callable[[Sequence[str]], _Done], lines: Iterable[str], *, workers: int = 0
) -> Iterator[_Done]:
    """What ``task`` gives for each run of lines, in order.

    Args:
        task: a function that other processes can import.
        workers: processes; 0 for one per processor. A list short enough for one task starts none.
    """
    workers = workers or os.cpu_count() or 1
    lines = iter(lines)
    tasks = iter(lambda: list(islice(lines, _PER_TASK)), [])
    first = next(tasks, [])
    if not first:
        return
    if workers == 1 or len(first) < _PER_TASK:
        yield from map(task, chain([first], tasks))
        return
    with _one_thread_each():
        pool = multiprocessing.get_context("spawn").Pool(workers)
    with pool:
        # Only so far ahead: who reads slowly must not find all answers in memory.
        waiting = deque(
            pool.apply_async(task, (each,)) for each in chain([first], islice(tasks, 2 * workers))
        )
        while waiting:
            yield waiting.popleft().get()
            waiting.extend(pool.apply_async(task, (each,)) for each in islice(tasks, 1))


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes started within multiply on one thread each; more would only wait for each other."""
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    unset = [name for name in names if name not in os.environ]
    os.environ.update(dict.fromkeys(unset, "1"))
    try:
        yield
    finally:
        for name in unset:
            os.environ.pop(name, None)


def _parse_task(lines: Sequence[str]) -> list[ParsedCaption]:
    return list(_default_parser().parse_many(lines))
