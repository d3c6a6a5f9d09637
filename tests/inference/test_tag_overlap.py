"""Overlap of a text's tags with a picture's, against counting them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taglens.errors import MismatchError
from taglens.inference.tag_overlap import all_of, families, likely, overlap, recognised
from taglens.vocabulary import Entry, Vocabulary

VOCABULARY = Vocabulary(
    [
        Entry("thing", "object", threshold=0.9),
        Entry("animal", "object", threshold=0.5, parents=("object:thing",)),
        Entry("dog", "object", threshold=0.2, parents=("object:animal",)),
        Entry("ghost", "object", threshold=0.1, parents=("object:animal",), hidden=True),
        Entry("beach", "scene", threshold=0.6),
        Entry("wolf", "object", threshold=0.4, parents=("object:animal", "object:dog", "object:unknown")),
    ],
    name="o",
)
THING, ANIMAL, DOG, GHOST, BEACH, WOLF = range(6)
scores = st.lists(st.sampled_from([0.0, 0.15, 0.2, 0.45, 0.5, 0.7, 0.95]), min_size=6, max_size=6)


def test_families_follow_parents_and_leave_hidden_tags_out() -> None:
    assert families(VOCABULARY) == [
        [THING, ANIMAL, DOG, WOLF],
        [ANIMAL, DOG, WOLF],
        [DOG, WOLF],
        [],
        [BEACH],
        [WOLF],
    ]


def slow_shown(row: list[float]) -> set[int]:
    given = {VOCABULARY.position(tag.id) for tag in VOCABULARY.select(np.array(row, np.float32))}
    return VOCABULARY.with_parents(given)


@given(st.lists(scores, min_size=1, max_size=4), st.lists(st.sets(st.integers(0, 5)), max_size=4))
def test_the_share_of_a_texts_tags_that_are_given_or_implied(
    rows: list[list[float]], texts: list[set[int]]
) -> None:
    found = overlap(recognised(VOCABULARY, np.array(rows, np.float32)), texts)
    assert found.shape == (len(rows), len(texts)) and found.dtype == np.float32
    for picture, row in enumerate(rows):
        for text, tags in enumerate(texts):
            wanted = len(tags & slow_shown(row)) / len(tags) if tags else 0.0
            assert found[picture, text] == pytest.approx(wanted)


@given(scores)
def test_a_tag_is_as_likely_as_the_likeliest_that_implies_it(row: list[float]) -> None:
    found = likely(VOCABULARY, np.array([row], np.float32))[0]
    for column in range(6):
        family = [c for c in range(6) if c != GHOST and column in VOCABULARY.with_parents([c])]
        assert found[column] == pytest.approx(0.0 if column == GHOST else max(row[c] for c in family))
    mean = overlap(found[None], [{DOG, BEACH}])[0, 0]
    assert mean == pytest.approx((found[DOG] + found[BEACH]) / 2)


@given(st.lists(scores, min_size=1, max_size=3), st.lists(st.sets(st.integers(0, 5)), min_size=1, max_size=3))
def test_having_all_of_some_tags_is_the_root_of_their_product(
    rows: list[list[float]], texts: list[set[int]]
) -> None:
    sure = np.array(rows, np.float32)
    found = all_of(sure, texts)
    for picture, row in enumerate(rows):
        for text, tags in enumerate(texts):
            wanted = np.prod([row[tag] + 0.01 for tag in tags]) ** (1 / len(tags)) - 0.01 if tags else 0.0
            assert found[picture, text] == pytest.approx(wanted, abs=1e-5)


def test_scores_of_another_vocabulary_are_refused() -> None:
    for shown in (recognised, likely):
        with pytest.raises(MismatchError, match="do not fit"):
            shown(VOCABULARY, np.zeros((2, 5), np.float32))


def test_a_strict_vocabulary_wants_its_thresholds_exceeded() -> None:
    at = np.array([[0.0, 0.0, 0.2, 0.0, 0.6, 0.0]], np.float32)
    assert recognised(VOCABULARY, at)[0, [DOG, BEACH]].tolist() == [1.0, 1.0]
    strict = Vocabulary(VOCABULARY, name="o", strict=True)
    assert not recognised(strict, at).any()
