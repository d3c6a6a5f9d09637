"""Word pieces learned from captions: the vocabulary that a captioner trained from scratch writes with.

Common words are whole pieces, rarer ones are spelled: a common word and an ending, or letters. So anything can be
read and written, and what captions are made of costs one piece a word. Knows counts; the rules by which pieces cut a
text are `taglens.language.wordpiece`'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from taglens.errors import UsageError
from taglens.language.wordpiece import ADDED, SPECIAL, words

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
MARKS = "!\"#$%&'()*+,-./:;?@|"
_ENDINGS = 100
_LONGEST_ENDING = 5


def learn_pieces(captions: Iterable[str], names: Iterable[str] = (), *, least: int = 20) -> list[str]:
    """A vocabulary in the order of a vocab.txt: special pieces, marks, letters, endings, words by falling count.

    Args:
        captions: any number; read once.
        names: texts all of whose words become pieces, such as the names of tags.
        least: how often the captions must use a word that becomes a piece.

    Raises:
        UsageError: ``least`` below 1, or no caption holds a word.
    """
    if least < 1:
        raise UsageError(f"the least count of a word must be 1 or more, found {least}")
    counts = Counter(word for text in captions for word in words(text))
    if not counts:
        raise UsageError("no caption holds a word: there is nothing to learn pieces from")
    named = dict.fromkeys(word for name in names for word in words(name))
    common = [word for word, count in _by_count(counts) if count >= least]
    whole = dict.fromkeys((*common, *named))
    pieces = (
        *SPECIAL,
        *MARKS,
        *LETTERS,
        *(f"##{letter}" for letter in LETTERS),
        *_endings(counts, set(whole)),
        *whole,
        *ADDED,
    )
    return list(dict.fromkeys(pieces))


def _endings(counts: Counter[str], whole: set[str]) -> list[str]:
    """What most often follows a whole word within a rarer one, "##ing" after "skateboard"."""
    found: Counter[str] = Counter()
    for word, count in counts.items():
        if word in whole:
            continue
        # As the pieces will cut it: the longest word that opens it.
        for at in range(len(word) - 1, max(0, len(word) - _LONGEST_ENDING) - 1, -1):
            if word[:at] in whole:
                found["##" + word[at:]] += count
                break
    return [ending for ending, _ in _by_count(found)[:_ENDINGS]]


def _by_count(counts: Counter[str]) -> list[tuple[str, int]]:
    """By falling count, then by the alphabet: the order does not depend on what was read first."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
