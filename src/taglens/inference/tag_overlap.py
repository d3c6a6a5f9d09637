"""How many of a text's tags a picture has (Tag2Text 1.9, choice T4).

Knows arrays of scores, and parents: a picture of a dog has the tag "animal", too. Refuses to know how a text's tags
are read (`taglens.language.text_tags`) and how scores came to be.
Shapes: N pictures, T tags, M texts.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from taglens.errors import MismatchError
from taglens.vocabulary import Vocabulary

Array = npt.NDArray[np.float32]

# What tags weigh beside similarity where neither the user nor the model says.
DEFAULT_WEIGHT = 0.1
# Added to scores that are multiplied: a tag that is not there at all must not hide that the others are.
_LEAST = 0.01


def recognised(vocabulary: Vocabulary, scores: Array) -> Array:
    """1 where a tag, or one that implies it, reaches its threshold, else 0: scores [N, T] -> [N, T].

    Hidden tags are never there. Raises MismatchError: the scores are another vocabulary's.
    """
    _require(vocabulary, scores)
    return _with_parents(vocabulary, (scores >= vocabulary.least()).astype(np.float32))


def likely(vocabulary: Vocabulary, scores: Array) -> Array:
    """The highest score of a tag and of all that imply it: scores [N, T] -> [N, T]; else as `recognised`."""
    _require(vocabulary, scores)
    return _with_parents(vocabulary, scores.astype(np.float32))


def overlap(pictures: Array, tags: Sequence[Collection[int]]) -> Array:
    """The share of each text's tags that each picture has [N, M]; 0 for a text without tags.

    Args:
        pictures: [N, T], as `recognised` gives it; of `likely` it is the mean of the tags' scores.
        tags: per text the columns of its tags.
    """
    asked = np.zeros((pictures.shape[1], len(tags)), np.float32)
    for text, columns in enumerate(tags):
        if columns:
            asked[list(columns), text] = 1.0 / len(columns)
    used = np.flatnonzero(asked.any(axis=1))
    found: Array = pictures[:, used] @ asked[used]
    return found


def _require(vocabulary: Vocabulary, scores: Array) -> None:
    if scores.ndim != 2 or scores.shape[1] != len(vocabulary):
        raise MismatchError(
            "scores and vocabulary do not fit",
            expected=f"[pictures, {len(vocabulary)}] for {vocabulary.ref}",
            found=f"shape {scores.shape}",
            cure="Take both from one model.",
        )


def all_of(scores: Array, tags: Sequence[Collection[int]]) -> Array:
    """How surely each picture has all of some tags [N, M]: a geometric mean of their scores, 0 to 1; of one, its own.

    Args:
        scores: [N, T], as `likely` gives it.
        tags: as for `overlap`.
    """
    found = np.exp(overlap(np.log(scores + np.float32(_LEAST)), tags)) - np.float32(_LEAST)
    found[:, [text for text, columns in enumerate(tags) if not columns]] = 0.0
    return found


def families(vocabulary: Vocabulary) -> list[list[int]]:
    """Per tag the columns of which any says that it is there: its own, and those of tags that imply it.

    None for a hidden tag, which is never given; nor does anything follow from one.
    """
    found: list[list[int]] = [[] for _ in vocabulary]
    for column, entry in enumerate(vocabulary):
        if not entry.hidden:
            for implied in sorted(vocabulary.with_parents([column])):
                if not vocabulary[implied].hidden:
                    found[implied].append(column)
    return found


def _with_parents(vocabulary: Vocabulary, values: Array) -> Array:
    found = np.zeros_like(values)
    for column, family in enumerate(families(vocabulary)):
        if family:
            found[:, column] = values[:, family].max(axis=1)
    return found
