"""Words as vectors by the company they keep, so that a word never labelled is treated like its kin.

Knows word counts and the words beside them in plain captions; refuses to know labels.

Shape legend: W words, C context columns, D width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

# Where a neighbour may stand, and the marks for before and after a caption.
_OFFSETS = (-2, -1, 1, 2)
_BEFORE, _AFTER = "<", ">"


def neighbour_vectors(
    captions: Sequence[Sequence[str]], words: Sequence[str], *, contexts: int = 600, width: int = 100
) -> Floats:
    """[W, D] vectors of length one, alike for words that stand between the same words; zeros for the unmet.

    Args:
        captions: token lists.
        contexts: how many frequent words count as neighbours; all others are one.
    """
    counts = Counter(token for tokens in captions for token in tokens)
    columns = {word: i for i, (word, _) in enumerate(counts.most_common(contexts))}
    columns[_BEFORE], columns[_AFTER] = len(columns), len(columns) + 1
    size = len(columns) + 1
    rows = {word: row for row, word in enumerate(words)}
    places: list[int] = []
    for tokens in captions:
        padded = [_BEFORE, _BEFORE, *tokens, _AFTER, _AFTER]
        ids = [columns.get(token, size - 1) for token in padded]
        for i, token in enumerate(tokens, 2):
            if (row := rows.get(token)) is not None:
                start = row * len(_OFFSETS) * size
                places += [start + k * size + ids[i + offset] for k, offset in enumerate(_OFFSETS)]
    table = np.bincount(np.array(places, np.int64), minlength=len(words) * len(_OFFSETS) * size)
    return narrow(surprise(table.reshape(len(words), -1).astype(np.float32)), width)


def surprise(table: Floats) -> Floats:
    """Positive pointwise mutual information of [W, C] counts; columns are flattened by a power of 3/4."""
    total = table.sum()
    by_row = table.sum(axis=1, keepdims=True) / max(total, 1.0)
    by_column = table.sum(axis=0, keepdims=True) ** 0.75
    by_column /= max(by_column.sum(), 1e-9)
    with np.errstate(divide="ignore", invalid="ignore"):
        information = np.log(table / total / (by_row * by_column))
    return np.where(table > 0, np.maximum(information, 0.0), 0.0).astype(np.float32)


def narrow(table: Floats, width: int) -> Floats:
    """The table's leading directions, each row of length one: [W, C] -> [W, D]."""
    values, directions = np.linalg.eigh((table.T @ table).astype(np.float64))
    lead = np.argsort(values)[::-1][:width]
    # Half the usual weight of each direction: else the few strongest decide every group.
    scale = np.maximum(values[lead], 1e-9) ** -0.25
    vectors: Floats = (table @ directions[:, lead]) * scale
    vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    return vectors.astype(np.float32)
