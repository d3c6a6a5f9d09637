"""Slips of the pen put right: "peopole" is "people", "shrit" is "shirt".

Knows words and how often captions write them; refuses to know context. Only a dropped, doubled or swapped
letter is mended, and never the first: one letter in place of another makes too many real words ("stork" is
no "store").
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from functools import cached_property

# A word met this often is right by itself, however near a more frequent one.
ESTABLISHED = 4
_LEAST_COUNT = 15
_LEAST_RATIO = 15
_SHORTEST, _LONGEST = 4, 24
_ENDINGS = frozenset(("s", "es", "ed", "d", "ing", "er", "r", "y", "ly", "ish"))


class Speller:
    """Finds the frequent word that a rare one was meant to be. Immutable once built, shared by threads."""

    def __init__(self, counts: Mapping[str, int]) -> None:
        """Args: counts: word -> how often it was met; words that are not in it count as never met."""
        self._counts = counts
        self._good = {
            word: count
            for word, count in counts.items()
            if count >= _LEAST_COUNT and len(word) >= _SHORTEST - 1 and word.isalpha()
        }

    @cached_property
    def _shortened(self) -> dict[str, list[str]]:
        """What is left of each frequent word without one of its letters; made when first asked for."""
        found: defaultdict[str, list[str]] = defaultdict(list)
        for word in self._good:
            for shorter in _shortened(word):
                found[shorter].append(word)
        return dict(found)

    def __call__(self, word: str) -> str:
        """The word meant; ``word`` itself where nothing near is frequent enough.

        Words with other marks than letters, and very long ones, come back unchanged.
        """
        count = self._counts.get(word, 0)
        if count >= ESTABLISHED or not _SHORTEST <= len(word) <= _LONGEST or not word.isalpha():
            return word
        if any(word[:-k] in self._good and word[-k:] in _ENDINGS for k in (1, 2, 3)):
            return word
        meant = {
            near
            for near in self._candidates(word)
            if near[0] == word[0]
            and near + "s" != word
            and word + "s" != near
            and self._good[near] >= _LEAST_RATIO * (count + 1)
        }
        return min(meant, key=lambda near: (-self._good[near], near), default=word)

    def _candidates(self, word: str) -> set[str]:
        """Frequent words one dropped, one added or two swapped neighbouring letters away."""
        good, found = self._good, set(self._shortened.get(word, ()))
        for i, letter in enumerate(word):
            start, rest = word[:i], word[i + 1 :]
            if (shorter := start + rest) in good:
                found.add(shorter)
            if rest and rest[0] != letter and (swapped := start + rest[0] + letter + rest[1:]) in good:
                found.add(swapped)
        return found


def _shortened(word: str) -> set[str]:
    return {word[:i] + word[i + 1 :] for i in range(len(word))}
