"""K-means++ over unit vectors, and which of them lie far out (RAM 2.3, choice R1).

Knows points, centres and distances. Refuses to know tags, pictures and what becomes of an outlier.
Shapes: n points, E width, k centres.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from taglens.errors import UsageError

Array = npt.NDArray[np.float64]

_ROUNDS = 100


@dataclass(frozen=True, slots=True, eq=False)
class Clusters:
    """centres [k, E]; nearest [n], each point's centre; distance [n], to it."""

    centres: Array
    nearest: npt.NDArray[np.intp]
    distance: Array


def cluster_count(points: int, *, per_cluster: int, most: int) -> int:
    """How many centres so many points get: one for every ``per_cluster``, at least one, at most ``most``."""
    return max(1, min(most, points // per_cluster))


def k_means(points: npt.NDArray[np.floating], count: int, *, random: np.random.Generator) -> Clusters:
    """Clusters of points [n, E] by Lloyd's rounds from k-means++ seeds, until no point changes its centre.

    A centre that loses all its points stays where it is. Equal points and seeds give equal clusters.

    Raises:
        UsageError: fewer points than centres, no centre, or a point that is not finite.
    """
    if not 1 <= count <= len(points):
        raise UsageError(f"{count} centres for {len(points)} points: expected 1 to {len(points)}")
    x = np.asarray(points, np.float64)
    if not np.isfinite(x).all():
        raise UsageError("a point to be clustered is not finite: the model that made it is damaged")
    centres = x[seeds(x, count, random=random)]
    nearest = np.full(len(x), -1, np.intp)
    for _ in range(_ROUNDS):
        found = squared_distances(x, centres).argmin(axis=1)
        if np.array_equal(found, nearest):
            break
        nearest = found
        sums = np.zeros_like(centres)
        np.add.at(sums, nearest, x)
        sizes = np.bincount(nearest, minlength=count)
        filled = sizes > 0
        centres[filled] = sums[filled] / sizes[filled, None]
    squares = squared_distances(x, centres)
    nearest = squares.argmin(axis=1)
    return Clusters(centres, nearest, np.sqrt(squares[np.arange(len(x)), nearest]))


def seeds(points: Array, count: int, *, random: np.random.Generator) -> list[int]:
    """k-means++: the first point by chance, each further one in proportion to its squared distance from those chosen.

    Where all points lie on chosen ones, the first that is not chosen.
    """
    chosen = [int(random.integers(len(points)))]
    left = squared_distances(points, points[chosen])[:, 0]
    while len(chosen) < count:
        left[chosen] = 0.0
        total = left.sum()
        if total > 0:
            place = int(np.searchsorted(np.cumsum(left), random.random() * total, side="right"))
            place = min(place, int(np.flatnonzero(left)[-1]))
        else:
            place = next(each for each in range(len(points)) if each not in chosen)
        chosen.append(place)
        left = np.minimum(left, squared_distances(points, points[place : place + 1])[:, 0])
    return chosen


def squared_distances(points: Array, centres: Array) -> Array:
    """[n, k], never below 0."""
    squares = (points**2).sum(axis=1)[:, None] - 2 * points @ centres.T + (centres**2).sum(axis=1)
    found: Array = np.maximum(squares, 0.0)
    return found


def outliers(distance: Array, *, share: float) -> npt.NDArray[np.bool_]:
    """[n], the points farthest out: ``share`` of them, rounded down; of equally far ones the later.

    Raises:
        UsageError: a share outside 0 to 1.
    """
    if not 0.0 <= share < 1.0:
        raise UsageError(f"the share of outliers is {share}: expected 0 up to, but not, 1")
    found = np.zeros(len(distance), bool)
    # A tenth of 30 is 3, whatever binary fractions make of it.
    count = math.floor(len(distance) * share + 1e-9)
    if count:
        found[np.argsort(distance, kind="stable")[-count:]] = True
    return found
