"""From what a corpus says about a picture to columns of a vocabulary.

Knows how a label name and a parsed caption find their tags. Refuses to know how a caption is parsed
(``parse`` is passed in) and what becomes of the columns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Protocol

from taglens.data.sources import Row
from taglens.errors import DataError
from taglens.results import Kind
from taglens.vocabulary import Vocabulary

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from taglens.language.word_lists import WordLists


@dataclass(frozen=True, slots=True)
class Labels:
    """What is known of one picture.

    Attributes:
        columns: the vocabulary's columns, parents included, rising.
        unmatched: names that were given and that the vocabulary lacks, in order, each once.
    """

    columns: tuple[int, ...]
    unmatched: tuple[str, ...] = ()


Labeller = Callable[[Row], Labels]

# A thing and a place of one name are the same to a caption's reader.
_SPACES: dict[Kind, tuple[Kind, ...]] = {
    "object": ("object", "scene"),
    "scene": ("object", "scene"),
    "attribute": ("attribute",),
    "action": ("action",),
    "typed": ("typed",),
}


class Parsed(Protocol):
    """What this module reads of a parsed caption."""

    @property
    def objects(self) -> tuple[str, ...]: ...
    @property
    def attributes(self) -> tuple[str, ...]: ...
    @property
    def pairs(self) -> tuple[tuple[str, str], ...]: ...
    @property
    def actions(self) -> tuple[str, ...]: ...
    @property
    def scenes(self) -> tuple[str, ...]: ...


def label_from_names(vocabulary: Vocabulary) -> Labeller:
    """Rows with labels: each label is a name or a synonym.

    A label's kind decides between homographs; where no tag of that kind has the name, any kind will do.

    Raises (the returned function):
        DataError: the row has no labels.
    """

    @cache
    def find(name: str, kind: Kind | None) -> int | None:
        found = vocabulary.find(name, kinds=(kind,)) if kind else None
        return vocabulary.find(name) if found is None else found

    def label(row: Row) -> Labels:
        if row.labels is None:
            raise DataError(f"{row.image}: expected labels, found none in row {row.index}")
        kinds = row.kinds or (None,) * len(row.labels)
        return _collect(
            vocabulary,
            ((name, find(name, kind)) for name, kind in zip(row.labels, kinds, strict=True)),
        )

    return label


def label_from_captions(
    vocabulary: Vocabulary, parse: Callable[[str], Parsed], *, lists: WordLists | None = None
) -> Labeller:
    """Rows with captions: the union of what ``parse`` finds in each.

    Objects and scenes are looked for among the object and scene tags, attributes and actions among their own
    kind. A compound that is no tag backs off to its last words ("big tree trunk", "tree trunk", "trunk"); one
    that is a tag gives that tag and none of its parts.

    Args:
        lists: the word lists that the vocabulary was built with. A word that is found neither by name nor by
            synonym is then looked for under the form that the lists give it, and a compound known to be no
            kind of its last word ("sea horse") does not back off to it.

    Raises (the returned function):
        DataError: the row has no captions.
    """

    @cache
    def find(kind: Kind, phrase: str) -> int | None:
        found = vocabulary.find(phrase, kinds=_SPACES[kind])
        if found is None and lists is not None:
            moved, known = lists.resolve(kind, phrase)
            found = vocabulary.find(known, kinds=_SPACES[moved])
        _, space, rest = phrase.partition(" ")
        if found is not None or not space or kind != "object":
            return found
        if lists is not None:
            # As the lists write an edge: objects and scenes share one space of names.
            child, parent = lists.resolve(kind, phrase)[1], lists.resolve(kind, rest)[1]
            if (("object", child), ("object", parent)) in lists.not_edges:
                return None
        return find(kind, rest)

    def label(row: Row) -> Labels:
        if row.captions is None:
            raise DataError(f"{row.image}: expected captions, found none in row {row.index}")
        named: list[tuple[str, int | None]] = []
        for caption in row.captions:
            parsed = parse(caption)
            # "electric" and "guitar", parsed as a pair, where the vocabulary has an electric guitar.
            for pair in parsed.pairs:
                column = vocabulary.find(" ".join(pair), kinds=_SPACES["object"])
                named += [] if column is None else [(" ".join(pair), column)]
            named += [(phrase, find("object", phrase)) for phrase in (*parsed.objects, *parsed.scenes)]
            named += [(word, find("attribute", word)) for word in parsed.attributes]
            named += [(word, find("action", word)) for word in parsed.actions]
        return _collect(vocabulary, named)

    return label


def _collect(vocabulary: Vocabulary, named: Iterable[tuple[str, int | None]]) -> Labels:
    columns: set[int] = set()
    unmatched: dict[str, None] = {}
    for name, column in named:
        if column is None:
            unmatched[name] = None
        else:
            columns.add(column)
    return Labels(tuple(sorted(vocabulary.with_parents(columns))), tuple(unmatched))


def caption_rules_version() -> str:
    """Twelve digits that change with anything that decides what a caption names.

    Of the language package's source files and the word lists and weights it reads.
    """
    root = resources.files("taglens")
    digest = hashlib.sha256()
    for folder in (root / "language", root / "assets" / "words"):
        for file in sorted(_files(folder), key=lambda file: file.name):
            digest.update(f"{file.name}\0".encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:12]


def _files(folder: Traversable) -> list[Traversable]:
    return [file for file in folder.iterdir() if file.is_file()]
