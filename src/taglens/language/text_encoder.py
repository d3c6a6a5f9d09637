"""Any word or phrase to a unit vector: where it stands among the words of captions. numpy only.

The starter's text encoder. A text is the weighted mean of its words, a word its row of a table or, where the table
lacks it, a sum over its pieces (runs of three to five letters), so that nothing a person types is without a vector.
Knows the table; refuses to know how it was learned (`text_training`) or what it is compared with.

Shape legend: L width, W words, H buckets of pieces, M texts.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import numpy.typing as npt

from taglens.errors import ModelError, UsageError
from taglens.language.lemmas import singular
from taglens.language.tokens import tokenize

Floats = npt.NDArray[np.float32]
_SHORTEST, _LONGEST = 3, 5
_MOST_KEPT = 50_000


@dataclass(frozen=True, slots=True, eq=False)
class Quantised:
    """A matrix [R, L] in one byte a value: ``values * scale`` per row."""

    values: npt.NDArray[np.int8]
    scale: Floats

    @classmethod
    def of(cls, matrix: Floats) -> Quantised:
        scale = np.maximum(np.abs(matrix).max(axis=1), 1e-12) / 127
        return cls(np.rint(matrix / scale[:, None]).astype(np.int8), scale.astype(np.float32))

    def rows(self, numbers: Sequence[int]) -> Floats:
        wide: Floats = self.values[list(numbers)].astype(np.float32) * self.scale[list(numbers), None]
        return wide


@dataclass(eq=False)
class TextEncoder:
    """Texts to unit vectors.

    Attributes:
        words: the W known words, most frequent first.
        vectors: [W, L].
        weights: [W], how much a word counts within a text; small for "a" and "the".
        pieces: [H, L], what a run of letters adds to a word that is not known.
    """

    words: tuple[str, ...]
    vectors: Quantised
    weights: Floats
    pieces: Quantised
    _kept: dict[str, tuple[Floats, float]] = field(default_factory=dict, repr=False)

    @property
    def width(self) -> int:
        """L."""
        return int(self.vectors.values.shape[1])

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words)}

    @cached_property
    def fingerprint(self) -> str:
        """12 hex digits of all it holds: vectors of two encoders must never meet."""
        digest = hashlib.sha256("\n".join(self.words).encode())
        for array in (
            self.vectors.values,
            self.vectors.scale,
            self.weights,
            self.pieces.values,
            self.pieces.scale,
        ):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:12]

    def __call__(self, texts: Iterable[str]) -> Floats:
        """Unit vectors [M, L].

        Raises:
            UsageError: a text without a single letter or digit.
        """
        rows = [self._text(text) for text in texts]
        return np.stack(rows) if rows else np.zeros((0, self.width), np.float32)

    def name(self, name: str) -> Floats:
        """The unit vector [L] of a tag's name, which is a text like any other. Raises as calling does."""
        vector: Floats = self([name])[0]
        return vector

    def rest(self) -> None:
        """Nothing: a table of words is small."""

    def knows(self, text: str) -> bool:
        """Whether at least one word of the text stands in the table; if not, its vector is a guess from spelling."""
        return any(self._number(word) is not None for word in words_of(text))

    def _text(self, text: str) -> Floats:
        words = words_of(text)
        if not words:
            raise UsageError(f"{text!r} holds no word to look for")
        total = np.zeros(self.width, np.float32)
        for word in words:
            vector, weight = self._word(word)
            total += weight * vector
        return _unit(total)

    def _word(self, word: str) -> tuple[Floats, float]:
        """A word's unit vector [L] and its weight."""
        if (found := self._kept.get(word)) is None:
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            number = self._number(word)
            if number is None:
                # As heavy as the rarest word: it is what the text is about.
                vector, weight = self.pieces.rows(pieces_of(word, len(self.pieces.scale))).sum(axis=0), 1.0
            else:
                vector, weight = self.vectors.rows([number])[0], float(self.weights[number])
            found = self._kept[word] = (_unit(vector), weight)
        return found

    def _number(self, word: str) -> int | None:
        number = self._numbers.get(word)
        return self._numbers.get(singular(word)) if number is None else number

    # -- files -------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one .npz, beside and renamed."""
        path = Path(path)
        beside = path.with_name(path.name + ".part")
        with beside.open("wb") as stream:
            np.savez_compressed(
                stream,
                words=np.frombuffer("\n".join(self.words).encode(), np.uint8),
                vectors=self.vectors.values,
                vectors_scale=self.vectors.scale,
                weights=self.weights,
                pieces=self.pieces.values,
                pieces_scale=self.pieces.scale,
            )
        beside.replace(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TextEncoder:
        """Read what `save` wrote.

        Raises:
            ModelError: the file is missing, damaged, or its parts do not fit each other.
        """
        path = Path(path)
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
                words = tuple(stored["words"].tobytes().decode().split("\n"))
                vectors = Quantised(stored["vectors"], stored["vectors_scale"])
                weights = stored["weights"]
                pieces = Quantised(stored["pieces"], stored["pieces_scale"])
        except (OSError, ValueError, KeyError, EOFError, zlib.error, zipfile.BadZipFile) as error:
            raise ModelError(f"cannot read the text encoder {path}: {error}") from None
        rows, width = vectors.values.shape
        if not (
            len(words) == rows == len(vectors.scale) == len(weights)
            and pieces.values.shape == (len(pieces.scale), width)
        ):
            raise ModelError(f"the text encoder {path} is damaged: its tables have different lengths")
        return cls(words, vectors, weights, pieces)


@lru_cache(maxsize=1)
def shipped() -> TextEncoder:
    """The encoder inside the package, which is the starter model's."""
    return TextEncoder.load(Path(str(files("taglens"))) / "assets" / "starter" / "text.npz")


def words_of(text: str) -> list[str]:
    """The words of a text, lower case, hyphenated ones whole, without punctuation."""
    return [token for token in tokenize(text) if token[0].isalnum()]


def pieces_of(word: str, buckets: int) -> list[int]:
    """Bucket numbers of a word's runs of 3 to 5 letters, its two ends marked; always at least one."""
    marked = f"<{word}>"
    runs = {
        marked[start : start + length]
        for length in range(_SHORTEST, _LONGEST + 1)
        for start in range(len(marked) - length + 1)
    } or {marked}
    return sorted({zlib.crc32(run.encode()) % buckets for run in runs})


def _unit(vector: Floats) -> Floats:
    scaled: Floats = vector / max(float(np.linalg.norm(vector)), 1e-12)
    return scaled
