"""Which tags are asked for in one question: exact partitions of a vocabulary, drawn, counted or asked for.

Knows three ways to divide tags (at random, those that occur together, those that do not), how often tags occur
together in captions or labels, and how a language model's answer becomes a partition or is refused. Refuses to know
pictures. A grouping that is no exact partition cannot be made.

Shapes: T tags, G groups.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from taglens.errors import DataError, UsageError
from taglens.language.annotation_prompts import group_names, group_schema, plain, read_groups
from taglens.language.chat import Ask, Chat
from taglens.language.corpora import caption_rows, has_pictures, json_object, label_rows, text_lines
from taglens.vocabulary import Vocabulary

Counts = npt.NDArray[np.float32]
TagsOfTexts = Callable[[Iterable[str]], Sequence[Collection[int]]]

GROUP_SIZE = (
    30  # Parity: the paper never gives its number of groups; its figures allow for a few groups of COCO
)
MOST_ASKED = 600  # names in one question that a language model can be expected to divide without losing any
_ROWS_TOGETHER = 1000
# Pairs seen this often have half their weight; one chance meeting of two rare tags says little.
_SHRINK = 5.0
_PASSES = 6


@dataclass(frozen=True, slots=True)
class Grouping:
    """A partition of the columns 0 … T - 1.

    Attributes:
        groups: each not empty; every column stands in exactly one.
        how: in words, for whoever reads the results.
        notes: what had to be put right, such as names that a language model forgot.
    """

    groups: tuple[tuple[int, ...], ...]
    how: str
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        columns = sorted(chain.from_iterable(self.groups))
        if not columns or columns != list(range(len(columns))) or not all(self.groups):
            raise UsageError(
                f"groups must hold each of the tags 0 to {max(columns, default=0)} exactly once and none be empty, "
                f"found {len(columns)} in {len(self.groups)} groups"
            )

    @property
    def size(self) -> int:
        """T."""
        return sum(map(len, self.groups))


def groups_needed(tags: int, *, at_most: int = GROUP_SIZE) -> int:
    """How many groups keep each to ``at_most`` tags.

    Raises:
        UsageError: no tags, or less than one a group.
    """
    if tags < 1 or at_most < 1:
        raise UsageError(f"expected tags and at least 1 a group, found {tags} tags and groups of {at_most}")
    return -(-tags // at_most)


def one_group(tags: int) -> Grouping:
    """Everything in one question."""
    return Grouping((tuple(range(tags)),), "all tags in one question")


def random_groups(tags: int, *, at_most: int = GROUP_SIZE, seed: int = 0) -> Grouping:
    """Drawn; sizes differ by at most one. Equal seeds give equal groups on every machine."""
    count = groups_needed(tags, at_most=at_most)
    columns = list(range(tags))
    random.Random(seed).shuffle(columns)
    return Grouping(
        tuple(tuple(sorted(columns[start::count])) for start in range(count)), f"at random, seed {seed}"
    )


# -- from our own statistics ---------------------------------------------------------------------------


def count_together(rows: Iterable[Collection[int]], tags: int) -> Counts:
    """[T, T]: in how many rows two tags stand together; the diagonal holds in how many each stands."""
    counts = np.zeros((tags, tags), np.float32)
    for row in rows:
        columns = sorted(set(row))
        if columns:
            counts[np.ix_(columns, columns)] += 1
    return counts


def affinity(counts: Counts, rows: int) -> Counts:
    """[T, T]: how much more often than by chance two tags stand together (positive PMI, shrunk); 0 on the diagonal.

    Args:
        counts: of `count_together`.
        rows: how many there were.
    """
    alone = np.diagonal(counts)
    with np.errstate(divide="ignore", invalid="ignore"):
        information = np.log(counts * np.float32(rows) / np.outer(alone, alone))
    shrunk = np.where(counts > 0, np.maximum(information, 0) * counts / (counts + _SHRINK), 0)
    np.fill_diagonal(shrunk, 0)
    return shrunk.astype(np.float32)


def together_groups(near: Counts, *, at_most: int = GROUP_SIZE) -> Grouping:
    """Tags that occur together share a group; sizes differ by at most one.

    Args:
        near: symmetric affinities [T, T]; see `affinity`.
    """
    return Grouping(_balanced(near, groups_needed(len(near), at_most=at_most)), "tags that occur together")


def apart_groups(near: Counts, *, at_most: int = GROUP_SIZE) -> Grouping:
    """Tags that occur together stand in different groups, as far as there are groups; arguments likewise."""
    return Grouping(
        _balanced(-near, groups_needed(len(near), at_most=at_most)), "tags that do not occur together"
    )


def inside(near: Counts, groups: Sequence[Sequence[int]]) -> float:
    """The sum of affinities within groups: what is made large, or small."""
    return float(sum(near[np.ix_(group, group)].sum(dtype=np.float64) for group in groups) / 2)


def _balanced(near: Counts, count: int) -> tuple[tuple[int, ...], ...]:
    """Groups of nearly equal size with as much affinity inside as greedy filling and exchanges find.

    Filling takes the tag that fits the group at hand best, the most connected first; exchanges of two tags go on
    while one gains. Both are deterministic.
    """
    tags = len(near)
    sizes = [tags // count + (number < tags % count) for number in range(count)]
    left = np.ones(tags, bool)
    weight = np.abs(near).sum(axis=1)
    group_of = np.zeros(tags, np.int64)
    for number, size in enumerate(sizes):
        first = int(np.argmax(np.where(left, weight, -1.0)))
        fit = near[first].copy()
        group_of[first], left[first] = number, False
        for _ in range(size - 1):
            # Of equal fits the most connected: it would be the hardest to place later.
            best = np.flatnonzero(left & (fit == fit[left].max()))
            column = int(best[np.argmax(weight[best])])
            group_of[column], left[column] = number, False
            fit += near[column]
    _exchange(near, group_of, count)
    groups = [tuple(map(int, np.flatnonzero(group_of == number))) for number in range(count)]
    return tuple(sorted(groups))


def _exchange(near: Counts, group_of: npt.NDArray[np.int64], count: int) -> None:
    """Exchange pairs of tags between groups, in place, while the affinity inside grows."""
    tags = np.arange(len(near))
    links = np.stack([near[:, group_of == number].sum(axis=1) for number in range(count)], axis=1)
    for _ in range(_PASSES):
        moved = False
        for one in tags:
            own = group_of[one]
            gain = (
                links[one, group_of] - links[one, own] + links[:, own] - links[tags, group_of] - 2 * near[one]
            )
            gain[group_of == own] = 0
            other = int(np.argmax(gain))
            if gain[other] > 1e-4:
                theirs = group_of[other]
                change = near[:, other] - near[:, one]
                links[:, own] += change
                links[:, theirs] -= change
                group_of[one], group_of[other] = theirs, own
                moved = True
        if not moved:
            return


def tags_of_rows(
    path: Path, vocabulary: Vocabulary, tags_of: TagsOfTexts | None = None
) -> Iterator[frozenset[int]]:
    """The tags that each row of a captions or labels file names.

    Args:
        tags_of: sentences to columns (`taglens.language.text_tags.TextTags`); needed for captions only.

    Raises:
        DataError: the file cannot be read or is neither.
        UsageError: captions, and no ``tags_of``.
    """
    first = next(text_lines(path), None)
    if first is None:
        raise DataError(f"{path} is empty: expected captions or labels")
    if has_pictures(path) and "labels" in json_object(path, *first):
        for row in label_rows(path):
            found = (vocabulary.find(name, kinds=(kind,) if kind else None) for kind, name in row)
            yield frozenset(column for column in found if column is not None)
        return
    if tags_of is None:
        raise UsageError(f"{path} holds captions, and nothing was given that reads them")
    rows = (captions for _, captions in caption_rows(path) if captions)
    while batch := list(islice(rows, _ROWS_TOGETHER)):
        said = iter(tags_of(text for captions in batch for text in captions))
        for captions in batch:
            yield frozenset(chain.from_iterable(islice(said, len(captions))))


# -- asked of a language model -------------------------------------------------------------------------


def ask_groups(
    chat: Chat, names: Sequence[str], *, together: bool, at_most: int = GROUP_SIZE, tries: int = 3
) -> Grouping:
    """A partition by a language model, checked name by name.

    What is wrong with an answer is told and asked for again, ``tries`` times in all. What is wrong with the last
    one is put right (names that are none go out, a double keeps its first place, a forgotten one joins the smallest
    group, a group that is too large is cut) and said in the notes.

    Raises:
        UsageError: more names than one question can hold, or fewer than one try.
        DataError: no answer named a single tag.
        ChatError: the server did not answer.
    """
    if tries < 1 or len(names) > MOST_ASKED:
        raise UsageError(
            f"a language model can divide up to {MOST_ASKED} names, in 1 or more tries; found {len(names)} names and "
            f"{tries} tries; use groups from statistics, or random ones"
        )
    count = groups_needed(len(names), at_most=at_most)
    how = f"by {chat.model}: tags that {'occur' if together else 'do not occur'} together"
    wrong: tuple[str, ...] = ()
    best: _Answer | None = None
    for number in range(tries):
        text = group_names(names, count, together=together, wrong=wrong)
        budget = 200 + 12 * len(names)
        reply = chat(Ask(text, schema=group_schema(names), max_tokens=budget, seed=number or None))
        answer = _checked(None if reply.cut else read_groups(reply.text), names, at_most)
        wrong = answer.wrong
        if not wrong:
            return Grouping(answer.groups, how)
        if answer.groups and (best is None or len(wrong) <= len(best.wrong)):
            best = answer
    if best is None:
        raise DataError(
            f"{chat.model} did not divide the {len(names)} tags in {tries} tries ({'; '.join(wrong)[:200]}); use "
            "groups from statistics, or random ones"
        )
    return Grouping(_repaired(best.groups, len(names), at_most), how, best.wrong)


def checked_groups(said: Sequence[Sequence[str]], names: Sequence[str], *, how: str) -> Grouping:
    """Groups that somebody wrote, as a partition of the names.

    Raises:
        DataError: a name is unknown, missing or there twice; the first of them are told.
    """
    answer = _checked(said, names, len(names))
    if answer.wrong:
        more = f" and {len(answer.wrong) - 5} more" if len(answer.wrong) > 5 else ""
        raise DataError(f"every tag must stand in exactly one group: {'; '.join(answer.wrong[:5])}{more}")
    return Grouping(answer.groups, how)


@dataclass(frozen=True, slots=True)
class _Answer:
    """An answer as far as it named tags, and what is wrong with it, a sentence a name."""

    groups: tuple[tuple[int, ...], ...]
    wrong: tuple[str, ...]


def _checked(said: Sequence[Sequence[str]] | None, names: Sequence[str], at_most: int) -> _Answer:
    if said is None:
        return _Answer((), ("the answer was not the JSON that was asked for",))
    columns = {plain(name): column for column, name in enumerate(names)}
    seen: set[int] = set()
    groups: list[tuple[int, ...]] = []
    wrong: list[str] = []
    for group in said:
        kept: list[int] = []
        for name in group:
            column = columns.get(plain(name))
            if column is None:
                wrong.append(f"{name[:60]!r} is no name of the list")
            elif column in seen:
                wrong.append(f"{names[column]!r} stands there more than once")
            else:
                seen.add(column)
                kept.append(column)
        if len(kept) > at_most:
            wrong.append(f"a group has {len(kept)} names, more than {at_most}")
        if kept:
            groups.append(tuple(sorted(kept)))
    wrong += [f"{name!r} is missing" for column, name in enumerate(names) if column not in seen]
    return _Answer(tuple(sorted(groups)), tuple(wrong))


def _repaired(groups: Sequence[Sequence[int]], tags: int, at_most: int) -> tuple[tuple[int, ...], ...]:
    cut = [
        list(group[start : start + at_most]) for group in groups for start in range(0, len(group), at_most)
    ]
    placed = set(chain.from_iterable(cut))
    for column in range(tags):
        if column not in placed:
            smallest = min(cut, key=len)
            if len(smallest) >= at_most:
                smallest = []
                cut.append(smallest)
            smallest.append(column)
    return tuple(sorted(tuple(sorted(group)) for group in cut))
