"""What a person needs to see of every tag to decide about it: frequency, captions that name it, near tags.

Knows how examples are chosen and where in a caption the tag stands. Refuses to know pages
(`taglens.collection.review_page`) and what is decided (`taglens.language.vocabulary_decisions`).
"""

from __future__ import annotations

import re
import zlib
from bisect import insort
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from taglens.language.corpora import Parse, Texts, parsed_rows
from taglens.language.lemmas import singular, verb_lemma
from taglens.language.mentions import MentionFinder
from taglens.language.near_tags import Encoder, Near, Proposal, advise
from taglens.language.vocabulary_builder import words_of
from taglens.language.word_lists import WordLists
from taglens.vocabulary import Entry, Vocabulary, normalise

EXAMPLES = 5
# Letters of a caption on either side of the word; web captions can be pages long.
_BESIDE = 110
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


@dataclass(frozen=True, slots=True)
class Example:
    """A caption in three parts, the middle one the word that names the tag (empty where it was not found)."""

    before: str
    word: str
    after: str


@dataclass(frozen=True, slots=True)
class ReviewedTag:
    """A tag as its reviewer sees it; ``frequency`` is how many of the given captions name it."""

    entry: Entry
    frequency: int
    examples: tuple[Example, ...]
    near: tuple[Near, ...]
    proposal: Proposal | None


@dataclass(frozen=True, slots=True)
class Review:
    """All tags of a vocabulary, in its order, beside ``texts`` captions."""

    vocabulary: Vocabulary
    texts: int
    tags: tuple[ReviewedTag, ...]


@dataclass(slots=True)
class _Seen:
    """Captions that name one tag: how many, and those with the smallest checksums, which are spread evenly."""

    count: int = 0
    kept: list[tuple[int, str, str]] = field(default_factory=list)

    def add(self, text: str, name: str, most: int) -> None:
        self.count += 1
        if not most:
            return
        item = (zlib.crc32(text.encode("utf-8", "replace")), text, name)
        if (len(self.kept) < most or item < self.kept[-1]) and all(text != kept for _, kept, _ in self.kept):
            insort(self.kept, item)
            del self.kept[most:]


def review(
    vocabulary: Vocabulary,
    rows: Iterable[Texts],
    parse: Parse,
    lists: WordLists,
    *,
    examples: int = EXAMPLES,
    encoder: Encoder | None = None,
    told: Callable[[int], None] = lambda texts: None,
) -> Review:
    """Gather everything.

    Args:
        rows: captions, row by row; read once.
        examples: captions to show for a tag. Which ones depends on the captions and not on their order.
        encoder: finds neighbours in meaning; None: none are looked for.
        told: called with the number of texts of every row that is done.
    """
    find = MentionFinder(vocabulary, lists)
    seen = [_Seen() for _ in vocabulary]
    texts = 0
    for row, parsed in parsed_rows(rows, parse):
        for text, one in zip(row, parsed, strict=True):
            named = {find(word).column: word[1] for word in sorted(words_of(one, lists), reverse=True)}
            for column, name in named.items():
                if column is not None:
                    seen[column].add(text, name, examples)
        texts += len(row)
        told(len(row))
    frequency = [one.count for one in seen]
    advice = advise(vocabulary, lists, frequency, texts=texts, encoder=encoder)
    return Review(
        vocabulary,
        texts,
        tuple(
            ReviewedTag(
                entry,
                one.count,
                tuple(
                    highlight(text, (entry.name, *entry.synonyms, *_others(lists, entry), name))
                    for _, text, name in one.kept
                ),
                near,
                proposal,
            )
            for entry, one, near, proposal in zip(
                vocabulary, seen, advice.near, advice.proposals, strict=True
            )
        ),
    )


def _others(lists: WordLists, entry: Entry) -> Sequence[str]:
    return lists.other_names((entry.kind, normalise(entry.name)))


def highlight(text: str, names: Iterable[str]) -> Example:
    """Where the first of the names that stands in a text stands there, in any inflection.

    What is far from the word is cut and marked by an ellipsis.
    """
    tokens = [(found.start(), found.end(), _forms(found.group())) for found in _WORD.finditer(text)]
    for name in names:
        wanted = [_forms(found.group()) for found in _WORD.finditer(name)]
        for at in range(len(tokens) - len(wanted) + 1 if wanted else 0):
            run = tokens[at : at + len(wanted)]
            if all(forms & token[2] for forms, token in zip(wanted, run, strict=True)):
                return _cut(text, run[0][0], run[-1][1])
    return _cut(text, 0, 0)


def _forms(word: str) -> set[str]:
    lower = normalise(word).replace("’", "'").removesuffix("'s")
    return {lower, singular(lower), verb_lemma(lower)}


def _cut(text: str, start: int, end: int) -> Example:
    before, after = text[:start], text[end:]
    if len(before) > _BESIDE:
        before = "…" + before[-_BESIDE:].partition(" ")[2]
    # Without a word in the middle the caption has all the room.
    room = _BESIDE if end else 2 * _BESIDE
    if len(after) > room:
        after = after[:room].rpartition(" ")[0] + "…"
    return Example(before, text[start:end], after)
