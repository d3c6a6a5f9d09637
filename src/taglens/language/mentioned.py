"""Whether a sentence says a tag: by its name or a synonym, in whatever form the grammar asks for.

Knows words and their dictionary forms; knows nothing of vocabularies or of how the sentence came about.
"""

from __future__ import annotations

from collections.abc import Iterable

from taglens.language.lemmas import singular, verb_lemma
from taglens.language.tokens import tokenize


class Text:
    """A text that can be asked what it mentions."""

    def __init__(self, text: str) -> None:
        self._words = [_forms(word) for word in _words(text)]

    def mentions(self, names: Iterable[str]) -> bool:
        """Whether one of the names stands in the text, word by word: "two dogs ran" says "dog" and "run"."""
        return any(self._says([_forms(word) for word in _words(name)]) for name in names)

    def _says(self, name: list[frozenset[str]]) -> bool:
        if not name:
            return False
        places = range(len(self._words) - len(name) + 1)
        return any(all(forms & self._words[start + at] for at, forms in enumerate(name)) for start in places)


def _words(text: str) -> list[str]:
    """Words alone; a hyphen parts two, so that "t-shirt" and "t shirt" are the same."""
    return [part for token in tokenize(text) for part in token.split("-") if any(map(str.isalnum, part))]


def _forms(word: str) -> frozenset[str]:
    """The word, and what it may be a form of as a noun and as a verb."""
    return frozenset((word, singular(word), verb_lemma(word)))
