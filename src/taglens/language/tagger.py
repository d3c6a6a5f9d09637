"""What part each word of a caption plays: a small convolutional network in whole numbers.

Knows words, their vectors and the shipped weights; refuses to know objects, pairs or relations (see
``parser``). The weights are learnt by ``tagger_training`` from captions with scene graphs.

Every weight and activation is a whole number and every sum stays below 2**24, so that float32 products are
exact: a caption gets the same labels alone, in a batch, and on any machine.

Shape legend: N places of a batch (tokens, and two edges between captions), D width of a word, H hidden
width, L labels, V known words, Q known pieces of words.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from taglens.errors import ModelError
from taglens.language.spelling import Speller
from taglens.language.tokens import tokenize

Floats = npt.NDArray[np.float32]
Small = npt.NDArray[np.int8]

# O other · H head of an object · M earlier word of a compound object · A attribute · D earlier word of a
# compound attribute ("light blue") · V action · I an action that has no object and describes ("walking")
# W a word that says an action without being its verb ("in" for wear) · P preposition of a relation · N number
LABELS = "OHMADVIWPN"

# Words that each place sees before and after it in the first layer, and in the second.
FIRST_REACH, SECOND_REACH = 2, 1

# What a table of words may hold before it starts anew: words, and letters in all.
_MOST_WORDS, _MOST_LETTERS = 40_000, 4_000_000
# Rows that a table has room for at first.
_FIRST_ROWS = 32_768
# Captions that go through the network together: enough to keep the processor busy, few enough for its cache.
_AT_ONCE = 64
_LIMIT = 127.0


def pieces_of(word: str) -> tuple[str, ...]:
    """What a word's spelling says of it: its ends, its beginning, its outer form and its length."""
    first = word[:1]
    form = "#" if word.isdigit() else "." if not first.isalnum() else "-" if "-" in word else "a"
    return (f"3{word[-3:]}", f"2{word[-2:]}", f"p{word[:3]}", f"k{form}", f"n{min(len(word), 12) // 2}")


@dataclass(frozen=True)
class Weights:
    """The network: two convolutions over word vectors and a linear layer that reads both.

    Attributes:
        words: the V known words; ``vectors`` [V, D] are theirs.
        pieces: the Q known pieces; ``piece_vectors`` [Q, D] are added up for words not known.
        edge: [D] the vector of what lies before and after a caption.
        first: [(2 * FIRST_REACH + 1) * D, H], ``first_bias`` [H], ``first_step``: what one unit of its sums
            is worth in units of activation.
        second: [(2 * SECOND_REACH + 1) * H, H], likewise.
        last: [2 * H, L] from both layers, ``last_bias`` [L].
    """

    words: tuple[str, ...]
    vectors: Small
    pieces: tuple[str, ...]
    piece_vectors: Small
    edge: Small
    first: Small
    first_bias: Floats
    first_step: float
    second: Small
    second_bias: Floats
    second_step: float
    last: Small
    last_bias: Floats

    def check(self, where: str) -> None:
        """Raises ModelError where the parts disagree."""
        width, hidden = self.edge.shape[0], self.first.shape[1]
        expected = {
            "vectors": (len(self.words), width),
            "piece_vectors": (len(self.pieces), width),
            "first": ((2 * FIRST_REACH + 1) * width, hidden),
            "first_bias": (hidden,),
            "second": ((2 * SECOND_REACH + 1) * hidden, hidden),
            "second_bias": (hidden,),
            "last": (2 * hidden, len(LABELS)),
            "last_bias": (len(LABELS),),
        }
        for name, shape in expected.items():
            if (found := getattr(self, name).shape) != shape:
                raise ModelError(
                    f"{where}: expected {name} {list(shape)} for labels {LABELS}, found {list(found)}. "
                    f"Rebuild it with `python -m taglens.training.tagger_training`."
                )


_Said = TypeVar("_Said")


class _Known(dict[str, tuple[int, ...]]):
    """Answers for what it does not hold with what ``add`` gives."""

    __slots__ = ("_add",)

    def __init__(self, add: Callable[[str], tuple[int, ...]]) -> None:
        self._add = add

    def __missing__(self, written: str) -> tuple[int, ...]:
        return self._add(written)


class WordTable(Generic[_Said]):
    """Words as rows: what each adds to the first layer's sums, and what the reader of the labels asks of it.

    Grows as words are met, under a lock; rows once given stay. Row 0 is the edge of a caption.

    Attributes:
        known: what stands between two spaces -> its tokens' rows ("dog," has two); what was not met before is
            added when it is asked for.
        said: row -> what ``describe`` says of the word, slips of the pen put right.
    """

    def __init__(self, weights: Weights, speller: Speller, describe: Callable[[str], _Said]) -> None:
        self.known = _Known(self.add)
        self.said: list[_Said] = [describe("")]
        self._describe = describe
        self._speller = speller
        self._weights = weights
        self._shipped = {word: row for row, word in enumerate(weights.words)}
        self._pieces = {piece: row for row, piece in enumerate(weights.pieces)}
        self._rows: dict[str, int] = {}
        self._letters = 0
        self._lock = threading.Lock()
        # The first layer, a word at a time: [D, places * H], places from two before to two after.
        places, hidden = 2 * FIRST_REACH + 1, weights.first.shape[1]
        split = weights.first.reshape(places, len(weights.edge), hidden).transpose(1, 0, 2)
        self._first = split.reshape(len(weights.edge), -1).astype(np.float32)
        # The row after the last is that of a piece not known.
        self._piece_vectors = np.pad(weights.piece_vectors.astype(np.float32), ((0, 1), (0, 0)))
        # [places, rows, H]; memory is taken as rows are filled.
        self._sums = np.zeros((places, _FIRST_ROWS, hidden), np.float32)
        self._fill(0, weights.edge.astype(np.float32)[None])
        # Whatever its neighbours add, an edge itself is nothing to the second layer.
        self._sums[FIRST_REACH, 0] = -np.inf
        self._waiting: list[str] = []  # words of the last rows, whose sums are not filled yet

    @property
    def full(self) -> bool:
        """Whether it is time for a new table."""
        return len(self.known) > _MOST_WORDS or self._letters > _MOST_LETTERS

    def first_sums(self, rows: npt.NDArray[np.intp]) -> Floats:
        """[N] -> [N - 2 * FIRST_REACH, H]: the first layer's sums and bias where all neighbours are known.

        A word's share in the sums does not depend on the words around it, so it is multiplied out once.
        Edges have -inf.
        """
        if self._waiting:
            with self._lock:
                self._settle()
        shares, size = self._sums, len(rows) - 2 * FIRST_REACH
        sums: Floats = shares[0].take(rows[:size], axis=0)
        for place in range(1, 2 * FIRST_REACH + 1):
            sums += shares[place].take(rows[place : place + size], axis=0)
        return sums

    def add(self, written: str) -> tuple[int, ...]:
        """The rows of what stands between two spaces, in lower case."""
        with self._lock:
            if (rows := self.known.get(written)) is None:
                rows = tuple(map(self._row, tokenize(written)))
                self._letters += len(written)
                self.known[written] = rows
        return rows

    def _row(self, token: str) -> int:
        if (row := self._rows.get(token)) is None:
            word = token if token in self._shipped else self._speller(token)
            if (row := self._rows.get(word)) is None:
                row = len(self.said)
                self.said.append(self._describe(word))
                self._waiting.append(word)
                self._rows[word] = row
            self._rows[token] = row
        return row

    def _settle(self) -> None:
        """Fill the rows of the words that wait: many at once cost little more than one."""
        if self._waiting:
            self._fill(len(self.said) - len(self._waiting), self._vectors(self._waiting))
            # Only now: until here, others who need the rows wait for the lock.
            self._waiting.clear()

    def _fill(self, start: int, vectors: Floats) -> None:
        places, size, hidden = self._sums.shape
        while size < start + len(vectors):
            # A copy: who reads the old array meanwhile reads rows that do not change.
            self._sums = np.concatenate([self._sums, np.zeros_like(self._sums)], axis=1)
            size *= 2
        shares = (vectors @ self._first).reshape(-1, places, hidden)
        shares[:, FIRST_REACH] += self._weights.first_bias
        self._sums[:, start : start + len(vectors)] = shares.transpose(1, 0, 2)

    def _vectors(self, words: Sequence[str]) -> Floats:
        """[words, D]: shipped words have their own, the others what their pieces add up to."""
        unknown = len(self._pieces)
        rows = [[self._pieces.get(piece, unknown) for piece in pieces_of(word)] for word in words]
        vectors: Floats = np.clip(self._piece_vectors[rows].sum(axis=1), -_LIMIT, _LIMIT)
        for i, word in enumerate(words):
            if (row := self._shipped.get(word)) is not None:
                vectors[i] = self._weights.vectors[row]
        return vectors


class Tagger:
    """Labels tokens; immutable, shared between threads."""

    def __init__(self, weights: Weights, counts: Mapping[str, int], verbs: frozenset[str]) -> None:
        """Args:
        counts: how often captions write each word, for the speller.
        verbs: base forms of verbs met in the graphs.
        """
        self.verbs = verbs
        self.counts = counts
        self.weights = weights
        self._speller = Speller(counts)
        # [places, H, H]
        hidden = weights.first.shape[1]
        self._second = weights.second.reshape(-1, hidden, hidden).astype(np.float32)
        self._last = weights.last.astype(np.float32)

    def table(self, describe: Callable[[str], _Said]) -> WordTable[_Said]:
        """An empty table of words for ``label``."""
        return WordTable(self.weights, self._speller, describe)

    def label(self, captions: Sequence[Sequence[int]], table: WordTable[Any]) -> Iterator[str]:
        """For each caption, given as rows of ``table``, one letter of ``LABELS`` per token."""
        for start in range(0, len(captions), _AT_ONCE):
            yield from self._label(captions[start : start + _AT_ONCE], table)

    def _label(self, captions: Sequence[Sequence[int]], table: WordTable[Any]) -> list[str]:
        edges = (0,) * FIRST_REACH
        flat: list[int] = [*edges, 0]
        for rows in captions:
            flat += rows
            flat += edges
        flat.append(0)
        found = self._codes(np.array(flat, np.intp), table)
        labels, start = [], 0
        for rows in captions:
            labels.append(found[start : start + len(rows)])
            start += len(rows) + FIRST_REACH
        return labels

    def _codes(self, rows: npt.NDArray[np.intp], table: WordTable[Any]) -> str:
        """[N] -> the labels of places 3 to N - 3; edges get one too, which nobody reads."""
        weights = self.weights
        first = table.first_sums(rows)
        _activate(first, weights.first_step)
        size = len(first) - 2 * SECOND_REACH
        second = first[:size] @ self._second[0]
        for place in range(1, 2 * SECOND_REACH + 1):
            second += first[place : place + size] @ self._second[place]
        second += weights.second_bias
        _activate(second, weights.second_step)
        hidden = first.shape[1]
        scores = first[SECOND_REACH:-SECOND_REACH] @ self._last[:hidden]
        scores += second @ self._last[hidden:]
        scores += weights.last_bias
        letters: bytes = _LETTERS[scores.argmax(axis=1)].tobytes()
        return letters.decode("ascii")

    def save(self, path: Path) -> None:
        """Write the tagger as one compressed array file."""
        arrays: dict[str, Any] = {
            name: _pack("\n".join(value)) if isinstance(value, tuple) else np.asarray(value)
            for name, value in vars(self.weights).items()
        }
        arrays["labels"] = _pack(LABELS)
        arrays["verbs"] = _pack("\n".join(sorted(self.verbs)))
        arrays["counted"] = _pack("\n".join(sorted(self.counts)))
        arrays["counts"] = np.array([self.counts[word] for word in sorted(self.counts)], np.int32)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        path.write_bytes(buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> Tagger:
        """Read what ``save`` wrote.

        Raises:
            ModelError: the file was made for other labels or its parts disagree.
        """
        with np.load(path, allow_pickle=False) as arrays:
            if (labels := _unpack(arrays["labels"])) != LABELS:
                raise ModelError(
                    f"{path}: expected labels {LABELS}, found {labels}. "
                    f"Rebuild it with `python -m taglens.training.tagger_training`."
                )
            parts = {name: arrays[name] for name in Weights.__dataclass_fields__}
            for name in ("words", "pieces"):
                parts[name] = tuple(_lines(parts[name]))
            for name in ("first_step", "second_step"):
                parts[name] = float(parts[name])
            counts = dict(zip(_lines(arrays["counted"]), arrays["counts"].tolist(), strict=True))
            verbs = frozenset(_lines(arrays["verbs"]))
        weights = Weights(**parts)
        weights.check(str(path))
        return cls(weights, counts, verbs)


@lru_cache(maxsize=1)
def default_tagger() -> Tagger:
    """The tagger that ships with the package, loaded once."""
    return Tagger.load(Path(str(files("taglens") / "assets" / "words" / "tagger.npz")))


_LETTERS = np.frombuffer(LABELS.encode(), np.uint8)


def _activate(sums: Floats, step: float) -> None:
    """Sums to activations, whole numbers from 0 to 255, in place."""
    sums *= np.float32(step)
    np.rint(sums, out=sums)
    np.clip(sums, 0.0, 255.0, out=sums)


def _pack(text: str) -> npt.NDArray[np.uint8]:
    return np.frombuffer(text.encode(), dtype=np.uint8)


def _unpack(array: npt.NDArray[np.uint8]) -> str:
    return array.tobytes().decode()


def _lines(array: npt.NDArray[np.uint8]) -> list[str]:
    text = _unpack(array)
    return text.split("\n") if text else []
