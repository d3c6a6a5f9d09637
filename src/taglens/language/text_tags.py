"""Which tags of a vocabulary a sentence says.

Knows the way from a parsed sentence's words to tags. Refuses to know how a sentence is parsed (``parse`` is passed
in), and what its tags are compared with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from taglens.language.corpora import Parse, Parsed
from taglens.language.mentions import MentionFinder, space_of
from taglens.language.word_lists import Word, WordLists
from taglens.results import Kind
from taglens.vocabulary import Vocabulary


def words_of(parsed: Parsed) -> Iterable[Word]:
    """The words of a sentence that may be tags, each with its kind; a pair is "typed"."""
    parts: Mapping[Kind, Iterable[str]] = {
        "object": parsed.objects,
        "scene": parsed.scenes,
        "attribute": parsed.attributes,
        "action": parsed.actions,
        "typed": map(" ".join, parsed.pairs),
    }
    return ((kind, name) for kind, names in parts.items() for name in names)


class TextTags:
    """Sentences to the tags that they say.

    Args:
        parse: sentences to their parts, in order.
        lists: the word lists with which words find the vocabulary's tags.
    """

    def __init__(self, vocabulary: Vocabulary, lists: WordLists, parse: Parse) -> None:
        self.vocabulary = vocabulary
        self.parse = parse
        self._find = MentionFinder(vocabulary, lists)

    def __call__(self, sentences: Iterable[str]) -> list[frozenset[int]]:
        """Per sentence the columns of the tags that it says, parents left out; other words are no tags."""
        return [
            frozenset(column for column in map(self.column, words_of(parsed)) if column is not None)
            for parsed in self.parse(sentences)
        ]

    def column(self, word: Word) -> int | None:
        """The column of a word, or None."""
        kind, name = word
        if kind == "typed":  # a pair, "electric guitar", which is a thing only where the vocabulary has it
            return self.vocabulary.find(name, kinds=space_of("object"))
        return self._find(word).column
