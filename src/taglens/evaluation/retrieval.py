"""Finding pictures by text and texts by picture: recall at 1, 5 and 10, both ways (Tag2Text 1.9, choice T4).

Knows similarities, overlaps of tags, and who belongs to whom; refuses to know models, files and words.

What counts
- A pair's score is its similarity plus lambda times its overlap of tags. With lambda 0 it is the similarity, exactly.
- Every caption is a query for its picture. A picture's rank is that of the best of its captions.
- Ties are counted against the model: a wrong answer of the same score stands before the right one.
- Re-ranking orders the first K answers anew and leaves the others where they are.

Shapes: N pictures, M texts, K candidates, R pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from taglens.errors import UsageError

Array = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
# A second opinion of pairs [R, 2] of a picture and a text, whose first scores [R] are told.
Second = Callable[[Ids, Array], Array]

# What lambda is chosen among: similarities lie within 1 of each other, overlaps too.
GRID = (0.0, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
_AT = (1, 5, 10)


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Everything that is known of every pair before a second look.

    Attributes:
        similarity, overlap: float32 [N, M].
        owner: [M], the picture that each text is about; every picture has one.
    """

    similarity: Array
    overlap: Array
    owner: Ids

    def __post_init__(self) -> None:
        shape = self.similarity.shape
        if len(shape) != 2 or self.overlap.shape != shape or self.owner.shape != shape[1:]:
            raise UsageError(
                f"similarity {shape}, overlap {self.overlap.shape} and owners {self.owner.shape} do not fit: "
                "expected [pictures, texts] twice and [texts]"
            )
        if not np.array_equal(np.unique(self.owner), np.arange(shape[0])):
            raise UsageError("every picture must have a text, and every text a picture")
        if not (np.isfinite(self.similarity).all() and np.isfinite(self.overlap).all()):
            raise UsageError("similarities and overlaps must be finite: leave out what could not be read")

    def scores(self, weight: float) -> Array:
        """[N, M]: similarity + weight * overlap."""
        if weight == 0.0:
            return self.similarity
        return np.asarray(self.similarity + np.float32(weight) * self.overlap, np.float32)


@dataclass(frozen=True, slots=True)
class Recall:
    """Shares of queries whose first right answer stands among the first 1, 5 and 10; and its median rank, from 1."""

    at: tuple[float, ...]
    median_rank: float

    @classmethod
    def of(cls, ranks: Ids) -> Recall:
        return cls(tuple(float((ranks <= most).mean()) for most in _AT), float(np.median(ranks)))

    def to_dict(self) -> dict[str, float]:
        return {
            **{f"R@{most}": value for most, value in zip(_AT, self.at, strict=True)},
            "median_rank": self.median_rank,
        }


@dataclass(frozen=True, slots=True)
class BothWays:
    """One method's recall from pictures to texts and from texts to pictures."""

    i2t: Recall
    t2i: Recall

    @property
    def mean(self) -> float:
        """Of all six recalls: what lambda is chosen by."""
        return float(np.mean([*self.i2t.at, *self.t2i.at]))

    def to_dict(self) -> dict[str, Any]:
        return {"i2t": self.i2t.to_dict(), "t2i": self.t2i.to_dict()}


def ranks(scores: Array, owner: Ids) -> tuple[Ids, Ids]:
    """Scores [N, M] to the rank of each picture's best text [N] and of each text's picture [M], from 1."""
    right = scores[owner, np.arange(len(owner))]
    best = np.full(len(scores), -np.inf, np.float32)
    np.maximum.at(best, owner, right)
    own_best = np.bincount(owner[right == best[owner]], minlength=len(scores))
    by_picture = 1 + np.count_nonzero(scores >= best[:, None], axis=1) - own_best
    by_text = np.count_nonzero(scores >= right, axis=0)
    return by_picture.astype(np.int64), by_text.astype(np.int64)


def measure(scores: Array, owner: Ids) -> BothWays:
    """Recall of scores [N, M], both ways."""
    by_picture, by_text = ranks(scores, owner)
    return BothWays(Recall.of(by_picture), Recall.of(by_text))


def choose_weight(pairs: Pairs, grid: Sequence[float] = GRID) -> tuple[float, dict[float, float]]:
    """The lambda of the highest mean recall, of equals the smallest; and every one's mean recall."""
    found = {weight: measure(pairs.scores(weight), pairs.owner).mean for weight in sorted(grid)}
    return max(found, key=lambda weight: (found[weight], -weight)), found


def rerank(scores: Array, owner: Ids, second: Second, *, top: int) -> BothWays:
    """Recall once the first ``top`` answers of every query stand in the order of a second score.

    Args:
        second: asked once for every pair that any query needs, by picture.

    Raises:
        UsageError: ``top`` is below 1.
    """
    if top < 1:
        raise UsageError(f"the first {top} answers cannot be ranked anew; give 1 or more")
    # What belongs together goes behind its equals here, too.
    placed = scores.copy()
    every = np.arange(len(owner))
    placed[owner, every] = np.nextafter(scores[owner, every], np.float32(-np.inf))
    texts = _first(placed, top)
    pictures = _first(placed.T, top)
    asked = np.zeros(scores.shape, bool)
    np.put_along_axis(asked, texts, values=True, axis=1)
    np.put_along_axis(asked.T, pictures, values=True, axis=1)
    pairs = np.argwhere(asked)
    again = np.full(scores.shape, -np.inf, np.float32)
    again[pairs[:, 0], pairs[:, 1]] = second(pairs, scores[pairs[:, 0], pairs[:, 1]])
    by_picture, by_text = ranks(scores, owner)
    for picture, row in enumerate(texts):
        mine = owner[row] == picture
        if mine.any():
            by_picture[picture] = _place(again[picture, row], mine)
    for text, row in enumerate(pictures):
        mine = row == owner[text]
        if mine.any():
            by_text[text] = _place(again[row, text], mine)
    return BothWays(Recall.of(by_picture), Recall.of(by_text))


def _first(scores: Array, top: int) -> Ids:
    """Columns of each row's highest scores [rows, top], the first of equals first."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :top].astype(np.int64)


def _place(scores: Array, right: npt.NDArray[np.bool_]) -> int:
    """The rank of the best right one, from 1, behind all wrong ones of the same score."""
    return 1 + int(np.count_nonzero(scores[~right] >= scores[right].max()))
