"""Tags that captions say, against what is known to be there: Tag2Text's own measure of captions.

Knows how the words of a parsed caption find tags and labels. Refuses to know how a caption is parsed (``parse`` is
passed in), and pictures' files. The truth is what people said of the same picture, by the same parser, or labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeAlias

from taglens.errors import UsageError
from taglens.language.corpora import Parse
from taglens.language.mentions import space_of
from taglens.language.text_tags import TextTags, words_of
from taglens.language.word_lists import WordLists
from taglens.results import Kind
from taglens.vocabulary import KINDS, Vocabulary, normalise

Tags: TypeAlias = frozenset[str]
Labels: TypeAlias = Sequence[tuple[str, Kind | None]]


@dataclass(frozen=True, slots=True)
class TagFigures:
    """Precision and recall of tags, fractions in [0, 1]; recall is None where the truth is empty.

    Attributes:
        precision, recall: over all tags of all pictures together; nothing given is precision 0.
        class_precision, class_recall: means over the tags that the truth names, each by itself; a tag that is never
            given has precision 0. None where the truth is empty.
    """

    precision: float
    recall: float | None
    class_precision: float | None
    class_recall: float | None

    def to_dict(self) -> dict[str, Any]:
        return {
            "tag_precision": self.precision,
            "tag_recall": self.recall,
            "tag_class_precision": self.class_precision,
            "tag_class_recall": self.class_recall,
        }


def compare(given: Sequence[Collection[str]], truth: Sequence[Collection[str]]) -> TagFigures:
    """Figures of the tags given against the truth, picture by picture.

    Raises:
        UsageError: they are not as many.
    """
    if len(given) != len(truth):
        raise UsageError(
            f"tags of {len(given)} captions and truth of {len(truth)} pictures; expected as many"
        )
    said = Counter(chain.from_iterable(map(set, given)))
    there = Counter(chain.from_iterable(map(set, truth)))
    right = Counter(tag for one, other in zip(given, truth, strict=True) for tag in set(one) & set(other))
    hits, classes = right.total(), len(there)
    if not classes:
        return TagFigures(0.0, None, None, None)
    return TagFigures(
        hits / max(said.total(), 1),
        hits / there.total(),
        sum(right[tag] / max(said[tag], 1) for tag in there) / classes,
        sum(right[tag] / there[tag] for tag in there) / classes,
    )


class CaptionTags:
    """What captions say, as tags of a vocabulary or as labels.

    Args:
        parse: captions to their parts, in order.
        lists: the word lists with which words find the vocabulary's tags.
    """

    def __init__(self, vocabulary: Vocabulary, lists: WordLists, parse: Parse) -> None:
        self.vocabulary = vocabulary
        self._read = TextTags(vocabulary, lists, parse)

    def of(self, captions: Iterable[str]) -> list[Tags]:
        """Per caption the ids of the vocabulary's tags that it says, parents left out; other words are no tags."""
        return [frozenset(self.vocabulary[column].id for column in said) for said in self._read(captions)]

    def labels_of(self, captions: Iterable[str], names: Labels) -> list[Tags]:
        """Per caption those of the labels that it says, each as `key` names it.

        A word says a label by the label's name, or when both mean one tag of the vocabulary. A label without a kind
        is said by a word of any. Words that say none of the labels do not count.
        """
        labels: dict[Any, set[str]] = {}
        for name, kind in names:
            for way in self._label_ways(name, kind):
                labels.setdefault(way, set()).add(key(name, kind))
        return [
            frozenset(chain.from_iterable(labels.get(way, ()) for way in self._ways(words_of(parsed))))
            for parsed in self._read.parse(captions)
        ]

    def _ways(self, words: Iterable[tuple[Kind, str]]) -> Iterable[Any]:
        for word in words:
            yield space_of(word[0]), normalise(word[1])
            if (column := self._read.column(word)) is not None:
                yield column

    def _label_ways(self, name: str, kind: Kind | None) -> Iterable[Any]:
        for each in KINDS if kind is None else (kind,):
            yield space_of(each), normalise(name)
            if (column := self.vocabulary.find(name, kinds=space_of(each))) is not None:
                yield column


def key(name: str, kind: Kind | None) -> str:
    """A label's name for counting: of two kinds it is two labels."""
    return f"{kind or ''}:{normalise(name)}"


def union(tags: Sequence[Tags], counts: Sequence[int]) -> list[Tags]:
    """The tags of all captions of each picture: ``counts`` says how many of ``tags`` are each one's, in order."""
    found, at = [], 0
    for count in counts:
        found.append(frozenset[str]().union(*tags[at : at + count]))
        at += count
    return found
