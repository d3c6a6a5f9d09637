"""The reviewed word lists behind a vocabulary: what is merged, moved, dropped, kept, hidden and implied.

Knows the lists' text format and how a parsed word finds its tag; refuses to know captions and counts
(`taglens.language.vocabulary_builder`). The lists are the human filter of the papers, written down so that
a change to it is a change one can read.

The format: ``#`` opens a comment, blank lines are free, a comma separates names.

    synonyms.txt   object: sofa = couch, settee          the first name is the tag's, the rest mean it
    scenes.txt     beach, kitchen                        things that are places, not objects
    kinds.txt      attribute > object: soccer            the parser's kind, and the kind that is meant
                   attribute > action: parked = park     ... under another name
    deny.txt       object: front, side                   never a tag ("any" stands for all kinds)
    allow.txt      object: abacus                        a tag even when rare, and even when denied
    sensitive.txt  attribute: asian                      about people: scored, never given to a user
                   ! object: fatso                       a slur: never a tag
    hidden.txt     object: watermark                     scored, never given, for any other reason
    parents.txt    puppy, poodle -> dog -> animal        each implies the next ("action: sprint -> run")
                   ! teddy bear -> bear                  what its spelling or a label set suggests is wrong

A *word* is a pair of kind and name. Objects and scenes share one space of names: "object: beach" and
"scene: beach" say the same, and scenes.txt decides which of the two it is.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

from taglens.errors import VocabularyError
from taglens.results import Kind
from taglens.vocabulary import normalise

Word: TypeAlias = tuple[Kind, str]
Edge: TypeAlias = tuple[Word, Word]

WORDS = Path(__file__).parent.parent / "assets" / "words"
PARSED_KINDS: tuple[Kind, ...] = ("object", "scene", "attribute", "action")
# What spellings of one word differ in.
SQUEEZE = re.compile(r"[\s\-_'’]")
_ARROW = re.compile(r"\s*->\s*")


@dataclass(frozen=True)
class WordLists:
    """What was decided by reading, not by counting.

    Attributes:
        synonyms: word -> the word that it means. Keys and values hold "object" for objects and scenes alike.
        order: a tag's synonyms as their file wrote them.
        display: word -> its name as a reader should see it, where that is not lower case ("TV").
        scenes: names that are places.
        moves: word as the parser gives it -> the word that is meant.
        deny, allow, hidden: words.
        sensitive: words about people that a picture does not show: hidden.
        slurs: those of them that are never a tag.
        edges: (child, parent).
        not_edges: (child, parent) that must not be inferred.
    """

    synonyms: Mapping[Word, Word] = field(default_factory=dict)
    order: Mapping[Word, tuple[str, ...]] = field(default_factory=dict)
    display: Mapping[Word, str] = field(default_factory=dict)
    scenes: frozenset[str] = frozenset()
    moves: Mapping[Word, Word] = field(default_factory=dict)
    deny: frozenset[Word] = frozenset()
    allow: frozenset[Word] = frozenset()
    hidden: frozenset[Word] = frozenset()
    sensitive: frozenset[Word] = frozenset()
    slurs: frozenset[Word] = frozenset()
    edges: tuple[Edge, ...] = ()
    not_edges: frozenset[Edge] = frozenset()

    def resolve(self, kind: Kind, name: str) -> Word:
        """The tag that a parsed name means: moved to its kind, merged with its synonyms, scene or object.

        The tag need not be in any vocabulary.
        """
        word = (_space(kind), normalise(name))
        return self.merged(*self.moves.get(word, word))

    def merged(self, kind: Kind, name: str) -> Word:
        """The tag that a name of a known kind means: merged with its synonyms, scene or object."""
        word = (_space(kind), normalise(name))
        while word in self.synonyms:
            word = self.synonyms[word]
        return self.placed(word)

    @cached_property
    def compounds(self) -> frozenset[str]:
        """Every name of several words that the lists mention as a thing."""
        words = itertools.chain(
            self.synonyms, self.order, self.allow, itertools.chain.from_iterable(self.edges)
        )
        names = itertools.chain((name for kind, name in words if kind == "object"), self.scenes)
        return frozenset(name for name in names if " " in name)

    def is_sensitive(self, word: Word) -> bool:
        """Whether the word, in any spelling, says of people what a picture does not show."""
        return _squeezed(word) in self._squeezed_sensitive

    def is_slur(self, word: Word) -> bool:
        return _squeezed(word) in self._squeezed_slurs

    @cached_property
    def _squeezed_sensitive(self) -> frozenset[Word]:
        return frozenset(map(_squeezed, self.sensitive | self.slurs))

    @cached_property
    def _squeezed_slurs(self) -> frozenset[Word]:
        return frozenset(map(_squeezed, self.slurs))

    def placed(self, word: Word) -> Word:
        """The word as a scene where its name is a place."""
        kind, name = word
        return ("scene", name) if kind == "object" and name in self.scenes else word

    def written(self, word: Word) -> str:
        """The name as a reader should see it."""
        return self.display.get((_space(word[0]), word[1]), word[1])

    def other_names(self, word: Word) -> tuple[str, ...]:
        """Every name that means this tag, in the file's order; those of merged groups follow."""
        root = (_space(word[0]), word[1])
        found: dict[str, None] = {}
        waiting = [root]
        while waiting:
            for name in self.order.get(waiting.pop(0), ()):
                key = (root[0], normalise(name))
                if name not in found and self.merged(*key) == self.placed(root):
                    found[name] = None
                    waiting.append(key)
        return tuple(name for name in found if normalise(name) != root[1])


def _space(kind: Kind) -> Kind:
    """Objects and scenes share one space of names."""
    return "object" if kind == "scene" else kind


def _squeezed(word: Word) -> Word:
    """The word without what spellings differ in."""
    return _space(word[0]), SQUEEZE.sub("", normalise(word[1]))


# -- reading -------------------------------------------------------------------------------------------


def packaged(
    *,
    synonyms: Sequence[Path] = (),
    deny: Sequence[Path] = (),
    allow: Sequence[Path] = (),
    sensitive: Sequence[Path] = (),
) -> WordLists:
    """The lists that ship with the library, and more files of the same format after them."""
    return read_lists(
        WORDS,
        synonyms=[WORDS / "synonyms.txt", *synonyms],
        deny=[WORDS / "deny.txt", *deny],
        allow=[WORDS / "allow.txt", *allow],
        sensitive=[WORDS / "sensitive.txt", *sensitive],
    )


def read_lists(
    folder: Path,
    *,
    synonyms: Sequence[Path],
    deny: Sequence[Path],
    allow: Sequence[Path],
    sensitive: Sequence[Path] = (),
) -> WordLists:
    """Read word lists: scenes, kinds, hidden words and parents of the folder, the rest from the files named.

    Of two files that disagree about a synonym the later wins.

    Raises:
        VocabularyError: a file cannot be read, a line breaks the format, or synonyms or parents go round in a
            circle.
    """
    scenes = {normalise(name) for _, line in _lines(folder / "scenes.txt") for name in _names(line)}
    targets: dict[Word, Word] = {}
    order: dict[Word, tuple[str, ...]] = {}
    display: dict[Word, str] = {}
    for path in synonyms:
        seen: dict[Word, str] = {}
        for where, line in _lines(path):
            kind, text = _kind_and_rest(where, line)
            name, _, rest = text.partition("=")
            name, others = name.strip(), tuple(_names(rest))
            if not normalise(name):
                raise VocabularyError(f"{where}: expected 'kind: name = synonym, synonym', found {line!r}")
            root = (_space(kind), normalise(name))
            if kind == "scene":
                scenes.add(root[1])
            targets.pop(root, None)
            display[root] = name
            order[root] = others
            for other in (name, *others):
                word = (root[0], normalise(other))
                if word in seen:
                    raise VocabularyError(
                        f"{where}: {other!r} ({kind}) stands in two groups; the other is {seen[word]}"
                    )
                seen[word] = where
                if word != root:
                    targets[word] = root
    _refuse_circles({word: [root] for word, root in targets.items()}, "synonyms")
    about_people, slurs = _read_sensitive(sensitive)
    edges, not_edges = _read_parents(folder / "parents.txt", targets)
    return WordLists(
        synonyms=targets,
        order=order,
        display={word: name for word, name in display.items() if name != word[1]},
        scenes=frozenset(scenes),
        moves=_read_moves(folder / "kinds.txt"),
        deny=frozenset(word for path in deny for word in _read_words(path)),
        allow=frozenset(word for path in allow for word in _read_words(path)),
        hidden=frozenset(_read_words(folder / "hidden.txt")),
        sensitive=about_people,
        slurs=slurs,
        edges=edges,
        not_edges=not_edges,
    )


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """(file and line number, text without comment) of every line that says something."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise VocabularyError(f"cannot read word list {path}: {error}") from None
    for number, line in enumerate(text.splitlines(), 1):
        said = line.partition("#")[0].strip()
        if said:
            yield f"{path.name}, line {number}", said


def _names(text: str) -> Iterator[str]:
    for name in text.split(","):
        if name.strip():
            yield " ".join(name.split())


def _kind(where: str, text: str) -> Kind:
    kind = text.strip()
    if kind not in PARSED_KINDS:
        raise VocabularyError(f"{where}: {kind!r} is no kind; expected one of {', '.join(PARSED_KINDS)}")
    return kind


def _kind_and_rest(where: str, line: str) -> tuple[Kind, str]:
    kind, colon, rest = line.partition(":")
    if not colon:
        raise VocabularyError(f"{where}: expected 'kind: names', found {line!r}")
    return _kind(where, kind), rest


def _read_words(path: Path) -> set[Word]:
    return {word for where, line in _lines(path) for word in _words(where, line)}


def _read_sensitive(paths: Iterable[Path]) -> tuple[frozenset[Word], frozenset[Word]]:
    """The sensitive words, and those of lines that begin with ``!``: the slurs."""
    found: dict[bool, set[Word]] = {False: set(), True: set()}
    for path in paths:
        for where, line in _lines(path):
            found[line.startswith("!")].update(_words(where, line.removeprefix("!").strip()))
    return frozenset(found[False]), frozenset(found[True])


def _words(where: str, line: str) -> Iterator[Word]:
    if line.partition(":")[0].strip() == "any":
        kinds: tuple[Kind, ...] = ("object", "attribute", "action")
        rest = line.partition(":")[2]
    else:
        kind, rest = _kind_and_rest(where, line)
        kinds = (_space(kind),)
    return ((kind, normalise(name)) for kind in kinds for name in _names(rest))


def _read_moves(path: Path) -> dict[Word, Word]:
    moves: dict[Word, Word] = {}
    for where, line in _lines(path):
        kinds, colon, rest = line.partition(":")
        before, arrow, after = kinds.partition(">")
        if not (colon and arrow):
            raise VocabularyError(f"{where}: expected 'kind > kind: names', found {line!r}")
        for item in _names(rest):
            name, _, other = item.partition("=")
            word = (_space(_kind(where, before)), normalise(name))
            if word in moves:
                raise VocabularyError(f"{where}: {name.strip()!r} ({word[0]}) is moved twice")
            moves[word] = (_space(_kind(where, after)), normalise(other or name))
    return moves


def _read_parents(path: Path, synonyms: Mapping[Word, Word]) -> tuple[tuple[Edge, ...], frozenset[Edge]]:
    """Edges and refused edges, between words as their synonyms resolve."""

    def word(kind: Kind, name: str) -> Word:
        found = (_space(kind), normalise(name))
        while found in synonyms:
            found = synonyms[found]
        return found

    edges: dict[Edge, None] = {}
    refused: set[Edge] = set()
    for where, line in _lines(path):
        refuses = line.startswith("!")
        text = line.removeprefix("!").strip()
        kind: Kind = "object"
        if ":" in text:
            kind, text = _kind_and_rest(where, text)
        steps = [[word(kind, name) for name in _names(step)] for step in _ARROW.split(text)]
        if len(steps) < 2 or not all(steps):
            raise VocabularyError(f"{where}: expected 'child, child -> parent', found {line!r}")
        for children, parents in itertools.pairwise(steps):
            for edge in ((child, parent) for child in children for parent in parents):
                if edge[0] == edge[1]:  # synonyms have made the two one tag
                    continue
                if refuses:
                    refused.add(edge)
                else:
                    edges[edge] = None
    above: dict[Word, list[Word]] = {}
    for child, parent in edges:
        above.setdefault(child, []).append(parent)
    _refuse_circles(above, "parents")
    return tuple(edges), frozenset(refused)


def _refuse_circles(above: Mapping[Word, Iterable[Word]], what: str) -> None:
    """Raise VocabularyError, naming the way round, when following the arrows can come back."""
    done: set[Word] = set()
    for start in above:
        trail: list[Word] = []
        _walk(start, above, trail, done, what)


def _walk(
    word: Word, above: Mapping[Word, Iterable[Word]], trail: list[Word], done: set[Word], what: str
) -> None:
    if word in trail:
        circle = [name for _, name in trail[trail.index(word) :]]
        raise VocabularyError(f"{what} go round in a circle: {' -> '.join([*circle, word[1]])}")
    if word in done:
        return
    trail.append(word)
    for parent in above.get(word, ()):
        _walk(parent, above, trail, done, what)
    trail.pop()
    done.add(word)
