"""BERTScore, CLIPScore and RefCLIPScore, as pure functions of vectors that somebody else computed.

Knows vectors, matching and means; refuses to know the models they are from (`taglens.evaluation.caption_towers`).

What counts
- BERTScore: each piece of one text is matched with the most similar piece of the other, whichever that is: by the
  caption's pieces it is precision, by the reference's recall. Marks that open and close a text may be matched, but
  weigh nothing themselves. Of several references the best figure counts, for each of the three by itself.
- CLIPScore: 2.5 times the cosine of picture and caption, no less than 0. RefCLIPScore: its harmonic mean with the
  caption's best cosine to a reference, no less than 0.

Shapes: L, M pieces of a caption and of a reference, D width of their vectors, B pictures, R references of one, E
width of the space that pictures and texts share.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import log

import numpy as np
import numpy.typing as npt

from taglens.errors import MismatchError, UsageError

Array = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

CLIP_WEIGHT = 2.5


@dataclass(frozen=True, slots=True, eq=False)
class Pieces:
    """A text as a language model reads it.

    Attributes:
        ids: int64 [L].
        vectors: float32 [L, D], not necessarily of unit length.
        marks: bool [L], pieces that open or close a text and say nothing.
    """

    ids: npt.NDArray[np.int64]
    vectors: Array
    marks: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        length = self.ids.shape
        if len(length) != 1 or self.marks.shape != length or self.vectors.shape[:-1] != length:
            raise UsageError(
                f"ids {length}, vectors {self.vectors.shape} and marks {self.marks.shape} do not fit: expected [L], "
                "[L, D] and [L]"
            )


@dataclass(frozen=True, slots=True)
class Match:
    """How two texts match; each from -1 to 1."""

    precision: float
    recall: float
    f1: float

    @classmethod
    def of(cls, precision: float, recall: float) -> Match:
        """F1 is 0 where the two are 0 together, or do not have one sign."""
        both = precision + recall
        return cls(precision, recall, 2 * precision * recall / both if precision * recall > 0 else 0.0)

    def rescaled(self, baseline: Match) -> Match:
        """Stretched so that ``baseline`` becomes 0 and 1 stays: what texts have that have nothing in common.

        Raises:
            UsageError: the baseline is 1.
        """
        if max(baseline.precision, baseline.recall, baseline.f1) >= 1:
            raise UsageError(f"a baseline of 1 leaves no room for scores: {baseline}")
        ours, theirs = ((one.precision, one.recall, one.f1) for one in (self, baseline))
        return Match(*((found - zero) / (1 - zero) for found, zero in zip(ours, theirs, strict=True)))


class Rarity:
    """What a piece weighs by how few texts hold it: log((N + 1) / (n + 1)) for n of N texts.

    Args:
        texts: the pieces' numbers of each; as a rule all references.
    """

    def __init__(self, texts: Iterable[Sequence[int]]) -> None:
        found: Counter[int] = Counter()
        self._texts = 0
        for ids in texts:
            found.update(set(ids))
            self._texts += 1
        self._held: Mapping[int, int] = found

    def __call__(self, ids: npt.NDArray[np.int64]) -> Floats:
        """Weights [L] of pieces [L]; one that no text holds weighs most."""
        return np.array([log((self._texts + 1) / (self._held.get(int(one), 0) + 1)) for one in ids])


def matched(caption: Pieces, reference: Pieces, *, rarity: Rarity | None = None) -> Match:
    """BERTScore of two texts.

    A text without a piece that weighs anything has 0, in both directions.

    Args:
        rarity: None: every piece weighs the same.

    Raises:
        MismatchError: their vectors have different widths.
    """
    if caption.vectors.shape[1:] != reference.vectors.shape[1:]:
        raise MismatchError(
            "vectors of two texts differ in width",
            expected=str(caption.vectors.shape[1:]),
            found=str(reference.vectors.shape[1:]),
            cure="Read both with one model.",
        )
    weights = [
        np.where(text.marks, 0.0, np.ones(len(text.ids)) if rarity is None else rarity(text.ids))
        for text in (caption, reference)
    ]
    if not weights[0].sum() or not weights[1].sum():
        return Match(0.0, 0.0, 0.0)
    likeness = unit(caption.vectors) @ unit(reference.vectors).T
    best = likeness.max(axis=1), likeness.max(axis=0)
    precision, recall = (
        float(np.average(found, weights=weight)) for found, weight in zip(best, weights, strict=True)
    )
    return Match.of(precision, recall)


def best_match(caption: Pieces, references: Sequence[Pieces], *, rarity: Rarity | None = None) -> Match:
    """BERTScore against several references. Raises UsageError: there is none."""
    if not references:
        raise UsageError("no references: expected one or more for every caption")
    found = [matched(caption, one, rarity=rarity) for one in references]
    return Match(*(max(getattr(one, name) for one in found) for name in ("precision", "recall", "f1")))


def mean_match(matches: Sequence[Match]) -> Match:
    """Each figure's mean over pictures. Raises UsageError: there are none."""
    if not matches:
        raise UsageError("no matches to take the mean of")
    return Match(
        *(float(np.mean([getattr(one, name) for one in matches])) for name in ("precision", "recall", "f1"))
    )


def cosines(pictures: Array, texts: Array) -> Floats:
    """[B], of row and row. Raises MismatchError: they do not have one shape [B, E]."""
    if pictures.shape != texts.shape or pictures.ndim != 2:
        raise MismatchError(
            "pictures and texts do not pair",
            expected=f"texts of shape {pictures.shape}",
            found=str(texts.shape),
            cure="Give one text for each picture, read by the same model.",
        )
    found: Floats = np.einsum("be,be->b", unit(pictures), unit(texts))
    return found


def clip_scores(pictures: Array, captions: Array) -> Floats:
    """CLIPScore [B] of pictures [B, E] and captions [B, E]."""
    return CLIP_WEIGHT * np.maximum(cosines(pictures, captions), 0.0)


def ref_clip_scores(scores: Floats, captions: Array, references: Sequence[Array]) -> Floats:
    """RefCLIPScore [B].

    Args:
        scores: `clip_scores` [B].
        captions: [B, E].
        references: B times [R, E], R its own for each picture.

    Raises:
        UsageError: a picture has no reference, or not as many of the one as of the other.
    """
    if not len(scores) == len(captions) == len(references) or not all(len(each) for each in references):
        raise UsageError(
            f"{len(scores)} scores, {len(captions)} captions and references of {len(references)} pictures: expected "
            "as many of each, and one or more references for every picture"
        )
    near = np.array(
        [
            max(0.0, float((unit(each) @ unit(one)).max()))
            for each, one in zip(references, captions, strict=True)
        ]
    )
    both = scores + near
    found: Floats = np.divide(2 * scores * near, both, out=np.zeros_like(both), where=both > 0)
    return found


def unit(vectors: Array) -> Floats:
    """Vectors [..., E] at unit length, in double precision; what is all zeros stays so."""
    wide = vectors.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=-1, keepdims=True)
    found: Floats = wide / np.maximum(lengths, 1e-12)
    return found
