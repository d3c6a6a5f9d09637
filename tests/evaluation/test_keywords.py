"""Keyword queries: what is drawn, who is right, and the figures, against counting by hand."""

from __future__ import annotations

import numpy as np
import pytest

from taglens.errors import UsageError
from taglens.evaluation.keywords import Keywords, draw_keywords, measure_keywords
from taglens.evaluation.metrics import average_precision
from taglens.vocabulary import Entry, Vocabulary

VOCABULARY = Vocabulary(
    [
        Entry("animal", "object"),
        Entry("dog", "object", parents=("object:animal",)),
        Entry("cat", "object", parents=("object:animal",)),
        Entry("beach", "scene"),
        Entry("run", "action"),
        Entry("secret", "object", hidden=True),
    ],
    name="k",
)
ANIMAL, DOG, CAT, BEACH, RUN, SECRET = range(6)
SAID = [
    frozenset({DOG, BEACH, RUN}),
    frozenset({CAT}),
    frozenset({ANIMAL, BEACH, SECRET}),
    frozenset(),
    frozenset({DOG, SECRET}),
]


def test_queries_are_what_some_picture_says_and_truth_is_who_says_all() -> None:
    found = draw_keywords(VOCABULARY, SAID, most=50)
    assert [each.size for each in found] == [1, 2, 3], "no picture says four"
    for each in found:
        assert len(set(each.queries)) == len(each.queries)
        assert each.truth.shape == (len(SAID), len(each.queries))
        for number, query in enumerate(each.queries):
            assert len(query) == each.size and list(query) == sorted(query)
            assert any(set(query) <= tags for tags in SAID) and SECRET not in query
            for picture, tags in enumerate(SAID):
                implied = tags | ({ANIMAL} if tags & {DOG, CAT} else set())
                assert each.truth[picture, number] == (set(query) <= implied)
    assert {query for each in found[:1] for query in each.queries} == {
        (ANIMAL,),
        (DOG,),
        (CAT,),
        (BEACH,),
        (RUN,),
    }
    # By its parent, a picture of a dog is right for "animal".
    column = found[0].queries.index((ANIMAL,))
    assert found[0].truth[:, column].tolist() == [1, 1, 1, 0, 1]


def test_drawing_is_the_same_every_time_and_bounded() -> None:
    again = [draw_keywords(VOCABULARY, SAID, most=2) for _ in range(2)]
    assert [each.queries for each in again[0]] == [each.queries for each in again[1]]
    assert all(len(each.queries) <= 2 for each in again[0])
    assert draw_keywords(VOCABULARY, [frozenset(), frozenset({SECRET})]) == []


def test_what_every_picture_shows_is_no_question() -> None:
    found = draw_keywords(VOCABULARY, [frozenset({DOG}), frozenset({DOG, RUN})], sizes=[1])
    assert found[0].queries == ((RUN,),)


def test_figures_by_hand() -> None:
    truth = np.array([[1, 0], [0, 1], [1, 1]] + [[0, 0]] * 17, np.uint8)
    scores = np.random.default_rng(0).normal(size=truth.shape).astype(np.float32)
    row = measure_keywords(Keywords(1, ((0,), (1,)), truth), {"it": scores, "all": truth.astype(np.float32)})
    assert (row["queries"], row["right"]) == (2, 2.0)
    wanted = np.mean([average_precision(scores[:, q], truth[:, q]) for q in range(2)])
    assert row["mAP"] == {"it": pytest.approx(wanted), "all": 1.0}
    first = [sorted(range(20), key=lambda n: -scores[n, q])[:10] for q in range(2)]
    hits = np.mean([np.mean([truth[n, q] for n in rows]) for q, rows in enumerate(first)])
    assert row["P@10"] == {"it": pytest.approx(hits), "all": pytest.approx(0.2)}


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(UsageError, match="no method"):
        measure_keywords(Keywords(1, ((0,),), np.array([[1], [0]], np.uint8)), {})
