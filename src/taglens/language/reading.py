"""A labelled caption as objects, attributes, actions, and how they hang together.

Knows one caption's words and the part each plays (``tagger.LABELS``). Refuses to know how the labels were
found, and tags or vocabularies. One pass from left to right.

A scene noun ("street", "kitchen") stands in both ``objects`` and ``scenes``. A word that describes by what
something does ("a woman smiling") is an attribute as written and an action by its lemma.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from taglens.language import grammar
from taglens.language.grammar import (
    BREAKS,
    HAS,
    IS,
    JOINS,
    LEADS,
    NOTHING,
    OF,
    PASSES,
    PLACES,
    POSSESSES,
    PREPOSITION,
    SCENES,
    SILENT,
    WHO,
)
from taglens.language.lemmas import singular, verb_lemma
from taglens.language.parsed import ParsedCaption

Step: TypeAlias = "Callable[[Reading, Word], None]"

# Words a predicate may have: a verb and its prepositions.
_LONGEST_PREDICATE = 5
# Words before an object's last that its name keeps.
_LONGEST_COMPOUND = 5
# Nouns that act together; of a longer list only these are given what they all do.
_MOST_TOGETHER = 8


@dataclass(slots=True)
class Word:
    """A word as the reader asks of it.

    Attributes:
        noun: singular; "" where it is never an object.
        attribute: the word, as `grammar.SPELLED` spells it; "" where it is never an attribute.
        action: verb lemma; "" where it is never an action.
        count: the number it states, if any; then it is nothing else.
        role: what it does when it is none of these; see ``grammar``.
        past: whether it may be a past participle ("surrounded by").
        doing: whether it is a present participle ("dancing").
        other: the step that reads it when it is none of these.
    """

    text: str
    noun: str
    attribute: str
    action: str
    count: int | str | None
    role: int
    past: bool
    doing: bool
    other: Step

    @classmethod
    def of(cls, text: str, verbs: frozenset[str]) -> Word:
        """Args: verbs: base forms that help to find lemmas."""
        role, count = grammar.role(text), grammar.number(text)
        other = _BY_ROLE[role] if count is None else Reading._number
        if not any(map(str.isalpha, text)) or text.startswith("'") or count is not None:
            return cls(text, "", "", "", count, role, past=False, doing=False, other=other)
        lemma, ing = verb_lemma(text, verbs), text.endswith("ing")
        # Captions write "laying" for "lying" as often as not; the graphs learnt from say "lay" for both.
        action = "lay" if lemma == "lie" else lemma
        if lemma in grammar.NO_ACTIONS or text in PLACES:
            action = ""
        return cls(
            text,
            noun="" if text in grammar.NO_OBJECTS else singular(text),
            attribute="" if text in grammar.NO_ATTRIBUTES else grammar.SPELLED.get(text, text),
            action=action,
            count=None,
            role=role,
            past=not ing and lemma != text,
            # Of a verb that graphs do not use, so that its label could not be learnt.
            doing=ing and bool(action) and action not in verbs and text not in grammar.NO_PARTICIPLES,
            other=other,
        )


# How a noun stands to what follows it.
_AWAY, _AFTER, _JOINED = range(3)

# What a word says that is labelled as an action without being its verb; "wear" where it is not listed.
HINTS: Mapping[str, str] = {"asleep": "sleep", "seated": "sit", "strewn": "scatter", "full": "fill"}

# Verbs whose participle names its doer after "with" or "in" too.
_REVERSING = frozenset(("cover", "surround"))

# The predicate of a coat that somebody is "in".
_WEAR = ["wear"]


class Reading:
    """Reads one caption; use once.

    What waits: attributes and counts for the noun after them, the earlier words of a compound for its last,
    a predicate for its object.
    """

    __slots__ = (
        "_actions", "_attributes", "_clause", "_compound", "_copula", "_counted", "_counts", "_described",
        "_fresh", "_fronted", "_half", "_names", "_nearest", "_objects", "_owners", "_pairs", "_parts",
        "_passive", "_predicate", "_relations", "_sources", "_standing", "_text", "_verb",
    )  # fmt: skip

    def __init__(self, text: str, names: Mapping[str, str]) -> None:
        self._text, self._names = text, names
        self._objects: dict[str, None] = {}
        self._attributes: dict[str, None] = {}
        self._actions: dict[str, None] = {}
        self._pairs: dict[tuple[str, str], None] = {}
        self._relations: dict[tuple[str, str, str], None] = {}
        self._counts: dict[tuple[int | str, str], None] = {}
        self._compound: list[Word] = []  # of an object
        self._half: list[str] = []  # of an attribute
        self._described: list[str] = []
        self._counted: list[int | str] = []
        # Who acts: the nouns that opened the clause. Who is where: the noun before a preposition.
        self._clause: list[str] = []
        self._nearest = self._fronted = ""
        self._owners: list[str] = []
        self._sources: list[str] = []  # of the last relation
        self._parts: list[str] = []
        self._predicate: list[str] = []
        self._verb = self._passive = self._copula = False
        self._fresh = True
        self._standing = _AWAY

    def read(self, words: Sequence[Word], labels: str) -> ParsedCaption:
        """The caption's parts, given its words and the label of each."""
        labels = _regular(labels)
        if "'" in self._text or "’" in self._text:
            labels = _owned(words, labels)
        steps = _STEPS
        for word, label in zip(words, labels, strict=True):
            step = word.other if label == "O" else steps[label]
            step(self, word)
        if self._described:
            self._settle()
        if self._fronted and self._verb and len(self._predicate) > 1 and not self._standing:
            self._relate(self._clause[0], self._fronted)
        objects = tuple(self._objects)
        return ParsedCaption(
            self._text,
            objects,
            tuple(self._attributes),
            tuple(self._actions),
            tuple([name for name in objects if name.rpartition(" ")[2] in SCENES]),
            tuple(self._pairs),
            tuple(self._relations),
            tuple(self._counts),
        )

    # -- objects ---------------------------------------------------------------------------------------

    def _earlier(self, word: Word) -> None:
        """A compound's word before its last."""
        if word.noun:
            self._compound.append(word)
            del self._compound[:-_LONGEST_COMPOUND]
        else:
            word.other(self, word)

    def _head(self, word: Word) -> None:
        if not word.noun:
            if self._compound:
                self._head(self._compound.pop())
            word.other(self, word)
            return
        name = self._name(word) if self._compound else self._names.get(word.noun, word.noun)
        self._objects[name] = None
        if self._described:
            for attribute in self._described:
                self._pairs[attribute, name] = None
            self._described.clear()
        if self._counted:
            for count in self._counted:
                self._counts[count, name] = None
            self._counted.clear()
        self._place(name)

    def _name(self, head: Word) -> str:
        """The name of an object with this head; "" if it is none."""
        name = head.noun
        if not name:
            return ""
        if self._compound:
            name = " ".join([*(earlier.text for earlier in self._compound), name])
            self._compound.clear()
        return self._names.get(name, name)

    def _owner(self, word: Word) -> None:
        """A noun that has the next one, "kitchen floor", "man's hat", or is a part of it, "bearded man"."""
        if name := self._name(word):
            self._objects[name] = None
            (self._parts if word.text.endswith("ed") else self._owners).append(name)

    def _place(self, name: str) -> None:
        """How the object stands to those before it."""
        joined, self._standing = self._standing == _JOINED, _AFTER
        if self._predicate:
            if not joined:
                # Nouns that opened the clause together act together, and are together where they are.
                if self._verb or (self._nearest in self._clause and self._predicate != _WEAR):
                    self._sources = self._clause
                else:
                    self._sources = [self._nearest] if self._nearest else []
            for source in self._sources:
                self._relate(source, name)
            if not self._sources:
                # "By the trees, a woman": what opens the caption belongs to nothing yet.
                self._predicate, self._standing = [], _AWAY
        elif joined and self._nearest in self._clause:
            if len(self._clause) < _MOST_TOGETHER:
                self._clause.append(name)
        elif not joined or self._fresh:
            # "The bench the man sits on": he acts, and the bench waits for the preposition.
            self._fronted, self._clause, self._fresh = self._nearest, [name], False
        if self._owners:
            for owner in self._owners:
                self._relations[owner, "have", name] = None
            self._owners.clear()
        if self._parts:
            for part in self._parts:
                self._relations[name, "have", part] = None
            self._parts.clear()
        self._nearest = name

    def _relate(self, source: str, name: str) -> None:
        if self._predicate[0] == "of":
            relation = (name, "have", source)
        elif self._passive and self._reversed():
            relation = (name, self._predicate[0], source)
        else:
            relation = (source, " ".join(self._predicate), name)
        self._relations[relation] = None

    def _reversed(self) -> bool:
        """Whether the object does it: "hit by a car", "covered with snow"."""
        verb, *after = self._predicate
        return after == ["by"] or (verb in _REVERSING and after in (["with"], ["in"]))

    # -- attributes and counts -------------------------------------------------------------------------

    def _half_attribute(self, word: Word) -> None:
        """A compound attribute's word before its last: "light blue", "in the distance"."""
        self._half.append(word.text)

    def _describing(self, word: Word) -> None:
        text = word.attribute
        if self._half:
            text = " ".join([*self._half, word.text])
            text = grammar.SPELLED.get(text, text)
            self._half.clear()
        if text:
            self._attributes[text] = None
            self._described.append(text)
        else:
            word.other(self, word)

    def _settle(self) -> None:
        """Attributes that no noun follows belong to who the clause is about, or to the noun before them."""
        holder = self._clause[0] if self._copula and self._clause else self._nearest
        if holder:
            for attribute in self._described:
                self._pairs[attribute, holder] = None
        self._described.clear()

    # -- actions ---------------------------------------------------------------------------------------

    def _acting(self, word: Word) -> None:
        if word.text in grammar.DONE:
            self._head(word)
            return
        if not word.action:
            word.other(self, word)
            return
        self._actions[word.action] = None
        self._begin([word.action], verb=True)
        self._passive, self._fresh = word.past, False

    def _acting_alone(self, word: Word) -> None:
        """ "A woman smiling": what she does says what she is like."""
        self._acting(word)
        if word.action and word.attribute:
            self._attributes[word.attribute] = None
            if holder := (self._clause[0] if self._clause else self._nearest):
                self._pairs[word.attribute, holder] = None

    def _hinting(self, word: Word) -> None:
        """ "A man in a red coat" wears it."""
        action = HINTS.get(word.text, "wear")
        self._actions[action] = None
        self._begin([action], verb=False)

    def _begin(self, predicate: list[str], *, verb: bool) -> None:
        if self._described:
            self._settle()
        self._counted.clear()
        self._predicate, self._verb = predicate, verb
        self._passive = self._copula = False
        self._standing = _AWAY

    # -- the rest --------------------------------------------------------------------------------------

    def _preposition(self, word: Word) -> None:
        if self._described:
            self._settle()
        self._counted.clear()
        if self._standing:
            self._predicate, self._verb, self._standing = [], False, _AWAY
        if not self._predicate:
            self._predicate = [word.text]
        elif len(self._predicate) < _LONGEST_PREDICATE and (self._verb or self._predicate != _WEAR):
            self._predicate = [*self._predicate, word.text]

    def _within(self, word: Word) -> None:
        """What a graph writes into its predicate: a preposition, unless it does something else too."""
        if word.role in (NOTHING, PREPOSITION):
            self._preposition(word)
        else:
            word.other(self, word)

    def _number(self, word: Word) -> None:
        if word.count is not None:
            self._counted.append(word.count)

    def _join(self, word: Word) -> None:
        if self._standing:
            self._standing = _JOINED

    def _lead(self, word: Word) -> None:
        """ "Very": adjectives go on waiting for their noun."""

    def _pass(self, word: Word) -> None:
        if self._described:
            self._settle()
        if self._standing == _AFTER:
            self._predicate, self._verb, self._standing = [], False, _AWAY

    def _of(self, word: Word) -> None:
        if self._standing == _AFTER:
            # "The leg of the man": the man has it.
            self._predicate, self._verb, self._standing = ["of"], False, _AWAY
        elif self._predicate and (self._predicate[-1] in PLACES or self._predicate[-1] == "out"):
            self._predicate = [*self._predicate, "of"]

    def _turn(self) -> bool:
        """A clause begins or a predicate ends; says whether a noun stood right before."""
        if self._described:
            self._settle()
        after = self._standing == _AFTER
        if self._standing:
            self._predicate, self._verb, self._standing = [], False, _AWAY
        return after

    def _is(self, word: Word) -> None:
        self._turn()
        self._copula = True
        if self._clause:
            self._nearest = self._clause[-1]

    def _has(self, word: Word) -> None:
        self._turn()
        self._predicate, self._verb = ["have"], True

    def _possess(self, word: Word) -> None:
        self._predicate, self._verb = (["have"], False) if self._turn() else ([], False)

    def _who(self, word: Word) -> None:
        self._turn()
        self._clause = [self._nearest] if self._nearest else self._clause
        self._predicate, self._verb, self._fresh = [], False, False

    def _break(self, word: Word) -> None:
        self._turn()
        self._predicate, self._verb, self._fresh, self._copula = [], False, True, False

    def _skip(self, word: Word) -> None:
        """What an unknown word stood for closes the preposition; the verb goes on.

        A participle right after its noun, or after "is", is an action whatever the label says: graphs often
        have it by another name, so that it was learnt as nothing.
        """
        if word.doing and (self._standing == _AFTER or (self._copula and not self._predicate)):
            self._acting(word)
            return
        self._turn()
        self._predicate = self._predicate[:1] if self._verb else []
        self._counted.clear()


def _regular(labels: str) -> str:
    """Labels in which every compound has its last word, and "K" marks a noun that has the next one."""
    if "M" in labels:
        labels = _NO_HEAD.sub("H", labels)
    if "D" in labels:
        labels = _NO_END.sub("A", labels)
    if "HH" in labels or "HM" in labels:
        labels = _OWNER.sub("K", labels)
    return labels


def _owned(words: Sequence[Word], labels: str) -> str:
    """Labels in which "K" also marks a noun before "'s"."""
    marked = list(labels)
    for i, word in enumerate(words):
        if word.role == POSSESSES and i and labels[i - 1] == "H":
            marked[i - 1] = "K"
    return "".join(marked)


_NO_HEAD, _NO_END, _OWNER = re.compile("M(?![MH])"), re.compile("D(?![DA])"), re.compile("H(?=[HM])")

_BY_ROLE: Mapping[int, Step] = {
    NOTHING: Reading._skip,
    JOINS: Reading._join,
    PASSES: Reading._pass,
    LEADS: Reading._lead,
    OF: Reading._of,
    PREPOSITION: Reading._preposition,
    BREAKS: Reading._break,
    WHO: Reading._who,
    IS: Reading._is,
    HAS: Reading._has,
    SILENT: Reading._skip,
    POSSESSES: Reading._possess,
}
_STEPS: Mapping[str, Step] = {
    "H": Reading._head,
    "K": Reading._owner,
    "M": Reading._earlier,
    "A": Reading._describing,
    "D": Reading._half_attribute,
    "V": Reading._acting,
    "I": Reading._acting_alone,
    "W": Reading._hinting,
    "P": Reading._within,
    "N": lambda reading, word: word.other(reading, word),
}
