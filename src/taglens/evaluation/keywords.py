"""Finding pictures by keywords, drawn from what people said of the pictures themselves (Tag2Text 1.9).

A query is one to four tags that the captions of one picture say. Every picture whose captions say all of them is
right, by a tag itself or by one that implies it; a picture nobody said it of counts as wrong, whatever it shows.
Refuses to know models: scores are passed in. Shapes: N pictures, Q queries, T tags.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from taglens.errors import UsageError
from taglens.evaluation.metrics import average_precisions
from taglens.vocabulary import Vocabulary

Array = npt.NDArray[np.float32]

SIZES = (1, 2, 3, 4)
MOST_QUERIES = 300  # of each size
_PRECISION_AT = 10


@dataclass(frozen=True, slots=True, eq=False)
class Keywords:
    """Queries of one size.

    Attributes:
        queries: columns of each query's tags, by column.
        truth: uint8 [N, Q], the pictures that are right.
    """

    size: int
    queries: tuple[tuple[int, ...], ...]
    truth: npt.NDArray[np.uint8]


def draw_keywords(
    vocabulary: Vocabulary,
    said: Sequence[frozenset[int]],
    *,
    sizes: Sequence[int] = SIZES,
    most: int = MOST_QUERIES,
    seed: int = 0,
) -> list[Keywords]:
    """Distinct queries of each size; of a size that no picture has so many tags for, none.

    A picture is drawn, then tags of it, so that what is often said is often asked for. Queries that all pictures
    satisfy are left out, and hidden tags.

    Args:
        said: per picture the columns of the tags that its captions say.
    """
    rng = np.random.default_rng(seed)
    hidden = {column for column, entry in enumerate(vocabulary) if entry.hidden}
    own = [sorted(tags - hidden) for tags in said]
    closed = [vocabulary.with_parents(tags) for tags in said]
    found = []
    for size in sizes:
        able = [number for number, tags in enumerate(own) if len(tags) >= size]
        queries: dict[tuple[int, ...], npt.NDArray[np.uint8]] = {}
        # Bounded: the distinct queries may be fewer than are wanted.
        for _ in range(20 * most if able else 0):
            if len(queries) >= most:
                break
            tags = own[able[int(rng.integers(len(able)))]]
            query = tuple(sorted(int(tag) for tag in rng.choice(tags, size, replace=False)))
            right = np.array([set(query) <= tags for tags in closed], np.uint8)
            if not right.all():
                queries.setdefault(query, right)
        if queries:
            truth = np.stack(list(queries.values()), axis=1)
            found.append(Keywords(size, tuple(queries), truth))
    return found


def measure_keywords(keywords: Keywords, methods: Mapping[str, Array]) -> dict[str, Any]:
    """Mean average precision and precision among the first 10 of each method.

    Args:
        methods: name -> scores [N, Q].

    Raises:
        UsageError: scores of another shape, or not numbers.
    """
    row: dict[str, Any] = {
        "queries": len(keywords.queries),
        "right": float(keywords.truth.sum(axis=0).mean()),
        "mAP": {},
        f"P@{_PRECISION_AT}": {},
    }
    for name, scores in methods.items():
        row["mAP"][name] = float(average_precisions(scores, keywords.truth).mean())
        order = np.argsort(-scores, axis=0, kind="stable")[:_PRECISION_AT]
        row[f"P@{_PRECISION_AT}"][name] = float(np.take_along_axis(keywords.truth, order, axis=0).mean())
    if not methods:
        raise UsageError("no method to measure keywords with")
    return row
