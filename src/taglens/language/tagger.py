"""What part each word of a caption plays: a linear classifier over words, endings and neighbours.

Knows tokens, features and the shipped weights; refuses to know objects, pairs or relations (see ``parser``).
The weights are learnt by ``lexicon`` from captions with scene graphs and stored as small integers.

Shape legend: N tokens of a caption, F features of a token, L labels, V known features (row 0 is all zeros).
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from itertools import repeat
from pathlib import Path

import numpy as np
import numpy.typing as npt

from taglens.errors import ModelError

# O other · H head of an object · M earlier word of a compound object · A attribute · D earlier word of a
# compound attribute ("light blue") · V action · W a word that says "wears" without the verb ("in", "dressed")
# P preposition · N number
LABELS = ("O", "H", "M", "A", "D", "V", "W", "P", "N")

_NUMBER_WORDS = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen twenty
"""
NUMBERS: Mapping[str, int] = {word: number for number, word in enumerate(_NUMBER_WORDS.split())}

_MOST_KEPT = 50_000

_TOKEN = re.compile(r"[^\W_]+(?:[-‐‑'’][^\W_]+)*|[^\w\s]|_+")
_CLITIC = re.compile(r"(n['’]t|['’](?:s|re|ve|ll|d|m))$")
_ENDINGS = ("ing", "ed", "ly", "s", "y", "er", "en", "al", "est")


def tokenize(text: str) -> list[str]:
    """Lower-case tokens: words (hyphens kept, "'s" split off) and single punctuation marks.

    HTML entities are resolved first. Linear in the text's length.
    """
    if "&" in text:
        text = html.unescape(text)
    tokens = _TOKEN.findall(text.lower())
    if "'" not in text and "’" not in text:
        return tokens
    split: list[str] = []
    for token in tokens:
        if ("'" in token or "’" in token) and len(token) > 2 and (clitic := _CLITIC.search(token[-3:])):
            if start := token[: len(token) - len(clitic[0])]:
                split.append(start)
            split.append(clitic[0].replace("’", "'"))
        elif split and token in ("s", "m", "re", "ve", "ll") and split[-1] in ("'", "’"):
            split[-1] = "'" + token
        else:
            split.append(token)
    return split


@dataclass(frozen=True, slots=True)
class Tagger:
    """Labels tokens; immutable, shared between threads.

    Attributes:
        index: feature -> row of ``weights``, from 1.
        weights: int8 [V + 1, L]; row 0 stands for features never met.
        classes: word -> the labels it was seen with ("AH"), for words seen often enough.
        groups: word -> number (as text) of the words that keep like company.
        verbs: base forms of verbs met in the graphs.
    """

    index: Mapping[str, int]
    weights: npt.NDArray[np.int8]
    classes: Mapping[str, str]
    groups: Mapping[str, str]
    verbs: frozenset[str] = field(default_factory=frozenset)
    _kept: dict[str, tuple[tuple[int, ...], ...]] = field(default_factory=dict, repr=False, compare=False)

    def label(self, tokens: Sequence[str]) -> list[str]:
        """One of ``LABELS`` for each token."""
        if not tokens:
            return []
        seen = view(tokens, self.classes, self.groups)
        get, ids, nothing = self.index.get, self._ids, repeat(0)
        alone = [ids(*parts) for parts in zip(tokens, seen.words, seen.kinds, seen.groups, strict=True)]
        edges = [ids(edge, edge, edge, edge) for edge in ("<<", "<", ">", ">>")]
        padded = [edges[0], edges[1], *alone, edges[2], edges[3]]
        found: list[int] = []
        for i, joint in enumerate(_joint(seen)):
            found += padded[i + 2][0]
            found += padded[i + 1][1]
            found += padded[i + 3][2]
            found += padded[i][3]
            found += padded[i + 4][4]
            found += map(get, joint, nothing)
        rows = np.array(found, dtype=np.intp).reshape(len(tokens), -1)
        scores = self.weights[rows].sum(axis=1, dtype=np.int32)  # [N, F, L] -> [N, L]
        return [LABELS[best] for best in scores.argmax(axis=1)]

    def _ids(self, token: str, word: str, kind: str, group: str) -> tuple[tuple[int, ...], ...]:
        """The rows of what a word says by itself; kept, because captions share their words."""
        if (kept := self._kept.get(token)) is None:
            kept = tuple(
                tuple(self.index.get(name, 0) for name in names) for names in _alone(token, word, kind, group)
            )
            if len(token) < 30 and len(self._kept) < _MOST_KEPT:
                self._kept[token] = kept
        return kept

    def save(self, path: Path) -> None:
        """Write the tagger as one compressed array file."""
        lines = "\n".join(sorted(self.index, key=self.index.__getitem__))
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            features=_pack(lines),
            weights=self.weights,
            classes=_pack("\n".join(f"{word} {labels}" for word, labels in sorted(self.classes.items()))),
            groups=_pack("\n".join(f"{word} {group}" for word, group in sorted(self.groups.items()))),
            verbs=_pack("\n".join(sorted(self.verbs))),
            labels=_pack(" ".join(LABELS)),
        )
        path.write_bytes(buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> Tagger:
        """Read what ``save`` wrote.

        Raises:
            ModelError: the file was made for other labels or its parts disagree.
        """
        with np.load(path, allow_pickle=False) as arrays:
            names = _unpack(arrays["features"]).split("\n")
            weights: npt.NDArray[np.int8] = arrays["weights"]
            classes = dict(line.split(" ") for line in _unpack(arrays["classes"]).split("\n"))
            groups = dict(line.split(" ") for line in _unpack(arrays["groups"]).split("\n") if line)
            verbs = frozenset(_unpack(arrays["verbs"]).split("\n"))
            labels = tuple(_unpack(arrays["labels"]).split(" "))
        if labels != LABELS or weights.shape != (len(names) + 1, len(LABELS)):
            raise ModelError(
                f"{path}: expected weights [{len(names) + 1}, {len(LABELS)}] for labels {LABELS}, found "
                f"{list(weights.shape)} for {labels}. Rebuild it with `python -m taglens.language.lexicon`."
            )
        return cls({name: row for row, name in enumerate(names, 1)}, weights, classes, groups, verbs)


@lru_cache(maxsize=1)
def default_tagger() -> Tagger:
    """The tagger that ships with the package, loaded once."""
    return Tagger.load(Path(str(files("taglens") / "assets" / "words" / "tagger.npz")))


def word_class(word: str, classes: Mapping[str, str]) -> str:
    """The labels a word is known with; for unknown words its outer form ("?ing", "?s", "?#")."""
    if (known := classes.get(word)) is not None:
        return known
    if word.isdigit():
        return "?#"
    if not word[0].isalnum():
        return "?." if word[0] != "'" else word
    if "-" in word:
        return "?-ed" if word.endswith("ed") else "?-"
    for ending in _ENDINGS:
        if word.endswith(ending):
            return "?" + ending
    return "?"


@dataclass(frozen=True, slots=True)
class View:
    """A caption as the features see it; N entries each.

    Attributes:
        tokens: the words, for their endings.
        words: the words as identities (training replaces some, to learn about unknown words).
        kinds: ``word_class`` of each.
        groups: the group of words that keep like company, "" if none.
    """

    tokens: Sequence[str]
    words: Sequence[str]
    kinds: Sequence[str]
    groups: Sequence[str]


def view(tokens: Sequence[str], classes: Mapping[str, str], groups: Mapping[str, str]) -> View:
    """How a caption looks with these word lists."""
    words = ["#" if token.isdigit() else token for token in tokens]
    return View(tokens, words, [word_class(t, classes) for t in tokens], [groups.get(t, "") for t in tokens])


def features(seen: View) -> list[tuple[str, ...]]:
    """The F feature names of each token; F is the same for all."""
    alone = [_alone(*parts) for parts in zip(seen.tokens, seen.words, seen.kinds, seen.groups, strict=True)]
    padded = [_EDGES[0], _EDGES[1], *alone, _EDGES[2], _EDGES[3]]
    return [
        (*here[0], *before[1], *after[2], *before2[3], *after2[4], *joint)
        for before2, before, here, after, after2, joint in zip(
            padded, padded[1:], alone, padded[3:], padded[4:], _joint(seen), strict=False
        )
    ]


_Alone = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], tuple[str, ...], tuple[str, ...]]


def _alone(token: str, word: str, kind: str, group: str) -> _Alone:
    """What one word says by itself: of itself, of the word after it, before it, two after, two before."""
    end = token[-3:]
    return (
        ("b", f"w{word}", f"s{end}", f"S{end[-2:]}", f"c{kind}", f"0{group}"),
        (f"p{word}", f"r{end}", f"1{group}"),
        (f"n{word}", f"t{end}", f"2{group}"),
        (f"q{word}",),
        (f"m{word}",),
    )


_EDGES = tuple(_alone(edge, edge, edge, edge) for edge in ("<<", "<", ">", ">>"))


def _joint(seen: View) -> list[tuple[str, ...]]:
    """What a word and its neighbours say together."""
    words = ["<", *seen.words, ">"]
    kinds = ["<<", "<", *seen.kinds, ">", ">>"]
    groups = ["<<", "<", *seen.groups, ">", ">>"]
    rows: list[tuple[str, ...]] = []
    for i in range(2, len(words)):
        w1, w, n = words[i - 2 : i + 1]
        c2, c1, c, d, d2 = kinds[i - 2 : i + 3]
        g2, g1, g, h, h2 = groups[i - 2 : i + 3]
        rows.append(
            (
                f"P{w1} {w}",
                f"N{w} {n}",
                f"e{c1} {c}",
                f"f{c} {d}",
                f"g{c1} {c} {d}",
                f"h{c} {d} {d2}",
                f"i{c2} {c1} {c}",
                f"j{w} {d}",
                f"k{c1} {w}",
                f"o{w1} {c}",
                f"3{g1} {g}",
                f"4{g} {h}",
                f"5{g1} {g} {h}",
                f"6{g2} {g1} {g}",
                f"7{g} {h} {h2}",
                f"8{g1} {h}",
            )
        )
    return rows


def _pack(text: str) -> npt.NDArray[np.uint8]:
    return np.frombuffer(text.encode(), dtype=np.uint8)


def _unpack(array: npt.NDArray[np.uint8]) -> str:
    return array.tobytes().decode()
