"""Which tag of a vocabulary a word of a caption, or a name of a list, means.

Knows the ways from a word to a tag and the reasons why there is none. Refuses to know corpora and counts.
Shapes: T tags; a *column* is a tag's place among them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

from taglens.language.word_lists import Word, WordLists
from taglens.results import Kind
from taglens.vocabulary import KINDS, Vocabulary, normalise

Why = Literal["missing", "denied", "other kind"]
Way: TypeAlias = Literal["name", "synonym"]

# A thing and a place of one name are the same to a caption's reader.
_SPACES: dict[Kind, tuple[Kind, ...]] = {
    **{kind: (kind,) for kind in KINDS},
    "object": ("object", "scene"),
    "scene": ("object", "scene"),
}
_SQUEEZE = re.compile(r"[\s\-_'’‐‑–]")


def squeezed(name: str) -> str:
    """The form in which names that differ in case, spaces, hyphens, underscores or apostrophes are the same."""
    return _SQUEEZE.sub("", normalise(name))


def space_of(kind: Kind) -> tuple[Kind, ...]:
    """The kinds whose names compete with those of ``kind``: objects and scenes share one space."""
    return _SPACES[kind]


@dataclass(frozen=True, slots=True)
class Found:
    """Where a word led.

    Attributes:
        column: the tag, or None.
        by_head: found by its last words only ("wicker chair" is counted as "chair").
        why: for None: the lists deny the word; a tag of another kind has the name; nothing is known of it.
        other: the id of that tag of another kind.
    """

    column: int | None
    by_head: bool = False
    why: Why | None = None
    other: str | None = None


class MentionFinder:
    """Words of captions to columns, as the labelling of training pictures finds them; remembers what it was asked.

    A word is looked for under its name, then under the other names that the lists give it; a compound that is no
    tag backs off to its last words, unless the lists say that it is no kind of them ("sea horse").
    """

    def __init__(self, vocabulary: Vocabulary, lists: WordLists) -> None:
        self.vocabulary = vocabulary
        self._lists = lists
        self._known: dict[Word, Found] = {}

    def __call__(self, word: Word) -> Found:
        if (found := self._known.get(word)) is None:
            found = self._known[word] = self._find(word)
        return found

    def label(self, kind: Kind | None, name: str) -> int | None:
        """The column of a label: of its kind if it states one, else of any."""
        found = self.vocabulary.find(name, kinds=(kind,)) if kind else None
        return self.vocabulary.find(name) if found is None else found

    def _find(self, word: Word) -> Found:
        head: Word | None = word
        passed: set[Word] = set()
        # The lists may lead from a head back to what it is the head of.
        while head is not None and head not in passed:
            column = self._named(head)
            if column is not None:
                return Found(column, by_head=head != word)
            passed.add(head)
            head = self._head(head)
        if _thing(word) in self._lists.deny:
            return Found(None, why="denied")
        other = self.vocabulary.find(word[1])
        if other is not None:
            return Found(None, why="other kind", other=self.vocabulary[other].id)
        return Found(None, why="missing")

    def _named(self, word: Word) -> int | None:
        kind, name = word
        for other in (name, *self._lists.other_names(word)):
            column = self.vocabulary.find(other, kinds=_SPACES[kind])
            if column is not None:
                return column
        return None

    def _head(self, word: Word) -> Word | None:
        kind, name = word
        _, space, rest = name.partition(" ")
        if kind not in _SPACES["object"] or not space:
            return None
        head = self._lists.resolve("object", rest)
        refused = (_thing(word), _thing(head)) in self._lists.not_edges
        return None if head[0] not in _SPACES["object"] or refused or head == word else head


def _thing(word: Word) -> Word:
    """The word as the lists write it, where objects and scenes share one space."""
    return ("object", word[1]) if word[0] == "scene" else word


class NameIndex:
    """Names of a foreign list to columns: case, spaces, hyphens, underscores and apostrophes do not count."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._columns: dict[str, tuple[int, Way]] = {}
        ways: tuple[Way, ...] = ("name", "synonym")
        for way in ways:
            for column, entry in sorted(enumerate(vocabulary), key=lambda item: (-item[1].count, item[0])):
                for name in (entry.name,) if way == "name" else entry.synonyms:
                    self._columns.setdefault(squeezed(name), (column, way))

    def find(self, name: str) -> tuple[int, Way] | None:
        """The column and whether a name or a synonym led there; a name goes before a synonym."""
        return self._columns.get(squeezed(name))
