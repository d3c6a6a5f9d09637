"""What is read from a caption: a value. Refuses to know how it was read."""

from __future__ import annotations

from typing import Any, NamedTuple


class ParsedCaption(NamedTuple):
    """What a caption names, each list without repeats and in order of appearance.

    Attributes:
        caption: the text as it came.
        objects: singular lower-case noun phrases without adjectives ("tree trunk"); "he", "she" and "they"
            are "man", "woman" and "person".
        attributes: as written, lower case.
        actions: verb lemmas; "lie" and "lay", which captions do not tell apart, are both "lay".
        scenes: those of ``objects`` that are places.
        pairs: (attribute, object).
        relations: (subject, predicate, object); the predicate is a verb lemma with its prepositions
            ("ride", "sit on"), a preposition, or "have".
        counts: (number, object); a word such as "several" where there is no number.
    """

    caption: str
    objects: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    scenes: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    relations: tuple[tuple[str, str, str], ...] = ()
    counts: tuple[tuple[int | str, str], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The contract's row."""
        return {
            "caption": self.caption,
            "objects": list(self.objects),
            "attributes": list(self.attributes),
            "actions": list(self.actions),
            "scenes": list(self.scenes),
            "pairs": [list(pair) for pair in self.pairs],
            "relations": [list(relation) for relation in self.relations],
            "counts": [list(count) for count in self.counts],
        }
