"""Groups words by the company they keep, so that a verb or noun never labelled is treated like its kin.

Knows word counts and the words beside them in plain captions; refuses to know labels.

Shape legend: W words grouped, C context columns (words to the left, then to the right), D width, K groups.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def word_groups(
    captions: Iterable[Sequence[str]],
    *,
    groups: int = 128,
    words: int = 12000,
    contexts: int = 1500,
    width: int = 64,
    least: int = 6,
    seed: int = 0,
) -> dict[str, int]:
    """Group number of each frequent word.

    Args:
        captions: token lists, read once.
        words, least: at most so many words, each met at least ``least`` times.
        contexts: neighbours that count as columns, on each side.
        width: dimensions kept of the neighbour table.
    """
    kept = [list(tokens) for tokens in captions]
    counts = Counter(token for tokens in kept for token in tokens)
    known = [word for word, count in counts.most_common(words) if count >= least and word[0].isalnum()]
    if not known:
        return {}
    rows = {word: row for row, word in enumerate(known)}
    columns = {word: column for column, (word, _) in enumerate(counts.most_common(contexts - 1))}
    edge = len(columns)
    table = np.zeros((len(known), 2 * (edge + 1)), np.float32)  # [W, C]
    for tokens in kept:
        last = len(tokens) - 1
        for i, token in enumerate(tokens):
            if (row := rows.get(token)) is None:
                continue
            left = columns.get(tokens[i - 1]) if i else edge
            right = columns.get(tokens[i + 1]) if i < last else edge
            if left is not None:
                table[row, left] += 1
            if right is not None:
                table[row, edge + 1 + right] += 1
    vectors = narrow(surprise(table), width)
    return dict(zip(known, _k_means(vectors, min(groups, len(known)), seed=seed).tolist(), strict=True))


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


def _k_means(vectors: Floats, groups: int, *, seed: int, rounds: int = 30) -> npt.NDArray[np.int64]:
    """The nearest of ``groups`` centres for each unit vector, by cosine."""
    chance = np.random.default_rng(seed)
    centres = vectors[chance.choice(min(len(vectors), 20 * groups), groups, replace=False)]
    nearest = np.zeros(len(vectors), np.int64)
    for _ in range(rounds):
        nearest = np.argmax(vectors @ centres.T, axis=1)
        for group in range(groups):
            members = vectors[nearest == group]
            if len(members):
                centre = members.sum(axis=0)
                centres[group] = centre / max(float(np.linalg.norm(centre)), 1e-9)
    return nearest
