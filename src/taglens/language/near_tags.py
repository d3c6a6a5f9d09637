"""Tags that may be one tag, tags that may be none, and what a reviewer could do about them.

Knows spellings, inflections, synonyms, heads and the reviewed word lists; neighbours in meaning come from a text
encoder that is passed in. Refuses to decide: everything here is a proposal with its reason.
Shapes: T tags, L width of an embedding; a *column* is a tag's place among the T.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from taglens.language.lemmas import singular, verb_lemma
from taglens.language.mentions import space_of, squeezed
from taglens.language.word_lists import Word, WordLists
from taglens.results import Kind
from taglens.vocabulary import Vocabulary, normalise

Floats = npt.NDArray[np.float32]

MOST_NEAR = 8
_MOST_HEADS = 4
_MOST_NEIGHBOURS = 3
# Cosines of the shipped encoder, of whole tags and of words that are spelt alike; unlike words are near 0.
_NEIGHBOUR, _SAME_WORD = 0.6, 0.5
_CHUNK = 512
# A misspelling is proposed as a merge when it has this many letters and is this many times rarer.
_SURE_LETTERS, _SURE_RARER = 6, 10
# Letters of the longest name that is compared letter by letter.
_LONGEST_NAME = 60
# A tag that fewer than one caption in this many names is proposed for denial.
_RARE = 20_000


class Encoder(Protocol):
    """Texts to unit vectors [M, L]; see `taglens.language.text_encoder.TextEncoder`."""

    def __call__(self, texts: Iterable[str]) -> Floats: ...
    def knows(self, text: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class Near:
    """Another tag that a reviewer should compare with, and why; ``close``: they could be one tag by their names."""

    column: int
    why: str
    close: bool = False


@dataclass(frozen=True, slots=True)
class Proposal:
    """What could be decided about a tag, and why.

    Attributes:
        into: the column to merge into, for a merge.
        kind: the kind that is meant, for a change of kind.
    """

    decision: Literal["merge", "deny", "kind"]
    why: str
    into: int | None = None
    kind: Kind | None = None


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two tags, ``one`` to be merged into ``other`` where ``merge`` says so; ``fixed``: never the other way."""

    one: int
    other: int
    why: str
    merge: bool = False
    fixed: bool = False
    close: bool = True


@dataclass(frozen=True, slots=True)
class Advice:
    """Near tags of each of the T columns, and a proposal or None for each."""

    near: tuple[tuple[Near, ...], ...]
    proposals: tuple[Proposal | None, ...]


def advise(
    vocabulary: Vocabulary,
    lists: WordLists,
    frequency: Sequence[int],
    *,
    texts: int,
    encoder: Encoder | None = None,
) -> Advice:
    """Compare all tags with each other and with the lists.

    Args:
        frequency: [T], captions that name each tag, of ``texts`` captions.
        encoder: None: no neighbours in meaning, and no misspelling is proposed as a merge.
    """
    vectors = None if encoder is None else _vectors(vocabulary, encoder)
    pairs = [
        *_from_lists(vocabulary, lists),
        *_same_spelling(vocabulary),
        *_inflections(vocabulary),
        *_synonyms(vocabulary),
        *_misspellings(vocabulary, frequency, encoder, vectors),
        *_heads(vocabulary, frequency),
        *(() if vectors is None else _neighbours(vocabulary, vectors)),
    ]
    near: list[dict[int, Near]] = [{} for _ in vocabulary]
    for pair in pairs:
        near[pair.one].setdefault(pair.other, Near(pair.other, pair.why, pair.close))
        near[pair.other].setdefault(pair.one, Near(pair.one, pair.why, pair.close))
    return Advice(
        near=tuple(tuple(found.values())[:MOST_NEAR] for found in near),
        proposals=_propose(vocabulary, lists, frequency, texts, pairs),
    )


# -- pairs ---------------------------------------------------------------------------------------------


def _groups(vocabulary: Vocabulary, key: Callable[[Kind, str], str]) -> Iterator[list[int]]:
    """Columns of one space of names whose names have one key, where there are several."""
    found: dict[tuple[Kind, str], list[int]] = {}
    for column, entry in enumerate(vocabulary):
        found.setdefault((space_of(entry.kind)[0], key(entry.kind, normalise(entry.name))), []).append(column)
    yield from (columns for columns in found.values() if len(columns) > 1)


def _from_lists(vocabulary: Vocabulary, lists: WordLists) -> Iterator[_Pair]:
    for column, entry in enumerate(vocabulary):
        kind, name = lists.resolve(entry.kind, entry.name)
        if name == normalise(entry.name) and kind in space_of(entry.kind):
            continue
        other = vocabulary.find(name, kinds=space_of(kind))
        if other is not None and other != column:
            meant = vocabulary[other].name
            said = f"a synonym of {meant} in the word lists"
            if kind not in space_of(entry.kind):
                said = f"the word lists take it for the {kind} {meant}"
            yield _Pair(column, other, said, merge=True, fixed=True)


def _same_spelling(vocabulary: Vocabulary) -> Iterator[_Pair]:
    for columns in _groups(vocabulary, lambda _, name: squeezed(name)):
        for one, other in itertools.combinations(columns, 2):
            same = normalise(vocabulary[one].name) == normalise(vocabulary[other].name)
            why = "the same name as an object and as a scene" if same else "differ only in spaces or hyphens"
            yield _Pair(one, other, why, merge=True)


def _inflections(vocabulary: Vocabulary) -> Iterator[_Pair]:
    for columns in _groups(vocabulary, _base):
        for one, other in itertools.combinations(columns, 2):
            if squeezed(vocabulary[one].name) != squeezed(vocabulary[other].name):
                yield _Pair(one, other, "forms of one word", merge=True)


def _base(kind: Kind, name: str) -> str:
    """The dictionary form of a name's last word, or of an action's first."""
    first, space, rest = name.partition(" ")
    if kind == "action":
        return f"{verb_lemma(first)}{space}{rest}"
    if kind == "attribute":
        return name
    before, space, last = name.rpartition(" ")
    return f"{before}{space}{singular(last)}"


def _synonyms(vocabulary: Vocabulary) -> Iterator[_Pair]:
    owners: dict[tuple[Kind, str], list[int]] = {}
    for column, entry in enumerate(vocabulary):
        for synonym in dict.fromkeys(map(normalise, entry.synonyms)):
            owners.setdefault((space_of(entry.kind)[0], synonym), []).append(column)
    for (kind, synonym), columns in owners.items():
        named = vocabulary.find(synonym, kinds=space_of(kind))
        for column in columns:
            if named is not None and named != column and normalise(vocabulary[named].name) == synonym:
                why = f"{synonym} is a synonym of {vocabulary[column].name}"
                yield _Pair(named, column, why, merge=True, fixed=True)
        for one, other in itertools.combinations(columns, 2):
            yield _Pair(one, other, f"share the synonym {synonym}")


def _misspellings(
    vocabulary: Vocabulary, frequency: Sequence[int], encoder: Encoder | None, vectors: Floats | None
) -> Iterator[_Pair]:
    """Names at a distance of one letter (of two where they are long).

    A name with a word that no caption had for the encoder to learn is likely a misspelling of one that it knows, if
    it is long and far rarer: "shout" is none of "shoot". Two names of known words are shown together only where they
    are near in meaning too ("shirt", "skirt").
    """
    known = [
        encoder is not None and all(map(encoder.knows, normalise(entry.name).split())) for entry in vocabulary
    ]
    weight = [max(count, entry.count) for count, entry in zip(frequency, vocabulary, strict=True)]
    for one, other in _near_spellings(vocabulary):
        if known[one] != known[other]:
            wrong, right = (other, one) if known[one] else (one, other)
            rarer = weight[wrong] * _SURE_RARER <= weight[right]
            sure = rarer and len(vocabulary[wrong].name) >= _SURE_LETTERS
            why = "likely a misspelling" if sure else "nearly the same spelling"
            yield _Pair(wrong, right, why, merge=sure, fixed=True)
        elif vectors is None or not known[one] or float(vectors[one] @ vectors[other]) >= _SAME_WORD:
            yield _Pair(one, other, "nearly the same spelling")


def _near_spellings(vocabulary: Vocabulary) -> Iterator[tuple[int, int]]:
    shelves: dict[tuple[Kind, str], list[int]] = {}
    names = [normalise(entry.name) for entry in vocabulary]
    for column, entry in enumerate(vocabulary):
        for shorter in sorted(_shorter(names[column], _reach(names[column]))):
            shelves.setdefault((space_of(entry.kind)[0], shorter), []).append(column)
    seen: set[tuple[int, int]] = set()
    for columns in shelves.values():
        for pair in itertools.combinations(columns, 2):
            if pair not in seen:
                seen.add(pair)
                a, b = names[pair[0]], names[pair[1]]
                if a != b and distance(a, b) <= min(_reach(a), _reach(b)):
                    yield pair


def _reach(name: str) -> int:
    """Letters by which a name may differ and still be a likely misspelling; short words differ by chance.

    What is longer than a name has no reach: a name has about half its length squared of shorter forms.
    """
    return 0 if len(name) < 5 or len(name) > _LONGEST_NAME else 1 if len(name) < 9 else 2


def _shorter(name: str, reach: int) -> set[str]:
    """The name with up to ``reach`` letters left out: two names near each other share one of these."""
    found = {name}
    for _ in range(reach):
        found |= {text[:i] + text[i + 1 :] for text in found for i in range(len(text))}
    return found


def distance(one: str, other: str) -> int:
    """Letters to add, drop, change or swap with their neighbour."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        earlier, before, row = before, row, [i]
        for j, b in enumerate(other, 1):
            best = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                best = min(best, earlier[j - 2] + 1)
            row.append(best)
    return row[-1]


def _heads(vocabulary: Vocabulary, frequency: Sequence[int]) -> Iterator[_Pair]:
    """Compounds with their head, and with the commonest compounds of the same head."""
    found: dict[str, list[int]] = {}
    for column, entry in enumerate(vocabulary):
        if entry.kind in space_of("object"):
            found.setdefault(normalise(entry.name).rpartition(" ")[2], []).append(column)
    for head, columns in found.items():
        ranked = sorted(columns, key=lambda column: (-frequency[column], column))
        top = [column for column in ranked if normalise(vocabulary[column].name) == head]
        compounds = [column for column in ranked if column not in top]
        yield from (_Pair(one, other, f"a kind of {head}", close=False) for other in top for one in compounds)
        yield from (
            _Pair(one, other, f"both are a {head}", close=False)
            for one, other in itertools.combinations(compounds[:_MOST_HEADS], 2)
        )


def _vectors(vocabulary: Vocabulary, encoder: Encoder) -> Floats:
    """Unit vectors [T, L] of the names; zero where the encoder could only guess."""
    known = [encoder.knows(entry.name) for entry in vocabulary]
    vectors = encoder(entry.name if fine else "thing" for entry, fine in zip(vocabulary, known, strict=True))
    return vectors * np.array(known, np.float32)[:, None]


def _neighbours(vocabulary: Vocabulary, vectors: Floats) -> Iterator[_Pair]:
    """The nearest tags in meaning, of one space and without a common word (whose vectors are near for that alone)."""
    spaces = np.array([space_of(entry.kind)[0] for entry in vocabulary])
    words = [set(normalise(entry.name).split()) for entry in vocabulary]
    for start in range(0, len(vocabulary), _CHUNK):
        scores = vectors[start : start + _CHUNK] @ vectors.T
        for row, column in enumerate(range(start, min(start + _CHUNK, len(vocabulary)))):
            fits = np.flatnonzero((scores[row] >= _NEIGHBOUR) & (spaces == spaces[column]))
            order = fits[np.argsort(-scores[row, fits], kind="stable")]
            others = [int(other) for other in order if not words[column] & words[int(other)]]
            yield from (
                _Pair(column, other, "near in meaning", close=False) for other in others[:_MOST_NEIGHBOURS]
            )


# -- proposals -----------------------------------------------------------------------------------------


def _propose(
    vocabulary: Vocabulary,
    lists: WordLists,
    frequency: Sequence[int],
    texts: int,
    pairs: Sequence[_Pair],
) -> tuple[Proposal | None, ...]:
    """At most one proposal a tag; accepting all of them together is possible."""
    parents = {parent for entry in vocabulary for parent in entry.parents}
    found: list[Proposal | None] = [None] * len(vocabulary)
    for column, entry in enumerate(vocabulary):
        word: Word = (space_of(entry.kind)[0], normalise(entry.name))
        if why := _deny(word, lists):
            found[column] = Proposal("deny", why)
    for pair in pairs:
        if pair.merge:
            one, other = (pair.one, pair.other) if pair.fixed else _rarer_first(pair, frequency)
            if found[one] is None and not _leads_to(found, other, one):
                found[one] = Proposal("merge", pair.why, into=other)
    targets = {proposal.into for proposal in found if proposal is not None}
    for column, entry in enumerate(vocabulary):
        if found[column] is None:
            kind = _meant_kind(vocabulary, lists, column)
            # A tag without a count came from label sets; one with a large count from other captions than these.
            most = max(frequency[column], entry.count)
            rare = entry.count > 0 and frequency[column] > 0 and most * _RARE < texts
            if kind is not None:
                found[column] = Proposal("kind", f"the word lists take it for {_an(kind)}", kind=kind)
            elif rare and entry.id not in parents and column not in targets:
                found[column] = Proposal("deny", f"rare: {most} of {texts:,} captions name it")
    return tuple(found)


def _deny(word: Word, lists: WordLists) -> str | None:
    if word in lists.deny and word not in lists.allow:
        return "the word lists deny it"
    if not any(letter.isalpha() for letter in word[1]):
        return "it has no letter"
    return None


def _rarer_first(pair: _Pair, frequency: Sequence[int]) -> tuple[int, int]:
    """(what is merged, into what): the rarer into the more frequent, the later into the earlier."""
    one, other = sorted((pair.one, pair.other), key=lambda column: (-frequency[column], column))
    return other, one


def _leads_to(found: Sequence[Proposal | None], start: int, goal: int) -> bool:
    """Whether following merges from ``start`` comes to ``goal``, or ends at a tag that is to be denied."""
    at: int | None = start
    while at is not None and at != goal:
        proposal = found[at]
        if proposal is not None and proposal.decision == "deny":
            return True
        at = None if proposal is None else proposal.into
    return at == goal


def _meant_kind(vocabulary: Vocabulary, lists: WordLists, column: int) -> Kind | None:
    """The kind that the lists give a name, where the tag has another and no tag is in the way."""
    entry = vocabulary[column]
    kind, name = lists.resolve(entry.kind, entry.name)
    if entry.kind == "typed" or name != normalise(entry.name) or kind == entry.kind:
        return None
    return None if f"{kind}:{name}" in vocabulary else kind


def _an(kind: Kind) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"
