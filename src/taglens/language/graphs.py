"""Scene graphs laid over their captions: words of the graph are found in the caption, and what they are
there becomes the word's label.

Knows captions and gold graphs; refuses to know models. A graph reads
"( man , ride , horse ) , ( horse , is , brown )". Where it says a thing in other words than the caption
("guy" is "person", "in" is "wear"), what often stands for what is counted over all captions first.
"""

from __future__ import annotations

import csv
import gzip
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from pathlib import Path

from taglens.errors import DataError
from taglens.language.lemmas import singular, third_person, verb_lemma
from taglens.language.reading import HINTS
from taglens.language.tokens import NUMBERS, tokenize

Speak = Callable[[str], str]

_TUPLE = re.compile(r"\(\s*(.*?)\s*\)\s*(?:,|$)")
_SEPARATOR = re.compile(r"\s,\s|,")
_SQUEEZE = re.compile(r"[\s\-']")
_NO_VERBS = frozenset(("be", "have", "has", "is", "a", "the"))
_MEASURES = frozenset(("group", "piece", "part", "slice", "pair"))
# What may say "wear" without the verb.
_WORN = frozenset(("in", "with", "dressed", "clad", "has"))
# The words that the measure of ``bench/parser.py`` counts as no action.
_PREPOSITIONS = frozenset(
    (
        *("on", "in", "of", "at", "by", "with", "to", "from", "over", "under", "near", "behind", "beside"),
        *("above", "below", "for", "up", "down", "along", "around", "inside", "outside", "through", "across"),
        *("into", "onto", "off", "out", "against", "between", "next", "front", "top", "side", "within"),
        *("beneath", "atop", "toward", "towards", "past", "about", "among", "like", "as", "left", "right"),
    )
)
# Seen together this often, and in this share of the word's uses, one word stands for the other.
_LEAST_TOGETHER, _LEAST_SHARE = 3, 0.15
_LIKE = 0.75


@dataclass(frozen=True, slots=True)
class Example:
    """A caption's tokens and, for each, one of ``tagger.LABELS``."""

    tokens: tuple[str, ...]
    labels: tuple[str, ...]


def read_graphs(path: Path) -> Iterator[tuple[str, str]]:
    """(caption, scene graph) of each row of a csv, plain or .gz.

    Raises:
        DataError: the file lacks one of the two columns.
    """
    unpack = gzip.open if path.suffix == ".gz" else open
    with unpack(path, "rt", encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            if "caption" not in row or "scene_graph" not in row:
                raise DataError(f"{path}: expected columns caption and scene_graph, found {sorted(row)}.")
            yield row["caption"], row["scene_graph"]


def graph_tuples(graph: str) -> list[tuple[str, str, str]]:
    """The (subject, predicate, object) triples of a graph, lower case; shorter tuples are left out."""
    triples = []
    for inner in _TUPLE.findall(graph + " "):
        parts = [part.strip().lower() for part in _SEPARATOR.split(inner)]
        if len(parts) == 3:
            triples.append((parts[0], parts[1], parts[2]))
    return triples


def graph_entities(graph: str) -> set[str]:
    """What a graph names: subjects and objects, and things that stand alone, "( river )"."""
    names = {side for s, p, o in graph_tuples(graph) for side in ((s,) if p == "is" else (s, o))}
    alone = {inner.strip().lower() for inner in _TUPLE.findall(graph + " ")}
    return names | {name for name in alone if name and "," not in name}


def graph_verbs(graphs: Iterable[str]) -> frozenset[str]:
    """Base forms that at least two graphs use as the first word of a predicate."""
    seen: Counter[str] = Counter()
    for graph in graphs:
        seen.update({p.split()[0] for _, p, _ in graph_tuples(graph) if p and p != "is"})
    return frozenset(
        verb
        for verb, count in seen.items()
        if count > 1 and verb.isalpha() and verb not in _PREPOSITIONS and not verb.endswith(("ing", "ed"))
    )


@dataclass
class _Caption:
    """A caption while its labels are found."""

    tokens: list[str]
    nouns: list[str]
    bases: list[str]
    labels: list[str]
    missed: list[tuple[str, str]] = field(default_factory=list)
    named: dict[str, str] = field(default_factory=dict)

    def free(self, start: int, end: int) -> bool:
        return self.labels[start:end] == ["O"] * (end - start)

    def mark(self, start: int, end: int, last: str, earlier: str) -> None:
        self.labels[start:end] = [earlier] * (end - start - 1) + [last]


class Aligner:
    """Finds the graph's words in captions; learns from many rows what stands for what."""

    def __init__(self, rows: Sequence[tuple[str, str]], spell: Speak = str) -> None:
        """Args:
        rows: (caption, graph) to learn from.
        spell: puts a token's spelling right.
        """
        self.verbs = graph_verbs(graph for _, graph in rows)
        self._spell = spell
        self._stands: dict[tuple[str, str], dict[str, int]] = {}
        self._names: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._learn(rows)
        for caption, graph in rows:
            for written, name in self._align(caption, graph).named.items():
                self._names[written][name] += 1

    def align(self, caption: str, graph: str) -> Example:
        """The caption's tokens and their labels; what is not found in the graph stays "O"."""
        found = self._align(caption, graph)
        return Example(tuple(found.tokens), tuple(found.labels))

    def names(self, least: int = 2) -> dict[str, str]:
        """Objects as captions write them -> what graphs mostly call them, where that differs."""
        names = {}
        for written, called in self._names.items():
            name, count = called.most_common(1)[0]
            if name != written and count >= least and 2 * count >= called.total():
                names[written] = name
        return names

    def _learn(self, rows: Sequence[tuple[str, str]]) -> None:
        together: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        unused: Counter[str] = Counter()
        for caption, graph in rows:
            found = self._align(caption, graph)
            free = {t for t, label in zip(found.tokens, found.labels, strict=True) if label == "O"}
            unused.update(free)
            for kind, name in found.missed:
                for token in free:
                    together[kind, token][name] += 1
        for (kind, token), names in together.items():
            kept = {
                name: count
                for name, count in names.items()
                if _stands_for(kind, token, name, count, unused[token])
            }
            if kept:
                self._stands[kind, token] = kept

    def _align(self, caption: str, graph: str) -> _Caption:
        tokens = [self._spell(token) for token in tokenize(caption)]
        found = _Caption(
            tokens,
            [singular(token) for token in tokens],
            [verb_lemma(token, self.verbs) for token in tokens],
            ["O"] * len(tokens),
        )
        triples = graph_tuples(graph)
        # Longer names first, so that "tree" does not take the end of "palm tree" for itself.
        for name in sorted(graph_entities(graph), key=lambda name: (-len(name.split()), name)):
            _mark_object(name, found)
        for _, predicate, name in triples:
            if predicate == "is":
                _mark_attribute(name, found)
        for _, predicate, _name in triples:
            if predicate != "is":
                _mark_predicate(predicate, found)
        self._mark_missed(found)
        return found

    def _mark_missed(self, found: _Caption) -> None:
        for kind, name in found.missed:
            counts = [
                (self._stands.get((kind, token), {}).get(name, 0) if label in "OP" else 0, -i)
                for i, (token, label) in enumerate(zip(found.tokens, found.labels, strict=True))
            ]
            count, place = max(counts, default=(0, 0))
            if count:
                found.labels[-place] = {"object": "H", "attribute": "A", "action": "W"}[kind]
                if kind == "object":
                    found.named[found.nouns[-place]] = _singular_name(name)


def _stands_for(kind: str, token: str, name: str, count: int, uses: int) -> bool:
    if kind == "action":
        # A verb said in other words is known from a list only; chance neighbours would say the rest.
        return HINTS.get(token) == name or (name == "wear" and token in _WORN)
    if count >= _LEAST_TOGETHER and count >= _LEAST_SHARE * uses:
        return True
    alike = len(token) > 3 and token[0] == name[0] and name.isascii()
    return alike and SequenceMatcher(None, token, name).ratio() >= _LIKE


def _singular_name(name: str) -> str:
    *earlier, last = name.split() or [""]
    return " ".join([*earlier, singular(last)])


def _mark_object(name: str, found: _Caption) -> None:
    words = tokenize(name)
    if not words:
        return
    nouns, size, seen = [singular(word) for word in words], len(words), False
    for start in range(len(found.tokens) - size + 1):
        here = slice(start, start + size)
        same = found.nouns[here] == nouns or (
            found.nouns[here][-1] == nouns[-1] and found.tokens[here][:-1] == words[:-1]
        )
        if same and found.free(start, start + size):
            found.mark(start, start + size, "H", "M")
            seen = True
    if not seen and (place := _squeezed(" ".join(nouns), found.nouns, found)) is not None:
        found.mark(*place, "H", "M")
        written = " ".join([*found.tokens[place[0] : place[1] - 1], found.nouns[place[1] - 1]])
        found.named[written] = _singular_name(name)
    elif not seen:
        found.missed.append(("object", name))
    else:
        found.named.setdefault(_singular_name(name), _singular_name(name))


def _squeezed(name: str, words: Sequence[str], found: _Caption) -> tuple[int, int] | None:
    """Where up to three free words spell ``name`` but for spaces and hyphens."""
    meant = _SQUEEZE.sub("", name)
    for start in range(len(words)):
        for end in range(start + 1, min(len(words), start + 3) + 1):
            if found.free(start, end) and _SQUEEZE.sub("", " ".join(words[start:end])) == meant:
                return start, end
    return None


def _mark_attribute(name: str, found: _Caption) -> None:
    words = tokenize(name)
    if len(words) == 1 and words[0].isdigit():
        for i, token in enumerate(found.tokens):
            if found.labels[i] == "O" and (token == words[0] or NUMBERS.get(token) == int(words[0])):
                found.labels[i] = "N"
        return
    if not words or words[-1] == "of" or name in _MEASURES:
        return
    seen = False
    for start in range(len(found.tokens) - len(words) + 1):
        end = start + len(words)
        if found.tokens[start:end] == words and found.free(start, end):
            found.mark(start, end, "I" if _acts(start, words, found) else "A", "D")
            seen = True
    if not seen and (place := _squeezed(name, found.tokens, found)) is not None:
        found.mark(*place, "A", "D")
    elif not seen:
        found.missed.append(("attribute", name))


def _acts(start: int, words: Sequence[str], found: _Caption) -> bool:
    """Whether the attribute is a participle after its noun: "a man standing"."""
    if len(words) > 1 or not words[0].endswith("ing") or not start:
        return False
    return found.labels[start - 1] in "HA" or found.tokens[start - 1] in ("is", "are", "while", "and")


def _mark_predicate(predicate: str, found: _Caption) -> None:
    words = predicate.split()
    verb = next((word for word in words if word not in _PREPOSITIONS and word not in _NO_VERBS), "")
    seen = False
    for i, (token, base) in enumerate(zip(found.tokens, found.bases, strict=True)):
        if found.labels[i] in "OV" and verb in (base, token, "lay" if base == "lie" else base):
            found.labels[i] = "V"
            seen = True
    if verb and not seen:
        found.missed.append(("action", verb))
    for word in words:
        for i, token in enumerate(found.tokens):
            if token == word != verb and found.labels[i] == "O":
                found.labels[i] = "P"


_JOINTS = (("and",), (",",), ("while",), ("as",), (",", "and"), (".",), ("with",), ("where",), ("who", "is"))


def vary(examples: Sequence[Example], verbs: Collection[str], chance: random.Random) -> list[Example]:
    """As many examples again, in the forms that captions have and region descriptions lack.

    "man riding horse" becomes "a man rides horse" or "a man is riding horse", and half of them are joined
    with another: "a man rides horse while ...".
    """
    changed = [_as_sentence(example, verbs, chance) for example in examples]
    varied = []
    for sentence in changed:
        first = sentence
        if chance.random() < 0.5:
            second = chance.choice(changed)
            joiner = chance.choice(_JOINTS)
            end = len(first.tokens) - (first.tokens[-1:] == (".",))
            first = Example(
                (*first.tokens[:end], *joiner, *second.tokens),
                (*first.labels[:end], *"O" * len(joiner), *second.labels),
            )
        varied.append(first)
    return varied


def _as_sentence(example: Example, verbs: Collection[str], chance: random.Random) -> Example:
    tokens, labels = list(example.tokens), list(example.labels)
    if len(tokens) > 1 and labels[0] in "HMA" and not tokens[0].endswith("s") and chance.random() < 0.7:
        tokens.insert(0, chance.choice(("a", "the", "one", "another")))
        labels.insert(0, "O")
    style = chance.random()
    for i in range(len(tokens) - 1, 0, -1):
        if labels[i] not in "VI" or not tokens[i].endswith("ing"):
            continue
        stated = i > 1 and tokens[i - 1] in ("is", "are") and labels[i - 2] == "H"
        if not stated and labels[i - 1] != "H":
            continue
        noun = tokens[i - 2] if stated else tokens[i - 1]
        many = singular(noun) != noun
        if style < 0.6:
            base = verb_lemma(tokens[i], verbs)
            tokens[i], labels[i] = base if many else third_person(base), "V"
            if stated:
                del tokens[i - 1], labels[i - 1]
        elif style < 0.8 and not stated:
            tokens.insert(i, "are" if many else "is")
            labels.insert(i, "O")
    return Example(tuple(tokens), tuple(labels))


_SINGLE = re.compile("[NAD]*M*H")


def phrases(examples: Sequence[Example], chance: random.Random, *, share: float = 0.1) -> list[Example]:
    """Nouns of some captions with what stands before them, as captions of their own: "a red car"."""
    found = []
    for example in examples:
        if chance.random() >= share:
            continue
        if not (places := list(_SINGLE.finditer("".join(example.labels)))):
            continue
        place = chance.choice(places)
        # Half of them without what describes them: "dog".
        start = place.start() if chance.random() < 0.5 else place.end() - 1
        opening = chance.choice(((), ("a",), ("the",)))
        closing = chance.choice(((), (), (".",)))
        found.append(
            Example(
                (*opening, *example.tokens[start : place.end()], *closing),
                (*"O" * len(opening), *example.labels[start : place.end()], *"O" * len(closing)),
            )
        )
    return found
