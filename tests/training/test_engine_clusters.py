"""Clusters and outliers against slow, obvious versions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taglens.errors import UsageError
from taglens.training.engine_clusters import cluster_count, k_means, outliers, seeds, squared_distances


def cloud(seed: int, n: int, width: int = 3) -> npt.NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=(n, width))


def slow_k_means(
    points: npt.NDArray[np.float64], start: list[int]
) -> tuple[list[int], list[float], list[npt.NDArray[np.float64]]]:
    """Lloyd's rounds with loops, from given seeds."""
    centres = [points[place].copy() for place in start]
    before: list[int] = []
    while True:
        nearest = [
            min(range(len(centres)), key=lambda c: (float(((p - centres[c]) ** 2).sum()), c)) for p in points
        ]
        if nearest == before:
            break
        before = nearest
        for c in range(len(centres)):
            own = [p for p, near in zip(points, nearest, strict=True) if near == c]
            if own:
                centres[c] = sum(own[1:], own[0]) / len(own)
    far = [float(np.linalg.norm(p - centres[c])) for p, c in zip(points, nearest, strict=True)]
    return nearest, far, centres


@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 6))
def test_clusters_are_those_of_the_slow_version(seed: int, n: int, count: int) -> None:
    points, count = cloud(seed, n), min(count, n)
    found = k_means(points, count, random=np.random.default_rng(seed))
    nearest, far, centres = slow_k_means(points, seeds(points, count, random=np.random.default_rng(seed)))
    assert found.nearest.tolist() == nearest
    np.testing.assert_allclose(found.distance, far, atol=1e-6)
    np.testing.assert_allclose(found.centres, centres, atol=1e-9)


@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(1, 6))
def test_seeds_are_different_points(seed: int, n: int, count: int) -> None:
    count = min(count, n)
    chosen = seeds(cloud(seed, n), count, random=np.random.default_rng(seed))
    assert len(set(chosen)) == len(chosen) == count
    same = seeds(np.zeros((n, 2)), count, random=np.random.default_rng(seed))
    assert len(set(same)) == count


def test_seeds_prefer_far_points_by_squared_distance() -> None:
    points = np.array([[0.0], [1.0], [3.0]])
    second = [
        tuple(chosen)
        for seed in range(1500)
        if (chosen := seeds(points, 2, random=np.random.default_rng(seed)))[0] == 0
    ]
    # From 0: squared distances 1 and 9, so that the far one is chosen nine times in ten.
    assert 0.86 < sum(pair[1] == 2 for pair in second) / len(second) < 0.94


def test_groups_far_apart_are_found() -> None:
    points = np.concatenate([cloud(1, 20) * 0.01 + place for place in (0, 5, 10)])
    found = k_means(points, 3, random=np.random.default_rng(0))
    assert [len(set(found.nearest[start : start + 20])) for start in (0, 20, 40)] == [1, 1, 1]
    assert len(set(found.nearest)) == 3


@given(st.integers(0, 10_000), st.integers(0, 60), st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.9]))
def test_outliers_are_the_farthest_share(seed: int, n: int, share: float) -> None:
    distance = np.random.default_rng(seed).integers(0, 5, n).astype(float)
    found = outliers(distance, share=share)
    assert found.sum() == int(round(n * share * 100) // 100)
    if found.any() and not found.all():
        assert distance[found].min() >= distance[~found].max()


def test_a_tenth_of_thirty_is_three() -> None:
    assert outliers(np.arange(30.0), share=0.1).sum() == 3
    assert outliers(np.zeros(10), share=0.1).tolist() == [False] * 9 + [True]


def test_count_of_centres_grows_with_the_points() -> None:
    counts = [cluster_count(n, per_cluster=50, most=8) for n in (1, 49, 50, 99, 100, 399, 400, 10_000)]
    assert counts == [1, 1, 1, 1, 2, 7, 8, 8]


def test_distances_are_squared_and_never_negative() -> None:
    points = cloud(3, 7) + 1e6
    found = squared_distances(points, points[:2])
    slow = [[float(((p - c) ** 2).sum()) for c in points[:2]] for p in points]
    assert (found >= 0).all()
    np.testing.assert_allclose(found, slow, atol=1e-2)


def test_what_cannot_be_clustered_is_refused() -> None:
    random = np.random.default_rng(0)
    with pytest.raises(UsageError, match="3 centres for 2 points"):
        k_means(np.zeros((2, 2)), 3, random=random)
    with pytest.raises(UsageError, match="not finite"):
        k_means(np.array([[np.nan, 0.0]]), 1, random=random)
    with pytest.raises(UsageError, match="share of outliers is 1"):
        outliers(np.zeros(3), share=1.0)
