"""Learns the tagger from captions with scene graphs: words of the graph are found in the caption, and
what they are there becomes the word's label.

Run ``python -m taglens.language.lexicon build --graphs FILE --captions FILE... --out FILE`` to remake the
shipped file.
The graphs are a csv (plain or .gz) with the columns ``caption`` and ``scene_graph``; a graph reads
"( man , ride , horse ) , ( horse , is , brown )".

Shape legend: T tokens of all captions, F features of a token, L labels, V known features, B batch.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import random
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from taglens.errors import DataError
from taglens.language.clusters import word_groups
from taglens.language.lemmas import singular, third_person, verb_lemma
from taglens.language.tagger import LABELS, NUMBERS, Tagger, View, features, tokenize, view, word_class


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_TUPLE = re.compile(r"\(\s*(.*?)\s*\)\s*(?:,|$)")
_SEPARATOR = re.compile(r"\s,\s|,")
# The graphs write one word for several forms; the caption's own form is what gets the label.
_REWRITTEN = {
    "wooden": ("wood",),
    "lay": ("lie",),
    "blonde": ("blond",),
    "gray": ("grey",),
    "grey": ("gray",),
}
_EMPTY_VERBS = frozenset(("be", "have", "has", "is", "a", "the"))


@dataclass(frozen=True, slots=True)
class Example:
    """A caption's tokens and, for each, one of ``LABELS``."""

    tokens: tuple[str, ...]
    labels: tuple[str, ...]


def read_graphs(path: Path) -> Iterator[tuple[str, str]]:
    """(caption, scene graph) of each row.

    Raises:
        DataError: the file lacks one of the two columns.
    """
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
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


def align(caption: str, graph: str, verbs: Collection[str]) -> Example:
    """The caption's tokens, labelled by the graph's words found in them; what is not found stays "O"."""
    tokens = tokenize(caption)
    nouns = [singular(token) for token in tokens]
    bases = [verb_lemma(token, verbs) for token in tokens]
    labels = ["O"] * len(tokens)
    triples = graph_tuples(graph)
    entities = {side for s, p, o in triples for side in ((s,) if p == "is" else (s, o))}
    # Longer names first, so that "tree" does not take the end of "palm tree" for itself.
    for name in sorted(entities, key=lambda name: (-len(name.split()), name)):
        words = [singular(word) for word in tokenize(name)]
        for start in range(len(tokens) - len(words) + 1) if words else ():
            here = slice(start, start + len(words))
            if nouns[here] == words and set(labels[here]) == {"O"}:
                labels[here] = ["M"] * (len(words) - 1) + ["H"]
    for _, predicate, obj in triples:
        if predicate == "is":
            _mark_attribute(obj, tokens, labels)
        else:
            _mark_predicate(predicate, tokens, bases, labels, worn=singular(obj))
    return Example(tuple(tokens), tuple(labels))


def _mark_attribute(name: str, tokens: Sequence[str], labels: list[str]) -> None:
    words = tokenize(name)
    if len(words) == 1 and words[0].isdigit():
        for i, token in enumerate(tokens):
            if labels[i] == "O" and (token == words[0] or NUMBERS.get(token) == int(words[0])):
                labels[i] = "N"
        return
    if not words or words[-1] == "of":
        return
    for start in range(len(tokens) - len(words) + 1):
        found = all(
            tokens[start + k] == word or tokens[start + k] in _REWRITTEN.get(word, ())
            for k, word in enumerate(words)
        )
        if found and set(labels[start : start + len(words)]) == {"O"}:
            # "a man standing": the graphs say attribute; here a participle after its noun is an action.
            after_noun = start > 0 and (labels[start - 1] == "H" or tokens[start - 1] in ("is", "are"))
            action = words[0].endswith("ing") and after_noun
            rest = len(words) - 1
            labels[start : start + len(words)] = ["V"] + ["O"] * rest if action else ["D"] * rest + ["A"]


def _mark_predicate(
    predicate: str, tokens: Sequence[str], bases: Sequence[str], labels: list[str], *, worn: str
) -> None:
    if predicate == "wear" and "wear" not in bases and (hint := _worn(worn, tokens, labels)) is not None:
        labels[hint] = "W"
        return
    leads = predicate.split(maxsplit=1)[:1]
    for word in predicate.split():
        if word in _EMPTY_VERBS:
            continue
        forms = (word, *_REWRITTEN.get(word, ()))
        for i, token in enumerate(tokens):
            if labels[i] != "O":
                continue
            if token == word and (word in _PREPOSITIONS or leads[0] in _PREPOSITIONS):
                labels[i] = "P"
            elif bases[i] in forms and word not in _PREPOSITIONS:
                labels[i] = "V"


def _worn(garment: str, tokens: Sequence[str], labels: Sequence[str]) -> int | None:
    """Where "dressed", or an "in" or "with" before the garment, says what a graph calls "wear"."""
    last = garment.rpartition(" ")[2]
    place = next((i for i, token in enumerate(tokens) if singular(token) == last), -1)
    for i in range(place - 1, -1, -1):
        if tokens[i] in ("dressed", "clad", "in", "with") and labels[i] == "O":
            return i - 1 if tokens[i] == "in" and i and tokens[i - 1] in ("dressed", "clad") else i
    return None


_PREPOSITIONS = _words(
    """
    on in of at by with to from over under near behind beside above below for up down along around
    inside outside through across into onto off out against between next front top side within beneath
    atop toward towards past about among like as left right
    """
)


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


def word_classes(examples: Iterable[Example], *, least: int = 4, share: float = 0.12) -> dict[str, str]:
    """For words seen ``least`` times, the labels that hold at least ``share`` of their uses ("AH")."""
    seen: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for example in examples:
        for token, label in zip(example.tokens, example.labels, strict=True):
            seen[token][label] += 1
    classes = {}
    for word, counts in seen.items():
        total = counts.total()
        if total >= least and not word.isdigit():
            classes[word] = "".join(label for label in LABELS if counts[label] >= share * total)
    return classes


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


_JOINTS = (("and",), (",",), ("while",), ("as",), (",", "and"), (".",), ("with",), ("where",), ("who", "is"))


def _as_sentence(example: Example, verbs: Collection[str], chance: random.Random) -> Example:
    tokens, labels = list(example.tokens), list(example.labels)
    if len(tokens) > 1 and labels[0] in "HMA" and not tokens[0].endswith("s") and chance.random() < 0.7:
        tokens.insert(0, chance.choice(("a", "the", "one", "another")))
        labels.insert(0, "O")
    style = chance.random()
    for i in range(len(tokens) - 1, 0, -1):
        if labels[i] != "V" or not tokens[i].endswith("ing"):
            continue
        stated = i > 1 and tokens[i - 1] in ("is", "are") and labels[i - 2] == "H"
        if not stated and labels[i - 1] != "H":
            continue
        noun = tokens[i - 2] if stated else tokens[i - 1]
        many = singular(noun) != noun
        if style < 0.6:
            base = verb_lemma(tokens[i], verbs)
            tokens[i] = base if many else third_person(base)
            if stated:
                del tokens[i - 1], labels[i - 1]
        elif style < 0.8 and not stated:
            tokens.insert(i, "are" if many else "is")
            labels.insert(i, "O")
    return Example(tuple(tokens), tuple(labels))


def _hide(seen: View, chance: random.Random, *, share: float = 0.12) -> View:
    """The view with some words made unknown, as words of later captions will be."""
    words, kinds = list(seen.words), list(seen.kinds)
    for i, token in enumerate(seen.tokens):
        if chance.random() < share and len(token) > 3:
            words[i], kinds[i] = f"\0{chance.random()}", word_class(token, {})
    return View(seen.tokens, words, kinds, seen.groups)


def fit(
    examples: Sequence[Example],
    verbs: frozenset[str],
    *,
    groups: Mapping[str, int],
    epochs: int = 9,
    rate: float = 0.15,
    decay: float = 2e-6,
    least: int = 2,
    seed: int = 0,
) -> Tagger:
    """Softmax regression by AdaGrad in batches, then weights rounded to int8.

    Args:
        least: features met less often are dropped.
        decay: L2 strength per token.
    """
    classes = word_classes(examples)
    numbers = {word: str(group) for word, group in groups.items()}
    chance = random.Random(seed)
    varied = vary(examples, verbs, chance)
    named = [row for e in examples for row in features(view(e.tokens, classes, numbers))]
    named += [row for e in varied for row in features(_hide(view(e.tokens, classes, numbers), chance))]
    counts: Counter[str] = Counter(name for row in named for name in row)
    index = {name: i for i, name in enumerate((n for n, c in counts.items() if c >= least), 1)}
    rows = np.array([[index.get(name, 0) for name in row] for row in named], dtype=np.int32)  # [T, F]
    truth = np.array(
        [LABELS.index(label) for example in (*examples, *varied) for label in example.labels]
    )  # [T]
    weights = _descend(rows, truth, len(index) + 1, epochs=epochs, rate=rate, decay=decay, seed=seed)
    scale = 127.0 / np.abs(weights).max()
    small = np.rint(weights * scale).astype(np.int8)
    # Rows that rounding emptied say nothing; they need not be stored.
    kept = [(name, row) for name, row in index.items() if small[row].any()]
    table = np.concatenate([np.zeros((1, len(LABELS)), np.int8), small[[row for _, row in kept]]])
    return Tagger({name: i for i, (name, _) in enumerate(kept, 1)}, table, classes, numbers, verbs)


def _descend(
    rows: npt.NDArray[np.int32],
    truth: npt.NDArray[np.int64],
    size: int,
    *,
    epochs: int,
    rate: float,
    decay: float,
    seed: int,
) -> npt.NDArray[np.float32]:
    chance = np.random.default_rng(seed)
    weights = np.zeros((size, len(LABELS)), np.float32)
    squares = np.full_like(weights, 1e-2)
    batch = 1024
    for epoch in range(epochs):
        order = chance.permutation(len(truth))
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            ids = rows[chosen]
            scores = weights[ids].sum(axis=1)
            scores -= scores.max(axis=1, keepdims=True)
            shares = np.exp(scores)
            shares /= shares.sum(axis=1, keepdims=True)
            shares[np.arange(len(chosen)), truth[chosen]] -= 1.0
            touched, where = np.unique(ids, return_inverse=True)
            slope = np.zeros((len(touched), len(LABELS)), np.float32)
            np.add.at(slope, where.ravel(), np.repeat(shares, ids.shape[1], axis=0))
            slope /= batch
            slope += decay * weights[touched]
            squares[touched] += slope**2
            step = rate * (1.0 - epoch / epochs)
            weights[touched] -= step * slope / np.sqrt(squares[touched])
            weights[0] = 0.0
    return weights


def read_captions(path: Path) -> Iterator[list[str]]:
    """Tokens of each line of a text file, plain or .gz."""
    with (
        gzip.open(path, "rt", encoding="utf-8")
        if path.suffix == ".gz"
        else path.open(encoding="utf-8") as lines
    ):
        yield from map(tokenize, lines)


def build(graphs: Path, out: Path, *, captions: Sequence[Path] = ()) -> Tagger:
    """Learn from ``graphs`` and write the tagger to ``out``; the same files give the same tagger.

    Args:
        captions: plain captions, one a line, from which words are grouped by the company they keep; the
            captions of ``graphs`` always count among them.
    """
    rows = list(read_graphs(graphs))
    verbs = graph_verbs(graph for _, graph in rows)
    texts = chain(*(read_captions(path) for path in captions), (tokenize(caption) for caption, _ in rows))
    examples = [align(caption, graph, verbs) for caption, graph in rows]
    tagger = fit(examples, verbs, groups=word_groups(texts))
    tagger.save(out)
    return tagger


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of the module."""
    parser = argparse.ArgumentParser(
        prog="python -m taglens.language.lexicon", description="Remake the tagger."
    )
    command = parser.add_subparsers(required=True).add_parser("build")
    command.add_argument("--graphs", type=Path, required=True, help="csv with caption and scene_graph")
    command.add_argument("--captions", type=Path, nargs="*", default=(), help="plain captions, one a line")
    command.add_argument("--out", type=Path, required=True, help="the .npz to write")
    chosen = parser.parse_args(arguments)
    build(chosen.graphs, chosen.out, captions=chosen.captions)


if __name__ == "__main__":
    main()
