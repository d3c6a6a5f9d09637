"""A seeded population of labelled pictures that no pixel was drawn for, and the figures of annotating it."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from taglens.server.simulated_truth import SIDE, Truth
from taglens.vocabulary import Entry, Vocabulary

THEMES, SIZE = 6, 8
NAMES = tuple(
    f"{theme} thing {letter}" for theme in ("red", "oak", "sea", "tin", "fur", "sun") for letter in "abcdefgh"
)


def truth(*, pictures: int = 400, seed: int = 0, extra: Sequence[Entry] = ()) -> Truth:
    """Two to four tags a picture, mostly of one theme; ``extra`` tags are true of nothing."""
    rng = random.Random(seed)
    vocabulary = Vocabulary((*(Entry(name, "object") for name in NAMES), *extra), name="population")
    rows = []
    for number in range(pictures):
        theme = rng.randrange(THEMES)
        near = [theme * SIZE + place for place in range(SIZE)]
        columns: set[int] = set()
        while len(columns) < 2 + number % 3:
            columns.add(rng.choice(near) if rng.random() < 0.7 else rng.randrange(len(NAMES)))
        thumbnail = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        rows.append((f"images/{number:04d}.jpg", thumbnail, sorted(columns)))
    return Truth(vocabulary, rows)


def groups_together() -> list[tuple[str, ...]]:
    """Two themes to a group: what occurs together stands together."""
    return [NAMES[at : at + 2 * SIZE] for at in range(0, len(NAMES), 2 * SIZE)]


def groups_apart() -> list[tuple[str, ...]]:
    """Of each theme a part in every group."""
    return [NAMES[at::3] for at in range(3)]


def figures(known: Truth, said: Sequence[Sequence[str]]) -> tuple[float, float]:
    """Precision and recall over all pictures and names, counted one by one."""
    right = wrong = missed = 0
    for row, names in enumerate(said):
        true = {known.vocabulary[column].name for column in np.flatnonzero(known.true[row])}
        right += len(true.intersection(names))
        wrong += len(set(names) - true)
        missed += len(true - set(names))
    return right / (right + wrong), right / (right + missed)
