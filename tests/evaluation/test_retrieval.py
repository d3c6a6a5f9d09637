"""Recall, its ties, lambda and re-ranking, each against a version that a reader can follow with a finger."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taglens.errors import UsageError
from taglens.evaluation.retrieval import (
    GRID,
    BothWays,
    Pairs,
    Recall,
    choose_weight,
    measure,
    ranks,
    rerank,
)

Array = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


@st.composite
def problems(draw: st.DrawFn) -> tuple[Array, Ids]:
    """Scores with many ties, and each picture with one to three texts in any order."""
    counts = draw(st.lists(st.integers(1, 3), min_size=1, max_size=6))
    owner = [picture for picture, count in enumerate(counts) for _ in range(count)]
    owner = draw(st.permutations(owner))
    values = st.sampled_from([-1.0, 0.0, 0.25, 0.5, 1.0])
    scores = draw(st.lists(values, min_size=len(counts) * len(owner), max_size=len(counts) * len(owner)))
    return np.array(scores, np.float32).reshape(len(counts), len(owner)), np.array(owner, np.int64)


def slow_order(scores: Array, right: list[bool]) -> list[int]:
    """Answers by falling score, of equals the wrong ones first."""
    return sorted(range(len(scores)), key=lambda each: (-scores[each], right[each]))


def slow_rank(scores: Array, right: list[bool]) -> int:
    for place, answer in enumerate(slow_order(scores, right), 1):
        if right[answer]:
            return place
    raise AssertionError


def slow_ranks(scores: Array, owner: Ids) -> tuple[list[int], list[int]]:
    by_picture = [slow_rank(row, [o == picture for o in owner]) for picture, row in enumerate(scores)]
    by_text = [
        slow_rank(scores[:, text], [picture == o for picture in range(len(scores))])
        for text, o in enumerate(owner)
    ]
    return by_picture, by_text


@given(problems())
def test_ranks_are_those_of_looking_one_by_one(problem: tuple[Array, Ids]) -> None:
    scores, owner = problem
    by_picture, by_text = ranks(scores, owner)
    assert (by_picture.tolist(), by_text.tolist()) == slow_ranks(scores, owner)


def test_recall_by_hand() -> None:
    found = Recall.of(np.array([1, 2, 5, 6, 11, 1]))
    assert found.to_dict() == {
        "R@1": pytest.approx(2 / 6),
        "R@5": pytest.approx(4 / 6),
        "R@10": pytest.approx(5 / 6),
        "median_rank": 3.5,
    }


def test_the_same_score_for_all_finds_nothing_first() -> None:
    """A model that says nothing must not look like one that knows."""
    owner = np.repeat(np.arange(20), 5)
    found = measure(np.zeros((20, 100), np.float32), owner)
    assert found.i2t.at == found.t2i.at == (0.0, 0.0, 0.0)
    assert (found.i2t.median_rank, found.t2i.median_rank) == (96, 20)


def test_knowing_all_finds_all() -> None:
    owner = np.array([1, 0, 2, 2])
    scores = (np.arange(3)[:, None] == owner).astype(np.float32)
    assert measure(scores, owner).mean == 1.0


def some(seed: int = 0) -> Pairs:
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(30), 2)
    own = np.arange(30)[:, None] == owner
    similarity = (rng.normal(size=own.shape) + 1.2 * own).astype(np.float32)
    shares = (rng.integers(0, 4, own.shape) / 3 * 0.6 + 0.3 * own).astype(np.float32)
    return Pairs(similarity, shares, owner)


def test_lambda_0_is_similarity_alone_exactly() -> None:
    pairs = some()
    assert np.array_equal(pairs.scores(0.0), pairs.similarity)
    assert measure(pairs.scores(0.0), pairs.owner) == measure(pairs.similarity, pairs.owner)
    assert np.allclose(pairs.scores(0.5), pairs.similarity + 0.5 * pairs.overlap)


def test_lambda_is_the_best_of_the_grid_and_of_equals_the_smallest() -> None:
    pairs = some()
    weight, table = choose_weight(pairs)
    slow = {
        each: measure(pairs.similarity + np.float32(each) * pairs.overlap, pairs.owner).mean for each in GRID
    }
    assert table == pytest.approx(slow)
    assert weight > 0 and slow[weight] == max(slow.values())
    assert all(slow[each] < slow[weight] for each in GRID if each < weight)
    blind = Pairs(pairs.similarity, np.zeros_like(pairs.overlap), pairs.owner)
    assert choose_weight(blind)[0] == 0.0, "tags that say nothing weigh nothing"
    assert choose_weight(blind, [0.7, 0.3])[0] == 0.3


def slow_rerank(scores: Array, owner: Ids, second: Array, top: int) -> tuple[list[int], list[int]]:
    def rank(first: Array, again: Array, right: list[bool]) -> int:
        order = slow_order(first, right)
        head = order[:top]
        head = [head[at] for at in slow_order(again[head], [right[each] for each in head])]
        return next(place for place, each in enumerate([*head, *order[top:]], 1) if right[each])

    by_picture = [rank(scores[n], second[n], [o == n for o in owner]) for n in range(len(scores))]
    by_text = [
        rank(scores[:, m], second[:, m], [n == o for n in range(len(scores))]) for m, o in enumerate(owner)
    ]
    return by_picture, by_text


@given(problems(), st.integers(1, 8), st.integers(0, 99))
def test_reranking_orders_the_first_anew_and_nothing_else(
    problem: tuple[Array, Ids], top: int, seed: int
) -> None:
    scores, owner = problem
    second = np.random.default_rng(seed).integers(0, 3, scores.shape).astype(np.float32)
    asked: list[tuple[int, int]] = []

    def ask(pairs: Ids, first: Array) -> Array:
        assert np.array_equal(first, scores[pairs[:, 0], pairs[:, 1]])
        assert np.array_equal(pairs[:, 0], np.sort(pairs[:, 0]))
        asked.extend(map(tuple, pairs.tolist()))
        found: Array = second[pairs[:, 0], pairs[:, 1]]
        return found

    found = rerank(scores, owner, ask, top=top)
    by_picture, by_text = slow_rerank(scores, owner, second, top)
    assert found == BothWays(Recall.of(np.array(by_picture)), Recall.of(np.array(by_text)))
    assert len(set(asked)) == len(asked) <= sum(scores.shape) * top


def test_reranking_by_the_same_scores_changes_nothing() -> None:
    pairs = some()
    assert rerank(pairs.similarity, pairs.owner, lambda _, first: first, top=7) == measure(
        pairs.similarity, pairs.owner
    )


def test_what_does_not_fit_is_refused() -> None:
    fine = some()
    for broken in (
        {"overlap": fine.overlap[:, 1:]},
        {"owner": fine.owner[1:]},
        {"similarity": fine.similarity[0]},
    ):
        with pytest.raises(UsageError, match="do not fit"):
            Pairs(**{"similarity": fine.similarity, "overlap": fine.overlap, "owner": fine.owner} | broken)
    with pytest.raises(UsageError, match="every picture must have a text"):
        Pairs(fine.similarity, fine.overlap, np.where(fine.owner == 3, 2, fine.owner))
    with pytest.raises(UsageError, match="must be finite"):
        Pairs(
            np.where(fine.similarity > 2, np.nan, fine.similarity).astype(np.float32),
            fine.overlap,
            fine.owner,
        )
    with pytest.raises(UsageError, match="give 1 or more"):
        rerank(fine.similarity, fine.owner, lambda _, first: first, top=0)
