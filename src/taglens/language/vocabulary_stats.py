"""Figures of a vocabulary: what it holds, how it meets corpora, and which names of a foreign list it has.

Knows counting. Refuses to know how a caption is parsed (the parser is passed in), files, and how figures are shown
(`taglens.language.plots`, the command). A *mention* is a word that a caption names, once a caption, after the word
lists have moved and merged it. Only what is said is counted: the parents that a tag implies are not.
Shapes: T tags.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from typing import Any, Literal

from taglens.language.corpora import Label, Parse, Texts, parsed_rows
from taglens.language.mentions import Found, MentionFinder, NameIndex, Why, squeezed
from taglens.language.vocabulary_builder import words_of
from taglens.language.word_lists import Word, WordLists
from taglens.results import Kind
from taglens.vocabulary import KINDS, Vocabulary

Form = Literal["captions", "labels"]
_STEPS = (1, 2, 5)


def share(part: int, whole: int) -> float | None:
    """``part / whole``, or None where there is nothing to take a share of."""
    return part / whole if whole else None


# -- what it holds -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KindFigures:
    """Tags of one kind; ``with_…`` counts tags, the rest counts what they have."""

    tags: int = 0
    hidden: int = 0
    with_synonyms: int = 0
    synonyms: int = 0
    with_parents: int = 0
    parents: int = 0
    with_descriptions: int = 0
    descriptions: int = 0


def count_kinds(vocabulary: Vocabulary) -> dict[Kind, KindFigures]:
    """Figures of every kind of which there is a tag, and of the four that captions name."""
    found: dict[Kind, KindFigures] = {}
    for kind in KINDS:
        tags = [entry for entry in vocabulary if entry.kind == kind]
        if tags or kind != "typed":
            found[kind] = KindFigures(
                tags=len(tags),
                hidden=sum(entry.hidden for entry in tags),
                with_synonyms=sum(bool(entry.synonyms) for entry in tags),
                synonyms=sum(len(entry.synonyms) for entry in tags),
                with_parents=sum(bool(entry.parents) for entry in tags),
                parents=sum(len(entry.parents) for entry in tags),
                with_descriptions=sum(bool(entry.descriptions) for entry in tags),
                descriptions=sum(len(entry.descriptions) for entry in tags),
            )
    return found


# -- how it meets a corpus -----------------------------------------------------------------------------


@dataclass(slots=True)
class Corpus:
    """One file, counted.

    Attributes:
        name: as the caller named it.
        images: rows about pictures; None for plain text, which does not say.
        texts: captions; None for label files.
        text_tags: over texts, how many tags each names.
        image_tags: over pictures, how many tags their texts, or their labels, name together.
        mentions: word -> captions that name it.
        unmatched: label that no tag has for a name -> pictures.
        tag_texts, tag_images: column -> texts, pictures that name the tag.
    """

    name: str
    form: Form = "captions"
    images: int | None = None
    texts: int | None = None
    text_tags: int = 0
    image_tags: int = 0
    mentions: Counter[Word] = field(default_factory=Counter)
    unmatched: Counter[str] = field(default_factory=Counter)
    tag_texts: Counter[int] = field(default_factory=Counter)
    tag_images: Counter[int] = field(default_factory=Counter)

    def to_dict(self) -> dict[str, Any]:
        pictured = self.images is not None
        images, texts = self.images or 0, self.texts or 0
        return {
            "name": self.name,
            "form": self.form,
            "images": self.images,
            "texts": self.texts,
            "texts_per_image": share(texts, images) if self.form == "captions" else None,
            "tag_mentions": self.text_tags if self.texts is not None else None,
            "tags_per_text": share(self.text_tags, texts),
            "tags": self.image_tags if pictured else None,
            "tags_per_image": share(self.image_tags, images),
            "tags_used": len(self.tag_texts or self.tag_images),
        }


def count_captions(
    name: str,
    rows: Iterable[Texts],
    parse: Parse,
    lists: WordLists,
    find: MentionFinder,
    *,
    pictures: bool,
    told: Callable[[int], None] = lambda texts: None,
) -> Corpus:
    """Count one file of captions.

    Args:
        rows: the captions of each row; read once.
        pictures: a row is a picture.
        told: called with the number of texts of every row that is done.
    """
    corpus = Corpus(name, images=0 if pictures else None, texts=0)
    for texts, parsed in parsed_rows(rows, parse):
        named: set[int] = set()
        for one in parsed:
            words = words_of(one, lists)
            columns = {column for word in words if (column := find(word).column) is not None}
            corpus.mentions.update(words)
            corpus.tag_texts.update(columns)
            corpus.text_tags += len(columns)
            named |= columns
        corpus.texts = (corpus.texts or 0) + len(texts)
        if corpus.images is not None:
            corpus.images += 1
            corpus.image_tags += len(named)
            corpus.tag_images.update(named)
        told(len(texts))
    return corpus


def count_labels(name: str, rows: Iterable[Sequence[Label]], find: MentionFinder) -> Corpus:
    """Count one file of labels; a label without a kind may be a tag of any."""
    corpus = Corpus(name, form="labels", images=0)
    for row in rows:
        columns: set[int] = set()
        for kind, label in dict.fromkeys(row):
            column = find.label(kind, label)
            if column is None:
                corpus.unmatched[label] += 1
            else:
                columns.add(column)
        corpus.images = (corpus.images or 0) + 1
        corpus.image_tags += len(columns)
        corpus.tag_images.update(columns)
    return corpus


# -- coverage ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Uncovered:
    """A word that captions name and no tag covers; ``other`` is the tag of another kind that has its name."""

    kind: Kind
    name: str
    count: int
    why: Why
    other: str | None = None


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of what captions name a vocabulary has.

    Attributes:
        mentions: all of them; ``covered`` of them lead to a tag, ``by_head`` of those only by their last words,
            and ``denied`` of the rest are words that the lists keep out of vocabularies.
        kinds: kind of the mention -> (mentions, covered).
        curve: (N, share of all mentions that the N most mentioned tags cover); N rises to the tags mentioned.
        uncovered: words without a tag that the lists do not deny, by falling count.
        denied_words: those that they do.
    """

    mentions: int
    covered: int
    by_head: int
    denied: int
    kinds: Mapping[Kind, tuple[int, int]]
    curve: tuple[tuple[int, float], ...]
    uncovered: tuple[Uncovered, ...]
    denied_words: tuple[Uncovered, ...]

    def to_dict(self, *, top: int) -> dict[str, Any]:
        """The JSON form, with the ``top`` most frequent words of both lists."""
        return {
            "mentions": self.mentions,
            "covered": self.covered,
            "share": share(self.covered, self.mentions),
            "by_head": self.by_head,
            "denied": self.denied,
            "kinds": {
                kind: {"mentions": mentions, "covered": covered, "share": share(covered, mentions)}
                for kind, (mentions, covered) in self.kinds.items()
            },
            "curve": [{"tags": tags, "share": part} for tags, part in self.curve],
            "uncovered_words": len(self.uncovered),
            "uncovered": [asdict(word) for word in self.uncovered[:top]],
            "denied_words": [asdict(word) for word in self.denied_words[:top]],
        }


def cover(mentions: Mapping[Word, int], find: MentionFinder) -> Coverage:
    """How much of the mentions the finder's vocabulary covers."""
    columns: Counter[int] = Counter()
    kinds: dict[Kind, list[int]] = {}
    by_head = 0
    uncovered: list[Uncovered] = []
    for word in sorted(mentions):
        count, found = mentions[word], find(word)
        tally = kinds.setdefault(word[0], [0, 0])
        tally[0] += count
        if found.column is None:
            uncovered.append(_uncovered(word, count, found))
        else:
            tally[1] += count
            by_head += count if found.by_head else 0
            columns[found.column] += count
    total = sum(mentions.values())
    uncovered.sort(key=lambda word: (-word.count, word.kind, word.name))
    denied = tuple(word for word in uncovered if word.why == "denied")
    return Coverage(
        mentions=total,
        covered=sum(columns.values()),
        by_head=by_head,
        denied=sum(word.count for word in denied),
        kinds={kind: (kinds[kind][0], kinds[kind][1]) for kind in KINDS if kind in kinds},
        curve=_curve(columns, total),
        uncovered=tuple(word for word in uncovered if word.why != "denied"),
        denied_words=denied,
    )


def _uncovered(word: Word, count: int, found: Found) -> Uncovered:
    return Uncovered(*word, count, found.why or "missing", found.other)


def _curve(columns: Mapping[int, int], total: int) -> tuple[tuple[int, float], ...]:
    """Shares at 1, 2, 5, 10, 20, … tags and at all that are mentioned."""
    counts = sorted(columns.values(), reverse=True)
    summed = list(accumulate(counts))
    points: list[int] = []
    decade = 1
    while decade < len(counts):
        points += [decade * step for step in _STEPS if decade * step < len(counts)]
        decade *= 10
    return tuple((n, summed[n - 1] / total) for n in (*points, len(counts)) if n)


# -- a foreign list of names ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Overlap:
    """Which classes of a list a vocabulary has; all three as the list writes them, in its order."""

    by_name: tuple[str, ...]
    by_synonym: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def classes(self) -> int:
        return len(self.by_name) + len(self.by_synonym) + len(self.missing)

    @property
    def found(self) -> int:
        return len(self.by_name) + len(self.by_synonym)

    def to_dict(self) -> dict[str, Any]:
        return {
            "classes": self.classes,
            "found": self.found,
            "share": share(self.found, self.classes),
            "by_name": len(self.by_name),
            "by_synonym": len(self.by_synonym),
            "missing": list(self.missing),
        }


def overlap(vocabulary: Vocabulary, classes: Iterable[str]) -> Overlap:
    """Look for every class by name and synonym; classes that differ in case, spaces or hyphens only are one."""
    index = NameIndex(vocabulary)
    names: dict[str, str] = {}
    for name in classes:
        names.setdefault(squeezed(name), name)
    names.pop("", None)
    found = {name: index.find(name) for name in names.values()}
    return Overlap(
        by_name=tuple(name for name, where in found.items() if where and where[1] == "name"),
        by_synonym=tuple(name for name, where in found.items() if where and where[1] == "synonym"),
        missing=tuple(name for name, where in found.items() if not where),
    )
