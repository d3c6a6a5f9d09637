"""Which tags of a vocabulary say of people what a picture does not show.

Knows how the reviewed list (`assets/words/sensitive.txt`, read by `taglens.language.word_lists`) meets a vocabulary.
Refuses to know pictures and scores: a tag is judged by its names alone.
"""

from __future__ import annotations

from collections.abc import Iterator

from taglens.language.word_lists import Word, WordLists
from taglens.results import Kind
from taglens.vocabulary import Entry, Vocabulary

# A tag that somebody typed has no kind of its own: it is what any of these would be.
_ANY: tuple[Kind, ...] = ("object", "attribute", "action")


def sensitive_tags(vocabulary: Vocabulary, lists: WordLists) -> list[Entry]:
    """The tags with a sensitive name, hidden ones among them, in the vocabulary's order."""
    return [entry for entry in vocabulary if any(map(lists.is_sensitive, _words(entry, entry.name)))]


def sensitive_problems(vocabulary: Vocabulary, lists: WordLists) -> list[str]:
    """Sensitive tags and synonyms that users can meet, in sentences; hidden tags are no problem."""
    found = []
    for entry in vocabulary:
        if entry.hidden:
            continue
        if any(map(lists.is_slur, _words(entry, entry.name))):
            found.append(f"{entry.id} is a slur: remove the tag, or mark it hidden")
        elif any(map(lists.is_sensitive, _words(entry, entry.name))):
            found.append(
                f"{entry.id} says of people what a picture does not show, and is not hidden: mark it hidden"
            )
        found.extend(
            f"synonym {synonym!r} of {entry.id} is a slur: remove it"
            for synonym in entry.synonyms
            if any(map(lists.is_slur, _words(entry, synonym)))
        )
    return found


def _words(entry: Entry, name: str) -> Iterator[Word]:
    return ((kind, name) for kind in (_ANY if entry.kind == "typed" else (entry.kind,)))
