"""The caption that fits most pictures: what a captioner without eyes would say of every one.

Knows CIDEr's weights and lengths. Refuses to know pictures and files.

Of the captions at hand the one is taken whose mean CIDEr over the pictures is highest, but for CIDEr's cap on
repeated words; so one pass over all captions is enough, where scoring each against all others would take hours.
Shapes: G n-grams, L lengths.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from taglens.errors import UsageError

GRAMS = 4
# Of CIDEr's length penalty.
SIGMA = 6.0
# Lengths beyond are one: nobody's favourite sentence has so many words, and memory is bounded.
_LONGEST = 40

_Counts = list[tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]]


def typical(references: Sequence[Sequence[str]]) -> str:
    """The most typical of the captions; of equals, the first by the alphabet.

    Args:
        references: per picture its captions, as words with a space between them.

    Raises:
        UsageError: there is no caption.
    """
    pictures = sorted(sorted(texts) for texts in references if texts)
    if not pictures:
        raise UsageError("no caption to choose from; expected at least one")
    if len(pictures) == 1:  # where no word tells pictures apart
        return pictures[0][0]
    grams: dict[tuple[str, ...], int] = {}
    counted = {text: _counts(text, grams) for texts in pictures for text in texts}
    unit = _units(counted, _rarity(pictures, counted, len(grams)))
    lengths = {text: min(len(text.split()), _LONGEST) for text in counted}

    # Of every length the sum of its captions' vectors, each picture counting once: [L, G].
    sums = np.zeros((_LONGEST + 1, len(grams)), np.float32)
    for texts in pictures:
        for text in texts:
            for ids, weights in unit[text]:
                sums[lengths[text], ids] += weights / len(texts)
    steps = np.arange(_LONGEST + 1)
    penalty = np.exp(-((steps[:, None] - steps) ** 2) / (2 * SIGMA**2)).astype(np.float32)
    seen = np.einsum("lm,mg->lg", penalty, sums)

    def fit(text: str) -> float:
        found = (float(weights @ seen[lengths[text], ids]) for ids, weights in unit[text])
        # Rounded, so that equals are equal.
        return round(sum(found) / (GRAMS * len(pictures)), 6)

    return min(unit, key=lambda text: (-fit(text), text))


def _counts(text: str, grams: dict[tuple[str, ...], int]) -> _Counts:
    """For each n the text's n-grams, numbered in ``grams``, and how often each stands in it."""
    words = text.split()
    found: _Counts = []
    for n in range(1, GRAMS + 1):
        counts = Counter(tuple(words[at : at + n]) for at in range(len(words) - n + 1))
        ids = [grams.setdefault(gram, len(grams)) for gram in counts]
        found.append((np.array(ids, np.intp), np.array(list(counts.values()), np.float64)))
    return found


def _rarity(
    pictures: Sequence[list[str]], counted: dict[str, _Counts], grams: int
) -> npt.NDArray[np.float64]:
    """[G]: the logarithm of how rare an n-gram is among the pictures."""
    pictures_with = np.zeros(grams)
    for texts in pictures:
        every = [ids for text in texts for ids, _ in counted[text]]
        pictures_with[np.unique(np.concatenate(every))] += 1
    return np.asarray(math.log(len(pictures)) - np.log(np.maximum(pictures_with, 1)))


def _units(counted: dict[str, _Counts], rarity: npt.NDArray[np.float64]) -> dict[str, _Counts]:
    """The counts, weighed and brought to length one; of n-grams that tell nothing apart nothing is left."""

    def unit(ids: npt.NDArray[np.intp], counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        weighed = counts * rarity[ids]
        length = float(np.sqrt(weighed @ weighed))
        return weighed / length if length else weighed

    return {text: [(ids, unit(ids, counts)) for ids, counts in found] for text, found in counted.items()}
