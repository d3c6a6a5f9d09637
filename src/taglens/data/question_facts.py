"""What the captions of one picture say that can be asked about: what is there, its colour, what it does, how many.

Knows parsed captions and a vocabulary, in whose tags things are named. Refuses to choose or word questions
(`taglens.data.question_maker`). Captions leave out much: what none of them names may be there all the same.
A *column* is a tag's place in the vocabulary; a caption that says "terrier" speaks of the tags terrier and dog.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from taglens.language.caption_forms import spoken_forms
from taglens.language.lemmas import singular, verb_lemma
from taglens.language.mentions import MentionFinder
from taglens.language.parsed import ParsedCaption
from taglens.language.tokens import tokenize
from taglens.language.word_lists import WordLists
from taglens.vocabulary import Vocabulary


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# As answers name them: one spelling each, "dark blue" is blue.
COLOURS: Mapping[str, str] = {
    **{
        name: name
        for name in _words("black white red blue green yellow orange brown gray pink purple tan gold")
    },
    **{name: name for name in _words("silver beige maroon turquoise teal violet blond")},
    "grey": "gray",
    "golden": "gold",
    "blonde": "blond",
    "navy": "blue",
}
# Verbs that tell how things stand and not what somebody does.
_STATES = _words("wear have be cover surround show contain fill line dress tie match")
_SAID_AS = {"lay": "lie"}  # the parser calls both "lay"
# "A dog and another": more than the words count.
_OTHERS = _words("another other others group pair couple row lot bunch crowd")
# What stands before a thing that is not counted: "in grass", "of water", "and snow".
_BARE_BEFORE = _words(
    "in on of with through over into under and by at near from across behind for to up down along"
)


@dataclass(frozen=True, slots=True)
class Facts:
    """What the captions of a picture say.

    Attributes:
        captions: how many there are.
        named: column -> captions that say the tag itself, by name or synonym.
        implied: these columns and everything they imply.
        several: columns of which some caption says that there are several.
        colours, doings, numbers: column -> what captions say, one entry for each that says something.
        articles, bare: column -> how often it stands, in the singular, behind "a" or "an", and behind nothing.
    """

    captions: int
    named: Counter[int] = field(default_factory=Counter)
    implied: set[int] = field(default_factory=set)
    several: set[int] = field(default_factory=set)
    colours: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    doings: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    numbers: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    articles: Counter[int] = field(default_factory=Counter)
    bare: Counter[int] = field(default_factory=Counter)


class FactReader:
    """Reads captions for what they say of a vocabulary's things.

    Args:
        lists: the word lists with which words find the vocabulary's tags.
    """

    def __init__(self, vocabulary: Vocabulary, lists: WordLists) -> None:
        self._vocabulary = vocabulary
        self._find = MentionFinder(vocabulary, lists)
        self._closed: dict[int, frozenset[int]] = {}
        self._doing: dict[str, str] = {}

    def closure(self, column: int) -> frozenset[int]:
        """The column and everything it implies."""
        if column not in self._closed:
            self._closed[column] = frozenset(self._vocabulary.with_parents([column]))
        return self._closed[column]

    def __call__(self, captions: Sequence[ParsedCaption]) -> Facts:
        """The facts of one picture."""
        facts = Facts(len(captions))
        for parsed in captions:
            self._read(parsed, facts)
        return facts

    def _read(self, parsed: ParsedCaption, facts: Facts) -> None:
        tokens = tokenize(parsed.caption)
        things = {name: column for name in parsed.objects if (column := self._column(name)) is not None}
        whole = {self._column(" ".join(pair), strictly=True) for pair in parsed.pairs} - {None}
        named = {*things.values(), *(column for column in whole if column is not None)}
        facts.named.update(named)
        for column in named:
            facts.implied.update(self.closure(column))
        # Who is spoken of when a tag is asked about: "man" and "woman" are both persons.
        speaking: dict[int, list[str]] = defaultdict(list)
        for name, column in things.items():
            for each in self.closure(column):
                speaking[each].append(name)
            self._article(name, column, tokens, parsed, facts)
        for column, names in speaking.items():
            if len(names) > 1 or _several(names[0], tokens, parsed):
                facts.several.add(column)
            if len(names) == 1:
                self._details(column, names[0], tokens, parsed, facts)

    def _details(
        self, column: int, name: str, tokens: Sequence[str], parsed: ParsedCaption, facts: Facts
    ) -> None:
        if (colour := _colour(name, parsed)) is not None:
            facts.colours[column].append(colour)
        if (doing := self._doing_of(name, tokens, parsed)) is not None:
            facts.doings[column].append(doing)
        if (number := _number(name, tokens, parsed)) is not None:
            facts.numbers[column].append(number)

    def _column(self, name: str, *, strictly: bool = False) -> int | None:
        """The tag that an object's name means; ``strictly``: under this very name."""
        if strictly:
            return self._vocabulary.find(name, kinds=("object", "scene"))
        return self._find(("object", name)).column

    def _article(
        self, name: str, column: int, tokens: Sequence[str], parsed: ParsedCaption, facts: Facts
    ) -> None:
        before = {*name.split(), *(word for attribute in parsed.attributes for word in attribute.split())}
        head = _head(name)
        for place, token in enumerate(tokens):
            if token != head:
                continue
            at = place - 1
            while at >= 0 and tokens[at] in before:
                at -= 1
            if at >= 0 and tokens[at] in ("a", "an", "one"):
                facts.articles[column] += 1
            elif at < 0 or not tokens[at].isalpha() or tokens[at] in _BARE_BEFORE:
                facts.bare[column] += 1

    def _doing_of(self, name: str, tokens: Sequence[str], parsed: ParsedCaption) -> str | None:
        """What a caption says that somebody does, "running"; of several things the one said first."""
        verbs = {predicate.split()[0] for subject, predicate, _ in parsed.relations if subject == name}
        verbs |= {
            _lemma(attribute)
            for attribute, holder in parsed.pairs
            if holder == name and attribute.endswith("ing")
        }
        if len(parsed.objects) == 1 and len(parsed.actions) == 1:
            verbs |= set(parsed.actions)
        for verb in parsed.actions:
            if verb in verbs and verb not in _STATES and _active(verb, tokens):
                return self._present(verb)
        return None

    def _present(self, verb: str) -> str | None:
        if verb not in self._doing:
            said = _SAID_AS.get(verb, verb)
            forms = spoken_forms(said, "action")
            self._doing[verb] = next((form for form in forms if form.endswith("ing") and form != said), "")
        return self._doing[verb] or None


def _head(name: str) -> str:
    return name.rpartition(" ")[2]


def _mentions(name: str, tokens: Iterable[str]) -> list[str]:
    """The tokens that say the last word of a name."""
    head = _head(name)
    return [token for token in tokens if token == head or _single(token) == head]


# Captions say the same words again and again.
_single = lru_cache(1 << 16)(singular)
_lemma = lru_cache(1 << 16)(verb_lemma)


def _several(name: str, tokens: Sequence[str], parsed: ParsedCaption) -> bool:
    found = _mentions(name, tokens)
    counts = [count for count, counted in parsed.counts if counted == name]
    return len(found) > 1 or any(token != _head(name) for token in found) or any(n != 1 for n in counts)


def _colour(name: str, parsed: ParsedCaption) -> str | None:
    """ "black and white": one or two colours, in the order of the alphabet; of more, none can be told."""
    words = [attribute.rpartition(" ")[2] for attribute, holder in parsed.pairs if holder == name]
    colours = sorted({COLOURS[word] for word in words if word in COLOURS})
    return " and ".join(colours) if 0 < len(colours) <= 2 else None


def _number(name: str, tokens: Sequence[str], parsed: ParsedCaption) -> str | None:
    counts = [count for count, counted in parsed.counts if counted == name]
    if counts:
        (first, *more) = counts
        return str(first) if not more and isinstance(first, int) and first > 0 else None
    if _mentions(name, tokens) == [_head(name)] and not _OTHERS & set(tokens):
        return "1"
    return None


def _active(verb: str, tokens: Iterable[str]) -> bool:
    """Whether the verb stands as something that is being done: "tied to a pole" is done to the dog."""
    return any(
        _lemma(token) in (verb, _SAID_AS.get(verb)) and (token.endswith(("ing", "s")) or token == verb)
        for token in tokens
    )
