"""From captions and label sets to a vocabulary.

Knows how often words are named and how the reviewed lists (`taglens.language.word_lists`) turn words into
tags. Refuses to know how a caption is parsed (the parser is passed in) and how pictures are scored.

The road: count words once a caption, moved and merged by the lists -> join spellings that differ in spaces
or hyphens -> give a rare compound's count to its head ("wicker chair" to "chair") -> drop denied words ->
keep the frequent, the allowed and the labels -> add the parents they imply. Equal inputs give equal files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from taglens.errors import DataError, UsageError, VocabularyError
from taglens.language.corpora import Label, Parse, Parsed, caption_rows, label_rows
from taglens.language.word_lists import SQUEEZE, Edge, Word, WordLists
from taglens.results import Kind
from taglens.vocabulary import Entry, Vocabulary, normalise, tag_id

LABEL_SUPPORT = 10

_THINGS: tuple[Kind, ...] = ("object", "scene")

Reason = Literal["denied", "sensitive", "rare", "head", "top"]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A word that was counted and is no tag.

    Attributes:
        reason: denied; sensitive (a slur); rare; head (a compound, counted as its head); top (cut by ``top``).
    """

    kind: Kind
    name: str
    count: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class LabelSet:
    """Label files, counted.

    Attributes:
        words: label -> pictures that have it.
        implied: (child, parent): every picture with the child has the parent, which more pictures have.
    """

    words: Mapping[Word, int]
    implied: tuple[Edge, ...] = ()


@dataclass(frozen=True, slots=True)
class Build:
    """A vocabulary and the account of what did not enter it, by falling count."""

    vocabulary: Vocabulary
    left_out: tuple[LeftOut, ...]


# -- reading -------------------------------------------------------------------------------------------


def read_captions(path: Path, *, split: str = "train") -> Iterator[str]:
    """The captions of a file: plain text, one a line, or ``captions.jsonl``; either may end in ``.gz``.

    Of a jsonl file whose rows name a split only the rows of ``split`` are read.

    Raises:
        DataError: the file cannot be read, or a row is not a row of captions.
    """
    for number, captions in caption_rows(path, split=split):
        if captions is None:
            raise DataError(f"{path}, line {number}: expected a list of texts under 'captions'")
        yield from captions


def read_labels(
    paths: Sequence[Path], lists: WordLists, counts: Mapping[Word, int], *, support: int = LABEL_SUPPORT
) -> LabelSet:
    """The labels of all files together, all splits, and which label implies which.

    A label has the kind that its row states. Otherwise it is a thing if it implies a label or is implied by
    one, as with a "fly" that is an insect; failing that it is what captions name most often by that word.
    The lists' moves do not apply: they mend what a parser says, and a label was not parsed. An implication
    needs ``support`` pictures: labels that stood together by chance in a few imply nothing.

    Raises:
        DataError: a file cannot be read, or a row is not a row of labels.
    """
    pictures: Counter[Label] = Counter()
    together: dict[Label, Counter[Label]] = {}
    for path in paths:
        for row in label_rows(path):
            # Merged by synonyms before they are counted: "sofa" in one file and "couch" in the next are one.
            labels = {(kind, lists.merged(kind or "object", name)[1]) for kind, name in row}
            pictures.update(labels)
            for label in labels:
                together.setdefault(label, Counter()).update(labels - {label})
    implied = [
        (child, parent)
        for child in pictures
        for parent, shared in together[child].items()
        if shared == pictures[child] >= support and pictures[parent] > pictures[child]
    ]
    # Only what the rows leave open is decided by what it stands with: "fly" by "insect", "coral" by its reef.
    things = {label for edge in implied for label in edge if edge[0][0] in (None, *_THINGS)}

    def word(label: Label) -> Word:
        kind, name = label
        if kind is not None:
            return lists.merged(kind, name)
        senses = [lists.merged(sense, name) for sense in ("object", "attribute", "action")]
        return senses[0] if label in things else max(senses, key=lambda sense: counts.get(sense, 0))

    words: Counter[Word] = Counter()
    for label, count in pictures.items():
        words[word(label)] += count
    edges = {(word(child), word(parent)) for child, parent in implied}
    return LabelSet(dict(sorted(words.items())), tuple(sorted(edge for edge in edges if edge[0] != edge[1])))


# -- counting ------------------------------------------------------------------------------------------


def words_of(parsed: Parsed, lists: WordLists) -> set[Word]:
    """The words of one caption, moved and merged by the lists.

    A parser may see "electric guitar" as a guitar that is electric. Where the two make a thing that the lists
    mention, they are that one thing, and no longer the two. What describes by what somebody does ("smiling")
    counts as the action alone.
    """
    joined: set[str] = set()
    heads: set[str] = set()
    free: set[str] = set()
    bound: set[str] = set()
    for attribute, thing in parsed.pairs:
        name = normalise(f"{attribute} {thing}")
        if name in lists.compounds:
            joined.add(name)
            heads.add(thing)
            bound.add(attribute)
        else:
            free.add(attribute)
    bound -= free
    things = {*parsed.objects, *parsed.scenes} - heads
    return (
        {lists.resolve("object", name) for name in things | joined}
        | {
            lists.resolve("attribute", name)
            for name in parsed.attributes
            if name not in bound and not _does(name, parsed.actions)
        }
        | {lists.resolve("action", name) for name in parsed.actions}
    )


def _does(attribute: str, actions: Sequence[str]) -> bool:
    """Whether an attribute is one of the caption's actions: "smiling", "sitting down"."""
    first = attribute.partition(" ")[0]
    return first.endswith("ing") and any(
        first in (act + "ing", act[:-1] + "ing", act + act[-1] + "ing") for act in actions
    )


def count_words(captions: Iterable[str], parse: Parse, lists: WordLists) -> Counter[Word]:
    """How many captions name each word."""
    counts: Counter[Word] = Counter()
    for parsed in parse(captions):
        counts.update(words_of(parsed, lists))
    return counts


def _head(word: Word, lists: WordLists) -> Word | None:
    """The compound without its first word, or None: not a compound, or known to be no such thing."""
    kind, name = word
    _, space, rest = name.partition(" ")
    if kind not in _THINGS or not space:
        return None
    head = lists.resolve("object", rest)
    return None if head[0] not in _THINGS or _thing_edge(word, head) in lists.not_edges else head


def _thing_edge(child: Word, parent: Word) -> Edge:
    """The edge as the lists write it, where objects and scenes share one space."""
    return (_in_lists(child), _in_lists(parent))


def _in_lists(word: Word) -> Word:
    return ("object", word[1]) if word[0] == "scene" else word


def _join_spellings(
    counts: Mapping[Word, int], lists: WordLists
) -> tuple[Counter[Word], dict[Word, list[str]]]:
    """Words of a kind that differ only in spaces, hyphens or apostrophes, as the reviewed or commonest form.

    Returns:
        The counts, and each name's other spellings.
    """
    groups: dict[Word, list[Word]] = {}
    for word in sorted(counts):
        groups.setdefault((word[0], SQUEEZE.sub("", word[1])), []).append(word)
    reviewed = {*lists.order, *lists.allow, *(word for edge in lists.edges for word in edge)}
    joined: Counter[Word] = Counter()
    spellings: dict[Word, list[str]] = {}
    for words in groups.values():
        best = max(words, key=lambda word: (_in_lists(word) in reviewed, counts[word], word[1]))
        joined[best] = sum(counts[word] for word in words)
        others = sorted(word[1] for word in words if word != best)
        if others:
            spellings[best] = others
    return joined, spellings


# -- building ------------------------------------------------------------------------------------------


def build_vocabulary(
    counts: Mapping[Word, int],
    lists: WordLists,
    *,
    labels: LabelSet | None = None,
    min_count: int = 1,
    top: int | None = None,
    name: str = "vocabulary",
    description: str = "",
) -> Build:
    """Choose the tags.

    Args:
        counts: from `count_words`.
        labels: from `read_labels`; every label becomes a tag.
        min_count: rarer words are left out, unless allowed, a label, or the parent of a tag.
        top: at most this many of the words that ``min_count`` leaves; labels, allowed words and parents come
            on top.

    Raises:
        UsageError: ``min_count`` or ``top`` below 1.
        VocabularyError: nothing is left.
    """
    if min_count < 1 or (top is not None and top < 1):
        raise UsageError(f"min_count and top must be 1 or more, found {min_count} and {top}")
    labels = labels or LabelSet({})
    joined, spellings = _join_spellings({**dict.fromkeys(labels.words, 0), **counts}, lists)
    represented = {
        (kind, other): (kind, word[1])
        for word, rest in spellings.items()
        for kind in (word[0],)
        for other in rest
    }

    def settled(word: Word) -> Word:
        return represented.get(word, word)

    always = {settled(word) for word in labels.words}
    always |= {word for word in joined if _in_lists(word) in lists.allow}
    slurs = {word for word in joined if lists.is_slur(word)} - always
    denied = {word for word in joined if _in_lists(word) in lists.deny} - always | slurs
    left_out: dict[Word, LeftOut] = {}
    counted_as: dict[Word, Word] = {}
    for word in sorted(joined, key=lambda word: (-word[1].count(" "), word)):
        count = joined[word]
        if word in always or (count >= min_count and word not in denied):
            continue
        head = _head(word, lists)
        head = None if head is None else settled(head)
        if head is not None and head in joined and head not in denied:
            joined[head] += count
            counted_as[word] = head
            left_out[word] = LeftOut(*word, count, "head")
        else:
            why: Reason = "sensitive" if word in slurs else "denied" if word in denied else "rare"
            left_out[word] = LeftOut(*word, count, why)
    ranked = sorted(
        (word for word in joined if word not in left_out), key=lambda word: (-joined[word], tag_id(*word))
    )
    frequent = [word for word in ranked if joined[word] >= min_count and word not in denied]
    for word in frequent[top:] if top else ():
        if word not in always:
            left_out[word] = LeftOut(*word, joined[word], "top")
    kept = [word for word in ranked if word not in left_out]
    if not kept:
        raise VocabularyError(f"no tag is left of {len(counts)} words: lower --min-count (now {min_count})")

    implied = [(settled(child), settled(parent)) for child, parent in labels.implied]
    edges = _edges(kept, denied, lists, implied)
    _give_back(edges, joined, counted_as, left_out)
    tags = sorted(edges, key=lambda word: (-joined[word], tag_id(*word)))
    entries = [
        _entry(word, joined[word], lists, spellings.get(word, ()), edges.get(word, ())) for word in tags
    ]
    return Build(
        Vocabulary(_without_clashes(entries), name=name, description=description),
        tuple(sorted(left_out.values(), key=lambda word: (-word.count, word.kind, word.name))),
    )


def _give_back(
    tags: Iterable[Word],
    joined: Counter[Word],
    counted_as: Mapping[Word, Word],
    left_out: dict[Word, LeftOut],
) -> None:
    """Words that were left out and are tags after all, as parents, take their counts back from their heads."""
    for word in sorted(tags, key=lambda word: (-word[1].count(" "), word)):
        left_out.pop(word, None)
        head = counted_as.get(word)
        while head is not None:
            joined[head] -= joined[word]
            if head in left_out:
                left_out[head] = replace(left_out[head], count=joined[head])
            head = counted_as.get(head)


def _edges(
    kept: Sequence[Word], denied: set[Word], lists: WordLists, implied: Iterable[Edge]
) -> dict[Word, tuple[Word, ...]]:
    """Direct parents of every tag and of every parent that a tag brings in."""
    listed: dict[Word, list[Word]] = {}
    for child, parent in lists.edges:
        listed.setdefault(lists.placed(child), []).append(lists.placed(parent))
    from_labels: dict[Word, list[Word]] = {}
    for child, parent in implied:
        if _thing_edge(child, parent) not in lists.not_edges:
            from_labels.setdefault(child, []).append(parent)
    known = set(kept)
    above: dict[Word, set[Word]] = {}
    waiting = list(kept)
    while waiting:
        word = waiting.pop(0)
        if word in above:
            continue
        parents = [parent for parent in listed.get(word, ()) if parent not in denied]
        above[word] = set(parents)
        waiting.extend(parents)
    # What reviewed edges say goes first: an inferred edge that runs against them is dropped.
    for word in list(above):
        head = _head(word, lists)
        # A head may be a synonym of what it is the head of ("musical instrument", "instrument"): then there is none.
        passed = {word}
        while head is not None and head not in known:
            passed.add(head)
            head = _head(head, lists)
            if head in passed:
                head = None
        for parent in (*((head,) if head else ()), *from_labels.get(word, ())):
            if parent in above and parent != word and word not in _ancestors(parent, above):
                above[word].add(parent)
    return {word: tuple(sorted(_direct(parents, above))) for word, parents in above.items()}


def _ancestors(word: Word, above: Mapping[Word, Iterable[Word]]) -> set[Word]:
    found: set[Word] = set()
    waiting = list(above.get(word, ()))
    while waiting:
        parent = waiting.pop()
        if parent not in found:
            found.add(parent)
            waiting.extend(above.get(parent, ()))
    return found


def _direct(parents: Iterable[Word], above: Mapping[Word, Iterable[Word]]) -> set[Word]:
    """The parents that no other parent already implies."""
    parents = set(parents)
    return parents - {far for parent in parents for far in _ancestors(parent, above)}


def _entry(
    word: Word, count: int, lists: WordLists, spellings: Iterable[str], parents: Iterable[Word]
) -> Entry:
    kind, name = word
    synonyms = dict.fromkeys((*lists.other_names(word), *spellings))
    return Entry(
        name=lists.written(word),
        kind=kind,
        synonyms=tuple(synonym for synonym in synonyms if normalise(synonym) != name),
        parents=tuple(tag_id(*parent) for parent in parents),
        count=count,
        hidden=_in_lists(word) in lists.hidden or lists.is_sensitive(word),
    )


def _without_clashes(entries: Sequence[Entry]) -> list[Entry]:
    """A synonym is dropped where the same name is a tag of its own kind: the tag is what it means."""
    names = {(entry.kind, normalise(entry.name)) for entry in entries}
    return [
        replace(entry, synonyms=tuple(s for s in entry.synonyms if (entry.kind, normalise(s)) not in names))
        for entry in entries
    ]
